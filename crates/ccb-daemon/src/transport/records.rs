//! Where the truth about an agent that is driven by paste comes from: its transcript, and its hooks where it has some.

use std::path::PathBuf;

use ccb_core::provider::Observation;
use ccb_core::provider::delivery::Binding;
use ccb_core::provider::hook::Hook;
use ccb_core::screen::Sight;
use ccb_core::state::Presence;
use tokio::time::Instant;

use super::Launch;

/// How soon the screen is to be looked at for what records cannot tell alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// At once: something has told that it is so.
    Soon,
    /// When nothing has happened for a while.
    Later,
}

/// A source of records, read by the driver in [`super::watched`].
///
/// It reads files and remembers how far; it waits for nothing and decides nothing about a delivery. What it returns
/// is in the order of the agent's own records.
pub(crate) trait Records: Send + Sync {
    /// Returns the files (or directories) whose changes mean that there may be news. They need not exist, and may be
    /// others after each reading.
    fn places(&self) -> Vec<PathBuf>;

    /// Passes over what is there: it is older than whatever is waited for.
    fn skip(&mut self);

    /// Forgets what was read: the next reading begins at the start of the session.
    fn rewind(&mut self);

    /// Reads what is new. A change of session that is seen by this is among the observations, in its place.
    fn news(&mut self) -> Vec<Observation>;

    /// Takes what a hook says, which is more than that there may be news. The transcript has been read just before
    /// and is read once more afterwards. A `TurnEnded` that is completed and has no text leaves the text to the
    /// transcript: see [`Records::is_whole`]. If [`Records::session`] changes by it, that need not be told beside.
    fn hook(&mut self, hook: &Hook) -> Vec<Observation> {
        let _ = hook;
        Vec::new()
    }

    /// Returns whether the transcript, as far as it was read, ends with a final answer: it is asked when a hook has
    /// told the end of a turn, whose last words may still be on their way to the file. Nobody waits longer than two
    /// seconds for it.
    fn is_whole(&self) -> bool {
        true
    }

    /// Returns what the agent is doing; none: nothing tells, and its screen or terminal decides. Of one that is idle
    /// the screen is looked at all the same: a draft or a dialog is in no record.
    fn presence(&self) -> Option<Presence> {
        None
    }

    /// Returns the provider's session that the agent is in and that a next start can go on with.
    fn session(&self) -> Option<String> {
        None
    }

    /// Returns the command line of a next start, which goes on in that session.
    fn next_start(&self, launch: &Launch) -> Option<Vec<String>> {
        self.session().map(|session| launch.resume(&session))
    }

    /// Returns how a turn is known to be ours.
    fn binding(&self) -> Binding {
        Binding::Anchor
    }

    /// Returns whether an input is in the records as soon as it is taken, and not only with its answer.
    fn shows_input(&self) -> bool {
        self.binding() == Binding::Anchor
    }

    /// Returns where a text that is too long to paste is put, given where those of all agents are: where the agent may
    /// read it. None: that is not known yet.
    fn bodies(&self, usual: PathBuf) -> Option<PathBuf> {
        Some(usual)
    }

    /// Returns when it wants to be read again although nothing may have happened to its files.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// The program was started (again): whatever the one before was doing is over.
    fn started(&mut self, pid: u32) {
        let _ = pid;
    }

    /// The agent is launched anew while no program runs, perhaps in another session.
    fn launched(&mut self, launch: &Launch) {
        let _ = launch;
    }

    /// Returns why nothing may be put before the agent at this very moment, by what its records say now.
    fn gate(&self) -> Result<(), String> {
        Ok(())
    }

    /// Returns whether the screen must tell what the records cannot tell alone: whether a turn is over that looks so,
    /// or whether a dialog is still open.
    fn question(&mut self) -> Option<Question> {
        None
    }

    /// Takes what the screen shows, and whether a turn is on by it. The second value says whether a hook had told
    /// before what is told now.
    fn answer(&mut self, sight: &Sight, at_work: bool) -> (Vec<Observation>, bool) {
        let _ = (sight, at_work);
        (Vec::new(), false)
    }
}
