//! The keeper at work: what kills a worker, what hangs it, and what only looks like that.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ccb_core::wire;
use rustix::process::Signal;
use serde_json::Value;

use crate::env::{SOON, Setup, Stub, TestEnv, signal, until, within};

/// Returns what the home says of the last worker.
pub(crate) fn last(state: &std::path::Path) -> Value {
    std::fs::read_to_string(state.join("askd.last.json"))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Returns a world with a fail point that acts once, when the mark is removed.
fn armed_later(point: &str) -> TestEnv {
    let setup = Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1").with("CCB_FAILPOINT", point);
    let env = TestEnv::new(setup);
    std::fs::write(env.dir().join("mark"), "").expect("a mark");
    env.mount();
    env
}

#[test]
fn five_kills_from_outside_within_thirty_seconds_are_all_survived() {
    let env = TestEnv::start(Setup::default());
    let (_, keeper) = env.askd();
    let began = Instant::now();
    for round in 0..5 {
        let before = env.askd().0;
        env.kill(before);
        assert_eq!(env.ask("stub", &format!("ECHO: {round}")).ok(), format!("{round}\n"));
        let (worker, same) = env.askd();
        assert!(worker != before && same == keeper, "round {round}");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(env.status()["restarts"], 5);
}

#[test]
fn a_wedged_engine_is_replaced_though_its_socket_answers() {
    let env = armed_later("engine.before-commit=hang:{world}/mark");
    let (worker, keeper) = env.askd();
    std::fs::remove_file(env.dir().join("mark")).unwrap();
    let going = env.begin("ask", &["stub", "-t", "60"], "ECHO: after the wedge");
    until("the edge is reached", || env.dir().join("mark").exists().then_some(()));
    assert_eq!(env.status()["silent"], true);
    assert_eq!(going.end().ok(), "after the wedge\n");
    let after = env.askd();
    assert!(after.0 != worker && after.1 == keeper);
    let status = env.status();
    assert!(status["last_end"].as_str().unwrap().contains("hung: did not answer 3 pings"), "{status:#}");
    assert_eq!(env.all_received("stub").values().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_commit_that_the_disk_holds_up_is_no_hang() {
    let env = armed_later("store.commit=stall:10:{world}/mark");
    let before = env.askd();
    std::fs::remove_file(env.dir().join("mark")).unwrap();
    let going: Vec<_> =
        (0..5).map(|n| env.begin("ask", &["stub", "-t", "60"], &format!("ECHO: after the stall {n}"))).collect();
    until("the edge is reached", || env.dir().join("mark").exists().then_some(()));
    let status = until("status tells of it", || Some(env.status()).filter(|s| s["stalled_ms"].as_u64() > Some(3000)));
    assert_eq!(status["silent"], true, "{status:#}");
    for (n, one) in going.into_iter().enumerate() {
        assert_eq!(one.end().ok(), format!("after the stall {n}\n"));
    }
    assert_eq!(env.askd(), before, "it was replaced");
    until("the log tells of the end", || env.log().contains("does not wait for the disk any more").then_some(()));
    assert_eq!(env.log().matches("waits for the disk in a commit").count(), 1);
}

#[test]
fn a_stopped_worker_is_replaced_within_three_intervals_and_three_seconds() {
    let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "2"));
    let state = env.state();
    let (worker, _) = env.askd();
    signal(worker, Signal::STOP);
    let began = Instant::now();
    until("another serves", || {
        let last = last(&state);
        (last["status"] == "running" && last["pid"] != worker).then_some(())
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(9 + 3), "{took:?}");
    let status = env.status();
    assert!(status["last_end"].as_str().unwrap().contains("hung: did not answer 3 pings"), "{status:#}");
}

#[test]
fn a_worker_that_dies_at_its_start_is_tried_five_times_and_again_with_the_next_request() {
    let setup = Setup::default().with("CCB_FAILPOINT", "worker.start=panic-while:{world}/cause");
    let env = TestEnv::start(setup);
    std::fs::write(env.dir().join("cause"), "").unwrap();
    let starts = || env.log().matches("as CCB_FAILPOINT demands at worker.start").count();
    env.kill(env.askd().0);
    until("the breaker is open", || env.log().contains("5 times in a row").then_some(()));
    env.run("ask", &["stub", "-t", "60"], "ECHO: x").says(1, &["5 times in a row", "panicked at", "failpoint.rs:"]);
    env.ccb(&["status"]).says(1, &["5 times in a row", "panicked at", "failpoint.rs:"]);
    // The pane's runner waits longer and longer before it starts another, if it has not heard of this one.
    let before = starts();
    assert!(within(Duration::from_secs(6), || (starts() > before + 5).then_some(())).is_none(), "{}", starts());
    std::fs::remove_file(env.dir().join("cause")).unwrap();
    assert_eq!(env.ask("stub", "ECHO: well again").ok(), "well again\n");
}

#[test]
fn a_start_that_cannot_succeed_is_told_at_once() {
    let env = TestEnv::start(Setup::default());
    let state = env.state();
    assert_eq!(env.ccb(&["kill"]).ok(), "stopped\n");
    let store = state.join("ccb.db");
    std::fs::remove_file(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    env.ask("stub", "ECHO: x").says(1, &["cannot open the store"]);
    assert_eq!(env.log().matches("the worker cannot serve").count(), 1, "it was tried again");
    assert!(last(&state)["exit_reason"].as_str().unwrap().contains("cannot open the store"));
    std::fs::remove_dir(&store).unwrap();
    env.mount();
    assert_eq!(env.ask("stub", "ECHO: well again").ok(), "well again\n");
}

#[test]
fn twenty_waiting_clients_go_on_waiting_across_an_orderly_stop() {
    let env = TestEnv::start(Setup::default());
    let state = env.state();
    // One is worked on for longer than the stop takes.
    let (first, slow) = env.ask_meanwhile("stub", "SLEEP 4: slowly");
    env.until_request(&first, "working");
    let going: Vec<_> =
        (0..19).map(|n| env.begin("ask", &["stub", "-t", "120"], &format!("ECHO: number {n}"))).collect();
    until("all are accepted", || (env.requests().len() == 20).then_some(()));
    let (worker, keeper) = env.askd();
    let began = Instant::now();
    signal(keeper, Signal::TERM);
    until("both have ended", || {
        let gone = |pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
        let ended = |pid: u32| gone(pid) || env.processes().iter().all(|(other, _)| *other != pid);
        (ended(worker) && ended(keeper)).then_some(())
    });
    let took = began.elapsed();
    writeln!(std::io::stderr(), "an orderly stop with 20 clients took {took:?}").unwrap();
    assert!(took < Duration::from_secs(2), "it was killed: {took:?}");
    assert_eq!(slow.end().json()["settlement"]["reply"], "slowly");
    for (n, one) in going.into_iter().enumerate() {
        assert_eq!(one.end().ok(), format!("number {n}\n"));
    }
    assert!(env.all_received("stub").values().all(|count| *count == 1));
    let status = env.status();
    assert!(status["last_end"].as_str().unwrap().contains("stopped: signal TERM"), "{status:#}");
    assert!(state.join("askd.json").exists());
}

#[test]
fn a_hand_over_that_is_under_way_is_finished_before_an_orderly_end() {
    let point = "paste.enter=stall:0.15:{world}/stalled";
    let env = TestEnv::start(Setup::default().with("CCB_FAILPOINT", point));
    let (_, keeper) = env.askd();
    let going = env.begin("ask", &["stub", "-t", "60", "--json"], "ECHO: not cut off");
    until("it is pasted, and Enter is to come", || env.dir().join("stalled").exists().then_some(()));
    signal(keeper, Signal::TERM);
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "not cut off", "{request:#}");
    assert_eq!(env.received("stub", request["id"].as_str().unwrap_or_default()), 1);
    assert!(env.log().contains("stopping: signal TERM"), "{}", env.log());
}

#[test]
fn a_hung_worker_whose_keeper_was_killed_is_adopted_and_replaced() {
    let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
    let (worker, keeper) = env.askd();
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: in spite of both");
    env.until_request(&id, "working");
    signal(worker, Signal::STOP);
    env.kill(keeper);
    assert_eq!(env.ask("stub", "ECHO: after it").ok(), "after it\n");
    assert_eq!(going.end().json()["settlement"]["reply"], "in spite of both");
    assert_eq!(env.received("stub", &id), 1);
    let end = env.status()["last_end"].to_string();
    assert!(env.askd().0 != worker && end.contains("hung: did not answer"), "{end}");
}

/// Kills a worker, and returns how long it takes until another one answers a handshake.
fn killed_and_back(env: &TestEnv, state: &Path, worker: u32) -> Duration {
    let project = ccb_core::home::project_id(&env.project());
    let hello = wire::Hello { protocol: wire::PROTOCOL, version: "0".into(), project, role: "client".into() };
    let greeted = || -> Option<()> {
        let mut stream = UnixStream::connect(state.join("askd.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(wire::call_line(1, &hello).as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        let answer: Value = serde_json::from_str(&line).ok()?;
        answer["result"]["pid"].as_u64().filter(|pid| *pid != u64::from(worker)).map(|_| ())
    };
    let began = Instant::now();
    signal(worker, Signal::KILL);
    // No pause between the looks: the time is what is asked for.
    while greeted().is_none() {
        assert!(began.elapsed() < SOON, "askd is not back");
    }
    began.elapsed()
}

/// Has twenty clients ask, kills the worker in the midst of it, and returns how long it was away.
fn killed_under_load() -> Duration {
    let env = TestEnv::start(Setup::of(vec![Stub::blind("stub")]));
    let state = env.state();
    let ask = |n| env.begin("ask", &["stub", "-t", "120"], &format!("SLEEP 0.1: number {n}"));
    let going: Vec<_> = (0..20).map(ask).collect();
    until("the first are answered", || (env.events_of("stub", "done").len() >= 2).then_some(()));
    let away = killed_and_back(&env, &state, env.askd().0);
    let mut unknown = 0;
    for (n, one) in going.into_iter().enumerate() {
        let run = one.end();
        if run.code == Some(0) {
            assert_eq!(run.out, format!("number {n}\n"));
        } else {
            // A worker that dies between a paste and its proof cannot tell what became of it.
            run.says(1, &["unknown delivery"]);
            unknown += 1;
        }
    }
    assert!(unknown <= 1, "{unknown} unknown after one kill");
    assert!(env.all_received("stub").values().all(|count| *count == 1), "{:?}", env.all_received("stub"));
    away
}

#[test]
fn a_worker_killed_under_the_load_of_twenty_clients_is_back_and_nothing_is_lost() {
    let mut times: Vec<Duration> = (0..5).map(|_| killed_under_load()).collect();
    times.sort();
    writeln!(std::io::stderr(), "back after kill -9 under load: median {:?} of {times:?}", times[2]).unwrap();
}

#[test]
fn what_kill_could_not_end_is_not_called_stopped() {
    let setup = Setup::default().with("CCB_FAILPOINT", "store.commit=stall:40:{world}/mark");
    let env = TestEnv::new(setup);
    std::fs::write(env.dir().join("mark"), "").expect("a mark");
    env.mount();
    std::fs::remove_file(env.dir().join("mark")).unwrap();
    let asking = env.begin("ask", &["stub"], "ECHO: never mind");
    until("the edge is reached", || env.dir().join("mark").exists().then_some(()));
    let said = env.ccb(&["kill"]);
    let gone = env.processes().iter().all(|(_, line)| !line.contains("askd --worker"));
    assert_eq!(said.code == Some(0), gone, "{said:?}");
    if !gone {
        said.says(1, &["was told to end, and has not", "hint: `ccb status`"]);
    }
    env.kill_child(asking);
}
