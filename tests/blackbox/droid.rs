//! Droid's own interface, which wants a login and is therefore played by a stub: its transcript, its hooks, its
//! composer as the stubs draw it. The real one is driven in the lab, joined.

use std::path::Path;

use serde_json::Value;

use crate::asks::outcome;
use crate::env::{Setup, TestEnv, files_below, until};

/// A program of Droid's name: it says what it can, and else plays its interface.
const DROID: &str = "#!/bin/sh\ncase \"$1\" in\n--help) echo '--settings <path> --append-system-prompt <text>';;\n\
    --version) echo 0.215.0;;\nexec) [ \"$2\" != --help ] || { cat WORLD/exec-help; exit; }; \
    [ ! -e WORLD/wrapped ] || { exec 3<&0; setsid sh WORLD/bin/rpc \"$@\" <&3 & wait; exit; }; exec sh WORLD/bin/rpc \"$@\";;\n\
    *) [ ! -e WORLD/slow ] || sleep 2; exec STUB --provider droid --events WORLD/droid.events --keys WORLD/droid.keys -- \"$@\";;\nesac\n";

/// `droid exec` over stream JSON-RPC: each message has its own turn, and one with SLOW in it waits for a word in a pipe.
const RPC: &str = r#"
echo $$ >>WORLD/rpc.pids
[ ! -e WORLD/useless ] || exit 3
n() { printf '{"type":"notification","method":"droid.session_notification","params":{"notification":%s}}\n' "$1"; }
while IFS= read -r line; do
  printf '%s\n' "$line" >>WORLD/rpc.log
  call=$(printf '%s' "$line" | sed 's/.*"id":"\([0-9]*\)".*/\1/')
  id=$(printf '%s' "$line" | sed -n 's/.*"messageId":"\([^"]*\)".*/\1/p')
  case "$line" in
  *_session*) printf '{"type":"response","id":"%s","result":{"sessionId":"s1","settings":{"autonomyLevel":"off"}}}\n' "$call" ;;
  *add_user_message*)
    case "$line" in
    *REFUSE*) printf '{"type":"response","id":"%s","error":{"code":-1,"message":"not today"}}\n' "$call"; continue ;;
    *DEAF*) [ -e WORLD/heard ] || { : >WORLD/heard; continue; } ;;
    esac
    printf '{"type":"response","id":"%s","result":{}}\n' "$call"
    n '{"type":"create_message","message":{"id":"'"${id:-human}"'","role":"user","content":"asked"},"requestId":"'"$call"'"}'
    case "$line" in *SLOW*) read -r word <WORLD/pipe ;; esac
    case "$line" in *UNTOLD*)
      printf '%s\n' '{"type":"message","id":"'"$id"'","message":{"role":"user","content":[{"type":"text","text":"x"}]}}' \
        '{"type":"message","id":"a","message":{"role":"assistant","content":[{"type":"text","text":"recorded"}]}}' \
        '{"type":"agent_turn_outcome","turnId":"'"$id"'","reason":"completed"}' >>"$HOME/.factory/sessions/-p/s1.jsonl"
      date +%s%3N >WORLD/recorded
      continue ;; esac
    n '{"type":"create_message","message":{"id":"a","role":"assistant","content":"answer to '"${id:-human}"'"}}'
    n '{"type":"assistant_text_delta","textDelta":"answer to '"${id:-human}"'"}'
    n '{"type":"assistant_text_complete"}'
    n '{"type":"agent_turn_completed","turnId":"'"${id:-human}"'","reason":"completed"}' ;;
  esac
done
while [ -e WORLD/wrapped ]; do read -r word <WORLD/pipe; done
"#;

/// Returns a world in which Droid is installed and nothing runs.
fn world(rung: &str, login: bool) -> TestEnv {
    with(Setup::default(), rung, login)
}

fn with(setup: Setup, rung: &str, login: bool) -> TestEnv {
    let programs = Path::new(env!("CARGO_BIN_EXE_ccb")).parent().unwrap().display();
    let path = format!("{{world}}/bin:{programs}:/usr/local/bin:/usr/bin:/bin");
    let env = TestEnv::new(Setup { agents: Vec::new(), ..setup }.with("PATH", &path));
    let script = DROID.replace("STUB", &format!("{programs}/stub-agent"));
    env.install("droid", &script.replace("WORLD", &env.dir().display().to_string()));
    let bin = env.dir().join("bin");
    std::fs::write(bin.join("rpc"), RPC.replace("WORLD", &env.dir().display().to_string())).unwrap();
    std::fs::write(env.dir().join("exec-help"), "Usage: droid exec").unwrap();
    std::fs::create_dir_all(env.home().join(".factory/sessions/-p")).unwrap();
    if login {
        std::fs::write(env.home().join(".factory/auth.v2.file"), "secret").unwrap();
    }
    env.configure(&format!("[agents.droid]\nprovider = \"droid\"\n{rung}"));
    env
}

fn started(rung: &str) -> TestEnv {
    let env = world(&format!("rung = \"{rung}\"\n"), true);
    let _started = env.ccb(&["--detach"]).ok();
    env.until_state("droid", "idle");
    env
}

fn sessions(env: &TestEnv) -> usize {
    files_below(&env.home().join(".factory/sessions")).len()
}

fn given_once(env: &TestEnv, answer: &Value) {
    assert_eq!(env.received("droid", answer["id"].as_str().unwrap()), 1);
}

#[test]
fn droids_own_interface_answers_hooked_and_watched() {
    for rung in ["hooked", "watched"] {
        let env = started(rung);
        for word in ["one", "two"] {
            let answer = env.ask_json("droid", &format!("ECHO: {word}"));
            assert_eq!(outcome(&answer, "completed"), "");
            assert_eq!(answer["settlement"]["reply"], word);
            assert_eq!(answer["settlement"]["ended_by"], "record", "{answer}");
            assert!(answer["turn"].as_str().unwrap().starts_with("msg-"), "the turn is Droid's own: {answer}");
            given_once(&env, &answer);
        }
        assert_eq!(env.agent("droid")["rung"], rung);
        let start = env.events_of("droid", "start")[0]["args"].to_string();
        assert_eq!(start.contains("--settings"), rung == "hooked", "{start}");
        let ours = files_below(&env.home().join(".factory")).len();
        assert_eq!((ours, sessions(&env)), (2, 1), "the login and one session, and nothing of ours");
    }
}

#[test]
fn a_cancelled_turn_of_droids_own_interface_ends_by_its_record() {
    let env = started("hooked");
    let (id, going) = env.ask_meanwhile("droid", "SILENT");
    let _working = env.until_request(&id, "working");
    let _cancelled = env.ccb(&["cancel", &id]);
    assert_eq!(going.end().json()["settlement"]["outcome"]["word"], "cancelled");
    assert_eq!(env.ask("droid", "ECHO: next").ok(), "next\n");
}

#[test]
fn a_tool_of_droids_own_interface_waits_for_the_human_hooked_and_watched() {
    for rung in ["hooked", "watched"] {
        let env = started(rung);
        let made = std::process::Command::new("mkfifo").arg(env.dir().join("pipe")).status().unwrap();
        assert!(made.success());
        let tool = format!("TOOL: touch made; cat {}/pipe", env.dir().display());
        let (id, going) = env.ask_meanwhile("droid", &tool);
        env.until_state("droid", "waiting for you");
        // What a hook has told is lost with askd; the screen shows it still.
        env.kill(env.askd().0);
        env.until_state("droid", "waiting for you");
        assert!(!env.project().join("made").exists(), "nobody has allowed it");
        env.presses("droid", &["Enter"]);
        until("the tool runs", || env.project().join("made").exists().then_some(()));
        // Its dialog was seen, so its end is: the tool still runs.
        env.until_state("droid", "busy");
        go(&env);
        assert_eq!(going.end().json()["settlement"]["reply"], "TOOLDONE: go", "{rung}");
        assert_eq!(env.received("droid", &id), 1);
    }
}

#[test]
fn errors_of_droids_own_interface_have_their_class_and_its_words() {
    let env = started("hooked");
    for (prompt, class) in
        [("ERR 401: who are you", "auth"), ("ERR 402: nothing left", "quota"), ("ERR 429: slowly", "rate-limit")]
    {
        let answer = env.ask_json("droid", prompt);
        assert_eq!(outcome(&answer, "failed"), class, "{answer}");
        let message = answer["settlement"]["outcome"]["message"].as_str().unwrap();
        assert!(message.contains(prompt.split_once(": ").unwrap().1), "{answer}");
        assert_eq!(env.ask("droid", "ECHO: next").ok(), "next\n");
    }
}

#[test]
fn an_answer_of_droids_own_interface_survives_askd() {
    let env = started("hooked");
    let (id, going) = env.ask_meanwhile("droid", "SLEEP 3: slowly");
    let _working = env.until_request(&id, "working");
    env.kill(env.askd().0);
    let answer = env.settled(&id);
    drop(going);
    assert_eq!(answer["settlement"]["reply"], "slowly", "{answer}");
    given_once(&env, &answer);
    assert_eq!(env.ask("droid", "ECHO: next").ok(), "next\n");
}

#[test]
fn droids_own_interface_comes_back_in_its_session() {
    let env = started("hooked");
    assert_eq!(env.ask("droid", "ECHO: before").ok(), "before\n");
    let (id, going) = env.ask_meanwhile("droid", "SILENT");
    let _working = env.until_request(&id, "working");
    env.kill(env.process("--provider droid"));
    assert_eq!(outcome(&going.end().json(), "failed"), "agent-gone");
    assert_eq!(env.ask("droid", "ECHO: after").ok(), "after\n");
    assert_eq!(sessions(&env), 1);
    let starts = env.events_of("droid", "start");
    assert!(starts.last().unwrap()["args"].to_string().contains("--resume"), "{starts:?}");
}

#[test]
fn what_a_dead_droid_has_drawn_is_not_taken_for_the_next_one() {
    let env = started("hooked");
    assert_eq!(env.ask("droid", "ECHO: drawn").ok(), "drawn\n");
    std::fs::write(env.dir().join("slow"), "").unwrap();
    env.kill(env.process("--provider droid"));
    // Its launcher runs, and takes no paste yet.
    let _launcher = env.process("bin/droid --resume");
    let answer = env.ask_json("droid", "ECHOALL: one\ntwo\nthree");
    assert_eq!(answer["settlement"]["reply"], "one\ntwo\nthree", "{answer}");
    given_once(&env, &answer);
    assert!(env.events_of("droid", "junk").is_empty(), "it came in pieces");
}

#[test]
fn without_a_login_droids_own_interface_is_not_started() {
    let env = world("rung = \"hooked\"\n", false);
    env.ccb(&["--detach"]).says(1, &["wants a login", "leave `rung` out"]);
    // The program of this world cannot be joined either: all reasons are told.
    let env = world("", false);
    env.ccb(&["--detach"]).says(1, &["not joined", "stream JSON-RPC", "not hooked", "wants a login"]);
    let started: Vec<_> = env.processes().into_iter().filter(|(_, line)| !line.contains("askd")).collect();
    assert_eq!((started, env.events("droid")), (Vec::new(), Vec::new()), "neither a pane nor anything in it");
}

/// Starts Droid joined, in its viewer.
fn joined(setup: Setup) -> TestEnv {
    launched(setup, &[])
}

/// Starts Droid joined, with these files in its world.
fn launched(setup: Setup, files: &[&str]) -> TestEnv {
    let env = with(setup, "rung = \"joined\"\n", false);
    for file in files {
        std::fs::write(env.dir().join(file), "").unwrap();
    }
    std::fs::write(env.dir().join("exec-help"), "--input-format stream-jsonrpc").unwrap();
    let made = std::process::Command::new("mkfifo").arg(env.dir().join("pipe")).status().unwrap();
    assert!(made.success());
    let _started = env.ccb(&["--detach"]).ok();
    env.until_state("droid", "idle");
    env
}

/// Returns whether any Droid lives that was ever started here, but for the last one.
fn orphans(env: &TestEnv) -> usize {
    let pids = std::fs::read_to_string(env.dir().join("rpc.pids")).unwrap();
    let all: Vec<&str> = pids.lines().collect();
    let living = env.processes();
    all[..all.len() - 1].iter().filter(|pid| living.iter().any(|(other, _)| other.to_string() == **pid)).count()
}

/// What kills something.
type Death = fn(&TestEnv);

#[test]
fn no_droid_outlives_its_viewer_though_a_wrapper_has_started_it_elsewhere() {
    // It does not end by itself when nobody speaks to it any more.
    let env = launched(Setup::default(), &["wrapped"]);
    let deaths: [(&str, Death); 4] = [
        ("viewer", |env| env.kill(env.process("ccb view"))),
        ("wrapper", |env| env.kill(env.process("bin/droid exec"))),
        ("runner", |env| env.kill(env.process("ccb run"))),
        ("tmux", |env| {
            let pid = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
            env.kill(pid.trim().parse().unwrap());
            let _again = env.ccb(&["--detach"]).ok();
        }),
    ];
    for (name, death) in deaths {
        assert_eq!(env.ask("droid", &format!("before {name}")).code, Some(0), "{name}");
        death(&env);
        assert_eq!(env.ask("droid", &format!("after {name}")).code, Some(0), "{name}");
        until(&format!("no orphan after the death of its {name}"), || (orphans(&env) == 0).then_some(()));
    }
}

#[test]
fn a_droid_whose_program_dies_again_and_again_falls_to_its_own_interface_and_says_why() {
    let env = with(Setup::default(), "", true);
    std::fs::write(env.dir().join("exec-help"), "--input-format stream-jsonrpc").unwrap();
    std::fs::write(env.dir().join("useless"), "").unwrap();
    let _started = env.ccb(&["--detach"]).ok();
    let answer = env.ask_json("droid", "ECHO: by another way");
    assert_eq!(answer["settlement"]["reply"], "by another way", "{answer}");
    let agent = env.agent("droid");
    assert_eq!(agent["rung"], "hooked", "{agent}");
    assert!(agent["rung_why"].as_str().unwrap().contains("it failed 5 times"), "{agent}");
    given_once(&env, &answer);
}

/// Lets a slow turn end.
fn go(env: &TestEnv) {
    std::fs::write(env.dir().join("pipe"), "go\n").unwrap();
}

/// Returns how many messages of this id, or with this text, Droid was given.
fn messages(env: &TestEnv, words: &str) -> usize {
    let log = std::fs::read_to_string(env.dir().join("rpc.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains("add_user_message") && line.contains(words)).count()
}

fn shown(env: &TestEnv, words: &str) -> String {
    until(&format!("the pane shows `{words}`"), || Some(env.screen("droid")).filter(|screen| screen.contains(words)))
}

#[test]
fn a_viewer_shows_what_is_said_and_keeps_the_humans_draft() {
    let env = joined(Setup::default());
    env.presses("droid", &["h", "a", "l", "f"]);
    let _draft = shown(&env, "> half");
    let answer = env.ask_json("droid", "a question");
    let id = answer["id"].as_str().unwrap();
    assert_eq!(answer["settlement"]["reply"], format!("answer to {id}"));
    assert_eq!(answer["settlement"]["ended_by"], "protocol", "{answer}");
    let screen = shown(&env, &format!("answer to {id}"));
    assert!(screen.contains("> half") && screen.matches("droid: idle").count() == 1, "{screen}");
    let _smaller = env.tmux(&["resize-window", "-t", "ccb:", "-x", "60", "-y", "12"]).ok();
    assert_eq!(env.ask("droid", "another").code, Some(0));
    let screen = until("it is drawn in the new size", || {
        let screen = env.screen("droid");
        (screen.matches("droid: idle").count() == 1 && screen.matches("> half").count() == 1).then_some(screen)
    });
    assert!(screen.lines().count() <= 12, "{screen}");
    env.presses("droid", &["C-c"]);
    until("the input line is empty", || (!env.screen("droid").contains("half")).then_some(()));
    env.presses("droid", &["C-c", "C-c"]);
    until("its pane is closed", || (env.agent("droid")["state"] != "idle").then_some(()));
}

#[test]
fn a_humans_turn_comes_first_and_a_request_waits_for_its_end() {
    let env = joined(Setup::default());
    env.presses("droid", &["S", "L", "O", "W", "Enter"]);
    until("the human's turn runs", || env.agent("droid")["why"].as_str()?.contains("human's own").then_some(()));
    let id = env.submit("droid", &[], "after that");
    assert_eq!(env.explain(&id)["request"]["state"], "queued");
    assert_eq!(messages(&env, &id), 0);
    go(&env);
    assert_eq!(env.settled(&id)["settlement"]["reply"], format!("answer to {id}"));
    assert_eq!(messages(&env, &id), 1);
}

#[test]
fn a_viewer_gives_an_id_once_and_keeps_its_answer_while_askd_is_dead() {
    let env = joined(Setup::default());
    let (id, going) = env.ask_meanwhile("droid", "SLOW");
    let _working = env.until_request(&id, "working");
    env.kill(env.askd().0);
    go(&env);
    assert_eq!(env.settled(&id)["settlement"]["reply"], format!("answer to {id}"));
    drop(going);
    assert_eq!(messages(&env, &id), 1);
    for edge in ["droid.before-offer", "droid.offered"] {
        let env = joined(Setup::default().with("CCB_FAILPOINT", &format!("{edge}=abort:{{world}}/died")));
        let id = env.submit("droid", &[], "once");
        until("the worker has died", || env.dir().join("died").exists().then_some(()));
        assert_eq!(env.settled(&id)["settlement"]["reply"], format!("answer to {id}"), "{edge}");
        assert_eq!(messages(&env, &id), 1, "{edge}");
    }
}

#[test]
fn a_message_that_droid_refuses_is_tried_again_and_fails_in_its_words() {
    let env = joined(Setup::default());
    let answer = env.ask_json("droid", "REFUSE this");
    let id = answer["id"].as_str().unwrap();
    assert_eq!(outcome(&answer, "failed"), "never-consumed", "{answer}");
    assert!(answer["settlement"]["outcome"]["message"].as_str().unwrap().contains("not today"), "{answer}");
    // As often as it was said that it was handed over.
    let explained = env.explain(id).to_string();
    assert_eq!(messages(&env, id), explained.matches("its viewer has given it to Droid").count(), "{explained}");
    assert_eq!(env.ask("droid", "next").code, Some(0));
}

#[test]
fn a_message_that_droid_never_answers_has_it_started_again_and_is_given_to_it_then() {
    let env = joined(Setup::default().with("CCB_VIEW_PATIENCE_S", "1"));
    let answer = env.ask_json("droid", "DEAF");
    let id = answer["id"].as_str().unwrap();
    assert_eq!(answer["settlement"]["reply"], format!("answer to {id}"), "{answer}");
    let told = env.agent("droid").to_string();
    assert!(told.contains("answered nothing within 1 s") || told.contains("killed by signal 9"), "{told}");
    assert_eq!(
        messages(&env, id),
        2,
        "once to each: the first one's end and the records proved that it had not taken it"
    );
    let _shown = shown(&env, "answered nothing within 1 s");
}

#[test]
fn records_that_are_missing_prove_nothing_of_a_message_that_was_not_answered() {
    let env = joined(Setup::default().with("CCB_VIEW_PATIENCE_S", "1"));
    std::fs::remove_dir_all(env.home().join(".factory/sessions")).unwrap();
    let answer = env.ask_json("droid", "DEAF");
    assert_eq!(outcome(&answer, "failed"), "unknown-delivery", "{answer}");
    assert_eq!(messages(&env, answer["id"].as_str().unwrap()), 1);
}

#[test]
fn a_turn_whose_end_is_not_told_ends_by_the_records_within_two_seconds() {
    let env = joined(Setup::default());
    let answer = env.ask_json("droid", "UNTOLD");
    assert_eq!(
        (answer["settlement"]["reply"].as_str(), answer["settlement"]["ended_by"].as_str()),
        (Some("recorded"), Some("record"))
    );
    let recorded: u64 = std::fs::read_to_string(env.dir().join("recorded")).unwrap().trim().parse().unwrap();
    let ended = answer["settlement"]["at"].as_u64().unwrap();
    assert!(ended < recorded + 2000, "{recorded} {answer}");
    assert_eq!(env.ask("droid", "next").code, Some(0));
}

#[test]
fn a_draft_in_the_viewers_input_line_is_asked_for_before_a_restart() {
    let env = joined(Setup::default());
    env.presses("droid", &["h", "a", "l", "f"]);
    let _draft = shown(&env, "> half");
    env.ccb(&["restart", "droid"]).says(1, &["draft in its input line", "--force"]);
    let _draft = shown(&env, "> half");
    env.presses("droid", &["C-c"]);
    until("the input line is empty", || (!env.screen("droid").contains("half")).then_some(()));
    let _restarted = env.ccb(&["restart", "droid"]).ok();
    assert_eq!(env.ask("droid", "next").code, Some(0));
}

#[test]
fn a_turn_of_droids_that_is_in_no_record_any_more_is_over() {
    let env = joined(Setup::default());
    let (id, going) = env.ask_meanwhile("droid", "SLOW");
    let _working = env.until_request(&id, "working");
    std::fs::remove_dir_all(env.home().join(".factory/sessions")).unwrap();
    env.kill(env.process("ccb view"));
    let settled = env.settled(&id);
    assert_eq!(outcome(&settled, "failed"), "agent-gone", "{settled}");
    drop(going);
    assert_eq!(messages(&env, &id), 1);
    assert_eq!(env.ask("droid", "next").code, Some(0));
}

#[test]
fn a_start_in_the_moment_of_an_agents_death_takes_no_conversation_from_it() {
    let setup = Setup::default().with("CCB_FAILPOINT", "mount.closed=wait:{world}/noted");
    let env = with(setup, "rung = \"hooked\"\n", true);
    let _started = env.ccb(&["--detach"]).ok();
    assert_eq!(env.ask("droid", "ECHO: before").ok(), "before\n");
    let tmux = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
    env.kill(tmux.trim().parse().unwrap());
    until("askd has heard of it", || env.dir().join("noted.reached").exists().then_some(()));
    let starting = env.begin("ccb", &["--detach"], "");
    std::fs::write(env.dir().join("noted"), "").unwrap();
    let _started = starting.end().ok();
    assert_eq!(env.ask("droid", "ECHO: after").ok(), "after\n");
    assert_eq!(sessions(&env), 1, "it has come back in its session");
}
