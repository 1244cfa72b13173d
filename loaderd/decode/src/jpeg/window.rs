//! A segment's bytes → bits, most significant first.
//!
//! Enters: a scan's bytes. Leaves: part of a segment at a time, without the zeros that are stuffed
//! behind 0xff, and at least 56 bits to look at after every refill. Never: a byte behind a marker.
//! Bits behind a segment's end are noise, and [`Bits::used`] says who has read them.

use super::codes::Length;
use super::entropy::BLOCKS_MAX;

/// Most bytes of an MCU: a code and a value of 31 bits for each coefficient.
const MCU_BYTES_MAX: usize = BLOCKS_MAX * 64 * 4;

/// Most bits of a code and its value.
const SYMBOL_BITS_MAX: u32 = 31;

/// Bytes that are taken from a scan at a time.
pub(super) const WINDOW_BYTES: usize = 8 << 10;

/// Part of a segment, without stuffing.
#[derive(Debug)]
pub(super) struct Window {
    /// Eight more than are filled, so that a refill at the last byte finds as many.
    pub(super) bytes: Box<[u8; WINDOW_BYTES + 8]>,
    pub(super) filled: usize,
    /// The scan's byte behind those that are here.
    pub(super) next: usize,
    /// Whether that is a marker, or the end.
    is_last: bool,
}

impl Window {
    pub(super) fn new() -> Window {
        Window {
            bytes: Box::new([0; WINDOW_BYTES + 8]),
            filled: 0,
            next: 0,
            is_last: false,
        }
    }

    pub(super) fn begin(&mut self, next: usize) {
        self.filled = 0;
        self.next = next;
        self.is_last = false;
    }

    /// Whether there may be less than an MCU, and more to be had.
    pub(super) fn wants_more(&self, bits: &Bits) -> bool {
        !self.is_last && self.filled < bits.position + MCU_BYTES_MAX + 8
    }

    /// Whether the marker, or the end, is less than a byte away.
    pub(super) fn is_spent(&self, bits: &Bits) -> bool {
        self.is_last && self.filled * 8 < bits.used() + 8
    }

    /// Fills what `bits` have left free.
    #[inline(never)]
    pub(super) fn fill(&mut self, bits: &mut Bits, data: &[u8]) {
        // Bits that are in the buffer already are of the last eight bytes before the place.
        let passed = bits.position.saturating_sub(8);
        self.bytes.copy_within(passed..self.filled, 0);
        self.filled -= passed;
        bits.position -= passed;
        while self.filled < WINDOW_BYTES {
            let rest = data.get(self.next..).unwrap_or(&[]);
            let room = &mut self.bytes[self.filled..WINDOW_BYTES];
            let most = room.len().min(rest.len());
            let plain = memchr::memchr(0xff, &rest[..most]).unwrap_or(most);
            room[..plain].copy_from_slice(&rest[..plain]);
            self.filled += plain;
            self.next += plain;
            let rest = &rest[plain..];
            if plain == most && !rest.is_empty() {
                return;
            }
            let fill = rest.iter().position(|&byte| byte != 0xff);
            let Some(fill) = fill.filter(|&fill| rest[fill] == 0) else {
                self.is_last = true;
                return;
            };
            self.bytes[self.filled] = 0xff;
            self.filled += 1;
            self.next += fill + 1;
        }
    }

    /// The marker behind the window, behind any fill bytes.
    pub(super) fn marker(&self, data: &[u8]) -> Option<u8> {
        let rest = data.get(self.next..)?;
        rest.iter().copied().find(|&byte| byte != 0xff)
    }
}

/// A place in a window, and the bits there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bits {
    /// The next byte, of which no bit counts as read into `buffer`.
    position: usize,
    /// The next bits, from the top. Below the `count` that count lie bits that the next refill
    /// puts there again, the same ones.
    pub(super) buffer: u64,
    count: u32,
}

impl Bits {
    /// Afterwards there are at least 56 bits, without a branch that data decide.
    #[inline(always)]
    pub(super) fn refill(&mut self, window: &[u8]) {
        if let Some(&next) = window
            .get(self.position..)
            .and_then(|rest| rest.first_chunk())
        {
            self.buffer |= u64::from_be_bytes(next) >> self.count;
        }
        self.position += (63 - self.count as usize) >> 3;
        self.count |= 56;
    }

    /// Afterwards there are at least as many bits as a code and a value may take. Less work than a
    /// refill where there are mostly enough, and a branch.
    #[inline(always)]
    pub(super) fn top_up(&mut self, window: &[u8]) {
        if self.count < SYMBOL_BITS_MAX {
            self.refill(window);
        }
    }

    /// Goes on by so many bits, no more than there are.
    #[inline(always)]
    pub(super) fn skip(&mut self, Length(length): Length) {
        self.buffer <<= length & 63;
        self.count = self.count.wrapping_sub(length) & 63;
    }

    /// Bits from the window's start to the next one.
    pub(super) fn used(&self) -> usize {
        self.position * 8 - self.count as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_bytes_are_data() {
        let data: Vec<u8> = (0..40).flat_map(|at| [0xfe, 0xff, 0x00, at]).collect();
        let mut window = Window::new();
        window.fill(&mut Bits::default(), &data);
        let expected: Vec<u8> = (0..40).flat_map(|at| [0xfe, 0xff, at]).collect();
        assert_eq!(&window.bytes[..window.filled], expected);
        assert!(window.is_last);
    }
}
