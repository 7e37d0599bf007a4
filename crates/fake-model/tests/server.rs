//! Round trips over real sockets: the library in this process, and the program with its options.

#![expect(clippy::unwrap_used, reason = "all of this file is a test, its helpers too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fake_model::log::Log;
use fake_model::server::Server;
use serde_json::{Value, json};

/// A client that keeps its connection.
struct Client(BufReader<TcpStream>);

struct Answer {
    status: u16,
    body: String,
    /// Whether the body ended as announced.
    whole: bool,
}

impl Client {
    fn new(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        Self(BufReader::new(stream))
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
    }

    fn post(&mut self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let length = body.len();
        self.send(&format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"))
    }

    fn ask(&mut self, prompt: &str) -> Answer {
        self.post("/v1/responses", &request(prompt, true))
    }

    fn message(&mut self, body: &Value) -> Answer {
        self.post("/v1/messages?beta=true", body)
    }

    fn gemini(&mut self, method: &str, body: &Value) -> Answer {
        self.post(&format!("/v1beta/models/gemini-x:{method}"), body)
    }

    fn gemini_says(&mut self, prompt: &str) -> String {
        self.gemini(STREAMED, &gemini_turn(prompt)).gemini_text()
    }

    fn chat(&mut self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", body)
    }

    fn send(&mut self, request: &str) -> Answer {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let status = self.line().split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = None;
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = Some(value.parse().unwrap());
            }
        }
        let (body, whole) = match length {
            Some(length) => (self.bytes(length), true),
            None => self.chunks(),
        };
        Answer { status, body, whole }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn bytes(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn chunks(&mut self) -> (String, bool) {
        let mut body = String::new();
        loop {
            let size = self.line();
            if size.is_empty() {
                return (body, false);
            }
            let size = usize::from_str_radix(&size, 16).unwrap();
            body += &self.bytes(size);
            self.line();
            if size == 0 {
                return (body, true);
            }
        }
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Returns the data of the events of this type.
    fn events(&self, kind: &str) -> Vec<Value> {
        let data = self.body.lines().filter_map(|l| l.strip_prefix("data: "));
        data.map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|data| data["type"] == kind).collect()
    }

    fn text(&self) -> String {
        let deltas = self.events("response.output_text.delta");
        deltas.iter().map(|delta| delta["delta"].as_str().unwrap()).collect()
    }

    /// Returns the content of a streamed message, put together from its deltas.
    fn content(&self) -> Vec<Value> {
        let deltas = self.events("content_block_delta");
        let block = |start: Value| {
            let (mut block, index) = (start["content_block"].clone(), &start["index"]);
            let joined = |field: &str| {
                let own = deltas.iter().filter(|delta| &delta["index"] == index);
                own.filter_map(|delta| delta["delta"][field].as_str()).collect::<String>()
            };
            let kind = block["type"].as_str().unwrap().to_owned();
            match kind.as_str() {
                "tool_use" => block["input"] = serde_json::from_str(&joined("partial_json")).unwrap(),
                field => block[field] = json!(joined(field)),
            }
            block
        };
        self.events("content_block_start").into_iter().map(block).collect()
    }

    /// Returns the documents of a stream without names, up to the word that ends some of them.
    fn pieces(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        data.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns all parts of a streamed answer of Gemini's API.
    fn parts(&self) -> Vec<Value> {
        let parts = |piece: &Value| piece["candidates"][0]["content"]["parts"].as_array().cloned();
        self.pieces().iter().filter_map(parts).flatten().collect()
    }

    fn gemini_text(&self) -> String {
        let said = self.parts().into_iter().filter(|part| part["thought"] != true);
        said.filter_map(|part| part["text"].as_str().map(str::to_owned)).collect()
    }

    fn chat_text(&self) -> String {
        let deltas = self.pieces().into_iter().map(|piece| piece["choices"][0]["delta"]["content"].clone());
        deltas.filter_map(|delta| delta.as_str().map(str::to_owned)).collect()
    }

    fn message_text(&self) -> String {
        self.content().iter().filter_map(|block| block["text"].as_str()).collect()
    }
}

fn request(prompt: &str, stream: bool) -> Value {
    let content = json!([{"type": "input_text", "text": prompt}]);
    let input = json!([{"type": "message", "role": "user", "content": content}]);
    json!({"model": "m", "stream": stream, "input": input})
}

/// A request of a turn whose last message has this content.
fn turn(content: impl Into<Value>) -> Value {
    let messages = json!([{"role": "user", "content": content.into()}]);
    json!({"model": "m", "stream": true, "tools": [{"name": "Bash"}], "messages": messages})
}

/// How Gemini's API is asked for a stream.
const STREAMED: &str = "streamGenerateContent?alt=sse";

/// A request of a turn by Gemini's API.
fn gemini_turn(prompt: &str) -> Value {
    let context = json!({"text": "<session_context>\nThis is the Gemini CLI.\nECHO: no\n</session_context>"});
    let tools = json!([{"functionDeclarations": [{"name": "run_shell_command", "parametersJsonSchema": {}}]}]);
    json!({"tools": tools, "contents": [{"role": "user", "parts": [context, {"text": prompt}]}]})
}

/// A request of a turn by chat completions.
fn chat_turn(prompt: &str) -> Value {
    let tools = json!([{"type": "function", "function": {"name": "bash", "parameters": {}}}]);
    let reminder = json!([{"type": "text", "text": "<system-reminder>\nECHO: no\n</system-reminder>"}]);
    let messages = json!([{"role": "user", "content": reminder}, {"role": "user", "content": prompt}]);
    json!({"model": "m", "stream": true, "tools": tools, "messages": messages})
}

fn with(mut body: Value, key: &str, value: impl Into<Value>) -> Value {
    body[key] = value.into();
    body
}

fn start() -> (Server, Client) {
    let server = Server::start(0, Log::nowhere()).unwrap();
    let client = Client::new(server.port());
    (server, client)
}

/// A path of this test's own in the build's directory for temporary files.
fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn several_requests_share_one_connection() {
    let (_server, mut client) = start();
    let echo = client.ask("CCB_REQ_ID: r1\n\nECHO: 你好, a line longer than a piece\n");
    assert_eq!((echo.status, echo.whole), (200, true));
    assert_eq!(echo.text(), "你好, a line longer than a piece");
    let completed = &echo.events("response.completed")[0]["response"];
    let text = &completed["output"][0]["content"][0]["text"];
    assert_eq!(text, &json!(echo.text()));
    let slow = client.ask("SLEEP 0.5: abc");
    assert_eq!((slow.text().as_str(), slow.whole), ("abc", true));
    let whole = client.post("/v1/responses", &request("hello", false)).json();
    assert_eq!(whole["output"][0]["content"][0]["text"], "OK: hello");
    assert_eq!(client.get("/v1/models").json()["object"], "list");
    assert_eq!(client.get("/nowhere").status, 404);
    let compacted = client.post("/v1/responses/compact", &json!({}));
    assert_eq!(compacted.json()["output"][0]["role"], "user");
}

#[test]
fn errors_come_as_ordered() {
    let (server, mut client) = start();
    let refused = client.ask("ERR 429 1: slow down");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["message"], "slow down");
    let again = client.ask("ERR 429 1: slow down");
    assert_eq!(again.text(), "RECOVERED: slow down");
    let failed = client.ask("SSEERR: broken");
    let error = &failed.events("response.failed")[0]["response"]["error"];
    assert_eq!(error["message"], "broken");
    let unparsed = client.send("POST /v1/responses HTTP/1.1\r\ncontent-length: 1\r\n\r\n{");
    assert_eq!(unparsed.status, 400);
    for prompt in ["DROP: a text of which only one half arrives", "DROP:"] {
        let dropped = Client::new(server.port()).ask(prompt);
        assert!(!dropped.whole && dropped.events("response.completed").is_empty());
    }
}

#[test]
fn messages_are_streamed_or_whole() {
    let (_server, mut client) = start();
    let echo = client.message(&turn("CCB_REQ_ID: r1\n\nECHO: 你好, a line longer than a piece\nCCB_DONE: r1"));
    assert_eq!((echo.status, echo.whole), (200, true));
    assert_eq!(echo.message_text(), "你好, a line longer than a piece\n\nCCB_DONE: r1");
    let names: Vec<&str> = echo.body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(&names[..2], ["message_start", "content_block_start"]);
    assert_eq!(&names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(echo.events("message_start")[0]["message"]["content"], json!([]));
    assert_eq!(echo.events("message_delta")[0]["delta"]["stop_reason"], "end_turn");
    let slow = client.message(&turn("SLEEP 0.8: ab"));
    assert_eq!((slow.message_text().as_str(), slow.events("ping").len()), ("ab", 2));
    let long = client.message(&turn("LONG 3"));
    assert!(long.message_text().ends_with("END-OF-LONG"));
    let whole = client.message(&with(turn("hello"), "stream", false)).json();
    assert_eq!(whole["content"], json!([{"type": "text", "text": "OK: hello"}]));
    assert_eq!(whole["stop_reason"], "end_turn");
    let counted = client.post("/v1/messages/count_tokens?beta=true", &turn("hello"));
    assert!(counted.json()["input_tokens"].as_u64().unwrap() > 1);
    assert_eq!(client.send("HEAD /api/hello HTTP/1.1\r\nhost: x\r\n\r\n").status, 200);
    assert_eq!(client.post("/api/event_logging/batch", &json!({})).status, 404);
}

#[test]
fn a_message_with_a_tool_goes_on_with_its_result() {
    let (_server, mut client) = start();
    let thinking = json!({"type": "adaptive"});
    let multi = client.message(&with(turn("MULTI: ls"), "thinking", thinking));
    let kinds: Vec<Value> = multi.content().iter().map(|block| block["type"].clone()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);
    assert_eq!(multi.events("message_delta")[0]["delta"]["stop_reason"], "tool_use");
    let called = multi.content().pop().unwrap();
    assert_eq!((&called["name"], &called["input"]["command"]), (&json!("Bash"), &json!("ls")));
    let result = json!({"type": "tool_result", "tool_use_id": called["id"], "content": "a file"});
    let body = json!([
        {"role": "user", "content": "MULTI: ls"},
        {"role": "assistant", "content": multi.content()},
        {"role": "user", "content": [result]},
    ]);
    let last = client.message(&with(turn(""), "messages", body));
    let texts = ["First block.", "Second block. TOOLDONE: a file"].map(|text| json!({"type": "text", "text": text}));
    assert_eq!(last.content(), texts);
}

#[test]
fn errors_of_messages_come_as_ordered() {
    let (server, mut client) = start();
    for (code, kind) in [(400, "invalid_request_error"), (401, "authentication_error"), (429, "rate_limit_error")] {
        let refused = client.message(&turn(format!("ERR {code}: no")));
        let error = &refused.json()["error"];
        assert_eq!((refused.status, &error["type"], &error["message"]), (code, &json!(kind), &json!("no")));
    }
    let once = || turn("ERR 529 1: busy");
    let title = with(once(), "tools", json!([]));
    assert_eq!(client.message(&title).message_text(), "OK");
    assert_eq!(client.message(&once()).json()["error"]["type"], "overloaded_error");
    assert_eq!(client.message(&once()).message_text(), "RECOVERED: busy");
    client.post("/_ctl", &json!({"fail": [500]}));
    assert_eq!(client.message(&title).status, 200);
    assert_eq!(client.message(&turn("ECHO: a")).json()["error"]["message"], "forced 500");
    let failed = client.message(&turn("SSEERR: broken"));
    assert_eq!((failed.status, &failed.events("error")[0]["error"]["message"]), (200, &json!("broken")));
    assert_eq!(client.message(&with(turn("SSEERR: broken"), "stream", false)).status, 529);
    for prompt in ["DROP: a text of which only one half arrives", "DROP:"] {
        let dropped = Client::new(server.port()).message(&turn(prompt));
        assert!(!dropped.whole && dropped.events("message_stop").is_empty());
    }
}

#[test]
fn requests_that_no_user_made_are_answered_briefly() {
    let (_server, mut client) = start();
    let summary = client.message(&turn("CRITICAL: Your task is to create a detailed summary.\nERR 429: x"));
    assert!(summary.message_text().contains("<summary>"));
    let body = turn("ERR 429: x").to_string();
    let length = body.len();
    let subagent = client.send(&format!(
        "POST /v1/messages HTTP/1.1\r\nx-claude-code-agent-id: a1\r\ncontent-length: {length}\r\n\r\n{body}"
    ));
    assert_eq!(subagent.message_text(), "RECOVERED: x");
}

#[test]
fn gemini_answers_are_streamed_or_whole() {
    let (_server, mut client) = start();
    let echo =
        client.gemini(STREAMED, &gemini_turn("CCB_REQ_ID: r1\n\nECHO: 你好, a line longer than a piece\nCCB_DONE: r1"));
    assert_eq!((echo.status, echo.whole), (200, true));
    assert_eq!(echo.gemini_text(), "你好, a line longer than a piece\n\nCCB_DONE: r1");
    let last = echo.pieces().pop().unwrap();
    assert_eq!(last["candidates"][0]["finishReason"], "STOP");
    assert!(last["usageMetadata"]["promptTokenCount"].as_u64().unwrap() > 1);
    assert_eq!(last["modelVersion"], "gemini-x");
    assert_eq!(client.gemini_says("SLEEP 0.8: ab"), "ab");
    assert!(client.gemini_says("LONG 3").ends_with("END-OF-LONG"));
    let whole = client.gemini("generateContent", &gemini_turn("hello")).json();
    assert_eq!(whole["candidates"][0]["content"]["parts"], json!([{"text": "OK: hello"}]));
    assert_eq!(whole["candidates"][0]["finishReason"], "STOP");
    let counted = client.gemini("countTokens", &gemini_turn("hello")).json();
    assert!(counted["totalTokens"].as_u64().unwrap() > 1);
}

#[test]
fn gemini_tools_go_on_with_their_results() {
    let (_server, mut client) = start();
    let multi = client.gemini(STREAMED, &gemini_turn("MULTI: ls"));
    assert_eq!(multi.parts()[0], json!({"text": "Let me think about this.", "thought": true}));
    assert_eq!(multi.gemini_text(), "I will run a command.");
    let called = multi.parts().into_iter().find_map(|part| part.get("functionCall").cloned()).unwrap();
    assert_eq!((&called["name"], &called["args"]), (&json!("run_shell_command"), &json!({"command": "ls"})));
    let mut body = gemini_turn("MULTI: ls");
    let response = json!({"id": called["id"], "name": called["name"], "response": {"output": "a file"}});
    let contents = body["contents"].as_array_mut().unwrap();
    contents.push(json!({"role": "model", "parts": [{"functionCall": called}]}));
    contents.push(json!({"role": "user", "parts": [{"functionResponse": response}]}));
    let last = client.gemini(STREAMED, &body);
    assert_eq!(last.gemini_text(), "First block.\n\nSecond block. TOOLDONE: a file");
}

#[test]
fn errors_of_gemini_come_as_ordered() {
    let (server, mut client) = start();
    for (code, status) in [(401, "UNAUTHENTICATED"), (429, "RESOURCE_EXHAUSTED"), (500, "INTERNAL")] {
        let refused = client.gemini(STREAMED, &gemini_turn(&format!("ERR {code}: no")));
        let error = json!({"error": {"code": code, "message": "no", "status": status}});
        assert_eq!((refused.status, refused.json()), (code, error));
    }
    let once = gemini_turn("ERR 503 1: busy");
    let schema =
        json!({"responseJsonSchema": {"type": "OBJECT", "properties": {"complexity_score": {"type": "INTEGER"}}}});
    let router = with(with(once.clone(), "tools", Value::Null), "generationConfig", schema);
    client.post("/_ctl", &json!({"fail": [500]}));
    let chosen = client.gemini("generateContent", &router).json();
    assert_eq!(chosen["candidates"][0]["content"]["parts"], json!([{"text": r#"{"complexity_score":1}"#}]));
    assert_eq!(client.gemini(STREAMED, &once).json()["error"]["message"], "forced 500");
    assert_eq!(client.gemini(STREAMED, &once).status, 503);
    assert_eq!(client.gemini(STREAMED, &once).gemini_text(), "RECOVERED: busy");
    let failed = client.gemini(STREAMED, &gemini_turn("SSEERR: broken"));
    assert_eq!((failed.status, &failed.json()["error"]["message"]), (200, &json!("broken")));
    assert_eq!(client.gemini("generateContent", &gemini_turn("SSEERR: broken")).status, 503);
    for prompt in ["DROP: a text of which only one half arrives", "DROP:"] {
        let dropped = Client::new(server.port()).gemini(STREAMED, &gemini_turn(prompt));
        let ended = dropped.pieces().iter().any(|piece| !piece["candidates"][0]["finishReason"].is_null());
        assert!(!dropped.whole && !ended);
    }
}

#[test]
fn completions_are_streamed_or_whole() {
    let (_server, mut client) = start();
    let echo = client.chat(&chat_turn("CCB_REQ_ID: r1\n\nECHO: 你好, a line longer than a piece\nCCB_DONE: r1"));
    assert_eq!((echo.status, echo.whole), (200, true));
    assert_eq!(echo.chat_text(), "你好, a line longer than a piece\n\nCCB_DONE: r1");
    assert!(echo.body.ends_with("data: [DONE]\n\n"));
    let pieces = echo.pieces();
    let [.., finish, cost] = &pieces[..] else { panic!("{pieces:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert!(cost["choices"] == json!([]) && cost["usage"]["total_tokens"].as_u64().unwrap() > 1);
    let slow = client.chat(&chat_turn("SLEEP 0.8: ab"));
    assert_eq!((slow.chat_text().as_str(), slow.body.matches(": ping").count()), ("ab", 2));
    assert!(client.chat(&chat_turn("LONG 3")).chat_text().ends_with("END-OF-LONG"));
    let whole = client.chat(&with(chat_turn("hello"), "stream", false)).json();
    assert_eq!(whole["choices"][0]["message"], json!({"role": "assistant", "content": "OK: hello"}));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let title = with(chat_turn("ECHO: a"), "tools", Value::Null);
    assert_eq!(client.chat(&title).chat_text(), "Fake title");
}

#[test]
fn a_completion_with_a_tool_goes_on_with_its_result() {
    let (_server, mut client) = start();
    let multi = client.chat(&chat_turn("MULTI: ls"));
    assert_eq!(multi.pieces()[1]["choices"][0]["delta"]["reasoning_content"], "Let me think about this.");
    assert_eq!(multi.chat_text(), "I will run a command.");
    let calls = multi.pieces().into_iter().map(|piece| piece["choices"][0]["delta"]["tool_calls"][0].clone());
    let called = calls.into_iter().find(|call| !call.is_null()).unwrap();
    let function = json!({"name": "bash", "arguments": r#"{"command":"ls"}"#});
    assert_eq!((&called["function"], &called["index"]), (&function, &json!(0)));
    let finished = multi.pieces().iter().any(|piece| piece["choices"][0]["finish_reason"] == "tool_calls");
    assert!(finished, "{}", multi.body);
    let mut body = chat_turn("MULTI: ls");
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": "x", "tool_calls": [called]}));
    messages.push(json!({"role": "tool", "tool_call_id": called["id"], "content": "a file"}));
    assert_eq!(client.chat(&body).chat_text(), "First block.\n\nSecond block. TOOLDONE: a file");
    let whole = client.chat(&with(chat_turn("TOOL: ls"), "stream", false)).json();
    let message = &whole["choices"][0]["message"];
    assert_eq!((&message["content"], &message["tool_calls"][0]["function"]), (&Value::Null, &function));
}

#[test]
fn errors_of_completions_come_as_ordered() {
    let (server, mut client) = start();
    for (code, kind) in [(401, "invalid_request_error"), (429, "rate_limit_exceeded"), (500, "server_error")] {
        let refused = client.chat(&chat_turn(&format!("ERR {code}: no")));
        let error = &refused.json()["error"];
        assert_eq!((refused.status, &error["type"], &error["message"]), (code, &json!(kind), &json!("no")));
    }
    let once = chat_turn("ERR 503 1: busy");
    client.post("/_ctl", &json!({"fail": [500]}));
    assert_eq!(client.chat(&with(once.clone(), "tools", json!([]))).chat_text(), "Fake title");
    assert_eq!(client.chat(&once).json()["error"]["message"], "forced 500");
    assert_eq!(client.chat(&once).status, 503);
    assert_eq!(client.chat(&once).chat_text(), "RECOVERED: busy");
    let failed = client.chat(&chat_turn("SSEERR: broken"));
    assert_eq!((failed.status, &failed.pieces()[1]["error"]["message"]), (200, &json!("broken")));
    assert_eq!(client.chat(&with(chat_turn("SSEERR: broken"), "stream", false)).status, 503);
    for prompt in ["DROP: a text of which only one half arrives", "DROP:"] {
        let dropped = Client::new(server.port()).chat(&chat_turn(prompt));
        assert!(!dropped.whole && !dropped.body.contains("[DONE]"));
    }
}

#[test]
fn an_empty_answer_is_whole_and_without_text_in_all_apis() {
    let (_server, mut client) = start();
    let prompt = "CCB_REQ_ID: r\n\nEMPTY\n\nCCB_DONE: r";
    let answer = client.ask(prompt);
    assert!(answer.text().is_empty() && answer.events("response.completed").len() == 1);
    let answer = client.message(&turn(prompt));
    assert!(answer.content().is_empty() && answer.events("message_stop").len() == 1);
    let answer = client.gemini(STREAMED, &gemini_turn(prompt));
    assert!(answer.gemini_text().is_empty() && answer.body.contains("STOP"));
    let answer = client.chat(&chat_turn(prompt));
    assert!(answer.chat_text().is_empty() && answer.body.contains("[DONE]"));
}

#[test]
fn a_notice_is_noted_by_all_apis() {
    let (_server, mut client) = start();
    let notice = "CCB_REQ_ID: n1\n\n[CCB_TASK_COMPLETED]\nProvider: Codex\nStatus: Completed\nTask: r1\n\n\
                  Result: ERR 500: not obeyed\n";
    assert_eq!(client.ask(notice).text(), "NOTED: ERR 500: not obeyed");
    assert_eq!(client.message(&turn(notice)).message_text(), "NOTED: ERR 500: not obeyed");
    assert_eq!(client.gemini_says(notice), "NOTED: ERR 500: not obeyed");
    assert_eq!(client.chat(&chat_turn(notice)).chat_text(), "NOTED: ERR 500: not obeyed");
}

#[test]
fn the_controls_change_the_next_answers() {
    let (_server, mut client) = start();
    let change = json!({"done": "forget", "fail": [503]});
    assert_eq!(client.post("/_ctl", &change).json()["done"], "forget");
    assert_eq!(client.post("/_ctl", &json!({"x": 1})).status, 400);
    assert_eq!(client.ask("ECHO: a\nCCB_DONE: r").status, 503);
    assert_eq!(client.ask("ECHO: a\nCCB_DONE: r").text(), "a");
    client.post("/_ctl", &json!({"done": "obey"}));
    assert_eq!(client.ask("ECHO: a\nCCB_DONE: r").text(), "a\n\nCCB_DONE: r");
    assert_eq!(client.get("/_ctl/state").json()["fail"], json!([]));
}

#[test]
fn a_dropped_server_frees_its_port() {
    let (server, client) = start();
    let port = server.port();
    drop((server, client));
    Server::start(port, Log::nowhere()).unwrap();
}

fn spawn(arguments: &[&str]) -> (Child, u16) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fake-model"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let port = line.trim().strip_prefix("listening 127.0.0.1:");
    (child, port.unwrap().parse().unwrap())
}

#[test]
fn the_program_logs_and_ends_with_its_input() {
    let (log, port_file) = (scratch("log"), scratch("port"));
    let (mut child, port) =
        spawn(&["--until-eof", "--log", log.to_str().unwrap(), "--port-file", port_file.to_str().unwrap()]);
    let written = std::fs::read_to_string(&port_file).unwrap();
    assert_eq!(written, format!("{port}\n"));
    let mut client = Client::new(port);
    client.ask("ECHO: a");
    // The end of a stream is logged after it; the next answer on the connection comes later still.
    client.ask("ECHO: b");
    client.message(&turn("ECHO: c"));
    client.message(&turn("ECHO: d"));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let lines = std::fs::read_to_string(&log).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first: Vec<&Value> = events.iter().filter(|line| line["seq"] == 1).collect();
    assert_eq!(first[0]["user"], "ECHO: a");
    assert_eq!(first[1]["ev"], "end");
    let third: Vec<&Value> = events.iter().filter(|line| line["seq"] == 3).collect();
    assert_eq!((&third[0]["user"], &third[0]["path"]), (&json!("ECHO: c"), &json!("/v1/messages?beta=true")));
    assert_eq!((&third[1]["ev"], &third[1]["stop"]), (&json!("end"), &json!("end_turn")));
}

#[test]
fn many_servers_at_once_have_ports_of_their_own() {
    let started: Vec<(Child, u16)> = (0..20).map(|_| spawn(&["--until-eof"])).collect();
    let mut ports: Vec<u16> = started.iter().map(|(_, port)| *port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 20);
    for (mut child, _) in started {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_wrong_command_line_is_refused_in_words() {
    let program = env!("CARGO_BIN_EXE_fake-model");
    for arguments in [&["--host", "0.0.0.0"][..], &["--port", "x"], &["--log"]] {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(!output.status.success());
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("usage: fake-model"), "{message}");
    }
}

#[test]
fn a_limit_that_is_used_up_says_until_when() {
    let (_server, mut client) = start();
    let refused = client.ask("ERR 429: used up until 4115000000");
    let error = &refused.json()["error"];
    assert_eq!((&error["type"], &error["resets_at"]), (&json!("usage_limit_reached"), &json!(4_115_000_000_u64)));
}
