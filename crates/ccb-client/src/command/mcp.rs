//! `ccb mcp`: the agents' way to each other where a shell cannot go: tools by MCP on standard input and output.
//!
//! An agent's CLI starts this program itself and outside its sandbox, so askd's socket is open to it. It is one
//! more client of that socket; who asks is found by askd, from the process that this one descends from.

mod calls;
mod tools;
mod transport;

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use rmcp::ServiceExt as _;
use rmcp::service::ServerInitializeError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use self::calls::Desk;
use self::tools::Tools;
use self::transport::{Receipts, Stdio};
use crate::connection::Lines;
use crate::error::CliError;
use crate::{Context, exit, wake};

/// How long answers that are being written may take once the client has gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The project's directory (default: the one that the current directory is in)
    #[arg(long)]
    project: Option<PathBuf>,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<u8, CliError> {
    let cannot = |error: io::Error| CliError::new(format!("cannot serve MCP: {error}"));
    let desk = Desk::new(context, options.project.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let (line, lines) = unbounded_channel();
    let (close, mut closed) = watch::channel(false);
    let ends = wake::signal(&[SIGTERM, SIGINT, SIGHUP]).map_err(cannot)?;
    std::thread::spawn(move || {
        read(&ends, &line);
        close.send_replace(true);
    });
    let served = runtime.block_on(async {
        let receipts = Receipts::default();
        let transport = Stdio::new(lines, io::stdout(), receipts.clone());
        let service = match Tools::new(desk, receipts, closed.clone()).serve(transport).await {
            Ok(service) => service,
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(CliError::new(format!("the MCP client has broken off: {error}"))),
        };
        // Nobody listens any more once the input has ended: an answer on its way has a moment, and no more.
        let over = async {
            let _ = closed.wait_for(|closed| *closed).await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            _ = service.waiting() => {}
            () = over => {}
        }
        Ok(())
    });
    // A thread may still be at askd: it holds nothing that must be told.
    runtime.shutdown_background();
    served.map(|()| exit::OK)
}

/// Reads lines from standard input, until it ends or a signal wants it.
fn read(ends: &std::os::unix::net::UnixStream, lines: &UnboundedSender<String>) {
    let stdin = io::stdin();
    let mut parts = Lines::default();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match wake::any(&[ends.as_fd(), stdin.as_fd()], None) {
            Ok(ready) if !ready[0] => {}
            Ok(_) | Err(_) => return,
        }
        let count = match rustix::io::read(&stdin, &mut *chunk) {
            Ok(0) => return,
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(_) => return,
        };
        if parts.add(&chunk[..count]).is_err() {
            return;
        }
        while let Some(line) = parts.take() {
            if lines.send(line).is_err() {
                return;
            }
        }
    }
}
