//! Which rows of which fragment have no tiled form yet, and giving them one.
//!
//! Enters: a version, a function that tiles. Leaves: one [`Entry`] a fragment. Images are read and
//! tiled in windows, the next one being read meanwhile; a fragment in which nothing can be tiled
//! gets no file.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::StructArray;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance_core::ROW_ADDR;
use lance_core::datatypes::{BlobHandling, Schema};
use lance_core::utils::deletion::DeletionVector;
use lance_table::format::{DataFile, Fragment};
use tokio::task::JoinHandle;

use super::checkpoint::{Checkpoint, Entry};
use super::write::Writer;
use super::{Target, Tile, TileCounts, TileFn};
use crate::SnapshotError;
use crate::column::Column;
use crate::field::BytesLayout;
use crate::locate;
use crate::runtime::{runtime, wait};
use crate::slow;
use crate::tiled::fresh::files_of;

/// Images that are read and tiled together: at most so many, …
const WINDOW_ROWS_MAX: usize = 64;
/// … and no more than have so many bytes, going by those before.
const WINDOW_BYTES: usize = 16 << 20;
/// The first window's images, whose size nobody knows.
const WINDOW_ROWS_FIRST: usize = 16;
/// Images that go to the file together.
pub(super) const FILE_ROWS: usize = 16;

type Values = Vec<Option<Vec<u8>>>;
type Reading = JoinHandle<Result<Values, SnapshotError>>;

/// What is to be done, and what is done.
pub(super) struct Work {
    pub(super) tasks: Vec<Task>,
    pub(super) written: Vec<Entry>,
}

/// A fragment with rows that have no tiled form.
pub(super) struct Task {
    fragment: FileFragment,
    /// Live rows without one, by position.
    missing: Vec<u32>,
    /// Whether other rows of it have one.
    is_partial: bool,
    /// Whether what it has may be of other images, so that all its rows count as missing.
    is_stale: bool,
    /// Whether what it has is to be copied in any case.
    is_shared: bool,
}

impl Work {
    pub(super) fn plan(
        dataset: &Arc<Dataset>,
        target: &Target,
        checkpoint: &Checkpoint,
        stale: &HashSet<u32>,
        copy: bool,
    ) -> Result<Self, SnapshotError> {
        let mut work = Self {
            tasks: Vec::new(),
            written: Vec::new(),
        };
        for fragment in dataset.get_fragments() {
            if let Some(entry) = checkpoint.find(dataset, target, fragment.metadata()) {
                work.written.push(entry);
                continue;
            }
            let is_stale = stale.contains(&(fragment.id() as u32));
            let has_tiles = files_of(fragment.metadata(), &target.ids()).is_some();
            let is_partial = has_tiles && !is_stale;
            let missing = match is_partial {
                true => wait(without_tile(&fragment, target.field.id, target.layout))?,
                false => wait(live(&fragment))?,
            };
            let is_shared = copy && is_partial && shares(fragment.metadata(), target);
            if !missing.is_empty() || is_shared {
                work.tasks.push(Task {
                    fragment,
                    missing,
                    is_partial,
                    is_stale,
                    is_shared,
                });
            }
        }
        Ok(work)
    }

    /// Rows to look at.
    pub(super) fn rows(&self) -> u64 {
        self.tasks
            .iter()
            .map(|task| task.missing.len() as u64)
            .sum()
    }
}

impl Task {
    /// Tiles the fragment's images and writes its file. `copy`: images that are tiled already are
    /// taken over, and tiles that lie in the originals' own file, so that the original column can go.
    pub(super) fn run(
        self,
        dataset: &Arc<Dataset>,
        target: &Target,
        copy: bool,
        tile: &mut TileFn<'_>,
    ) -> Result<Entry, SnapshotError> {
        let metadata = self.fragment.metadata().clone();
        let mut counts = TileCounts::default();
        let deleted = wait(async {
            let deleted = self.fragment.get_deletion_vector().await;
            deleted.map_err(|error| SnapshotError::lance("read which rows are deleted", error))
        })?;
        let mut sink = Sink {
            task: &self,
            dataset,
            target,
            deleted,
            writer: None,
            pending: Vec::new(),
            next: 0,
        };
        if self.is_shared {
            sink.begin()?;
        }
        let (mut window, mut rest) = split(&self.missing, WINDOW_ROWS_FIRST);
        let mut reading = self.read(dataset, target, window)?;
        while !window.is_empty() {
            let images = joined(reading)?;
            let bytes: usize = images.iter().flatten().map(Vec::len).sum();
            let rows = WINDOW_BYTES / (bytes / images.len()).max(1);
            let (next, after) = split(rest, rows.clamp(1, WINDOW_ROWS_MAX));
            reading = self.read(dataset, target, next)?;
            let values = tiled(images, copy, tile, &mut counts)?;
            sink.put(window, values)?;
            (window, rest) = (next, after);
        }
        Ok(Entry {
            fragment: metadata.id,
            source: files_of(&metadata, &target.source_ids),
            physical_rows: metadata.physical_rows,
            file: sink.finish(metadata.physical_rows)?,
            is_anew: self.is_stale,
            deletions: metadata.deletion_file,
            counts,
        })
    }

    /// Begins to read the originals of some rows.
    fn read(
        &self,
        dataset: &Arc<Dataset>,
        target: &Target,
        rows: &[u32],
    ) -> Result<Reading, SnapshotError> {
        let (column, layout) = (target.source.clone(), target.source_layout);
        let addresses = self.addresses(rows.iter().copied());
        let dataset = dataset.clone();
        let read = async move { slow::bytes(&dataset, &column, layout, &addresses).await };
        Ok(runtime()?.spawn(read))
    }

    fn addresses(&self, rows: impl Iterator<Item = u32>) -> Vec<u64> {
        let fragment = (self.fragment.id() as u64) << 32;
        rows.map(|row| fragment | u64::from(row)).collect()
    }
}

/// The first `count` rows, and the others.
fn split(rows: &[u32], count: usize) -> (&[u32], &[u32]) {
    rows.split_at(count.min(rows.len()))
}

fn joined(reading: Reading) -> Result<Values, SnapshotError> {
    let read = runtime()?.block_on(reading);
    read.map_err(|error| SnapshotError::Runtime {
        source: std::io::Error::other(error),
    })?
}

/// The tiled forms of a window's images, counted.
fn tiled(
    mut images: Values,
    copy: bool,
    tile: &mut TileFn<'_>,
    counts: &mut TileCounts,
) -> Result<Values, SnapshotError> {
    let there: Vec<usize> = (0..images.len())
        .filter(|&at| images[at].is_some())
        .collect();
    counts.nulls += (images.len() - there.len()) as u64;
    let originals: Vec<Vec<u8>> = there.iter().filter_map(|&at| images[at].take()).collect();
    let answers = tile(&originals)?;
    assert_eq!(answers.len(), originals.len(), "an answer an image");
    for ((at, original), answer) in there.into_iter().zip(originals).zip(answers) {
        let is_copied = copy && answer == Tile::Already;
        let tiled = counts.count(original.len(), answer);
        images[at] = tiled.or_else(|| is_copied.then_some(original));
    }
    Ok(images)
}

/// The rows of a fragment's file, in order and without gaps. The file is begun with the first row
/// that has a value; until then rows are only passed over.
struct Sink<'a> {
    task: &'a Task,
    dataset: &'a Arc<Dataset>,
    target: &'a Target,
    deleted: Option<Arc<DeletionVector>>,
    writer: Option<Writer>,
    pending: Values,
    /// The first row that is neither pending nor written.
    next: u32,
}

impl Sink<'_> {
    fn begin(&mut self) -> Result<(), SnapshotError> {
        self.writer = Some(Writer::start(self.task.fragment.clone(), self.target)?);
        Ok(())
    }

    /// Takes the values of these rows, which lie behind all others so far.
    fn put(&mut self, rows: &[u32], values: Values) -> Result<(), SnapshotError> {
        if self.writer.is_none() {
            if values.iter().all(Option::is_none) {
                return Ok(());
            }
            self.begin()?;
        }
        for (&row, value) in rows.iter().zip(values) {
            self.fill(row)?;
            self.pending.push(value);
            self.next = row + 1;
        }
        Ok(())
    }

    /// Takes the rows before `end` that were not put: those that have a tiled form keep it.
    fn fill(&mut self, end: u32) -> Result<(), SnapshotError> {
        while self.next < end || self.pending.len() >= FILE_ROWS {
            if self.pending.len() >= FILE_ROWS {
                self.flush()?;
                continue;
            }
            let room = (FILE_ROWS - self.pending.len()) as u32;
            let rows = self.next..end.min(self.next + room);
            self.next = rows.end;
            let mut old = match &self.target.existing {
                Some(column) if self.task.is_partial => self.old(column, rows.clone())?,
                _ => Vec::new(),
            }
            .into_iter();
            for row in rows {
                if self.is_old(row) {
                    self.pending.push(old.next().flatten());
                } else if self.target.existing.is_some() || !self.is_deleted(row) {
                    self.pending.push(None);
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        let writer = self.writer.as_mut().expect("begun with the first value");
        writer.put(std::mem::take(&mut self.pending))
    }

    fn is_deleted(&self, row: u32) -> bool {
        self.deleted.as_ref().is_some_and(|rows| rows.contains(row))
    }

    /// Whether the row has a tiled form in the version that is read.
    fn is_old(&self, row: u32) -> bool {
        self.task.is_partial
            && !self.is_deleted(row)
            && self.task.missing.binary_search(&row).is_err()
    }

    /// The tiled forms that are there.
    fn old(&self, column: &Column, rows: Range<u32>) -> Result<Values, SnapshotError> {
        let rows = rows.filter(|&row| self.is_old(row));
        let addresses = self.task.addresses(rows);
        wait(slow::bytes(
            self.dataset,
            column,
            self.target.layout,
            &addresses,
        ))
    }

    fn finish(mut self, physical_rows: Option<usize>) -> Result<Option<DataFile>, SnapshotError> {
        if self.writer.is_none() {
            return Ok(None);
        }
        let rows = match physical_rows {
            Some(rows) => rows,
            None => wait(async {
                let rows = self.task.fragment.physical_rows().await;
                rows.map_err(|error| SnapshotError::lance("count a fragment's rows", error))
            })?,
        };
        self.fill(rows as u32)?;
        if !self.pending.is_empty() {
            self.flush()?;
        }
        self.writer.take().map(Writer::finish).transpose()
    }
}

/// Whether a compaction has put tiles into the originals' file, from which those can't be dropped:
/// Lance copies a blob v1 by its value only.
pub(super) fn shares(fragment: &Fragment, target: &Target) -> bool {
    let tiles = files_of(fragment, &target.ids());
    target.layout == BytesLayout::BlobV1
        && tiles.is_some()
        && tiles == files_of(fragment, &target.source_ids)
}

/// The live rows of a fragment.
pub(crate) async fn live(fragment: &FileFragment) -> Result<Vec<u32>, SnapshotError> {
    let failed = |error| SnapshotError::lance("count a fragment's rows", error);
    let rows = fragment.physical_rows().await.map_err(failed)? as u32;
    let deleted = fragment.get_deletion_vector().await.map_err(failed)?;
    let is_live = |row: &u32| !deleted.as_ref().is_some_and(|rows| rows.contains(*row));
    Ok((0..rows).filter(is_live).collect())
}

/// The live rows of a fragment that are null in a blob column.
pub(super) async fn without_tile(
    fragment: &FileFragment,
    field_id: i32,
    layout: BytesLayout,
) -> Result<Vec<u32>, SnapshotError> {
    let failed = |error| SnapshotError::lance("look for images without a tiled form", error);
    let schema: Schema = fragment.schema().project_by_ids(&[field_id], true);
    let name = schema.fields[0].name.clone();
    let mut scanner = fragment.scan();
    scanner.project_with_schema(&schema).map_err(failed)?;
    scanner
        .blob_handling(BlobHandling::BlobsDescriptions)
        .with_row_address()
        .scan_in_order(true);
    let mut batches = scanner.try_into_stream().await.map_err(failed)?;
    let mut missing = Vec::new();
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        let addresses = batch[ROW_ADDR].as_primitive::<UInt64Type>().values();
        let descriptors: &StructArray = batch[name.as_str()].as_struct();
        let rows = addresses.iter().enumerate();
        let rows = rows.filter(|(row, _)| locate::is_null(layout, descriptors, *row));
        missing.extend(rows.map(|(_, address)| *address as u32));
    }
    Ok(missing)
}
