//! What the home says of this worker: `askd.json`, `askd.last.json`, and their heartbeat.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ccb_core::home::file;
use ccb_core::settings::heartbeat_interval;
use ccb_core::time::Time;
use serde_json::json;

use crate::engine::log;
use crate::files::Files;
use crate::life::Unsettled;
use crate::tcp::Address;

/// What `askd.json` and `askd.last.json` say of this worker.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) files: Arc<Files>,
    pub(crate) generation: u64,
    pub(crate) started: Time,
    /// The owner's pid, and the pids of the attached.
    pub(crate) owners: Arc<Mutex<(Option<u32>, Vec<u32>)>>,
    /// The TCP door, if it is open.
    pub(crate) tcp: Option<Address>,
}

impl Record {
    /// Returns what is shown of owner and attached.
    pub(crate) fn shown(&self) -> MutexGuard<'_, (Option<u32>, Vec<u32>)> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, status: &str, reason: Option<&str>) -> std::io::Result<()> {
        let now = crate::clock::wall();
        let work_dir = self.files.home().work_dir();
        let stopped = (status == "stopped").then_some(now);
        let (parent, attached) = self.shown().clone();
        let managed = parent.is_some();
        let last = json!({
            "status": status, "pid": std::process::id(), "started_at": self.started, "heartbeat_at": now,
            "stopped_at": stopped, "exit_reason": reason, "exit_code": stopped.map(|_| 0), "signal": null,
            "generation": self.generation, "work_dir": work_dir, "parent_pid": parent, "managed": managed,
        });
        self.files.write(file::LAST, &format!("{last}\n"))?;
        if stopped.is_some() {
            return Ok(());
        }
        let host = self.tcp.as_ref().map(|tcp| tcp.at.ip().to_string());
        let state = json!({
            "pid": std::process::id(), "host": host, "connect_host": host,
            "port": self.tcp.as_ref().map(|tcp| tcp.at.port()), "token": self.tcp.as_ref().map(|tcp| &*tcp.token),
            "started_at": self.started, "parent_pid": parent, "managed": managed, "work_dir": work_dir,
            "attached": attached,
            "socket": self.files.path(file::SOCKET), "version": env!("CARGO_PKG_VERSION"),
            "protocol": ccb_core::wire::PROTOCOL, "generation": self.generation,
        });
        self.files.write(file::STATE, &format!("{state}\n"))
    }
}

/// Writes a heartbeat while requests are unsettled; an idle daemon does not write.
pub(crate) async fn heartbeat(record: Record, unsettled: Arc<Unsettled>) {
    let interval = heartbeat_interval(std::env::var("CCB_HEARTBEAT_INTERVAL_S").ok().as_deref());
    loop {
        let changed = unsettled.changed.notified();
        if unsettled.any() {
            if let Err(error) = record.write("running", None) {
                log(&format!("no heartbeat: {error}"));
            }
            tokio::time::timeout(interval, changed).await.ok();
        } else {
            changed.await;
        }
    }
}

/// Says in words how the worker before us ended.
pub(crate) fn last_end(files: &Files) -> Option<String> {
    let text = std::fs::read_to_string(files.path(file::LAST)).ok()?;
    let last: serde_json::Value = serde_json::from_str(&text).ok()?;
    let reason = last["exit_reason"].as_str().unwrap_or("no reason was written down");
    Some(match last["status"].as_str() {
        Some("running") => format!("worker {} ended without a word; its keeper did not live to say how", last["pid"]),
        Some(status) => format!("worker {} {status}: {reason}", last["pid"]),
        None => return None,
    })
}
