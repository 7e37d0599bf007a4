//! The human at the TUI comes first.

use crate::env::{Lab, Setup, lab, until};

/// Types a line into the TUI and enters it, as a human does: not faster than it is shown.
fn enters(lab: &Lab, text: &str) {
    lab.types(text);
    let _shown = lab.until_shown(text);
    lab.presses("Enter");
}

/// Starts Codex and waits until its TUI is there to be typed into.
fn starts(lab: &Lab) {
    lab.start();
    let _shown = lab.until_shown("gpt-5.1-codex default");
}

#[test]
fn half_typed_text_survives_ten_requests_untouched() {
    let Some(lab) = lab(Setup::default()) else { return };
    starts(&lab);
    let draft = "ECHO: half a thought";
    lab.types(draft);
    let _shown = lab.until_shown(draft);
    for number in 0..10 {
        assert_eq!(lab.ask(&format!("ECHO: answer {number}")).ok(), format!("answer {number}\n"));
        assert!(lab.screen().contains(draft), "{}", lab.screen());
    }
    let _shown = lab.until_shown("answer 9");
    assert_eq!(lab.model_saw(draft), 0);
    lab.types(" finished");
    lab.presses("Enter");
    until("the human's own turn has its words alone", || {
        let messages = lab.user_messages();
        messages.iter().any(|(_, text)| text == "ECHO: half a thought finished").then_some(())
    });
    assert_eq!(lab.user_messages().len(), 11);
}

#[test]
fn a_humans_own_turn_is_not_cut_and_the_request_waits_and_says_why() {
    let Some(lab) = lab(Setup::default()) else { return };
    starts(&lab);
    enters(&lab, "SLEEP 3: all of what the human wanted");
    assert!(lab.until_state("busy").contains("human"), "{}", lab.agent());
    let (id, going) = lab.ask_meanwhile("ECHO: after you");
    let explanation = lab.explain(&id);
    let why = explanation["request"]["why"].as_str().unwrap();
    assert!(explanation["request"]["state"] == "queued" && why.contains("human's own"), "{explanation}");
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["reply"], "after you");
    assert_eq!(answer["settlement"]["outcome"]["word"], "completed");
    let screen = lab.until_shown("after you");
    assert!(screen.contains("• all of what the human wanted"), "{screen}");
    let log = std::fs::read_to_string(lab.dir().join("model.jsonl")).unwrap();
    assert!(!log.contains("client_gone"), "{log}");
}

#[test]
fn a_human_who_enters_in_the_window_is_told_of_and_the_answer_is_not_passed_off_as_ours() {
    let environment = vec![("CCB_FAILPOINT", "codex.before-start=wait:{world}/go")];
    let Some(lab) = lab(Setup { environment, ..Setup::default() }) else { return };
    starts(&lab);
    let theirs = "SLEEP 5: for the human";
    lab.types(theirs);
    let _shown = lab.until_shown(theirs);
    let (id, going) = lab.ask_meanwhile("ECHO: for the asker");
    until("askd has decided to start", || lab.dir().join("go.reached").exists().then_some(()));
    lab.presses("Enter");
    until("the human's turn runs", || (lab.model_saw(theirs) == 1).then_some(()));
    std::fs::write(lab.dir().join("go"), "").unwrap();
    let run = going.end();
    run.says(2, &[]);
    let answer = run.json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "incomplete", "{answer}");
    assert_eq!(answer["settlement"]["outcome"]["reason"], "mixed", "{answer}");
    let text = lab.ccb(&["explain", &id]).ok();
    assert!(text.contains("a human's input ran in the same turn"), "{text}");
    assert_eq!(lab.consumed(&id), 1);
    assert_eq!(lab.ask("ECHO: alone again").ok(), "alone again\n");
}

#[test]
fn a_humans_escape_ends_the_request_as_interrupted() {
    let Some(lab) = lab(Setup::default()) else { return };
    starts(&lab);
    let (_id, going) = lab.ask_meanwhile("HANG 30: never whole");
    let _shown = lab.until_shown("Working");
    lab.presses("Escape");
    let run = going.end();
    run.says(2, &[]);
    assert_eq!(run.json()["settlement"]["outcome"]["reason"], "interrupted");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
}

#[test]
fn a_request_in_a_humans_turn_is_found_there_after_askds_death_and_not_sent_again() {
    let environment = vec![("CCB_FAILPOINT", "codex.before-start=wait:{world}/go")];
    let Some(lab) = lab(Setup { environment, ..Setup::default() }) else { return };
    starts(&lab);
    let theirs = "SLEEP 5: for the human";
    lab.types(theirs);
    let _shown = lab.until_shown(theirs);
    let (id, going) = lab.ask_meanwhile("SLEEP 3: for the asker");
    until("askd has decided to start", || lab.dir().join("go.reached").exists().then_some(()));
    lab.presses("Enter");
    until("the human's turn runs", || (lab.model_saw(theirs) == 1).then_some(()));
    std::fs::write(lab.dir().join("go"), "").unwrap();
    until("it was taken into the human's turn", || (lab.consumed(&id) == 1).then_some(()));
    crate::env::kill(u32::try_from(lab.status()["pid"].as_u64().unwrap()).unwrap());
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["reason"], "mixed", "{answer}");
    assert_eq!(answer["settlement"]["reply"], "for the asker", "{answer}");
    assert_eq!(lab.ask("ECHO: alone again").ok(), "alone again\n");
    assert_eq!((lab.consumed(&id), lab.model_saw(&id)), (1, 1));
}

#[test]
fn a_human_who_steers_our_turn_is_told_of_too() {
    let Some(lab) = lab(Setup::default()) else { return };
    starts(&lab);
    let (id, going) = lab.ask_meanwhile("HANG 4: for the asker");
    until("the model answers", || (lab.model_saw(&id) == 1).then_some(()));
    let _shown = lab.until_shown("Working");
    enters(&lab, "ECHO: for the human");
    let run = going.end();
    run.says(2, &[]);
    let answer = run.json();
    assert_eq!(answer["settlement"]["outcome"]["reason"], "mixed", "{answer}");
    assert_eq!(lab.ask("ECHO: alone again").ok(), "alone again\n");
}

#[test]
fn a_humans_turn_that_began_while_askd_stood_still_is_not_cut() {
    let Some(lab) = lab(Setup::default()) else { return };
    starts(&lab);
    let worker = lab.status()["pid"].as_u64().unwrap();
    let worker = rustix::process::Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
    lab.types("SLEEP 3: all of what the human wanted");
    let _shown = lab.until_shown("all of what the human wanted");
    let socket = lab.status()["attach"]["socket"].as_str().unwrap().to_owned();
    rustix::process::kill_process(worker, rustix::process::Signal::STOP).unwrap();
    let _pressed = lab.run("tmux", &["-S", &socket, "send-keys", "-t", "ccb:", "Enter"], "").ok();
    let going = lab.begin("ask", &["codex", "-t", "120", "--json"], "ECHO: after you");
    until("the human's turn runs", || (lab.model_saw("SLEEP 3") == 1).then_some(()));
    rustix::process::kill_process(worker, rustix::process::Signal::CONT).unwrap();
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "completed", "{answer}");
    assert_eq!(answer["settlement"]["reply"], "after you");
    let screen = lab.until_shown("after you");
    assert!(screen.contains("• all of what the human wanted"), "{screen}");
}

#[test]
fn a_human_who_quits_the_tui_ends_the_agent_and_every_asker_learns_it() {
    let Some(lab) = lab(Setup::default()) else { return };
    starts(&lab);
    let (id, going) = lab.ask_meanwhile("HANG 30: never");
    until("the model is asked", || (lab.model_saw(&id) == 1).then_some(()));
    let next = lab.submit("ECHO: later");
    let _shown = lab.until_shown("Working");
    enters(&lab, "/quit");
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["reason"], "agent-gone", "{answer}");
    let why = lab.until_state("not running");
    assert!(why.contains("ccb"), "{why}");
    assert_eq!(lab.explain(&next)["request"]["state"], "queued");
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    assert_eq!(lab.settled(&next)["settlement"]["reply"], "later");
}

#[test]
fn requests_follow_the_human_into_a_new_conversation() {
    let Some(lab) = lab(Setup::default()) else { return };
    starts(&lab);
    assert_eq!(lab.ask("ECHO: in the old one").ok(), "in the old one\n");
    let _shown = lab.until_shown("• in the old one");
    enters(&lab, "/new");
    until("the old conversation is not shown any more", || (!lab.screen().contains("• in the old")).then_some(()));
    assert_eq!(lab.ask("ECHO: in the new one").ok(), "in the new one\n");
    let _shown = lab.until_shown("• in the new one");
    lab.kill(lab.process("--remote"));
    assert_eq!(lab.ask("ECHO: once more").ok(), "once more\n");
    assert!(lab.until_shown("• once more").contains("• in the new one"));
    lab.kill(lab.process("app-server"));
    lab.kill(u32::try_from(lab.status()["pid"].as_u64().unwrap()).unwrap());
    assert_eq!(lab.ask("ECHO: still there").ok(), "still there\n");
    assert!(lab.until_shown("• still there").contains("• in the new one"));
}

#[test]
fn a_conversation_that_its_human_compacts_is_gone_on_with() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: before").ok(), "before\n");
    let _shown = lab.until_shown("before");
    enters(&lab, "/compact");
    assert_eq!(lab.ask("ECHO: right behind").ok(), "right behind\n");
    let _shown = lab.until_shown("Context compacted");
    let (id, going) = lab.ask_meanwhile("SLEEP 6: one two three four");
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown("• one");
    enters(&lab, "/compact");
    let _refused = lab.until_shown("'/compact' is disabled while a task is in progress");
    assert_eq!(going.end().json()["settlement"]["reply"], "one two three four");
    assert_eq!(lab.ask("ECHO: and on").ok(), "and on\n");
    assert_eq!(lab.model_saw(&id), 1);
}
