//! `ccb attach`: this terminal becomes a view of the project's own session, and this process an instance of it.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use ccb_core::wire::{Beside, Session, Status};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use crate::connect::Askd;
use crate::error::{CliError, note};
use crate::instance::Instance;
use crate::pane::kept::drain;
use crate::pane::terminal::Terminal;
use crate::wake::{self, Patience, readable};
use crate::{Context, exit, program};

/// How long tmux may take to give the terminal back once it is told to end.
const END_LIMIT: Duration = Duration::from_secs(2);

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
    greeting.iter().for_each(|text| note(text));
    let shown = find().and_then(|session| session.map_or(Ok(exit::OK), |session| show(&session)));
    instance.detach().iter().for_each(|text| note(text));
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
    let mut tmux = Command::new("tmux");
    tmux.arg("-S").arg(&session.socket).args(["attach", "-t", &session.session]).env_remove("TMUX");
    let mut shown = Shown(tmux.spawn().map_err(cannot)?);
    loop {
        if let Some(status) = shown.ended().map_err(cannot)? {
            return told(status);
        }
        let woken = wake::any(&[std::os::fd::AsFd::as_fd(&children), std::os::fd::AsFd::as_fd(&end)], None);
        drain(&children);
        if woken.map_err(cannot)?.last() == Some(&true) {
            shown.end(&children, &terminal);
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

/// The tmux that has our terminal.
struct Shown(Child);

impl Shown {
    /// Returns how it ended, if it has. If the user has suspended it, we are suspended too: the shell waits for us.
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let stopped = |id| waitid(WaitId::Pid(id), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        if self.id().is_some_and(|id| matches!(stopped(id), Ok(Some(_)))) {
            kill_process(getpid(), Signal::STOP)?;
            self.signal(Signal::CONT);
        }
        self.0.try_wait()
    }

    /// Has it give the terminal back.
    fn end(&mut self, children: &std::os::unix::net::UnixStream, terminal: &Terminal) {
        let patience = Patience::of(END_LIMIT);
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        while matches!(self.0.try_wait(), Ok(None)) && !patience.is_over() {
            let _ = readable(std::os::fd::AsFd::as_fd(children), patience);
            drain(children);
        }
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
            terminal.restore();
        }
    }

    fn id(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.0.id()).ok()?)
    }

    /// Sends a signal; it has not been waited for, so its number is its own.
    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id() {
            let _ = kill_process(id, signal);
        }
    }
}
