//! A baseline scan's entropy-coded bytes → coefficients, one MCU at a time.
//!
//! Enters: the bytes of a scan up to the file's end, its Huffman codes and restart interval.
//! Leaves: quantised coefficients in natural order, the same as libjpeg's, or what is wrong.
//! Never: a byte behind a marker that is out of its place, a panic for any bytes.
//!
//! It stands in for libjpeg's own decoder of such scans, which reads value after value in two
//! steps, and files with restart markers, which tiled ones are, byte by byte. They differ on damaged
//! files only: libjpeg passes over impossible codes where no restart marker follows, and spoils
//! blocks with `ff ff 00` in them, which by its own comments are one `ff`; and it reads the end of a
//! segment that lies beside the crop, which is passed over here.

use super::codes::{DcCodes, Steps};
use super::window::{Bits, Window};

/// Most blocks of an MCU (ITU-T T.81, B.2.3).
pub(super) const BLOCKS_MAX: usize = 10;

/// Tables of a class.
pub(super) const TABLES: usize = 4;

/// Coefficients of a block.
pub(super) type Block = [i16; 64];

/// What ends a scan before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No code begins so.
    BadCode,
    /// A segment's bits end before its MCUs; at this marker, or at the end of the bytes.
    RanDry(Option<u8>),
    /// Another marker than the restart marker that is due, which has this number.
    NoRestart(Option<u8>, u8),
}

/// A block of an MCU.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// Among the scan's components.
    pub(super) component: u8,
    pub(super) dc: u8,
    pub(super) ac: u8,
}

/// MCUs of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row {
    pub(super) columns: u32,
    /// Those up to the last that anyone looks at. What stands behind it in its segment is not
    /// read: the next restart marker is searched.
    pub(super) wanted: u32,
}

/// One scan while it is read.
#[derive(Debug)]
pub(super) struct Scan {
    places: [Place; BLOCKS_MAX],
    /// Blocks of an MCU.
    blocks: usize,
    /// MCUs between restart markers; 0: there are none.
    interval: u32,
    until_restart: u32,
    next_restart: u8,
    row: Row,
    /// Of the next MCU in its row.
    column: u32,
    previous: [i32; TABLES],
    window: Window,
    bits: Bits,
    pub(super) dc: [DcCodes; TABLES],
    pub(super) ac: [Steps; TABLES],
}

impl Scan {
    pub(super) fn new() -> Scan {
        Scan {
            places: [Place::default(); BLOCKS_MAX],
            blocks: 0,
            interval: 0,
            until_restart: 0,
            next_restart: 0,
            row: Row::default(),
            column: 0,
            previous: [0; TABLES],
            window: Window::new(),
            bits: Bits::default(),
            dc: Default::default(),
            ac: Default::default(),
        }
    }

    /// Begins a scan. The tables that `places` name must have been set.
    pub(super) fn begin(&mut self, places: &[Place], interval: u32, row: Row) {
        self.blocks = places.len();
        self.places[..places.len()].copy_from_slice(places);
        self.interval = interval;
        self.next_restart = 0;
        self.row = row;
        self.column = 0;
        self.begin_segment(0);
    }

    fn begin_segment(&mut self, at: usize) {
        self.until_restart = self.interval;
        self.previous = [0; TABLES];
        self.window.begin(at);
        self.bits = Bits::default();
    }

    /// Blocks of an MCU.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Whether less than a byte lies between what was read so far and the next marker.
    pub(super) fn is_spent(&self) -> bool {
        self.window.is_spent(&self.bits)
    }

    /// Reads the next MCU from `data`, the scan's bytes, always the same, into its blocks, which
    /// are zeros so far. Leaves them so where the MCU is not wanted.
    #[inline(always)]
    pub(super) fn mcu(&mut self, data: &[u8], blocks: &mut [&mut Block]) -> Result<(), Fault> {
        if self.interval > 0 {
            if self.until_restart == 0 {
                self.restart(data)?;
            }
            // Of the row, this MCU and those behind it.
            let rest = self.row.columns - self.column;
            let is_wanted = self.column < self.row.wanted || self.until_restart > rest;
            self.until_restart -= 1;
            self.column = if rest > 1 { self.column + 1 } else { 0 };
            if !is_wanted {
                return Ok(());
            }
        }
        if self.window.wants_more(&self.bits) {
            self.window.fill(&mut self.bits, data);
        }
        let read = self.read(blocks);
        // What lies behind the window's end was no more than noise.
        let lack = if read.is_none() { 16 } else { 0 };
        if self.bits.used() + lack > self.window.filled * 8 {
            return Err(Fault::RanDry(self.window.marker(data)));
        }
        read.ok_or(Fault::BadCode)
    }

    /// Reads an MCU's blocks. `None` where no code begins like the next bits.
    #[inline(always)]
    fn read(&mut self, blocks: &mut [&mut Block]) -> Option<()> {
        let window = &self.window.bytes[..];
        // In registers meanwhile.
        let mut bits = self.bits;
        for (place, block) in self.places[..self.blocks].iter().zip(blocks) {
            let block: &mut Block = block;
            let dc = &self.dc[usize::from(place.dc) % TABLES];
            let ac = &self.ac[usize::from(place.ac) % TABLES];
            let previous = &mut self.previous[usize::from(place.component) % TABLES];
            bits.refill(window);
            let Some(symbol) = dc.look(bits.buffer) else {
                self.bits = bits;
                return None;
            };
            *previous = previous.wrapping_add(symbol.value(bits.buffer));
            bits.skip(symbol.bits());
            block[0] = *previous as i16;
            let mut at = 1;
            'block: loop {
                for is_full in [true, false] {
                    // Two steps almost always find enough.
                    match is_full {
                        true => bits.top_up(window),
                        false => bits.refill(window),
                    }
                    let Some(step) = ac.look(bits.buffer) else {
                        self.bits = bits;
                        return None;
                    };
                    at += step.run();
                    let value = step.first().value(bits.buffer) as i16;
                    if at >= 63 {
                        // What follows is another block's.
                        block[natural(at)] = value;
                        bits.skip(step.first_bits());
                        break 'block;
                    }
                    let next = at + step.places();
                    // Where there is no second value, the first takes its place.
                    block[natural(next - 1)] = step.second();
                    block[natural(at)] = value;
                    bits.skip(step.bits());
                    at = next;
                    if at >= 64 {
                        break 'block;
                    }
                }
            }
        }
        self.bits = bits;
        Some(())
    }

    /// Goes on behind the restart marker that is due. What lies before it is passed over.
    #[inline(never)]
    fn restart(&mut self, data: &[u8]) -> Result<(), Fault> {
        let from = self.window.next;
        let at = memchr::memchr_iter(0xff, data.get(from..).unwrap_or(&[]))
            .map(|offset| from + offset)
            .find(|&at| !matches!(data.get(at + 1), Some(0 | 0xff)));
        let found = at.and_then(|at| data.get(at + 1)).copied();
        let due = self.next_restart;
        let (Some(at), true) = (at, found == Some(0xd0 + due)) else {
            return Err(Fault::NoRestart(found, due));
        };
        self.next_restart = (due + 1) % 8;
        self.begin_segment(at + 2);
        Ok(())
    }
}

/// Where a value belongs, by its place in the zigzag (figure A.6). Runs beyond the block's end
/// lead to its last place, as in libjpeg; an end of block puts the zero there that there is.
const NATURAL: [u8; 128] = {
    let mut table = [63; 128];
    let (mut row, mut column) = (0usize, 0usize);
    let mut at = 0;
    while at < 64 {
        table[at] = (row * 8 + column) as u8;
        let up = (row + column).is_multiple_of(2);
        match (up, row, column) {
            (true, _, 7) => row += 1,
            (true, 0, _) => column += 1,
            (true, ..) => {
                row -= 1;
                column += 1;
            }
            (false, 7, _) => column += 1,
            (false, _, 0) => row += 1,
            (false, ..) => {
                row += 1;
                column -= 1;
            }
        }
        at += 1;
    }
    table
};

#[inline(always)]
fn natural(at: usize) -> usize {
    usize::from(NATURAL[at & 127] & 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jpeg::window::WINDOW_BYTES;

    /// Grey scans of one table: a DC difference of 0 is `0`, of ±1 `10` and a bit; an end of block
    /// is `0`, the value ±1 behind no zeros `10` and a bit, 16 zeros are `110`.
    fn scan(interval: u32) -> Scan {
        let row = Row {
            columns: 1,
            wanted: 1,
        };
        scan_of(interval, row)
    }

    fn scan_of(interval: u32, row: Row) -> Scan {
        let mut scan = Scan::new();
        let mut symbols = [0; 256];
        symbols[..2].copy_from_slice(&[0, 1]);
        scan.dc[0].set(&counts(&[1, 1]), &symbols);
        symbols[..3].copy_from_slice(&[0, 1, 0xf0]);
        scan.ac[0].set(&counts(&[1, 1, 1]), &symbols);
        scan.begin(&[Place::default()], interval, row);
        scan
    }

    fn counts(first: &[u8]) -> [u8; 16] {
        std::array::from_fn(|index| first.get(index).copied().unwrap_or(0))
    }

    fn blocks(scan: &mut Scan, data: &[u8], count: usize) -> Result<Vec<Block>, Fault> {
        let mut blocks = vec![[0; 64]; count];
        for block in &mut blocks {
            scan.mcu(data, &mut [block])?;
        }
        Ok(blocks)
    }

    #[test]
    fn blocks_are_read_in_natural_order() {
        // DC +1; 1, -1, end; DC +1 again, 16 zeros, 1, end.
        let data = [0b1011_0110, 0b0010_1110, 0b1010_1111, 0xff, 0xd9];
        let found = blocks(&mut scan(0), &data, 2).unwrap();
        let mut expected = [[0; 64]; 2];
        (expected[0][0], expected[0][1], expected[0][8]) = (1, 1, -1);
        (expected[1][0], expected[1][19]) = (2, 1);
        assert_eq!(found, expected);
        // What pads the last byte begins no block.
        assert!(blocks(&mut scan(0), &data, 3).is_err());
    }

    #[test]
    fn bytes_behind_the_last_block_are_noticed() {
        let check = |data: &[u8], spent| {
            let mut scan = scan(0);
            blocks(&mut scan, data, 1).unwrap();
            assert_eq!(scan.is_spent(), spent, "{data:02x?}");
        };
        // One block of two bits.
        check(&[0b0011_1111, 0xff, 0xd9], true);
        check(&[0b0011_1111, 0xff, 0xff, 0xd9], true);
        check(&[0b0011_1111], true);
        check(&[0b0011_1111, 0x00, 0xff, 0xd9], false);
        check(&[0b0011_1111, 0xff, 0x00, 0xff, 0xd9], false);
        check(&[0; 2 * WINDOW_BYTES], false);
    }

    #[test]
    fn stuffing_and_restarts() {
        // A block of 1s all over, in 24 bytes.
        let bytes = [0b1011_0110, 0b1101_1011, 0b0110_1101].repeat(8);
        let mut data = Vec::new();
        for restart in 0..20u8 {
            data.extend(&bytes);
            data.extend([0xff, 0xff, 0xd0 + restart % 8]);
        }
        let found = blocks(&mut scan(1), &data, 20).unwrap();
        assert!(found.iter().all(|block| *block == [1; 64]));
        let error = blocks(&mut scan(1), &data, 21).unwrap_err();
        assert_eq!(error, Fault::RanDry(None));
        let error = blocks(&mut scan(2), &data, 2).unwrap_err();
        assert_eq!(error, Fault::RanDry(Some(0xd0)));
        data[bytes.len() + 2] = 0xd1;
        let error = blocks(&mut scan(1), &data, 2).unwrap_err();
        assert_eq!(error, Fault::NoRestart(Some(0xd1), 0));
    }

    /// Rows of four MCUs, of which two are wanted: the others are no codes at all.
    #[test]
    fn what_nobody_wants_is_not_read() {
        let row = Row {
            columns: 4,
            wanted: 2,
        };
        let good = 0b1010_1010;
        // Two MCUs, two that are none, the marker.
        let mut data = [good, 0b1110_1111, 0xff, 0xd0].repeat(3);
        (data[7], data[11]) = (0xd1, 0xd9);
        let found = blocks(&mut scan_of(4, row), &data, 12).unwrap();
        let dc: Vec<i16> = found.iter().map(|block| block[0]).collect();
        assert_eq!(dc, [1, 2, 0, 0].repeat(3));
        // A segment of two rows, whose second is behind the first's rest.
        assert!(blocks(&mut scan_of(8, row), &data, 3).is_err());
        // Segments that begin in one row and end in the next, and one within a row's rest.
        let data = [
            good,
            good | 15,
            0xff,
            0xd0,
            0b1110_1110,
            0xff,
            0xd1,
            good,
            0xff,
            0xd9,
        ];
        let found = blocks(&mut scan_of(3, row), &data, 3).unwrap();
        assert_eq!([found[1][0], found[2][0]], [2, 0]);
        assert!(blocks(&mut scan_of(3, row), &data, 4).is_err());
        // Nor is anything passed over where no marker follows.
        assert!(blocks(&mut scan_of(0, row), &data, 4).is_err());
    }

    /// More bytes than a window holds, in blocks of four bits and of hundreds.
    #[test]
    fn long_scans_are_read_on() {
        let mut text = String::new();
        for index in 0..40_000 {
            text += match index % 1000 {
                999 => "101",
                _ => "1010",
            };
            if index % 1000 == 999 {
                text += &"101".repeat(63);
            }
        }
        let mut data = Vec::new();
        for at in (0..text.len()).step_by(8) {
            let bits = format!("{:1<8}", &text[at..text.len().min(at + 8)]);
            let byte = u8::from_str_radix(&bits, 2).unwrap();
            data.push(byte);
            if byte == 0xff {
                data.push(0);
            }
        }
        assert!(data.len() > 2 * WINDOW_BYTES);
        data.extend([0xff, 0xd9]);
        let mut scan = scan(0);
        for index in 0..40_000 {
            let mut block = [0; 64];
            scan.mcu(&data, &mut [&mut block]).unwrap();
            let value = i16::from(index % 1000 == 999);
            let dc = (index + 1) as u16 as i16;
            assert_eq!(
                (block[0], block[1], block[63]),
                (dc, value, value),
                "{index}"
            );
        }
    }

    #[test]
    fn ends_and_bad_codes_are_told_apart() {
        let check = |data: &[u8], fault| {
            assert_eq!(
                blocks(&mut scan(0), data, 9).unwrap_err(),
                fault,
                "{data:02x?}"
            );
        };
        check(&[0xff, 0xd9], Fault::RanDry(Some(0xd9)));
        check(&[], Fault::RanDry(None));
        check(&[0xff], Fault::RanDry(None));
        check(&[0b1110_0000; 9], Fault::BadCode);
        check(&[0b1011_0000, 0xff, 0xd3], Fault::RanDry(Some(0xd3)));
    }

    /// A segment may end anywhere in the window, up to its last byte.
    #[test]
    fn the_windows_last_bytes_are_read() {
        for bytes in WINDOW_BYTES - 9..WINDOW_BYTES + 9 {
            // Each byte two blocks, DC +1 and +1; the last six bytes -1 and +1.
            let mut data = vec![0b1010_1010u8; bytes];
            data[bytes - 6..].fill(0b1000_1010);
            data.extend([0xff, 0xd9]);
            let found = blocks(&mut scan(0), &data, bytes * 2).unwrap();
            let before = found[bytes * 2 - 13][0];
            for pair in found[bytes * 2 - 12..].chunks_exact(2) {
                assert_eq!(
                    [pair[0][0], pair[1][0]],
                    [before - 1, before],
                    "{bytes} bytes"
                );
            }
        }
    }
}
