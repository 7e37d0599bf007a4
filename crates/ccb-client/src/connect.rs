//! Find or start: the one way in which every client comes to its project's askd.
//!
//! A client never ends a daemon. It connects and shakes hands; if nobody answers, it starts a keeper, hears
//! the keeper's one line, and goes round until its own deadline.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ccb_core::home::{Home, file};
use ccb_core::wire::{Call, Program, Refusal, Welcome};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;

use crate::Context;
use crate::connection::{CALL_LIMIT, CallError, Connection, program};
use crate::error::{CliError, note};
use crate::keeper::{Keeper, Report};
use crate::program;
use crate::project::Place;
use crate::wake::{Pace, Patience, Woken, pause};

/// How long a client tries, unless it knows better: longer than a keeper takes to replace a hung worker.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How long one handshake may take.
const HELLO_LIMIT: Duration = Duration::from_secs(2);

/// How long a daemon of another protocol may take to end.
const REPLACE_LIMIT: Duration = Duration::from_secs(5);

/// How often a call is made whose connection is lost each time.
const TRIES: u32 = 5;

/// How long a keeper that says `held` is believed before another is started.
const KEEPER_PAUSE: Duration = Duration::from_millis(250);

/// A project's askd, as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Askd {
    pub(crate) home: Home,
    /// Who calls, by its environment.
    pub(crate) caller: Option<String>,
    role: &'static str,
    keeper: Keeper,
    autostart: bool,
    /// Whether `CCB_FORCE_REBIND` is on: what others own is taken over.
    force: bool,
    /// Whether nothing may be printed: somebody else has the terminal.
    quiet: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel forbids the socket to us: a sandbox.
    #[error(
        "this sandbox forbids askd's socket ({0}), so nothing was asked: use the MCP tool of the same name of server \
             `ccb`, which works in it, or run this command outside the sandbox"
    )]
    Sandbox(io::Error),
    /// askd does not talk to us.
    #[error("{0}")]
    Refused(Refusal),
    /// The keeper has said why it cannot serve.
    #[error("askd cannot start: {0}")]
    Keeper(String),
    /// No askd, and none may be started.
    #[error("no askd serves this project, and CCB_ASKD_AUTOSTART forbids starting one")]
    Forbidden,
    /// The keeper's program cannot be run.
    #[error("cannot start {0}: {1}")]
    NoProgram(String, io::Error),
    /// Nobody has answered until the deadline.
    #[error("askd does not answer: {0}")]
    NoAnswer(io::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Why one try gave no connection.
enum Miss {
    /// For good.
    Final(ConnectError),
    /// Nobody listens.
    Absent(io::Error),
    /// Somebody listens who does not answer.
    Silent(io::Error),
    /// Somebody listens, and too many others wait too.
    Crowded,
}

impl Askd {
    /// Returns the askd of a project, for a client of that role.
    pub(crate) fn of(context: &Context, place: &Place, role: &'static str) -> Result<Self, CliError> {
        let keeper = Keeper {
            program: program::beside("askd")?,
            work_dir: place.home.work_dir().to_owned(),
            environment: context.environment.for_keeper(place.run_dir.clone(), place.ours),
        };
        let autostart = !context.environment.falsy("CCB_ASKD_AUTOSTART");
        let force = context.environment.truthy("CCB_FORCE_REBIND");
        let Place { home, caller, .. } = place.clone();
        Ok(Self { home, caller, role, keeper, autostart, force, quiet: false })
    }

    /// Returns the askd of the project that the current directory is in.
    pub(crate) fn here(context: &Context) -> Result<Self, CliError> {
        Self::of(context, &crate::project::here(context)?, "client")
    }

    /// Returns the same askd for somebody who must not print.
    pub(crate) fn quiet(&self) -> Self {
        Self { quiet: true, ..self.clone() }
    }

    /// Connects, to a daemon that is started if there is none.
    pub(crate) fn find_or_start(&self, patience: Patience<'_>) -> Result<Connection, ConnectError> {
        let mut pace = Pace::new(Duration::from_millis(2), Duration::from_millis(100));
        let mut start_from = Instant::now();
        let mut replaced = false;
        let mut ended_before = None;
        loop {
            let (why, start) = match self.attempt(patience) {
                Ok((connection, welcome)) => {
                    self.give_keeper(&welcome);
                    return Ok(connection);
                }
                Err(Miss::Final(ConnectError::Refused(refusal))) if self.may_replace(&refusal) => {
                    if !std::mem::replace(&mut replaced, true) {
                        self.replace(patience)?;
                    }
                    (io::Error::other(refusal), false)
                }
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::Absent(why)) if !self.autostart && why.kind() == io::ErrorKind::NotFound => {
                    return Err(ConnectError::Forbidden);
                }
                Err(Miss::Absent(why) | Miss::Silent(why)) => (why, self.autostart),
                Err(Miss::Crowded) => (io::ErrorKind::WouldBlock.into(), false),
            };
            if patience.is_over() {
                return Err(ConnectError::NoAnswer(why));
            }
            if start && start_from <= Instant::now() {
                // Whoever waits beside us has the same answer from one keeper: each would only crash it again.
                let ended = self.written(file::LAST);
                let before = ended_before.get_or_insert_with(|| ended.clone());
                if ended != *before
                    && !self.has_keeper()
                    && let Some(why) = ended["breaker"].as_str()
                {
                    return Err(ConnectError::Keeper(why.to_owned()));
                }
                let report = self.start_keeper(patience)?;
                start_from = Instant::now() + KEEPER_PAUSE;
                match report {
                    Report::Ready => continue,
                    Report::Failed(why) => return Err(ConnectError::Keeper(why)),
                    Report::Held | Report::Silent => {}
                }
            }
            match pause(pace.pause(), patience) {
                Ok(Woken::Interrupted) => return Err(ConnectError::Interrupted),
                Ok(Woken::Timeout | Woken::Ready) => {}
                Err(error) => return Err(ConnectError::NoAnswer(error)),
            }
        }
    }

    /// Connects, if a daemon serves; starts none. One that is just being restarted is waited for, shortly.
    pub(crate) fn find(&self) -> Result<Option<Connection>, ConnectError> {
        let patience = Patience::of(Duration::from_secs(1));
        let mut pace = Pace::new(Duration::from_millis(5), Duration::from_millis(100));
        loop {
            match self.attempt(Patience::of(HELLO_LIMIT)) {
                Ok((connection, _)) => return Ok(Some(connection)),
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::Absent(why)) if why.kind() == io::ErrorKind::NotFound || patience.is_over() => {
                    return Ok(None);
                }
                Err(Miss::Silent(why)) if patience.is_over() => return Err(ConnectError::NoAnswer(why)),
                Err(Miss::Absent(_) | Miss::Silent(_) | Miss::Crowded) => {}
            }
            let _ = pause(pace.pause(), patience);
        }
    }

    /// Returns whether a keeper lives: then a daemon that does not serve is just being started.
    pub(crate) fn has_keeper(&self) -> bool {
        is_held(&self.home, file::KEEPER_LOCK)
    }

    /// Returns what a file of the home says in JSON; null if it says nothing.
    pub(crate) fn written(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.home.path(name)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Connects, if a daemon answers within `limit`; starts none and waits for none.
    pub(crate) fn find_at_once(&self, limit: Duration) -> Option<Connection> {
        self.attempt(Patience::of(limit)).ok().map(|(connection, _)| connection)
    }

    /// Connects, calls, and returns the answer. A call that is lost on the way is repeated: every call may be,
    /// `ask` because its id makes it the same request.
    pub(crate) fn call<C: Call>(&self, call: &C) -> Result<C::Answer, CliError> {
        self.call_within(call, CALL_LIMIT)
    }

    /// The same, with a connection to begin with.
    pub(crate) fn call_on<C: Call>(&self, mut connection: Connection, call: &C) -> Result<C::Answer, CliError> {
        match connection.call(call) {
            Err(CallError::Lost(_)) => self.call(call),
            answer => answer.map_err(|error| self.lost(error)),
        }
    }

    /// The same, for a call that may take longer.
    pub(crate) fn call_within<C: Call>(&self, call: &C, limit: Duration) -> Result<C::Answer, CliError> {
        let mut tries = 1;
        loop {
            let mut connection = self.find_or_start(Patience::of(DEADLINE)).map_err(|e| self.explain(e))?;
            match connection.call_within(call, Patience::of(limit)) {
                Err(CallError::Lost(_)) if tries < TRIES => tries += 1,
                answer => return answer.map_err(|error| self.lost(error)),
            }
        }
    }

    /// Returns a failed call as users see it.
    pub(crate) fn lost(&self, error: CallError) -> CliError {
        match error {
            CallError::Refusal(refusal) => refusal.into(),
            CallError::Lost(_) => CliError::new(error.to_string()).hint(self.see_log()),
        }
    }

    /// Returns a failed connection as users see it.
    pub(crate) fn explain(&self, error: ConnectError) -> CliError {
        let message = error.to_string();
        match error {
            ConnectError::Refused(refusal) => refusal.into(),
            ConnectError::Sandbox(_) => CliError::new(message),
            ConnectError::Forbidden => CliError::new(message).hint("run `ccb`, or unset CCB_ASKD_AUTOSTART"),
            ConnectError::NoProgram(..) => {
                CliError::new(message).hint("install ccb again: `askd` belongs beside this program")
            }
            ConnectError::Keeper(_) | ConnectError::NoAnswer(_) => CliError::new(message).hint(self.see_log()),
            ConnectError::Interrupted => CliError::new(message).code(crate::exit::INTERRUPTED),
        }
    }

    fn see_log(&self) -> String {
        format!("`ccb logs` shows {}", self.home.path(file::LOG).display())
    }

    fn start_keeper(&self, patience: Patience<'_>) -> Result<Report, ConnectError> {
        self.keeper.start(patience).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => ConnectError::Interrupted,
            _ => ConnectError::NoProgram(self.keeper.program.display().to_string(), error),
        })
    }

    /// Starts a keeper for a daemon whose own has died; nobody has to wait for that.
    fn give_keeper(&self, welcome: &Welcome) {
        if !welcome.keeper
            && self.autostart
            && let Err(error) = self.keeper.start_and_go_on()
            && !self.quiet
        {
            note(&format!("askd has no keeper, and cannot be given one: {error}"));
        }
    }

    /// Whether a daemon that does not speak our protocol is to make room. An older ccb leaves a newer daemon alone, lest
    /// two that are used in turn replace each other's for ever.
    fn may_replace(&self, refusal: &Refusal) -> bool {
        let older = |other: &Program| other.protocol < program().protocol;
        self.role == "client" && self.autostart && refusal.other.as_ref().is_some_and(|o| self.force || older(o))
    }

    fn replace(&self, patience: Patience<'_>) -> Result<(), ConnectError> {
        let Ok(stream) = self.dial() else { return Ok(()) };
        match Connection::replace(stream, self.home.project(), self.force, patience.at_most(REPLACE_LIMIT)) {
            Err(CallError::Refusal(refusal)) => Err(ConnectError::Refused(refusal)),
            // Whether it goes is seen when it is asked again.
            Ok(()) | Err(CallError::Lost(_)) => Ok(()),
        }
    }

    fn attempt(&self, patience: Patience<'_>) -> Result<(Connection, Welcome), Miss> {
        let stream = self.dial()?;
        let patience = patience.at_most(HELLO_LIMIT);
        Connection::open(stream, self.home.project(), self.role, patience).map_err(|error| match error {
            CallError::Refusal(refusal) => Miss::Final(ConnectError::Refused(refusal)),
            CallError::Lost(why) if why.kind() == io::ErrorKind::Interrupted => Miss::Final(ConnectError::Interrupted),
            CallError::Lost(why) => Miss::Silent(why),
        })
    }

    /// Opens the socket without ever blocking: a full backlog is told at once.
    fn dial(&self) -> Result<UnixStream, Miss> {
        let directory = File::open(self.home.root()).map_err(miss)?;
        let path = self.home.socket(file::SOCKET, directory.as_raw_fd());
        let socket = nonblocking_socket().map_err(|error| miss(error.into()))?;
        let address = SocketAddrUnix::new(&path).map_err(|error| miss(error.into()))?;
        connect(&socket, &address).map_err(|error| miss(error.into()))?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false).map_err(miss)?;
        Ok(stream)
    }
}

/// Returns whether somebody holds this lock of the home.
pub(crate) fn is_held(home: &Home, lock: &str) -> bool {
    // Given back at once; who wants it at this moment tries again, or is started again by who wants askd.
    File::open(home.path(lock)).is_ok_and(|lock| lock.try_lock_shared().is_err())
}

#[cfg(target_os = "linux")]
fn nonblocking_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(not(target_os = "linux"))]
fn nonblocking_socket() -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

fn miss(error: io::Error) -> Miss {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => Miss::Final(ConnectError::Sandbox(error)),
        Some(Errno::AGAIN | Errno::INPROGRESS) => Miss::Crowded,
        _ => Miss::Absent(error),
    }
}

#[cfg(test)]
pub(crate) mod tests;
