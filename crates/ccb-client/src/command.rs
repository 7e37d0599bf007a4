//! The commands: one verb, one file. Here is only which words mean which.

pub(crate) mod ask;
mod attach;
mod cancel;
mod doctor;
mod explain;
mod guard;
mod hook;
mod kill;
mod logs;
mod mcp;
pub(crate) mod pend;
mod ps;
mod restart;
mod retry;
mod run;
mod start;
mod status;
mod trust;
mod version;
mod view;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::error::CliError;
use crate::{Context, exit, output};

/// Several AI coding agents side by side, each in its pane, asking each other
#[derive(Debug, Parser)]
#[command(
    name = "ccb",
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = "Without a command, `ccb` starts the project's agents and shows them."
)]
struct Line {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    start: start::Options,
    /// Print the version
    #[arg(short = 'v', visible_short_alias = 'V', long, action = clap::ArgAction::SetTrue)]
    version: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Ask an agent; the same as `ask`
    Ask {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Print the reply to a request, or an agent's last one; the same as `pend`
    Pend {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Ask again what a request that is over has asked
    Retry {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Show the agents and the requests that are not over
    Ps(Json),
    /// Show the daemon's health
    Status(Json),
    /// Show a request with all that is known of it
    Explain(OfRequest),
    /// Cancel a request
    Cancel(OfRequest),
    /// End an agent's program in its pane and start it again, in its conversation
    Restart(restart::Options),
    /// Go to the terminal session that shows the agents
    Attach,
    /// End the agents, their panes and the daemon
    Kill(kill::Options),
    /// Print the end of the daemon's log
    Logs(logs::Options),
    /// Look at all that ccb needs, and say of each fault what mends it
    Doctor(doctor::Options),
    /// Let the commands in this project's configuration take effect
    Trust(trust::Options),
    /// Serve the agents' tools (ask, wait, pend, agents, cancel) by MCP on standard input and output
    Mcp(mcp::Options),
    /// Print the version
    Version(Json),
    /// Run an agent in this pane
    #[command(hide = true)]
    Run(run::Options),
    /// Show an agent that has no interface of its own; started by the pane's runner
    #[command(hide = true)]
    View(view::Options),
}

#[derive(Debug, clap::Args)]
struct Json {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct OfRequest {
    /// The request's id, as `ask` and `ccb ps` print it
    id: String,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs `ccb` with its arguments.
pub(crate) fn run(context: &Context, args: Vec<OsString>) -> Result<u8, CliError> {
    // These have their own ways with words, and need no parser for others.
    match args.first().and_then(|word| word.to_str()) {
        Some("ask") => return ask::run(context, args.into_iter().skip(1).collect()),
        Some("pend") => return pend::run(context, args.into_iter().skip(1).collect()),
        Some("retry") => return retry::run(context, args.into_iter().skip(1).collect()),
        Some("guard") => return guard::run(&args[1..]),
        Some("hook") => return Ok(hook::run(context, &args[1..])),
        _ => {}
    }
    let line = match Line::try_parse_from(std::iter::once("ccb".into()).chain(args)) {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    if line.version {
        return version::run(false);
    }
    match line.command {
        None => start::run(context, &line.start),
        Some(Verb::Ask { rest }) => ask::run(context, rest),
        Some(Verb::Pend { rest }) => pend::run(context, rest),
        Some(Verb::Retry { rest }) => retry::run(context, rest),
        Some(Verb::Ps(options)) => ps::run(context, options.json),
        Some(Verb::Status(options)) => status::run(context, options.json),
        Some(Verb::Explain(options)) => explain::run(context, &options.id, options.json),
        Some(Verb::Cancel(options)) => cancel::run(context, &options.id, options.json),
        Some(Verb::Restart(options)) => restart::run(context, &options),
        Some(Verb::Attach) => attach::run(context),
        Some(Verb::Kill(options)) => kill::run(context, &options),
        Some(Verb::Logs(options)) => logs::run(context, &options),
        Some(Verb::Doctor(options)) => doctor::run(context, &options),
        Some(Verb::Trust(options)) => trust::run(context, &options),
        Some(Verb::Mcp(options)) => mcp::run(context, &options),
        Some(Verb::Version(options)) => version::run(options.json),
        Some(Verb::Run(options)) => run::run(context, &options),
        Some(Verb::View(options)) => view::run(context, options),
    }
}

/// Prints what the parser says: help is an answer, everything else an error of exit code 1 (not clap's 2,
/// which means *no reply* here).
fn usage(error: &clap::Error) -> Result<u8, CliError> {
    let text = error.render().to_string();
    if error.kind() == ErrorKind::DisplayHelp {
        output::print(&text)?;
        return Ok(exit::OK);
    }
    // The first paragraph is what is wrong, tips stand in further ones, and the usage belongs to `--help`.
    let mut paragraphs = text.trim_end().split("\n\n");
    let line = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let message = line(paragraphs.next().unwrap_or_default());
    let error = CliError::new(message.strip_prefix("error: ").unwrap_or(&message));
    let tips = paragraphs.filter_map(|paragraph| Some(line(paragraph).strip_prefix("tip: ")?.to_owned()));
    let error = tips.filter(|tip| !tip.starts_with("to pass")).fold(error, CliError::hint);
    Err(error.hint("`ccb --help` lists commands and options, `ccb <command> --help` those of a command"))
}

/// Returns the words that are commands, for suggestions.
fn verbs() -> Vec<String> {
    use clap::CommandFactory as _;
    Line::command()
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .map(|verb| verb.get_name().to_owned())
        .collect()
}

/// Reads a request id from the command line.
fn request_id(word: &str) -> Result<ccb_core::id::RequestId, CliError> {
    ccb_core::id::RequestId::new(word).map_err(|error| CliError::new(error.to_string()).hint("`ccb ps` lists requests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Line, CliError> {
        Line::try_parse_from(std::iter::once("ccb").chain(words.split_whitespace()))
            .map_err(|error| usage(&error).unwrap_err())
    }

    #[test]
    fn words_that_are_no_commands_are_agents() {
        let line = parse("codex,claude -a reviewer:claude -a").unwrap();
        assert!(line.command.is_none() && line.start.auto);
        assert_eq!(line.start.agents, ["codex,claude", "reviewer:claude"]);
        assert!(matches!(parse("ps --json").unwrap().command, Some(Verb::Ps(Json { json: true }))));
        assert!(parse("-v").unwrap().version);
        assert!(verbs().contains(&"explain".to_owned()) && !verbs().contains(&"run".to_owned()));
    }

    #[test]
    fn usage_errors_are_exit_code_1() {
        let error = parse("explain").unwrap_err();
        assert_eq!((error.code, error.message.lines().count()), (exit::ERROR, 1));
        assert!(error.message.contains("<ID>"), "{error:?}");
        assert_eq!(parse("--bogus").unwrap_err().code, exit::ERROR);
    }
}
