//! What a Codex that is driven by paste tells: its rollouts, which its process holds open, and its hooks.
//!
//! Nothing says before its first turn which file a thread will be in, and a human may go to another thread at any time.
//! So all the rollouts that the program itself holds open are read, but for those of its sub-agents: a turn is known by
//! its id, not by its file. Which thread its TUI shows is told by the locks that it holds, also of one without a turn. A
//! permission that is asked for is in no rollout: while a tool is wanted and has no result,
//! the screen tells whether a dialog is open. It also tells when a started Codex is ready, whose dialogs come a moment
//! after its composer, and when a turn is over of an old one, whose rollouts do not say so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ccb_core::outcome::{Failure, TurnEnd};
use ccb_core::provider::hook::Hook;
use ccb_core::provider::rollout::{self, Call, Meta};
use ccb_core::provider::{Observation, Provider};
use ccb_core::screen::Sight;
use ccb_core::state::Presence;
use tokio::time::Instant;

use crate::process;
use crate::transport::Launch;
use crate::transport::follow::Transcript;
use crate::transport::records::{Question, Records};
use crate::transport::seat::is_younger;

/// How soon rollouts are looked for again that a turn of ours may have begun, and for how long.
const SEARCH: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(20));

/// How long a started Codex must show its composer to be ready: its dialogs come after that.
const SETTLES: Duration = Duration::from_millis(500);

/// How long it may look as if it still loaded: then that is only what its user has made of its footer.
const LOADS: Duration = Duration::from_secs(15);

/// In how many looks at the screen in a row an old Codex must rest for its turn to be over: when it has said something,
/// and when it has not.
const RESTS: (u32, u32) = (2, 4);

/// Where in `$CODEX_HOME` a file is held for each thread that is loaded. It is made anew whenever its thread is entered, by
/// the start of its program, `/new`, `/resume` or `/fork`.
const LOCKS: &str = "thread-writer-locks";

/// A file that is held for a thread.
struct Lock {
    made: SystemTime,
    thread: String,
}

/// The rollouts of one Codex.
#[derive(Clone)]
pub(crate) struct Rollouts {
    /// `$CODEX_HOME/sessions`.
    sessions: PathBuf,
    pid: Option<u32>,
    files: BTreeMap<PathBuf, File>,
    /// The rollout of the last turn that was begun.
    last: Option<PathBuf>,
    /// The thread that was entered last, as far as its locks tell.
    entered: Option<String>,
    /// Until when the rollout of a turn of ours is looked for, and when next.
    search: Option<(Instant, Instant)>,
    /// What it asks the human.
    asks: Option<String>,
    /// While it starts: since when, and since when it shows its composer and does not load, if so.
    starts: Option<(Instant, Option<Instant>)>,
    /// Of an old one, whose rollouts do not tell the ends of turns: its turn, if one is on.
    untold: Option<Untold>,
    /// Whether its rollouts tell the ends of turns.
    tells_ends: bool,
}

/// A turn whose end is not told.
#[derive(Clone, Default)]
struct Untold {
    /// The last that it has said.
    said: Option<String>,
    /// In how many looks in a row it was at rest.
    rests: u32,
}

/// One rollout.
#[derive(Clone)]
struct File {
    transcript: Transcript,
    meta: Option<Meta>,
    /// The turn that has begun last and has not ended.
    turn: Option<String>,
    /// The calls of tools that have no result yet.
    calls: BTreeSet<String>,
    /// Whether the program holds it open.
    held: bool,
}

impl File {
    fn new(path: &Path) -> Self {
        let transcript = Transcript::new(path.to_owned(), Provider::Codex);
        Self { transcript, meta: None, turn: None, calls: BTreeSet::new(), held: false }
    }

    /// Forgets what was read.
    fn rewind(&mut self) {
        self.transcript.rewind();
        self.turn = None;
        self.calls.clear();
    }

    /// Reads what is new.
    fn news(&mut self) -> Vec<Observation> {
        let mut news = Vec::new();
        for line in self.transcript.lines() {
            if self.meta.is_none() {
                self.meta = rollout::meta(&line);
            }
            match rollout::call(&line) {
                Some(Call::Wanted(id)) => drop(self.calls.insert(id)),
                Some(Call::Over(id)) => drop(self.calls.remove(&id)),
                None => {}
            }
            let Some(seen) = rollout::parse(&line) else { continue };
            match &seen {
                Observation::TurnBegan { turn } => self.turn.clone_from(turn),
                Observation::TurnEnded { turn, .. } if *turn == self.turn => {
                    self.turn = None;
                    self.calls.clear();
                }
                _ => {}
            }
            news.push(seen);
        }
        if self.meta.as_ref().is_some_and(|meta| meta.of_subagent) { Vec::new() } else { news }
    }

    /// Whether a turn is on in it that is not a sub-agent's.
    fn is_busy(&self) -> bool {
        self.held && self.turn.is_some() && !self.meta.as_ref().is_some_and(|meta| meta.of_subagent)
    }
}

/// Returns the rollout of a thread, wherever below `sessions` it is.
pub(super) fn of_thread(sessions: &Path, thread: &str) -> Option<PathBuf> {
    if thread.is_empty() {
        return None;
    }
    let below = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>()
    };
    let days = below(sessions).into_iter().flat_map(|year| below(&year)).flat_map(|month| below(&month));
    let mut files = days.flat_map(|day| below(&day));
    files.find(|file| is_of_thread(file, thread))
}

/// Returns whether a file is named as the rollout of this thread.
fn is_of_thread(file: &Path, thread: &str) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&format!("-{thread}.jsonl")))
}

/// Reads a lock that a program holds, if the path is one's.
fn lock(path: &Path) -> Option<Lock> {
    let within = path.parent()?.file_name()?;
    let thread = path.file_name()?.to_str()?.strip_suffix(".lock")?;
    let ours = within == LOCKS && !thread.starts_with('.');
    let made = std::fs::metadata(path).and_then(|data| data.modified()).ok().filter(|_| ours)?;
    Some(Lock { made, thread: thread.to_owned() })
}

impl Rollouts {
    /// Returns those of a Codex that keeps them in `sessions`, and goes on in this thread if it is not empty.
    pub(crate) fn new(sessions: PathBuf, thread: &str, tells_ends: bool) -> Self {
        let known = of_thread(&sessions, thread);
        let files = known.iter().map(|path| (path.clone(), File::new(path))).collect();
        let (entered, search, asks, starts, untold) = (None, None, None, None, None);
        Self { sessions, pid: None, files, last: known, entered, search, asks, starts, untold, tells_ends }
    }

    /// Looks which rollouts and locks the program holds open: itself, or what its launcher has started. Returns the
    /// locks.
    fn find(&mut self) -> Vec<Lock> {
        let Some(pid) = self.pid else { return Vec::new() };
        let is_rollout = |path: &PathBuf| {
            let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rollout-"));
            named && path.extension().is_some_and(|end| end == "jsonl")
        };
        let of = |pid: u32| {
            let open = process::open_files(pid).into_iter();
            open.filter(|path| is_rollout(path) || lock(path).is_some()).collect::<Vec<_>>()
        };
        let mut open = of(pid);
        if open.is_empty() {
            open = process::children(pid).iter().flat_map(|child| of(child.pid)).collect();
        }
        for file in self.files.values_mut() {
            file.held = false;
        }
        let (rollouts, locks): (Vec<_>, Vec<_>) = open.into_iter().partition(is_rollout);
        for path in rollouts {
            self.files.entry(path.clone()).or_insert_with(|| File::new(&path)).held = true;
        }
        locks.iter().filter_map(|path| lock(path)).collect()
    }

    /// Takes the thread whose lock is the newest one for that which was entered last: sub-agents have locks, too. A program
    /// that has ended, or has only just begun, has none.
    fn enter(&mut self, mut locks: Vec<Lock>) {
        let metas = || self.files.values().filter_map(|file| file.meta.as_ref());
        locks.retain(|lock| !metas().any(|meta| meta.of_subagent && meta.thread == lock.thread));
        if let Some(newest) = locks.into_iter().max_by_key(|lock| lock.made) {
            self.entered = Some(newest.thread);
        }
    }

    fn read(&mut self) -> Vec<Observation> {
        let locks = self.find();
        let mut all = Vec::new();
        for (path, file) in &mut self.files {
            let news = file.news();
            if news.iter().any(|seen| matches!(seen, Observation::TurnBegan { .. } | Observation::User { .. })) {
                self.last = Some(path.clone());
                self.search = None;
            }
            all.extend(news);
        }
        self.enter(locks);
        if !self.tells_ends {
            for seen in &all {
                self.note_untold(seen);
            }
        }
        if let Some((until, next)) = &mut self.search {
            let now = Instant::now();
            *next = now + SEARCH.0;
            if now > *until {
                self.search = None;
            }
        }
        all
    }

    fn is_busy(&self) -> bool {
        self.files.values().any(File::is_busy)
    }

    fn is_calling(&self) -> bool {
        self.files.values().any(|file| file.held && !file.calls.is_empty())
    }

    /// Notes how far an old one's turn is.
    fn note_untold(&mut self, seen: &Observation) {
        match seen {
            Observation::User { .. } => self.untold = Some(Untold::default()),
            Observation::Agent { text, .. } => self.untold = Some(Untold { said: Some(text.clone()), rests: 0 }),
            Observation::TurnEnded { .. } => self.untold = None,
            Observation::TurnBegan { .. }
            | Observation::SessionChanged { .. }
            | Observation::Waiting { .. }
            | Observation::Retrying { .. } => {}
        }
    }

    /// Takes a look at an old one that is at rest, or is not; returns its turn's end once it is over.
    fn untold_end(&mut self, rests: bool) -> Option<Observation> {
        let untold = self.untold.as_mut()?;
        untold.rests = if rests { untold.rests + 1 } else { 0 };
        let enough = if untold.said.is_some() { RESTS.0 } else { RESTS.1 };
        if untold.rests < enough {
            return None;
        }
        let end = match self.untold.take()?.said {
            Some(reply) => TurnEnd::Completed { reply },
            None => TurnEnd::Failed {
                reason: Failure::Provider,
                message: "it stopped without an answer; its pane says why".to_owned(),
                partial: String::new(),
            },
        };
        Some(Observation::TurnEnded { turn: None, end })
    }
}

impl Records for Rollouts {
    fn places(&self) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = self.files.values().map(|file| file.transcript.path().to_owned()).collect();
        if self.entered.is_some() {
            places.extend(self.sessions.parent().map(|home| home.join(LOCKS)));
        }
        if places.is_empty() { vec![self.sessions.clone()] } else { places }
    }

    fn skip(&mut self) {
        drop(self.read());
        let now = Instant::now();
        self.search = Some((now + SEARCH.1, now + SEARCH.0));
    }

    fn rewind(&mut self) {
        self.files.values_mut().for_each(File::rewind);
    }

    fn news(&mut self) -> Vec<Observation> {
        self.read()
    }

    fn hook(&mut self, hook: &Hook) -> Vec<Observation> {
        if let Some(path) = hook.transcript.as_ref().map(PathBuf::from) {
            self.files.entry(path.clone()).or_insert_with(|| File::new(&path));
        }
        if hook.event == "PermissionRequest" {
            let tool = hook.tool.as_deref().unwrap_or("a tool");
            self.asks = Some(format!("the agent asks in its pane whether it may use {tool}"));
        }
        Vec::new()
    }

    fn presence(&self) -> Option<Presence> {
        if let Some(why) = &self.asks {
            return Some(Presence::Waiting { why: why.clone() });
        }
        if self.starts.is_some() {
            return Some(Presence::Starting { why: "Codex starts".to_owned() });
        }
        if self.is_busy() {
            return Some(Presence::Busy { why: "in a turn".to_owned() });
        }
        let known = self.entered.is_some() || self.files.values().any(|file| file.held);
        known.then_some(Presence::Idle)
    }

    fn session(&self) -> Option<String> {
        // No other thread is entered while a turn is on, but for those of sub-agents.
        if let Some(thread) = self.entered.as_ref().filter(|_| !self.is_busy()) {
            return Some(thread.clone());
        }
        let file = self.files.get(self.last.as_ref()?)?;
        file.meta.as_ref().filter(|meta| !meta.of_subagent).map(|meta| meta.thread.clone())
    }

    fn next_start(&self, launch: &Launch) -> Option<Vec<String>> {
        let thread = self.session()?;
        if self.files.keys().any(|path| is_of_thread(path, &thread)) {
            return Some(launch.resume(&thread));
        }
        // Nothing was said in it: it cannot be resumed, and a new one is the same.
        let (head, options) = &launch.resume;
        Some(head.iter().take(1).chain(options).cloned().collect())
    }

    fn due(&self) -> Option<Instant> {
        self.search.map(|(_, next)| next)
    }

    fn started(&mut self, pid: u32) {
        self.pid = Some(pid);
        (self.asks, self.starts) = (None, None);
        let (last, entered) = (self.last.clone(), self.entered.clone().unwrap_or_default());
        self.files.retain(|path, _| Some(path) == last.as_ref() || is_of_thread(path, &entered));
        drop(self.read());
        if is_younger(pid) {
            // What an earlier program was at is over, though its record may not say so.
            for file in self.files.values_mut() {
                file.turn = None;
                file.calls.clear();
            }
            self.untold = None;
            let now = Instant::now();
            self.starts = Some((now, None));
            self.search = Some((now + SEARCH.1, now + SEARCH.0));
        }
    }

    fn launched(&mut self, launch: &Launch) {
        *self = Self::new(self.sessions.clone(), &launch.session, self.tells_ends);
    }

    fn question(&mut self) -> Option<Question> {
        let open = self.is_calling() || self.asks.is_some() || self.starts.is_some() || self.untold.is_some();
        open.then_some(Question::Later)
    }

    fn answer(&mut self, sight: &Sight, at_work: bool) -> (Vec<Observation>, bool) {
        let composer = matches!(sight, Sight::Composer { .. });
        match sight {
            Sight::Dialog(words) => {
                let asks = || format!("the agent asks something: a dialog is open in its pane ({words})");
                self.asks.get_or_insert_with(asks);
            }
            Sight::Composer { .. } | Sight::Busy(_) | Sight::Unclear => self.asks = None,
        }
        if let Some((since, shown)) = &mut self.starts {
            if !composer || (at_work && since.elapsed() <= LOADS) {
                *shown = None;
            } else if shown.get_or_insert_with(Instant::now).elapsed() >= SETTLES {
                self.starts = None;
            }
        }
        let rests = composer && !at_work && !self.is_calling();
        (self.untold_end(rests).into_iter().collect(), false)
    }

    fn gate(&self) -> Result<(), String> {
        // Nothing on the screen tells of a turn while its answer streams, and an Enter would steer it.
        let mut now = self.clone();
        drop(now.read());
        if now.is_busy() { Err("a turn of the human's own is running".to_owned()) } else { Ok(()) }
    }
}
