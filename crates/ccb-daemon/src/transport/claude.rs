//! Hooked: Claude Code, by checked pastes into its pane.
//!
//! Three sources tell of it, and none is trusted alone. Its registry file says whether it is idle, busy or waiting
//! for an answer; its transcript says which turn took a delivery, and how that ended; its hooks say at once when to
//! look. Without hooks (`disableAllHooks`) the other two are enough. A turn is over when its record says so and the
//! registry no longer says *busy*: a user's own Stop hook, or a task in the background, may let it go on.

mod launch;
mod records;

use std::sync::Arc;
use std::time::Duration;

use ccb_core::id::RequestId;
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::provider::claude::Status;
use ccb_core::provider::claude::conversation::{Conversation, Mark};
use ccb_core::provider::hook::Hook;
use ccb_core::provider::{Provider, Rung};
use ccb_core::screen::{Look, Sight};
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::{Code, Order, Refusal, RunnerEvent};
use tokio::time::Instant;

use self::records::Records;
use super::ladder::{Launching, Ready, Way, always};
use super::seat::{Handed, Seat, is_younger};
use super::{Launch, Line, Offer, Task, until};
use crate::agents::Agents;
use crate::engine::log;
use crate::files::Files;
use crate::paste::{self, Edge, Pressed};
use crate::process::Identity;
use crate::tmux::Key;

/// How long a turn that was seen before may be missing in a transcript that is read anew, before it is over.
const GONE: Duration = Duration::from_secs(20);

/// How long an idle Claude's transcript may take to say how a turn ended. It is written in batches.
const CAP: Duration = Duration::from_secs(2);

/// How long an Enter may seem lost before the composer is looked at.
const LOST: Duration = Duration::from_millis(1500);

/// How often Enter is pressed again for one offer: what does not take it then is not going to.
const AGAIN: u32 = 3;

/// How soon after its Enter a prompt is in registry and transcript.
const SENT: Duration = Duration::from_secs(1);

/// How soon a transcript is looked for again of which no hook has told the place.
const SEARCH: Duration = Duration::from_millis(200);

/// How long Claude may show its composer without being in its registry: one that is not by then is an old one.
const UNREGISTERED: Duration = Duration::from_secs(10);

/// The ways to drive Claude.
pub(crate) const WAYS: &[Way] = &[
    Way { provider: Provider::Claude, rung: Rung::Hooked, fits: always, asks: false, prepare },
    Way { provider: Provider::Claude, rung: Rung::Watched, fits: always, asks: false, prepare },
];

/// Prepares a launch, hooked or watched.
fn prepare(launching: &Launching) -> Result<Ready, Refusal> {
    let launch = launch::prepare(launching)
        .map_err(|error| Refusal::new(Code::Launch, format!("cannot prepare the launch of Claude: {error}")))?;
    let (files, argv) = (launching.files.clone(), launch.argv.clone());
    let (session, anew) = (Some(launch.session.clone()), Some(launch.clone()));
    let drive = Box::new(|line, agents| Box::pin(run(line, files, launch, agents)) as _);
    Ok(Ready { session, anew, ..Ready::tui(argv, drive) })
}

/// Runs the transport of one agent until its tasks end.
async fn run(mut line: Line, files: Arc<Files>, launch: Launch, agents: Agents) {
    line.presence(Presence::Starting { why: "Claude starts".into() });
    let rung = agents.lock().get(&line.agent).map_or(Rung::Hooked, |slot| slot.rung.0);
    let mut driver = Claude {
        rung,
        seat: Seat::new(&files, Some(Look::Boxed)),
        records: Records::new(launch.records.clone(), launch.session.clone()),
        launch,
        agents,
        at: None,
        seen: None,
        since: Instant::now(),
        asks_for: None,
        resumable: false,
    };
    loop {
        let at = driver.at.as_ref();
        let cap = at.and_then(|at| at.cap);
        let lost = at.and_then(|at| at.lost);
        let gone = at.and_then(|at| at.gone.as_ref().map(|(due, _)| *due));
        let search = at.filter(|_| !driver.records.is_found()).map(|at| at.search);
        let check = driver.seat.due();
        tokio::select! {
            biased;
            task = line.task() => match task {
                None => return,
                Some(task) => driver.task(&mut line, task).await,
            },
            () = driver.records.changed() => driver.look_around(&mut line).await,
            () = until(cap) => driver.run_out(&mut line).await,
            () = until(lost) => driver.enter_was_lost(&mut line).await,
            () = until(gone) => driver.is_gone(&mut line).await,
            () = until(search) => driver.search(&mut line).await,
            () = until(check) => driver.check(&mut line).await,
        }
    }
}

struct Claude {
    launch: Launch,
    agents: Agents,
    /// The rung that it was launched on.
    rung: Rung,
    seat: Seat,
    records: Records,
    /// The delivery that is at the agent.
    at: Option<At>,
    /// What the screen showed at the last look, while it is being looked at.
    seen: Option<Presence>,
    /// When the program was started.
    since: Instant,
    /// The tool for which a permission is wanted, as a hook has told.
    asks_for: Option<String>,
    /// Whether the runner was told to resume the session at the next start.
    resumable: bool,
}

/// What was heard of hooks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Nothing,
    /// Some hook.
    Hook,
    /// The one that tells the end.
    End,
}

/// A delivery at the agent.
struct At {
    id: RequestId,
    attempt: u32,
    conversation: Conversation,
    /// What was pasted.
    text: String,
    /// The turn that was told, and whether it was told to be mixed.
    told: Option<(String, bool)>,
    /// Whether our text is in the composer, put there by us and not submitted.
    stuck: bool,
    /// How often Enter was pressed again.
    again: u32,
    /// Whether we have pressed the key that stops it.
    interrupted: bool,
    /// What was heard of hooks since it was offered.
    heard: Heard,
    /// Since when the registry said what it said when the delivery was offered: that says nothing of it.
    stale: Option<i64>,
    cap: Option<Instant>,
    lost: Option<Instant>,
    /// The turn that an earlier askd has seen it in, while the transcript does not have it; and when it is over by that.
    gone: Option<(Instant, String)>,
    search: Instant,
}

impl At {
    fn new(id: RequestId, attempt: u32, text: String) -> Self {
        Self {
            conversation: Conversation::new(id.clone(), Some(&ccb_core::paste::neutralise(&text))),
            id,
            attempt,
            text,
            told: None,
            stuck: false,
            again: 0,
            interrupted: false,
            heard: Heard::Nothing,
            stale: None,
            cap: None,
            lost: None,
            gone: None,
            search: Instant::now(),
        }
    }

    /// Whether nothing was seen of it yet.
    fn is_unseen(&self) -> bool {
        self.conversation.turn().is_none() && self.conversation.rejection().is_none()
    }
}

impl Claude {
    async fn task(&mut self, line: &mut Line, task: Task) {
        match task {
            Task::Offer(offer) => self.offer(line, offer).await,
            Task::Interrupt { id, .. } => self.interrupt(line, &id).await,
            Task::Reconcile { id, attempt, turn, last, .. } => self.reconcile(line, (id, attempt), turn, last).await,
            Task::Hook(hook) => self.hook(line, hook).await,
            Task::Launch(launch) => self.launched(*launch),
            Task::Runner(RunnerEvent::TuiStarted { pid }) => self.started(line, pid).await,
            Task::Runner(RunnerEvent::TuiEnded { how, again }) => {
                let next = if again { "it is started again" } else { "start it with `ccb`" };
                self.ended(line, &format!("Claude ended ({how}); {next}")).await;
            }
            Task::Runner(RunnerEvent::Closed | RunnerEvent::ServerStarted { .. } | RunnerEvent::ServerEnded { .. }) => {
            }
            Task::Glance(tell) => {
                self.seat.check_soon();
                if let Some(seen) = self.seat.look().await {
                    tell.send(seen).ok();
                }
            }
            Task::RunnerGone { why } => self.ended(line, &why).await,
        }
    }

    /// It is launched anew, perhaps with other options: what runs already stays, its next start is by these.
    fn launched(&mut self, launch: Launch) {
        if self.seat.is_free() {
            self.records = Records::new(launch.records.clone(), launch.session.clone());
        }
        self.launch = launch;
        self.resumable = false;
    }

    async fn started(&mut self, line: &mut Line, pid: u32) {
        if self.seat.is_free() && self.at.is_none() && is_younger(pid) && line.at_hand().await.is_some() {
            // It was handed to a Claude that ended while no askd watched; this is its successor.
            self.ended(line, "Claude ended while askd was away").await;
        }
        if let Err(why) = self.seat.take(line, &self.agents, pid).await {
            return line.presence(Presence::Absent { why });
        }
        self.since = Instant::now();
        self.seen = None;
        // Before it is seen that Claude has gone to another session: what it took before stands in the one that was kept.
        if self.at.is_none()
            && let Some((id, attempt, _)) = line.at_hand().await
        {
            self.read_anew(line, id, attempt).await;
        }
        self.records.follow(Identity::of(pid));
        self.seat.check_soon();
        line.connected();
        self.look_around(line).await;
    }

    /// Claude is gone: what it has written of our delivery is read to its end first, also of one that was handed over
    /// by an earlier askd.
    async fn ended(&mut self, line: &mut Line, why: &str) {
        // First of all that nothing can be offered to it: what it still has to tell makes room for the next delivery.
        line.presence(Presence::Starting { why: why.to_owned() });
        self.seat.leave();
        if self.at.is_none()
            && let Some((id, attempt, _)) = line.at_hand().await
        {
            self.read_anew(line, id, attempt).await;
        }
        self.catch_up(line).await;
        if self.at.as_ref().is_some_and(|at| at.conversation.mark().is_some() || at.conversation.is_whole()) {
            self.finish(line);
        }
        self.forget();
        self.seen = None;
        self.asks_for = None;
        self.records.leave();
        line.gone(why).await;
    }

    /// A hook was called: it says when to look, and where the transcript is.
    async fn hook(&mut self, line: &mut Line, hook: Hook) {
        if self.seat.is_free() {
            return;
        }
        if let Some(at) = &mut self.at {
            at.heard = at.heard.max(if hook.tells_end() { Heard::End } else { Heard::Hook });
        }
        self.agents.unheard(&line.agent, None);
        self.asks_for = hook.tool.filter(|_| hook.event == "PermissionRequest");
        if let Some(path) = hook.transcript {
            self.records.found(&hook.session, path.into());
        }
        self.look_around(line).await;
    }

    async fn search(&mut self, line: &mut Line) {
        if let Some(at) = &mut self.at {
            at.search = Instant::now() + SEARCH;
        }
        self.look_around(line).await;
    }

    /// Takes notice of what is new, and tells what Claude is doing.
    async fn look_around(&mut self, line: &mut Line) {
        if self.seat.is_free() {
            return;
        }
        let status = self.records.status().cloned();
        self.catch_up(line).await;
        let rests = self.records.status() == Some(&Status::Idle) && status != Some(Status::Idle);
        if rests && self.at.as_ref().is_some_and(|at| at.stuck) {
            self.seat.check_soon();
        }
        if rests && self.seat.due().is_some() {
            // What the screen is looked at for may have changed with it.
            return self.check(line).await;
        }
        self.show(line);
    }

    /// Reads what is new in registry and transcript, and tells what that means for the delivery. Whoever reads does it
    /// by this: what was read and not told would never be told.
    async fn catch_up(&mut self, line: &mut Line) {
        let before = self.records.session().to_owned();
        self.read();
        if self.records.session() != before {
            let session = self.records.session().to_owned();
            log(&format!("{}: Claude went from session {before} to {session}", line.agent));
            if let Some((id, attempt, _)) = line.at_hand().await {
                self.agents.set_moved(&line.agent, &id, attempt).await;
            }
            self.agents.set_session(&line.agent, &session).await;
            self.resumable = false;
        }
        if !self.resumable && self.records.is_found() {
            let argv = self.launch.resume(self.records.session());
            self.resumable = self.agents.order(&line.agent, &Order::Next { argv });
        }
        self.tell(line);
        self.decide(line);
    }

    /// Reads registry and transcript. In another session than before, a turn of the old one is over.
    fn read(&mut self) {
        let Some(at) = &mut self.at else {
            self.records.read(|_| {});
            return;
        };
        self.records.read(|text| at.conversation.take(text));
    }

    /// Tells which turn took the delivery, as soon as that is known.
    fn tell(&mut self, line: &Line) {
        let Some(at) = &mut self.at else { return };
        let Some(turn) = at.conversation.turn() else { return };
        let now = (turn.to_owned(), at.conversation.is_mixed());
        if at.told.as_ref() != Some(&now) {
            at.stuck = false;
            at.lost = None;
            let (turn, mixed) = now.clone();
            line.engine.tell(Input::Consumed { id: at.id.clone(), turn, source: "transcript".into(), mixed });
            at.told = Some(now);
        }
    }

    /// Ends the delivery if it is over.
    fn decide(&mut self, line: &mut Line) {
        let Some(at) = &mut self.at else { return };
        if let Some(rejection) = at.conversation.rejection() {
            let (id, turn) = (at.id.clone(), rejection.record.clone());
            let message = format!("a UserPromptSubmit hook of the user refused it: {}", rejection.reason);
            let end = TurnEnd::Failed { reason: Failure::Provider, message, partial: String::new() };
            let consumed =
                Input::Consumed { id: id.clone(), turn: turn.clone(), source: "transcript".into(), mixed: false };
            line.engine.tell(consumed);
            self.leave(line, Input::TurnEnded { id, turn, end, by: EndedBy::Record });
            return self.seat.check_soon();
        }
        if at.conversation.turn().is_none() {
            return;
        }
        let status = self.records.status();
        let fresh = at.stale.is_none_or(|stale| self.records.since() != stale);
        let resting = match status {
            Some(Status::Idle) => true,
            // One that a human has opened after the turn. Another may have opened in the middle of it.
            Some(Status::Waiting(what)) => what == "dialog open" && at.conversation.mark().is_some(),
            Some(Status::Busy) => false,
            None => at.conversation.mark().is_some(),
        };
        // Between the end of its agent in the background and the turn which that brings about, Claude is idle.
        let marked = at.conversation.mark().is_some() && !at.conversation.is_pending();
        // A completed turn that leaves nothing behind is over, whatever Claude is at by now.
        let completed = marked && at.conversation.mark() == Some(&Mark::Completed);
        let followed = at.conversation.is_followed();
        if completed || (marked && (resting || followed)) {
            self.finish(line);
        } else if (resting && fresh) || followed {
            at.cap.get_or_insert(Instant::now() + CAP);
        } else {
            at.cap = None;
        }
    }

    /// Claude has been idle for as long as its transcript may take, which says no more.
    async fn run_out(&mut self, line: &mut Line) {
        self.look_around(line).await;
        let Some(at) = self.at.as_ref().filter(|at| at.cap.is_some_and(|cap| cap <= Instant::now())) else { return };
        let ours = (at.interrupted && at.conversation.mark().is_none()).then(|| (at.id.clone(), at.text.clone()));
        self.finish(line);
        if let (Some((id, text)), Some(target)) = (ours, self.seat.target()) {
            // Interrupted before it had said anything, Claude puts the prompt back into its composer.
            let taken = paste::take_back(target, &text).await;
            log(&format!("{}: taking {id} back from its composer: {taken:?}", line.agent));
        }
        self.show(line);
    }

    /// The turn that took the delivery is in no transcript any more: unless Claude is at something, it is over.
    async fn is_gone(&mut self, line: &mut Line) {
        self.look_around(line).await;
        let idle = self.records.status().is_none_or(|status| *status == Status::Idle);
        let Some(at) = &mut self.at else { return };
        let Some((_, turn)) = at.gone.take().filter(|_| at.is_unseen()) else { return };
        if !idle {
            at.gone = Some((Instant::now() + GONE, turn));
            return;
        }
        let message = "its turn is not in Claude's transcript any more".to_owned();
        let end = TurnEnd::Failed { reason: Failure::AgentGone, message, partial: String::new() };
        let id = at.id.clone();
        self.leave(line, Input::TurnEnded { id, turn, end, by: EndedBy::Record });
    }

    /// Tells how the turn ended.
    fn finish(&mut self, line: &mut Line) {
        let Some(at) = &self.at else { return };
        let Some(turn) = at.conversation.turn().map(str::to_owned) else { return };
        let by = if at.heard == Heard::End { EndedBy::Hook } else { EndedBy::Record };
        if self.rung == Rung::Hooked && at.heard == Heard::Nothing {
            let why = "no hook of it was heard in its last turn: they may be switched off (disableAllHooks)";
            self.agents.unheard(&line.agent, Some(why));
        }
        let (id, end) = (at.id.clone(), at.conversation.end());
        let unmarked = at.conversation.mark().is_none();
        if unmarked {
            // An early Esc: the prompt may be back in the composer.
            self.seen = None;
            self.seat.check_soon();
        }
        self.agents.turn_ended(&line.agent, &end);
        self.leave(line, Input::TurnEnded { id, turn, end, by });
    }

    /// The delivery is over for us. What the agent does next is told first: the end makes the engine offer.
    fn leave(&mut self, line: &mut Line, end: Input) {
        self.forget();
        self.show(line);
        line.engine.tell(end);
    }

    fn forget(&mut self) {
        self.at = None;
        self.records.rest();
    }

    /// Tells what Claude is doing, by its registry and, while that is looked at, its screen.
    fn show(&mut self, line: &mut Line) {
        if self.seat.is_free() {
            return;
        }
        let presence = match (self.records.status(), &self.seen.clone()) {
            (Some(Status::Waiting(what)), _) => {
                let tool = self.asks_for.as_ref().map(|tool| format!(": {tool}")).unwrap_or_default();
                // After a refusal it asks what to do until the limit is over.
                let limit = self.agents.limit(&line.agent).map(|limit| format!(": {limit}")).unwrap_or_default();
                Presence::Waiting { why: format!("it asks for an answer in its pane ({what}{tool}){limit}") }
            }
            (Some(Status::Busy), _) => {
                // The registry tells when that is over; until then the screen changes all the time.
                self.seat.look_no_more();
                self.seen = None;
                let whose = if self.at.is_some() { "in a turn" } else { "in a turn that is not ours" };
                Presence::Busy { why: whose.into() }
            }
            (Some(Status::Idle), Some(seen)) if self.seat.due().is_some() => seen.clone(),
            (Some(Status::Idle), None) if self.seat.due().is_some() => return,
            (Some(Status::Idle), _) => Presence::Idle,
            (None, Some(Presence::Idle)) if self.since.elapsed() < UNREGISTERED => {
                self.seat.check_again();
                Presence::Starting { why: "Claude has not said yet that it is ready".into() }
            }
            (None, Some(seen)) => seen.clone(),
            (None, None) => Presence::Starting { why: "Claude starts".into() },
        };
        line.presence(presence);
    }

    /// Submits what we had pasted and could not submit, if it is still wanted and Claude is idle with it.
    async fn press_enter_again(&mut self, line: &Line) {
        let stuck = self.at.as_ref().filter(|at| at.stuck && at.again < AGAIN);
        let Some(id) = stuck.map(|at| at.id.clone()) else { return };
        if self.records.status() != Some(&Status::Idle) || !line.is_wanted(&id).await {
            return;
        }
        let (Some(at), Some(target)) = (&mut self.at, self.seat.target()) else { return };
        match paste::retry_enter(target, &at.text).await {
            Pressed::Done => {
                log(&format!("{}: Enter for {id}, which was still in its composer", line.agent));
                at.stuck = false;
                at.again += 1;
                at.lost = Some(Instant::now() + LOST);
            }
            Pressed::Refused { .. } => {}
            Pressed::Unknown { why } => log(&format!("{}: Enter for {id}: {why}", line.agent)),
        }
    }

    /// Looks at the screen that something waits for.
    async fn check(&mut self, line: &mut Line) {
        self.catch_up(line).await;
        self.press_enter_again(line).await;
        self.seen = self.seat.look().await;
        self.show(line);
    }

    async fn offer(&mut self, line: &mut Line, offer: Offer) {
        self.catch_up(line).await;
        match self.records.status() {
            Some(Status::Idle) => {}
            None if self.since.elapsed() > UNREGISTERED => {}
            Some(Status::Busy | Status::Waiting(_)) | None => {
                self.show(line);
                return line.not_handed_over(&offer, "Claude is not idle");
            }
        }
        let bodies = self.seat.bodies();
        let Some(text) = self.seat.prepare(line, &offer, false, Some(&bodies)) else { return };
        let mut at = At::new(offer.id.clone(), offer.attempt, text.clone());
        at.stale = self.records.status().map(|_| self.records.since());
        self.records.begin(false);
        self.at = Some(at);
        let idle = self.records.asks_whether_idle();
        let gate = move |edge: Edge| match (idle(), edge) {
            (true, _) => Ok(()),
            (false, Edge::Paste) => Err("Claude has just become busy".to_owned()),
            (false, Edge::Enter) => Err("Claude became busy with something else meanwhile".to_owned()),
        };
        let handed = self.seat.deliver(line, &offer, &text, &gate).await;
        self.seen.clone_from(&line.told);
        let Some(at) = &mut self.at else { return };
        match handed {
            Handed::Over => at.lost = Some(Instant::now() + LOST),
            Handed::Stuck | Handed::Missing => at.stuck = true,
            Handed::Unknown => {}
            Handed::Back => self.forget(),
        }
        if handed != Handed::Back {
            self.look_around(line).await;
        }
    }

    /// Enter was pressed and nothing has come of it: if our text is still in the composer, it is pressed again.
    async fn enter_was_lost(&mut self, line: &mut Line) {
        self.catch_up(line).await;
        let Some(at) = &mut self.at else { return };
        at.lost = None;
        if at.is_unseen() && self.records.status() == Some(&Status::Idle) {
            at.stuck = true;
            self.seat.check_soon();
        }
    }

    async fn interrupt(&mut self, line: &mut Line, id: &RequestId) {
        // What was seen a moment ago may be over: the same key then closes what a human has opened.
        self.catch_up(line).await;
        let (Some(at), Some(target)) = (&mut self.at, self.seat.target()) else { return };
        let in_a_turn = match self.records.status() {
            Some(Status::Busy) | None => true,
            Some(Status::Waiting(what)) => what != "dialog open",
            // The same key opens a dialog there.
            Some(Status::Idle) => false,
        };
        if at.id != *id || at.conversation.turn().is_none() || !in_a_turn {
            return;
        }
        let pressed = paste::interrupt(target, Key::Escape).await;
        log(&format!("{}: interrupt for {id}: {pressed:?}", line.agent));
        at.interrupted |= pressed == Pressed::Done;
    }

    /// Finds out where a delivery stands.
    async fn reconcile(&mut self, line: &mut Line, (id, attempt): (RequestId, u32), bound: Option<String>, last: bool) {
        if self.at.as_ref().is_none_or(|at| at.id != id || at.attempt != attempt) {
            self.read_anew(line, id.clone(), attempt).await;
        } else if let Some(at) = &mut self.at {
            at.told = None;
        }
        self.look_around(line).await;
        let stuck = match &self.at {
            Some(at) if at.is_unseen() => at.stuck,
            Some(_) | None => return,
        };
        if let (Some(turn), Some(at)) = (bound, &mut self.at) {
            at.gone.get_or_insert((Instant::now() + GONE, turn));
            return;
        }
        // What an earlier askd has left in the composer is told, also while nothing waits for it.
        self.seat.check_soon();
        let untaken = (stuck || last) && self.is_surely_untaken(line).await;
        // What another session's transcript does not hold may have been taken in the one before.
        let moved = self.agents.moved(&line.agent, &id, attempt).await;
        if !self.at.as_ref().is_some_and(At::is_unseen) {
            return;
        }
        if stuck && !untaken {
            let why = "our text is in Claude's composer and was not submitted".to_owned();
            return line.engine.tell(Input::Doubt { id, attempt, why, last: false });
        }
        if last && untaken && !moved {
            let proof = "its transcript does not hold it, Claude is idle, and its composer is empty".to_owned();
            self.forget();
            return line.engine.tell(Input::NotTaken { id, attempt, proof });
        }
        // Behind a turn of somebody else's it may be queued, and is seen when that is over.
        let last = last && !matches!(self.records.status(), Some(Status::Busy | Status::Waiting(_)));
        let why = "it is not in Claude's transcript, which does not prove that it is not on its way".to_owned();
        line.engine.tell(Input::Doubt { id, attempt, why, last });
    }

    /// Whether the pinned Claude is idle, with an empty composer, and its transcript, read to its end, does not hold
    /// the delivery: seen twice, because what a human has just sent is in registry and transcript within that pause.
    async fn is_surely_untaken(&mut self, line: &mut Line) -> bool {
        if !self.seems_untaken().await {
            return false;
        }
        tokio::time::sleep(SENT).await;
        self.catch_up(line).await;
        self.seems_untaken().await
    }

    async fn seems_untaken(&self) -> bool {
        let (Some(at), Some(target)) = (&self.at, self.seat.target()) else { return false };
        let idle = at.is_unseen() && self.records.status() == Some(&Status::Idle);
        let has_read_all = target.has_read_all();
        let seen = paste::composer_state(target).await;
        idle && has_read_all && matches!(seen, Some(Sight::Composer { text, cursor: true }) if text.is_empty())
    }

    /// Takes up a delivery that was offered before, and reads the whole transcript for it.
    async fn read_anew(&mut self, line: &Line, id: RequestId, attempt: u32) {
        let wanted = id.clone();
        let found = line
            .engine
            .look(move |view| view.state.requests.get(&wanted).map(|r| (r.kind.clone(), r.message.clone(), r.no_wrap)));
        let Some((kind, message, no_wrap)) = found.await.ok().flatten() else { return };
        let offer = Offer { id: id.clone(), attempt, kind, message, no_wrap };
        let bodies = self.seat.bodies();
        let text = Seat::text(&line.agent, &offer, false, Some(&bodies)).unwrap_or_else(|_| offer.text(false));
        let mut at = At::new(id, attempt, text);
        at.conversation.reads_all();
        self.at = Some(at);
        self.records.begin(true);
    }
}
