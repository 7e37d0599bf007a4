//! Turns that do not end with an answer: cancelled, or failed at the provider.

use crate::env::{Setup, lab, until};

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
