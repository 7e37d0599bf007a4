//! Codex's app-server, as far as askd talks to it: one thread of turns behind a WebSocket on a Unix socket.
//!
//! The shapes are recorded ones (Codex 0.169.0). A message with `LATE` in it is accepted at once, and is in the history
//! only when there is a file `go` beside the events; the thread is active all the time, or, with `SWALLOW`, idle. With
//! `EARLY` the turn fails before its input is written down.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Error, Message, WebSocket};

use crate::events::Events;
use crate::options::Options;

/// How long a connection waits for a message before it looks at what else there is.
const LOOK: Duration = Duration::from_millis(10);

/// The one thread's id.
const THREAD: &str = "thread-1";

/// What all connections share.
struct Server {
    events: Events,
    /// The file whose coming lets go what is held up.
    go: PathBuf,
    /// What is known of the thread.
    thread: Thread,
    /// Who hears of it.
    clients: Vec<Sender<Value>>,
}

#[derive(Default)]
struct Thread {
    /// Its turns, oldest first.
    turns: Vec<Value>,
    count: u32,
    /// Whether it is in a turn.
    active: bool,
    /// What was accepted and is not written down.
    held: Vec<Turn>,
}

/// A turn that was accepted.
struct Turn {
    id: String,
    client: Value,
    text: String,
}

/// Returns whether a command line asks for it.
pub(crate) fn is_asked_for(options: &Options) -> bool {
    options.ignored.iter().any(|word| word == "app-server")
}

/// Serves until it is ended.
pub(crate) fn run(options: &Options) -> io::Result<u8> {
    let address = options.ignored.last().and_then(|word| word.strip_prefix("unix://"));
    let address = address.ok_or_else(|| io::Error::other("`--listen unix://…` is to come last"))?;
    let events = Events { file: options.events.clone(), shown: false };
    let go = options.events.clone().unwrap_or_default().with_file_name("go");
    events.record("start", &json!({"pid": std::process::id()}))?;
    let server = Arc::new(Mutex::new(Server { events, go, thread: Thread::default(), clients: Vec::new() }));
    for stream in UnixListener::bind(address)?.incoming() {
        let (stream, server) = (stream?, server.clone());
        std::thread::Builder::new().name("client".to_owned()).spawn(move || serve(stream, &server))?;
    }
    Ok(0)
}

/// Speaks with one client until it goes.
fn serve(stream: UnixStream, server: &Mutex<Server>) {
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    if socket.get_ref().set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    let (tell, told) = channel();
    locked(server).clients.push(tell);
    while goes_on(&mut socket, server, &told) {}
}

fn locked(server: &Mutex<Server>) -> std::sync::MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one message, if there is one, and brings what there is to tell.
fn goes_on(socket: &mut WebSocket<UnixStream>, server: &Mutex<Server>, told: &Receiver<Value>) -> bool {
    match socket.read() {
        Ok(Message::Text(text)) => {
            let call: Value = serde_json::from_str(text.as_str()).unwrap_or_default();
            let answer = locked(server).call(&call);
            if !answer.is_null() && socket.send(Message::text(answer.to_string())).is_err() {
                return false;
            }
        }
        Ok(_) => {}
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => return false,
    }
    locked(server).let_go();
    told.try_iter().all(|message| socket.send(Message::text(message.to_string())).is_ok())
}

impl Server {
    fn call(&mut self, call: &Value) -> Value {
        let Some(method) = call["method"].as_str().filter(|_| call["id"].is_u64()) else { return Value::Null };
        let result = match method {
            "thread/start" => json!({"thread": {"id": THREAD}}),
            "thread/resume" | "thread/read" => json!({"thread": {"id": THREAD, "status": self.thread.status()}}),
            "thread/turns/list" => {
                let newest: Vec<&Value> = self.thread.turns.iter().rev().collect();
                json!({"data": newest, "nextCursor": null})
            }
            "turn/start" => return self.start(call),
            _ => json!({}),
        };
        json!({"id": call["id"], "result": result})
    }

    /// Accepts a turn. What becomes of it is told behind the answer.
    fn start(&mut self, call: &Value) -> Value {
        let params = &call["params"];
        let text = params["input"][0]["text"].as_str().unwrap_or_default().to_owned();
        self.thread.count += 1;
        let turn =
            Turn { id: format!("turn-{}", self.thread.count), client: params["clientUserMessageId"].clone(), text };
        self.events.record("recv", &json!({"req": turn.client, "busy": self.thread.active})).ok();
        let answer = json!({"id": call["id"], "result": {"turn": {"id": turn.id}}});
        let word = ["LATE", "SWALLOW", "EARLY"].into_iter().find(|word| turn.text.contains(word));
        self.status(word != Some("SWALLOW"));
        match word {
            Some("EARLY") => {
                let error = json!({"message": "no room to compact in", "codexErrorInfo": "usageLimitExceeded"});
                self.end(&json!({"id": turn.id, "status": "failed", "items": [], "error": error}));
            }
            Some(_) => self.thread.held.push(turn),
            None => self.answer(&turn),
        }
        answer
    }

    /// Goes on with what was held up, once that may be.
    fn let_go(&mut self) {
        if self.thread.held.is_empty() || !self.go.exists() {
            return;
        }
        for turn in std::mem::take(&mut self.thread.held) {
            self.status(true);
            self.answer(&turn);
        }
    }

    fn answer(&mut self, turn: &Turn) {
        let user = json!({"type": "userMessage", "clientId": turn.client});
        let said =
            json!({"type": "agentMessage", "text": format!("answer to {}", turn.client.as_str().unwrap_or("it"))});
        self.tell("item/completed", json!({"turnId": turn.id, "item": user}));
        self.end(&json!({"id": turn.id, "status": "completed", "items": [user, said]}));
    }

    fn end(&mut self, turn: &Value) {
        self.thread.turns.push(turn.clone());
        self.status(false);
        self.tell("turn/completed", json!({"turn": turn}));
    }

    fn status(&mut self, active: bool) {
        self.thread.active = active;
        let status = self.thread.status();
        self.tell("thread/status/changed", json!({"status": status}));
    }

    fn tell(&mut self, method: &str, mut params: Value) {
        params["threadId"] = THREAD.into();
        self.clients.retain(|client| client.send(json!({"method": method, "params": params})).is_ok());
    }
}

impl Thread {
    fn status(&self) -> Value {
        json!({"type": if self.active { "active" } else { "idle" }, "activeFlags": []})
    }
}
