//! The simulated transports: they offer, interrupt and reconcile, and bring evidence late, twice, or not at all.

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::EndedBy;
use ccb_core::state::Presence;
use ccb_core::step::{Effect, Input};

use crate::agents::{Draft, Rung};
use crate::check::Violation;
use crate::world::{Event, Human, World};

impl World {
    fn agent(&self, name: &AgentName) -> usize {
        self.agents.iter().position(|agent| &agent.name == name).expect("one of the agents")
    }

    /// Returns whose transport an effect is for; a timer is nobody's.
    pub(crate) fn agent_of(&self, effect: &Effect) -> usize {
        match effect {
            Effect::Offer { agent, .. } | Effect::Interrupt { agent, .. } | Effect::Reconcile { agent, .. } => {
                self.agent(agent)
            }
            Effect::Arm { .. } => unreachable!("a timer is no transport's"),
        }
    }

    /// Sends something that keeps its order: connections, presence, ends of processes, looks into records.
    pub(crate) fn in_order(&mut self, agent: usize, input: Input) {
        if self.state.is_none() || !self.agents[agent].configured {
            return;
        }
        let delay = if self.fault(10) { self.rng.range(1, 5_000) } else { self.rng.range(1, 60) };
        let at = (self.now + delay).max(self.agents[agent].channel + 1);
        self.agents[agent].channel = at;
        self.soon(at - self.now, Event::Input { run: self.run, input });
    }

    /// Sends what the agent is doing now.
    pub(crate) fn report_presence(&mut self, agent: usize) {
        let it = &self.agents[agent];
        if it.linked {
            let input = Input::Presence { agent: it.name.clone(), presence: it.presence() };
            self.in_order(agent, input);
        }
    }

    /// Sends evidence as it comes: lost, late, twice, in any order.
    pub(crate) fn evidence(&mut self, agent: usize, input: Input) {
        let it = &self.agents[agent];
        if self.state.is_none() || !it.linked || !it.configured || self.fault(6) {
            return;
        }
        if self.fault(8) {
            let again = self.rng.range(1, 30_000);
            self.soon(again, Event::Input { run: self.run, input: input.clone() });
        }
        let delay = if self.fault(8) { self.rng.range(1, 45_000) } else { self.rng.range(1, 60) };
        self.soon(delay, Event::Input { run: self.run, input });
    }

    /// A transport does what it was told.
    pub(crate) fn act(&mut self, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Offer { agent, id, attempt, .. } => self.offer(self.agent(&agent), id, attempt),
            Effect::Interrupt { agent, id, .. } => {
                let agent = self.agent(&agent);
                let running = self.agents[agent].running().filter(|turn| turn.request.as_ref() == Some(&id));
                if let Some(turn) = running.map(|turn| turn.name.clone())
                    && self.agents[agent].linked
                    && !self.fault(20)
                {
                    self.soon(50, Event::End { agent, turn, interrupted: true });
                }
            }
            Effect::Reconcile { agent, id, attempt, last, .. } => {
                return self.reconcile(self.agent(&agent), &id, attempt, last);
            }
            Effect::Arm { .. } => {}
        }
        Ok(())
    }

    fn offer(&mut self, agent: usize, id: RequestId, attempt: u32) {
        let it = &mut self.agents[agent];
        if let Some(why) = it.hindrance() {
            let name = it.name.clone();
            let presence = if it.linked { it.presence() } else { Presence::Starting { why: "no link".into() } };
            self.in_order(agent, Input::Presence { agent: name, presence });
            self.in_order(agent, Input::NotHandedOver { id, attempt, why: why.into() });
            return;
        }
        it.offered = Some(id.clone());
        if it.rung == Rung::Joined && self.fault(8) {
            self.in_order(agent, Input::NotTaken { id, attempt, proof: "the agent refused it".into() });
            return;
        }
        self.agents[agent].inbound = Some((id.clone(), attempt));
        let way = if self.fault(15) { self.rng.range(1, 4_000) } else { 3 };
        self.soon(way, Event::Arrive { run: self.run, agent, id, attempt });
    }

    /// The bytes of an offer reach the agent, whether or not the askd that sent them still lives.
    pub(crate) fn arrive(&mut self, run: u32, agent: usize, id: &RequestId, attempt: u32) -> Result<(), Violation> {
        let it = &mut self.agents[agent];
        if it.inbound.as_ref() != Some(&(id.clone(), attempt)) {
            return Ok(());
        }
        it.inbound = None;
        let known = run == self.run && it.linked;
        let taken = if it.rung == Rung::Joined {
            self.arrive_in_thread(known, agent, id, attempt)?
        } else {
            self.arrive_in_composer(agent, id)?;
            true
        };
        if taken && known && !self.fault(3) {
            self.in_order(agent, Input::HandedOver { id: id.clone(), attempt, how: "sent".into() });
        }
        Ok(())
    }

    fn arrive_in_thread(&mut self, known: bool, agent: usize, id: &RequestId, attempt: u32) -> Result<bool, Violation> {
        if self.agents[agent].running().is_none() {
            self.begin_turn(agent, Some(id.clone()))?;
            return Ok(true);
        }
        if known {
            let proof = "the agent is in a turn".into();
            self.in_order(agent, Input::NotTaken { id: id.clone(), attempt, proof });
        }
        Ok(false)
    }

    fn arrive_in_composer(&mut self, agent: usize, id: &RequestId) -> Result<(), Violation> {
        if self.agents[agent].draft != Draft::Empty || self.fault(6) {
            // It stays in the composer, unsent, until the human looks.
            self.agents[agent].draft = Draft::Ours(id.clone());
            self.report_presence(agent);
            let wait = self.rng.range(1_000, 90_000);
            self.soon(wait, Event::Human { agent, act: Human::Finish });
            return Ok(());
        }
        if self.fault(4) {
            self.say(|| format!("  {id} vanishes"));
            return Ok(());
        }
        let it = &mut self.agents[agent];
        let Some(turn) = it.history.last_mut().filter(|turn| turn.end.is_none()) else {
            return self.begin_turn(agent, Some(id.clone()));
        };
        // A human was quicker by a moment: both texts are in one turn now.
        if turn.request.is_some() {
            return Err(Violation::new("P2", format!("{id} arrives in a turn of another delivery")));
        }
        turn.request = Some(id.clone());
        turn.mixed = true;
        let turn = turn.name.clone();
        self.take(agent, id)?;
        self.evidence(agent, Input::Consumed { id: id.clone(), turn, source: "record".into(), mixed: true });
        Ok(())
    }

    /// What was on its way over a connection that is dead now has either arrived or never will.
    fn drain(&mut self, agent: usize) -> Result<(), Violation> {
        let Some((id, attempt)) = self.agents[agent].inbound.clone() else {
            return Ok(());
        };
        if self.rng.chance(50) {
            return self.arrive(u32::MAX, agent, &id, attempt);
        }
        self.agents[agent].inbound = None;
        Ok(())
    }

    /// askd died, and its transports with it; half a paste may stay behind.
    pub(crate) fn transports_die(&mut self) {
        for agent in 0..self.agents.len() {
            let dice = self.rng.below(3);
            let it = &mut self.agents[agent];
            it.linked = false;
            it.channel = 0;
            it.orders = 0;
            if it.rung == Rung::Joined {
                continue;
            }
            if let Some((id, _)) = it.inbound.clone().filter(|_| dice > 0) {
                it.inbound = None;
                if dice == 1 && it.draft == Draft::Empty {
                    it.draft = Draft::Ours(id);
                    self.soon(20_000, Event::Human { agent, act: Human::Finish });
                }
            }
        }
    }

    /// The transport connects, or finds its agent dead.
    pub(crate) fn connect(&mut self, agent: usize) -> Result<(), Violation> {
        if self.agents[agent].linked || !self.agents[agent].configured || self.state.is_none() {
            return Ok(());
        }
        let name = self.agents[agent].name.clone();
        if !self.agents[agent].alive {
            self.in_order(agent, Input::Gone { agent: name, why: "found dead".into() });
            return Ok(());
        }
        if self.agents[agent].rung == Rung::Joined {
            self.drain(agent)?;
        }
        self.agents[agent].linked = true;
        self.in_order(agent, Input::Connected { agent: name });
        self.report_presence(agent);
        // The turn that runs now carries our id for all to see, whatever became of its request.
        let running = self.agents[agent].running().and_then(|turn| turn.request.clone());
        if let Some(id) = running.filter(|_| self.rng.chance(70)) {
            self.tell_turn(agent, &id);
        }
        Ok(())
    }

    /// Tells from the agent's own record what became of a delivery, in order and without fault.
    fn tell_turn(&mut self, agent: usize, id: &RequestId) {
        let Some(turn) = self.agents[agent].turn_of(id) else {
            return;
        };
        let (name, mixed, end) = (turn.name.clone(), turn.mixed, turn.end.clone());
        self.in_order(agent, Input::Consumed { id: id.clone(), turn: name.clone(), source: "record".into(), mixed });
        if let Some(end) = end {
            self.in_order(agent, Input::TurnEnded { id: id.clone(), turn: name, end, by: EndedBy::Record });
        }
    }

    fn reconcile(&mut self, agent: usize, id: &RequestId, attempt: u32, last: bool) -> Result<(), Violation> {
        if !self.agents[agent].linked {
            // The next connection brings the question again.
            return Ok(());
        }
        let joined = self.agents[agent].rung == Rung::Joined;
        if joined && self.agents[agent].inbound == Some((id.clone(), attempt)) {
            // Nothing is proved over a living connection, so it makes a new one first.
            self.drain(agent)?;
        }
        let it = &self.agents[agent];
        if it.turn_of(id).is_some() {
            self.tell_turn(agent, id);
            return Ok(());
        }
        let clear = it.draft == Draft::Empty && it.running().is_none() && it.inbound.is_none();
        let input = if joined || (it.rung == Rung::Sighted && clear) {
            Input::NotTaken { id: id.clone(), attempt, proof: "its record does not have it".into() }
        } else {
            Input::Doubt { id: id.clone(), attempt, why: "no anchor in its record".into(), last }
        };
        self.in_order(agent, input);
        Ok(())
    }
}
