//! What a terminal shows: whether a composer is empty, holds text, or is covered by a dialog.
//!
//! A recogniser is data, a [`Row`] for each [`Look`], in a file of its own; reading is pure. A screen that is not
//! understood is [`Sight::Unclear`], and then no key is pressed.

mod boxed;
mod codex;
mod gemini;
mod opencode;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vt100::Screen;

use crate::paste;

/// A kind of screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// A composer between two horizontal rules, with a prompt sign at its first line.
    Boxed,
    /// Codex CLI's.
    Codex,
    /// Gemini CLI's.
    Gemini,
    /// OpenCode's.
    Opencode,
}

/// A recogniser.
struct Row {
    /// Reads a screen.
    read: fn(&View<'_>) -> Sight,
    /// Whether a turn is on, also where a draft is in the composer.
    at_work: fn(&View<'_>) -> bool,
    /// Whether what a composer shows stands for a pasted text; none: it is the text itself, if anything.
    stands_for: fn(&str, &str) -> Option<bool>,
    /// Makes a text one that will be recognised in the composer.
    filled: fn(String) -> String,
    /// How long a pasted text must have been shown before Enter submits it.
    settles: Duration,
    /// Whether an Enter may only have made a new line of our text, and is pressed again.
    loses_enter: bool,
}

/// A screen that is read.
struct View<'a> {
    /// As it was captured.
    capture: &'a Capture,
    /// Its cells.
    screen: &'a Screen,
    /// Its lines.
    lines: Vec<String>,
}

/// What is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A composer with this text (empty: nothing in it), and whether the cursor stands in it.
    Composer {
        /// The text, with white space as it is shown.
        text: String,
        /// Whether the cursor is in the composer.
        cursor: bool,
    },
    /// An empty composer while a turn runs, by the words that gave it away.
    Busy(String),
    /// A dialog, by the words that gave it away.
    Dialog(String),
    /// Nothing that we understand.
    Unclear,
}

/// A captured screen.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
    /// The cursor's column and line, from 0.
    pub cursor: (u16, u16),
    /// What `tmux capture-pane -p -e` printed.
    pub text: String,
}

impl Look {
    /// Returns the recogniser.
    fn row(self) -> &'static Row {
        match self {
            Self::Boxed => &boxed::ROW,
            Self::Codex => &codex::ROW,
            Self::Gemini => &gemini::ROW,
            Self::Opencode => &opencode::ROW,
        }
    }

    /// Reads a screen.
    pub fn read(self, capture: &Capture) -> Sight {
        capture.viewed(self.row().read)
    }

    /// Returns whether the screen shows that a turn is on, also where a draft is in the composer.
    pub fn at_work(self, capture: &Capture) -> bool {
        capture.viewed(self.row().at_work)
    }

    /// Returns a text as it is pasted, so that it will be recognised in the composer.
    pub fn filled(self, text: String) -> String {
        (self.row().filled)(text)
    }

    /// Returns how long a pasted text must have been shown before Enter submits it.
    pub fn settles(self) -> Duration {
        self.row().settles
    }

    /// Returns whether an Enter may only have made a new line of our text, and is pressed again.
    pub fn loses_enter(self) -> bool {
        self.row().loses_enter
    }

    /// Returns whether a composer that was empty before and shows `text` now shows our `pasted` text alone.
    pub fn is_ours(self, text: &str, pasted: &str) -> bool {
        (self.row().stands_for)(text, pasted).unwrap_or_else(|| paste::shown(text) == paste::shown(pasted))
    }
}

impl Capture {
    /// Returns what is seen in it.
    fn viewed<T>(&self, see: fn(&View<'_>) -> T) -> T {
        let mut terminal = vt100::Parser::new(self.height.max(1), self.width.max(1), 0);
        let lines: Vec<&str> = self.text.lines().collect();
        terminal.process(lines.join("\r\n").as_bytes());
        let screen = terminal.screen();
        see(&View { capture: self, screen, lines: screen.rows(0, self.width.max(1)).collect() })
    }
}
