//! What a user of ccb sees: the commands `ccb`, `ask` and `pend`, and the runner in each agent's pane.
//!
//! Everything here is a client of askd's one socket. Nothing here decides anything about a request, opens the
//! store, or ends a process that it has not started itself.

mod clock;
mod command;
mod connect;
mod connection;
mod display;
mod environment;
mod error;
mod instance;
mod keeper;
mod output;
mod pane;
mod program;
mod project;
mod view;
mod wake;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use environment::Environment;
use error::CliError;

/// The exit codes, as in CCB 5.2; they are never reused.
mod exit {
    /// Done.
    pub(crate) const OK: u8 = 0;
    /// An error, or a command line that cannot be understood.
    pub(crate) const ERROR: u8 = 1;
    /// No reply, or not a whole one.
    pub(crate) const NO_REPLY: u8 = 2;
    /// Stopped by Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// What a command is given besides its arguments.
struct Context {
    environment: Environment,
    cwd: PathBuf,
}

/// Runs the command that `name` (the program's name, with or without a directory) and `args` say.
pub fn main(name: &OsStr, args: Vec<OsString>) -> ExitCode {
    let result = Context::of_process().and_then(|context| dispatch(&context, name, args));
    ExitCode::from(result.unwrap_or_else(|error| {
        error::print(&error);
        error.code
    }))
}

fn dispatch(context: &Context, name: &OsStr, args: Vec<OsString>) -> Result<u8, CliError> {
    let name = Path::new(name).file_stem().and_then(OsStr::to_str).unwrap_or("ccb");
    match name {
        "ask" => command::ask::run(context, args),
        "pend" => command::pend::run(context, args),
        "ccb-cleanup" => command::run(context, std::iter::once("doctor".into()).chain(args).collect()),
        _ => command::run(context, args),
    }
}

impl Context {
    fn of_process() -> Result<Self, CliError> {
        let cwd = std::env::current_dir()
            .map_err(|e| CliError::new(format!("cannot tell the current directory: {e}")).hint("cd to a directory"))?;
        Ok(Self { environment: Environment::of_process(), cwd })
    }
}
