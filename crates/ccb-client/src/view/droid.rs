//! Droid's language: `droid exec` over stream JSON-RPC (0.215.0).
//!
//! A message is given our id, which Droid makes the id of its turn. What it answers to a message says nothing; that it
//! was taken is told by its `create_message`. The user's own settings say model and autonomy; only `-a` raises the
//! latter, for this launch: the level that was there before is kept, and restored when the session is loaded without it.

use std::collections::BTreeMap;

use ccb_core::provider::droid::{self as rpc, Answer, Ask, Message};
use serde_json::{Value, json};

use super::{Event, Question};
use crate::display::line;

/// The autonomy of `-a`.
const AUTO: &str = "high";

/// How many characters of a tool's words are shown.
const SHORT: usize = 160;

/// One conversation with one `droid exec`.
#[derive(Debug)]
pub(crate) struct Droid {
    cwd: String,
    auto: bool,
    /// The level to go back to in a session that an earlier `-a` has raised.
    restore: Option<String>,
    calls: u64,
    pending: BTreeMap<u64, Call>,
    session: Option<(String, bool)>,
    /// The turn that runs, and what it has brought.
    turn: Option<String>,
    answer: Answer,
    /// The turn that was over last: its end may be told once more, or late.
    over: Option<String>,
    asks: Vec<Asked>,
    /// The level that `-a` has raised.
    raised: Option<String>,
}

#[derive(Debug)]
enum Call {
    Begin,
    Load(String),
    Settings,
    Message(Option<String>),
    Interrupt,
}

/// A question that waits for the human.
#[derive(Debug)]
struct Asked {
    call: Value,
    ask: Ask,
    answers: Vec<Value>,
}

/// What comes of a line: what it means, and what is written back.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Heard {
    pub(crate) events: Vec<Event>,
    pub(crate) write: String,
}

impl Heard {
    fn event(event: Event) -> Self {
        Self { events: vec![event], write: String::new() }
    }
}

impl Droid {
    pub(crate) fn new(cwd: String, auto: bool, restore: Option<String>) -> Self {
        Self {
            cwd,
            auto,
            restore,
            calls: 0,
            pending: BTreeMap::new(),
            session: None,
            turn: None,
            answer: Answer::default(),
            over: None,
            asks: Vec::new(),
            raised: None,
        }
    }

    fn call(&mut self, method: &str, params: &Value, kind: Call) -> String {
        self.calls += 1;
        self.pending.insert(self.calls, kind);
        rpc::call(self.calls, method, params)
    }

    /// Returns what is written first: a session is loaded, or begun.
    pub(crate) fn begin(&mut self, session: Option<&str>) -> String {
        if let Some(session) = session {
            let params = json!({"sessionId": session});
            self.call("load_session", &params, Call::Load(session.to_owned()))
        } else {
            let params = json!({"machineId": "ccb", "cwd": self.cwd});
            self.call("initialize_session", &params, Call::Begin)
        }
    }

    /// Returns the session's level before `-a` has raised it, if it has.
    pub(crate) fn raised(&self) -> Option<&str> {
        self.raised.as_deref()
    }

    /// Returns the line that gives Droid a message. With an id, that is the id of its turn.
    pub(crate) fn send(&mut self, id: Option<&str>, text: &str) -> String {
        let mut params = json!({"text": text});
        if let Some(id) = id {
            params["messageId"] = id.into();
        }
        self.call("add_user_message", &params, Call::Message(id.map(str::to_owned)))
    }

    /// Its turn is over, as its records say.
    pub(crate) fn over(&mut self) {
        self.over = self.turn.take().or(self.over.take());
        self.answer = Answer::default();
        self.asks.clear();
    }

    /// Returns the line that stops the turn.
    pub(crate) fn interrupt(&mut self) -> String {
        self.call("interrupt_session", &json!({}), Call::Interrupt)
    }

    /// Answers a question with a key or a line.
    pub(crate) fn reply(&mut self, key: &str, words: &str) -> Heard {
        let Some(at) = self.asks.iter().position(|asked| name(&asked.call) == key) else { return Heard::default() };
        let asked = &mut self.asks[at];
        let result = match &asked.ask {
            Ask::Permission { options, .. } => {
                let Some((_, value, _)) = choices(options).into_iter().find(|(letter, ..)| words.starts_with(*letter))
                else {
                    return Heard::default();
                };
                json!({"selectedOption": value})
            }
            Ask::Questions(questions) => {
                if let Some(question) = questions.get(asked.answers.len()) {
                    let chosen = words.trim().parse::<usize>().ok().and_then(|number| number.checked_sub(1));
                    let answer = chosen.and_then(|number| question.options.get(number)).map_or(words, String::as_str);
                    let answer = json!({"index": question.index, "question": question.question, "answer": answer});
                    asked.answers.push(answer);
                }
                if asked.answers.len() < questions.len() {
                    return Heard::event(Event::Asked(question(asked)));
                }
                json!({"cancelled": false, "answers": asked.answers})
            }
            Ask::Other(_) => return Heard::default(),
        };
        let write = rpc::answer(&self.asks.remove(at).call, &result);
        Heard { events: vec![Event::Settled { key: key.to_owned() }], write }
    }

    /// Takes a line of Droid's.
    pub(crate) fn take(&mut self, text: &str) -> Heard {
        let message = rpc::parse(text);
        if self.turn.is_some() {
            self.answer.take(&message);
        }
        match message {
            Message::Answer { call, result } => self.answered(call, result),
            Message::Asked { call, ask } => self.asked(call, ask),
            Message::Resolved { call } => {
                self.asks.retain(|asked| name(&asked.call) != call);
                Heard::event(Event::Settled { key: call })
            }
            Message::User { id, call, text } => {
                let ours = call.and_then(|call| self.pending.remove(&call));
                let ours = if let Some(Call::Message(ours)) = ours { ours } else { None };
                // A message that is given an id a second time opens a turn of that id all the same.
                let turn = ours.clone().unwrap_or(id);
                self.turn = Some(turn.clone());
                self.answer = Answer::default();
                Heard::event(Event::Taken { turn, id: ours, text })
            }
            Message::Delta { text } => Heard::event(Event::Piece(text)),
            Message::TextEnd => Heard::event(Event::PieceEnd),
            Message::Tool { name, input, .. } if input.as_object().is_some_and(|input| !input.is_empty()) => {
                Heard::event(Event::Tool(tool(&name, &input)))
            }
            Message::ToolEnded { failed, text, .. } => {
                Heard::event(Event::ToolEnded { failed, words: line(&text, SHORT) })
            }
            Message::Retry { attempt, reason } => {
                Heard::event(Event::Retry(format!("it asks its model again (attempt {attempt}: {reason})")))
            }
            Message::Error { message, .. } => Heard::event(Event::Remark(message)),
            Message::Remark { text } => Heard::event(Event::Remark(text)),
            Message::Ended { turn, .. } if self.turn.as_ref() != Some(&turn) && self.over.as_ref() == Some(&turn) => {
                // The records were faster; the turn that runs now is another one.
                Heard::default()
            }
            Message::Ended { turn, reason } => {
                let answer = std::mem::take(&mut self.answer);
                self.over();
                Heard::event(Event::Ended { turn, end: answer.end(&reason) })
            }
            Message::Discarded { call } => match call.and_then(|call| self.pending.remove(&call)) {
                Some(Call::Message(id)) => {
                    Heard::event(Event::Refused { id, why: "it was thrown away by an interrupt".into() })
                }
                Some(_) | None => Heard::default(),
            },
            Message::Tool { .. } | Message::State(_) | Message::Agent { .. } | Message::Other => Heard::default(),
        }
    }

    fn answered(&mut self, call: u64, result: Result<Value, String>) -> Heard {
        // A message is answered twice if it is refused, and its turn comes later: it stays pending.
        if result.is_ok() && matches!(self.pending.get(&call), Some(Call::Message(_))) {
            return Heard::default();
        }
        match (self.pending.remove(&call), result) {
            (Some(Call::Begin), Ok(result)) => {
                self.session = Some((text(&result["sessionId"]), false));
                self.settle(&result)
            }
            (Some(Call::Load(session)), Ok(result)) => {
                self.session = Some((session, true));
                self.settle(&result)
            }
            (Some(Call::Load(_)), Err(why)) => {
                let mut heard = Heard::event(Event::Lost { why });
                heard.write = self.begin(None);
                heard
            }
            (Some(Call::Settings), _) => self.ready(),
            (Some(Call::Message(id)), Err(why)) => Heard::event(Event::Refused { id, why }),
            (Some(Call::Begin), Err(why)) => {
                Heard::event(Event::Useless { why: format!("it begins no session: {why}") })
            }
            (Some(Call::Interrupt), Err(why)) => Heard::event(Event::Remark(format!("not interrupted: {why}"))),
            (Some(Call::Message(_) | Call::Interrupt), Ok(_)) | (None, _) => Heard::default(),
        }
    }

    /// There is a session: its autonomy is made what this launch wants.
    fn settle(&mut self, result: &Value) -> Heard {
        let now = text(&result["settings"]["autonomyLevel"]);
        let wanted = if self.auto {
            self.raised = Some(self.restore.clone().unwrap_or_else(|| now.clone()));
            AUTO.to_owned()
        } else {
            self.restore.clone().unwrap_or_else(|| now.clone())
        };
        if wanted == now || wanted.is_empty() {
            return self.ready();
        }
        let write = self.call("update_session_settings", &json!({"autonomyLevel": wanted}), Call::Settings);
        Heard { events: Vec::new(), write }
    }

    fn ready(&self) -> Heard {
        let Some((session, loaded)) = self.session.clone() else { return Heard::default() };
        Heard::event(Event::Ready { session, loaded })
    }

    fn asked(&mut self, call: Value, ask: Ask) -> Heard {
        if let Ask::Other(method) = ask {
            let remark = Event::Remark(format!("Droid asks for `{method}`, which ccb does not know; it was declined"));
            return Heard { events: vec![remark], write: rpc::decline(&call) };
        }
        let asked = Asked { call, ask, answers: Vec::new() };
        let event = Event::Asked(question(&asked));
        self.asks.push(asked);
        Heard::event(event)
    }
}

/// Returns a question as the human sees it.
fn question(asked: &Asked) -> Question {
    let key = name(&asked.call);
    match &asked.ask {
        Ask::Permission { tools, options } => {
            let words = std::iter::once("Droid wants to run:".to_owned()).chain(tools.iter().cloned());
            let choices = choices(options).into_iter().map(|(letter, _, label)| (letter, label));
            Question { key, words: words.collect(), choices: choices.collect() }
        }
        Ask::Questions(questions) => {
            let Some(now) = questions.get(asked.answers.len()) else {
                return Question { key, words: Vec::new(), choices: Vec::new() };
            };
            let options = now.options.iter().enumerate().map(|(at, option)| format!("  {}. {option}", at + 1));
            let words = std::iter::once(format!("Droid asks: {}", now.question)).chain(options);
            Question { key, words: words.collect(), choices: Vec::new() }
        }
        Ask::Other(method) => Question { key, words: vec![method.clone()], choices: Vec::new() },
    }
}

/// Returns the keys for a permission's answers: key, value, words.
fn choices(options: &[(String, String)]) -> Vec<(char, String, String)> {
    let mut digits = '1'..='9';
    let mut taken = Vec::new();
    let key = |(value, label): &(String, String)| {
        let wanted = match value.as_str() {
            "proceed_once" => Some('y'),
            "cancel" => Some('n'),
            value if value.starts_with("proceed_always") => Some('a'),
            _ => None,
        };
        let letter = wanted.filter(|letter| !taken.contains(letter)).or_else(|| digits.next())?;
        taken.push(letter);
        Some((letter, value.clone(), label.clone()))
    };
    options.iter().filter_map(key).collect()
}

fn tool(name: &str, input: &Value) -> String {
    let words = ["command", "file_path", "path", "pattern", "query", "url"].iter().find_map(|key| input[key].as_str());
    let words = words.map_or_else(|| input.to_string(), str::to_owned);
    line(&format!("{name} {words}"), SHORT)
}

fn name(call: &Value) -> String {
    call.as_str().map_or_else(|| call.to_string(), str::to_owned)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccb_core::outcome::TurnEnd;

    fn note(kind: &str, rest: &Value) -> String {
        let mut notification = rest.clone();
        notification["type"] = kind.into();
        json!({"type": "notification", "method": "droid.session_notification", "params": {"notification": notification}})
            .to_string()
    }

    fn result(call: u64, result: &Value) -> String {
        json!({"type": "response", "id": call.to_string(), "result": result}).to_string()
    }

    #[test]
    fn a_session_is_ready_with_the_autonomy_that_this_launch_wants() {
        let table = [(false, None, "off", None), (true, None, "off", Some("high")), (true, None, "high", None)];
        let others = [(false, Some("low"), "high", Some("low")), (true, Some("low"), "high", None)];
        for (auto, restore, now, change) in table.into_iter().chain(others) {
            let mut droid = Droid::new("/p".into(), auto, restore.map(str::to_owned));
            assert!(droid.begin(None).contains("initialize_session"));
            let answer = json!({"sessionId": "s", "settings": {"autonomyLevel": now}});
            let mut heard = droid.take(&result(1, &answer));
            if let Some(level) = change {
                assert!(heard.write.contains(&format!("\"autonomyLevel\":\"{level}\"")), "{heard:?}");
                assert_eq!(heard.events, []);
                heard = droid.take(&result(2, &json!({})));
            }
            assert_eq!(heard, Heard::event(Event::Ready { session: "s".into(), loaded: false }));
            assert_eq!(droid.raised().is_some(), auto);
        }
    }

    #[test]
    fn a_message_is_taken_when_its_turn_begins_and_not_before() {
        let mut droid = Droid::new("/p".into(), false, None);
        assert!(droid.send(Some("r1"), "x").contains("\"messageId\":\"r1\""));
        assert_eq!(droid.take(&result(1, &json!({}))), Heard::default());
        let message = json!({"message": {"id": "r1", "role": "user", "content": [{"type": "text", "text": "x"}]}, "requestId": "1"});
        let taken = Event::Taken { turn: "r1".into(), id: Some("r1".into()), text: "x".into() };
        assert_eq!(droid.take(&note("create_message", &message)), Heard::event(taken));
        let _piece = droid.take(&note("assistant_text_delta", &json!({"textDelta": "ha"})));
        let ended = droid.take(&note("agent_turn_completed", &json!({"turnId": "r1", "reason": "cancelled"})));
        let end = TurnEnd::Interrupted { partial: "ha".into() };
        assert_eq!(ended, Heard::event(Event::Ended { turn: "r1".into(), end }));
        // A human's own message has no id of ours.
        assert!(!droid.send(None, "y").contains("messageId"));
        let refused = r#"{"type":"response","id":"2","error":{"code":-1,"message":"No active session."}}"#;
        assert_eq!(droid.take(&result(2, &json!({}))), Heard::default());
        let why = "No active session.".to_owned();
        assert_eq!(droid.take(refused), Heard::event(Event::Refused { id: None, why }));
    }

    #[test]
    fn the_late_end_of_a_turn_takes_nothing_from_the_next_one() {
        let mut droid = Droid::new("/p".into(), false, None);
        let began = |droid: &mut Droid, id: &str| {
            let _line = droid.send(Some(id), "x");
            let message = json!({"message": {"id": id, "role": "user", "content": "x"}, "requestId": id[1..]});
            let _taken = droid.take(&note("create_message", &message));
        };
        let said = |text: &str| note("assistant_text_delta", &json!({"textDelta": text}));
        let ended = |turn: &str| note("agent_turn_completed", &json!({"turnId": turn, "reason": "cancelled"}));
        began(&mut droid, "r1");
        droid.over();
        began(&mut droid, "r2");
        let _piece = droid.take(&said("first, "));
        assert_eq!(droid.take(&ended("r1")), Heard::default());
        let _piece = droid.take(&said("second"));
        let end = TurnEnd::Interrupted { partial: "first, second".into() };
        assert_eq!(droid.take(&ended("r2")), Heard::event(Event::Ended { turn: "r2".into(), end }));
    }

    #[test]
    fn a_permission_is_answered_by_a_key_and_only_by_one_that_is_offered() {
        let mut droid = Droid::new("/p".into(), false, None);
        let ask = json!({"type": "request", "method": "droid.request_permission", "id": "u", "params": {
            "toolUses": [{"toolUse": {"name": "Execute"}, "details": {"fullCommand": "rm \u{1b}[2J x"}}],
            "options": [{"value": "proceed_once", "label": "Yes"}, {"value": "new", "label": "New"}, {"value": "cancel", "label": "No"}]}});
        let heard = droid.take(&ask.to_string());
        let [Event::Asked(question)] = &heard.events[..] else { panic!("{heard:?}") };
        assert_eq!(question.choices.iter().map(|(key, _)| *key).collect::<String>(), "y1n");
        assert_eq!(droid.reply("u", "x"), Heard::default());
        assert!(droid.reply("u", "n").write.contains("\"selectedOption\":\"cancel\""));
        assert_eq!(droid.reply("u", "n"), Heard::default(), "once");
    }

    #[test]
    fn questions_are_answered_one_after_the_other() {
        let mut droid = Droid::new("/p".into(), false, None);
        let ask = json!({"type": "request", "method": "droid.ask_user", "id": "u", "params": {"questions": [
            {"index": 1, "question": "Which?", "options": ["Red", "Blue"]}, {"index": 2, "question": "Why?", "options": []}]}});
        let _asked = droid.take(&ask.to_string());
        assert!(
            matches!(&droid.reply("u", "2").events[..], [Event::Asked(question)] if question.words == ["Droid asks: Why?"])
        );
        let write = droid.reply("u", "because").write;
        assert!(write.contains(r#""answer":"Blue""#) && write.contains(r#""answer":"because""#), "{write}");
        let other = droid.take(r#"{"type":"request","method":"droid.sing","id":"v"}"#);
        assert!(other.write.contains("error") && other.events.len() == 1);
    }
}
