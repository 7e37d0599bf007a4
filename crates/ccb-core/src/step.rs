//! The one place where anything changes: [`step`].
//!
//! The caller commits [`Step::saves`] and [`Step::notes`] first, then performs the effects, then tells.
//! A crash between commit and act loses an action, never a fact: [`State::restore`] and
//! [`Input::Connected`] bring every effect about again.

use crate::id::{AgentName, RequestId};
pub use crate::input::{Effect, Input, Step, Timer, Verdict};
use crate::outcome::{EndedBy, Failure, Incomplete, Outcome, TurnEnd};
use crate::prompt;
use crate::request::{Asker, Evidence, Kind, Late, Request, Settlement, Stage};
use crate::state::{Presence, Sabotage, State};
use crate::time::Time;

/// Applies `input` to `state` at the moment `now`. Pure but for `state` itself.
pub fn step(state: &mut State, input: Input, now: Time) -> Step {
    let mut turn = Turn {
        state,
        now,
        out: Step { saves: Vec::new(), notes: Vec::new(), effects: Vec::new(), verdict: Verdict::Fine },
    };
    match input {
        Input::Configure(agents) => turn.configure(agents),
        Input::Submit(request) => turn.submit(*request),
        Input::Cancel { id, by } => turn.cancel(&id, by),
        Input::Waits { id } => *turn.state.waiting.entry(id).or_default() += 1,
        Input::WaiterGone { id } => turn.waiter_gone(&id),
        Input::Acknowledged { id } => turn.acknowledged(&id),
        Input::Connected { agent } => turn.connected(&agent),
        Input::Presence { agent, presence } => turn.presence(&agent, presence),
        Input::HandedOver { id, attempt, how } => turn.handed_over(&id, attempt, &how),
        Input::NotTaken { id, attempt, proof } => turn.not_taken(&id, attempt, proof),
        Input::NotHandedOver { id, attempt, why } => turn.not_handed_over(&id, attempt, &why),
        Input::Doubt { id, attempt, why, last } => turn.doubt(&id, attempt, why, last),
        Input::Consumed { id, turn: name, source, mixed } => turn.consumed(&id, name, &source, mixed),
        Input::TurnEnded { id, turn: name, end, by } => turn.turn_ended(&id, &name, end, by),
        Input::Gone { agent, why } => turn.gone(&agent, &why),
        Input::Due { id, timer } => turn.due(&id, timer),
    }
    turn.out
}

/// Returns the effects that follow from a restored state alone: its timers.
pub fn wake(state: &State) -> Vec<Effect> {
    let mut effects = Vec::new();
    for request in state.requests.values() {
        let id = request.id.clone();
        match (request.settlement(), request.deadline) {
            // Kept for the notice that carries it.
            (Some(_), _) if request.notices > 0 => {}
            (Some(settlement), _) => {
                let at = settlement.at.after(state.policy.orphan_grace);
                effects.push(Effect::Arm { id, timer: Timer::Orphan, at });
            }
            (None, Some(at)) => effects.push(Effect::Arm { id, timer: Timer::Deadline, at }),
            (None, None) => {}
        }
    }
    effects
}

/// One call of [`step`] at work.
struct Turn<'a> {
    state: &'a mut State,
    now: Time,
    out: Step,
}

impl Turn<'_> {
    fn note(&mut self, id: &RequestId, source: &str, what: impl Into<String>, turn: Option<String>) {
        let evidence = Evidence { at: self.now, source: source.to_owned(), what: what.into(), turn };
        self.out.notes.push((id.clone(), evidence));
    }

    fn get(&self, id: &RequestId) -> Option<Request> {
        self.state.requests.get(id).cloned()
    }

    /// Takes `request` as it now is, for the commit and for the next input.
    fn put(&mut self, request: Request) {
        self.out.saves.retain(|saved| saved.id != request.id);
        self.out.saves.push(request.clone());
        self.state.requests.insert(request.id.clone(), request);
    }

    fn arm(&mut self, id: &RequestId, timer: Timer, at: Time) {
        self.out.effects.push(Effect::Arm { id: id.clone(), timer, at });
    }

    fn configure(&mut self, agents: Vec<(AgentName, String)>) {
        let keep: Vec<AgentName> = agents.iter().map(|(name, _)| name.clone()).collect();
        for (name, provider) in agents {
            self.state.agent_mut(&name).provider = provider;
        }
        let gone: Vec<AgentName> = self.state.agents.keys().filter(|name| !keep.contains(name)).cloned().collect();
        for name in gone {
            let Some(agent) = self.state.agents.remove(&name) else {
                continue;
            };
            for id in agent.current.into_iter().chain(agent.queue) {
                let message = format!("`{name}` is no longer one of the project's agents");
                if self.get(&id).is_some_and(|request| request.is_settled()) {
                    self.note(&id, "askd", format!("not followed any more: {message}"), None);
                }
                self.settle(&id, Outcome::Failed { reason: Failure::NoSuchAgent, message }, String::new(), None);
                if let Some(over) = self.get(&id).filter(Request::is_settled) {
                    // Nobody will tell when its agent is done with it.
                    self.put(Request { held: false, ..over });
                }
            }
        }
    }

    fn submit(&mut self, mut request: Request) {
        if let Some(known) = self.state.requests.get(&request.id) {
            let same = known.same_content(&request);
            self.out.verdict = if same { Verdict::Repeated } else { Verdict::Conflict };
            return;
        }
        if request.kind == Kind::Ask && request.id.is_notice() {
            // It would be taken for, or overwritten by, the notice of another request.
            self.out.verdict = Verdict::Conflict;
            return;
        }
        if !self.state.agents.contains_key(&request.agent) {
            self.out.verdict = Verdict::UnknownAgent;
            return;
        }
        if let Some(refusal) = self.refuses_retry(&request) {
            self.out.verdict = refusal;
            return;
        }
        if let Asker::Agent { name } = &request.asker {
            (request.parent, request.depth) = self.state.place(name);
        }
        if let Some(refusal) = self.state.refuses(&request, self.now) {
            self.out.verdict = refusal;
            return;
        }
        self.link(&request);
        self.enqueue(request);
        self.out.verdict = Verdict::Accepted;
    }

    /// Returns why a request may not be asked again, if it is to be and may not.
    fn refuses_retry(&self, request: &Request) -> Option<Verdict> {
        let of = request.retry_of.as_ref()?;
        let Some(original) = self.state.requests.get(of) else {
            return Some(Verdict::Nothing);
        };
        if original.carries().is_some() {
            return Some(Verdict::NoQuestion);
        }
        (!original.is_settled()).then(|| Verdict::NotOver(original.stage.word()))
    }

    /// Writes down at a request that is asked again by which it is.
    fn link(&mut self, retry: &Request) {
        let Some(mut original) = retry.retry_of.as_ref().and_then(|of| self.get(of)) else {
            return;
        };
        self.note(&original.id, "client", format!("asked again by {} as {}", retry.asker.word(), retry.id), None);
        original.retries.push(retry.id.clone());
        self.put(original);
    }

    /// Takes a delivery into its agent's queue.
    fn enqueue(&mut self, mut request: Request) {
        request.seq = self.state.next_seq;
        self.state.next_seq += 1;
        let id = request.id.clone();
        let name = request.agent.clone();
        let again = request.retry_of.as_ref().map_or(String::new(), |of| format!("; it asks {of} again"));
        self.note(&id, "client", format!("accepted from {}{again}", request.asker.word()), None);
        if let Some(at) = request.deadline {
            self.arm(&id, Timer::Deadline, at);
        }
        let agent = self.state.agent_mut(&name);
        agent.queue.push_back(id.clone());
        let why = waits_for(&agent.presence, agent.current.as_ref(), agent.queue.len());
        self.note(&id, "askd", format!("queued: {why}"), None);
        self.put(request);
        self.dispatch(&name);
    }

    /// Offers the next delivery, if the agent is free.
    fn dispatch(&mut self, name: &AgentName) {
        let blind = self.state.sabotaged(Sabotage::IgnoreBusy);
        loop {
            let Some(agent) = self.state.agents.get_mut(name) else {
                return;
            };
            if !blind && (agent.presence != Presence::Idle || agent.current.is_some()) {
                return;
            }
            let Some(id) = agent.queue.pop_front() else {
                return;
            };
            let Some(mut request) = self.get(&id).filter(|r| r.stage == Stage::Queued) else {
                continue;
            };
            if request.deadline.is_some_and(|at| at <= self.now) {
                self.settle(&id, Outcome::Incomplete { reason: Incomplete::Deadline }, String::new(), None);
                continue;
            }
            let carried = request.carries().and_then(|of| self.state.requests.get(of));
            if carried.is_some_and(needless) {
                self.withdraw(&id);
                continue;
            }
            self.state.agent_mut(name).current = Some(id.clone());
            request.attempts += 1;
            request.stage = Stage::Offering { at: self.now };
            self.note(&id, "askd", format!("offering to {name}, offer {}", request.attempts), None);
            // A hand-over of which nothing more is heard is looked into as well.
            self.arm(&id, Timer::Proof, self.now.after(self.state.policy.consume_grace.saturating_mul(2)));
            self.out.effects.push(Effect::Offer {
                agent: name.clone(),
                id: id.clone(),
                attempt: request.attempts,
                kind: request.kind.clone(),
                message: request.message.clone(),
                no_wrap: request.no_wrap,
            });
            self.put(request);
            return;
        }
    }

    fn cancel(&mut self, id: &RequestId, by: String) {
        let Some(mut request) = self.get(id) else {
            self.out.verdict = Verdict::Nothing;
            return;
        };
        match &request.stage {
            Stage::Queued => {
                self.note(id, "client", format!("cancelled by {by} before it was offered"), None);
                self.settle(id, Outcome::Cancelled { by }, String::new(), None);
            }
            Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. } => {
                let turn = request.turn().map(str::to_owned);
                self.note(id, "client", format!("{by} asks to cancel; interrupting the agent"), turn);
                request.cancel = Some(by);
                self.interrupt(&request);
                self.put(request);
            }
            Stage::Settled(settlement) => {
                // Its deadline may have passed while the agent is still at it.
                if self.is_current(&request) {
                    let turn = settlement.turn.clone();
                    self.note(id, "client", format!("{by} asks to stop the turn that still runs"), turn);
                    request.cancel = Some(by);
                    self.interrupt(&request);
                    self.put(request);
                } else {
                    self.out.verdict = Verdict::Nothing;
                }
            }
        }
    }

    fn waiter_gone(&mut self, id: &RequestId) {
        let left = self.state.waiting.get(id).copied().unwrap_or(0).saturating_sub(1);
        if left > 0 {
            self.state.waiting.insert(id.clone(), left);
            return;
        }
        self.state.waiting.remove(id);
        let undelivered = self.state.requests.get(id).is_some_and(|r| r.is_settled() && r.delivered.is_none());
        if undelivered {
            self.arm(id, Timer::Orphan, self.now.after(self.state.policy.orphan_grace));
        }
    }

    fn acknowledged(&mut self, id: &RequestId) {
        let Some(mut request) = self.get(id) else {
            return;
        };
        if request.is_settled() && request.delivered.is_none() {
            request.delivered = Some(self.now);
            self.note(id, "client", "delivered: printed and acknowledged", None);
            let notices: Vec<RequestId> = (1..=request.notices).map(|n| id.notice(n)).collect();
            self.put(request.clone());
            for notice in notices {
                let waits = self.state.requests.get(&notice).is_some_and(|notice| notice.stage == Stage::Queued);
                if waits && needless(&request) {
                    self.withdraw(&notice);
                }
            }
        }
    }

    /// Ends a notice that waits while its asker has got the reply by another way.
    fn withdraw(&mut self, notice: &RequestId) {
        let by = "askd: the asker has the reply".into();
        self.settle(notice, Outcome::Cancelled { by }, String::new(), None);
    }

    fn connected(&mut self, name: &AgentName) {
        for id in self.state.at_hand(name) {
            let Some(request) = self.get(&id) else { continue };
            self.reconcile(&request, false);
            if request.cancel.is_some() {
                // The interrupt may have been lost with the connection, or with the askd that sent it.
                self.interrupt(&request);
            }
        }
    }

    /// Asks the agent's own records about a delivery.
    fn reconcile(&mut self, request: &Request, last: bool) {
        self.out.effects.push(Effect::Reconcile {
            agent: request.agent.clone(),
            id: request.id.clone(),
            attempt: request.attempts,
            turn: request.turn().map(str::to_owned),
            handed: !matches!(request.stage, Stage::Offering { .. } | Stage::Offered { handed: false, .. }),
            last,
        });
    }

    /// Stops what the agent does about a cancelled request, or gives it up if that is not confirmed in time.
    fn interrupt(&mut self, request: &Request) {
        let (agent, id, turn) = (request.agent.clone(), request.id.clone(), request.turn().map(str::to_owned));
        self.out.effects.push(Effect::Interrupt { agent, id, turn });
        if !request.is_settled() {
            self.arm(&request.id, Timer::Cancel, self.now.after(self.state.policy.cancel_grace));
        }
    }

    fn presence(&mut self, name: &AgentName, presence: Presence) {
        let Some(agent) = self.state.agents.get_mut(name) else {
            return;
        };
        agent.presence = presence;
        self.dispatch(name);
    }

    fn handed_over(&mut self, id: &RequestId, attempt: u32, how: &str) {
        let Some(mut request) = self.get(id).filter(|r| r.attempts == attempt) else {
            return;
        };
        let due = self.now.after(self.state.policy.consume_grace);
        match request.stage {
            Stage::Offering { .. } => {
                request.stage = Stage::Offered { at: self.now, doubt: None, handed: true };
                if !self.state.sabotaged(Sabotage::MoveUnexplained) {
                    self.note(id, "askd", format!("offered: {how}"), None);
                }
                self.arm(id, Timer::Proof, due);
                self.put(request);
            }
            // Its deadline passed in mid-hand-over; the agent is not free before it is known what became of it.
            Stage::Settled(_) if self.is_current(&request) => self.arm(id, Timer::Proof, due),
            Stage::Queued | Stage::Offered { .. } | Stage::Working { .. } | Stage::Settled(_) => {}
        }
    }

    fn not_taken(&mut self, id: &RequestId, attempt: u32, proof: String) {
        let Some(request) = self.take_back(id, attempt, &format!("not taken: {proof}")) else {
            return;
        };
        if request.attempts >= self.state.policy.max_attempts {
            let outcome = Outcome::Failed { reason: Failure::NeverConsumed, message: proof };
            return self.settle_and_release(id, outcome, String::new(), None);
        }
        self.requeue(request);
    }

    fn not_handed_over(&mut self, id: &RequestId, attempt: u32, why: &str) {
        if let Some(request) = self.take_back(id, attempt, &format!("not handed over: {why}")) {
            self.requeue(request);
        }
    }

    /// Returns the request whose offer did not reach its agent, unless that ends it or is of no interest any more.
    fn take_back(&mut self, id: &RequestId, attempt: u32, proof: &str) -> Option<Request> {
        let request = self.get(id).filter(|r| r.attempts == attempt)?;
        match request.stage {
            Stage::Offering { .. } | Stage::Offered { .. } => {}
            Stage::Settled(_) => {
                self.release(id, proof);
                return None;
            }
            Stage::Queued | Stage::Working { .. } => return None,
        }
        self.note(id, "askd", proof, None);
        if let Some(by) = request.cancel.clone() {
            self.settle_and_release(id, Outcome::Cancelled { by }, String::new(), None);
            return None;
        }
        Some(request)
    }

    /// Puts a request whose offer did not reach its agent back to the head of the queue.
    fn requeue(&mut self, mut request: Request) {
        request.stage = Stage::Queued;
        let id = request.id.clone();
        let name = request.agent.clone();
        self.put(request);
        let agent = self.state.agent_mut(&name);
        agent.current = None;
        agent.queue.push_front(id);
        self.dispatch(&name);
    }

    fn doubt(&mut self, id: &RequestId, attempt: u32, why: String, last: bool) {
        let Some(mut request) = self.get(id).filter(|r| r.attempts == attempt) else {
            return;
        };
        match request.stage {
            Stage::Offering { .. } | Stage::Offered { .. } => {}
            Stage::Settled(_) if last => return self.release(id, &format!("unknown whether it was taken: {why}")),
            Stage::Settled(_) => {
                // Over, but the agent is not free before it is known what became of it.
                if self.is_current(&request) {
                    self.arm(id, Timer::Proof, self.now.after(self.state.policy.consume_grace));
                }
                return;
            }
            Stage::Queued | Stage::Working { .. } => return,
        }
        if self.state.sabotaged(Sabotage::OfferAgainWithoutProof) {
            return self.not_taken(id, attempt, why);
        }
        self.note(id, "askd", format!("unknown whether it was taken: {why}"), None);
        if last {
            let outcome = match request.cancel.clone() {
                Some(by) => Outcome::Cancelled { by },
                None => Outcome::Failed { reason: Failure::UnknownDelivery, message: why },
            };
            return self.settle_and_release(id, outcome, String::new(), None);
        }
        let handed = matches!(request.stage, Stage::Offered { handed: true, .. });
        request.stage = Stage::Offered { at: self.now, doubt: Some(why), handed };
        self.arm(id, Timer::Proof, self.now.after(self.state.policy.consume_grace));
        self.put(request);
    }

    fn consumed(&mut self, id: &RequestId, name: String, source: &str, mixed: bool) {
        let Some(mut request) = self.get(id) else {
            return;
        };
        match &mut request.stage {
            Stage::Offering { .. } | Stage::Offered { .. } | Stage::Queued if request.attempts > 0 => {
                // Queued again on a proof that was wrong: the agent's own record is the truth.
                let agent = self.state.agent_mut(&request.agent);
                agent.queue.retain(|queued| queued != id);
                if agent.current.is_none() {
                    agent.current = Some(id.clone());
                }
                self.note(
                    id,
                    source,
                    if mixed { "consumed, in a turn that holds other input too" } else { "consumed" },
                    Some(name.clone()),
                );
                request.stage = Stage::Working { at: self.now, turn: name, mixed };
                if request.cancel.is_some() {
                    // There was no turn to interrupt when it was asked for.
                    self.interrupt(&request);
                }
                self.put(request);
            }
            Stage::Working { turn, mixed: known, .. } if mixed && !*known && *turn == name => {
                *known = true;
                self.note(id, source, "other input was seen in the turn", Some(name));
                self.put(request);
            }
            Stage::Settled(settlement) if settlement.turn.is_none() => {
                settlement.turn = Some(name.clone());
                settlement.mixed = mixed;
                self.note(id, source, "consumed, after it had been settled", Some(name));
                if request.cancel.is_some() {
                    self.interrupt(&request);
                }
                let carried = request.carries().cloned();
                self.put(request);
                if let Some(of) = carried {
                    self.carried(&of, id);
                }
            }
            Stage::Settled(settlement)
                if mixed
                    && !settlement.mixed
                    && settlement.late.is_none()
                    && settlement.turn.as_ref() == Some(&name) =>
            {
                settlement.mixed = true;
                self.note(id, source, "other input was seen in the turn", Some(name));
                self.put(request);
            }
            Stage::Queued
            | Stage::Offering { .. }
            | Stage::Offered { .. }
            | Stage::Working { .. }
            | Stage::Settled(_) => {}
        }
    }

    fn turn_ended(&mut self, id: &RequestId, name: &str, end: TurnEnd, by: EndedBy) {
        let Some(request) = self.get(id) else { return };
        let any = self.state.sabotaged(Sabotage::AnyTurnEnds);
        if request.turn().is_none() && request.attempts > 0 && !any {
            // The end came before the beginning, which alone can bind the turn: the records have both.
            return self.reconcile(&request, false);
        }
        if request.turn() != Some(name) && !any {
            return;
        }
        match &request.stage {
            Stage::Working { mixed, .. } => {
                let mixed = *mixed;
                self.note(id, "agent", format!("turn ended (by {})", by.word()), Some(name.to_owned()));
                let (outcome, reply) = conclude(end, request.cancel.as_deref(), mixed, &request.kind);
                self.settle_and_release(id, outcome, reply, Some(by));
            }
            Stage::Settled(settlement) => {
                if let TurnEnd::Completed { reply } = end
                    && takes_late(settlement, &reply)
                {
                    self.late(request.clone(), reply, by);
                }
                self.release(id, "its turn has ended");
            }
            Stage::Queued | Stage::Offering { .. } | Stage::Offered { .. } => {}
        }
    }

    /// Attaches an answer that came after the settlement, and announces it.
    fn late(&mut self, mut request: Request, reply: String, by: EndedBy) {
        if self.state.sabotaged(Sabotage::DropLate) {
            return;
        }
        let Stage::Settled(settlement) = &mut request.stage else {
            return;
        };
        settlement.late = Some(Late { at: self.now, reply, ended_by: by });
        let turn = settlement.turn.clone();
        self.note(&request.id, "agent", format!("the answer came late (by {})", by.word()), turn);
        let id = request.id.clone();
        self.put(request);
        self.notify(&id);
    }

    fn gone(&mut self, name: &AgentName, why: &str) {
        let Some(agent) = self.state.agents.get_mut(name) else {
            return;
        };
        agent.presence = Presence::Absent { why: why.to_owned() };
        for id in self.state.at_hand(name) {
            let Some(request) = self.get(&id) else { continue };
            let outcome = match (&request.stage, &request.cancel) {
                (_, Some(by)) => Outcome::Cancelled { by: by.clone() },
                (Stage::Offering { .. } | Stage::Offered { .. }, None) => Outcome::Failed {
                    reason: Failure::UnknownDelivery,
                    message: format!("the agent ended before it showed that it had taken the request: {why}"),
                },
                (Stage::Queued | Stage::Working { .. } | Stage::Settled(_), None) => {
                    Outcome::Failed { reason: Failure::AgentGone, message: why.to_owned() }
                }
            };
            let why = format!("the agent is gone: {why}");
            if request.is_settled() {
                self.release(&id, &why);
            } else {
                self.note(&id, "pane", why, None);
                self.settle_and_release(&id, outcome, String::new(), None);
            }
        }
    }

    fn due(&mut self, id: &RequestId, timer: Timer) {
        let Some(request) = self.get(id) else { return };
        match (timer, &request.stage) {
            (Timer::Deadline, Stage::Queued) => {
                if self.state.sabotaged(Sabotage::ForgetQueued) {
                    self.state.requests.remove(id);
                    return;
                }
                self.note(id, "askd", "the deadline passed while it was queued; it is not sent", None);
                self.settle(id, Outcome::Incomplete { reason: Incomplete::Deadline }, String::new(), None);
            }
            (Timer::Deadline, Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. }) => {
                self.note(id, "askd", "the deadline passed; a later answer is still accepted", None);
                self.settle(id, Outcome::Incomplete { reason: Incomplete::Deadline }, String::new(), None);
            }
            (Timer::Proof, Stage::Offering { at } | Stage::Offered { at, .. }) => {
                // A timer of an earlier offer, or of a time before the last look, says nothing of this one.
                if self.now >= at.after(self.state.policy.consume_grace) {
                    self.ask_for_proof(&request);
                }
            }
            (Timer::Cancel, Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. }) => {
                let Some(by) = request.cancel.clone() else {
                    return;
                };
                self.note(id, "askd", "the agent did not confirm the interrupt in time", None);
                self.settle(id, Outcome::Cancelled { by }, String::new(), None);
            }
            (Timer::Orphan, Stage::Settled(_)) => {
                let waited_for = self.state.waiting.get(id).is_some_and(|n| *n > 0);
                if request.delivered.is_none() && !waited_for && request.notices == 0 && request.kept.is_none() {
                    self.notify(id);
                }
            }
            (Timer::Proof, Stage::Settled(settlement)) => {
                if self.is_current(&request) && settlement.turn.is_none() {
                    self.ask_for_proof(&request);
                }
            }
            (Timer::Deadline | Timer::Cancel, Stage::Settled(_))
            | (Timer::Proof | Timer::Cancel, Stage::Queued)
            | (Timer::Proof, Stage::Working { .. })
            | (Timer::Orphan, Stage::Queued | Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. }) =>
                {}
        }
    }

    /// Whether the agent is not done with this delivery yet.
    fn is_current(&self, request: &Request) -> bool {
        self.state.agents.get(&request.agent).is_some_and(|agent| agent.current.as_ref() == Some(&request.id))
    }

    /// The offer should have shown by now: look once more, and for the last time if the agent can be seen at all.
    fn ask_for_proof(&mut self, request: &Request) {
        let seen = self.state.agents.get(&request.agent).map(|agent| &agent.presence);
        match seen {
            Some(Presence::Idle | Presence::Busy { .. } | Presence::Waiting { .. }) => {
                // What is perhaps still being handed over gets another time.
                let last = !matches!(request.stage, Stage::Offering { .. });
                self.reconcile(request, last);
            }
            Some(Presence::Absent { .. } | Presence::Starting { .. }) | None => {
                self.arm(&request.id, Timer::Proof, self.now.after(self.state.policy.consume_grace));
            }
        }
    }

    fn settle_and_release(&mut self, id: &RequestId, outcome: Outcome, reply: String, by: Option<EndedBy>) {
        let Some(request) = self.get(id) else { return };
        self.settle(id, outcome, reply, by);
        self.free(&request);
    }

    /// Ends the request. The agent keeps it as its current delivery until its turn is known to be over.
    fn settle(&mut self, id: &RequestId, outcome: Outcome, reply: String, ended_by: Option<EndedBy>) {
        let Some(mut request) = self.get(id).filter(|r| !r.is_settled()) else {
            return;
        };
        if request.stage == Stage::Queued
            && let Some(agent) = self.state.agents.get_mut(&request.agent)
        {
            agent.queue.retain(|queued| queued != id);
        }
        let turn = request.turn().map(str::to_owned);
        let mixed = matches!(request.stage, Stage::Working { mixed: true, .. });
        request.held = request.stage != Stage::Queued;
        self.note(id, "askd", format!("settled: {} ({})", outcome.word(), outcome.sentence()), turn.clone());
        request.stage = Stage::Settled(Settlement { at: self.now, outcome, reply, ended_by, turn, mixed, late: None });
        let waited_for = self.state.waiting.get(id).is_some_and(|n| *n > 0);
        let waits = request.waits;
        let carried = request.carries().cloned();
        self.put(request);
        if let Some(of) = carried {
            return self.carried(&of, id);
        }
        if waits && !waited_for {
            // The asker said that it waits; it may be on its way back to us.
            self.arm(id, Timer::Orphan, self.now.after(self.state.policy.orphan_grace));
        } else if !waited_for {
            self.notify(id);
        }
    }

    /// A notice is over: if it was consumed, the reply that it carried has been delivered.
    fn carried(&mut self, of: &RequestId, notice: &RequestId) {
        let consumed = self.get(notice).is_some_and(|n| n.turn().is_some());
        let Some(mut request) = self.get(of).filter(|r| consumed && r.delivered.is_none()) else {
            return;
        };
        request.delivered = Some(self.now);
        self.note(of, "askd", format!("delivered: {} has consumed notice {notice}", request.asker.word()), None);
        self.put(request);
    }

    /// Makes the notice that carries the reply to an asking agent.
    fn notify(&mut self, id: &RequestId) {
        let Some(mut request) = self.get(id) else {
            return;
        };
        let (Asker::Agent { name }, Kind::Ask) = (request.asker.clone(), &request.kind) else {
            return;
        };
        let here = self.state.agents.contains_key(&name);
        if !here || !self.state.policy.notices {
            let why =
                if here { "notices are off".into() } else { format!("`{name}` is not one of the agents any more") };
            self.note(id, "askd", format!("its reply is kept for `ccb pend {id}`: {why}"), None);
            request.kept = Some(self.now);
            return self.put(request);
        }
        if self.state.sabotaged(Sabotage::KeepSilent) {
            return;
        }
        let Some(settlement) = request.settlement() else {
            return;
        };
        let provider =
            self.state.agents.get(&request.agent).map_or_else(|| request.agent.to_string(), |a| a.provider.clone());
        let (outcome, reply) = match &settlement.late {
            Some(late) if settlement.mixed => (Outcome::Incomplete { reason: Incomplete::Mixed }, late.reply.as_str()),
            Some(late) => (Outcome::Completed, late.reply.as_str()),
            None => (settlement.outcome.clone(), settlement.reply.as_str()),
        };
        let notice_id = id.notice(request.notices + 1);
        let message = prompt::notice(&notice_id, id, &provider, &outcome, reply);
        request.notices += 1;
        self.note(id, "askd", format!("its reply goes to {name} as notice {notice_id}"), None);
        self.put(request.clone());
        self.enqueue(Request {
            kind: Kind::Notice { of: id.clone() },
            no_wrap: true,
            parent: request.parent,
            depth: request.depth,
            ..Request::new(notice_id, name, message, self.now)
        });
    }

    /// The agent is done with a delivery that had been settled before.
    fn release(&mut self, id: &RequestId, because: &str) {
        let Some(request) = self.get(id).filter(|request| self.is_current(request)) else {
            return;
        };
        self.note(id, "askd", format!("the agent is done with it: {because}"), request.turn().map(str::to_owned));
        // Saved although it has not changed: what is committed is forgotten.
        self.put(request.clone());
        self.free(&request);
    }

    /// The agent can take the next delivery.
    fn free(&mut self, request: &Request) {
        if let Some(mut held) = self.get(&request.id).filter(|request| request.held) {
            held.held = false;
            self.put(held);
        }
        if self.is_current(request) {
            self.state.agent_mut(&request.agent).current = None;
            self.dispatch(&request.agent);
        }
    }
}

/// Whether a notice of it would say what the asker has acknowledged. One that announces a late answer says more.
fn needless(request: &Request) -> bool {
    request.delivered.is_some() && request.settlement().is_some_and(|settlement| settlement.late.is_none())
}

/// Whether a whole answer that comes after the settlement is news. Of a turn that is known to have ended with an
/// answer, ours or mixed, it is the same once more.
fn takes_late(settlement: &Settlement, reply: &str) -> bool {
    let answered = match &settlement.outcome {
        Outcome::Completed | Outcome::Incomplete { reason: Incomplete::Mixed } => true,
        Outcome::Incomplete { .. } | Outcome::Failed { .. } | Outcome::Cancelled { .. } => false,
    };
    !answered && settlement.late.is_none() && !reply.trim().is_empty()
}

/// Returns what a turn's end means for the request that was bound to it.
fn conclude(end: TurnEnd, cancel: Option<&str>, mixed: bool, kind: &Kind) -> (Outcome, String) {
    if let Kind::Notice { .. } = kind {
        // A notice is delivered once it was consumed; how the agent went on is its own affair.
        return (Outcome::Completed, String::new());
    }
    match (end, cancel) {
        (TurnEnd::Completed { reply }, _) if reply.trim().is_empty() => {
            (Outcome::Incomplete { reason: Incomplete::Empty }, String::new())
        }
        (TurnEnd::Completed { reply }, _) if mixed => (Outcome::Incomplete { reason: Incomplete::Mixed }, reply),
        (TurnEnd::Completed { reply }, _) => (Outcome::Completed, reply),
        (TurnEnd::Interrupted { partial } | TurnEnd::Failed { partial, .. } | TurnEnd::Quiet { partial }, Some(by)) => {
            (Outcome::Cancelled { by: by.to_owned() }, partial)
        }
        (TurnEnd::Interrupted { partial }, None) => (Outcome::Incomplete { reason: Incomplete::Interrupted }, partial),
        (TurnEnd::Failed { reason, message, partial }, None) => (Outcome::Failed { reason, message }, partial),
        (TurnEnd::Quiet { partial }, None) => (Outcome::Incomplete { reason: Incomplete::Quiet }, partial),
    }
}

/// Returns what a delivery in the queue waits for, in the words that users see.
pub fn waits_for(presence: &Presence, current: Option<&RequestId>, length: usize) -> String {
    let ahead = length.saturating_sub(1);
    let behind = if ahead > 0 { format!("{ahead} ahead in the queue; ") } else { String::new() };
    match (current, presence) {
        (Some(id), _) => format!("{behind}the agent is at {id}"),
        (None, Presence::Idle) => format!("{behind}the agent is idle"),
        (None, other) => format!("{behind}the agent is {}: {}", other.word(), other.why()),
    }
}
