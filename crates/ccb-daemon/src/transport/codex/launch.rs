//! How Codex and its app-server are started.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ccb_core::instructions;
use ccb_core::provider::{Provider, Rung, codex_hooks};
use ccb_core::screen::Look;
use ccb_core::wire::ServerSpec;
use toml::{Table, Value};

use super::rollout::{Rollouts, of_thread};
use crate::engine::log;
use crate::mount::read_small;
use crate::tmux::Key;
use crate::transport::Launch;
use crate::transport::ladder::{Launching, Probe, Ready, Version, Way};
use crate::transport::watched;

/// The ways to drive Codex.
pub(crate) const WAYS: &[Way] = &[
    Way {
        provider: Provider::Codex,
        rung: Rung::Joined,
        fits: |probe| Box::pin(can_be_joined(probe)),
        asks: false,
        prepare: |launching| Ok(joined(launching)),
    },
    Way {
        provider: Provider::Codex,
        rung: Rung::Hooked,
        fits: |probe| Box::pin(can_be_hooked(probe)),
        asks: true,
        prepare: |launching| Ok(alone(launching)),
    },
    Way {
        provider: Provider::Codex,
        rung: Rung::Watched,
        fits: |probe| Box::pin(can_be_watched(probe)),
        asks: true,
        prepare: |launching| Ok(alone(launching)),
    },
];

/// The first version whose rollouts are known to tell the ends of turns. Of older ones the screen tells.
const TELLS_ENDS: Version = Version(0, 169, 0);

/// Where an agent's app-server and program are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The path by which the app-server's socket is reached from here.
    pub(crate) reach: PathBuf,
    /// Its address for the TUI.
    pub(crate) address: String,
    /// The program.
    pub(crate) program: String,
    /// Arguments that the user has configured.
    pub(crate) args: Vec<String>,
    /// The project's directory.
    pub(crate) project: String,
    /// What the agent is told about itself and the others.
    pub(crate) words: String,
}

/// Says why the installed Codex cannot be joined: an old app-server cannot listen on a socket.
pub(crate) async fn can_be_joined(probe: &Probe<'_>) -> Result<(), String> {
    if probe.says(&["app-server", "--help"]).await?.contains("--listen") {
        return Ok(());
    }
    Err("its app-server cannot listen on a socket; Codex 0.169 can".into())
}

/// Says why the installed Codex cannot be hooked. It runs no hook that its user has not reviewed, and the review is not
/// ours to give: only who asks for this rung is shown it.
pub(crate) async fn can_be_hooked(probe: &Probe<'_>) -> Result<(), String> {
    if !probe.says(&["--help"]).await?.contains("hook-trust") {
        return Err("it takes no hooks for one launch".into());
    }
    let config = codex_home(probe.env).and_then(|home| read_small(&home.join("config.toml")).ok());
    if probe.forced || codex_hooks::are_trusted(&config.unwrap_or_default()) {
        return Ok(());
    }
    Err("you have not reviewed ccb's hooks in Codex, which asks when `rung = \"hooked\"` is in its table in .ccb/ccb.config".into())
}

/// Says why the installed Codex cannot be watched.
pub(crate) async fn can_be_watched(probe: &Probe<'_>) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("this system does not tell which rollout a program has open".into());
    }
    if probe.says(&["--help"]).await?.contains("resume") {
        return Ok(());
    }
    Err("it cannot resume a session".into())
}

/// Prepares a launch on the hooked or the watched rung: the TUI alone.
pub(crate) fn alone(launching: &Launching) -> Ready {
    let Launching { files, env, program, config, .. } = launching;
    let project = files.home().work_dir();
    let home = codex_home(env).map(|home| project.join(home)).unwrap_or_default();
    let sessions = home.join("sessions");
    let mut options = Vec::new();
    // Without this, several TUIs share one server, with the options and the environment of the first.
    if launching.help.contains("--no-daemon") {
        options.push("--no-daemon".to_owned());
    }
    if launching.rung == Rung::Hooked {
        options.extend(codex_hooks::options());
    }
    options.extend(launching.mcp.codex_options(project, env));
    if let Some(words) = words(&[home.join("config.toml"), project.join(".codex/config.toml")], &launching.words) {
        options.extend(["-c".to_owned(), format!("developer_instructions={}", Value::String(words))]);
    }
    if launching.auto {
        options.extend(AUTO.map(str::to_owned));
    }
    options.extend(config.args.iter().cloned());
    // A thread without a turn has no rollout, and cannot be resumed.
    let session = launching.session.clone().filter(|session| of_thread(&sessions, session).is_some());
    let head = [program.clone(), "resume".to_owned()];
    let argv = match &session {
        Some(session) => head.iter().chain([session]).chain(&options).cloned().collect(),
        None => std::iter::once(program).chain(&options).cloned().collect::<Vec<_>>(),
    };
    let session = session.unwrap_or_default();
    let told = launching.version.is_none_or(|version| version >= TELLS_ENDS);
    let rollouts = Rollouts::new(sessions, &session, told);
    let launch = Launch { records: home, session, argv, resume: (head.to_vec(), options) };
    let env = [("CCB_HOOK_PROJECT".to_owned(), project.display().to_string())].into();
    Ready { env, ..watched::ready(launching, launch, rollouts, Look::Codex, &[Key::Escape]) }
}

/// The user's word for one launch (`ccb -a`).
const AUTO: [&str; 4] = ["-c", "approval_policy=\"never\"", "-c", "sandbox_mode=\"danger-full-access\""];

/// Returns where Codex keeps what is its own.
fn codex_home(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let own = env.get("CODEX_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    own.or_else(|| Some(Path::new(env.get("HOME")?).join(".codex")))
}

/// Returns the user's own instructions, with ours after them: what is given takes the place of what is configured.
/// Where the user's cannot be read, nothing is given.
fn words(configs: &[PathBuf], ours: &str) -> Option<String> {
    let mut users = None;
    for path in configs {
        let text = match read_small(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        let config: Table = text.parse().ok()?;
        if let Some(text) = config.get("developer_instructions").and_then(Value::as_str) {
            users = Some(text.to_owned());
        }
    }
    Some(instructions::after(users.as_deref(), ours))
}

/// Makes the directory that the TUI makes of itself where Codex has never run: the app-server alone ends without it (0.169.0).
/// One that the user has named is the user's to make.
fn make_home(env: &BTreeMap<String, String>) {
    let named = env.get("CODEX_HOME").is_some_and(|home| !home.is_empty());
    if let Some(home) = codex_home(env).filter(|home| !named && !home.exists())
        && let Err(error) = DirBuilder::new().mode(0o700).create(&home)
    {
        log(&format!("cannot make `{}`, without which Codex's server ends: {error}", home.display()));
    }
}

/// Prepares a launch on the joined rung: the app-server first, the TUI once a thread is there.
pub(crate) fn joined(launching: &Launching) -> Ready {
    let Launching { agent, files, .. } = launching;
    make_home(&launching.env);
    let socket = files.path(&format!("run/{agent}.sock"));
    let place = Place {
        reach: files.socket(&format!("run/{agent}.sock")),
        address: format!("unix://{}", socket.display()),
        program: launching.program.clone(),
        args: launching.config.args.clone(),
        project: files.home().work_dir().display().to_string(),
        words: launching.words.clone(),
    };
    let options = launching.mcp.codex_options(Path::new(&place.project), &launching.env);
    let server = ServerSpec {
        argv: server_argv(&place, options, launching.auto),
        socket: socket.display().to_string(),
        log: files.path(&format!("run/{agent}.log")).display().to_string(),
    };
    let drive = Box::new(|line, agents| Box::pin(super::run(line, place, agents)) as _);
    Ready { server: Some(server), tui: None, env: [].into(), session: None, anew: None, drive }
}

/// Returns the command line of the app-server. `auto` is the user's own word for this launch (`ccb -a`).
fn server_argv(place: &Place, options: Vec<String>, auto: bool) -> Vec<String> {
    let mut words = vec![place.program.clone()];
    words.extend(options);
    words.extend(place.args.iter().cloned());
    if auto {
        words.extend(AUTO.map(str::to_owned));
    }
    words.extend(["app-server", "--listen", &place.address].map(str::to_owned));
    words
}
