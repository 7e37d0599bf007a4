//! Writes what the server saw, one JSON object a line, and keeps the process's clock.
//!
//! A line is one write, so a reader that follows the file never sees two lines mixed.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The record of requests and stream ends.
pub struct Log {
    out: Mutex<Box<dyn Write + Send>>,
}

impl Log {
    /// Returns a log that keeps nothing.
    pub fn nowhere() -> Self {
        Self::to(Box::new(io::sink()))
    }

    /// Returns a log that appends to the file at `path`.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self::to(Box::new(file)))
    }

    fn to(out: Box<dyn Write + Send>) -> Self {
        let out = Mutex::new(out);
        Self { out }
    }

    /// Writes `fields`, an object, with the time and the event's name added.
    pub fn event(&self, name: &str, mut fields: Value) {
        fields["ev"] = json!(name);
        fields["t"] = json!(since_epoch().as_secs_f64());
        let line = format!("{fields}\n");
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not change what the model answers; the test misses its line and says so.
        let _ = out.write_all(line.as_bytes());
    }
}

/// Returns the time since the epoch.
#[expect(clippy::disallowed_methods, reason = "this is the server's one clock; it only labels records")]
pub fn since_epoch() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO)
}
