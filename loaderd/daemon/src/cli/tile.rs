//! `loaderd tile`: a column of JPEGs or of masks once more, losslessly, so that crops can be cut or
//! sampled from them before they are decoded.
//!
//! Enters: a dataset, a column. Leaves: one new version with a column more, or, where the originals
//! are to go, one in which the tiled images have their place; a report. Images are tiled on all
//! cores, a window at a time. Never: an image whose tiled form was not decoded and compared, unless
//! told so.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use loaderd_decode::Limits;
use loaderd_decode::tile::{NotTiled, tile, tiled_form, verify};
use loaderd_snapshot::{
    SameFn, SnapshotError, Tile, TileCounts, TileOptions, TileReport, sample_column, tile_column,
};
use loaderd_wire::paths;

use super::untiled::Looks;
use super::{bar, say};

/// Images by whose looks a column is one of masks.
const SAMPLE: usize = 64;

/// Of so many images one is compared under `--verify sample`.
const VERIFIED: usize = 16;

/// Arguments of `loaderd tile`.
#[derive(clap::Args)]
#[command(after_long_help = NOTES)]
pub(super) struct Arguments {
    /// The dataset
    uri: PathBuf,
    /// The column of images, or of masks; PNGs are masks only in a column that is named here
    /// [default: image]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Name of the column to add [default: the column's name with _tiled]
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// Which tiled images to decode and compare with their originals, pixel by pixel, before they
    /// are written: all, one in 16 (sample), or none
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Verify::All)]
    verify: Verify,
    /// Afterwards drop the original column and give its name to the tiled one; refused if an image
    /// has no tiled form
    #[arg(long)]
    drop_original: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What `--help` says beyond the arguments.
const NOTES: &str = "\
Loaders use the tiled column automatically: columns=[\"image\"] reads the tiled image in rows that
have one, and the original in the others; the pixels are the same. No row is rewritten, and existing
versions don't change. After an append, run it again: it tiles the new rows only. A run that was
killed is resumed, fragment by fragment. The dataset may be appended to meanwhile.

Only undamaged 8-bit JPEGs with Huffman coding, and masks, can be tiled. The report counts the others,
which are left unchanged. EXIF, ICC and all other metadata are kept, and so is any data after the end
of the image, such as the video of a motion photo.

A mask is a PNG with one value of up to 8 bits per pixel, grey or a palette, not interlaced. Its tiled
form is the same PNG to every reader, with one more chunk (ldRN) that holds the values as runs by row;
a Mask is sampled from them without inflating. A mask with more than one run per 8 pixels, or
whose runs take over four times its file, is left unchanged. A Mask delivers what the chunk says, also
if the column itself has it and with use_tiled=False; --verify all compares every value of it with the
picture.

No PNG says that it is a mask, and PNGs that are read as images would gain nothing and become larger.
So PNGs are tiled only in a column that --column names, and only if all of 64 images from all over it
are PNGs, grey or with a palette. In a column with other images too, PNGs are images, and stay as
they are.

Columns may be tiled side by side, each by one run. --drop-original runs alone, and before a
compaction.

A tiled image is never used for an image that has changed. If images are replaced, or rows are
rewritten because another column changed, loaders read the originals of the whole fragment, and say
so, until this is run again. Run it after a compaction too, before older versions are cleaned up:
compacted fragments keep their tiled images only if it was run since, or if the versions in between
still exist and are among the newest 256. Branches and shallow clones made after a compaction read
the originals until it is run there. Images stored outside the dataset (external blobs) are assumed
not to change.

The tiled column is stored as blob v2 in datasets of file version 2.2 and later, and as blob v1 in
2.0 and 2.1, whatever the original is. --drop-original compares every image with its tiled form,
whatever --verify says. It creates two more versions: one without the originals, and one with the
column renamed. Older versions keep the originals until Lance's cleanup removes them.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Verify {
    All,
    Sample,
    None,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let uri = arguments.uri.to_str();
    let uri = uri.with_context(|| {
        let path = arguments.uri.display();
        format!("the dataset's path {path} is not UTF-8")
    })?;
    let looks = Looks::of(
        sample_column(uri, arguments.column(), SAMPLE)?
            .iter()
            .map(Vec::as_slice),
    );
    let masks = looks.can_be_masks() && arguments.column.is_some();
    let options = TileOptions {
        column: arguments.column().to_owned(),
        into: arguments.into.clone(),
        drop_original: arguments.drop_original.then_some(same as SameFn),
        settings: format!("{:?} {masks}", arguments.verify),
        state_dir: paths::state_dir()?.join("tile"),
    };
    let bar = bar(0, "images");
    let mut seen = 0;
    let report = tile_column(
        uri,
        &options,
        &mut |images| {
            bar.set_position(0);
            bar.set_length(images);
        },
        &mut |images| {
            let tile = if masks { tile_image } else { tile_jpeg };
            let tiles = tiles(images, seen, (tile, arguments.verify), &bar);
            seen += images.len();
            Ok::<_, SnapshotError>(tiles)
        },
    );
    bar.finish_and_clear();
    show(arguments, uri, &report?);
    if looks.can_be_masks() && !masks && !arguments.json {
        say(format_args!(
            "its PNGs were left unchanged, as images: if they are masks, say --column {}",
            arguments.column()
        ));
    }
    Ok(())
}

impl Arguments {
    fn column(&self) -> &str {
        self.column.as_deref().unwrap_or("image")
    }
}

/// What tiles an image, which of them are verified.
type How = (fn(&[u8], bool) -> Tile, Verify);

/// The tiled forms of some images, made on all cores. `first`: number of the first.
fn tiles(images: &[Vec<u8>], first: usize, (tile, verify): How, bar: &ProgressBar) -> Vec<Tile> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            // Only that each number is given out once matters.
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(image) = images.get(at) else {
                return done;
            };
            let is_verified = match verify {
                Verify::All => true,
                Verify::Sample => (first + at).is_multiple_of(VERIFIED),
                Verify::None => false,
            };
            done.push((at, tile(image, is_verified)));
            bar.inc(1);
        }
    };
    let mut tiles = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = threads.into_iter().map(|thread| thread.join());
        let done = done.map(|done| done.expect("tiling does not panic"));
        done.flatten().collect::<Vec<_>>()
    });
    tiles.sort_unstable_by_key(|(at, _)| *at);
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

/// The tiled form of one image or mask, or why it stays as it is.
pub(super) fn tile_image(image: &[u8], is_verified: bool) -> Tile {
    answer(image, tiled_form(image, &Limits::default()), is_verified)
}

/// The same of what is an image whatever it looks like: only a JPEG is tiled.
pub(super) fn tile_jpeg(image: &[u8], is_verified: bool) -> Tile {
    let tiled = tile(image, &Limits::default());
    answer(image, tiled.map(|tiled| tiled.jpeg), is_verified)
}

fn answer(image: &[u8], tiled: Result<Vec<u8>, NotTiled>, is_verified: bool) -> Tile {
    let tiled = match tiled {
        Ok(tiled) => tiled,
        Err(NotTiled::Already) => return Tile::Already,
        Err(other) => return Tile::Kept(other.reason().to_owned()),
    };
    match is_verified.then(|| verify(image, &tiled, &Limits::default())) {
        None | Some(Ok(())) => Tile::Tiled(tiled),
        Some(Err(differs)) => Tile::Kept(format!("not the same when tiled: {differs}")),
    }
}

/// Whether a tiled image is this original's.
fn same(original: &[u8], tiled: &[u8]) -> Result<(), String> {
    verify(original, tiled, &Limits::default()).map_err(|differs| differs.to_string())
}

fn show(arguments: &Arguments, uri: &str, report: &TileReport) {
    let counts = &report.counts;
    if arguments.json {
        let TileReport {
            fragments_written,
            fragments_resumed,
            fragments_lost,
            fragments_anew,
            fragments_compacted,
            ..
        } = report;
        let mut json = serde_json::json!({
            "uri": uri, "column": arguments.column(), "into": report.into,
            "stored": report.layout.name(), "version": report.version,
            "fragments_written": fragments_written, "fragments_resumed": fragments_resumed,
            "fragments_lost": fragments_lost, "fragments_anew": fragments_anew,
            "fragments_compacted": fragments_compacted, "dropped": report.dropped,
        });
        let counts = serde_json::to_value(counts).expect("counts are plain data");
        if let (Some(json), serde_json::Value::Object(counts)) = (json.as_object_mut(), counts) {
            json.extend(counts);
        }
        say(json);
        return;
    }
    match report.version {
        Some(version) if *counts == TileCounts::default() => say(format_args!(
            "{uri}: nothing to tile in column {:?}; version {version}",
            arguments.column()
        )),
        Some(version) => say(format_args!(
            "{uri}: {} in column {:?} ({}); version {version}",
            summary(counts),
            report.into,
            report.layout.name(),
        )),
        None if *counts == TileCounts::default() => say(format_args!(
            "{uri}: nothing to do: every image of column {:?} has a tiled form",
            arguments.column()
        )),
        None => say(format_args!(
            "{uri}: nothing to tile in column {:?}: {}",
            arguments.column(),
            summary(counts)
        )),
    }
    if report.fragments_resumed > 0 {
        let resumed = report.fragments_resumed;
        say(format_args!(
            "{resumed} fragments had been written by a run before"
        ));
    }
    if report.fragments_anew > 0 {
        let anew = report.fragments_anew;
        say(format_args!(
            "in {anew} fragments rows or images had been written anew since: their tiled images were replaced"
        ));
    }
    if report.fragments_compacted > 0 {
        let compacted = report.fragments_compacted;
        say(format_args!(
            "{compacted} fragments had been compacted since: they keep their tiled images"
        ));
    }
    if report.fragments_lost > 0 {
        say(format_args!(
            "{} fragments were rewritten by somebody else meanwhile: run it again for their rows",
            report.fragments_lost
        ));
    }
    if let Some(version) = report.dropped {
        say(format_args!(
            "dropped the originals: column {:?} holds the tiled images; version {version}",
            arguments.column()
        ));
    }
}

/// What became of images, in words.
pub(super) fn summary(counts: &TileCounts) -> String {
    let mut text = format!("{} images tiled", counts.tiled);
    if counts.tiled > 0 {
        let ratio = counts.bytes_after as f64 / counts.bytes_before.max(1) as f64;
        text += &format!(
            " ({} → {} bytes, {:+.1} %)",
            counts.bytes_before,
            counts.bytes_after,
            (ratio - 1.0) * 100.0
        );
    }
    if counts.already > 0 {
        text += &format!(", {} tiled before", counts.already);
    }
    let kept = counts.kept_rows();
    if kept > 0 {
        let reasons = counts.kept.iter();
        let reasons: Vec<String> = reasons.map(|(why, n)| format!("{n} {why}")).collect();
        text += &format!(", {kept} stay as they are ({})", reasons.join(", "));
    }
    if counts.nulls > 0 {
        text += &format!(", {} rows without an image", counts.nulls);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_say_what_became_of_every_image() {
        let mut counts = TileCounts {
            tiled: 2,
            bytes_before: 1000,
            bytes_after: 990,
            ..TileCounts::default()
        };
        assert_eq!(
            summary(&counts),
            "2 images tiled (1000 → 990 bytes, -1.0 %)"
        );
        counts.already = 1;
        counts.nulls = 3;
        counts.kept.insert("not a JPEG".into(), 4);
        assert_eq!(
            summary(&counts),
            "2 images tiled (1000 → 990 bytes, -1.0 %), 1 tiled before, 4 stay as they are (4 not a JPEG), 3 rows \
             without an image"
        );
    }

    #[test]
    fn answers_come_in_the_order_of_the_images() {
        let images: Vec<Vec<u8>> = (0..50_u8)
            .map(|i| match i % 2 {
                0 => b"GIF89a".to_vec(),
                _ => vec![i; 9],
            })
            .collect();
        let tiles = tiles(
            &images,
            0,
            (tile_image, Verify::All),
            &ProgressBar::hidden(),
        );
        let kept = |at: usize| match &tiles[at] {
            Tile::Kept(reason) => reason.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(tiles.len(), 50);
        for at in 0..50 {
            assert_eq!(kept(at) == "not a JPEG", at % 2 == 0, "{at}: {}", kept(at));
        }
    }
}
