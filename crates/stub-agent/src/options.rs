//! The command line, parsed by hand: the crate wants no more dependencies than it needs.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
A stand-in for an AI coding agent's command line, for tests.

Usage: stub-agent [OPTIONS] [-- IGNORED...]

  --provider P        whose records to write: codex (default), claude, droid, gemini, opencode, none
  --name N            shown in the title line (default: the provider)
  --transcript FILE   where the records go, instead of CODEX_LOG_PATH, CLAUDE_SESSION_PATH,
                      DROID_SESSION_PATH or GEMINI_SESSION_PATH
  --events FILE       one JSON line per event, instead of BENCH_EVENTS
  --ctl FILE          JSON {\"mode\",\"delay\",\"foreign\"}, read again for each prompt, instead of BENCH_CTL;
                      mode: normal, omit_done, foreign_done, silent, crash
  --delay SECONDS     how long each answer takes
  --ready-delay SECONDS  how long it starts, before it reads its terminal
  --ui drawn|plain    a drawn interface (default), or one line per event
  --draft TEXT        what a human has already typed into the composer
  --dialog-on-paste   each paste opens a dialog over the composer; Enter in it is the event dialog_enter
  --lose-pastes N     the first N pastes are lost, each with the event paste_lost
  --lose-enters N     the first N Enters at a composer with text are lost, each with the event enter_lost
  --keys FILE         one JSON line for everything read from the terminal
  -h, --help          this text

Whatever follows `--` is ignored, but stands in the event start. `/new` begins another session, with the event
new_session. Only with the provider droid and its own option --append-system-prompt-file there, its --settings,
--resume and HOME count: it then keeps its session where Droid does, and calls its hooks. If `exec` follows first, it
is `droid exec` over stream JSON-RPC; with `app-server` there, it is Codex's.

A line of the message that opens with one of these chooses the answer:
  ECHO: text          text
  ECHOALL: text...    text and everything after it
  SLEEP n: text       text, after n seconds
  LONG n              n KiB of text
  SIZE                length and SHA-256 of the message
  RUN: command        what `sh -c command` prints
  TOOL: command       the same, if it is allowed in a dialog: Enter or y, n or Escape
  ERR code: text      none: an error of the provider, in the records of Droid's session
  SILENT              none: works until interrupted
  STEPS n: a | b | c  messages of their own, n seconds apart; the last one ends the turn
  HALF: text          text, and then works on until interrupted
  NODONE: text        text, without the CCB_DONE line that was asked for
  CRASH               none: exits with status 3
Otherwise: ANSWER <token> len=<n> sha=<16 hex digits>
";

/// Whose record formats are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// Codex's rollout lines.
    Codex,
    /// Claude's session lines, as CCB 5.2's stubs wrote them.
    Claude,
    /// Droid's session lines.
    Droid,
    /// Gemini's chat file, rewritten whole.
    Gemini,
    /// `OpenCode`'s storage directory.
    OpenCode,
    /// No records at all.
    None,
}

impl Provider {
    /// Returns the provider's name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Codex => "codex",
            Self::Claude => "claude",
            Self::Droid => "droid",
            Self::Gemini => "gemini",
            Self::OpenCode => "opencode",
            Self::None => "none",
        }
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Codex, Self::Claude, Self::Droid, Self::Gemini, Self::OpenCode, Self::None]
            .into_iter()
            .find(|provider| provider.name() == name)
            .ok_or_else(|| format!("no provider is named '{name}'"))
    }
}

/// What stands on the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ui {
    /// Title, conversation, composer, status line.
    Drawn,
    /// One line per event.
    Plain,
}

/// The command line's choices.
#[derive(Debug)]
pub(crate) struct Options {
    /// `--provider`
    pub(crate) provider: Provider,
    /// `--name`
    pub(crate) name: String,
    /// `--transcript`
    pub(crate) transcript: Option<PathBuf>,
    /// `--events`
    pub(crate) events: Option<PathBuf>,
    /// `--ctl`
    pub(crate) control: Option<PathBuf>,
    /// `--keys`
    pub(crate) keys: Option<PathBuf>,
    /// `--delay`
    pub(crate) delay: Duration,
    /// `--ready-delay`
    pub(crate) ready_delay: Duration,
    /// `--ui`
    pub(crate) ui: Ui,
    /// `--draft`
    pub(crate) draft: String,
    /// `--dialog-on-paste`
    pub(crate) dialog_on_paste: bool,
    /// `--lose-enters`
    pub(crate) lose_enters: u32,
    /// `--lose-pastes`
    pub(crate) lose_pastes: u32,
    /// What followed `--`.
    pub(crate) ignored: Vec<String>,
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// The usage text.
    Help,
    /// A run.
    Run(Box<Options>),
}

/// Parses the arguments after the program's name, or says what is wrong with them.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Parsed, String> {
    let mut options = Options {
        provider: Provider::Codex,
        name: String::new(),
        transcript: None,
        events: path_from_environment("BENCH_EVENTS"),
        control: path_from_environment("BENCH_CTL"),
        keys: None,
        delay: Duration::ZERO,
        ready_delay: Duration::ZERO,
        ui: Ui::Drawn,
        draft: String::new(),
        dialog_on_paste: false,
        lose_enters: 0,
        lose_pastes: 0,
        ignored: Vec::new(),
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (option, inline) = match arg.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| args.next()).ok_or_else(|| format!("{option} wants a value"));
        match option {
            "-h" | "--help" => return Ok(Parsed::Help),
            "--provider" => options.provider = value()?.parse()?,
            "--name" => options.name = value()?,
            "--transcript" => options.transcript = Some(value()?.into()),
            "--events" => options.events = Some(value()?.into()),
            "--ctl" => options.control = Some(value()?.into()),
            "--keys" => options.keys = Some(value()?.into()),
            "--delay" => options.delay = seconds(&value()?)?,
            "--ready-delay" => options.ready_delay = seconds(&value()?)?,
            "--draft" => options.draft = value()?,
            "--dialog-on-paste" => options.dialog_on_paste = true,
            "--lose-pastes" => {
                let count = value()?;
                options.lose_pastes = count.parse().map_err(|_| format!("'{count}' is not a number of pastes"))?;
            }
            "--lose-enters" => {
                let count = value()?;
                options.lose_enters = count.parse().map_err(|_| format!("'{count}' is not a number of Enters"))?;
            }
            "--ui" => {
                options.ui = match value()?.as_str() {
                    "drawn" => Ui::Drawn,
                    "plain" => Ui::Plain,
                    other => return Err(format!("--ui is drawn or plain, not '{other}'")),
                }
            }
            "--" => options.ignored.extend(args.by_ref()),
            other => return Err(format!("unknown argument '{other}' (see --help)")),
        }
    }
    if options.name.is_empty() {
        options.provider.name().clone_into(&mut options.name);
    }
    Ok(Parsed::Run(Box::new(options)))
}

/// Returns the path that an environment variable holds, unless it is empty.
fn path_from_environment(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Parses a number of seconds, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("'{text}' is not a number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        match parse(line.split_whitespace().map(str::to_owned))? {
            Parsed::Run(options) => Ok(*options),
            Parsed::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn options_are_read_with_and_without_an_equals_sign() {
        let read =
            options("--provider claude --delay=0.5 --ui plain --dialog-on-paste --keys=k -- --settings x").unwrap();
        assert_eq!(read.provider, Provider::Claude);
        assert_eq!(read.name, "claude");
        assert_eq!(read.delay, Duration::from_millis(500));
        assert_eq!(read.ui, Ui::Plain);
        assert!(read.dialog_on_paste);
        assert_eq!(read.keys, Some("k".into()));
        assert_eq!(read.ignored, ["--settings", "x"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, said) in [
            ("--provider gpt", "'gpt'"),
            ("--delay -1", "'-1'"),
            ("--delay nan", "'nan'"),
            ("--name", "--name wants a value"),
            ("--ui sung", "'sung'"),
            ("--colour", "'--colour'"),
            ("--help", "help"),
        ] {
            let error = options(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
