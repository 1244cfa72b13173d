//! Entropy-coded bytes without stuffing → bits, most significant first.
//!
//! Enters: the destuffed bytes of a scan, a position in them. Leaves: at least 56 bits to look at
//! after every refill, without a branch that data decide. Never: a read outside the bytes; behind
//! their end come zeros, and [`Bits::used`] says how far the reader really got.

/// A reader's place in bytes that it does not hold, so that several can share them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bits {
    /// The next byte that no bit of is in `buffer` for certain.
    position: usize,
    /// The next bits, from the top. Below the `count` certain ones lie bits that the next refill
    /// puts there again, the same ones.
    buffer: u64,
    count: u32,
}

impl Bits {
    pub(crate) fn at(position: usize) -> Bits {
        Bits {
            position,
            ..Bits::default()
        }
    }

    /// Afterwards 56 bits or more are there.
    #[inline(always)]
    pub(crate) fn refill(&mut self, bytes: &[u8]) {
        if let Some(&next) = bytes
            .get(self.position..)
            .and_then(|rest| rest.first_chunk())
        {
            self.buffer |= u64::from_be_bytes(next) >> self.count;
        }
        self.position += (63 - self.count as usize) >> 3;
        self.count |= 56;
    }

    /// The next `count` bits, 1 to 32 of them, as a number.
    #[inline(always)]
    pub(crate) fn peek(&self, count: u32) -> usize {
        (self.buffer >> (64 - count)) as usize
    }

    /// Goes on by `count` bits, no more than there are since the last refill.
    #[inline(always)]
    pub(crate) fn skip(&mut self, count: u32) {
        self.buffer <<= count & 63;
        self.count = self.count.wrapping_sub(count) & 63;
    }

    /// The value of the `size` bits, 0 to 15, behind `length` others, 0 to 16, as the standard's
    /// EXTEND has it (F.2.2.1): with a leading zero they mean a negative number.
    #[inline(always)]
    pub(crate) fn value(&self, length: u32, size: u32) -> i32 {
        let rest = self.buffer << (length & 63);
        let raw = ((rest >> 1) >> ((63 - size) & 63)) as i32;
        let negative = !((rest as i64) >> 63) as i32;
        raw + (negative & ((-1 << (size & 31)) + 1))
    }

    /// Bits from the start of all bytes to the next one that was not taken.
    pub(crate) fn used(&self) -> usize {
        self.position * 8 - self.count as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_in_order_and_behind_the_end_are_zeros() {
        let bytes: Vec<u8> = (0..40).map(|byte| byte * 37 + 11).collect();
        let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
        for count in 1..=31 {
            let mut bits = Bits::at(0);
            let mut at = 0;
            // The last eight bytes are padding, which no file's data reach into.
            while at + count < (bytes.len() - 8) * 8 {
                bits.refill(&bytes);
                let expected = (at..at + count).fold(0, |sum, at| sum * 2 + usize::from(bit(at)));
                assert_eq!(bits.peek(count as u32), expected, "{count} bits at {at}");
                bits.skip(count as u32);
                at += count;
                assert_eq!(bits.used(), at);
            }
            for _ in 0..100 {
                bits.refill(&bytes);
                bits.skip(31);
            }
            bits.refill(&bytes);
            assert_eq!(bits.peek(32), 0);
            assert_eq!(bits.used(), at + 3100);
        }
    }

    #[test]
    fn values_are_extended_as_in_the_standard() {
        let check = |byte: u8, size: u32, expected: i32| {
            let mut bits = Bits::at(0);
            bits.refill(&[byte; 8]);
            assert_eq!(bits.value(0, size), expected, "{size} bits of {byte:08b}");
        };
        check(0b0000_0000, 0, 0);
        check(0b1111_1111, 0, 0);
        check(0b1000_0000, 1, 1);
        check(0b0111_1111, 1, -1);
        check(0b1010_0000, 3, 5);
        check(0b0100_0000, 3, -5);
        check(0b0000_0000, 15, -32767);
        check(0b1111_1111, 15, 32767);
    }
}
