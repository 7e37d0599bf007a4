//! The terminal: raw mode for as long as the value lives, its size, and the signals that concern it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::low_level::pipe;

use crate::options::Ui;
use crate::screen::{Frame, Size, paint};

/// The terminal in our hands. Dropping it gives it back as it was.
#[derive(Debug)]
pub(crate) struct Terminal {
    ui: Ui,
    /// Its settings before, unless the input is no terminal.
    before: Option<Termios>,
    /// What it shows.
    shown: Option<(Size, Frame)>,
}

impl Terminal {
    /// Takes the terminal: raw mode, bracketed pastes, and room for the picture.
    pub(crate) fn take(ui: Ui) -> io::Result<Self> {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        }
        let terminal = Self { ui, before, shown: None };
        let room = match ui {
            // What stood there goes to the history instead of under the picture.
            Ui::Drawn => "\r\n".repeat(size().rows),
            Ui::Plain => String::new(),
        };
        write(&format!("{room}\x1b[?2004h"))?;
        Ok(terminal)
    }

    /// Shows a picture, if it is another than the one shown.
    pub(crate) fn show(&mut self, draw: impl FnOnce(Size) -> Frame) -> io::Result<()> {
        if self.ui == Ui::Plain {
            return Ok(());
        }
        let size = size();
        let frame = draw(size);
        let before = self.shown.as_ref().filter(|(before, _)| *before == size).map(|(_, frame)| frame);
        let bytes = paint(before, &frame);
        if !bytes.is_empty() {
            write(&bytes)?;
        }
        self.shown = Some((size, frame));
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let below = match self.ui {
            Ui::Drawn => format!("\x1b[{};1H\r\n", size().rows),
            Ui::Plain => String::new(),
        };
        // Whoever hung up will not mind.
        write(&format!("\x1b[?2004l\x1b[?25h{below}")).ok();
        if let Some(before) = &self.before {
            tcsetattr(io::stdin(), OptionalActions::Now, before).ok();
        }
    }
}

/// Returns the terminal's size, or a usual one if there is none.
fn size() -> Size {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => Size { columns: 80, rows: 24 },
    }
}

/// Writes bytes to the terminal.
pub(crate) fn write(bytes: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_bytes())?;
    out.flush()
}

/// Signals as readable descriptors.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Readable when the process shall end.
    pub(crate) end: UnixStream,
    /// Readable when a child ended or the size changed: look again.
    pub(crate) look: UnixStream,
}

impl Signals {
    /// Takes over the signals that concern us.
    pub(crate) fn take() -> io::Result<Self> {
        Ok(Self { end: pipe_of(&[SIGTERM, SIGHUP, SIGINT])?, look: pipe_of(&[SIGCHLD, SIGWINCH])? })
    }

    /// Forgets that there was something to look at.
    pub(crate) fn looked(&mut self) {
        let mut bytes = [0; 64];
        while self.look.read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }
}

/// Returns a descriptor that becomes readable with any of the signals.
fn pipe_of(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for &signal in signals {
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}
