//! The human changes the real Gemini's conversation, in mid-request and between requests: it is cleared, compressed, or
//! another one is gone on with. With hooks and without them a request ends by its own turn, and the next one is answered.

use std::collections::BTreeSet;

use crate::env::claude::{completed, outcome};
use crate::env::{Lab, Setup, lab, until};

/// Types a command into the composer and enters it, not faster than it is shown.
fn enters(lab: &Lab, command: &str) {
    lab.types(command);
    let _shown = lab.until_shown(&format!("> {command}"));
    // An Enter takes what is suggested, which follows what is typed at a distance.
    until("nothing else is suggested", || {
        (command == "/clear" || !lab.screen().contains("Clear the screen")).then_some(())
    });
    lab.presses("Enter");
}

/// Begins a request, and returns when Gemini says the first words of its answer.
fn in_mid_turn(lab: &Lab, message: &str, words: &str) -> (String, crate::env::Going) {
    let (id, going) = lab.ask_meanwhile(message);
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown(&format!("✦ {words}"));
    (id, going)
}

/// Asserts that a request is answered, in one turn.
#[track_caller]
fn answers(lab: &Lab, reply: &str) {
    let answer = lab.ask_json(&format!("ECHO: {reply}"));
    completed(&answer, reply);
    assert_eq!(lab.consumed(answer["id"].as_str().unwrap()), 1);
}

/// Returns the sessions that Gemini has made.
fn sessions(lab: &Lab) -> BTreeSet<String> {
    let records = lab.gemini_records().into_iter();
    records.filter_map(|record| record["sessionId"].as_str().map(str::to_owned)).collect()
}

/// Starts Gemini on a rung.
fn started(rung: &str, settings: &'static str) -> Option<Lab> {
    let lab = lab(Setup { settings, ..Setup::gemini() })?;
    lab.forces(rung);
    lab.start();
    assert_eq!(lab.agent()["rung"], rung);
    Some(lab)
}

/// Everything is ended while a turn is on, and Gemini then begins another session: what is asked there ends there, whatever
/// the old session's transcript holds.
fn started_afresh(rung: &str) {
    let Some(lab) = started(rung, "") else { return };
    answers(&lab, "a turn before");
    let (id, going) = lab.ask_meanwhile("SLEEP 6: a slow answer");
    let _working = lab.until_request(&id, "working");
    let _ended = lab.ccb(&["kill"]).ok();
    let _whatever = going.end();
    let before = sessions(&lab);
    lab.start();
    answers(&lab, "after a fresh start");
    let now = sessions(&lab);
    assert!(before.is_subset(&now) && now.len() > before.len(), "{before:?} {now:?}");
}

#[test]
fn gemini_started_afresh_after_a_turn_that_was_cut_off_answers() {
    started_afresh("hooked");
}

#[test]
fn gemini_started_afresh_after_a_turn_that_was_cut_off_answers_without_hooks() {
    started_afresh("watched");
}

/// The conversation is cleared in mid-request.
fn cleared(rung: &str) {
    let Some(lab) = started(rung, "") else { return };
    answers(&lab, "in the first");
    let (_, going) = in_mid_turn(&lab, "SLEEP 8: one two three four five six", "one");
    enters(&lab, "/clear");
    // Gemini takes no command while it works, and leaves it in its composer.
    let _shown = lab.until_shown("Slash commands cannot be queued");
    completed(&going.end().json(), "one two three four five six");
    let next = lab.submit("ECHO: in the second");
    lab.until_waits_for(&next, "composer");
    assert_eq!(sessions(&lab).len(), 1);
    lab.presses("Enter");
    completed(&lab.settled(&next), "in the second");
    assert_eq!((lab.consumed(&next), sessions(&lab).len()), (1, 2));
    // It is the new session that it comes back in.
    let _restarted = lab.ccb(&["restart", "gemini"]).ok();
    answers(&lab, "and still there");
    let screen = lab.until_shown("and still there");
    assert!(screen.contains("in the second") && !screen.contains("in the first"), "{screen}");
    assert_eq!(sessions(&lab).len(), 2);
}

/// The conversation is compressed by its human, with a request right behind; and by Gemini itself, in mid-turn.
fn compressed(rung: &str) {
    let Some(lab) = started(rung, "") else { return };
    for number in 0..4 {
        answers(&lab, &format!("answer {number}"));
    }
    enters(&lab, "/compress");
    answers(&lab, "behind it");
    let _shown = lab.until_shown("Chat history compressed");
    answers(&lab, "and on it goes");
    assert_eq!(sessions(&lab).len(), 1);
}

/// A threshold that every conversation is above.
const SOON_FULL: &str = r#"{"model":{"compressionThreshold":0.0001}}"#;

/// Gemini itself compresses the conversation in the middle of a turn.
fn compressed_in_mid_turn(rung: &str) {
    let Some(lab) = started(rung, SOON_FULL) else { return };
    for number in 0..4 {
        answers(&lab, &format!("answer {number}"));
    }
    let said = compressions(&lab);
    let answer = lab.ask_json("TOOLS 3: ccb ps");
    assert_eq!(outcome(&answer), "completed", "{answer}");
    let reply = answer["settlement"]["reply"].as_str().unwrap();
    assert!(reply.starts_with("TOOLDONE"), "{reply}");
    assert_eq!(lab.consumed(answer["id"].as_str().unwrap()), 1);
    assert!(compressions(&lab) > said, "{:#?}", lab.gemini_records());
    answers(&lab, "and on it goes");
}

/// Returns how often the model was asked for a summary of the conversation.
fn compressions(lab: &Lab) -> usize {
    let log = std::fs::read_to_string(lab.dir().join("model.jsonl")).unwrap();
    log.lines().filter(|line| line.contains("Generate a new <state_snapshot>") || line.contains("Critically")).count()
}

/// The human goes on with an older conversation, while a request waits.
fn resumed(rung: &str) {
    let Some(lab) = started(rung, "") else { return };
    answers(&lab, "in the first");
    enters(&lab, "/clear");
    until("it is cleared", || (!lab.screen().contains("in the first")).then_some(()));
    answers(&lab, "in the second");
    enters(&lab, "/resume");
    let _shown = lab.until_shown("Chat Sessions (2 total)");
    let next = lab.submit("ECHO: in an older one");
    lab.until_waits_for(&next, "chats");
    lab.presses("Down");
    let _shown = lab.until_shown("❯ #2");
    lab.presses("Enter");
    completed(&lab.settled(&next), "in an older one");
    let screen = lab.until_shown("in an older one");
    assert!(screen.contains("in the first") && !screen.contains("in the second"), "{screen}");
    assert_eq!((lab.consumed(&next), sessions(&lab).len()), (1, 2));
}

#[test]
fn geminis_human_clears_the_conversation_in_mid_request() {
    cleared("hooked");
}

#[test]
fn geminis_human_clears_the_conversation_in_mid_request_without_hooks() {
    cleared("watched");
}

#[test]
fn geminis_human_compresses_the_conversation() {
    compressed("hooked");
}

#[test]
fn geminis_human_compresses_the_conversation_without_hooks() {
    compressed("watched");
}

#[test]
fn gemini_compresses_its_conversation_in_mid_request() {
    compressed_in_mid_turn("hooked");
}

#[test]
fn gemini_compresses_its_conversation_in_mid_request_without_hooks() {
    compressed_in_mid_turn("watched");
}

#[test]
fn geminis_human_goes_on_with_an_older_conversation_while_a_request_waits() {
    resumed("hooked");
}

#[test]
fn geminis_human_goes_on_with_an_older_conversation_while_a_request_waits_without_hooks() {
    resumed("watched");
}
