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
use rustix::process::{Pid, getpid, kill_process, kill_process_group, test_kill_process};
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

/// What the rules below ask of a system; tests put a table of processes in its place.
trait System {
    /// What a process is held by, so that its number cannot become another's.
    type Handle;
    /// The boot that this is.
    fn boot(&self) -> &str;
    /// What is known of the process with this number; none if there is none, or we may not look.
    fn stat(&self, pid: u32) -> Option<Stat>;
    /// Whether something has this number, ours or not.
    fn exists(&self, pid: u32) -> bool;
    /// Holds the process with this number.
    fn open(&self, pid: u32) -> io::Result<Self::Handle>;
    /// Sends a signal to the process that is held.
    fn send(&self, handle: &Self::Handle, signal: Signal) -> io::Result<()>;
    /// Sends a signal to the process that has this number now.
    fn kill(&self, pid: u32, signal: Signal) -> io::Result<()>;
}

/// What the system says of a process, if the number is still its own.
fn stat_of<S: System>(on: &S, identity: &Identity) -> Option<Stat> {
    on.stat(identity.pid).filter(|stat| stat.start == identity.start && identity.boot == on.boot())
}

fn lives<S: System>(on: &S, identity: &Identity) -> bool {
    match stat_of(on, identity) {
        Some(stat) => !matches!(stat.state, 'Z' | 'X' | 'x'),
        None => identity.boot == on.boot() && on.stat(identity.pid).is_none() && on.exists(identity.pid),
    }
}

/// Whether the number is proved to be still this process's.
fn is_proved<S: System>(on: &S, identity: &Identity) -> bool {
    stat_of(on, identity).is_some()
}

/// Whether the number is, as far as we may look, still this process's.
fn is_there<S: System>(on: &S, identity: &Identity) -> bool {
    is_proved(on, identity) || lives(on, identity)
}

/// Holds the process itself, if that is so by `is_it`.
fn hold<S: System>(on: &S, identity: &Identity, is_it: fn(&S, &Identity) -> bool) -> io::Result<S::Handle> {
    let handle = on.open(identity.pid)?;
    // Verified after opening: if the number is still this process now, it was so when it was opened.
    if !is_it(on, identity) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {} is gone", identity.pid)));
    }
    Ok(handle)
}

/// Sends a signal to the process itself; without handles, right after the proof that the number is still its own.
fn deliver<S: System>(on: &S, identity: &Identity, signal: Signal) -> io::Result<bool> {
    let sent = match hold(on, identity, is_proved) {
        Ok(handle) => on.send(&handle, signal),
        Err(error) if has_no_handles(&error) => match stat_of(on, identity) {
            Some(_) => on.kill(identity.pid, signal),
            None => return Ok(false),
        },
        Err(error) => Err(error),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error means that there are no pidfds here: an old kernel, a seccomp filter, another system.
fn has_no_handles(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || [Errno::NOSYS, Errno::PERM].iter().any(|none| error.raw_os_error() == Some(none.raw_os_error()))
}

/// The system that we run on.
#[derive(Clone, Copy)]
struct Here {
    /// Whether its pidfds are used, if it has them.
    pidfd: bool,
}

const HERE: Here = Here { pidfd: true };

impl System for Here {
    type Handle = OwnedFd;

    fn boot(&self) -> &str {
        system::boot()
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        system::stat(pid)
    }

    fn exists(&self, pid: u32) -> bool {
        exists(pid)
    }

    fn open(&self, pid: u32) -> io::Result<OwnedFd> {
        if self.pidfd { system::open(number(pid)?) } else { Err(Errno::NOSYS.into()) }
    }

    fn send(&self, handle: &OwnedFd, signal: Signal) -> io::Result<()> {
        system::send(handle, signal)
    }

    fn kill(&self, pid: u32, signal: Signal) -> io::Result<()> {
        Ok(kill_process(number(pid)?, signal)?)
    }
}

/// How often a process is looked at where no descriptor tells of its death.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Returns a descriptor that becomes readable when the process is dead.
fn watch_on(on: Here, identity: &Identity) -> io::Result<OwnedFd> {
    match hold(&on, identity, is_there) {
        Err(error) if has_no_handles(&error) => {}
        held => return held,
    }
    if !lives(&on, identity) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {} is gone", identity.pid)));
    }
    let (watched, theirs) = std::os::unix::net::UnixStream::pair()?;
    let identity = identity.clone();
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        while lives(&on, &identity) {
            // Woken only when nobody watches any more.
            let mut fds = [rustix::event::PollFd::new(&theirs, rustix::event::PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&LOOK)).is_ok_and(|ready| ready > 0) {
                return;
            }
        }
    })?;
    Ok(watched.into())
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
        lives(&HERE, self)
    }

    /// Returns whether the process is stopped, by SIGSTOP or by its terminal's suspend key.
    pub fn is_stopped(&self) -> bool {
        self.stat().is_some_and(|stat| matches!(stat.state, 'T' | 't'))
    }

    /// Returns a descriptor that becomes readable when the process is dead.
    ///
    /// [`NotFound`](io::ErrorKind::NotFound) if it is gone already and another has its number or none has. Where the
    /// system has no pidfds, a small thread looks four times a second.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        watch_on(HERE, self)
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

    /// Waits for the process's death, also where that cannot be watched: then it is looked at now and again.
    pub async fn died(&self) {
        while self.ended().await.is_err() && self.is_alive() {
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        }
    }

    /// Returns whether the process has switched the terminal on its standard input to single keys, as a drawn
    /// interface does: before that, a paste would be taken apart line by line.
    pub fn reads_single_keys(&self) -> bool {
        let Ok(terminal) = std::fs::File::open(format!("/proc/{}/fd/0", self.pid)) else { return false };
        let modes = rustix::termios::tcgetattr(&terminal);
        modes.is_ok_and(|modes| !modes.local_modes.contains(rustix::termios::LocalModes::ICANON))
    }

    /// Returns whether nothing is left unread in the terminal on its standard input; false where that cannot be told.
    pub fn has_read_all(&self) -> bool {
        let Ok(terminal) = std::fs::File::open(format!("/proc/{}/fd/0", self.pid)) else { return false };
        rustix::io::ioctl_fionread(&terminal).is_ok_and(|unread| unread == 0)
    }

    /// Returns whether it is a program of this name (as the kernel shortens it); where that cannot be told, it may be.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        system::name(self.pid).is_none_or(|its| its == name.as_bytes())
    }

    /// Returns its parent, if that is a program of this name (as the kernel shortens it).
    pub fn parent_named(&self, name: &str) -> Option<Self> {
        let parent = Self::of(self.stat()?.parent)?;
        (system::name(parent.pid)? == name.as_bytes()).then_some(parent)
    }

    /// Sends the signal to this process and no other; returns whether it was still there to get it.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        deliver(&HERE, self, signal)
    }

    /// What the system says of the process, if the number is still its own.
    fn stat(&self) -> Option<Stat> {
        stat_of(&HERE, self)
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

/// Returns the files that a process holds open, as far as the system tells.
pub(crate) fn open_files(pid: u32) -> Vec<std::path::PathBuf> {
    system::open_files(pid)
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

/// Returns whether it is `ancestor` or a descendant of it that listens on that port of the IPv4 loopback; where the
/// system does not tell, that it is.
pub(crate) fn listens(ancestor: &Identity, port: u16) -> bool {
    let socket = match system::listener(port) {
        Ok(Some(socket)) => socket,
        Ok(None) => return false,
        Err(_) => return ancestor.is_alive(),
    };
    let of_family = |pid: &u32| descends_from(*pid, ancestor);
    ancestor.is_alive()
        && (system::holds(ancestor.pid, &socket)
            || system::pids().into_iter().filter(of_family).any(|pid| system::holds(pid, &socket)))
}

/// Kills a child of ours that leads a process group, and all that is in the group. While the child has not been waited
/// for, the group's number can be nobody else's.
pub(crate) fn kill_group(child: &tokio::process::Child) -> io::Result<()> {
    // None, if it has been waited for.
    let Some(pid) = child.id() else { return Ok(()) };
    Ok(kill_process_group(number(pid)?, Signal::KILL)?)
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

/// Linux: `/proc` and pidfds.
#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::LazyLock;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::Stat;

    pub(super) fn open_files(pid: u32) -> Vec<std::path::PathBuf> {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).collect()
    }

    pub(super) fn boot() -> &'static str {
        static BOOT: LazyLock<String> = LazyLock::new(|| {
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
        });
        &BOOT
    }

    pub(super) fn stat(pid: u32) -> Option<Stat> {
        parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Returns what `/proc` calls the socket that listens on that port of the loopback.
    pub(super) fn listener(port: u16) -> io::Result<Option<String>> {
        let table = std::fs::read_to_string("/proc/net/tcp")?;
        let local = format!("0100007F:{port:04X}");
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = lines.find(|words| words.get(1) == Some(&local.as_str()) && words.get(3) == Some(&"0A"));
        Ok(found.and_then(|words| words.get(9).map(|inode| format!("socket:[{inode}]"))))
    }

    /// Returns whether the process has this socket open.
    pub(super) fn holds(pid: u32, socket: &str) -> bool {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors
            .filter_map(Result::ok)
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == socket))
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

    pub(super) fn send(handle: &OwnedFd, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(handle, signal)?)
    }
}

/// Other systems: a number and whether something has it. A reused number is not noticed, and descent is not
/// known beyond the process itself.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::process::{Pid, Signal};

    use super::{Stat, exists};

    /// Not known here without calls that are not safe: an agent's hooks tell, where they run.
    pub(super) fn open_files(_pid: u32) -> Vec<std::path::PathBuf> {
        Vec::new()
    }

    pub(super) fn boot() -> &'static str {
        ""
    }

    pub(super) fn stat(pid: u32) -> Option<Stat> {
        exists(pid).then_some(Stat { state: '?', parent: 0, start: 0 })
    }

    pub(super) fn name(_pid: u32) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn listener(_port: u16) -> io::Result<Option<String>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn holds(_pid: u32, _socket: &str) -> bool {
        false
    }

    pub(super) fn pids() -> Vec<u32> {
        Vec::new()
    }

    pub(super) fn open(_pid: Pid) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn send(_handle: &OwnedFd, _signal: Signal) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
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
    fn without_pidfds_a_process_is_watched_and_signalled_all_the_same() {
        let old = Here { pidfd: false };
        let (mut child, identity) = sleeper();
        let stranger = Identity { start: identity.start + 1, ..identity.clone() };
        assert!(!deliver(&old, &stranger, Signal::KILL).unwrap());
        assert_eq!(watch_on(old, &stranger).unwrap_err().kind(), io::ErrorKind::NotFound);
        let watch = watch_on(old, &identity).unwrap();
        assert!(!is_readable(&watch));
        assert!(deliver(&old, &identity, Signal::KILL).unwrap());
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], None).unwrap();
        assert!(!lives(&old, &identity), "it is a zombie now");
        child.wait().unwrap();
        assert!(!deliver(&old, &identity, Signal::KILL).unwrap());
    }

    /// A table of processes in which, before each look, one may die, be reaped, or have its number reused.
    struct Table {
        handles: bool,
        hidden: bool,
        now: std::cell::RefCell<Option<(u64, char)>>,
        changes: std::cell::RefCell<Vec<u8>>,
        hit: std::cell::RefCell<Vec<u64>>,
    }

    impl Table {
        fn change(&self) {
            let change = self.changes.borrow_mut().pop();
            let mut now = self.now.borrow_mut();
            match (change, *now) {
                (Some(1), Some((start, _))) => *now = Some((start, 'Z')),
                (Some(2), _) => *now = None,
                (Some(3), Some((start, _))) => *now = Some((start + 1, 'S')),
                (Some(3), None) => *now = Some((99, 'S')),
                (Some(_) | None, _) => {}
            }
        }
    }

    impl System for Table {
        type Handle = u64;

        fn boot(&self) -> &'static str {
            "boot"
        }

        fn stat(&self, _pid: u32) -> Option<Stat> {
            self.change();
            let now = self.now.borrow();
            now.filter(|_| !self.hidden).map(|(start, state)| Stat { state, parent: 1, start })
        }

        fn exists(&self, _pid: u32) -> bool {
            self.now.borrow().is_some()
        }

        fn open(&self, _pid: u32) -> io::Result<u64> {
            self.change();
            if !self.handles {
                return Err(Errno::NOSYS.into());
            }
            self.now.borrow().map(|(start, _)| start).ok_or_else(|| Errno::SRCH.into())
        }

        fn send(&self, handle: &u64, _signal: Signal) -> io::Result<()> {
            self.change();
            if self.now.borrow().is_none_or(|(start, _)| start != *handle) {
                return Err(Errno::SRCH.into());
            }
            self.hit.borrow_mut().push(*handle);
            Ok(())
        }

        fn kill(&self, _pid: u32, _signal: Signal) -> io::Result<()> {
            // Right after the proof: nothing changes between.
            self.hit.borrow_mut().extend(self.now.borrow().map(|(start, _)| start));
            Ok(())
        }
    }

    proptest::proptest! {
        #[test]
        fn no_process_is_signalled_but_the_one_that_is_proved_to_be_ours(
            handles: bool,
            hidden: bool,
            // It was seen before: what has its number now is it, or came after it.
            there in proptest::option::of(6_u64..9),
            changes in proptest::collection::vec(0_u8..4, 0..8),
        ) {
            let ours = Identity { pid: 7, start: 6, boot: "boot".to_owned() };
            let table = Table {
                handles,
                hidden,
                now: there.map(|start| (start, 'S')).into(),
                changes: changes.into(),
                hit: Vec::new().into(),
            };
            for _ in 0..4 {
                let before = table.hit.borrow().len();
                let sent = deliver(&table, &ours, Signal::KILL);
                proptest::prop_assert!(table.hit.borrow().iter().all(|start| *start == ours.start));
                let hit = table.hit.borrow().len() > before;
                proptest::prop_assert_eq!(sent.is_ok_and(|sent| sent), hit, "what is said of it is true");
                if hidden && table.changes.borrow().is_empty() && table.now.borrow().is_some() {
                    proptest::prop_assert!(lives(&table, &ours), "what we may not look at is alive");
                }
            }
        }
    }

    #[test]
    fn what_we_may_not_look_at_is_watched_and_never_signalled() {
        let ours = Identity { pid: 7, start: 0, boot: "boot".to_owned() };
        let now = Some((6, 'S')).into();
        let table = Table { handles: true, hidden: true, now, changes: Vec::new().into(), hit: Vec::new().into() };
        assert_eq!(hold(&table, &ours, is_there).unwrap(), 6);
        assert!(!deliver(&table, &ours, Signal::KILL).unwrap());
        assert!(table.hit.borrow().is_empty());
        *table.now.borrow_mut() = None;
        assert!(hold(&table, &ours, is_there).is_err());
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
        let stranger = Identity { start: own.start + 1, ..own };
        assert!(!descends_from(identity.pid, &stranger));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
