//! What becomes of an agent whose rung breaks: it falls to the next one that works, between requests, and people are told
//! why. Whoever starts it again, by `ccb` or `ccb restart`, has the best one tried anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ccb_core::id::AgentName;
use ccb_core::provider::Rung;
use ccb_core::state::Presence;
use ccb_core::wire::Order;

use super::Mounts;
use crate::agents::Broke;
use crate::engine::log;

/// How long a request may take to end that an agent is at whose rung has broken. What is left then is settled from the
/// agent's records by the next rung.
const PATIENCE: Duration = Duration::from_secs(30);

/// How soon it is looked again whether it has.
const LOOK: Duration = Duration::from_millis(500);

/// The rungs of each agent that have broken since somebody has started it, and how.
pub(super) type Broken = BTreeMap<AgentName, BTreeMap<Rung, String>>;

impl Mounts {
    /// Listens for rungs that break, as long as this worker lives.
    pub(super) fn listen_for_breaks(self: &Arc<Self>) {
        let Some(mut breaks) = self.agents.breaks() else { return };
        let mounts = self.clone();
        tokio::spawn(async move {
            while let Some(broke) = breaks.recv().await {
                let mounts = mounts.clone();
                // Each by itself: one that waits for its request keeps no other from falling.
                tokio::spawn(async move { mounts.fall(broke).await });
            }
        });
    }

    /// Has an agent that cannot be driven on its rung any more driven on the next one, if it has one.
    async fn fall(self: &Arc<Self>, Broke { agent, rung, lives, why }: Broke) {
        self.agents.error(&agent, why.clone());
        let Some(config) = self.config_of(&agent).await else { return };
        if config.rung.is_some() || config.command.is_some() {
            return log(&format!("{agent}: {why}; it stays {}, as it is configured", rung.word()));
        }
        let Ok(env) = self.environment(&agent) else { return };
        let (driven, known, shown) = match self.agents.lock().get(&agent) {
            Some(slot) => (
                slot.tasks.as_ref().is_some_and(|(_, on)| *on == rung),
                slot.broken.contains_key(&rung),
                slot.tui.is_some(),
            ),
            None => return,
        };
        if !driven || (lives && known) {
            return;
        }
        self.note_broken(&agent, rung, Some(&why)).await;
        let next = match self.choose(&config, &env).await {
            Ok((_, next, _)) => next,
            Err(refusal) => {
                log(&format!("{agent}: {why}; there is no other way to drive it: {}", refusal.message));
                return self.note_broken(&agent, rung, None).await;
            }
        };
        if lives && shown {
            // Its human may be in the middle of something there, which we cannot see.
            let what =
                format!("not {}: {why}; `ccb restart {agent}` starts it anew, {} if need be", rung.word(), next.word());
            log(&format!("{agent}: {what}"));
            return self.agents.error(&agent, what);
        }
        log(&format!("{agent}: {why}; it is driven {} from now on", next.word()));
        // First this, so that nothing is offered meanwhile.
        let told = format!("not {}: {why}; it is started again, to be {}", rung.word(), next.word());
        self.presence(&agent, Presence::Starting { why: told });
        self.wait_until_free(&agent).await;
        if self.is_driven(&agent).await {
            // It came back while its request ended, and what it does now is not cut off.
            log(&format!("{agent}: it can be driven {} again", rung.word()));
            return self.note_broken(&agent, rung, None).await;
        }
        self.kept.lock().await.rungs.remove(&agent);
        self.agents.set_tui(&agent, None);
        // One without a connection asks for its launch when it has one again.
        self.agents.order(&agent, &Order::Restart);
    }

    /// Waits until an agent has no request, for as long as one may take.
    async fn wait_until_free(&self, agent: &AgentName) {
        let free = async {
            loop {
                let name = agent.clone();
                let busy = self
                    .engine
                    .look(move |view| view.state.agents.get(&name).is_some_and(|agent| agent.current.is_some()));
                if !busy.await.unwrap_or(false) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.ok();
    }

    /// Returns whether an agent's transport says by now what the agent is doing.
    async fn is_driven(&self, agent: &AgentName) -> bool {
        let name = agent.clone();
        let driven = self.engine.look(move |view| {
            view.state.agents.get(&name).is_some_and(|agent| match agent.presence {
                Presence::Idle | Presence::Busy { .. } | Presence::Waiting { .. } => true,
                Presence::Absent { .. } | Presence::Starting { .. } => false,
            })
        });
        driven.await.unwrap_or(false)
    }

    /// Remembers that a rung of an agent has broken; none: that it has not.
    async fn note_broken(&self, agent: &AgentName, rung: Rung, why: Option<&str>) {
        let mut kept = self.kept.lock().await;
        let broken = kept.broken.entry(agent.clone()).or_default();
        match why {
            Some(why) => drop(broken.insert(rung, why.to_owned())),
            None => drop(broken.remove(&rung)),
        }
        if let Some(slot) = self.agents.lock().get_mut(agent) {
            slot.broken.clone_from(broken);
        }
    }

    /// Forgets what has broken: somebody starts the agent, and it may work again.
    pub(super) async fn forgive(&self, agent: &AgentName) {
        self.kept.lock().await.broken.remove(agent);
        if let Some(slot) = self.agents.lock().get_mut(agent) {
            slot.broken.clear();
        }
    }

    /// Takes over what had broken before this worker came.
    pub(super) async fn recall_broken(&self) {
        let broken = self.kept.lock().await.broken.clone();
        let mut table = self.agents.lock();
        for (agent, broken) in broken {
            if let Some(slot) = table.get_mut(&agent) {
                slot.broken = broken;
            }
        }
    }
}
