//! The human changes the conversation of a real Codex that is driven by paste, in mid-request and between requests: it is
//! compacted, left for a new one, forked, or an older one is gone on with. With hooks and without them a request ends by
//! its own turn, the next one is answered, and what ccb starts again is the conversation that the human is in.

use crate::env::claude::outcome;
use crate::env::{Going, Lab, Setup, files_below, lab, until};
use crate::full::REVIEWED;

/// A compaction takes this long.
const SLOWLY: &str = "compact_prompt = \"SLEEP 4: what was said before\"\n";

/// Starts Codex on a rung.
fn started(rung: &str) -> Option<Lab> {
    let lab = lab(Setup { config: (SLOWLY, REVIEWED), ..Setup::default() })?;
    lab.forces(rung);
    lab.start();
    assert_eq!(lab.agent()["rung"], rung);
    Some(lab)
}

/// Types a command and presses a key, not faster than it is shown.
fn types(lab: &Lab, command: &str, key: &str) {
    lab.types(command);
    let _shown = lab.until_shown(&format!("› {command}\n"));
    lab.presses(key);
}

/// Begins a request, and returns when Codex says the first words of its answer.
fn in_mid_turn(lab: &Lab, message: &str, words: &str) -> (String, Going) {
    let (id, going) = lab.ask_meanwhile(message);
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown(&format!("• {words}"));
    (id, going)
}

/// Asserts that a request was answered, in a turn of its own and no other.
#[track_caller]
fn is_answered(lab: &Lab, id: &str, reply: &str) {
    let request = lab.settled(id);
    assert_eq!(outcome(&request), "completed", "{request}");
    assert_eq!(request["settlement"]["reply"].as_str().map(str::trim), Some(reply), "{request}");
    let taken = lab.user_messages().iter().filter(|(_, text)| text.contains(id)).count();
    assert_eq!((lab.model_saw(id), taken), (1, 1));
}

/// Asks, and asserts that it is answered in one turn.
#[track_caller]
fn answers(lab: &Lab, reply: &str) {
    let id = lab.submit(&format!("ECHO: {reply}"));
    is_answered(lab, &id, reply);
}

/// Returns how many conversations have a turn.
fn conversations(lab: &Lab) -> usize {
    files_below(&lab.codex_home().join("sessions")).len()
}

/// Asserts that the pane comes to show a text, without the others.
#[track_caller]
fn shows(lab: &Lab, text: &str, others: &[&str]) {
    let screen = lab.until_shown(text);
    assert!(!others.iter().any(|other| screen.contains(other)), "{screen}");
}

/// Has ccb start Codex again once that is at rest, and waits until it can be asked.
fn restarts(lab: &Lab) {
    until("Codex is started again", || (lab.ccb(&["restart", "codex"]).code == Some(0)).then_some(()));
    lab.until_idle();
}

/// Kills Codex, and waits until another one can be asked: what is asked before that could be on its way into the dead one.
fn dies(lab: &Lab) {
    let old = lab.process("bin/codex ");
    lab.kill(old);
    until("another one runs", || (lab.process("bin/codex ") != old).then_some(()));
    lab.until_idle();
}

/// Returns how often askd has seen Codex in another conversation.
fn moves(lab: &Lab) -> usize {
    lab.ccb(&["logs"]).out.matches("it went from session").count()
}

/// What Codex refuses in mid-turn does no harm, also not what it leaves in its composer.
fn refused_in_mid_request(rung: &str) {
    let Some(lab) = started(rung) else { return };
    let (id, going) = in_mid_turn(&lab, "SLEEP 15: one two three four five six", "one");
    for command in ["/compact", "/new", "/clear", "/resume", "/fork"] {
        types(&lab, command, "Enter");
        let _shown = lab.until_shown(&format!("'{command}' is disabled while a task is in progress"));
    }
    let _ended = going.end();
    is_answered(&lab, &id, "one two three four five six");
    assert_eq!(conversations(&lab), 1);
    // The last one is still there, and is the human's.
    let next = lab.submit("ECHO: in the fork");
    lab.until_waits_for(&next, "composer");
    lab.presses("Enter");
    is_answered(&lab, &next, "in the fork");
    assert_eq!(conversations(&lab), 2);
    restarts(&lab);
    shows(&lab, "• in the fork", &[]);
    answers(&lab, "still in the fork");
    assert_eq!(conversations(&lab), 2);
}

/// What is queued in mid-turn is done before the next request is handed over.
fn queued_in_mid_request(rung: &str) {
    let Some(lab) = started(rung) else { return };
    answers(&lab, "in the first");
    for (command, words, all) in [("/compact", "after a compaction", 1), ("/new", "in a new one", 2)] {
        let (id, going) = in_mid_turn(&lab, "SLEEP 4: one two three four five six", "one");
        types(&lab, command, "Tab");
        let _shown = lab.until_shown("Queued follow-up inputs");
        let next = lab.submit(&format!("ECHO: {words}"));
        let _ended = going.end();
        is_answered(&lab, &id, "one two three four five six");
        is_answered(&lab, &next, words);
        assert_eq!(conversations(&lab), all, "{command}");
    }
    let (id, going) = in_mid_turn(&lab, "SLEEP 4: one two three four five six", "one");
    types(&lab, "/resume", "Tab");
    let _shown = lab.until_shown("Queued follow-up inputs");
    let next = lab.submit("ECHO: in an older one");
    let _ended = going.end();
    is_answered(&lab, &id, "one two three four five six");
    lab.until_waits_for(&next, "a dialog is open");
    chooses(&lab, "in the first");
    is_answered(&lab, &next, "in an older one");
    shows(&lab, "• in an older one", &["in a new one"]);
    assert_eq!(conversations(&lab), 2);
}

/// A request that comes while a conversation is compacted is answered behind that.
fn compacted(rung: &str) {
    let Some(lab) = started(rung) else { return };
    answers(&lab, "before");
    types(&lab, "/compact", "Enter");
    let id = lab.submit("ECHO: right behind");
    is_answered(&lab, &id, "right behind");
    let _shown = lab.until_shown("Context compacted");
    answers(&lab, "and on it goes");
    restarts(&lab);
    shows(&lab, "• and on it goes", &[]);
    answers(&lab, "and after a restart");
    assert_eq!(conversations(&lab), 1);
}

/// The human begins a new conversation, which is gone on with though nothing was said in it.
fn begun_anew(rung: &str) {
    let Some(lab) = started(rung) else { return };
    answers(&lab, "in the first");
    types(&lab, "/new", "Enter");
    answers(&lab, "in the second");
    shows(&lab, "• in the second", &["in the first"]);
    restarts(&lab);
    shows(&lab, "• in the second", &["in the first"]);
    types(&lab, "/clear", "Enter");
    until("it is a new one", || (moves(&lab) > 1).then_some(()));
    restarts(&lab);
    answers(&lab, "in the third");
    shows(&lab, "• in the third", &["in the first", "in the second"]);
    let before = moves(&lab);
    types(&lab, "/new", "Enter");
    until("it is a new one", || (moves(&lab) > before).then_some(()));
    dies(&lab);
    answers(&lab, "in the fourth");
    shows(&lab, "• in the fourth", &["in the third"]);
    assert_eq!(conversations(&lab), 4);
    dies(&lab);
    answers(&lab, "still in the fourth");
    assert_eq!(conversations(&lab), 4);
}

/// Chooses a conversation in the list of them.
fn chooses(lab: &Lab, words: &str) {
    let _shown = lab.until_shown("Type to search");
    lab.types(words);
    until("it is the only one that is left", || {
        let screen = lab.screen();
        let rows: Vec<&str> = screen.lines().filter(|line| line.contains("ECHO: ")).collect();
        matches!(rows[..], [row] if row.contains(words) && row.trim_start().starts_with('›')).then_some(())
    });
    lab.presses("Enter");
}

/// The human goes on with an older conversation, also while a request waits.
fn resumed(rung: &str) {
    let Some(lab) = started(rung) else { return };
    answers(&lab, "in the first");
    types(&lab, "/new", "Enter");
    answers(&lab, "in the second");
    types(&lab, "/resume", "Enter");
    let _shown = lab.until_shown("Resume a previous session");
    let next = lab.submit("ECHO: gone on with");
    lab.until_waits_for(&next, "a dialog is open");
    chooses(&lab, "in the first");
    is_answered(&lab, &next, "gone on with");
    shows(&lab, "• gone on with", &["in the second"]);
    // Also where nothing was said in it since.
    for (words, other) in [("in the second", "in the first"), ("in the first", "in the second")] {
        types(&lab, "/resume", "Enter");
        chooses(&lab, words);
        shows(&lab, &format!("• {words}"), &[other]);
        restarts(&lab);
        shows(&lab, &format!("• {words}"), &[other]);
    }
    answers(&lab, "after all");
    shows(&lab, "• after all", &["in the second"]);
    assert_eq!(conversations(&lab), 2);
}

/// Nothing is pasted into a dialog that takes text, or stands above the composer.
fn dialogs(rung: &str) {
    let Some(lab) = started(rung) else { return };
    answers(&lab, "before");
    for (command, shown) in [
        ("/rename", "Type a name and press Enter"),
        ("/review", "Select a review preset"),
        ("/presets", "No presets saved"),
        ("/model", "esc back"),
        ("/agent", "? help"),
    ] {
        types(&lab, command, "Enter");
        let _shown = lab.until_shown(shown);
        let id = lab.submit(&format!("ECHO: after {command}"));
        lab.until_waits_for(&id, "a dialog is open");
        lab.presses("Escape");
        is_answered(&lab, &id, &format!("after {command}"));
    }
}

#[test]
fn what_codex_refuses_in_mid_request_does_no_harm() {
    refused_in_mid_request("hooked");
}

#[test]
fn what_codex_refuses_in_mid_request_does_no_harm_without_hooks() {
    refused_in_mid_request("watched");
}

#[test]
fn what_codexs_human_queues_in_mid_request_comes_first() {
    queued_in_mid_request("hooked");
}

#[test]
fn what_codexs_human_queues_in_mid_request_comes_first_without_hooks() {
    queued_in_mid_request("watched");
}

#[test]
fn codexs_human_compacts_the_conversation() {
    compacted("hooked");
}

#[test]
fn codexs_human_compacts_the_conversation_without_hooks() {
    compacted("watched");
}

#[test]
fn codexs_human_begins_a_new_conversation() {
    begun_anew("hooked");
}

#[test]
fn codexs_human_begins_a_new_conversation_without_hooks() {
    begun_anew("watched");
}

#[test]
fn codexs_human_goes_on_with_an_older_conversation() {
    resumed("hooked");
}

#[test]
fn codexs_human_goes_on_with_an_older_conversation_without_hooks() {
    resumed("watched");
}

#[test]
fn nothing_is_pasted_into_a_dialog_of_codexs() {
    dialogs("hooked");
}

#[test]
fn nothing_is_pasted_into_a_dialog_of_codexs_without_hooks() {
    dialogs("watched");
}

#[test]
fn codexs_question_about_a_folder_is_told_as_a_dialog() {
    let Some(lab) = lab(Setup::default()) else { return };
    let _made = lab.run("git", &["init", "-q"], "").ok();
    lab.forces("watched");
    let _started = lab.ccb(&["--detach", "codex"]).ok();
    let _shown = lab.until_shown("Trust this folder?");
    let id = lab.submit("ECHO: trusted");
    lab.until_waits_for(&id, "a dialog is open");
    lab.presses("Enter");
    is_answered(&lab, &id, "trusted");
}
