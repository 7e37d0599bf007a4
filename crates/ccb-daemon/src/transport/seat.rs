//! The pane that an agent sits in, for the transports that paste into it.
//!
//! It is pinned when the agent starts. Its screen is looked at again and again only while something waits for it:
//! a draft leaves no event when it goes.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ccb_core::home::file;
use ccb_core::id::AgentName;
use ccb_core::paste::LIMIT;
use ccb_core::prompt;
use ccb_core::screen::{Look, Sight};
use ccb_core::state::Presence;
use ccb_core::step::Input;
use tokio::time::Instant;

use super::{Line, Offer};
use crate::agents::Agents;
use crate::files::{Files, remove_if_there, write_private};
use crate::paste::{self, Delivery, Gate, Target};
use crate::process::Identity;
use crate::tmux::Server;

/// How soon a screen that is waited for is looked at again, at first and at the most.
const RECHECK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long a started program may leave its terminal unread before it is taken for ready all the same.
const SETTLE: Duration = Duration::from_secs(5);

/// An agent's pane.
pub(crate) struct Seat {
    files: Arc<Files>,
    look: Option<Look>,
    target: Option<Target>,
    check: Option<Check>,
    /// How long the next look waits, after hand-overs that failed in a row.
    setback: Duration,
}

struct Check {
    next: Instant,
    pause: Duration,
    since: Instant,
}

/// What became of a delivery. The engine has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It was pasted and Enter was pressed.
    Over,
    /// It was pasted, and is in the composer.
    Stuck,
    /// It was pasted, Enter was not pressed, and the composer is empty.
    Missing,
    /// Nobody can tell.
    Unknown,
    /// Nothing of it left us.
    Back,
}

/// How often a pane that cannot be seen is looked at again.
const TRIES: u32 = 3;

/// Returns whether a process was started after this one.
pub(crate) fn is_younger(pid: u32) -> bool {
    let (other, own) = (Identity::of(pid), Identity::own());
    other.zip(own).is_some_and(|(other, own)| other.start > own.start)
}

impl Seat {
    /// Returns a seat that nobody is in. Without a look its screen is not read.
    pub(crate) fn new(files: &Arc<Files>, look: Option<Look>) -> Self {
        Self { files: files.clone(), look, target: None, check: None, setback: Duration::ZERO }
    }

    /// Returns whether no program runs in it.
    pub(crate) fn is_free(&self) -> bool {
        self.target.is_none()
    }

    /// Returns the pinned pane, while a program runs in it.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Pins the pane that a program was started in; the error says why that cannot be.
    pub(crate) async fn take(&mut self, line: &Line, agents: &Agents, pid: u32) -> Result<(), String> {
        let runner = agents.lock().get(&line.agent).and_then(|slot| slot.runner.clone());
        let known = runner.and_then(|runner| Some((runner.pane?, runner.identity)));
        let Some(((socket, pane), runner)) = known else {
            return Err("its pane is not known".into());
        };
        let server = Server::of_user(PathBuf::from(socket), self.files.home().work_dir().to_owned());
        let mut tries = 0;
        let found = loop {
            match server.pane(&pane).await {
                Ok(found) => break found,
                // A terminal that is late for once is no reason to give its agent up.
                Err(_) if tries < TRIES => tries += 1,
                Err(error) => return Err(format!("its pane cannot be seen: {error}; `ccb restart {}`", line.agent)),
            }
            tokio::time::sleep(RECHECK.1).await;
        };
        if found.pins.process != runner {
            return Err(format!("pane {pane} runs something else"));
        }
        if self.target.is_none() {
            paste::purge(&server, self.files.home()).await.ok();
        }
        self.target = Some(Target { server, pins: found.pins, agent: Identity::of(pid), look: self.look });
        Ok(())
    }

    /// Returns where texts that are too long to paste are for all agents that may read them there.
    pub(crate) fn bodies(&self) -> PathBuf {
        self.files.path(file::BODIES)
    }

    /// Returns what is pasted for a delivery. One that is too long goes to a file, which the agent may read; it is
    /// removed when the agent gets something else.
    pub(crate) fn text(agent: &AgentName, offer: &Offer, marked: bool, at: Option<&Path>) -> io::Result<String> {
        let text = offer.text(marked);
        let end = format!(".{agent}.txt");
        let ours = format!("{}{end}", offer.id);
        let of_agent = |file: &String| *file != ours && file.strip_suffix(&end).is_some_and(|id| !id.contains('.'));
        if let Some(bodies) = at {
            let old = std::fs::read_dir(bodies).into_iter().flatten().filter_map(Result::ok);
            for file in old.filter_map(|entry| entry.file_name().into_string().ok()).filter(of_agent) {
                remove_if_there(&bodies.join(file))?;
            }
        }
        if text.len() <= LIMIT {
            return Ok(text);
        }
        let bodies = at.ok_or_else(|| io::Error::other("the agent has not said yet what it may read"))?;
        DirBuilder::new().recursive(true).mode(0o700).create(bodies)?;
        write_private(&bodies.join(&ours), text.as_bytes())?;
        Ok(prompt::by_file(&text, &bodies.join(&ours).display().to_string()))
    }

    /// The program has ended.
    pub(crate) fn leave(&mut self) {
        self.target = None;
        self.check = None;
    }

    /// Has the screen looked at, at once after a success and ever later after failures in a row.
    pub(crate) fn check_soon(&mut self) {
        self.check_after(self.setback);
    }

    /// Has the screen looked at once more, a moment later.
    pub(crate) fn check_again(&mut self) {
        self.check_after(RECHECK.0);
    }

    fn check_after(&mut self, wait: Duration) {
        let now = Instant::now();
        self.check.get_or_insert(Check { next: now + wait, pause: RECHECK.0.max(wait), since: now });
    }

    /// Looks no more: something else tells when the agent can take something.
    pub(crate) fn look_no_more(&mut self) {
        self.check = None;
    }

    /// Returns when the screen is to be looked at again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.check.as_ref().map(|check| check.next)
    }

    /// Looks at the screen (or, for a blind one, at its terminal) and tells when the agent can take something.
    pub(crate) async fn look_again(&mut self, line: &mut Line) {
        if let Some(presence) = self.look().await {
            line.presence(presence);
        }
    }

    /// Looks at the screen, and plans the next look unless the agent can take something.
    pub(crate) async fn look(&mut self) -> Option<Presence> {
        let (Some(target), Some(check)) = (&self.target, &mut self.check) else {
            self.check = None;
            return None;
        };
        let seen = paste::composer_state(target).await;
        let held_back = if seen.is_none() { paste::held_back(target).await } else { None };
        let presence = match (seen, held_back) {
            (_, Some(why)) => Presence::Waiting { why },
            (Some(Sight::Composer { text, cursor: true }), None) if text.is_empty() => Presence::Idle,
            (Some(Sight::Composer { text, .. }), None) if text.is_empty() => {
                Presence::Waiting { why: "something else than its composer takes the keys in its pane".into() }
            }
            (Some(Sight::Composer { .. }), None) => Presence::Waiting { why: "there is text in its composer".into() },
            (Some(Sight::Busy(_)), None) => Presence::Busy { why: "in a turn that is not ours".into() },
            (Some(Sight::Dialog(words)), None) => {
                Presence::Waiting { why: format!("a dialog is open in its pane ({words})") }
            }
            (Some(Sight::Unclear), None) if check.since.elapsed() < SETTLE => {
                Presence::Starting { why: "its screen is not drawn yet".into() }
            }
            (Some(Sight::Unclear), None) => Presence::Waiting { why: "its screen is not understood".into() },
            // Blind by declaration, or free again just after its screen could not be read.
            (None, None) if target.look.is_some() => Presence::Starting { why: "its screen is not drawn yet".into() },
            (None, None)
                if target.agent.as_ref().is_some_and(Identity::reads_single_keys) || check.since.elapsed() > SETTLE =>
            {
                Presence::Idle
            }
            (None, None) => Presence::Starting { why: "its program does not read its terminal yet".into() },
        };
        if presence == Presence::Idle {
            self.check = None;
        } else {
            check.next = Instant::now() + check.pause;
            check.pause = (check.pause * 2).min(RECHECK.1);
        }
        Some(presence)
    }

    /// Returns what the screen shows now, and whether a turn is on by it, also behind a draft.
    pub(crate) async fn glance(&self) -> Option<(Sight, bool)> {
        paste::glance(self.target.as_ref()?).await
    }

    /// Returns what is pasted for a delivery; none, and the delivery waits, if it cannot be kept in a file.
    pub(crate) fn prepare(
        &mut self,
        line: &mut Line,
        offer: &Offer,
        marked: bool,
        bodies: Option<&Path>,
    ) -> Option<String> {
        let filled = |text: String| match self.look {
            Some(look) => look.filled(ccb_core::paste::neutralise(&text)),
            None => text,
        };
        let text = Self::text(&line.agent, offer, marked, bodies).map(filled);
        text.map_err(|error| self.keep_back(line, offer, &format!("its text cannot be kept in a file: {error}"))).ok()
    }

    /// Does not deliver now, for a reason that somebody may end.
    fn keep_back(&mut self, line: &mut Line, offer: &Offer, why: &str) {
        // First the reason, so that the engine does not offer again at once.
        line.presence(Presence::Waiting { why: why.to_owned() });
        self.give_back(line, offer, why);
    }

    fn give_back(&mut self, line: &Line, offer: &Offer, why: &str) {
        self.setback = (self.setback * 2).clamp(RECHECK.0, RECHECK.1);
        self.check_soon();
        line.not_handed_over(offer, why);
    }

    /// Puts a text into the composer and submits it, and tells the engine what became of that.
    pub(crate) async fn deliver(&mut self, line: &mut Line, offer: &Offer, text: &str, gate: &Gate<'_>) -> Handed {
        let Some(target) = self.target.clone() else {
            line.presence(Presence::Starting { why: "its program is not running".into() });
            line.not_handed_over(offer, "its program is not running");
            return Handed::Back;
        };
        let body = paste::Offer { home: self.files.home(), id: &offer.id, attempt: offer.attempt, text };
        let (id, attempt) = (offer.id.clone(), offer.attempt);
        match paste::deliver(&target, &body, gate).await {
            Delivery::Submitted { how } => {
                self.setback = Duration::ZERO;
                line.engine.tell(Input::HandedOver { id, attempt, how });
                Handed::Over
            }
            Delivery::NotHandedOver { why, wait: true } => {
                self.keep_back(line, offer, &why);
                Handed::Back
            }
            Delivery::NotHandedOver { why, wait: false } => {
                line.presence(Presence::Starting { why: why.clone() });
                self.give_back(line, offer, &why);
                Handed::Back
            }
            Delivery::Stuck { why } => {
                line.presence(Presence::Waiting {
                    why: format!("our text is in its composer and was not submitted: {why}"),
                });
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
                self.check_soon();
                Handed::Stuck
            }
            Delivery::Missing { why } => {
                line.presence(Presence::Waiting { why: format!("a text was pasted into its pane, and {why}") });
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
                self.check_soon();
                Handed::Missing
            }
            Delivery::Unknown { why } => {
                line.engine.tell(Input::Doubt { id, attempt, why, last: false });
                Handed::Unknown
            }
        }
    }
}
