//! WebP (RFC 9649): the container's chunks, and the picture as RGB.
//!
//! Enters: the bytes of a WebP, a region. Leaves: RGB rows of that region, decoded by
//! `image-webp`. Transparency is dropped without a look at it, as in Pillow's
//! `convert("RGB")`; of an animation there is the first frame, on a black canvas where it
//! doesn't cover it. Never: colour management.

mod tables;

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use crate::error::DecodeError;
use crate::frame::Frame;
use crate::header::Header;
use crate::magic::Format;
use crate::opened::{Region, room};
use crate::orientation::Orientation;

/// Flags of a VP8X chunk (section 2.7).
const ANIMATED: u8 = 0x02;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;

/// A WebP whose chunks are all there.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    width: u32,
    height: u32,
    frame: Frame,
    picture: Picture<'a>,
    orientation: Orientation,
    frames_ignored: bool,
    /// What the decoder's code tables take; known once they were counted.
    table_bytes: u64,
}

/// The chunk that holds an image's colours.
#[derive(Debug, Clone, Copy)]
struct Picture<'a> {
    name: [u8; 4],
    body: &'a [u8],
    width: u32,
    height: u32,
    /// Bytes a pixel of what the decoder returns.
    channels: u32,
}

/// Names and bodies of the chunks in `data`, each padded to an even length.
fn chunks(mut data: &[u8]) -> impl Iterator<Item = Result<([u8; 4], &[u8]), DecodeError>> {
    std::iter::from_fn(move || {
        let (head, rest) = data.split_at_checked(8)?;
        let length = little(&head[4..]) as usize;
        let Some(body) = rest.get(..length) else {
            data = &[];
            return Some(Err(corrupt("a chunk that ends outside of the file")));
        };
        data = rest.get(length + length % 2..).unwrap_or(&[]);
        Some(Ok(([head[0], head[1], head[2], head[3]], body)))
    })
}

impl<'a> Picture<'a> {
    /// What a chunk is, if it holds colours.
    fn of(name: [u8; 4], body: &'a [u8]) -> Result<Option<Picture<'a>>, DecodeError> {
        let (width, height, channels) = match &name {
            // RFC 6386, section 9.1: a key frame's tag, start code and size.
            b"VP8 " => {
                let head = body.first_chunk::<10>();
                let head = head.ok_or_else(|| corrupt("a picture without a header"))?;
                if head[0] & 1 != 0 || head[3..6] != [0x9d, 0x01, 0x2a] {
                    return Err(corrupt("a picture that is no VP8 key frame"));
                }
                let side = |at: usize| u32::from(head[at]) + u32::from(head[at + 1] & 0x3f) * 256;
                (side(6), side(8), 3)
            }
            // RFC 9649, section 3.4.
            b"VP8L" => {
                let head = body.first_chunk::<5>().filter(|head| head[0] == 0x2f);
                let head = head.ok_or_else(|| corrupt("a picture that is no VP8L"))?;
                let bits = little(&head[1..]);
                let alpha = bits >> 28 & 1;
                ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1, 3 + alpha)
            }
            _ => return Ok(None),
        };
        if width == 0 || height == 0 {
            return Err(corrupt("a picture without rows or columns"));
        }
        Ok(Some(Picture {
            name,
            body,
            width,
            height,
            channels,
        }))
    }

    /// The first picture among chunks.
    fn find(data: &'a [u8]) -> Result<Picture<'a>, DecodeError> {
        for chunk in chunks(data) {
            let (name, body) = chunk?;
            if let Some(picture) = Picture::of(name, body)? {
                return Ok(picture);
            }
        }
        Err(corrupt("no picture in it"))
    }

    /// A file with this picture alone, in the simple layout (section 2.5, 2.6).
    fn file(&self) -> Vec<u8> {
        let padding = self.body.len() % 2;
        let mut file = Vec::with_capacity(20 + self.body.len() + padding);
        file.extend(b"RIFF");
        file.extend((12 + self.body.len() as u32 + padding as u32).to_le_bytes());
        file.extend(b"WEBP");
        file.extend(self.name);
        file.extend((self.body.len() as u32).to_le_bytes());
        file.extend(self.body);
        file.resize(file.len() + padding, 0);
        file
    }
}

impl<'a> Layout<'a> {
    pub(crate) fn of(encoded: &'a [u8]) -> Result<Layout<'a>, DecodeError> {
        let truncated = || DecodeError::Truncated {
            bytes: encoded.len(),
        };
        let head = encoded.first_chunk::<12>().ok_or_else(truncated)?;
        let data = encoded.get(12..8 + little(&head[4..8]) as usize);
        let data = data.ok_or_else(|| {
            if little(&head[4..8]) < 4 {
                corrupt("a file shorter than its own header")
            } else {
                truncated()
            }
        })?;
        let mut first = chunks(data);
        let (name, body) = first.next().ok_or_else(|| corrupt("no chunks"))??;
        if &name != b"VP8X" {
            let picture = Picture::find(data)?;
            return Ok(Layout::simple(picture));
        }
        let Some(&[flags, _, _, _, ref size @ ..]) = body.first_chunk::<10>() else {
            return Err(corrupt("a header cut short"));
        };
        let (width, height) = (triple(&size[..3]) + 1, triple(&size[3..]) + 1);
        let mut layout = if flags & ANIMATED == 0 {
            Layout::simple(Picture::find(data)?)
        } else {
            Layout::animated(data)?
        };
        let frame = layout.frame;
        let outside = frame.left + frame.width > width || frame.top + frame.height > height;
        let partial = (frame.width, frame.height) != (width, height);
        if outside || partial && flags & ANIMATED == 0 {
            return Err(corrupt("a picture that does not fit its canvas"));
        }
        (layout.width, layout.height) = (width, height);
        let (mut exif, mut xmp) = (None, None);
        if flags & (EXIF | XMP) != 0 {
            for chunk in chunks(data) {
                match chunk? {
                    (name, body) if &name == b"EXIF" && flags & EXIF != 0 => {
                        exif = exif.or(Some(body))
                    }
                    (name, body) if &name == b"XMP " && flags & XMP != 0 => {
                        xmp = xmp.or(Some(body))
                    }
                    _ => {}
                }
            }
        }
        layout.orientation = Orientation::of(exif, xmp);
        Ok(layout)
    }

    fn simple(picture: Picture<'a>) -> Layout<'a> {
        Layout {
            width: picture.width,
            height: picture.height,
            frame: Frame {
                left: 0,
                top: 0,
                width: picture.width,
                height: picture.height,
            },
            picture,
            orientation: Orientation::UPRIGHT,
            frames_ignored: false,
            table_bytes: 0,
        }
    }

    /// The first frame of an animation (section 2.7.1.1).
    fn animated(data: &'a [u8]) -> Result<Layout<'a>, DecodeError> {
        let mut found: Option<Layout<'a>> = None;
        for chunk in chunks(data) {
            let (name, body) = chunk?;
            if &name != b"ANMF" {
                continue;
            }
            if let Some(layout) = &mut found {
                layout.frames_ignored = true;
                continue;
            }
            let (head, inner) = body
                .split_at_checked(16)
                .ok_or_else(|| corrupt("a frame without a header"))?;
            let mut layout = Layout::simple(Picture::find(inner)?);
            layout.frame.left = 2 * triple(&head[..3]);
            layout.frame.top = 2 * triple(&head[3..6]);
            let size = (triple(&head[6..9]) + 1, triple(&head[9..12]) + 1);
            if size != (layout.width, layout.height) {
                return Err(corrupt("a frame that its picture does not fit"));
            }
            found = Some(layout);
        }
        found.ok_or_else(|| corrupt("an animation without frames"))
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            format: Format::WebP,
            width: self.width,
            height: self.height,
            orientation: self.orientation,
            frames_ignored: self.frames_ignored,
        }
    }

    /// Counts the decoder's code tables, of which a few bytes can make gigabytes; beyond
    /// `bytes_max` there may be more of them.
    pub(crate) fn count_tables(&mut self, bytes_max: u64) -> Result<(), DecodeError> {
        let Picture {
            body,
            width,
            height,
            ..
        } = self.picture;
        if &self.picture.name == b"VP8L" {
            self.table_bytes = tables::table_bytes(body, width, height, bytes_max)
                .ok_or_else(|| corrupt("codes that make no sense"))?;
        }
        Ok(())
    }

    /// Bytes that decoding takes: the frame as it is returned, as the decoder holds it
    /// meanwhile (five bytes a pixel at most with what its transforms need, and its code
    /// tables), and a copy of the file.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        self.frame.pixels() * (u64::from(self.picture.channels) + 5)
            + self.picture.body.len() as u64
            + self.table_bytes
    }

    /// Writes the region's pixels to `out`, RGB without gaps. `frame` is scratch.
    pub(crate) fn read(
        &self,
        region: &Region,
        frame: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let mut decoder = WebPDecoder::new(Cursor::new(self.picture.file())).map_err(in_words)?;
        let channels = self.picture.channels as usize;
        let bytes = self.frame.pixels() as usize * channels;
        let size = (self.frame.width, self.frame.height);
        if decoder.dimensions() != size || decoder.output_buffer_size() != Some(bytes) {
            return Err(corrupt("two headers that differ in size"));
        }
        let pixels = room(frame, bytes);
        decoder.read_image(pixels).map_err(in_words)?;
        let width = self.frame.width as usize;
        self.frame.paint(region, [0; 3], out, |row, column, line| {
            let from = (row as usize * width + column as usize) * channels;
            if channels == 3 {
                line.copy_from_slice(&pixels[from..from + line.len()]);
                return;
            }
            let pixels = pixels[from..].chunks_exact(channels);
            for (to, pixel) in line.chunks_exact_mut(3).zip(pixels) {
                to.copy_from_slice(&pixel[..3]);
            }
        });
        Ok(())
    }
}

fn little(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn triple(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}

fn corrupt(message: &str) -> DecodeError {
    DecodeError::Corrupt {
        format: Format::WebP,
        message: message.to_string(),
    }
}

fn in_words(error: DecodingError) -> DecodeError {
    // All chunks are whole: a picture that ends early contradicts its own chunk.
    corrupt(&error.to_string())
}
