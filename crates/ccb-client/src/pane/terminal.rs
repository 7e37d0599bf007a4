//! The pane's terminal, as it was before an agent's interface took it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr};

/// Leaves the alternate screen; shows the cursor; ends mouse reports, focus reports, bracketed paste, and the
/// extended keyboard.
const RESET: &str =
    "\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[<u\x1b[0m";

/// Empties the screen; tmux keeps what was on it in the pane's history (`scroll-on-clear`).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The pane's terminal.
pub(crate) struct Terminal {
    /// Its settings at the runner's start.
    settings: Option<Termios>,
    /// Whether an interface has had it.
    used: bool,
}

impl Terminal {
    pub(crate) fn remember() -> Self {
        Self { settings: tcgetattr(io::stdin()).ok(), used: false }
    }

    /// Makes the terminal what it was, after an interface that did not.
    pub(crate) fn restore(&self) {
        if let Some(settings) = &self.settings {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, settings);
            say(RESET);
        }
    }

    /// Lets what is shown scroll away, for an interface that comes: the one before is not to be taken for it, as it may take
    /// its time before it draws and reads. What was typed or pasted into that one is not for this one: before it takes
    /// pastes, each line would be a prompt.
    pub(crate) fn clear(&mut self) {
        if std::mem::replace(&mut self.used, true) {
            let _ = tcflush(io::stdin(), QueueSelector::IFlush);
        }
        say(CLEAR);
    }
}

/// Whether the other side of a terminal is gone: its pane was closed, or the terminal program has ended. The kernel marks
/// it so before anybody on this side reads its end, so that whoever ends of that does so later.
pub(crate) fn is_hung_up(terminal: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&terminal, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) && fds[0].revents().contains(PollFlags::HUP)
}

/// Prints a line or several into the pane. A pane that is gone takes nothing.
pub(crate) fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A line.
    Line,
    /// Nothing more will be typed.
    End,
}

/// Takes what was typed. Call it only when there is something to read.
pub(crate) fn typed() -> Typed {
    let mut bytes = [0; 4096];
    match io::stdin().lock().read(&mut bytes) {
        Ok(0) | Err(_) => Typed::End,
        Ok(_) => Typed::Line,
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    #[test]
    fn a_terminal_is_hung_up_once_its_other_side_is_gone() {
        let pane = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&pane).unwrap();
        unlockpt(&pane).unwrap();
        let terminal = open(ptsname(&pane, Vec::new()).unwrap(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        assert!(!is_hung_up(&terminal));
        rustix::io::write(&pane, b"typed\n").unwrap();
        assert!(!is_hung_up(&terminal), "there is something to read");
        drop(pane);
        assert!(is_hung_up(&terminal));
    }
}
