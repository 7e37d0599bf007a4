//! How things look to people: pure functions from wire types to text.

use std::fmt::Write as _;

use ccb_core::id::RequestId;
use ccb_core::ownership;
use ccb_core::provider::Provider;
use ccb_core::request::Kind;
use ccb_core::time::Time;
use ccb_core::wire::{AgentView, Explanation, Health, Overview, Replies, RequestView, Who};
use jiff::tz::TimeZone;

/// Returns `text` without anything that a terminal would obey.
pub(crate) fn safe(text: &str) -> String {
    ccb_core::paste::neutralise(text)
}

/// Returns `text` as one line of at most `limit` characters.
pub(crate) fn line(text: &str, limit: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let joined = words.join(" ");
    if joined.chars().count() <= limit {
        return joined;
    }
    joined.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// Returns a span of milliseconds as people read it.
pub(crate) fn span(ms: i64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=59 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Returns an agent's name for people: the provider's, with the agent's own name where that is another.
pub(crate) fn agent_name(agent: &str, provider: &str) -> String {
    let display = Provider::named(provider).map_or(provider, |known| known.row().display);
    if agent.eq_ignore_ascii_case(provider) { display.to_owned() } else { format!("{agent} ({display})") }
}

/// Returns rows in columns, each as wide as its longest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
        text
    })
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { line(text, 60) }
}

/// Returns what `ccb ps` shows.
pub(crate) fn overview(overview: &Overview, now: Time) -> String {
    let mut text = agents(&overview.agents);
    if overview.requests.is_empty() {
        return text;
    }
    let head = ["REQUEST", "AGENT", "FROM", "STATE", "AGE", "WHY", "MESSAGE"].map(str::to_owned);
    let row = |request: &RequestView| {
        let age = span(now.since(request.accepted));
        let message = match &request.kind {
            Kind::Ask => line(&request.summary, 40),
            Kind::Notice { of } => format!("(reply to {of})"),
        };
        let RequestView { id, agent, asker, state, why, .. } = request;
        [id.to_string(), agent.to_string(), asker.clone(), state.clone(), age, or_dash(why), message]
    };
    let rows: Vec<_> = std::iter::once(head).chain(overview.requests.iter().map(row)).collect();
    let _ = write!(text, "\n{}", table(&rows));
    text
}

fn agents(agents: &[AgentView]) -> String {
    if agents.is_empty() {
        return "no agents; `ccb codex` starts one\n".to_owned();
    }
    let head = ["AGENT", "PROVIDER", "RUNG", "STATE", "QUEUED", "CURRENT", "WHY"].map(str::to_owned);
    let row = |agent: &AgentView| {
        let current = agent.current.as_ref().map_or("-", |id| id.as_str()).to_owned();
        let AgentView { name, provider, rung, state, why, queued, .. } = agent;
        [name.to_string(), provider.clone(), or_dash(rung), state.clone(), queued.to_string(), current, or_dash(why)]
    };
    let rows: Vec<_> = std::iter::once(head).chain(agents.iter().map(row)).collect();
    let mut text = table(&rows);
    for agent in agents {
        if !agent.rung_why.is_empty() {
            let _ = writeln!(text, "{}: {}: {}", agent.name, or_dash(&agent.rung), line(&agent.rung_why, 100));
        }
        if let Some(error) = &agent.last_error {
            let _ = writeln!(text, "{}: last error: {}", agent.name, line(error, 200));
        }
    }
    text
}

/// Returns what `ccb status` shows.
pub(crate) fn health(health: &Health) -> String {
    let up = span(health.now.since(health.started));
    let mut text = format!("askd {}, pid {}, generation {}, up {up}\n", health.version, health.pid, health.generation);
    let keeper = health.keeper.map_or("none".to_owned(), |pid| format!("pid {pid}"));
    let requests = if health.silent {
        "not known: the engine does not answer".to_owned()
    } else {
        format!("{} not over, {} ever accepted", health.unsettled, health.accepted)
    };
    let engine = health.silent.then(|| match health.stalled_ms {
        Some(ms) => {
            format!("a commit has been waiting for the disk for {}; it goes on when the disk does", span_ms(ms))
        }
        None => "does not answer; if that lasts, its keeper replaces the worker".to_owned(),
    });
    let restarts = format!("{} since the last orderly end", health.restarts);
    let last_end = health.last_end.as_ref().map(|end| match health.last_end_at {
        Some(at) => format!("{end} ({} ago)", span(health.now.since(at))),
        None => end.clone(),
    });
    let mut rows = vec![
        ["  keeper", keeper.as_str()],
        ["  project", &health.work_dir],
        ["  home", &health.home],
        ["  requests", &requests],
    ];
    if let Some(engine) = &engine {
        rows.push(["  engine", engine]);
    }
    if health.restarts > 0 {
        rows.push(["  restarts", &restarts]);
    }
    if let Some(end) = &last_end {
        rows.push(["  last end", end]);
    }
    rows.extend(health.notes.iter().map(|note| ["  note", note.as_str()]));
    let owner = owner(health);
    rows.push(["  owner", &owner]);
    let others: Vec<String> = health.attached.iter().map(|one| who(one, health.now)).collect();
    let others = others.join("; ");
    if !others.is_empty() {
        rows.push(["  attached", &others]);
    }
    let attach = health.attach.as_ref().map(|attach| format!("tmux -S {} attach -t {}", attach.socket, attach.session));
    if let Some(attach) = &attach {
        rows.push(["  panes", attach]);
    }
    let rows: Vec<[String; 2]> = rows.into_iter().map(|row| row.map(str::to_owned)).collect();
    text.push_str(&table(&rows));
    text
}

/// Says whose life the daemon's life follows.
fn owner(health: &Health) -> String {
    match &health.owner {
        Some(owner) => who(owner, health.now),
        None => "nobody; askd ends when it is not needed, and the next `ccb` owns it".to_owned(),
    }
}

/// Returns an owner or an instance as people read it.
pub(crate) fn who(who: &Who, now: Time) -> String {
    let what = match who.kind {
        ownership::Kind::Launcher => "ccb",
        ownership::Kind::Parent => "the process named by CCB_PARENT_PID",
        ownership::Kind::Session => "the agents' own terminal session",
    };
    format!("{what}, pid {}, for {}", who.pid, span(now.since(who.since)))
}

/// Returns what `ccb explain` shows.
pub(crate) fn explanation(explanation: &Explanation, zone: &TimeZone) -> String {
    let Explanation { request, evidence, now } = explanation;
    let mut text = request_head(request, *now, zone);
    let row = |fact: &ccb_core::request::Evidence| {
        let turn = fact.turn.as_ref().map_or(String::new(), |turn| format!("turn {turn}"));
        let ms = fact.at.since(request.accepted);
        let after = if ms < 10_000 { format!("+{ms} ms") } else { format!("+{}", span(ms)) };
        [format!("{after:>12}"), fact.source.clone(), line(&fact.what, 200), turn]
    };
    let rows: Vec<_> = evidence.iter().map(row).collect();
    text.push_str(&table(&rows));
    text
}

/// Returns a span of time for people.
fn span_ms(ms: u64) -> String {
    span(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn request_head(request: &RequestView, now: Time, zone: &TimeZone) -> String {
    let mut text = format!("{} from {} for {}: {}\n", request.id, request.asker, request.agent, state(request));
    if let (Some(parent), Kind::Ask) = (&request.parent, &request.kind) {
        let _ = writeln!(text, "  asked while working on {parent}");
    }
    if let Some(of) = &request.retry_of {
        let _ = writeln!(text, "  asks {of} again");
    }
    if !request.retries.is_empty() {
        let ids: Vec<&str> = request.retries.iter().map(RequestId::as_str).collect();
        let _ = writeln!(text, "  asked again as {}", ids.join(", "));
    }
    let message = match &request.kind {
        Kind::Ask => line(&request.summary, 100),
        Kind::Notice { of } => format!("(brings the reply to {of})"),
    };
    let age = span(now.since(request.accepted));
    let deadline = request.deadline.map_or("none".to_owned(), |deadline| {
        format!("{}, {} after acceptance", moment(deadline, zone), span(deadline.since(request.accepted)))
    });
    let mut rows = vec![
        ["  message".to_owned(), message],
        ["  accepted".to_owned(), format!("{}, {age} ago", moment(request.accepted, zone))],
        ["  deadline".to_owned(), deadline],
        ["  offers".to_owned(), request.attempts.to_string()],
    ];
    if let Some(turn) = &request.turn {
        rows.push(["  turn".to_owned(), turn.clone()]);
    }
    if let Some(settled) = &request.settlement {
        let by = settled.ended_by.map_or(String::new(), |by| format!(", told by {}", by.word()));
        rows.push(["  settled".to_owned(), format!("{}{by}", after(settled.at, request))]);
        if let Some(late) = &settled.late {
            rows.push([
                "  late answer".to_owned(),
                format!("{}, told by {}", after(late.at, request), late.ended_by.word()),
            ]);
        }
    }
    if let Some(delivered) = request.delivered {
        rows.push(["  delivered".to_owned(), after(delivered, request)]);
    }
    text.push_str(&table(&rows));
    text
}

fn moment(time: Time, zone: &TimeZone) -> String {
    crate::clock::at(time, zone.clone())
}

fn after(time: Time, request: &RequestView) -> String {
    format!("+{}", span(time.since(request.accepted)))
}

/// Returns a request's state in one sentence.
pub(crate) fn state(request: &RequestView) -> String {
    match &request.settlement {
        Some(settled) => format!("{}: {}", settled.outcome.word(), settled.outcome.sentence()),
        None if request.why.is_empty() => request.state.clone(),
        None => format!("{}: {}", request.state, request.why),
    }
}

/// Returns the reply of a request as far as there is one: a late one is the real one.
pub(crate) fn reply(request: &RequestView) -> &str {
    request.settlement.as_ref().map_or("", |settled| settled.late.as_ref().map_or(&settled.reply, |late| &late.reply))
}

/// Returns questions and answers, oldest first.
pub(crate) fn conversation(replies: &Replies) -> String {
    let pairs = replies.requests.iter().zip(&replies.questions).rev().map(|(request, question)| {
        let reply = reply(request).trim_end();
        let answer = if reply.is_empty() { format!("({})", state(request)) } else { reply.to_owned() };
        format!("Q: {}\nA: {answer}\n", question.trim_end())
    });
    pairs.collect::<Vec<_>>().join("---\n")
}

#[cfg(test)]
mod tests;
