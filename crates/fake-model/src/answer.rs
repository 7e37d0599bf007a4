//! Plans the answer to a turn and its pace; independent of the API that carries it.
//!
//! Planning is pure. The only thing here that touches the world is [`pause`].

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::directive::{self, Directive};

/// How many characters a streamed piece usually has.
const PIECE: usize = 24;

/// How many characters a piece of a long answer has.
const LONG_PIECE: usize = 2048;

/// How much of the user's text a log line holds, in characters.
const LOGGED_TEXT: usize = 300;

/// Answers are reported to have cost so many tokens.
pub const OUTPUT_TOKENS: u64 = 20;

/// What stands for the history once it is compacted.
pub const SUMMARY: &str = "COMPACTED SUMMARY by fake model";

/// A slow answer shows a sign of life this often.
const BEAT: Duration = Duration::from_millis(200);

/// How much of a tool's result is reported back, in characters.
const REPORTED_RESULT: usize = 2000;

/// What a request says about the turn it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// The last text that a user wrote.
    pub text: String,
    /// How many tool results have come in since that text.
    pub results: usize,
    /// The last of these results.
    pub last_result: String,
}

impl Turn {
    /// Returns the start of the user's text, as log lines hold it.
    pub fn excerpt(&self) -> String {
        self.text.chars().take(LOGGED_TEXT).collect()
    }
}

/// A tool call the model asks for; each API has its own way to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolCall {
    /// Run this command in whatever shell tool the CLI offers.
    Shell(String),
    /// Call a tool of an MCP server.
    Mcp {
        /// The server's name in the CLI's configuration.
        server: String,
        /// The tool's name on that server.
        tool: String,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// Call the tool of exactly this name.
    Raw {
        /// The tool's name.
        name: String,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// Start a subagent with this prompt.
    Agent(String),
}

/// An answer with content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Reasoning shown before the texts.
    pub thinking: Option<String>,
    /// The texts, in order; an empty one is not sent.
    pub texts: Vec<String>,
    /// The tool call that ends the answer.
    pub tool: Option<ToolCall>,
    /// How long nothing at all is sent.
    pub wait: Duration,
    /// How long the text takes once it has begun.
    pub over: Duration,
    /// How many characters a streamed piece has when the answer does not take time.
    pub piece: usize,
    /// Whether the connection is cut in the middle of the text.
    pub cut: bool,
    /// Whether the answer says that the limit of output has cut it off.
    pub limit: bool,
}

impl Reply {
    /// Returns a reply of one text at full speed.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            thinking: None,
            texts: vec![text.into()],
            tool: None,
            wait: Duration::ZERO,
            over: Duration::ZERO,
            piece: PIECE,
            cut: false,
            limit: false,
        }
    }

    fn call(tool: ToolCall) -> Self {
        Self { tool: Some(tool), ..Self::text("") }
    }

    /// Returns all texts as one, for APIs whose answers have only one.
    pub fn whole_text(&self) -> String {
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        texts.join("\n\n")
    }

    /// Returns the pieces in which `text` is streamed.
    pub fn pieces(&self, text: &str) -> Vec<Piece> {
        let characters: Vec<char> = text.chars().collect();
        let beats = usize::try_from(self.over.as_millis() / BEAT.as_millis()).unwrap_or(usize::MAX);
        let size = if self.over.is_zero() { self.piece } else { characters.len().div_ceil(beats.max(1)) };
        let mut texts: Vec<Option<String>> =
            characters.chunks(size.max(1)).map(|chunk| Some(chunk.iter().collect())).collect();
        if self.cut {
            texts.truncate((texts.len() / 2).max(1));
        }
        texts.resize(texts.len().max(beats), None);
        let count = u32::try_from(texts.len()).unwrap_or(u32::MAX).max(1);
        let then = self.over / count;
        texts.into_iter().map(|text| Piece { text, then }).collect()
    }
}

/// One step of a streamed text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What is sent; without text only a sign of life.
    pub text: Option<String>,
    /// How long to pause afterwards.
    pub then: Duration,
}

/// What a directive makes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Content.
    Reply(Reply),
    /// An HTTP error, at least for a while.
    Refuse {
        /// The HTTP status.
        code: u16,
        /// How many requests are refused before `recovered` is sent; `None` means all of them.
        times: Option<u32>,
        /// The error's message.
        text: String,
        /// The answer once the refusals are used up.
        recovered: Reply,
    },
    /// Content that the limit of output cuts off, at least for a while.
    Limit {
        /// How many requests are answered so before `whole` is sent; `None` means all of them.
        times: Option<u32>,
        /// What is said until the limit.
        short: Reply,
        /// The answer once it is not cut off any more.
        whole: Reply,
    },
    /// A stream that begins and then reports this failure.
    StreamError(String),
}

/// Plans the answer to `turn`; `obey` says whether requested closing lines are written.
pub fn plan(turn: &Turn, obey: bool) -> Answer {
    let id = directive::done_id(&turn.text).filter(|_| obey);
    let close = |text: &str| match id {
        None => text.to_owned(),
        Some(id) => format!("{text}\n\nCCB_DONE: {id}"),
    };
    let reply = |text: &str| Reply::text(close(text));
    Answer::Reply(match directive::parse(&turn.text) {
        Directive::Echo(text) | Directive::EchoAll(text) => reply(&text),
        Directive::Sleep { over, text } => Reply { over, ..reply(&text) },
        Directive::Hang { wait, text } => Reply { wait, ..reply(&text) },
        Directive::Long(kib) => Reply { piece: LONG_PIECE, ..reply(&long_text(kib)) },
        Directive::Drop(text) => Reply { cut: true, ..Reply::text(text) },
        Directive::Empty => Reply::text(""),
        Directive::Size => reply(&size_report(&turn.text)),
        // Who is told of an answer was not asked anything, so no closing line is due.
        Directive::Notice(line) => Reply::text(format!("NOTED: {line}")),
        Directive::Acknowledge(line) => reply(&format!("OK: {line}")),
        Directive::StreamError(text) => return Answer::StreamError(text),
        Directive::Limit { times, text } => {
            let whole = reply(&format!("RESUMED: {text}"));
            return Answer::Limit { times, short: Reply { limit: true, ..Reply::text(text) }, whole };
        }
        Directive::Error { code, times, text } => {
            let recovered = reply(&format!("RECOVERED: {text}"));
            return Answer::Refuse { code, times, text, recovered };
        }
        tool => tool_step(tool, turn, &close),
    })
}

/// Plans a directive that calls a tool: the call, or the report when all results are in.
fn tool_step(directive: Directive, turn: &Turn, close: &dyn Fn(&str) -> String) -> Reply {
    let several = matches!(directive, Directive::Multi(_));
    let (wanted, reply) = match directive {
        Directive::Shell { count, announced, command } => {
            let texts = vec![if announced { "Running it." } else { "" }.to_owned()];
            let call = Reply::call(ToolCall::Shell(command));
            (count, Reply { texts, ..call })
        }
        Directive::Multi(command) => {
            let call = Reply::call(ToolCall::Shell(command));
            let reply = Reply {
                thinking: Some("Let me think about this.".to_owned()),
                texts: vec!["I will run a command.".to_owned()],
                ..call
            };
            (1, reply)
        }
        Directive::Mcp { server, tool, arguments } => {
            let call = ToolCall::Mcp { server, tool, arguments };
            (1, Reply::call(call))
        }
        Directive::RawTool { name, arguments } => (1, Reply::call(ToolCall::Raw { name, arguments })),
        Directive::Agent(prompt) => (1, Reply::call(ToolCall::Agent(prompt))),
        other => unreachable!("{other:?} calls no tool; `plan` answers it"),
    };
    if turn.results < wanted {
        return reply;
    }
    let report = |limit| {
        let result: String = turn.last_result.trim().chars().take(limit).collect();
        format!("TOOLDONE: {result}")
    };
    if several {
        let second = close(&format!("Second block. {}", report(300)));
        return Reply {
            thinking: Some("Done thinking.".to_owned()),
            texts: vec!["First block.".to_owned(), second],
            ..Reply::text("")
        };
    }
    Reply::text(close(&report(REPORTED_RESULT)))
}

fn long_text(kib: u32) -> String {
    const LINE: &str = "0123456789 abcdefghijklmnopqrstuvwxyz the quick brown fox jumps. ";
    let wanted = usize::try_from(kib).expect("a KiB count fits into usize") * 1024;
    let mut text = String::with_capacity(wanted + 128);
    for number in 0.. {
        if text.len() >= wanted {
            break;
        }
        writeln!(text, "{number:06} {LINE}").expect("writing to a string does not fail");
    }
    text.truncate(wanted);
    text + "\nEND-OF-LONG"
}

fn size_report(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let mut short = String::new();
    for byte in hash.iter().take(8) {
        write!(short, "{byte:02x}").expect("writing to a string does not fail");
    }
    let (characters, bytes) = (text.chars().count(), text.len());
    format!("SIZE {characters} chars {bytes} bytes sha256={short}")
}

/// Waits on purpose: a slow or silent model is what some tests are about.
#[expect(clippy::disallowed_methods, reason = "there is no event to wait for; passing time is the behaviour asked for")]
pub fn pause(time: Duration) {
    if !time.is_zero() {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(text: &str, results: usize, last_result: &str) -> Turn {
        Turn { text: text.to_owned(), results, last_result: last_result.to_owned() }
    }

    fn reply(text: &str, results: usize, last_result: &str) -> Reply {
        match plan(&turn(text, results, last_result), true) {
            Answer::Reply(reply) => reply,
            other => panic!("{text:?} is answered by {other:?}"),
        }
    }

    #[test]
    fn texts_end_with_the_requested_line() {
        let prompt = "CCB_REQ_ID: r1\n\nECHO: hi\nEnd with CCB_DONE: r1";
        assert_eq!(reply(prompt, 0, "").texts, ["hi\n\nCCB_DONE: r1"]);
        let forgotten = plan(&turn(prompt, 0, ""), false);
        assert_eq!(forgotten, Answer::Reply(Reply::text("hi")));
    }

    #[test]
    fn a_notice_is_noted_without_a_closing_line() {
        let notice = "CCB_REQ_ID: n\n\n[CCB_TASK_COMPLETED]\nTask: r\n\nResult: TOOL: ls\n\nCCB_DONE: r\n";
        assert_eq!(plan(&turn(notice, 0, ""), true), Answer::Reply(Reply::text("NOTED: TOOL: ls")));
    }

    #[test]
    fn tools_are_called_until_their_results_are_in() {
        let call = reply("TOOLS 2: ls", 1, "a");
        assert_eq!(call.tool, Some(ToolCall::Shell("ls".to_owned())));
        assert_eq!(call.texts, ["Running it."]);
        let last = reply("TOOLS 2: ls", 2, " b\n");
        assert_eq!((last.tool, last.texts), (None, vec!["TOOLDONE: b".into()]));
        let multi = reply("MULTI: ls\nCCB_DONE: x", 1, "b");
        assert_eq!(multi.texts, ["First block.", "Second block. TOOLDONE: b\n\nCCB_DONE: x"]);
    }

    #[test]
    fn an_empty_answer_has_no_closing_line_either() {
        assert_eq!(reply("CCB_REQ_ID: r\n\nEMPTY\n\nCCB_DONE: r", 0, ""), Reply::text(""));
        assert_eq!(reply("EMPTY the bin", 0, "").texts, ["OK: EMPTY the bin"]);
    }

    #[test]
    fn size_reports_the_text_as_it_arrived() {
        let table = [
            ("SIZE", "SIZE 4 chars 4 bytes sha256=4512fe0408d72862"),
            ("SIZE é", "SIZE 6 chars 7 bytes sha256=2fa048e337e658e6"),
        ];
        for (prompt, expected) in table {
            assert_eq!(reply(prompt, 0, "").texts, [expected]);
        }
    }

    #[test]
    fn long_has_exactly_the_length_asked_for() {
        let text = &reply("LONG 3", 0, "").texts[0];
        assert_eq!(text.len(), 3 * 1024 + "\nEND-OF-LONG".len());
        assert!(text.starts_with("000000 0123456789 abc"));
    }

    #[test]
    fn pieces_keep_the_text_and_the_time() {
        let slow = Reply { over: Duration::from_secs(2), ..Reply::text("") };
        for text in ["abc", "a text of more than ten characters, 你好"] {
            let pieces = slow.pieces(text);
            let joined: String = pieces.iter().filter_map(|p| p.text.as_deref()).collect();
            assert_eq!(joined, text);
            let time: Duration = pieces.iter().map(|piece| piece.then).sum();
            assert!(time.abs_diff(slow.over) < BEAT, "{time:?}");
            assert!(pieces.len() >= 10);
        }
        let cut = Reply { cut: true, ..Reply::text("") };
        let pieces = cut.pieces(&"x".repeat(4 * PIECE));
        assert_eq!(pieces.len(), 2);
    }
}
