//! What is said over askd's socket: JSON-RPC 2.0, one object a line.
//!
//! A [`Call`] ties a method to its answer. While a `wait` is open, its caller gets [`Progress`] notices
//! (method `progress`); a pane's runner gets [`Order`] notices (method `order`); an instance that has attached gets
//! [`Owned`] notices (method `ownership`).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::id::{AgentName, RequestId};
use crate::ownership;
use crate::request::{Evidence, Kind, Settlement};
use crate::time::Time;

/// The number of this protocol; two programs talk only if theirs are the same.
///
/// What holds between any two numbers: `hello` with its refusal (which carries its [`Program`]), the one `replace` that
/// may follow the refusal, and `ping` for a keeper, whose worker may be of another version after an update.
pub const PROTOCOL: u32 = 1;

/// The variable by which a test has a program of a debug build pretend to be another one.
pub const PRETEND: &str = "CCB_PRETEND";

/// A program of ccb, as another one has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The number of the protocol that it speaks.
    pub protocol: u32,
    /// Its version.
    pub version: String,
}

impl Program {
    /// Returns the program of that version, or what `pretended` (`<protocol>@<version>`) says.
    pub fn new(version: &str, pretended: Option<&str>) -> Self {
        let pretended = pretended.and_then(|word| word.split_once('@'));
        let pretended = pretended.and_then(|(number, version)| Some((number.parse().ok()?, version)));
        let (protocol, version) = pretended.unwrap_or((PROTOCOL, version));
        Self { protocol, version: version.to_owned() }
    }
}

/// The longest line, in bytes, before the handshake.
pub const LINE_LIMIT_BEFORE_HELLO: usize = 64 << 10;

/// The longest line, in bytes, after it.
pub const LINE_LIMIT: usize = 64 << 20;

/// A method with its parameters and its answer.
pub trait Call: Serialize + DeserializeOwned {
    /// The method's name.
    const METHOD: &'static str;
    /// What it is answered with.
    type Answer: Serialize + DeserializeOwned;
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($method:literal) -> $answer:ty { $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type),* }
        impl Call for $name {
            const METHOD: &'static str = $method;
            type Answer = $answer;
        })*
        /// All methods, as `hello` tells them.
        pub const METHODS: &[&str] = &[$($method),*];
    };
}

calls! {
    /// The handshake; the first call of every connection.
    Hello("hello") -> Welcome {
        /// The caller's protocol number.
        protocol: u32,
        /// The caller's version.
        version: String,
        /// The id of the project that the caller means.
        project: String,
        /// What the caller is: `client`, `keeper` or `runner`.
        role: String,
    }
    /// Accepts a request. Repeating it with the same id and content is the same request.
    Ask("ask") -> Accepted {
        /// The id, made by the client.
        id: RequestId,
        /// Whom it is for.
        agent: String,
        /// The message.
        message: String,
        /// Seconds from acceptance to the deadline; none or negative: no deadline.
        timeout_s: Option<f64>,
        /// Who asks, as `CCB_CALLER` has it; a hint.
        caller: Option<String>,
        /// Whether the message goes without our envelope.
        no_wrap: bool,
        /// Whether the caller will wait for the answer itself.
        waits: bool,
    }
    /// Asks again what a request that is over has asked: a new request of the same agent, message and form.
    Retry("retry") -> Accepted {
        /// The new request's id, made by the client.
        id: RequestId,
        /// Which request is asked again.
        of: RequestId,
        /// Seconds from acceptance to the deadline; none: as many as that one had; negative: no deadline.
        timeout_s: Option<f64>,
        /// Who asks, as `CCB_CALLER` has it; a hint.
        caller: Option<String>,
        /// Whether the caller will wait for the answer itself.
        waits: bool,
    }
    /// Answers when the request is over.
    Wait("wait") -> RequestView {
        /// Which.
        id: RequestId,
    }
    /// Says that the reply was printed.
    Ack("ack") -> Done {
        /// Which.
        id: RequestId,
    }
    /// Cancels a request.
    Cancel("cancel") -> RequestView {
        /// Which.
        id: RequestId,
        /// Who asks for it.
        by: String,
    }
    /// Returns replies: of one request, or the last `count` of an agent, newest first.
    Pend("pend") -> Replies {
        /// A request id or an agent's name.
        target: String,
        /// How many.
        count: u32,
    }
    /// Returns the agents and the requests that are not over.
    Ps("ps") -> Overview {}
    /// Returns the daemon's health.
    Status("status") -> Health {}
    /// Returns a request with all its evidence.
    Explain("explain") -> Explanation {
        /// Which.
        id: RequestId,
    }
    /// Returns a sign of life of the engine, not only of the socket.
    Ping("ping") -> Pong {}
    /// Starts the project's agents in panes, those that are not running yet.
    Mount("mount") -> Mounted {
        /// Which agents (`name:provider` or configured names); empty: all that are configured.
        agents: Vec<String>,
        /// Where the panes go.
        host: Host,
        /// The environment that the agents get.
        env: BTreeMap<String, String>,
        /// Whether the agents act without asking (`-a`).
        auto: bool,
        /// Whether the agents go on in the sessions in which they were last (`-r`).
        resume: bool,
    }
    /// Makes the calling process an instance of the project: it owns the daemon, or is attached to it.
    Attach("attach") -> Attached {
        /// Whether it takes the ownership from a living owner.
        force: bool,
    }
    /// Says that the calling process is no instance any more.
    Detach("detach") -> Done {}
    /// Ends panes, agents and the daemon, in this order.
    Shutdown("shutdown") -> Done {
        /// Whether the panes end too.
        panes: bool,
        /// Who asks for it.
        by: String,
        /// Whether a live owner that the caller does not belong to is a reason to refuse.
        #[serde(default)]
        unless_owned: bool,
    }
    /// Has a daemon of another protocol end in order, so that one of the caller's takes its place: the one call that
    /// may follow a `hello` refused for its protocol.
    Replace("replace") -> Done {
        /// The caller's version.
        version: String,
        /// Whether it is to end although somebody owns it or agents run.
        force: bool,
    }
    /// Ends an agent's program in its pane and starts it again there, in its session; one that does not run is started.
    Restart("restart") -> Restarted {
        /// Its agent.
        agent: String,
        /// Whether what the agent is doing now is no reason to refuse.
        force: bool,
        /// Where its pane goes if it has none.
        host: Host,
        /// The environment that it gets if none is kept.
        env: BTreeMap<String, String>,
    }
    /// A pane's runner asks what to start.
    Launch("launch") -> LaunchSpec {
        /// Its agent.
        agent: String,
        /// The pane that it runs in (`TMUX_PANE`).
        pane: Option<String>,
    }
    /// An agent's hook tells what it was called for.
    Hook("hook") -> Done {
        /// The agent, as its launch named it; a hint.
        agent: String,
        /// What happened.
        hook: crate::provider::hook::Hook,
    }
    /// A pane's runner tells what became of what it started.
    Report("report") -> Done {
        /// Its agent.
        agent: String,
        /// What.
        event: RunnerEvent,
    }
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The daemon's protocol number.
    pub protocol: u32,
    /// Its version.
    pub version: String,
    /// Its project's id.
    pub project: String,
    /// Its project's directory.
    pub work_dir: String,
    /// How many workers this project has had.
    pub generation: u64,
    /// The worker's process id.
    pub pid: u32,
    /// Whether a keeper watches it.
    pub keeper: bool,
    /// The agent in whose pane the caller runs, if it does.
    #[serde(default)]
    pub you: Option<AgentName>,
}

/// An answer without content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// The answer to [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The request's id.
    pub id: RequestId,
    /// The agent's checked name.
    pub agent: AgentName,
    /// The agent's provider, for people.
    pub provider: String,
    /// Whether it was accepted by an earlier call.
    pub repeated: bool,
    /// Its state's word.
    pub state: String,
    /// What it waits for, if it waits.
    pub why: String,
    /// What the asker should know about it, in one sentence.
    #[serde(default)]
    pub note: Option<String>,
}

/// A request, as users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestView {
    /// Its id.
    pub id: RequestId,
    /// Whom it is for.
    pub agent: AgentName,
    /// Who asked.
    pub asker: String,
    /// What the asking agent was working on when it asked; a notice has that of the request whose reply it brings.
    #[serde(default)]
    pub parent: Option<RequestId>,
    /// The request that it asks again.
    #[serde(default)]
    pub retry_of: Option<RequestId>,
    /// The requests by which it was asked again.
    #[serde(default)]
    pub retries: Vec<RequestId>,
    /// Question or notice.
    pub kind: Kind,
    /// The message's first line, shortened.
    pub summary: String,
    /// Its state's word.
    pub state: String,
    /// What it waits for, or what it does.
    pub why: String,
    /// When it was accepted.
    pub accepted: Time,
    /// When it is over at the latest.
    pub deadline: Option<Time>,
    /// How many offers were made.
    pub attempts: u32,
    /// The provider's turn that works on it.
    pub turn: Option<String>,
    /// When the reply reached its asker.
    pub delivered: Option<Time>,
    /// Its end, if it is over.
    pub settlement: Option<Settlement>,
}

/// The answer to [`Pend`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies {
    /// The requests, newest first.
    pub requests: Vec<RequestView>,
    /// Their messages, in the same order.
    pub questions: Vec<String>,
}

/// The answer to [`Ps`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// The agents, in the order of their configuration.
    pub agents: Vec<AgentView>,
    /// The requests that are not over, oldest first.
    pub requests: Vec<RequestView>,
}

/// An agent, as users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// Its provider's name.
    pub provider: String,
    /// The rung it is driven on.
    pub rung: String,
    /// Why that one.
    pub rung_why: String,
    /// Its state's word.
    pub state: String,
    /// Why it is in that state.
    pub why: String,
    /// The delivery it is at.
    pub current: Option<RequestId>,
    /// How many wait for it.
    pub queued: u32,
    /// Its pane.
    pub pane: Option<String>,
    /// The last error seen of it.
    pub last_error: Option<String>,
}

/// The answer to [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The worker's process id.
    pub pid: u32,
    /// The keeper's process id, if one watches.
    pub keeper: Option<u32>,
    /// The daemon's version.
    pub version: String,
    /// How many workers this project has had.
    pub generation: u64,
    /// When this one started.
    pub started: Time,
    /// Now, on its clock.
    pub now: Time,
    /// The project's directory.
    pub work_dir: String,
    /// The home.
    pub home: String,
    /// How many requests are not over.
    pub unsettled: u64,
    /// How many were ever accepted.
    pub accepted: u64,
    /// How the worker before this one ended, in words; none if there was none.
    pub last_end: Option<String>,
    /// What users should know of the store: that it was damaged and set aside, that the disk takes nothing.
    #[serde(default)]
    pub notes: Vec<String>,
    /// When it ended, if that was written down.
    #[serde(default)]
    pub last_end_at: Option<Time>,
    /// How many workers have ended otherwise than in order since the last orderly end.
    #[serde(default)]
    pub restarts: u64,
    /// For how long, in milliseconds, a commit has been waiting for the disk, if the engine does not answer for that.
    #[serde(default)]
    pub stalled_ms: Option<u64>,
    /// Whether the engine did not answer in time: what it counts is not known then.
    #[serde(default)]
    pub silent: bool,
    /// The terminal session that shows the agents, if it is ours.
    pub attach: Option<Session>,
    /// Who owns the daemon, if anybody does.
    #[serde(default)]
    pub owner: Option<Who>,
    /// The other instances, in the order of their coming.
    #[serde(default)]
    pub attached: Vec<Who>,
}

/// An owner or an instance, as users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Its process id.
    pub pid: u32,
    /// What it is.
    pub kind: ownership::Kind,
    /// When it came.
    pub since: Time,
}

/// The answer to [`Attach`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Who owns the daemon now.
    pub owner: Option<Who>,
    /// Whether that is the caller.
    pub you_own: bool,
    /// From whom the caller has taken it by force, if from anybody.
    pub forced_from: Option<u32>,
}

/// What an attached instance is told (notice `ownership`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Owned {
    /// Another owns the daemon now.
    Changed {
        /// Who owns it.
        owner: Option<Who>,
        /// Whether that is the one who is told.
        you_own: bool,
        /// Whether it was taken from the one who is told, by force.
        forced_out: bool,
        /// Why, in words.
        why: String,
    },
    /// Somebody wants the daemon to end: it is not to be started again.
    Stopping {
        /// Why, in words.
        why: String,
    },
}

/// The answer to [`Explain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The request.
    pub request: RequestView,
    /// Its evidence, in the order of its commit.
    pub evidence: Vec<Evidence>,
    /// The daemon's clock.
    pub now: Time,
}

/// The answer to [`Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// How many workers this project has had.
    pub generation: u64,
    /// For how long, in milliseconds, a commit has been waiting for the disk, if the engine cannot answer for that.
    #[serde(default)]
    pub stalled_ms: Option<u64>,
}

/// Where panes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case", tag = "host")]
pub enum Host {
    /// Into a tmux server of the project's own.
    #[default]
    Own,
    /// Into the window of this pane of a running tmux server.
    Window {
        /// The server's socket.
        socket: String,
        /// The pane.
        pane: String,
    },
}

/// The session in the project's own tmux server, which shows its agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The server's socket.
    pub socket: String,
    /// The session.
    pub session: String,
}

/// The answer to [`Mount`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// How to see the panes, if they are in a server of the project's own.
    pub attach: Option<Session>,
    /// A pane that shows one of them, if they are in a tmux server of the user's.
    #[serde(default)]
    pub beside: Option<Beside>,
    /// The agents that were started now.
    pub started: Vec<AgentName>,
    /// The agents that were running already.
    pub running: Vec<AgentName>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
}

/// The answer to [`Restart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// The agent.
    pub agent: AgentName,
    /// Whether it was running; if not, it has only been started.
    pub ran: bool,
    /// The request that was cut off by it.
    pub cut_off: Option<RequestId>,
}

/// A pane in a tmux server of the user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// The server's socket.
    pub socket: String,
    /// The pane.
    pub pane: String,
}

/// What a pane's runner starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The agent.
    pub agent: AgentName,
    /// Its working directory.
    pub cwd: String,
    /// The environment of all that is started, in addition to the terminal's own variables.
    pub env: BTreeMap<String, String>,
    /// A server that runs beside the TUI.
    pub server: Option<ServerSpec>,
    /// The TUI; none: an [`Order::Tui`] follows once the server can be joined.
    pub tui: Option<Vec<String>>,
}

/// A server that runs beside a TUI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Its command line.
    pub argv: Vec<String>,
    /// The socket that it will listen on; a stale one is removed before it starts.
    pub socket: String,
    /// The file that its output goes to.
    pub log: String,
}

/// What a runner tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum RunnerEvent {
    /// The server was started.
    ServerStarted {
        /// Its process id.
        pid: u32,
    },
    /// The server ended; the runner starts it again.
    ServerEnded {
        /// How, in words.
        how: String,
    },
    /// The TUI was started.
    TuiStarted {
        /// Its process id.
        pid: u32,
    },
    /// The TUI ended.
    TuiEnded {
        /// How, in words.
        how: String,
        /// Whether the runner starts it again.
        again: bool,
    },
    /// The pane is being closed by somebody: what runs in it is being ended.
    Closed,
}

/// How a program has ended that was ended to be started again.
pub const RESTARTED: &str = "ended to be started again";

/// What askd tells a runner (notice `order`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "order")]
pub enum Order {
    /// Show this TUI; if another one runs, end it first.
    Tui {
        /// Its command line.
        argv: Vec<String>,
    },
    /// When the TUI is started again, use this one.
    Next {
        /// Its command line.
        argv: Vec<String>,
    },
    /// End the TUI and the server, ask anew what to start, and start it.
    Restart,
    /// End everything and close the pane.
    Stop,
}

/// What a waiting caller is told meanwhile (notice `progress`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The request.
    pub id: RequestId,
    /// Its state's word.
    pub state: String,
    /// What it waits for, or what it does.
    pub why: String,
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The class.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// What to do, if something can be done; a command can be pasted.
    pub hint: Option<String>,
    /// Who refuses, if it is for its protocol.
    pub other: Option<Program>,
}

/// The classes of refusals, with their JSON-RPC numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not JSON-RPC, or not a line that we read.
    BadCall,
    /// No such method.
    NoMethod,
    /// Parameters that do not fit.
    BadParameters,
    /// Another protocol number, or no handshake.
    Protocol,
    /// Another project.
    Project,
    /// Somebody needs the daemon: a live owner, or agents that run.
    Owned,
    /// No such agent.
    UnknownAgent,
    /// No such request.
    UnknownRequest,
    /// The id is taken by other content.
    Conflict,
    /// The request cannot be asked again.
    NoRetry,
    /// The agent is doing something that would be cut off.
    Busy,
    /// The daemon cannot keep anything now.
    Store,
    /// The agent cannot be started.
    Launch,
    /// The project's configuration cannot be used.
    Config,
    /// Agents would be asking one another too deep.
    TooDeep,
    /// The agent that asks has too many open requests.
    TooMany,
    /// Agents would wait for each other in a ring.
    Cycle,
    /// Anything else.
    Internal,
}

impl Code {
    /// Returns the JSON-RPC error number.
    pub fn number(self) -> i64 {
        match self {
            Self::BadCall => -32700,
            Self::NoMethod => -32601,
            Self::BadParameters => -32602,
            Self::Internal => -32603,
            Self::Protocol => -32001,
            Self::Project => -32002,
            Self::UnknownAgent => -32003,
            Self::UnknownRequest => -32004,
            Self::Conflict => -32005,
            Self::Store => -32006,
            Self::Launch => -32007,
            Self::Config => -32008,
            Self::TooDeep => -32009,
            Self::TooMany => -32010,
            Self::Cycle => -32011,
            Self::Owned => -32012,
            Self::NoRetry => -32013,
            Self::Busy => -32014,
        }
    }
}

impl Refusal {
    /// Returns a refusal without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, other: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A line from a client: a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The call's id, given back with the answer.
    pub id: Value,
    /// The method.
    pub method: String,
    /// The parameters.
    pub params: Value,
}

/// A line from the daemon.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The answer to the call of that number.
    Answer {
        /// The call's number.
        call: u64,
        /// The result or the refusal.
        result: Result<Value, Refusal>,
    },
    /// A notice.
    Notice {
        /// Its method.
        method: String,
        /// Its parameters.
        params: Value,
    },
}

/// Returns the line of a call, with its newline.
pub fn call_line<C: Call>(number: u64, call: &C) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": number, "method": C::METHOD, "params": call}))
}

/// Returns the line of a notice, with its newline.
pub fn notice_line<T: Serialize>(method: &str, params: &T) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

/// Returns the line of an answer, with its newline.
pub fn answer_line(id: &Value, result: Result<Value, Refusal>) -> String {
    let line = match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(refusal) => {
            let mut data = json!({"kind": refusal.code, "hint": refusal.hint});
            if let Some(other) = refusal.other {
                data["other"] = json!(other);
            }
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": refusal.code.number(), "message": refusal.message, "data": data}})
        }
    };
    format!("{line}\n")
}

/// Reads a client's line.
pub fn parse_call(line: &str) -> Result<Line, Refusal> {
    let bad = |what: &str| Refusal::new(Code::BadCall, format!("{what}; expected one JSON-RPC 2.0 call a line"));
    let value: Value = serde_json::from_str(line).map_err(|_| bad("not JSON"))?;
    let method = value["method"].as_str().ok_or_else(|| bad("no method"))?.to_owned();
    let params = value.get("params").cloned().unwrap_or_else(|| json!({}));
    Ok(Line { id: value["id"].clone(), method, params })
}

/// Reads a daemon's line.
pub fn parse_reply(line: &str) -> Result<Reply, Refusal> {
    let bad = || Refusal::new(Code::BadCall, "the daemon's line is not JSON-RPC 2.0");
    let mut value: Value = serde_json::from_str(line).map_err(|_| bad())?;
    if let Some(method) = value["method"].as_str() {
        return Ok(Reply::Notice { method: method.to_owned(), params: value["params"].take() });
    }
    let call = value["id"].as_u64().unwrap_or_default();
    if let Some(error) = value.get("error") {
        let message = error["message"].as_str().unwrap_or("unknown error").to_owned();
        let code = serde_json::from_value(error["data"]["kind"].clone()).unwrap_or(Code::Internal);
        let hint = error["data"]["hint"].as_str().map(str::to_owned);
        let other = serde_json::from_value(error["data"]["other"].clone()).ok();
        return Ok(Reply::Answer { call, result: Err(Refusal { code, message, hint, other }) });
    }
    match value.get_mut("result") {
        Some(result) => Ok(Reply::Answer { call, result: Ok(result.take()) }),
        None => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip() {
        let call = Wait { id: RequestId::new("r1").unwrap() };
        let line = call_line(3, &call);
        insta::assert_snapshot!(line, @r#"{"id":3,"jsonrpc":"2.0","method":"wait","params":{"id":"r1"}}"#);
        let read = parse_call(&line).unwrap();
        assert_eq!(read.method, "wait");
        assert_eq!(serde_json::from_value::<Wait>(read.params).unwrap(), call);
        let refusal = Refusal::new(Code::UnknownAgent, "no agent `x`").hint("ccb ps");
        let line = answer_line(&json!(3), Err(refusal.clone()));
        insta::assert_snapshot!(line, @r#"{"error":{"code":-32003,"data":{"hint":"ccb ps","kind":"unknown-agent"},"message":"no agent `x`"},"id":3,"jsonrpc":"2.0"}"#);
        assert_eq!(parse_reply(&line).unwrap(), Reply::Answer { call: 3, result: Err(refusal) });
    }

    #[test]
    fn a_daemon_of_another_protocol_says_which() {
        let other = Program { protocol: 2, version: "2.0.0".into() };
        let refusal = Refusal { other: Some(other), ..Refusal::new(Code::Protocol, "another") };
        let line = answer_line(&json!(1), Err(refusal.clone()));
        insta::assert_snapshot!(line, @r#"{"error":{"code":-32001,"data":{"hint":null,"kind":"protocol","other":{"protocol":2,"version":"2.0.0"}},"message":"another"},"id":1,"jsonrpc":"2.0"}"#);
        assert_eq!(parse_reply(&line).unwrap(), Reply::Answer { call: 1, result: Err(refusal) });
        let earlier = r#"{"jsonrpc":"2.0","id":1,"method":"shutdown","params":{"panes":true,"by":"x"}}"#;
        let shutdown: Shutdown = serde_json::from_value(parse_call(earlier).unwrap().params).unwrap();
        assert!(!shutdown.unless_owned);
    }

    #[test]
    fn owners_and_instances_are_told_in_lines() {
        let who = Who { pid: 7, kind: ownership::Kind::Launcher, since: Time(5) };
        insta::assert_snapshot!(call_line(1, &Attach { force: true }), @r#"{"id":1,"jsonrpc":"2.0","method":"attach","params":{"force":true}}"#);
        insta::assert_snapshot!(call_line(2, &Detach {}), @r#"{"id":2,"jsonrpc":"2.0","method":"detach","params":{}}"#);
        let attached = Attached { owner: Some(who.clone()), you_own: true, forced_from: Some(6) };
        insta::assert_snapshot!(serde_json::to_string(&attached).unwrap(), @r#"{"owner":{"pid":7,"kind":"launcher","since":5},"you_own":true,"forced_from":6}"#);
        let owned = Owned::Changed { owner: Some(who), you_own: false, forced_out: true, why: "by force".into() };
        insta::assert_snapshot!(notice_line("ownership", &owned), @r#"{"jsonrpc":"2.0","method":"ownership","params":{"event":"changed","forced_out":true,"owner":{"kind":"launcher","pid":7,"since":5},"why":"by force","you_own":false}}"#);
        let stopping = Owned::Stopping { why: "asked by ccb kill".into() };
        insta::assert_snapshot!(notice_line("ownership", &stopping), @r#"{"jsonrpc":"2.0","method":"ownership","params":{"event":"stopping","why":"asked by ccb kill"}}"#);
    }

    #[test]
    fn a_health_told_by_an_earlier_version_has_no_owner() {
        let earlier = r#"{"pid":1,"keeper":null,"version":"0.1.0","generation":1,"started":1,"now":2,"work_dir":"/p",
            "home":"/h","unsettled":0,"accepted":0,"last_end":null,"attach":{"socket":"/s","session":"ccb"}}"#;
        let health: Health = serde_json::from_str(earlier).unwrap();
        assert_eq!((health.owner, health.attached), (None, Vec::new()));
        let earlier = r#"{"attach":null,"started":[],"running":[],"notes":[]}"#;
        assert_eq!(serde_json::from_str::<Mounted>(earlier).unwrap().beside, None);
    }

    #[test]
    fn a_request_told_by_an_earlier_version_has_no_parent() {
        let earlier = r#"{"id":"r1","agent":"codex","asker":"manual","kind":{"kind":"ask"},"summary":"do it",
            "state":"queued","why":"","accepted":1,"deadline":null,"attempts":0,"turn":null,"delivered":null,
            "settlement":null}"#;
        let mut view: RequestView = serde_json::from_str(earlier).unwrap();
        assert_eq!((&view.parent, &view.retry_of, view.retries.len()), (&None, &None, 0));
        view.parent = Some(RequestId::new("r0").unwrap());
        let line = serde_json::to_string(&view).unwrap();
        insta::assert_snapshot!(line, @r#"{"id":"r1","agent":"codex","asker":"manual","parent":"r0","retry_of":null,"retries":[],"kind":{"kind":"ask"},"summary":"do it","state":"queued","why":"","accepted":1,"deadline":null,"attempts":0,"turn":null,"delivered":null,"settlement":null}"#);
        assert_eq!(serde_json::from_str::<RequestView>(&line).unwrap(), view);
    }

    #[test]
    fn an_unknown_field_or_method_of_a_later_version_is_read() {
        let later = r#"{"jsonrpc":"2.0","id":1,"method":"wait","params":{"id":"r1","colour":"blue"}}"#;
        let line = parse_call(later).unwrap();
        assert!(serde_json::from_value::<Wait>(line.params).is_ok());
        assert!(parse_call("7").is_err() && parse_call("{").is_err());
    }
}
