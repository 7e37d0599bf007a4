//! `kill -9` of each process at each edge: the outcome of every request is true, its asker learns it, no request
//! reaches its agent twice, and the next request is answered without anybody's help.

use rustix::process::Signal;
use serde_json::Value;

use crate::asks::outcome;
use crate::env::{Going, Setup, Stub, TestEnv, signal, until};

/// Returns a world whose worker dies once at this edge, when [`arm`] has said so.
pub(crate) fn doomed(edge: &str, agents: Vec<Stub>) -> TestEnv {
    let point = format!("{edge}=abort:{{world}}/died");
    let setup = Setup::of(agents).with("CCB_FAILPOINT", &point).with("CCB_PROOF_GRACE_S", "1");
    let env = TestEnv::new(setup);
    // While this file exists, nothing happens at the edge.
    std::fs::write(env.dir().join("died"), "").expect("a mark");
    env.mount();
    env
}

/// Has the worker die when it comes to its edge the next time.
pub(crate) fn arm(env: &TestEnv) {
    std::fs::remove_file(env.dir().join("died")).expect("the mark is there");
}

pub(crate) fn died(env: &TestEnv) -> bool {
    env.dir().join("died").exists()
}

/// Asserts that a request ended as it may: with its own answer, or (if `or_unknown`) without anybody knowing
/// whether the agent got it; and that the agent got it at most once.
#[track_caller]
fn ended_truly(env: &TestEnv, agent: &str, request: &Value, reply: &str, or_unknown: bool) {
    let id = request["id"].as_str().unwrap_or_default();
    let received = env.received(agent, id);
    if or_unknown && request["settlement"]["outcome"]["word"] == "failed" {
        assert_eq!(outcome(request, "failed"), "unknown-delivery", "{request:#}");
        assert!(received <= 1, "received {received} times: {request:#}");
        return;
    }
    outcome(request, "completed");
    assert_eq!(request["settlement"]["reply"], reply, "{request:#}");
    assert_eq!(received, 1, "{request:#}");
}

#[track_caller]
pub(crate) fn goes_on(env: &TestEnv, agent: &str) {
    assert_eq!(env.ask(agent, "ECHO: and on it goes").ok(), "and on it goes\n");
    assert!(env.all_received(agent).values().all(|count| *count == 1), "{:?}", env.all_received(agent));
    assert!(env.events_of(agent, "junk").is_empty() && env.events_of(agent, "queued_while_busy").is_empty());
}

/// Has the worker die at an edge of a request that somebody waits for.
fn killed_at(edge: &str, stub: Stub, or_unknown: bool) {
    let agent = stub.name;
    let env = doomed(edge, vec![stub]);
    let (worker, keeper) = env.askd();
    arm(&env);
    let request = env.ask_json(agent, "ECHO: once");
    assert!(died(&env), "the edge was never reached");
    let after = env.askd();
    assert_ne!(after.0, worker);
    assert_eq!(after.1, keeper);
    ended_truly(&env, agent, &request, "once", or_unknown);
    let status = env.status();
    assert!(status["last_end"].to_string().contains("signal 9"), "{status:#}");
    goes_on(&env, agent);
}

#[test]
fn the_worker_killed_before_it_commits_a_request() {
    killed_at("engine.before-commit", Stub::new("stub"), false);
}

#[test]
fn the_worker_killed_after_it_has_committed_and_before_it_acts() {
    killed_at("engine.committed", Stub::new("stub"), true);
}

#[test]
fn the_worker_killed_after_it_has_committed_a_request_that_waits() {
    let env = doomed("engine.committed", vec![Stub::new("stub")]);
    let (first, going) = env.ask_meanwhile("stub", "SLEEP 1.5: first");
    env.until_request(&first, "working");
    arm(&env);
    let request = env.ask_json("stub", "ECHO: second");
    assert!(died(&env), "the edge was never reached");
    ended_truly(&env, "stub", &request, "second", false);
    ended_truly(&env, "stub", &going.end().json(), "first", false);
    goes_on(&env, "stub");
}

#[test]
fn the_worker_killed_before_it_pastes() {
    killed_at("paste.load", Stub::new("stub"), true);
    killed_at("paste.load", Stub::blind("stub"), true);
}

#[test]
fn the_worker_killed_with_the_text_loaded_and_not_pasted() {
    killed_at("paste.loaded", Stub::new("stub"), true);
}

#[test]
fn the_worker_killed_after_enter_was_pressed() {
    killed_at("paste.entered", Stub::new("stub"), false);
}

/// The text is in the composer then, and no successor presses a key there: a human sees it and decides.
#[test]
fn the_worker_killed_between_paste_and_enter() {
    for edge in ["paste.pasted", "paste.enter"] {
        let env = doomed(edge, vec![Stub::new("stub")]);
        arm(&env);
        let request = env.ask_json("stub", "ECHO: in the composer");
        assert_eq!(outcome(&request, "failed"), "unknown-delivery");
        let id = request["id"].as_str().unwrap();
        assert_eq!(env.received("stub", id), 0);
        let next = env.submit("stub", &[], "ECHO: after the human");
        let why = env.until_state("stub", "waiting for you");
        assert!(why.contains("text is in its composer") || why.contains("text in its composer"), "{why}");
        assert!(env.screen("stub").contains("[Pasted text #1"));
        assert_eq!(env.pressed("stub"), "", "{}", env.keys("stub"));
        // The human submits it after all: the answer comes late, and is told.
        env.presses("stub", &["Enter"]);
        until("the late answer is attached", || {
            (env.explain(id)["request"]["settlement"]["late"]["reply"] == "in the composer").then_some(())
        });
        assert_eq!(env.settled(&next)["settlement"]["reply"], "after the human");
        goes_on(&env, "stub");
    }
}

/// Has something die while a request is being worked on, and returns the request as it ended.
fn killed_in_mid_turn(stub: Stub, kill: impl FnOnce(&TestEnv, &mut Option<Going>)) -> (TestEnv, Value) {
    let agent = stub.name;
    let env = TestEnv::start(Setup::of(vec![stub]).with("CCB_PROOF_GRACE_S", "1"));
    assert_eq!(env.ask(agent, "ECHO: a turn before").ok(), "a turn before\n");
    let (id, going) = env.ask_meanwhile(agent, "SLEEP 2: a slow answer");
    env.until_request(&id, "working");
    let mut going = Some(going);
    kill(&env, &mut going);
    let request = match going {
        Some(going) => going.end().json(),
        None => env.settled(&id),
    };
    assert_eq!(request["id"], id.as_str());
    (env, request)
}

#[test]
fn a_program_that_ends_with_its_answer_fails_nothing_that_waits() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("stub")]));
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 1: whole");
    env.until_request(&id, "working");
    let waits = env.submit("stub", &[], "ECHO: next");
    let (worker, _) = env.askd();
    // The answer and the end of the program come to askd at once.
    signal(worker, Signal::STOP);
    until("it has answered", || (env.events_of("stub", "done").len() == 1).then_some(()));
    env.kill(env.process("stub-agent"));
    signal(worker, Signal::CONT);
    assert_eq!(outcome(&going.end().json(), "completed"), "");
    assert_eq!(env.settled(&waits)["settlement"]["reply"], "next");
    goes_on(&env, "stub");
}

#[test]
fn the_worker_killed_in_mid_turn() {
    let (env, request) = killed_in_mid_turn(Stub::new("stub"), |env, _| env.kill(env.askd().0));
    ended_truly(&env, "stub", &request, "a slow answer", false);
    goes_on(&env, "stub");
}

#[test]
fn the_keeper_killed_in_mid_turn() {
    let (env, request) = killed_in_mid_turn(Stub::new("stub"), |env, _| env.kill(env.askd().1));
    ended_truly(&env, "stub", &request, "a slow answer", false);
    let (worker, _keeper) = env.askd();
    // The new keeper is one: it starts another worker when that is needed.
    env.kill(worker);
    goes_on(&env, "stub");
    assert_ne!(env.askd().0, worker);
}

#[test]
fn keeper_and_worker_killed_at_once_in_mid_turn() {
    let (env, request) = killed_in_mid_turn(Stub::new("stub"), |env, _| {
        let (worker, keeper) = env.askd();
        env.kill(keeper);
        env.kill(worker);
    });
    ended_truly(&env, "stub", &request, "a slow answer", false);
    goes_on(&env, "stub");
}

#[test]
fn askd_is_back_by_itself_when_no_client_is_there() {
    let env = TestEnv::start(Setup::default());
    let (worker, keeper) = env.askd();
    env.kill(keeper);
    env.kill(worker);
    // The panes' runners need it, and start it.
    until("another askd runs", || env.processes().iter().any(|(_, line)| line.contains("--worker")).then_some(()));
    goes_on(&env, "stub");
}

#[test]
fn the_asking_client_killed_in_mid_turn() {
    let (env, request) = killed_in_mid_turn(Stub::new("stub"), |env, going| {
        let client = going.take().unwrap();
        env.kill_child(client);
        assert_eq!(env.requests().len(), 1);
    });
    ended_truly(&env, "stub", &request, "a slow answer", false);
    assert_eq!(env.ccb(&["pend", request["id"].as_str().unwrap()]).ok(), "a slow answer\n");
    goes_on(&env, "stub");
}

#[test]
fn the_agents_program_killed_in_mid_turn() {
    let (env, request) = killed_in_mid_turn(Stub::new("stub"), |env, _| env.kill(env.process("stub-agent --name")));
    assert_eq!(outcome(&request, "failed"), "agent-gone");
    goes_on(&env, "stub");
}

#[test]
fn the_agents_program_that_crashes_is_started_again() {
    let env = TestEnv::start(Setup::default());
    for _ in 0..2 {
        // It ends before it has written down that it was asked.
        let request = env.ask_json("stub", "CRASH");
        assert_eq!(outcome(&request, "failed"), "unknown-delivery");
        goes_on(&env, "stub");
    }
}

#[test]
fn the_panes_runner_killed_in_mid_turn() {
    let (env, request) = killed_in_mid_turn(Stub::new("stub"), |env, _| env.kill(env.process("/ccb run stub")));
    assert_eq!(outcome(&request, "failed"), "agent-gone");
    goes_on(&env, "stub");
}

#[test]
fn the_tmux_server_killed_in_mid_turn() {
    let (env, request) = killed_in_mid_turn(Stub::new("stub"), |env, _| {
        let pid = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
        env.kill(pid.trim().parse().unwrap());
    });
    assert_eq!(outcome(&request, "failed"), "agent-gone");
    goes_on(&env, "stub");
}

#[test]
fn the_tmux_server_killed_under_four_agents_brings_all_of_them_back() {
    let names = ["first", "second", "third", "fourth"];
    let env = TestEnv::start(Setup::of(names.map(Stub::new).into()));
    let tmux = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
    env.kill(tmux.trim().parse().unwrap());
    // The first one that comes back makes a new server, before the last one has told of its end.
    for name in names {
        goes_on(&env, name);
    }
}

#[test]
fn the_tmux_server_killed_brings_back_whom_an_earlier_worker_started() {
    // By the time that the first of them has told its end, another server serves under the same name.
    let names = ["first", "second"];
    let setup = Setup::of(names.map(Stub::new).into());
    let env = TestEnv::new(setup.with("CCB_FAILPOINT", "mount.closed=stall:1:{world}/died"));
    std::fs::write(env.dir().join("died"), "").expect("a mark");
    env.mount();
    env.kill(env.askd().0);
    for name in names {
        goes_on(&env, name);
    }
    let tmux = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
    arm(&env);
    env.kill(tmux.trim().parse().unwrap());
    for name in names {
        goes_on(&env, name);
    }
    assert!(died(&env), "nobody was late");
}

#[test]
fn worker_and_tmux_server_killed_at_once_with_two_agents() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("first"), Stub::blind("second")]));
    let tmux = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
    env.kill(env.askd().0);
    env.kill(tmux.trim().parse().unwrap());
    goes_on(&env, "first");
    goes_on(&env, "second");
}

#[test]
fn twenty_waiting_clients_get_their_own_answers_though_askd_is_killed() {
    let env =
        TestEnv::start(Setup::of(vec![Stub::new("stub").with(&["--delay", "0.1"])]).with("CCB_PROOF_GRACE_S", "1"));
    let token = |number: usize| format!("token-{number:02}-of-twenty");
    let mut going: Vec<_> = (0..20)
        .map(|number| env.begin("ask", &["stub", "-t", "120", "--json"], &format!("ECHO: {}", token(number))))
        .collect();
    until("some are answered and most are not", || (env.events_of("stub", "done").len() >= 3).then_some(()));
    let (worker, keeper) = env.askd();
    env.kill(keeper);
    env.kill(worker);
    let mut freed = false;
    until("all clients are answered", || {
        // The one in hand-over may stand in the composer, where no successor presses a key: a human clears it.
        if !freed && env.agent("stub")["state"] == "waiting for you" {
            env.presses("stub", &["C-u"]);
            freed = true;
        }
        going.iter_mut().all(Going::is_over).then_some(())
    });
    let mut unknown = 0;
    for (number, one) in going.into_iter().enumerate() {
        let request = one.end().json();
        ended_truly(&env, "stub", &request, &token(number), true);
        unknown += usize::from(request["settlement"]["outcome"]["word"] == "failed");
    }
    assert!(unknown <= 1, "{unknown} of 20 are unknown");
    goes_on(&env, "stub");
}

#[test]
fn a_writer_killed_while_it_pastes_never_yields_a_truncated_prompt() {
    let text = "漢字 and more, line after line\n".repeat(6500);
    let prompt = format!("BENCH-TOK-whole <<BENCH{text}BENCH>>");
    assert!(prompt.len() > 200_000);
    let env = TestEnv::start(Setup::default().with("CCB_PROOF_GRACE_S", "1"));
    let mut whole = 0;
    for round in 0..8 {
        let id = env.submit("stub", &["-t", "60"], &prompt);
        // Each round looks a little longer before it kills.
        for _ in 0..round {
            crate::env::moment();
        }
        let (worker, _) = env.askd();
        for (pid, line) in env.processes() {
            if line.contains("load-buffer") {
                crate::env::signal(pid, rustix::process::Signal::KILL);
            }
        }
        env.kill(worker);
        let request = env.settled(&id);
        whole += env.received("stub", &id);
        if request["settlement"]["outcome"]["word"] != "completed" {
            assert_eq!(outcome(&request, "failed"), "unknown-delivery");
            env.presses("stub", &["C-u"]);
        }
        env.until_state("stub", "idle");
    }
    for event in env.events_of("stub", "recv") {
        assert_eq!(event["len"], text.len(), "{event}");
    }
    assert!(env.events_of("stub", "junk").is_empty());
    assert!(env.all_received("stub").values().all(|count| *count == 1));
    assert_eq!(env.events_of("stub", "recv").len(), whole);
    let buffers = env.tmux(&["list-buffers"]).ok();
    assert_eq!(buffers, "");
}
