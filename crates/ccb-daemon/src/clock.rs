//! The only place that asks what time it is.
//!
//! A test can pretend that the wall clock was set or that the machine has slept: `CCB_CLOCK_SKEW` names a file with two
//! numbers, the milliseconds to add to the wall clock and to the time since boot. Release builds know no such variable.

use std::path::PathBuf;
use std::sync::LazyLock;

use ccb_core::time::Time;
use serde::{Deserialize, Serialize};

/// askd's clock: the wall clock at one moment, and from then on the time since boot, so that it neither
/// jumps when somebody sets the wall clock nor stands still while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What it shows at the moment of the boot.
    offset: i64,
}

/// How the clock of an earlier worker went: what is kept in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Anchor {
    boot: String,
    offset: i64,
}

/// What the world's clocks show.
struct Reading<'a> {
    wall: i64,
    since_boot: i64,
    boot: &'a str,
}

impl Clock {
    /// Starts the clock. `kept` is how the last one went, `unsettled` whether a request counts on that, and `floor` the
    /// latest moment in the store, which the clock never runs behind.
    pub(crate) fn start(kept: Option<&str>, unsettled: bool, floor: Time) -> Self {
        let kept = kept.and_then(|kept| serde_json::from_str(kept).ok());
        let now = Reading { wall: wall(), since_boot: since_boot(), boot: crate::process::boot() };
        Self { offset: offset(kept, unsettled, floor, &now) }
    }

    /// Returns how it goes, for the next worker.
    pub(crate) fn kept(self) -> String {
        let anchor = Anchor { boot: crate::process::boot().to_owned(), offset: self.offset };
        serde_json::to_string(&anchor).unwrap_or_default()
    }

    /// Returns the moment.
    pub(crate) fn now(self) -> Time {
        Time(self.offset + since_boot())
    }

    /// Returns the time since boot, as [`since_boot`] has it, at which it shows `at`.
    pub(crate) fn since_boot_at(self, at: Time) -> i64 {
        at.0.saturating_sub(self.offset)
    }
}

/// A clock goes on as it went while somebody counts on it: deadlines are moments of it. In another boot that cannot be,
/// and when nothing is unsettled it does not matter: then the wall clock is right.
fn offset(kept: Option<Anchor>, unsettled: bool, floor: Time, now: &Reading<'_>) -> i64 {
    let same = |kept: &Anchor| unsettled && !now.boot.is_empty() && kept.boot == now.boot;
    let offset = kept.filter(same).map_or(now.wall - now.since_boot, |kept| kept.offset);
    offset.max(floor.0 - now.since_boot)
}

/// Milliseconds since the Unix epoch, by the wall clock.
#[expect(clippy::disallowed_methods, reason = "this is askd's clock")]
pub(crate) fn wall() -> i64 {
    let wall = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    wall + skew().0
}

/// Returns a moment (milliseconds since the epoch) in words for people, in their own time; with its day if that is not
/// within hours.
pub(crate) fn local(ms: i64) -> String {
    let far = ms.saturating_sub(wall()).abs() > 12 * 60 * 60 * 1000;
    let moment = jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    moment.strftime(if far { "%F %H:%M" } else { "%H:%M:%S" }).to_string()
}

/// Milliseconds since boot, sleep included where the system counts it.
fn since_boot() -> i64 {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    reading(id) + skew().1
}

/// Milliseconds that the machine has slept since boot, where the system counts them.
pub(crate) fn slept() -> i64 {
    since_boot() - reading(rustix::time::ClockId::Monotonic)
}

fn reading(id: rustix::time::ClockId) -> i64 {
    let time = rustix::time::clock_gettime(id);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

static SKEW: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let path = std::env::var_os("CCB_CLOCK_SKEW").filter(|_| cfg!(debug_assertions));
    path.map(PathBuf::from)
});

/// Returns whether a test may pretend that time has passed.
pub(crate) fn is_skewed() -> bool {
    SKEW.is_some()
}

/// What a test adds to the wall clock and to the time since boot.
fn skew() -> (i64, i64) {
    let text = SKEW.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_in_its_boot_while_somebody_counts_on_it() {
        const HOUR: i64 = 3_600_000;
        let kept = |boot: &str| Some(Anchor { boot: boot.into(), offset: 1_000 * HOUR });
        // The wall clock and the time since boot say that the boot was at hour 1100.
        let now = Reading { wall: 1_110 * HOUR, since_boot: 10 * HOUR, boot: "this" };
        let shows = |kept, unsettled, floor| (offset(kept, unsettled, Time(floor * HOUR), &now) + 10 * HOUR) / HOUR;
        assert_eq!(shows(kept("this"), true, 1_005), 1_010, "set by a hundred hours: no matter");
        assert_eq!(shows(kept("other"), true, 1_005), 1_110, "after a reboot");
        assert_eq!(shows(kept("this"), false, 1_005), 1_110, "nobody counts on it");
        assert_eq!(shows(None, true, 0), 1_110, "the first");
        assert_eq!(shows(kept("other"), true, 1_200), 1_200, "set back: never behind the store");
        assert_eq!(shows(kept("this"), true, 1_200), 1_200);
        let unknown = Reading { boot: "", ..now };
        assert_eq!(offset(kept(""), true, Time(0), &unknown), 1_100 * HOUR, "no boot is known to be the same");
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let clock = Clock::start(None, false, Time(0));
        let next = Clock::start(Some(&clock.kept()), true, Time(0));
        if cfg!(target_os = "linux") {
            assert_eq!(next.offset, clock.offset);
        }
        assert!(clock.since_boot_at(clock.now()) > 0);
    }
}
