//! Which keys reach an agent's terminal: the paste, one Enter when the composer shows it alone, and nothing else.

use crate::asks::outcome;
use crate::env::{Setup, Stub, TestEnv, until};

/// Returns what a stub's log of keys holds if its questions were pasted and submitted, and nothing else came.
fn pasted(env: &TestEnv, agent: &str) -> String {
    let paste = |text: &String| format!("\\x1b[200~{}\\x1b[201~\\x0d", text.trim_end().replace('\n', "\\x0d"));
    env.questions(agent).iter().map(paste).collect()
}

/// Starts a stub that is not idle, and returns why.
fn waiting(stub: Stub) -> (TestEnv, String) {
    let agent = stub.name;
    let env = TestEnv::new(Setup::of(vec![stub]).with("CCB_PROOF_GRACE_S", "1"));
    let _started = env.ccb(&["--detach"]).ok();
    let why = env.until_state(agent, "waiting for you");
    (env, why)
}

#[test]
fn a_drawn_composer_gets_the_paste_and_one_enter() {
    let env = TestEnv::start(Setup::of(vec![
        Stub::new("seen"),
        Stub::blind("blind"),
        Stub::blind("plain").with(&["--ui", "plain"]),
    ]));
    for agent in ["seen", "blind", "plain"] {
        for message in ["ECHO: one line", "ECHO: a paste that\nis collapsed\nas it has\nmany lines"] {
            let _answer = env.ask(agent, message).ok();
        }
        assert_eq!(env.questions(agent).len(), 2);
        assert_eq!(env.keys(agent), pasted(&env, agent), "{agent}");
    }
}

#[test]
fn a_humans_draft_is_left_alone_until_it_is_gone() {
    let (env, why) = waiting(Stub::new("stub").with(&["--draft", "half a thought"]));
    assert!(why.contains("text in its composer"), "{why}");
    let ids: Vec<String> = (0..10).map(|number| env.submit("stub", &[], &format!("ECHO: answer {number}"))).collect();
    let why = until("the request says what it waits for", || {
        let overview = env.ps();
        overview["requests"][0]["why"].as_str().map(str::to_owned)
    });
    assert!(why.contains("text in its composer"), "{why}");
    let shown = env.ccb(&["ps"]).ok();
    assert!(shown.contains("waiting for you") && shown.contains("text in its composer"), "{shown}");
    // A successor leaves it alone as well.
    env.kill(env.askd().0);
    env.until_state("stub", "waiting for you");
    assert!(env.screen("stub").contains("❯ half a thought"), "{}", env.screen("stub"));
    assert_eq!(env.keys("stub"), "");
    env.presses("stub", &["C-u"]);
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(env.settled(id)["settlement"]["reply"], format!("answer {number}"));
        assert_eq!(env.received("stub", id), 1);
    }
    assert_eq!(env.keys("stub"), format!("\\x15{}", pasted(&env, "stub")));
}

#[test]
fn what_a_human_adds_behind_our_text_before_its_enter_is_told_as_mixed() {
    let setup = Setup::of(vec![Stub::blind("stub")]).with("CCB_FAILPOINT", "paste.enter=wait:{world}/go");
    let env = TestEnv::start(setup);
    let going = env.begin("ask", &["stub", "-t", "60", "--json"], "ECHO: ours");
    until("Enter is held", || env.dir().join("go.reached").exists().then_some(()));
    env.presses("stub", &["-l", " and mine"]);
    until("it is typed", || env.keys("stub").ends_with(" and mine").then_some(()));
    std::fs::write(env.dir().join("go"), "").unwrap();
    let request = going.end().json();
    assert_eq!(outcome(&request, "incomplete"), "mixed");
    assert_eq!(request["settlement"]["reply"], "ours");
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
}

#[test]
fn a_draft_that_is_typed_while_requests_come_and_go_survives_them() {
    let env = TestEnv::start(Setup::default());
    let (first, going) = env.ask_meanwhile("stub", "SLEEP 1: first");
    env.until_request(&first, "working");
    let next = env.submit("stub", &[], "ECHO: next");
    env.presses("stub", &["-l", "my own words"]);
    assert_eq!(going.end().json()["settlement"]["reply"], "first");
    let why = env.until_state("stub", "waiting for you");
    assert!(why.contains("composer"), "{why}");
    assert_eq!(env.pressed("stub"), "\\x0dmy own words");
    // The human sends it: it is the agent's next turn, and the request comes after it.
    env.presses("stub", &["Enter"]);
    assert_eq!(env.settled(&next)["settlement"]["reply"], "next");
    assert_eq!(env.events_of("stub", "junk")[0]["head"], "my own words");
    assert_eq!(env.pressed("stub"), "\\x0dmy own words\\x0d\\x0d");
}

#[test]
fn a_humans_own_turn_is_not_typed_into() {
    let env = TestEnv::start(Setup::default());
    env.presses("stub", &["-l", "SLEEP 2: mine"]);
    env.presses("stub", &["Enter"]);
    until("the human's turn has begun", || env.screen("stub").contains("working").then_some(()));
    assert_eq!(env.ask("stub", "ECHO: after it").ok(), "after it\n");
    assert!(env.events_of("stub", "queued_while_busy").is_empty(), "{:?}", env.events("stub"));
}

#[test]
fn no_enter_is_pressed_into_a_dialog() {
    let env =
        TestEnv::start(Setup::of(vec![Stub::new("stub").with(&["--dialog-on-paste"])]).with("CCB_PROOF_GRACE_S", "1"));
    let request = env.ask_json("stub", "ECHO: behind the dialog");
    assert_eq!(outcome(&request, "failed"), "unknown-delivery");
    let id = request["id"].as_str().unwrap();
    let why = env.until_state("stub", "waiting for you");
    assert!(why.contains("dialog"), "{why}");
    assert!(env.explain(id).to_string().contains("a dialog is open"), "{:#}", env.explain(id));
    assert_eq!(env.pressed("stub"), "");
    assert_eq!((env.events_of("stub", "dialog_open").len(), env.events_of("stub", "dialog_enter").len()), (1, 0));
    // The human decides, and submits what is there: the answer comes late.
    env.presses("stub", &["y"]);
    env.presses("stub", &["Enter"]);
    until("the late answer is attached", || {
        (env.explain(id)["request"]["settlement"]["late"]["reply"] == "behind the dialog").then_some(())
    });
    assert_eq!(env.received("stub", id), 1);
    env.until_state("stub", "idle");
}

#[test]
fn a_small_pane_gets_the_same_keys() {
    let env = TestEnv::start(Setup::default());
    let _resized = env.tmux(&["resize-window", "-t", "ccb:", "-x", "40", "-y", "10"]).ok();
    until("the stub has drawn itself anew", || {
        let shown = env.screen("stub");
        (shown.lines().any(|line| line.chars().count() == 40) && shown.contains("idle")).then_some(())
    });
    let long = format!("ECHO: {}", "a line that is wider than the pane by far ".repeat(20).trim_end());
    for message in ["ECHO: short", &long, &"many\nlines\n".repeat(50)] {
        let answer = env.ask_json("stub", message);
        outcome(&answer, "completed");
    }
    assert_eq!(env.keys("stub"), pasted(&env, "stub"));
}

#[test]
fn nothing_is_typed_while_a_human_scrolls() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("seen"), Stub::blind("blind")]));
    for agent in ["seen", "blind"] {
        let pane = env.pane(agent);
        let _scrolls = env.tmux(&["copy-mode", "-t", &pane]).ok();
        let id = env.submit(agent, &[], "ECHO: after it");
        until("the reason is told", || env.ps().to_string().contains("scrolled or copied from").then_some(()));
        assert_eq!(env.keys(agent), "");
        let _done = env.tmux(&["send-keys", "-t", &pane, "-X", "cancel"]).ok();
        let request = env.settled(&id);
        assert_eq!(request["settlement"]["reply"], "after it");
        assert_eq!(env.keys(agent), pasted(&env, agent));
        // It was offered again only when the reason had gone.
        assert!(request["attempts"].as_u64().unwrap() <= 3, "{request:#}");
    }
}

#[test]
fn a_program_that_does_not_read_yet_is_waited_for() {
    let slow = &["--ready-delay", "1"];
    let env = TestEnv::new(Setup::of(vec![Stub::new("seen").with(slow), Stub::blind("blind").with(slow)]));
    let _started = env.ccb(&["--detach"]).ok();
    for agent in ["seen", "blind"] {
        assert_eq!(env.ask(agent, "ECHO: ready").ok(), "ready\n");
        assert_eq!(env.keys(agent), pasted(&env, agent));
    }
}
