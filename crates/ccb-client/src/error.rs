//! An error as a user sees it: what happened, and what to do. Printed by one function, once, at the edge.

use std::fmt::Write as _;
use std::io::Write as _;

use ccb_core::wire::Refusal;

use crate::exit;

/// What ends a command without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CliError {
    /// A lower-case fragment that fits after `error: `.
    pub(crate) message: String,
    /// What can be done, best first; a command can be pasted.
    pub(crate) hints: Vec<String>,
    /// The exit code.
    pub(crate) code: u8,
}

impl CliError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new(), code: exit::ERROR }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Returns the error as it is printed.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for hint in &self.hints {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        Self { message: refusal.message, hints: refusal.hint.into_iter().collect(), code: exit::ERROR }
    }
}

/// Prints an error; a standard error that is closed takes nothing, and nothing can be told then.
pub(crate) fn print(error: &CliError) {
    let text = crate::display::safe(&error.text())
        .replacen("error: ", "\x1b[1;31merror:\x1b[0m ", 1)
        .replace("\nhint: ", "\n\x1b[1;36mhint:\x1b[0m ");
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// Prints something that the user should know although nothing failed.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "note: {}", crate::display::safe(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_its_hints() {
        let error = CliError::new("no agent `x`").hint("ccb ps").hint("ccb x:codex");
        assert_eq!(error.text(), "error: no agent `x`\nhint: ccb ps\nhint: ccb x:codex\n");
        assert_eq!((error.code, error.code(2).code), (1, 2));
    }
}
