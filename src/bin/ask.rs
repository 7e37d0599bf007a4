//! `ask`: hands a request to an agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    ccb_client::main("ask".as_ref(), std::env::args_os().skip(1).collect())
}
