//! How agents are driven: a task for each running agent, which is told what to do and reports evidence.

pub(crate) mod claude;
pub(crate) mod codex;
pub(crate) mod follow;
pub(crate) mod seat;
pub(crate) mod watched;

use std::collections::VecDeque;

use ccb_core::id::{AgentName, RequestId};
use ccb_core::prompt;
use ccb_core::provider::claude::Hook;
use ccb_core::request::Kind;
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::RunnerEvent;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::transport::claude::launch::Launch;

/// What a transport is told.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Put this before the agent.
    Offer(Offer),
    /// Stop the turn that works on it.
    Interrupt {
        /// Which request.
        id: RequestId,
        /// Which turn, if it is known.
        turn: Option<String>,
    },
    /// Find out where this delivery stands.
    Reconcile {
        /// Which.
        id: RequestId,
        /// Which offer.
        attempt: u32,
        /// Question or notice.
        kind: Kind,
        /// The turn that it was seen in, if it was.
        turn: Option<String>,
        /// Whether this is the last time of asking.
        last: bool,
    },
    /// The pane's runner tells something.
    Runner(RunnerEvent),
    /// A hook of the agent tells something.
    Hook(Hook),
    /// Claude is launched anew.
    Launch(Box<Launch>),
    /// The pane's runner and all that it ran are gone.
    RunnerGone {
        /// Why.
        why: String,
    },
}

/// A delivery on its way.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Which.
    pub(crate) id: RequestId,
    /// Which offer of it.
    pub(crate) attempt: u32,
    /// Question or notice.
    pub(crate) kind: Kind,
    /// The message.
    pub(crate) message: String,
    /// Whether it goes as it is.
    pub(crate) no_wrap: bool,
}

impl Offer {
    /// Returns what goes into the composer. The anchor heads it in any case: without it no answer could be told from
    /// another.
    pub(crate) fn text(&self, marked: bool) -> String {
        match self.kind {
            Kind::Ask => prompt::envelope(&self.id, &self.message, marked),
            Kind::Notice { .. } => self.message.clone(),
        }
    }
}

/// Waits for a moment; for ever if there is none.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What every transport has.
pub(crate) struct Line {
    /// Its agent.
    pub(crate) agent: AgentName,
    /// Where its evidence goes.
    pub(crate) engine: Engine,
    /// What it is told.
    tasks: UnboundedReceiver<Task>,
    /// What it was told, and comes back to.
    held: VecDeque<Task>,
    /// The last presence told, so that nothing is told twice.
    pub(crate) told: Option<Presence>,
}

impl Line {
    /// Returns the line of an agent of which nothing was told.
    pub(crate) fn new(agent: AgentName, engine: Engine, tasks: UnboundedReceiver<Task>) -> Self {
        Self { agent, engine, tasks, held: VecDeque::new(), told: None }
    }

    /// Waits for the next task; none: there will be no more.
    pub(crate) async fn task(&mut self) -> Option<Task> {
        match self.held.pop_front() {
            Some(task) => Some(task),
            None => self.tasks.recv().await,
        }
    }

    /// Tells what the agent is doing, if that is news.
    pub(crate) fn presence(&mut self, presence: Presence) {
        if self.told.as_ref() != Some(&presence) {
            self.told = Some(presence.clone());
            self.engine.tell(Input::Presence { agent: self.agent.clone(), presence });
        }
    }

    /// Tells that there is a (new) connection to the agent: the engine asks where its delivery stands.
    pub(crate) fn connected(&mut self) {
        self.engine.tell(Input::Connected { agent: self.agent.clone() });
    }

    /// Tells that the agent is gone, after its records were read to their end.
    pub(crate) fn gone(&mut self, why: &str) {
        // An offer that has just come goes back: nobody need doubt what became of it.
        while let Ok(task) = self.tasks.try_recv() {
            match task {
                Task::Offer(offer) => {
                    self.presence(Presence::Starting { why: why.to_owned() });
                    self.not_handed_over(&offer, why);
                }
                other => self.held.push_back(other),
            }
        }
        self.told = None;
        self.engine.tell(Input::Gone { agent: self.agent.clone(), why: why.to_owned() });
    }

    /// Returns the delivery that the engine takes the agent to be at.
    pub(crate) async fn at_hand(&self) -> Option<(RequestId, u32, Kind)> {
        let agent = self.agent.clone();
        let found = self.engine.look(move |view| {
            let id = view.state.agents.get(&agent)?.current.as_ref()?;
            view.state.requests.get(id).map(|request| (id.clone(), request.attempts, request.kind.clone()))
        });
        found.await.ok().flatten()
    }

    /// Tells that nothing of an offer left us. The presence that keeps the engine from offering again at once has
    /// been told before.
    pub(crate) fn not_handed_over(&self, offer: &Offer, why: &str) {
        let (id, attempt) = (offer.id.clone(), offer.attempt);
        self.engine.tell(Input::NotHandedOver { id, attempt, why: why.to_owned() });
    }
}
