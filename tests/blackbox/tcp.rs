//! The predecessor's TCP door, by a raw client: its replies as they were, and nobody without the token.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::env::{SOON, Setup, TestEnv, until};

/// Returns a world whose TCP door is open.
fn open() -> TestEnv {
    TestEnv::start(Setup::default().with("CCB_ASKD_LISTEN", "127.0.0.1:0"))
}

/// Returns what `askd.json` says.
fn state(env: &TestEnv) -> Value {
    let path = env.state().join("askd.json");
    assert_eq!(std::fs::metadata(&path).expect("a socket and its daemon work").permissions().mode() & 0o777, 0o600);
    serde_json::from_str(&std::fs::read_to_string(path).expect("a socket and its daemon work"))
        .expect("a socket and its daemon work")
}

/// Connects.
fn connect(state: &Value) -> TcpStream {
    let host = state["connect_host"].as_str().expect("the door is open");
    let port = u16::try_from(state["port"].as_u64().expect("a socket and its daemon work"))
        .expect("a socket and its daemon work");
    let stream = TcpStream::connect((host, port)).expect("a socket and its daemon work");
    stream.set_read_timeout(Some(2 * SOON)).expect("a socket and its daemon work");
    stream
}

/// Says this over a connection of its own and returns all that comes back.
fn say(state: &Value, text: &str) -> String {
    let mut stream = connect(state);
    stream.write_all(text.as_bytes()).expect("a socket and its daemon work");
    let mut said = String::new();
    let _until_closed = stream.read_to_string(&mut said);
    said
}

/// Calls and returns the one line of the answer.
#[track_caller]
fn call(state: &Value, mut call: Value) -> Value {
    if call.get("token").is_none() {
        call["token"] = state["token"].clone();
    }
    let said = say(state, &format!("{call}\n"));
    assert_eq!((said.matches('\n').count(), said.ends_with('\n')), (1, true), "{said:?}");
    serde_json::from_str(&said).expect("a socket and its daemon work")
}

/// Returns a request.
fn request(env: &TestEnv, id: &str, message: &str) -> Value {
    json!({
        "type": "ask.request", "v": 1, "id": id, "provider": "codex", "caller": "claude", "timeout_s": 60,
        "work_dir": env.project(), "message": message, "quiet": true, "no_wrap": false,
    })
}

#[test]
fn the_predecessors_clients_get_the_predecessors_replies() {
    let env = open();
    let state = state(&env);
    assert_eq!((&state["host"], state["token"].as_str().unwrap().len()), (&json!("127.0.0.1"), 32));
    let pong = call(&state, json!({"type": "ask.ping", "v": 1, "id": "p1"}));
    assert_eq!(pong, json!({"type": "ask.pong", "v": 1, "id": "p1", "exit_code": 0, "reply": "OK"}));
    let refused = |id: &str, why: &str| json!({"type": "ask.response", "v": 1, "id": id, "exit_code": 1, "reply": why});
    for kind in ["cask.request", "", "ask.requests"] {
        assert_eq!(call(&state, json!({"type": kind, "v": 1, "id": "x"})), refused("x", "Invalid request"));
    }
    for token in [json!(""), json!("0".repeat(32)), json!(7), Value::Null] {
        for kind in ["ask.request", "ask.shutdown", "rubbish"] {
            let said = call(&state, json!({"type": kind, "v": 1, "id": "x", "token": token}));
            assert_eq!(said, refused("x", "Unauthorized"));
        }
    }
    for text in ["\n", "{\n", "7\n", "\u{0}\n", "[]\n"] {
        assert_eq!(say(&state, text), "", "{text:?}");
    }
    // The provider's name finds its agent, and so does the agent's own.
    for provider in ["codex", "Stub"] {
        let mut asked = request(&env, "r1", "ECHO: hello");
        asked["provider"] = json!(provider);
        let mut answer = call(&state, asked);
        let meta = answer["meta"].take();
        let req_id = answer["req_id"].take();
        let id = req_id.as_str().unwrap();
        let name = provider.to_lowercase();
        let want = json!({
            "type": "ask.response", "v": 1, "id": "r1", "req_id": null, "exit_code": 0, "reply": "hello",
            "provider": name, "meta": null,
        });
        assert_eq!(answer, want);
        let (done_ms, anchor_ms) = (meta["done_ms"].as_i64().unwrap(), meta["anchor_ms"].as_i64().unwrap());
        assert!(0 <= anchor_ms && anchor_ms <= done_ms, "{meta}");
        let project = ccb_core::home::project_id(&env.project());
        let want = json!({
            "session_key": format!("{name}:{project}"), "done_seen": true, "done_ms": done_ms, "anchor_seen": true,
            "anchor_ms": anchor_ms, "fallback_scan": false, "log_path": env.file("stub", "jsonl"), "status": "completed",
        });
        assert_eq!(meta, want);
        until("the receipt is noted", || env.explain(id)["request"]["delivered"].as_i64());
    }
}

#[test]
fn what_cannot_be_asked_over_tcp_is_said_in_words() {
    let env = open();
    let state = state(&env);
    let table = [
        ("provider", json!(null), "`provider` is missing"),
        ("caller", json!(""), "`caller` is missing"),
        ("provider", json!(7), "`provider` is not a text"),
        ("provider", json!("zebra"), "no agent `zebra`"),
        ("message", json!(" "), "the message is empty"),
        ("timeout_s", json!("soon"), "`timeout_s` is not a number"),
        ("no_wrap", json!("x"), "`no_wrap` is neither"),
        ("req_id", json!("a b"), "`req_id` is not of"),
        ("work_dir", json!("/elsewhere"), "not of `/elsewhere`"),
    ];
    for (field, value, why) in table {
        let mut asked = request(&env, "r", "ECHO: x");
        asked[field] = value;
        let said = call(&state, asked);
        assert_eq!((&said["type"], &said["exit_code"], &said["id"]), (&json!("ask.response"), &json!(1), &json!("r")));
        assert!(said["reply"].as_str().unwrap().contains(why), "{said}");
    }
    assert!(env.requests().is_empty());
    let mut late = request(&env, "late", "SLEEP 5: x");
    late["timeout_s"] = json!(0.5);
    let want = json!({"type": "ask.response", "v": 1, "id": "late", "exit_code": 2, "reply": ""});
    assert_eq!(call(&state, late), want);
}

#[test]
fn the_same_req_id_is_the_same_request_and_one_whose_client_is_gone_is_kept() {
    let env = open();
    let state = state(&env);
    for id in ["20260101-120000-123-77-1", "0123456789abcdef0123456789abcdef"] {
        let mut asked = request(&env, "x", "SLEEP 1: once");
        asked["req_id"] = json!(id);
        asked["token"] = state["token"].clone();
        let mut gone = connect(&state);
        gone.write_all(format!("{asked}\n").as_bytes()).unwrap();
        let own = until("it is accepted", || env.requests().into_iter().find(|known| known.ends_with(id)));
        drop(gone);
        let answer = call(&state, asked);
        assert_eq!((&answer["reply"], &answer["req_id"]), (&json!("once"), &json!(id)), "{answer}");
        assert_eq!(env.received("stub", &own), 1);
        assert_eq!(env.ccb(&["pend", &own]).ok(), "once\n");
        let mut other = request(&env, "x", "ECHO: other");
        other["req_id"] = json!(id);
        let refused = call(&state, other);
        assert!(refused["reply"].as_str().unwrap().contains("taken by another request"), "{refused}");
    }
}

#[test]
fn a_client_that_says_no_more_gets_its_answer_and_a_long_message_needs_the_token_first() {
    let env = open();
    let state = state(&env);
    let mut asked = request(&env, "half", "ECHO: half");
    asked["token"] = state["token"].clone();
    let mut stream = connect(&state);
    stream.write_all(format!("{asked}\n").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("\"reply\":\"half\""), "{said}");
    // Without the token in its first 64 KiB, nobody goes on.
    let long = "x".repeat(1 << 20);
    let mut stream = connect(&state);
    let _may_break_off = stream.write_all(format!("{{\"id\":1,\"pad\":\"{long}\"}}\n").as_bytes());
    said.clear();
    let _may_be_reset = stream.read_to_string(&mut said);
    assert_eq!(said, "");
    let token = state["token"].as_str().unwrap();
    let pong = say(&state, &format!("{{\"type\":\"ask.ping\",\"token\":\"{token}\",\"pad\":\"{long}\"}}\n"));
    assert!(pong.contains("ask.pong"), "{pong}");
}

#[test]
fn a_restarted_worker_has_the_same_port_and_a_new_token() {
    let env = open();
    let before = state(&env);
    let (worker, keeper) = env.askd();
    env.kill(worker);
    let after = until("another worker serves", || (env.askd().0 != worker).then(|| state(&env)));
    assert_eq!((env.askd().1, &before["port"]), (keeper, &after["port"]));
    assert_ne!(before["token"], after["token"]);
    let with = |token: &Value| call(&after, json!({"type": "ask.ping", "v": 1, "id": 1, "token": token}));
    assert_eq!(with(&before["token"])["reply"], "Unauthorized");
    assert_eq!(with(&after["token"])["reply"], "OK");
    let other = open();
    let others = state(&other);
    assert_eq!(with(&others["token"])["reply"], "Unauthorized");
    // The setting is the daemon's, whoever starts the next keeper.
    env.kill(keeper);
    let ran = env.begin_with("ccb", &["ps"], "", |command| command.env_remove("CCB_ASKD_LISTEN"));
    let _shown = ran.end().ok();
    let (worker, _) = env.askd();
    env.kill(worker);
    until("another worker serves", || (env.askd().0 != worker).then_some(()));
    assert_eq!(state(&env)["port"], before["port"]);
}

#[test]
fn askd_is_shut_down_over_tcp() {
    let env = TestEnv::new(Setup::default().with("CCB_ASKD_AUTOSTART", "0"));
    let project = env.project().display().to_string();
    let askd = env.begin("askd", &["--work-dir", &project, "--listen", "localhost:0"], "");
    until("it serves", || (env.ccb(&["ps"]).code == Some(0)).then_some(()));
    let state = state(&env);
    let said = call(&state, json!({"type": "ask.shutdown", "v": 1, "id": "s"}));
    assert_eq!(said, json!({"type": "ask.response", "v": 1, "id": "s", "exit_code": 0, "reply": "OK"}));
    assert_eq!(askd.end().code, Some(0));
    assert!(env.log().contains("stopping: asked over TCP"));
}

#[test]
fn a_door_to_the_network_is_not_opened_and_status_says_so() {
    let env = TestEnv::start(Setup::default().with("CCB_ASKD_LISTEN", "0.0.0.0:0"));
    for key in ["host", "connect_host", "port", "token"] {
        assert_eq!(state(&env)[key], Value::Null, "{key}");
    }
    let status = env.ccb(&["status"]).ok();
    assert!(status.contains("only loopback addresses are"), "{status}");
    assert!(env.log().contains("only loopback addresses are"));
    assert_eq!(env.ask("stub", "ECHO: x").ok(), "x\n");
}

#[test]
fn a_token_is_not_enough_to_end_a_daemon_that_a_live_owner_has() {
    let env = TestEnv::new(Setup::default().with("CCB_ASKD_LISTEN", "127.0.0.1:0"));
    let owner = env.begin("sleep", &["1000"], "");
    let pid = owner.pid().to_string();
    let started =
        env.begin_with("ccb", &["ps"], "", |command| command.env("CCB_PARENT_PID", &pid).env("CCB_MANAGED", "1"));
    let _started = started.end().ok();
    let state = state(&env);
    let said = call(&state, json!({"type": "ask.shutdown", "v": 1, "id": "s"}));
    assert_eq!(said["exit_code"], 1, "{said}");
    assert!(said["reply"].as_str().is_some_and(|reply| reply.contains("it belongs to process")), "{said}");
    assert_eq!(env.status()["pid"], state["pid"]);
    env.kill_child(owner);
}
