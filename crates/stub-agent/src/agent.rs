//! The agent: what keys and pastes do, which prompt is worked on, and when its answer is due.
//!
//! Time is an argument. The only things it touches are its records, its events, and the command that a prompt asks for.

use std::collections::VecDeque;
use std::io::{self, PipeReader};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::answer::{Answer, Prompt, with_mark};
use crate::command::Running;
use crate::composer::Composer;
use crate::control::{Control, Mode};
use crate::conversation::{Conversation, Speaker};
use crate::events::Events;
use crate::input::Input;
use crate::options::{Options, Ui};
use crate::records::Records;
use crate::screen::{Frame, Size, View, draw};

/// The exit status of a crash that was asked for.
const CRASHED: u8 = 3;

/// Stands for a request's id where there is none.
const NO_REQUEST: &str = "-";

/// What begins another session.
const NEW_SESSION: &str = "/new";

/// What the dialog over a paste asks.
const QUESTION: &str = "Allow this? [y/N]";

/// Whether the agent goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Flow {
    /// It does.
    Stay,
    /// It ends with this exit status.
    Leave(u8),
}

/// A prompt that is worked on.
#[derive(Debug)]
struct Turn {
    request: String,
    token: String,
    since: Instant,
    work: Work,
    /// The request named in the mark that ends the answer.
    mark: Option<String>,
}

/// What a turn waits for.
#[derive(Debug)]
enum Work {
    /// A moment.
    Text { text: String, due: Instant },
    /// The moment of the next message; of the last one, unless it is endless, the turn's end.
    Steps { left: VecDeque<String>, each: Duration, due: Instant, endless: bool },
    /// The end of a command, and a moment; an allowed one is a tool.
    Command { running: Running, due: Instant, tool: bool },
    /// The human's word on a tool.
    Permission { command: String },
    /// An interruption.
    Endless,
}

impl Work {
    /// Returns what came of it, if it is over.
    fn look(&mut self, now: Instant) -> io::Result<Option<String>> {
        Ok(match self {
            Self::Text { text, due } => (*due <= now).then(|| std::mem::take(text)),
            Self::Command { running, due, .. } => {
                let ended = running.look()?;
                (ended && *due <= now).then(|| running.answer())
            }
            Self::Steps { left, due, endless, .. } => {
                (*due <= now && !*endless && left.len() <= 1).then(|| left.pop_front().unwrap_or_default())
            }
            Self::Permission { .. } | Self::Endless => None,
        })
    }

    /// Returns the next message that does not end the turn, if it is due.
    fn says(&mut self, now: Instant) -> Option<String> {
        let Self::Steps { left, each, due, endless } = self else { return None };
        let next = *due <= now && (left.len() > 1 || *endless);
        let text = if next { left.pop_front() } else { None }?;
        *due += *each;
        Some(text)
    }
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    options: Options,
    records: Records,
    events: Events,
    composer: Composer,
    conversation: Conversation,
    /// What an open dialog asks.
    dialog: Option<String>,
    turn: Option<Turn>,
    /// What was submitted while there was a turn.
    queue: VecDeque<String>,
    /// Whether the last key was a Ctrl-C that did nothing.
    leaving: bool,
}

impl Agent {
    /// Returns an agent that has nothing to do.
    pub(crate) fn new(options: Options, records: Records) -> Self {
        let events = Events { file: options.events.clone(), shown: options.ui == Ui::Plain };
        let mut composer = Composer::default();
        composer.push(&options.draft);
        Self {
            options,
            records,
            events,
            composer,
            conversation: Conversation::default(),
            dialog: None,
            turn: None,
            queue: VecDeque::new(),
            leaving: false,
        }
    }

    /// Records that it is ready for input.
    pub(crate) fn started(&self) -> io::Result<()> {
        let fields = json!({
            "provider": self.options.provider.name(),
            "name": self.options.name,
            "pid": std::process::id(),
            "args": self.options.ignored,
        });
        self.events.record("start", &fields)
    }

    /// Returns whether nothing will happen any more without input.
    pub(crate) fn at_rest(&self) -> bool {
        self.turn.as_ref().is_none_or(|turn| matches!(turn.work, Work::Endless | Work::Permission { .. }))
    }

    /// Returns the pipe of a running command.
    pub(crate) fn output(&self) -> Option<&PipeReader> {
        match self.turn.as_ref().map(|turn| &turn.work) {
            Some(Work::Command { running, .. }) => running.output(),
            _ => None,
        }
    }

    /// Returns how long from `now` nothing happens by itself: until the answer is due, or another second has been worked.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let turn = self.turn.as_ref()?;
        let worked = now.saturating_duration_since(turn.since);
        let second = Duration::from_secs(worked.as_secs() + 1).saturating_sub(worked);
        match &turn.work {
            Work::Text { due, .. } => Some(second.min(due.saturating_duration_since(now))),
            Work::Steps { left, due, .. } if !left.is_empty() => Some(second.min(due.saturating_duration_since(now))),
            Work::Command { due, .. } if *due > now => Some(second.min(*due - now)),
            Work::Steps { .. } | Work::Command { .. } | Work::Permission { .. } | Work::Endless => Some(second),
        }
    }

    /// Draws what is to be seen.
    pub(crate) fn frame(&self, size: Size, now: Instant) -> Frame {
        let title = format!("stub-agent · {} ({})", self.options.name, self.options.provider.name());
        let view = View {
            title: &title,
            conversation: self.conversation.entries(),
            composer: &self.composer.shown(),
            dialog: self.dialog.as_deref(),
            status: &self.status(now),
        };
        draw(&view, size)
    }

    /// Returns the status line.
    fn status(&self, now: Instant) -> String {
        if self.dialog.is_some() {
            return "stub · waiting for you".to_owned();
        }
        let Some(turn) = &self.turn else {
            return if self.leaving { "stub · idle · Ctrl-C again to leave" } else { "stub · idle" }.to_owned();
        };
        let seconds = now.saturating_duration_since(turn.since).as_secs();
        match self.queue.len() {
            0 => format!("stub · working {seconds}s"),
            queued => format!("stub · working {seconds}s · {queued} queued"),
        }
    }

    /// Takes a key or a paste.
    pub(crate) fn input(&mut self, input: Input, now: Instant) -> io::Result<Flow> {
        if self.dialog.is_some() {
            return self.answer_dialog(&input, now);
        }
        let leaving = std::mem::take(&mut self.leaving);
        match input {
            Input::Char(c) => self.composer.push(c.encode_utf8(&mut [0; 4])),
            Input::NewLine => self.composer.push("\n"),
            Input::Backspace => self.composer.backspace(),
            Input::Erase => self.composer.clear(),
            Input::Paste(_) if self.options.lose_pastes > 0 => {
                self.options.lose_pastes -= 1;
                self.events.record("paste_lost", &json!({}))?;
            }
            Input::Paste(text) => {
                self.composer.paste(text);
                if self.options.dialog_on_paste {
                    self.dialog = Some(QUESTION.to_owned());
                    self.events.record("dialog_open", &json!({}))?;
                }
            }
            Input::Enter => return self.submit(now),
            Input::Escape => return self.interrupt(now),
            Input::Interrupt if self.turn.is_some() => return self.interrupt(now),
            Input::Interrupt if !self.composer.is_empty() => self.composer.clear(),
            Input::Interrupt if leaving => return Ok(Flow::Leave(0)),
            Input::Interrupt => self.leaving = true,
            Input::Other => {}
        }
        Ok(Flow::Stay)
    }

    /// Takes a key while a dialog is open. Over a paste Enter takes the default, which is no, and the composer keeps its
    /// text; a tool runs by an Enter.
    fn answer_dialog(&mut self, input: &Input, now: Instant) -> io::Result<Flow> {
        let key = match input {
            Input::Enter => "enter",
            Input::Char('y' | 'Y') => "y",
            Input::Char('n' | 'N') => "n",
            Input::Escape | Input::Interrupt => "esc",
            Input::Paste(text) => {
                self.events.record("dialog_paste", &json!({"len": text.len()}))?;
                return Ok(Flow::Stay);
            }
            Input::Char(_) | Input::NewLine | Input::Backspace | Input::Erase | Input::Other => return Ok(Flow::Stay),
        };
        self.dialog = None;
        match key {
            "enter" => self.events.record("dialog_enter", &json!({}))?,
            key => self.events.record("dialog_answer", &json!({"key": key}))?,
        }
        let Some(Turn { work, .. }) = &mut self.turn else { return Ok(Flow::Stay) };
        let Work::Permission { command } = work else { return Ok(Flow::Stay) };
        if !["enter", "y"].contains(&key) {
            return self.interrupt(now);
        }
        *work = Work::Command { running: Running::start(command)?, due: now, tool: true };
        Ok(Flow::Stay)
    }

    /// Submits what stands in the composer: at once, or after the turn that is not over.
    fn submit(&mut self, now: Instant) -> io::Result<Flow> {
        if !self.composer.is_empty() && self.options.lose_enters > 0 {
            self.options.lose_enters -= 1;
            self.events.record("enter_lost", &json!({}))?;
            return Ok(Flow::Stay);
        }
        let text = self.composer.take();
        if text.trim().is_empty() {
            return Ok(Flow::Stay);
        }
        if text.trim() == NEW_SESSION {
            self.turn = None;
            self.queue.clear();
            self.records.new_session()?;
            self.conversation.push(Speaker::Note, "another session");
            self.events.record("new_session", &json!({}))?;
            return Ok(Flow::Stay);
        }
        if self.turn.is_some() {
            let request = Prompt::read(&text).request.unwrap_or(NO_REQUEST);
            self.events.record("queued_while_busy", &json!({"req": request, "len": text.len()}))?;
            self.queue.push_back(text);
            return Ok(Flow::Stay);
        }
        self.begin(&text, now)
    }

    /// Ends the turn without an answer.
    fn interrupt(&mut self, now: Instant) -> io::Result<Flow> {
        let Some(turn) = self.turn.take() else { return Ok(Flow::Stay) };
        self.records.interrupted()?;
        self.conversation.push(Speaker::Note, "interrupted");
        self.events.record("interrupted", &json!({"req": turn.request, "tok": turn.token}))?;
        drop(turn);
        self.advance(now)
    }

    /// Begins to work on a prompt.
    fn begin(&mut self, text: &str, now: Instant) -> io::Result<Flow> {
        let prompt = Prompt::read(text);
        self.record_arrival(&prompt, text)?;
        let control = Control::read(self.options.control.as_deref());
        let answer = prompt.answer();
        if control.mode == Mode::Crash || answer == Answer::Crash {
            return Ok(Flow::Leave(CRASHED));
        }
        self.records.question(text)?;
        self.conversation.push(Speaker::User, text);
        let request = prompt.request.unwrap_or(NO_REQUEST).to_owned();
        let mut mark = match control.mode {
            Mode::Normal => prompt.wants_mark.then(|| request.clone()),
            Mode::ForeignDone(other) => Some(other),
            Mode::OmitDone | Mode::Crash => None,
            Mode::Silent => return self.advance(now),
        };
        let due = now + control.delay.unwrap_or(self.options.delay);
        let work = match answer {
            Answer::Text { text, after, markable } => {
                mark = mark.filter(|_| markable);
                Work::Text { text, due: due + after }
            }
            Answer::Steps { texts, each, endless } => Work::Steps { left: texts.into(), each, due, endless },
            Answer::Run(command) => Work::Command { running: Running::start(&command)?, due, tool: false },
            Answer::Tool(command) => {
                self.records.asks(&command)?;
                self.dialog = Some(format!("Run `{command}`? [Y/n]"));
                Work::Permission { command }
            }
            Answer::Error(code, text) => {
                self.records.failed(code, &text)?;
                self.conversation.push(Speaker::Note, &text);
                self.events.record("failed", &json!({"req": request, "code": code}))?;
                return self.advance(now);
            }
            Answer::Silent | Answer::Crash => Work::Endless,
        };
        self.turn = Some(Turn { request, token: prompt.token.to_owned(), since: now, work, mark });
        self.advance(now)
    }

    /// Records that a prompt arrived, or that something arrived which is none of ccb's.
    fn record_arrival(&self, prompt: &Prompt<'_>, text: &str) -> io::Result<()> {
        let Some(request) = prompt.request else {
            let head: String = text.chars().take(200).collect();
            return self.events.record("junk", &json!({"len": text.chars().count(), "head": head}));
        };
        let (length, hash) = prompt.payload_proof();
        let anchored = prompt.anchored;
        let fields = json!({"req": request, "anchored": anchored, "tok": prompt.token, "len": length, "sha": hash});
        self.events.record("recv", &fields)
    }

    /// Answers if the answer is due, and begins with what was submitted meanwhile.
    pub(crate) fn advance(&mut self, now: Instant) -> io::Result<Flow> {
        let Some(turn) = &mut self.turn else {
            return match self.queue.pop_front() {
                Some(text) => self.begin(&text, now),
                None => Ok(Flow::Stay),
            };
        };
        while let Some(said) = turn.work.says(now) {
            self.records.reply(&said)?;
            self.conversation.push(Speaker::Agent, &said);
        }
        let Some(mut reply) = turn.work.look(now)? else { return Ok(Flow::Stay) };
        if matches!(turn.work, Work::Command { tool: true, .. }) {
            self.records.ran(&reply)?;
            reply = format!("TOOLDONE: {reply}");
        }
        if let Some(request) = &turn.mark {
            reply = with_mark(&reply, request);
        }
        self.records.reply(&reply)?;
        self.events.record("done", &json!({"req": turn.request, "tok": turn.token}))?;
        self.conversation.push(Speaker::Agent, &reply);
        self.turn = None;
        self.advance(now)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::*;
    use crate::options::{Parsed, parse};

    /// An agent with its files, and a clock that a test sets.
    struct Bench {
        agent: Agent,
        directory: PathBuf,
        now: Instant,
    }

    impl Bench {
        fn new(name: &str, arguments: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("stub-agent-{}-agent-{name}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let Ok(Parsed::Run(mut options)) = parse(arguments.split_whitespace().map(str::to_owned)) else {
                panic!("bad arguments: {arguments}");
            };
            options.events = Some(directory.join("events"));
            options.control = Some(directory.join("control"));
            let transcript = directory.join("transcript");
            let records = Records::open(options.provider, Some(&transcript), &[], Path::new("/"), |_| None).unwrap();
            Self { agent: Agent::new(*options, records), directory, now: Instant::now() }
        }

        /// Pastes a text and presses Enter.
        fn ask(&mut self, text: &str) -> Flow {
            assert_eq!(self.press(Input::Paste(text.to_owned())), Flow::Stay);
            self.press(Input::Enter)
        }

        fn press(&mut self, input: Input) -> Flow {
            self.agent.input(input, self.now).unwrap()
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
            assert_eq!(self.agent.advance(self.now).unwrap(), Flow::Stay);
        }

        fn lines(&self, file: &str) -> Vec<Value> {
            let text = std::fs::read_to_string(self.directory.join(file)).unwrap_or_default();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }

        /// Returns the events, each with its request.
        fn events(&self) -> Vec<String> {
            let event = |line: &Value| {
                let request = line["req"].as_str().map(|request| format!(" {request}"));
                format!("{}{}", line["ev"].as_str().unwrap(), request.unwrap_or_default())
            };
            self.lines("events").iter().map(event).collect()
        }

        /// Returns the texts of the transcript.
        fn said(&self) -> Vec<String> {
            let said = |line: &Value| line["payload"]["message"].as_str().map(str::to_owned);
            self.lines("transcript").iter().filter_map(said).collect()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.directory).ok();
        }
    }

    fn prompt(id: u32, message: &str) -> String {
        format!("CCB_REQ_ID: r{id}\n\n{message}\n\nEnd with:\nCCB_DONE: r{id}\n")
    }

    #[test]
    fn a_question_is_recorded_and_answered() {
        let mut bench = Bench::new("answer", "");
        assert_eq!(bench.ask(&prompt(1, "ECHO: hello")), Flow::Stay);
        assert_eq!(bench.events(), ["recv r1", "done r1"]);
        assert_eq!(bench.said(), [prompt(1, "ECHO: hello"), "hello\nCCB_DONE: r1".to_owned()]);
        assert_eq!(bench.ask("ECHO: from a human"), Flow::Stay);
        assert_eq!(bench.events()[2..], ["junk", "done -"]);
        assert_eq!(bench.said()[3], "from a human");
    }

    #[test]
    fn what_is_submitted_meanwhile_is_queued() {
        let mut bench = Bench::new("queue", "--delay 2");
        assert_eq!(bench.ask(&prompt(1, "ECHO: one")), Flow::Stay);
        assert_eq!(bench.ask(&prompt(2, "SLEEP 3: two")), Flow::Stay);
        assert_eq!(bench.agent.status(bench.now), "stub · working 0s · 1 queued");
        bench.pass(1);
        assert_eq!(bench.events(), ["recv r1", "queued_while_busy r2"]);
        bench.pass(1);
        assert_eq!(bench.events()[2..], ["done r1", "recv r2"]);
        bench.pass(4);
        assert_eq!(bench.agent.status(bench.now), "stub · working 4s");
        assert_eq!(bench.agent.pause(bench.now), Some(Duration::from_secs(1)));
        bench.pass(1);
        assert_eq!(bench.events()[4..], ["done r2"]);
        assert_eq!(bench.agent.status(bench.now), "stub · idle");
        assert_eq!(bench.agent.pause(bench.now), None);
    }

    #[test]
    fn an_answer_may_come_in_messages_of_their_own() {
        let mut bench = Bench::new("steps", "");
        assert_eq!(bench.ask(&prompt(1, "STEPS 2: one | two | three")), Flow::Stay);
        assert_eq!(bench.said()[1..], ["one"]);
        assert_eq!(bench.agent.pause(bench.now), Some(Duration::from_secs(1)));
        bench.pass(2);
        assert_eq!(bench.said()[2..], ["two"]);
        bench.pass(2);
        assert_eq!(bench.said()[3..], ["three\nCCB_DONE: r1"]);
        assert_eq!(bench.ask(&prompt(2, "HALF: so far")), Flow::Stay);
        bench.pass(100);
        assert_eq!(
            (bench.said()[5..].to_vec(), bench.events().last().unwrap().as_str()),
            (vec!["so far".to_owned()], "recv r2")
        );
    }

    #[test]
    fn another_session_leaves_the_turn_and_begins_a_transcript() {
        let mut bench = Bench::new("new", "--lose-enters 1");
        assert_eq!(bench.ask(&prompt(1, "SILENT")), Flow::Stay);
        assert_eq!(bench.events(), ["enter_lost"]);
        assert_eq!(bench.press(Input::Enter), Flow::Stay);
        assert_eq!(bench.ask("/new"), Flow::Stay);
        assert_eq!(bench.events(), ["enter_lost", "recv r1", "new_session"]);
        assert!(bench.said().is_empty());
        assert_eq!(bench.ask(&prompt(2, "ECHO: x")), Flow::Stay);
        assert_eq!(bench.said()[1], "x\nCCB_DONE: r2");
    }

    #[test]
    fn an_interrupted_turn_has_no_answer() {
        let mut bench = Bench::new("interrupt", "");
        for (id, (message, key)) in
            [("SILENT", Input::Escape), ("RUN: sleep 60", Input::Escape), ("SLEEP 9: x", Input::Interrupt)]
                .into_iter()
                .enumerate()
        {
            let id = u32::try_from(id).unwrap();
            assert_eq!(bench.ask(&prompt(id, message)), Flow::Stay);
            assert_eq!(bench.press(key), Flow::Stay);
            bench.pass(10);
            assert_eq!(bench.events().last().unwrap(), &format!("interrupted r{id}"));
        }
        assert_eq!(bench.said().len(), 3, "only the questions");
        assert_eq!(bench.press(Input::Escape), Flow::Stay);
        assert_eq!(bench.events().len(), 6, "an idle agent has nothing to interrupt");
    }

    #[test]
    fn an_enter_in_the_dialog_is_found_out() {
        let mut bench = Bench::new("dialog", "--dialog-on-paste");
        assert_eq!(bench.ask(&prompt(1, "ECHO: x")), Flow::Stay);
        assert_eq!(bench.events(), ["dialog_open", "dialog_enter"]);
        assert!(bench.said().is_empty());
        assert_eq!(bench.press(Input::Enter), Flow::Stay);
        assert_eq!(bench.events()[2..], ["recv r1", "done r1"]);
        bench.press(Input::Paste("more".to_owned())).expect_stay();
        bench.press(Input::Char('x')).expect_stay();
        bench.press(Input::Char('y')).expect_stay();
        assert_eq!(bench.events()[4..], ["dialog_open", "dialog_answer"]);
        assert_eq!(bench.agent.composer.shown(), "more");
    }

    impl Flow {
        fn expect_stay(self) {
            assert_eq!(self, Self::Stay);
        }
    }

    #[test]
    fn ctrl_c_twice_at_an_empty_composer_leaves() {
        let mut bench = Bench::new("leave", "--draft half");
        assert_eq!(bench.agent.composer.shown(), "half");
        for (key, flow) in [
            (Input::Interrupt, Flow::Stay),
            (Input::Interrupt, Flow::Stay),
            (Input::Other, Flow::Stay),
            (Input::Interrupt, Flow::Stay),
            (Input::Interrupt, Flow::Leave(0)),
        ] {
            assert_eq!(bench.press(key), flow);
        }
    }

    #[test]
    fn the_control_file_has_its_say() {
        let mut bench = Bench::new("control", "--delay 100");
        let mut number = 0;
        let mut ask = |control: &str| {
            number += 1;
            std::fs::write(bench.directory.join("control"), control).unwrap();
            let flow = bench.ask(&prompt(number, "ECHO: x"));
            bench.pass(1);
            (flow, bench.said().pop().unwrap(), bench.events().pop().unwrap())
        };
        for (control, said, event) in [
            (r#"{"mode":"omit_done","delay":1}"#, "x", "done r1"),
            (r#"{"mode":"foreign_done","foreign":"f","delay":0}"#, "x\nCCB_DONE: f", "done r2"),
            (r#"{"mode":"silent"}"#, &prompt(3, "ECHO: x"), "recv r3"),
        ] {
            assert_eq!(ask(control), (Flow::Stay, said.to_owned(), event.to_owned()), "{control}");
        }
        assert_eq!(ask(r#"{"mode":"crash"}"#), (Flow::Leave(3), prompt(3, "ECHO: x"), "recv r4".to_owned()));
    }
}
