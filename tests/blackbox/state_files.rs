//! `askd.json` and `askd.last.json`: true, private, and written again whatever becomes of them.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::env::{Setup, TestEnv, signal, until};
use crate::supervision::last;

#[test]
fn state_files_that_are_damaged_are_written_again_and_lead_nobody_astray() {
    let env = TestEnv::start(Setup::default().with("CCB_WATCHDOG_INTERVAL_S", "1"));
    let state = env.state();
    let before = env.askd();
    let (path, last_path) = (state.join("askd.json"), state.join("askd.last.json"));
    let whole = std::fs::read_to_string(&path).unwrap();
    let stranger = env.dir().join("stranger.sock");
    let listener = UnixListener::bind(&stranger).unwrap();
    listener.set_nonblocking(true).unwrap();
    let pointing = whole.replace(&state.join("askd.sock").display().to_string(), &stranger.display().to_string());
    assert_ne!(pointing, whole);
    for damage in [None, Some(""), Some(&whole[..20]), Some("\0garbage"), Some(&pointing)] {
        for file in [&path, &last_path] {
            match damage {
                None => std::fs::remove_file(file).unwrap(),
                Some(text) => std::fs::write(file, text).unwrap(),
            }
        }
        assert_eq!(env.ask("stub", "ECHO: all the same").ok(), "all the same\n");
        until("both are whole again", || {
            let healed = std::fs::read_to_string(&path).ok()? == whole && last(&state)["status"] == "running";
            healed.then_some(())
        });
        for file in [&path, &last_path] {
            assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
    if let Ok((mut stream, _)) = listener.accept() {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        panic!("somebody has come to the stranger: {said:?}");
    }
    assert_eq!(env.askd(), before);
}

#[test]
fn a_panic_leaves_its_message_and_its_place() {
    let env = TestEnv::new(Setup::default().with("CCB_FAILPOINT", "engine.before-commit=panic:{world}/mark"));
    std::fs::write(env.dir().join("mark"), "").unwrap();
    env.mount();
    std::fs::remove_file(env.dir().join("mark")).unwrap();
    assert_eq!(env.ask("stub", "ECHO: all the same").ok(), "all the same\n");
    let end = env.status()["last_end"].as_str().unwrap().to_owned();
    assert!(end.contains("panicked at crates/ccb-daemon/src/failpoint.rs:"), "{end}");
    assert!(end.contains("as CCB_FAILPOINT demands"), "{end}");
}

#[test]
fn the_last_end_says_who_asked_and_which_signal() {
    let env = TestEnv::start(Setup::default());
    let state = env.state();
    signal(env.askd().0, Signal::KILL);
    until("it is told", || {
        env.status()["last_end"].as_str().is_some_and(|end| end.contains("KILL): by somebody")).then_some(())
    });
    assert_eq!(env.ccb(&["kill"]).ok(), "stopped\n");
    until("it has stopped", || (last(&state)["status"] == "stopped").then_some(()));
    let last = last(&state);
    let why = last["exit_reason"].as_str().unwrap();
    assert!(why.contains("asked by ccb kill (pid "), "{last:#}");
    assert_eq!((&last["exit_code"], &last["signal"]), (&0.into(), &serde_json::Value::Null));
    assert!(!state.join("askd.json").exists() && !state.join("askd.sock").exists());
}

#[test]
fn a_stranger_at_askds_socket_is_neither_adopted_nor_ended() {
    let env = TestEnv::new(Setup::default());
    let _started = env.ccb(&["ps"]).ok();
    let state = env.state();
    let _ended = env.ccb(&["kill"]).ok();
    // This test itself listens where askd would: of the same user, and no worker.
    let stranger = UnixListener::bind(state.join("askd.sock")).unwrap();
    let askd = env.begin("askd", &["--project", &env.project().display().to_string()], "");
    let (worker, _) = env.askd();
    assert_ne!(worker, std::process::id());
    assert!(env.log().contains("is no worker of ours: it is left alone"), "{}", env.log());
    let _ended = env.ccb(&["kill"]).ok();
    assert_eq!(askd.end().code, Some(0));
    drop(stranger);
}
