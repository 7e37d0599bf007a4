//! What has happened in the runs, counted: a behaviour that no seed shows is not tested, however green the test is.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ccb_core::outcome::{EndedBy, Failure, Incomplete, Outcome};
use ccb_core::request::{Kind, Request};
use ccb_core::step::Input;

use crate::agents::{RUNGS, Rung};
use crate::course::{Command, Course, Death};
use crate::world::World;

/// Makes the marks, and the list of all of them in the order of the printed table.
macro_rules! marks {
    ($($mark:ident)+) => {
        /// One way in which a turn goes or ends, and was told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Mark {
            $($mark),+
        }

        use Mark::{$($mark),+};

        /// All of them.
        const MARKS: &[Mark] = &[$($mark),+];
    };
}

marks! {
    Answered Mixed Interrupted RateLimit Auth Quota Overloaded Context OtherError RetriedThenAnswered
    RetriedThenFailed Cut Empty Compacted Cleared LeftByNew LeftByResume AnsweredInTheOldSession SideTaskEnded
    FalseStop Exited Crashed Killed Updated NoEndInTime AnsweredLate Quiet PushLost PushLate PushTwice
    PushEarly OldEndTold ShownLate NotShownInTime LookFailed RecordGone OtherRung
}

impl Mark {
    /// Returns whether it can happen on that rung: who pushes needs no marker, and only who pushes can lose a push.
    fn can_be(self, rung: Rung) -> bool {
        match self {
            Quiet => !rung.pushes(),
            PushLost | PushLate | PushTwice | PushEarly | OldEndTold => rung.pushes(),
            LookFailed => rung == Rung::Joined,
            _ => true,
        }
    }

    /// Returns the class of a provider's error.
    fn of_failure(reason: Failure) -> Option<Self> {
        match reason {
            Failure::RateLimit => Some(RateLimit),
            Failure::Auth => Some(Auth),
            Failure::Quota => Some(Quota),
            Failure::Overloaded => Some(Overloaded),
            Failure::Context => Some(Context),
            Failure::Provider => Some(OtherError),
            Failure::NoSuchAgent | Failure::AgentGone | Failure::NeverConsumed | Failure::UnknownDelivery => None,
        }
    }
}

/// How often each was seen on each rung.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<(Mark, Rung), u32>);

impl Seen {
    pub(crate) fn count(&mut self, mark: Mark, rung: Rung) {
        *self.0.entry((mark, rung)).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    fn times(&self, mark: Mark, rung: Rung) -> u32 {
        self.0.get(&(mark, rung)).copied().unwrap_or(0)
    }

    /// Returns the table, with a dash where something cannot be.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<26}", "settled requests with");
        for rung in RUNGS {
            let _ = write!(text, "{:>10}", format!("{rung:?}"));
        }
        for mark in MARKS {
            let _ = write!(text, "\n{:<26}", format!("{mark:?}"));
            for rung in RUNGS {
                let count = if mark.can_be(rung) { self.times(*mark, rung).to_string() } else { "–".into() };
                let _ = write!(text, "{count:>10}");
            }
        }
        text
    }

    /// Returns what never happened although it can.
    pub(crate) fn missing(&self) -> Vec<(Mark, Rung)> {
        let all = MARKS.iter().flat_map(|mark| RUNGS.map(|rung| (*mark, rung)));
        all.filter(|(mark, rung)| mark.can_be(*rung) && self.times(*mark, *rung) == 0).collect()
    }
}

impl World {
    /// Counts what this step has made of a request.
    pub(crate) fn witness(&mut self, input: &Input, before: &[Option<Request>], saves: &[Request]) {
        let mut seen = std::mem::take(&mut self.seen);
        if let Input::TurnEnded { id, turn, by: EndedBy::Hook | EndedBy::Protocol, .. } = input
            && let Some((_, truth)) = self.truth(id).filter(|(_, truth)| &truth.name == turn)
            && self.version(id).is_some_and(|request| request.turn().is_none() && !request.is_settled())
        {
            seen.count(PushEarly, truth.rung);
        }
        for (after, before) in saves.iter().zip(before) {
            let (Some(settled), Kind::Ask) = (after.settlement(), &after.kind) else { continue };
            let Some((_, turn)) = self.truth(&after.id) else { continue };
            let old = before.as_ref().and_then(Request::settlement);
            let mut count = |mark| seen.count(mark, turn.rung);
            if settled.late.is_some() && old.is_some_and(|old| old.late.is_none()) {
                match (&settled.outcome, turn.course) {
                    (Outcome::Incomplete { reason: Incomplete::Deadline }, _) => count(AnsweredLate),
                    (Outcome::Incomplete { reason: Incomplete::Interrupted }, Course::Leaves(_)) => {
                        count(AnsweredInTheOldSession);
                    }
                    _ => {}
                }
            }
            if settled.turn.is_some() && old.is_some_and(|old| old.turn.is_none()) && self.in_doubt.contains(&after.id)
            {
                count(NotShownInTime);
            }
            if old.is_some() {
                continue;
            }
            turn.marks.iter().for_each(|mark| count(*mark));
            by_outcome(&settled.outcome, turn.course).into_iter().for_each(count);
        }
        self.seen = seen;
    }
}

/// Returns what a request's outcome shows of a turn that took this course.
fn by_outcome(outcome: &Outcome, course: Course) -> Vec<Mark> {
    match (outcome, course) {
        (Outcome::Completed, Course::Retries(None)) => vec![Answered, RetriedThenAnswered],
        (Outcome::Completed, Course::Compacts) => vec![Answered, Compacted],
        (Outcome::Completed, Course::SideEnd) => vec![Answered, SideTaskEnded],
        (Outcome::Completed, Course::FalseStop) => vec![Answered, FalseStop],
        (Outcome::Completed, _) => vec![Answered],
        (Outcome::Incomplete { reason }, _) => match (reason, course) {
            (Incomplete::Empty, _) => vec![Empty],
            (Incomplete::Quiet, Course::Unmarked) => vec![Quiet],
            (Incomplete::Mixed, _) => vec![Mixed],
            (Incomplete::Interrupted, Course::Leaves(Command::Clear)) => vec![Cleared],
            (Incomplete::Interrupted, Course::Leaves(Command::New)) => vec![LeftByNew],
            (Incomplete::Interrupted, Course::Leaves(Command::Resume)) => vec![LeftByResume],
            (Incomplete::Interrupted, Course::Interrupted) => vec![Interrupted],
            (Incomplete::Deadline, Course::Hangs) => vec![NoEndInTime],
            (Incomplete::Quiet | Incomplete::Interrupted | Incomplete::Deadline, _) => Vec::new(),
        },
        (Outcome::Failed { reason: Failure::AgentGone, .. }, Course::Dies(death)) => vec![match death {
            Death::Exit => Exited,
            Death::Crash => Crashed,
            Death::Kill => Killed,
            Death::Update => Updated,
        }],
        (Outcome::Failed { reason: Failure::Provider, .. }, Course::Cut) => vec![Cut],
        (Outcome::Failed { reason, .. }, Course::Retries(Some(_))) if Mark::of_failure(*reason).is_some() => {
            vec![RetriedThenFailed]
        }
        (Outcome::Failed { reason, .. }, _) => Mark::of_failure(*reason).into_iter().collect(),
        (Outcome::Cancelled { .. }, _) => Vec::new(),
    }
}
