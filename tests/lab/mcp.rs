//! Agents ask each other from within Codex's own sandbox, by our MCP server; nothing of the user's is touched.

use serde_json::Value;

use crate::env::{Lab, Setup, lab, until};

/// Starts these agents and waits until all are idle.
fn start(lab: &Lab, agents: &[&str]) {
    let _started = lab.ccb(&[&["--detach"], agents].concat()).ok();
    until("all agents are idle", || {
        let overview = lab.ccb(&["ps", "--json"]).json();
        let all = overview["agents"].as_array()?.clone();
        (all.len() == agents.len() && all.iter().all(|agent| agent["state"] == "idle")).then_some(())
    });
}

/// Returns an agent's latest request.
fn latest(lab: &Lab, agent: &str) -> Value {
    lab.ccb(&["pend", agent, "--json"]).json()["requests"][0].clone()
}

#[test]
fn an_agent_asks_another_by_a_tool_and_uses_the_answer() {
    let Some(lab) = lab(Setup::default()) else { return };
    let before = std::fs::read_to_string(lab.codex_home().join("config.toml")).unwrap();
    start(&lab, &["codex", "reviewer:codex"]);
    let said = lab.ask(r#"MCP: ccb ask {"agent":"reviewer","message":"ECHO: looks good to me"}"#).ok();
    assert!(said.contains("TOOLDONE") && said.contains("looks good to me"), "{said}");
    until("the answer counts as delivered", || latest(&lab, "reviewer")["delivered"].is_number().then_some(()));
    assert_eq!(latest(&lab, "reviewer")["asker"], "codex");
    let said = lab.ask("MCP: ccb agents {}").ok();
    assert!(said.contains("codex (you)") && said.contains("reviewer: codex, idle"), "{said}");
    let said = lab.ask(r#"MCP: ccb ask {"agent":"nobody","message":"hi"}"#).ok();
    assert!(said.contains("no agent nobody") || said.contains("no agent `nobody`"), "{said}");
    // A tool that ends something is one that Codex would ask the human about, were it not ours.
    let id = latest(&lab, "reviewer")["id"].as_str().unwrap().to_owned();
    let said = lab.ask(&format!(r#"MCP: ccb cancel {{"id":"{id}"}}"#)).ok();
    assert!(said.contains("completed: the agent answered"), "{said}");
    assert_eq!(lab.model_saw("[CCB_TASK_"), 0, "no notice follows what was read");
    // Codex itself adds a line about screen readers; nothing else has come to it.
    let after = std::fs::read_to_string(lab.codex_home().join("config.toml")).unwrap();
    assert!(after.starts_with(&before) && !after.contains("ccb"), "{after}");
}

#[test]
fn an_answer_that_takes_longer_comes_as_a_new_message_after_the_turn() {
    let Some(lab) = lab(Setup::default()) else { return };
    start(&lab, &["codex", "reviewer:codex"]);
    let said = lab.ask(r#"MCP: ccb ask {"agent":"reviewer","message":"SLEEP 2: worth the wait","wait_s":0.2}"#).ok();
    assert!(said.contains("No answer yet") && said.contains("end your turn now"), "{said}");
    until("the notice arrives", || (lab.model_saw("[CCB_TASK_COMPLETED]") == 1).then_some(()));
    assert_eq!(lab.model_saw("worth the wait\n"), 2, "once as the question, once as the notice");
}

#[test]
fn an_agent_knows_who_is_there_and_keeps_what_the_user_told_it() {
    let config = ("developer_instructions = \"Speak like a \\\"pirate\\\".\"\n", "");
    let Some(lab) = lab(Setup { config, project: "my \"wörk\" $(touch X)", ..Setup::default() }) else { return };
    start(&lab, &["codex", "reviewer:codex"]);
    assert_eq!(lab.ask("ECHO: hello").ok(), "hello\n");
    let request = lab.model_requests().pop().unwrap();
    let texts: Vec<&str> = request["developer"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let ours: Vec<&&str> = texts.iter().filter(|text| text.contains("You are `codex`")).collect();
    assert_eq!(ours.len(), 1, "{texts:?}");
    assert!(ours[0].starts_with("Speak like a \"pirate\".\n\nYou are `codex`"), "{texts:?}");
    assert!(ours[0].contains("besides you: reviewer (Codex)."), "{texts:?}");
    assert!(request["tools"].as_array().unwrap().iter().any(|tool| tool == "mcp__ccb"), "{request:#}");
    let said = lab.ask("MCP: ccb agents {}").ok();
    assert!(said.contains("reviewer"), "{said}");
}

#[test]
fn a_server_of_the_users_own_by_that_name_stays() {
    let config = ("", "[mcp_servers.ccb]\nurl = \"http://127.0.0.1:9/mcp\"\nstartup_timeout_sec = 1\n");
    let Some(lab) = lab(Setup { config, ..Setup::default() }) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: it works").ok(), "it works\n");
}

#[test]
fn an_ask_in_the_sandboxs_shell_says_which_way_works() {
    let Some(lab) = lab(Setup::default()) else { return };
    start(&lab, &["codex", "reviewer:codex"]);
    // By its path: a login shell, which Codex runs, may have a PATH of its own.
    let said = lab.ask(&format!("TOOL: {} reviewer 'ECHO: hello'", env!("CARGO_BIN_EXE_ask"))).ok();
    assert!(said.contains("this sandbox forbids askd's socket") && said.contains("MCP tool"), "{said}");
}
