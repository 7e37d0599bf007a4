//! `OpenCode`'s folder of files, as CCB 5.2's stub agents and older versions of it write it: a file for each session,
//! message and part.
//!
//! Only answers are in it, no input: nothing tells which request a turn belongs to but the mark at the end of its
//! answer. So that mark alone binds a turn here, and an answer without it is nobody's: to take the latest one would be
//! to guess, and the folder is shared with every other session in the same directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ccb_core::provider::Observation;
use ccb_core::provider::delivery::Binding;
use ccb_core::provider::records::{folder_message, folder_part, folder_session};

use super::records::Records;

/// The folder, and what was read of it.
pub(crate) struct Storage {
    root: PathBuf,
    /// The directory whose sessions count.
    directory: PathBuf,
    /// The files of sessions, each with its session if that is one of ours.
    sessions: BTreeMap<PathBuf, Option<String>>,
    /// The messages that are done with, by their files.
    done: BTreeSet<(String, OsString)>,
    /// The messages of which something is still to come.
    pending: BTreeSet<String>,
}

impl Storage {
    /// Returns the folder at `root`, of which the sessions in `directory` count.
    pub(crate) fn new(root: PathBuf, directory: PathBuf) -> Self {
        Self { root, directory, sessions: BTreeMap::new(), done: BTreeSet::new(), pending: BTreeSet::new() }
    }

    /// Finds the sessions that are new.
    fn look_for_sessions(&mut self) {
        for project in entries(&self.root.join("session")) {
            for file in entries(&project) {
                if self.sessions.contains_key(&file) {
                    continue;
                }
                // One that is caught half-written is read again.
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                let Some((session, directory)) = folder_session(&text) else { continue };
                let ours = is_same(Path::new(&directory), &self.directory).then_some(session);
                self.sessions.insert(file, ours);
            }
        }
    }

    /// Returns the messages that are not done with: session, name and file of each.
    fn open_messages(&self) -> Vec<(String, OsString, PathBuf)> {
        let mut open = Vec::new();
        for session in self.sessions.values().flatten() {
            for file in entries(&self.root.join("message").join(session)) {
                let name = file.file_name().unwrap_or_default().to_owned();
                if !self.done.contains(&(session.clone(), name.clone())) {
                    open.push((session.clone(), name, file));
                }
            }
        }
        open
    }

    /// Returns the text of a message, if it has any.
    fn text_of(&self, message: &str) -> Option<String> {
        let files = entries(&self.root.join("part").join(message));
        let read = |file: &PathBuf| std::fs::read_to_string(file).ok();
        let mut parts: Vec<(i64, String)> = files.iter().filter_map(read).filter_map(|t| folder_part(&t)).collect();
        parts.sort_by_key(|(start, _)| *start);
        let texts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }
}

impl Records for Storage {
    fn places(&self) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = ["session", "message", "part"].map(|kind| self.root.join(kind)).into();
        places.extend(entries(&self.root.join("session")));
        places.extend(self.sessions.values().flatten().map(|session| self.root.join("message").join(session)));
        places.extend(self.pending.iter().map(|message| self.root.join("part").join(message)));
        places
    }

    fn skip(&mut self) {
        self.look_for_sessions();
        let open = self.open_messages();
        self.done.extend(open.into_iter().map(|(session, name, _)| (session, name)));
        self.pending.clear();
    }

    fn rewind(&mut self) {
        self.done.clear();
        self.pending.clear();
    }

    fn news(&mut self) -> Vec<Observation> {
        self.look_for_sessions();
        self.pending.clear();
        let mut found = Vec::new();
        for (session, name, file) in self.open_messages() {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let Some(message) = folder_message(&text) else {
                continue;
            };
            match self.text_of(&message.id).filter(|_| message.completed) {
                Some(text) => {
                    self.done.insert((session, name));
                    found.push((message.created, message.id, text));
                }
                None => drop(self.pending.insert(message.id)),
            }
        }
        found.sort();
        found.into_iter().map(|(_, id, text)| Observation::Agent { text, turn: Some(id) }).collect()
    }

    fn binding(&self) -> Binding {
        Binding::Mark
    }
}

/// Returns what is in a directory; nothing if it is not there.
fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect()
}

/// Returns whether two paths are of one directory, whatever links lead there.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || std::fs::canonicalize(one).is_ok_and(|one| std::fs::canonicalize(other).is_ok_and(|other| one == other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn answer(root: &Path, session: &str, message: &str, created: u32, text: &str) {
        let time = format!("{{\"created\":{created},\"completed\":{created}}}");
        let body = format!("{{\"id\":\"{message}\",\"role\":\"assistant\",\"time\":{time}}}");
        write(root, &format!("message/{session}/{message}.json"), &body);
        let part = format!("{{\"type\":\"text\",\"text\":\"{text}\",\"time\":{{\"start\":{created}}}}}");
        write(root, &format!("part/{message}/prt.json"), &part);
    }

    fn texts(news: Vec<Observation>) -> Vec<String> {
        let text = |seen| match seen {
            Observation::Agent { text, .. } => text,
            other => format!("{other:?}"),
        };
        news.into_iter().map(text).collect()
    }

    #[test]
    fn answers_in_our_directory_are_read_once_and_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let (root, ours) = (dir.path().join("late"), dir.path().join("p"));
        std::fs::create_dir(&ours).unwrap();
        let mut storage = Storage::new(root.clone(), ours.clone());
        assert!(storage.news().is_empty());
        let session = |id: &str, directory: &Path| {
            let body = format!("{{\"id\":\"{id}\",\"directory\":\"{}\"}}", directory.display());
            write(&root, &format!("session/prj/{id}.json"), &body);
        };
        session("ses_other", dir.path());
        answer(&root, "ses_other", "msg_0", 1, "not ours");
        write(&root, "session/prj/ses_1.json", "{\"id\":\"ses_1\",");
        answer(&root, "ses_1", "msg_1", 2, "old");
        assert!(storage.news().is_empty(), "nobody knows yet whose session it is");
        session("ses_1", &ours);
        storage.skip();
        answer(&root, "ses_1", "msg_10", 4, "second");
        answer(&root, "ses_1", "msg_9", 3, "first");
        assert_eq!(texts(storage.news()), ["first", "second"]);
        assert!(storage.news().is_empty());
        session("ses_2", &ours);
        answer(&root, "ses_2", "msg_11", 5, "of another session of ours");
        assert_eq!(texts(storage.news()), ["of another session of ours"]);
        storage.rewind();
        assert_eq!(texts(storage.news()).len(), 4);
    }

    #[test]
    fn a_message_that_grows_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut storage = Storage::new(root.into(), root.into());
        let body = format!("{{\"id\":\"ses_1\",\"directory\":\"{}\"}}", root.display());
        write(root, "session/prj/ses_1.json", &body);
        let message = |time: &str| {
            let body = format!("{{\"id\":\"msg_1\",\"role\":\"assistant\",\"time\":{{\"created\":1{time}}}}}");
            write(root, "message/ses_1/msg_1.json", &body);
        };
        message("");
        write(root, "part/msg_1/prt_2.json", r#"{"type":"text","text":"two","time":{"start":2}}"#);
        assert!(storage.news().is_empty(), "it is not completed");
        assert!(storage.places().contains(&root.join("part/msg_1")));
        message(",\"completed\":9");
        write(root, "part/msg_1/prt_1.json", r#"{"type":"text","text":"one","time":{"start":1}}"#);
        write(root, "part/msg_1/prt_0.json", r#"{"type":"tool"}"#);
        assert_eq!(texts(storage.news()), ["one\ntwo"]);
        message(",\"completed\":9");
        assert!(storage.news().is_empty());
    }
}
