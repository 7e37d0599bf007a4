//! Reads from a prompt what the model shall do; pure, and the same for every API.
//!
//! | directive | answer |
//! |---|---|
//! | `ECHO: text` | the text, this line only |
//! | `ECHOALL: text…` | everything after the directive, all lines |
//! | `SLEEP n: text` | the text, streamed over n seconds |
//! | `LONG n` | n KiB of text |
//! | `TOOL: command` | a shell call, then `TOOLDONE: <its result>` |
//! | `TOOLS n: command` | n shell calls one after another, then the same |
//! | `MULTI: command` | reasoning, text and a shell call in one answer, then two texts |
//! | `MCP: server tool {…}` | a call of that MCP tool with that JSON |
//! | `RAWTOOL: name {…}` | a call of the tool of that name with that JSON; `{file}` in it is the file that holds the whole prompt |
//! | `AGENT: text` | a call that starts a subagent with that prompt |
//! | `ERR code [n]: text` | an HTTP error for the next n requests (without n: always) |
//! | `ERR 429: used up until s` | the refusal of a used up limit that ends at second `s` of the Unix epoch |
//! | `SSEERR: text` | status 200 and a failure inside the stream |
//! | `LIMIT [n]: text` | the text, cut off by the limit of output for the next n requests (without n: always), then `RESUMED: text` |
//! | `DROP: text` | half of the text, then the connection is cut |
//! | `HANG n: text` | nothing at all for n seconds, then the text |
//! | `EMPTY` | an answer without any text |
//! | `SIZE` | length and SHA-256 of the user text that arrived |
//! | `[CCB_TASK_…` | a notice: `NOTED: ` and the first line of the result it brings |
//! | none of these | `OK: ` and the last line of the user text |
//!
//! The last paragraph that opens with a directive decides, else the first line that does. Some
//! CLIs join the prompt of a failed turn and the next one with a blank line, which is why the last
//! one wins. `ECHOALL` and `SIZE` take the whole text, so they are recognized at its start only;
//! a request mark (`CCB_REQ_ID: <id>`) before them is passed over. A notice quotes somebody's answer,
//! so nothing in it is obeyed.

use std::time::Duration;

/// The line by which ccb marks the prompt of a request.
const REQUEST_MARK: &str = "CCB_REQ_ID:";

/// How a notice begins: the message that brings an answer back to the agent that asked.
const NOTICE_MARK: &str = "[CCB_TASK_";

/// How the part of a notice begins that quotes the answer.
const RESULT_MARK: &str = "Result:";

/// The line with which an obedient agent ends its answer.
const DONE_MARK: &str = "CCB_DONE:";

/// How a prompt names the file that has all of it, and how that ends.
const WHOLE_FILE: (&str, &str) = ("read all of it from the file ", "]");

/// A prompt that holds this word gets an answer without the closing line.
const FORGET_DONE: &str = "FORGET_DONE";

/// No test waits longer; a larger number is a mistake and is not taken for a directive.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Texts which CLIs put into the user's role and which no user wrote, by how they begin.
const INJECTED: &[&str] = &[
    "<system-reminder>",
    "<environment_context>",
    "# AGENTS.md",
    "<user_instructions>",
    "<local-command-",
    "<turn_aborted>",
    "<permissions instructions>",
    "[Request interrupted",
    "<recommended_plugins>",
    "<skills_instructions>",
    "<command-",
    "<task-notification>",
    "This session is being continued",
    "[Your previous response",
    "Stop hook feedback:",
    "Caveat: The messages below",
    "Output token limit hit",
    "Your response was cut off",
    "<session_context>",
    "<state_snapshot>",
    "System: Please continue",
    "[System: You previously returned",
];

/// What encloses a reminder that a CLI adds to what a user wrote.
const REMINDER: (&str, &str) = ("<system-reminder>", "</system-reminder>");

/// What a prompt asks the model to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// Answer with this line.
    Echo(String),
    /// Answer with this text of any number of lines.
    EchoAll(String),
    /// Stream `text` over the time `over`.
    Sleep {
        /// How long the whole text takes.
        over: Duration,
        /// The answer.
        text: String,
    },
    /// Answer with so many KiB.
    Long(u32),
    /// Call the shell `count` times, then report the last result.
    Shell {
        /// How many calls are made, one per answer.
        count: usize,
        /// Whether a text accompanies each call.
        announced: bool,
        /// The shell command.
        command: String,
    },
    /// Send reasoning, a text and a shell call in one answer.
    Multi(String),
    /// Call a tool of an MCP server.
    Mcp {
        /// The server's name in the CLI's configuration.
        server: String,
        /// The tool's name on that server.
        tool: String,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// Call a tool by the name the CLI offers it under.
    RawTool {
        /// The tool's name.
        name: String,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// Start a subagent with this prompt.
    Agent(String),
    /// Refuse with an HTTP error.
    Error {
        /// The HTTP status.
        code: u16,
        /// How many requests are refused before one is answered; `None` means all of them.
        times: Option<u32>,
        /// The error's message.
        text: String,
    },
    /// Begin a stream and report a failure in it.
    StreamError(String),
    /// Say that the limit of output has cut the answer off.
    Limit {
        /// How many answers are cut off before a whole one; `None` means all of them.
        times: Option<u32>,
        /// What was said until then.
        text: String,
    },
    /// Cut the connection after half of this text.
    Drop(String),
    /// Send nothing for a while, then answer.
    Hang {
        /// How long not even the status line is sent.
        wait: Duration,
        /// The answer.
        text: String,
    },
    /// Answer without any text.
    Empty,
    /// Report length and hash of what arrived.
    Size,
    /// Acknowledge the notice whose result begins with this line.
    Notice(String),
    /// No directive: acknowledge this last line of the prompt.
    Acknowledge(String),
}

/// Returns what `text`, the last text a user really wrote, asks for.
pub fn parse(text: &str) -> Directive {
    let last = last_marked(text);
    if let Some(line) = noticed(last) {
        return Directive::Notice(line.to_owned());
    }
    // A notice that was joined with a later prompt stays a quotation.
    let text = if noticed(text).is_some() { last } else { text };
    let message = without_request_mark(text);
    let takes_whole_text = message.starts_with("ECHOALL:") || message.starts_with("SIZE");
    let found = if takes_whole_text { opening(message) } else { text.rsplit("\n\n").find_map(opening) };
    let found = found
        .or_else(|| line_starts(text).find_map(opening))
        .unwrap_or_else(|| Directive::Acknowledge(last_line(text).to_owned()));
    match found {
        Directive::RawTool { name, arguments } => {
            Directive::RawTool { name, arguments: arguments.replace("{file}", whole_file(text)) }
        }
        other => other,
    }
}

/// Returns the file that is named as the one which has all of the prompt.
fn whole_file(text: &str) -> &str {
    let named = text.rsplit_once(WHOLE_FILE.0).and_then(|(_, after)| after.split_once(WHOLE_FILE.1));
    named.map_or("", |(file, _)| file)
}

/// Returns the id with which the answer has to close, when the prompt asks for one.
pub fn done_id(text: &str) -> Option<&str> {
    if text.contains(FORGET_DONE) {
        return None;
    }
    text.match_indices(DONE_MARK)
        .filter_map(|(at, mark)| {
            let rest = optional_space(&text[at + mark.len()..]);
            let id = prefix_of(rest, |c| c.is_ascii_alphanumeric() || "_.:-".contains(c));
            (!id.is_empty()).then_some(id)
        })
        .last()
}

/// Tells whether a text in the user's role was put there by the CLI itself.
pub fn is_injected(text: &str) -> bool {
    let start = text.trim_start();
    INJECTED.iter().any(|prefix| start.starts_with(prefix))
}

/// Returns `text` without the reminders that stand before and after it.
pub fn without_reminders(text: &str) -> &str {
    let mut rest = text;
    while let Some(inside) = rest.trim_start().strip_prefix(REMINDER.0) {
        let Some((_, after)) = inside.split_once(REMINDER.1) else { break };
        rest = after.trim_start();
    }
    while let Some(inside) = rest.trim_end().strip_suffix(REMINDER.1) {
        let Some((before, _)) = inside.rsplit_once(REMINDER.0) else { break };
        rest = before;
    }
    rest
}

fn without_request_mark(text: &str) -> &str {
    let text = text.trim_start();
    let after = text.strip_prefix(REQUEST_MARK).map(|rest| rest.split_once('\n').map_or("", |(_id, message)| message));
    after.unwrap_or(text).trim_start()
}

/// Returns the last of the marked prompts that a CLI has joined with blank lines, or the whole text.
fn last_marked(text: &str) -> &str {
    let mut marks = text.rmatch_indices(REQUEST_MARK);
    marks.find(|(at, _)| text[..*at].ends_with("\n\n")).map_or(text, |(at, _)| &text[at..])
}

/// Returns the first line of the result that `text` brings, if it is a notice.
fn noticed(text: &str) -> Option<&str> {
    let message = without_request_mark(text);
    let after_mark = message.strip_prefix(NOTICE_MARK)?;
    let result = line_starts(after_mark).find_map(|line| line.strip_prefix(RESULT_MARK));
    Some(result.and_then(|result| result.trim().lines().next()).unwrap_or_default().trim_end())
}

/// Returns for every line the text from its start on.
fn line_starts(text: &str) -> impl Iterator<Item = &str> {
    let later = text.match_indices('\n').map(|(at, _)| &text[at + 1..]);
    std::iter::once(text).chain(later)
}

fn last_line(text: &str) -> &str {
    let mut lines = text.trim().rsplit(['\n', '\r']);
    lines.find(|line| !line.trim().is_empty()).unwrap_or("")
}

/// Returns the directive with which `text` opens.
fn opening(text: &str) -> Option<Directive> {
    let text = text.trim_start();
    let line = text.lines().next()?;
    let word = prefix_of(line, |c| c.is_ascii_uppercase());
    let rest = &line[word.len()..];
    Some(match word {
        "ECHO" => Directive::Echo(after_colon(rest)?),
        "ECHOALL" => Directive::EchoAll(after_colon(&text[word.len()..])?),
        "SLEEP" => {
            let (number, text) = number_and_text(rest)?;
            let over = seconds(number)?;
            Directive::Sleep { over, text }
        }
        "LONG" => Directive::Long(leading_number(rest.strip_prefix(' ')?)?),
        "TOOL" => Directive::Shell { count: 1, announced: false, command: after_colon(rest)? },
        "TOOLS" => {
            let (number, command) = number_and_text(rest)?;
            let count = number.parse().ok()?;
            Directive::Shell { count, announced: true, command }
        }
        "MULTI" => Directive::Multi(after_colon(rest)?),
        "MCP" => {
            let (server, call) = rest.strip_prefix(": ")?.split_once(' ')?;
            let (tool, arguments) = name_and_json(call)?;
            let server = server.to_owned();
            Directive::Mcp { server, tool, arguments }
        }
        "RAWTOOL" => {
            let (name, arguments) = name_and_json(rest.strip_prefix(": ")?)?;
            Directive::RawTool { name, arguments }
        }
        "AGENT" => Directive::Agent(after_colon(rest)?),
        "ERR" => error(rest)?,
        "SSEERR" => Directive::StreamError(after_colon(rest)?),
        "LIMIT" => {
            let (times, text) = rest.split_once(':')?;
            let times = if times.is_empty() { None } else { Some(times.trim().parse().ok()?) };
            Directive::Limit { times, text: optional_space(text).to_owned() }
        }
        "DROP" => Directive::Drop(after_colon(rest)?),
        "HANG" => {
            let (number, text) = number_and_text(rest)?;
            let wait = seconds(number)?;
            Directive::Hang { wait, text }
        }
        "EMPTY" if rest.trim().is_empty() || rest.starts_with(':') => Directive::Empty,
        "SIZE" => Directive::Size,
        _ => return None,
    })
}

fn error(rest: &str) -> Option<Directive> {
    let (numbers, text) = number_and_text(rest)?;
    let (code, times) = match numbers.split_once(' ') {
        None => (numbers, None),
        Some((code, times)) => (code, Some(times.parse().ok()?)),
    };
    let code = code.parse().ok().filter(|code| (200..600).contains(code))?;
    Some(Directive::Error { code, times, text })
}

/// Returns until when a limit is used up whose refusal is asked for.
pub fn used_up_until(code: u16, text: &str) -> Option<u64> {
    text.strip_prefix("used up until ").filter(|_| code == 429)?.trim().parse().ok()
}

fn prefix_of(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    &text[..end]
}

fn optional_space(text: &str) -> &str {
    text.strip_prefix(' ').unwrap_or(text)
}

fn after_colon(rest: &str) -> Option<String> {
    rest.strip_prefix(':').map(|text| optional_space(text).to_owned())
}

/// Splits ` 3: text` into the number's characters and the text.
fn number_and_text(rest: &str) -> Option<(&str, String)> {
    let (number, text) = rest.strip_prefix(' ')?.split_once(':')?;
    Some((number, optional_space(text).to_owned()))
}

fn leading_number(text: &str) -> Option<u32> {
    prefix_of(text, |c| c.is_ascii_digit()).parse().ok()
}

fn seconds(number: &str) -> Option<Duration> {
    let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let value: f64 = plain.then(|| number.parse().ok())??;
    let wait = Duration::try_from_secs_f64(value).ok()?;
    (wait <= LONGEST_WAIT).then_some(wait)
}

/// Splits `name {…}` into the name and the JSON text, which is an empty object when absent.
fn name_and_json(text: &str) -> Option<(String, String)> {
    let name = prefix_of(text, |c| !c.is_whitespace());
    if name.is_empty() {
        return None;
    }
    let rest = optional_space(&text[name.len()..]);
    let json = rest.rfind('}').map(|end| &rest[..=end]);
    let json = json.filter(|json| json.starts_with('{')).unwrap_or("{}");
    Some((name.to_owned(), json.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(text: &str) -> Directive {
        Directive::Echo(text.to_owned())
    }

    fn shell(count: usize, announced: bool, command: &str) -> Directive {
        let command = command.to_owned();
        Directive::Shell { count, announced, command }
    }

    fn error(code: u16, times: Option<u32>, text: &str) -> Directive {
        let text = text.to_owned();
        Directive::Error { code, times, text }
    }

    fn mcp(server: &str, tool: &str, arguments: &str) -> Directive {
        Directive::Mcp { server: server.to_owned(), tool: tool.to_owned(), arguments: arguments.to_owned() }
    }

    fn raw_tool(name: &str, arguments: &str) -> Directive {
        Directive::RawTool { name: name.to_owned(), arguments: arguments.to_owned() }
    }

    fn acknowledge(text: &str) -> Directive {
        Directive::Acknowledge(text.to_owned())
    }

    #[test]
    fn each_directive_is_read_from_its_line() {
        let sleep = Duration::from_millis(1500);
        let hang = Duration::from_secs(2);
        let text = || "x y".to_owned();
        let table = [
            ("ECHO: x y", echo("x y")),
            ("ECHO:x y", echo("x y")),
            ("ECHO:  x", echo(" x")),
            ("  ECHO: 你好 \r\nnot this", echo("你好 ")),
            ("ECHOALL: a\n\nb: c\n", Directive::EchoAll("a\n\nb: c\n".to_owned())),
            ("SLEEP 1.5: x y", Directive::Sleep { over: sleep, text: text() }),
            ("LONG 200", Directive::Long(200)),
            ("LONG 2kb", Directive::Long(2)),
            ("TOOL: ls -l", shell(1, false, "ls -l")),
            ("TOOLS 3: ls", shell(3, true, "ls")),
            ("MULTI: x y", Directive::Multi(text())),
            (r#"MCP: s t {"a": {}} z"#, mcp("s", "t", r#"{"a": {}}"#)),
            ("MCP: s t", mcp("s", "t", "{}")),
            (r#"RAWTOOL: n {"a":1}"#, raw_tool("n", r#"{"a":1}"#)),
            ("RAWTOOL: n", raw_tool("n", "{}")),
            (r#"RAWTOOL: n {"a":"{file}"}"#, raw_tool("n", r#"{"a":""}"#)),
            (
                "RAWTOOL: n {\"a\":\"{file}\"}\n\n[… read all of it from the file /a b/c.txt]\n",
                raw_tool("n", r#"{"a":"/a b/c.txt"}"#),
            ),
            ("AGENT: x y", Directive::Agent(text())),
            ("ERR 429: x y", error(429, None, "x y")),
            ("ERR 500 2:", error(500, Some(2), "")),
            ("SSEERR: x y", Directive::StreamError(text())),
            ("LIMIT: x y", Directive::Limit { times: None, text: text() }),
            ("LIMIT 2: x y", Directive::Limit { times: Some(2), text: text() }),
            ("DROP: x y", Directive::Drop(text())),
            ("HANG 2: x y", Directive::Hang { wait: hang, text: text() }),
            ("SIZE", Directive::Size),
        ];
        for (prompt, expected) in table {
            assert_eq!(parse(prompt), expected, "{prompt:?}");
            let marked = format!("CCB_REQ_ID: 20260101-abc\n\n{prompt}\n");
            let marked = parse(&marked);
            if let Directive::EchoAll(text) = &expected {
                assert_eq!(marked, Directive::EchoAll(format!("{text}\n")));
            } else {
                assert_eq!(marked, expected, "{prompt:?} after a request mark");
            }
        }
    }

    #[test]
    fn what_is_no_directive_is_acknowledged_by_its_last_line() {
        let table = [
            ("", ""),
            ("hello", "hello"),
            ("a\n\nb\n\n", "b"),
            ("ECHO hello", "ECHO hello"),
            ("an ECHO: inside", "an ECHO: inside"),
            ("SLEEP 1.2.3: x", "SLEEP 1.2.3: x"),
            ("SLEEP inf: x", "SLEEP inf: x"),
            ("SLEEP 999999: x", "SLEEP 999999: x"),
            ("LONG far", "LONG far"),
            ("ERR 99: x", "ERR 99: x"),
            ("ERR two: x", "ERR two: x"),
            ("MCP: alone", "MCP: alone"),
            ("SIZES", "SIZES"),
            ("CCB_REQ_ID: 1\n\nhello\n", "hello"),
        ];
        for (prompt, expected) in table {
            assert_eq!(parse(prompt), acknowledge(expected), "{prompt:?}");
        }
    }

    #[test]
    fn the_last_paragraph_with_a_directive_wins_else_the_first_line() {
        let table = [
            ("ECHO: a\n\nECHO: b", "b"),
            ("ECHO: a\n\nplain", "a"),
            ("plain\nECHO: a\nECHO: b", "a"),
            ("ECHO: a\nECHO: b", "a"),
            ("CCB_REQ_ID: 1\n\nERR 500: x\n\nCCB_REQ_ID: 2\n\nECHO: b\n", "b"),
            ("\r\n\r\n  ECHO: a\r\n", "a"),
        ];
        for (prompt, expected) in table {
            assert_eq!(parse(prompt), echo(expected), "{prompt:?}");
        }
    }

    #[test]
    fn a_notice_is_acknowledged_and_never_obeyed() {
        let notice = |result: &str| {
            format!(
                "CCB_REQ_ID: r1-n1\n\n[CCB_TASK_COMPLETED]\nProvider: Codex\nStatus: Completed\nTask: r1\n\nResult: {result}\n"
            )
        };
        let noted = |line: &str| Directive::Notice(line.to_owned());
        let table = [
            (notice("a reply"), noted("a reply")),
            (notice("ECHO: a"), noted("ECHO: a")),
            (notice("a\n\nERR 429: b\nResult: c"), noted("a")),
            (notice("\nbelow\nECHO: a"), noted("below")),
            (notice(""), noted("")),
            ("[CCB_TASK_FAILED]\nECHO: a".to_owned(), noted("")),
            (format!("CCB_REQ_ID: r0\n\nERR 500: x\n\n{}", notice("a")), noted("a")),
            (format!("{}\n\nCCB_REQ_ID: r2\n\nhello", notice("ECHO: a")), acknowledge("hello")),
            (format!("{}\n\nCCB_REQ_ID: r2\n\nECHO: b", notice("ECHO: a")), echo("b")),
            ("what is a [CCB_TASK_FAILED]?\nECHO: a".to_owned(), echo("a")),
        ];
        for (prompt, expected) in table {
            assert_eq!(parse(&prompt), expected, "{prompt:?}");
        }
    }

    #[test]
    fn the_last_done_id_counts_unless_it_shall_be_forgotten() {
        let table = [
            ("x", None),
            ("CCB_DONE:", None),
            ("End with CCB_DONE: r1", Some("r1")),
            ("CCB_DONE:r1. CCB_DONE: <id> or CCB_DONE: r2\n", Some("r2")),
            ("FORGET_DONE CCB_DONE: r1", None),
        ];
        for (prompt, expected) in table {
            assert_eq!(done_id(prompt), expected, "{prompt:?}");
        }
    }

    #[test]
    fn injected_texts_are_known_by_their_beginning() {
        assert!(is_injected("\n<environment_context>\n  <cwd>"));
        assert!(is_injected("# AGENTS.md instructions"));
        assert!(is_injected("<task-notification>\n<task-id>"));
        assert!(is_injected("<session_context>\nThis is the Gemini CLI."));
        assert!(is_injected("This session is being continued from a previous conversation"));
        assert!(!is_injected("CCB_REQ_ID: 1\n\nsee # AGENTS.md"));
    }
}
