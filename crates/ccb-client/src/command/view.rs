//! `ccb view <agent> … -- <program>`: shows an agent that has no interface of its own; started by the pane's runner.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use clap::Args;

use super::Context;
use crate::error::CliError;
use crate::pane::group::Marked;
use crate::program;
use crate::view::window::{self, Plan};

/// The variable that says how long (s) an agent's program may take to begin a session or a turn, and what it is without.
const PATIENCE: &str = "CCB_VIEW_PATIENCE_S";
const DEFAULT: u64 = 60;

/// What the runner says.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The agent
    agent: String,
    /// The socket to which askd connects
    #[arg(long)]
    socket: PathBuf,
    /// The session to go on in
    #[arg(long)]
    session: Option<String>,
    /// Whether the agent acts without asking
    #[arg(long)]
    auto: bool,
    /// The agent's program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

pub(super) fn run(context: &Context, options: Options) -> Result<u8, CliError> {
    let home = context.environment.text("HOME").unwrap_or_default();
    let patience = context.environment.text(PATIENCE).and_then(|text| text.parse().ok()).unwrap_or(DEFAULT);
    let own = program::own()?;
    let log = options.socket.with_extension("log");
    let argv = options.program;
    let marked = Rc::new(Marked::new(&own, &argv[1..]));
    let marks = marked.clone();
    let command = move || -> io::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
        let mut command = Command::new(&own);
        command.arg("guard").arg(std::process::id().to_string()).args(["--kill", "--"]).args(&argv);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        marks.mark(&mut command);
        Ok(command)
    };
    let plan = Plan {
        agent: options.agent.clone(),
        session: options.session,
        auto: options.auto,
        raised: options.socket.with_extension("auto"),
        sessions: PathBuf::from(home).join(".factory/sessions"),
        socket: options.socket,
        command: Box::new(command),
        left: marked,
        patience: Duration::from_secs(patience),
        cwd: context.cwd.display().to_string(),
    };
    window::run(plan).map_err(|error| {
        CliError::new(format!("cannot show `{}`: {error}", options.agent)).hint("`ccb view` is started by `ccb` itself")
    })
}
