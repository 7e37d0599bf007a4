//! Puts a text before an agent by pasting it into its pane (the hooked and watched rungs).
//!
//! Before any key the pane is proved to be the pinned one with the agent in it, and, where its screen can be
//! read, to show an empty composer. tmux makes the same test again in the step that pastes or presses, down
//! to the cursor's place, so that a scroll, a respawn or a typed letter in between holds the key back. Enter
//! is pressed only while the composer shows our text alone, and never twice from here. What was pasted and
//! cannot be submitted is left for the human to see.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use ccb_core::home::{Home, file};
use ccb_core::id::RequestId;
use ccb_core::paste::neutralise;
use ccb_core::screen::{Look, Sight};
use tokio::time::{Instant, sleep};

use crate::failpoint;
use crate::process::{Identity, descends_from};
use crate::tmux::{Error, Guarded, Key, Keys, Pane, Pins, Server};

/// How long a pasted text may take to appear in its composer, beside a millisecond for each KiB of it.
const APPEARS: Duration = Duration::from_secs(2);

/// How soon a screen is read again: a frame that is half drawn shows what is not there.
const REREAD: Duration = Duration::from_millis(30);

/// How often a screen that forbids the paste is read before it is believed.
const LOOKS: u32 = 4;

/// The pane that is pasted into, and what must be true of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its server.
    pub server: Server,
    /// What it was when the agent was launched.
    pub pins: Pins,
    /// The agent, which must be alive and at home in the pane.
    pub agent: Option<Identity>,
    /// How its screen is read; none: it is blind by declaration.
    pub look: Option<Look>,
}

impl Target {
    /// Returns whether the agent has read all that its terminal holds: none of it may still come into its composer.
    pub(crate) fn has_read_all(&self) -> bool {
        self.agent.as_ref().is_some_and(Identity::has_read_all)
    }
}

/// What is delivered.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The home, for the body's file.
    pub home: &'a Home,
    /// The delivery's id.
    pub id: &'a RequestId,
    /// Which offer of it this is.
    pub attempt: u32,
    /// The text; control characters are neutralised, and line ends at its end are left away.
    pub text: &'a str,
}

/// What a [`Gate`] is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The paste (without a look: with the Enter that comes with it).
    Paste,
    /// Enter, after the paste.
    Enter,
}

/// Asked at the last moment whether to go on; the error says what it waits for.
pub type Gate<'a> = dyn Fn(Edge) -> Result<(), String> + Send + Sync + 'a;

/// How a delivery went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing was sent, and nothing will be.
    NotHandedOver {
        /// Why not.
        why: String,
        /// Whether it may go later, once a human or the agent has done something; else the agent is gone or
        /// the paste cannot be made.
        wait: bool,
    },
    /// The text was pasted and Enter was not pressed: it is in the composer.
    Stuck {
        /// Why.
        why: String,
    },
    /// The text was pasted, Enter was not pressed, and the composer is empty.
    Missing {
        /// What was seen.
        why: String,
    },
    /// The text was pasted and Enter was pressed. Whether it was taken is proved elsewhere.
    Submitted {
        /// How, in words for the evidence.
        how: String,
    },
    /// tmux went out of sight while it pasted or pressed.
    Unknown {
        /// What is known.
        why: String,
    },
}

/// What became of a single key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// It was pressed.
    Done,
    /// It was not.
    Refused {
        /// Why not.
        why: String,
    },
    /// Nobody can tell.
    Unknown {
        /// What is known.
        why: String,
    },
}

/// The text of an offer, in a file of its own until it is dropped.
struct Body {
    dir: PathBuf,
    name: String,
}

/// Delivers the offer's text, once.
pub async fn deliver(target: &Target, offer: &Offer<'_>, gate: &Gate<'_>) -> Delivery {
    let text = neutralise(offer.text);
    let text = text.trim_end_matches('\n');
    match hand_over(target, offer, text, gate).await {
        Ok(how) => Delivery::Submitted { how: how.to_owned() },
        Err(end) => end,
    }
}

/// Presses Enter again, only while the composer shows that it still holds exactly `text`.
pub async fn retry_enter(target: &Target, text: &str) -> Pressed {
    press_on_ours(target, text, Key::Enter).await
}

/// Clears the composer, only while it shows that it holds exactly `text`: what our own interrupt of a turn has put
/// back into it. The key is one that clears a text, and in an empty composer only warns.
pub async fn take_back(target: &Target, text: &str) -> Pressed {
    press_on_ours(target, text, Key::CtrlC).await
}

/// Presses a key on our text. Of a collapsed paste the number of lines is shown, which must be that of `text`.
async fn press_on_ours(target: &Target, text: &str, key: Key) -> Pressed {
    let Some(look) = target.look else {
        return Pressed::Refused { why: "its screen cannot be read".to_owned() };
    };
    let text = neutralise(text);
    let text = text.trim_end_matches('\n');
    let (pane, sight) = match see(target, look).await {
        Ok(seen) => seen,
        Err(block) => return Pressed::Refused { why: block.why },
    };
    match ours(look, &sight, text) {
        Ok(()) => press(target, Some(pane.cursor), key).await,
        Err(why) => Pressed::Refused { why },
    }
}

/// Presses a key that stops a turn. The caller knows that the agent is in one: in an idle agent the same key
/// can clear a draft or end the program.
pub async fn interrupt(target: &Target, key: Key) -> Pressed {
    match alive(target) {
        Ok(()) => press(target, None, key).await,
        Err(block) => Pressed::Refused { why: block.why },
    }
}

/// Returns what the pane shows, if it is proved to be the pinned one and its screen can be read.
pub async fn composer_state(target: &Target) -> Option<Sight> {
    see(target, target.look?).await.ok().map(|(_, sight)| sight)
}

/// Returns what the pane shows, if it is proved to be the pinned one and its screen can be read, and whether a turn is
/// on by it.
pub async fn glance(target: &Target) -> Option<(Sight, bool)> {
    let look = target.look?;
    alive(target).ok()?;
    let (pane, capture) = target.server.capture(&target.pins.pane).await.ok()?;
    is_pinned(target, &pane).ok()?;
    Some((look.read(&capture), look.at_work(&capture)))
}

/// Returns whether a paste that is missing is lost: the program has read all that its terminal holds, works at nothing,
/// and shows an empty composer.
pub async fn is_lost(target: &Target) -> bool {
    target.has_read_all() && matches!(glance(target).await, Some((sight, false)) if is_empty(&sight))
}

/// Returns what keeps keys from the pinned pane now, if something does.
pub async fn held_back(target: &Target) -> Option<String> {
    let free = async {
        alive(target)?;
        let pane = target.server.pane(&target.pins.pane).await.map_err(|error| unreadable(&error))?;
        is_pinned(target, &pane)
    };
    free.await.err().map(|block: Block| block.why)
}

/// Deletes the buffers and bodies that earlier deliveries of this project left behind.
pub async fn purge(server: &Server, home: &Home) -> crate::tmux::Result<()> {
    let prefix = prefix(home);
    if let Ok(entries) = std::fs::read_dir(home.path(file::BODIES)) {
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _gone = std::fs::remove_file(entry.path());
            }
        }
    }
    server.purge_buffers(&prefix).await.map(drop)
}

/// Why nothing may be sent.
struct Block {
    why: String,
    wait: bool,
}

impl Block {
    fn waits(why: impl Into<String>) -> Self {
        Self { why: why.into(), wait: true }
    }

    fn gone(why: impl Into<String>) -> Self {
        Self { why: why.into(), wait: false }
    }
}

impl From<Block> for Delivery {
    fn from(Block { why, wait }: Block) -> Self {
        Self::NotHandedOver { why, wait }
    }
}

async fn hand_over(target: &Target, offer: &Offer<'_>, text: &str, gate: &Gate<'_>) -> Result<&'static str, Delivery> {
    let unwritable = |error: io::Error| Block::waits(format!("its body cannot be written: {error}"));
    let body = Body::write(offer, text).map_err(unwritable)?;
    let Some(look) = target.look else {
        alive(target)?;
        gate(Edge::Paste).map_err(Block::waits)?;
        paste(target, &body, None, &[Key::Enter]).await?.map_err(|held| why_held(target, held))?;
        return Ok("pasted, and Enter in the same step; its screen is not read");
    };
    for last in [false, true] {
        let cursor = empty(target, look).await?;
        gate(Edge::Paste).map_err(Block::waits)?;
        match paste(target, &body, Some(cursor), &[]).await? {
            Ok(()) => break,
            Err(held) => {
                let block = why_held(target, held);
                if last || !block.wait {
                    return Err(block.into());
                }
            }
        }
    }
    drop(body);
    submit(target, look, text, gate).await
}

/// Waits until the composer shows `text` alone, and presses Enter.
async fn submit(target: &Target, look: Look, text: &str, gate: &Gate<'_>) -> Result<&'static str, Delivery> {
    let millis = u64::try_from(text.len() / 1024).unwrap_or(u64::MAX);
    let deadline = Instant::now() + APPEARS + Duration::from_millis(millis);
    let mut dialogs = 0;
    let mut shown = (look.settles() == Duration::ZERO).then(Instant::now);
    let mut pause = Duration::from_millis(2);
    loop {
        let (why, other) = match see(target, look).await {
            Ok((pane, sight)) => match ours(look, &sight, text) {
                // One that makes a new line of an Enter soon after a paste is given its time.
                Ok(()) if shown.is_none_or(|shown| shown.elapsed() < look.settles()) => {
                    shown.get_or_insert_with(Instant::now);
                    ("our text has only just appeared in its composer".to_owned(), None)
                }
                Ok(()) => {
                    gate(Edge::Enter).map_err(|why| Delivery::Stuck { why })?;
                    failpoint::hit("paste.enter").await;
                    match press(target, Some(pane.cursor), Key::Enter).await {
                        Pressed::Done => {
                            failpoint::hit("paste.entered").await;
                            return Ok("pasted; Enter when the composer showed it alone");
                        }
                        Pressed::Refused { why } => (why, None),
                        Pressed::Unknown { why } => return Err(Delivery::Unknown { why }),
                    }
                }
                Err(why) => (why, Some(sight)),
            },
            Err(block) if block.wait => (block.why, None),
            Err(block) => return Err(Delivery::Stuck { why: block.why }),
        };
        let dialog = matches!(other, Some(Sight::Dialog(_)));
        dialogs = if dialog { dialogs + 1 } else { 0 };
        if dialogs > 1 || Instant::now() >= deadline {
            let missing = other.is_some_and(|sight| is_empty(&sight));
            return Err(if missing { Delivery::Missing { why } } else { Delivery::Stuck { why } });
        }
        sleep(if dialog { REREAD } else { pause }).await;
        pause = (pause * 2).min(REREAD);
    }
}

fn is_empty(sight: &Sight) -> bool {
    matches!(sight, Sight::Composer { text, .. } if text.is_empty())
}

/// Waits out half-drawn frames until the composer is empty with the cursor in it; returns the cursor.
async fn empty(target: &Target, look: Look) -> Result<(u16, u16), Block> {
    let mut looks = 1;
    loop {
        let (pane, sight) = see(target, look).await?;
        let why = match sight {
            Sight::Composer { text, cursor: true } if text.is_empty() => return Ok(pane.cursor),
            Sight::Composer { text, .. } if text.is_empty() => "the cursor is not in its composer".to_owned(),
            Sight::Composer { .. } => "a draft is in the composer".to_owned(),
            Sight::Busy(_) => "it is in a turn that is not ours".to_owned(),
            Sight::Dialog(words) => format!("a dialog is open: {words}"),
            Sight::Unclear => "its screen is not understood".to_owned(),
        };
        if looks == LOOKS {
            return Err(Block::waits(why));
        }
        looks += 1;
        sleep(REREAD).await;
    }
}

/// Checks that a sight is of our text, alone in the composer with the cursor; else says what it is.
fn ours(look: Look, sight: &Sight, text: &str) -> Result<(), String> {
    let why = match sight {
        Sight::Composer { text: shown, cursor } if look.is_ours(shown, text) => {
            if *cursor {
                return Ok(());
            }
            "the cursor is not in its composer".to_owned()
        }
        Sight::Composer { text: shown, .. } if shown.is_empty() => {
            "our text has not appeared in its composer".to_owned()
        }
        Sight::Busy(_) => "our text has not appeared in its composer".to_owned(),
        Sight::Composer { .. } => "its composer holds something else than our text alone".to_owned(),
        Sight::Dialog(words) => format!("a dialog is open: {words}"),
        Sight::Unclear => "its screen is not understood".to_owned(),
    };
    Err(why)
}

/// Reads the pinned pane, with everything that must hold before a key.
async fn see(target: &Target, look: Look) -> Result<(Pane, Sight), Block> {
    alive(target)?;
    let (pane, capture) = target.server.capture(&target.pins.pane).await.map_err(|error| unreadable(&error))?;
    is_pinned(target, &pane)?;
    Ok((pane, look.read(&capture)))
}

fn unreadable(error: &Error) -> Block {
    match error {
        Error::NoPane(_) | Error::NoServer(_) | Error::Ended { .. } => Block::gone(told(error)),
        other => Block::waits(told(other)),
    }
}

/// Checks the processes: server, pane and agent are the pinned ones, and the agent is at home in the pane.
fn alive(target: &Target) -> Result<(), Block> {
    if !target.pins.server.is_alive() {
        return Err(Block::gone("its tmux server is gone"));
    }
    if !target.pins.process.is_alive() {
        return Err(Block::gone("its pane's process is gone"));
    }
    let Some(agent) = &target.agent else {
        return Ok(());
    };
    if !agent.is_alive() {
        return Err(Block::gone("the agent's process is gone"));
    }
    if !descends_from(agent.pid, &target.pins.process) {
        return Err(Block::gone("the agent no longer belongs to its pane"));
    }
    if agent.is_stopped() {
        return Err(Block::waits("the agent is suspended"));
    }
    Ok(())
}

fn is_pinned(target: &Target, pane: &Pane) -> Result<(), Block> {
    if pane.pins != target.pins {
        return Err(Block::gone("its pane now belongs to another process"));
    }
    pane.obstacle.map_or(Ok(()), |obstacle| Err(Block::waits(obstacle.why())))
}

/// Returns why tmux held a key back.
fn why_held(target: &Target, held: Option<Box<Pane>>) -> Block {
    let Some(pane) = held else {
        return Block::gone("its pane is gone");
    };
    is_pinned(target, &pane).err().unwrap_or_else(|| Block::waits("its screen changed at the last moment"))
}

/// Pastes the body and presses `then`, in one step of tmux's; an inner error is a step that tmux held back.
async fn paste(
    target: &Target,
    body: &Body,
    cursor: Option<(u16, u16)>,
    then: &[Key],
) -> Result<Result<(), Option<Box<Pane>>>, Delivery> {
    let server = &target.server;
    let failed = |error: Error| {
        if error.is_unsettled() {
            return Delivery::Unknown { why: format!("while the text was pasted: {}", told(&error)) };
        }
        unreadable(&error).into()
    };
    failpoint::hit("paste.load").await;
    let stepwise = failpoint::armed("paste.");
    let mut keys = vec![Keys::Paste(&body.name)];
    let guarded = if stepwise {
        // What is only loaded has reached nobody.
        server.load(&body.dir, &body.name).await.map_err(|error| unreadable(&error))?;
        failpoint::hit("paste.loaded").await;
        alive(target)?;
        server.press(&target.pins, cursor, &keys, None).await.map_err(failed)?
    } else {
        keys.extend(then.iter().map(|key| Keys::Key(*key)));
        // Once more: the pins name the pane's runner, which may be starting another program in it just now, and one
        // that takes no pastes yet would take each line for a prompt.
        alive(target)?;
        server.press(&target.pins, cursor, &keys, Some((&body.dir, &body.name))).await.map_err(failed)?
    };
    if let Guarded::Held(pane) = guarded {
        return Ok(Err(pane));
    }
    failpoint::hit("paste.pasted").await;
    for key in then.iter().filter(|_| stepwise) {
        failpoint::hit("paste.enter").await;
        match press(target, cursor, *key).await {
            Pressed::Done => failpoint::hit("paste.entered").await,
            Pressed::Refused { why } => return Err(Delivery::Stuck { why }),
            Pressed::Unknown { why } => return Err(Delivery::Unknown { why }),
        }
    }
    Ok(Ok(()))
}

/// Presses a key, if the pane is still as it was seen.
async fn press(target: &Target, cursor: Option<(u16, u16)>, key: Key) -> Pressed {
    match target.server.press(&target.pins, cursor, &[Keys::Key(key)], None).await {
        Ok(Guarded::Run) => Pressed::Done,
        Ok(Guarded::Held(pane)) => Pressed::Refused { why: why_held(target, pane).why },
        Err(error) if error.is_unsettled() => {
            Pressed::Unknown { why: format!("while {key:?} was pressed: {}", told(&error)) }
        }
        Err(error) => Pressed::Refused { why: told(&error) },
    }
}

/// Returns the error with what is behind it.
fn told(error: &Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

/// Returns what the names of this project's bodies and buffers start with: a server can have several
/// projects' panes.
fn prefix(home: &Home) -> String {
    format!("ccb-{}-", &home.project()[..8])
}

impl Body {
    /// Writes the text whole, for the user alone.
    fn write(offer: &Offer<'_>, text: &str) -> io::Result<Self> {
        let dir = offer.home.path(file::BODIES);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let body = Self { dir, name: format!("{}{}-{}", prefix(offer.home), offer.id, offer.attempt) };
        let path = body.path();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())?;
        Ok(body)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(self.path());
    }
}
