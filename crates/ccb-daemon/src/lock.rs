//! Kernel locks: holding one *is* being the keeper or the worker. No pid decides that.
//!
//! A lock file can be deleted, and then there can be two holders. So a worker looks before each commit and each offer
//! whether it still stands on its [`Ground`], and its successor waits for the [`Claim`], which nobody can delete.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ccb_core::home::{Home, project_id};

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
        let held = self.file.metadata().map(|file| Inode::of(&file));
        held.is_ok_and(|held| Inode::at(&self.path).is_ok_and(|there| there == held))
    }
}

/// Which file a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// Returns the file that is at `path` now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|file| Self::of(&file))
    }

    fn of(file: &std::fs::Metadata) -> Self {
        Self { device: file.dev(), number: file.ino() }
    }
}

/// What a worker stands on: its lock and its database, each still the one at its path. Without it, nothing is accepted
/// and nothing is offered.
#[derive(Debug)]
pub(crate) struct Ground {
    lock: Lock,
    store: PathBuf,
    opened: Inode,
}

impl Ground {
    /// Returns the ground of a worker that holds this lock and has just opened the database at `store`.
    pub(crate) fn of(lock: Lock, store: PathBuf) -> io::Result<Self> {
        let opened = Inode::at(&store)?;
        Ok(Self { lock, store, opened })
    }

    /// Returns what is gone, if something is.
    pub(crate) fn lost(&self) -> Option<&'static str> {
        if crate::failpoint::sabotaged("fencing") {
            None
        } else if !self.lock.is_ours() {
            Some("its lock file was deleted or replaced")
        } else if !self.has_store() {
            Some("its database was deleted or replaced")
        } else {
            None
        }
    }

    /// Returns whether the database is still the one that a successor will find.
    pub(crate) fn has_store(&self) -> bool {
        Inode::at(&self.store).is_ok_and(|there| there == self.opened)
    }
}

/// The right to serve from a home, which lasts as long as the process and which no deletion of files takes away. A
/// worker that finds it held by another knocks, and waits until that one has gone: so the requests of a worker whose
/// files were deleted come to its successor, and none of them can be accepted there a second time before.
#[derive(Debug)]
pub(crate) struct Claim {
    #[cfg(target_os = "linux")]
    door: Option<tokio::net::UnixListener>,
    #[cfg(not(target_os = "linux"))]
    _lock: Lock,
}

#[cfg(target_os = "linux")]
impl Claim {
    /// Takes the claim; none if somebody else has it. Where it cannot be had at all, it is done without.
    pub(crate) fn take(home: &Home) -> io::Result<Option<Self>> {
        let name = Self::name(home)?;
        match std::os::unix::net::UnixListener::bind_addr(&name) {
            Ok(door) => {
                door.set_nonblocking(true)?;
                Ok(Some(Self { door: Some(tokio::net::UnixListener::from_std(door)?) }))
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match Self::holder(&name) {
                Some(uid) if uid != rustix::process::getuid().as_raw() => {
                    crate::engine::log("another user has taken the name of our claim: it is done without");
                    Ok(Some(Self { door: None }))
                }
                Some(_) | None => Ok(None),
            },
            Err(error) => {
                crate::engine::log(&format!("no claim can be laid: {error}"));
                Ok(Some(Self { door: None }))
            }
        }
    }

    /// Returns once another worker has knocked.
    pub(crate) async fn knocked(&self) {
        match &self.door {
            Some(door) => drop(door.accept().await),
            None => std::future::pending().await,
        }
    }

    /// Knocks, and returns whose the claim is.
    fn holder(name: &std::os::unix::net::SocketAddr) -> Option<u32> {
        let stream = std::os::unix::net::UnixStream::connect_addr(name).ok()?;
        rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.uid.as_raw())
    }

    /// An abstract address: it belongs to the process and to no directory. Containers that share a network have the
    /// same paths and mean other files by them.
    fn name(home: &Home) -> io::Result<std::os::unix::net::SocketAddr> {
        use std::os::linux::net::SocketAddrExt as _;
        let files = std::fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
        let place = format!("{}/{}", files.display(), &project_id(home.root())[..32]);
        let name = format!("ccb/{}/{place}", rustix::process::getuid().as_raw());
        std::os::unix::net::SocketAddr::from_abstract_name(name)
    }
}

#[cfg(not(target_os = "linux"))]
impl Claim {
    /// Takes the claim; none if somebody else has it.
    pub(crate) fn take(home: &Home) -> io::Result<Option<Self>> {
        // Beside the home: who deletes the home leaves it.
        let path = home.root().with_extension("lock");
        Ok(Lock::take(&path)?.map(|lock| Self { _lock: lock }))
    }

    /// Nobody can knock here: the keeper's ping has a worker look at its ground.
    pub(crate) async fn knocked(&self) {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ground_is_lost_with_the_lock_or_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let ground = || {
            std::fs::write(path("db"), "x").unwrap();
            Ground::of(Lock::take(&path("lock")).unwrap().unwrap(), path("db")).unwrap()
        };
        let one = ground();
        assert_eq!(one.lost(), None);
        std::fs::rename(path("db"), path("old")).unwrap();
        std::fs::write(path("db"), "x").unwrap();
        assert!(one.lost().is_some_and(|what| what.contains("database")) && !one.has_store());
        drop(one);
        let other = ground();
        std::fs::remove_file(path("lock")).unwrap();
        assert!(other.lost().is_some_and(|what| what.contains("lock")) && other.has_store());
    }

    #[tokio::test]
    async fn a_claim_outlives_its_directory_and_its_holder_hears_who_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("h"), Path::new("/a"));
        std::fs::create_dir(home.root()).unwrap();
        let claim = Claim::take(&home).unwrap().unwrap();
        std::fs::remove_dir_all(home.root()).unwrap();
        assert!(Claim::take(&home).unwrap().is_none());
        #[cfg(target_os = "linux")]
        claim.knocked().await;
        drop(claim);
        assert!(Claim::take(&home).unwrap().is_some());
    }

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
