//! Golden tests: what real agents have said, line by line, and what our parsers make of it.
//!
//! `recordings/<provider>/<case>/messages.jsonl` holds the lines as they came (Codex CLI 0.169.0's app-server, with
//! the recording machine's paths taken out), `expected.txt` beside it what they mean. To record a new case, write
//! its lines, run the test, read what it prints, and keep that. Claude Code 2.1.330's are transcripts, without the lines
//! that say nothing of the conversation and without what its attachments hold.

#![expect(clippy::unwrap_used, reason = "all of this file is a test, its helpers too")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ccb_core::id::RequestId;
use ccb_core::prompt;
use ccb_core::provider::claude::conversation::Conversation;
use ccb_core::provider::codex_rpc::{Message, Status, TurnRecord, parse, status, turn_record};

fn cases(provider: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(provider);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn turn(turn: &TurnRecord) -> String {
    let clients: Vec<&str> = turn.clients.iter().map(|client| client.as_deref().unwrap_or("nobody")).collect();
    format!("{} of [{}]: {:?}", turn.id, clients.join(", "), turn.end)
}

/// Returns the meaning of one line in a line or more; nothing if it has none for us.
fn meaning(line: &str) -> String {
    match parse(line) {
        Message::Answer { call, result: Ok(result) } => {
            let mut text = format!("answer {call}\n");
            if let Some(thread) = result.get("thread") {
                let _ = writeln!(text, "  thread is {:?}", status(&thread["status"]));
            }
            if let Some(begun) = result["turn"]["id"].as_str() {
                let _ = writeln!(text, "  turn {begun}");
            }
            for record in result["data"].as_array().into_iter().flatten().filter_map(turn_record) {
                let _ = writeln!(text, "  turn {}", turn(&record));
            }
            text
        }
        Message::Answer { call, result: Err(message) } => format!("answer {call}: error: {message}\n"),
        Message::Status { status: Status::Waiting(flags), .. } => format!("status: waiting ({flags})\n"),
        Message::Status { status, .. } => format!("status: {status:?}\n"),
        Message::TurnBegan { turn, .. } => format!("turn {turn} began\n"),
        Message::User { turn, client, .. } => {
            format!("user message of {} in {turn}\n", client.as_deref().unwrap_or("nobody"))
        }
        Message::Agent { turn, text, .. } => format!("agent in {turn}: {text:?}\n"),
        Message::TurnEnded { turn: record, .. } => format!("ended: turn {}\n", turn(&record)),
        Message::Opened { thread } => format!("the TUI opened {thread}\n"),
        Message::Asked { method, .. } => format!("asks: {method}\n"),
        Message::Account => "account\n".to_owned(),
        Message::Other => String::new(),
    }
}

#[test]
fn recordings_of_codex_mean_what_they_meant() {
    let cases = cases("codex");
    assert!(cases.len() >= 5, "{cases:?}");
    for case in cases {
        let lines = std::fs::read_to_string(case.join("messages.jsonl")).unwrap();
        let found: String = lines.lines().map(meaning).collect();
        let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
        assert_eq!(found, expected, "\n{} means now:\n{found}", case.display());
    }
}

#[test]
fn torn_and_repeated_lines_of_a_recording_do_no_harm() {
    for case in cases("codex") {
        let lines = std::fs::read_to_string(case.join("messages.jsonl")).unwrap();
        for line in lines.lines() {
            assert_eq!(parse(line), parse(line));
            for cut in (0..line.len()).step_by(97).filter(|cut| line.is_char_boundary(*cut)) {
                assert_eq!(parse(&line[..cut]), Message::Other, "{}", &line[..cut]);
            }
        }
    }
}

/// Returns what a transcript says, line by line, of the delivery that its first prompt is.
fn story(lines: &str) -> String {
    let at = lines.find(prompt::ANCHOR).unwrap() + prompt::ANCHOR.len();
    let id = lines[at..].split(['\\', '"']).next().unwrap().trim();
    let mut conversation = Conversation::new(RequestId::new(id).unwrap(), None);
    let (mut text, mut before) = (String::new(), String::new());
    for (number, line) in (1..).zip(lines.lines()) {
        conversation.take(line);
        let mut now = match (conversation.turn(), conversation.rejection()) {
            (None, None) => "not seen".to_owned(),
            (None, Some(rejection)) => format!("rejected: {}", rejection.reason),
            (Some(turn), _) => format!("in {turn}, ended: {:?}", conversation.mark()),
        };
        now += if conversation.is_mixed() { ", mixed" } else { "" };
        now += if conversation.is_followed() { ", followed" } else { "" };
        if now != before {
            let _ = writeln!(text, "{number}: {now}");
            before = now;
        }
    }
    if conversation.turn().is_some() {
        let _ = writeln!(text, "{:?}", conversation.end());
    }
    text
}

#[test]
fn recordings_of_claude_mean_what_they_meant() {
    let cases = cases("claude");
    assert!(cases.len() >= 5, "{cases:?}");
    for case in cases {
        let lines = std::fs::read_to_string(case.join("messages.jsonl")).unwrap();
        let found = story(&lines);
        let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
        assert_eq!(found, expected, "\n{} means now:\n{found}", case.display());
    }
}
