//! One extent under way: where its rounded-out read stands, and when to try it again.
//!
//! Enters: an extent and the engine's alignment. Leaves: the range of the file to read,
//! and pauses between tries. Never: does I/O or looks at a clock.

use std::time::Duration;

use crate::Extent;
use crate::memory::{Aligned, Lease};

/// One extent under way.
pub(super) struct Read {
    pub(super) tag: u64,
    pub(super) extent: Extent,
    /// Where the rounded-out read starts in the file.
    pub(super) start: u64,
    /// Bytes from there to the extent's first byte.
    pub(super) lead: usize,
    /// Bytes of the rounded-out read.
    pub(super) span: usize,
    /// Slabs that it takes; where it is longer than one, they lie idle.
    pub(super) slabs: usize,
    /// Bytes from `start` that have arrived.
    pub(super) arrived: usize,
    /// Where, counted from `start`, the read under way begins.
    pub(super) issued_from: usize,
    /// Failed tries so far.
    pub(super) failures: u32,
    /// `None` until the read goes to the engine.
    pub(super) memory: Option<Memory>,
}

pub(super) struct Memory {
    pub(super) lease: Lease,
    pub(super) one_off: Option<Aligned>,
}

impl Memory {
    pub(super) fn base(&self) -> *mut u8 {
        match &self.one_off {
            Some(block) => block.base(),
            None => self.lease.base(),
        }
    }
}

/// For so many slabs' bytes, a read that is longer than a slab takes one of them: so all such
/// reads together take twice the slabs' memory at most, and one that is a little too long takes
/// the place of no other.
const SLABS_A_TICKET: usize = 2;

impl Read {
    /// `slabs`: bytes of one, and how many there are.
    pub(super) fn new(tag: u64, extent: Extent, align: u32, slabs: (usize, usize)) -> Read {
        let align = u64::from(align);
        let start = extent.offset / align * align;
        let lead = extent.offset - start;
        let span = (lead + u64::from(extent.length)).next_multiple_of(align);
        Read {
            tag,
            extent,
            start,
            lead: lead as usize,
            span: span as usize,
            // Not more than there are: then it is alone.
            slabs: (span as usize)
                .div_ceil(SLABS_A_TICKET * slabs.0)
                .clamp(1, slabs.1),
            arrived: 0,
            issued_from: 0,
            failures: 0,
            memory: None,
        }
    }
}

/// How long to wait before trying again after `failures` tries have failed already and
/// one more with `errno`; `None` where that is no use (any more).
///
/// Interruptions pass, so there are many tries. An I/O error may be a path that fails
/// over or a drive that re-reads: three more tries, after 1, 8 and 64 ms.
pub(super) fn pause(errno: i32, failures: u32) -> Option<Duration> {
    const EIO_TRIES_MAX: u32 = 3;
    const TRIES_MAX: u32 = 1000;
    match errno {
        libc::EINTR | libc::EAGAIN if failures < TRIES_MAX => Some(Duration::from_millis(
            // At once the first time.
            u64::from(failures > 0),
        )),
        libc::EIO if failures < EIO_TRIES_MAX => Some(Duration::from_millis(8u64.pow(failures))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_rounded_out() {
        let check = |offset: u64, length: u32, align: u32, expected: (u64, usize, usize)| {
            let extent = Extent {
                offset,
                length,
                file: 0,
            };
            let read = Read::new(0, extent, align, (8192, 4));
            assert_eq!((read.start, read.lead, read.span), expected);
        };
        check(0, 1, 512, (0, 0, 512));
        check(511, 2, 512, (0, 511, 1024));
        check(4096, 4096, 4096, (4096, 0, 4096));
        check(12_345, 678, 1, (12_345, 0, 678));
        check(4095, u32::MAX, 4096, (0, 4095, (1 << 32) + 4096));
    }

    #[test]
    fn long_reads_take_slabs_by_their_length() {
        let check = |length: u32, expected: usize| {
            let extent = Extent {
                offset: 0,
                length,
                file: 0,
            };
            assert_eq!(Read::new(0, extent, 1, (8192, 4)).slabs, expected);
        };
        check(0, 1);
        check(8192, 1);
        check(16_384, 1);
        check(16_385, 2);
        check(65_536, 4);
        check(u32::MAX, 4);
    }

    #[test]
    fn pauses_are_bounded() {
        let check = |errno: i32, failures: u32, expected_ms: Option<u64>| {
            assert_eq!(
                pause(errno, failures),
                expected_ms.map(Duration::from_millis)
            );
        };
        check(libc::EIO, 0, Some(1));
        check(libc::EIO, 2, Some(64));
        check(libc::EIO, 3, None);
        check(libc::EINTR, 0, Some(0));
        check(libc::EAGAIN, 999, Some(1));
        check(libc::EAGAIN, 1000, None);
        check(libc::EINVAL, 0, None);
    }
}
