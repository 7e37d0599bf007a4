//! The predecessor's environment settings: how their words are read.

use std::time::Duration;

use crate::provider::Provider;

/// Returns whether `word` switches something on: `1`, `true`, `yes` or `on` in any case.
pub fn truthy(word: &str) -> bool {
    matches!(word.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

/// Reads a number of seconds, clamped to `low..=high`; rubbish or nothing gives `default`.
pub fn seconds(word: Option<&str>, default: f64, low: f64, high: f64) -> Duration {
    let value = word.and_then(|w| w.trim().parse::<f64>().ok()).filter(|v| v.is_finite()).unwrap_or(default);
    Duration::from_millis(millis(value.clamp(low, high)))
}

/// Returns whether `word` switches something off that is on by default: `0`, `false`, `no` or `off` in any case.
pub fn falsy(word: &str) -> bool {
    matches!(word.trim().to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off")
}

/// Reads a whole number, clamped to `low..=high`; rubbish or nothing gives `default`.
fn count(word: Option<&str>, default: u32, low: u32, high: u32) -> u32 {
    let value = word.and_then(|w| w.trim().parse::<i128>().ok()).unwrap_or(default.into());
    u32::try_from(value.clamp(low.into(), high.into())).unwrap_or(default)
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

/// How long an agent must say nothing for an answer without an end to be over; none: for ever.
///
/// `configured` is its own `idle_timeout` (ms). Else the predecessor's variable for its provider counts, else
/// `CCB_QUIET_WINDOW_S`, which `word` looks up; zero or less switches it off, rubbish is as if it were not there.
pub fn idle_window(
    provider: Provider,
    configured: Option<u64>,
    word: impl Fn(&str) -> Option<String>,
) -> Option<Duration> {
    let (default, own) = provider.row().idle;
    let number = |name: &str| word(name)?.trim().parse::<f64>().ok().filter(|seconds| seconds.is_finite());
    let named = || own.and_then(number).or_else(|| number("CCB_QUIET_WINDOW_S")).unwrap_or(default);
    let ms = configured.unwrap_or_else(|| millis(named()));
    (ms > 0).then(|| Duration::from_millis(ms.clamp(200, 86_400_000)))
}

/// How often the keeper asks the engine for a sign of life (`CCB_WATCHDOG_INTERVAL_S`).
pub fn watchdog_interval(word: Option<&str>) -> Duration {
    seconds(word, 5.0, 1.0, 300.0)
}

/// How often `askd.last.json` is written while requests are unsettled (`CCB_HEARTBEAT_INTERVAL_S`).
pub fn heartbeat_interval(word: Option<&str>) -> Duration {
    seconds(word, 2.0, 0.5, 60.0)
}

/// How deep agents may ask one another in the course of one request (`CCB_MAX_DEPTH`).
pub fn max_depth(word: Option<&str>) -> u32 {
    count(word, 6, 1, 100)
}

/// How many requests of an agent's own may be open at a time (`CCB_MAX_OPEN`).
pub fn max_open(word: Option<&str>) -> u32 {
    count(word, 8, 1, 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_window_is_the_agents_own_or_its_providers_or_the_general_one() {
        use Provider::{Claude, Codex, Droid, Gemini, Opencode};
        let window = |provider: Provider, configured: Option<u64>, set: &[(&str, &str)]| {
            let word = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, word)| (*word).to_owned());
            idle_window(provider, configured, word).map(|window| window.as_millis())
        };
        let (caskd, gemini, quiet) = ("CCB_CASKD_IDLE_TIMEOUT", "CCB_GEMINI_IDLE_TIMEOUT", "CCB_QUIET_WINDOW_S");
        for (provider, ms) in [(Codex, 8000), (Gemini, 15_000), (Claude, 15_000), (Opencode, 15_000), (Droid, 15_000)] {
            assert_eq!(window(provider, None, &[]), Some(ms), "{provider:?}");
            assert_eq!(window(provider, None, &[(quiet, "3")]), Some(3000), "{provider:?}");
            assert_eq!(window(provider, Some(500), &[(quiet, "3"), (caskd, "4"), (gemini, "4")]), Some(500));
            assert_eq!(window(provider, Some(0), &[(quiet, "3")]), None);
            for off in ["0", "-1", " -0.5 "] {
                assert_eq!(window(provider, None, &[(quiet, off)]), None, "{provider:?} {off}");
            }
            for rubbish in ["", "x", "NaN", "inf", "1s"] {
                assert_eq!(window(provider, None, &[(quiet, rubbish)]), Some(ms), "{provider:?} {rubbish}");
            }
        }
        assert_eq!(window(Codex, None, &[(caskd, "1.5"), (quiet, "3")]), Some(1500));
        assert_eq!(window(Codex, None, &[(caskd, "x"), (quiet, "3")]), Some(3000));
        assert_eq!(window(Codex, None, &[(caskd, "0"), (quiet, "3")]), None);
        assert_eq!(window(Codex, None, &[(gemini, "1"), (caskd, "0.01")]), Some(200));
        assert_eq!(window(Gemini, None, &[(gemini, "2"), (caskd, "1")]), Some(2000));
        assert_eq!(window(Droid, None, &[(gemini, "2"), (caskd, "1")]), Some(15_000));
        assert_eq!(window(Droid, None, &[(quiet, "1e12")]), Some(86_400_000));
    }

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
        let counts =
            [None, Some("0"), Some(" 3 "), Some("1e9"), Some("-7"), Some("123456789012"), Some("7.5"), Some("")];
        assert_eq!(counts.map(max_depth), [6, 1, 3, 6, 1, 100, 6, 6]);
        assert_eq!(counts.map(max_open), [8, 1, 3, 8, 1, 1000, 8, 8]);
        assert!(falsy(" Off") && falsy("0") && falsy("No") && falsy("FALSE") && !falsy("") && !falsy("maybe"));
        assert!(truthy(" YES ") && truthy("1") && !truthy("0") && !truthy(""));
    }
}
