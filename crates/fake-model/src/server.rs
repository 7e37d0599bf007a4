//! Routes requests: model APIs, the list of models, and the controls of the test.
//!
//! Every request except those to the controls is logged before it is answered, by the API that
//! answers it or here, so that a test finds in the log whatever its CLI has sent.

use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::answer::{self, Answer, Reply, Turn};
use crate::chat;
use crate::gemini;
use crate::http::{Answers, Listening, Next, Request, Responder};
use crate::log::Log;
use crate::messages;
use crate::responses;
use crate::state::State;

/// The models that `GET /v1/models` lists; any other name is answered just as well.
const MODELS: &[&str] = &["fake-model", "gpt-5.1-codex", "claude-sonnet-4-5"];

/// What the APIs share: the log and the controls.
pub struct Model {
    /// The record of what happened.
    pub log: Log,
    /// The controls and counters.
    pub state: State,
}

/// One request to a model, read and numbered.
pub struct Call<'a> {
    /// The number of the request, which ties its log lines together.
    pub seq: u64,
    /// The request itself.
    pub request: &'a Request,
    /// Its body.
    pub body: &'a Value,
}

/// What a request is answered with once the test's controls have had their say.
pub enum Outcome {
    /// Content.
    Reply(Reply),
    /// A stream that begins and then reports this failure.
    StreamError(String),
    /// An HTTP error.
    Refused {
        /// The HTTP status.
        code: u16,
        /// The error's message; may be empty.
        text: String,
    },
}

/// A running server; dropping it frees the port.
pub struct Server {
    model: Arc<Model>,
    listening: Listening,
}

impl Server {
    /// Starts a server on loopback; port 0 takes one that is free.
    pub fn start(port: u16, log: Log) -> io::Result<Self> {
        let state = State::default();
        let model = Arc::new(Model { log, state });
        let listening = Listening::start(port, Arc::clone(&model))?;
        Ok(Self { model, listening })
    }

    /// Returns the port that is listened on.
    pub fn port(&self) -> u16 {
        self.listening.port()
    }

    /// Makes answers leave out the closing line that a prompt asks for.
    pub fn forget_done(&self) {
        self.model.state.forget_done();
    }

    /// Serves until the process ends.
    pub fn wait(self) {
        self.listening.wait();
    }
}

impl Answers for Model {
    fn answer(&self, request: &Request, out: &mut dyn Write) -> io::Result<Next> {
        let mut responder = Responder::new(out, self.state.fresh_id("req"));
        match request.method.as_str() {
            "GET" => self.get(request, &mut responder),
            "POST" => self.post(request, &mut responder),
            method => {
                let fields = json!({"method": method, "path": request.target});
                self.log.event("req", fields);
                let code = if method == "HEAD" { 200 } else { 405 };
                responder.empty(code)
            }
        }
    }
}

impl Model {
    /// Settles what becomes of the answer planned for `prompt`; a forced failure comes first.
    pub fn settle(&self, planned: Answer, prompt: &str) -> Outcome {
        if let Some(code) = self.state.take_failure() {
            return Outcome::Refused { code, text: format!("forced {code}") };
        }
        match planned {
            Answer::Reply(reply) => Outcome::Reply(reply),
            Answer::StreamError(text) => Outcome::StreamError(text),
            Answer::Limit { times, short, whole } => {
                let again = times.is_none_or(|times| self.state.refuse_again(prompt, times));
                Outcome::Reply(if again { short } else { whole })
            }
            Answer::Refuse { code, times, text, recovered } => {
                if times.is_none_or(|times| self.state.refuse_again(prompt, times)) {
                    Outcome::Refused { code, text }
                } else {
                    Outcome::Reply(recovered)
                }
            }
        }
    }

    /// Settles what becomes of a turn; of a request that its CLI makes beside it, the words in `aside` do.
    pub fn settle_turn(&self, turn: &Turn, aside: Option<String>) -> Outcome {
        match aside {
            Some(words) => Outcome::Reply(Reply::text(words)),
            None => self.settle(answer::plan(turn, self.state.obeys_done()), &turn.text),
        }
    }

    fn get(&self, request: &Request, responder: &mut Responder) -> io::Result<Next> {
        let path = request.path();
        if path == "/_ctl/state" {
            return responder.json(200, &self.state.show());
        }
        let headers = headers(request);
        let fields = json!({"method": "GET", "path": request.target, "headers": headers});
        self.log.event("req", fields);
        if path.ends_with("/models") {
            let data: Vec<Value> = MODELS.iter().copied().map(model_entry).collect();
            let list = json!({"object": "list", "data": data, "has_more": false});
            return responder.json(200, &list);
        }
        not_found(path, responder)
    }

    fn post(&self, request: &Request, responder: &mut Responder) -> io::Result<Next> {
        if request.path() == "/_ctl" {
            return self.control(request, responder);
        }
        let seq = self.state.next_request();
        let outcome = self.call(seq, request, responder);
        if let Err(error) = &outcome {
            let fields = json!({"seq": seq, "path": request.target, "err": error.to_string()});
            self.log.event("client_gone", fields);
        }
        outcome
    }

    fn control(&self, request: &Request, responder: &mut Responder) -> io::Result<Next> {
        let change = serde_json::from_slice(&request.body).map_err(|error| error.to_string());
        match change.and_then(|change: Value| self.state.change(&change)) {
            Ok(()) => responder.json(200, &self.state.show()),
            Err(message) => refuse(400, &message, responder),
        }
    }

    fn call(&self, seq: u64, request: &Request, responder: &mut Responder) -> io::Result<Next> {
        let path = request.path();
        let length = request.body.len();
        let Ok(body) = serde_json::from_slice(&request.body) else {
            let encoding = request.header("content-encoding");
            let fields = json!({"seq": seq, "path": request.target, "n": length, "enc": encoding, "unparsed": true});
            self.log.event("req", fields);
            return refuse(400, "the body is not JSON", responder);
        };
        let body = &body;
        let call = Call { seq, request, body };
        if path.ends_with("/responses") {
            return responses::answer(self, &call, responder);
        }
        if path.ends_with("/messages") {
            return messages::answer(self, &call, responder);
        }
        if path.ends_with("/chat/completions") {
            return chat::answer(self, &call, responder);
        }
        if path.ends_with(":generateContent") || path.ends_with(":streamGenerateContent") {
            return gemini::answer(self, &call, responder);
        }
        let mut fields = json!({"seq": seq, "path": request.target, "n": length});
        if path.ends_with(":countTokens") {
            self.log.event("req", fields);
            return responder.json(200, &json!({"totalTokens": self.state.input_tokens(length)}));
        }
        if path.ends_with("/messages/count_tokens") {
            self.log.event("req", fields);
            return responder.json(200, &json!({"input_tokens": self.state.input_tokens(length)}));
        }
        if path.ends_with("/responses/compact") {
            self.log.event("req", fields);
            return responder.json(200, &responses::compacted());
        }
        fields["headers"] = headers(request);
        self.log.event("req", fields);
        not_found(path, responder)
    }
}

fn headers(request: &Request) -> Value {
    let pairs = request.headers.iter();
    let map: Map<String, Value> = pairs.map(|(name, value)| (name.clone(), json!(value))).collect();
    Value::Object(map)
}

fn model_entry(id: &str) -> Value {
    json!({
        "id": id, "object": "model", "type": "model", "display_name": id, "owned_by": "fake",
        "created": 1_700_000_000, "created_at": "2025-01-01T00:00:00Z",
    })
}

fn not_found(path: &str, responder: &mut Responder) -> io::Result<Next> {
    refuse(404, &format!("there is no path {path}"), responder)
}

fn refuse(code: u16, message: &str, responder: &mut Responder) -> io::Result<Next> {
    let kind = if code == 404 { "not_found_error" } else { "invalid_request_error" };
    let error = json!({"type": kind, "message": message});
    responder.json(code, &json!({"type": "error", "error": error}))
}
