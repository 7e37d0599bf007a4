//! Names that a shell would run, and words that must stay among us.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::env::{Setup, Stub, TestEnv, files_below, moment};

#[test]
fn blanks_quotes_and_commands_in_paths_are_only_names() {
    let setup = Setup {
        home: "ho me's $(touch X) `touch X`",
        project: "pro ject's \"$(touch X)\" #(touch X) #{pane_id}",
        install: Some("in stall's $(touch X);touch X"),
        ..Setup::of(vec![Stub::new("asker"), Stub::blind("helper")])
    };
    let env = TestEnv::start(setup);
    assert_eq!(env.ask("asker", "ECHO: works").ok(), "works\n");
    assert_eq!(env.ask("asker", "RUN: ask helper --wait 'ECHO: from within'").ok(), "from within\n");
    assert_eq!(env.ask("asker", "RUN: ccb ps > /dev/null && echo fine").ok(), "fine\n");
    env.kill(env.askd().0);
    assert_eq!(env.ask("helper", "ECHO: after a death").ok(), "after a death\n");
    env.kill(env.process("ccb run helper"));
    assert_eq!(env.ask("helper", "ECHO: in another pane").ok(), "in another pane\n");
    let _stopped = env.ccb(&["kill"]).ok();
    let left = files_below(env.dir());
    assert!(left.iter().all(|path| path.file_name().is_none_or(|name| name != "X")), "{left:?}");
}

/// Returns the command lines on this machine that hold one of these words.
fn command_lines_with(words: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| words.iter().any(|word| line.contains(word))).collect()
}

/// Ends the watch, also when the test has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_message_key_or_environment_value_is_ever_in_a_command_line() {
    let secrets = ["word-of-the-prompt-", "value-of-the-key-", "word-of-the-answer-"].map(|word| {
        let number = std::process::id();
        format!("{word}{number}")
    });
    let words = [secrets[0].as_str(), &secrets[1], &secrets[2]];
    let setup = Setup::of(vec![Stub::new("seen"), Stub::blind("blind")]).with("SOME_API_KEY", words[1]);
    let over = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut found = Vec::new();
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                found.extend(command_lines_with(&words));
                looks += 1;
                moment();
            }
            assert!(looks > 20, "{looks}");
            found
        });
        let _over = Over(&over);
        let env = TestEnv::start(setup);
        for agent in ["seen", "blind"] {
            for _ in 0..3 {
                let said = env.ask(agent, &format!("{}\nECHOALL: {}", words[0], words[2])).ok();
                assert_eq!(said.trim_end(), words[2]);
            }
            assert_eq!(env.ask(agent, "RUN: printenv SOME_API_KEY").ok().trim_end(), words[1]);
        }
        env.kill(env.askd().0);
        env.kill(env.process("ccb run seen"));
        assert_eq!(env.ask("seen", "RUN: printenv SOME_API_KEY").ok().trim_end(), words[1]);
        over.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn everything_on_disk_is_the_users_alone() {
    use std::os::unix::fs::MetadataExt as _;
    let env = TestEnv::start(Setup::default());
    assert_eq!(env.ask("stub", "ECHO: x").ok(), "x\n");
    let root = env.state();
    let open: Vec<_> = files_below(&root)
        .into_iter()
        .chain([root.clone(), root.join("run"), root.join("bodies"), root.join("bin")])
        .filter(|path| std::fs::symlink_metadata(path).is_ok_and(|data| !data.is_symlink() && data.mode() & 0o077 != 0))
        .collect();
    assert!(open.is_empty(), "{open:?}");
}
