//! What a test can observe: the events file and the log of keys. One JSON line each, appended with one write.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// Returns the seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "events and records carry the time; nothing is decided by it")]
pub(crate) fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Appends one line to a file that is opened for it, with one write.
pub(crate) fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Where events go.
#[derive(Debug)]
pub(crate) struct Events {
    /// The events file.
    pub(crate) file: Option<PathBuf>,
    /// Whether they are also shown, one line each.
    pub(crate) shown: bool,
}

impl Events {
    /// Records an event with its fields, which are an object.
    pub(crate) fn record(&self, event: &str, fields: &Value) -> io::Result<()> {
        if let Some(path) = &self.file {
            append_line(path, &line(event, unix_time(), fields))?;
        }
        if self.shown {
            let mut text = event.to_owned();
            for (name, value) in fields.as_object().into_iter().flatten() {
                write!(text, " {name}={value}").ok();
            }
            io::stdout().write_all(format!("{text}\r\n").as_bytes())?;
            io::stdout().flush()?;
        }
        Ok(())
    }
}

/// Returns the line of an event.
fn line(event: &str, time: f64, fields: &Value) -> String {
    let mut object = Map::new();
    object.insert("ev".to_owned(), json!(event));
    object.insert("t".to_owned(), json!(time));
    object.extend(fields.as_object().cloned().unwrap_or_default());
    Value::Object(object).to_string()
}

/// Appends what was read from the terminal to the log of keys.
pub(crate) fn log_keys(path: &Path, bytes: &[u8]) -> io::Result<()> {
    append_line(path, &json!({"t": unix_time(), "bytes": escaped(bytes)}).to_string())
}

/// Returns bytes as printable ASCII; all others, and the backslash, as `\xNN`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if matches!(byte, b' '..=b'~') && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            write!(text, "\\x{byte:02x}").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_object_a_line() {
        let text = line("recv", 1.5, &json!({"req": "r\n1", "len": 3}));
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, json!({"ev": "recv", "t": 1.5, "req": "r\n1", "len": 3}));
        assert!(!text.contains('\n'));
    }

    #[test]
    fn keys_can_be_told_apart() {
        assert_eq!(escaped(b"\x1b[200~a\\ \xc3\xa9\r"), "\\x1b[200~a\\x5c \\xc3\\xa9\\x0d");
    }
}
