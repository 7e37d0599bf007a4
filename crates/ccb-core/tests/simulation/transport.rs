//! The simulated transports: they offer, interrupt and reconcile, and bring evidence late, twice, or not at all.

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{EndedBy, TurnEnd};
use ccb_core::state::Presence;
use ccb_core::step::{Effect, Input};

use crate::agents::{Draft, Link, Made, Rung, Shows};
use crate::check::{Violation, hold};
use crate::course::{Death, Fault, mark};
use crate::late::Look;
use crate::seen::Mark;
use crate::world::{Event, Human, World};

/// How long (ms) a turn has to run until no offer can be under way that was made before it began.
const WELL_KNOWN: i64 = 12_000;

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
        if it.is_heard() {
            let retries = it.running().is_some_and(|turn| turn.doing.starts_with("retrying"));
            let blind = retries && self.does(Fault::RetriesAreIdle);
            let presence = if blind { Presence::Idle } else { it.presence() };
            let input = Input::Presence { agent: it.name.clone(), presence };
            self.in_order(agent, input);
        }
    }

    /// Sends evidence as it comes. Where the agent pushes, the push may be lost, late, twice or early, and the record
    /// makes that good; elsewhere there is nothing but the record, with the same faults.
    pub(crate) fn evidence(&mut self, agent: usize, input: Input) {
        let it = &self.agents[agent];
        if self.state.is_none() || !it.is_heard() || !it.configured {
            return;
        }
        if input.request().and_then(|id| it.turn_of(id)).is_some_and(|turn| turn.shows != Shows::Input) {
            // Nothing of it can be read.
            return;
        }
        let input = match input {
            Input::TurnEnded { id, turn, end, by } => Input::TurnEnded { id, turn, end: self.told(end), by },
            other => other,
        };
        if it.rung.pushes() {
            let push = self.as_push(agent, input.clone());
            self.send(agent, push);
            self.record(agent, input);
        } else {
            self.send(agent, input);
        }
    }

    /// Returns a piece of evidence in the words of the agent's own server or hooks.
    fn as_push(&self, agent: usize, input: Input) -> Input {
        let joined = self.agents[agent].rung == Rung::Joined;
        match input {
            Input::Consumed { id, turn, mixed, .. } => {
                let early = self.does(Fault::BelievesEarlyHook) && !joined;
                let turn = if early { format!("{turn}-before") } else { turn };
                Input::Consumed { id, turn, source: if joined { "protocol" } else { "hook" }.into(), mixed }
            }
            Input::TurnEnded { id, turn, end, .. } => {
                Input::TurnEnded { id, turn, end, by: if joined { EndedBy::Protocol } else { EndedBy::Hook } }
            }
            other => other,
        }
    }

    /// Sends something that may be lost, late, twice, or in any order.
    pub(crate) fn send(&mut self, agent: usize, input: Input) {
        let of = match &input {
            Input::TurnEnded { turn, .. } if self.agents[agent].rung.pushes() => turn.clone(),
            _ => String::new(),
        };
        if self.fault(7) {
            return mark(self.agents[agent].turn_mut(&of), Mark::PushLost);
        }
        if self.fault(8) {
            mark(self.agents[agent].turn_mut(&of), Mark::PushTwice);
            let again = self.rng.range(1, 30_000);
            self.soon(again, Event::Input { run: self.run, input: input.clone() });
        }
        let delay = if self.fault(8) {
            mark(self.agents[agent].turn_mut(&of), Mark::PushLate);
            self.rng.range(1, 45_000)
        } else {
            self.rng.range(1, 60)
        };
        self.soon(delay, Event::Input { run: self.run, input });
    }

    /// Sends what the agent's record shows beside its pushes: in its order, and soon.
    fn record(&mut self, agent: usize, input: Input) {
        if self.does(Fault::DeafToRecord) {
            return;
        }
        let delay = if self.fault(30) { self.rng.range(60, 1_500) } else { self.rng.range(5, 80) };
        let it = &mut self.agents[agent];
        let at = (self.now + delay).max(it.record + 2);
        it.record = at;
        if let Input::TurnEnded { id, turn, .. } = &input
            && let Some(began) = it.turn_of(id).filter(|began| &began.name == turn && began.began <= it.linked_at)
        {
            // This connection has not told of its beginning yet, which is read before its end.
            let (id, turn, mixed) = (id.clone(), turn.clone(), began.mixed);
            let input = Input::Consumed { id, turn, source: "record".into(), mixed };
            self.soon(at - self.now - 1, Event::Input { run: self.run, input });
        }
        self.soon(at - self.now, Event::Input { run: self.run, input });
    }

    /// A transport does what it was told.
    pub(crate) fn act(&mut self, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Offer { agent, id, attempt, .. } => return self.offer(self.agent(&agent), id, attempt),
            Effect::Interrupt { agent, id, .. } => {
                let agent = self.agent(&agent);
                let running = self.agents[agent].running().filter(|turn| turn.request.as_ref() == Some(&id));
                if let Some(turn) = running.map(|turn| turn.name.clone())
                    && self.agents[agent].is_heard()
                    && !self.fault(20)
                {
                    self.soon(50, Event::End { agent, turn, interrupted: true });
                }
            }
            Effect::Reconcile { agent, id, attempt, turn, handed, last } => {
                let look = Look { id, attempt, bound: turn, handed, last };
                self.reconcile(self.agent(&agent), look);
            }
            Effect::Arm { .. } => {}
        }
        Ok(())
    }

    fn offer(&mut self, agent: usize, id: RequestId, attempt: u32) -> Result<(), Violation> {
        let now = self.now;
        let it = &mut self.agents[agent];
        if let Some(turn) = it.running().filter(|_| it.is_heard()) {
            // By then its presence was told, and an offer that was made before that has got here.
            let busy = now - turn.began.max(it.linked_at);
            let what =
                || format!("{id} goes to {}, which has been {:?} in {} for {busy} ms", it.name, turn.doing, turn.name);
            hold(busy < WELL_KNOWN, "P2", what)?;
        }
        if let Some(why) = it.hindrance() {
            let name = it.name.clone();
            let presence =
                if it.link == Link::None { Presence::Starting { why: "no link".into() } } else { it.presence() };
            self.in_order(agent, Input::Presence { agent: name, presence });
            self.in_order(agent, Input::NotHandedOver { id, attempt, why: why.into() });
            return Ok(());
        }
        it.offered = Some(id.clone());
        let joined = it.rung == Rung::Joined;
        if joined && self.fault(8) {
            self.in_order(agent, Input::NotTaken { id, attempt, proof: "the agent refused it".into() });
            return Ok(());
        }
        let it = &mut self.agents[agent];
        it.inbound = Some((id.clone(), attempt));
        if joined {
            it.made = Some(Made { id: id.clone(), attempt, lives: true });
        }
        if it.link == Link::Lost {
            let why = "the connection broke while it was handed over".into();
            self.in_order(agent, Input::Doubt { id: id.clone(), attempt, why, last: false });
            self.lose_link(agent);
        }
        let way = if self.fault(15) { self.rng.range(1, 4_000) } else { 3 };
        self.soon(way, Event::Arrive { run: self.run, agent, id, attempt });
        Ok(())
    }

    /// The bytes of an offer reach the agent, whether or not the askd that sent them still lives.
    pub(crate) fn arrive(&mut self, run: u32, agent: usize, id: &RequestId, attempt: u32) -> Result<(), Violation> {
        let it = &mut self.agents[agent];
        if it.inbound.as_ref() != Some(&(id.clone(), attempt)) {
            return Ok(());
        }
        it.inbound = None;
        let known = run == self.run && it.is_heard();
        let taken = if it.rung == Rung::Joined {
            if known && self.fault(6) {
                // It says yes, and with that its connection breaks.
                self.drop_link(agent);
            }
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
            if known && self.fault(8) {
                self.swallow(agent, id.clone());
            } else {
                self.begin_turn(agent, Some(id.clone()))?;
            }
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
        let Some(turn) = it.history.last_mut().filter(|turn| turn.runs()) else {
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
        self.tell_taken(agent, &turn, id, true);
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

    /// askd died, and its transports with it; half a paste may stay behind. Some agent is updated while it is away.
    pub(crate) fn transports_die(&mut self) {
        for agent in 0..self.agents.len() {
            if self.fault(10) {
                self.dies(agent, Death::Update);
            }
            let dice = self.rng.below(3);
            let it = &mut self.agents[agent];
            (it.link, it.made) = (Link::None, None);
            it.channel = 0;
            it.record = 0;
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
        if self.agents[agent].link != Link::None || !self.agents[agent].configured || self.state.is_none() {
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
        let now = self.now;
        let it = &mut self.agents[agent];
        (it.link, it.links, it.linked_at) = (Link::Good, it.links + 1, now);
        self.in_order(agent, Input::Connected { agent: name });
        self.report_presence(agent);
        // The turn that runs now carries our id for all to see, whatever became of its request.
        let running = self.agents[agent].running().and_then(|turn| turn.request.clone());
        if let Some(id) = running.filter(|_| self.rng.chance(70)) {
            self.tell_turn(agent, &id);
        }
        self.tell_unwritten(agent);
        Ok(())
    }

    /// Tells from the agent's own record what became of a delivery, in order and without fault.
    fn tell_turn(&mut self, agent: usize, id: &RequestId) {
        let Some(turn) = self.agents[agent].shown(id) else {
            return;
        };
        let (name, mixed, end) = (turn.name.clone(), turn.mixed, turn.ends.last().cloned().map(|end| self.told(end)));
        self.in_order(agent, Input::Consumed { id: id.clone(), turn: name.clone(), source: "record".into(), mixed });
        if let Some(end) = end {
            let by = if matches!(end, TurnEnd::Quiet { .. }) { EndedBy::Quiet } else { EndedBy::Record };
            self.in_order(agent, Input::TurnEnded { id: id.clone(), turn: name, end, by });
        }
    }

    /// Looks into the agent's record for a delivery.
    fn reconcile(&mut self, agent: usize, look: Look) {
        let joined = self.agents[agent].rung == Rung::Joined;
        if self.agents[agent].link == Link::None {
            // The next connection brings the question again.
            return;
        }
        if self.agents[agent].link == Link::Lost {
            return self.look_fails(agent, look);
        }
        if joined && self.agents[agent].inbound.as_ref() == Some(&(look.id.clone(), look.attempt)) {
            // The hand-over's answer is waited for before anything else is asked.
            let effect = look.again(&self.agents[agent].name);
            return self.soon(100, Event::Act { run: self.run, effect });
        }
        let it = &self.agents[agent];
        let before = it.turn_of(&look.id).is_some_and(|turn| turn.rung != it.rung);
        if before && self.does(Fault::NewDriverIsBlank) {
            return;
        }
        let forgets = self.does(Fault::ForgetsOldSession);
        if it.shown(&look.id).is_some_and(|turn| turn.session == it.session || !forgets) {
            return self.tell_turn(agent, &look.id);
        }
        if look.bound.is_some() {
            return self.gone_from_record(agent, look);
        }
        let clear = it.draft == Draft::Empty && it.running().is_none() && it.inbound.is_none();
        let proves = if joined { clear && !self.was_accepted(agent, &look) } else { it.rung.sees() && clear };
        let Look { id, attempt, last, .. } = look;
        let input = if proves {
            Input::NotTaken { id, attempt, proof: "its record does not have it".into() }
        } else {
            // A joined agent that is at something tells in time what that was.
            let last = last && (clear || !joined);
            if last {
                self.in_doubt.insert(id.clone());
            }
            Input::Doubt { id, attempt, why: "no anchor in its record".into(), last }
        };
        self.in_order(agent, input);
    }
}
