//! What goes wrong during the soak, one thing after another, in an order that a seed decides.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use super::{Day, press};
use crate::env::{signal, within};

/// Numbers that follow from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        // Marsaglia's xorshift; its upper half is the better one.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % n
    }
}

/// Lets time pass: what is to come is to come at no particular moment.
fn pass(time: Duration) {
    within(time, || None::<()>);
}

/// What went wrong, counted.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Kills of whatever may leave a hand-over in doubt.
    pub(crate) kills: usize,
    stops: usize,
    disks: usize,
    files: usize,
    clients: usize,
    doors: usize,
    typed: usize,
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, stops, disks, files, clients, doors, typed } = self;
        write!(
            f,
            "{kills} kills, {stops} stops, {disks} disk errors, {files} files deleted, {clients} clients killed or \
             stopped, {doors} pestered doors, {typed} drafts typed"
        )
    }
}

/// The one who does it.
pub(crate) struct Chaos<'a> {
    day: &'a Day<'a>,
    has_disk: bool,
    home: &'a Path,
    dice: Dice,
    events: Events,
}

impl<'a> Chaos<'a> {
    pub(crate) fn new(day: &'a Day<'a>, has_disk: bool, home: &'a Path, dice: Dice) -> Self {
        Self { day, has_disk, home, dice, events: Events::default() }
    }

    /// Reigns until then, and leaves everything in peace.
    pub(crate) fn reign(mut self, until: Instant) -> Events {
        // With both cores busy on top of it.
        let mut load: Vec<_> =
            (0..2).filter_map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().ok()).collect();
        while Instant::now() < until {
            self.strike();
            let calm = Duration::from_millis(200 + 10 * self.dice.below(80) as u64);
            pass(calm);
        }
        for child in &mut load {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.events
    }

    fn strike(&mut self) {
        match self.dice.below(14) {
            0 | 1 => self.kill(&["askd --worker"]),
            2 => self.kill(&["askd --project"]),
            3 => self.kill(&["askd --project", "askd --worker"]),
            4 => self.stop(Duration::from_millis(300)),
            5 => self.stop(Duration::from_secs(6)),
            6 => self.kill(&["stub-agent --name"]),
            7 | 8 => self.fill_the_disk(),
            9 => self.delete(),
            10 => self.harm_a_client(),
            11 => self.pester(),
            _ => self.type_a_draft(),
        }
    }

    /// Returns the first process of these words.
    fn find(&self, words: &str) -> Option<u32> {
        let all = self.day.env.processes();
        all.into_iter().find(|(_, line)| line.contains(words) && !line.contains(" guard ")).map(|(pid, _)| pid)
    }

    fn kill(&mut self, words: &[&str]) {
        let pids: Vec<u32> = words.iter().filter_map(|words| self.find(words)).collect();
        self.events.kills += pids.len();
        for pid in pids {
            signal(pid, Signal::KILL);
        }
    }

    /// Stops the worker: for a moment, or for so long that its keeper replaces it.
    fn stop(&mut self, time: Duration) {
        let Some(pid) = self.find("askd --worker") else { return };
        self.events.stops += 1;
        self.events.kills += usize::from(time > Duration::from_secs(1));
        signal(pid, Signal::STOP);
        within(time, || self.day.env.processes().iter().all(|(other, _)| *other != pid).then_some(()));
        signal(pid, Signal::CONT);
    }

    fn fill_the_disk(&mut self) {
        if !self.has_disk {
            return;
        }
        self.events.disks += 1;
        let disk = self.day.env.disk();
        disk.fill();
        if self.dice.below(2) == 0 {
            self.kill(&["askd --worker"]);
        }
        pass(Duration::from_millis(300 + 10 * self.dice.below(150) as u64));
        disk.free();
    }

    fn delete(&mut self) {
        self.events.files += 1;
        let names = ["askd.json", "askd.sock", "askd.last.json", "keeper.lock", "askd.lock"];
        let name = names[self.dice.below(names.len())];
        self.events.kills += usize::from(name.contains("lock"));
        let _ = std::fs::remove_file(self.home.join(name));
    }

    fn harm_a_client(&mut self) {
        let client = {
            let clients = self.day.clients.lock().expect("a list");
            if clients.is_empty() {
                return;
            }
            clients[self.dice.below(clients.len())].clone()
        };
        self.events.clients += 1;
        // One that has ended meanwhile takes no signal any more.
        if self.dice.below(2) == 0 {
            let _ = pidfd_send_signal(&client, Signal::KILL);
        } else {
            let _ = pidfd_send_signal(&client, Signal::STOP);
            pass(Duration::from_millis(700));
            let _ = pidfd_send_signal(&client, Signal::CONT);
        }
    }

    /// Silent connections, one that sends half a line, one that never reads.
    fn pester(&mut self) {
        self.events.doors += 1;
        let socket: PathBuf = self.home.join("askd.sock");
        let mut silent: Vec<UnixStream> = (0..100).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
        if let Some(half) = silent.first_mut() {
            let _ = half.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hel");
        }
        pass(Duration::from_millis(500));
        let mut chunk = [0; 64];
        for mut stream in silent {
            let _ = stream.set_nonblocking(true);
            let _ = stream.read(&mut chunk);
        }
    }

    /// A human begins to write and thinks better of it.
    fn type_a_draft(&mut self) {
        self.events.typed += 1;
        press(self.day.env, |_| true, &["-l", "half a thought"]);
        pass(Duration::from_millis(400));
        press(self.day.env, |_| true, &["C-u"]);
    }
}
