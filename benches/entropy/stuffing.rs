//! The bytes of a scan → the same without stuffing, and where its restart segments lie.
//!
//! Enters: a file, and where the data of a scan begin. Leaves: bytes that can be read as bits
//! without looking at them, one segment behind the other. Never: restart markers out of order.

use std::ops::Range;

use crate::error::Error;

/// Bytes behind the last segment that may be read.
const PADDING: usize = 16;
/// Bytes that are copied at once.
const STRIDE: usize = 16;

/// The data of one scan. Its memory is used again.
#[derive(Default)]
pub(crate) struct Scan {
    buffer: Vec<u8>,
    /// Where each segment lies in [`bytes`](Self::bytes).
    pub(crate) segments: Vec<Range<usize>>,
}

impl Scan {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads the scan whose data begin at `start`. The answer is where the next marker stands.
    ///
    /// # Errors
    /// Where no marker ends it, or restart markers are out of order.
    pub(crate) fn read(&mut self, file: &[u8], start: usize) -> Result<usize, Error> {
        let size = file.len() - start + PADDING;
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
        self.segments.clear();
        let out = self.buffer.as_mut_slice();
        let (mut from, mut to, mut begun) = (start, 0, 0);
        loop {
            // `to` never comes closer to its end than `from` to its own, and there is room for a
            // stride behind either.
            while let Some(chunk) = file
                .get(from..)
                .and_then(|rest| rest.first_chunk::<STRIDE>())
            {
                out[to..to + STRIDE].copy_from_slice(chunk);
                let clean = clean_bytes(chunk);
                from += clean;
                to += clean;
                if clean < STRIDE {
                    break;
                }
            }
            let byte = *file.get(from).ok_or(Error::Truncated)?;
            if byte != 0xFF {
                // In the last stride of the file.
                out[to] = byte;
                from += 1;
                to += 1;
                continue;
            }
            match *file.get(from + 1).ok_or(Error::Truncated)? {
                0 => {
                    out[to] = 0xFF;
                    to += 1;
                    from += 2;
                }
                // A fill byte.
                0xFF => from += 1,
                marker => {
                    self.segments.push(begun..to);
                    begun = to;
                    if !(0xD0..=0xD7).contains(&marker) {
                        return Ok(from);
                    }
                    if usize::from(marker - 0xD0) != (self.segments.len() - 1) % 8 {
                        return Err(Error::Damaged("the order of restart markers"));
                    }
                    from += 2;
                }
            }
        }
    }
}

/// How many bytes come before the first 0xFF.
#[inline(always)]
fn clean_bytes(chunk: &[u8; STRIDE]) -> usize {
    let mut found = 0_u32;
    // Compares and packs: two instructions of SSE2.
    for (index, byte) in chunk.iter().enumerate() {
        found |= u32::from(*byte == 0xFF) << index;
    }
    (found | 1 << STRIDE).trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_told_apart_and_stuffing_goes() {
        let mut scan = Scan::default();
        for length in 0..70_u8 {
            let plain: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(85)).collect();
            let mut file = vec![1, 2, 3];
            for marker in [0xD0, 0xD1, 0xD9] {
                for &byte in &plain {
                    file.push(byte);
                    if byte == 0xFF {
                        file.push(0);
                    }
                }
                file.extend([0xFF, 0xFF, marker]);
            }
            let end = scan.read(&file, 3).expect("it is whole");
            assert_eq!(&file[end..], [0xFF, 0xD9]);
            assert_eq!(scan.segments.len(), 3);
            for segment in &scan.segments {
                assert_eq!(scan.bytes()[segment.clone()], plain);
            }
            for cut in 3..file.len() - 1 {
                assert_eq!(scan.read(&file[..cut], 3), Err(Error::Truncated));
            }
        }
        assert!(scan.read(&[1, 0xFF, 0xD1, 2, 0xFF, 0xD9], 0).is_err());
    }
}
