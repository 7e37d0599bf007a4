//! One connection to askd: calls, their answers, and what is told between.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ccb_core::id::AgentName;
use ccb_core::wire::{self, Call, Code, Hello, LINE_LIMIT, Refusal, Reply, Welcome, call_line, parse_reply};
use serde_json::Value;

use crate::wake::{Patience, Woken, readable};

/// How long an ordinary call may take. A daemon that needs longer hangs, and its keeper replaces it.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(30);

/// A connection that has shaken hands, or is about to.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    lines: Lines,
    calls: u64,
    /// The agent in whose pane we run, as askd has found.
    pub(crate) you: Option<AgentName>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// askd has refused it.
    #[error("{0}")]
    Refusal(#[from] Refusal),
    /// The connection is gone, or the answer did not come in time: nobody knows what became of the call.
    #[error("the connection to askd was lost: {0}")]
    Lost(#[from] io::Error),
}

/// What comes next while a call is open.
#[derive(Debug)]
pub(crate) enum Heard<A> {
    /// Its answer.
    Answer(A),
    /// A notice.
    Notice(String, Value),
    /// Nothing in time.
    Nothing,
    /// Ctrl-C.
    Interrupted,
}

/// Bytes on their way to become lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    searched: usize,
}

impl Connection {
    /// Shakes hands over `stream` as a `role` that means `project`.
    pub(crate) fn open(
        stream: UnixStream,
        project: &str,
        role: &str,
        patience: Patience<'_>,
    ) -> Result<(Self, Welcome), CallError> {
        let mut connection = Self::new(stream)?;
        let welcome = connection.call_within(&hello(project, role), patience)?;
        if welcome.project != project {
            let message = format!("the askd found here serves another project: {}", welcome.work_dir);
            return Err(Refusal::new(Code::Project, message).into());
        }
        connection.you.clone_from(&welcome.you);
        Ok((connection, welcome))
    }

    /// Has a daemon of another protocol end in order, and waits until it has gone.
    pub(crate) fn replace(
        stream: UnixStream,
        project: &str,
        force: bool,
        patience: Patience<'_>,
    ) -> Result<(), CallError> {
        let mut connection = Self::new(stream)?;
        match connection.call_within(&hello(project, "client"), patience) {
            Err(CallError::Refusal(refusal)) if refusal.other.is_some() => {}
            // It has made room already.
            Ok(_) | Err(CallError::Lost(_)) => return Ok(()),
            Err(CallError::Refusal(refusal)) => return Err(refusal.into()),
        }
        let replace = wire::Replace { version: program().version, force };
        connection.call_within(&replace, patience)?;
        connection.wait_for_end(patience);
        Ok(())
    }

    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(CALL_LIMIT))?;
        Ok(Self { stream, lines: Lines::default(), calls: 0, you: None })
    }

    /// Calls and returns the answer.
    pub(crate) fn call<C: Call>(&mut self, call: &C) -> Result<C::Answer, CallError> {
        self.call_within(call, Patience::of(CALL_LIMIT))
    }

    /// Calls and returns the answer, if it comes in time.
    pub(crate) fn call_within<C: Call>(&mut self, call: &C, patience: Patience<'_>) -> Result<C::Answer, CallError> {
        let number = self.begin(call)?;
        loop {
            match self.hear::<C>(number, patience)? {
                Heard::Answer(answer) => return Ok(answer),
                Heard::Notice(..) => {}
                Heard::Nothing => return Err(CallError::Lost(io::ErrorKind::TimedOut.into())),
                Heard::Interrupted => return Err(CallError::Lost(io::ErrorKind::Interrupted.into())),
            }
        }
    }

    /// Sends a call and returns its number.
    pub(crate) fn begin<C: Call>(&mut self, call: &C) -> Result<u64, CallError> {
        self.calls += 1;
        let line = call_line(self.calls, call);
        if line.len() >= LINE_LIMIT {
            let message = format!("too long for askd: {} MiB, the limit is {}", line.len() >> 20, LINE_LIMIT >> 20);
            return Err(Refusal::new(Code::BadCall, message).into());
        }
        self.stream.write_all(line.as_bytes())?;
        Ok(self.calls)
    }

    /// Returns what comes next while the call of that number is open.
    pub(crate) fn hear<C: Call>(&mut self, number: u64, patience: Patience<'_>) -> Result<Heard<C::Answer>, CallError> {
        loop {
            let line = match self.read(patience)? {
                Ok(line) => line,
                Err(Woken::Interrupted) => return Ok(Heard::Interrupted),
                Err(Woken::Timeout | Woken::Ready) => return Ok(Heard::Nothing),
            };
            match line {
                Reply::Notice { method, params } => return Ok(Heard::Notice(method, params)),
                // A line that askd could not read is answered with the number 0.
                Reply::Answer { call, result } if call == number || (call == 0 && result.is_err()) => {
                    let answer = serde_json::from_value(result?).map_err(|error| {
                        Refusal::new(
                            Code::Internal,
                            format!("askd's answer to `{}` is not understood: {error}", C::METHOD),
                        )
                    })?;
                    return Ok(Heard::Answer(answer));
                }
                Reply::Answer { .. } => {}
            }
        }
    }

    /// Returns the next line, or what ended the wait for it.
    pub(crate) fn read(&mut self, patience: Patience<'_>) -> Result<Result<Reply, Woken>, CallError> {
        let mut chunk = Vec::new();
        loop {
            if let Some(line) = self.lines.take() {
                return Ok(Ok(parse_reply(&line)?));
            }
            let woken = readable(self.stream.as_fd(), patience)?;
            if woken != Woken::Ready {
                return Ok(Err(woken));
            }
            chunk.resize(64 << 10, 0);
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.lines.add(&chunk[..count])?;
        }
    }

    /// Waits until askd closes the connection; false if it has not in time.
    pub(crate) fn wait_for_end(&mut self, patience: Patience<'_>) -> bool {
        loop {
            match self.read(patience) {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Returns a second end for writing, for a reader on another thread.
    pub(crate) fn writer(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }
}

/// What this program is, or in a debug build what a test has it pretend to be.
pub(crate) fn program() -> wire::Program {
    let pretended = std::env::var(wire::PRETEND).ok().filter(|_| cfg!(debug_assertions));
    wire::Program::new(env!("CARGO_PKG_VERSION"), pretended.as_deref())
}

fn hello(project: &str, role: &str) -> Hello {
    let wire::Program { protocol, version } = program();
    Hello { protocol, version, project: project.to_owned(), role: role.to_owned() }
}

impl Lines {
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > LINE_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn take(&mut self) -> Option<String> {
        let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(self.searched + at + 1);
        let line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_they_come() {
        let mut lines = Lines::default();
        lines.add(b"on").unwrap();
        assert_eq!(lines.take(), None);
        lines.add(b"e\ntwo\nthr").unwrap();
        assert_eq!(
            (lines.take().unwrap(), lines.take().unwrap(), lines.take()),
            ("one\n".into(), "two\n".into(), None)
        );
        lines.add(b"ee\n").unwrap();
        assert_eq!(lines.take().unwrap(), "three\n");
    }
}
