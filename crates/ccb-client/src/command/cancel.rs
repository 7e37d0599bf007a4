//! `ccb cancel <id>`: ends a request in whatever state it is.

use ccb_core::wire::Cancel;

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, display, output};

pub(super) fn run(context: &Context, id: &str, json: bool) -> Result<u8, CliError> {
    let askd = Askd::here(context)?;
    let by = askd.caller.clone().unwrap_or_else(|| "manual".to_owned());
    let request = askd.call(&Cancel { id: super::request_id(id)?, by })?;
    output::show(json, &request, |request| match &request.settlement {
        Some(_) => format!("{}: {}", request.id, display::state(request)),
        None => format!("{}: the agent is asked to stop; `ccb explain {}` shows when it has", request.id, request.id),
    })
}
