//! The shell command that a `RUN:` directive asks for.

use std::fmt::Write as _;
use std::io::{self, PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// The most of a command's output that is answered, in bytes.
const LONGEST: usize = 4 << 20;

/// A shell command. Dropping it before it has ended kills it with its group.
///
/// What it leaves running in the background is not waited for, even if that holds its output open.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    output: PipeReader,
    /// What it has printed, errors included.
    printed: Vec<u8>,
    /// Whether the pipe has ended.
    closed: bool,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts `sh -c command`.
    pub(crate) fn start(command: &str) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .spawn()?;
        Ok(Self { child, output, printed: Vec::new(), closed: false, ended: None })
    }

    /// Returns the pipe to wait for, until it has ended.
    pub(crate) fn output(&self) -> Option<&PipeReader> {
        (!self.closed).then_some(&self.output)
    }

    /// Reads what there is, and returns whether the command has ended.
    pub(crate) fn look(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        // Read after that question: what an ended command printed is there by now.
        let mut bytes = [0; 1 << 13];
        while !self.closed {
            match self.output.read(&mut bytes) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    let room = LONGEST.saturating_sub(self.printed.len()).min(count);
                    self.printed.extend_from_slice(&bytes[..room]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.ended.is_some())
    }

    /// Returns what is answered: the output, and the exit status unless it is 0.
    pub(crate) fn answer(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.printed).trim_end().to_owned();
        if let Some(status) = self.ended.filter(|status| !status.success()) {
            let line_end = if text.is_empty() { "" } else { "\n" };
            write!(text, "{line_end}({status})").ok();
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
            self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a command to its end.
    fn answer(command: &str) -> String {
        let mut running = Running::start(command).unwrap();
        running.child.wait().unwrap();
        assert!(running.look().unwrap());
        running.answer()
    }

    #[test]
    fn output_and_status_are_answered() {
        for (command, said) in [
            ("echo one; echo two >&2", "one\ntwo"),
            ("exit 3", "(exit status: 3)"),
            ("echo no; exit 1", "no\n(exit status: 1)"),
            ("sleep 2 & echo not waited for", "not waited for"),
        ] {
            assert_eq!(answer(command), said);
        }
    }

    #[test]
    fn dropping_a_command_kills_it() {
        let mut running = Running::start("sleep 60").unwrap();
        assert!(!running.look().unwrap());
        let child = Pid::from_child(&running.child);
        drop(running);
        assert!(rustix::process::test_kill_process(child).is_err());
    }
}
