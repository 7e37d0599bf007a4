//! A request: one ask with one id for its whole life, and the states it passes through.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, RequestId};
use crate::outcome::{EndedBy, Outcome};
use crate::time::Time;

/// Where a request is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stage")]
pub enum Stage {
    /// Committed; waits for its agent.
    Queued,
    /// Committed before the first byte goes to the agent.
    Offering {
        /// When.
        at: Time,
    },
    /// Handed over in full, or nobody knows how far.
    Offered {
        /// When.
        at: Time,
        /// Set when the hand-over itself is in doubt, with the reason.
        doubt: Option<String>,
        /// Whether it was told to be handed over in full. (A store of an earlier version does not say.)
        #[serde(default = "yes")]
        handed: bool,
    },
    /// The agent's own record shows our anchor in a turn.
    Working {
        /// When that was seen.
        at: Time,
        /// The provider's id of that turn.
        turn: String,
        /// Whether something that is not ours was seen in the turn.
        mixed: bool,
    },
    /// Over.
    Settled(Settlement),
}

/// What is taken to be so where nothing is said.
fn yes() -> bool {
    true
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// When.
    pub at: Time,
    /// Which of the four words, and why.
    pub outcome: Outcome,
    /// The reply, whole or partial, or empty.
    pub reply: String,
    /// What told us of the turn's end, if a turn ended.
    pub ended_by: Option<EndedBy>,
    /// The turn's id, if one was bound.
    pub turn: Option<String>,
    /// Whether other input was seen in the turn, so that an answer that comes late may not be ours alone.
    #[serde(default)]
    pub mixed: bool,
    /// A real answer that came after the settlement.
    pub late: Option<Late>,
}

/// A real answer that came after its request had been settled (promise P4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// When it came.
    pub at: Time,
    /// The answer.
    pub reply: String,
    /// What told us of the turn's end.
    pub ended_by: EndedBy,
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "who")]
pub enum Asker {
    /// A human or a script.
    Manual,
    /// An agent of this project.
    Agent {
        /// Its name.
        name: AgentName,
    },
}

impl Asker {
    /// Returns the asker's name as CCB 5.2 writes it.
    pub fn word(&self) -> &str {
        match self {
            Self::Manual => "manual",
            Self::Agent { name } => name.as_str(),
        }
    }
}

/// What is to be put before an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Kind {
    /// A question; its answer is wanted.
    Ask,
    /// The reply to an earlier question of this agent; wants no answer.
    Notice {
        /// The request whose reply it carries.
        of: RequestId,
    },
}

/// One ask (or the notice that carries its reply), from acceptance to its end.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// The order of acceptance, which is the order in its agent's queue.
    pub seq: u64,
    /// Whom it is for.
    pub agent: AgentName,
    /// Who asked.
    pub asker: Asker,
    /// What the asking agent was working on when it asked. A notice has that of the request that it carries.
    #[serde(default)]
    pub parent: Option<RequestId>,
    /// The request that it asks again, if somebody wanted that.
    #[serde(default)]
    pub retry_of: Option<RequestId>,
    /// The requests by which it was asked again, in their order.
    #[serde(default)]
    pub retries: Vec<RequestId>,
    /// How deep it is in the tree of requests: 1 without a parent, else one more than that.
    #[serde(default = "top")]
    pub depth: u32,
    /// Question or notice.
    pub kind: Kind,
    /// The message, as data.
    pub message: String,
    /// Whether the agent gets the message as it is, without our envelope.
    pub no_wrap: bool,
    /// Whether the asker said that it waits for the answer itself.
    pub waits: bool,
    /// When it was accepted.
    pub accepted: Time,
    /// When it is over at the latest.
    pub deadline: Option<Time>,
    /// How many offers were made.
    pub attempts: u32,
    /// Who asked for it to be cancelled, while the agent has not confirmed.
    pub cancel: Option<String>,
    /// When the asker acknowledged the reply.
    pub delivered: Option<Time>,
    /// How many notices of its reply were made.
    pub notices: u32,
    /// Whether it was settled while its agent was at it, which may be so still: the agent is not free before that
    /// is known to be over.
    #[serde(default)]
    pub held: bool,
    /// When it was found that the agent that asked cannot be told: its reply is kept, and that is all.
    #[serde(default)]
    pub kept: Option<Time>,
    /// Where it is.
    pub stage: Stage,
}

/// The depth of a request without a parent.
fn top() -> u32 {
    1
}

impl std::fmt::Debug for Request {
    /// Hides the message: it may hold anything.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({} for {}, {} bytes, {:?})", self.id, self.agent, self.message.len(), self.stage)
    }
}

impl Request {
    /// Returns a delivery that has just been made, by a human, with everything else as it is at first.
    pub fn new(id: RequestId, agent: AgentName, message: String, accepted: Time) -> Self {
        Self {
            id,
            seq: 0,
            agent,
            asker: Asker::Manual,
            parent: None,
            retry_of: None,
            retries: Vec::new(),
            depth: top(),
            kind: Kind::Ask,
            message,
            no_wrap: false,
            waits: false,
            accepted,
            deadline: None,
            attempts: 0,
            cancel: None,
            delivered: None,
            notices: 0,
            held: false,
            kept: None,
            stage: Stage::Queued,
        }
    }

    /// Returns the settlement, if it is over.
    pub fn settlement(&self) -> Option<&Settlement> {
        match &self.stage {
            Stage::Settled(settlement) => Some(settlement),
            Stage::Queued | Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. } => None,
        }
    }

    /// Returns whether a new askd needs it: it is not over, its agent may still be at it, or an agent that asked
    /// has not been told of its end.
    pub fn is_open(&self) -> bool {
        let owed = matches!(self.asker, Asker::Agent { .. }) && self.kind == Kind::Ask && self.kept.is_none();
        !self.is_settled() || self.held || (owed && self.delivered.is_none() && self.notices == 0)
    }

    /// Returns whether it is over.
    pub fn is_settled(&self) -> bool {
        self.settlement().is_some()
    }

    /// Returns the turn that was bound to it.
    pub fn turn(&self) -> Option<&str> {
        match &self.stage {
            Stage::Working { turn, .. } => Some(turn),
            Stage::Settled(settlement) => settlement.turn.as_deref(),
            Stage::Queued | Stage::Offering { .. } | Stage::Offered { .. } => None,
        }
    }

    /// Returns the request whose reply it carries, if it is a notice.
    pub fn carries(&self) -> Option<&RequestId> {
        match &self.kind {
            Kind::Ask => None,
            Kind::Notice { of } => Some(of),
        }
    }

    /// Returns whether `other` asks the same: what makes a repeated submission the same request.
    pub fn same_content(&self, other: &Self) -> bool {
        self.agent == other.agent
            && self.message == other.message
            && self.no_wrap == other.no_wrap
            && self.kind == other.kind
            && self.retry_of == other.retry_of
    }
}

impl Stage {
    /// Returns the state's word, as `ps` and `explain` show it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Offering { .. } => "offering",
            Self::Offered { .. } => "offered",
            Self::Working { .. } => "working",
            Self::Settled(_) => "settled",
        }
    }
}

/// A stored fact behind a state (promise P4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When it was seen.
    pub at: Time,
    /// Where it comes from: `client`, `askd`, `protocol`, `transcript`, `pane`, `human`, …
    pub source: String,
    /// What it says.
    pub what: String,
    /// The provider's turn it speaks of.
    pub turn: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stored_by_the_previous_version_is_read() {
        let stored = r#"{"id":"r1","seq":7,"agent":"codex","asker":{"who":"agent","name":"claude"},
            "kind":{"kind":"ask"},"message":"do it","no_wrap":false,"waits":true,"accepted":5,"deadline":null,
            "attempts":1,"cancel":null,"delivered":null,"notices":0,"stage":{"stage":"offering","at":6}}"#;
        let request: Request = serde_json::from_str(stored).unwrap();
        assert_eq!((request.parent.as_ref(), request.depth, request.kept), (None, 1, None));
        assert_eq!((request.retry_of.as_ref(), request.retries.len()), (None, 0));
        let again = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&again).unwrap(), request);
    }
}
