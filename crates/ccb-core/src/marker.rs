//! The `CCB_DONE` line: the end mark of agents that have no better signal.

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
    let Some(last) = lines.iter().rposition(|line| !line.trim().is_empty()) else {
        return Mark::None;
    };
    match lines[last].trim().strip_prefix(DONE) {
        Some(rest) if rest.trim() == id.as_str() => {
            Mark::Ours(lines[..last].join("\n").trim_end().trim_start_matches('\n').to_owned())
        }
        Some(_) | None => Mark::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_meaningful_line_counts() {
        let id = RequestId::new("r1").unwrap();
        let ours = |text: &str| read(text, &id);
        assert_eq!(ours("answer\nCCB_DONE: r1\n\n"), Mark::Ours("answer".into()));
        assert_eq!(ours("  indented\n\n  CCB_DONE:   r1"), Mark::Ours("  indented".into()));
        assert_eq!(ours("CCB_DONE: r1"), Mark::Ours(String::new()));
        for none in
            ["", "answer", "a\nCCB_DONE: r2", "CCB_DONE: r1\nmore", "`CCB_DONE: r1`", "CCB_DONE: r12", "x CCB_DONE: r1"]
        {
            assert_eq!(ours(none), Mark::None, "{none}");
        }
    }
}
