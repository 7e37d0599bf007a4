//! Droid's own interface as far as a daemon sees it: its transcript, and the hooks of its `--settings` file.
//!
//! The shapes and their order are recorded ones (Droid 0.215.0): a turn's outcome is written after its `Stop`, and an
//! interrupt calls `Notification` in its place. Each call of hooks leaves a record of its own.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::events::append_line;

/// The id of a tool call: there is one at a time.
const CALL: &str = "call_1";

/// One session.
#[derive(Debug)]
pub(crate) struct Factory {
    hooks: Value,
    session: String,
    path: PathBuf,
    directory: String,
    /// The turn that runs.
    turn: Option<String>,
}

/// Returns the word that follows an option.
fn after<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    words.iter().position(|word| word == option).and_then(|at| words.get(at + 1)).map(String::as_str)
}

/// Returns whether Droid's own options are on a command line.
pub(crate) fn is_asked_for(words: &[String]) -> bool {
    after(words, "--append-system-prompt-file").is_some()
}

impl Factory {
    /// Opens the session that the command line says, or `fresh`.
    pub(crate) fn open(words: &[String], home: &str, directory: &str, fresh: String) -> io::Result<Self> {
        let hooks = match after(words, "--settings") {
            Some(file) => serde_json::from_slice::<Value>(&std::fs::read(file)?)?["hooks"].clone(),
            None => Value::Null,
        };
        let resumed = after(words, "--resume").map(str::to_owned);
        let source = if resumed.is_some() { "resume" } else { "startup" };
        let session = resumed.unwrap_or(fresh);
        let dir = PathBuf::from(home).join(".factory/sessions").join(directory.replace('/', "-"));
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{session}.jsonl"));
        let factory = Self { hooks, session, path, directory: directory.to_owned(), turn: None };
        if !factory.path.exists() {
            factory.append(&json!({"type": "session_start", "id": factory.session, "version": 2, "cwd": directory}))?;
        }
        factory.call("SessionStart", &json!({"source": source}))?;
        Ok(factory)
    }

    /// Leaves the session for another one, as `/new` does.
    pub(crate) fn new_session(&mut self, session: String) -> io::Result<()> {
        self.path.set_file_name(format!("{session}.jsonl"));
        self.session = session;
        self.turn = None;
        self.append(&json!({"type": "session_start", "id": self.session, "version": 2, "cwd": self.directory}))?;
        self.call("SessionStart", &json!({"source": "clear"}))
    }

    fn append(&self, record: &Value) -> io::Result<()> {
        append_line(&self.path, &record.to_string())
    }

    /// Calls the hooks of an event, one after the other, and writes down that it has.
    fn call(&self, event: &str, fields: &Value) -> io::Result<()> {
        let mut payload = json!({
            "session_id": self.session, "transcript_path": self.path, "cwd": self.directory,
            "permission_mode": "auto-high", "hook_event_name": event,
        });
        for (name, value) in fields.as_object().into_iter().flatten() {
            payload[name] = value.clone();
        }
        if self.hooks[event].is_null() {
            return Ok(());
        }
        let matchers = self.hooks[event].as_array().into_iter().flatten();
        for hook in matchers.flat_map(|matcher| matcher["hooks"].as_array().into_iter().flatten()) {
            let mut child = Command::new("sh")
                .args(["-c", hook["command"].as_str().unwrap_or_default()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(payload.to_string().as_bytes())?;
            }
            child.wait()?;
        }
        let called = json!({
            "role": "user", "content": [], "hookEventName": event, "hookStatus": "completed", "visibility": "user_only",
        });
        self.append(&json!({"type": "message", "parentId": self.turn, "message": called}))
    }

    fn message(&self, id: &str, role: &str, text: &str, visibility: Option<&str>) -> io::Result<()> {
        let mut message = json!({"role": role, "content": [{"type": "text", "text": text}]});
        if let Some(visibility) = visibility {
            message["visibility"] = visibility.into();
        }
        self.append(&json!({"type": "message", "id": id, "parentId": self.turn, "message": message}))
    }

    /// Writes a part of a message that is no text.
    fn part(&self, id: &str, role: &str, part: &Value) -> io::Result<()> {
        let message = json!({"role": role, "content": [part]});
        self.append(&json!({"type": "message", "id": id, "parentId": self.turn, "message": message}))
    }

    fn stop(&self, id: &str) -> io::Result<()> {
        self.call("Stop", &json!({"message_id": id, "stop_hook_active": false, "tool_execution_count": 0}))
    }

    fn outcome(&mut self, reason: &str) -> io::Result<()> {
        let turn = self.turn.take();
        self.append(&json!({"type": "agent_turn_outcome", "turnId": turn, "reason": reason, "resultKind": "text"}))
    }

    /// A prompt was submitted.
    pub(crate) fn question(&mut self, id: String, text: &str) -> io::Result<()> {
        self.call("UserPromptSubmit", &json!({"message_id": id, "prompt": text, "has_images": false}))?;
        self.message(&id, "user", text, None)?;
        self.turn = Some(id);
        Ok(())
    }

    /// It is answered.
    pub(crate) fn reply(&mut self, id: &str, text: &str) -> io::Result<()> {
        self.message(id, "assistant", text, None)?;
        self.stop(id)?;
        self.outcome("completed")
    }

    /// It wants to run a command, and asks its human.
    pub(crate) fn asks(&self, id: &str, command: &str) -> io::Result<()> {
        let tool = json!({"type": "tool_use", "id": CALL, "name": "Execute", "input": {"command": command}});
        self.part(id, "assistant", &tool)?;
        let message = "Factory CLI needs permission to execute 1 tool(s)";
        self.call("Notification", &json!({"message": message, "notification_type": "permission_prompt"}))
    }

    /// The command was allowed, and has run.
    pub(crate) fn ran(&self, id: &str, printed: &str) -> io::Result<()> {
        let result = json!({"type": "tool_result", "tool_use_id": CALL, "is_error": false, "content": printed});
        self.part(id, "user", &result)
    }

    /// The model's server has refused it.
    pub(crate) fn failed(&mut self, id: &str, code: u16, text: &str) -> io::Result<()> {
        let words = format!("BYOK Error: {code} {text}\n\nUpstream error: {text}");
        self.message(id, "user", &words, Some("user_only"))?;
        self.stop(id)?;
        self.outcome(match code {
            401 | 403 => "model_authentication_failed",
            402 => "model_usage_exhausted",
            429 => "model_rate_limited",
            400..500 => "model_request_rejected",
            _ => "model_provider_unavailable",
        })
    }

    /// The human has stopped it.
    pub(crate) fn interrupted(&mut self, id: &str) -> io::Result<()> {
        self.message(id, "user", "Request interrupted by user", Some("llm_only"))?;
        self.outcome("cancelled")?;
        let message = "Agent stopped by user and is waiting for input";
        self.call("Notification", &json!({"message": message, "notification_type": "idle_prompt"}))
    }
}
