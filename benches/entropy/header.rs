//! A JPEG's segments → its frame, tables and where each scan's data begin.
//!
//! Enters: a file, and a place in it. Leaves: what a scan needs, once the place has come to one.
//! Never: a frame with more than [`PIXELS_MAX`] pixels, or of a kind other than Huffman-coded
//! sequential with 8 bits.

use crate::error::Error;
use crate::tables::{Class, Table};

/// More than this is refused before anything is allocated.
const PIXELS_MAX: usize = 1 << 28;

/// One component of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    pub(crate) id: u8,
    /// Its blocks in one MCU of an interleaved scan.
    pub(crate) horizontal: usize,
    pub(crate) vertical: usize,
    /// Blocks that are part of the picture.
    pub(crate) across: usize,
    pub(crate) down: usize,
    /// Blocks that are kept of each row: whole MCUs.
    pub(crate) stride: usize,
    /// The first block.
    pub(crate) start: usize,
}

/// The frame.
#[derive(Default)]
pub(crate) struct Frame {
    pub(crate) components: Vec<Component>,
    /// MCUs of an interleaved scan.
    pub(crate) mcus_across: usize,
    pub(crate) mcus_down: usize,
    /// Blocks of all components, whole MCUs.
    pub(crate) blocks: usize,
}

/// One component of a scan: its place in the frame, and its tables.
#[derive(Clone, Copy)]
pub(crate) struct Scanned {
    pub(crate) component: usize,
    pub(crate) dc: usize,
    pub(crate) ac: usize,
}

/// What has been read of a file's segments.
pub(crate) struct Header {
    pub(crate) frame: Frame,
    pub(crate) dc: [Option<Table>; 4],
    pub(crate) ac: [Option<Table>; 4],
    /// MCUs of a restart segment; 0: the scan is one segment.
    pub(crate) interval: usize,
    /// Of the last scan header.
    pub(crate) scanned: Vec<Scanned>,
}

impl Header {
    pub(crate) fn new() -> Header {
        Header {
            frame: Frame::default(),
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            interval: 0,
            scanned: Vec::new(),
        }
    }

    /// Reads segments from `at` up to the data of the next scan, and says where these begin;
    /// `None` at the end of the image.
    pub(crate) fn next_scan(&mut self, file: &[u8], mut at: usize) -> Result<Option<usize>, Error> {
        loop {
            let marker = loop {
                match *file.get(at + 1).ok_or(Error::Truncated)? {
                    0xFF if file[at] == 0xFF => at += 1,
                    marker if file[at] == 0xFF => break marker,
                    _ => return Err(Error::Damaged("no marker between segments")),
                }
            };
            at += 2;
            if marker == 0xD8 {
                continue;
            }
            if marker == 0xD9 {
                return Ok(None);
            }
            let length = u16_at(file, at).ok_or(Error::Truncated)?;
            let body = file.get(at + 2..at + length).ok_or(Error::Truncated)?;
            at += length;
            match marker {
                0xC0 | 0xC1 => self.read_frame(body)?,
                0xC4 => self.read_tables(body)?,
                0xC2 | 0xC3 | 0xC5..=0xCF => return Err(Error::Kind("not sequential Huffman")),
                0xDA => {
                    self.read_scan(body)?;
                    return Ok(Some(at));
                }
                0xDC => return Err(Error::Kind("its height comes late")),
                0xDD => self.interval = u16_at(body, 0).ok_or(Error::Damaged("DRI"))?,
                _ => {}
            }
        }
    }

    /// SOF, ITU-T T.81 B.2.2.
    fn read_frame(&mut self, body: &[u8]) -> Result<(), Error> {
        const DAMAGED: Error = Error::Damaged("the frame header");
        let (Some(height), Some(width)) = (u16_at(body, 1), u16_at(body, 3)) else {
            return Err(DAMAGED);
        };
        let count = usize::from(*body.get(5).ok_or(DAMAGED)?);
        if !self.frame.components.is_empty() || body.len() != 6 + 3 * count || width == 0 {
            return Err(DAMAGED);
        }
        if body[0] != 8 || height == 0 || !(1..=4).contains(&count) {
            return Err(Error::Kind("bits, components or height"));
        }
        if width * height > PIXELS_MAX {
            return Err(Error::Kind("too large"));
        }
        let factors = |it: &[u8]| (usize::from(it[1] >> 4), usize::from(it[1] & 15));
        let each = || body[6..].chunks_exact(3);
        if !each().all(|it| {
            let (horizontal, vertical) = factors(it);
            (1..=4).contains(&horizontal) && (1..=4).contains(&vertical)
        }) {
            return Err(DAMAGED);
        }
        let most_across = each().map(|it| factors(it).0).max().unwrap_or(1);
        let most_down = each().map(|it| factors(it).1).max().unwrap_or(1);
        let frame = &mut self.frame;
        frame.mcus_across = width.div_ceil(8 * most_across);
        frame.mcus_down = height.div_ceil(8 * most_down);
        for it in each() {
            let (horizontal, vertical) = factors(it);
            let stride = frame.mcus_across * horizontal;
            frame.components.push(Component {
                id: it[0],
                horizontal,
                vertical,
                across: (width * horizontal).div_ceil(8 * most_across),
                down: (height * vertical).div_ceil(8 * most_down),
                stride,
                start: frame.blocks,
            });
            frame.blocks += stride * frame.mcus_down * vertical;
        }
        Ok(())
    }

    /// DHT, B.2.4.2.
    fn read_tables(&mut self, mut body: &[u8]) -> Result<(), Error> {
        const DAMAGED: Error = Error::Damaged("a Huffman table");
        while let Some((&kind, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(DAMAGED)?;
            let count = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(count).ok_or(DAMAGED)?;
            let (class, tables) = match kind >> 4 {
                0 => (Class::Dc, &mut self.dc),
                1 => (Class::Ac, &mut self.ac),
                _ => return Err(DAMAGED),
            };
            let table = tables.get_mut(usize::from(kind & 15)).ok_or(DAMAGED)?;
            *table = Some(Table::new(class, counts, symbols)?);
            body = rest;
        }
        Ok(())
    }

    /// SOS, B.2.3.
    fn read_scan(&mut self, body: &[u8]) -> Result<(), Error> {
        const DAMAGED: Error = Error::Damaged("a scan header");
        let count = usize::from(*body.first().ok_or(DAMAGED)?);
        if !(1..=4).contains(&count) || body.len() != 4 + 2 * count {
            return Err(DAMAGED);
        }
        self.scanned.clear();
        for it in body[1..=2 * count].chunks_exact(2) {
            let components = &self.frame.components;
            let component = components.iter().position(|known| known.id == it[0]);
            let component = component.ok_or(DAMAGED)?;
            if self.scanned.iter().any(|it| it.component == component) {
                return Err(DAMAGED);
            }
            let (dc, ac) = (usize::from(it[1] >> 4), usize::from(it[1] & 15));
            let known = |tables: &[Option<Table>; 4], index: usize| {
                tables.get(index).is_some_and(Option::is_some)
            };
            if !known(&self.dc, dc) || !known(&self.ac, ac) {
                return Err(Error::Kind("without tables of its own"));
            }
            self.scanned.push(Scanned { component, dc, ac });
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let two = bytes.get(at..)?.first_chunk::<2>()?;
    Some(usize::from(u16::from_be_bytes(*two)))
}
