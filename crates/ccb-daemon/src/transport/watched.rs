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
use ccb_core::screen::{Look, Sight};
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::RunnerEvent;
use tokio::time::Instant;

use super::follow::{Transcript, Watch};
use super::{Line, Offer, Task};
use crate::agents::Agents;
use crate::files::Files;
use crate::paste::{self, Delivery, Pressed, Target};
use crate::process::Identity;
use crate::tmux::{Key, Server};

/// How soon a screen that is waited for is looked at again, at first and at the most.
const RECHECK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long a started program may leave its terminal unread before it is taken for ready all the same.
const SETTLE: Duration = Duration::from_secs(5);

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
    let mut driver = Watched {
        place,
        agents,
        transcript,
        watch: None,
        at: None,
        target: None,
        check: None,
        setback: Duration::ZERO,
    };
    loop {
        let quiet = driver.at.as_ref().and_then(|at| at.silence);
        let check = driver.check.as_ref().map(|check| check.next);
        tokio::select! {
            biased;
            task = line.tasks.recv() => match task {
                None => return,
                Some(task) => driver.task(&mut line, task).await,
            },
            () = changed(&mut driver.watch) => driver.read(&mut line),
            () = until(quiet) => driver.fell_quiet(&mut line),
            () = until(check) => driver.look_again(&mut line).await,
        }
    }
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
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
    /// The pane, while the program runs in it.
    target: Option<Target>,
    /// The next look at a screen that is waited for.
    check: Option<Check>,
    /// How long the next look waits, after hand-overs that failed in a row.
    setback: Duration,
}

struct Check {
    next: Instant,
    pause: Duration,
    since: Instant,
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
            Task::Runner(RunnerEvent::Closed | RunnerEvent::ServerStarted { .. } | RunnerEvent::ServerEnded { .. }) => {
            }
            Task::RunnerGone { why } => self.ended(line, &why).await,
        }
    }

    /// The program runs: pins the pane and waits until it can take something.
    async fn started(&mut self, line: &mut Line, pid: u32) {
        let runner = self.agents.lock().get(&line.agent).and_then(|slot| slot.runner.clone());
        let Some((socket, pane)) = runner.as_ref().and_then(|runner| runner.pane.clone()) else {
            return line.presence(Presence::Absent { why: "its pane is not known".into() });
        };
        let server = Server::of_user(PathBuf::from(socket), self.place.files.home().work_dir().to_owned());
        let pins = match server.pane(&pane).await {
            Ok(found) if runner.is_some_and(|runner| runner.identity == found.pins.process) => found.pins,
            Ok(_) => return line.presence(Presence::Absent { why: format!("pane {pane} runs something else") }),
            Err(error) => return line.presence(Presence::Absent { why: format!("its pane cannot be seen: {error}") }),
        };
        let agent = Identity::of(pid);
        let ours = Identity::own();
        let younger = agent.as_ref().zip(ours.as_ref()).is_some_and(|(agent, ours)| agent.start > ours.start);
        if self.target.is_none() && self.at.is_none() && younger && line.at_hand().await.is_some() {
            // It was handed to a program that ended while no askd watched; this is its successor.
            self.ended(line, "its program ended while askd was away").await;
        }
        let target = Target { server, pins, agent, look: self.place.look };
        if self.target.is_none() {
            paste::purge(&target.server, self.place.files.home()).await.ok();
        }
        self.target = Some(target);
        line.connected();
        self.check_soon();
    }

    /// Has the screen looked at, at once after a success and ever later after failures in a row.
    fn check_soon(&mut self) {
        let now = Instant::now();
        let next = now + self.setback;
        self.check.get_or_insert(Check { next, pause: RECHECK.0.max(self.setback), since: now });
    }

    /// Looks at the screen (or, for a blind one, at its terminal) and tells when the agent can take something.
    async fn look_again(&mut self, line: &mut Line) {
        let (Some(target), Some(check)) = (&self.target, &mut self.check) else {
            self.check = None;
            return;
        };
        let seen = match target.look {
            Some(_) => paste::composer_state(target).await,
            None => None,
        };
        let held_back = if seen.is_none() { paste::held_back(target).await } else { None };
        let presence = match (seen, held_back) {
            (_, Some(why)) => Presence::Waiting { why },
            (Some(Sight::Composer { text, cursor: true }), None) if text.is_empty() => Presence::Idle,
            (Some(Sight::Composer { .. }), None) => Presence::Waiting { why: "there is text in its composer".into() },
            (Some(Sight::Busy(_)), None) => Presence::Busy { why: "in a turn that is not ours".into() },
            (Some(Sight::Dialog(words)), None) => {
                Presence::Waiting { why: format!("a dialog is open in its pane ({words})") }
            }
            (Some(Sight::Unclear), None) if check.since.elapsed() < SETTLE => {
                Presence::Starting { why: "its screen is not drawn yet".into() }
            }
            (Some(Sight::Unclear), None) => Presence::Waiting { why: "its screen is not understood".into() },
            // Blind by declaration, or free again just after its screen could not be read.
            (None, None) if target.look.is_some() => Presence::Starting { why: "its screen is not drawn yet".into() },
            (None, None)
                if target.agent.as_ref().is_some_and(Identity::reads_single_keys) || check.since.elapsed() > SETTLE =>
            {
                Presence::Idle
            }
            (None, None) => Presence::Starting { why: "its program does not read its terminal yet".into() },
        };
        if presence == Presence::Idle {
            self.check = None;
        } else {
            check.next = Instant::now() + check.pause;
            check.pause = (check.pause * 2).min(RECHECK.1);
        }
        line.presence(presence);
    }

    /// The program is gone: what it has written of our delivery is read to its end first, also of one that was
    /// handed over by an earlier askd.
    async fn ended(&mut self, line: &mut Line, why: &str) {
        if self.at.is_none()
            && let Some((id, attempt, kind)) = line.at_hand().await
        {
            self.follow_from_here(At::new(id, attempt, kind));
            self.transcript.rewind();
        }
        self.read(line);
        self.at = None;
        self.watch = None;
        self.target = None;
        self.check = None;
        line.gone(why);
    }

    async fn offer(&mut self, line: &mut Line, offer: Offer) {
        let Some(target) = self.target.clone() else {
            line.presence(Presence::Starting { why: "its program is not running".into() });
            return line.not_handed_over(&offer, "its program is not running");
        };
        let marked = self.place.completion == Completion::Marker && !offer.no_wrap;
        let text = match offer.kind {
            // The anchor heads it in any case: without it no answer could be told from another.
            Kind::Ask => prompt::envelope(&offer.id, &offer.message, marked),
            Kind::Notice { .. } => offer.message.clone(),
        };
        self.follow_from_here(At::new(offer.id.clone(), offer.attempt, offer.kind.clone()));
        let body = paste::Offer { home: self.place.files.home(), id: &offer.id, attempt: offer.attempt, text: &text };
        let (id, attempt) = (offer.id.clone(), offer.attempt);
        match paste::deliver(&target, &body, &|_| Ok(())).await {
            Delivery::Submitted { how } => {
                self.setback = Duration::ZERO;
                line.engine.tell(Input::HandedOver { id, attempt, how });
            }
            Delivery::NotHandedOver { why, wait } => {
                self.leave();
                self.setback = (self.setback * 2).clamp(RECHECK.0, RECHECK.1);
                // First the reason, so that the engine does not offer again at once.
                line.presence(if wait {
                    Presence::Waiting { why: why.clone() }
                } else {
                    Presence::Starting { why: why.clone() }
                });
                self.check_soon();
                line.not_handed_over(&offer, &why);
            }
            Delivery::Stuck { why } => {
                line.presence(Presence::Waiting {
                    why: format!("our text is in its composer and was not submitted: {why}"),
                });
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
                self.check_soon();
            }
            Delivery::Unknown { why } => line.engine.tell(Input::Doubt { id, attempt, why, last: false }),
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
                    self.check_soon();
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
        let (Some(at), Some(target)) = (&mut self.at, &self.target) else { return };
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
