//! The answer's way back into Claude's conversation: a process is killed at each edge of it, and it arrives once.

use serde_json::Value;

use crate::deaths::pid;
use crate::env::{Lab, until};
use crate::stories::{pane, prompts, rest, stage_with, tell};

/// What Codex answers.
const ANSWER: &str = "the-way-back";

/// Has Claude, by its human, ask Codex without waiting. Codex answers after so many seconds.
fn asks(lab: &Lab, seconds: &str) -> String {
    let pane = pane(lab, "claude");
    tell(lab, &pane, &format!("TOOL: ask codex SLEEP {seconds}: {ANSWER}"));
    until_asked(lab)
}

/// Waits until Codex was asked, and returns the request.
#[track_caller]
fn until_asked(lab: &Lab) -> String {
    until("Codex was asked", || {
        let said = lab.ccb(&["pend", "codex", "--json"]);
        let replies: Option<Value> = serde_json::from_str(&said.out).ok();
        let open = || lab.requests().into_iter().find(|id| !id.contains("-r"));
        replies.and_then(|replies| replies["requests"][0]["id"].as_str().map(str::to_owned)).or_else(open)
    })
}

/// The answer has come as one notice, Claude went on with it, and both go on.
#[track_caller]
fn came_once(lab: &Lab, id: &str) {
    until("the answer is delivered", || lab.explain(id)["request"]["delivered"].is_number().then_some(()));
    rest(lab);
    let request = lab.explain(id)["request"].clone();
    assert_eq!(request["settlement"]["reply"], ANSWER, "{request:#}");
    assert_eq!(prompts(lab, &format!("Result: {ANSWER}")), 1, "{request:#}");
    assert_eq!(lab.model_saw(&format!("{id}-r1")), 1, "{request:#}");
    assert_eq!(lab.ask("ECHO: and on it goes").ok(), "and on it goes\n");
}

/// Has askd's worker killed at an edge of the notice's paste, the only one that there is.
fn killed_at(edge: &'static str) -> Option<(Lab, String)> {
    let lab = stage_with(vec![("CCB_FAILPOINT", edge)])?;
    let id = asks(&lab, "0.5");
    until("the worker has died", || lab.dir().join("died").exists().then_some(()));
    Some((lab, id))
}

fn pids(lab: &Lab) -> (u32, u32) {
    let status = lab.status();
    (pid(&status["pid"]), pid(&status["keeper"]))
}

#[test]
fn the_worker_killed_before_the_notice_is_loaded() {
    let Some((lab, id)) = killed_at("paste.load=abort:{world}/died") else { return };
    // That it was not taken is proved, by Claude's own records: it is offered again.
    came_once(&lab, &id);
}

#[test]
fn the_worker_killed_between_loading_and_pasting() {
    let Some((lab, id)) = killed_at("paste.loaded=abort:{world}/died") else { return };
    came_once(&lab, &id);
}

#[test]
fn the_worker_killed_with_the_notice_in_the_composer() {
    let Some((lab, id)) = killed_at("paste.pasted=abort:{world}/died") else { return };
    // No key is pressed on what an earlier askd has left there: the human does it.
    let why = lab.until_state("waiting for you");
    assert!(why.contains("text in its composer"), "{why}");
    assert_eq!(prompts(&lab, &format!("Result: {ANSWER}")), 0);
    let _entered = lab.tmux(&["send-keys", "-t", &pane(&lab, "claude"), "Enter"]).ok();
    came_once(&lab, &id);
}

#[test]
fn the_worker_killed_after_enter() {
    let Some((lab, id)) = killed_at("paste.entered=abort:{world}/died") else { return };
    came_once(&lab, &id);
}

#[test]
fn askd_killed_while_codex_works_and_nobody_touches_anything() {
    let Some(lab) = stage_with(Vec::new()) else { return };
    let id = asks(&lab, "3");
    let _working = lab.until_request(&id, "working");
    let (worker, keeper) = pids(&lab);
    lab.kill(keeper);
    lab.kill(worker);
    // No command of ours is run before the notice is there: the panes alone bring askd back.
    until("Claude has got its notice", || (prompts(&lab, &format!("Result: {ANSWER}")) == 1).then_some(()));
    came_once(&lab, &id);
}

#[test]
fn the_worker_killed_while_claude_reads_its_notice() {
    let Some(lab) = stage_with(Vec::new()) else { return };
    let id = asks(&lab, "1");
    until("the notice is there", || (lab.model_saw(&format!("{id}-r1")) == 1).then_some(()));
    lab.kill(pids(&lab).0);
    came_once(&lab, &id);
}

#[test]
fn claude_killed_while_codex_works_for_it() {
    let Some(lab) = stage_with(Vec::new()) else { return };
    let id = asks(&lab, "3");
    let _working = lab.until_request(&id, "working");
    until("Claude's turn is over", || {
        let agents = lab.ccb(&["ps", "--json"]).json()["agents"].clone();
        (agents[0]["state"] == "idle").then_some(())
    });
    lab.kill(lab.claude_process());
    // Claude is started again in its session, and gets the answer there.
    came_once(&lab, &id);
}

#[test]
fn the_client_of_an_asking_agent_killed_before_it_is_answered() {
    let Some(lab) = stage_with(Vec::new()) else { return };
    let pane = pane(&lab, "claude");
    tell(&lab, &pane, &format!("TOOL: ask codex --wait SLEEP 3: {ANSWER}"));
    let id = until_asked(&lab);
    let _working = lab.until_request(&id, "working");
    // The client itself, and not the shell that Claude runs it in.
    let client = lab.processes().into_iter().find(|(_, line)| line.starts_with("ask codex")).unwrap().0;
    lab.kill(client);
    came_once(&lab, &id);
}

/// The other way round: Codex asks Claude by the MCP server, without waiting, and gets the notice by its own protocol.
/// askd's worker is killed at an edge of that hand-over.
fn killed_on_the_way_to_codex(edge: &'static str) {
    let Some(lab) = stage_with(vec![("CCB_FAILPOINT", edge)]) else { return };
    let asks = format!(r#"MCP: ccb ask {{"agent":"claude","message":"SLEEP 1: {ANSWER}","wait_s":0}}"#);
    tell(&lab, &pane(&lab, "codex"), &asks);
    until("the worker has died", || lab.dir().join("died").exists().then_some(()));
    until("Codex goes on with the answer", || (lab.model_saw("[CCB_TASK_COMPLETED]") == 1).then_some(()));
    rest(&lab);
    let request = lab.ccb(&["pend", "claude", "--json"]).json()["requests"][0].clone();
    assert_eq!((&request["asker"], &request["settlement"]["reply"]), (&"codex".into(), &ANSWER.into()), "{request:#}");
    assert!(request["delivered"].is_number(), "{request:#}");
    assert_eq!(lab.model_saw("[CCB_TASK_"), 1);
}

#[test]
fn the_worker_killed_before_codex_gets_its_notice() {
    killed_on_the_way_to_codex("codex.before-start=abort:{world}/died");
}

#[test]
fn the_worker_killed_after_codex_has_got_its_notice() {
    killed_on_the_way_to_codex("codex.started=abort:{world}/died");
}
