//! Droid, joined: `ccb view` in the pane owns `droid exec`, shows it, and takes our deliveries over a socket.
//!
//! The viewer gives each id to Droid once, however often it is offered, and Droid makes it the id of its turn. It
//! lives on when askd does not; whoever comes back asks it where a delivery stands.

pub(crate) mod hooked;
pub(crate) mod launch;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ccb_core::id::RequestId;
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::prompt;
use ccb_core::provider::Rung;
use ccb_core::request::Kind;
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::view::{self, PROTOCOL, Said, Standing, Told};
use ccb_core::wire::{Order, RESTARTED, RunnerEvent};
use futures_util::FutureExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::joined::{self, Driver, End, Failures};
use super::{Launch, Line, Offer, Task};
use crate::agents::Agents;

/// How long the viewer may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// How long a viewer that was started may take to listen, and how soon it is tried again.
const LISTEN: Duration = Duration::from_secs(30);
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// How long it works at the least until an earlier failure counts no more.
const LIFE: Duration = Duration::from_secs(5);

/// How an agent is reached and started again.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The path by which the viewer's socket is reached from here.
    pub(crate) reach: PathBuf,
    /// How the viewer goes on in a session when it is started again.
    pub(crate) launch: Launch,
}

/// Runs the transport of one agent until its tasks end.
pub(crate) async fn run(mut line: Line, place: Place, agents: Agents) {
    let mut driver = Droid {
        place,
        agents,
        asked: Vec::new(),
        session: None,
        glances: Vec::new(),
        failures: Failures::default(),
        works: None,
    };
    line.presence(Presence::Starting { why: "its viewer starts".into() });
    let mut up = false;
    loop {
        if !up {
            let Some(task) = line.task().await else { return };
            up = matches!(task, Task::Runner(RunnerEvent::TuiStarted { .. }));
            if let Some(End::Gone { why }) = driver.meanwhile(&line, task) {
                line.gone(&why).await;
            }
            continue;
        }
        match driver.session(&mut line).await {
            Ok(End::Closed) => return,
            Ok(End::Ended { why }) => {
                up = false;
                if why != RESTARTED {
                    driver.failed(&line, &format!("its viewer ended ({why})"));
                }
                line.presence(Presence::Starting { why: format!("its viewer ended ({why}) and is started again") });
            }
            Ok(End::Gone { why }) => {
                up = false;
                line.gone(&why).await;
            }
            Err(error) => {
                driver.agents.error(&line.agent, format!("{error:#}"));
                driver.failed(&line, &format!("{error:#}"));
                line.presence(Presence::Starting { why: format!("connecting to its viewer: {error:#}") });
                match joined::paused(&mut driver, &mut line, PAUSE.1).await {
                    None => {}
                    Some(End::Closed) => return,
                    Some(End::Ended { .. }) => up = false,
                    Some(End::Gone { why }) => {
                        up = false;
                        line.gone(&why).await;
                    }
                }
            }
        }
    }
}

/// The connection to a viewer.
struct Wire {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    /// What was told while an answer was awaited.
    backlog: VecDeque<Told>,
}

impl Wire {
    async fn open(place: &Place) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut pause = PAUSE.0;
        let stream = loop {
            match UnixStream::connect(&place.reach).await {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > LISTEN => return Err(error).context("its viewer does not listen"),
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        };
        let (reader, writer) = stream.into_split();
        let mut wire = Self { lines: BufReader::new(reader).lines(), writer, backlog: VecDeque::new() };
        let hello = tokio::time::timeout(ANSWER, wire.receive()).await.context("its viewer says nothing")??;
        match hello {
            Told::Hello { protocol: PROTOCOL } => Ok(wire),
            Told::Hello { protocol } => {
                bail!("its viewer is of another version of ccb (protocol {protocol}): close its pane and start it anew")
            }
            Told::Presence { .. }
            | Told::Session { .. }
            | Told::Stands { .. }
            | Told::Seen { .. }
            | Told::Trouble { .. } => {
                bail!("its viewer does not introduce itself")
            }
        }
    }

    async fn say(&mut self, said: &Said) -> anyhow::Result<()> {
        Ok(self.writer.write_all(view::line(said).as_bytes()).await?)
    }

    /// Waits for the next line. Nothing is lost if the wait is given up.
    async fn receive(&mut self) -> anyhow::Result<Told> {
        let text = self.lines.next_line().await?.context("its viewer has closed the connection")?;
        serde_json::from_str(&text).context("its viewer is not understood")
    }

    async fn next(&mut self) -> anyhow::Result<Told> {
        match self.backlog.pop_front() {
            Some(told) => Ok(told),
            None => self.receive().await,
        }
    }

    /// Waits for where an offer stands. What else is told meanwhile is kept.
    async fn stands(&mut self, of: &RequestId) -> anyhow::Result<Standing> {
        let answer = async {
            loop {
                match self.receive().await? {
                    Told::Stands { id, at } if id == *of => return anyhow::Ok(at),
                    told => self.backlog.push_back(told),
                }
            }
        };
        tokio::time::timeout(ANSWER, answer).await.context("its viewer does not answer")?
    }
}

/// Whether a connection broke with something in it that the viewer had not read. Linux tells that by *reset* instead of
/// an end; a line that is not read to its end, and that is so of the last one, is not acted on.
fn is_unread(error: &anyhow::Error) -> bool {
    let reset = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    cfg!(target_os = "linux") && reset
}

/// A delivery of which the engine wants to know where it stands.
struct Asked {
    id: RequestId,
    attempt: u32,
    /// The turn that it was seen in.
    bound: Option<String>,
    last: bool,
}

struct Droid {
    place: Place,
    agents: Agents,
    /// What is waiting for the viewer's word.
    asked: Vec<Asked>,
    /// The session that the viewer is in.
    session: Option<String>,
    /// Who wants to know what would be lost if it were ended.
    glances: Vec<UnboundedSender<Presence>>,
    /// How often it could not be driven so, and since when it can.
    failures: Failures,
    works: Option<Instant>,
}

impl Driver for Droid {
    fn meanwhile(&mut self, line: &Line, task: Task) -> Option<End> {
        match task {
            Task::Offer(offer) => line.not_handed_over(&offer, "its viewer is not connected to"),
            Task::Runner(event) => return Self::runner(event),
            Task::RunnerGone { why } => return Some(End::Gone { why }),
            // A new connection asks again where the delivery stands; interrupts have their own deadline.
            Task::Reconcile { .. } | Task::Interrupt { .. } | Task::Hook(_) | Task::Glance(_) => {}
            Task::Launch(launch) => self.launched(line, *launch),
        }
        None
    }
}

impl Droid {
    /// Says how the viewer is started again: in the session that it is in, by the options of the last launch.
    fn next(&self, line: &Line) {
        if let Some(session) = &self.session {
            self.agents.order(&line.agent, &Order::Next { argv: self.place.launch.resume(session) });
        }
    }

    /// It could not be driven; if that comes again and again, there may be another way.
    fn failed(&mut self, line: &Line, why: &str) {
        if self.works.take().is_some_and(|since| since.elapsed() > LIFE) {
            self.failures = Failures::default();
        }
        if let Some(often) = self.failures.add() {
            self.agents.broke(&line.agent, Rung::Joined, false, format!("it failed {often} ({why})"));
        }
    }

    /// It is launched anew, perhaps with other options.
    fn launched(&mut self, line: &Line, launch: Launch) {
        self.place.launch = launch;
        self.next(line);
    }

    /// One connection to the viewer, from its handshake to its end.
    async fn session(&mut self, line: &mut Line) -> anyhow::Result<End> {
        self.asked.clear();
        self.glances.clear();
        let place = self.place.clone();
        let mut wire = match joined::connected(self, line, Wire::open(&place)).await? {
            Ok(wire) => wire,
            Err(end) => return Ok(end),
        };
        line.connected();
        loop {
            tokio::select! {
                biased;
                task = line.task() => match task {
                    None => return Ok(End::Closed),
                    Some(task) => if let Some(end) = self.task(line, &mut wire, task).await? { return Ok(end) },
                },
                told = wire.next() => self.told(line, told?).await,
            }
        }
    }

    fn runner(event: RunnerEvent) -> Option<End> {
        match event {
            RunnerEvent::TuiEnded { how, again: true } => Some(End::Ended { why: how }),
            RunnerEvent::TuiEnded { how, again: false } => {
                Some(End::Gone { why: format!("its viewer ended ({how}); start it with `ccb`") })
            }
            RunnerEvent::TuiStarted { .. }
            | RunnerEvent::Closed
            | RunnerEvent::ServerStarted { .. }
            | RunnerEvent::ServerEnded { .. } => None,
        }
    }

    async fn task(&mut self, line: &mut Line, wire: &mut Wire, task: Task) -> anyhow::Result<Option<End>> {
        match task {
            Task::Offer(offer) => self.offer(line, wire, offer).await?,
            Task::Interrupt { id, .. } => wire.say(&Said::Interrupt { id }).await?,
            Task::Reconcile { id, attempt, turn: bound, last, .. } => {
                wire.say(&Said::Look { id: id.clone() }).await?;
                self.asked.retain(|asked| asked.id != id);
                self.asked.push(Asked { id, attempt, bound, last });
            }
            Task::Runner(event) => return Ok(Self::runner(event)),
            Task::RunnerGone { why } => return Ok(Some(End::Gone { why })),
            Task::Launch(launch) => self.launched(line, *launch),
            Task::Glance(tell) => {
                self.glances.push(tell);
                wire.say(&Said::Glance).await?;
            }
            Task::Hook(_) => {}
        }
        Ok(None)
    }

    async fn offer(&mut self, line: &mut Line, wire: &mut Wire, offer: Offer) -> anyhow::Result<()> {
        // What has come already may tell of a turn that the engine did not know of when it decided to offer.
        while let Some(told) = wire.next().now_or_never() {
            match told {
                Ok(told) => self.told(line, told).await,
                Err(error) => {
                    line.presence(Presence::Starting { why: "the connection to its viewer is broken".into() });
                    line.not_handed_over(&offer, "the connection is broken");
                    return Err(error);
                }
            }
        }
        let text = match (&offer.kind, offer.no_wrap) {
            (Kind::Ask, false) => prompt::envelope(&offer.id, &offer.message, false),
            (Kind::Ask, true) | (Kind::Notice { .. }, _) => offer.message.clone(),
        };
        crate::failpoint::hit("droid.before-offer").await;
        let (id, attempt) = (offer.id.clone(), offer.attempt);
        if let Err(error) = wire.say(&Said::Offer { id: id.clone(), text }).await {
            // The viewer takes whole lines only, and the end of this one was not written.
            line.presence(Presence::Starting { why: "the connection to its viewer is broken".into() });
            line.not_handed_over(&offer, "the connection broke before it was written");
            return Err(error);
        }
        let at = match wire.stands(&id).await {
            Ok(at) => at,
            Err(error) if is_unread(&error) => {
                line.presence(Presence::Starting { why: "the connection to its viewer is broken".into() });
                line.not_handed_over(&offer, "its viewer ended and had not read it");
                return Err(error);
            }
            Err(error) => {
                let why = format!("the connection broke while it was handed over: {error:#}");
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
                return Err(error);
            }
        };
        crate::failpoint::hit("droid.offered").await;
        match at {
            Standing::Back { why } => {
                // First what it is doing, so that the engine does not offer again at once.
                while let Some(told) = wire.backlog.pop_front() {
                    self.told(line, told).await;
                }
                if line.told == Some(Presence::Idle) {
                    line.presence(Presence::Busy { why: why.clone() });
                }
                line.not_handed_over(&offer, &why);
            }
            at => {
                let how = "its viewer has given it to Droid".to_owned();
                line.engine.tell(Input::HandedOver { id: id.clone(), attempt, how });
                if at != Standing::Sent {
                    self.asked.push(Asked { id: id.clone(), attempt, bound: None, last: false });
                    self.stands(line, id, at);
                }
            }
        }
        Ok(())
    }

    async fn told(&mut self, line: &mut Line, told: Told) {
        match told {
            Told::Hello { .. } => {}
            Told::Presence { presence } => {
                match presence {
                    Presence::Absent { .. } | Presence::Starting { .. } => {}
                    Presence::Idle | Presence::Busy { .. } | Presence::Waiting { .. } => {
                        self.works.get_or_insert_with(Instant::now);
                    }
                }
                line.presence(presence);
            }
            Told::Session { session } => {
                self.agents.set_session(&line.agent, &session).await;
                self.session = Some(session);
                self.next(line);
            }
            Told::Stands { id, at } => self.stands(line, id, at),
            Told::Seen { presence } => {
                for tell in self.glances.drain(..) {
                    tell.send(presence.clone()).ok();
                }
            }
            Told::Trouble { error } => {
                self.failed(line, &error);
                self.agents.error(&line.agent, error);
            }
        }
    }

    /// Tells the engine where a delivery stands.
    fn stands(&mut self, line: &Line, id: RequestId, at: Standing) {
        let asked = self.asked.iter().position(|asked| asked.id == id).map(|at| self.asked.remove(at));
        let source = "protocol".to_owned();
        match at {
            Standing::Taken { turn } => line.engine.tell(Input::Consumed { id, turn, source, mixed: false }),
            Standing::Ended { turn, end, by } => {
                let source = by.word().to_owned();
                self.agents.turn_ended(&line.agent, &end);
                line.engine.tell(Input::Consumed { id: id.clone(), turn: turn.clone(), source, mixed: false });
                line.engine.tell(Input::TurnEnded { id, turn, end, by });
            }
            Standing::Absent
            | Standing::Refused { .. }
            | Standing::Unclear { .. }
            | Standing::Sent
            | Standing::Back { .. } => {
                Self::not_taken(line, id, at, asked);
            }
        }
    }

    fn not_taken(line: &Line, id: RequestId, at: Standing, asked: Option<Asked>) {
        let last = asked.as_ref().is_some_and(|asked| asked.last);
        let (line_engine, agent, of) = (line.engine.clone(), line.agent.clone(), id.clone());
        let tell = move |attempt: u32, bound: Option<String>| match (at, bound) {
            (Standing::Unclear { why }, Some(_)) if why == view::STARTING => {}
            (Standing::Absent | Standing::Unclear { .. }, Some(turn)) => {
                // Whoever had it in a turn has ended since, and nobody goes on with that.
                let message = "its turn is not in the agent's records any more".to_owned();
                let end = TurnEnd::Failed { reason: Failure::AgentGone, message, partial: String::new() };
                line_engine.tell(Input::TurnEnded { id, turn, end, by: EndedBy::Record });
            }
            (Standing::Absent, None) => {
                let proof = "neither its viewer nor the agent's own records have ever had it".to_owned();
                line_engine.tell(Input::NotTaken { id, attempt, proof });
            }
            (Standing::Refused { why }, _) => {
                line_engine.tell(Input::NotTaken { id, attempt, proof: format!("Droid refused it: {why}") });
            }
            (Standing::Unclear { why }, None) => line_engine.tell(Input::Doubt { id, attempt, why, last }),
            (Standing::Sent, _) => {
                let why = "its viewer has given it to Droid, which has not taken it yet".to_owned();
                line_engine.tell(Input::Doubt { id, attempt, why, last });
            }
            (Standing::Back { .. } | Standing::Taken { .. } | Standing::Ended { .. }, _) => {}
        };
        // Told without being asked: it is of the delivery that the engine takes the agent to be at.
        let Some(Asked { attempt, bound, .. }) = asked else {
            let engine = line.engine.clone();
            tokio::spawn(async move {
                let found = engine.look(move |view| {
                    let current = view.state.agents.get(&agent)?.current.as_ref().filter(|current| **current == of)?;
                    let request = view.state.requests.get(current)?;
                    Some((request.attempts, request.turn().map(str::to_owned)))
                });
                if let Ok(Some((attempt, bound))) = found.await {
                    tell(attempt, bound);
                }
            });
            return;
        };
        tell(attempt, bound);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixListener;

    use super::*;

    /// Returns how a connection ends whose viewer ends when it has read so many bytes of an offer.
    async fn ended_after(read: impl Fn(usize) -> usize) -> anyhow::Error {
        let dir = tempfile::tempdir().expect("a directory");
        let reach = dir.path().join("view.sock");
        let listener = UnixListener::bind(&reach).expect("a socket");
        let launch = Launch { records: PathBuf::new(), session: String::new(), argv: vec![], resume: (vec![], vec![]) };
        let place = Place { reach, launch };
        let (id, text) = (RequestId::new("20261124-1").expect("an id"), "words".repeat(100));
        let offer = Said::Offer { id: id.clone(), text };
        let mut unread = vec![0; read(view::line(&offer).len())];
        let (opened, accepted) = tokio::join!(Wire::open(&place), async {
            let (mut viewer, _) = listener.accept().await.expect("a connection");
            viewer.write_all(view::line(&Told::Hello { protocol: PROTOCOL }).as_bytes()).await.expect("a word");
            viewer
        });
        let (mut wire, mut viewer) = (opened.expect("a wire"), accepted);
        wire.say(&offer).await.expect("an offer");
        viewer.read_exact(&mut unread).await.expect("some of it");
        drop(viewer);
        wire.stands(&id).await.expect_err("nobody is there")
    }

    #[tokio::test]
    async fn an_offer_that_its_viewer_has_not_read_to_its_end_was_not_taken() {
        assert!(!is_unread(&ended_after(|whole| whole).await), "it may have been given to Droid");
        for unread in [ended_after(|_| 0).await, ended_after(|whole| whole - 1).await] {
            assert_eq!(is_unread(&unread), cfg!(target_os = "linux"), "{unread:#}");
        }
    }
}
