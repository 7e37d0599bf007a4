//! The files that a worker stands on are deleted or replaced under it: what was accepted goes on at its successor, and
//! nothing is accepted or offered by two at once.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::asks::outcome;
use crate::deaths::goes_on;
use crate::env::{Going, Setup, TestEnv, until};

/// Returns a world with a busy agent: one request is being worked on, two wait for their answers behind it, and one is
/// queued that nobody waits for.
fn busy() -> (TestEnv, Vec<(String, Going)>, String) {
    let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
    assert_eq!(env.ask("stub", "ECHO: long before").ok(), "long before\n");
    let (first, going) = env.ask_meanwhile("stub", "SLEEP 1.5: first");
    env.until_request(&first, "working");
    let mut waiting = vec![(first, going)];
    waiting.extend(["second", "third"].map(|word| env.ask_meanwhile("stub", &format!("ECHO: {word}"))));
    let queued = env.submit("stub", &[], "ECHO: queued");
    (env, waiting, queued)
}

/// Asserts that all that [`busy`] has begun ends with its own answer, given once.
#[track_caller]
fn all_answered(env: &TestEnv, waiting: Vec<(String, Going)>, queued: &str) {
    for ((id, going), word) in waiting.into_iter().zip(["first", "second", "third"]) {
        let request = going.end().json();
        assert_eq!(request["settlement"]["reply"], word, "{request:#}");
        assert_eq!(env.received("stub", &id), 1, "{word}");
    }
    assert_eq!(env.settled(queued)["settlement"]["reply"], "queued");
    goes_on(env, "stub");
}

/// Waits until one keeper watches one worker, and both are in the home that is there.
#[track_caller]
fn one_daemon(env: &TestEnv) {
    until("one keeper watches one worker", || {
        let all = env.processes();
        let daemons = all.iter().filter(|(_, line)| line.contains("/askd "));
        let (workers, keepers): (Vec<_>, Vec<_>) = daemons.partition(|(_, line)| line.contains("--worker"));
        (workers.len() == 1 && keepers.len() == 1).then_some(())
    });
    let (worker, keeper) = env.askd();
    let home = env.state();
    for (pid, lock) in [(worker, "askd.lock"), (keeper, "keeper.lock")] {
        let path = home.join(lock);
        let holds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        assert!(holds.flat_map(|fd| std::fs::read_link(fd.path())).any(|open| open == path), "{pid} holds no {lock}");
    }
}

/// Returns ten clients that have just been started together.
fn ten(env: &TestEnv) -> Vec<Going> {
    (0..10).map(|n| env.begin("ask", &["stub", "-t", "60", "--json"], &format!("ECHO: client {n}"))).collect()
}

#[track_caller]
fn ten_answered(env: &TestEnv, ten: Vec<Going>) {
    for (n, one) in ten.into_iter().enumerate() {
        let request = one.end().json();
        assert_eq!(request["settlement"]["reply"], format!("client {n}"), "{request:#}");
        assert_eq!(env.received("stub", request["id"].as_str().expect("it is there, and can be used")), 1);
    }
}

fn delete(path: &Path) {
    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
        .expect("it is there, and can be used");
}

/// Deletes something of the home under a busy daemon while ten clients start.
fn deleted_under_ten(what: fn(&Path) -> Vec<PathBuf>) {
    let (env, waiting, queued) = busy();
    let (worker, _) = env.askd();
    for path in what(&env.state()) {
        delete(&path);
    }
    let ten = ten(&env);
    ten_answered(&env, ten);
    all_answered(&env, waiting, &queued);
    one_daemon(&env);
    assert_ne!(env.askd().0, worker);
    // What was over before is known as well.
    assert!(env.ccb(&["pend", "stub", "20"]).ok().contains("long before"));
}

#[test]
fn the_workers_lock_deleted_under_a_busy_daemon_while_ten_clients_start() {
    deleted_under_ten(|home| vec![home.join("askd.lock")]);
}

#[test]
fn both_locks_deleted_under_a_busy_daemon_while_ten_clients_start() {
    deleted_under_ten(|home| vec![home.join("askd.lock"), home.join("keeper.lock")]);
}

#[test]
fn the_database_deleted_under_a_busy_daemon_while_ten_clients_start() {
    deleted_under_ten(|home| vec![home.join("ccb.db")]);
}

#[test]
fn the_home_deleted_under_a_busy_daemon_while_ten_clients_start() {
    deleted_under_ten(|home| vec![home.to_owned()]);
}

#[test]
fn all_homes_deleted_under_a_busy_daemon_while_ten_clients_start() {
    deleted_under_ten(|home| {
        vec![
            home.parent()
                .expect("it is there, and can be used")
                .parent()
                .expect("it is there, and can be used")
                .to_owned(),
        ]
    });
}

#[test]
fn the_home_replaced_under_a_busy_daemon_while_ten_clients_start() {
    let (env, waiting, queued) = busy();
    let home = env.state();
    std::fs::rename(&home, home.with_extension("old")).expect("it is there, and can be used");
    std::fs::create_dir(&home).expect("it is there, and can be used");
    let ten = ten(&env);
    ten_answered(&env, ten);
    all_answered(&env, waiting, &queued);
    one_daemon(&env);
}

#[test]
fn a_home_that_was_moved_away_and_comes_back_sends_nothing_again() {
    let (env, waiting, queued) = busy();
    let home = env.state();
    let ids: Vec<String> = waiting.iter().map(|(id, _)| id.clone()).chain([queued.clone()]).collect();
    std::fs::rename(&home, home.with_extension("old")).expect("it is there, and can be used");
    all_answered(&env, waiting, &queued);
    assert_eq!(env.ccb(&["kill"]).ok(), "stopped\n");
    until("nothing runs", || env.processes().is_empty().then_some(()));
    delete(&home);
    std::fs::rename(home.with_extension("old"), &home).expect("it is there, and can be used");
    // What had been answered before the move is known here as it was.
    let db = rusqlite::Connection::open(home.join("ccb.db")).expect("it is there, and can be used");
    let open = |id: &String| -> bool {
        let sql = "SELECT open FROM request WHERE id = ?1";
        db.query_row(sql, [id], |row| row.get(0)).expect("it is there, and can be used")
    };
    let open: Vec<bool> = ids.iter().map(open).collect();
    db.close().expect("it is there, and can be used");
    env.mount();
    for (id, open) in ids.iter().zip(open) {
        let request = env.settled(id);
        assert_eq!(env.received("stub", id), 1, "{request:#}");
        let told = request["settlement"]["outcome"].to_string();
        assert_eq!(told.contains("had gone over"), open, "{told}");
    }
    goes_on(&env, "stub");
}

/// Nobody calls: the keeper's ping is what has the worker look.
#[test]
fn the_home_deleted_under_a_busy_daemon_that_nobody_calls() {
    let (env, waiting, queued) = busy();
    delete(&env.state_by_path());
    until("its successor serves", || env.state_by_path().join("askd.json").exists().then_some(()));
    all_answered(&env, waiting, &queued);
    one_daemon(&env);
}

/// The request is in the very commit before which everything is deleted: nobody was told that it was accepted, and it
/// is accepted once by the successor.
#[test]
fn a_request_is_not_accepted_into_a_deleted_database() {
    let setup = Setup::default().with("CCB_FAILPOINT", "engine.before-commit=wait:{world}/go");
    let env = TestEnv::new(setup);
    std::fs::write(env.dir().join("go"), "").expect("it is there, and can be used");
    // Its agent does not run: nothing but the commit has the worker look at what it stands on.
    let (worker, _) = env.askd();
    let home = env.state();
    std::fs::remove_file(env.dir().join("go")).expect("it is there, and can be used");
    assert!(!env.dir().join("go.reached").exists());
    let asked = env.begin("ask", &["stub", "--async", "--json"], "ECHO: accepted once");
    until("it is about to be committed", || env.dir().join("go.reached").exists().then_some(()));
    delete(&home);
    std::fs::write(env.dir().join("go"), "").expect("it is there, and can be used");
    let accepted: Value = asked.end().json();
    let there = env.processes().iter().any(|(pid, _)| *pid == worker);
    assert!(!there, "a worker without ground has accepted it: {accepted:#}");
    let id = accepted["id"].as_str().unwrap_or_else(|| panic!("{accepted:#}"));
    assert_eq!(accepted["repeated"], false, "it was in the deleted database already: {accepted:#}");
    env.mount();
    let request = env.settled(id);
    outcome(&request, "completed");
    assert_eq!(request["settlement"]["reply"], "accepted once");
    assert_eq!(env.received("stub", id), 1);
    goes_on(&env, "stub");
}
