//! How agents are driven: a task for each running agent, which is told what to do and reports evidence.

pub(crate) mod claude;
pub(crate) mod codex;
pub(crate) mod droid;
pub(crate) mod follow;
pub(crate) mod gemini;
mod joined;
pub(crate) mod ladder;
pub(crate) mod opencode;
pub(crate) mod records;
pub(crate) mod seat;
pub(crate) mod shell;
pub(crate) mod storage;
pub(crate) mod watched;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use ccb_core::id::{AgentName, RequestId};
use ccb_core::prompt;
use ccb_core::provider::hook::Hook;
use ccb_core::request::{Kind, Request};
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::RunnerEvent;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use crate::agents::Agents;
use crate::engine::Engine;

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
        /// Whether the agent may have said yes to it.
        handed: bool,
        /// Whether this is the last time of asking.
        last: bool,
    },
    /// The pane's runner tells something.
    Runner(RunnerEvent),
    /// A hook of the agent tells something.
    Hook(Hook),
    /// Tell what its screen shows now, if it is one that can be read.
    Glance(UnboundedSender<Presence>),
    /// The agent is launched anew.
    Launch(Box<Launch>),
    /// The pane's runner and all that it ran are gone.
    RunnerGone {
        /// Why.
        why: String,
    },
}

/// How an agent's program is started in a session, and goes on in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Where the program keeps its records.
    pub(crate) records: PathBuf,
    /// The session that it is started in.
    pub(crate) session: String,
    /// The command line of the first start.
    pub(crate) argv: Vec<String>,
    /// The command line that goes on in a session: what stands before its id, and after it.
    pub(crate) resume: (Vec<String>, Vec<String>),
}

impl Launch {
    /// Returns the command line that goes on in that session.
    pub(crate) fn resume(&self, session: &str) -> Vec<String> {
        let (before, after) = &self.resume;
        before.iter().cloned().chain([session.to_owned()]).chain(after.iter().cloned()).collect()
    }
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
    /// Where it is seen that its pane is ending.
    agents: Agents,
    /// What it is told.
    tasks: UnboundedReceiver<Task>,
    /// What it was told, and comes back to.
    held: VecDeque<Task>,
    /// The last presence told, so that nothing is told twice.
    pub(crate) told: Option<Presence>,
    /// The last delivery that it was told of.
    heard: Option<(RequestId, u32)>,
}

/// How long a delivery may be on its way from the engine.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

impl Line {
    /// Returns the line of an agent of which nothing was told.
    pub(crate) fn new(agent: AgentName, engine: Engine, agents: Agents, tasks: UnboundedReceiver<Task>) -> Self {
        Self { agent, engine, agents, tasks, held: VecDeque::new(), told: None, heard: None }
    }

    /// Waits for the next task; none: there will be no more. Offers to what is ending with its pane go back.
    pub(crate) async fn task(&mut self) -> Option<Task> {
        loop {
            let task = match self.held.pop_front() {
                Some(task) => Some(task),
                None => self.tasks.recv().await,
            };
            if let Some(Task::Offer(Offer { id, attempt, .. }) | Task::Reconcile { id, attempt, .. }) = &task {
                self.heard = Some((id.clone(), *attempt));
            }
            let Some(Task::Offer(offer)) = task else { return task };
            let Some(why) = self.agents.ending(&self.agent) else { return Some(Task::Offer(offer)) };
            self.presence(Presence::Starting { why: why.to_owned() });
            self.not_handed_over(&offer, why);
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
    pub(crate) async fn gone(&mut self, why: &str) {
        // An offer that has just come, or is on its way, goes back: nobody need doubt what became of it. No other one is
        // made after this.
        self.presence(Presence::Starting { why: why.to_owned() });
        let at_hand = self.at_hand().await.map(|(id, attempt, _)| (id, attempt));
        let mut awaited = at_hand.filter(|delivery| self.heard.as_ref() != Some(delivery));
        let patience = Instant::now() + ON_ITS_WAY;
        loop {
            let task = match self.tasks.try_recv() {
                Ok(task) => task,
                Err(_) if awaited.is_none() => break,
                Err(_) => match tokio::time::timeout_at(patience, self.tasks.recv()).await {
                    Ok(Some(task)) => task,
                    Ok(None) | Err(_) => break,
                },
            };
            match task {
                Task::Offer(offer) => {
                    awaited.take_if(|(id, attempt)| *id == offer.id && *attempt == offer.attempt);
                    self.not_handed_over(&offer, why);
                }
                other => {
                    if let Task::Reconcile { id, attempt, .. } = &other {
                        awaited.take_if(|(of, at)| of == id && at == attempt);
                    }
                    self.held.push_back(other);
                }
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

    /// Returns whether a request is over for its asker, although the agent may still be at it.
    pub(crate) async fn is_over(&self, id: &RequestId) -> bool {
        let id = id.clone();
        let found = self.engine.look(move |view| view.state.requests.get(&id).is_none_or(Request::is_settled));
        found.await.unwrap_or(true)
    }

    /// Returns whether a request is still to be handed over: neither over nor being cancelled.
    pub(crate) async fn is_wanted(&self, id: &RequestId) -> bool {
        let id = id.clone();
        let found = self.engine.look(move |view| {
            view.state.requests.get(&id).is_some_and(|request| !request.is_settled() && request.cancel.is_none())
        });
        found.await.unwrap_or(false)
    }

    /// Tells that nothing of an offer left us. The presence that keeps the engine from offering again at once has
    /// been told before.
    pub(crate) fn not_handed_over(&self, offer: &Offer, why: &str) {
        // Others tell presences too: the engine is not to offer again by one of theirs that is older.
        let presence = self.told.clone().unwrap_or_else(|| Presence::Starting { why: why.to_owned() });
        self.engine.tell(Input::Presence { agent: self.agent.clone(), presence });
        let (id, attempt) = (offer.id.clone(), offer.attempt);
        self.engine.tell(Input::NotHandedOver { id, attempt, why: why.to_owned() });
    }
}
