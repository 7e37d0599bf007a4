//! Whose daemon this is: the rules of [`ccb_core::ownership`] with real processes, kept in the store.
//!
//! An instance is gone when its process is dead, by the kernel's word, or when it says so. The end of its connection
//! alone says nothing: a worker may have been replaced, and the instance be on its way back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ccb_core::ownership::{Change, Instance, Kind, Ownership};
use ccb_core::settings::falsy;
use ccb_core::wire::{self, Attached, Code, Owned, Refusal, Who};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::clock::Clock;
use crate::door::queue::Out;
use crate::engine::{Engine, log};
use crate::process::{self, Identity};
use crate::record::Record;

/// The store's key.
const KEY: &str = "ownership";

/// How often a process is looked at where the kernel cannot tell its end.
const LOOK: Duration = Duration::from_secs(2);

/// The owner, the instances, and who of them listens.
pub(crate) struct Owners {
    state: Mutex<Ownership<Identity>>,
    /// The connections of instances, by number.
    listeners: Mutex<BTreeMap<u64, (Identity, Out)>>,
    engine: Engine,
    clock: Clock,
    record: Record,
    /// Told when the last instance has gone, while this worker looked on.
    pub(crate) last_gone: Notify,
    /// Told when somebody has come.
    pub(crate) came: Notify,
}

impl Owners {
    /// Returns what an earlier worker has kept, without those that have died meanwhile, and with the process that
    /// the environment names as the parent.
    pub(crate) async fn restore(engine: Engine, clock: Clock, record: Record) -> Arc<Self> {
        let kept = engine.look(|view| view.store.meta(KEY).ok().flatten()).await.ok().flatten();
        let state = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let owners = Arc::new(Self {
            state: Mutex::new(state),
            listeners: Mutex::default(),
            engine,
            clock,
            record,
            last_gone: Notify::new(),
            came: Notify::new(),
        });
        let (changes, processes) = {
            let mut state = owners.lock();
            let changes = state.restored(Identity::is_alive);
            (changes, state.processes().cloned().collect::<Vec<_>>())
        };
        for change in &changes {
            log(&format!("while askd was away: {}", words(change)));
        }
        for process in processes {
            owners.watch(process);
        }
        owners.keep().await;
        owners.take_parent().await;
        owners
    }

    fn lock(&self) -> MutexGuard<'_, Ownership<Identity>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<u64, (Identity, Out)>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The predecessor's way to name an owner: `CCB_PARENT_PID` of whoever started the keeper. A process that is not
    /// there (any more) is no owner, and ends nothing.
    async fn take_parent(self: &Arc<Self>) {
        let Some(word) = std::env::var("CCB_PARENT_PID").ok().filter(|word| !word.trim().is_empty()) else { return };
        if std::env::var("CCB_MANAGED").is_ok_and(|word| falsy(&word)) {
            return;
        }
        let parent = word.trim().parse().ok().filter(|pid| *pid > 0).and_then(Identity::of);
        let Some(parent) = parent.filter(Identity::is_alive) else {
            return log(&format!("CCB_PARENT_PID is ignored: no living process has the number `{}`", word.trim()));
        };
        self.come(parent, Kind::Parent, false).await;
    }

    /// A process has come, or has come again.
    async fn come(self: &Arc<Self>, process: Identity, kind: Kind, force: bool) -> Change<Identity> {
        let instance = Instance::new(process.clone(), kind, self.clock.now(), force);
        let known = self.lock().processes().any(|known| *known == process);
        let change = self.lock().came(instance, Identity::is_alive);
        if !known {
            self.watch(process.clone());
        }
        if change == Change::Nothing {
            log(&format!("ownership: pid {}: has come again", process.pid));
        }
        self.changed(&process, &change).await;
        self.came.notify_one();
        change
    }

    /// The process at the other end of a connection becomes an instance.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        pid: u32,
        number: u64,
        out: &Out,
        force: bool,
    ) -> Result<Attached, Refusal> {
        let process = Identity::of(pid).ok_or_else(|| {
            Refusal::new(Code::BadParameters, "the calling process cannot be told: it is gone, or in another container")
        })?;
        // It hears of what happens from now on, and not of its own coming.
        let change = self.come(process.clone(), Kind::Launcher, force).await;
        self.listeners().insert(number, (process.clone(), out.clone()));
        let forced_from = change.displaced().map(|from| from.pid);
        let state = self.lock();
        let you_own = state.owner().is_some_and(|owner| owner.process == process);
        Ok(Attached { owner: state.owner().map(who), you_own, forced_from })
    }

    /// The process at the other end of a connection says that it is no instance any more.
    pub(crate) async fn detach(&self, pid: u32, number: u64) {
        self.listeners().remove(&number);
        if let Some(process) = Identity::of(pid) {
            self.gone(&process).await;
        }
    }

    /// A connection is over: nobody listens there any more.
    pub(crate) fn disconnected(&self, number: u64) {
        self.listeners().remove(&number);
    }

    async fn gone(&self, process: &Identity) {
        let change = self.lock().gone(process);
        self.changed(process, &change).await;
        if matches!(change, Change::LastGone { .. }) {
            self.last_gone.notify_one();
        }
    }

    /// Has the end of a process noticed.
    fn watch(self: &Arc<Self>, process: Identity) {
        let owners = self.clone();
        tokio::spawn(async move {
            if process.ended().await.is_err() {
                while process.is_alive() {
                    tokio::time::sleep(LOOK).await;
                }
            }
            owners.gone(&process).await;
        });
    }

    /// The project's own tmux servers are owners while nobody else is.
    pub(crate) async fn follow_sessions(self: Arc<Self>, mut opened: UnboundedReceiver<Identity>) {
        while let Some(server) = opened.recv().await {
            let change = self.lock().session(server.clone(), self.clock.now());
            if change == Change::SessionBegan {
                self.watch(server.clone());
                self.changed(&server, &change).await;
            }
        }
    }

    /// Keeps, shows and tells what has happened because of this process.
    async fn changed(&self, process: &Identity, change: &Change<Identity>) {
        let why = words(change);
        if *change == Change::Nothing {
            return;
        }
        log(&format!("ownership: pid {}: {why}", process.pid));
        let (owner, holder) = {
            let state = self.lock();
            (state.owner().map(who), state.owner().map(|owner| owner.process.clone()))
        };
        let forced_out = change.displaced();
        if !matches!(change, Change::Attached | Change::Left) {
            for (listener, out) in self.listeners().values() {
                let notice = Owned::Changed {
                    owner: owner.clone(),
                    you_own: holder.as_ref() == Some(listener),
                    forced_out: forced_out == Some(listener),
                    why: why.clone(),
                };
                out.send(wire::notice_line("ownership", &notice)).ok();
            }
        }
        self.keep().await;
    }

    /// Keeps who owns the daemon in the store, and shows it in the home.
    async fn keep(&self) {
        let text = serde_json::to_string(&*self.lock())
            .unwrap_or_else(|error| unreachable!("our own types serialize: {error}"));
        self.record.shown().clone_from(&self.shown());
        let stored = self.engine.look(move |view| view.store.set_meta(KEY, &text)).await;
        if let Ok(Err(error)) = stored {
            log(&format!("who owns askd could not be kept: {error:#}"));
        }
        if let Err(error) = self.record.write("running", None) {
            log(&format!("who owns askd could not be shown: {error}"));
        }
    }

    /// Returns what `askd.json` says of it: the owner's pid, and those of the attached.
    fn shown(&self) -> (Option<u32>, Vec<u32>) {
        let state = self.lock();
        let attached = state.attached().iter().map(|instance| instance.process.pid).collect();
        (state.owner().map(|owner| owner.process.pid), attached)
    }

    /// Returns the owner and the attached, as users see them.
    pub(crate) fn view(&self) -> (Option<Who>, Vec<Who>) {
        let state = self.lock();
        (state.owner().map(who), state.attached().iter().map(who).collect())
    }

    /// Returns whether an instance owns the daemon, and not only a session or nobody.
    pub(crate) fn is_held(&self) -> bool {
        self.lock().is_held()
    }

    /// Returns the pid of the instance that owns the daemon, unless the caller belongs to it.
    pub(crate) fn held_against(&self, caller: Option<u32>) -> Option<u32> {
        let state = self.lock();
        let owner = state.owner().filter(|owner| owner.kind != Kind::Session && owner.process.is_alive())?;
        let inside = caller.is_some_and(|caller| process::descends_from(caller, &owner.process));
        (!inside).then_some(owner.process.pid)
    }

    /// Tells the instances that the daemon is wanted to end, so that none of them starts it again.
    pub(crate) fn tell_end(&self, why: &str) {
        let line = wire::notice_line("ownership", &Owned::Stopping { why: why.to_owned() });
        for (_, out) in self.listeners().values() {
            out.send(line.clone()).ok();
        }
    }
}

fn who(instance: &Instance<Identity>) -> Who {
    Who { pid: instance.process.pid, kind: instance.kind, since: instance.since }
}

/// Says what has happened, from the outside.
fn words(change: &Change<Identity>) -> String {
    match change {
        Change::Nothing => "nothing has changed".into(),
        Change::Adopted => "owns askd, which had no owner".into(),
        Change::TookOver { from } => format!("owns askd, whose owner (pid {}) is dead", from.pid),
        Change::Forced { from } => {
            format!("owns askd by force; it was owned by pid {}, which is attached now", from.pid)
        }
        Change::Attached => "is attached; another instance owns askd".into(),
        Change::PassedTo { from, to } => {
            format!(
                "the owner (pid {}) has ended; askd belongs to pid {} now, which has been here longest",
                from.pid, to.pid
            )
        }
        Change::Left => "was attached, and has ended".into(),
        Change::LastGone { from } => format!("the last instance (pid {}) has ended", from.pid),
        Change::SessionBegan => "is the project's own terminal session, which owns askd while no instance does".into(),
        Change::SessionEnded => "was the project's own terminal session, and has ended".into(),
    }
}
