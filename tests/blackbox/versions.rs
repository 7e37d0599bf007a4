//! Programs of different versions in one project, and a daemon that is ended in order while it is needed.

use crate::env::{Run, Setup, Stub, TestEnv, until, within};

/// How long something would take that must not happen.
const A_WHILE: std::time::Duration = std::time::Duration::from_secs(1);

/// A version of another protocol.
const NEWER: &str = "2@9.0.0";

/// Runs a program that pretends to be of this protocol and version.
fn speaking(env: &TestEnv, version: &str, program: &str, args: &[&str]) -> Run {
    env.begin_with(program, args, "ECHO: hello", |command| command.env("CCB_PRETEND", version)).end()
}

#[test]
fn versions_of_one_protocol_ask_in_turn_and_none_replaces_the_other() {
    let env = TestEnv::start(Setup::of(vec![Stub::blind("stub")]));
    let before = env.askd();
    for _ in 0..5 {
        assert_eq!(speaking(&env, "1@9.9.9", "ask", &["stub"]).ok(), "hello\n");
        assert_eq!(env.ask("stub", "ECHO: as well").ok(), "as well\n");
    }
    assert_eq!(env.askd(), before);
}

#[test]
fn a_newer_ccb_replaces_an_older_daemon_that_nobody_needs_and_its_requests_stay() {
    let env = TestEnv::new(Setup::default());
    let id = env.submit("stub", &[], "ECHO: kept");
    let before = env.status();
    let newer = speaking(&env, NEWER, "ccb", &["status", "--json"]).json();
    assert_ne!(newer["pid"], before["pid"]);
    assert_eq!(newer["generation"].as_u64(), before["generation"].as_u64().map(|n| n + 1));
    assert!(newer["last_end"].as_str().is_some_and(|end| end.contains("replaced by version 9.0.0")), "{newer:#}");
    // From now on each is used in turn: the older one is refused, and nothing is replaced any more.
    for _ in 0..5 {
        env.ccb(&["ps"]).says(1, &["protocol 2", "speaks 1", "hint: use the ccb that is as new"]);
        let seen = speaking(&env, NEWER, "ccb", &["ps", "--json"]).json();
        assert_eq!(seen["requests"][0]["id"], id.as_str(), "{seen:#}");
    }
    assert_eq!(speaking(&env, NEWER, "ccb", &["status", "--json"]).json()["pid"], newer["pid"]);
    // Forced, the older one has its way, once.
    let forced = env.begin_with("ccb", &["ps", "--json"], "", |command| command.env("CCB_FORCE_REBIND", "Yes")).end();
    assert_eq!(forced.json()["requests"][0]["id"], id.as_str());
    env.mount();
    assert_eq!(env.settled(&id)["settlement"]["reply"], "kept");
    assert_eq!(env.received("stub", &id), 1);
}

#[test]
fn a_daemon_whose_agents_run_is_replaced_by_force_only() {
    let env = TestEnv::start(Setup::default());
    let before = env.status();
    let refused = speaking(&env, NEWER, "ask", &["stub"]);
    refused.says(1, &["its agents run", "CCB_FORCE_REBIND=1"]);
    assert_eq!(env.status()["pid"], before["pid"]);
    assert_eq!(env.ask("stub", "ECHO: still there").ok(), "still there\n");
    let forced = |args: &[&str]| {
        let force = |command: &mut std::process::Command| {
            command.env("CCB_FORCE_REBIND", "1").env("CCB_PRETEND", NEWER);
        };
        env.begin_with("ccb", args, "", |command| {
            force(command);
            command
        })
        .end()
        .json()
    };
    assert_ne!(forced(&["status", "--json"])["pid"], before["pid"]);
    let why = until("the pane's version is told", || {
        let why = forced(&["ps", "--json"])["agents"][0]["why"].as_str().unwrap_or_default().to_owned();
        why.contains("another version").then_some(why)
    });
    assert!(why.contains("close it"), "{why}");
    assert!(env.events_of("stub", "exit").is_empty(), "the agent goes on in its pane");
}

#[test]
fn a_daemon_that_is_shut_down_while_somebody_waits_loses_nothing() {
    let env = TestEnv::start(Setup::of(vec![Stub::blind("stub")]));
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: whole");
    let _working = env.until_request(&id, "working");
    let before = env.askd();
    let _ended = env.run("askd", &["--shutdown"], "").ok();
    assert!(env.processes().iter().all(|(pid, _)| *pid != before.0), "it has said that it has ended");
    let run = going.end();
    assert_eq!(run.json()["settlement"]["reply"], "whole");
    assert_eq!(env.received("stub", &id), 1);
    assert!(env.log().contains("stopping: asked by `askd --shutdown`"), "{}", env.log());
}

#[test]
fn a_daemon_with_a_live_owner_is_ended_by_nobody_else_unless_forced() {
    let env = TestEnv::new(Setup::default());
    let mut owner = env.begin("sleep", &["1000"], "");
    let pid = owner.pid().to_string();
    let managed = |command: &mut std::process::Command| {
        command.env("CCB_PARENT_PID", &pid).env("CCB_MANAGED", "1");
    };
    let started = env.begin_with("ccb", &["status", "--json"], "", |command| {
        managed(command);
        command
    });
    let before = started.end().json();
    assert_eq!(before["owner"]["pid"].as_u64(), Some(owner.pid().into()), "{before:#}");
    let refused = env.run("askd", &["--shutdown"], "");
    assert_eq!(refused.code, Some(1));
    assert!(refused.out.contains(&format!("it belongs to process {pid}")), "{refused:?}");
    speaking(&env, NEWER, "ccb", &["ps"]).says(1, &["it belongs to process", "CCB_FORCE_REBIND=1"]);
    assert_eq!(env.status()["pid"], before["pid"]);
    let forced = env.begin_with("askd", &["--shutdown"], "", |command| command.env("CCB_FORCE_REBIND", "on"));
    assert_eq!(forced.end().code, Some(0));
    assert!(env.processes().iter().all(|(_, line)| !line.contains("askd --worker")), "{:?}", env.processes());
    assert!(!owner.is_over());
    env.kill_child(owner);
}

#[test]
fn where_nothing_serves_there_is_nothing_to_shut_down() {
    let env = TestEnv::new(Setup::default());
    let _started = env.submit("stub", &[], "ECHO: later");
    let _ended = env.run("askd", &["--shutdown"], "").ok();
    assert!(
        within(A_WHILE, || env.processes().iter().any(|(_, line)| line.contains("askd --worker")).then_some(()))
            .is_none()
    );
    let again = env.run("askd", &["--shutdown"], "");
    assert_eq!(again.code, Some(1));
    assert!(again.out.contains("no askd serves"), "{again:?}");
}
