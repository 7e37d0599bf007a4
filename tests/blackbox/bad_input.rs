//! Bad input gets one clear line, a hint, and exit code 1.

use std::path::Path;
use std::process::Command;

use crate::env::{Run, Setup, TestEnv};

/// Asserts that a command said one error, with these words in it or in its hints, and nothing else.
#[track_caller]
fn refused(run: &Run, error: &str, hint: &str) {
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""), "{run:?}");
    let mut lines = run.err.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("error: ") && first.contains(error), "`{error}`: {run:?}");
    let hints: Vec<&str> = lines.collect();
    assert!(hints.iter().all(|line| line.starts_with("hint: ")), "{run:?}");
    assert!(hint.is_empty() || hints.iter().any(|line| line.contains(hint)), "`{hint}`: {run:?}");
}

/// Runs a command with changes to how it is called.
fn changed(env: &TestEnv, program: &str, args: &[&str], change: impl FnOnce(&mut Command) -> &mut Command) -> Run {
    env.begin_with(program, args, "", change).end()
}

/// Makes a directory with nothing in it but links to these programs.
fn only(env: &TestEnv, programs: &[&str]) -> String {
    let dir = env.dir().join("only").join(programs.join("-"));
    std::fs::create_dir_all(&dir).expect("a directory");
    for program in programs {
        let found = ["/usr/local/bin", "/usr/bin", "/bin"].map(|dir| Path::new(dir).join(program));
        let found = found.iter().find(|path| path.exists()).expect("a program of this machine");
        std::os::unix::fs::symlink(found, dir.join(program)).expect("a link");
    }
    dir.display().to_string()
}

#[test]
fn what_cannot_be_asked_is_said_in_one_line() {
    let env = TestEnv::start(Setup::default());
    refused(&env.run("ask", &["stbu", "hello"], ""), "`stbu`", "`stub`");
    refused(&env.run("ask", &["zebra", "hello"], ""), "`zebra`", "agents here: stub");
    refused(&env.run("ask", &["stub", ""], ""), "the message is empty", "ask <agent> <message>");
    refused(&env.run("ask", &["stub"], " \n\t\n"), "the message is empty", "ask <agent> <message>");
    refused(&env.run("ask", &[], ""), "no agent is given", "ccb ps");
    refused(&env.run("ask", &["--bogus", "stub", "x"], ""), "unknown option `--bogus`", "ask --help");
    refused(&env.run("ask", &["stub", "-t", "soon", "x"], ""), "not `soon`", "");
    for command in ["explain", "cancel", "pend"] {
        refused(&env.ccb(&[command, "20260101-000000-000-1-1"]), "no request `20260101-000000-000-1-1`", "ccb ps");
    }
    assert!(env.events_of("stub", "recv").is_empty() && env.requests().is_empty());
}

#[test]
fn a_mistyped_command_line_is_said_in_one_line() {
    let env = TestEnv::new(Setup::default());
    refused(&env.ccb(&["--bogus"]), "--bogus", "--help");
    refused(&env.ccb(&["ps", "--bogus"]), "--bogus", "--help");
    refused(&env.ccb(&["explain"]), "<ID>", "--help");
    refused(&env.ccb(&["explan"]), "`explan`", "`explain`");
    refused(&env.ccb(&["reviewer:claud"]), "`claud`", "");
    // No daemon was started for it.
    assert!(env.processes().is_empty(), "{:?}", env.processes());
}

#[test]
fn without_a_project_nothing_is_asked_and_none_is_made() {
    let env = TestEnv::new(Setup::of(Vec::new()));
    let elsewhere = env.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for args in [&["ps"][..], &["status"], &["ask", "stub", "x"], &["pend", "stub"], &["kill"], &["attach"]] {
        let run = changed(&env, "ccb", args, |command| command.current_dir(&elsewhere));
        refused(&run, "no project here", "`ccb`");
    }
    let run = changed(&env, "ccb", &["zebra"], |command| command.current_dir(&elsewhere));
    refused(&run, "`zebra`", "");
    assert!(!elsewhere.join(".ccb").exists());
    let run = changed(&env, "ccb", &["codex", "--detach"], |command| command.current_dir(env.home()));
    refused(&run, "holds everything of yours", "cd ");
}

#[test]
fn what_is_not_installed_is_named_with_the_way_to_get_it() {
    let env = TestEnv::new(Setup::default());
    let run = changed(&env, "ccb", &["--detach"], |command| command.env("PATH", only(&env, &["sh"])));
    refused(&run, "tmux", "apt install tmux");
    let run = changed(&env, "ccb", &["codex", "--detach"], |command| command.env("PATH", only(&env, &["sh", "tmux"])));
    refused(&run, "Codex CLI is not installed", "npm install -g @openai/codex");
    env.configure("[agents.own]\nprovider = \"codex\"\ncommand = \"./absent\"\ntranscript = \"t.jsonl\"\n");
    let _trusted = env.ccb(&["trust", "--yes"]).ok();
    refused(&env.ccb(&["--detach"]), "`./absent`", "`command` in .ccb/ccb.config");
}

#[test]
fn what_cannot_say_what_it_can_is_told_in_its_own_words_and_asked_again_when_it_is_mended() {
    let env = TestEnv::new(Setup::default().with("PATH", "{world}/bin:/usr/local/bin:/usr/bin:/bin"));
    // Always as long and of the same time: only what it says is another.
    let says = |text: &str| {
        env.install("opencode", &format!("#!/bin/sh\n{text:<100}\n"));
        let file = std::fs::File::options().append(true).open(env.dir().join("bin/opencode")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    says("echo >&2; echo 'Error: half of me was not installed' >&2; exit 1");
    let words = "`opencode --version` fails (exit status: 1): Error: half of me was not installed";
    refused(&env.ccb(&["--detach", "opencode"]), words, "npm install -g opencode-ai");
    refused(&env.ccb(&["--detach", "stub", "opencode"]), words, "or start the others alone: stub");
    assert!(env.ccb(&["ps"]).ok().contains("not running"), "all are started, or none is");
    says("echo 0.9.0");
    refused(&env.ccb(&["--detach", "opencode"]), "OpenCode 0.9.0 is older than", "npm install -g opencode-ai");
}

#[test]
fn a_configuration_that_cannot_be_used_is_named_with_its_line() {
    let env = TestEnv::new(Setup::of(Vec::new()));
    let table = [
        ("codex\n[agents.x]\nprovider = \"codex\"\ncolour = 1\n", ".ccb/ccb.config:4:", "`colour`"),
        ("codex\nclaud\n", ".ccb/ccb.config:2:", "did you mean `claude`?"),
        ("version = 2\n", ".ccb/ccb.config:1:", "`version`"),
        ("\n\n[agents.x\n", ".ccb/ccb.config:3:", ""),
    ];
    for (text, place, what) in table {
        env.configure(text);
        let run = env.ccb(&["--detach"]);
        refused(&run, place, "[agents.NAME]");
        assert!(run.err.contains(what), "{run:?}");
    }
}

#[test]
fn commands_of_a_configuration_run_only_once_they_are_trusted() {
    let env = TestEnv::new(Setup::of(Vec::new()));
    let text = "[agents.own]\nprovider = \"codex\"\ncommand = \"/usr/bin/touch\"\nargs = [\"X\"]\ntranscript = \"t\"\n";
    env.configure(text);
    refused(&env.ccb(&["--detach"]), "not trusted", "`ccb trust`");
    assert!(!env.project().join("X").exists());
    let shown = env.ccb(&["trust", "--yes"]).ok();
    assert!(shown.contains("/usr/bin/touch"), "{shown}");
    env.configure(&text.replace("\"X\"", "\"Y\""));
    refused(&env.ccb(&["--detach"]), "not trusted", "`ccb trust`");
    assert!(!env.project().join("Y").exists());
}
