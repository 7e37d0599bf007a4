//! The viewer at work: one loop that joins the agent's program, its pane and askd.
//!
//! It is the only one who writes to the agent. A human's message comes before a delivery, and nothing is given to an
//! agent that is at work: an offer that comes then goes back.

use std::collections::{BTreeSet, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use ccb_core::id::RequestId;
use ccb_core::outcome::{EndedBy, TurnEnd};
use ccb_core::state::Presence;
use ccb_core::view::{STARTING, Said, Standing, Told};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use super::door::Door;
use super::droid::{Droid, Heard};
use super::editor::Editor;
use super::keys::{Key, Keys};
use super::ledger::Ledger;
use super::lines::Lines;
use super::screen::{self, Live, Screen};
use super::{Event, Question};
use crate::pane::group::Marked;
use crate::pane::kept::{Kept, drain, how};
use crate::pane::terminal::{Terminal, say};
use crate::wake;

/// How soon after a turn's last news the agent's records are looked at: they have an end that was not told.
const RECORDS: Duration = Duration::from_millis(1200);

/// How long an end that the records have may take to be told.
const TOLD: Duration = Duration::from_millis(300);

/// How long a question is shown before a key answers it: what was being typed when it came is no answer.
const GRACE: Duration = Duration::from_millis(700);

/// The choice that counts for what comes later too: it is entered, so that no word which begins so makes it.
const ALWAYS: char = 'a';

/// The exit code where its terminal has gone, or somebody has ended it: its human has not left it, as 0 would say.
const HUNG_UP: u8 = 129;

/// How soon a second Ctrl-C ends the viewer.
const TWICE: Duration = Duration::from_secs(2);

/// What a viewer is given.
pub(crate) struct Plan {
    /// The agent's name.
    pub(crate) agent: String,
    /// The session to go on in.
    pub(crate) session: Option<String>,
    /// Whether the agent acts without asking.
    pub(crate) auto: bool,
    /// Where askd comes in.
    pub(crate) socket: PathBuf,
    /// The file with the session's autonomy before `-a` has raised it.
    pub(crate) raised: PathBuf,
    /// Where the agent keeps its sessions.
    pub(crate) sessions: PathBuf,
    /// How long the agent's program may take to begin a session or a turn.
    pub(crate) patience: Duration,
    /// Starts the agent's program.
    pub(crate) command: Box<dyn Fn() -> io::Result<Command>>,
    /// What is left of it when it has ended.
    pub(crate) left: Rc<Marked>,
    /// The project's directory.
    pub(crate) cwd: String,
}

/// What is being worked on.
struct Turn {
    id: String,
    /// The delivery that it is, if it is one.
    ours: Option<RequestId>,
}

/// What the agent's program has to answer.
struct Awaited {
    until: Instant,
    /// The human's message that it is, if it is one.
    text: Option<String>,
}

struct Window {
    plan: Plan,
    door: Door,
    droid: Droid,
    program: Kept,
    writer: Option<Sender<String>>,
    output: Option<ChildStdout>,
    lines: Lines,
    ledger: Ledger,
    editor: Editor,
    keys: Keys,
    screen: Screen,
    /// The session, once it can be talked to; before, the one to load.
    session: Option<String>,
    ready: bool,
    /// Whether a session was lost, and with it what its records said.
    lost: bool,
    turn: Option<Turn>,
    /// What was written and is not answered yet: its turn, or the session, has not begun.
    awaited: Option<Awaited>,
    /// Why its program was ended by us, until it has.
    useless: Option<String>,
    /// When the records are looked at, and the end that they have.
    records: (Instant, Option<TurnEnd>),
    /// What is to be stopped as soon as its turn has begun.
    unwanted: Option<RequestId>,
    queue: VecDeque<String>,
    /// What was asked about before there was a session.
    looks: BTreeSet<RequestId>,
    questions: VecDeque<Question>,
    /// The first of them, since when it has been that, and whether something was in the input line then.
    faced: Option<(String, Instant, bool)>,
    /// The line that is being written, and what is done with.
    tail: String,
    finished: String,
    retry: Option<String>,
    told: Option<Presence>,
    hint: Option<(String, Instant)>,
    end: Option<u8>,
}

/// Signals as something to wait for.
struct Signals {
    child: UnixStream,
    end: UnixStream,
    size: UnixStream,
    _key: UnixStream,
}

/// Runs until the human, the runner or the agent's program ends it; returns the exit code.
pub(crate) fn run(plan: Plan) -> io::Result<u8> {
    let signals = Signals {
        child: wake::signal(&[SIGCHLD])?,
        end: wake::signal(&[SIGHUP, SIGTERM])?,
        size: wake::signal(&[SIGWINCH])?,
        _key: wake::signal(&[SIGINT])?,
    };
    let door = Door::open(&plan.socket)?;
    let terminal = Terminal::remember();
    let mut settings = tcgetattr(io::stdin())?;
    settings.make_raw();
    tcsetattr(io::stdin(), OptionalActions::Now, &settings)?;
    say("\x1b[?2004h");
    let mut window = Window::new(plan, door);
    window.start();
    let result = window.serve(&signals);
    say(&window.screen.leave());
    terminal.restore();
    window.close(&signals);
    result
}

fn size() -> (usize, usize) {
    let size = tcgetwinsize(io::stdout()).map(|size| (size.ws_col.into(), size.ws_row.into()));
    size.ok().filter(|(width, height)| *width > 0 && *height > 0).unwrap_or((80, 24))
}

impl Window {
    fn new(plan: Plan, door: Door) -> Self {
        let session = plan.session.clone();
        let droid = Droid::new(plan.cwd.clone(), plan.auto, None);
        Self {
            plan,
            door,
            droid,
            program: Kept::new(true),
            writer: None,
            output: None,
            lines: Lines::default(),
            ledger: Ledger::default(),
            editor: Editor::default(),
            keys: Keys::default(),
            screen: Screen::new(size()),
            session,
            ready: false,
            lost: false,
            turn: None,
            awaited: None,
            useless: None,
            records: (Instant::now(), None),
            unwanted: None,
            queue: VecDeque::new(),
            looks: BTreeSet::new(),
            questions: VecDeque::new(),
            faced: None,
            tail: String::new(),
            finished: String::new(),
            retry: None,
            told: None,
            hint: None,
            end: None,
        }
    }

    fn serve(&mut self, signals: &Signals) -> io::Result<u8> {
        loop {
            self.report();
            self.draw();
            if let Some(code) = self.end {
                return Ok(code);
            }
            let escape = self.keys.waits().map(|wait| Instant::now() + wait);
            let hint = self.hint.as_ref().map(|(_, until)| *until);
            let awaited = self.awaited.as_ref().map(|awaited| awaited.until);
            let until = [self.program.due(), escape, hint, awaited, self.turn.as_ref().map(|_| self.records.0)];
            let stdin = io::stdin();
            let mut fds = vec![signals.child.as_fd(), signals.end.as_fd(), signals.size.as_fd(), stdin.as_fd()];
            let output = self.output.as_ref().map(|_| fds.len());
            fds.extend(self.output.as_ref().map(|output| output.as_fd()));
            let door = fds.len();
            fds.extend(self.door.fds());
            let ready = wake::any(&fds, until.into_iter().flatten().min())?;
            drop(fds);
            if ready[1] {
                return Ok(HUNG_UP);
            }
            drain(&signals.child);
            if ready[2] {
                drain(&signals.size);
                self.screen.resize(size());
            }
            if ready[3] {
                self.typed()?;
            } else if escape.is_some_and(|at| at <= Instant::now())
                && let Some(key) = self.keys.settle()
            {
                self.key(key);
            }
            if output.is_some_and(|at| ready[at]) {
                self.read();
            }
            // A newcomer is told everything; what its predecessor has still said is nobody's.
            if ready[door] && self.door.welcome() {
                self.introduce();
            } else if ready.get(door + 1) == Some(&true) {
                for said in self.door.hear() {
                    self.said(said);
                }
            }
            self.look_at_records();
            if awaited.is_some_and(|until| until <= Instant::now()) && self.awaited.is_some() {
                let limit = self.plan.patience.as_secs();
                self.useless(&format!("it has answered nothing within {limit} s"));
            }
            self.reap();
            if self.program.is_due() {
                self.start();
            }
            if self.hint.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
                self.hint = None;
            }
        }
    }

    /// Ends the agent's program with all that it has started.
    fn close(&mut self, signals: &Signals) {
        if self.turn.is_some() {
            let stop = self.droid.interrupt();
            self.write(stop);
        }
        self.writer = None;
        self.program.end(&signals.child);
        self.plan.left.kill();
    }

    fn start(&mut self) {
        let restore = std::fs::read_to_string(&self.plan.raised).ok().and_then(|text| {
            let (session, level) = text.trim().split_once(' ')?;
            (Some(session) == self.session.as_deref()).then(|| level.to_owned())
        });
        self.droid = Droid::new(self.plan.cwd.clone(), self.plan.auto, restore);
        self.lines = Lines::default();
        let started = (self.plan.command)().and_then(|command| self.program.start(command));
        let pipes = self.program.pipes();
        match (started, pipes) {
            (Ok(_), Some((mut input, output))) => {
                let (writer, lines) = channel::<String>();
                let thread = std::thread::Builder::new().name("writer".to_owned());
                let spawned = thread.spawn(move || {
                    while let Ok(line) = lines.recv() {
                        if input.write_all(line.as_bytes()).and_then(|()| input.flush()).is_err() {
                            return;
                        }
                    }
                });
                if let Err(error) = spawned {
                    self.remark(&format!("no thread: {error}"));
                }
                (self.writer, self.output) = (Some(writer), Some(output));
                self.awaits(None);
                let first = self.droid.begin(self.session.clone().as_deref());
                self.write(first);
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                self.remark(&format!("{} could not be started: {error}", self.plan.agent));
                self.again();
            }
        }
    }

    fn write(&mut self, lines: String) {
        if !lines.is_empty()
            && let Some(writer) = &self.writer
        {
            let _ = writer.send(lines);
        }
    }

    fn awaits(&mut self, text: Option<String>) {
        self.awaited = Some(Awaited { until: Instant::now() + self.plan.patience, text });
    }

    /// Has the program started again, which is of no use as it is. Its end proves what became of what it was given.
    fn useless(&mut self, why: &str) {
        self.useless = Some(format!("was ended: {why}"));
        if let Some(text) = self.awaited.take().and_then(|awaited| awaited.text) {
            self.remark("whether it has taken your message is not known");
            if self.editor.is_empty() {
                self.editor.set(&text);
            }
        }
        self.ready = false;
        self.program.kill();
    }

    /// Looks whether the turn has ended by the agent's records, when nothing was heard of it for a while.
    fn look_at_records(&mut self) {
        let Some(turn) = self.turn.as_ref().filter(|_| self.records.0 <= Instant::now()) else { return };
        let turn = turn.id.clone();
        if let Some(end) = self.records.1.take() {
            self.remark("its program has not told that the turn is over; its records say so");
            self.droid.over();
            return self.ended(&turn, end, EndedBy::Record);
        }
        let session = self.session.as_deref().unwrap_or_default();
        let end = super::records::end(&self.plan.sessions, session, &turn);
        self.records = (Instant::now() + if end.is_some() { TOLD } else { RECORDS }, end);
    }

    /// Takes notice of the program's end.
    fn reap(&mut self) {
        let Some(status) = self.program.ended() else { return };
        self.plan.left.kill();
        // What it has started may still hold the pipe: only what is there is read.
        while let Some(output) = &self.output
            && wake::any(&[output.as_fd()], Some(Instant::now())).is_ok_and(|ready| ready[0])
        {
            self.read();
        }
        let how = self.useless.take().unwrap_or_else(|| how(status));
        (self.writer, self.output, self.ready, self.turn, self.awaited) = (None, None, false, None, None);
        self.unwanted = None;
        self.retry = None;
        self.questions.clear();
        self.flush();
        self.remark(&format!("{}'s program {how}; it is started again", self.plan.agent));
        self.door.tell(&Told::Trouble { error: format!("its program {how}") });
        self.again();
    }

    fn again(&mut self) {
        if self.program.is_hopeless() {
            self.end = Some(1);
        } else {
            self.program.plan();
        }
    }

    fn read(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut bytes = vec![0; 1 << 16];
        let lines = match output.read(&mut bytes) {
            Ok(count) if count > 0 => self.lines.take(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Ok(_) | Err(_) => {
                self.output = None;
                return;
            }
        };
        self.records = (Instant::now() + RECORDS, None);
        match lines {
            Ok(lines) => {
                for line in lines {
                    let heard = self.droid.take(&line);
                    self.heard(heard);
                }
            }
            Err(limit) => {
                self.remark(&format!("its program has written more than {limit} bytes in one line: left out"));
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        self.write(heard.write);
        for event in heard.events {
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready { session, loaded } => self.begun(session, loaded),
            Event::Lost { why } => {
                self.remark(&format!("its session cannot be gone on in ({why}); a new one begins"));
                (self.lost, self.session) = (true, None);
            }
            Event::Taken { turn, id, text } => self.taken(turn, id, &text),
            Event::Useless { why } => self.useless(&why),
            Event::Refused { id, why } => {
                self.awaited = None;
                self.remark(&format!("not taken: {why}"));
                if let Some(id) = id.and_then(|id| self.ledger.find(&id)) {
                    self.stands(id, Standing::Refused { why });
                }
                self.pump();
            }
            Event::Piece(text) => {
                self.retry = None;
                let text = screen::plain(&text);
                let (whole, rest) = text.split_at(text.rfind('\n').map_or(0, |end| end + 1));
                if !whole.is_empty() {
                    self.finished.push_str(&std::mem::take(&mut self.tail));
                    self.finished.push_str(whole);
                }
                self.tail.push_str(rest);
            }
            Event::PieceEnd => self.flush(),
            Event::Tool(words) => {
                self.retry = None;
                self.faint(&format!("  {words}"));
            }
            Event::ToolEnded { failed, words } => {
                self.faint(&format!("  {} {words}", if failed { "✗" } else { "✓" }));
            }
            Event::Retry(words) => {
                self.flush();
                self.faint(&format!("  {words}"));
                self.retry = Some(words);
            }
            Event::Remark(words) => self.remark(&words),
            Event::Asked(question) => {
                // All of it goes where it can be scrolled to: below there may be room for its last lines only.
                for words in &question.words {
                    self.remark(words);
                }
                self.questions.retain(|known| known.key != question.key);
                self.questions.push_back(question);
                self.face();
            }
            Event::Settled { key } => {
                self.questions.retain(|question| question.key != key);
                self.face();
            }
            Event::Ended { turn, end } => self.ended(&turn, end, EndedBy::Protocol),
        }
    }

    /// There is a session. What an earlier program had is where the records say.
    fn begun(&mut self, session: String, loaded: bool) {
        if let Some(level) = self.droid.raised() {
            let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&self.plan.raised);
            let _ = file.and_then(|mut file| file.write_all(format!("{session} {level}").as_bytes()));
        }
        self.faint(if loaded { "(the session goes on)" } else { "(a new session)" });
        self.door.tell(&Told::Session { session: session.clone() });
        (self.session, self.ready, self.awaited) = (Some(session), true, None);
        let settled = {
            let (sessions, lost) = (&self.plan.sessions, self.lost);
            self.ledger.began(|id| recorded(sessions, lost, id))
        };
        for (id, at) in settled {
            self.looks.remove(&id);
            self.door.tell(&Told::Stands { id, at });
        }
        for id in std::mem::take(&mut self.looks) {
            self.said(Said::Look { id });
        }
        self.pump();
    }

    fn taken(&mut self, turn: String, id: Option<String>, text: &str) {
        self.flush();
        self.finished.push('\n');
        self.finished.push_str(&screen::bold(&format!("{}{}", "> ", screen::plain(text.trim_end()))));
        self.awaited = None;
        let ours = id.and_then(|id| self.ledger.find(&id));
        if let Some(id) = &ours {
            self.stands(id.clone(), Standing::Taken { turn: turn.clone() });
            if self.unwanted.take().as_ref() == Some(id) {
                let stop = self.droid.interrupt();
                self.write(stop);
            }
        }
        self.turn = Some(Turn { id: turn, ours });
    }

    fn ended(&mut self, turn: &str, end: TurnEnd, by: EndedBy) {
        let ours = self.ledger.find(turn);
        if ours.as_ref().and_then(|id| self.ledger.look(id)).is_some_and(|at| matches!(at, Standing::Ended { .. })) {
            // Its records were faster.
            return;
        }
        self.flush();
        self.retry = None;
        self.questions.clear();
        match &end {
            TurnEnd::Completed { .. } => {}
            TurnEnd::Interrupted { .. } => self.remark("interrupted"),
            TurnEnd::Failed { message, .. } => self.remark(&message.clone()),
            TurnEnd::Quiet { .. } => self.remark("it fell quiet"),
        }
        if let Some(id) = ours {
            self.stands(id, Standing::Ended { turn: turn.to_owned(), end, by });
        }
        if self.turn.as_ref().is_some_and(|running| running.id == turn) {
            self.turn = None;
        }
        self.pump();
    }

    fn stands(&mut self, id: RequestId, at: Standing) {
        self.ledger.set(id.clone(), at.clone());
        self.door.tell(&Told::Stands { id, at });
    }

    /// Gives the agent what the human has sent, when it is free.
    fn pump(&mut self) {
        if self.is_free()
            && let Some(text) = self.queue.pop_front()
        {
            let line = self.droid.send(None, &text);
            self.awaits(Some(text));
            self.write(line);
        }
    }

    fn is_free(&self) -> bool {
        self.ready && self.turn.is_none() && self.awaited.is_none()
    }

    fn presence(&self) -> Presence {
        if let Some(question) = self.questions.front() {
            let words = question.words.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
            return Presence::Waiting { why: crate::display::line(&format!("it asks in its pane: {words}"), 200) };
        }
        let busy = |why: &str| {
            let retry = self.retry.as_ref().map(|retry| format!("; {retry}")).unwrap_or_default();
            Presence::Busy { why: format!("{why}{retry}") }
        };
        match &self.turn {
            Some(turn) if turn.ours.is_some() => busy("it works on a request"),
            Some(_) => busy("a turn of the human's own is running"),
            None if !self.ready => Presence::Starting { why: "its program is starting".into() },
            None if self.awaited.is_some() || !self.queue.is_empty() => busy("a message is just being taken"),
            None => Presence::Idle,
        }
    }

    /// Tells askd what the agent is doing, if that is news.
    fn report(&mut self) {
        let presence = self.presence();
        if self.told.as_ref() != Some(&presence) {
            self.told = Some(presence.clone());
            self.door.tell(&Told::Presence { presence });
        }
    }

    /// Tells a newcomer all that counts.
    fn introduce(&mut self) {
        if let Some(session) = self.session.clone().filter(|_| self.ready) {
            self.door.tell(&Told::Session { session });
        }
        self.told = None;
        self.report();
    }

    fn said(&mut self, said: Said) {
        match said {
            Said::Offer { id, text } => {
                let at = match self.ledger.given(&id) {
                    Some(at) => at,
                    None => self.offered(&id, &text),
                };
                self.report();
                self.door.tell(&Told::Stands { id, at });
            }
            Said::Look { id } => {
                let at = self.ledger.look(&id).unwrap_or_else(|| {
                    if self.ready {
                        recorded(&self.plan.sessions, self.lost, &id)
                    } else {
                        self.looks.insert(id.clone());
                        Standing::Unclear { why: STARTING.into() }
                    }
                });
                self.door.tell(&Told::Stands { id, at });
            }
            Said::Glance => {
                let draft = "there is a draft in its input line".to_owned();
                let presence = if self.editor.is_empty() { self.presence() } else { Presence::Waiting { why: draft } };
                self.door.tell(&Told::Seen { presence });
            }
            Said::Interrupt { id } => match &self.turn {
                Some(turn) if turn.ours.as_ref() == Some(&id) => {
                    let stop = self.droid.interrupt();
                    self.write(stop);
                }
                Some(_) => {}
                None => self.unwanted = Some(id).filter(|id| self.ledger.look(id) == Some(Standing::Sent)),
            },
        }
    }

    fn offered(&mut self, id: &RequestId, text: &str) -> Standing {
        if !self.is_free() || !self.queue.is_empty() {
            return Standing::Back { why: "it is not free".into() };
        }
        self.ledger.set(id.clone(), Standing::Sent);
        self.awaits(None);
        let line = self.droid.send(Some(id.as_str()), text);
        self.write(line);
        Standing::Sent
    }

    fn typed(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        // Not by the standard library's buffer: what stays in that wakes nobody.
        let count = rustix::io::read(io::stdin(), &mut bytes)?;
        if count == 0 {
            self.end = Some(HUNG_UP);
        }
        for key in self.keys.take(&bytes[..count]) {
            self.key(key);
        }
        Ok(())
    }

    fn key(&mut self, key: Key) {
        self.face();
        if let (Key::Char(c), Some(question)) = (&key, self.questions.front())
            && self.editor.is_empty()
            && *c != ALWAYS
            && self.faced.as_ref().is_some_and(|(_, since, _)| since.elapsed() >= GRACE)
            && question.choices.iter().any(|(letter, _)| letter == c)
        {
            let (key, words) = (question.key.clone(), c.to_string());
            return self.answer(&key, &words);
        }
        self.edit(key);
        if let Some((_, _, before)) = self.faced.as_mut().filter(|_| self.editor.is_empty()) {
            *before = false;
        }
    }

    /// Takes notice of which question is the first one now.
    fn face(&mut self) {
        let key = self.questions.front().map(|question| question.key.clone());
        if self.faced.as_ref().map(|(known, ..)| known) != key.as_ref() {
            let before = !self.editor.is_empty();
            self.faced = key.map(|key| (key, Instant::now(), before));
        }
    }

    fn answer(&mut self, key: &str, words: &str) {
        let heard = self.droid.reply(key, words);
        self.heard(heard);
        self.face();
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Enter => self.entered(),
            Key::Escape => self.interrupt(),
            Key::Control('c') if !self.editor.is_empty() => self.editor.clear(),
            Key::Control('c') if self.hint.is_some() => self.end = Some(0),
            Key::Control('c') => self.hint = Some(("Ctrl-C again ends it".into(), Instant::now() + TWICE)),
            Key::Control('d') if self.editor.is_empty() => self.end = Some(0),
            Key::TooLong => self.remark("that was too long to be pasted (1 MiB at the most): nothing of it is taken"),
            key => self.editor.take(&key),
        }
    }

    fn entered(&mut self) {
        if self.editor.text().trim().is_empty() {
            return;
        }
        let text = self.editor.submit();
        let begun_before = self.faced.as_ref().is_some_and(|(_, _, before)| *before);
        match (text.trim(), self.questions.front()) {
            ("/quit" | "/exit", _) => self.end = Some(0),
            ("/new", _) if self.is_free() => {
                (self.session, self.ready) = (None, false);
                self.remark("a new session begins");
                self.writer = None;
                self.awaits(None);
            }
            ("/new", _) => {
                self.editor.set(&text);
                self.remark("a new session can begin when no turn is running");
            }
            (_, Some(question)) if question.choices.is_empty() && begun_before => {
                self.editor.set(&text);
                self.faced.iter_mut().for_each(|(_, _, before)| *before = false);
                self.remark("that was begun before the question came: Enter again gives it as the answer");
            }
            (words, Some(question)) if question.takes(words) && !begun_before => {
                let key = question.key.clone();
                self.answer(&key, words);
            }
            _ => {
                self.queue.push_back(text);
                self.pump();
            }
        }
    }

    /// The human stops the turn. What waited to follow it is theirs to send again.
    fn interrupt(&mut self) {
        if self.turn.is_none() {
            return;
        }
        let stop = self.droid.interrupt();
        self.write(stop);
        if self.editor.is_empty() && !self.queue.is_empty() {
            let queued: Vec<String> = self.queue.drain(..).collect();
            self.editor.set(&queued.join("\n"));
        }
    }

    /// The line that was being written is complete.
    fn flush(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.finished.push_str(&tail);
            self.finished.push('\n');
        }
    }

    fn remark(&mut self, words: &str) {
        self.flush();
        self.faint(&format!("! {words}"));
    }

    fn faint(&mut self, words: &str) {
        self.finished.push_str(&screen::faint(&screen::plain(words)));
    }

    fn draw(&mut self) {
        let mut question: Vec<String> = Vec::new();
        if let Some(asked) = self.questions.front() {
            question.extend(asked.words.iter().cloned());
            let choice = |(letter, words): &(char, String)| {
                let enter = if *letter == ALWAYS { ", then Enter" } else { "" };
                format!("  {letter}{enter}: {words}")
            };
            question.extend(asked.choices.iter().map(choice));
        }
        let state = match self.presence() {
            Presence::Idle => "idle".to_owned(),
            Presence::Absent { why } | Presence::Starting { why } | Presence::Busy { why } => why,
            Presence::Waiting { .. } if self.editor.is_empty() => "it waits for your answer".to_owned(),
            Presence::Waiting { .. } => "it waits for your answer: empty the input line first (Ctrl-C)".to_owned(),
        };
        let queued = if self.queue.is_empty() { String::new() } else { format!(" · {} queued", self.queue.len()) };
        let hint =
            self.hint.as_ref().map_or("Enter sends · Esc interrupts · /new · /quit", |(hint, _)| hint.as_str());
        let live = Live {
            tail: screen::drawn(&self.tail).to_owned(),
            question,
            status: format!("{}: {state}{queued} · {hint}", self.plan.agent),
            input: self.editor.text(),
            cursor: self.editor.cursor(),
        };
        let finished = std::mem::take(&mut self.finished);
        say(&self.screen.draw(&finished, &live));
    }
}

/// Returns where a delivery stands by the records of all sessions: its id is in no other one's.
fn recorded(sessions: &Path, lost: bool, id: &RequestId) -> Standing {
    match super::records::find(sessions, id) {
        Ok(Some(at)) => at,
        Ok(None) if lost => Standing::Unclear { why: "the session that it may have been given to is lost".into() },
        Ok(None) => Standing::Absent,
        Err(error) => Standing::Unclear { why: format!("the agent's records cannot be read: {error}") },
    }
}
