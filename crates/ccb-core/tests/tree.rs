//! The tree of requests: who asks in the course of what, and what is refused.

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{EndedBy, TurnEnd};
use ccb_core::request::{Asker, Request};
use ccb_core::state::{Policy, Presence, State};
use ccb_core::step::{Input, Timer, Verdict, step};
use ccb_core::time::Time;

fn id(text: &str) -> RequestId {
    RequestId::new(text).expect("an id")
}

fn agent(text: &str) -> AgentName {
    AgentName::new(text).expect("a name")
}

/// An engine with the agents `ada`, `bob` and `cyd`, all idle.
struct Bench {
    state: State,
    now: i64,
}

impl Bench {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        let mut bench = Self { state: State { next_seq: 1, policy, ..State::default() }, now: 0 };
        bench.configure();
        bench
    }

    fn configure(&mut self) {
        let names = ["ada", "bob", "cyd"];
        self.give(Input::Configure(names.map(|name| (agent(name), name.into())).into()));
        for name in names {
            self.give(Input::Presence { agent: agent(name), presence: Presence::Idle });
        }
    }

    fn give(&mut self, input: Input) -> Verdict {
        step(&mut self.state, input, Time(self.now)).verdict
    }

    /// Asks by `from for to`, both agents, or `you` for a human; `from` may be followed by `waiting`.
    fn ask(&mut self, name: &str, who: &str) -> Verdict {
        let words: Vec<&str> = who.split(' ').collect();
        let asker = match words[0] {
            "you" => Asker::Manual,
            name => Asker::Agent { name: agent(name) },
        };
        let waits = words.contains(&"waiting");
        let target = agent(words.last().expect("a target"));
        let request = Request::new(id(name), target, "do it".into(), Time(self.now));
        self.give(Input::Submit(Box::new(Request { asker, waits, ..request })))
    }

    /// Has the agent take what it was offered.
    fn take(&mut self, name: &str) {
        let turn = format!("turn of {name}");
        self.give(Input::Consumed { id: id(name), turn, source: "record".into(), mixed: false });
    }

    fn end(&mut self, name: &str) {
        let end = TurnEnd::Completed { reply: "yes".into() };
        self.give(Input::TurnEnded { id: id(name), turn: format!("turn of {name}"), end, by: EndedBy::Record });
    }

    /// Returns a request's parent (`-` for none) and depth.
    fn place(&self, name: &str) -> String {
        let request = &self.state.requests[&id(name)];
        format!("{} {}", request.parent.as_ref().map_or("-", RequestId::as_str), request.depth)
    }
}

#[test]
fn a_child_is_asked_in_the_course_of_its_parent() {
    let mut bench = Bench::new();
    bench.ask("a", "you for ada");
    assert_eq!(bench.place("a"), "- 1");
    // Its hand-over is not proved yet, but who else would have it ask?
    bench.ask("b", "ada for bob");
    assert_eq!(bench.place("b"), "a 2");
    bench.take("a");
    bench.take("b");
    bench.ask("c", "bob waiting for cyd");
    assert_eq!(bench.place("c"), "b 3");
    bench.ask("d", "cyd for ada");
    assert_eq!(bench.place("d"), "c 4");
    // A human who asks the same agent, and an agent that is at nothing, begin anew.
    bench.ask("e", "you for cyd");
    bench.end("a");
    bench.end("d");
    assert_eq!((bench.place("e"), bench.state.agents[&agent("ada")].current.is_some()), ("- 1".into(), true));
}

#[test]
fn a_parent_that_its_deadline_has_settled_counts() {
    let mut bench = Bench::new();
    bench.ask("a", "you for ada");
    bench.take("a");
    bench.give(Input::Due { id: id("a"), timer: Timer::Deadline });
    bench.ask("b", "ada for bob");
    assert_eq!(bench.place("b"), "a 2");
    bench.end("a");
    bench.ask("c", "ada for bob");
    assert_eq!(bench.place("c"), "- 1");
}

#[test]
fn one_thing_after_another_is_not_one_in_another() {
    let mut bench = Bench::new();
    bench.ask("a", "you for ada");
    bench.take("a");
    bench.ask("b0", "ada for bob");
    bench.end("a");
    for n in 0..20 {
        let (done, notice) = (format!("b{n}"), format!("b{n}-r1"));
        bench.take(&done);
        bench.end(&done);
        assert_eq!(bench.place(&notice), "a 2");
        // Taken or only offered, the notice has it go on with the work in which it had asked.
        if n % 2 == 0 {
            bench.take(&notice);
        }
        assert_eq!(bench.ask(&format!("b{}", n + 1), "ada for bob"), Verdict::Accepted);
        assert_eq!(bench.place(&format!("b{}", n + 1)), "a 2");
        bench.take(&notice);
        bench.end(&notice);
        bench.state.forget_settled(&id(&notice));
    }
}

#[test]
fn a_restart_keeps_the_tree() {
    let mut bench = Bench::new();
    bench.ask("a", "you for ada");
    bench.take("a");
    bench.ask("b", "ada for bob");
    let stored: Vec<Request> = bench.state.requests.into_values().collect();
    bench.state = State::restore(stored, bench.state.next_seq, Policy::default(), Time(0));
    bench.configure();
    bench.take("b");
    bench.ask("c", "bob for cyd");
    bench.ask("d", "ada for cyd");
    assert_eq!((bench.place("c"), bench.place("d")), ("b 3".into(), "a 2".into()));
}

#[test]
fn too_deep_is_refused() {
    let mut bench = Bench::with(Policy { max_depth: 2, ..Policy::default() });
    assert_eq!(bench.ask("a", "you for ada"), Verdict::Accepted);
    bench.take("a");
    assert_eq!(bench.ask("b", "ada for bob"), Verdict::Accepted);
    bench.take("b");
    for who in ["bob for cyd", "bob waiting for cyd"] {
        assert_eq!(bench.ask("c", who), Verdict::TooDeep { depth: 3, limit: 2 });
    }
    assert!(!bench.state.requests.contains_key(&id("c")));
    // What was accepted is accepted, wherever its asker has got to since.
    assert_eq!(bench.ask("b", "bob for bob"), Verdict::Repeated);
    assert_eq!(bench.ask("e", "you for cyd"), Verdict::Accepted);
}

#[test]
fn too_many_are_refused() {
    let mut bench = Bench::with(Policy { max_open: 2, ..Policy::default() });
    assert_eq!(bench.ask("a", "ada for bob"), Verdict::Accepted);
    assert_eq!(bench.ask("b", "ada for bob"), Verdict::Accepted);
    assert_eq!(bench.ask("c", "ada for cyd"), Verdict::TooMany { open: 2, limit: 2 });
    assert_eq!(bench.ask("a", "ada for bob"), Verdict::Repeated);
    // Others have their own, and a human has no limit.
    assert_eq!(bench.ask("d", "cyd for bob"), Verdict::Accepted);
    for n in 0..10 {
        assert_eq!(bench.ask(&format!("e{n}"), "you for bob"), Verdict::Accepted);
    }
    bench.take("a");
    bench.end("a");
    assert_eq!(bench.ask("c", "ada for cyd"), Verdict::Accepted);
}

/// Returns the ring for which a request is refused, as users see it; else nothing.
fn ring(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Cycle(ring) => ring.iter().map(AgentName::as_str).collect::<Vec<_>>().join(" → "),
        Verdict::Accepted => String::new(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn agents_do_not_wait_for_each_other_in_a_ring() {
    let table: [(&[&str], &str, &str); 9] = [
        (&[], "ada waiting for ada", "ada → ada"),
        (&[], "ada for ada", ""),
        (&["ada waiting for bob"], "bob waiting for ada", "bob → ada → bob"),
        (&["ada waiting for bob"], "bob for ada", ""),
        (&["ada for bob"], "bob waiting for ada", ""),
        (&["you waiting for bob"], "bob waiting for ada", ""),
        (&["ada waiting for bob", "bob waiting for cyd"], "cyd waiting for ada", "cyd → ada → bob → cyd"),
        (&["ada waiting for bob", "ada waiting for cyd"], "bob waiting for cyd", ""),
        (
            &["ada waiting for cyd", "cyd waiting for bob", "ada waiting for bob"],
            "bob waiting for ada",
            "bob → ada → bob",
        ),
    ];
    for (before, last, want) in table {
        let mut bench = Bench::new();
        for (n, who) in before.iter().enumerate() {
            assert_eq!(bench.ask(&format!("w{n}"), who), Verdict::Accepted, "{who}");
        }
        assert_eq!(ring(&bench.ask("x", last)), want, "{before:?}, then {last}");
    }
}

#[test]
fn only_who_really_waits_counts() {
    let waits = || {
        let mut bench = Bench::new();
        bench.ask("w", "ada waiting for bob");
        bench
    };
    // Its client has not come to wait yet, and may be on its way.
    let mut bench = waits();
    bench.now = 9_999;
    assert_eq!(ring(&bench.ask("x", "bob waiting for ada")), "bob → ada → bob");
    // It has not come at all.
    bench.now = 10_000;
    assert_eq!(ring(&bench.ask("x", "bob waiting for ada")), "");
    // It is there, for however long.
    let mut bench = waits();
    bench.give(Input::Waits { id: id("w") });
    bench.now = 1_000_000;
    assert_eq!(ring(&bench.ask("x", "bob waiting for ada")), "bob → ada → bob");
    // It has left.
    bench.give(Input::WaiterGone { id: id("w") });
    assert_eq!(ring(&bench.ask("x", "bob waiting for ada")), "");
    // askd has been started again, and it may be on its way back.
    let mut bench = waits();
    bench.now = 1_000_000;
    let stored: Vec<Request> = bench.state.requests.values().cloned().collect();
    bench.state = State::restore(stored, bench.state.next_seq, Policy::default(), Time(bench.now));
    bench.configure();
    bench.now += 9_999;
    assert_eq!(ring(&bench.ask("x", "bob waiting for ada")), "bob → ada → bob");
    bench.now += 1;
    assert_eq!(ring(&bench.ask("x", "bob waiting for ada")), "");
    // It has its answer.
    let mut bench = waits();
    bench.take("w");
    bench.end("w");
    assert_eq!(ring(&bench.ask("x", "bob waiting for ada")), "");
}

#[test]
fn a_repetition_is_never_refused() {
    let mut bench = Bench::with(Policy { max_open: 1, ..Policy::default() });
    assert_eq!(bench.ask("x", "bob waiting for ada"), Verdict::Accepted);
    assert_eq!(bench.ask("w", "ada waiting for cyd"), Verdict::Accepted);
    for who in ["bob waiting for ada", "ada waiting for ada"] {
        assert_eq!(bench.ask("x", who), Verdict::Repeated);
    }
}
