//! Gemini CLI, driven by paste: hooked through an extension in a private overlay of its home, or watched.
//!
//! Its hooks say when to look, its transcript what happened. Where a turn ends well neither says so for sure: a record
//! before a tool call looks like a last one, no hook is called when a tool is cancelled, and one may be lost. So the
//! end is told only once its screen shows no turn.

mod launch;
mod overlay;
mod records;

use ccb_core::config::Completion;
use ccb_core::provider::{Provider, Rung};
use ccb_core::screen::Look;
use ccb_core::wire::{Code, Refusal};

use self::records::Gemini;
use super::ladder::{Launching, Ready, Way, always};
use super::watched::{self, Driven};
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
    let (argv, session, anew) = (launch.argv.clone(), Some(launch.session.clone()), Some(launch.clone()));
    let driven = Driven {
        files: launching.files.clone(),
        records: Box::new(Gemini::new(launch.records.clone(), launch.session.clone())),
        look: Some(Look::Gemini),
        rung: launching.rung,
        completion: Completion::Record,
        idle: None,
        interrupt: &[Key::Escape],
        launch: Some(launch),
    };
    let drive = Box::new(|line, agents| Box::pin(watched::run(line, driven, agents)) as _);
    Ok(Ready { env, session, anew, ..Ready::tui(argv, drive) })
}
