//! The transcripts: the same records as the predecessor's stub agents wrote, per provider.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::answer::sha256;
use crate::events::{append_line, unix_time};
use crate::factory::{self, Factory};
use crate::options::Provider;

/// Where a provider's records go, and what must be remembered between them.
#[derive(Debug)]
enum Place {
    /// Lines of Codex's, Claude's or Droid's kind.
    Lines {
        /// The file.
        path: PathBuf,
        /// Whose lines.
        kind: Lines,
    },
    /// Gemini's chat, rewritten whole.
    Chat {
        /// The file.
        path: PathBuf,
        /// The session's id.
        session: String,
        /// All messages so far.
        messages: Vec<Value>,
    },
    /// `OpenCode`'s directory.
    Storage {
        /// The directory.
        root: PathBuf,
        /// The project's id.
        project: String,
        /// The session's id.
        session: String,
        /// How many messages there are.
        count: usize,
    },
    /// Droid's session, with its hooks.
    Factory(Factory),
    /// Nowhere.
    Nowhere,
}

/// Whose lines a transcript consists of.
#[derive(Clone, Copy, Debug)]
enum Lines {
    Codex,
    Claude,
    Droid,
}

/// The writer of a transcript.
#[derive(Debug)]
pub(crate) struct Records {
    place: Place,
    /// The working directory, which some records name.
    directory: String,
    /// How many ids were given out.
    ids: u64,
}

impl Records {
    /// Opens a provider's transcript and writes what it writes at its start.
    ///
    /// `environment` is asked for the paths and ids that `transcript` does not settle.
    pub(crate) fn open(
        provider: Provider,
        transcript: Option<&Path>,
        words: &[String],
        directory: &Path,
        environment: impl Fn(&str) -> Option<String>,
    ) -> io::Result<Self> {
        let wanted = |variable: &str| {
            environment(variable).filter(|value| !value.is_empty()).ok_or_else(|| {
                io::Error::other(format!("{variable} is not set (provider {}, see --help)", provider.name()))
            })
        };
        let path =
            |variable: &str| transcript.map_or_else(|| wanted(variable).map(PathBuf::from), |path| Ok(path.into()));
        let lazy = environment("BENCH_LAZY").is_some_and(|value| !value.is_empty());
        let directory = directory.to_string_lossy().into_owned();
        let place = match provider {
            Provider::Codex => Place::Lines { path: path("CODEX_LOG_PATH")?, kind: Lines::Codex },
            Provider::Claude => Place::Lines { path: path("CLAUDE_SESSION_PATH")?, kind: Lines::Claude },
            Provider::Droid if factory::is_asked_for(words) => {
                let fresh = sha256(&format!("{} {}", std::process::id(), unix_time()))[..32].to_owned();
                Place::Factory(Factory::open(words, &wanted("HOME")?, &directory, fresh)?)
            }
            Provider::Droid => Place::Lines { path: path("DROID_SESSION_PATH")?, kind: Lines::Droid },
            Provider::Gemini => {
                let path = path("GEMINI_SESSION_PATH")?;
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let session = wanted("GEMINI_SESSION_ID").unwrap_or(stem);
                Place::Chat { messages: messages_of(&path), path, session }
            }
            Provider::OpenCode => {
                let root = path("OPENCODE_STORAGE_ROOT")?;
                // Ids that are the same at each start, so that a restarted stub goes on.
                let own = || sha256(&directory)[..24].to_owned();
                let session = wanted("OPENCODE_SESSION_ID").unwrap_or_else(|_| format!("ses_{}", own()));
                let project = wanted("OPENCODE_PROJECT_ID").unwrap_or_else(|_| own());
                let count = std::fs::read_dir(root.join("message").join(&session)).map_or(0, Iterator::count);
                Place::Storage { root, project, session, count }
            }
            Provider::None => Place::Nowhere,
        };
        let mut records = Self { place, directory, ids: 0 };
        records.start(lazy, environment("DROID_SESSION_ID"))?;
        Ok(records)
    }

    /// Writes what stands in a transcript before the first question.
    fn start(&mut self, lazy: bool, droid_session: Option<String>) -> io::Result<()> {
        let droid_session = droid_session.unwrap_or_else(|| self.next_id());
        match &self.place {
            Place::Lines { path, kind } => {
                make_parent(path)?;
                let empty = std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
                match kind {
                    Lines::Codex if empty && !lazy => append(path, &self.session_meta()),
                    Lines::Droid if empty => {
                        append(path, &json!({"type": "session_start", "id": droid_session, "cwd": self.directory}))
                    }
                    Lines::Claude => std::fs::OpenOptions::new().create(true).append(true).open(path).map(drop),
                    Lines::Codex | Lines::Droid => Ok(()),
                }
            }
            Place::Chat { path, session, messages } => write_chat(path, session, messages),
            Place::Storage { root, project, session, .. } if !lazy => {
                write_heads(root, project, session, &self.directory, now_ms())
            }
            Place::Storage { .. } | Place::Factory(_) | Place::Nowhere => Ok(()),
        }
    }

    /// Writes what a provider writes when it is asked.
    pub(crate) fn question(&mut self, text: &str) -> io::Result<()> {
        let id = self.next_id();
        match &mut self.place {
            Place::Lines { path, kind: Lines::Codex } => {
                let path = path.clone();
                if !path.exists() {
                    append(&path, &self.session_meta())?;
                }
                append(&path, &json!({"type": "event_msg", "payload": {"type": "user_message", "message": text}}))
            }
            Place::Lines { path, kind: Lines::Claude } => append(path, &spoken("user", text)),
            Place::Lines { path, kind: Lines::Droid } => append(path, &droid_message(&id, "user", text)),
            Place::Chat { messages, .. } => {
                messages.push(json!({"type": "user", "content": text}));
                Ok(())
            }
            Place::Factory(factory) => factory.question(format!("msg-{id}"), text),
            Place::Storage { .. } | Place::Nowhere => Ok(()),
        }
    }

    /// Writes what a provider writes when it has answered.
    pub(crate) fn reply(&mut self, text: &str) -> io::Result<()> {
        let id = self.next_id();
        match &mut self.place {
            Place::Lines { path, kind: Lines::Codex | Lines::Claude } => append(path, &spoken("assistant", text)),
            Place::Lines { path, kind: Lines::Droid } => append(path, &droid_message(&id, "assistant", text)),
            Place::Chat { path, session, messages } => {
                let number = messages.len();
                messages.push(json!({"type": "gemini", "content": text, "id": format!("stub-{number}")}));
                write_chat(path, session, messages)
            }
            Place::Storage { root, project, session, count } => {
                *count += 1;
                let now = now_ms();
                write_heads(root, project, session, &self.directory, now)?;
                write_message(root, session, *count, text, now)
            }
            Place::Factory(factory) => factory.reply(&format!("msg-{id}"), text),
            Place::Nowhere => Ok(()),
        }
    }

    /// Writes what a provider writes when it wants to run a command and asks: Droid's session alone does.
    pub(crate) fn asks(&mut self, command: &str) -> io::Result<()> {
        let id = self.next_id();
        match &mut self.place {
            Place::Factory(factory) => factory.asks(&format!("msg-{id}"), command),
            Place::Lines { .. } | Place::Chat { .. } | Place::Storage { .. } | Place::Nowhere => Ok(()),
        }
    }

    /// Writes what a provider writes when an allowed command has run.
    pub(crate) fn ran(&mut self, printed: &str) -> io::Result<()> {
        let id = self.next_id();
        match &mut self.place {
            Place::Factory(factory) => factory.ran(&format!("msg-{id}"), printed),
            Place::Lines { .. } | Place::Chat { .. } | Place::Storage { .. } | Place::Nowhere => Ok(()),
        }
    }

    /// Writes what a provider writes when its model's server has refused it.
    pub(crate) fn failed(&mut self, code: u16, text: &str) -> io::Result<()> {
        let id = self.next_id();
        match &mut self.place {
            Place::Factory(factory) => factory.failed(&format!("msg-{id}"), code, text),
            Place::Lines { .. } | Place::Chat { .. } | Place::Storage { .. } | Place::Nowhere => Ok(()),
        }
    }

    /// Writes what a provider writes when it was interrupted: of these, Codex and Droid's session leave a record.
    pub(crate) fn interrupted(&mut self) -> io::Result<()> {
        let id = self.next_id();
        match &mut self.place {
            Place::Factory(factory) => factory.interrupted(&format!("msg-{id}")),
            Place::Lines { path, kind: Lines::Codex } => append(
                path,
                &json!({"type": "event_msg", "payload": {"type": "turn_aborted", "reason": "interrupted"}}),
            ),
            Place::Lines { .. } | Place::Chat { .. } | Place::Storage { .. } | Place::Nowhere => Ok(()),
        }
    }

    /// Leaves the session for another one: the file is left beside, where a session has a file.
    pub(crate) fn new_session(&mut self) -> io::Result<()> {
        let id = self.next_id();
        match &mut self.place {
            Place::Lines { path, kind } => {
                let mut beside = path.clone().into_os_string();
                beside.push(format!(".{id}.old"));
                std::fs::rename(&*path, beside)?;
                match kind {
                    Lines::Codex => {
                        let meta = json!({"id": id, "cwd": self.directory});
                        append(path, &json!({"type": "session_meta", "payload": meta}))
                    }
                    Lines::Droid => append(path, &json!({"type": "session_start", "id": id, "cwd": self.directory})),
                    Lines::Claude => std::fs::File::create(path).map(drop),
                }
            }
            Place::Chat { path, session, messages } => {
                *session = id;
                messages.clear();
                write_chat(path, session, messages)
            }
            Place::Storage { root, project, session, .. } => {
                *session = format!("ses_{id}");
                write_heads(root, project, session, &self.directory, now_ms())
            }
            Place::Factory(factory) => factory.new_session(id),
            Place::Nowhere => Ok(()),
        }
    }

    /// Returns Codex's first record.
    fn session_meta(&self) -> Value {
        json!({"type": "session_meta", "payload": {"cwd": self.directory}})
    }

    /// Returns an id of 32 hexadecimal digits that nobody else has.
    fn next_id(&mut self) -> String {
        self.ids += 1;
        let mut id = sha256(&format!("{} {} {}", std::process::id(), self.ids, unix_time()));
        id.truncate(32);
        id
    }
}

/// Returns a record of what somebody said, as Codex's and Claude's stubs write it.
fn spoken(role: &str, text: &str) -> Value {
    json!({"type": "event_msg", "payload": {"type": "assistant_message", "role": role, "message": text}})
}

/// Returns Droid's record of what somebody said.
fn droid_message(id: &str, role: &str, text: &str) -> Value {
    let content = json!([{"type": "text", "text": text}]);
    json!({"type": "message", "id": format!("msg-{id}"), "message": {"role": role, "content": content}})
}

/// Returns the messages in Gemini's chat file, if there are any.
fn messages_of(path: &Path) -> Vec<Value> {
    let chat = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    chat.and_then(|chat| chat["messages"].as_array().cloned()).unwrap_or_default()
}

/// Puts Gemini's chat file in the place of its former state.
fn write_chat(path: &Path, session: &str, messages: &[Value]) -> io::Result<()> {
    make_parent(path)?;
    let mut beside = path.to_path_buf().into_os_string();
    beside.push(".tmp");
    std::fs::write(&beside, indented(&json!({"sessionId": session, "messages": messages})))?;
    std::fs::rename(&beside, path)
}

/// Writes `OpenCode`'s files about the project and the session.
fn write_heads(root: &Path, project: &str, session: &str, directory: &str, now: u64) -> io::Result<()> {
    let time = json!({"updated": now});
    let head = json!({"id": project, "worktree": directory, "time": time});
    write_file(&root.join("project").join(format!("{project}.json")), &head)?;
    let head = json!({"id": session, "directory": directory, "time": time});
    write_file(&root.join("session").join(project).join(format!("{session}.json")), &head)
}

/// Writes `OpenCode`'s files of an answer: the message, then its part.
fn write_message(root: &Path, session: &str, number: usize, text: &str, now: u64) -> io::Result<()> {
    let (message, part) = (format!("msg_{number}"), format!("prt_{number}"));
    let time = json!({"created": now, "completed": now});
    write_file(
        &root.join("message").join(session).join(format!("{message}.json")),
        &json!({"id": message, "sessionID": session, "role": "assistant", "time": time}),
    )?;
    write_file(
        &root.join("part").join(&message).join(format!("{part}.json")),
        &json!({"id": part, "messageID": message, "type": "text", "text": text, "time": {"start": now}}),
    )
}

/// Returns the milliseconds since the Unix epoch.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the time is positive and far from the bounds"
)]
fn now_ms() -> u64 {
    (unix_time() * 1000.0) as u64
}

/// Appends a record as one line.
fn append(path: &Path, record: &Value) -> io::Result<()> {
    append_line(path, &ascii(&record.to_string()))
}

/// Writes a file of one indented record, and its directory.
fn write_file(path: &Path, record: &Value) -> io::Result<()> {
    make_parent(path)?;
    std::fs::write(path, indented(record))
}

/// Returns a record over several lines.
fn indented(record: &Value) -> String {
    ascii(&format!("{record:#}\n"))
}

/// Makes the directory that a file stands in.
fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}

/// Escapes what is not ASCII in a JSON text, where it can only stand in strings.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own for one test, removed with it.
    struct Room(PathBuf);

    impl Room {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("stub-agent-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// Opens a transcript, asks and answers once, and returns what stands in `file`.
        fn talk(&self, provider: Provider, environment: &[(&str, &str)], file: &str) -> String {
            let find = |variable: &str| {
                let value = environment.iter().find(|(name, _)| *name == variable).map(|(_, value)| *value)?;
                Some(value.replace("ROOM", &self.0.to_string_lossy()))
            };
            let mut records = Records::open(provider, None, &[], Path::new("/project"), find).unwrap();
            records.question("Q é🙂").unwrap();
            records.reply("R\nCCB_DONE: r").unwrap();
            std::fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Room {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    fn lines(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn codex_and_claude_write_lines() {
        let room = Room::new("lines");
        let reply = json!({"type": "event_msg", "payload":
            {"type": "assistant_message", "role": "assistant", "message": "R\nCCB_DONE: r"}});
        let text = room.talk(Provider::Codex, &[("CODEX_LOG_PATH", "ROOM/deep/c.jsonl")], "deep/c.jsonl");
        assert!(text.is_ascii());
        let start = json!({"type": "session_meta", "payload": {"cwd": "/project"}});
        let question = json!({"type": "event_msg", "payload": {"type": "user_message", "message": "Q é🙂"}});
        assert_eq!(lines(&text), [start, question, reply.clone()]);

        let text = room.talk(Provider::Claude, &[("CLAUDE_SESSION_PATH", "ROOM/cl.jsonl")], "cl.jsonl");
        let question = json!({"type": "event_msg", "payload":
            {"type": "assistant_message", "role": "user", "message": "Q é🙂"}});
        assert_eq!(lines(&text), [question, reply]);
    }

    #[test]
    fn a_lazy_codex_starts_its_file_with_the_first_question() {
        let room = Room::new("lazy");
        let path = room.0.join("c.jsonl");
        let lazy = |variable: &str| (variable == "BENCH_LAZY").then(|| "1".to_owned());
        let mut records = Records::open(Provider::Codex, Some(&path), &[], Path::new("/p"), lazy).unwrap();
        assert!(!path.exists());
        records.question("Q").unwrap();
        assert_eq!(lines(&std::fs::read_to_string(&path).unwrap()).len(), 2);
    }

    #[test]
    fn droid_writes_messages_with_ids() {
        let room = Room::new("droid");
        let environment = [("DROID_SESSION_PATH", "ROOM/d.jsonl"), ("DROID_SESSION_ID", "s-1")];
        let records = lines(&room.talk(Provider::Droid, &environment, "d.jsonl"));
        assert_eq!(records[0], json!({"type": "session_start", "id": "s-1", "cwd": "/project"}));
        assert_eq!(records[1]["message"], json!({"role": "user", "content": [{"type": "text", "text": "Q é🙂"}]}));
        assert_eq!(records[2]["message"]["role"], "assistant");
        let ids: Vec<_> = records[1..].iter().map(|record| record["id"].as_str().unwrap()).collect();
        assert!(ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("msg-") && id.len() == 36));
    }

    #[test]
    fn gemini_rewrites_its_chat_and_continues_it() {
        let room = Room::new("gemini");
        let environment = [("GEMINI_SESSION_PATH", "ROOM/chats/session-1.json")];
        for rounds in 1..=2 {
            let text = room.talk(Provider::Gemini, &environment, "chats/session-1.json");
            let chat: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(chat["sessionId"], "session-1");
            assert_eq!(chat["messages"].as_array().unwrap().len(), 2 * rounds);
            assert_eq!(chat["messages"][0], json!({"type": "user", "content": "Q é🙂"}));
            let reply = json!({"type": "gemini", "content": "R\nCCB_DONE: r", "id": "stub-1"});
            assert_eq!(chat["messages"][1], reply);
        }
    }

    #[test]
    fn opencode_writes_four_files() {
        let room = Room::new("opencode");
        let environment =
            [("OPENCODE_STORAGE_ROOT", "ROOM"), ("OPENCODE_PROJECT_ID", "p"), ("OPENCODE_SESSION_ID", "s")];
        let part: Value =
            serde_json::from_str(&room.talk(Provider::OpenCode, &environment, "part/msg_1/prt_1.json")).unwrap();
        assert_eq!((&part["messageID"], &part["text"]), (&json!("msg_1"), &json!("R\nCCB_DONE: r")));
        let session: Value =
            serde_json::from_str(&room.talk(Provider::OpenCode, &environment, "session/p/s.json")).unwrap();
        assert_eq!(session["directory"], "/project");
        assert!(room.0.join("project/p.json").exists());
        assert!(room.0.join("message/s/msg_2.json").exists(), "a second start goes on counting");
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = Records::open(Provider::Codex, None, &[], Path::new("/"), |_| None).unwrap_err();
        assert!(error.to_string().contains("CODEX_LOG_PATH"));
        assert!(Records::open(Provider::None, None, &[], Path::new("/"), |_| None).is_ok());
    }
}
