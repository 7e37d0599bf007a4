//! askd's door: the Unix socket, one task a connection. Only the same user is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ccb_core::time::Time;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};
use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore};

use crate::agents::Agents;
use crate::clock::Clock;
use crate::engine::{Engine, log};
use crate::files::Files;
use crate::keeper::{GIVES_WAY, STOPPED};
use crate::mount::Mounts;
use crate::server::Connection;

/// How long a connection may take for its handshake.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// How many connections may be open that have not shaken hands.
const STRANGERS: usize = 64;

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
    pub(crate) stopping: std::sync::Mutex<Option<(String, u8)>>,
    /// Told whenever the number of connections changes.
    pub(crate) connections_changed: Notify,
    /// How many connections are open.
    pub(crate) connections: AtomicU64,
    /// The numbers of connections.
    pub(crate) numbers: AtomicU64,
}

/// Accepts connections until the task is dropped.
pub(crate) async fn serve(door: Arc<Door>, listener: UnixListener) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    let own = rustix::process::getuid().as_raw();
    loop {
        let Ok(permit) = strangers.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: what is open goes on, new ones wait.
                log(&format!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        if peer.uid() != own && own != 0 {
            log(&format!("refused a connection of uid {}", peer.uid()));
            continue;
        }
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let door = door.clone();
        tokio::spawn(async move {
            door.connections.fetch_add(1, Ordering::SeqCst);
            door.connections_changed.notify_one();
            Connection::talk(&door, stream, pid, permit).await;
            door.connections.fetch_sub(1, Ordering::SeqCst);
            door.connections_changed.notify_one();
        });
    }
}

impl Door {
    /// Has the daemon end in order.
    pub(crate) fn request_stop(&self, why: &str) {
        self.stop_with(why, STOPPED);
    }

    /// Has this worker end for another one.
    pub(crate) fn give_way(&self, why: &str) {
        self.stop_with(why, GIVES_WAY);
    }

    fn stop_with(&self, why: &str, code: u8) {
        let mut stopping = self.stopping.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stopping.get_or_insert_with(|| (why.to_owned(), code));
        self.stop.notify_one();
    }
}

/// Reads one line of at most `limit` bytes; none at the end of the stream, or when the line is too long.
pub(crate) async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), limit: usize) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let chunk = reader.fill_buf().await.ok().filter(|chunk| !chunk.is_empty())?;
        let end = chunk.iter().position(|b| *b == b'\n');
        let taken = end.map_or(chunk.len(), |i| i + 1);
        line.extend_from_slice(&chunk[..taken]);
        reader.consume(taken);
        if line.len() > limit {
            return None;
        }
        if end.is_some() {
            return String::from_utf8(line).ok();
        }
    }
}
