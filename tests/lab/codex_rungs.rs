//! Codex on its lower rungs: when it falls to them, what its user has to agree to, and older programs.

use std::path::{Path, PathBuf};

use crate::env::claude::outcome;
use crate::env::{Lab, Setup, lab, until, write_program};
use crate::full::REVIEWED;

/// A directory with a `codex` that runs this shell text first, with `$REAL` as the lab's own program.
fn wrapped(text: &str) -> Option<tempfile::TempDir> {
    let own = "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex";
    let real = PathBuf::from(std::env::var_os("CCB_LAB")?).join(own);
    let dir = tempfile::tempdir().unwrap();
    let program = format!("#!/bin/sh\nREAL='{}'\n{text}\nexec \"$REAL\" \"$@\"\n", real.display());
    write_program(&dir.path().join("codex"), &program);
    Some(dir)
}

/// A server that says that it can listen, and dies whenever it is to.
const DIES: &str = "case \"$*\" in *'app-server --listen'*) echo 'the server is out of luck'; exit 7;; esac";

fn first(dir: &Path) -> Setup {
    Setup { first_on_path: Some(dir.to_owned()), ..Setup::default() }
}

#[track_caller]
fn answers(lab: &Lab, text: &str) {
    let answer = lab.ask_json(&format!("ECHO: {text}"));
    assert_eq!(outcome(&answer), "completed", "{answer}");
    assert_eq!(answer["settlement"]["reply"].as_str().map(str::trim), Some(text), "{answer}");
}

#[test]
fn a_codex_whose_server_dies_again_and_again_falls_to_the_next_rung_and_says_why() {
    let Some(dir) = wrapped(DIES) else { return };
    let Some(lab) = lab(first(dir.path())) else { return };
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    assert_eq!(lab.agent()["rung"], "joined");
    let id = lab.submit("ECHO: asked while it fell");
    until("it is driven by what is left", || (lab.agent()["rung"] == "watched").then_some(()));
    let why = lab.agent()["rung_why"].as_str().unwrap().to_owned();
    assert!(why.contains("not joined: its app-server ended 5 times within"), "{why}");
    assert!(why.contains("the server is out of luck"), "{why}");
    assert!(why.contains("not hooked: you have not reviewed ccb's hooks"), "{why}");
    let answer = lab.settled(&id);
    assert_eq!(answer["settlement"]["reply"].as_str().map(str::trim), Some("asked while it fell"), "{answer}");
    assert_eq!(lab.model_saw(&id), 1);
    answers(&lab, "and on it goes");
    // Whoever starts it again has the best one tried anew.
    let real = std::fs::read_to_string(dir.path().join("codex")).unwrap().replace(DIES, "");
    write_program(&dir.path().join("codex"), &real);
    assert_eq!(lab.agent()["rung"], "watched", "what runs stays as it is");
    let _restarted = lab.ccb(&["restart", "codex"]).ok();
    lab.until_idle();
    assert_eq!(lab.agent()["rung"], "joined", "{}", lab.agent());
    answers(&lab, "joined again");
}

#[test]
fn a_forced_rung_is_kept_though_it_is_broken() {
    let Some(dir) = wrapped(DIES) else { return };
    let Some(lab) = lab(first(dir.path())) else { return };
    lab.forces("joined");
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    until("its server is given up more than once", || {
        let log = lab.ccb(&["logs"]).out;
        (log.matches("it stays joined, as it is configured").count() > 1).then_some(())
    });
    assert_eq!(lab.agent()["rung"], "joined", "{}", lab.agent());
}

#[test]
fn a_codex_that_cannot_listen_is_hooked_if_its_user_has_reviewed_our_hooks() {
    let text = "case \"$*\" in *'app-server --help'*) echo 'Usage: codex app-server'; exit 0;; esac";
    let Some(dir) = wrapped(text) else { return };
    let Some(lab) = lab(Setup { config: ("", REVIEWED), ..first(dir.path()) }) else { return };
    lab.start();
    let agent = lab.agent();
    assert_eq!(agent["rung"], "hooked", "{agent}");
    assert!(agent["rung_why"].as_str().unwrap().contains("not joined: its app-server cannot listen"), "{agent}");
    answers(&lab, "hooked");
    // It would be shown as watched if no hook had been heard in that turn.
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
}

#[test]
fn hooks_are_shown_for_review_to_who_asks_for_them_and_wait_for_the_human() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.forces("hooked");
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    let why = lab.until_state("waiting for you");
    assert!(why.contains("a dialog is open"), "{why}");
    let _shown = lab.until_shown("Hooks need review");
    lab.presses("Down");
    let _shown = lab.until_shown("› 2. Trust all");
    lab.presses("Enter");
    lab.until_idle();
    answers(&lab, "reviewed");
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
    // What we look for is what Codex keeps of such a review.
    let kept = std::fs::read_to_string(lab.codex_home().join("config.toml")).unwrap();
    let hashes = REVIEWED.lines().filter(|line| line.starts_with("trusted_hash"));
    assert!(hashes.clone().count() == 4 && hashes.into_iter().all(|hash| kept.contains(hash)), "{kept}");
}

/// Starts an older Codex, whose first questions are answered as its human would.
pub(crate) fn start_older(lab: &Lab) {
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    let _why = lab.until_state("waiting for you");
    let answers =
        [("Press enter to continue", "Enter"), ("› 1. Try new model", "Down"), ("› 2. Use existing model", "Enter")];
    let mut answered = Vec::new();
    until("its first questions are answered", || {
        let screen = lab.screen();
        let asked = answers.iter().filter(|(shown, _)| screen.contains(shown)).find(|asked| !answered.contains(asked));
        if let Some(asked) = asked {
            lab.presses(asked.1);
            answered.push(asked);
        }
        (lab.agent()["state"] == "idle").then_some(())
    });
}

#[test]
fn an_older_codex_is_watched_and_its_dialogs_are_the_humans() {
    let Some(lab) = lab(Setup { older: Some("codex-older"), ..Setup::default() }) else { return };
    start_older(&lab);
    let agent = lab.agent();
    assert_eq!(agent["rung"], "watched", "{agent}");
    let why = agent["rung_why"].as_str().unwrap();
    assert!(
        why.contains("not joined: its app-server cannot listen") && why.contains("not hooked: it takes no"),
        "{why}"
    );
    answers(&lab, "of an older one");
    answers(&lab, "and once more");
}

#[test]
fn an_older_claude_is_hooked() {
    let Some(lab) = lab(Setup { older: Some("claude-older"), ..Setup::claude() }) else { return };
    lab.start();
    let agent = lab.agent();
    assert_eq!(agent["rung"], "hooked", "{agent}");
    assert!(agent["rung_why"].as_str().unwrap().starts_with("the best one for Claude"), "{agent}");
    let _shown = lab.until_shown("Claude Code v2.1.288");
    answers(&lab, "of an older one");
    answers(&lab, "and once more");
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
}
