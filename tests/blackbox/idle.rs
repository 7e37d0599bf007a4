//! Idle costs nothing: counted by the kernel, not by us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::env::{Setup, Stub, TestEnv, moment, within};

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(60);

/// How often the keeper pings in that time (at its own interval it does so four times as often), and how many wake-ups
/// each ping may cost: the keeper's, the worker's, and one more of the worker's if the keeper reads the answer only when
/// the worker sleeps again.
const PINGS: u64 = 3;
const PING: u64 = 3;

/// How many others there may be: what the system has these processes wait for, a page or a lock.
const OTHERS: u64 = 6;

/// Returns the sum of a counter in a file of `/proc`.
fn counter(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Returns how often each thread of these processes went to sleep by itself.
fn sleeps(pids: [u32; 2]) -> BTreeMap<String, u64> {
    let tasks = pids.map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let count = |task: std::fs::DirEntry| {
        let path = task.path().display().to_string();
        let name = std::fs::read_to_string(format!("{path}/comm")).unwrap_or_default();
        (format!("{path} {}", name.trim()), counter(&format!("{path}/status"), "voluntary_ctxt_switches"))
    };
    tasks.into_iter().flatten().map(count).collect()
}

/// Returns what a process has had written to disks.
fn writes(pid: u32) -> u64 {
    counter(&format!("/proc/{pid}/io"), "write_bytes")
}

#[test]
fn two_idle_agents_cost_no_writes_and_next_to_no_wake_ups() {
    // Each request leaves a timer or two that ring once, at the latest after twice this grace.
    let setup = Setup::of(vec![Stub::new("seen"), Stub::blind("blind")])
        .with("CCB_PROOF_GRACE_S", "1")
        .with("CCB_WATCHDOG_INTERVAL_S", &(WATCHED.as_secs() / PINGS).to_string());
    let env = TestEnv::start(setup);
    for agent in ["seen", "blind"] {
        assert_eq!(env.ask(agent, "ECHO: x").ok(), "x\n");
    }
    let (worker, keeper) = env.askd();
    // The last word of the last client has been heard when nothing has moved for some seconds.
    let pids = [worker, keeper];
    let mut last = (sleeps(pids), Instant::now());
    within(Duration::from_secs(15), || {
        let now = sleeps(pids);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() >= Duration::from_secs(4)).then_some(())
    });
    let (before, written) = (sleeps(pids), writes(worker) + writes(keeper));
    let began = Instant::now();
    while began.elapsed() < WATCHED {
        moment();
    }
    let after = sleeps(pids);
    let wake_ups: BTreeMap<&String, u64> =
        after.iter().map(|(thread, count)| (thread, count - before.get(thread).unwrap_or(&0))).collect();
    let all = wake_ups.values().sum::<u64>();
    assert!(all <= PINGS * PING + OTHERS, "{all} wake-ups in {WATCHED:?}: {wake_ups:#?}");
    assert_eq!(writes(worker) + writes(keeper), written, "bytes were written");
}
