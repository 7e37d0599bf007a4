//! What OpenCode (1.18.33) says through its TUI's own HTTP server: events, and the history of a session.
//!
//! Our user message carries the request in its id, and every answer to it names that id as its parent. A turn is a
//! chain of steps that end in tool calls; whose input went into which step tells what the turn holds besides.

use serde_json::{Value, json};

use crate::id::RequestId;
use crate::outcome::{Failure, TurnEnd};

/// What stands in a message id of ours between OpenCode's own beginning and the request's id.
const MARK: &str = "ccb";

/// How many hexadecimal digits of a message id tell its time.
const TIME: usize = 12;

/// What one event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody's input is in the conversation.
    User {
        /// The session.
        session: String,
        /// The message.
        message: String,
        /// Whether it has just come: later news of it have a summary.
        fresh: bool,
    },
    /// A step of the agent.
    Step {
        /// The session.
        session: String,
        /// The message that it answers.
        parent: String,
        /// Whether it is over, and nothing follows it of itself.
        last: bool,
    },
    /// What a session is doing.
    Status {
        /// The session.
        session: String,
        /// What.
        status: Status,
    },
    /// The human is asked something in the TUI.
    Asked {
        /// The session: a sub-agent has its own.
        session: String,
        /// The question's id.
        id: String,
        /// What is asked.
        what: String,
    },
    /// A question is not open any more.
    Answered {
        /// The question's id.
        id: String,
    },
    /// Something went wrong in a session.
    Error {
        /// The session.
        session: String,
        /// What.
        end: TurnEnd,
    },
    /// A session was made; a sub-agent's has a parent.
    Created {
        /// The session.
        session: String,
        /// The session that it was made from.
        parent: Option<String>,
    },
    /// Anything else.
    Other,
}

/// What a session is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing.
    Idle,
    /// In a turn.
    Busy,
    /// In a turn that waits for the provider.
    Retry {
        /// How often it has been tried.
        attempt: u64,
        /// The provider's words.
        message: String,
        /// When it is tried next, in milliseconds since the epoch, if that is told.
        next: Option<i64>,
    },
}

/// A message of a session's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Somebody's input.
    User {
        /// Its id.
        id: String,
        /// Whether OpenCode wrote it by itself, to go on after a compaction or to tell of a shell command.
        own: bool,
    },
    /// A step of the agent.
    Step {
        /// Its id.
        id: String,
        /// The message that it answers.
        parent: String,
        /// How it ended.
        end: StepEnd,
    },
    /// Belongs to a compaction: no part of the conversation.
    Compaction,
}

/// How a step of the agent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// Not yet; what it has said.
    Open(String),
    /// In tool calls, which another step follows; what it has said.
    Calls(String),
    /// In a tool call that the human has refused, or without a word, as before a compaction of a context that is too
    /// long: another step may follow. What it has said.
    Stopped(String),
    /// For good.
    Turn(TurnEnd),
}

/// A turn: what went into it, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The messages that went into it.
    pub inputs: Vec<String>,
    /// Whether its inputs, or what its answers name as their parents, are more than one.
    pub mixed: bool,
    /// How many steps the agent has taken in it.
    pub steps: usize,
    /// How it ended; or, while it is not `over`, how it ended if nothing more of it comes.
    pub end: TurnEnd,
    /// Whether that is the end, whatever the session is doing.
    pub over: bool,
}

impl Turn {
    /// Returns the requests that went into it, with their messages' ids.
    pub fn ours(&self) -> impl Iterator<Item = (RequestId, &str)> {
        self.inputs.iter().filter_map(|input| Some((request_of(input)?, input.as_str())))
    }
}

impl Record {
    /// Returns the message's id, if it is one of the conversation.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::User { id, .. } | Self::Step { id, .. } => Some(id),
            Self::Compaction => None,
        }
    }
}

/// Returns the id of the message that carries a request: OpenCode's own form in its first part, which tells the
/// time (ms), so that it stands in the history where it belongs, after the message `newest` whatever the clock says; the
/// request's own id after it.
pub fn message_id(id: &RequestId, millis: i64, newest: Option<&str>) -> String {
    // OpenCode counts 4096 messages to a millisecond, and keeps the low 48 bits.
    let time = millis.unsigned_abs().wrapping_mul(4096).wrapping_add(1) & 0xffff_ffff_ffff;
    let digits = newest.and_then(|newest| newest.strip_prefix("msg_")?.get(..TIME));
    let before = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    // The low bits begin anew every few years: then the newest one's are far ahead.
    let before = before.filter(|before| *before >= time && before - time < 1 << (4 * TIME - 1));
    let time = before.map_or(time, |before| before + 1);
    format!("msg_{time:012x}{MARK}{id}")
}

/// Returns the request that a message carries, if we made its id.
pub fn request_of(message: &str) -> Option<RequestId> {
    let rest = message.strip_prefix("msg_")?;
    let (time, rest) = rest.split_at_checked(TIME)?;
    let hex = time.bytes().all(|byte| byte.is_ascii_hexdigit());
    rest.strip_prefix(MARK).filter(|_| hex).and_then(|id| RequestId::new(id).ok())
}

/// Returns what hands a text over.
pub fn prompt(message: &str, text: &str) -> Value {
    json!({"messageID": message, "parts": [{"type": "text", "text": text}]})
}

/// Reads the data of one event.
pub fn parse(data: &str) -> Event {
    let Ok(event) = serde_json::from_str::<Value>(data) else {
        return Event::Other;
    };
    let (Some(kind), properties) = (event["type"].as_str(), &event["properties"]) else {
        return Event::Other;
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found = match kind {
        "message.updated" => message(&properties["info"]),
        "session.status" => text(&properties["sessionID"])
            .map(|session| Event::Status { session, status: status(Some(&properties["status"])) }),
        "permission.asked" | "question.asked" => asked(properties),
        "permission.replied" | "question.replied" | "question.rejected" => {
            text(&properties["requestID"]).map(|id| Event::Answered { id })
        }
        "session.error" => text(&properties["sessionID"])
            .map(|session| Event::Error { session, end: error(&properties["error"], String::new()) }),
        "session.created" => text(&properties["info"]["id"])
            .map(|session| Event::Created { session, parent: text(&properties["info"]["parentID"]) }),
        _ => None,
    };
    found.unwrap_or(Event::Other)
}

fn message(info: &Value) -> Option<Event> {
    let (session, message) = (info["sessionID"].as_str()?.to_owned(), info["id"].as_str()?.to_owned());
    Some(match info["role"].as_str()? {
        "user" => Event::User { session, message, fresh: info["summary"].is_null() },
        "assistant" => {
            let last = matches!(step_end(info, String::new()), StepEnd::Turn(_)) && info["summary"] != true;
            Event::Step { session, parent: info["parentID"].as_str()?.to_owned(), last }
        }
        _ => return None,
    })
}

/// Reads what waits for the human, as `GET /permission` and `GET /question` list it and the events tell it.
pub fn asked(question: &Value) -> Option<Event> {
    let (session, id) = (question["sessionID"].as_str()?.to_owned(), question["id"].as_str()?.to_owned());
    let what = match question["permission"].as_str() {
        Some(permission) => format!("it asks for permission: {permission}"),
        None => "it asks a question".to_owned(),
    };
    Some(Event::Asked { session, id, what })
}

/// Reads a session's status object; a session that has none is idle.
pub fn status(status: Option<&Value>) -> Status {
    match status.and_then(|status| status["type"].as_str()) {
        Some("retry") => {
            let status = status.unwrap_or(&Value::Null);
            let message = status["message"].as_str().unwrap_or("an error").to_owned();
            Status::Retry { attempt: status["attempt"].as_u64().unwrap_or(1), message, next: status["next"].as_i64() }
        }
        Some("busy") => Status::Busy,
        _ => Status::Idle,
    }
}

/// Reads a message of the history, with its parts.
pub fn record(message: &Value) -> Option<Record> {
    let (info, parts) = (&message["info"], message["parts"].as_array()?);
    let id = info["id"].as_str()?.to_owned();
    let of = |kind: &str| parts.iter().any(|part| part["type"] == kind);
    Some(match info["role"].as_str()? {
        "user" if of("compaction") => Record::Compaction,
        "user" => {
            let mut texts = parts.iter().filter(|part| part["type"] == "text").peekable();
            let own = texts.peek().is_some() && texts.all(|part| part["synthetic"] == true);
            Record::User { id, own }
        }
        "assistant" if info["summary"] == true => Record::Compaction,
        "assistant" => {
            let parent = info["parentID"].as_str()?.to_owned();
            let end = match step_end(info, said(parts)) {
                StepEnd::Calls(said) if parts.iter().any(is_refused) => StepEnd::Stopped(said),
                end => end,
            };
            Record::Step { id, parent, end }
        }
        _ => return None,
    })
}

/// Returns what a step says to whoever asked. A step that was tried again after its stream broke has what came before
/// the break as well, in front of another beginning.
fn said(parts: &[Value]) -> String {
    let begun = parts.iter().rposition(|part| part["type"] == "step-start").unwrap_or(0);
    let texts = parts[begun..].iter().filter(|part| part["type"] == "text" && part["ignored"] != true);
    let texts: Vec<&str> = texts.filter_map(|part| part["text"].as_str()).filter(|text| !text.is_empty()).collect();
    texts.join("\n\n")
}

/// Returns whether it is a tool call that the human has refused, or a question that they have not answered.
fn is_refused(part: &Value) -> bool {
    let error = part["state"]["error"].as_str().unwrap_or_default();
    ["The user rejected permission", "The user dismissed"].iter().any(|words| error.starts_with(words))
}

fn step_end(info: &Value, said: String) -> StepEnd {
    if info["time"]["completed"].is_null() {
        return StepEnd::Open(said);
    }
    if info["error"].is_object() {
        return StepEnd::Turn(error(&info["error"], said));
    }
    let failed = |message: &str, partial| {
        StepEnd::Turn(TurnEnd::Failed { reason: Failure::Provider, message: message.to_owned(), partial })
    };
    match info["finish"].as_str() {
        Some("tool-calls" | "unknown") => StepEnd::Calls(said),
        Some("length") => failed("the answer reached the model's limit of output and was cut off", said),
        Some("content-filter") => failed("the provider's content filter stopped the answer", said),
        Some(_) => StepEnd::Turn(TurnEnd::Completed { reply: said }),
        // It was stopped while it waited to try again, or a compaction comes: no error is written down then.
        None => StepEnd::Stopped(said),
    }
}

/// Returns the turn's end that an error object stands for.
fn error(error: &Value, partial: String) -> TurnEnd {
    let (name, data) = (error["name"].as_str().unwrap_or_default(), &error["data"]);
    if name == "MessageAbortedError" {
        return TurnEnd::Interrupted { partial };
    }
    let message = data["message"].as_str().filter(|message| !message.is_empty()).unwrap_or(name).to_owned();
    let body = data["responseBody"].as_str().unwrap_or_default();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word) || body.contains(word));
    let reason = match (name, data["statusCode"].as_u64()) {
        ("ContextOverflowError", _) => Failure::Context,
        _ if says(&["context_length_exceeded", "maximum context length", "prompt is too long"]) => Failure::Context,
        _ if says(&["insufficient_quota", "usage limit", "credit balance"]) => Failure::Quota,
        ("ProviderAuthError", _) | (_, Some(401 | 403)) => Failure::Auth,
        (_, Some(402)) => Failure::Quota,
        (_, Some(413)) => Failure::Context,
        (_, Some(429)) => Failure::RateLimit,
        (_, Some(500..=599)) => Failure::Overloaded,
        (_, _) => Failure::Provider,
    };
    TurnEnd::Failed { reason, message, partial }
}

/// Puts a history together into turns, in its order.
///
/// What stands between two steps went into the later one. A step after tool calls goes on with their turn, and so does
/// one that OpenCode itself asked for after a compaction.
pub fn turns(history: &[Record]) -> Vec<Turn> {
    let is_input =
        |id: &str| history.iter().any(|record| matches!(record, Record::User { id: of, own: false } if of == id));
    let mut turns: Vec<Turn> = Vec::new();
    // What the next step gets, and the inputs that the steps of the last turn name.
    let (mut inputs, mut parents): (Vec<String>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut goes_on, mut compacted, mut paused) = (false, false, false);
    let mut open = false;
    for record in history {
        match record {
            Record::Compaction => compacted = true,
            Record::User { own: true, .. } => goes_on |= compacted,
            Record::User { id, own: false } => inputs.push(id.clone()),
            Record::Step { parent, end, .. } => {
                // Who refuses a tool, or stops a step, stops the turn; what they send then begins another. So does what is
                // sent after a death in mid-step: nothing else leaves a step open that another one follows.
                let stopped = (paused || open) && !inputs.is_empty();
                if let Some(turn) = turns.last_mut().filter(|_| stopped) {
                    turn.over = true;
                }
                if !goes_on || stopped || turns.is_empty() {
                    turns.push(Turn::begun());
                    parents.clear();
                }
                let Some(turn) = turns.last_mut() else { continue };
                turn.inputs.append(&mut inputs);
                turn.steps += 1;
                if is_input(parent) && !parents.contains(&parent.as_str()) {
                    parents.push(parent);
                }
                turn.mixed = turn.inputs.len() > 1 || parents.len() > 1;
                (turn.end, turn.over) = match end {
                    StepEnd::Open(partial) => (cut_off(partial), false),
                    StepEnd::Calls(partial) | StepEnd::Stopped(partial) => {
                        (TurnEnd::Interrupted { partial: partial.clone() }, false)
                    }
                    StepEnd::Turn(end) => (end.clone(), true),
                };
                (goes_on, compacted) = (!turn.over, false);
                paused = matches!(end, StepEnd::Stopped(_));
                open = matches!(end, StepEnd::Open(_));
            }
        }
    }
    turns.extend(inputs.into_iter().map(|input| Turn { inputs: vec![input], ..Turn::begun() }));
    turns
}

impl Turn {
    /// Returns a turn of which no step is known.
    fn begun() -> Self {
        Self { inputs: Vec::new(), mixed: false, steps: 0, end: cut_off(""), over: false }
    }
}

/// Returns the end of a turn that stopped without one.
fn cut_off(partial: &str) -> TurnEnd {
    let message = "the agent stopped in mid-turn without an end".to_owned();
    TurnEnd::Failed { reason: Failure::AgentGone, message, partial: partial.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> Record {
        Record::User { id: id.into(), own: false }
    }

    fn step(parent: &str, end: StepEnd) -> Record {
        Record::Step { id: "s".into(), parent: parent.into(), end }
    }

    fn done(reply: &str) -> StepEnd {
        StepEnd::Turn(TurnEnd::Completed { reply: reply.into() })
    }

    /// Returns turns as their inputs, with marks: `*` mixed, `~` not over.
    fn woven(history: &[Record]) -> Vec<String> {
        let mark = |turn: &Turn| format!("{}{}", if turn.mixed { "*" } else { "" }, if turn.over { "" } else { "~" });
        turns(history).iter().map(|turn| turn.inputs.join("+") + &mark(turn)).collect()
    }

    #[test]
    fn what_goes_into_a_turn_is_known_by_its_steps() {
        let calls = || StepEnd::Calls(String::new());
        let refused = || StepEnd::Stopped(String::new());
        let open = || StepEnd::Open(String::new());
        let own = || Record::User { id: "o".into(), own: true };
        let table: Vec<(Vec<Record>, &[&str])> = vec![
            (vec![user("a"), step("a", done("1")), user("b"), step("b", done("2"))], &["a", "b"]),
            (vec![user("a"), user("b"), step("b", done("1"))], &["a+b*"]),
            (vec![user("a"), step("a", calls()), user("b"), step("b", done("1"))], &["a+b*"]),
            (vec![user("a"), step("a", calls()), step("a", done("1")), user("b")], &["a", "b~"]),
            (vec![user("a"), step("a", open())], &["a~"]),
            (vec![user("a"), step("a", open()), user("b")], &["a~", "b~"]),
            (vec![user("a"), step("a", open()), user("b"), step("b", done("1"))], &["a", "b"]),
            (vec![user("a"), step("a", refused())], &["a~"]),
            (vec![user("a"), step("a", refused()), user("b"), step("b", done("1"))], &["a", "b"]),
            (vec![user("a"), step("a", refused()), step("a", done("1"))], &["a"]),
            (
                vec![
                    user("a"),
                    step("a", refused()),
                    Record::Compaction,
                    Record::Compaction,
                    own(),
                    step("o", done("1")),
                ],
                &["a"],
            ),
            (
                vec![
                    user("a"),
                    step("a", calls()),
                    Record::Compaction,
                    Record::Compaction,
                    own(),
                    step("o", done("1")),
                ],
                &["a"],
            ),
            (vec![user("a"), step("a", done("1")), own(), step("o", StepEnd::Turn(cut_off("")))], &["a", ""]),
            (vec![step("lost", done("1")), user("a"), step("a", StepEnd::Open(String::new()))], &["", "a~"]),
        ];
        for (history, want) in table {
            assert_eq!(woven(&history), want, "{history:?}");
        }
    }

    #[test]
    fn errors_have_classes() {
        let api = |status: u64, message: &str| json!({"name": "APIError", "data": {"statusCode": status, "message": message}});
        let table = [
            (api(401, "no"), Failure::Auth),
            (api(402, "pay"), Failure::Quota),
            (api(429, "slow down"), Failure::RateLimit),
            (api(429, "insufficient_quota"), Failure::Quota),
            (api(503, "busy"), Failure::Overloaded),
            (api(413, "large"), Failure::Context),
            (api(400, "maximum context length is 8"), Failure::Context),
            (api(400, "bad"), Failure::Provider),
            (json!({"name": "ContextOverflowError", "data": {"message": "x"}}), Failure::Context),
            (json!({"name": "ProviderAuthError", "data": {"message": "x"}}), Failure::Auth),
            (json!({"name": "UnknownError", "data": {}}), Failure::Provider),
        ];
        for (object, want) in table {
            match error(&object, String::new()) {
                TurnEnd::Failed { reason, message, .. } => assert_eq!((reason, message.is_empty()), (want, false)),
                other => panic!("{object}: {other:?}"),
            }
        }
        let aborted = error(&json!({"name": "MessageAbortedError", "data": {"message": "Aborted"}}), "half".into());
        assert_eq!(aborted, TurnEnd::Interrupted { partial: "half".into() });
    }

    #[test]
    fn a_step_that_was_tried_again_says_only_what_came_then() {
        let part = |kind: &str, text: &str| json!({"type": kind, "text": text});
        let parts = [
            part("step-start", ""),
            part("text", "half"),
            part("step-start", ""),
            part("text", "all"),
            part("text", "of it"),
        ];
        assert_eq!(said(&parts), "all\n\nof it");
    }
}
