//! Where a project's private state lives. Paths only; nothing here touches the disk.

use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

/// The longest path, in bytes, that a Unix socket address takes on every system we know.
pub const SOCKET_PATH_LIMIT: usize = 100;

/// The project's private state directory and the files in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    project: String,
    work_dir: PathBuf,
}

/// Returns the project id of a directory: the lower-case hex SHA-256 of its normalised absolute path (as CCB 5.2).
pub fn project_id(work_dir: &Path) -> String {
    hex(&Sha256::digest(normalise(work_dir).as_os_str().as_encoded_bytes()))
}

/// Returns bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes everything");
        hex
    })
}

/// Resolves `.` and `..` by text, as CCB 5.2 does: links stay as they are.
pub fn normalise(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normal.push(part),
        }
    }
    normal
}

impl Home {
    /// Returns the home of the project at `work_dir` below the user's `state` directory
    /// (`$XDG_STATE_HOME`, else `~/.local/state`).
    pub fn new(state: &Path, work_dir: &Path) -> Self {
        let work_dir = normalise(work_dir);
        let project = project_id(&work_dir);
        Self { root: state.join("ccb/projects").join(&project[..16]), project, work_dir }
    }

    /// Returns the home at `root` itself, as `CCB_RUN_DIR` may name it.
    #[must_use]
    pub fn at(root: &Path, work_dir: &Path) -> Self {
        let work_dir = normalise(work_dir);
        Self { root: root.to_owned(), project: project_id(&work_dir), work_dir }
    }

    /// Returns the directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the project's whole id.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Returns the project's directory.
    pub fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    /// Returns the path of the file or directory `name` in the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the path by which the socket `name` in the home is reached: `opened` is the number of an
    /// open descriptor of the home's directory, used where the real path is too long for a socket address.
    pub fn socket(&self, name: &str, opened: i32) -> PathBuf {
        let direct = self.path(name);
        if direct.as_os_str().len() <= SOCKET_PATH_LIMIT {
            direct
        } else {
            PathBuf::from(format!("/proc/self/fd/{opened}/{name}"))
        }
    }
}

/// The names of the files in a home.
pub mod file {
    /// askd's socket.
    pub const SOCKET: &str = "askd.sock";
    /// The keeper's lock.
    pub const KEEPER_LOCK: &str = "keeper.lock";
    /// The worker's lock.
    pub const WORKER_LOCK: &str = "askd.lock";
    /// What serves now, in the predecessor's keys.
    pub const STATE: &str = "askd.json";
    /// What served last, and how it ended.
    pub const LAST: &str = "askd.last.json";
    /// The log.
    pub const LOG: &str = "askd.log";
    /// The store.
    pub const STORE: &str = "ccb.db";
    /// Whose home this is.
    pub const STAMP: &str = "project.json";
    /// Which configuration the user has trusted.
    pub const TRUST: &str = "trust.json";
    /// Private files of running agents.
    pub const RUN: &str = "run";
    /// Message bodies on their way into a terminal.
    pub const BODIES: &str = "bodies";
    /// Links for the command names, first on the panes' PATH.
    pub const BIN: &str = "bin";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_its_normalised_path() {
        assert_eq!(project_id(Path::new("/a/b/../c/./d")), project_id(Path::new("/a/c/d")));
        assert_eq!(project_id(Path::new("/tmp/x")).len(), 64);
    }

    #[test]
    fn long_socket_paths_go_by_descriptor() {
        let short = Home::new(Path::new("/h/.local/state"), Path::new("/p"));
        assert_eq!(short.socket("askd.sock", 7), short.path("askd.sock"));
        let long = Home::new(Path::new(&format!("/{}", "h".repeat(90))), Path::new("/p"));
        assert_eq!(long.socket("askd.sock", 7), Path::new("/proc/self/fd/7/askd.sock"));
    }
}
