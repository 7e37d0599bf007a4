//! Writes tool calls for the tools that a request offers; for the APIs that several CLIs share.
//!
//! Gemini CLI, OpenCode and Droid name their tools differently, and want different arguments of a shell.
//! What is on offer decides, so no CLI has to be known here by its name.

use serde_json::{Map, Value, json};

use crate::answer::ToolCall;

/// The tool by which a CLI makes tools known that it does not offer at once.
pub const TOOL_SEARCH: &str = "ToolSearch";

/// The names of shell tools.
const SHELLS: &[&str] = &["run_shell_command", "bash", "Execute"];

/// What stands where a schema wants any words: a sentence of three words, as some want one.
const WORDS: &str = "Run the command";

/// A tool on offer: its name and the schema of its arguments.
pub type Offer<'a> = (&'a str, &'a Value);

/// Returns the name and the arguments of `call`; `searched` says whether a search for it has been made.
pub fn written(call: &ToolCall, offers: &[Offer], searched: bool) -> (String, Value) {
    match call {
        ToolCall::Shell(command) => {
            let shell = SHELLS.iter().find_map(|shell| offers.iter().find(|(name, _)| name == shell));
            let (name, schema) = shell.copied().unwrap_or(("bash", &Value::Null));
            (name.to_owned(), filled(schema, json!({"command": command})))
        }
        ToolCall::Mcp { server, tool, arguments } => {
            let forms = [format!("mcp_{server}_{tool}"), format!("{server}_{tool}"), format!("{server}___{tool}")];
            let known = forms.iter().find(|form| offers.iter().any(|(name, _)| name == form));
            let name = known.unwrap_or(if offers_search(offers) { &forms[2] } else { &forms[0] });
            named(name, arguments, offers, searched)
        }
        ToolCall::Raw { name, arguments } => named(name, arguments, offers, searched),
        ToolCall::Agent(prompt) => {
            let (name, kind) = [("invoke_agent", "generalist"), ("task", "general"), ("Task", "worker")]
                .into_iter()
                .find(|(name, _)| offers.iter().any(|(known, _)| known == name))
                .unwrap_or(("task", "general"));
            let kind_field = if name == "invoke_agent" { "agent_name" } else { "subagent_type" };
            let schema = offers.iter().find(|(known, _)| *known == name).map_or(&Value::Null, |(_, schema)| schema);
            (name.to_owned(), filled(schema, json!({"prompt": prompt, kind_field: kind})))
        }
    }
}

/// Returns a call of the tool of this name, or first the search that makes it known.
fn named(name: &str, arguments: &str, offers: &[Offer], searched: bool) -> (String, Value) {
    let offered = offers.iter().any(|(known, _)| *known == name);
    if !offered && !searched && offers_search(offers) {
        return (TOOL_SEARCH.to_owned(), json!({"query": format!("select:{name}")}));
    }
    // What is no JSON object cannot be arguments at all.
    let arguments = serde_json::from_str::<Map<String, Value>>(arguments).unwrap_or_default();
    (name.to_owned(), Value::Object(arguments))
}

fn offers_search(offers: &[Offer]) -> bool {
    offers.iter().any(|(name, _)| *name == TOOL_SEARCH)
}

/// Returns `arguments` with what else the schema requires.
fn filled(schema: &Value, mut arguments: Value) -> Value {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required {
        if arguments[name].is_null() {
            arguments[name] = sample(&schema["properties"][name], WORDS);
        }
    }
    arguments
}

/// Returns a small value that fits a JSON schema of the simple kinds that CLIs send; `words` stand for any text.
pub fn sample(schema: &Value, words: &str) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|choices| choices.first()) {
        return first.clone();
    }
    match schema["type"].as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            Value::Object(properties.map(|(name, schema)| (name.clone(), sample(schema, words))).collect())
        }
        Some("array") => json!([]),
        Some("boolean") => json!(false),
        Some("number" | "integer") => json!(1),
        _ => json!(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mcp(arguments: &str) -> ToolCall {
        ToolCall::Mcp { server: "ccb".to_owned(), tool: "ask".to_owned(), arguments: arguments.to_owned() }
    }

    #[test]
    fn the_shell_on_offer_is_called_with_all_that_it_requires() {
        let shell = ToolCall::Shell("ls".to_owned());
        let plain = json!({"properties": {"command": {"type": "string"}}, "required": ["command"]});
        let wordy = json!({
            "properties": {"risk": {"type": "string", "enum": ["low", "high"]}, "summary": {"type": "string"}},
            "required": ["summary", "command", "risk"],
        });
        let table = [
            ("run_shell_command", &plain, json!({"command": "ls"})),
            ("bash", &plain, json!({"command": "ls"})),
            ("Execute", &wordy, json!({"command": "ls", "risk": "low", "summary": "Run the command"})),
        ];
        for (name, schema, arguments) in table {
            let offers = [("read", &plain), (name, schema)];
            assert_eq!(written(&shell, &offers, false), (name.to_owned(), arguments));
        }
    }

    #[test]
    fn a_tool_of_a_server_is_called_by_the_name_on_offer() {
        let none = Value::Null;
        for name in ["mcp_ccb_ask", "ccb_ask", "ccb___ask"] {
            let (called, arguments) = written(&mcp(r#"{"to":"b"}"#), &[("bash", &none), (name, &none)], false);
            assert_eq!((called.as_str(), arguments), (name, json!({"to": "b"})));
        }
        assert_eq!(written(&mcp("nonsense"), &[], false), ("mcp_ccb_ask".to_owned(), json!({})));
    }

    #[test]
    fn a_tool_that_is_held_back_is_searched_for_once() {
        let none = Value::Null;
        let search = [(TOOL_SEARCH, &none)];
        let searched = written(&mcp("{}"), &search, false);
        assert_eq!(searched, (TOOL_SEARCH.to_owned(), json!({"query": "select:ccb___ask"})));
        assert_eq!(written(&mcp("{}"), &search, true).0, "ccb___ask");
        assert_eq!(written(&mcp("{}"), &[search[0], ("ccb___ask", &none)], false).0, "ccb___ask");
    }

    #[test]
    fn subagents_are_started_by_the_tool_on_offer() {
        let none = Value::Null;
        let agent = ToolCall::Agent("x".to_owned());
        for (tool, field) in [("invoke_agent", "agent_name"), ("task", "subagent_type"), ("Task", "subagent_type")] {
            let (name, arguments) = written(&agent, &[(tool, &none)], false);
            assert_eq!((name.as_str(), &arguments["prompt"]), (tool, &json!("x")));
            assert!(arguments[field].is_string());
        }
    }

    #[test]
    fn a_sample_fits_its_schema() {
        let properties =
            json!({"reason": {"type": "STRING"}, "score": {"type": "INTEGER"}, "kind": {"enum": ["a", "b"]}});
        let schema = json!({"type": "OBJECT", "properties": properties});
        assert_eq!(sample(&schema, "Fake"), json!({"reason": "Fake", "score": 1, "kind": "a"}));
    }
}
