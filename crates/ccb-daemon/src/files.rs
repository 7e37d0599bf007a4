//! The project's home on disk: made private, stamped, and written to atomically.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ccb_core::home::{Home, file};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

/// The size, in bytes, at which a log is set aside.
const LOG_LIMIT: u64 = 4 << 20;

/// An opened home.
#[derive(Debug)]
pub(crate) struct Files {
    home: Home,
    opened: OwnedFd,
}

impl Files {
    /// Makes the home if it is not there, checks whose it is, and opens it.
    pub(crate) fn open(home: Home) -> anyhow::Result<Self> {
        let place = || format!("cannot use the home `{}`", home.root().display());
        for dir in [home.root().to_owned(), home.path(file::RUN), home.path(file::BODIES), home.path(file::BIN)] {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).with_context(place)?;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).with_context(place)?;
        }
        let stamp = json!({"project": home.project(), "work_dir": home.work_dir()});
        let path = home.path(file::STAMP);
        match std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
            Some(found) if found["project"] != stamp["project"] => {
                anyhow::bail!("`{}` is the home of another project, `{}`", home.root().display(), found["work_dir"]);
            }
            Some(_) => {}
            None => write_durable(&path, format!("{stamp}\n").as_bytes()).with_context(place)?,
        }
        let opened =
            rustix::fs::open(home.root(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).with_context(place)?;
        Ok(Self { home, opened })
    }

    /// Returns the home.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Returns the path of a file in the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    /// Returns the path by which the socket `name` in the home can be bound or reached.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.home.socket(name, self.opened.as_raw_fd())
    }

    /// Writes a file of the home so that a reader sees the old text or the new one, never a part.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        write_private(&self.path(name), text.as_bytes())
    }

    /// Opens the log for appending; one that has grown large is set aside first.
    pub(crate) fn log(&self) -> io::Result<File> {
        let path = self.path(file::LOG);
        if std::fs::metadata(&path).is_ok_and(|log| log.len() > LOG_LIMIT) {
            std::fs::rename(&path, self.path("askd.log.1"))?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)
    }

    /// Links the command names, which stand first on the panes' PATH, to our own programs.
    pub(crate) fn link_commands(&self) -> io::Result<()> {
        let bin = crate::process::own_program()?;
        let beside = bin.parent().unwrap_or(Path::new("/"));
        for (name, target) in
            [("ccb", "ccb"), ("ask", "ask"), ("askd", "askd"), ("pend", "ccb"), ("ccb-cleanup", "ccb")]
        {
            let link = self.path(file::BIN).join(name);
            let target = beside.join(target);
            if std::fs::read_link(&link).ok().as_deref() != Some(&target) {
                remove_if_there(&link)?;
                symlink(&target, &link)?;
            }
        }
        Ok(())
    }
}

/// Writes `path` by way of a sibling, 0600.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, |_| Ok(()))
}

/// The same, for what a loss of power must not leave empty.
pub(crate) fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, File::sync_all)
}

fn replace(path: &Path, bytes: &[u8], finish: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(format!(".{}.new", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&sibling)?;
        file.write_all(bytes)?;
        finish(&file)?;
        std::fs::rename(&sibling, path)
    };
    // On a full disk nothing is left that would fill it further.
    write().inspect_err(|_| drop(std::fs::remove_file(&sibling)))
}

/// Removes a file; that it is not there is as good.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_private_and_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let home = |project: &str| Home::at(&dir.path().join("h"), Path::new(project));
        let files = Files::open(home("/a")).unwrap();
        assert_eq!(std::fs::metadata(files.home().root()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(Files::open(home("/a")).is_ok());
        let refused = Files::open(home("/b")).unwrap_err().to_string();
        assert!(refused.contains("another project"), "{refused}");
    }
}
