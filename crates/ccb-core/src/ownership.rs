//! Whose daemon it is: the rules by which a project's instances own it, attach to it, and inherit it.
//!
//! At any time it has one owner or none. A living owner is displaced only by force, and a daemon never ends or is
//! restarted because somebody came. What a process is, and whether it is alive, is for others to say: here it is
//! a value of type `P`.

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// What an owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A running `ccb` that shows the agents.
    Launcher,
    /// The process that `CCB_PARENT_PID` named when the daemon was started.
    Parent,
    /// The project's own terminal session, while no instance is there.
    Session,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance<P> {
    /// Its process.
    pub process: P,
    /// What it is.
    pub kind: Kind,
    /// When it came.
    pub since: Time,
    /// Whether it came with force.
    pub forced: bool,
    /// Its place in the order of coming.
    order: u64,
}

impl<P> Instance<P> {
    /// Returns an instance that is about to come.
    pub fn new(process: P, kind: Kind, since: Time, forced: bool) -> Self {
        Self { process, kind, since, forced, order: 0 }
    }
}

/// Who owns a daemon, and who is attached to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership<P> {
    /// The owner among the instances.
    owner: Option<Instance<P>>,
    /// The other instances, in the order of their coming.
    attached: Vec<Instance<P>>,
    /// The project's own session: the owner while there is no instance.
    session: Option<Instance<P>>,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<P> {
    /// Nothing: the instance was known, or was not.
    Nothing,
    /// It had no owner (or only a session): now the one who came owns it.
    Adopted,
    /// Its owner was dead: now the one who came owns it.
    TookOver {
        /// Who was the owner.
        from: P,
    },
    /// The one who came owns it by force; the owner before is attached.
    Forced {
        /// Who was the owner.
        from: P,
    },
    /// The one who came is attached: another lives that owns it.
    Attached,
    /// The owner has gone, and the oldest of the attached owns it.
    PassedTo {
        /// Who was the owner.
        from: P,
        /// Who owns it now.
        to: P,
    },
    /// One of the attached has gone.
    Left,
    /// The last instance has gone; at the most the session is left.
    LastGone {
        /// Who was the owner.
        from: P,
    },
    /// The project's own session has begun; it owns the daemon while no instance does.
    SessionBegan,
    /// The project's own session has ended.
    SessionEnded,
}

impl<P> Change<P> {
    /// Returns the living owner from whom it was taken by force, if it was.
    pub fn displaced(&self) -> Option<&P> {
        match self {
            Self::Forced { from } => Some(from),
            Self::Nothing
            | Self::Adopted
            | Self::TookOver { .. }
            | Self::Attached
            | Self::PassedTo { .. }
            | Self::Left
            | Self::LastGone { .. }
            | Self::SessionBegan
            | Self::SessionEnded => None,
        }
    }
}

impl<P> Default for Ownership<P> {
    fn default() -> Self {
        Self { owner: None, attached: Vec::new(), session: None }
    }
}

impl<P: Clone + PartialEq> Ownership<P> {
    /// Returns who owns the daemon: an instance, else the session.
    pub fn owner(&self) -> Option<&Instance<P>> {
        self.owner.as_ref().or(self.session.as_ref())
    }

    /// Returns who is attached, in the order of their coming.
    pub fn attached(&self) -> &[Instance<P>] {
        &self.attached
    }

    /// Returns whether an instance (and not only a session) owns the daemon: then it does not end by itself.
    pub fn is_held(&self) -> bool {
        self.owner.is_some()
    }

    /// Returns every process that counts, to be watched for its end.
    pub fn processes(&self) -> impl Iterator<Item = &P> {
        self.owner.iter().chain(&self.attached).chain(&self.session).map(|instance| &instance.process)
    }

    /// An instance has come, or has come again. Those that are not alive any more are dropped first.
    ///
    /// One that comes again keeps its place; with force it takes the ownership only from an owner that has not used
    /// force itself, so that two forced instances do not take it from each other for ever.
    pub fn came(&mut self, mut instance: Instance<P>, is_alive: impl Fn(&P) -> bool) -> Change<P> {
        let dead_owner = self.owner.as_ref().filter(|owner| !is_alive(&owner.process)).map(|o| o.process.clone());
        self.restored(is_alive);
        if let Some(owner) = self.owner.as_mut().filter(|owner| owner.process == instance.process) {
            owner.forced |= instance.forced;
            return Change::Nothing;
        }
        let known = self.attached.iter().position(|known| known.process == instance.process);
        let again = known.is_some();
        if let Some(known) = known.map(|place| self.attached.remove(place)) {
            instance = Instance { forced: known.forced || instance.forced, ..known };
        } else {
            let orders = self.owner.iter().chain(&self.attached).map(|instance| instance.order);
            instance.order = orders.max().unwrap_or(0) + 1;
        }
        let yields = |owner: &Instance<P>| instance.forced && !(again && owner.forced);
        match self.owner.take() {
            None => {
                self.owner = Some(instance);
                dead_owner.map_or(Change::Adopted, |from| Change::TookOver { from })
            }
            Some(former) if yields(&former) => {
                let from = former.process.clone();
                self.owner = Some(instance);
                self.insert(former);
                Change::Forced { from }
            }
            Some(owner) => {
                self.owner = Some(owner);
                self.insert(instance);
                if again { Change::Nothing } else { Change::Attached }
            }
        }
    }

    /// A process has ended, or its instance has said that it goes.
    pub fn gone(&mut self, process: &P) -> Change<P> {
        if self.session.take_if(|session| session.process == *process).is_some() {
            return Change::SessionEnded;
        }
        if let Some(owner) = self.owner.take_if(|owner| owner.process == *process) {
            let from = owner.process;
            if self.attached.is_empty() {
                return Change::LastGone { from };
            }
            let heir = self.attached.remove(0);
            let to = heir.process.clone();
            self.owner = Some(heir);
            return Change::PassedTo { from, to };
        }
        let before = self.attached.len();
        self.attached.retain(|known| known.process != *process);
        if self.attached.len() < before { Change::Left } else { Change::Nothing }
    }

    /// Drops all that are not alive, and returns what came of it, in the order in which it happened.
    pub fn restored(&mut self, is_alive: impl Fn(&P) -> bool) -> Vec<Change<P>> {
        // The attached first, so that none of the dead inherits.
        let all = self.attached.iter().chain(&self.owner).chain(&self.session).map(|one| &one.process);
        let dead: Vec<P> = all.filter(|process| !is_alive(process)).cloned().collect();
        dead.iter().map(|process| self.gone(process)).collect()
    }

    /// The project's own session runs as this process now.
    pub fn session(&mut self, process: P, since: Time) -> Change<P> {
        if self.session.as_ref().is_some_and(|session| session.process == process) {
            return Change::Nothing;
        }
        self.session = Some(Instance::new(process, Kind::Session, since, false));
        Change::SessionBegan
    }

    fn insert(&mut self, instance: Instance<P>) {
        let place = self.attached.partition_point(|known| known.order < instance.order);
        self.attached.insert(place, instance);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Owned = Ownership<u8>;

    fn instance(process: u8, forced: bool) -> Instance<u8> {
        Instance::new(process, Kind::Launcher, Time(process.into()), forced)
    }

    /// Plays a story: `3` comes, `3!` comes with force, `-3` goes, `x3` dies unseen, `s3` is the session, `r` a
    /// restart; returns what happened last, and who owns and who is attached in the end.
    fn story(words: &str) -> (Change<u8>, String) {
        let mut owned = Owned::default();
        let mut dead = BTreeSet::new();
        let mut last = Change::Nothing;
        for word in words.split_whitespace() {
            let number: u8 = word.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
            let alive = |process: &u8| !dead.contains(process);
            last = match (&word[..1], word.ends_with('!')) {
                ("-", _) => owned.gone(&number),
                ("s", _) => owned.session(number, Time(0)),
                ("r", _) => owned.restored(alive).pop().unwrap_or(Change::Nothing),
                ("x", _) => {
                    dead.insert(number);
                    continue;
                }
                (_, forced) => owned.came(instance(number, forced), alive),
            };
            let text = serde_json::to_string(&owned).unwrap();
            assert_eq!(serde_json::from_str::<Owned>(&text).unwrap(), owned);
        }
        let attached: Vec<String> = owned.attached().iter().map(|one| one.process.to_string()).collect();
        let holder = owned.owner().map_or("-".to_owned(), |owner| owner.process.to_string());
        (last, format!("{holder} {}", attached.join(" ")).trim_end().to_owned())
    }

    #[test]
    fn the_table_of_situations() {
        let table = [
            ("1", Change::Adopted, "1"),
            ("1 1", Change::Nothing, "1"),
            ("1 2", Change::Attached, "1 2"),
            ("1 x1 2", Change::TookOver { from: 1 }, "2"),
            ("1 2 x1 3", Change::Attached, "2 3"),
            ("1 2 x1 2", Change::Nothing, "2"),
            ("1 2!", Change::Forced { from: 1 }, "2 1"),
            ("1! 2!", Change::Forced { from: 1 }, "2 1"),
            // A forced one that comes again does not take it from another forced one, but from any other.
            ("1! 2! 1!", Change::Nothing, "2 1"),
            ("1 2 2!", Change::Forced { from: 1 }, "2 1"),
            ("1! 2! 1! 2!", Change::Nothing, "2 1"),
            ("1 2 3 -1", Change::PassedTo { from: 1, to: 2 }, "2 3"),
            ("1 2 3 -2", Change::Left, "1 3"),
            // Who was forced out comes back to its place in the order.
            ("1 2 3 4! -4", Change::PassedTo { from: 4, to: 1 }, "1 2 3"),
            ("1 2 3! -1 1 -3", Change::PassedTo { from: 3, to: 2 }, "2 1"),
            ("1 -1", Change::LastGone { from: 1 }, "-"),
            ("1 -2", Change::Nothing, "1"),
            ("s9", Change::SessionBegan, "9"),
            ("s9 s9", Change::Nothing, "9"),
            ("s9 1", Change::Adopted, "1"),
            ("s9 1 -1", Change::LastGone { from: 1 }, "9"),
            ("s9 1 -9", Change::SessionEnded, "1"),
            ("s9 -9", Change::SessionEnded, "-"),
            ("1 s9 s8 -1", Change::LastGone { from: 1 }, "8"),
            // After a restart.
            ("1 2 3 r", Change::Nothing, "1 2 3"),
            ("1 2 3 x1 x2 r", Change::PassedTo { from: 1, to: 3 }, "3"),
            ("1 2 x1 x2 r", Change::LastGone { from: 1 }, "-"),
            ("s9 1 x1 x9 r", Change::SessionEnded, "-"),
        ];
        for (words, change, end) in table {
            assert_eq!(story(words), (change, end.to_owned()), "{words}");
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Came(u8, bool),
        Gone(u8),
        Died(u8),
        Session(u8),
        Restart,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let process = 1u8..6;
        let event = prop_oneof![
            4 => (process.clone(), any::<bool>()).prop_map(|(process, force)| Event::Came(process, force)),
            2 => process.clone().prop_map(Event::Gone),
            1 => process.prop_map(Event::Died),
            1 => (20u8..22).prop_map(Event::Session),
            1 => Just(Event::Restart),
        ];
        proptest::collection::vec(event, 0..40)
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes(events in events()) {
            let mut owned = Owned::default();
            // Who is there, in the order of coming; and who of them has died without a word.
            let (mut there, mut dead) = (Vec::<u8>::new(), BTreeSet::new());
            for event in events {
                let before = owned.clone();
                let alive = |process: &u8| !dead.contains(process);
                let owner_lives = before.owner.as_ref().is_some_and(|owner| alive(&owner.process));
                match event {
                    // A number that has died is another process when it comes back: not a case for the rules.
                    Event::Came(process, _) if dead.contains(&process) => continue,
                    Event::Came(process, force) => {
                        let forced_again = owner_lives
                            && there.contains(&process)
                            && before.owner.as_ref().is_some_and(|owner| owner.forced);
                        let change = owned.came(instance(process, force), alive);
                        there.retain(alive);
                        if !there.contains(&process) {
                            there.push(process);
                        }
                        if let Change::Forced { from } = change {
                            prop_assert!(!forced_again, "two forced ones take it from each other");
                            prop_assert!(owned.attached.iter().any(|one| one.process == from));
                        } else if owner_lives {
                            prop_assert_eq!(owned.owner().map(|o| o.process), before.owner().map(|o| o.process));
                        }
                    }
                    Event::Gone(process) => {
                        let change = owned.gone(&process);
                        there.retain(|one| *one != process);
                        if let Change::PassedTo { from, to } = change {
                            prop_assert_eq!(from, process);
                            prop_assert_eq!(Some(to), before.attached.first().map(|one| one.process));
                        }
                    }
                    Event::Died(process) => {
                        dead.insert(process);
                        continue;
                    }
                    Event::Session(process) => drop(owned.session(process, Time(0))),
                    Event::Restart => {
                        owned.restored(alive);
                        there.retain(alive);
                    }
                }
                // Each that is there is there once, as owner or attached; there is an owner if anybody is there.
                let mut all: Vec<u8> = owned.owner.iter().chain(&owned.attached).map(|one| one.process).collect();
                let orders: Vec<u64> = owned.attached.iter().map(|one| one.order).collect();
                prop_assert!(orders.is_sorted());
                prop_assert_eq!(owned.is_held(), !there.is_empty());
                all.sort_unstable();
                let mut want = there.clone();
                want.sort_unstable();
                prop_assert_eq!(all, want);
            }
            for process in there {
                owned.gone(&process);
            }
            prop_assert!(!owned.is_held() && owned.attached().is_empty());
            prop_assert!(owned.owner().is_none_or(|owner| owner.kind == Kind::Session));
        }
    }
}
