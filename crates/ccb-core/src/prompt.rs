//! What an agent is given: the anchor, the message, and what little it must be told.

use crate::id::RequestId;
use crate::outcome::Outcome;

/// What opens the anchor line that heads every prompt.
pub const ANCHOR: &str = "CCB_REQ_ID:";

/// What opens the line that ends an answer where there is no better signal.
pub const DONE: &str = "CCB_DONE:";

/// Returns the prompt for a question: anchor, blank line, message, and the end mark's instruction if `marker`.
pub fn envelope(id: &RequestId, message: &str, marker: bool) -> String {
    let message = message.trim_end();
    let mut text = format!("{ANCHOR} {id}\n\n{message}\n");
    if marker {
        text.push_str(
            "\nAnswer in full. When you have finished, end with this line alone and unchanged, as the very last:\n",
        );
        text.extend([DONE, " ", id.as_str(), "\n"]);
    }
    text
}

/// Returns the notice that brings the reply to `of` back to the agent that asked, as CCB 5.2.8 words it.
///
/// `id` is the notice's own id: its anchor proves that the notice arrived.
pub fn notice(id: &RequestId, of: &RequestId, provider: &str, outcome: &Outcome, reply: &str) -> String {
    let (mark, status) = match outcome {
        Outcome::Completed => ("COMPLETED", "Completed"),
        Outcome::Incomplete { .. } => ("INCOMPLETE", "Incomplete"),
        Outcome::Failed { .. } => ("FAILED", "Failed"),
        Outcome::Cancelled { .. } => ("CANCELLED", "Cancelled"),
    };
    let result = match (reply.trim().is_empty(), outcome) {
        (false, Outcome::Completed) => reply.trim().to_owned(),
        (false, _) => format!("({})\n{}", outcome.sentence(), reply.trim()),
        (true, _) => format!("({})", outcome.sentence()),
    };
    format!(
        "{ANCHOR} {id}\n\n[CCB_TASK_{mark}]\nProvider: {provider}\nStatus: {status}\nTask: {of}\n\nResult: {result}\n"
    )
}

/// Returns what is given to an agent in place of a `text` that is too long to paste: its first lines, which hold the
/// anchor, and the file that has all of it.
pub fn by_file(text: &str, path: &str) -> String {
    let lines: Vec<String> = text.lines().take(20).map(|line| line.chars().take(200).collect()).collect();
    let size = text.len();
    format!(
        "{}\n\n[This is only the beginning. The whole text has {size} bytes and is too long to paste: before you answer, \
         read all of it from the file {path}]\n",
        lines.join("\n")
    )
}

/// Returns whether `text` is headed by the anchor of `id`: its first meaningful line, or one of the first few.
///
/// A quoted anchor further down never counts.
pub fn anchored(text: &str, id: &RequestId) -> bool {
    anchor_of(text) == Some(id.as_str())
}

/// Returns the id in the anchor line that heads `text`, if one does.
pub fn anchor_of(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let id = line.strip_prefix(ANCHOR)?.trim();
    RequestId::new(id).ok().map(|_| id)
}

/// Returns whether `text`, as an agent has taken it, goes on where what was pasted ends: somebody has typed behind it
/// before it was entered. What an agent itself adds to a prompt begins a line of its own.
pub fn is_continued(text: &str, pasted: &str) -> bool {
    let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
    let (text, pasted) = (lines(text), lines(pasted));
    let behind = text.split_once(pasted.trim_end()).map_or("", |(_, behind)| behind);
    !behind.lines().next().unwrap_or_default().trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::new("20261122-205301-123-4711-1").unwrap()
    }

    #[test]
    fn what_is_typed_behind_a_pasted_text_continues_it() {
        let pasted = "CCB_REQ_ID: x\n\nhello\nyou  ";
        for (text, continued) in [
            ("CCB_REQ_ID: x\n\nhello\nyou", false),
            ("CCB_REQ_ID: x\r\rhello\r\nyou and me", true),
            ("mine CCB_REQ_ID: x\n\nhello\nyoung", true),
            ("CCB_REQ_ID: x\n\nhello\nyou \n\n--- Content from referenced files ---\nx", false),
            ("CCB_REQ_ID: x\n\nhello\n  you and me", false),
        ] {
            assert_eq!(is_continued(text, pasted), continued, "{text:?}");
        }
    }

    #[test]
    fn an_envelope_is_headed_by_its_anchor() {
        let text = envelope(&id(), "/help me\n\n", true);
        assert!(anchored(&text, &id()));
        assert!(text.ends_with("CCB_DONE: 20261122-205301-123-4711-1\n"));
        assert!(!envelope(&id(), "x", false).contains("CCB_DONE"));
    }

    #[test]
    fn a_text_in_a_file_is_anchored_too() {
        let text = envelope(&id(), &"x".repeat(5000), false);
        let short = by_file(&text, "/home/a b/f");
        assert!(anchored(&short, &id()) && short.len() < 500);
        assert!(short.contains("5041 bytes") && short.contains("the file /home/a b/f]"), "{short}");
    }

    #[test]
    fn a_quoted_anchor_is_none() {
        assert!(!anchored("see\nCCB_REQ_ID: 20261122-205301-123-4711-1", &id()));
        assert_eq!(anchor_of("CCB_REQ_ID: a b"), None);
        assert_eq!(anchor_of("\n  CCB_REQ_ID: ab \nx"), Some("ab"));
    }

    #[test]
    fn notices_have_the_four_marks() {
        use crate::outcome::{Failure, Incomplete};
        let failed = Outcome::Failed { reason: Failure::AgentGone, message: "pane closed".into() };
        let late = Outcome::Incomplete { reason: Incomplete::Deadline };
        let cancelled = Outcome::Cancelled { by: "you".into() };
        let table = [
            (&Outcome::Completed, " yes\n", "COMPLETED", "Completed", "yes"),
            (&late, "half", "INCOMPLETE", "Incomplete", "(the deadline passed before the answer came)\nhalf"),
            (&late, "", "INCOMPLETE", "Incomplete", "(the deadline passed before the answer came)"),
            (&failed, "", "FAILED", "Failed", "(the agent is gone: pane closed)"),
            (&cancelled, "\n", "CANCELLED", "Cancelled", "(cancelled by you)"),
        ];
        for (outcome, reply, mark, status, result) in table {
            let (own, of) = (id().notice(1), id());
            let want = format!(
                "CCB_REQ_ID: {own}\n\n[CCB_TASK_{mark}]\nProvider: Codex\nStatus: {status}\nTask: {of}\n\nResult: {result}\n"
            );
            assert_eq!(notice(&own, &of, "Codex", outcome, reply), want);
        }
    }
}
