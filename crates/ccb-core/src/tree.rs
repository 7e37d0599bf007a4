//! The tree of requests: what an agent was working on when it asked, and what it may not ask.
//!
//! A request asked in the course of another one is that one's child. What goes too deep, what is one too many, and
//! what would have agents wait for each other in a ring is refused at submission; a human's own asks never are.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{AgentName, RequestId};
use crate::input::Verdict;
use crate::request::{Asker, Kind, Request};
use crate::state::{Sabotage, State};
use crate::time::Time;

impl State {
    /// Returns the parent and the depth of what this agent asks now.
    ///
    /// The parent is what the agent is at, even if that has been settled by its deadline meanwhile. An agent that is
    /// at a notice goes on with the work in which it had asked, so what it asks then has the same parent and depth as
    /// what the notice answers, which the notice has as its own. An offer that is not proved yet counts: a program
    /// may ask before we hear that it has been handed its prompt.
    pub(crate) fn place(&self, asker: &AgentName) -> (Option<RequestId>, u32) {
        let current = self.agents.get(asker).and_then(|agent| agent.current.as_ref());
        match current.and_then(|id| self.requests.get(id)) {
            None => (None, 1),
            Some(at) => match &at.kind {
                Kind::Ask => (Some(at.id.clone()), at.depth.saturating_add(1)),
                Kind::Notice { .. } => (at.parent.clone(), at.depth),
            },
        }
    }

    /// Returns why a new request, with its place in the tree, is refused, if it is.
    pub(crate) fn refuses(&self, request: &Request, now: Time) -> Option<Verdict> {
        let Asker::Agent { name } = &request.asker else {
            return None;
        };
        let (depth, limit) = (request.depth, self.policy.max_depth);
        if depth > limit {
            return Some(Verdict::TooDeep { depth, limit });
        }
        let (open, limit) = (self.open_of(name), self.policy.max_open);
        if open >= limit {
            return Some(Verdict::TooMany { open, limit });
        }
        if !request.waits || self.sabotaged(Sabotage::IgnoreCycles) {
            return None;
        }
        self.ring(name, &request.agent, now).map(Verdict::Cycle)
    }

    /// Returns how many requests of this agent's own are not over.
    fn open_of(&self, asker: &AgentName) -> u32 {
        let own = self.requests.values().filter(|r| !r.is_settled() && asked_by(r) == Some(asker));
        u32::try_from(own.count()).unwrap_or(u32::MAX)
    }

    /// Returns the shortest ring that `asker` waiting for `target` would close: from `asker` over `target` to `asker`.
    fn ring(&self, asker: &AgentName, target: &AgentName, now: Time) -> Option<Vec<AgentName>> {
        let waits: Vec<(&AgentName, &AgentName)> = self
            .requests
            .values()
            .filter(|request| self.is_waited_for(request, now))
            .filter_map(|request| Some((asked_by(request)?, &request.agent)))
            .collect();
        // Each agent that was reached, with the one from which it was.
        let mut before: BTreeMap<&AgentName, &AgentName> = BTreeMap::from([(target, asker)]);
        let mut ahead = VecDeque::from([target]);
        while let Some(at) = ahead.pop_front() {
            if at == asker {
                return Some(chain(asker, &before));
            }
            for (_, next) in waits.iter().filter(|(who, _)| *who == at) {
                before.entry(next).or_insert_with(|| {
                    ahead.push_back(next);
                    at
                });
            }
        }
        None
    }

    /// Whether its asker does nothing else until it is over: it said so, and is there, or on its way to us.
    fn is_waited_for(&self, request: &Request, now: Time) -> bool {
        let fresh = now < request.accepted.max(self.since).after(self.policy.orphan_grace);
        let connected = self.waiting.get(&request.id).is_some_and(|n| *n > 0);
        request.waits && !request.is_settled() && (connected || fresh)
    }
}

/// Returns the agent that asked a question.
fn asked_by(request: &Request) -> Option<&AgentName> {
    match (&request.asker, &request.kind) {
        (Asker::Agent { name }, Kind::Ask) => Some(name),
        (Asker::Agent { .. } | Asker::Manual, _) => None,
    }
}

/// Returns the way that leads back to `end`, in the order of waiting.
fn chain(end: &AgentName, before: &BTreeMap<&AgentName, &AgentName>) -> Vec<AgentName> {
    let mut way = vec![end.clone()];
    let mut at = end;
    while let Some(previous) = before.get(at) {
        way.push((*previous).clone());
        at = previous;
        if at == end {
            break;
        }
    }
    way.reverse();
    way
}
