//! What Claude Code writes of itself: transcript lines, its registry file, and what its hooks are given.
//!
//! Measured on Claude Code 2.1.330. Unknown lines and fields are passed over.

pub mod conversation;

use serde_json::Value;

use crate::outcome::Failure;

/// What comes before the prompt where a hook's refusal is reported.
const ORIGINAL: &str = "Original prompt: ";

/// What stands for an interrupt among the user's messages.
const INTERRUPTED: &str = "[Request interrupted by user";

/// How texts in the user's role begin that nobody has sent as a prompt.
const NO_PROMPT: &[&str] = &["<command-", "<local-command-", "<bash-"];

/// One line of a transcript (`projects/*/<session>.jsonl`) that belongs to the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its own id.
    pub uuid: String,
    /// The record that it follows. Lines are not always written in the order of time; this is that order.
    pub parent: Option<String>,
    /// The turn (`promptId`), where the line names it; else it is that of the parent.
    pub turn: Option<String>,
    /// What it says.
    pub says: Says,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// A text was taken as a prompt.
    Prompt {
        /// The text.
        text: String,
        /// Whether Claude gave it to itself, when a task of its own in the background had ended.
        by_task: bool,
    },
    /// A text that was sent while a tool ran was taken into the turn.
    Absorbed {
        /// The text.
        text: String,
        /// Whether nobody sent it: the news of a task in the background, or words of Claude's own.
        by_task: bool,
    },
    /// A user's own hook refused a prompt. It belongs to no turn.
    Rejected {
        /// What the hook said.
        reason: String,
        /// The prompt; none if the hook wanted it not to be told.
        text: Option<String>,
    },
    /// A part of one of the model's messages; each content block has a line.
    Said {
        /// The message's id.
        message: String,
        /// The text in it; empty for a thought or a tool call.
        text: String,
        /// Whether the message is whole and calls no tool: the model had no more to do.
        last: bool,
        /// Whether the limit of output has cut it off: Claude has the model go on by itself, three times at most.
        cut: bool,
    },
    /// The provider's error ended the turn.
    Failed {
        /// Its class.
        reason: Failure,
        /// Its words.
        message: String,
    },
    /// A human stopped the turn.
    Interrupted,
    /// The turn was completed: after all Stop hooks, also while tasks run on in the background.
    Completed {
        /// Whether agents of it run on in the background, whose end brings about another turn.
        pending: bool,
    },
    /// Nothing to us; it may be another one's parent.
    Link,
}

/// Reads a line of a transcript.
pub fn record(line: &str) -> Option<Record> {
    let line: Value = serde_json::from_str(line).ok()?;
    if line["isSidechain"] == true {
        return None;
    }
    let text = |field: &str| line[field].as_str().map(str::to_owned);
    let says = match line["type"].as_str()? {
        "user" => user(&line),
        "assistant" => assistant(&line),
        "attachment" if line["attachment"]["type"] == "queued_command" => {
            let attachment = &line["attachment"];
            let by_task = attachment["commandMode"] == "task-notification" || attachment["isMeta"] == true;
            Says::Absorbed { text: content(&attachment["prompt"]), by_task }
        }
        "system" if line["subtype"] == "turn_duration" => {
            let some = |field: &str| line[field].as_u64().is_some_and(|count| count > 0);
            Says::Completed { pending: some("pendingBackgroundAgentCount") || some("pendingWorkflowCount") }
        }
        "system" if line["subtype"] == "informational" => stopped(&line),
        _ => Says::Link,
    };
    Some(Record { uuid: text("uuid")?, parent: text("parentUuid"), turn: text("promptId"), says })
}

fn user(line: &Value) -> Says {
    let message = &line["message"]["content"];
    let is_result = message.as_array().is_some_and(|parts| parts.iter().any(|part| part["type"] == "tool_result"));
    let text = content(message);
    if is_result || line["isMeta"] == true || line["isCompactSummary"] == true {
        return Says::Link;
    }
    if text.starts_with(INTERRUPTED) {
        return Says::Interrupted;
    }
    if NO_PROMPT.iter().any(|begin| text.trim_start().starts_with(begin)) {
        return Says::Link;
    }
    let by_task = line["origin"]["kind"] == "task-notification" || text.trim_start().starts_with("<task-notification>");
    Says::Prompt { text, by_task }
}

fn assistant(line: &Value) -> Says {
    let message = line["message"]["id"].as_str().unwrap_or_default().to_owned();
    let text = content(&line["message"]["content"]);
    if line["isApiErrorMessage"] == true {
        return Says::Failed { reason: failure(line["error"].as_str().unwrap_or_default(), &text), message: text };
    }
    let stop = line["message"]["stop_reason"].as_str();
    let last = matches!(stop, Some("end_turn" | "stop_sequence"));
    Says::Said { message, text, last, cut: stop == Some("max_tokens") }
}

/// Reads that a user's own hook refused a prompt, or stopped its turn before anything was said.
fn stopped(line: &Value) -> Says {
    let ending = &line["promptSubmitEnding"]["ending"];
    let reason = ending["reason"].as_str().unwrap_or("it gave no reason").trim().to_owned();
    match ending["kind"].as_str() {
        Some("blocked_by_hook") => {
            let text = line["content"].as_str().and_then(|content| content.split_once(ORIGINAL));
            Says::Rejected { reason, text: text.map(|(_, text)| text.to_owned()) }
        }
        Some("stopped_by_hook") => {
            let message = format!("a hook of the user stopped it: {reason}");
            Says::Failed { reason: Failure::Provider, message }
        }
        Some(_) | None => Says::Link,
    }
}

/// Returns the text of a message's content, which is a string or a list of blocks.
fn content(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let blocks = content.as_array().into_iter().flatten();
    let texts: Vec<&str> = blocks.filter(|b| b["type"] == "text").filter_map(|b| b["text"].as_str()).collect();
    texts.join("\n\n")
}

/// Returns the class of an error by the word that Claude has for it.
fn failure(word: &str, message: &str) -> Failure {
    let message = message.to_lowercase();
    match word {
        // "You've hit your 5-hour limit · resets 3pm (UTC)": it says itself until when.
        "rate_limit" if ["usage limit", "hit your", "credit"].iter().any(|word| message.contains(word)) => {
            Failure::Quota
        }
        "rate_limit" => Failure::RateLimit,
        "authentication_failed" | "oauth_org_not_allowed" => Failure::Auth,
        "billing_error" => Failure::Quota,
        "server_error" | "overloaded" => Failure::Overloaded,
        _ if message.contains("too long") || message.contains("context limit") => Failure::Context,
        _ => Failure::Provider,
    }
}

/// What the registry (`sessions/<pid>.json`) says of a running Claude.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The session that it is in now.
    pub session: String,
    /// When its process started, in clock ticks after the machine did.
    pub process_start: Option<u64>,
    /// What it is doing; none: it has not said so yet.
    pub status: Option<Status>,
    /// When it said so, in milliseconds since the Unix epoch.
    pub since: i64,
}

/// What Claude says that it is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It waits for a prompt.
    Idle,
    /// It is in a turn, or tasks of it run in the background.
    Busy,
    /// It waits for an answer, to what this says.
    Waiting(String),
}

/// Reads a registry file. One that is caught half-written gives nothing.
pub fn registered(text: &str) -> Option<Registered> {
    let entry: Value = serde_json::from_str(text).ok()?;
    let start = &entry["procStart"];
    let status = entry["status"].as_str().map(|status| match status {
        // A shell command that runs on in the background keeps nobody from asking.
        "idle" | "shell" => Status::Idle,
        "waiting" => Status::Waiting(entry["waitingFor"].as_str().unwrap_or("an answer").to_owned()),
        _ => Status::Busy,
    });
    Some(Registered {
        session: entry["sessionId"].as_str()?.to_owned(),
        process_start: start.as_u64().or_else(|| start.as_str()?.parse().ok()),
        status,
        since: entry["statusUpdatedAt"].as_i64().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_read_whole_or_not_at_all() {
        let text =
            r#"{"pid":7,"sessionId":"s","procStart":"87870","status":"waiting","waitingFor":"permission prompt"}"#;
        let waiting = Status::Waiting("permission prompt".into());
        let want = Registered { session: "s".into(), process_start: Some(87870), status: Some(waiting), since: 0 };
        assert_eq!(registered(text), Some(want));
        for cut in 0..text.len() {
            assert_eq!(registered(&text[..cut]), None);
        }
        assert_eq!(registered(r#"{"sessionId":"s"}"#).and_then(|entry| entry.status), None);
        let shell = registered(r#"{"sessionId":"s","status":"shell"}"#).and_then(|e| e.status);
        assert_eq!(shell, Some(Status::Idle), "a command in the background");
        assert_eq!(registered(r#"{"sessionId":"s","status":"new"}"#).and_then(|e| e.status), Some(Status::Busy));
    }

    #[test]
    fn errors_have_their_class() {
        let table = [
            ("rate_limit", "API Error: Request rejected (429)", Failure::RateLimit),
            ("rate_limit", "Claude usage limit reached", Failure::Quota),
            ("rate_limit", "You've hit your 5-hour limit · resets 3pm (UTC)", Failure::Quota),
            ("authentication_failed", "Please run /login", Failure::Auth),
            ("billing_error", "Credit balance is too low", Failure::Quota),
            ("server_error", "API Error: 500", Failure::Overloaded),
            ("invalid_request", "Prompt is too long", Failure::Context),
            ("unknown", "API Error: Connection error.", Failure::Provider),
        ];
        for (word, message, want) in table {
            assert_eq!(failure(word, message), want, "{word}");
        }
    }
}
