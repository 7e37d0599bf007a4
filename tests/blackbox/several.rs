//! Asking several agents at once: one request each, and what a user sees of their answers.

use serde_json::Value;

use crate::asks::outcome;
use crate::env::{Setup, Stub, TestEnv, until};

fn three() -> Setup {
    Setup::of(["ada", "bob", "cyd"].map(Stub::new).into())
}

#[test]
fn the_answers_of_all_are_printed_in_the_order_of_their_names_under_them() {
    let env = TestEnv::start(three());
    // The first one to be printed is the last to answer.
    env.control("ada", r#"{"delay":1.5}"#);
    let said = env.run("ask", &["all"], "ECHO: here").ok();
    let want = ["ada", "bob", "cyd"].map(|name| format!("=== {name} (Codex) ===\nhere\n"));
    assert_eq!(said, want.join("\n"));
    let file = env.dir().join("answers").display().to_string();
    let said = env.run("ask", &["cyd,ada,cyd", "--output", &file, "ECHO: two"], "").ok();
    assert_eq!(said, "=== cyd (Codex) ===\ntwo\n\n=== ada (Codex) ===\ntwo\n");
    assert_eq!(std::fs::read_to_string(file).unwrap(), said);
    let ids: Vec<usize> = ["ada", "bob", "cyd"].map(|name| env.all_received(name).len()).into();
    assert_eq!(ids, [2, 1, 2], "each has a request of its own, and each was given once");
    until("all are acknowledged", || {
        let replies = env.ccb(&["pend", "cyd", "2", "--json"]).json();
        let all = replies["requests"].as_array()?.iter().all(|request| request["delivered"].is_number());
        all.then_some(())
    });
}

#[test]
fn the_worst_answer_gives_the_exit_code_and_is_told_with_its_agent() {
    let env = TestEnv::start(three());
    env.control("bob", r#"{"mode":"silent"}"#);
    let said = env.run("ask", &["all", "-t", "4"], "ECHO: here");
    said.says(2, &["error: bob: the deadline passed before the answer came"]);
    assert_eq!(said.out.matches("here\n").count(), 2, "{said:?}");
    let said = env.run("ask", &["ada,bob", "-t", "4", "--json"], "ECHO: here");
    assert_eq!(said.code, Some(2), "{said:?}");
    let all: Value = said.json();
    outcome(&all[0], "completed");
    outcome(&all[1], "incomplete");
    assert_eq!((all.as_array().map(Vec::len), &all[1]["agent"]), (Some(2), &"bob".into()));
}

#[test]
fn one_unknown_agent_refuses_all_before_anything_is_sent() {
    let env = TestEnv::start(three());
    let said = env.run("ask", &["ada,bab,cyd"], "ECHO: never");
    said.says(1, &["error: no agent `bab` in this project: nobody was asked", "hint: did you mean `bob`?"]);
    assert_eq!((env.status()["accepted"].as_u64(), env.requests().len()), (Some(0), 0));
}

#[test]
fn an_agent_that_asks_several_is_told_of_each_and_gets_each_answer_once() {
    let env = TestEnv::start(three());
    let said = env.ask("ada", "RUN: ask all 'SLEEP 0.2: for ada'").ok();
    for line in ["[CCB_ASYNC_SUBMITTED provider=bob]", "[CCB_ASYNC_SUBMITTED provider=cyd]"] {
        assert!(said.contains(line) && !said.contains("provider=ada]"), "{said}");
    }
    assert_eq!(said.matches("MANDATORY").count(), 1, "{said}");
    let notices = || env.questions("ada").iter().filter(|text| text.contains("[CCB_TASK_COMPLETED]")).count();
    until("both answers have come", || (notices() == 2).then_some(()));
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    // One that waits itself has them at once, and no notice beside: also of the one that answers long before.
    env.control("cyd", r#"{"delay":1}"#);
    let said = env.ask("ada", "RUN: ask bob,cyd --wait 'ECHO: at once'").ok();
    assert!(said.contains("=== bob (Codex) ===\nat once\n\n=== cyd (Codex) ===\nat once"), "{said}");
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    assert_eq!((notices(), env.all_received("ada").values().max()), (2, Some(&1)));
}

#[test]
fn askd_killed_while_several_are_waited_for_brings_each_answer_once() {
    let env = TestEnv::start(three());
    let going = env.begin("ask", &["all", "-t", "60"], "SLEEP 1.5: all the same");
    until("all are at work", || {
        let overview = env.ps();
        let requests = overview["requests"].as_array()?;
        (requests.len() == 3 && requests.iter().all(|request| request["state"] == "working")).then_some(())
    });
    env.kill(env.askd().0);
    let said = going.end().ok();
    assert_eq!(said.matches("all the same\n").count(), 3, "{said}");
    for name in ["ada", "bob", "cyd"] {
        assert_eq!(env.all_received(name).values().copied().collect::<Vec<_>>(), [1]);
    }
}
