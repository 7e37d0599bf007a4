//! The promises, checked after every step and once more at the end.
//!
//! What is compared: the step, the version of each request before it, what the engine has been told so far, and
//! what is true of the agents. Nothing here looks at how the engine came to its step.

use std::collections::{BTreeMap, BTreeSet};

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{EndedBy, Failure, Incomplete, Outcome, TurnEnd};
use ccb_core::request::{Asker, Kind, Request, Settlement, Stage};
use ccb_core::state::{Presence, Sabotage, State};
use ccb_core::step::{Effect, Input, Step, Verdict};

use crate::agents::{Shows, SimAgent, Turn, answer, partial};
use crate::tree;
use crate::world::World;

/// A promise that was not kept.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) promise: &'static str,
    pub(crate) what: String,
}

impl Violation {
    pub(crate) fn new(promise: &'static str, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }
}

pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn hold(holds: bool, promise: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation::new(promise, what())) }
}

/// What the running askd has been told.
#[derive(Default)]
pub(crate) struct Check {
    /// Each agent's presence, as last told.
    presence: BTreeMap<AgentName, Presence>,
    /// The delivery that each agent is at, as far as was told.
    at: BTreeMap<AgentName, RequestId>,
    /// The requests of which it was told that other input is in their turn.
    mixed: BTreeSet<RequestId>,
    /// How many connections it was told of that wait for each request.
    pub(crate) waiting: BTreeMap<RequestId, u32>,
    /// When it started.
    pub(crate) started: i64,
}

impl Check {
    /// askd died, and with it what it had been told.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn restored(&mut self, state: &State, now: i64) {
        self.started = now;
        for request in state.requests.values() {
            if matches!(request.stage, Stage::Working { mixed: true, .. }) {
                self.mixed.insert(request.id.clone());
            }
            match request.stage {
                Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. } => {
                    self.at.insert(request.agent.clone(), request.id.clone());
                }
                Stage::Settled(_) if request.held => {
                    self.at.insert(request.agent.clone(), request.id.clone());
                }
                Stage::Queued | Stage::Settled(_) => {}
            }
        }
    }

    /// Checks one step. `subject` is the request that the input speaks of, `before` each saved one, before the step.
    pub(crate) fn step(
        &mut self,
        world: &World,
        input: &Input,
        subject: Option<&Request>,
        before: &[Option<Request>],
        step: &Step,
    ) -> Checked {
        self.listen(input, subject);
        if let (Input::Presence { agent, presence }, Some(state)) = (input, &world.state) {
            let shown = state.agents.get(agent).map(|agent| &agent.presence);
            hold(shown.is_none_or(|shown| shown == presence), "P4", || {
                format!("{agent} is shown as {shown:?} and is {presence:?}")
            })?;
        }
        tree::holds(world, self, step)?;
        for (after, before) in step.saves.iter().zip(before) {
            let noted = step.notes.iter().any(|(id, _)| id == &after.id);
            match before {
                Some(before) => moved(before, after, input, noted)?,
                None => created(world, after, noted, step)?,
            }
            if let Some(settled) = after.settlement() {
                let fresh = before.as_ref().is_none_or(|before| !before.is_settled());
                self.settled(world, after, settled, fresh)?;
                if fresh {
                    self.fits(world, input, before.as_ref(), after, settled)?;
                }
            }
            if let Stage::Working { turn, .. } = &after.stage {
                let true_turn = turn_of(world, after).map(|turn| &turn.name);
                hold(true_turn == Some(turn), "P3", || format!("{} is bound to {turn}, not {true_turn:?}", after.id))?;
            }
        }
        if let Some(subject) = subject {
            late_is_kept(input, subject, step)?;
        }
        for effect in &step.effects {
            self.offered(world, effect, step)?;
            if let (Effect::Reconcile { last: true, .. }, Some(Stage::Offered { at, .. })) =
                (effect, subject.map(|r| &r.stage))
            {
                let early = world.now < at.0 + world.policy.consume_grace;
                hold(!early, "P4", || format!("{input:?} gives an offer of {at:?} up too early"))?;
            }
        }
        Ok(())
    }

    /// Takes note of what the input tells.
    fn listen(&mut self, input: &Input, subject: Option<&Request>) {
        match (input, subject) {
            (Input::Presence { agent, presence }, _) => {
                self.presence.insert(agent.clone(), presence.clone());
            }
            (Input::Gone { agent, why }, _) => {
                self.presence.insert(agent.clone(), Presence::Absent { why: why.clone() });
                self.at.remove(agent);
            }
            (Input::Configure(agents), _) => {
                self.at.retain(|at, _| agents.iter().any(|(name, _)| name == at));
            }
            (
                Input::NotTaken { attempt, .. }
                | Input::NotHandedOver { attempt, .. }
                | Input::Doubt { attempt, last: true, .. },
                Some(subject),
            ) if *attempt == subject.attempts && !matches!(subject.stage, Stage::Working { .. }) => {
                self.leave(subject);
            }
            (Input::TurnEnded { turn, .. }, Some(subject)) if subject.turn() == Some(turn) => self.leave(subject),
            (Input::Consumed { id, mixed: true, .. }, Some(_)) => {
                self.mixed.insert(id.clone());
            }
            (Input::Waits { id }, _) => *self.waiting.entry(id.clone()).or_default() += 1,
            (Input::WaiterGone { id }, _) => {
                if let Some(waiting) = self.waiting.get_mut(id) {
                    *waiting = waiting.saturating_sub(1);
                }
            }
            _ => {}
        }
    }

    fn leave(&mut self, subject: &Request) {
        if self.at.get(&subject.agent) == Some(&subject.id) {
            self.at.remove(&subject.agent);
        }
    }

    /// P2: an offer goes only to an agent that is free as far as anyone knows, and only what is on disk as such.
    fn offered(&mut self, world: &World, effect: &Effect, step: &Step) -> Checked {
        let Effect::Offer { agent, id, attempt, .. } = effect else {
            return Ok(());
        };
        let presence = self.presence.get(agent);
        hold(presence == Some(&Presence::Idle), "P2", || format!("{id} is offered to {agent}, which is {presence:?}"))?;
        let other = self.at.insert(agent.clone(), id.clone());
        hold(other.is_none(), "P2", || format!("{id} is offered to {agent}, which is at {other:?}"))?;
        let saved = step.saves.iter().find(|saved| &saved.id == id);
        let offering = saved.filter(|r| r.attempts == *attempt && matches!(r.stage, Stage::Offering { .. }));
        let Some(offering) = offering else {
            return Err(Violation::new("P1", format!("{id} is offered without being committed as such")));
        };
        let over = offering.deadline.is_some_and(|at| at.0 <= world.now);
        hold(!over, "P4", || format!("{id} is offered after its deadline"))?;
        let carried = match &offering.kind {
            Kind::Notice { of } => step.saves.iter().find(|r| &r.id == of).cloned().or_else(|| world.version(of)),
            Kind::Ask => None,
        };
        let needless =
            carried.is_some_and(|r| r.delivered.is_some() && r.settlement().is_some_and(|s| s.late.is_none()));
        // A driver that does not load what notices carry cannot know.
        hold(!needless || !world.thorough, "P2", || format!("{id} brings a reply that its asker has acknowledged"))
    }

    /// P3: what a settled request says is what that agent said to it, in that turn, and to nobody else.
    fn settled(&self, world: &World, after: &Request, settled: &Settlement, fresh: bool) -> Checked {
        if after.kind != Kind::Ask {
            return Ok(());
        }
        let id = &after.id;
        let turn = turn_of(world, after);
        let own =
            |text: &str| turn.is_some_and(|t| text == answer(&t.name, Some(id)) || text == partial(&t.name, Some(id)));
        hold(settled.reply.is_empty() || own(&settled.reply), "P3", || {
            format!("{id} got a foreign reply: {settled:?}")
        })?;
        let name = turn.map(|turn| &turn.name);
        hold(settled.turn.is_none() || settled.turn.as_ref() == name, "P3", || {
            format!("{id} is bound to {:?}, not {name:?}", settled.turn)
        })?;
        let whole = |text: &str| turn.is_some_and(|t| t.ends.contains(&TurnEnd::Completed { reply: text.to_owned() }));
        let over = after.deadline.map_or(i64::MAX, |at| at.0.max(self.started));
        hold(settled.at.0 <= over.saturating_add(1_000), "P4", || format!("{id} outlives its deadline"))?;
        if let Some(late) = &settled.late {
            let again = settled.outcome == Outcome::Incomplete { reason: Incomplete::Mixed };
            hold(!again, "P3", || format!("{id} passes the same mixture off as a late answer"))?;
            hold(whole(&late.reply) && own(&late.reply), "P3", || format!("{id} got a foreign late reply: {late:?}"))?;
            let told = late.at.0 == world.now && self.mixed.contains(id);
            hold(settled.mixed || !told, "P3", || format!("{id} passes a late mixture off as its answer"))?;
        }
        match &settled.outcome {
            Outcome::Completed => {
                hold(whole(&settled.reply), "P3", || format!("{id} is completed by what is not its answer"))?;
                hold(!fresh || !self.mixed.contains(id), "P3", || format!("{id} passes a mixture off as its answer"))
            }
            Outcome::Failed { reason: Failure::NeverConsumed, .. } => {
                let nothing = turn.is_none_or(|turn| turn.shows == Shows::Never);
                hold(nothing, "P4", || format!("{id} was taken, but is settled as never taken"))
            }
            Outcome::Failed { .. } | Outcome::Incomplete { .. } | Outcome::Cancelled { .. } => Ok(()),
        }
    }
}

/// P4: an outcome says what truly happened, in the words of its class.
impl Check {
    fn fits(
        &self,
        world: &World,
        input: &Input,
        before: Option<&Request>,
        after: &Request,
        settled: &Settlement,
    ) -> Checked {
        if after.kind != Kind::Ask {
            return Ok(());
        }
        let id = &after.id;
        let turn = turn_of(world, after);
        let ended = |is: &dyn Fn(&TurnEnd) -> bool| turn.is_some_and(|turn| turn.ends.iter().any(is));
        let failed = |class: Failure| ended(&|end| matches!(end, TurnEnd::Failed { reason, .. } if *reason == class));
        let told_gone = matches!(input, Input::Gone { agent, .. } if agent == &after.agent);
        let vanished = turn.is_some_and(|turn| turn.shows == Shows::NoMore);
        let fits = match &settled.outcome {
            Outcome::Completed => ended(&|end| matches!(end, TurnEnd::Completed { reply } if !reply.is_empty())),
            Outcome::Incomplete { reason } => match reason {
                Incomplete::Deadline => after.deadline.is_some_and(|at| at.0 <= world.now),
                Incomplete::Empty => ended(&|end| matches!(end, TurnEnd::Completed { reply } if reply.is_empty())),
                Incomplete::Interrupted => ended(&|end| matches!(end, TurnEnd::Interrupted { .. })),
                Incomplete::Quiet => {
                    let given_up = turn.is_some_and(|turn| turn.given_up);
                    (given_up || ended(&|end| matches!(end, TurnEnd::Quiet { .. })))
                        && settled.ended_by == Some(EndedBy::Quiet)
                }
                Incomplete::Mixed => turn.is_some_and(|turn| turn.mixed) && self.mixed.contains(id),
            },
            Outcome::Failed { reason, .. } => match reason {
                Failure::NoSuchAgent => world.agents.iter().any(|a| a.name == after.agent && !a.configured),
                Failure::AgentGone => told_gone || vanished || failed(Failure::AgentGone),
                Failure::NeverConsumed => {
                    turn.is_none_or(|turn| turn.shows == Shows::Never)
                        && !world.agents.iter().any(|a| a.swallowed.contains(id))
                }
                Failure::UnknownDelivery => told_gone || world.in_doubt.contains(id),
                Failure::RateLimit
                | Failure::Auth
                | Failure::Quota
                | Failure::Overloaded
                | Failure::Context
                | Failure::Provider => failed(*reason),
            },
            Outcome::Cancelled { by } => {
                let asked = before.and_then(|before| before.cancel.as_ref()) == Some(by);
                asked || matches!(input, Input::Cancel { id: of, by: who } if of == id && who == by)
            }
        };
        hold(fits, "P4", || format!("{id} is settled as {:?}, but {turn:?}", settled.outcome))?;
        if let Input::TurnEnded { by, .. } = input {
            hold(settled.ended_by == Some(*by), "P4", || format!("{id} was ended by {by:?}: {settled:?}"))?;
        }
        Ok(())
    }
}

/// P1: what is not over is on disk, in memory, and in exactly one agent's hands.
pub(crate) fn committed(world: &World) -> Checked {
    let Some(state) = &world.state else { return Ok(()) };
    for id in &world.disk.unsettled {
        let Some(request) = state.requests.get(id) else {
            return Err(Violation::new("P1", format!("{id} is forgotten")));
        };
        hold(Some(request) == world.disk.requests.get(id), "P1", || format!("{id} is not on disk as it is"))?;
        let agent = state.agents.get(&request.agent);
        let queued = agent.is_some_and(|agent| agent.queue.contains(id));
        let current = agent.is_some_and(|agent| agent.current.as_ref() == Some(id));
        hold(queued == (request.stage == Stage::Queued) && current != queued, "P1", || {
            format!("{id} is {} but queued: {queued}, current: {current}", request.stage.word())
        })?;
    }
    Ok(())
}

/// At the end everything is settled, and every asker could learn it.
pub(crate) fn end(world: &World) -> Checked {
    for request in world.disk.requests.values() {
        let id = &request.id;
        hold(request.is_settled(), "P1", || format!("{id} never ends: {request:?}"))?;
        // An asker that a sabotaged engine leaves without news is spoken of below.
        let silent = world.policy.sabotage.contains(&Sabotage::KeepSilent);
        hold(!request.is_open() || silent, "P11", || format!("{id} is loaded for ever: held {}", request.held))?;
        if let (Asker::Agent { name }, Kind::Ask) = (&request.asker, &request.kind) {
            let here = world.agents.iter().any(|agent| agent.configured && &agent.name == name);
            let learnt = request.delivered.is_some() || request.notices > 0;
            hold(learnt || !here, "P1", || format!("{name} never learns what became of {id}: {request:?}"))?;
        }
        if let Kind::Notice { of } = &request.kind {
            let consumed = request.turn().is_some();
            let marked = world.disk.requests.get(of).is_some_and(|of| of.delivered.is_some());
            hold(marked || !consumed || !world.thorough, "P4", || format!("{of} is delivered, but not marked so"))?;
        }
    }
    for client in &world.clients {
        let stored = world.disk.requests.get(&client.id);
        hold(!client.accepted || stored.is_some(), "P1", || format!("{} was accepted and is lost", client.id))?;
        hold(!client.waiting || client.told, "P1", || format!("who waits for {} is not told", client.id))?;
    }
    let Some(state) = &world.state else { return Ok(()) };
    for agent in state.agents.values() {
        let stuck = agent.current.as_ref().or_else(|| agent.queue.front());
        hold(stuck.is_none(), "P1", || format!("{} is stuck with {stuck:?}", agent.name))?;
    }
    let kept: Vec<_> = state.requests.keys().collect();
    hold(kept.is_empty() || !world.thorough, "P11", || format!("kept in memory for nothing: {kept:?}"))
}

/// Returns the turn that truly holds the request.
fn turn_of<'a>(world: &'a World, request: &Request) -> Option<&'a Turn> {
    world
        .agents
        .iter()
        .find(|agent| agent.name == request.agent)
        .and_then(|agent: &SimAgent| agent.turn_of(&request.id))
}

/// Checks the first version of a request.
fn created(world: &World, after: &Request, noted: bool, step: &Step) -> Checked {
    hold(noted, "P4", || format!("{} begins without evidence", after.id))?;
    match &after.kind {
        Kind::Ask => hold(step.verdict == Verdict::Accepted, "P1", || format!("{} is saved, not accepted", after.id)),
        Kind::Notice { of } => {
            let carried = step.saves.iter().find(|saved| &saved.id == of).cloned().or_else(|| world.version(of));
            let settled = carried.as_ref().and_then(Request::settlement);
            let holds = settled.is_some_and(|s| {
                after.message.contains(s.late.as_ref().map_or(s.reply.as_str(), |late| late.reply.as_str()))
            });
            hold(holds, "P3", || format!("{} does not carry the reply to {of}", after.id))
        }
    }
}

/// Checks how a request moved.
fn moved(before: &Request, after: &Request, input: &Input, noted: bool) -> Checked {
    let id = &after.id;
    hold(before.stage == after.stage || noted, "P4", || format!("{id} moves without evidence: {after:?}"))?;
    hold(before.same_content(after) && before.seq == after.seq, "P1", || format!("{id} is not what it was"))?;
    let again = after.stage == Stage::Queued || after.attempts > before.attempts;
    match &before.stage {
        Stage::Queued => Ok(()),
        Stage::Offering { .. } | Stage::Offered { .. } => {
            let proved = matches!(
                input,
                Input::NotTaken { id: of, attempt, .. } | Input::NotHandedOver { id: of, attempt, .. }
                    if of == id && *attempt == before.attempts
            );
            hold(proved || !again, "P2", || format!("{id} is offered again without proof"))
        }
        Stage::Working { .. } => hold(!again, "P2", || format!("{id} is offered again while at work")),
        Stage::Settled(old) => {
            let Some(new) = after.settlement() else {
                return Err(Violation::new("P1", format!("{id} was settled and is not any more")));
            };
            let mut same = new.clone();
            if old.late.is_none() {
                same.late = None;
            }
            if old.turn.is_none() {
                same.turn = None;
            }
            if !old.mixed && old.late.is_none() {
                same.mixed = false;
            }
            hold(&same == old, "P4", || format!("{id} was settled as {old:?} and is now {new:?}"))
        }
    }
}

/// P4: a whole answer that comes after its request was settled otherwise is attached.
fn late_is_kept(input: &Input, subject: &Request, step: &Step) -> Checked {
    let (Input::TurnEnded { id, turn, end: TurnEnd::Completed { reply }, .. }, Some(old)) =
        (input, subject.settlement())
    else {
        return Ok(());
    };
    let known = matches!(old.outcome, Outcome::Completed | Outcome::Incomplete { reason: Incomplete::Mixed })
        || old.late.is_some();
    if known || reply.is_empty() || old.turn.as_ref() != Some(turn) || subject.kind != Kind::Ask {
        return Ok(());
    }
    let after = step.saves.iter().find(|saved| &saved.id == id).and_then(Request::settlement);
    let kept = after.and_then(|s| s.late.as_ref()).is_some_and(|late| &late.reply == reply);
    hold(kept, "P4", || format!("the late answer to {id} is thrown away"))
}
