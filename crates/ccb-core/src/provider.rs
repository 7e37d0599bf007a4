//! What is known of each provider: a row of a table, and a pure parser of its records.

pub mod claude;
pub mod codex_rpc;
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
    /// The rungs that this version of ccb can drive its real CLI on, best first.
    pub rungs: &'static [Rung],
}

/// How an agent is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        rungs: &[Rung::Joined],
    },
    Row {
        provider: Provider::Claude,
        name: "claude",
        display: "Claude",
        program: "claude",
        install: "npm install -g @anthropic-ai/claude-code",
        rungs: &[Rung::Hooked, Rung::Watched],
    },
    Row {
        provider: Provider::Gemini,
        name: "gemini",
        display: "Gemini",
        program: "gemini",
        install: "npm install -g @google/gemini-cli",
        rungs: &[],
    },
    Row {
        provider: Provider::Opencode,
        name: "opencode",
        display: "OpenCode",
        program: "opencode",
        install: "npm install -g opencode-ai",
        rungs: &[],
    },
    Row {
        provider: Provider::Droid,
        name: "droid",
        display: "Droid",
        program: "droid",
        install: "npm install -g droid",
        rungs: &[],
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
        /// How.
        end: crate::outcome::TurnEnd,
    },
}
