//! The predecessor's environment settings: how their words are read.

use std::time::Duration;

/// Returns whether `word` switches something on: `1`, `true`, `yes` or `on` in any case.
pub fn truthy(word: &str) -> bool {
    matches!(word.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

/// Reads a number of seconds, clamped to `low..=high`; rubbish or nothing gives `default`.
pub fn seconds(word: Option<&str>, default: f64, low: f64, high: f64) -> Duration {
    let value = word.and_then(|w| w.trim().parse::<f64>().ok()).filter(|v| v.is_finite()).unwrap_or(default);
    Duration::from_millis(millis(value.clamp(low, high)))
}

/// Returns `seconds` (finite, not negative) as whole milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what an i64 of milliseconds holds"
)]
pub fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0).round().clamp(0.0, 9e15) as u64
}

/// How often the keeper asks the engine for a sign of life (`CCB_WATCHDOG_INTERVAL_S`).
pub fn watchdog_interval(word: Option<&str>) -> Duration {
    seconds(word, 5.0, 1.0, 300.0)
}

/// How often `askd.last.json` is written while requests are unsettled (`CCB_HEARTBEAT_INTERVAL_S`).
pub fn heartbeat_interval(word: Option<&str>) -> Duration {
    seconds(word, 2.0, 0.5, 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_clamped_and_rubbish_is_the_default() {
        let table = [
            (None, 5000),
            (Some("0"), 1000),
            (Some("7.5"), 7500),
            (Some("1e9"), 300_000),
            (Some("x"), 5000),
            (Some("NaN"), 5000),
            (Some("-3"), 1000),
        ];
        for (word, ms) in table {
            assert_eq!(watchdog_interval(word).as_millis(), ms, "{word:?}");
        }
        assert_eq!(heartbeat_interval(Some("0.1")).as_millis(), 500);
        assert!(truthy(" YES ") && truthy("1") && !truthy("0") && !truthy(""));
    }
}
