//! Time as a value: milliseconds, handed in by whoever may ask a clock.

use serde::{Deserialize, Serialize};

/// A moment: milliseconds since the Unix epoch, on askd's own clock (which never runs backwards).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// Returns the moment `ms` milliseconds later.
    #[must_use]
    pub fn after(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Returns how many milliseconds have passed since `earlier` (0 if none).
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }
}
