//! `ccb`, and whatever name a link gives it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    ccb_client::main(&name, args.collect())
}
