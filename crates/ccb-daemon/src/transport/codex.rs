//! Codex, joined: the visible TUI and we are clients of the agent's own app-server (Codex CLI 0.169.0).
//!
//! A turn belongs to a request because its user message carries our id, never because of its order. All
//! that is seen is told each time it is seen; the engine knows what is new.

pub(crate) mod launch;
mod missed;
pub(crate) mod rollout;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use ccb_core::id::RequestId;
use ccb_core::instructions;
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::prompt;
use ccb_core::provider::Rung;
use ccb_core::provider::codex_rpc::{self as rpc, Message, Status, TurnRecord};
use ccb_core::request::Kind;
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::{Order, RESTARTED, RunnerEvent};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use self::launch::Place;
use self::missed::Awaited;
use super::joined::{self, Client, Driver, End, Failures, Made, PAUSE};
use super::{Line, Offer, Task, until};
use crate::agents::Agents;

/// How long the app-server may take to answer a call.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// How long a server that was started may take to listen.
const LISTEN_DEADLINE: Duration = Duration::from_secs(30);

/// How long a message of a dead connection may be on its way through the server.
const SECOND_LOOK: Duration = Duration::from_millis(300);

/// How many turns of the history are read at once, and how many at most to find a request.
const PAGE: u32 = 20;
const HISTORY: u32 = 1000;

/// Runs the transport of one agent until its tasks end.
pub(crate) async fn run(mut line: Line, place: Place, agents: Agents) {
    let driver = Codex {
        up: false,
        thread: None,
        turns: BTreeMap::new(),
        active: None,
        awaited: Awaited::default(),
        accepted: None,
        made: Made::default(),
        opened: None,
        cut: BTreeSet::new(),
        place,
        agents,
        shown: None,
        ordered: None,
        logged_out: false,
        refusal: None,
        lived: false,
    };
    line.presence(Presence::Starting { why: "its app-server starts".into() });
    joined::run(driver, line).await;
}

/// What is known of one agent across sessions.
struct Codex {
    /// Whether its server was started.
    up: bool,
    thread: Option<String>,
    /// The requests in turns that were seen: turn id → our ids in it, and whether others' input is in it too.
    turns: BTreeMap<String, Seen>,
    /// The turn that runs now.
    active: Option<String>,
    /// The end that is awaited.
    awaited: Awaited,
    /// The request to which this server has said yes, and the turn that it has made of it.
    accepted: Option<(RequestId, String)>,
    /// The last offer.
    made: Made,
    /// The thread that the human has opened in the TUI, until we have followed.
    opened: Option<String>,
    /// The turns that a server's death has cut off: it calls them interrupted when it comes back.
    cut: BTreeSet<String>,
    place: Place,
    agents: Agents,
    /// The thread that the TUI shows.
    shown: Option<String>,
    /// The thread that the runner was last told to show; a TUI that it starts again shows that one.
    ordered: Option<String>,
    /// Whether the server wants a login before it can do anything.
    logged_out: bool,
    /// A turn that the server has refused to start.
    refusal: Option<Refused>,
    /// Whether the last connection came as far as our thread.
    lived: bool,
}

/// The server's refusal to start a turn: for a while nothing is offered.
struct Refused {
    why: String,
    /// When it may be tried again; none once that has been told.
    until: Option<Instant>,
    pause: Duration,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    ours: BTreeSet<RequestId>,
    foreign: bool,
}

/// A piece of the history, newest first.
#[derive(Default)]
struct Page {
    turns: Vec<TurnRecord>,
    next: Option<String>,
}

/// What a look into the history has shown.
enum Found {
    Turn(TurnRecord),
    Nothing,
    /// The history was not read to its beginning.
    TooLong,
}

/// A delivery of which the engine wants to know where it stands.
struct Asked {
    id: RequestId,
    attempt: u32,
    /// The turn that it was seen in.
    turn: Option<String>,
    /// Whether Codex may have said yes to it.
    handed: bool,
    last: bool,
}

type Socket = tokio_tungstenite::WebSocketStream<UnixStream>;

/// A connection to the app-server.
struct Wire {
    socket: Socket,
    calls: u64,
    /// Messages that came while a call waited for its answer.
    backlog: std::collections::VecDeque<Message>,
}

impl Wire {
    async fn open(place: &Place) -> anyhow::Result<Self> {
        let stream = connect(&place.reach).await?;
        let config = WebSocketConfig::default().max_message_size(Some(256 << 20)).max_frame_size(Some(256 << 20));
        let handshake = tokio_tungstenite::client_async_with_config("ws://localhost/", stream, Some(config));
        let (socket, _) = tokio::time::timeout(CALL_DEADLINE, handshake).await.context("no WebSocket handshake")??;
        let mut wire = Self { socket, calls: 0, backlog: std::collections::VecDeque::new() };
        wire.call(rpc::initialize(env!("CARGO_PKG_VERSION"))).await?;
        wire.socket.send(Frame::text(r#"{"method":"initialized"}"#)).await?;
        Ok(wire)
    }

    async fn send(&mut self, (method, params): (&'static str, Value)) -> anyhow::Result<u64> {
        self.calls += 1;
        let text = serde_json::json!({"id": self.calls, "method": method, "params": params}).to_string();
        self.socket.send(Frame::text(text)).await?;
        Ok(self.calls)
    }

    /// Calls, and keeps what else comes meanwhile for later. The outer error is the connection's.
    async fn ask(&mut self, call: (&'static str, Value)) -> anyhow::Result<Result<Value, String>> {
        let method = call.0;
        let number = self.send(call).await?;
        let answer = async {
            loop {
                match self.receive().await? {
                    Message::Answer { call, result } if call == number => return anyhow::Ok(result),
                    Message::Answer { .. } | Message::Other => {}
                    message => self.backlog.push_back(message),
                }
            }
        };
        tokio::time::timeout(CALL_DEADLINE, answer).await.with_context(|| format!("no answer to {method}"))?
    }

    async fn call(&mut self, call: (&'static str, Value)) -> anyhow::Result<Value> {
        let method = call.0;
        self.ask(call).await?.map_err(|message| anyhow!("{method}: {message}"))
    }

    /// Waits for the next message from the socket.
    async fn receive(&mut self) -> anyhow::Result<Message> {
        loop {
            match self.socket.next().await.context("the app-server closed the connection")?? {
                Frame::Text(text) => return Ok(rpc::parse(text.as_str())),
                Frame::Close(_) => bail!("the app-server closed the connection"),
                Frame::Binary(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => {}
            }
        }
    }

    async fn next(&mut self) -> anyhow::Result<Message> {
        match self.backlog.pop_front() {
            Some(message) => Ok(message),
            None => self.receive().await,
        }
    }
}

/// Connects, again and again until the server that was just started listens.
async fn connect(reach: &std::path::Path) -> anyhow::Result<UnixStream> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        match UnixStream::connect(reach).await {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > LISTEN_DEADLINE => {
                return Err(error).with_context(|| format!("`{}` does not answer", reach.display()));
            }
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(250));
            }
        }
    }
}

/// Waits for the moment from which a refused turn may be tried again.
async fn refusal_over(refusal: Option<&Refused>) {
    match refusal.and_then(|refused| refused.until) {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

impl Driver for Codex {
    fn meanwhile(&mut self, line: &Line, task: Task) -> Option<End> {
        match task {
            Task::Offer(offer) => line.not_handed_over(&offer, "its app-server is not connected to"),
            Task::Runner(RunnerEvent::ServerEnded { how }) => return Some(End::Ended { why: how }),
            Task::Runner(event) => {
                self.up |= matches!(event, RunnerEvent::ServerStarted { .. });
                self.runner(&event);
            }
            Task::RunnerGone { why } => {
                self.forget_threads();
                return Some(End::Gone { why });
            }
            // A new connection asks again where the delivery stands; interrupts have their own deadline.
            Task::Reconcile { .. } | Task::Interrupt { .. } | Task::Hook(_) | Task::Glance(_) | Task::Launch(_) => {}
        }
        None
    }
}

impl Client for Codex {
    const SERVER: &'static str = "its app-server";

    fn is_up(&self) -> bool {
        self.up
    }

    async fn session(&mut self, line: &mut Line) -> anyhow::Result<End> {
        self.lived = false;
        let place = self.place.clone();
        let mut wire = match joined::connected(self, line, Wire::open(&place)).await? {
            Ok(wire) => wire,
            Err(end) => return Ok(end),
        };
        self.check_login(&mut wire).await?;
        let status = self.enter_thread(line, &mut wire).await?;
        self.show(line);
        self.catch_up(line, &mut wire, &status).await?;
        line.connected();
        self.lived = true;
        self.tell_status(line, &status);
        loop {
            let due = self.awaited.due(self.active.as_deref());
            tokio::select! {
                biased;
                task = line.task() => match task {
                    None => return Ok(End::Closed),
                    Some(task) => if let Some(end) = self.task(line, &mut wire, task).await? { return Ok(end) },
                },
                message = wire.next() => {
                    let message = message?;
                    self.message(line, &mut wire, message).await?;
                }
                () = until(due) => self.look_for_end(line, &mut wire).await?,
                () = refusal_over(self.refusal.as_ref()) => {
                    if let Some(refused) = &mut self.refusal {
                        refused.until = None;
                    }
                    self.tell_present(line);
                }
            }
        }
    }

    fn has_lived(&self) -> bool {
        self.lived
    }

    fn ended(&mut self, line: &mut Line, why: String, failures: &mut Failures) {
        self.gone();
        self.accepted = None;
        self.cut.extend(self.active.take());
        if let Some(often) = failures.add().filter(|_| why != RESTARTED) {
            let why = format!("its app-server ended {often} ({why})");
            self.agents.broke(&line.agent, Rung::Joined, false, why);
        }
        line.presence(Presence::Starting { why: format!("its app-server ended ({why}) and is started again") });
    }

    fn gone(&mut self) {
        self.up = false;
        self.made.ended();
    }

    fn agents(&self) -> &Agents {
        &self.agents
    }
}

impl Codex {
    /// Tells what the agent is doing as far as we have heard.
    fn tell_present(&mut self, line: &mut Line) {
        let status = if self.active.is_some() { Status::Active } else { Status::Idle };
        self.tell_status(line, &status);
    }

    /// The runner is gone: whoever starts it again says by the kept session which thread it goes on in.
    fn forget_threads(&mut self) {
        self.thread = None;
        self.opened = None;
        self.shown = None;
    }

    fn runner(&mut self, event: &RunnerEvent) {
        match event {
            RunnerEvent::TuiEnded { .. } | RunnerEvent::Closed => self.shown = None,
            RunnerEvent::ServerStarted { .. } | RunnerEvent::ServerEnded { .. } | RunnerEvent::TuiStarted { .. } => {}
        }
    }

    /// Asks whether the server wants a login: a human's matter.
    async fn check_login(&mut self, wire: &mut Wire) -> anyhow::Result<()> {
        let account = wire.ask(("account/read", serde_json::json!({}))).await?;
        self.logged_out = account.is_ok_and(|a| a["requiresOpenaiAuth"] == true && a["account"].is_null());
        Ok(())
    }

    /// Loads our thread, or makes one. The answer tells what the thread is doing.
    async fn enter_thread(&mut self, line: &Line, wire: &mut Wire) -> anyhow::Result<Status> {
        let known = match &self.thread {
            Some(thread) => Some(thread.clone()),
            None => self.agents.session(&line.agent).await.filter(|thread| !thread.is_empty()),
        };
        let words = self.words(wire).await?;
        if let Some(thread) = known {
            match wire.ask(rpc::thread_resume(&thread, words.as_deref())).await? {
                Ok(result) => {
                    self.thread = Some(thread);
                    return Ok(rpc::status(&result["thread"]["status"]));
                }
                Err(message) => {
                    // Before its first turn a thread has nothing on disk; it may be in the server's memory all the same.
                    let loaded = wire.call(("thread/loaded/list", serde_json::json!({}))).await?;
                    if loaded["data"].as_array().is_some_and(|all| all.iter().any(|id| *id == *thread)) {
                        // Its name may have failed when it was made.
                        wire.call(rpc::thread_name(&thread, line.agent.as_str())).await?;
                        self.thread = Some(thread);
                        return Ok(Status::Idle);
                    }
                    if !message.contains("no rollout") && !message.contains("not found") {
                        bail!("thread {thread} cannot be resumed: {message}");
                    }
                    crate::engine::log(&format!(
                        "{}: thread {thread} is lost ({message}); a new one is made",
                        line.agent
                    ));
                }
            }
        }
        let started = wire.call(rpc::thread_start(words.as_deref())).await?;
        let thread = started["thread"]["id"].as_str().context("thread/start gave no id")?.to_owned();
        // Kept before anything can fail: else each try would leave one more thread in the user's Codex.
        self.go_to(line, thread.clone()).await;
        self.turns.clear();
        wire.call(rpc::thread_name(&thread, line.agent.as_str())).await?;
        Ok(Status::Idle)
    }

    /// Returns the user's own instructions, with ours after them: what a thread is given takes the place of what is
    /// configured. Where the user's cannot be read, nothing is given.
    async fn words(&self, wire: &mut Wire) -> anyhow::Result<Option<String>> {
        let read = wire.ask(rpc::config_read(&self.place.project)).await?;
        let users = read.map(|read| read["config"]["developer_instructions"].as_str().map(str::to_owned));
        Ok(users.ok().map(|users| instructions::after(users.as_deref(), &self.place.words)))
    }

    /// Makes this the agent's thread. What is at hand was offered in another one: that it is absent from this one
    /// will prove nothing.
    async fn go_to(&mut self, line: &Line, thread: String) {
        if let Some((id, attempt, _)) = line.at_hand().await {
            self.agents.set_moved(&line.agent, &id, attempt).await;
        }
        self.agents.set_session(&line.agent, &thread).await;
        self.thread = Some(thread);
    }

    /// Has the pane show the thread, if it does not yet.
    fn show(&mut self, line: &Line) {
        let Some(thread) = &self.thread else { return };
        if self.shown.as_ref() == Some(thread) {
            return;
        }
        let mut argv = vec![self.place.program.clone()];
        argv.extend(self.place.args.iter().cloned());
        argv.extend(["resume", thread, "--remote", &self.place.address].map(str::to_owned));
        let there = self.agents.tui_shows(&line.agent, thread);
        if there || self.agents.order(&line.agent, &Order::Tui { argv }) {
            self.agents.set_tui(&line.agent, Some(thread.clone()));
            self.shown = Some(thread.clone());
            if !there {
                self.ordered = Some(thread.clone());
            }
        }
    }

    /// Reads the newest turn: it may still be running. What became of our requests is asked for one by one.
    async fn catch_up(&mut self, line: &mut Line, wire: &mut Wire, status: &Status) -> anyhow::Result<()> {
        self.active = None;
        for turn in self.page(wire, 1, None).await?.turns {
            self.tell_turn(line, turn, status);
        }
        Ok(())
    }

    async fn page(&self, wire: &mut Wire, limit: u32, cursor: Option<&str>) -> anyhow::Result<Page> {
        let Some(thread) = &self.thread else { return Ok(Page::default()) };
        let list = wire.call(rpc::turns_list(thread, limit, cursor)).await?;
        let turns = list["data"].as_array().into_iter().flatten().filter_map(rpc::turn_record).collect();
        Ok(Page { turns, next: list["nextCursor"].as_str().map(str::to_owned) })
    }

    /// Looks for a turn in the history, from its end to its beginning.
    async fn find(&self, wire: &mut Wire, is_it: impl Fn(&TurnRecord) -> bool) -> anyhow::Result<Found> {
        let mut cursor: Option<String> = None;
        for _ in 0..HISTORY / PAGE {
            let page = self.page(wire, PAGE, cursor.as_deref()).await?;
            if let Some(turn) = page.turns.into_iter().find(&is_it) {
                return Ok(Found::Turn(turn));
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(Found::Nothing),
            }
        }
        Ok(Found::TooLong)
    }

    fn tell_turn(&mut self, line: &mut Line, turn: TurnRecord, status: &Status) {
        for client in &turn.clients {
            self.see_user(line, &turn.id, client.as_deref());
        }
        let running = matches!(status, Status::Active | Status::Waiting(_));
        let died = |partial| {
            let message = "the agent's server ended in mid-turn".to_owned();
            TurnEnd::Failed { reason: Failure::AgentGone, message, partial }
        };
        match turn.end {
            Some(TurnEnd::Interrupted { partial }) if self.cut.remove(&turn.id) => {
                self.end_turn(line, &turn.id, &died(partial));
            }
            Some(end) => self.end_turn(line, &turn.id, &end),
            None if running => self.active = Some(turn.id),
            None => self.end_turn(line, &turn.id, &died(String::new())),
        }
    }

    /// A user message was seen in a turn.
    fn see_user(&mut self, line: &Line, turn: &str, client: Option<&str>) {
        let seen = self.turns.entry(turn.to_owned()).or_default();
        // The TUI gives its own messages ids as well. What the engine has asked about is ours whatever its form.
        let ours = client.and_then(|client| RequestId::new(client).ok());
        match ours.filter(|id| id.is_of_our_form() || seen.ours.contains(id)) {
            Some(id) => seen.ours.extend([id]),
            None => seen.foreign = true,
        }
        let mixed = seen.foreign || seen.ours.len() > 1;
        if !seen.ours.is_empty() {
            self.awaited.begin(turn);
        }
        for id in seen.ours.clone() {
            let (turn, source) = (turn.to_owned(), "protocol".to_owned());
            line.engine.tell(Input::Consumed { id, turn, source, mixed });
        }
    }

    fn end_turn(&mut self, line: &Line, turn: &str, end: &TurnEnd) {
        if self.active.as_deref() == Some(turn) {
            self.active = None;
        }
        self.awaited.end(turn);
        let mut ours = self.turns.remove(turn).unwrap_or_default().ours;
        let unheard = self.accepted.take_if(|(_, of)| of == turn).map(|(id, _)| id);
        if let Some(id) = unheard.filter(|_| ours.is_empty() && !matches!(end, TurnEnd::Completed { .. })) {
            // It has failed before the input was written down, as in a compaction: that is what became of it.
            let source = "protocol".to_owned();
            line.engine.tell(Input::Consumed { id: id.clone(), turn: turn.to_owned(), source, mixed: false });
            ours.insert(id);
        }
        if !ours.is_empty() {
            self.agents.turn_ended(&line.agent, end);
        }
        for id in ours {
            let (turn, end) = (turn.to_owned(), end.clone());
            line.engine.tell(Input::TurnEnded { id, turn, end, by: EndedBy::Protocol });
        }
    }

    fn tell_status(&mut self, line: &mut Line, status: &Status) {
        let ours = self.active.as_ref().and_then(|turn| self.turns.get(turn)).is_some_and(|seen| !seen.ours.is_empty());
        line.presence(match status {
            _ if self.logged_out => {
                Presence::Waiting { why: "Codex is not logged in: log in in its pane, or run `codex login`".into() }
            }
            Status::Idle | Status::NotLoaded => match &self.refusal {
                Some(refused) if refused.until.is_some() => Presence::Waiting { why: refused.why.clone() },
                Some(_) | None => Presence::Idle,
            },
            Status::Active if ours => Presence::Busy { why: "it works on a request".into() },
            Status::Active => Presence::Busy { why: "a turn of the human's own is running".into() },
            Status::Waiting(flags) => {
                Presence::Waiting { why: format!("the agent asks something in its pane ({flags})") }
            }
        });
    }

    async fn message(&mut self, line: &mut Line, wire: &mut Wire, message: Message) -> anyhow::Result<()> {
        let thread = self.thread.clone().unwrap_or_default();
        let ends = matches!(&message, Message::TurnEnded { .. } | Message::Status { status: Status::Idle, .. });
        if ends && crate::failpoint::sabotaged("ends-heard") {
            return Ok(());
        }
        match message {
            Message::Status { thread: of, status } if of == thread => {
                // It comes before the turn's own end.
                if status == Status::Idle {
                    self.active = None;
                }
                self.tell_status(line, &status);
            }
            Message::TurnBegan { thread: of, turn } if of == thread => {
                self.active = Some(turn);
                self.tell_status(line, &Status::Active);
            }
            Message::User { thread: of, turn, client } if of == thread => {
                self.see_user(line, &turn, client.as_deref());
                self.tell_status(line, &Status::Active);
            }
            Message::TurnEnded { thread: of, turn } if of == thread => self.ended(line, wire, turn).await?,
            Message::Account => {
                self.check_login(wire).await?;
                self.tell_present(line);
            }
            Message::Opened { thread: of } if of != thread => {
                self.opened = Some(of);
                self.follow(line, wire).await?;
            }
            // Other threads are sub-agents or the human's own; approvals are answered in the TUI.
            Message::Status { .. }
            | Message::TurnBegan { .. }
            | Message::User { .. }
            | Message::TurnEnded { .. }
            | Message::Agent { .. }
            | Message::Opened { .. }
            | Message::Answer { .. }
            | Message::Asked { .. }
            | Message::Other => {}
        }
        Ok(())
    }

    /// A turn ended. A failed or interrupted one has no text in the notice; the history has it.
    async fn ended(&mut self, line: &mut Line, wire: &mut Wire, turn: TurnRecord) -> anyhow::Result<()> {
        let whole = matches!(&turn.end, Some(TurnEnd::Completed { reply }) if !reply.is_empty());
        let known = self.turns.get(&turn.id).is_some_and(|seen| !seen.ours.is_empty());
        let mut end = turn.end;
        if !whole
            && known
            && let Found::Turn(record) = self.find(wire, |record| record.id == turn.id).await?
        {
            end = record.end.or(end);
        }
        let other = self.active.as_ref().is_some_and(|active| *active != turn.id);
        if let Some(end) = end {
            self.end_turn(line, &turn.id, &end);
        }
        if other {
            return Ok(());
        }
        self.active = None;
        self.follow(line, wire).await?;
        self.tell_status(line, &Status::Idle);
        Ok(())
    }

    /// Goes to the thread that the human has opened in the TUI, between turns: what is asked is to be seen there.
    async fn follow(&mut self, line: &Line, wire: &mut Wire) -> anyhow::Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        let Some(thread) = self.opened.take() else { return Ok(()) };
        // Without a name, nobody else can attach to a thread before its first turn.
        wire.call(rpc::thread_name(&thread, line.agent.as_str())).await?;
        let words = self.words(wire).await?;
        wire.call(rpc::thread_resume(&thread, words.as_deref())).await?;
        self.agents.set_tui(&line.agent, Some(thread.clone()));
        self.shown = Some(thread.clone());
        self.go_to(line, thread).await;
        Ok(())
    }

    async fn task(&mut self, line: &mut Line, wire: &mut Wire, task: Task) -> anyhow::Result<Option<End>> {
        match task {
            Task::Offer(offer) => self.offer(line, wire, offer).await?,
            Task::Interrupt { id, turn } => {
                let bound = self.turns.iter().find(|(_, seen)| seen.ours.contains(&id)).map(|(turn, _)| turn.clone());
                if let (Some(turn), Some(thread)) = (turn.or(bound), self.thread.clone()) {
                    // Refused when the turn has just ended: its end is told all the same.
                    wire.ask(rpc::turn_interrupt(&thread, &turn)).await?.ok();
                }
            }
            Task::Reconcile { id, attempt, turn, handed, last, .. } => {
                let asked = Asked { id, attempt, turn, handed, last };
                self.reconcile(line, wire, asked).await?;
            }
            Task::Runner(RunnerEvent::ServerEnded { how }) => return Ok(Some(End::Ended { why: how })),
            Task::Runner(RunnerEvent::ServerStarted { .. }) => self.show(line),
            Task::Runner(RunnerEvent::TuiStarted { .. }) if self.ordered.is_some() && self.ordered != self.thread => {
                // It was started again as it was first, but the human has gone on to another thread since.
                self.agents.set_tui(&line.agent, None);
                self.shown = None;
                self.show(line);
            }
            Task::Runner(event) => self.runner(&event),
            Task::Hook(_) | Task::Glance(_) | Task::Launch(_) => {}
            Task::RunnerGone { why } => {
                self.forget_threads();
                return Ok(Some(End::Gone { why }));
            }
        }
        Ok(None)
    }

    async fn offer(&mut self, line: &mut Line, wire: &mut Wire, offer: Offer) -> anyhow::Result<()> {
        let Some(thread) = self.thread.clone() else {
            line.presence(Presence::Starting { why: "there is no thread".into() });
            line.not_handed_over(&offer, "there is no thread");
            return Ok(());
        };
        let text = match (&offer.kind, offer.no_wrap) {
            (Kind::Ask, false) => prompt::envelope(&offer.id, &offer.message, false),
            (Kind::Ask, true) | (Kind::Notice { .. }, _) => offer.message.clone(),
        };
        if let Err(error) = self.hear_what_has_come(line, wire).await {
            line.presence(Presence::Starting { why: "the connection to its app-server is broken".into() });
            line.not_handed_over(&offer, "the connection is broken");
            return Err(error);
        }
        if self.active.is_some() {
            self.tell_status(line, &Status::Active);
            line.not_handed_over(&offer, "another turn has just begun");
            return Ok(());
        }
        crate::failpoint::hit("codex.before-start").await;
        self.made.make(&offer.id, offer.attempt);
        let answer = match wire.ask(rpc::turn_start(&thread, offer.id.as_str(), &text)).await {
            Ok(answer) => answer,
            Err(error) => {
                let (id, attempt) = (offer.id.clone(), offer.attempt);
                let why = format!("the connection broke while it was handed over: {error:#}");
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
                return Err(error);
            }
        };
        crate::failpoint::hit("codex.started").await;
        match answer {
            Ok(result) => {
                let turn = result["turn"]["id"].as_str().unwrap_or_default();
                self.active = Some(turn.to_owned());
                self.awaited.begin(turn);
                self.accepted = Some((offer.id.clone(), turn.to_owned()));
                self.refusal = None;
                let how = format!("turn/start accepted as turn {turn}");
                line.engine.tell(Input::HandedOver { id: offer.id, attempt: offer.attempt, how });
            }
            Err(message) => {
                // It counts as an offer that was not taken: enough of them end the request.
                let proof = format!("turn/start was refused: {message}");
                let why = format!("Codex refuses the turn: {message}");
                let pause = self.refusal.take().map_or(PAUSE.0, |refused| (refused.pause * 2).min(PAUSE.1));
                self.refusal = Some(Refused { why, until: Some(Instant::now() + pause), pause });
                self.tell_present(line);
                line.engine.tell(Input::NotTaken { id: offer.id, attempt: offer.attempt, proof });
            }
        }
        Ok(())
    }

    /// Takes the messages that have come already: they may tell of a turn that the engine did not know of when it
    /// decided to offer.
    async fn hear_what_has_come(&mut self, line: &mut Line, wire: &mut Wire) -> anyhow::Result<()> {
        while let Some(message) = wire.next().now_or_never() {
            self.message(line, wire, message?).await?;
        }
        Ok(())
    }

    /// Looks for a request in the thread's history.
    ///
    /// The connection of an earlier askd is dead, but what it had written may still be on its way through the
    /// server; so absence counts only when it is found twice, with the thread idle in between.
    async fn reconcile(&mut self, line: &mut Line, wire: &mut Wire, asked: Asked) -> anyhow::Result<()> {
        let Asked { id, attempt, turn: bound, handed, last } = asked;
        let is_it = |turn: &TurnRecord| turn.clients.iter().flatten().any(|client| client == id.as_str());
        let mut found = self.find(wire, is_it).await?;
        if matches!(found, Found::Nothing) {
            tokio::time::sleep(SECOND_LOOK).await;
            found = self.find(wire, is_it).await?;
        }
        match (found, bound) {
            (Found::Turn(turn), _) => {
                let status = if self.active.as_ref() == Some(&turn.id) { Status::Active } else { Status::Idle };
                let running = turn.end.is_none() && (status == Status::Active || self.is_active(wire).await?);
                self.turns.entry(turn.id.clone()).or_default().ours.insert(id);
                self.tell_turn(line, turn, if running { &Status::Active } else { &Status::Idle });
            }
            (Found::Nothing, Some(turn)) => {
                let message = "its turn is not in the agent's history any more".to_owned();
                let end = TurnEnd::Failed { reason: Failure::AgentGone, message, partial: String::new() };
                line.engine.tell(Input::TurnEnded { id, turn, end, by: EndedBy::Protocol });
            }
            (Found::Nothing, None) if self.agents.moved(&line.agent, &id, attempt).await => {
                let why = "the agent has gone to another thread since it was offered".to_owned();
                line.engine.tell(Input::Doubt { id, attempt, why, last });
            }
            (Found::Nothing, None) if self.is_at(wire).await? => {
                let why = "it is not in the thread's history, but a turn is running".to_owned();
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
            }
            (Found::Nothing, None) if self.made.absence_proves(&id, attempt, handed, last) => {
                let proof =
                    "no program that lives is known to have accepted it, and the idle thread's history, read twice, does not have it".to_owned();
                line.engine.tell(Input::NotTaken { id, attempt, proof });
            }
            (Found::Nothing, None) => {
                let why = "Codex may have accepted it, and its thread's history does not have it".to_owned();
                line.engine.tell(Input::Doubt { id, attempt, why, last });
            }
            (Found::TooLong, _) => {
                let why = format!("it is not in the last {HISTORY} turns of the thread");
                line.engine.tell(Input::Doubt { id, attempt, why, last });
            }
        }
        Ok(())
    }

    /// Returns whether a turn is running, by what was heard or by what the server says now.
    async fn is_at(&self, wire: &mut Wire) -> anyhow::Result<bool> {
        Ok(self.active.is_some() || self.is_active(wire).await?)
    }

    async fn is_active(&self, wire: &mut Wire) -> anyhow::Result<bool> {
        let Some(thread) = &self.thread else { return Ok(false) };
        let read = wire.ask(("thread/read", serde_json::json!({"threadId": thread}))).await?;
        Ok(read.is_ok_and(|read| matches!(rpc::status(&read["thread"]["status"]), Status::Active | Status::Waiting(_))))
    }
}
