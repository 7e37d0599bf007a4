//! `askd`: the daemon of one project.

use std::process::ExitCode;

fn main() -> ExitCode {
    ccb_daemon::main(std::env::args_os().skip(1))
}
