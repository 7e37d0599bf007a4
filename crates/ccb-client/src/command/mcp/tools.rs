//! The tools as a model sees them, and how a call of one comes to [`Desk`].

use std::os::unix::net::UnixStream;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, InitializeResult,
    ListToolsResult, MetaObject, PaginatedRequestParams, ServerCapabilities, Tool, ToolAnnotations,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::calls::{Desk, LONGEST_WAIT_S, Told, WAIT_S};
use super::transport::Receipts;
use crate::wake::Interrupt;

const INSTRUCTIONS: &str = "Tools to work with the other AI coding agents of this project: `ask` gives one of them \
                            a message and brings its answer, `agents` shows who is there. When you are told that a \
                            request goes on, end your turn: its answer comes by itself as a new message.";

/// The server.
pub(super) struct Tools {
    desk: Desk,
    receipts: Receipts,
    /// Becomes true when the client has closed its end.
    closed: watch::Receiver<bool>,
}

impl Tools {
    pub(super) fn new(desk: Desk, receipts: Receipts, closed: watch::Receiver<bool>) -> Self {
        Self { desk, receipts, closed }
    }
}

impl ServerHandler for Tools {
    fn get_info(&self) -> InitializeResult {
        let mut info = InitializeResult::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("ccb", env!("CARGO_PKG_VERSION"));
        info.with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools()))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let internal = |error: &dyn std::fmt::Display| ErrorData::internal_error(error.to_string(), None);
        let (reader, given_up) = UnixStream::pair().map_err(|error| internal(&error))?;
        let (desk, name) = (self.desk.clone(), call.name.to_string());
        let arguments = call.arguments.unwrap_or_default();
        let working = tokio::task::spawn_blocking(move || desk.call(&name, arguments, &Interrupt::by(reader)));
        let mut closed = self.closed.clone();
        let told = tokio::select! {
            told = working => told.map_err(|error| internal(&error))?,
            () = context.ct.cancelled() => None,
            _ = closed.wait_for(|closed| *closed) => None,
        };
        // Its other end wakes the thread that waits: the request goes on, and its answer is kept for its asker.
        drop(given_up);
        let Some(told) = told else {
            let known = tools().iter().any(|tool| tool.name == call.name);
            let text = if known { "the call was given up".to_owned() } else { format!("no tool `{}`", call.name) };
            return Err(ErrorData::invalid_params(text, None));
        };
        let Told { text, is_error, facts, receipt } = told;
        if let Some(receipt) = receipt {
            self.receipts.keep(&context.id, receipt);
        }
        let blocks = vec![ContentBlock::text(text)];
        let mut result = if is_error { CallToolResult::error(blocks) } else { CallToolResult::success(blocks) };
        if let Some(Value::Object(facts)) = facts {
            result.meta = Some(MetaObject(facts));
        }
        Ok(result.into())
    }
}

/// Returns the tools: their names are the product's words.
fn tools() -> Vec<Tool> {
    let id = json!({"type": "string", "description": "The request's id, as `ask` gave it"});
    let wait = json!({
        "type": "number", "minimum": 0, "maximum": LONGEST_WAIT_S, "default": WAIT_S,
        "description": "Seconds to wait for the answer; 0: do not wait",
    });
    let reads = hints(true, false, true);
    vec![
        tool(
            "ask",
            "Give another AI agent of this project a message and get its answer. It shares the files, but knows \
             nothing of your conversation: say all it needs. If the answer takes longer than wait_s, you get the \
             request's id, and the answer comes to you later by itself, as a new message, once your turn has ended.",
            &["agent", "message"],
            &json!({
                "agent": {"type": "string", "description": "The agent's name; `agents` lists them"},
                "message": {"type": "string", "description": "The task or question"},
                "wait_s": wait,
                "timeout_s": {
                    "type": "number",
                    "description": "Seconds until the request itself ends without an answer (default 3600; negative: never)",
                },
            }),
            hints(false, false, false),
        ),
        tool(
            "wait",
            "Wait for the answer to a request that was made before. Not needed for an answer that comes by itself.",
            &["id"],
            &json!({"id": id, "wait_s": wait}),
            reads.clone(),
        ),
        tool(
            "pend",
            "Read the answer to a request, or an agent's latest ones, as far as they are there. Does not wait.",
            &["target"],
            &json!({
                "target": {"type": "string", "description": "A request's id or an agent's name"},
                "count": {"type": "integer", "minimum": 1, "default": 1, "description": "How many of an agent's latest"},
            }),
            reads.clone(),
        ),
        tool(
            "agents",
            "List the agents of this project, what each is doing, and the requests that are not over.",
            &[],
            &json!({}),
            reads,
        ),
        tool(
            "cancel",
            "Stop a request, whatever state it is in. An agent that works on it is interrupted.",
            &["id"],
            &json!({"id": id}),
            hints(false, true, true),
        ),
    ]
}

fn tool(
    name: &'static str,
    description: &'static str,
    required: &[&str],
    properties: &Value,
    hints: ToolAnnotations,
) -> Tool {
    let schema = json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    });
    let schema: Map<String, Value> = schema.as_object().cloned().unwrap_or_default();
    Tool::new(name, description, schema).with_annotations(hints)
}

fn hints(reads: bool, destroys: bool, is_idempotent: bool) -> ToolAnnotations {
    ToolAnnotations::from_raw(None, Some(reads), Some(destroys), Some(is_idempotent), Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_are_the_products_words_and_say_truly_what_they_do() {
        let rows: Vec<String> = tools()
            .iter()
            .map(|tool| {
                let hints = tool.annotations.as_ref().unwrap();
                let reads = hints.read_only_hint == Some(true);
                let required = &tool.input_schema["required"];
                format!("{} {required} reads:{reads} destroys:{}", tool.name, hints.destructive_hint == Some(true))
            })
            .collect();
        insta::assert_snapshot!(rows.join("\n"), @r#"
        ask ["agent","message"] reads:false destroys:false
        wait ["id"] reads:true destroys:false
        pend ["target"] reads:true destroys:false
        agents [] reads:true destroys:false
        cancel ["id"] reads:false destroys:true
        "#);
    }
}
