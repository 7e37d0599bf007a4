//! The reply that comes back to an agent which has asked: as its client's output or as one notice, whatever dies
//! meanwhile, and never as both.

use std::io::{PipeReader, Read as _, Write as _};

use rustix::process::Signal;
use serde_json::Value;

use crate::asks::{evidence, outcome};
use crate::deaths::{arm, died, doomed, goes_on};
use crate::env::{Going, Setup, Stub, TestEnv, signal, until};

fn two() -> Vec<Stub> {
    vec![Stub::new("asker"), Stub::new("helper")]
}

/// Has `asker` ask `helper` without waiting, and returns the request's id.
fn asks(env: &TestEnv, message: &str) -> String {
    let args = ["helper", "--async", "--json"];
    let said = env.begin_with("ask", &args, message, |command| command.env("CCB_CALLER", "asker")).end();
    let id = said.json()["id"].as_str().expect("an id").to_owned();
    env.until_request(&id, "working");
    id
}

/// Returns how many notices `asker` was given. Reads files only: no client of askd is started.
fn notices(env: &TestEnv) -> usize {
    env.questions("asker").iter().filter(|text| text.contains("[CCB_TASK_")).count()
}

#[track_caller]
fn until_delivered(env: &TestEnv, id: &str) {
    until("the reply is delivered", || env.explain(id)["request"]["delivered"].is_number().then_some(()));
}

/// The reply came as one notice, and the asker goes on.
#[track_caller]
fn came_once(env: &TestEnv, id: &str, reply: &str) {
    until_delivered(env, id);
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    goes_on(env, "asker");
    assert_eq!(notices(env), 1);
    assert!(env.questions("asker").iter().any(|text| text.contains(&format!("Task: {id}\n\nResult: {reply}"))));
    assert_eq!(env.ccb(&["pend", id]).ok(), format!("{reply}\n"));
}

#[test]
fn with_notices_switched_off_the_reply_is_kept_and_nothing_is_typed() {
    let env = TestEnv::start(Setup::of(two()).with("CCB_COMPLETION_HOOK_ENABLED", "Off"));
    let id = asks(&env, "SLEEP 0.3: kept");
    env.settled(&id);
    let kept = |explanation: &Value| evidence(explanation).iter().filter(|fact| fact.contains("is kept for")).count();
    assert_eq!(kept(&env.explain(&id)), 1);
    goes_on(&env, "asker");
    assert_eq!((notices(&env), env.questions("asker").len()), (0, 1));
    assert!(!env.keys("asker").contains("CCB_TASK"));
    assert_eq!(env.ccb(&["pend", "helper"]).ok(), "kept\n");
    // It is not taken up again by the next worker either.
    env.kill(env.askd().0);
    goes_on(&env, "asker");
    assert_eq!((kept(&env.explain(&id)), notices(&env)), (1, 0));
    assert!(env.explain(&id)["request"]["delivered"].is_null());
    assert_eq!(env.ccb(&["pend", &id]).ok(), "kept\n");
}

#[test]
fn an_empty_answer_brings_a_notice_that_says_so() {
    let env = TestEnv::start(Setup::of(two()));
    let id = asks(&env, "SLEEP 30: never");
    let _cancelled = env.ccb(&["cancel", &id]).ok();
    until_delivered(&env, &id);
    let notice = env.questions("asker").pop().unwrap();
    let want =
        format!("[CCB_TASK_CANCELLED]\nProvider: Codex\nStatus: Cancelled\nTask: {id}\n\nResult: (cancelled by ");
    assert!(notice.contains(&want), "{notice}");
}

#[test]
fn an_answer_that_comes_late_is_announced_to_the_agent_that_asked_and_shown_to_a_human() {
    let env = TestEnv::start(Setup::of(two()));
    let said = env.ask("asker", "RUN: ask helper -t 0.7 'SLEEP 2: better late'").ok();
    let id = said.split_once("(task: ").and_then(|(_, rest)| rest.split_once(')')).unwrap().0.to_owned();
    let told = |words: &str| env.questions("asker").iter().filter(|text| text.contains(words)).count();
    until("its deadline is told", || (told("Status: Incomplete") == 1).then_some(()));
    until("its answer is announced", || (told("Result: better late") == 1).then_some(()));
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    assert_eq!((notices(&env), told(&format!("Task: {id}"))), (2, 2), "{:#?}", env.questions("asker"));
    let explanation = env.explain(&id);
    assert_eq!(outcome(&explanation["request"], "incomplete"), "deadline");
    assert!(evidence(&explanation).iter().any(|fact| fact.contains("the answer came late")), "{explanation:#}");
    let shown = env.ccb(&["explain", &id]).ok();
    for words in ["incomplete: the deadline passed", "late answer", "the answer came late", &format!("{id}-r2")] {
        assert!(shown.contains(words), "`{words}`: {shown}");
    }
    let pend = env.ccb(&["pend", &id]);
    assert_eq!((pend.code, pend.out.as_str()), (Some(0), "better late\n"), "{pend:?}");
    assert!(pend.err.contains("note: this answer came late: the deadline passed"), "{pend:?}");
    goes_on(&env, "asker");
    assert_eq!((notices(&env), env.received("helper", &id)), (2, 1));
}

/// An asking client that waits and writes into a pipe which nobody empties.
struct Clogged {
    env: TestEnv,
    id: String,
    client: Going,
    pipe: PipeReader,
}

/// Has `asker` ask `helper` for 200 KiB, by a client whose pipe is full already if `full`.
fn clogged(full: bool) -> Clogged {
    let agents = vec![Stub::new("asker"), Stub::new("helper").with(&["--delay", "1"])];
    let env = TestEnv::start(Setup::of(agents));
    let (pipe, mut writer) = std::io::pipe().expect("a pipe");
    if full {
        writer.write_all(&vec![b'-'; capacity(&pipe)]).expect("a pipe takes what it holds");
    }
    let args = ["helper", "--wait"];
    let client = env.begin_with("ask", &args, "LONG 200", |command| command.env("CCB_CALLER", "asker").stdout(writer));
    let id = until("the request is accepted", || env.requests().pop());
    env.until_request(&id, "working");
    Clogged { env, id, client, pipe }
}

fn capacity(pipe: &PipeReader) -> usize {
    rustix::pipe::fcntl_getpipe_size(pipe).expect("a pipe has a size")
}

/// The client dies without having printed the reply: it is there for `pend`, and comes as one notice.
#[track_caller]
fn dies_unread(Clogged { env, id, client, pipe }: Clogged) {
    let request = env.settled(&id);
    assert!(request["delivered"].is_null(), "{request:#}");
    env.kill_child(client);
    drop(pipe);
    let reply = env.ccb(&["pend", "helper"]).ok();
    assert_eq!(reply.len(), 200 * 1024 + 1);
    came_once(&env, &id, reply.trim_end());
}

#[test]
fn a_client_stopped_before_the_reply_and_killed_leaves_it_to_pend_and_one_notice() {
    let clogged = clogged(true);
    signal(clogged.client.pid(), Signal::STOP);
    dies_unread(clogged);
}

#[test]
fn a_client_stopped_while_it_writes_into_a_full_pipe_and_killed_leaves_it_to_pend_and_one_notice() {
    let clogged = clogged(false);
    let full = capacity(&clogged.pipe) as u64;
    until("the client is stuck", || {
        let held = rustix::io::ioctl_fionread(&clogged.pipe).expect("a pipe tells what it holds");
        (held == full).then_some(())
    });
    signal(clogged.client.pid(), Signal::STOP);
    dies_unread(clogged);
}

#[test]
fn a_client_that_was_stopped_and_goes_on_prints_the_reply_and_there_is_no_notice() {
    let Clogged { env, id, client, mut pipe } = clogged(true);
    signal(client.pid(), Signal::STOP);
    assert!(env.settled(&id)["delivered"].is_null());
    signal(client.pid(), Signal::CONT);
    let mut printed = Vec::new();
    pipe.read_to_end(&mut printed).unwrap();
    assert_eq!(printed.len(), capacity(&pipe) + 200 * 1024 + 1);
    assert_eq!(client.end().code, Some(0));
    until_delivered(&env, &id);
    goes_on(&env, "asker");
    assert_eq!(notices(&env), 0);
    env.ccb(&["explain", &format!("{id}-r1")]).says(1, &["no request"]);
}

/// Has the worker die at an edge of the notice's life, and returns the request's id.
fn killed_at(edge: &str, asker_is_busy: bool) -> (TestEnv, String) {
    let env = doomed(edge, two());
    let (worker, keeper) = env.askd();
    let id = asks(&env, "SLEEP 1.5: help");
    if asker_is_busy {
        let own = env.submit("asker", &[], "SLEEP 4: at something else");
        env.until_request(&own, "working");
    }
    arm(&env);
    until("the edge is reached", || died(&env).then_some(()));
    let request = env.settled(&id);
    assert_eq!(outcome(&request, "completed"), "");
    let after = env.askd();
    assert!(after.0 != worker && after.1 == keeper);
    (env, id)
}

#[test]
fn a_notice_that_waits_when_the_worker_dies_comes_once() {
    let (env, id) = killed_at("engine.committed", true);
    came_once(&env, &id, "help");
}

#[test]
fn a_notice_that_was_not_committed_when_the_worker_died_comes_once() {
    for asker_is_busy in [true, false] {
        let (env, id) = killed_at("engine.before-commit", asker_is_busy);
        came_once(&env, &id, "help");
    }
}

/// Committed as being offered, and perhaps typed already: it is never typed again, and its end says so.
#[test]
fn a_notice_in_hand_over_when_the_worker_dies_is_not_typed_again() {
    for edge in ["engine.committed", "paste.load", "paste.loaded"] {
        let (env, id) = killed_at(edge, false);
        let notice = env.settled(&format!("{id}-r1"));
        assert_eq!(outcome(&notice, "failed"), "unknown-delivery", "{edge}");
        assert!(env.explain(&id)["request"]["delivered"].is_null(), "{edge}");
        goes_on(&env, "asker");
        assert_eq!(notices(&env), 0, "{edge}");
        assert_eq!(env.ccb(&["pend", &id]).ok(), "help\n", "{edge}");
    }
}

/// The text is in the composer then, and no successor presses a key there: a human sees it and decides.
#[test]
fn a_notice_in_the_composer_when_the_worker_dies_comes_once_a_human_submits_it() {
    for edge in ["paste.pasted", "paste.enter"] {
        let (env, id) = killed_at(edge, false);
        env.settled(&format!("{id}-r1"));
        assert_eq!((notices(&env), env.pressed("asker")), (0, String::new()), "{edge}");
        assert!(env.explain(&id)["request"]["delivered"].is_null(), "{edge}");
        env.presses("asker", &["Enter"]);
        came_once(&env, &id, "help");
    }
}

#[test]
fn a_notice_that_was_submitted_when_the_worker_died_comes_once() {
    let (env, id) = killed_at("paste.entered", false);
    came_once(&env, &id, "help");
}

#[test]
fn a_notice_that_is_being_read_when_askd_dies_has_come_once() {
    for with_keeper in [false, true] {
        let agents = vec![Stub::new("asker").with(&["--delay", "2"]), Stub::new("helper")];
        let env = TestEnv::start(Setup::of(agents).with("CCB_PROOF_GRACE_S", "1"));
        let id = asks(&env, "SLEEP 0.5: help");
        until("the notice is being read", || (env.events_of("asker", "recv").len() == 1).then_some(()));
        env.until_request(&format!("{id}-r1"), "working");
        let (worker, keeper) = env.askd();
        if with_keeper {
            env.kill(keeper);
        }
        env.kill(worker);
        came_once(&env, &id, "help");
    }
}

#[test]
fn the_keeper_killed_while_a_notice_is_on_its_way() {
    let env = TestEnv::start(Setup::of(two()));
    let id = asks(&env, "SLEEP 0.5: help");
    env.kill(env.askd().1);
    came_once(&env, &id, "help");
}

#[test]
fn with_nobody_there_an_agent_has_its_notice_although_askd_is_killed() {
    let env = TestEnv::start(Setup::of(two()));
    let said = env.ask("asker", "RUN: ask helper --async 'SLEEP 3: help'").ok();
    assert!(said.contains("[CCB_ASYNC_SUBMITTED provider=helper]"), "{said}");
    let id = env.requests().pop().expect("the helper works");
    let (worker, keeper) = env.askd();
    env.kill(keeper);
    env.kill(worker);
    assert!(env.events_of("helper", "done").is_empty());
    // From here on only files are looked at: nobody starts a client.
    until("the notice is there", || (notices(&env) == 1).then_some(()));
    came_once(&env, &id, "help");
}
