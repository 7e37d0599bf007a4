//! Agents that ask agents: what is shown of it, and what is refused.

use serde_json::Value;

use crate::asks::outcome;
use crate::env::{Setup, Stub, TestEnv, until};

fn three() -> Setup {
    Setup::of(vec![Stub::new("alice"), Stub::new("bob"), Stub::new("carol")])
}

/// Waits until nothing is open and everybody is free; nothing was typed to anybody twice.
#[track_caller]
fn comes_to_rest(env: &TestEnv, agents: &[&str]) {
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    for agent in agents {
        assert_eq!(env.ask(agent, "ECHO: free").ok(), "free\n");
        assert!(env.all_received(agent).values().all(|count| *count == 1), "{:?}", env.all_received(agent));
    }
}

#[test]
fn a_child_shows_its_parent() {
    let env = TestEnv::start(three());
    let (parent, going) = env.ask_meanwhile("alice", "RUN: ask bob --wait --json 'SLEEP 1: from bob'");
    let shown = until("the child is open", || {
        let overview = env.ps();
        let mut open = overview["requests"].as_array().into_iter().flatten();
        open.find(|request| request["agent"] == "bob").cloned()
    });
    assert_eq!((&shown["parent"], &shown["asker"]), (&parent.as_str().into(), &"alice".into()), "{shown:#}");
    assert_eq!(env.explain(&parent)["request"]["parent"], Value::Null);
    let reply = going.end().json()["settlement"]["reply"].as_str().unwrap().to_owned();
    let child: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!((&child["parent"], &child["id"]), (&parent.as_str().into(), &shown["id"]));
    let text = env.ccb(&["explain", child["id"].as_str().unwrap()]).ok();
    assert!(text.contains(&format!("\n  asked while working on {parent}\n")), "{text}");
    comes_to_rest(&env, &["alice", "bob"]);
}

#[test]
fn agents_that_ask_agents_are_stopped_at_the_limit() {
    let env = TestEnv::start(three().with("CCB_MAX_DEPTH", "2"));
    let prompt = r#"RUN: ask bob --wait "RUN: ask carol --async 'ECHO: never'""#;
    let said = env.ask("alice", prompt).ok();
    assert!(said.contains("error: agents have asked one another 2 deep"), "{said}");
    assert!(said.contains("hint: ") && said.contains("CCB_MAX_DEPTH"), "{said}");
    assert!(env.all_received("carol").is_empty());
    // One less is no harm, nor is one thing after another.
    assert_eq!(env.ask("alice", "RUN: ask bob --wait 'ECHO: one'; ask carol --wait 'ECHO: two'").ok(), "one\ntwo\n");
    comes_to_rest(&env, &["alice", "bob", "carol"]);
}

#[test]
fn an_agent_has_so_many_open_requests_and_no_more() {
    let env = TestEnv::start(three().with("CCB_MAX_OPEN", "2"));
    let asks = ["ask bob --async 'SLEEP 2: one'", "ask carol --async 'SLEEP 2: two'", "ask bob --async 'ECHO: never'"];
    let said = env.ask("alice", &format!("RUN: {}", asks.join("; "))).ok();
    assert_eq!(said.matches("[CCB_ASYNC_SUBMITTED").count(), 2, "{said}");
    assert!(said.contains("error: you have 2 open requests, and an agent may have 2"), "{said}");
    assert!(said.contains("CCB_MAX_OPEN"), "{said}");
    until("both notices are there", || {
        let notices = env.questions("alice").iter().filter(|text| text.contains("[CCB_TASK_COMPLETED]")).count();
        (notices == 2).then_some(())
    });
    assert_eq!((env.all_received("bob").len(), env.all_received("carol").len()), (1, 1));
    comes_to_rest(&env, &["alice", "bob", "carol"]);
}

#[test]
fn of_all_that_are_asked_those_that_were_not_are_named() {
    let env = TestEnv::start(three().with("CCB_MAX_OPEN", "1"));
    let said = env.ask("alice", "RUN: ask all 'SLEEP 1: for all'").ok();
    assert!(said.contains("[CCB_ASYNC_SUBMITTED provider=bob]") && said.contains("MANDATORY"), "{said}");
    let refused = ["error: carol (", "): you have 1 open request, and an agent may have 1"];
    assert!(refused.iter().all(|words| said.contains(words)), "{said}");
    comes_to_rest(&env, &["alice", "bob", "carol"]);
}

#[test]
fn agents_that_would_wait_for_each_other_are_told() {
    let env = TestEnv::start(three());
    let prompt = r#"RUN: ask bob --wait "RUN: ask alice --wait 'ECHO: never'""#;
    let request = env.ask_json("alice", prompt);
    assert_eq!(outcome(&request, "completed"), "");
    let reply = request["settlement"]["reply"].as_str().unwrap();
    let told = "error: bob → alice → bob: bob would wait for alice, which waits for bob: neither could go on\n\
                hint: ask without waiting (`ask --async`), or answer yourself";
    assert!(reply.contains(told), "{reply}");
    assert_eq!(env.all_received("alice").len(), 1);
    assert_eq!(env.all_received("bob").len(), 1);

    // Without waiting it is no ring: alice answers when she is free, and bob has a notice.
    let prompt = r#"RUN: ask bob --wait "RUN: ask alice --async 'ECHO: later'""#;
    assert!(env.ask("alice", prompt).ok().contains("[CCB_ASYNC_SUBMITTED provider=alice]"));
    until("bob has the answer", || {
        env.questions("bob").iter().any(|text| text.contains("Result: later")).then_some(())
    });
    let alone = env.ask("alice", "RUN: ask alice --wait 'ECHO: never'").ok();
    assert!(alone.contains("error: alice → alice: alice would wait for itself"), "{alone}");
    comes_to_rest(&env, &["alice", "bob"]);
}
