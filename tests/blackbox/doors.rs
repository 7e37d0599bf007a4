//! Askd's socket under everything that somebody may do to it: the owner is served, and nothing is left over.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::env::{SOON, Setup, TestEnv, moment, until};

/// How many connections say nothing.
const SILENT: usize = 500;

/// How many known clients do nothing.
const IDLE: usize = 60;

/// How often the owner asks meanwhile, at the least.
const ASKS: usize = 20;

/// How long a write or a read of a hostile client takes at the most before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many KiB the worker's memory may have grown by when all is over: the allocator keeps what it has had in pieces,
/// measured at 0.5 to 2 MiB; one line that is kept would be 64 MiB, one unread answer 12 MiB.
const MARGIN_KIB: usize = 8 << 10;

/// Returns the socket's path.
fn socket(env: &TestEnv) -> PathBuf {
    env.state().join("askd.sock")
}

/// Returns the line of a handshake.
fn hello(env: &TestEnv) -> String {
    let project = ccb_core::home::project_id(&env.project());
    let params = json!({"protocol": 1, "version": "0", "project": project, "role": "client"});
    format!("{}\n", json!({"jsonrpc": "2.0", "id": 0, "method": "hello", "params": params}))
}

/// Reads a line; nothing at the end of the stream.
fn line(stream: &UnixStream) -> Option<Value> {
    let mut text = Vec::new();
    let mut byte = [0];
    while { stream }.read(&mut byte).ok()? == 1 {
        if byte[0] == b'\n' {
            return serde_json::from_slice(&text).ok();
        }
        text.push(byte[0]);
    }
    None
}

/// Connects and shakes hands.
fn known(env: &TestEnv) -> UnixStream {
    let stream = UnixStream::connect(socket(env)).expect("a socket works");
    stream.set_read_timeout(Some(SOON)).expect("a socket works");
    { &stream }.write_all(hello(env).as_bytes()).expect("a socket works");
    assert_eq!(line(&stream).expect("a socket works")["result"]["protocol"], 1);
    stream
}

/// Waits until askd has closed the connection.
#[track_caller]
fn is_closed(stream: &UnixStream) {
    stream.set_read_timeout(Some(SOON)).expect("a socket works");
    let mut chunk = vec![0; 64 << 10];
    while matches!({ stream }.read(&mut chunk), Ok(1..)) {}
    let mut byte = [0];
    let last = { stream }.read(&mut byte);
    assert!(!last.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it is still open");
}

/// Returns how many descriptors a process has open.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Returns a process's memory in KiB.
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Returns the fewest descriptors and the least memory of a process that has nothing to do for a moment.
fn at_rest(pid: u32) -> (usize, usize) {
    let look = |_| {
        moment();
        (descriptors(pid), memory(pid))
    };
    let looks: Vec<_> = (0..20).map(look).collect();
    let least = |of: fn(&(usize, usize)) -> usize| looks.iter().map(of).min().expect("a socket works");
    (least(|look| look.0), least(|look| look.1))
}

/// Writes until all is written, the other side is gone, or `over` is set.
fn pour(stream: &UnixStream, bytes: &[u8], over: &AtomicBool) {
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket works");
    let mut rest = bytes;
    while !rest.is_empty() && !over.load(Ordering::SeqCst) {
        match { stream }.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Returns a call whose refusal repeats the method, and so is as long.
fn long_call(length: usize) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": 1, "method": "x".repeat(length), "params": {}}))
}

/// Does everything at once until `over`; `full` is set once all who say nothing are there.
fn besiege(env: &TestEnv, full: &AtomicBool, over: &AtomicBool) {
    let (path, hello) = (socket(env), hello(env));
    let connect = || UnixStream::connect(&path).expect("a socket works");
    let again = |attack: &(dyn Fn() + Sync)| {
        while !over.load(Ordering::SeqCst) {
            attack();
            moment();
        }
    };
    let long = vec![b'x'; (64 << 20) + 1];
    let before = || pour(&connect(), &long, over);
    let after = || {
        let stream = connect();
        pour(&stream, hello.as_bytes(), over);
        pour(&stream, &long, over);
    };
    let garbage = || {
        let stream = connect();
        pour(&stream, b"\xff\xfe{]\0\n\n[[[[[7\n", over);
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket works");
        let _refused = line(&stream);
    };
    let never_reads = || {
        let stream = connect();
        pour(&stream, hello.as_bytes(), over);
        let call = long_call(12 << 20);
        for _ in 0..20 {
            pour(&stream, call.as_bytes(), over);
        }
    };
    std::thread::scope(|scope| {
        for attack in [&before as &(dyn Fn() + Sync), &after, &garbage, &never_reads] {
            scope.spawn(move || again(attack));
        }
        let mut held = Vec::new();
        for n in 0..SILENT {
            let stream = connect();
            if n % 5 == 0 {
                pour(&stream, b"{\"jsonrpc\":", over);
            }
            if n < IDLE {
                pour(&stream, hello.as_bytes(), over);
            }
            held.push(stream);
        }
        full.store(true, Ordering::SeqCst);
        again(&|| {});
    });
}

/// The owner asks while everything happens at once; then everything is as it was.
fn the_owner_is_served_in_the_siege(env: &TestEnv) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(maximum.unwrap_or(4096).min(4096)), maximum })
        .expect("a socket works");
    assert_eq!(env.ask("stub", "ECHO: before").ok(), "before\n");
    let (worker, _) = env.askd();
    let (files, kib) = at_rest(worker);
    let (full, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    let answered = std::thread::scope(|scope| {
        let siege = scope.spawn(|| besiege(env, &full, &over));
        let mut answered = Vec::new();
        while answered.len() < ASKS || !(full.load(Ordering::SeqCst) || siege.is_finished()) {
            let begun = Instant::now();
            answered.push(env.ask("stub", &format!("ECHO: {}", answered.len())));
            slowest = slowest.max(begun.elapsed());
            most = most.max(memory(worker));
        }
        over.store(true, Ordering::SeqCst);
        siege.join().expect("a socket works");
        answered
    });
    let asks = answered.len();
    for (n, run) in answered.into_iter().enumerate() {
        assert_eq!(run.ok(), format!("{n}\n"));
    }
    assert_eq!(env.askd().0, worker, "it is the same worker");
    until("all descriptors are back", || (descriptors(worker) <= files).then_some(()));
    until("the memory is back", || (memory(worker) <= kib + MARGIN_KIB).then_some(()));
    let now = memory(worker);
    let told =
        format!("slowest of {asks}: {slowest:?}; {files} descriptors; KiB: {kib} before, {most} seen, {now} after\n");
    std::io::stderr().write_all(told.as_bytes()).expect("a socket works");
}

#[test]
fn five_hundred_strangers_and_long_lines_and_garbage_do_not_keep_the_owner_from_being_served() {
    let env = TestEnv::start(Setup::default());
    the_owner_is_served_in_the_siege(&env);
}

#[test]
fn with_sixty_four_descriptors_the_owner_is_served_too() {
    let env = TestEnv::new(Setup::default().with("CCB_ASKD_AUTOSTART", "0"));
    let askd = format!("ulimit -n 64; exec askd --project '{}'", env.project().display());
    let keeper = env.begin("sh", &["-c", &askd], "");
    until("it serves", || (env.ccb(&["ps"]).code == Some(0)).then_some(()));
    env.mount();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", env.askd().0)).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().filter(|word| *word == "64").count(), 2, "{files}");
    the_owner_is_served_in_the_siege(&env);
    let _ended = env.ccb(&["kill"]).ok();
    let _ended = keeper.end();
}

/// A process that waits over as many connections as there are gives way: one of them ends, and would wait again.
#[test]
fn a_crowd_that_waits_leaves_room_for_another_client() {
    let env = TestEnv::new(Setup::default().with("CCB_ASKD_AUTOSTART", "0"));
    let askd = format!("ulimit -n 64; exec askd --project '{}'", env.project().display());
    let keeper = env.begin("sh", &["-c", &askd], "");
    until("it serves", || (env.ccb(&["ps"]).code == Some(0)).then_some(()));
    env.mount();
    let id = env.submit("stub", &[], "SLEEP 4: slept");
    let wait = json!({"jsonrpc": "2.0", "id": 1, "method": "wait", "params": {"id": id}});
    let crowd: Vec<_> = (0..60).map(|_| known(&env)).collect();
    for stream in &crowd {
        // One that had to make room for the others is gone.
        let _gone = { stream }.write_all(format!("{wait}\n").as_bytes());
    }
    let more: Vec<_> = (0..30).map(|_| known(&env)).collect();
    assert_eq!(env.ask("stub", "ECHO: x").ok(), "x\n");
    let reply = |stream: &UnixStream| {
        std::iter::from_fn(|| line(stream)).any(|line| line["result"]["settlement"]["reply"] == "slept")
    };
    let answered = crowd.iter().filter(|stream| reply(stream)).count();
    assert!((1..60).contains(&answered), "{answered}");
    drop((crowd, more));
    let _ended = env.ccb(&["kill"]).ok();
    let _ended = keeper.end();
}

#[test]
fn half_a_line_is_closed_by_the_deadline() {
    let env = TestEnv::new(Setup::of(Vec::new()));
    let _started = env.ccb(&["status"]).ok();
    let mut stream = UnixStream::connect(socket(&env)).unwrap();
    stream.write_all(b"{\"jsonrpc\":").unwrap();
    is_closed(&stream);
}

#[test]
fn what_is_no_call_is_answered_in_words() {
    let env = TestEnv::start(Setup::default());
    let stream = known(&env);
    for garbage in ["7\n", "{\n", "\n", "{\"id\":1}\n", "[[[[\n"] {
        { &stream }.write_all(garbage.as_bytes()).unwrap();
        assert_eq!(line(&stream).unwrap()["error"]["code"], -32700, "{garbage:?}");
    }
    // Values by the million are refused before they are made.
    let sprawling = format!("{{\"method\":\"ps\",\"params\":[{}0]}}\n", "0,".repeat(1 << 20));
    { &stream }.write_all(sprawling.as_bytes()).unwrap();
    let answer = line(&stream).unwrap();
    assert!(answer["error"]["message"].as_str().unwrap().contains("more values"), "{answer}");
    let fine = json!({"jsonrpc": "2.0", "id": 5, "method": "ping", "params": {}});
    { &stream }.write_all(format!("{fine}\n").as_bytes()).unwrap();
    assert_eq!(line(&stream).unwrap()["id"], 5);
    { &stream }.write_all(b"\xff\xfe\n").unwrap();
    assert_eq!(line(&stream).unwrap()["error"]["code"], -32700);
    is_closed(&stream);
}

#[test]
fn who_does_not_read_is_cut_off_and_its_memory_returns() {
    let env = TestEnv::start(Setup::default());
    assert_eq!(env.ask("stub", "ECHO: x").ok(), "x\n");
    let (worker, _) = env.askd();
    let (files, kib) = at_rest(worker);
    let streams: Vec<_> = (0..4).map(|_| known(&env)).collect();
    let over = AtomicBool::new(false);
    for stream in &streams {
        pour(stream, long_call(24 << 20).as_bytes(), &over);
    }
    until("its answers take memory", || (memory(worker) > kib + (64 << 10)).then_some(()));
    until("all are cut off", || (descriptors(worker) <= files).then_some(()));
    assert_eq!(env.log().matches("cut off a connection").count(), streams.len());
    until("the memory is back", || (memory(worker) <= kib + MARGIN_KIB).then_some(()));
    assert_eq!(env.ask("stub", "ECHO: y").ok(), "y\n");
}

#[test]
fn another_user_is_not_served_even_if_the_files_let_it_in() {
    let env = TestEnv::start(Setup::default());
    if !rustix::process::getuid().is_root() {
        return;
    }
    let path = socket(&env);
    let open = |path: &std::path::Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    path.ancestors().take_while(|path| path.starts_with(env.dir())).for_each(open);
    let hello = hello(&env);
    let other = std::thread::spawn(move || {
        // Of this thread alone.
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let _may_be_closed_already = stream.write_all(hello.as_bytes());
        line(&stream)
    });
    assert_eq!(other.join().unwrap(), None);
    until("it is told in the log", || env.log().contains("refused a connection of uid 65534").then_some(()));
    assert_eq!(env.ask("stub", "ECHO: x").ok(), "x\n");
}
