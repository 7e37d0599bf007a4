//! Trouble with the disk: full, read-only, damaged. Nothing is accepted and lost, what runs ends with its answer, and
//! service resumes by itself.

use std::collections::BTreeSet;
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
    // It stays told by this daemon, and by the next one.
    env.kill(env.askd().0);
    assert_eq!(notes(&env), told);
    for expected in [told.as_str(), "[]"] {
        assert_eq!(env.ccb(&["kill"]).ok(), "stopped\n");
        until("nothing runs", || env.processes().is_empty().then_some(()));
        assert_eq!(notes(&env), expected);
    }
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

/// A file system of its own on a loop device, mounted where the user's state is.
struct Image {
    file: PathBuf,
    at: PathBuf,
}

/// Runs a tool of the system; false if it is not there, or is refused.
fn does(words: &[&str]) -> bool {
    std::process::Command::new(words[0]).args(&words[1..]).output().is_ok_and(|done| done.status.success())
}

impl Image {
    /// Makes it and mounts it; none, said loudly, where that is not allowed.
    fn mounted(env: &TestEnv) -> Option<Self> {
        let image = Self { file: env.dir().join("first.img"), at: env.home().join(".local/state") };
        std::fs::create_dir_all(&image.at).expect("it is there, and can be used");
        let file = std::fs::File::create(&image.file).expect("it is there, and can be used");
        file.set_len(32 << 20).expect("it is there, and can be used");
        let made = does(&["mkfs.ext4", "-q", "-F", &image.file.display().to_string()]) && image.mount();
        if !made {
            let line = "NOT TESTED: no ext4 can be mounted here, so no disk becomes unwritable in use\n";
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        made.then_some(image)
    }

    fn mount(&self) -> bool {
        does(&["mount", "-o", "loop", &self.file.display().to_string(), &self.at.display().to_string()])
    }

    /// Has the kernel take it for broken: from now on it can only be read, also by whoever has files open.
    fn abort(&self) -> bool {
        does(&["mount", "-o", "remount,abort", &self.at.display().to_string()])
    }

    /// Mounts what is on it anew, in its place, though the old one is still in use.
    fn anew(&mut self) {
        let mended = self.file.with_file_name("second.img");
        assert!(does(&["umount", "-l", &self.at.display().to_string()]));
        std::fs::copy(&self.file, &mended).expect("it is there, and can be used");
        // It says by its exit code that it has mended something.
        does(&["e2fsck", "-p", &mended.display().to_string()]);
        self.file = mended;
        assert!(self.mount());
    }

    /// Forbids every write to what is there, also to whoever has files open; or allows it again.
    fn freeze(&self, sign: &str) -> bool {
        let files = crate::env::files_below(&self.at);
        let is_plain = |path: &&PathBuf| path.symlink_metadata().is_ok_and(|data| data.is_file());
        let named: Vec<String> = files.iter().filter(is_plain).map(|path| path.display().to_string()).collect();
        let dirs: BTreeSet<String> =
            files.iter().filter_map(|path| path.parent()).map(|dir| dir.display().to_string()).collect();
        // What has been replaced meanwhile by another file is written through its directory.
        let changed = |path: &String| does(&["chattr", sign, path]) || !Path::new(path).exists();
        dirs.iter().chain(&named).all(changed)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        does(&["umount", "-l", &self.at.display().to_string()]);
    }
}

/// Returns a world on a file system of its own, with its agents idle.
fn on_image(setup: Setup) -> Option<(TestEnv, Image)> {
    let env = TestEnv::new(setup);
    let _nothing = env.ccb(&["kill"]);
    until("nothing runs", || env.processes().is_empty().then_some(()));
    let image = Image::mounted(&env)?;
    let _trusted = env.ccb(&["trust", "--yes"]).ok();
    env.mount();
    Some((env, image))
}

/// Asks several times, each to be refused with this, and says how long a refusal takes.
#[track_caller]
fn refused(env: &TestEnv, words: &[&str]) {
    let mut times: Vec<Duration> = (0..7)
        .map(|_| {
            let began = Instant::now();
            env.run("ask", &["stub", "--async", "ECHO: refused"], "").says(1, words);
            began.elapsed()
        })
        .collect();
    times.sort();
    let line = format!("a refusal takes {:?} (median of {}), at most {:?}\n", times[3], times.len(), times[6]);
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(times[3] < Duration::from_secs(1), "{times:?}");
}

#[test]
fn a_disk_that_forbids_writing_in_use_is_told_and_used_again_by_itself() {
    let Some((env, image)) = on_image(Setup::default()) else { return };
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: in spite of it");
    env.until_request(&id, "working");
    let waits = env.submit("stub", &[], "ECHO: it waited");
    let (worker, keeper) = env.askd();
    assert!(image.freeze("+i"), "a file of ext4 can be made immutable");
    refused(&env, &["cannot be kept", "hint: "]);
    assert!(notes(&env).contains("takes nothing"), "{}", notes(&env));
    until("the agent has answered", || (env.events_of("stub", "done").len() == 1).then_some(()));
    refused(&env, &["cannot be kept"]);
    assert_eq!(env.received("stub", &waits), 0, "something was offered that could not be kept");
    assert!(image.freeze("-i"));
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "in spite of it", "{request:#}");
    assert_eq!(env.settled(&waits)["settlement"]["reply"], "it waited");
    assert_eq!(notes(&env), "[]");
    goes_on(&env, "stub");
    assert_eq!(env.events_of("stub", "recv").len(), 3, "a refused request has reached the agent");
    assert_eq!(env.askd(), (worker, keeper), "nobody had to go");
}

#[test]
fn a_file_system_that_breaks_in_use_is_read_only_until_it_is_mounted_anew() {
    let Some((env, mut image)) = on_image(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1")) else { return };
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: in spite of it");
    env.until_request(&id, "working");
    let waits = env.submit("stub", &[], "ECHO: it waited");
    let (worker, _) = env.askd();
    if !image.abort() {
        let _ = std::io::stderr().write_all(b"NOT TESTED: a file system cannot be aborted here\n");
        return;
    }
    refused(&env, &["cannot be kept", "hint: "]);
    assert!(notes(&env).contains("takes nothing"), "{}", notes(&env));
    until("the agent has answered", || (env.events_of("stub", "done").len() == 1).then_some(()));
    refused(&env, &["cannot be kept"]);
    assert_eq!(env.askd().0, worker, "no other could do better");
    assert_eq!(env.received("stub", &waits), 0, "something was offered that could not be kept");
    image.anew();
    // Nobody calls: the worker finds by itself that its disk is another one.
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "in spite of it", "{request:#} {}", env.log());
    assert_eq!(env.settled(&waits)["settlement"]["reply"], "it waited");
    assert_ne!(env.askd().0, worker);
    goes_on(&env, "stub");
    assert_eq!(env.events_of("stub", "recv").len(), 3, "a refused request has reached the agent");
}

#[test]
fn a_store_that_cannot_be_read_back_is_left_to_the_next_worker() {
    let setup = Setup::default().with("CCB_FAILPOINT", "engine.read-back=fail-while:{world}/unreadable");
    let Some(setup) = setup.on_disk("16m") else { return };
    let env = TestEnv::start(setup);
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: in spite of it");
    env.until_request(&id, "working");
    let (worker, _) = env.askd();
    std::fs::write(env.dir().join("unreadable"), "").expect("it is there, and can be used");
    env.disk().fill();
    let asked = env.begin("ask", &["stub", "--async", "--json"], "ECHO: asked meanwhile");
    until("the worker has gone", || env.processes().iter().all(|(pid, _)| *pid != worker).then_some(()));
    assert!(!env.log().contains("panicked"), "{}", env.log());
    env.disk().free();
    std::fs::remove_file(env.dir().join("unreadable")).expect("it is there, and can be used");
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "in spite of it", "{request:#}");
    let asked = asked.end();
    if asked.code == Some(0) {
        let id = asked.json()["id"].as_str().expect("it is there, and can be used").to_owned();
        assert_eq!(env.settled(&id)["settlement"]["reply"], "asked meanwhile");
        assert_eq!(env.received("stub", &id), 1);
    } else {
        assert!(asked.err.contains("error: "), "{asked:?}");
        assert_eq!(env.events_of("stub", "recv").len(), 1, "it was refused and yet sent");
    }
    goes_on(&env, "stub");
}

#[test]
fn a_worker_whose_database_fails_it_alone_gives_way_to_one_that_opens_it_anew() {
    let setup = Setup::default().with("CCB_FAILPOINT", "store.refuse=fail-while:{world}/failing");
    let env = TestEnv::start(setup);
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: in spite of it");
    env.until_request(&id, "working");
    let (worker, _) = env.askd();
    std::fs::write(env.dir().join("failing"), "").expect("it is there, and can be used");
    refused(&env, &["cannot be kept", "hint: "]);
    until("the worker has gone", || env.processes().iter().all(|(pid, _)| *pid != worker).then_some(()));
    std::fs::remove_file(env.dir().join("failing")).expect("it is there, and can be used");
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "in spite of it", "{request:#}");
    goes_on(&env, "stub");
    assert_eq!(env.events_of("stub", "recv").len(), 2, "a refused request has reached the agent");
}

/// The bodies are on a disk of their own, which is full: neither the text of a paste nor that of a long message can be
/// written.
fn no_room_for_bodies(stub: Stub, message: &str, reply: &str) {
    let env = TestEnv::start(Setup::of(vec![stub]));
    let bodies = env.state().join("bodies");
    let at = bodies.display().to_string();
    if !does(&["mount", "-t", "tmpfs", "-o", "size=4k,mode=0700", "ccb-test", &at]) {
        let _ = std::io::stderr().write_all(b"NOT TESTED: no file system can be mounted here\n");
        return;
    }
    let unmount = Unmount(at);
    std::fs::write(bodies.join("fill"), [7; 4096]).expect("it is there, and can be used");
    let (id, going) = env.ask_meanwhile("stub", message);
    let told = until("the reason is told", || {
        let explained = env.explain(&id);
        let evidence = explained["evidence"].to_string();
        (evidence.matches("No space left").count() >= 2).then_some(explained)
    });
    // It is offered again now and then, and each time the text cannot be written.
    let state = told["request"]["state"].as_str().unwrap_or_default();
    assert!(["queued", "offering"].contains(&state), "{told:#}");
    until("the agent's state tells of it", || env.agent("stub").to_string().contains("No space left").then_some(()));
    assert_eq!(env.received("stub", &id), 0);
    assert_eq!(env.pressed("stub"), "");
    std::fs::remove_file(bodies.join("fill")).expect("it is there, and can be used");
    drop(unmount);
    let request = going.end().json();
    assert_eq!(request["settlement"]["outcome"]["word"], "completed", "{request:#}");
    assert!(request["settlement"]["reply"].as_str().is_some_and(|said| said.contains(reply)), "{request:#}");
    assert_eq!(env.received("stub", &id), 1);
    goes_on(&env, "stub");
}

/// Unmounts when it is dropped.
struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        does(&["umount", "-l", &self.0]);
    }
}

#[test]
fn a_message_whose_body_cannot_be_written_waits_and_is_sent_once() {
    no_room_for_bodies(Stub::new("stub"), "ECHO: sent once", "sent once");
}

#[test]
fn a_message_whose_body_cannot_be_written_waits_for_a_blind_agent_too() {
    no_room_for_bodies(Stub::blind("stub"), "ECHO: sent once", "sent once");
}
