//! What is known of each provider: a row of a table, and a pure parser of its records.

pub mod claude;
pub mod codex_hooks;
pub mod codex_rpc;
pub mod delivery;
pub mod droid;
pub mod gemini;
pub mod hook;
pub mod opencode;
pub mod records;
pub mod rollout;

use serde::{Deserialize, Serialize};

/// A kind of agent CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Claude Code.
    Claude,
    /// Codex CLI.
    Codex,
    /// Gemini CLI.
    Gemini,
    /// OpenCode.
    Opencode,
    /// Droid.
    Droid,
}

/// A provider's row.
#[derive(Debug)]
pub struct Row {
    /// The provider.
    pub provider: Provider,
    /// Its name in configuration and on command lines.
    pub name: &'static str,
    /// Its name for people, as CCB 5.2 writes it.
    pub display: &'static str,
    /// Its program.
    pub program: &'static str,
    /// How to install it.
    pub install: &'static str,
    /// The variable that gives the program another place for its own files, where it writes there even when it is only
    /// asked for its version.
    pub home: Option<&'static str>,
    /// How long (s) it must say nothing for an answer without an end to be over, and CCB 5.2's variable for that.
    pub idle: (f64, Option<&'static str>),
    /// The rungs that this version of ccb can drive its real CLI on, best first.
    pub rungs: &'static [Rung],
}

/// How an agent is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// One session shared with the visible TUI through the agent's own server.
    Joined,
    /// Paste, with hooks injected at launch.
    Hooked,
    /// Paste, with the transcript followed.
    Watched,
}

/// All providers.
pub const TABLE: &[Row] = &[
    Row {
        provider: Provider::Codex,
        name: "codex",
        display: "Codex",
        program: "codex",
        install: "npm install -g @openai/codex",
        home: None,
        idle: (8.0, Some("CCB_CASKD_IDLE_TIMEOUT")),
        rungs: &[Rung::Joined, Rung::Hooked, Rung::Watched],
    },
    Row {
        provider: Provider::Claude,
        name: "claude",
        display: "Claude",
        program: "claude",
        install: "npm install -g @anthropic-ai/claude-code",
        home: None,
        idle: (15.0, None),
        rungs: &[Rung::Hooked, Rung::Watched],
    },
    Row {
        provider: Provider::Gemini,
        name: "gemini",
        display: "Gemini",
        program: "gemini",
        install: "npm install -g @google/gemini-cli",
        home: Some("GEMINI_CLI_HOME"),
        idle: (15.0, Some("CCB_GEMINI_IDLE_TIMEOUT")),
        rungs: &[Rung::Hooked, Rung::Watched],
    },
    Row {
        provider: Provider::Opencode,
        name: "opencode",
        display: "OpenCode",
        program: "opencode",
        install: "npm install -g opencode-ai",
        home: None,
        idle: (15.0, None),
        rungs: &[Rung::Joined, Rung::Watched],
    },
    Row {
        provider: Provider::Droid,
        name: "droid",
        display: "Droid",
        program: "droid",
        install: "npm install -g droid",
        home: None,
        idle: (15.0, None),
        rungs: &[Rung::Joined, Rung::Hooked, Rung::Watched],
    },
];

impl Provider {
    /// Returns the provider's row.
    pub fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.provider == self).expect("every provider has a row")
    }

    /// Returns the provider of that name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.provider)
    }
}

impl Rung {
    /// Returns the rung's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Hooked => "hooked",
            Self::Watched => "watched",
        }
    }
}

/// What one record of an agent says, whatever its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A turn has begun (its id, if the record has one).
    TurnBegan {
        /// The provider's id.
        turn: Option<String>,
    },
    /// Somebody's input was taken.
    User {
        /// Its text.
        text: String,
        /// The client's own id of it, where the provider keeps one.
        client: Option<String>,
        /// The turn, where the record names it.
        turn: Option<String>,
    },
    /// A message of the agent, whole.
    Agent {
        /// Its text.
        text: String,
        /// The turn, where the record names it.
        turn: Option<String>,
    },
    /// A turn has ended.
    TurnEnded {
        /// The provider's id.
        turn: Option<String>,
        /// How. One that has no text takes what was seen of the turn.
        end: crate::outcome::TurnEnd,
    },
    /// A dialog or a question of the agent is open: only a human can go on.
    Waiting {
        /// What it asks, for people.
        why: String,
    },
    /// The agent tries again by itself what its provider has refused.
    Retrying {
        /// What was refused, for people.
        why: String,
    },
    /// The agent went to another session: what follows is of that one.
    SessionChanged {
        /// The session that it is in now.
        session: String,
    },
}
