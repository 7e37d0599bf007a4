//! What stands in the composer: typed text and pastes, edited at the end only.

use unicode_width::UnicodeWidthChar as _;

/// From this many lines on a paste is shown as a placeholder.
const COLLAPSED_FROM: usize = 4;

/// A stretch of the composer's content.
#[derive(Debug)]
enum Piece {
    /// Text that is shown as it is.
    Plain(String),
    /// A paste that is shown as a placeholder.
    Collapsed {
        /// Its number in this session.
        number: usize,
        /// Its text.
        text: String,
    },
}

/// The composer's content.
#[derive(Debug, Default)]
pub(crate) struct Composer {
    pieces: Vec<Piece>,
    /// How many pastes were collapsed so far.
    collapsed: usize,
}

impl Composer {
    /// Returns whether nothing stands in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds text at the end.
    pub(crate) fn push(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Plain(plain)) => plain.push_str(text),
            Some(Piece::Collapsed { .. }) | None => self.pieces.push(Piece::Plain(text.to_owned())),
        }
    }

    /// Adds a paste at the end, collapsed if it has many lines.
    pub(crate) fn paste(&mut self, text: String) {
        if text.lines().count() < COLLAPSED_FROM {
            self.push(&text);
        } else {
            self.collapsed += 1;
            self.pieces.push(Piece::Collapsed { number: self.collapsed, text });
        }
    }

    /// Removes the last character with what combines with it, or the last collapsed paste.
    pub(crate) fn backspace(&mut self) {
        let emptied = match self.pieces.last_mut() {
            Some(Piece::Plain(plain)) => {
                while plain.pop().is_some_and(|c| c.width() == Some(0)) {}
                plain.is_empty()
            }
            Some(Piece::Collapsed { .. }) => true,
            None => false,
        };
        if emptied {
            self.pieces.pop();
        }
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Empties it and returns the text, pastes in full.
    pub(crate) fn take(&mut self) -> String {
        let text = |piece| match piece {
            Piece::Plain(text) | Piece::Collapsed { text, .. } => text,
        };
        self.pieces.drain(..).map(text).collect()
    }

    /// Returns what is shown of it. A placeholder counts line breaks, as Claude does.
    pub(crate) fn shown(&self) -> String {
        let shown = |piece: &Piece| match piece {
            Piece::Plain(text) => text.clone(),
            Piece::Collapsed { number, text } => {
                format!("[Pasted text #{number} +{} lines]", text.matches('\n').count())
            }
        };
        self.pieces.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_pastes_are_collapsed_and_taken_whole() {
        let mut composer = Composer::default();
        composer.push("see ");
        composer.paste("a\nb\nc".to_owned());
        composer.paste("a\nb\nc\nd\n".to_owned());
        composer.paste("1\n2\n3\n4".to_owned());
        composer.push("!");
        assert_eq!(composer.shown(), "see a\nb\nc[Pasted text #1 +4 lines][Pasted text #2 +3 lines]!");
        assert_eq!(composer.take(), "see a\nb\nca\nb\nc\nd\n1\n2\n3\n4!");
        assert!(composer.is_empty());
        composer.paste("a\nb\nc\nd".to_owned());
        assert_eq!(composer.shown(), "[Pasted text #3 +3 lines]");
    }

    #[test]
    fn backspace_removes_what_is_seen_as_one() {
        let mut composer = Composer::default();
        composer.push("a漢e\u{301}");
        composer.backspace();
        assert_eq!(composer.shown(), "a漢");
        composer.backspace();
        composer.paste("1\n2\n3\n4".to_owned());
        composer.backspace();
        assert_eq!(composer.shown(), "a");
        composer.backspace();
        assert!(composer.is_empty());
        composer.backspace();
        assert_eq!(composer.take(), "");
    }
}
