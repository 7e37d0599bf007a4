//! Starting askd's keeper, and hearing its one line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::wake::{Patience, Woken, readable};

/// What a keeper says of its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// askd serves.
    Ready,
    /// Another keeper lives, or is just starting.
    Held,
    /// It cannot serve, and this is why.
    Failed(String),
    /// Nothing that we understand; it may serve nevertheless.
    Silent,
}

/// How the keeper of a project is started.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    pub(crate) program: PathBuf,
    pub(crate) work_dir: PathBuf,
    pub(crate) environment: BTreeMap<OsString, OsString>,
}

/// The longest first line of a keeper that is looked at.
const LINE_LIMIT: u64 = 4096;

impl Keeper {
    /// Starts it and waits for its line.
    pub(crate) fn start(&self, patience: Patience<'_>) -> io::Result<Report> {
        let mut child = self.spawn(Stdio::piped())?;
        let line = child.stdout.take().map(|stdout| first_line(stdout, patience));
        collect(child);
        Ok(report(&line.transpose()?.unwrap_or_default()))
    }

    /// Starts it and goes on.
    pub(crate) fn start_and_go_on(&self) -> io::Result<()> {
        self.spawn(Stdio::null()).map(collect)
    }

    fn spawn(&self, stdout: Stdio) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg("--project").arg(&self.work_dir).env_clear().envs(&self.environment).current_dir(Path::new("/"));
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).spawn()
    }
}

/// Lets a thread wait for the child: whether it ends at once or outlives us, it must not become a zombie of a
/// runner that lives for days.
fn collect(mut child: Child) {
    std::thread::spawn(move || child.wait());
}

/// Returns what comes up to the first newline or the end.
fn first_line(mut stdout: ChildStdout, patience: Patience<'_>) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.contains(&b'\n') && (line.len() as u64) < LINE_LIMIT {
        match readable(stdout.as_fd(), patience)? {
            Woken::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Woken::Timeout => break,
            Woken::Ready => {}
        }
        let mut chunk = [0; 512];
        let count = stdout.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        line.extend_from_slice(&chunk[..count]);
    }
    Ok(String::from_utf8_lossy(&line).lines().next().unwrap_or_default().to_owned())
}

fn report(line: &str) -> Report {
    match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
        ("ready", _) => Report::Ready,
        ("held", _) => Report::Held,
        ("error:", why) => Report::Failed(why.trim().to_owned()),
        _ => Report::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn keeper(dir: &Path, script: &str) -> Keeper {
        use std::os::unix::fs::PermissionsExt as _;
        let program = dir.join("askd");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = [("PATH".into(), "/usr/bin:/bin".into())].into_iter().collect();
        Keeper { program, work_dir: dir.to_owned(), environment }
    }

    #[test]
    fn a_keepers_line_is_read() {
        let table = [
            ("echo ready 12", Report::Ready),
            ("echo held", Report::Held),
            ("echo error: the disk is full", Report::Failed("the disk is full".into())),
            ("exit 3", Report::Silent),
            ("echo hello", Report::Silent),
            ("[ -z \"$HOME\" ] && [ \"$1\" = --project ] && echo ready", Report::Ready),
        ];
        for (script, want) in table {
            let dir = tempfile::tempdir().unwrap();
            let report = keeper(dir.path(), script).start(Patience::of(Duration::from_secs(20))).unwrap();
            assert_eq!(report, want, "{script}");
        }
    }

    #[test]
    fn a_keeper_that_says_nothing_is_not_waited_for_longer_than_that() {
        let dir = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let keeper = keeper(dir.path(), "exec sleep 20");
        assert_eq!(keeper.start(Patience::of(Duration::from_millis(50))).unwrap(), Report::Silent);
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
