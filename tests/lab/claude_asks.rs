//! Claude's answers arrive, whole and each at its own asker.

use crate::env::claude::{completed, outcome, whole_both_ways};
use crate::env::{Lab, Setup, lab, until};

/// What a user may have allowed for good, so that no tool asks.
const ALLOWED: &str = r#"{"permissions":{"defaultMode":"default","allow":["Bash(echo:*)","Agent"]}}"#;

/// Asserts that this is answered with that, in one prompt.
#[track_caller]
fn answers(lab: &Lab, prompt: &str, reply: &str) {
    let answer = lab.ask_json(prompt);
    completed(&answer, reply);
    assert_eq!(lab.consumed(answer["id"].as_str().unwrap()), 1, "{prompt}");
}

#[test]
fn claude_answers_twenty_asks_in_a_row() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    for number in 0..20 {
        let token = format!("token-{number}-of-twenty");
        assert_eq!(lab.ask(&format!("ECHO: {token}")).ok(), format!("{token}\n"));
    }
    assert_eq!(lab.user_messages().len(), 20);
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
}

#[test]
fn claude_answers_ten_asks_at_once() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let token = |number: i32| format!("token-{number}-of-ten");
    let going: Vec<_> =
        (0..10).map(|number| lab.begin("ask", &["claude", "-t", "120"], &format!("ECHO: {}", token(number)))).collect();
    for (number, one) in (0..).zip(going) {
        assert_eq!(one.end().ok(), format!("{}\n", token(number)));
    }
    let prompts = lab.user_messages();
    assert_eq!(prompts.len(), 10, "{prompts:#?}");
    for number in 0..10 {
        let with = prompts.iter().filter(|(_, text)| text.contains(&token(number)));
        assert_eq!(with.count(), 1, "{prompts:#?}");
    }
}

#[test]
fn claude_gets_a_prompt_of_200_kb_and_gives_an_answer_of_200_kb() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    whole_both_ways(&lab);
}

#[test]
fn claude_gets_what_a_terminal_would_misread() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    let lines = |count: usize| {
        let lines: Vec<String> = (0..count).map(|number| format!("line {number} of {count}")).collect();
        lines.join("\n")
    };
    for text in [
        "你好，世界 — ñandú 👩‍💻 مرحبا بالعالم",
        &lines(4),
        &lines(40),
        "one\n\nCCB_DONE: 20260101-000000-000-1-1\ntwo\nCCB_DONE: x",
        "$(touch X) `touch X` \"quoted\" 'single' \\n %s #(touch X)",
    ] {
        answers(&lab, &format!("ECHOALL: {text}"), text);
    }
    answers(&lab, "ECHOALL: \u{1b}[31mred \u{1b}[201~ \u{9b}2J end", "\u{fffd}[31mred \u{fffd}[201~ \u{fffd}2J end");
    // Claude itself composes accents and makes blanks of a tab.
    answers(&lab, "ECHOALL: e\u{301}", "é");
    answers(&lab, "ECHOALL: a\ttab", "a    tab");
    for prompt in ["/quit", "/nosuchcommand x", "!touch X", "# heading", "@file it", "-x", "--help"] {
        answers(&lab, prompt, &format!("OK: {prompt}"));
    }
    assert!(!lab.project().join("X").exists() && !lab.home().join("X").exists());
}

#[test]
fn claude_runs_no_command_that_an_unwrapped_prompt_begins_with() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    for prompt in ["/quit", "!touch X", "# heading"] {
        let said = lab.run("ask", &["claude", "--no-wrap", "-t", "120"], prompt).ok();
        assert_eq!(said, format!("OK: {prompt}\n"));
    }
    assert!(!lab.project().join("X").exists());
}

#[test]
fn claudes_answers_of_several_blocks_and_after_several_tools_are_whole() {
    let Some(lab) = lab(Setup { settings: ALLOWED, ..Setup::claude() }) else { return };
    lab.start();
    answers(&lab, "MULTI: echo several", "First block.\n\nSecond block. TOOLDONE: several");
    answers(&lab, "TOOLS 3: echo three", "TOOLDONE: three");
    assert_eq!(lab.model_requests().iter().filter(|line| line["nresults"] == 3).count(), 1);
}

#[test]
fn claude_answers_when_its_agent_in_the_background_has_answered() {
    let Some(lab) = lab(Setup { settings: ALLOWED, ..Setup::claude() }) else { return };
    lab.start();
    let answer = lab.ask_json("AGENT: SLEEP 3: from below");
    assert_eq!(outcome(&answer), "completed", "{answer}");
    assert_eq!(
        answer["settlement"]["reply"],
        "TOOLDONE: from below",
        "{:#}",
        lab.explain(answer["id"].as_str().unwrap())
    );
    assert_eq!(lab.ask("ECHO: and on").ok(), "and on\n");
}

#[test]
fn requests_follow_a_human_who_clears_claudes_conversation() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    answers(&lab, "ECHO: before", "before");
    lab.says("/clear");
    until("the conversation is a new one", || (!lab.screen().contains("ECHO: before")).then_some(()));
    answers(&lab, "ECHO: after", "after");
    let sessions: std::collections::BTreeSet<String> =
        lab.transcript().iter().filter_map(|line| line["sessionId"].as_str().map(str::to_owned)).collect();
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    // The new one is what goes on after a death.
    let old = lab.claude_process();
    lab.kill(old);
    until("its death is known", || (lab.claude_process() != old).then_some(()));
    lab.until_idle();
    answers(&lab, "ECHO: again", "again");
    let _shown = lab.until_shown("ECHO: after");
    assert!(!lab.screen().contains("ECHO: before"), "{}", lab.screen());
}

#[test]
fn requests_follow_a_human_who_compacts_claudes_conversation() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    answers(&lab, "ECHO: before", "before");
    lab.says("/compact");
    until("it is compacted", || {
        lab.transcript().iter().any(|line| line["subtype"] == "compact_boundary").then_some(())
    });
    answers(&lab, "ECHO: after", "after");
}

#[test]
fn a_claude_that_was_killed_resumes_its_conversation() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    answers(&lab, "ECHO: before", "before");
    let session = lab.transcript()[0]["sessionId"].clone();
    lab.kill(lab.claude_process());
    // What is asked before that is known could be on its way into the dead one.
    until("its death is known", || {
        let agent = lab.ccb(&["ps", "--json"]).json()["agents"][0].clone();
        agent["last_error"].as_str().filter(|error| error.contains("signal 9")).map(|_| ())
    });
    answers(&lab, "ECHO: after", "after");
    let _shown = lab.until_shown("ECHO: before");
    let others =
        lab.transcript().into_iter().filter(|line| line["sessionId"].is_string() && line["sessionId"] != session);
    assert_eq!(others.count(), 0);
}

#[test]
fn a_claude_of_a_session_that_was_ended_resumes_its_conversation_if_asked_to() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    answers(&lab, "ECHO: before", "before");
    let _killed = lab.ccb(&["kill"]).ok();
    let _started = lab.ccb(&["--detach", "-r", "claude"]).ok();
    lab.until_idle();
    let _shown = lab.until_shown("ECHO: before");
    answers(&lab, "ECHO: after", "after");
}
