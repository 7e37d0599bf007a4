//! `ask all` and `ask a,b,c`: one request for each agent, and their answers in the order of the names.

use std::fmt::Write as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ccb_core::id::{AgentName, nearest};
use ccb_core::wire::{Accepted, Ask, Ps, RequestView};
use serde_json::{Value, json};

use super::options::Options;
use super::wait::{StatusLine, Vigil, acknowledge, end_of_wait};
use super::{MANDATORY, submitted};
use crate::command::pend::verdict;
use crate::connect::Askd;
use crate::connection::Connection;
use crate::error::{self, CliError};
use crate::output::Printed;
use crate::wake::{Interrupt, Patience};
use crate::{display, exit, output};

/// The word for every agent but the one that asks.
const ALL: &str = "all";

/// An agent of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its name.
    pub(super) name: AgentName,
    provider: String,
}

/// How one of several waits has ended.
type Answer = Result<(RequestView, Connection), CliError>;

/// What a wait tells.
enum News {
    State(usize, String),
    Over(usize, Box<Answer>),
}

/// Returns whether a word may mean several agents.
pub(super) fn is_meant(word: &str) -> bool {
    word.contains(',') || word.eq_ignore_ascii_case(ALL)
}

/// Returns the agents that a word means, in its order; none if it means one, of that very name.
pub(super) fn agents(askd: &Askd, word: &str, asker: Option<&str>) -> Result<Option<Vec<Known>>, CliError> {
    let agents = askd.call(&Ps {})?.agents;
    let known: Vec<Known> =
        agents.into_iter().map(|agent| Known { name: agent.name, provider: agent.provider }).collect();
    choose(&known, word, asker)
}

fn choose(known: &[Known], word: &str, asker: Option<&str>) -> Result<Option<Vec<Known>>, CliError> {
    let find = |word: &str| known.iter().find(|agent| agent.name.as_str().eq_ignore_ascii_case(word)).cloned();
    if !word.contains(',') {
        if find(word).is_some() {
            return Ok(None);
        }
        let others: Vec<Known> = known.iter().filter(|agent| Some(agent.name.as_str()) != asker).cloned().collect();
        if others.is_empty() {
            return Err(CliError::new("there is no agent to ask").hint("`ccb codex` starts one"));
        }
        return Ok(Some(others));
    }
    let mut chosen: Vec<Known> = Vec::new();
    for word in word.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let agent = find(word).ok_or_else(|| unknown(known, word))?;
        if !chosen.contains(&agent) {
            chosen.push(agent);
        }
    }
    if chosen.is_empty() {
        return Err(CliError::new("no agent is given").hint("`ask <agent>,<agent> <message>`; `ccb ps` lists them"));
    }
    Ok(Some(chosen))
}

fn unknown(known: &[Known], word: &str) -> CliError {
    let error = CliError::new(format!("no agent `{word}` in this project: nobody was asked"));
    let names = || known.iter().map(|agent| agent.name.as_str());
    match nearest(word, names()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("agents here: {}", names().collect::<Vec<_>>().join(", "))),
    }
}

/// Hands all requests over and does not wait. What was accepted is told, also where it was not all.
pub(super) fn submit(askd: &Askd, calls: &[Ask], options: &Options) -> Result<u8, CliError> {
    let mut accepted: Vec<Accepted> = Vec::new();
    let mut refused = None;
    for ask in calls {
        match askd.call(ask) {
            Ok(one) => accepted.push(one),
            Err(error) => {
                // Its answer may have been lost on the way: what askd knows of it is there under its id.
                let left: Vec<&str> = calls[accepted.len() + 1..].iter().map(|ask| ask.agent.as_str()).collect();
                let others = if left.is_empty() { String::new() } else { format!("; not asked: {}", left.join(", ")) };
                let message = format!("{} ({}): {}{others}", ask.agent, ask.id, error.message);
                refused = Some(CliError { message, ..error });
                break;
            }
        }
    }
    let shown = output::show(options.json, &accepted, |accepted| {
        let lines: Vec<String> = accepted.iter().map(submitted).collect();
        format!("{}\n{MANDATORY}", lines.join("\n"))
    })?;
    refused.map_or(Ok(shown), Err)
}

/// Asks all at once and waits for all, each on a connection of its own.
pub(super) fn wait(askd: &Askd, agents: &[Known], calls: Vec<Ask>, options: &Options) -> Result<u8, CliError> {
    let interrupt = Interrupt::catch().map_err(|error| CliError::new(format!("cannot watch for Ctrl-C: {error}")))?;
    let until = end_of_wait(options.timeout_s);
    let patience = Patience { until, interrupt: Some(&interrupt) };
    let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    let mut board = Board::new(&names);
    let mut sheet = Sheet::new(askd, agents, options);
    let (tell, news) = channel();
    std::thread::scope(|scope| -> Result<(), CliError> {
        for (index, ask) in calls.into_iter().enumerate() {
            let (tell, relay) = (tell.clone(), tell.clone());
            let relay = Box::new(move |state: &str| drop(relay.send(News::State(index, state.to_owned()))));
            let mut vigil = Vigil::relaying(askd, ask, patience, relay);
            scope.spawn(move || {
                let answer = vigil.keep(None).map_err(|ended| vigil.explain(ended));
                drop(tell.send(News::Over(index, Box::new(answer))));
            });
        }
        drop(tell);
        loop {
            let next = board.line.until_next(Patience::default()).until;
            let next = next.map_or(Duration::MAX, |next| next.saturating_duration_since(Instant::now()));
            match news.recv_timeout(next) {
                Ok(News::State(index, state)) => board.show(index, state),
                Ok(News::Over(index, answer)) => {
                    board.line.clear();
                    sheet.take(index, *answer)?;
                    board.show(index, "over".to_owned());
                }
                Err(RecvTimeoutError::Timeout) => board.line.draw(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    })?;
    drop(board);
    sheet.close()
}

/// What is shown while several are waited for.
struct Board<'a> {
    names: &'a [&'a str],
    states: Vec<String>,
    line: StatusLine,
}

impl<'a> Board<'a> {
    fn new(names: &'a [&'a str]) -> Self {
        let line = StatusLine::new(&format!("{} agents", names.len()));
        Self { names, states: vec![String::new(); names.len()], line }
    }

    fn show(&mut self, index: usize, state: String) {
        self.states[index] = state;
        let open = self.names.iter().zip(&self.states).filter(|(_, state)| *state != "over");
        let open: Vec<String> = open.map(|(name, state)| format!("{name} {state}")).collect();
        if open.is_empty() {
            self.line.clear();
        } else {
            self.line.say(display::line(&open.join("; "), 200));
        }
    }
}

/// The answers as they are printed.
struct Sheet<'a> {
    askd: &'a Askd,
    agents: &'a [Known],
    options: &'a Options,
    answers: Vec<Option<Answer>>,
    /// How many of them have been printed.
    printed: usize,
    text: String,
    facts: Vec<Value>,
    code: u8,
    /// Those that are acknowledged once all are printed in one line.
    owed: Vec<(RequestView, Connection)>,
}

impl<'a> Sheet<'a> {
    fn new(askd: &'a Askd, agents: &'a [Known], options: &'a Options) -> Self {
        let answers = agents.iter().map(|_| None).collect();
        let (text, facts, owed) = (String::new(), Vec::new(), Vec::new());
        Self { askd, agents, options, answers, printed: 0, text, facts, code: exit::OK, owed }
    }

    /// Takes an answer, and prints all whose turn it is.
    fn take(&mut self, index: usize, answer: Answer) -> Result<(), CliError> {
        self.answers[index] = Some(answer);
        while let Some(answer) = self.answers.get_mut(self.printed).and_then(Option::take) {
            let agent = &self.agents[self.printed];
            self.printed += 1;
            match answer {
                Ok((request, connection)) => self.print(agent, request, connection)?,
                Err(error) => self.fail(agent, error),
            }
        }
        Ok(())
    }

    fn print(&mut self, agent: &Known, request: RequestView, mut connection: Connection) -> Result<(), CliError> {
        let reply = display::reply(&request);
        let mut text = if self.text.is_empty() { String::new() } else { "\n".to_owned() };
        let name = display::agent_name(agent.name.as_str(), &agent.provider);
        let _ = write!(text, "=== {name} ===\n{reply}{}", output::line_end(reply));
        self.text.push_str(&text);
        let outcome = request.settlement.as_ref().map(|settlement| verdict(&request, settlement));
        if self.options.json {
            self.facts.push(serde_json::to_value(&request).unwrap_or_default());
            self.owed.push((request, connection));
        } else if output::print(&text)? == Printed::Whole {
            acknowledge(self.askd, &mut connection, request.id);
        }
        match outcome {
            Some(Ok(code)) => self.code = worse(self.code, code),
            Some(Err(error)) if self.options.json => self.code = worse(self.code, error.code),
            Some(Err(error)) => self.complain(agent, error),
            None => self.complain(agent, CliError::new("askd ended the wait too early")),
        }
        Ok(())
    }

    /// Says why there is no answer at all.
    fn fail(&mut self, agent: &Known, error: CliError) {
        if self.options.json {
            self.facts.push(json!({"agent": agent.name, "error": error.message}));
        }
        self.complain(agent, error);
    }

    fn complain(&mut self, agent: &Known, error: CliError) {
        self.code = worse(self.code, error.code);
        error::print(&CliError { message: format!("{}: {}", agent.name, error.message), ..error });
    }

    /// Prints what is printed at the end, and returns the exit code.
    fn close(self) -> Result<u8, CliError> {
        let Self { askd, options, text, facts, code, owed, .. } = self;
        if options.json && output::print_json(&facts)? == Printed::Whole {
            for (request, mut connection) in owed {
                acknowledge(askd, &mut connection, request.id);
            }
        }
        if let Some(path) = &options.output {
            output::write_private(path, text.as_bytes())
                .map_err(|error| CliError::new(format!("cannot write {}: {error}", path.display())))?;
        }
        Ok(code)
    }
}

/// Returns the worse of two exit codes.
fn worse(one: u8, other: u8) -> u8 {
    let badness = |code: u8| match code {
        exit::OK => 0,
        exit::NO_REPLY => 1,
        exit::INTERRUPTED => 3,
        _ => 2,
    };
    if badness(other) > badness(one) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str]) -> Vec<Known> {
        names.iter().map(|name| Known { name: AgentName::new(name).unwrap(), provider: "codex".into() }).collect()
    }

    fn chosen(word: &str, asker: Option<&str>) -> Result<Vec<String>, String> {
        let chosen = choose(&known(&["ada", "bob", "cyd"]), word, asker).map_err(|error| error.text())?;
        Ok(chosen.into_iter().flatten().map(|agent| agent.name.to_string()).collect())
    }

    #[test]
    fn all_is_every_agent_but_the_one_that_asks() {
        assert_eq!(chosen("all", None).unwrap(), ["ada", "bob", "cyd"]);
        assert_eq!(chosen("All", Some("bob")).unwrap(), ["ada", "cyd"]);
        assert!(choose(&known(&["ada"]), "all", Some("ada")).is_err());
        assert!(is_meant("all") && is_meant("a,b") && !is_meant("ada"));
    }

    #[test]
    fn a_list_is_taken_in_its_order_and_each_once() {
        assert_eq!(chosen("cyd,ADA, cyd,", None).unwrap(), ["cyd", "ada"]);
        insta::assert_snapshot!(chosen("ada,bab", None).unwrap_err(), @r#"
        error: no agent `bab` in this project: nobody was asked
        hint: did you mean `bob`?
        "#);
        insta::assert_snapshot!(chosen("ada,all", None).unwrap_err(), @r#"
        error: no agent `all` in this project: nobody was asked
        hint: agents here: ada, bob, cyd
        "#);
        assert!(chosen(",", None).is_err());
    }

    #[test]
    fn the_exit_code_is_the_worst_one() {
        let of = |codes: &[u8]| codes.iter().copied().fold(exit::OK, worse);
        assert_eq!((of(&[0, 0]), of(&[2, 0]), of(&[2, 1, 0]), of(&[1, 130, 2])), (0, 2, 1, 130));
    }
}
