//! The engine's timers: one task that sleeps until the next of them and does nothing otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ccb_core::id::RequestId;
use ccb_core::step::{Input, Timer};
use ccb_core::time::Time;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::clock::Clock;
use crate::engine::Engine;

/// What the timers are told.
#[derive(Debug)]
pub(crate) enum Arm {
    /// Come back at that moment.
    At(RequestId, Timer, Time),
    /// The request is over, and what became of it at its agent is known or not: only in the latter case
    /// anything of it is still worth looking into.
    Over {
        /// Which.
        id: RequestId,
        /// Whether its turn is known.
        known: bool,
    },
}

/// Runs the timers until the engine is gone.
pub(crate) async fn run(mut orders: UnboundedReceiver<Arm>, engine: Engine, clock: Clock) {
    let mut due: BTreeSet<(Time, RequestId, Timer)> = BTreeSet::new();
    let mut armed: BTreeMap<RequestId, BTreeSet<(Timer, Time)>> = BTreeMap::new();
    loop {
        let wait =
            due.first().map(|(at, _, _)| Duration::from_millis(u64::try_from(at.since(clock.now())).unwrap_or(0)));
        let order = match wait {
            Some(wait) => tokio::time::timeout(wait, orders.recv()).await.ok(),
            None => Some(orders.recv().await),
        };
        match order {
            Some(None) => return,
            Some(Some(Arm::At(id, timer, at))) => {
                armed.entry(id.clone()).or_default().insert((timer, at));
                due.insert((at, id, timer));
            }
            Some(Some(Arm::Over { id, known })) => {
                let timers = armed.remove(&id).unwrap_or_default();
                let kept = |timer: Timer| timer == Timer::Orphan || (timer == Timer::Proof && !known);
                for (timer, at) in &timers {
                    if !kept(*timer) {
                        due.remove(&(*at, id.clone(), *timer));
                    }
                }
                let timers: BTreeSet<(Timer, Time)> = timers.into_iter().filter(|(timer, _)| kept(*timer)).collect();
                if !timers.is_empty() {
                    armed.insert(id, timers);
                }
            }
            None => {
                while due.first().is_some_and(|(at, _, _)| *at <= clock.now()) {
                    let Some((at, id, timer)) = due.pop_first() else { break };
                    if let Some(timers) = armed.get_mut(&id) {
                        timers.remove(&(timer, at));
                        if timers.is_empty() {
                            armed.remove(&id);
                        }
                    }
                    engine.tell(Input::Due { id, timer });
                }
            }
        }
    }
}
