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
}

fn request(prompt: &str, stream: bool) -> Value {
    let content = json!([{"type": "input_text", "text": prompt}]);
    let input = json!([{"type": "message", "role": "user", "content": content}]);
    json!({"model": "m", "stream": stream, "input": input})
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
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let lines = std::fs::read_to_string(&log).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first: Vec<&Value> = events.iter().filter(|line| line["seq"] == 1).collect();
    assert_eq!(first[0]["user"], "ECHO: a");
    assert_eq!(first[1]["ev"], "end");
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
