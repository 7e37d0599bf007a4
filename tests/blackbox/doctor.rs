//! `ccb doctor`: it finds what is wrong, says what mends it, and starts nothing.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::env::{Run, Setup, Stub, TestEnv};

/// Returns what was found of an area, each as its level and its text.
fn found(run: &Run, area: &str) -> Vec<String> {
    let report = run.json();
    let findings = report["findings"].as_array().into_iter().flatten();
    let of_area = findings.filter(|finding| finding["area"] == area);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_area.map(|finding| format!("{}: {}", text(&finding["level"]), text(&finding["what"]))).collect()
}

fn doctor(env: &TestEnv) -> Run {
    env.ccb(&["doctor", "--json"])
}

#[test]
fn a_doctor_finds_nothing_wrong_with_what_works_and_starts_nothing() {
    let env = TestEnv::new(Setup::of(vec![Stub::blind("stub")]));
    let before = doctor(&env);
    assert_eq!((before.code, before.json()["faults"].as_u64()), (Some(0), Some(0)), "{before:?}");
    assert_eq!(found(&before, "daemon"), ["note: none serves, and none ever has"]);
    assert!(env.processes().is_empty(), "{:?}", env.processes());
    env.mount();
    let run = doctor(&env);
    assert_eq!(run.code, Some(0), "{run:?}");
    let (worker, _) = env.askd();
    assert!(found(&run, "daemon")[0].starts_with(&format!("ok: askd {}, pid {worker}", env!("CARGO_PKG_VERSION"))));
    assert_eq!(found(&run, "locks"), ["ok: a keeper and a worker hold theirs"]);
    assert!(found(&run, "agents")[0].starts_with("ok: stub (codex, watched: a configured command) is idle"), "{run:?}");
    assert!(found(&run, "panes")[0].starts_with("ok: 1, shown by"), "{run:?}");
    let text = env.ccb(&["doctor"]).ok();
    assert!(text.ends_with("\nnothing is wrong\n"), "{text}");
    let old = env.run("ccb", &["doctor", "--clean"], "").ok();
    assert!(old.contains("nothing is to be cleaned up"), "{old}");
}

#[test]
fn a_doctor_says_what_is_wrong_and_what_mends_it() {
    let env = TestEnv::start(Setup::of(vec![Stub::blind("stub")]));
    let home = env.state();
    std::fs::set_permissions(home.join("askd.log"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let run = doctor(&env);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(found(&run, "home")[0].starts_with("fault: others may look into"), "{run:?}");
    let text = env.ccb(&["doctor"]).out;
    assert!(text.contains("mend: chmod -R go= '") && text.ends_with("\n1 fault\n"), "{text}");
    // The tmux server that shows the agents is of no use to the doctor.
    let bare = env.begin_with("ccb", &["doctor", "--json"], "", |command| command.env("PATH", "/nowhere")).end();
    assert!(found(&bare, "tmux")[0].starts_with("fault: tmux is not on PATH"), "{bare:?}");
    let elsewhere = env.begin_with("ccb", &["doctor", "--json"], "", |command| command.current_dir(env.dir())).end();
    assert!(found(&elsewhere, "project")[0].starts_with("note: no project here"), "{elsewhere:?}");
}
