//! What may go into a terminal as a paste (promise P9).

use unicode_normalization::UnicodeNormalization as _;

/// The largest text, in bytes, that is pasted; a longer one goes to a file.
pub const LIMIT: usize = 1 << 20;

/// Returns `text` so that nothing in it can end a bracketed paste or act as a key.
///
/// CRLF and CR become LF. Control characters other than tab and newline, DEL and the C1 range become
/// U+FFFD: visible, harmless, and the same number of characters. Without ESC and C1 CSI there is no
/// end-of-paste sequence.
pub fn neutralise(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {
                if chars.peek() == Some(&'\n') {
                    chars.next();
                }
                safe.push('\n');
            }
            '\t' | '\n' => safe.push(c),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Returns what a program keeps of a pasted text: it may change white space (Claude makes four spaces of a tab) and
/// the form of letters with accents.
pub fn kept(text: &str) -> String {
    text.nfc().filter(|c| !c.is_whitespace()).collect()
}

/// Returns what is sure to be seen of a text on a screen: terminals also lose joiners, and some of what emoji are
/// made of.
pub fn shown(text: &str) -> String {
    text.nfc().filter(|c| c.is_alphanumeric() || c.is_ascii_graphic()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_ends_are_one_kind() {
        assert_eq!(neutralise("a\r\nb\rc\nd\te"), "a\nb\nc\nd\te");
        assert_eq!(neutralise("a\u{1b}[201~b\u{9b}201~\u{7f}\0"), "a\u{fffd}[201~b\u{fffd}201~\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_is_kept_and_what_is_shown() {
        assert_eq!(kept("a\tb\u{a0}e\u{301}\n"), "abé");
        // As tmux 3.3a shows it: without the joiner, the tone, and the space of no width.
        assert_eq!(shown("👍🏽 x\u{200b}y e\u{301}你(!)"), shown("👍  xy é 你(!)"));
        assert_ne!(shown("你"), shown("你好"));
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text in any::<String>()) {
            let safe = neutralise(&text);
            prop_assert!(safe.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
            prop_assert_eq!(neutralise(&safe), safe);
        }
    }
}
