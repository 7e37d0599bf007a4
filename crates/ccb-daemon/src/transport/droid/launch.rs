//! How Droid and its viewer are started.
//!
//! Nothing of the user's is written: what Droid is told about the others is in a file of the home, and no key is given
//! that the user has not set. Droid reads MCP servers from the user's or the project's own files only, so it has our
//! commands in its shell, which no sandbox forbids.

use ccb_core::provider::{Provider, Rung};
use ccb_core::wire::{Code, Refusal};

use super::Place;
use super::hooked;
use crate::files::write_private;
use crate::transport::Launch;
use crate::transport::ladder::{Launching, Probe, Ready, Way};

/// The ways to drive Droid.
pub(crate) const WAYS: &[Way] = &[
    Way {
        provider: Provider::Droid,
        rung: Rung::Joined,
        fits: |probe| Box::pin(can_be_joined(probe)),
        asks: false,
        prepare: joined,
    },
    Way {
        provider: Provider::Droid,
        rung: Rung::Hooked,
        fits: |probe| Box::pin(hooked::fits(probe)),
        asks: false,
        prepare: hooked::prepare,
    },
    Way {
        provider: Provider::Droid,
        rung: Rung::Watched,
        fits: |probe| Box::pin(hooked::fits(probe)),
        asks: false,
        prepare: hooked::prepare,
    },
];

/// Says why the installed Droid cannot be joined: an old one does not speak over its standard input.
pub(crate) async fn can_be_joined(probe: &Probe<'_>) -> Result<(), String> {
    if probe.says(&["exec", "--help"]).await?.contains("stream-jsonrpc") {
        return Ok(());
    }
    Err("its `droid exec` has no stream JSON-RPC; Droid 0.215 has".into())
}

/// Prepares a launch on the joined rung: the viewer is what the pane shows.
pub(crate) fn joined(launching: &Launching) -> Result<Ready, Refusal> {
    let Launching { agent, files, .. } = launching;
    let words = files.path(&format!("run/{agent}.words"));
    write_private(&words, launching.words.as_bytes())
        .map_err(|error| Refusal::new(Code::Launch, format!("cannot prepare the launch of Droid: {error}")))?;
    let before = [launching.mcp.program.clone(), "view".into(), agent.to_string()];
    let mut after = vec!["--socket".to_owned(), files.path(&format!("run/{agent}.sock")).display().to_string()];
    if launching.auto {
        after.push("--auto".into());
    }
    after.extend(["--".into(), launching.program.clone()]);
    after.extend(["exec", "--input-format", "stream-jsonrpc", "--output-format", "stream-jsonrpc"].map(str::to_owned));
    after.extend(["--append-system-prompt-file".into(), words.display().to_string()]);
    after.extend(launching.config.args.iter().cloned());
    let session = launching.session.clone().filter(|session| !session.is_empty());
    let resume = (before.iter().cloned().chain(["--session".into()]).collect(), after.clone());
    let argv = before.into_iter().chain(after).collect();
    let mut launch = Launch { records: words, session: session.clone().unwrap_or_default(), argv, resume };
    if let Some(session) = session {
        launch.argv = launch.resume(&session);
    }
    let argv = launch.argv.clone();
    let place = Place { reach: files.socket(&format!("run/{agent}.sock")), launch: launch.clone() };
    let drive = Box::new(|line, agents| Box::pin(super::run(line, place, agents)) as _);
    Ok(Ready { anew: Some(launch), ..Ready::tui(argv, drive) })
}
