//! Compressed image data → unfiltered rows.
//!
//! Enters: IDAT chunks, a row's length. Leaves: one row after the other, in samples as the
//! file has them. Never: more bytes decompressed than were asked for, or more of them in
//! memory than [`buffer_bytes`] says.

use zlib_rs::{Inflate, InflateFlush};

use super::filter::unfilter;
use super::{corrupt, image_data};
use crate::error::DecodeError;
use crate::opened::room;

/// Window of a zlib stream, as large as there is; the stream's own may be smaller.
const WINDOW_BITS: u8 = 15;

/// Bytes that are decompressed at once. Each call copies the window, which costs as much as
/// a row: row by row, inflation took twice the time.
const PIECE_BYTES: u64 = 1 << 17;

/// Room behind a row's samples, so that they can be read in whole vectors.
pub(crate) const BYTES_BEHIND: usize = 15;

/// What [`Rows`] holds of `all_bytes` of image data in rows of up to `row_bytes`: two rows at
/// least, each with its filter's number, and room behind them.
pub(super) fn buffer_bytes(all_bytes: u64, row_bytes: u64) -> u64 {
    PIECE_BYTES.min(all_bytes).max(2 * (row_bytes + 1)) + BYTES_BEHIND as u64
}

/// Rows in the order of the file, unfiltered (section 9).
pub(super) struct Rows<'a, I> {
    inflate: Inflate,
    chunks: I,
    input: &'a [u8],
    /// Bytes that are still to be decompressed.
    left: u64,
    buffer: &'a mut [u8],
    /// Where the row above begins, behind its filter; none where a pass begins.
    above: Option<usize>,
    /// Where the next row begins, with its filter.
    next: usize,
    /// Where what was decompressed ends.
    filled: usize,
    /// What is above a pass.
    blank: Vec<u8>,
}

impl<'a> Rows<'a, ()> {
    /// The first `all_bytes` of the image data that `data` begins with, in rows of at most
    /// `row_bytes`; each has its filter's number before it.
    pub(super) fn new(
        data: &'a [u8],
        all_bytes: u64,
        row_bytes: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Rows<'a, impl Iterator<Item = &'a [u8]>>, DecodeError> {
        let mut rows = Rows {
            // The sum at the stream's end is not looked at: a crop seldom comes so far, and
            // the sums of the chunks are over the same bytes.
            inflate: Inflate::new(false, WINDOW_BITS),
            chunks: image_data(data),
            input: &[],
            left: all_bytes,
            buffer: room(scratch, buffer_bytes(all_bytes, row_bytes) as usize),
            above: None,
            next: 0,
            filled: 0,
            blank: vec![0; row_bytes as usize],
        };
        rows.skip_header()?;
        Ok(rows)
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Rows<'a, I> {
    /// The next row is the first of an image or of a pass of one.
    pub(super) fn begin_pass(&mut self) {
        self.above = None;
    }

    /// The next row, `bytes` long, of which the first `wanted` are unfiltered: as many in
    /// every row of a pass. [`BYTES_BEHIND`] more lie behind them, which mean nothing. A pixel
    /// has `pixel_bytes`, at least 1.
    pub(super) fn next(
        &mut self,
        bytes: usize,
        wanted: usize,
        pixel_bytes: usize,
    ) -> Result<&[u8], DecodeError> {
        if self.filled - self.next <= bytes {
            self.fill()?;
        }
        let start = self.next + 1;
        let (done, rest) = self.buffer.split_at_mut(start);
        let filter = done[self.next];
        let row = &mut rest[..wanted];
        let above = match self.above {
            Some(above) => &done[above..][..wanted],
            None => &self.blank[..wanted],
        };
        match pixel_bytes {
            1 => unfilter::<1>(filter, row, above),
            2 => unfilter::<2>(filter, row, above),
            3 => unfilter::<3>(filter, row, above),
            4 => unfilter::<4>(filter, row, above),
            6 => unfilter::<6>(filter, row, above),
            _ => unfilter::<8>(filter, row, above),
        }?;
        self.above = Some(start);
        self.next = start + bytes;
        Ok(&rest[..wanted + BYTES_BEHIND])
    }

    /// Moves the row above to the buffer's start, and decompresses into what is free then.
    fn fill(&mut self) -> Result<(), DecodeError> {
        let kept = self.above.unwrap_or(self.next);
        self.buffer.copy_within(kept..self.filled, 0);
        self.above = self.above.map(|_| 0);
        self.next -= kept;
        self.filled -= kept;
        let free = (self.buffer.len() - BYTES_BEHIND - self.filled) as u64;
        let end = self.filled + free.min(self.left) as usize;
        while self.filled < end {
            self.take_chunk()?;
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let target = &mut self.buffer[self.filled..end];
            self.inflate
                .decompress(self.input, target, InflateFlush::NoFlush)
                .map_err(|error| corrupt(format!("the image data: {}", error.as_str())))?;
            let read = (self.inflate.total_in() - read) as usize;
            let written = self.inflate.total_out() - written;
            if (read, written) == (0, 0) {
                // The stream has ended before the image.
                return Err(ends_early());
            }
            self.input = &self.input[read..];
            self.filled += written as usize;
            self.left -= written;
        }
        Ok(())
    }

    /// Sees to it that there is input.
    fn take_chunk(&mut self) -> Result<(), DecodeError> {
        while self.input.is_empty() {
            self.input = self.chunks.next().ok_or_else(ends_early)?;
        }
        Ok(())
    }

    /// Reads the stream's first two bytes (RFC 1950, section 2.2).
    fn skip_header(&mut self) -> Result<(), DecodeError> {
        let mut header = [0; 2];
        for byte in &mut header {
            self.take_chunk()?;
            (*byte, self.input) = (self.input[0], &self.input[1..]);
        }
        let [method, flags] = header;
        let is_deflate = method & 0x0f == 8 && method >> 4 <= 7;
        let has_dictionary = flags & 0x20 != 0;
        if !is_deflate || has_dictionary || u16::from_be_bytes(header) % 31 != 0 {
            return Err(corrupt(format!(
                "image data that begin with {method:02x} {flags:02x}"
            )));
        }
        Ok(())
    }
}

fn ends_early() -> DecodeError {
    corrupt("the image data end early".to_string())
}
