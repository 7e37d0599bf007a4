//! The processes that share the pane's process group with its runner: the agent's program and what that has started
//! without a terminal of its own. Gemini is two processes, of which the first ignores TERM, and outlives its terminal.
//!
//! A watcher in the same group ends them when the runner dies by `kill -9`. As long as it lives, the group's number can
//! be nobody else's. Elsewhere than on Linux only direct children are ended.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgrp, getpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::wake::{self, Patience};

/// How long they may take to end after TERM.
const LIMIT: Duration = Duration::from_secs(2);

/// The word by which `ccb guard` is the watcher.
pub(crate) const WATCH: &str = "--group";

/// The word by which `ccb guard` is the watcher of what a viewer has started.
pub(crate) const MARKED: &str = "--marked";

/// The variable that marks a viewer's program, through whatever wrapper that is started.
const MARK: &str = "CCB_VIEWED_BY";

/// The program of a viewer wherever it is: a wrapper may start the real one in a process group of its own.
///
/// What that starts for its user, a server for instance, has other arguments, and is not ours to end.
#[derive(Debug)]
pub(crate) struct Marked {
    mark: String,
    args: Vec<String>,
    /// Ends them when this process dies by whatever.
    _watcher: Option<Child>,
}

impl Marked {
    /// Returns what marks and finds the program with these arguments, with a watcher of its own group.
    pub(crate) fn new(program: &Path, args: &[String]) -> Self {
        let mark = format!("{}.{:x}", std::process::id(), RandomState::new().build_hasher().finish());
        let mut watcher = Command::new(program);
        watcher.args(["guard", MARKED, &mark]).args(args).env_clear().process_group(0);
        watcher.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { mark, args: args.to_vec(), _watcher: watcher.spawn().ok() }
    }

    /// Marks what `command` starts.
    pub(crate) fn mark(&self, command: &mut Command) {
        command.env(MARK, &self.mark);
    }

    /// Kills all that is left of it.
    pub(crate) fn kill(&self) {
        kill_marked(&self.mark, &self.args);
    }
}

/// Waits until the viewer at the other end of the standard input is gone, and kills what is left of its program.
pub(crate) fn watch_marked(mark: &str, args: &[String]) -> io::Result<()> {
    let _ignored = wake::signal(&[SIGHUP, SIGTERM, SIGINT, SIGQUIT])?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    kill_marked(mark, args);
    Ok(())
}

/// Kills until there is none: one may just be starting another.
fn kill_marked(mark: &str, args: &[String]) {
    let mark = format!("{MARK}={mark}\0").into_bytes();
    let args: Vec<u8> = args.iter().flat_map(|word| word.bytes().chain([0])).collect();
    let has = |file: String, words: &[u8]| {
        fs::read(file).is_ok_and(|bytes| bytes.windows(words.len()).any(|window| window == words))
    };
    let is_it = |pid: i32| has(format!("/proc/{pid}/environ"), &mark) && has(format!("/proc/{pid}/cmdline"), &args);
    let patience = Patience::of(LIMIT);
    loop {
        let found = living(is_it);
        if found.is_empty() || patience.is_over() {
            return;
        }
        signal_all(&found, Signal::KILL);
        for process in &found {
            let _ended = wake::readable(process.as_fd(), patience);
        }
    }
}

/// The pane's process group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// The watcher, which ends with its standard input.
    watcher: Option<Child>,
}

impl Group {
    /// Returns the group that this process leads, with a watcher; without one, and with nobody in it, if it leads none.
    pub(crate) fn lead(program: &Path) -> Self {
        if getpgrp() != getpid() {
            return Self::default();
        }
        let mut watcher = Command::new(program);
        watcher.args(["guard", WATCH]).env_clear();
        watcher.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { watcher: watcher.spawn().ok() }
    }

    /// Ends all others in the group: TERM, two seconds, KILL. Those of `others` that have ended by then are passed over.
    pub(crate) fn end(&self) {
        if let Some(watcher) = &self.watcher {
            end_others(&[getpid(), Pid::from_child(watcher)]);
        }
    }

    /// Asks all others in the group to end.
    pub(crate) fn ask(&self) {
        if let Some(watcher) = &self.watcher {
            signal_all(&others(&[getpid(), Pid::from_child(watcher)]), Signal::TERM);
        }
    }
}

/// Waits until the runner at the other end of the standard input is gone, and ends its group.
pub(crate) fn watch() -> io::Result<()> {
    let _ignored = wake::signal(&[SIGHUP, SIGTERM, SIGINT, SIGQUIT])?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    end_others(&[getpid()]);
    Ok(())
}

fn end_others(besides: &[Pid]) {
    let found = others(besides);
    signal_all(&found, Signal::TERM);
    let patience = Patience::of(LIMIT);
    let mut left: Vec<&OwnedFd> = found.iter().collect();
    while !left.is_empty() && !patience.is_over() {
        let fds: Vec<_> = left.iter().map(|process| process.as_fd()).collect();
        let Ok(ended) = wake::any(&fds, patience.until) else { break };
        left = left.into_iter().zip(ended).filter(|(_, ended)| !ended).map(|(process, _)| process).collect();
    }
    // Whom they have started meanwhile too.
    signal_all(&others(besides), Signal::KILL);
}

fn signal_all(processes: &[OwnedFd], signal: Signal) {
    for process in processes {
        let _gone = send(process, signal);
    }
}

/// Returns the living processes of our group.
fn others(besides: &[Pid]) -> Vec<OwnedFd> {
    let own = getpgrp().as_raw_nonzero().get();
    let besides: Vec<i32> = besides.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    living(|pid| !besides.contains(&pid) && group_of(pid) == Some(own))
}

/// Returns the processes that are such: each is looked at once more after it is held.
#[cfg(target_os = "linux")]
fn living(is_it: impl Fn(i32) -> bool) -> Vec<OwnedFd> {
    use rustix::process::{PidfdFlags, pidfd_open};

    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let candidates = numbers.filter(|number| is_it(*number)).filter_map(Pid::from_raw);
    let held = candidates.filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)));
    held.filter(|(pid, _)| is_it(pid.as_raw_nonzero().get())).map(|(_, process)| process).collect()
}

#[cfg(target_os = "linux")]
fn send(process: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
    rustix::process::pidfd_send_signal(process, signal)
}

/// Returns the process group of a process that is no zombie.
fn group_of(number: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    (fields.next()? != "Z").then(|| fields.nth(1)?.parse().ok()).flatten()
}

#[cfg(not(target_os = "linux"))]
fn living(_: impl Fn(i32) -> bool) -> Vec<OwnedFd> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn send(_: &OwnedFd, _: Signal) -> rustix::io::Result<()> {
    Ok(())
}
