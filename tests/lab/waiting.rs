//! What tells a human that a real agent waits for them in the middle of a request: the line of a waiting `ask`, the
//! pane's border, and a command of their own.

use crate::env::{Lab, Setup, lab, until, write_program};
use crate::full::press_until;

/// Has an agent ask for a permission in the turn of an `ask` that waits in a terminal, and the human give it.
fn told(setup: Setup, message: &str, gives: impl FnOnce(&Lab)) {
    let environment = vec![("CCB_NOTIFY", "{world}/tell")];
    let Some(lab) = lab(Setup { environment, ..setup }) else { return };
    let file = lab.dir().join("told");
    let script = format!("#!/bin/sh\necho \"$CCB_NOTIFY_AGENT: $CCB_NOTIFY_WHY\" >> '{}'\n", file.display());
    write_program(&lab.dir().join("tell"), &script);
    lab.start();
    let name = lab.agent()["name"].as_str().unwrap().to_owned();
    let project = lab.project().display().to_string();
    let ask = format!("ask {name} '{message}'; exec cat");
    let _asked = lab.tmux(&["new-window", "-d", "-t", "ccb:", "-n", "human", "-c", &project, &ask]).ok();
    let why = lab.until_state("waiting for you");
    let shown = || lab.tmux(&["capture-pane", "-p", "-t", "ccb:human"]).out;
    until("the waiting ask says so", || shown().contains("waiting for you").then_some(()));
    let id = lab.requests()[0].clone();
    assert_eq!(lab.explain(&id)["request"]["state"], "working");
    let pane = lab.agent()["pane"].as_str().unwrap().to_owned();
    let border = || lab.tmux(&["display-message", "-p", "-t", &pane, "#{E:pane-border-format}"]).ok();
    let mark = format!(" {name} ⚠ waiting for you \n");
    until("the pane is marked", || (border() == mark).then_some(()));
    until("the human's command is run", || file.exists().then_some(()));
    gives(&lab);
    until("the answer is there", || shown().contains("TOOLDONE").then_some(()));
    lab.until_idle();
    until("the mark is gone", || (border() == format!(" {name} \n")).then_some(()));
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.starts_with(&format!("{name}: ")) && why.split(' ').any(|word| lines.contains(word)), "{lines}");
}

#[test]
fn codex_that_wants_an_approval_in_mid_turn_is_told_in_three_ways() {
    let config = ("approval_policy = \"on-request\"\nsandbox_mode = \"read-only\"\n", "");
    let escalated = r#"RAWTOOL: exec_command {"cmd":"touch made","sandbox_permissions":"require_escalated","justification":"a test"}"#;
    told(Setup { config, ..Setup::default() }, escalated, |lab| {
        let _shown = lab.until_shown("touch made");
        // A dialog may overlook a key of its first moment.
        press_until(lab, "Enter", || lab.project().join("made").exists());
    });
}

#[test]
fn claude_that_wants_a_permission_in_mid_turn_is_told_in_three_ways() {
    let settings = r#"{"permissions":{"defaultMode":"default"}}"#;
    told(Setup { settings, ..Setup::claude() }, "TOOL: touch ours && echo done", |lab| lab.confirms("Do you want to"));
}
