//! What the joined transports share: connecting to what may end meanwhile, when to give that up, and how soon to look
//! again at what only the agent's own record may still tell.

use std::future::Future;
use std::time::Duration;

use ccb_core::id::RequestId;
use tokio::time::Instant;

use super::{Line, Task};

/// How many failures in a row mean that it cannot be joined, or for how long there may be more than one.
const ENOUGH: (u32, Duration) = (5, Duration::from_secs(45));

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
