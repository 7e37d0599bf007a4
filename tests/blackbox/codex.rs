//! Codex joined, with a stand-in for its app-server: what its history shows late, or never. The real one is driven in the
//! lab.

use std::path::Path;

use serde_json::Value;

use crate::asks::{evidence, outcome};
use crate::env::{Setup, TestEnv, until};

/// A program of Codex's name: it says what it can, serves (but, as the real one, not where it has no directory of its own),
/// and else stays in its pane.
const CODEX: &str = "#!/bin/sh\ncase \"$*\" in\n*'app-server --help'*) echo '--listen <URL>';;\n\
    --help) echo resume;;\n*--version*) echo codex-cli 0.169.0;;\n\
    *app-server*) [ ! -e WORLD/useless ] || exit 3; [ -d \"$HOME/.codex\" ] || exit 1; [ ! -e WORLD/stubborn ] || trap '' TERM; exec STUB --provider codex --events WORLD/codex.events -- \"$@\";;\n*) exec cat;;\nesac\n";

/// Starts Codex joined, and keeps it there.
fn joined(setup: Setup) -> TestEnv {
    started(setup, "rung = \"joined\"\n")
}

fn started(setup: Setup, rung: &str) -> TestEnv {
    let programs = Path::new(env!("CARGO_BIN_EXE_ccb")).parent().unwrap().display();
    let path = format!("{{world}}/bin:{programs}:/usr/local/bin:/usr/bin:/bin");
    let env = TestEnv::new(Setup { agents: Vec::new(), ..setup }.with("PATH", &path));
    let script = CODEX.replace("STUB", &format!("{programs}/stub-agent"));
    env.install("codex", &script.replace("WORLD", &env.dir().display().to_string()));
    env.configure(&format!("[agents.codex]\nprovider = \"codex\"\n{rung}"));
    let _started = env.ccb(&["--detach"]).ok();
    env.until_state("codex", "idle");
    env
}

/// Lets what the app-server has accepted into its history.
fn go(env: &TestEnv) {
    std::fs::write(env.dir().join("go"), "").unwrap();
}

fn told(env: &TestEnv, id: &str, words: &str) {
    until(&format!("it is told: {words}"), || env.explain(id).to_string().contains(words).then_some(()));
}

/// Asserts that a request was given once, was answered, and never held for untaken; and that the next one is answered.
fn answered_once(env: &TestEnv, answer: &Value) {
    let id = answer["id"].as_str().unwrap();
    assert_eq!(answer["settlement"]["reply"], format!("answer to {id}"), "{answer}");
    assert_eq!(env.received("codex", id), 1);
    let explanation = env.explain(id).to_string();
    assert!(!explanation.contains("not taken"), "{explanation}");
    assert_eq!(env.ask("codex", "next").code, Some(0));
}

#[test]
fn what_codex_writes_down_late_is_given_once_though_askd_dies_meanwhile() {
    let env = joined(Setup::default().with("CCB_PROOF_GRACE_S", "600"));
    let (id, going) = env.ask_meanwhile("codex", "SWALLOW");
    let _accepted = env.until_request(&id, "offered");
    env.kill(env.askd().0);
    told(&env, &id, "may have accepted it");
    go(&env);
    answered_once(&env, &going.end().json());
}

#[test]
fn what_codex_writes_down_after_the_grace_was_not_sent_again_and_its_answer_is_kept() {
    let env = joined(Setup::default().with("CCB_PROOF_GRACE_S", "1"));
    let answer = env.ask_json("codex", "SWALLOW");
    assert_eq!(outcome(&answer, "failed"), "unknown-delivery", "{answer}");
    go(&env);
    let id = answer["id"].as_str().unwrap();
    let late = until("the late answer is attached", || {
        let late = env.explain(id)["request"]["settlement"]["late"].clone();
        late.is_object().then_some(late)
    });
    assert_eq!(late["reply"], format!("answer to {id}"));
    assert_eq!(env.received("codex", id), 1);
    assert_eq!(env.ask("codex", "next").code, Some(0));
}

#[test]
fn codexs_thread_is_asked_before_absence_from_its_history_is_proof() {
    let env = joined(Setup::default().with("CCB_FAILPOINT", "codex.started=abort:{world}/died"));
    let (id, going) = env.ask_meanwhile("codex", "LATE");
    told(&env, &id, "but a turn is running");
    assert!(env.dir().join("died").exists(), "before it heard that it was accepted");
    go(&env);
    answered_once(&env, &going.end().json());
}

#[test]
fn a_turn_of_codexs_that_fails_before_its_input_is_written_down_is_told_in_its_words() {
    let env = joined(Setup::default());
    let answer = env.ask_json("codex", "EARLY");
    assert_eq!(outcome(&answer, "failed"), "quota", "{answer}");
    assert!(answer.to_string().contains("no room to compact in"), "{answer}");
    assert_eq!(env.received("codex", answer["id"].as_str().unwrap()), 1);
    assert_eq!(env.ask("codex", "next").code, Some(0));
}

#[test]
fn a_codex_that_can_be_joined_again_by_the_end_of_its_request_is_not_driven_otherwise() {
    let env = started(Setup::default(), "");
    let (id, going) = env.ask_meanwhile("codex", "LATE");
    let _accepted = env.until_request(&id, "offered");
    std::fs::write(env.dir().join("useless"), "").unwrap();
    env.kill(env.process("app-server --listen"));
    until("it is to be driven otherwise", || env.log().contains("from now on").then_some(()));
    std::fs::remove_file(env.dir().join("useless")).unwrap();
    // It died with what it had not written down, so it is given that again.
    until("it has it once more", || (env.received("codex", &id) == 2).then_some(()));
    go(&env);
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["reply"], format!("answer to {id}"), "{answer}");
    until("it is left as it is", || env.log().contains("it can be driven joined again").then_some(()));
    let starts = env.events_of("codex", "start").len();
    let next = env.ask_json("codex", "next");
    assert_eq!(next["settlement"]["reply"], format!("answer to {}", next["id"].as_str().unwrap()), "{next}");
    assert_eq!((env.events_of("codex", "start").len(), env.agent("codex")["rung"].as_str()), (starts, Some("joined")));
}

#[test]
fn a_restart_that_is_not_followed_in_time_has_nothing_offered_to_a_program_that_is_not_there() {
    let env = joined(Setup::default());
    // What it can is asked anew, because its file is another, and is not said in time.
    let script = std::fs::read_to_string(env.dir().join("bin/codex")).unwrap();
    env.install("codex", &script.replacen("case", "case \"$*\" in *help*) exec sleep 60;; esac\ncase", 1));
    let restarting = env.begin("ccb", &["restart", "codex"], "");
    until("its program has ended", || (env.agent("codex")["state"] == "starting").then_some(()));
    let (id, _going) = env.ask_meanwhile("codex", "asked meanwhile");
    restarting.end().says(1, &["nothing is known to have been started", "ccb codex"]);
    let why = until("it says why it does not start", || {
        let agent = env.agent("codex");
        (agent["state"] != "idle").then(|| agent["why"].as_str().unwrap().to_owned())
    });
    let explanation = env.explain(&id);
    let offers = evidence(&explanation).iter().filter(|fact| fact.starts_with("offering")).count();
    assert!(offers <= 1, "{why}: {explanation:#}");
    env.install("codex", &script);
    let _started = env.ccb(&["restart", "codex"]).ok();
    assert_eq!(env.settled(&id)["settlement"]["reply"], format!("answer to {id}"));
}

#[test]
fn nothing_is_given_to_a_program_whose_pane_is_being_closed() {
    let env = joined(Setup::default().with("CCB_FAILPOINT", "mount.closed=wait:{world}/noted"));
    // It serves for two seconds more, and is not to: askd has heard that it is being ended, and has not gone on.
    std::fs::write(env.dir().join("stubborn"), "").unwrap();
    let _restarted = env.ccb(&["restart", "codex"]).ok();
    env.until_state("codex", "idle");
    let (noted, heard) = (env.dir().join("noted"), env.dir().join("noted.reached"));
    let kept_back = || {
        until("askd has heard of it", || heard.exists().then_some(()));
        let _lives = env.process("app-server --listen");
        let id = env.submit("codex", &[], "to the next one");
        told(&env, &id, "its pane is being closed");
        assert_eq!(env.received("codex", &id), 0);
        id
    };
    let answered = |id: &str| {
        assert_eq!(env.settled(id)["settlement"]["reply"], format!("answer to {id}"));
        assert_eq!(env.received("codex", id), 1);
    };
    let tmux = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
    env.kill(tmux.trim().parse().unwrap());
    let id = kept_back();
    std::fs::write(&noted, "").unwrap();
    answered(&id);

    // Closed by its human it is started by nobody but them; then anew, and not taken for the one that still runs.
    for mark in [&noted, &heard] {
        std::fs::remove_file(mark).unwrap();
    }
    let _closed = env.tmux(&["kill-pane", "-t", &env.pane("codex")]).ok();
    let id = kept_back();
    let starting = env.begin("ccb", &["--detach"], "");
    std::fs::write(&noted, "").unwrap();
    let started = starting.end();
    assert!(started.out.contains("started: codex"), "{started:?}");
    answered(&id);
}

#[test]
fn nothing_is_given_to_a_program_that_is_ended_by_order() {
    let env = joined(Setup::default());
    std::fs::write(env.dir().join("stubborn"), "").unwrap();
    let _restarted = env.ccb(&["restart", "codex"]).ok();
    env.until_state("codex", "idle");
    let killing = env.begin("ccb", &["kill"], "");
    let runs = |word: &str| env.processes().iter().any(|(_, line)| line.trim_end() == word);
    until("its interface has ended", || (!runs("cat")).then_some(()));
    let _lives = env.process("app-server --listen");
    let id = env.submit("codex", &[], "to the next one");
    told(&env, &id, "its pane is being closed");
    let _killed = killing.end().ok();
    let _started = env.ccb(&["--detach"]).ok();
    assert_eq!(env.settled(&id)["settlement"]["reply"], format!("answer to {id}"));
    assert_eq!(env.received("codex", &id), 1);
}

#[test]
fn a_program_keeps_the_configuration_that_it_was_started_with() {
    let env = joined(Setup::default());
    let stub = Path::new(env!("CARGO_BIN_EXE_ccb")).with_file_name("stub-agent").display().to_string();
    env.configure(&format!("[agents.codex]\nprovider = \"codex\"\ncommand = \"{stub}\"\ntranscript = \"t.jsonl\"\n"));
    let _trusted = env.ccb(&["trust", "--yes"]).ok();
    let said = env.ccb(&["--detach"]).ok();
    assert!(said.contains("running already: codex"), "{said}");
    env.kill(env.askd().0);
    env.until_state("codex", "idle");
    let answer = env.ask_json("codex", "to what runs");
    assert_eq!(answer["settlement"]["reply"], format!("answer to {}", answer["id"].as_str().unwrap()), "{answer}");
    assert_eq!(env.agent("codex")["rung"], "joined");
    let _restarted = env.ccb(&["restart", "codex"]).ok();
    until("it is started as it is configured now", || (env.agent("codex")["rung"] == "watched").then_some(()));
}
