//! What the engine knows: the agents, their queues, and the requests that are not over.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, RequestId};
use crate::request::{Request, Stage};
use crate::time::Time;

/// Whether an agent can take something now, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Presence {
    /// Not running.
    Absent {
        /// Why, and what to do.
        why: String,
    },
    /// On its way.
    Starting {
        /// What it waits for.
        why: String,
    },
    /// Free.
    Idle,
    /// In a turn, ours or a human's.
    Busy {
        /// With what.
        why: String,
    },
    /// A human is needed: a dialog, a login, a draft in the composer.
    Waiting {
        /// For what.
        why: String,
    },
}

impl Presence {
    /// Returns the state's word, as `ps` shows it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "not running",
            Self::Starting { .. } => "starting",
            Self::Idle => "idle",
            Self::Busy { .. } => "busy",
            Self::Waiting { .. } => "waiting for you",
        }
    }

    /// Returns the reason, where there is one.
    pub fn why(&self) -> &str {
        match self {
            Self::Idle => "",
            Self::Absent { why } | Self::Starting { why } | Self::Busy { why } | Self::Waiting { why } => why,
        }
    }
}

/// One agent of the project, as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// The provider's display name, for notices.
    pub provider: String,
    /// Whether the transport is connected and has told where the current delivery stands.
    pub presence: Presence,
    /// The one outstanding delivery. It stays here until its turn is known to be over, even if the request
    /// itself has been settled by its deadline meanwhile.
    pub current: Option<RequestId>,
    /// What waits, in order.
    pub queue: VecDeque<RequestId>,
}

/// All that the engine knows. Derived from the store at start; nothing in it is worth keeping but the requests.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The agents of the project.
    pub agents: BTreeMap<AgentName, Agent>,
    /// The requests that are not over, and those settled ones that a late truth may still reach.
    pub requests: BTreeMap<RequestId, Request>,
    /// How many connections wait for each request.
    pub waiting: BTreeMap<RequestId, u32>,
    /// When askd started: who waited before that is on its way back to us for a while.
    pub since: Time,
    /// The number that the next accepted request gets.
    pub next_seq: u64,
    /// Times, limits.
    pub policy: Policy,
}

/// The engine's times and limits.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How long (ms) an offer may stay unproved before it is looked into.
    pub consume_grace: i64,
    /// How long (ms) an interrupt may stay unconfirmed before a cancelled request is settled all the same.
    pub cancel_grace: i64,
    /// How long (ms) the reply to an agent that waited itself is kept for it after it has gone.
    pub orphan_grace: i64,
    /// How many proved failures to take an offer are enough.
    pub max_attempts: u32,
    /// How deep agents may ask one another in the course of one request (`CCB_MAX_DEPTH`).
    pub max_depth: u32,
    /// How many requests of an agent's own may be open at a time (`CCB_MAX_OPEN`).
    pub max_open: u32,
    /// Whether replies to agents become notices (`CCB_COMPLETION_HOOK_ENABLED`).
    pub notices: bool,
    /// Deliberate faults, for the simulation to prove that it sees them. Empty in the product.
    pub sabotage: Vec<Sabotage>,
}

/// A deliberate fault of the engine: what each promise's test must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// P1: a request whose deadline passes while queued is forgotten instead of settled.
    ForgetQueued,
    /// P2: an unproved offer is offered again.
    OfferAgainWithoutProof,
    /// P2: offers are made without regard to what the agent is doing.
    IgnoreBusy,
    /// P3: the end of any turn ends the current request.
    AnyTurnEnds,
    /// P4: a late answer is thrown away.
    DropLate,
    /// P1: an agent that asked is not told what became of its request.
    KeepSilent,
    /// P4: a hand-over is stored without its evidence.
    MoveUnexplained,
    /// The tree: agents may wait for each other in a ring.
    IgnoreCycles,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            consume_grace: 20_000,
            cancel_grace: 10_000,
            orphan_grace: 10_000,
            max_attempts: 5,
            max_depth: 6,
            max_open: 8,
            notices: true,
            sabotage: Vec::new(),
        }
    }
}

impl State {
    /// Returns the state that follows from the store: the requests that are [open](Request::is_open). Start-up is recovery: there is no other way in.
    pub fn restore(unsettled: impl IntoIterator<Item = Request>, next_seq: u64, policy: Policy, now: Time) -> Self {
        let mut state = Self { since: now, next_seq, policy, ..Self::default() };
        let mut all: Vec<Request> = unsettled.into_iter().collect();
        all.sort_by_key(|request| request.seq);
        for request in all {
            let agent = state.agent_mut(&request.agent);
            match request.stage {
                Stage::Queued => agent.queue.push_back(request.id.clone()),
                Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. } => {
                    agent.current = Some(request.id.clone());
                }
                Stage::Settled(_) if request.held => agent.current = Some(request.id.clone()),
                Stage::Settled(_) => {}
            }
            state.requests.insert(request.id.clone(), request);
        }
        state
    }

    /// Returns the agent of that name, made if it is not there.
    pub(crate) fn agent_mut(&mut self, name: &AgentName) -> &mut Agent {
        self.agents.entry(name.clone()).or_insert_with(|| Agent {
            name: name.clone(),
            provider: name.to_string(),
            presence: Presence::Absent { why: "not started".into() },
            current: None,
            queue: VecDeque::new(),
        })
    }

    /// Returns the requests that restored notices carry and that were not restored with them. The caller loads
    /// them into [`State::requests`], so that a notice's end can mark its request as delivered.
    pub fn lacks(&self) -> Vec<RequestId> {
        let carried = self.requests.values().filter(|request| !request.is_settled()).filter_map(Request::carries);
        carried.filter(|of| !self.requests.contains_key(*of)).cloned().collect()
    }

    /// Returns what the agent has at hand: every delivery under way, and its current one even if that is settled.
    pub(crate) fn at_hand(&self, name: &AgentName) -> Vec<RequestId> {
        let current = self.agents.get(name).and_then(|agent| agent.current.as_ref());
        let at_hand = |request: &&Request| match &request.stage {
            Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. } => &request.agent == name,
            Stage::Queued | Stage::Settled(_) => current == Some(&request.id),
        };
        self.requests.values().filter(at_hand).map(|request| request.id.clone()).collect()
    }

    /// Forgets a settled request if nothing in memory needs it; the store has it. One that a notice carries is
    /// needed until the notice is over.
    pub fn forget_settled(&mut self, id: &RequestId) {
        let Some(request) = self.requests.get(id).filter(|request| request.is_settled()) else {
            return;
        };
        let carried = |n| self.requests.get(&id.notice(n)).is_some_and(|notice| !notice.is_settled());
        let needed = self.waiting.contains_key(id)
            || self.agents.values().any(|agent| agent.current.as_ref() == Some(id))
            || (1..=request.notices).any(carried);
        if !needed
            && let Some(request) = self.requests.remove(id)
            && let Some(of) = request.carries()
        {
            self.forget_settled(of);
        }
    }

    /// Returns whether that fault is switched on.
    pub(crate) fn sabotaged(&self, fault: Sabotage) -> bool {
        self.policy.sabotage.contains(&fault)
    }
}
