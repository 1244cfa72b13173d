//! Rows of encoded images: a few hundred pictures, made into as many different rows as needed.
//!
//! Enters: a folder of JPEGs, or nothing: then pictures are drawn. Leaves: row `i`, a valid JPEG
//! that differs from all others by a comment segment, of about [`ROW_BYTES`] on average. Never:
//! re-encodes a picture of the user's, or hands out bytes that compress better than a JPEG does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use loaderd_decode::encode::Encoder;
use loaderd_plan::Draws;

/// What rows average, in bytes: the mean of ImageNet's training JPEGs. Smaller pictures are
/// padded to it, larger ones are left as they are.
pub const ROW_BYTES: usize = 110_000;

/// Pictures drawn where no folder is given. Together they are larger than a page of Lance's, so
/// that no compression of pages can find a picture twice.
const DRAWN: u64 = 128;
/// Bytes of pictures of a folder that are kept in memory at most.
const FOLDER_BYTES_MAX: usize = 256 << 20;
/// Bytes in one comment segment at most: the length field has 16 bits and counts itself.
const COMMENT_BYTES_MAX: usize = u16::MAX as usize - 2;

/// The pictures that rows are made of.
pub struct Images {
    pictures: Vec<Vec<u8>>,
    padding: usize,
    description: String,
}

impl Images {
    /// The pictures in `folder` and below, in the order of their paths.
    ///
    /// # Errors
    /// Where the folder can't be read or holds no JPEG.
    pub fn from_folder(folder: &Path) -> Result<Images> {
        let mut paths = files_under(folder)?;
        paths.sort_unstable();
        let mut pictures = Vec::new();
        let mut bytes = 0;
        for path in paths {
            let ending = path.extension().and_then(|ending| ending.to_str());
            let ending = ending.unwrap_or_default().to_ascii_lowercase();
            if !matches!(ending.as_str(), "jpg" | "jpeg") {
                continue;
            }
            let picture =
                std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            if picture.starts_with(&[0xFF, 0xD8]) && bytes < FOLDER_BYTES_MAX {
                bytes += picture.len();
                pictures.push(picture);
            }
        }
        if pictures.is_empty() {
            bail!("{} holds no JPEG", folder.display());
        }
        let description = format!(
            "{} pictures of {}, {bytes} bytes",
            pictures.len(),
            folder.display()
        );
        Ok(Images::new(pictures, description))
    }

    /// Drawn pictures of varying size, the same on every machine.
    ///
    /// # Errors
    /// Where the encoder fails.
    pub fn drawn() -> Result<Images> {
        let pictures: Vec<_> = (0..DRAWN).map(draw).collect::<Result<_>>()?;
        Ok(Images::new(pictures, format!("{DRAWN} drawn pictures")))
    }

    fn new(pictures: Vec<Vec<u8>>, description: String) -> Images {
        let mean = pictures.iter().map(Vec::len).sum::<usize>() / pictures.len();
        Images {
            padding: ROW_BYTES.saturating_sub(mean),
            pictures,
            description,
        }
    }

    /// What the rows are made of, in words; equal only for equal rows.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Row `number`: its picture, with the number and some padding in comment segments behind
    /// the start marker (ITU T.81, B.2.4.5). The padding is noise, as the rest of a JPEG is.
    pub fn row(&self, number: u64) -> Vec<u8> {
        let picture = &self.pictures[(number % self.pictures.len() as u64) as usize];
        let noise = Draws::new(0, 0, number, 0).flat_map(u32::to_le_bytes);
        let mut comment = number.to_le_bytes().to_vec();
        comment.extend(noise.take(self.padding));
        let (start, rest) = picture.split_at(2);
        let mut row = Vec::with_capacity(picture.len() + comment.len() + 16);
        row.extend(start);
        for part in comment.chunks(COMMENT_BYTES_MAX) {
            row.extend([0xFF, 0xFE]);
            row.extend((part.len() as u16 + 2).to_be_bytes());
            row.extend(part);
        }
        row.extend(rest);
        row
    }
}

/// All regular files in `folder` and below.
///
/// # Errors
/// Where a folder can't be read, naming it.
pub fn files_under(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder);
        for entry in entries.with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// A photo's share of smooth and rough parts: waves, with grain on top.
fn draw(number: u64) -> Result<Vec<u8>> {
    let mut draws = Draws::new(1, 0, number, 0);
    let mut below = |bound: u32| draws.next().expect("draws are endless") % bound;
    let (width, height) = (380 + below(240), 280 + below(180));
    let [across, down, turn] = std::array::from_fn(|_| below(1000) as f32 / 1000.0);
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
            let wave = ((u * (3.0 + 9.0 * across) + v * (3.0 + 9.0 * down)) * 3.0).sin();
            let grain = below(40) as f32 - 20.0;
            for tint in [0.2, 0.5, 0.8] {
                let light = 128.0 + 70.0 * wave * (tint + turn - 0.5) + 30.0 * (v - u);
                pixels.push((light + grain).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let encoder = Encoder {
        quality: 90,
        ..Encoder::default()
    };
    Ok(encoder.encode(&pixels, width, height)?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use super::*;

    #[test]
    fn rows_differ_decode_and_have_the_size_promised() {
        let images = Images::drawn().unwrap();
        let (mut bytes, mut distinct) = (0, HashSet::new());
        for number in 0..4 * DRAWN {
            let row = images.row(number);
            bytes += row.len();
            let picture = loaderd_decode::probe(&row).unwrap();
            assert!(picture.width >= 380 && picture.height >= 280, "{picture:?}");
            distinct.insert(BuildHasherDefault::<DefaultHasher>::default().hash_one(&row));
        }
        assert_eq!(distinct.len() as u64, 4 * DRAWN);
        let mean = bytes / distinct.len();
        assert!(
            (ROW_BYTES..ROW_BYTES + 200).contains(&mean),
            "rows average {mean} bytes"
        );
    }

    #[test]
    fn a_folder_without_pictures_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
        let error = Images::from_folder(folder.path()).err().unwrap();
        assert!(error.to_string().contains("holds no JPEG"), "{error}");
    }
}
