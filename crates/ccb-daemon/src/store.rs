//! The store: the only file with SQL in it. One connection, held by the engine's thread alone.
//!
//! A store that turns out to be damaged is set aside, and what can still be read of it is [merged](Store::merge) into a
//! new one. The same merge takes in what a worker has brought over whose database was deleted under it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ccb_core::id::{AgentName, RequestId};
use ccb_core::outcome::{Failure, Outcome};
use ccb_core::request::{Evidence, Request, Settlement, Stage};
use ccb_core::time::Time;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

/// The schema, one step a version. A released step is never changed.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE request (
        id TEXT PRIMARY KEY,
        seq INTEGER NOT NULL UNIQUE,
        agent TEXT NOT NULL,
        notice INTEGER NOT NULL,
        open INTEGER NOT NULL,
        accepted INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX request_open ON request (seq) WHERE open = 1;
    CREATE INDEX request_agent ON request (agent, notice, seq);
    CREATE TABLE evidence (
        request TEXT NOT NULL,
        n INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (request, n)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// How large (bytes) the log that SQLite writes ahead may stay after it was worked off.
const JOURNAL_LIMIT: i64 = 4 << 20;

/// What stands between a store's name and the moment at which it was set aside.
const DAMAGED: &str = ".damaged-";

/// Under which key a store says that all that is open in it has gone over to the store of another home.
const GONE_OVER: &str = "gone-over";

/// The opened store. Neither `Clone` nor shared: whoever has it is the engine.
pub(crate) struct Store {
    db: Connection,
    /// What is to be kept under keys and could not be written yet; the next commit writes it.
    unwritten: BTreeMap<String, String>,
    /// What has shown that the database is damaged, once it has.
    damage: RefCell<Option<String>>,
}

/// What a merge has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    /// How many requests were new here, or had come further there.
    pub(crate) taken: u64,
    /// How many requests could be read there.
    pub(crate) read: u64,
    /// Whether something there could not be read.
    pub(crate) torn: bool,
    /// Whether a later worker than any here had it, which has all that is here.
    pub(crate) newer: bool,
}

impl Store {
    /// Opens the database at `path`, made and brought to the present schema if need be.
    ///
    /// It is opened exclusively: a second worker cannot write here even if every lock failed. A database
    /// of a newer ccb is refused by name.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let name = || format!("cannot open the store `{}`", path.display());
        let mut db = Connection::open(path).with_context(name)?;
        db.busy_timeout(std::time::Duration::from_millis(500))?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL").with_context(name)?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "cache_size", -1024)?;
        db.pragma_update(None, "journal_size_limit", JOURNAL_LIMIT)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).with_context(name)?;
        let version = usize::try_from(version).with_context(name)?;
        if version > MIGRATIONS.len() {
            anyhow::bail!(
                "the store `{}` has schema {version}, this ccb knows {}: it was written by a newer ccb",
                path.display(),
                MIGRATIONS.len()
            );
        }
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive).with_context(name)?;
        for migration in &MIGRATIONS[version..] {
            tx.execute_batch(migration).with_context(name)?;
            tx.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len())?)?;
        }
        tx.commit().with_context(name)?;
        Ok(Self { db, unwritten: BTreeMap::new(), damage: RefCell::new(None) })
    }

    /// Opens the database at `path`; one that is damaged is set aside first, for [`Store::salvage`].
    pub(crate) fn open_or_set_aside(path: &Path) -> anyhow::Result<Self> {
        // What a start reads is read at once. Reading all would cost a start that grows with history.
        let read = |store: &Self| -> anyhow::Result<()> {
            store.open_requests()?;
            store.horizon()?;
            store.meta("generation").map(drop)
        };
        let error = match Self::open(path) {
            Ok(store) => match read(&store) {
                Ok(()) => return Ok(store),
                Err(error) => {
                    if is_damage(&error) {
                        store.abandon();
                    }
                    error
                }
            },
            Err(error) => error,
        };
        if !is_damage(&error) {
            return Err(error);
        }
        set_aside(path, &format!("{error:#}"))?;
        Self::open(path)
    }

    /// Commits requests with their evidence, all or nothing, to the disk.
    pub(crate) fn commit(&mut self, saves: &[Request], notes: &[(RequestId, Evidence)]) -> anyhow::Result<()> {
        let done = self.try_commit(saves, notes);
        self.judged(done)
    }

    /// Returns whether an error that a commit gave lies in this connection: the files beside it, and the disk they are
    /// on, can be written.
    pub(crate) fn is_broken(&self, error: &anyhow::Error) -> bool {
        let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<rusqlite::Error>());
        let unwritable = causes.any(|cause| match cause {
            rusqlite::Error::SqliteFailure(error, _) => {
                matches!(error.code, ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen)
            }
            _ => false,
        });
        unwritable && self.db.path().is_some_and(|path| can_be_written(Path::new(path)))
    }

    fn try_commit(&mut self, saves: &[Request], notes: &[(RequestId, Evidence)]) -> anyhow::Result<()> {
        #[cfg(debug_assertions)]
        if crate::failpoint::fails("store.refuse") {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_WRITE);
            return Err(rusqlite::Error::SqliteFailure(code, None).into());
        }
        if !self.db.is_autocommit() {
            // A failed commit that could not even be taken back.
            self.db.execute_batch("ROLLBACK")?;
        }
        let tx = self.db.transaction()?;
        for request in saves {
            put(&tx, request)?;
        }
        for (id, evidence) in notes {
            note(&tx, id.as_str(), &serde_json::to_string(evidence)?)?;
        }
        for (key, value) in &self.unwritten {
            keep(&tx, key, value)?;
        }
        tx.commit()?;
        self.unwritten.clear();
        Ok(())
    }

    /// Returns what has shown that the database is damaged, if something has.
    pub(crate) fn damage(&self) -> Option<String> {
        self.damage.borrow().clone()
    }

    /// Remembers an error that only a damaged database gives.
    fn judged<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        if let Err(error) = &result
            && is_damage(error)
        {
            self.damage.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
        }
        result
    }

    /// Closes a damaged database as it is.
    pub(crate) fn abandon(self) {
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok();
    }

    /// Writes a copy of all that is in it to `path`, to the disk.
    pub(crate) fn copy_to(&mut self, path: &Path) -> anyhow::Result<()> {
        if !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK")?;
        }
        let text = path.to_str().context("a path that is not UTF-8")?;
        self.db.execute("VACUUM INTO ?1", [text])?;
        if !self.unwritten.is_empty() {
            // The disk of this one may never take it.
            let mut copy = Self::open(path)?;
            copy.unwritten.clone_from(&self.unwritten);
            copy.commit(&[], &[])?;
        }
        std::fs::File::open(path)?.sync_all()?;
        Ok(())
    }

    /// Takes in the stores beside `path` that were set aside and have not been looked at yet, as far as they can be
    /// read, and returns what users are told of all those that lie there.
    pub(crate) fn salvage(&mut self, path: &Path) -> anyhow::Result<Vec<String>> {
        let mut told = Vec::new();
        for damaged in set_aside_before(path) {
            let key = format!("salvaged.{}", damaged.file_name().unwrap_or_default().display());
            let words = if let Some(words) = self.meta(&key)? {
                words
            } else {
                let brought = self.merge(&damaged).unwrap_or(Brought { torn: true, ..Brought::default() });
                let words = format!(
                    "the store was damaged and has been set aside as `{}`; {} requests could be read in it and are \
                     kept{}",
                    damaged.display(),
                    brought.read,
                    if brought.torn { ", others could not" } else { "" },
                );
                crate::engine::log(&words);
                self.set_meta(&key, &words)?;
                words
            };
            told.push(words);
        }
        Ok(told)
    }

    /// Takes in what another store has: requests that are not here, and those that have come further there. All or
    /// nothing is kept of what can be read; what cannot be read there is left out.
    pub(crate) fn merge(&mut self, from: &Path) -> anyhow::Result<Brought> {
        let there = Other::open(from)?;
        let newer = there.generation() >= self.meta("generation")?.and_then(|n| n.parse().ok()).unwrap_or(0);
        let (mut top, _) = self.horizon()?;
        let mut brought = Brought { newer, ..Brought::default() };
        let (ids, torn) = there.ids();
        brought.torn = torn;
        let tx = self.db.transaction()?;
        for id in ids {
            let Some((mut request, evidence)) = there.request(&id) else {
                brought.torn = true;
                continue;
            };
            brought.read += 1;
            let ours = bodies_of(&tx, "SELECT body FROM request WHERE id = ?1", &id)?.pop();
            let ours: Option<Request> = ours.and_then(|body| serde_json::from_str(&body).ok());
            let known = bodies_of(&tx, "SELECT body FROM evidence WHERE request = ?1 ORDER BY n", &id)?;
            if let Some(ours) = ours {
                if !is_further((&request, &evidence), (&ours, &known)) {
                    continue;
                }
                request.seq = ours.seq;
            } else {
                // The order of acceptance stays, after all that was accepted here.
                request.seq = request.seq.max(top + 1);
                top = request.seq;
            }
            brought.taken += 1;
            put(&tx, &request)?;
            for body in evidence.iter().filter(|body| !known.contains(body)) {
                note(&tx, &id, body)?;
            }
        }
        for (key, value) in there.meta() {
            if key == GONE_OVER {
                continue;
            }
            if newer || bodies_of(&tx, "SELECT value FROM meta WHERE key = ?1", &key)?.is_empty() {
                keep(&tx, &key, &value)?;
            }
        }
        tx.commit()?;
        Ok(brought)
    }

    /// Marks all that is open in it as gone over to the store of another home.
    pub(crate) fn mark_gone_over(&mut self, to: &Path) -> anyhow::Result<()> {
        self.set_meta(GONE_OVER, &to.display().to_string())
    }

    /// Ends what is open in a store that has come back, though all that was open in it had gone over to another one:
    /// nothing of it may be sent or told again. Returns how many requests that were. With `all_here`, what has
    /// become of it there is known here, and it goes on.
    pub(crate) fn settle_gone_over(&mut self, now: Time, all_here: bool) -> anyhow::Result<usize> {
        let Some(to) = self.meta(GONE_OVER)?.filter(|to| !to.is_empty()) else { return Ok(0) };
        let mut open = if all_here { Vec::new() } else { self.open_requests()? };
        let message = format!("it had gone over to the home of another askd, as `{to}`; this home had been moved away");
        let what = format!("not sent or told again: {message}");
        let mut notes = Vec::new();
        for request in &mut open {
            request.held = false;
            request.kept.get_or_insert(now);
            if !request.is_settled() {
                let outcome = Outcome::Failed { reason: Failure::UnknownDelivery, message: message.clone() };
                let (reply, turn) = (String::new(), request.turn().map(str::to_owned));
                let end = Settlement { at: now, outcome, reply, ended_by: None, turn, mixed: false, late: None };
                request.stage = Stage::Settled(end);
            }
            notes.push((
                request.id.clone(),
                Evidence { at: now, source: "askd".into(), what: what.clone(), turn: None },
            ));
        }
        self.remember(GONE_OVER, String::new());
        self.commit(&open, &notes)?;
        Ok(open.len())
    }

    /// Returns the requests from which the engine's state is restored.
    pub(crate) fn open_requests(&self) -> anyhow::Result<Vec<Request>> {
        self.bodies("SELECT body FROM request WHERE open = 1 ORDER BY seq", [])
    }

    /// Returns a request, settled or not.
    pub(crate) fn request(&self, id: &RequestId) -> anyhow::Result<Option<Request>> {
        let mut found = self.bodies("SELECT body FROM request WHERE id = ?1", [id.as_str()])?;
        Ok(found.pop())
    }

    /// Returns the last `count` questions to an agent, newest first.
    pub(crate) fn latest(&self, agent: &AgentName, count: u32) -> anyhow::Result<Vec<Request>> {
        let sql = "SELECT body FROM request WHERE agent = ?1 AND notice = 0 ORDER BY seq DESC LIMIT ?2";
        self.bodies(sql, params![agent.as_str(), count])
    }

    /// Returns a request's evidence, in the order of its commit.
    pub(crate) fn evidence(&self, id: &RequestId) -> anyhow::Result<Vec<Evidence>> {
        self.bodies("SELECT body FROM evidence WHERE request = ?1 ORDER BY n", [id.as_str()])
    }

    /// Returns the highest order of acceptance, and the latest moment of one.
    pub(crate) fn horizon(&self) -> anyhow::Result<(u64, Time)> {
        let sql = "SELECT coalesce(max(seq), 0), coalesce((SELECT accepted FROM request ORDER BY seq DESC LIMIT 1), 0) FROM request";
        let found = self.db.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
        let (seq, accepted) = self.judged(found.map_err(Into::into))?;
        Ok((u64::try_from(seq)?, Time(accepted)))
    }

    /// Returns the latest moment that is in it: of what is open, and of what was accepted last.
    pub(crate) fn latest_moment(&self) -> anyhow::Result<Time> {
        let sql = "SELECT coalesce(max(json_extract(body, '$.at')), 0) FROM evidence WHERE request IN (
                       SELECT id FROM (SELECT id FROM request ORDER BY seq DESC LIMIT 64)
                       UNION SELECT id FROM request WHERE open = 1)";
        // What cannot be read here is no reason not to start.
        let seen = self.db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_or(0);
        Ok(self.horizon()?.1.max(Time(seen)))
    }

    /// Returns what is kept under `key`.
    pub(crate) fn meta(&self, key: &str) -> anyhow::Result<Option<String>> {
        if let Some(value) = self.unwritten.get(key) {
            return Ok(Some(value.clone()));
        }
        let found = bodies_of(&self.db, "SELECT value FROM meta WHERE key = ?1", key).map_err(Into::into);
        Ok(self.judged(found)?.pop())
    }

    /// Keeps `value` under `key`. What the disk does not take now is remembered, and written by the next commit that
    /// succeeds; the error says that it is not on the disk yet.
    pub(crate) fn set_meta(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        self.unwritten.insert(key.to_owned(), value.to_owned());
        self.commit(&[], &[])
    }

    /// The same, but the next commit may bring it to the disk.
    pub(crate) fn remember(&mut self, key: &str, value: String) {
        self.unwritten.insert(key.to_owned(), value);
    }

    fn bodies<T: serde::de::DeserializeOwned>(
        &self,
        sql: &str,
        bound: impl rusqlite::Params,
    ) -> anyhow::Result<Vec<T>> {
        let read = || {
            let mut statement = self.db.prepare_cached(sql)?;
            let rows = statement.query_map(bound, |row| row.get::<_, String>(0))?;
            rows.map(|row| serde_json::from_str(&row?).context("a stored row cannot be read")).collect()
        };
        let found = read();
        self.judged(found)
    }
}

/// Another store, of which as much is read as can be, and to which nothing is written.
struct Other {
    db: Connection,
}

impl Other {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let name = || format!("cannot read the store `{}`", path.display());
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).with_context(name)?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE").with_context(name)?;
        db.pragma_update(None, "query_only", true).with_context(name)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).with_context(name)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).with_context(name)?;
        anyhow::ensure!(
            usize::try_from(version)? <= MIGRATIONS.len(),
            "`{}` was written by a newer ccb",
            path.display()
        );
        Ok(Self { db })
    }

    /// Returns the ids in the order of acceptance, and whether some are missing. Both ways up to the first page that
    /// cannot be read: so only what lies between two such pages is missing.
    fn ids(&self) -> (Vec<String>, bool) {
        let mut found = BTreeSet::new();
        let mut torn = false;
        for sql in [
            "SELECT seq, id FROM request NOT INDEXED ORDER BY id",
            "SELECT seq, id FROM request NOT INDEXED ORDER BY id DESC",
        ] {
            let whole = self.each(sql, &[], |row| {
                found.insert((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
                Ok(())
            });
            torn |= !whole;
            if whole {
                break;
            }
        }
        (found.into_iter().map(|(_, id)| id).collect(), torn)
    }

    /// Returns a request with its evidence, as far as that can be read.
    fn request(&self, id: &str) -> Option<(Request, Vec<String>)> {
        let body = bodies_of(&self.db, "SELECT body FROM request WHERE id = ?1", id).ok()?.pop()?;
        let request: Request = serde_json::from_str(&body).ok()?;
        let mut evidence = Vec::new();
        self.each("SELECT body FROM evidence WHERE request = ?1 ORDER BY n", &[id], |row| {
            evidence.push(row.get(0)?);
            Ok(())
        });
        evidence.retain(|body: &String| serde_json::from_str::<Evidence>(body).is_ok());
        (request.id.as_str() == id).then_some((request, evidence))
    }

    fn meta(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.each("SELECT key, value FROM meta", &[], |row| {
            found.push((row.get(0)?, row.get(1)?));
            Ok(())
        });
        found
    }

    fn generation(&self) -> u64 {
        let found = bodies_of(&self.db, "SELECT value FROM meta WHERE key = ?1", "generation").ok();
        found.and_then(|mut found| found.pop()?.parse().ok()).unwrap_or(0)
    }

    /// Reads row by row until an error; false if there was one.
    fn each(
        &self,
        sql: &str,
        bound: &[&str],
        mut take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
    ) -> bool {
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.db.prepare(sql)?;
            let mut rows = statement.query(rusqlite::params_from_iter(bound))?;
            while let Some(row) = rows.next()? {
                take(row)?;
            }
            Ok(())
        };
        read().is_ok()
    }
}

/// Writes a request as it is now.
fn put(db: &Connection, request: &Request) -> anyhow::Result<()> {
    let mut put = db.prepare_cached(
        "INSERT INTO request (id, seq, agent, notice, open, accepted, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET open = ?5, body = ?7",
    )?;
    let notice = request.kind != ccb_core::request::Kind::Ask;
    let body = serde_json::to_string(request)?;
    let (id, agent) = (request.id.as_str(), request.agent.as_str());
    put.execute(params![id, i64::try_from(request.seq)?, agent, notice, request.is_open(), request.accepted.0, body])?;
    Ok(())
}

/// Adds one piece to a request's evidence.
fn note(db: &Connection, id: &str, body: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO evidence (request, n, body)
               VALUES (?1, (SELECT count(*) FROM evidence WHERE request = ?1), ?2)";
    db.prepare_cached(sql)?.execute([id, body]).map(drop)
}

/// Keeps a value under a key.
fn keep(db: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
    db.prepare_cached(sql)?.execute([key, value]).map(drop)
}

/// Returns the texts that a query of one text finds.
fn bodies_of(db: &Connection, sql: &str, bound: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([bound], |row| row.get(0))?;
    rows.collect()
}

/// Returns whether a request is further in its life over there than here. Where one side's evidence continues the
/// other's, the longer is later; where both went on by themselves, what can no longer be undone counts.
fn is_further(theirs: (&Request, &[String]), ours: (&Request, &[String])) -> bool {
    if !theirs.0.same_content(ours.0) || ours.1.starts_with(theirs.1) {
        return false;
    }
    let reached = |request: &Request| {
        let stage = match &request.stage {
            Stage::Queued => 0,
            Stage::Offering { .. } => 1,
            Stage::Offered { .. } => 2,
            Stage::Working { .. } => 3,
            Stage::Settled(_) => 4,
        };
        let late = request.settlement().is_some_and(|end| end.late.is_some());
        (request.is_settled(), request.attempts, stage, late, request.delivered.is_some(), request.notices)
    };
    theirs.1.starts_with(ours.1) || reached(theirs.0) > reached(ours.0)
}

/// Returns whether a database could be opened anew and written. It is not opened for that: to close it again would take
/// away the locks of whoever has it open in this process.
fn can_be_written(path: &Path) -> bool {
    let with = |end: &str| {
        let mut name = OsString::from(path);
        name.push(end);
        PathBuf::from(name)
    };
    let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
    let wal = matches!(writable(&with("-wal")), Ok(()) | Err(rustix::io::Errno::NOENT));
    let probe = with(".probe");
    let written = crate::files::write_durable(&probe, &vec![0; 1 << 16]).is_ok();
    crate::files::remove_if_there(&probe).ok();
    wal && written && writable(path).is_ok()
}

/// Returns whether an error means that the database is damaged.
fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        if let Some(error) = cause.downcast_ref::<serde_json::Error>() {
            // A row that is JSON, but not ours, is a newer ccb's.
            return error.is_syntax() || error.is_eof();
        }
        match cause.downcast_ref::<rusqlite::Error>() {
            Some(rusqlite::Error::SqliteFailure(error, _)) => {
                matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            }
            Some(rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::Utf8Error(..)) => true,
            Some(_) | None => false,
        }
    })
}

/// Sets a damaged database aside, with what SQLite keeps beside it. Nobody may have it open.
pub(crate) fn set_aside(path: &Path, why: &str) -> anyhow::Result<PathBuf> {
    let stamp: String =
        Connection::open_in_memory()?
            .query_row("SELECT strftime('%Y%m%d-%H%M%S', 'now', 'localtime')", [], |row| row.get(0))?;
    let with = |base: &Path, end: &str| {
        let mut name = OsString::from(base);
        name.push(end);
        PathBuf::from(name)
    };
    let first = with(path, &format!("{DAMAGED}{stamp}"));
    let free = |path: &PathBuf| !path.exists();
    let aside = std::iter::once(first.clone())
        .chain((2..1000).map(|n| with(&first, &format!("-{n}"))))
        .find(free)
        .context("too many damaged stores lie here")?;
    for end in ["-wal", "-shm", ""] {
        match std::fs::rename(with(path, end), with(&aside, end)) {
            Err(error) if end.is_empty() || error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot set aside the damaged store `{}`", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    crate::engine::log(&format!("the store is damaged ({why}): set aside as `{}`", aside.display()));
    Ok(aside)
}

/// Returns the stores beside `path` that were set aside, the oldest first.
fn set_aside_before(path: &Path) -> Vec<PathBuf> {
    let mut start = path.file_name().unwrap_or_default().to_os_string();
    start.push(DAMAGED);
    let start = start.to_string_lossy().into_owned();
    let entries = path.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(&start) && !["-wal", "-shm", "-journal"].iter().any(|end| name.ends_with(end))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n: u64) -> Request {
        let id = RequestId::new(&format!("r{n}")).unwrap();
        let agent = AgentName::new("codex").unwrap();
        Request { seq: n, waits: true, ..Request::new(id, agent, "hello 你好".into(), Time(5)) }
    }

    #[test]
    fn what_is_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ccb.db");
        let note = Evidence { at: Time(6), source: "client".into(), what: "accepted".into(), turn: None };
        let mut store = Store::open(&path).unwrap();
        store
            .commit(&[request(1), request(2)], &[(request(1).id, note.clone()), (request(1).id, note.clone())])
            .unwrap();
        store.set_meta("generation", "7").unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.open_requests().unwrap(), [request(1), request(2)]);
        assert_eq!(store.evidence(&request(1).id).unwrap(), [note.clone(), note]);
        assert_eq!(store.horizon().unwrap(), (2, Time(5)));
        assert_eq!(store.meta("generation").unwrap().as_deref(), Some("7"));
        assert_eq!(store.latest(&request(1).agent, 1).unwrap(), [request(2)]);
    }

    fn note(at: i64, what: &str) -> Evidence {
        Evidence { at: Time(at), source: "askd".into(), what: what.into(), turn: None }
    }

    fn settled(n: u64) -> Request {
        let outcome = ccb_core::outcome::Outcome::Cancelled { by: "x".into() };
        let (reply, turn, late) = (String::new(), None, None);
        let end =
            ccb_core::request::Settlement { at: Time(9), outcome, reply, ended_by: None, turn, mixed: false, late };
        Request { stage: Stage::Settled(end), ..request(n) }
    }

    #[test]
    fn a_merge_takes_what_is_new_and_what_has_come_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (accepted, offered) = (note(5, "accepted"), note(6, "offered"));
        let mut there = Store::open(&path("there")).unwrap();
        let evidence =
            |n: u64, notes: &[&Evidence]| notes.iter().map(|note| (request(n).id, (*note).clone())).collect::<Vec<_>>();
        there.commit(&[request(1), settled(2), request(3), request(9)], &[]).unwrap();
        there.commit(&[], &evidence(1, &[&accepted])).unwrap();
        there.commit(&[], &evidence(2, &[&accepted, &offered])).unwrap();
        there.set_meta("generation", "4").unwrap();
        there.set_meta("session.codex", "theirs").unwrap();
        there.copy_to(&path("left")).unwrap();

        let mut here = Store::open(&path("here")).unwrap();
        // Of an older time: it has 1 further on, and 2 not so far; 7 came to be only here.
        let offering = Request { stage: Stage::Offering { at: Time(6) }, attempts: 1, ..request(1) };
        here.commit(&[offering.clone(), request(2), request(7)], &[]).unwrap();
        here.commit(&[], &evidence(1, &[&accepted, &offered])).unwrap();
        here.commit(&[], &evidence(2, &[&accepted])).unwrap();
        here.set_meta("generation", "3").unwrap();
        here.set_meta("session.codex", "ours").unwrap();
        here.set_meta("only", "here").unwrap();
        for round in 0..2 {
            let brought = here.merge(&path("left")).unwrap();
            assert_eq!(brought, Brought { taken: if round == 0 { 3 } else { 0 }, read: 4, torn: false, newer: true });
            assert_eq!(here.request(&request(1).id).unwrap().unwrap(), offering);
            assert_eq!(here.evidence(&request(1).id).unwrap(), [accepted.clone(), offered.clone()]);
            assert!(here.request(&request(2).id).unwrap().unwrap().is_settled());
            assert_eq!(here.evidence(&request(2).id).unwrap(), [accepted.clone(), offered.clone()]);
            let open: Vec<_> = here.open_requests().unwrap().into_iter().map(|r| (r.id.to_string(), r.seq)).collect();
            assert_eq!(open, [("r1".into(), 1), ("r7".into(), 7), ("r3".into(), 8), ("r9".into(), 9)]);
            assert_eq!(here.meta("session.codex").unwrap().as_deref(), Some("theirs"));
            assert_eq!(here.meta("only").unwrap().as_deref(), Some("here"));
        }
    }

    #[test]
    fn where_both_went_on_what_cannot_be_undone_counts() {
        let notes = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let (queued, offered) = (request(1), Request { attempts: 1, ..request(1) });
        let (base, one, other) = (notes(&["a"]), notes(&["a", "b"]), notes(&["a", "c"]));
        assert!(is_further((&offered, &one), (&queued, &base)));
        assert!(!is_further((&queued, &base), (&offered, &one)));
        assert!(!is_further((&queued, &one), (&queued, &one)));
        assert!(is_further((&offered, &one), (&queued, &other)));
        assert!(!is_further((&queued, &other), (&offered, &one)));
        // In one life, the later is the truth: it was proved that the offer was not taken.
        assert!(is_further((&queued, &one), (&offered, &base)));
        let foreign = Request { message: "something else".into(), ..settled(1) };
        assert!(!is_further((&foreign, &one), (&queued, &base)));
    }

    #[test]
    fn the_order_of_acceptance_is_not_the_order_of_ids() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("ccb.db")).unwrap();
        // The client's clock was set back by a day between the two.
        let of = |id: &str, n: u64| Request { id: RequestId::new(id).unwrap(), ..request(n) };
        let (first, second) = (of("20261123-120000-000-10-1", 1), of("20261122-120000-000-11-1", 2));
        store.commit(&[first.clone(), second.clone()], &[]).unwrap();
        assert_eq!(store.latest(&first.agent, 5).unwrap(), [second, first]);
    }

    #[test]
    fn what_has_gone_over_is_settled_and_not_owed_when_it_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ccb.db");
        let asker = ccb_core::request::Asker::Agent { name: AgentName::new("claude").unwrap() };
        let working = Stage::Working { at: Time(6), turn: "t1".into(), mixed: false };
        let owed = Request { asker: asker.clone(), held: true, ..settled(3) };
        let all = [request(1), Request { asker, stage: working, ..request(2) }, owed];
        for all_here in [false, true] {
            let mut store = Store::open(&path).unwrap();
            store.commit(&all, &[]).unwrap();
            assert_eq!(store.settle_gone_over(Time(8), all_here).unwrap(), 0);
            store.mark_gone_over(&dir.path().join("left-1.db")).unwrap();
            drop(store);
            let mut store = Store::open(&path).unwrap();
            assert_eq!(store.settle_gone_over(Time(9), all_here).unwrap(), if all_here { 0 } else { 3 });
            assert_eq!(store.open_requests().unwrap().len(), if all_here { 3 } else { 0 });
            assert_eq!(store.settle_gone_over(Time(10), all_here).unwrap(), 0, "only once");
            if all_here {
                continue;
            }
            for n in 1..=3 {
                assert!(store.request(&request(n).id).unwrap().unwrap().is_settled());
                assert_eq!(store.evidence(&request(n).id).unwrap().len(), 1);
            }
        }
    }

    #[test]
    fn what_the_disk_does_not_take_is_kept_with_the_next_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ccb.db");
        let mut store = Store::open(&path).unwrap();
        store.db.pragma_update(None, "query_only", true).unwrap();
        assert!(store.set_meta("session.codex", "s1").is_err());
        assert!(store.commit(&[request(1)], &[]).is_err());
        assert_eq!(store.damage(), None);
        assert_eq!(store.meta("session.codex").unwrap().as_deref(), Some("s1"));
        store.db.pragma_update(None, "query_only", false).unwrap();
        store.commit(&[request(2)], &[]).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.meta("session.codex").unwrap().as_deref(), Some("s1"));
        assert_eq!(store.open_requests().unwrap(), [request(2)]);
    }

    #[test]
    fn a_second_opener_and_a_newer_schema_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ccb.db");
        let store = Store::open(&path).unwrap();
        assert!(Store::open(&path).is_err());
        store.db.pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        let refused = format!("{:#}", Store::open(&path).err().unwrap());
        assert!(refused.contains("newer ccb"), "{refused}");
    }
}
