//! What only a human can answer is left to the human, and said.

use crate::env::{Setup, lab, until};

/// A tool call for which Codex asks, wherever it may ask at all.
const ESCALATED: &str =
    r#"RAWTOOL: exec_command {"cmd":"touch made","sandbox_permissions":"require_escalated","justification":"a test"}"#;

#[test]
fn a_codex_without_a_login_waits_for_the_human_and_says_so() {
    let Some(lab) = lab(Setup { provider: false, ..Setup::default() }) else { return };
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    let why = lab.until_state("waiting for you");
    assert!(why.contains("not logged in") && why.contains("codex login"), "{why}");
    let _shown = lab.until_shown("Sign in with ChatGPT");
    let id = lab.submit("ECHO: too early");
    let explanation = lab.explain(&id);
    assert_eq!(explanation["request"]["state"], "queued", "{explanation}");
    assert!(explanation["request"]["why"].as_str().unwrap().contains("not logged in"), "{explanation}");
    let _cancelled = lab.ccb(&["cancel", &id]).ok();
    assert_eq!(lab.settled(&id)["attempts"], 0);
}

#[test]
fn an_untrusted_repository_shows_no_dialog_in_a_joined_tui_and_is_not_made_a_trusted_one() {
    let Some(lab) = lab(Setup::default()) else { return };
    let _made = lab.run("git", &["init", "-q"], "").ok();
    lab.start();
    assert_eq!(lab.ask("ECHO: in a repository").ok(), "in a repository\n");
    let screen = lab.until_shown("in a repository");
    assert!(!screen.contains("Trust"), "{screen}");
    let config = std::fs::read_to_string(lab.codex_home().join("config.toml")).unwrap();
    assert!(!config.contains("trust_level"), "{config}");
}

#[test]
fn hooks_that_await_a_review_hold_no_request_up_and_are_not_trusted_by_us() {
    let hooks = "[[hooks.Stop]]\n[[hooks.Stop.hooks]]\ntype = \"command\"\ncommand = \"touch hooked\"\n";
    let Some(lab) = lab(Setup { config: ("", hooks), ..Setup::default() }) else { return };
    lab.start();
    let _shown = lab.until_shown("Hooks need review");
    assert_eq!(lab.ask("ECHO: behind the dialog").ok(), "behind the dialog\n");
    assert!(!lab.project().join("hooked").exists());
    lab.presses("Escape");
    let _shown = lab.until_shown("behind the dialog");
}

#[test]
fn an_approval_is_shown_as_waiting_for_you_and_the_human_gives_it_in_the_tui() {
    let config = ("approval_policy = \"on-request\"\nsandbox_mode = \"read-only\"\n", "");
    let Some(lab) = lab(Setup { config, ..Setup::default() }) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile(ESCALATED);
    let why = lab.until_state("waiting for you");
    assert!(why.contains("waitingOnApproval"), "{why}");
    assert_eq!(lab.explain(&id)["request"]["state"], "working");
    let _shown = lab.until_shown("touch made");
    assert!(!lab.project().join("made").exists());
    lab.presses("Enter");
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "completed", "{answer}");
    assert!(answer["settlement"]["reply"].as_str().unwrap().starts_with("TOOLDONE"), "{answer}");
    assert!(lab.project().join("made").exists());
    lab.until_idle();
}

#[test]
fn auto_approval_is_for_one_launch_and_writes_nothing() {
    let Some(lab) = lab(Setup::default()) else { return };
    let _made = lab.run("git", &["init", "-q"], "").ok();
    let _started = lab.ccb(&["--detach", "-a", "codex"]).ok();
    lab.until_idle();
    let answer = lab.ask_json("TOOL: touch made");
    assert_eq!(answer["settlement"]["outcome"]["word"], "completed", "{answer}");
    assert!(lab.project().join("made").exists(), "{answer}");
    let config = std::fs::read_to_string(lab.codex_home().join("config.toml")).unwrap();
    assert!(!config.contains("approval") && !config.contains("sandbox") && !config.contains("trust"), "{config}");
}

#[test]
fn a_configuration_that_codex_refuses_is_told_in_its_own_words() {
    let config = ("approval_policy = \"untrusted\"\n", "");
    let Some(lab) = lab(Setup { config, ..Setup::default() }) else { return };
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    until("the cause is shown", || {
        let agent = lab.agent();
        agent["last_error"].as_str().unwrap_or_default().contains("no longer supported").then_some(())
    });
}
