//! Every way a turn can end on the watched rung, with stub agents of all five kinds.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::asks::{evidence, outcome};
use crate::env::{Setup, Stub, TestEnv, until};

/// The five kinds of agents.
const KINDS: [&str; 5] = ["codex", "claude", "gemini", "opencode", "droid"];

/// Returns a stub of that kind, named by it.
fn kind(provider: &'static str) -> Stub {
    Stub { provider, ..Stub::new(provider) }
}

/// Returns a world with stubs of these kinds.
fn world(kinds: &[&'static str]) -> Setup {
    Setup::of(kinds.iter().map(|&provider| kind(provider)).collect())
}

/// Returns the reply and what ended it.
fn ended(request: &Value) -> (&str, &str) {
    let word = |key: &str| request["settlement"][key].as_str().unwrap_or_default();
    (word("reply"), word("ended_by"))
}

/// Waits until a late answer is attached to a request, and returns it.
fn late(env: &TestEnv, id: &str) -> Value {
    until("the late answer is attached", || {
        let request = env.explain(id)["request"].clone();
        request["settlement"]["late"].is_object().then(|| request["settlement"]["late"].clone())
    })
}

/// Starts a world whose one agent has another line in its table.
fn with_line(setup: Setup, line: &str) -> TestEnv {
    let env = TestEnv::new(setup);
    let file = env.project().join(".ccb/ccb.config");
    let text = std::fs::read_to_string(file).expect("a configuration");
    env.configure(&format!("{text}{line}\n"));
    let _trusted = env.ccb(&["trust", "--yes"]).ok();
    env.mount();
    env
}

#[test]
fn each_kind_of_agent_answers_on_the_watched_rung() {
    let env = TestEnv::start(world(&KINDS));
    for kind in KINDS {
        let request = env.ask_json(kind, &format!("ECHOALL: I am {kind}\nand é 漢字 \"quoted\""));
        assert_eq!(outcome(&request, "completed"), "", "{kind}");
        assert_eq!(ended(&request), (format!("I am {kind}\nand é 漢字 \"quoted\"").as_str(), "marker"));
        assert_eq!(env.agent(kind)["rung"], "watched");
        let request = env.ask_json(kind, "ECHO:");
        assert_eq!(outcome(&request, "incomplete"), "empty", "{kind}");
        assert_eq!(env.received(kind, request["id"].as_str().unwrap()), 1);
    }
}

#[test]
fn each_kind_of_agent_answers_where_files_cannot_be_watched() {
    let env = TestEnv::new(world(&KINDS).with("CCB_FAILPOINT", "follow.watch=fail-while:{world}/full"));
    std::fs::write(env.dir().join("full"), "").unwrap();
    env.mount();
    for provider in KINDS {
        let answer = env.ask_json(provider, "ECHO: looked for");
        assert_eq!(ended(&answer).0, "looked for", "{provider}: {answer}");
    }
    assert!(env.log().contains("files cannot be watched"));
}

#[test]
fn five_clients_ask_each_kind_of_agent_twenty_times() {
    let env = TestEnv::start(world(&KINDS));
    let ask = |kind: &str, client: usize| {
        for number in 0..4 {
            let token = format!("{kind}-{client}-{number}");
            assert_eq!(env.run("ask", &[kind, "-t", "300"], &format!("ECHO: {token}")).ok(), format!("{token}\n"));
        }
    };
    std::thread::scope(|scope| {
        for kind in KINDS {
            for client in 0..5 {
                scope.spawn(move || ask(kind, client));
            }
        }
    });
    for kind in KINDS {
        let received = env.all_received(kind);
        assert_eq!((received.len(), received.values().max()), (20, Some(&1)), "{kind}");
    }
}

#[test]
fn an_answer_in_several_messages_comes_whole() {
    let env = TestEnv::start(world(&["codex", "gemini", "droid"]));
    for kind in ["codex", "gemini", "droid"] {
        let request = env.ask_json(kind, "STEPS 0.3: one | two | three");
        assert_eq!(outcome(&request, "completed"), "", "{kind}");
        assert_eq!(ended(&request), ("one\ntwo\nthree", "marker"), "{kind}");
        let request = env.ask_json(kind, "STEPS 0.3: the mark stands alone |");
        assert_eq!(ended(&request), ("the mark stands alone", "marker"), "{kind}");
    }
}

#[test]
fn a_human_who_interrupts_ends_the_request_with_what_there_is() {
    let env = TestEnv::start(world(&["codex"]));
    let (id, going) = env.ask_meanwhile("codex", "HALF: so far");
    env.until_request(&id, "working");
    env.presses("codex", &["Escape"]);
    let request = going.end().json();
    assert_eq!(outcome(&request, "incomplete"), "interrupted");
    assert_eq!(ended(&request), ("so far", "record"));
    assert_eq!(env.ask("codex", "ECHO: and on").ok(), "and on\n");
}

#[test]
fn an_interrupt_that_leaves_no_record_costs_the_idle_window() {
    let env = TestEnv::start(world(&["claude", "droid", "gemini"]).with("CCB_QUIET_WINDOW_S", "0.7"));
    for kind in ["claude", "droid", "gemini"] {
        let (id, going) = env.ask_meanwhile(kind, "STEPS 30: so far | never");
        env.until_request(&id, "working");
        env.presses(kind, &["Escape"]);
        let request = going.end().json();
        assert_eq!(outcome(&request, "incomplete"), "quiet", "{kind}");
        assert_eq!(ended(&request), ("so far", "quiet"), "{kind}");
        assert_eq!(env.ask(kind, "ECHO: and on").ok(), "and on\n");
    }
}

#[test]
fn a_cancel_is_confirmed_and_keeps_what_was_said() {
    let env = TestEnv::start(world(&["codex", "claude"]));
    for (kind, by) in [("codex", "by transcript record"), ("claude", "by quiet")] {
        let (id, going) = env.ask_meanwhile(kind, "HALF: so far");
        env.until_request(&id, "working");
        let _cancelled = env.ccb(&["cancel", &id]).ok();
        let request = going.end().json();
        outcome(&request, "cancelled");
        assert_eq!(ended(&request).0, "so far", "{kind}");
        let facts = evidence(&env.explain(&id));
        assert!(facts.iter().any(|fact| fact.contains("turn ended") && fact.contains(by)), "{kind}: {facts:#?}");
        assert_eq!(env.events_of(kind, "interrupted").len(), 1);
        assert_eq!(env.ask(kind, "ECHO: and on").ok(), "and on\n");
    }
}

#[test]
fn a_cancel_stops_an_agent_whose_records_do_not_show_yet_what_it_was_asked() {
    let kinds = ["gemini", "opencode"];
    let env = TestEnv::start(world(&kinds).with("CCB_PROOF_GRACE_S", "1"));
    for kind in kinds {
        let (id, going) = env.ask_meanwhile(kind, "SLEEP 60: never");
        until("it works", || (env.received(kind, &id) == 1).then_some(()));
        env.until_request(&id, "offered");
        until("its screen shows that", || env.screen(kind).contains("· working").then_some(()));
        let _cancelled = env.ccb(&["cancel", &id]).ok();
        outcome(&going.end().json(), "cancelled");
        assert_eq!(env.events_of(kind, "interrupted").len(), 1, "{kind}");
        assert_eq!(env.ask(kind, "ECHO: and on").ok(), "and on\n");
    }
}

#[test]
fn another_session_in_mid_request_ends_it_with_what_the_old_one_shows() {
    let kinds = ["codex", "droid", "gemini"];
    let env = TestEnv::start(world(&kinds));
    for kind in kinds {
        let (id, going) = env.ask_meanwhile(kind, "HALF: so far");
        env.until_request(&id, "working");
        env.presses(kind, &["/new", "Enter"]);
        let request = going.end().json();
        assert_eq!(outcome(&request, "incomplete"), "interrupted", "{kind}");
        assert_eq!(ended(&request), ("so far", "record"), "{kind}");
        assert_eq!(env.ask(kind, "ECHO: in the new one").ok(), "in the new one\n");
        assert_eq!(env.received(kind, &id), 1);
    }
}

#[test]
fn a_transcript_that_is_rotated_in_mid_request_is_followed() {
    let env = TestEnv::start(world(&["codex", "claude", "droid"]));
    for kind in ["codex", "claude", "droid"] {
        let (id, going) = env.ask_meanwhile(kind, "STEPS 1: before | after");
        env.until_request(&id, "working");
        std::fs::rename(env.file(kind, "jsonl"), env.file(kind, "jsonl.1")).unwrap();
        let request = going.end().json();
        assert_eq!(outcome(&request, "completed"), "", "{kind}");
        assert_eq!(ended(&request), ("before\nafter", "marker"), "{kind}");
    }
}

#[test]
fn a_turn_that_is_in_no_record_any_more_is_over() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("stub")]));
    let (id, going) = env.ask_meanwhile("stub", "SILENT");
    env.until_request(&id, "working");
    std::fs::remove_file(env.file("stub", "jsonl")).unwrap();
    env.kill(env.askd().0);
    let answer = going.end().json();
    assert_eq!(outcome(&answer, "failed"), "agent-gone", "{answer}");
    assert!(answer["settlement"]["outcome"]["message"].as_str().unwrap().contains("not in the agent's records"));
}

#[test]
fn a_program_that_is_killed_in_mid_turn_leaves_what_it_had_said() {
    let env = TestEnv::start(world(&["codex", "gemini"]));
    for kind in ["codex", "gemini"] {
        let (id, going) = env.ask_meanwhile(kind, "HALF: so far");
        env.until_request(&id, "working");
        env.kill(env.process(&format!("stub-agent --name {kind}")));
        let request = going.end().json();
        assert_eq!(outcome(&request, "failed"), "agent-gone", "{kind}");
        assert_eq!(ended(&request).0, "so far", "{kind}");
        env.until_state(kind, "idle");
        assert_eq!(env.ask(kind, "ECHO: again").ok(), "again\n");
        assert_eq!(env.received(kind, &id), 1, "it is not sent again");
    }
}

#[test]
fn an_answer_that_comes_after_the_deadline_is_announced() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("asker"), Stub::new("helper")]));
    let _asked = env.ask("asker", "RUN: ask helper -t 1 'STEPS 4: too late | and whole'").ok();
    let notice = |mark: &str| {
        until(mark, || env.questions("asker").into_iter().find(|text| text.contains(mark)));
    };
    notice("[CCB_TASK_INCOMPLETE]");
    notice("Result: too late\nand whole");
    assert_eq!(env.questions("asker").iter().filter(|text| text.contains("[CCB_TASK_")).count(), 2);
}

#[test]
fn an_idle_window_is_the_providers_and_new_text_starts_it_anew() {
    let setup = world(&["codex", "gemini", "droid"]).with("CCB_QUIET_WINDOW_S", "50");
    let env = TestEnv::start(setup.with("CCB_CASKD_IDLE_TIMEOUT", "3").with("CCB_GEMINI_IDLE_TIMEOUT", "rubbish"));
    let start = Instant::now();
    let request = env.ask_json("codex", "NODONE: all there is");
    assert_eq!(outcome(&request, "incomplete"), "quiet");
    assert_eq!(ended(&request), ("all there is", "quiet"));
    assert!(start.elapsed() < Duration::from_secs(40), "the window, and not the general one: {:?}", start.elapsed());
    assert!(start.elapsed() >= Duration::from_secs(3));
    // Each pause is shorter than the window, all of them together are longer.
    let request = env.ask_json("codex", "STEPS 1.2: a | b | c | d");
    assert_eq!(outcome(&request, "completed"), "");
    for kind in ["gemini", "droid"] {
        let said = env.run("ask", &[kind, "-t", "4", "--json"], "NODONE: unmarked");
        assert_eq!(outcome(&said.json(), "incomplete"), "deadline", "{kind}: its window is longer");
    }
}

#[test]
fn an_idle_timeout_of_its_own_counts_before_all_variables_and_zero_is_never() {
    let one = || Setup::default().with("CCB_CASKD_IDLE_TIMEOUT", "50").with("CCB_QUIET_WINDOW_S", "50");
    let env = with_line(one(), "idle_timeout = 0.5");
    assert_eq!(outcome(&env.ask_json("stub", "NODONE: x"), "incomplete"), "quiet");
    let off = Setup::default().with("CCB_CASKD_IDLE_TIMEOUT", "0.2").with("CCB_QUIET_WINDOW_S", "0.2");
    let env = with_line(off, "idle_timeout = 0");
    let said = env.run("ask", &["stub", "-t", "3", "--json"], "NODONE: x");
    assert_eq!(outcome(&said.json(), "incomplete"), "deadline");
}

#[test]
fn a_mark_that_comes_after_the_idle_window_is_attached_and_announced() {
    let stubs = vec![Stub::new("asker"), Stub::new("helper")];
    let env = TestEnv::start(Setup::of(stubs).with("CCB_CASKD_IDLE_TIMEOUT", "0.7"));
    let said = env.ask("asker", "RUN: ask helper 'STEPS 5: one | two'").ok();
    let id = said.split_once("(task: ").and_then(|(_, rest)| rest.split_once(')')).unwrap().0.to_owned();
    let request = env.settled(&id);
    assert_eq!(outcome(&request, "incomplete"), "quiet");
    assert_eq!(ended(&request), ("one", "quiet"));
    let late = late(&env, &id);
    assert_eq!((&late["reply"], &late["ended_by"]), (&"one\ntwo".into(), &"marker".into()));
    until("it is announced", || {
        env.questions("asker").iter().any(|text| text.contains("Result: one\ntwo")).then_some(())
    });
    assert_eq!(env.ccb(&["pend", &id]).ok(), "one\ntwo\n");
    assert_eq!(env.ask("helper", "ECHO: next").ok(), "next\n");
}

#[test]
fn an_answer_without_its_mark_is_nobodys_where_no_input_is_recorded() {
    let env = TestEnv::start(world(&["opencode"]).with("CCB_QUIET_WINDOW_S", "0.5").with("CCB_PROOF_GRACE_S", "0.7"));
    let said = env.run("ask", &["opencode", "-t", "3", "--json"], "NODONE: whose is this?");
    let request = said.json();
    assert_eq!(outcome(&request, "incomplete"), "deadline");
    assert_eq!(ended(&request), ("", ""));
    let facts = evidence(&env.explain(request["id"].as_str().unwrap()));
    assert!(facts.iter().any(|fact| fact.contains("show an input only with its answer")), "{facts:#?}");
    assert_eq!(env.ask("opencode", "ECHO: marked").ok(), "marked\n");
}

#[test]
fn a_notice_that_nothing_can_prove_is_typed_once_and_keeps_its_agent_from_nothing() {
    let stubs = vec![kind("opencode"), Stub::new("helper")];
    let env = TestEnv::start(Setup::of(stubs).with("CCB_PROOF_GRACE_S", "0.7"));
    let said = env.ask("opencode", "RUN: ask helper 'ECHO: help'").ok();
    let id = said.split_once("(task: ").and_then(|(_, rest)| rest.split_once(')')).unwrap().0.to_owned();
    env.settled(&id);
    assert_eq!(env.ask("opencode", "ECHO: free again").ok(), "free again\n");
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    let notices = env.events_of("opencode", "recv").iter().filter(|event| event["req"] != id.as_str()).count();
    assert_eq!((notices, env.all_received("opencode").values().max()), (3, Some(&1)));
    assert_eq!(env.ccb(&["pend", &id]).ok(), "help\n");
}

#[test]
fn a_long_turn_that_its_records_show_only_at_its_end_is_waited_for() {
    let kinds = ["gemini", "opencode"];
    let env = TestEnv::start(world(&kinds).with("CCB_PROOF_GRACE_S", "0.5"));
    let all = kinds.map(|kind| (kind, env.begin("ask", &[kind, "-t", "60", "--json"], "SLEEP 3: at last")));
    for (kind, going) in all {
        let request = going.end().json();
        assert_eq!(outcome(&request, "completed"), "", "{kind}");
        assert_eq!(env.received(kind, request["id"].as_str().unwrap()), 1);
    }
}

#[test]
fn a_paste_that_its_program_loses_is_made_again() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("stub").with(&["--lose-pastes", "1"])]));
    let request = env.ask_json("stub", "ECHO: after all");
    assert_eq!(ended(&request), ("after all", "marker"));
    let id = request["id"].as_str().unwrap();
    let explained = env.explain(id);
    let facts = evidence(&explained);
    assert!(facts.iter().any(|fact| fact.contains("not taken: its program has read the paste")), "{facts:?}");
    assert_eq!((env.events_of("stub", "paste_lost").len(), env.received("stub", id)), (1, 1));
    assert_eq!(env.pressed("stub"), "\\x0d");
}

#[test]
fn a_paste_is_not_made_again_once_something_was_submitted_since() {
    // It may have been a piece of it.
    let stub = Stub::new("stub").with(&["--lose-pastes", "1"]);
    let env = TestEnv::start(Setup::of(vec![stub]).with("CCB_PROOF_GRACE_S", "3"));
    let going = env.begin("ask", &["stub", "-t", "60", "--json"], "ECHO: ours");
    until("the paste is lost", || (!env.events_of("stub", "paste_lost").is_empty()).then_some(()));
    env.presses("stub", &["-l", "ECHO: mine"]);
    env.presses("stub", &["Enter"]);
    let request = going.end().json();
    assert_eq!(outcome(&request, "failed"), "unknown-delivery");
    assert_eq!(env.received("stub", request["id"].as_str().unwrap()), 0);
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
}

#[test]
fn a_program_that_loses_every_paste_is_told_of() {
    let stub = Stub::new("stub").with(&["--lose-pastes", "5"]);
    let env = TestEnv::start(Setup::of(vec![stub]).with("CCB_PROOF_GRACE_S", "0.2"));
    let request = env.ask_json("stub", "ECHO: never");
    assert_eq!(outcome(&request, "failed"), "never-consumed");
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
    assert_eq!(env.pressed("stub"), "\\x0d", "no Enter without its text");
}

#[test]
fn an_enter_that_is_lost_is_pressed_again_only_into_our_own_text() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("stub").with(&["--lose-enters", "2"])]));
    let request = env.ask_json("stub", "ECHO: after all");
    assert_eq!(ended(&request), ("after all", "marker"));
    assert_eq!(env.events_of("stub", "enter_lost").len(), 2);
    assert_eq!(env.pressed("stub"), "\\x0d".repeat(3));
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
    assert_eq!(env.pressed("stub"), "\\x0d".repeat(4), "one Enter is enough where it is not lost");
}
