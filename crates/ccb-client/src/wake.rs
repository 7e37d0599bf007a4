//! Waiting, without polling loops: for a descriptor, for Ctrl-C, for a moment, whichever comes first.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::SIGINT;

/// Ctrl-C as something to wait for. Once it was pressed, it stays pressed.
#[derive(Debug)]
pub(crate) struct Interrupt(UnixStream);

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The descriptor can be read.
    Ready,
    /// Ctrl-C.
    Interrupted,
    /// The moment has come.
    Timeout,
}

/// How long a wait may take, and what cuts it short.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience<'a> {
    /// The end; none: no end.
    pub(crate) until: Option<Instant>,
    /// Ctrl-C, where it does not end the process.
    pub(crate) interrupt: Option<&'a Interrupt>,
}

/// Growing pauses between tries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Interrupt {
    /// Catches Ctrl-C from now on.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self(signal(&[SIGINT])?))
    }

    /// Returns one that has come once the other end of `reader` writes or goes.
    pub(crate) fn by(reader: UnixStream) -> Self {
        Self(reader)
    }
}

impl Patience<'_> {
    /// Returns the patience of `duration` from now.
    pub(crate) fn of(duration: Duration) -> Self {
        Self { until: Instant::now().checked_add(duration), interrupt: None }
    }

    /// Returns the same, but `duration` from now at most.
    #[must_use]
    pub(crate) fn at_most(self, duration: Duration) -> Self {
        let limit = Instant::now().checked_add(duration);
        let until = match (self.until, limit) {
            (Some(until), Some(limit)) => Some(until.min(limit)),
            (until, limit) => until.or(limit),
        };
        Self { until, ..self }
    }

    /// Returns whether it is at its end.
    pub(crate) fn is_over(self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}

impl Pace {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Returns the next pause, with up to half of it again, so that many who wait do not come back together.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        let random = RandomState::new().build_hasher().finish() % 500;
        pause + pause * u32::try_from(random).unwrap_or_default() / 1000
    }
}

/// Returns a descriptor that can be read once one of `signals` has come.
pub(crate) fn signal(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// Waits until `fd` can be read.
pub(crate) fn readable(fd: BorrowedFd<'_>, patience: Patience<'_>) -> io::Result<Woken> {
    wait(Some(fd), patience)
}

/// Waits for `duration`, less if `patience` ends before.
pub(crate) fn pause(duration: Duration, patience: Patience<'_>) -> io::Result<Woken> {
    wait(None, patience.at_most(duration))
}

fn wait(fd: Option<BorrowedFd<'_>>, patience: Patience<'_>) -> io::Result<Woken> {
    let interrupt = patience.interrupt.map(|interrupt| interrupt.0.as_fd());
    let both: Vec<BorrowedFd<'_>> = interrupt.into_iter().chain(fd).collect();
    let ready = any(&both, patience.until)?;
    Ok(match (interrupt, ready.first(), ready.contains(&true)) {
        (Some(_), Some(true), _) => Woken::Interrupted,
        (_, _, true) => Woken::Ready,
        (_, _, false) => Woken::Timeout,
    })
}

/// Waits until one of `fds` can be read or the moment has come, and returns which can be read.
pub(crate) fn any(fds: &[BorrowedFd<'_>], until: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_wait_ends_by_what_comes_first() {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let soon = Patience::of(Duration::from_millis(5));
        assert_eq!(readable(reader.as_fd(), soon).unwrap(), Woken::Timeout);
        assert_eq!(pause(Duration::from_millis(1), Patience::default()).unwrap(), Woken::Timeout);
        writer.write_all(b"x").unwrap();
        assert_eq!(readable(reader.as_fd(), Patience::default()).unwrap(), Woken::Ready);
        let (pressed, mut key) = UnixStream::pair().unwrap();
        key.write_all(b"x").unwrap();
        let interrupt = Interrupt(pressed);
        let patience = Patience { until: None, interrupt: Some(&interrupt) };
        assert_eq!(readable(reader.as_fd(), patience).unwrap(), Woken::Interrupted);
        assert_eq!(pause(Duration::from_secs(60), patience).unwrap(), Woken::Interrupted);
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        let mut pace = Pace::new(Duration::from_millis(10), Duration::from_millis(40));
        for low in [10, 20, 40, 40] {
            let pause = pace.pause().as_millis();
            assert!((low..=low * 3 / 2).contains(&pause), "{pause}");
        }
        pace.reset();
        assert!(pace.pause().as_millis() < 20);
    }
}
