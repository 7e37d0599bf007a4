//! `ask <agent> [message…]`: hands a request over, and brings the answer if it is waited for.

pub(super) mod options;
mod several;
pub(super) mod wait;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _};

use ccb_core::wire::{Accepted, Ask, LINE_LIMIT};

use self::options::{Line, Mode, Options, USAGE};
use self::wait::Submission;
use crate::connect::{Askd, DEADLINE};
use crate::connection::Connection;
use crate::error::{CliError, note};
use crate::wake::Patience;
use crate::{Context, clock, display, exit, output};

/// What an agent is told when its request is on its way. It must end its turn: only then can the answer come.
const MANDATORY: &str = "MANDATORY: end your turn now, without waiting, polling or answering in the other agent's \
                         place; the answer will come to you by itself, as a new message.";

pub(crate) fn run(context: &Context, args: Vec<OsString>) -> Result<u8, CliError> {
    let options = match options::parse(args)? {
        Line::Ask(options) => options,
        Line::Help => {
            output::print(USAGE)?;
            return Ok(exit::OK);
        }
    };
    let message = message(&options)?;
    let askd = Askd::here(context)?;
    let connection = askd.find_or_start(Patience::of(DEADLINE)).map_err(|error| askd.explain(error))?;
    let asker = connection.you.as_ref().map(|agent| agent.as_str().to_owned()).or_else(|| askd.caller.clone());
    let mode = options.mode(&context.environment, asker.is_some());
    check_output(mode, &options)?;
    if several::is_meant(&options.agent)
        && let Some(agents) = several::agents(&askd, &options.agent, asker.as_deref())?
    {
        let ask = |agent: &several::Known| call(&askd, &options, agent.name.to_string(), message.clone(), mode);
        let calls: Vec<Ask> = agents.iter().map(ask).collect();
        return match mode {
            Mode::Wait => several::wait(&askd, &agents, calls, &options),
            Mode::Async => several::submit(&askd, &calls, &options),
        };
    }
    let ask = call(&askd, &options, options.agent.clone(), message, mode);
    submit(&askd, connection, Submission::Ask(ask), mode, &options)
}

/// Hands a request over, and waits for its answer if that is wanted.
pub(super) fn submit(
    askd: &Askd,
    connection: Connection,
    submission: Submission,
    mode: Mode,
    options: &Options,
) -> Result<u8, CliError> {
    if mode == Mode::Wait {
        return wait::run(askd, connection, submission, options);
    }
    let accepted = match &submission {
        Submission::Ask(ask) => askd.call_on(connection, ask)?,
        Submission::Retry(retry) => askd.call_on(connection, retry)?,
    };
    accepted.note.iter().for_each(|text| note(text));
    output::show(options.json, &accepted, |accepted| format!("{}\n{MANDATORY}", submitted(accepted)))
}

/// Refuses a file for an answer that is not waited for.
pub(super) fn check_output(mode: Mode, options: &Options) -> Result<(), CliError> {
    if mode == Mode::Async && options.output.is_some() {
        return Err(CliError::new("`--output` is for an answer that is waited for").hint("add `--wait`"));
    }
    Ok(())
}

/// Returns the call that asks an agent.
fn call(askd: &Askd, options: &Options, agent: String, message: String, mode: Mode) -> Ask {
    Ask {
        id: clock::request_id(),
        agent,
        message,
        timeout_s: options.timeout_s,
        caller: askd.caller.clone(),
        no_wrap: options.no_wrap,
        waits: mode == Mode::Wait,
    }
}

/// Returns the lines by which CCB 5.2 says that a request is on its way.
fn submitted(accepted: &Accepted) -> String {
    let Accepted { id, agent, provider, .. } = accepted;
    let name = display::agent_name(agent.as_str(), provider);
    format!("[CCB_ASYNC_SUBMITTED provider={agent}]\n{name} processing (task: {id})")
}

/// Returns the message: the words given, or standard input.
fn message(options: &Options) -> Result<String, CliError> {
    let hint = "`ask <agent> <message>`, or a message on standard input";
    let text = match &options.message {
        Some(words) => words.clone(),
        None if io::stdin().is_terminal() => return Err(CliError::new("no message is given").hint(hint)),
        None => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().take(LINE_LIMIT as u64).read_to_end(&mut bytes);
            read.map_err(|error| CliError::new(format!("cannot read the message from standard input: {error}")))?;
            decode(&bytes).trim().to_owned()
        }
    };
    if text.trim().is_empty() { Err(CliError::new("the message is empty").hint(hint)) } else { Ok(text) }
}

/// Reads text that may say by its first bytes what it is; else it is UTF-8, as far as it is.
fn decode(bytes: &[u8]) -> String {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match bytes {
        [0xff, 0xfe, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => utf16(text, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, text @ ..] | text => String::from_utf8_lossy(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccb_core::id::AgentName;
    use ccb_core::id::RequestId;

    #[test]
    fn the_predecessors_lines_are_kept() {
        let mut accepted = Accepted {
            id: RequestId::new("20261122-205301-123-4711-1").unwrap(),
            agent: AgentName::new("codex").unwrap(),
            provider: "codex".into(),
            repeated: false,
            state: "queued".into(),
            why: String::new(),
            note: None,
        };
        insta::assert_snapshot!(format!("{}\n{MANDATORY}", submitted(&accepted)), @r#"
        [CCB_ASYNC_SUBMITTED provider=codex]
        Codex processing (task: 20261122-205301-123-4711-1)
        MANDATORY: end your turn now, without waiting, polling or answering in the other agent's place; the answer will come to you by itself, as a new message.
        "#);
        accepted.agent = AgentName::new("reviewer").unwrap();
        accepted.provider = "claude".into();
        insta::assert_snapshot!(submitted(&accepted), @r#"
        [CCB_ASYNC_SUBMITTED provider=reviewer]
        reviewer (Claude) processing (task: 20261122-205301-123-4711-1)
        "#);
    }

    #[test]
    fn messages_are_read_in_what_their_first_bytes_say() {
        let table: [(&[u8], &str); 5] = [
            (b"plain \xc3\xa4", "plain ä"),
            (b"\xef\xbb\xbfmarked", "marked"),
            (b"\xff\xfeh\0i\0", "hi"),
            (b"\xfe\xff\0h\0i", "hi"),
            (b"bad \xff", "bad \u{fffd}"),
        ];
        for (bytes, want) in table {
            assert_eq!(decode(bytes), want);
        }
    }
}
