//! The picture: from what is to be seen to rows, and from two pictures to the bytes that turn one into the other. Pure.
//!
//! Every row is placed by itself, so a terminal that takes another width for some character spoils that row only.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

use crate::conversation::{Entry, Speaker};

/// The sign before the composer's text.
const SIGN: &str = "❯ ";

/// What stands before the composer's further rows.
const INDENT: &str = "  ";

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// How many columns.
    pub(crate) columns: usize,
    /// How many rows.
    pub(crate) rows: usize,
}

/// What is to be seen.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The first line.
    pub(crate) title: &'a str,
    /// What was said.
    pub(crate) conversation: &'a [Entry],
    /// What stands in the composer.
    pub(crate) composer: &'a str,
    /// The dialog that hides the composer.
    pub(crate) dialog: Option<&'a str>,
    /// The last line.
    pub(crate) status: &'a str,
}

/// How a row looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    Bold,
    Dim,
    Loud,
}

/// A row of the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    style: Style,
    text: String,
}

/// A picture of the whole terminal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    rows: Vec<Row>,
    /// Where the cursor is, row and column from 0; hidden if nowhere.
    cursor: Option<(usize, usize)>,
}

/// Draws a picture. In a small terminal the last rows are what is left of it.
pub(crate) fn draw(view: &View<'_>, size: Size) -> Frame {
    let rule = row(Style::Dim, &"─".repeat(size.columns));
    let mut bottom = vec![rule.clone()];
    let mut cursor = None;
    if let Some(question) = view.dialog {
        bottom.push(row(Style::Loud, &format!(" {question}")));
    } else {
        let text = composer_rows(view.composer, size);
        let last = text.last().map_or(0, |row| width(row));
        bottom.extend(text.iter().map(|text| row(Style::Plain, text)));
        cursor = Some((bottom.len() - 1, last));
    }
    bottom.push(rule);
    bottom.push(row(Style::Dim, view.status));

    let room = size.rows.saturating_sub(bottom.len() + 1);
    let mut rows = vec![row(Style::Bold, view.title)];
    let mut said = conversation_rows(view.conversation, size.columns, room);
    said.resize_with(room, || row(Style::Plain, ""));
    rows.append(&mut said);
    let above = rows.len();
    rows.append(&mut bottom);

    let hidden = rows.len().saturating_sub(size.rows);
    rows.drain(..hidden);
    for row in &mut rows {
        row.text = clip(&row.text, size.columns);
    }
    let cursor = cursor.and_then(|(row, column)| Some(((above + row).checked_sub(hidden)?, column)));
    Frame { rows, cursor: cursor.filter(|(_, column)| *column < size.columns) }
}

/// Returns the bytes that turn the picture `before` (or anything) into `after`; none if they are the same.
pub(crate) fn paint(before: Option<&Frame>, after: &Frame) -> String {
    let mut bytes = String::new();
    if before == Some(after) {
        return bytes;
    }
    bytes.push_str("\x1b[?25l");
    for (number, row) in after.rows.iter().enumerate() {
        if before.is_some_and(|before| before.rows.get(number) == Some(row)) {
            continue;
        }
        let style = match row.style {
            Style::Plain => "0",
            Style::Bold => "0;1",
            Style::Dim => "0;2",
            Style::Loud => "0;1;33",
        };
        write!(bytes, "\x1b[{};1H\x1b[0m\x1b[2K\x1b[{style}m{}\x1b[0m", number + 1, row.text).ok();
    }
    if let Some((row, column)) = after.cursor {
        write!(bytes, "\x1b[{};{}H\x1b[?25h", row + 1, column + 1).ok();
    }
    bytes
}

/// Returns the composer's rows: the last ones, if there are more than a third of the terminal.
fn composer_rows(text: &str, size: Size) -> Vec<String> {
    let room = size.columns.saturating_sub(SIGN.chars().count()).max(2);
    let mut rows = wrap(text, room);
    if rows.last().is_some_and(|last| width(last) >= room) {
        // The cursor needs a column.
        rows.push(String::new());
    }
    let hidden = rows.len().saturating_sub((size.rows / 3).max(1));
    let rows = rows.drain(hidden..).enumerate();
    rows.map(|(number, row)| format!("{}{row}", if number == 0 { SIGN } else { INDENT })).collect()
}

/// Returns the conversation's last `room` rows.
fn conversation_rows(entries: &[Entry], columns: usize, room: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for entry in entries.iter().rev() {
        if rows.len() >= room {
            break;
        }
        let (sign, style) = match entry.speaker {
            Speaker::User => ("> ", Style::Dim),
            Speaker::Agent => ("● ", Style::Plain),
            Speaker::Note => ("· ", Style::Dim),
        };
        let wrapped = wrap(&entry.text, columns.saturating_sub(2).max(2));
        for (number, text) in wrapped.iter().enumerate().rev() {
            rows.push(row(style, &format!("{}{text}", if number == 0 { sign } else { INDENT })));
        }
        rows.push(row(Style::Plain, ""));
    }
    rows.truncate(room);
    rows.reverse();
    rows
}

/// Returns a row.
fn row(style: Style, text: &str) -> Row {
    Row { style, text: text.to_owned() }
}

/// Returns how many columns a text takes.
fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Returns what of a text fits into so many columns.
fn clip(text: &str, columns: usize) -> String {
    let mut left = columns;
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    text.chars().take_while(fits).collect()
}

/// Breaks a text into rows of so many columns, at least two; there is always one row.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut rows = Vec::new();
    for line in text.split('\n') {
        let mut row = String::new();
        let mut used = 0;
        for c in line.chars().flat_map(visible) {
            let width = c.width().unwrap_or(0);
            if used + width > columns {
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push(c);
            used += width;
        }
        rows.push(row);
    }
    rows
}

/// Returns what is shown for a character: a tab as spaces, other control characters as pictures of them.
fn visible(c: char) -> impl Iterator<Item = char> {
    let (shown, count) = match c {
        '\t' => (' ', 4),
        '\0'..='\x1f' => (char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'), 1),
        '\x7f' => ('\u{2421}', 1),
        c if c.is_control() => ('\u{fffd}', 1),
        c => (c, 1),
    };
    std::iter::repeat_n(shown, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Conversation;

    fn view<'a>(conversation: &'a Conversation, composer: &'a str) -> View<'a> {
        View { title: "title", conversation: conversation.entries(), composer, dialog: None, status: "stub · idle" }
    }

    fn texts(frame: &Frame) -> Vec<&str> {
        frame.rows.iter().map(|row| row.text.as_str()).collect()
    }

    #[test]
    fn a_picture_fills_the_terminal() {
        let mut conversation = Conversation::default();
        conversation.push(Speaker::User, "one two");
        conversation.push(Speaker::Agent, "three\nfour");
        let frame = draw(&view(&conversation, "ab"), Size { columns: 8, rows: 12 });
        let rule = "────────";
        let shown = ["title", "", "> one tw", "  o", "", "● three", "  four", "", rule, "❯ ab", rule, "stub · i"];
        assert_eq!(texts(&frame), shown);
        assert_eq!(frame.cursor, Some((9, 4)));
    }

    #[test]
    fn the_composer_grows_and_shows_its_end() {
        let nobody = Conversation::default();
        let frame = draw(&view(&nobody, "1\n2\n3\n4\n漢字漢字"), Size { columns: 8, rows: 9 });
        assert_eq!(texts(&frame)[4..8], ["❯ 4", "  漢字漢", "  字", "────────"]);
        assert_eq!(frame.cursor, Some((6, 4)));
        let frame = draw(&view(&nobody, "abcdef"), Size { columns: 8, rows: 9 });
        assert_eq!(texts(&frame)[4..7], ["────────", "❯ abcdef", "  "]);
        assert_eq!(frame.cursor, Some((6, 2)));
    }

    #[test]
    fn a_dialog_hides_the_composer() {
        let nobody = Conversation::default();
        let view = View { dialog: Some("Allow this? [y/N]"), ..view(&nobody, "secret") };
        let frame = draw(&view, Size { columns: 30, rows: 6 });
        assert_eq!(texts(&frame)[3], " Allow this? [y/N]");
        assert_eq!(frame.cursor, None);
    }

    #[test]
    fn no_size_is_too_small() {
        let mut conversation = Conversation::default();
        conversation.push(Speaker::User, "漢字 and more\nlines");
        for columns in 1..12 {
            for rows in 1..12 {
                let frame = draw(&view(&conversation, "漢字\nx"), Size { columns, rows });
                assert_eq!(frame.rows.len(), rows);
                assert!(frame.rows.iter().all(|row| width(&row.text) <= columns), "{columns} x {rows}");
                assert!(frame.cursor.is_none_or(|(row, column)| row < rows && column < columns));
            }
        }
    }

    #[test]
    fn only_changed_rows_are_painted() {
        let nobody = Conversation::default();
        let size = Size { columns: 20, rows: 8 };
        let (before, after) = (draw(&view(&nobody, "a"), size), draw(&view(&nobody, "ab"), size));
        assert_eq!(paint(Some(&before), &before), "");
        assert_eq!(
            paint(Some(&before), &after),
            "\x1b[?25l\x1b[6;1H\x1b[0m\x1b[2K\x1b[0m❯ ab\x1b[0m\x1b[6;5H\x1b[?25h"
        );
        assert_eq!(paint(None, &after).matches("\x1b[2K").count(), 8);
    }

    #[test]
    fn nothing_in_a_text_reaches_the_terminal_as_control() {
        assert_eq!(wrap("a\x1b[2J\tb\u{9b}\x7f", 80), ["a␛[2J    b\u{fffd}␡"]);
        assert_eq!(wrap("e\u{301}x", 2), ["e\u{301}x"]);
        assert_eq!(wrap("", 80), [""]);
    }
}
