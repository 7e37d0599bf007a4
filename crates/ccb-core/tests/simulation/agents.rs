//! What is true of the simulated agents, whether or not askd knows.

use std::collections::{BTreeMap, BTreeSet};

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::TurnEnd;
use ccb_core::state::Presence;

use crate::course::{Course, Death};
use crate::seen::Mark;

/// How an agent is driven, which decides what can be proved of it and how its ends are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rung {
    /// By its own server: its thread can be read, so both "taken" and "not taken" can be proved; its events push.
    Joined,
    /// By pasting into a screen that is understood, with hooks that push and a record that makes good what they lose.
    Hooked,
    /// By pasting into a screen that is understood: idle, without draft and without our anchor proves "not taken".
    Sighted,
    /// By pasting blindly: only "taken" can be proved.
    Blind,
}

/// All of them.
pub(crate) const RUNGS: [Rung; 4] = [Rung::Joined, Rung::Hooked, Rung::Sighted, Rung::Blind];

impl Rung {
    /// Returns whether the agent tells of its ends by itself, so that the record is a second source.
    pub(crate) fn pushes(self) -> bool {
        match self {
            Self::Joined | Self::Hooked => true,
            Self::Sighted | Self::Blind => false,
        }
    }

    /// Returns whether the screen is understood.
    pub(crate) fn sees(self) -> bool {
        match self {
            Self::Hooked | Self::Sighted => true,
            Self::Joined | Self::Blind => false,
        }
    }
}

/// What an agent's record shows of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Our input in it.
    Input,
    /// Nothing of it yet.
    Later,
    /// Nothing of it, and never will: it came to nothing before its input was written down.
    Never,
    /// Nothing of it any more: the session's file was deleted, or its thread is gone.
    NoMore,
}

/// One turn of an agent.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) name: String,
    /// How its agent was driven then.
    pub(crate) rung: Rung,
    /// In which of the agent's sessions it is.
    pub(crate) session: u32,
    /// When it began.
    pub(crate) began: i64,
    /// How it goes and ends, if nobody comes between.
    pub(crate) course: Course,
    /// What the agent's screen says it is doing.
    pub(crate) doing: &'static str,
    /// What can be read of it.
    pub(crate) shows: Shows,
    /// The delivery that it works on; none in a turn of the human's own.
    pub(crate) request: Option<RequestId>,
    /// Whether a human's text is in it beside ours.
    pub(crate) mixed: bool,
    /// Whether its transport has given its end up, for quiet.
    pub(crate) given_up: bool,
    /// What has happened in it, for the count.
    pub(crate) marks: BTreeSet<Mark>,
    /// How it ended; empty while it runs. One that was left for another session may be answered after all.
    pub(crate) ends: Vec<TurnEnd>,
}

impl Turn {
    pub(crate) fn runs(&self) -> bool {
        self.ends.is_empty()
    }
}

/// A transport's connection to its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    None,
    /// It is lost, and its transport has not noticed.
    Lost,
    Good,
}

/// The last offer that a joined agent's transport has made, as it remembers it.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) id: RequestId,
    pub(crate) attempt: u32,
    /// Whether the program lives to which it was made.
    pub(crate) lives: bool,
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
    /// What it died of last.
    pub(crate) death: Option<Death>,
    /// Whether it is still one of the project's.
    pub(crate) configured: bool,
    /// Whether its transport is connected. The transport lives in askd and dies with it.
    pub(crate) link: Link,
    /// How many connections there have been, and since when there is this one.
    pub(crate) links: u32,
    pub(crate) linked_at: i64,
    /// The session that the human sees; `/clear`, `/new` and `/resume` change it.
    pub(crate) session: u32,
    pub(crate) draft: Draft,
    pub(crate) history: Vec<Turn>,
    /// How often each delivery was really taken into a turn.
    pub(crate) taken: BTreeMap<RequestId, u32>,
    /// The offer whose bytes are on their way.
    pub(crate) inbound: Option<(RequestId, u32)>,
    /// What it has accepted and neither written down nor begun.
    pub(crate) swallowed: Vec<RequestId>,
    /// The last offer made to it.
    pub(crate) offered: Option<RequestId>,
    /// What its transport remembers of that, if it is joined.
    pub(crate) made: Option<Made>,
    /// When its transport's last ordered message arrives; the next one comes after it.
    pub(crate) channel: i64,
    /// When the last line of its record arrives that makes good a push.
    pub(crate) record: i64,
    /// When its transport gets at the last thing that it was told to do.
    pub(crate) orders: i64,
}

impl SimAgent {
    pub(crate) fn new(name: &str, rung: Rung) -> Self {
        Self {
            name: AgentName::new(name).expect("a name"),
            rung,
            alive: true,
            death: None,
            configured: true,
            link: Link::None,
            links: 0,
            linked_at: 0,
            session: 1,
            draft: Draft::Empty,
            history: Vec::new(),
            taken: BTreeMap::new(),
            inbound: None,
            swallowed: Vec::new(),
            offered: None,
            made: None,
            channel: 0,
            record: 0,
            orders: 0,
        }
    }

    pub(crate) fn running(&self) -> Option<&Turn> {
        self.history.last().filter(|turn| turn.runs())
    }

    /// Returns whether its transport hears what it tells.
    pub(crate) fn is_heard(&self) -> bool {
        self.link == Link::Good
    }

    /// Returns the turn that holds a delivery. One that came to nothing unwritten may have had another before it.
    pub(crate) fn turn_of(&self, id: &RequestId) -> Option<&Turn> {
        self.history.iter().rev().find(|turn| turn.request.as_ref() == Some(id))
    }

    /// Returns the turn in which its record shows a delivery.
    pub(crate) fn shown(&self, id: &RequestId) -> Option<&Turn> {
        self.turn_of(id).filter(|turn| turn.shows == Shows::Input)
    }

    /// Adds a turn that begins now.
    pub(crate) fn add_turn(&mut self, now: i64, course: Course, request: Option<RequestId>) -> &mut Turn {
        self.history.push(Turn {
            name: format!("{}-t{}", self.name, self.history.len() + 1),
            rung: self.rung,
            session: self.session,
            began: now,
            course,
            doing: "in a turn",
            shows: Shows::Input,
            request,
            mixed: false,
            given_up: false,
            marks: BTreeSet::new(),
            ends: Vec::new(),
        });
        self.history.last_mut().expect("it was just added")
    }

    pub(crate) fn turn_mut(&mut self, name: &str) -> Option<&mut Turn> {
        self.history.iter_mut().find(|turn| turn.name == name)
    }

    /// Returns what a transport that looks now would report.
    pub(crate) fn presence(&self) -> Presence {
        if !self.alive {
            Presence::Absent { why: "dead".into() }
        } else if let Some(turn) = self.running() {
            Presence::Busy { why: turn.doing.into() }
        } else if self.draft == Draft::Empty {
            Presence::Idle
        } else {
            Presence::Waiting { why: "a draft".into() }
        }
    }

    /// Returns why nothing can be handed over now, if so: the transport's own look before the first byte.
    pub(crate) fn hindrance(&self) -> Option<&'static str> {
        if !self.alive || self.link == Link::None {
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
