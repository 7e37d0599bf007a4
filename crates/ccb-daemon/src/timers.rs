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
    /// The request is over: its deadline no longer matters.
    Over(RequestId),
}

/// Runs the timers until the engine is gone.
pub(crate) async fn run(mut orders: UnboundedReceiver<Arm>, engine: Engine, clock: Clock) {
    let mut due: BTreeSet<(Time, RequestId, Timer)> = BTreeSet::new();
    let mut deadlines: BTreeMap<RequestId, Time> = BTreeMap::new();
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
                if timer == Timer::Deadline {
                    deadlines.insert(id.clone(), at);
                }
                due.insert((at, id, timer));
            }
            Some(Some(Arm::Over(id))) => {
                if let Some(at) = deadlines.remove(&id) {
                    due.remove(&(at, id, Timer::Deadline));
                }
            }
            None => {
                while due.first().is_some_and(|(at, _, _)| *at <= clock.now()) {
                    let Some((_, id, timer)) = due.pop_first() else { break };
                    deadlines.remove(&id);
                    engine.tell(Input::Due { id, timer });
                }
            }
        }
    }
}
