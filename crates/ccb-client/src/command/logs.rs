//! `ccb logs`: the end of askd's log. Needs no daemon: it is wanted most when there is none.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};

use ccb_core::home::file;

use crate::error::CliError;
use crate::{Context, exit, output, project};

/// How much of the end is looked at.
const TAIL: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 50)]
    lines: usize,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<u8, CliError> {
    let path = project::here(context)?.home.path(file::LOG);
    let text = tail(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => CliError::new(format!("no log yet: {} does not exist", path.display())),
        _ => CliError::new(format!("cannot read {}: {error}", path.display())),
    })?;
    output::print(&last_lines(&text, options.lines))?;
    Ok(exit::OK)
}

fn tail(path: &std::path::Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\n", 5), "a");
    }
}
