//! GIF (89a): the blocks of a file, and its first frame as RGB.
//!
//! Enters: the bytes of a GIF, a region. Leaves: RGB rows of that region. What the frame
//! doesn't cover has the transparent colour, or else the first, and transparent pixels
//! keep their palette's colour: what Pillow's `convert("RGB")` makes of a first frame.
//! Never: a second frame.

use weezl::decode::Configuration;
use weezl::{BitOrder, LzwStatus};

use crate::error::DecodeError;
use crate::frame::Frame;
use crate::header::Header;
use crate::magic::Format;
use crate::opened::{Region, room};
use crate::orientation::Orientation;

const EXTENSION: u8 = 0x21;
const IMAGE: u8 = 0x2c;
const TRAILER: u8 = 0x3b;
const GRAPHIC_CONTROL: u8 = 0xf9;
/// Clear codes in a row. One is enough, and each costs as much as hundreds of pixels.
const CLEARS_MAX: u32 = 1 << 16;

/// A GIF whose blocks are all there. A file may lack its trailer, as some do, but no
/// part of a block.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    width: u32,
    height: u32,
    image: Image<'a>,
    palette: Option<&'a [u8]>,
    /// The colour of what the frame does not cover.
    blank: u8,
    frames_ignored: bool,
}

#[derive(Debug, Clone, Copy)]
struct Image<'a> {
    frame: Frame,
    interlaced: bool,
    palette: Option<&'a [u8]>,
    code_bits: u8,
    /// From the first block of compressed data on.
    data: &'a [u8],
}

/// Reads a file from its start to its end.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.all.get(self.at..self.at + count);
        self.at += count;
        taken.ok_or(DecodeError::Truncated {
            bytes: self.all.len(),
        })
    }

    /// A palette, if the flags of a descriptor announce one.
    fn palette(&mut self, flags: u8) -> Result<Option<&'a [u8]>, DecodeError> {
        if flags & 0x80 == 0 {
            return Ok(None);
        }
        self.take(6 << (flags & 7)).map(Some)
    }

    /// The next block's contents; `None` at the end of a chain of them.
    fn block(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.take(1)?[0] {
            0 => Ok(None),
            length => self.take(length.into()).map(Some),
        }
    }

    fn skip_blocks(&mut self) -> Result<(), DecodeError> {
        while self.block()?.is_some() {}
        Ok(())
    }

    /// What follows the mark of an image.
    fn image(&mut self) -> Result<Image<'a>, DecodeError> {
        let fields = self.take(9)?;
        let frame = Frame {
            left: short(fields, 0),
            top: short(fields, 2),
            width: short(fields, 4),
            height: short(fields, 6),
        };
        let palette = self.palette(fields[8])?;
        let code_bits = self.take(1)?[0];
        let data = self.all.get(self.at..).unwrap_or(&[]);
        self.skip_blocks()?;
        Ok(Image {
            frame,
            interlaced: fields[8] & 0x40 != 0,
            palette,
            code_bits,
            data,
        })
    }
}

impl<'a> Layout<'a> {
    pub(crate) fn of(encoded: &'a [u8]) -> Result<Layout<'a>, DecodeError> {
        let mut bytes = Bytes {
            all: encoded,
            at: 6,
        };
        let screen = bytes.take(7)?;
        let palette = bytes.palette(screen[4])?;
        let mut transparent = None;
        let mut first: Option<Image<'a>> = None;
        let mut frames_ignored = false;
        while bytes.at < encoded.len() || first.is_none() {
            match bytes.take(1)?[0] {
                EXTENSION => {
                    let label = bytes.take(1)?[0];
                    let Some(block) = bytes.block()? else {
                        continue;
                    };
                    if label == GRAPHIC_CONTROL
                        && first.is_none()
                        && let [flags, _, _, colour, ..] = *block
                        && flags & 1 != 0
                    {
                        transparent = Some(colour);
                    }
                    bytes.skip_blocks()?;
                }
                IMAGE => {
                    let image = bytes.image()?;
                    frames_ignored |= first.is_some();
                    first.get_or_insert(image);
                }
                TRAILER => break,
                // Between blocks, readers pass over what they don't know.
                _ => {}
            }
        }
        let image = first.ok_or_else(|| corrupt("no image in it"))?;
        let frame = image.frame;
        if frame.width == 0 || frame.height == 0 {
            return Err(corrupt("an image without rows or columns"));
        }
        if !(1..=8).contains(&image.code_bits) {
            return Err(corrupt("codes of an impossible size"));
        }
        Ok(Layout {
            // As in Pillow, a screen that is too small grows.
            width: short(screen, 0).max(frame.left + frame.width),
            height: short(screen, 2).max(frame.top + frame.height),
            image,
            palette: image.palette.or(palette),
            blank: transparent.unwrap_or(0),
            frames_ignored,
        })
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            format: Format::Gif,
            width: self.width,
            height: self.height,
            orientation: Orientation::UPRIGHT,
            frames_ignored: self.frames_ignored,
        }
    }

    /// Bytes of the frame's palette indices.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        self.image.frame.pixels()
    }

    /// Writes the region's pixels to `out`, RGB without gaps. `frame` is scratch.
    pub(crate) fn read(
        &self,
        region: &Region,
        frame: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let Frame { width, height, .. } = self.image.frame;
        // What lies below the region is not decoded, unless rows are interlaced.
        let rows = if self.image.interlaced {
            height
        } else {
            region
                .bottom
                .saturating_sub(self.image.frame.top)
                .min(height)
        };
        let width = width as usize;
        let indices = room(frame, width * rows as usize);
        decompress(&self.image, indices)?;
        let blank = self.colour(self.blank);
        self.image
            .frame
            .paint(region, blank, out, |row, column, line| {
                let row = if self.image.interlaced {
                    place_of(row, height)
                } else {
                    row
                };
                let row = &indices[row as usize * width + column as usize..];
                for (pixel, &index) in line.chunks_exact_mut(3).zip(row) {
                    pixel.copy_from_slice(&self.colour(index));
                }
            });
        Ok(())
    }

    /// A palette's colour, black beyond its end; without a palette, the grey level.
    fn colour(&self, index: u8) -> [u8; 3] {
        let Some(palette) = self.palette else {
            return [index; 3];
        };
        let at = 3 * usize::from(index);
        palette
            .get(at..at + 3)
            .map_or([0; 3], |colour| [colour[0], colour[1], colour[2]])
    }
}

/// Fills `indices` from the start of the image's data.
fn decompress(image: &Image<'_>, indices: &mut [u8]) -> Result<(), DecodeError> {
    let mut blocks = Bytes {
        all: image.data,
        at: 0,
    };
    let mut decoder = Configuration::new(BitOrder::Lsb, image.code_bits)
        .with_yield_on_full_buffer(true)
        .build();
    let (mut filled, mut clears) = (0, 0);
    let (mut block, mut is_last): (&[u8], bool) = (&[], false);
    while filled < indices.len() {
        if block.is_empty() && !is_last {
            match blocks.block()? {
                Some(next) => block = next,
                None => is_last = true,
            }
        }
        let result = decoder.decode_bytes(block, &mut indices[filled..]);
        filled += result.consumed_out;
        block = &block[result.consumed_in..];
        match result.status {
            Err(_) => return Err(corrupt("a code that means nothing")),
            Ok(LzwStatus::Ok) if result.consumed_out > 0 => clears = 0,
            Ok(LzwStatus::Ok) if clears == CLEARS_MAX => {
                return Err(corrupt("clear codes and no pixels"));
            }
            Ok(LzwStatus::Ok) => clears += 1,
            // Only then does the decoder hold no more codes that it has taken from blocks before.
            Ok(LzwStatus::NoProgress) if block.is_empty() && !is_last => {}
            Ok(LzwStatus::NoProgress | LzwStatus::Done) => break,
        }
    }
    if filled < indices.len() {
        return Err(corrupt("the image data end early"));
    }
    Ok(())
}

/// Where the image's row `row` of `height` comes in an interlaced file (appendix E).
fn place_of(row: u32, height: u32) -> u32 {
    let eighths = height.div_ceil(8);
    let quarters = height.saturating_sub(4).div_ceil(8);
    let halves = height.saturating_sub(2).div_ceil(4);
    match row % 8 {
        0 => row / 8,
        4 => eighths + row / 8,
        2 | 6 => eighths + quarters + row / 4,
        _ => eighths + quarters + halves + row / 2,
    }
}

fn short(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn corrupt(message: &str) -> DecodeError {
    DecodeError::Corrupt {
        format: Format::Gif,
        message: message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix E: every 8th row from 0, every 8th from 4, every 4th from 2, every 2nd
    /// from 1.
    #[test]
    fn interlaced_rows_are_found() {
        for height in 1..40 {
            let order: Vec<u32> = [(0, 8), (4, 8), (2, 4), (1, 2)]
                .into_iter()
                .flat_map(|(first, step)| (first..height).step_by(step))
                .collect();
            for row in 0..height {
                assert_eq!(
                    order[place_of(row, height) as usize],
                    row,
                    "{row} of {height}"
                );
            }
        }
    }
}
