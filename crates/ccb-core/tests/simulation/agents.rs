//! What is true of the simulated agents, whether or not askd knows.

use std::collections::BTreeMap;

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::TurnEnd;
use ccb_core::state::Presence;

/// How an agent is driven, which decides what can be proved of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// By its own server: its thread can be read, so both "taken" and "not taken" can be proved.
    Joined,
    /// By pasting into a screen that is understood: idle, without draft and without our anchor proves "not taken".
    Sighted,
    /// By pasting blindly: only "taken" can be proved.
    Blind,
}

/// One turn in an agent's own record.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) name: String,
    /// The delivery that it works on; none in a turn of the human's own.
    pub(crate) request: Option<RequestId>,
    /// Whether a human's text is in it beside ours.
    pub(crate) mixed: bool,
    /// None while it runs.
    pub(crate) end: Option<TurnEnd>,
}

/// What is in an agent's composer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Draft {
    Empty,
    /// The human is typing.
    Human,
    /// Our text was pasted, but never submitted.
    Ours(RequestId),
}

/// One agent.
pub(crate) struct SimAgent {
    pub(crate) name: AgentName,
    pub(crate) rung: Rung,
    pub(crate) alive: bool,
    /// Whether it is still one of the project's.
    pub(crate) configured: bool,
    /// Whether its transport is connected. The transport lives in askd and dies with it.
    pub(crate) linked: bool,
    pub(crate) draft: Draft,
    pub(crate) history: Vec<Turn>,
    /// How often each delivery was really taken into a turn.
    pub(crate) taken: BTreeMap<RequestId, u32>,
    /// The offer whose bytes are on their way.
    pub(crate) inbound: Option<(RequestId, u32)>,
    /// The last offer made to it.
    pub(crate) offered: Option<RequestId>,
    /// When its transport's last ordered message arrives; the next one comes after it.
    pub(crate) channel: i64,
    /// When its transport gets at the last thing that it was told to do.
    pub(crate) orders: i64,
}

impl SimAgent {
    pub(crate) fn new(name: &str, rung: Rung) -> Self {
        Self {
            name: AgentName::new(name).expect("a name"),
            rung,
            alive: true,
            configured: true,
            linked: false,
            draft: Draft::Empty,
            history: Vec::new(),
            taken: BTreeMap::new(),
            inbound: None,
            offered: None,
            channel: 0,
            orders: 0,
        }
    }

    pub(crate) fn running(&self) -> Option<&Turn> {
        self.history.last().filter(|turn| turn.end.is_none())
    }

    pub(crate) fn turn_of(&self, id: &RequestId) -> Option<&Turn> {
        self.history.iter().find(|turn| turn.request.as_ref() == Some(id))
    }

    /// Returns what a transport that looks now would report.
    pub(crate) fn presence(&self) -> Presence {
        if !self.alive {
            Presence::Absent { why: "dead".into() }
        } else if self.running().is_some() {
            Presence::Busy { why: "in a turn".into() }
        } else if self.draft == Draft::Empty {
            Presence::Idle
        } else {
            Presence::Waiting { why: "a draft".into() }
        }
    }

    /// Returns why nothing can be handed over now, if so: the transport's own look before the first byte.
    pub(crate) fn hindrance(&self) -> Option<&'static str> {
        if !self.alive || !self.linked {
            Some("no connection")
        } else if self.running().is_some() {
            Some("in a turn")
        } else if self.draft != Draft::Empty {
            Some("a draft is in the composer")
        } else if self.inbound.is_some() {
            Some("another hand-over is under way")
        } else {
            None
        }
    }
}

/// Returns the answer that this turn gives to that request, unlike any other text of the run.
pub(crate) fn answer(turn: &str, request: Option<&RequestId>) -> String {
    match request {
        Some(id) => format!("answer to {id} in {turn}"),
        None => format!("talk in {turn}"),
    }
}

/// Returns what there is of that answer before it is whole.
pub(crate) fn partial(turn: &str, request: Option<&RequestId>) -> String {
    format!("part of {}", answer(turn, request))
}
