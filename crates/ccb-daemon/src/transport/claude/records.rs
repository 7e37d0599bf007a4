//! The two records that Claude keeps of itself: its entry in the registry, and the transcript of its session.
//!
//! The registry is watched while Claude runs. The transcript is read only while a delivery is at the agent.

use std::path::{Path, PathBuf};

use ccb_core::provider::Provider;
use ccb_core::provider::claude::{Registered, Status, registered};

use crate::process::Identity;
use crate::transport::follow::{Transcript, Watch};

/// The records of one agent's Claude.
pub(super) struct Records {
    config_dir: PathBuf,
    session: String,
    process: Option<Identity>,
    /// The entry's file, and what stood in it at the last reading that could be understood.
    entry: Option<(PathBuf, Registered)>,
    registry: Option<Watch>,
    /// Where a hook has said that a session's transcript is.
    told: Option<(String, PathBuf)>,
    transcript: Option<Transcript>,
    /// The one of the session before, while a delivery is at the agent.
    former: Option<Transcript>,
    following: Option<Watch>,
    /// Whether a delivery is at the agent.
    reading: bool,
}

impl Records {
    /// Returns the records of a Claude that is not running, in the session that it was given.
    pub(super) fn new(config_dir: PathBuf, session: String) -> Self {
        Self {
            config_dir,
            session,
            process: None,
            entry: None,
            registry: None,
            told: None,
            transcript: None,
            former: None,
            following: None,
            reading: false,
        }
    }

    /// Follows the registry entry of a Claude that has been started.
    pub(super) fn follow(&mut self, process: Option<Identity>) {
        self.entry = None;
        self.registry = process.as_ref().map(|process| Watch::on(&self.entry_of(process.pid)));
        self.process = process;
    }

    /// Claude has ended.
    pub(super) fn leave(&mut self) {
        self.process = None;
        self.entry = None;
        self.registry = None;
        self.rest();
    }

    /// Begins to read the transcript: from where it ends now, or all of it.
    pub(super) fn begin(&mut self, from_the_start: bool) {
        self.reading = true;
        self.following = None;
        self.locate();
        match &mut self.transcript {
            Some(transcript) if from_the_start => transcript.rewind(),
            Some(transcript) => transcript.skip(),
            None => {}
        }
    }

    /// No delivery is at the agent any more.
    pub(super) fn rest(&mut self) {
        self.reading = false;
        self.following = None;
        self.former = None;
    }

    /// Waits until something has happened to the records.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = happened(&mut self.registry) => {}
            () = happened(&mut self.following) => {}
        }
    }

    /// Returns the session that Claude is in.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// Returns what Claude says that it is doing; none: it has not said so.
    pub(super) fn status(&self) -> Option<&Status> {
        self.entry.as_ref().and_then(|(_, entry)| entry.status.as_ref())
    }

    /// Returns when it said so.
    pub(super) fn since(&self) -> i64 {
        self.entry.as_ref().map_or(0, |(_, entry)| entry.since)
    }

    /// Returns whether the session's transcript is there.
    pub(super) fn is_found(&self) -> bool {
        self.transcript.as_ref().is_some_and(|transcript| transcript.path().exists())
    }

    /// A hook tells where a session's transcript is.
    pub(super) fn found(&mut self, session: &str, path: PathBuf) {
        self.told = Some((session.to_owned(), path));
    }

    /// Reads the registry, and hands on each new line of the transcript while it is being read. When Claude has gone
    /// to another session, the old transcript is read to its end first.
    pub(super) fn read(&mut self, mut take: impl FnMut(&str)) {
        self.read_entry();
        let session = self.entry.as_ref().map(|(_, entry)| entry.session.clone());
        if let Some(session) = session.filter(|session| *session != self.session) {
            self.news(&mut take);
            self.session = session;
            // Its last lines may still be on their way.
            self.former = self.transcript.take();
            self.following = None;
        }
        self.locate();
        self.news(&mut take);
    }

    /// Returns a test whether Claude is idle, as far as it says at that very moment.
    pub(super) fn asks_whether_idle(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let path = self.entry.as_ref().map(|(path, _)| path.clone());
        move || {
            let entry = path.as_ref().map(|path| std::fs::read_to_string(path).ok().and_then(|text| registered(&text)));
            // One that is just being written says that something changes.
            entry.is_none_or(|entry| entry.is_some_and(|entry| entry.status == Some(Status::Idle)))
        }
    }

    fn news(&mut self, take: &mut impl FnMut(&str)) {
        if !self.reading {
            return;
        }
        if let Some(former) = &mut self.former {
            former.lines().iter().for_each(|line| take(line));
        }
        if let Some(transcript) = &mut self.transcript {
            self.following.get_or_insert_with(|| Watch::on(transcript.path()));
            transcript.lines().iter().for_each(|line| take(line));
        }
    }

    fn read_entry(&mut self) {
        let Some(process) = self.process.clone() else { return };
        let known = self.entry.as_ref().map_or_else(|| self.entry_of(process.pid), |(path, _)| path.clone());
        if let Some(entry) = entry_at(&known) {
            self.entry = Some((known, entry));
        } else if !known.exists() {
            // Started by a wrapper, or not registered yet.
            self.entry = self.entry_of_session();
        }
    }

    fn entry_of(&self, pid: u32) -> PathBuf {
        self.config_dir.join(format!("sessions/{pid}.json"))
    }

    /// Looks for the entry of our session among all.
    fn entry_of_session(&self) -> Option<(PathBuf, Registered)> {
        let entries = std::fs::read_dir(self.config_dir.join("sessions")).ok()?;
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        let mut ours = paths.filter_map(|path| {
            let entry = entry_at(&path)?;
            (entry.session == self.session).then_some((path, entry))
        });
        ours.next()
    }

    /// Finds the transcript. Its directory's name is Claude's own affair: a hook tells it, or the session's id finds it.
    fn locate(&mut self) {
        if self.transcript.is_some() {
            return;
        }
        let told = self.told.as_ref().filter(|(session, _)| *session == self.session).map(|(_, path)| path.clone());
        let path = told.or_else(|| transcript_of(&self.config_dir, &self.session));
        self.transcript = path.map(|path| Transcript::new(path, Provider::Claude));
    }
}

/// Returns the transcript of a session, if there is one.
pub(super) fn transcript_of(config_dir: &Path, session: &str) -> Option<PathBuf> {
    let projects = std::fs::read_dir(config_dir.join("projects")).ok()?;
    let files = projects.filter_map(Result::ok).map(|project| project.path().join(format!("{session}.jsonl")));
    files.filter(|_| !session.is_empty()).find(|file| file.is_file())
}

/// Reads an entry that was written by a living process: its name is the process's, and that may be another one's by now.
fn entry_at(path: &Path) -> Option<Registered> {
    let pid: u32 = path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()?;
    let start = Identity::of(pid)?.start;
    let entry = registered(&std::fs::read_to_string(path).ok()?)?;
    entry.process_start.is_none_or(|written| written == start).then_some(entry)
}

async fn happened(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
