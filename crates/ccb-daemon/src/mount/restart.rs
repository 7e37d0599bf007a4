//! Starting an agent again on somebody's order: in its pane, with its whole specification, in its session.
//!
//! The runner does it; here is only decided whether it may, and waited until the runner has asked what to start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ccb_core::config::AgentConfig;
use ccb_core::id::{AgentName, RequestId};
use ccb_core::state::Presence;
use ccb_core::wire::{Code, Mount, Order, RESTARTED, Refusal, Restart, Restarted};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use super::{ENVIRONMENT, Mounts};
use crate::process::Identity;
use crate::transport::Task;

/// How long a runner may take to end what runs and to ask anew: it gives each program two seconds to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take to look at a screen.
const GLANCE: Duration = Duration::from_secs(2);

/// What is under way about starting agents again.
#[derive(Default)]
pub(super) struct Restarts {
    /// Who waits for a runner to ask what to start.
    waiters: Mutex<BTreeMap<AgentName, Vec<Waiter>>>,
    /// Held by whoever brings back a pane that has died.
    turns: Mutex<BTreeMap<AgentName, Arc<tokio::sync::Mutex<()>>>>,
    /// When an agent was last started again on somebody's order.
    last: AtomicI64,
}

/// One who is told whether the runner was told what to start.
type Waiter = oneshot::Sender<Result<(), Refusal>>;

impl Restarts {
    /// Returns what is held while a pane of that agent is brought back.
    pub(super) fn turn(&self, agent: &AgentName) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(agent.clone()).or_default().clone()
    }

    /// Returns when an agent was last started again on somebody's order: what its CLI said of itself before may be old.
    pub(super) fn last(&self) -> i64 {
        self.last.load(Ordering::Relaxed)
    }

    fn wait(&self, agent: &AgentName) -> oneshot::Receiver<Result<(), Refusal>> {
        let (tell, told) = oneshot::channel();
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).entry(agent.clone()).or_default().push(tell);
        told
    }

    fn tell(&self, agent: &AgentName, refusal: Option<&Refusal>) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner).remove(agent);
        for waiter in waiters.into_iter().flatten() {
            waiter.send(refusal.map_or(Ok(()), |refusal| Err(refusal.clone()))).ok();
        }
    }
}

/// What an agent is doing that would be cut off.
struct Doing {
    /// The request that it has not finished.
    current: Option<RequestId>,
    /// What it is doing as its transport sees it.
    presence: Presence,
}

impl Mounts {
    /// A runner has asked what to start, and was told or refused.
    pub(crate) fn launched(&self, agent: &AgentName, refusal: Option<&Refusal>) {
        if refusal.is_some() {
            // What was to be started again has ended, and nothing has begun.
            self.agents.not_ending(agent);
            self.ended.notify_waiters();
        }
        self.restarts.tell(agent, refusal);
    }

    /// Ends an agent's program and starts it again, or starts one that does not run.
    pub(crate) async fn restart(self: &Arc<Self>, agent: AgentName, call: Restart) -> Result<Restarted, Refusal> {
        self.until_ended(&agent).await;
        let doing = self.doing(&agent).await?;
        if !call.force {
            doing.refuse(&agent)?;
            // A draft leaves no trace but on the screen, which nobody has looked at while nothing waits.
            if let Some(presence) = self.glance(&agent).await {
                Doing { current: None, presence }.refuse(&agent)?;
            }
        }
        // Whoever orders it has seen to the cause: earlier failures count no more.
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).remove(&agent);
        self.restarts.last.store(crate::clock::wall(), Ordering::Relaxed);
        let runner = self.agents.lock().get(&agent).and_then(|slot| slot.runner.as_ref().map(|r| r.orders.is_some()));
        let Some(connected) = runner else {
            if self.is_running(&agent).await {
                let refusal = Refusal::new(Code::Launch, format!("the pane of `{agent}` has not reported yet"));
                return Err(refusal.hint("try again in a moment; `ccb ps` shows when it has"));
            }
            self.start_again(&agent, call).await?;
            return Ok(Restarted { agent, ran: false, cut_off: None });
        };
        let unheard = || {
            Refusal::new(Code::Launch, format!("the pane of `{agent}` has no connection to askd just now"))
                .hint("try again in a moment; `ccb ps` shows when it has")
        };
        if !connected {
            return Err(unheard());
        }
        // As it is configured now.
        if let Some(config) = self.read_config().ok().and_then(|all| all.agents.into_iter().find(|of| of.name == agent))
        {
            self.take_config(&config).await;
        }
        // It is started by what its CLI can do now, on the best rung again.
        self.kept.lock().await.rungs.remove(&agent);
        self.forgive(&agent).await;
        let told = self.restarts.wait(&agent);
        // First this, so that nothing is offered to a program that is just being ended.
        self.presence(&agent, Presence::Starting { why: "it is being started again".into() });
        // Its TUI is to be shown anew, though it shows the same.
        self.agents.set_tui(&agent, None);
        let now = self.doing(&agent).await?;
        if !call.force && now.current.is_some() {
            // It was given to it just now.
            self.presence(&agent, doing.presence);
            return Err(now.refuse(&agent).err().unwrap_or_else(unheard));
        }
        if !self.agents.order(&agent, &Order::Restart) {
            self.presence(&agent, doing.presence);
            return Err(unheard());
        }
        let Ok(Ok(done)) = tokio::time::timeout(PATIENCE, told).await else {
            self.agents.not_ending(&agent);
            self.presence(&agent, doing.presence);
            let message = format!("the pane of `{agent}` does not follow: nothing is known to have been started");
            return Err(Refusal::new(Code::Launch, message).hint(format!("close its pane, and start it: ccb {agent}")));
        };
        done?;
        if let Some(slot) = self.agents.lock().get_mut(&agent) {
            // That it was ended on purpose is no error.
            slot.error.take_if(|error| error.contains(RESTARTED));
        }
        Ok(Restarted { agent, ran: true, cut_off: doing.current })
    }

    /// Has an agent started by this configuration from now on.
    pub(super) async fn take_config(&self, agent: &AgentConfig) {
        let mut kept = self.kept.lock().await;
        kept.agents.retain(|known| known.name != agent.name);
        kept.agents.push(agent.clone());
    }

    /// Has a runner that lives, and runs nothing any more, start its agent; false if it cannot be told to.
    pub(super) async fn start_in_its_pane(&self, agent: &AgentName) -> bool {
        let runner = self.agents.lock().get(agent).and_then(|slot| slot.runner.as_ref().map(|r| r.identity.clone()));
        let Some(runner) = runner.filter(Identity::is_alive) else { return false };
        self.kept.lock().await.rungs.remove(agent);
        self.keep_running(agent, Some(runner)).await;
        self.agents.order(agent, &Order::Restart)
    }

    /// Starts an agent that does not run as it was last started.
    async fn start_again(self: &Arc<Self>, agent: &AgentName, call: Restart) -> Result<(), Refusal> {
        let config = self.read_config()?;
        let kept = std::fs::read_to_string(self.files.path(ENVIRONMENT)).ok();
        let env = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(call.env);
        let auto = self.kept.lock().await.auto_agents.contains(agent);
        let is_configured = config.agents.iter().any(|known| known.name == *agent);
        let provider = self.agents.lock().get(agent).map(|slot| slot.config.provider.row().name);
        let word = match provider.filter(|_| !is_configured) {
            Some(provider) => format!("{agent}:{provider}"),
            None => agent.to_string(),
        };
        let mount = Mount { agents: vec![word], host: call.host, env, auto, resume: true };
        self.mount(mount).await.map(drop)
    }

    /// Returns what an agent's screen shows; none if nobody can read it.
    async fn glance(&self, agent: &AgentName) -> Option<Presence> {
        let (tell, mut told) = unbounded_channel();
        if !self.agents.task(agent, Task::Glance(tell)) {
            return None;
        }
        tokio::time::timeout(GLANCE, told.recv()).await.ok().flatten()
    }

    async fn doing(&self, agent: &AgentName) -> Result<Doing, Refusal> {
        let name = agent.clone();
        let look = self.engine.look(move |view| {
            let agent = view.state.agents.get(&name);
            let presence = agent.map_or(Presence::Idle, |agent| agent.presence.clone());
            Doing { current: agent.and_then(|agent| agent.current.clone()), presence }
        });
        look.await
    }
}

impl Doing {
    /// Refuses to cut off what the agent is doing, if it does anything.
    fn refuse(&self, agent: &AgentName) -> Result<(), Refusal> {
        let force = format!("`ccb restart --force {agent}` cuts it off");
        let refuse = |what: String| Err(Refusal::new(Code::Busy, format!("`{agent}` {what}")).hint(&force));
        match (&self.current, &self.presence) {
            (Some(id), _) => Err(Refusal::new(Code::Busy, format!("`{agent}` works on request {id}"))
                .hint(format!("`ccb cancel {id}` ends it; {force}"))),
            (None, Presence::Busy { why }) => refuse(format!("is busy: {why}")),
            // It may be a draft, which would be gone.
            (None, Presence::Waiting { why }) => refuse(format!("waits for you: {why}")),
            (None, Presence::Absent { .. } | Presence::Starting { .. } | Presence::Idle) => Ok(()),
        }
    }
}
