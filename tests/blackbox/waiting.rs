//! An agent that waits for its human: whoever waits for it is told at once, its pane shows it, and a command of the
//! human's own is run once each time it begins.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::deaths::goes_on;
use crate::env::{SOON, Setup, Stub, TestEnv, until, within};

/// What a pane's border shows while its agent waits.
const MARK: &str = " ⚠ waiting for you";

/// Returns a world, not started, whose agent has a draft in its composer, and which runs this script as its command.
fn drafted(script: &str) -> TestEnv {
    let stub = Stub::new("stub").with(&["--draft", "half a thought"]);
    let env = TestEnv::new(Setup::of(vec![stub]).with("CCB_NOTIFY", "{world}/tell me"));
    let path = env.dir().join("tell me");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
    env
}

/// Returns what the command has written, line by line.
fn told(env: &TestEnv) -> Vec<String> {
    let text = std::fs::read_to_string(env.dir().join("told")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Returns what the border of the agent's pane shows.
fn border(env: &TestEnv) -> String {
    env.tmux(&["display-message", "-p", "-t", &env.pane("stub"), "#{E:pane-border-format}"]).ok().trim().to_owned()
}

/// Has the human clear the composer.
fn clears(env: &TestEnv) {
    env.presses("stub", &["C-u"]);
    env.until_state("stub", "idle");
}

/// Has the human type into the composer of the idle agent, and then somebody ask it: now it waits for the human.
fn types_before_an_ask(env: &TestEnv) {
    env.presses("stub", &["another thought"]);
    until("it is in the composer", || env.screen("stub").contains("another thought").then_some(()));
    let _waits = env.submit("stub", &[], "ECHO: done");
    env.until_state("stub", "waiting for you");
}

#[test]
fn the_beginning_of_a_waiting_is_told_once_and_marked_until_it_ends() {
    let words = r"$# $CCB_NOTIFY_AGENT: $CCB_NOTIFY_WHY: $CCB_NOTIFY_PROJECT";
    let env = drafted(&format!("echo \"{words}\" >> \"$HOME/../told\""));
    let _started = env.ccb(&["--detach"]).ok();
    env.until_state("stub", "waiting for you");
    let project = std::fs::canonicalize(env.project()).unwrap().display().to_string();
    let line = format!("0 stub: there is text in its composer: {project}");
    until("the human is told", || (told(&env) == [line.clone()]).then_some(()));
    until("the pane is marked", || (border(&env) == format!("stub{MARK}")).then_some(()));
    // What waits for it does not tell it again.
    let id = env.submit("stub", &[], "ECHO: waits for the human");
    assert!(env.explain(&id)["request"]["why"].as_str().unwrap().contains("waiting for you: there is text"));
    clears(&env);
    env.settled(&id);
    until("the mark is gone", || (border(&env) == "stub").then_some(()));
    types_before_an_ask(&env);
    until("the human is told again", || (told(&env).len() == 2).then_some(()));
    until("the pane is marked", || (border(&env) == format!("stub{MARK}")).then_some(()));
    // A worker that dies leaves its mark, and the next one takes it away. It tells of nothing that was told.
    let old = env.askd().0;
    env.kill(old);
    until("there is another one", || (env.askd().0 != old).then_some(()));
    env.until_state("stub", "waiting for you");
    env.presses("stub", &["C-u"]);
    env.until_state("stub", "idle");
    until("the mark is gone", || (border(&env) == "stub").then_some(()));
    goes_on(&env, "stub");
    types_before_an_ask(&env);
    until("the human is told of the third one", || (told(&env).len() >= 3).then_some(()));
    clears(&env);
    goes_on(&env, "stub");
    assert_eq!(told(&env).len(), 3);
}

#[test]
fn a_command_that_hangs_is_killed_with_what_it_has_started_and_is_run_once_at_a_time() {
    let env = drafted("sleep 1000 & echo $$ $! >> \"$HOME/../told\"; wait");
    let _started = env.ccb(&["--detach"]).ok();
    let first = until("the human is told", || told(&env).first().cloned());
    let began = Instant::now();
    clears(&env);
    types_before_an_ask(&env);
    clears(&env);
    types_before_an_ask(&env);
    let alive = |pids: &str| {
        let all = env.processes();
        pids.split(' ').any(|pid| all.iter().any(|(other, _)| other.to_string() == pid))
    };
    until("the one that hangs is killed", || {
        let several = told(&env).len() > 1;
        let lives = alive(&first);
        assert!(!(several && lives), "one at a time");
        (!lives).then_some(())
    });
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    until("what has begun since is told", || (told(&env).len() == 2).then_some(()));
    assert!(env.log().contains("took longer than 10 s and was killed"), "{}", env.log());
    clears(&env);
    goes_on(&env, "stub");
}

#[test]
fn a_command_that_fails_or_is_not_there_is_written_down_and_hurts_nobody() {
    let env = drafted("exit 7");
    let logged = |words: &str| until("it is written down", || env.log().contains(words).then_some(()));
    let _started = env.ccb(&["--detach"]).ok();
    logged("failed: exit status: 7");
    std::fs::remove_file(env.dir().join("tell me")).unwrap();
    clears(&env);
    types_before_an_ask(&env);
    logged("could not be started: No such file");
    clears(&env);
    goes_on(&env, "stub");
}

/// Says a line to askd.
fn say(stream: &UnixStream, method: &str, params: &Value) {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    { stream }.write_all(format!("{call}\n").as_bytes()).expect("a socket works");
}

#[test]
fn a_client_that_waits_is_told_at_once_that_the_agent_waits_for_the_human() {
    let env = TestEnv::start(Setup::default());
    let (first, going) = env.ask_meanwhile("stub", "SLEEP 1: first");
    env.until_request(&first, "working");
    let second = env.submit("stub", &[], "ECHO: second");
    let stream = UnixStream::connect(env.state().join("askd.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let project = ccb_core::home::project_id(&env.project());
    say(&stream, "hello", &json!({"protocol": 1, "version": "0", "project": project, "role": "client"}));
    say(&stream, "wait", &json!({"id": second}));
    env.presses("stub", &["half a thought"]);
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut progress = Vec::new();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let waits = within(SOON, || {
        let line = next();
        let why = line["params"]["why"].as_str().unwrap_or_default().to_owned();
        progress.push(why.clone());
        why.contains("waiting for you: there is text in its composer").then_some(())
    });
    assert!(waits.is_some(), "{progress:#?}");
    progress.dedup();
    let distinct = progress.len();
    env.presses("stub", &["C-u"]);
    let answer = within(SOON, || {
        let line = next();
        progress.push(line["params"]["why"].as_str().unwrap_or_default().to_owned());
        line["result"]["settlement"]["reply"].as_str().map(str::to_owned)
    });
    assert_eq!(answer.as_deref(), Some("second"), "{progress:#?}");
    // Nothing is told twice in a row.
    let all = progress.len();
    progress.dedup();
    assert_eq!((progress.len(), all > distinct), (all, true), "{progress:#?}");
    assert_eq!(going.end().json()["settlement"]["reply"], "first");
}

#[test]
fn nothing_is_typed_into_the_pane_of_an_agent_whose_request_waits_for_the_human() {
    let helper = Stub::new("helper").with(&["--draft", "half a thought"]);
    let env = TestEnv::new(Setup::of(vec![Stub::new("asker"), helper]));
    let _started = env.ccb(&["--detach"]).ok();
    env.until_state("helper", "waiting for you");
    env.until_state("asker", "idle");
    let said = env.ask("asker", "RUN: ask helper 'ECHO: at last'").ok();
    let id = said.split_once("(task: ").and_then(|(_, rest)| rest.split_once(')')).unwrap().0.to_owned();
    // The asker is free, and takes another request meanwhile.
    goes_on(&env, "asker");
    assert!(env.explain(&id)["request"]["why"].as_str().unwrap().contains("waiting for you"));
    assert_eq!(env.questions("asker").len(), 2);
    env.presses("helper", &["C-u"]);
    until("the notice has come", || {
        env.questions("asker").iter().any(|text| text.contains("Result: at last")).then_some(())
    });
    assert_eq!(env.questions("asker").len(), 3);
}
