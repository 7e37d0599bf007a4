//! `ccb restart` of the real CLIs: all that the pane runs is started again, in the same pane and conversation, and
//! nothing is asked twice. And nothing of them is left when what they live in dies.

use std::collections::BTreeSet;

use crate::env::{Lab, Setup, files_below, lab, until};

/// Restarts the agent and waits until it can take something.
#[track_caller]
fn restart(lab: &Lab, words: &[&str]) {
    let before = lab.user_messages().len();
    let said = lab.ccb(&[&["restart", lab.agent()["name"].as_str().unwrap()], words].concat()).ok();
    assert!(said.contains("has been started again"), "{said}");
    lab.until_idle();
    assert_eq!(lab.user_messages().len(), before);
}

/// The next answer is in the one conversation that there is.
#[track_caller]
fn in_its_conversation(lab: &Lab) {
    assert_eq!(lab.ask("ECHO: after the restart").ok(), "after the restart\n");
    let _shown = lab.until_shown("after the restart");
    let sessions = lab.opencode_messages().into_iter().map(|said| said["session"].to_string());
    // Gemini begins another transcript of the same session.
    let named = lab.gemini_records().into_iter().filter_map(|record| record["sessionId"].as_str().map(str::to_owned));
    let sessions: BTreeSet<String> = sessions.chain(named).collect();
    let records = [lab.codex_home().join("sessions"), lab.claude_home().join("projects")];
    let files = records.iter().flat_map(|dir| files_below(dir));
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "jsonl"));
    let all: Vec<String> = files.map(|file| file.display().to_string()).chain(sessions).collect();
    assert_eq!(all.len(), 1, "{all:?}");
}

/// Returns the processes of this world that are none of the daemon's.
fn others(lab: &Lab) -> Vec<u32> {
    lab.processes().into_iter().filter(|(_, line)| !line.contains("/askd ")).map(|(pid, _)| pid).collect()
}

/// Kills what an agent lives in: nothing of it is left, and the agent is back.
fn leaves_nothing(setup: Setup) {
    let Some(lab) = lab(setup) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: said before").ok(), "said before\n");
    for end in ["runner", "server"] {
        let old = others(&lab);
        lab.kill(match end {
            "runner" => lab.process("/ccb run "),
            _ => lab.tmux(&["display-message", "-p", "#{pid}"]).ok().trim().parse().unwrap(),
        });
        let left = || lab.processes().into_iter().filter(|(pid, _)| old.contains(pid)).collect::<Vec<_>>();
        until(&format!("nothing is left of the {end}"), || left().is_empty().then_some(()));
        if end == "server" {
            lab.start();
        }
        lab.until_idle();
        assert_eq!(lab.ask("ECHO: and back").ok(), "and back\n");
    }
}

/// Restarts an idle agent and one at work.
fn restarted(setup: Setup, program: &str) {
    let Some(lab) = lab(setup) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: said before").ok(), "said before\n");
    let (pane, pid) = (lab.agent()["pane"].clone(), lab.process(program));
    restart(&lab, &[]);
    assert_eq!(lab.agent()["pane"], pane);
    assert_ne!(lab.process(program), pid);
    in_its_conversation(&lab);

    let (id, going) = lab.ask_meanwhile("SLEEP 60: cut off");
    let _working = lab.until_request(&id, "working");
    until("the model answers", || (lab.model_saw(&id) >= 1).then_some(()));
    lab.ccb(&["restart", lab.agent()["name"].as_str().unwrap()]).says(1, &[&format!("works on request {id}")]);
    restart(&lab, &["--force"]);
    let cut = going.end().json();
    assert_ne!(cut["settlement"]["outcome"]["word"], "completed", "{cut:#}");
    in_its_conversation(&lab);
    assert_eq!(lab.consumed(&id), 1, "{:?}", lab.user_messages());
}

#[test]
fn codex_is_restarted_with_its_server_in_its_conversation() {
    restarted(Setup::default(), "app-server");
}

#[test]
fn claude_is_restarted_in_its_conversation() {
    restarted(Setup::claude(), "--settings");
}

#[test]
fn gemini_is_restarted_in_its_conversation() {
    restarted(Setup::gemini(), "/programs/gemini");
}

#[test]
fn opencode_is_restarted_in_its_conversation() {
    restarted(Setup::opencode(), "/opencode --hostname");
}

#[test]
fn nothing_of_codex_outlives_what_it_lives_in() {
    leaves_nothing(Setup::default());
}

#[test]
fn nothing_of_claude_outlives_what_it_lives_in() {
    leaves_nothing(Setup::claude());
}

#[test]
fn nothing_of_opencode_outlives_what_it_lives_in() {
    leaves_nothing(Setup::opencode());
}
