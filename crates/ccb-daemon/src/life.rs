//! For how long the daemon lives: what is still to be done, and when nobody needs it any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ccb_core::settings::seconds;
use tokio::sync::Notify;

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

/// Ends a daemon that nobody uses: no connection but the keeper's, nothing unsettled, no agent alive.
pub(crate) async fn idle_exit(door: Arc<Door>, unsettled: Arc<Unsettled>) {
    let idle = seconds(std::env::var("CCB_ASKD_IDLE_TIMEOUT_S").ok().as_deref(), 60.0, 0.0, 86_400.0);
    if idle.is_zero() {
        return;
    }
    let busy = || {
        let keeper = u64::from(door.keeper.load(Ordering::SeqCst) != 0);
        door.connections.load(Ordering::SeqCst) > keeper || unsettled.any() || door.mounts.alive()
    };
    loop {
        let changed = async {
            tokio::select! {
                () = door.connections_changed.notified() => {}
                () = door.mounts.runner_gone.notified() => {}
                () = unsettled.changed.notified() => {}
            }
        };
        if busy() {
            changed.await;
        } else if tokio::time::timeout(idle, changed).await.is_err() && !busy() {
            door.request_stop("idle: nobody is connected, nothing is unsettled, no agent is alive");
            return;
        }
    }
}
