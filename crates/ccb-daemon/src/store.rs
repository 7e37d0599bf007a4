//! The store: the only file with SQL in it. One connection, held by the engine's thread alone.

use std::path::Path;

use anyhow::Context as _;
use ccb_core::id::{AgentName, RequestId};
use ccb_core::request::{Evidence, Request};
use ccb_core::time::Time;
use rusqlite::{Connection, OptionalExtension as _, params};

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

/// The opened store. Neither `Clone` nor shared: whoever has it is the engine.
pub(crate) struct Store {
    db: Connection,
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
        }
        tx.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len())?)?;
        tx.commit().with_context(name)?;
        Ok(Self { db })
    }

    /// Commits requests with their evidence, all or nothing, to the disk.
    pub(crate) fn commit(&mut self, saves: &[Request], notes: &[(RequestId, Evidence)]) -> anyhow::Result<()> {
        let tx = self.db.transaction()?;
        {
            let mut put = tx.prepare_cached(
                "INSERT INTO request (id, seq, agent, notice, open, accepted, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET open = ?5, body = ?7",
            )?;
            for request in saves {
                let open = request.is_open();
                let notice = request.kind != ccb_core::request::Kind::Ask;
                let body = serde_json::to_string(request)?;
                let seq = i64::try_from(request.seq)?;
                put.execute(params![
                    request.id.as_str(),
                    seq,
                    request.agent.as_str(),
                    notice,
                    open,
                    request.accepted.0,
                    body
                ])?;
            }
            let mut note = tx.prepare_cached(
                "INSERT INTO evidence (request, n, body)
                 VALUES (?1, (SELECT count(*) FROM evidence WHERE request = ?1), ?2)",
            )?;
            for (id, evidence) in notes {
                note.execute(params![id.as_str(), serde_json::to_string(evidence)?])?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// Returns the requests from which the engine's state is restored.
    pub(crate) fn open_requests(&self) -> anyhow::Result<Vec<Request>> {
        self.bodies("SELECT body FROM request WHERE open = 1 ORDER BY seq", [])
    }

    /// Returns a request, settled or not.
    pub(crate) fn request(&self, id: &RequestId) -> anyhow::Result<Option<Request>> {
        let body: Option<String> = self
            .db
            .prepare_cached("SELECT body FROM request WHERE id = ?1")?
            .query_row([id.as_str()], |row| row.get(0))
            .optional()?;
        body.map(|body| serde_json::from_str(&body).context("a stored request cannot be read")).transpose()
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
        let (seq, accepted): (i64, i64) = self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((u64::try_from(seq)?, Time(accepted)))
    }

    /// Returns what is kept under `key`.
    pub(crate) fn meta(&self, key: &str) -> anyhow::Result<Option<String>> {
        let mut get = self.db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(get.query_row([key], |row| row.get(0)).optional()?)
    }

    /// Keeps `value` under `key`.
    pub(crate) fn set_meta(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
        self.db.prepare_cached(sql)?.execute([key, value])?;
        Ok(())
    }

    fn bodies<T: serde::de::DeserializeOwned>(
        &self,
        sql: &str,
        bound: impl rusqlite::Params,
    ) -> anyhow::Result<Vec<T>> {
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(bound, |row| row.get::<_, String>(0))?;
        rows.map(|row| serde_json::from_str(&row?).context("a stored row cannot be read")).collect()
    }
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
