//! `droid exec` over stream JSON-RPC, as far as `ccb view` talks to it: one session, which it keeps where Droid does, and
//! one turn at a time.
//!
//! The shapes and their order are recorded ones (Droid 0.215.0): a message is answered at once, then shown as taken, and
//! the turn's id is the message's. Answers are chosen by directives, as in the drawn interface; those that take time
//! are `RUN` and `SILENT`.

use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::answer::{Answer, Prompt};
use crate::events::Events;
use crate::factory::Factory;
use crate::options::Options;

/// What happens.
enum News {
    Line(String),
    /// A command has printed this, in answer to that turn.
    Printed(String, String),
    Closed,
}

/// What is being worked on.
struct Turn {
    id: String,
    /// The command that is awaited.
    child: Option<Pid>,
}

struct Exec<'a> {
    options: &'a Options,
    events: Events,
    session: Option<Factory>,
    turn: Option<Turn>,
    tell: Sender<News>,
    count: u32,
}

/// Returns whether a command line asks for it.
pub(crate) fn is_asked_for(options: &Options) -> bool {
    options.ignored.first().is_some_and(|word| word == "exec")
}

/// Serves until its input ends; returns the exit status.
pub(crate) fn run(options: &Options) -> io::Result<u8> {
    let (tell, news) = channel();
    let input = tell.clone();
    let reader = std::thread::Builder::new().name("input".to_owned());
    reader.spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if input.send(News::Line(line)).is_err() {
                return;
            }
        }
        input.send(News::Closed).ok();
    })?;
    let events = Events { file: options.events.clone(), shown: false };
    let mut exec = Exec { options, events, session: None, turn: None, tell, count: 0 };
    exec.events.record("start", &json!({"pid": std::process::id(), "args": options.ignored}))?;
    while let Ok(news) = news.recv() {
        match news {
            News::Line(line) => match serde_json::from_str::<Value>(&line) {
                Ok(call) => exec.call(&call)?,
                Err(_) => exec.events.record("junk", &json!({"head": line}))?,
            },
            News::Printed(turn, text) if exec.turn.as_ref().is_some_and(|running| running.id == turn) => {
                exec.answer(&text)?;
            }
            News::Printed(..) => {}
            News::Closed => break,
        }
    }
    exec.stop();
    Ok(0)
}

fn say(message: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{message}")?;
    out.flush()
}

fn notify(kind: &str, mut fields: Value) -> io::Result<()> {
    fields["type"] = kind.into();
    let params = json!({"notification": fields});
    say(&json!({"type": "notification", "method": "droid.session_notification", "params": params}))
}

impl Exec<'_> {
    fn call(&mut self, call: &Value) -> io::Result<()> {
        let method = call["method"].as_str().unwrap_or_default().trim_start_matches("droid.").to_owned();
        let params = &call["params"];
        let mut result = json!({});
        match method.as_str() {
            "initialize_session" | "load_session" => {
                let fresh = format!("{}-{}", self.options.name, std::process::id());
                let words: Vec<String> = match params["sessionId"].as_str() {
                    Some(session) => vec!["--resume".to_owned(), session.to_owned()],
                    None => Vec::new(),
                };
                let home = std::env::var("HOME").unwrap_or_default();
                let directory = std::env::current_dir()?.display().to_string();
                let session = params["sessionId"].as_str().unwrap_or(&fresh).to_owned();
                self.session = Some(Factory::open(&words, &home, &directory, fresh)?);
                result = json!({"sessionId": session, "settings": {"autonomyLevel": "off"}});
            }
            "interrupt_session" => {
                self.stop();
                if let (Some(turn), Some(session)) = (self.turn.take(), &mut self.session) {
                    session.interrupted(&format!("{}-i", turn.id))?;
                    notify("agent_turn_completed", json!({"turnId": turn.id, "reason": "cancelled"}))?;
                }
            }
            _ => {}
        }
        say(&json!({"type": "response", "id": call["id"], "result": result}))?;
        if method == "add_user_message" {
            self.count += 1;
            let id = params["messageId"].as_str().map_or_else(|| format!("human-{}", self.count), str::to_owned);
            self.begin(id, params["text"].as_str().unwrap_or_default(), &call["id"])?;
        }
        Ok(())
    }

    fn begin(&mut self, id: String, text: &str, call: &Value) -> io::Result<()> {
        let prompt = Prompt::read(text);
        if let Some(request) = prompt.request {
            self.events.record("recv", &json!({"req": request, "busy": self.turn.is_some()}))?;
        }
        if self.turn.is_some() {
            self.events.record("queued_while_busy", &json!({"req": prompt.request}))?;
        }
        if let Some(session) = &mut self.session {
            session.question(id.clone(), text)?;
        }
        let message = json!({"id": id, "role": "user", "content": [{"type": "text", "text": text}]});
        notify("create_message", json!({"message": message, "requestId": call}))?;
        self.turn = Some(Turn { id: id.clone(), child: None });
        match prompt.answer() {
            Answer::Text { text, .. } | Answer::Error(_, text) => self.answer(&text),
            Answer::Run(command) | Answer::Tool(command) => self.run(id, &command),
            Answer::Silent | Answer::Steps { .. } => Ok(()),
            Answer::Crash => std::process::exit(3),
        }
    }

    fn run(&mut self, id: String, command: &str) -> io::Result<()> {
        let child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(turn) = &mut self.turn {
            turn.child = pid;
        }
        let tell = self.tell.clone();
        std::thread::Builder::new().name("command".to_owned()).spawn(move || {
            let printed = child.wait_with_output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            tell.send(News::Printed(id, printed.unwrap_or_default())).ok();
        })?;
        Ok(())
    }

    fn answer(&mut self, text: &str) -> io::Result<()> {
        let Some(turn) = self.turn.take() else { return Ok(()) };
        let (text, said) = (text.trim_end(), format!("{}-a", turn.id));
        notify("assistant_text_delta", json!({"textDelta": text}))?;
        notify("assistant_text_complete", json!({}))?;
        let message = json!({"id": said, "role": "assistant", "content": [{"type": "text", "text": text}]});
        notify("create_message", json!({"message": message}))?;
        if let Some(session) = &mut self.session {
            session.reply(&said, text)?;
        }
        notify("agent_turn_completed", json!({"turnId": turn.id, "reason": "completed"}))
    }

    /// Ends the command that is awaited.
    fn stop(&self) {
        if let Some(child) = self.turn.as_ref().and_then(|turn| turn.child) {
            let _ = kill_process_group(child, Signal::KILL);
        }
    }
}
