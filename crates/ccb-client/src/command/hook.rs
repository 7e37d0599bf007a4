//! `ccb hook <agent> <project>`: hands askd what an agent's hook was called for.
//!
//! The agent waits for it: it takes milliseconds, starts nothing, says nothing, and never fails. What it cannot
//! tell, the agent's records tell a little later.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::time::Duration;

use ccb_core::provider::hook;
use ccb_core::wire::{Hook, LINE_LIMIT};

use crate::connect::Askd;
use crate::wake::Patience;
use crate::{Context, exit, project};

/// How long askd may take.
const LIMIT: Duration = Duration::from_millis(250);

pub(super) fn run(context: &Context, args: &[OsString]) -> u8 {
    let _untold = tell(context, args);
    exit::OK
}

/// Tells askd; none if that cannot be done.
fn tell(context: &Context, args: &[OsString]) -> Option<()> {
    let [agent, dir] = args else { return None };
    let mut payload = Vec::new();
    // Whatever becomes of it, it is read: a writer whose pipe breaks may call that an error.
    io::stdin().lock().take(LINE_LIMIT as u64).read_to_end(&mut payload).ok()?;
    let hook = hook::hook(&serde_json::from_slice(&payload).ok()?)?;
    let place = project::place(context, dir.as_ref()).ok()?;
    let askd = Askd::of(context, &place, "hook").ok()?;
    let mut connection = askd.find_at_once(LIMIT)?;
    let call = Hook { agent: agent.to_str()?.to_owned(), hook };
    connection.call_within(&call, Patience::of(LIMIT)).ok().map(drop)
}
