//! `ccb attach`: this terminal becomes a view of the project's own session, and this process an instance of it.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use ccb_core::wire::{Beside, Session, Status};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use crate::connect::Askd;
use crate::error::{CliError, note};
use crate::instance::Instance;
use crate::pane::kept::{Kept, drain};
use crate::pane::terminal::Terminal;
use crate::{Context, exit, program, wake};

pub(super) fn run(context: &Context) -> Result<u8, CliError> {
    need_tmux(context)?;
    let askd = Askd::here(context)?;
    let session = |askd: &Askd| {
        let health = askd.call(&Status {})?;
        health.attach.ok_or_else(|| {
            CliError::new("no session of its own shows this project's agents").hint("`ccb` starts the agents")
        })
    };
    session(&askd)?;
    with_instance(context, &askd, || session(&askd).map(Some))
}

/// Fails unless there is a tmux.
pub(super) fn need_tmux(context: &Context) -> Result<(), CliError> {
    program::on_path(&context.environment, "tmux").map(drop).ok_or_else(|| {
        CliError::new("tmux is not on PATH, and the agents run in its panes")
            .hint("install it: `sudo apt install tmux`, `sudo dnf install tmux` or `brew install tmux`")
    })
}

/// Shows the session that `find` finds for as long as the user wants, as an instance of the project from before it is
/// looked for until it has been shown. What the instance has to tell is printed when tmux has ended.
pub(super) fn with_instance(
    context: &Context,
    askd: &Askd,
    find: impl FnOnce() -> Result<Option<Session>, CliError>,
) -> Result<u8, CliError> {
    let (instance, greeting) = Instance::attach(askd, context.environment.truthy("CCB_FORCE_REBIND"))?;
    if let Some(text) = greeting {
        note(&text);
    }
    let shown = find().and_then(|session| session.map_or(Ok(exit::OK), |session| show(&session)));
    for text in instance.detach() {
        note(&text);
    }
    shown
}

/// Goes to a pane of the tmux server that we are in.
pub(super) fn focus(beside: &Beside) -> Result<(), CliError> {
    let pane = beside.pane.as_str();
    let mut tmux = Command::new("tmux");
    tmux.args(["-S", &beside.socket, "select-window", "-t", pane, ";", "select-pane", "-t", pane]);
    tmux.args([";", "switch-client", "-t", pane]);
    // A server whose client is only in control mode, or has just gone, has nothing to switch.
    tmux.output().map(drop).map_err(|error| CliError::new(format!("cannot run tmux: {error}")))
}

/// Shows the session in this terminal until the user leaves it, it ends, or we are told to end.
fn show(session: &Session) -> Result<u8, CliError> {
    let cannot = |error: io::Error| CliError::new(format!("cannot run tmux: {error}"));
    let children = wake::signal(&[SIGCHLD]).map_err(cannot)?;
    let end = wake::signal(&[SIGHUP, SIGINT, SIGTERM]).map_err(cannot)?;
    let terminal = Terminal::remember();
    // A session inside a session is what was asked for, if we are in one; tmux refuses it while TMUX is set.
    let mut command = Command::new(program::own()?);
    // Even if we are killed: a tmux that is left behind would share the terminal with the shell.
    command.arg("guard").arg(std::process::id().to_string()).arg("--");
    command.args(["tmux", "-S", &session.socket, "attach", "-t", &session.session]).env_remove("TMUX");
    let mut tmux = Kept::new(false);
    tmux.start(command).map_err(cannot)?;
    loop {
        if let Some(status) = tmux.ended() {
            return told(status);
        }
        tmux.be_suspended_with();
        let woken = wake::any(&[children.as_fd(), end.as_fd()], None).map_err(cannot)?;
        drain(&children);
        if woken.last() == Some(&true) {
            tmux.end(&children);
            terminal.restore();
            return Ok(exit::OK);
        }
    }
}

/// Returns how tmux ended, as our own end.
fn told(status: ExitStatus) -> Result<u8, CliError> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(exit::OK),
        // tmux has said why.
        (Some(code), _) => Err(CliError::new(format!("tmux ended with exit code {code}"))
            .hint("`ccb attach` shows the agents again, `ccb` starts those that have ended")),
        (None, signal) => Err(CliError::new(format!("tmux was ended by signal {}", signal.unwrap_or_default()))
            .hint("the agents are not touched by that; `ccb attach` shows them again")),
    }
}
