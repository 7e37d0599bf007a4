//! What Gemini CLI 0.61.0 writes of itself: the transcript of a session, one record a line.
//!
//! Nothing in it says that a turn has ended well: a record before a tool call looks like a last one. A cancel and an
//! error are recorded, and what is written after a cancel may be the whole history once more, under new ids.

use serde_json::Value;

use super::Observation;
use crate::outcome::{Failure, TurnEnd};
use crate::prompt;

/// What opens a part of a user's record that no human wrote.
const CONTEXTS: [&str; 2] = ["<session_context>", "<hook_context>"];

/// What opens a record in the user's role by which Gemini itself has the model go on in its turn.
const OWN: [&str; 3] = [
    "System: Potential loop detected. Details: ",
    "System: Please continue.",
    "[System: You successfully executed a tool",
];

/// What is recorded when a turn is stopped from the keyboard.
const CANCELLED: [&str; 2] = ["Request cancelled.", "User cancelled the request."];

/// What opens the record of a turn that was stopped by something else than an error of the provider.
const HALTED: [&str; 4] = [
    "Agent execution stopped: ",
    "Agent execution blocked: ",
    "A potential loop was detected. This can happen due to repetitive tool calls or other model behavior. The request",
    "The session has reached the maximum number of turns: ",
];

/// One record of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id; a later record of the same id takes its place.
    pub id: String,
    /// What it says.
    pub says: Says,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Somebody's prompt was taken.
    Prompt {
        /// Its parts, as far as somebody wrote them.
        parts: Vec<String>,
        /// Whether the session's context is in the same record, as it is where a history is written once more.
        opening: bool,
    },
    /// The whole history is given anew.
    History,
    /// A tool's result went to the model, or words of Gemini's own by which it has the model go on.
    Result,
    /// The model said something.
    Said {
        /// Its text.
        text: String,
        /// Whether it calls tools: then it goes on.
        calls: bool,
    },
    /// The turn was stopped from the keyboard.
    Cancelled,
    /// The turn was stopped by something else, with these words.
    Failed(Failure, String),
}

/// Reads a line of a transcript; none: it says nothing of a turn.
pub fn record(line: &str) -> Option<Record> {
    let line: Value = serde_json::from_str(line).ok()?;
    if line["$set"]["messages"].is_array() {
        return Some(Record { id: String::new(), says: Says::History });
    }
    let says = match line["type"].as_str()? {
        "user" => user(&line["content"]),
        "gemini" => {
            let calls = line["toolCalls"].as_array().is_some_and(|calls| !calls.is_empty())
                || parts(&line["content"]).any(|part| part.get("functionCall").is_some());
            Says::Said { text: text(&line["content"]), calls }
        }
        "info" | "warning" => {
            let said = text(&line["content"]);
            let halted = HALTED.iter().any(|begin| said.starts_with(begin));
            match said.as_str() {
                said if CANCELLED.contains(&said) => Says::Cancelled,
                _ if halted => Says::Failed(Failure::Provider, said),
                _ => return None,
            }
        }
        "error" => failed(&text(&line["content"])),
        _ => return None,
    };
    Some(Record { id: line["id"].as_str()?.to_owned(), says })
}

/// Returns the session that a transcript's first line names.
pub fn session(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    line["sessionId"].as_str().map(str::to_owned)
}

fn user(content: &Value) -> Says {
    if parts(content).any(|part| part.get("functionResponse").is_some()) {
        return Says::Result;
    }
    let begins = |text: &str, begin: &str| text.trim_start().starts_with(begin);
    let written = |text: &&str| !CONTEXTS.iter().any(|begin| begins(text, begin));
    let mut said = texts(content).filter(written).peekable();
    if said.peek().is_some() && said.all(|text| OWN.iter().any(|begin| begins(text, begin))) {
        return Says::Result;
    }
    let opening = texts(content).any(|text| begins(text, CONTEXTS[0]));
    Says::Prompt { parts: texts(content).filter(written).map(str::to_owned).collect(), opening }
}

/// Returns the parts of a content, which is a text or a list of parts.
fn parts(content: &Value) -> impl Iterator<Item = &Value> {
    content.as_array().into_iter().flatten()
}

fn texts(content: &Value) -> impl Iterator<Item = &str> {
    content.as_str().into_iter().chain(parts(content).filter_map(|part| part.as_str().or(part["text"].as_str())))
}

fn text(content: &Value) -> String {
    texts(content).collect()
}

/// Reads an error: `[API Error: …]`, with the provider's own JSON or with words.
fn failed(said: &str) -> Says {
    // What it advises its human may follow.
    let api = said.strip_prefix("[API Error: ").map(|rest| rest.rsplit_once(']').unwrap_or((rest, "")));
    let (inner, advice) = api.unwrap_or((said, ""));
    let json: Value = serde_json::from_str(inner).unwrap_or_default();
    let error = &json["error"];
    let words = format!("{}{}", error["message"].as_str().unwrap_or(inner), advice.trim_end());
    let words = words.trim();
    let (code, status) = (error["code"].as_u64(), error["status"].as_str().unwrap_or_default());
    let message = match code {
        Some(code) => format!("API error {code}: {words}"),
        None => words.to_owned(),
    };
    let named = |period: &str| error["details"].to_string().contains(period);
    let class = match class(code, status, words) {
        Failure::Quota if (named("PerMinute") || passes(words)) && !named("PerDay") => Failure::RateLimit,
        other => other,
    };
    Says::Failed(class, message)
}

/// Returns whether an error's words name a limit that is over within the time in which Gemini itself asks again: it
/// calls that of a minute a quota, too.
fn passes(words: &str) -> bool {
    let words = words.to_lowercase();
    let after = ["suggested retry after ", "please retry in "].iter().find_map(|begin| words.split_once(begin));
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok();
    !words.contains("daily") && after.and_then(|(_, text)| number(text)).is_some_and(|seconds| seconds <= 300)
}

/// Returns the class of an error by the provider's code and words.
fn class(code: Option<u64>, status: &str, words: &str) -> Failure {
    let words = words.to_lowercase();
    let has = |some: &[&str]| some.iter().any(|word| words.contains(word));
    match code {
        Some(401 | 403) => Failure::Auth,
        Some(429) if has(&["quota", "billing", "credit"]) => Failure::Quota,
        Some(429) => Failure::RateLimit,
        Some(500..=599) => Failure::Overloaded,
        Some(400 | 413) if has(&["token count", "too long", "context", "exceeds the maximum"]) => Failure::Context,
        Some(400) if has(&["api key"]) => Failure::Auth,
        None if status == "UNAUTHENTICATED" || has(&["api key not valid", "please login", "authentication"]) => {
            Failure::Auth
        }
        None if has(&["quota", "exhausted your"]) => Failure::Quota,
        None if has(&["rate limit", "too many requests"]) => Failure::RateLimit,
        None if has(&["overloaded", "unavailable"]) => Failure::Overloaded,
        Some(_) | None => Failure::Provider,
    }
}

/// The turns of one transcript, as they are written.
#[derive(Debug, Default)]
pub struct Reader {
    /// The turn that began last.
    turn: Option<Turn>,
    /// Whether what is written is the history once more.
    repeating: bool,
}

#[derive(Debug)]
struct Turn {
    /// The id of its prompt's record.
    id: String,
    /// What the model said: the record's id, and the text.
    said: Vec<(String, String)>,
    /// Whether what was said last may be the last of all.
    whole: bool,
    /// What has stopped it, unless it goes on.
    failed: Option<(Failure, String)>,
    /// Whether its end was told.
    over: bool,
    /// Whether it was stopped from the keyboard.
    cancelled: bool,
}

impl Reader {
    /// Takes the next line and returns what it tells.
    pub fn take(&mut self, line: &str) -> Vec<Observation> {
        let Some(Record { id, says }) = record(line) else { return Vec::new() };
        // After a cancel the history may be written once more, under new ids; then it is given anew as a whole.
        let cancelled = self.turn.as_ref().is_some_and(|turn| turn.cancelled);
        match &says {
            Says::History => self.repeating = false,
            Says::Prompt { opening: true, .. } if cancelled => self.repeating = true,
            Says::Prompt { parts, .. } if !self.repeating => return self.prompt(&id, parts),
            _ => {}
        }
        if self.repeating {
            return Vec::new();
        }
        // What follows a cancel may be a cancelled tool's own record.
        let Some(turn) = self.turn.as_mut().filter(|turn| !turn.over) else { return Vec::new() };
        match says {
            Says::Said { text, calls } => turn.say(id, text, calls).into_iter().collect(),
            Says::Cancelled => {
                let partial = turn.last_text();
                turn.cancelled = true;
                vec![turn.over(TurnEnd::Interrupted { partial })]
            }
            Says::Failed(reason, message) => {
                turn.failed = Some((reason, message));
                Vec::new()
            }
            Says::Result => {
                turn.whole = false;
                Vec::new()
            }
            Says::Prompt { .. } | Says::History => Vec::new(),
        }
    }

    /// A prompt begins a turn: the one before is over, whatever was seen of it.
    fn prompt(&mut self, id: &str, parts: &[String]) -> Vec<Observation> {
        if parts.is_empty() {
            return Vec::new();
        }
        let mut told: Vec<Observation> = self.close().into_iter().collect();
        let turn = Some(id.to_owned());
        told.push(Observation::TurnBegan { turn: turn.clone() });
        let texts = parts.iter().flat_map(|part| apart(part));
        told.extend(texts.map(|text| Observation::User { text: text.to_owned(), client: None, turn: turn.clone() }));
        self.turn = Some(Turn {
            id: id.to_owned(),
            said: Vec::new(),
            whole: false,
            failed: None,
            over: false,
            cancelled: false,
        });
        told
    }

    /// Returns whether a turn is on, as far as the records tell: only some ends are in them.
    pub fn is_open(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| !turn.over)
    }

    /// The program that was in the turn is gone: nothing more comes of it.
    pub fn abandon(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.over = true;
        }
    }

    /// Returns whether the last record may be the last of its turn: an answer, or an error. A record before a tool
    /// call looks so too.
    pub fn is_whole(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.over || turn.whole || turn.failed.is_some())
    }

    /// Returns the end of the turn, given that something else has told that it is over and nothing more comes.
    pub fn close(&mut self) -> Option<Observation> {
        let turn = self.turn.as_mut().filter(|turn| !turn.over)?;
        let text = turn.last_text();
        let end = match turn.failed.take() {
            Some((reason, message)) => TurnEnd::Failed { reason, message, partial: text },
            None if turn.whole => TurnEnd::Completed { reply: text },
            None => TurnEnd::Quiet { partial: text },
        };
        Some(turn.over(end))
    }
}

impl Turn {
    fn over(&mut self, end: TurnEnd) -> Observation {
        self.over = true;
        Observation::TurnEnded { turn: Some(self.id.clone()), end }
    }

    fn say(&mut self, id: String, text: String, calls: bool) -> Option<Observation> {
        // What is said after an error was said because the turn went on.
        self.failed = None;
        let blank = text.trim().is_empty();
        self.whole = !calls && !blank;
        if let Some((_, known)) = self.said.iter_mut().find(|(known, _)| *known == id) {
            *known = text;
            return None;
        }
        self.said.push((id, text.clone()));
        (!blank).then(|| Observation::Agent { text, turn: Some(self.id.clone()) })
    }

    fn last_text(&self) -> String {
        let texts = self.said.iter().rev().map(|(_, text)| text.trim());
        texts.filter(|text| !text.is_empty()).map(str::to_owned).next().unwrap_or_default()
    }
}

/// Takes a prompt apart where it is several that had waited: Gemini joins them by a blank line. Only where an anchor
/// of ours heads a later one can that be seen.
fn apart(text: &str) -> Vec<&str> {
    let anchor = format!("\n\n{}", prompt::ANCHOR);
    match text.find(&anchor) {
        Some(at) if prompt::anchor_of(text).is_none() && prompt::anchor_of(&text[at..]).is_some() => {
            vec![&text[..at], &text[at + 2..]]
        }
        Some(_) | None => vec![text],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OURS: &str = "CCB_REQ_ID: r1\n\nhello\tyou";

    fn read(lines: &[Value]) -> (Reader, Vec<Observation>) {
        let mut reader = Reader::default();
        let told = lines.iter().flat_map(|line| reader.take(&line.to_string())).collect();
        (reader, told)
    }
    fn end(lines: &[Value]) -> Option<TurnEnd> {
        match read(lines).0.close() {
            Some(Observation::TurnEnded { end, .. }) => Some(end),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }
    fn inputs(lines: &[Value]) -> Vec<String> {
        let texts = read(lines).1.into_iter().filter_map(|told| match told {
            Observation::User { text, .. } => Some(text),
            _ => None,
        });
        texts.collect()
    }
    fn prompt(id: &str, parts: &[&str]) -> Value {
        let parts: Vec<Value> = parts.iter().map(|text| json!({"text": text})).collect();
        json!({"id": id, "type": "user", "content": parts})
    }
    fn said(id: &str, text: &str) -> Value {
        json!({"id": id, "type": "gemini", "content": text})
    }
    fn calling(id: &str, text: &str) -> Value {
        json!({"id": id, "type": "gemini", "content": text, "toolCalls": [{"id": "c"}]})
    }
    fn result() -> Value {
        json!({"id": "f", "type": "user", "content": [{"functionResponse": {}}]})
    }
    fn told(kind: &str, text: &str) -> Value {
        json!({"id": "i", "type": kind, "content": text})
    }

    #[test]
    fn what_gemini_adds_to_a_prompt_is_nobodys_input() {
        for parts in [&[OURS][..], &["<session_context>x", OURS], &[OURS, "<hook_context>y</hook_context>"]] {
            assert_eq!(inputs(&[prompt("u", parts)]), [OURS], "{parts:?}");
        }
        assert_eq!(read(&[prompt("u", &["<session_context>CCB_REQ_ID: r1"])]).1, []);
    }

    #[test]
    fn gemini_has_the_model_go_on_by_words_of_its_own_in_the_same_turn() {
        let halted = "A potential loop was detected. This can happen due to repetitive tool calls or other model \
                      behavior. The request has been halted.";
        let own = prompt("v", &["System: Potential loop detected. Details: again and again. Please take a step back"]);
        let lines = [prompt("u", &[OURS]), said("a", "one one one"), own];
        assert_eq!(inputs(&lines), [OURS]);
        assert!(!read(&lines).0.is_whole());
        let on = [&lines[..], &[said("b", "two")]].concat();
        assert_eq!(end(&on), Some(TurnEnd::Completed { reply: "two".into() }));
        let stopped = [&lines[..], &[told("info", halted)]].concat();
        assert!(matches!(end(&stopped), Some(TurnEnd::Failed { reason: Failure::Provider, .. })));
    }

    #[test]
    fn a_limit_of_a_minute_is_no_used_up_quota() {
        let current = "You exceeded your current quota, please check your plan and billing details.";
        let of = |id: &str| {
            let details = json!([{"violations": [{"quotaId": format!("Requests{id}PerModel")}]}]);
            format!("[API Error: {}]", json!({"error": {"code": 429, "message": current, "details": details}}))
        };
        let table = [
            (of("PerMinute"), Failure::RateLimit),
            (of("PerDay"), Failure::Quota),
            (format!("[API Error: {current}\nPlease retry in 37.9s.\nSuggested retry after 37s.]"), Failure::RateLimit),
            (format!("[API Error: {current}\nSuggested retry after 40000s.]"), Failure::Quota),
            (format!("[API Error: {current}]"), Failure::Quota),
        ];
        for (said, class) in table {
            let lines = [prompt("u", &[OURS]), told("error", &said)];
            let Some(TurnEnd::Failed { reason, message, .. }) = end(&lines) else { panic!("{said}") };
            assert_eq!(reason, class, "{said}");
            assert!(!message.ends_with(']'), "{message}");
        }
        let daily = "[API Error: You have exhausted your daily quota on this model.]\nPlease wait and try again later.";
        let message = "You have exhausted your daily quota on this model.\nPlease wait and try again later.".to_owned();
        let failed = TurnEnd::Failed { reason: Failure::Quota, message, partial: String::new() };
        assert_eq!(end(&[prompt("u", &[OURS]), told("error", daily)]), Some(failed));
    }

    #[test]
    fn prompts_that_gemini_has_joined_are_taken_apart() {
        let joined = format!("mine\n\n{OURS}");
        assert_eq!(inputs(&[prompt("u", &[&joined])]), ["mine", OURS]);
        for whole in [format!("{OURS}\n\nmine"), format!("{OURS}\n\nCCB_REQ_ID: r2"), "a\n\nCCB_REQ_ID: b c".into()] {
            assert_eq!(inputs(&[prompt("u", &[&whole])]), [whole.as_str()]);
        }
    }

    #[test]
    fn a_record_before_a_tool_call_is_taken_back() {
        let mut lines = vec![prompt("u", &[OURS]), said("a", "calling")];
        assert!(read(&lines).0.is_whole());
        lines.push(calling("a", "calling"));
        assert!(!read(&lines).0.is_whole());
        lines.push(result());
        assert_eq!(end(&lines), Some(TurnEnd::Quiet { partial: "calling".into() }));
        lines.push(said("b", "the answer"));
        assert_eq!(end(&lines), Some(TurnEnd::Completed { reply: "the answer".into() }));
        // A result without the call's own record says the same.
        let lost = [prompt("u", &[OURS]), said("a", "calling"), result()];
        assert!(!read(&lost).0.is_whole());
    }

    #[test]
    fn a_cancel_ends_a_turn_and_what_follows_it_adds_nothing() {
        let half = said("a", "half");
        let lines =
            [prompt("u", &[OURS]), half, told("info", "Request cancelled."), calling("c", ""), said("b", "old")];
        let (mut reader, told) = read(&lines);
        let over = TurnEnd::Interrupted { partial: "half".into() };
        assert_eq!(told.last(), Some(&Observation::TurnEnded { turn: Some("u".into()), end: over }));
        assert_eq!((reader.is_open(), reader.close()), (false, None));
    }

    #[test]
    fn a_history_that_is_written_once_more_is_no_turn() {
        let again = prompt("v", &["<session_context>", OURS]);
        let lines = [prompt("u", &["mine"]), told("info", "Request cancelled."), again.clone(), said("b", "old")];
        let (mut reader, told) = read(&lines);
        assert_eq!((told.len(), reader.is_open()), (3, false));
        assert_eq!(reader.take(&prompt("w", &[OURS]).to_string()), []);
        assert_eq!(reader.take(&json!({"$set": {"messages": []}}).to_string()), []);
        assert_eq!(reader.take(&prompt("x", &[OURS]).to_string()).len(), 2);
        // With its context, but not after a cancel, it is a prompt.
        assert_eq!(inputs(&[again]), [OURS]);
    }

    #[test]
    fn an_error_ends_a_turn_unless_it_goes_on() {
        let failed = vec![prompt("u", &[OURS]), told("error", "[API Error: terminated]")];
        let reason = Failure::Provider;
        let over = TurnEnd::Failed { reason, message: "terminated".into(), partial: String::new() };
        assert_eq!(end(&failed), Some(over));
        let on = [failed, vec![told("info", "something else"), said("a", "well")]].concat();
        assert_eq!(end(&on), Some(TurnEnd::Completed { reply: "well".into() }));
    }

    #[test]
    fn the_next_prompt_ends_a_turn() {
        let (reader, told) = read(&[prompt("u", &[OURS]), said("a", "well"), prompt("v", &["mine"])]);
        let over = TurnEnd::Completed { reply: "well".into() };
        assert_eq!(told[3], Observation::TurnEnded { turn: Some("u".into()), end: over });
        assert_eq!(told[4], Observation::TurnBegan { turn: Some("v".into()) });
        assert!(reader.is_open() && !reader.is_whole());
    }

    #[test]
    fn errors_have_their_class() {
        let api = |code: u32, words: &str| {
            format!("[API Error: {}]", json!({"error": {"code": code, "message": words, "status": "X"}}))
        };
        let table = [
            (api(401, "no"), Failure::Auth),
            (api(403, "no"), Failure::Auth),
            (api(400, "API key not valid. Please pass a valid API key."), Failure::Auth),
            (api(429, "Resource has been exhausted"), Failure::RateLimit),
            (api(429, "You exceeded your current quota, please check your plan"), Failure::Quota),
            (api(503, "The model is overloaded"), Failure::Overloaded),
            (api(400, "The input token count (9) exceeds the maximum number of tokens"), Failure::Context),
            (api(404, "no such model"), Failure::Provider),
            ("[API Error: terminated]".into(), Failure::Provider),
            ("[API Error: You have exhausted your daily quota]".into(), Failure::Quota),
        ];
        for (text, want) in table {
            let Says::Failed(reason, message) = failed(&text) else { panic!("{text}") };
            assert_eq!(reason, want, "{text}");
            assert!(!message.contains('{') && !message.is_empty(), "{message}");
        }
    }

    #[test]
    fn what_says_nothing_of_a_turn_is_passed_over() {
        for line in [
            r#"{"sessionId":"s","kind":"main"}"#,
            r#"{"$set":{"lastUpdated":"2026-11-23T08:02:36.371Z"}}"#,
            r#"{"id":"i","type":"info","content":"This request failed. Press F12 for diagnostics"}"#,
            r#"{"id":"i","type":"warning","content":"Hook(s) [x] failed for event AfterAgent."}"#,
            r#"{"id":"i","type":"#,
            "[]",
        ] {
            assert_eq!(record(line), None, "{line}");
        }
        assert_eq!(session(r#"{"sessionId":"s","kind":"main"}"#).as_deref(), Some("s"));
    }
}
