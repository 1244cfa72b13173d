//! What a run has written so far, so that a killed one is gone on with.
//!
//! Enters: fragments as they are finished. Leaves: the same after a restart, as far as the dataset
//! is still the one that they were written for. One file a dataset and column, with a line a
//! fragment; a torn last line counts as not written.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use lance::Dataset;
use lance_io::local::to_local_path;
use lance_table::format::{DataFile, DeletionFile, Fragment};
use serde::{Deserialize, Serialize};

use super::{Target, TileCounts, TileOptions};
use crate::SnapshotError;
use crate::field::BytesLayout;
use crate::location::Location;
use crate::tiled::fresh::files_of;

/// Another number for every change of what a line means: what was written before is not taken over.
const FORMAT: u32 = 3;

/// One fragment that is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) fragment: u64,
    /// The data files that hold the originals: their random names tell this fragment from others
    /// that had or will have its number, and from itself when other images were written to it.
    pub(super) source: Option<String>,
    pub(super) physical_rows: Option<usize>,
    /// Rows that were deleted then have no tile.
    pub(super) deletions: Option<DeletionFile>,
    /// The tiles; none where no image got one.
    pub(super) file: Option<DataFile>,
    /// Whether they replace tiles that may be of other images.
    pub(super) is_anew: bool,
    pub(super) counts: TileCounts,
}

impl Entry {
    /// Whether a version has the file already: the run was killed right after its commit.
    fn is_committed(&self, fragment: &Fragment) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|file| fragment.files.iter().any(|it| it.path == file.path))
    }

    /// Whether `fragment` still has the rows that this was written for.
    pub(super) fn fits(&self, fragment: &Fragment, target: &Target) -> bool {
        self.fragment == fragment.id
            && self.physical_rows == fragment.physical_rows
            && files_of(fragment, &target.source_ids) == self.source
    }
}

/// The file in the state folder. Whoever has the column's claim has it.
pub(super) struct Checkpoint {
    file: File,
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Checkpoint {
    pub(super) fn open(
        location: &Location,
        options: &TileOptions,
        target: &Target,
        copy: bool,
    ) -> Result<Self, SnapshotError> {
        let folder = &options.state_dir;
        let key = serde_json::json!([
            FORMAT,
            location.uri(),
            options.column,
            target.field.name,
            target.ids(),
            options.settings,
            copy,
        ]);
        let name = blake3::hash(key.to_string().as_bytes()).to_hex();
        let path = folder.join(format!("{}.tile", &name[..32]));
        let mut open = OpenOptions::new();
        let open = open.read(true).append(true).create(true).open(&path);
        let mut file = open
            .map_err(|e| SnapshotError::record("open the record of tiled fragments", &path, e))?;
        let mut lines = Vec::new();
        file.read_to_end(&mut lines)
            .map_err(|e| SnapshotError::record("read the record of tiled fragments", &path, e))?;
        let lines = lines.split(|byte| *byte == b'\n');
        let entries = lines.map_while(|line| serde_json::from_slice(line).ok());
        let entries: Vec<Entry> = entries.collect();
        let mut checkpoint = Self {
            file,
            path,
            entries: Vec::new(),
        };
        checkpoint.rewrite(&entries)?;
        checkpoint.entries = entries;
        Ok(checkpoint)
    }

    /// Leaves whole lines only.
    fn rewrite(&mut self, entries: &[Entry]) -> Result<(), SnapshotError> {
        self.file.set_len(0).map_err(|e| self.failed(e))?;
        entries.iter().try_for_each(|entry| self.add(entry))
    }

    fn failed(&self, error: std::io::Error) -> SnapshotError {
        SnapshotError::record("write the record of tiled fragments", &self.path, error)
    }

    /// What an earlier run wrote for this fragment, if it is all there and still fits.
    pub(super) fn find(
        &self,
        dataset: &Dataset,
        target: &Target,
        fragment: &Fragment,
    ) -> Option<Entry> {
        let data = PathBuf::from(to_local_path(&dataset.data_dir()));
        let mut entries = self.entries.iter().rev();
        let entry = entries.find(|entry| {
            !entry.is_committed(fragment)
                && entry.fits(fragment, target)
                && (entry.deletions.is_none() || entry.deletions == fragment.deletion_file)
        })?;
        let is_there = entry.file.as_ref().is_none_or(|file| {
            file.fields.contains(&target.field.id) && is_whole(&data, file, target.layout)
        });
        is_there.then(|| entry.clone())
    }

    /// Remembers a fragment. Lance does not sync what it writes: after a power cut, tiles may be
    /// missing that this says are there, which is why originals are dropped only after a look.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), SnapshotError> {
        let mut line = serde_json::to_vec(entry).expect("plain data becomes JSON");
        line.push(b'\n');
        let written = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_data());
        written.map_err(|e| self.failed(e))
    }

    /// The work is in a version of the dataset.
    pub(super) fn remove(self) -> Result<(), SnapshotError> {
        std::fs::remove_file(&self.path).map_err(|e| {
            SnapshotError::record("remove the record of tiled fragments", &self.path, e)
        })
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // Of a run that failed before it had written anything, nothing stays.
        if self.file.metadata().is_ok_and(|found| found.len() == 0) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether clean-up has left a file that no version has.
fn is_whole(data: &Path, file: &DataFile, layout: BytesLayout) -> bool {
    let size = std::fs::metadata(data.join(&file.path)).map_or(0, |found| found.len());
    let expected = file.file_size_bytes.get().map_or(1, |size| size.get());
    let stem = file.path.strip_suffix(".lance").unwrap_or(&file.path);
    size >= expected && (layout != BytesLayout::BlobV2 || data.join(stem).is_dir())
}
