//! After many rounds everything is as it was at the start. `CCB_ROUNDS` says how many rounds.

use std::path::Path;
use std::time::Duration;

use crate::env::{Setup, TestEnv, files_below, within};

/// How many rounds there are, unless the environment says otherwise.
const ROUNDS: usize = 400;

/// After how many rounds all that is made once has been made.
const WARM: usize = 40;

/// How much (KiB) the worker may grow beside what its database keeps in memory.
const GROWTH: u64 = 6 * 1024;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
}

impl Held {
    /// Whether this is no more than `then`.
    fn within(self, then: &Self) -> bool {
        self.descriptors <= then.descriptors && self.threads <= then.threads
    }
}

fn held(pid: u32) -> Held {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    Held { descriptors: count("fd"), threads: count("task") }
}

/// Returns the memory (KiB) that a process has.
pub(crate) fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn bodies(home: &Path) -> usize {
    files_below(&home.join("bodies")).len()
}

#[test]
fn hundreds_of_rounds_leave_nothing_behind() {
    let rounds = std::env::var("CCB_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let env = TestEnv::start(Setup::default());
    let (worker, keeper) = env.askd();
    let home = env.state();
    let round = |number: usize| {
        let said = env.run("ask", &["stub"], &format!("ECHO: round {number}")).ok();
        assert_eq!(said, format!("round {number}\n"));
    };
    (0..WARM).for_each(round);
    let before = (held(worker), held(keeper));
    let (grown, kept) = (memory(worker), memory(keeper));
    (WARM..rounds).for_each(round);
    // A client's connection, and the watch on the transcript, end a moment after the client: before as well as now.
    let grown_not = || [(worker, &before.0), (keeper, &before.1)].iter().all(|(pid, then)| held(*pid).within(then));
    within(Duration::from_secs(5), || grown_not().then_some(()));
    assert!(grown_not(), "{before:?} became {:?}", (held(worker), held(keeper)));
    assert!(memory(worker) < grown + GROWTH, "{grown} KiB became {} KiB", memory(worker));
    assert!(memory(keeper) <= kept + 512, "{kept} KiB became {} KiB", memory(keeper));
    assert_eq!(bodies(&home), 0);
    assert_eq!(env.tmux(&["list-buffers"]).ok(), "");
    assert_eq!(env.all_received("stub").len(), rounds);
    assert_eq!(env.askd(), (worker, keeper));
}
