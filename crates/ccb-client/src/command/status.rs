//! `ccb status`: the daemon's health, and how the one before it ended.

use ccb_core::home::file;
use ccb_core::wire::Status;
use serde_json::Value;

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, display, output};

pub(super) fn run(context: &Context, json: bool) -> Result<u8, CliError> {
    let askd = Askd::here(context)?;
    // One that has crashed and stays down is told of, and not started just to show that it crashes again.
    if let Ok(None) = askd.find()
        && !askd.has_keeper()
        && let Some(last) = crashed(&askd)
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

/// Returns what the home says of the last daemon, if that crashed.
fn crashed(askd: &Askd) -> Option<Value> {
    let text = std::fs::read_to_string(askd.home.path(file::LAST)).ok()?;
    let last: Value = serde_json::from_str(&text).ok()?;
    (last["status"] == "crashed").then_some(last)
}
