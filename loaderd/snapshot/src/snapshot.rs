//! One version of one dataset, with the rows and columns that a job reads.
//!
//! Enters: a [`SnapshotRequest`]. Leaves: lookups by index (0 to the number of selected rows, in
//! dataset order) that touch neither Lance nor the heap, and the slow path beside them. It never
//! says in which order rows are visited.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use lance::Dataset;
use loaderd_pagemap::{Cache, KeyColumns, MapError, MapKey, PageMap, Place, Variable};
use loaderd_read::{Extent, FileSet};

use crate::build::Columns;
use crate::column::{Column, FieldInfo, fields};
use crate::dataset::{identity, open};
use crate::field::{BytesLayout, FixedKind, RaggedKind};
use crate::ingest::classes_of;
use crate::location::Location;
use crate::protect::{Hold, Protection};
use crate::request::{
    ColumnRef, SnapshotRequest, VersionRef, bytes_columns, fixed_columns, variable_columns,
};
use crate::runtime::wait;
use crate::scan::build;
use crate::tiled::{TiledForm, tiled_forms, tiled_key};
use crate::{SnapshotError, locate, slow};

/// How to get one row's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Read these bytes of a file of [`Snapshot::files`].
    Extent(Extent),
    /// There is none: the value is null.
    Null,
    /// Ask [`Snapshot::read_slow`], which also answers null where it is.
    Slow,
}

/// An open snapshot. Shared by threads; lookups never block except on a page fault.
///
/// Dropping it takes a run's tag off the version, which blocks for one small file operation and
/// must not happen inside an async task.
pub struct Snapshot {
    location: Location,
    tag: Option<String>,
    identity: String,
    metadata: BTreeMap<String, String>,
    bytes: Vec<(Column, BytesLayout)>,
    tiled: Vec<Option<TiledForm>>,
    tiled_stale: Vec<Option<(usize, usize)>>,
    fixed: Vec<(Column, FixedKind)>,
    variable: Vec<(Column, RaggedKind)>,
    map: PageMap,
    files: Arc<FileSet>,
    dataset: Arc<Dataset>,
    // After the files are closed and the map is gone, nothing needs the version any more.
    hold: Hold,
}

impl Snapshot {
    /// The columns of a version. Reads one manifest; blocks for milliseconds.
    ///
    /// # Errors
    /// Where the URI, the dataset, the version or the tag is not there.
    pub fn schema(uri: &str, version: &VersionRef) -> Result<Vec<FieldInfo>, SnapshotError> {
        let location = Location::parse(uri)?;
        let dataset = wait(open(&location, version))?;
        Ok(fields(dataset.schema()))
    }

    /// Opens a version, tags it, and maps where its rows lie. Blocks: for about a microsecond a row
    /// when this selection is opened for the first time on this machine, for milliseconds later.
    ///
    /// # Errors
    /// Each missing or unusable thing has a variant of its own; see [`SnapshotError`].
    pub fn open(request: SnapshotRequest) -> Result<Self, SnapshotError> {
        let location = Location::parse(&request.uri)?;
        let dataset = Arc::new(wait(open(&location, &request.version))?);
        let location = place_of(location, &dataset)?;
        let bytes = bytes_columns(&location, &dataset, &request.bytes_columns)?;
        let names = &request.bytes_columns;
        let tiled = wait(tiled_forms(
            &location,
            &dataset,
            names,
            &request.tiled_columns,
        ))?;
        let (tiled, tiled_stale) = (tiled.forms, tiled.stale);
        let fixed = fixed_columns(&location, &dataset, &request.fixed_columns)?;
        let variable = variable_columns(&location, &dataset, &request.variable_columns)?;
        // Before anything is scanned: what is read must stay.
        let hold = wait(async { Ok(Hold::take(&dataset, request.protect, &request.run).await) })?;
        let identity = identity(&dataset)?;
        let filter = request.filter.filter(|filter| !filter.trim().is_empty());
        let key = MapKey::new(
            locate::LANCE,
            identity.clone(),
            dataset.version_id(),
            filter,
            KeyColumns {
                bytes: request.bytes_columns,
                tiled: tiled.iter().map(tiled_key).collect(),
                fixed: request.fixed_columns,
                variable: request.variable_columns,
            },
        );
        let cache = Cache::open(&request.cache_dir)?;
        let columns = Columns {
            bytes: &bytes,
            tiled: &tiled,
            fixed: &fixed,
            variable: &variable,
        };
        let map = find_or_build(&location, &dataset, columns, &cache, &key)?;
        cache.evict(request.cache_bytes_max, &key);
        let files = data_files(&location, &dataset, &map)?;
        let metadata = dataset.schema().metadata.clone();
        Ok(Self {
            tag: match request.version {
                VersionRef::Tag(tag) => Some(tag),
                VersionRef::Latest | VersionRef::Number(_) => None,
            },
            location,
            identity,
            metadata: metadata.into_iter().collect(),
            bytes,
            tiled,
            tiled_stale,
            fixed,
            variable,
            map,
            files: Arc::new(files),
            dataset,
            hold,
        })
    }

    /// The dataset's folder as an absolute path; that of a branch where a tag led to one. It and
    /// the version's number name what is read.
    pub fn uri(&self) -> &str {
        self.location.uri()
    }

    /// The version's number.
    pub fn version(&self) -> u64 {
        self.dataset.version_id()
    }

    /// The tag that was asked for, if one was.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The version's columns.
    pub fn fields(&self) -> Vec<FieldInfo> {
        fields(self.dataset.schema())
    }

    /// What holds the version against clean-up.
    pub fn protection(&self) -> &Protection {
        self.hold.protection()
    }

    /// Hex BLAKE3 of the version's manifest: the same for a dataset that was moved or copied,
    /// another for one that was written anew at the same place.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Selected rows; never 0.
    pub fn rows(&self) -> u64 {
        self.map.description().rows
    }

    /// Rows of the version, selected or not.
    pub fn rows_in_version(&self) -> u64 {
        self.map.description().rows_in_version
    }

    /// Hex BLAKE3 of the selected row addresses in order, as little-endian u64s.
    pub fn selection_hash(&self) -> &str {
        &self.map.description().selection_hash
    }

    /// Where the row lies: fragment in the upper half, position in the lower. `u64::MAX`, which is
    /// no row's address, where the page map is damaged; [`Snapshot::check`] says so.
    ///
    /// # Panics
    /// If `index` is not below [`Snapshot::rows`]; so do all lookups.
    pub fn row_address(&self, index: u64) -> u64 {
        self.map.address(index).unwrap_or(u64::MAX)
    }

    /// The row's id, which compaction does not change in a dataset with stable row ids. `u64::MAX`
    /// where the page map is damaged.
    pub fn row_id(&self, index: u64) -> u64 {
        self.map.id(index).unwrap_or(u64::MAX)
    }

    /// Fails if damage of the page map was met so far. As cheap as reading a flag: to be asked once
    /// a batch, before what the map said about it is used.
    ///
    /// # Errors
    /// [`MapError::Damaged`], with the file's name.
    pub fn check(&self) -> Result<(), SnapshotError> {
        Ok(self.map.check()?)
    }

    /// The schema's metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The class names of a label column, in the order of their numbers, where ingest wrote them.
    pub fn classes(&self, column: &str) -> Option<Vec<String>> {
        classes_of(&self.metadata, column)
    }

    /// The data files that extents point into, held open.
    pub fn files(&self) -> &Arc<FileSet> {
        &self.files
    }

    /// The column that holds the tiled form of bytes column `column`, and in how many of the
    /// selected rows it is read instead. None where the dataset has none, or it was not asked for.
    pub fn tiled(&self, column: usize) -> Option<(&str, u64)> {
        let form = self.tiled[column].as_ref()?;
        Some((&form.column.name, self.map.description().tiled_rows[column]))
    }

    /// In how many fragments of how many the tiled form of bytes column `column` is left alone,
    /// because rows or images were written anew since. None where it is in none, or was not asked for.
    pub fn tiled_stale(&self, column: usize) -> Option<(usize, usize)> {
        self.tiled_stale[column]
    }

    /// Name of bytes column `column`.
    pub fn bytes_name(&self, column: usize) -> &str {
        &self.bytes[column].0.name
    }

    /// How many bytes columns there are.
    pub fn bytes_columns(&self) -> usize {
        self.bytes.len()
    }

    /// Where the payload of row `index` lies, for bytes column `column`.
    pub fn payload(&self, column: usize, index: u64) -> Payload {
        match self.map.place(column, index) {
            Place::At {
                offset,
                length,
                file,
            } => Payload::Extent(Extent {
                offset,
                length,
                file,
            }),
            Place::Null => Payload::Null,
            Place::Slow => Payload::Slow,
        }
    }

    /// The length in bytes that the share `q` (0 to 1) of all payloads with an extent does not
    /// exceed, over all bytes columns; 1 gives the longest. From a sample; 0 where there are none.
    pub fn length_quantile(&self, q: f64) -> u32 {
        self.map.length_quantile(q)
    }

    /// Element type and shape of fixed column `column`.
    pub fn fixed_kind(&self, column: usize) -> &FixedKind {
        &self.fixed[column].1
    }

    /// Row `index` of fixed column `column`: little-endian elements, row-major. A null, at any
    /// depth, is NaN where the elements are floats and 0 where they are not. None where the column
    /// is too wide for the page map; [`Snapshot::read_fixed_slow`] reads those.
    pub fn fixed(&self, column: usize, index: u64) -> Option<&[u8]> {
        self.map
            .fixed(column, index, self.fixed[column].1.row_bytes())
    }

    /// In how many selected rows of fixed column `column` there is a null, at any depth. 0 for a
    /// column of more than 1 GiB, which is not searched: reading one fails where integers are null.
    pub fn fixed_nulls(&self, column: usize) -> u64 {
        let nulls = self.map.description().nulls[column].as_ref();
        nulls.map_or(0, |nulls| nulls.rows)
    }

    /// Whether row `index` of a column is there: for a fixed column, whether it has no null at any
    /// depth; for another one, whether it is not null as a whole. True where only reading tells: a
    /// payload or value that is `Slow`, and a fixed column that was not searched for nulls.
    pub fn is_valid(&self, column: ColumnRef, index: u64) -> bool {
        match column {
            ColumnRef::Bytes(column) => self.payload(column, index) != Payload::Null,
            ColumnRef::Fixed(column) => !self.map.is_null(column, index),
            ColumnRef::Variable(column) => self.variable(column, index) != Variable::Null,
        }
    }

    /// Element type, shape and levels of variable column `column`.
    pub fn variable_kind(&self, column: usize) -> &RaggedKind {
        &self.variable[column].1
    }

    /// Row `index` of variable column `column`, as [`decode_value`](crate::decode_value) reads it.
    ///
    /// The map holds values of up to 64 KiB, of columns with at most 4 KiB a row on average and
    /// 1 GiB in all; others are `Slow`.
    pub fn variable(&self, column: usize, index: u64) -> Variable<'_> {
        self.map.variable(column, index)
    }

    /// The length in bytes that the share `q` (0 to 1) of the values of variable column `column`
    /// does not exceed; 1 gives the longest. From a sample: of all selected rows where the map holds
    /// the column, else of the version's first rows. 0 where there are no values.
    pub fn variable_quantile(&self, column: usize, q: f64) -> u32 {
        self.map.variable_quantile(column, q)
    }

    /// Reads rows of variable column `column` through Lance: in any order, duplicates allowed, null
    /// as none. Works for every row, also for those in the map. Blocks for the reads; the memory is
    /// what it returns and a thousand rows more.
    ///
    /// # Errors
    /// Where Lance fails or leaves out a row, lists of integers have nulls in them, or the page map
    /// is damaged.
    pub fn read_variable_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SnapshotError> {
        let (column, kind) = &self.variable[column];
        let addresses = self.addresses(indices)?;
        wait(slow::variable(&self.dataset, column, kind, &addresses))
    }

    /// Reads rows of bytes column `column` through Lance: in any order, duplicates allowed, null
    /// as none. Works for every row, also for those with an extent. Blocks for the reads; the
    /// memory is what it returns and a thousand rows more.
    ///
    /// # Errors
    /// Where Lance fails or leaves out a row, or the page map is damaged.
    pub fn read_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SnapshotError> {
        let addresses = self.addresses(indices)?;
        let mut values: Vec<Option<Vec<u8>>> = vec![None; addresses.len()];
        let mut fill = |column, layout, rows: &dyn Fn(u64) -> bool| {
            let missing = |at: &usize| values[*at].is_none() && rows(addresses[*at]);
            let missing: Vec<usize> = (0..values.len()).filter(missing).collect();
            let wanted: Vec<u64> = missing.iter().map(|&at| addresses[at]).collect();
            let read = wait(slow::bytes(&self.dataset, column, layout, &wanted))?;
            for (at, value) in missing.into_iter().zip(read) {
                values[at] = value;
            }
            Ok::<_, SnapshotError>(())
        };
        if let Some(form) = &self.tiled[column] {
            fill(&form.column, form.layout, &|address| {
                !form.is_stale(address)
            })?;
        }
        let (column, layout) = &self.bytes[column];
        fill(column, *layout, &|_| true)?;
        Ok(values)
    }

    /// Reads rows of fixed column `column` through Lance into `out`, one after the other. Nulls
    /// become what [`Snapshot::fixed`] makes of them.
    ///
    /// # Errors
    /// Where Lance fails or leaves out a row, the page map is damaged, or an integer is null in a
    /// column that was not searched for nulls.
    ///
    /// # Panics
    /// If `out` does not have exactly the rows' bytes.
    pub fn read_fixed_slow(
        &self,
        column: usize,
        indices: &[u64],
        out: &mut [u8],
    ) -> Result<(), SnapshotError> {
        let nulls_are_known = self.map.description().nulls[column].is_some();
        let (column, kind) = &self.fixed[column];
        assert_eq!(
            out.len(),
            indices.len() * kind.row_bytes(),
            "bytes for the rows of {}",
            column.name
        );
        let addresses = self.addresses(indices)?;
        wait(slow::fixed(
            &self.dataset,
            column,
            kind,
            nulls_are_known,
            &addresses,
            out,
        ))
    }

    /// Takes a run's tag off the version and closes everything. Dropping does the same without
    /// saying what went wrong.
    ///
    /// # Errors
    /// Where the tag cannot be removed; [`prune_tags`](crate::prune_tags) finds it later.
    pub fn release(mut self) -> Result<(), SnapshotError> {
        self.hold.release()
    }

    fn addresses(&self, indices: &[u64]) -> Result<Vec<u64>, SnapshotError> {
        let addresses = indices
            .iter()
            .map(|&index| self.row_address(index))
            .collect();
        self.check()?;
        Ok(addresses)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("uri", &self.uri())
            .field("version", &self.version())
            .field("rows", &self.rows())
            .finish_non_exhaustive()
    }
}

/// Where a dataset lies that was opened at a location: a tag may name a version of a branch, whose
/// numbers are its own, and which has a folder of its own.
fn place_of(location: Location, dataset: &Dataset) -> Result<Location, SnapshotError> {
    let branch = dataset.branch_location();
    match branch.branch {
        None => Ok(location),
        Some(_) => Location::parse(&branch.uri),
    }
}

fn find_or_build(
    location: &Location,
    dataset: &Arc<Dataset>,
    columns: Columns<'_>,
    cache: &Cache,
    key: &MapKey,
) -> Result<PageMap, SnapshotError> {
    /// One scan at a time: jobs that open the same selection together share the first one's map.
    static BUILDING: Mutex<()> = Mutex::new(());
    if let Some(map) = cache.find(key)? {
        return Ok(map);
    }
    // The guarded value is empty: a builder that panicked left nothing half done.
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(map) = cache.find(key)? {
        return Ok(map);
    }
    let target = cache.target(key)?;
    wait(build(location.uri(), dataset, columns, key.clone(), target))?;
    match cache.find(key)? {
        Some(map) => Ok(map),
        None => Err(SnapshotError::Map(MapError::Damaged {
            path: cache.folder().to_owned(),
            detail: "it was gone, or not whole, right after it was written".to_owned(),
        })),
    }
}

/// Opens the files that the map points into, and checks that none was cut off.
fn data_files(
    location: &Location,
    dataset: &Dataset,
    map: &PageMap,
) -> Result<FileSet, SnapshotError> {
    let refs = &map.description().files;
    let root = locate::root(dataset);
    let paths = refs.iter().map(|file| Path::new(&root).join(&file.path));
    let files = FileSet::open(paths.collect()).map_err(|source| SnapshotError::DataFiles {
        uri: location.uri().to_owned(),
        version: dataset.version_id(),
        source: Box::new(source),
    })?;
    for (number, file) in (0_u32..).zip(refs) {
        let found = files.size(number);
        if found < file.bytes_min {
            return Err(SnapshotError::DataFileShort {
                path: files.path(number).to_owned(),
                expected: file.bytes_min,
                found,
            });
        }
    }
    Ok(files)
}
