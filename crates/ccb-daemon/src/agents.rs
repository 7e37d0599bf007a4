//! The agents that this daemon knows: how each is configured, who runs it, and the way to its transport.
//!
//! One table behind one mutex; nothing in it is awaited while it is held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ccb_core::config::AgentConfig;
use ccb_core::id::{AgentName, RequestId};
use ccb_core::provider::Rung;
use ccb_core::wire::{self, Order};
use tokio::sync::mpsc::UnboundedSender;

use crate::door::queue::Out;
use crate::engine::Engine;
use crate::process::Identity;
use crate::transport::Task;

/// A handle to the table.
#[derive(Clone)]
pub(crate) struct Agents {
    table: Arc<Mutex<BTreeMap<AgentName, Slot>>>,
    engine: Engine,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Slot {
    /// How it is configured.
    pub(crate) config: AgentConfig,
    /// The rung it is driven on, and why that one.
    pub(crate) rung: (Rung, String),
    /// The way to its transport, once it has been started.
    pub(crate) tasks: Option<UnboundedSender<Task>>,
    /// Who runs it.
    pub(crate) runner: Option<Runner>,
    /// What the TUI shows, as the runner was last told.
    pub(crate) tui: Option<String>,
    /// The last error seen.
    pub(crate) error: Option<String>,
}

/// The process in an agent's pane that runs it.
#[derive(Clone, Debug)]
pub(crate) struct Runner {
    /// The process.
    pub(crate) identity: Identity,
    /// The tmux server's socket and the pane.
    pub(crate) pane: Option<(String, String)>,
    /// Lines for its connection, while it has one.
    pub(crate) orders: Option<Out>,
    /// Which connection that is.
    pub(crate) connection: u64,
}

impl Agents {
    /// Returns an empty table.
    pub(crate) fn new(engine: Engine) -> Self {
        Self { table: Arc::default(), engine }
    }

    /// Returns the table, locked.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentName, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a task to an agent's transport; false if it has none.
    pub(crate) fn task(&self, agent: &AgentName, task: Task) -> bool {
        self.lock().get(agent).and_then(|slot| slot.tasks.as_ref()).is_some_and(|tasks| tasks.send(task).is_ok())
    }

    /// Sends an order to an agent's runner; false if it has no connection now.
    pub(crate) fn order(&self, agent: &AgentName, order: &Order) -> bool {
        let line = wire::notice_line("order", order);
        let table = self.lock();
        let orders = table.get(agent).and_then(|slot| slot.runner.as_ref()).and_then(|runner| runner.orders.as_ref());
        orders.is_some_and(|orders| orders.send(line).is_ok())
    }

    /// Remembers an error of an agent, for people to see.
    pub(crate) fn error(&self, agent: &AgentName, error: String) {
        if let Some(slot) = self.lock().get_mut(agent) {
            slot.error = Some(error);
        }
    }

    /// Remembers on which rung an agent is driven, and why.
    pub(crate) fn set_rung(&self, agent: &AgentName, rung: Rung, why: &str) {
        if let Some(slot) = self.lock().get_mut(agent) {
            slot.rung = (rung, why.to_owned());
        }
    }

    /// Remembers what an agent's TUI shows.
    pub(crate) fn set_tui(&self, agent: &AgentName, shows: Option<String>) {
        if let Some(slot) = self.lock().get_mut(agent) {
            slot.tui = shows;
        }
    }

    /// Returns whether an agent's TUI shows `what`, as far as the runner was told.
    pub(crate) fn tui_shows(&self, agent: &AgentName, what: &str) -> bool {
        self.lock().get(agent).is_some_and(|slot| slot.tui.as_deref() == Some(what))
    }

    /// Returns the provider's session that the agent was last in.
    pub(crate) async fn session(&self, agent: &AgentName) -> Option<String> {
        let key = session_key(agent);
        self.engine.look(move |view| view.store.meta(&key).ok().flatten()).await.ok().flatten()
    }

    /// Keeps the provider's session that the agent is in, across restarts.
    pub(crate) async fn set_session(&self, agent: &AgentName, session: &str) {
        let (key, session) = (session_key(agent), session.to_owned());
        let kept = self.engine.look(move |view| view.store.set_meta(&key, &session)).await;
        if let Ok(Err(error)) = kept {
            crate::engine::log(&format!("{agent}: its session could not be kept: {error:#}"));
        }
    }

    /// Keeps that the agent went to another session while this offer was at hand.
    pub(crate) async fn set_moved(&self, agent: &AgentName, id: &RequestId, attempt: u32) {
        let (key, offer) = (format!("moved.{agent}"), format!("{id} {attempt}"));
        let kept = self.engine.look(move |view| view.store.set_meta(&key, &offer)).await;
        if let Ok(Err(error)) = kept {
            crate::engine::log(&format!("{agent}: its change of session could not be kept: {error:#}"));
        }
    }

    /// Returns whether the agent went to another session while this offer was at hand.
    pub(crate) async fn moved(&self, agent: &AgentName, id: &RequestId, attempt: u32) -> bool {
        let (key, offer) = (format!("moved.{agent}"), format!("{id} {attempt}"));
        let kept = self.engine.look(move |view| view.store.meta(&key).ok().flatten()).await;
        kept.is_ok_and(|kept| kept.is_some_and(|kept| kept == offer))
    }
}

fn session_key(agent: &AgentName) -> String {
    format!("session.{agent}")
}
