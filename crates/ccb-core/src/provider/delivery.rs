//! What becomes of a delivery at an agent that is driven by paste, as far as the agent's records and hooks tell.
//!
//! Pure: observations go in, in their order, and findings come out. A turn is ours only once our anchor was seen in it
//! (or, where records keep no input at all, our mark); everything before that is somebody else's.

use super::Observation;
use crate::config::Completion;
use crate::id::RequestId;
use crate::marker::{self, Mark};
use crate::outcome::{EndedBy, Failure, TurnEnd};
use crate::prompt;
use crate::request::Kind;
use crate::state::Presence;

/// How a turn is known to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// By our anchor in the input that the records keep.
    Anchor,
    /// By our mark at the end of an answer: the records keep no input.
    Mark,
}

/// What an observation means for a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The agent has taken it.
    Consumed,
    /// Other input is in its turn.
    Mixed,
    /// Its turn is over.
    Ended(TurnEnd, EndedBy),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its end has not come.
    Open,
    /// It was ended by silence alone: the true end may still come, and is news then.
    Quiet,
    /// So, and somebody else's input may have come since: only what carries our mark itself is still ours.
    Apart,
    /// Nothing more is found.
    Over,
}

/// Which turn's end a hook has told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// Ours.
    Ours,
    /// One that it named, before ours was known.
    Named(String),
    /// One without a name, before ours was known: ours only if the records go on to show an answer.
    Early,
}

/// A delivery at an agent, as far as was seen.
#[derive(Clone, Debug)]
pub struct Delivery {
    id: RequestId,
    kind: Kind,
    completion: Completion,
    binding: Binding,
    /// The turn, once it is ours. Where records name no turn, our own id stands for it.
    turn: Option<String>,
    /// The turn that has begun last and has not ended, where records name turns, and whether input of others is in it.
    open: Option<(String, bool)>,
    mixed: bool,
    /// What was pasted, where that is known.
    pasted: Option<String>,
    said: Vec<String>,
    /// A hook has told that a turn has ended, and left the text to the records.
    told: Option<Told>,
    phase: Phase,
}

impl Delivery {
    /// Returns a delivery of which nothing was seen.
    pub fn new(id: RequestId, kind: Kind, completion: Completion, binding: Binding) -> Self {
        Self {
            id,
            kind,
            completion,
            binding,
            turn: None,
            open: None,
            mixed: false,
            pasted: None,
            said: Vec::new(),
            told: None,
            phase: Phase::Open,
        }
    }

    /// This is being pasted: an input that goes on behind it is not ours alone.
    pub fn pastes(&mut self, text: &str) {
        self.pasted = Some(text.to_owned());
    }

    /// The records are read anew, and with them what others were told since this was ended by silence.
    pub fn stand_apart(&mut self) {
        if self.phase == Phase::Quiet {
            self.phase = Phase::Apart;
        }
    }

    /// Returns the turn that is ours, once that is known.
    pub fn turn(&self) -> Option<&str> {
        self.turn.as_deref()
    }

    /// Returns whether other input is in its turn.
    pub fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// Returns whether its end was found.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Returns whether silence may end it: something was said, and nothing better than a mark is waited for.
    pub fn may_fall_quiet(&self) -> bool {
        let unmarked = match self.completion {
            Completion::Marker | Completion::Quiet => true,
            Completion::Record => false,
        };
        self.turn.is_some() && self.phase == Phase::Open && !self.said.is_empty() && unmarked
    }

    /// Returns whether a hook has told the end of its turn, and the text is still to be found in the records.
    pub fn is_told_over(&self) -> bool {
        let told = match &self.told {
            Some(Told::Ours) => true,
            Some(Told::Early) => self.has_said(),
            Some(Told::Named(_)) | None => false,
        };
        told && self.turn.is_some() && self.phase != Phase::Over
    }

    /// Returns whether anything was said in its turn.
    pub fn has_said(&self) -> bool {
        !self.said.is_empty()
    }

    /// Takes the next observation; `by` says what has told it.
    pub fn take(&mut self, seen: Observation, by: EndedBy) -> Vec<Finding> {
        match self.phase {
            Phase::Open => {}
            Phase::Quiet | Phase::Apart => return self.late(seen, by).into_iter().collect(),
            Phase::Over => return Vec::new(),
        }
        match seen {
            Observation::TurnBegan { turn } => {
                self.open = turn.map(|turn| (turn, false));
                Vec::new()
            }
            Observation::User { text, turn, .. } => self.user(&text, turn),
            Observation::Agent { text, turn } => self.agent(text, turn.as_deref()),
            Observation::TurnEnded { turn, end } => self.turn_ended(turn.as_deref(), end, by),
            Observation::SessionChanged { .. } => {
                // What the old session's record has shown is all that there will be.
                self.open = None;
                self.told = None;
                let partial = self.text();
                self.turn.is_some().then(|| self.end(TurnEnd::Interrupted { partial }, by)).into_iter().collect()
            }
            Observation::Waiting { .. } | Observation::Retrying { .. } => Vec::new(),
        }
    }

    /// Ends it as a hook has told before: its text has been found, or is not going to be.
    pub fn close(&mut self) -> Option<Finding> {
        let end = self.whole(TurnEnd::Completed { reply: String::new() });
        self.is_told_over().then(|| self.end(end, EndedBy::Hook))
    }

    /// Ends it because nothing more is heard: after an interrupt of ours that is its confirmation, else the true end
    /// may still be found.
    pub fn silent(&mut self, interrupted: bool) -> Option<Finding> {
        if self.phase != Phase::Open || self.turn.is_none() {
            return None;
        }
        let partial = self.text();
        if interrupted {
            return Some(self.end(TurnEnd::Interrupted { partial }, EndedBy::Quiet));
        }
        self.phase = Phase::Quiet;
        Some(Finding::Ended(TurnEnd::Quiet { partial }, EndedBy::Quiet))
    }

    /// Takes an observation after it was ended by silence: only its true end is of interest.
    fn late(&mut self, seen: Observation, by: EndedBy) -> Option<Finding> {
        match seen {
            Observation::TurnBegan { .. } | Observation::User { .. } => self.phase = Phase::Apart,
            Observation::Agent { text, .. } if self.phase == Phase::Apart => {
                if let Mark::Ours(reply) = marker::read(&text, &self.id) {
                    return Some(self.end(TurnEnd::Completed { reply }, EndedBy::Marker));
                }
            }
            Observation::Agent { text, turn } => return self.agent(text, turn.as_deref()).pop(),
            Observation::TurnEnded { turn, end } if turn == self.turn || self.phase == Phase::Quiet => {
                return self.turn_ended(turn.as_deref(), end, by).pop();
            }
            Observation::SessionChanged { .. } => self.phase = Phase::Over,
            Observation::TurnEnded { .. } | Observation::Waiting { .. } | Observation::Retrying { .. } => {}
        }
        None
    }

    /// Ends it because the agent's program has ended in its turn; what it has said is kept.
    pub fn gone(&mut self, why: &str) -> Option<Finding> {
        if self.phase != Phase::Open || self.turn.is_none() {
            return None;
        }
        if self.is_told_over() {
            return self.close();
        }
        let end = TurnEnd::Failed { reason: Failure::AgentGone, message: why.to_owned(), partial: self.text() };
        Some(self.end(end, EndedBy::Record))
    }

    fn end(&mut self, end: TurnEnd, by: EndedBy) -> Finding {
        self.phase = Phase::Over;
        Finding::Ended(end, by)
    }

    fn user(&mut self, text: &str, turn: Option<String>) -> Vec<Finding> {
        let anchored = prompt::anchored(text, &self.id);
        let Some(ours) = &self.turn else {
            let within = match (&turn, &self.open) {
                (Some(named), Some((open, others))) => named == open && *others,
                (None, Some((_, others))) => *others,
                (_, None) => false,
            };
            if !anchored {
                if let Some((open, others)) = &mut self.open {
                    *others |= turn.is_none_or(|named| named == *open);
                }
                return Vec::new();
            }
            let open = self.open.as_ref().map(|(open, _)| open.clone());
            self.turn = Some(turn.or(open).unwrap_or_else(|| self.id.to_string()));
            self.mixed = within || self.pasted.as_ref().is_some_and(|pasted| prompt::is_continued(text, pasted));
            self.told = self.told.take().and_then(|told| match told {
                Told::Named(named) => (Some(&named) == self.turn.as_ref()).then_some(Told::Ours),
                other @ (Told::Ours | Told::Early) => Some(other),
            });
            return vec![Finding::Consumed];
        };
        let elsewhere = turn.is_some_and(|turn| turn != *ours);
        let news = !elsewhere && !self.mixed && !anchored;
        self.mixed |= news;
        if news { vec![Finding::Mixed] } else { Vec::new() }
    }

    fn agent(&mut self, text: String, turn: Option<&str>) -> Vec<Finding> {
        match (&self.turn, self.binding) {
            (Some(ours), _) if turn.is_none_or(|turn| turn == ours) => {
                self.said.push(text);
                self.said_enough().into_iter().collect()
            }
            (None, Binding::Mark) => match marker::read(&text, &self.id) {
                Mark::Ours(reply) => {
                    self.turn = Some(turn.map_or_else(|| self.id.to_string(), str::to_owned));
                    vec![Finding::Consumed, self.end(TurnEnd::Completed { reply }, EndedBy::Marker)]
                }
                Mark::None => Vec::new(),
            },
            (Some(_), _) | (None, Binding::Anchor) => Vec::new(),
        }
    }

    fn turn_ended(&mut self, turn: Option<&str>, end: TurnEnd, by: EndedBy) -> Vec<Finding> {
        let blank = matches!(&end, TurnEnd::Completed { reply } if reply.is_empty());
        if by == EndedBy::Hook && blank {
            match (&self.turn, turn) {
                (Some(ours), Some(turn)) if ours != turn => {}
                (Some(_), _) => self.told = Some(Told::Ours),
                (None, Some(turn)) => self.told = Some(Told::Named(turn.to_owned())),
                (None, None) => self.told = Some(Told::Early),
            }
            return Vec::new();
        }
        if self.open.as_ref().is_some_and(|(open, _)| turn.is_none_or(|turn| turn == open)) {
            self.open = None;
        }
        match &self.turn {
            Some(ours) if turn.is_none_or(|turn| turn == ours) => {
                let (end, by) = (self.whole(end), if self.is_told_over() { EndedBy::Hook } else { by });
                vec![self.end(end, by)]
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn said_enough(&mut self) -> Option<Finding> {
        match (&self.kind, self.completion) {
            (Kind::Notice { .. }, Completion::Marker | Completion::Quiet) => {
                let reply = self.said.join("\n");
                Some(self.end(TurnEnd::Completed { reply }, EndedBy::Record))
            }
            (Kind::Ask, Completion::Marker) => {
                let Mark::Ours(reply) = self.marked() else { return None };
                Some(self.end(TurnEnd::Completed { reply }, EndedBy::Marker))
            }
            (Kind::Ask, Completion::Record | Completion::Quiet) | (Kind::Notice { .. }, Completion::Record) => None,
        }
    }

    /// Reads our mark off the end of all that was said. Messages are paragraphs, but one may be cut within the mark.
    fn marked(&self) -> Mark {
        let apart = marker::read(&self.said.join("\n"), &self.id);
        if apart == Mark::None && self.said.len() > 1 {
            let (rest, last) = self.said.split_at(self.said.len() - 1);
            return marker::read(&(rest.join("\n") + &last.concat()), &self.id);
        }
        apart
    }

    /// Returns what was said, without our own mark.
    fn text(&self) -> String {
        match self.marked() {
            Mark::Ours(reply) => reply,
            Mark::None => self.said.join("\n"),
        }
    }

    /// Returns a turn's end with the text that we saw, where the end itself has none; without our own mark.
    fn whole(&self, end: TurnEnd) -> TurnEnd {
        let plain = |text: String| match marker::read(&text, &self.id) {
            Mark::Ours(reply) => reply,
            Mark::None => text,
        };
        let or_said = |text: String| if text.is_empty() { self.text() } else { plain(text) };
        match end {
            TurnEnd::Completed { reply } => TurnEnd::Completed { reply: or_said(reply) },
            TurnEnd::Interrupted { partial } => TurnEnd::Interrupted { partial: or_said(partial) },
            TurnEnd::Failed { reason, message, partial } => {
                TurnEnd::Failed { reason, message, partial: or_said(partial) }
            }
            TurnEnd::Quiet { partial } => TurnEnd::Quiet { partial: or_said(partial) },
        }
    }
}

/// Returns what the agent is doing by an observation, where that says more than that a turn goes on or is over.
pub fn doing(seen: &Observation) -> Option<Presence> {
    match seen {
        Observation::Waiting { why } => Some(Presence::Waiting { why: why.clone() }),
        Observation::Retrying { why } => Some(Presence::Busy { why: why.clone() }),
        Observation::TurnBegan { .. }
        | Observation::User { .. }
        | Observation::Agent { .. }
        | Observation::TurnEnded { .. }
        | Observation::SessionChanged { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> RequestId {
        RequestId::new("r1").unwrap()
    }
    fn ask(completion: Completion) -> Delivery {
        Delivery::new(id(), Kind::Ask, completion, Binding::Anchor)
    }
    fn user(text: &str, turn: Option<&str>) -> Observation {
        Observation::User { text: text.into(), client: None, turn: turn.map(str::to_owned) }
    }
    fn ours() -> Observation {
        user("CCB_REQ_ID: r1\n\nx", None)
    }
    fn agent(text: &str) -> Observation {
        Observation::Agent { text: text.into(), turn: None }
    }
    fn ended(turn: Option<&str>, reply: &str) -> Observation {
        let end = TurnEnd::Completed { reply: reply.into() };
        Observation::TurnEnded { turn: turn.map(str::to_owned), end }
    }
    fn completed(reply: &str, by: EndedBy) -> Vec<Finding> {
        vec![Finding::Ended(TurnEnd::Completed { reply: reply.into() }, by)]
    }
    /// Feeds a delivery from the records, and returns what it finds.
    fn feed(delivery: &mut Delivery, all: impl IntoIterator<Item = Observation>) -> Vec<Finding> {
        all.into_iter().flat_map(|seen| delivery.take(seen, EndedBy::Record)).collect()
    }

    #[test]
    fn only_what_follows_our_anchor_counts() {
        let mut at = ask(Completion::Marker);
        let before = [agent("old\nCCB_DONE: r1"), user("CCB_REQ_ID: r2\n\nx", None), ended(None, "old")];
        assert_eq!(feed(&mut at, before), []);
        assert_eq!(feed(&mut at, [ours()]), [Finding::Consumed]);
        assert_eq!(feed(&mut at, [agent("part one\nCCB_DONE: r2")]), []);
        let whole = "part one\nCCB_DONE: r2\npart two";
        assert_eq!(feed(&mut at, [agent("part two\nCCB_DONE: r1")]), completed(whole, EndedBy::Marker));
        assert_eq!(feed(&mut at, [agent("more"), ended(None, "again")]), [], "over is over");
    }

    #[test]
    fn a_mark_may_come_in_a_message_of_its_own_or_be_cut_in_two() {
        for parts in
            [["the answer", "CCB_DONE: r1"], ["the answer\nCCB_DO", "NE: r1"], ["the answer\nCCB_DONE: ", "r1\n"]]
        {
            let mut at = ask(Completion::Marker);
            let found = feed(&mut at, [ours(), agent(parts[0]), agent(parts[1])]);
            assert_eq!(found[1..], completed("the answer", EndedBy::Marker), "{parts:?}");
        }
    }

    #[test]
    fn a_humans_input_in_the_turn_is_told_once() {
        let mut at = ask(Completion::Marker);
        let found = feed(&mut at, [ours(), user("and mine", None), user("more", None), ours()]);
        assert_eq!(found, [Finding::Consumed, Finding::Mixed]);
        let mut at = ask(Completion::Record);
        let began = Observation::TurnBegan { turn: Some("t1".into()) };
        assert_eq!(feed(&mut at, [began, user("a human's", None), ours()]), [Finding::Consumed]);
        assert!(at.is_mixed(), "it was taken into a turn that a human had begun");
        assert_eq!(at.turn(), Some("t1"));
    }

    #[test]
    fn a_turn_of_another_id_is_not_ours() {
        let mut at = ask(Completion::Record);
        feed(&mut at, [user("CCB_REQ_ID: r1\n\nx", Some("t1")), user("elsewhere", Some("t2"))]);
        assert!(!at.is_mixed());
        assert_eq!(feed(&mut at, [ended(Some("t0"), "no")]), []);
        assert_eq!(feed(&mut at, [ended(Some("t1"), "42")]), completed("42", EndedBy::Record));
    }

    #[test]
    fn an_end_without_a_text_takes_what_was_said() {
        let said = || [ours(), agent("one"), agent("two\nCCB_DONE: r1")];
        let failed = TurnEnd::Failed { reason: Failure::Overloaded, message: "529".into(), partial: String::new() };
        for (end, want) in [
            (TurnEnd::Completed { reply: String::new() }, TurnEnd::Completed { reply: "one\ntwo".into() }),
            (TurnEnd::Interrupted { partial: String::new() }, TurnEnd::Interrupted { partial: "one\ntwo".into() }),
            (
                failed,
                TurnEnd::Failed { reason: Failure::Overloaded, message: "529".into(), partial: "one\ntwo".into() },
            ),
        ] {
            let mut at = ask(Completion::Record);
            feed(&mut at, said());
            let found = feed(&mut at, [Observation::TurnEnded { turn: None, end }]);
            assert_eq!(found, [Finding::Ended(want, EndedBy::Record)]);
        }
    }

    #[test]
    fn a_hooks_end_waits_for_the_text() {
        let mut at = ask(Completion::Record);
        feed(&mut at, [ours(), agent("let me look")]);
        assert_eq!(at.take(ended(None, ""), EndedBy::Hook), []);
        assert!(at.is_told_over());
        assert_eq!(feed(&mut at, [agent("42")]), []);
        assert_eq!(at.close(), completed("let me look\n42", EndedBy::Hook).pop());
        assert_eq!(at.close(), None);
    }

    #[test]
    fn a_hooks_end_before_our_anchor_is_ours_only_if_it_says_so_or_an_answer_is_there() {
        let told = |turn: Option<&str>, seen: &[Observation]| {
            let mut at = ask(Completion::Record);
            at.take(ended(turn, ""), EndedBy::Hook);
            assert!(!at.is_told_over() && at.close().is_none());
            feed(&mut at, seen.iter().cloned());
            at.is_told_over()
        };
        let named = user("CCB_REQ_ID: r1\n\nx", Some("t1"));
        assert!(told(Some("t1"), std::slice::from_ref(&named)));
        assert!(!told(Some("t0"), &[named.clone(), agent("42")]));
        assert!(!told(None, &[ours()]));
        assert!(told(None, &[ours(), agent("42")]));
    }

    #[test]
    fn what_ends_with_the_session_or_the_program_keeps_its_text() {
        let change = || Observation::SessionChanged { session: "s2".into() };
        let mut at = ask(Completion::Marker);
        assert_eq!(feed(&mut at, [change()]), [], "nothing was taken yet");
        let found = feed(&mut at, [ours(), agent("half"), change(), agent("CCB_DONE: r1")]);
        assert_eq!(found[1..], [Finding::Ended(TurnEnd::Interrupted { partial: "half".into() }, EndedBy::Record)]);
        let mut at = ask(Completion::Marker);
        assert_eq!(at.gone("killed"), None);
        feed(&mut at, [ours(), agent("half")]);
        let end = TurnEnd::Failed { reason: Failure::AgentGone, message: "killed".into(), partial: "half".into() };
        assert_eq!(at.gone("killed"), Some(Finding::Ended(end, EndedBy::Record)));
    }

    #[test]
    fn an_end_that_comes_after_silence_is_found_all_the_same() {
        let quiet = |completion| {
            let mut at = ask(completion);
            feed(&mut at, [ours(), agent("one")]);
            assert!(at.may_fall_quiet());
            let end = TurnEnd::Quiet { partial: "one".into() };
            assert_eq!(at.silent(false), Some(Finding::Ended(end, EndedBy::Quiet)));
            assert!(!at.may_fall_quiet() && at.silent(false).is_none() && at.gone("x").is_none());
            at
        };
        let mut at = quiet(Completion::Marker);
        assert_eq!(
            feed(&mut at, [agent("two"), agent("three\nCCB_DONE: r1"), agent("x\nCCB_DONE: r1")]),
            completed("one\ntwo\nthree", EndedBy::Marker)
        );
        let mut at = quiet(Completion::Quiet);
        assert_eq!(feed(&mut at, [ended(None, "")]), completed("one", EndedBy::Record));
        let mut at = quiet(Completion::Marker);
        let others = [user("a human's", None), agent("to the human"), ended(None, "to the human")];
        assert_eq!(feed(&mut at, others), []);
        assert_eq!(feed(&mut at, [agent("mine\nCCB_DONE: r1")]), completed("mine", EndedBy::Marker));
        let mut at = quiet(Completion::Marker);
        let change = Observation::SessionChanged { session: "s2".into() };
        assert_eq!(feed(&mut at, [change, agent("mine\nCCB_DONE: r1")]), []);
    }

    #[test]
    fn a_notice_is_over_with_the_agents_next_words() {
        let kind = Kind::Notice { of: RequestId::new("r0").unwrap() };
        let mut at = Delivery::new(id(), kind, Completion::Marker, Binding::Anchor);
        let found = feed(&mut at, [user("CCB_REQ_ID: r1\n\n[CCB_TASK_COMPLETED]", None), agent("noted")]);
        assert_eq!(found[1..], completed("noted", EndedBy::Record));
    }

    #[test]
    fn where_no_input_is_kept_only_our_mark_binds() {
        let mut at = Delivery::new(id(), Kind::Ask, Completion::Marker, Binding::Mark);
        assert_eq!(feed(&mut at, [agent("no mark"), agent("x\nCCB_DONE: r2"), ended(None, "y")]), []);
        assert!(!at.may_fall_quiet() && at.silent(false).is_none(), "nobody knows whose words they are");
        let found = feed(&mut at, [agent("mine\nCCB_DONE: r1")]);
        assert_eq!(found[0], Finding::Consumed);
        assert_eq!(found[1..], completed("mine", EndedBy::Marker));
    }

    fn anything() -> impl Strategy<Value = (Observation, EndedBy)> {
        let turn = || proptest::option::of(prop_oneof![Just("t1".to_owned()), Just("t2".to_owned())]);
        let text = || {
            prop_oneof![
                Just(String::new()),
                Just("words".to_owned()),
                Just("a\nCCB_DONE: r1".to_owned()),
                Just("a\nCCB_DONE: r2".to_owned()),
                Just("CCB_REQ_ID: r1\n\nx".to_owned()),
                Just("CCB_REQ_ID: r2\n\nx".to_owned()),
            ]
        };
        let seen = prop_oneof![
            turn().prop_map(|turn| Observation::TurnBegan { turn }),
            (text(), turn()).prop_map(|(text, turn)| Observation::User { text, client: None, turn }),
            (text(), turn()).prop_map(|(text, turn)| Observation::Agent { text, turn }),
            (turn(), text())
                .prop_map(|(turn, reply)| Observation::TurnEnded { turn, end: TurnEnd::Completed { reply } }),
            turn()
                .prop_map(|turn| Observation::TurnEnded { turn, end: TurnEnd::Interrupted { partial: String::new() } }),
            Just(Observation::SessionChanged { session: "s2".into() }),
            Just(Observation::Waiting { why: "?".into() }),
        ];
        (seen, prop_oneof![Just(EndedBy::Record), Just(EndedBy::Hook)])
    }

    proptest! {
        /// Whatever comes in whatever order: taken once, ended once, the end after the taking, and nothing before our
        /// anchor (or mark) is ever in the answer.
        #[test]
        fn a_delivery_is_taken_once_and_ends_once(
            all in proptest::collection::vec(anything(), 0..14),
            marked: bool,
            completion in prop_oneof![Just(Completion::Marker), Just(Completion::Record), Just(Completion::Quiet)],
        ) {
            let binding = if marked { Binding::Mark } else { Binding::Anchor };
            let mut at = Delivery::new(id(), Kind::Ask, completion, binding);
            let (mut taken, mut ends, mut anchor) = (0, 0, false);
            for (seen, by) in all {
                anchor |= matches!(&seen, Observation::User { text, .. } if prompt::anchored(text, &id()));
                let mark = matches!(&seen, Observation::Agent { text, .. } if marker::read(text, &id()) != Mark::None);
                for finding in at.take(seen, by) {
                    match finding {
                        Finding::Consumed => {
                            taken += 1;
                            prop_assert!(anchor || (marked && mark));
                        }
                        Finding::Mixed => prop_assert!(taken == 1 && ends == 0),
                        Finding::Ended(..) => {
                            ends += 1;
                            prop_assert_eq!(taken, 1);
                        }
                    }
                }
                prop_assert!(taken <= 1 && ends <= 1);
                prop_assert_eq!((at.turn().is_some(), at.is_over()), (taken == 1, ends == 1));
            }
            let more = usize::from(at.silent(false).is_some()) + usize::from(at.gone("x").is_some());
            prop_assert_eq!(ends + more, taken, "whatever was taken ends");
        }
    }
}
