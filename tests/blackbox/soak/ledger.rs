//! The ledger: what clients were told, compared with what the store and the agents have.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::env::{Run, TestEnv};

/// What clients were told.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Ids that were told to be accepted, with their words.
    accepted: BTreeMap<String, String>,
    /// How many clients were given their answer.
    answered: usize,
    /// How many were told that nothing was accepted.
    refused: usize,
    /// How many could tell nothing any more.
    killed: usize,
    /// What is not true.
    lies: Vec<String>,
}

impl Ledger {
    /// Writes down what a client has said.
    pub(crate) fn take(&mut self, word: &str, waited: bool, run: &Run) {
        let Ok(said) = serde_json::from_str::<Value>(&run.out) else {
            match run.code {
                None => self.killed += 1,
                Some(0) => self.lies.push(format!("{word}: success without an answer: {run:?}")),
                Some(_) if run.err.contains("error: ") => self.refused += 1,
                Some(_) => self.lies.push(format!("{word}: a failure without a reason: {run:?}")),
            }
            return;
        };
        let id = said["id"].as_str().unwrap_or_default().to_owned();
        self.accepted.insert(id.clone(), word.to_owned());
        if !waited || run.code.is_none() {
            return;
        }
        let outcome = said["settlement"]["outcome"]["word"].as_str().unwrap_or_default();
        match (outcome, run.code) {
            ("completed", Some(0)) if said["settlement"]["reply"] == word => self.answered += 1,
            ("completed", _) | (_, Some(0)) => self.lies.push(format!("{word}: {run:?}")),
            (_, _) => {}
        }
    }

    /// Compares with the store and with what reached the agents, and returns the figures in words.
    pub(crate) fn audit(mut self, env: &TestEnv, store: &Path, agents: &[&str], kills: usize) -> String {
        let db = rusqlite::Connection::open(store).expect("the store");
        let mut rows = db.prepare("SELECT id, body FROM request WHERE notice = 0").expect("its requests");
        let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        let rows: BTreeMap<String, Value> = rows
            .expect("its requests")
            .map(|row| row.expect("a request"))
            .map(|(id, body)| (id, serde_json::from_str(&body).expect("a request")))
            .collect();
        let lost: Vec<&String> = self.accepted.keys().filter(|id| !rows.contains_key(*id)).collect();
        assert!(lost.is_empty(), "accepted and lost: {lost:?}");
        let mut received: BTreeMap<String, usize> = BTreeMap::new();
        for agent in agents {
            // What was pasted to a program that was just starting comes in pieces: the anchor is in one of them.
            for event in env.events_of(agent, "recv").iter().filter(|event| event["anchored"] == true) {
                *received.entry(event["req"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        let twice = received.iter().filter(|(_, count)| **count > 1).map(|(id, _)| history(env, &db, agents, id));
        let twice: Vec<String> = twice.collect();
        assert!(twice.is_empty(), "given to an agent twice:\n{}", twice.join("\n\n"));
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        for (id, row) in &rows {
            let (how, reason) = end(row);
            *ends.entry(how.clone()).or_default() += 1;
            let message = row["message"].as_str().unwrap_or_default();
            let word = message.rsplit(' ').next().unwrap_or_default();
            let reply = row["stage"]["reply"].as_str();
            let count = received.get(id).copied().unwrap_or(0);
            match how.as_str() {
                "completed" if reply != Some(word) => self.lies.push(format!("{id}: answered by {reply:?}: {message}")),
                "completed" if count != 1 => self.lies.push(format!("{id}: answered, and received {count} times")),
                // The human who types has added to a text of ours, in the moment between its paste and its Enter.
                "incomplete/mixed" | "incomplete/quiet" if row["stage"]["mixed"] == true && count == 1 => {}
                "completed" | "failed/unknown-delivery" | "failed/agent-gone" | "incomplete/deadline" => {}
                _ => self.lies.push(format!("{id}: {how}: {reason}")),
            }
        }
        assert!(self.lies.is_empty(), "{:#?}", self.lies);
        let unknown = ends.get("failed/unknown-delivery").copied().unwrap_or(0);
        assert!(unknown <= kills * agents.len(), "{unknown} unknown deliveries after {kills} kills");
        format!(
            "{} requests, {} told as accepted, {} answered to who waited, {} refused, {} clients killed; {ends:?}",
            rows.len(),
            self.accepted.len(),
            self.answered,
            self.refused,
            self.killed
        )
    }
}

/// Returns what the store and the agents have written down of a request.
fn history(env: &TestEnv, db: &rusqlite::Connection, agents: &[&str], id: &str) -> String {
    let mut facts = db.prepare("SELECT body FROM evidence WHERE request = ? ORDER BY n").expect("its evidence");
    let facts = facts.query_map([id], |row| row.get::<_, String>(0)).expect("its evidence");
    let given =
        agents.iter().flat_map(|agent| env.events_of(agent, "recv").into_iter().map(move |event| (agent, event)));
    let given = given.filter(|(_, event)| event["req"] == id).map(|(agent, event)| format!("{agent}: {event}"));
    let facts = facts.map(|fact| fact.expect("a fact"));
    std::iter::once(id.to_owned()).chain(facts).chain(given).collect::<Vec<_>>().join("\n")
}

/// Returns a stored request's outcome with its class, and its sentence.
fn end(row: &Value) -> (String, String) {
    let outcome = &row["stage"]["outcome"];
    let word = outcome["word"].as_str().unwrap_or("NOT SETTLED");
    let how = outcome["reason"].as_str().map_or_else(|| word.to_owned(), |reason| format!("{word}/{reason}"));
    (how, row.to_string())
}
