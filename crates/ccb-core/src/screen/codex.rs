//! How Codex CLI 0.169.0 draws: a composer without a box, from a sign at the very left down to an empty line, and a
//! footer of one block of lines at the end of the screen. A dialog stands in its place, with its keys in the footer.

use std::time::Duration;

use vt100::{Cell, Screen};

use super::{Row, Sight};

/// The recogniser.
pub(super) const ROW: Row = Row {
    read: |view| read(view.screen, &view.lines, usize::from(view.capture.cursor.1)),
    at_work: |view| at_work(&view.lines),
    stands_for,
    filled,
    settles: Duration::ZERO,
    loses_enter: false,
};

/// What the composer's first line begins with. Prompts that were sent begin with it too, further up.
const SIGN: &str = "›";

/// What stands for a long paste, up to its number of characters.
const PLACEHOLDER: &str = "[Pasted Content ";

/// Beyond how many characters a paste is collapsed.
const COLLAPSES: usize = 1000;

/// Words that only dialogs show, in their lists or in their last lines.
const DIALOGS: &[&str] = &[
    "enter confirm",
    "enter to confirm",
    "enter to continue",
    "esc skip",
    "esc close",
    "esc cancel",
    "esc to cancel",
    "esc to close",
    "esc to go back",
    "esc back",
    "esc exit",
    "esc save/close",
    "q close",
    "Yes, proceed",
];

/// Words of a list that stands above a composer and takes its keys.
const LIST: &str = "esc · close";

/// Words below what its human has queued for the end of the turn: it is sent, or done, in that very moment.
const QUEUED: &str = "edit last queued message";

/// How many lines at the end of the screen a dialog is searched for in, where there is no composer.
const DIALOG_LINES: usize = 16;

/// How far above the composer the line may be that says what a turn does.
const ABOVE: usize = 4;

/// Reads a screen.
fn read(screen: &Screen, shown: &[String], cursor: usize) -> Sight {
    let end = shown.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
    let shown = &shown[..end];
    let dialog = |lines: &[String]| {
        let found = DIALOGS.iter().find(|words| lines.iter().any(|line| line.contains(**words)));
        found.map(|words| Sight::Dialog((*words).to_owned()))
    };
    let footer = shown.iter().rposition(|line| line.trim().is_empty()).map_or(0, |blank| blank + 1);
    let sign = shown[..footer].iter().rposition(|line| line.starts_with(SIGN));
    if let Some(open) = dialog(&shown[footer..]) {
        return open;
    }
    let Some(sign) = sign.filter(|_| footer < end) else {
        return dialog(&shown[end.saturating_sub(DIALOG_LINES)..]).unwrap_or(Sight::Unclear);
    };
    // A list to choose from begins as a composer does. What is in a composer may look like anything, but is followed
    // by a footer without keys.
    let lines = &shown[sign..footer];
    let first = lines[0].strip_prefix(SIGN).unwrap_or_default();
    if lines.iter().skip(1).any(|line| !line.is_empty() && !line.starts_with("  ")) {
        // What is below the sign is not a text's next line: the sign is of a prompt that was sent.
        return dialog(&shown[end.saturating_sub(DIALOG_LINES)..]).unwrap_or(Sight::Unclear);
    }
    if shown[footer..].iter().any(|line| line.contains("tab to queue message")) {
        return Sight::Busy("tab to queue message".to_owned());
    }
    let above = |words: &str| {
        let last = shown[..sign].iter().rev().map(|line| line.trim_end()).find(|line| !line.is_empty());
        last.is_some_and(|line| line.ends_with(words))
    };
    if above(LIST) {
        return Sight::Dialog(LIST.to_owned());
    }
    let text = if is_ghost(screen, sign, footer) {
        String::new()
    } else {
        let rest = lines.iter().skip(1).map(|line| line.trim());
        std::iter::once(first.trim()).chain(rest).collect::<Vec<_>>().join("\n").trim().to_owned()
    };
    if text.is_empty() && shown[sign.saturating_sub(ABOVE)..sign].iter().any(|line| is_busy(line)) {
        return Sight::Busy("esc to interrupt".to_owned());
    }
    if text.is_empty() && above(QUEUED) {
        return Sight::Busy(QUEUED.to_owned());
    }
    Sight::Composer { text, cursor: (sign..footer).contains(&cursor) }
}

/// Returns whether a turn is on, or Codex still loads: then its footer does not name the model yet, and its dialogs are
/// still to come. While an answer streams nothing says so, unless a draft is in the composer.
fn at_work(shown: &[String]) -> bool {
    let said = |line: &String| is_busy(line) || line.trim() == "tab to queue message";
    let mut last = shown.iter().rev().skip_while(|line| line.trim().is_empty());
    let loads = last.next().is_some_and(|line| line.trim() == "? for shortcuts")
        && last.next().is_some_and(|line| line.trim().is_empty());
    loads || shown.iter().rev().take(DIALOG_LINES).any(said)
}

/// Returns whether a placeholder stands for our paste alone; none: it is no placeholder.
fn stands_for(text: &str, pasted: &str) -> Option<bool> {
    let (number, after) = text.strip_prefix(PLACEHOLDER)?.split_once(']')?;
    let number: usize = number.strip_suffix(" chars")?.parse().ok()?;
    // One of the length of an earlier one of this session is counted (0.98.0).
    let counted = |after: &str| after.strip_prefix('#').is_some_and(|count| count.parse::<u32>().is_ok());
    let alone = after.trim().is_empty() || counted(after.trim());
    Some(alone && number == pasted.chars().count())
}

/// Returns a text that is shown whole or collapsed, never cut: one that would fill a screen is given spaces at its end,
/// which Codex takes away, so that it is collapsed.
fn filled(text: String) -> String {
    let length = text.chars().count();
    let fits = length < 400 && text.lines().count() < 6;
    if fits || length > COLLAPSES {
        return text;
    }
    text + &" ".repeat(COLLAPSES + 1 - length)
}

/// The line above the composer while a turn runs and nothing streams.
fn is_busy(line: &str) -> bool {
    line.starts_with(['•', '◦']) && line.contains("esc to interrupt)")
}

/// Whether what stands in the composer is a suggestion: all of it is dim, but for the sign.
fn is_ghost(screen: &Screen, sign: usize, footer: usize) -> bool {
    let cell = |line: usize, column: u16| screen.cell(u16::try_from(line).ok()?, column);
    let columns = screen.size().1;
    let cells = (sign..footer).flat_map(|line| (0..columns).filter_map(move |column| cell(line, column)));
    let drawn = |cell: &&Cell| !cell.contents().trim().is_empty() && cell.contents() != SIGN;
    let (dim, plain): (Vec<&Cell>, Vec<&Cell>) = cells.filter(drawn).partition(|cell| cell.dim());
    plain.is_empty() || (!dim.is_empty() && plain.len() == 1 && plain[0].inverse())
}

#[cfg(test)]
mod tests {
    use super::super::{Capture, Look};
    use super::*;

    const FOOTER: &str = "  \u{1b}[38;5;223mgpt-5.1-codex default\u{1b}[39m · \u{1b}[38;5;151m/work";
    const SENT: [&str; 4] = ["› CCB_REQ_ID: x", "", "  ECHO: a", ""];

    fn see(lines: &[&str], cursor: u16) -> Sight {
        let capture = Capture { width: 60, height: 14, cursor: (2, cursor), text: lines.join("\n") };
        Look::Codex.read(&capture)
    }
    fn dialog(words: &str) -> Sight {
        Sight::Dialog(words.into())
    }
    fn composer(text: &str, cursor: bool) -> Sight {
        Sight::Composer { text: text.into(), cursor }
    }

    #[test]
    fn composers_are_read() {
        let ghost = "\u{1b}[1m›\u{1b}[0m \u{1b}[2mAsk Codex to do anything\u{1b}[0m";
        let screen = |draft: &[&str], footer: &[&str]| {
            let lines: Vec<&str> = SENT.iter().chain(draft).chain(&[""]).chain(footer).copied().collect();
            see(&lines, 4)
        };
        assert_eq!(screen(&[ghost], &[FOOTER, "  ← for agents · ? for shortcuts"]), composer("", true));
        assert_eq!(screen(&["› a draft", "", "  of three"], &[FOOTER]), composer("a draft\n\nof three", true));
        assert_eq!(
            screen(&["› half"], &[FOOTER, "  tab to queue message"]),
            Sight::Busy("tab to queue message".into())
        );
        assert_eq!(screen(&["• Working (3s • esc to interrupt)", "", ghost], &[FOOTER]), {
            Sight::Busy("esc to interrupt".into())
        });
        let queued = ["• Queued follow-up inputs", "  ↳ /new", "    shift+← edit last queued message", "", ghost];
        assert_eq!(screen(&queued, &[FOOTER]), Sight::Busy(QUEUED.into()));
        assert_eq!(screen(&["› esc close"], &[FOOTER]), composer("esc close", true));
        assert_eq!(screen(&["• said", "", ghost], &[FOOTER]), composer("", false));
        assert_eq!(see(&[ghost], 0), Sight::Unclear);
        assert_eq!(screen(&["• said", "  more"], &[FOOTER]), Sight::Unclear);
        assert_eq!(see(&[], 0), Sight::Unclear);
    }

    #[test]
    fn one_that_loads_is_at_work() {
        let rows = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert!(at_work(&rows(&["› Ask Codex", "", "  ? for shortcuts", "", ""])));
        assert!(!at_work(&rows(&["› Ask Codex", "", "  gpt-5 · /work", "  ? for shortcuts", ""])));
        assert!(!at_work(&rows(&["› Summarize", "", "  ? for shortcuts       100% context left"])));
        assert!(at_work(&rows(&["◦ Working (1s • esc to interrupt)", "", "› x", "", "  gpt-5 · /work"])));
    }

    #[test]
    fn dialogs_are_seen() {
        let review = ["  Hooks need review", "", "› 1. Review hooks", "  2. Trust all and continue", ""];
        let lines: Vec<&str> = review.iter().chain(&["  enter confirm · esc skip"]).copied().collect();
        assert_eq!(see(&lines, 2), Sight::Dialog("enter confirm".into()));
        let ghost = "\u{1b}[1m›\u{1b}[0m \u{1b}[2mType a name and press Enter\u{1b}[0m";
        assert_eq!(see(&["  Name thread", "", ghost, "", "  enter submit · esc back"], 2), dialog("esc back"));
        let trust =
            ["  Trust this folder?", "", "› 1. Trust and continue", "  2. Back", "", "  enter continue · esc back"];
        assert_eq!(see(&trust, 2), dialog("esc back"));
        let picker =
            [" Type to search", "", "  › now  ● ECHO: a", "", "── 1 / 1 ─", " enter resume   esc exit", " ↑/↓ browse"];
        assert_eq!(see(&picker, 2), dialog("esc exit"));
        let list = ["  Presets", "", "  n · new   e · edit   esc · close", "", "", "› Ask", "", FOOTER];
        assert_eq!(see(&list, 5), dialog("esc · close"));
        let tight: Vec<&str> = review[..4].iter().chain(&["  enter confirm · esc skip"]).copied().collect();
        assert_eq!(see(&tight, 2), Sight::Dialog("enter confirm".into()));
    }

    #[test]
    fn a_paste_is_shown_whole_or_counted() {
        let long = filled(format!("CCB_REQ_ID: r1\n{}", "a line\n".repeat(60)));
        assert_eq!(long.chars().count(), COLLAPSES + 1);
        assert_eq!(stands_for("[Pasted Content 1001 chars]", &long), Some(true));
        assert_eq!(stands_for("[Pasted Content 1002 chars]", &long), Some(false));
        assert_eq!(stands_for("[Pasted Content 1001 chars] and more", &long), Some(false));
        assert_eq!(stands_for("CCB_REQ_ID: r1", &long), None);
        assert_eq!(filled("short\ntext".into()), "short\ntext");
        assert_eq!(filled("x".repeat(5000)), "x".repeat(5000));
    }
}
