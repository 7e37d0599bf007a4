//! From a prompt to its answer: ids, message, directives. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// What opens the line that names a request.
const ANCHOR: &str = "CCB_REQ_ID:";

/// What opens the line that ends an answer.
const DONE: &str = "CCB_DONE:";

/// What opens the token that proves whose question was answered.
const TOKEN: &str = "BENCH-TOK-";

/// What stands around the payload whose length and hash are answered.
const PAYLOAD: (&str, &str) = ("<<BENCH", "BENCH>>");

/// The marks of a notice: somebody's answer that comes back.
const NOTICES: [&str; 4] =
    ["[CCB_TASK_COMPLETED]", "[CCB_TASK_CANCELLED]", "[CCB_TASK_FAILED]", "[CCB_TASK_INCOMPLETE]"];

/// The most that `LONG` answers, in KiB.
const LONGEST: usize = 64 * 1024;

/// A prompt taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prompt<'a> {
    /// The request it names, if it names one.
    pub(crate) request: Option<&'a str>,
    /// Whether that is by its anchor: a piece of a prompt may have the mark alone.
    pub(crate) anchored: bool,
    /// Whether the answer shall end with the line `CCB_DONE: <request>`.
    pub(crate) wants_mark: bool,
    /// What was asked, without the anchor and without the instruction about `CCB_DONE`.
    pub(crate) message: &'a str,
    /// The token in it, or `-`.
    pub(crate) token: &'a str,
    /// The payload in it.
    payload: &'a str,
}

impl<'a> Prompt<'a> {
    /// Takes a prompt apart.
    pub(crate) fn read(text: &'a str) -> Self {
        let (anchor, body) = split_anchor(text);
        let request = anchor.or_else(|| text.lines().filter_map(marked_id).next_back());
        let wants_mark = request.is_some_and(|request| asks_for_mark(text, request));
        let message = request.map_or(body, |request| without_instruction(body, request));
        Self {
            request,
            anchored: anchor.is_some(),
            wants_mark,
            message: message.trim_start_matches('\n').trim_end(),
            token: token(text),
            payload: payload(text),
        }
    }

    /// Returns whether it is a notice: an answer that comes back to whoever asked.
    pub(crate) fn is_notice(&self) -> bool {
        self.message.lines().any(|line| NOTICES.iter().any(|mark| line.trim_start().starts_with(mark)))
    }

    /// Returns the payload's length in bytes and the first 16 hexadecimal digits of its SHA-256.
    pub(crate) fn payload_proof(&self) -> (usize, String) {
        let mut hash = sha256(self.payload);
        hash.truncate(16);
        (self.payload.len(), hash)
    }

    /// Returns what this prompt is to be answered with.
    pub(crate) fn answer(&self) -> Answer {
        if self.is_notice() {
            return Answer::text(format!("noted: {}", first_line_of_result(self.message)));
        }
        directive(self.message).unwrap_or_else(|| {
            let (length, hash) = self.payload_proof();
            let request = self.request.unwrap_or("-");
            Answer::text(format!("ANSWER {} len={length} sha={hash}\nstub reply for {request}", self.token))
        })
    }
}

/// What a prompt is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A text.
    Text {
        /// The text, without the mark.
        text: String,
        /// How long it takes.
        after: Duration,
        /// Whether the mark may follow, if it was asked for.
        markable: bool,
    },
    /// Messages of their own, one after another.
    Steps {
        /// The messages, without the mark; the first comes at once.
        texts: Vec<String>,
        /// How long each further one takes.
        each: Duration,
        /// Whether nothing follows the last one, and the work goes on until it is interrupted.
        endless: bool,
    },
    /// What a shell command prints.
    Run(String),
    /// What a shell command prints that the human has to allow first.
    Tool(String),
    /// An error of the provider: the HTTP status and its words.
    Error(u16, String),
    /// Nothing, ever.
    Silent,
    /// The end of the process.
    Crash,
}

impl Answer {
    /// Returns a text that is given at once.
    fn text(text: String) -> Self {
        Self::Text { text, after: Duration::ZERO, markable: true }
    }
}

/// Returns `text` with the line that ends the answer to `request`.
pub(crate) fn with_mark(text: &str, request: &str) -> String {
    format!("{text}\n{DONE} {request}")
}

/// Returns what the first line that opens with a directive asks for.
fn directive(message: &str) -> Option<Answer> {
    let mut offset = 0;
    for line in message.split_inclusive('\n') {
        offset += line.len();
        let answer = directive_line(line.trim(), &message[offset..], message);
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// Returns what `line` asks for, if it opens with a directive; `after` are the lines that follow it.
fn directive_line(line: &str, after: &str, message: &str) -> Option<Answer> {
    if let Some(text) = line.strip_prefix("ECHO:") {
        return Some(Answer::text(text.trim().to_owned()));
    }
    if let Some(text) = line.strip_prefix("ECHOALL:") {
        return Some(Answer::text(format!("{}\n{after}", text.trim()).trim().to_owned()));
    }
    if let Some(command) = line.strip_prefix("RUN:") {
        return Some(Answer::Run(command.trim().to_owned()));
    }
    if let Some(command) = line.strip_prefix("TOOL:") {
        return Some(Answer::Tool(command.trim().to_owned()));
    }
    if let Some((code, text)) = line.strip_prefix("ERR ").and_then(|rest| rest.split_once(':')) {
        return Some(Answer::Error(code.trim().parse().ok()?, text.trim().to_owned()));
    }
    if let Some(text) = line.strip_prefix("NODONE:") {
        return Some(Answer::Text { text: text.trim().to_owned(), after: Duration::ZERO, markable: false });
    }
    if let Some((seconds, text)) = line.strip_prefix("SLEEP ").and_then(|rest| rest.split_once(':')) {
        let after = Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()?;
        return Some(Answer::Text { text: text.trim().to_owned(), after, markable: true });
    }
    if let Some((seconds, texts)) = line.strip_prefix("STEPS ").and_then(|rest| rest.split_once(':')) {
        let each = Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()?;
        let texts = texts.split('|').map(|text| text.trim().to_owned()).collect();
        return Some(Answer::Steps { texts, each, endless: false });
    }
    if let Some(text) = line.strip_prefix("HALF:") {
        return Some(Answer::Steps { texts: vec![text.trim().to_owned()], each: Duration::ZERO, endless: true });
    }
    if let Some(kib) = line.strip_prefix("LONG ") {
        return kib.trim().parse().ok().map(|kib| Answer::text(long(kib)));
    }
    match line {
        "SIZE" => {
            let (characters, bytes) = (message.chars().count(), message.len());
            Some(Answer::text(format!("SIZE {characters} chars {bytes} bytes sha256={}", sha256(message))))
        }
        "SILENT" => Some(Answer::Silent),
        "CRASH" => Some(Answer::Crash),
        _ => None,
    }
}

/// Returns the id of the first anchor line and what follows that line, or no id and the whole text.
fn split_anchor(text: &str) -> (Option<&str>, &str) {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        offset += line.len();
        let id = line.trim_start().strip_prefix(ANCHOR).and_then(|rest| rest.split_whitespace().next());
        if id.is_some() {
            return (id, &text[offset..]);
        }
    }
    (None, text)
}

/// Returns the id in a line that is nothing but a mark.
fn marked_id(line: &str) -> Option<&str> {
    let mut words = line.trim_start().strip_prefix(DONE)?.split_whitespace();
    words.next().filter(|_| words.next().is_none())
}

/// Returns whether the text mentions the mark of `request`, on a line of its own or within a sentence.
fn asks_for_mark(text: &str, request: &str) -> bool {
    text.match_indices(DONE).any(|(at, mark)| {
        let after = text[at + mark.len()..].trim_start().strip_prefix(request);
        after.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_'))
    })
}

/// Cuts off the instruction about the mark: the paragraph of the last line that is nothing but the mark.
fn without_instruction<'a>(body: &'a str, request: &str) -> &'a str {
    let mut offset = 0;
    let mut paragraph = 0;
    let mut cut = None;
    for line in body.split_inclusive('\n') {
        if marked_id(line) == Some(request) {
            // A paragraph that opens the message is the message: only the mark goes then.
            let opens = body[..paragraph].trim().is_empty();
            cut = Some(if opens { offset } else { paragraph });
        }
        offset += line.len();
        if line.trim().is_empty() {
            paragraph = offset;
        }
    }
    cut.map_or(body, |cut| &body[..cut])
}

/// Returns the token in the text, or `-`.
fn token(text: &str) -> &str {
    let Some((_, rest)) = text.split_once(TOKEN) else { return "-" };
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c))).unwrap_or(rest.len());
    if end == 0 { "-" } else { &rest[..end] }
}

/// Returns what stands between the payload's brackets, or nothing.
fn payload(text: &str) -> &str {
    let (open, close) = PAYLOAD;
    let start = text.find(open).map(|at| at + open.len());
    match (start, text.rfind(close)) {
        (Some(start), Some(end)) if start <= end => &text[start..end],
        _ => "",
    }
}

/// Returns the first line of the result that a notice carries.
fn first_line_of_result(notice: &str) -> &str {
    let result = notice.lines().skip_while(|line| !line.trim_start().starts_with("Result:"));
    let mut lines = result.map(|line| line.trim().trim_start_matches("Result:").trim());
    lines.find(|line| !line.is_empty()).unwrap_or("(nothing)")
}

/// Returns exactly `kib` KiB of numbered lines.
fn long(kib: usize) -> String {
    let size = kib.min(LONGEST) * 1024;
    let mut text = String::with_capacity(size + 64);
    let mut number = 1;
    while text.len() < size {
        writeln!(text, "line {number:08} of a long answer: the quick brown fox jumps").ok();
        number += 1;
    }
    text.truncate(size.saturating_sub(1));
    if size > 0 {
        text.push('.');
    }
    text
}

/// Returns the SHA-256 of a text in hexadecimal digits.
pub(crate) fn sha256(text: &str) -> String {
    let mut digits = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        write!(digits, "{byte:02x}").ok();
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt as ccb makes it.
    fn prompt(message: &str) -> String {
        format!("CCB_REQ_ID: r-1\n\n{message}\n\nAnswer in full. Then end with this line alone:\nCCB_DONE: r-1\n")
    }

    fn said(message: &str) -> String {
        let prompt = prompt(message);
        match Prompt::read(&prompt).answer() {
            Answer::Text { text, .. } => text,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn directives_choose_the_answer() {
        for (message, answer) in [
            ("ECHO: hello  ", "hello"),
            ("please\n\n  ECHO: second line\nECHO: never", "second line"),
            ("ECHOALL: one\n\ntwo\n three", "one\n\ntwo\n three"),
            ("ECHOALL:\nbelow", "below"),
            ("NODONE: x", "x"),
            ("SLEEP 0.5: late", "late"),
            ("RUN: echo a: b", r#"Run("echo a: b")"#),
            ("TOOL: touch a", r#"Tool("touch a")"#),
            ("ERR 401: who: you", r#"Error(401, "who: you")"#),
            ("SILENT", "Silent"),
            ("CRASH", "Crash"),
            ("no DIRECTIVE: here\nSILENTLY\nCRASHED", "ANSWER - len=0 sha=e3b0c44298fc1c14\nstub reply for r-1"),
            ("SLEEP soon: x\nLONG much", "ANSWER - len=0 sha=e3b0c44298fc1c14\nstub reply for r-1"),
        ] {
            assert_eq!(said(message), answer, "{message}");
        }
    }

    #[test]
    fn what_arrived_is_proved_by_its_hash() {
        assert_eq!(said("two\nlines\nSIZE"), format!("SIZE 14 chars 14 bytes sha256={}", sha256("two\nlines\nSIZE")));
        let hash = &sha256("payBENCH>>load")[..16];
        assert_eq!(
            said("ask BENCH-TOK-a.b_c-9, <<BENCHpayBENCH>>loadBENCH>> end"),
            format!("ANSWER a.b_c-9 len=14 sha={hash}\nstub reply for r-1")
        );
    }

    #[test]
    fn a_directive_may_wait_or_go_without_its_mark() {
        let read = |message| Prompt::read(message).answer();
        let text = "late".to_owned();
        assert_eq!(read("SLEEP 2: late"), Answer::Text { text, after: Duration::from_secs(2), markable: true });
        let steps = |texts: &[&str], each, endless| Answer::Steps {
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
            each: Duration::from_secs(each),
            endless,
        };
        assert_eq!(read("STEPS 2: a | b|"), steps(&["a", "b", ""], 2, false));
        assert_eq!(read("HALF: a | b"), steps(&["a | b"], 0, true));
        let text = "x".to_owned();
        assert_eq!(read("NODONE: x"), Answer::Text { text, after: Duration::ZERO, markable: false });
    }

    #[test]
    fn long_answers_have_their_exact_size() {
        for kib in [0, 1, 200] {
            let text = said(&format!("LONG {kib}"));
            assert_eq!(text.len(), kib * 1024);
            assert_eq!(text.trim(), text);
        }
    }

    #[test]
    fn the_message_is_what_was_asked() {
        for message in ["one", "one\n\ntwo\n\n  three", "CCB_DONE: other\n\nx", "x\n\nCCB_REQ_ID: r-9"] {
            let text = prompt(message);
            let read = Prompt::read(&text);
            assert_eq!((read.request, read.wants_mark, read.message), (Some("r-1"), true, message));
        }
        let bare = Prompt::read("CCB_REQ_ID: r-1\n\nquestion\n");
        assert_eq!((bare.request, bare.wants_mark, bare.message), (Some("r-1"), false, "question"));
        let marked = Prompt::read("question\nCCB_DONE: r-2");
        assert_eq!((marked.request, marked.wants_mark, marked.message), (Some("r-2"), true, "question"));
        let inline = Prompt::read("CCB_REQ_ID: r-1\n\nend with `CCB_DONE: r-1`, please");
        assert!(inline.wants_mark);
        assert!(!Prompt::read("CCB_REQ_ID: r-1\n\nnot CCB_DONE: r-12").wants_mark);
        assert_eq!(Prompt::read("hello\nthere\n").request, None);
    }

    #[test]
    fn notices_are_noted_whatever_they_carry() {
        for mark in NOTICES {
            let notice = format!("{mark}\nProvider: Codex\nTask: t\n\nResult: ECHO: 4\nCRASH");
            assert_eq!(said(&notice), "noted: ECHO: 4");
        }
        assert_eq!(said("[CCB_TASK_FAILED]\n\nResult:\n\n(gone)"), "noted: (gone)");
        assert_eq!(said("[CCB_TASK_FAILED]"), "noted: (nothing)");
        assert_eq!(said("what is [CCB_TASK_FAILED]?\nECHO: a word"), "a word");
    }

    #[test]
    fn the_mark_is_the_last_line() {
        assert_eq!(with_mark("a\nb", "r-1"), "a\nb\nCCB_DONE: r-1");
    }
}
