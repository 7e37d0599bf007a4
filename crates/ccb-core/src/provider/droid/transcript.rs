//! Droid's transcript, `~/.factory/sessions/<directory>/<session>.jsonl`: what it says of each turn.
//!
//! A record follows its `parentId`; `agent_turn_outcome` ends a turn, whose id is that of its user message. A Droid that
//! is killed leaves its last turn without an outcome.

use std::collections::HashMap;

use serde_json::Value;

use super::{Answer, Message};
use crate::outcome::TurnEnd;

/// What one record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A user's message, which opens a turn of its id.
    User {
        /// The message.
        id: String,
        /// Its text.
        text: String,
    },
    /// A message of the agent, or what a tool has answered.
    Part,
    /// A turn's end.
    Ended {
        /// Which.
        turn: String,
        /// How.
        end: TurnEnd,
    },
    /// Nothing for us.
    Other,
}

/// The turns of a transcript, read line by line.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// The turns that were opened: what each has brought, and how it ended.
    turns: HashMap<String, (Answer, Option<TurnEnd>)>,
    /// The turn of the last user's message.
    open: Option<String>,
}

impl Turns {
    /// Takes a line, and returns what it says.
    pub fn take(&mut self, line: &str) -> Record {
        let Ok(value) = serde_json::from_str::<Value>(line) else { return Record::Other };
        match value["type"].as_str() {
            // Each call of a hook leaves a message without words.
            Some("message") if value["message"].get("hookEventName").is_none() => self.message(&value),
            Some("agent_turn_outcome") => {
                let turn = value["turnId"].as_str().unwrap_or_default().to_owned();
                let (answer, end) = self.turns.entry(turn.clone()).or_default();
                let ended = answer.end(value["reason"].as_str().unwrap_or_default());
                *end = Some(ended.clone());
                Record::Ended { turn, end: ended }
            }
            Some(_) | None => Record::Other,
        }
    }

    fn message(&mut self, value: &Value) -> Record {
        let mut of = value["message"].clone();
        of["id"] = value["id"].clone();
        let open = self.open.clone();
        let mut tell = |message: &Message| {
            let Some((answer, _)) = open.as_ref().and_then(|open| self.turns.get_mut(open)) else { return };
            answer.take(message);
        };
        let parts = of["content"].as_array().cloned().unwrap_or_default();
        if let Some(result) = parts.iter().rfind(|part| part["type"] == "tool_result") {
            let (failed, text) = (result["is_error"] == true, super::content(&result["content"]));
            tell(&Message::ToolEnded { id: String::new(), failed, text });
            return Record::Part;
        }
        match super::message(&of, None) {
            Message::User { id, text, .. } => {
                self.open = Some(id.clone());
                self.turns.entry(id.clone()).or_default();
                Record::User { id, text }
            }
            message @ Message::Agent { .. } => {
                tell(&message);
                Record::Part
            }
            // Here words for the user alone are an assistant's or a user's message that the model does not see.
            _ if of["visibility"] == "user_only" => {
                of["role"] = "system".into();
                tell(&super::message(&of, None));
                Record::Other
            }
            _ => Record::Other,
        }
    }

    /// Returns how a turn ended; none inside if it has no outcome, none at all if there is no such turn.
    pub fn end(&self, turn: &str) -> Option<Option<TurnEnd>> {
        self.turns.get(turn).map(|(_, end)| end.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::outcome::Failure;

    #[test]
    fn what_droid_notes_of_its_hooks_is_no_word_of_its_own() {
        let message = |id: &str, message: &Value| json!({"type": "message", "id": id, "message": message}).to_string();
        let text = |text: &str| json!([{"type": "text", "text": text}]);
        let tool = json!([{"type": "tool_use", "id": "c", "name": "Execute", "input": {}}]);
        let hook = json!({"role": "user", "content": [], "hookEventName": "Notification", "visibility": "user_only"});
        let words = "BYOK Error: 400 maximum context length is 10";
        let error = json!({"role": "user", "content": text(words), "visibility": "user_only"});
        let mut turns = Turns::default();
        turns.take(&message("m", &json!({"role": "user", "content": text("hello")})));
        turns.take(&message("a", &json!({"role": "assistant", "content": tool})));
        assert_eq!(turns.take(&message("h", &hook)), Record::Other);
        turns.take(&message("e", &error));
        let outcome = json!({"type": "agent_turn_outcome", "turnId": "m", "reason": "model_request_rejected"});
        let end = TurnEnd::Failed { reason: Failure::Context, message: words.into(), partial: String::new() };
        assert_eq!(turns.take(&outcome.to_string()), Record::Ended { turn: "m".into(), end });
    }
}
