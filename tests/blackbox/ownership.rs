//! Whose daemon it is: several instances with terminals of their own, and owners of every kind that end in every way.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::env::{Going, Run, SOON, Setup, Stub, TestEnv, files_below, signal, until, within};

/// A user that is nobody.
const USER: &str = "12345";

/// How long a daemon is watched that must not end. The predecessor's ended after half a second.
const STAYS: Duration = Duration::from_secs(2);

/// A user with terminals: sessions of a tmux server of the test's own, in which nobody knows that it is one.
struct User<'a> {
    env: &'a TestEnv,
}

impl User<'_> {
    fn new(env: &TestEnv) -> User<'_> {
        std::fs::write(env.dir().join("outer.conf"), "set -g remain-on-exit on\n").expect("a configuration of tmux");
        User { env }
    }

    fn tmux(&self, args: &[&str]) -> Run {
        let at = |name: &str| self.env.dir().join(name).display().to_string();
        self.env.run("tmux", &[&["-S", &at("outer.sock"), "-f", &at("outer.conf")], args].concat(), "")
    }

    /// Opens a terminal in which this command runs, in the project; returns its process.
    fn opens(&self, terminal: &str, line: &str) -> u32 {
        self.opens_at(terminal, &self.env.project(), line)
    }

    /// The same, somewhere else.
    fn opens_at(&self, terminal: &str, place: &Path, line: &str) -> u32 {
        self.runs(terminal, place, line);
        let shell = self.show(terminal, "#{pane_pid}");
        until(&format!("`{line}` runs in {terminal}"), || {
            let parent = |pid: u32| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                Some(stat.rsplit_once(") ")?.1.split(' ').nth(1)? == shell)
            };
            self.env.processes().into_iter().map(|(pid, _)| pid).find(|pid| parent(*pid) == Some(true))
        })
    }

    /// Opens a terminal in which this command runs, which may be over soon.
    fn runs(&self, terminal: &str, place: &Path, line: &str) {
        let line = format!("env -u TMUX -u TMUX_PANE {line}; echo $? > '{}'", self.code(terminal).display());
        let place = place.display().to_string();
        let _opened =
            self.tmux(&["new-session", "-d", "-s", terminal, "-x", "160", "-y", "40", "-c", &place, &line]).ok();
    }

    /// The file with the exit code of what ran in a terminal.
    fn code(&self, terminal: &str) -> PathBuf {
        self.env.dir().join(format!("{terminal}.code"))
    }

    fn show(&self, terminal: &str, format: &str) -> String {
        self.tmux(&["display-message", "-p", "-t", &format!("{terminal}:"), format]).ok().trim().to_owned()
    }

    fn presses(&self, terminal: &str, keys: &[&str]) {
        let _pressed = self.tmux(&[&["send-keys", "-t", &format!("{terminal}:")], keys].concat()).ok();
    }

    fn screen(&self, terminal: &str) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-t", &format!("{terminal}:")]).ok()
    }

    /// Waits until a terminal shows this.
    #[track_caller]
    fn sees(&self, terminal: &str, text: &str) {
        let mut last = String::new();
        let seen = within(SOON, || {
            last = self.screen(terminal);
            last.contains(text).then_some(())
        });
        assert!(seen.is_some(), "{terminal} does not show `{text}`:\n{last}");
    }

    /// Waits until the command in a terminal has ended, and returns its exit code and what the terminal shows.
    #[track_caller]
    fn ended(&self, terminal: &str) -> (String, String) {
        until(&format!("{terminal} has ended"), || (self.show(terminal, "#{pane_dead}") == "1").then_some(()));
        let status = std::fs::read_to_string(self.code(terminal)).unwrap_or_default().trim().to_owned();
        (status, self.screen(terminal))
    }
}

/// Waits until this process owns the daemon, as what, and these are attached.
#[track_caller]
fn until_owned(env: &TestEnv, owner: Option<u32>, attached: &[u32]) -> String {
    let mut last = Value::Null;
    let pid = |value: &Value| value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let kind = within(SOON, || {
        last = env.status();
        let others: Vec<u32> = last["attached"].as_array()?.iter().filter_map(pid).collect();
        (pid(&last["owner"]) == owner && others == attached)
            .then(|| last["owner"]["kind"].as_str().unwrap_or_default().to_owned())
    });
    let kind = kind.unwrap_or_else(|| panic!("not owned by {owner:?} with {attached:?} attached: {last:#}"));
    let state = state(env);
    assert_eq!(state["parent_pid"], owner.map_or(Value::Null, Value::from), "{state:#}");
    assert_eq!((&state["managed"], &state["attached"]), (&owner.is_some().into(), &attached.to_vec().into()));
    kind
}

/// Returns what `askd.json` says.
fn state(env: &TestEnv) -> Value {
    let text = std::fs::read_to_string(env.state().join("askd.json")).expect("the daemon is described");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Returns what the only daemon of a world says of its end.
fn last_end(env: &TestEnv) -> Value {
    let files = files_below(&env.home().join(".local/state/ccb"));
    let last = files.iter().find(|path| path.ends_with("askd.last.json")).expect("an end is written down");
    serde_json::from_str(&std::fs::read_to_string(last).expect("it can be read")).expect("it is JSON")
}

fn daemons(env: &TestEnv) -> Vec<u32> {
    let daemons = env.processes().into_iter().filter(|(_, line)| line.contains("/askd "));
    daemons.map(|(pid, _)| pid).collect()
}

/// Waits until the daemon has ended in order, and returns why.
#[track_caller]
fn until_ended(env: &TestEnv) -> String {
    until("the daemon has ended", || daemons(env).is_empty().then_some(()));
    let last = last_end(env);
    assert_eq!((&last["status"], &last["exit_code"]), (&"stopped".into(), &0.into()), "{last:#}");
    last["exit_reason"].as_str().unwrap_or_default().to_owned()
}

/// Watches that the daemon does not end.
#[track_caller]
fn stays(env: &TestEnv) {
    // A keeper too many, started by a client that has seen a worker without one, goes by itself.
    let before = until("one keeper watches one worker", || Some(daemons(env)).filter(|all| all.len() == 2));
    assert!(within(STAYS, || (daemons(env) != before).then_some(())).is_none(), "{:#?}", last_end(env));
}

/// Begins twenty requests that are in flight when this returns.
fn twenty(env: &TestEnv, agent: &str) -> Vec<Going> {
    let going: Vec<Going> = (0..20)
        .map(|number| env.begin("ask", &[agent, "-t", "120", "--json"], &format!("ECHO: answer {number:02}")))
        .collect();
    until("they are accepted", || {
        let done = env.events_of(agent, "done").len();
        (env.requests().len() + done >= 20).then_some(())
    });
    going
}

/// Asserts that each of them has its own answer, and was given to the agent once.
#[track_caller]
fn all_answered(env: &TestEnv, agent: &str, going: Vec<Going>) {
    for (number, one) in going.into_iter().enumerate() {
        let request = one.end().json();
        assert_eq!(request["settlement"]["reply"], format!("answer {number:02}"), "{request:#}");
        assert_eq!(env.received(agent, request["id"].as_str().expect("a request has an id")), 1, "{request:#}");
    }
}

/// A process of the test that ends with it.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("`sleep` runs"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it, and does not take its body away.
    fn dies(&self) {
        signal(self.pid(), Signal::KILL);
        until("it is a zombie", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
            stat.contains(") Z ").then_some(())
        });
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_ccb_shows_the_same_agents_and_inherits_askd() {
    let env = TestEnv::new(Setup::default());
    let user = User::new(&env);
    let one = user.opens("one", "ccb");
    assert_eq!(until_owned(&env, Some(one), &[]), "launcher");
    let before = (env.askd(), env.status()["generation"].clone());
    assert_eq!(env.ask("stub", "ECHO: seen by the first").ok(), "seen by the first\n");
    user.sees("one", "seen by the first");
    let two = user.opens("two", "ccb");
    until_owned(&env, Some(one), &[two]);
    user.sees("two", "seen by the first");
    let shown = env.ccb(&["status"]).ok();
    for line in [format!("owner     ccb, pid {one}, for"), format!("attached  ccb, pid {two}, for")] {
        assert!(shown.contains(&line), "`{line}` is missing:\n{shown}");
    }
    // The first one leaves as one leaves tmux.
    user.presses("one", &["C-b", "d"]);
    assert_eq!(user.ended("one").0, "0");
    assert_eq!(until_owned(&env, Some(two), &[]), "launcher");
    assert_eq!(env.ask("stub", "ECHO: seen by the second").ok(), "seen by the second\n");
    user.sees("two", "seen by the second");
    // The second one is told to end: it gives its terminal back, and the agents live on in their session.
    signal(two, Signal::TERM);
    assert_eq!(user.ended("two").0, "0");
    let tmux = env.tmux(&["display-message", "-p", "#{pid}"]).ok().trim().parse().unwrap();
    assert_eq!(until_owned(&env, Some(tmux), &[]), "session");
    assert_eq!(env.ask("stub", "ECHO: seen by nobody").ok(), "seen by nobody\n");
    // `ccb attach` is an instance too, and takes over from the session.
    let three = user.opens("three", "ccb attach");
    user.sees("three", "seen by nobody");
    assert_eq!(until_owned(&env, Some(three), &[]), "launcher");
    assert_eq!((env.askd(), env.status()["generation"].clone()), before);
}

#[test]
fn an_owner_killed_with_a_request_in_flight_passes_askd_on() {
    let env = TestEnv::new(Setup::default());
    let user = User::new(&env);
    // Something else has the terminal next, as a shell would.
    let one = user.opens("one", "ccb; cat");
    env.until_state("stub", "idle");
    until_owned(&env, Some(one), &[]);
    let two = user.opens("two", "ccb");
    until_owned(&env, Some(one), &[two]);
    let shown = || env.processes().iter().filter(|(_, line)| line.ends_with("attach -t ccb ")).count();
    until("both show the agents", || (shown() == 2).then_some(()));
    let before = env.askd();
    let (id, going) = env.ask_meanwhile("stub", "SLEEP 2: through it all");
    env.until_request(&id, "working");
    signal(one, Signal::KILL);
    until_owned(&env, Some(two), &[]);
    let request = going.end().json();
    assert_eq!(request["settlement"]["reply"], "through it all", "{request:#}");
    assert_eq!(env.received("stub", &id), 1, "{request:#}");
    until("the tmux in the terminal of the killed one has ended", || (shown() == 1).then_some(()));
    assert_eq!(env.askd(), before);
}

#[test]
fn a_daemon_that_only_askers_use_is_adopted_with_twenty_requests_in_flight() {
    let env = TestEnv::new(Setup::of(vec![Stub::new("stub").with(&["--delay", "0.05"])]));
    // The agent is not started: all of them wait, in a daemon that nobody owns.
    let going = twenty(&env, "stub");
    until_owned(&env, None, &[]);
    let before = env.askd();
    let user = User::new(&env);
    let one = user.opens("one", "ccb");
    until_owned(&env, Some(one), &[]);
    assert!(!env.requests().is_empty());
    all_answered(&env, "stub", going);
    assert_eq!(env.askd(), before);
}

#[test]
fn a_take_over_by_force_tells_the_former_owner_and_no_request_notices() {
    let env = TestEnv::new(Setup::of(vec![Stub::new("stub").with(&["--delay", "0.1"])]));
    let user = User::new(&env);
    let one = user.opens("one", "ccb");
    env.until_state("stub", "idle");
    until_owned(&env, Some(one), &[]);
    let before = env.askd();
    let going = twenty(&env, "stub");
    // Words that do not mean yes are no force.
    let two = user.opens("two", "CCB_FORCE_REBIND=maybe ccb");
    until_owned(&env, Some(one), &[two]);
    let three = user.opens("three", "CCB_FORCE_REBIND=Yes ccb");
    until_owned(&env, Some(three), &[one, two]);
    assert!(!env.requests().is_empty(), "the requests were over too soon");
    all_answered(&env, "stub", going);
    assert_eq!(env.askd(), before);
    // The former owner was not disturbed, and is told when its terminal is free.
    assert_eq!(env.ask("stub", "ECHO: seen by all").ok(), "seen by all\n");
    for terminal in ["one", "two", "three"] {
        user.sees(terminal, "seen by all");
    }
    assert!(!user.screen("one").contains("by force"));
    user.presses("one", &["C-b", "d"]);
    let (code, screen) = user.ended("one");
    assert_eq!(code, "0");
    assert!(screen.contains(&format!("another ccb (pid {three}) has taken over askd by force")), "{screen}");
    until_owned(&env, Some(three), &[two]);
}

#[test]
fn instances_come_back_to_the_worker_that_takes_the_place_of_a_dead_one() {
    let env = TestEnv::new(Setup::default());
    let user = User::new(&env);
    let one = user.opens("one", "CCB_FORCE_REBIND=1 ccb");
    env.until_state("stub", "idle");
    until_owned(&env, Some(one), &[]);
    let two = user.opens("two", "CCB_FORCE_REBIND=1 ccb");
    until_owned(&env, Some(two), &[one]);
    let three = user.opens("three", "ccb");
    until_owned(&env, Some(two), &[one, three]);
    for round in 1..4 {
        let (worker, _) = env.askd();
        env.kill(worker);
        // Both forced ones have come again, and neither has taken it from the other.
        until("all have come again", || {
            let log = env.log();
            let times = |pid: &u32| log.matches(&format!("pid {pid}: has come again")).count();
            [one, two, three].iter().all(|pid| times(pid) == round).then_some(())
        });
        until_owned(&env, Some(two), &[one, three]);
    }
    // Keeper and worker at once, and an owner that dies while nobody looks on.
    let (worker, keeper) = env.askd();
    signal(keeper, Signal::KILL);
    signal(worker, Signal::STOP);
    signal(two, Signal::KILL);
    env.kill(worker);
    until_owned(&env, Some(one), &[three]);
    assert_eq!(env.ask("stub", "ECHO: after it all").ok(), "after it all\n");
    user.sees("one", "after it all");
}

#[test]
fn the_last_ccb_that_ends_with_its_agents_ends_the_daemon() {
    let env = TestEnv::new(Setup::default());
    let user = User::new(&env);
    let one = user.opens("one", "ccb");
    env.until_state("stub", "idle");
    until_owned(&env, Some(one), &[]);
    // The human leaves the only agent, in the terminal that shows it: its pane, the session and tmux end.
    user.presses("one", &["C-c"]);
    user.presses("one", &["C-c"]);
    assert_eq!(user.ended("one").0, "0");
    assert_eq!(until_ended(&env), "the last ccb has ended, and nothing is left to do");
    // The next one begins anew, and owns it.
    let two = user.opens("two", "ccb");
    assert_eq!(env.ask("stub", "ECHO: anew").ok(), "anew\n");
    until_owned(&env, Some(two), &[]);
}

#[test]
fn no_instance_starts_again_what_kill_has_ended() {
    let env = TestEnv::new(Setup::default());
    let user = User::new(&env);
    let one = user.opens("one", "ccb");
    env.until_state("stub", "idle");
    until_owned(&env, Some(one), &[]);
    // It hears of all that happens when all has happened.
    signal(one, Signal::STOP);
    assert_eq!(env.ccb(&["kill"]).ok(), "stopped\n");
    let ended = until_ended(&env);
    assert!(ended.starts_with("asked by ccb kill (pid "), "{ended}");
    signal(one, Signal::CONT);
    let (_, screen) = user.ended("one");
    assert!(screen.contains("askd was ended: asked by ccb kill"), "{screen}");
    assert_eq!(until_ended(&env), ended);
    assert_eq!(last_end(&env)["generation"], 1);
    assert_eq!(env.ccb(&["kill"]).ok(), "nothing is running\n");
}

/// Makes a second project in the world, with an agent `second`, and returns its place.
fn elsewhere(env: &TestEnv, first: &str) -> PathBuf {
    let place = env.dir().join("elsewhere");
    std::fs::create_dir_all(place.join(".ccb")).expect("a project");
    let config = std::fs::read_to_string(env.project().join(".ccb/ccb.config")).expect("a configuration");
    std::fs::write(place.join(".ccb/ccb.config"), config.replace(first, "second")).expect("a configuration");
    let _trusted = at(env, &place, "ccb", &["trust", "--yes"]).ok();
    place
}

/// Runs a command in another directory.
fn at(env: &TestEnv, place: &Path, program: &str, args: &[&str]) -> Run {
    env.begin_with(program, args, "", |command| command.current_dir(place)).end()
}

#[test]
fn instances_of_two_projects_share_nothing() {
    let env = TestEnv::new(Setup::of(vec![Stub::new("first")]));
    let place = elsewhere(&env, "first");
    let user = User::new(&env);
    let one = user.opens("one", "ccb");
    let two = user.opens_at("two", &place, "ccb");
    until_owned(&env, Some(one), &[]);
    env.until_state("first", "idle");
    let theirs = || at(&env, &place, "ccb", &["status", "--json"]).json();
    until("the other project has its owner", || (theirs()["owner"]["pid"] == two).then_some(()));
    assert_ne!(theirs()["pid"], env.status()["pid"]);
    assert_eq!(at(&env, &place, "ask", &["second", "-t", "60", "ECHO: there"]).ok(), "there\n");
    assert_eq!(env.ask("first", "ECHO: here").ok(), "here\n");
    assert!(user.screen("one").contains("here") && !user.screen("one").contains("there"));
    let before = env.askd();
    signal(two, Signal::KILL);
    until("the other project's session owns it", || (theirs()["owner"]["kind"] == "session").then_some(()));
    let _killed = at(&env, &place, "ccb", &["kill"]).ok();
    until_owned(&env, Some(one), &[]);
    assert_eq!(env.askd(), before);
}

#[test]
fn a_ccb_of_another_project_within_a_pane_harms_nobody() {
    let env = TestEnv::new(Setup::of(vec![Stub::new("first")]));
    let place = elsewhere(&env, "first");
    let user = User::new(&env);
    let one = user.opens("one", "ccb");
    env.until_state("first", "idle");
    until_owned(&env, Some(one), &[]);
    let before = env.askd();
    // In the pane, with all that the pane has in its environment.
    let within_pane = |line: &str| env.ask("first", &format!("RUN: cd '{}' && {line} 2>&1", place.display())).ok();
    let said = within_pane("printenv CCB_RUN_DIR");
    assert_eq!(Path::new(said.trim()), env.state());
    let theirs = || at(&env, &place, "ccb", &["status", "--json"]).json();
    // The other project's daemon is not there yet; then it is; then it has been killed.
    let said = within_pane(&format!("CCB_MANAGED=1 CCB_PARENT_PID={one} env -u TMUX -u TMUX_PANE ccb --detach"));
    assert!(said.contains("CCB_RUN_DIR is ignored, and so is CCB_PARENT_PID"), "{said}");
    assert_eq!(theirs()["owner"]["kind"], "session", "{:#}", theirs());
    let there = theirs()["pid"].clone();
    let said = within_pane("env -u TMUX -u TMUX_PANE ccb --detach");
    assert!(said.contains("second"), "{said}");
    assert_eq!(theirs()["pid"], there);
    signal(u32::try_from(there.as_u64().unwrap()).unwrap(), Signal::KILL);
    let said = within_pane("env -u TMUX -u TMUX_PANE ccb --detach");
    assert!(said.contains("second"), "{said}");
    assert_ne!(theirs()["pid"], there);
    assert_eq!(within_pane("ask second -t 60 'ECHO: there' --wait").lines().last(), Some("there"));
    assert_eq!(env.askd(), before);
    until_owned(&env, Some(one), &[]);
    let _killed = at(&env, &place, "ccb", &["kill"]).ok();
    assert_eq!(env.ask("first", "ECHO: here").ok(), "here\n");
    assert_eq!(env.askd(), before);
}

#[test]
fn within_a_tmux_of_ones_own_the_panes_are_gone_to() {
    let env = TestEnv::new(Setup::default());
    let user = User::new(&env);
    let tmux = |args: &[&str]| user.tmux(args).ok().trim().to_owned();
    // Two windows of a tmux that its user knows of.
    let _first = user.tmux(&["new-session", "-d", "-s", "mine", "-x", "160", "-y", "40", "sh"]).ok();
    let pane = tmux(&["display-message", "-p", "-t", "mine:", "#{pane_id}"]);
    user.presses("mine", &["ccb", "Enter"]);
    env.until_state("stub", "idle");
    until_owned(&env, None, &[]);
    let agent = env.pane("stub");
    assert_ne!(agent, pane);
    let _second = user.tmux(&["new-window", "-t", "mine:", "sh"]).ok();
    let active = || tmux(&["display-message", "-p", "-t", "mine:", "#{pane_id}"]);
    assert_ne!(active(), agent);
    user.presses("mine", &["ccb", "Enter"]);
    until("the agent's pane is gone to", || (active() == agent).then_some(()));
    // From a terminal outside it is told where they are.
    user.runs("one", &env.project(), "ccb");
    let (code, screen) = user.ended("one");
    assert_eq!(code, "0");
    assert!(screen.contains(&format!("the agents are in pane {agent} of another tmux")), "{screen}");
    assert_eq!(env.ask("stub", "ECHO: still here").ok(), "still here\n");
}

/// Has the daemon started by a client that names this parent, as the predecessor does.
fn named(env: &TestEnv, parent: &str) -> Run {
    let begun = env.begin_with("ccb", &["status", "--json"], "", |command| {
        command.env("CCB_PARENT_PID", parent).env("CCB_MANAGED", "1")
    });
    begun.end()
}

#[test]
fn a_parent_that_the_environment_names_owns_the_daemon_until_its_end() {
    let env = TestEnv::new(Setup::default());
    let parent = Sleeper::new();
    let status = named(&env, &parent.pid().to_string()).json();
    assert_eq!((&status["owner"]["pid"], &status["owner"]["kind"]), (&parent.pid().into(), &"parent".into()));
    until_owned(&env, Some(parent.pid()), &[]);
    // Whatever becomes of worker and keeper.
    let (worker, keeper) = env.askd();
    env.kill(worker);
    until_owned(&env, Some(parent.pid()), &[]);
    env.kill(keeper);
    env.kill(env.status()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap());
    until_owned(&env, Some(parent.pid()), &[]);
    // As a zombie it is dead: nobody may take its body away.
    parent.dies();
    assert_eq!(until_ended(&env), "the last ccb has ended, and nothing is left to do");
}

#[test]
fn a_parent_that_is_dead_ends_no_daemon_and_owns_none() {
    let env = TestEnv::new(Setup::default());
    let parent = Sleeper::new();
    parent.dies();
    for pid in [parent.pid().to_string(), "0".into(), "-1".into(), "1e3".into(), "4194304".into()] {
        assert_eq!(named(&env, &pid).json()["owner"], Value::Null);
        stays(&env);
        let note = format!("CCB_PARENT_PID is ignored: no living process has the number `{pid}`");
        assert!(env.log().contains(&note), "{}", env.log());
        // A client that comes later names nobody any more.
        let (worker, _) = env.askd();
        env.kill(worker);
        until_owned(&env, None, &[]);
        let _killed = env.ccb(&["kill"]).ok();
    }
}

#[test]
fn an_owner_of_another_user_is_alive() {
    if !rustix::process::getuid().is_root() {
        return not_shown("another user's process needs root");
    }
    let env = TestEnv::new(Setup { install: Some("bin"), ..Setup::of(Vec::new()) });
    let owned = Command::new("chown").args(["-R", USER]).arg(env.dir()).status().unwrap();
    assert!(owned.success());
    let parent = Sleeper::new();
    let ccb = env.dir().join("bin/ccb").display().to_string();
    let unprivileged = |args: &[&str]| {
        let user = [format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".into(), ccb.clone()];
        let all: Vec<&str> = user.iter().map(String::as_str).chain(args.iter().copied()).collect();
        let parent = parent.pid().to_string();
        let begun = env.begin_with("setpriv", &all, "", |command| {
            command.env("CCB_PARENT_PID", parent).env("CCB_ASKD_IDLE_TIMEOUT_S", "0.2")
        });
        begun.end()
    };
    let status = unprivileged(&["status", "--json"]).json();
    assert_eq!((&status["owner"]["pid"], &status["owner"]["kind"]), (&parent.pid().into(), &"parent".into()));
    stays(&env);
    // A worker that finds it in the store finds it alive too.
    env.kill(u32::try_from(status["pid"].as_u64().unwrap()).unwrap());
    let status = unprivileged(&["status", "--json"]).json();
    assert_eq!(status["owner"]["pid"], parent.pid(), "{status:#}");
    stays(&env);
    parent.dies();
    assert_eq!(until_ended(&env), "the last ccb has ended, and nothing is left to do");
}

/// What happens in a world of process ids of its own, in which a number can be given again.
const REUSED: &str = r#"
set -e
sleep 1000 & first=$!
CCB_PARENT_PID=$first CCB_MANAGED=1 ccb status --json > "$OUT/before"
owner() { tr -d ' \n' < "$OUT/$1" | sed 's/.*"owner":{"pid":\([0-9]*\).*/\1/'; }
[ "$(owner before)" = "$first" ]
# Nobody looks on while the owner dies and its number is given to another.
worker=$(sed 's/.*"pid":\([0-9]*\),"keeper".*/\1/' "$OUT/before")
keeper=$(sed 's/.*"keeper":\([0-9]*\).*/\1/' "$OUT/before")
kill -9 "$keeper" "$worker"
kill -9 "$first"
wait "$first" || true
while kill -0 "$first" 2> /dev/null; do :; done
second=0
tries=0
while [ "$second" != "$first" ] && [ "$tries" -lt 50 ]; do
  [ "$second" = 0 ] || kill -9 "$second"
  echo $((first - 1)) > /proc/sys/kernel/ns_last_pid || exit 77
  sleep 1000 & second=$!
  tries=$((tries + 1))
done
[ "$second" = "$first" ] || exit 77
ccb status --json > "$OUT/after"
echo "$second" > "$OUT/second"
"#;

#[test]
fn a_number_that_was_given_again_owns_nothing() {
    let env = TestEnv::new(Setup::default());
    let out = env.dir().display().to_string();
    let args = ["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", REUSED];
    let run = env.begin_with("unshare", &args, "", |command| command.env("OUT", &out)).end();
    if run.code == Some(77) || run.err.starts_with("unshare:") {
        return not_shown(&format!("no namespace in which process ids can be chosen: {run:?}"));
    }
    assert_eq!(run.code, Some(0), "{run:?} {}", env.log());
    let read = |name: &str| std::fs::read_to_string(env.dir().join(name)).unwrap();
    let after: Value = serde_json::from_str(&read("after")).unwrap();
    assert_eq!((&after["owner"], &after["attached"]), (&Value::Null, &Value::Array(Vec::new())), "{after:#}");
    assert_eq!(after["generation"], 2, "{after:#}");
    assert!(env.log().contains("the last instance (pid "), "{}", env.log());
}

/// Says, where it will be read, that this machine cannot show something.
fn not_shown(why: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "NOT SHOWN HERE: {why}");
}
