//! Trouble with the disk: full, read-only, damaged. Nothing is accepted and lost, what runs ends with its answer, and
//! service resumes by itself.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::deaths::goes_on;
use crate::env::{Run, Setup, Stub, TestEnv, signal, until};

/// How long a refusal may take: it takes milliseconds, and the machine may have other things to do.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Runs a command that is to be answered at once.
#[track_caller]
fn at_once(env: &TestEnv, program: &str, args: &[&str]) -> Run {
    let began = Instant::now();
    let said = env.run(program, args, "");
    assert!(began.elapsed() < AT_ONCE, "{:?}: {said:?}", began.elapsed());
    said
}

fn notes(env: &TestEnv) -> String {
    env.status()["notes"].to_string()
}

#[test]
fn on_a_full_disk_nothing_is_accepted_and_what_runs_ends_with_its_answer() {
    let Some(setup) = Setup::default().on_disk("16m") else { return };
    let env = TestEnv::start(setup);
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: in spite of it");
    env.until_request(&id, "working");
    let waits = env.submit("stub", &[], "ECHO: it waited");
    env.disk().fill();
    at_once(&env, "ask", &["stub", "--async", "ECHO: refused"]).says(1, &["cannot be kept", "full", "hint: "]);
    assert!(notes(&env).contains("takes nothing"), "{}", notes(&env));
    until("the agent has answered", || (env.events_of("stub", "done").len() == 1).then_some(()));
    at_once(&env, "ask", &["stub", "--async", "ECHO: refused again"]).says(1, &["cannot be kept"]);
    assert_eq!(env.received("stub", &waits), 0, "something was offered that could not be kept");
    env.disk().free();
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "in spite of it", "{request:#}");
    assert_eq!(env.settled(&waits)["settlement"]["reply"], "it waited");
    assert_eq!(notes(&env), "[]");
    goes_on(&env, "stub");
    assert_eq!(env.events_of("stub", "recv").len(), 3, "a refused request has reached the agent");
}

#[test]
fn a_worker_that_dies_on_a_full_disk_is_back_once_there_is_room() {
    let Some(setup) = Setup::default().on_disk("16m") else { return };
    let env = TestEnv::start(setup);
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: in spite of it");
    env.until_request(&id, "working");
    let (worker, _) = env.askd();
    env.disk().fill();
    env.kill(worker);
    at_once(&env, "ask", &["stub", "--async", "ECHO: refused"]).says(1, &["error: "]);
    env.disk().free();
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "in spite of it", "{request:#}");
    goes_on(&env, "stub");
}

#[test]
fn a_daemon_that_cannot_start_for_want_of_a_disk_says_so_at_once() {
    let Some(setup) = Setup::default().on_disk("16m") else { return };
    let env = TestEnv::start(setup);
    let _killed = env.ccb(&["kill"]).ok();
    until("nothing runs", || env.processes().is_empty().then_some(()));
    env.disk().fill();
    at_once(&env, "ccb", &["ps"]).says(1, &["askd cannot start", "No space left", "hint: "]);
    env.disk().free();
    assert!(env.disk().remount("ro"), "nobody writes, so it can be made read-only");
    at_once(&env, "ccb", &["ps"]).says(1, &["askd cannot start", "Read-only file system", "hint: "]);
    assert!(env.disk().remount("rw"));
    env.mount();
    goes_on(&env, "stub");
}

/// Returns a world whose daemon has ended in order with many requests queued, the paths of its home and its database,
/// and the ids of the requests.
fn many_queued() -> (TestEnv, PathBuf, Vec<String>) {
    let env = TestEnv::new(Setup::default());
    let text = format!("ECHO: kept\n{}", "padding ".repeat(400));
    let ids: Vec<String> = (0..24).map(|_| env.submit("stub", &["-t", "120"], &text)).collect();
    let database = env.state().join("ccb.db");
    signal(env.askd().1, Signal::TERM);
    until("the daemon has ended", || env.processes().is_empty().then_some(()));
    (env, database, ids)
}

/// Writes rubbish over a part of a file.
fn spoil(path: &Path, at: u64, length: usize) {
    let mut file = std::fs::File::options().write(true).open(path).expect("it is there, and can be used");
    file.seek(SeekFrom::Start(at)).expect("it is there, and can be used");
    file.write_all(&vec![0xff; length]).expect("it is there, and can be used");
}

/// Damages a database while nothing runs, and returns how many of its requests have been answered since.
fn damaged(damage: impl FnOnce(&Path, u64)) -> usize {
    let (env, database, ids) = many_queued();
    let length = std::fs::metadata(&database).expect("it is there, and can be used").len();
    assert!(length > 20 * 4096, "{length}");
    damage(&database, length);
    let spoilt = std::fs::read(&database).expect("it is there, and can be used");
    env.mount();
    let told = notes(&env);
    assert!(told.contains("damaged") && told.contains("set aside"), "{told}");
    let home = database.parent().expect("it is there, and can be used");
    let aside: Vec<PathBuf> = crate::env::files_below(home)
        .into_iter()
        .filter(|path| {
            path.file_name().expect("it is there, and can be used").to_string_lossy().starts_with("ccb.db.damaged-")
        })
        .collect();
    assert!(aside.iter().any(|path| told.contains(&path.display().to_string())), "{told} {aside:?}");
    assert!(
        aside.iter().any(|path| std::fs::read(path).expect("it is there, and can be used") == spoilt),
        "it is as it was found"
    );
    let known: Vec<&String> = ids.iter().filter(|id| env.ccb(&["explain", id]).code == Some(0)).collect();
    for id in &known {
        assert_eq!(env.settled(id)["settlement"]["outcome"]["word"], "completed");
        assert_eq!(env.received("stub", id), 1);
    }
    goes_on(&env, "stub");
    // It stays told, also by the next worker.
    env.kill(env.askd().0);
    assert_eq!(notes(&env), told);
    known.len()
}

#[test]
fn a_database_with_a_spoilt_header_is_set_aside_and_told() {
    damaged(|path, _| spoil(path, 0, 100));
}

#[test]
fn a_database_with_a_spoilt_page_is_set_aside_and_the_rest_goes_on() {
    let known = damaged(|path, length| spoil(path, length / 4096 / 2 * 4096, 4096));
    assert!(known >= 12, "{known} of 24");
}

#[test]
fn a_database_that_is_cut_off_is_set_aside_and_the_rest_goes_on() {
    damaged(|path, length| std::fs::File::options().write(true).open(path).unwrap().set_len(length / 2).unwrap());
}

#[test]
fn a_database_found_damaged_while_it_is_used_is_set_aside_and_its_requests_go_on() {
    let (env, database, ids) = many_queued();
    // So much that is over that it is not in memory.
    let db = rusqlite::Connection::open(&database).expect("it is there, and can be used");
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO request (id, seq, agent, notice, open, accepted, body)
         SELECT '10000101-000000-000-1-' || i, 1000 + i, 'nobody', 0, 0, 5, printf('%.3000c', 'x') FROM n;",
    )
    .expect("it is there, and can be used");
    db.close().expect("it is there, and can be used");
    let length = std::fs::metadata(&database).expect("it is there, and can be used").len();
    assert!(length > 2 << 20, "{length}");
    let going = env.begin("ask", &["stub", "-t", "120", "--json"], "ECHO: through it");
    until("it is accepted", || (env.requests().len() > ids.len()).then_some(()));
    let (worker, _) = env.askd();
    // All that was added: the rest is in memory.
    spoil(&database, length / 4, usize::try_from(length / 2).expect("it is there, and can be used"));
    let _found = env.ccb(&["pend", "10000101-000000-000-1-500"]);
    until("another worker serves", || (env.askd().0 != worker).then_some(()));
    assert!(notes(&env).contains("set aside"), "{}", notes(&env));
    env.mount();
    assert_eq!(going.end().json()["settlement"]["reply"], "through it");
    for id in &ids {
        assert_eq!(env.settled(id)["settlement"]["outcome"]["word"], "completed");
        assert_eq!(env.received("stub", id), 1);
    }
    goes_on(&env, "stub");
}

#[test]
fn a_database_of_a_newer_ccb_is_left_alone_and_told_at_once() {
    let (env, database, ids) = many_queued();
    let version = |number: u32| {
        let db = rusqlite::Connection::open(&database).expect("it is there, and can be used");
        db.pragma_update(None, "user_version", number).expect("it is there, and can be used");
    };
    version(99);
    at_once(&env, "ccb", &["ps"]).says(1, &["askd cannot start", "newer ccb"]);
    version(1);
    assert_eq!(env.requests().len(), ids.len());
}

#[test]
fn a_database_that_is_not_there_is_told_and_not_passed_off_as_empty() {
    let (env, database, ids) = many_queued();
    std::fs::remove_file(&database).unwrap();
    let told = notes(&env);
    assert!(told.contains("was empty or not there") && told.contains("ccb.db"), "{told}");
    env.ccb(&["explain", &ids[0]]).says(1, &["no request"]);
    env.mount();
    goes_on(&env, "stub");
}

#[test]
fn a_daemon_ends_when_it_is_told_to_though_the_disk_is_full() {
    let Some(setup) = Setup::default().on_disk("16m") else { return };
    let env = TestEnv::start(setup);
    env.disk().fill();
    assert_eq!(env.ccb(&["kill"]).ok(), "stopped\n");
    until("nothing runs", || env.processes().is_empty().then_some(()));
}

#[test]
fn two_agents_are_served_again_after_a_full_disk() {
    let Some(setup) = Setup::of(vec![Stub::new("first"), Stub::blind("second")]).on_disk("16m") else { return };
    let env = TestEnv::start(setup);
    env.disk().fill();
    for agent in ["first", "second"] {
        at_once(&env, "ask", &[agent, "--async", "ECHO: refused"]).says(1, &["cannot be kept"]);
    }
    env.disk().free();
    // Without any other event: what was refused is not there, and what comes now is taken.
    until("the disk takes commits again", || (notes(&env) == "[]").then_some(()));
    goes_on(&env, "first");
    goes_on(&env, "second");
}
