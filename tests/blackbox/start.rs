//! The daemon's life: started by whoever needs it, once; replaced when it hangs; gone when it is not needed.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::env::{Run, Setup, Stub, TestEnv, files_below, signal, until};

/// Counts keepers and workers.
fn daemons(env: &TestEnv) -> (usize, usize) {
    let all = env.processes();
    let daemons = all.iter().filter(|(_, line)| line.contains("/askd "));
    let (workers, keepers): (Vec<_>, Vec<_>) = daemons.partition(|(_, line)| line.contains("--worker"));
    (keepers.len(), workers.len())
}

#[test]
fn thirty_two_clients_at_once_start_one_daemon() {
    let env = TestEnv::new(Setup::default());
    let going: Vec<_> = (0..32).map(|_| env.begin("ccb", &["status", "--json"], "")).collect();
    let mut pids: Vec<Value> = going.into_iter().map(|one| one.end().json()["pid"].clone()).collect();
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
    until("the keepers that were not needed have gone", || (daemons(&env) == (1, 1)).then_some(()));
    assert_eq!(env.status()["generation"], 1);
}

#[test]
fn a_hung_worker_is_replaced_and_its_requests_go_on() {
    let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: a slow answer");
    env.until_request(&id, "working");
    let (worker, keeper) = env.askd();
    let began = Instant::now();
    signal(worker, Signal::STOP);
    let request = going.end().json();
    // Three intervals and three seconds, and room for a machine that has other things to do.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(request["settlement"]["reply"], "a slow answer", "{request:#}");
    let after = env.askd();
    assert!(after.0 != worker && after.1 == keeper);
    let status = env.status();
    assert!(status["last_end"].as_str().unwrap().contains("hung: did not answer"), "{status:#}");
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
}

#[test]
fn a_stopped_keeper_hinders_nobody() {
    let env = TestEnv::start(Setup::default());
    signal(env.askd().1, Signal::STOP);
    assert_eq!(env.ask("stub", "ECHO: all the same").ok(), "all the same\n");
}

#[test]
fn two_projects_do_not_disturb_each_other() {
    let one = TestEnv::start(Setup::of(vec![Stub::new("first")]));
    let elsewhere = one.dir().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join(".ccb")).unwrap();
    let config = std::fs::read_to_string(one.project().join(".ccb/ccb.config")).unwrap();
    std::fs::write(elsewhere.join(".ccb/ccb.config"), config.replace("first", "second")).unwrap();
    // The first project's home in the environment changes nothing.
    let home = one.state();
    let there = |program: &str, args: &[&str]| -> Run {
        one.begin_with(program, args, "", |command| command.current_dir(&elsewhere).env("CCB_RUN_DIR", &home)).end()
    };
    let _trusted = there("ccb", &["trust", "--yes"]).ok();
    let started = there("ccb", &["--detach"]);
    assert!(started.err.contains("CCB_RUN_DIR is ignored"), "{started:?}");
    let _started = started.ok();
    assert_eq!(there("ask", &["second", "ECHO: there"]).ok(), "there\n");
    assert_eq!(one.ask("first", "ECHO: here").ok(), "here\n");
    assert_eq!(there("ask", &["first", "ECHO: nobody"]).code, Some(1));
    let before = one.askd();
    let _killed = there("ccb", &["kill"]).ok();
    assert_eq!(one.ask("first", "ECHO: still here").ok(), "still here\n");
    assert_eq!(one.askd(), before);
    let left: Vec<String> = one.processes().into_iter().map(|(_, line)| line).collect();
    assert!(left.iter().all(|line| !line.contains("elsewhere") && !line.contains("second")), "{left:#?}");
}

#[test]
fn kill_ends_all_that_was_started_and_start_brings_it_back() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("seen"), Stub::blind("blind")]));
    let waiting = env.submit("seen", &[], "SLEEP 30: not to its end");
    env.until_request(&waiting, "working");
    assert_eq!(env.ccb(&["kill"]).ok(), "stopped\n");
    until("nothing is left", || env.processes().is_empty().then_some(()));
    assert_eq!(env.ccb(&["kill"]).ok(), "nothing is running\n");
    let last = last_end(&env.home());
    assert_eq!((&last["status"], &last["exit_code"]), (&"stopped".into(), &0.into()), "{last:#}");
    env.mount();
    let request = env.explain(&waiting)["request"].clone();
    assert_eq!((&request["state"], &request["settlement"]["outcome"]["word"]), (&"settled".into(), &"failed".into()));
    for agent in ["seen", "blind"] {
        assert_eq!(env.ask(agent, "ECHO: anew").ok(), "anew\n");
    }
}

#[test]
fn a_daemon_that_nobody_needs_ends_in_order() {
    let env = TestEnv::new(Setup::default().with("CCB_ASKD_IDLE_TIMEOUT_S", "0.5"));
    assert_eq!(env.status()["unsettled"], 0);
    until("it has ended", || env.processes().is_empty().then_some(()));
    let last = last_end(&env.home());
    assert_eq!(last["status"], "stopped", "{last:#}");
    assert!(last["exit_reason"].as_str().unwrap().starts_with("idle"), "{last:#}");
}

#[test]
fn term_stops_the_daemon_in_order_and_the_agents_bring_it_back() {
    let env = TestEnv::start(Setup::default());
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: through it all");
    env.until_request(&id, "working");
    let (_, keeper) = env.askd();
    signal(keeper, Signal::TERM);
    assert_eq!(going.end().json()["settlement"]["reply"], "through it all");
    assert_ne!(env.askd().1, keeper);
    assert_eq!(env.received("stub", &id), 1);
}

#[test]
fn a_daemon_whose_files_are_deleted_serves_again() {
    for file in ["askd.sock", "askd.json", "askd.last.json", "askd.lock", "keeper.lock"] {
        let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
        let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: through it all");
        env.until_request(&id, "working");
        let (_, before) = env.askd();
        std::fs::remove_file(env.state().join(file)).unwrap();
        assert_eq!(going.end().json()["settlement"]["reply"], "through it all", "{file}");
        assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n", "{file}");
        assert_eq!(env.received("stub", &id), 1);
        if file == "keeper.lock" {
            until("another keeper has adopted the worker", || (env.askd().1 != before).then_some(()));
        }
        until("one keeper watches one worker", || (daemons(&env) == (1, 1)).then_some(()));
        let (worker, keeper) = env.askd();
        assert_eq!(keeper == before, file != "keeper.lock", "{file}");
        env.kill(worker);
        assert_eq!(env.ask("stub", "ECHO: last").ok(), "last\n", "{file}");
        assert_eq!(env.askd().1, keeper, "{file}");
    }
}

#[test]
fn a_worker_that_loses_its_keeper_and_its_socket_at_once_is_replaced() {
    for first in ["askd.sock", "keeper.lock"] {
        let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
        let (id, going) = env.ask_meanwhile("stub", "SLEEP 4: through it all");
        env.until_request(&id, "working");
        let (worker, keeper) = env.askd();
        // In this order the keeper finds its lock gone before it can see that nobody can come in.
        let second = if first == "askd.sock" { "keeper.lock" } else { "askd.sock" };
        for file in [first, second] {
            std::fs::remove_file(env.state().join(file)).unwrap();
        }
        if first == "keeper.lock" {
            env.kill(keeper);
        }
        assert_eq!(going.end().json()["settlement"]["reply"], "through it all", "{first}");
        assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n", "{first}");
        assert_eq!(env.received("stub", &id), 1);
        assert_ne!(env.askd().0, worker, "{first}");
    }
}

#[test]
fn a_worker_that_wakes_when_it_is_given_up_is_replaced() {
    let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
    let (worker, keeper) = env.askd();
    signal(worker, Signal::STOP);
    until("the keeper gives it up", || env.log().contains("did not answer").then_some(()));
    signal(worker, Signal::CONT);
    until("it has ended", || env.processes().iter().all(|(pid, _)| *pid != worker).then_some(()));
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
    assert_eq!(env.askd().1, keeper);
}

#[test]
fn a_daemon_whose_home_is_deleted_makes_room_for_another() {
    let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
    let (worker, keeper) = env.askd();
    std::fs::remove_dir_all(env.state()).unwrap();
    let gone = || env.processes().iter().all(|(pid, _)| *pid != worker && *pid != keeper);
    until("keeper and worker have gone", || gone().then_some(()));
    until("one keeper watches one worker", || (daemons(&env) == (1, 1)).then_some(()));
}

#[test]
fn an_agent_has_one_pane_however_often_it_is_started() {
    let env = TestEnv::new(Setup::default());
    let going: Vec<_> = (0..4).map(|_| env.begin("ccb", &["--detach"], "")).collect();
    for one in going {
        let _started = one.end().ok();
    }
    env.until_state("stub", "idle");
    let runners = || {
        let all = env.processes().into_iter();
        let all = all.filter(|(_, line)| line.contains("/ccb run stub") && !line.starts_with("tmux "));
        all.map(|(pid, _)| pid).collect::<Vec<_>>()
    };
    let before = runners();
    assert_eq!(before.len(), 1, "{before:?}");
    env.kill(before[0]);
    assert_eq!(env.ask("stub", "ECHO: again").ok(), "again\n");
    assert_eq!(runners().len(), 1);
}

#[test]
fn a_configuration_that_breaks_takes_no_agent_away() {
    let env = TestEnv::start(Setup::default());
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: through it all");
    env.until_request(&id, "working");
    env.configure("[agents.");
    env.kill(env.askd().0);
    assert_eq!(going.end().json()["settlement"]["reply"], "through it all");
    assert_eq!(env.ask("stub", "ECHO: next").ok(), "next\n");
}

#[test]
fn clients_that_may_not_start_a_daemon_say_so() {
    let env = TestEnv::new(Setup::default().with("CCB_ASKD_AUTOSTART", "0"));
    env.ccb(&["ps"]).says(1, &["error: ", "CCB_ASKD_AUTOSTART", "hint: "]);
    assert!(env.processes().is_empty());
}

/// Returns what the only daemon of a home says of its end.
fn last_end(home: &Path) -> Value {
    let files = files_below(&home.join(".local/state/ccb"));
    let last = files.iter().find(|path| path.ends_with("askd.last.json")).expect("an end is written down");
    let text = std::fs::read_to_string(last).expect("it can be read");
    serde_json::from_str(&text).expect("it is JSON")
}
