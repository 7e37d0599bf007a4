//! The human's input line: what it holds, and what each key makes of it.

use super::keys::Key;

/// The most inputs that are remembered.
const MEMORY: usize = 100;

/// The input line.
#[derive(Debug, Default)]
pub(crate) struct Editor {
    text: Vec<char>,
    cursor: usize,
    /// What was sent before, oldest first, and which of it is shown.
    memory: Vec<String>,
    shown: Option<usize>,
}

impl Editor {
    /// Returns the text.
    pub(crate) fn text(&self) -> String {
        self.text.iter().collect()
    }

    /// Returns how many characters stand before the cursor.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Returns whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.set("");
    }

    /// Puts a text into it.
    pub(crate) fn set(&mut self, text: &str) {
        self.text = text.chars().collect();
        self.cursor = self.text.len();
    }

    /// Takes what was typed, and remembers it.
    pub(crate) fn submit(&mut self) -> String {
        let text = self.text();
        self.clear();
        self.shown = None;
        if !text.trim().is_empty() && self.memory.last() != Some(&text) {
            self.memory.push(text.clone());
            let excess = self.memory.len().saturating_sub(MEMORY);
            self.memory.drain(..excess);
        }
        text
    }

    /// Takes a key that edits. Those that do not are the caller's.
    pub(crate) fn take(&mut self, key: &Key) {
        match key {
            Key::Char(c) => self.insert(std::iter::once(*c)),
            Key::Newline => self.insert(std::iter::once('\n')),
            Key::Paste(text) => self.insert(text.trim_end_matches('\n').chars()),
            Key::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.cursor);
            }
            Key::Delete if self.cursor < self.text.len() => drop(self.text.remove(self.cursor)),
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            Key::Home | Key::Control('a') => self.cursor = self.line_start(),
            Key::End | Key::Control('e') => self.cursor = self.line_end(),
            Key::Control('u') => {
                let start = self.line_start();
                self.text.drain(start..self.cursor);
                self.cursor = start;
            }
            Key::Control('k') => drop(self.text.drain(self.cursor..self.line_end())),
            Key::Control('w') => self.delete_word(),
            Key::Up => self.remember(true),
            Key::Down => self.remember(false),
            Key::Backspace | Key::Delete | Key::Enter | Key::Escape | Key::Control(_) | Key::TooLong => {}
        }
    }

    fn insert(&mut self, chars: impl Iterator<Item = char>) {
        let before = self.text.len();
        self.text.splice(self.cursor..self.cursor, chars);
        self.cursor += self.text.len() - before;
    }

    fn line_start(&self) -> usize {
        self.text[..self.cursor].iter().rposition(|c| *c == '\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self) -> usize {
        self.text[self.cursor..].iter().position(|c| *c == '\n').map_or(self.text.len(), |at| self.cursor + at)
    }

    fn delete_word(&mut self) {
        let mut start = self.cursor;
        while start > 0 && self.text[start - 1].is_whitespace() {
            start -= 1;
        }
        while start > 0 && !self.text[start - 1].is_whitespace() {
            start -= 1;
        }
        self.text.drain(start..self.cursor);
        self.cursor = start;
    }

    /// Shows an earlier or a later input. A draft that is not one of them is never lost by it.
    fn remember(&mut self, earlier: bool) {
        let own = self.shown.and_then(|shown| self.memory.get(shown)).is_some_and(|kept| *kept == self.text());
        if !own && !self.is_empty() {
            return;
        }
        let next = match (self.shown, earlier) {
            (None, true) => self.memory.len().checked_sub(1),
            (None, false) => None,
            (Some(shown), true) => Some(shown.saturating_sub(1)),
            (Some(shown), false) => Some(shown + 1).filter(|next| *next < self.memory.len()),
        };
        self.shown = next;
        let text = next.and_then(|next| self.memory.get(next).cloned()).unwrap_or_default();
        self.set(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::keys::Keys;

    /// Returns the text with `|` where the cursor is, after these keys.
    fn after(keys: &str) -> String {
        let mut editor = Editor::default();
        for key in Keys::default().take(keys.as_bytes()) {
            if key == Key::Enter { drop(editor.submit()) } else { editor.take(&key) }
        }
        let mut text: Vec<char> = editor.text().chars().collect();
        text.insert(editor.cursor(), '|');
        text.into_iter().collect()
    }

    #[test]
    fn what_keys_do() {
        let table = [
            ("abc\x1b[D\x1b[DX", "aX|bc"),
            ("abc\x7f\x7f", "a|"),
            ("\x7f\x1b[3~a\x1b[D\x1b[3~", "|"),
            ("ab\ncd\x01X\x05Y", "ab\nXcdY|"),
            ("ab\ncd\x1b[H\x0b", "ab\n|"),
            ("one two  \x17", "one |"),
            ("one\x15two", "two|"),
            ("\x1b[200~a\nb\n\x1b[201~c", "a\nbc|"),
            ("first\rsecond\r\x1b[A", "second|"),
            ("first\rsecond\r\x1b[A\x1b[A\x1b[A", "first|"),
            ("first\rsecond\r\x1b[A\x1b[A\x1b[B", "second|"),
            ("first\r\x1b[A\x1b[B", "|"),
            ("first\rdraft\x1b[A", "draft|"),
            ("你好\x1b[D!", "你!|好"),
        ];
        for (keys, text) in table {
            assert_eq!(after(keys), text, "{keys:?}");
        }
    }
}
