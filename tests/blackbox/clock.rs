//! The wall clock is set, the machine sleeps: deadlines, order and ids stay right.

use serde_json::Value;

use crate::asks::outcome;
use crate::env::{Setup, TestEnv, until};

const DAY: i64 = 24 * 3600 * 1000;

/// Has the wall clock, and the time since boot, show so many milliseconds more.
fn skew(env: &TestEnv, wall: i64, boot: i64) {
    std::fs::write(env.dir().join("skew.new"), format!("{wall} {boot}")).expect("it is there, and can be used");
    std::fs::rename(env.dir().join("skew.new"), env.dir().join("skew")).expect("it is there, and can be used");
}

fn world() -> TestEnv {
    // Its agent does not run: what is asked waits.
    TestEnv::new(Setup::default().with("CCB_CLOCK_SKEW", "{world}/skew"))
}

fn now(env: &TestEnv) -> i64 {
    env.status()["now"].as_i64().expect("it is there, and can be used")
}

/// Has another worker take over.
fn restart(env: &TestEnv) {
    let (worker, _) = env.askd();
    env.kill(worker);
    until("another worker serves", || (env.askd().0 != worker).then_some(()));
}

#[track_caller]
fn near(what: &str, left: i64, right: i64) {
    assert!((left - right).abs() < 60_000, "{what}: {left} and {right}");
}

fn set_by(by: i64) {
    let env = world();
    let first = env.submit("stub", &["-t", "5"], "ECHO: never sent");
    let before = now(&env);
    skew(&env, by, 0);
    near("the clock of a worker at work does not jump", now(&env), before);
    restart(&env);
    near("the next worker's goes on", now(&env), before);
    let second = env.submit("stub", &["-t", "600"], "ECHO: the second");
    let request = env.settled(&first);
    assert_eq!(outcome(&request, "incomplete"), "deadline");
    let time = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("{request:#}"));
    let took = time(&request["settlement"]["at"]) - time(&request["accepted"]);
    assert!((5_000..30_000).contains(&took), "{took}");
    assert_eq!(env.requests(), std::slice::from_ref(&second), "the other is not over");
    let third = env.submit("stub", &["-t", "600"], "ECHO: the third");
    assert_eq!(env.requests(), [second.clone(), third.clone()], "the order of acceptance");
    for id in [second, third] {
        let _cancelled = env.ccb(&["cancel", &id]).ok();
    }
    // Nobody counts on the old time any more.
    restart(&env);
    near("the wall clock is right again", now(&env), before + by.max(0));
}

#[test]
fn the_wall_clock_set_forward_by_a_day_moves_no_deadline() {
    set_by(DAY);
}

#[test]
fn the_wall_clock_set_back_by_a_day_moves_no_deadline() {
    set_by(-DAY);
}

#[test]
fn a_deadline_that_passes_while_the_machine_sleeps_ends_its_request_at_once() {
    let env = world();
    let short = env.submit("stub", &["-t", "3600"], "ECHO: never sent");
    let long = env.submit("stub", &["-t", "14400"], "ECHO: later");
    let (worker, keeper) = env.askd();
    skew(&env, 2 * 3_600_000, 2 * 3_600_000);
    let request = env.settled(&short);
    assert_eq!(outcome(&request, "incomplete"), "deadline");
    assert_eq!(env.requests(), std::slice::from_ref(&long));
    assert_eq!(env.askd(), (worker, keeper), "a sleep is no hang");
    let before = now(&env);
    restart(&env);
    near("the next worker's clock goes on", now(&env), before);
    assert_eq!(env.requests(), [long]);
}
