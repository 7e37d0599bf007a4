//! How OpenCode is started with a server of its own, on a port and with a password that only this launch has.
//!
//! What it is given stands in its environment alone. OpenCode joins `OPENCODE_CONFIG_CONTENT` with the user's files key
//! by key, and lists of instructions one after the other: nothing of the user's is taken away.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use ccb_core::provider::{Provider, Rung};
use ccb_core::screen::Look;
use ccb_core::wire::{Code, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::log;
use crate::files::write_private;
use crate::mount::read_small;
use crate::process::Identity;
use crate::tmux::Key;
use crate::transport::Launch;
use crate::transport::ladder::{Launching, Probe, Ready, Version, Way};
use crate::transport::opencode::database::Database;
use crate::transport::watched;

/// The ways to drive OpenCode.
pub(crate) const WAYS: &[Way] = &[
    Way {
        provider: Provider::Opencode,
        rung: Rung::Joined,
        fits: |probe| Box::pin(can_be_joined(probe)),
        asks: false,
        prepare: joined,
    },
    Way {
        provider: Provider::Opencode,
        rung: Rung::Watched,
        fits: |probe| Box::pin(can_be_watched(probe)),
        asks: false,
        prepare: watched,
    },
];

/// The first version that is known to be driven so.
const FIRST: Version = Version(1, 18, 0);

/// Where a user's own inline configuration stands, and ours.
const CONFIG: &str = "OPENCODE_CONFIG_CONTENT";

/// How the OpenCode of a launch is reached and started, kept in the home: for a later askd, and for a transport that
/// outlives the launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Door {
    /// The process in the pane that the launch is for.
    runner: Identity,
    /// The port of its server on loopback.
    pub(crate) port: u16,
    /// The server's password.
    pub(crate) password: String,
    /// The command line without a session.
    pub(crate) argv: Vec<String>,
    /// The session that the first start shows, if there is one.
    pub(crate) session: Option<String>,
}

/// Where an agent's door is kept, and its project.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    door: PathBuf,
    /// The project's directory.
    pub(crate) project: PathBuf,
}

impl Place {
    /// Returns the door of the last launch.
    pub(crate) fn door(&self) -> io::Result<Door> {
        Ok(serde_json::from_slice(&std::fs::read(&self.door)?)?)
    }
}

/// Says why nothing is known of the installed OpenCode's `part`.
async fn known(probe: &Probe<'_>, part: &str) -> Result<(), String> {
    let version = probe.version().await?;
    if version >= FIRST {
        return Ok(());
    }
    Err(format!("OpenCode {version} is older than {FIRST}, the first whose {part} is known"))
}

/// Says why the installed OpenCode cannot be joined.
pub(crate) async fn can_be_joined(probe: &Probe<'_>) -> Result<(), String> {
    known(probe, "server").await
}

/// Says why the installed OpenCode cannot be watched: its database may be another one.
pub(crate) async fn can_be_watched(probe: &Probe<'_>) -> Result<(), String> {
    known(probe, "database").await
}

/// Prepares a launch on the joined rung.
pub(crate) fn joined(launching: &Launching) -> Result<Ready, Refusal> {
    let place = Place {
        door: launching.files.path(&format!("run/{}.opencode.json", launching.agent)),
        project: launching.files.home().work_dir().to_owned(),
    };
    let door = new_door(&place.door, &launching.runner, command(launching), launching.session.clone())
        .map_err(|error| Refusal::new(Code::Launch, format!("no port can be kept for OpenCode's server: {error}")))?;
    let mut env = environment(launching)?;
    env.insert("OPENCODE_SERVER_USERNAME".into(), "opencode".into());
    env.insert("OPENCODE_SERVER_PASSWORD".into(), door.password.clone());
    let tui = with_session(&door.argv, door.session.as_deref());
    let drive = Box::new(|line, agents| Box::pin(super::run(line, place, agents)) as _);
    Ok(Ready { env, ..Ready::tui(tui, drive) })
}

/// Prepares a launch on the watched rung.
pub(crate) fn watched(launching: &Launching) -> Result<Ready, Refusal> {
    let env = environment(launching)?;
    let argv = command(launching);
    let first = with_session(&argv, launching.session.as_deref());
    let project = launching.files.home().work_dir().display().to_string();
    let database = Database::of(&launching.env, project);
    let before = argv.into_iter().chain(["--session".to_owned()]).collect();
    let launch = Launch {
        records: PathBuf::new(),
        session: launching.session.clone().unwrap_or_default(),
        argv: first,
        resume: (before, Vec::new()),
    };
    // The first asks whether it is meant.
    let interrupt = &[Key::Escape, Key::Escape];
    let ready = watched::ready(launching, launch, database, Look::Opencode, interrupt);
    // A transport that drives it already goes on by the launch that it has.
    Ok(Ready { env, anew: None, ..ready })
}

/// Returns the command line that both rungs begin with.
fn command(launching: &Launching) -> Vec<String> {
    let mut argv = vec![launching.program.clone()];
    argv.extend(launching.config.args.iter().cloned());
    // It answers what would be asked; what the user's configuration denies stays denied.
    argv.extend(launching.auto.then(|| "--auto".to_owned()));
    argv
}

/// Returns what OpenCode is given on either rung: our tools and our words.
fn environment(launching: &Launching) -> Result<BTreeMap<String, String>, Refusal> {
    let words = launching.files.path(&format!("run/{}.instructions.md", launching.agent));
    write_private(&words, launching.words.as_bytes()).map_err(|error| {
        Refusal::new(Code::Launch, format!("what OpenCode is told about the others cannot be kept: {error}"))
    })?;
    let config = config(launching, launching.files.home().work_dir(), &words);
    Ok(config.map(|config| (CONFIG.to_owned(), config)).into_iter().collect())
}

/// Returns the command line that shows a session.
pub(super) fn with_session(argv: &[String], session: Option<&str>) -> Vec<String> {
    let session = session.into_iter().flat_map(|session| ["--session".to_owned(), session.to_owned()]);
    argv.iter().cloned().chain(session).collect()
}

/// Makes and keeps the door of a launch. Its port and password are those of the last one if that was for the same runner:
/// a program that was started so may be running.
fn new_door(path: &Path, runner: &Identity, argv: Vec<String>, session: Option<String>) -> io::Result<Door> {
    let kept = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Door>(&text).ok());
    let (port, password) = if let Some(kept) = kept.filter(|kept| kept.runner == *runner) {
        (kept.port, kept.password)
    } else {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        (free, uuid::Uuid::new_v4().simple().to_string())
    };
    let ours = ["--hostname".to_owned(), "127.0.0.1".to_owned(), "--port".to_owned(), port.to_string()];
    let argv = argv.into_iter().chain(ours).collect();
    let door = Door { runner: runner.clone(), port, password, argv, session };
    write_private(path, json!(door).to_string().as_bytes())?;
    Ok(door)
}

/// Returns the inline configuration of a launch: the user's own, with our MCP server and our words. None if the user has
/// one that cannot be read: it is left as it is.
fn config(launching: &Launching, project: &Path, words: &Path) -> Option<String> {
    let users = launching.env.get(CONFIG).map(|text| serde_json::from_str::<Value>(text));
    let users = match users {
        None => json!({}),
        Some(Ok(users)) if users.is_object() => users,
        Some(_) => {
            log(&format!("{}: {CONFIG} is no JSON object: it stays, and ccb's tools are not given", launching.agent));
            return None;
        }
    };
    let server = (!has_server(&launching.env, project, &users)).then(|| launching.mcp.opencode_config());
    joined_config(users, server, words).map(|config| config.to_string())
}

/// Joins the user's inline configuration with ours; none if it has something else where ours would stand.
fn joined_config(mut users: Value, server: Option<Value>, words: &Path) -> Option<Value> {
    let keys = users.as_object_mut()?;
    let instructions = keys.entry("instructions").or_insert_with(|| json!([]));
    instructions.as_array_mut()?.push(json!(words.display().to_string()));
    if let Some(server) = server {
        keys.entry("mcp").or_insert_with(|| json!({})).as_object_mut()?.insert("ccb".into(), server);
    }
    Some(users)
}

/// Returns whether the user has configured a server of our name: OpenCode would join both key by key. Its files may have
/// comments, so this only looks for the name.
fn has_server(env: &BTreeMap<String, String>, project: &Path, inline: &Value) -> bool {
    if inline["mcp"]["ccb"].is_object() {
        return true;
    }
    let path = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    let dirs = config.map(|dir| dir.join("opencode")).into_iter().chain(path("OPENCODE_CONFIG_DIR"));
    let dirs = dirs.chain([project.to_owned(), project.join(".opencode")]);
    let files = dirs.flat_map(|dir| ["config.json", "opencode.json", "opencode.jsonc"].map(|name| dir.join(name)));
    files.chain(path("OPENCODE_CONFIG")).any(|file| read_small(&file).is_ok_and(|text| names_ccb(&text)))
}

fn names_ccb(text: &str) -> bool {
    text.match_indices("\"ccb\"").any(|(at, name)| text[at + name.len()..].trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_inline_configuration_stays() {
        let users = json!({"theme": "x", "instructions": ["MY.md"], "mcp": {"other": {"type": "local"}}});
        let joined = joined_config(users, Some(json!({"type": "local"})), Path::new("/h/a b.md")).unwrap();
        let want = json!({
            "theme": "x", "instructions": ["MY.md", "/h/a b.md"],
            "mcp": {"other": {"type": "local"}, "ccb": {"type": "local"}},
        });
        assert_eq!(joined, want);
        assert_eq!(joined_config(json!({"instructions": "x"}), None, Path::new("/w")), None);
    }

    #[test]
    fn a_server_of_the_users_own_stays() {
        let dir = tempfile::tempdir().unwrap();
        let env: BTreeMap<String, String> = [("HOME".to_owned(), dir.path().display().to_string())].into();
        let has = |text: &str| {
            std::fs::create_dir_all(dir.path().join(".config/opencode")).unwrap();
            std::fs::write(dir.path().join(".config/opencode/opencode.jsonc"), text).unwrap();
            has_server(&env, Path::new("/nowhere"), &json!({}))
        };
        assert!(!has("{\"mcp\": {\"other\": {}}, \"model\": \"ccb\"} // ccb"));
        assert!(has("{\"mcp\": {\"ccb\" : {\"url\": \"x\"}}}"));
        assert!(has_server(&BTreeMap::new(), Path::new("/nowhere"), &json!({"mcp": {"ccb": {}}})));
    }

    #[test]
    fn port_and_password_are_one_launchs_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door.json");
        let own = Identity::own().unwrap();
        let door = |runner: &Identity| new_door(&path, runner, vec!["opencode".into()], None).unwrap();
        let first = door(&own);
        assert_eq!(door(&own), first, "a later askd finds them");
        let place = Place { door: path.clone(), project: PathBuf::new() };
        let other = door(&Identity { pid: own.pid + 1, ..own });
        assert_eq!(place.door().unwrap(), other, "so does a transport that outlives the launch");
        assert!(other.password != first.password && other.password.len() == 32);
        assert!(other.argv.ends_with(&["--port".to_owned(), other.port.to_string()]));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
