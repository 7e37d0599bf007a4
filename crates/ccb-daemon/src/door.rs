//! askd's door: the Unix socket, one task a connection. Only the same user is served.

pub(crate) mod guests;
pub(crate) mod queue;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ccb_core::time::Time;
use tokio::net::UnixListener;
use tokio::sync::Notify;

use crate::agents::Agents;
use crate::clock::Clock;
use crate::door::guests::{Guest, Guests};
use crate::door::queue::Memory;
use crate::engine::{Engine, log};
use crate::files::Files;
use crate::keeper::{GIVES_WAY, STOPPED};
use crate::lock::Ground;
use crate::mount::Mounts;
use crate::ownership::Owners;
use crate::server::Connection;
use crate::succession::Keepsakes;

/// How long a connection may take for its handshake.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// What every connection needs.
pub(crate) struct Door {
    /// The home.
    pub(crate) files: Arc<Files>,
    /// The engine.
    pub(crate) engine: Engine,
    /// The agents.
    pub(crate) agents: Agents,
    /// What starts and ends them.
    pub(crate) mounts: Arc<Mounts>,
    /// What this worker stands on.
    pub(crate) ground: Arc<Ground>,
    /// What a successor needs beside the store.
    pub(crate) keepsakes: Keepsakes,
    /// What `ccb status` tells beside: a damaged store, a TCP door that cannot be opened.
    pub(crate) notes: Vec<String>,
    /// Whose daemon this is.
    pub(crate) owners: Arc<Owners>,
    /// The clock.
    pub(crate) clock: Clock,
    /// How many workers this project has had.
    pub(crate) generation: u64,
    /// When this one started.
    pub(crate) started: Time,
    /// How the one before it ended.
    pub(crate) last_end: Option<crate::record::LastEnd>,
    /// What the home says of this worker.
    pub(crate) record: crate::record::Record,
    /// The keeper's pid while it is connected, else 0.
    pub(crate) keeper: AtomicU32,
    /// Told when the keeper's connection ends.
    pub(crate) keeper_lost: Notify,
    /// Told when the daemon is to end.
    pub(crate) stop: Notify,
    /// Why, once it is, and the exit code.
    pub(crate) stopping: Mutex<Option<(String, u8)>>,
    /// Told whenever the number of connections changes.
    pub(crate) connections_changed: Notify,
    /// How many connections are open.
    pub(crate) connections: AtomicU64,
    /// Who they are.
    pub(crate) guests: Arc<Guests>,
    /// What they may hold.
    pub(crate) memory: Memory,
}

/// Accepts connections until the task is dropped, and waits for nobody.
pub(crate) async fn serve(door: Arc<Door>, listener: UnixListener) {
    let own = rustix::process::getuid().as_raw();
    let mut failing = false;
    loop {
        let accepted = listener.accept().await;
        let Some(stream) = door.accepted(accepted, &mut failing).await else { continue };
        let Ok(peer) = stream.peer_cred() else { continue };
        if peer.uid() != own {
            log(&format!("refused a connection of uid {}", peer.uid()));
            continue;
        }
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        door.take_in(pid, |door, guest| async move { Connection::talk(&door, stream, pid, guest).await }).await;
    }
}

/// A connection that counts as open until this is dropped.
struct Open(Arc<Door>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
        self.0.connections_changed.notify_one();
    }
}

impl Door {
    /// Returns why a daemon is not to be ended by somebody who does not own it; none if it may be.
    ///
    /// Who asks for the end of a daemon without another in its place (`caller`) is not held up by agents: they find
    /// the next one.
    pub(crate) async fn needed(&self, caller: Option<u32>) -> Option<String> {
        if let Some(owner) = self.owners.held_against(caller) {
            return Some(format!("it belongs to process {owner}, which is alive"));
        }
        (caller.is_none() && self.mounts.has_panes().await).then(|| "its agents run".to_owned())
    }

    /// Returns the connection that was accepted. If there is none: out of descriptors, most likely. Then somebody goes,
    /// what is open goes on, new ones wait. It is said once.
    pub(crate) async fn accepted<S, A>(&self, accepted: std::io::Result<(S, A)>, failing: &mut bool) -> Option<S> {
        let error = match accepted {
            Ok((stream, _)) => {
                *failing = false;
                return Some(stream);
            }
            Err(error) => error,
        };
        if !std::mem::replace(failing, true) {
            log(&format!("cannot accept a connection: {error}"));
        }
        self.guests.relieve();
        tokio::time::sleep(Duration::from_millis(100)).await;
        None
    }

    /// Serves a connection of that process beside all others, and sees that others find room.
    pub(crate) async fn take_in<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        pid: u32,
        talk: impl FnOnce(Arc<Self>, Guest) -> F,
    ) {
        let talk = talk(self.clone(), self.guests.enter(pid));
        let door = self.clone();
        tokio::spawn(async move {
            door.connections.fetch_add(1, Ordering::SeqCst);
            door.connections_changed.notify_one();
            let _open = Open(door);
            talk.await;
        });
        self.guests.make_room().await;
    }

    /// Returns why this worker ends, and with which exit code, once that is so.
    pub(crate) fn stopping(&self) -> MutexGuard<'_, Option<(String, u8)>> {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether this worker has been told to end, or ends by itself.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping().is_some()
    }

    /// Has the daemon end in order.
    pub(crate) fn request_stop(&self, why: &str) {
        self.stop_with(why, STOPPED);
    }

    /// Has this worker end for another one.
    pub(crate) fn give_way(&self, why: &str) {
        self.stop_with(why, GIVES_WAY);
    }

    /// Looks whether the files that this worker stands on are still its own, and gives way if not.
    pub(crate) fn look_down(&self) {
        if let Some(what) = self.ground.lost() {
            self.give_way(&format!("{what}; the next worker takes over"));
        }
    }

    fn stop_with(&self, why: &str, code: u8) {
        let mut stopping = self.stopping();
        // Who wants the end has it, also while a successor is made room for.
        if stopping.as_ref().is_none_or(|(_, before)| *before == GIVES_WAY && code == STOPPED) {
            *stopping = Some((why.to_owned(), code));
        }
        self.stop.notify_one();
    }
}
