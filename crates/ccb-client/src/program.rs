//! Where programs are.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::CliError;

/// Returns the path of this very program, links resolved.
///
/// Linux marks the path of a program that was replaced while it ran; what stands there now is its successor.
pub(crate) fn own() -> Result<PathBuf, CliError> {
    let path = std::env::current_exe().map_err(|e| CliError::new(format!("cannot tell where this program is: {e}")))?;
    let path = without_mark(path);
    Ok(path.canonicalize().unwrap_or(path))
}

fn without_mark(path: PathBuf) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    match bytes.strip_suffix(b" (deleted)") {
        Some(bytes) => PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec())),
        None => path,
    }
}

/// Returns the path of the program `name` that was installed together with this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf, CliError> {
    Ok(own()?.with_file_name(name))
}

/// Returns where `PATH` has the program `name`.
pub(crate) fn on_path(environment: &Environment, name: &str) -> Option<PathBuf> {
    let directories = environment.raw("PATH").unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    std::env::split_paths(directories).map(|directory| directory.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_only_if_they_can_run() {
        let dir = tempfile::tempdir().unwrap();
        let environment: Environment = [("PATH", dir.path())].into_iter().collect();
        let program = dir.path().join("tmux");
        std::fs::write(&program, "").unwrap();
        assert_eq!(on_path(&environment, "tmux"), None);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(on_path(&environment, "tmux"), Some(program));
    }

    #[test]
    fn a_replaced_program_is_its_successor() {
        assert_eq!(without_mark("/b/ccb (deleted)".into()), Path::new("/b/ccb"));
        assert_eq!(without_mark("/b/ccb".into()), Path::new("/b/ccb"));
        assert!(beside("askd").unwrap().ends_with("askd"));
    }
}
