//! Codex CLI rollout files, `$CODEX_HOME/sessions/Y/M/D/rollout-*.jsonl` (measured: 0.169.0, 0.98.0).
//!
//! 0.98 writes no `task_started`/`task_complete`; its `user_message`/`agent_message` events are read too.

use serde_json::Value;

use super::Observation;
use super::codex_rpc::error_class;
use crate::outcome::TurnEnd;

/// Reads one line. Unknown, torn or foreign lines give nothing.
pub fn parse(line: &str) -> Option<Observation> {
    let record: Value = serde_json::from_str(line.trim()).ok()?;
    if record["type"] != "event_msg" {
        return None;
    }
    let event = &record["payload"];
    let text = |key: &str| event[key].as_str().map(str::to_owned);
    match event["type"].as_str()? {
        "task_started" => Some(Observation::TurnBegan { turn: text("turn_id") }),
        "item_completed" => item(event),
        "user_message" => Some(Observation::User { text: text("message")?, client: None, turn: None }),
        "agent_message" => Some(Observation::Agent { text: text("message")?, turn: None }),
        "task_complete" => {
            let reply = text("last_agent_message").unwrap_or_default();
            let end = match event.get("error").filter(|error| !error.is_null()) {
                Some(error) => TurnEnd::Failed {
                    reason: error_class(&error["codex_error_info"]),
                    message: error["message"].as_str().unwrap_or("unknown error").to_owned(),
                    partial: reply,
                },
                None => TurnEnd::Completed { reply },
            };
            Some(Observation::TurnEnded { turn: text("turn_id"), end })
        }
        "turn_aborted" => {
            Some(Observation::TurnEnded { turn: text("turn_id"), end: TurnEnd::Interrupted { partial: String::new() } })
        }
        _ => None,
    }
}

/// What a rollout says of itself in its first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The thread, which a next start can go on with.
    pub thread: String,
    /// The directory that Codex was started in.
    pub cwd: String,
    /// Whether it is a sub-agent's, which has a file of its own.
    pub of_subagent: bool,
}

/// Reads a rollout's first line.
pub fn meta(line: &str) -> Option<Meta> {
    let record: Value = serde_json::from_str(line.trim()).ok()?;
    let meta = &record["payload"];
    if record["type"] != "session_meta" {
        return None;
    }
    let thread = meta["id"].as_str()?.to_owned();
    let other = |field: &str| meta[field].as_str().is_some_and(|id| id != thread);
    let of_subagent = other("parent_thread_id") || other("session_id") || meta["source"].get("subagent").is_some();
    Some(Meta { of_subagent, cwd: meta["cwd"].as_str().unwrap_or_default().to_owned(), thread })
}

/// What a line says of a call of a tool: between its two lines the human may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// It was wanted.
    Wanted(String),
    /// It is over, or was refused.
    Over(String),
}

/// Reads what a line says of a call of a tool.
pub fn call(line: &str) -> Option<Call> {
    let record: Value = serde_json::from_str(line.trim()).ok()?;
    let item = &record["payload"];
    let id = item["call_id"].as_str().filter(|_| record["type"] == "response_item")?.to_owned();
    match item["type"].as_str()? {
        "function_call" | "custom_tool_call" | "local_shell_call" => Some(Call::Wanted(id)),
        "function_call_output" | "custom_tool_call_output" => Some(Call::Over(id)),
        _ => None,
    }
}

fn item(event: &Value) -> Option<Observation> {
    let item = &event["item"];
    let turn = event["turn_id"].as_str().map(str::to_owned);
    let text: String = item["content"].as_array()?.iter().filter_map(|part| part["text"].as_str()).collect();
    match item["type"].as_str()? {
        "UserMessage" => Some(Observation::User { text, client: item["client_id"].as_str().map(str::to_owned), turn }),
        "AgentMessage" => Some(Observation::Agent { text, turn }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Failure;

    #[test]
    fn lines_of_0_169_are_read() {
        let user = r#"{"type":"event_msg","payload":{"type":"item_completed","turn_id":"t","item":{"type":"UserMessage","client_id":"r1","content":[{"type":"text","text":"hi"}]}}}"#;
        assert_eq!(
            parse(user),
            Some(Observation::User { text: "hi".into(), client: Some("r1".into()), turn: Some("t".into()) })
        );
        let done =
            r#"{"type":"event_msg","payload":{"type":"task_complete","turn_id":"t","last_agent_message":"yes"}}"#;
        assert_eq!(
            parse(done),
            Some(Observation::TurnEnded { turn: Some("t".into()), end: TurnEnd::Completed { reply: "yes".into() } })
        );
        let failed = r#"{"type":"event_msg","payload":{"type":"task_complete","turn_id":"t","last_agent_message":null,"error":{"message":"429","codex_error_info":{"response_too_many_failed_attempts":{"http_status_code":429}}}}}"#;
        let Some(Observation::TurnEnded { end: TurnEnd::Failed { reason, .. }, .. }) = parse(failed) else {
            panic!("not failed")
        };
        assert_eq!(reason, Failure::RateLimit);
    }

    #[test]
    fn first_lines_and_calls_are_read() {
        let line = r#"{"type":"session_meta","payload":{"session_id":"a","id":"a","cwd":"/p","source":"cli"}}"#;
        assert_eq!(meta(line), Some(Meta { thread: "a".into(), cwd: "/p".into(), of_subagent: false }));
        let child = line.replace(r#""session_id":"a""#, r#""session_id":"b","parent_thread_id":"b""#);
        assert!(meta(&child).unwrap().of_subagent);
        let oldest = r#"{"type":"session_meta","payload":{"id":"a","cwd":"/p"}}"#;
        assert!(!meta(oldest).unwrap().of_subagent);
        assert_eq!(meta(r#"{"type":"turn_context","payload":{"id":"a"}}"#), None);
        let wanted =
            r#"{"type":"response_item","payload":{"type":"function_call","name":"exec_command","call_id":"c"}}"#;
        assert_eq!(call(wanted), Some(Call::Wanted("c".into())));
        assert_eq!(call(&wanted.replace("call\",\"n", "call_output\",\"n")), Some(Call::Over("c".into())));
        assert_eq!(call(&wanted.replace("response_item", "event_msg")), None);
    }

    #[test]
    fn what_is_not_understood_gives_nothing() {
        for line in [
            "",
            "{",
            "[]",
            "null",
            r#"{"type":"event_msg"}"#,
            r#"{"type":"response_item","payload":{"type":"message","role":"user"}}"#,
            r#"{"type":"event_msg","payload":{"type":"item_completed","item":7}}"#,
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
