//! `ccb kill`: ends panes, agents and the daemon. Never starts one to do so.

use std::time::Duration;

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
        output::print("nothing is running")?;
        return Ok(exit::OK);
    };
    let by = askd.caller.clone().unwrap_or_else(|| "ccb kill".to_owned());
    match connection.call_within(&Shutdown { panes: true, by, unless_owned: false }, Patience::of(END_LIMIT)) {
        // A daemon that has gone before its answer arrived has done what was asked.
        Ok(_) | Err(CallError::Lost(_)) => connection.wait_for_end(Patience::of(END_LIMIT)),
        Err(CallError::Refusal(refusal)) => return Err(refusal.into()),
    }
    output::print("stopped")?;
    Ok(exit::OK)
}
