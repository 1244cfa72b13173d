//! What can go wrong between daemon and client.
//!
//! Enters: failures of the kernel, of the other process and of the environment.
//! Leaves: one variant per cause, with the facts. It never decides what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a call of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Nothing could be reached at the socket.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// `NotFound` where there is no such file, `ConnectionRefused` where nobody listens.
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process answers at the socket.
    #[error("another daemon answers at {}: stop it with `loaderd stop`, or choose another socket with LOADERD_SOCKET", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel takes at most [`crate::socket::PATH_BYTES_MAX`] bytes for a socket's path.
    #[error(
        "socket path {} has {bytes} bytes, the kernel takes at most {bytes_max}: choose a shorter one with LOADERD_SOCKET",
        path.display()
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The other side has closed the connection, or is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// No whole message arrived in time; what arrived of it is kept.
    #[error("no message within {waited:?}")]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
    /// What arrived is no message of this contract. Close the connection.
    #[error("received something that is no loaderd message: {what}")]
    Garbage {
        /// What is wrong with it.
        what: String,
    },
    /// A descriptor came with a message, and this process may have no more. Close the connection.
    #[error(
        "this process has too many files open to receive another: close some, or raise its limit (ulimit -n)"
    )]
    NoDescriptors,
    /// A message of our own is over the bound.
    #[error("message of {bytes} bytes is over the bound of {bytes_max}")]
    TooLarge {
        /// Its length as JSON.
        bytes: usize,
        /// [`crate::socket::FRAME_BYTES_MAX`].
        bytes_max: usize,
    },
    /// A message of our own does not fit into JSON.
    #[error("message cannot be written as JSON: {0}")]
    Encode(#[source] serde_json::Error),
    /// A system call failed on the connection.
    #[error("{what} failed: {source}")]
    Io {
        /// The call.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is not enough memory for the slots.
    #[error(
        "cannot get {bytes} bytes of shared memory for {slot_count} slots of {slot_bytes} bytes: {source}; take fewer slots or smaller batches{}",
        if source.kind() == io::ErrorKind::FileTooLarge {
            ", or raise the daemon's file size limit (ulimit -f)"
        } else {
            ""
        }
    )]
    SegmentMemory {
        /// All slots together.
        bytes: u64,
        /// One slot.
        slot_bytes: u64,
        /// How many.
        slot_count: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Slots must be whole pages, and their sum must fit into the address space.
    #[error(
        "a segment of {slot_count} slots of {slot_bytes} bytes is impossible: slots are multiples of {align} bytes, their sum fits into 63 bits, and there is at least one"
    )]
    SegmentShape {
        /// One slot.
        slot_bytes: u64,
        /// How many.
        slot_count: u32,
        /// [`crate::layout::SLOT_ALIGN`].
        align: u64,
    },
    /// A received descriptor is not the segment that was announced.
    #[error("received segment is refused: {what}")]
    SegmentForeign {
        /// What is wrong with it.
        what: String,
    },
    /// A folder that loaderd writes to can't be used.
    #[error("folder {} cannot be used: {why}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and the way out.
        why: String,
    },
    /// There is no home folder to put things into.
    #[error("HOME is not set, so there is no place for loaderd's {what} folder: set {variable}")]
    NoHome {
        /// "state" or "cache".
        what: &'static str,
        /// The variable that names the folder outright.
        variable: &'static str,
    },
}

impl WireError {
    /// For `map_err`: the call that failed.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> WireError {
        move |errno| WireError::Io {
            what,
            source: errno.into(),
        }
    }
}
