//! One extent's bytes, on their way to a decoder.
//!
//! Enters: memory that a read has finished filling. Leaves: `&[u8]`. Never: copies, or
//! lets anybody write; never outlives its memory, whatever became of the reader.

use std::fmt;
use std::ops::Deref;

use crate::memory::{Aligned, Lease};

/// The bytes of one extent, exactly as many as asked for.
///
/// Owns its slab: dropping the buffer, on any thread, gives the slab back to its reader,
/// which reuses the slab given back last first. Outlives the reader safely. A buffer can
/// also be made from a `Vec<u8>`, for bytes that come from elsewhere.
pub struct Buffer {
    home: Home,
    start: usize,
    length: usize,
}

enum Home {
    Slab(Lease),
    /// Larger than a slab. The lease's slabs lie idle meanwhile: they are the tickets that
    /// keep the bytes of all buffers alive bounded.
    OneOff(
        Aligned,
        #[allow(dead_code, reason = "held for its drop")] Lease,
    ),
    Heap(Vec<u8>),
}

impl Buffer {
    /// # Safety
    ///
    /// Bytes `[start, start + length)` of the memory (the one-off block where there is
    /// one, else the slab) are initialised, and nobody writes to them any more.
    pub(crate) unsafe fn from_read(
        lease: Lease,
        one_off: Option<Aligned>,
        start: usize,
        length: usize,
    ) -> Buffer {
        let home = match one_off {
            Some(block) => Home::OneOff(block, lease),
            None => Home::Slab(lease),
        };
        Buffer {
            home,
            start,
            length,
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let base = match &self.home {
            Home::Slab(lease) => lease.base(),
            Home::OneOff(block, _) => block.base(),
            Home::Heap(bytes) => return bytes,
        };
        // SAFETY: `from_read`'s caller vouches that the range lies in this memory, is
        // initialised and is no longer written to; `home` keeps it alive for `&self`.
        unsafe { std::slice::from_raw_parts(base.add(self.start), self.length) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer {
            start: 0,
            length: bytes.len(),
            home: Home::Heap(bytes),
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = match self.home {
            Home::Slab(_) => "slab",
            Home::OneOff(..) => "one-off",
            Home::Heap(_) => "heap",
        };
        write!(f, "Buffer({} bytes, {home})", self.length)
    }
}
