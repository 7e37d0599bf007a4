//! The driver: what askd's engine thread does around `step`, here with a disk of its own and sudden deaths.
//!
//! Its contract, which the real one keeps too: load the request that the input speaks of (and what it carries, if
//! it is a notice), step, commit, perform, tell, and forget what has been settled.

use ccb_core::id::{AgentName, RequestId};
use ccb_core::request::{Kind, Request};
use ccb_core::state::State;
use ccb_core::step::{Effect, Input, Step, step, wake};
use ccb_core::time::Time;

use crate::check::{self, Violation};
use crate::rng::Rng;
use crate::world::{Event, World};

/// Where in its next commit askd will die.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doom {
    /// Before anything is on disk.
    BeforeCommit,
    /// After the commit and that many effects.
    AfterEffects(usize),
}

impl Doom {
    /// Returns none for a death between two inputs.
    pub(crate) fn random(rng: &mut Rng) -> Option<Self> {
        match rng.below(6) {
            0 => None,
            1 | 2 => Some(Self::BeforeCommit),
            n => Some(Self::AfterEffects(n - 3)),
        }
    }
}

/// A step that is not committed yet.
pub(crate) struct Batch {
    input: Input,
    step: Step,
}

impl World {
    /// Returns the newest version of a request: of the open batch, else of the disk.
    pub(crate) fn version(&self, id: &RequestId) -> Option<Request> {
        let open = self.batch.iter().rev().flat_map(|done| done.step.saves.iter().rev());
        open.into_iter().find(|saved| &saved.id == id).or_else(|| self.disk.requests.get(id)).cloned()
    }

    pub(crate) fn configuration(&self) -> Vec<(AgentName, String)> {
        let kept = self.agents.iter().filter(|agent| agent.configured);
        kept.map(|agent| (agent.name.clone(), format!("The {}", agent.name))).collect()
    }

    /// Puts one input through the engine.
    pub(crate) fn deliver(&mut self, input: Input) -> Result<(), Violation> {
        let Some(mut state) = self.state.take() else {
            return Ok(());
        };
        self.load(&mut state, &input);
        let out = step(&mut state, input.clone(), Time(self.now));
        self.state = Some(state);
        self.steps += 1;
        self.say(|| format!("  saves {:?}\n            effects {:?}", out.saves, out.effects));
        let before: Vec<Option<Request>> = out.saves.iter().map(|saved| self.version(&saved.id)).collect();
        let subject = input.request().and_then(|id| self.version(id));
        let mut check = std::mem::take(&mut self.check);
        check.step(self, &input, subject.as_ref(), &before, &out)?;
        self.check = check;
        self.witness(&input, &before, &out.saves);
        self.batch.push(Batch { input, step: out });
        if matches!(self.doom, Some(Doom::BeforeCommit)) {
            self.crash();
            return Ok(());
        }
        if self.rng.chance(85) { self.flush() } else { Ok(()) }
    }

    fn load(&self, state: &mut State, input: &Input) {
        let Some(id) = input.request().filter(|id| !state.requests.contains_key(*id)) else {
            return;
        };
        let Some(request) = self.disk.requests.get(id) else {
            return;
        };
        if let Kind::Notice { of } = &request.kind
            && !state.requests.contains_key(of)
            && let Some(carried) = self.disk.requests.get(of)
        {
            state.requests.insert(of.clone(), carried.clone());
        }
        state.requests.insert(id.clone(), request.clone());
    }

    /// Commits what is open, performs it, tells, forgets.
    pub(crate) fn flush(&mut self) -> Result<(), Violation> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        for saved in batch.iter().flat_map(|done| &done.step.saves) {
            if saved.is_settled() {
                self.disk.unsettled.remove(&saved.id);
            } else {
                self.disk.unsettled.insert(saved.id.clone());
            }
            self.disk.requests.insert(saved.id.clone(), saved.clone());
        }
        check::committed(self)?;
        let doom = self.doom.take();
        for (performed, effect) in batch.iter().flat_map(|done| &done.step.effects).enumerate() {
            if let Some(Doom::AfterEffects(n)) = doom
                && performed >= n
            {
                self.crash();
                return Ok(());
            }
            self.perform(effect.clone());
        }
        if doom.is_some() {
            self.crash();
            return Ok(());
        }
        for done in &batch {
            self.tell(done);
        }
        for done in batch {
            let loaded = done.input.request().filter(|_| self.thorough).cloned();
            let settled = done.step.saves.iter().filter(|saved| saved.is_settled()).map(|saved| saved.id.clone());
            let Some(state) = &mut self.state else { continue };
            settled.chain(loaded).for_each(|id| state.forget_settled(&id));
        }
        Ok(())
    }

    fn tell(&mut self, done: &Batch) {
        match &done.input {
            Input::Submit(request) => self.answer_submission(&request.id, &done.step.verdict),
            Input::Waits { id } => self.now_waits(id),
            _ => {}
        }
        for saved in done.step.saves.iter().filter(|saved| saved.is_settled()) {
            self.tell_waiting(&saved.id);
        }
    }

    /// Sets an effect going; the transports get at it a little later.
    fn perform(&mut self, effect: Effect) {
        if let Effect::Arm { id, timer, at } = effect {
            let input = Input::Due { id, timer };
            self.soon((at.0 - self.now).max(0), Event::Input { run: self.run, input });
            return;
        }
        // An agent's transport does what it is told in the order of telling: a look into the records that overtook
        // an offer would prove nothing.
        let agent = self.agent_of(&effect);
        let delay = if self.fault(10) { self.rng.range(1, 4_000) } else { 1 };
        let at = (self.now + delay).max(self.agents[agent].orders + 1);
        self.agents[agent].orders = at;
        self.soon(at - self.now, Event::Act { run: self.run, effect });
    }

    /// askd dies: what is not on disk is gone, and so is everything on its way to it.
    pub(crate) fn crash(&mut self) {
        if self.state.take().is_none() {
            return;
        }
        self.say(|| "  *** askd dies".into());
        self.batch.clear();
        self.doom = None;
        self.run += 1;
        for client in &mut self.clients {
            client.waiting = false;
        }
        self.check.forget();
        self.swallow_not_for_long();
        self.transports_die();
        let away = self.rng.range(20, 8_000);
        self.soon(away, Event::Start);
    }

    /// askd starts: recovery is the only way in.
    pub(crate) fn start(&mut self) -> Result<(), Violation> {
        let stored: Vec<Request> = self.disk.requests.values().filter(|request| request.is_open()).cloned().collect();
        let next = self.disk.requests.values().map(|request| request.seq + 1).max().unwrap_or(1);
        let mut state = State::restore(stored, next, self.policy.clone(), Time(self.now));
        for id in state.lacks().into_iter().filter(|_| self.thorough) {
            state.requests.insert(id.clone(), self.disk.requests[&id].clone());
        }
        self.check.restored(&state, self.now);
        for effect in wake(&state) {
            self.perform(effect);
        }
        self.state = Some(state);
        self.deliver(Input::Configure(self.configuration()))?;
        self.flush()?;
        for agent in 0..self.agents.len() {
            let wait = self.rng.range(5, 2_000);
            self.soon(wait, Event::Connect { run: self.run, agent });
        }
        self.clients_return();
        Ok(())
    }
}
