//! `ccb run <agent>`: the process in each pane. It starts the agent's CLI, and its server if it has one, keeps
//! them running, and ends them with the pane.
//!
//! One loop waits for everything: child processes, signals, askd, timers, and Enter where it was asked for.
//! When askd goes away, nothing here is touched: the link comes back, and askd is told what runs.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ccb_core::wire::{Launch, LaunchSpec, Order, RESTARTED, Reply, Report, RunnerEvent, ServerSpec};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::connect::Askd;
use crate::error::CliError;
use crate::pane::group::Group;
use crate::pane::kept::{Kept, drain, end_all, how};
use crate::pane::link::{self, Event, Link};
use crate::pane::terminal::{Terminal, Typed, is_hung_up, say, typed};
use crate::wake::Pace;
use crate::{Context, display, exit, program, project, wake};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The agent
    agent: String,
    /// The project's directory
    #[arg(long)]
    project: PathBuf,
}

/// What the terminal tells a program that runs in it.
const TERMINAL: [&str; 4] = ["TERM", "TMUX", "TMUX_PANE", "COLORTERM"];

/// How much (bytes) of a server's output is read for its last line.
const LAST_WORDS: u64 = 4096;

/// The runner.
struct Pane {
    agent: String,
    /// What its tmux server calls it.
    id: Option<String>,
    program: PathBuf,
    terminal_env: BTreeMap<String, String>,
    link: Link,
    signals: Signals,
    terminal: Terminal,
    /// The number of the open `launch` call.
    launching: Option<u64>,
    /// When to ask askd again what to start, after it has refused to say so while something runs.
    relaunch: Option<Instant>,
    pace: Pace,
    spec: Option<LaunchSpec>,
    /// The interface that was ordered last.
    tui_argv: Option<Vec<String>>,
    server: Kept,
    tui: Kept,
    /// The interface's other processes.
    group: Group,
    asking: Asking,
    troubled: bool,
}

/// What Enter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// Nothing: the terminal is the agent's.
    Nothing,
    /// To ask askd again what to start.
    Launch,
    /// To start the interface again.
    Tui,
    /// Nothing can be typed any more.
    Nobody,
}

/// Signals as something to wait for.
struct Signals {
    child: UnixStream,
    end: UnixStream,
    /// Ctrl-C and Ctrl-\ are the agent's keys. Ours is a handler, not *ignore*: that would be inherited.
    _keys: UnixStream,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<u8, CliError> {
    let work_dir = context.cwd.join(&options.project);
    std::env::set_current_dir(&work_dir)
        .map_err(|error| CliError::new(format!("cannot go to {}: {error}", work_dir.display())))?;
    let place = project::place(context, &work_dir)?;
    let askd = Askd::of(context, &place, "runner")?;
    let cannot = |error: io::Error| CliError::new(format!("cannot set up the pane: {error}"));
    let signals = Signals::catch().map_err(cannot)?;
    let env = |name: &str| Some((name.to_owned(), context.environment.text(name)?.to_owned()));
    let program = program::own()?;
    let mut pane = Pane {
        agent: options.agent.clone(),
        id: context.environment.text("TMUX_PANE").map(str::to_owned),
        group: Group::lead(&program),
        program,
        terminal_env: TERMINAL.into_iter().filter_map(env).collect(),
        link: Link::start(askd).map_err(cannot)?,
        signals,
        terminal: Terminal::remember(),
        launching: None,
        relaunch: None,
        pace: Pace::new(Duration::from_secs(1), Duration::from_secs(30)),
        spec: None,
        tui_argv: None,
        server: Kept::new(true),
        tui: Kept::new(false),
        asking: Asking::Nothing,
        troubled: false,
    };
    let result = pane.run();
    pane.link.close();
    pane.end_all();
    result.map(|()| exit::OK).map_err(cannot)
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let child = wake::signal(&[SIGCHLD])?;
        let end = wake::signal(&[SIGHUP, SIGTERM])?;
        Ok(Self { child, end, _keys: wake::signal(&[SIGINT, SIGQUIT])? })
    }
}

impl Pane {
    /// Waits for whatever comes, until the pane is to close.
    fn run(&mut self) -> io::Result<()> {
        loop {
            let timers = [self.server.due(), self.tui.due(), self.relaunch];
            let until = timers.into_iter().flatten().min();
            let stdin = io::stdin();
            let mut fds = vec![self.signals.child.as_fd(), self.signals.end.as_fd(), self.link.fd()];
            if matches!(self.asking, Asking::Launch | Asking::Tui) {
                fds.push(stdin.as_fd());
            }
            let ready = wake::any(&fds, until)?;
            if ready[1] {
                self.closed();
                return Ok(());
            }
            drain(&self.signals.child);
            if self.reap() == Next::End {
                return Ok(());
            }
            while let Some(event) = self.link.event() {
                if self.hear(event) == Next::End {
                    return Ok(());
                }
            }
            if ready.get(3) == Some(&true) {
                self.entered();
            }
            if self.server.is_due() {
                self.start_server();
            }
            if self.tui.is_due() {
                self.start_tui();
            }
            if self.relaunch.is_some_and(|at| at <= Instant::now()) {
                self.launch();
            }
        }
    }

    fn report(&mut self, event: RunnerEvent) {
        let report = Report { agent: self.agent.clone(), event };
        self.link.call(&report);
    }

    /// The pane is being closed by somebody: askd hears of it first, if it listens, so that nothing is given to what is
    /// about to end.
    fn closed(&mut self) {
        self.link.close();
        self.report(RunnerEvent::Closed);
        self.end_all();
    }

    /// Ends everything that was started here.
    fn end_all(&mut self) {
        self.group.ask();
        end_all(&mut [&mut self.tui, &mut self.server], &self.signals.child);
        self.group.end();
    }

    fn hear(&mut self, event: Event) -> Next {
        match event {
            Event::Up(_) => {
                self.troubled = false;
                self.launch();
            }
            Event::Down => self.launching = None,
            Event::Trouble(error) => self.trouble(&error),
            Event::Line(reply) => {
                if let Some(order) = link::order(&reply) {
                    return self.obey(order);
                }
                match reply {
                    Reply::Answer { call, result } if Some(call) == self.launching => {
                        self.launching = None;
                        let spec = result.map_err(CliError::from).and_then(|spec| {
                            serde_json::from_value(spec)
                                .map_err(|error| CliError::new(format!("askd's launch is not understood: {error}")))
                        });
                        match spec {
                            Ok(spec) => self.launched(spec),
                            Err(error) => self.refused(&error),
                        }
                    }
                    Reply::Answer { .. } | Reply::Notice { .. } => {}
                }
            }
        }
        Next::GoOn
    }

    fn launch(&mut self) {
        self.relaunch = None;
        let launch = Launch { agent: self.agent.clone(), pane: self.id.clone() };
        self.launching = self.link.call(&launch);
    }

    /// askd has said what to run. What runs already stays as it is, and askd is told of it.
    fn launched(&mut self, spec: LaunchSpec) {
        self.pace.reset();
        if self.asking == Asking::Launch {
            self.asking = Asking::Nothing;
        }
        if let Some(argv) = &spec.tui {
            self.tui_argv = Some(argv.clone());
        }
        let has_server = spec.server.is_some();
        let has_tui = spec.tui.is_some();
        self.spec = Some(spec);
        // First what is to be seen: askd then knows, before it reaches the server, that a TUI shows its session.
        match self.tui.pid() {
            Some(pid) => self.report(RunnerEvent::TuiStarted { pid }),
            None if has_tui && !self.tui.is_kept() && self.asking == Asking::Nothing => self.start_tui(),
            None => {}
        }
        match self.server.pid() {
            Some(pid) => self.report(RunnerEvent::ServerStarted { pid }),
            None if has_server && !self.server.is_kept() => self.start_server(),
            None => {}
        }
    }

    fn refused(&mut self, error: &CliError) {
        if self.server.is_kept() || self.tui.is_kept() {
            // What runs stays, and askd may have an answer later.
            self.relaunch = Some(Instant::now() + self.pace.pause());
            return;
        }
        self.ask_for_enter(Asking::Launch, &format!("{}press Enter to try again", error.text()));
    }

    fn trouble(&mut self, error: &CliError) {
        if self.troubled || self.server.is_kept() || self.tui.is_kept() || self.asking == Asking::Tui {
            return;
        }
        self.troubled = true;
        say(&format!("{}ccb goes on trying\n", display::safe(&error.text())));
    }

    fn ask_for_enter(&mut self, asking: Asking, text: &str) {
        say(&format!("{}\n", display::safe(text)));
        if self.asking != Asking::Nobody {
            self.asking = asking;
        }
    }

    fn entered(&mut self) {
        let asked = std::mem::replace(&mut self.asking, Asking::Nothing);
        match (typed(), asked) {
            (Typed::End, _) => self.asking = Asking::Nobody,
            (Typed::Line, Asking::Tui) => {
                self.tui.forgive();
                self.start_tui();
            }
            (Typed::Line, Asking::Launch | Asking::Nothing | Asking::Nobody) => self.launch(),
        }
    }

    fn obey(&mut self, order: Order) -> Next {
        match order {
            Order::Stop => Next::End,
            Order::Restart => {
                self.restart();
                Next::GoOn
            }
            Order::Next { argv } => {
                self.tui_argv = Some(argv);
                Next::GoOn
            }
            Order::Tui { argv } => {
                if self.tui.pid().is_some() {
                    self.group.ask();
                    self.tui.end(&self.signals.child);
                    self.group.end();
                    self.terminal.restore();
                }
                self.tui.forgive();
                self.tui_argv = Some(argv);
                if self.asking != Asking::Nobody {
                    self.asking = Asking::Nothing;
                }
                self.start_tui();
                Next::GoOn
            }
        }
    }

    /// Ends what runs, and asks askd anew what to start.
    fn restart(&mut self) {
        let (had_tui, had_server) = (self.tui.pid().is_some(), self.server.pid().is_some());
        self.end_all();
        self.tui.forgive();
        self.server.forgive();
        if had_tui {
            self.terminal.restore();
            self.report(RunnerEvent::TuiEnded { how: RESTARTED.to_owned(), again: true });
        }
        if had_server {
            self.report(RunnerEvent::ServerEnded { how: RESTARTED.to_owned() });
        }
        if self.asking != Asking::Nobody {
            self.asking = Asking::Nothing;
        }
        self.launch();
    }

    /// Takes notice of children that have ended.
    fn reap(&mut self) -> Next {
        if let Some(status) = self.server.ended() {
            let log = self.spec.as_ref().and_then(|spec| spec.server.as_ref()).map(|server| Path::new(&server.log));
            let words = log.filter(|_| status.code().is_some()).and_then(last_words);
            let how = words.map_or_else(|| how(status), |words| format!("{}: {words}", how(status)));
            self.report(RunnerEvent::ServerEnded { how });
            self.server.plan();
        }
        let Some(status) = self.tui.ended() else {
            return Next::GoOn;
        };
        // An interface may end well of that, and be seen to before our own signal: it was not its human who ended it.
        if is_hung_up(io::stdin()) {
            self.closed();
            return Next::End;
        }
        if status.success() {
            // First of all, as when its pane is closed: the rest may take its time.
            self.link.close();
            self.report(RunnerEvent::Closed);
        }
        // Another process of it may live on, and would be at the terminal beside the next one.
        self.group.end();
        self.terminal.restore();
        if status.success() {
            self.server.end(&self.signals.child);
            self.report(RunnerEvent::TuiEnded { how: how(status), again: false });
            return Next::End;
        }
        self.tui_failed(&how(status));
        Next::GoOn
    }

    fn tui_failed(&mut self, how: &str) {
        let again = !self.tui.is_hopeless();
        self.report(RunnerEvent::TuiEnded { how: how.to_owned(), again });
        if again {
            self.tui.plan();
        } else {
            let text = format!("{} ended again and again: {how}\npress Enter to start it once more", self.agent);
            self.ask_for_enter(Asking::Tui, &text);
        }
    }

    fn start_server(&mut self) {
        let Some(server) = self.spec.as_ref().and_then(|spec| spec.server.clone()) else {
            return;
        };
        let started = self.server_command(&server).and_then(|command| self.server.start(command));
        match started {
            Ok(pid) => self.report(RunnerEvent::ServerStarted { pid }),
            Err(error) => {
                self.report(RunnerEvent::ServerEnded { how: format!("could not be started: {error}") });
                self.server.plan();
            }
        }
    }

    fn server_command(&self, server: &ServerSpec) -> io::Result<Command> {
        remove_stale_socket(Path::new(&server.socket))?;
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&server.log)?;
        let mut command = self.guarded(&server.argv);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn start_tui(&mut self) {
        let Some(argv) = self.tui_argv.clone() else {
            return;
        };
        self.terminal.clear();
        match self.tui.start(self.guarded(&argv)) {
            Ok(pid) => self.report(RunnerEvent::TuiStarted { pid }),
            Err(error) => self.tui_failed(&format!("could not be started: {error}")),
        }
    }

    /// Returns the command that runs `argv` so that it ends when we do.
    fn guarded(&self, argv: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("guard").arg(std::process::id().to_string()).arg("--").args(argv);
        command.env_clear().envs(&self.terminal_env);
        if let Some(spec) = &self.spec {
            command.envs(&spec.env).current_dir(&spec.cwd);
        }
        command
    }
}

/// Returns the last line of a server's output: one that ends by itself has said why there.
fn last_words(log: &Path) -> Option<String> {
    let mut file = fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LAST_WORDS))).ok()?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(display::line(&display::safe(line), 300))
}

/// Removes the socket of a server that has ended, or the link to it; nothing else is ever removed.
///
/// Codex listens in a directory of its own and leaves a link here, which outlives a server that was killed.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() || meta.file_type().is_symlink() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is not a socket", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_server_are_its_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_words(&log), None);
        fs::write(&log, "\n").unwrap();
        assert_eq!(last_words(&log), None);
        fs::write(&log, format!("{}\nError: no \u{1b}[31msuch key\n\n", "x".repeat(10_000))).unwrap();
        assert_eq!(last_words(&log).map(|words| words.contains('\u{1b}')), Some(false));
        assert!(last_words(&log).is_some_and(|words| words.starts_with("Error: no ")));
    }

    #[test]
    fn only_sockets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        remove_stale_socket(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        remove_stale_socket(&path).unwrap();
        assert!(!path.exists());
        let (target, mark) = (dir.path().join("target"), dir.path().join("mark"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        remove_stale_socket(&path).unwrap();
        assert!(fs::symlink_metadata(&path).is_err());
        fs::write(&mark, "").unwrap();
        std::os::unix::fs::symlink(&mark, &path).unwrap();
        remove_stale_socket(&path).unwrap();
        assert!(mark.exists(), "what a link points to stays");
        fs::write(&path, "mine").unwrap();
        assert!(remove_stale_socket(&path).is_err() && path.exists());
    }
}
