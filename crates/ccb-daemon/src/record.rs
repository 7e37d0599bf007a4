//! What the home says of this worker: `askd.json`, `askd.last.json`, and their heartbeat.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ccb_core::home::file;
use ccb_core::settings::heartbeat_interval;
use ccb_core::time::Time;
use serde_json::{Value, json};

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
    /// How many workers have ended otherwise than in order since the last orderly end.
    pub(crate) restarts: u64,
    /// Held while the files are written, which several threads do; true once they say how this worker ends.
    pub(crate) closed: Arc<Mutex<bool>>,
}

impl Record {
    /// From now on nothing says any more that this worker runs.
    pub(crate) fn close(&self) {
        *self.closed() = true;
    }

    fn closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is shown of owner and attached.
    pub(crate) fn shown(&self) -> MutexGuard<'_, (Option<u32>, Vec<u32>)> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, status: &str, reason: Option<&str>) -> std::io::Result<()> {
        let closed = self.closed();
        if *closed && status == "running" {
            return Ok(());
        }
        let now = crate::clock::wall();
        let stopped = (status == "stopped").then_some(now);
        let parent = self.shown().0;
        let managed = parent.is_some();
        let last = json!({
            "status": status, "pid": std::process::id(), "started_at": self.started, "heartbeat_at": now,
            "stopped_at": stopped, "exit_reason": reason, "exit_code": stopped.map(|_| 0), "signal": null,
            "generation": self.generation, "work_dir": self.files.home().work_dir(), "parent_pid": parent,
            "managed": managed, "restarts": self.restarts,
        });
        self.files.write(file::LAST, &format!("{last}\n"))?;
        if stopped.is_some() || self.has_state() {
            return Ok(());
        }
        self.files.write(file::STATE, &self.state())
    }

    /// What `askd.json` is to say.
    fn state(&self) -> String {
        let host = self.tcp.as_ref().map(|tcp| tcp.at.ip().to_string());
        let (parent, attached) = self.shown().clone();
        let state = json!({
            "pid": std::process::id(), "host": host, "connect_host": host,
            "port": self.tcp.as_ref().map(|tcp| tcp.at.port()), "token": self.tcp.as_ref().map(|tcp| &*tcp.token),
            "started_at": self.started, "parent_pid": parent, "managed": parent.is_some(), "attached": attached,
            "work_dir": self.files.home().work_dir(), "socket": self.files.path(file::SOCKET),
            "version": env!("CARGO_PKG_VERSION"), "protocol": ccb_core::wire::PROTOCOL,
            "generation": self.generation,
        });
        format!("{state}\n")
    }

    fn has_state(&self) -> bool {
        std::fs::read(self.files.path(file::STATE)).is_ok_and(|found| found == self.state().as_bytes())
    }

    /// Whether `askd.last.json` says that this worker runs.
    fn has_last(&self) -> bool {
        let last = last(&self.files);
        last["status"] == "running" && last["pid"] == std::process::id() && last["generation"] == self.generation
    }

    /// Writes the two files again where somebody has deleted, damaged or changed them; else nothing is written.
    pub(crate) fn heal(&self) {
        if *self.closed() || self.has_state() && self.has_last() {
            return;
        }
        log("askd.json or askd.last.json is not what it was: written again");
        if let Err(error) = self.write("running", None) {
            log(&format!("cannot write them: {error}"));
        }
    }
}

/// Writes a heartbeat while requests are unsettled; an idle daemon does not write.
pub(crate) async fn heartbeat(record: Record, unsettled: Arc<Unsettled>) {
    let interval = heartbeat_interval(std::env::var("CCB_HEARTBEAT_INTERVAL_S").ok().as_deref());
    loop {
        let changed = unsettled.changed.notified();
        if unsettled.any() {
            // Not here: a disk that stalls must not keep this thread from answering the keeper.
            let record = record.clone();
            let written = tokio::task::spawn_blocking(move || record.write("running", None)).await;
            if let Ok(Err(error)) = written {
                log(&format!("no heartbeat: {error}"));
            }
            tokio::time::timeout(interval, changed).await.ok();
        } else {
            changed.await;
        }
    }
}

/// How the worker before us ended.
#[derive(Clone, Debug)]
pub(crate) struct LastEnd {
    /// In words.
    pub(crate) how: String,
    /// When, if that was written down.
    pub(crate) at: Option<Time>,
    /// How many have ended otherwise than in order since the last that did, this one included.
    pub(crate) restarts: u64,
}

/// What `askd.last.json` says; null if it says nothing.
pub(crate) fn last(files: &Files) -> Value {
    let text = std::fs::read_to_string(files.path(file::LAST)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Says how the worker before us ended.
pub(crate) fn last_end(files: &Files) -> Option<LastEnd> {
    let last = last(files);
    let status = last["status"].as_str()?;
    let reason = last["exit_reason"].as_str().unwrap_or("no reason was written down");
    let how = match status {
        "running" | "stopping" => {
            format!("worker {} ended without a word; its keeper did not live to say how", last["pid"])
        }
        status => format!("worker {} {status}: {reason}", last["pid"]),
    };
    let before = last["restarts"].as_u64().unwrap_or(0);
    let restarts = if status == "stopped" { 0 } else { before + 1 };
    Some(LastEnd { how, at: last["stopped_at"].as_i64().map(Time), restarts })
}
