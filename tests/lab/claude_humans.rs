//! The human at Claude's TUI comes first: nothing of theirs is submitted, lost, or passed off as our answer.

use crate::env::claude::{completed, outcome};
use crate::env::{Lab, Setup, lab, until};

/// Lets askd go on at the edge where it waits.
fn go(lab: &Lab) {
    std::fs::write(lab.dir().join("go"), "").unwrap();
}

/// Starts a world in which askd waits at an edge of the first delivery, and asks.
fn waiting_at(edge: &'static str, message: &str) -> Option<(Lab, String)> {
    let environment = vec![("CCB_FAILPOINT", edge), ("CCB_PROOF_GRACE_S", "2")];
    let lab = lab(Setup { environment, ..Setup::claude() })?;
    lab.start();
    let id = lab.submit(message);
    until("askd is at the edge", || lab.dir().join("go.reached").exists().then_some(()));
    Some((lab, id))
}

/// Returns the texts of all prompts, in their order.
fn prompts(lab: &Lab) -> Vec<String> {
    lab.user_messages().into_iter().map(|(_, text)| text.trim().to_owned()).collect()
}

#[test]
fn a_draft_in_claudes_composer_is_left_alone_until_the_human_sends_it() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    lab.types("ECHO: half a thought");
    lab.until_composed("ECHO: half a thought");
    let ids: Vec<String> = (0..3).map(|number| lab.submit(&format!("ECHO: answer {number}"))).collect();
    lab.until_waits_for(&ids[0], "composer");
    let shown = lab.ccb(&["ps"]).ok();
    assert!(shown.contains("waiting for you") && shown.contains("composer"), "{shown}");
    lab.types(" finished");
    lab.until_composed("ECHO: half a thought finished");
    assert!(lab.user_messages().is_empty());
    lab.presses("Enter");
    for (number, id) in ids.iter().enumerate() {
        completed(&lab.settled(id), &format!("answer {number}"));
        assert_eq!(lab.consumed(id), 1);
    }
    let prompts = prompts(&lab);
    assert_eq!((prompts.len(), prompts[0].as_str()), (4, "ECHO: half a thought finished"), "{prompts:?}");
}

#[test]
fn a_pasted_draft_that_claude_shows_collapsed_is_left_alone_too() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    lab.pastes("ECHOALL: one\ntwo\nthree\nfour");
    until("it is shown collapsed", || lab.composer().starts_with("[Pasted text").then_some(()));
    let id = lab.submit("ECHO: ours");
    lab.until_waits_for(&id, "composer");
    assert!(lab.composer().starts_with("[Pasted text") && lab.user_messages().is_empty(), "{}", lab.screen());
    lab.presses("Enter");
    completed(&lab.settled(&id), "ours");
    let prompts = prompts(&lab);
    assert!(prompts[0].contains("one\ntwo\nthree\nfour") && !prompts[0].contains("CCB_REQ_ID"), "{prompts:?}");
    assert_eq!(prompts.len(), 2);
}

#[test]
fn a_draft_typed_during_our_turn_survives_it() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("SLEEP 3: ours, and nothing else");
    let _working = lab.until_request(&id, "working");
    lab.types("ECHO: theirs");
    lab.until_composed("ECHO: theirs");
    let next = lab.submit("ECHO: next");
    completed(&going.end().json(), "ours, and nothing else");
    lab.until_waits_for(&next, "composer");
    lab.until_composed("ECHO: theirs");
    lab.presses("Enter");
    completed(&lab.settled(&next), "next");
    assert_eq!(prompts(&lab)[1], "ECHO: theirs");
}

#[test]
fn a_humans_escape_in_mid_answer_ends_it_as_interrupted_with_what_was_said() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let words = "never whole and never more than a part of this rather long answer, which goes on and on and on";
    let (id, going) = lab.ask_meanwhile(&format!("SLEEP 40: {words}"));
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown("↓");
    lab.escapes();
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/interrupted", "{answer}");
    let partial = answer["settlement"]["reply"].as_str().unwrap();
    assert!(!partial.is_empty() && words.starts_with(partial) && partial != words, "{answer}");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
}

#[test]
fn a_humans_escape_before_any_answer_gives_them_our_text_and_the_next_waits_for_them() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("HANG 20: x");
    let _working = lab.until_request(&id, "working");
    lab.presses("Escape");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/interrupted", "{answer}");
    let next = lab.submit("ECHO: next");
    lab.until_waits_for(&next, "composer");
    assert!(lab.composer().contains("HANG 20"), "{}", lab.screen());
    lab.clears();
    completed(&lab.settled(&next), "next");
    assert_eq!((lab.consumed(&id), lab.model_saw("HANG 20")), (1, 1));
}

#[test]
fn a_human_who_enters_before_our_paste_gets_a_turn_of_their_own() {
    let Some((lab, id)) = waiting_at("paste.load=wait:{world}/go", "ECHO: ours") else { return };
    lab.says("SLEEP 3: theirs");
    lab.until_taken("SLEEP 3: theirs");
    go(&lab);
    completed(&lab.settled(&id), "ours");
    let prompts = prompts(&lab);
    assert_eq!((prompts.len(), prompts[0].as_str()), (2, "SLEEP 3: theirs"), "{prompts:?}");
    let _shown = lab.until_shown("● theirs");
}

#[test]
fn a_draft_that_is_typed_before_our_paste_is_not_pasted_into() {
    let Some((lab, id)) = waiting_at("paste.load=wait:{world}/go", "ECHO: ours") else { return };
    lab.types("ECHO: theirs");
    lab.until_composed("ECHO: theirs");
    go(&lab);
    lab.until_waits_for(&id, "composer");
    lab.until_composed("ECHO: theirs");
    lab.presses("Enter");
    completed(&lab.settled(&id), "ours");
    assert_eq!(prompts(&lab)[0], "ECHO: theirs");
}

#[test]
fn what_a_human_adds_to_our_pasted_text_and_sends_is_told_as_mixed() {
    let Some((lab, id)) = waiting_at("paste.pasted=wait:{world}/go", "ECHO: ours") else { return };
    until("our text is shown", || lab.composer().contains("ECHO: ours").then_some(()));
    lab.types(" and theirs");
    until("theirs is shown", || lab.composer().contains("ECHO: ours and theirs").then_some(()));
    lab.presses("Enter");
    until("it is sent", || (lab.model_saw(&id) == 1).then_some(()));
    go(&lab);
    let answer = lab.settled(&id);
    assert_eq!(outcome(&answer), "incomplete/mixed", "{answer}");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
    assert_eq!((lab.consumed(&id), lab.user_messages().len()), (1, 2));
}

#[test]
fn what_a_human_adds_to_our_pasted_text_is_not_sent_by_us() {
    let Some((lab, id)) = waiting_at("paste.pasted=wait:{world}/go", "ECHO: ours") else { return };
    until("our text is shown", || lab.composer().contains("ECHO: ours").then_some(()));
    lab.types(" and theirs");
    until("theirs is shown", || lab.composer().contains("ECHO: ours and theirs").then_some(()));
    go(&lab);
    let why = lab.until_state("waiting for you");
    assert!(why.contains("composer"), "{why}");
    assert!(lab.composer().contains("ECHO: ours and theirs") && lab.user_messages().is_empty(), "{}", lab.screen());
    // What the human throws away was not taken, and is offered again.
    lab.clears();
    completed(&lab.settled(&id), "ours");
    assert_eq!(lab.explain(&id)["request"]["attempts"], 2);
    assert_eq!((lab.consumed(&id), lab.user_messages().len()), (1, 1));
}

#[test]
fn a_human_who_presses_enter_for_us_does_no_harm() {
    let Some((lab, id)) = waiting_at("paste.enter=wait:{world}/go", "SLEEP 2: ours") else { return };
    lab.presses("Enter");
    until("it is sent", || (lab.model_saw(&id) == 1).then_some(()));
    go(&lab);
    completed(&lab.settled(&id), "ours");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
    assert_eq!((lab.consumed(&id), lab.user_messages().len()), (1, 2));
}

#[test]
fn a_humans_own_turn_at_claude_is_not_cut_and_the_request_waits_and_says_why() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    lab.says("SLEEP 3: all of what the human wanted");
    let why = lab.until_state("busy");
    assert!(why.contains("not ours"), "{why}");
    let (id, going) = lab.ask_meanwhile("ECHO: after you");
    lab.until_waits_for(&id, "not ours");
    completed(&going.end().json(), "after you");
    let _shown = lab.until_shown("● all of what the human wanted");
}

#[test]
fn what_a_human_queues_during_our_turn_is_a_turn_of_its_own() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("SLEEP 4: ours, and nothing else");
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown("↓");
    lab.says("ECHO: theirs");
    completed(&going.end().json(), "ours, and nothing else");
    lab.until_taken("ECHO: theirs");
    let _shown = lab.until_shown("● theirs");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
    assert_eq!((lab.consumed(&id), lab.user_messages().len()), (1, 3));
}

#[test]
fn what_a_human_sends_while_a_tool_of_our_turn_runs_is_told_as_mixed() {
    let settings = r#"{"permissions":{"defaultMode":"default","allow":["Bash"]}}"#;
    let Some(lab) = lab(Setup { settings, ..Setup::claude() }) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("TOOL: touch begun; until test -e go; do :; done; echo done");
    until("the tool runs", || lab.project().join("begun").exists().then_some(()));
    lab.says("ECHO: theirs");
    // The composer is cleared before that.
    until("it is queued", || lab.transcript().iter().any(|line| line["operation"] == "enqueue").then_some(()));
    std::fs::write(lab.project().join("go"), "").unwrap();
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/mixed", "{answer}");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
    assert_eq!(lab.consumed(&id), 1);
}
