//! `ccb attach`: this terminal becomes a view of the project's own session.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use ccb_core::wire::{Attach, Status};

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, program};

pub(super) fn run(context: &Context) -> Result<u8, CliError> {
    need_tmux(context)?;
    let health = Askd::here(context)?.call(&Status {})?;
    let attach = health.attach.ok_or_else(|| {
        CliError::new("no session of its own shows this project's agents").hint("`ccb` starts the agents")
    })?;
    Err(become_tmux(&attach))
}

/// Fails unless there is a tmux.
pub(super) fn need_tmux(context: &Context) -> Result<(), CliError> {
    program::on_path(&context.environment, "tmux").map(drop).ok_or_else(|| {
        CliError::new("tmux is not on PATH, and the agents run in its panes")
            .hint("install it: `sudo apt install tmux`, `sudo dnf install tmux` or `brew install tmux`")
    })
}

/// Turns this process into tmux; returns only if that fails.
pub(super) fn become_tmux(attach: &Attach) -> CliError {
    // A session inside a session is what was asked for, if we are in one; tmux refuses it while TMUX is set.
    let mut tmux = Command::new("tmux");
    tmux.arg("-S").arg(&attach.socket).args(["attach", "-t", &attach.session]).env_remove("TMUX");
    let error = tmux.exec();
    CliError::new(format!("cannot run tmux: {error}"))
}
