//! Turns that do not end with an answer: cancelled, or failed at the provider.

use crate::env::claude::outcome;
use crate::env::{Setup, lab, until};
use crate::full::REVIEWED;

#[test]
fn a_cancelled_request_is_interrupted_in_the_tui() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let (id, going) = lab.ask_meanwhile("SLEEP 30: never whole");
    let _working = lab.until_request(&id, "working");
    until("the model answers", || (lab.model_saw(&id) == 1).then_some(()));
    let _cancelled = lab.ccb(&["cancel", &id]).ok();
    let run = going.end();
    run.says(2, &[]);
    let answer = run.json();
    assert_eq!(answer["settlement"]["outcome"]["word"], "cancelled", "{answer}");
    assert_eq!(answer["settlement"]["ended_by"], "protocol", "{answer}");
    let _shown = lab.until_shown("interrupted");
    assert_eq!(lab.ask("ECHO: next").ok(), "next\n");
}

#[test]
fn errors_of_the_provider_have_their_class_and_the_next_ask_works() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let table = [
        ("ERR 429: slow down", "rate-limit"),
        ("ERR 401: who are you", "auth"),
        ("ERR 500: broken", "overloaded"),
        ("ERR 400: context", "provider"),
        ("SSEERR: failed in the stream", "provider"),
        ("DROP: a text that is cut in the middle of its way", "provider"),
    ];
    for (number, (prompt, class)) in table.into_iter().enumerate() {
        let answer = lab.ask_json(prompt);
        let outcome = &answer["settlement"]["outcome"];
        assert_eq!((&outcome["word"], &outcome["reason"]), (&"failed".into(), &class.into()), "{prompt}: {answer}");
        assert!(!outcome["message"].as_str().unwrap().is_empty(), "{answer}");
        assert_eq!(answer["settlement"]["ended_by"], "protocol", "{answer}");
        assert_eq!(lab.ask(&format!("ECHO: next {number}")).ok(), format!("next {number}\n"));
    }
    lab.ask("ERR 401: no").says(1, &["not logged in"]);
}

#[test]
fn a_limit_that_is_used_up_is_told_with_its_end_by_codex() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    lab.tells_the_limit(|| {});
}

#[test]
fn an_end_that_the_server_does_not_tell_is_read_from_the_thread() {
    let environment = vec![("CCB_SABOTAGE", "ends-heard")];
    let Some(lab) = lab(Setup { environment, ..Setup::default() }) else { return };
    lab.start();
    for number in 0..2 {
        let answer = lab.ask_json(&format!("SLEEP 2: whole {number}"));
        assert_eq!(
            answer["settlement"]["reply"].as_str().map(str::trim),
            Some(&*format!("whole {number}")),
            "{answer}"
        );
        assert_eq!(answer["settlement"]["ended_by"], "protocol", "{answer}");
        lab.noticed(&answer);
    }
    assert!(lab.ccb(&["logs"]).out.contains("was not heard; its thread shows it"), "the notices were swallowed");
}

#[track_caller]
fn no_hook_tells_the_end(setup: Setup) {
    let environment = vec![("CCB_SABOTAGE", "ends-heard")];
    let Some(lab) = lab(Setup { environment, ..setup }) else { return };
    lab.forces("hooked");
    lab.start();
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
    for reply in ["told by nobody", "nor this one"] {
        let answer = lab.ask_json(&format!("ECHO: {reply}"));
        assert_eq!(answer["settlement"]["reply"].as_str().map(str::trim), Some(reply), "{answer}");
        assert_eq!(answer["settlement"]["ended_by"], "record", "{answer}");
        lab.noticed(&answer);
    }
}

#[test]
fn an_end_that_no_hook_of_codex_tells_is_read_from_its_record() {
    no_hook_tells_the_end(Setup { config: ("", REVIEWED), ..Setup::default() });
}

#[test]
fn an_end_that_no_hook_of_claude_tells_is_read_from_its_record() {
    no_hook_tells_the_end(Setup::claude());
}

#[test]
fn an_end_that_no_hook_of_gemini_tells_is_read_from_its_record() {
    no_hook_tells_the_end(Setup::gemini());
}

/// The limit of output cuts an answer off, always and once: neither CLI's cut text counts as a whole answer.
#[track_caller]
fn cut_off(setup: Setup, rung: &str) {
    let Some(lab) = lab(setup) else { return };
    lab.forces(rung);
    lab.start();
    for (prompt, text) in [("LIMIT: so far and", "so far and"), ("LIMIT 1: half of it,", "half of it,")] {
        let answer = lab.ask_json(prompt);
        let settlement = &answer["settlement"];
        if lab.agent()["provider"] == "claude" && prompt.starts_with("LIMIT 1") {
            // Claude has the model go on by itself: the two texts are one.
            assert_eq!(outcome(&answer), "completed", "{answer}");
            assert_eq!(settlement["reply"], "half of it,RESUMED: half of it,", "{answer}");
        } else {
            assert_eq!(outcome(&answer), "failed/provider", "{answer}");
            assert!(settlement["reply"].as_str().unwrap().starts_with(text), "{answer}");
            let message = settlement["outcome"]["message"].as_str().unwrap();
            assert!(message.contains("max_output_tokens") || message.contains("output token maximum"), "{message}");
        }
        assert_eq!(lab.ask("ECHO: next").ok().trim_end(), "next");
    }
}

#[test]
fn an_answer_that_the_limit_of_output_cuts_off_is_not_whole_for_codex_joined() {
    cut_off(Setup::default(), "joined");
}

#[test]
fn an_answer_that_the_limit_of_output_cuts_off_is_not_whole_for_codex_hooked() {
    cut_off(Setup { config: ("", REVIEWED), ..Setup::default() }, "hooked");
}

#[test]
fn an_answer_that_the_limit_of_output_cuts_off_is_not_whole_for_claude_hooked() {
    cut_off(Setup::claude(), "hooked");
}

#[test]
fn an_answer_that_the_limit_of_output_cuts_off_is_not_whole_for_claude_watched() {
    cut_off(Setup::claude(), "watched");
}
