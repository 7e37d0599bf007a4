//! `ccb guard <parent> [--kill] -- <argv…>`: becomes a program that ends when its parent does, even by `kill -9`.
//!
//! It gets TERM then; with `--kill` it gets KILL: one that would otherwise go on with what it is at. `ccb guard --group`
//! watches over the pane's other processes instead, `ccb guard --marked` over what a viewer's program is.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::error::CliError;
use crate::exit;
use crate::pane::group;

pub(super) fn run(args: &[OsString]) -> Result<u8, CliError> {
    let usage = || CliError::new("usage: ccb guard <parent-pid> [--kill] -- <program> [arguments…]");
    if args == [OsString::from(group::WATCH)] {
        let failed = |error| CliError::new(format!("cannot watch the pane's processes: {error}"));
        return group::watch().map(|()| exit::OK).map_err(failed);
    }
    let words: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if let [group::MARKED, mark, ..] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let failed = |error| CliError::new(format!("cannot watch the viewer's program: {error}"));
        return group::watch_marked(mark, &words[2..]).map(|()| exit::OK).map_err(failed);
    }
    let kill = args.get(1).is_some_and(|word| word == "--kill");
    let args: Vec<&OsString> =
        args.iter().enumerate().filter(|(at, _)| !(kill && *at == 1)).map(|(_, word)| word).collect();
    let [parent, dashes, program, rest @ ..] = args.as_slice() else {
        return Err(usage());
    };
    let parent: i32 = parent.to_str().and_then(|pid| pid.parse().ok()).ok_or_else(usage)?;
    if *dashes != "--" {
        return Err(usage());
    }
    follow_parent(kill).map_err(|error| CliError::new(format!("cannot follow the parent process: {error}")))?;
    // A parent that died before the line above sends nothing any more.
    if rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        return Err(CliError::new("the parent process has gone"));
    }
    let error = Command::new(program).args(rest).exec();
    Err(CliError::new(format!("cannot run `{}`: {error}", program.to_string_lossy())).code(127))
}

#[cfg(target_os = "linux")]
fn follow_parent(kill: bool) -> rustix::io::Result<()> {
    use rustix::process::Signal;
    rustix::process::set_parent_process_death_signal(Some(if kill { Signal::KILL } else { Signal::TERM }))
}

/// Elsewhere no kernel does this; what is left behind by a killed runner is found by its socket.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as on Linux")]
fn follow_parent(_kill: bool) -> rustix::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_runs_nothing_for_a_parent_that_has_gone() {
        let words = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        for gone in ["1 -- /bin/false", "1 --kill -- /bin/false"] {
            assert_eq!(run(&words(gone)).unwrap_err().message, "the parent process has gone");
        }
        for bad in ["1", "x -- /bin/false", "1 /bin/false x", "1 --kill /bin/false x"] {
            assert!(run(&words(bad)).unwrap_err().message.starts_with("usage:"), "{bad}");
        }
    }
}
