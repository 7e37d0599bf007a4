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

use crate::end::{End, memory_kills, panicked};
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

/// How long the last of these pings is waited for: two others had their whole interval already.
const LAST_CHANCE: Duration = Duration::from_millis(500);

/// How long a worker has to end after TERM.
const MERCY: Duration = Duration::from_secs(2);

/// The home's file with the message of a worker's panic.
pub(crate) const PANIC: &str = "run/panic";

/// The home's file with the settings.
pub(crate) const SETTINGS: &str = "run/settings.json";

/// The settings of the daemon, as docs/configuration.md has them.
const SETTING_NAMES: &[&str] = &[
    "CCB_ASKD_IDLE_TIMEOUT_S",
    crate::tcp::LISTEN,
    "CCB_CASKD_IDLE_TIMEOUT",
    "CCB_COMPLETION_HOOK_ENABLED",
    "CCB_GEMINI_IDLE_TIMEOUT",
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
    rustix::stdio::dup2_stderr(files.log().context("cannot write the log")?)?;
    let signals = Signals::new()?;
    let settings = settings(&files, listen)?;
    let mut keeper = Keeper {
        files,
        lock,
        signals,
        settings,
        short_lives: 0,
        pauses: 0,
        reported: false,
        replacing: None,
        served: false,
    };
    keeper.keep()
}

/// The settings of the one who started the first keeper hold for its successors too, whoever starts them: a pane's
/// runner has a terminal's environment. An orderly end forgets them.
///
/// A test's fail point is one of them, where there are such.
fn settings(files: &Files, listen: Option<String>) -> anyhow::Result<BTreeMap<String, String>> {
    let kept = std::fs::read_to_string(files.path(SETTINGS)).unwrap_or_default();
    let mut settings: BTreeMap<String, String> = serde_json::from_str(&kept).unwrap_or_default();
    let point = cfg!(debug_assertions).then_some(&crate::failpoint::VARIABLE);
    settings.extend(
        SETTING_NAMES.iter().chain(point).filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))),
    );
    settings.extend(listen.map(|place| (crate::tcp::LISTEN.to_owned(), place)));
    let text = serde_json::to_string(&settings)?;
    if text == kept {
        return Ok(settings);
    }
    files.write(SETTINGS, &text).with_context(|| format!("cannot write `{}`", files.path(SETTINGS).display()))?;
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
    /// How many workers in a row have ended within a short time by their own fault.
    short_lives: u32,
    /// How many in a row have lived for a short time only, whosever fault it was.
    pauses: u32,
    reported: bool,
    /// What its end is, if the worker was told to end for another one or did not go by itself.
    replacing: Option<End>,
    /// Whether there has been a worker already: `CCB_PARENT_PID` is for the first one, and the store has it then.
    served: bool,
}

/// The worker as the keeper has it.
struct Worker {
    /// Ours to reap, or adopted from a keeper that died.
    child: Option<Child>,
    identity: Identity,
    watch: OwnedFd,
    wire: Option<Pings>,
    born: Instant,
    /// How often the kernel had killed for memory when it was born.
    memory_kills: Option<u64>,
}

/// The connection over which the engine is pinged.
struct Pings {
    stream: UnixStream,
    calls: u64,
    /// How many lines came back.
    heard: u64,
    /// The line that is coming in.
    line: Vec<u8>,
    /// For how long a commit has been waiting for the disk, as the last answer says.
    stalled_ms: Option<u64>,
}

/// A worker that could not be started.
struct NoStart {
    end: End,
    /// Whether it has said why it cannot serve: another try would say the same.
    said: bool,
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
            let adopted = self.adopt()?;
            let mut worker = match adopted.map_or_else(|| self.start(), Ok) {
                Ok(worker) => worker,
                // Nobody has been told yet that askd serves, and trying again at once would not change it.
                Err(NoStart { end, said: true }) if !self.reported => {
                    log(&format!("the worker cannot serve: {}", end.cause));
                    self.say(&format!("error: {}", end.cause));
                    return Ok(ExitCode::FAILURE);
                }
                Err(NoStart { end, .. }) => match self.after_short_life(&end) {
                    Some(code) => return Ok(code),
                    None => continue,
                },
            };
            self.served = true;
            self.say(&format!("ready {}", worker.identity.pid));
            // One that is left sees the end of our pings, and starts a keeper that adopts it.
            let Watched::Ended { stopping } = self.watch(&mut worker)? else { return Ok(ExitCode::SUCCESS) };
            if !stopping && !self.lock.is_ours() {
                // The home that is there now may be another keeper's. If it is nobody's, it is ours.
                log("the keeper's lock was deleted, and the worker has ended: whoever gets the new lock goes on");
                return run(self.files.home().clone(), self.settings.get(crate::tcp::LISTEN).cloned());
            }
            let end = self.bury(&mut worker);
            if stopping || end.in_order {
                return Ok(ExitCode::SUCCESS);
            }
            log(&format!("the worker (pid {}) ended: {}", worker.identity.pid, end.cause));
            if worker.born.elapsed() < SHORT_LIFE {
                if let Some(code) = self.after_short_life(&end) {
                    return Ok(code);
                }
            } else {
                (self.short_lives, self.pauses) = (0, 0);
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

    /// One more worker lived for a short time: waits a moment, or gives up with the cause told.
    fn after_short_life(&mut self, end: &End) -> Option<ExitCode> {
        self.pauses += 1;
        if !end.from_outside {
            self.short_lives += 1;
            log(&format!("short-lived worker {} of {BREAKER}: {}", self.short_lives, end.cause));
        }
        if self.short_lives >= BREAKER {
            let secs = SHORT_LIFE.as_secs();
            let why = format!("askd ended {BREAKER} times in a row within {secs} s; the last time: {}", end.cause);
            self.write_last(&[("breaker", json!(why))]);
            // What a dead worker has left shows nobody a daemon; the next request starts another keeper.
            crate::files::remove_if_there(&self.files.path(file::SOCKET)).ok();
            crate::files::remove_if_there(&self.files.path(file::STATE)).ok();
            log(&format!("{why}; no other is started until the next request"));
            self.say(&format!("error: {why}"));
            return Some(ExitCode::FAILURE);
        }
        let pause = backoff(self.pauses)?;
        match self.wait(None, Some(Instant::now() + pause)) {
            Ok(Woken::Signal) => Some(ExitCode::SUCCESS),
            Ok(Woken::Ended | Woken::Due) | Err(_) => None,
        }
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
        // Anybody of the same user may listen at that path; only who holds the worker's lock is the worker.
        if !identity.is_named("askd") || Lock::take(&self.files.path(file::WORKER_LOCK))?.is_some() {
            log(&format!("process {pid} listens at askd's socket and is no worker of ours: it is left alone"));
            return Ok(None);
        }
        let Ok(watch) = identity.watch() else { return Ok(None) };
        let wire = Pings::open(stream, &self.files)?;
        log(&format!("adopted the worker with pid {pid}"));
        let born = Instant::now();
        Ok(Some(Worker { child: None, identity, watch, wire: Some(wire), born, memory_kills: memory_kills() }))
    }

    fn start(&self) -> Result<Worker, NoStart> {
        self.try_start().unwrap_or_else(|error| Err(NoStart { end: End::own(format!("{error:#}")), said: false }))
    }

    fn try_start(&self) -> anyhow::Result<Result<Worker, NoStart>> {
        crate::files::remove_if_there(&self.files.path(PANIC)).ok();
        let memory_kills = memory_kills();
        let born = Instant::now();
        let program = crate::process::own_program().context("where is askd?")?;
        let mut command = Command::new(program);
        if self.served {
            command.env_remove("CCB_PARENT_PID");
        }
        let mut child = command
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
            let complaint = said.strip_prefix("error: ");
            if complaint.is_none() {
                child.kill().ok();
            }
            let status = child.wait()?;
            let cause = complaint.map_or_else(|| self.end_of(status, memory_kills).cause, str::to_owned);
            self.write_crash(pid, &cause, status.code(), status.signal());
            // One that gives way may do better next time.
            let said = complaint.is_some() && status.code() != Some(GIVES_WAY.into());
            return Ok(Err(NoStart { end: End::own(cause), said }));
        }
        let identity = Identity::of(pid).context("the worker is gone")?;
        let watch = identity.watch()?;
        let stream = self.connect()?;
        let wire = Pings::open(stream, &self.files)?;
        Ok(Ok(Worker { child: Some(child), identity, watch, wire: Some(wire), born, memory_kills }))
    }

    /// Watches until the worker has ended, or is somebody else's.
    fn watch(&mut self, worker: &mut Worker) -> anyhow::Result<Watched> {
        let interval = watchdog_interval(self.settings.get("CCB_WATCHDOG_INTERVAL_S").map(String::as_str));
        let mut missed = 0;
        let mut unreachable = false;
        // `Instant` stands still while the machine sleeps (CLOCK_MONOTONIC), and so does `poll`: a suspend is no miss.
        let mut due = Instant::now() + interval;
        let mut kill_at: Option<Instant> = None;
        let mut stopping = false;
        let mut stalled = false;
        loop {
            match self.wait(Some(worker), Some(kill_at.unwrap_or(due)))? {
                Woken::Ended => return Ok(Watched::Ended { stopping }),
                Woken::Signal => {
                    stopping = true;
                    worker.identity.signal(Signal::TERM)?;
                    kill_at.get_or_insert(Instant::now() + MERCY);
                }
                Woken::Due if kill_at.is_some() => {
                    let secs = MERCY.as_secs();
                    self.replacing.get_or_insert_with(|| {
                        End::foreign(format!("did not stop within {secs} s: killed by its keeper"))
                    });
                    worker.identity.signal(Signal::KILL)?;
                    kill_at = Some(Instant::now() + MERCY);
                }
                Woken::Due => {
                    // Answers are read only now: waking up for each would cost as much again.
                    let answered = worker.wire.as_mut().is_some_and(Pings::is_answered);
                    missed = if answered { 0 } else { missed + 1 };
                    note_stall(worker, answered, &mut stalled);
                    if missed >= MISSES {
                        let why = format!("hung: did not answer {MISSES} pings; replaced by its keeper");
                        log(&format!(
                            "the worker (pid {}) did not answer {MISSES} pings: it is ended",
                            worker.identity.pid
                        ));
                        // It may wake up and stop in order: that is not its end's cause.
                        kill_at = Some(self.replace(worker, End::own(why))?);
                    } else if !self.lock.is_ours() {
                        // Our lock was deleted: another keeper may hold the new one, and it will adopt the worker.
                        log("the keeper's lock was deleted; leaving the worker to the next keeper");
                        return Ok(Watched::Left);
                    } else if unreachable && !self.has_socket() {
                        log("askd's socket was deleted: another worker makes a new one");
                        let end = End::foreign("its socket was deleted; replaced by its keeper".into());
                        kill_at = Some(self.replace(worker, end)?);
                    } else {
                        self.ping(worker);
                    }
                    // A worker that ends in order removes its socket just before.
                    unreachable = !self.has_socket();
                    let next = if missed + 1 >= MISSES { interval.min(LAST_CHANCE) } else { interval };
                    due = Instant::now() + if unreachable { next.min(MERCY / 4) } else { next };
                }
            }
        }
    }

    /// Has the worker end for another one; returns when it is to be killed.
    fn replace(&mut self, worker: &Worker, end: End) -> std::io::Result<Instant> {
        self.replacing = Some(end);
        worker.identity.signal(Signal::TERM)?;
        Ok(Instant::now() + MERCY)
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

    /// Reaps the worker and writes down how it ended.
    fn bury(&mut self, worker: &mut Worker) -> End {
        let pid = worker.identity.pid;
        let replaced = self.replacing.take();
        let status = worker.child.as_mut().and_then(|child| child.wait().ok());
        let end = match status {
            Some(status) => self.end_of(status, worker.memory_kills),
            None => self.end_of_adopted(pid),
        };
        let end = replaced.unwrap_or(end);
        if !end.in_order {
            self.write_crash(pid, &end.cause, status.and_then(|s| s.code()), status.and_then(|s| s.signal()));
        }
        end
    }

    fn end_of(&self, status: std::process::ExitStatus, kills_before: Option<u64>) -> End {
        let panic = self.take_panic();
        let oom = matches!((kills_before, memory_kills()), (Some(before), Some(now)) if now > before);
        End::of(status, panic.as_deref(), oom)
    }

    /// How a worker ended whose exit status went to a keeper that is dead.
    fn end_of_adopted(&self, pid: u32) -> End {
        let last = crate::record::last(&self.files);
        let in_order = last["status"] == "stopped" && last["pid"] == pid;
        let cause = match self.take_panic() {
            Some(panic) => panicked(&panic),
            None => "ended; how is not known, since its own keeper had died before".to_owned(),
        };
        End { cause, in_order, from_outside: true }
    }

    /// Returns the message that a panic of the worker has left, once.
    fn take_panic(&self) -> Option<String> {
        let panic = std::fs::read_to_string(self.files.path(PANIC)).ok();
        crate::files::remove_if_there(&self.files.path(PANIC)).ok();
        panic
    }

    fn write_crash(&self, pid: u32, reason: &str, code: Option<i32>, signal: Option<i32>) {
        self.write_last(&[
            ("status", json!("crashed")),
            ("pid", json!(pid)),
            ("stopped_at", json!(crate::clock::wall())),
            ("exit_reason", json!(reason)),
            ("exit_code", json!(code)),
            ("signal", json!(signal)),
        ]);
    }

    /// Changes these keys of `askd.last.json`.
    fn write_last(&self, changes: &[(&str, Value)]) {
        let mut last = crate::record::last(&self.files);
        if !last.is_object() {
            last = json!({});
        }
        for (key, value) in changes {
            last[key] = value.clone();
        }
        if let Err(error) = self.files.write(file::LAST, &format!("{last}\n")) {
            log(&format!("the worker's end could not be written down: {error}"));
        }
    }
}

/// How long the next start waits after so many short lives in a row: the first is followed at once.
fn backoff(lives: u32) -> Option<Duration> {
    let doubled = lives.checked_sub(2)?;
    Some(Duration::from_millis(100 << doubled.min(6)).min(Duration::from_secs(5)))
}

/// Logs once that a commit waits for the disk, and once that it does so no more.
fn note_stall(worker: &Worker, answered: bool, stalled: &mut bool) {
    let pid = worker.identity.pid;
    match worker.wire.as_ref().filter(|_| answered).map(|wire| wire.stalled_ms) {
        Some(Some(ms)) if !*stalled => {
            *stalled = true;
            log(&format!(
                "the worker (pid {pid}) waits for the disk in a commit, for {ms} ms so far: it is left alone"
            ));
        }
        Some(None) if *stalled => {
            *stalled = false;
            log(&format!("the worker (pid {pid}) does not wait for the disk any more"));
        }
        Some(_) | None => {}
    }
}

impl Pings {
    fn open(stream: UnixStream, files: &Files) -> anyhow::Result<Self> {
        let mut pings = Self { stream, calls: 0, heard: 0, line: Vec::new(), stalled_ms: None };
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
            for byte in &chunk[..read] {
                if *byte != b'\n' {
                    self.line.push(*byte);
                    continue;
                }
                let answer: Value = serde_json::from_slice(&std::mem::take(&mut self.line)).unwrap_or_default();
                self.stalled_ms = answer["result"]["stalled_ms"].as_u64();
                self.heard += 1;
            }
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
