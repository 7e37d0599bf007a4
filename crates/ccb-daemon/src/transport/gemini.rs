//! Gemini CLI, driven by paste: hooked through an extension in a private overlay of its home, or watched.
//!
//! Its hooks say when to look, its transcript what happened. Where a turn ends well neither says so for sure: a record
//! before a tool call looks like a last one, no hook is called when a tool is cancelled, and one may be lost. So the
//! end is told only once its screen shows no turn.

mod launch;
mod overlay;
mod records;

use ccb_core::provider::{Provider, Rung};
use ccb_core::screen::Look;
use ccb_core::wire::{Code, Refusal};

use self::records::Gemini;
use super::ladder::{Launching, Ready, Way, always};
use super::watched;
use crate::tmux::Key;

/// The ways to drive Gemini.
pub(crate) const WAYS: &[Way] = &[
    Way { provider: Provider::Gemini, rung: Rung::Hooked, fits: always, asks: false, prepare },
    Way { provider: Provider::Gemini, rung: Rung::Watched, fits: always, asks: false, prepare },
];

/// Prepares a launch of Gemini on either rung.
fn prepare(launching: &Launching) -> Result<Ready, Refusal> {
    let prepared = launch::prepare(launching)
        .map_err(|error| Refusal::new(Code::Launch, format!("cannot prepare the launch of Gemini: {error}")))?;
    let (launch, env) = (prepared.launch, prepared.env);
    let session = launch.session.clone();
    let records = Gemini::new(launch.records.clone(), session.clone());
    let ready = watched::ready(launching, launch, records, Look::Gemini, &[Key::Escape]);
    Ok(Ready { env, session: Some(session), ..ready })
}
