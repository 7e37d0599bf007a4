//! What is drawn: finished lines scroll away in the terminal's own scrollback, and a few live rows stay at the bottom.
//!
//! Each drawing is one piece of output, between marks that let a terminal show it at once. All text that others wrote is
//! made harmless here.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

use crate::display;

/// The most rows of an answer that is being written.
const TAIL: usize = 6;

/// How many bytes of it at the least are drawn, if it has as many; twice that at the most.
const DRAWN: usize = 16 << 10;

/// What introduces the input line.
const PROMPT: &str = "> ";

/// The live rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// The line of the answer that is being written.
    pub(crate) tail: String,
    /// What the agent asks.
    pub(crate) question: Vec<String>,
    /// What the agent is doing.
    pub(crate) status: String,
    /// The input line.
    pub(crate) input: String,
    /// How many of its characters stand before the cursor.
    pub(crate) cursor: usize,
}

/// A terminal's screen, as we have left it.
#[derive(Debug)]
pub(crate) struct Screen {
    width: usize,
    height: usize,
    /// The columns that each live row takes.
    rows: Vec<usize>,
    /// Where the cursor is in them.
    at: (usize, usize),
}

impl Screen {
    pub(crate) fn new((width, height): (usize, usize)) -> Self {
        Self { width: width.max(8), height: height.max(4), rows: Vec::new(), at: (0, 0) }
    }

    /// The terminal has another size now.
    pub(crate) fn resize(&mut self, (width, height): (usize, usize)) {
        (self.width, self.height) = (width.max(8), height.max(4));
    }

    /// Returns what takes the live rows away. The cursor is then where they began.
    fn erase(&mut self) -> String {
        // A terminal that became narrower has broken rows into several.
        let (row, column) = self.at;
        let above: usize = self.rows.iter().take(row).map(|columns| columns.saturating_sub(1) / self.width + 1).sum();
        let above = above + column / self.width;
        self.rows.clear();
        self.at = (0, 0);
        if above > 0 { format!("\x1b[{above}A\r\x1b[J") } else { "\r\x1b[J".to_owned() }
    }

    /// Returns what leaves the terminal to others: the live rows are gone.
    pub(crate) fn leave(&mut self) -> String {
        format!("{}\x1b[?2004l\x1b[?25h\x1b[0m", self.erase())
    }

    /// Returns what adds `finished` lines to the scrollback and draws the live rows anew.
    pub(crate) fn draw(&mut self, finished: &str, live: &Live) -> String {
        let mut out = format!("\x1b[?2026h\x1b[?25l{}", self.erase());
        for line in finished.lines() {
            let _ = write!(out, "{line}\r\n");
        }
        let limit = self.height.saturating_sub(1).max(3);
        let (input, at) = self.input(live, (limit / 2).max(1));
        let mut left = limit.saturating_sub(input.len() + 1);
        let mut question: Vec<String> =
            live.question.iter().flat_map(|line| wrap(&plain(line), self.width - 1)).collect();
        if question.len() > left {
            // The choices come last, and are always there; the scrollback has it whole.
            question.drain(..=question.len() - left.max(1));
            question.insert(0, "[…]".to_owned());
        }
        left = left.saturating_sub(question.len());
        let tail = if live.tail.is_empty() { Vec::new() } else { wrap(&plain(&live.tail), self.width - 1) };
        let tail = &tail[tail.len().saturating_sub(left.min(TAIL))..];
        let status = cut(&plain(&live.status), self.width - 1);
        let rows = tail.iter().chain(&question).cloned().map(|row| (row, false));
        let rows: Vec<(String, bool)> =
            rows.chain([(status, true)]).chain(input.into_iter().map(|row| (row, false))).collect();
        let first = rows.len() - (rows.len() - tail.len() - question.len() - 1);
        for (number, (row, dim)) in rows.iter().enumerate() {
            let end = if number + 1 < rows.len() { "\r\n" } else { "" };
            let _ = if *dim { write!(out, "\x1b[2m{row}\x1b[0m{end}") } else { write!(out, "{row}{end}") };
        }
        self.rows = rows.iter().map(|(row, _)| columns(row)).collect();
        self.at = (first + at.0, at.1);
        let up = rows.len() - 1 - self.at.0;
        if up > 0 {
            let _ = write!(out, "\x1b[{up}A");
        }
        out.push('\r');
        if self.at.1 > 0 {
            let _ = write!(out, "\x1b[{}C", self.at.1);
        }
        out.push_str("\x1b[?25h\x1b[?2026l");
        out
    }

    /// Returns the rows of the input line around its cursor, and where that is in them.
    fn input(&self, live: &Live, limit: usize) -> (Vec<String>, (usize, usize)) {
        let width = self.width - 1;
        let before: String = live.input.chars().take(live.cursor).collect();
        let after: String = live.input.chars().skip(live.cursor).collect();
        let mut rows = wrap(&format!("{PROMPT}{}", plain(&before)), width);
        let mut at = (rows.len() - 1, columns(rows.last().map_or("", String::as_str)));
        if at.1 >= width {
            rows.push(String::new());
            at = (at.0 + 1, 0);
        }
        let last = rows.pop().unwrap_or_default();
        rows.extend(wrap(&format!("{last}{}", plain(&after)), width));
        let first = (at.0 + 1).saturating_sub(limit);
        rows.truncate(first + limit);
        rows.drain(..first);
        (rows, (at.0 - first, at.1))
    }
}

/// Returns the end of a line that is being written: as much as is drawn of it, beginning at the same place for a while.
pub(crate) fn drawn(tail: &str) -> &str {
    let mut from = (tail.len() / DRAWN).saturating_sub(1) * DRAWN;
    while !tail.is_char_boundary(from) {
        from -= 1;
    }
    &tail[from..]
}

/// Returns a text that does nothing to a terminal and whose columns can be counted.
pub(crate) fn plain(text: &str) -> String {
    display::safe(text).replace('\t', "    ")
}

/// Returns a text in faint letters.
pub(crate) fn faint(text: &str) -> String {
    styled(text, '2')
}

/// Returns a text in bold letters.
pub(crate) fn bold(text: &str) -> String {
    styled(text, '1')
}

fn styled(text: &str, style: char) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "\x1b[{style}m{line}\x1b[0m");
        out
    })
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

fn cut(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    wrap(line, width).into_iter().next().unwrap_or_default()
}

/// Breaks a text into rows.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = Vec::new();
    for line in text.split('\n') {
        let (mut row, mut used) = (String::new(), 0);
        for c in line.chars() {
            let wide = c.width().unwrap_or(0);
            if used + wide > width {
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push(c);
            used += wide;
        }
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal that shows what was drawn.
    struct Shown {
        parser: vt100::Parser,
        screen: Screen,
    }

    impl Shown {
        fn new(width: u16, height: u16) -> Self {
            let screen = Screen::new((width.into(), height.into()));
            Self { parser: vt100::Parser::new(height, width, 1000), screen }
        }

        fn draw(&mut self, finished: &str, live: &Live) -> String {
            self.parser.process(self.screen.draw(finished, live).as_bytes());
            self.text()
        }

        fn text(&self) -> String {
            let text = self.parser.screen().contents();
            text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
        }
    }

    fn live(tail: &str, status: &str, input: &str) -> Live {
        let cursor = input.chars().count();
        Live { tail: tail.into(), question: Vec::new(), status: status.into(), input: input.into(), cursor }
    }

    #[test]
    fn finished_lines_scroll_and_live_rows_stay_at_the_bottom() {
        let mut shown = Shown::new(20, 6);
        assert_eq!(shown.draw("one\ntwo\n", &live("", "idle", "")), "one\ntwo\nidle\n>");
        assert_eq!(shown.draw("", &live("writ", "busy", "ab")), "one\ntwo\nwrit\nbusy\n> ab");
        assert_eq!(shown.parser.screen().cursor_position(), (4, 4));
        assert_eq!(shown.draw("written\nx\ny\n", &live("", "idle", "ab")), "two\nwritten\nx\ny\nidle\n> ab");
        shown.parser.process(shown.screen.leave().as_bytes());
        assert_eq!(shown.text(), "two\nwritten\nx\ny");
    }

    #[test]
    fn nothing_that_others_wrote_acts_on_the_terminal() {
        let mut shown = Shown::new(40, 6);
        let live =
            Live { question: vec!["run \x1b[2J\x1b]0;x\x07 it".into()], ..live("a\x1b[1Ab", "s\x1b[31m", "\x1b[H") };
        let text = shown.draw(&plain("f\x1b[2J\r\n"), &live);
        // What stands in place of control characters is not shown by this terminal; all else is, and in its place.
        assert_eq!(text, "f[2J\na[1Ab\nrun [2J]0;x it\ns[31m\n> [H");
    }

    #[test]
    fn only_the_end_of_a_long_line_is_drawn() {
        for (length, least) in [(0, 0), (100, 100), (200_000, DRAWN)] {
            let line = "ä".repeat(length);
            let end = drawn(&line);
            assert!(line.ends_with(end) && (least..=2 * DRAWN + 2).contains(&end.len()), "{length}: {}", end.len());
        }
    }

    #[test]
    fn any_size_is_enough_and_the_cursor_is_where_one_types() {
        for (width, height) in [(8, 4), (1, 1), (20, 5), (80, 24)] {
            let mut shown = Shown::new(width.max(8), height.max(4));
            let mut all = live(&"tail ".repeat(40), "a very long status that does not fit", &"你好 words ".repeat(30));
            all.question = vec!["question ".repeat(30)];
            for cursor in [0, 3, 90, all.input.chars().count()] {
                all.cursor = cursor;
                shown.draw("finished\n", &all);
                let text = shown.text();
                assert!(text.lines().count() <= usize::from(height.max(4)), "{text}");
            }
        }
        let mut shown = Shown::new(20, 6);
        shown.draw("", &Live { cursor: 1, ..live("", "s", "a你b") });
        assert_eq!(shown.parser.screen().cursor_position(), (1, 3));
    }

    #[test]
    fn a_narrower_terminal_loses_nothing_and_doubles_nothing() {
        let mut shown = Shown::new(40, 8);
        shown.draw("one\n", &live("", "a status of some length, thirty", "some words of input here"));
        // vt100 does not reflow; what counts is how many rows are taken back.
        shown.screen.resize((20, 8));
        assert!(shown.screen.draw("", &live("", "s", "")).contains("\x1b[3A"));
    }
}
