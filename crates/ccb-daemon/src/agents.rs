//! The agents that this daemon knows: how each is configured, who runs it, and the way to its transport.
//!
//! One table behind one mutex; nothing in it is awaited while it is held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ccb_core::config::AgentConfig;
use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{Failure, TurnEnd};
use ccb_core::provider::Rung;
use ccb_core::wire::{self, Order};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::door::queue::Out;
use crate::engine::Engine;
use crate::process::Identity;
use crate::transport::Task;

/// A handle to the table.
#[derive(Clone)]
pub(crate) struct Agents {
    table: Arc<Mutex<BTreeMap<AgentName, Slot>>>,
    engine: Engine,
    /// Where broken rungs are told, and the other end until somebody takes it.
    broke: (UnboundedSender<Broke>, Told),
}

/// The end where broken rungs are told, until somebody takes it.
type Told = Arc<Mutex<Option<UnboundedReceiver<Broke>>>>;

/// A rung that has broken while an agent was driven on it.
#[derive(Debug)]
pub(crate) struct Broke {
    /// The agent.
    pub(crate) agent: AgentName,
    /// The rung.
    pub(crate) rung: Rung,
    /// Whether the agent's program may go on by itself, perhaps at something of its human's.
    pub(crate) lives: bool,
    /// How, for people.
    pub(crate) why: String,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Slot {
    /// How it is configured.
    pub(crate) config: AgentConfig,
    /// The rung it is driven on, and why that one.
    pub(crate) rung: (Rung, String),
    /// Why it is shown as watched though it was started to be hooked: nothing is heard of its hooks.
    pub(crate) unheard: Option<&'static str>,
    /// The rungs that have broken since it was last started by somebody, and how.
    pub(crate) broken: BTreeMap<Rung, String>,
    /// The way to its transport, once it has been started, and the rung that this one drives it on.
    pub(crate) tasks: Option<(UnboundedSender<Task>, Rung)>,
    /// Who runs it.
    pub(crate) runner: Option<Runner>,
    /// What the TUI shows, as the runner was last told.
    pub(crate) tui: Option<String>,
    /// The last error seen.
    pub(crate) error: Option<String>,
}

impl Slot {
    /// Returns an agent that was not started yet. Which rung it will be on is known then.
    pub(crate) fn new(config: AgentConfig) -> Self {
        let rung = match (&config.command, config.rung, config.provider.row().rungs.first()) {
            (_, Some(rung), _) => rung,
            (None, None, Some(rung)) => *rung,
            (Some(_), None, _) | (None, None, None) => Rung::Watched,
        };
        let rung = (rung, "not started yet".to_owned());
        Self { config, rung, unheard: None, broken: BTreeMap::new(), tasks: None, runner: None, tui: None, error: None }
    }
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
    /// The tmux server of its pane, once that is known.
    pub(crate) terminal: Option<Identity>,
    /// Why what runs in its pane is being ended, once it has told so or was ordered to.
    pub(crate) closing: Option<&'static str>,
}

impl Runner {
    /// Returns why what runs in its pane is ending or about to, if it is: a program that still answers does not know it.
    pub(crate) fn ending(&self) -> Option<&'static str> {
        if self.closing.is_some() {
            self.closing
        } else if !self.identity.is_alive() {
            Some("its pane has just died")
        } else if self.terminal.as_ref().is_some_and(|terminal| !terminal.is_alive()) {
            Some("the tmux server of its pane has just died")
        } else {
            None
        }
    }
}

/// Why nothing is given to what runs in a pane that somebody closes.
pub(crate) const CLOSING: &str = "its pane is being closed";

/// Returns whether a remembered error is a limit of the provider.
fn is_limit(error: &str) -> bool {
    [Failure::RateLimit, Failure::Quota].iter().any(|limit| error.starts_with(limit.words()))
}

impl Agents {
    /// Returns an empty table.
    pub(crate) fn new(engine: Engine) -> Self {
        let (tell, told) = unbounded_channel();
        Self { table: Arc::default(), engine, broke: (tell, Arc::new(Mutex::new(Some(told)))) }
    }

    /// Tells that an agent cannot be driven on its rung: it is to fall to the next one.
    pub(crate) fn broke(&self, agent: &AgentName, rung: Rung, lives: bool, why: String) {
        self.broke.0.send(Broke { agent: agent.clone(), rung, lives, why }).ok();
    }

    /// Returns where broken rungs are told, once.
    pub(crate) fn breaks(&self) -> Option<UnboundedReceiver<Broke>> {
        self.broke.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the table, locked.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentName, Slot>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a task to an agent's transport; false if it has none.
    pub(crate) fn task(&self, agent: &AgentName, task: Task) -> bool {
        self.lock().get(agent).and_then(|slot| slot.tasks.as_ref()).is_some_and(|(tasks, _)| tasks.send(task).is_ok())
    }

    /// Sends an order to an agent's runner; false if it has no connection now.
    pub(crate) fn order(&self, agent: &AgentName, order: &Order) -> bool {
        let line = wire::notice_line("order", order);
        let mut table = self.lock();
        let Some(runner) = table.get_mut(agent).and_then(|slot| slot.runner.as_mut()) else { return false };
        let sent = runner.orders.as_ref().is_some_and(|orders| orders.send(line).is_ok());
        match order {
            // From now on, though it still answers.
            Order::Stop if sent => runner.closing = Some(CLOSING),
            Order::Restart if sent => runner.closing = Some("what runs in its pane is ended, to be started again"),
            Order::Stop | Order::Restart | Order::Next { .. } | Order::Tui { .. } => {}
        }
        sent
    }

    /// An order to start anew was not followed: what runs is as it was.
    pub(crate) fn not_ending(&self, agent: &AgentName) {
        if let Some(runner) = self.lock().get_mut(agent).and_then(|slot| slot.runner.as_mut()) {
            runner.closing = None;
        }
    }

    /// Returns why what runs in an agent's pane is ending, if it is.
    pub(crate) fn ending(&self, agent: &AgentName) -> Option<&'static str> {
        self.lock().get(agent)?.runner.as_ref()?.ending()
    }

    /// Remembers an error of an agent, for people to see.
    pub(crate) fn error(&self, agent: &AgentName, error: String) {
        if let Some(slot) = self.lock().get_mut(agent) {
            slot.error = Some(error);
        }
    }

    /// Remembers until when an agent can do nothing, as the refusal of its last turn tells it, until one goes well.
    pub(crate) fn turn_ended(&self, agent: &AgentName, end: &TurnEnd) {
        let mut table = self.lock();
        let Some(slot) = table.get_mut(agent) else { return };
        match end {
            TurnEnd::Failed { reason: reason @ (Failure::RateLimit | Failure::Quota), message, .. } => {
                slot.error = Some(format!("{}: {message}", reason.words()));
            }
            TurnEnd::Completed { .. } => drop(slot.error.take_if(|error| is_limit(error))),
            TurnEnd::Failed { .. } | TurnEnd::Interrupted { .. } | TurnEnd::Quiet { .. } => {}
        }
    }

    /// Returns the limit that has ended the agent's last turn.
    pub(crate) fn limit(&self, agent: &AgentName) -> Option<String> {
        self.lock().get(agent).and_then(|slot| slot.error.clone()).filter(|error| is_limit(error))
    }

    /// Remembers why nothing is heard of an agent's hooks; none: they are heard.
    pub(crate) fn unheard(&self, agent: &AgentName, why: Option<&'static str>) {
        if let Some(slot) = self.lock().get_mut(agent) {
            slot.unheard = why;
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

    /// Keeps of what waiting the human was told last; empty: it is over.
    pub(crate) async fn note(&self, agent: &AgentName, why: &str) {
        let (key, why) = (format!("noted.{agent}"), why.to_owned());
        let kept = self.engine.look(move |view| view.store.set_meta(&key, &why)).await;
        if let Ok(Err(error)) = kept {
            crate::engine::log(&format!("{agent}: what its human was told could not be kept: {error:#}"));
        }
    }

    /// Returns of what waiting the human was told last, if it is not known to be over.
    pub(crate) async fn noted(&self, agent: &AgentName) -> Option<String> {
        let key = format!("noted.{agent}");
        let kept = self.engine.look(move |view| view.store.meta(&key).ok().flatten()).await;
        kept.ok().flatten().filter(|why| !why.is_empty())
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
