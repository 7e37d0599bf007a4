//! `kill -9` of each process at each edge: the outcome is true, the asker learns it, nothing is sent twice, and
//! the next request is answered without anybody's help.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::env::claude::completed;
use crate::env::{Lab, SOON, Setup, lab, until};

/// How long the request after a death may take: all that died is started again by then.
const NORMAL: Duration = Duration::from_secs(12);

/// Asserts that a request was given to the agent once and that the next one is answered soon.
#[track_caller]
fn goes_on(lab: &Lab, id: &str) {
    let began = Instant::now();
    assert_eq!(lab.ask("ECHO: and on it goes").ok(), "and on it goes\n");
    assert!(began.elapsed() < NORMAL, "{:?}", began.elapsed());
    assert_eq!(lab.consumed(id), 1, "{:?}", lab.user_messages());
    assert_eq!(lab.model_saw(id), 1);
}

#[track_caller]
fn failed(answer: &Value, reason: &str) {
    assert_eq!(answer["settlement"]["outcome"]["word"], "failed", "{answer}");
    assert_eq!(answer["settlement"]["outcome"]["reason"], reason, "{answer}");
}

/// Has askd's worker killed at an edge of the first request.
fn killed_at(edge: &'static str) {
    let environment = vec![("CCB_FAILPOINT", edge)];
    let Some(lab) = lab(Setup { environment, ..Setup::default() }) else { return };
    lab.start();
    let worker = lab.status()["pid"].clone();
    let answer = lab.ask_json("ECHO: once");
    assert!(lab.dir().join("died").exists());
    assert_ne!(lab.status()["pid"], worker);
    completed(&answer, "once");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

/// Has something die while a request is being worked on, and returns the request as it ended.
fn killed_in_mid_turn(kill: impl FnOnce(&Lab, &mut Option<crate::env::Going>)) -> Option<(Lab, Value)> {
    let lab = lab(Setup::default())?;
    lab.start();
    assert_eq!(lab.ask("ECHO: a turn before").ok(), "a turn before\n");
    let (id, going) = lab.ask_meanwhile("SLEEP 3: a slow answer");
    let _working = lab.until_request(&id, "working");
    until("the model answers", || (lab.model_saw(&id) == 1).then_some(()));
    let mut going = Some(going);
    kill(&lab, &mut going);
    let answer = match going {
        Some(going) => going.end().json(),
        None => lab.settled(&id),
    };
    assert_eq!(answer["id"], id.as_str());
    Some((lab, answer))
}

pub(crate) fn pid(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

#[test]
fn the_worker_killed_before_the_turn_starts() {
    killed_at("codex.before-start=abort:{world}/died");
}

#[test]
fn the_worker_killed_after_the_turn_has_started() {
    killed_at("codex.started=abort:{world}/died");
}

#[test]
fn askd_killed_before_the_threads_first_turn_then_a_request() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let status = lab.status();
    lab.kill(pid(&status["keeper"]));
    lab.kill(pid(&status["pid"]));
    let began = Instant::now();
    let answer = lab.ask_json("ECHO: first words");
    assert!(began.elapsed() < NORMAL, "{:?}", began.elapsed());
    completed(&answer, "first words");
    goes_on(&lab, answer["id"].as_str().unwrap());
    let _shown = lab.until_shown("first words");
}

#[test]
fn the_worker_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, _| lab.kill(pid(&lab.status()["pid"])));
    let Some((lab, answer)) = died else { return };
    completed(&answer, "a slow answer");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn the_keeper_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, _| lab.kill(pid(&lab.status()["keeper"])));
    let Some((lab, answer)) = died else { return };
    completed(&answer, "a slow answer");
    until("another keeper watches", || lab.status()["keeper"].is_number().then_some(()));
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn keeper_and_worker_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, _| {
        let status = lab.status();
        lab.kill(pid(&status["keeper"]));
        lab.kill(pid(&status["pid"]));
    });
    let Some((lab, answer)) = died else { return };
    completed(&answer, "a slow answer");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn the_asking_client_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, going| {
        let client = going.take().unwrap();
        crate::env::kill(client.pid());
        let _nothing = client.end();
        assert!(!lab.requests().is_empty());
    });
    let Some((lab, answer)) = died else { return };
    completed(&answer, "a slow answer");
    let id = answer["id"].as_str().unwrap();
    assert!(lab.ccb(&["pend", id]).ok().contains("a slow answer"));
    goes_on(&lab, id);
}

#[test]
fn the_app_server_killed_while_idle() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    for round in 0..2 {
        // Before the thread's first turn, and after it.
        lab.kill(lab.process("app-server"));
        let answer = lab.ask_json("ECHO: anew");
        completed(&answer, "anew");
        goes_on(&lab, answer["id"].as_str().unwrap());
        let _shown = lab.until_shown("anew");
        assert_eq!(lab.user_messages().len(), 2 * (round + 1));
    }
}

#[test]
fn the_app_server_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, _| lab.kill(lab.process("app-server")));
    let Some((lab, answer)) = died else { return };
    failed(&answer, "agent-gone");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn the_app_server_killed_in_the_threads_first_turn() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("SLEEP 20: a slow answer");
    until("the model answers", || (lab.model_saw(&id) == 1).then_some(()));
    lab.kill(lab.process("app-server"));
    failed(&going.end().json(), "agent-gone");
    goes_on(&lab, &id);
}

#[test]
fn the_tui_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, _| lab.kill(lab.process("--remote")));
    let Some((lab, answer)) = died else { return };
    completed(&answer, "a slow answer");
    let _shown = lab.until_shown("a slow answer");
    goes_on(&lab, answer["id"].as_str().unwrap());
    let _shown = lab.until_shown("and on it goes");
}

#[test]
fn the_runner_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, _| lab.kill(lab.process("/ccb run codex")));
    let Some((lab, answer)) = died else { return };
    failed(&answer, "agent-gone");
    goes_on(&lab, answer["id"].as_str().unwrap());
    let _shown = lab.until_shown("and on it goes");
}

#[test]
fn the_tmux_server_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab, _| {
        let said = lab.tmux(&["display-message", "-p", "#{pid}"]).ok();
        lab.kill(said.trim().parse().unwrap());
    });
    let Some((lab, answer)) = died else { return };
    failed(&answer, "agent-gone");
    goes_on(&lab, answer["id"].as_str().unwrap());
    let _shown = lab.until_shown("and on it goes");
}

#[test]
fn requests_that_wait_while_everything_of_ours_dies_are_all_answered() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let mut ids = vec![lab.submit("SLEEP 2: number 0")];
    ids.extend((1..6).map(|number| lab.submit(&format!("ECHO: number {number}"))));
    let status = lab.status();
    lab.kill(pid(&status["keeper"]));
    lab.kill(pid(&status["pid"]));
    lab.kill(lab.process("--remote"));
    let began = Instant::now();
    for (number, id) in ids.iter().enumerate() {
        completed(&lab.settled(id), &format!("number {number}"));
        assert_eq!((lab.consumed(id), lab.model_saw(id)), (1, 1));
    }
    assert!(began.elapsed() < SOON);
}
