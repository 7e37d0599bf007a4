//! Asking again what is over: only by the command that says so, as a new request of whoever calls, known as such
//! from both sides.

use crate::asks::{evidence, outcome};
use crate::deaths::goes_on;
use crate::env::{Setup, Stub, TestEnv, until};

#[test]
fn a_retry_asks_the_same_of_the_same_agent_and_is_known_from_both_sides() {
    let env = TestEnv::start(Setup::default());
    let first = env.run("ask", &["stub", "-t", "77", "--json"], "ECHO: once more").json();
    let first = first["id"].as_str().unwrap();
    assert_eq!(env.ccb(&["retry", first]).ok(), "once more\n");
    let said = env.ccb(&["retry", first, "--async", "--json"]);
    let second = said.json()["id"].as_str().unwrap().to_owned();
    env.settled(&second);
    let original = env.explain(first);
    let retries = original["request"]["retries"].as_array().unwrap().clone();
    assert_eq!((retries.len(), retries[1].as_str()), (2, Some(second.as_str())), "{original:#}");
    assert!(evidence(&original).iter().any(|fact| fact.contains(&format!("asked again by manual as {second}"))));
    let retry = env.explain(&second);
    assert_eq!(retry["request"]["retry_of"], first, "{retry:#}");
    let span =
        |request: &serde_json::Value| request["deadline"].as_i64().unwrap() - request["accepted"].as_i64().unwrap();
    assert_eq!((span(&retry["request"]), span(&original["request"])), (77_000, 77_000));
    let pend = env.ccb(&["pend", "stub", "3", "--json"]).json();
    let lineage: Vec<_> = pend["requests"].as_array().unwrap().iter().map(|one| one["retry_of"].clone()).collect();
    assert_eq!(lineage, [first.into(), first.into(), serde_json::Value::Null]);
    let shown = env.ccb(&["explain", &second]).ok() + &env.ccb(&["explain", first]).ok();
    for words in [format!("asks {first} again"), format!("asked again as {}", retries[0].as_str().unwrap())] {
        assert!(shown.contains(&words), "`{words}`: {shown}");
    }
    // The next worker knows it too.
    env.kill(env.askd().0);
    assert_eq!(env.explain(first)["request"]["retries"].as_array().map(Vec::len), Some(2));
    assert!(env.all_received("stub").values().all(|count| *count == 1));
}

#[test]
fn the_asker_of_a_retry_is_whoever_calls() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("asker"), Stub::new("helper")]));
    let first = env.ask_json("helper", "ECHO: help")["id"].as_str().unwrap().to_owned();
    let said = env.ask("asker", &format!("RUN: ccb retry {first}")).ok();
    assert!(said.contains("[CCB_ASYNC_SUBMITTED provider=helper]"), "{said}");
    let again = env.explain(&first)["request"]["retries"][0].as_str().unwrap().to_owned();
    assert_eq!(env.settled(&again)["asker"], "asker");
    until("the notice is there", || {
        env.questions("asker").iter().any(|text| text.contains(&format!("Task: {again}"))).then_some(())
    });
}

#[test]
fn what_cannot_be_asked_again_is_refused_with_its_reason() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("asker"), Stub::new("helper")]));
    let (working, going) = env.ask_meanwhile("helper", "SLEEP 30: never");
    env.until_request(&working, "working");
    let queued = env.submit("helper", &[], "ECHO: waits");
    env.ccb(&["retry", &working]).says(1, &["error: ", "is not over (working)", &format!("ccb cancel {working}")]);
    env.ccb(&["retry", &queued]).says(1, &["is not over (queued)"]);
    let _cancelled = env.ccb(&["cancel", &working]).ok();
    let _over = going.end();
    env.settled(&queued);
    env.ccb(&["retry", "20260101-000000-000-1-1"]).says(1, &["error: no request `20260101-000000-000-1-1`"]);
    let said = env.ask("asker", "RUN: ask helper 'ECHO: told'").ok();
    let id = said.split_once("(task: ").and_then(|(_, rest)| rest.split_once(')')).unwrap().0.to_owned();
    until("its notice has come", || env.explain(&id)["request"]["delivered"].is_number().then_some(()));
    env.ccb(&["retry", &format!("{id}-r1")]).says(1, &["is a notice", "nothing to ask again"]);
    env.ccb(&["retry", "helper"]).says(1, &["no request `helper`"]);
    env.ccb(&["retry"]).says(1, &["no request id is given"]);
    env.ccb(&["retry", &id, "and", "more"]).says(1, &["one word too many"]);
    assert_eq!(env.received("helper", &queued), 1);
    assert_eq!(env.all_received("helper").len(), 3);
    goes_on(&env, "helper");
}

#[test]
fn what_may_have_arrived_is_sent_again_by_this_command_alone_which_says_so() {
    let env = TestEnv::start(Setup::default());
    // It ends before it has written down that it was asked.
    let first = env.ask_json("stub", "CRASH");
    assert_eq!(outcome(&first, "failed"), "unknown-delivery");
    let id = first["id"].as_str().unwrap();
    goes_on(&env, "stub");
    assert_eq!(env.received("stub", id), 1);
    let said = env.ccb(&["retry", id, "--json"]);
    assert!(said.err.contains("note: it is not known whether `stub` got") && said.err.contains("twice"), "{said:?}");
    assert_eq!(said.json()["retry_of"], id);
    assert_eq!(env.received("stub", id), 1, "the first one itself is never sent again");
    goes_on(&env, "stub");
}
