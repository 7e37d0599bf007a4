//! The only place that asks what time it is.

use ccb_core::time::Time;

/// askd's clock: the wall clock at its start, and from then on the time since boot, so that it neither
/// jumps when somebody sets the wall clock nor stands still while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: i64,
    boot: i64,
}

impl Clock {
    /// Starts the clock. `floor` is the latest moment in the store: the clock never runs behind it.
    pub(crate) fn start(floor: Time) -> Self {
        Self { wall: wall().max(floor.0), boot: boot() }
    }

    /// Returns the moment.
    pub(crate) fn now(self) -> Time {
        Time(self.wall + boot() - self.boot)
    }
}

/// Milliseconds since the Unix epoch, by the wall clock.
#[expect(clippy::disallowed_methods, reason = "this is askd's clock")]
pub(crate) fn wall() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Milliseconds since boot, sleep included where the system counts it.
fn boot() -> i64 {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}
