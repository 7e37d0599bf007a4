//! Who is connected, how many may be, and whom to close when there is no room. The choices are pure.
//!
//! A connection is a stranger until it has shaken hands. Strangers are few; when one more comes, the oldest silent one
//! of the process that holds most of them goes. Of those who are known, one that neither waits nor is being served
//! goes first: a live client reconnects by itself.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::engine::log;

/// The most descriptors that askd asks for. What it starts inherits the limit, and a limit of a million makes
/// programs slow that close all they could have open.
const ENOUGH: u64 = 4096;

/// How many places of the known are kept for keepers and panes' runners.
const FOR_KEPT: usize = 4;

/// A waiting connection is closed for another only if its process holds more than this many.
const CROWD: usize = 8;

/// How long the closing of a stranger is waited for.
const LEAVING: Duration = Duration::from_millis(100);

/// How the descriptors are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// For connections that have not shaken hands.
    pub(crate) strangers: usize,
    /// For those that have.
    pub(crate) known: usize,
    /// For requests over TCP.
    pub(crate) tcp: usize,
}

impl Budget {
    /// Divides `limit` descriptors. What is not given away is for the store, logs, transports, and commands' pipes.
    pub(crate) fn of(limit: usize) -> Self {
        let own = (limit / 4).clamp(24, 256);
        let strangers = (limit / 8).clamp(4, 64);
        let tcp = (limit / 16).clamp(2, 64);
        // One more is the connection that is being accepted.
        let known = limit.saturating_sub(own + strangers + tcp + 1).clamp(FOR_KEPT + 4, 2048);
        Self { strangers, known, tcp }
    }

    /// Raises the limit of descriptors as far as it is allowed and of use, and divides what there is then.
    pub(crate) fn take() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
        let mut limit = current.unwrap_or(ENOUGH);
        if limit < wanted {
            match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
                Ok(()) => limit = wanted,
                Err(error) => log(&format!("the limit of {limit} descriptors cannot be raised: {error}")),
            }
        }
        Self::of(usize::try_from(limit.min(ENOUGH)).unwrap_or(1024))
    }
}

/// What a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has not shaken hands.
    Stranger,
    /// A client.
    Client,
    /// A request over TCP.
    Tcp,
    /// A keeper, a pane's runner, or another whose life counts: never closed for somebody else.
    Kept,
}

/// A connection, as far as the choice goes.
#[derive(Debug)]
pub(crate) struct Seat {
    pid: u32,
    standing: Standing,
    waits: usize,
    busy: bool,
    leaving: bool,
    /// The order of the last sign of life.
    last: u64,
    told: Arc<Notify>,
}

/// Returns whom of that standing to close, by number.
fn whom(seats: &BTreeMap<u64, Seat>, standing: Standing) -> Option<u64> {
    let of = || seats.iter().filter(move |(_, seat)| seat.standing == standing && !seat.leaving);
    let mut held: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, seat) in of() {
        *held.entry(seat.pid).or_default() += 1;
    }
    let rank = |(_, seat): &(&u64, &Seat)| (held[&seat.pid], Reverse(seat.last));
    let idle = of().filter(|(_, seat)| !seat.busy && seat.waits == 0).max_by_key(rank);
    let crowd = || of().filter(|(_, seat)| !seat.busy && held[&seat.pid] > CROWD).max_by_key(rank);
    idle.or_else(crowd).map(|(number, _)| *number)
}

/// All connections.
pub(crate) struct Guests {
    budget: Budget,
    table: Mutex<Table>,
    left: Notify,
}

#[derive(Default)]
struct Table {
    seats: BTreeMap<u64, Seat>,
    numbers: u64,
    order: u64,
}

impl Table {
    fn count(&self, fits: impl Fn(&Seat) -> bool) -> usize {
        self.seats.values().filter(|seat| fits(seat)).count()
    }

    fn sign_of_life(&mut self, number: u64, change: impl FnOnce(&mut Seat)) {
        self.order += 1;
        let order = self.order;
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.last = order;
            change(seat);
        }
    }

    /// Has one of that standing go; false if nobody can.
    fn close_one(&mut self, standing: Standing) -> bool {
        let Some(number) = whom(&self.seats, standing) else { return false };
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.leaving = true;
            seat.told.notify_one();
        }
        true
    }
}

impl Guests {
    /// Returns an empty house with these places.
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, table: Mutex::default(), left: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a connection of that process, as a stranger.
    pub(crate) fn enter(self: &Arc<Self>, pid: u32) -> Guest {
        let mut table = self.lock();
        table.numbers += 1;
        table.order += 1;
        let (number, last, told) = (table.numbers, table.order, Arc::new(Notify::new()));
        let standing = Standing::Stranger;
        table
            .seats
            .insert(number, Seat { pid, standing, waits: 0, busy: false, leaving: false, last, told: told.clone() });
        Guest { guests: self.clone(), number, told }
    }

    /// Waits until there are no more strangers than may be: for those that are told to go, never for one of them to
    /// do something.
    pub(crate) async fn make_room(&self) {
        loop {
            {
                let mut table = self.lock();
                let there = table.count(|seat| seat.standing == Standing::Stranger);
                if there <= self.budget.strangers {
                    return;
                }
                let leaving = table.count(|seat| seat.standing == Standing::Stranger && seat.leaving);
                if there - leaving > self.budget.strangers {
                    table.close_one(Standing::Stranger);
                }
            }
            if tokio::time::timeout(LEAVING, self.left.notified()).await.is_err() {
                return;
            }
        }
    }

    /// The system has no descriptor left: somebody has to go, however the budget stands.
    pub(crate) fn relieve(&self) {
        let mut table = self.lock();
        let _anybody = table.close_one(Standing::Stranger) || table.close_one(Standing::Client);
    }
}

/// A connection's place in the house; given back when it is dropped.
pub(crate) struct Guest {
    guests: Arc<Guests>,
    number: u64,
    told: Arc<Notify>,
}

impl Guest {
    /// Returns the connection's number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Gives the stranger a standing; false if there is no room for it.
    pub(crate) fn admit(&self, standing: Standing) -> bool {
        let budget = self.guests.budget;
        let mut table = self.guests.lock();
        let known = table.count(|seat| matches!(seat.standing, Standing::Client | Standing::Kept) && !seat.leaving);
        let fits = match standing {
            Standing::Stranger => true,
            Standing::Client => known < budget.known - FOR_KEPT || table.close_one(Standing::Client),
            Standing::Kept => known < budget.known || table.close_one(Standing::Client),
            // Each of them waits for its answer, and nobody knows whose process it is.
            Standing::Tcp => table.count(|seat| seat.standing == Standing::Tcp) < budget.tcp,
        };
        if fits {
            table.sign_of_life(self.number, |seat| {
                seat.standing = standing;
                // Whoever was told to go as a stranger has spoken in time.
                seat.leaving = false;
            });
            self.guests.left.notify_one();
        }
        fits
    }

    /// Notes whether a call of it is being served.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.guests.lock().sign_of_life(self.number, |seat| seat.busy = busy);
    }

    /// Waits for `next` until the connection is to go; what is there already by then is still taken.
    pub(crate) async fn while_welcome<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(next);
        tokio::select! {
            biased;
            there = &mut next => return Some(there),
            () = self.told() => {}
        }
        tokio::select! {
            biased;
            there = &mut next => Some(there),
            () = std::future::ready(()) => None,
        }
    }

    /// Returns when it is to go.
    async fn told(&self) {
        loop {
            self.told.notified().await;
            // A stranger that has spoken in time has been told for nothing.
            if self.is_leaving() {
                break;
            }
        }
        // Whatever has come by now is seen before anything else happens.
        tokio::task::yield_now().await;
    }

    /// Returns whether it has been told to go.
    pub(crate) fn is_leaving(&self) -> bool {
        self.guests.lock().seats.get(&self.number).is_some_and(|seat| seat.leaving)
    }

    /// Notes that it waits for an answer, until what is returned is dropped.
    pub(crate) fn waits(&self) -> Waits {
        self.guests.lock().sign_of_life(self.number, |seat| seat.waits += 1);
        Waits { guests: self.guests.clone(), number: self.number }
    }

    /// Returns how many answers it waits for.
    pub(crate) fn open_waits(&self) -> usize {
        self.guests.lock().seats.get(&self.number).map_or(0, |seat| seat.waits)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.lock().seats.remove(&self.number);
        self.guests.left.notify_one();
    }
}

/// A connection waits for an answer.
pub(crate) struct Waits {
    guests: Arc<Guests>,
    number: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.guests.lock().sign_of_life(self.number, |seat| seat.waits = seat.waits.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads seats, one a word: `<number>:<pid><s|c|k|t>[w][b][l]`, the longest silent first.
    fn seats(text: &str) -> BTreeMap<u64, Seat> {
        let seat = |(order, word): (usize, &str)| {
            let (number, rest) = word.split_once(':').unwrap();
            let flags = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let standing = match &flags[..1] {
                "s" => Standing::Stranger,
                "c" => Standing::Client,
                "t" => Standing::Tcp,
                _ => Standing::Kept,
            };
            let seat = Seat {
                pid: rest[..rest.len() - flags.len()].parse().unwrap(),
                standing,
                waits: usize::from(flags.contains('w')),
                busy: flags.contains('b'),
                leaving: flags.contains('l'),
                last: order as u64,
                told: Arc::default(),
            };
            (number.parse().unwrap(), seat)
        };
        text.split(' ').enumerate().map(seat).collect()
    }

    #[test]
    fn whom_to_close() {
        let crowd = " 1:7cw 2:7cw 3:7cw 4:7cw 5:7cw 6:7cw 7:7cw 8:7cw 9:7cw";
        let table = [
            // The oldest stranger; but of the process that holds most.
            ("1:7s 2:8s", Standing::Stranger, Some(1)),
            ("1:7s 2:8s 3:8s", Standing::Stranger, Some(2)),
            // Who has spoken last goes last, whatever its number.
            ("5:8s 2:8s", Standing::Stranger, Some(5)),
            // One that goes already is not told twice, and does not make its process the greatest.
            ("1:8sl 2:7s 3:8s", Standing::Stranger, Some(2)),
            ("1:8sl", Standing::Stranger, None),
            // Of clients: none that waits or is being served; never one that is kept, never another kind.
            ("1:7cw 2:7cb 3:8c", Standing::Client, Some(3)),
            ("1:7k 2:7s 3:7cw", Standing::Client, None),
            ("1:7k 2:7t", Standing::Tcp, Some(2)),
            // One that waits goes only if its process holds a crowd.
            (&crowd[1..], Standing::Client, Some(1)),
            (&crowd[7..], Standing::Client, None),
        ];
        for (text, standing, want) in table {
            assert_eq!(whom(&seats(text), standing), want, "{text}");
        }
    }

    #[test]
    fn descriptors_are_divided_with_a_reserve() {
        let table = [(64, (8, 27, 4)), (256, (32, 143, 16)), (1024, (64, 639, 64)), (4096, (64, 2048, 64))];
        for (limit, want) in table {
            let budget = Budget::of(limit);
            assert_eq!((budget.strangers, budget.known, budget.tcp), want, "{limit}");
            assert!(limit - budget.strangers - budget.known - budget.tcp > 24, "{limit}");
        }
    }

    #[test]
    fn a_client_that_comes_when_all_wait_is_refused_and_a_keeper_is_not() {
        let guests = Arc::new(Guests::new(Budget { strangers: 4, known: FOR_KEPT + 2, tcp: 1 }));
        let waiting: Vec<_> = (1..=2).map(|pid| guests.enter(pid)).collect();
        let waits: Vec<_> = waiting.iter().map(|guest| (guest.admit(Standing::Client), guest.waits())).collect();
        assert!(waits.iter().all(|(admitted, _)| *admitted));
        assert!(!guests.enter(9).admit(Standing::Client) && guests.enter(9).admit(Standing::Kept));
        drop(waits);
        let last = guests.enter(9);
        assert!(last.admit(Standing::Client) && waiting[0].is_leaving() && !waiting[1].is_leaving());
    }
}
