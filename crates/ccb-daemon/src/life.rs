//! For how long the daemon lives: what is still to be done, and when nobody needs it any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ccb_core::settings::seconds;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::door::Door;
use crate::engine::Engine;

/// How many requests are not over, and a bell for when that changes between none and some.
#[derive(Default)]
pub(crate) struct Unsettled {
    open: std::sync::Mutex<std::collections::BTreeSet<ccb_core::id::RequestId>>,
    pub(crate) changed: Notify,
}

impl Unsettled {
    pub(crate) async fn seed(&self, engine: &Engine) {
        let open = engine.look(|view| {
            view.state.requests.values().filter(|r| !r.is_settled()).map(|r| r.id.clone()).collect::<Vec<_>>()
        });
        let open = open.await.unwrap_or_default();
        self.lock().extend(open);
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<ccb_core::id::RequestId>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn any(&self) -> bool {
        !self.lock().is_empty()
    }
}

/// How long the agents of a session that its last instance has closed may take to end, before they count as
/// agents that live on.
const CLOSING: Duration = Duration::from_secs(5);

/// Ends a daemon that nobody uses: no instance, no connection but the keeper's, nothing unsettled, no agent alive.
///
/// When the last instance has just gone and left nothing to do, it ends at once; else after the idle time.
pub(crate) async fn end_when_unused(door: Arc<Door>, unsettled: Arc<Unsettled>) {
    let idle = seconds(std::env::var("CCB_ASKD_IDLE_TIMEOUT_S").ok().as_deref(), 60.0, 0.0, 86_400.0);
    let busy = || {
        let keeper = u64::from(door.keeper.load(Ordering::SeqCst) != 0);
        let connected = door.connections.load(Ordering::SeqCst) > keeper;
        connected || unsettled.any() || door.owners.is_held() || door.mounts.alive()
    };
    let mut closing: Option<Instant> = None;
    loop {
        let closed = closing.is_some_and(|until| until <= Instant::now());
        if closed || unsettled.any() || door.owners.is_held() {
            closing = None;
        }
        let used = busy() || (closing.is_some() && door.mounts.wanted_alive().await);
        if !used && closing.is_some() {
            return door.request_stop("the last ccb has ended, and nothing is left to do");
        }
        let patience = match (used, closing) {
            (_, Some(until)) => Some(until.duration_since(Instant::now())),
            (false, None) if !idle.is_zero() => Some(idle),
            (_, None) => None,
        };
        let changed = async {
            tokio::select! {
                () = door.connections_changed.notified() => {}
                () = door.mounts.runner_gone.notified() => {}
                () = unsettled.changed.notified() => {}
                () = door.owners.came.notified() => {}
                () = door.owners.last_gone.notified() => closing = Some(Instant::now() + CLOSING),
            }
        };
        match patience {
            None => changed.await,
            Some(patience) => {
                let nothing = tokio::time::timeout(patience, changed).await.is_err();
                if nothing && closing.is_none() && !busy() {
                    return door.request_stop("idle: nobody is connected, nothing is unsettled, no agent is alive");
                }
            }
        }
    }
}
