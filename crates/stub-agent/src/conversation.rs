//! What was said so far, shortened for the screen.

/// How many entries are kept.
const KEPT: usize = 200;

/// How many lines of a long entry are kept at its head and at its tail.
const LINES: (usize, usize) = (8, 3);

/// How many characters of a long line are kept.
const CHARS: usize = 400;

/// Whose words an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// The user, or ccb in the user's place.
    User,
    /// The agent.
    Agent,
    /// The interface itself.
    Note,
}

/// Something that was said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Who said it.
    pub(crate) speaker: Speaker,
    /// What was said, shortened.
    pub(crate) text: String,
}

/// The conversation, oldest entry first.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    entries: Vec<Entry>,
}

impl Conversation {
    /// Adds an entry, and drops the oldest if there are too many.
    pub(crate) fn push(&mut self, speaker: Speaker, text: &str) {
        if self.entries.len() == KEPT {
            self.entries.remove(0);
        }
        self.entries.push(Entry { speaker, text: shortened(text) });
    }

    /// Returns the entries, oldest first.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Returns a text with only the head and the tail of its lines, and only the head of each line.
fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let (head, tail) = LINES;
    let left_out = lines.len().saturating_sub(head + tail);
    let mut kept = Vec::new();
    if left_out > 1 {
        kept.extend(lines[..head].iter().map(|line| clipped(line)));
        kept.push(format!("… +{left_out} lines"));
        kept.extend(lines[lines.len() - tail..].iter().map(|line| clipped(line)));
    } else {
        kept.extend(lines.iter().map(|line| clipped(line)));
    }
    kept.join("\n")
}

/// Returns the head of a long line.
fn clipped(line: &str) -> String {
    match line.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shortened() {
        let text = (1..=100).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let short = shortened(&text);
        assert_eq!(short.lines().count(), 12);
        assert!(short.starts_with("1\n2\n") && short.contains("8\n… +89 lines\n98\n") && short.ends_with("\n100"));
        assert_eq!(shortened("a\n\nb\n"), "a\n\nb");
        assert_eq!(shortened(&"漢".repeat(500)).chars().count(), 401);
        assert_eq!(shortened(&"x\n".repeat(12)).lines().count(), 12, "one line is not worth a line about it");
    }

    #[test]
    fn old_entries_are_dropped() {
        let mut conversation = Conversation::default();
        for number in 0..KEPT + 5 {
            conversation.push(Speaker::User, &number.to_string());
        }
        assert_eq!(conversation.entries().len(), KEPT);
        assert_eq!(conversation.entries()[0].text, "5");
    }
}
