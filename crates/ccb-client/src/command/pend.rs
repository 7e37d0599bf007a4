//! `pend <id|agent> [N]`: prints replies, by request or by agent.

use std::ffi::OsString;

use ccb_core::wire::{Ack, Pend, Replies};

use crate::connect::Askd;
use crate::error::{CliError, note};
use crate::output::Printed;
use crate::{Context, display, exit, output};

const USAGE: &str = "\
Print the reply to a request, or an agent's last replies

Usage: ccb pend <request id | agent> [N] [--json]

  N        how many: the last N questions and answers of the agent (default: 1, its last answer alone)
  --json   one line of JSON
  -h, --help

Exit codes: 0 a reply was printed, 1 error, 2 there is none, or not a whole one.
";

#[derive(Debug, PartialEq, Eq)]
struct Options {
    target: String,
    count: u32,
    json: bool,
}

pub(crate) fn run(context: &Context, args: Vec<OsString>) -> Result<u8, CliError> {
    let Some(options) = parse(args)? else {
        output::print(USAGE)?;
        return Ok(exit::OK);
    };
    let askd = Askd::here(context)?;
    let replies = askd.call(&Pend { target: options.target.clone(), count: options.count })?;
    if replies.requests.is_empty() {
        return Err(CliError::new(format!("nothing to show for `{}`", options.target)).code(exit::NO_REPLY));
    }
    if options.json {
        output::print_json(&replies)?;
        return Ok(exit::OK);
    }
    if options.count > 1 {
        output::print(&display::conversation(&replies))?;
        return Ok(exit::OK);
    }
    one(&askd, &options.target, &replies)
}

/// Prints one reply, and says that it was printed if it was asked for by its id.
fn one(askd: &Askd, target: &str, replies: &Replies) -> Result<u8, CliError> {
    let request = &replies.requests[0];
    let Some(settlement) = &request.settlement else {
        return Err(CliError::new(format!("{} is not over: {}", request.id, display::state(request)))
            .hint(format!("`ccb explain {}`", request.id))
            .code(exit::NO_REPLY));
    };
    let reply = display::reply(request);
    let printed = if reply.is_empty() { Printed::Whole } else { output::print(reply)? };
    if printed == Printed::Whole && request.id.as_str() == target {
        let _ = askd.call(&Ack { id: request.id.clone() });
    }
    verdict(request, settlement)
}

/// Returns the exit code of a settled request, having said what there is to say beside the reply.
pub(super) fn verdict(
    request: &ccb_core::wire::RequestView,
    settlement: &ccb_core::request::Settlement,
) -> Result<u8, CliError> {
    if settlement.late.is_some() {
        note(&format!("this answer came late: {}", settlement.outcome.sentence()));
        return Ok(exit::OK);
    }
    match settlement.outcome.exit_code() {
        exit::OK => Ok(exit::OK),
        code => Err(CliError::new(settlement.outcome.sentence())
            .hint(format!("`ccb explain {}` tells more", request.id))
            .code(code)),
    }
}

fn parse(args: Vec<OsString>) -> Result<Option<Options>, CliError> {
    let mut words = Vec::new();
    let mut json = false;
    for arg in args {
        match arg.to_string_lossy().as_ref() {
            "-h" | "--help" => return Ok(None),
            "--json" => json = true,
            dash if dash.starts_with('-') => {
                return Err(CliError::new(format!("unknown option `{dash}`")).hint("`ccb pend --help`"));
            }
            word => words.push(word.to_owned()),
        }
    }
    let mut words = words.into_iter();
    let target = words.next().ok_or_else(|| {
        CliError::new("no request id and no agent is given").hint("`ccb pend <request id>` or `ccb pend <agent> [N]`")
    })?;
    let count = match words.next().map(|word| word.parse().map_err(|_| word)) {
        None => 1,
        Some(Ok(count)) if count > 0 => count,
        Some(Ok(_)) => return Err(CliError::new("N is a number from 1")),
        Some(Err(word)) => return Err(CliError::new(format!("`{word}` is not a number of replies"))),
    };
    match words.next() {
        Some(word) => Err(CliError::new(format!("one word too many: `{word}`"))),
        None => Ok(Some(Options { target, count, json })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Option<Options>, String> {
        parse(words.split_whitespace().map(OsString::from).collect()).map_err(|error| error.message)
    }

    #[test]
    fn a_target_and_a_count_are_read() {
        let options = |target: &str, count, json| Ok(Some(Options { target: target.into(), count, json }));
        assert_eq!(read("codex"), options("codex", 1, false));
        assert_eq!(read("codex 3 --json --json"), options("codex", 3, true));
        assert_eq!(read("--help"), Ok(None));
        assert_eq!(read("codex x"), Err("`x` is not a number of replies".into()));
        assert_eq!(read("codex 0"), Err("N is a number from 1".into()));
        assert_eq!(read("--raw codex"), Err("unknown option `--raw`".into()));
        assert!(read("").is_err() && read("a 1 b").is_err());
    }
}
