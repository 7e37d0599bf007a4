//! Claude's turns that end otherwise than with a plain answer, and what only a human can answer.

use std::time::{Duration, Instant};

use crate::env::claude::{completed, outcome};
use crate::env::{Lab, Setup, lab, until, write_program};

/// How long a human looks at a dialog that does not answer to a key.
const A_WHILE: Duration = Duration::from_secs(2);

/// A user who is asked before a tool runs.
const ASKS: &str = r#"{"permissions":{"defaultMode":"default"}}"#;

#[test]
fn a_users_own_stop_hook_that_lets_claude_go_on_is_obeyed() {
    let settings = r#"{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"{world}/block"}]}]}}"#;
    let Some(lab) = lab(Setup { settings, ..Setup::claude() }) else { return };
    let once = "#!/bin/sh\ncd \"${0%/*}\"\n[ ! -e blocked ] || exit 0\n: >blocked\n\
                echo '{\"decision\":\"block\",\"reason\":\"ECHO: the second text\"}'\n";
    write_program(&lab.dir().join("block"), once);
    lab.start();
    completed(&lab.ask_json("ECHO: the first text"), "the second text");
    assert!(lab.dir().join("blocked").exists());
    completed(&lab.ask_json("ECHO: next"), "next");
}

#[test]
fn a_prompt_that_a_users_own_hook_refuses_is_told_and_left_to_the_human() {
    let settings = r#"{"hooks":{"UserPromptSubmit":[{"hooks":[{"type":"command","command":"{world}/refuse"}]}]}}"#;
    let Some(lab) = lab(Setup { settings, ..Setup::claude() }) else { return };
    let refuse = "#!/bin/sh\nif grep -q FORBIDDEN; then echo 'not on my watch' >&2; exit 2; fi\n";
    write_program(&lab.dir().join("refuse"), refuse);
    lab.start();
    let began = Instant::now();
    let answer = lab.ask_json("ECHO: FORBIDDEN words");
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
    assert_eq!(outcome(&answer), "failed/provider", "{answer}");
    let message = answer["settlement"]["outcome"]["message"].as_str().unwrap();
    assert!(message.contains("not on my watch"), "{message}");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("composer"), "{why}");
    let next = lab.submit("ECHO: next");
    lab.until_waits_for(&next, "composer");
    assert!(lab.composer().contains("FORBIDDEN"), "{}", lab.screen());
    lab.clears();
    completed(&lab.settled(&next), "next");
    assert_eq!(lab.model_saw("FORBIDDEN"), 0);
}

#[test]
fn claude_answers_where_the_user_has_switched_all_hooks_off() {
    let Some(lab) = lab(Setup { settings: r#"{"disableAllHooks":true}"#, ..Setup::claude() }) else { return };
    lab.start();
    for number in 0..3 {
        assert_eq!(lab.ask(&format!("ECHO: {number}")).ok(), format!("{number}\n"));
    }
    let agent = lab.agent();
    assert_eq!(agent["rung"], "watched", "{agent}");
    assert!(agent["rung_why"].as_str().unwrap().contains("disableAllHooks"), "{agent}");
    let shown = lab.ccb(&["ps"]).ok();
    assert!(shown.contains("watched"), "{shown}");
}

#[test]
fn errors_of_claudes_provider_have_their_class_and_the_next_ask_works() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let table = [
        ("ERR 429: slow down", "failed/rate-limit"),
        ("ERR 401: who are you", "failed/auth"),
        ("ERR 500: broken", "failed/overloaded"),
        ("ERR 400: something else", "failed/provider"),
        ("SSEERR: failed in the stream", "failed/overloaded"),
    ];
    for (number, (prompt, end)) in table.into_iter().enumerate() {
        let answer = lab.ask_json(prompt);
        assert_eq!(outcome(&answer), end, "{prompt}: {answer}");
        assert!(!answer["settlement"]["outcome"]["message"].as_str().unwrap().is_empty(), "{answer}");
        assert_eq!(lab.ask(&format!("ECHO: next {number}")).ok(), format!("next {number}\n"));
    }
}

#[test]
fn a_claude_whose_connection_is_cut_asks_again_and_answers() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let answer = lab.ask_json("DROP: a text that is cut in the middle of its way");
    completed(&answer, "a text that is cut in the middle of its way");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
}

#[test]
fn a_dialog_in_the_middle_of_our_turn_is_not_its_end() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("AGENT: ECHO: from below");
    let _shown = lab.until_shown("Enter to stay in auto mode");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("dialog open"), "{why}");
    // Longer than an idle Claude's transcript may take.
    let asked = Instant::now();
    until("three seconds have gone by", || (asked.elapsed().as_secs() >= 3).then_some(()));
    assert_eq!(lab.explain(&id)["request"]["state"], "working");
    let _cancelled = lab.begin("ccb", &["cancel", &id], "");
    lab.presses("Escape");
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "cancelled", "{answer}");
}

#[test]
fn a_request_waits_while_claude_asks_the_human_for_a_permission() {
    let Some(lab) = lab(Setup { settings: ASKS, ..Setup::claude() }) else { return };
    lab.start();
    lab.says("TOOL: touch theirs");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("permission") && why.contains("Bash"), "{why}");
    let id = lab.submit("ECHO: after you");
    lab.until_waits_for(&id, "permission");
    let _shown = lab.until_shown("Do you want to");
    assert!(!lab.project().join("theirs").exists());
    lab.confirms("Do you want to");
    completed(&lab.settled(&id), "after you");
    assert!(lab.project().join("theirs").exists());
    assert_eq!(lab.user_messages().len(), 2);
}

#[test]
fn a_permission_that_our_own_turn_wants_is_the_humans_to_give() {
    let Some(lab) = lab(Setup { settings: ASKS, ..Setup::claude() }) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("TOOL: touch ours && echo done");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("permission") && why.contains("Bash"), "{why}");
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown("Do you want to");
    assert!(!lab.project().join("ours").exists());
    lab.confirms("Do you want to");
    completed(&going.end().json(), "TOOLDONE: done");
    lab.until_idle();
}

#[test]
fn a_permission_that_the_human_refuses_ends_our_turn_as_interrupted() {
    let Some(lab) = lab(Setup { settings: ASKS, ..Setup::claude() }) else { return };
    lab.start();
    let (_id, going) = lab.ask_meanwhile("TOOL: touch ours");
    let _why = lab.until_state("waiting for you");
    let _shown = lab.until_shown("Do you want to");
    lab.presses("Escape");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/interrupted", "{answer}");
    assert!(!lab.project().join("ours").exists());
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
}

/// Answers the dialog as a human does: by what is shown, until it has gone. Claude may draw it anew after a key, with
/// its first answer chosen again.
fn trusts_the_folder(lab: &Lab) {
    let mut answered = None;
    until("the dialog is answered", || {
        let screen = lab.screen();
        if answered.as_ref().is_some_and(|(on, at): &(String, Instant)| *on == screen && at.elapsed() < A_WHILE) {
            return None;
        }
        if screen.contains("❯ No, exit") {
            lab.presses("Down");
        } else if screen.contains("❯ Yes, I trust this folder") {
            lab.presses("Enter");
        } else {
            return (!screen.contains("trust this folder")).then_some(());
        }
        answered = Some((screen, Instant::now()));
        None
    });
}

#[test]
fn a_claude_that_is_not_told_to_trust_the_project_waits_for_the_human() {
    let Some(lab) = lab(Setup { trusted: false, ..Setup::claude() }) else { return };
    let _started = lab.ccb(&["--detach", "claude"]).ok();
    let why = lab.until_state("waiting for you");
    assert!(why.contains("dialog"), "{why}");
    let id = lab.submit("ECHO: trusted now");
    lab.until_waits_for(&id, "dialog");
    let screen = lab.until_shown("trust this folder");
    assert!(screen.contains("❯ No, exit"), "{screen}");
    let state = std::fs::read_to_string(lab.home().join(".claude.json")).unwrap();
    assert!(!state.contains("\"hasTrustDialogAccepted\":true"), "{state}");
    trusts_the_folder(&lab);
    completed(&lab.settled(&id), "trusted now");
}

#[test]
fn a_request_to_claude_that_is_cancelled_in_mid_answer_is_stopped_there() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("SLEEP 40: never whole and never more than a part of it");
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown("never whole");
    let _cancelled = lab.ccb(&["cancel", &id]).ok();
    let run = going.end();
    run.says(2, &[]);
    let answer = run.json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "cancelled", "{answer}");
    let _shown = lab.until_shown("Interrupted");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
    assert_eq!(lab.consumed(&id), 1);
}

#[test]
fn a_request_to_claude_that_is_cancelled_before_any_answer_is_taken_out_of_the_composer_again() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("HANG 40: never");
    let _working = lab.until_request(&id, "working");
    let _cancelled = lab.ccb(&["cancel", &id]).ok();
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "cancelled", "{answer}");
    // Claude has put the prompt back; nobody has to clear it away for the next one.
    completed(&lab.settled(&lab.submit("ECHO: next")), "next");
    assert_eq!((lab.consumed(&id), lab.model_saw("HANG 40")), (1, 1));
}

#[test]
fn a_command_that_runs_on_in_the_background_keeps_nobody_from_asking() {
    let settings = r#"{"permissions":{"defaultMode":"default","allow":["Bash"]}}"#;
    let Some(lab) = lab(Setup { settings, ..Setup::claude() }) else { return };
    lab.start();
    let tool = r#"RAWTOOL: Bash {"command":"tail -f /dev/null","description":"x","run_in_background":true}"#;
    let answer = lab.ask_json(tool);
    assert_eq!(outcome(&answer), "completed", "{answer}");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
    lab.until_idle();
}

#[test]
fn a_late_answer_of_claude_is_attached() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let run = lab.run("ask", &["claude", "-t", "4", "--json"], "SLEEP 8: late but true");
    run.says(2, &[]);
    let answer = run.json();
    assert_eq!(outcome(&answer), "incomplete/deadline", "{answer}");
    let id = answer["id"].as_str().unwrap();
    until("the late answer is attached", || {
        (lab.explain(id)["request"]["settlement"]["late"]["reply"] == "late but true").then_some(())
    });
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
    assert_eq!(lab.consumed(id), 1);
}

#[test]
fn a_limit_that_is_used_up_is_told_with_its_end_by_claude() {
    // Only to a subscriber does Claude tell it.
    let environment = vec![("ANTHROPIC_AUTH_TOKEN", ""), ("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-fake")];
    let Some(lab) = lab(Setup { environment, ..Setup::claude() }) else { return };
    lab.start();
    lab.tells_the_limit(|| {
        let why = lab.until_state("waiting for you");
        assert!(why.contains("quota used up") && why.contains("2100"), "{why}");
        lab.confirms("Stop and wait for limit to reset");
    });
}
