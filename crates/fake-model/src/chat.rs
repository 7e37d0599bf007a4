//! Chat completions, as OpenCode and Droid use them: `POST /v1/chat/completions`, streamed or whole.
//!
//! Requests without tools are the CLI's own: for a title, or for a summary of the conversation.

use std::io;

use serde_json::{Value, json};

use crate::answer::{self, OUTPUT_TOKENS, Reply, SUMMARY, Turn};
use crate::array;
use crate::directive;
use crate::http::{Next, Responder};
use crate::log;
use crate::server::{Call, Model, Outcome};
use crate::tools::{self, Offer, TOOL_SEARCH};

/// Answers one request of this API.
pub fn answer(model: &Model, call: &Call, responder: &mut Responder) -> io::Result<Next> {
    let (turn, searched) = read_turn(call.body);
    let side = offers(call.body).is_empty();
    model.log.event("req", log_fields(call, &turn, side));
    let reply = match model.settle_turn(&turn, side.then(|| aside(call.body))) {
        Outcome::Reply(reply) => reply,
        Outcome::StreamError(text) => return fail_in_stream(model, call, responder, &text),
        Outcome::Refused { code, text } => {
            model.log.event("error_sent", json!({"seq": call.seq, "code": code}));
            return responder.json(code, &error(code, &text));
        }
    };
    let completion = Completion::new(model, call, &reply, searched);
    answer::pause(reply.wait);
    if wants_stream(call.body) {
        return stream(model, call.seq, responder, &completion, &reply);
    }
    let next = responder.json(200, &completion.whole(&reply))?;
    model.log.event("end", json!({"seq": call.seq, "stop": completion.stop()}));
    Ok(next)
}

fn wants_stream(body: &Value) -> bool {
    body["stream"].as_bool().unwrap_or(false)
}

/// Returns what `body` says about the turn: the last text of a user and the tool results after it, and whether
/// a tool has been searched for, which is no result.
fn read_turn(body: &Value) -> (Turn, bool) {
    let (mut turn, mut searched) = (Turn::default(), false);
    let mut asked: Vec<&str> = Vec::new();
    for message in array(&body["messages"]) {
        match message["role"].as_str() {
            Some("user") => {
                for text in texts(&message["content"]) {
                    let text = directive::without_reminders(text);
                    if !text.trim().is_empty() && !directive::is_injected(text) {
                        (turn, searched) = (Turn { text: text.to_owned(), ..Turn::default() }, false);
                    }
                }
            }
            Some("assistant") => {
                let calls = array(&message["tool_calls"]).filter(|call| call["function"]["name"] == TOOL_SEARCH);
                asked.extend(calls.filter_map(|call| call["id"].as_str()));
            }
            Some("tool") if asked.iter().any(|id| message["tool_call_id"] == *id) => searched = true,
            Some("tool") => {
                turn.results += 1;
                turn.last_result = texts(&message["content"]).join("\n");
            }
            _ => {}
        }
    }
    (turn, searched)
}

/// Returns the texts of a message's content, which is a text or a list of parts.
fn texts(content: &Value) -> Vec<&str> {
    let parts = array(content).filter_map(|part| part["text"].as_str());
    content.as_str().into_iter().chain(parts).collect()
}

/// Returns the tools on offer.
fn offers(body: &Value) -> Vec<Offer<'_>> {
    let functions = array(&body["tools"]).map(|tool| &tool["function"]);
    functions.filter_map(|function| Some((function["name"].as_str()?, &function["parameters"]))).collect()
}

/// Returns what is answered to a request of the CLI's own.
fn aside(body: &Value) -> String {
    let schema = &body["response_format"]["json_schema"]["schema"];
    if !schema.is_null() {
        return tools::sample(schema, "Fake").to_string();
    }
    let said = array(&body["messages"]).filter(|message| message["role"] != "assistant");
    let said: String = said.flat_map(|message| texts(&message["content"])).collect();
    let said = said.to_lowercase();
    if said.contains("summar") && !said.contains("title") { SUMMARY.to_owned() } else { "Fake title".to_owned() }
}

fn log_fields(call: &Call, turn: &Turn, side: bool) -> Value {
    let (body, request) = (call.body, call.request);
    let names: Vec<&str> = offers(body).into_iter().map(|(name, _)| name).collect();
    json!({
        "seq": call.seq,
        "path": request.target,
        "n": request.body.len(),
        "model": body["model"],
        "stream": body["stream"],
        "tools": names,
        "nmsgs": array(&body["messages"]).count(),
        "nresults": turn.results,
        "user": turn.excerpt(),
        "userlen": turn.text.chars().count(),
        "side": side,
        "ua": request.header("user-agent"),
        "auth": request.header("authorization"),
        "sid": request.header("x-session-id"),
    })
}

fn error(code: u16, text: &str) -> Value {
    let message = if text.is_empty() { format!("fake error {code}") } else { text.to_owned() };
    let (kind, name) = match code {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        429 => ("rate_limit_exceeded", Some("rate_limit_exceeded")),
        400 | 403 | 404 | 413 => ("invalid_request_error", None),
        _ => ("server_error", None),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": name}})
}

/// Reports a failure after the status of success; a whole answer has no such place and is refused.
fn fail_in_stream(model: &Model, call: &Call, responder: &mut Responder, text: &str) -> io::Result<Next> {
    let failure = error(503, if text.is_empty() { "Overloaded" } else { text });
    let next = if wants_stream(call.body) {
        let completion = Completion::new(model, call, &Reply::text(""), false);
        let mut events = responder.events()?;
        events.data(&completion.piece(&json!({"role": "assistant", "content": ""})).to_string())?;
        events.data(&failure.to_string())?;
        events.end()?
    } else {
        responder.json(503, &failure)?
    };
    model.log.event("end", json!({"seq": call.seq, "stop": "sseerr"}));
    Ok(next)
}

/// What all pieces of an answer have in common, and its tool call.
struct Completion {
    base: Value,
    usage: Value,
    tool: Option<Value>,
}

impl Completion {
    fn new(model: &Model, call: &Call, reply: &Reply, searched: bool) -> Self {
        let input = model.state.input_tokens(call.request.body.len());
        let usage = json!({
            "prompt_tokens": input,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": input + OUTPUT_TOKENS,
        });
        let base = json!({
            "id": model.state.fresh_id("chatcmpl"),
            "created": log::since_epoch().as_secs(),
            "model": call.body["model"],
        });
        let tool = reply.tool.as_ref().map(|tool| {
            let (name, arguments) = tools::written(tool, &offers(call.body), searched);
            let function = json!({"name": name, "arguments": arguments.to_string()});
            json!({"id": model.state.fresh_id("call"), "type": "function", "function": function})
        });
        Self { base, usage, tool }
    }

    fn stop(&self) -> &'static str {
        if self.tool.is_some() { "tool_calls" } else { "stop" }
    }

    fn whole(&self, reply: &Reply) -> Value {
        let text = reply.whole_text();
        let content = if text.is_empty() && self.tool.is_some() { Value::Null } else { json!(text) };
        let mut message = json!({"role": "assistant", "content": content});
        if let Some(tool) = &self.tool {
            message["tool_calls"] = json!([tool]);
        }
        let mut whole = self.base.clone();
        whole["object"] = json!("chat.completion");
        whole["choices"] = json!([{"index": 0, "message": message, "finish_reason": self.stop()}]);
        whole["usage"] = self.usage.clone();
        whole
    }

    fn piece(&self, delta: &Value) -> Value {
        let mut piece = self.base.clone();
        piece["object"] = json!("chat.completion.chunk");
        piece["choices"] = json!([{"index": 0, "delta": delta, "finish_reason": null}]);
        piece
    }

    fn finish(&self) -> Value {
        let mut piece = self.piece(&json!({}));
        piece["choices"][0]["finish_reason"] = json!(self.stop());
        piece
    }

    /// Returns the last piece, which tells the usage and nothing else.
    fn cost(&self) -> Value {
        let mut piece = self.piece(&json!({}));
        piece["choices"] = json!([]);
        piece["usage"] = self.usage.clone();
        piece
    }
}

fn stream(
    model: &Model,
    seq: u64,
    responder: &mut Responder,
    completion: &Completion,
    reply: &Reply,
) -> io::Result<Next> {
    let mut events = responder.events()?;
    events.data(&completion.piece(&json!({"role": "assistant", "content": ""})).to_string())?;
    if let Some(text) = &reply.thinking {
        events.data(&completion.piece(&json!({"reasoning_content": text})).to_string())?;
    }
    for piece in reply.pieces(&reply.whole_text()) {
        match piece.text {
            Some(text) => events.data(&completion.piece(&json!({"content": text})).to_string())?,
            None => events.comment("ping")?,
        }
        answer::pause(piece.then);
    }
    if reply.cut {
        model.log.event("dropped", json!({"seq": seq}));
        return Ok(Next::Close);
    }
    if let Some(tool) = &completion.tool {
        let mut tool = tool.clone();
        tool["index"] = json!(0);
        events.data(&completion.piece(&json!({"tool_calls": [tool]})).to_string())?;
    }
    events.data(&completion.finish().to_string())?;
    events.data(&completion.cost().to_string())?;
    events.data("[DONE]")?;
    let next = events.end()?;
    model.log.event("end", json!({"seq": seq, "stop": completion.stop()}));
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: impl Into<Value>) -> Value {
        json!({"role": "user", "content": content.into()})
    }

    #[test]
    fn the_turn_is_the_last_text_of_a_user_and_what_followed() {
        let reminder = "<system-reminder>\nx\n</system-reminder>\n";
        let text = |text: &str| json!({"type": "text", "text": text});
        let tool = |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
        let call = |name: &str| json!({"role": "assistant", "tool_calls": [{"id": name, "function": {"name": name}}]});
        let table = [
            (vec![], "", 0, "", false),
            (vec![user(vec![text(reminder), text(reminder)]), user("ECHO: a")], "ECHO: a", 0, "", false),
            (vec![user("ECHO: a"), user(reminder)], "ECHO: a", 0, "", false),
            (vec![user(format!("{reminder}ECHO: a"))], "ECHO: a", 0, "", false),
            (vec![user("TOOL: a"), call("bash"), tool("bash", "one")], "TOOL: a", 1, "one", false),
            (vec![user("MCP: a b"), call(TOOL_SEARCH), tool(TOOL_SEARCH, "found")], "MCP: a b", 0, "", true),
            (vec![user("TOOL: a"), tool("x", "one"), user("TOOL: b")], "TOOL: b", 0, "", false),
        ];
        for (messages, text, results, last, searched) in table {
            let turn = Turn { text: text.to_owned(), results, last_result: last.to_owned() };
            assert_eq!(read_turn(&json!({"messages": messages})), (turn, searched), "{messages:?}");
        }
    }

    #[test]
    fn asides_are_titles_and_summaries() {
        let system = |text: &str| json!({"messages": [{"role": "system", "content": text}, user("ECHO: a")]});
        assert_eq!(aside(&system("You are a title generator.")), "Fake title");
        assert_eq!(aside(&system("Write a summary of the conversation.")), SUMMARY);
    }
}
