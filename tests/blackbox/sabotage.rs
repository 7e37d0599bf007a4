//! The safeguards are what holds the promises: with each of them switched off (debug builds have the switches), the
//! scenario that it is there for goes wrong, and is seen to.

use std::time::Duration;

use rustix::process::Signal;

use crate::env::{SOON, Setup, Stub, TestEnv, signal, until, within};

/// A scenario goes right with its safeguard, and wrong without it.
#[track_caller]
fn holds(safeguard: &str, scenario: fn(Setup) -> Result<(), String>) {
    let setup = Setup::default().with("CCB_PROOF_GRACE_S", "0.5");
    assert_eq!(scenario(setup.clone()), Ok(()));
    if cfg!(debug_assertions) {
        let violation = scenario(setup.with("CCB_SABOTAGE", safeguard));
        assert!(violation.is_err(), "nothing went wrong without `{safeguard}`");
    }
}

/// Returns the error unless the condition holds.
fn demand(holds: bool, violation: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(violation()) }
}

#[test]
fn without_the_lock_a_second_keeper_watches_beside_the_first() {
    holds("lock", |setup| {
        let env = TestEnv::start(setup);
        let (worker, keeper) = env.askd();
        let project = env.project().display().to_string();
        let mut second = env.begin("askd", &["--project", &project], "");
        let ended = within(Duration::from_secs(3), || second.is_over().then_some(()));
        demand(ended.is_some(), || "a second keeper stays".to_owned())?;
        let said = second.end().ok();
        demand(said == "held\n", || format!("the second keeper says {said:?}"))?;
        demand(env.askd() == (worker, keeper), || "askd was replaced".to_owned())
    });
}

#[test]
fn without_the_idle_check_a_busy_agent_is_typed_into() {
    holds("idle-check", |setup| {
        // Of an agent whose screen is read, the screen would still show it.
        let env = TestEnv::start(Setup { agents: vec![Stub::blind("stub")], ..setup });
        let first = env.submit("stub", &[], "SLEEP 1: first");
        env.until_request(&first, "working");
        let second = env.submit("stub", &[], "ECHO: second");
        let typed = |env: &TestEnv| !env.events_of("stub", "queued_while_busy").is_empty();
        within(SOON, || (typed(&env) || env.received("stub", &second) == 1).then_some(()));
        demand(!typed(&env), || "the second request was submitted while the agent was busy".to_owned())
    });
}

#[test]
fn without_proof_a_request_is_given_to_its_agent_twice() {
    holds("proof", |setup| {
        // Its records go where nobody looks: whether it has taken the request is never proved.
        let agents = vec![Stub::new("stub").with(&["--transcript", "{world}/elsewhere.jsonl"])];
        let env = TestEnv::start(Setup { agents, ..setup });
        let id = env.submit("stub", &[], "ECHO: once");
        within(SOON, || {
            (env.explain(&id)["request"]["state"] == "settled" || env.received("stub", &id) > 1).then_some(())
        });
        let received = env.received("stub", &id);
        demand(received == 1, || format!("it was received {received} times"))?;
        let request = env.settled(&id);
        demand(request["settlement"]["outcome"]["reason"] == "unknown-delivery", || request.to_string())
    });
}

#[test]
fn without_acknowledgement_an_asker_that_dies_never_learns_the_answer() {
    holds("acknowledgement", |setup| {
        let env = TestEnv::start(Setup { agents: vec![Stub::new("asker"), Stub::new("helper")], ..setup });
        let client =
            env.begin_with("ask", &["helper", "--wait"], "SLEEP 1: help", |command| command.env("CCB_CALLER", "asker"));
        let id = until("the request is accepted", || env.requests().pop());
        env.until_request(&id, "working");
        // It gets the answer, and dies before it has printed it.
        signal(client.pid(), Signal::STOP);
        let request = env.settled(&id);
        env.kill_child(client);
        demand(request["delivered"].is_null(), || "the answer counts as delivered, and was never printed".to_owned())?;
        let told =
            within(SOON, || env.questions("asker").iter().any(|text| text.contains("Result: help")).then_some(()));
        demand(told.is_some(), || "no notice brought the answer".to_owned())
    });
}

#[test]
fn without_fencing_a_worker_goes_on_that_has_lost_its_lock() {
    holds("fencing", |setup| {
        let env = TestEnv::start(setup);
        let (worker, _) = env.askd();
        std::fs::remove_file(env.state().join("askd.lock")).unwrap();
        let request = env.ask_json("stub", "ECHO: by a worker that holds the lock");
        demand(env.askd().0 != worker, || "the worker without a lock has offered a request".to_owned())?;
        demand(request["settlement"]["outcome"]["word"] == "completed", || request.to_string())
    });
}
