//! Messages and descriptors over a Unix stream socket.
//!
//! Enters: messages of [`crate::message`] and descriptors. Leaves: the same on the other
//! side, in the order they were sent in. It never looks into a message and never starts
//! a thread.

use std::io::IoSlice;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg, shutdown, socket_with,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::frame::{FRAME_BYTES_MAX, FRAME_FDS_MAX};
pub use crate::listener::{Listener, clear_stale};

use crate::error::WireError;
use crate::frame::{HEADER_BYTES, Inbox, encode};

/// Longest path of a Unix socket, in bytes (`sun_path` in unix(7), less its NUL).
pub const PATH_BYTES_MAX: usize = 107;

/// How long a daemon with a full backlog may keep us waiting for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One end of a connection.
///
/// Send and Sync. Sending and receiving may go on in two threads at once; two senders
/// take turns, frame by frame, and so do two receivers. Dropping it closes this
/// process's descriptor, and the connection with it unless a forked child has it too:
/// call [`Channel::shutdown`] to end it for certain.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    /// Held while bytes go out, so that frames never interleave.
    sending: Mutex<()>,
    /// Frames of [`Channel::post`] that are not out yet, the first perhaps in part.
    /// Held for moments only, never across a system call that can wait.
    posted: Mutex<Vec<u8>>,
    inbox: Mutex<Inbox>,
}

/// A message and the descriptors that came with it.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// At most [`FRAME_FDS_MAX`]; ours to close. They have close-on-exec set.
    pub fds: Vec<OwnedFd>,
}

/// Who is at the other end, as the kernel vouches for it (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process that connected or listened.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Channel {
    /// Connects to a listening socket.
    ///
    /// Blocks for at most 5 s, and only where the daemon's backlog is full.
    pub fn connect(path: &Path) -> Result<Channel, WireError> {
        let address = address(path)?;
        let connect = || -> Result<OwnedFd, Errno> {
            let fd = new_socket()?;
            // A blocking connect on a Unix socket waits as long as a send may.
            set_socket_timeout(&fd, Timeout::Send, Some(CONNECT_TIMEOUT))?;
            loop {
                match rustix::net::connect(&fd, &address) {
                    Err(Errno::INTR) => {}
                    result => break result?,
                }
            }
            set_socket_timeout(&fd, Timeout::Send, None)?;
            Ok(fd)
        };
        let fd = connect().map_err(|errno| WireError::Connect {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        Ok(Channel::from_fd(fd))
    }

    /// Takes over a connected stream socket.
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel {
            fd,
            sending: Mutex::new(()),
            posted: Mutex::new(Vec::new()),
            inbox: Mutex::new(Inbox::default()),
        }
    }

    /// Sends a message with at most [`FRAME_FDS_MAX`] descriptors (they stay open here).
    ///
    /// Blocks while the peer's buffer is full. [`WireError::Closed`] when the peer is
    /// gone; a message that was sent may still get lost with it.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        assert!(fds.len() <= FRAME_FDS_MAX, "{} descriptors", fds.len());
        let frame = encode(message)?;
        {
            let _sending = lock(&self.sending);
            let posted = mem::take(&mut *lock(&self.posted));
            self.write(&posted, &[])?;
            self.write(&frame, fds)?;
        }
        self.flush()
    }

    /// Sends a message some time soon, and never blocks: where the peer's buffer is full
    /// or another thread is sending, the message waits for the next [`Channel::send`],
    /// `post` or [`Channel::flush`]. Messages leave in the order they were posted in.
    ///
    /// The queue has no bound of its own: post only what is bounded elsewhere.
    pub fn post<M: Serialize>(&self, message: &M) -> Result<(), WireError> {
        let frame = encode(message)?;
        lock(&self.posted).extend_from_slice(&frame);
        self.flush()
    }

    /// Sends what is posted as far as that is possible without blocking.
    pub fn flush(&self) -> Result<(), WireError> {
        while !lock(&self.posted).is_empty() {
            // Whoever holds the lock comes here after letting go of it, and finds what we
            // posted before we failed to get it.
            let _sending = match self.sending.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            let bytes = mem::take(&mut *lock(&self.posted));
            let mut sent = 0;
            while sent < bytes.len() {
                match self.write_some(&bytes[sent..], &[], SendFlags::DONTWAIT) {
                    Ok(count) => sent += count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        lock(&self.posted).splice(0..0, bytes[sent..].iter().copied());
                        return Ok(());
                    }
                    Err(errno) => return Err(send_error(errno)),
                }
            }
        }
        Ok(())
    }

    /// Receives the next message.
    ///
    /// Blocks for at most `timeout` (`None`: for ever; zero: not at all). A message that
    /// has arrived in part by then is completed by the next call. After
    /// [`WireError::Garbage`] the connection is of no use any more. What the peer sent
    /// before it closed the connection is received before [`WireError::Closed`] is.
    pub fn receive<M: DeserializeOwned>(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Received<M>, WireError> {
        let started = Instant::now();
        let mut inbox = lock(&self.inbox);
        loop {
            let missing = inbox.missing_bytes()?;
            if missing == 0 {
                break;
            }
            match inbox.read(self.fd.as_fd(), missing) {
                Ok(0) | Err(Errno::CONNRESET) => return Err(WireError::Closed),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !wait(&self.fd, PollFlags::IN, started, timeout)? {
                        return Err(WireError::Timeout {
                            waited: started.elapsed(),
                        });
                    }
                }
                Err(errno) => return Err(WireError::io("recvmsg")(errno)),
            }
        }
        let (frame, fds) = inbox.take();
        drop(inbox);
        match serde_json::from_slice(&frame[HEADER_BYTES..]) {
            Ok(message) => Ok(Received { message, fds }),
            Err(error) => Err(WireError::Garbage {
                what: error.to_string(),
            }),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Result<Peer, WireError> {
        let credentials = socket_peercred(&self.fd).map_err(WireError::io("SO_PEERCRED"))?;
        Ok(Peer {
            pid: credentials.pid.as_raw_nonzero().get().unsigned_abs(),
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
        })
    }

    /// Whether the other side has closed the connection. Never blocks, and receives nothing.
    pub fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        // Hang-up and error are told of unasked. What can't be polled is found out by `receive`.
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(count) if count > 0)
    }

    /// Ends the connection for all threads and forked processes on this side. Calls that
    /// wait return [`WireError::Closed`]. Messages that the peer has not read yet reach it.
    pub fn shutdown(&self) {
        // The only failure is that the connection is over already.
        let _ = shutdown(&self.fd, Shutdown::Both);
    }

    /// Writes all bytes, waiting as long as that takes. The caller holds `sending`.
    fn write(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let mut fds = fds;
        let mut sent = 0;
        while sent < bytes.len() {
            match self.write_some(&bytes[sent..], fds, SendFlags::empty()) {
                Ok(count) => {
                    sent += count;
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                // The socket was made non-blocking by someone else.
                Err(Errno::AGAIN) => {
                    wait(&self.fd, PollFlags::OUT, Instant::now(), None)?;
                }
                Err(errno) => return Err(send_error(errno)),
            }
        }
        Ok(())
    }

    fn write_some(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            assert!(fits, "space was reckoned for {FRAME_FDS_MAX} descriptors");
        }
        sendmsg(
            &self.fd,
            &[IoSlice::new(bytes)],
            &mut control,
            flags | SendFlags::NOSIGNAL,
        )
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A stream socket with close-on-exec.
pub(crate) fn new_socket() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// A path as an address, within the kernel's bound.
pub(crate) fn address(path: &Path) -> Result<SocketAddrUnix, WireError> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(WireError::PathTooLong {
            path: path.to_owned(),
            bytes,
            bytes_max: PATH_BYTES_MAX,
        });
    }
    SocketAddrUnix::new(path).map_err(|errno| WireError::Connect {
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Waits until the descriptor is ready; `false` when `timeout` since `started` is over.
pub(crate) fn wait(
    fd: &OwnedFd,
    events: PollFlags,
    started: Instant,
    timeout: Option<Duration>,
) -> Result<bool, WireError> {
    loop {
        let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
        // A time beyond the kernel's range is as good as for ever.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(fd, events)], left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(WireError::io("poll")(errno)),
        }
    }
}

fn send_error(errno: Errno) -> WireError {
    match errno {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => WireError::Closed,
        errno => WireError::io("sendmsg")(errno),
    }
}

/// Nothing here can be left half-changed by a panic, so a poisoned lock is a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
