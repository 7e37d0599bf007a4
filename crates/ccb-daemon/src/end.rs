//! How a worker ended: the true cause, and whether it is the worker's own fault (promise P8).

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::keeper::{GIVES_WAY, STOPPED};

/// The end of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// In words.
    pub(crate) cause: String,
    /// Whether it stopped in order.
    pub(crate) in_order: bool,
    /// Whether somebody or something else ended it: this says nothing about the next one.
    pub(crate) from_outside: bool,
}

impl End {
    /// Returns an end that is the worker's own fault.
    pub(crate) fn own(cause: String) -> Self {
        Self { cause, in_order: false, from_outside: false }
    }

    /// Returns an end that somebody or something else has brought about.
    pub(crate) fn foreign(cause: String) -> Self {
        Self { cause, in_order: false, from_outside: true }
    }

    /// Reads an exit status. `panic` is the message that the worker has left, `oom` whether the kernel has killed
    /// something in its control group for memory while it lived.
    pub(crate) fn of(status: ExitStatus, panic: Option<&str>, oom: bool) -> Self {
        match (panic, status.signal(), status.code()) {
            (_, None, Some(code)) if code == i32::from(STOPPED) => {
                Self { cause: "stopped".into(), in_order: true, from_outside: false }
            }
            (_, None, Some(code)) if code == i32::from(GIVES_WAY) => {
                Self::foreign("gave way: its files were deleted or damaged, as the log says".into())
            }
            (Some(panic), _, _) => Self::own(panicked(panic)),
            (None, Some(9), _) if oom => Self::own("killed by signal 9 (KILL): the system was out of memory".into()),
            (None, Some(9), _) => Self::foreign("killed by signal 9 (KILL): by somebody".into()),
            (None, Some(signal), _) => {
                let cause = format!("killed by signal {signal} ({})", signal_name(signal));
                if is_own_fault(signal) { Self::own(cause) } else { Self::foreign(cause) }
            }
            (None, None, Some(code)) => Self::own(format!("exit code {code}")),
            (None, None, None) => Self::own("ended in an unknown way".into()),
        }
    }
}

/// Says that a worker has panicked, by the message that it has left.
pub(crate) fn panicked(message: &str) -> String {
    let message = message.trim();
    format!("panicked at {}", message.strip_prefix("panicked at ").unwrap_or(message))
}

/// Whether a process brings this signal upon itself.
fn is_own_fault(signal: i32) -> bool {
    matches!(signal, 3..=8 | 11 | 24 | 25 | 31)
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "HUP",
        2 => "INT",
        4 => "ILL",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        11 => "SEGV",
        15 => "TERM",
        _ => "see signal(7)",
    }
}

/// How often the kernel has killed something of our control group for memory; none where it does not tell.
pub(crate) fn memory_kills() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut files = groups.lines().flat_map(counters);
    files.find_map(|path| count(&std::fs::read_to_string(path).ok()?))
}

/// The files that count for a line of `/proc/self/cgroup`: of the group itself, and of what is mounted in a container.
fn counters(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (root, file) = if controllers.is_empty() {
        (Path::new("/sys/fs/cgroup"), "memory.events")
    } else if controllers.split(',').any(|one| one == "memory") {
        (Path::new("/sys/fs/cgroup/memory"), "memory.oom_control")
    } else {
        return Vec::new();
    };
    vec![root.join(group.trim_start_matches('/')).join(file), root.join(file)]
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_an_end_was_is_told_by_the_status() {
        let of = |raw: i32, panic: Option<&str>, oom: bool| End::of(ExitStatus::from_raw(raw), panic, oom);
        let table = [
            (of(0, None, false), "stopped", true, false),
            (of(75 << 8, None, false), "gave way", false, true),
            (of(1 << 8, None, false), "exit code 1", false, false),
            (of(6, Some("panicked at src/x.rs:1:2: no"), false), "panicked at src/x.rs:1:2: no", false, false),
            (of(6, None, false), "killed by signal 6 (ABRT)", false, false),
            (of(9, None, false), "killed by signal 9 (KILL): by somebody", false, true),
            (of(9, None, true), "out of memory", false, false),
            (of(11, None, true), "killed by signal 11 (SEGV)", false, false),
            (of(15, None, false), "killed by signal 15 (TERM)", false, true),
        ];
        for (end, words, in_order, from_outside) in table {
            assert!(end.cause.contains(words), "{end:?}");
            assert_eq!((end.in_order, end.from_outside), (in_order, from_outside), "{end:?}");
        }
    }

    #[test]
    fn the_kernels_count_is_read_in_both_forms() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count("low 0\noom 1\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(count("low 0\n"), None);
        assert_eq!(counters("0::/a/b")[0], Path::new("/sys/fs/cgroup/a/b/memory.events"));
        assert_eq!(counters("4:memory:/")[0], Path::new("/sys/fs/cgroup/memory/memory.oom_control"));
        assert!(counters("9:name=systemd:/").is_empty());
    }
}
