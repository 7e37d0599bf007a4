//! `ccb retry <id>`: asks again what a request that is over has asked, as a new request of whoever calls.

use std::ffi::OsString;

use ccb_core::wire::Retry;

use super::ask::options::{self, Line, Mode, Options};
use super::ask::wait::Submission;
use super::ask::{check_output, submit};
use crate::connect::{Askd, DEADLINE};
use crate::error::CliError;
use crate::wake::Patience;
use crate::{Context, clock, exit, output};

const USAGE: &str = "\
Ask again what a request that is over has asked

Usage: ccb retry <request id> [options]

It is a new request for the same agent with the same message, and its answer is yours. Nothing is ever sent again
without this command: a request of which it is not known whether the agent got it may then be there twice.

  --wait, --async, --notify, --output FILE, --json
                           as `ask` has them
  -t, --timeout SECONDS    how long the answer may take (default: as long as it might the first time)
  -h, --help

Exit codes: 0 answered (or accepted), 1 error, 2 no answer or not a whole one, 130 interrupted.
";

pub(super) fn run(context: &Context, args: Vec<OsString>) -> Result<u8, CliError> {
    let Some(options) = parse(args)? else {
        output::print(USAGE)?;
        return Ok(exit::OK);
    };
    let of = super::request_id(&options.agent)?;
    let askd = Askd::here(context)?;
    let connection = askd.find_or_start(Patience::of(DEADLINE)).map_err(|error| askd.explain(error))?;
    let mode = options.mode(&context.environment, connection.you.is_some() || askd.caller.is_some());
    check_output(mode, &options)?;
    let retry = Retry {
        id: clock::request_id(),
        of,
        timeout_s: options.timed.then(|| options.timeout_s.unwrap_or(-1.0)),
        caller: askd.caller.clone(),
        waits: mode == Mode::Wait,
    };
    submit(&askd, connection, Submission::Retry(retry), mode, &options)
}

/// Reads the command line, which is that of `ask` without a message; none: the usage is wanted.
fn parse(args: Vec<OsString>) -> Result<Option<Options>, CliError> {
    let usage = |message: String| CliError::new(message).hint("`ccb retry <request id>`; `ccb retry --help`");
    if args.iter().all(|arg| arg.to_string_lossy().starts_with('-'))
        && !args.iter().any(|arg| matches!(arg.to_str(), Some("-h" | "--help")))
    {
        return Err(usage("no request id is given".to_owned()));
    }
    match options::parse(args)? {
        Line::Help => Ok(None),
        Line::Ask(Options { message: Some(words), .. }) => {
            Err(usage(format!("one word too many: `{words}`; the message is the one that was asked")))
        }
        Line::Ask(Options { no_wrap: true, .. }) => {
            Err(usage("`--no-wrap` is as it was the first time, and cannot be chosen".to_owned()))
        }
        Line::Ask(options) => Ok(Some(options)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_takes_what_ask_takes_but_the_message() {
        let read = |words: &str| {
            let parsed = parse(words.split_whitespace().map(OsString::from).collect());
            parsed.map_err(|error| error.message)
        };
        let options = read("r1 --wait -t 5 --json").unwrap().unwrap();
        assert_eq!((options.agent.as_str(), options.mode), ("r1", Some(Mode::Wait)));
        assert!(options.timed && options.timeout_s == Some(5.0) && options.json);
        assert!(!read("r1").unwrap().unwrap().timed);
        assert_eq!(read("-h"), Ok(None));
        assert_eq!(read("--wait"), Err("no request id is given".into()));
        assert!(read("").is_err() && read("r1 --no-wrap").is_err());
        assert!(read("r1 do it").unwrap_err().contains("`do it`"));
    }
}
