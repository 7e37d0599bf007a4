//! The engine in a simulated world: random inputs, sudden deaths, evidence that is late, lost, doubled or out of order.
//!
//! Each seed is one run: a few agents, a few clients, humans, and faults for four simulated minutes; then the faults
//! stop and everything must come to rest. The promises of the design are checked after every step: P1 (nothing is
//! lost), P2 (nothing is sent twice, nothing to a busy agent), P3 (the answer belongs to the request), P4 (states are
//! true, explained, and late truth is kept), and beside them the rules of the tree of requests (agents do not wait for
//! each other in a ring, ask too deep, or have too many requests open). P5 (no instance harms another) speaks of daemons and their owners, of
//! which the engine knows nothing: it is proved by the black-box tests.

#[path = "simulation/agents.rs"]
mod agents;
#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/driver.rs"]
mod driver;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/transport.rs"]
mod transport;
#[path = "simulation/tree.rs"]
mod tree;
#[path = "simulation/world.rs"]
mod world;

use ccb_core::state::Sabotage;
use world::World;

/// Runs these seeds; the first that breaks a promise is told with the way to see it again.
fn run(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(broken) = World::new(seed, None, false).run() {
            panic!(
                "seed {seed} breaks {}: {}\nreplay with: CCB_SIM_SEED={seed} cargo test -p ccb-core --test simulation \
                 replay -- --nocapture",
                broken.promise, broken.what
            );
        }
    }
}

#[test]
fn promises_hold_1() {
    run(0..2_500);
}

#[test]
fn promises_hold_2() {
    run(2_500..5_000);
}

#[test]
fn promises_hold_3() {
    run(5_000..7_500);
}

#[test]
fn promises_hold_4() {
    run(7_500..10_000);
}

/// Prints the run of `CCB_SIM_SEED`; does nothing without it.
#[test]
#[expect(clippy::print_stdout, reason = "a trace is for reading")]
fn replay() {
    let Some(seed) = std::env::var("CCB_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) else {
        return;
    };
    let mut world = World::new(seed, None, true);
    let result = world.run();
    println!("{}\n", world.told());
    if let Err(broken) = result {
        panic!("seed {seed} breaks {}: {}", broken.promise, broken.what);
    }
}

/// Breaks the engine on purpose; the simulation must notice within so many seeds, and name the right promise.
#[track_caller]
fn caught(sabotage: Sabotage, promise: &str, within: u64) {
    for seed in 0..within {
        let result = World::new(seed, Some(sabotage), false).run();
        // One fault may break several promises, according to what happens first.
        if result.is_err_and(|broken| broken.promise == promise) {
            return;
        }
    }
    panic!("{sabotage:?} goes unnoticed for {within} seeds");
}

#[test]
fn a_forgotten_request_is_noticed() {
    caught(Sabotage::ForgetQueued, "P1", 50);
}

#[test]
fn an_asker_left_without_news_is_noticed() {
    caught(Sabotage::KeepSilent, "P1", 50);
}

#[test]
fn a_second_offer_without_proof_is_noticed() {
    caught(Sabotage::OfferAgainWithoutProof, "P2", 50);
}

#[test]
fn an_offer_to_a_busy_agent_is_noticed() {
    caught(Sabotage::IgnoreBusy, "P2", 50);
}

#[test]
fn a_foreign_answer_is_noticed() {
    caught(Sabotage::AnyTurnEnds, "P3", 500);
}

#[test]
fn a_late_answer_thrown_away_is_noticed() {
    caught(Sabotage::DropLate, "P4", 50);
}

#[test]
fn a_move_without_evidence_is_noticed() {
    caught(Sabotage::MoveUnexplained, "P4", 50);
}

#[test]
fn agents_that_wait_for_each_other_are_noticed() {
    caught(Sabotage::IgnoreCycles, "the tree", 50);
}
