//! What reaches the engine, and what it brings about: the words of [`step`](crate::step::step).

use crate::id::{AgentName, RequestId};
use crate::outcome::{EndedBy, TurnEnd};
use crate::request::{Evidence, Kind, Request};
use crate::state::Presence;
use crate::time::Time;

/// What reaches the engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The agents that the project has now, with their providers' display names.
    Configure(Vec<(AgentName, String)>),
    /// A client asks. The caller has loaded a stored request of the same id, if there is one, and the one that is
    /// asked again by it.
    Submit(Box<Request>),
    /// Somebody wants it cancelled.
    Cancel {
        /// Which.
        id: RequestId,
        /// Who.
        by: String,
    },
    /// A client waits for it.
    Waits {
        /// Which.
        id: RequestId,
    },
    /// A waiting client has gone.
    WaiterGone {
        /// Which.
        id: RequestId,
    },
    /// A client has acknowledged that it printed the reply.
    Acknowledged {
        /// Which.
        id: RequestId,
    },
    /// The transport has a (new) connection to the agent.
    Connected {
        /// Whose.
        agent: AgentName,
    },
    /// What the agent is doing, as its transport sees it.
    Presence {
        /// Whose.
        agent: AgentName,
        /// What.
        presence: Presence,
    },
    /// The hand-over is done.
    HandedOver {
        /// Which.
        id: RequestId,
        /// Which offer.
        attempt: u32,
        /// How: in which words `explain` tells it.
        how: String,
    },
    /// Proof that the offer was not taken.
    NotTaken {
        /// Which.
        id: RequestId,
        /// Which offer.
        attempt: u32,
        /// The proof.
        proof: String,
    },
    /// The offer was not made: nothing of it has left us. It does not count as one that was refused; whoever tells
    /// this has told a presence before that keeps the engine from offering again at once.
    NotHandedOver {
        /// Which.
        id: RequestId,
        /// Which offer.
        attempt: u32,
        /// Why.
        why: String,
    },
    /// Nobody can tell whether the offer was taken.
    Doubt {
        /// Which.
        id: RequestId,
        /// Which offer.
        attempt: u32,
        /// Why not.
        why: String,
        /// Whether nothing more can be found out.
        last: bool,
    },
    /// The agent's own record shows the request in a turn.
    Consumed {
        /// Which.
        id: RequestId,
        /// The provider's id of the turn.
        turn: String,
        /// Where that was seen: `protocol`, `transcript`, `hook`.
        source: String,
        /// Whether something that is not ours was seen in the turn.
        mixed: bool,
    },
    /// A turn that was bound to the request has ended.
    TurnEnded {
        /// Which.
        id: RequestId,
        /// Which turn.
        turn: String,
        /// How it ended.
        end: TurnEnd,
        /// What told us.
        by: EndedBy,
    },
    /// The agent's process or pane has ended and its records have been read to their end.
    Gone {
        /// Whose.
        agent: AgentName,
        /// Why.
        why: String,
    },
    /// A timer that was armed has come.
    Due {
        /// Of which request.
        id: RequestId,
        /// Which.
        timer: Timer,
    },
}

/// What a request may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// It is over at the latest.
    Deadline,
    /// Its offer should have been proved by now.
    Proof,
    /// Its interrupt should have been confirmed by now.
    Cancel,
    /// Its asker should have come back for the reply by now.
    Orphan,
}

/// What the world is to do, after the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put a delivery before the agent.
    Offer {
        /// Whom.
        agent: AgentName,
        /// What.
        id: RequestId,
        /// Which offer this is, from 1.
        attempt: u32,
        /// Question or notice.
        kind: Kind,
        /// The message; the transport wraps it as its agent needs.
        message: String,
        /// Whether it goes as it is.
        no_wrap: bool,
    },
    /// Stop the turn that works on it.
    Interrupt {
        /// Whose.
        agent: AgentName,
        /// Which request.
        id: RequestId,
        /// Which turn, if it is known.
        turn: Option<String>,
    },
    /// Find out from the agent's own records where this delivery stands, and follow it from there.
    Reconcile {
        /// Whose.
        agent: AgentName,
        /// Which.
        id: RequestId,
        /// Which offer.
        attempt: u32,
        /// Which turn, if one was bound.
        turn: Option<String>,
        /// Whether the agent may have said yes to this offer: then its absence from a record that can be late is no
        /// proof, also for a transport that has not made the offer itself.
        handed: bool,
        /// Whether this is the last time of asking.
        last: bool,
    },
    /// Send [`Input::Due`] at that moment (at once if it has passed).
    Arm {
        /// Of which request.
        id: RequestId,
        /// Which.
        timer: Timer,
        /// When.
        at: Time,
    },
}

/// The answer to whoever gave the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, or nothing to do.
    Fine,
    /// Accepted now.
    Accepted,
    /// Accepted earlier: the same id with the same content.
    Repeated,
    /// Refused: the id is taken by different content.
    Conflict,
    /// Refused: no such agent.
    UnknownAgent,
    /// Refused: agents would be asking one another too deep.
    TooDeep {
        /// How deep it would be.
        depth: u32,
        /// How deep is allowed.
        limit: u32,
    },
    /// Refused: the agent that asks has too many open requests.
    TooMany {
        /// How many it has.
        open: u32,
        /// How many are allowed.
        limit: u32,
    },
    /// Refused: agents would wait for each other, in this order, and none could go on. The first, which asks, is
    /// also the last.
    Cycle(Vec<AgentName>),
    /// Refused: what is to be asked again is not over; the word of its state.
    NotOver(&'static str),
    /// Refused: what is to be asked again is no question but a notice.
    NoQuestion,
    /// No such request, or nothing of it can be changed any more.
    Nothing,
}

/// What one input brings about.
#[derive(Debug)]
pub struct Step {
    /// The requests as they are to be committed.
    pub saves: Vec<Request>,
    /// The evidence to be committed with them.
    pub notes: Vec<(RequestId, Evidence)>,
    /// What is to be done after the commit.
    pub effects: Vec<Effect>,
    /// What the giver of the input is told after the commit.
    pub verdict: Verdict,
}

impl Input {
    /// Returns another request that the input speaks of: the one that it asks again. The caller has it loaded too.
    pub fn repeats(&self) -> Option<&RequestId> {
        match self {
            Self::Submit(request) => request.retry_of.as_ref(),
            Self::Configure(_)
            | Self::Cancel { .. }
            | Self::Waits { .. }
            | Self::WaiterGone { .. }
            | Self::Acknowledged { .. }
            | Self::Connected { .. }
            | Self::Presence { .. }
            | Self::HandedOver { .. }
            | Self::NotTaken { .. }
            | Self::NotHandedOver { .. }
            | Self::Doubt { .. }
            | Self::Consumed { .. }
            | Self::TurnEnded { .. }
            | Self::Gone { .. }
            | Self::Due { .. } => None,
        }
    }

    /// Returns the request that the input speaks of: the caller has it loaded before [`step`](crate::step::step).
    pub fn request(&self) -> Option<&RequestId> {
        match self {
            Self::Submit(request) => Some(&request.id),
            Self::Cancel { id, .. }
            | Self::Waits { id }
            | Self::WaiterGone { id }
            | Self::Acknowledged { id }
            | Self::HandedOver { id, .. }
            | Self::NotTaken { id, .. }
            | Self::NotHandedOver { id, .. }
            | Self::Doubt { id, .. }
            | Self::Consumed { id, .. }
            | Self::TurnEnded { id, .. }
            | Self::Due { id, .. } => Some(id),
            Self::Configure(_) | Self::Connected { .. } | Self::Presence { .. } | Self::Gone { .. } => None,
        }
    }
}
