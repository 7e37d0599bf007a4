//! Golden tests: what OpenCode 1.18.33 has said, event by event, and what our parser makes of it.
//!
//! `recordings/opencode/<case>/messages.jsonl` holds the events of `GET /event` as they came, without those that say
//! nothing of the conversation and without the recording machine's paths; ids of our messages have the form that they
//! have now. `expected.txt` beside it holds what they mean, and in which turns the history ends that they make.

#![expect(clippy::unwrap_used, reason = "all of this file is a test, its helpers too")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ccb_core::id::RequestId;
use ccb_core::provider::opencode::{Event, Record, message_id, parse, record, request_of, turns};
use serde_json::{Value, json};

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/opencode");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// Returns the meaning of one event; nothing if it has none for us.
fn meaning(line: &str) -> String {
    match parse(line) {
        Event::User { message, .. } => {
            let of = request_of(&message).map_or_else(|| "nobody".to_owned(), |id| id.to_string());
            format!("input of {of}: {message}\n")
        }
        Event::Step { parent, last, .. } => format!("step for {parent}{}\n", if last { ", the last" } else { "" }),
        Event::Status { status, .. } => format!("status: {status:?}\n"),
        Event::Asked { what, .. } => format!("{what}\n"),
        Event::Answered { .. } => "answered\n".to_owned(),
        Event::Error { end, .. } => format!("error: {end:?}\n"),
        Event::Created { parent, .. } => format!("session made, from {parent:?}\n"),
        Event::Other => String::new(),
    }
}

/// Puts the history together that the events of a session make: the one of its first message.
fn history(lines: &str) -> Vec<Record> {
    let mut messages: Vec<Value> = Vec::new();
    let mut session = Value::Null;
    for event in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let properties = &event["properties"];
        if event["type"] == "message.updated" {
            let info = &properties["info"];
            if session.is_null() {
                session = info["sessionID"].clone();
            }
            match messages.iter_mut().find(|message| message["info"]["id"] == info["id"]) {
                Some(known) => known["info"] = info.clone(),
                None if info["sessionID"] == session => messages.push(json!({"info": info, "parts": []})),
                None => {}
            }
        }
        if event["type"] == "message.part.updated" {
            let part = &properties["part"];
            let Some(message) = messages.iter_mut().find(|message| message["info"]["id"] == part["messageID"]) else {
                continue;
            };
            let parts = message["parts"].as_array_mut().unwrap();
            match parts.iter_mut().find(|known| known["id"] == part["id"]) {
                Some(known) => *known = part.clone(),
                None => parts.push(part.clone()),
            }
        }
    }
    messages.iter().filter_map(record).collect()
}

#[test]
fn recordings_of_opencode_mean_what_they_meant() {
    let cases = cases();
    assert!(cases.len() >= 5, "{cases:?}");
    for case in cases {
        let lines = std::fs::read_to_string(case.join("messages.jsonl")).unwrap();
        let mut found: String = lines.lines().map(meaning).collect();
        for turn in turns(&history(&lines)) {
            let _ = write!(found, "turn of {:?}", turn.inputs);
            let _ = write!(
                found,
                "{}{}",
                if turn.mixed { ", mixed" } else { "" },
                if turn.over { "" } else { ", if no more comes" }
            );
            let _ = writeln!(found, ": {:?}", turn.end);
        }
        let file = case.join("expected.txt");
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(found, expected, "\n{} means now:\n{found}", case.display());
    }
}

#[test]
fn torn_and_repeated_events_do_no_harm() {
    for case in cases() {
        let lines = std::fs::read_to_string(case.join("messages.jsonl")).unwrap();
        for line in lines.lines() {
            for cut in (0..line.len()).step_by(97).filter(|cut| line.is_char_boundary(*cut)) {
                assert_eq!(parse(&line[..cut]), Event::Other, "{}", &line[..cut]);
            }
        }
    }
}

#[test]
fn a_request_is_read_from_the_id_of_its_message() {
    let id = RequestId::new("20261122-205301-123-4711-1").unwrap();
    // The time that OpenCode gave to one of its own messages of that moment.
    let message = message_id(&id, 1_795_421_339_711, None);
    assert_eq!(message, "msg_20773803f001ccb20261122-205301-123-4711-1");
    assert_eq!(request_of(&message), Some(id));
    for other in [
        "msg_207737fd9001CoGKdyk3BrcOVT",
        "msg_",
        "msg_207737fbf001",
        "ccb",
        "msg_207737fbf001ccb",
        "msg_zzzzzzzzzzzzccbr1",
    ] {
        assert_eq!(request_of(other), None, "{other}");
    }
    let at = |millis, newest: Option<&str>| message_id(&RequestId::new("a").unwrap(), millis, newest);
    assert!(at(1, None) < at(2, None));
    // A clock that was set back puts it behind what is there all the same; what is older, or none of theirs, is no matter.
    let newest = at(5000, None);
    assert!(at(1000, Some(&newest)) > newest);
    assert_eq!(at(9000, Some(&newest)), at(9000, None));
    assert_eq!(at(1, Some("msg_short")), at(1, None));
}
