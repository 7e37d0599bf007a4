//! The viewer's socket, to which askd connects: one at a time, the newest counts, of the same user only.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ccb_core::view::{PROTOCOL, Said, Told, line};

use super::lines::Lines;

/// The longest path of a socket, in bytes, that every system takes.
const PATH_LIMIT: usize = 100;

/// How long a write to askd may take.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The socket, and who is connected.
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// The socket's directory, by which it is reached where its own path is too long for an address.
    _dir: File,
    guest: Option<Guest>,
}

struct Guest {
    stream: UnixStream,
    lines: Lines,
}

impl Door {
    /// Listens at `path`. What a dead viewer has left there is removed; a living one has no second.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let dir = File::open(path.parent().unwrap_or(path))?;
        let name = path.file_name().unwrap_or_default();
        let short = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let path = &if path.as_os_str().len() > PATH_LIMIT { Path::new(&short).join(name) } else { path.to_owned() };
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another viewer of this agent runs"));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned(), _dir: dir, guest: None })
    }

    /// Returns what to wait for: newcomers, and the guest.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let guest = self.guest.as_ref().map(|guest| guest.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(guest).collect()
    }

    /// Lets the newest comer in; true if there is one, who is to be told everything.
    pub(crate) fn welcome(&mut self) -> bool {
        let mut new = false;
        while let Ok((stream, _)) = self.listener.accept() {
            if !same_user(&stream) || stream.set_write_timeout(Some(WRITE_LIMIT)).is_err() {
                continue;
            }
            self.guest = Some(Guest { stream, lines: Lines::default() });
            self.tell(&Told::Hello { protocol: PROTOCOL });
            new = true;
        }
        new
    }

    /// Takes what the guest has said. Call it when the guest can be read.
    pub(crate) fn hear(&mut self) -> Vec<Said> {
        let Some(guest) = &mut self.guest else { return Vec::new() };
        let mut bytes = vec![0; 1 << 16];
        let lines = match guest.stream.read(&mut bytes) {
            Ok(count) if count > 0 => guest.lines.take(&bytes[..count]).ok(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Vec::new(),
            Ok(_) | Err(_) => None,
        };
        if lines.is_none() {
            self.guest = None;
        }
        lines.into_iter().flatten().filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    /// Tells the guest, if there is one. One that does not read is no guest any more: it comes back and asks.
    pub(crate) fn tell(&mut self, told: &Told) {
        let Some(guest) = &mut self.guest else { return };
        if guest.stream.write_all(line(told).as_bytes()).is_err() {
            self.guest = None;
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(target_os = "linux")]
fn same_user(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// Elsewhere the directory's mode alone keeps others out.
#[cfg(not(target_os = "linux"))]
fn same_user(_stream: &UnixStream) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccb_core::id::RequestId;
    use std::io::BufRead as _;

    #[test]
    fn the_newest_guest_counts_and_a_living_viewer_has_no_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        std::fs::write(&path, "left over").unwrap();
        let mut door = Door::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Door::open(&path).is_err());
        let old = UnixStream::connect(&path).unwrap();
        assert!(door.welcome());
        let mut new = UnixStream::connect(&path).unwrap();
        assert!(door.welcome());
        let read = |stream: &UnixStream| {
            let mut line = String::new();
            io::BufReader::new(stream).read_line(&mut line).unwrap();
            line
        };
        assert!(read(&old).contains("hello") && read(&old).is_empty(), "its connection is over");
        assert!(read(&new).contains("hello"));
        let look = Said::Look { id: RequestId::new("r1").unwrap() };
        let text = line(&look);
        new.write_all(&text.as_bytes()[..5]).unwrap();
        assert_eq!(door.hear(), []);
        new.write_all(format!("{}rubbish\n", &text[5..]).as_bytes()).unwrap();
        assert_eq!(door.hear(), [look]);
        drop(new);
        assert_eq!(door.hear(), []);
        assert_eq!(door.fds().len(), 1);
        drop(door);
        assert!(!path.exists());
    }
}
