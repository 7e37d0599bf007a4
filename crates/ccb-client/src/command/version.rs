//! `ccb version`.

use serde::Serialize;

use crate::error::CliError;
use crate::output;

#[derive(Serialize)]
struct Version {
    version: &'static str,
    protocol: u32,
}

pub(super) fn run(json: bool) -> Result<u8, CliError> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), protocol: ccb_core::wire::PROTOCOL };
    output::show(json, &version, |version| format!("ccb {}", version.version))
}
