//! The tools themselves: blocking calls of askd, and their results as text that a model can use.

use std::path::Path;
use std::time::{Duration, Instant};

use ccb_core::id::RequestId;
use ccb_core::outcome::Outcome;
use ccb_core::wire::{Ask, Cancel, Explain, Overview, Pend, Ps, RequestView};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::transport::Receipt;
use crate::command::ask::wait::{Ended, Vigil, acknowledge};
use crate::connect::Askd;
use crate::connection::{CALL_LIMIT, Connection};
use crate::error::CliError;
use crate::wake::{Interrupt, Patience};
use crate::{Context, clock, display, project};

/// How long a tool waits for an answer, if nobody says.
pub(super) const WAIT_S: f64 = 50.0;

/// How long it waits at the most.
pub(super) const LONGEST_WAIT_S: f64 = 600.0;

/// How long a request may take, if nobody says.
const TIMEOUT_S: f64 = 3600.0;

/// What a tool says.
pub(super) struct Told {
    pub(super) text: String,
    pub(super) is_error: bool,
    /// Facts about the request for programs.
    pub(super) facts: Option<Value>,
    /// What tells askd that the text has arrived.
    pub(super) receipt: Option<Receipt>,
}

/// Where the tools' calls are made.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    askd: Result<Askd, CliError>,
    caller: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskArguments {
    agent: String,
    message: String,
    wait_s: Option<f64>,
    timeout_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitArguments {
    id: String,
    wait_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PendArguments {
    target: String,
    count: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelArguments {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoArguments {}

impl Told {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false, facts: None, receipt: None }
    }

    /// Returns what became of a request: the reply as it is, under a line that says what is wrong with it, if
    /// anything is.
    fn settled(request: &RequestView) -> Self {
        let reply = display::reply(request);
        let Some(settlement) = &request.settlement else {
            return Self::pending(request);
        };
        let outcome = &settlement.outcome;
        let (is_late, word, sentence) = (settlement.late.is_some(), outcome.word(), outcome.sentence());
        let failed = !is_late && matches!(outcome, Outcome::Failed { .. });
        let text = match (is_late, outcome) {
            (true, _) => format!("[late] this answer came after the request had ended ({word}: {sentence})\n\n{reply}"),
            (false, Outcome::Completed) => reply.to_owned(),
            (false, _) => format!("[{word}] {sentence} (request {})\n\n{reply}", request.id),
        };
        Self { is_error: failed, facts: Some(facts(request)), ..Self::new(text.trim_end()) }
    }

    /// Returns that a request goes on, and what its asker does now.
    fn pending(request: &RequestView) -> Self {
        let RequestView { id, agent, asker, .. } = request;
        let next = if asker == "manual" {
            format!(
                "Go on waiting with the tool `wait` and this id, or look later with `pend`; `cancel` stops {agent}."
            )
        } else {
            "The answer will come by itself, as a new message that is headed [CCB_TASK_…], once your turn has ended. \
             So end your turn now, without waiting, polling or answering in the other agent's place."
                .to_owned()
        };
        let text = format!("No answer yet: request {id} for {agent} goes on ({}). {next}", display::state(request));
        Self { facts: Some(facts(request)), ..Self::new(text) }
    }
}

impl From<CliError> for Told {
    fn from(error: CliError) -> Self {
        let error_line = format!("Error: {}", error.message);
        let hints = error.hints.iter().map(|hint| format!("What to do: {hint}"));
        let lines: Vec<String> = std::iter::once(error_line).chain(hints).collect();
        Self { is_error: true, ..Self::new(lines.join("\n")) }
    }
}

/// Returns what programs want to know of a request.
fn facts(request: &RequestView) -> Value {
    let outcome = request.settlement.as_ref().map(|settlement| settlement.outcome.word());
    json!({"ccb/request": {"id": request.id, "agent": request.agent, "state": request.state, "outcome": outcome}})
}

impl Desk {
    pub(super) fn new(context: &Context, named: Option<&Path>) -> Self {
        let place = match named {
            Some(named) => project::place(context, &context.cwd.join(named)),
            None => project::here(context),
        };
        let askd = place.and_then(|place| Askd::of(context, &place, "client"));
        let caller = askd.as_ref().ok().and_then(|askd| askd.caller.clone());
        Self { askd, caller }
    }

    /// Calls a tool; `interrupt` ends its wait. None: there is no such tool.
    pub(super) fn call(&self, tool: &str, arguments: Map<String, Value>, interrupt: &Interrupt) -> Option<Told> {
        let told = match tool {
            "ask" => read(tool, arguments).and_then(|arguments| self.ask(arguments, interrupt)),
            "wait" => read(tool, arguments).and_then(|arguments| self.wait(&arguments, interrupt)),
            "pend" => read(tool, arguments).and_then(|arguments| self.pend(&arguments)),
            "agents" => read(tool, arguments).and_then(|NoArguments {}| self.agents()),
            "cancel" => read(tool, arguments).and_then(|arguments| self.cancel(&arguments)),
            _ => return None,
        };
        Some(told.unwrap_or_else(Told::from))
    }

    fn askd(&self) -> Result<&Askd, CliError> {
        self.askd.as_ref().map_err(Clone::clone)
    }

    fn ask(&self, arguments: AskArguments, interrupt: &Interrupt) -> Result<Told, CliError> {
        let wait = wait_time(arguments.wait_s)?;
        let askd = self.askd()?;
        if several(&arguments.agent) {
            return Err(CliError::new(format!("`agent` names one agent, and `{}` is several", arguments.agent))
                .hint("call `ask` once for each (`agents` lists them), with wait_s 0; nothing was asked"));
        }
        let ask = Ask {
            id: clock::request_id(),
            agent: arguments.agent,
            message: arguments.message,
            timeout_s: Some(arguments.timeout_s.unwrap_or(TIMEOUT_S)).filter(|seconds| *seconds >= 0.0),
            caller: self.caller.clone(),
            no_wrap: false,
            waits: !wait.is_zero(),
        };
        let accepted = askd.call(&ask)?;
        self.answer(askd, accepted.id, wait, interrupt, true)
    }

    fn wait(&self, arguments: &WaitArguments, interrupt: &Interrupt) -> Result<Told, CliError> {
        let wait = wait_time(arguments.wait_s)?;
        self.answer(self.askd()?, crate::command::request_id(&arguments.id)?, wait, interrupt, false)
    }

    /// Waits for the end of a request, so long.
    fn answer(
        &self,
        askd: &Askd,
        id: RequestId,
        wait: Duration,
        interrupt: &Interrupt,
        is_ours: bool,
    ) -> Result<Told, CliError> {
        let kept = if wait.is_zero() { Err(Ended::Overdue) } else { keep(askd, &id, wait, interrupt) };
        let kept = match kept {
            Err(Ended::Overdue) => {
                let request = askd.call(&Explain { id: id.clone() })?.request;
                if request.settlement.is_none() {
                    return Ok(Told::pending(&request));
                }
                // It is over, perhaps just now: this takes no time, and the answer is received in due form.
                keep(askd, &id, CALL_LIMIT, interrupt)
            }
            kept => kept,
        };
        match kept {
            Ok((request, mut connection)) => {
                let mut told = Told::settled(&request);
                // Whoever else waits for it may read it, but its asker has not got it by that.
                if is_ours || request.asker == self.caller.as_deref().unwrap_or("manual") {
                    let askd = askd.clone();
                    told.receipt = Some(Box::new(move || acknowledge(&askd, &mut connection, id)));
                }
                Ok(told)
            }
            Err(Ended::Failed(error)) => Err(error),
            Err(Ended::Interrupted | Ended::Overdue) => {
                Ok(Told::new(format!("The wait was given up; request {id} goes on.")))
            }
        }
    }

    fn pend(&self, arguments: &PendArguments) -> Result<Told, CliError> {
        let count = arguments.count.unwrap_or(1).max(1);
        let replies = self.askd()?.call(&Pend { target: arguments.target.clone(), count })?;
        match replies.requests.as_slice() {
            [] => Ok(Told::new(format!("Nothing was asked of `{}` yet.", arguments.target))),
            [request] if count == 1 && request.settlement.is_none() => {
                let text = format!("No answer yet: request {} is {}.", request.id, display::state(request));
                Ok(Told { facts: Some(facts(request)), ..Told::new(text) })
            }
            [request] if count == 1 => Ok(Told::settled(request)),
            _ => Ok(Told::new(display::conversation(&replies))),
        }
    }

    fn agents(&self) -> Result<Told, CliError> {
        Ok(Told::new(overview(&self.askd()?.call(&Ps {})?, self.caller.as_deref())))
    }

    fn cancel(&self, arguments: &CancelArguments) -> Result<Told, CliError> {
        let by = self.caller.as_deref().unwrap_or("manual").to_owned();
        let request = self.askd()?.call(&Cancel { id: crate::command::request_id(&arguments.id)?, by })?;
        let text = match &request.settlement {
            Some(_) => format!("{}: {}.", request.id, display::state(&request)),
            None => format!("{}: {} is asked to stop; `pend` shows when it has.", request.id, request.agent),
        };
        Ok(Told { facts: Some(facts(&request)), ..Told::new(text) })
    }
}

/// Returns whether a word means several agents.
fn several(word: &str) -> bool {
    word.contains(',') || word.eq_ignore_ascii_case("all")
}

/// Waits for the end of a request that was accepted.
fn keep(
    askd: &Askd,
    id: &RequestId,
    wait: Duration,
    interrupt: &Interrupt,
) -> Result<(RequestView, Connection), Ended> {
    let patience = Patience { until: Instant::now().checked_add(wait), interrupt: Some(interrupt) };
    Vigil::silent(askd, id.clone(), patience).keep(None)
}

fn overview(overview: &Overview, caller: Option<&str>) -> String {
    if overview.agents.is_empty() {
        return "There are no agents in this project.".to_owned();
    }
    let agents = overview.agents.iter().map(|agent| {
        let you = if caller == Some(agent.name.as_str()) { " (you)" } else { "" };
        let why = if agent.why.is_empty() { String::new() } else { format!(": {}", agent.why) };
        let queued = if agent.queued == 0 { String::new() } else { format!("; {} queued", agent.queued) };
        format!("{}{you}: {}, {}{why}{queued}\n", agent.name, agent.provider, agent.state)
    });
    let requests = overview.requests.iter().map(|request| {
        let RequestView { id, asker, agent, .. } = request;
        format!("request {id}: {asker} asks {agent}; {}; {}\n", display::state(request), request.summary)
    });
    agents.chain(requests).collect::<String>().trim_end().to_owned()
}

/// Reads a tool's arguments.
fn read<T: DeserializeOwned>(tool: &str, arguments: Map<String, Value>) -> Result<T, CliError> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| {
        CliError::new(format!("the arguments of `{tool}` do not fit: {error}"))
            .hint("call it again as its schema says; nothing was done")
    })
}

fn wait_time(seconds: Option<f64>) -> Result<Duration, CliError> {
    let seconds = seconds.unwrap_or(WAIT_S).min(LONGEST_WAIT_S);
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        CliError::new(format!("`wait_s` is {seconds}, which is no time to wait"))
            .hint(format!("give seconds from 0 to {LONGEST_WAIT_S}; nothing was asked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccb_core::id::AgentName;
    use ccb_core::outcome::{EndedBy, Failure, Incomplete};
    use ccb_core::request::{Kind, Late, Settlement};
    use ccb_core::time::Time;

    fn request(asker: &str, outcome: Option<Outcome>, reply: &str) -> RequestView {
        let settlement = outcome.map(|outcome| Settlement {
            at: Time(2),
            outcome,
            reply: reply.into(),
            ended_by: Some(EndedBy::Protocol),
            turn: None,
            mixed: false,
            late: None,
        });
        RequestView {
            parent: None,
            retry_of: None,
            retries: Vec::new(),
            id: RequestId::new("20261122-205301-123-4711-1").unwrap(),
            agent: AgentName::new("codex").unwrap(),
            asker: asker.into(),
            kind: Kind::Ask,
            summary: "hi".into(),
            state: "queued".into(),
            why: "the agent is at another".into(),
            accepted: Time(1),
            deadline: None,
            attempts: 0,
            turn: None,
            delivered: None,
            settlement,
        }
    }

    #[test]
    fn a_reply_stands_alone_unless_something_is_wrong_with_it() {
        let told = |outcome, reply| {
            let told = Told::settled(&request("manual", Some(outcome), reply));
            (told.text, told.is_error)
        };
        assert_eq!(told(Outcome::Completed, "one\n\ntwo\n"), ("one\n\ntwo".into(), false));
        let cut = Outcome::Incomplete { reason: Incomplete::Interrupted };
        let text = "[incomplete] the turn was interrupted at the agent (request 20261122-205301-123-4711-1)\n\nhalf";
        assert_eq!(told(cut, "half"), (text.into(), false));
        let gone = Outcome::Failed { reason: Failure::AgentGone, message: "its pane was closed".into() };
        let (text, is_error) = told(gone.clone(), "");
        assert!(is_error && text.starts_with("[failed] the agent is gone: its pane was closed (request "), "{text}");
        let mut late = request("manual", Some(gone), "");
        late.settlement.as_mut().unwrap().late =
            Some(Late { at: Time(3), reply: "after all".into(), ended_by: EndedBy::Protocol });
        let told = Told::settled(&late);
        assert!(!told.is_error && told.text.starts_with("[late] ") && told.text.ends_with("\n\nafter all"));
    }

    #[test]
    fn who_asked_decides_what_to_do_about_an_answer_that_is_not_there_yet() {
        let agent = Told::pending(&request("claude", None, "")).text;
        assert!(agent.contains("will come by itself") && agent.contains("end your turn now"), "{agent}");
        let human = Told::pending(&request("manual", None, "")).text;
        assert!(human.contains("the tool `wait`") && !human.contains("end your turn"), "{human}");
        assert!(human.contains("20261122-205301-123-4711-1") && human.contains("queued: the agent is at another"));
    }

    #[test]
    fn times_are_bounded_and_arguments_checked() {
        assert_eq!(wait_time(None).unwrap(), Duration::from_secs(50));
        assert_eq!(wait_time(Some(1e9)).unwrap(), Duration::from_secs(600));
        assert_eq!(wait_time(Some(0.0)).unwrap(), Duration::ZERO);
        assert!(wait_time(Some(-1.0)).is_err());
        let arguments = |value: Value| value.as_object().unwrap().clone();
        let error = read::<CancelArguments>("cancel", arguments(json!({"idd": 1}))).err().unwrap();
        assert!(error.message.contains("`cancel` do not fit") && error.message.contains("idd"), "{error:?}");
        assert!(read::<AskArguments>("ask", arguments(json!({"agent": "a", "message": "m", "wait_s": 0}))).is_ok());
    }
}
