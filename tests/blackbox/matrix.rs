//! The machinery of the crash matrix, which knows no world: the processes that are killed, the edges of a request's
//! life at which they are, how a world is held at an edge, and the table of what came of it.
//!
//! A ring of tests with worlds of its own (other rungs, real agents) takes these and adds rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Process {
    Client,
    Worker,
    Keeper,
    Both,
    Runner,
    Viewer,
    Agent,
    Tmux,
}

/// All of them, in the order of the table.
pub(crate) const PROCESSES: [Process; 8] = [
    Process::Client,
    Process::Worker,
    Process::Keeper,
    Process::Both,
    Process::Runner,
    Process::Viewer,
    Process::Agent,
    Process::Tmux,
];

impl Process {
    fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Keeper => "keeper",
            Self::Both => "keeper+worker",
            Self::Runner => "ccb run",
            Self::Viewer => "ccb view",
            Self::Agent => "agent",
            Self::Tmux => "tmux server",
        }
    }

    /// Returns whether the agent's program dies, at once or with what it runs in.
    pub(crate) fn takes_agent(self) -> bool {
        matches!(self, Self::Runner | Self::Viewer | Self::Agent | Self::Tmux)
    }
}

/// Where in the life of a request, or of the notice that carries its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Edge {
    /// It has come in and is not on disk.
    Accepting,
    /// It is on disk, as being offered.
    Accepted,
    /// Before the text is loaded into a buffer.
    Load,
    /// Between buffer and paste.
    Loaded,
    /// Between paste and Enter.
    Pasted,
    /// When Enter is to be pressed.
    Enter,
    /// Submitted, not proved.
    Entered,
    /// Proved; the agent works.
    Working,
    /// The end was seen and is not on disk.
    Ended,
    /// The end is on disk, and nobody is told.
    Settled,
    /// The asker has acknowledged, and that is not on disk.
    Acknowledged,
    /// The reply's notice is on disk, as being offered.
    NoticeMade,
    /// Before the notice is loaded.
    NoticeLoad,
    /// Between the notice's paste and its Enter.
    NoticePasted,
    /// The notice is submitted, not proved.
    NoticeEntered,
}

impl Edge {
    /// Returns the fail point that holds the worker there, on a rung that is pasted into or on a joined one; none where
    /// the agent holds the world by itself, or where there is no such edge.
    pub(crate) fn point(self, joined: bool) -> Option<&'static str> {
        match self {
            Self::Load | Self::NoticeLoad if joined => Some("droid.before-offer"),
            Self::Entered | Self::NoticeEntered if joined => Some("droid.offered"),
            Self::Loaded | Self::Pasted | Self::Enter | Self::NoticePasted if joined => None,
            Self::Accepting | Self::Ended | Self::Acknowledged => Some("engine.before-commit"),
            Self::Accepted | Self::Settled | Self::NoticeMade => Some("engine.committed"),
            Self::Load | Self::NoticeLoad => Some("paste.load"),
            Self::Loaded => Some("paste.loaded"),
            Self::Pasted | Self::NoticePasted => Some("paste.pasted"),
            Self::Enter => Some("paste.enter"),
            Self::Entered | Self::NoticeEntered => Some("paste.entered"),
            Self::Working => None,
        }
    }

    /// Returns whether it is an edge of a notice's life.
    pub(crate) fn is_notice(self) -> bool {
        matches!(self, Self::NoticeMade | Self::NoticeLoad | Self::NoticePasted | Self::NoticeEntered)
    }

    /// Returns whether the agent is at the request: the edges before are those of its hand-over.
    pub(crate) fn is_late(self) -> bool {
        matches!(self, Self::Working | Self::Ended | Self::Settled | Self::Acknowledged) || self.is_notice()
    }
}

/// Holds a worker at an edge, by `CCB_FAILPOINT`.
pub(crate) struct Hold {
    open: PathBuf,
    reached: PathBuf,
}

impl Hold {
    /// Returns one that lets everything pass.
    pub(crate) fn new(dir: &Path) -> Self {
        let hold = Self { open: dir.join("hold"), reached: dir.join("hold.reached") };
        hold.release();
        hold
    }

    /// Returns the variable's value, in words that a world's set-up understands.
    pub(crate) fn point(edge: Edge, joined: bool) -> String {
        format!("{}=wait:{{world}}/hold", edge.point(joined).unwrap_or("nowhere"))
    }

    /// Has the worker wait when it comes to its edge the next time. Nothing is under way there now.
    pub(crate) fn arm(&self) {
        std::fs::remove_file(&self.open).expect("it was open");
        match std::fs::remove_file(&self.reached) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Returns whether the worker waits there.
    pub(crate) fn is_reached(&self) -> bool {
        self.reached.exists()
    }

    /// Lets the worker, or its successor, go on.
    pub(crate) fn release(&self) {
        std::fs::write(&self.open, "").expect("a mark");
    }
}

/// What came of the cells, for each process and edge by rung.
#[derive(Default)]
pub(crate) struct Table(BTreeMap<(Edge, Process, &'static str), String>);

impl Table {
    /// Writes a cell down; it was not there.
    pub(crate) fn put(&mut self, process: Process, edge: Edge, rung: &'static str, outcome: String) {
        let other = self.0.insert((edge, process, rung), outcome);
        assert!(other.is_none(), "{process:?} at {edge:?} on {rung} was there");
    }

    /// Returns the cells that nobody has written down.
    pub(crate) fn missing(&self, edges: &[Edge], rungs: &[&'static str]) -> Vec<(Edge, Process, &'static str)> {
        let all = edges.iter().flat_map(|edge| PROCESSES.map(|process| (*edge, process)));
        let all = all.flat_map(|(edge, process)| rungs.iter().map(move |rung| (edge, process, *rung)));
        all.filter(|cell| !self.0.contains_key(cell)).collect()
    }

    /// Returns the table as text: one row for each edge and process, a column for each rung.
    pub(crate) fn text(&self, rungs: &[&'static str]) -> String {
        let mut text = format!("{:<15}{:<15}", "edge", "killed");
        for rung in rungs {
            let _ = write!(text, "{rung:<36}");
        }
        let rows: std::collections::BTreeSet<(Edge, Process)> = self.0.keys().map(|key| (key.0, key.1)).collect();
        for (edge, process) in rows {
            let _ = write!(text, "\n{:<15}{:<15}", format!("{edge:?}"), process.word());
            for rung in rungs {
                let cell = self.0.get(&(edge, process, *rung)).map_or("NOT RUN", String::as_str);
                let _ = write!(text, "{cell:<36}");
            }
        }
        text
    }
}
