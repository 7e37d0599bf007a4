//! Droid, joined: `ccb view` owns the real `droid exec` and shows it in its pane, with a model of the user's own.

use serde_json::Value;

use crate::deaths::pid;
use crate::env::claude::{completed, outcome};
use crate::env::{Going, Lab, Setup, kill, lab, until};

/// A user who lets Droid run what it wants.
const FREE: &str = r#"{"sessionDefaultSettings":{"model":"custom:Fake-Model-0","autonomyMode":"auto-high"}}"#;

/// Begins a request, and returns when Droid is at it.
#[track_caller]
fn in_mid_turn(lab: &Lab, message: &str) -> (String, Going) {
    let (id, going) = lab.ask_meanwhile(message);
    let _working = lab.until_request(&id, "working");
    until("the model answers", || (lab.model_saw(&id) >= 1).then_some(()));
    (id, going)
}

/// Asserts that a request was given to Droid once, and that the next one is answered.
#[track_caller]
fn goes_on(lab: &Lab, id: &str) {
    assert_eq!(lab.ask("ECHO: and on it goes").ok(), "and on it goes\n");
    let given = lab.droid_records().iter().filter(|record| record["id"] == id).count();
    assert_eq!(given, 1, "{:?}", lab.user_messages());
    assert_eq!(lab.model_saw(id), 1);
}

#[test]
fn droid_answers_in_its_pane_without_a_login() {
    let Some(lab) = lab(Setup { settings: FREE, ..Setup::droid() }) else { return };
    lab.start();
    let settings = std::fs::read(lab.droid_home().join("settings.json")).unwrap();
    let answer = lab.ask_json("ECHO: hello droid");
    completed(&answer, "hello droid");
    assert_eq!(answer["settlement"]["ended_by"], "protocol", "{answer}");
    assert_eq!(answer["turn"], answer["id"], "its turn has our id");
    let shown = lab.until_shown("droid: idle");
    assert!(shown.contains("hello droid"), "{shown}");
    completed(&lab.ask_json("TOOL: echo by-a-tool"), "TOOLDONE: by-a-tool\n\n\n[Process exited with code 0]");
    // The same text is another request, and another turn.
    completed(&lab.ask_json("ECHO: hello droid"), "hello droid");
    assert_eq!(std::fs::read(lab.droid_home().join("settings.json")).unwrap(), settings, "the user's own stays");
    assert!(!lab.droid_home().join("mcp.json").exists());
}

#[test]
fn two_hundred_kilobytes_go_both_ways_unchanged() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    // All different: Droid cuts off an answer that repeats itself.
    let lines: Vec<String> = (0..9000).map(|number| format!("line {number} äöü 😀\n")).collect();
    let text = lines.concat();
    let answer = lab.run("ask", &["droid", "--json"], &format!("ECHOALL: {text}")).json();
    let reply = answer["settlement"]["reply"].as_str().unwrap();
    assert!(reply.len() > 190_000 && reply.trim() == text.trim(), "{} bytes", reply.len());
}

#[test]
fn a_cancelled_turn_is_interrupted_and_the_next_one_answered() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    let (id, going) = in_mid_turn(&lab, "SLEEP 30: one two three four five six");
    let _cancelled = lab.ccb(&["cancel", &id]);
    let answer = going.end().json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "cancelled", "{answer}");
    let _shown = lab.until_shown("interrupted");
    goes_on(&lab, &id);
}

#[test]
fn errors_of_droids_provider_have_their_class_and_the_next_ask_works() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    let table = [
        ("ERR 401: who are you", "failed/auth"),
        ("ERR 402: nothing left", "failed/quota"),
        ("ERR 400: maximum context length is 10 tokens", "failed/context"),
        ("ERR 400: something else", "failed/provider"),
    ];
    for (number, (prompt, end)) in table.into_iter().enumerate() {
        let answer = lab.ask_json(prompt);
        assert_eq!(outcome(&answer), end, "{prompt}: {answer}");
        assert!(!answer["settlement"]["outcome"]["message"].as_str().unwrap().is_empty(), "{answer}");
        assert_eq!(lab.ask(&format!("ECHO: next {number}")).ok(), format!("next {number}\n"));
    }
    let (id, going) = lab.ask_meanwhile("ERR 429 1: slow down");
    until("it is told that the model is asked again", || {
        lab.agent()["why"].as_str().is_some_and(|why| why.contains("rate_limited")).then_some(())
    });
    assert_eq!(going.end().json()["settlement"]["outcome"]["word"], "completed");
    goes_on_after_retries(&lab, &id);
}

/// The same as [`goes_on`] where the model was asked more than once for one prompt.
#[track_caller]
fn goes_on_after_retries(lab: &Lab, id: &str) {
    assert_eq!(lab.ask("ECHO: and on it goes").ok(), "and on it goes\n");
    assert_eq!(lab.droid_records().iter().filter(|record| record["id"] == id).count(), 1);
}

#[test]
fn a_tool_waits_for_the_humans_word_and_takes_it_from_a_key() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    let (_, going) = lab.ask_meanwhile("TOOL: touch made-by-droid");
    let why = lab.until_state("waiting for you");
    assert!(why.contains("touch made-by-droid"), "{why}");
    let shown = lab.until_shown("n: No, cancel");
    assert!(shown.contains("Execute: touch made-by-droid") && !lab.project().join("made-by-droid").exists(), "{shown}");
    // What is typed into an input line that is not empty is no answer.
    lab.types("by");
    let _shown = lab.until_shown("> by");
    lab.types("y");
    let _shown = lab.until_shown("> byy");
    assert!(!lab.project().join("made-by-droid").exists());
    lab.presses("C-c");
    until("the input line is empty", || (!lab.screen().contains("> by")).then_some(()));
    // A key of the question's first moment is text.
    until("the question takes a key", || {
        lab.types("y");
        let made = lab.project().join("made-by-droid").exists();
        lab.presses("C-u");
        made.then_some(())
    });
    assert!(going.end().json()["settlement"]["reply"].as_str().unwrap().contains("TOOLDONE"));
    assert!(lab.project().join("made-by-droid").exists());
    // Once was once: the next one is asked about, and refused.
    let (_, going) = lab.ask_meanwhile("TOOL: touch made-again");
    let _why = lab.until_state("waiting for you");
    until("the question takes a key", || {
        lab.types("n");
        let agent = lab.agent();
        lab.presses("C-u");
        (agent["state"] == "idle").then_some(())
    });
    assert_eq!(outcome(&going.end().json()), "incomplete/interrupted");
    assert!(!lab.project().join("made-again").exists());
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
}

#[test]
fn a_human_types_in_mid_turn_and_comes_first() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    let (id, going) = in_mid_turn(&lab, "SLEEP 4: slowly said words");
    lab.types("half a dra");
    completed(&going.end().json(), "slowly said words");
    let _shown = lab.until_shown("> half a dra");
    assert_eq!(lab.ask("ECHO: beside a draft").ok(), "beside a draft\n");
    let shown = lab.until_shown("> half a dra");
    assert!(shown.contains("beside a draft"), "{shown}");
    lab.presses("C-c");
    // A turn of the human's own: a request waits for its end.
    lab.types("SLEEP 3: to the human");
    lab.presses("Enter");
    until("the human's own turn runs", || lab.agent()["why"].as_str()?.contains("the human's own").then_some(()));
    let next = lab.submit("ECHO: after the human");
    assert_eq!(lab.explain(&next)["request"]["state"], "queued");
    completed(&lab.settled(&next), "after the human");
    let shown = lab.until_shown("after the human");
    assert!(shown.contains("to the human"), "{shown}");
    // And Escape stops what runs.
    let (_, going) = in_mid_turn(&lab, "SLEEP 30: never said to its end");
    lab.presses("Escape");
    assert_eq!(outcome(&going.end().json()), "incomplete/interrupted");
    goes_on(&lab, &id);
}

#[test]
fn a_new_session_begins_at_the_humans_word_and_is_gone_on_in() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: in the first").ok(), "in the first\n");
    lab.types("/new");
    lab.presses("Enter");
    let _shown = lab.until_shown("(a new session)");
    let before = sessions(&lab).len();
    until("it is idle again", || (lab.agent()["state"] == "idle").then_some(()));
    assert_eq!(lab.ask("ECHO: in the second").ok(), "in the second\n");
    assert_eq!(sessions(&lab).len(), before.max(2));
    lab.kill(droid(&lab));
    let _shown = lab.until_shown("(the session goes on)");
    assert_eq!(lab.ask("ECHO: still in the second").ok(), "still in the second\n");
    assert_eq!(sessions(&lab).len(), 2);
}

fn sessions(lab: &Lab) -> Vec<Value> {
    lab.droid_records().into_iter().filter(|record| record["type"] == "session_start").collect()
}

/// Returns the processes that are Droid, and neither its viewer nor its launcher.
fn droids(lab: &Lab) -> Vec<u32> {
    let others = [" view ", " guard ", "node "];
    let is_it = |line: &str| line.contains("exec --input-format") && !others.iter().any(|other| line.contains(other));
    lab.processes().into_iter().filter(|(_, line)| is_it(line)).map(|(pid, _)| pid).collect()
}

/// Returns the one that is Droid.
fn droid(lab: &Lab) -> u32 {
    until("droid exec runs", || droids(lab).first().copied())
}

/// Has something die while a request is being worked on, and returns the request as it ended.
fn killed_in_mid_turn(death: impl FnOnce(&Lab)) -> Option<(Lab, Value)> {
    let lab = lab(Setup::droid())?;
    lab.start();
    assert_eq!(lab.ask("ECHO: a turn before").ok(), "a turn before\n");
    let (id, going) = in_mid_turn(&lab, "SLEEP 6: words that come slowly");
    death(&lab);
    let answer = lab.settled(&id);
    drop(going);
    Some((lab, answer))
}

#[test]
fn droid_and_a_worker_killed_in_mid_turn() {
    let death = |lab: &Lab| lab.kill(pid(&lab.status()["pid"]));
    let Some((lab, answer)) = killed_in_mid_turn(death) else { return };
    completed(&answer, "words that come slowly");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn droid_and_keeper_and_worker_killed_in_mid_turn() {
    let death = |lab: &Lab| {
        let status = lab.status();
        lab.kill(pid(&status["keeper"]));
        kill(pid(&status["pid"]));
    };
    let Some((lab, answer)) = killed_in_mid_turn(death) else { return };
    completed(&answer, "words that come slowly");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn droid_killed_in_mid_turn_comes_back_in_its_session() {
    let Some((lab, answer)) = killed_in_mid_turn(|lab| lab.kill(droid(lab))) else { return };
    assert_eq!(outcome(&answer), "failed/agent-gone", "{answer}");
    goes_on(&lab, answer["id"].as_str().unwrap());
    assert_eq!(sessions(&lab).len(), 1);
}

#[test]
fn droids_viewer_killed_in_mid_turn_comes_back_in_its_session() {
    let Some((lab, answer)) = killed_in_mid_turn(|lab| lab.kill(lab.process("ccb view"))) else { return };
    assert_eq!(outcome(&answer), "failed/agent-gone", "{answer}");
    goes_on(&lab, answer["id"].as_str().unwrap());
    assert_eq!(sessions(&lab).len(), 1);
}

/// Has askd's worker killed at an edge of the first request, which is answered all the same.
fn answered_after(edge: &'static str) {
    let environment = vec![("CCB_FAILPOINT", edge)];
    let Some(lab) = lab(Setup { environment, ..Setup::droid() }) else { return };
    lab.start();
    let id = lab.submit("ECHO: once");
    until("the worker has died", || lab.dir().join("died").exists().then_some(()));
    completed(&lab.settled(&id), "once");
    goes_on(&lab, &id);
}

#[test]
fn droid_and_a_worker_killed_before_the_offer() {
    answered_after("droid.before-offer=abort:{world}/died");
}

#[test]
fn droid_and_a_worker_killed_after_the_offer() {
    answered_after("droid.offered=abort:{world}/died");
}

#[test]
fn droid_is_restarted_in_its_session_and_not_over_a_draft() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    let answer = lab.ask_json("ECHO: before");
    completed(&answer, "before");
    let first = droid(&lab);
    lab.types("half a dra");
    let _shown = lab.until_shown("> half a dra");
    lab.ccb(&["restart", "droid"]).says(1, &["draft in its input line"]);
    lab.presses("C-c");
    until("the input line is empty", || (!lab.screen().contains("> half")).then_some(()));
    let _restarted = lab.ccb(&["restart", "droid"]).ok();
    assert_eq!(lab.ask("ECHO: after").ok(), "after\n");
    assert_ne!(droid(&lab), first);
    assert_eq!(sessions(&lab).len(), 1, "it went on in its session");
    goes_on(&lab, answer["id"].as_str().unwrap());
}

#[test]
fn what_a_human_sends_in_mid_turn_follows_it_and_is_no_part_of_the_answer() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    for words in ["ECHO: the human's own", "/compress"] {
        let (id, going) = in_mid_turn(&lab, "SLEEP 4: slowly said words");
        lab.types(words);
        lab.presses("Enter");
        let _shown = lab.until_shown("1 queued");
        completed(&going.end().json(), "slowly said words");
        lab.until_idle();
        goes_on(&lab, &id);
    }
    let texts: Vec<String> = lab.user_messages().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts.iter().filter(|text| *text == "ECHO: the human's own").count(), 1, "{texts:?}");
}

#[test]
fn no_droid_outlives_its_viewer_or_tmux_though_its_launcher_has_started_it() {
    let bin = std::env::var_os("CCB_LAB").map(|lab| std::path::Path::new(&lab).join("node_modules/.bin"));
    let Some(lab) = lab(Setup { first_on_path: bin, ..Setup::droid() }) else { return };
    lab.start();
    for tmux in [false, true] {
        assert_eq!(lab.ask("ECHO: before").ok(), "before\n");
        let launched =
            lab.processes().into_iter().any(|(_, line)| line.starts_with("node ") && line.contains(" exec "));
        let before = droids(&lab);
        assert!(launched && before.len() == 1, "{:?}", lab.processes());
        if tmux {
            lab.kill(lab.tmux(&["display-message", "-p", "#{pid}"]).ok().trim().parse().unwrap());
            lab.start();
        } else {
            lab.kill(lab.process("ccb view"));
        }
        assert_eq!(lab.ask("ECHO: after").ok(), "after\n");
        until("only the new one lives", || (droids(&lab).len() == 1 && droids(&lab) != before).then_some(()));
    }
}

#[test]
fn a_new_session_in_mid_request_is_refused_and_begins_after_the_answer() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    let (id, going) = in_mid_turn(&lab, "SLEEP 6: slowly said words");
    lab.types("/new");
    lab.presses("Enter");
    let _shown = lab.until_shown("a new session can begin when no turn is running");
    completed(&going.end().json(), "slowly said words");
    goes_on(&lab, &id);
    assert_eq!(sessions(&lab).len(), 1);
    let shown = lab.until_shown("> /new");
    assert!(shown.contains("slowly said words"), "it is left in the input line: {shown}");
    lab.presses("Enter");
    until("it begins", || (!lab.screen().contains("> /new")).then_some(()));
    assert_eq!(lab.ask("ECHO: in the second").ok(), "in the second\n");
    assert_eq!(sessions(&lab).len(), 2);
}

#[test]
fn a_context_error_that_passes_is_recovered_in_its_turn_and_one_that_stays_ends_the_request() {
    let Some(lab) = lab(Setup::droid()) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: before").ok(), "before\n");
    let passes = lab.ask_json("ERR 413 1: prompt is too long: 300000 tokens > 200000 maximum");
    completed(&passes, "RECOVERED: prompt is too long: 300000 tokens > 200000 maximum");
    goes_on_after_retries(&lab, passes["id"].as_str().unwrap());
    let stays = lab.ask_json("ERR 413: prompt is too long: 300000 tokens > 200000 maximum");
    assert_eq!(outcome(&stays), "failed/context", "{stays}");
    goes_on_after_retries(&lab, stays["id"].as_str().unwrap());
}
