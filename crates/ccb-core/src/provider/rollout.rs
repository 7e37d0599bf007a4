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
