//! The transitions of `step` as tables: from a stage, by an input, to a stage and its effects; one line a case.
//!
//! The request is `q`, for the agent `ada`; the agent `bob` asks where an agent asks. Time begins at 0 and passes
//! only where a case says so. An expectation reads `stage, outcome, extras | effects`.

use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::request::{Asker, Request, Settlement, Stage};
use ccb_core::state::{Policy, Presence, State};
use ccb_core::step::{Effect, Input, Step, Timer, Verdict, step, wake};
use ccb_core::time::Time;

fn id(text: &str) -> RequestId {
    RequestId::new(text).expect("an id")
}

fn agent(text: &str) -> AgentName {
    AgentName::new(text).expect("a name")
}

fn q() -> RequestId {
    id("q")
}

/// An engine with the agents `ada` (idle) and `bob` (busy).
struct Bench {
    state: State,
    now: i64,
}

impl Bench {
    fn new() -> Self {
        Self::over(State { next_seq: 1, ..State::default() })
    }

    fn over(state: State) -> Self {
        let mut bench = Self { state, now: 0 };
        bench.give(Input::Configure(vec![(agent("ada"), "Ada".into()), (agent("bob"), "Bob".into())]));
        bench
    }

    fn give(&mut self, input: Input) -> Step {
        step(&mut self.state, input, Time(self.now))
    }

    fn all(mut self, inputs: impl IntoIterator<Item = Input>) -> Self {
        for input in inputs {
            self.give(input);
        }
        self
    }

    fn request(&self, id: &RequestId) -> &Request {
        &self.state.requests[id]
    }

    /// Returns the engine that a crash leaves: what is on disk, and nothing else.
    fn restarted(self) -> Self {
        let Self { state, now } = self;
        let stored = state.requests.into_values().filter(|r| !r.is_settled());
        Self { now, ..Self::over(State::restore(stored, state.next_seq, Policy::default(), Time(now))) }
    }
}

fn ask(id: RequestId, asker: Asker, waits: bool) -> Input {
    let request = Request::new(id, agent("ada"), "do it".into(), Time(0));
    Input::Submit(Box::new(Request { asker, waits, deadline: Some(Time(100_000)), ..request }))
}

fn by_manual() -> Input {
    ask(q(), Asker::Manual, false)
}

fn by_bob(waits: bool) -> Input {
    ask(q(), Asker::Agent { name: agent("bob") }, waits)
}

fn presence(name: &str, presence: Presence) -> Input {
    Input::Presence { agent: agent(name), presence }
}

fn idle(name: &str) -> Input {
    presence(name, Presence::Idle)
}

fn busy(name: &str) -> Input {
    presence(name, Presence::Busy { why: "a turn".into() })
}

fn handed_over() -> Input {
    Input::HandedOver { id: q(), attempt: 1, how: "sent".into() }
}

fn not_taken(attempt: u32) -> Input {
    Input::NotTaken { id: q(), attempt, proof: "absent".into() }
}

fn not_handed_over(attempt: u32) -> Input {
    Input::NotHandedOver { id: q(), attempt, why: "a draft".into() }
}

fn doubt(last: bool) -> Input {
    Input::Doubt { id: q(), attempt: 1, why: "no anchor".into(), last }
}

fn consumed(turn: &str, mixed: bool) -> Input {
    Input::Consumed { id: q(), turn: turn.into(), source: "record".into(), mixed }
}

fn ended(turn: &str, reply: &str) -> Input {
    end_with(turn, TurnEnd::Completed { reply: reply.into() })
}

fn end_with(turn: &str, end: TurnEnd) -> Input {
    Input::TurnEnded { id: q(), turn: turn.into(), end, by: EndedBy::Record }
}

fn interrupted(turn: &str) -> Input {
    end_with(turn, TurnEnd::Interrupted { partial: "half".into() })
}

fn failed(turn: &str) -> Input {
    end_with(turn, TurnEnd::Failed { reason: Failure::RateLimit, message: "429".into(), partial: String::new() })
}

fn quiet(turn: &str) -> Input {
    Input::TurnEnded { id: q(), turn: turn.into(), end: TurnEnd::Quiet { partial: "half".into() }, by: EndedBy::Quiet }
}

fn due(timer: Timer) -> Input {
    Input::Due { id: q(), timer }
}

fn cancel() -> Input {
    Input::Cancel { id: q(), by: "you".into() }
}

fn connected() -> Input {
    Input::Connected { agent: agent("ada") }
}

fn gone() -> Input {
    Input::Gone { agent: agent("ada"), why: "killed".into() }
}

/// Returns the inputs that bring `q` of a manual asker to that stage.
fn road(stage: &str) -> Vec<Input> {
    let mut road = vec![if stage == "queued" { busy("ada") } else { idle("ada") }, by_manual()];
    road.extend(match stage {
        "queued" | "offering" => vec![],
        "offered" => vec![handed_over()],
        "doubted" => vec![handed_over(), doubt(false)],
        "unsure" => vec![doubt(false)],
        "working" => vec![handed_over(), consumed("t1", false)],
        "mixed" => vec![handed_over(), consumed("t1", true)],
        "cancelling" => vec![handed_over(), cancel()],
        "stopping" => vec![handed_over(), consumed("t1", false), cancel()],
        "expired offering" => vec![due(Timer::Deadline)],
        "expired offered" => vec![handed_over(), due(Timer::Deadline)],
        "expired working" => vec![handed_over(), consumed("t1", false), due(Timer::Deadline)],
        "expired mixed" => vec![handed_over(), consumed("t1", true), due(Timer::Deadline)],
        "unknown" => vec![handed_over(), doubt(true)],
        "quiet" => vec![handed_over(), consumed("t1", false), quiet("t1")],
        "completed" => vec![handed_over(), consumed("t1", false), ended("t1", "yes")],
        "mixed completed" => vec![handed_over(), consumed("t1", true), ended("t1", "yes")],
        other => panic!("no road to `{other}`"),
    });
    road
}

fn at(stage: &str) -> Bench {
    Bench::new().all(road(stage))
}

fn settled(settlement: &Settlement) -> String {
    let mut text = format!("settled {}", settlement.outcome.word());
    if !settlement.reply.is_empty() {
        text.extend([", ", &settlement.reply]);
    }
    if let Some(late) = &settlement.late {
        text.extend([", late ", &late.reply]);
    }
    if settlement.mixed {
        text.push_str(", mixed");
    }
    text
}

fn shown(request: &Request, effects: &[Effect]) -> String {
    let stage = match &request.stage {
        Stage::Settled(settlement) => settled(settlement),
        Stage::Working { mixed: true, .. } => "working, mixed".into(),
        Stage::Offered { doubt: Some(_), .. } => "offered, in doubt".into(),
        Stage::Queued | Stage::Offering { .. } | Stage::Offered { .. } | Stage::Working { .. } => {
            request.stage.word().into()
        }
    };
    let effects: Vec<String> = effects.iter().map(effect).collect();
    format!("{stage} | {}", effects.join(", ")).trim_end().to_owned()
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Offer { id, attempt, .. } => format!("offer {id} {attempt}"),
        Effect::Interrupt { turn, .. } => format!("interrupt {}", turn.as_deref().unwrap_or("?")),
        Effect::Reconcile { last, handed, .. } => {
            let of = if *handed { "" } else { ", not accepted" };
            format!("reconcile{}{of}", if *last { " last" } else { "" })
        }
        Effect::Arm { timer, at, .. } => format!("{timer:?} {}", at.0 / 1000),
    }
}

#[track_caller]
fn check(from: &str, input: Input, want: &str) {
    check_at(0, from, input, want);
}

#[track_caller]
fn check_at(seconds: i64, from: &str, input: Input, want: &str) {
    let mut bench = at(from);
    bench.now = seconds * 1000;
    let before = bench.request(&q()).stage.clone();
    let out = bench.give(input);
    let after = bench.request(&q());
    assert_eq!(shown(after, &out.effects), want, "from {from}");
    assert!(before == after.stage || out.notes.iter().any(|(id, _)| id == &q()), "{from}: moved without evidence");
    assert!(before == after.stage || out.saves.contains(after), "{from}: moved without a commit");
}

#[test]
fn hand_over() {
    check("queued", handed_over(), "queued |");
    check("queued", idle("ada"), "offering | Proof 40, offer q 1");
    check("offering", handed_over(), "offered | Proof 20");
    check("offered", handed_over(), "offered |");
    check("working", handed_over(), "working |");
    check("expired offering", handed_over(), "settled incomplete | Proof 20");
    check("completed", handed_over(), "settled completed, yes |");
}

#[test]
fn proof_of_not_taken() {
    check("queued", not_taken(0), "queued |");
    check("offering", not_taken(1), "offering | Proof 40, offer q 2");
    check("offered", not_taken(1), "offering | Proof 40, offer q 2");
    check("doubted", not_taken(1), "offering | Proof 40, offer q 2");
    check("offered", not_taken(2), "offered |");
    check("working", not_taken(1), "working |");
    check("cancelling", not_taken(1), "settled cancelled |");
    check("expired offered", not_taken(1), "settled incomplete |");
    check("completed", not_taken(1), "settled completed, yes |");
    check("offering", not_handed_over(1), "offering | Proof 40, offer q 2");
    check("offering", not_handed_over(2), "offering |");
    check("working", not_handed_over(1), "working |");
    check("cancelling", not_handed_over(1), "settled cancelled |");
    check("expired offering", not_handed_over(1), "settled incomplete |");
}

#[test]
fn doubts() {
    check("offering", doubt(false), "offered, in doubt | Proof 20");
    check("offered", doubt(false), "offered, in doubt | Proof 20");
    check("offered", doubt(true), "settled failed |");
    check("doubted", doubt(true), "settled failed |");
    check("cancelling", doubt(true), "settled cancelled |");
    check("working", doubt(true), "working |");
    check("expired offered", doubt(true), "settled incomplete |");
    check("completed", doubt(false), "settled completed, yes |");
}

#[test]
fn consumption() {
    check("queued", consumed("t1", false), "queued |");
    check("offering", consumed("t1", false), "working |");
    check("offered", consumed("t1", false), "working |");
    check("offered", consumed("t1", true), "working, mixed |");
    check("doubted", consumed("t1", false), "working |");
    check("working", consumed("t1", false), "working |");
    check("working", consumed("t1", true), "working, mixed |");
    check("working", consumed("t2", true), "working |");
    check("unknown", consumed("t1", false), "settled failed |");
    check("unknown", consumed("t1", true), "settled failed, mixed |");
    check("expired working", consumed("t1", true), "settled incomplete, mixed |");
    check("completed", consumed("t1", true), "settled completed, yes, mixed |");
    check("completed", consumed("t2", true), "settled completed, yes |");
}

#[test]
fn ends_of_turns() {
    check("queued", ended("t1", "yes"), "queued |");
    check("working", ended("t1", "yes"), "settled completed, yes |");
    check("working", ended("t2", "yes"), "working |");
    check("working", ended("t1", " \n"), "settled incomplete |");
    check("working", interrupted("t1"), "settled incomplete, half |");
    check("working", failed("t1"), "settled failed |");
    check("working", quiet("t1"), "settled incomplete, half |");
    check("mixed", ended("t1", "yes"), "settled incomplete, yes, mixed |");
    check("stopping", interrupted("t1"), "settled cancelled, half |");
    check("stopping", ended("t1", "yes"), "settled completed, yes |");
    check("expired working", ended("t1", "yes"), "settled incomplete, late yes |");
    check("expired working", ended("t2", "yes"), "settled incomplete |");
    check("expired working", interrupted("t1"), "settled incomplete |");
    check("quiet", ended("t1", "yes"), "settled incomplete, half, late yes |");
    check("completed", ended("t1", "yes"), "settled completed, yes |");
}

#[test]
fn an_end_before_its_beginning_sends_us_to_the_records() {
    check("offering", ended("t1", "yes"), "offering | reconcile, not accepted");
    check("offered", ended("t1", "yes"), "offered | reconcile");
    check("unknown", ended("t1", "yes"), "settled failed | reconcile");
}

#[test]
fn a_mixture_is_never_passed_off_as_our_answer() {
    check("mixed completed", ended("t1", "yes"), "settled incomplete, yes, mixed |");
    check("expired mixed", ended("t1", "yes"), "settled incomplete, late yes, mixed |");

    let notice =
        Bench::new().all([idle("ada"), by_bob(false), consumed("t1", true), due(Timer::Deadline), ended("t1", "yes")]);
    let message = &notice.request(&id("q-r2")).message;
    assert!(message.contains("[CCB_TASK_INCOMPLETE]") && message.contains("yes"), "{message}");
}

#[test]
fn deadlines() {
    check("queued", due(Timer::Deadline), "settled incomplete |");
    check("offering", due(Timer::Deadline), "settled incomplete |");
    check("offered", due(Timer::Deadline), "settled incomplete |");
    check("working", due(Timer::Deadline), "settled incomplete |");
    check("completed", due(Timer::Deadline), "settled completed, yes |");
    // It is not sent any more, even if its timer comes late.
    check_at(100, "queued", idle("ada"), "settled incomplete |");
}

#[test]
fn looks_for_proof() {
    check_at(20, "offered", due(Timer::Proof), "offered | reconcile last");
    check_at(20, "doubted", due(Timer::Proof), "offered, in doubt | reconcile last");
    // Whatever is doubted, it was not told to be handed over.
    check_at(20, "unsure", due(Timer::Proof), "offered, in doubt | reconcile last, not accepted");
    check_at(0, "unsure", doubt(false), "offered, in doubt | Proof 20");
    // Nothing was heard of the hand-over: it may still be under way, so this is not the last look.
    check_at(40, "offering", due(Timer::Proof), "offering | reconcile, not accepted");
    check_at(40, "expired offering", due(Timer::Proof), "settled incomplete | reconcile last");
    check_at(40, "working", due(Timer::Proof), "working |");
    check_at(40, "completed", due(Timer::Proof), "settled completed, yes |");
}

#[test]
fn a_timer_of_an_earlier_offer_says_nothing_of_this_one() {
    check_at(19, "offered", due(Timer::Proof), "offered |");
    check_at(19, "doubted", due(Timer::Proof), "offered, in doubt |");
    check_at(19, "offering", due(Timer::Proof), "offering |");
}

#[test]
fn what_became_of_an_expired_offer_is_looked_into_to_the_end() {
    check("expired offering", doubt(false), "settled incomplete | Proof 20");
    check("expired offered", doubt(false), "settled incomplete | Proof 20");
    for (from, input) in
        [("expired offered", doubt(true)), ("expired offered", not_taken(1)), ("expired working", gone())]
    {
        let mut bench = at(from);
        let out = bench.give(input);
        assert_eq!(bench.state.agents[&agent("ada")].current, None, "{from}");
        // Saved, so that the caller forgets it; and explained.
        assert_eq!((out.saves.len(), out.notes.len()), (1, 1), "{from}");
    }
}

#[test]
fn cancelling() {
    check("queued", cancel(), "settled cancelled |");
    check("offering", cancel(), "offering | interrupt ?, Cancel 10");
    check("offered", cancel(), "offered | interrupt ?, Cancel 10");
    check("working", cancel(), "working | interrupt t1, Cancel 10");
    check("expired working", cancel(), "settled incomplete | interrupt t1");
    check("completed", cancel(), "settled completed, yes |");
    check("stopping", due(Timer::Cancel), "settled cancelled |");
    check("working", due(Timer::Cancel), "working |");
}

#[test]
fn an_interrupt_that_found_no_turn_is_sent_again() {
    check("cancelling", consumed("t1", false), "working | interrupt t1, Cancel 10");
    check("cancelling", connected(), "offered | reconcile, interrupt ?, Cancel 10");
    check("stopping", connected(), "working | reconcile, interrupt t1, Cancel 10");
    let mut bench = at("stopping").restarted();
    let out = bench.give(connected());
    assert_eq!(shown(bench.request(&q()), &out.effects), "working | reconcile, interrupt t1, Cancel 10");
}

#[test]
fn connections_and_ends_of_agents() {
    check("queued", connected(), "queued |");
    check("offering", connected(), "offering | reconcile, not accepted");
    check("working", connected(), "working | reconcile");
    check("expired working", connected(), "settled incomplete | reconcile");
    check("completed", connected(), "settled completed, yes |");
    check("queued", gone(), "queued |");
    check("offering", gone(), "settled failed |");
    check("working", gone(), "settled failed |");
    check("stopping", gone(), "settled cancelled |");
    check("expired working", gone(), "settled incomplete |");
}

#[test]
fn enough_refusals_are_enough() {
    let mut bench = at("offering");
    for attempt in 1..5 {
        bench.give(not_taken(attempt));
    }
    let out = bench.give(not_taken(5));
    assert_eq!(shown(bench.request(&q()), &out.effects), "settled failed |");
    // What never left us was refused by nobody.
    let mut bench = at("offering");
    for attempt in 1..20 {
        bench.give(not_handed_over(attempt));
    }
    assert_eq!(shown(bench.request(&q()), &[]), "offering |");
}

#[test]
fn submissions() {
    let verdict = |bench: &mut Bench, input| bench.give(input).verdict;
    let mut bench = Bench::new();
    assert_eq!(verdict(&mut bench, by_manual()), Verdict::Accepted);
    assert_eq!(verdict(&mut bench, by_manual()), Verdict::Repeated);
    let Input::Submit(mut other) = by_manual() else { unreachable!() };
    other.message = "do that".into();
    assert_eq!(verdict(&mut bench, Input::Submit(other.clone())), Verdict::Conflict);
    other.id = id("p");
    other.agent = agent("eve");
    assert_eq!(verdict(&mut bench, Input::Submit(other)), Verdict::UnknownAgent);
    // It would be overwritten by the first notice of `q`.
    assert_eq!(verdict(&mut bench, ask(id("q-r1"), Asker::Manual, false)), Verdict::Conflict);
}

#[test]
fn one_delivery_at_a_time_in_order() {
    let mut bench = Bench::new().all([by_manual(), ask(id("p"), Asker::Manual, false)]);
    let out = bench.give(idle("ada"));
    assert_eq!(shown(bench.request(&q()), &out.effects), "offering | Proof 40, offer q 1");
    assert!(bench.give(idle("ada")).effects.is_empty());
    bench.give(consumed("t1", false));
    let out = bench.give(ended("t1", "yes"));
    assert_eq!(shown(bench.request(&id("p")), &out.effects), "offering | Proof 40, offer p 1");
}

#[test]
fn an_agent_that_is_removed_fails_its_requests() {
    let mut bench = at("working");
    let out = bench.give(Input::Configure(vec![(agent("bob"), "Bob".into())]));
    assert_eq!(shown(bench.request(&q()), &out.effects), "settled failed |");
    assert!(!bench.request(&q()).is_open(), "nobody will tell when its agent is done with it");
    // One that was over already is saved once more, so that it is forgotten.
    let out = at("expired working").give(Input::Configure(Vec::new()));
    assert_eq!(out.saves.len(), 1);
    assert!(!out.saves[0].is_open());
}

#[test]
fn a_reply_that_nobody_can_be_told_of_is_kept_and_closed() {
    let without_bob = || Input::Configure(vec![(agent("ada"), "Ada".into())]);
    let silent = || {
        let policy = Policy { notices: false, ..Policy::default() };
        Bench::over(State { next_seq: 1, policy, ..State::default() })
    };
    let answered = [handed_over(), consumed("t1", false), ended("t1", "yes")];
    let off = silent().all([idle("ada"), by_bob(false)]).all(answered.clone());
    let removed = Bench::new().all([idle("ada"), by_bob(false), without_bob()]).all(answered.clone());
    let removed_later = Bench::new().all([idle("ada"), by_bob(true)]).all(answered).all([without_bob()]);
    assert!(removed_later.request(&q()).is_open());
    for (mut bench, words) in [
        (off, "notices are off"),
        (removed, "not one of the agents any more"),
        (removed_later, "not one of the agents any more"),
    ] {
        let open = bench.request(&q()).is_open();
        let out = bench.give(due(Timer::Orphan));
        let told = out.notes.iter().any(|(_, fact)| fact.what.contains("kept for `ccb pend q`: "));
        let why = out.notes.iter().any(|(_, fact)| fact.what.contains(words));
        assert_eq!((told, why), (open, open), "{words}");
        assert_eq!((bench.request(&q()).is_open(), bench.request(&q()).notices), (false, 0), "{words}");
        assert!(bench.give(due(Timer::Orphan)).notes.is_empty(), "said once");
        bench.state.forget_settled(&q());
        assert!(bench.state.requests.is_empty(), "{words}");
    }
}

/// Returns an engine where `bob`, who is busy, asked and got its answer, with or without a client that waits.
fn answered(waits: bool, connected: bool) -> Bench {
    let waiter = connected.then(|| Input::Waits { id: q() });
    Bench::new().all([idle("ada"), busy("bob"), by_bob(waits)]).all(waiter).all([
        handed_over(),
        consumed("t1", false),
        ended("t1", "yes"),
    ])
}

#[test]
fn replies_to_agents() {
    let notices = |bench: &Bench| bench.request(&q()).notices;
    assert_eq!(notices(&answered(false, false)), 1);
    assert_eq!(notices(&answered(true, true)), 0);
    assert_eq!(notices(&answered(true, false)), 0);
    assert_eq!(notices(&answered(true, false).all([due(Timer::Orphan)])), 1);
    assert_eq!(notices(&answered(true, true).all([due(Timer::Orphan)])), 0);
    assert_eq!(notices(&answered(true, true).all([Input::WaiterGone { id: q() }, due(Timer::Orphan)])), 1);
    let acknowledged = [Input::Acknowledged { id: q() }, Input::WaiterGone { id: q() }, due(Timer::Orphan)];
    assert_eq!(notices(&answered(true, true).all(acknowledged)), 0);
}

#[test]
fn a_notice_is_withdrawn_when_the_asker_has_the_reply_after_all() {
    let orphaned = || answered(true, false).all([due(Timer::Orphan)]);
    let r1 = id("q-r1");
    let mut bench = orphaned();
    bench.give(Input::Acknowledged { id: q() });
    assert_eq!(shown(bench.request(&r1), &[]), "settled cancelled |");

    // On its way, it is not offered a second time.
    let mut bench = orphaned().all([idle("bob"), Input::Acknowledged { id: q() }]);
    bench.give(Input::NotTaken { id: r1.clone(), attempt: 1, proof: "absent".into() });
    assert_eq!(shown(bench.request(&r1), &[]), "settled cancelled |");

    // The notice of a late answer says more than what was acknowledged.
    let late = [due(Timer::Deadline), ended("t1", "yes"), Input::Acknowledged { id: q() }];
    let bench = Bench::new().all([idle("ada"), by_bob(false), consumed("t1", false)]).all(late);
    assert_eq!(shown(bench.request(&id("q-r2")), &[]), "queued |");
}

#[test]
fn a_consumed_notice_marks_its_request_as_delivered() {
    let r1 = id("q-r1");
    let mut bench = answered(false, false);
    bench.state.forget_settled(&q());
    assert!(bench.state.requests.contains_key(&q()), "its notice needs it");
    bench.give(idle("bob"));
    bench.give(Input::Consumed { id: r1.clone(), turn: "b1".into(), source: "record".into(), mixed: false });
    let end = TurnEnd::Completed { reply: "noted".into() };
    bench.give(Input::TurnEnded { id: r1.clone(), turn: "b1".into(), end, by: EndedBy::Record });
    assert!(bench.request(&q()).delivered.is_some());
    bench.state.forget_settled(&r1);
    assert!(bench.state.requests.is_empty(), "both are over");
}

#[test]
fn a_notice_that_shows_after_its_own_end_counts_as_well() {
    let r1 = id("q-r1");
    let lost = Input::Doubt { id: r1.clone(), attempt: 1, why: "no anchor".into(), last: true };
    let mut bench = answered(false, false).all([idle("bob"), lost]);
    assert!(bench.request(&q()).delivered.is_none());
    bench.give(Input::Consumed { id: r1, turn: "b1".into(), source: "record".into(), mixed: false });
    assert!(bench.request(&q()).delivered.is_some());
}

#[test]
fn a_restart_tells_what_it_lacks() {
    let bench = answered(false, false).restarted();
    assert_eq!(bench.state.lacks(), [q()]);
    assert_eq!(Bench::new().state.lacks(), []);
}

#[test]
fn a_restart_arms_the_timers_again() {
    let shown = |bench: Bench| wake(&bench.state).iter().map(effect).collect::<Vec<_>>().join(", ");
    assert_eq!(shown(at("queued")), "Deadline 100");
    assert_eq!(shown(at("working")), "Deadline 100");
    assert_eq!(shown(answered(true, true)), "Orphan 10");
    // Its notice is on its way, and has no deadline.
    assert_eq!(shown(answered(false, false)), "");
}

#[test]
fn a_restart_offers_only_what_is_proved_not_taken() {
    for stage in ["offering", "offered", "doubted"] {
        let mut bench = at(stage).restarted();
        let back = bench.give(idle("ada"));
        assert!(back.effects.is_empty(), "{stage}: {:?}", back.effects);
        let out = bench.give(not_taken(1));
        assert_eq!(shown(bench.request(&q()), &out.effects), "offering | Proof 40, offer q 2");
    }
}

/// Returns the submission of `p`, which asks `q` again.
fn again(asker: Asker) -> Input {
    let Input::Submit(mut request) = ask(id("p"), asker, false) else { unreachable!() };
    request.retry_of = Some(q());
    Input::Submit(request)
}

#[test]
fn only_a_question_that_is_over_is_asked_again() {
    let manual = || again(Asker::Manual);
    for (from, want) in [
        ("queued", Verdict::NotOver("queued")),
        ("offering", Verdict::NotOver("offering")),
        ("offered", Verdict::NotOver("offered")),
        ("doubted", Verdict::NotOver("offered")),
        ("working", Verdict::NotOver("working")),
        ("stopping", Verdict::NotOver("working")),
        ("expired working", Verdict::Accepted),
        ("unknown", Verdict::Accepted),
        ("quiet", Verdict::Accepted),
        ("completed", Verdict::Accepted),
    ] {
        let mut bench = at(from);
        let stage = bench.request(&q()).stage.clone();
        let out = bench.give(manual());
        assert_eq!(out.verdict, want, "{from}");
        let is_retried = want == Verdict::Accepted;
        assert_eq!(bench.request(&q()).stage, stage, "{from}: asking again has changed it");
        assert_eq!(bench.request(&q()).retries, if is_retried { vec![id("p")] } else { vec![] }, "{from}");
        // Both are committed, and both say why.
        for known in [q(), id("p")] {
            let noted = out.notes.iter().any(|(of, _)| *of == known);
            let saved = out.saves.iter().any(|request| request.id == known);
            assert_eq!((noted, saved), (is_retried, is_retried), "{from}: {known}");
        }
        if is_retried {
            assert_eq!(bench.give(manual()).verdict, Verdict::Repeated, "{from}");
            assert_eq!(bench.request(&q()).retries.len(), 1, "{from}: repeated, and written down twice");
            assert_eq!(bench.give(ask(id("p"), Asker::Manual, false)).verdict, Verdict::Conflict, "{from}");
        }
    }
    assert_eq!(Bench::new().give(manual()).verdict, Verdict::Nothing);
    let mut bench = answered(false, false);
    let Input::Submit(mut request) = manual() else { unreachable!() };
    request.retry_of = Some(q().notice(1));
    assert_eq!(bench.give(Input::Submit(request)).verdict, Verdict::NoQuestion);
}

#[test]
fn what_asks_again_waits_until_the_agent_is_done_with_the_first() {
    let mut bench = at("expired working");
    let out = bench.give(again(Asker::Manual));
    assert!(!out.effects.iter().any(|effect| matches!(effect, Effect::Offer { .. })), "{:?}", out.effects);
    let out = bench.give(ended("t1", "late"));
    let offered: Vec<String> = out.effects.iter().map(effect).filter(|effect| effect.starts_with("offer")).collect();
    assert_eq!(offered, ["offer p 1"]);
    assert_eq!(bench.request(&id("p")).agent, agent("ada"));
}

/// Returns the stage `from`, and in it what `ada` waits for her human with.
fn waiting_at(from: &str) -> Bench {
    at(from).all([presence("ada", Presence::Waiting { why: "a dialog".into() })])
}

#[test]
fn an_agent_that_waits_for_its_human_changes_no_deadline_and_no_cancel() {
    for (from, by_deadline, by_cancel) in [
        ("queued", "settled incomplete |", "settled cancelled |"),
        ("offering", "settled incomplete |", "offering | interrupt ?, Cancel 10"),
        ("offered", "settled incomplete |", "offered | interrupt ?, Cancel 10"),
        ("doubted", "settled incomplete |", "offered, in doubt | interrupt ?, Cancel 10"),
        ("working", "settled incomplete |", "working | interrupt t1, Cancel 10"),
        ("mixed", "settled incomplete, mixed |", "working, mixed | interrupt t1, Cancel 10"),
        ("stopping", "settled incomplete |", "working | interrupt t1, Cancel 10"),
        ("expired offering", "settled incomplete |", "settled incomplete | interrupt ?"),
        ("expired offered", "settled incomplete |", "settled incomplete | interrupt ?"),
        ("expired working", "settled incomplete |", "settled incomplete | interrupt t1"),
        ("completed", "settled completed, yes |", "settled completed, yes |"),
    ] {
        for (input, want) in [(due(Timer::Deadline), by_deadline), (cancel(), by_cancel)] {
            let mut bench = waiting_at(from);
            let out = bench.give(input.clone());
            assert_eq!(shown(bench.request(&q()), &out.effects), want, "from {from}, by {input:?}");
            // The same whether the agent waits or not.
            let mut other = at(from);
            let out = other.give(input.clone());
            assert_eq!(shown(other.request(&q()), &out.effects), want, "from {from}, not waiting, by {input:?}");
        }
    }
}

#[test]
fn nothing_is_offered_to_an_agent_that_waits_for_its_human_and_its_turn_goes_on() {
    // What waits in the queue goes out when it is free again, not before.
    let mut bench = waiting_at("queued");
    assert_eq!(bench.request(&q()).attempts, 0);
    let out = bench.give(idle("ada"));
    assert_eq!(shown(bench.request(&q()), &out.effects), "offering | Proof 40, offer q 1");
    // What it works on is neither over nor given up: the end of its turn is its end.
    let mut bench = waiting_at("working");
    assert_eq!(shown(bench.request(&q()), &[]), "working |");
    bench.give(ask(id("p"), Asker::Manual, false));
    let out = bench.give(ended("t1", "yes"));
    assert_eq!(shown(bench.request(&q()), &out.effects), "settled completed, yes |");
    assert_eq!(bench.request(&id("p")).stage, Stage::Queued, "she still waits for her human");
    assert!(bench.give(idle("ada")).effects.iter().any(|one| matches!(one, Effect::Offer { .. })));
    // A human who declines in the dialog ends it as interrupted; one who never comes, by its deadline.
    let mut bench = waiting_at("working");
    let out = bench.give(interrupted("t1"));
    assert_eq!(shown(bench.request(&q()), &out.effects), "settled incomplete, half |");
    let mut bench = waiting_at("working").all([due(Timer::Deadline)]);
    let out = bench.give(ended("t1", "at last"));
    assert_eq!(shown(bench.request(&q()), &out.effects), "settled incomplete, late at last |");
}

#[test]
fn what_was_settled_by_its_deadline_holds_its_agent_until_its_turn_is_over() {
    for from in ["expired offering", "expired offered", "expired working"] {
        let mut bench = at(from).all([ask(id("p"), Asker::Manual, false), idle("ada")]);
        assert!(bench.request(&q()).held, "{from}");
        assert_eq!(bench.request(&id("p")).stage, Stage::Queued, "{from}: offered into a turn that runs");
        // Its own deadline and a cancel reach what waits behind it as well.
        let mut expired = at(from).all([ask(id("p"), Asker::Manual, false)]);
        expired.now = 100_000;
        expired.give(Input::Due { id: id("p"), timer: Timer::Deadline });
        assert!(expired.request(&id("p")).is_settled() && !expired.request(&id("p")).held, "{from}");
        assert_eq!(expired.request(&id("p")).attempts, 0, "{from}");
        let ends = match from {
            "expired working" => vec![ended("t1", "late")],
            _ => vec![consumed("t1", false), interrupted("t1")],
        };
        bench = bench.all(ends);
        assert!(!bench.request(&q()).held, "{from}");
        assert_eq!(bench.request(&id("p")).stage.word(), "offering", "{from}");
    }
}
