//! Golden tests: what rollouts of Codex CLI have said, line by line, and what our parser makes of it.
//!
//! `recordings/codex-rollout/<case>/messages.jsonl` holds the lines as they came from 0.169.0 (and, where its name says
//! so, from 0.98.0), without those that say nothing of turns, and without instructions and paths of the recording
//! machine; `expected.txt` beside it what they mean.

use std::fmt::Write as _;
use std::path::Path;

use ccb_core::provider::rollout;

#[test]
fn rollouts_mean_what_is_written_down() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/codex-rollout");
    let mut cases: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 6, "{cases:?}");
    for case in cases {
        let mut means = String::new();
        for line in std::fs::read_to_string(case.join("messages.jsonl")).unwrap().lines() {
            if let Some(meta) = rollout::meta(line) {
                let _ = writeln!(means, "{meta:?}");
            }
            if let Some(call) = rollout::call(line) {
                let _ = writeln!(means, "{call:?}");
            }
            if let Some(seen) = rollout::parse(line) {
                let _ = writeln!(means, "{seen:?}");
            }
        }
        let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
        assert_eq!(means, expected, "{}", case.display());
    }
}
