//! What goes to standard output and into files.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;

use crate::display;
use crate::error::CliError;

/// What became of something printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printed {
    /// It was taken.
    Whole,
    /// Its reader has gone; nothing to complain about, but nobody has got it.
    Nobody,
}

/// Prints a line or several to standard output, and flushes. A terminal gets no control sequences of others.
pub(crate) fn print(text: &str) -> Result<Printed, CliError> {
    let mut stdout = io::stdout().lock();
    let safe = if stdout.is_terminal() { display::safe(text) } else { text.to_owned() };
    let end = line_end(&safe);
    match stdout
        .write_all(safe.as_bytes())
        .and_then(|()| stdout.write_all(end.as_bytes()))
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(Printed::Whole),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Printed::Nobody),
        Err(error) => Err(CliError::new(format!("cannot write to standard output: {error}"))),
    }
}

/// Returns what makes `text` end with a newline; nothing needs none.
pub(crate) fn line_end(text: &str) -> &'static str {
    if text.is_empty() || text.ends_with('\n') { "" } else { "\n" }
}

/// Prints a value as one line of JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<Printed, CliError> {
    print(&serde_json::to_string(value).expect("wire types have text keys only"))
}

/// Prints `value` as JSON or as `text` makes it.
pub(crate) fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T) -> String) -> Result<u8, CliError> {
    if json {
        print_json(value)?
    } else {
        print(&text(value))?
    };
    Ok(crate::exit::OK)
}

/// Writes a private file so that a reader sees the old content or the new, and nothing between.
///
/// What exists and is no regular file (a pipe, `/dev/null`) is written to, not replaced.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(content);
    }
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let random = RandomState::new().build_hasher().finish();
    let fresh = path.with_file_name(format!(".{}.{random:016x}", name.to_string_lossy()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn private_files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reply");
        fs::write(&path, "old").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_private(Path::new("/dev/null"), b"x").unwrap();
        assert!(write_private(&dir.path().join("no/such"), b"x").is_err());
    }
}
