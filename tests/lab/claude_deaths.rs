//! `kill -9` of each process around Claude at each edge: the outcome is true, nothing is sent twice, and the next
//! request is answered.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::deaths::pid;
use crate::env::claude::{completed, outcome};
use crate::env::{Going, Lab, Setup, kill, lab, until};

/// How long the request after a death may take: all that died is started again by then.
const NORMAL: Duration = Duration::from_secs(15);

/// Asserts that a request was given to Claude once and that the next one is answered soon.
#[track_caller]
fn goes_on(lab: &Lab, id: &str) {
    let began = Instant::now();
    assert_eq!(lab.ask("ECHO: and on it goes").ok(), "and on it goes\n");
    assert!(began.elapsed() < NORMAL, "{:?}", began.elapsed());
    assert_eq!(lab.consumed(id), 1, "{:?}", lab.user_messages());
}

/// Has askd's worker killed at an edge of the first request.
fn killed_at(edge: &'static str) -> Option<(Lab, String)> {
    let environment = vec![("CCB_FAILPOINT", edge), ("CCB_PROOF_GRACE_S", "2")];
    let lab = lab(Setup { environment, ..Setup::claude() })?;
    lab.start();
    let id = lab.submit("ECHO: once");
    until("the worker has died", || lab.dir().join("died").exists().then_some(()));
    Some((lab, id))
}

/// Has the worker killed where the request is answered all the same.
fn answered_after(edge: &'static str) {
    let Some((lab, id)) = killed_at(edge) else { return };
    completed(&lab.settled(&id), "once");
    goes_on(&lab, &id);
}

/// Has the worker killed while our text is in the composer: it is the human's then to send.
fn left_to_the_human_after(edge: &'static str) {
    let Some((lab, id)) = killed_at(edge) else { return };
    let answer = lab.settled(&id);
    assert_eq!(outcome(&answer), "failed/unknown-delivery", "{answer}");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("composer"), "{why}");
    assert!(lab.user_messages().is_empty());
    lab.presses("Enter");
    until("the late answer is attached", || {
        (lab.explain(&id)["request"]["settlement"]["late"]["reply"] == "once").then_some(())
    });
    goes_on(&lab, &id);
}

/// Has something die while a request is being worked on, and returns the request as it ended.
fn killed_in_mid_turn(death: impl FnOnce(&Lab, &mut Option<Going>)) -> Option<(Lab, Value)> {
    let lab = lab(Setup::claude())?;
    lab.start();
    assert_eq!(lab.ask("ECHO: a turn before").ok(), "a turn before\n");
    let (id, going) = lab.ask_meanwhile("SLEEP 4: a slow answer");
    let _working = lab.until_request(&id, "working");
    let mut going = Some(going);
    death(&lab, &mut going);
    let answer = match going {
        Some(going) => going.end().json(),
        None => lab.settled(&id),
    };
    assert_eq!(answer["id"], id.as_str());
    Some((lab, answer))
}

#[track_caller]
fn answered_once(died: Option<(Lab, Value)>) {
    let Some((lab, answer)) = died else { return };
    completed(&answer, "a slow answer");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[track_caller]
fn gone(died: Option<(Lab, Value)>) {
    let Some((lab, answer)) = died else { return };
    assert_eq!(outcome(&answer), "failed/agent-gone", "{answer}");
    goes_on(&lab, answer["id"].as_str().unwrap());
    let _shown = lab.until_shown("● and on it goes");
}

#[test]
fn claude_and_a_worker_killed_before_the_paste() {
    answered_after("paste.load=abort:{world}/died");
}

#[test]
fn claude_and_a_worker_killed_with_the_text_loaded() {
    answered_after("paste.loaded=abort:{world}/died");
}

#[test]
fn claude_and_a_worker_killed_after_the_paste() {
    left_to_the_human_after("paste.pasted=abort:{world}/died");
}

#[test]
fn claude_and_a_worker_killed_before_enter() {
    left_to_the_human_after("paste.enter=abort:{world}/died");
}

#[test]
fn claude_and_a_worker_killed_after_enter() {
    answered_after("paste.entered=abort:{world}/died");
}

#[test]
fn claude_and_a_worker_killed_in_mid_turn() {
    answered_once(killed_in_mid_turn(|lab, _| lab.kill(pid(&lab.status()["pid"]))));
}

#[test]
fn claude_and_a_keeper_killed_in_mid_turn() {
    answered_once(killed_in_mid_turn(|lab, _| lab.kill(pid(&lab.status()["keeper"]))));
}

#[test]
fn claude_and_keeper_and_worker_killed_in_mid_turn() {
    answered_once(killed_in_mid_turn(|lab, _| {
        let status = lab.status();
        lab.kill(pid(&status["keeper"]));
        lab.kill(pid(&status["pid"]));
    }));
}

#[test]
fn claude_and_an_asking_client_killed_in_mid_turn() {
    answered_once(killed_in_mid_turn(|_, going| {
        let client = going.take().unwrap();
        kill(client.pid());
        let _nothing = client.end();
    }));
}

#[test]
fn claude_and_its_hook_killed_in_mid_turn() {
    answered_once(killed_in_mid_turn(|lab, _| {
        let worker = i32::try_from(pid(&lab.status()["pid"])).unwrap();
        let worker = rustix::process::Pid::from_raw(worker).unwrap();
        rustix::process::kill_process(worker, rustix::process::Signal::STOP).unwrap();
        // The hook of the turn's end finds nobody who takes its word.
        lab.kill(lab.process("ccb hook"));
        rustix::process::kill_process(worker, rustix::process::Signal::CONT).unwrap();
    }));
}

#[test]
fn claude_killed_in_mid_turn() {
    gone(killed_in_mid_turn(|lab, _| lab.kill(lab.claude_process())));
}

#[test]
fn claudes_runner_killed_in_mid_turn() {
    gone(killed_in_mid_turn(|lab, _| lab.kill(lab.process("/ccb run claude"))));
}

#[test]
fn claudes_tmux_server_killed_in_mid_turn() {
    gone(killed_in_mid_turn(|lab, _| {
        let said = lab.tmux(&["display-message", "-p", "#{pid}"]).ok();
        lab.kill(said.trim().parse().unwrap());
    }));
}

#[test]
fn claude_and_the_worker_killed_together_in_mid_turn() {
    gone(killed_in_mid_turn(|lab, _| {
        lab.kill(pid(&lab.status()["pid"]));
        lab.kill(lab.claude_process());
    }));
}

#[test]
fn requests_that_wait_for_claude_while_everything_of_ours_dies_are_all_answered() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let mut ids = vec![lab.submit("SLEEP 2: number 0")];
    ids.extend((1..5).map(|number| lab.submit(&format!("ECHO: number {number}"))));
    // One whose text is just on its way into the composer would be left to the human.
    let _working = lab.until_request(&ids[0], "working");
    let status = lab.status();
    lab.kill(pid(&status["keeper"]));
    lab.kill(pid(&status["pid"]));
    for (number, id) in ids.iter().enumerate() {
        completed(&lab.settled(id), &format!("number {number}"));
        assert_eq!(lab.consumed(id), 1);
    }
}

#[test]
fn what_claude_took_before_a_clear_that_askd_did_not_see_is_found_there() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let id = lab.submit("SLEEP 2: before the clear");
    let _working = lab.until_request(&id, "working");
    let status = lab.status();
    let askd = [pid(&status["keeper"]), pid(&status["pid"])];
    let socket = status["attach"]["socket"].as_str().unwrap().to_owned();
    let tmux = |args: &[&str]| lab.run("tmux", &[&["-S", &socket], args].concat(), "").ok();
    let shows = |text: &str| tmux(&["capture-pane", "-p", "-t", "ccb:"]).contains(text);
    for pid in askd {
        let _stopped = lab.run("kill", &["-STOP", &pid.to_string()], "").ok();
    }
    until("Claude has answered", || {
        lab.transcript().iter().any(|line| line["subtype"] == "turn_duration").then_some(())
    });
    let _typed = tmux(&["send-keys", "-t", "ccb:", "-l", "/clear"]);
    until("it stands in the composer", || shows("❯\u{a0}/clear").then_some(()));
    let _sent = tmux(&["send-keys", "-t", "ccb:", "Enter"]);
    until("the conversation is another one", || (!shows("before the clear")).then_some(()));
    for pid in askd {
        lab.kill(pid);
    }
    let request = lab.settled(&id);
    completed(&request, "before the clear");
    assert_eq!(lab.model_saw(&id), 1);
}
