//! Messages of Codex CLI's app-server (0.169.0): JSON-RPC without the `jsonrpc` key, one message a
//! WebSocket text frame.
//!
//! Turns are bound by the `clientId` of their user message, never by order: a turn may be a human's.

use serde_json::{Value, json};

use crate::outcome::{Failure, TurnEnd};

/// What one message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The answer to our call of that number.
    Answer {
        /// The call's number.
        call: u64,
        /// Its result, or the error's message.
        result: Result<Value, String>,
    },
    /// What a thread is doing.
    Status {
        /// The thread.
        thread: String,
        /// What.
        status: Status,
    },
    /// A turn has begun.
    TurnBegan {
        /// The thread.
        thread: String,
        /// The turn.
        turn: String,
    },
    /// A user message was taken into a turn.
    User {
        /// The thread.
        thread: String,
        /// The turn.
        turn: String,
        /// The client's id, if a client gave one.
        client: Option<String>,
    },
    /// A whole message of the agent.
    Agent {
        /// The thread.
        thread: String,
        /// The turn.
        turn: String,
        /// Its text.
        text: String,
    },
    /// A turn has ended.
    TurnEnded {
        /// The thread.
        thread: String,
        /// The turn, as a history would show it.
        turn: TurnRecord,
    },
    /// The human has opened a thread in the TUI, which shows it from now on.
    Opened {
        /// The thread.
        thread: String,
    },
    /// The server asks all its clients something, such as an approval; the human answers it in the TUI.
    Asked {
        /// Its method.
        method: String,
        /// The thread, if it names one.
        thread: Option<String>,
    },
    /// Somebody logged in or out.
    Account,
    /// Anything else.
    Other,
}

/// What a thread is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing.
    Idle,
    /// In a turn.
    Active,
    /// In a turn that waits for a human.
    Waiting(String),
    /// Not in memory.
    NotLoaded,
}

/// A turn, as `turn/completed` and `thread/turns/list` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnRecord {
    /// Its id.
    pub id: String,
    /// The client ids of its user messages; `None` for one that a human typed.
    pub clients: Vec<Option<String>>,
    /// How it ended, if it has.
    pub end: Option<TurnEnd>,
}

/// Reads one message.
pub fn parse(text: &str) -> Message {
    let Ok(message) = serde_json::from_str::<Value>(text) else {
        return Message::Other;
    };
    let Some(method) = message["method"].as_str() else {
        return answer(&message);
    };
    let params = &message["params"];
    let thread = params["threadId"].as_str().map(str::to_owned);
    if message.get("id").is_some() {
        return Message::Asked { method: method.to_owned(), thread };
    }
    if matches!(method, "account/updated" | "account/login/completed") {
        return Message::Account;
    }
    if method == "thread/started" {
        return opened(&params["thread"]);
    }
    let Some(thread) = thread else { return Message::Other };
    match method {
        "thread/status/changed" => Message::Status { thread, status: status(&params["status"]) },
        "turn/started" => match params["turn"]["id"].as_str() {
            Some(turn) => Message::TurnBegan { thread, turn: turn.to_owned() },
            None => Message::Other,
        },
        "item/started" | "item/completed" => item(thread, method == "item/completed", params),
        "turn/completed" => match turn_record(&params["turn"]) {
            Some(turn) => Message::TurnEnded { thread, turn },
            None => Message::Other,
        },
        _ => Message::Other,
    }
}

/// Tells the TUI's own threads from sub-agents' and from those that Codex uses aside, as for titles.
fn opened(thread: &Value) -> Message {
    let own = thread["threadSource"] == "user" && thread["parentThreadId"].is_null() && thread["ephemeral"] == false;
    match thread["id"].as_str().filter(|_| own) {
        Some(id) => Message::Opened { thread: id.to_owned() },
        None => Message::Other,
    }
}

fn answer(message: &Value) -> Message {
    let Some(call) = message["id"].as_u64() else {
        return Message::Other;
    };
    let result = match message.get("error") {
        Some(error) => Err(error["message"].as_str().unwrap_or("unknown error").to_owned()),
        None => Ok(message["result"].clone()),
    };
    Message::Answer { call, result }
}

/// Reads a thread's status object.
pub fn status(status: &Value) -> Status {
    match status["type"].as_str() {
        Some("active") => {
            let flags: Vec<&str> =
                status["activeFlags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if flags.is_empty() { Status::Active } else { Status::Waiting(flags.join(", ")) }
        }
        Some("notLoaded") => Status::NotLoaded,
        // A thread whose last turn failed (`systemError`) takes the next one as well.
        _ => Status::Idle,
    }
}

fn item(thread: String, whole: bool, params: &Value) -> Message {
    let (item, Some(turn)) = (&params["item"], params["turnId"].as_str()) else {
        return Message::Other;
    };
    let turn = turn.to_owned();
    match item["type"].as_str() {
        Some("userMessage") => Message::User { thread, turn, client: item["clientId"].as_str().map(str::to_owned) },
        Some("agentMessage") if whole => {
            Message::Agent { thread, turn, text: item["text"].as_str().unwrap_or_default().to_owned() }
        }
        _ => Message::Other,
    }
}

/// Reads a turn object.
pub fn turn_record(turn: &Value) -> Option<TurnRecord> {
    let items = turn["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |kind: &'static str| items.iter().filter(move |item| item["type"] == kind);
    let clients = of("userMessage").map(|item| item["clientId"].as_str().map(str::to_owned)).collect();
    // The final answer is the last message: earlier ones are remarks between tool calls.
    let reply = of("agentMessage").next_back().and_then(|item| item["text"].as_str()).unwrap_or_default().to_owned();
    let end = match turn["status"].as_str()? {
        "completed" => Some(TurnEnd::Completed { reply }),
        "interrupted" => Some(TurnEnd::Interrupted { partial: reply }),
        "failed" => Some(TurnEnd::Failed {
            reason: error_class(&turn["error"]["codexErrorInfo"]),
            message: turn["error"]["message"].as_str().unwrap_or("unknown error").to_owned(),
            partial: reply,
        }),
        _ => None,
    };
    Some(TurnRecord { id: turn["id"].as_str()?.to_owned(), clients, end })
}

/// Returns the class of a Codex error, in the app-server's or the rollout's spelling.
pub fn error_class(info: &Value) -> Failure {
    let (name, code) = match info {
        Value::String(name) => (name.as_str(), None),
        Value::Object(map) => match map.iter().next() {
            Some((name, detail)) => {
                let code =
                    detail.get("httpStatusCode").or_else(|| detail.get("http_status_code")).and_then(Value::as_u64);
                (name.as_str(), code)
            }
            None => ("", None),
        },
        _ => ("", None),
    };
    let name: String = name.chars().filter(|c| *c != '_').collect::<String>().to_ascii_lowercase();
    match (name.as_str(), code) {
        ("contextwindowexceeded", _) => Failure::Context,
        ("usagelimitexceeded" | "sessionbudgetexceeded", _) => Failure::Quota,
        ("ratelimitexceeded", _) | (_, Some(429)) => Failure::RateLimit,
        ("unauthorized", _) | (_, Some(401 | 403)) => Failure::Auth,
        ("serveroverloaded" | "internalservererror" | "flexunavailable" | "policycapacityunavailable", _)
        | (_, Some(500..=599)) => Failure::Overloaded,
        _ => Failure::Provider,
    }
}

/// Returns the call that introduces us.
pub fn initialize(version: &str) -> (&'static str, Value) {
    let client = json!({"name": "ccb", "title": "ccb", "version": version});
    ("initialize", json!({"clientInfo": client, "capabilities": {"experimentalApi": true}}))
}

/// Returns the call that makes a thread in the server's own directory.
///
/// No sandbox, approval or trust is named: those are the user's. Nor is a directory: where the user's sandbox lets
/// Codex write, naming one makes it write down that it is trusted, for ever.
///
/// `instructions` take the place of those that the user has configured; none leaves them.
pub fn thread_start(instructions: Option<&str>) -> (&'static str, Value) {
    ("thread/start", json!({"developerInstructions": instructions}))
}

/// Returns the call for the user's configuration, as it is in force in that directory.
pub fn config_read(directory: &str) -> (&'static str, Value) {
    ("config/read", json!({"cwd": directory, "includeLayers": false}))
}

/// Returns the call that names a thread, without which no TUI can attach before its first turn.
pub fn thread_name(thread: &str, name: &str) -> (&'static str, Value) {
    ("thread/name/set", json!({"threadId": thread, "name": name}))
}

/// Returns the call that loads a thread and subscribes us to it.
pub fn thread_resume(thread: &str, instructions: Option<&str>) -> (&'static str, Value) {
    ("thread/resume", json!({"threadId": thread, "excludeTurns": true, "developerInstructions": instructions}))
}

/// Returns the call that lists `limit` turns, newest first, from `cursor` on.
///
/// With all their items: the usual summary of a turn has its first user message only, and ours may be another.
pub fn turns_list(thread: &str, limit: u32, cursor: Option<&str>) -> (&'static str, Value) {
    let order =
        json!({"threadId": thread, "limit": limit, "cursor": cursor, "sortDirection": "desc", "itemsView": "full"});
    ("thread/turns/list", order)
}

/// Returns the call that hands a prompt over.
pub fn turn_start(thread: &str, id: &str, text: &str) -> (&'static str, Value) {
    let input = json!([{"type": "text", "text": text}]);
    ("turn/start", json!({"threadId": thread, "input": input, "clientUserMessageId": id}))
}

/// Returns the call that stops a turn.
pub fn turn_interrupt(thread: &str, turn: &str) -> (&'static str, Value) {
    ("turn/interrupt", json!({"threadId": thread, "turnId": turn}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_of_0_169_are_read() {
        let table = [
            (
                r#"{"method":"thread/status/changed","params":{"threadId":"t","status":{"type":"active","activeFlags":["waitingOnApproval"]}}}"#,
                Message::Status { thread: "t".into(), status: Status::Waiting("waitingOnApproval".into()) },
            ),
            (
                r#"{"method":"thread/status/changed","params":{"threadId":"t","status":{"type":"systemError"}}}"#,
                Message::Status { thread: "t".into(), status: Status::Idle },
            ),
            (
                r#"{"method":"item/started","params":{"threadId":"t","turnId":"u","item":{"type":"userMessage","clientId":"r1","content":[]}}}"#,
                Message::User { thread: "t".into(), turn: "u".into(), client: Some("r1".into()) },
            ),
            (
                r#"{"method":"item/started","params":{"threadId":"t","turnId":"u","item":{"type":"userMessage","clientId":null}}}"#,
                Message::User { thread: "t".into(), turn: "u".into(), client: None },
            ),
            (
                r#"{"id":4,"method":"item/commandExecution/requestApproval","params":{"threadId":"t"}}"#,
                Message::Asked { method: "item/commandExecution/requestApproval".into(), thread: Some("t".into()) },
            ),
            (
                r#"{"id":7,"error":{"code":-32600,"message":"no rollout found"}}"#,
                Message::Answer { call: 7, result: Err("no rollout found".into()) },
            ),
            (
                r#"{"method":"thread/started","params":{"thread":{"id":"n","threadSource":"user","parentThreadId":null,"ephemeral":false}}}"#,
                Message::Opened { thread: "n".into() },
            ),
            (
                r#"{"method":"thread/started","params":{"thread":{"id":"n","threadSource":"thread_title","parentThreadId":null,"ephemeral":true}}}"#,
                Message::Other,
            ),
            (
                r#"{"method":"thread/started","params":{"thread":{"id":"n","threadSource":null,"parentThreadId":null,"ephemeral":false}}}"#,
                Message::Other,
            ),
            ("{", Message::Other),
            (r#"{"method":"account/rateLimits/updated","params":{}}"#, Message::Other),
        ];
        for (text, want) in table {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn a_completed_turn_has_its_last_message() {
        let text = r#"{"method":"turn/completed","params":{"threadId":"t","turn":{"id":"u","status":"completed","error":null,"items":[
            {"type":"userMessage","clientId":"r1"},{"type":"agentMessage","text":"let me see"},{"type":"agentMessage","text":"42"}]}}}"#;
        let Message::TurnEnded { turn, .. } = parse(text) else { panic!("not an end") };
        assert_eq!(
            turn,
            TurnRecord {
                id: "u".into(),
                clients: vec![Some("r1".into())],
                end: Some(TurnEnd::Completed { reply: "42".into() })
            }
        );
        let running = turn_record(&json!({"id":"u","status":"inProgress","items":[]})).unwrap();
        assert_eq!(running.end, None);
    }

    #[test]
    fn errors_have_classes() {
        let table = [
            (json!({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}), Failure::RateLimit),
            (json!("unauthorized"), Failure::Auth),
            (json!({"httpConnectionFailed": {"httpStatusCode": 503}}), Failure::Overloaded),
            (json!("contextWindowExceeded"), Failure::Context),
            (json!("usageLimitExceeded"), Failure::Quota),
            (json!("internal_server_error"), Failure::Overloaded),
            (json!(null), Failure::Provider),
        ];
        for (info, want) in table {
            assert_eq!(error_class(&info), want, "{info}");
        }
    }
}
