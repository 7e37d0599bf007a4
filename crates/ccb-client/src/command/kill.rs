//! `ccb kill`: ends panes, agents and the daemon. Never starts one to do so.

use std::io::ErrorKind;
use std::time::Duration;

use ccb_core::home::file;
use ccb_core::wire::Shutdown;

use crate::connect::Askd;
use crate::connection::CallError;
use crate::error::CliError;
use crate::wake::Patience;
use crate::{Context, exit, output};

/// How long the daemon may take to go after it has said that it goes.
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// As in CCB 5.2; nothing asks back here
    #[arg(short, long, hide = true)]
    force: bool,
    /// As in CCB 5.2; nothing asks back here
    #[arg(short, long, hide = true)]
    yes: bool,
}

pub(super) fn run(context: &Context, _options: &Options) -> Result<u8, CliError> {
    let askd = Askd::here(context)?;
    let Some(mut connection) = askd.find().map_err(|error| askd.explain(error))? else {
        if askd.has_keeper() {
            return Err(
                CliError::new("askd is just being started again, and cannot be told to end").hint("`ccb kill` again")
            );
        }
        output::print("nothing is running")?;
        return Ok(exit::OK);
    };
    let by = askd.caller.clone().unwrap_or_else(|| "ccb kill".to_owned());
    match connection.call_within(&Shutdown { panes: true, by, unless_owned: false }, Patience::of(END_LIMIT)) {
        // A daemon that has gone before its answer arrived has done what was asked.
        Ok(_) => {}
        Err(CallError::Lost(why)) if why.kind() != ErrorKind::TimedOut => {}
        Err(CallError::Lost(_)) => return Err(goes_on(&askd)),
        Err(CallError::Refusal(refusal)) => return Err(refusal.into()),
    }
    if !connection.wait_for_end(Patience::of(END_LIMIT)) {
        return Err(goes_on(&askd));
    }
    output::print("stopped")?;
    Ok(exit::OK)
}

/// askd was told to end, and has not.
fn goes_on(askd: &Askd) -> CliError {
    let message = format!("askd was told to end, and has not done so within {} s", END_LIMIT.as_secs());
    let hint = format!("`ccb status` tells what holds it up; its log is {}", askd.home.path(file::LOG).display());
    CliError::new(message).hint(hint)
}
