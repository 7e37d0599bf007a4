//! The keeper: starts, reaps, pings and restarts the worker. It holds no request and decides nothing else.
//!
//! It sleeps in `poll` until the worker ends, a signal comes, or the next ping is due.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ccb_core::home::{Home, file};
use ccb_core::settings::watchdog_interval;
use ccb_core::wire;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::engine::log;
use crate::files::Files;
use crate::lock::Lock;
use crate::process::Identity;

/// How many pings in a row may stay without an answer.
const MISSES: u32 = 3;

/// A worker that lived shorter than this counts for the breaker.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// How many short-lived workers in a row are enough.
const BREAKER: u32 = 5;

/// How long a worker has to end after TERM.
const MERCY: Duration = Duration::from_secs(2);

/// The home's file with the settings.
pub(crate) const SETTINGS: &str = "run/settings.json";

/// The settings of the daemon, as docs/configuration.md has them.
const SETTING_NAMES: &[&str] = &[
    "CCB_ASKD_IDLE_TIMEOUT_S",
    crate::tcp::LISTEN,
    "CCB_COMPLETION_HOOK_ENABLED",
    "CCB_HEARTBEAT_INTERVAL_S",
    "CCB_PROOF_GRACE_S",
    "CCB_QUIET_WINDOW_S",
    "CCB_WATCHDOG_INTERVAL_S",
];

/// The C library's settings for the worker alone: what a long line has taken goes back to the system when it is freed.
/// By itself the library keeps up to 64 MiB for the next one.
pub(crate) const MEMORY: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];

/// How long a worker may take to say that it serves.
const START: Duration = Duration::from_secs(20);

/// The worker's exit code for "stopped in order; nothing is to be started again".
pub(crate) const STOPPED: u8 = 0;

/// The worker's exit code for "my lock is not mine any more; another worker is to take over".
pub(crate) const GIVES_WAY: u8 = 75;

/// Runs the keeper until the worker has stopped in order.
pub(crate) fn run(home: Home, listen: Option<String>) -> anyhow::Result<ExitCode> {
    // A session of our own: the terminal of whoever started us does not end us. Refused if we lead one already.
    rustix::process::setsid().ok();
    let files = Files::open(home)?;
    let Some(lock) = Lock::take(&files.path(file::KEEPER_LOCK))? else {
        report("held");
        return Ok(ExitCode::SUCCESS);
    };
    rustix::stdio::dup2_stderr(files.log()?)?;
    let signals = Signals::new()?;
    let settings = settings(&files, listen)?;
    let mut keeper = Keeper { files, lock, signals, settings, short_lives: 0, reported: false, replacing: false };
    keeper.keep()
}

/// The settings of the one who started the first keeper hold for its successors too, whoever starts them: a pane's
/// runner has a terminal's environment. An orderly end forgets them.
fn settings(files: &Files, listen: Option<String>) -> anyhow::Result<BTreeMap<String, String>> {
    let kept = std::fs::read_to_string(files.path(SETTINGS)).unwrap_or_default();
    let mut settings: BTreeMap<String, String> = serde_json::from_str(&kept).unwrap_or_default();
    settings.extend(SETTING_NAMES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
    settings.extend(listen.map(|place| (crate::tcp::LISTEN.to_owned(), place)));
    files.write(SETTINGS, &serde_json::to_string(&settings)?)?;
    Ok(settings)
}

/// Tells whoever started us one line; nobody may be there to read it.
fn report(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
    std::io::stdout().flush().ok();
}

/// TERM, INT and HUP as a readable descriptor.
struct Signals {
    reading: UnixStream,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let (reading, writing) = UnixStream::pair()?;
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
            signal_hook::low_level::pipe::register(signal, writing.try_clone()?)?;
        }
        Ok(Self { reading })
    }
}

struct Keeper {
    files: Files,
    lock: Lock,
    signals: Signals,
    settings: BTreeMap<String, String>,
    short_lives: u32,
    reported: bool,
    /// Whether the worker was told to end so that another one takes its place.
    replacing: bool,
}

/// The worker as the keeper has it.
struct Worker {
    /// Ours to reap, or adopted from a keeper that died.
    child: Option<Child>,
    identity: Identity,
    watch: OwnedFd,
    wire: Option<Pings>,
    born: Instant,
}

/// The connection over which the engine is pinged.
struct Pings {
    stream: UnixStream,
    calls: u64,
    /// How many lines came back.
    heard: u64,
}

/// How the keeper's watch over a worker ended.
enum Watched {
    /// The worker has ended; the keeper is to end too, or not.
    Ended { stopping: bool },
    /// The worker lives, and is left to another keeper.
    Left,
}

/// Why the keeper stopped waiting.
enum Woken {
    Ended,
    Signal,
    Due,
}

impl Keeper {
    fn keep(&mut self) -> anyhow::Result<ExitCode> {
        loop {
            let mut worker = match self.adopt()? {
                Some(worker) => worker,
                None => match self.start() {
                    Ok(worker) => worker,
                    Err(error) => {
                        let code = self.count_short_life(&format!("{error:#}"));
                        if let Some(code) = code {
                            return Ok(code);
                        }
                        continue;
                    }
                },
            };
            self.say(&format!("ready {}", worker.identity.pid));
            // One that is left sees the end of our pings, and starts a keeper that adopts it.
            let Watched::Ended { stopping } = self.watch(&mut worker)? else { return Ok(ExitCode::SUCCESS) };
            let (cause, in_order) = self.bury(&mut worker);
            let replaced = std::mem::take(&mut self.replacing);
            if stopping || (in_order && !replaced) {
                return Ok(ExitCode::SUCCESS);
            }
            if worker.born.elapsed() < SHORT_LIFE {
                if let Some(code) = self.count_short_life(&cause) {
                    return Ok(code);
                }
            } else {
                log(&format!("the worker (pid {}) ended: {cause}", worker.identity.pid));
                self.short_lives = 0;
            }
        }
    }

    fn say(&mut self, line: &str) {
        if !self.reported {
            self.reported = true;
            report(line);
            // Nobody reads on: what a worker prints later must not end us.
            if let Ok(null) = File::options().write(true).open("/dev/null") {
                rustix::stdio::dup2_stdout(null).ok();
            }
        }
    }

    /// One more worker lived too short: waits a moment, or gives up with the cause told.
    fn count_short_life(&mut self, cause: &str) -> Option<ExitCode> {
        self.short_lives += 1;
        log(&format!("short-lived worker {} of {BREAKER}: {cause}", self.short_lives));
        if self.short_lives >= BREAKER {
            self.say(&format!(
                "error: askd ended {BREAKER} times within {} s; the last time: {cause}",
                SHORT_LIFE.as_secs()
            ));
            return Some(ExitCode::FAILURE);
        }
        if self.short_lives > 1 {
            let pause = Duration::from_millis(100 << self.short_lives.min(5)).min(Duration::from_secs(5));
            if matches!(self.wait(None, Some(Instant::now() + pause)), Ok(Woken::Signal)) {
                return Some(ExitCode::SUCCESS);
            }
        }
        None
    }

    /// Connects without waiting: the full backlog of a hung worker would hold us up for ever.
    fn connect(&self) -> anyhow::Result<UnixStream> {
        let address = SocketAddrUnix::new(self.files.socket(file::SOCKET))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }

    /// Returns the worker that a dead keeper left behind, if it still serves.
    fn adopt(&self) -> anyhow::Result<Option<Worker>> {
        let Ok(stream) = self.connect() else { return Ok(None) };
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        let pid = u32::try_from(peer.pid.as_raw_nonzero().get())?;
        let Some(identity) = Identity::of(pid).filter(|_| peer.uid == rustix::process::getuid()) else {
            return Ok(None);
        };
        let Ok(watch) = identity.watch() else { return Ok(None) };
        let wire = Pings::open(stream, &self.files)?;
        log(&format!("adopted the worker with pid {pid}"));
        Ok(Some(Worker { child: None, identity, watch, wire: Some(wire), born: Instant::now() }))
    }

    fn start(&self) -> anyhow::Result<Worker> {
        let program = crate::process::own_program().context("where is askd?")?;
        let mut child = Command::new(program)
            .arg("--worker")
            .arg("--project")
            .arg(self.files.home().work_dir())
            .envs(&self.settings)
            .env("CCB_RUN_DIR", self.files.home().root())
            .envs(MEMORY.map(|name| (name, "131072")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.files.log()?)
            .spawn()
            .context("cannot start the worker")?;
        let pid = child.id();
        let said = first_line(&mut child);
        if said != "ready" {
            child.kill().ok();
            let status = child.wait()?;
            let said = if said.is_empty() { exit_words(status) } else { said.trim_start_matches("error: ").to_owned() };
            self.write_last("crashed", pid, &said, status.code(), status.signal());
            anyhow::bail!("{said}");
        }
        let identity = Identity::of(pid).context("the worker is gone")?;
        let watch = identity.watch()?;
        let stream = self.connect()?;
        let wire = Pings::open(stream, &self.files)?;
        Ok(Worker { child: Some(child), identity, watch, wire: Some(wire), born: Instant::now() })
    }

    /// Watches until the worker has ended, or is somebody else's.
    fn watch(&mut self, worker: &mut Worker) -> anyhow::Result<Watched> {
        let interval = watchdog_interval(self.settings.get("CCB_WATCHDOG_INTERVAL_S").map(String::as_str));
        let mut missed = 0;
        let mut unreachable = false;
        let mut due = Instant::now() + interval;
        let mut kill_at: Option<Instant> = None;
        let mut stopping = false;
        loop {
            match self.wait(Some(worker), Some(kill_at.unwrap_or(due)))? {
                Woken::Ended => return Ok(Watched::Ended { stopping }),
                Woken::Signal => {
                    stopping = true;
                    worker.identity.signal(Signal::TERM)?;
                    kill_at.get_or_insert(Instant::now() + MERCY);
                }
                Woken::Due if kill_at.is_some() => {
                    worker.identity.signal(Signal::KILL)?;
                    kill_at = Some(Instant::now() + MERCY);
                }
                Woken::Due => {
                    // Answers are read only now: waking up for each would cost as much again.
                    let answered = worker.wire.as_mut().is_some_and(Pings::is_answered);
                    missed = if answered { 0 } else { missed + 1 };
                    if missed >= MISSES {
                        log(&format!(
                            "the worker (pid {}) did not answer {MISSES} pings: it is ended",
                            worker.identity.pid
                        ));
                        // It may wake up and stop in order.
                        self.replacing = true;
                        worker.identity.signal(Signal::TERM)?;
                        kill_at = Some(Instant::now() + MERCY);
                    } else if !self.lock.is_ours() {
                        // Our lock was deleted: another keeper may hold the new one, and it will adopt the worker.
                        log("the keeper's lock was deleted; leaving the worker to the next keeper");
                        return Ok(Watched::Left);
                    } else if unreachable && !self.has_socket() {
                        log("askd's socket was deleted: another worker makes a new one");
                        self.replacing = true;
                        worker.identity.signal(Signal::TERM)?;
                        kill_at = Some(Instant::now() + MERCY);
                    } else {
                        self.ping(worker);
                    }
                    // A worker that ends in order removes its socket just before.
                    unreachable = !self.has_socket();
                    due = Instant::now() + if unreachable { interval.min(MERCY / 4) } else { interval };
                }
            }
        }
    }

    fn has_socket(&self) -> bool {
        self.files.path(file::SOCKET).exists()
    }

    fn ping(&self, worker: &mut Worker) {
        if worker.wire.is_none() {
            let stream = self.connect().ok();
            worker.wire = stream.and_then(|stream| Pings::open(stream, &self.files).ok());
        }
        if worker.wire.as_mut().is_some_and(|wire| wire.ping().is_err()) {
            worker.wire = None;
        }
    }

    /// Sleeps until the worker ends, a signal or an answer comes, or that moment.
    fn wait(&self, worker: Option<&Worker>, until: Option<Instant>) -> anyhow::Result<Woken> {
        let mut fds = vec![PollFd::new(&self.signals.reading, PollFlags::IN)];
        if let Some(worker) = worker {
            fds.push(PollFd::from_borrowed_fd(worker.watch.as_fd(), PollFlags::IN));
        }
        poll_until(&mut fds, until)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(match ready[..] {
            [_, true, ..] => Woken::Ended,
            [true, ..] => {
                (&self.signals.reading).read_exact(&mut [0]).ok();
                Woken::Signal
            }
            _ => Woken::Due,
        })
    }

    /// Reaps the worker and writes down how it ended. True if it stopped in order.
    fn bury(&self, worker: &mut Worker) -> (String, bool) {
        let pid = worker.identity.pid;
        let Some(child) = &mut worker.child else {
            let last = self.last();
            let in_order = last["status"] == "stopped" && last["pid"] == pid;
            if !in_order {
                self.write_last(
                    "crashed",
                    pid,
                    "ended; how is not known, since its own keeper had died before",
                    None,
                    None,
                );
            }
            return ("how is not known".into(), in_order);
        };
        let Ok(status) = child.wait() else { return ("cannot be told".into(), false) };
        if status.code() == Some(STOPPED.into()) {
            return ("stopped".into(), true);
        }
        let panic = std::fs::read_to_string(self.files.path("run/panic")).ok();
        crate::files::remove_if_there(&self.files.path("run/panic")).ok();
        let cause = match panic {
            Some(panic) => format!("panicked: {}", panic.trim()),
            None => exit_words(status),
        };
        self.write_last("crashed", pid, &cause, status.code(), status.signal());
        (cause, false)
    }

    fn last(&self) -> Value {
        let text = std::fs::read_to_string(self.files.path(file::LAST)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn write_last(&self, status: &str, pid: u32, reason: &str, code: Option<i32>, signal: Option<i32>) {
        let mut last = self.last();
        if !last.is_object() {
            last = json!({});
        }
        for (key, value) in [
            ("status", json!(status)),
            ("pid", json!(pid)),
            ("stopped_at", json!(crate::clock::wall())),
            ("exit_reason", json!(reason)),
            ("exit_code", json!(code)),
            ("signal", json!(signal)),
        ] {
            last[key] = value;
        }
        if let Err(error) = self.files.write(file::LAST, &format!("{last}\n")) {
            log(&format!("the worker's end could not be written down: {error}"));
        }
    }
}

impl Pings {
    fn open(stream: UnixStream, files: &Files) -> anyhow::Result<Self> {
        let mut pings = Self { stream, calls: 0, heard: 0 };
        let hello = wire::Hello {
            protocol: wire::PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            project: files.home().project().into(),
            role: "keeper".into(),
        };
        pings.stream.write_all(wire::call_line(0, &hello).as_bytes())?;
        Ok(pings)
    }

    fn ping(&mut self) -> std::io::Result<()> {
        self.calls += 1;
        self.stream.write_all(wire::call_line(self.calls, &wire::Ping {}).as_bytes())
    }

    /// Whether everything that was asked has been answered: the handshake and each ping, a line each.
    fn is_answered(&mut self) -> bool {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = self.stream.read(&mut chunk) {
            let lines = chunk[..read].split(|byte| *byte == b'\n').count() - 1;
            self.heard += lines as u64;
        }
        self.heard == self.calls + 1
    }
}

/// Sleeps until one of the descriptors is ready or that moment has come; a signal alone ends no sleep.
fn poll_until(fds: &mut [PollFd<'_>], until: Option<Instant>) -> rustix::io::Result<usize> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Reads the worker's first line, for as long as a start may take.
fn first_line(child: &mut Child) -> String {
    let Some(mut stdout) = child.stdout.take() else { return String::new() };
    let until = Instant::now() + START;
    let mut said = Vec::new();
    loop {
        let mut fds = [PollFd::new(&stdout, PollFlags::IN)];
        let ready = poll_until(&mut fds, Some(until)).unwrap_or(0);
        let mut byte = [0];
        if ready == 0 || stdout.read(&mut byte).unwrap_or(0) == 0 || byte[0] == b'\n' {
            return String::from_utf8_lossy(&said).trim().to_owned();
        }
        said.push(byte[0]);
    }
}

fn exit_words(status: std::process::ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (None, Some(code)) if code == i32::from(GIVES_WAY) => "gave way: its lock file was deleted".into(),
        (Some(signal), _) => format!("killed by signal {signal} ({})", signal_name(signal)),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "ended in an unknown way".into(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        6 => "ABRT",
        7 => "BUS",
        9 => "KILL: by somebody, or the system was out of memory",
        11 => "SEGV",
        15 => "TERM",
        _ => "see signal(7)",
    }
}
