//! The loop: waits for keys, signals, a command's output and the clock, and shows what came of it.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::agent::{Agent, Flow};
use crate::events::log_keys;
use crate::input::Parser;
use crate::options::{Options, Ui};
use crate::records::Records;
use crate::terminal::{Signals, Terminal, write};

/// How long an escape character waits for the rest of a sequence.
const ESCAPE_TIME: Duration = Duration::from_millis(50);

/// Runs the stub until it is told to end, and returns its exit status.
pub(crate) fn run(options: Options) -> io::Result<u8> {
    let mut signals = Signals::take()?;
    if !options.ready_delay.is_zero() && !starts_up(&options, &signals)? {
        return Ok(0);
    }
    let directory = std::env::current_dir()?;
    let transcript = options.transcript.clone();
    let variable = |name: &str| std::env::var(name).ok();
    let records = Records::open(options.provider, transcript.as_deref(), &options.ignored, &directory, variable)?;
    let mut terminal = Terminal::take(options.ui)?;
    let keys = options.keys.clone();
    let mut agent = Agent::new(options, records);
    terminal.show(|size| agent.frame(size, Instant::now()))?;
    agent.started()?;

    let mut parser = Parser::default();
    let mut last_read = Instant::now();
    let mut open = true;
    let mut bytes = vec![0; 1 << 16];
    while open || !agent.at_rest() {
        let undecided = parser.undecided().then_some(ESCAPE_TIME);
        let pause = [agent.pause(Instant::now()), undecided].into_iter().flatten().min();
        let ready = wait(open, &signals, &agent, pause)?;
        if ready.end {
            break;
        }
        if ready.look {
            signals.looked();
        }
        let mut inputs = Vec::new();
        if ready.input {
            let count = read(&mut bytes)?;
            open = count > 0;
            last_read = Instant::now();
            if let Some(keys) = keys.as_deref().filter(|_| open) {
                log_keys(keys, &bytes[..count])?;
            }
            inputs = parser.feed(&bytes[..count]);
        } else if last_read.elapsed() >= ESCAPE_TIME {
            inputs = parser.flush();
        }
        for input in inputs {
            if let Flow::Leave(status) = agent.input(input, Instant::now())? {
                return Ok(status);
            }
        }
        if let Flow::Leave(status) = agent.advance(Instant::now())? {
            return Ok(status);
        }
        terminal.show(|size| agent.frame(size, Instant::now()))?;
    }
    Ok(0)
}

/// Spends the start-up time as a program does that has not come to its terminal yet: input stays unread, and echoed.
///
/// Returns whether it may go on.
fn starts_up(options: &Options, signals: &Signals) -> io::Result<bool> {
    if options.ui == Ui::Drawn {
        write("stub · starting\n")?;
    }
    let ready = Instant::now() + options.ready_delay;
    loop {
        let left = ready.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(true);
        }
        let mut fds = [PollFd::new(&signals.end, PollFlags::IN)];
        poll_for(&mut fds, Some(left))?;
        if !fds[0].revents().is_empty() {
            return Ok(false);
        }
    }
}

/// What there is to do.
#[derive(Debug)]
struct Ready {
    end: bool,
    look: bool,
    input: bool,
}

/// Waits until there is something to do, at most for the pause.
fn wait(open: bool, signals: &Signals, agent: &Agent, pause: Option<Duration>) -> io::Result<Ready> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::new(&signals.end, PollFlags::IN), PollFd::new(&signals.look, PollFlags::IN)];
    if open {
        fds.push(PollFd::new(&stdin, PollFlags::IN));
    }
    if let Some(output) = agent.output() {
        fds.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
    }
    poll_for(&mut fds, pause)?;
    let ready = |number: usize| !fds[number].revents().is_empty();
    Ok(Ready { end: ready(0), look: ready(1), input: open && ready(2) })
}

/// Polls, at most for the pause. A signal ends it early: its descriptor tells the next time.
fn poll_for(fds: &mut [PollFd<'_>], pause: Option<Duration>) -> io::Result<()> {
    let pause = pause.map(|pause| Timespec::try_from(pause).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 }));
    match poll(fds, pause.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads what there is of input; nothing, if the terminal is gone.
fn read(bytes: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(io::stdin(), bytes) {
        Ok(count) => Ok(count),
        Err(Errno::IO) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
