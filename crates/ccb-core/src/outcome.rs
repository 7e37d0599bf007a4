//! How a request ends, and how we know.

use serde::{Deserialize, Serialize};

/// The four words of CCB 5.2, each with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "word")]
pub enum Outcome {
    /// The agent answered and its turn ended.
    Completed,
    /// Something came, or nothing, but not a whole answer.
    Incomplete {
        /// Why it is not whole.
        reason: Incomplete,
    },
    /// It could not be done.
    Failed {
        /// What went wrong.
        reason: Failure,
        /// The provider's or our own words on it.
        message: String,
    },
    /// Somebody cancelled it.
    Cancelled {
        /// Who did.
        by: String,
    },
}

/// Why an answer is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Incomplete {
    /// The deadline passed first.
    Deadline,
    /// The turn ended without any text.
    Empty,
    /// The human stopped the turn.
    Interrupted,
    /// No end was seen; the agent was quiet for its idle window.
    Quiet,
    /// A human's text ran in the same turn, so the answer may not be ours alone.
    Mixed,
}

/// What made a request fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The agent is not, or no longer, part of the project.
    NoSuchAgent,
    /// The agent's process or pane ended while it was at work.
    AgentGone,
    /// Proved not taken, again and again.
    NeverConsumed,
    /// Nobody can tell whether the agent got it; never guessed, never sent again.
    UnknownDelivery,
    /// The provider: too many requests.
    RateLimit,
    /// The provider: not logged in, or a wrong key.
    Auth,
    /// The provider: nothing left to spend.
    Quota,
    /// The provider: overloaded or broken at its end.
    Overloaded,
    /// The provider: the conversation has outgrown the model's context.
    Context,
    /// The provider: anything else.
    Provider,
}

impl Outcome {
    /// Returns the outcome's one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete { .. } => "incomplete",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Returns the exit code that `ask` and `pend` give for it: 0, 1 or 2, as in CCB 5.2.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Failed { .. } => 1,
            Self::Incomplete { .. } | Self::Cancelled { .. } => 2,
        }
    }

    /// Returns one sentence on what happened, for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::Completed => "the agent answered".into(),
            Self::Incomplete { reason } => match reason {
                Incomplete::Deadline => "the deadline passed before the answer came".into(),
                Incomplete::Empty => "the agent ended its turn without any text".into(),
                Incomplete::Interrupted => "the turn was interrupted at the agent".into(),
                Incomplete::Quiet => "no end of the answer was seen; the agent fell quiet".into(),
                Incomplete::Mixed => {
                    "a human's input ran in the same turn: the answer may not be to the request alone".into()
                }
            },
            Self::Failed { reason, message } => format!("{}: {message}", reason.words()),
            Self::Cancelled { by } => format!("cancelled by {by}"),
        }
    }
}

impl Failure {
    /// Returns the failure in a few words, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoSuchAgent => "no such agent",
            Self::AgentGone => "the agent is gone",
            Self::NeverConsumed => "the agent never took it",
            Self::UnknownDelivery => "unknown delivery",
            Self::RateLimit => "rate limit",
            Self::Auth => "not logged in",
            Self::Quota => "quota used up",
            Self::Overloaded => "provider overloaded",
            Self::Context => "context window full",
            Self::Provider => "provider error",
        }
    }
}

/// What told us that a turn had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// The agent's own API.
    Protocol,
    /// A hook of the agent.
    Hook,
    /// A record in the agent's transcript.
    Record,
    /// The `CCB_DONE` line.
    Marker,
    /// Nothing but silence.
    Quiet,
}

impl EndedBy {
    /// Returns the word users see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Hook => "hook",
            Self::Record => "transcript record",
            Self::Marker => "marker",
            Self::Quiet => "quiet",
        }
    }
}

/// How an agent's turn ended, as its own records tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum TurnEnd {
    /// With its final answer.
    Completed {
        /// The whole final answer.
        reply: String,
    },
    /// By an interrupt, ours or a human's.
    Interrupted {
        /// What there was of an answer.
        partial: String,
    },
    /// By an error.
    Failed {
        /// Its class.
        reason: Failure,
        /// The provider's words.
        message: String,
        /// What there was of an answer.
        partial: String,
    },
    /// Not at all as far as anyone can tell; silence for the idle window.
    Quiet {
        /// What there was of an answer.
        partial: String,
    },
}
