//! Golden tests: what Gemini CLI 0.61.0 has written of its turns, line by line, and what our reader makes of it.
//!
//! `recordings/gemini/<case>/messages.jsonl` holds lines of a transcript as they came, with the recording machine's
//! paths, repeated histories (`$set`) and what tools have shown taken out; `expected.txt` beside it what they mean.

#![expect(clippy::unwrap_used, reason = "all of this file is a test, its helpers too")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ccb_core::provider::gemini::{Reader, record};

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/gemini");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// Returns what a transcript says, by the number of the line that says it.
fn story(lines: &str) -> String {
    let (mut reader, mut text, mut whole) = (Reader::default(), String::new(), false);
    for (number, line) in (1..).zip(lines.lines()) {
        for told in reader.take(line) {
            let _ = writeln!(text, "{number}: {told:?}");
        }
        if reader.is_open() && reader.is_whole() != whole {
            whole = reader.is_whole();
            let _ = writeln!(text, "{number}: {}", if whole { "looks whole" } else { "goes on" });
        }
    }
    if let Some(end) = reader.close() {
        let _ = writeln!(text, "told that it is over: {end:?}");
    }
    text
}

#[test]
fn recordings_of_gemini_mean_what_they_meant() {
    let cases = cases();
    assert!(cases.len() >= 12, "{cases:?}");
    for case in cases {
        let lines = std::fs::read_to_string(case.join("messages.jsonl")).unwrap();
        let found = story(&lines);
        let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
        assert_eq!(found, expected, "\n{} means now:\n{found}", case.display());
    }
}

#[test]
fn torn_lines_of_a_recording_say_nothing() {
    for case in cases() {
        let lines = std::fs::read_to_string(case.join("messages.jsonl")).unwrap();
        for line in lines.lines() {
            for cut in (0..line.len()).step_by(53).filter(|cut| line.is_char_boundary(*cut)) {
                assert_eq!(record(&line[..cut]), None, "{}", &line[..cut]);
            }
        }
    }
}
