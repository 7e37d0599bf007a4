//! What goes through a connection: lines in, lines out, and how much of both may be held in memory.
//!
//! Nothing is dropped: who does not read what it asked for is read no further, and who lets much lie is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ccb_core::wire::{Code, LINE_LIMIT, Refusal, answer_line};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, MutexGuard, Notify, OwnedSemaphorePermit, Semaphore};

use crate::engine::log;

/// How many KiB of long lines all connections together may hold.
const MEMORY_KIB: usize = 256 << 10;

/// The longest line that is not counted.
const SHORT: usize = 64 << 10;

/// How much may lie unread before no further call of the connection is read.
const LOW: usize = 1 << 20;

/// How much may lie unread for [`STALL`] without being cut off.
const MUCH: usize = 8 << 20;

/// More than ever lies unread of a connection whose calls wait for their turn: two answers.
const MOST: usize = 2 * LINE_LIMIT + MUCH;

/// How long nothing may move.
const STALL: Duration = Duration::from_secs(10);

/// The most values in a long line: each costs many times its bytes once it is read.
const VALUES: usize = 100_000;

/// The memory that all connections share.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Semaphore>);

impl Memory {
    /// Returns all of it, free.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY_KIB)))
    }

    /// Takes as much as `bytes` need beyond a short line. Others may have to give theirs back first: those who do not
    /// move are cut off meanwhile.
    async fn take(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        if bytes <= SHORT {
            return Ok(None);
        }
        let count = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let free = tokio::time::timeout(2 * STALL, self.0.clone().acquire_many_owned(count)).await;
        if let Ok(Ok(held)) = free {
            return Ok(Some(held));
        }
        let message = format!(
            "askd holds {} MiB of other connections' long lines, and takes no more of them now",
            MEMORY_KIB >> 10
        );
        Err(Refusal::new(Code::Internal, message).hint("try again in a moment"))
    }
}

/// A line that was read, and the memory that it takes.
pub(crate) struct Line {
    /// The line.
    pub(crate) text: String,
    /// The memory.
    pub(crate) held: Option<OwnedSemaphorePermit>,
}

/// Reads lines.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    memory: Memory,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Returns the lines that come from `reading`.
    pub(crate) fn new(reading: R, memory: Memory) -> Self {
        Self { reader: BufReader::new(reading), memory }
    }

    /// Returns what it read from; what was read ahead is forgotten.
    pub(crate) fn into_inner(self) -> R {
        self.reader.into_inner()
    }

    /// Returns the next line of at most `limit` bytes; none at the end of the stream, a refusal for what is no line
    /// of ours: then nothing more can be read.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Option<Line>, Refusal> {
        self.next_if(limit, |_| true).await
    }

    /// The same; a line that is not short is read on only if its beginning may go on.
    pub(crate) async fn next_if(
        &mut self,
        limit: usize,
        may_go_on: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Line>, Refusal> {
        let mut line = Vec::new();
        let mut held: Option<OwnedSemaphorePermit> = None;
        loop {
            let is_long = line.len() > SHORT;
            let chunk = if is_long {
                tokio::time::timeout(STALL, self.reader.fill_buf()).await.unwrap_or(Ok(&[]))
            } else {
                self.reader.fill_buf().await
            };
            let Some(chunk) = chunk.ok().filter(|chunk| !chunk.is_empty()) else { return Ok(None) };
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(chunk.len(), |at| at + 1);
            if line.len() + taken > limit {
                return Err(bad(&format!("the line is longer than {} KiB", limit >> 10)));
            }
            if line.capacity() < line.len() + taken {
                let more = line.len().max(SHORT / 8).min(limit - line.len()).max(taken);
                if let Some(taken) = self.memory.take(if is_long { more } else { 0 }).await? {
                    match &mut held {
                        Some(held) => held.merge(taken),
                        None => held = Some(taken),
                    }
                }
                line.reserve_exact(more);
            }
            line.extend_from_slice(&chunk[..taken]);
            self.reader.consume(taken);
            if end.is_some() {
                let text = String::from_utf8(line).map_err(|_| bad("the line is not UTF-8"))?;
                return Ok(Some(Line { text, held }));
            }
            if !is_long && line.len() > SHORT && !may_go_on(&line) {
                return Ok(None);
            }
        }
    }
}

fn bad(what: &str) -> Refusal {
    Refusal::new(Code::BadCall, format!("{what}; the connection is closed"))
}

/// Returns whether a line has more values in it than any call of ours.
pub(crate) fn is_sprawling(line: &str) -> bool {
    let (mut values, mut quoted, mut escaped) = (0, false, false);
    for byte in line.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => values += 1,
            _ => {}
        }
    }
    values > VALUES
}

/// The way to a connection's other side. Clones go to the same one.
#[derive(Clone)]
pub(crate) struct Out {
    lines: UnboundedSender<Piece>,
    queue: Arc<Queue>,
}

struct Piece {
    text: String,
    _held: Option<OwnedSemaphorePermit>,
}

struct Queue {
    bytes: AtomicUsize,
    moved: Notify,
    is_cut: AtomicBool,
    turn: Mutex<()>,
    memory: Memory,
}

/// The connection is cut off.
#[derive(Debug)]
pub(crate) struct Cut;

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Out({} bytes)", self.queue.bytes.load(Ordering::SeqCst))
    }
}

impl Out {
    /// Returns the way to the one who reads what is written to `writing`, and the work of writing it.
    pub(crate) fn open(
        writing: impl AsyncWrite + Unpin + Send + 'static,
        memory: Memory,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (lines, pieces) = unbounded_channel();
        let (bytes, moved, is_cut) = (AtomicUsize::new(0), Notify::new(), AtomicBool::new(false));
        let queue = Arc::new(Queue { bytes, moved, is_cut, turn: Mutex::new(()), memory });
        (Self { lines, queue: queue.clone() }, write(writing, pieces, queue))
    }

    /// Sends a line at once, however much lies unread; where that is too much, the connection is cut off.
    pub(crate) fn send(&self, line: String) -> Result<(), Cut> {
        self.push(line, None)
    }

    fn push(&self, text: String, held: Option<OwnedSemaphorePermit>) -> Result<(), Cut> {
        let before = self.queue.bytes.fetch_add(text.len(), Ordering::SeqCst);
        if before > MOST {
            self.queue.cut();
        }
        if self.is_cut() {
            return Err(Cut);
        }
        self.lines.send(Piece { text, _held: held }).map_err(|_| Cut)
    }

    /// Answers a call; in other words if there is no memory for the answer.
    pub(crate) async fn answer(&self, id: &Value, result: Result<Value, Refusal>) -> Result<(), Cut> {
        let line = answer_line(id, result);
        match self.queue.memory.take(line.len()).await {
            Ok(held) => self.push(line, held),
            Err(refusal) => self.push(answer_line(id, Err(refusal)), None),
        }
    }

    /// Waits until little lies unread, or the connection is cut off.
    pub(crate) async fn room(&self) {
        loop {
            let moved = self.queue.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.queue.bytes.load(Ordering::SeqCst) <= LOW || self.is_cut() {
                return;
            }
            moved.await;
        }
    }

    /// The same, for one of many who answer over this connection: they take turns.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        let turn = self.queue.turn.lock().await;
        self.room().await;
        turn
    }

    /// Returns whether the connection is cut off.
    pub(crate) fn is_cut(&self) -> bool {
        self.queue.is_cut.load(Ordering::SeqCst)
    }

    /// Returns once the connection is cut off.
    pub(crate) async fn cut(&self) {
        loop {
            let moved = self.queue.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.is_cut() {
                return;
            }
            moved.await;
        }
    }
}

impl Queue {
    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.moved.notify_waiters();
    }
}

/// Writes what is sent, until nobody can send any more or the other side does not read.
async fn write(mut writing: impl AsyncWrite + Unpin, mut pieces: UnboundedReceiver<Piece>, queue: Arc<Queue>) {
    while let Some(piece) = pieces.recv().await {
        let mut rest = piece.text.as_bytes();
        while !rest.is_empty() {
            match tokio::time::timeout(STALL, writing.write(rest)).await {
                Ok(Ok(count @ 1..)) => {
                    rest = &rest[count..];
                    queue.bytes.fetch_sub(count, Ordering::SeqCst);
                    queue.moved.notify_waiters();
                }
                Ok(Ok(0) | Err(_)) => return queue.cut(),
                Err(_) => {
                    let bytes = queue.bytes.load(Ordering::SeqCst);
                    if bytes > MUCH {
                        log(&format!("cut off a connection that has left {} MiB unread", bytes >> 20));
                        return queue.cut();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        let many = ",".repeat(VALUES + 1);
        assert!(is_sprawling(&format!("[{many}]")));
        assert!(!is_sprawling(&format!("[\"{many}\"]")));
        assert!(!is_sprawling(&format!(r#"["a\"{many}"]"#)));
        assert!(is_sprawling(&format!(r#"["a\\",{many}]"#)));
    }
}
