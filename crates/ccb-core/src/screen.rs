//! What a terminal shows: whether a composer is empty, holds text, or is covered by a dialog.
//!
//! A recogniser is data, a [`Row`] for each [`Look`]; reading is pure. A screen that is not understood
//! is [`Sight::Unclear`], and then no key is pressed.

use serde::{Deserialize, Serialize};
use vt100::{Cell, Screen};

use crate::paste;

/// A kind of screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// A composer between two horizontal rules, with a prompt sign at its first line.
    Boxed,
}

/// A recogniser. The words are those of Claude Code 2.1.330, and of the stub agents, which draw as it does.
#[derive(Debug)]
pub struct Row {
    /// What the composer's first line starts with.
    pub sign: &'static str,
    /// What stands for a collapsed paste, up to its number.
    pub placeholder: &'static str,
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
                dialogs: &[
                    "[y/N]",
                    "[Y/n]",
                    "Do you want",
                    "Enter to confirm",
                    "Enter to continue",
                    "Esc to cancel",
                    "Esc to close",
                    "To change this later, run /theme",
                ],
                busy: &["· working", "esc to interrupt"],
            },
        }
    }

    /// Reads a screen.
    pub fn read(self, capture: &Capture) -> Sight {
        let mut terminal = vt100::Parser::new(capture.height.max(1), capture.width.max(1), 0);
        let lines: Vec<&str> = capture.text.lines().collect();
        terminal.process(lines.join("\r\n").as_bytes());
        let screen = terminal.screen();
        let shown: Vec<String> = screen.rows(0, capture.width.max(1)).collect();
        let row = self.row();
        let rules: Vec<usize> = (0..shown.len()).filter(|i| is_rule(&shown[*i])).collect();
        let signed = |top: &usize| shown.get(top + 1).is_some_and(|line| line.trim_start().starts_with(row.sign));
        let dialog = |lines: &[String]| {
            let words = row.dialogs.iter().find(|word| lines.iter().any(|line| line.contains(**word)));
            words.map(|word| Sight::Dialog((*word).to_owned()))
        };
        // What somebody writes may look like a rule or a dialog: the composer reaches from the last rule that a
        // sign follows down to the last rule of all, and a dialog is searched for outside it.
        let top = rules.iter().rev().copied().find(signed);
        let composer = top.zip(rules.last().copied()).filter(|(top, bottom)| top < bottom);
        let Some((top, bottom)) = composer else {
            let from = rules.len().checked_sub(2).map_or(0, |i| rules[i]);
            return dialog(&shown[from..]).unwrap_or(Sight::Unclear);
        };
        if let Some(open) = dialog(&shown[bottom..]) {
            return open;
        }
        let text = if is_ghost(screen, top, bottom, row.sign) {
            String::new()
        } else {
            let first = shown[top + 1].trim_start().strip_prefix(row.sign).unwrap_or_default();
            let rest = shown[top + 2..bottom].iter().map(|line| line.trim_end());
            let text: Vec<&str> = std::iter::once(first.trim()).chain(rest).collect();
            text.join("\n").trim().to_owned()
        };
        let busy = row.busy.iter().find(|word| shown[bottom..].iter().any(|line| line.contains(**word)));
        if let Some(word) = busy.filter(|_| text.is_empty()) {
            return Sight::Busy((*word).to_owned());
        }
        let line = usize::from(capture.cursor.1);
        Sight::Composer { text, cursor: line > top && line < bottom }
    }

    /// Returns whether a composer that was empty before and shows `text` now shows our `pasted` text alone.
    ///
    /// A long one is collapsed into a placeholder, which may count its lines, or its line ends. How long it must be
    /// depends on the size of the screen.
    pub fn is_ours(self, text: &str, pasted: &str) -> bool {
        let Some(placeholder) = text.strip_prefix(self.row().placeholder) else {
            return paste::shown(text) == paste::shown(pasted);
        };
        let Some((inside, after)) = placeholder.split_once(']') else { return false };
        let counted: Option<usize> = inside.split_once('+').map(|(_, count)| {
            let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(usize::MAX)
        });
        let ends = pasted.trim_end().matches('\n').count();
        after.trim().is_empty() && counted.map_or(ends == 0, |counted| (ends..=ends + 1).contains(&counted))
    }
}

/// Whether what stands in the composer is a suggestion, and not a draft: all of it dim, but for what the cursor is
/// drawn on.
fn is_ghost(screen: &Screen, top: usize, bottom: usize, sign: &str) -> bool {
    let cell = |line: usize, column: u16| screen.cell(u16::try_from(line).ok()?, column);
    let columns = screen.size().1;
    let cells = (top + 1..bottom).flat_map(|line| (0..columns).filter_map(move |column| cell(line, column)));
    let drawn = |cell: &&Cell| !cell.contents().trim().is_empty() && cell.contents() != sign;
    let (dim, plain): (Vec<&Cell>, Vec<&Cell>) = cells.filter(drawn).partition(|cell| cell.dim());
    !dim.is_empty() && (plain.is_empty() || (plain.len() == 1 && plain[0].inverse()))
}

/// A line of box-drawing dashes, at least eight of them; Claude writes how far a long composer is scrolled into it.
fn is_rule(line: &str) -> bool {
    let line = line.trim();
    let dash = |c: char| matches!(c, '─' | '━' | '═' | '╭' | '╮' | '╰' | '╯');
    let inner = line.trim_matches(dash);
    let scrolled = inner.trim_start().starts_with(['↑', '↓']) && inner.ends_with(' ') && inner.contains("more");
    line.chars().filter(|c| dash(*c)).count() >= 8 && (inner.is_empty() || scrolled)
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
    fn suggestions_are_no_drafts() {
        // As Claude draws them, with the cursor on the first letter.
        let text = |line: &str| match see(&[RULE, line, RULE], (2, 1)) {
            Sight::Composer { text, .. } => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text("\u{1b}[39m❯\u{a0}\u{1b}[7mT\u{1b}[0;2mry\u{1b}[0m \u{1b}[2m\"edit…\""), "");
        assert_eq!(text("❯\u{a0}\u{1b}[2mPress up to edit queued messages"), "");
        assert_eq!(text("❯\u{a0}\u{1b}[7mT\u{1b}[0mry"), "Try");
        assert_eq!(text("❯\u{a0}\u{1b}[7mT"), "T");
        assert_eq!(text("❯\u{a0}Tr\u{1b}[2my"), "Try");
    }

    #[test]
    fn a_scrolled_composer_is_not_understood() {
        let scrolled = "─── ↑ 16 more ──────────";
        assert_eq!(see(&["❯ x", scrolled, "  17", RULE], (2, 2)), Sight::Unclear);
        let below = see(&[RULE, "❯ one", scrolled.replace('↑', "↓").as_str()], (2, 1));
        assert_eq!(below, Sight::Composer { text: "one".into(), cursor: true });
    }

    #[test]
    fn a_paste_is_recognised_alone() {
        let long = "CCB_REQ_ID: r1\n\na\nb\nc\n";
        let is = |text: &str, pasted: &str| Look::Boxed.is_ours(text, pasted);
        assert!(is("[Pasted text #1 +5 lines]", long) && is("[Pasted text #7 +4 lines]", long));
        assert!(!is("[Pasted text #1 +6 lines]", long) && !is("[Pasted text #1 +x lines]", long));
        assert!(is("[Pasted text #4]", &"x".repeat(900)) && !is("[Pasted text #4]", long));
        assert!(is("CCB_REQ_ID: r1 a b c", long));
        assert!(!is("draft [Pasted text #1 +5 lines]", long));
        assert!(!is("[Pasted text #1 +5 lines] more", long));
        assert!(!is("", long));
        assert!(is("CCB_REQ_ID: r1 hel\n  lo", "CCB_REQ_ID: r1\nhello"));
        assert!(!is("CCB_REQ_ID: r1 hello x", "CCB_REQ_ID: r1\nhello"));
    }
}
