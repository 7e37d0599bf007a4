//! How Claude Code is started: everything is injected for one launch, and nothing of the user's is changed.

use std::io;
use std::path::PathBuf;

use ccb_core::provider::Rung;
use serde_json::{Value, json};

use super::records::transcript_of;
use crate::files::{Files, write_durable};
use crate::transport::ladder::Launching;
use crate::transport::{Launch, shell};

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

/// Prepares a launch of Claude, in the session that it was last in if that is to go on, and writes its private files.
/// On the watched rung the hooks are left out.
pub(crate) fn prepare(launching: &Launching) -> io::Result<Launch> {
    let Launching { config, env, files, program, .. } = launching;
    let home = || env.get("HOME").map(|home| PathBuf::from(home).join(".claude"));
    let records = env.get("CLAUDE_CONFIG_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
    let records = records.map(|dir| files.home().work_dir().join(dir)).unwrap_or_default();
    let file = |name: &str| files.path(&format!("run/{}.{name}.json", config.name));
    let settings = settings(files, config.name.as_str(), launching.rung == Rung::Watched);
    write_durable(&file("settings"), settings.to_string().as_bytes())?;
    write_durable(&file("mcp"), launching.mcp.claude_config().to_string().as_bytes())?;
    let mut options = vec!["--settings".to_owned(), file("settings").display().to_string()];
    options.extend(["--mcp-config".to_owned(), file("mcp").display().to_string()]);
    options.extend(["--append-system-prompt".to_owned(), launching.words.clone()]);
    if launching.auto {
        options.push("--dangerously-skip-permissions".to_owned());
    }
    options.extend(config.args.iter().cloned());
    let known = launching.session.clone();
    // A session without a prompt has no transcript, and cannot be resumed; it can be given once more.
    let resumes = known.as_ref().is_some_and(|session| transcript_of(&records, session).is_some());
    let session = known.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let head = |option: &str| vec![program.clone(), option.to_owned()];
    let resume = (head("--resume"), options.clone());
    let first = head(if resumes { "--resume" } else { "--session-id" });
    let argv = first.into_iter().chain([session.clone()]).chain(options).collect();
    Ok(Launch { records, session, argv, resume })
}

/// Returns what `--settings` adds to the user's own: our hooks, and the permission for our commands.
fn settings(files: &Files, agent: &str, plain: bool) -> Value {
    let mut allowed: Vec<&str> = ALLOWED.to_vec();
    // A message that is too long to paste is read from there; a leading slash more makes a path absolute.
    let bodies = format!("Read(/{}/**)", files.path("bodies").display());
    allowed.extend(["mcp__ccb", &bodies]);
    let mut settings = json!({ "permissions": { "allow": allowed } });
    if !plain {
        let command = shell::hook(files, agent);
        let hook = json!([{ "hooks": [{ "type": "command", "command": command, "timeout": HOOK_LIMIT }] }]);
        settings["hooks"] = EVENTS.iter().map(|event| ((*event).to_owned(), hook.clone())).collect();
    }
    settings
}
