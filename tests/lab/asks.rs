//! Answers arrive, whole and each at its own asker.

use std::time::Instant;

use serde_json::Value;
use sha2::Digest as _;

use crate::env::{Setup, lab, until};

/// Returns the sources and words of the evidence, in its order.
fn evidence(explanation: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = explanation["evidence"].as_array().into_iter().flatten();
    all.map(|fact| (text(&fact["source"]), text(&fact["what"]))).collect()
}

#[test]
fn fifty_asks_in_a_row_get_their_own_answers() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let mut times = Vec::new();
    for number in 0..50 {
        let token = format!("token-{number}-of-fifty");
        let began = Instant::now();
        assert_eq!(lab.ask(&format!("ECHO: {token}")).ok(), format!("{token}\n"));
        times.push(began.elapsed().as_millis());
    }
    times.sort_unstable();
    assert!(times[25] < 1000, "milliseconds: {times:?}");
    assert_eq!(lab.user_messages().len(), 50);
}

#[test]
fn twenty_asks_at_once_get_their_own_answers() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let token = |number: i32| format!("token-{number}-of-twenty");
    let going: Vec<_> =
        (0..20).map(|number| lab.begin("ask", &["codex", "-t", "120"], &format!("ECHO: {}", token(number)))).collect();
    for (number, one) in (0..).zip(going) {
        assert_eq!(one.end().ok(), format!("{}\n", token(number)));
    }
    for number in 0..20 {
        assert_eq!(lab.model_saw(&format!("ECHO: {}\n", token(number))), 1, "{number}");
    }
}

#[test]
fn a_prompt_and_an_answer_of_200_kb_arrive_whole() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let mut prompt = "SIZE of this, 你好\n".to_owned();
    let lines = (0..).map(|number| format!("{number:06} the quick brown fox jumps over the lazy dog\n"));
    prompt.extend(lines.take_while({
        let mut length = 0;
        move |line| {
            length += line.len();
            length < 200 * 1024
        }
    }));
    let prompt = prompt.trim_end();
    let hash = sha2::Sha256::digest(prompt.as_bytes());
    let hash = u64::from_be_bytes(hash[..8].try_into().unwrap());
    let said = lab.run("ask", &["codex", "--no-wrap", "-t", "120"], prompt).ok();
    assert_eq!(said, format!("SIZE {} chars {} bytes sha256={hash:016x}\n", prompt.chars().count(), prompt.len()));
    assert_eq!(lab.user_messages()[0].1, prompt);
    let long = lab.ask("LONG 200").ok();
    assert_eq!(long.len(), 200 * 1024 + "\nEND-OF-LONG\n".len());
    assert!(long.starts_with("000000 0123456789 abc") && long.ends_with("\nEND-OF-LONG\n"));
}

#[test]
fn prompts_that_a_terminal_would_misread_arrive_whole() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let wrapped = [
        "ECHOALL: 你好，世界 — ñandú 👩‍💻 e\u{301}",
        "ECHOALL: one\n\nCCB_DONE: 20260101-000000-000-1-1\ntwo\nCCB_DONE: x",
        "ECHOALL: \u{1b}[31mred\u{1b}[0m \u{1b}[201~ \u{9b}2J \u{1}\u{7} tab\tend",
        "ECHOALL: $(touch X) `touch X` \"quoted\" 'single' \\n %s #(touch X)",
    ];
    for prompt in wrapped {
        let answer = lab.ask_json(prompt);
        let want = prompt.strip_prefix("ECHOALL: ").unwrap();
        assert_eq!(answer["settlement"]["reply"].as_str().unwrap().trim_end(), want, "{answer}");
        assert_eq!(answer["settlement"]["outcome"]["word"], "completed");
    }
    for prompt in ["/quit", "/nosuchcommand x", "!touch X", "# heading", "@file it", "-x", "--help"] {
        let said = lab.run("ask", &["codex", "--no-wrap", "-t", "120"], prompt).ok();
        assert_eq!(said, format!("OK: {prompt}\n"));
        assert_eq!(lab.ask(prompt).ok(), format!("OK: {prompt}\n"));
    }
    assert!(!lab.project().join("X").exists() && !lab.home().join("X").exists());
}

#[test]
fn explain_shows_each_step_of_a_request_with_its_time() {
    let Some(lab) = lab(Setup::default()) else { return };
    lab.start();
    let id = lab.ask_json("ECHO: hello")["id"].as_str().unwrap().to_owned();
    let explanation = until("the answer is acknowledged", || {
        let explanation = lab.explain(&id);
        explanation["request"]["delivered"].is_number().then_some(explanation)
    });
    let facts = evidence(&explanation);
    let at = |source: &str, word: &str| {
        let found = facts.iter().position(|(from, what)| from == source && what.contains(word));
        found.unwrap_or_else(|| panic!("no `{word}` from {source}: {facts:#?}"))
    };
    let steps = [
        at("client", "accepted"),
        at("askd", "queued"),
        at("askd", "offering"),
        at("protocol", "consumed"),
        at("agent", "turn ended (by protocol)"),
        at("askd", "settled: completed"),
        at("client", "delivered"),
    ];
    assert!(steps.is_sorted(), "{facts:#?}");
    let times: Vec<i64> =
        explanation["evidence"].as_array().unwrap().iter().map(|fact| fact["at"].as_i64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let turn = explanation["request"]["turn"].as_str().unwrap();
    assert_eq!(explanation["evidence"][steps[3]]["turn"], turn);
    let text = lab.ccb(&["explain", &id]).ok();
    for word in ["accepted", "queued", "offering", "consumed", "by protocol", "delivered", turn, " ms"] {
        assert!(text.contains(word), "`{word}`: {text}");
    }
}
