//! The engine's thread: it owns the state and the store, and for each batch of inputs it commits, acts, tells.
//!
//! It never awaits and never waits for the world. When a commit fails, the batch has not happened: its
//! callers are refused, and the state is read back from the store; once the disk takes commits again, the
//! agents are asked anew. A worker that has lost its ground accepts and offers nothing more; what its agents tell
//! until it has gone is still kept, and goes over to its successor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ccb_core::id::{AgentName, RequestId};
use ccb_core::request::{Evidence, Kind, Request};
use ccb_core::state::{Policy, Presence, State};
use ccb_core::step::{self, Effect, Input, Verdict};
use ccb_core::time::Time;
use ccb_core::wire::{Code, Refusal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::lock::Ground;
use crate::store::Store;

/// The most inputs that one commit takes together.
const BATCH: u64 = 256;

/// How soon a disk that took no commit is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How long a database may refuse commits before a successor is to try, if it is not for want of space.
const PERSISTS: Duration = Duration::from_secs(5);

/// Who waits for what becomes of one input, and looks on once it is committed.
type Waiter = Box<dyn FnOnce(Result<(Verdict, View<'_>), Refusal>) + Send>;

/// A look at the engine between two commits.
pub(crate) struct View<'a> {
    /// The state.
    pub(crate) state: &'a State,
    /// The store.
    pub(crate) store: &'a mut Store,
    /// Now.
    pub(crate) now: Time,
}

enum Message {
    Input(Input, Option<Waiter>),
    Look(Box<dyn FnOnce(View<'_>) + Send>),
    Follow(RequestId, UnboundedSender<Request>),
    Stop(oneshot::Sender<Rest>),
}

/// What an engine that has stopped leaves.
pub(crate) struct Rest {
    /// The store.
    pub(crate) store: Store,
    /// The requests that were in memory, each as it was last committed.
    pub(crate) requests: Vec<Request>,
}

/// A handle to the engine. Everything sent to it is handled in the order of sending.
#[derive(Clone)]
pub(crate) struct Engine {
    inbox: mpsc::Sender<Message>,
    /// How many messages were sent and how many are done with: equal while the engine has nothing to do.
    sent: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    trouble: Trouble,
    commit: Arc<CommitMark>,
    clock: Clock,
}

/// Whether the engine is inside a commit, and since when: a disk that stalls is told from an engine that hangs.
#[derive(Default)]
struct CommitMark {
    /// The moment at which it began; 0 outside.
    since: AtomicI64,
}

/// Takes the mark back when the commit is over, however it ended.
struct InCommit(Arc<CommitMark>);

impl CommitMark {
    fn enter(self: &Arc<Self>, now: Time) -> InCommit {
        self.since.store(now.0.max(1), Ordering::SeqCst);
        InCommit(self.clone())
    }
}

impl Drop for InCommit {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::SeqCst);
    }
}

/// Why the disk takes no commits, while it takes none.
type Trouble = Arc<Mutex<Option<String>>>;

/// Where the engine's effects and news go, after the commit.
pub(crate) struct Outlets {
    /// What transports and timers are to do.
    pub(crate) effects: UnboundedSender<Effect>,
    /// Requests that have just changed.
    pub(crate) news: UnboundedSender<Request>,
    /// What agents are doing, whenever that has changed.
    pub(crate) presences: UnboundedSender<(AgentName, Presence)>,
    /// Why this worker is to give way, once it is.
    pub(crate) leave: UnboundedSender<String>,
}

impl Engine {
    /// Restores the state from `store` and starts the thread.
    pub(crate) fn start(
        store: Store,
        ground: Arc<Ground>,
        policy: Policy,
        clock: Clock,
        outlets: Outlets,
    ) -> anyhow::Result<Self> {
        let (inbox, outbox) = mpsc::channel();
        let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let trouble = Trouble::default();
        let commit = Arc::new(CommitMark::default());
        let state = restore(&store, policy, clock.now())?;
        let work = Work {
            state,
            store,
            ground,
            leaving: false,
            broken: None,
            failing: None,
            clock,
            outlets,
            followers: BTreeMap::new(),
            told: BTreeMap::new(),
            done: done.clone(),
            trouble: trouble.clone(),
            unsure: BTreeSet::new(),
            commit: commit.clone(),
            stale: false,
            tried: Instant::now(),
            well: true,
        };
        for effect in step::wake(&work.state) {
            work.outlets.effects.send(effect).ok();
        }
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || work.run(&outbox))
            .context("cannot start the engine's thread")?;
        Ok(Self { inbox, sent, done, trouble, commit, clock })
    }

    fn send(&self, message: Message) {
        self.sent.fetch_add(1, Ordering::SeqCst);
        self.inbox.send(message).ok();
    }

    /// Returns once the engine has shown that it lives: at once while it has nothing to do, since an empty inbox
    /// cannot hold it up; else when it has come to this question.
    pub(crate) async fn alive(&self) -> Result<(), Refusal> {
        if self.sent.load(Ordering::SeqCst) == self.done.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.look(|_| ()).await
    }

    /// Returns for how long, in milliseconds, the engine has been inside the commit that it is in now, if it is in one.
    pub(crate) fn stalled(&self) -> Option<u64> {
        let since = self.commit.since.load(Ordering::SeqCst);
        (since != 0).then(|| u64::try_from(self.clock.now().since(Time(since))).unwrap_or(0))
    }

    /// Hands an input in; nobody waits for it.
    pub(crate) fn tell(&self, input: Input) {
        self.send(Message::Input(input, None));
    }

    /// Hands an input in and waits until it is committed.
    pub(crate) async fn submit(&self, input: Input) -> Result<Verdict, Refusal> {
        self.submit_and_look(input, |verdict, _| verdict).await
    }

    /// Hands an input in, waits until it is committed, and looks at what it has brought about, all in one.
    pub(crate) async fn submit_and_look<T: Send + 'static>(
        &self,
        input: Input,
        look: impl FnOnce(Verdict, View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tx, answer) = oneshot::channel();
        let waiter: Waiter = Box::new(move |done| {
            tx.send(done.map(|(verdict, view)| look(verdict, view))).ok();
        });
        self.send(Message::Input(input, Some(waiter)));
        match answer.await {
            Ok(answer) => answer,
            Err(_) => gone().await,
        }
    }

    /// Looks at state and store.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tx, answer) = oneshot::channel();
        let look = Box::new(move |view: View<'_>| drop(tx.send(look(view))));
        self.send(Message::Look(look));
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => gone().await,
        }
    }

    /// Sends the request as it is now (if it exists) and each time it changes.
    pub(crate) fn follow(&self, id: RequestId, to: UnboundedSender<Request>) {
        self.send(Message::Follow(id, to));
    }

    /// Returns why the disk takes no commits, while it takes none.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops after all that was handed in before, and returns what is left.
    pub(crate) async fn stop(&self) -> Option<Rest> {
        let (tx, stopped) = oneshot::channel();
        self.send(Message::Stop(tx));
        stopped.await.ok()
    }
}

/// The engine has gone, or goes: this process is about to end, and so are its connections. To answer would be to say
/// what is not known; a caller that has lost its connection repeats its call at the successor.
async fn gone<T>() -> T {
    std::future::pending().await
}

fn restore(store: &Store, policy: Policy, now: Time) -> anyhow::Result<State> {
    let (seq, _) = store.horizon()?;
    let mut state = State::restore(store.open_requests()?, seq + 1, policy, now);
    for id in state.lacks() {
        state.requests.extend(store.request(&id)?.map(|request| (id, request)));
    }
    Ok(state)
}

struct Work {
    state: State,
    store: Store,
    ground: Arc<Ground>,
    /// Whether the ground is lost.
    leaving: bool,
    /// Why the store is of no use to this worker any more, though it is not damaged.
    broken: Option<String>,
    /// Since when no commit has succeeded, while none does.
    failing: Option<Instant>,
    clock: Clock,
    outlets: Outlets,
    followers: BTreeMap<RequestId, Vec<UnboundedSender<Request>>>,
    /// What each agent was last said to be doing.
    told: BTreeMap<AgentName, Presence>,
    done: Arc<AtomicU64>,
    trouble: Trouble,
    /// The requests that a commit was about which found the database damaged.
    unsure: BTreeSet<RequestId>,
    commit: Arc<CommitMark>,
    /// Whether something was seen that could not be kept.
    stale: bool,
    /// When the disk was last tried again.
    tried: Instant,
    /// Whether the last batch was kept.
    well: bool,
}

/// What a batch has brought about, before its commit.
#[derive(Default)]
struct Batch {
    saves: BTreeMap<RequestId, Request>,
    notes: Vec<(RequestId, Evidence)>,
    effects: Vec<Effect>,
    answers: Vec<(Waiter, Verdict)>,
    /// The agents of which inputs said what they are doing.
    seen: BTreeSet<AgentName>,
    /// The requests that inputs spoke of: none of them stays in memory only because somebody asked.
    touched: Vec<RequestId>,
}

impl Work {
    fn run(mut self, outbox: &mpsc::Receiver<Message>) {
        loop {
            if self.stale && self.tried.elapsed() >= TRY_AGAIN {
                self.tried = Instant::now();
                self.catch_up();
                continue;
            }
            // However much is asked meanwhile, the disk is tried again in time.
            let first = if self.stale {
                outbox.recv_timeout(TRY_AGAIN.saturating_sub(self.tried.elapsed()))
            } else {
                outbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            };
            let first = match first {
                Ok(first) => first,
                Err(mpsc::RecvTimeoutError::Timeout) => continue,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            self.look_down();
            let mut batch = Batch::default();
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(message) = next {
                match message {
                    Message::Input(input, waiter) => self.take(&mut batch, input, waiter),
                    Message::Look(look) => {
                        self.finish(std::mem::take(&mut batch));
                        // All that can hold up a look is the store.
                        let _looking = self.commit.enter(self.clock.now());
                        look(View { state: &self.state, store: &mut self.store, now: self.clock.now() });
                    }
                    Message::Follow(id, to) => {
                        self.finish(std::mem::take(&mut batch));
                        self.follow(id, to);
                    }
                    Message::Stop(stopped) => {
                        self.finish(std::mem::take(&mut batch));
                        let Self { store, state, unsure, .. } = self;
                        let requests = state.requests.into_values().filter(|r| !unsure.contains(&r.id)).collect();
                        stopped.send(Rest { store, requests }).ok();
                        return;
                    }
                }
                taken += 1;
                next = if taken < BATCH { outbox.try_recv().ok() } else { None };
            }
            self.well = false;
            self.finish(batch);
            if self.stale && self.well {
                self.catch_up();
            }
            self.done.fetch_add(taken, Ordering::SeqCst);
        }
    }

    /// Looks whether the ground is lost. From then on no agent counts as free, so nothing is offered.
    fn look_down(&mut self) {
        if self.leaving {
            return;
        }
        let Some(what) = self.lost() else { return };
        self.leaving = true;
        for agent in self.state.agents.values_mut() {
            agent.presence = Presence::Starting { why: "askd is being replaced".into() };
        }
        self.outlets.leave.send(format!("{what}; the next worker takes over")).ok();
    }

    fn lost(&self) -> Option<String> {
        let damaged = self.store.damage().map(|damage| format!("its database is damaged ({damage})"));
        damaged.or_else(|| self.broken.clone()).or_else(|| self.ground.lost().map(str::to_owned))
    }

    /// Returns whether the store is of no use any more: then the memory may not be what is on the disk.
    fn is_cut_off(&self) -> bool {
        self.store.damage().is_some() || self.broken.is_some()
    }

    fn take(&mut self, batch: &mut Batch, input: Input, waiter: Option<Waiter>) {
        if self.leaving && (self.is_cut_off() || !is_told_by_agents(&input)) {
            // Nobody is told anything of it: it is repeated at the successor, or derived there anew.
            return;
        }
        let subjects: Vec<RequestId> = input.request().into_iter().chain(input.repeats()).cloned().collect();
        if let Err(error) = subjects.iter().try_for_each(|id| self.load(id)) {
            if self.store.damage().is_none() {
                refuse(waiter, &error);
            }
            return;
        }
        batch.touched.extend(subjects);
        if let Input::Presence { agent, .. } | Input::Gone { agent, .. } = &input {
            batch.seen.insert(agent.clone());
        }
        let done = step::step(&mut self.state, input, self.clock.now());
        batch.saves.extend(done.saves.into_iter().map(|request| (request.id.clone(), request)));
        batch.notes.extend(done.notes);
        batch.effects.extend(done.effects);
        batch.answers.extend(waiter.map(|waiter| (waiter, done.verdict)));
    }

    /// Brings a settled request back into the state: a late truth, or a repeated call, speaks of it.
    fn load(&mut self, id: &RequestId) -> anyhow::Result<()> {
        if self.state.requests.contains_key(id) {
            return Ok(());
        }
        let Some(request) = self.store.request(id)? else { return Ok(()) };
        let of = match &request.kind {
            Kind::Notice { of } => Some(of.clone()),
            Kind::Ask => None,
        };
        self.state.requests.insert(id.clone(), request);
        of.map_or(Ok(()), |of| self.load(&of))
    }

    fn finish(&mut self, batch: Batch) {
        let saves: Vec<Request> = batch.saves.into_values().collect();
        if !saves.is_empty() || !batch.notes.is_empty() {
            crate::failpoint::hit_blocking("engine.before-commit");
            if !self.leaving {
                self.look_down();
                if self.leaving {
                    // Accepted into a database that nobody finds again, it would be lost.
                    return self.drop_batch(&saves);
                }
            }
            let committing = self.commit.enter(self.clock.now());
            crate::failpoint::hit_blocking("store.commit");
            let committed = self.store.commit(&saves, &batch.notes);
            drop(committing);
            if let Err(error) = committed {
                if self.store.damage().is_some() {
                    self.look_down();
                    return self.drop_batch(&saves);
                }
                self.commit_failed(&error, batch.answers, &saves);
                return;
            }
            crate::failpoint::hit_blocking("engine.committed");
            self.well = true;
        }
        for effect in batch.effects {
            self.outlets.effects.send(effect).ok();
        }
        for (waiter, verdict) in batch.answers {
            waiter(Ok((verdict, View { state: &self.state, store: &mut self.store, now: self.clock.now() })));
        }
        let agents: Vec<AgentName> = batch.seen.into_iter().filter(|agent| self.is_news(agent)).collect();
        if !agents.is_empty() {
            self.retell(&agents, &saves);
        }
        for request in saves {
            self.publish(&request);
            self.state.forget_settled(&request.id);
        }
        for id in batch.touched {
            self.state.forget_settled(&id);
        }
    }

    /// Tells what an agent is doing, if that has changed; whether it has.
    fn is_news(&mut self, name: &AgentName) -> bool {
        let Some(agent) = self.state.agents.get(name) else { return false };
        if self.told.get(name) == Some(&agent.presence) {
            return false;
        }
        self.told.insert(name.clone(), agent.presence.clone());
        self.outlets.presences.send((name.clone(), agent.presence.clone())).ok();
        true
    }

    /// Tells those who wait for requests of these agents once more where those stand: they may now wait for a human.
    /// What is in `saves` is told anyway.
    fn retell(&mut self, agents: &[AgentName], saves: &[Request]) {
        let Self { state, followers, .. } = self;
        followers.retain(|id, followers| {
            let request = state.requests.get(id).filter(|request| agents.contains(&request.agent));
            let request = request.filter(|request| !request.is_settled() && saves.iter().all(|saved| saved.id != *id));
            if let Some(request) = request {
                followers.retain(|follower| follower.send(request.clone()).is_ok());
            }
            !followers.is_empty()
        });
    }

    fn publish(&mut self, request: &Request) {
        if let Some(followers) = self.followers.get_mut(&request.id) {
            followers.retain(|follower| follower.send(request.clone()).is_ok());
            if followers.is_empty() || request.is_settled() {
                self.followers.remove(&request.id);
            }
        }
        self.outlets.news.send(request.clone()).ok();
    }

    fn follow(&mut self, id: RequestId, to: UnboundedSender<Request>) {
        let known = self.state.requests.get(&id).cloned().or_else(|| self.store.request(&id).ok().flatten());
        let Some(request) = known else { return };
        let settled = request.is_settled();
        if to.send(request).is_ok() && !settled {
            self.followers.entry(id).or_default().push(to);
        }
    }

    /// Commits have failed, and what was seen meanwhile is lost: once the disk takes something again, the agents are
    /// asked anew where their deliveries stand, and the timers are set anew.
    fn catch_up(&mut self) {
        self.look_down();
        if self.leaving {
            return;
        }
        let committing = self.commit.enter(self.clock.now());
        let kept = self.store.set_meta("disk", &self.clock.now().0.to_string());
        drop(committing);
        if let Err(error) = kept {
            return self.give_up(&error);
        }
        self.stale = false;
        self.failing = None;
        log("the disk takes commits again");
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut batch = Batch { effects: step::wake(&self.state), ..Batch::default() };
        for (agent, presence) in
            self.state.agents.values().map(|a| (a.name.clone(), a.presence.clone())).collect::<Vec<_>>()
        {
            self.take(&mut batch, Input::Connected { agent: agent.clone() }, None);
            // What could not be offered meanwhile is offered to whoever is free.
            self.take(&mut batch, Input::Presence { agent, presence }, None);
        }
        self.finish(batch);
    }

    /// Gives way once a database has long refused to be written that its successor could open anew and write.
    fn give_up(&mut self, error: &anyhow::Error) {
        let long = self.failing.get_or_insert_with(Instant::now).elapsed() >= PERSISTS;
        if long && self.store.is_broken(error) {
            self.broken = Some(format!("its database takes nothing any more ({error:#}) and can be opened anew"));
        }
        self.look_down();
    }

    /// Gives a batch up whose commit is not even tried, or has shown that the database is damaged. Nobody is told
    /// anything: this worker ends, and what was asked of it is asked again of the next one.
    fn drop_batch(&mut self, saves: &[Request]) {
        if self.store.damage().is_some() {
            // It cannot be read back; what was not in the batch is in memory as it was committed.
            self.unsure.extend(saves.iter().map(|request| request.id.clone()));
        } else {
            self.go_back(saves);
        }
    }

    /// Nothing of the batch has happened: what it changed in memory is read back from the store.
    fn commit_failed(&mut self, error: &anyhow::Error, answers: Vec<(Waiter, Verdict)>, saves: &[Request]) {
        if !self.stale {
            log(&format!("a commit failed, nothing of it was done: {error:#}"));
        }
        let trouble = format!("the disk takes nothing ({error:#}): nothing is accepted or offered until it does again");
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
        if !self.stale {
            self.stale = true;
            self.tried = Instant::now();
        }
        self.failing.get_or_insert_with(Instant::now);
        self.go_back(saves);
        if self.broken.is_some() {
            // A successor may find a part of it on the disk: it is asked again there, and nobody is told anything here.
            return;
        }
        for (waiter, _) in answers {
            refuse(Some(waiter), error);
        }
    }

    /// Makes the state what the store says. A memory that is ahead of the disk must not answer anybody: start-up is
    /// recovery. A store that cannot even be read is left to the next worker, which opens it anew.
    fn go_back(&mut self, saves: &[Request]) {
        let restored = if crate::failpoint::fails("engine.read-back") {
            Err(anyhow::anyhow!("as CCB_FAILPOINT demands"))
        } else {
            restore(&self.store, self.state.policy.clone(), self.state.since)
        };
        let mut state = match restored {
            Ok(state) => state,
            Err(error) => {
                log(&format!("the store cannot be read back: {error:#}"));
                // What is ahead of the disk must not be seen by anybody.
                for request in saves {
                    self.state.requests.remove(&request.id);
                    self.unsure.insert(request.id.clone());
                }
                self.broken.get_or_insert_with(|| format!("its database cannot be read back ({error:#})"));
                return self.look_down();
            }
        };
        for (name, agent) in &self.state.agents {
            let kept = state.agents.entry(name.clone()).or_insert_with(|| ccb_core::state::Agent {
                current: None,
                queue: std::collections::VecDeque::new(),
                ..agent.clone()
            });
            kept.provider.clone_from(&agent.provider);
            kept.presence = agent.presence.clone();
        }
        state.waiting = std::mem::take(&mut self.state.waiting);
        self.state = state;
    }
}

/// Returns whether an input is what an agent did with a delivery: true whoever hears it, and worth keeping.
fn is_told_by_agents(input: &Input) -> bool {
    match input {
        Input::HandedOver { .. }
        | Input::NotTaken { .. }
        | Input::NotHandedOver { .. }
        | Input::Consumed { .. }
        | Input::TurnEnded { .. } => true,
        Input::Configure(_)
        | Input::Submit(_)
        | Input::Cancel { .. }
        | Input::Waits { .. }
        | Input::WaiterGone { .. }
        | Input::Acknowledged { .. }
        | Input::Connected { .. }
        | Input::Presence { .. }
        | Input::Doubt { .. }
        | Input::Gone { .. }
        | Input::Due { .. } => false,
    }
}

fn refuse(waiter: Option<Waiter>, error: &anyhow::Error) {
    let Some(waiter) = waiter else { return };
    let refusal = Refusal::new(Code::Store, format!("the request cannot be kept: {error:#}"))
        .hint("nothing was accepted; see `ccb status`, free the disk, and ask again");
    waiter(Err(refusal));
}

/// Writes a line into the log, which is the worker's standard error.
pub(crate) fn log(line: &str) {
    use std::io::Write as _;
    let at = crate::clock::wall();
    writeln!(std::io::stderr(), "{at} {line}").ok();
}
