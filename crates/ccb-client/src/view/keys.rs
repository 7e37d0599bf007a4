//! What a terminal sends, as keys.

use std::time::Duration;

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character.
    Char(char),
    /// A text that was pasted, in brackets.
    Paste(String),
    /// A paste that is too long; nothing of it is taken.
    TooLong,
    /// Enter.
    Enter,
    /// A new line in the text (Alt-Enter, Ctrl-J).
    Newline,
    /// Escape.
    Escape,
    /// The keys that move and delete.
    Backspace,
    /// Deletes what is under the cursor.
    Delete,
    /// One to the left.
    Left,
    /// One to the right.
    Right,
    /// Earlier input.
    Up,
    /// Later input.
    Down,
    /// The start of the line.
    Home,
    /// The end of the line.
    End,
    /// A control key, by its letter.
    Control(char),
}

/// What opens and closes a paste.
const PASTE: (&[u8], &[u8]) = (b"\x1b[200~", b"\x1b[201~");

/// The longest paste, in bytes, that is taken.
pub(crate) const PASTE_LIMIT: usize = 1 << 20;

/// How long a lone Escape waits for the rest of a key, and a paste for its end.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Turns bytes into keys. What is not complete yet is kept.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    /// What has come of a paste whose end has not.
    paste: Option<Vec<u8>>,
}

/// What stands at the head of the bytes.
enum Head {
    /// A key of that many bytes; none: nothing that we know.
    Key(Option<Key>, usize),
    /// A paste begins.
    Paste,
    /// Not enough to say.
    Incomplete,
}

impl Keys {
    /// Takes what was read, and returns the keys in it.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let mut keys = Vec::new();
        let mut at = 0;
        while at < self.bytes.len() {
            let left = &self.bytes[at..];
            if let Some(pasted) = &mut self.paste {
                let end = left.windows(PASTE.1.len()).position(|window| window == PASTE.1);
                // What may be the beginning of the end is kept.
                let length = end.unwrap_or(left.len().saturating_sub(PASTE.1.len() - 1));
                pasted.extend(&left[..length.min((PASTE_LIMIT + 1).saturating_sub(pasted.len()))]);
                at += length;
                if end.is_none() {
                    break;
                }
                at += PASTE.1.len();
                keys.extend(self.pasted());
                continue;
            }
            match head(left) {
                Head::Key(key, length) => {
                    at += length;
                    keys.extend(key);
                }
                Head::Paste => {
                    at += PASTE.0.len();
                    self.paste = Some(Vec::new());
                }
                Head::Incomplete => break,
            }
        }
        self.bytes.drain(..at);
        keys
    }

    fn pasted(&mut self) -> Option<Key> {
        let pasted = self.paste.take()?;
        let text = || ccb_core::paste::neutralise(&String::from_utf8_lossy(&pasted));
        Some(if pasted.len() > PASTE_LIMIT { Key::TooLong } else { Key::Paste(text()) })
    }

    /// Returns how long it is to be waited for what may follow: on an Escape, in a paste.
    pub(crate) fn waits(&self) -> Option<Duration> {
        let escape = (self.bytes == b"\x1b").then_some(PATIENCE.0);
        if self.paste.is_some() { Some(PATIENCE.1) } else { escape }
    }

    /// Nothing has followed: it was the Escape key, or a paste without an end.
    pub(crate) fn settle(&mut self) -> Option<Key> {
        if let Some(pasted) = &mut self.paste {
            pasted.append(&mut self.bytes);
            return self.pasted();
        }
        self.waits().map(|_| {
            self.bytes.clear();
            Key::Escape
        })
    }
}

fn head(bytes: &[u8]) -> Head {
    match bytes[0] {
        0x1b => escape(bytes),
        b'\r' => Head::Key(Some(Key::Enter), 1),
        b'\n' => Head::Key(Some(Key::Newline), 1),
        0x7f | 0x08 => Head::Key(Some(Key::Backspace), 1),
        b'\t' => Head::Key(Some(Key::Char('\t')), 1),
        byte @ 1..=26 => Head::Key(Some(Key::Control(char::from(b'a' + byte - 1))), 1),
        0..=31 => Head::Key(None, 1),
        _ => character(bytes),
    }
}

fn character(bytes: &[u8]) -> Head {
    let length = match bytes[0] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    if bytes.len() < length {
        return Head::Incomplete;
    }
    match std::str::from_utf8(&bytes[..length]) {
        Ok(text) => Head::Key(text.chars().next().filter(|c| !c.is_control()).map(Key::Char), length),
        Err(_) => Head::Key(None, 1),
    }
}

fn escape(bytes: &[u8]) -> Head {
    if bytes.starts_with(PASTE.0) {
        return Head::Paste;
    }
    match bytes.get(1) {
        None => Head::Incomplete,
        Some(b'\r' | b'\n') => Head::Key(Some(Key::Newline), 2),
        Some(b'O') => match bytes.get(2) {
            None => Head::Incomplete,
            Some(letter) => Head::Key(arrow(*letter), 3),
        },
        Some(b'[') => sequence(bytes),
        Some(0x1b) => Head::Key(Some(Key::Escape), 1),
        // Alt with a letter means nothing here.
        Some(_) => Head::Key(None, 2),
    }
}

/// A control sequence: parameters, and the letter that ends it.
fn sequence(bytes: &[u8]) -> Head {
    let Some(length) = bytes[2..].iter().position(|byte| (0x40..=0x7e).contains(byte)) else {
        return if bytes.len() > 64 { Head::Key(None, bytes.len()) } else { Head::Incomplete };
    };
    let key = match (&bytes[2..2 + length], bytes[2 + length]) {
        (b"1" | b"7", b'~') => Some(Key::Home),
        (b"4" | b"8", b'~') => Some(Key::End),
        (b"3", b'~') => Some(Key::Delete),
        (_, letter) => arrow(letter),
    };
    Head::Key(key, length + 3)
}

fn arrow(letter: u8) -> Option<Key> {
    match letter {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'C' => Some(Key::Right),
        b'D' => Some(Key::Left),
        b'H' => Some(Key::Home),
        b'F' => Some(Key::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_keys_however_they_are_cut() {
        let bytes =
            "aä你\r\x1b[A\x1b[D\x1bOH\x1b[3~\x1b[4~\x7f\x03\x1b\r\x1b[1;5C\x1b[200~x\r\ny\x1b[2J\x1b[201~z\x1bq";
        let keys = vec![
            Key::Char('a'),
            Key::Char('ä'),
            Key::Char('你'),
            Key::Enter,
            Key::Up,
            Key::Left,
            Key::Home,
            Key::Delete,
            Key::End,
            Key::Backspace,
            Key::Control('c'),
            Key::Newline,
            Key::Right,
            Key::Paste("x\ny\u{fffd}[2J".into()),
            Key::Char('z'),
        ];
        assert_eq!(Keys::default().take(bytes.as_bytes()), keys);
        let mut one = Keys::default();
        let found: Vec<Key> = bytes.as_bytes().chunks(1).flat_map(|byte| one.take(byte)).collect();
        assert_eq!(found, keys);
    }

    #[test]
    fn a_lone_escape_is_a_key_once_nothing_follows() {
        let mut keys = Keys::default();
        assert!(keys.take(b"\x1b").is_empty() && keys.waits() == Some(PATIENCE.0));
        assert_eq!((keys.settle(), keys.settle()), (Some(Key::Escape), None));
        assert_eq!(keys.take(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
        assert_eq!(keys.take(b"\xff\x00\x9ba"), [Key::Char('a')], "what is no text and no key is dropped");
    }

    #[test]
    fn a_paste_without_an_end_or_a_bound_is_over_once_nothing_follows() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"\x1b[200~half\x03\x1b[20"), []);
        assert_eq!(keys.waits(), Some(PATIENCE.1));
        assert_eq!(keys.settle(), Some(Key::Paste("half\u{fffd}\u{fffd}[20".into())));
        assert_eq!((keys.waits(), keys.take(b"\x03")), (None, vec![Key::Control('c')]));
        // None of one that is too long becomes keys, and it is not kept whole.
        assert_eq!(keys.take(b"\x1b[200~"), []);
        for _ in 0..PASTE_LIMIT / 1000 + 9 {
            assert_eq!(keys.take(&[b'x'; 1000]), []);
        }
        assert!(keys.bytes.len() + keys.paste.as_ref().unwrap().len() < PASTE_LIMIT + 9);
        assert_eq!(keys.take(b"\x1b[201~y"), [Key::TooLong, Key::Char('y')]);
    }
}
