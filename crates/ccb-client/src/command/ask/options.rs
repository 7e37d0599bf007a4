//! The command line of `ask`, parsed by hand: its message is free text, and its start must cost nothing.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::environment::Environment;
use crate::error::CliError;

pub(super) const USAGE: &str = "\
Ask an agent, and get its answer

Usage: ask <agent | agent,agent,… | all> [options] [message…]

Without a message, it is read from standard input. A human's `ask` waits and prints the answer; an agent's
returns at once, and the answer comes to the agent by itself. `all` is every agent but the one that asks; the answers
of several are printed in the order of the names, each under its agent's, as soon as those before it are there.

  --wait, --foreground     wait for the answer
  --async, --background    return at once; `ccb pend <id>` gets the answer
  --notify                 the same as --async
  -t, --timeout SECONDS    how long the answer may take (default: 3600; negative: for ever)
  --no-wrap                give the agent the message alone, without the lines that mark it as a request
  --output FILE            write the answer to FILE too (needs --wait)
  --json                   one line of JSON
  --                       what follows is the message, even if it begins with a dash
  -h, --help

Exit codes: 0 answered (or accepted), 1 error, 2 no answer or not a whole one, 130 interrupted; of several the worst.
";

/// How long an answer may take, if nobody says.
const TIMEOUT_S: f64 = 3600.0;

/// A command line.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::command) enum Line {
    /// Print the usage.
    Help,
    /// Ask.
    Ask(Options),
}

/// What to ask, and how.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::command) struct Options {
    pub(in crate::command) agent: String,
    /// The message's words; none: standard input.
    pub(in crate::command) message: Option<String>,
    /// Seconds; none: for ever.
    pub(in crate::command) timeout_s: Option<f64>,
    /// Whether the command line has said how long.
    pub(in crate::command) timed: bool,
    pub(in crate::command) mode: Option<Mode>,
    pub(in crate::command) no_wrap: bool,
    pub(in crate::command) output: Option<PathBuf>,
    pub(in crate::command) json: bool,
}

/// Whether the answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command) enum Mode {
    Wait,
    Async,
}

impl Options {
    /// Returns whether to wait: by an option, by the predecessor's settings, or by who asks.
    pub(in crate::command) fn mode(&self, environment: &Environment, by_agent: bool) -> Mode {
        match self.mode {
            Some(mode) => mode,
            None if environment.truthy("CCB_ASK_BACKGROUND") => Mode::Async,
            None if environment.truthy("CCB_ASK_FOREGROUND") => Mode::Wait,
            None if by_agent => Mode::Async,
            None => Mode::Wait,
        }
    }
}

/// Reads the command line. Options may stand anywhere; of one that stands twice, the last counts.
pub(in crate::command) fn parse(args: Vec<OsString>) -> Result<Line, CliError> {
    let mut options = Options {
        agent: String::new(),
        message: None,
        timeout_s: Some(TIMEOUT_S),
        timed: false,
        mode: None,
        no_wrap: false,
        output: None,
        json: false,
    };
    let mut words: Vec<String> = Vec::new();
    let mut args = args.into_iter();
    let mut only_words = false;
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if only_words || !text.starts_with('-') || text == "-" {
            words.push(text.into_owned());
            continue;
        }
        let (name, value) = match text.split_once('=') {
            Some((name @ ("--timeout" | "--output"), value)) => (name, Some(OsString::from(value))),
            _ => (text.as_ref(), None),
        };
        match name {
            "-h" | "--help" => return Ok(Line::Help),
            "--" => only_words = true,
            "-t" | "--timeout" => {
                options.timeout_s = timeout(name, value.or_else(|| args.next()))?;
                options.timed = true;
            }
            "--output" => options.output = Some(file(value.or_else(|| args.next()))?),
            "--wait" | "--foreground" => set_mode(&mut options.mode, Mode::Wait)?,
            "--async" | "--background" | "--notify" => set_mode(&mut options.mode, Mode::Async)?,
            "--no-wrap" => options.no_wrap = true,
            "--json" => options.json = true,
            // A word with a blank in it is no mistyped option, and after the message's first word all is message.
            _ if words.len() > 1 || (words.len() == 1 && name.contains(char::is_whitespace)) => {
                words.push(text.into_owned());
            }
            _ => {
                return Err(CliError::new(format!("unknown option `{name}`"))
                    .hint("use `--` before a message that begins with a dash; `ask --help` lists the options"));
            }
        }
    }
    let mut words = words.into_iter();
    options.agent = words
        .next()
        .ok_or_else(|| CliError::new("no agent is given").hint("`ask <agent> <message>`; `ccb ps` lists the agents"))?;
    let words: Vec<String> = words.collect();
    options.message = (!words.is_empty()).then(|| words.join(" "));
    Ok(Line::Ask(options))
}

fn set_mode(mode: &mut Option<Mode>, wanted: Mode) -> Result<(), CliError> {
    if mode.is_some_and(|mode| mode != wanted) {
        return Err(CliError::new("both waiting and not waiting are asked for").hint("give `--wait` or `--async`"));
    }
    *mode = Some(wanted);
    Ok(())
}

fn timeout(name: &str, value: Option<OsString>) -> Result<Option<f64>, CliError> {
    let value = value.ok_or_else(|| CliError::new(format!("`{name}` needs a number of seconds")))?;
    let value = value.to_string_lossy();
    match value.trim().parse::<f64>() {
        Ok(seconds) if seconds < 0.0 => Ok(None),
        Ok(seconds) if seconds.is_finite() => Ok(Some(seconds)),
        _ => Err(CliError::new(format!("`{name}` needs a number of seconds, not `{value}`"))
            .hint("use `--` before a message that has such words")),
    }
}

fn file(value: Option<OsString>) -> Result<PathBuf, CliError> {
    let value = value.filter(|value| !value.is_empty());
    value.map(PathBuf::from).ok_or_else(|| CliError::new("`--output` needs a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Line, String> {
        parse(words.iter().map(OsString::from).collect()).map_err(|error| error.message)
    }

    fn ask(words: &[&str]) -> Options {
        match read(words) {
            Ok(Line::Ask(options)) => options,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn options_stand_anywhere_and_all_else_is_message() {
        let table: &[(&[&str], &str, Option<&str>)] = &[
            (&["codex"], "codex", None),
            (&["codex", "fix", "it"], "codex", Some("fix it")),
            (&["--wait", "codex", "fix", "--json", "it"], "codex", Some("fix it")),
            (&["codex", "what", "does", "--fix", "-x", "do"], "codex", Some("what does --fix -x do")),
            (&["codex", "--", "--help"], "codex", Some("--help")),
            (&["--", "codex", "-t", "5"], "codex", Some("-t 5")),
            (&["codex", "a", "--", "b"], "codex", Some("a b")),
            (&["codex", "- one\n- two"], "codex", Some("- one\n- two")),
            (&["codex", "-"], "codex", Some("-")),
            (&["codex", ""], "codex", Some("")),
        ];
        for (words, agent, message) in table {
            let options = ask(words);
            assert_eq!((options.agent.as_str(), options.message.as_deref()), (*agent, *message), "{words:?}");
        }
    }

    #[test]
    fn each_option_is_understood() {
        let all = ask(&["codex", "-t", "1.5", "--no-wrap", "--output", "f", "--async", "--json", "x"]);
        let want = Options {
            agent: "codex".into(),
            message: Some("x".into()),
            timeout_s: Some(1.5),
            timed: true,
            mode: Some(Mode::Async),
            no_wrap: true,
            output: Some("f".into()),
            json: true,
        };
        assert_eq!(all, want);
        assert_eq!(ask(&["codex", "--timeout=-1"]).timeout_s, None);
        assert_eq!(ask(&["codex", "-t", "-1", "x"]).timeout_s, None);
        assert_eq!(ask(&["codex"]).timeout_s, Some(3600.0));
        assert_eq!(ask(&["codex", "--output=a=b"]).output, Some("a=b".into()));
        assert_eq!((read(&["-h"]), read(&["codex", "x", "--help"])), (Ok(Line::Help), Ok(Line::Help)));
    }

    #[test]
    fn of_an_option_that_stands_twice_the_last_counts_unless_they_contradict() {
        assert_eq!(ask(&["codex", "-t", "1", "--timeout", "2", "x"]).timeout_s, Some(2.0));
        assert_eq!(ask(&["codex", "--output", "a", "--output=b"]).output, Some("b".into()));
        assert_eq!(ask(&["codex", "--notify", "--async", "--json", "--json"]).mode, Some(Mode::Async));
        let both = "both waiting and not waiting are asked for";
        assert_eq!(read(&["codex", "--wait", "x", "--background"]), Err(both.into()));
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let table: &[(&[&str], &str)] = &[
            (&[], "no agent is given"),
            (&["--json"], "no agent is given"),
            (&["--foo", "codex", "x"], "unknown option `--foo`"),
            (&["codex", "--foo", "x"], "unknown option `--foo`"),
            (&["codex", "-x"], "unknown option `-x`"),
            (&["codex", "--wait=1"], "unknown option `--wait=1`"),
            (&["codex", "x", "-t"], "`-t` needs a number of seconds"),
            (&["codex", "-t", "soon"], "`-t` needs a number of seconds, not `soon`"),
            (&["codex", "-t", "nan"], "`-t` needs a number of seconds, not `nan`"),
            (&["codex", "-t", "inf"], "`-t` needs a number of seconds, not `inf`"),
            (&["codex", "--output"], "`--output` needs a file"),
        ];
        for (words, want) in table {
            assert_eq!(read(words), Err((*want).into()), "{words:?}");
        }
    }

    #[test]
    fn who_asks_decides_whether_to_wait_if_nothing_else_does() {
        let mode = |words: &[&str], pairs: &[(&str, &str)]| ask(words).mode(&pairs.iter().copied().collect(), false);
        let by_agent = |pairs: &[(&str, &str)]| ask(&["codex"]).mode(&pairs.iter().copied().collect(), true);
        let plain: &[&str] = &["codex"];
        assert_eq!(mode(plain, &[]), Mode::Wait);
        assert_eq!(by_agent(&[]), Mode::Async);
        assert_eq!(by_agent(&[("CCB_ASK_FOREGROUND", "on")]), Mode::Wait);
        assert_eq!(mode(plain, &[("CCB_ASK_BACKGROUND", "1"), ("CCB_ASK_FOREGROUND", "1")]), Mode::Async);
        assert_eq!(mode(&["codex", "--wait"], &[("CCB_ASK_BACKGROUND", "1")]), Mode::Wait);
    }
}
