//! What an agent's hook tells. Claude Code 2.1.330, Gemini CLI 0.61.0, Droid 0.215.0 and Codex CLI 0.169.0 give their
//! hooks one JSON object whose common fields have the same names.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest text (characters) that is kept of a field that is shown to people.
const SHOWN: usize = 300;

/// What a hook tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Which hook it is.
    pub event: String,
    /// The session.
    pub session: String,
    /// The session's transcript, which need not exist yet.
    pub transcript: Option<String>,
    /// The tool that wants a permission, or runs.
    pub tool: Option<String>,
    /// What kind of a notification it is, or where a session comes from, or why it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What a notification says, for people; cut if it is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The provider's id of the turn or prompt that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
}

impl Hook {
    /// Returns whether it is the one by which its CLI tells that a turn is over.
    pub fn tells_end(&self) -> bool {
        matches!(self.event.as_str(), "Stop" | "StopFailure" | "AfterAgent")
    }
}

/// Reads what a hook was given on its standard input.
pub fn hook(payload: &Value) -> Option<Hook> {
    let text = |field: &str| payload[field].as_str().map(str::to_owned);
    let first = |fields: &[&str]| fields.iter().find_map(|field| text(field));
    Some(Hook {
        event: text("hook_event_name")?,
        session: text("session_id")?,
        transcript: text("transcript_path"),
        tool: text("tool_name"),
        detail: first(&["notification_type", "source", "reason"]),
        message: text("message").map(|message| message.chars().take(SHOWN).collect()),
        turn: first(&["turn_id", "prompt_id", "message_id"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_common_fields_of_all_four_are_read() {
        let gemini = json!({
            "session_id": "s", "transcript_path": "/t.jsonl", "cwd": "/p", "hook_event_name": "Notification",
            "notification_type": "ToolPermission", "message": "x".repeat(1000), "details": {"type": "exec"},
        });
        let read = hook(&gemini).unwrap();
        assert_eq!((read.event.as_str(), read.session.as_str()), ("Notification", "s"));
        assert_eq!((read.transcript.as_deref(), read.detail.as_deref()), (Some("/t.jsonl"), Some("ToolPermission")));
        assert_eq!(read.message.map(|message| message.len()), Some(SHOWN));
        let droid = json!({"session_id": "s", "hook_event_name": "Stop", "message_id": "m", "stop_hook_active": false});
        assert_eq!(hook(&droid).unwrap().turn.as_deref(), Some("m"));
        assert_eq!(hook(&json!({"session_id": "s"})), None);
        assert_eq!(hook(&json!([1])), None);
    }
}
