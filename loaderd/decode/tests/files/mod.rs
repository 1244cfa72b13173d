//! Pictures, and writers of small PNG, WebP and GIF files for tests that need to know every
//! byte.
//!
//! Enters: samples, colours, metadata. Leaves: files as encoders write them, and as none
//! does. Never: a short cut through the code under test.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its part of these"
)]

use loaderd_decode::encode::Encoder;
use zlib_rs::crc32::crc32;
use zlib_rs::{DeflateConfig, compress_bound, compress_slice};

/// A picture with edges, slopes and noise in every channel, so that a sample taken from the
/// wrong side shows.
pub fn picture(width: u32, height: u32, channels: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut pixels = Vec::with_capacity(width as usize * height as usize * channels);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..channels as u32 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let wave = (x * (3 + channel) + y * (5 - channel)) % 256;
                let edge = u32::from((x / 7 + y / 5 + channel) % 3 == 0) * 90;
                pixels.push((wave / 2 + edge + (state >> 28)).min(255) as u8);
            }
        }
    }
    pixels
}

/// Such a picture as a JPEG.
pub fn encode(encoder: Encoder, width: u32, height: u32, seed: u32) -> Vec<u8> {
    let pixels = picture(width, height, encoder.channels(), seed);
    encoder.encode(&pixels, width, height).unwrap()
}

/// A TIFF block whose only entry asks for this orientation.
pub fn exif(value: u8) -> Vec<u8> {
    let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([value, 0, 0, 0, 0, 0, 0, 0]);
    block
}

/// Puts an EXIF block behind a JPEG's first marker.
pub fn with_exif(jpeg: &[u8], value: u8) -> Vec<u8> {
    let block = [&b"Exif\0\0"[..], &exif(value)].concat();
    let mut file = jpeg[..2].to_vec();
    file.extend([0xff, 0xe1]);
    file.extend((block.len() as u16 + 2).to_be_bytes());
    file.extend(block);
    file.extend(&jpeg[2..]);
    file
}

/// One chunk of a PNG.
pub fn png_chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let summed = [&name[..], body].concat();
    let mut chunk = (body.len() as u32).to_be_bytes().to_vec();
    chunk.extend(&summed);
    chunk.extend(crc32(0, &summed).to_be_bytes());
    chunk
}

pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    zlib_by(bytes, DeflateConfig::default())
}

pub fn zlib_by(bytes: &[u8], config: DeflateConfig) -> Vec<u8> {
    let mut room = vec![0; compress_bound(bytes.len()) + 64];
    compress_slice(&mut room, bytes, config).0.to_vec()
}

/// A PNG to be written.
pub struct Png {
    pub width: u32,
    pub height: u32,
    pub colour: u8,
    pub depth: u8,
    pub interlaced: bool,
    /// Samples of all pixels, row by row, without gaps.
    pub samples: Vec<u16>,
    /// Chunks to be put before the image data.
    pub before: Vec<u8>,
    /// Bytes of an IDAT chunk.
    pub split: usize,
}

impl Png {
    pub fn new(width: u32, height: u32, colour: u8, depth: u8, samples: Vec<u16>) -> Png {
        Png {
            width,
            height,
            colour,
            depth,
            interlaced: false,
            samples,
            before: Vec::new(),
            split: usize::MAX,
        }
    }

    /// 8-bit RGB.
    pub fn rgb(width: u32, height: u32, rgb: &[u8]) -> Png {
        let samples = rgb.iter().map(|&value| value.into()).collect();
        Png::new(width, height, 2, 8, samples)
    }

    pub fn channels(colour: u8) -> usize {
        [1, 0, 3, 1, 2, 0, 4][usize::from(colour)]
    }

    pub fn header(&self) -> Vec<u8> {
        let mut body = self.width.to_be_bytes().to_vec();
        body.extend(self.height.to_be_bytes());
        body.extend([self.depth, self.colour, 0, 0, u8::from(self.interlaced)]);
        png_chunk(b"IHDR", &body)
    }

    /// Rows with their filters: one after the other, all five.
    pub fn filtered(&self) -> Vec<u8> {
        let channels = Png::channels(self.colour);
        let pixel_bytes = (channels * usize::from(self.depth)).div_ceil(8);
        let passes: &[[u32; 4]] = if self.interlaced {
            &[
                [0, 0, 8, 8],
                [4, 0, 8, 8],
                [0, 4, 4, 8],
                [2, 0, 4, 4],
                [0, 2, 2, 4],
                [1, 0, 2, 2],
                [0, 1, 1, 2],
            ]
        } else {
            &[[0, 0, 1, 1]]
        };
        let mut out = Vec::new();
        let mut filter = 0;
        for &[left, top, across, down] in passes {
            if left >= self.width {
                continue;
            }
            let mut above: Vec<u8> = Vec::new();
            for y in (top..self.height).step_by(down as usize) {
                let mut bits = Vec::new();
                for x in (left..self.width).step_by(across as usize) {
                    let at = (y * self.width + x) as usize * channels;
                    for &sample in &self.samples[at..at + channels] {
                        bits.extend((0..self.depth).rev().map(|bit| sample >> bit & 1));
                    }
                }
                let row: Vec<u8> = bits
                    .chunks(8)
                    .map(|bits| {
                        let byte = bits.iter().fold(0, |byte, bit| byte << 1 | *bit as u8);
                        byte << (8 - bits.len())
                    })
                    .collect();
                above.resize(row.len(), 0);
                out.push(filter);
                for x in 0..row.len() {
                    let behind = |row: &[u8]| x.checked_sub(pixel_bytes).map_or(0, |at| row[at]);
                    let (a, b, c) = (behind(&row), above[x], behind(&above));
                    let p = i32::from(a) + i32::from(b) - i32::from(c);
                    let guess = match filter {
                        0 => 0,
                        1 => a,
                        2 => b,
                        3 => ((u16::from(a) + u16::from(b)) / 2) as u8,
                        _ => [a, b, c]
                            .into_iter()
                            .min_by_key(|&value| (p - i32::from(value)).abs())
                            .unwrap(),
                    };
                    out.push(row[x].wrapping_sub(guess));
                }
                above = row;
                filter = (filter + 1) % 5;
            }
        }
        out
    }

    pub fn file(&self) -> Vec<u8> {
        self.file_of(zlib(&self.filtered()).chunks(self.split))
    }

    /// The file with these bodies of IDAT chunks.
    pub fn file_of<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        file.extend(self.header());
        file.extend(&self.before);
        for part in parts {
            file.extend(png_chunk(b"IDAT", part));
        }
        file.extend(png_chunk(b"IEND", b""));
        file
    }
}

fn riff_chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut chunk = name.to_vec();
    chunk.extend((body.len() as u32).to_le_bytes());
    chunk.extend(body);
    chunk.resize(chunk.len() + body.len() % 2, 0);
    chunk
}

fn riff(chunks: &[u8]) -> Vec<u8> {
    riff_chunk(b"RIFF", &[b"WEBP", chunks].concat())
}

fn triple(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

/// Lossless WebP of RGB (3) or RGBA (4) pixels.
pub fn webp(width: u32, height: u32, channels: usize, pixels: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let colour = if channels == 3 {
        image_webp::ColorType::Rgb8
    } else {
        image_webp::ColorType::Rgba8
    };
    image_webp::WebPEncoder::new(&mut file)
        .encode(pixels, width, height, colour)
        .unwrap();
    file
}

/// Puts a simple WebP's picture into an extended file, with an EXIF block.
pub fn webp_with_exif(simple: &[u8], width: u32, height: u32, value: u8) -> Vec<u8> {
    let mut head = vec![0x08, 0, 0, 0];
    head.extend(triple(width - 1));
    head.extend(triple(height - 1));
    let chunks = [
        &riff_chunk(b"VP8X", &head),
        &simple[12..],
        &riff_chunk(b"EXIF", &exif(value)),
    ];
    riff(&chunks.map(|chunk| chunk.to_vec()).concat())
}

/// An animation on a canvas: simple WebPs, each with its place and size.
pub fn webp_animation(width: u32, height: u32, frames: &[(&[u8], [u32; 4])]) -> Vec<u8> {
    let mut head = vec![0x02, 0, 0, 0];
    head.extend(triple(width - 1));
    head.extend(triple(height - 1));
    let mut chunks = riff_chunk(b"VP8X", &head);
    chunks.extend(riff_chunk(b"ANIM", &[1, 2, 3, 255, 0, 0]));
    for (simple, [left, top, width, height]) in frames {
        let mut body = [left / 2, top / 2, width - 1, height - 1, 40]
            .map(triple)
            .concat();
        body.push(0);
        body.extend(&simple[12..]);
        chunks.extend(riff_chunk(b"ANMF", &body));
    }
    riff(&chunks)
}

/// 20 x 12 pixels of lossy WebP: ramps of red, green and blue.
pub const LOSSY_WEBP: &str = "524946465e0000005745425056503820520000007002009d012a14000c00028\
04225b00274ca11c0de0003082fc1a5a000fef6e291a34c0908d322d22bab3ff4ae9c8d911e80dbf87fefbd485cb2e\
9f0f0997e4c46b9c0272d954dda3e4ab934360c98000000";

/// The same colours, with an alpha channel.
pub const LOSSY_ALPHA_WEBP: &str = "524946468600000057454250565038580a000000100000001300000b000\
0414c50480e00000005101210b2ffa33535222600cb3756503820520000007002009d012a14000c0002804225b0027\
4ca11c0de0003082fc1a5a000fef6e291a34c0908d322d22bab3ff4ae9c8d911e80dbf87fefbd485cb2e9f0f0997e4\
c46b9c0272d954dda3e4ab934360c98000000";

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// One image of a GIF.
pub struct GifImage {
    /// Left, top, width, height.
    pub place: [u16; 4],
    pub interlaced: bool,
    pub palette: Vec<u8>,
    pub transparent: Option<u8>,
    /// Palette indices, row by row from the top.
    pub indices: Vec<u8>,
}

/// A GIF; palettes have 2, 4, … 256 entries or none.
pub fn gif(width: u16, height: u16, palette: &[u8], images: &[GifImage]) -> Vec<u8> {
    let flags = |palette: &[u8]| match palette.len() / 3 {
        0 => 0,
        entries => 0x80 | (entries.ilog2() as u8 - 1),
    };
    let mut file = b"GIF89a".to_vec();
    file.extend(width.to_le_bytes());
    file.extend(height.to_le_bytes());
    file.extend([flags(palette), 0, 0]);
    file.extend(palette);
    file.extend(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0");
    for image in images {
        if let Some(colour) = image.transparent {
            file.extend([b'!', 0xf9, 4, 1, 0, 0, colour, 0]);
        }
        file.push(b',');
        for side in image.place {
            file.extend(side.to_le_bytes());
        }
        file.push(flags(&image.palette) | if image.interlaced { 0x40 } else { 0 });
        file.extend(&image.palette);
        let [_, _, width, height] = image.place.map(usize::from);
        let order: Vec<usize> = if image.interlaced {
            [(0, 8), (4, 8), (2, 4), (1, 2)]
                .into_iter()
                .flat_map(|(first, step)| (first..height).step_by(step))
                .collect()
        } else {
            (0..height).collect()
        };
        let indices: Vec<u8> = order
            .into_iter()
            .flat_map(|row| image.indices[row * width..][..width].to_vec())
            .collect();
        let data = weezl::encode::Encoder::new(weezl::BitOrder::Lsb, 8)
            .encode(&indices)
            .unwrap();
        file.push(8);
        for block in data.chunks(255) {
            file.push(block.len() as u8);
            file.extend(block);
        }
        file.push(0);
    }
    file.push(b';');
    file
}
