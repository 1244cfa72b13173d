//! Messages and descriptors over a Unix stream socket.
//!
//! Enters: messages of [`crate::message`] and descriptors. Leaves: the same on the other
//! side. A frame is a header of 8 bytes (the magic number `LDR1`, then the body's length
//! as u32, little-endian) and a JSON body; descriptors ride on a frame's first byte
//! (SCM_RIGHTS). It never looks into a message, and never allocates more than
//! [`FRAME_BYTES_MAX`] for one, whatever the other side claims.

use std::io::{IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType, recvmsg, sendmsg, shutdown, socket_with,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::listener::{Listener, clear_stale};

use crate::error::WireError;

/// Bound of a frame's body, in bytes. The largest message is an `Open` with its filter
/// and transforms.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Most descriptors that one message may carry.
pub const FRAME_FDS_MAX: usize = 8;

/// Longest path of a Unix socket, in bytes (`sun_path` in unix(7), less its NUL).
pub const PATH_BYTES_MAX: usize = 107;

const MAGIC: [u8; 4] = *b"LDR1";
const HEADER_BYTES: usize = 8;

/// A body is read in steps of this size, so that a claimed length costs no memory.
const READ_BYTES: usize = 64 << 10;

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

/// The frame that is arriving.
#[derive(Debug, Default)]
struct Inbox {
    /// Header and body, as far as they are here.
    frame: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// Once set, frame boundaries are lost and every receive fails.
    broken: Option<String>,
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
            if let Some(what) = &inbox.broken {
                return Err(WireError::Garbage { what: what.clone() });
            }
            let missing = match inbox.missing_bytes() {
                Ok(0) => break,
                Ok(missing) => missing,
                Err(what) => {
                    inbox.broken = Some(what);
                    continue;
                }
            };
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
        let frame = mem::take(&mut inbox.frame);
        let fds = mem::take(&mut inbox.fds);
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

impl Inbox {
    /// How much of the frame is still to come; `Err` says why it is no frame.
    fn missing_bytes(&self) -> Result<usize, String> {
        let Some((header, _)) = self.frame.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(HEADER_BYTES - self.frame.len());
        };
        let [m0, m1, m2, m3, l0, l1, l2, l3] = *header;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(format!(
                "frame starts with \"{}\" instead of \"{}\"",
                magic.escape_ascii(),
                MAGIC.escape_ascii()
            ));
        }
        let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if body_bytes > FRAME_BYTES_MAX {
            return Err(format!(
                "body of {body_bytes} bytes is over the bound of {FRAME_BYTES_MAX}"
            ));
        }
        Ok(HEADER_BYTES + body_bytes - self.frame.len())
    }

    /// Reads at most `missing` bytes without waiting; never beyond the frame, so that
    /// descriptors can't be taken for those of another frame.
    fn read(&mut self, fd: BorrowedFd<'_>, missing: usize) -> Result<usize, Errno> {
        let in_header = self.frame.len() < HEADER_BYTES;
        let start = self.frame.len();
        self.frame.resize(start + missing.min(READ_BYTES), 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let result = recvmsg(
            fd,
            &mut [IoSliceMut::new(&mut self.frame[start..])],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        let received = result.as_ref().map_or(0, |message| message.bytes);
        self.frame.truncate(start + received);
        let message = result?;
        let fds_before = self.fds.len();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = ancillary {
                self.fds.extend(fds);
            }
        }
        if !in_header && self.fds.len() > fds_before {
            self.broken = Some("descriptors in the middle of a frame".into());
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > FRAME_FDS_MAX {
            self.broken = Some(format!("more than {FRAME_FDS_MAX} descriptors in a frame"));
        }
        Ok(received)
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

fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut frame = Vec::with_capacity(256);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut frame, message).map_err(WireError::Encode)?;
    let bytes = frame.len() - HEADER_BYTES;
    if bytes > FRAME_BYTES_MAX {
        return Err(WireError::TooLarge {
            bytes,
            bytes_max: FRAME_BYTES_MAX,
        });
    }
    // The bound is far below u32::MAX.
    frame[4..HEADER_BYTES].copy_from_slice(&(bytes as u32).to_le_bytes());
    Ok(frame)
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
