//! OpenCode's own database, read only: what tells of it where its server cannot be joined.
//!
//! It is opened for each reading and never written. All of SQL that is not the store's is here, because the file is
//! OpenCode's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use ccb_core::provider::Observation;
use ccb_core::provider::opencode::{self as rpc, Record, StepEnd};
use ccb_core::screen::Sight;
use ccb_core::state::Presence;
use rusqlite::{Connection, OpenFlags, named_params};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::transport::records::{Question, Records};

/// How long a reading waits for OpenCode to have written.
const BUSY: Duration = Duration::from_millis(500);

/// How soon a reading is followed by another one: OpenCode's write is told before it can be read, and the last one of
/// a turn has no other after it.
const AGAIN: Duration = Duration::from_millis(100);

/// How often it is read while a turn goes on and nothing is told, at first and at last.
const PACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How many messages are read back at most.
const LIMIT: u32 = 4000;

/// The newest messages of the conversations in a directory, without those of sub-agents.
const MESSAGES: &str = "SELECT m.id, m.session_id, m.data, m.time_created, \
    (SELECT json_group_array(json(p.data)) FROM (SELECT data FROM part WHERE message_id = m.id ORDER BY id) p) \
    FROM message m JOIN session s ON s.id = m.session_id \
    WHERE s.directory = :directory AND s.parent_id IS NULL AND m.time_created >= :since \
    ORDER BY m.time_created DESC, m.id DESC LIMIT :limit";

/// The database of a user's OpenCode, for one directory.
pub(crate) struct Database {
    path: PathBuf,
    directory: String,
    /// What is older than this (ms), or has one of these ids, is passed over.
    since: i64,
    old: BTreeSet<String>,
    /// What was told: inputs, and turns that are over.
    told: BTreeSet<String>,
    /// The session of the input that was told last.
    session: Option<String>,
    /// Whether a turn goes on, and what its screen shows that it asks: no question is in the database.
    goes_on: bool,
    asks: Option<String>,
    /// When it is read again, whether or not its files change.
    due: Option<Instant>,
    /// A step that was stopped, as the last reading had it: nothing has followed it yet.
    stopped: Option<String>,
    pace: Duration,
}

/// A message as it is kept.
struct Row {
    id: String,
    session: String,
    time: i64,
    record: Option<Record>,
    text: String,
}

impl Database {
    /// Returns the database that a program with this environment keeps, for the conversations in a directory.
    pub(crate) fn of(env: &BTreeMap<String, String>, directory: String) -> Self {
        let path = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = path("XDG_DATA_HOME").or_else(|| Some(path("HOME")?.join(".local/share"))).unwrap_or_default();
        let path = data.join("opencode/opencode.db");
        Self {
            path,
            directory,
            since: 0,
            old: BTreeSet::new(),
            told: BTreeSet::new(),
            session: None,
            goes_on: false,
            asks: None,
            due: None,
            stopped: None,
            pace: PACE.0,
        }
    }

    /// Reads the messages that are not passed over, in their order.
    fn read(&self) -> rusqlite::Result<Vec<Row>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(&self.path, flags)?;
        database.busy_timeout(BUSY)?;
        let mut messages = database.prepare(MESSAGES)?;
        let wanted = named_params! {":directory": self.directory, ":since": self.since, ":limit": LIMIT};
        let rows = messages.query_map(wanted, |row| {
            let json = |text: String| serde_json::from_str::<Value>(&text).unwrap_or_default();
            let (id, session, time): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(3)?);
            let mut info = json(row.get(2)?);
            info["id"] = json!(id);
            let message = json!({"info": info, "parts": json(row.get(4)?)});
            let texts = message["parts"].as_array().into_iter().flatten().filter(|part| part["type"] == "text");
            let texts: Vec<&str> = texts.filter_map(|part| part["text"].as_str()).collect();
            Ok(Row { id, session, time, record: rpc::record(&message), text: texts.join("\n") })
        })?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<Row>>>()?;
        rows.reverse();
        Ok(rows)
    }

    /// Returns what the messages of one session say that was not told, and whether a turn goes on in it.
    fn observe(&mut self, rows: &[&Row], seen: &mut Vec<Observation>) -> bool {
        let records: Vec<Record> = rows.iter().filter_map(|row| row.record.clone()).collect();
        let last = match records.last() {
            Some(Record::Step { id, end: StepEnd::Stopped(_), .. }) => Some(id.clone()),
            Some(_) | None => None,
        };
        // A compaction follows at once, if one does.
        let halted = last.is_some() && last == self.stopped;
        self.stopped = last;
        let turns = rpc::turns(&records);
        let count = turns.len();
        let goes_on = !halted && turns.last().is_some_and(|turn| !turn.over);
        for (at, turn) in turns.into_iter().enumerate() {
            let Some(first) = turn.inputs.first().cloned() else { continue };
            for input in &turn.inputs {
                let row = rows.iter().find(|row| row.id == *input);
                // A message is written before its parts.
                let whole = turn.steps > 0 || row.is_some_and(|row| !row.text.is_empty());
                if !whole || !self.told.insert(input.clone()) {
                    continue;
                }
                self.session = row.map(|row| row.session.clone()).or(self.session.take());
                let text = row.map(|row| row.text.clone()).unwrap_or_default();
                seen.push(Observation::User { text, client: None, turn: Some(first.clone()) });
            }
            // Whoever refuses a tool, or stops a step, has stopped the turn.
            let over = turn.over || (halted && at + 1 == count);
            if over && self.told.insert(format!("{first} is over")) {
                seen.push(Observation::TurnEnded { turn: Some(first), end: turn.end });
            }
        }
        goes_on
    }
}

impl Records for Database {
    fn places(&self) -> Vec<PathBuf> {
        vec![self.path.clone(), self.path.with_extension("db-wal")]
    }

    fn skip(&mut self) {
        self.rewind();
        let Ok(rows) = self.read() else { return };
        self.since = rows.iter().map(|row| row.time).max().unwrap_or(0);
        self.old = rows.into_iter().filter(|row| row.time == self.since).map(|row| row.id).collect();
    }

    fn rewind(&mut self) {
        self.since = 0;
        self.old.clear();
        self.told.clear();
    }

    fn news(&mut self) -> Vec<Observation> {
        let now = Instant::now();
        let planned = self.due.take().is_some_and(|due| due <= now);
        // It may only just be in the making; the next change is read.
        let Ok(rows) = self.read() else { return Vec::new() };
        let rows: Vec<Row> = rows.into_iter().filter(|row| !self.old.contains(&row.id)).collect();
        let sessions: BTreeSet<&str> = rows.iter().map(|row| row.session.as_str()).collect();
        let (mut seen, mut goes_on) = (Vec::new(), false);
        for session in sessions {
            let rows: Vec<&Row> = rows.iter().filter(|row| row.session == session).collect();
            goes_on |= self.observe(&rows, &mut seen);
        }
        self.goes_on = goes_on;
        if !goes_on {
            self.asks = None;
        }
        let quiet = planned && seen.is_empty();
        self.pace = if quiet { (self.pace * 2).min(PACE.1) } else { PACE.0 };
        self.due = match (quiet, goes_on) {
            (false, _) => Some(now + AGAIN),
            (true, true) => Some(now + self.pace),
            (true, false) => None,
        };
        seen
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn question(&mut self) -> Option<Question> {
        self.goes_on.then_some(Question::Later)
    }

    fn answer(&mut self, sight: &Sight, _at_work: bool) -> (Vec<Observation>, bool) {
        self.asks = match sight {
            Sight::Dialog(words) => Some(format!("a dialog is open in its pane ({words})")),
            Sight::Composer { .. } | Sight::Busy(_) | Sight::Unclear => None,
        };
        (Vec::new(), false)
    }

    fn presence(&self) -> Option<Presence> {
        self.asks.as_ref().map(|why| Presence::Waiting { why: why.clone() })
    }

    fn session(&self) -> Option<String> {
        self.session.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_told_when_its_text_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let env = BTreeMap::from([("XDG_DATA_HOME".to_owned(), dir.path().display().to_string())]);
        std::fs::create_dir(dir.path().join("opencode")).unwrap();
        let theirs = Connection::open(dir.path().join("opencode/opencode.db")).unwrap();
        theirs
            .execute_batch(
                "CREATE TABLE session(id, directory, parent_id);
                CREATE TABLE message(id, session_id, time_created, data);
                CREATE TABLE part(id, message_id, data);
                INSERT INTO session VALUES('s', '/p', NULL);
                INSERT INTO message VALUES('u', 's', 5, '{\"role\":\"user\"}');",
            )
            .unwrap();
        let mut database = Database::of(&env, "/p".to_owned());
        assert_eq!(database.news(), [], "a message is written before its parts");
        assert!(database.due().is_some(), "and is looked at again");
        theirs.execute_batch("INSERT INTO part VALUES('p', 'u', '{\"type\":\"text\",\"text\":\"hello\"}')").unwrap();
        let user = Observation::User { text: "hello".into(), client: None, turn: Some("u".into()) };
        assert_eq!(database.news(), [user]);
        assert_eq!(database.news(), []);
    }
}
