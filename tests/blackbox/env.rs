//! A world of its own for each test: a private home, a project, the real binaries, stub agents in a tmux server
//! that nobody else sees, and nothing of the environment outside.
//!
//! All that a test starts has the world's directory in its environment or in its command line. By that it is
//! found, and nothing else is ever ended.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

/// How long a thing may take that takes a moment.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// How often a condition is looked at.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Our programs, as they are installed.
const PROGRAMS: [&str; 3] = ["ccb", "ask", "askd"];

/// A stub agent of the project.
#[derive(Clone, Debug)]
pub(crate) struct Stub {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether ccb reads its screen (else it is pasted into blindly).
    pub(crate) seen: bool,
    /// Whose records it writes.
    pub(crate) provider: &'static str,
    /// How the end of its answers is known.
    pub(crate) completion: &'static str,
    /// Further arguments.
    pub(crate) args: Vec<String>,
}

impl Stub {
    /// Returns a stub with a drawn composer that ccb reads.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, seen: true, provider: "codex", completion: "marker", args: Vec::new() }
    }

    /// Returns a stub that is pasted into blindly.
    pub(crate) fn blind(name: &'static str) -> Self {
        Self { seen: false, ..Self::new(name) }
    }

    /// Adds arguments.
    pub(crate) fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }
}

/// What is particular about a world.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The name of the user's home.
    pub(crate) home: &'static str,
    /// The name of the project's directory.
    pub(crate) project: &'static str,
    /// The name of the directory that our programs are installed into, unless they run where cargo has put them.
    pub(crate) install: Option<&'static str>,
    /// Additional variables of every command; `{world}` stands for the world's directory.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// The project's agents.
    pub(crate) agents: Vec<Stub>,
    /// The size of a disk of its own for the user's state, as `mount` takes it.
    pub(crate) disk: Option<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        let agents = vec![Stub::new("stub")];
        Self { home: "home", project: "work", install: None, environment: Vec::new(), agents, disk: None }
    }
}

impl Setup {
    /// Returns a world with these agents.
    pub(crate) fn of(agents: Vec<Stub>) -> Self {
        Self { agents, ..Self::default() }
    }

    /// Puts the user's state on a small disk of its own; none, said loudly, where nothing can be mounted.
    pub(crate) fn on_disk(self, size: &'static str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if Disk::mount(dir.path().to_owned(), size).is_none() {
            let line = "NOT TESTED: no file system can be mounted here, so no disk can be made full or read-only\n";
            let _ = std::io::stderr().write_all(line.as_bytes());
            return None;
        }
        Some(Self { disk: Some(size), ..self.with("XDG_STATE_HOME", "{world}/disk") })
    }

    /// Adds a variable.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }
}

/// A sealed world.
pub(crate) struct TestEnv {
    /// Unmounted before the directory is removed.
    disk: Option<Disk>,
    dir: tempfile::TempDir,
    setup: Setup,
}

/// What a command said.
#[derive(Debug)]
#[must_use = "look at what it said, or assert that it went well with `.ok()`"]
pub(crate) struct Run {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// Its standard output.
    pub(crate) out: String,
    /// Its standard error.
    pub(crate) err: String,
}

impl Run {
    /// Returns the output of a command that went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Reads the output as JSON, however the command ended.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the exit code and what is said on the standard error.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "`{word}` is missing: {self:?}");
        }
    }
}

/// Waits a moment before the next look.
pub(crate) fn moment() {
    // An early return only means that the look comes early.
    let _ = rustix::event::poll(&mut [], Some(&LOOK));
}

/// Waits until `look` finds something, or returns nothing after that time.
pub(crate) fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let found = look();
        if found.is_some() || start.elapsed() >= limit {
            return found;
        }
        moment();
    }
}

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(SOON, look).unwrap_or_else(|| panic!("not within {SOON:?}: {what}"))
}

impl TestEnv {
    /// Returns a world in which nothing runs, with a project that has its agents configured and trusted.
    pub(crate) fn new(setup: Setup) -> Self {
        let dir = tempfile::Builder::new().prefix("ccb-").tempdir().expect("a temporary directory");
        let mut env = Self { disk: None, dir, setup };
        if let Some(size) = env.setup.disk {
            let path = env.dir().join("disk");
            std::fs::create_dir(&path).expect("a place for a disk");
            env.disk = Some(Disk::mount(path, size).expect("a disk can be mounted"));
        }
        std::fs::create_dir_all(env.home()).expect("a home");
        std::fs::create_dir_all(env.project().join(".ccb")).expect("a project");
        if let Some(install) = env.setup.install {
            let bin = env.dir().join(install);
            std::fs::create_dir_all(&bin).expect("a directory for our programs");
            for program in PROGRAMS {
                std::fs::hard_link(built(program), bin.join(program))
                    .or_else(|_| std::fs::copy(built(program), bin.join(program)).map(drop))
                    .expect("our programs can be installed");
            }
        }
        if !env.setup.agents.is_empty() {
            let tables: String = env.setup.agents.iter().map(|stub| env.table(stub)).collect();
            env.configure(&tables);
            let _trusted = env.ccb(&["trust", "--yes"]).ok();
        }
        env
    }

    /// Returns a world whose agents run and are idle.
    pub(crate) fn start(setup: Setup) -> Self {
        let env = Self::new(setup);
        env.mount();
        env
    }

    /// Starts the agents and waits until they are idle.
    pub(crate) fn mount(&self) {
        let _started = self.ccb(&["--detach"]).ok();
        for stub in &self.setup.agents {
            self.until_state(stub.name, "idle");
        }
    }

    /// Writes the project's configuration.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.project().join(".ccb/ccb.config"), text).expect("a configuration");
    }

    /// Adds to the project's configuration, which is trusted again.
    pub(crate) fn configure_also(&self, text: &str) {
        let known = std::fs::read_to_string(self.project().join(".ccb/ccb.config")).unwrap_or_default();
        self.configure(&format!("{known}\n{text}"));
        let _trusted = self.ccb(&["trust", "--yes"]).ok();
    }

    /// Makes a program of this world's own, in `{world}/bin`.
    pub(crate) fn install(&self, name: &str, script: &str) {
        let bin = self.dir().join("bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        std::fs::write(bin.join(name), script).expect("a program");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), mode).expect("a mode");
    }

    /// Returns an agent's table in the configuration.
    fn table(&self, stub: &Stub) -> String {
        let stub_agent = built("stub-agent");
        assert!(stub_agent.is_file(), "{} is missing: `cargo build --workspace --bins`", stub_agent.display());
        // A JSON string is a TOML string.
        let quoted = |text: &str| Value::from(text).to_string();
        let file = |end: &str| self.file(stub.name, end).display().to_string();
        let transcript = file("jsonl");
        let named = [
            ("--name", stub.name.to_owned()),
            ("--provider", stub.provider.to_owned()),
            ("--transcript", transcript.clone()),
            ("--events", file("events")),
            ("--ctl", file("ctl")),
            ("--keys", file("keys")),
        ];
        let args = named.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        let args: Vec<String> =
            args.chain(stub.args.iter().map(|arg| self.placed(arg))).map(|arg| quoted(&arg)).collect();
        let mut table = format!("[agents.{}]\nprovider = \"{}\"\n", stub.name, stub.provider);
        let _ = writeln!(table, "command = {}", quoted(&stub_agent.display().to_string()));
        let _ = writeln!(table, "args = [{}]", args.join(", "));
        let _ = writeln!(table, "transcript = {}\ncompletion = \"{}\"", quoted(&transcript), stub.completion);
        if stub.seen {
            table.push_str("screen = \"boxed\"\n");
        }
        table
    }

    /// Returns the world's directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the user's home.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir().join(self.setup.home)
    }

    /// Returns the project's directory.
    pub(crate) fn project(&self) -> PathBuf {
        self.dir().join(self.setup.project)
    }

    /// Returns the disk that the user's state is on.
    pub(crate) fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a world with a disk of its own")
    }

    /// Returns where the user's state is.
    fn states(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.home().join(".local/state"), |disk| disk.path.clone())
    }

    /// Returns one of an agent's files: `events`, `keys`, `ctl` or `jsonl`.
    pub(crate) fn file(&self, agent: &str, end: &str) -> PathBuf {
        self.dir().join(format!("{agent}.{end}"))
    }

    /// Returns a text with `{world}` replaced by the world's directory.
    fn placed(&self, text: &str) -> String {
        text.replace("{world}", &self.dir().display().to_string())
    }

    /// Returns one of our programs, or another word as it is.
    fn program(&self, word: &str) -> PathBuf {
        match self.setup.install {
            _ if !PROGRAMS.contains(&word) => word.into(),
            Some(install) => self.dir().join(install).join(word),
            None => built(word),
        }
    }

    /// Returns a command in the project, with nothing from outside.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let bin = self.program("ccb");
        let bin = bin.parent().expect("a program is in a directory").display();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{bin}:/usr/local/bin:/usr/bin:/bin"))
            .env("HOME", self.home())
            .envs([("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("SHELL", "/bin/sh")])
            .envs(self.setup.environment.iter().map(|(name, value)| (*name, self.placed(value))))
            .current_dir(self.project());
        command
    }

    /// Starts a command with this on its standard input, and does not wait for it.
    pub(crate) fn begin(&self, program: &str, args: &[&str], input: &str) -> Going {
        self.begin_with(program, args, input, |command| command)
    }

    /// The same, with changes to the command.
    pub(crate) fn begin_with(
        &self,
        program: &str,
        args: &[&str],
        input: &str,
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Going {
        // Files and no pipes, so that nothing has to be read or written at the right time.
        let file = || tempfile::tempfile_in(self.dir()).expect("a temporary file");
        let (mut stdin, out, err) = (file(), file(), file());
        stdin.write_all(input.as_bytes()).expect("a temporary file takes text");
        std::io::Seek::rewind(&mut stdin).expect("a file has a beginning");
        let clone = |file: &std::fs::File| Stdio::from(file.try_clone().expect("a descriptor"));
        let mut command = self.command(self.program(program));
        command.args(args).stdin(stdin).stdout(clone(&out)).stderr(clone(&err));
        change(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        Going { child, out, err }
    }

    /// Runs a command with this on its standard input.
    pub(crate) fn run(&self, program: &str, args: &[&str], input: &str) -> Run {
        self.begin(program, args, input).end()
    }

    /// Runs `ccb`.
    pub(crate) fn ccb(&self, args: &[&str]) -> Run {
        self.run("ccb", args, "")
    }

    /// Asks an agent and waits for the answer.
    pub(crate) fn ask(&self, agent: &str, message: &str) -> Run {
        self.run("ask", &[agent, "-t", "60"], message)
    }

    /// Asks an agent and returns the request as it ended.
    pub(crate) fn ask_json(&self, agent: &str, message: &str) -> Value {
        self.run("ask", &[agent, "-t", "60", "--json"], message).json()
    }

    /// Begins to ask an agent, waiting for the answer; the request is known to askd when this returns.
    pub(crate) fn ask_meanwhile(&self, agent: &str, message: &str) -> (String, Going) {
        let before = self.requests();
        let going = self.begin("ask", &[agent, "-t", "60", "--json"], message);
        let id = until("the request is accepted", || self.requests().into_iter().find(|id| !before.contains(id)));
        (id, going)
    }

    /// Asks an agent, does not wait, and returns the request's id.
    pub(crate) fn submit(&self, agent: &str, args: &[&str], message: &str) -> String {
        let args = [&[agent, "--async", "--json"], args].concat();
        let said = self.run("ask", &args, message);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.json()["id"].as_str().expect("an accepted request has an id").to_owned()
    }

    /// Returns what `ccb ps` says.
    pub(crate) fn ps(&self) -> Value {
        self.ccb(&["ps", "--json"]).json()
    }

    /// Returns what `ccb ps` says of an agent.
    pub(crate) fn agent(&self, agent: &str) -> Value {
        let overview = self.ps();
        let mut agents = overview["agents"].as_array().into_iter().flatten();
        agents.find(|one| one["name"] == agent).cloned().unwrap_or_default()
    }

    /// Waits until `ccb ps` shows an agent in this state, and returns its reason.
    #[track_caller]
    pub(crate) fn until_state(&self, agent: &str, state: &str) -> String {
        let mut last = Value::Null;
        let why = within(SOON, || {
            last = self.agent(agent);
            (last["state"] == state).then(|| last["why"].as_str().unwrap_or_default().to_owned())
        });
        why.unwrap_or_else(|| panic!("{agent} is not {state}: {last}"))
    }

    /// Returns the ids of the requests that are not over.
    pub(crate) fn requests(&self) -> Vec<String> {
        let overview = self.ps();
        let ids = overview["requests"].as_array().into_iter().flatten().filter_map(|request| request["id"].as_str());
        ids.map(str::to_owned).collect()
    }

    /// Returns what `ccb explain` says of a request.
    pub(crate) fn explain(&self, id: &str) -> Value {
        self.ccb(&["explain", id, "--json"]).json()
    }

    /// Waits until a request is in this state, and returns its explanation.
    #[track_caller]
    pub(crate) fn until_request(&self, id: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let found = within(SOON, || {
            last = self.explain(id);
            (last["request"]["state"] == state).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("{id} is not {state}: {last:#}"))
    }

    /// Waits until a request is over and returns it.
    #[track_caller]
    pub(crate) fn settled(&self, id: &str) -> Value {
        self.until_request(id, "settled")["request"].clone()
    }

    /// Returns what `ccb status` says.
    pub(crate) fn status(&self) -> Value {
        self.ccb(&["status", "--json"]).json()
    }

    /// Returns the process ids of worker and keeper.
    pub(crate) fn askd(&self) -> (u32, u32) {
        let pid = |value: &Value| u32::try_from(value.as_u64()?).ok();
        until("a keeper watches a worker", || {
            let status = self.status();
            Some((pid(&status["pid"])?, pid(&status["keeper"])?))
        })
    }

    /// Returns the project's home.
    pub(crate) fn state(&self) -> PathBuf {
        self.status()["home"].as_str().expect("a daemon has a home").into()
    }

    /// The same, without asking a daemon, which would start one.
    pub(crate) fn state_by_path(&self) -> PathBuf {
        let project = std::fs::canonicalize(self.project()).expect("a project");
        let all = std::fs::read_dir(self.states().join("ccb/projects")).into_iter().flatten().flatten();
        let stamped = |home: &PathBuf| {
            let stamp = std::fs::read_to_string(home.join("project.json")).unwrap_or_default();
            stamp.contains(&project.display().to_string())
        };
        all.map(|entry| entry.path()).find(stamped).unwrap_or_else(|| self.home().join("no home is there"))
    }

    /// Runs tmux on the project's own server.
    pub(crate) fn tmux(&self, args: &[&str]) -> Run {
        let socket = until("the session exists", || self.status()["attach"]["socket"].as_str().map(str::to_owned));
        self.run("tmux", &[&["-S", &socket], args].concat(), "")
    }

    /// Returns an agent's pane.
    pub(crate) fn pane(&self, agent: &str) -> String {
        until("the agent has a pane", || self.agent(agent)["pane"].as_str().map(str::to_owned))
    }

    /// Presses keys in an agent's pane, as a human does.
    pub(crate) fn presses(&self, agent: &str, keys: &[&str]) {
        let pane = self.pane(agent);
        let _pressed = self.tmux(&[&["send-keys", "-t", &pane], keys].concat()).ok();
    }

    /// Returns what an agent's pane shows.
    pub(crate) fn screen(&self, agent: &str) -> String {
        self.tmux(&["capture-pane", "-p", "-t", &self.pane(agent)]).out
    }

    /// Returns the events that a stub has recorded.
    pub(crate) fn events(&self, agent: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file(agent, "events")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Returns the events of one kind.
    pub(crate) fn events_of(&self, agent: &str, kind: &str) -> Vec<Value> {
        self.events(agent).into_iter().filter(|event| event["ev"] == kind).collect()
    }

    /// Returns how often an agent was given a request, at once or in its own queue.
    pub(crate) fn received(&self, agent: &str, id: &str) -> usize {
        let events = self.events(agent);
        events.iter().filter(|event| event["req"] == id && event["ev"] == "recv").count()
    }

    /// Returns how often each request was given to an agent.
    pub(crate) fn all_received(&self, agent: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in self.events_of(agent, "recv") {
            *counts.entry(event["req"].as_str().unwrap_or_default().to_owned()).or_insert(0) += 1;
        }
        counts
    }

    /// Returns what a stub has written down as the user's messages.
    pub(crate) fn questions(&self, agent: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.file(agent, "jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let users = lines.filter(|line| line["payload"]["type"] == "user_message");
        users.filter_map(|line| line["payload"]["message"].as_str().map(str::to_owned)).collect()
    }

    /// Returns all that came from an agent's terminal, as its log of keys writes it.
    pub(crate) fn keys(&self, agent: &str) -> String {
        let text = std::fs::read_to_string(self.file(agent, "keys")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line["bytes"].as_str().map(str::to_owned)).collect()
    }

    /// Returns the keys that came to an agent's terminal beside pastes.
    pub(crate) fn pressed(&self, agent: &str) -> String {
        let keys = self.keys(agent);
        let mut parts = keys.split("\\x1b[200~");
        let mut pressed = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (_, after) = part.split_once("\\x1b[201~").unwrap_or_else(|| panic!("an open paste: {keys}"));
            pressed.push_str(after);
        }
        pressed
    }

    /// Changes how a stub behaves from its next prompt on.
    pub(crate) fn control(&self, agent: &str, text: &str) {
        std::fs::write(self.file(agent, "ctl"), text).expect("a control file");
    }

    /// Returns the processes of this world and their command lines.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let mark = self.dir().display().to_string();
        let read = |path: String| Some(String::from_utf8_lossy(&std::fs::read(path).ok()?).replace('\0', " "));
        let ours = |pid: u32| {
            let words = read(format!("/proc/{pid}/cmdline"))?;
            let environ = read(format!("/proc/{pid}/environ")).unwrap_or_default();
            (words.contains(&mark) || environ.contains(&mark)).then_some((pid, words))
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| *pid != std::process::id()).filter_map(ours).collect()
    }

    /// Waits for the one process whose command line has these words in it.
    #[track_caller]
    pub(crate) fn process(&self, words: &str) -> u32 {
        until(&format!("there is a process `{words}`"), || {
            let all = self.processes();
            all.into_iter()
                .find(|(_, line)| line.contains(words) && !line.contains(" guard ") && !line.starts_with("tmux "))
                .map(|(pid, _)| pid)
        })
    }

    /// Kills a process, and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill(&self, pid: u32) {
        signal(pid, Signal::KILL);
        self.until_gone(pid);
    }

    /// Waits until a process is gone.
    #[track_caller]
    pub(crate) fn until_gone(&self, pid: u32) {
        until(&format!("process {pid} is gone"), || {
            self.processes().iter().all(|(other, _)| *other != pid).then_some(())
        });
    }

    /// Kills a command of this test.
    pub(crate) fn kill_child(&self, going: Going) {
        self.kill(going.pid());
        let _nothing = going.end();
    }

    /// Returns the daemon's log.
    pub(crate) fn log(&self) -> String {
        let logs = files_below(&self.states().join("ccb"));
        let logs = logs.iter().filter(|path| path.extension().is_some_and(|end| end == "log"));
        logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }
}

/// A small file system, unmounted when it is dropped.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts it, if that is allowed.
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        let option = format!("size={size},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &option, "ccb-test"]).arg(&path).output();
        mounted.is_ok_and(|done| done.status.success()).then_some(Self { path })
    }

    /// Mounts it in another way; false if the system refuses.
    pub(crate) fn remount(&self, how: &str) -> bool {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.path).output();
        done.is_ok_and(|done| done.status.success())
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.path.join("fill")).expect("a file");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.path.join("fill")).expect("what has filled it");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// Returns where cargo has put a program.
fn built(program: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_ccb")).with_file_name(program)
}

/// Sends a signal to a process that this test has started.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // One that has ended by itself meanwhile is as dead as it is to be.
    let _ = kill_process(pid, signal);
}

/// Returns all files below a directory.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
    files.sort();
    files
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = format!("--- log\n{}--- processes\n{:#?}\n", self.log(), self.processes());
            let files = std::fs::read_dir(self.dir()).into_iter().flatten().flatten().map(|entry| entry.path());
            for file in files.filter(|file| file.extension().is_some_and(|end| end == "events")) {
                let events = std::fs::read_to_string(&file).unwrap_or_default();
                let last: Vec<&str> = events.lines().rev().take(20).collect();
                let _ =
                    writeln!(text, "--- {}\n{}", file.display(), last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            let overview = self.ccb(&["ps", "--json"]).out;
            let _ = writeln!(text, "--- ps\n{overview}");
            let overview: Value = serde_json::from_str(&overview).unwrap_or_default();
            let status: Value = serde_json::from_str(&self.ccb(&["status", "--json"]).out).unwrap_or_default();
            let socket = status["attach"]["socket"].as_str().unwrap_or_default();
            for agent in overview["agents"].as_array().into_iter().flatten() {
                let pane = agent["pane"].as_str().unwrap_or_default();
                let screen = self.run("tmux", &["-S", socket, "capture-pane", "-p", "-t", pane], "").out;
                let _ = writeln!(text, "--- {}\n{}", agent["name"], screen.trim_end());
            }
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        // The orderly way first, so that the keeper does not start again what is ended below. A stopped
        // process would keep it waiting.
        for (pid, _) in self.processes() {
            signal(pid, Signal::CONT);
        }
        let ended = self.command(self.program("ccb")).arg("kill").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if let Ok(mut child) = ended {
            let _ = within(Duration::from_secs(10), || child.try_wait().ok().flatten());
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = within(Duration::from_secs(10), || {
            let all = self.processes();
            for (pid, _) in &all {
                signal(*pid, Signal::KILL);
            }
            all.is_empty().then_some(())
        });
    }
}

/// A command that is running.
pub(crate) struct Going {
    child: Child,
    out: std::fs::File,
    err: std::fs::File,
}

impl Going {
    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns a descriptor of the process, by which a signal reaches it and no other.
    pub(crate) fn watch(&self) -> Arc<OwnedFd> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        Arc::new(pidfd_open(pid, PidfdFlags::empty()).expect("a child that has not been waited for"))
    }

    /// Returns whether it has ended.
    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Run {
        let ended = within(2 * SOON, || self.child.try_wait().expect("a child can be waited for"));
        let read = |file: &mut std::fs::File| {
            let mut bytes = Vec::new();
            std::io::Seek::rewind(file).expect("a file has a beginning");
            std::io::Read::read_to_end(file, &mut bytes).expect("a file can be read");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (out, err) = (read(&mut self.out), read(&mut self.err));
        let Some(status) = ended else {
            panic!("the command does not end; so far it has said {out:?} {err:?}");
        };
        Run { code: status.code(), out, err }
    }
}
