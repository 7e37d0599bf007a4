//! A process that a runner keeps: started again when it ends, and ended with everything it has started.
//!
//! Each is started from the runner's main thread through `ccb guard`, so that the kernel ends it when the
//! runner dies: that signal follows the parent's *thread*.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, kill_process_group, waitid};

use crate::wake::{Pace, Patience, readable};

/// A life that is shorter than this is a failed start.
const LIFE: Duration = Duration::from_secs(5);

/// How many failed starts in a row are enough.
const SHORT_LIVES: u32 = 5;

/// How long a process may take to end after TERM.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A kept process, running or not.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Whether it leads a process group of its own, which ends with it.
    group: bool,
    child: Option<Child>,
    started: Instant,
    pace: Pace,
    short_lives: u32,
    again: Option<Instant>,
}

impl Kept {
    pub(crate) fn new(group: bool) -> Self {
        let pace = Pace::new(Duration::from_millis(100), LIFE);
        Self { group, child: None, started: Instant::now(), pace, short_lives: 0, again: None }
    }

    /// Starts it and returns its process id.
    pub(crate) fn start(&mut self, mut command: Command) -> io::Result<u32> {
        if self.group {
            command.process_group(0);
        }
        self.again = None;
        self.started = Instant::now();
        let child = command.spawn().inspect_err(|_| self.short_lives += 1)?;
        let pid = child.id();
        self.child = Some(child);
        Ok(pid)
    }

    /// Returns the pipes of its standard input and output, once, where it was started with such.
    pub(crate) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        let child = self.child.as_mut()?;
        child.stdin.take().zip(child.stdout.take())
    }

    /// Returns the process id, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns whether it runs or will be started again.
    pub(crate) fn is_kept(&self) -> bool {
        self.child.is_some() || self.again.is_some()
    }

    /// Plans its next start.
    pub(crate) fn plan(&mut self) {
        self.again = Some(Instant::now() + self.pace.pause());
    }

    /// Forgets failed starts.
    pub(crate) fn forgive(&mut self) {
        self.pace.reset();
        self.short_lives = 0;
    }

    /// Returns when its next start is due, if one is planned.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Returns whether its next start is due now.
    pub(crate) fn is_due(&self) -> bool {
        self.again.is_some_and(|at| at <= Instant::now())
    }

    /// Returns whether it has failed to live too often in a row.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.short_lives >= SHORT_LIVES
    }

    /// Returns how it ended, once, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if !self.has_exited() {
            return None;
        }
        let status = self.collect();
        if self.started.elapsed() >= LIFE {
            self.forgive();
        } else {
            self.short_lives += 1;
        }
        status
    }

    /// If the user has suspended it, suspends us too until we are to go on: the shell waits for us.
    pub(crate) fn be_suspended_with(&self) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        if self.id().is_some_and(|id| matches!(waitid(WaitId::Pid(id), options), Ok(Some(_)))) {
            let _ = kill_process(getpid(), Signal::STOP);
            self.signal(Signal::CONT);
        }
    }

    /// Ends it: TERM, two seconds, KILL.
    pub(crate) fn end(&mut self, children: &UnixStream) {
        end_all(&mut [self], children);
    }

    /// Kills it; it has ended soon.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn id(&self) -> Option<Pid> {
        self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
    }

    /// Returns whether it has exited; its process id stays taken until it is collected.
    fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.id().is_some_and(|id| !matches!(waitid(WaitId::Pid(id), options), Ok(None)))
    }

    fn collect(&mut self) -> Option<ExitStatus> {
        if self.group {
            // While its leader is not collected, the group's number can be nobody else's.
            self.signal(Signal::KILL);
        }
        self.child.take().and_then(|mut child| child.wait().ok())
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id() {
            let _ = if self.group { kill_process_group(id, signal) } else { kill_process(id, signal) };
        }
    }
}

/// Ends several at once. `children` can be read whenever a child process has changed.
pub(crate) fn end_all(kept: &mut [&mut Kept], children: &UnixStream) {
    let patience = Patience::of(END_LIMIT);
    for one in kept.iter_mut() {
        one.again = None;
        one.signal(Signal::TERM);
    }
    while kept.iter().any(|one| one.child.is_some() && !one.has_exited()) && !patience.is_over() {
        if readable(children.as_fd(), patience).is_err() {
            break;
        }
        drain(children);
    }
    for one in kept.iter_mut() {
        one.signal(Signal::KILL);
        one.collect();
    }
}

/// Takes what a signal has left in its descriptor.
pub(crate) fn drain(mut signal: &UnixStream) {
    use std::io::Read as _;
    let mut bytes = [0; 256];
    while signal.read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
}

/// Returns how a process ended, in words.
pub(crate) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("an unknown one");
            format!("killed by signal {signal} ({name})")
        }
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::consts::SIGCHLD;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn wait_for_end(kept: &mut Kept, children: &UnixStream) -> ExitStatus {
        loop {
            drain(children);
            if let Some(status) = kept.ended() {
                return status;
            }
            readable(children.as_fd(), Patience::of(Duration::from_secs(20))).unwrap();
        }
    }

    #[test]
    fn failed_starts_are_counted_and_forgiven() {
        let children = crate::wake::signal(&[SIGCHLD]).unwrap();
        let mut kept = Kept::new(false);
        for life in 1..=SHORT_LIVES {
            assert!(!kept.is_hopeless(), "{life}");
            kept.start(shell("exit 3")).unwrap();
            assert_eq!(how(wait_for_end(&mut kept, &children)), "exited with status 3");
        }
        assert!(kept.is_hopeless() && !kept.is_kept());
        kept.forgive();
        kept.plan();
        assert!(!kept.is_hopeless() && kept.is_kept() && kept.due().is_some());
        assert!(kept.start(Command::new("/no/such/program")).is_err());
    }

    #[test]
    fn one_that_ignores_term_is_killed_with_its_group() {
        let children = crate::wake::signal(&[SIGCHLD]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut kept = Kept::new(true);
        let script = format!("trap '' TERM; sleep 600 & echo $! > {}; wait; wait", file.display());
        kept.start(shell(&script)).unwrap();
        let pid = || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
        while pid().is_none() {
            std::thread::yield_now();
        }
        let sleeper = Pid::from_raw(pid().unwrap()).unwrap();
        let began = Instant::now();
        kept.end(&children);
        assert!(began.elapsed() >= END_LIMIT && kept.pid().is_none());
        // The sleeper is nobody's child now; it is gone or a zombie until init takes it. A killed process that
        // waits for its turn on a busy machine still counts as running.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", sleeper.as_raw_nonzero())).unwrap_or_default();
        let ended = |state: &str| state.is_empty() || state.contains(") Z ") || state.contains(") X ");
        let began = Instant::now();
        while !ended(&stat()) && began.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let state = stat();
        assert!(ended(&state), "{state}");
    }
}
