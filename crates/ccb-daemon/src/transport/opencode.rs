//! OpenCode, joined: we are a client of the HTTP server that its visible TUI has in it (OpenCode 1.18.33).
//!
//! A turn belongs to a request because its user message has the id that we made from the request, and the answers name
//! that id as their parent. Events only say when to look; what became of a request is read from the session's history.
//! `session.idle` is no end: on errors it comes before the answer is whole.

pub(crate) mod database;
pub(crate) mod http;
pub(crate) mod launch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use ccb_core::id::RequestId;
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::prompt;
use ccb_core::provider::opencode::{self as rpc, Event, Record, Status, Turn};
use ccb_core::request::Kind;
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::{Order, RunnerEvent};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::http::{Events, Server};
use self::launch::{Door, Place};
use super::joined::{self, Client, Driver, End, Failures, Made, PAUSE};
use super::{Line, Offer, Task, until};
use crate::agents::Agents;
use crate::process::Identity;
use crate::tmux;

/// How long the server may take to say that it is well: one that has just begun to listen may never answer.
const HEALTH: Duration = Duration::from_secs(2);

/// How long a TUI that was started may take to have its server listen.
const LISTEN: Duration = Duration::from_secs(180);

/// How long a message of a dead connection may be on its way through the server.
const SECOND_LOOK: Duration = Duration::from_millis(300);

/// How long a turn whose session is idle may take to have its end written down.
const SETTLE: Duration = Duration::from_secs(1);

/// How many messages of the history are read at once at first, and how many at most to find a request.
const PAGE: usize = 30;
const HISTORY: usize = 4000;

/// How often its server is asked what it does while something goes on: an event may be lost.
const ASK: Duration = Duration::from_millis(500);

/// How rarely at the most, while it is idle, for what it has accepted and not begun.
const LULL: Duration = Duration::from_secs(60);

/// For how long the TUI is told again and again to show the session.
const SHOW: Duration = Duration::from_secs(60);

/// Runs the transport of one agent until its tasks end.
async fn run(mut line: Line, place: Place, agents: Agents) {
    let driver = OpenCode {
        place,
        door: None,
        agents,
        program: None,
        session: None,
        status: Status::Idle,
        asked: BTreeMap::new(),
        family: BTreeSet::new(),
        opened: None,
        at: BTreeMap::new(),
        doubted: BTreeSet::new(),
        error: None,
        look: None,
        show: None,
        lived: false,
        asked_at: Instant::now(),
        lull: ASK,
        begun: true,
        made: Made::default(),
    };
    line.presence(Presence::Starting { why: "its program starts".into() });
    joined::run(driver, line).await;
}

/// What is known of one agent across connections.
struct OpenCode {
    place: Place,
    /// How the program that runs was started.
    door: Option<Door>,
    agents: Agents,
    /// The TUI's process, while it runs.
    program: Option<Identity>,
    /// OpenCode's session.
    session: Option<String>,
    status: Status,
    /// What the human is asked: id → session and words.
    asked: BTreeMap<String, (String, String)>,
    /// The sub-agents' sessions.
    family: BTreeSet<String>,
    /// The session that the human has gone to, until we have followed.
    opened: Option<String>,
    /// Our messages whose turns are not over.
    at: BTreeMap<RequestId, String>,
    /// What another askd has offered, and may still be written down.
    doubted: BTreeSet<RequestId>,
    /// What has gone wrong in the session since the last offer.
    error: Option<TurnEnd>,
    /// When to look once more after a turn whose session is idle.
    look: Option<Instant>,
    /// Showing the session in the TUI.
    show: Option<Show>,
    /// Whether the last connection came as far as our session.
    lived: bool,
    /// When its server was last asked what it does.
    asked_at: Instant,
    /// How long after that it is asked again, if something goes on: an end may come without a word to us.
    lull: Duration,
    /// Whether it may have begun with what was given to it last: before that, its idleness says nothing.
    begun: bool,
    /// The last offer.
    made: Made,
}

/// The TUI that has just begun to draw hears of no session: it is told until its title says that it shows one.
struct Show {
    next: Instant,
    pause: Duration,
    since: Instant,
}

/// What a look into the history has shown.
enum Found {
    /// The message, in a history that reaches back to it.
    Message(String, Vec<Record>),
    Nothing,
    /// The history was not read to its beginning.
    TooLong,
}

/// A connection: what is called, and what is heard.
struct Wire {
    server: Server,
    events: Events,
}

impl Wire {
    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.server.call("GET", path, None).await?.good()
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.server.call("POST", path, Some(body)).await?.good()
    }

    /// Returns what a session is doing.
    async fn status(&self, session: &str) -> anyhow::Result<Status> {
        Ok(rpc::status(self.get("/session/status").await?.get(session)))
    }

    /// Returns the newest messages of a session in their order, and whether these are all.
    async fn history(&self, session: &str, limit: usize) -> anyhow::Result<(Vec<Record>, bool)> {
        let list = self.get(&format!("/session/{session}/message?limit={limit}")).await?;
        let list = list.as_array().context("the history is no list")?;
        Ok((list.iter().filter_map(rpc::record).collect(), list.len() < limit))
    }

    /// Reads the history back to the message that `is_it` says, or to its beginning.
    async fn find(&self, session: &str, is_it: impl Fn(&str) -> bool) -> anyhow::Result<Found> {
        let mut limit = PAGE;
        loop {
            let (records, whole) = self.history(session, limit).await?;
            let of = |record: &Record| match record {
                Record::User { id, .. } if is_it(id) => Some(id.clone()),
                Record::User { .. } | Record::Step { .. } | Record::Compaction => None,
            };
            match records.iter().position(|record| of(record).is_some()) {
                // What stands before it tells whether it went into a turn that was running.
                Some(at) if at > 0 || whole => {
                    let id = of(&records[at]).unwrap_or_default();
                    return Ok(Found::Message(id, records));
                }
                Some(_) | None if whole => return Ok(Found::Nothing),
                Some(_) | None if limit >= HISTORY => return Ok(Found::TooLong),
                Some(_) | None => limit *= 4,
            }
        }
    }
}

impl Driver for OpenCode {
    fn meanwhile(&mut self, line: &Line, task: Task) -> Option<End> {
        match task {
            Task::Offer(offer) => line.not_handed_over(&offer, "its server is not connected to"),
            Task::Runner(event) => return self.runner(&event),
            Task::RunnerGone { why } => return Some(self.runner_gone(why)),
            // A new connection asks again where the delivery stands; interrupts have their own deadline.
            Task::Reconcile { .. } | Task::Interrupt { .. } | Task::Hook(_) | Task::Glance(_) | Task::Launch(_) => {}
        }
        None
    }
}

impl Client for OpenCode {
    const SERVER: &'static str = "its server";

    fn is_up(&self) -> bool {
        self.program.is_some()
    }

    async fn session(&mut self, line: &mut Line) -> anyhow::Result<End> {
        self.lived = false;
        let program = self.program.clone().context("its program is not running")?;
        let door = self.door.as_ref().context("it is not known how its program was started")?;
        let server = Server { port: door.port, password: door.password.clone(), program };
        let mut wire = match joined::connected(self, line, connect(server)).await? {
            Ok(wire) => wire,
            Err(end) => return Ok(end),
        };
        self.enter_session(line, &wire).await?;
        self.catch_up(&wire).await?;
        line.connected();
        self.lived = true;
        self.tell_present(line);
        self.asked_at = Instant::now();
        loop {
            let goes_on = !self.at.is_empty() || self.status != Status::Idle;
            let ask = goes_on.then(|| self.asked_at + self.lull);
            let show = self.show.as_ref().map(|show| show.next);
            tokio::select! {
                biased;
                task = line.task() => match task {
                    None => return Ok(End::Closed),
                    Some(task) => if let Some(end) = self.task(line, &mut wire, task).await? { return Ok(end) },
                },
                event = wire.events.next() => {
                    let event = rpc::parse(&event?);
                    self.lull = ASK;
                    let tells_end = matches!(event, Event::Step { last: true, .. } | Event::Status { .. });
                    if !(tells_end && crate::failpoint::sabotaged("ends-heard")) {
                        self.event(line, &wire, event).await?;
                    }
                }
                () = until(ask) => self.ask_anew(line, &wire).await?,
                () = until(self.look) => self.survey(line, &wire).await?,
                () = until(show) => self.show(line, &wire).await?,
            }
        }
    }

    fn has_lived(&self) -> bool {
        self.lived
    }

    fn ended(&mut self, line: &mut Line, why: String, _failures: &mut Failures) {
        self.gone();
        line.presence(Presence::Starting { why });
    }

    fn gone(&mut self) {
        self.program = None;
    }

    fn agents(&self) -> &Agents {
        &self.agents
    }
}

impl OpenCode {
    fn runner(&mut self, event: &RunnerEvent) -> Option<End> {
        match event {
            RunnerEvent::TuiStarted { pid } => {
                let program = Identity::of(*pid);
                self.door = self.place.door().ok();
                let other = self.program.is_some() && program != self.program;
                if program != self.program {
                    self.made.ended();
                }
                self.program = program;
                other.then(|| End::Ended { why: "its program was started again".into() })
            }
            RunnerEvent::TuiEnded { how, again } => {
                let next = if *again { "it is started again" } else { "start it with `ccb`" };
                Some(End::Ended { why: format!("its program ended ({how}); {next}") })
            }
            RunnerEvent::Closed | RunnerEvent::ServerStarted { .. } | RunnerEvent::ServerEnded { .. } => None,
        }
    }

    /// The runner is gone: whoever starts it again says by the kept session in which one it goes on.
    fn runner_gone(&mut self, why: String) -> End {
        self.session = None;
        self.opened = None;
        self.show = None;
        self.at.clear();
        self.doubted.clear();
        End::Gone { why }
    }

    /// Goes on in our session, or makes one.
    async fn enter_session(&mut self, line: &Line, wire: &Wire) -> anyhow::Result<()> {
        let known = match &self.session {
            Some(session) => Some(session.clone()),
            None => self.agents.session(&line.agent).await.filter(|session| !session.is_empty()),
        };
        if let Some(session) = known {
            let answer = wire.server.call("GET", &format!("/session/{session}"), None).await?;
            if answer.status != 404 {
                answer.good()?;
                let shown = self.door.as_ref().and_then(|door| door.session.as_ref());
                if shown != Some(&session) && self.session.is_none() {
                    self.show_soon();
                }
                self.session = Some(session);
                return Ok(());
            }
            crate::engine::log(&format!("{}: session {session} is lost; a new one is made", line.agent));
        }
        let made = wire.post("/session", &json!({"title": format!("ccb {}", line.agent)})).await?;
        let session = made["id"].as_str().context("the new session has no id")?.to_owned();
        self.go_to(line, session).await;
        self.show_soon();
        Ok(())
    }

    /// Makes this the agent's session, also for a TUI that is started again. What is at hand was offered in another one:
    /// that it is absent from this one will prove nothing.
    async fn go_to(&mut self, line: &Line, session: String) {
        if let Some((id, attempt, _)) = line.at_hand().await {
            self.agents.set_moved(&line.agent, &id, attempt).await;
        }
        self.agents.set_session(&line.agent, &session).await;
        if let Some(door) = &self.door {
            let argv = launch::with_session(&door.argv, Some(&session));
            self.agents.order(&line.agent, &Order::Next { argv });
        }
        self.session = Some(session);
    }

    fn show_soon(&mut self) {
        let now = Instant::now();
        self.show = Some(Show { next: now, pause: Duration::from_millis(250), since: now });
    }

    /// Has the TUI show the session, and looks whether it does.
    async fn show(&mut self, line: &Line, wire: &Wire) -> anyhow::Result<()> {
        let (Some(session), Some(show)) = (self.session.clone(), &mut self.show) else { return Ok(()) };
        show.pause = (show.pause * 2).min(PAUSE.1);
        show.next = Instant::now() + show.pause;
        let over = show.since.elapsed() > SHOW;
        let runner = self.agents.lock().get(&line.agent).and_then(|slot| slot.runner.clone());
        let title = match runner.and_then(|runner| runner.pane) {
            Some((socket, pane)) => {
                tmux::Server::of_user(PathBuf::from(socket), self.place.project.clone()).title(&pane).await.ok()
            }
            None => None,
        };
        // "OpenCode" is the title of its first page.
        if over || title.is_some_and(|title| title.starts_with("OC |")) {
            self.show = None;
            return Ok(());
        }
        wire.post("/tui/select-session", &json!({"sessionID": session})).await.map(drop)
    }

    /// Reads what goes on now; what became of our requests is asked for one by one.
    async fn catch_up(&mut self, wire: &Wire) -> anyhow::Result<()> {
        let session = self.session.clone().unwrap_or_default();
        self.status = wire.status(&session).await?;
        let children = wire.get(&format!("/session/{session}/children")).await?;
        let ids = children.as_array().into_iter().flatten().filter_map(|child| child["id"].as_str());
        self.family = ids.map(str::to_owned).collect();
        self.asked.clear();
        for path in ["/permission", "/question"] {
            for asked in wire.get(path).await?.as_array().into_iter().flatten().filter_map(rpc::asked) {
                self.hear_question(asked);
            }
        }
        Ok(())
    }

    fn is_ours(&self, session: &str) -> bool {
        self.session.as_deref() == Some(session)
    }

    fn hear_question(&mut self, event: Event) {
        if let Event::Asked { session, id, what } = event
            && (self.is_ours(&session) || self.family.contains(&session))
        {
            self.asked.insert(id, (session, what));
        }
    }

    /// Tells what the agent is doing as far as we have heard.
    fn tell_present(&self, line: &mut Line) {
        let whose = if self.at.is_empty() { "a turn of the human's own is running" } else { "it works on a request" };
        line.presence(match (self.asked.values().next(), &self.status) {
            (Some((_, what)), _) => Presence::Waiting { why: format!("the agent asks something in its pane ({what})") },
            (None, Status::Idle) => Presence::Idle,
            (None, Status::Busy) => Presence::Busy { why: whose.into() },
            (None, Status::Retry { attempt, message, next }) => {
                let again =
                    next.map_or_else(|| "again".to_owned(), |next| format!("again at {}", crate::clock::local(next)));
                Presence::Busy {
                    why: format!("{whose}; the provider failed {attempt} times ({message}), it tries {again}"),
                }
            }
        });
    }

    async fn event(&mut self, line: &mut Line, wire: &Wire, event: Event) -> anyhow::Result<()> {
        match event {
            Event::User { session, message, .. } if self.is_ours(&session) => self.see_user(line, &message),
            Event::User { session, fresh: true, .. } if !self.family.contains(&session) => {
                // The human speaks in another session, so that is the one that the TUI shows; unless we have just told it
                // to show ours, as to one that had not begun to draw.
                if self.show.take().is_some() {
                    wire.post("/tui/select-session", &json!({"sessionID": session})).await?;
                }
                self.opened = Some(session);
                self.follow(line, wire).await?;
            }
            Event::Step { session, last: true, .. } if self.is_ours(&session) => self.survey(line, wire).await?,
            Event::Status { session, status } if self.is_ours(&session) => {
                self.status = status;
                self.begun |= self.status != Status::Idle;
                if self.status == Status::Idle {
                    // Questions of a turn that is over are open no more.
                    self.asked.clear();
                    self.survey(line, wire).await?;
                    self.follow(line, wire).await?;
                }
                self.tell_present(line);
            }
            Event::Asked { .. } => {
                self.hear_question(event);
                self.tell_present(line);
            }
            Event::Answered { id } => {
                self.asked.remove(&id);
                self.tell_present(line);
            }
            Event::Error { session, end } if self.is_ours(&session) => {
                self.begun = true;
                self.error = Some(end);
            }
            Event::Created { session, parent: Some(parent) }
                if self.is_ours(&parent) || self.family.contains(&parent) =>
            {
                self.family.insert(session);
            }
            // Of other sessions, and of steps that others follow.
            Event::User { .. }
            | Event::Step { .. }
            | Event::Status { .. }
            | Event::Error { .. }
            | Event::Created { .. }
            | Event::Other => {}
        }
        Ok(())
    }

    /// Asks what goes on: words of other things may come while that of the end is lost.
    async fn ask_anew(&mut self, line: &mut Line, wire: &Wire) -> anyhow::Result<()> {
        let status = wire.status(self.session.as_deref().unwrap_or_default()).await?;
        self.asked_at = Instant::now();
        // What was accepted and never begun is looked for ever more rarely.
        self.lull = if status == Status::Idle { (self.lull * 2).min(LULL) } else { ASK };
        let session = self.session.clone().unwrap_or_default();
        if status != self.status || status == Status::Idle {
            self.event(line, wire, Event::Status { session, status }).await?;
        }
        Ok(())
    }

    /// Somebody's message is in the conversation.
    fn see_user(&mut self, line: &Line, message: &str) {
        let Some(id) = rpc::request_of(message) else { return };
        if self.doubted.remove(&id) {
            self.at.insert(id.clone(), message.to_owned());
        }
        // What else was offered by an earlier askd is asked for by the engine.
        if self.at.contains_key(&id) {
            let (turn, source) = (message.to_owned(), "protocol".to_owned());
            line.engine.tell(Input::Consumed { id, turn, source, mixed: false });
        }
    }

    /// Goes to the session that the human has gone to, between turns: what is asked is to be seen there.
    async fn follow(&mut self, line: &Line, wire: &Wire) -> anyhow::Result<()> {
        if !self.at.is_empty() || self.status != Status::Idle {
            return Ok(());
        }
        let Some(session) = self.opened.take().filter(|session| !self.is_ours(session)) else { return Ok(()) };
        self.go_to(line, session).await;
        self.catch_up(wire).await
    }

    /// Reads from the history what became of our messages whose turns are not known to be over.
    async fn survey(&mut self, line: &mut Line, wire: &Wire) -> anyhow::Result<()> {
        let due = self.look.take().is_some_and(|look| look <= Instant::now());
        let (Some(session), Some(first)) = (self.session.clone(), self.at.values().min().cloned()) else {
            return Ok(());
        };
        // First what it is doing: an end that is written down after this is seen in the history, too.
        let idle = wire.status(&session).await? == Status::Idle;
        let Found::Message(_, records) = wire.find(&session, |id| id == first).await? else {
            // Gone from the history, or not there yet: the engine asks when it has waited long enough.
            return Ok(());
        };
        for turn in rpc::turns(&records) {
            self.tell_turn(line, turn, idle, due);
        }
        Ok(())
    }

    /// Tells what is known of a turn, if it holds a request whose end was not told.
    fn tell_turn(&mut self, line: &mut Line, turn: Turn, idle: bool, due: bool) {
        let ours: Vec<(RequestId, String)> = turn
            .ours()
            .filter(|(id, _)| self.at.contains_key(id))
            .map(|(id, message)| (id, message.to_owned()))
            .collect();
        if ours.is_empty() {
            return;
        }
        let over = turn.over || (idle && due);
        let end = match (turn.over, &self.error) {
            // Nothing was written down for it but what the session has told.
            (false, Some(error)) if turn.steps == 0 => error.clone(),
            (_, _) => turn.end,
        };
        for (id, message) in ours {
            let (turn_id, source) = (message, "protocol".to_owned());
            line.engine.tell(Input::Consumed { id: id.clone(), turn: turn_id.clone(), source, mixed: turn.mixed });
            if over {
                self.at.remove(&id);
                self.agents.turn_ended(&line.agent, &end);
                line.engine.tell(Input::TurnEnded { id, turn: turn_id, end: end.clone(), by: EndedBy::Protocol });
            }
        }
        if !over && idle && (turn.steps > 0 || self.begun) {
            self.look = Some(Instant::now() + SETTLE);
        }
    }

    async fn task(&mut self, line: &mut Line, wire: &mut Wire, task: Task) -> anyhow::Result<Option<End>> {
        match task {
            Task::Offer(offer) => self.offer(line, wire, offer).await?,
            Task::Interrupt { id, turn } => self.interrupt(wire, &id, turn).await?,
            Task::Reconcile { id, attempt, turn, handed, last, .. } => {
                self.reconcile(line, wire, (id, attempt, handed), turn, last).await?;
            }
            Task::Runner(event) => return Ok(self.runner(&event)),
            Task::Hook(_) | Task::Glance(_) | Task::Launch(_) => {}
            Task::RunnerGone { why } => return Ok(Some(self.runner_gone(why))),
        }
        Ok(None)
    }

    async fn offer(&mut self, line: &mut Line, wire: &mut Wire, offer: Offer) -> anyhow::Result<()> {
        let text = match (&offer.kind, offer.no_wrap) {
            (Kind::Ask, false) => prompt::envelope(&offer.id, &offer.message, false),
            (Kind::Ask, true) | (Kind::Notice { .. }, _) => offer.message.clone(),
        };
        let (session, newest) = match self.ready(line, wire).await {
            Ok(ready) => ready,
            Err(error) => {
                line.presence(Presence::Starting { why: "the connection to its server is broken".into() });
                line.not_handed_over(&offer, "the connection is broken");
                return Err(error);
            }
        };
        if self.status != Status::Idle || !self.asked.is_empty() {
            self.tell_present(line);
            line.not_handed_over(&offer, "another turn has just begun");
            return Ok(());
        }
        crate::failpoint::hit("opencode.before-prompt").await;
        let message = rpc::message_id(&offer.id, crate::clock::wall(), newest.as_deref());
        let (id, attempt) = (offer.id.clone(), offer.attempt);
        self.error = None;
        self.begun = false;
        self.made.make(&id, attempt);
        self.at.insert(id.clone(), message.clone());
        let path = format!("/session/{session}/prompt_async");
        let answer = match wire.server.call("POST", &path, Some(&rpc::prompt(&message, &text))).await {
            Ok(answer) => answer,
            Err(error) => {
                let why = format!("the connection broke while it was handed over: {error:#}");
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
                return Err(error);
            }
        };
        crate::failpoint::hit("opencode.prompted").await;
        if (200..300).contains(&answer.status) {
            let how = format!("prompt_async accepted as message {message}");
            line.engine.tell(Input::HandedOver { id, attempt, how });
            return Ok(());
        }
        // It counts as an offer that was not taken: enough of them end the request.
        self.at.remove(&id);
        let why = format!("OpenCode refuses the prompt: {}", answer.words());
        line.presence(Presence::Starting { why: why.clone() });
        line.engine.tell(Input::NotTaken { id, attempt, proof: why.clone() });
        bail!(why)
    }

    /// Takes the events that have come already, and asks what the session is doing: they may tell of a turn that the
    /// engine did not know of when it decided to offer. Returns the session and the newest message in it.
    async fn ready(&mut self, line: &mut Line, wire: &mut Wire) -> anyhow::Result<(String, Option<String>)> {
        while let Some(event) = wire.events.next().now_or_never() {
            let event = rpc::parse(&event?);
            self.event(line, wire, event).await?;
        }
        let session = self.session.clone().context("there is no session")?;
        self.status = wire.status(&session).await?;
        let (newest, _) = wire.history(&session, 1).await?;
        let newest = newest.iter().rev().find_map(Record::id).map(str::to_owned);
        Ok((session, newest))
    }

    /// Stops our turn. One that waits behind a turn of the human's is left alone: both would be stopped.
    async fn interrupt(&mut self, wire: &Wire, id: &RequestId, turn: Option<String>) -> anyhow::Result<()> {
        let (Some(session), Some(message)) = (self.session.clone(), turn.or_else(|| self.at.get(id).cloned())) else {
            return Ok(());
        };
        let Found::Message(_, records) = wire.find(&session, |found| found == message).await? else { return Ok(()) };
        let turns = rpc::turns(&records);
        let Some(at) = turns.iter().position(|turn| turn.inputs.contains(&message)) else { return Ok(()) };
        let waits = turns[at].steps == 0 && at > 0 && !turns[at - 1].over;
        if !turns[at].over && !waits {
            wire.post(&format!("/session/{session}/abort"), &json!({})).await?;
        }
        Ok(())
    }

    /// Looks for a request in the session's history.
    ///
    /// The connection of an earlier askd is dead, but what it had written may still be on its way through the server; so
    /// absence counts only when it is found twice, with the session idle.
    async fn reconcile(
        &mut self,
        line: &mut Line,
        wire: &Wire,
        (id, attempt, handed): (RequestId, u32, bool),
        bound: Option<String>,
        last: bool,
    ) -> anyhow::Result<()> {
        let session = self.session.clone().context("there is no session")?;
        let is_it = |message: &str| rpc::request_of(message).as_ref() == Some(&id);
        let mut found = wire.find(&session, is_it).await?;
        if matches!(found, Found::Nothing) {
            tokio::time::sleep(SECOND_LOOK).await;
            found = wire.find(&session, is_it).await?;
        }
        let idle = wire.status(&session).await? == Status::Idle;
        match (found, bound) {
            (Found::Message(message, _), _) => {
                self.begun = true;
                self.at.insert(id, message);
                self.survey(line, wire).await?;
                self.tell_present(line);
            }
            (Found::Nothing, Some(turn)) => {
                self.at.remove(&id);
                let message = "its turn is not in the agent's history any more".to_owned();
                let end = TurnEnd::Failed { reason: Failure::AgentGone, message, partial: String::new() };
                line.engine.tell(Input::TurnEnded { id, turn, end, by: EndedBy::Protocol });
            }
            (Found::Nothing, None) if self.agents.moved(&line.agent, &id, attempt).await => {
                let why = "the agent has gone to another session since it was offered".to_owned();
                line.engine.tell(Input::Doubt { id, attempt, why, last });
            }
            (Found::Nothing, None) if !self.made.absence_proves(&id, attempt, handed, last) => {
                self.doubted.insert(id.clone());
                let why = "OpenCode may have accepted it, and its history does not have it yet".to_owned();
                line.engine.tell(Input::Doubt { id, attempt, why, last: last && idle });
            }
            (Found::Nothing, None) if idle => {
                self.at.remove(&id);
                let proof =
                    "no program that lives is known to have accepted it, and the idle session's history, read twice, does not have it".to_owned();
                line.engine.tell(Input::NotTaken { id, attempt, proof });
            }
            (Found::Nothing, None) => {
                let why = "it is not in the session's history, but a turn is running".to_owned();
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
            }
            (Found::TooLong, _) => {
                let why = format!("it is not in the last {HISTORY} messages of the session");
                line.engine.tell(Input::Doubt { id, attempt, why, last });
            }
        }
        Ok(())
    }
}

/// Connects, again and again until the server that was just started is well. The events come first, so that nothing
/// happens unheard.
async fn connect(server: Server) -> anyhow::Result<Wire> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let well = match server.call_within(HEALTH, "GET", "/global/health", None).await {
            Ok(answer) if answer.status == 401 => bail!("it has another password: start the agent again with `ccb`"),
            Ok(answer) => answer.good().map(drop),
            Err(error) => Err(error),
        };
        match well {
            Ok(()) => break,
            Err(error) if start.elapsed() > LISTEN => return Err(error),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(500));
        ensure!(server.program.is_alive(), "its program has ended");
    }
    let events = server.events().await?;
    Ok(Wire { server, events })
}
