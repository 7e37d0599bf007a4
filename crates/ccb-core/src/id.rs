//! Names that come from outside and are checked once: request ids and agent names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of a request for its whole life: `YYYYMMDD-HHMMSS-mmm-<pid>-<n>`, the form of CCB 5.2.
///
/// The client makes it, so any word of 1 to 64 letters, digits and dashes is taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

/// The name of an agent in its project: a letter, then up to 31 of `[a-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(String);

/// A word that cannot be what it is meant to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a request id.
    #[error("`{0}` is not a request id: expected 1 to 64 letters, digits and dashes")]
    RequestId(String),
    /// Not an agent name.
    #[error("`{0}` is not an agent name: expected a letter, then up to 31 letters, digits, `-` or `_`")]
    AgentName(String),
    /// An agent name that is a command or a common caller.
    #[error("`{0}` is a reserved name")]
    Reserved(String),
}

/// Words that cannot name an agent, because commands and callers have them.
const RESERVED: &[&str] = &[
    "all", "from", "user", "system", "manual", "ask", "cancel", "pend", "ping", "watch", "wait", "kill", "ps", "logs",
    "doctor", "config", "cmd", "version", "update", "help",
];

impl RequestId {
    /// Checks `text` and returns it as an id.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(NameError::RequestId(text.to_owned())) }
    }

    /// Returns whether it has the form that ccb's own clients give: `YYYYMMDD-HHMMSS-…`, at most 52 characters, so
    /// that the ids of its notices have room. Agents' own ids of messages never have it.
    pub fn is_of_our_form(&self) -> bool {
        let digits = |from: usize, to: usize| self.0.as_bytes()[from..to].iter().all(u8::is_ascii_digit);
        (16..=52).contains(&self.0.len())
            && digits(0, 8)
            && digits(9, 15)
            && self.0.as_bytes()[8] == b'-'
            && self.0.as_bytes()[15] == b'-'
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id of the notice that carries this request's reply; the `n`th such (from 1).
    #[must_use]
    pub fn notice(&self, n: u32) -> Self {
        let head: String = self.0.chars().take(56).collect();
        Self(format!("{head}-r{n}"))
    }

    /// Returns whether it has the form that only notices have.
    pub fn is_notice(&self) -> bool {
        let number = self.0.rsplit_once("-r").map(|(_, number)| number);
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    }
}

impl AgentName {
    /// Checks `text`, lower-cases it and returns it as a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let name = text.to_ascii_lowercase();
        let mut bytes = name.bytes();
        let fits = name.len() <= 32
            && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !fits {
            return Err(NameError::AgentName(text.to_owned()));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(NameError::Reserved(name));
        }
        Ok(Self(name))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! word {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
        impl From<$type> for String {
            fn from(word: $type) -> Self {
                word.0
            }
        }
    };
}
word!(RequestId);
word!(AgentName);

/// Returns the candidate nearest to `word`, if one is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|c| (distance(&word, c), c))
        .filter(|(d, c)| *d <= c.len().div_ceil(3).max(1))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// The Levenshtein distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(AgentName::new("Reviewer").unwrap().as_str(), "reviewer");
        for bad in ["", "1a", "a b", "é", "-a", "a$(x)", &"a".repeat(33), "all", "cmd"] {
            assert!(AgentName::new(bad).is_err(), "{bad}");
        }
        assert!(RequestId::new("20261122-205301-123-4711-1").is_ok());
        for (id, ours) in [
            ("20261122-205301-123-4711-1", true),
            ("20261122-205301-123-4711-1-r1", true),
            ("r1", false),
            ("20261122-205301", false),
            ("019a2050-39eb-7e70-af15-b15c3b87619a", false),
            (&format!("20261122-205301-{}", "1".repeat(37)), false),
        ] {
            assert_eq!(RequestId::new(id).unwrap().is_of_our_form(), ours, "{id}");
        }
        for bad in ["", "a b", "a\n", &"1".repeat(65), "a/b"] {
            assert!(RequestId::new(bad).is_err(), "{bad}");
        }
        assert_eq!(RequestId::new(&"1".repeat(64)).unwrap().notice(12).as_str().len(), 60);
    }

    #[test]
    fn the_nearest_name_is_found_or_none() {
        let names = ["codex", "reviewer", "claude"];
        assert_eq!(nearest("codx", names), Some("codex"));
        assert_eq!(nearest("REVIEWR", names), Some("reviewer"));
        assert_eq!(nearest("zebra", names), None);
    }
}
