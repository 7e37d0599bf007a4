//! Each agent's own program answers in the world made for it, without ccb: what every other test here stands on.

use crate::env::droid::MODEL;
use crate::env::{Lab, Setup, lab};

/// A prompt as ccb writes it.
const PROMPT: &str = "CCB_REQ_ID: r1\n\nTOOL: echo from-the-shell";

/// Asserts that the agent has this one prompt in its records, and the model has seen its tool's result.
fn asked_once(lab: &Lab) {
    assert_eq!(lab.consumed("r1"), 1, "{:#?}", lab.user_messages());
    assert_eq!(lab.user_messages().len(), 1, "{:#?}", lab.user_messages());
    assert_eq!(lab.model_saw("TOOL: echo from-the-shell"), 1, "{:#?}", lab.model_requests());
    let after = lab.model_requests().into_iter().filter(|line| line["nresults"] == 1);
    assert_eq!(after.count(), 1, "{:#?}", lab.model_requests());
}

#[test]
fn gemini_answers_in_its_world() {
    let Some(lab) = lab(Setup::gemini()) else { return };
    let said = lab.run("gemini", &["--approval-mode", "yolo", "-p", PROMPT], "").ok();
    assert!(said.contains("TOOLDONE: ") && said.contains("from-the-shell"), "{said}");
    asked_once(&lab);
    let records = lab.gemini_records();
    let answer = records.iter().rfind(|record| record["type"] == "gemini").unwrap();
    assert!(answer["content"].as_str().unwrap().starts_with("TOOLDONE: "), "{answer}");
}

#[test]
fn opencode_answers_in_its_world() {
    let Some(lab) = lab(Setup::opencode()) else { return };
    let said = lab.run("opencode", &["run"], PROMPT).ok();
    assert!(said.contains("TOOLDONE: from-the-shell"), "{said}");
    asked_once(&lab);
    let messages = lab.opencode_messages();
    let answer = messages.last().unwrap();
    assert_eq!(Lab::opencode_text(answer), "TOOLDONE: from-the-shell");
    assert_eq!((&answer["data"]["finish"], &answer["data"]["parentID"]), (&"stop".into(), &messages[0]["id"]));
}

#[test]
fn droid_answers_in_its_world() {
    let Some(lab) = lab(Setup::droid()) else { return };
    let said = lab.run("droid", &["exec", "--auto", "high", "-m", MODEL], PROMPT).ok();
    assert!(said.contains("TOOLDONE: from-the-shell"), "{said}");
    asked_once(&lab);
    let outcomes = lab.droid_records().into_iter().filter(|record| record["type"] == "agent_turn_outcome");
    let reasons: Vec<String> = outcomes.map(|record| record["reason"].to_string()).collect();
    assert_eq!(reasons, ["\"completed\""]);
}

#[test]
fn all_agents_answer_in_one_world() {
    let all = Setup { also: &["codex", "gemini", "opencode", "droid"], ..Setup::claude() };
    let Some(lab) = lab(all) else { return };
    let codex = lab.run("codex", &["exec", "--skip-git-repo-check", "ECHO: of-codex"], "").ok();
    let claude = lab.run("claude", &["-p", "ECHO: of-claude"], "").ok();
    let gemini = lab.run("gemini", &["-p", "ECHO: of-gemini"], "").ok();
    let opencode = lab.run("opencode", &["run"], "ECHO: of-opencode").ok();
    let droid = lab.run("droid", &["exec", "-m", MODEL], "ECHO: of-droid").ok();
    let all = [("codex", codex), ("claude", claude), ("gemini", gemini), ("opencode", opencode), ("droid", droid)];
    for (agent, said) in all {
        assert!(said.contains(&format!("of-{agent}")), "{agent}: {said}");
    }
}
