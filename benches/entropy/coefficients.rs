//! A baseline JPEG → its quantised coefficients, in natural order.
//!
//! Enters: a whole file. Leaves: blocks of 64, component by component, in memory that is used
//! again. Never: a panic or a wild write for any bytes; there is no `unsafe` here.
//!
//! Where restart markers cut a scan into segments, several can be read in one loop, a symbol of
//! each in turn: no symbol of one waits for another's, so that a core can work on all at once.

use crate::bits::Bits;
use crate::error::Error;
use crate::header::{Component, Frame, Header};
use crate::stuffing::Scan;
use crate::tables::{END_RUN, Table};

/// Natural order of the zigzag's places. What lies behind a block's end goes to the first place,
/// which is written last.
const NATURAL: [u8; 256] = natural();
/// Where a block is over; further on the end was announced.
const BLOCK: usize = 64;

/// A decoder, with memory that it uses again.
#[derive(Default)]
pub(crate) struct Decoder {
    scan: Scan,
    places: Vec<Place>,
    blocks: Vec<[i16; 64]>,
    components: Vec<Component>,
}

/// One block of an MCU.
#[derive(Clone, Copy)]
struct Place {
    component: usize,
    dc: usize,
    ac: usize,
    /// The block in the first MCU, and how far it is to the same in the next one.
    start: usize,
    row_step: usize,
    column_step: usize,
}

/// What all readers of a scan share.
struct Shared<'a> {
    scan: &'a Scan,
    places: &'a [Place],
    dc: [Option<&'a Table>; 4],
    ac: [Option<&'a Table>; 4],
    mcus_across: usize,
    mcus: usize,
    interval: usize,
}

impl Decoder {
    /// Reads all coefficients of `file`, with up to `LANES` segments in one loop.
    ///
    /// # Errors
    /// Where the file is damaged, or of another kind than sequential Huffman with 8 bits.
    pub(crate) fn read<const LANES: usize>(&mut self, file: &[u8]) -> Result<(), Error> {
        if !file.starts_with(&[0xFF, 0xD8]) {
            return Err(Error::Kind("not a JPEG"));
        }
        let mut header = Header::new();
        let mut at = 0;
        let mut seen = [false; 4];
        while let Some(start) = header.next_scan(file, at)? {
            if !seen.contains(&true) && self.blocks.len() < header.frame.blocks {
                self.blocks.resize(header.frame.blocks, [0; 64]);
            }
            for it in &header.scanned {
                if std::mem::replace(&mut seen[it.component], true) {
                    return Err(Error::Damaged("a component with two scans"));
                }
            }
            at = self.scan.read(file, start)?;
            self.read_scan::<LANES>(&header)?;
        }
        let Frame { components, .. } = header.frame;
        if components.is_empty() || seen[..components.len()].contains(&false) {
            return Err(Error::Truncated);
        }
        self.components = components;
        Ok(())
    }

    /// The blocks that are part of the picture, component by component, row by row.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &[i16; 64]> {
        self.components.iter().flat_map(|it| {
            let rows = self.blocks[it.start..]
                .chunks_exact(it.stride)
                .take(it.down);
            rows.flat_map(|row| &row[..it.across])
        })
    }

    fn read_scan<const LANES: usize>(&mut self, header: &Header) -> Result<(), Error> {
        let frame = &header.frame;
        self.places.clear();
        let alone = header.scanned.len() == 1;
        let (mut mcus_across, mut mcus_down) = (frame.mcus_across, frame.mcus_down);
        for it in &header.scanned {
            let component = frame.components[it.component];
            let (mut horizontal, mut vertical) = (component.horizontal, component.vertical);
            if alone {
                // An MCU is one block then, and blocks that only fill MCUs are not coded.
                (horizontal, vertical) = (1, 1);
                (mcus_across, mcus_down) = (component.across, component.down);
            }
            for y in 0..vertical {
                for x in 0..horizontal {
                    self.places.push(Place {
                        component: it.component,
                        dc: it.dc,
                        ac: it.ac,
                        start: component.start + y * component.stride + x,
                        row_step: vertical * component.stride,
                        column_step: horizontal,
                    });
                }
            }
        }
        let mcus = mcus_across * mcus_down;
        let interval = match header.interval {
            0 => mcus,
            interval => interval,
        };
        if self.scan.segments.len() != mcus.div_ceil(interval) {
            return Err(Error::Damaged("the number of restart segments"));
        }
        let shared = Shared {
            scan: &self.scan,
            places: &self.places,
            dc: header.dc.each_ref().map(Option::as_ref),
            ac: header.ac.each_ref().map(Option::as_ref),
            mcus_across,
            mcus,
            interval,
        };
        shared.read::<LANES>(&mut self.blocks)
    }
}

impl<'a> Shared<'a> {
    fn read<const LANES: usize>(&self, blocks: &mut [[i16; 64]]) -> Result<(), Error> {
        let mut next = 0;
        if LANES > 1 && self.scan.segments.len() >= LANES {
            let mut lanes = [const { None }; LANES];
            for lane in &mut lanes {
                *lane = self.lane(next, blocks)?;
                next += 1;
            }
            // All of them are there: there are as many segments.
            if let Some(mut lanes) = all(lanes) {
                let over = 'together: loop {
                    self.read_together(&mut lanes, blocks)?;
                    for (index, lane) in lanes.iter_mut().enumerate() {
                        if lane.at >= BLOCK && !lane.next_block(self, blocks)? {
                            match self.lane(next, blocks)? {
                                Some(fresh) => *lane = fresh,
                                None => break 'together index,
                            }
                            next += 1;
                        }
                    }
                };
                for (index, lane) in lanes.iter_mut().enumerate() {
                    if index != over {
                        lane.finish(self, blocks)?;
                    }
                }
            }
        }
        while let Some(mut lane) = self.lane(next, blocks)? {
            lane.finish(self, blocks)?;
            next += 1;
        }
        Ok(())
    }

    /// Takes symbols of all lanes in turn, until a block is over.
    #[inline(always)]
    fn read_together<const LANES: usize>(
        &self,
        lanes: &mut [Lane<'a>; LANES],
        blocks: &mut [[i16; 64]],
    ) -> Result<(), Error> {
        let bytes = self.scan.bytes();
        // In registers meanwhile.
        let mut bits: [Bits; LANES] = std::array::from_fn(|lane| lanes[lane].bits);
        let mut at: [usize; LANES] = std::array::from_fn(|lane| lanes[lane].at);
        while at.iter().all(|&at| at < BLOCK) {
            for lane in 0..LANES {
                let block = &mut blocks[lanes[lane].block];
                at[lane] = take(&mut bits[lane], bytes, lanes[lane].ac, block, at[lane])?;
            }
        }
        for (lane, (bits, at)) in lanes.iter_mut().zip(bits.into_iter().zip(at)) {
            (lane.bits, lane.at) = (bits, at);
        }
        Ok(())
    }

    /// A reader of segment `index`, in its first block. `None` behind the last segment.
    fn lane(&self, index: usize, blocks: &mut [[i16; 64]]) -> Result<Option<Lane<'a>>, Error> {
        let Some(segment) = self.scan.segments.get(index) else {
            return Ok(None);
        };
        let first = index * self.interval;
        let table = self.ac.iter().copied().flatten().next();
        let mut lane = Lane {
            bits: Bits::at(segment.start),
            end: segment.end * 8,
            at: 0,
            block: 0,
            ac: table.ok_or(Error::Damaged("no table"))?,
            previous: [0; 4],
            dc: 0,
            place: 0,
            row: first / self.mcus_across,
            column: first % self.mcus_across,
            mcus_left: self.interval.min(self.mcus - first),
        };
        lane.begin(self, blocks)?;
        Ok(Some(lane))
    }
}

/// The reader of one segment.
struct Lane<'a> {
    bits: Bits,
    /// Place in the zigzag of the current block; 64 and more where it is over.
    at: usize,
    block: usize,
    ac: &'a Table,
    dc: i16,
    /// Bits to the end of the segment, from the start of all bytes.
    end: usize,
    previous: [i32; 4],
    place: usize,
    row: usize,
    column: usize,
    mcus_left: usize,
}

impl<'a> Lane<'a> {
    /// Closes the current block and begins the next. `false` where the segment is over.
    #[inline(always)]
    fn next_block(&mut self, shared: &Shared<'a>, blocks: &mut [[i16; 64]]) -> Result<bool, Error> {
        blocks[self.block][0] = self.dc;
        if self.at > BLOCK && self.at <= END_RUN as usize {
            return Err(Error::Damaged("a run beyond its block"));
        }
        self.place += 1;
        if self.place == shared.places.len() {
            self.place = 0;
            self.column += 1;
            if self.column == shared.mcus_across {
                self.column = 0;
                self.row += 1;
            }
            self.mcus_left -= 1;
            if self.mcus_left == 0 {
                return match self.bits.used() > self.end {
                    true => Err(Error::Damaged("a segment that ends early")),
                    false => Ok(false),
                };
            }
        }
        self.begin(shared, blocks)?;
        Ok(true)
    }

    /// Reads the block's DC value. It is written when the block is over.
    #[inline(always)]
    fn begin(&mut self, shared: &Shared<'a>, blocks: &mut [[i16; 64]]) -> Result<(), Error> {
        let place = &shared.places[self.place];
        self.block = place.start + self.row * place.row_step + self.column * place.column_step;
        blocks[self.block] = [0; 64];
        let (Some(dc), Some(ac)) = (shared.dc[place.dc & 3], shared.ac[place.ac & 3]) else {
            return Err(Error::Damaged("no table"));
        };
        self.ac = ac;
        self.bits.refill(shared.scan.bytes());
        let symbol = dc.take(&mut self.bits).ok_or(BAD_CODE)?;
        let previous = &mut self.previous[place.component & 3];
        *previous = previous.wrapping_add(symbol.value);
        self.dc = *previous as i16;
        self.at = 1;
        Ok(())
    }

    /// Reads the rest of the segment.
    fn finish(&mut self, shared: &Shared<'a>, blocks: &mut [[i16; 64]]) -> Result<(), Error> {
        loop {
            let bytes = shared.scan.bytes();
            let block = &mut blocks[self.block];
            // In registers meanwhile.
            let (mut bits, mut at, ac) = (self.bits, self.at, self.ac);
            while at < BLOCK {
                at = take(&mut bits, bytes, ac, block, at)?;
            }
            (self.bits, self.at) = (bits, at);
            if !self.next_block(shared, blocks)? {
                return Ok(());
            }
        }
    }
}

const BAD_CODE: Error = Error::Damaged("no code begins so");

/// Takes one symbol: the value is written, and the answer is the place behind it.
#[inline(always)]
fn take(
    bits: &mut Bits,
    bytes: &[u8],
    ac: &Table,
    block: &mut [i16; 64],
    at: usize,
) -> Result<usize, Error> {
    bits.refill(bytes);
    let symbol = ac.take(bits).ok_or(BAD_CODE)?;
    let to = at + symbol.run as usize;
    block[usize::from(NATURAL[to & 0xFF] & 63)] = symbol.value as i16;
    Ok(to + 1)
}

fn all<T, const N: usize>(values: [Option<T>; N]) -> Option<[T; N]> {
    values.iter().all(Option::is_some).then(|| {
        values.map(|value| match value {
            Some(value) => value,
            None => unreachable!("all are there"),
        })
    })
}

/// ITU-T T.81, figure A.6: diagonals, up and down in turn.
const fn natural() -> [u8; 256] {
    let mut order = [0; 256];
    let (mut row, mut column) = (0_u8, 0_u8);
    let mut at = 0;
    while at < BLOCK {
        order[at] = row * 8 + column;
        let up = (row + column) % 2 == 0;
        match (up, row, column) {
            (true, _, 7) => row += 1,
            (true, 0, _) => column += 1,
            (true, _, _) => {
                row -= 1;
                column += 1;
            }
            (false, 7, _) => column += 1,
            (false, _, 0) => row += 1,
            (false, _, _) => {
                row += 1;
                column -= 1;
            }
        }
        at += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use loaderd_decode::Limits;
    use loaderd_decode::encode::{Encoder, Subsampling};
    use loaderd_decode::tile::tile;
    use proptest::prelude::*;

    use super::*;
    use crate::reference;

    fn picture(subsampling: Subsampling, restart_mcus: u16, width: u32, height: u32) -> Vec<u8> {
        let count = (width * height) as usize * subsampling.channels();
        let pixels: Vec<u8> = (0..count).map(|at| (at * at / 7 + at / 3) as u8).collect();
        let encoder = Encoder {
            quality: 93,
            subsampling,
            restart_mcus,
            ..Encoder::default()
        };
        encoder.encode(&pixels, width, height).expect("it encodes")
    }

    fn check<const LANES: usize>(decoder: &mut Decoder, jpeg: &[u8]) {
        decoder.read::<LANES>(jpeg).expect("it is whole");
        let found: Vec<_> = decoder.blocks().copied().collect();
        assert!(reference::blocks(jpeg, found.len()).expect("as many blocks") == found);
    }

    #[test]
    fn coefficients_are_those_of_libjpeg() {
        let mut decoder = Decoder::default();
        for subsampling in Subsampling::ALL {
            for (width, height) in [(1, 1), (17, 33), (100, 51), (161, 90)] {
                for restart_mcus in [0, 1, 3] {
                    let jpeg = picture(subsampling, restart_mcus, width, height);
                    check::<1>(&mut decoder, &jpeg);
                    check::<2>(&mut decoder, &jpeg);
                    check::<4>(&mut decoder, &jpeg);
                }
                if let Ok(tiled) = tile(&picture(subsampling, 0, width, height), &Limits::default())
                {
                    check::<4>(&mut decoder, &tiled.jpeg);
                }
            }
        }
    }

    proptest! {
        /// Whatever the bytes are: blocks or an error, and no panic.
        #[test]
        fn damaged_files_end_in_words(
            at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            end in any::<prop::sample::Index>(),
            restart_mcus in 0_u16..3,
        ) {
            let mut jpeg = picture(Subsampling::S420, restart_mcus, 40, 40);
            for (index, byte) in at {
                let index = index.index(jpeg.len());
                jpeg[index] = byte;
            }
            let mut decoder = Decoder::default();
            let _ = decoder.read::<1>(&jpeg);
            let _ = decoder.read::<2>(&jpeg);
            jpeg.truncate(end.index(jpeg.len()));
            let _ = decoder.read::<1>(&jpeg);
        }
    }
}
