//! The Messages API, as Claude Code uses it: `POST /v1/messages`, streamed or whole.
//!
//! Besides the turns of a user, Claude Code sends requests of its own: for a title, for a summary,
//! for its subagents. They carry the user's prompt too, so without care they would obey its
//! directive a second time and use up the failures that a test has ordered for the turn itself.

use std::borrow::Cow;
use std::io;

use serde_json::{Map, Value, json};

use crate::answer::{self, Answer, OUTPUT_TOKENS, Reply, SUMMARY, ToolCall, Turn};
use crate::array;
use crate::directive::{self, Directive};
use crate::http::{Events, Next, Responder};
use crate::server::{Call, Model, Outcome};
use crate::state::State;
use crate::tools;

/// How the lines begin between which the CLI puts a text that was pasted; an id in quotes follows.
const PASTED: &[&str] = &["<pasted_content id=\"", "</pasted_content id=\""];

/// How the words begin by which a hook of the user makes the CLI go on.
const FEEDBACK: &str = "Stop hook feedback:\n";

/// What encloses the result in the news of a background task.
const TASK_RESULT: (&str, &str) = ("<result>", "</result>");

/// What the CLI writes around a message that it passes on: the line before and the start of the paragraph after.
const WRAPPERS: &[(&str, &str)] = &[
    ("The user sent a new message while you were working:\n", "\n\nThis is how Claude Code surfaces"),
    ("Another Claude session sent a message:\n", "\n\nThis came from another Claude session"),
];

/// Who a request is for, as far as that decides its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A turn of the session.
    Turn,
    /// A turn of a subagent; directives are obeyed, but nothing is refused.
    Subagent,
    /// A summary of the conversation.
    Summary,
    /// Anything else that the CLI asks for itself.
    Aside,
}

/// Answers one request of this API.
pub fn answer(model: &Model, call: &Call, responder: &mut Responder) -> io::Result<Next> {
    let turn = read_turn(call.body);
    let purpose = purpose(call, &turn);
    model.log.event("req", log_fields(call, &turn, purpose));
    let plan = || answer::plan(&turn, model.state.obeys_done());
    let outcome = match purpose {
        Purpose::Turn => model.settle(plan(), &turn.text),
        Purpose::Summary => model.settle(Answer::Reply(summary()), &turn.text),
        Purpose::Subagent => Outcome::Reply(harmless(plan())),
        Purpose::Aside => Outcome::Reply(Reply::text(aside(call.body))),
    };
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::StreamError(text) => return fail_in_stream(model, call, responder, &text),
        Outcome::Refused { code, text } => return refuse(model, call.seq, responder, code, &text),
    };
    let message = Message::new(model, call, &reply);
    answer::pause(reply.wait);
    if wants_stream(call.body) {
        return stream(model, call.seq, responder, &message, &reply);
    }
    let next = responder.json(200, &message.whole())?;
    model.log.event("end", json!({"seq": call.seq, "stop": message.stop}));
    Ok(next)
}

fn wants_stream(body: &Value) -> bool {
    body["stream"].as_bool().unwrap_or(false)
}

fn purpose(call: &Call, turn: &Turn) -> Purpose {
    if turn.text.contains("Your task is to create a detailed summary") {
        Purpose::Summary
    } else if tool_names(call.body).is_empty() || turn.text.starts_with("[SUGGESTION MODE") {
        Purpose::Aside
    } else if call.request.header("x-claude-code-agent-id").is_some() {
        Purpose::Subagent
    } else {
        Purpose::Turn
    }
}

fn summary() -> Reply {
    Reply::text(format!("<analysis>\nNothing to weigh.\n</analysis>\n\n<summary>\n{SUMMARY}\n</summary>"))
}

fn harmless(planned: Answer) -> Reply {
    match planned {
        Answer::Reply(reply) | Answer::Refuse { recovered: reply, .. } | Answer::Limit { whole: reply, .. } => reply,
        Answer::StreamError(_) => Reply::text("OK"),
    }
}

/// Returns a short answer in the form that the request prescribes.
fn aside(body: &Value) -> String {
    match &body["output_config"]["format"]["schema"] {
        Value::Null => "OK".to_owned(),
        schema => tools::sample(schema, "Fake").to_string(),
    }
}

/// Returns what `body` says about the turn: the last user text and the tool results after it.
///
/// Every block is a text of its own, because the prompt of a failed turn stays a block of the same
/// message as the next prompt.
fn read_turn(body: &Value) -> Turn {
    let mut turn = Turn::default();
    for message in array(&body["messages"]).filter(|message| message["role"] == "user") {
        if let Some(text) = message["content"].as_str() {
            take_text(&mut turn, text);
        }
        for block in array(&message["content"]) {
            match block["type"].as_str() {
                Some("text") => take_text(&mut turn, block["text"].as_str().unwrap_or_default()),
                Some("tool_result") => {
                    turn.results += 1;
                    turn.last_result = result_text(&block["content"]);
                }
                _ => {}
            }
        }
    }
    turn
}

fn take_text(turn: &mut Turn, text: &str) {
    let written = written(text);
    // Directives of a hook are obeyed like a user's own; other words of it are none of the user's.
    let asked = written.trim_start().strip_prefix(FEEDBACK);
    let written = match asked.filter(|words| !matches!(directive::parse(words), Directive::Acknowledge(_))) {
        Some(words) => Cow::Owned(words.to_owned()),
        None => written,
    };
    if !written.trim().is_empty() && !directive::is_injected(&written) {
        *turn = Turn { text: written.into_owned(), ..Turn::default() };
    } else if let Some(result) = background_result(text).filter(|_| turn.results > 0) {
        // The call of a background agent returns at once; what the agent answers comes as news.
        result.clone_into(&mut turn.last_result);
    }
}

/// Returns what a user wrote in `text`, without the reminders and the wrapping that the CLI adds.
fn written(text: &str) -> Cow<'_, str> {
    let mut rest = directive::without_reminders(text);
    for (before, after) in WRAPPERS {
        if let Some(message) = rest.strip_prefix(before) {
            let end = message.rfind(after).unwrap_or(message.len());
            rest = &message[..end];
        }
    }
    without_paste_marks(rest)
}

/// Returns `text` without the lines that mark what was pasted.
///
/// Claude Code 2.1.330 writes them around a paste of three line ends or of more than 800 characters,
/// and drops the paste's last line end; here that is how a prompt of ccb usually arrives.
fn without_paste_marks(text: &str) -> Cow<'_, str> {
    let marks = |line: &str| PASTED.iter().any(|mark| line.starts_with(mark)) && line.trim_end().ends_with("\">");
    if !text.lines().any(marks) {
        return Cow::Borrowed(text);
    }
    let kept: String = text.split_inclusive('\n').filter(|line| !marks(line)).collect();
    let kept = kept.strip_prefix("\n\n").unwrap_or(&kept);
    Cow::Owned(kept.strip_suffix('\n').unwrap_or(kept).to_owned())
}

/// Returns the result in the news of a background task.
fn background_result(text: &str) -> Option<&str> {
    let (_, news) = text.split_once("<task-notification>")?;
    let (_, result) = news.split_once(TASK_RESULT.0)?;
    result.rsplit_once(TASK_RESULT.1).map(|(result, _)| result)
}

fn result_text(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let texts: Vec<&str> = array(content).filter_map(|block| block["text"].as_str()).collect();
    texts.join("\n")
}

fn tool_names(body: &Value) -> Vec<&str> {
    array(&body["tools"]).filter_map(|tool| tool["name"].as_str()).collect()
}

fn log_fields(call: &Call, turn: &Turn, purpose: Purpose) -> Value {
    let (body, request) = (call.body, call.request);
    let key = request.header("authorization").or_else(|| request.header("x-api-key"));
    json!({
        "seq": call.seq,
        "path": request.target,
        "n": request.body.len(),
        "model": body["model"],
        "stream": body["stream"],
        "tools": tool_names(body),
        "nmsgs": array(&body["messages"]).count(),
        "nresults": turn.results,
        "user": turn.excerpt(),
        "userlen": turn.text.chars().count(),
        "side": purpose != Purpose::Turn,
        "ua": request.header("user-agent"),
        "auth": key,
        "sid": request.header("x-claude-code-session-id"),
        "agent": request.header("x-claude-code-agent-id"),
    })
}

fn refuse(model: &Model, seq: u64, responder: &mut Responder, code: u16, text: &str) -> io::Result<Next> {
    model.log.event("error_sent", json!({"seq": seq, "code": code}));
    let message = if text.is_empty() { format!("fake error {code}") } else { text.to_owned() };
    let headers = directive::used_up_until(code, text).map(|until| {
        format!(
            "anthropic-ratelimit-unified-status: rejected\r\nanthropic-ratelimit-unified-reset: {until}\r\n\
             anthropic-ratelimit-unified-representative-claim: five_hour\r\nx-should-retry: false\r\n"
        )
    });
    responder.json_under(code, &headers.unwrap_or_default(), &error(error_kind(code), &message))
}

fn error_kind(code: u16) -> &'static str {
    match code {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}

fn error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

/// Reports a failure after the status of success; a whole answer has no such place and is refused.
fn fail_in_stream(model: &Model, call: &Call, responder: &mut Responder, text: &str) -> io::Result<Next> {
    let text = if text.is_empty() { "Overloaded" } else { text };
    let failure = error("overloaded_error", text);
    let next = if wants_stream(call.body) {
        let mut events = responder.events()?;
        let message = Message::new(model, call, &Reply::text(""));
        events.typed("message_start", json!({"message": message.base}))?;
        events.event("error", &failure)?;
        events.end()?
    } else {
        responder.json(529, &failure)?
    };
    model.log.event("end", json!({"seq": call.seq, "stop": "sseerr"}));
    Ok(next)
}

/// The message object as it begins, and the blocks it will hold.
struct Message {
    base: Value,
    blocks: Vec<Value>,
    stop: &'static str,
}

impl Message {
    fn new(model: &Model, call: &Call, reply: &Reply) -> Self {
        let base = json!({
            "id": model.state.fresh_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": call.body["model"],
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {
                "input_tokens": model.state.input_tokens(call.request.body.len()),
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 1,
            },
        });
        let blocks = blocks(&model.state, reply, call.body);
        let stop = match &reply.tool {
            Some(_) => "tool_use",
            None if reply.limit => "max_tokens",
            None => "end_turn",
        };
        Self { base, blocks, stop }
    }

    fn whole(&self) -> Value {
        let mut message = self.base.clone();
        message["content"] = json!(self.blocks);
        message["stop_reason"] = json!(self.stop);
        message["usage"]["output_tokens"] = json!(OUTPUT_TOKENS);
        message
    }
}

/// Returns the content blocks of a reply in the order in which they are sent.
fn blocks(state: &State, reply: &Reply, body: &Value) -> Vec<Value> {
    // A client that has not asked for thinking does not expect such a block.
    let thinks = matches!(body["thinking"]["type"].as_str(), Some("enabled" | "adaptive"));
    let thinking = reply.thinking.iter().filter(|_| thinks);
    let thinking = thinking.map(|text| json!({"type": "thinking", "thinking": text, "signature": "ZmFrZQ=="}));
    let texts = reply.texts.iter().filter(|text| !text.is_empty() || reply.cut);
    let texts = texts.map(|text| json!({"type": "text", "text": text}));
    let tool = reply.tool.iter().map(|call| {
        let (name, input) = tool_input(call, body);
        json!({"type": "tool_use", "id": state.fresh_id("toolu"), "name": name, "input": input})
    });
    thinking.chain(texts).chain(tool).collect()
}

/// Returns the tool's name and input for the tools that this request offers.
fn tool_input(call: &ToolCall, body: &Value) -> (String, Value) {
    // What is no JSON object cannot be an input at all.
    let object = |text: &str| json!(serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default());
    match call {
        ToolCall::Shell(command) => ("Bash".to_owned(), json!({"command": command, "description": "Run the command"})),
        ToolCall::Mcp { server, tool, arguments } => (format!("mcp__{server}__{tool}"), object(arguments)),
        ToolCall::Raw { name, arguments } => (name.clone(), object(arguments)),
        ToolCall::Agent(prompt) => {
            // The tool was renamed; an older CLI offers it as `Task` only.
            let tools = tool_names(body);
            let old = tools.contains(&"Task") && !tools.contains(&"Agent");
            let name = if old { "Task" } else { "Agent" };
            let input = json!({"description": "Sub task", "prompt": prompt, "subagent_type": "general-purpose"});
            (name.to_owned(), input)
        }
    }
}

fn stream(model: &Model, seq: u64, responder: &mut Responder, message: &Message, reply: &Reply) -> io::Result<Next> {
    let mut events = responder.events()?;
    events.typed("message_start", json!({"message": message.base}))?;
    for (index, block) in message.blocks.iter().enumerate() {
        stream_block(&mut events, index, block, reply)?;
        if reply.cut {
            model.log.event("dropped", json!({"seq": seq}));
            return Ok(Next::Close);
        }
        events.typed("content_block_stop", json!({"index": index}))?;
    }
    let delta = json!({"stop_reason": message.stop, "stop_sequence": null});
    events.typed("message_delta", json!({"delta": delta, "usage": {"output_tokens": OUTPUT_TOKENS}}))?;
    events.typed("message_stop", json!({}))?;
    let next = events.end()?;
    model.log.event("end", json!({"seq": seq, "stop": message.stop}));
    Ok(next)
}

/// Sends the start of a block, empty as clients expect it, and what fills it.
fn stream_block(events: &mut Events, index: usize, block: &Value, reply: &Reply) -> io::Result<()> {
    let mut start = block.clone();
    let fields: &[&str] = match block["type"].as_str() {
        Some("tool_use") => &["input"],
        Some("thinking") => &["thinking", "signature"],
        _ => &["text"],
    };
    for field in fields {
        start[*field] = if *field == "input" { json!({}) } else { json!("") };
    }
    events.typed("content_block_start", json!({"index": index, "content_block": start}))?;
    let mut send = |delta: Value| events.typed("content_block_delta", json!({"index": index, "delta": delta}));
    match block["type"].as_str() {
        Some("tool_use") => send(json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})),
        Some("thinking") => {
            send(json!({"type": "thinking_delta", "thinking": block["thinking"]}))?;
            send(json!({"type": "signature_delta", "signature": block["signature"]}))
        }
        _ => stream_text(events, index, block["text"].as_str().unwrap_or_default(), reply),
    }
}

fn stream_text(events: &mut Events, index: usize, text: &str, reply: &Reply) -> io::Result<()> {
    for piece in reply.pieces(text) {
        match piece.text {
            Some(text) => {
                let delta = json!({"type": "text_delta", "text": text});
                events.typed("content_block_delta", json!({"index": index, "delta": delta}))?;
            }
            None => events.typed("ping", json!({}))?,
        }
        answer::pause(piece.then);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: impl Into<Value>) -> Value {
        json!({"role": "user", "content": content.into()})
    }

    fn text(text: &str) -> Value {
        json!({"type": "text", "text": text})
    }

    fn result(content: impl Into<Value>) -> Value {
        json!({"type": "tool_result", "tool_use_id": "toolu_1", "content": content.into()})
    }

    fn turn(messages: &[Value]) -> (String, usize, String) {
        let turn = read_turn(&json!({"messages": messages}));
        (turn.text, turn.results, turn.last_result)
    }

    #[test]
    fn the_turn_is_the_last_text_of_a_user_and_what_followed() {
        let reminder = "<system-reminder>\nx\n</system-reminder>\n";
        let late = "The user sent a new message while you were working:\nECHO: b\n\n\
                    This is how Claude Code surfaces messages the user sends mid-turn.\n";
        let peer =
            "Another Claude session sent a message:\nECHO: b\n\nThis came from another Claude session \u{2014} x";
        let pasted = |text: &str| format!("\n\n<pasted_content id=\"81c5\">\n{text}\n</pasted_content id=\"81c5\">\n");
        let system = json!({"role": "system", "content": "# Environment"});
        let table = [
            (vec![], "", 0, ""),
            (vec![user("plain")], "plain", 0, ""),
            (vec![user(vec![text(reminder), text("ECHO: a")]), system], "ECHO: a", 0, ""),
            (vec![user(format!("{reminder}ECHO: a\n\n{reminder}"))], "ECHO: a\n\n", 0, ""),
            (vec![user("<system-reminder> is never closed")], "", 0, ""),
            (vec![user(vec![text("ERR 429: a\n"), text("ECHO: b")])], "ECHO: b", 0, ""),
            (vec![user("TOOL: a"), user(vec![result("one")])], "TOOL: a", 1, "one"),
            (
                vec![user("TOOL: a"), user(vec![result(vec![text("x"), text("y")]), text(reminder)])],
                "TOOL: a",
                1,
                "x\ny",
            ),
            (vec![user("TOOL: a"), user(vec![result("one")]), user("TOOL: b")], "TOOL: b", 0, ""),
            (vec![user("TOOL: a"), user(vec![result("one"), text(late)])], "ECHO: b", 0, ""),
            (vec![user(pasted("CCB_REQ_ID: r\n\nECHO: b"))], "CCB_REQ_ID: r\n\nECHO: b", 0, ""),
            (vec![user(format!("typed{}more", pasted("ECHO: b")))], "typed\n\nECHO: b\nmore", 0, ""),
            (vec![user(peer)], "ECHO: b", 0, ""),
            (vec![user("ECHO: a"), user("[Your previous response had no visible output.")], "ECHO: a", 0, ""),
        ];
        for (messages, text, results, last) in table {
            assert_eq!(turn(&messages), (text.to_owned(), results, last.to_owned()), "{messages:?}");
        }
    }

    #[test]
    fn news_of_a_background_agent_bring_its_result() {
        let news = "<task-notification>\n<task-id>a1</task-id>\n<result>from sub</result>\n</task-notification>";
        for news in [news.to_owned(), format!("<system-reminder>\nNOT USER INPUT\n{news}\n</system-reminder>")] {
            let messages = [user("AGENT: ECHO: from sub"), user(vec![result("launched")]), user(vec![text(&news)])];
            let expected = ("AGENT: ECHO: from sub".to_owned(), 1, "from sub".to_owned());
            assert_eq!(turn(&messages), expected);
            assert_eq!(turn(&[user("TOOL: ls"), user(news.as_str())]), ("TOOL: ls".to_owned(), 0, String::new()));
        }
    }

    #[test]
    fn tools_are_called_by_the_names_claude_code_offers() {
        let mcp = |arguments: &str| ToolCall::Mcp {
            server: "ccb".to_owned(),
            tool: "ask".to_owned(),
            arguments: arguments.to_owned(),
        };
        let raw = ToolCall::Raw { name: "Read".to_owned(), arguments: r#"{"a":1}"#.to_owned() };
        let agent = ToolCall::Agent("x".to_owned());
        let table = [
            (ToolCall::Shell("ls".to_owned()), "Bash", "command", json!("ls")),
            (mcp(r#"{"to":"b"}"#), "mcp__ccb__ask", "to", json!("b")),
            (mcp(r#"{"to"}"#), "mcp__ccb__ask", "to", Value::Null),
            (raw, "Read", "a", json!(1)),
            (agent.clone(), "Agent", "prompt", json!("x")),
        ];
        for (call, name, field, value) in table {
            let (called, input) = tool_input(&call, &json!({}));
            assert_eq!((called.as_str(), &input[field]), (name, &value), "{call:?}");
            assert!(input.is_object());
        }
        let named = |names: &[&str]| {
            let tools: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            tool_input(&agent, &json!({"tools": tools})).0
        };
        assert_eq!((named(&["Task", "Bash"]), named(&["Agent", "Task"])), ("Task".to_owned(), "Agent".to_owned()));
    }

    #[test]
    fn asides_are_short_and_of_the_form_asked_for() {
        assert_eq!(aside(&json!({})), "OK");
        let properties = json!({"title": {"type": "string"}, "new": {"type": "boolean"}, "tags": {"type": "array"}});
        let schema = json!({"type": "object", "properties": properties});
        let format = json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}});
        let answered: Value = serde_json::from_str(&aside(&format)).unwrap();
        assert_eq!(answered, json!({"title": "Fake", "new": false, "tags": []}));
    }
}
