//! The record formats of CCB 5.2's stub agents, which older agent CLIs wrote too.
//!
//! One line is one record (codex, claude, droid), or the file is one document that is written anew each
//! time (gemini), or there is a folder with a file for each session, message and part (opencode).

use serde_json::Value;

use super::{Observation, Provider, rollout};

/// How a provider's transcript file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One JSON record a line, appended.
    Lines,
    /// One JSON document, rewritten whole.
    Document,
}

/// Returns how the provider's transcript is laid out.
pub fn layout(provider: Provider) -> Layout {
    match provider {
        Provider::Gemini => Layout::Document,
        Provider::Claude | Provider::Codex | Provider::Opencode | Provider::Droid => Layout::Lines,
    }
}

/// Reads one line of a transcript. Unknown, torn or foreign lines give nothing.
pub fn parse(provider: Provider, line: &str) -> Option<Observation> {
    match provider {
        Provider::Codex | Provider::Claude => event(line).or_else(|| rollout::parse(line)),
        Provider::Droid => droid(line),
        Provider::Gemini | Provider::Opencode => None,
    }
}

/// Returns the session that a line opens, if it opens one; empty if it has no name.
pub fn session(provider: Provider, line: &str) -> Option<String> {
    let record: Value = serde_json::from_str(line.trim()).ok()?;
    let id = match (provider, record["type"].as_str()?) {
        (Provider::Codex, "session_meta") => &record["payload"]["id"],
        (Provider::Droid, "session_start") => &record["id"],
        _ => return None,
    };
    Some(id.as_str().unwrap_or_default().to_owned())
}

/// Returns the session of a whole document.
pub fn document_session(text: &str) -> Option<String> {
    let document: Value = serde_json::from_str(text).ok()?;
    document["sessionId"].as_str().map(str::to_owned)
}

/// Reads a whole document. One that is caught half-written gives nothing.
pub fn parse_document(text: &str) -> Option<Vec<Observation>> {
    let document: Value = serde_json::from_str(text).ok()?;
    let messages = document["messages"].as_array()?;
    Some(messages.iter().filter_map(gemini).collect())
}

/// Reads `session/<project>/<session>.json` of `OpenCode`'s folder: the session's id and its directory.
pub fn folder_session(text: &str) -> Option<(String, String)> {
    let session: Value = serde_json::from_str(text).ok()?;
    Some((session["id"].as_str()?.to_owned(), session["directory"].as_str()?.to_owned()))
}

/// An answer in `OpenCode`'s folder, without its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderMessage {
    /// Its id, which is the folder of its parts.
    pub id: String,
    /// When it was begun (ms since the Unix epoch).
    pub created: i64,
    /// Whether it is whole.
    pub completed: bool,
}

/// Reads `message/<session>/<message>.json` of `OpenCode`'s folder, if it is an answer.
pub fn folder_message(text: &str) -> Option<FolderMessage> {
    let message: Value = serde_json::from_str(text).ok()?;
    if message["role"] != "assistant" {
        return None;
    }
    let time = &message["time"];
    Some(FolderMessage {
        id: message["id"].as_str()?.to_owned(),
        created: time["created"].as_i64().unwrap_or_default(),
        completed: time["completed"].is_number(),
    })
}

/// Reads `part/<message>/<part>.json` of `OpenCode`'s folder, if it is a text: when it was begun, and the text.
pub fn folder_part(text: &str) -> Option<(i64, String)> {
    let part: Value = serde_json::from_str(text).ok()?;
    let text = part["text"].as_str().filter(|_| part["type"] == "text")?;
    Some((part["time"]["start"].as_i64().unwrap_or_default(), text.to_owned()))
}

fn event(line: &str) -> Option<Observation> {
    let record: Value = serde_json::from_str(line.trim()).ok()?;
    let event = &record["payload"];
    if record["type"] != "event_msg" || event["type"] != "assistant_message" {
        return None;
    }
    message(event["role"].as_str()?, event["message"].as_str()?.to_owned())
}

fn droid(line: &str) -> Option<Observation> {
    let record: Value = serde_json::from_str(line.trim()).ok()?;
    if record["type"] != "message" {
        return None;
    }
    let message_ = &record["message"];
    let text: String = message_["content"].as_array()?.iter().filter_map(|part| part["text"].as_str()).collect();
    message(message_["role"].as_str()?, text)
}

fn gemini(record: &Value) -> Option<Observation> {
    let role = match record["type"].as_str()? {
        "user" => "user",
        "gemini" => "assistant",
        _ => return None,
    };
    message(role, record["content"].as_str()?.to_owned())
}

fn message(role: &str, text: String) -> Option<Observation> {
    match role {
        "user" => Some(Observation::User { text, client: None, turn: None }),
        "assistant" => Some(Observation::Agent { text, turn: None }),
        _ => None,
    }
}

/// Cuts a growing file into whole lines, whatever the chunks it is read in.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    torn: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes and returns the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.torn.extend_from_slice(bytes);
        let Some(end) = self.torn.iter().rposition(|b| *b == b'\n') else {
            return Vec::new();
        };
        let rest = self.torn.split_off(end + 1);
        let whole = std::mem::replace(&mut self.torn, rest);
        String::from_utf8_lossy(&whole).lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
    }

    /// Forgets a line's beginning: the file was rotated.
    pub fn reset(&mut self) {
        self.torn.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USER: &str = r#"{"type":"event_msg","payload":{"type":"user_message","message":"q"}}"#;
    const ANSWER: &str =
        r#"{"type":"event_msg","payload":{"type":"assistant_message","role":"assistant","message":"a"}}"#;

    fn user(text: &str) -> Observation {
        Observation::User { text: text.into(), client: None, turn: None }
    }
    fn agent(text: &str) -> Observation {
        Observation::Agent { text: text.into(), turn: None }
    }

    #[test]
    fn every_layout_of_the_stubs_is_read() {
        assert_eq!(parse(Provider::Codex, USER), Some(user("q")));
        assert_eq!(parse(Provider::Codex, ANSWER), Some(agent("a")));
        let claude = r#"{"type":"event_msg","payload":{"type":"assistant_message","role":"user","message":"q"}}"#;
        assert_eq!(parse(Provider::Claude, claude), Some(user("q")));
        let droid =
            r#"{"type":"message","id":"m","message":{"role":"assistant","content":[{"type":"text","text":"a"}]}}"#;
        assert_eq!(parse(Provider::Droid, droid), Some(agent("a")));
        let gemini = r#"{"sessionId":"s","messages":[{"type":"user","content":"q"},{"type":"gemini","content":"a","id":"1"},{"type":"info","content":"x"}]}"#;
        assert_eq!(parse_document(gemini), Some(vec![user("q"), agent("a")]));
        assert_eq!(parse_document(&gemini[..40]), None);
    }

    #[test]
    fn a_session_is_opened_by_its_own_record() {
        let named = |provider, line: &str| session(provider, line);
        assert_eq!(
            named(Provider::Codex, r#"{"type":"session_meta","payload":{"id":"s","cwd":"/"}}"#),
            Some("s".into())
        );
        assert_eq!(named(Provider::Codex, r#"{"type":"session_meta","payload":{"cwd":"/"}}"#), Some(String::new()));
        assert_eq!(named(Provider::Droid, r#"{"type":"session_start","id":"s"}"#), Some("s".into()));
        assert_eq!(named(Provider::Claude, r#"{"type":"session_start","id":"s"}"#), None);
        assert_eq!(named(Provider::Codex, USER), None);
        assert_eq!(document_session(r#"{"sessionId":"s","messages":[]}"#), Some("s".into()));
    }

    #[test]
    fn the_files_of_opencodes_folder_are_read_whole_or_not_at_all() {
        let session = r#"{"id":"ses_1","directory":"/p","time":{"updated":7}}"#;
        assert_eq!(folder_session(session), Some(("ses_1".into(), "/p".into())));
        let message = r#"{"id":"msg_1","sessionID":"ses_1","role":"assistant","time":{"created":5,"completed":6}}"#;
        let want = FolderMessage { id: "msg_1".into(), created: 5, completed: true };
        assert_eq!(folder_message(message), Some(want));
        assert_eq!(folder_message(&message.replace(",\"completed\":6", "")).map(|m| m.completed), Some(false));
        assert_eq!(folder_message(&message.replace("assistant", "user")), None);
        let part = r#"{"id":"prt_1","messageID":"msg_1","type":"text","text":"a","time":{"start":5}}"#;
        assert_eq!(folder_part(part), Some((5, "a".into())));
        assert_eq!(folder_part(&part.replace("\"type\":\"text\"", "\"type\":\"tool\"")), None);
        for cut in 0..part.len() {
            assert_eq!(folder_part(&part[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn lines_are_whole_however_they_are_torn(text in "([a-zé]{0,5}\n){0,9}[a-z]{0,3}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            at.sort_unstable();
            at.push(bytes.len());
            let (mut lines, mut from, mut got) = (Lines::default(), 0, Vec::new());
            for to in at {
                got.extend(lines.push(&bytes[from..to]));
                from = to;
            }
            let whole: Vec<String> = text[..text.rfind('\n').map_or(0, |i| i + 1)].lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
            prop_assert_eq!(got, whole);
        }
    }
}
