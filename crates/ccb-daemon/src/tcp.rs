//! The predecessor's door: JSON over TCP, one request a connection, in the predecessor's own words.
//!
//! It is closed unless `CCB_ASKD_LISTEN` (or `askd --listen`) opens it, and then for this machine alone: the token of
//! `askd.json` says who may ask, and who has not shown it may say no more than 64 KiB.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ccb_core::home::{normalise, project_id};
use ccb_core::id::RequestId;
use ccb_core::outcome::{Incomplete, Outcome};
use ccb_core::request::{Evidence, Request};
use ccb_core::step::Input;
use ccb_core::wire::{self, LINE_LIMIT, Refusal};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::door::guests::{Guest, Standing};
use crate::door::queue::{Lines, Out};
use crate::door::{Door, HANDSHAKE};
use crate::engine::{Engine, log};
use crate::server::Connection;

/// The setting that opens the door.
pub(crate) const LISTEN: &str = "CCB_ASKD_LISTEN";

/// The store's key for the port that the door had last.
const PORT: &str = "tcp.port";

/// How long a request may take that says nothing of it, in seconds.
const TIMEOUT: f64 = 300.0;

/// How long nothing of an answer may be taken.
const STALL: Duration = Duration::from_secs(10);

/// The process that connections over TCP count for: nobody knows theirs.
const NOBODY: u32 = u32::MAX;

/// Where the door is, and what opens it.
#[derive(Clone)]
pub(crate) struct Address {
    /// The address.
    pub(crate) at: SocketAddr,
    /// The token.
    pub(crate) token: Arc<str>,
}

/// Opens the door where the setting says: at its last port, if the setting leaves the choice.
pub(crate) async fn open(setting: &str, engine: &Engine) -> anyhow::Result<(TcpListener, Address)> {
    let wanted = address(setting)?;
    let last = engine.look(|view| view.store.meta(PORT).ok().flatten()).await.ok().flatten();
    let last = last.and_then(|port| port.parse::<u16>().ok()).filter(|_| wanted.port() == 0);
    let again = match last {
        Some(port) => TcpListener::bind((wanted.ip(), port)).await.ok(),
        None => None,
    };
    let listener = match again {
        Some(listener) => listener,
        None => TcpListener::bind(wanted).await.with_context(|| format!("cannot listen on {wanted}"))?,
    };
    let at = listener.local_addr()?;
    let port = at.port().to_string();
    if let Ok(Err(error)) = engine.look(move |view| view.store.set_meta(PORT, &port)).await {
        log(&format!("the port of the TCP door could not be kept: {error:#}"));
    }
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes).context("no randomness")?;
    let token = format!("{:032x}", u128::from_be_bytes(bytes));
    Ok((listener, Address { at, token: token.into() }))
}

/// Reads `host:port`; no other host than this machine's own loopback.
fn address(setting: &str) -> anyhow::Result<SocketAddr> {
    let words = || format!("{LISTEN}={setting} is not opened");
    let (host, port) = setting.trim().rsplit_once(':').with_context(|| format!("{}: it is no host:port", words()))?;
    let port: u16 = port.parse().with_context(|| format!("{}: `{port}` is no port", words()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = match host {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().with_context(|| format!("{}: `{host}` is no address", words()))?,
    };
    if !ip.is_loopback() {
        anyhow::bail!("{}: only loopback addresses are, and {ip} is none; say 127.0.0.1:{port}", words());
    }
    Ok(SocketAddr::new(ip, port))
}

/// Accepts connections until the task is dropped, and waits for nobody.
pub(crate) async fn serve(door: Arc<Door>, listener: TcpListener, token: Arc<str>) {
    let mut failing = false;
    loop {
        let accepted = listener.accept().await;
        let Some(stream) = door.accepted(accepted, &mut failing).await else { continue };
        let token = token.clone();
        door.take_in(NOBODY, |door, guest| async move { talk(&door, stream, &token, guest).await }).await;
    }
}

/// Serves one connection: hears one line, answers it, and leaves.
async fn talk(door: &Arc<Door>, stream: TcpStream, token: &str, guest: Guest) {
    let (reading, writing) = stream.into_split();
    let mut lines = Lines::new(reading, door.memory.clone());
    let shown = |begun: &[u8]| begun.windows(token.len()).any(|window| is_same(window, token.as_bytes()));
    let line = guest.while_welcome(tokio::time::timeout(HANDSHAKE, lines.next_if(LINE_LIMIT, shown))).await;
    let Some(Ok(Ok(Some(line)))) = line else { return };
    let Ok(Value::Object(call)) = crate::server::json(line.text).await else { return };
    let mut visit =
        Visit { door, id: call.get("id").cloned().unwrap_or_default(), reading: lines.into_inner(), writing };
    let said = call.get("token").and_then(Value::as_str).unwrap_or_default();
    if !is_same(said.as_bytes(), token.as_bytes()) {
        visit.fail("Unauthorized").await;
        return;
    }
    match call.get("type").and_then(Value::as_str) {
        Some("ask.ping") => match door.engine.alive().await {
            Ok(()) => visit.say(json!({"type": "ask.pong", "v": 1, "exit_code": 0, "reply": "OK"})).await,
            Err(refusal) => visit.fail(&words(&refusal)).await,
        },
        // Whoever has the token is not whoever owns the daemon.
        Some("ask.shutdown") if let Some(owner) = door.owners.held_against(None) => {
            visit.fail(&format!("askd is not ended: it belongs to process {owner}, which is alive")).await
        }
        Some("ask.shutdown") => {
            door.owners.tell_end("asked over TCP");
            let told = visit.say(json!({"type": "ask.response", "v": 1, "exit_code": 0, "reply": "OK"})).await;
            door.request_stop("asked over TCP");
            told
        }
        Some("ask.request") => visit.ask(&call, guest).await,
        Some(_) | None => visit.fail("Invalid request").await,
    };
}

/// Compares in a time that tells nothing of where they differ.
fn is_same(said: &[u8], token: &[u8]) -> bool {
    let differences = said.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b));
    said.len() == token.len() && std::hint::black_box(differences) == 0
}

fn words(refusal: &Refusal) -> String {
    match &refusal.hint {
        Some(hint) => format!("{}; {hint}", refusal.message),
        None => refusal.message.clone(),
    }
}

/// What an `ask.request` says.
struct Asked {
    provider: String,
    caller: String,
    message: String,
    timeout_s: f64,
    no_wrap: bool,
    req_id: Option<String>,
}

impl Asked {
    /// Reads the fields; says in words which of them does not fit.
    fn read(call: &Map<String, Value>, door: &Door) -> Result<Self, String> {
        let text = |name: &str| match call.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("Bad request: `{name}` is not a text")),
        };
        let provider = text("provider")?.trim().to_ascii_lowercase();
        let caller = text("caller")?.trim().to_ascii_lowercase();
        for (name, value) in [("provider", &provider), ("caller", &caller)] {
            if value.is_empty() {
                return Err(format!("Bad request: `{name}` is missing"));
            }
        }
        let timeout_s = match call.get("timeout_s") {
            None | Some(Value::Null) => TIMEOUT,
            Some(value) => value.as_f64().ok_or("Bad request: `timeout_s` is not a number")?,
        };
        let no_wrap = match call.get("no_wrap") {
            None | Some(Value::Null) => false,
            Some(value) => value.as_bool().ok_or("Bad request: `no_wrap` is neither true nor false")?,
        };
        let home = door.files.home();
        let work_dir = text("work_dir")?;
        if !work_dir.is_empty() && project_id(&normalise(work_dir.trim().as_ref())) != home.project() {
            return Err(format!("this is the daemon of `{}`, not of `{work_dir}`", home.work_dir().display()));
        }
        if !text("output_path")?.is_empty() {
            log("a request over TCP names an output_path: it is for the predecessor's hook, and ignored");
        }
        let timeout_s = if timeout_s == 0.0 { TIMEOUT } else { timeout_s };
        let req_id = Some(text("req_id")?).filter(|id| !id.is_empty());
        Ok(Self { provider, caller, message: text("message")?, timeout_s, no_wrap, req_id })
    }

    /// Returns the request's id: the caller's own, brought into our form so that the same is the same again, or a
    /// new one.
    fn id(&self, door: &Door) -> Result<RequestId, String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(own) = &self.req_id else {
            let n = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
            let id = format!("{}-{}-{n}", stamp(door.clock.now().0), std::process::id());
            return RequestId::new(&id).map_err(|error| error.to_string());
        };
        if let Ok(id) = RequestId::new(own)
            && id.is_of_our_form()
        {
            return Ok(id);
        }
        let derived = RequestId::new(&format!("00000000-000000-{own}")).ok().filter(RequestId::is_of_our_form);
        derived.ok_or_else(|| "Bad request: `req_id` is not of 1 to 37 letters, digits and dashes".to_owned())
    }
}

/// Returns a moment (UTC) as ids begin: `YYYYMMDD-HHMMSS-mmm`.
fn stamp(ms: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    moment.strftime("%Y%m%d-%H%M%S-%3f").to_string()
}

/// One connection whose line was read.
struct Visit<'a> {
    door: &'a Arc<Door>,
    id: Value,
    reading: OwnedReadHalf,
    writing: OwnedWriteHalf,
}

impl Visit<'_> {
    async fn fail(&mut self, why: &str) -> bool {
        self.say(json!({"type": "ask.response", "v": 1, "exit_code": 1, "reply": why})).await
    }

    /// Writes the answer; true if the other side has room for it.
    async fn say(&mut self, mut answer: Value) -> bool {
        answer["id"] = self.id.take();
        let line = format!("{answer}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match tokio::time::timeout(STALL, self.writing.write(rest)).await {
                Ok(Ok(count @ 1..)) => rest = &rest[count..],
                Ok(Ok(0) | Err(_)) | Err(_) => return false,
            }
        }
        self.writing.shutdown().await.is_ok()
    }

    /// Returns whether the other side leaves in order after the answer. One that was gone before answers with a reset.
    async fn has_left(&mut self) -> bool {
        let mut more = [0; 1024];
        let left = async {
            loop {
                match self.reading.read(&mut more).await {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        tokio::time::timeout(HANDSHAKE, left).await.unwrap_or(false)
    }

    async fn ask(&mut self, call: &Map<String, Value>, guest: Guest) -> bool {
        if !guest.admit(Standing::Tcp) {
            return self.fail("too many requests over TCP at a time; ask again when one is over").await;
        }
        let asked = Asked::read(call, self.door);
        let (asked, id) = match asked.and_then(|asked| asked.id(self.door).map(|id| (asked, id))) {
            Ok(asked) => asked,
            Err(why) => return self.fail(&why).await,
        };
        let (out, _unused) = Out::open(tokio::io::sink(), self.door.memory.clone());
        let connection = Connection::new(self.door, out, 0, guest);
        let agent = self.agent(&asked.provider);
        let ask = wire::Ask {
            id: id.clone(),
            agent,
            message: asked.message.clone(),
            timeout_s: Some(asked.timeout_s),
            caller: Some(asked.caller.clone()),
            no_wrap: asked.no_wrap,
            waits: true,
        };
        if let Err(refusal) = connection.ask(ask).await {
            return self.fail(&words(&refusal)).await;
        }
        self.door.engine.tell(Input::Waits { id: id.clone() });
        let settled = self.settled(&id).await;
        let told = match settled {
            Some((request, evidence)) => {
                self.say(self.response(&asked, &request, &evidence)).await && self.has_left().await
            }
            None => false,
        };
        if told {
            self.door.engine.tell(Input::Acknowledged { id: id.clone() });
        }
        self.door.engine.tell(Input::WaiterGone { id });
        told
    }

    /// Returns the name of the agent that is meant: by its own name, else the first of that provider.
    fn agent(&self, provider: &str) -> String {
        let table = self.door.agents.lock();
        let mut names = table.iter().filter(|(_, slot)| slot.config.provider.row().name == provider);
        let known = table.keys().any(|name| name.as_str() == provider);
        if known { None } else { names.next() }.map_or(provider.to_owned(), |(name, _)| name.to_string())
    }

    /// Waits for the request's end; none if askd stops first.
    async fn settled(&self, id: &RequestId) -> Option<(Request, Vec<Evidence>)> {
        let (tx, mut changes) = tokio::sync::mpsc::unbounded_channel();
        self.door.engine.follow(id.clone(), tx);
        loop {
            let request = changes.recv().await?;
            if request.is_settled() {
                let id = request.id.clone();
                let evidence = self.door.engine.look(move |view| view.store.evidence(&id)).await.ok()?;
                return Some((request, evidence.unwrap_or_default()));
            }
        }
    }

    fn response(&self, asked: &Asked, request: &Request, evidence: &[Evidence]) -> Value {
        let Some(end) = request.settlement() else { return Value::Null };
        if matches!(end.outcome, Outcome::Incomplete { reason: Incomplete::Deadline }) {
            return json!({"type": "ask.response", "v": 1, "exit_code": 2, "reply": ""});
        }
        let done = end.outcome == Outcome::Completed;
        let failed = end.outcome.exit_code() == 1 && end.reply.is_empty();
        let reply = if failed { end.outcome.sentence() } else { end.reply.clone() };
        let anchor = evidence.iter().find(|fact| fact.turn.is_some()).map(|fact| fact.at.since(request.accepted));
        let log_path = {
            let table = self.door.agents.lock();
            table.get(&request.agent).and_then(|slot| slot.config.transcript.clone())
        };
        json!({
            "type": "ask.response", "v": 1, "exit_code": end.outcome.exit_code(), "reply": reply,
            "req_id": asked.req_id.as_deref().unwrap_or(request.id.as_str()), "provider": asked.provider,
            "meta": {
                "session_key": format!("{}:{}", asked.provider, self.door.files.home().project()),
                "done_seen": done, "done_ms": done.then(|| end.at.since(request.accepted)),
                "anchor_seen": anchor.is_some(), "anchor_ms": anchor, "fallback_scan": false,
                "log_path": log_path, "status": end.outcome.word(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_listened_to() {
        let table = [
            ("127.0.0.1:0", Ok("127.0.0.1:0")),
            ("localhost:7000", Ok("127.0.0.1:7000")),
            ("[::1]:7", Ok("[::1]:7")),
            ("::1:7", Ok("[::1]:7")),
            ("0.0.0.0:7", Err("only loopback")),
            ("[::]:7", Err("only loopback")),
            ("192.168.0.1:7", Err("only loopback")),
            ("example.org:7", Err("no address")),
            ("127.0.0.1", Err("no host:port")),
            ("127.0.0.1:x", Err("no port")),
        ];
        for (setting, want) in table {
            match (address(setting), want) {
                (Ok(at), Ok(want)) => assert_eq!(at.to_string(), want),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error:#}"),
                (got, want) => panic!("{setting}: {got:?}, {want:?}"),
            }
        }
    }

    #[test]
    fn a_token_is_the_same_or_not() {
        assert!(is_same(b"abc", b"abc"));
        for other in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert!(!is_same(other, b"abc"));
        }
    }

    #[test]
    fn ids_begin_with_the_date() {
        let table = [
            (0, "19700101-000000-000"),
            (951_782_399_999, "20000228-235959-999"),
            (951_782_400_000, "20000229-000000-000"),
            (1_709_251_200_000, "20240301-000000-000"),
            (1_735_689_599_001, "20241231-235959-001"),
        ];
        for (ms, want) in table {
            assert_eq!(stamp(ms), want);
        }
    }
}
