//! A stand-in for the command line of an AI coding agent, for tests and the demo.
//!
//! It draws a terminal interface as the real ones do (a conversation, a composer between two rules, a status line), takes
//! bracketed pastes, and writes the same transcript records. What it answers is chosen by directives in the prompt, so that a
//! test can make it slow, silent, long-winded or crash. It talks to nobody: no network, no model.

mod agent;
mod answer;
mod app_server;
mod command;
mod composer;
mod control;
mod conversation;
mod events;
mod exec;
mod factory;
mod input;
mod options;
mod pane;
mod records;
mod screen;
mod terminal;

use std::io::Write as _;
use std::process::ExitCode;

use options::{Parsed, USAGE};

fn main() -> ExitCode {
    match options::parse(std::env::args().skip(1)) {
        Ok(Parsed::Help) => {
            write!(std::io::stdout(), "{USAGE}").ok();
            ExitCode::SUCCESS
        }
        Ok(Parsed::Run(options)) if exec::is_asked_for(&options) => match exec::run(&options) {
            Ok(status) => ExitCode::from(status),
            Err(error) => complain(&error.to_string(), 1),
        },
        Ok(Parsed::Run(options)) if app_server::is_asked_for(&options) => match app_server::run(&options) {
            Ok(status) => ExitCode::from(status),
            Err(error) => complain(&error.to_string(), 1),
        },
        Ok(Parsed::Run(options)) => match pane::run(*options) {
            Ok(status) => ExitCode::from(status),
            Err(error) => complain(&error.to_string(), 1),
        },
        Err(message) => complain(&message, 2),
    }
}

/// Writes why nothing came of it, and returns the exit status for that.
fn complain(message: &str, status: u8) -> ExitCode {
    writeln!(std::io::stderr(), "stub-agent: {message}").ok();
    ExitCode::from(status)
}
