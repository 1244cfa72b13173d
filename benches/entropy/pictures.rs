//! The JPEGs that are decoded.
//!
//! Enters: a folder, or how many are to be drawn. Leaves: baseline JPEGs in memory, and the same
//! ones tiled. Never: a picture that one of the decoders refuses; it is left out, and named.

use std::path::Path;

use anyhow::{Context, Result};
use loaderd_decode::Limits;
use loaderd_decode::encode::Encoder;
use loaderd_decode::tile::{NotTiled, tile};

use crate::coefficients::Decoder;

/// Pictures, plain and tiled, in the same order.
#[derive(Default)]
pub(crate) struct Pictures {
    pub(crate) plain: Vec<Vec<u8>>,
    pub(crate) tiled: Vec<Vec<u8>>,
    pub(crate) left_out: Vec<(String, String)>,
    pub(crate) description: String,
}

impl Pictures {
    /// Those in `folder`, by name, `count` at most.
    pub(crate) fn from_folder(folder: &Path, count: usize) -> Result<Pictures> {
        let naming = || format!("reading {}", folder.display());
        let mut paths = std::fs::read_dir(folder)
            .with_context(naming)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .with_context(naming)?;
        paths.sort_unstable();
        let mut pictures = Pictures {
            description: folder.display().to_string(),
            ..Pictures::default()
        };
        for path in paths.iter().filter(|path| path.is_file()).take(count) {
            let file =
                std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            pictures.add(path.display().to_string(), file);
        }
        Ok(pictures)
    }

    /// `count` of them, of 500 × 375 pixels: gradients, edges and grain.
    pub(crate) fn drawn(count: u32) -> Result<Pictures> {
        const WIDTH: u32 = 500;
        const HEIGHT: u32 = 375;
        let mut pictures = Pictures {
            description: format!("{WIDTH} × {HEIGHT} pixels, drawn"),
            ..Pictures::default()
        };
        for index in 0..count {
            let mut state = u64::from(index) * 2 + 1;
            let mut pixels = Vec::new();
            for y in 0..HEIGHT {
                for x in 0..WIDTH {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let grain = (state >> 60) as u32;
                    let edge = if (x / 40 + (y + index) / 30) % 3 == 0 {
                        90
                    } else {
                        0
                    };
                    for slope in [x / 5, y / 4, (x + y) / 9] {
                        pixels.push((slope + edge + 2 * grain).min(255) as u8);
                    }
                }
            }
            let file = Encoder {
                quality: 92,
                ..Encoder::default()
            }
            .encode(&pixels, WIDTH, HEIGHT)?;
            pictures.add(format!("picture {index}"), file);
        }
        Ok(pictures)
    }

    /// Bytes of all of them, before they were tiled.
    pub(crate) fn plain_bytes(&self) -> usize {
        self.plain.iter().map(Vec::len).sum()
    }

    fn add(&mut self, name: String, plain: Vec<u8>) {
        match self.tiled(&plain) {
            Ok(tiled) => {
                self.plain.push(plain);
                self.tiled.push(tiled);
            }
            Err(reason) => self.left_out.push((name, reason)),
        }
    }

    fn tiled(&self, plain: &[u8]) -> Result<Vec<u8>, String> {
        Decoder::default()
            .read::<1>(plain)
            .map_err(|error| error.to_string())?;
        match tile(plain, &Limits::default()) {
            Ok(tiled) => Ok(tiled.jpeg),
            Err(NotTiled::Already) => Ok(plain.to_vec()),
            Err(reason) => Err(reason.to_string()),
        }
    }
}
