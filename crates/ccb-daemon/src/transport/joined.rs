//! What the joined transports share: connecting to what may end meanwhile, when to give that up, and how soon to look
//! again at what only the agent's own record may still tell.

use std::future::Future;
use std::time::Duration;

use ccb_core::id::RequestId;
use ccb_core::provider::Rung;
use ccb_core::state::Presence;
use tokio::time::Instant;

use super::{Line, Task};
use crate::agents::Agents;

/// How many failures in a row mean that it cannot be joined, or for how long there may be more than one.
const ENOUGH: (u32, Duration) = (5, Duration::from_secs(45));

/// How long a failed connection, or a refused turn, is left alone, at first and at the most.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Why a connection is over.
pub(super) enum End {
    /// Nobody wants the agent to be driven any more.
    Closed,
    /// What was connected to has ended, and may be started again.
    Ended {
        /// How.
        why: String,
    },
    /// The runner is gone, or will not start it again.
    Gone {
        /// How.
        why: String,
    },
}

/// A driver, as far as it has to do with what happens while there is no connection.
pub(super) trait Driver {
    /// Takes a task while there is none; returns an end if it tells one.
    fn meanwhile(&mut self, line: &Line, task: Task) -> Option<End>;
}

/// A driver that connects to a server, which its agent's program runs or is.
pub(super) trait Client: Driver {
    /// What users are told of that server.
    const SERVER: &'static str;

    /// Returns whether there is one to connect to.
    fn is_up(&self) -> bool;

    /// One connection, from its beginning to its end.
    fn session(&mut self, line: &mut Line) -> impl Future<Output = anyhow::Result<End>> + Send;

    /// Returns whether the last connection came as far as the agent's conversation.
    fn has_lived(&self) -> bool;

    /// The server has ended, and may be started again.
    fn ended(&mut self, line: &mut Line, why: String, failures: &mut Failures);

    /// The runner is gone, and the server with it.
    fn gone(&mut self);

    fn agents(&self) -> &Agents;
}

/// Connects whenever there is something to connect to, until nobody wants the agent to be driven any more.
pub(super) async fn run<Agent: Client>(mut driver: Agent, mut line: Line) {
    let mut pause = PAUSE.0;
    let mut failures = Failures::default();
    loop {
        if !driver.is_up() {
            let Some(task) = line.task().await else { return };
            if let Some(End::Gone { why }) = driver.meanwhile(&line, task) {
                line.gone(&why).await;
            }
            continue;
        }
        let began = Instant::now();
        let ended = driver.session(&mut line).await;
        if driver.has_lived() && began.elapsed() > PAUSE.1 {
            pause = PAUSE.0;
            failures = Failures::default();
        }
        let ended = match ended {
            Ok(end) => Some(end),
            Err(error) => {
                // The connection broke, or the server is not ready: it may live.
                driver.agents().error(&line.agent, format!("{error:#}"));
                line.presence(Presence::Starting { why: format!("connecting to {}: {error:#}", Agent::SERVER) });
                if let Some(often) = failures.add() {
                    let why = format!("{} could not be joined {often} ({error:#})", Agent::SERVER);
                    driver.agents().broke(&line.agent, Rung::Joined, true, why);
                }
                let waited = pause;
                pause = (pause * 2).min(PAUSE.1);
                paused(&mut driver, &mut line, waited).await
            }
        };
        match ended {
            None => {}
            Some(End::Closed) => return,
            Some(End::Ended { why }) => driver.ended(&mut line, why, &mut failures),
            Some(End::Gone { why }) => {
                driver.gone();
                line.gone(&why).await;
            }
        }
    }
}

/// Connects, unless what is connected to, or its runner, ends meanwhile.
pub(super) async fn connected<Wire>(
    driver: &mut impl Driver,
    line: &mut Line,
    opening: impl Future<Output = anyhow::Result<Wire>>,
) -> anyhow::Result<Result<Wire, End>> {
    let mut opening = std::pin::pin!(opening);
    loop {
        tokio::select! {
            wire = &mut opening => return wire.map(Ok),
            task = line.task() => {
                let Some(task) = task else { return Ok(Err(End::Closed)) };
                if let Some(end) = driver.meanwhile(line, task) {
                    return Ok(Err(end));
                }
            }
        }
    }
}

/// Waits for a while, unless what is connected to, or its runner, ends meanwhile.
pub(super) async fn paused(driver: &mut impl Driver, line: &mut Line, time: Duration) -> Option<End> {
    let until = Instant::now() + time;
    while let Ok(task) = tokio::time::timeout_at(until, line.task()).await {
        let Some(task) = task else { return Some(End::Closed) };
        if let Some(end) = driver.meanwhile(line, task) {
            return Some(end);
        }
    }
    None
}

/// The last offer that a driver has made, and whether the program lives to which it has made it.
#[derive(Default)]
pub(super) struct Made(Option<(RequestId, u32, bool)>);

impl Made {
    /// An offer is being made.
    pub(super) fn make(&mut self, id: &RequestId, attempt: u32) {
        self.0 = Some((id.clone(), attempt, true));
    }

    /// The program has ended to which it was made.
    pub(super) fn ended(&mut self) {
        if let Some((.., lives)) = &mut self.0 {
            *lives = false;
        }
    }

    /// Returns whether its absence from the history proves that an offer was not taken: a program that lives may have
    /// accepted it and yet to write it down. Of an offer that another askd has made, it is known whether it was `handed`
    /// over in full; if not, some of it may have been, and the `last` look is late enough to show it.
    pub(super) fn absence_proves(&self, id: &RequestId, attempt: u32, handed: bool, last: bool) -> bool {
        match &self.0 {
            Some((made, at, lives)) if made == id && *at == attempt => !*lives,
            Some(_) | None => !handed && last,
        }
    }
}

/// Failures in a row: connections that were not made, or broke at once.
#[derive(Default)]
pub(super) struct Failures {
    count: u32,
    since: Option<Instant>,
}

impl Failures {
    /// Counts one; returns how often and in what time, when that is often enough to give up.
    pub(super) fn add(&mut self) -> Option<String> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.count += 1;
        let enough = self.count >= ENOUGH.0 || (self.count > 1 && since.elapsed() > ENOUGH.1);
        enough.then(|| {
            let often = format!("{} times within {} s", self.count, since.elapsed().as_secs().max(1));
            // Where there is no other way, it is tried on, and told again.
            *self = Self::default();
            often
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_proves_nothing_of_what_a_living_program_may_have_accepted() {
        let [ours, other] = ["20261122-1", "20261122-2"].map(|id| RequestId::new(id).expect("an id"));
        let mut made = Made::default();
        // A new askd knows only what the engine has kept.
        assert!(!made.absence_proves(&ours, 1, true, true));
        assert!(made.absence_proves(&ours, 1, false, true));
        made.make(&ours, 1);
        assert!(!made.absence_proves(&ours, 1, false, true), "it may have been taken although no answer came");
        assert!(!made.absence_proves(&ours, 2, true, true), "another offer of it");
        assert!(made.absence_proves(&other, 1, false, true));
        made.ended();
        assert!(made.absence_proves(&ours, 1, true, true), "a dead program writes nothing down");
    }
}
