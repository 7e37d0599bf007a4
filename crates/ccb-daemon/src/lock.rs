//! Kernel locks: holding one *is* being the keeper or the worker. No pid decides that.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A lock that this process holds until the value is dropped or the process is gone.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`; none if somebody else holds it.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let taken = if crate::failpoint::sabotaged("lock") { Ok(()) } else { file.try_lock() };
        match taken {
            Ok(()) => {
                let lock = Self { file, path: path.to_owned() };
                // Deleted between open and lock: what we hold is nobody's lock.
                if lock.is_ours() { Ok(Some(lock)) } else { Self::take(path) }
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Returns whether the file that we hold is still the one at the path: a deleted lock file would let a
    /// second holder in.
    pub(crate) fn is_ours(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(there)) => held.ino() == there.ino() && held.dev() == there.dev(),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_a_deleted_one_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let lock = Lock::take(&path).unwrap().unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        assert!(lock.is_ours());
        std::fs::remove_file(&path).unwrap();
        assert!(!lock.is_ours());
        let second = Lock::take(&path).unwrap().unwrap();
        assert!(second.is_ours() && !lock.is_ours());
    }
}
