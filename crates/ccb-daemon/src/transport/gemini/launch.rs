//! How Gemini CLI is started: all that is ours is an extension and a policy in its private overlay.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use ccb_core::provider::Rung;
use serde_json::{Value, json};

use super::overlay::{OURS, Overlay, is_overlay};
use super::records::{is_resumable, is_taken};
use crate::files::write_private;
use crate::transport::ladder::Launching;
use crate::transport::{Launch, shell};

/// The events that Gemini tells us of; each hook delays it by the start of a program. What the others would tell is in
/// the transcript as soon.
const EVENTS: &[&str] = &["SessionStart", "AfterAgent", "Notification"];

/// How long (ms) Gemini waits for a hook of ours at the most. While it draws a long answer it may not get to giving
/// the hook its input for many seconds.
const HOOK_LIMIT: u32 = 30_000;

/// How long (ms) a tool of ours may take: longer than its longest wait.
const TOOL_LIMIT: u32 = 660_000;

/// The file with what Gemini is told of us.
const WORDS: &str = "about-ccb.md";

/// Our commands, which an agent may run without asking.
const ALLOWED: &[&str] = &["ask", "pend", "ccb ask", "ccb pend", "ccb ps", "ccb explain", "ccb cancel"];

/// The variables by which paths reach Gemini: it fills in `$NAME` in an extension's configuration, once.
const PROGRAM: &str = "CCB_MCP_PROGRAM";
const PROJECT: &str = "CCB_MCP_PROJECT";

/// A launch, and the variables that it needs.
pub(super) struct Prepared {
    pub(super) launch: Launch,
    pub(super) env: BTreeMap<String, String>,
}

/// Prepares a launch of Gemini, in the session that it was last in if that is to go on.
pub(super) fn prepare(launching: &Launching) -> io::Result<Prepared> {
    let Launching { config, env, files, program, .. } = launching;
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let place = |name: &str| set(name).map(|path| files.home().work_dir().join(path));
    // An overlay of ours is nobody's own: `ccb` was called in the shell of a Gemini that was started by us.
    let user = place("GEMINI_CLI_HOME").filter(|path| !is_overlay(path)).or_else(|| place("HOME"));
    let user = user.unwrap_or_else(|| files.home().work_dir().to_owned());
    let overlay = Overlay::new(files.path(&format!("run/{}.gemini", config.name)), user);
    overlay.refresh()?;
    extend(launching, &overlay)?;
    let mut ours = BTreeMap::from([
        ("GEMINI_CLI_HOME".to_owned(), overlay.root.display().to_string()),
        (PROGRAM.to_owned(), launching.mcp.program.clone()),
        (PROJECT.to_owned(), files.home().work_dir().display().to_string()),
        // Its composer is drawn otherwise, and with a warning, where it believes that colours are few.
        ("COLORTERM".to_owned(), "truecolor".to_owned()),
    ]);
    if set("GEMINI_CLI_TRUSTED_FOLDERS_PATH").is_none() {
        // It is written by a rename, which no link survives.
        let path = overlay.of_user("trustedFolders.json").display().to_string();
        ours.insert("GEMINI_CLI_TRUSTED_FOLDERS_PATH".to_owned(), path);
    }
    let mut options: Vec<String> = Vec::new();
    if launching.auto {
        options.extend(["--approval-mode".to_owned(), "yolo".to_owned()]);
    }
    options.extend(config.args.iter().cloned());
    let chats = overlay.path("tmp");
    let known = launching.session.clone();
    let resumes = known.as_ref().is_some_and(|session| is_resumable(&chats, session));
    // A session that has a prompt and no answer can neither be resumed nor given once more.
    let known = known.filter(|session| resumes || !is_taken(&chats, session));
    let session = known.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let head = |option: &str| vec![program.clone(), option.to_owned()];
    let resume = (head("--resume"), options.clone());
    let first = head(if resumes { "--resume" } else { "--session-id" });
    let argv = first.into_iter().chain([session.clone()]).chain(options).collect();
    Ok(Prepared { launch: Launch { records: chats, session, argv, resume }, env: ours })
}

/// Writes our extension and our policy.
fn extend(launching: &Launching, overlay: &Overlay) -> io::Result<()> {
    let [extension, policy] = OURS;
    let dir = overlay.path("extensions").join(extension);
    fs::create_dir_all(dir.join("hooks"))?;
    let write = |path: &Path, text: &str| write_private(path, text.as_bytes());
    write(&dir.join(WORDS), &launching.words)?;
    write(&dir.join("gemini-extension.json"), &manifest(launching).to_string())?;
    let hooks = match launching.rung {
        Rung::Hooked => hooks(&shell::hook(&launching.files, launching.config.name.as_str())),
        Rung::Joined | Rung::Watched => json!({}),
    };
    write(&dir.join("hooks/hooks.json"), &json!({ "hooks": hooks }).to_string())?;
    write(&overlay.path("policies").join(policy), &rules())
}

fn hooks(command: &str) -> Value {
    let hook = json!([{ "hooks": [{ "type": "command", "name": "ccb", "command": command, "timeout": HOOK_LIMIT }] }]);
    EVENTS.iter().map(|event| ((*event).to_owned(), hook.clone())).collect()
}

fn manifest(launching: &Launching) -> Value {
    // A path may have a dollar in it: it is named, and not written.
    let project = launching.files.home().work_dir().display().to_string();
    let named = |arg: &String| if *arg == project { format!("${PROJECT}") } else { arg.clone() };
    let args: Vec<String> = launching.mcp.args.iter().map(named).collect();
    let env: BTreeMap<&String, String> = launching.mcp.env.keys().map(|name| (name, format!("${name}"))).collect();
    json!({
        "name": OURS[0],
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Lets this agent and the others of the project ask each other (ccb)",
        "contextFileName": WORDS,
        "mcpServers": { "ccb": { "command": format!("${PROGRAM}"), "args": args, "env": env, "timeout": TOOL_LIMIT } },
    })
}

/// Returns the policy: our tools and our commands need no question.
fn rules() -> String {
    let commands = json!(ALLOWED);
    format!(
        "[[rule]]\nmcpName = \"ccb\"\ntoolName = \"*\"\ndecision = \"allow\"\npriority = 100\n\n\
         [[rule]]\ntoolName = \"run_shell_command\"\ncommandPrefix = {commands}\ndecision = \"allow\"\npriority = 100\n"
    )
}
