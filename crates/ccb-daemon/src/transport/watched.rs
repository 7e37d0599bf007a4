//! Watched: the text is pasted into the agent's pane, and its transcript tells what became of it.
//!
//! The transcript is followed only while a delivery is at the agent. A screen is looked at again and again
//! only while a delivery waits for it: a draft leaves no event when it goes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ccb_core::config::{AgentConfig, Completion};
use ccb_core::id::RequestId;
use ccb_core::marker::{self, Mark};
use ccb_core::outcome::{EndedBy, TurnEnd};
use ccb_core::prompt;
use ccb_core::provider::{Observation, Provider};
use ccb_core::request::Kind;
use ccb_core::screen::Look;
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::RunnerEvent;
use tokio::time::Instant;

use super::follow::{Transcript, Watch};
use super::seat::{Handed, Seat, is_younger};
use super::{Line, Offer, Task, until};
use crate::agents::Agents;
use crate::files::Files;
use crate::paste::{self, Pressed};
use crate::tmux::Key;

/// How long an interrupted program must be silent to have stopped.
const INTERRUPTED: Duration = Duration::from_secs(2);

/// Where an agent's records are, and how they are read.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    files: Arc<Files>,
    provider: Provider,
    completion: Completion,
    transcript: PathBuf,
    look: Option<Look>,
    quiet: Duration,
}

impl Place {
    /// Returns the place that the configuration describes.
    pub(crate) fn new(files: &Arc<Files>, config: &AgentConfig) -> Self {
        let quiet = ccb_core::settings::seconds(std::env::var("CCB_QUIET_WINDOW_S").ok().as_deref(), 15.0, 0.2, 3600.0);
        let transcript = files.home().work_dir().join(config.transcript.as_deref().unwrap_or_default());
        let (provider, completion) = (config.provider, config.completion);
        Self { files: files.clone(), provider, completion, transcript, look: config.screen, quiet }
    }
}

/// Runs the transport of one agent until its tasks end.
pub(crate) async fn run(mut line: Line, place: Place, agents: Agents) {
    line.presence(Presence::Starting { why: "its program starts".into() });
    let transcript = Transcript::new(place.transcript.clone(), place.provider);
    let seat = Seat::new(&place.files, place.look);
    let mut driver = Watched { place, agents, transcript, watch: None, at: None, seat };
    loop {
        let quiet = driver.at.as_ref().and_then(|at| at.silence);
        let check = driver.seat.due();
        tokio::select! {
            biased;
            task = line.task() => match task {
                None => return,
                Some(task) => driver.task(&mut line, task).await,
            },
            () = changed(&mut driver.watch) => driver.read(&mut line),
            () = until(quiet) => driver.fell_quiet(&mut line),
            () = until(check) => driver.seat.look_again(&mut line).await,
        }
    }
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

struct Watched {
    place: Place,
    agents: Agents,
    transcript: Transcript,
    watch: Option<Watch>,
    /// The delivery that is at the agent.
    at: Option<At>,
    /// The pane that the program runs in.
    seat: Seat,
}

/// A delivery at the agent, as far as the transcript tells.
struct At {
    id: RequestId,
    attempt: u32,
    kind: Kind,
    /// The turn, once our anchor was seen. Where records name no turn, our own id stands for it.
    turn: Option<String>,
    mixed: bool,
    said: Vec<String>,
    silence: Option<Instant>,
    /// Whether we have pressed the key that stops it.
    interrupted: bool,
}

/// What the transcript newly says of a delivery.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Consumed,
    Mixed,
    Ended(TurnEnd, EndedBy),
}

impl At {
    fn new(id: RequestId, attempt: u32, kind: Kind) -> Self {
        Self { id, attempt, kind, turn: None, mixed: false, said: Vec::new(), silence: None, interrupted: false }
    }

    /// Takes the next observation. Everything before our anchor is somebody else's.
    fn take(&mut self, seen: Observation, completion: Completion) -> Option<Finding> {
        match (seen, &self.turn) {
            (Observation::User { text, turn, .. }, None) if prompt::anchored(&text, &self.id) => {
                self.turn = Some(turn.unwrap_or_else(|| self.id.to_string()));
                Some(Finding::Consumed)
            }
            (Observation::User { text, turn, .. }, Some(ours)) => {
                let elsewhere = turn.is_some_and(|turn| turn != *ours);
                let news = !elsewhere && !self.mixed && !prompt::anchored(&text, &self.id);
                self.mixed |= news;
                news.then_some(Finding::Mixed)
            }
            (Observation::Agent { text, turn }, Some(ours)) if turn.as_ref().is_none_or(|turn| turn == ours) => {
                self.said.push(text);
                self.said_enough(completion)
            }
            (Observation::TurnEnded { turn, end }, Some(ours)) if turn.as_ref().is_none_or(|turn| turn == ours) => {
                Some(Finding::Ended(self.whole(end), EndedBy::Record))
            }
            (
                Observation::User { .. }
                | Observation::Agent { .. }
                | Observation::TurnEnded { .. }
                | Observation::TurnBegan { .. },
                _,
            ) => None,
        }
    }

    fn said_enough(&self, completion: Completion) -> Option<Finding> {
        let text = self.said.join("\n");
        match (&self.kind, completion) {
            (Kind::Notice { .. }, Completion::Marker | Completion::Quiet) => {
                Some(Finding::Ended(TurnEnd::Completed { reply: text }, EndedBy::Record))
            }
            (Kind::Ask, Completion::Marker) => match marker::read(&text, &self.id) {
                Mark::Ours(reply) => Some(Finding::Ended(TurnEnd::Completed { reply }, EndedBy::Marker)),
                Mark::None => None,
            },
            (Kind::Ask, Completion::Record | Completion::Quiet) | (Kind::Notice { .. }, Completion::Record) => None,
        }
    }

    /// A turn's end with the text that we saw, where the record itself has none; without our own mark.
    fn whole(&self, end: TurnEnd) -> TurnEnd {
        let said = self.said.join("\n");
        let plain = |text: String| match marker::read(&text, &self.id) {
            Mark::Ours(reply) => reply,
            Mark::None => text,
        };
        match end {
            TurnEnd::Completed { reply } if reply.is_empty() => TurnEnd::Completed { reply: plain(said) },
            TurnEnd::Completed { reply } => TurnEnd::Completed { reply: plain(reply) },
            TurnEnd::Interrupted { partial } if partial.is_empty() => TurnEnd::Interrupted { partial: said },
            TurnEnd::Interrupted { .. } | TurnEnd::Failed { .. } | TurnEnd::Quiet { .. } => end,
        }
    }
}

impl Watched {
    async fn task(&mut self, line: &mut Line, task: Task) {
        match task {
            Task::Offer(offer) => self.offer(line, offer).await,
            Task::Interrupt { id, .. } => self.interrupt(line, &id).await,
            Task::Reconcile { id, attempt, kind, last, .. } => self.reconcile(line, id, attempt, kind, last),
            Task::Runner(RunnerEvent::TuiStarted { pid }) => self.started(line, pid).await,
            Task::Runner(RunnerEvent::TuiEnded { how, again }) => {
                let next = if again { "it is started again" } else { "start it with `ccb`" };
                self.ended(line, &format!("its program ended ({how}); {next}")).await;
            }
            Task::Hook(_)
            | Task::Launch(_)
            | Task::Runner(RunnerEvent::Closed | RunnerEvent::ServerStarted { .. } | RunnerEvent::ServerEnded { .. }) =>
                {}
            Task::RunnerGone { why } => self.ended(line, &why).await,
        }
    }

    /// The program runs: pins the pane and waits until it can take something.
    async fn started(&mut self, line: &mut Line, pid: u32) {
        if self.seat.is_free() && self.at.is_none() && is_younger(pid) && line.at_hand().await.is_some() {
            // It was handed to a program that ended while no askd watched; this is its successor.
            self.ended(line, "its program ended while askd was away").await;
        }
        match self.seat.take(line, &self.agents, pid).await {
            Ok(()) => {
                line.connected();
                self.seat.check_soon();
            }
            Err(why) => line.presence(Presence::Absent { why }),
        }
    }

    /// The program is gone: what it has written of our delivery is read to its end first, also of one that was
    /// handed over by an earlier askd.
    async fn ended(&mut self, line: &mut Line, why: &str) {
        // First of all that nothing can be offered to it: what it still has to tell makes room for the next delivery.
        line.presence(Presence::Starting { why: why.to_owned() });
        if self.at.is_none()
            && let Some((id, attempt, kind)) = line.at_hand().await
        {
            self.follow_from_here(At::new(id, attempt, kind));
            self.transcript.rewind();
        }
        self.read(line);
        self.at = None;
        self.watch = None;
        self.seat.leave();
        line.gone(why);
    }

    async fn offer(&mut self, line: &mut Line, offer: Offer) {
        let marked = self.place.completion == Completion::Marker && !offer.no_wrap;
        let Some(text) = self.seat.prepare(line, &offer, marked) else { return };
        self.follow_from_here(At::new(offer.id.clone(), offer.attempt, offer.kind.clone()));
        if self.seat.deliver(line, &offer, &text, &|_| Ok(())).await == Handed::Back {
            self.leave();
        }
        self.read(line);
    }

    /// Follows the transcript for this delivery: all that is in it already is older.
    fn follow_from_here(&mut self, at: At) {
        self.watch = Some(Watch::on(&self.place.transcript));
        self.transcript.skip();
        self.at = Some(at);
    }

    fn leave(&mut self) {
        self.at = None;
        self.watch = None;
    }

    /// Reads what is new in the transcript and tells what it says of our delivery.
    fn read(&mut self, line: &mut Line) {
        for seen in self.transcript.news() {
            let Some(at) = &mut self.at else { continue };
            let finding = at.take(seen, self.place.completion);
            if at.turn.is_some() {
                // Where the marker is missing, or nothing better is there, silence ends it.
                at.silence = (!at.said.is_empty() && self.place.completion != Completion::Record)
                    .then(|| Instant::now() + self.place.quiet);
            }
            if let Some(finding) = finding {
                self.tell(line, finding);
            }
        }
    }

    fn tell(&mut self, line: &mut Line, finding: Finding) {
        let Some(at) = &self.at else { return };
        let (id, turn) = (at.id.clone(), at.turn.clone().unwrap_or_default());
        match finding {
            Finding::Consumed | Finding::Mixed => {
                line.engine.tell(Input::Consumed { id, turn, source: "transcript".into(), mixed: at.mixed });
            }
            Finding::Ended(end, by) => {
                line.engine.tell(Input::TurnEnded { id, turn, end, by });
                self.leave();
                if self.place.look.is_some() {
                    self.seat.check_soon();
                }
            }
        }
    }

    fn fell_quiet(&mut self, line: &mut Line) {
        self.read(line);
        let Some(at) = &mut self.at else { return };
        if at.silence.is_none_or(|quiet| quiet > Instant::now()) {
            return;
        }
        at.silence = None;
        let TurnEnd::Completed { reply: partial } = at.whole(TurnEnd::Completed { reply: String::new() }) else {
            return;
        };
        let end = if at.interrupted { TurnEnd::Interrupted { partial } } else { TurnEnd::Quiet { partial } };
        self.tell(line, Finding::Ended(end, EndedBy::Quiet));
    }

    /// Reads the whole transcript for a delivery. Without its anchor nothing is proved: a paste may be on its way.
    fn reconcile(&mut self, line: &mut Line, id: RequestId, attempt: u32, kind: Kind, last: bool) {
        self.follow_from_here(At::new(id, attempt, kind));
        self.transcript.rewind();
        self.read(line);
        let Some(at) = &self.at else { return };
        if at.turn.is_some() {
            return;
        }
        let (id, attempt) = (at.id.clone(), at.attempt);
        let why =
            "its anchor is not in the transcript, which does not prove that the text is not on its way".to_owned();
        line.engine.tell(Input::Doubt { id, attempt, why, last });
    }

    async fn interrupt(&mut self, line: &Line, id: &RequestId) {
        let (Some(at), Some(target)) = (&mut self.at, self.seat.target()) else { return };
        if at.id != *id || at.turn.is_none() {
            return;
        }
        let pressed = paste::interrupt(target, Key::Escape).await;
        crate::engine::log(&format!("{}: interrupt for {id}: {pressed:?}", line.agent));
        if pressed == Pressed::Done {
            // Not every program records an interrupt: where nothing follows, it is over.
            at.interrupted = true;
            at.silence = Some(Instant::now() + INTERRUPTED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(kind: Kind) -> At {
        At::new(RequestId::new("r1").unwrap(), 1, kind)
    }
    fn user(text: &str) -> Observation {
        Observation::User { text: text.into(), client: None, turn: None }
    }
    fn agent(text: &str) -> Observation {
        Observation::Agent { text: text.into(), turn: None }
    }

    #[test]
    fn only_what_follows_our_anchor_counts() {
        let mut at = at(Kind::Ask);
        assert_eq!(at.take(agent("old\nCCB_DONE: r1"), Completion::Marker), None);
        assert_eq!(at.take(user("CCB_REQ_ID: r2\n\nx"), Completion::Marker), None);
        assert_eq!(at.take(user("CCB_REQ_ID: r1\n\nx"), Completion::Marker), Some(Finding::Consumed));
        assert_eq!(at.take(agent("part one\nCCB_DONE: r2"), Completion::Marker), None);
        let end = TurnEnd::Completed { reply: "part one\nCCB_DONE: r2\npart two".into() };
        assert_eq!(
            at.take(agent("part two\nCCB_DONE: r1"), Completion::Marker),
            Some(Finding::Ended(end, EndedBy::Marker))
        );
    }

    #[test]
    fn a_humans_input_in_the_turn_is_told_once() {
        let mut at = at(Kind::Ask);
        at.take(user("CCB_REQ_ID: r1\n\nx"), Completion::Marker);
        assert_eq!(at.take(user("and mine"), Completion::Marker), Some(Finding::Mixed));
        assert_eq!(at.take(user("more"), Completion::Marker), None);
    }

    #[test]
    fn a_turn_of_another_id_is_not_ours() {
        let mut at = at(Kind::Ask);
        let turn = |t: &str| Some(t.to_owned());
        at.take(
            Observation::User { text: "CCB_REQ_ID: r1\n\nx".into(), client: None, turn: turn("t1") },
            Completion::Record,
        );
        let end = || TurnEnd::Completed { reply: "42".into() };
        assert_eq!(at.take(Observation::TurnEnded { turn: turn("t0"), end: end() }, Completion::Record), None);
        let ended = at.take(Observation::TurnEnded { turn: turn("t1"), end: end() }, Completion::Record);
        assert_eq!(ended, Some(Finding::Ended(end(), EndedBy::Record)));
    }

    #[test]
    fn a_notice_is_over_with_the_agents_next_words() {
        let mut at = at(Kind::Notice { of: RequestId::new("r0").unwrap() });
        at.take(user("CCB_REQ_ID: r1\n\n[CCB_TASK_COMPLETED]"), Completion::Marker);
        assert!(matches!(at.take(agent("noted"), Completion::Marker), Some(Finding::Ended(..))));
    }
}
