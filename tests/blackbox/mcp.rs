//! `ccb mcp` as an agent's CLI drives it: lines of JSON over pipes, and whatever may happen meanwhile.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::env::{SOON, Setup, Stub, TestEnv, signal, until};

/// A running `ccb mcp` and its pipes.
struct Mcp {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    calls: u64,
}

impl Mcp {
    /// Starts the server, away from the project and with next to no environment, as Codex does.
    fn bare(env: &TestEnv) -> Self {
        let mut command = env.command(env!("CARGO_BIN_EXE_ccb"));
        command.args(["mcp", "--project"]).arg(env.project()).current_dir("/");
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("our own program starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in stdout.lines().map_while(Result::ok) {
                let read = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                if line.send(read).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines, calls: 0 }
    }

    /// Starts the server and begins a session.
    fn start(env: &TestEnv) -> Self {
        let mut mcp = Self::bare(env);
        mcp.initialize();
        mcp
    }

    fn initialize(&mut self) {
        let client = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let answer = self.call("initialize", &params);
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        assert_eq!(answer["result"]["serverInfo"]["name"], "ccb");
        self.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    }

    fn write(&mut self, message: &Value) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        writeln!(stdin, "{message}").expect("it reads");
    }

    /// Sends a call and returns its number.
    fn begin(&mut self, method: &str, params: &Value) -> u64 {
        self.calls += 1;
        let call = json!({"jsonrpc": "2.0", "id": self.calls, "method": method, "params": params});
        self.write(&call);
        self.calls
    }

    /// Returns the answer to a call.
    #[track_caller]
    fn answer(&self, number: u64) -> Value {
        let answer = self.lines.recv_timeout(SOON).unwrap_or_else(|error| panic!("no answer: {error}"));
        assert_eq!(answer["id"], number, "{answer}");
        answer
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: &Value) -> Value {
        let number = self.begin(method, params);
        self.answer(number)
    }

    /// Begins to call a tool.
    fn tool(&mut self, name: &str, arguments: &Value) -> u64 {
        self.begin("tools/call", &json!({"name": name, "arguments": arguments}))
    }

    /// Calls a tool and returns its text, and whether it is an error.
    #[track_caller]
    fn said(&mut self, name: &str, arguments: &Value) -> (String, bool) {
        let number = self.tool(name, arguments);
        said(&self.answer(number))
    }

    /// Begins an ask that waits; the request's id is known when this returns.
    fn ask_meanwhile(&mut self, env: &TestEnv, message: &str) -> (String, u64) {
        let before = env.requests();
        let number = self.tool("ask", &json!({"agent": "stub", "message": message}));
        let id = until("the request is accepted", || env.requests().into_iter().find(|id| !before.contains(id)));
        (id, number)
    }

    /// Waits for the end of the process, and returns its exit code.
    fn end(mut self) -> Option<i32> {
        self.over()
    }

    fn over(&mut self) -> Option<i32> {
        until("ccb mcp has ended", || self.child.try_wait().expect("a child can be waited for")).code()
    }
}

impl Drop for Mcp {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ended = self.child.wait();
    }
}

#[track_caller]
fn said(answer: &Value) -> (String, bool) {
    let result = &answer["result"];
    let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"));
    (text.to_owned(), result["isError"] == true)
}

#[test]
fn a_session_begins_with_or_without_the_drafts_question_and_lists_the_tools() {
    let env = TestEnv::new(Setup::default());
    let mut mcp = Mcp::bare(&env);
    let refused = mcp.call("server/discover", &json!({}));
    assert_eq!(refused["error"]["code"], -32601, "{refused}");
    mcp.initialize();
    let tools = mcp.call("tools/list", &json!({}));
    let tools = tools["result"]["tools"].as_array().unwrap().clone();
    let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["ask", "wait", "pend", "agents", "cancel"]);
    assert_eq!(mcp.call("no/such", &json!({}))["error"]["code"], -32601);
    assert!(mcp.call("tools/call", &json!({"name": "nothing"}))["error"]["message"].is_string());
    drop(mcp.stdin.take());
    assert_eq!(mcp.end(), Some(0));
}

#[test]
fn an_ask_brings_the_whole_answer_and_counts_as_delivered_once_it_is_written() {
    let env = TestEnv::start(Setup::default());
    let mut mcp = Mcp::start(&env);
    let number = mcp.tool("ask", &json!({"agent": "stub", "message": "ECHOALL: one\n\ntwo 你好"}));
    let answer = mcp.answer(number);
    assert_eq!(said(&answer), ("one\n\ntwo 你好".into(), false));
    let id = answer["result"]["_meta"]["ccb/request"]["id"].as_str().unwrap().to_owned();
    until("the answer is acknowledged", || env.explain(&id)["request"]["delivered"].is_number().then_some(()));
    assert_eq!(mcp.said("pend", &json!({"target": "stub"})).0, "one\n\ntwo 你好");
    let (text, is_error) = mcp.said("ask", &json!({"agent": "stubb", "message": "hi"}));
    assert!(is_error && text.contains("no agent `stubb`") && text.contains("did you mean `stub`?"), "{text}");
    let (text, is_error) = mcp.said("ask", &json!({"agent": "stub"}));
    assert!(is_error && text.contains("missing field `message`"), "{text}");
    let (text, is_error) = mcp.said("wait", &json!({"id": "20260101-000000-000-1-1"}));
    assert!(is_error && text.contains("no request"), "{text}");
    let (text, _) = mcp.said("agents", &json!({}));
    assert!(text.starts_with("stub: codex, idle"), "{text}");
}

#[test]
fn an_answer_that_takes_longer_than_the_wait_is_there_for_the_next_one() {
    let env = TestEnv::start(Setup::default());
    let mut mcp = Mcp::start(&env);
    let number = mcp.tool("ask", &json!({"agent": "stub", "message": "SLEEP 1: better late", "wait_s": 0.1}));
    let answer = mcp.answer(number);
    let (text, is_error) = said(&answer);
    let id = answer["result"]["_meta"]["ccb/request"]["id"].as_str().unwrap().to_owned();
    assert!(!is_error && text.starts_with("No answer yet") && text.contains(&id), "{text}");
    assert!(mcp.said("pend", &json!({"target": &id})).0.contains("No answer yet"));
    assert_eq!(mcp.said("wait", &json!({"id": &id})), ("better late".into(), false));
    until("the answer is acknowledged", || env.explain(&id)["request"]["delivered"].is_number().then_some(()));
    for tool in [("pend", json!({"target": &id})), ("wait", json!({"id": &id, "wait_s": 0}))] {
        assert_eq!(mcp.said(tool.0, &tool.1), ("better late".into(), false));
    }
}

#[test]
fn an_agent_that_does_not_wait_is_told_to_end_its_turn_and_gets_the_answer_by_itself() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("stub"), Stub::new("asker")]));
    let mut command = env.command(env!("CARGO_BIN_EXE_ccb"));
    let mut mcp = Mcp::spawn(command.arg("mcp").env("CCB_CALLER", "asker"));
    mcp.initialize();
    let (text, _) = mcp.said("ask", &json!({"agent": "stub", "message": "ECHO: for later", "wait_s": 0}));
    assert!(text.contains("end your turn now") && text.contains("[CCB_TASK_"), "{text}");
    until("the notice arrives", || {
        let all = env.questions("asker");
        all.iter().any(|text| text.contains("[CCB_TASK_COMPLETED]") && text.contains("for later")).then_some(())
    });
    assert!(mcp.said("agents", &json!({})).0.contains("asker (you)"));
}

#[test]
fn a_wait_that_is_given_up_leaves_the_request_running_and_its_answer_undelivered() {
    let env = TestEnv::start(Setup::default());
    // By the client's word, by the end of its input, and by a signal.
    for way in ["cancelled", "closed", "terminated"] {
        let mut mcp = Mcp::start(&env);
        let (id, number) = mcp.ask_meanwhile(&env, &format!("SLEEP 1: after {way}"));
        env.until_request(&id, "working");
        match way {
            "cancelled" => {
                let params = json!({"requestId": number, "reason": "test"});
                mcp.write(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}));
                assert!(mcp.said("agents", &json!({})).0.contains(&id), "it serves on");
            }
            "closed" => {
                drop(mcp.stdin.take());
                assert_eq!(mcp.over(), Some(0));
            }
            _ => {
                signal(mcp.child.id(), Signal::TERM);
                assert_eq!(mcp.over(), Some(0));
            }
        }
        let request = env.settled(&id);
        assert_eq!(request["settlement"]["reply"], format!("after {way}"));
        assert!(request["delivered"].is_null(), "{request:#}");
        assert_eq!(env.ccb(&["pend", &id]).ok(), format!("after {way}\n"));
    }
}

#[test]
fn one_call_asks_one_agent_and_says_how_to_ask_several() {
    let env = TestEnv::start(Setup::default());
    let mut mcp = Mcp::start(&env);
    for agent in ["all", "stub,other"] {
        let (text, is_error) = mcp.said("ask", &json!({"agent": agent, "message": "ECHO: never"}));
        assert!(is_error && text.contains("`agent` names one agent") && text.contains("once for each"), "{text}");
    }
    assert_eq!(env.status()["accepted"], 0);
}

#[test]
fn a_request_is_cancelled_and_the_waiting_ask_is_told() {
    let env = TestEnv::start(Setup::default());
    let mut mcp = Mcp::start(&env);
    let (id, asked) = mcp.ask_meanwhile(&env, "SLEEP 30: never");
    env.until_request(&id, "working");
    let cancelled = mcp.tool("cancel", &json!({"id": &id}));
    let mut answers =
        [&mcp.lines.recv_timeout(SOON).unwrap(), &mcp.lines.recv_timeout(SOON).unwrap()].map(Value::clone);
    answers.sort_by_key(|answer| answer["id"].as_u64());
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!(asked), &json!(cancelled)));
    let (text, is_error) = said(&answers[0]);
    assert!(!is_error && text.starts_with("[cancelled] cancelled by manual"), "{text}");
    assert!(said(&answers[1]).0.starts_with(&id));
    env.settled(&id);
}

#[test]
fn askd_killed_while_an_ask_waits_answers_all_the_same() {
    let env = TestEnv::start(Setup::default());
    let mut mcp = Mcp::start(&env);
    let (id, number) = mcp.ask_meanwhile(&env, "SLEEP 1: whatever dies");
    env.until_request(&id, "working");
    let (worker, keeper) = env.askd();
    env.kill(worker);
    env.kill(keeper);
    assert_eq!(said(&mcp.answer(number)), ("whatever dies".into(), false));
    assert_eq!(env.received("stub", &id), 1);
}

#[test]
fn without_a_project_each_tool_says_so() {
    let env = TestEnv::new(Setup { agents: Vec::new(), ..Setup::default() });
    std::fs::remove_dir_all(env.project().join(".ccb")).unwrap();
    let mut command = env.command(env!("CARGO_BIN_EXE_ccb"));
    let mut mcp = Mcp::spawn(command.arg("mcp"));
    mcp.initialize();
    let (text, is_error) = mcp.said("agents", &json!({}));
    assert!(is_error && text.contains("no project here") && text.contains("What to do: run `ccb`"), "{text}");
}
