//! A column of images into a second one: the same images in their tiled form.
//!
//! Enters: a dataset, a column, a function that tiles images. Leaves: one new version with an added
//! column that names the first one in its field's metadata; rows that can't be tiled are null
//! there, and are read from the first. It knows no image format, and rewrites no row.
//!
//! Fragments are written one after the other, each as one data file that no version has yet, and
//! remembered in the state folder: what a killed run wrote, the next one takes over. What is never
//! taken over, Lance's clean-up removes.

mod checkpoint;
mod claim;
mod commit;
mod drop;
mod fragment;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema};
use lance::{BlobFieldOptions, Dataset, blob_field_with_options};
use lance_core::datatypes::{Field, Schema};
use lance_file::version::ConcreteFileVersion;
use serde::{Deserialize, Serialize};

use crate::column::Column;
use crate::field::{BytesLayout, FieldKind};
use crate::location::Location;
use crate::request::VersionRef;
use crate::runtime::wait;
use crate::tiled::fresh::{Judged, ids, judge, remove_marks};
use crate::tiled::{TILED_OF_KEY, tiled_form};
use crate::{SnapshotError, dataset};

pub(crate) use drop::TAKES_NAME_KEY;
pub(crate) use fragment::live;

use checkpoint::Checkpoint;
use claim::Claim;
use fragment::Work;

/// Whether a tiled image is the same picture as an original, or what differs in a few words.
pub type SameFn = fn(original: &[u8], tiled: &[u8]) -> Result<(), String>;

/// What to tile.
#[derive(Clone, Debug)]
pub struct TileOptions {
    /// The column of encoded images.
    pub column: String,
    /// Name of the column to add; the column's own and `_tiled` by default.
    pub into: Option<String>,
    /// Drop the column afterwards, and give its name to the tiled one: only where every image is the
    /// same as its tiled form by this function, which is called on as many threads as there are
    /// cores.
    pub drop_original: Option<SameFn>,
    /// What else decides on what is written, such as how it is verified: what a killed run wrote
    /// under other settings is not taken over.
    pub settings: String,
    /// Folder in which written fragments are remembered. Created where it is missing.
    pub state_dir: PathBuf,
}

/// What became of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tile {
    /// The image in its tiled form.
    Tiled(Vec<u8>),
    /// It is one already.
    Already,
    /// It stays as it is, for this reason: a few words that many images share.
    Kept(String),
}

/// Tiles images: as many answers as images, in their order. It may use as many threads as it likes,
/// and is called for a few dozen images at a time. An error ends the run; no version is made then.
pub type TileFn<'a> = dyn FnMut(&[Vec<u8>]) -> Result<Vec<Tile>, SnapshotError> + 'a;

/// What became of a column's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TileCounts {
    /// Rows without an image.
    pub nulls: u64,
    /// Images that were tiled.
    pub tiled: u64,
    /// Images that are tiled in the original column.
    pub already: u64,
    /// Images that stay as they are, by reason.
    pub kept: BTreeMap<String, u64>,
    /// Bytes of the tiled images before …
    pub bytes_before: u64,
    /// … and after.
    pub bytes_after: u64,
}

impl TileCounts {
    /// Images that stay as they are.
    pub fn kept_rows(&self) -> u64 {
        self.kept.values().sum()
    }

    /// Counts what became of an image of `bytes`. Out: its tiled form, if it got one.
    pub fn count(&mut self, bytes: usize, tile: Tile) -> Option<Vec<u8>> {
        match tile {
            Tile::Tiled(tiled) => {
                self.tiled += 1;
                self.bytes_before += bytes as u64;
                self.bytes_after += tiled.len() as u64;
                return Some(tiled);
            }
            Tile::Already => self.already += 1,
            Tile::Kept(reason) => *self.kept.entry(reason).or_default() += 1,
        }
        None
    }

    fn add(&mut self, other: &Self) {
        self.nulls += other.nulls;
        self.tiled += other.tiled;
        self.already += other.already;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        for (reason, count) in &other.kept {
            *self.kept.entry(reason.clone()).or_default() += count;
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileReport {
    /// The new version; none where there was nothing to do.
    pub version: Option<u64>,
    /// Name of the tiled column.
    pub into: String,
    /// How it is stored.
    pub layout: BytesLayout,
    /// Rows that were looked at, by this run and by a killed one before it.
    pub counts: TileCounts,
    /// Of their fragments, those that a killed run had written.
    pub fragments_resumed: u64,
    /// Fragments that got tiles.
    pub fragments_written: u64,
    /// Fragments written for nothing, because somebody else rewrote them meanwhile.
    pub fragments_lost: u64,
    /// Fragments whose tiled images were replaced, or taken out, because rows or images had been
    /// written anew since.
    pub fragments_anew: u64,
    /// Fragments that were compacted since they got tiles, and keep them.
    pub fragments_compacted: u64,
    /// The version in which the tiled column has the original's name, where that was dropped.
    pub dropped: Option<u64>,
    /// Whether there is a tiled column now.
    is_there: bool,
    /// Whether tiles lie in the originals' files.
    is_shared: bool,
}

/// The columns that a run works on.
struct Target {
    source: Column,
    source_layout: BytesLayout,
    /// The numbers of its fields.
    source_ids: Vec<i32>,
    /// The tiled column, with its numbers.
    field: Field,
    layout: BytesLayout,
    /// The same, where the version has it.
    existing: Option<Column>,
}

impl Target {
    fn ids(&self) -> Vec<i32> {
        ids(&self.field)
    }
}

/// Tiles a column of the latest version of the dataset at `uri`. `begin` is told how many images
/// there are to look at. Blocks until all is done; the memory is a few times 16 MiB, or a few
/// images where those are larger.
///
/// Rows that have a tiled form already are left alone, so that running it again after an append does
/// what is missing. An append or delete that is committed meanwhile stays; rows that it brought have
/// no tiled form yet. Other columns may be tiled or added meanwhile, unless the original is dropped.
///
/// # Errors
/// A column that is no column of images, or that another run is at, a tiled column of another
/// name, files of the legacy format, an original column that can't be dropped, the first error
/// of `tile`, and whatever Lance could not read or write.
pub fn tile_column(
    uri: &str,
    options: &TileOptions,
    begin: &mut dyn FnMut(u64),
    tile: &mut TileFn<'_>,
) -> Result<TileReport, SnapshotError> {
    let location = Location::parse(uri)?;
    let dataset = Arc::new(wait(dataset::open(&location, &VersionRef::Latest))?);
    let _claim = Claim::take(&location, options)?;
    let renamed = wait(drop::finish_rename(&location, &dataset, &options.column))?;
    let mut report = pass(&location, options, false, begin, tile)?;
    report.dropped = renamed.map(|renamed| renamed.version_id());
    let Some(same) = options.drop_original.filter(|_| report.is_there) else {
        return Ok(report);
    };
    if report.counts.already > 0 || report.is_shared {
        // What is tiled in the original column has to be in the other one before it can go, and the
        // other one in files of its own.
        let copied = pass(&location, options, true, begin, tile)?;
        report.version = copied.version.or(report.version);
    }
    let dropped = drop::drop_original(&location, &options.column, &report.counts, same);
    report.dropped = Some(wait(dropped)?);
    Ok(report)
}

/// Tiles what has no tiled form in the latest version, and commits it. `copy`: images that are tiled
/// in the original column are copied.
fn pass(
    location: &Location,
    options: &TileOptions,
    copy: bool,
    begin: &mut dyn FnMut(u64),
    tile: &mut TileFn<'_>,
) -> Result<TileReport, SnapshotError> {
    let dataset = Arc::new(wait(dataset::open(location, &VersionRef::Latest))?);
    let target = target(location, &dataset, options)?;
    let mut checkpoint = Checkpoint::open(location, options, &target, copy)?;
    let judged = match &target.existing {
        Some(form) => {
            wait(async { Ok(judge(&dataset, target.source.field_id, form.field_id).await) })?
        }
        None => Judged::default(),
    };
    let mut work = Work::plan(&dataset, &target, &checkpoint, &judged.stale, copy)?;
    begin(work.rows());
    let mut report = TileReport {
        version: None,
        into: target.field.name.clone(),
        layout: target.layout,
        counts: TileCounts::default(),
        fragments_resumed: work.written.len() as u64,
        fragments_written: 0,
        fragments_lost: 0,
        fragments_anew: 0,
        fragments_compacted: judged.unmarked as u64,
        dropped: None,
        is_there: target.existing.is_some(),
        is_shared: dataset
            .fragments()
            .iter()
            .any(|it| fragment::shares(it, &target)),
    };
    for task in std::mem::take(&mut work.tasks) {
        let entry = task.run(&dataset, &target, copy, tile)?;
        checkpoint.add(&entry)?;
        work.written.push(entry);
    }
    for entry in &work.written {
        report.counts.add(&entry.counts);
    }
    work.written
        .retain(|entry| entry.file.is_some() || entry.is_anew);
    if !work.written.is_empty() || judged.unmarked > 0 {
        let anew = work.written.iter().filter(|entry| entry.is_anew);
        report.fragments_anew = anew.count() as u64;
        let committed = wait(commit::add(location, &target, &work.written))?;
        report.version = Some(committed.version);
        report.is_there = true;
        report.fragments_lost = committed.lost;
        report.fragments_written = committed.written;
    }
    checkpoint.remove()?;
    Ok(report)
}

/// That a column can't hold encoded images.
pub(crate) fn no_images(column: Column) -> SnapshotError {
    SnapshotError::WrongType {
        column: column.name,
        found: column.kind.to_string(),
        wanted: "images are tiled in blob, binary or large binary columns".to_owned(),
    }
}

fn refused(location: &Location, column: &str, reason: impl Into<String>) -> SnapshotError {
    SnapshotError::Tile {
        uri: location.uri().to_owned(),
        column: column.to_owned(),
        reason: reason.into(),
    }
}

/// The column to read and the one to write, or why this can't be.
fn target(
    location: &Location,
    dataset: &Dataset,
    options: &TileOptions,
) -> Result<Target, SnapshotError> {
    let name = &options.column;
    let source = dataset::column(location, dataset, name)?;
    let FieldKind::Bytes(source_layout) = source.kind else {
        return Err(no_images(source));
    };
    let no = |reason: String| refused(location, name, reason);
    let format = dataset.manifest().data_storage_format.lance_file_format();
    let layout = match format {
        ConcreteFileVersion::V1 => {
            return Err(no(
                "its files are of the legacy format: write the dataset anew, as 2.0 or later"
                    .into(),
            ));
        }
        // Blob v2 came with 2.2.
        ConcreteFileVersion::V2_0 | ConcreteFileVersion::V2_1 => BytesLayout::BlobV1,
        _ => BytesLayout::BlobV2,
    };
    let schema = dataset.schema();
    let source_ids = schema.field_by_id(source.field_id).map(ids);
    let source_ids = source_ids.expect("a column of this schema");
    if let Some(of) = field_of(schema, source.field_id).and_then(|it| it.metadata.get(TILED_OF_KEY))
    {
        return Err(no(format!("it is the tiled form of {of:?} itself")));
    }
    let into = options
        .into
        .clone()
        .unwrap_or_else(|| format!("{}_tiled", name.replace('.', "_")));
    if let Some((form, layout)) = tiled_form(schema, name) {
        if options.into.is_some() && form.name != into {
            return Err(no(format!("its tiled form is the column {:?}", form.name)));
        }
        let field = field_of(schema, form.field_id).expect("a column of this schema");
        let mut field = field.clone();
        // They are no part of what a data file says of its column.
        remove_marks(&mut field);
        return Ok(Target {
            source,
            source_layout,
            source_ids,
            field,
            layout,
            existing: Some(form),
        });
    }
    if into.is_empty() || into.contains('.') {
        return Err(no(format!(
            "{into:?} is no name for a column: give another with --into"
        )));
    }
    if schema.fields.iter().any(|field| field.name == into) {
        return Err(no(format!(
            "there is a column {into:?} that is not its tiled form: give another name with --into"
        )));
    }
    let added = ArrowSchema::new(vec![tiled_field(&into, name, layout)]);
    let failed = |error| SnapshotError::lance(format!("add the column {into}"), error);
    let mut merged = schema.merge(&added).map_err(failed)?;
    merged
        .try_set_field_id(Some(dataset.manifest().max_field_id()))
        .map_err(failed)?;
    Ok(Target {
        source,
        source_layout,
        source_ids,
        field: merged.fields.pop().expect("the field that was added"),
        layout,
        existing: None,
    })
}

fn field_of(schema: &Schema, id: i32) -> Option<&Field> {
    schema.fields.iter().find(|field| field.id == id)
}

/// The field of a new tiled column. Blobs v2 all go to packed sidecar files, whatever their size.
fn tiled_field(name: &str, of: &str, layout: BytesLayout) -> ArrowField {
    let field = match layout {
        BytesLayout::BlobV2 => {
            let packed = BlobFieldOptions::default().with_inline_size_threshold(0);
            blob_field_with_options(name, true, packed)
        }
        _ => {
            let blob = ("lance-encoding:blob".to_owned(), "true".to_owned());
            ArrowField::new(name, DataType::LargeBinary, true).with_metadata([blob].into())
        }
    };
    let mut metadata = field.metadata().clone();
    metadata.insert(TILED_OF_KEY.to_owned(), of.to_owned());
    field.with_metadata(metadata)
}
