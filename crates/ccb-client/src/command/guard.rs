//! `ccb guard <parent> -- <argv…>`: becomes a program that ends when its parent does, even by `kill -9`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::error::CliError;

pub(super) fn run(args: &[OsString]) -> Result<u8, CliError> {
    let usage = || CliError::new("usage: ccb guard <parent-pid> -- <program> [arguments…]");
    let [parent, dashes, program, rest @ ..] = args else {
        return Err(usage());
    };
    let parent: i32 = parent.to_str().and_then(|pid| pid.parse().ok()).ok_or_else(usage)?;
    if dashes != "--" {
        return Err(usage());
    }
    follow_parent().map_err(|error| CliError::new(format!("cannot follow the parent process: {error}")))?;
    // A parent that died before the line above sends nothing any more.
    if rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        return Err(CliError::new("the parent process has gone"));
    }
    let error = Command::new(program).args(rest).exec();
    Err(CliError::new(format!("cannot run `{}`: {error}", program.to_string_lossy())).code(127))
}

#[cfg(target_os = "linux")]
fn follow_parent() -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
}

/// Elsewhere no kernel does this; what is left behind by a killed runner is found by its socket.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Linux")]
fn follow_parent() -> rustix::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_runs_nothing_for_a_parent_that_has_gone() {
        let words = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        let gone = run(&words("1 -- /bin/false")).unwrap_err();
        assert_eq!(gone.message, "the parent process has gone");
        for bad in ["1", "x -- /bin/false", "1 /bin/false x"] {
            assert!(run(&words(bad)).unwrap_err().message.starts_with("usage:"), "{bad}");
        }
    }
}
