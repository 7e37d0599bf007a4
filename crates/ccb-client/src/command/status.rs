//! `ccb status`: the daemon's health, and how the one before it ended.

use ccb_core::home::file;
use ccb_core::wire::Status;

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, display, output};

pub(super) fn run(context: &Context, json: bool) -> Result<u8, CliError> {
    let askd = Askd::here(context)?;
    // One that has crashed and stays down is told of, and not started just to show that it crashes again.
    if let Ok(None) = askd.find()
        && !askd.has_keeper()
        && let last = askd.written(file::LAST)
        && last["status"] == "crashed"
    {
        if json {
            output::print_json(&last)?;
        }
        let why =
            ["breaker", "exit_reason"].iter().find_map(|key| last[*key].as_str()).unwrap_or("its cause is not known");
        let hint = "the next request starts it again; `ccb logs` shows more";
        return Err(CliError::new(format!("no askd runs; the last one crashed: {why}")).hint(hint));
    }
    let health = askd.call(&Status {})?;
    output::show(json, &health, display::health)
}
