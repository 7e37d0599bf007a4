//! Factory Droid 0.215.0: the messages of `droid exec` over stream JSON-RPC, and its transcript.
//!
//! A message's id is chosen by us (`messageId`) and is the id of its turn, in both. A message that is written to Droid
//! is answered `{}` at once, whatever becomes of it: only its `create_message` says that it was taken.

pub mod transcript;

use serde_json::{Value, json};

use crate::outcome::{Failure, TurnEnd};

/// What stands in the result of a tool that the human has refused.
const REFUSED: &str = "cancelled by user";

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The answer to our call of that number. One call may be answered twice: `{}`, and then an error.
    Answer {
        /// The call's number.
        call: u64,
        /// Its result, or the error's message.
        result: Result<Value, String>,
    },
    /// Droid asks something, and waits for the answer to this.
    Asked {
        /// Its call, as it is given back.
        call: Value,
        /// What.
        ask: Ask,
    },
    /// A question of Droid's was answered, by whomever.
    Resolved {
        /// Its call.
        call: String,
    },
    /// What Droid is doing.
    State(State),
    /// A user's message was taken into a turn of that id.
    User {
        /// The message.
        id: String,
        /// Our call that brought it.
        call: Option<u64>,
        /// Its text.
        text: String,
    },
    /// A message of the agent, whole.
    Agent {
        /// Its text.
        text: String,
    },
    /// Words for the user that are no part of the conversation.
    Remark {
        /// The words.
        text: String,
    },
    /// A piece of a text that is being written.
    Delta {
        /// The piece.
        text: String,
    },
    /// A text is written to its end.
    TextEnd,
    /// A tool is called.
    Tool {
        /// The call.
        id: String,
        /// The tool.
        name: String,
        /// What it is called with.
        input: Value,
    },
    /// A tool has answered.
    ToolEnded {
        /// The call.
        id: String,
        /// Whether it failed.
        failed: bool,
        /// What it said.
        text: String,
    },
    /// The model is asked again.
    Retry {
        /// For the how manieth time.
        attempt: u64,
        /// Why.
        reason: String,
    },
    /// An error.
    Error {
        /// Its words.
        message: String,
        /// Its name.
        name: String,
    },
    /// A turn is over.
    Ended {
        /// Which.
        turn: String,
        /// Droid's word for how.
        reason: String,
    },
    /// A queued message was thrown away.
    Discarded {
        /// Our call that brought it.
        call: Option<u64>,
    },
    /// Nothing for us.
    Other,
}

/// What Droid is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Idle,
    /// It works.
    Busy,
    /// It waits for the human's word on a tool.
    Waiting,
}

/// What Droid asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Whether tools may run.
    Permission {
        /// What would be done, one line or more each.
        tools: Vec<String>,
        /// The answers that it takes: value and words.
        options: Vec<(String, String)>,
    },
    /// Questions of the model to the human.
    Questions(Vec<Question>),
    /// Something else, which we do not know.
    Other(String),
}

/// One question of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number.
    pub index: u64,
    /// Its words.
    pub question: String,
    /// Answers that it proposes.
    pub options: Vec<String>,
}

/// Returns the line of a call.
pub fn call(number: u64, method: &str, params: &Value) -> String {
    let call = json!({
        "jsonrpc": "2.0", "factoryApiVersion": "1.0.0", "type": "request",
        "id": number.to_string(), "method": format!("droid.{method}"), "params": params,
    });
    format!("{call}\n")
}

/// Returns the line of an answer to what Droid asked.
pub fn answer(call: &Value, result: &Value) -> String {
    let answer =
        json!({"jsonrpc": "2.0", "factoryApiVersion": "1.0.0", "type": "response", "id": call, "result": result});
    format!("{answer}\n")
}

/// Returns the line that refuses what Droid asked.
pub fn decline(call: &Value) -> String {
    let error = json!({"code": -32601, "message": "not known here"});
    let answer =
        json!({"jsonrpc": "2.0", "factoryApiVersion": "1.0.0", "type": "response", "id": call, "error": error});
    format!("{answer}\n")
}

/// Reads a line.
pub fn parse(line: &str) -> Message {
    let Ok(value) = serde_json::from_str::<Value>(line) else { return Message::Other };
    match value["type"].as_str() {
        Some("response") => answered(&value),
        Some("request") => {
            let ask = asked(value["method"].as_str().unwrap_or_default(), &value["params"]);
            Message::Asked { call: value["id"].clone(), ask }
        }
        Some("notification") | None if value["method"] == "droid.session_notification" => {
            notified(&value["params"]["notification"])
        }
        Some(_) | None => Message::Other,
    }
}

fn answered(value: &Value) -> Message {
    let Some(call) = number(&value["id"]) else { return Message::Other };
    let result = match value.get("error") {
        Some(error) => Err(text(&error["message"])),
        None => Ok(value["result"].clone()),
    };
    Message::Answer { call, result }
}

fn asked(method: &str, params: &Value) -> Ask {
    match method {
        "droid.request_permission" => {
            let tools = params["toolUses"].as_array().into_iter().flatten().map(|one| {
                let details = &one["details"];
                let words = ["fullCommand", "command", "filePath", "file_path", "path", "url"];
                let words = words.iter().find_map(|key| details[key].as_str()).map(str::to_owned);
                let words = words.unwrap_or_else(|| one["toolUse"]["input"].to_string());
                format!("{}: {words}", text(&one["toolUse"]["name"]))
            });
            let options = params["options"].as_array().into_iter().flatten();
            let options = options.map(|one| (text(&one["value"]), text(&one["label"])));
            Ask::Permission { tools: tools.collect(), options: options.collect() }
        }
        "droid.ask_user" => {
            let question = |one: &Value| Question {
                index: one["index"].as_u64().unwrap_or_default(),
                question: text(&one["question"]),
                options: one["options"].as_array().into_iter().flatten().map(text).collect(),
            };
            Ask::Questions(params["questions"].as_array().into_iter().flatten().map(question).collect())
        }
        other => Ask::Other(other.to_owned()),
    }
}

fn notified(of: &Value) -> Message {
    match of["type"].as_str().unwrap_or_default() {
        "droid_working_state_changed" => Message::State(match of["newState"].as_str() {
            Some("idle") => State::Idle,
            Some("waiting_for_tool_confirmation") => State::Waiting,
            Some(_) | None => State::Busy,
        }),
        "create_message" => message(&of["message"], number(&of["requestId"])),
        "assistant_text_delta" => Message::Delta { text: text(&of["textDelta"]) },
        "assistant_text_complete" => Message::TextEnd,
        "tool_call" => Message::Tool {
            id: text(&of["toolUse"]["id"]),
            name: text(&of["toolUse"]["name"]),
            input: of["toolUse"]["input"].clone(),
        },
        "tool_result" => Message::ToolEnded {
            id: text(&of["toolUseId"]),
            failed: of["isError"] == true,
            text: content(&of["content"]),
        },
        "permission_resolved" => Message::Resolved { call: text(&of["requestId"]) },
        "llm_retry" => {
            Message::Retry { attempt: of["attempt"].as_u64().unwrap_or_default(), reason: text(&of["reason"]) }
        }
        "error" => Message::Error { message: text(&of["message"]), name: text(&of["error"]["name"]) },
        "agent_turn_completed" => Message::Ended { turn: text(&of["turnId"]), reason: text(&of["reason"]) },
        "queued_messages_discarded" => Message::Discarded { call: number(&of["requestId"]) },
        _ => Message::Other,
    }
}

/// Reads a message of the conversation, of a notification or of a loaded session.
pub fn message(of: &Value, call: Option<u64>) -> Message {
    let text = content(&of["content"]);
    let has_tool_result = of["content"].as_array().into_iter().flatten().any(|part| part["type"] == "tool_result");
    match (of["role"].as_str(), of["visibility"].as_str()) {
        // What heads the first message of a session is Droid's own.
        (Some("user"), None) if of["id"].as_str().is_some_and(|id| id.starts_with("context-")) => Message::Other,
        (Some("user"), None) if !has_tool_result => Message::User { id: self::text(&of["id"]), call, text },
        (Some("assistant"), None) => Message::Agent { text },
        (Some("system"), Some("user_only")) => Message::Remark { text },
        _ => Message::Other,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Returns the text of a content, which is text or parts.
fn content(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter(|part| part["type"] == "text").map(|part| text(&part["text"]));
            texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
        }
        _ => String::new(),
    }
}

/// Returns the number of a call, which goes as text.
fn number(value: &Value) -> Option<u64> {
    value.as_str().and_then(|id| id.parse().ok()).or_else(|| value.as_u64())
}

/// What a turn has brought so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The texts since the last tool.
    last: Vec<String>,
    /// The texts before it.
    earlier: Vec<String>,
    /// What is being written.
    open: String,
    /// What went wrong last.
    error: Option<(String, String)>,
    /// Whether the human has refused the last tool: Droid calls a turn completed that ends so.
    refused: bool,
}

impl Answer {
    /// Takes a message of the turn.
    pub fn take(&mut self, message: &Message) {
        match message {
            Message::Delta { text } => self.open.push_str(text),
            Message::Agent { text } => {
                self.open.clear();
                self.refused = false;
                // What Droid recovers from is no error of the turn.
                self.error = None;
                if !text.is_empty() {
                    self.last.push(text.clone());
                }
            }
            Message::Tool { .. } => self.earlier.append(&mut self.last),
            Message::ToolEnded { failed, text, .. } => {
                self.refused = *failed && text.contains(REFUSED);
                self.earlier.append(&mut self.last);
            }
            Message::Error { message, name } => self.error = Some((message.clone(), name.clone())),
            // A text that was cut off is written anew.
            Message::Retry { .. } => self.open.clear(),
            Message::Remark { text } => {
                self.error.get_or_insert_with(|| (text.clone(), String::new()));
            }
            Message::Answer { .. }
            | Message::Asked { .. }
            | Message::Resolved { .. }
            | Message::State(_)
            | Message::User { .. }
            | Message::TextEnd
            | Message::Ended { .. }
            | Message::Discarded { .. }
            | Message::Other => {}
        }
    }

    /// Returns what there is of an answer.
    fn partial(&self) -> String {
        let open = Some(self.open.clone()).filter(|open| !open.is_empty());
        let texts = self.earlier.iter().chain(&self.last).cloned().chain(open);
        texts.collect::<Vec<_>>().join("\n\n")
    }

    /// Returns how the turn ended, by Droid's word for it.
    pub fn end(&self, reason: &str) -> TurnEnd {
        let (words, name) = self.error.clone().unwrap_or_default();
        let failed = |reason: Failure, message: String| TurnEnd::Failed { reason, message, partial: self.partial() };
        match reason {
            "completed" if self.refused => TurnEnd::Interrupted { partial: self.partial() },
            "completed" | "spec_handoff" => {
                let whole =
                    if self.last.is_empty() { self.earlier.last().cloned() } else { Some(self.last.join("\n\n")) };
                TurnEnd::Completed { reply: whole.unwrap_or_default() }
            }
            "cancelled" | "permission_rejected" => TurnEnd::Interrupted { partial: self.partial() },
            "process_exit" => failed(Failure::AgentGone, "Droid ended while it worked on it".into()),
            reason => {
                let message = if words.is_empty() { format!("Droid says: {reason}") } else { words };
                failed(failure(reason, &message, &name), message)
            }
        }
    }
}

/// Returns the class of a failure, by Droid's word for it, the provider's words, and the error's name.
fn failure(reason: &str, words: &str, name: &str) -> Failure {
    let says = |of: &[&str]| {
        let words = words.to_lowercase();
        of.iter().any(|one| words.contains(one))
    };
    match reason {
        "model_authentication_failed" => Failure::Auth,
        "model_rate_limited" => Failure::RateLimit,
        "model_usage_exhausted" => Failure::Quota,
        "model_provider_unavailable" | "model_provider_unreachable" => Failure::Overloaded,
        _ if name == "AuthenticationError" => Failure::Auth,
        _ if says(&["context length", "context window", "maximum context", "context_length", "too long"]) => {
            Failure::Context
        }
        _ => Failure::Provider,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_answers_have_droids_form() {
        insta::assert_snapshot!(call(7, "add_user_message", &json!({"text": "a\nb"})), @r#"{"factoryApiVersion":"1.0.0","id":"7","jsonrpc":"2.0","method":"droid.add_user_message","params":{"text":"a\nb"},"type":"request"}"#);
        insta::assert_snapshot!(answer(&json!("u"), &json!({"selectedOption": "cancel"})), @r#"{"factoryApiVersion":"1.0.0","id":"u","jsonrpc":"2.0","result":{"selectedOption":"cancel"},"type":"response"}"#);
        assert!(decline(&json!("u")).contains("error"));
    }

    #[test]
    fn failures_have_their_class() {
        let table = [
            ("model_authentication_failed", "401 x", "Error", Failure::Auth),
            ("model_rate_limited", "429 x", "Error", Failure::RateLimit),
            ("model_usage_exhausted", "402 x", "Error", Failure::Quota),
            ("model_provider_unavailable", "cut", "Error", Failure::Overloaded),
            ("model_provider_unreachable", "", "", Failure::Overloaded),
            ("model_request_rejected", "400 maximum context length is 10", "Error", Failure::Context),
            ("model_request_rejected", "400 bad", "Error", Failure::Provider),
            ("error", "No access token available", "AuthenticationError", Failure::Auth),
            ("a new word", "", "", Failure::Provider),
        ];
        for (reason, words, name, class) in table {
            assert_eq!(failure(reason, words, name), class, "{reason} {words}");
        }
    }

    #[test]
    fn an_answer_is_what_came_after_the_last_tool() {
        let agent = |text: &str| Message::Agent { text: text.into() };
        let tool = Message::ToolEnded { id: "t".into(), failed: false, text: String::new() };
        let mut answer = Answer::default();
        answer.take(&agent("I look"));
        assert_eq!(answer.end("completed"), TurnEnd::Completed { reply: "I look".into() });
        answer.take(&tool);
        assert_eq!(answer.end("completed"), TurnEnd::Completed { reply: "I look".into() });
        let refused = Message::ToolEnded { id: "t".into(), failed: true, text: "Error: cancelled by user".into() };
        answer.take(&refused);
        assert_eq!(answer.end("completed"), TurnEnd::Interrupted { partial: "I look".into() });
        answer.take(&agent("one"));
        answer.take(&agent("two"));
        assert_eq!(answer.end("completed"), TurnEnd::Completed { reply: "one\n\ntwo".into() });
        answer.take(&Message::Delta { text: "thr".into() });
        assert_eq!(answer.end("cancelled"), TurnEnd::Interrupted { partial: "I look\n\none\n\ntwo\n\nthr".into() });
        answer.take(&Message::Retry { attempt: 1, reason: "timeout".into() });
        assert!(matches!(answer.end("process_exit"), TurnEnd::Failed { reason: Failure::AgentGone, partial, .. }
            if partial == "I look\n\none\n\ntwo"));
    }
}
