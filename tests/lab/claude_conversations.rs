//! The human changes the real Claude's conversation in mid-request, while another request waits: it is cleared,
//! compacted, wound back, or an older one is gone on with. With hooks and without them each request is answered by its
//! own turn.

use crate::env::claude::completed;
use crate::env::{Lab, Setup, lab, until};

/// Types a command while a request is answered, which Claude queues, and asks for something else behind it.
fn in_mid_request(lab: &Lab, command: &str) -> String {
    let words = format!("one two three four of {}", &command[1..]);
    let (id, going) = lab.ask_meanwhile(&format!("SLEEP 4: {words}"));
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown("● one");
    lab.says(command);
    let next = lab.submit(&format!("ECHO: after {}", &command[1..]));
    completed(&going.end().json(), &words);
    assert_eq!(lab.consumed(&id), 1);
    next
}

/// Asserts that the request behind a command is answered, in one turn.
#[track_caller]
fn answered(lab: &Lab, next: &str, command: &str) {
    completed(&lab.settled(next), &format!("after {}", &command[1..]));
    assert_eq!((lab.consumed(next), lab.model_saw(next)), (1, 1));
}

/// Returns the session of the transcript's line that holds these words.
fn session_of(lab: &Lab, words: &str) -> String {
    let line = lab.transcript().into_iter().find(|line| line.to_string().contains(words));
    line.and_then(|line| line["sessionId"].as_str().map(str::to_owned)).unwrap_or_else(|| panic!("no `{words}`"))
}

fn changed(rung: &str) {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.forces(rung);
    lab.start();
    assert_eq!(lab.agent()["rung"], rung);
    let next = in_mid_request(&lab, "/compact");
    answered(&lab, &next, "/compact");
    assert!(lab.transcript().iter().any(|line| line["subtype"] == "compact_boundary"));
    let next = in_mid_request(&lab, "/rewind");
    lab.until_waits_for(&next, "it asks for an answer in its pane");
    lab.presses("Escape");
    answered(&lab, &next, "/rewind");
    let first = session_of(&lab, &next);
    let next = in_mid_request(&lab, "/clear");
    answered(&lab, &next, "/clear");
    let second = session_of(&lab, &next);
    assert_ne!(first, second);
    let next = in_mid_request(&lab, "/resume");
    lab.until_waits_for(&next, "it asks for an answer in its pane");
    let _shown = lab.until_shown("Enter to resume");
    let _chosen = lab.until_shown("❯ CCB_REQ_ID");
    lab.presses("Enter");
    answered(&lab, &next, "/resume");
    assert_eq!(session_of(&lab, &next), first);
    // It is the older one that it comes back in.
    let old = lab.claude_process();
    let _restarted = lab.ccb(&["restart", "claude"]).ok();
    until("it is another one", || (lab.claude_process() != old).then_some(()));
    completed(&lab.ask_json("ECHO: and still there"), "and still there");
    assert_eq!(session_of(&lab, "and still there"), first);
}

#[test]
fn claudes_human_changes_the_conversation_in_mid_request() {
    changed("hooked");
}

#[test]
fn claudes_human_changes_the_conversation_in_mid_request_without_hooks() {
    changed("watched");
}
