//! The daemon's end of the meeting place: a listening Unix socket with a path.
//!
//! Enters: a path. Leaves: connections. It never serves anyone, never removes a file
//! that is no socket, and never takes a path from a daemon that still answers.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, accept_with, bind, listen};

use crate::error::WireError;
use crate::socket::{Channel, address, new_socket, wait};

/// Connections that may wait for `accept`: more than ranks on any node.
const BACKLOG: i32 = 128;

/// A listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    /// Device and inode of our file, to know it from one that took its place.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at `path`, with mode 0600. The folder must exist.
    ///
    /// A socket file that nobody answers at any more is replaced;
    /// [`WireError::InUse`] where somebody does. Of two processes that come here at
    /// once, one wins.
    pub fn bind(path: &Path) -> Result<Listener, WireError> {
        let failed = |source: io::Error| WireError::Bind {
            path: path.to_owned(),
            source,
        };
        let address = address(path)?;
        let _turn = FolderLock::of(path).map_err(failed)?;
        if path.symlink_metadata().is_ok() && !clear_stale_locked(path)? {
            return Err(WireError::InUse {
                path: path.to_owned(),
            });
        }
        let open = || -> Result<OwnedFd, Errno> {
            let fd = new_socket()?;
            // Linux gives the file the socket's own mode (unix_bind in af_unix.c), so
            // there is no moment in which others could connect.
            fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
            // A client that leaves between poll and accept must not make us wait.
            ioctl_fionbio(&fd, true)?;
            bind(&fd, &address)?;
            listen(&fd, BACKLOG)?;
            Ok(fd)
        };
        let fd = open().map_err(|errno| failed(errno.into()))?;
        let metadata = path.symlink_metadata().map_err(failed)?;
        Ok(Listener {
            fd,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Waits for a connection; `None` when there is none within `timeout`.
    ///
    /// Blocks for at most `timeout`. Errors are the kernel's, out of descriptors above
    /// all: wait a little before the next call.
    pub fn accept(&self, timeout: Duration) -> Result<Option<Channel>, WireError> {
        let started = Instant::now();
        loop {
            match accept_with(&self.fd, SocketFlags::CLOEXEC) {
                Ok(fd) => return Ok(Some(Channel::from_fd(fd))),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => {
                    if !wait(&self.fd, PollFlags::IN, started, Some(timeout))? {
                        return Ok(None);
                    }
                }
                Err(errno) => return Err(WireError::io("accept")(errno)),
            }
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Without the lock another daemon could put its socket there between our look
        // and our removal. Where anything fails, a stale file stays, which does no harm.
        let Ok(_turn) = FolderLock::of(&self.path) else {
            return;
        };
        if let Ok(metadata) = self.path.symlink_metadata()
            && (metadata.dev(), metadata.ino()) == self.identity
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket file of a daemon that died without doing so; `true` when the path
/// is free now. A daemon that answers keeps its file, and so does anything that is no
/// socket ([`WireError::Bind`]).
pub fn clear_stale(path: &Path) -> Result<bool, WireError> {
    let _turn = FolderLock::of(path).map_err(|source| WireError::Bind {
        path: path.to_owned(),
        source,
    })?;
    clear_stale_locked(path)
}

fn clear_stale_locked(path: &Path) -> Result<bool, WireError> {
    let failed = |source: io::Error| WireError::Bind {
        path: path.to_owned(),
        source,
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(failed(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file that is no socket",
            )));
        }
        Ok(_) => {}
    }
    match Channel::connect(path) {
        // Only a refusal says that nobody listens; a full backlog says the opposite.
        Err(WireError::Connect { source, .. })
            if source.kind() == io::ErrorKind::ConnectionRefused =>
        {
            fs::remove_file(path).map_err(failed)?;
            Ok(true)
        }
        Err(WireError::Connect { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(true)
        }
        Ok(_) | Err(_) => Ok(false),
    }
}

/// An exclusive flock(2) on the socket's folder: needs no file of its own, and goes with
/// the process.
struct FolderLock(#[expect(dead_code, reason = "closing it lets go of the lock")] File);

impl FolderLock {
    fn of(path: &Path) -> io::Result<FolderLock> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = File::open(folder)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                result => break result?,
            }
        }
        Ok(FolderLock(file))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn connects_and_knows_the_peer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept(SOON).unwrap().is_none());

        let client = Channel::connect(&path).unwrap();
        let server = listener.accept(Duration::from_secs(5)).unwrap().unwrap();
        for peer in [client.peer().unwrap(), server.peer().unwrap()] {
            assert_eq!(peer.pid, std::process::id());
            assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        }
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_and_a_dead_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = Listener::bind(&path).unwrap();
        assert!(matches!(
            Listener::bind(&path),
            Err(WireError::InUse { .. })
        ));
        assert!(!clear_stale(&path).unwrap());
        assert!(path.exists());

        // What a killed daemon leaves: the file without a listener.
        let dead = folder.path().join("dead");
        let fd = new_socket().unwrap();
        bind(&fd, &address(&dead).unwrap()).unwrap();
        drop(fd);
        let second = Listener::bind(&dead).unwrap();
        Channel::connect(&dead).unwrap();
        drop((first, second));
        assert!(!dead.exists());
        assert!(clear_stale(&dead).unwrap());
    }

    #[test]
    fn dropping_leaves_a_successor_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Listener::bind(&path).unwrap();
        drop(first);
        Channel::connect(&path).unwrap();
    }

    #[test]
    fn files_that_are_no_sockets_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn paths_that_are_too_long_are_named() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        for error in [
            Listener::bind(&path).unwrap_err(),
            Channel::connect(&path).unwrap_err(),
        ] {
            assert!(error.to_string().contains("205 bytes"), "{error}");
        }
    }

    #[test]
    fn many_at_once_have_one_winner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let winners: Vec<Listener> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Listener::bind(&path).ok()))
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(winners.len(), 1);
    }
}
