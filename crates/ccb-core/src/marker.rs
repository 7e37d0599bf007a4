//! The `CCB_DONE` line: the end mark of agents that have no better signal.
//!
//! It counts only as the last meaningful line of a message. After it may stand what says nothing: blank lines, terminal
//! sequences, the fence that closes the block it stands in, and other tools' lines of the kind `WORD_DONE`, which CCB
//! 5.2 passes over too. Its line may be set off as a whole by backticks or emphasis, and its word may be in any case;
//! the id may not. Whatever follows it otherwise means that the message goes on.

use crate::id::RequestId;
use crate::prompt::DONE;

/// What the end of a message says about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The last meaningful line is our mark; this is the text before it.
    Ours(String),
    /// No mark at the end, another request's, or text after it.
    None,
}

/// Reads the mark of `id` off the end of `message`.
///
/// Only the last meaningful line counts: a foreign mark, or one that is followed by more text, ends nothing.
pub fn read(message: &str, id: &RequestId) -> Mark {
    let lines: Vec<&str> = message.lines().collect();
    let Some(mut last) = last_meaningful(&lines) else {
        return Mark::None;
    };
    let mut closing = None;
    if let Some(fence) = fence_of(&plain(lines[last])) {
        // Only one that closes: one that opens is the beginning of more.
        if open_fence(&lines[..last]).is_none_or(|open| !fence.closes(&open)) {
            return Mark::None;
        }
        closing = Some(lines[last]);
        match last_meaningful(&lines[..last]) {
            Some(before) => last = before,
            None => return Mark::None,
        }
    }
    if !is_mark(&plain(lines[last]), id) {
        return Mark::None;
    }
    let mut text: Vec<&str> = lines[..last].to_vec();
    while text.last().is_some_and(|line| plain(line).trim().is_empty()) {
        text.pop();
    }
    if let Some(open) = open_fence(&text) {
        if text.last().and_then(|line| fence_of(&plain(line))).is_some_and(|fence| fence == open) {
            // Nothing but the mark stood in the block.
            text.pop();
        } else {
            text.extend(closing);
        }
    }
    Mark::Ours(text.join("\n").trim_end().trim_start_matches('\n').to_owned())
}

/// Returns where the last line is that means anything.
fn last_meaningful(lines: &[&str]) -> Option<usize> {
    lines.iter().rposition(|line| {
        let line = plain(line);
        !line.trim().is_empty() && !is_trailer(line.trim())
    })
}

/// Returns whether a line is our mark and nothing else.
fn is_mark(line: &str, id: &RequestId) -> bool {
    let mut line = line.trim();
    for sign in ["**", "__", "*", "_", "```", "``", "`", "**", "*"] {
        let inner = line.strip_prefix(sign).and_then(|line| line.strip_suffix(sign));
        line = inner.map_or(line, str::trim);
    }
    let word = line.get(..DONE.len()).filter(|word| word.eq_ignore_ascii_case(DONE));
    word.is_some_and(|_| line[DONE.len()..].trim() == id.as_str())
}

/// Returns whether a line is another tool's end mark: a word in capitals that ends with `_DONE`, with or without an id.
fn is_trailer(line: &str) -> bool {
    let (word, id) = line.split_once(':').unwrap_or((line, ""));
    let word = word.trim_end();
    let capitals = word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let starts = word.starts_with(|c: char| c.is_ascii_uppercase());
    starts && capitals && word.ends_with("_DONE") && word != "CCB_DONE" && !id.trim().contains(char::is_whitespace)
}

/// A line that opens or closes a block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fence {
    sign: char,
    length: usize,
    bare: bool,
}

impl Fence {
    fn closes(&self, open: &Self) -> bool {
        self.bare && self.sign == open.sign && self.length >= open.length
    }
}

fn fence_of(line: &str) -> Option<Fence> {
    let line = line.trim();
    let sign = line.chars().next().filter(|sign| ['`', '~'].contains(sign))?;
    let length = line.chars().take_while(|c| *c == sign).count();
    // The mark itself may be set off by backticks: then more of them follow on the line.
    let rest = &line[length..];
    (length >= 3 && !rest.contains('`')).then_some(Fence { sign, length, bare: rest.is_empty() })
}

/// Returns the fence of the block that is open at the end of these lines.
fn open_fence(lines: &[&str]) -> Option<Fence> {
    let mut open: Option<Fence> = None;
    for fence in lines.iter().filter_map(|line| fence_of(&plain(line))) {
        open = match open {
            Some(open) if fence.closes(&open) => None,
            Some(open) => Some(open),
            None => Some(fence),
        };
    }
    open
}

/// Returns a line without terminal sequences and characters that are not seen.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                Some('[') => drop(chars.find(|c| ('@'..='~').contains(c))),
                Some(']') => {
                    // Up to BEL, or to ESC and a backslash.
                    if chars.find(|c| matches!(c, '\u{7}' | '\u{1b}')) == Some('\u{1b}') {
                        chars.next_if_eq(&'\\');
                    }
                }
                Some(_) | None => {}
            },
            '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => {}
            c if c.is_control() && c != '\t' => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> RequestId {
        RequestId::new("r1").unwrap()
    }

    #[test]
    fn what_says_nothing_may_follow_the_mark() {
        for (message, reply) in [
            ("answer\nCCB_DONE: r1", "answer"),
            ("answer\nCCB_DONE: r1\n\n", "answer"),
            ("answer\r\nCCB_DONE: r1 \t \r\n", "answer"),
            ("  indented\n\n  CCB_DONE:   r1", "  indented"),
            ("CCB_DONE: r1", ""),
            ("a\nCCB_DONE:r1", "a"),
            ("a\n\u{1b}[32mCCB_DONE: r1\u{1b}[0m\n\u{1b}[0m\n", "a"),
            ("a\nCCB_DONE: r1\u{1b}]0;title\u{7}", "a"),
            ("a\nCCB_DONE: r1\u{1b}]0;title\u{1b}\\", "a"),
            ("a\n\u{feff}CCB_DONE: r1\u{200b}", "a"),
            ("a\nCCB_DONE: r1\nHARNESS_DONE\nX_DONE: 7\n", "a"),
            ("a\nHARNESS_DONE\nCCB_DONE: r1", "a\nHARNESS_DONE"),
            ("a\nCCB_DONE: r2\nCCB_DONE: r1", "a\nCCB_DONE: r2"),
        ] {
            assert_eq!(read(message, &id()), Mark::Ours(reply.into()), "{message:?}");
        }
    }

    #[test]
    fn a_mark_that_is_set_off_is_a_mark() {
        for line in [
            "`CCB_DONE: r1`",
            "**CCB_DONE: r1**",
            "**`CCB_DONE: r1`**",
            "`` CCB_DONE: r1 ``",
            "ccb_done: r1",
            "Ccb_Done: r1",
        ] {
            assert_eq!(read(&format!("a\n{line}"), &id()), Mark::Ours("a".into()), "{line}");
        }
    }

    #[test]
    fn a_fence_that_closes_over_the_mark_is_no_text() {
        for (message, reply) in [
            ("a\n```\nCCB_DONE: r1\n```", "a"),
            ("a\n```text\nCCB_DONE: r1\n```\n\n", "a"),
            ("a\n```\nCCB_DONE: r1", "a"),
            ("```rust\nfn f() {}\nCCB_DONE: r1\n```", "```rust\nfn f() {}\n```"),
            ("~~~\ncode\n\nCCB_DONE: r1\n~~~", "~~~\ncode\n~~~"),
            ("````\n```\nx\n```\nCCB_DONE: r1\n````", "````\n```\nx\n```\n````"),
            ("```\ncode\n```\nCCB_DONE: r1", "```\ncode\n```"),
            ("```\ncode\nCCB_DONE: r1", "```\ncode"),
        ] {
            assert_eq!(read(message, &id()), Mark::Ours(reply.into()), "{message:?}");
        }
    }

    #[test]
    fn what_is_foreign_quoted_or_followed_by_text_is_no_mark() {
        for message in [
            "",
            "\n \n",
            "answer",
            "a\nCCB_DONE: r2",
            "CCB_DONE: r1\nmore",
            "CCB_DONE: r1\nCCB_DONE: r2",
            "CCB_DONE: r12",
            "CCB_DONE: R1",
            "CCB_DONE: r1 r1",
            "CCB_DONE: r1.",
            "CCB_DONE",
            "CCB_DONE:",
            "x CCB_DONE: r1",
            "CCB_DONE: r1 x",
            "> CCB_DONE: r1",
            "I end with `CCB_DONE: r1`",
            "`CCB_DONE: r1` is the mark",
            "CCB_DONE: r1\n```",
            "CCB_DONE: r1\n```rust",
            "```\nCCB_DONE: r1\n```\nand on",
            "```\nCCB_DONE: r1\n~~~",
            "````\nCCB_DONE: r1\n```",
            "a\nCCB_DO\nNE: r1",
            "CCB_DONE: r1\nDONE",
            "CCB_DONE: r1\nAll DONE",
        ] {
            assert_eq!(read(message, &id()), Mark::None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn another_requests_mark_ends_nothing(text in "[a-z`*\n ]{0,40}", other in "[a-z0-9-]{1,8}") {
            prop_assume!(other != "r1");
            prop_assert_eq!(read(&format!("{text}\nCCB_DONE: {other}"), &id()), Mark::None);
            prop_assert_eq!(read(&format!("{text}\nCCB_DONE: r1\nCCB_DONE: {other}"), &id()), Mark::None);
        }

        #[test]
        fn text_after_the_mark_means_that_it_goes_on(text in "[a-z\n ]{0,40}", more in "[a-zäé.,:()-]{1,20}") {
            prop_assert_eq!(read(&format!("{text}\nCCB_DONE: r1\n{more}"), &id()), Mark::None);
            prop_assert_eq!(read(&format!("{text}\nCCB_DONE: r1 {more}"), &id()), Mark::None);
        }

        #[test]
        fn a_plain_answer_comes_whole(text in "[a-z.,][a-z.,\n ]{0,40}[a-z.,]", noise in "[ \t\r\n]{0,9}") {
            let message = format!("{text}\nCCB_DONE: r1{noise}");
            let whole = text.lines().collect::<Vec<_>>().join("\n");
            prop_assert_eq!(read(&message, &id()), Mark::Ours(whole));
        }

        #[test]
        fn nothing_makes_it_panic(message: String) {
            read(&message, &id());
            read(&(message + "\nCCB_DONE: r1"), &id());
        }
    }
}
