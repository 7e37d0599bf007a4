//! A tmux server, ours or the user's: panes are started, proved, read and closed through it.
//!
//! Whatever tmux expands (formats, titles, targets, `-c`, the path given to `load-buffer`) or parses
//! (a command inside a command) gets only words that were checked here. Programs get their arguments as
//! words of their own, so no shell reads them. Every call ends within [`DEADLINE`].

use std::borrow::Cow;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ccb_core::home::{SOCKET_PATH_LIMIT, project_id};
use ccb_core::screen::Capture;
use rustix::process::getuid;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::process::Identity;

/// How long tmux may take for one call.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What a tmux server calls itself as a process.
pub(crate) const PROCESS: &str = "tmux: server";

/// What of the environment tmux gets, beside what is fixed here.
const KEPT: &[&str] = &["PATH", "HOME", "SHELL", "USER"];

/// The options of a server of our own. A status line or a title of the agents' making would be foreign text
/// in a format.
const OPTIONS: &[&[&str]] = &[
    &["-s", "escape-time", "0"],
    &["-s", "focus-events", "on"],
    &["-g", "default-terminal", "tmux-256color"],
    &["-g", "history-limit", "50000"],
    &["-g", "mouse", "on"],
    &["-g", "set-titles", "off"],
    &["-g", "status-interval", "0"],
    &["-g", "status-left", " ccb "],
    &["-g", "status-right", ""],
    &["-g", "pane-border-status", "top"],
    &["-g", "pane-border-format", " #{@ccb}#{?@ccb_waits, ⚠ waiting for you,} "],
    &["-g", "remain-on-exit", "off"],
    &["-g", "allow-rename", "off"],
    &["-g", "automatic-rename", "off"],
];

/// What tells of a pane, in one line.
const FORMAT: &str = "#{pid}:#{pane_id}:#{window_id}:#{pane_pid}:#{pane_dead}:#{pane_in_mode}:\
     #{pane_synchronized}:#{pane_input_off}:#{pane_width}:#{pane_height}:#{cursor_x}:#{cursor_y}";

/// What a guarded command prints when it was run.
const DONE: &str = "ccb-done";

/// A tmux server at its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    socket: PathBuf,
    dir: PathBuf,
    ours: bool,
}

/// Which pane of which server, with the process that it was made for: what is stored, and compared later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// The server's socket.
    pub socket: PathBuf,
    /// The server.
    pub server: Identity,
    /// The pane (`%1`).
    pub pane: String,
    /// The process that the pane was started with.
    pub process: Identity,
}

/// A living pane, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pane {
    /// Which it is.
    pub pins: Pins,
    /// Its window (`@1`).
    pub window: String,
    /// What keeps our keys from its process, if something does.
    pub obstacle: Option<Obstacle>,
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
    /// The cursor's column and line, from 0.
    pub cursor: (u16, u16),
}

/// What keeps keys from a pane's process, or brings them elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The process has ended and the pane stays.
    Dead,
    /// Somebody scrolls or copies: keys act on the mode.
    Mode,
    /// `synchronize-panes`: a key would go to every pane of the window.
    Synchronized,
    /// Input is switched off (`select-pane -d`): keys vanish.
    InputOff,
}

/// Where a new pane goes, seen from the pane that makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To its right.
    Right,
    /// Below it.
    Below,
}

/// A key that is pressed in a pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Submits, or approves.
    Enter,
    /// Interrupts, in most agents.
    Escape,
    /// Interrupts, in the others.
    CtrlC,
}

/// What goes into a pane.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys<'a> {
    /// The buffer of this name, as a bracketed paste; it is deleted.
    Paste(&'a str),
    /// A key.
    Key(Key),
}

/// What became of a command that tmux runs only while the pane is as we saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guarded {
    /// It was run.
    Run,
    /// It was not run: this is how the pane was instead (none: there is no such pane).
    Held(Option<Box<Pane>>),
}

/// Why tmux did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot run `tmux`")]
    Start(#[source] io::Error),
    /// It was started, and what it did is not known.
    #[error("lost sight of `tmux`")]
    Lost(#[source] io::Error),
    /// It did not end in time, and what it did or will do is not known.
    #[error("tmux at `{0}` does not answer")]
    Deadline(PathBuf),
    /// The server went away meanwhile.
    #[error("tmux at `{socket}` has ended: {said}")]
    Ended {
        /// Its socket.
        socket: PathBuf,
        /// What tmux said.
        said: String,
    },
    /// No server listens there.
    #[error("no tmux runs at `{0}`")]
    NoServer(PathBuf),
    /// There is no such pane, or its process is gone.
    #[error("tmux has no living pane `{0}`")]
    NoPane(String),
    /// It refused.
    #[error("tmux says: {0}")]
    Refused(String),
    /// It said something that we do not understand.
    #[error("tmux gave an unexpected answer: {0:?}")]
    Unexpected(String),
    /// A word that we do not hand to tmux.
    #[error("`{word}` is not {expected}")]
    Word {
        /// The word.
        word: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// The server is the user's own.
    #[error("the tmux at `{0}` is not ours to end")]
    NotOurs(PathBuf),
}

/// What a call returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Returns whether tmux may have acted, or may yet act, all the same.
    pub fn is_unsettled(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Deadline(_) | Self::Ended { .. } | Self::Unexpected(_) => true,
            Self::Start(_)
            | Self::NoServer(_)
            | Self::NoPane(_)
            | Self::Refused(_)
            | Self::Word { .. }
            | Self::NotOurs(_) => false,
        }
    }
}

impl Key {
    fn word(self) -> &'static str {
        match self {
            Self::Enter => "Enter",
            Self::Escape => "Escape",
            Self::CtrlC => "C-c",
        }
    }
}

impl Obstacle {
    /// Returns the obstacle in words that follow "waits:".
    pub fn why(self) -> &'static str {
        match self {
            Self::Dead => "its pane is dead",
            Self::Mode => "its pane is being scrolled or copied from",
            Self::Synchronized => "its pane is synchronized with others (`synchronize-panes`)",
            Self::InputOff => "its pane takes no input (`select-pane -e` allows it)",
        }
    }
}

impl Server {
    /// Returns the project's own server at `socket`; [`start_session`](Self::start_session) starts it. Its
    /// panes open in `dir`.
    pub fn own(socket: PathBuf, dir: PathBuf) -> Self {
        Self { socket, dir, ours: true }
    }

    /// Returns the user's running server at `socket`; the panes that we add open in `dir`.
    pub fn of_user(socket: PathBuf, dir: PathBuf) -> Self {
        Self { socket, dir, ours: false }
    }

    /// Returns the server's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Starts a session with one pane that runs `argv`, and the server if it is not running.
    pub async fn start_session(
        &self,
        session: &str,
        size: (u16, u16),
        argv: &[String],
        env: &[(&str, &str)],
    ) -> Result<Pane> {
        let session = name(session)?;
        let options = OPTIONS.iter().filter(|_| self.ours).map(|words| command("set-option", words));
        let (columns, lines) = (size.0.to_string(), size.1.to_string());
        let mut start = command(
            "new-session",
            &["-d", "-P", "-F", FORMAT, "-s", session, "-n", "agents", "-x", &columns, "-y", &lines],
        );
        start.extend(program(argv, env)?);
        self.made(options.chain([start]).collect()).await
    }

    /// Makes a pane that runs `argv` in the window of `target` (a pane or a window).
    pub async fn split(&self, target: &str, side: Side, argv: &[String], env: &[(&str, &str)]) -> Result<Pane> {
        let side = match side {
            Side::Right => "-h",
            Side::Below => "-v",
        };
        let mut split = command("split-window", &["-d", side, "-P", "-F", FORMAT, "-t", id(target)?]);
        split.extend(program(argv, env)?);
        self.made(vec![split]).await
    }

    /// Gives the panes of a window (named by itself or by one of its panes) equal room.
    pub async fn tiled(&self, window: &str) -> Result<()> {
        self.run(vec![command("select-layout", &["-t", id(window)?, "tiled"])], None).await.map(drop)
    }

    /// Shows `label` in the pane's border, where the server is our own.
    pub async fn label(&self, pane: &str, label: &str) -> Result<()> {
        self.run(vec![command("set-option", &["-p", "-t", id(pane)?, "@ccb", name(label)?])], None).await.map(drop)
    }

    /// Marks a pane whose agent waits for its human, or takes the mark away. In a server of our own its border shows it.
    pub async fn mark(&self, pane: &str, waits: bool) -> Result<()> {
        let words: [&str; 5] = if waits {
            ["-p", "-t", id(pane)?, "@ccb_waits", "1"]
        } else {
            ["-p", "-u", "-t", id(pane)?, "@ccb_waits"]
        };
        self.run(vec![command("set-option", &words)], None).await.map(drop)
    }

    /// Returns the living panes of the window of `target` (a window or one of its panes).
    pub async fn window_panes(&self, target: &str) -> Result<Vec<Pane>> {
        let out = self.run(vec![command("list-panes", &["-t", id(target)?, "-F", FORMAT])], None).await?;
        let panes: Result<Vec<Option<Pane>>> = out.lines().map(|line| self.read(line)).collect();
        Ok(panes?.into_iter().flatten().collect())
    }

    /// Waits until the server lets go whoever waits for something, as it does before it ends in order (measured on
    /// 3.3a; its socket it leaves behind however it ends). False: it was killed, or nobody can tell. tmux is run by the
    /// program that `guard` names.
    pub(crate) async fn lets_go(&self, guard: &[String]) -> bool {
        let mut tmux = self.tmux(guard, vec![command("wait-for", &["ccb-end"])]);
        tmux.stdout(Stdio::null()).stderr(Stdio::null());
        tmux.status().await.is_ok_and(|status| status.success())
    }

    /// Returns whether this process is the server, and answers.
    pub(crate) async fn is_served_by(&self, server: &Identity) -> bool {
        let pid = self.run(vec![command("display-message", &["-p", "#{pid}"])], None).await;
        pid.is_ok_and(|pid| pid.trim_end() == server.pid.to_string())
    }

    /// Returns the pane as it is now.
    pub async fn pane(&self, pane: &str) -> Result<Pane> {
        let out = self.run(vec![command("display-message", &["-p", "-t", id(pane)?, FORMAT])], None).await?;
        self.read(out.trim_end())?.ok_or_else(|| Error::NoPane(pane.to_owned()))
    }

    /// Returns the title that the program in a pane has given it: foreign text.
    pub(crate) async fn title(&self, pane: &str) -> Result<String> {
        let out = self.run(vec![command("display-message", &["-p", "-t", id(pane)?, "#{pane_title}"])], None).await?;
        Ok(out.trim_end().to_owned())
    }

    /// Returns the pane as it is now with what it shows, both of the same moment.
    pub async fn capture(&self, pane: &str) -> Result<(Pane, Capture)> {
        let target = id(pane)?;
        let commands = vec![
            command("display-message", &["-p", "-t", target, FORMAT]),
            command("capture-pane", &["-p", "-e", "-t", target]),
        ];
        let out = self.run(commands, None).await.map_err(|error| match error {
            Error::Refused(said) if said.contains("find pane") => Error::NoPane(pane.to_owned()),
            other => other,
        })?;
        let (line, text) = out.split_once('\n').ok_or_else(|| Error::Unexpected(out.clone()))?;
        let pane = self.read(line)?.ok_or_else(|| Error::NoPane(pane.to_owned()))?;
        let capture = Capture { width: pane.width, height: pane.height, cursor: pane.cursor, text: text.to_owned() };
        Ok((pane, capture))
    }

    /// Returns whether the session is there; without a server it is not.
    pub async fn has_session(&self, session: &str) -> Result<bool> {
        let target = format!("={}", name(session)?);
        match self.run(vec![command("has-session", &["-t", &target])], None).await {
            Ok(_) => Ok(true),
            Err(Error::NoServer(_)) => Ok(false),
            Err(Error::Refused(said)) if said.contains("find session") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns a pane of the session's current window; none without the session.
    pub async fn session_pane(&self, session: &str) -> Result<Option<String>> {
        let target = format!("={}:", name(session)?);
        match self.run(vec![command("display-message", &["-p", "-t", &target, "#{pane_id}"])], None).await {
            Ok(out) => Ok(Some(out.trim_end().to_owned()).filter(|pane| pane.starts_with('%'))),
            Err(Error::NoServer(_)) => Ok(None),
            Err(Error::Refused(said)) if said.contains("find") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes the pane if it still is this one, with this process; returns whether it was.
    pub async fn kill_pane(&self, pins: &Pins) -> Result<bool> {
        let pane = id(&pins.pane)?;
        let same = format!("#{{==:#{{pid}}:#{{pane_pid}},{}:{}}}", pins.server.pid, pins.process.pid);
        let kill = format!("display-message -p {DONE} ; kill-pane -t {pane}");
        match self.run(vec![command("if-shell", &["-F", "-t", pane, &same, &kill])], None).await {
            Ok(out) => Ok(out.trim_end() == DONE),
            // The server ends with its last pane.
            Err(Error::Ended { .. }) => Ok(true),
            Err(Error::NoServer(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the server with everything in it, if it is our own and runs, and waits for its end: until then
    /// its socket takes calls and fails them.
    pub async fn kill_server(&self) -> Result<()> {
        if !self.ours {
            return Err(Error::NotOurs(self.socket.clone()));
        }
        let ended = |error: &Error| matches!(error, Error::NoServer(_) | Error::Ended { .. });
        let server = match self.run(vec![command("display-message", &["-p", "#{pid}"])], None).await {
            Ok(pid) => pid.trim_end().parse().ok().and_then(Identity::of),
            Err(error) if ended(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.run(vec![command("kill-server", &[])], None).await {
            Err(error) if !ended(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let Some(server) = server else {
            return Ok(());
        };
        match tokio::time::timeout(DEADLINE, server.ended()).await {
            Ok(_) => Ok(()),
            Err(_elapsed) => Err(Error::Deadline(self.socket.clone())),
        }
    }

    /// Deletes the buffers whose names start with `prefix`, and returns how many there were.
    pub async fn purge_buffers(&self, prefix: &str) -> Result<usize> {
        let out = match self.run(vec![command("list-buffers", &["-F", "#{buffer_name}"])], None).await {
            Ok(out) => out,
            Err(Error::NoServer(_)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let left = out.lines().filter(|line| line.starts_with(prefix) && name(line).is_ok());
        let deletions: Vec<Vec<String>> = left.map(|buffer| command("delete-buffer", &["-b", buffer])).collect();
        let count = deletions.len();
        if count > 0 {
            self.run(deletions, None).await?;
        }
        Ok(count)
    }

    /// Loads the file `name` in `dir` into a buffer of the same name.
    pub(crate) async fn load(&self, dir: &Path, name: &str) -> Result<()> {
        self.run(vec![load(name)?], Some(dir)).await.map(drop)
    }

    /// Does `keys` if the pane is as pinned, free of obstacles and (if given) with its cursor there.
    ///
    /// With a `body` the file of that name in that directory is loaded first, in the same call.
    pub(crate) async fn press(
        &self,
        pins: &Pins,
        cursor: Option<(u16, u16)>,
        keys: &[Keys<'_>],
        body: Option<(&Path, &str)>,
    ) -> Result<Guarded> {
        let load = body.map(|(_, name)| load(name)).transpose()?;
        let commands = load.into_iter().chain([guard(pins, cursor, keys)?]).collect();
        let out = self.run(commands, body.map(|(dir, _)| dir)).await?;
        match out.trim_end() {
            DONE => Ok(Guarded::Run),
            line => Ok(Guarded::Held(self.read(line)?.map(Box::new))),
        }
    }

    /// Runs commands that print the line of one new pane.
    async fn made(&self, commands: Vec<Vec<String>>) -> Result<Pane> {
        let out = self.run(commands, Some(&self.dir)).await?;
        let died = || Error::NoPane("(it ended at once)".to_owned());
        self.read(out.trim_end())?.ok_or_else(died)
    }

    /// Reads a line of [`FORMAT`]; none if it tells of no pane, or of one whose process is gone.
    fn read(&self, line: &str) -> Result<Option<Pane>> {
        let unexpected = || Error::Unexpected(line.to_owned());
        let fields: Vec<&str> = line.split(':').collect();
        let [server, pane, window, process, dead, mode, synchronized, off, width, height, x, y] = fields[..] else {
            return Err(unexpected());
        };
        if pane.is_empty() {
            return Ok(None);
        }
        let number = |field: &str| field.parse::<u16>().map_err(|_| unexpected());
        let identity = |field: &str| field.parse::<u32>().map_err(|_| unexpected()).map(Identity::of);
        let (Some(server), Some(process)) = (identity(server)?, identity(process)?) else {
            return Ok(None);
        };
        let is_set = |field: &str| !matches!(field, "" | "0");
        let obstacle = [
            (is_set(dead), Obstacle::Dead),
            (is_set(mode), Obstacle::Mode),
            (is_set(synchronized), Obstacle::Synchronized),
            (is_set(off), Obstacle::InputOff),
        ];
        Ok(Some(Pane {
            pins: Pins { socket: self.socket.clone(), server, pane: id(pane)?.to_owned(), process },
            window: window.to_owned(),
            obstacle: obstacle.into_iter().find_map(|(set, obstacle)| set.then_some(obstacle)),
            width: number(width)?,
            height: number(height)?,
            cursor: (number(x)?, number(y)?),
        }))
    }

    /// Returns tmux with these commands, run by the program that `guard` names, if it names one.
    fn tmux(&self, guard: &[String], commands: Vec<Vec<String>>) -> Command {
        let mut all = guard.iter().map(String::as_str).chain(["tmux"]);
        let mut tmux = Command::new(all.next().unwrap_or_default());
        tmux.args(all);
        if self.ours {
            tmux.args(["-f", "/dev/null"]);
        }
        tmux.arg("-S").arg(&self.socket).args(words(commands));
        tmux.env_clear().envs(environment());
        tmux.stdin(Stdio::null()).kill_on_drop(true);
        tmux
    }

    /// Runs commands in one call of tmux, in `dir`, and returns what they print.
    async fn run(&self, commands: Vec<Vec<String>>, dir: Option<&Path>) -> Result<String> {
        let mut tmux = self.tmux(&[], commands);
        if let Some(dir) = dir.filter(|dir| dir.is_dir()) {
            tmux.current_dir(dir);
        }
        tmux.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = tmux.spawn().map_err(Error::Start)?;
        let output = match tokio::time::timeout(DEADLINE, child.wait_with_output()).await {
            Ok(output) => output.map_err(Error::Lost)?,
            Err(_elapsed) => return Err(Error::Deadline(self.socket.clone())),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failure(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    fn failure(&self, said: String) -> Error {
        if said.starts_with("no server running") || said.starts_with("error connecting") {
            Error::NoServer(self.socket.clone())
        } else if said.is_empty() || said.contains("server exited") || said.contains("lost server") {
            Error::Ended { socket: self.socket.clone(), said }
        } else {
            Error::Refused(said)
        }
    }
}

/// Returns where a socket that is wanted at `path` can be: there, or in a private directory of `/tmp` if the
/// path is too long for a socket address.
pub fn socket_path(path: &Path) -> io::Result<PathBuf> {
    if path.as_os_str().len() <= SOCKET_PATH_LIMIT {
        return Ok(path.to_owned());
    }
    let user = getuid().as_raw();
    let dir = PathBuf::from(format!("/tmp/ccb-{user}"));
    private_dir(&dir, user)?;
    Ok(dir.join(format!("{}.sock", &project_id(path)[..16])))
}

/// Makes `dir`, or makes sure that it is a directory (no link) that `user` alone can enter.
fn private_dir(dir: &Path, user: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let found = std::fs::symlink_metadata(dir)?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    let why = format!("`{}` is not a private directory of user {user}", dir.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Returns the command that does `keys` only if the pane is as pinned, free of obstacles and (if given) with
/// its cursor there; else it prints how the pane is. Test and act are one step of the server's: nothing
/// comes between them.
fn guard(pins: &Pins, cursor: Option<(u16, u16)>, keys: &[Keys<'_>]) -> Result<Vec<String>> {
    let pane = id(&pins.pane)?;
    let is = "#{pid}:#{pane_pid}:#{pane_dead}:#{pane_in_mode}:#{pane_synchronized}:#{pane_input_off}";
    let (is_at, at) = cursor.map(|(x, y)| (":#{cursor_x}:#{cursor_y}", format!(":{x}:{y}"))).unwrap_or_default();
    let same = format!("#{{==:{is}{is_at},{}:{}:0:0:0:0{at}}}", pins.server.pid, pins.process.pid);
    let (mut then, mut otherwise) = (Vec::new(), Vec::new());
    for key in keys {
        match key {
            Keys::Paste(buffer) => {
                let buffer = name(buffer)?;
                then.push(format!("paste-buffer -p -d -b {buffer} -t {pane}"));
                otherwise.push(format!("delete-buffer -b {buffer}"));
            }
            Keys::Key(key) => then.push(format!("send-keys -t {pane} {}", key.word())),
        }
    }
    then.push(format!("display-message -p {DONE}"));
    otherwise.push(format!("display-message -p -t {pane} \"{FORMAT}\""));
    Ok(command("if-shell", &["-F", "-t", pane, &same, &then.join(" ; "), &otherwise.join(" ; ")]))
}

/// Returns the command that loads a file of the directory in which tmux is run: the path is expanded as a
/// format, so it is a checked name and never a path.
fn load(file: &str) -> Result<Vec<String>> {
    Ok(command("load-buffer", &["-b", name(file)?, file]))
}

fn command(verb: &str, words: &[&str]) -> Vec<String> {
    std::iter::once(verb).chain(words.iter().copied()).map(str::to_owned).collect()
}

/// Returns what starts `argv` in a pane: `-e` for each of `env`, `--`, and the words.
fn program(argv: &[String], env: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for (key, value) in env {
        let fits = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return Err(Error::Word { word: (*key).to_owned(), expected: "the name of a variable" });
        }
        words.extend(["-e".to_owned(), format!("{key}={value}")]);
    }
    words.push("--".to_owned());
    match argv {
        [] => return Err(Error::Word { word: String::new(), expected: "a program" }),
        // tmux gives a single word to a shell; this shell only gets it as its `$0`.
        [only] => words.extend(["/bin/sh", "-c", "exec \"$0\"", only].map(str::to_owned)),
        several => words.extend_from_slice(several),
    }
    Ok(words)
}

/// Joins commands by `;`, and keeps tmux from taking a `;` at a word's end for one.
fn words(commands: Vec<Vec<String>>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for command in commands {
        if !all.is_empty() {
            all.push(";".to_owned());
        }
        all.extend(command.iter().map(|word| escape(word).into_owned()));
    }
    all
}

fn escape(word: &str) -> Cow<'_, str> {
    match word.strip_suffix(';') {
        Some(head) => format!("{head}\\;").into(),
        None => word.into(),
    }
}

/// Checks the id of a pane (`%1`) or a window (`@1`).
fn id(word: &str) -> Result<&str> {
    match word.strip_prefix(['%', '@']) {
        Some(number) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => Ok(word),
        Some(_) | None => Err(Error::Word { word: word.to_owned(), expected: "the id of a pane or window" }),
    }
}

/// Checks the name of a session, a buffer, a body or a label.
fn name(word: &str) -> Result<&str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !word.is_empty() && !word.starts_with('-') && word.bytes().all(fits) {
        return Ok(word);
    }
    Err(Error::Word { word: word.to_owned(), expected: "a name of letters, digits, `-` and `_`" })
}

fn environment() -> Vec<(&'static str, OsString)> {
    let mut environment: Vec<(&str, OsString)> =
        KEPT.iter().filter_map(|key| Some((*key, std::env::var_os(key)?))).collect();
    let fixed = [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8")];
    environment.extend(fixed.map(|(key, value)| (key, value.into())));
    environment
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_semicolon_ends_no_word() {
        let commands = vec![command("a", &["x;", "\\;", ";", "y"]), command("b", &[])];
        assert_eq!(words(commands), ["a", "x\\;", "\\\\;", "\\;", "y", ";", "b"]);
    }

    #[test]
    fn only_checked_words_go_where_tmux_expands() {
        assert!(id("%12").is_ok() && id("@0").is_ok());
        for bad in ["", "%", "1", "%1.2", "=x", "%1;", "%1#(x)"] {
            assert!(id(bad).is_err(), "{bad}");
        }
        assert!(name("ccb-20261122-205301-123-4711-1-r2").is_ok());
        for bad in ["", "-t", "a b", "a.b", "#(x)", "a:b", "é"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(program(&[], &[]).is_err());
        assert!(program(&["x".into()], &[("A=B", "c")]).is_err());
    }

    #[test]
    fn long_sockets_are_short_and_private() {
        let short = Path::new("/h/tmux.sock");
        assert_eq!(socket_path(short).unwrap(), short);
        let long = PathBuf::from(format!("/{}", "h".repeat(100)));
        let found = socket_path(&long).unwrap();
        assert!(found.as_os_str().len() < 50 && found.starts_with("/tmp"), "{found:?}");
        assert_eq!(found, socket_path(&long).unwrap());

        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        let user = getuid().as_raw();
        private_dir(&own, user).unwrap();
        private_dir(&own, user).unwrap();
        assert!(private_dir(&own, user + 1).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(private_dir(&link, user).is_err());
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(private_dir(&own, user).is_err());
    }
}
