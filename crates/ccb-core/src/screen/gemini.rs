//! How Gemini CLI 0.61.0 draws: a composer between two rules at the very left, with its state in lines above it and a
//! footer below. Prompts that were sent look like it; a dialog stands in its place, in a box.

use std::convert::identity;
use std::time::Duration;

use super::{Row, Sight};

/// The recogniser.
pub(super) const ROW: Row = Row {
    read: |view| read(&view.lines, view.capture.cursor),
    at_work: |view| at_work(&view.lines),
    stands_for,
    filled: identity,
    // It makes a new line of an Enter that it handles within some 30 ms of a paste's end, by its own clock.
    settles: Duration::from_millis(120),
    loses_enter: true,
};

/// What the composer's first line begins with: as usual, and where all tools are allowed.
const SIGNS: [&str; 2] = [" > ", " * "];

/// What stands in an empty composer, two columns to the right of where a text begins.
const GHOSTS: [&str; 2] = ["  Type your message or @path/to/file", "  Press 'i' for INSERT mode"];

/// Words that only dialogs show, in their order of asking.
const DIALOGS: &[&str] = &[
    "Do you trust the files in this folder?",
    "How would you like to authenticate",
    "Allow execution of",
    "Apply this change?",
    "Do you want to proceed?",
    "A potential loop was detected",
    "Usage limit reached for",
    "We are currently experiencing high demand",
    "What would you like to do?",
    "Press Esc to close",
    "Esc to close",
    "Use Enter to select",
];

/// What opens the list of `/resume`.
const CHATS: &str = " Chat Sessions (";

/// How many lines above the composer its state may be.
const ABOVE: usize = 8;

/// How far from the screen's end it may be at the most: a draft may be long.
const BELOW: usize = 40;

/// Reads a screen.
fn read(shown: &[String], (column, line): (u16, u16)) -> Sight {
    let rules: Vec<usize> = (0..shown.len()).filter(|line| is_rule(&shown[*line])).collect();
    let signed = |top: &&usize| shown.get(**top + 1).is_some_and(|line| sign(line).is_some());
    let top = rules.iter().rev().find(signed).copied();
    let bottom = top.and_then(|top| rules.iter().copied().find(|rule| *rule > top));
    let (Some(top), Some(bottom)) = (top, bottom) else { return dialog(shown).unwrap_or(Sight::Unclear) };
    // A box below is what stands in the composer's place; the last prompt that was sent looks like a composer.
    let boxed = |line: &String| line.strip_prefix(' ').unwrap_or(line).starts_with(['╭', '│', '╰']);
    if shown[bottom..].iter().any(boxed) {
        return dialog(&shown[bottom..]).unwrap_or_else(|| Sight::Dialog("a box is open".to_owned()));
    }
    // The list of older chats has no box: the command that has opened it is no draft.
    if shown[bottom..].iter().any(|line| line.starts_with(CHATS)) {
        return Sight::Dialog("its older chats are listed".to_owned());
    }
    let first = sign(&shown[top + 1]).unwrap_or_default();
    let empty = bottom == top + 2 && GHOSTS.contains(&first.trim_end());
    let rest = shown[top + 2..bottom].iter().map(|line| line.trim_end());
    let text: Vec<&str> = std::iter::once(first.trim()).chain(rest).collect();
    let text = if empty { String::new() } else { text.join("\n").trim().to_owned() };
    let above = &shown[top.saturating_sub(ABOVE)..top];
    if text.is_empty() && above.iter().any(|line| is_busy(line)) {
        return Sight::Busy("esc to cancel".to_owned());
    }
    let line = usize::from(line);
    let within = line > top && line < bottom;
    // It often leaves the cursor below everything, also behind a text, until something is drawn anew.
    let rests = column == 0 && line > bottom;
    Sight::Composer { text, cursor: within || rests }
}

/// Returns whether a turn is on: the line that says what it does is shown above the composer.
fn at_work(shown: &[String]) -> bool {
    let from = shown.len() - shown.len().min(BELOW);
    shown[from..].iter().any(|line| is_busy(line))
}

/// Returns whether a composer shows a placeholder that stands for `pasted` and nothing else: Gemini counts its lines,
/// or its characters (as JavaScript does) where they are few lines.
fn stands_for(text: &str, pasted: &str) -> Option<bool> {
    let inside = text.strip_prefix("[Pasted Text: ")?;
    let count = |what: &str| {
        let (number, after) = inside.split_once(what)?;
        let number: usize = number.parse().ok()?;
        let alone = after == "]" || after.strip_prefix(" #").is_some_and(|after| after.ends_with(']'));
        alone.then_some(number)
    };
    let lines = pasted.matches('\n').count() + 1;
    Some(match (count(" lines"), count(" chars")) {
        (Some(counted), _) => counted == lines,
        (None, Some(counted)) => counted == pasted.encode_utf16().count(),
        (None, None) => false,
    })
}

fn sign(line: &str) -> Option<&str> {
    SIGNS.iter().find_map(|sign| line.strip_prefix(sign))
}

/// A line that is nothing but one rule, from the very left: what is typed never is.
fn is_rule(line: &str) -> bool {
    let line = line.trim_end();
    line.chars().count() >= 8 && ['▄', '▀', '─'].iter().any(|dash| line.chars().all(|c| c == *dash))
}

/// The line that says what a turn is doing begins with a spinner of braille dots.
fn is_busy(line: &str) -> bool {
    let spins = line.trim_start().starts_with(|c: char| ('\u{2800}'..='\u{28ff}').contains(&c));
    spins && line.contains("(esc to cancel")
}

fn dialog(lines: &[String]) -> Option<Sight> {
    let words = DIALOGS.iter().find(|words| lines.iter().any(|line| line.contains(**words)));
    words.map(|words| Sight::Dialog((*words).to_owned()))
}

#[cfg(test)]
mod tests {
    use crate::screen::{Capture, Look, Sight};

    const TOP: &str = "▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄";
    const END: &str = "▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀";
    const RULE: &str = "────────────────────";
    const GHOST: &str = " >   Type your message or @path/to/file";

    fn see(lines: &[&str], cursor: (u16, u16)) -> Sight {
        let capture = Capture { width: 60, height: 20, cursor, text: lines.join("\n") };
        Look::Gemini.read(&capture)
    }
    fn composer(text: &str, cursor: bool) -> Sight {
        Sight::Composer { text: text.into(), cursor }
    }

    #[test]
    fn composers_as_gemini_draws_them() {
        let footer = " /srv/proj      no sandbox    Auto";
        assert_eq!(see(&[RULE, " Shift+Tab", TOP, GHOST, END, footer], (3, 3)), composer("", true));
        assert_eq!(see(&[RULE, " YOLO", TOP, &GHOST.replace('>', "*"), END, footer], (3, 3)), composer("", true));
        assert_eq!(see(&[RULE, " x", TOP, GHOST, END, footer], (3, 5)), composer("", false));
        assert_eq!(see(&[RULE, " x", TOP, GHOST, END, footer], (0, 6)), composer("", true));
        assert_eq!(see(&[RULE, " x", TOP, " > one", END, footer], (0, 6)), composer("one", true));
        assert_eq!(see(&[RULE, " x", TOP, " > one", END, footer], (4, 5)), composer("one", false));
        assert_eq!(see(&[RULE, " x", TOP, " > one", "   two", END], (3, 4)), composer("one\n   two", true));
        // Without a background, between two plain rules, below another one.
        assert_eq!(see(&[RULE, " x", RULE, GHOST, RULE, footer], (3, 3)), composer("", true));
        // What somebody has typed may look like a rule: it is further to the right.
        let ruled = format!("   {RULE}");
        assert_eq!(see(&[TOP, " > a", &ruled, "   b", END], (3, 3)), composer(&format!("a\n{ruled}\n   b"), true));
        let typed = "Type your message or @path/to/file";
        assert_eq!(see(&[TOP, &format!(" > {typed}"), END], (3, 1)), composer(typed, true));
        assert_eq!(see(&["$ ls", "$ "], (2, 1)), Sight::Unclear);
        assert_eq!(see(&[TOP, " ! ls", END], (3, 1)), Sight::Unclear);
    }

    #[test]
    fn a_turn_that_runs_is_seen_by_its_spinner() {
        let busy = " ⠹ Thinking... (esc to cancel, 3s)";
        let sight = Sight::Busy("esc to cancel".into());
        assert_eq!(see(&["✦ said", busy, RULE, " YOLO", TOP, GHOST, END], (3, 5)), sight);
        assert_eq!(see(&["✦ said", busy, RULE, " YOLO", TOP, " > draft", END], (3, 5)), composer("draft", true));
        assert_eq!(see(&["✦ said (esc to cancel, 3s)", RULE, " YOLO", TOP, GHOST, END], (3, 4)), composer("", true));
    }

    #[test]
    fn a_sent_prompt_is_no_composer_and_a_dialog_no_text() {
        let sent = [TOP, " > touch it", END, "✦ calling"];
        let asks = [
            "╭──────────╮",
            "│ ? Shell  touch it",
            "│ Allow execution of [Shell]?",
            "│ ● 1. Allow once",
            "╰──────────╯",
        ];
        let lines: Vec<&str> = sent.iter().chain(&asks).copied().collect();
        assert_eq!(see(&lines, (0, 9)), Sight::Dialog("Allow execution of".into()));
        assert_eq!(
            see(&[TOP, " > /help", END, "╭───╮", "│ x", "╰───╯"], (0, 6)),
            Sight::Dialog("a box is open".into())
        );
        let loops =
            [TOP, " > again", END, "✦ again and again", " ╭──╮", " │ ?  A potential loop was detected", " ╰──╯"];
        assert_eq!(see(&loops, (0, 7)), Sight::Dialog("A potential loop was detected".into()));
        let trust = ["╭──╮", "│ Do you trust the files in this folder?", "╰──╯"];
        assert_eq!(see(&trust, (0, 3)), Sight::Dialog("Do you trust the files in this folder?".into()));
        // A list without a box leaves the last command where a draft would be.
        let listed = Sight::Dialog("its older chats are listed".into());
        assert_eq!(see(&[TOP, " > /resume", END, " Chat Sessions (5 total)"], (0, 4)), listed);
        let after = ["╭──╮", "│ old box: Esc to close", "╰──╯", RULE, " x", TOP, GHOST, END];
        assert_eq!(see(&after, (3, 6)), composer("", true));
    }

    #[test]
    fn a_collapsed_paste_is_counted() {
        let is = |text: &str, pasted: &str| Look::Gemini.is_ours(text, pasted);
        let long = "CCB_REQ_ID: r1\n\na\nb\nc\nd";
        assert!(is("[Pasted Text: 6 lines]", long) && is("[Pasted Text: 6 lines #2]", long));
        assert!(!is("[Pasted Text: 7 lines]", long) && !is("[Pasted Text: 6 lines]x", long));
        assert!(!is("draft [Pasted Text: 6 lines]", long));
        let wide = "é👍".repeat(300);
        assert!(is("[Pasted Text: 900 chars]", &wide) && !is("[Pasted Text: 600 chars]", &wide));
        assert!(is("CCB_REQ_ID: r1\n\n   hello", "CCB_REQ_ID: r1\n\nhello") && !is("", long));
    }
}
