//! How turns go and end: the simulated agents' behaviours, and what their transports make of each.

use ccb_core::id::RequestId;
use ccb_core::outcome::{EndedBy, Failure, TurnEnd};
use ccb_core::step::Input;

use crate::agents::{Link, Rung, Shows, Turn, answer, partial};
use crate::check::Violation;
use crate::rng::Rng;
use crate::seen::Mark;
use crate::world::{Event, World};

/// How a turn goes and ends, if nobody comes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// With its answer.
    Answers,
    /// The human stops it.
    Interrupted,
    /// The provider refuses it at once.
    Fails(Failure),
    /// The CLI tries again by itself, shows that, and then answers or gives up.
    Retries(Option<Failure>),
    /// The stream of the answer breaks off, and the CLI says so.
    Cut,
    /// Without any text.
    Empty,
    /// The conversation is compacted in its midst: its record is written anew, and the same turn goes on.
    Compacts,
    /// The human goes to another session; the old one may answer all the same.
    Leaves(Command),
    /// A sub-agent or another side task ends in its midst.
    SideEnd,
    /// It seems to end, but work goes on in the background, and so does the turn.
    FalseStop,
    /// Its agent ends in its midst.
    Dies(Death),
    /// It goes on and on.
    Hangs,
    /// With its answer, but without the marker by which alone its end could be known.
    Unmarked,
}

/// How the human goes to another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Clear,
    New,
    Resume,
}

/// How an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    Exit,
    Crash,
    Kill,
    /// It ends itself for a new version of it, which may be driven in another way.
    Update,
}

/// All of them.
pub(crate) const DEATHS: [Death; 4] = [Death::Exit, Death::Crash, Death::Kill, Death::Update];

/// What a broken double of a transport does wrong: what each rule of the checker must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The record is not read where a push was lost.
    DeafToRecord,
    /// Each class of a provider's errors is told as just an error.
    ForgetsClass,
    /// An interrupt is told as an error.
    InterruptIsError,
    /// An agent's death is told as an interrupt.
    DeathIsInterrupt,
    /// The CLI's own retries are told as idleness.
    RetriesAreIdle,
    /// An empty answer is filled with a text of our own.
    FillsEmpty,
    /// A compaction is taken for the end.
    CompactionEnds,
    /// What the human is told in the new session is taken for the old turn's answer.
    FollowsNewSession,
    /// Only the new session is looked into for a request of the old one.
    ForgetsOldSession,
    /// A side task's end is taken for the turn's.
    SideEnds,
    /// Each stop is believed, whether or not work goes on.
    TrustsEveryStop,
    /// A quiet end without a marker is told as an answer.
    QuietIsAnswer,
    /// A hook that names another turn is believed.
    BelievesEarlyHook,
    /// That a record does not show what was accepted is taken for proof.
    AbsenceProves,
    /// A look over a lost connection is taken for one into the record.
    TrustsLostLink,
    /// Of a turn that is in no record any more it is only told that it is not there.
    VanishedIsDoubt,
    /// An older turn's end is told as that of the one which runs.
    OlderEndIsOurs,
    /// Who drives an agent in another way after an update finds out nothing of what was offered before.
    NewDriverIsBlank,
}

impl Course {
    fn random(rng: &mut Rng, drive: Rung, rough: bool) -> Self {
        let class = |rng: &mut Rng| {
            let classes = [
                Failure::RateLimit,
                Failure::Auth,
                Failure::Quota,
                Failure::Overloaded,
                Failure::Context,
                Failure::Provider,
            ];
            classes[rng.below(classes.len())]
        };
        match rng.range(0, 100) {
            40..44 => Self::Interrupted,
            44..52 => Self::Fails(class(rng)),
            52..57 => Self::Retries(None),
            57..61 => Self::Retries(Some(class(rng))),
            61..65 => Self::Cut,
            65..69 => Self::Empty,
            69..74 => Self::Compacts,
            74..80 => Self::Leaves([Command::Clear, Command::New, Command::Resume][rng.below(3)]),
            80..84 => Self::SideEnd,
            84..88 => Self::FalseStop,
            88..91 => Self::Hangs,
            91..96 if rough => Self::Dies(DEATHS[rng.below(4)]),
            96..100 if !drive.pushes() => Self::Unmarked,
            _ => Self::Answers,
        }
    }

    /// Returns how long such a turn lasts.
    fn lasts(self, rng: &mut Rng) -> i64 {
        match self {
            Self::Fails(_) => rng.range(50, 2_000),
            Self::Hangs => rng.range(60_000, 150_000),
            Self::Retries(_) => rng.range(5_000, 90_000),
            _ if rng.chance(20) => rng.range(30_000, 90_000),
            _ => rng.range(100, 20_000),
        }
    }

    /// Returns how such a turn ends by itself.
    fn end(self, turn: &str, request: Option<&RequestId>) -> TurnEnd {
        let partial = partial(turn, request);
        match self {
            Self::Interrupted | Self::Leaves(_) => TurnEnd::Interrupted { partial },
            Self::Fails(reason) => TurnEnd::Failed { reason, message: "at once".into(), partial: String::new() },
            Self::Retries(Some(reason)) => TurnEnd::Failed { reason, message: "10 of 10".into(), partial },
            Self::Cut => TurnEnd::Failed { reason: Failure::Provider, message: "the stream broke off".into(), partial },
            Self::Empty => TurnEnd::Completed { reply: String::new() },
            Self::Unmarked => TurnEnd::Quiet { partial: answer(turn, request) },
            Self::Answers
            | Self::Retries(None)
            | Self::Compacts
            | Self::SideEnd
            | Self::FalseStop
            | Self::Dies(_)
            | Self::Hangs => TurnEnd::Completed { reply: answer(turn, request) },
        }
    }
}

impl World {
    /// Begins a turn: the one place where a delivery is truly taken.
    pub(crate) fn begin_turn(&mut self, agent: usize, request: Option<RequestId>) -> Result<(), Violation> {
        let rough = self.rough && !self.calm;
        let it = &mut self.agents[agent];
        let course = Course::random(&mut self.rng, it.rung, rough);
        let name = it.add_turn(self.now, course, request.clone()).name.clone();
        self.report_presence(agent);
        let lasts = course.lasts(&mut self.rng);
        self.soon(lasts, Event::End { agent, turn: name.clone(), interrupted: false });
        self.soon(lasts / 2, Event::Midst { agent, turn: name.clone() });
        let Some(id) = request else { return Ok(()) };
        if self.rng.chance(40) {
            self.agent_asks(agent, lasts);
        }
        if self.fault(10) {
            let late = self.rng.range(100, 60_000);
            self.agents[agent].turn_mut(&name).expect("it was just added").shows = Shows::Later;
            self.soon(late, Event::Show { agent, turn: name.clone() });
        } else {
            self.take(agent, &id)?;
            self.tell_taken(agent, &name, &id, false);
        }
        self.tell_older_end(agent, &id);
        let shown = self.agents[agent].shown(&id).is_some();
        if self.fault(5) && shown && !self.agents[agent].rung.pushes() {
            // It falls quiet for so long that the transport gives its end up.
            let partial = partial(&name, Some(&id));
            if let Some(turn) = self.agents[agent].turn_mut(&name) {
                turn.given_up = true;
            }
            let end = TurnEnd::Quiet { partial };
            let input = Input::TurnEnded { id, turn: name, end, by: EndedBy::Quiet };
            self.soon(lasts / 2, Event::Input { run: self.run, input });
        }
        Ok(())
    }

    /// Tells that a delivery was taken, by all sources that there are.
    pub(crate) fn tell_taken(&mut self, agent: usize, turn: &str, id: &RequestId, mixed: bool) {
        let input = Input::Consumed { id: id.clone(), turn: turn.to_owned(), source: "record".into(), mixed };
        self.evidence(agent, input);
        self.must_know(agent, turn, false);
    }

    /// What happens halfway.
    pub(crate) fn midst(&mut self, agent: usize, name: &str) {
        let Some(turn) = self.agents[agent].turn_mut(name).filter(|turn| turn.runs()) else {
            return;
        };
        let request = turn.request.clone();
        let partial = partial(name, request.as_ref());
        let ended = |turn: String, end| move |id| Input::TurnEnded { id, turn, end, by: EndedBy::Hook };
        match turn.course {
            Course::Retries(_) => {
                turn.doing = "retrying: 2 of 10";
                self.report_presence(agent);
            }
            Course::Compacts => {
                turn.doing = "compacting";
                let mixed = turn.mixed;
                self.report_presence(agent);
                let Some(id) = request else { return };
                if self.does(Fault::CompactionEnds) {
                    return self.evidence(agent, ended(name.into(), TurnEnd::Interrupted { partial })(id));
                }
                // The record is written anew, so it is read anew from its beginning.
                self.tell_taken(agent, name, &id, mixed);
            }
            Course::SideEnd => {
                let Some(id) = request else { return };
                let side = if self.does(Fault::SideEnds) { name.to_owned() } else { format!("{name}-side") };
                self.evidence(agent, ended(side, TurnEnd::Completed { reply: format!("aside in {name}") })(id));
            }
            Course::FalseStop => {
                turn.doing = "in the background";
                self.report_presence(agent);
                if let Some(id) = request.filter(|_| self.does(Fault::TrustsEveryStop)) {
                    self.evidence(agent, ended(name.into(), TurnEnd::Completed { reply: partial })(id));
                }
            }
            Course::Answers
            | Course::Interrupted
            | Course::Fails(_)
            | Course::Cut
            | Course::Empty
            | Course::Leaves(_)
            | Course::Dies(_)
            | Course::Hangs
            | Course::Unmarked => {}
        }
    }

    /// A turn ends, by itself or by an interrupt.
    pub(crate) fn end_turn(&mut self, agent: usize, name: &str, interrupted: bool) -> Result<(), Violation> {
        let calm = self.calm;
        let Some(turn) = self.agents[agent].running().filter(|turn| turn.name == name) else {
            return Ok(());
        };
        let (course, request) = (turn.course, turn.request.clone());
        if let Course::Dies(death) = course
            && !calm
            && !interrupted
        {
            self.dies(agent, death);
            return Ok(());
        }
        self.show_at_end(agent, name, matches!(course, Course::Fails(_)) && !interrupted)?;
        let it = &mut self.agents[agent];
        let end = if interrupted { Course::Interrupted } else { course }.end(name, request.as_ref());
        let Some(turn) = it.turn_mut(name) else { return Ok(()) };
        turn.ends.push(end.clone());
        let shows = turn.shows;
        let offered = it.offered.clone();
        if matches!(course, Course::Leaves(_)) && !interrupted {
            it.session += 1;
            if self.rng.chance(50) {
                let late = self.rng.range(100, 60_000);
                self.soon(late, Event::OldAnswer { agent, turn: name.to_owned() });
            }
        }
        self.report_presence(agent);
        let quiet = matches!(end, TurnEnd::Quiet { .. });
        match request {
            Some(_) if shows != Shows::Input => self.tell_unwritten(agent),
            Some(_) if quiet => {
                let window = self.rng.range(5_000, 30_000);
                self.soon(window, Event::FallsQuiet { agent, turn: name.to_owned() });
            }
            Some(id) if matches!(course, Course::Leaves(_)) && self.does(Fault::FollowsNewSession) => {
                let end = TurnEnd::Completed { reply: format!("talk after {name}") };
                self.evidence(agent, Input::TurnEnded { id, turn: name.to_owned(), end, by: EndedBy::Record });
            }
            Some(id) => self.tell_end(agent, name, id, end),
            None => {
                if let Some(id) = offered.filter(|_| self.fault(40)) {
                    // A hook that cannot tell whose turn it was: the turn's id must tell.
                    self.evidence(agent, Input::TurnEnded { id, turn: name.to_owned(), end, by: EndedBy::Hook });
                }
            }
        }
        Ok(())
    }

    fn tell_end(&mut self, agent: usize, name: &str, id: RequestId, end: TurnEnd) {
        self.evidence(agent, Input::TurnEnded { id, turn: name.to_owned(), end, by: EndedBy::Record });
        self.must_know(agent, name, true);
    }

    /// The window is over in which a marker might have come.
    pub(crate) fn falls_quiet(&mut self, agent: usize, name: &str) {
        let Some(turn) = self.agents[agent].turn_mut(name) else { return };
        if let (Some(id), Some(end)) = (turn.request.clone(), turn.ends.last().cloned()) {
            self.evidence(agent, Input::TurnEnded { id, turn: name.to_owned(), end, by: EndedBy::Quiet });
        }
    }

    /// A session that the human has left answers after all.
    pub(crate) fn old_answer(&mut self, agent: usize, name: &str) {
        let it = &mut self.agents[agent];
        if !it.alive {
            return;
        }
        let Some(turn) = it.turn_mut(name) else { return };
        let end = TurnEnd::Completed { reply: answer(name, turn.request.as_ref()) };
        turn.ends.push(end.clone());
        if let Some(id) = turn.request.clone() {
            self.evidence(agent, Input::TurnEnded { id, turn: name.to_owned(), end, by: EndedBy::Record });
        }
    }

    /// The agent's process ends.
    pub(crate) fn dies(&mut self, agent: usize, death: Death) {
        let it = &mut self.agents[agent];
        if !it.alive || self.calm {
            return;
        }
        it.alive = false;
        it.death = Some(death);
        it.inbound = None;
        it.draft = crate::agents::Draft::Empty;
        let mut evidence = None;
        if let Some(turn) = it.history.last_mut().filter(|turn| turn.runs()) {
            let partial = partial(&turn.name, turn.request.as_ref());
            let end = TurnEnd::Failed { reason: Failure::AgentGone, message: format!("{death:?}"), partial };
            turn.ends.push(end.clone());
            evidence = turn.request.clone().map(|id| (id, turn.name.clone(), end));
        }
        if let Some((id, turn, end)) = evidence.filter(|_| self.rng.chance(50)) {
            self.evidence(agent, Input::TurnEnded { id, turn, end, by: EndedBy::Record });
        }
        if self.agents[agent].link != Link::None {
            let gone = Input::Gone { agent: self.agents[agent].name.clone(), why: format!("{death:?}") };
            self.in_order(agent, gone);
        }
        let it = &mut self.agents[agent];
        it.link = Link::None;
        if let Some(made) = &mut it.made {
            made.lives = false;
        }
        let away = if death == Death::Update { self.rng.range(10, 5_000) } else { self.rng.range(1_000, 40_000) };
        self.soon(away, Event::Back { agent });
    }

    /// The agent is started again, after an update perhaps as one that is driven in another way.
    pub(crate) fn comes_back(&mut self, agent: usize) -> Result<(), Violation> {
        self.unwritten(agent)?;
        let other = crate::agents::RUNGS[self.rng.below(4)];
        let updated = self.agents[agent].death == Some(Death::Update) || self.fault(20);
        let it = &mut self.agents[agent];
        it.alive = true;
        if updated && it.rung != other {
            // Who drives it in another way remembers nothing of what was made in this one.
            (it.rung, it.made) = (other, None);
            it.history.iter_mut().for_each(|turn| mark(Some(turn), Mark::OtherRung));
        }
        self.soon(20, Event::Connect { run: self.run, agent });
        Ok(())
    }

    /// Returns what a transport makes of an end.
    pub(crate) fn told(&self, end: TurnEnd) -> TurnEnd {
        let Some(fault) = self.double else { return end };
        match (fault, end) {
            (Fault::ForgetsClass, TurnEnd::Failed { message, partial, .. }) => {
                TurnEnd::Failed { reason: Failure::Provider, message, partial }
            }
            (Fault::InterruptIsError, TurnEnd::Interrupted { partial }) => {
                TurnEnd::Failed { reason: Failure::Provider, message: "stopped".into(), partial }
            }
            (Fault::DeathIsInterrupt, TurnEnd::Failed { reason: Failure::AgentGone, partial, .. }) => {
                TurnEnd::Interrupted { partial }
            }
            (Fault::FillsEmpty, TurnEnd::Completed { reply }) if reply.is_empty() => {
                TurnEnd::Completed { reply: "(no output)".into() }
            }
            (Fault::QuietIsAnswer, TurnEnd::Quiet { partial }) => TurnEnd::Completed { reply: partial },
            (_, end) => end,
        }
    }

    /// Has it looked at, where there are two sources, that the engine knows of a turn's beginning or end in time.
    fn must_know(&mut self, agent: usize, turn: &str, ended: bool) {
        let it = &self.agents[agent];
        let shown = it.history.iter().any(|of| of.name == turn && of.shows == Shows::Input);
        if shown && it.rung.pushes() && it.is_heard() && it.configured && self.state.is_some() {
            let known = Event::Known { run: self.run, link: it.links, agent, turn: turn.to_owned(), ended };
            self.soon(IN_TIME, known);
        }
    }

    /// Checks that.
    pub(crate) fn known(&self, link: u32, agent: usize, name: &str, ended: bool) -> Result<(), Violation> {
        let it = &self.agents[agent];
        if !it.is_heard() || it.links != link || !it.configured || self.state.is_none() {
            // The sources were cut off meanwhile: the next connection tells.
            return Ok(());
        }
        let Some(id) = it.history.iter().find(|turn| turn.name == name).and_then(|turn| turn.request.clone()) else {
            return Ok(());
        };
        let request = self.version(&id);
        let knows = request.as_ref().is_some_and(|r| r.is_settled() || (!ended && r.turn().is_some()));
        crate::check::hold(knows, "P4", || {
            let what = if ended { "end" } else { "beginning" };
            format!("the {what} of {name} is not known {IN_TIME} ms later, though its record shows it: {request:?}")
        })
    }
}

/// How soon the engine knows what an agent's record shows (ms), whatever became of the push.
const IN_TIME: i64 = 2_000;

/// Sets a mark on a turn, for the count.
pub(crate) fn mark(turn: Option<&mut Turn>, mark: Mark) {
    if let Some(turn) = turn {
        turn.marks.insert(mark);
    }
}
