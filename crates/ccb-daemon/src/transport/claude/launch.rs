//! How Claude Code is started: everything is injected for one launch, and nothing of the user's is changed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ccb_core::config::AgentConfig;
use serde_json::{Value, json};

use super::records::transcript_of;
use crate::files::{Files, write_durable};

/// The events that Claude tells us of. `MessageDisplay` would add latency; the rest tells nothing that we need.
const EVENTS: &[&str] = &["SessionStart", "UserPromptSubmit", "Stop", "StopFailure", "PermissionRequest", "SessionEnd"];

/// How long (s) Claude waits for a hook of ours at the most.
const HOOK_LIMIT: u32 = 5;

/// Our commands, which an agent may run without asking.
const ALLOWED: &[&str] = &[
    "Bash(ask:*)",
    "Bash(pend:*)",
    "Bash(ccb ask:*)",
    "Bash(ccb pend:*)",
    "Bash(ccb ps:*)",
    "Bash(ccb explain:*)",
    "Bash(ccb cancel:*)",
];

/// One agent's launch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Where Claude keeps registry and transcripts.
    pub(crate) config_dir: PathBuf,
    /// The session that it is started in.
    pub(crate) session: String,
    program: String,
    args: Vec<String>,
    resumes: bool,
}

/// What is injected beside our hooks.
#[derive(Clone, Debug)]
pub(crate) struct Extras {
    /// What Claude is told of us.
    pub(crate) instructions: String,
    /// The configuration of MCP servers, as `--mcp-config` takes it.
    pub(crate) mcp: Value,
    /// Whether it acts without asking (`-a`).
    pub(crate) auto: bool,
    /// Whether hooks are left out: the watched rung.
    pub(crate) plain: bool,
}

impl Launch {
    /// Writes the private files of a launch. `session` is the one to go on in, if there is one.
    pub(crate) fn prepare(
        files: &Files,
        config: &AgentConfig,
        env: &BTreeMap<String, String>,
        program: String,
        session: Option<String>,
        extras: &Extras,
    ) -> io::Result<Self> {
        let home = || env.get("HOME").map(|home| PathBuf::from(home).join(".claude"));
        let config_dir = env.get("CLAUDE_CONFIG_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
        let config_dir = config_dir.map(|dir| files.home().work_dir().join(dir)).unwrap_or_default();
        let file = |name: &str| files.path(&format!("run/{}.{name}.json", config.name));
        let settings = settings(files, config.name.as_str(), extras.plain);
        write_durable(&file("settings"), settings.to_string().as_bytes())?;
        write_durable(&file("mcp"), extras.mcp.to_string().as_bytes())?;
        let mut args = vec!["--settings".to_owned(), file("settings").display().to_string()];
        args.extend(["--mcp-config".to_owned(), file("mcp").display().to_string()]);
        args.extend(["--append-system-prompt".to_owned(), extras.instructions.clone()]);
        if extras.auto {
            args.push("--dangerously-skip-permissions".to_owned());
        }
        args.extend(config.args.iter().cloned());
        let known = session.filter(|session| !session.is_empty());
        // A session without a prompt has no transcript, and cannot be resumed; it can be given once more.
        let resumes = known.as_ref().is_some_and(|session| transcript_of(&config_dir, session).is_some());
        let session = known.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Ok(Self { config_dir, session, program, args, resumes })
    }

    /// Returns the command line of the first start.
    pub(crate) fn argv(&self) -> Vec<String> {
        if self.resumes { self.resume(&self.session) } else { self.with("--session-id", &self.session) }
    }

    /// Returns the command line that goes on in a session which has a transcript.
    pub(crate) fn resume(&self, session: &str) -> Vec<String> {
        self.with("--resume", session)
    }

    fn with(&self, option: &str, session: &str) -> Vec<String> {
        let first = [self.program.as_str(), option, session].map(str::to_owned);
        first.into_iter().chain(self.args.iter().cloned()).collect()
    }
}

/// Returns what `--settings` adds to the user's own: our hooks, and the permission for our commands.
fn settings(files: &Files, agent: &str, plain: bool) -> Value {
    let mut allowed: Vec<&str> = ALLOWED.to_vec();
    // A message that is too long to paste is read from there; a leading slash more makes a path absolute.
    let bodies = format!("Read(/{}/**)", files.path("bodies").display());
    allowed.extend(["mcp__ccb", &bodies]);
    let mut settings = json!({ "permissions": { "allow": allowed } });
    if !plain {
        let program = files.path("bin/ccb");
        let (agent, project) = (quoted(Path::new(agent)), quoted(files.home().work_dir()));
        let command = format!("{} hook {agent} {project} || :", quoted(&program));
        let hook = json!([{ "hooks": [{ "type": "command", "command": command, "timeout": HOOK_LIMIT }] }]);
        settings["hooks"] = EVENTS.iter().map(|event| ((*event).to_owned(), hook.clone())).collect();
    }
    settings
}

/// Returns a path as one word of a shell: nothing in it means anything to `sh`, `bash`, `zsh` or `fish`, of which
/// the last reads a backslash also inside quotes.
fn quoted(path: &Path) -> String {
    let mut word = String::from("'");
    for c in path.display().to_string().chars() {
        match c {
            '\'' => word.push_str(r"'\''"),
            '\\' => word.push_str(r"'\\'"),
            c => word.push(c),
        }
    }
    word + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for name in ["a b", "it's", "$(touch x)`y`\"z\"", r"back\slash'", "ünï;&|*?~#!", "line\nend"] {
            let word = quoted(Path::new(name));
            for shell in ["sh", "bash"] {
                let script = format!("printf %s {word}");
                let output = std::process::Command::new(shell).args(["-c", &script]).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout), name, "{shell}: {word}");
            }
        }
    }
}
