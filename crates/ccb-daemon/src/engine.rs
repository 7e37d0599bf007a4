//! The engine's thread: it owns the state and the store, and for each batch of inputs it commits, acts, tells.
//!
//! It never awaits and never waits for the world. When a commit fails, the batch has not happened: its
//! callers are refused, and the state is read back from the store; once the disk takes commits again, the
//! agents are asked anew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::Context as _;
use ccb_core::id::RequestId;
use ccb_core::request::{Evidence, Kind, Request};
use ccb_core::state::{Policy, State};
use ccb_core::step::{self, Effect, Input, Verdict};
use ccb_core::time::Time;
use ccb_core::wire::{Code, Refusal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::store::Store;

/// The most inputs that one commit takes together.
const BATCH: u64 = 256;

/// How soon a disk that took no commit is tried again.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

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
    Stop(oneshot::Sender<()>),
}

/// A handle to the engine. Everything sent to it is handled in the order of sending.
#[derive(Clone)]
pub(crate) struct Engine {
    inbox: mpsc::Sender<Message>,
    /// How many messages were sent and how many are done with: equal while the engine has nothing to do.
    sent: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
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
struct InCommit<'a>(&'a CommitMark);

impl CommitMark {
    fn enter(&self, now: Time) -> InCommit<'_> {
        self.since.store(now.0.max(1), Ordering::SeqCst);
        InCommit(self)
    }
}

impl Drop for InCommit<'_> {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::SeqCst);
    }
}

/// Where the engine's effects and news go, after the commit.
pub(crate) struct Outlets {
    /// What transports and timers are to do.
    pub(crate) effects: UnboundedSender<Effect>,
    /// Requests that have just changed.
    pub(crate) news: UnboundedSender<Request>,
}

impl Engine {
    /// Restores the state from `store` and starts the thread.
    pub(crate) fn start(store: Store, policy: Policy, clock: Clock, outlets: Outlets) -> anyhow::Result<Self> {
        let (inbox, outbox) = mpsc::channel();
        let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let commit = Arc::new(CommitMark::default());
        let state = restore(&store, policy, clock.now())?;
        let mut work = Work {
            state,
            store,
            clock,
            outlets,
            followers: BTreeMap::new(),
            done: done.clone(),
            commit: commit.clone(),
            stale: false,
            well: true,
        };
        for effect in step::wake(&work.state) {
            work.outlets.effects.send(effect).ok();
        }
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || work.run(&outbox))
            .context("cannot start the engine's thread")?;
        Ok(Self { inbox, sent, done, commit, clock })
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
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Looks at state and store.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (tx, answer) = oneshot::channel();
        let look = Box::new(move |view: View<'_>| drop(tx.send(look(view))));
        self.send(Message::Look(look));
        answer.await.map_err(|_| stopping())
    }

    /// Sends the request as it is now (if it exists) and each time it changes.
    pub(crate) fn follow(&self, id: RequestId, to: UnboundedSender<Request>) {
        self.send(Message::Follow(id, to));
    }

    /// Stops after all that was handed in before.
    pub(crate) async fn stop(&self) {
        let (tx, stopped) = oneshot::channel();
        self.send(Message::Stop(tx));
        stopped.await.ok();
    }
}

fn stopping() -> Refusal {
    Refusal::new(Code::Internal, "askd is stopping")
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
    clock: Clock,
    outlets: Outlets,
    followers: BTreeMap<RequestId, Vec<UnboundedSender<Request>>>,
    done: Arc<AtomicU64>,
    commit: Arc<CommitMark>,
    /// Whether something was seen that could not be kept.
    stale: bool,
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
    /// The requests that inputs spoke of: none of them stays in memory only because somebody asked.
    touched: Vec<RequestId>,
}

impl Work {
    fn run(&mut self, outbox: &mpsc::Receiver<Message>) {
        loop {
            let first = if self.stale {
                outbox.recv_timeout(TRY_AGAIN)
            } else {
                outbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            };
            let first = match first {
                Ok(first) => first,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.catch_up();
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let mut batch = Batch::default();
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(message) = next {
                match message {
                    Message::Input(input, waiter) => self.take(&mut batch, input, waiter),
                    Message::Look(look) => {
                        self.finish(std::mem::take(&mut batch));
                        look(View { state: &self.state, store: &mut self.store, now: self.clock.now() });
                    }
                    Message::Follow(id, to) => {
                        self.finish(std::mem::take(&mut batch));
                        self.follow(id, to);
                    }
                    Message::Stop(stopped) => {
                        self.finish(std::mem::take(&mut batch));
                        stopped.send(()).ok();
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

    fn take(&mut self, batch: &mut Batch, input: Input, waiter: Option<Waiter>) {
        if let Some(id) = input.request()
            && let Err(error) = self.load(id)
        {
            refuse(waiter, &error);
            return;
        }
        batch.touched.extend(input.request().cloned());
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
            let committing = self.commit.enter(self.clock.now());
            crate::failpoint::hit_blocking("store.commit");
            let committed = self.store.commit(&saves, &batch.notes);
            drop(committing);
            if let Err(error) = committed {
                self.commit_failed(&error, batch.answers);
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
        for request in saves {
            self.publish(&request);
            self.state.forget_settled(&request.id);
        }
        for id in batch.touched {
            self.state.forget_settled(&id);
        }
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
        let commit = self.commit.clone();
        let committing = commit.enter(self.clock.now());
        let kept = self.store.set_meta("disk", &self.clock.now().0.to_string());
        drop(committing);
        if kept.is_err() {
            return;
        }
        self.stale = false;
        log("the disk takes commits again");
        let mut batch = Batch { effects: step::wake(&self.state), ..Batch::default() };
        for agent in self.state.agents.keys().cloned().collect::<Vec<_>>() {
            self.take(&mut batch, Input::Connected { agent }, None);
        }
        self.finish(batch);
    }

    /// Nothing of the batch has happened: what it changed in memory is read back from the store.
    fn commit_failed(&mut self, error: &anyhow::Error, answers: Vec<(Waiter, Verdict)>) {
        log(&format!("a commit failed, nothing of it was done: {error:#}"));
        for (waiter, _) in answers {
            refuse(Some(waiter), error);
        }
        // A memory that is ahead of the disk must not answer anybody: start-up is recovery.
        let restored = restore(&self.store, self.state.policy.clone(), self.state.since);
        let mut state = restored.unwrap_or_else(|error| panic!("the store cannot be read back: {error:#}"));
        self.stale = true;
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
