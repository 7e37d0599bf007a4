//! The Responses API, as Codex uses it: `POST /v1/responses`, streamed or whole.

use std::io;

use serde_json::{Value, json};

use crate::answer::{self, Answer, OUTPUT_TOKENS, Reply, SUMMARY, ToolCall, Turn};
use crate::directive;
use crate::http::{Events, Next, Responder};
use crate::log;
use crate::server::{Call, Model, Outcome};
use crate::state::State;

/// How much of each of the CLI's own instructions is logged, in characters: enough for what others add to them.
const LOGGED_INSTRUCTIONS: usize = 2500;

/// Answers one request of this API.
pub fn answer(model: &Model, call: &Call, responder: &mut Responder) -> io::Result<Next> {
    let turn = read_turn(call.body);
    model.log.event("req", log_fields(call, &turn));
    let planned = if asks_for_compaction(&turn.text) {
        Answer::Reply(Reply::text(SUMMARY))
    } else {
        answer::plan(&turn, model.state.obeys_done())
    };
    let reply = match model.settle(planned, &turn.text) {
        Outcome::Reply(reply) => Ok(reply),
        Outcome::StreamError(text) => Err(text),
        Outcome::Refused { code, text } => return refuse(model, call.seq, responder, code, &text),
    };
    let response = Response::new(model, call, reply.as_ref().ok());
    match (reply, wants_stream(call.body)) {
        (Ok(reply), true) => stream(model, call.seq, responder, &response, &reply),
        (Ok(reply), false) => {
            answer::pause(reply.wait);
            let next = responder.json(200, &response.completed())?;
            model.log.event("end", json!({"seq": call.seq}));
            Ok(next)
        }
        (Err(text), true) => {
            let mut events = responder.events()?;
            events.typed("response.created", json!({"response": response.base}))?;
            let failed = json!({"response": response.failed(&text)});
            events.typed("response.failed", failed)?;
            let next = events.end()?;
            model.log.event("end", json!({"seq": call.seq, "stop": "sseerr"}));
            Ok(next)
        }
        (Err(text), false) => {
            let next = responder.json(200, &response.failed(&text))?;
            model.log.event("end", json!({"seq": call.seq, "stop": "sseerr"}));
            Ok(next)
        }
    }
}

/// Returns the answer to a request to compact a conversation.
pub fn compacted() -> Value {
    let content = json!([{"type": "input_text", "text": SUMMARY}]);
    json!({"output": [{"type": "message", "role": "user", "content": content}]})
}

fn wants_stream(body: &Value) -> bool {
    body["stream"].as_bool().unwrap_or(false)
}

fn asks_for_compaction(text: &str) -> bool {
    text.contains("CONTEXT CHECKPOINT COMPACTION") || text.contains("handoff summary")
}

/// Returns what `body` says about the turn: the last user text and the tool results after it.
fn read_turn(body: &Value) -> Turn {
    let mut turn = Turn::default();
    if let Some(text) = body["input"].as_str() {
        text.clone_into(&mut turn.text);
        return turn;
    }
    for item in body["input"].as_array().into_iter().flatten() {
        match item["type"].as_str().unwrap_or("message") {
            "message" if item["role"] == "user" => {
                let texts = user_texts(&item["content"]);
                if !texts.is_empty() {
                    turn = Turn { text: texts.join("\n"), ..Turn::default() };
                }
            }
            "function_call_output" | "custom_tool_call_output" => {
                turn.results += 1;
                turn.last_result = match &item["output"] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
            }
            _ => {}
        }
    }
    turn
}

/// Returns the texts of a message that a user wrote.
fn user_texts(content: &Value) -> Vec<&str> {
    let parts = content.as_array().into_iter().flatten();
    let typed = parts.filter(|part| part["type"] == "input_text" || part["type"] == "text");
    let texts = typed.filter_map(|part| part["text"].as_str());
    let texts = content.as_str().into_iter().chain(texts);
    texts.filter(|text| !text.trim().is_empty() && !directive::is_injected(text)).collect()
}

/// Returns the names of the tools on offer; one without a name goes by its type.
fn tool_names(body: &Value) -> Vec<&str> {
    let tools = body["tools"].as_array().into_iter().flatten();
    tools.filter_map(|tool| tool["name"].as_str().or_else(|| tool["type"].as_str())).collect()
}

/// Returns the beginnings of the texts that the CLI tells the model in the developer's name.
fn developer_texts(body: &Value) -> Vec<String> {
    let items = body["input"].as_array().into_iter().flatten().filter(|item| item["role"] == "developer");
    let parts = items.flat_map(|item| item["content"].as_array().into_iter().flatten());
    parts.filter_map(|part| Some(part["text"].as_str()?.chars().take(LOGGED_INSTRUCTIONS).collect())).collect()
}

fn log_fields(call: &Call, turn: &Turn) -> Value {
    let (body, request) = (call.body, call.request);
    let session = request.header("session_id");
    json!({
        "seq": call.seq,
        "path": request.target,
        "n": request.body.len(),
        "model": body["model"],
        "stream": body["stream"],
        "tools": tool_names(body),
        "ninput": body["input"].as_array().map_or(1, Vec::len),
        "nresults": turn.results,
        "user": turn.excerpt(),
        "userlen": turn.text.chars().count(),
        "developer": developer_texts(body),
        "ua": request.header("user-agent"),
        "auth": request.header("authorization"),
        "enc": request.header("content-encoding"),
        "sid": session.or_else(|| request.header("session-id")),
        "originator": request.header("originator"),
    })
}

fn refuse(model: &Model, seq: u64, responder: &mut Responder, code: u16, text: &str) -> io::Result<Next> {
    let fields = json!({"seq": seq, "code": code});
    model.log.event("error_sent", fields);
    let message = if text.is_empty() { format!("fake error {code}") } else { text.to_owned() };
    if let Some(until) = directive::used_up_until(code, text) {
        let headers = format!(
            "x-codex-primary-used-percent: 100.0\r\nx-codex-primary-window-minutes: 300\r\n\
             x-codex-primary-reset-at: {until}\r\n"
        );
        let error = json!({"type": "usage_limit_reached", "message": message, "plan_type": "plus", "resets_at": until});
        return responder.json_under(code, &headers, &json!({"error": error}));
    }
    let (kind, name) = match code {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        429 => ("rate_limit_exceeded", Some("rate_limit_exceeded")),
        _ => ("server_error", None),
    };
    let error = json!({"message": message, "type": kind, "code": name});
    responder.json(code, &json!({"error": error}))
}

/// The response object in its states, and the items it will hold.
struct Response {
    base: Value,
    items: Vec<Value>,
    usage: Value,
}

impl Response {
    fn new(model: &Model, call: &Call, reply: Option<&Reply>) -> Self {
        let input = model.state.input_tokens(call.request.body.len());
        let usage = json!({
            "input_tokens": input,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": OUTPUT_TOKENS,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input + OUTPUT_TOKENS,
        });
        let base = json!({
            "id": model.state.fresh_id("resp"),
            "object": "response",
            "created_at": log::since_epoch().as_secs(),
            "status": "in_progress",
            "model": call.body["model"],
            "output": [],
        });
        let items = reply.map(|reply| items(&model.state, reply, call.body));
        let items = items.unwrap_or_default();
        Self { base, items, usage }
    }

    fn completed(&self) -> Value {
        let mut response = self.base.clone();
        response["status"] = json!("completed");
        response["output"] = json!(self.items);
        response["usage"] = self.usage.clone();
        response
    }

    fn failed(&self, text: &str) -> Value {
        let mut response = self.base.clone();
        let message = if text.is_empty() { "boom" } else { text };
        response["status"] = json!("failed");
        response["error"] = json!({"code": "server_error", "message": message});
        response
    }
}

/// Returns the output items of a reply in the order in which they are sent.
fn items(state: &State, reply: &Reply, body: &Value) -> Vec<Value> {
    let thinking = reply.thinking.iter().map(|text| {
        json!({
            "type": "reasoning", "id": state.fresh_id("rs"), "encrypted_content": "ZmFrZQ==",
            "summary": [{"type": "summary_text", "text": text}],
        })
    });
    let texts = reply.texts.iter().filter(|text| !text.is_empty());
    let messages = texts.map(|text| {
        json!({
            "type": "message", "id": state.fresh_id("msg"), "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        })
    });
    let tool = reply.tool.iter().map(|call| tool_item(state, call, body));
    thinking.chain(messages).chain(tool).collect()
}

/// Writes a tool call for the tools that this request offers.
fn tool_item(state: &State, call: &ToolCall, body: &Value) -> Value {
    let tools = tool_names(body);
    let mut namespace = None;
    let (name, arguments) = match call {
        ToolCall::Shell(command) => {
            let choices = [
                ("exec_command", json!({"cmd": command})),
                ("shell_command", json!({"command": command})),
                ("shell", json!({"command": ["bash", "-lc", command]})),
            ];
            let mut choices = choices.into_iter();
            match choices.find(|(name, _)| tools.contains(name)) {
                Some((name, arguments)) => (name.to_owned(), arguments.to_string()),
                None => return script_item(state, command),
            }
        }
        ToolCall::Mcp { server, tool, arguments } => {
            let full = format!("mcp__{server}__{tool}");
            // Newer CLIs offer the tools of a server in a namespace instead of by a full name.
            if !tools.contains(&full.as_str()) {
                namespace = server_namespace(body, server);
            }
            let name = if namespace.is_some() { tool } else { &full };
            (name.clone(), arguments.clone())
        }
        ToolCall::Raw { name, arguments } => (name.clone(), arguments.clone()),
        ToolCall::Agent(prompt) => {
            namespace = holding_namespace(body, "spawn_agent");
            let arguments = json!({"message": prompt});
            ("spawn_agent".to_owned(), arguments.to_string())
        }
    };
    let mut item = json!({
        "type": "function_call", "id": state.fresh_id("fc"), "call_id": state.fresh_id("call"),
        "name": name, "arguments": arguments, "status": "completed",
    });
    if let Some(namespace) = namespace {
        item["namespace"] = json!(namespace);
    }
    item
}

/// Returns a call of the `exec` tool, in which commands are run by a script.
fn script_item(state: &State, command: &str) -> Value {
    let command = json!(command);
    let script = format!(
        "const r = await tools.exec_command({{cmd: {command}}}); \
         text(r.output ?? JSON.stringify(r));"
    );
    json!({
        "type": "custom_tool_call", "id": state.fresh_id("ctc"), "call_id": state.fresh_id("call"),
        "name": "exec", "input": script,
    })
}

fn namespaces(body: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let tools = body["tools"].as_array().into_iter().flatten();
    let spaces = tools.filter(|tool| tool["type"] == "namespace");
    spaces.filter_map(|space| space["name"].as_str().map(|name| (name, &space["tools"])))
}

fn server_namespace<'a>(body: &'a Value, server: &str) -> Option<&'a str> {
    let server = server.trim_matches('_');
    namespaces(body).map(|(name, _)| name).find(|name| name.trim_matches('_').ends_with(server))
}

fn holding_namespace<'a>(body: &'a Value, tool: &str) -> Option<&'a str> {
    let holds = |tools: &Value| {
        let mut tools = tools.as_array().into_iter().flatten();
        tools.any(|known| known["name"] == tool)
    };
    namespaces(body).find(|(_, tools)| holds(tools)).map(|(name, _)| name)
}

fn stream(model: &Model, seq: u64, responder: &mut Responder, response: &Response, reply: &Reply) -> io::Result<Next> {
    answer::pause(reply.wait);
    let mut events = responder.events()?;
    events.typed("response.created", json!({"response": response.base}))?;
    for (index, item) in response.items.iter().enumerate() {
        if item["type"] == "message" {
            stream_message(&mut events, index, item, reply)?;
            if reply.cut {
                break;
            }
        } else {
            let added = json!({"output_index": index, "item": item});
            events.typed("response.output_item.added", added)?;
        }
        let done = json!({"output_index": index, "item": item});
        events.typed("response.output_item.done", done)?;
    }
    if reply.cut {
        model.log.event("dropped", json!({"seq": seq}));
        return Ok(Next::Close);
    }
    let mut whole = response.completed();
    if reply.limit {
        whole["status"] = json!("incomplete");
        whole["incomplete_details"] = json!({"reason": "max_output_tokens"});
        events.typed("response.incomplete", json!({"response": whole}))?;
    } else {
        events.typed("response.completed", json!({"response": whole}))?;
    }
    let next = events.end()?;
    model.log.event("end", json!({"seq": seq}));
    Ok(next)
}

fn stream_message(events: &mut Events, index: usize, item: &Value, reply: &Reply) -> io::Result<()> {
    let text = item["content"][0]["text"].as_str().unwrap_or_default();
    let mut begun = item.clone();
    begun["status"] = json!("in_progress");
    begun["content"] = json!([]);
    let added = json!({"output_index": index, "item": begun});
    events.typed("response.output_item.added", added)?;
    let place = json!({"item_id": item["id"], "output_index": index, "content_index": 0});
    let with = |key: &str, value: Value| {
        let mut data = place.clone();
        data[key] = value;
        data
    };
    let part = json!({"type": "output_text", "text": "", "annotations": []});
    events.typed("response.content_part.added", with("part", part))?;
    for piece in reply.pieces(text) {
        match piece.text {
            Some(text) => {
                let delta = with("delta", json!(text));
                events.typed("response.output_text.delta", delta)?;
            }
            None => events.comment("ping")?,
        }
        answer::pause(piece.then);
    }
    if reply.cut {
        return Ok(());
    }
    let done = with("text", json!(text));
    events.typed("response.output_text.done", done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Value {
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
    }

    #[test]
    fn the_turn_is_the_last_real_user_text_and_what_followed() {
        let output = |text: &str| json!({"type": "function_call_output", "output": text});
        let body = json!({"input": [
            user("TOOL: a"), output("one"), user("TOOL: b"), output("two"), output("three"),
            user("<environment_context>x"),
        ]});
        let turn = read_turn(&body);
        assert_eq!((turn.text.as_str(), turn.results), ("TOOL: b", 2));
        assert_eq!(turn.last_result, "three");
        assert_eq!(read_turn(&json!({"input": "plain"})).text, "plain");
        assert_eq!(read_turn(&json!({})), Turn::default());
    }

    #[test]
    fn tools_are_called_by_the_names_on_offer() {
        let state = State::default();
        let shell = ToolCall::Shell("ls".to_owned());
        let tool = |name: &str| json!({"tools": [{"type": "function", "name": name}]});
        for (name, arguments) in [
            ("exec_command", r#"{"cmd":"ls"}"#),
            ("shell_command", r#"{"command":"ls"}"#),
            ("shell", r#"{"command":["bash","-lc","ls"]}"#),
        ] {
            let item = tool_item(&state, &shell, &tool(name));
            assert_eq!((&item["name"], &item["arguments"]), (&json!(name), &json!(arguments)));
        }
        let script = tool_item(&state, &shell, &tool("exec"));
        assert_eq!(script["type"], "custom_tool_call");

        let call = ToolCall::Mcp { server: "ccb".to_owned(), tool: "ask".to_owned(), arguments: "{}".to_owned() };
        let full = tool_item(&state, &call, &tool("mcp__ccb__ask"));
        assert_eq!((&full["name"], &full["namespace"]), (&json!("mcp__ccb__ask"), &Value::Null));
        let spaces = json!({"tools": [{"type": "namespace", "name": "mcp__ccb__", "tools": []}]});
        let short = tool_item(&state, &call, &spaces);
        assert_eq!((&short["name"], &short["namespace"]), (&json!("ask"), &json!("mcp__ccb__")));
    }
}
