//! What users see of requests and agents, from the engine's state and the store.

use ccb_core::config::AgentConfig;
use ccb_core::id::RequestId;
use ccb_core::outcome::{Failure, Outcome};
use ccb_core::provider::Rung;
use ccb_core::request::{Request, Stage};
use ccb_core::state::{Presence, State};
use ccb_core::step::waits_for;
use ccb_core::wire::{AgentView, Overview, Progress, RequestView};

use crate::agents::Slot;

/// The longest summary of a message, in characters.
const SUMMARY: usize = 60;

/// Returns a request as users see it.
pub(crate) fn request(state: &State, request: &Request) -> RequestView {
    RequestView {
        id: request.id.clone(),
        agent: request.agent.clone(),
        asker: request.asker.word().to_owned(),
        parent: request.parent.clone(),
        retry_of: request.retry_of.clone(),
        retries: request.retries.clone(),
        kind: request.kind.clone(),
        summary: summary(&request.message),
        state: request.stage.word().to_owned(),
        why: why(state, request),
        accepted: request.accepted,
        deadline: request.deadline,
        attempts: request.attempts,
        turn: request.turn().map(str::to_owned),
        delivered: request.delivered,
        settlement: request.settlement().cloned(),
    }
}

/// Returns what somebody who asks a request again should know of it.
pub(crate) fn retry_note(original: &Request) -> Option<String> {
    let (id, agent) = (&original.id, &original.agent);
    let settlement = original.settlement()?;
    let is_unknown = matches!(settlement.outcome, Outcome::Failed { reason: Failure::UnknownDelivery, .. });
    if original.held {
        return Some(format!("`{agent}` is still at {id}, which is settled: `ccb cancel {id}` stops it"));
    }
    (is_unknown && settlement.late.is_none()).then(|| {
        format!("it is not known whether `{agent}` got {id}: it may now be asked the same twice, as you wanted")
    })
}

/// Returns what a waiting caller is told of a request.
pub(crate) fn progress(state: &State, request: &Request) -> Progress {
    Progress { id: request.id.clone(), state: request.stage.word().to_owned(), why: why(state, request) }
}

/// Returns what a request waits for, or what it does.
fn why(state: &State, request: &Request) -> String {
    let agent = state.agents.get(&request.agent);
    match &request.stage {
        Stage::Queued => agent.map_or_else(String::new, |agent| {
            let place = agent.queue.iter().position(|id| *id == request.id).map_or(1, |i| i + 1);
            waits_for(&agent.presence, agent.current.as_ref(), place)
        }),
        Stage::Offering { .. } => "being handed to the agent".into(),
        Stage::Offered { doubt: None, .. } => "handed over; the agent has not shown it yet".into(),
        Stage::Offered { doubt: Some(doubt), .. } => format!("unknown whether the agent has it: {doubt}"),
        Stage::Working { .. } => match agent.map(|agent| &agent.presence) {
            Some(Presence::Waiting { why }) => format!("waiting for you: {why}"),
            Some(Presence::Absent { .. } | Presence::Starting { .. } | Presence::Idle | Presence::Busy { .. })
            | None => "the agent works on it".into(),
        },
        Stage::Settled(settlement) => settlement.outcome.sentence(),
    }
}

fn summary(message: &str) -> String {
    let line = message.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let mut summary: String = line.chars().filter(|c| !c.is_control()).take(SUMMARY).collect();
    if line.chars().count() > SUMMARY || message.trim().lines().count() > 1 {
        summary.push('…');
    }
    summary
}

/// Returns the agents and the requests that are not over.
pub(crate) fn overview(state: &State, slots: &[SlotView]) -> Overview {
    let agents = slots
        .iter()
        .map(|SlotView { config, rung, rung_why, pane, error }| {
            let agent = state.agents.get(&config.name);
            let absent = Presence::Absent { why: "not started".into() };
            let presence = agent.map_or(&absent, |agent| &agent.presence);
            let doing = doing(state, presence, agent.and_then(|agent| agent.current.as_ref()));
            AgentView {
                name: config.name.clone(),
                provider: config.provider.row().name.to_owned(),
                rung: rung.clone(),
                rung_why: rung_why.clone(),
                state: doing.word().to_owned(),
                why: doing.why().to_owned(),
                current: agent.and_then(|agent| agent.current.clone()),
                queued: agent.map_or(0, |agent| u32::try_from(agent.queue.len()).unwrap_or(u32::MAX)),
                pane: pane.clone(),
                last_error: error.clone(),
            }
        })
        .collect();
    let mut open: Vec<&Request> = state.requests.values().filter(|request| !request.is_settled()).collect();
    open.sort_by_key(|request| request.seq);
    Overview { agents, requests: open.into_iter().map(|r| request(state, r)).collect() }
}

/// What an agent is doing: its transport may call it idle while the engine still waits for the end of a delivery.
fn doing(state: &State, presence: &Presence, current: Option<&RequestId>) -> Presence {
    match (presence, current) {
        (Presence::Idle, Some(id)) if state.requests.get(id).is_some_and(Request::is_settled) => {
            Presence::Busy { why: format!("still at {id}, which is settled already; `ccb cancel {id}` stops it") }
        }
        (Presence::Idle, Some(id)) => Presence::Busy { why: format!("at {id}") },
        (other, _) => other.clone(),
    }
}

/// What [`overview`] needs of an agent.
#[derive(Clone, Debug)]
pub(crate) struct SlotView {
    config: AgentConfig,
    rung: String,
    rung_why: String,
    pane: Option<String>,
    error: Option<String>,
}

impl From<&Slot> for SlotView {
    fn from(slot: &Slot) -> Self {
        let (rung, why) = match slot.unheard {
            Some(why) => (Rung::Watched, why),
            None => (slot.rung.0, slot.rung.1.as_str()),
        };
        Self {
            config: slot.config.clone(),
            rung: rung.word().to_owned(),
            rung_why: why.to_owned(),
            pane: slot.runner.as_ref().and_then(|runner| runner.pane.as_ref()).map(|(_, pane)| pane.clone()),
            error: slot.error.clone(),
        }
    }
}
