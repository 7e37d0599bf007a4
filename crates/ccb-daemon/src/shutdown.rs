//! `askd --shutdown`: has the project's daemon end in order. The predecessor's command; `ccb kill` ends the agents too.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ccb_core::home::{Home, file};
use ccb_core::settings::truthy;
use ccb_core::wire::{self, Reply};
use rustix::fs::{Mode, OFlags};

/// How long the daemon may take for an answer, and to end.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks the daemon of the project to end, and waits until it has.
pub(crate) fn run(home: &Home) -> anyhow::Result<ExitCode> {
    let nobody = || format!("no askd serves `{}`", home.work_dir().display());
    let opened = rustix::fs::open(home.root(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.with_context(nobody)?;
    let stream = UnixStream::connect(home.socket(file::SOCKET, opened.as_raw_fd())).with_context(nobody)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let wire::Program { protocol, version } = crate::server::program();
    let hello = wire::Hello { protocol, version, project: home.project().into(), role: "client".into() };
    let force = std::env::var("CCB_FORCE_REBIND").is_ok_and(|word| truthy(&word));
    let by = "`askd --shutdown`".to_owned();
    let shutdown = wire::Shutdown { panes: false, by, unless_owned: !force };
    (&stream).write_all(format!("{}{}", wire::call_line(1, &hello), wire::call_line(2, &shutdown)).as_bytes())?;
    let mut lines = BufReader::new(&stream).lines();
    while let Some(line) = lines.next().transpose().context("askd does not answer")? {
        match wire::parse_reply(&line)? {
            Reply::Answer { result: Err(refusal), .. } => {
                let hint = refusal.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                anyhow::bail!("{}{hint}", refusal.message);
            }
            Reply::Answer { .. } | Reply::Notice { .. } => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
