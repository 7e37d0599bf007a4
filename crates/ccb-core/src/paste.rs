//! What may go into a terminal as a paste (promise P9).

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_ends_are_one_kind() {
        assert_eq!(neutralise("a\r\nb\rc\nd\te"), "a\nb\nc\nd\te");
        assert_eq!(neutralise("a\u{1b}[201~b\u{9b}201~\u{7f}\0"), "a\u{fffd}[201~b\u{fffd}201~\u{fffd}\u{fffd}");
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
