//! `ccb trust`: shows what the project's configuration would run, and lets it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;

use ccb_core::config::{self, AgentConfig, Config};
use ccb_core::home::{Home, file};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::project::CONFIG;
use crate::{Context, exit, output, project};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// The file `trust.json`.
#[derive(Default, Serialize, Deserialize)]
struct Trusted {
    hashes: BTreeSet<String>,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<u8, CliError> {
    let home = project::here(context)?.home;
    let Some(text) = project::config_text(&home)? else {
        return Err(CliError::new(format!("there is no {CONFIG} in {}", home.work_dir().display())));
    };
    let config = parse(&text)?;
    if !config.agents.iter().any(AgentConfig::needs_trust) {
        output::print(&format!("{CONFIG} holds no commands: it needs no trust"))?;
        return Ok(exit::OK);
    }
    if is_trusted(&home, &text) {
        output::print(&format!("{CONFIG} is trusted already"))?;
        return Ok(exit::OK);
    }
    output::print(&what_would_run(&config))?;
    if !options.yes && !agreed()? {
        return Err(CliError::new("not trusted"));
    }
    trust(&home, &text).map_err(|error| CliError::new(format!("cannot keep the trust: {error}")))?;
    output::print("trusted, until the file changes")?;
    Ok(exit::OK)
}

/// Reads the project's configuration.
pub(super) fn parse(text: &str) -> Result<Config, CliError> {
    let hint = "agents stand in it as words `name:provider` or as tables `[agents.NAME]`";
    config::parse(CONFIG, text).map_err(|error| CliError::new(error.to_string()).hint(hint))
}

/// Returns whether the user has trusted this very text.
pub(super) fn is_trusted(home: &Home, text: &str) -> bool {
    trusted(home).hashes.contains(&config::trust_hash(text))
}

fn trusted(home: &Home) -> Trusted {
    let read = std::fs::read(home.path(file::TRUST)).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn trust(home: &Home, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(home.root())?;
    let mut trusted = trusted(home);
    trusted.hashes.insert(config::trust_hash(text));
    let json = serde_json::to_vec(&trusted).expect("a list of words is JSON");
    output::write_private(&home.path(file::TRUST), &json)
}

fn agreed() -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::new("nobody is here to be asked").hint("`ccb trust --yes`, if you have read the above"));
    }
    let _ = write!(io::stderr(), "Let this run? [y/N] ");
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn what_would_run(config: &Config) -> String {
    let mut text = format!("{CONFIG} would run as you:\n");
    for agent in config.agents.iter().filter(|agent| agent.needs_trust()) {
        let row = agent.provider.row();
        let mut detail = |what: &str, value: String| {
            let _ = writeln!(text, "    {what:<12} {}", crate::display::line(&crate::display::safe(&value), 500));
        };
        detail("agent", format!("{} ({})", agent.name, row.display));
        detail("command", agent.command.clone().unwrap_or_else(|| row.program.to_owned()));
        if !agent.args.is_empty() {
            detail("arguments", agent.args.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>().join(" "));
        }
        if !agent.env.is_empty() {
            detail("environment", agent.env.keys().map(String::as_str).collect::<Vec<_>>().join(" "));
        }
        if let Some(transcript) = &agent.transcript {
            detail("reads", transcript.clone());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const TEXT: &str = "codex\n[agents.stub]\nprovider = \"codex\"\ncommand = \"./stub\"\nargs = [\"a b\"]\n\
                        env = { KEY = \"secret\" }\ntranscript = \"t.jsonl\"\n";

    #[test]
    fn what_would_run_is_shown_without_values_of_the_environment() {
        insta::assert_snapshot!(what_would_run(&parse(TEXT).unwrap()), @r#"
        .ccb/ccb.config would run as you:
            agent        stub (Codex)
            command      ./stub
            arguments    "a b"
            environment  KEY
            reads        t.jsonl
        "#);
    }

    #[test]
    fn trust_is_of_this_text_alone_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path(), "/p".as_ref());
        assert!(!is_trusted(&home, TEXT));
        trust(&home, TEXT).unwrap();
        trust(&home, "other").unwrap();
        assert!(is_trusted(&home, TEXT) && is_trusted(&home, "other") && !is_trusted(&home, "third"));
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(home.root()), mode(&home.path(file::TRUST))), (0o700, 0o600));
    }

    #[test]
    fn a_broken_configuration_is_told_with_its_line() {
        assert_eq!(
            parse("codex\nclaud").unwrap_err().message,
            ".ccb/ccb.config:2: unknown provider `claud`; did you mean `claude`?"
        );
    }
}
