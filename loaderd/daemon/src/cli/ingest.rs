//! `loaderd ingest`: a folder of images, or drawn street frames, into a Lance dataset.
//!
//! Enters: a folder whose sub-folders or file names are the classes. Leaves: one new version of a
//! dataset, with the images tiled unless told not to, and their labels. It writes into no folder that
//! it reads, and no image whose tiled form differs from it.

mod synthetic;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use loaderd_decode::DecodeError;
use loaderd_snapshot::{IngestOptions, IngestRow, SnapshotError, Tile, TileCounts, ingest};

use super::tile::{summary, tile_jpeg};
use super::{bar, say, tell};

/// Files that were left out are named up to this number; `--verbose` names all.
const NAMED_MAX: usize = 20;

/// Bytes of a file by which it is known for an image, before the others are read.
const BEGINNING_BYTES: u64 = 64;

/// Files that are read and tiled ahead, for each thread that does.
const FILES_WAITING: usize = 4;

/// Arguments of `loaderd ingest`.
#[derive(clap::Args)]
#[command(
    override_usage = "loaderd ingest [OPTIONS] <SRC> <URI>\n       loaderd ingest [OPTIONS] --synthetic <N> <URI>",
    after_long_help = synthetic::SCHEMA
)]
pub(super) struct Arguments {
    /// SRC: a folder of images, with one sub-folder per class, or flat with --label-from name.
    /// URI: the dataset to create, or to append to (which creates a new version)
    #[arg(value_names = ["SRC", "URI"], num_args = 0..=2)]
    places: Vec<PathBuf>,
    /// Generate N street scenes with weather, time of day, scene and boxes instead of reading a
    /// folder; --help lists the columns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 48), conflicts_with = "label_from")]
    synthetic: Option<u64>,
    /// Seed of the generator: equal seeds and frame numbers give equal frames on every machine
    #[arg(long, default_value_t = 0, requires = "synthetic")]
    seed: u64,
    /// Number of the first frame [default: the number of rows in the dataset]
    #[arg(long, value_name = "N", requires = "synthetic", value_parser = clap::value_parser!(u64).range(..1 << 48))]
    first_frame: Option<u64>,
    /// Also write a column `mask` with the drivable area
    #[arg(long, requires = "synthetic")]
    mask: bool,
    /// Maximum rows per fragment (data file)
    #[arg(long, value_name = "N", default_value_t = IngestOptions::default().rows_per_fragment)]
    rows_per_fragment: usize,
    /// Where the class comes from: the sub-folder, or the file name up to the first underscore
    #[arg(long, value_enum, default_value_t = LabelFrom::Folder)]
    label_from: LabelFrom,
    /// Store JPEGs unchanged, instead of tiled: tiled JPEGs have the same pixels and metadata, and
    /// restart markers that let the loader decode only the crop
    #[arg(long)]
    no_tile: bool,
    /// List every file that is skipped
    #[arg(long, short)]
    verbose: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LabelFrom {
    Folder,
    Name,
}

/// A file with its class.
struct Labelled {
    path: PathBuf,
    class: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let uri = |place: &PathBuf| {
        let text = place.to_str().map(str::to_owned);
        text.with_context(|| format!("the dataset's path {} is not UTF-8", place.display()))
    };
    match (arguments.synthetic, arguments.places.as_slice()) {
        (Some(count), [place]) => synthetic::run(arguments, count, &uri(place)?),
        (None, [src, place]) => from_folder(arguments, src, &uri(place)?),
        (Some(_), [src, _, ..]) => bail!(
            "--synthetic draws its images itself: leave out {}, or leave out --synthetic to ingest that folder",
            src.display()
        ),
        _ => bail!(
            "name a folder of images and a dataset (loaderd ingest SRC URI), or draw frames into a dataset \
             (loaderd ingest --synthetic N URI)"
        ),
    }
}

fn from_folder(arguments: &Arguments, src: &Path, uri: &str) -> Result<()> {
    if is_within(Path::new(uri.strip_prefix("file://").unwrap_or(uri)), src) {
        bail!(
            "the dataset {uri} would lie within {}, where every file is taken for an image and every folder for a \
             class, its own too: write it beside that folder",
            src.display()
        );
    }
    let files = match arguments.label_from {
        LabelFrom::Folder => by_folder(src)?,
        LabelFrom::Name => by_name(src)?,
    };
    let bar = bar(files.len() as u64, "files");
    let options = IngestOptions {
        classes: classes(&files, arguments.label_from),
        rows_per_fragment: arguments.rows_per_fragment,
        ..IngestOptions::default()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tiles = !arguments.no_tile;
    let (report, skipped, counts) = std::thread::scope(|scope| {
        // Each thread prepares every n-th file, so that taking turns gives them in order.
        let preparing: Vec<_> = (0..threads)
            .map(|turn| {
                let (sender, receiver) = sync_channel(FILES_WAITING);
                let files = files.iter().skip(turn).step_by(threads);
                scope.spawn(move || {
                    for file in files {
                        // Nobody takes files any more where writing has failed.
                        if sender.send(prepare(&file.path, tiles)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        let mut images = Images {
            files: &files,
            preparing,
            taken: 0,
            skipped: Vec::new(),
            counts: TileCounts::default(),
            bar: &bar,
            first: None,
        };
        // Nothing is written before there is something to write.
        images.first = images.next_image();
        if images.first.is_none() {
            bar.finish_and_clear();
            let skipped = images.skipped.first();
            bail!(
                "{}: none of {} files is an image that can be decoded ({})",
                src.display(),
                files.len(),
                skipped.map_or("the folder is empty", String::as_str)
            );
        }
        let report = ingest(uri, &mut images, &options)?;
        Ok((report, images.skipped, images.counts))
    })?;
    bar.finish_and_clear();
    name_skipped(&skipped, arguments.verbose);
    if arguments.json {
        say(serde_json::json!({
            "uri": uri, "version": report.version, "rows": report.rows,
            "rows_total": report.rows_total, "classes": report.classes.len(),
            "skipped": skipped.len(), "created": report.created, "tiles": counts,
        }));
    } else {
        say(format_args!(
            "{} {uri}: {} images, {} classes, {} files left out; version {}, {} rows in all",
            if report.created {
                "made"
            } else {
                "appended to"
            },
            report.rows,
            report.classes.len(),
            skipped.len(),
            report.version,
            report.rows_total,
        ));
        if tiles {
            say(summary(&counts));
        }
    }
    Ok(())
}

/// The classes of the files, sorted. As in torchvision's ImageFolder, every folder with files is a
/// class, also one without an image, which is told; what is no image gives its name to none.
fn classes(files: &[Labelled], from: LabelFrom) -> Vec<String> {
    let mut have_image: BTreeMap<&str, bool> = BTreeMap::new();
    for file in files {
        let has_image = have_image.entry(&file.class).or_default();
        *has_image = *has_image || open_image(&file.path).is_ok();
    }
    let empty: BTreeSet<&str> = have_image
        .iter()
        .filter_map(|(class, has_image)| (!has_image).then_some(*class))
        .collect();
    if from == LabelFrom::Name {
        have_image.retain(|class, _| !empty.contains(class));
    } else if !empty.is_empty() && empty.len() < have_image.len() {
        tell(format_args!(
            "loaderd: class folders without an image are numbered as well: {}",
            loaderd_names::listed(&empty.into_iter().collect::<Vec<_>>())
        ));
    }
    have_image.into_keys().map(String::from).collect()
}

/// Whether a place is in the folder, or is it; a place that is not there yet is where its nearest
/// ancestor is.
fn is_within(place: &Path, folder: &Path) -> bool {
    let (Ok(place), Ok(folder)) = (std::path::absolute(place), folder.canonicalize()) else {
        return false;
    };
    let there = place.ancestors().find_map(|at| at.canonicalize().ok());
    there.is_some_and(|there| there.starts_with(folder))
}

fn name_skipped(skipped: &[String], all: bool) {
    if skipped.is_empty() {
        return;
    }
    tell(format_args!(
        "loaderd: {} files are not images that can be decoded:",
        skipped.len()
    ));
    let shown = if all { skipped.len() } else { NAMED_MAX };
    for line in skipped.iter().take(shown) {
        tell(format_args!("  {line}"));
    }
    if skipped.len() > shown {
        tell(format_args!(
            "  ... and {} more (--verbose names all)",
            skipped.len() - shown
        ));
    }
}

/// An image file, read.
struct Prepared {
    image: Vec<u8>,
    /// What tiling made of it, where that was asked for.
    tile: Option<Tile>,
}

/// Opens a file that begins as an image does, or says why it is none. Also its first bytes.
fn open_image(path: &Path) -> Result<(File, Vec<u8>)> {
    // To open a pipe would wait for somebody who writes to it.
    if !path.metadata()?.is_file() {
        bail!("it is no regular file");
    }
    let mut file = File::open(path)?;
    let mut beginning = Vec::new();
    (&mut file)
        .take(BEGINNING_BYTES)
        .read_to_end(&mut beginning)?;
    match loaderd_decode::probe(&beginning) {
        Err(error @ (DecodeError::Empty | DecodeError::UnknownFormat { .. })) => bail!(error),
        _ => Ok((file, beginning)),
    }
}

/// Reads a file, and tiles it; or says why it is left out.
fn prepare(path: &Path, tiles: bool) -> Result<Prepared, String> {
    let left_out = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let (mut file, mut image) = open_image(path).map_err(|error| left_out(&error))?;
    file.read_to_end(&mut image)
        .map_err(|error| left_out(&error))?;
    loaderd_decode::probe(&image).map_err(|error| left_out(&error))?;
    let tile = tiles.then(|| tile_jpeg(&image, true));
    Ok(Prepared { image, tile })
}

/// The files in their order, without those that are no images.
struct Images<'a> {
    files: &'a [Labelled],
    preparing: Vec<Receiver<Result<Prepared, String>>>,
    taken: usize,
    skipped: Vec<String>,
    counts: TileCounts,
    bar: &'a ProgressBar,
    first: Option<Result<IngestRow, SnapshotError>>,
}

impl Images<'_> {
    fn next_image(&mut self) -> Option<Result<IngestRow, SnapshotError>> {
        loop {
            let file = self.files.get(self.taken)?;
            let turn = self.taken % self.preparing.len();
            self.taken += 1;
            let prepared = self.preparing[turn]
                .recv()
                .expect("preparing does not panic");
            self.bar.inc(1);
            let Prepared { image, tile } = match prepared {
                Ok(prepared) => prepared,
                Err(left_out) => {
                    self.skipped.push(left_out);
                    continue;
                }
            };
            let image = match tile {
                None => image,
                Some(tile) => self.counts.count(image.len(), tile).unwrap_or(image),
            };
            return Some(Ok(IngestRow {
                image,
                class: file.class.clone(),
            }));
        }
    }
}

impl Iterator for Images<'_> {
    type Item = Result<IngestRow, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.next_image(),
        }
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = std::fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()
        })
        .with_context(|| format!("reading folder {}", dir.display()))?;
    paths.sort();
    Ok(paths)
}

/// The last part of a path, as text.
fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Refuses a class that `path` names in bytes that are no text: in their stead, names that differ
/// would become one.
fn check_class(path: &Path, class: &str) -> Result<()> {
    if path.to_str().is_none() && class.contains(char::REPLACEMENT_CHARACTER) {
        bail!(
            "the class {class} of {} is not UTF-8: rename it",
            path.display()
        );
    }
    Ok(())
}

fn by_folder(src: &Path) -> Result<Vec<Labelled>> {
    let mut files = Vec::new();
    let mut stray = 0;
    for path in entries(src)? {
        if path.is_dir() {
            let class = name_of(&path);
            check_class(&path, &class)?;
            let mut found = Vec::new();
            walk(&path, &mut found)?;
            files.extend(found.into_iter().map(|path| Labelled {
                path,
                class: class.clone(),
            }));
        } else {
            stray += 1;
        }
    }
    if files.is_empty() && stray == 0 {
        bail!("{} holds no files", src.display());
    }
    if files.is_empty() {
        bail!(
            "{} has no class sub-folder with files in it ({stray} files lie in the folder itself): put each class into a \
             folder of its own, or take the class from the file's name with --label-from name",
            src.display()
        );
    }
    if stray > 0 {
        tell(format_args!(
            "loaderd: {stray} files that lie beside the class folders of {} are left out",
            src.display()
        ));
    }
    Ok(files)
}

fn by_name(src: &Path) -> Result<Vec<Labelled>> {
    let mut found = Vec::new();
    walk(src, &mut found)?;
    let labelled = found.into_iter().map(|path| {
        let name = name_of(&path);
        let stem = name.split_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let class: String = stem.split_once('_').map_or(stem, |(class, _)| class).into();
        check_class(&path, &class).or_else(|error| match open_image(&path) {
            Ok(_) => Err(error),
            // It names no class.
            Err(_) => Ok(()),
        })?;
        Ok(Labelled { path, class })
    });
    let files = labelled.collect::<Result<Vec<_>>>()?;
    if files.is_empty() {
        bail!("{} holds no files", src.display());
    }
    Ok(files)
}

/// All files below a folder, sorted; links to folders are not followed.
fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(dir)? {
        if path.is_symlink() && path.is_dir() {
            continue;
        }
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(dir: &Path, names: &[&str]) {
        for name in names {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
    }

    fn classes(files: &[Labelled]) -> Vec<(String, String)> {
        files
            .iter()
            .map(|file| (name_of(&file.path), file.class.clone()))
            .collect()
    }

    #[test]
    fn class_from_folder() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["b/2.jpg", "a/x/1.jpg", "stray.txt"]);
        let files = by_folder(dir.path()).unwrap();
        let expected = [("1.jpg", "a"), ("2.jpg", "b")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(classes(&files), expected);
    }

    #[test]
    fn class_from_name() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["n01_tench_2.jpg", "plain.jpg"]);
        let files = by_name(dir.path()).unwrap();
        let expected =
            [("n01_tench_2.jpg", "n01"), ("plain.jpg", "plain")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(classes(&files), expected);
    }

    #[test]
    fn a_flat_folder_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["1.jpg"]);
        let error = by_folder(dir.path()).err().unwrap().to_string();
        assert!(error.contains("--label-from name"), "{error}");
    }
}
