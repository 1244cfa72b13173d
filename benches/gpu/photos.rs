//! The check's pictures, as files.
//!
//! Enters: a folder of JPEGs. Leaves: a folder with `photos` (those that JPEG engines take, for
//! rates), `kinds` and `damaged`, and tiled copies where they are asked for. Never: a photo that
//! nvJPEG and the CPU's decoder might read in another way.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use loaderd_decode::coding::{Coding, Colours};
use loaderd_decode::encode::{Encoder, Scans};
use loaderd_decode::tile::{NotTiled, tile};
use loaderd_decode::{Decoder, Image, Limits, Options, Orientation, probe};
use loaderd_gpu::routing::{Abilities, Route, route};
use serde_json::{Map, Value, json};

use crate::{damaged, kinds};

/// Sub-folders of what [`make`] makes.
pub(crate) const PHOTOS: &str = "photos";
pub(crate) const KINDS: &str = "kinds";
pub(crate) const DAMAGED: &str = "damaged";

/// What a machine with all decoders has.
pub(crate) const ALL: Abilities = Abilities {
    engines: true,
    cuda: true,
    progressive: true,
};

/// JPEGs in memory, and the size of each.
pub(crate) struct Photos {
    pub(crate) files: Vec<Photo>,
}

/// One of them.
pub(crate) struct Photo {
    pub(crate) name: String,
    pub(crate) jpeg: Vec<u8>,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Photos {
    /// All JPEGs of a flat folder whose header can be read, by name.
    ///
    /// # Errors
    /// Where the folder or a file can't be read, or holds none.
    pub(crate) fn read(folder: &Path) -> Result<Photos> {
        let mut files = Vec::new();
        for path in files_of(folder)? {
            let jpeg = read(&path)?;
            if let Some(coding) = Coding::of(&jpeg) {
                files.push(Photo {
                    name: stem(&path),
                    width: coding.width,
                    height: coding.height,
                    jpeg,
                });
            }
        }
        ensure!(!files.is_empty(), "no JPEG in {}", folder.display());
        Ok(Photos { files })
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// Where it can't be read.
    pub(crate) fn kind(pictures: &Path, name: &str) -> Result<Photo> {
        let all = Photos::read(&pictures.join(KINDS))?;
        match all.files.into_iter().find(|photo| photo.name == name) {
            Some(photo) => Ok(photo),
            None => bail!("no kind {name} in {}", pictures.display()),
        }
    }

    /// Bytes of the largest of them, decoded.
    pub(crate) fn largest_bytes(&self) -> usize {
        let bytes = |photo: &Photo| photo.pitch() * photo.height as usize;
        self.files.iter().map(bytes).max().unwrap_or(0)
    }
}

impl Photo {
    /// Bytes from a row to the next, decoded.
    pub(crate) fn pitch(&self) -> usize {
        (self.width as usize * 3).next_multiple_of(4)
    }
}

/// Makes the folder of the check's pictures from the JPEGs below `images`.
///
/// # Errors
/// Where files can't be read or written, or no photo is of use.
pub(crate) fn make(images: &Path, out: &Path, count: usize, bytes_max: u64) -> Result<Value> {
    let mut paths = Vec::new();
    walk(images, &mut paths)?;
    paths.sort_unstable();
    let photos = folder(out, PHOTOS)?;
    let (mut taken, mut bytes, mut left_out, mut base) = (0, 0, 0, None);
    for path in paths {
        let jpeg = read(&path)?;
        let fits = bytes + jpeg.len() as u64 <= bytes_max;
        if taken == count || !fits || !is_usual(&jpeg) {
            left_out += 1;
            continue;
        }
        if base.is_none() {
            base = base_of(&jpeg);
        }
        write(&photos.join(format!("{taken:04}.jpg")), &jpeg)?;
        taken += 1;
        bytes += jpeg.len() as u64;
    }
    ensure!(
        taken > 0,
        "no photo of use in {}: name another folder",
        images.display()
    );
    let is_drawn = base.is_none();
    let base = base.unwrap_or_else(kinds::drawn);
    let mut routes = Map::new();
    let every = folder(out, KINDS)?;
    for (name, jpeg) in kinds::all(&base)? {
        write(&every.join(format!("{name}.jpg")), &jpeg)?;
        let decision = route(&jpeg, &ALL);
        let said = json!({"route": decision.route.word(), "reason": decision.reason.words()});
        routes.insert(name, said);
    }
    let encode = |scans| {
        let encoder = Encoder {
            scans,
            ..Encoder::default()
        };
        encoder.encode(&base.rgb, base.width, base.height)
    };
    let plain = encode(Scans::Sequential)?;
    let tiled = tile(&plain, &Limits::default())?.jpeg;
    let hurt = folder(out, DAMAGED)?;
    let bad = damaged::all(&plain, &tiled, &encode(Scans::Progressive)?);
    for (name, jpeg) in &bad {
        write(&hurt.join(format!("{name}.jpg")), jpeg)?;
    }
    Ok(json!({
        "photos": taken,
        "photo_bytes": bytes,
        "left_out": left_out,
        "kinds": routes,
        "kinds_are_drawn": is_drawn,
        "damaged": bad.len(),
    }))
}

/// Writes tiled copies of the JPEGs in `from` to `to`, under their names.
///
/// # Errors
/// Where files can't be read or written.
pub(crate) fn tile_all(from: &Path, to: &Path) -> Result<Value> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let (mut tiled, mut bytes) = (0, [0, 0]);
    for path in files_of(from)? {
        let jpeg = read(&path)?;
        let copy = match tile(&jpeg, &Limits::default()) {
            Ok(copy) => {
                tiled += 1;
                copy.jpeg
            }
            Err(NotTiled::Already) => jpeg.clone(),
            Err(why) => bail!("{}: {why}", path.display()),
        };
        bytes[0] += jpeg.len();
        bytes[1] += copy.len();
        write(&to.join(path.file_name().unwrap_or_default()), &copy)?;
    }
    Ok(json!({"tiled": tiled, "bytes_before": bytes[0], "bytes_after": bytes[1]}))
}

/// Whether the engines take it, in colour, upright, and it can be tiled.
fn is_usual(jpeg: &[u8]) -> bool {
    let is_colour = Coding::of(jpeg).is_some_and(|coding| coding.colours == Colours::YCbCr);
    let is_upright = probe(jpeg).is_ok_and(|header| header.orientation == Orientation::UPRIGHT);
    is_colour
        && is_upright
        && route(jpeg, &ALL).route == Route::Engine
        && matches!(
            tile(jpeg, &Limits::default()),
            Ok(_) | Err(NotTiled::Already)
        )
}

/// The upper left corner of a photo that is large enough, in the size of the kinds' base.
fn base_of(jpeg: &[u8]) -> Option<Image> {
    let [width, height] = kinds::SIDES;
    let mut decoder = Decoder::new(Limits::default());
    let image = decoder.decode_full(jpeg, Options::default()).ok()?;
    if image.width < width || image.height < height {
        return None;
    }
    let region = loaderd_decode::cut::Region {
        left: 0,
        right: width,
        top: 0,
        bottom: height,
    };
    Some(Image {
        width,
        height,
        rgb: image.rows_of(&region).flatten().copied().collect(),
        frames_ignored: false,
    })
}

/// Files of a flat folder, by name.
pub(crate) fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let naming = || format!("reading {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(naming)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(naming)?;
    paths.retain(|path| path.is_file());
    paths.sort_unstable();
    Ok(paths)
}

/// JPEGs below a folder, by their names.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let naming = || format!("reading {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(naming)? {
        let path = entry.with_context(naming)?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("jpg") || end.eq_ignore_ascii_case("jpeg"))
        {
            found.push(path);
        }
    }
    Ok(())
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

fn folder(out: &Path, name: &str) -> Result<PathBuf> {
    let folder = out.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

pub(crate) fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_pictures_is_made_of_photos() {
        let root = tempfile::tempdir().unwrap();
        let images = root.path().join("images/class");
        std::fs::create_dir_all(&images).unwrap();
        let base = kinds::drawn();
        let encode = |encoder: Encoder| encoder.encode(&base.rgb, base.width, base.height).unwrap();
        write(&images.join("a.jpg"), &encode(Encoder::default())).unwrap();
        let progressive = Encoder {
            scans: Scans::Progressive,
            ..Encoder::default()
        };
        write(&images.join("b.JPEG"), &encode(progressive)).unwrap();
        write(&images.join("c.txt"), b"no picture").unwrap();
        let out = root.path().join("out");
        let made = make(&root.path().join("images"), &out, 10, 1 << 30).unwrap();
        assert_eq!((&made["photos"], &made["left_out"]), (&json!(1), &json!(1)));
        assert_eq!(made["kinds"]["cmyk"]["route"], "CPU");
        assert_eq!(made["kinds_are_drawn"], false);
        let photos = Photos::read(&out.join(PHOTOS)).unwrap();
        assert_eq!((photos.files[0].width, photos.files[0].height), (500, 375));
        assert_eq!(photos.largest_bytes(), 1500 * 375);
        assert_eq!(Photos::kind(&out, kinds::PLAIN).unwrap().width, 500);
        let tiled = tile_all(&out.join(PHOTOS), &root.path().join("tiled")).unwrap();
        assert_eq!(tiled["tiled"], 1);
        let nothing = make(&images.join("c.txt"), &root.path().join("none"), 1, 1 << 30);
        assert!(nothing.unwrap_err().to_string().starts_with("reading "));
        let small = make(
            &root.path().join("images"),
            &root.path().join("none"),
            1,
            10,
        );
        assert!(
            small
                .unwrap_err()
                .to_string()
                .starts_with("no photo of use in ")
        );
    }
}
