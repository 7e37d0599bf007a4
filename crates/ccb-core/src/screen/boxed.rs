//! A composer between two horizontal rules: how Claude Code 2.1.330 draws, and the stub agents as it does.

use std::convert::identity;
use std::time::Duration;

use vt100::{Cell, Screen};

use super::{Row, Sight, View};

/// The recogniser.
pub(super) const ROW: Row = Row {
    read,
    at_work: |view| matches!(read(view), Sight::Busy(_)),
    stands_for,
    filled: identity,
    settles: Duration::ZERO,
    loses_enter: false,
};

/// What the composer's first line starts with.
const SIGN: &str = "❯";

/// What stands for a collapsed paste, up to its number.
const PLACEHOLDER: &str = "[Pasted text #";

/// Words that only a dialog shows, below or instead of the composer.
const DIALOGS: &[&str] = &[
    "[y/N]",
    "[Y/n]",
    "Do you want",
    "Enter to confirm",
    "Enter to continue",
    "Esc to cancel",
    "Esc to close",
    "To change this later, run /theme",
];

/// Words below the composer while a turn runs.
const BUSY: [&str; 2] = ["· working", "esc to interrupt"];

/// Reads a screen.
fn read(view: &View<'_>) -> Sight {
    let shown = &view.lines;
    let rules: Vec<usize> = (0..shown.len()).filter(|i| is_rule(&shown[*i])).collect();
    let signed = |top: &usize| shown.get(top + 1).is_some_and(|line| line.trim_start().starts_with(SIGN));
    let dialog = |lines: &[String]| {
        let words = DIALOGS.iter().find(|word| lines.iter().any(|line| line.contains(**word)));
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
    let text = if is_ghost(view.screen, top, bottom, SIGN) {
        String::new()
    } else {
        let first = shown[top + 1].trim_start().strip_prefix(SIGN).unwrap_or_default();
        let rest = shown[top + 2..bottom].iter().map(|line| line.trim_end());
        let text: Vec<&str> = std::iter::once(first.trim()).chain(rest).collect();
        text.join("\n").trim().to_owned()
    };
    let busy = BUSY.iter().find(|word| shown[bottom..].iter().any(|line| line.contains(**word)));
    if let Some(word) = busy.filter(|_| text.is_empty()) {
        return Sight::Busy((*word).to_owned());
    }
    let line = usize::from(view.capture.cursor.1);
    Sight::Composer { text, cursor: line > top && line < bottom }
}

/// Whether a placeholder stands for the pasted text. It may count the lines, or the line ends; how long a text must be
/// to be collapsed depends on the size of the screen.
fn stands_for(text: &str, pasted: &str) -> Option<bool> {
    let Some((inside, after)) = text.strip_prefix(PLACEHOLDER)?.split_once(']') else { return Some(false) };
    let counted: Option<usize> = inside.split_once('+').map(|(_, count)| {
        let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(usize::MAX)
    });
    let ends = pasted.trim_end().matches('\n').count();
    Some(after.trim().is_empty() && counted.map_or(ends == 0, |counted| (ends..=ends + 1).contains(&counted)))
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
    use crate::screen::{Capture, Look};

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
