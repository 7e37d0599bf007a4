//! Following a transcript file: by file events, whatever happens to the file.
//!
//! The file may appear late, grow in torn pieces, be truncated, or be replaced by another one.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ccb_core::provider::records::{self, Layout, Lines};
use ccb_core::provider::{Observation, Provider};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A transcript and how far it has been read.
pub(crate) struct Transcript {
    path: PathBuf,
    provider: Provider,
    inode: u64,
    read: u64,
    lines: Lines,
    /// How many observations of a document have been given out.
    given: usize,
}

impl Transcript {
    /// Returns the transcript at `path`, unread.
    pub(crate) fn new(path: PathBuf, provider: Provider) -> Self {
        Self { path, provider, inode: 0, read: 0, lines: Lines::default(), given: 0 }
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was read: the next reading begins at the start.
    pub(crate) fn rewind(&mut self) {
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
            }
            (Layout::Document, Ok(_)) => drop(self.news()),
            (Layout::Lines | Layout::Document, Err(_)) => self.rewind(),
        }
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
        Some(lines.iter().filter_map(|line| records::parse(self.provider, line)).collect())
    }

    fn read_on(&mut self) -> Option<Vec<String>> {
        let mut file = File::open(&self.path).ok()?;
        let data = file.metadata().ok()?;
        if data.ino() != self.inode || data.len() < self.read {
            self.rewind();
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
        if all.len() < self.given {
            self.given = 0;
        }
        let new = all.split_off(self.given);
        self.given += new.len();
        Some(new)
    }
}

/// A watch on a transcript's place, held only while a delivery is at the agent.
pub(crate) struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    watched: PathBuf,
    path: PathBuf,
    events: UnboundedReceiver<()>,
    tell: UnboundedSender<()>,
}

impl Watch {
    /// Watches the place of `path`, or the nearest directory above it that exists.
    pub(crate) fn on(path: &Path) -> Self {
        let (tell, events) = unbounded_channel();
        let mut watch = Self { watcher: None, watched: PathBuf::new(), path: path.to_owned(), events, tell };
        watch.arm();
        watch
    }

    /// Waits until something has happened there.
    pub(crate) async fn changed(&mut self) {
        self.events.recv().await;
        while self.events.try_recv().is_ok() {}
        self.arm();
    }

    fn arm(&mut self) {
        let Some(nearest) = self.path.ancestors().skip(1).find(|dir| dir.is_dir()).map(Path::to_owned) else { return };
        if self.watcher.is_some() && self.watched == nearest {
            return;
        }
        let tell = self.tell.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                tell.send(()).ok();
            }
        });
        let Ok(mut watcher) = watcher else { return };
        if watcher.watch(&nearest, RecursiveMode::NonRecursive).is_ok() {
            self.watched = nearest;
            self.watcher = Some(watcher);
            // What happened before the watch stood is read now.
            self.tell.send(()).ok();
        }
    }
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
}
