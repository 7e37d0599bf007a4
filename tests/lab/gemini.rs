//! The real Gemini CLI in its pane: its answers, the ways its turns end, its deaths, and what stays the user's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::deaths::pid;
use crate::env::claude::{completed, outcome, whole_both_ways};
use crate::env::{Lab, Setup, files_below, kill, lab, until};

/// What opens an empty composer's line.
const EMPTY: &str = "Type your message or @path/to/file";

/// Returns what is in Gemini's composer.
fn composer(lab: &Lab) -> String {
    let screen = lab.screen();
    let lines: Vec<&str> = screen.lines().collect();
    let at = |sign: char| lines.iter().rposition(|line| line.starts_with(sign));
    let (Some(top), Some(end)) = (at('▄'), at('▀')) else { return screen };
    let text = lines.get(top + 1..end).unwrap_or_default().join("\n");
    text.trim().trim_start_matches(['>', '*']).trim().replace(EMPTY, "")
}

/// Types a line into the composer, as a human does: not faster than it is shown.
#[track_caller]
fn types(lab: &Lab, text: &str) {
    lab.types(text);
    until(&format!("the composer shows `{text}`"), || composer(lab).contains(text).then_some(()));
}

/// Returns the processes of Gemini itself.
fn geminis(lab: &Lab) -> Vec<u32> {
    let all = lab.processes().into_iter();
    all.filter(|(_, line)| line.contains("/programs/gemini") && !line.contains(" guard ")).map(|(pid, _)| pid).collect()
}

#[track_caller]
fn answers(lab: &Lab, prompt: &str, reply: &str) {
    let answer = lab.ask_json(prompt);
    completed(&answer, reply);
    assert_eq!(lab.consumed(answer["id"].as_str().unwrap()), 1, "{prompt}");
}

/// A user whose Gemini is told to do what it wants.
fn setup(settings: &'static str) -> Setup {
    Setup { settings, ..Setup::gemini() }
}

/// Hooks switched off by the user: only transcript and screen are left.
const NO_HOOKS: &str = r#"{"hooksConfig":{"enabled":false}}"#;

#[test]
fn gemini_is_asked_and_answers() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    for number in 0..3 {
        answers(&lab, &format!("ECHO: answer {number}"), &format!("answer {number}"));
    }
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
    let explained = lab.ccb(&["pend", "gemini", "--json"]).json();
    assert_eq!(explained["requests"][0]["settlement"]["ended_by"], "hook", "{explained}");
    answers(&lab, "SLEEP 2: one two three four", "one two three four");
    // Several lines are collapsed in the composer.
    let lines: Vec<String> = (0..40).map(|number| format!("line {number}")).collect();
    answers(&lab, &format!("ECHOALL: {}", lines.join("\n")), &lines.join("\n"));
}

#[test]
fn gemini_answers_where_the_user_has_switched_hooks_off() {
    let Some(lab) = lab(setup(NO_HOOKS)) else { return };
    lab.start();
    answers(&lab, "ECHO: unhooked", "unhooked");
    assert!(lab.ask("MCP: ccb agents {}").ok().contains("gemini (you)"));
    let agent = lab.agent();
    assert_eq!(agent["rung"], "watched", "{agent}");
    let answer = lab.ask_json("ERR 401: who are you");
    assert_eq!(outcome(&answer), "failed/auth", "{answer}");
    answers(&lab, "ECHO: next", "next");
}

#[test]
fn errors_of_geminis_provider_have_their_class_and_the_next_ask_works() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let table = [
        ("ERR 401: who are you", "failed/auth"),
        ("ERR 400: something else", "failed/provider"),
        ("DROP: a text that is cut in the middle of its way", "failed/provider"),
    ];
    for (number, (prompt, end)) in table.into_iter().enumerate() {
        let answer = lab.ask_json(prompt);
        assert_eq!(outcome(&answer), end, "{prompt}: {answer}");
        assert!(!answer["settlement"]["outcome"]["message"].as_str().unwrap().is_empty(), "{answer}");
        answers(&lab, &format!("ECHO: next {number}"), &format!("next {number}"));
    }
}

#[test]
fn a_limit_of_a_minute_passes_and_of_a_used_up_quota_gemini_asks_its_human() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let minute = lab.ask_json("ERR 429 1: quota GenerateRequestsPerMinutePerProjectPerModel-FreeTier 2");
    assert_eq!(outcome(&minute), "completed", "{minute}");
    assert_eq!(lab.consumed(minute["id"].as_str().unwrap()), 1);
    let (id, going) = lab.ask_meanwhile("ERR 429: quota GenerateRequestsPerDayPerProjectPerModel-FreeTier 40000");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("Usage limit reached"), "{why}");
    assert_eq!(lab.explain(&id)["request"]["state"], "working");
    lab.presses("Down");
    let _shown = lab.until_shown("● 2. Stop");
    lab.presses("Enter");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "failed/quota", "{answer}");
    assert!(answer["settlement"]["outcome"]["message"].as_str().unwrap().contains("daily quota"), "{answer}");
    answers(&lab, "ECHO: next", "next");
}

#[test]
fn a_gemini_that_wants_a_login_waits_for_it_and_whoever_asks_is_told() {
    let Some(lab) = lab(setup(r#"{"security":{"auth":{"selectedType":null}}}"#)) else { return };
    let _started = lab.ccb(&["--detach", "gemini"]).ok();
    let why = lab.until_state("waiting for you");
    assert!(why.contains("authenticate"), "{why}");
    let next = lab.submit("ECHO: after the login");
    lab.until_waits_for(&next, "authenticate");
}

#[test]
fn a_request_to_gemini_is_cancelled_and_the_next_one_is_answered() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("SLEEP 60: a b c d e f g h i j k l m n o p");
    let _working = lab.until_request(&id, "working");
    let _cancelled = lab.begin("ccb", &["cancel", &id], "");
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "cancelled", "{answer}");
    let cancelled = lab.gemini_records().into_iter().any(|record| record["content"] == "Request cancelled.");
    assert!(cancelled, "{:#?}", lab.gemini_records());
    answers(&lab, "ECHO: next", "next");
    // Its human stops it.
    let (id, going) = lab.ask_meanwhile("SLEEP 60: a b c d e f g h i j k l m n o p");
    let _working = lab.until_request(&id, "working");
    let _shown = lab.until_shown("esc to cancel");
    lab.presses("Escape");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/interrupted", "{answer}");
    answers(&lab, "ECHO: and on", "and on");
}

#[test]
fn a_permission_that_gemini_asks_for_is_the_humans_to_give() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("TOOL: touch theirs");
    // By its hook, or by its screen if that is faster.
    let why = lab.until_state("waiting for you");
    assert!(why.contains("asks") || why.contains("Allow execution of"), "{why}");
    let next = lab.submit("ECHO: after you");
    let _shown = lab.until_shown("Allow execution of");
    assert!(!lab.project().join("theirs").exists());
    assert_eq!(lab.explain(&id)["request"]["state"], "working");
    lab.presses("Enter");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "completed", "{answer}");
    assert!(lab.project().join("theirs").exists());
    completed(&lab.settled(&next), "after you");
}

#[test]
fn gemini_asks_by_mcp_without_a_permission_and_knows_its_project() {
    // A dollar in a path is only a name, also where Gemini fills in variables.
    let Some(lab) = lab(Setup { project: "a b's $HOME ${PATH}", ..Setup::gemini() }) else { return };
    lab.start();
    let said = lab.ask("MCP: ccb agents {}").ok();
    assert!(said.contains("gemini (you)"), "{said}");
    let said = lab.ask("TOOL: ccb ps").ok();
    assert!(said.contains("gemini"), "{said}");
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
}

#[test]
fn gemini_gets_a_prompt_of_200_kb_and_gives_an_answer_of_200_kb() {
    // On a busy machine Gemini takes its time before it writes so long a prompt down.
    let environment = vec![("CCB_PROOF_GRACE_S", "100")];
    let Some(lab) = lab(Setup { environment, ..Setup::gemini() }) else { return };
    lab.start();
    whole_both_ways(&lab);
}

/// Returns a line's numbers: what is said again and again Gemini takes for a loop.
fn words(from: u32) -> String {
    let numbers: Vec<String> = (from..from + 120).map(|number| number.to_string()).collect();
    numbers.join(" ") + " "
}

#[test]
fn a_loop_that_gemini_sees_in_an_answer_is_the_humans_to_judge_and_no_end_of_the_turn() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile(&format!("ECHO: {}", "the quick brown fox ".repeat(60)));
    let why = lab.until_state("waiting for you");
    assert!(why.contains("loop"), "{why}");
    assert_eq!(lab.explain(&id)["request"]["state"], "working");
    lab.presses("Enter");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "failed/provider", "{answer}");
    assert!(answer["settlement"]["outcome"]["message"].as_str().unwrap().contains("loop"), "{answer}");
    answers(&lab, "ECHO: next", "next");
    assert_eq!(lab.consumed(&id), 1);
}

#[test]
fn gemini_reads_a_prompt_of_more_than_a_mib_from_a_file_and_it_is_removed() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let mut prompt = "RAWTOOL: read_file {\"file_path\":\"{file}\",\"start_line\":1500,\"end_line\":1502}\n".to_owned();
    prompt.extend((0..2000).map(|number| format!("{number:06} {}\n", words(number))));
    assert!(prompt.len() > 1 << 20, "{}", prompt.len());
    let answer = lab.ask_json(&prompt);
    assert_eq!(outcome(&answer), "completed", "{answer}");
    let reply = answer["settlement"]["reply"].as_str().unwrap();
    assert!(reply.starts_with("TOOLDONE") && reply.contains("\n001496 1496 1497 "), "{reply}");
    assert_eq!(lab.consumed(answer["id"].as_str().unwrap()), 1);
    let bodies = || {
        let mut left = files_below(&lab.home());
        left.retain(|path| path.to_string_lossy().ends_with(".gemini.txt"));
        left
    };
    assert_eq!(bodies().len(), 1);
    answers(&lab, "ECHO: something else", "something else");
    assert_eq!(bodies(), Vec::<PathBuf>::new(), "it is removed");
}

#[test]
fn a_draft_in_geminis_composer_is_left_alone() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("SLEEP 5: a slow answer");
    let _working = lab.until_request(&id, "working");
    types(&lab, "half a thought");
    completed(&going.end().json(), "a slow answer");
    assert_eq!(composer(&lab), "half a thought");
    let next = lab.submit("ECHO: after the draft");
    lab.until_waits_for(&next, "composer");
    assert_eq!(composer(&lab), "half a thought");
    lab.presses("C-c");
    completed(&lab.settled(&next), "after the draft");
    assert_eq!(lab.model_saw("half a thought"), 0);
}

/// Has something die while a request is being worked on, and returns the request as it ended.
fn killed_in_mid_turn(death: impl FnOnce(&Lab)) -> Option<(Lab, Value)> {
    let lab = lab(setup(""))?;
    lab.start();
    answers(&lab, "ECHO: a turn before", "a turn before");
    let answer = killed_in_turn(&lab, death);
    Some((lab, answer))
}

fn killed_in_turn(lab: &Lab, death: impl FnOnce(&Lab)) -> Value {
    let (id, going) = lab.ask_meanwhile("SLEEP 6: a slow answer");
    let _working = lab.until_request(&id, "working");
    death(lab);
    let answer = going.end().json();
    assert_eq!(answer["id"], id.as_str());
    answer
}

/// Kills Gemini's launcher: the other process would go on at the same terminal. Returns both.
fn kills_gemini(lab: &Lab) -> Vec<u32> {
    let mut all = geminis(lab);
    all.sort_unstable();
    assert_eq!(all.len(), 2, "{all:?}");
    kill(all[0]);
    all
}

#[test]
fn gemini_and_askd_killed_in_mid_turn() {
    let died = killed_in_mid_turn(|lab| {
        let status = lab.status();
        lab.kill(pid(&status["keeper"]));
        lab.kill(pid(&status["pid"]));
    });
    let Some((lab, answer)) = died else { return };
    completed(&answer, "a slow answer");
    answers(&lab, "ECHO: and on it goes", "and on it goes");
    assert_eq!(lab.consumed(answer["id"].as_str().unwrap()), 1);
}

#[test]
fn gemini_killed_in_mid_turn_comes_back_in_its_session() {
    let before = std::cell::RefCell::new(Vec::new());
    let died = killed_in_mid_turn(|lab| *before.borrow_mut() = kills_gemini(lab));
    let Some((lab, answer)) = died else { return };
    assert_eq!(outcome(&answer), "failed/agent-gone", "{answer}");
    answers(&lab, "ECHO: and on it goes", "and on it goes");
    let now = geminis(&lab);
    assert!(now.len() == 2 && now.iter().all(|pid| !before.borrow().contains(pid)), "{now:?}");
    assert_eq!(lab.consumed(answer["id"].as_str().unwrap()), 1);
    let shown = lab.screen();
    assert!(shown.contains("a turn before"), "it goes on in its session: {shown}");
}

/// Before its first answer its session can neither be gone on with nor be begun again.
#[test]
fn gemini_killed_in_its_first_turn_comes_back() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let mut before = Vec::new();
    let answer = killed_in_turn(&lab, |lab| before = kills_gemini(lab));
    assert_eq!(outcome(&answer), "failed/agent-gone");
    answers(&lab, "ECHO: and on it goes", "and on it goes");
    let now = geminis(&lab);
    assert!(now.iter().all(|pid| !before.contains(pid)), "{now:?}");
}

#[test]
fn no_gemini_outlives_its_pane_however_that_ends() {
    for end in ["window", "server"] {
        let Some(lab) = lab(setup("")) else { return };
        lab.start();
        let old = geminis(&lab);
        assert_eq!(old.len(), 2, "{old:?}");
        match end {
            "window" => drop(lab.tmux(&["kill-window", "-t", "ccb:"])),
            _ => lab.kill(lab.tmux(&["display-message", "-p", "#{pid}"]).ok().trim().parse().unwrap()),
        }
        until(&format!("no Gemini is left of the {end}"), || {
            geminis(&lab).iter().all(|pid| !old.contains(pid)).then_some(())
        });
    }
}

#[test]
fn no_gemini_outlives_a_killed_runner() {
    let Some(lab) = lab(setup("")) else { return };
    lab.start();
    let old = geminis(&lab);
    lab.kill(lab.process("/ccb run gemini"));
    until("no Gemini is left of the runner", || geminis(&lab).iter().all(|pid| !old.contains(pid)).then_some(()));
    lab.until_idle();
    answers(&lab, "ECHO: back", "back");
}

/// Returns what the user has in Gemini's directory, without what Gemini keeps of each project.
fn users_own(lab: &Lab) -> BTreeMap<PathBuf, String> {
    let home = lab.gemini_home();
    let private = ["tmp", "history", "projects.json"];
    let files = files_below(&home).into_iter();
    let files = files.map(|path| (path.strip_prefix(&home).unwrap().to_owned(), path));
    let files = files.filter(|(name, _)| !private.iter().any(|private| name.starts_with(private)));
    // What Gemini leaves of the registry of its projects when it ends early.
    let files = files.filter(|(name, _)| !name.to_string_lossy().starts_with("projects.json."));
    files.map(|(name, path)| (name, std::fs::read_to_string(path).unwrap_or_default())).collect()
}

#[test]
fn the_users_own_files_are_as_gemini_alone_would_leave_them() {
    let Some(alone) = lab(setup("")) else { return };
    let _said = alone.run("gemini", &["-p", "ECHO: alone"], "").ok();
    let Some(ours) = lab(setup("")) else { return };
    let login = "{\"access_token\":\"x\"}";
    for lab in [&alone, &ours] {
        std::fs::write(lab.gemini_home().join("oauth_creds.json"), login).unwrap();
        std::fs::create_dir_all(lab.gemini_home().join("commands")).unwrap();
        std::fs::write(lab.gemini_home().join("commands/hi.toml"), "prompt = \"hi\"\n").unwrap();
    }
    ours.start();
    answers(&ours, "ECHO: ours", "ours");
    let _ended = ours.ccb(&["kill"]).ok();
    let left = files_below(&ours.gemini_home()).into_iter().filter(|path| path.to_string_lossy().contains("projects"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "what it keeps of each project is in the overlay");
    let (mut alone, mut ours) = (users_own(&alone), users_own(&ours));
    // A number made up at the first start, what was shown how often, and the directories of two worlds.
    for name in ["installation_id", "state.json", "trustedFolders.json"] {
        let (before, now) = (alone.remove(&PathBuf::from(name)), ours.remove(&PathBuf::from(name)));
        assert!(now.is_some() || before.is_none(), "{name}: {before:?}");
    }
    assert_eq!(alone, ours);
}
