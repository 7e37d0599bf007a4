//! Following a transcript file: by file events, whatever happens to the file.
//!
//! The file may appear late, grow in torn pieces, be truncated, or be replaced by another one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ccb_core::provider::records::{self, Layout, Lines};
use ccb_core::provider::{Observation, Provider};
use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::records::Records;
use super::until;
use crate::engine::log;

/// The length (bytes) up to which a first line is read for its session.
const FIRST_LINE: u64 = 1 << 16;

/// How soon places that cannot be watched are looked at again.
const LOOK: Duration = Duration::from_millis(500);

/// A transcript and how far it has been read.
#[derive(Clone)]
pub(crate) struct Transcript {
    path: PathBuf,
    provider: Provider,
    inode: u64,
    read: u64,
    lines: Lines,
    /// How many observations of a document have been given out.
    given: usize,
    /// The session that was opened last, once anything of it is known.
    session: Option<String>,
}

impl Transcript {
    /// Returns the transcript at `path`, unread.
    pub(crate) fn new(path: PathBuf, provider: Provider) -> Self {
        Self { path, provider, inode: 0, read: 0, lines: Lines::default(), given: 0, session: None }
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was read: the next reading begins at the start.
    pub(crate) fn rewind(&mut self) {
        self.restart();
        self.session = None;
    }

    /// Begins at the start of a file that has come in the place of the last one.
    fn restart(&mut self) {
        self.inode = 0;
        self.read = 0;
        self.given = 0;
        self.lines.reset();
    }

    /// Passes over what is there: it is older than whatever is waited for.
    pub(crate) fn skip(&mut self) {
        match (records::layout(self.provider), std::fs::metadata(&self.path)) {
            (Layout::Lines, Ok(data)) => {
                self.rewind();
                self.inode = data.ino();
                self.read = data.len();
                self.session = (data.len() > 0).then(|| self.first_session());
            }
            (Layout::Document, Ok(_)) => drop(self.news()),
            (Layout::Lines | Layout::Document, Err(_)) => self.rewind(),
        }
    }

    /// Returns the session that the file's first line opens; empty if it opens none.
    fn first_session(&self) -> String {
        let mut line = String::new();
        let file = File::open(&self.path).map(|file| BufReader::new(file.take(FIRST_LINE)));
        let read = file.and_then(|mut file| file.read_line(&mut line));
        read.ok().and_then(|_| records::session(self.provider, &line)).unwrap_or_default()
    }

    /// Takes the session that a record names; another one than before is told.
    fn entered(&mut self, session: String) -> Option<Observation> {
        let before = self.session.replace(session.clone());
        before.is_some_and(|before| before != session).then_some(Observation::SessionChanged { session })
    }

    /// Reads what is new. A file that is not there, or cannot be read now, has nothing new.
    pub(crate) fn news(&mut self) -> Vec<Observation> {
        match records::layout(self.provider) {
            Layout::Lines => self.new_lines().unwrap_or_default(),
            Layout::Document => self.new_messages().unwrap_or_default(),
        }
    }

    /// Reads the lines that are new, of a transcript that is one of lines.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        self.read_on().unwrap_or_default()
    }

    fn new_lines(&mut self) -> Option<Vec<Observation>> {
        let lines = self.read_on()?;
        let mut news = Vec::new();
        for line in &lines {
            if let Some(session) = records::session(self.provider, line) {
                news.extend(self.entered(session));
            }
            news.extend(records::parse(self.provider, line));
        }
        Some(news)
    }

    fn read_on(&mut self) -> Option<Vec<String>> {
        let mut file = File::open(&self.path).ok()?;
        let data = file.metadata().ok()?;
        if data.ino() != self.inode || data.len() < self.read {
            self.restart();
            self.inode = data.ino();
        }
        file.seek(SeekFrom::Start(self.read)).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        self.read += bytes.len() as u64;
        Some(self.lines.push(&bytes))
    }

    fn new_messages(&mut self) -> Option<Vec<Observation>> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let mut all = records::parse_document(&text)?;
        let changed = records::document_session(&text).and_then(|session| self.entered(session));
        if all.len() < self.given || changed.is_some() {
            self.given = 0;
        }
        let new = all.split_off(self.given);
        self.given += new.len();
        Some(changed.into_iter().chain(new).collect())
    }
}

impl Records for Transcript {
    fn places(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn skip(&mut self) {
        Transcript::skip(self);
    }

    fn rewind(&mut self) {
        Transcript::rewind(self);
    }

    fn news(&mut self) -> Vec<Observation> {
        Transcript::news(self)
    }

    fn shows_input(&self) -> bool {
        records::layout(self.provider) == Layout::Lines
    }
}

/// A watch on the places of records.
pub(crate) struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    /// The directories that are watched, each with its inode: another one may have come in its place.
    watched: BTreeMap<PathBuf, u64>,
    places: Vec<PathBuf>,
    events: UnboundedReceiver<()>,
    tell: UnboundedSender<()>,
    /// When the places are looked at next although nothing was told of them: some of them cannot be watched, as a user
    /// can have no more than so many watches (inotify's limits).
    blind: Option<Instant>,
}

impl Watch {
    /// Watches one place.
    pub(crate) fn on(path: &Path) -> Self {
        Self::on_all(vec![path.to_owned()])
    }

    /// Watches each of the places, or the nearest directory above it that exists.
    pub(crate) fn on_all(places: Vec<PathBuf>) -> Self {
        let (tell, events) = unbounded_channel();
        let mut watch = Self { watcher: None, watched: BTreeMap::new(), places, events, tell, blind: None };
        watch.arm();
        watch
    }

    /// Watches these places from now on.
    pub(crate) fn follow(&mut self, places: Vec<PathBuf>) {
        if self.places != places {
            self.places = places;
            self.arm();
        }
    }

    /// Waits until something has happened there.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            _ = self.events.recv() => {}
            () = until(self.blind) => {}
        }
        while self.events.try_recv().is_ok() {}
        self.arm();
    }

    fn arm(&mut self) {
        let wanted = self.watch_nearest();
        let is_blind = self.watched.len() < wanted;
        if is_blind && self.blind.is_none() {
            log("files cannot be watched (inotify's limits?): they are looked at twice a second instead");
        }
        self.blind = is_blind.then(|| Instant::now() + LOOK);
    }

    /// Watches what is to be watched, as far as that can be; returns how many directories that are.
    fn watch_nearest(&mut self) -> usize {
        let nearest = |place: &PathBuf| {
            let mut above = place.ancestors().skip(1);
            let itself = Some(place.as_path()).filter(|place| place.is_dir());
            itself.or_else(|| above.find(|dir| dir.is_dir())).map(Path::to_owned)
        };
        let inode = |dir: PathBuf| std::fs::metadata(&dir).ok().map(|data| (dir, data.ino()));
        let wanted: BTreeMap<PathBuf, u64> = self.places.iter().filter_map(nearest).filter_map(inode).collect();
        if self.watcher.is_some() && self.watched == wanted {
            return wanted.len();
        }
        if self.watcher.is_none() && !crate::failpoint::fails("follow.watch") {
            let tell = self.tell.clone();
            let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| is_news(event.kind)) {
                    tell.send(()).ok();
                }
            });
            self.watcher = watcher.ok();
        }
        let count = wanted.len();
        let Some(watcher) = &mut self.watcher else { return count };
        for (dir, inode) in &self.watched {
            if wanted.get(dir) != Some(inode) {
                // One that is gone is watched no more anyway.
                watcher.unwatch(dir).ok();
            }
        }
        let mut now = BTreeMap::new();
        for (dir, inode) in wanted {
            let known = self.watched.get(&dir) == Some(&inode);
            if known || watcher.watch(&dir, RecursiveMode::NonRecursive).is_ok() {
                if !known {
                    // What happened before the watch stood is read now.
                    self.tell.send(()).ok();
                }
                now.insert(dir, inode);
            }
        }
        self.watched = now;
        count
    }
}

/// Returns whether an event may mean that a record has changed. Who may read a file is no news of it; and whoever reads
/// a database as root sets that anew each time.
fn is_news(kind: EventKind) -> bool {
    !kind.is_access() && !matches!(kind, EventKind::Modify(ModifyKind::Metadata(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn line(text: &str) -> String {
        format!("{{\"type\":\"event_msg\",\"payload\":{{\"type\":\"user_message\",\"message\":\"{text}\"}}}}\n")
    }
    fn texts(observations: Vec<Observation>) -> Vec<String> {
        observations
            .into_iter()
            .map(|o| match o {
                Observation::User { text, .. } => text,
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn late_torn_truncated_and_rotated_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("late/s.jsonl");
        let mut transcript = Transcript::new(path.clone(), Provider::Codex);
        assert!(transcript.news().is_empty());
        std::fs::create_dir(dir.path().join("late")).unwrap();
        let mut file = File::create(&path).unwrap();
        let (one, two) = (line("one"), line("two"));
        file.write_all(&one.as_bytes()[..20]).unwrap();
        assert!(transcript.news().is_empty());
        file.write_all(&one.as_bytes()[20..]).unwrap();
        file.write_all(two.as_bytes()).unwrap();
        assert_eq!(texts(transcript.news()), ["one", "two"]);
        assert!(transcript.news().is_empty());
        file.write_all(line("skipped").as_bytes()).unwrap();
        transcript.skip();
        file.write_all(line("after").as_bytes()).unwrap();
        assert_eq!(texts(transcript.news()), ["after"]);
        std::fs::write(&path, line("3")).unwrap();
        assert_eq!(texts(transcript.news()), ["3"]);
        std::fs::write(dir.path().join("new"), line("rotated") + &line("b") + &line("c")).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(texts(transcript.news()), ["rotated", "b", "c"]);
    }

    #[test]
    fn another_session_is_told_and_a_rotated_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.jsonl");
        let meta = |id: &str| format!("{{\"type\":\"session_meta\",\"payload\":{{\"id\":\"{id}\"}}}}\n");
        let changed = |news: &[Observation]| {
            news.iter().filter(|seen| matches!(seen, Observation::SessionChanged { .. })).count()
        };
        let mut transcript = Transcript::new(path.clone(), Provider::Codex);
        transcript.skip();
        std::fs::write(&path, meta("s1") + &line("one")).unwrap();
        let news = transcript.news();
        assert_eq!((news.len(), changed(&news)), (1, 0), "the first one is no change");
        for (text, changes) in [(line("two"), 0), (meta("s1") + &line("three"), 0), (meta("s2") + &line("four"), 1)] {
            // Each file comes in the place of the last one.
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
            let news = transcript.news();
            assert_eq!((news.len(), changed(&news)), (1 + changes, changes), "{news:?}");
        }
        transcript.skip();
        std::fs::write(&path, meta("s2")).unwrap();
        assert_eq!(changed(&transcript.news()), 0, "what was passed over named the same session");
        let chat = |session: &str| {
            format!("{{\"sessionId\":\"{session}\",\"messages\":[{{\"type\":\"user\",\"content\":\"q\"}}]}}")
        };
        let path = dir.path().join("chat.json");
        let mut transcript = Transcript::new(path.clone(), Provider::Gemini);
        for (session, changes) in [("s1", 0), ("s2", 1)] {
            std::fs::write(&path, chat(session)).unwrap();
            let news = transcript.news();
            assert_eq!((news.len(), changed(&news)), (1 + changes, changes), "{news:?}");
        }
    }

    #[test]
    fn what_is_written_is_news_and_what_is_read_or_allowed_is_not() {
        use notify::event::{AccessKind, AccessMode, CreateKind, DataChange, MetadataKind, RemoveKind, RenameMode};
        let news = [
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Remove(RemoveKind::File),
            EventKind::Any,
        ];
        assert!(news.into_iter().all(is_news));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(!is_news(written) && !is_news(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any))));
    }
}
