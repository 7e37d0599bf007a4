//! Find or start, against a daemon that is a thread of the test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use ccb_core::wire::{Code, Line, Ping, Pong, answer_line, parse_call};
use serde_json::json;

use super::*;

/// A project with an askd program that is a shell script.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) askd: Askd,
}

/// What the thread answers; none: it hangs up.
pub(crate) type Answer = Option<Result<serde_json::Value, Refusal>>;

impl World {
    pub(crate) fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path(), &dir.path().join("p"));
        std::fs::create_dir_all(home.root()).unwrap();
        let program = dir.path().join("askd");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = [("PATH".into(), "/usr/bin:/bin".into())].into_iter().collect();
        let keeper = Keeper { program, work_dir: dir.path().to_owned(), environment };
        let askd = Askd { home, caller: None, role: "client", keeper, autostart: true, force: false, quiet: false };
        Self { dir, askd }
    }

    fn socket(&self) -> PathBuf {
        self.askd.home.path(file::SOCKET)
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.socket()).unwrap()
    }

    /// Serves `count` connections, one after another.
    pub(crate) fn serve(&self, count: usize, mut answers: impl FnMut(&Line, &str) -> Answer + Send + 'static) {
        let listener = self.listen();
        let project = self.askd.home.project().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(count) {
                let mut stream = stream.unwrap();
                for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
                    let call = parse_call(&line).unwrap();
                    let Some(result) = answers(&call, &project) else { break };
                    stream.write_all(answer_line(&call.id, result).as_bytes()).unwrap();
                }
            }
        });
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.dir.path().join("starts")).unwrap_or_default().lines().count()
    }
}

pub(crate) fn welcome(project: &str, keeper: bool) -> serde_json::Value {
    json!({"protocol": 1, "version": "0", "project": project, "work_dir": "/p", "generation": 1, "pid": 1, "keeper": keeper})
}

/// Greets, and answers each ping.
#[expect(clippy::unnecessary_wraps, reason = "one of several")]
fn well(call: &Line, project: &str) -> Answer {
    Some(Ok(if call.method == "hello" { welcome(project, true) } else { json!({"generation": 7}) }))
}

fn soon() -> Patience<'static> {
    Patience::of(Duration::from_secs(20))
}

const COUNT: &str = "echo x >> \"$2/starts\"; ";

#[test]
fn a_daemon_that_serves_is_found_and_none_is_started() {
    let world = World::new(&format!("{COUNT} echo held"));
    world.serve(1, well);
    let mut connection = world.askd.find_or_start(soon()).unwrap();
    assert_eq!(connection.call(&Ping {}).unwrap(), Pong { generation: 7, stalled_ms: None });
    assert_eq!(world.starts(), 0);
}

#[test]
fn a_keeper_is_started_where_nobody_serves_and_waited_for_when_another_is_held() {
    let world = World::new(&format!("{COUNT} echo held"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while world.starts() == 0 {
                std::thread::yield_now();
            }
            world.serve(1, well);
        });
        world.askd.find_or_start(soon()).unwrap();
    });
    assert!(world.starts() >= 1);
}

#[test]
fn a_keepers_error_is_the_answer() {
    let world = World::new("echo error: the disk is full");
    let error = world.askd.find_or_start(soon()).unwrap_err();
    let error = world.askd.explain(error);
    assert_eq!(error.message, "askd cannot start: the disk is full");
    assert!(error.hints[0].contains("askd.log"), "{error:?}");
}

#[test]
fn a_missing_keeper_program_is_told() {
    let mut world = World::new("");
    world.askd.keeper.program = "/no/such/askd".into();
    let error = world.askd.find_or_start(soon()).unwrap_err();
    assert!(error.to_string().starts_with("cannot start /no/such/askd: "), "{error}");
}

#[test]
fn a_daemon_that_accepts_and_says_nothing_ends_in_a_clear_error_at_the_deadline() {
    let world = World::new("echo held");
    let listener = world.listen();
    let error = world.askd.find_or_start(Patience::of(Duration::from_millis(300))).unwrap_err();
    let error = world.askd.explain(error);
    assert!(error.message.starts_with("askd does not answer: "), "{error:?}");
    assert!(error.hints[0].contains("askd.log"), "{error:?}");
    drop(listener);
}

#[test]
fn a_full_backlog_blocks_nobody() {
    let world = World::new(&format!("{COUNT} echo held"));
    let listener = world.listen();
    rustix::net::listen(&listener, 0).unwrap();
    let waiting: Vec<UnixStream> = std::iter::from_fn(|| world.askd.dial().ok()).take(100).collect();
    assert!(waiting.len() < 100);
    let error = world.askd.find_or_start(Patience::of(Duration::from_millis(50))).unwrap_err();
    assert!(matches!(error, ConnectError::NoAnswer(_)), "{error:?}");
    assert_eq!(world.starts(), 0);
}

#[test]
fn starting_can_be_forbidden() {
    let mut world = World::new(&format!("{COUNT} echo ready"));
    world.askd.autostart = false;
    assert!(matches!(world.askd.find_or_start(soon()), Err(ConnectError::Forbidden)));
    assert!(world.askd.find().unwrap().is_none());
    assert_eq!(world.starts(), 0);
}

#[test]
fn refusals_are_shown_with_their_hint() {
    let world = World::new("echo held");
    world.serve(1, |_, _| Some(Err(Refusal::new(Code::Protocol, "askd speaks protocol 2").hint("ccb restart"))));
    let error = world.askd.find_or_start(soon()).unwrap_err();
    assert_eq!(world.askd.explain(error).text(), "error: askd speaks protocol 2\nhint: ccb restart\n");
}

#[test]
fn the_daemon_of_another_project_is_not_ours() {
    let world = World::new("echo held");
    world.serve(1, |_, _| Some(Ok(welcome("other", true))));
    let error = world.askd.find_or_start(soon()).unwrap_err();
    assert_eq!(error.to_string(), "the askd found here serves another project: /p");
}

#[test]
fn a_daemon_without_a_keeper_is_given_one() {
    let world = World::new(&format!("{COUNT} echo held"));
    world.serve(1, |_, project| Some(Ok(welcome(project, false))));
    world.askd.find_or_start(soon()).unwrap();
    while world.starts() == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_call_whose_connection_is_lost_is_made_again() {
    let world = World::new("echo held");
    let mut losses = 1;
    world.serve(2, move |call, project| {
        if call.method == "ping" && losses > 0 {
            losses -= 1;
            return None;
        }
        well(call, project)
    });
    assert_eq!(world.askd.call(&Ping {}).unwrap(), Pong { generation: 7, stalled_ms: None });
}

#[test]
fn a_forbidden_socket_is_the_sandbox_and_nothing_is_started() {
    for errno in [Errno::PERM, Errno::ACCESS] {
        let Miss::Final(error) = miss(errno.into()) else { panic!("{errno}") };
        assert!(error.to_string().starts_with("this sandbox forbids askd's socket"), "{error}");
    }
    assert!(matches!(miss(Errno::CONNREFUSED.into()), Miss::Absent(_)));
}
