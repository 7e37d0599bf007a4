//! Golden tests: what a real Droid 0.215.0 has said over stream JSON-RPC and written into its transcript.
//!
//! `recordings/droid/<case>/messages.jsonl` holds the lines of `droid exec` as they came, without token counts, models and
//! the recording machine's paths; `transcript.jsonl` those of a session's file; `expected.txt` what they mean. To record
//! a new case, write its lines, run the test, read what it prints, and keep that.

#![expect(clippy::unwrap_used, reason = "all of this file is a test, its helpers too")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ccb_core::provider::droid::transcript::{Record, Turns};
use ccb_core::provider::droid::{Answer, Ask, Message, parse};

fn cases(file: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/droid");
    let cases = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = cases.filter(|case| case.join(file).exists()).collect();
    cases.sort();
    cases
}

fn short(text: &str) -> String {
    text.chars().take(90).collect()
}

/// Returns the meaning of a message in a line; nothing if it has none for us.
fn meaning(message: &Message, answer: &Answer) -> String {
    match message {
        Message::Answer { call, result: Ok(_) } => format!("answer {call}\n"),
        Message::Answer { call, result: Err(message) } => format!("answer {call}: error: {message}\n"),
        Message::Asked { ask: Ask::Permission { tools, options }, .. } => {
            let options: Vec<&str> = options.iter().map(|(value, _)| value.as_str()).collect();
            format!("asks whether {tools:?} may run: {options:?}\n")
        }
        Message::Asked { ask, .. } => format!("asks: {ask:?}\n"),
        Message::Resolved { .. } => "resolved\n".to_owned(),
        Message::State(state) => format!("{state:?}\n"),
        Message::User { id, call, text } => format!("turn {id} of call {call:?}: {:?}\n", short(text)),
        Message::Agent { text } => format!("agent: {:?}\n", short(text)),
        Message::Remark { text } => format!("remark: {:?}\n", short(text)),
        Message::Delta { text } => format!("+ {:?}\n", short(text)),
        Message::TextEnd => "text ends\n".to_owned(),
        Message::Tool { name, input, .. } => format!("tool {name} {input}\n"),
        Message::ToolEnded { failed, text, .. } => format!("tool ended ({failed}): {:?}\n", short(text)),
        Message::Retry { attempt, reason } => format!("retry {attempt}: {reason}\n"),
        Message::Error { message, name } => format!("error {name}: {:?}\n", short(message)),
        Message::Ended { turn, reason } => format!("turn {turn} ended ({reason}): {:?}\n", answer.end(reason)),
        Message::Discarded { call } => format!("call {call:?} discarded\n"),
        Message::Other => String::new(),
    }
}

fn story(lines: &str) -> String {
    let (mut text, mut answer) = (String::new(), Answer::default());
    for line in lines.lines() {
        let message = parse(line);
        if matches!(message, Message::User { .. }) {
            answer = Answer::default();
        }
        answer.take(&message);
        text.push_str(&meaning(&message, &answer));
    }
    text
}

#[track_caller]
fn compare(case: &Path, found: &str) {
    let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
    assert_eq!(found, expected, "\n{} means now:\n{found}", case.display());
}

#[test]
fn recordings_of_droid_mean_what_they_meant() {
    let cases = cases("messages.jsonl");
    assert!(cases.len() >= 10, "{cases:?}");
    for case in cases {
        compare(&case, &story(&std::fs::read_to_string(case.join("messages.jsonl")).unwrap()));
    }
}

#[test]
fn transcripts_of_droid_mean_what_they_meant() {
    let cases = cases("transcript.jsonl");
    assert!(cases.len() >= 3, "{cases:?}");
    for case in cases {
        let (mut turns, mut text) = (Turns::default(), String::new());
        let mut opened = Vec::new();
        for line in std::fs::read_to_string(case.join("transcript.jsonl")).unwrap().lines() {
            match turns.take(line) {
                Record::User { id, text: words } => {
                    let _ = writeln!(text, "turn {id}: {:?}", short(&words));
                    opened.push(id);
                }
                Record::Part => text.push_str("…\n"),
                Record::Ended { turn, end } => {
                    let _ = writeln!(text, "turn {turn} ended: {end:?}");
                }
                Record::Other => {}
            }
        }
        for id in opened.iter().filter(|id| turns.end(id) == Some(None)) {
            let _ = writeln!(text, "turn {id} has no end");
        }
        compare(&case, &text);
    }
}

#[test]
fn torn_lines_of_a_recording_do_no_harm() {
    for case in cases("messages.jsonl") {
        for line in std::fs::read_to_string(case.join("messages.jsonl")).unwrap().lines() {
            for cut in (0..line.len()).step_by(97).filter(|cut| line.is_char_boundary(*cut)) {
                assert_eq!(parse(&line[..cut]), Message::Other, "{}", &line[..cut]);
            }
        }
    }
}
