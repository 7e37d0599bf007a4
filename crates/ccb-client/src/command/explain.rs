//! `ccb explain <id>`: a request with every fact behind its state.

use ccb_core::wire::Explain;
use jiff::tz::TimeZone;

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, display, output};

pub(super) fn run(context: &Context, id: &str, json: bool) -> Result<u8, CliError> {
    let explanation = Askd::here(context)?.call(&Explain { id: super::request_id(id)? })?;
    output::show(json, &explanation, |explanation| display::explanation(explanation, &TimeZone::system()))
}
