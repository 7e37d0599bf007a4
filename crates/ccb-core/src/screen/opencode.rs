//! How OpenCode 1.18.33 draws: a composer behind a bar, closed by an edge of half blocks, in the middle of its first
//! page and at the bottom of a session, whose side bar stands beside it on a wide screen. Prompts that were sent have
//! the same bar, but no edge; a menu lies over the composer and has the cursor.

use std::convert::identity;
use std::time::Duration;

use super::{Capture, Row, Sight};

/// The recogniser.
pub(super) const ROW: Row = Row {
    read: |view| read(view.capture, &view.lines),
    at_work: |view| at_work(&view.lines),
    stands_for,
    filled: identity,
    settles: Duration::ZERO,
    loses_enter: false,
};

/// The bar on the left of the composer, and what its edge begins with.
const BAR: char = '┃';
const CORNER: char = '╹';
const EDGE: char = '▀';

/// What stands in an empty composer on the first page.
const GHOST: &str = "Ask anything…";

/// Words that only dialogs show.
const DIALOGS: &[&str] = &["Permission required", "Allow once", "Reject permission", "enter submit", "enter confirm"];

/// What stands below the composer while a turn is on.
const BUSY: [&str; 2] = ["esc interrupt", "esc again to interrupt"];

/// Reads a screen.
fn read(capture: &Capture, shown: &[String]) -> Sight {
    let Some((bottom, column, width)) = edge(shown) else { return dialog(shown).unwrap_or(Sight::Unclear) };
    let barred = |line: &&String| line.chars().nth(column) == Some(BAR);
    let top = bottom - shown[..bottom].iter().rev().take_while(barred).count();
    // The last line of the block says who answers, by which model.
    let inside = |line: &String| -> String { line.chars().skip(column + 1).take(width).collect() };
    let Some((last, lines)) = shown[top..bottom].split_last() else { return Sight::Unclear };
    if !inside(last).contains(" · ") {
        return dialog(shown).unwrap_or(Sight::Unclear);
    }
    if let Some(open) = dialog(&shown[bottom..]) {
        return open;
    }
    let text: Vec<String> = lines.iter().map(|line| inside(line).trim().to_owned()).collect();
    let text = text.join("\n").trim().to_owned();
    let text = if text.starts_with(GHOST) { String::new() } else { text };
    if text.is_empty()
        && let Some(word) = busy(&shown[bottom..])
    {
        return Sight::Busy(word.to_owned());
    }
    let (x, y) = (usize::from(capture.cursor.0), usize::from(capture.cursor.1));
    let within = y >= top && y + 1 < bottom && x > column && x <= column + width;
    Sight::Composer { text, cursor: within }
}

/// Returns whether a turn is on.
fn at_work(shown: &[String]) -> bool {
    edge(shown).is_some_and(|(bottom, ..)| busy(&shown[bottom..]).is_some())
}

/// Returns whether a composer shows a placeholder that stands for `pasted` and nothing else: OpenCode counts its lines.
fn stands_for(text: &str, pasted: &str) -> Option<bool> {
    let (number, after) = text.strip_prefix("[Pasted ~")?.split_once(" lines]")?;
    let lines = pasted.trim_end().matches('\n').count() + 1;
    // It may count the line end of the last one.
    Some(after.is_empty() && number.parse().is_ok_and(|number: usize| (lines..=lines + 1).contains(&number)))
}

/// Returns the last edge of a composer: its line, its column, and how wide it is.
fn edge(shown: &[String]) -> Option<(usize, usize, usize)> {
    shown.iter().enumerate().rev().find_map(|(at, line)| {
        let column = line.chars().position(|c| c == CORNER)?;
        let width = line.chars().skip(column + 1).take_while(|c| *c == EDGE).count();
        (width >= 8).then_some((at, column, width))
    })
}

fn busy(below: &[String]) -> Option<&'static str> {
    BUSY.into_iter().find(|word| below.iter().any(|line| line.contains(word)))
}

fn dialog(lines: &[String]) -> Option<Sight> {
    let words = DIALOGS.iter().find(|words| lines.iter().any(|line| line.contains(**words)));
    words.map(|words| Sight::Dialog((*words).to_owned()))
}

#[cfg(test)]
mod tests {
    use crate::screen::{Capture, Look, Sight};

    const END: &str = "  ╹▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀";
    const AGENT: &str = "  ┃  Build · fake-model fake       /proj:master";
    const IDLE: &str = "   /proj      0 (0%)  ctrl+p commands";
    const BUSY: &str = "   ■■⬝⬝  esc interrupt    ctrl+p commands";

    fn see(lines: &[&str], cursor: (u16, u16)) -> Sight {
        let capture = Capture { width: 60, height: 20, cursor, text: lines.join("\n") };
        Look::Opencode.read(&capture)
    }
    fn composer(text: &str, cursor: bool) -> Sight {
        Sight::Composer { text: text.into(), cursor }
    }

    #[test]
    fn composers_are_told_from_prompts_that_were_sent() {
        let sent = ["  ┃", "  ┃  said before", "  ┃", "", "     ▣  Build · fake-model", ""];
        let with =
            |line: &'static str, below: &'static str| [&sent[..], &["  ┃", line, "  ┃", AGENT, END, below]].concat();
        assert_eq!(see(&with("  ┃                                      side bar", IDLE), (5, 7)), composer("", true));
        assert_eq!(see(&with("  ┃  half a thought", IDLE), (20, 7)), composer("half a thought", true));
        assert_eq!(see(&with("  ┃  half a thought", BUSY), (20, 7)), composer("half a thought", true));
        assert_eq!(see(&with("  ┃", BUSY), (5, 7)), Sight::Busy("esc interrupt".into()));
        assert_eq!(see(&with("  ┃", IDLE), (40, 2)), composer("", false), "a menu has the cursor");
        assert_eq!(see(&sent, (0, 0)), Sight::Unclear);
    }

    #[test]
    fn the_first_page_has_a_composer_in_its_middle() {
        let page = |line: &'static str| {
            ["", "      ┃", line, "      ┃", "      ┃  Build · m f", "      ╹▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀▀", "   ctrl+p"]
        };
        assert_eq!(see(&page("      ┃  Ask anything… \"Fix broken tests\""), (9, 2)), composer("", true));
        assert_eq!(see(&page("      ┃  [Pasted ~3 lines]"), (27, 2)), composer("[Pasted ~3 lines]", true));
    }

    #[test]
    fn a_dialog_in_the_composers_place_is_one() {
        let lines = [
            "  ┃",
            "  ┃  △ Permission required",
            "  ┃  $ touch made",
            "  ┃",
            "  ┃  Allow once   Allow always   Reject",
        ];
        assert_eq!(see(&lines, (0, 0)), Sight::Dialog("Permission required".into()));
        let edged = [&lines[..], &[END, IDLE]].concat();
        assert_eq!(see(&edged, (5, 1)), Sight::Dialog("Permission required".into()));
    }

    #[test]
    fn a_paste_is_recognised_by_its_lines() {
        let is = |text: &str, pasted: &str| Look::Opencode.is_ours(text, pasted);
        assert!(is("[Pasted ~3 lines]", "CCB_REQ_ID: r1\n\nECHO: pasted one"));
        assert!(is("[Pasted ~4 lines]", "CCB_REQ_ID: r1\n\nECHO: pasted one\n"));
        assert!(!is("[Pasted ~5 lines]", "CCB_REQ_ID: r1\n\nECHO: pasted one"));
        assert!(!is("draft [Pasted ~3 lines]", "a\nb\nc") && !is("[Pasted ~3 lines] x", "a\nb\nc"));
        assert!(is("one line", "one line") && !is("one line more", "one line"));
    }
}
