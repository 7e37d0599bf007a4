//! Waiting for an answer, whatever becomes of the daemon meanwhile: the request has an id, so the same calls
//! can be made again on the next connection, and mean the same request.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use ccb_core::id::RequestId;
use ccb_core::wire::{Accepted, Ack, Ask, Progress, RequestView, Retry, Wait};

use super::options::Options;
use crate::command::pend::verdict;
use crate::connect::{Askd, ConnectError, DEADLINE};
use crate::connection::{CALL_LIMIT, CallError, Connection, Heard};
use crate::error::{CliError, note};
use crate::output::Printed;
use crate::wake::{Interrupt, Patience, pause};
use crate::{display, exit, output};

/// How long after the request's own deadline askd may tell of its end.
const GRACE: Duration = Duration::from_secs(30);

/// How long askd may be unable to start again before a waiting caller is told.
const TROUBLE_LIMIT: Duration = Duration::from_secs(30);

/// What makes a request.
pub(in crate::command) enum Submission {
    /// A message.
    Ask(Ask),
    /// A request that is over, asked again.
    Retry(Retry),
}

impl Submission {
    fn id(&self) -> &RequestId {
        match self {
            Self::Ask(Ask { id, .. }) | Self::Retry(Retry { id, .. }) => id,
        }
    }

    fn timeout_s(&self) -> Option<f64> {
        match self {
            Self::Ask(Ask { timeout_s, .. }) | Self::Retry(Retry { timeout_s, .. }) => *timeout_s,
        }
    }

    /// Returns what it is called as long as nothing is known of it.
    fn name(&self) -> String {
        match self {
            Self::Ask(ask) => ask.agent.clone(),
            Self::Retry(retry) => format!("{} again", retry.of),
        }
    }

    fn call_on(&self, connection: &mut Connection, patience: Patience<'_>) -> Result<Accepted, CallError> {
        match self {
            Self::Ask(ask) => connection.call_within(ask, patience),
            Self::Retry(retry) => connection.call_within(retry, patience),
        }
    }
}

/// The wait for one request.
pub(in crate::command) struct Vigil<'a> {
    askd: &'a Askd,
    id: RequestId,
    /// The request, where it is not known to be accepted yet.
    submission: Option<Submission>,
    accepted: bool,
    patience: Patience<'a>,
    line: StatusLine,
}

/// Why a wait has ended before the request.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::command) enum Ended {
    /// The caller wants no more.
    Interrupted,
    /// Its time is over.
    Overdue,
    /// It cannot be.
    Failed(CliError),
}

/// Who is told of a request's progress.
pub(super) type Relay = Box<dyn Fn(&str) + Send>;

/// A line on the terminal that shows state and time, and leaves nothing behind.
pub(super) struct StatusLine {
    shown: bool,
    relay: Option<Relay>,
    name: String,
    began: Instant,
    state: String,
    next: Instant,
}

/// Asks, waits, prints the answer, and says that it was printed.
pub(super) fn run(
    askd: &Askd,
    connection: Connection,
    submission: Submission,
    options: &Options,
) -> Result<u8, CliError> {
    let interrupt = Interrupt::catch().map_err(|error| CliError::new(format!("cannot watch for Ctrl-C: {error}")))?;
    let patience = Patience { until: end_of_wait(submission.timeout_s()), interrupt: Some(&interrupt) };
    let line = StatusLine::new(&submission.name());
    let id = submission.id().clone();
    let submission = Some(submission);
    let mut vigil = Vigil { askd, id: id.clone(), submission, accepted: false, patience, line };
    let (request, mut connection) = vigil.keep(Some(connection)).map_err(|ended| vigil.explain(ended))?;
    drop(vigil);
    let reply = display::reply(&request);
    let printed = match (options.json, reply.is_empty()) {
        (true, _) => output::print_json(&request)?,
        (false, true) => Printed::Whole,
        (false, false) => output::print(reply)?,
    };
    let written = options.output.as_ref().map_or(Ok(()), |path| {
        output::write_private(path, format!("{reply}{}", output::line_end(reply)).as_bytes())
            .map_err(|error| CliError::new(format!("cannot write {}: {error}", path.display())))
    });
    if printed == Printed::Whole {
        acknowledge(askd, &mut connection, id);
    }
    written?;
    let settlement = request.settlement.as_ref().ok_or_else(|| CliError::new("askd ended the wait too early"))?;
    match (verdict(&request, settlement), options.json) {
        (Err(error), true) => Ok(error.code),
        (verdict, _) => verdict,
    }
}

/// Returns when a wait for a request of that many seconds is over, whatever askd says.
pub(super) fn end_of_wait(timeout_s: Option<f64>) -> Option<Instant> {
    let limit = timeout_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    limit.and_then(|limit| Instant::now().checked_add(limit)?.checked_add(GRACE))
}

/// Says that the reply was printed. If askd cannot be told, it keeps the reply, or sends it once more as a
/// notice: too much rather than too little.
pub(in crate::command) fn acknowledge(askd: &Askd, connection: &mut Connection, id: RequestId) {
    let ack = Ack { id };
    if let Err(CallError::Lost(_)) = connection.call(&ack) {
        let _ = askd.call(&ack);
    }
}

impl<'a> Vigil<'a> {
    /// Returns a wait that shows nothing, for a request that was accepted.
    pub(in crate::command) fn silent(askd: &'a Askd, id: RequestId, patience: Patience<'a>) -> Self {
        let line = StatusLine::hidden("", None);
        Self { askd, id, submission: None, accepted: true, patience, line }
    }

    /// Returns one that makes its request first, and tells its progress to `relay` instead of showing it.
    pub(super) fn relaying(askd: &'a Askd, ask: Ask, patience: Patience<'a>, relay: Relay) -> Self {
        let line = StatusLine::hidden(&ask.agent, Some(relay));
        Self { askd, id: ask.id.clone(), submission: Some(Submission::Ask(ask)), accepted: false, patience, line }
    }

    /// Waits until the request is over.
    pub(in crate::command) fn keep(&mut self, first: Option<Connection>) -> Result<(RequestView, Connection), Ended> {
        let mut connection = match first.map_or_else(|| self.askd.find_or_start(self.patience.at_most(DEADLINE)), Ok) {
            Ok(connection) => connection,
            // Its own patience is short: what askd could not do within it is no failure.
            Err(ConnectError::NoAnswer(_)) if self.accepted && self.patience.is_over() => return Err(Ended::Overdue),
            Err(error) => return Err(self.unreachable(error)),
        };
        loop {
            match self.round(&mut connection) {
                Ok(request) => return Ok((request, connection)),
                Err(Round::Over(error)) => return Err(error),
                Err(Round::Lost) => connection = self.reconnect()?,
            }
        }
    }

    /// Asks and waits on one connection.
    fn round(&mut self, connection: &mut Connection) -> Result<RequestView, Round> {
        if let Some(submission) = &self.submission {
            let accepted = submission.call_on(connection, self.patience.at_most(CALL_LIMIT));
            let accepted = accepted.map_err(|error| self.failed(error))?;
            if !std::mem::replace(&mut self.accepted, true)
                && let Some(text) = &accepted.note
            {
                self.line.clear();
                note(text);
            }
            self.line.name = display::agent_name(accepted.agent.as_str(), &accepted.provider);
            self.line.tell(&accepted.state, &accepted.why);
        }
        let number = connection.begin(&Wait { id: self.id.clone() }).map_err(|error| self.failed(error))?;
        loop {
            match connection.hear::<Wait>(number, self.line.until_next(self.patience)) {
                Ok(Heard::Answer(request)) => return Ok(request),
                Ok(Heard::Notice(method, params)) if method == "progress" => {
                    if let Ok(progress) = serde_json::from_value::<Progress>(params) {
                        self.line.tell(&progress.state, &progress.why);
                    }
                }
                Ok(Heard::Notice(..)) => {}
                Ok(Heard::Interrupted) => return Err(Round::Over(Ended::Interrupted)),
                Ok(Heard::Nothing) if self.patience.is_over() => return Err(Round::Over(Ended::Overdue)),
                Ok(Heard::Nothing) => self.line.draw(),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Comes back to askd, or to its successor. What is only slow is waited for as long as the request may
    /// take; what fails outright may heal, but is told before long.
    fn reconnect(&mut self) -> Result<Connection, Ended> {
        let mut told = false;
        let trouble = Patience::of(TROUBLE_LIMIT);
        loop {
            let error = match self.askd.find_or_start(self.patience.at_most(DEADLINE)) {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let is_slow = matches!(error, ConnectError::NoAnswer(_));
            if matches!(error, ConnectError::Interrupted) {
                return Err(Ended::Interrupted);
            }
            if self.patience.is_over() || (!is_slow && trouble.is_over()) {
                return Err(self.unreachable(error));
            }
            if self.line.shown {
                self.line.tell("waiting for askd", &error.to_string());
            } else if !told {
                note(&format!("{error}; the request is kept, and waited for"));
            }
            told = true;
            let _ = pause(Duration::from_secs(1), self.patience);
        }
    }

    fn failed(&self, error: CallError) -> Round {
        match error {
            CallError::Refusal(refusal) => Round::Over(Ended::Failed(refusal.into())),
            CallError::Lost(why) if why.kind() == std::io::ErrorKind::Interrupted => Round::Over(Ended::Interrupted),
            CallError::Lost(_) if self.patience.is_over() => Round::Over(Ended::Overdue),
            CallError::Lost(_) => Round::Lost,
        }
    }

    /// Returns the end of a wait as a user at a terminal sees it.
    pub(super) fn explain(&self, ended: Ended) -> CliError {
        match ended {
            Ended::Interrupted => self.interrupted(),
            Ended::Overdue => self.overdue(),
            Ended::Failed(error) => error,
        }
    }

    fn interrupted(&self) -> CliError {
        let id = &self.id;
        let message = if self.accepted {
            format!("still running: get it with `ccb pend {id}`")
        } else {
            "interrupted before the request was known to be accepted".to_owned()
        };
        CliError::new(message).hint(format!("`ccb cancel {id}` stops it")).code(exit::INTERRUPTED)
    }

    fn overdue(&self) -> CliError {
        CliError::new("the deadline has passed, and askd has not told of the end")
            .hint(format!("`ccb explain {}`", self.id))
            .code(exit::NO_REPLY)
    }

    fn unreachable(&self, error: ConnectError) -> Ended {
        if matches!(error, ConnectError::Interrupted) {
            return Ended::Interrupted;
        }
        let error = self.askd.explain(error);
        let kept = |error: CliError| error.hint(format!("the request is kept: `ccb pend {}`", self.id));
        Ended::Failed(if self.accepted { kept(error) } else { error })
    }
}

/// Why a round on one connection has no answer.
enum Round {
    /// There will be none.
    Over(Ended),
    /// The next connection may have it.
    Lost,
}

impl StatusLine {
    pub(super) fn new(agent: &str) -> Self {
        let mut line = Self::hidden(agent, None);
        line.shown = std::io::stderr().is_terminal();
        line
    }

    fn hidden(agent: &str, relay: Option<Relay>) -> Self {
        let now = Instant::now();
        Self { shown: false, relay, name: agent.to_owned(), began: now, state: String::new(), next: now }
    }

    fn tell(&mut self, state: &str, why: &str) {
        let why = if why.is_empty() { String::new() } else { format!(" ({})", display::safe(why)) };
        self.say(display::line(&format!("{state}{why}"), 200));
    }

    /// Shows this.
    pub(super) fn say(&mut self, state: String) {
        self.state = state;
        if let Some(relay) = &self.relay {
            relay(&self.state);
        }
        self.draw();
    }

    pub(super) fn draw(&mut self) {
        self.next = Instant::now() + Duration::from_secs(1);
        if !self.shown {
            return;
        }
        let elapsed = i64::try_from(self.began.elapsed().as_secs()).unwrap_or(i64::MAX / 1000) * 1000;
        let elapsed = if elapsed == 0 { "0 s".to_owned() } else { display::span(elapsed).replace(".0 s", " s") };
        let text = display::line(&format!("{}: {}, {elapsed}", self.name, self.state), width().saturating_sub(1));
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
    }

    /// Takes it away until it is drawn again.
    pub(super) fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// Returns `patience`, cut at the moment of the next redrawing; a line that is not shown wakes nobody.
    pub(super) fn until_next<'a>(&self, patience: Patience<'a>) -> Patience<'a> {
        if self.shown { patience.at_most(self.next.saturating_duration_since(Instant::now())) } else { patience }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Returns the terminal's width in columns.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::tests::{World, welcome};
    use std::sync::mpsc::channel;

    use ccb_core::id::AgentName;
    use ccb_core::outcome::{EndedBy, Outcome};
    use ccb_core::request::{Kind, Settlement};
    use ccb_core::time::Time;
    use ccb_core::wire::Line;
    use serde_json::{Value, to_value};

    fn ask() -> Ask {
        Ask {
            id: RequestId::new("r1").unwrap(),
            agent: "codex".into(),
            message: "hi".into(),
            timeout_s: Some(20.0),
            caller: None,
            no_wrap: false,
            waits: true,
        }
    }

    fn settled() -> RequestView {
        let settlement = Settlement {
            at: Time(2),
            outcome: Outcome::Completed,
            reply: "hello".into(),
            ended_by: Some(EndedBy::Protocol),
            turn: None,
            mixed: false,
            late: None,
        };
        RequestView {
            id: ask().id,
            agent: AgentName::new("codex").unwrap(),
            asker: "manual".into(),
            parent: None,
            retry_of: None,
            retries: Vec::new(),
            kind: Kind::Ask,
            summary: "hi".into(),
            state: "settled".into(),
            why: String::new(),
            accepted: Time(1),
            deadline: None,
            attempts: 1,
            turn: None,
            delivered: None,
            settlement: Some(settlement),
        }
    }

    fn answer(call: &Line, project: &str) -> Value {
        match call.method.as_str() {
            "hello" => welcome(project, true),
            "ask" => to_value(Accepted {
                id: ask().id,
                agent: AgentName::new("codex").unwrap(),
                provider: "Codex".into(),
                repeated: false,
                state: "queued".into(),
                why: String::new(),
                note: None,
            })
            .unwrap(),
            _ => to_value(settled()).unwrap(),
        }
    }

    fn vigil(world: &World) -> Vigil<'_> {
        Vigil {
            askd: &world.askd,
            id: ask().id,
            submission: Some(Submission::Ask(ask())),
            accepted: false,
            patience: Patience::of(Duration::from_secs(20)),
            line: StatusLine::new("codex"),
        }
    }

    #[test]
    fn a_daemon_that_dies_is_asked_again_for_the_same_request() {
        let world = World::new("echo held");
        let (heard, calls) = channel();
        let mut deaths = 2;
        world.serve(3, move |call, project| {
            heard.send((call.method.clone(), call.params["id"].clone())).unwrap();
            if call.method == ["ask", "wait", ""][2 - deaths] {
                deaths -= 1;
                return None;
            }
            Some(Ok(answer(call, project)))
        });
        let mut vigil = vigil(&world);
        let (request, connection) = vigil.keep(None).unwrap();
        assert_eq!(request, settled());
        drop((connection, vigil));
        let calls: Vec<(String, Value)> = calls.try_iter().collect();
        let methods: Vec<&str> = calls.iter().map(|(method, _)| method.as_str()).collect();
        assert_eq!(methods, ["hello", "ask", "hello", "ask", "wait", "hello", "ask", "wait"]);
        assert!(calls.iter().all(|(method, id)| method == "hello" || id == "r1"));
    }

    #[test]
    fn a_refusal_ends_the_wait() {
        let world = World::new("echo held");
        world.serve(1, |call, project| match call.method.as_str() {
            "hello" => Some(Ok(welcome(project, true))),
            _ => Some(Err(ccb_core::wire::Refusal::new(ccb_core::wire::Code::UnknownAgent, "no agent `codex`"))),
        });
        let mut vigil = vigil(&world);
        let ended = vigil.keep(None).unwrap_err();
        assert_eq!(vigil.explain(ended).message, "no agent `codex`");
    }
}
