//! The transcripts of one agent's Gemini: all those in its overlay, because no more than their directory is known
//! before a session has begun.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ccb_core::provider::gemini::{Reader, Says, record, session};
use ccb_core::provider::hook::Hook;
use ccb_core::provider::{Observation, Provider};
use ccb_core::screen::Sight;
use ccb_core::state::Presence;
use tokio::time::Instant;

use crate::process::Identity;
use crate::transport::Launch;
use crate::transport::follow::Transcript;
use crate::transport::records::{Question, Records};
use crate::transport::seat::is_younger;

/// How long after its session has begun Gemini may still lose what is submitted: a resumed history is drawn then, or the old
/// one cleared away. (After `/clear` a text was lost 0.8 s after the new session had begun, on a busy machine.)
const SETTLES: Duration = Duration::from_secs(2);

/// How long Gemini may take to begin its session, dialogs apart.
const STARTS: Duration = Duration::from_secs(30);

/// Where texts that are too long to paste are, in Gemini's own directory of the project.
const BODIES: &str = "ccb";

/// What tells of one agent's Gemini.
pub(super) struct Gemini {
    /// Where the transcripts are: `<project>/chats/session-….jsonl` below it.
    chats: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// The session that Gemini is in.
    session: String,
    /// When it can take a prompt; none: its session has not begun.
    ready: Option<Instant>,
    /// When it is asked no more for the beginning of its session.
    patience: Instant,
    /// What stands in the way of that.
    dialog: Option<String>,
    /// What it waits for, as a hook has told or its screen shows.
    waiting: Option<String>,
    /// Whether a hook was heard: then its questions are told.
    hooked: bool,
    /// Whether a hook has told that the turn is over.
    told: bool,
    /// Whether the screen has shown before that no turn is on.
    rested: bool,
    /// The program that was heard to have started last; none: it is not there yet, and no prompt is its own.
    program: Option<u32>,
    /// The session that a next start is given, if this one can neither be gone on with nor be given again.
    spare: String,
}

struct File {
    transcript: Transcript,
    reader: Reader,
    session: Option<String>,
    /// How many of its lines were read, from its beginning.
    lines: u64,
    /// How many of them were read before, and are no news when they are read once more.
    old: u64,
    /// Whether it has records: then its session cannot be begun once more.
    taken: bool,
    /// Whether the session can be gone on with: the model has said something in it.
    answered: bool,
}

impl Gemini {
    /// Returns what tells of a Gemini that is not running, in the session that it was given.
    pub(super) fn new(chats: PathBuf, session: String) -> Self {
        Self {
            chats,
            files: BTreeMap::new(),
            session,
            ready: None,
            patience: Instant::now() + STARTS,
            dialog: None,
            waiting: None,
            hooked: false,
            told: false,
            rested: false,
            program: None,
            spare: uuid::Uuid::new_v4().to_string(),
        }
    }

    /// Whether something was asked in the session and nothing answered: Gemini refuses to go on in it, and to begin it.
    fn is_stuck(&self) -> bool {
        self.session().is_none() && self.of_session().any(|file| file.taken)
    }

    fn of_session(&self) -> impl Iterator<Item = &File> {
        self.files.values().filter(|file| file.session.as_ref() == Some(&self.session))
    }

    /// Finds new transcripts. Those of sub-agents are one level further down, and none of ours.
    fn locate(&mut self) {
        for path in transcripts(&self.chats) {
            self.files.entry(path).or_insert_with_key(|path| File {
                // Of any kind that is one of lines.
                transcript: Transcript::new(path.clone(), Provider::Claude),
                reader: Reader::default(),
                session: None,
                lines: 0,
                old: 0,
                taken: false,
                answered: false,
            });
        }
    }

    fn reader(&mut self) -> Option<&mut Reader> {
        let of_session = |file: &&mut File| file.session.as_ref() == Some(&self.session);
        // A resumed session has an empty transcript of its own beside the one that it goes on in.
        self.files.values_mut().filter(of_session).map(|file| &mut file.reader).find(|reader| reader.is_open())
    }

    fn begun(&mut self) {
        if self.ready.is_none() {
            self.ready = Some(Instant::now() + SETTLES);
        }
    }

    fn is_ready(&self) -> bool {
        self.ready.is_some_and(|ready| ready <= Instant::now())
    }

    /// The turn goes on, or another has begun.
    fn goes_on(&mut self) {
        self.waiting = None;
        self.rested = false;
    }
}

impl Records for Gemini {
    fn places(&self) -> Vec<PathBuf> {
        let projects = directories(&self.chats).into_iter().map(|project| {
            let chats = project.join("chats");
            if chats.is_dir() { chats } else { project }
        });
        projects.chain([self.chats.clone()]).collect()
    }

    fn skip(&mut self) {
        // All of it is read, so that what stands open is known; none of it is told.
        drop(self.news());
        self.told = false;
    }

    fn rewind(&mut self) {
        for file in self.files.values_mut() {
            file.transcript.rewind();
            file.reader = Reader::default();
            file.old = file.old.max(std::mem::take(&mut file.lines));
        }
    }

    fn news(&mut self) -> Vec<Observation> {
        self.locate();
        let mut seen = Vec::new();
        let mut went_to = None;
        let (mut any, mut active) = (false, false);
        let elsewhere = self.reader().is_none();
        for file in self.files.values_mut() {
            for line in file.transcript.lines() {
                any = true;
                file.lines += 1;
                if file.session.is_none() {
                    file.session = session(&line);
                }
                if let Some(told) = record(&line) {
                    active = true;
                    file.taken = true;
                    file.answered |= matches!(told.says, Says::Said { .. });
                    // Only what this very program has taken tells where it is.
                    let is_new = self.program.is_some() && file.lines > file.old;
                    if is_new && elsewhere && matches!(told.says, Says::Prompt { .. }) {
                        went_to.clone_from(&file.session);
                    }
                }
                seen.extend(file.reader.take(&line));
            }
        }
        if any {
            self.begun();
        }
        if active {
            self.goes_on();
        }
        if let Some(session) = went_to.filter(|session| *session != self.session) {
            self.session.clone_from(&session);
            seen.insert(0, Observation::SessionChanged { session });
        }
        seen
    }

    fn hook(&mut self, hook: &Hook) -> Vec<Observation> {
        let detail = hook.detail.as_deref().unwrap_or_default();
        self.hooked = true;
        match hook.event.as_str() {
            "SessionStart" if hook.session == self.session => self.begun(),
            // Another Gemini, run by this one's shell, begins by `startup`.
            "SessionStart" if detail != "startup" => {
                self.begun();
                self.goes_on();
                self.session.clone_from(&hook.session);
                return vec![Observation::SessionChanged { session: hook.session.clone() }];
            }
            "AfterAgent" if hook.session == self.session => {
                self.goes_on();
                self.told = true;
            }
            "Notification" if detail == "ToolPermission" && hook.session == self.session => {
                let what = hook.message.as_deref().unwrap_or("a permission");
                self.waiting = Some(format!("it asks in its pane: {what}"));
            }
            _ => {}
        }
        Vec::new()
    }

    fn presence(&self) -> Option<Presence> {
        if let Some(why) = &self.waiting {
            return Some(Presence::Waiting { why: why.clone() });
        }
        if self.is_ready() {
            return None;
        }
        Some(match &self.dialog {
            Some(words) => Presence::Waiting { why: format!("a dialog is open in its pane ({words})") },
            None => Presence::Starting { why: "Gemini starts".to_owned() },
        })
    }

    fn session(&self) -> Option<String> {
        self.of_session().any(|file| file.answered).then(|| self.session.clone())
    }

    /// Its tools read nothing outside the project but what is below its own directory of the project, links followed.
    fn bodies(&self, _usual: PathBuf) -> Option<PathBuf> {
        let of_session = |(_, file): &(&PathBuf, &File)| file.session.as_ref() == Some(&self.session);
        let project = |path: &PathBuf| path.parent()?.parent().map(|project| project.join(BODIES));
        self.files.iter().filter(of_session).find_map(|(path, _)| project(path))
    }

    fn due(&self) -> Option<Instant> {
        self.ready.filter(|_| !self.is_ready())
    }

    fn question(&mut self) -> Option<Question> {
        let told = self.told;
        if self.waiting.is_some() || self.ready.is_none() {
            return Some(Question::Later);
        }
        // Of some dialogs no hook tells: of a loop that it sees, or of a limit.
        let asks = self.reader().is_some();
        asks.then_some(if told { Question::Soon } else { Question::Later })
    }

    fn answer(&mut self, sight: &Sight, at_work: bool) -> (Vec<Observation>, bool) {
        if self.ready.is_none() {
            self.dialog = match sight {
                Sight::Dialog(words) => Some(words.clone()),
                Sight::Composer { .. } | Sight::Busy(_) | Sight::Unclear => None,
            };
            if matches!(sight, Sight::Composer { .. }) && self.patience <= Instant::now() {
                self.begun();
            }
            return (Vec::new(), false);
        }
        match sight {
            Sight::Dialog(words) => {
                self.waiting.get_or_insert_with(|| format!("a dialog is open in its pane ({words})"));
                return (Vec::new(), false);
            }
            Sight::Composer { .. } | Sight::Busy(_) | Sight::Unclear => {
                if self.waiting.take().is_some() {
                    return (Vec::new(), false);
                }
            }
        }
        let told = self.told;
        let rests = !at_work && (told || matches!(sight, Sight::Composer { .. }));
        if !rests || (!told && !std::mem::replace(&mut self.rested, true)) {
            return (Vec::new(), told);
        }
        self.told = false;
        let end = self.reader().filter(|reader| reader.is_whole()).and_then(Reader::close);
        (end.into_iter().collect(), told)
    }

    fn started(&mut self, pid: u32) {
        self.waiting = None;
        self.dialog = None;
        self.told = false;
        self.patience = Instant::now() + STARTS;
        // One that runs already has begun its session.
        self.ready = (!is_younger(pid) && Identity::of(pid).is_some()).then(Instant::now);
        // What is there already was not written by it.
        let before = self.program.take();
        drop(self.news());
        self.program = Some(pid);
        if !is_younger(pid) {
            return;
        }
        self.ready = None;
        // It may be told of again, when a connection was lost.
        if before != Some(pid) {
            // Whatever was on is over with the program that was in it.
            self.files.values_mut().for_each(|file| file.reader.abandon());
            if self.is_stuck() {
                self.session = std::mem::replace(&mut self.spare, uuid::Uuid::new_v4().to_string());
            }
        }
    }

    /// In the session that can be gone on with; in a new one, if this one can neither be gone on with nor be begun.
    fn next_start(&self, launch: &Launch) -> Option<Vec<String>> {
        if let Some(session) = self.session() {
            return Some(launch.resume(&session));
        }
        let program = launch.argv.first()?;
        let begin = [program, "--session-id", &self.spare].map(str::to_owned).into_iter();
        self.is_stuck().then(|| begin.chain(launch.resume.1.iter().cloned()).collect())
    }

    fn launched(&mut self, launch: &Launch) {
        *self = Self::new(launch.records.clone(), launch.session.clone());
    }
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Returns all transcripts below `tmp`, the oldest first within a project.
fn transcripts(tmp: &Path) -> Vec<PathBuf> {
    let chats = directories(tmp).into_iter().map(|project| project.join("chats"));
    let entries = chats.filter_map(|chats| fs::read_dir(chats).ok()).flatten().filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    paths.sort();
    paths
}

/// Returns what the transcripts of a session hold, each as a whole.
pub(super) fn chats_of(tmp: &Path, wanted: &str) -> Vec<String> {
    let texts = transcripts(tmp).into_iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.filter(|text| text.lines().next().and_then(session).is_some_and(|session| session == wanted)).collect()
}

/// Returns whether Gemini can go on in a session: one in which nothing was said it refuses.
pub(super) fn is_resumable(tmp: &Path, wanted: &str) -> bool {
    let says = |line: &str| record(line).is_some_and(|record| matches!(record.says, Says::Said { .. }));
    chats_of(tmp, wanted).iter().any(|text| text.lines().any(says))
}

/// Returns whether a session has prompts: then it cannot be given once more.
pub(super) fn is_taken(tmp: &Path, wanted: &str) -> bool {
    chats_of(tmp, wanted).iter().any(|text| text.lines().any(|line| record(line).is_some()))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Place {
        tmp: tempfile::TempDir,
        program: Child,
    }

    impl Drop for Place {
        fn drop(&mut self) {
            self.program.kill().ok();
            self.program.wait().ok();
        }
    }

    impl Place {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            fs::create_dir_all(tmp.path().join("project/chats")).unwrap();
            Self { tmp, program: Command::new("sleep").arg("600").spawn().unwrap() }
        }

        fn gemini(&self, session: &str) -> Gemini {
            Gemini::new(self.tmp.path().to_owned(), session.to_owned())
        }

        /// Adds records to a session's transcript; each is a prompt, or what the model says, with its text.
        fn write(&self, name: &str, session: &str, records: &[(&str, &str)]) {
            let path = self.tmp.path().join(format!("project/chats/session-{name}.jsonl"));
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|_| format!("{}\n", serde_json::json!({ "sessionId": session })));
            let record = |(number, (kind, said)): (usize, &(&str, &str))| {
                let id = format!("{name}-{}-{number}", text.len());
                format!("{}\n", serde_json::json!({ "id": id, "type": kind, "content": said }))
            };
            let added: String = records.iter().enumerate().map(record).collect();
            fs::write(path, text + &added).unwrap();
        }
    }

    fn moved(news: &[Observation]) -> bool {
        news.iter().any(|seen| matches!(seen, Observation::SessionChanged { .. }))
    }

    #[test]
    fn what_was_there_before_a_program_does_not_tell_where_it_is() {
        let place = Place::new();
        place.write("a", "S1", &[("user", "long ago"), ("gemini", "yes"), ("user", "cut off")]);
        let mut gemini = place.gemini("S2");
        gemini.started(place.program.id());
        assert_eq!(gemini.session, "S2");
        assert!(gemini.reader().is_none(), "what was cut off is over");
        place.write("b", "S2", &[("user", "now")]);
        assert!(!moved(&gemini.news()));
        assert!(gemini.reader().is_some());
        // One that was told of again is still in its turn.
        gemini.started(place.program.id());
        assert!(gemini.reader().is_some());
    }

    #[test]
    fn what_is_read_once_more_moves_nothing_and_what_is_new_does() {
        let place = Place::new();
        let mut gemini = place.gemini("S1");
        gemini.started(place.program.id());
        place.write("a", "S1", &[("user", "ours")]);
        assert!(!moved(&gemini.news()));
        // Another Gemini that is run by a tool of ours.
        place.write("z", "S9", &[("user", "theirs"), ("gemini", "yes")]);
        assert!(!moved(&gemini.news()));
        gemini.rewind();
        assert!(!moved(&gemini.news()));
        let mut later = place.gemini("S1");
        later.started(std::process::id());
        later.rewind();
        assert!(!moved(&later.news()), "nor for who comes later");
        assert_eq!((gemini.session.as_str(), later.session.as_str()), ("S1", "S1"));
        gemini.files.values_mut().for_each(|file| file.reader.abandon());
        place.write("b", "S2", &[("user", "after a /resume")]);
        assert!(moved(&gemini.news()));
        assert_eq!(gemini.session, "S2");
    }

    #[test]
    fn a_session_without_an_answer_is_neither_resumed_nor_begun_again() {
        let place = Place::new();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let launch = Launch {
            records: place.tmp.path().to_owned(),
            session: "S1".into(),
            argv: words(&["gemini", "--session-id", "S1", "--yolo"]),
            resume: (words(&["gemini", "--resume"]), words(&["--yolo"])),
        };
        let mut gemini = place.gemini("S1");
        gemini.started(place.program.id());
        assert_eq!(gemini.next_start(&launch), None, "it can be begun still");
        place.write("a", "S1", &[("user", "ours")]);
        drop(gemini.news());
        let spare = gemini.spare.clone();
        assert_eq!(gemini.next_start(&launch), Some(words(&["gemini", "--session-id", &spare, "--yolo"])));
        let mut next = Command::new("sleep").arg("600").spawn().unwrap();
        gemini.started(next.id());
        next.kill().unwrap();
        next.wait().unwrap();
        assert_eq!(gemini.session, spare);
        place.write("b", &spare, &[("user", "once more"), ("gemini", "yes")]);
        assert!(!moved(&gemini.news()));
        assert_eq!(gemini.next_start(&launch), Some(words(&["gemini", "--resume", &spare, "--yolo"])));
    }
}
