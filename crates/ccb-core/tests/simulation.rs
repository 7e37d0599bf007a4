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
#[path = "simulation/course.rs"]
mod course;
#[path = "simulation/driver.rs"]
mod driver;
#[path = "simulation/late.rs"]
mod late;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/seen.rs"]
mod seen;
#[path = "simulation/transport.rs"]
mod transport;
#[path = "simulation/tree.rs"]
mod tree;
#[path = "simulation/world.rs"]
mod world;

use ccb_core::state::Sabotage;
use course::Fault;
use seen::Seen;
use world::{Flaw, World};

/// Runs these seeds; the first that breaks a promise is told with the way to see it again. Every behaviour must have
/// happened on every rung that can have it.
#[expect(clippy::print_stdout, reason = "a table is for reading")]
fn run(seeds: std::ops::Range<u64>) {
    let mut seen = Seen::default();
    for seed in seeds {
        let mut world = World::new(seed, Flaw::Nothing, false);
        if let Err(broken) = world.run() {
            panic!(
                "seed {seed} breaks {}: {}\nreplay with: CCB_SIM_SEED={seed} cargo test -p ccb-core --test simulation \
                 replay -- --nocapture",
                broken.promise, broken.what
            );
        }
        seen.add(&world.seen);
    }
    println!("{}", seen.table());
    assert!(seen.missing().is_empty(), "never happened: {:?}", seen.missing());
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
    let mut world = World::new(seed, Flaw::Nothing, true);
    let result = world.run();
    println!("{}\n", world.story());
    if let Err(broken) = result {
        panic!("seed {seed} breaks {}: {}", broken.promise, broken.what);
    }
}

/// Breaks the engine on purpose; the simulation must notice within so many seeds, and name the right promise.
#[track_caller]
fn caught(sabotage: Sabotage, promise: &str, within: u64) {
    noticed(Flaw::Engine(sabotage), promise, within);
}

/// Breaks the transports on purpose; the simulation must notice.
#[track_caller]
fn exposed(fault: Fault, promise: &str) {
    noticed(Flaw::Double(fault), promise, 500);
}

#[track_caller]
fn noticed(flaw: Flaw, promise: &str, within: u64) {
    for seed in 0..within {
        let result = World::new(seed, flaw, false).run();
        // One fault may break several promises, according to what happens first.
        if result.is_err_and(|broken| broken.promise == promise) {
            return;
        }
    }
    panic!("{flaw:?} goes unnoticed for {within} seeds");
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

#[test]
fn a_lost_push_that_no_record_makes_good_is_noticed() {
    exposed(Fault::DeafToRecord, "P4");
}

#[test]
fn an_error_that_is_told_without_its_class_is_noticed() {
    exposed(Fault::ForgetsClass, "P4");
}

#[test]
fn an_interrupt_that_is_told_as_an_error_is_noticed() {
    exposed(Fault::InterruptIsError, "P4");
}

#[test]
fn a_death_that_is_told_as_an_interrupt_is_noticed() {
    exposed(Fault::DeathIsInterrupt, "P4");
}

#[test]
fn retries_of_the_agents_own_that_are_told_as_idleness_are_noticed() {
    exposed(Fault::RetriesAreIdle, "P2");
}

#[test]
fn an_empty_answer_with_a_text_of_ours_is_noticed() {
    exposed(Fault::FillsEmpty, "P3");
}

#[test]
fn a_compaction_that_is_taken_for_the_end_is_noticed() {
    exposed(Fault::CompactionEnds, "P4");
}

#[test]
fn an_answer_of_a_new_session_to_the_old_ones_request_is_noticed() {
    exposed(Fault::FollowsNewSession, "P3");
}

#[test]
fn a_request_of_the_old_session_that_is_looked_for_in_the_new_one_is_noticed() {
    exposed(Fault::ForgetsOldSession, "P2");
}

#[test]
fn a_side_tasks_end_that_is_taken_for_the_turns_is_noticed() {
    exposed(Fault::SideEnds, "P3");
}

#[test]
fn a_stop_that_is_believed_while_work_goes_on_is_noticed() {
    exposed(Fault::TrustsEveryStop, "P3");
}

#[test]
fn a_quiet_end_that_is_told_as_an_answer_is_noticed() {
    exposed(Fault::QuietIsAnswer, "P3");
}

#[test]
fn a_hook_that_names_another_turn_and_is_believed_is_noticed() {
    exposed(Fault::BelievesEarlyHook, "P3");
}

#[test]
fn an_acceptance_that_is_forgotten_when_the_record_is_late_is_noticed() {
    exposed(Fault::AbsenceProves, "P2");
}

#[test]
fn a_look_over_a_lost_connection_that_is_believed_is_noticed() {
    exposed(Fault::TrustsLostLink, "P2");
}

#[test]
fn a_bound_turn_that_is_in_no_record_and_is_only_doubted_is_noticed() {
    exposed(Fault::VanishedIsDoubt, "P1");
}

#[test]
fn an_older_turns_end_that_is_told_as_the_running_ones_is_noticed() {
    exposed(Fault::OlderEndIsOurs, "P3");
}

#[test]
fn a_driver_that_finds_out_nothing_after_an_update_is_noticed() {
    exposed(Fault::NewDriverIsBlank, "P1");
}
