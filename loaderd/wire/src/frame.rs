//! Frames: how messages are cut out of a stream of bytes.
//!
//! Enters: a message, or bytes and descriptors as they arrive. Leaves: the bytes of a
//! frame, or a frame once it is whole. A frame is a header of 8 bytes (the magic number
//! `LDR1`, then the body's length as u32, little-endian) and a JSON body; descriptors
//! ride on its first byte (SCM_RIGHTS). It never waits, and never allocates more than
//! [`FRAME_BYTES_MAX`] for a frame, or more than has arrived, whatever the peer claims.

use std::io::IoSliceMut;
use std::mem::{self, MaybeUninit};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use serde::Serialize;

use crate::error::WireError;

/// Bound of a frame's body, in bytes. The largest message is an `Open` with its filter
/// and transforms.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Most descriptors that one message may carry.
pub const FRAME_FDS_MAX: usize = 8;

const MAGIC: [u8; 4] = *b"LDR1";
pub(crate) const HEADER_BYTES: usize = 8;

/// A body is read in steps of this size, so that a claimed length costs no memory.
const READ_BYTES: usize = 64 << 10;

/// The frame that is arriving.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Header and body, as far as they are here.
    frame: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// Once set, frame boundaries are lost and every receive fails.
    broken: Option<String>,
    /// Once set, this process could not take descriptors that came, and every receive fails.
    lacks_fds: bool,
}

impl Inbox {
    /// How many bytes of the frame are still to come; 0 when it is whole.
    pub(crate) fn missing_bytes(&mut self) -> Result<usize, WireError> {
        if self.lacks_fds {
            return Err(WireError::NoDescriptors);
        }
        if self.broken.is_none()
            && let Some((header, _)) = self.frame.split_first_chunk::<HEADER_BYTES>()
        {
            match body_bytes(*header) {
                Ok(body_bytes) => return Ok(HEADER_BYTES + body_bytes - self.frame.len()),
                Err(what) => self.broken = Some(what),
            }
        }
        match &self.broken {
            None => Ok(HEADER_BYTES - self.frame.len()),
            Some(what) => Err(WireError::Garbage { what: what.clone() }),
        }
    }

    /// Takes out the frame, which is whole: its body follows [`HEADER_BYTES`].
    pub(crate) fn take(&mut self) -> (Vec<u8>, Vec<OwnedFd>) {
        (mem::take(&mut self.frame), mem::take(&mut self.fds))
    }

    /// Reads at most `missing` bytes without waiting; never beyond the frame, so that
    /// descriptors can't be taken for those of another frame.
    pub(crate) fn read(&mut self, fd: BorrowedFd<'_>, missing: usize) -> Result<usize, Errno> {
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
        let is_cut = message.flags.contains(ReturnFlags::CTRUNC);
        if self.fds.len() > FRAME_FDS_MAX || is_cut && self.fds.len() == FRAME_FDS_MAX {
            self.broken = Some(format!("more than {FRAME_FDS_MAX} descriptors in a frame"));
        } else if is_cut {
            // There was room for more (`put_cmsg` and `scm_detach_fds` in the kernel's scm.c).
            self.lacks_fds = true;
        }
        Ok(received)
    }
}

/// The length that a header announces; `Err` says why it is no header.
fn body_bytes(header: [u8; HEADER_BYTES]) -> Result<usize, String> {
    let [m0, m1, m2, m3, l0, l1, l2, l3] = header;
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
    Ok(body_bytes)
}

/// The bytes of a message's frame.
pub(crate) fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, WireError> {
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
