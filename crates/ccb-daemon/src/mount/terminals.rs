//! The tmux servers that agents' panes were opened in, and which of them have died without an order.

use std::io;
use std::time::Duration;

use ccb_core::id::AgentName;
use ccb_core::wire::Host;
use tokio::sync::mpsc::UnboundedSender;

use super::Mounts;
use crate::process::Identity;

/// How long a tmux server may take to accept a connection before it counts as busy.
const REACH: Duration = Duration::from_secs(1);

/// The tmux servers of the panes.
pub(super) struct Terminals {
    /// Those that are known to have died without an order: another may serve under the same name by the time the
    /// second of its panes tells its end.
    died: std::sync::Mutex<Vec<Identity>>,
    /// Where a server of the project's own is told: it can own the daemon.
    own: UnboundedSender<Identity>,
}

impl Terminals {
    /// Returns none; those of the project's own will be told to `own`.
    pub(super) fn new(own: UnboundedSender<Identity>) -> Self {
        Self { died: std::sync::Mutex::default(), own }
    }

    fn died(&self) -> std::sync::MutexGuard<'_, Vec<Identity>> {
        self.died.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A pane was opened in this server of the project's own.
    pub(super) fn owns(&self, server: Identity) {
        self.own.send(server).ok();
    }
}

impl Mounts {
    /// Whether the tmux server of an agent's pane, if it is our own, died without an order to end.
    pub(super) async fn terminal_died(&self, agent: &AgentName, patience: Duration) -> bool {
        let terminal = self.kept.lock().await.terminals.get(agent).cloned();
        let is_known = || terminal.as_ref().is_some_and(|terminal| self.terminals.died().contains(terminal));
        if is_known() {
            return true;
        }
        // A server that is just being killed takes its panes with it before its socket.
        let ended = match &terminal {
            Some(terminal) => tokio::time::timeout(patience, terminal.ended()).await.is_ok(),
            None => false,
        };
        // Another agent's return may have made a new one in its place already. One that ends in order removes its
        // socket, and nobody returns.
        let replaced = ended && self.own_socket().is_ok_and(|socket| socket.exists());
        let own = matches!(self.kept.lock().await.host, Host::Own);
        let died = (own && replaced) || self.socket_is_deserted().await || is_known();
        if died && !is_known() {
            self.terminals.died().extend(terminal);
        }
        died
    }

    /// Whether our own tmux server has left its socket behind, which an orderly end removes.
    async fn socket_is_deserted(&self) -> bool {
        let Ok(server) = self.server().await else { return false };
        let own = matches!(self.kept.lock().await.host, Host::Own);
        if !own || !server.socket().exists() {
            return false;
        }
        let reached = tokio::time::timeout(REACH, tokio::net::UnixStream::connect(server.socket())).await;
        // One that is only too busy has not died.
        reached.is_ok_and(|reached| reached.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock))
    }
}
