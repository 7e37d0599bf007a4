//! The command line of askd. Users rarely see it: clients start it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use ccb_core::home::Home;

/// What `--help` prints.
const USAGE: &str = "askd: the daemon of one ccb project; `ccb` and `ask` start it by themselves.

Usage: askd [--project DIR]     serve the project at DIR (default: the current directory); also --work-dir DIR
            [--listen 127.0.0.1:0]  open CCB 5.2's TCP protocol there too (also CCB_ASKD_LISTEN)
       askd --shutdown          end the project's daemon in order; its agents go on
       askd --help | --version
";

/// The exit code for errors and usage.
const ERROR: u8 = 1;

/// Runs askd with these arguments (without the program's name).
pub fn main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            // Both: whoever started us reads the first line, and the log keeps it.
            let line = format!("error: {error:#}").replace('\n', " ");
            writeln!(std::io::stdout(), "{line}").ok();
            crate::engine::log(&line);
            ExitCode::from(ERROR)
        }
    }
}

fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> anyhow::Result<ExitCode> {
    let mut project = None;
    let (mut worker, mut shutdown) = (false, false);
    let mut listen = None;
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--help" | "-h") => {
                std::io::stdout().write_all(USAGE.as_bytes()).ok();
                return Ok(ExitCode::SUCCESS);
            }
            Some("--version") => {
                writeln!(std::io::stdout(), "askd {}", env!("CARGO_PKG_VERSION")).ok();
                return Ok(ExitCode::SUCCESS);
            }
            Some("--listen") => listen = words.next().map(|place| place.to_string_lossy().into_owned()),
            Some("--project" | "--work-dir") => project = words.next().map(PathBuf::from),
            Some("--worker") => worker = true,
            Some("--shutdown") => shutdown = true,
            _ => anyhow::bail!("unknown argument `{}`; see askd --help", word.display()),
        }
    }
    let project = match project {
        Some(dir) => dir,
        None => std::env::current_dir()?,
    };
    let home = home(&std::path::absolute(project)?)?;
    if shutdown {
        return crate::shutdown::run(&home);
    }
    if worker { crate::worker::run(home) } else { crate::keeper::run(home, listen) }
}

/// Returns the home of the project: where `CCB_RUN_DIR` says, if that is this project's, else in the user's state directory.
fn home(project: &std::path::Path) -> anyhow::Result<Home> {
    let state = match std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => match std::env::var_os("HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir).join(".local/state"),
            None => anyhow::bail!("neither HOME nor XDG_STATE_HOME is set: there is no place for the project's state"),
        },
    };
    let usual = Home::new(&state, project);
    let Some(named) = std::env::var_os("CCB_RUN_DIR").filter(|dir| !dir.is_empty()) else { return Ok(usual) };
    let named = Home::at(&PathBuf::from(named), project);
    let stamp = std::fs::read_to_string(named.path(ccb_core::home::file::STAMP)).unwrap_or_default();
    let stamp: serde_json::Value = serde_json::from_str(&stamp).unwrap_or_default();
    Ok(if stamp["project"] == named.project() { named } else { usual })
}
