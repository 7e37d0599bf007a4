//! A world of its own for each test: a home made from nothing, a project, a fake model, and a network
//! namespace with nothing in it but loopback.
//!
//! All that a test starts has the world's directory in its environment or in its command line. By that it is
//! found, and nothing else is ever ended.

pub(crate) mod claude;
pub(crate) mod droid;
pub(crate) mod gemini;
pub(crate) mod opencode;

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fake_model::log::Log;
use fake_model::server::Server;
use serde_json::Value;

/// The directory of the pinned CLIs, as `scripts/lab.sh` has filled it.
const VARIABLE: &str = "CCB_LAB";

/// Where the agents' programs are in it: natively, as a launcher of Node would only cost memory.
const PROGRAMS: [(&str, &str); 5] = [
    ("codex", "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin"),
    ("claude", claude::PROGRAM),
    ("gemini", gemini::PROGRAM),
    ("opencode", opencode::PROGRAM),
    ("droid", droid::PROGRAM),
];

/// How the line begins by which ccb marks a prompt.
const ANCHOR: &str = "CCB_REQ_ID: ";

/// How long a thing may take that takes a moment: OpenCode's first turn takes ten seconds, and minutes on a machine with
/// other work.
pub(crate) const SOON: Duration = Duration::from_secs(150);

/// How often a condition is looked at.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// What is particular about a world.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Who is asked in it: `codex`, `claude`, `gemini`, `opencode` or `droid`.
    pub(crate) agent: &'static str,
    /// Who else is there.
    pub(crate) also: &'static [&'static str],
    /// The name of the user's home.
    pub(crate) home: &'static str,
    /// The name of the project's directory.
    pub(crate) project: &'static str,
    /// Whether Codex is told of the fake model (else it wants a login).
    pub(crate) provider: bool,
    /// What else stands in Codex's `config.toml`: lines before its tables, and tables.
    pub(crate) config: (&'static str, &'static str),
    /// Claude's `settings.json`, or what the user has set besides for Gemini, OpenCode or Droid, where they are
    /// asked: an object of JSON in which `{world}` is the world's directory; none if empty.
    pub(crate) settings: &'static str,
    /// Whether the user has told Claude and Gemini to trust the project.
    pub(crate) trusted: bool,
    /// Additional variables of every command.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    /// A directory that comes before all others on the PATH.
    pub(crate) first_on_path: Option<PathBuf>,
    /// The lab's package of an older version whose program goes by the asked agent's name.
    pub(crate) older: Option<&'static str>,
    /// Whether Droid's own interface, which wants a login, is played by a stand-in.
    pub(crate) stand_in: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            agent: "codex",
            also: &[],
            home: "home",
            project: "work",
            provider: true,
            config: ("", ""),
            settings: "",
            trusted: true,
            environment: Vec::new(),
            first_on_path: None,
            older: None,
            stand_in: false,
        }
    }
}

impl Setup {
    /// A world in which Claude is asked.
    pub(crate) fn claude() -> Self {
        Self { agent: "claude", ..Self::default() }
    }

    /// A world in which Claude is asked, and Codex is there too.
    pub(crate) fn both() -> Self {
        Self { also: &["codex"], ..Self::claude() }
    }

    /// A world in which Gemini is asked.
    pub(crate) fn gemini() -> Self {
        Self { agent: "gemini", ..Self::default() }
    }

    /// A world in which OpenCode is asked.
    pub(crate) fn opencode() -> Self {
        Self { agent: "opencode", ..Self::default() }
    }

    /// A world in which Droid is asked.
    pub(crate) fn droid() -> Self {
        Self { agent: "droid", ..Self::default() }
    }

    /// Returns whether this agent is in the world.
    fn has(&self, agent: &str) -> bool {
        self.agent == agent || self.also.contains(&agent)
    }
}

/// A sealed world.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    setup: Setup,
    /// Where the programs of the agents are.
    programs: Vec<PathBuf>,
    /// Its port is freed with it.
    model: Server,
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
fn moment() {
    // An early return only means that the look comes early.
    let _ = rustix::event::poll(&mut [], Some(&LOOK));
}

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        moment();
    }
}

/// Returns a world, or says that the lab is left out.
pub(crate) fn lab(setup: Setup) -> Option<Lab> {
    let cli = |(name, within): &(&str, &str)| {
        let dir = PathBuf::from(std::env::var_os(VARIABLE)?).join(within);
        dir.join(name).is_file().then_some(dir)
    };
    let wanted = PROGRAMS.iter().filter(|(name, _)| setup.has(name));
    let found = wanted.map(cli).collect::<Option<Vec<PathBuf>>>();
    let older = setup.older.map_or(Some(None), |package| older(package).map(Some));
    let Some((programs, older)) = found.zip(older) else {
        let text = format!("LEFT OUT: the lab; {VARIABLE} names no directory with the pinned {}\n", setup.agent);
        std::io::stderr().write_all(text.as_bytes()).expect("a test's standard error can be written");
        return None;
    };
    seal();
    let dir = tempfile::Builder::new().prefix("lab-").tempdir().expect("a temporary directory");
    let log = Log::append_to(&dir.path().join("model.jsonl")).expect("the model's log");
    let model = Server::start(0, log).expect("the model listens on loopback");
    // Nobody asks this agent for an end mark, so one in a prompt is text like any other.
    model.forget_done();
    let mut programs: Vec<PathBuf> = programs.iter().map(|within| gemini::alone(dir.path(), within)).collect();
    if let Some(program) = older {
        let within = dir.path().join("older");
        std::fs::create_dir(&within).expect("a directory");
        std::os::unix::fs::symlink(program, within.join(setup.agent)).expect("a link");
        programs.insert(0, within);
    }
    if setup.stand_in {
        programs.insert(0, droid::stand_in(dir.path()));
    }
    let lab = Lab { dir, setup, programs, model };
    std::fs::create_dir_all(lab.project().join(".ccb")).expect("a project");
    lab.furnish();
    Some(lab)
}

/// Finds the program of a package of the lab that holds an older version.
pub(crate) fn older(package: &str) -> Option<PathBuf> {
    let below = PathBuf::from(std::env::var_os(VARIABLE)?).join("node_modules").join(package);
    let arch = std::env::consts::ARCH;
    let places = [
        below.join(format!("vendor/{arch}-unknown-linux-musl/codex/codex")),
        below.join("node_modules/@anthropic-ai/claude-code-linux-x64/claude"),
        below.join("node_modules/@anthropic-ai/claude-code-linux-arm64/claude"),
    ];
    places.into_iter().find(|place| place.is_file())
}

/// Takes this thread, and all that it starts, out of the machine's network.
#[cfg(target_os = "linux")]
#[expect(deprecated, reason = "of the flags only shared descriptors would be unsafe, and this is a new network")]
fn seal() {
    let alone = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
    let up = || Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|status| status.success());
    match alone {
        Ok(()) => assert!(up(), "no loopback in the new network namespace"),
        Err(error) => {
            let text = format!("note: no network namespace of its own ({error}); loopback is all that is named\n");
            std::io::stderr().write_all(text.as_bytes()).expect("a test's standard error can be written");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn seal() {}

fn config(setup: &Setup, port: u16) -> String {
    let (keys, tables) = setup.config;
    let provider = format!(
        "[model_providers.fake]\nname = \"fake\"\nbase_url = \"http://127.0.0.1:{port}/v1\"\n\
         wire_api = \"responses\"\nenv_key = \"FAKE_KEY\"\nrequest_max_retries = 1\nstream_max_retries = 1\n"
    );
    let (chosen, provider) = if setup.provider { ("model_provider = \"fake\"\n", provider.as_str()) } else { ("", "") };
    format!("model = \"gpt-5.1-codex\"\n{chosen}check_for_update_on_startup = false\n{keys}\n{provider}\n{tables}")
}

/// Returns a configuration with what else the user has set.
fn merged(mut base: Value, more: Value) -> Value {
    match (&mut base, more) {
        (Value::Object(known), Value::Object(more)) => {
            for (key, value) in more {
                let before = known.remove(&key).unwrap_or_default();
                known.insert(key, merged(before, value));
            }
            base
        }
        (_, more) => more,
    }
}

/// Returns the request's id that marks a prompt.
fn anchor(text: &str) -> Option<String> {
    let after = text.split_once(ANCHOR)?.1;
    Some(after.lines().next()?.trim().to_owned())
}

/// Returns all lines of JSON in these files.
fn json_lines(files: impl IntoIterator<Item = PathBuf>) -> Vec<Value> {
    let texts: Vec<String> = files.into_iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    texts.iter().flat_map(|text| text.lines()).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Lab {
    /// Writes down what the user of this world has configured.
    fn furnish(&self) {
        let has = |agent: &str| self.setup.has(agent);
        if has("codex") {
            let config = config(&self.setup, self.model.port());
            self.write(&self.codex_home().join("config.toml"), &config);
        }
        if has("claude") {
            self.furnish_claude();
        }
        if has("gemini") {
            self.furnish_gemini();
        }
        if has("opencode") {
            self.furnish_opencode();
        }
        if has("droid") {
            self.furnish_droid();
        }
    }

    /// Writes a file of the user.
    fn write(&self, path: &Path, text: &str) {
        assert!(path.starts_with(self.dir()), "{} is not in this world", path.display());
        std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file takes text");
    }

    /// Returns an agent's configuration with what else the user has set for it, if it is the one that is asked.
    fn configured(&self, agent: &str, base: Value) -> String {
        let own = self.setup.agent == agent && !self.setup.settings.is_empty();
        let more = own.then(|| serde_json::from_str(&self.placed(self.setup.settings)).expect("settings are JSON"));
        match more {
            Some(more) => merged(base, more).to_string(),
            None => base.to_string(),
        }
    }

    /// Returns the variables that lead the agents to the fake model, and to nobody else.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let of = |agent: &str, variables: fn(&Self) -> Vec<(&'static str, String)>| {
            if self.setup.has(agent) { variables(self) } else { Vec::new() }
        };
        [
            of("claude", Self::claude_environment),
            of("gemini", Self::gemini_environment),
            of("opencode", Self::opencode_environment),
            of("droid", Self::droid_environment),
        ]
        .concat()
    }

    /// Returns the fake model's address.
    fn model_address(&self) -> String {
        format!("http://127.0.0.1:{}", self.model.port())
    }

    /// Returns the world's directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the user's home.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir().join(self.setup.home)
    }

    /// Returns the directory of Codex's own files.
    pub(crate) fn codex_home(&self) -> PathBuf {
        self.home().join(".codex")
    }

    /// Returns the project's directory.
    pub(crate) fn project(&self) -> PathBuf {
        self.dir().join(self.setup.project)
    }

    /// Returns a text with `{world}` replaced by the world's directory.
    fn placed(&self, text: &str) -> String {
        text.replace("{world}", &self.dir().display().to_string())
    }

    /// Returns a command in the project, with nothing from outside.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_ccb")).parent().expect("binaries are in a directory");
        let dirs = self.setup.first_on_path.iter().map(PathBuf::as_path).chain([bin]);
        let dirs = dirs.chain(self.programs.iter().map(PathBuf::as_path));
        let dirs: Vec<String> = dirs.map(|dir| dir.display().to_string()).collect();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", dirs.join(":")))
            .env("HOME", self.home())
            .envs([("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("SHELL", "/bin/bash"), ("FAKE_KEY", "sk-fake-0")])
            .envs(self.environment())
            .envs(self.setup.environment.iter().map(|(name, value)| (*name, self.placed(value))))
            .current_dir(self.project());
        command
    }

    /// Runs a command of ours with this on its standard input.
    pub(crate) fn run(&self, program: &str, args: &[&str], input: &str) -> Run {
        self.begin(program, args, input).end()
    }

    /// Starts a command of ours, and does not wait for it.
    pub(crate) fn begin(&self, program: &str, args: &[&str], input: &str) -> Going {
        let path = match program {
            "ccb" => env!("CARGO_BIN_EXE_ccb"),
            "ask" => env!("CARGO_BIN_EXE_ask"),
            other => other,
        };
        // Files and no pipes, so that nothing has to be read or written at the right time.
        let file = || tempfile::tempfile_in(self.dir()).expect("a temporary file");
        let (mut stdin, out, err) = (file(), file(), file());
        stdin.write_all(input.as_bytes()).expect("a temporary file takes text");
        std::io::Seek::rewind(&mut stdin).expect("a file has a beginning");
        let clone = |file: &std::fs::File| Stdio::from(file.try_clone().expect("a descriptor"));
        let mut command = self.command(path);
        command.args(args).stdin(stdin).stdout(clone(&out)).stderr(clone(&err));
        Going { child: command.spawn().expect("our own program starts"), out, err }
    }

    /// Runs `ccb`.
    pub(crate) fn ccb(&self, args: &[&str]) -> Run {
        self.run("ccb", args, "")
    }

    /// Asks the agent and waits for the answer.
    pub(crate) fn ask(&self, message: &str) -> Run {
        self.run("ask", &[self.setup.agent, "-t", "120"], message)
    }

    /// Asks the agent and returns the request as it ended.
    pub(crate) fn ask_json(&self, message: &str) -> Value {
        self.run("ask", &[self.setup.agent, "-t", "120", "--json"], message).json()
    }

    /// Has the provider refuse a request until a day of the year 2100, and sees that everybody is told, until the
    /// human has done what the agent wants then, and it goes on.
    pub(crate) fn tells_the_limit(&self, human: impl FnOnce()) {
        let told = self.run("ask", &[self.setup.agent, "-t", "120"], "ERR 429: used up until 4115000000");
        told.says(1, &["quota used up", "2100"]);
        let shown = self.ccb(&["ps"]).ok();
        assert!(shown.contains("last error: quota used up") && shown.contains("2100"), "{shown}");
        human();
        assert_eq!(self.ask("ECHO: it goes on").ok(), "it goes on\n");
        assert!(!self.ccb(&["ps"]).ok().contains("quota"), "it is over");
    }

    /// Begins to ask the agent; the request is known to askd when this returns.
    pub(crate) fn ask_meanwhile(&self, message: &str) -> (String, Going) {
        let before = self.requests();
        let going = self.begin("ask", &[self.setup.agent, "-t", "120", "--json"], message);
        let id = until("the request is accepted", || self.requests().into_iter().find(|id| !before.contains(id)));
        (id, going)
    }

    /// Asks the agent, does not wait, and returns the request's id.
    pub(crate) fn submit(&self, message: &str) -> String {
        let said = self.run("ask", &[self.setup.agent, "-t", "120", "--async"], message).ok();
        let word = said.split_whitespace().find(|word| word.starts_with("20") && word.len() > 20);
        word.unwrap_or_else(|| panic!("no id: {said}")).trim_end_matches([']', ',', ')']).to_owned()
    }

    /// Starts the agent in its pane and waits until it can be asked.
    pub(crate) fn start(&self) {
        let _started = self.ccb(&["--detach", self.setup.agent]).ok();
        self.until_idle();
    }

    /// Waits until the agent is idle.
    #[track_caller]
    pub(crate) fn until_idle(&self) {
        self.until_state("idle");
    }

    /// Waits until `ccb ps` shows this state, and returns its reason.
    #[track_caller]
    pub(crate) fn until_state(&self, state: &str) -> String {
        until(&format!("{} is {state}", self.setup.agent), || {
            let agent = self.agent();
            (agent["state"] == state).then(|| agent["why"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Returns what `ccb ps` says of the agent.
    pub(crate) fn agent(&self) -> Value {
        self.ccb(&["ps", "--json"]).json()["agents"][0].clone()
    }

    /// Returns the ids of the requests that are not over.
    pub(crate) fn requests(&self) -> Vec<String> {
        let overview = self.ccb(&["ps", "--json"]).json();
        let ids = overview["requests"].as_array().into_iter().flatten().filter_map(|request| request["id"].as_str());
        ids.map(str::to_owned).collect()
    }

    /// Returns what `ccb explain` says of a request.
    pub(crate) fn explain(&self, id: &str) -> Value {
        self.ccb(&["explain", id, "--json"]).json()
    }

    /// Waits until a request is in this state.
    #[track_caller]
    pub(crate) fn until_request(&self, id: &str, state: &str) -> Value {
        until(&format!("request {id} is {state}"), || {
            let explanation = self.explain(id);
            (explanation["request"]["state"] == state).then_some(explanation)
        })
    }

    /// Has the agent driven on this rung and no other.
    pub(crate) fn forces(&self, rung: &str) {
        let agent = self.setup.agent;
        let config = format!("[agents.{agent}]\nprovider = \"{agent}\"\nrung = \"{rung}\"\n");
        std::fs::write(self.project().join(".ccb/ccb.config"), config).expect("a configuration");
    }

    /// Says how long after the model's last word a request was settled; it is not to take many seconds.
    pub(crate) fn noticed(&self, answer: &Value) {
        let last = self.model_requests().last().expect("a request")["seq"].clone();
        let log = std::fs::read_to_string(self.dir().join("model.jsonl")).expect("the model's log");
        let mut events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ended = events.find(|event| event["ev"] == "end" && event["seq"] == last).expect("it has answered");
        let ended = Duration::from_secs_f64(ended["t"].as_f64().expect("a time")).as_millis();
        let after = u128::from(answer["settlement"]["at"].as_u64().expect("a time")).saturating_sub(ended);
        let text = format!("{}: noticed {after} ms after its end\n", self.setup.agent);
        std::io::stderr().write_all(text.as_bytes()).expect("a test's standard error can be written");
        assert!(after < 10_000, "{after} ms: nobody has looked");
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

    /// Runs tmux on the project's own server.
    pub(crate) fn tmux(&self, args: &[&str]) -> Run {
        let socket = until("the session exists", || self.status()["attach"]["socket"].as_str().map(str::to_owned));
        self.run("tmux", &[&["-S", &socket], args].concat(), "")
    }

    /// Returns what the pane shows.
    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "ccb:"]).out
    }

    /// Waits until the pane shows a text.
    #[track_caller]
    pub(crate) fn until_shown(&self, text: &str) -> String {
        let mut last = String::new();
        let start = Instant::now();
        while start.elapsed() < SOON {
            last = self.screen();
            if last.contains(text) {
                return last;
            }
            moment();
        }
        panic!("the pane does not show `{text}`:\n{last}");
    }

    /// Types text into the pane, as a human does.
    pub(crate) fn types(&self, text: &str) {
        let _typed = self.tmux(&["send-keys", "-t", "ccb:", "-l", text]).ok();
    }

    /// Presses a key in the pane.
    pub(crate) fn presses(&self, key: &str) {
        let _pressed = self.tmux(&["send-keys", "-t", "ccb:", key]).ok();
    }

    /// Returns the model's log of requests of turns: what a CLI asks aside has no tools.
    pub(crate) fn model_requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir().join("model.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["ev"] == "req" && line["tools"].as_array().is_some_and(|t| !t.is_empty())).collect()
    }

    /// Returns how often the model was given this text as the newest words of a user. A stand-in has no model: what it
    /// works on is in its records.
    pub(crate) fn model_saw(&self, text: &str) -> usize {
        if self.setup.stand_in {
            return self.user_messages().iter().filter(|(_, user)| user.contains(text)).count();
        }
        let requests = self.model_requests();
        let fresh = requests.iter().filter(|line| line["nresults"] == 0);
        fresh.filter(|line| line["user"].as_str().is_some_and(|user| user.contains(text))).count()
    }

    /// Returns the user messages in the agent's own records: the id of the request, and the text.
    pub(crate) fn user_messages(&self) -> Vec<(Option<String>, String)> {
        match self.setup.agent {
            "claude" => self.prompts(),
            "gemini" => self.gemini_prompts(),
            "opencode" => self.opencode_prompts(),
            "droid" => self.droid_prompts(),
            _ => self.codex_prompts(),
        }
    }

    fn codex_prompts(&self) -> Vec<(Option<String>, String)> {
        let mut messages = Vec::new();
        for file in files_below(&self.codex_home().join("sessions")) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let items = lines.filter(|line| line["payload"]["type"] == "item_completed");
            let users = items.filter(|line| line["payload"]["item"]["type"] == "UserMessage");
            messages.extend(users.map(|line| {
                let item = &line["payload"]["item"];
                let texts = item["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
                (item["client_id"].as_str().map(str::to_owned), texts.collect())
            }));
        }
        messages
    }

    /// Returns how many user messages of a request the agent has written down.
    pub(crate) fn consumed(&self, id: &str) -> usize {
        self.user_messages().iter().filter(|(client, _)| client.as_deref() == Some(id)).count()
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

    /// Waits for the one process whose command line has this in it.
    #[track_caller]
    pub(crate) fn process(&self, words: &str) -> u32 {
        until(&format!("there is a process `{words}`"), || {
            let all = self.processes();
            all.into_iter().find(|(_, line)| line.contains(words) && !line.contains(" guard ")).map(|(pid, _)| pid)
        })
    }

    /// Kills a process, and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill(&self, pid: u32) {
        kill(pid);
        until(&format!("process {pid} is gone"), || {
            self.processes().iter().all(|(other, _)| *other != pid).then_some(())
        });
    }
}

/// Kills a process.
pub(crate) fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    // One that has ended by itself meanwhile is as dead as it is to be.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
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

/// Writes a program.
pub(crate) fn write_program(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory");
    std::fs::write(path, text).expect("a script");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = files_below(&self.home().join(".local/state/ccb"));
            let logs = logs.iter().filter(|path| path.extension().is_some_and(|end| end == "log"));
            let told: Vec<String> = logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
            let overview = self.ccb(&["ps", "--json"]).out;
            let open = self.requests().iter().map(|id| self.ccb(&["explain", id]).out).collect::<String>();
            let socket = self.status()["attach"]["socket"].as_str().unwrap_or_default().to_owned();
            let screen = self.run("tmux", &["-S", &socket, "capture-pane", "-p", "-t", "ccb:"], "").out;
            let logs = told.concat();
            let text = format!("--- ps\n{overview}--- open requests\n{open}--- logs\n{logs}--- screen\n{screen}");
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        // The orderly way first, so that the keeper does not start again what is ended below.
        let _ended = self.ccb(&["kill"]);
        for _ in 0..500 {
            let all = self.processes();
            if all.is_empty() {
                return;
            }
            for (pid, _) in all {
                kill(pid);
            }
            moment();
        }
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

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        let status = until("the command ends", || self.child.try_wait().expect("a child can be waited for"));
        let read = |file: &mut std::fs::File| {
            let mut bytes = Vec::new();
            std::io::Seek::rewind(file).expect("a file has a beginning");
            std::io::Read::read_to_end(file, &mut bytes).expect("a file can be read");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Run { code: status.code(), out: read(&mut self.out), err: read(&mut self.err) }
    }
}
