//! The human changes the real OpenCode's conversation in mid-request, while another request waits: it is compacted, the
//! list of sessions is open, or a new one is begun. Joined and watched each request is answered, once.

use serde_json::Value;

use crate::env::claude::outcome;
use crate::env::{Lab, Setup, lab, until};
use crate::opencode::in_mid_turn;

/// Asserts that a request was answered so; where a text is pasted, a blank at its end may be ours.
#[track_caller]
fn completed(answer: &Value, reply: &str) {
    assert_eq!(outcome(answer), "completed", "{answer}");
    assert_eq!(answer["settlement"]["reply"].as_str().map(str::trim), Some(reply), "{answer}");
}

/// Enters a command while a request is answered, once it is the one that is offered, and asks for something else behind it.
fn in_mid_request(lab: &Lab, command: &str, offered: &str) -> String {
    let words = format!("one two three four of {}", &command[1..]);
    let (id, going) = in_mid_turn(lab, &format!("SLEEP 6: {words}"));
    lab.types(command);
    until("it is what is offered", || {
        let screen = lab.screen();
        let mut rows = screen.lines().skip_while(|line| !line.contains("▣  Build")).filter(|line| line.contains("┃ /"));
        rows.next().is_some_and(|row| row.contains(command) && row.contains(offered)).then_some(())
    });
    lab.presses("Enter");
    let next = lab.submit(&format!("ECHO: after {}", &command[1..]));
    completed(&going.end().json(), &words);
    assert_eq!(lab.model_saw(&id), 1);
    next
}

#[track_caller]
fn answered(lab: &Lab, next: &str, command: &str) {
    completed(&lab.settled(next), &format!("after {}", &command[1..]));
    assert_eq!(lab.model_saw(next), 1);
}

fn changed(rung: &str) {
    let Some(lab) = lab(Setup::opencode()) else { return };
    lab.forces(rung);
    lab.start();
    completed(&lab.ask_json("ECHO: in the first"), "in the first");
    let next = in_mid_request(&lab, "/compact", "Compact session");
    answered(&lab, &next, "/compact");
    let next = in_mid_request(&lab, "/sessions", "Switch session");
    let _shown = lab.until_shown("pin/unpin");
    if rung == "watched" {
        lab.until_waits_for(&next, "something else than its composer takes the keys");
        lab.presses("Escape");
    }
    answered(&lab, &next, "/sessions");
    if rung == "joined" {
        lab.presses("Escape");
    }
    until("the list is closed", || (!lab.screen().contains("pin/unpin")).then_some(()));
    let next = in_mid_request(&lab, "/new", "New session");
    answered(&lab, &next, "/new");
}

#[test]
fn opencodes_human_changes_the_conversation_in_mid_request() {
    changed("joined");
}

#[test]
fn opencodes_human_changes_the_conversation_in_mid_request_watched() {
    changed("watched");
}
