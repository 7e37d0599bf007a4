//! The rules of the tree of requests, checked after every step: from what was accepted and from who waits, with
//! nothing of the way in which the engine looks at it.

use std::collections::{BTreeMap, BTreeSet};

use ccb_core::id::AgentName;
use ccb_core::request::{Asker, Kind, Request};
use ccb_core::step::Step;

use crate::check::{Check, Checked, Violation, hold};
use crate::world::World;

/// The agent that asked a question.
fn asker(request: &Request) -> Option<&AgentName> {
    match (&request.asker, &request.kind) {
        (Asker::Agent { name }, Kind::Ask) => Some(name),
        (Asker::Agent { .. } | Asker::Manual, _) => None,
    }
}

/// Checks what a step has brought about.
pub(crate) fn holds(world: &World, check: &Check, step: &Step) -> Checked {
    let Some(state) = &world.state else { return Ok(()) };
    let open: Vec<&Request> = state.requests.values().filter(|request| !request.is_settled()).collect();
    let mut counts: BTreeMap<&AgentName, u32> = BTreeMap::new();
    for name in open.iter().filter_map(|request| asker(request)) {
        *counts.entry(name).or_default() += 1;
    }
    let most = counts.values().max().copied().unwrap_or(0);
    hold(most <= world.policy.max_open, "the tree", || format!("an agent has {most} open requests"))?;
    for request in &step.saves {
        let new = world.version(&request.id).is_none();
        if new {
            placed(world, step, request)?;
        }
        if let Some(name) = asker(request).filter(|_| new && request.waits) {
            let waits = open.iter().filter(|r| is_waited_for(world, check, r)).copied();
            no_ring(waits, name, request)?;
        }
    }
    Ok(())
}

/// A request is one deeper than its parent, which its asker was given; and never too deep.
fn placed(world: &World, step: &Step, request: &Request) -> Checked {
    let id = &request.id;
    hold(request.depth <= world.policy.max_depth, "the tree", || format!("{id} is {} deep", request.depth))?;
    let Some(parent) = &request.parent else {
        return hold(request.depth == 1, "the tree", || format!("{id} has no parent and is {} deep", request.depth));
    };
    let stored = step.saves.iter().find(|saved| &saved.id == parent).cloned().or_else(|| world.version(parent));
    let Some(stored) = stored else {
        return Err(Violation::new("the tree", format!("{id} has the parent {parent}, which does not exist")));
    };
    hold(request.depth == stored.depth + 1, "the tree", || format!("{id} is not one deeper than {parent}"))?;
    let child_of = asker(request).is_none_or(|name| name == &stored.agent);
    hold(child_of, "the tree", || format!("{id} is a child of {parent}, which is for {}", stored.agent))
}

/// Whether the asker waits, as far as askd was told.
fn is_waited_for(world: &World, check: &Check, request: &Request) -> bool {
    let there = check.waiting.get(&request.id).is_some_and(|n| *n > 0);
    request.waits && (there || world.now - request.accepted.0.max(check.started) < world.policy.orphan_grace)
}

/// From whom a new request goes to, nobody who waits leads back to its asker. (A client that comes back to wait for an
/// older request may close a ring: nobody can tell it not to.)
fn no_ring<'a>(waits: impl Iterator<Item = &'a Request>, start: &AgentName, new: &'a Request) -> Checked {
    let edges: BTreeSet<(&AgentName, &AgentName)> =
        waits.filter_map(|request| Some((asker(request)?, &request.agent))).collect();
    let mut reached = BTreeSet::from([&new.agent]);
    for _ in 0..edges.len() {
        let further: Vec<&AgentName> =
            edges.iter().filter(|(from, _)| reached.contains(from)).map(|(_, to)| *to).collect();
        reached.extend(further);
    }
    hold(!reached.contains(start), "the tree", || format!("{} has {start} wait for itself: {edges:?}", new.id))
}
