//! The engine's timers: one task that sleeps until the next of them and does nothing otherwise.
//!
//! A machine that sleeps lets deadlines pass: they ring as soon as it is awake. What an agent should have done by then
//! it could not do meanwhile: for that, only the time counts in which the machine was awake.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ccb_core::id::RequestId;
use ccb_core::step::{Input, Timer};
use ccb_core::time::Time;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::clock::Clock;
use crate::engine::Engine;

/// What the timers are told.
#[derive(Debug)]
pub(crate) enum Arm {
    /// Come back at that moment.
    At(RequestId, Timer, Time),
    /// The request is over, and what became of it at its agent is known or not: only in the latter case
    /// anything of it is still worth looking into.
    Over {
        /// Which.
        id: RequestId,
        /// Whether its turn is known.
        known: bool,
    },
}

/// How much sleep (ms) is more than two clocks that are read one after the other.
const NAP: i64 = 1000;

/// How often the time is looked at that a test may change.
const SKEWED: Duration = Duration::from_millis(100);

/// The timers that are set.
#[derive(Default)]
struct Due {
    /// When each rings, and how long the machine had slept when it was set.
    all: BTreeMap<(Time, RequestId, Timer), i64>,
    armed: BTreeMap<RequestId, BTreeSet<(Timer, Time)>>,
}

impl Due {
    fn set(&mut self, id: RequestId, timer: Timer, at: Time, slept: i64) {
        self.armed.entry(id.clone()).or_default().insert((timer, at));
        self.all.insert((at, id, timer), slept);
    }

    fn over(&mut self, id: RequestId, known: bool) {
        let timers = self.armed.remove(&id).unwrap_or_default();
        let kept = |timer: Timer| timer == Timer::Orphan || (timer == Timer::Proof && !known);
        for (timer, at) in &timers {
            if !kept(*timer) {
                self.all.remove(&(*at, id.clone(), *timer));
            }
        }
        let timers: BTreeSet<(Timer, Time)> = timers.into_iter().filter(|(timer, _)| kept(*timer)).collect();
        if !timers.is_empty() {
            self.armed.insert(id, timers);
        }
    }

    /// Returns the timers that ring now.
    fn ring(&mut self, now: Time, slept: i64) -> Vec<(RequestId, Timer)> {
        let mut rings = Vec::new();
        while let Some(first) = self.all.first_entry().filter(|first| first.key().0 <= now) {
            let ((at, id, timer), before) = first.remove_entry();
            if let Some(timers) = self.armed.get_mut(&id) {
                timers.remove(&(timer, at));
                if timers.is_empty() {
                    self.armed.remove(&id);
                }
            }
            let asleep = slept - before;
            if timer != Timer::Deadline && asleep > NAP {
                self.set(id, timer, at.after(asleep), slept);
            } else {
                rings.push((id, timer));
            }
        }
        rings
    }
}

/// Runs the timers until the engine is gone.
pub(crate) async fn run(mut orders: UnboundedReceiver<Arm>, engine: Engine, clock: Clock) {
    let alarm = Alarm::new();
    let mut due = Due::default();
    loop {
        let next = due.all.first_key_value().map(|((at, _, _), _)| *at);
        let order = match next {
            // What rings already is not kept waiting by orders that come on and on.
            Some(at) if at <= clock.now() => None,
            Some(at) => tokio::select! {
                order = orders.recv() => Some(order),
                () = alarm.at(clock, at) => None,
            },
            None => Some(orders.recv().await),
        };
        match order {
            Some(None) => return,
            Some(Some(Arm::At(id, timer, at))) => due.set(id, timer, at, crate::clock::slept()),
            Some(Some(Arm::Over { id, known })) => due.over(id, known),
            None => {
                for (id, timer) in due.ring(clock.now(), crate::clock::slept()) {
                    engine.tell(Input::Due { id, timer });
                }
            }
        }
    }
}

/// Something to wait for that rings right after the machine has slept through its moment. tokio's own clock stands
/// still meanwhile.
struct Alarm {
    #[cfg(target_os = "linux")]
    timer: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

impl Alarm {
    #[cfg(target_os = "linux")]
    #[expect(deprecated, reason = "an OwnedFd has the I/O safety that the constructor cannot demand of every type")]
    fn new() -> Self {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let made = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
        let timer = made.map_err(std::io::Error::from).and_then(tokio::io::unix::AsyncFd::new);
        if let Err(error) = &timer {
            crate::engine::log(&format!("no timer that counts sleep can be had: {error}"));
        }
        Self { timer: timer.ok() }
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> Self {
        Self {}
    }

    /// Returns at that moment, or a little earlier or later.
    async fn at(&self, clock: Clock, at: Time) {
        let wait = Duration::from_millis(u64::try_from(at.since(clock.now())).unwrap_or(0));
        if crate::clock::is_skewed() {
            return tokio::time::sleep(wait.min(SKEWED)).await;
        }
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer {
            use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
            let moment = clock.since_boot_at(at).max(1);
            let it_value = Timespec { tv_sec: moment / 1000, tv_nsec: moment % 1000 * 1_000_000 };
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            let set = timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value });
            if set.is_ok() {
                return rang(timer).await;
            }
        }
        tokio::time::sleep(wait).await;
    }
}

/// Returns once the timer has rung since it was set: what is readable may be an earlier time's.
#[cfg(target_os = "linux")]
async fn rang(timer: &tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>) {
    while let Ok(mut ready) = timer.readable().await {
        match rustix::io::read(timer, &mut [0_u8; 8]) {
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::new("r1").unwrap()
    }

    #[test]
    fn a_deadline_passes_in_sleep_and_what_an_agent_owes_does_not() {
        let mut due = Due::default();
        due.set(id(), Timer::Deadline, Time(10_000), 0);
        due.set(id(), Timer::Proof, Time(20_000), 0);
        assert_eq!(due.ring(Time(9_999), 0), []);
        // The machine has slept for an hour.
        let hour = 3_600_000;
        assert_eq!(due.ring(Time(5_000 + hour), hour), [(id(), Timer::Deadline)]);
        assert_eq!(due.ring(Time(19_999 + hour), hour), []);
        assert_eq!(due.ring(Time(20_000 + hour), hour), [(id(), Timer::Proof)]);
        assert!(due.all.is_empty() && due.armed.is_empty());
    }

    #[test]
    fn what_is_over_rings_no_more_but_for_what_is_still_owed() {
        let mut due = Due::default();
        for timer in [Timer::Deadline, Timer::Proof, Timer::Cancel, Timer::Orphan] {
            due.set(id(), timer, Time(5), 0);
        }
        due.over(id(), true);
        assert_eq!(due.ring(Time(5), 0), [(id(), Timer::Orphan)]);
    }

    #[tokio::test]
    async fn an_alarm_rings_at_its_moment_and_can_be_set_again() {
        let clock = Clock::start(None, false, Time(0));
        let alarm = Alarm::new();
        for wait in [5, 0, 20] {
            let at = clock.now().after(wait);
            // One that was given up leaves nothing that rings for the next.
            tokio::select! {
                biased;
                () = alarm.at(clock, clock.now()) => {}
                () = std::future::ready(()) => {}
            }
            while clock.now() < at {
                alarm.at(clock, at).await;
            }
        }
    }
}
