//! What people see of requests, agents and the daemon, as they see it.

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{EndedBy, Incomplete, Outcome};
use ccb_core::ownership;
use ccb_core::request::{Evidence, Late, Settlement};
use ccb_core::wire::{Session, Who};

use super::*;

const START: i64 = 1_795_377_181_007;

fn request(id: &str, settlement: Option<Settlement>) -> RequestView {
    RequestView {
        id: RequestId::new(id).unwrap(),
        agent: AgentName::new("reviewer").unwrap(),
        asker: "manual".into(),
        parent: None,
        retry_of: None,
        retries: Vec::new(),
        kind: Kind::Ask,
        summary: "review the \n parser".into(),
        state: if settlement.is_some() { "settled" } else { "queued" }.into(),
        why: "the agent is busy".into(),
        accepted: Time(START),
        deadline: Some(Time(START + 3_600_000)),
        attempts: 1,
        turn: Some("t-1".into()),
        delivered: None,
        settlement,
    }
}

fn settlement(late: Option<&str>) -> Settlement {
    Settlement {
        at: Time(START + 61_000),
        outcome: Outcome::Incomplete { reason: Incomplete::Deadline },
        reply: "half".into(),
        ended_by: None,
        turn: Some("t-1".into()),
        mixed: false,
        late: late.map(|reply| Late { at: Time(START + 65_500), reply: reply.into(), ended_by: EndedBy::Protocol }),
    }
}

fn agent(name: &str, error: Option<&str>) -> AgentView {
    AgentView {
        name: AgentName::new(name).unwrap(),
        provider: "codex".into(),
        rung: "joined".into(),
        rung_why: "its own app-server".into(),
        state: "busy".into(),
        why: "at a turn".into(),
        current: error.is_none().then(|| RequestId::new("r1").unwrap()),
        queued: 2,
        pane: None,
        last_error: error.map(str::to_owned),
    }
}

#[test]
fn ps_shows_agents_and_open_requests() {
    let view = Overview {
        agents: vec![agent("codex", None), agent("reviewer", Some("rate limit: try later"))],
        requests: vec![request("r1", None)],
    };
    insta::assert_snapshot!(overview(&view, Time(START + 12_300)), @r#"
        AGENT     PROVIDER  RUNG    STATE  QUEUED  CURRENT  WHY
        codex     codex     joined  busy   2       r1       at a turn
        reviewer  codex     joined  busy   2       -        at a turn
        codex: joined: its own app-server
        reviewer: joined: its own app-server
        reviewer: last error: rate limit: try later

        REQUEST  AGENT     FROM    STATE   AGE     WHY                MESSAGE
        r1       reviewer  manual  queued  12.3 s  the agent is busy  review the parser
        "#);
    insta::assert_snapshot!(overview(&Overview { agents: vec![], requests: vec![] }, Time(0)), @"no agents; `ccb codex` starts one");
}

#[test]
fn explain_shows_each_fact_with_its_time() {
    let fact = |ms: i64, source: &str, what: &str, turn: Option<&str>| Evidence {
        at: Time(START + ms),
        source: source.into(),
        what: what.into(),
        turn: turn.map(str::to_owned),
    };
    let mut view = Explanation {
        request: request("r1", Some(settlement(Some("whole")))),
        evidence: vec![
            fact(0, "client", "accepted", None),
            fact(12, "askd", "offered", None),
            fact(1_250, "protocol", "the turn has begun", Some("t-1")),
            fact(61_000, "askd", "the deadline has passed", None),
        ],
        now: Time(START + 90_000),
    };
    insta::assert_snapshot!(explanation(&view, &TimeZone::UTC), @r#"
        r1 from manual for reviewer: incomplete: the deadline passed before the answer came
          message      review the parser
          accepted     2026-11-22 19:53:01, 1 min 30 s ago
          deadline     2026-11-22 20:53:01, 1 h 0 min after acceptance
          offers       1
          turn         t-1
          settled      +1 min 1 s
          late answer  +1 min 5 s, told by protocol
               +0 ms  client    accepted
              +12 ms  askd      offered
            +1250 ms  protocol  the turn has begun       turn t-1
          +1 min 1 s  askd      the deadline has passed
        "#);
    view.request =
        RequestView { asker: "codex".into(), parent: Some(RequestId::new("r1").unwrap()), ..request("r2", None) };
    view.evidence.clear();
    insta::assert_snapshot!(explanation(&view, &TimeZone::UTC), @r#"
        r2 from codex for reviewer: queued: the agent is busy
          asked while working on r1
          message   review the parser
          accepted  2026-11-22 19:53:01, 1 min 30 s ago
          deadline  2026-11-22 20:53:01, 1 h 0 min after acceptance
          offers    1
          turn      t-1
        "#);
}

#[test]
fn status_shows_health_and_the_last_end() {
    let view = Health {
        pid: 12,
        keeper: Some(11),
        version: "0.1.0".into(),
        generation: 3,
        started: Time(START),
        now: Time(START + 300_000),
        work_dir: "/p".into(),
        home: "/h".into(),
        unsettled: 1,
        accepted: 12,
        last_end: Some("killed by signal 9".into()),
        last_end_at: Some(Time(START)),
        restarts: 2,
        stalled_ms: None,
        silent: false,
        notes: vec!["the store was damaged".into()],
        attach: Some(Session { socket: "/h/tmux.sock".into(), session: "ccb".into() }),
        owner: Some(Who { pid: 20, kind: ownership::Kind::Launcher, since: Time(START) }),
        attached: vec![Who { pid: 21, kind: ownership::Kind::Parent, since: Time(START + 240_000) }],
    };
    insta::assert_snapshot!(health(&view), @r#"
        askd 0.1.0, pid 12, generation 3, up 5 min 0 s
          keeper    pid 11
          project   /p
          home      /h
          requests  1 not over, 12 ever accepted
          restarts  2 since the last orderly end
          last end  killed by signal 9 (5 min 0 s ago)
          note      the store was damaged
          owner     ccb, pid 20, for 5 min 0 s
          attached  the process named by CCB_PARENT_PID, pid 21, for 1 min 0 s
          panes     tmux -S /h/tmux.sock attach -t ccb
        "#);
    let view = Health {
        silent: true,
        stalled_ms: Some(7_000),
        last_end: None,
        restarts: 0,
        attach: None,
        owner: None,
        attached: Vec::new(),
        notes: Vec::new(),
        ..view
    };
    insta::assert_snapshot!(health(&view), @r#"
        askd 0.1.0, pid 12, generation 3, up 5 min 0 s
          keeper    pid 11
          project   /p
          home      /h
          requests  not known: the engine does not answer
          engine    a commit has been waiting for the disk for 7.0 s; it goes on when the disk does
          owner     nobody; askd ends when it is not needed, and the next `ccb` owns it
        "#);
}

#[test]
fn conversations_are_told_from_the_oldest() {
    let replies = Replies {
        requests: vec![request("r2", None), request("r1", Some(settlement(Some("whole\n"))))],
        questions: vec!["second".into(), "first".into()],
    };
    insta::assert_snapshot!(conversation(&replies), @r#"
        Q: first
        A: whole
        ---
        Q: second
        A: (queued: the agent is busy)
        "#);
}

#[test]
fn spans_and_names_are_for_people() {
    let spans: Vec<String> = [0, 999, 1_250, 59_999, 61_000, 3_660_000, 90_000_000].into_iter().map(span).collect();
    assert_eq!(spans, ["0 ms", "999 ms", "1.2 s", "59.9 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    assert_eq!(agent_name("opencode", "opencode"), "OpenCode");
    assert_eq!(agent_name("reviewer", "claude"), "reviewer (Claude)");
    assert_eq!((line("a \n\x1b b", 9), line("abcdef", 4)), ("a \x1b b".into(), "abc…".into()));
    assert_eq!(reply(&request("r1", Some(settlement(None)))), "half");
}
