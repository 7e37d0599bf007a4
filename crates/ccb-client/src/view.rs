//! `ccb view`: the conversation with an agent that has no interface of its own, in its pane.
//!
//! What is seen and typed is here in pure pieces ([`keys`], [`editor`], [`screen`], [`ledger`]); each agent's own
//! language is a file that turns it into [`Event`]s ([`droid`]); [`window`] joins them to the world.

pub(crate) mod door;
pub(crate) mod droid;
pub(crate) mod editor;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod lines;
pub(crate) mod records;
pub(crate) mod screen;
pub(crate) mod window;

use ccb_core::outcome::TurnEnd;

/// What an agent does, in whatever language it has told it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Its session can be talked to.
    Ready {
        /// The session.
        session: String,
        /// Whether it was there before.
        loaded: bool,
    },
    /// It cannot go on in the session that it was told; there will be another one.
    Lost {
        /// Why.
        why: String,
    },
    /// There is nothing to be had of this run of its program.
    Useless {
        /// Why.
        why: String,
    },
    /// A message was taken into a turn.
    Taken {
        /// The turn.
        turn: String,
        /// The id that the message was given, if it was given one.
        id: Option<String>,
        /// Its text.
        text: String,
    },
    /// A message was refused.
    Refused {
        /// The id that the message was given, if it was given one.
        id: Option<String>,
        /// Why.
        why: String,
    },
    /// A piece of the answer.
    Piece(String),
    /// The text that was being written is complete.
    PieceEnd,
    /// A tool is called, in words.
    Tool(String),
    /// A tool has answered, in words.
    ToolEnded {
        /// Whether it failed.
        failed: bool,
        /// What it said.
        words: String,
    },
    /// It tries again what has failed.
    Retry(String),
    /// An error, or words of the agent's program for the user.
    Remark(String),
    /// It asks the human something.
    Asked(Question),
    /// What it asked is settled.
    Settled {
        /// The question's key.
        key: String,
    },
    /// A turn is over.
    Ended {
        /// Which.
        turn: String,
        /// How.
        end: TurnEnd,
    },
}

/// What the agent asks the human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// What it is known by.
    pub(crate) key: String,
    /// Its words, in lines.
    pub(crate) words: Vec<String>,
    /// The keys that answer it, each with what it means; none: a line of text answers it.
    pub(crate) choices: Vec<(char, String)>,
}

impl Question {
    /// Returns whether an entered line answers it: any text, where there are no choices, else the key of one.
    pub(crate) fn takes(&self, line: &str) -> bool {
        self.choices.is_empty() || self.choices.iter().any(|(letter, _)| line == letter.to_string())
    }
}
