//! `ccb restart <agent>`: ends an agent's program in its pane and starts it again there, in its session.

use std::time::Duration;

use ccb_core::wire::{Restart, Restarted};

use super::start;
use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, output};

/// How long an agent may take to end and to be started.
const RESTART_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The agent
    agent: String,
    /// Restart it whatever it is doing: a request that it works on is settled by what is there, and not sent again
    #[arg(short, long)]
    force: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<u8, CliError> {
    let restart = Restart {
        agent: options.agent.clone(),
        force: options.force,
        host: start::host(&context.environment),
        env: context.environment.for_agents(),
    };
    let restarted = Askd::here(context)?.call_within(&restart, RESTART_LIMIT)?;
    output::show(options.json, &restarted, told)
}

fn told(restarted: &Restarted) -> String {
    let Restarted { agent, ran, cut_off } = restarted;
    match (ran, cut_off) {
        (false, _) => format!("{agent} was not running, and has been started"),
        (true, None) => format!("{agent} has been started again"),
        (true, Some(id)) => {
            format!("{agent} has been started again; `ccb explain {id}` shows what became of what it was at")
        }
    }
}
