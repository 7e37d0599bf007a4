//! OpenCode, joined: what is particular about it. The whole table of `full.rs` has what all CLIs go through.

use serde_json::Value;

use crate::env::claude::{completed, outcome};
use crate::env::{Lab, Setup, files_below, lab, until};

/// Begins a request, and returns when the model is at it and its human sees it.
#[track_caller]
pub(crate) fn in_mid_turn(lab: &Lab, message: &str) -> (String, crate::env::Going) {
    let (id, going) = lab.ask_meanwhile(message);
    let _working = lab.until_request(&id, "working");
    until("the model answers", || (lab.model_saw(&id) >= 1).then_some(()));
    // The TUI may still be at its first page, where a line begins another session.
    let _shown = lab.until_shown(&id);
    (id, going)
}

/// Sends a line, as a human does who waits until it stands in the composer.
#[track_caller]
fn says(lab: &Lab, text: &str) {
    lab.types(text);
    let _shown = lab.until_shown(text);
    lab.presses("Enter");
}

/// Asserts that a request was given to OpenCode once, and that the next one is answered.
#[track_caller]
fn goes_on(lab: &Lab, id: &str) {
    assert_eq!(lab.ask("ECHO: and on it goes").ok(), "and on it goes\n");
    assert_eq!(given(lab, id), 1, "{:?}", lab.user_messages());
}

/// Returns how many messages of OpenCode's carry a request.
fn given(lab: &Lab, id: &str) -> usize {
    let all = lab.opencode_messages();
    let ours = |message: &&Value| message["id"].as_str().is_some_and(|of| of.ends_with(id));
    all.iter().filter(ours).map(|message| message["parts"].as_array().map_or(0, Vec::len)).sum()
}

#[test]
fn opencode_is_asked_by_its_human_and_answers_where_it_is_seen() {
    let Some(lab) = lab(Setup::opencode()) else { return };
    lab.start();
    assert_eq!(lab.agent()["rung"], "joined", "{}", lab.agent());
    let answer = lab.ask_json("ECHO: the first answer");
    completed(&answer, "the first answer");
    assert_eq!(answer["settlement"]["ended_by"], "protocol", "{answer}");
    let _shown = lab.until_shown("the first answer");
    completed(&lab.ask_json("TOOL: echo by-a-tool"), "TOOLDONE: by-a-tool");
    let port = lab.process("/opencode --hostname");
    let line = lab.processes().into_iter().find(|(pid, _)| *pid == port).unwrap().1;
    let door = files_below(&lab.home()).into_iter().find(|file| file.ends_with("opencode.opencode.json")).unwrap();
    let door: Value = serde_json::from_str(&std::fs::read_to_string(door).unwrap()).unwrap();
    assert!(!line.contains(door["password"].as_str().unwrap()), "{line}");
}

#[test]
fn opencode_asks_codex_and_goes_on_with_the_answer() {
    let Some(lab) = lab(Setup { also: &["codex"], ..Setup::opencode() }) else { return };
    let _started = lab.ccb(&["--detach", "opencode", "codex"]).ok();
    until("both are idle", || {
        let all = lab.ccb(&["ps", "--json"]).json();
        all["agents"].as_array()?.iter().all(|agent| agent["state"] == "idle").then_some(())
    });
    let answer = lab.ask_json(r#"MCP: ccb ask {"agent":"codex","message":"ECHO: from codex to opencode"}"#);
    // The tool waits for a short answer itself.
    completed(&answer, "TOOLDONE: from codex to opencode");
    let codex = lab.model_requests().into_iter().filter(|line| line.to_string().contains("ECHO: from codex"));
    assert!(codex.count() >= 2, "both have asked the model");
}

#[test]
fn a_provider_that_refuses_again_and_again_is_told_of_while_opencode_tries() {
    let Some(lab) = lab(Setup::opencode()) else { return };
    lab.start();
    completed(&lab.ask_json("ERR 429 1: slow down please"), "RECOVERED: slow down please");
    let (id, going) = lab.ask_meanwhile("ERR 429: slow down please");
    until("the reason is shown, and until when it waits", || {
        let why = lab.agent()["why"].as_str()?.to_owned();
        (why.contains("slow down please") && why.contains("it tries again at ")).then_some(())
    });
    let _cancelled = lab.ccb(&["cancel", &id]).ok();
    assert_eq!(outcome(&going.end().json()), "cancelled");
    goes_on(&lab, &id);
}

#[test]
fn a_tool_that_the_human_refuses_ends_the_turn_and_a_question_waits_for_the_human() {
    let settings = r#"{"permission":{"bash":"ask"}}"#;
    let Some(lab) = lab(Setup { settings, ..Setup::opencode() }) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("TOOL: touch refused");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("permission: bash"), "{why}");
    let _shown = lab.until_shown("Permission required");
    lab.presses("Escape");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/interrupted", "{answer}");
    assert!(!lab.project().join("refused").exists());
    goes_on(&lab, &id);
}

#[test]
fn what_a_human_sends_in_mid_turn_is_theirs_and_a_mixture_is_told() {
    let Some(lab) = lab(Setup::opencode()) else { return };
    lab.start();
    let (id, going) = in_mid_turn(&lab, "SLEEP 6: ours alone");
    says(&lab, "ECHO: the humans own");
    completed(&going.end().json(), "ours alone");
    let _shown = lab.until_shown("the humans own");
    goes_on(&lab, &id);
    let (id, going) = in_mid_turn(&lab, "TOOLS 3: sleep 2");
    says(&lab, "ECHO: between the steps");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/mixed", "{answer}");
    goes_on(&lab, &id);
    // A turn of the human's own is waited for.
    says(&lab, "SLEEP 4: the human works");
    until("the human's turn is seen", || lab.agent()["why"].as_str()?.contains("human's own").then_some(()));
    completed(&lab.ask_json("ECHO: after the human"), "after the human");
    let texts: Vec<String> = lab.user_messages().into_iter().map(|(_, text)| text).collect();
    assert!(texts.last().unwrap().contains("after the human"), "{texts:?}");
}

#[test]
fn a_human_in_a_new_session_is_followed() {
    let Some(lab) = lab(Setup::opencode()) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: in the first").ok(), "in the first\n");
    let _shown = lab.until_shown("in the first");
    says(&lab, "/new");
    let _shown = lab.until_shown("Ask anything");
    says(&lab, "ECHO: in the second");
    until("the human has been answered", || (lab.opencode_messages().len() >= 4).then_some(()));
    let _shown = lab.until_shown("Build · fake-model ·");
    lab.until_idle();
    completed(&lab.ask_json("ECHO: where the human is"), "where the human is");
    let _shown = lab.until_shown("where the human is");
    let messages = lab.opencode_messages();
    let session = |text: &str| {
        let found = messages.iter().find(|message| Lab::opencode_text(message).contains(text));
        found.map(|message| message["session"].clone())
    };
    assert_eq!(session("where the human is"), session("in the second"));
    assert_ne!(session("in the first"), session("in the second"));
    // The TUI that is started again shows that one.
    lab.kill(lab.process("/opencode --hostname"));
    let _shown = lab.until_shown("where the human is");
    assert_eq!(lab.ask("ECHO: after its death").ok(), "after its death\n");
}

#[test]
fn the_worker_killed_around_a_prompt_gives_it_once() {
    for edge in ["opencode.before-prompt=abort:{world}/died", "opencode.prompted=abort:{world}/died"] {
        let environment = vec![("CCB_FAILPOINT", edge)];
        let Some(lab) = lab(Setup { environment, ..Setup::opencode() }) else { return };
        lab.start();
        let answer = lab.ask_json("ECHO: once");
        assert!(lab.dir().join("died").exists());
        completed(&answer, "once");
        goes_on(&lab, answer["id"].as_str().unwrap());
    }
}

#[test]
fn with_auto_approval_nothing_is_asked_and_nothing_of_the_users_is_changed() {
    let settings = r#"{"permission":{"bash":"ask","webfetch":"deny"},"mcp":{"theirs":{"type":"local","command":["false"],"enabled":false}}}"#;
    let Some(lab) = lab(Setup { settings, ..Setup::opencode() }) else { return };
    let config = lab.home().join(".config/opencode");
    let read =
        || serde_json::from_str::<Value>(&std::fs::read_to_string(config.join("opencode.json")).unwrap()).unwrap();
    let before = read();
    let _started = lab.ccb(&["--detach", "-a", "opencode"]).ok();
    lab.until_idle();
    completed(&lab.ask_json("TOOL: echo nobody-asked"), "TOOLDONE: nobody-asked");
    let _killed = lab.ccb(&["kill"]).ok();
    // What OpenCode writes down by itself at any start.
    let mut after = read();
    after.as_object_mut().unwrap().remove("$schema");
    assert_eq!(before, after);
    let files: Vec<_> = files_below(&config).iter().filter_map(|file| Some(file.file_name()?.to_owned())).collect();
    assert_eq!(files, [".gitignore", "opencode.json"]);
    assert!(files_below(&lab.project()).iter().all(|file| file.starts_with(lab.project().join(".ccb"))));
}

#[test]
fn a_pane_that_dies_comes_back_in_its_session_on_another_port() {
    let Some(lab) = lab(Setup::opencode()) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: before its death").ok(), "before its death\n");
    let line = |pid: u32| lab.processes().into_iter().find(|(of, _)| *of == pid).map(|(_, line)| line);
    let program = lab.process("/opencode --hostname");
    let before = line(program).unwrap();
    lab.kill(lab.process("run opencode --project"));
    until("its program is another one", || (lab.process("/opencode --hostname") != program).then_some(()));
    let _shown = lab.until_shown("before its death");
    assert_eq!(lab.ask("ECHO: after its death").ok(), "after its death\n");
    assert_ne!(line(lab.process("/opencode --hostname")).unwrap(), before);
    let sessions = lab.opencode_messages();
    assert!(sessions.iter().all(|message| message["session"] == sessions[0]["session"]), "{sessions:?}");
}

#[test]
fn a_context_that_is_too_long_is_compacted_and_the_turn_goes_on() {
    let Some(lab) = lab(Setup::opencode()) else { return };
    lab.start();
    let answer = lab.ask_json("ERR 413: too much");
    // What the model says to the words by which OpenCode goes on.
    assert_eq!(outcome(&answer), "completed", "{answer}");
    assert!(answer["settlement"]["reply"].as_str().unwrap().contains("Continue if you have next steps"), "{answer}");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn an_end_that_no_event_tells_is_found_in_the_history() {
    let environment = vec![("CCB_SABOTAGE", "ends-heard")];
    let Some(lab) = lab(Setup { environment, ..Setup::opencode() }) else { return };
    lab.start();
    let answer = lab.ask_json("ECHO: told by nobody");
    completed(&answer, "told by nobody");
    lab.noticed(&answer);
    goes_on(&lab, answer["id"].as_str().unwrap());
}

/// Has a plugin of the user's hold each message up, after OpenCode has accepted it, until its world says `go`.
fn holding_up(environment: Vec<(&'static str, &'static str)>) -> Option<Lab> {
    let settings = r#"{"plugin":["file://{world}/slow.js"]}"#;
    // Else OpenCode waits for a package that it would fetch for the plugin.
    let environment = environment.into_iter().chain([("npm_config_offline", "true")]).collect();
    let lab = lab(Setup { settings, environment, ..Setup::opencode() })?;
    let plugin = r#"import { existsSync, writeFileSync } from "node:fs"
        export const Slow = async () => ({ "chat.message": async () => {
            writeFileSync("WORLD/held", "")
            while (!existsSync("WORLD/go")) await new Promise((resolve) => setTimeout(resolve, 20))
        } })"#;
    let plugin = plugin.replace("WORLD", &lab.dir().display().to_string());
    std::fs::write(lab.dir().join("slow.js"), plugin).unwrap();
    lab.start();
    Some(lab)
}

/// Asks for something that is accepted and held up.
fn held_up(lab: &Lab) -> (String, crate::env::Going) {
    let (id, going) = lab.ask_meanwhile("ECHO: in the end");
    let _accepted = lab.until_request(&id, "offered");
    until("the message is held up", || lab.dir().join("held").exists().then_some(()));
    assert_eq!(given(lab, &id), 0, "accepted, and not written down");
    (id, going)
}

fn lets_go(lab: &Lab) {
    std::fs::write(lab.dir().join("go"), "").unwrap();
}

#[test]
fn what_opencode_writes_down_late_is_given_once_though_askd_dies_meanwhile() {
    let Some(lab) = holding_up(vec![("CCB_PROOF_GRACE_S", "600")]) else { return };
    let (id, going) = held_up(&lab);
    lab.kill(crate::deaths::pid(&lab.status()["pid"]));
    until("the next askd doubts", || lab.explain(&id).to_string().contains("may have accepted it").then_some(()));
    lets_go(&lab);
    completed(&going.end().json(), "in the end");
    goes_on(&lab, &id);
}

#[test]
fn what_opencode_writes_down_after_the_grace_was_not_sent_again_and_its_answer_is_kept() {
    let Some(lab) = holding_up(vec![("CCB_PROOF_GRACE_S", "1")]) else { return };
    let (id, going) = held_up(&lab);
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["reason"], "unknown-delivery", "{answer}");
    lets_go(&lab);
    until("the late answer is attached", || {
        (lab.explain(&id)["request"]["settlement"]["late"]["reply"] == "in the end").then_some(())
    });
    goes_on(&lab, &id);
}
