//! A `ccb` that shows the agents is an instance of the project: it holds a connection to askd, which is its owner's or
//! an attached one's, for as long as it lives.
//!
//! While tmux has the terminal nothing is printed: what is to be told is kept for the end.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use ccb_core::wire::{Attach, Attached, Code, Detach, Owned, Reply};

use crate::connect::{Askd, ConnectError, DEADLINE};
use crate::connection::{CallError, Connection};
use crate::error::CliError;
use crate::wake::{Interrupt, Pace, Patience, Woken, pause};

/// How long askd may take to hear that we go. If it does not, it sees our end.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// An instance that is attached to its askd, again whenever askd was replaced.
#[derive(Debug)]
pub(crate) struct Instance {
    watch: JoinHandle<Vec<String>>,
    /// Written to, or dropped, when the watch is to end.
    end: UnixStream,
}

/// What the watch needs.
struct Watch {
    askd: Askd,
    force: bool,
    told: Vec<String>,
}

/// What is to be done after a line or its absence.
enum Next {
    GoOn,
    Reconnect,
    End,
}

impl Instance {
    /// Attaches, to an askd that is started if there is none, and stays attached. Returns what the user should know.
    pub(crate) fn attach(askd: &Askd, force: bool) -> Result<(Self, Option<String>), CliError> {
        let mut connection = askd.find_or_start(Patience::of(DEADLINE)).map_err(|error| askd.explain(error))?;
        let attached = connection.call(&Attach { force }).map_err(|error| askd.lost(error))?;
        let (reading, end) =
            UnixStream::pair().map_err(|error| CliError::new(format!("cannot watch askd: {error}")))?;
        let mut watch = Watch { askd: askd.quiet(), force, told: Vec::new() };
        let run = move || {
            watch.run(connection, &Interrupt::by(reading));
            watch.told
        };
        let watch = std::thread::Builder::new().name("askd".into()).spawn(run);
        let watch = watch.map_err(|error| CliError::new(format!("cannot watch askd: {error}")))?;
        Ok((Self { watch, end }, greeting(&attached)))
    }

    /// Detaches, and returns what the user should know of the time between.
    pub(crate) fn detach(self) -> Vec<String> {
        drop(self.end);
        self.watch.join().unwrap_or_default()
    }
}

/// Says what coming has changed for others, or that nothing has changed.
fn greeting(attached: &Attached) -> Option<String> {
    match (&attached.owner, attached.forced_from) {
        (_, Some(pid)) => Some(format!("this ccb owns askd now, by force; pid {pid} owned it and is attached")),
        (Some(owner), None) if !attached.you_own => {
            Some(format!("another ccb (pid {}) owns askd; this one is attached to the same agents", owner.pid))
        }
        _ => None,
    }
}

/// Returns what a line says of the daemon's owner, if it does.
fn owned(reply: Reply) -> Option<Owned> {
    match reply {
        Reply::Notice { method, params } if method == "ownership" => serde_json::from_value(params).ok(),
        Reply::Notice { .. } | Reply::Answer { .. } => None,
    }
}

impl Watch {
    /// Listens until the end is wished for, and comes back to whatever askd takes the place of a lost one.
    fn run(&mut self, connection: Connection, end: &Interrupt) {
        let mut connection = Some(connection);
        loop {
            let Some(mut connected) = connection.take().or_else(|| self.reconnect(end)) else { return };
            loop {
                match self.listen(&mut connected, end) {
                    Next::GoOn => {}
                    Next::Reconnect => break,
                    Next::End => return,
                }
            }
        }
    }

    fn listen(&mut self, connection: &mut Connection, end: &Interrupt) -> Next {
        match connection.read(Patience { until: None, interrupt: Some(end) }) {
            Ok(Ok(reply)) => owned(reply).map_or(Next::GoOn, |owned| self.hear(owned)),
            Ok(Err(_)) => {
                self.leave(connection);
                Next::End
            }
            Err(_) => Next::Reconnect,
        }
    }

    /// Hears what has been said already, and detaches unless the daemon is ending anyway.
    fn leave(&mut self, connection: &mut Connection) {
        while let Ok(Ok(reply)) = connection.read(Patience::of(Duration::ZERO)) {
            if owned(reply).is_some_and(|owned| matches!(self.hear(owned), Next::End)) {
                return;
            }
        }
        let _ = connection.call_within(&Detach {}, Patience::of(LEAVE_LIMIT));
    }

    fn hear(&mut self, owned: Owned) -> Next {
        match owned {
            Owned::Changed { owner, forced_out, .. } => {
                if forced_out {
                    let by = owner.map_or_else(String::new, |owner| format!(" (pid {})", owner.pid));
                    self.tell(format!("another ccb{by} has taken over askd by force; the agents went on"));
                }
                Next::GoOn
            }
            Owned::Stopping { why } => {
                self.tell(format!("askd was ended: {why}"));
                Next::End
            }
        }
    }

    /// Comes back to an askd that has taken the place of a lost one; none if the end is wished for, or if there can
    /// be none.
    fn reconnect(&mut self, end: &Interrupt) -> Option<Connection> {
        let mut pace = Pace::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            let patience = Patience { interrupt: Some(end), ..Patience::of(DEADLINE) };
            let found = self.askd.find_or_start(patience).map_err(|error| self.askd_trouble(error));
            let trouble = match found {
                Ok(mut connection) => match connection.call(&Attach { force: self.force }) {
                    Ok(_) => return Some(connection),
                    Err(CallError::Refusal(refusal)) if refusal.code == Code::NoMethod => return None,
                    Err(error) => error.to_string(),
                },
                Err(trouble) => trouble?,
            };
            self.tell(trouble);
            if let Ok(Woken::Interrupted) = pause(pace.pause(), Patience { until: None, interrupt: Some(end) }) {
                return None;
            }
        }
    }

    /// Returns a failed connection in words; none if it has not failed but was given up.
    fn askd_trouble(&self, error: ConnectError) -> Option<String> {
        match error {
            ConnectError::Interrupted => None,
            error => Some(format!("askd was away: {}", self.askd.explain(error).message)),
        }
    }

    /// Keeps something for the user, once.
    fn tell(&mut self, text: String) {
        if !self.told.contains(&text) {
            self.told.push(text);
        }
    }
}
