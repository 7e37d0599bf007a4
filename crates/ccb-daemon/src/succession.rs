//! From one worker to the next: what a worker brings over that has lost its files, and how the next one takes it in.
//!
//! A worker whose database was deleted still has it open, with all requests in it. It writes a copy into the home that
//! the next worker will find, and ends. The next one has waited for its end (see [`Claim`]) and merges the copy before
//! it looks at anything else: so start-up stays the only way of recovery.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use ccb_core::home::file;
use ccb_core::request::Stage;
use tokio::time::Instant;

use crate::door::Door;
use crate::engine::{Engine, Rest, log};
use crate::files::Files;
use crate::lock::{Claim, Lock};
use crate::process::{Identity, Signal};
use crate::store::{Store, set_aside};

/// How soon a lock or a claim that is held is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// How long a predecessor that is being killed may hold the lock.
const LOCK: Duration = Duration::from_secs(2);

/// How long a predecessor may take to bring its requests over.
const CLAIM: Duration = Duration::from_secs(15);

/// How long a hand-over to an agent that is under way may still take before this worker ends.
pub(crate) const HAND_OVERS: Duration = Duration::from_secs(2);

/// How long a copy is tried that cannot be written.
pub(crate) const COPY: Duration = Duration::from_secs(60);

/// How often meanwhile.
const COPY_RETRY: Duration = Duration::from_millis(200);

/// How long a tmux server may take to open its socket again.
const SOCKET: Duration = Duration::from_secs(1);

/// What the names of copies begin and end with.
const LEFT: (&str, &str) = ("left-", ".db");

/// Under which key it is kept that a store was not there, with how many daemons have ended since.
const MISSING: &str = "missing";

/// What else of the home a successor needs to go on with the agents that run: as it last was.
#[derive(Debug, Default)]
pub(crate) struct Keepsakes(Mutex<BTreeMap<&'static str, Vec<u8>>>);

impl Keepsakes {
    /// Looks at the files as they are now. One that cannot be read stays as it was.
    pub(crate) fn look(&self, files: &Files) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in [file::TRUST, crate::keeper::SETTINGS, crate::mount::ENVIRONMENT] {
            if let Ok(bytes) = std::fs::read(files.path(name)) {
                kept.insert(name, bytes);
            }
        }
    }

    /// Writes those again that are not there.
    fn restore(&self, files: &Files) -> std::io::Result<()> {
        for (name, bytes) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let path = files.path(name);
            if !path.exists() {
                crate::files::write_durable(&path, bytes)?;
            }
        }
        Ok(())
    }
}

/// Takes the worker's lock, and then the claim. None if somebody else keeps one of them.
pub(crate) async fn take_locks(files: &Files) -> anyhow::Result<Option<(Lock, Claim)>> {
    let lock = until(LOCK, || Lock::take(&files.path(file::WORKER_LOCK))).await?;
    let Some(lock) = lock else { return Ok(None) };
    let claim = until(CLAIM, || Claim::take(files.home())).await?;
    Ok(claim.map(|claim| (lock, claim)))
}

async fn until<T>(limit: Duration, mut take: impl FnMut() -> std::io::Result<Option<T>>) -> anyhow::Result<Option<T>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(taken) = take()? {
            return Ok(Some(taken));
        }
        if end <= Instant::now() {
            return Ok(None);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Opens the store with all that earlier workers have left, and returns it with what users are to be told.
pub(crate) fn open_store(files: &Files) -> anyhow::Result<(Store, Vec<String>)> {
    let path = files.path(file::STORE);
    let mut store = Store::open_or_set_aside(&path)?;
    let mut notes = store.salvage(&path)?;
    let mut all_here = false;
    for left in left_behind(files) {
        match store.merge(&left) {
            Ok(brought) => {
                all_here |= brought.newer && !brought.torn;
                log(&format!("took in {} of {} requests from `{}`", brought.taken, brought.read, left.display()));
                crate::files::remove_if_there(&left)?;
            }
            // It stays where it is, and is tried again at the next start.
            Err(error) => notes.push(format!("requests of an earlier askd could not be taken in: {error:#}")),
        }
    }
    let ended = store.settle_gone_over(store.latest_moment()?, all_here)?;
    if ended > 0 {
        log(&format!(
            "this home had been moved away: {ended} requests in it had gone over to another one, and are over here"
        ));
    }
    if notes.is_empty() && store.meta("generation")?.is_none() && has_served(files) {
        let words =
            format!("the store `{}` was empty or not there: what was asked before is not known", path.display());
        log(&words);
        store.remember(MISSING, format!("0 {words}"));
    }
    notes.extend(missed(&mut store, files)?);
    Ok((store, notes))
}

/// Returns what users are told of a store that was not there: by the daemon that has found it so, however often its
/// worker is replaced, and by the next one.
fn missed(store: &mut Store, files: &Files) -> anyhow::Result<Option<String>> {
    let Some(kept) = store.meta(MISSING)? else { return Ok(None) };
    let Some((ends, words)) = kept.split_once(' ') else { return Ok(None) };
    let orderly = crate::record::last(files)["status"] == "stopped" && store.meta("generation")?.is_some();
    let ends = ends.parse::<u64>().unwrap_or(0) + u64::from(orderly);
    store.remember(MISSING, if ends > 1 { String::new() } else { format!("{ends} {words}") });
    Ok((ends <= 1).then(|| words.to_owned()))
}

/// Returns whether a worker has served in this home before, which must have left a store.
fn has_served(files: &Files) -> bool {
    crate::record::last(files)["generation"].as_u64().is_some_and(|generation| generation > 0)
}

fn left_behind(files: &Files) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(files.path(file::RUN)).into_iter().flatten().flatten();
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(LEFT.0));
    let (mut left, parts): (Vec<PathBuf>, Vec<PathBuf>) = entries
        .filter(named)
        .map(|entry| entry.path())
        .partition(|path| path.extension().is_some_and(|end| end == LEFT.1.trim_start_matches('.')));
    // Whoever wrote a part that is not whole has died at it.
    for part in parts {
        crate::files::remove_if_there(&part).ok();
    }
    left.sort();
    left
}

/// Waits until no hand-over to an agent is under way: one that is cut off would leave its request unknown.
pub(crate) async fn finish_hand_overs(engine: &Engine, limit: Duration) {
    let offering = || {
        engine.look(|view| view.state.requests.values().any(|request| matches!(request.stage, Stage::Offering { .. })))
    };
    let end = Instant::now() + limit;
    while Instant::now() < end {
        match tokio::time::timeout_at(end, offering()).await {
            Ok(Ok(true)) => tokio::time::sleep(RETRY).await,
            Ok(Ok(false) | Err(_)) | Err(_) => return,
        }
    }
}

/// Brings over what the next worker would not find: the requests, if the database is not at its path any more. A
/// damaged database is set aside for it.
pub(crate) async fn leave(door: &Door, rest: Rest) {
    let Rest { mut store, requests } = rest;
    let (files, ground) = (&door.files, &door.ground);
    if let Some(damage) = store.damage() {
        store.abandon();
        if ground.has_store()
            && let Err(error) = set_aside(&files.path(file::STORE), &damage)
        {
            log(&format!("{error:#}"));
        }
        // What is in memory may stand on a page that cannot be read any more.
        if let Err(error) = write_left(door, |part| Store::open(part)?.commit(&requests, &[])) {
            log(&format!("the requests in memory cannot be brought over: {error:#}"));
        }
        return;
    }
    if ground.has_store() {
        return;
    }
    let end = Instant::now() + COPY;
    let whole = loop {
        match write_left(door, |part| store.copy_to(part)) {
            Ok(whole) => break whole,
            Err(error) => log(&format!("the requests cannot be brought over to the next worker: {error:#}")),
        }
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep(COPY_RETRY).await;
    };
    // The home may only have been moved away: nothing in it is sent again when it comes back.
    if let Err(error) = store.mark_gone_over(&whole) {
        log(&format!("the former store cannot be marked as gone over: {error:#}"));
    }
}

/// Writes a store for the next worker to take in.
fn write_left(door: &Door, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
    // The home may be gone, or another directory.
    let files = Files::open(door.files.home().clone())?;
    door.keepsakes.restore(&files).context("cannot write what the agents need")?;
    let name = format!("{}{}-{}{}", LEFT.0, door.generation, std::process::id(), LEFT.1);
    let run = files.path(file::RUN);
    let (whole, part) = (run.join(&name), run.join(format!("{name}.new")));
    crate::files::remove_if_there(&part)?;
    write(&part)?;
    std::fs::rename(&part, &whole).with_context(|| format!("cannot write `{}`", whole.display()))?;
    std::fs::File::open(&run)?.sync_all()?;
    log(&format!("the requests are left to the next worker in `{}`", whole.display()));
    Ok(whole)
}

/// Has our own tmux server open its socket again, if that was deleted with the home, or is another file on a disk that
/// was mounted anew: without it the panes live and cannot be reached. The server is the parent of what runs in its panes.
pub(crate) async fn mend_socket(socket: &Path, panes: impl Iterator<Item = &Identity>) {
    if is_served(socket).await {
        return;
    }
    let servers = panes.filter(|pane| pane.is_alive()).filter_map(|pane| pane.parent_named(crate::tmux::PROCESS));
    for server in servers.collect::<Vec<_>>() {
        log(&format!("tmux server {} has lost its socket: it is asked to open it again", server.pid));
        if server.signal(Signal::USR1).unwrap_or(false) {
            let end = Instant::now() + SOCKET;
            while !is_served(socket).await && Instant::now() < end {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Returns whether somebody listens at a socket, as far as can be told.
async fn is_served(socket: &Path) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match tokio::net::UnixStream::connect(socket).await {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), NotFound | ConnectionRefused),
    }
}
