//! A working day in short: clients ask all the time, a human types, and at random everything is killed, stopped, filled
//! up and pestered. At the end the ledger is right: accepted = settled, none lost, none twice, none with another's answer.
//!
//! `make soak` runs it for ten minutes (`CCB_SOAK_S`), `make test` for a moment. `CCB_SOAK_SEED` repeats an order of events.

mod chaos;
mod ledger;

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::env::{Setup, Stub, TestEnv, until, within};
use chaos::{Chaos, Dice};
use ledger::Ledger;

/// How long it lasts, in seconds, unless the environment says otherwise.
const SECONDS: u64 = 15;

/// How many clients ask at a time.
const CLIENTS: u64 = 5;

/// The agents, the first with a screen that is read and a human who types.
const AGENTS: [&str; 3] = ["seen", "blind", "other"];

/// How long all that is open may take to be over, once everything is left in peace.
const SETTLE: Duration = Duration::from_secs(150);

/// How often the human looks at the panes.
const LOOK: Duration = Duration::from_secs(3);

/// What the clients have in common.
struct Day<'a> {
    env: &'a TestEnv,
    over: AtomicBool,
    asked: AtomicU64,
    ledger: Mutex<Ledger>,
    /// The clients that run now: those can be killed and stopped.
    clients: Mutex<Vec<Arc<OwnedFd>>>,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_day_of_kills_stops_full_disks_and_typing_leaves_the_ledger_right() {
    let length = Duration::from_secs(setting("CCB_SOAK_S").unwrap_or(SECONDS));
    let seed = setting("CCB_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let agents = vec![Stub::new(AGENTS[0]), Stub::blind(AGENTS[1]), Stub::blind(AGENTS[2])];
    let setup = Setup::of(agents).with("CCB_WATCHDOG_INTERVAL_S", "1").with("CCB_PROOF_GRACE_S", "2");
    let on_disk = setup.clone().on_disk("48m");
    let has_disk = on_disk.is_some();
    let setup = on_disk.unwrap_or(setup);
    let env = TestEnv::start(setup);
    let home = env.state();
    let day = Day {
        env: &env,
        over: AtomicBool::new(false),
        asked: AtomicU64::new(0),
        ledger: Mutex::default(),
        clients: Mutex::default(),
    };
    let events = std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let day = &day;
            scope.spawn(move || asks(day, &mut Dice::new(seed ^ (n + 1))));
        }
        scope.spawn(|| {
            // As long as anybody waits, a human looks at the panes now and then.
            while !(day.over.load(Ordering::SeqCst) && day.clients.lock().expect("a list").is_empty()) {
                within(LOOK, || None::<()>);
                clears_what_was_left(&env);
            }
        });
        let _over = Over(&day.over);
        Chaos::new(&day, has_disk, &home, Dice::new(seed)).reign(Instant::now() + length)
    });
    let ledger = day.ledger.into_inner().expect("no client has panicked");
    // Every client has ended, and what they left behind comes to its end by itself.
    let settled = within(SETTLE, || {
        clears_what_was_left(&env);
        open(&env).filter(|count| *count == 0)
    });
    assert!(settled.is_some(), "seed {seed}: still open: {:#}", env.ps());
    let flat = flat(&env);
    let _stopped = env.ccb(&["kill"]).ok();
    let told = ledger.audit(&env, &home.join("ccb.db"), &AGENTS, events.kills);
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "soak: {} s, seed {seed}: {told}\nsoak: {events}\nsoak: {flat}", length.as_secs());
}

/// Returns how many requests are open, if askd can tell.
fn open(env: &TestEnv) -> Option<usize> {
    let run = env.ccb(&["ps", "--json"]);
    (run.code == Some(0)).then(|| run.json()["requests"].as_array().map_or(usize::MAX, Vec::len))
}

/// What a worker has left in a composer, killed between its paste and its Enter, is for the human to clear.
fn clears_what_was_left(env: &TestEnv) {
    press(env, |agent| agent["state"] == "waiting for you", &["C-u"]);
}

/// Presses keys in the pane of the agent whose screen is read, if it is as wanted and its pane is known now.
fn press(env: &TestEnv, is_wanted: impl Fn(&Value) -> bool, keys: &[&str]) {
    let json = |verb: &str| serde_json::from_str::<Value>(&env.run("ccb", &[verb, "--json"], "").out).ok();
    let Some((overview, health)) = json("ps").zip(json("status")) else { return };
    let mut agents = overview["agents"].as_array().into_iter().flatten();
    let agent = agents.find(|agent| agent["name"] == AGENTS[0]).filter(|agent| is_wanted(agent));
    let pane = agent.and_then(|agent| agent["pane"].as_str());
    if let (Some(pane), Some(socket)) = (pane, health["attach"]["socket"].as_str()) {
        let _gone_meanwhile = env.run("tmux", &[&["-S", socket, "send-keys", "-t", pane], keys].concat(), "");
    }
}

/// Tells the others that it is over, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks one thing after another, waiting for answers or not.
fn asks(day: &Day<'_>, dice: &mut Dice) {
    while !day.over.load(Ordering::SeqCst) {
        let n = day.asked.fetch_add(1, Ordering::SeqCst);
        let agent = AGENTS[dice.below(AGENTS.len())];
        let word = format!("word{n}word");
        let message = match dice.below(8) {
            0 | 1 => format!("SLEEP 0.3: {word}"),
            // So much that a full disk has no room for it, wherever the store wants to write it.
            2 => format!("{}\nECHO: {word}", "much to read\n".repeat(10_000)),
            _ => format!("ECHO: {word}"),
        };
        let waits = dice.below(4) != 0;
        let mode = if waits { "--wait" } else { "--async" };
        let mut going = day.env.begin("ask", &[agent, mode, "-t", "120", "--json"], &message);
        let client = going.watch();
        day.clients.lock().expect("a list").push(client.clone());
        let ended = within(2 * SETTLE, || going.is_over().then_some(()));
        day.clients.lock().expect("a list").retain(|other| !Arc::ptr_eq(other, &client));
        assert!(ended.is_some(), "`ask {agent}` with {message:?} has neither an answer nor an end");
        day.ledger.lock().expect("a ledger").take(&word, waits, &going.end());
    }
}

/// Has memory and descriptors of a daemon that went through this looked at once more: after the storm it holds what a
/// new one holds, and two hundred more requests add nothing.
fn flat(env: &TestEnv) -> String {
    let held = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let (worker, keeper) = env.askd();
    let rounds = |count: usize| (0..count).for_each(|_| assert_eq!(env.ask(AGENTS[1], "ECHO: flat").ok(), "flat\n"));
    rounds(20);
    let before = (held(worker), held(keeper), crate::long_run::memory(worker));
    rounds(100);
    let after = until("the last client's connection is gone", || {
        let now = (held(worker), held(keeper), crate::long_run::memory(worker));
        (now.0 <= before.0 && now.1 <= before.1).then_some(now)
    });
    assert!(after.2 < before.2 + 4096, "{} KiB became {} KiB", before.2, after.2);
    assert_eq!(env.askd(), (worker, keeper), "nobody has died since");
    format!("worker {} KiB, then {} KiB; descriptors {} and {}", before.2, after.2, after.0, after.1)
}
