//! The JPEGs that are read.
//!
//! Enters: a folder of photos, or nothing: then pictures are drawn. Leaves: the photos, tiled; and
//! frames of 1280 × 720 pixels put together from them at full size, tiled. Never: a picture whose
//! segments can't be told before it is read, or that is turned; it is left out, and named.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use loaderd_decode::encode::{Encoder, Subsampling};
use loaderd_decode::tile::{NotTiled, tile};
use loaderd_decode::{Decoder, Image, Limits, Options, Orientation, probe};

use crate::index::Index;

const FRAME: [usize; 2] = [1280, 720];
/// Where the next photo of a frame begins, across and down: about a photo's size.
const CELL: [usize; 2] = [500, 375];
/// Drawn pictures then have about a photo's size, and frames 500 KB.
const QUALITY: u8 = 95;
const FRAME_QUALITY: u8 = 96;

/// One JPEG, and where its segments lie.
pub(crate) struct Picture {
    pub(crate) jpeg: Vec<u8>,
    pub(crate) index: Index,
}

/// Pictures of one kind.
#[derive(Default)]
pub(crate) struct Pictures {
    pub(crate) all: Vec<Picture>,
    pub(crate) left_out: Vec<(String, String)>,
}

impl Pictures {
    /// Those in `folder`, by name, `count` at most.
    ///
    /// # Errors
    /// Where the folder or a file can't be read.
    pub(crate) fn from_folder(folder: &Path, count: usize) -> Result<Pictures> {
        let naming = || format!("reading {}", folder.display());
        let mut paths = std::fs::read_dir(folder)
            .with_context(naming)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .with_context(naming)?;
        paths.sort_unstable();
        let mut pictures = Pictures::default();
        for path in paths.iter().filter(|path| path.is_file()).take(count) {
            let file =
                std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            pictures.add(path.display().to_string(), &file);
        }
        Ok(pictures)
    }

    /// `count` of them, of 500 × 375 pixels.
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn drawn(count: u32) -> Result<Pictures> {
        let mut pictures = Pictures::default();
        for number in 0..count {
            pictures.add(format!("picture {number}"), &drawn(number)?);
        }
        Ok(pictures)
    }

    /// `count` frames, each of six of these pictures.
    ///
    /// # Errors
    /// Where one of them does not decode.
    pub(crate) fn frames(&self, count: usize) -> Result<Pictures> {
        ensure!(!self.all.is_empty(), "no picture is left to make frames of");
        let mut decoder = Decoder::new(Limits::default());
        let mut frames = Pictures::default();
        for number in 0..count {
            let parts: Vec<Image> = (0..6)
                .map(|part| {
                    let picture = &self.all[(number * 5 + part * 7) % self.all.len()];
                    decoder.decode_full(&picture.jpeg, Options::default())
                })
                .collect::<Result<_, _>>()?;
            let [width, height] = FRAME;
            let mut pixels = Vec::with_capacity(width * height * 3);
            for y in 0..height {
                for x in 0..width {
                    let part = &parts[(y / CELL[1]) * 3 + x / CELL[0]];
                    let (wide, high) = (part.width as usize, part.height as usize);
                    let at = (y % CELL[1] % high * wide + x % CELL[0] % wide) * 3;
                    pixels.extend_from_slice(&part.rgb[at..at + 3]);
                }
            }
            let encoder = Encoder {
                quality: FRAME_QUALITY,
                subsampling: Subsampling::S420,
                ..Encoder::default()
            };
            let frame = encoder.encode(&pixels, width as u32, height as u32)?;
            frames.add(format!("frame {number}"), &frame);
        }
        Ok(frames)
    }

    fn add(&mut self, name: String, file: &[u8]) {
        match indexed(file) {
            Ok(picture) => self.all.push(picture),
            Err(reason) => self.left_out.push((name, reason)),
        }
    }
}

fn indexed(file: &[u8]) -> Result<Picture, String> {
    let header = probe(file).map_err(|error| error.to_string())?;
    if header.orientation != Orientation::UPRIGHT {
        return Err("its EXIF block turns it: this bench works with stored pixels".into());
    }
    let jpeg = match tile(file, &Limits::default()) {
        Ok(tiled) => tiled.jpeg,
        Err(NotTiled::Already) => file.to_vec(),
        Err(reason) => return Err(reason.to_string()),
    };
    match Index::of(&jpeg) {
        Some(index) => Ok(Picture { jpeg, index }),
        None => Err("its segments can't be indexed".into()),
    }
}

/// A tiled picture of 500 × 375 pixels: gradients, edges and grain.
///
/// # Errors
/// None that is known.
pub(crate) fn drawn(number: u32) -> Result<Vec<u8>> {
    const WIDTH: u32 = 500;
    const HEIGHT: u32 = 375;
    let mut state = u64::from(number) * 2 + 1;
    let mut pixels = Vec::new();
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let grain = (state >> 60) as u32;
            let on_edge = (x / 40 + (y + number) / 30).is_multiple_of(3);
            for slope in [x / 5, y / 4, (x + y) / 9] {
                pixels.push((slope + 90 * u32::from(on_edge) + 2 * grain).min(255) as u8);
            }
        }
    }
    let encoder = Encoder {
        quality: QUALITY,
        ..Encoder::default()
    };
    let file = encoder.encode(&pixels, WIDTH, HEIGHT)?;
    Ok(tile(&file, &Limits::default())?.jpeg)
}
