//! `ccb status`: the daemon's health, and how the one before it ended.

use ccb_core::wire::Status;

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, display, output};

pub(super) fn run(context: &Context, json: bool) -> Result<u8, CliError> {
    let health = Askd::here(context)?.call(&Status {})?;
    output::show(json, &health, display::health)
}
