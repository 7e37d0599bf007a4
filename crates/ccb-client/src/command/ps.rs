//! `ccb ps`: the agents, and the requests that are not over.

use ccb_core::wire::Ps;

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, clock, display, output};

pub(super) fn run(context: &Context, json: bool) -> Result<u8, CliError> {
    let overview = Askd::here(context)?.call(&Ps {})?;
    output::show(json, &overview, |overview| display::overview(overview, clock::present()))
}
