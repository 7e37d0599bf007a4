//! From the terminal's bytes to keys and pastes. Pure: it reads nothing and knows no time.
//!
//! Sequences may come in any pieces. Only a lone escape character is ambiguous, since it also opens every sequence: whoever
//! drives the parser waits a moment and then calls [`Parser::flush`].

/// What opens a bracketed paste.
const PASTE_START: &[u8] = b"\x1b[200~";

/// What ends a bracketed paste.
const PASTE_END: &[u8] = b"\x1b[201~";

/// Something that came from the keyboard, or from whoever plays it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A character to put into the composer.
    Char(char),
    /// CR or LF: submit.
    Enter,
    /// Alt-Enter or Shift-Enter: a line break in the composer.
    NewLine,
    /// Backspace or Ctrl-H.
    Backspace,
    /// Ctrl-U.
    Erase,
    /// Ctrl-C.
    Interrupt,
    /// Esc alone.
    Escape,
    /// A bracketed paste, its line ends made LF.
    Paste(String),
    /// A key without meaning here.
    Other,
}

/// What the parser has read but not yet understood.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// Bytes of a sequence that has not ended.
    rest: Vec<u8>,
    /// The paste that has not ended.
    paste: Option<Vec<u8>>,
}

impl Parser {
    /// Takes what was read and returns what it means so far.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Input> {
        let mut inputs = Vec::new();
        let mut bytes = {
            let mut whole = std::mem::take(&mut self.rest);
            whole.extend_from_slice(bytes);
            whole
        };
        loop {
            if self.paste.is_some() {
                let Some((text, after)) = self.paste_end(&bytes) else { break };
                inputs.push(Input::Paste(text));
                bytes = after;
                continue;
            }
            let (used, opened) = keys(&bytes, &mut inputs);
            bytes.drain(..used);
            if !opened {
                self.rest = bytes;
                break;
            }
            self.paste = Some(Vec::new());
        }
        inputs
    }

    /// Returns whether an escape character waits to be told apart from a sequence.
    pub(crate) fn undecided(&self) -> bool {
        self.paste.is_none() && self.rest.first() == Some(&0x1b)
    }

    /// Decides that the escape character was a key, as nothing followed it in time.
    pub(crate) fn flush(&mut self) -> Vec<Input> {
        if !self.undecided() {
            return Vec::new();
        }
        let after = self.rest.split_off(1);
        self.rest.clear();
        let mut inputs = vec![Input::Escape];
        inputs.extend(self.feed(&after));
        inputs
    }

    /// Adds `bytes` to the open paste; if they end it, returns its text and the bytes after it.
    fn paste_end(&mut self, bytes: &[u8]) -> Option<(String, Vec<u8>)> {
        let paste = self.paste.as_mut()?;
        let searched = paste.len().saturating_sub(PASTE_END.len() - 1);
        paste.extend_from_slice(bytes);
        let found = paste[searched..].windows(PASTE_END.len()).position(|window| window == PASTE_END)? + searched;
        let after = paste.split_off(found + PASTE_END.len());
        paste.truncate(found);
        let text = String::from_utf8_lossy(paste).replace("\r\n", "\n").replace('\r', "\n");
        self.paste = None;
        Some((text, after))
    }
}

/// Reads keys up to the end, an unfinished sequence, or the start of a paste; returns how many bytes that took and whether a
/// paste was opened.
fn keys(bytes: &[u8], inputs: &mut Vec<Input>) -> (usize, bool) {
    let mut used = 0;
    while used < bytes.len() {
        let rest = &bytes[used..];
        if rest.starts_with(PASTE_START) {
            return (used + PASTE_START.len(), true);
        }
        let Some((length, input)) = key(rest) else { break };
        inputs.push(input);
        used += length;
    }
    (used, false)
}

/// Returns the key that `bytes` open with and its length, or `None` if more bytes are needed.
fn key(bytes: &[u8]) -> Option<(usize, Input)> {
    match *bytes.first()? {
        0x1b => escape_sequence(bytes),
        b'\r' | b'\n' => Some((1, Input::Enter)),
        0x03 => Some((1, Input::Interrupt)),
        0x08 | 0x7f => Some((1, Input::Backspace)),
        0x15 => Some((1, Input::Erase)),
        b'\t' => Some((1, Input::Char('\t'))),
        0x00..=0x1f => Some((1, Input::Other)),
        _ => character(bytes),
    }
}

/// Returns what a sequence that opens with an escape character means.
fn escape_sequence(bytes: &[u8]) -> Option<(usize, Input)> {
    match *bytes.get(1)? {
        b'[' => control_sequence(bytes),
        b'O' => bytes.get(2).map(|_| (3, Input::Other)),
        b'\r' | b'\n' => Some((2, Input::NewLine)),
        0x1b => Some((1, Input::Escape)),
        _ => key(&bytes[1..]).map(|(length, _)| (length + 1, Input::Other)),
    }
}

/// Returns what a sequence that opens with `ESC [` means.
fn control_sequence(bytes: &[u8]) -> Option<(usize, Input)> {
    let parameters = &bytes[2..];
    let length = parameters.iter().position(|byte| !(0x20..=0x3f).contains(byte))?;
    let input = match &parameters[..=length] {
        b"13;2u" | b"13;3u" | b"27;2;13~" | b"27;3;13~" => Input::NewLine,
        _ => Input::Other,
    };
    // A byte that cannot end a sequence ends its reading all the same, and is read for itself.
    let ends = (0x40..=0x7e).contains(&parameters[length]);
    Some((2 + length + usize::from(ends), input))
}

/// Returns the UTF-8 character that `bytes` open with, or a replacement for what is none.
fn character(bytes: &[u8]) -> Option<(usize, Input)> {
    let head = &bytes[..bytes.len().min(4)];
    match std::str::from_utf8(head) {
        Ok(text) => text.chars().next().map(|c| (c.len_utf8(), Input::Char(c))),
        Err(error) if error.valid_up_to() > 0 => {
            let text = std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default();
            text.chars().next().map(|c| (c.len_utf8(), Input::Char(c)))
        }
        Err(error) => error.error_len().map(|length| (length, Input::Char('\u{fffd}'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Input> {
        Parser::default().feed(bytes)
    }

    #[test]
    fn keys_have_their_meanings() {
        use Input::{Backspace, Char, Enter, Erase, Interrupt, NewLine, Other};
        for (bytes, inputs) in [
            (&b"a\r"[..], vec![Char('a'), Enter]),
            (b"\n", vec![Enter]),
            (b"\x7f\x08\x15\x03\t\x01", vec![Backspace, Backspace, Erase, Interrupt, Char('\t'), Other]),
            ("é漢🙂".as_bytes(), vec![Char('é'), Char('漢'), Char('🙂')]),
            (b"\xffa\xc3(", vec![Char('\u{fffd}'), Char('a'), Char('\u{fffd}'), Char('(')]),
            (b"\x1b[A\x1bOPb", vec![Other, Other, Char('b')]),
            (b"\x1b\r\x1b[13;2u", vec![NewLine, NewLine]),
            (b"\x1bxy", vec![Other, Char('y')]),
            (b"\x1b[3\x01z", vec![Other, Other, Char('z')]),
        ] {
            assert_eq!(read(bytes), inputs, "{bytes:?}");
        }
    }

    #[test]
    fn pastes_are_taken_verbatim() {
        for (bytes, text) in [
            (&b"\x1b[200~a\rb\r\nc\nd\x1b[201~"[..], "a\nb\nc\nd"),
            (b"\x1b[200~\x1b[201~", ""),
            (b"\x1b[200~\x03\x1b[A\x1b[201\x1b[201~", "\u{3}\u{1b}[A\u{1b}[201"),
            (b"\x1b[200~\x1b[200~x\x1b[201~", "\u{1b}[200~x"),
        ] {
            assert_eq!(read(bytes), [Input::Paste(text.to_owned())], "{bytes:?}");
        }
    }

    #[test]
    fn any_split_gives_the_same() {
        let bytes = "x\x1b[200~漢字\rtwo\x1b[201~\ré\x1b[A\x1b[200~again\x1b[201~y\r".as_bytes();
        let whole = read(bytes);
        assert_eq!(whole.len(), 8);
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let mut parser = Parser::default();
                let mut inputs = parser.feed(&bytes[..first]);
                inputs.extend(parser.feed(&bytes[first..second]));
                inputs.extend(parser.feed(&bytes[second..]));
                assert_eq!(inputs, whole, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_lone_escape_is_decided_by_time() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"a\x1b"), [Input::Char('a')]);
        assert!(parser.undecided());
        assert_eq!(parser.flush(), [Input::Escape]);
        assert!(!parser.undecided());
        assert_eq!(parser.feed(b"\x1b[20"), []);
        assert_eq!(parser.flush(), [Input::Escape, Input::Char('['), Input::Char('2'), Input::Char('0')]);
        assert_eq!(parser.feed(b"\x1b[200~\x1b"), []);
        assert!(!parser.undecided(), "an escape inside a paste is text");
    }
}
