//! Gemini's API, as Gemini CLI uses it: `POST /v1beta/models/<model>:generateContent`, and
//! `:streamGenerateContent` with `alt=sse`.
//!
//! Besides the turns of a user, Gemini CLI asks with a JSON schema which model shall answer, and for summaries.
//! These requests offer no tools, and by that they are known.

use std::io;

use serde_json::{Value, json};

use crate::answer::{self, OUTPUT_TOKENS, Reply, SUMMARY, Turn};
use crate::array;
use crate::directive;
use crate::http::{Events, Next, Responder};
use crate::server::{Call, Model, Outcome};
use crate::tools::{self, Offer};

/// Answers one request of this API.
pub fn answer(model: &Model, call: &Call, responder: &mut Responder) -> io::Result<Next> {
    let turn = read_turn(call.body);
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
    let response = Response::new(model, call);
    answer::pause(reply.wait);
    if wants_stream(call) {
        return stream(model, call, responder, &response, &reply);
    }
    let next = responder.json(200, &response.last(&parts(model, call.body, &reply)))?;
    model.log.event("end", json!({"seq": call.seq, "stop": "STOP"}));
    Ok(next)
}

fn wants_stream(call: &Call) -> bool {
    call.request.path().ends_with(":streamGenerateContent")
}

/// Returns the name of the model that the path holds.
fn model_name<'a>(call: &'a Call) -> &'a str {
    let path = call.request.path();
    let name = path.rsplit_once("/models/").map_or(path, |(_, name)| name);
    name.split(':').next().unwrap_or_default()
}

/// Returns what `body` says about the turn: the last text of a user and the tool results after it.
///
/// Every part is a text of its own, because the CLI puts what it says of the session beside the first prompt.
fn read_turn(body: &Value) -> Turn {
    let mut turn = Turn::default();
    let contents = array(&body["contents"]).filter(|content| content["role"] != "model");
    for part in contents.flat_map(|content| array(&content["parts"])) {
        if let Some(text) = part["text"].as_str() {
            let text = directive::without_reminders(text);
            if !text.trim().is_empty() && !directive::is_injected(text) {
                turn = Turn { text: text.to_owned(), ..Turn::default() };
            }
        }
        let response = &part["functionResponse"]["response"];
        if !response.is_null() {
            turn.results += 1;
            turn.last_result = result_text(response);
        }
    }
    turn
}

/// Returns the text of a tool's result: its output or its error, else all of it.
fn result_text(response: &Value) -> String {
    let text = response["output"].as_str().or_else(|| response["error"].as_str());
    text.map_or_else(|| response.to_string(), str::to_owned)
}

/// Returns the tools on offer.
fn offers(body: &Value) -> Vec<Offer<'_>> {
    let functions = array(&body["tools"]).flat_map(|tool| array(&tool["functionDeclarations"]));
    functions.filter_map(offer).collect()
}

fn offer(function: &Value) -> Option<Offer<'_>> {
    let schema = &function["parametersJsonSchema"];
    Some((function["name"].as_str()?, if schema.is_null() { &function["parameters"] } else { schema }))
}

/// Returns what is answered to a request of the CLI's own.
fn aside(body: &Value) -> String {
    let config = &body["generationConfig"];
    let schema = [&config["responseJsonSchema"], &config["responseSchema"]];
    if let Some(schema) = schema.into_iter().find(|schema| !schema.is_null()) {
        return tools::sample(schema, "Fake").to_string();
    }
    if body["systemInstruction"].to_string().contains("state_snapshot") {
        return format!("<state_snapshot>\n{SUMMARY}\n</state_snapshot>");
    }
    "OK".to_owned()
}

fn log_fields(call: &Call, turn: &Turn, side: bool) -> Value {
    let (body, request) = (call.body, call.request);
    let names: Vec<&str> = offers(body).into_iter().map(|(name, _)| name).collect();
    json!({
        "seq": call.seq,
        "path": request.target,
        "n": request.body.len(),
        "model": model_name(call),
        "stream": wants_stream(call),
        "tools": names,
        "nmsgs": array(&body["contents"]).count(),
        "nresults": turn.results,
        "user": turn.excerpt(),
        "userlen": turn.text.chars().count(),
        "side": side,
        "ua": request.header("user-agent"),
        "auth": request.header("x-goog-api-key"),
    })
}

/// Returns the refusal of a limit, where `text` is `quota <its id> <seconds until it may be asked again>`.
fn limit(text: &str) -> Option<Value> {
    let (id, seconds) = text.strip_prefix("quota ")?.split_once(' ')?;
    let message = format!(
        "You exceeded your current quota, please check your plan and billing details. \n* Quota exceeded for metric: \
         requests, limit: 10\nPlease retry in {seconds}.5s."
    );
    let violations = json!([{"quotaMetric": "requests", "quotaId": id, "quotaValue": "10"}]);
    let details = json!([
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{seconds}s")},
    ]);
    Some(json!({"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}))
}

fn error(code: u16, text: &str) -> Value {
    if let Some(limit) = limit(text).filter(|_| code == 429) {
        return limit;
    }
    let message = if text.is_empty() { format!("fake error {code}") } else { text.to_owned() };
    let status = match code {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    };
    json!({"error": {"code": code, "message": message, "status": status}})
}

/// Reports a failure after the status of success: a document where the first event would stand.
fn fail_in_stream(model: &Model, call: &Call, responder: &mut Responder, text: &str) -> io::Result<Next> {
    let failure = error(503, if text.is_empty() { "Overloaded" } else { text });
    let next = if wants_stream(call) {
        let mut events = responder.events()?;
        events.raw(&failure.to_string())?;
        events.end()?
    } else {
        responder.json(503, &failure)?
    };
    model.log.event("end", json!({"seq": call.seq, "stop": "sseerr"}));
    Ok(next)
}

/// What all pieces of an answer have in common.
struct Response {
    base: Value,
    usage: Value,
}

impl Response {
    fn new(model: &Model, call: &Call) -> Self {
        let input = model.state.input_tokens(call.request.body.len());
        let usage = json!({
            "promptTokenCount": input,
            "candidatesTokenCount": OUTPUT_TOKENS,
            "totalTokenCount": input + OUTPUT_TOKENS,
        });
        let base = json!({"modelVersion": model_name(call), "responseId": model.state.fresh_id("resp")});
        Self { base, usage }
    }

    fn piece(&self, parts: &[Value]) -> Value {
        let mut piece = self.base.clone();
        piece["candidates"] = json!([{"index": 0, "content": {"role": "model", "parts": parts}}]);
        piece
    }

    fn last(&self, parts: &[Value]) -> Value {
        let mut last = self.piece(parts);
        last["candidates"][0]["finishReason"] = json!("STOP");
        last["usageMetadata"] = self.usage.clone();
        last
    }
}

/// Returns the whole content of a reply.
fn parts(model: &Model, body: &Value, reply: &Reply) -> Vec<Value> {
    let text = reply.whole_text();
    let text = (!text.is_empty()).then(|| json!({"text": text}));
    thought(reply).into_iter().chain(text).chain(call_part(model, body, reply)).collect()
}

fn thought(reply: &Reply) -> Option<Value> {
    reply.thinking.as_ref().map(|text| json!({"text": text, "thought": true}))
}

fn call_part(model: &Model, body: &Value, reply: &Reply) -> Option<Value> {
    let (name, args) = tools::written(reply.tool.as_ref()?, &offers(body), false);
    Some(json!({"functionCall": {"id": model.state.fresh_id("call"), "name": name, "args": args}}))
}

fn stream(
    model: &Model,
    call: &Call,
    responder: &mut Responder,
    response: &Response,
    reply: &Reply,
) -> io::Result<Next> {
    let mut events = responder.events()?;
    let send = |events: &mut Events, part: Value| events.data(&response.piece(&[part]).to_string());
    if let Some(part) = thought(reply) {
        send(&mut events, part)?;
    }
    // This API has no sign of life: a slow answer is silent between its pieces.
    for piece in reply.pieces(&reply.whole_text()) {
        if let Some(text) = piece.text {
            send(&mut events, json!({"text": text}))?;
        }
        answer::pause(piece.then);
    }
    if reply.cut {
        model.log.event("dropped", json!({"seq": call.seq}));
        return Ok(Next::Close);
    }
    if let Some(part) = call_part(model, call.body, reply) {
        send(&mut events, part)?;
    }
    events.data(&response.last(&[json!({"text": ""})]).to_string())?;
    let next = events.end()?;
    model.log.event("end", json!({"seq": call.seq, "stop": "STOP"}));
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(role: &str, parts: impl Into<Value>) -> Value {
        json!({"role": role, "parts": parts.into()})
    }

    fn turn(contents: &[Value]) -> (String, usize, String) {
        let turn = read_turn(&json!({"contents": contents}));
        (turn.text, turn.results, turn.last_result)
    }

    #[test]
    fn the_turn_is_the_last_text_of_a_user_and_what_followed() {
        let context = json!({"text": "<session_context>\nThis is the Gemini CLI."});
        let text = |text: &str| json!({"text": text});
        let result = |field: &str| json!({"functionResponse": {"name": "x", "response": {field: "one"}}});
        let call = content("model", json!([{"functionCall": {"name": "x"}}, {"text": "ECHO: not of a user"}]));
        let table = [
            (vec![], "", 0, ""),
            (vec![content("user", json!([context, text("TOOL: a")]))], "TOOL: a", 0, ""),
            (vec![content("user", json!([text("TOOL: a")])), content("user", json!([context]))], "TOOL: a", 0, ""),
            (
                vec![
                    content("user", json!([text("TOOL: a")])),
                    call.clone(),
                    content("user", json!([result("output")])),
                ],
                "TOOL: a",
                1,
                "one",
            ),
            (
                vec![content("user", json!([text("TOOL: a")])), content("user", json!([result("error")]))],
                "TOOL: a",
                1,
                "one",
            ),
            (
                vec![content("user", json!([result("output")])), call, content("user", json!([text("ECHO: b")]))],
                "ECHO: b",
                0,
                "",
            ),
        ];
        for (contents, text, results, last) in table {
            assert_eq!(turn(&contents), (text.to_owned(), results, last.to_owned()), "{contents:?}");
        }
    }

    #[test]
    fn asides_are_of_the_form_asked_for() {
        let properties = json!({"complexity_reasoning": {"type": "STRING"}, "complexity_score": {"type": "INTEGER"}});
        let schema = json!({"type": "OBJECT", "properties": properties});
        let routed = aside(&json!({"generationConfig": {"responseJsonSchema": schema}}));
        let routed: Value = serde_json::from_str(&routed).unwrap();
        assert_eq!(routed, json!({"complexity_reasoning": "Fake", "complexity_score": 1}));
        let summary = aside(&json!({"systemInstruction": {"parts": [{"text": "write a <state_snapshot>"}]}}));
        assert!(summary.contains(SUMMARY));
        assert_eq!(aside(&json!({})), "OK");
    }
}
