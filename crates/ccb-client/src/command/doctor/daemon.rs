//! The doctor's look at the daemon, the panes and the agents: what only a daemon that answers can tell.

use std::io::ErrorKind;

use ccb_core::home::file;
use ccb_core::time::Time;
use ccb_core::wire::{AgentView, Health, Ps, Session, Status};

use super::Finding;
use crate::connect::{Askd, ConnectError};

/// How far, in milliseconds, askd's clock and the wall clock may be apart.
const APART: i64 = 60_000;

/// States in which an agent waits for its human.
const WAITS: &[&str] = &["waiting for you", "blocked"];

/// Returns what is to be said of the daemon and what it knows.
pub(super) fn checked(askd: &Askd) -> Vec<Finding> {
    let mut connection = match askd.find() {
        Ok(Some(connection)) => connection,
        Ok(None) => return vec![absent(askd)],
        Err(error) => return vec![unreachable(askd, error)],
    };
    let health = match connection.call(&Status {}) {
        Ok(health) => health,
        Err(error) => {
            return vec![Finding::fault("daemon", format!("it does not tell its state: {error}"), "`ccb logs`")];
        }
    };
    let mut findings = daemon(&health, &askd.written(file::STATE));
    findings.push(clock(&health, crate::clock::present()));
    match connection.call(&Ps {}) {
        Ok(overview) => {
            findings.push(panes(health.attach.as_ref(), &overview.agents));
            findings.extend(overview.agents.iter().map(agent));
        }
        Err(error) => findings.push(Finding::fault("agents", format!("they cannot be listed: {error}"), "`ccb logs`")),
    }
    findings
}

fn absent(askd: &Askd) -> Finding {
    let last = askd.written(file::LAST);
    let status = last["status"].as_str().unwrap_or_default();
    let reason = last["exit_reason"].as_str().unwrap_or("no reason was written down");
    let again = "`ccb` or `ask` starts it; `ccb logs` shows its log";
    match status {
        "crashed" => Finding::fault("daemon", format!("none serves; the last one crashed: {reason}"), again),
        "stopped" => Finding::note("daemon", format!("none serves; the last one stopped: {reason}")).mend(again),
        "" => Finding::note("daemon", "none serves, and none ever has").mend(again),
        _ => Finding::note("daemon", "none serves; the last one ended without a word").mend(again),
    }
}

fn unreachable(askd: &Askd, error: ConnectError) -> Finding {
    let is_silent = matches!(&error, ConnectError::NoAnswer(why) if why.kind() != ErrorKind::PermissionDenied);
    let error = askd.explain(error);
    let mend = error.hints.first().cloned();
    let mend = mend.filter(|_| !is_silent).unwrap_or_else(|| {
        "a daemon that hangs is replaced by its keeper within seconds; if this stays so, `ccb logs`".to_owned()
    });
    Finding::fault("daemon", error.message, mend)
}

fn daemon(health: &Health, written: &serde_json::Value) -> Vec<Finding> {
    let Health { version, pid, generation, .. } = health;
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![Finding::ok("daemon", format!("askd {version}, pid {pid}, generation {generation}"))];
    if version != ours {
        let what = format!("askd is {version}, this ccb is {ours}: they understand each other");
        findings.push(Finding::note("daemon", what).mend("`askd --shutdown` has the next command start the new one"));
    }
    if health.keeper.is_none() {
        let what = "no keeper watches it: if it died, nobody would start it again before the next command";
        findings.push(Finding::note("daemon", what).mend("wait a moment: askd starts one by itself"));
    }
    if written["pid"] != *pid {
        let what = "askd.json does not say so; only other programs read it".to_owned();
        findings.push(Finding::note("daemon", what).mend("askd writes it anew within its watchdog's interval"));
    }
    if let Some(end) = &health.last_end {
        findings.push(Finding::note("daemon", format!("the one before it: {end}")));
    }
    findings.extend(health.notes.iter().map(|note| Finding::note("store", note.as_str())));
    findings
}

fn clock(health: &Health, present: Time) -> Finding {
    let apart = present.0.saturating_sub(health.now.0);
    if apart.abs() <= APART {
        return Finding::ok("clock", "askd's and the system's agree");
    }
    let what = format!(
        "the system's clock was set {} s {} since askd took its own from it; deadlines go on by askd's",
        apart.abs() / 1000,
        if apart > 0 { "forward" } else { "back" }
    );
    Finding::note("clock", what).mend("nothing: askd follows once nothing is open and it is started again")
}

fn panes(attach: Option<&Session>, agents: &[AgentView]) -> Finding {
    let count = agents.iter().filter(|agent| agent.pane.is_some()).count();
    match attach {
        Some(attach) => Finding::ok("panes", format!("{count}, shown by `tmux -S '{}' attach`", attach.socket)),
        None if count > 0 => Finding::ok("panes", format!("{count}, in a tmux of yours")),
        None => Finding::note("panes", "no agent has one").mend("`ccb` starts the agents"),
    }
}

fn agent(agent: &AgentView) -> Finding {
    let AgentView { name, provider, rung, rung_why, state, why, .. } = agent;
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let text = format!("{name} ({provider}, {rung}: {rung_why}) is {state}{why}");
    if WAITS.contains(&state.as_str()) {
        return Finding::note("agents", text).mend(format!("look at its pane: `ccb attach`, {name}"));
    }
    match &agent.last_error {
        Some(error) => Finding::note("agents", format!("{text}; its last error: {error}")),
        None => Finding::ok("agents", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health {
            pid: 7,
            keeper: Some(6),
            version: env!("CARGO_PKG_VERSION").into(),
            generation: 3,
            started: Time(0),
            now: Time(100_000),
            work_dir: "/p".into(),
            home: "/h".into(),
            unsettled: 0,
            accepted: 0,
            last_end: None,
            last_end_at: None,
            restarts: 0,
            stalled_ms: None,
            silent: false,
            notes: Vec::new(),
            attach: None,
            owner: None,
            attached: Vec::new(),
        }
    }

    #[test]
    fn a_daemons_faults_are_found() {
        let said = |health: &Health, pid: u32| {
            let findings = daemon(health, &serde_json::json!({"pid": pid}));
            findings.into_iter().map(|finding| finding.what + "\n").collect::<String>()
        };
        assert_eq!(said(&health(), 7).lines().count(), 1);
        assert!(said(&health(), 8).contains("askd.json does not say so"));
        assert!(said(&Health { keeper: None, ..health() }, 7).contains("no keeper"));
        assert!(said(&Health { version: "9".into(), ..health() }, 7).contains("askd is 9"));
        assert!(
            said(&Health { last_end: Some("worker 5 crashed".into()), ..health() }, 7).contains("worker 5 crashed")
        );
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let level = |ms| clock(&health(), Time(ms)).level;
        assert_eq!((level(100_500), level(50_000)), (super::super::Level::Ok, super::super::Level::Ok));
        assert!(clock(&health(), Time(86_500_000)).what.contains("86400 s forward"));
        assert!(clock(&health(), Time(-86_300_000)).what.contains("86400 s back"));
    }
}
