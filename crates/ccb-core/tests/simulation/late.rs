//! What comes late, or goes away, behind the transports' backs: records that show an accepted offer only after a while,
//! or no longer, connections that are lost before anybody notices, and ends that are told of older turns.

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::request::Stage;
use ccb_core::state::Presence;
use ccb_core::step::{Effect, Input};

use crate::agents::{Link, Rung, Shows};
use crate::check::Violation;
use crate::course::{Fault, mark};
use crate::seen::Mark;
use crate::world::{Event, World};

/// How soon an end is told that is no more than the absence of a record (ms).
const GONE: i64 = 8_000;

/// What the engine wants to know of a delivery.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) id: RequestId,
    pub(crate) attempt: u32,
    pub(crate) bound: Option<String>,
    pub(crate) handed: bool,
    pub(crate) last: bool,
}

impl Look {
    /// Returns the same question once more.
    pub(crate) fn again(self, agent: &AgentName) -> Effect {
        let Self { id, attempt, bound, handed, last } = self;
        Effect::Reconcile { agent: agent.clone(), id, attempt, turn: bound, handed, last }
    }
}

impl World {
    /// A joined agent accepts an offer and does nothing about it yet: it is idle for all to see, and nothing is in its
    /// record.
    pub(crate) fn swallow(&mut self, agent: usize, id: RequestId) {
        self.agents[agent].swallowed.push(id.clone());
        let late = self.rng.range(200, 90_000);
        self.soon(late, Event::Digest { agent, id });
    }

    /// The agent gets at what it has accepted.
    pub(crate) fn digest(&mut self, agent: usize, id: RequestId) -> Result<(), Violation> {
        let it = &mut self.agents[agent];
        if !it.alive || !it.swallowed.contains(&id) {
            return Ok(());
        }
        if it.running().is_some() {
            self.soon(1_000, Event::Digest { agent, id });
            return Ok(());
        }
        it.swallowed.retain(|swallowed| swallowed != &id);
        self.begin_turn(agent, Some(id.clone()))?;
        let turn = self.agents[agent].history.last_mut();
        mark(turn, Mark::ShownLate);
        Ok(())
    }

    /// What is accepted in the very moment in which askd dies, before it can have heard of it, is written down before the
    /// last look of a new one: that window is left, where an agent says yes, and much later writes down to what.
    pub(crate) fn swallow_not_for_long(&mut self) {
        for agent in 0..self.agents.len() {
            for id in self.agents[agent].swallowed.clone() {
                let stage = self.disk.requests.get(&id).map(|request| &request.stage);
                if matches!(stage, Some(Stage::Offering { .. } | Stage::Offered { handed: false, .. })) {
                    let later = self.rng.range(1, self.policy.consume_grace * 3 / 4);
                    self.soon(later, Event::Digest { agent, id });
                }
            }
        }
    }

    /// The agent's record shows what its turn began with.
    pub(crate) fn show(&mut self, agent: usize, name: &str) -> Result<(), Violation> {
        let Some(turn) = self.agents[agent].turn_mut(name).filter(|turn| turn.shows == Shows::Later) else {
            return Ok(());
        };
        turn.shows = Shows::Input;
        mark(Some(turn), Mark::ShownLate);
        let (request, mixed) = (turn.request.clone(), turn.mixed);
        let Some(id) = request else { return Ok(()) };
        self.take(agent, &id)?;
        self.tell_taken(agent, name, &id, mixed);
        Ok(())
    }

    /// A turn ends whose input is not in the record: it gets there with the end, or never.
    pub(crate) fn show_at_end(&mut self, agent: usize, name: &str, fails: bool) -> Result<(), Violation> {
        let never = fails && self.agents[agent].rung == Rung::Joined && self.rng.chance(60);
        let turn = self.agents[agent].turn_mut(name).filter(|turn| turn.shows == Shows::Later);
        match turn {
            Some(turn) if never => {
                turn.shows = Shows::Never;
                Ok(())
            }
            Some(_) => self.show(agent, name),
            None => Ok(()),
        }
    }

    /// A turn came to nothing before its input was written down: whoever was told its name knows what became of it.
    pub(crate) fn tell_unwritten(&mut self, agent: usize) {
        let it = &self.agents[agent];
        let Some(turn) = it.history.last().filter(|turn| turn.shows == Shows::Never && !turn.runs()) else { return };
        let Some(id) = turn.request.clone() else { return };
        if !it.is_heard() || !it.made.as_ref().is_some_and(|made| made.id == id && made.lives) {
            return;
        }
        let (name, end) = (turn.name.clone(), turn.ends[0].clone());
        let end = self.told(end);
        let (source, mixed, by) = ("protocol".to_owned(), false, EndedBy::Protocol);
        self.in_order(agent, Input::Consumed { id: id.clone(), turn: name.clone(), source, mixed });
        self.in_order(agent, Input::TurnEnded { id, turn: name, end, by });
    }

    /// The agent's program has ended. What it had not written down is in its record by the time that it comes back, as
    /// cut off, or never.
    pub(crate) fn unwritten(&mut self, agent: usize) -> Result<(), Violation> {
        let written = self.rng.chance(50);
        let cut = TurnEnd::Failed { reason: Failure::AgentGone, message: "cut off".into(), partial: String::new() };
        for id in std::mem::take(&mut self.agents[agent].swallowed) {
            if written {
                self.take(agent, &id)?;
                let turn = self.agents[agent].add_turn(self.now, crate::course::Course::Hangs, Some(id));
                turn.ends.push(cut.clone());
                mark(Some(turn), Mark::ShownLate);
            }
        }
        let late = self.agents[agent].history.iter_mut().filter(|turn| turn.shows == Shows::Later);
        let mut taken = Vec::new();
        for turn in late {
            turn.shows = if written { Shows::Input } else { Shows::Never };
            if written {
                mark(Some(turn), Mark::ShownLate);
                taken.extend(turn.request.clone());
            }
        }
        taken.into_iter().try_for_each(|id| self.take(agent, &id))
    }

    /// Returns whether a joined agent may have said yes to an offer that its record does not show: its transport
    /// remembers, or the engine does; of what was in mid-hand-over when askd died, the last look tells. A program that is
    /// dead writes nothing down any more.
    pub(crate) fn was_accepted(&self, agent: usize, look: &Look) -> bool {
        if self.does(Fault::AbsenceProves) {
            return false;
        }
        match &self.agents[agent].made {
            Some(made) if made.id == look.id && made.attempt == look.attempt => made.lives,
            Some(_) | None => look.handed || !look.last,
        }
    }

    /// A look over a connection that is lost: nothing is learnt but that.
    pub(crate) fn look_fails(&mut self, agent: usize, look: Look) {
        if self.does(Fault::TrustsLostLink) {
            let Look { id, attempt, .. } = look;
            return self.in_order(agent, Input::NotTaken { id, attempt, proof: "nothing was heard".into() });
        }
        if let Some(turn) = self.agents[agent].history.last_mut().filter(|turn| turn.request.as_ref() == Some(&look.id))
        {
            mark(Some(turn), Mark::LookFailed);
        }
        if self.rng.chance(50) {
            let Look { id, attempt, .. } = look;
            let why = "its connection is lost".into();
            self.in_order(agent, Input::Doubt { id, attempt, why, last: false });
        }
        self.lose_link(agent);
    }

    /// The transport has lost its connection and knows it: it makes another soon, late, or never until all is calm.
    pub(crate) fn lose_link(&mut self, agent: usize) {
        if self.rng.chance(50) {
            let name = self.agents[agent].name.clone();
            let presence = Presence::Starting { why: "reconnecting".into() };
            self.in_order(agent, Input::Presence { agent: name, presence });
        }
        self.agents[agent].link = Link::None;
        let away = match self.rng.below(10) {
            0 if !self.calm => return,
            1 | 2 if !self.calm => self.rng.range(3_000, 60_000),
            _ => self.rng.range(50, 3_000),
        };
        self.soon(away, Event::Connect { run: self.run, agent });
    }

    /// What the agent keeps of its turns is deleted: of those that the engine has bound, as any other has just begun.
    pub(crate) fn vanish(&mut self, agent: usize) {
        let disk = &self.disk;
        let it = &mut self.agents[agent];
        for turn in it.history.iter_mut().filter(|turn| turn.shows == Shows::Input) {
            let stored = turn.request.as_ref().and_then(|id| disk.requests.get(id));
            if stored.is_some_and(|request| request.turn() == Some(&turn.name)) {
                turn.shows = Shows::NoMore;
                mark(Some(turn), Mark::RecordGone);
            }
        }
        if self.agents[agent].link != Link::None {
            self.lose_link(agent);
        }
    }

    /// The turn that the engine has bound is in no record any more. A joined agent says so at once; elsewhere it is
    /// over when its agent is at nothing.
    pub(crate) fn gone_from_record(&mut self, agent: usize, look: Look) {
        let it = &self.agents[agent];
        if self.does(Fault::VanishedIsDoubt) {
            let Look { id, attempt, last, .. } = look;
            return self.in_order(agent, Input::Doubt { id, attempt, why: "not in its record".into(), last });
        }
        if it.rung != Rung::Joined && it.running().is_some() {
            return self.soon(2_000, Event::LookAgain { run: self.run, link: it.links, agent, look });
        }
        let Look { id, bound, .. } = look;
        let turn = bound.unwrap_or_default();
        let by = if it.rung == Rung::Joined { EndedBy::Protocol } else { EndedBy::Record };
        let known = Event::Known { run: self.run, link: it.links, agent, turn: turn.clone(), ended: true };
        self.soon(GONE, known);
        let message = "its turn is not in its record any more".into();
        let end = TurnEnd::Failed { reason: Failure::AgentGone, message, partial: String::new() };
        self.in_order(agent, Input::TurnEnded { id, turn, end, by });
    }

    /// A signal that cannot tell turns apart brings an older turn's end when a new one has begun.
    pub(crate) fn tell_older_end(&mut self, agent: usize, id: &RequestId) {
        if !self.fault(10) || !self.agents[agent].rung.pushes() || !self.agents[agent].is_heard() {
            return;
        }
        let it = &mut self.agents[agent];
        let Some((last, older)) = it.history.split_last_mut() else { return };
        let Some(old) = older.iter().rev().find(|turn| !turn.runs()) else { return };
        mark(Some(last), Mark::OldEndTold);
        let (mine, end) = (last.name.clone(), old.ends[0].clone());
        let turn = if self.double == Some(Fault::OlderEndIsOurs) { mine } else { old.name.clone() };
        let by = if it.rung == Rung::Joined { EndedBy::Protocol } else { EndedBy::Hook };
        self.send(agent, Input::TurnEnded { id: id.clone(), turn, end, by });
    }
}
