//! The control file: how a test changes the stub's behaviour while it runs.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// What happens to answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They come as asked.
    #[default]
    Normal,
    /// They come without the mark.
    OmitDone,
    /// They come with the mark of another request.
    ForeignDone(String),
    /// The question is recorded, and that is all.
    Silent,
    /// The process exits with status 3.
    Crash,
}

/// The control file's content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// What happens to answers.
    pub(crate) mode: Mode,
    /// How long they take, instead of `--delay`.
    pub(crate) delay: Option<Duration>,
}

impl Control {
    /// Reads the control file. One that is missing or broken changes nothing.
    pub(crate) fn read(path: Option<&Path>) -> Self {
        path.and_then(|path| std::fs::read_to_string(path).ok()).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Reads the control file's text.
    fn parse(text: &str) -> Self {
        let content: Value = serde_json::from_str(text).unwrap_or_default();
        let mode = match content["mode"].as_str() {
            Some("omit_done") => Mode::OmitDone,
            Some("foreign_done") => {
                Mode::ForeignDone(content["foreign"].as_str().unwrap_or("20260101-000000-000-1-1").to_owned())
            }
            Some("silent") => Mode::Silent,
            Some("crash") => Mode::Crash,
            _ => Mode::Normal,
        };
        let delay = content["delay"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self { mode, delay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read() {
        for (text, mode) in [
            (r#"{"mode":"normal"}"#, Mode::Normal),
            (r#"{"mode":"omit_done"}"#, Mode::OmitDone),
            (r#"{"mode":"foreign_done","foreign":"x"}"#, Mode::ForeignDone("x".to_owned())),
            (r#"{"mode":"foreign_done"}"#, Mode::ForeignDone("20260101-000000-000-1-1".to_owned())),
            (r#"{"mode":"silent"}"#, Mode::Silent),
            (r#"{"mode":"crash"}"#, Mode::Crash),
            ("not json", Mode::Normal),
        ] {
            assert_eq!(Control::parse(text), Control { mode, delay: None });
        }
        assert_eq!(Control::parse(r#"{"delay":1.5}"#).delay, Some(Duration::from_millis(1500)));
        assert_eq!(Control::parse(r#"{"delay":-1}"#).delay, None);
        assert_eq!(Control::read(None), Control::default());
    }
}
