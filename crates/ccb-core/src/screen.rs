//! What a terminal shows: whether a composer is empty, holds text, or is covered by a dialog.
//!
//! A recogniser is data, a [`Row`] for each [`Look`]; reading is pure. A screen that is not understood
//! is [`Sight::Unclear`], and then no key is pressed.

use serde::{Deserialize, Serialize};

/// A kind of screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// A composer between two horizontal rules, with a prompt sign at its first line.
    Boxed,
}

/// A recogniser.
#[derive(Debug)]
pub struct Row {
    /// What the composer's first line starts with.
    pub sign: &'static str,
    /// What stands for a collapsed paste, up to its number.
    pub placeholder: &'static str,
    /// The number of lines from which a paste is collapsed.
    pub collapsed_from: usize,
    /// Words that only a dialog shows, below or instead of the composer.
    pub dialogs: &'static [&'static str],
    /// Words below the composer while a turn runs.
    pub busy: &'static [&'static str],
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
    /// Returns the recogniser's row.
    pub fn row(self) -> &'static Row {
        match self {
            Self::Boxed => &Row {
                sign: "❯",
                placeholder: "[Pasted text #",
                collapsed_from: 4,
                dialogs: &["[y/N]", "[Y/n]", "Do you want", "Enter to confirm", "Esc to cancel"],
                busy: &["· working", "esc to interrupt"],
            },
        }
    }

    /// Reads a screen.
    pub fn read(self, capture: &Capture) -> Sight {
        let mut terminal = vt100::Parser::new(capture.height.max(1), capture.width.max(1), 0);
        let lines: Vec<&str> = capture.text.lines().collect();
        terminal.process(lines.join("\r\n").as_bytes());
        let shown: Vec<String> = terminal.screen().rows(0, capture.width.max(1)).collect();
        self.read_lines(&shown, capture.cursor)
    }

    fn read_lines(self, shown: &[String], cursor: (u16, u16)) -> Sight {
        let row = self.row();
        let rules: Vec<usize> = (0..shown.len()).filter(|i| is_rule(&shown[*i])).collect();
        let signed = |top: usize| shown.get(top + 1).and_then(|line| line.trim_start().strip_prefix(row.sign));
        let dialog = |lines: &[String]| {
            let words = row.dialogs.iter().find(|word| lines.iter().any(|line| line.contains(**word)));
            words.map(|word| Sight::Dialog((*word).to_owned()))
        };
        // What somebody writes may look like a rule or a dialog: the composer reaches from the last rule that a
        // sign follows down to the last rule of all, and a dialog is searched for outside it.
        let top = rules.iter().rev().copied().find(|top| signed(*top).is_some());
        let composer = top.zip(rules.last().copied()).filter(|(top, bottom)| top < bottom);
        let Some((top, bottom)) = composer else {
            let from = rules.len().checked_sub(2).map_or(0, |i| rules[i]);
            return dialog(&shown[from..]).unwrap_or(Sight::Unclear);
        };
        if let Some(open) = dialog(&shown[bottom..]) {
            return open;
        }
        let first = signed(top).unwrap_or_default();
        let rest = shown[top + 2..bottom].iter().map(|line| line.trim_end());
        let text: Vec<&str> = std::iter::once(first.trim()).chain(rest).collect();
        let text = text.join("\n").trim().to_owned();
        let busy = row.busy.iter().find(|word| shown[bottom..].iter().any(|line| line.contains(**word)));
        if let Some(word) = busy.filter(|_| text.is_empty()) {
            return Sight::Busy((*word).to_owned());
        }
        let line = usize::from(cursor.1);
        Sight::Composer { text, cursor: line > top && line < bottom }
    }

    /// Returns whether a composer that was empty before and shows `text` now shows our `pasted` text alone.
    pub fn is_ours(self, text: &str, pasted: &str) -> bool {
        let row = self.row();
        let dense = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        let shown = dense(text);
        if pasted.trim_end().lines().count() >= row.collapsed_from || text.starts_with(row.placeholder) {
            let Some(rest) = text.strip_prefix(row.placeholder) else {
                return false;
            };
            return rest.trim_end().split_once(']').is_some_and(|(_, after)| after.trim().is_empty());
        }
        shown == dense(pasted)
    }
}

/// A line of box-drawing dashes, at least eight of them and nothing else.
fn is_rule(line: &str) -> bool {
    let line = line.trim();
    line.chars().count() >= 8 && line.chars().all(|c| matches!(c, '─' | '━' | '═' | '╭' | '╮' | '╰' | '╯'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(lines: &[&str], cursor: (u16, u16)) -> Sight {
        let capture = Capture { width: 40, height: 10, cursor, text: lines.join("\n") };
        Look::Boxed.read(&capture)
    }
    const RULE: &str = "────────────────────";

    #[test]
    fn composers_dialogs_and_the_rest() {
        assert_eq!(
            see(&["hello", RULE, "❯ ", RULE, "stub · idle"], (2, 2)),
            Sight::Composer { text: String::new(), cursor: true }
        );
        assert_eq!(
            see(&[RULE, "\u{1b}[1m❯\u{1b}[0m draft", "  of two", RULE], (2, 8)),
            Sight::Composer { text: "draft\n  of two".into(), cursor: false }
        );
        assert_eq!(
            see(&["old: Do you want?", RULE, "❯ ", RULE], (2, 2)),
            Sight::Composer { text: String::new(), cursor: true }
        );
        assert_eq!(see(&[RULE, "❯ ", RULE, "Allow this? [y/N]"], (2, 1)), Sight::Dialog("[y/N]".into()));
        let asks = Sight::Composer { text: "Do you want tea".into(), cursor: true };
        assert_eq!(see(&[RULE, "❯ Do you want tea", RULE, "idle"], (2, 1)), asks);
        let ruled = Sight::Composer { text: "a\n──────────\nb".into(), cursor: true };
        assert_eq!(see(&[RULE, "❯ a", "──────────", "b", RULE], (2, 3)), ruled);
        let busy = "stub · working 3s";
        assert_eq!(see(&["said", RULE, "❯ ", RULE, busy], (2, 2)), Sight::Busy("· working".into()));
        let draft = Sight::Composer { text: "draft".into(), cursor: true };
        assert_eq!(see(&[RULE, "❯ draft", RULE, busy], (2, 1)), draft);
        assert_eq!(
            see(&[busy, RULE, "❯ ", RULE, "idle"], (2, 2)),
            Sight::Composer { text: String::new(), cursor: true }
        );
        assert_eq!(see(&["$ ls", "$"], (0, 0)), Sight::Unclear);
        assert_eq!(see(&[RULE, "no sign", RULE], (0, 1)), Sight::Unclear);
    }

    #[test]
    fn a_paste_is_recognised_alone() {
        let long = "CCB_REQ_ID: r1\n\na\nb\nc\n";
        let is = |text: &str, pasted: &str| Look::Boxed.is_ours(text, pasted);
        assert!(is("[Pasted text #1 +5 lines]", long));
        assert!(!is("draft [Pasted text #1 +5 lines]", long));
        assert!(!is("[Pasted text #1 +5 lines] more", long));
        assert!(!is("", long));
        assert!(is("CCB_REQ_ID: r1 hel\n  lo", "CCB_REQ_ID: r1\nhello"));
        assert!(!is("CCB_REQ_ID: r1 hello x", "CCB_REQ_ID: r1\nhello"));
    }
}
