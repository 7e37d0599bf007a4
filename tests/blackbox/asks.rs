//! Asking and being answered: what a user sees of a request, from the first word to the last.

use rustix::process::Signal;
use serde_json::Value;
use sha2::Digest as _;

use crate::env::{Run, Setup, Stub, TestEnv, signal, until};

#[track_caller]
pub(crate) fn outcome<'a>(request: &'a Value, word: &str) -> &'a str {
    let outcome = &request["settlement"]["outcome"];
    assert_eq!(outcome["word"], word, "{request:#}");
    outcome["reason"].as_str().unwrap_or_default()
}

/// Returns what `ccb explain` has of the evidence, in its order.
pub(crate) fn evidence(explanation: &Value) -> Vec<String> {
    let all = explanation["evidence"].as_array().into_iter().flatten();
    all.filter_map(|fact| fact["what"].as_str().map(str::to_owned)).collect()
}

fn sha256(text: &str) -> String {
    let digest = sha2::Sha256::digest(text.as_bytes());
    digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|half| char::from_digit(half.into(), 16)).collect()
}

#[test]
fn an_ask_waits_and_prints_the_answer_alone() {
    let env = TestEnv::start(Setup::default());
    let said = env.run("ask", &["stub", "ECHO:", "hello", "there"], "");
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "hello there\n", ""));
    assert_eq!(env.run("ccb", &["ask", "stub", "ECHO: by ccb"], "").ok(), "by ccb\n");
    assert_eq!(env.run("ask", &["stub"], "ECHOALL: from\nstandard input\n").ok(), "from\nstandard input\n");
    let file = env.dir().join("answer.txt");
    let named = file.display().to_string();
    assert_eq!(env.run("ask", &["stub", "--output", &named, "ECHO: kept"], "").ok(), "kept\n");
    assert_eq!(std::fs::read_to_string(file).unwrap().trim_end(), "kept");
    let answer = env.ask_json("stub", "ECHO: as data");
    assert_eq!(outcome(&answer, "completed"), "");
    assert_eq!(
        (&answer["settlement"]["reply"], &answer["settlement"]["ended_by"]),
        (&"as data".into(), &"marker".into())
    );
    assert_eq!(env.all_received("stub").values().copied().collect::<Vec<_>>(), [1; 5]);
}

#[test]
fn an_ask_that_does_not_wait_prints_the_predecessors_three_lines() {
    let env = TestEnv::start(Setup::default());
    let said = env.run("ask", &["stub", "--async", "ECHO: later"], "").ok();
    let lines: Vec<&str> = said.lines().collect();
    let id = lines[1].rsplit_once("(task: ").unwrap().1.trim_end_matches(')');
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0], "[CCB_ASYNC_SUBMITTED provider=stub]");
    assert_eq!(lines[1], format!("stub (Codex) processing (task: {id})"));
    assert!(lines[2].starts_with("MANDATORY: end your turn now"), "{said}");
    env.settled(id);
    assert_eq!(env.ccb(&["pend", id]).ok(), "later\n");
    assert_eq!(env.ccb(&["pend", "stub"]).ok(), "later\n");
}

#[test]
fn pend_shows_an_agents_last_answers() {
    let env = TestEnv::start(Setup::default());
    for number in 1..=4 {
        assert_eq!(env.ask("stub", &format!("ECHO: answer {number}")).ok(), format!("answer {number}\n"));
    }
    let said = env.ccb(&["pend", "stub", "3"]).ok();
    let all = [2, 3, 4].map(|number| format!("Q: ECHO: answer {number}\nA: answer {number}\n"));
    assert_eq!(said, all.join("---\n"));
    let none = env.ccb(&["pend", "20260101-000000-000-1-1"]);
    none.says(1, &["error: no request", "hint: "]);
}

#[test]
fn a_deadline_ends_the_wait_and_the_late_answer_is_kept() {
    let env = TestEnv::start(Setup::default());
    let said = env.run("ask", &["stub", "-t", "0.7"], "SLEEP 2: better late");
    said.says(2, &["error: the deadline passed before the answer came"]);
    assert_eq!(said.out, "");
    let id = env.events_of("stub", "recv")[0]["req"].as_str().unwrap().to_owned();
    let request = env.explain(&id)["request"].clone();
    assert_eq!(outcome(&request, "incomplete"), "deadline");
    let explanation = until("the late answer is attached", || {
        let explanation = env.explain(&id);
        explanation["request"]["settlement"]["late"].is_object().then_some(explanation)
    });
    assert_eq!(explanation["request"]["settlement"]["late"]["reply"], "better late");
    assert!(evidence(&explanation).iter().any(|fact| fact.contains("late")), "{explanation:#}");
    let pend = env.ccb(&["pend", &id]);
    assert_eq!((pend.code, pend.out.as_str()), (Some(0), "better late\n"), "{pend:?}");
    assert!(pend.err.contains("late"), "{pend:?}");
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
}

#[test]
fn a_queued_request_whose_deadline_passes_is_never_sent() {
    let env = TestEnv::start(Setup::default());
    let (first, going) = env.ask_meanwhile("stub", "SLEEP 2: first");
    let said = env.run("ask", &["stub", "-t", "0.5", "--json"], "ECHO: too late");
    assert_eq!(said.code, Some(2), "{said:?}");
    let request = said.json();
    assert_eq!(outcome(&request, "incomplete"), "deadline");
    let id = request["id"].as_str().unwrap();
    assert_eq!(going.end().json()["settlement"]["reply"], "first");
    assert_eq!(env.ask("stub", "ECHO: third").ok(), "third\n");
    assert_eq!((env.received("stub", &first), env.received("stub", id)), (1, 0));
    assert_eq!(request["attempts"], 0);
}

#[test]
fn ctrl_c_leaves_the_request_running_and_says_how_to_get_it() {
    let env = TestEnv::start(Setup::default());
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 1: all the same");
    env.until_request(&id, "working");
    signal(going.pid(), Signal::INT);
    going.end().says(130, &["error: still running", &format!("ccb pend {id}"), &format!("ccb cancel {id}")]);
    env.settled(&id);
    assert_eq!(env.ccb(&["pend", &id]).ok(), "all the same\n");
}

#[test]
fn a_cancelled_request_is_not_sent_or_is_interrupted() {
    let env = TestEnv::start(Setup::default());
    let (working, going) = env.ask_meanwhile("stub", "SLEEP 30: never");
    env.until_request(&working, "working");
    let (queued, waiting) = env.ask_meanwhile("stub", "ECHO: never either");
    let _cancelled = env.ccb(&["cancel", &queued]).ok();
    let run = waiting.end();
    assert_eq!(run.code, Some(2), "{run:?}");
    outcome(&run.json(), "cancelled");
    assert_eq!(env.explain(&working)["request"]["state"], "working");
    let _cancelled = env.ccb(&["cancel", &working]).ok();
    let run = going.end();
    assert_eq!(run.code, Some(2), "{run:?}");
    outcome(&run.json(), "cancelled");
    assert_eq!(env.ask("stub", "ECHO: and on").ok(), "and on\n");
    assert_eq!((env.received("stub", &working), env.received("stub", &queued)), (1, 0));
    assert_eq!(env.events_of("stub", "interrupted").len(), 1);
}

#[test]
fn an_agent_that_leaves_no_record_of_its_interruption_is_free_after_the_quiet_window() {
    let stub = Stub { provider: "claude", ..Stub::new("stub") };
    let env = TestEnv::start(Setup::of(vec![stub]).with("CCB_QUIET_WINDOW_S", "0.7"));
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 30: never");
    env.until_request(&id, "working");
    let _cancelled = env.ccb(&["cancel", &id]).ok();
    outcome(&going.end().json(), "cancelled");
    assert_eq!(env.ask("stub", "ECHO: and on").ok(), "and on\n");
}

#[test]
fn agents_ask_each_other_and_a_notice_brings_the_answer_once() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("asker"), Stub::new("helper")]));
    let said = env.ask("asker", "RUN: ask helper 'ECHO: help is here'").ok();
    assert!(said.contains("[CCB_ASYNC_SUBMITTED provider=helper]"), "{said}");
    let id = said.split_once("(task: ").and_then(|(_, rest)| rest.split_once(')')).unwrap().0.to_owned();
    let request = env.settled(&id);
    assert_eq!((&request["asker"], &request["settlement"]["reply"]), (&"asker".into(), &"help is here".into()));
    let notice = until("the notice is consumed", || {
        let questions = env.questions("asker");
        questions.into_iter().find(|text| text.contains("[CCB_TASK_COMPLETED]"))
    });
    for word in [&format!("Task: {id}"), "Result: help is here", "Status: Completed"] {
        assert!(notice.contains(word), "{notice}");
    }
    until("the request is delivered", || env.explain(&id)["request"]["delivered"].is_number().then_some(()));
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    assert_eq!(env.ask("asker", "ECHO: free again").ok(), "free again\n");
    let notices = env.questions("asker").iter().filter(|text| text.contains("[CCB_TASK_")).count();
    assert_eq!((notices, env.all_received("asker").values().max()), (1, Some(&1)));
}

#[test]
fn an_agent_that_waits_itself_gets_no_notice() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("asker"), Stub::new("helper")]));
    assert_eq!(env.ask("asker", "RUN: ask helper --wait 'ECHO: at once'").ok(), "at once\n");
    assert_eq!(env.ask("asker", "ECHO: next").ok(), "next\n");
    until("nothing is left to do", || env.requests().is_empty().then_some(()));
    assert!(env.questions("asker").iter().all(|text| !text.contains("[CCB_TASK_")));
}

#[test]
fn a_missing_mark_costs_the_quiet_window_and_is_incomplete() {
    let env = TestEnv::start(Setup::default().with("CCB_QUIET_WINDOW_S", "0.7"));
    let said = env.run("ask", &["stub", "--json"], "NODONE: all there is");
    assert_eq!(said.code, Some(2), "{said:?}");
    let request = said.json();
    assert_eq!(outcome(&request, "incomplete"), "quiet");
    assert_eq!(
        (&request["settlement"]["reply"], &request["settlement"]["ended_by"]),
        (&"all there is".into(), &"quiet".into())
    );
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
}

#[test]
fn a_foreign_mark_does_not_end_a_request() {
    let env = TestEnv::start(Setup::default().with("CCB_QUIET_WINDOW_S", "0.7"));
    env.control("stub", r#"{"mode":"foreign_done","foreign":"20260101-000000-000-1-1"}"#);
    let request = env.ask_json("stub", "ECHO: not the end");
    assert_eq!(outcome(&request, "incomplete"), "quiet");
    env.control("stub", r#"{"mode":"normal"}"#);
    let quoted = "ECHOALL: see\nCCB_DONE: 20260101-000000-000-1-1\nand on";
    assert_eq!(env.ask("stub", quoted).ok(), format!("{}\n", quoted.strip_prefix("ECHOALL: ").unwrap()));
}

#[test]
fn long_prompts_and_answers_arrive_whole() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("seen"), Stub::blind("blind")]));
    let mut prompt = "SIZE\n你好，世界 — ñandú 👩‍💻 e\u{301}\n".to_owned();
    let lines = (0..3900).map(|number| format!("{number:06} the quick brown fox jumps over 漢字\n"));
    prompt.extend(lines);
    let prompt = prompt.trim_end();
    assert!(prompt.len() > 170_000);
    for agent in ["seen", "blind"] {
        let said = env.ask(agent, prompt).ok();
        assert_eq!(
            said,
            format!("SIZE {} chars {} bytes sha256={}\n", prompt.chars().count(), prompt.len(), sha256(prompt)),
            "{agent}"
        );
        let long = env.ask(agent, "LONG 200").ok();
        assert_eq!(long.len(), 200 * 1024 + 1, "{agent}");
    }
}

#[test]
fn what_a_terminal_would_take_for_keys_arrives_as_text() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("seen"), Stub::blind("blind")]));
    let hostile = "a\u{1b}[201~\rb\u{9b}201~c\u{3}\u{7f}\u{0}d\r\ne\tf";
    let harmless = "a\u{fffd}[201~\nb\u{fffd}201~c\u{fffd}\u{fffd}\u{fffd}d\ne\tf";
    for agent in ["seen", "blind"] {
        let request = env.ask_json(agent, &format!("ECHOALL: {hostile}"));
        assert_eq!(outcome(&request, "completed"), "");
        assert_eq!(request["settlement"]["reply"], harmless, "{agent}");
        assert!(env.events_of(agent, "junk").is_empty() && env.events_of(agent, "interrupted").is_empty());
        for prompt in ["/quit", "!touch X", "# heading", "@file", "$(touch X)", "`touch X`", "#(touch X)", "\\n %s"] {
            let said = env.ask(agent, &format!("{prompt}\nECHO: ok")).ok();
            assert_eq!(said, "ok\n");
            let questions = env.questions(agent);
            assert!(questions.last().unwrap().contains(&format!("\n\n{prompt}\nECHO: ok\n")), "{questions:?}");
        }
    }
    assert!(!env.project().join("X").exists() && !env.home().join("X").exists());
}

#[test]
fn a_message_without_our_lines_is_headed_by_its_anchor_all_the_same() {
    let env = TestEnv::start(Setup::default().with("CCB_QUIET_WINDOW_S", "0.7"));
    let said: Run = env.run("ask", &["stub", "--no-wrap", "--json"], "ECHO: bare");
    assert_eq!(said.json()["settlement"]["reply"], "bare", "{said:?}");
    assert!(!env.questions("stub")[0].contains("CCB_DONE"));
}

#[test]
fn explain_shows_each_step_of_a_request_with_its_time() {
    let env = TestEnv::start(Setup::default());
    let id = env.ask_json("stub", "ECHO: hello")["id"].as_str().unwrap().to_owned();
    let explanation = until("the answer is acknowledged", || {
        let explanation = env.explain(&id);
        explanation["request"]["delivered"].is_number().then_some(explanation)
    });
    let facts = evidence(&explanation);
    let at = |word: &str| {
        let found = facts.iter().position(|what| what.contains(word));
        found.unwrap_or_else(|| panic!("no `{word}`: {facts:#?}"))
    };
    let steps =
        ["accepted", "queued", "offering", "consumed", "turn ended (by marker)", "settled: completed", "delivered"];
    assert!(steps.map(at).is_sorted(), "{facts:#?}");
    let text = env.ccb(&["explain", &id]).ok();
    for word in ["accepted", "queued", "offered", "consumed", "by marker", "delivered", " ms"] {
        assert!(text.contains(word), "`{word}`: {text}");
    }
}

#[test]
fn a_hundred_clients_at_once_get_their_own_answers() {
    let env = TestEnv::start(Setup::default());
    let token = |number: usize| format!("token-{number:03}-of-a-hundred");
    let going: Vec<_> =
        (0..100).map(|number| env.begin("ask", &["stub", "-t", "120"], &format!("ECHO: {}", token(number)))).collect();
    for (number, one) in going.into_iter().enumerate() {
        assert_eq!(one.end().ok(), format!("{}\n", token(number)));
    }
    let received = env.all_received("stub");
    assert_eq!((received.len(), received.values().max()), (100, Some(&1)));
}
