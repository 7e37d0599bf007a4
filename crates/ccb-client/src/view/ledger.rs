//! What became of each delivery: an id is given to the agent once, whoever offers it however often.

use std::collections::BTreeMap;

use ccb_core::id::RequestId;
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::provider::droid::transcript::Turns;
use ccb_core::view::Standing;

/// How many deliveries are remembered that are over. Older ones are in the agent's own records.
const MEMORY: usize = 50;

/// The deliveries of one viewer.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<RequestId, (u64, Standing)>,
    count: u64,
}

impl Ledger {
    /// The agent's program has begun anew, and whoever had a delivery before is dead: each that is open stands where
    /// the agent's own records say. Returns those.
    pub(crate) fn began(&mut self, recorded: impl Fn(&RequestId) -> Standing) -> Vec<(RequestId, Standing)> {
        let open: Vec<RequestId> = self.open().cloned().collect();
        let mut settled = Vec::new();
        for id in open {
            // What was taken is in no other state than taken, whatever the records have kept of it.
            let at = match (recorded(&id), self.entries.get(&id)) {
                (Standing::Absent, Some((_, Standing::Taken { turn }))) => gone(turn),
                (at, _) => at,
            };
            self.set(id.clone(), at.clone());
            settled.push((id, at));
        }
        settled
    }

    /// Returns the deliveries that were given to the agent and are not over.
    pub(crate) fn open(&self) -> impl Iterator<Item = &RequestId> {
        let open = |at: &Standing| matches!(at, Standing::Sent | Standing::Taken { .. });
        self.entries.iter().filter(move |(_, (_, at))| open(at)).map(|(id, _)| id)
    }

    /// Returns whether a delivery of this id is known.
    pub(crate) fn find(&self, id: &str) -> Option<RequestId> {
        RequestId::new(id).ok().filter(|id| self.entries.contains_key(id))
    }

    /// Notes where a delivery stands. What is over stays as it is.
    pub(crate) fn set(&mut self, id: RequestId, at: Standing) {
        if matches!(self.entries.get(&id), Some((_, Standing::Ended { .. }))) {
            return;
        }
        self.count += 1;
        self.entries.insert(id, (self.count, at));
        let over = |at: &Standing| !matches!(at, Standing::Sent | Standing::Taken { .. });
        let mut done: Vec<(u64, RequestId)> = self
            .entries
            .iter()
            .filter(|(_, (_, at))| over(at))
            .map(|(id, (number, _))| (*number, id.clone()))
            .collect();
        done.sort();
        let excess = done.len().saturating_sub(MEMORY);
        for (_, id) in done.into_iter().take(excess) {
            self.entries.remove(&id);
        }
    }

    /// Returns where a delivery stands that is not to be given to the agent (again): one that it refused may be.
    pub(crate) fn given(&self, id: &RequestId) -> Option<Standing> {
        self.look(id).filter(|at| !matches!(at, Standing::Refused { .. }))
    }

    /// Returns where a delivery stands, if it was given to the agent.
    pub(crate) fn look(&self, id: &RequestId) -> Option<Standing> {
        self.entries.get(id).map(|(_, at)| at.clone()).filter(|at| *at != Standing::Absent)
    }
}

/// Returns where a delivery stands by the records of a session, whose last program is dead.
pub(crate) fn recorded(records: &Turns, id: &RequestId) -> Standing {
    match records.end(id.as_str()) {
        None => Standing::Absent,
        Some(Some(end)) => Standing::Ended { turn: id.to_string(), end, by: EndedBy::Record },
        Some(None) => gone(id.as_str()),
    }
}

/// The standing of what the agent was at when it died.
fn gone(turn: &str) -> Standing {
    let message = "the agent's program ended while it worked on it".to_owned();
    let end = TurnEnd::Failed { reason: Failure::AgentGone, message, partial: String::new() };
    Standing::Ended { turn: turn.to_owned(), end, by: EndedBy::Record }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(word: &str) -> RequestId {
        RequestId::new(word).unwrap()
    }

    fn records(lines: &[&str]) -> Turns {
        let mut turns = Turns::default();
        for line in lines {
            turns.take(line);
        }
        turns
    }

    const USER: &str =
        r#"{"type":"message","id":"r1","message":{"role":"user","content":[{"type":"text","text":"x"}]}}"#;
    const AGENT: &str =
        r#"{"type":"message","id":"a","message":{"role":"assistant","content":[{"type":"text","text":"yes"}]}}"#;
    const END: &str = r#"{"type":"agent_turn_outcome","turnId":"r1","reason":"completed"}"#;

    #[test]
    fn a_delivery_that_is_in_no_record_was_not_taken() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.look(&id("r1")), None);
        ledger.set(id("r1"), Standing::Sent);
        assert_eq!(ledger.look(&id("r1")), Some(Standing::Sent));
        let settled = ledger.began(|id| recorded(&Turns::default(), id));
        assert_eq!(settled, [(id("r1"), Standing::Absent)], "who had it is dead, and has not recorded it");
        assert_eq!(ledger.look(&id("r1")), None);
    }

    #[test]
    fn what_the_agent_refused_may_be_given_to_it_again_and_nothing_else() {
        let mut ledger = Ledger::default();
        ledger.set(id("r1"), Standing::Refused { why: "no".into() });
        assert_eq!((ledger.given(&id("r1")), ledger.look(&id("r1")).is_some()), (None, true));
        ledger.set(id("r1"), Standing::Sent);
        assert_eq!(ledger.given(&id("r1")), Some(Standing::Sent));
    }

    #[test]
    fn what_was_at_work_when_the_agent_died_is_as_its_records_say() {
        let end = TurnEnd::Completed { reply: "yes".into() };
        let mut ledger = Ledger::default();
        ledger.set(id("r1"), Standing::Taken { turn: "r1".into() });
        ledger.began(|id| recorded(&records(&[USER, AGENT, END]), id));
        assert_eq!(ledger.look(&id("r1")), Some(Standing::Ended { turn: "r1".into(), end, by: EndedBy::Record }));
        for lines in [&[USER, AGENT][..], &[]] {
            let mut ledger = Ledger::default();
            ledger.set(id("r1"), Standing::Taken { turn: "r1".into() });
            ledger.began(|id| recorded(&records(lines), id));
            let at = ledger.look(&id("r1"));
            assert!(
                matches!(&at, Some(Standing::Ended { end: TurnEnd::Failed { reason: Failure::AgentGone, .. }, .. })),
                "{at:?}"
            );
        }
    }

    #[test]
    fn what_is_over_is_not_kept_for_ever_and_what_is_not_stays() {
        let mut ledger = Ledger::default();
        ledger.set(id("first"), Standing::Sent);
        for number in 0..500 {
            ledger.set(
                id(&format!("r{number}")),
                Standing::Ended {
                    turn: "t".into(),
                    end: TurnEnd::Completed { reply: String::new() },
                    by: EndedBy::Protocol,
                },
            );
        }
        assert_eq!((ledger.entries.len(), ledger.open().count()), (MEMORY + 1, 1));
    }
}
