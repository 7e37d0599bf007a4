//! The driver of every agent that is driven by paste, hooked or watched: the text goes into its pane, and its records
//! and hooks tell what became of it. (Claude has a driver of its own.)
//!
//! Where the records are and what they say is in [`Records`], what that means for a delivery is pure and in
//! `ccb_core::provider::delivery`. A transcript is followed only while a delivery is at the agent, or while it tells
//! what the agent is doing. A screen is looked at again and again only while something waits for it: a draft leaves no
//! event when it goes.

use std::sync::Arc;
use std::time::Duration;

use ccb_core::config::{AgentConfig, Completion};
use ccb_core::id::RequestId;
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::provider::delivery::{self, Delivery, Finding};
use ccb_core::provider::hook::Hook;
use ccb_core::provider::{Observation, Provider, Rung};
use ccb_core::request::Kind;
use ccb_core::screen::{Look, Sight};
use ccb_core::settings;
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::{Order, RunnerEvent};
use tokio::time::Instant;

use super::follow::{Transcript, Watch};
use super::ladder::{Launching, Ready};
use super::records::{Question, Records};
use super::seat::{Handed, Seat, is_younger};
use super::storage::Storage;
use super::{Launch, Line, Offer, Task, until};
use crate::agents::Agents;
use crate::engine::log;
use crate::files::Files;
use crate::paste::{self, Pressed};
use crate::tmux::Key;

/// How long a turn that was seen before may be missing in records that are read anew, before it is over.
const GONE: Duration = Duration::from_secs(20);

/// How far apart the keys of an interrupt are: two Escapes in one piece are another key.
const APART: Duration = Duration::from_millis(150);

/// How long an interrupted program must be silent to have stopped.
const INTERRUPTED: Duration = Duration::from_secs(2);

/// How long the last words of a turn may take to the transcript once a hook has told its end.
const CAP: Duration = Duration::from_secs(2);

/// How soon the screen is looked at for what the records cannot tell alone: where something has told it, where nothing
/// has, and at the most.
const ASK: (Duration, Duration, Duration) =
    (Duration::from_millis(10), Duration::from_millis(300), Duration::from_millis(1500));

/// How long an Enter may seem lost before it is pressed again, where the composer still holds our text.
const LOST: Duration = Duration::from_millis(1500);

/// How often Enter is pressed again for one offer: what does not take it then is not going to.
const AGAIN: u32 = 3;

/// How one agent is driven.
pub(crate) struct Driven {
    /// The home.
    pub(crate) files: Arc<Files>,
    /// What tells of it.
    pub(crate) records: Box<dyn Records>,
    /// What its screen looks like; none: it is pasted into blindly.
    pub(crate) look: Option<Look>,
    /// The rung that it was launched on.
    pub(crate) rung: Rung,
    /// How the end of an answer is known.
    pub(crate) completion: Completion,
    /// How long it must say nothing for its answer to be taken for ended without an end; none: never.
    pub(crate) idle: Option<Duration>,
    /// The keys that stop a turn.
    pub(crate) interrupt: &'static [Key],
    /// How it goes on in its session when it is started again; none: as it was started first.
    pub(crate) launch: Option<Launch>,
}

/// Returns how long an agent must say nothing for an answer without an end to be over; none: for ever.
pub(crate) fn idle_window(config: &AgentConfig) -> Option<Duration> {
    settings::idle_window(config.provider, config.idle_timeout, |name| std::env::var(name).ok())
}

/// Prepares a launch of an agent's own CLI, whose records tell the end of an answer.
pub(crate) fn ready(
    launching: &Launching,
    launch: Launch,
    records: impl Records + 'static,
    look: Look,
    interrupt: &'static [Key],
) -> Ready {
    let (argv, anew) = (launch.argv.clone(), Some(launch.clone()));
    let driven = Driven {
        files: launching.files.clone(),
        records: Box::new(records),
        look: Some(look),
        rung: launching.rung,
        completion: Completion::Record,
        idle: None,
        interrupt,
        launch: Some(launch),
    };
    let drive = Box::new(|line, agents| Box::pin(run(line, driven, agents)) as _);
    Ready { anew, ..Ready::tui(argv, drive) }
}

/// Prepares a launch of a configured command.
pub(crate) fn prepare(launching: &Launching) -> Ready {
    let argv = std::iter::once(&launching.program).chain(&launching.config.args).cloned().collect();
    let (files, config) = (launching.files.clone(), &launching.config);
    let project = files.home().work_dir();
    let transcript = project.join(config.transcript.as_deref().unwrap_or_default());
    let records: Box<dyn Records> = match config.provider {
        Provider::Opencode => Box::new(Storage::new(transcript, project.to_owned())),
        provider @ (Provider::Claude | Provider::Codex | Provider::Gemini | Provider::Droid) => {
            Box::new(Transcript::new(transcript, provider))
        }
    };
    let driven = Driven {
        records,
        look: config.screen,
        rung: launching.rung,
        completion: config.completion,
        idle: idle_window(config),
        interrupt: &[Key::Escape],
        launch: None,
        files,
    };
    Ready::tui(argv, Box::new(|line, agents| Box::pin(run(line, driven, agents)) as _))
}

/// Runs the transport of one agent until its tasks end.
pub(crate) async fn run(mut line: Line, how: Driven, agents: Agents) {
    line.presence(Presence::Starting { why: "its program starts".into() });
    let seat = Seat::new(&how.files, how.look);
    let mut driver = Watched {
        driven: how,
        agents,
        watch: None,
        at: None,
        past: None,
        seat,
        doing: None,
        held: false,
        session: None,
        next: None,
        ask: None,
    };
    loop {
        let at = driver.at.as_ref();
        let quiet = at.and_then(|at| at.silence);
        let cap = at.and_then(|at| at.cap);
        let check = driver.seat.due();
        let due = driver.driven.records.due();
        let lost = at.and_then(|at| at.lost);
        let gone = at.and_then(|at| at.gone.as_ref().map(|(due, _)| *due));
        let ask = driver.ask.map(|(at, _)| at);
        tokio::select! {
            biased;
            task = line.task() => match task {
                None => return,
                Some(task) => driver.task(&mut line, task).await,
            },
            () = changed(&mut driver.watch) => driver.look_around(&mut line).await,
            () = until(due) => driver.look_around(&mut line).await,
            () = until(cap) => driver.run_out(&mut line),
            () = until(lost) => driver.enter_was_lost(&mut line).await,
            () = until(quiet) => driver.fell_quiet(&mut line),
            () = until(gone) => driver.is_gone(&mut line),
            () = until(ask) => driver.ask_screen(&mut line).await,
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
    driven: Driven,
    agents: Agents,
    watch: Option<Watch>,
    /// The delivery that is at the agent.
    at: Option<At>,
    /// The last delivery, if silence alone has ended it: its true end may still come.
    past: Option<At>,
    /// The pane that the program runs in.
    seat: Seat,
    /// What the last observation says the agent is doing, where that is anything but going on.
    doing: Option<Presence>,
    /// Whether it is not free by its records: its screen is not looked at until they say otherwise.
    held: bool,
    /// The provider's session that is kept.
    session: Option<String>,
    /// The command line that the runner was told for its next start.
    next: Option<Vec<String>>,
    /// When the screen is asked for what the records cannot tell alone, and how long after that again.
    ask: Option<(Instant, Duration)>,
}

/// A delivery at the agent.
struct At {
    id: RequestId,
    attempt: u32,
    delivery: Delivery,
    /// When it has been quiet for so long that it is over.
    silence: Option<Instant>,
    /// Until when the text is waited for of a turn whose end a hook has told.
    cap: Option<Instant>,
    /// Whether we have pressed the key that stops it.
    interrupted: bool,
    /// Whether a hook was heard since it came.
    hooked: bool,
    /// What was pasted.
    text: Option<String>,
    /// When it is looked whether our text is still in the composer.
    lost: Option<Instant>,
    /// The turn that an earlier askd has seen it in, while the records do not have it; and when it is over by that.
    gone: Option<(Instant, String)>,
    /// How often Enter was pressed again, or a text that is missing was looked for.
    again: u32,
    /// Whether it was pasted without an Enter, and its composer has been empty at each look since.
    missing: bool,
}

impl Watched {
    async fn task(&mut self, line: &mut Line, task: Task) {
        match task {
            Task::Offer(offer) => self.offer(line, offer).await,
            Task::Interrupt { id, .. } => self.interrupt(line, &id).await,
            Task::Reconcile { id, attempt, kind, turn, last, .. } => {
                self.reconcile(line, (id, attempt, kind), turn, last).await;
            }
            Task::Hook(hook) => self.hook(line, &hook).await,
            Task::Launch(launch) => self.launched(*launch),
            Task::Runner(RunnerEvent::TuiStarted { pid }) => self.started(line, pid).await,
            Task::Runner(RunnerEvent::TuiEnded { how, again }) => {
                let next = if again { "it is started again" } else { "start it with `ccb`" };
                self.ended(line, &format!("its program ended ({how}); {next}")).await;
            }
            Task::Runner(RunnerEvent::Closed | RunnerEvent::ServerStarted { .. } | RunnerEvent::ServerEnded { .. }) => {
            }
            Task::Glance(tell) => {
                // Whoever starts it again goes on in the session that it is in now.
                self.look_around(line).await;
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
            self.driven.records.launched(&launch);
        }
        self.driven.launch = Some(launch);
        self.next = None;
    }

    /// The program runs: pins the pane and waits until it can take something.
    async fn started(&mut self, line: &mut Line, pid: u32) {
        if self.seat.is_free() && self.at.is_none() && is_younger(pid) && line.at_hand().await.is_some() {
            // It was handed to a program that ended while no askd watched; this is its successor.
            self.ended(line, "its program ended while askd was away").await;
        }
        match self.seat.take(line, &self.agents, pid).await {
            Ok(()) => {
                (self.doing, self.held) = (None, false);
                self.driven.records.started(pid);
                self.seat.check_soon();
                line.connected();
                self.attend();
                self.show(line);
            }
            Err(why) => line.presence(Presence::Absent { why }),
        }
    }

    /// The program is gone: what it has written of our delivery is read to its end first, also of one that was
    /// handed over by an earlier askd.
    async fn ended(&mut self, line: &mut Line, why: &str) {
        // First of all that nothing can be offered to it: what it still has to tell makes room for the next delivery.
        line.presence(Presence::Starting { why: why.to_owned() });
        self.seat.leave();
        if self.at.is_none()
            && let Some((id, attempt, kind)) = line.at_hand().await
        {
            self.follow_from_the_start(id, attempt, kind);
        }
        self.read(line);
        if let Some(finding) = self.at.as_mut().and_then(|at| at.delivery.gone(why)) {
            self.tell(line, finding);
        }
        (self.at, self.past) = (None, None);
        self.watch = None;
        (self.doing, self.held) = (None, false);
        line.gone(why).await;
    }

    async fn offer(&mut self, line: &mut Line, offer: Offer) {
        let marked = self.driven.completion == Completion::Marker && !offer.no_wrap;
        let bodies = self.driven.records.bodies(self.seat.bodies());
        let Some(text) = self.seat.prepare(line, &offer, marked, bodies.as_deref()) else { return };
        // What it has still said to the last one.
        self.read(line);
        if self.held {
            return line.not_handed_over(&offer, "it is not idle by its own records");
        }
        self.follow_from_here(offer.id.clone(), offer.attempt, offer.kind.clone());
        if let Some(at) = &mut self.at {
            at.delivery.pastes(&text);
        }
        match self.seat.deliver(line, &offer, &text, &|_| self.driven.records.gate()).await {
            Handed::Back => self.at = None,
            handed @ (Handed::Over | Handed::Stuck | Handed::Missing) => {
                let again = |look: Look| handed != Handed::Stuck || look.loses_enter();
                if let Some(at) = self.at.as_mut().filter(|_| self.driven.look.is_some_and(again)) {
                    at.lost = Some(Instant::now() + LOST);
                    at.text = Some(text);
                    at.missing = handed == Handed::Missing;
                }
            }
            Handed::Unknown => {}
        }
        self.look_around(line).await;
    }

    /// Follows the records for this delivery: all that is in them already is older.
    fn follow_from_here(&mut self, id: RequestId, attempt: u32, kind: Kind) {
        let delivery = Delivery::new(id.clone(), kind, self.driven.completion, self.driven.records.binding());
        self.at = Some(At {
            id,
            attempt,
            delivery,
            silence: None,
            cap: None,
            interrupted: false,
            hooked: false,
            text: None,
            lost: None,
            gone: None,
            again: 0,
            missing: false,
        });
        self.attend();
        self.driven.records.skip();
    }

    /// Follows the records for a delivery that may be in them already.
    fn follow_from_the_start(&mut self, id: RequestId, attempt: u32, kind: Kind) {
        let known = self.at.take().filter(|at| at.id == id && at.attempt == attempt);
        self.follow_from_here(id, attempt, kind);
        if let (Some(at), Some(known)) = (&mut self.at, known) {
            // Only what the records tell is read once more.
            *at = At { delivery: at.delivery.clone(), ..known };
        }
        self.driven.records.rewind();
        if let Some(past) = &mut self.past {
            past.delivery.stand_apart();
        }
    }

    /// Watches the records while there is a reason to.
    fn attend(&mut self) {
        let told = !self.seat.is_free() && self.driven.records.presence().is_some();
        if self.at.is_none() && self.past.is_none() && !told {
            self.watch = None;
            return;
        }
        let places = self.driven.records.places();
        match &mut self.watch {
            Some(watch) => watch.follow(places),
            None => self.watch = Some(Watch::on_all(places)),
        }
    }

    /// Takes notice of all that is new.
    async fn look_around(&mut self, line: &mut Line) {
        self.read(line);
        self.keep_session(line).await;
    }

    /// A hook was called: whatever it says, there may be news.
    async fn hook(&mut self, line: &mut Line, hook: &Hook) {
        if self.seat.is_free() {
            return;
        }
        if let Some(at) = &mut self.at {
            at.hooked = true;
        }
        self.agents.unheard(&line.agent, None);
        self.read(line);
        let before = self.driven.records.session();
        let seen = self.driven.records.hook(hook);
        let now = self.driven.records.session();
        let told = seen.iter().any(|seen| matches!(seen, Observation::SessionChanged { .. }));
        if let (Some(before), Some(now), false) = (&before, &now, told)
            && before != now
        {
            self.take(line, Observation::SessionChanged { session: now.clone() }, EndedBy::Hook);
        }
        for seen in seen {
            self.take(line, seen, EndedBy::Hook);
        }
        self.look_around(line).await;
    }

    /// Keeps the session that the agent is in, for its next start.
    async fn keep_session(&mut self, line: &Line) {
        if let Some(session) = self.driven.records.session().filter(|now| self.session.as_ref() != Some(now)) {
            if let Some(before) = &self.session {
                log(&format!("{}: it went from session {before} to {session}", line.agent));
            }
            self.agents.set_session(&line.agent, &session).await;
            self.session = Some(session);
        }
        let next = self.driven.launch.as_ref().and_then(|launch| self.driven.records.next_start(launch));
        if let Some(argv) = next.filter(|argv| self.next.as_ref() != Some(argv))
            && self.agents.order(&line.agent, &Order::Next { argv: argv.clone() })
        {
            self.next = Some(argv);
        }
    }

    /// Reads what is new in the records and tells what it says of our delivery and of the agent.
    fn read(&mut self, line: &mut Line) {
        let news = self.driven.records.news();
        if !news.is_empty() {
            self.ask = None;
        }
        for seen in news {
            self.take(line, seen, EndedBy::Record);
        }
        self.plan_to_ask();
        if let Some(at) = self.at.as_mut().filter(|at| at.delivery.is_told_over()) {
            if at.delivery.has_said() && self.driven.records.is_whole() {
                self.close(line);
            } else {
                at.cap.get_or_insert(Instant::now() + CAP);
            }
        }
        self.attend();
        self.show(line);
    }

    /// Plans to look at the screen while the records leave something open.
    fn plan_to_ask(&mut self) {
        let question = if self.seat.is_free() { None } else { self.driven.records.question() };
        let first = match question {
            None => return self.ask = None,
            Some(Question::Soon) => ASK.0,
            Some(Question::Later) => ASK.1,
        };
        let next = Instant::now() + first;
        if self.ask.is_none_or(|(at, pause)| next < at && first < pause) {
            self.ask = Some((next, first));
        }
    }

    /// Asks the screen what the records have left open.
    async fn ask_screen(&mut self, line: &mut Line) {
        self.read(line);
        let Some((_, pause)) = self.ask.filter(|(at, _)| *at <= Instant::now()) else { return };
        if let Some((sight, at_work)) = self.seat.glance().await {
            let (seen, told) = self.driven.records.answer(&sight, at_work);
            for seen in seen {
                self.take(line, seen, if told { EndedBy::Hook } else { EndedBy::Record });
            }
        }
        let pause = (pause * 2).min(ASK.2);
        self.ask = Some((Instant::now() + pause, pause));
        self.read(line);
    }

    /// Enter was pressed, or held back, and nothing has come of it: if our text is still alone in the composer, and is
    /// still wanted, it is pressed again. A text that is not there is lost if it does not come.
    async fn enter_was_lost(&mut self, line: &mut Line) {
        self.read(line);
        let Some(at) = &mut self.at else { return };
        at.lost = None;
        let open = at.delivery.turn().is_none() && !self.held && at.again < AGAIN;
        let Some(text) = at.text.clone().filter(|_| open) else { return };
        let (id, target) = (at.id.clone(), self.seat.target().cloned());
        let Some(target) = target else { return };
        if at.missing {
            at.again += 1;
            at.lost = Some(Instant::now() + LOST);
            let last = at.again == AGAIN;
            if self.is_paste_lost(line).await && last {
                self.paste_was_lost(line);
            }
            return;
        }
        if !line.is_wanted(&id).await {
            return;
        }
        let pressed = paste::retry_enter(&target, &text).await;
        log(&format!("{}: Enter for {id} once more, if its text is still in the composer: {pressed:?}", line.agent));
        if let Some(at) = self.at.as_mut().filter(|at| at.id == id) {
            at.again += 1;
            at.lost = Some(Instant::now() + LOST);
        }
        self.look_around(line).await;
    }

    /// Returns whether what was pasted is missing and lost; if it may come yet, it is waited for as any other.
    async fn is_paste_lost(&mut self, line: &mut Line) -> bool {
        let Some(target) = self.seat.target().filter(|_| self.at.as_ref().is_some_and(|at| at.missing)) else {
            return false;
        };
        // What a human has submitted is in the records by then, if they show an input.
        let lost = self.driven.records.shows_input() && paste::is_lost(target).await;
        self.read(line);
        let held = self.held;
        let Some(at) = self.at.as_mut().filter(|at| at.delivery.turn().is_none()) else { return false };
        if !lost || held {
            (at.missing, at.again) = (false, 0);
        }
        at.missing
    }

    /// The program has lost what was pasted: it can be given it once more.
    fn paste_was_lost(&mut self, line: &mut Line) {
        let Some(at) = self.at.take() else { return };
        self.attend();
        self.seat.check_soon();
        let proof = "its program has read the paste and shows an empty composer; Enter was not pressed".to_owned();
        line.engine.tell(Input::NotTaken { id: at.id, attempt: at.attempt, proof });
    }

    /// The text of an ended turn has not come to its transcript in time, or it has none.
    fn run_out(&mut self, line: &mut Line) {
        self.read(line);
        if self.at.as_ref().is_some_and(|at| at.cap.is_some_and(|cap| cap <= Instant::now())) {
            self.close(line);
        }
    }

    fn close(&mut self, line: &mut Line) {
        let Some(at) = &mut self.at else { return };
        at.cap = None;
        if let Some(finding) = at.delivery.close() {
            self.tell(line, finding);
        }
    }

    fn take(&mut self, line: &mut Line, seen: Observation, by: EndedBy) {
        self.doing = delivery::doing(&seen);
        if let Some(past) = &mut self.past {
            for finding in past.delivery.take(seen.clone(), by) {
                if let Finding::Ended(end, by) = finding {
                    let (id, turn) = (past.id.clone(), past.delivery.turn().unwrap_or_default().to_owned());
                    line.engine.tell(Input::TurnEnded { id, turn, end, by });
                }
            }
            if past.delivery.is_over() {
                self.past = None;
            }
        }
        let Some(at) = &mut self.at else { return };
        // Something was submitted, perhaps a part of what was pasted: to a program that was just starting.
        at.missing &= !matches!(seen, Observation::User { .. } | Observation::TurnBegan { .. });
        let findings = at.delivery.take(seen, by);
        // Where the mark is missing, or nothing better is there, silence ends it; after an interrupt, sooner.
        let window = if at.interrupted { Some(INTERRUPTED) } else { self.driven.idle };
        if at.interrupted || at.delivery.may_fall_quiet() {
            at.silence = window.map(|window| Instant::now() + window);
        }
        for finding in findings {
            self.tell(line, finding);
        }
    }

    fn tell(&mut self, line: &mut Line, finding: Finding) {
        let Some(at) = &self.at else { return };
        let (id, turn) = (at.id.clone(), at.delivery.turn().unwrap_or_default().to_owned());
        match finding {
            Finding::Consumed | Finding::Mixed => {
                let mixed = at.delivery.is_mixed();
                line.engine.tell(Input::Consumed { id, turn, source: "transcript".into(), mixed });
            }
            Finding::Ended(end, by) => {
                if self.driven.rung == Rung::Hooked && !at.hooked {
                    let why = "no hook of it was heard in its last turn: they may be switched off";
                    self.agents.unheard(&line.agent, Some(why));
                }
                self.agents.turn_ended(&line.agent, &end);
                self.past = self.at.take().filter(|at| !at.delivery.is_over());
                // What it does next is told first: the end makes the engine offer.
                self.attend();
                self.show(line);
                line.engine.tell(Input::TurnEnded { id, turn, end, by });
                if self.driven.look.is_some() && !self.held && !self.seat.is_free() {
                    self.seat.check_soon();
                }
            }
        }
    }

    /// Tells what the agent is doing by its records, where they know more than its screen.
    fn show(&mut self, line: &mut Line) {
        if self.seat.is_free() {
            return;
        }
        match self.driven.records.presence().or_else(|| self.doing.clone()) {
            Some(Presence::Idle) | None if self.held => {
                self.held = false;
                if self.at.is_some() {
                    // It goes on with our delivery: the engine knows at which.
                    line.presence(Presence::Idle);
                } else {
                    self.seat.check_soon();
                }
            }
            Some(Presence::Idle) | None => {}
            Some(other) => {
                // The records tell when that is over; until then the screen changes all the time.
                self.held = true;
                self.seat.look_no_more();
                line.presence(other);
            }
        }
    }

    fn fell_quiet(&mut self, line: &mut Line) {
        self.read(line);
        let waits = self.held;
        let Some(at) = &mut self.at else { return };
        if at.silence.is_none_or(|quiet| quiet > Instant::now()) {
            return;
        }
        at.silence = None;
        if waits {
            // It is known to be at something, or to wait for somebody: also after the key that was to stop it.
            let window = if at.interrupted { Some(INTERRUPTED) } else { self.driven.idle };
            at.silence = window.map(|window| Instant::now() + window);
            return;
        }
        if let Some(finding) = at.delivery.silent(at.interrupted) {
            self.tell(line, finding);
        }
    }

    /// Reads all the records for a delivery. Without its anchor nothing is proved: a paste may be on its way.
    async fn reconcile(
        &mut self,
        line: &mut Line,
        (id, attempt, kind): (RequestId, u32, Kind),
        bound: Option<String>,
        last: bool,
    ) {
        let is_notice = matches!(kind, Kind::Notice { .. });
        self.follow_from_the_start(id, attempt, kind);
        self.look_around(line).await;
        let Some(at) = self.at.as_ref().filter(|at| at.delivery.turn().is_none()) else { return };
        let (id, attempt) = (at.id.clone(), at.attempt);
        if let (Some(turn), true, Some(at)) = (bound, self.driven.records.shows_input(), &mut self.at) {
            at.gone.get_or_insert((Instant::now() + GONE, turn));
            return;
        }
        if last && self.is_paste_lost(line).await {
            return self.paste_was_lost(line);
        }
        let (why, last) = if self.driven.records.shows_input() {
            ("its anchor is not in the transcript, which does not prove that the text is not on its way", last)
        } else {
            // It may be at work for as long as its deadline allows; a notice has none.
            let last = last && (is_notice || line.is_over(&id).await);
            ("its records show an input only with its answer, which has not come yet", last)
        };
        line.engine.tell(Input::Doubt { id, attempt, why: why.to_owned(), last });
    }

    /// The turn that took the delivery is in no record any more: unless the agent is at something, it is over.
    fn is_gone(&mut self, line: &mut Line) {
        self.read(line);
        let busy = self.held;
        let Some(at) = &mut self.at else { return };
        let Some((_, turn)) = at.gone.take().filter(|_| at.delivery.turn().is_none()) else { return };
        if busy {
            at.gone = Some((Instant::now() + GONE, turn));
            return;
        }
        let (id, by) = (at.id.clone(), EndedBy::Record);
        let message = "its turn is not in the agent's records any more".to_owned();
        let end = TurnEnd::Failed { reason: Failure::AgentGone, message, partial: String::new() };
        self.at = None;
        self.attend();
        self.show(line);
        line.engine.tell(Input::TurnEnded { id, turn, end, by });
    }

    async fn interrupt(&mut self, line: &mut Line, id: &RequestId) {
        // What the turn's end, or a dialog after it, would be pressed into is not the turn.
        self.read(line);
        let (Some(at), Some(target)) = (&mut self.at, self.seat.target()) else { return };
        if at.id != *id {
            return;
        }
        if at.delivery.turn().is_none() {
            // Where only the answer would prove that it is in our turn, its screen must show that it is in one.
            let shows = self.driven.records.shows_input();
            if shows || !matches!(paste::composer_state(target).await, Some(Sight::Busy(_))) {
                return;
            }
        }
        for (number, key) in self.driven.interrupt.iter().enumerate() {
            if number > 0 {
                until(Some(Instant::now() + APART)).await;
            }
            let pressed = paste::interrupt(target, *key).await;
            log(&format!("{}: interrupt for {id}: {pressed:?}", line.agent));
            if pressed != Pressed::Done {
                return;
            }
        }
        // Not every program records an interrupt: where nothing follows, it is over.
        at.interrupted = true;
        at.silence = Some(Instant::now() + INTERRUPTED);
    }
}
