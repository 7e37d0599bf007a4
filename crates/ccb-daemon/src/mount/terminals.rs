//! The tmux servers of the project's own that agents' panes were opened in, and how each has ended.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ccb_core::id::AgentName;
use ccb_core::wire::Host;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::{Mounts, ccb_program};
use crate::process::Identity;
use crate::tmux::{self, Server};

/// How long a tmux server may take to end after it has let go whoever waited for that, and the other way round.
const MOMENT: Duration = Duration::from_secs(1);

/// How long it may take to learn how a server has ended whose pane has.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a tmux server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By its last pane, or an order: who closed its panes wanted that.
    InOrder,
    /// Otherwise.
    Killed,
}

/// The tmux servers of the panes.
pub(super) struct Terminals {
    /// Each with how it has ended, once it has: another may serve under the same name by the time the last of its
    /// panes tells its end.
    ends: Mutex<Vec<(Identity, watch::Receiver<Option<End>>)>>,
    /// Where a server of the project's own is told: it can own the daemon.
    own: UnboundedSender<Identity>,
}

impl Terminals {
    /// Returns none; those of the project's own will be told to `own`.
    pub(super) fn new(own: UnboundedSender<Identity>) -> Self {
        Self { ends: Mutex::default(), own }
    }

    fn ends(&self) -> MutexGuard<'_, Vec<(Identity, watch::Receiver<Option<End>>)>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pane was opened in this server of the project's own.
    pub(super) fn owns(&self, server: Server, terminal: Identity) {
        self.own.send(terminal.clone()).ok();
        self.watch(server, terminal);
    }

    /// Waits for the end of a server of the project's own, to know how it was.
    pub(super) fn watch(&self, server: Server, terminal: Identity) {
        let mut ends = self.ends();
        if ends.iter().any(|(known, _)| *known == terminal) {
            return;
        }
        let (tell, told) = watch::channel(None);
        ends.push((terminal.clone(), told));
        tokio::spawn(async move { tell.send(Some(end(&server, &terminal).await)).ok() });
    }

    fn end_of(&self, terminal: &Identity) -> Option<watch::Receiver<Option<End>>> {
        self.ends().iter().find(|(known, _)| known == terminal).map(|(_, told)| told.clone())
    }
}

/// Waits until a server has ended, and returns how.
async fn end(server: &Server, terminal: &Identity) -> End {
    // The words that have a program end with us, even by `kill -9`.
    let guard: Vec<String> = ccb_program().map_or_else(
        |_| Vec::new(),
        |ccb| vec![ccb.display().to_string(), "guard".into(), std::process::id().to_string(), "--".into()],
    );
    while terminal.is_alive() {
        let mut let_go = pin!(server.lets_go(&guard));
        let let_go = tokio::select! {
            let_go = &mut let_go => let_go,
            () = terminal.died() => tokio::time::timeout(MOMENT, let_go).await.unwrap_or(false),
        };
        if tokio::time::timeout(MOMENT, terminal.died()).await.is_ok() {
            return if let_go { End::InOrder } else { End::Killed };
        }
        // It lives: somebody has ended who waited for us.
        tokio::time::sleep(MOMENT).await;
    }
    End::Killed
}

impl Mounts {
    /// Returns the tmux server whose pane this process is in, and keeps it; none, where that cannot be told by it.
    pub(super) async fn terminal_of(&self, agent: &AgentName, runner: &Identity) -> Option<Identity> {
        let terminal = runner.parent_named(tmux::PROCESS)?;
        let own = {
            let mut kept = self.kept.lock().await;
            kept.terminals.insert(agent.clone(), terminal.clone());
            kept.host == Host::Own
        };
        if let Ok(server) = self.server().await
            && own
        {
            self.terminals.watch(server, terminal.clone());
        }
        Some(terminal)
    }

    /// Waits for the ends of the servers of the project's own that an earlier worker has opened panes in.
    pub(super) async fn watch_terminals(&self) {
        let kept = self.kept.lock().await.clone();
        let Ok(server) = self.server().await else { return };
        for terminal in kept.terminals.into_values().filter(|_| kept.host == Host::Own) {
            self.terminals.watch(server.clone(), terminal);
        }
    }

    /// Whether an agent's pane has ended because its tmux server, one of the project's own, was killed: then nobody
    /// wanted the pane closed.
    pub(super) async fn terminal_was_killed(&self, agent: &AgentName) -> bool {
        let terminal = self.kept.lock().await.terminals.get(agent).cloned();
        let Some((terminal, mut end)) = terminal.and_then(|it| self.terminals.end_of(&it).map(|end| (it, end))) else {
            return false;
        };
        let Ok(server) = self.server().await else { return false };
        tokio::select! {
            biased;
            end = end.wait_for(Option::is_some) => end.is_ok_and(|end| *end == Some(End::Killed)),
            // One that outlives its pane has closed it.
            true = server.is_served_by(&terminal) => false,
            () = tokio::time::sleep(PATIENCE) => false,
        }
    }
}
