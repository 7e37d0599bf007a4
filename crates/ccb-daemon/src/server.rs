//! One connection to askd: lines become inputs, and answers become lines. Nothing is decided here.
//!
//! A connection must shake hands within five seconds, and before that its lines are short.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ccb_core::id::{AgentName, RequestId, nearest};
use ccb_core::request::{Asker, Request};
use ccb_core::settings::millis;
use ccb_core::step::{Input, Verdict};
use ccb_core::wire::{self, Call, Code, Refusal};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::net::UnixStream;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::AbortHandle;

use crate::door::guests::{Guest, Standing};
use crate::door::queue::{Line, Lines, Out, is_sprawling};
use crate::door::{Door, HANDSHAKE};
use crate::transport::Task;
use crate::{process, views};

/// How long what is left may take to be written to one that has to make room.
const PARTING: Duration = Duration::from_millis(100);

/// The length, in bytes, from which on a line is read beside everything else.
const LONG: usize = 1 << 20;

/// How many answers a connection may wait for at a time.
const WAITS: usize = 256;
/// How long `ping` waits for the engine before it looks whether the disk holds it up.
const PING_PATIENCE: std::time::Duration = std::time::Duration::from_millis(200);

/// How long `status` waits for the engine.
const STATUS_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// One connection.
pub(crate) struct Connection {
    door: Arc<Door>,
    out: Out,
    pid: u32,
    guest: Guest,
    role: String,
    runs: Option<AgentName>,
    /// Whether its caller speaks another protocol: one call is left to it.
    other: bool,
    waits: Vec<(RequestId, AbortHandle)>,
}

impl Connection {
    /// Returns a connection of that process that has not shaken hands.
    pub(crate) fn new(door: &Arc<Door>, out: Out, pid: u32, guest: Guest) -> Self {
        let role = String::new();
        Self { door: door.clone(), out, pid, guest, role, runs: None, other: false, waits: Vec::new() }
    }

    /// Serves the connection to its end.
    pub(crate) async fn talk(door: &Arc<Door>, stream: UnixStream, pid: u32, guest: Guest) {
        let (reading, writing) = stream.into_split();
        let (out, writing) = Out::open(writing, door.memory.clone());
        let mut writer = tokio::spawn(writing);
        let mut connection = Self::new(door, out, pid, guest);
        let mut lines = Lines::new(reading, door.memory.clone());
        let welcome = tokio::time::timeout(HANDSHAKE, connection.greet(&mut lines)).await;
        // One call is left to a caller of another protocol, which then waits for our end.
        while connection.other
            && let Ok(Some(line)) =
                tokio::time::timeout(HANDSHAKE, connection.hear(&mut lines, wire::LINE_LIMIT_BEFORE_HELLO)).await
        {
            connection.replaced(&line.text).await;
        }
        if welcome.unwrap_or(false) {
            while let Some(line) = connection.hear(&mut lines, wire::LINE_LIMIT).await {
                connection.guest.set_busy(true);
                connection.line(line).await;
                connection.guest.set_busy(false);
            }
        }
        drop(lines);
        let guest = connection.end();
        // What is still to be written is written while the other side reads.
        let patience = if guest.is_leaving() { PARTING } else { HANDSHAKE };
        if tokio::time::timeout(patience, &mut writer).await.is_err() {
            writer.abort();
            writer.await.ok();
        }
    }

    /// Reads the next line; none if the connection is to be closed. What cannot be a line is answered in words.
    async fn hear(&self, lines: &mut Lines<impl AsyncRead + Unpin>, limit: usize) -> Option<Line> {
        self.out.room().await;
        if self.out.is_cut() {
            return None;
        }
        let heard = tokio::select! {
            biased;
            heard = self.guest.while_welcome(lines.next(limit)) => heard.unwrap_or(Ok(None)),
            () = self.out.cut() => Ok(None),
        };
        match heard {
            Ok(line) => line,
            Err(refusal) => {
                self.answer(&Value::Null, Err(refusal)).await;
                None
            }
        }
    }

    async fn answer(&self, id: &Value, result: Result<Value, Refusal>) {
        self.out.answer(id, result).await.ok();
    }

    /// Hears the first line, which is the handshake; true if there is one.
    async fn greet(&mut self, lines: &mut Lines<impl AsyncRead + Unpin>) -> bool {
        let Some(line) = self.hear(lines, wire::LINE_LIMIT_BEFORE_HELLO).await else { return false };
        let call = match wire::parse_call(&line.text) {
            Ok(call) => call,
            Err(refusal) => {
                self.answer(&Value::Null, Err(refusal)).await;
                return false;
            }
        };
        let result = self.shake_hands(&call);
        let fine = result.is_ok();
        self.answer(&call.id, result).await;
        fine
    }

    fn shake_hands(&mut self, call: &wire::Line) -> Result<Value, Refusal> {
        if call.method != wire::Hello::METHOD {
            return Err(Refusal::new(Code::Protocol, "the first call of a connection is `hello`"));
        }
        let hello: wire::Hello = parameters(call.params.clone())?;
        // A keeper outlives the update of its program, and then watches a worker of the new version.
        if hello.protocol != program().protocol && hello.role != "keeper" {
            self.other = true;
            if hello.role == "runner" {
                let (mounts, pid, version) = (self.door.mounts.clone(), self.pid, hello.version.clone());
                tokio::spawn(async move { mounts.runner_of_another_version(pid, &version).await });
            }
            return Err(another_protocol(&hello));
        }
        let home = self.door.files.home();
        if hello.project != home.project() {
            let message = format!("this is the daemon of `{}`, not of the caller's project", home.work_dir().display());
            return Err(Refusal::new(Code::Project, message));
        }
        let standing = match hello.role.as_str() {
            "client" | "hook" => Standing::Client,
            _ => Standing::Kept,
        };
        if !self.guest.admit(standing) {
            let message = "askd has as many connections as its limit of descriptors allows, and all are in use";
            return Err(Refusal::new(Code::Internal, message).hint("wait for one to end, or raise `ulimit -n`"));
        }
        hello.role.clone_into(&mut self.role);
        if self.role == "keeper" {
            self.door.keeper.store(self.pid, Ordering::SeqCst);
        }
        let ours = program();
        let welcome = wire::Welcome {
            protocol: ours.protocol,
            version: ours.version,
            project: home.project().into(),
            work_dir: home.work_dir().display().to_string(),
            generation: self.door.generation,
            pid: std::process::id(),
            keeper: self.door.keeper.load(Ordering::SeqCst) != 0,
            you: self.pane(),
        };
        to_value(&welcome)
    }

    /// The one call of a caller of another protocol: that this daemon makes room for one of the caller's.
    async fn replaced(&self, line: &str) {
        let (id, result) = match wire::parse_call(line) {
            Ok(call) if call.method == wire::Replace::METHOD => (call.id, self.replace(call.params).await),
            Ok(call) => {
                let refusal = Refusal::new(Code::Protocol, "only `replace` is understood between two protocols");
                (call.id, Err(refusal))
            }
            Err(refusal) => (Value::Null, Err(refusal)),
        };
        self.answer(&id, result).await;
    }

    async fn replace(&self, params: Value) -> Result<Value, Refusal> {
        let wire::Replace { version, force } = parameters(params)?;
        if !force && let Some(why) = self.door.needed(None).await {
            let message = format!(
                "askd {} serves this project, ccb {version} does not speak its protocol, and {why}",
                program().version
            );
            let hint = "end it with the `ccb kill` of its version, or replace it at once: CCB_FORCE_REBIND=1";
            return Err(Refusal::new(Code::Owned, message).hint(hint));
        }
        self.door.request_stop(&format!("replaced by version {version} (process {})", self.pid));
        to_value(&wire::Done {})
    }

    async fn line(&mut self, line: Line) {
        let Line { text, held: _held } = line;
        let call = match parse(text).await {
            Ok(call) => call,
            Err(refusal) => return self.answer(&Value::Null, Err(refusal)).await,
        };
        if call.method == wire::Wait::METHOD {
            match parameters::<wire::Wait>(call.params) {
                Ok(wait) => self.wait(call.id, wait).await,
                Err(refusal) => self.answer(&call.id, Err(refusal)).await,
            }
            return;
        }
        let result = self.dispatch(&call.method, call.params).await;
        self.answer(&call.id, result).await;
    }

    async fn dispatch(&mut self, method: &str, params: Value) -> Result<Value, Refusal> {
        match method {
            wire::Ask::METHOD => to_value(&self.ask(parameters(params)?).await?),
            wire::Retry::METHOD => to_value(&self.retry(parameters(params)?).await?),
            wire::Ack::METHOD => {
                let wire::Ack { id } = parameters(params)?;
                self.door.engine.submit(Input::Acknowledged { id }).await?;
                to_value(&wire::Done {})
            }
            wire::Cancel::METHOD => {
                let wire::Cancel { id, by } = parameters(params)?;
                self.door.engine.submit(Input::Cancel { id: id.clone(), by }).await?;
                to_value(&self.view(id).await?)
            }
            wire::Pend::METHOD => to_value(&self.pend(parameters(params)?).await?),
            wire::Ps::METHOD => {
                let slots: Vec<_> = self.door.agents.lock().values().map(views::SlotView::from).collect();
                to_value(&self.door.engine.look(move |view| views::overview(view.state, &slots)).await?)
            }
            wire::Status::METHOD => to_value(&self.status().await?),
            wire::Explain::METHOD => to_value(&self.explain(parameters(params)?).await?),
            wire::Ping::METHOD => {
                self.door.look_down();
                if self.role == "keeper" {
                    self.door.record.heal();
                }
                to_value(&self.ping().await?)
            }
            wire::Mount::METHOD => {
                let mounted = self.door.mounts.mount(parameters(params)?).await?;
                self.door.keepsakes.look(&self.door.files);
                to_value(&mounted)
            }
            wire::Attach::METHOD => {
                let wire::Attach { force } = parameters(params)?;
                self.guest.admit(Standing::Kept);
                to_value(&self.door.owners.attach(self.pid, self.guest.number(), &self.out, force).await?)
            }
            wire::Detach::METHOD => {
                self.door.owners.detach(self.pid, self.guest.number()).await;
                to_value(&wire::Done {})
            }
            wire::Shutdown::METHOD => self.shutdown(parameters(params)?).await,
            wire::Launch::METHOD => {
                let wire::Launch { agent, pane } = parameters(params)?;
                let agent = self.agent(&agent)?;
                let spec = self.door.mounts.launch(&agent, pane, self.pid, self.guest.number(), &self.out).await;
                self.door.mounts.launched(&agent, spec.as_ref().err());
                let spec = spec?;
                self.runs = Some(agent);
                to_value(&spec)
            }
            wire::Restart::METHOD => {
                let restart: wire::Restart = parameters(params)?;
                let agent = self.agent(&restart.agent)?;
                to_value(&self.door.mounts.restart(agent, restart).await?)
            }
            wire::Hook::METHOD => {
                let wire::Hook { agent, hook } = parameters(params)?;
                let deaf = hook.tells_end() && crate::failpoint::sabotaged("ends-heard");
                if !deaf && let Asker::Agent { name } = self.asker(Some(&agent)) {
                    self.door.agents.task(&name, Task::Hook(hook));
                }
                to_value(&wire::Done {})
            }
            wire::Report::METHOD => {
                let wire::Report { agent, event } = parameters(params)?;
                let agent = self.agent(&agent)?;
                self.door.mounts.report(&agent, self.pid, event).await;
                to_value(&wire::Done {})
            }
            _ => Err(Refusal::new(Code::NoMethod, format!("no method `{method}`"))
                .hint(format!("methods: {}", wire::METHODS.join(" ")))),
        }
    }

    fn agent(&self, name: &str) -> Result<AgentName, Refusal> {
        let table = self.door.agents.lock();
        if let Some(known) = AgentName::new(name).ok().filter(|name| table.contains_key(name)) {
            return Ok(known);
        }
        let names: Vec<&str> = table.keys().map(AgentName::as_str).collect();
        let refusal = Refusal::new(Code::UnknownAgent, format!("no agent `{name}` in this project"));
        Err(match nearest(name, names.iter().copied()) {
            Some(near) => refusal.hint(format!("did you mean `{near}`?")),
            None if names.is_empty() => refusal.hint("this project has no agents yet; start one with `ccb codex`"),
            None => refusal.hint(format!("agents here: {}", names.join(", "))),
        })
    }

    /// Returns the agent in whose pane the caller runs.
    fn pane(&self) -> Option<AgentName> {
        let table = self.door.agents.lock();
        let inside = table.iter().find(|(_, slot)| {
            slot.runner.as_ref().is_some_and(|runner| process::descends_from(self.pid, &runner.identity))
        });
        inside.map(|(name, _)| name.clone())
    }

    /// Who asks: the agent in whose pane the caller runs; where that says nothing, the caller's own word.
    fn asker(&self, hint: Option<&str>) -> Asker {
        let known = |name: &AgentName| self.door.agents.lock().contains_key(name);
        let hinted = || hint.and_then(|hint| AgentName::new(hint).ok()).filter(known);
        match self.pane().or_else(hinted) {
            Some(name) => Asker::Agent { name },
            None => Asker::Manual,
        }
    }

    /// Accepts a request.
    pub(crate) async fn ask(&self, ask: wire::Ask) -> Result<wire::Accepted, Refusal> {
        let agent = match (self.agent(&ask.agent), AgentName::new(&ask.agent)) {
            (Ok(agent), _) => agent,
            // What was accepted once is answered, whatever has become of its agent.
            (Err(_), Ok(agent)) if self.view(ask.id.clone()).await.is_ok() => agent,
            (Err(refusal), _) => return Err(refusal),
        };
        if ask.message.trim().is_empty() {
            return Err(
                Refusal::new(Code::BadParameters, "the message is empty").hint("say what you want: ask <agent> \"…\"")
            );
        }
        let now = self.door.clock.now();
        let timeout = ask.timeout_s.filter(|seconds| *seconds >= 0.0);
        let deadline = timeout.map(|seconds| now.after(i64::try_from(millis(seconds)).unwrap_or(i64::MAX)));
        let request = Request {
            asker: self.asker(ask.caller.as_deref()),
            no_wrap: ask.no_wrap,
            waits: ask.waits,
            deadline,
            ..Request::new(ask.id, agent, ask.message, now)
        };
        self.accept(request).await
    }

    /// Accepts a request that asks again what one that is over has asked.
    async fn retry(&self, retry: wire::Retry) -> Result<wire::Accepted, Refusal> {
        let of = retry.of.clone();
        let found = self.door.engine.look(move |view| {
            let original = view.state.requests.get(&of).cloned();
            original.map_or_else(|| view.store.request(&of), |original| Ok(Some(original)))
        });
        let found = found.await?.map_err(|error| Refusal::new(Code::Store, format!("{error:#}")))?;
        let original = found.ok_or_else(|| unknown(&retry.of))?;
        let now = self.door.clock.now();
        let deadline = match retry.timeout_s {
            Some(seconds) if seconds < 0.0 => None,
            Some(seconds) => Some(now.after(i64::try_from(millis(seconds)).unwrap_or(i64::MAX))),
            None => original.deadline.map(|at| now.after(at.since(original.accepted))),
        };
        let note = views::retry_note(&original);
        let request = Request {
            asker: self.asker(retry.caller.as_deref()),
            no_wrap: original.no_wrap,
            waits: retry.waits,
            deadline,
            retry_of: Some(original.id),
            ..Request::new(retry.id, original.agent, original.message, now)
        };
        Ok(wire::Accepted { note, ..self.accept(request).await? })
    }

    /// Submits a request that was made from a call.
    async fn accept(&self, request: Request) -> Result<wire::Accepted, Refusal> {
        if !request.id.is_of_our_form() {
            let message = format!("`{}` has not the form of a request's id", request.id);
            return Err(
                Refusal::new(Code::BadParameters, message).hint("YYYYMMDD-HHMMSS-mmm-<pid>-<n>, at most 52 characters")
            );
        }
        let (agent, again) = (request.agent.clone(), request.retry_of.clone());
        let (id, look_at) = (request.id.clone(), request.id.clone());
        let submitted = self.door.engine.submit_and_look(Input::Submit(Box::new(request)), move |verdict, view| {
            (verdict, view.state.requests.get(&look_at).map(|request| views::request(view.state, request)))
        });
        let (verdict, view) = submitted.await?;
        let repeated = match verdict {
            Verdict::Repeated => true,
            Verdict::Conflict => {
                return Err(Refusal::new(Code::Conflict, format!("the id {id} is taken by another request")));
            }
            Verdict::UnknownAgent => {
                return Err(Refusal::new(Code::UnknownAgent, format!("no agent `{agent}` in this project")));
            }
            Verdict::TooDeep { depth, limit } => return Err(too_deep(depth, limit)),
            Verdict::TooMany { open, limit } => return Err(too_many(open, limit)),
            Verdict::Cycle(ring) => return Err(cycle(&ring)),
            Verdict::NotOver(state) => return Err(not_over(again.as_ref().unwrap_or(&id), state)),
            Verdict::NoQuestion => return Err(no_question(again.as_ref().unwrap_or(&id))),
            Verdict::Nothing => return Err(unknown(again.as_ref().unwrap_or(&id))),
            Verdict::Accepted | Verdict::Fine => false,
        };
        let provider = self.door.agents.lock().get(&agent).map(|slot| slot.config.provider.row().display);
        let (state, why) = view.map(|view| (view.state, view.why)).unwrap_or_default();
        let provider = provider.unwrap_or_default().into();
        Ok(wire::Accepted { id, agent, provider, repeated, state, why, note: None })
    }

    async fn view(&self, id: RequestId) -> Result<wire::RequestView, Refusal> {
        let found = self.door.engine.look(move |view| {
            let request = view.state.requests.get(&id).cloned().or_else(|| view.store.request(&id).ok().flatten());
            request.map(|request| views::request(view.state, &request)).ok_or_else(|| unknown(&id))
        });
        found.await?
    }

    async fn explain(&self, call: wire::Explain) -> Result<wire::Explanation, Refusal> {
        let request = self.view(call.id.clone()).await?;
        let (evidence, now) = self.door.engine.look(move |view| (view.store.evidence(&call.id), view.now)).await?;
        let evidence = evidence.map_err(|error| Refusal::new(Code::Store, format!("{error:#}")))?;
        Ok(wire::Explanation { request, evidence, now })
    }

    async fn pend(&self, call: wire::Pend) -> Result<wire::Replies, Refusal> {
        let target = match self.agent(&call.target) {
            Ok(agent) => Ok(agent),
            Err(refusal) => Err((RequestId::new(&call.target).map_err(|_| refusal.clone())?, refusal)),
        };
        let count = call.count.clamp(1, 1000);
        let found = self.door.engine.look(move |view| {
            let requests = match target {
                Ok(agent) => {
                    view.store.latest(&agent, count).map_err(|e| Refusal::new(Code::Store, format!("{e:#}")))?
                }
                Err((id, refusal)) => match view.store.request(&id) {
                    Ok(Some(request)) => vec![request],
                    Ok(None) if id.as_str().contains('-') => return Err(unknown(&id)),
                    Ok(None) => return Err(refusal),
                    Err(error) => return Err(Refusal::new(Code::Store, format!("{error:#}"))),
                },
            };
            let mut replies = wire::Replies { requests: Vec::new(), questions: Vec::new() };
            let mut size = 0;
            for request in &requests {
                let shown = views::request(view.state, request);
                let length = shown
                    .settlement
                    .as_ref()
                    .map_or(0, |end| end.reply.len() + end.late.as_ref().map_or(0, |late| late.reply.len()));
                size += request.message.len() + length;
                // Only the newest, so that with all that is escaped the answer stays one line.
                if size > wire::LINE_LIMIT / 4 && !replies.requests.is_empty() {
                    break;
                }
                replies.requests.push(shown);
                replies.questions.push(request.message.clone());
            }
            Ok(replies)
        });
        found.await?
    }

    async fn status(&self) -> Result<wire::Health, Refusal> {
        let door = &self.door;
        let look = door.engine.look(|view| {
            let unsettled = view.state.requests.values().filter(|request| !request.is_settled()).count();
            (unsettled as u64, view.store.horizon().map_or(0, |(seq, _)| seq), view.now)
        });
        // An engine that waits for the disk, or hangs, is just what is asked about.
        let (silent, (unsettled, accepted, now)) = match tokio::time::timeout(STATUS_PATIENCE, look).await {
            Ok(found) => (false, found?),
            Err(_) => (true, (0, 0, door.clock.now())),
        };
        let keeper = door.keeper.load(Ordering::SeqCst);
        let (owner, attached) = door.owners.view();
        Ok(wire::Health {
            pid: std::process::id(),
            keeper: (keeper != 0).then_some(keeper),
            version: program().version,
            generation: door.generation,
            started: door.started,
            now,
            work_dir: door.files.home().work_dir().display().to_string(),
            home: door.files.home().root().display().to_string(),
            unsettled,
            accepted,
            last_end: door.last_end.as_ref().map(|end| end.how.clone()),
            last_end_at: door.last_end.as_ref().and_then(|end| end.at),
            restarts: door.record.restarts,
            stalled_ms: door.engine.stalled().filter(|_| silent),
            silent,
            notes: door.notes.iter().cloned().chain(door.engine.trouble()).collect(),
            attach: door.mounts.attach().await,
            owner,
            attached,
        })
    }

    /// Answers when the engine lives, or, while it is inside a commit that the disk does not finish, with that.
    async fn ping(&self) -> Result<wire::Pong, Refusal> {
        let generation = self.door.generation;
        if self.door.is_stopping() {
            // Its engine may have stopped already, and what is left to do may take a while.
            return Ok(wire::Pong { generation, stalled_ms: None });
        }
        let alive = self.door.engine.alive();
        tokio::pin!(alive);
        loop {
            if let Ok(answer) = tokio::time::timeout(PING_PATIENCE, &mut alive).await {
                return answer.map(|()| wire::Pong { generation, stalled_ms: None });
            }
            if let stalled_ms @ Some(_) = self.door.engine.stalled() {
                return Ok(wire::Pong { generation, stalled_ms });
            }
        }
    }

    async fn shutdown(&self, call: wire::Shutdown) -> Result<Value, Refusal> {
        if call.unless_owned
            && let Some(why) = self.door.needed(Some(self.pid)).await
        {
            let refusal = Refusal::new(Code::Owned, format!("askd is not ended: {why}"));
            return Err(refusal.hint("`ccb kill` ends everything; CCB_FORCE_REBIND=1 ends askd all the same"));
        }
        let why = format!("asked by {}", call.by);
        self.door.owners.tell_end(&why);
        if call.panes {
            self.door.mounts.unmount().await;
        }
        self.door.request_stop(&format!("{why} (pid {})", self.pid));
        to_value(&wire::Done {})
    }

    /// Answers when the request is over, and tells its progress meanwhile. Other calls go on beside it.
    async fn wait(&mut self, call: Value, wait: wire::Wait) {
        let id = wait.id;
        if let Err(refusal) = self.view(id.clone()).await {
            return self.answer(&call, Err(refusal)).await;
        }
        if self.guest.open_waits() >= WAITS {
            let message = format!("this connection waits for {WAITS} answers already");
            return self.answer(&call, Err(Refusal::new(Code::TooMany, message))).await;
        }
        let waiting = self.guest.waits();
        let (tx, mut changes) = unbounded_channel();
        self.door.engine.tell(Input::Waits { id: id.clone() });
        self.door.engine.follow(id.clone(), tx);
        let (door, out) = (self.door.clone(), self.out.clone());
        let task = tokio::spawn(async move {
            let _waiting = waiting;
            let mut told = None;
            while let Some(request) = changes.recv().await {
                let _turn = out.turn().await;
                let settled = request.is_settled();
                let look = door
                    .engine
                    .look(move |view| (views::request(view.state, &request), views::progress(view.state, &request)));
                let Ok((view, progress)) = look.await else { return };
                if settled && crate::failpoint::sabotaged("acknowledgement") {
                    door.engine.tell(Input::Acknowledged { id: view.id.clone() });
                }
                let sent = if settled {
                    out.answer(&call, to_value(&view)).await
                } else if told.as_ref() == Some(&progress) {
                    Ok(())
                } else {
                    let sent = out.send(wire::notice_line("progress", &progress));
                    told = Some(progress);
                    sent
                };
                if sent.is_err() || settled {
                    return;
                }
            }
        });
        self.waits.push((id, task.abort_handle()));
    }

    /// The connection is over: what hung on it is told.
    fn end(mut self) -> Guest {
        for (id, task) in self.waits.drain(..) {
            task.abort();
            self.door.engine.tell(Input::WaiterGone { id });
        }
        if self.role == "keeper"
            && self.door.keeper.compare_exchange(self.pid, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            self.door.keeper_lost.notify_one();
        }
        self.door.owners.disconnected(self.guest.number());
        if let Some(agent) = self.runs.take() {
            self.door.mounts.runner_lost(&agent, self.guest.number());
        }
        self.guest
    }
}

/// What this program is, or in a debug build what a test has it pretend to be.
pub(crate) fn program() -> wire::Program {
    let pretended = std::env::var(wire::PRETEND).ok().filter(|_| cfg!(debug_assertions));
    wire::Program::new(env!("CARGO_PKG_VERSION"), pretended.as_deref())
}

fn another_protocol(hello: &wire::Hello) -> Refusal {
    let ours = program();
    let message = format!(
        "askd {} serves this project and speaks protocol {}, the caller ({}) speaks {}",
        ours.version, ours.protocol, hello.version, hello.protocol
    );
    let hint = if hello.protocol < ours.protocol {
        "use the ccb that is as new as this askd; CCB_FORCE_REBIND=1 replaces askd by the older one"
    } else {
        "`ccb kill` of its version ends it"
    };
    Refusal { other: Some(ours), ..Refusal::new(Code::Protocol, message).hint(hint) }
}

/// Reads a call.
async fn parse(text: String) -> Result<wire::Line, Refusal> {
    beside(text, wire::parse_call).await
}

/// Reads any JSON.
pub(crate) async fn json(text: String) -> Result<Value, Refusal> {
    let read = |text: &str| serde_json::from_str(text);
    beside(text, move |text| read(text).map_err(|error| Refusal::new(Code::BadCall, error.to_string()))).await
}

/// Reads a line; a long one on a thread of its own, so that nobody waits for it.
async fn beside<T: Send + 'static>(
    text: String,
    read: impl FnOnce(&str) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    if text.len() < LONG {
        return read(&text);
    }
    let done = tokio::task::spawn_blocking(move || {
        if is_sprawling(&text) {
            return Err(Refusal::new(Code::BadCall, "the line has more values in it than any call"));
        }
        read(&text)
    });
    done.await.unwrap_or_else(|error| Err(Refusal::new(Code::Internal, error.to_string())))
}

fn too_deep(depth: u32, limit: u32) -> Refusal {
    let message = format!(
        "agents have asked one another {limit} deep, and this request would be number {depth}: no more than {limit} are \
         allowed, so that they do not ask in circles"
    );
    let hint = "do it yourself, or end your turn and say in your answer what is missing; CCB_MAX_DEPTH sets the limit";
    Refusal::new(Code::TooDeep, message).hint(hint)
}

fn too_many(open: u32, limit: u32) -> Refusal {
    let requests = if open == 1 { "request" } else { "requests" };
    let message = format!("you have {open} open {requests}, and an agent may have {limit}: this one is not taken");
    let hint = "end your turn, and ask again when answers have come; `ccb cancel <id>` ends one, `ccb ps` shows them, \
                CCB_MAX_OPEN sets the limit";
    Refusal::new(Code::TooMany, message).hint(hint)
}

/// Says who would wait for whom: `ring` begins and ends with the agent that asks.
fn cycle(ring: &[AgentName]) -> Refusal {
    let names: Vec<&str> = ring.iter().map(AgentName::as_str).collect();
    let waits = match names.as_slice() {
        [asker, _] => format!("{asker} would wait for itself and could not go on"),
        [asker, rest @ ..] => {
            let none = if rest.len() > 2 { "none of them" } else { "neither" };
            format!("{asker} would wait for {}: {none} could go on", rest.join(", which waits for "))
        }
        [] => "agents would wait for each other".into(),
    };
    Refusal::new(Code::Cycle, format!("{}: {waits}", names.join(" → ")))
        .hint("ask without waiting (`ask --async`), or answer yourself")
}

fn not_over(of: &RequestId, state: &str) -> Refusal {
    Refusal::new(Code::NoRetry, format!("{of} is not over ({state}), so it is not asked again"))
        .hint(format!("`ccb pend {of}` shows its answer once it is there, `ccb cancel {of}` ends it"))
}

fn no_question(of: &RequestId) -> Refusal {
    Refusal::new(Code::NoRetry, format!("{of} is a notice, which only brings an answer: there is nothing to ask again"))
        .hint(format!("`ccb explain {of}` names the request whose answer it brings"))
}

fn unknown(id: &RequestId) -> Refusal {
    Refusal::new(Code::UnknownRequest, format!("no request `{id}` in this project")).hint("ccb ps")
}

fn parameters<T: DeserializeOwned>(params: Value) -> Result<T, Refusal> {
    serde_json::from_value(params)
        .map_err(|error| Refusal::new(Code::BadParameters, format!("parameters do not fit: {error}")))
}

fn to_value<T: serde::Serialize>(value: &T) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| Refusal::new(Code::Internal, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_may_not_ask_is_said_with_what_to_do() {
        let ring = |names: &str| {
            let names: Vec<_> = names.split(' ').map(|name| AgentName::new(name).unwrap()).collect();
            cycle(&names)
        };
        let two = ring("codex claude codex");
        let want = "codex → claude → codex: codex would wait for claude, which waits for codex: neither could go on";
        assert_eq!((two.code, two.message.as_str()), (Code::Cycle, want));
        assert_eq!(two.hint.as_deref(), Some("ask without waiting (`ask --async`), or answer yourself"));
        let want = "codex → claude → droid → codex: codex would wait for claude, which waits for droid, which waits for \
                    codex: none of them could go on";
        assert_eq!(ring("codex claude droid codex").message, want);
        let want = "codex → codex: codex would wait for itself and could not go on";
        assert_eq!(ring("codex codex").message, want);
        assert!(too_deep(7, 6).hint.is_some_and(|hint| hint.contains("CCB_MAX_DEPTH")));
        assert!(too_many(8, 8).hint.is_some_and(|hint| hint.contains("CCB_MAX_OPEN")));
    }
}
