//! The user's home, configuration and login stay the user's own.

use std::path::{Path, PathBuf};

use crate::env::{Lab, Setup, files_below, lab, until, write_program};

/// A server that speaks just enough MCP.
const MCP: &str = r#"#!/bin/sh
while read -r line; do
    id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
    case $line in
    *'"initialize"'*) result='{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"m","version":"1"}}' ;;
    *tools/list*) result='{"tools":[]}' ;;
    *) continue ;;
    esac
    printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$result"
done
"#;

/// A realistic configuration: comments, keys of the user's own, MCP servers, hooks, another project's trust.
const KEYS: &str = "# My own notes; keep them.\napproval_policy = \"on-request\"\nsandbox_mode = \"workspace-write\"\n\
    model_reasoning_effort = \"low\"   # enough for tests\n";
const TABLES: &str = "[sandbox_workspace_write]\nnetwork_access = true\n\n[mcp_servers.mine]\ncommand = \"./mcp\"\n\n\
    [[hooks.Stop]]\n[[hooks.Stop.hooks]]\ntype = \"command\"\ncommand = \"true\"\n\n\
    [projects.\"/elsewhere\"]\ntrust_level = \"trusted\"\n# the end\n";

fn config(lab: &Lab) -> PathBuf {
    lab.codex_home().join("config.toml")
}

/// Copies the user's own files of Codex.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["config.toml", "auth.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn configuration_and_login_are_as_codex_alone_would_leave_them() {
    let Some(lab) = lab(Setup { config: (KEYS, TABLES), ..Setup::default() }) else { return };
    let _made = lab.run("git", &["init", "-q"], "").ok();
    write_program(&lab.project().join("mcp"), MCP);
    let login = "{\"OPENAI_API_KEY\": \"sk-fake-login\"}\n";
    std::fs::write(lab.codex_home().join("auth.json"), login).unwrap();
    let before = std::fs::read_to_string(config(&lab)).unwrap();
    let alone = lab.dir().join("alone");
    copy(&lab.codex_home(), &alone.join(".codex"));

    lab.start();
    for number in 0..5 {
        assert_eq!(lab.ask(&format!("ECHO: {number}")).ok(), format!("{number}\n"));
    }
    let _shown = lab.until_shown("Hooks need review");
    let _killed = lab.ccb(&["kill"]).ok();
    let after = std::fs::read_to_string(config(&lab)).unwrap();

    assert_eq!(std::fs::read_to_string(lab.codex_home().join("auth.json")).unwrap(), login);
    // What Codex's own terminal interface writes down by itself, excepted by name.
    let written = "\n[tui]\nscreen_reader_detection_done = true\n";
    assert_eq!(after.replacen(written, "", 1), before);

    // The same by Codex alone, in a copy of that home: byte for byte the same.
    let socket = lab.dir().join("alone.sock");
    let tmux = |args: &[&str]| {
        let mut command = lab.command("tmux");
        command.args(["-f", "/dev/null", "-S"]).arg(&socket).args(args).env("HOME", &alone);
        assert!(command.output().unwrap().status.success());
    };
    tmux(&["new-session", "-d", "-x", "120", "-y", "40", "codex --no-daemon"]);
    until("codex alone has written the same", || {
        let same = std::fs::read_to_string(alone.join(".codex/config.toml")).is_ok_and(|text| text == after);
        same.then_some(())
    });
    tmux(&["kill-server"]);

    let foreign: Vec<PathBuf> = files_below(&lab.home())
        .into_iter()
        .filter(|file| !file.starts_with(lab.codex_home()) && !file.starts_with(lab.home().join(".local/state/ccb")))
        .collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

#[test]
fn a_home_and_a_project_with_blanks_quotes_and_commands_in_their_names_work_and_nothing_runs() {
    let (home, project) = ("my 'ho\"me $(touch X)", "my 'wo\"rk `touch X` $(touch X)");
    let Some(lab) = lab(Setup { home, project, ..Setup::default() }) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: hello").ok(), "hello\n");
    let _shown = lab.until_shown("hello");
    let (id, going) = lab.ask_meanwhile("SLEEP 2: a secret-of-the-prompt");
    let _working = lab.until_request(&id, "working");
    let processes = lab.processes();
    assert!(processes.len() >= 5, "{processes:#?}");
    for (_, line) in processes {
        assert!(!line.contains("secret-of-the-prompt") && !line.contains("sk-fake-0"), "{line}");
    }
    assert_eq!(going.end().json()["settlement"]["outcome"]["word"], "completed");
    lab.kill(lab.process("app-server"));
    assert_eq!(lab.ask("ECHO: again").ok(), "again\n");
    let executed: Vec<PathBuf> =
        files_below(lab.dir()).into_iter().filter(|file| file.file_name().is_some_and(|name| name == "X")).collect();
    assert!(executed.is_empty(), "{executed:#?}");
}

#[test]
fn a_codex_that_cannot_be_joined_is_refused_in_one_clear_message() {
    let dir = tempfile::tempdir().unwrap();
    write_program(&dir.path().join("codex"), "#!/bin/sh\necho 'usage: codex [prompt]'\n");
    let first_on_path = Some(dir.path().to_owned());
    let Some(lab) = lab(Setup { first_on_path, ..Setup::default() }) else { return };
    let run = lab.ccb(&["--detach", "codex"]);
    assert!(run.out.is_empty() && run.err.lines().count() <= 2, "{run:?}");
    run.says(1, &["cannot be joined", "0.169", "hint: "]);
    assert!(!lab.processes().iter().any(|(_, line)| line.contains("app-server")));
}

#[test]
fn a_home_whose_path_is_too_long_for_a_socket_works() {
    let home = "a-home-with-a-very-long-name/that-goes-on/and-on-over-several-directories/until-no-socket-address-could-hold-it/really";
    let Some(lab) = lab(Setup { home, ..Setup::default() }) else { return };
    lab.start();
    assert_eq!(lab.ask("ECHO: hello").ok(), "hello\n");
    let _shown = lab.until_shown("hello");
    lab.kill(lab.process("app-server"));
    assert_eq!(lab.ask("ECHO: again").ok(), "again\n");
    let _shown = lab.until_shown("again");
}
