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
fn a_codex_that_cannot_be_driven_is_refused_in_one_clear_message() {
    let dir = tempfile::tempdir().unwrap();
    write_program(&dir.path().join("codex"), "#!/bin/sh\necho 'usage: codex [prompt]'\n");
    let first_on_path = Some(dir.path().to_owned());
    let Some(lab) = lab(Setup { first_on_path, ..Setup::default() }) else { return };
    let run = lab.ccb(&["--detach", "codex"]);
    assert!(run.out.is_empty() && run.err.lines().count() <= 2, "{run:?}");
    run.says(1, &["not joined: ", "0.169", "not watched: it cannot resume a session", "hint: "]);
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

#[test]
fn claudes_hooks_reach_askd_from_any_home_and_project() {
    let (home, project) = ("it's a \"home\" $(touch X)", "my \"wörk\" `touch X` & back\\slash");
    let Some(lab) = lab(Setup { home, project, ..Setup::claude() }) else { return };
    lab.start();
    let answer = lab.ask_json("ECHO: hello");
    assert_eq!(answer["settlement"]["reply"], "hello", "{answer}");
    assert_eq!(answer["settlement"]["ended_by"], "hook", "a hook was heard: {answer}");
    assert_eq!(lab.agent()["rung"], "hooked", "{}", lab.agent());
    assert!(lab.ask("MCP: ccb agents {}").ok().contains("claude (you)"));
    let touched = files_below(lab.dir()).into_iter().find(|file| file.file_name().is_some_and(|name| name == "X"));
    assert_eq!(touched, None);
}

/// What Claude counts, times or names anew in each run, beside all that begins with `last`.
const VOLATILE: &[&str] = &[
    "firstStartTime",
    "numStartups",
    "promptQueueUseCount",
    "tipsHistory",
    "userID",
    "machineID",
    "anonymousId",
    "officialMarketplaceAutoInstallLastAttemptTime",
    "officialMarketplaceAutoInstallNextRetryTime",
];

/// Returns the files below a directory, with what is different in each run left out of their names.
fn shape(dir: &Path) -> std::collections::BTreeSet<String> {
    let name = |file: &PathBuf| {
        let path = file.strip_prefix(dir).unwrap().display().to_string();
        path.split(['/', '.'])
            .map(|word| if word.chars().any(|c| c.is_ascii_digit()) { "#" } else { word })
            .collect::<Vec<_>>()
            .join("/")
    };
    files_below(dir).iter().map(name).collect()
}

/// Returns the paths of all keys in a value, with its plain values.
fn keys(value: &serde_json::Value, path: &str, all: &mut std::collections::BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in
                fields.iter().filter(|(name, _)| !name.starts_with("last") && !VOLATILE.contains(&name.as_str()))
            {
                keys(value, &format!("{path}/{name}"), all);
            }
        }
        plain => {
            let _new = all.insert(path.to_owned(), plain.to_string());
        }
    }
}

#[test]
fn claudes_configuration_and_login_are_as_claude_alone_would_leave_them() {
    let settings = "{\n  \"permissions\": { \"allow\": [\"Bash(ls:*)\"] }, \"hooks\": {\n\
        \"Stop\": [{ \"hooks\": [{ \"type\": \"command\", \"command\": \"true\" }] }] }\n}\n";
    let Some(lab) = lab(Setup { settings, ..Setup::claude() }) else { return };
    let login = "{\"claudeAiOauth\":{}}\n";
    std::fs::write(lab.claude_home().join(".credentials.json"), login).unwrap();
    let alone = lab.dir().join("alone");
    std::fs::create_dir_all(alone.join(".claude")).unwrap();
    for name in [".claude.json", ".claude/settings.json", ".claude/.credentials.json"] {
        std::fs::copy(lab.home().join(name), alone.join(name)).unwrap();
    }
    let before = std::fs::read_to_string(lab.claude_home().join("settings.json")).unwrap();

    lab.start();
    for number in 0..3 {
        assert_eq!(lab.ask(&format!("ECHO: {number}")).ok(), format!("{number}\n"));
    }
    let _killed = lab.ccb(&["kill"]).ok();

    // The same by Claude alone, in a copy of that home.
    let socket = lab.dir().join("alone.sock");
    let tmux = |args: &[&str]| {
        let mut command = lab.command("tmux");
        command.args(["-f", "/dev/null", "-S"]).arg(&socket).args(args).env("HOME", &alone);
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let shows = |text: &str| until(text, || tmux(&["capture-pane", "-p"]).contains(text).then_some(()));
    let _made = tmux(&["new-session", "-d", "-x", "200", "-y", "50", "claude"]);
    shows("auto mode on");
    for number in 0..3 {
        let _typed = tmux(&["send-keys", "-l", &format!("ECHO: alone {number}")]);
        shows(&format!("ECHO: alone {number}"));
        let _entered = tmux(&["send-keys", "Enter"]);
        shows(&format!("● alone {number}"));
    }
    let _ended = tmux(&["kill-server"]);
    until("Claude alone has ended", || {
        lab.processes().iter().all(|(_, line)| !line.starts_with("claude")).then_some(())
    });

    assert_eq!(std::fs::read_to_string(lab.claude_home().join("settings.json")).unwrap(), before);
    assert_eq!(std::fs::read_to_string(lab.claude_home().join(".credentials.json")).unwrap(), login);
    let (with, without) = (shape(&lab.claude_home()), shape(&alone.join(".claude")));
    let ours: Vec<&String> = with.difference(&without).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    let state = |home: &Path| {
        let mut all = std::collections::BTreeMap::new();
        let value = serde_json::from_str(&std::fs::read_to_string(home.join(".claude.json")).unwrap()).unwrap();
        keys(&value, "", &mut all);
        all
    };
    let (with, without) = (state(&lab.home()), state(&alone));
    let ours: Vec<_> = with.iter().filter(|(path, value)| without.get(*path) != Some(value)).collect();
    assert!(ours.is_empty(), "{ours:#?}\n{without:#?}");
    // What Claude writes elsewhere it writes alone, too, at its own time (a handler for its links); but for its log of
    // our MCP server.
    let own = [".claude/", ".local/state/ccb/", ".claude.json", ".local/share/applications/claude-code-url-handler."];
    let foreign: Vec<String> = files_below(&lab.home())
        .into_iter()
        .map(|file| file.strip_prefix(lab.home()).unwrap().display().to_string())
        .filter(|file| !own.iter().any(|own| file.starts_with(own)) && !file.contains("/mcp-logs-ccb/"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}
