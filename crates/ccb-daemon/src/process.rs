//! Which process is which: the only module that looks at pids.
//!
//! A number alone is never a process: it is reused. An [`Identity`] is the pid with the moment at which the
//! kernel started it and the boot that this was in, and every question and every signal is about that.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use rustix::io::Errno;
pub use rustix::process::Signal;
use rustix::process::{Pid, getpid, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// A process that is told apart from any other of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub start: u64,
    /// The boot that this was in.
    pub boot: String,
}

/// What the system says of a process.
#[derive(Clone, Copy, Debug)]
struct Stat {
    state: char,
    parent: u32,
    start: u64,
}

impl Identity {
    /// Returns the identity of the process that has this number now; none if there is none.
    ///
    /// A zombie has an identity, but [is not alive](Self::is_alive). One that we may not look at is alive; that its
    /// number is not reused cannot be told then but by [watching](Self::watch) it.
    pub fn of(pid: u32) -> Option<Self> {
        let start = match system::stat(pid) {
            Some(stat) => stat.start,
            None if exists(pid) => 0,
            None => return None,
        };
        Some(Self { pid, start, boot: system::boot().to_owned() })
    }

    /// Returns the identity of this process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Returns whether the process still runs: the same start, the same boot, and not a zombie.
    ///
    /// A process that we may not look at is alive: EPERM is said of what exists.
    pub fn is_alive(&self) -> bool {
        match self.stat() {
            Some(stat) => !matches!(stat.state, 'Z' | 'X' | 'x'),
            None => self.boot == system::boot() && system::stat(self.pid).is_none() && exists(self.pid),
        }
    }

    /// Returns whether the process is stopped, by SIGSTOP or by its terminal's suspend key.
    pub fn is_stopped(&self) -> bool {
        self.stat().is_some_and(|stat| matches!(stat.state, 'T' | 't'))
    }

    /// Returns a descriptor that becomes readable when the process is dead.
    ///
    /// [`NotFound`](io::ErrorKind::NotFound) if it is gone already and another has its number or none has,
    /// [`Unsupported`](io::ErrorKind::Unsupported) where the system has no such descriptors.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        let opened = system::open(number(self.pid)?)?;
        // Verified after opening: if the number is still this process now, it was so when it was opened.
        if self.stat().is_none() && !self.is_alive() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {} is gone", self.pid)));
        }
        Ok(opened)
    }

    /// Waits for the process's death; returns at once if it is gone already.
    pub async fn ended(&self) -> io::Result<()> {
        let watched = match self.watch() {
            Ok(watched) => watched,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        #[expect(deprecated, reason = "an OwnedFd has the I/O safety that the constructor cannot demand of every type")]
        let watched = AsyncFd::with_interest(watched, tokio::io::Interest::READABLE)?;
        watched.readable().await.map(drop)
    }

    /// Returns whether the process has switched the terminal on its standard input to single keys, as a drawn
    /// interface does: before that, a paste would be taken apart line by line.
    pub fn reads_single_keys(&self) -> bool {
        let Ok(terminal) = std::fs::File::open(format!("/proc/{}/fd/0", self.pid)) else { return false };
        let modes = rustix::termios::tcgetattr(&terminal);
        modes.is_ok_and(|modes| !modes.local_modes.contains(rustix::termios::LocalModes::ICANON))
    }

    /// Returns its parent, if that is a program of this name (as the kernel shortens it).
    pub fn parent_named(&self, name: &str) -> Option<Self> {
        let parent = Self::of(self.stat()?.parent)?;
        (system::name(parent.pid)? == name.as_bytes()).then_some(parent)
    }

    /// Sends the signal to this process and no other; returns whether it was still there to get it.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match system::send(self, signal) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the system says of the process, if the number is still its own.
    fn stat(&self) -> Option<Stat> {
        system::stat(self.pid).filter(|stat| stat.start == self.start && self.boot == system::boot())
    }
}

/// Returns the id of this boot; empty where the system has none.
pub(crate) fn boot() -> &'static str {
    system::boot()
}

/// Returns the processes that `pid` is the parent of.
pub fn children(pid: u32) -> Vec<Identity> {
    let child = |number: &u32| system::stat(*number).is_some_and(|stat| stat.parent == pid);
    system::pids().into_iter().filter(child).filter_map(Identity::of).collect()
}

/// Returns whether `pid` is `ancestor` or descends from it, and `ancestor` is alive.
///
/// A process whose parent has died belongs to the system, not to its grandparent.
pub fn descends_from(pid: u32, ancestor: &Identity) -> bool {
    let mut at = pid;
    // A chain that is longer than this is a loop made by numbers reused while we walk.
    for _ in 0..1000 {
        if at == ancestor.pid {
            return ancestor.is_alive();
        }
        match system::stat(at) {
            Some(stat) if stat.parent != 0 => at = stat.parent,
            Some(_) | None => return false,
        }
    }
    false
}

/// Returns the living processes that descend from `ancestor`, itself excluded.
pub fn descendants(ancestor: &Identity) -> Vec<Identity> {
    let ours = |pid: &u32| *pid != ancestor.pid && descends_from(*pid, ancestor);
    system::pids().into_iter().filter(ours).filter_map(Identity::of).filter(Identity::is_alive).collect()
}

/// Returns whether a living descendant of `ancestor` runs a program of this name (as the kernel keeps it:
/// its first 15 bytes).
pub fn has_descendant_running(ancestor: &Identity, name: &str) -> bool {
    let wanted = name.as_bytes();
    let wanted = &wanted[..wanted.len().min(15)];
    descendants(ancestor).iter().any(|one| system::name(one.pid).is_some_and(|name| name == wanted))
}

/// Sends a signal to this process itself.
pub fn raise(signal: Signal) -> io::Result<()> {
    Ok(kill_process(getpid(), signal)?)
}

/// Whether an error means that the process is not there any more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Whether something has this number, ours or not.
fn exists(pid: u32) -> bool {
    number(pid).is_ok_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

fn number(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is not a process id")))
}

/// Linux: `/proc` and pidfds.
/// Returns the path of this very program, links resolved.
///
/// Linux marks the path of a program that was replaced while it ran; what stands there now is its successor.
pub fn own_program() -> io::Result<PathBuf> {
    let path = without_mark(std::env::current_exe()?);
    Ok(path.canonicalize().unwrap_or(path))
}

fn without_mark(path: PathBuf) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    match bytes.strip_suffix(b" (deleted)") {
        Some(bytes) => PathBuf::from(OsString::from_vec(bytes.to_vec())),
        None => path,
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::LazyLock;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::{Identity, Stat};

    pub(super) fn boot() -> &'static str {
        static BOOT: LazyLock<String> = LazyLock::new(|| {
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
        });
        &BOOT
    }

    pub(super) fn stat(pid: u32) -> Option<Stat> {
        parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Reads the line of `/proc/<pid>/stat`. The name in parentheses can hold anything, so what counts
    /// stands behind the last one.
    pub(super) fn parse(line: &[u8]) -> Option<Stat> {
        let behind = line.iter().rposition(|byte| *byte == b')')? + 1;
        let mut fields = std::str::from_utf8(&line[behind..]).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // The first of `fields` was the third of the line; the start is its twenty-second.
        let start = fields.nth(17)?.parse().ok()?;
        Some(Stat { state, parent, start })
    }

    pub(super) fn name(pid: u32) -> Option<Vec<u8>> {
        let mut name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
        name.pop();
        Some(name)
    }

    pub(super) fn pids() -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    }

    pub(super) fn open(pid: Pid) -> io::Result<OwnedFd> {
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    pub(super) fn send(process: &Identity, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(process.watch()?, signal)?)
    }
}

/// Other systems: a number and whether something has it. A reused number is not noticed, descent is not
/// known beyond the process itself, and nothing can be watched.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::process::{Pid, Signal, kill_process};

    use super::{Identity, Stat, exists, number};

    pub(super) fn boot() -> &'static str {
        ""
    }

    pub(super) fn stat(pid: u32) -> Option<Stat> {
        exists(pid).then_some(Stat { state: '?', parent: 0, start: 0 })
    }

    pub(super) fn name(_pid: u32) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn pids() -> Vec<u32> {
        Vec::new()
    }

    pub(super) fn open(_pid: Pid) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn send(process: &Identity, signal: Signal) -> io::Result<()> {
        Ok(kill_process(number(process.pid)?, signal)?)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn sleeper() -> (Child, Identity) {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("`sleep` runs");
        let identity = Identity::of(child.id()).expect("a child has an identity");
        (child, identity)
    }

    fn is_readable(fd: &OwnedFd) -> bool {
        poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&rustix::event::Timespec::default())) == Ok(1)
    }

    #[test]
    fn a_name_may_hold_anything() {
        let line = b"7 (a) R 1 2) S 3 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        let stat = system::parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start), ('S', 3, 4711));
        assert!(system::parse(b"7 (a S 3").is_none());
    }

    #[test]
    fn a_zombie_and_a_reused_number_are_dead() {
        let (mut child, identity) = sleeper();
        assert!(identity.is_alive() && !identity.is_stopped());
        let other = Identity { start: identity.start + 1, ..identity.clone() };
        let elsewhere = Identity { boot: "another boot".to_owned(), ..identity.clone() };
        for stranger in [&other, &elsewhere] {
            assert!(!stranger.is_alive());
            assert!(!stranger.signal(Signal::KILL).unwrap());
            assert_eq!(stranger.watch().unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        let watch = identity.watch().unwrap();
        assert!(!is_readable(&watch));
        assert!(identity.signal(Signal::KILL).unwrap());
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], None).unwrap();
        assert!(!identity.is_alive(), "it is a zombie now");
        child.wait().unwrap();
        assert!(!identity.is_alive() && !identity.signal(Signal::KILL).unwrap());
        assert_eq!(identity.watch().unwrap_err().raw_os_error(), Some(Errno::SRCH.raw_os_error()));
    }

    #[test]
    fn what_we_may_not_look_at_is_alive() {
        assert!(Identity::of(1).unwrap().is_alive());
        assert!(Identity::of(u32::MAX).is_none());
    }

    #[test]
    fn a_program_that_was_replaced_is_found_where_it_was() {
        assert_eq!(without_mark("/usr/bin/askd (deleted)".into()), PathBuf::from("/usr/bin/askd"));
        assert_eq!(without_mark("/usr/bin/askd".into()), PathBuf::from("/usr/bin/askd"));
    }

    #[test]
    fn descent_goes_by_parents() {
        let (mut child, identity) = sleeper();
        let own = Identity::own().unwrap();
        assert!(descends_from(identity.pid, &own) && descends_from(own.pid, &own));
        assert!(!descends_from(own.pid, &identity));
        assert!(children(own.pid).contains(&identity));
        assert!(has_descendant_running(&own, "sleep"));
        assert!(!has_descendant_running(&identity, "sleep"));
        let stranger = Identity { start: own.start + 1, ..own };
        assert!(!descends_from(identity.pid, &stranger));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
