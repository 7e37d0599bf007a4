//! Droid's own interface, driven by paste: hooked through `--settings`, or watched. It wants a login.
//!
//! Its transcript has all that counts, the end of each turn too; hooks only say when to look, and when Droid waits for
//! its human. A dialog in mid-turn is in no record, nor is its end: the screen is looked at while a turn goes on. Which
//! of its composer's looks it has has been seen by nobody of us: a screen that is not understood is waited for, and no
//! key is pressed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ccb_core::prompt;
use ccb_core::provider::droid::transcript::{Record, Turns};
use ccb_core::provider::hook::Hook;
use ccb_core::provider::{Observation, Provider, Rung};
use ccb_core::screen::{Look, Sight};
use ccb_core::state::Presence;
use ccb_core::wire::{Code, Refusal};
use serde_json::{Value, json};

use crate::files::write_private;
use crate::tmux::Key;
use crate::transport::follow::Transcript;
use crate::transport::ladder::{Launching, Probe, Ready};
use crate::transport::records::{Question, Records};
use crate::transport::watched;
use crate::transport::{Launch, shell};

/// The events that Droid tells us of. Of a `Stop` it says nothing more than that a turn may be over.
const EVENTS: &[&str] = &["SessionStart", "UserPromptSubmit", "Stop", "Notification", "SessionEnd"];

/// How long (s) Droid waits for a hook of ours at the most.
const HOOK_LIMIT: u32 = 10;

/// What a login leaves in Droid's directory. None of it is read.
const LOGINS: &[&str] = &["auth.v2.file", "auth.v2.keyring", "auth.v2.loginkeychain", "auth.encrypted"];

/// Says why the installed Droid's interface cannot be used.
pub(crate) async fn fits(probe: &Probe<'_>) -> Result<(), String> {
    let home = probe.env.get("HOME").map(|home| Path::new(home).join(".factory")).unwrap_or_default();
    let logged_in = LOGINS.iter().any(|file| home.join(file).exists())
        || probe.env.get("FACTORY_API_KEY").is_some_and(|key| !key.is_empty());
    if !logged_in {
        return Err("Droid's own interface wants a login: run `droid` and log in once".into());
    }
    if probe.says(&["--help"]).await?.contains("--settings") {
        return Ok(());
    }
    Err("it has no `--settings`; Droid 0.215 has".into())
}

/// Prepares a launch of Droid's own interface. On the watched rung the hooks are left out.
pub(crate) fn prepare(launching: &Launching) -> Result<Ready, Refusal> {
    let refuse = |error: io::Error| Refusal::new(Code::Launch, format!("cannot prepare the launch of Droid: {error}"));
    let launch = launch(launching).map_err(refuse)?;
    let session = launching.session.clone().unwrap_or_default();
    let sessions = Sessions::new(launch.records.clone(), session);
    Ok(watched::ready(launching, launch, sessions, Look::Boxed, &[Key::Escape]))
}

fn launch(launching: &Launching) -> io::Result<Launch> {
    let Launching { agent, config, env, files, program, .. } = launching;
    let words = files.path(&format!("run/{agent}.words"));
    write_private(&words, launching.words.as_bytes())?;
    let mut options = vec!["--append-system-prompt-file".to_owned(), words.display().to_string()];
    if launching.rung == Rung::Hooked {
        let settings = files.path(&format!("run/{agent}.settings.json"));
        write_private(&settings, hooks(&shell::hook(files, agent.as_str())).to_string().as_bytes())?;
        options.extend(["--settings".to_owned(), settings.display().to_string()]);
    }
    if launching.auto {
        options.extend(["--auto".to_owned(), "high".to_owned()]);
    }
    options.extend(config.args.iter().cloned());
    let project = files.home().work_dir();
    let home = project.join(env.get("HOME").map(String::as_str).unwrap_or_default());
    let records = home.join(".factory/sessions").join(directory(project));
    let session = launching.session.clone().filter(|session| is_there(&records, session));
    let resume = (vec![program.clone(), "--resume".to_owned()], options.clone());
    let argv = std::iter::once(program.clone()).chain(options).collect();
    let mut launch = Launch { records, session: session.clone().unwrap_or_default(), argv, resume };
    if let Some(session) = session {
        launch.argv = launch.resume(&session);
    }
    Ok(launch)
}

fn hooks(command: &str) -> Value {
    let hook = json!([{ "hooks": [{ "type": "command", "command": command, "timeout": HOOK_LIMIT }] }]);
    json!({ "hooks": EVENTS.iter().map(|event| ((*event).to_owned(), hook.clone())).collect::<BTreeMap<_, _>>() })
}

/// Returns the name under which Droid keeps a project's sessions.
fn directory(project: &Path) -> String {
    project.display().to_string().replace('/', "-")
}

fn is_there(records: &Path, session: &str) -> bool {
    !session.is_empty() && records.join(format!("{session}.jsonl")).is_file()
}

/// What a hook or the screen has told that Droid waits for.
struct Waiting {
    why: String,
    /// Whether the screen has shown it: then it also shows its end.
    shown: bool,
}

/// The transcripts of a project's Droids. Which of them is ours is known by our anchor, and by the hooks' session.
struct Sessions {
    dir: PathBuf,
    files: BTreeMap<PathBuf, (Transcript, Turns)>,
    session: String,
    /// Whether a hook has told the session: then no other one is listened to.
    told: bool,
    /// What it waits for.
    waiting: Option<Waiting>,
    /// Whether a turn goes on in our session.
    goes_on: bool,
    /// Whether what is read next is old: none of it tells in which session ours is.
    old: bool,
}

impl Sessions {
    fn new(dir: PathBuf, session: String) -> Self {
        let files = BTreeMap::new();
        Self { dir, files, session, told: false, waiting: None, goes_on: false, old: true }
    }

    fn locate(&mut self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "jsonl") {
                let follow = |path: &PathBuf| (Transcript::new(path.clone(), Provider::Droid), Turns::default());
                self.files.entry(path).or_insert_with_key(follow);
            }
        }
    }

    /// Goes to the session that is named, and returns that as news.
    fn go_to(&mut self, session: &str) -> Option<Observation> {
        self.told = true;
        let moved = !session.is_empty() && self.session != session;
        moved.then(|| {
            let first = self.session.is_empty();
            session.clone_into(&mut self.session);
            (self.waiting, self.goes_on) = (None, false);
            (!first).then(|| Observation::SessionChanged { session: session.to_owned() })
        })?
    }
}

impl Records for Sessions {
    fn places(&self) -> Vec<PathBuf> {
        let above = self.dir.parent().map(Path::to_owned);
        self.files.keys().cloned().chain([self.dir.clone()]).chain(above).collect()
    }

    fn skip(&mut self) {
        // All of it is read, so that a turn that goes on is known; none of it is told.
        self.old = true;
        drop(self.news());
    }

    fn rewind(&mut self) {
        for (transcript, turns) in self.files.values_mut() {
            transcript.rewind();
            *turns = Turns::default();
        }
        self.old = true;
    }

    fn news(&mut self) -> Vec<Observation> {
        self.locate();
        let mut seen = Vec::new();
        let old = std::mem::take(&mut self.old);
        for (path, (transcript, turns)) in &mut self.files {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            for line in transcript.lines() {
                let goes_on = match turns.take(&line) {
                    _ if self.told && stem != self.session => continue,
                    Record::User { id, text } => {
                        if !old && prompt::anchor_of(&text).is_some() {
                            stem.clone_into(&mut self.session);
                        }
                        seen.push(Observation::TurnBegan { turn: Some(id.clone()) });
                        seen.push(Observation::User { text, client: None, turn: Some(id) });
                        true
                    }
                    Record::Part => true,
                    Record::Ended { turn, end } => {
                        seen.push(Observation::TurnEnded { turn: Some(turn), end });
                        false
                    }
                    Record::Other => continue,
                };
                if stem == self.session {
                    (self.waiting, self.goes_on) = (None, goes_on);
                }
            }
        }
        seen
    }

    fn hook(&mut self, hook: &Hook) -> Vec<Observation> {
        match (hook.event.as_str(), hook.detail.as_deref()) {
            ("SessionStart" | "UserPromptSubmit", _) => self.go_to(&hook.session).into_iter().collect(),
            // It comes in place of a `Stop` when the human has stopped the turn: the transcript says so.
            ("Notification", Some("idle_prompt")) => Vec::new(),
            ("Notification", _) if hook.session == self.session => {
                let what = hook.message.as_deref().unwrap_or("a permission");
                self.waiting = Some(Waiting { why: format!("it asks in its pane: {what}"), shown: false });
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn presence(&self) -> Option<Presence> {
        self.waiting.as_ref().map(|waiting| Presence::Waiting { why: waiting.why.clone() })
    }

    fn session(&self) -> Option<String> {
        Some(self.session.clone()).filter(|session| is_there(&self.dir, session))
    }

    fn started(&mut self, _pid: u32) {
        (self.waiting, self.goes_on) = (None, false);
    }

    fn question(&mut self) -> Option<Question> {
        self.goes_on.then_some(Question::Later)
    }

    fn answer(&mut self, sight: &Sight, _at_work: bool) -> (Vec<Observation>, bool) {
        match sight {
            Sight::Dialog(words) => {
                let why = || format!("a dialog is open in its pane ({words})");
                self.waiting.get_or_insert_with(|| Waiting { why: why(), shown: true }).shown = true;
            }
            // A hook tells of a dialog before it is drawn, and it may have looks that we do not know.
            Sight::Composer { .. } | Sight::Busy(_) => drop(self.waiting.take_if(|waiting| waiting.shown)),
            Sight::Unclear => {}
        }
        (Vec::new(), false)
    }

    fn launched(&mut self, launch: &Launch) {
        self.dir.clone_from(&launch.records);
        self.files.clear();
        self.skip();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_read_as_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let mut sessions = Sessions::new(dir.path().to_owned(), String::new());
        assert_eq!(sessions.news(), []);
        let file = dir.path().join("s.jsonl");
        let user =
            r#"{"type":"message","id":"m","message":{"role":"user","content":[{"type":"text","text":"hello"}]}}"#;
        fs::write(&file, format!("{user}\n")).unwrap();
        let turn = Some("m".to_owned());
        let user = Observation::User { text: "hello".into(), client: None, turn: turn.clone() };
        assert_eq!(sessions.news(), [Observation::TurnBegan { turn }, user]);
        assert_eq!(sessions.news(), []);
        let hook =
            |event: &str, session: &str| Hook { event: event.into(), session: session.into(), ..Hook::default() };
        assert_eq!(sessions.hook(&hook("SessionStart", "s")), []);
        assert_eq!(sessions.session().as_deref(), Some("s"));
        let changed = Observation::SessionChanged { session: "t".into() };
        assert_eq!(sessions.hook(&hook("SessionStart", "t")), [changed]);
        assert_eq!(sessions.session(), None, "it cannot be gone on in before it has a file");
        let asks = Hook { message: Some("run it?".into()), ..hook("Notification", "t") };
        assert_eq!(sessions.hook(&asks), []);
        let waits = |sessions: &Sessions| matches!(sessions.presence(), Some(Presence::Waiting { why }) if why.contains("run it?"));
        let sees = |sessions: &mut Sessions, sight: Sight| assert_eq!(sessions.answer(&sight, true).0, []);
        assert!(waits(&sessions));
        sees(&mut sessions, Sight::Busy("working".into()));
        assert!(waits(&sessions), "the dialog is not drawn yet");
        sees(&mut sessions, Sight::Dialog("[Y/n]".into()));
        assert!(waits(&sessions));
        sees(&mut sessions, Sight::Busy("working".into()));
        assert_eq!(sessions.presence(), None, "it was allowed");
    }

    #[test]
    fn a_project_has_its_own_directory_of_sessions() {
        assert_eq!(directory(Path::new("/srv/proj-c")), "-srv-proj-c");
    }
}
