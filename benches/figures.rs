//! The figures of docs/figures.md, measured in one run: medians, beside what CCB 5.2.8 was measured at.
//!
//! Nothing is asserted here: the machine is shared and noisy. `make bench` prints the table.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ccb_core::home::Home;
use ccb_core::id::RequestId;
use ccb_core::wire::{self, Call, Reply};

/// A sealed world with one daemon and stub agents.
struct World {
    dir: tempfile::TempDir,
}

/// A raw connection to askd.
struct Client {
    reader: BufReader<UnixStream>,
    calls: u64,
}

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    let mut row = |what: &str, before: &str, now: String| writeln!(out, "| {what} | {before} | {now} |");
    row("what", "CCB 5.2.8", "this run".into())?;
    row("---", "---", "---".into())?;
    let world = World::new();
    let help = median(60, || world.ask(&["--help"]));
    row("`ask --help` cold start, wall / RSS", "82 ms / 14 MB", format!("{} / {:.1} MB", ms(help), world.ask_rss()))?;
    world.mount();
    let submit = median(60, || world.ask(&["--async", "absent", "x"]));
    row("asynchronous submit until the prompt is back", "262 ms", ms(submit))?;
    let codex = median(40, || world.ask(&["codex", "ECHO: x"]));
    let claude = median(40, || world.ask(&["claude", "ECHO: x"]));
    row(
        "round trip, blind stub that answers at once, codex / claude records",
        "792 / 955 ms",
        format!("{} / {}", ms(codex), ms(claude)),
    )?;
    let drawn = median(40, || world.ask(&["drawn", "ECHO: x"]));
    row("round trip, screen read before paste and Enter", "–", ms(drawn))?;
    row("stub's done record → reply printed", "128–207 ms", ms(world.done_to_printed()))?;
    let all = world.hundred();
    row("100 requests, 100 clients, one agent", "94 s", format!("{:.2} s", all.as_secs_f64()))?;
    row("durable submissions, one connection each", "–", format!("{:.0}/s", world.submissions(4000)))?;
    let back = median(15, || world.kill_and_return());
    row("daemon after kill -9, serving again", "28.6 s", ms(back))?;
    let hung = world.hang_and_return();
    row("hung daemon (SIGSTOP) replaced, interval 1 s", "never", format!("{:.1} s", hung.as_secs_f64()))?;
    world.drain();
    let (wakes, writes, cpu) = world.idle(Duration::from_secs(30));
    row(
        "idle with five agents: CPU ticks, wake-ups/s, bytes written in 30 s",
        "0.1–0.3 %, 8–34/s, 70 KB",
        format!("{cpu}, {wakes:.2}/s, {writes}"),
    )?;
    row("keeper + worker RSS, idle", "25 MB", format!("{:.1} MB", world.rss()))?;
    let empty = median(200, || world.raw_submit());
    world.settle(10_000);
    row("keeper + worker RSS after 10,000 requests", "–", format!("{:.1} MB", world.rss()))?;
    world.settle(90_000);
    let full = median(200, || world.raw_submit());
    let ratio = 100.0 * full.as_secs_f64() / empty.as_secs_f64();
    row(
        "submit with 100,000 settled requests, against none",
        "–",
        format!("{} against {} ({ratio:.0} %)", ms(full), ms(empty)),
    )
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Returns the median of what `run` says it took, or of what it took.
fn median<T: Timed>(times: usize, mut run: impl FnMut() -> T) -> Duration {
    let mut all: Vec<Duration> = (0..times)
        .map(|_| {
            let start = Instant::now();
            run().taken(start)
        })
        .collect();
    all.sort();
    all[all.len() / 2]
}

/// Something that took a while.
trait Timed {
    /// Returns how long.
    fn taken(self, start: Instant) -> Duration;
}

impl Timed for Duration {
    fn taken(self, _: Instant) -> Duration {
        self
    }
}

impl Timed for Output {
    fn taken(self, start: Instant) -> Duration {
        start.elapsed()
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("p/.ccb")).expect("a project");
        let bin = Path::new(env!("CARGO_BIN_EXE_ccb")).parent().expect("a directory of programs");
        let stub = bin.join("stub-agent");
        assert!(stub.exists(), "build the stub first: cargo build --release --workspace --bins");
        let mut config = String::new();
        for (name, provider, more) in [
            ("codex", "codex", r#""--ui", "plain""#),
            ("claude", "claude", r#""--ui", "plain""#),
            ("silent", "codex", r#""--ui", "plain""#),
            ("hundred", "codex", r#""--ui", "plain""#),
            ("drawn", "codex", r#""--ui", "drawn""#),
            // Never started: what is asked of it is kept and nothing else happens.
            ("absent", "codex", ""),
        ] {
            let screen = if name == "drawn" { "screen = \"boxed\"\n" } else { "" };
            writeln!(
                config,
                "[agents.{name}]\nprovider = \"{provider}\"\ncommand = \"{}\"\n{screen}transcript = \".ccb/{name}.jsonl\"\nargs = [\"--provider\", \"{provider}\", \"--transcript\", \".ccb/{name}.jsonl\", \"--events\", \".ccb/{name}.events\", {more}]",
                stub.display()
            )
            .expect("a String takes everything");
        }
        fs::write(dir.path().join("p/.ccb/ccb.config"), config).expect("a configuration");
        Self { dir }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env("CCB_WATCHDOG_INTERVAL_S", "1")
            .current_dir(self.dir.path().join("p"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.command(program).args(arguments).output().expect("our own program runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.run(env!("CARGO_BIN_EXE_ask"), arguments)
    }

    /// `ask` while it reads its message, in MB.
    fn ask_rss(&self) -> f64 {
        let mut child = self
            .command(env!("CARGO_BIN_EXE_ask"))
            .arg("codex")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ask runs");
        until(|| {
            fs::read_to_string(format!("/proc/{}/wchan", child.id())).is_ok_and(|w| w.contains("pipe"))
                || rss(child.id()) > 1.0
        });
        let size = rss(child.id());
        drop(child.stdin.take());
        child.wait().expect("ask ends");
        size
    }

    fn mount(&self) {
        self.run(env!("CARGO_BIN_EXE_ccb"), &["trust", "--yes"]);
        let running = ["codex", "claude", "drawn", "hundred", "silent"];
        self.run(env!("CARGO_BIN_EXE_ccb"), &[&["--detach"][..], &running].concat());
        for agent in running {
            self.ask(&[agent, "ECHO: warm"]);
        }
        self.ask(&["--async", "silent", "SILENT"]);
    }

    fn done_to_printed(&self) -> Duration {
        let events = self.dir.path().join("p/.ccb/codex.events");
        median(40, || {
            self.ask(&["codex", "ECHO: x"]);
            let printed = unix_now();
            let text = fs::read_to_string(&events).expect("the stub's events");
            let last = text.lines().rfind(|line| line.contains("\"done\"")).expect("a done event");
            let event: serde_json::Value = serde_json::from_str(last).expect("an event is JSON");
            Duration::from_secs_f64((printed - event["t"].as_f64().expect("a time")).max(0.0))
        })
    }

    fn hundred(&self) -> Duration {
        let start = Instant::now();
        let clients: Vec<Child> = (0..100)
            .map(|i| {
                let mut ask = self.command(env!("CARGO_BIN_EXE_ask"));
                ask.args(["hundred", &format!("ECHO: {i}")]).stdout(Stdio::piped()).spawn().expect("ask runs")
            })
            .collect();
        for (i, client) in clients.into_iter().enumerate() {
            let output = client.wait_with_output().expect("ask ends");
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), i.to_string());
        }
        start.elapsed()
    }

    fn home(&self) -> Home {
        Home::new(&self.dir.path().join(".local/state"), &self.dir.path().join("p"))
    }

    fn connect(&self) -> Option<Client> {
        let stream = UnixStream::connect(self.home().path("askd.sock")).ok()?;
        let mut client = Client { reader: BufReader::new(stream), calls: 0 };
        let project = self.home().project().to_owned();
        client.call(&wire::Hello {
            protocol: wire::PROTOCOL,
            version: "bench".into(),
            project,
            role: "client".into(),
        })?;
        Some(client)
    }

    /// Submissions a second, from eight threads, each over a connection of its own.
    fn submissions(&self, count: usize) -> f64 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for i in 0..count / 8 {
                        let mut client = self.connect().expect("askd serves");
                        client.submit(&format!("20261122-000001-{thread}-{i}"));
                    }
                });
            }
        });
        f64::from(u32::try_from(count).expect("a small number")) / start.elapsed().as_secs_f64()
    }

    fn status(&self) -> Option<wire::Health> {
        self.connect()?.call(&wire::Status {})
    }

    fn kill_and_return(&self) -> Duration {
        let worker = self.status().expect("askd serves").pid;
        let start = Instant::now();
        signal(worker, "KILL");
        until(|| self.status().is_some_and(|health| health.pid != worker));
        let taken = start.elapsed();
        // A worker that has just started is not killed again: that is another measurement.
        pause(Duration::from_secs(5));
        taken
    }

    fn hang_and_return(&self) -> Duration {
        let worker = self.status().expect("askd serves").pid;
        let start = Instant::now();
        signal(worker, "STOP");
        until(|| {
            let output = self.command(env!("CARGO_BIN_EXE_ccb")).args(["status", "--json"]).output().expect("ccb runs");
            serde_json::from_slice::<wire::Health>(&output.stdout).is_ok_and(|health| health.pid != worker)
        });
        start.elapsed()
    }

    /// Cancels what is open, so that nothing is.
    fn drain(&self) {
        let mut client = self.connect().expect("askd serves");
        let open: wire::Overview = client.call(&wire::Ps {}).expect("an answer");
        for request in open.requests.into_iter().rev() {
            client.call(&wire::Cancel { id: request.id, by: "bench".into() });
        }
        until(|| client.call(&wire::Ps {}).is_some_and(|open| open.requests.is_empty()));
    }

    fn processes(&self) -> Vec<u32> {
        let health = self.status().expect("askd serves");
        [Some(health.pid), health.keeper].into_iter().flatten().collect()
    }

    fn idle(&self, time: Duration) -> (f64, u64, u64) {
        let pids = self.processes();
        pause(Duration::from_secs(3));
        let sum = |of: &dyn Fn(u32) -> u64| pids.iter().map(|pid| of(*pid)).sum::<u64>();
        let before = (sum(&switches), sum(&written), sum(&ticks));
        pause(time);
        let after = (sum(&switches), sum(&written), sum(&ticks));
        let wakes = f64::from(u32::try_from(after.0 - before.0).unwrap_or(u32::MAX)) / time.as_secs_f64();
        (wakes, after.1 - before.1, after.2 - before.2)
    }

    fn rss(&self) -> f64 {
        self.processes().into_iter().map(rss).sum()
    }

    fn raw_submit(&self) -> Duration {
        let mut client = self.connect().expect("askd serves");
        let id = format!("20261122-000002-{}", unique());
        let start = Instant::now();
        client.submit(&id);
        let taken = start.elapsed();
        client.call(&wire::Cancel { id: RequestId::new(&id).expect("an id"), by: "bench".into() });
        taken
    }

    /// Makes that many settled requests.
    fn settle(&self, count: usize) {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut client = self.connect().expect("askd serves");
                    for _ in 0..count / 16 {
                        let id = format!("20261122-000003-{}", unique());
                        client.submit(&id);
                        client.call(&wire::Cancel { id: RequestId::new(&id).expect("an id"), by: "bench".into() });
                    }
                });
            }
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.command(env!("CARGO_BIN_EXE_ccb")).arg("kill").output().ok();
    }
}

impl Client {
    fn call<C: Call>(&mut self, call: &C) -> Option<C::Answer> {
        self.calls += 1;
        self.reader.get_mut().write_all(wire::call_line(self.calls, call).as_bytes()).ok()?;
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match wire::parse_reply(&line).ok()? {
            Reply::Answer { result, .. } => serde_json::from_value(result.ok()?).ok(),
            Reply::Notice { .. } => None,
        }
    }

    fn submit(&mut self, id: &str) {
        let ask = wire::Ask {
            id: RequestId::new(id).expect("an id"),
            agent: "absent".into(),
            message: "x".into(),
            timeout_s: None,
            caller: None,
            no_wrap: false,
            waits: false,
        };
        self.call(&ask).expect("the request is accepted");
    }
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn field(path: PathBuf, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn rss(pid: u32) -> f64 {
    let kib = field(format!("/proc/{pid}/status").into(), "VmRSS:");
    f64::from(u32::try_from(kib).unwrap_or(0)) / 1024.0
}

fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| field(task.path().join("status"), "voluntary_ctxt_switches:")).sum()
}

fn written(pid: u32) -> u64 {
    field(format!("/proc/{pid}/io").into(), "write_bytes:")
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    after.iter().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
}

fn signal(pid: u32, name: &str) {
    Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().expect("kill runs");
}

#[expect(clippy::disallowed_methods, reason = "a bench may look at the wall clock, as the stub's events do")]
fn unix_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn pause(time: Duration) {
    let (_tx, rx) = std::sync::mpsc::channel::<()>();
    rx.recv_timeout(time).ok();
}

fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "a condition did not come true within a minute");
        pause(Duration::from_millis(1));
    }
}
