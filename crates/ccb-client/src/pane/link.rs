//! A runner's link to askd: connected again and again by a thread of its own, for as long as the runner lives.
//!
//! The thread only connects and reads. What is read, and every change, goes to the runner's one loop, which
//! also writes: nothing here starts or ends a process of the agent.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ccb_core::wire::{Call, Order, Reply, call_line};

use super::kept::drain;
use crate::connect::{Askd, ConnectError, DEADLINE};
use crate::error::CliError;
use crate::wake::{Pace, Patience, pause};

/// How long a write to askd may take; a runner has better things to do than to wait for a daemon that hangs.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// How long a connection lives that was worth having.
const LIFE: Duration = Duration::from_secs(2);

/// How soon a daemon that cannot start is started again by a runner, at first and at the longest. A request starts it
/// at once.
const START_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// The runner's end of the link.
pub(crate) struct Link {
    events: Receiver<Event>,
    woken: UnixStream,
    closing: Arc<AtomicBool>,
    writer: Option<UnixStream>,
    calls: u64,
}

/// What happens to the link.
pub(crate) enum Event {
    /// It is up; calls can be made over this.
    Up(UnixStream),
    /// askd has said something.
    Line(Reply),
    /// It is down.
    Down,
    /// It does not come up, and this is why.
    Trouble(CliError),
}

/// The thread's end.
struct Far {
    askd: Askd,
    events: Sender<Event>,
    wake: UnixStream,
    closing: Arc<AtomicBool>,
}

impl Link {
    /// Starts the thread.
    pub(crate) fn start(askd: Askd) -> io::Result<Self> {
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let (sender, events) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let far = Far { askd, events: sender, wake, closing: Arc::clone(&closing) };
        std::thread::Builder::new().name("link".to_owned()).spawn(move || far.run())?;
        Ok(Self { events, woken, closing, writer: None, calls: 0 })
    }

    /// Returns what can be read once there is an event.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// Returns the next event, if there is one.
    pub(crate) fn event(&mut self) -> Option<Event> {
        drain(&self.woken);
        let event = self.events.try_recv().ok()?;
        match &event {
            Event::Up(writer) => self.writer = writer.try_clone().ok(),
            Event::Down => self.writer = None,
            Event::Line(_) | Event::Trouble(_) => {}
        }
        Some(event)
    }

    /// Calls, if the link is up, and returns the call's number.
    pub(crate) fn call<C: Call>(&mut self, call: &C) -> Option<u64> {
        let mut writer = self.writer.as_ref()?;
        self.calls += 1;
        if writer.write_all(call_line(CALLS_FROM + self.calls, call).as_bytes()).is_err() {
            // Half a line may have gone out: nothing after it would be understood. The thread connects anew.
            let _ = writer.shutdown(Shutdown::Both);
            self.writer = None;
            return None;
        }
        Some(CALLS_FROM + self.calls)
    }

    /// Comes up no more: the runner ends.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(writer) = &self.writer {
            let _ = writer.set_write_timeout(Some(Duration::from_millis(100)));
        }
    }
}

/// The numbers of the runner's calls come after those of the handshake on the same connection.
const CALLS_FROM: u64 = 100;

impl Far {
    fn run(self) {
        let mut pace = Pace::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut rest, mut start_from) = (START_AGAIN.0, Instant::now());
        while !self.closing.load(Ordering::Relaxed) {
            let found = if start_from <= Instant::now() {
                self.askd.find_or_start(Patience::of(DEADLINE)).map(Some)
            } else {
                Ok(self.askd.find_at_once(LIFE))
            };
            match found.transpose() {
                None => {}
                Some(Ok(mut connection)) => {
                    let writer = connection.writer().and_then(|writer| {
                        writer.set_write_timeout(Some(WRITE_LIMIT))?;
                        Ok(writer)
                    });
                    let Ok(writer) = writer else { return };
                    let began = Instant::now();
                    self.tell(Event::Up(writer));
                    while let Ok(Ok(reply)) = connection.read(Patience::default()) {
                        let stop = is_stop(&reply);
                        self.tell(Event::Line(reply));
                        if stop {
                            return;
                        }
                    }
                    self.tell(Event::Down);
                    if began.elapsed() >= LIFE {
                        pace.reset();
                        rest = START_AGAIN.0;
                    }
                }
                Some(Err(error)) => {
                    if matches!(error, ConnectError::Keeper(_)) {
                        start_from = Instant::now() + rest;
                        rest = (rest * 2).min(START_AGAIN.1);
                    }
                    self.tell(Event::Trouble(self.askd.explain(error)));
                }
            }
            let _ = pause(pace.pause(), Patience::default());
        }
    }

    fn tell(&self, event: Event) {
        if self.events.send(event).is_ok() {
            let _ = (&self.wake).write_all(b".");
        }
    }
}

/// Returns the order in a line, if it is one.
pub(crate) fn order(reply: &Reply) -> Option<Order> {
    match reply {
        Reply::Notice { method, params } if method == "order" => serde_json::from_value(params.clone()).ok(),
        Reply::Notice { .. } | Reply::Answer { .. } => None,
    }
}

/// After this order askd goes away on purpose, and must not be started again by us.
fn is_stop(reply: &Reply) -> bool {
    order(reply) == Some(Order::Stop)
}
