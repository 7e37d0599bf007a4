//! What it is all for: Claude and Codex, both real, sit in panes, and a human tells either to ask the other.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::env::{Lab, Setup, lab, until};

/// How often a story is told in a row, and how often with every core busy.
const TIMES: usize = 20;
const UNDER_LOAD: usize = 10;

/// Both agents in panes, idle.
fn stage() -> Option<Lab> {
    stage_with(Vec::new())
}

/// The same, with these variables.
pub(crate) fn stage_with(environment: Vec<(&'static str, &'static str)>) -> Option<Lab> {
    let lab = lab(Setup { environment, ..Setup::both() })?;
    let _started = lab.ccb(&["--detach", "claude", "codex"]).ok();
    rest(&lab);
    Some(lab)
}

/// Waits until nothing is left to do and both agents are idle.
#[track_caller]
pub(crate) fn rest(lab: &Lab) {
    until("both agents are at rest", || {
        let overview = lab.ccb(&["ps", "--json"]).json();
        let agents = overview["agents"].as_array()?;
        let idle = agents.len() == 2 && agents.iter().all(|agent| agent["state"] == "idle");
        (idle && overview["requests"].as_array()?.is_empty()).then_some(())
    });
}

pub(crate) fn pane(lab: &Lab, agent: &str) -> String {
    let overview = lab.ccb(&["ps", "--json"]).json();
    let agents = overview["agents"].as_array().unwrap();
    let found = agents.iter().find(|known| known["name"] == agent).unwrap();
    found["pane"].as_str().unwrap().to_owned()
}

/// Tells an agent something in its own pane, as a human does: not faster than it is shown.
#[track_caller]
pub(crate) fn tell(lab: &Lab, pane: &str, text: &str) {
    let _typed = lab.tmux(&["send-keys", "-t", pane, "-l", text]).ok();
    let end = text.split(' ').next_back().unwrap();
    until("what was typed is shown", || {
        lab.tmux(&["capture-pane", "-p", "-J", "-t", pane]).ok().contains(end).then_some(())
    });
    let _entered = lab.tmux(&["send-keys", "-t", pane, "Enter"]).ok();
}

/// Returns how many lines of the user's role in Claude's transcripts hold these words.
pub(crate) fn prompts(lab: &Lab, words: &str) -> usize {
    lab.transcript().iter().filter(|line| line["type"] == "user" && line.to_string().contains(words)).count()
}

/// The human tells Claude to ask Codex in its shell, without waiting; the notice comes; Claude's next turn quotes it.
fn claude_asks_codex(lab: &Lab, pane: &str, round: usize) {
    let word = format!("reply-{round}-of-codex");
    tell(lab, pane, &format!("TOOL: ask codex ECHO: {word}"));
    let quoted = || {
        lab.transcript()
            .iter()
            .any(|line| line["type"] == "assistant" && line.to_string().contains(&format!("NOTED: {word}")))
    };
    until(&format!("Claude goes on with {word}"), || quoted().then_some(()));
    rest(lab);
    assert_eq!(prompts(lab, &format!("Result: {word}")), 1, "the notice came once");
    let asked: Value = lab.ccb(&["pend", "codex", "--json"]).json()["requests"][0].clone();
    assert_eq!(
        (&asked["asker"], &asked["settlement"]["reply"]),
        (&"claude".into(), &word.as_str().into()),
        "{asked:#}"
    );
    assert!(asked["delivered"].is_number(), "{asked:#}");
}

/// Codex, in its own sandbox, is told to ask Claude by our MCP server, and uses the answer in the same turn.
fn codex_asks_claude(lab: &Lab, pane: &str, round: usize) {
    let word = format!("reply-{round}-of-claude");
    tell(lab, pane, &format!(r#"MCP: ccb ask {{"agent":"claude","message":"ECHO: {word}"}}"#));
    let shown = || lab.tmux(&["capture-pane", "-p", "-J", "-S", "-200", "-t", pane]).ok();
    until(&format!("Codex goes on with {word}"), || {
        let screen: String = shown().split_whitespace().collect();
        (screen.contains("TOOLDONE") && screen.matches(word.as_str()).count() >= 2).then_some(())
    });
    rest(lab);
    assert_eq!(prompts(lab, &format!("ECHO: {word}")), 1, "Claude was asked once");
    let asked: Value = lab.ccb(&["pend", "claude", "--json"]).json()["requests"][0].clone();
    assert_eq!((&asked["asker"], &asked["settlement"]["reply"]), (&"codex".into(), &word.as_str().into()), "{asked:#}");
    assert!(asked["delivered"].is_number(), "{asked:#}");
    assert_eq!(lab.model_saw("[CCB_TASK_"), 0, "no notice follows what was read");
}

#[test]
fn claude_asks_codex_and_goes_on_with_the_answer_twenty_times() {
    let Some(lab) = stage() else { return };
    let pane = pane(&lab, "claude");
    (0..TIMES).for_each(|round| claude_asks_codex(&lab, &pane, round));
}

#[test]
fn codex_asks_claude_from_its_sandbox_and_uses_the_answer_twenty_times() {
    let Some(lab) = stage() else { return };
    let pane = pane(&lab, "codex");
    (0..TIMES).for_each(|round| codex_asks_claude(&lab, &pane, round));
}

/// Something that keeps every core busy, until it is dropped.
struct Load(Vec<std::process::Child>);

impl Load {
    fn on_every_core() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Self((0..cores).map(|_| spin().expect("a shell starts")).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if child.kill().and_then(|()| child.wait()).is_err() {
                let _told = std::io::stderr().write_all(b"a busy loop could not be ended\n");
            }
        }
    }
}

#[test]
fn both_stories_hold_ten_times_with_every_core_busy() {
    let Some(lab) = stage() else { return };
    let (claude, codex) = (pane(&lab, "claude"), pane(&lab, "codex"));
    let _load = Load::on_every_core();
    for round in 0..UNDER_LOAD {
        claude_asks_codex(&lab, &claude, round);
    }
    for round in 0..UNDER_LOAD {
        let _said = lab.ccb(&["ps"]).ok();
        codex_asks_claude_after_notices(&lab, &codex, round);
    }
}

/// The second story in a world in which the first was told: there were notices, and there are no more.
fn codex_asks_claude_after_notices(lab: &Lab, pane: &str, round: usize) {
    let before = lab.model_saw("[CCB_TASK_");
    let word = format!("late-{round}-of-claude");
    tell(lab, pane, &format!(r#"MCP: ccb ask {{"agent":"claude","message":"ECHO: {word}"}}"#));
    until("Claude was asked", || (prompts(lab, &format!("ECHO: {word}")) == 1).then_some(()));
    rest(lab);
    let asked: Value = lab.ccb(&["pend", "claude", "--json"]).json()["requests"][0].clone();
    assert_eq!((&asked["asker"], &asked["settlement"]["reply"]), (&"codex".into(), &word.as_str().into()), "{asked:#}");
    assert_eq!(lab.model_saw("[CCB_TASK_"), before);
}
