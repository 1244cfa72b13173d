//! Blob descriptors to extents: which file, from which byte, how many.
//!
//! Enters: batches of Lance's blob descriptors with their row addresses. Leaves: places, and the
//! list of files that they point into. It never opens those files.
//!
//! The rules are those of Lance 14.0.2 (`dataset/blob/locate.rs`, `blob_path`): packed and
//! dedicated payloads lie in `<data dir>/<data file's stem>/<reversed id in binary>.blob`, inline
//! and blob v1 payloads in the data file itself. Everything else (external and managed blobs,
//! files of other stores, fragments with overlays) is left to Lance.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt8Type, UInt32Type, UInt64Type};
use arrow_array::{Array, StructArray};
use lance::Dataset;
use lance_core::datatypes::BlobKind;
use lance_core::utils::blob::blob_path;
use lance_io::local::to_local_path;
use lance_table::format::{DataFile, Fragment};
use loaderd_pagemap::{FileRef, Place};

use crate::SnapshotError;
use crate::field::BytesLayout;

/// Whose rules these are. Another Lance could place payloads differently: page maps are kept apart
/// by it.
pub(crate) const LANCE: &str = "14.0.2";
/// A dedicated blob is a file of its own, and every file stays open for the run: beyond this many,
/// rows are read through Lance, which opens them one by one.
const DEDICATED_FILES_MAX: usize = 512;

/// The files of all columns, numbered in the order in which rows first point at them.
#[derive(Default)]
pub(crate) struct Files {
    refs: Vec<FileRef>,
}

impl Files {
    fn add(&mut self, path: String) -> u32 {
        self.refs.push(FileRef { path, bytes_min: 0 });
        u32::try_from(self.refs.len() - 1).expect("fewer files than 4 billion")
    }

    pub(crate) fn reach(&mut self, file: u32, end: u64) {
        let bytes_min = &mut self.refs[file as usize].bytes_min;
        *bytes_min = end.max(*bytes_min);
    }

    pub(crate) fn into_refs(self) -> Vec<FileRef> {
        self.refs
    }
}

/// The folder that holds the dataset's own data, as Lance spells it.
pub(crate) fn root(dataset: &Dataset) -> String {
    let data = to_local_path(&dataset.data_dir());
    match Path::new(&data).parent().and_then(Path::to_str) {
        Some(root) => root.to_owned(),
        None => data,
    }
}

/// Whether a row of a blob column has no value. True of every row of a fragment without a data file
/// for the column.
pub(crate) fn is_null(layout: BytesLayout, descriptors: &StructArray, row: usize) -> bool {
    descriptors.is_null(row)
        || match layout {
            BytesLayout::BlobV1 => {
                let positions = descriptors.column(0).as_primitive::<UInt64Type>();
                let sizes = descriptors.column(1).as_primitive::<UInt64Type>();
                // Lance keeps nulls of this encoding as an empty value at a position other than zero.
                positions.is_null(row)
                    || sizes.is_null(row)
                    || (sizes.value(row) == 0 && positions.value(row) != 0)
            }
            BytesLayout::BlobV2 => descriptors.column(0).is_null(row),
            BytesLayout::Binary | BytesLayout::LargeBinary => false,
        }
}

/// Turns the descriptors of one blob column into places.
pub(crate) struct Locator {
    dataset: Arc<Dataset>,
    root: String,
    field_id: i32,
    layout: BytesLayout,
    fragments: HashMap<u32, usize>,
    /// The fragment of the last row, which is nearly always that of the next one too.
    current: Option<(u32, Option<DataFile>)>,
    /// File numbers by fragment and blob id; a fragment's data file has the id `None`.
    numbers: HashMap<(u32, Option<u32>), u32>,
    dedicated: usize,
}

impl Locator {
    pub(crate) fn new(dataset: &Arc<Dataset>, field_id: i32, layout: BytesLayout) -> Self {
        let fragments = dataset.fragments().iter().enumerate();
        Self {
            root: root(dataset),
            field_id,
            layout,
            fragments: fragments
                .filter_map(|(at, fragment)| Some((u32::try_from(fragment.id).ok()?, at)))
                .collect(),
            current: None,
            numbers: HashMap::new(),
            dedicated: 0,
            dataset: dataset.clone(),
        }
    }

    /// Where the payload of row `row` of a batch lies.
    pub(crate) fn locate(
        &mut self,
        descriptors: &StructArray,
        row: usize,
        address: u64,
        files: &mut Files,
    ) -> Result<Place, SnapshotError> {
        if is_null(self.layout, descriptors, row) {
            return Ok(Place::Null);
        }
        match self.layout {
            BytesLayout::BlobV1 => self.v1(descriptors, row, address, files),
            BytesLayout::BlobV2 => self.v2(descriptors, row, address, files),
            BytesLayout::Binary | BytesLayout::LargeBinary => Ok(Place::Slow),
        }
    }

    fn v1(
        &mut self,
        descriptors: &StructArray,
        row: usize,
        address: u64,
        files: &mut Files,
    ) -> Result<Place, SnapshotError> {
        let positions = descriptors.column(0).as_primitive::<UInt64Type>();
        let sizes = descriptors.column(1).as_primitive::<UInt64Type>();
        let (offset, size) = (positions.value(row), sizes.value(row));
        self.place(address, None, offset, size, files)
    }

    fn v2(
        &mut self,
        descriptors: &StructArray,
        row: usize,
        address: u64,
        files: &mut Files,
    ) -> Result<Place, SnapshotError> {
        let kinds = descriptors.column(0).as_primitive::<UInt8Type>();
        let size = descriptors
            .column(2)
            .as_primitive::<UInt64Type>()
            .value(row);
        let blob_id = descriptors
            .column(3)
            .as_primitive::<UInt32Type>()
            .value(row);
        let offset = descriptors
            .column(1)
            .as_primitive::<UInt64Type>()
            .value(row);
        match kinds.value(row) {
            kind if kind == BlobKind::Inline as u8 => {
                self.place(address, None, offset, size, files)
            }
            kind if kind == BlobKind::Packed as u8 => {
                self.place(address, Some(blob_id), offset, size, files)
            }
            kind if kind == BlobKind::Dedicated as u8 => {
                if self.dedicated == DEDICATED_FILES_MAX {
                    return Ok(Place::Slow);
                }
                self.dedicated += 1;
                self.place(address, Some(blob_id), 0, size, files)
            }
            _ => Ok(Place::Slow),
        }
    }

    /// The place of a payload in the sidecar `blob_id`, or in the data file itself.
    fn place(
        &mut self,
        address: u64,
        blob_id: Option<u32>,
        offset: u64,
        size: u64,
        files: &mut Files,
    ) -> Result<Place, SnapshotError> {
        let Ok(length) = u32::try_from(size) else {
            return Ok(Place::Slow);
        };
        let fragment = (address >> 32) as u32;
        if self.current.as_ref().is_none_or(|(id, _)| *id != fragment) {
            self.current = Some((fragment, self.data_file(fragment)));
        }
        let Some((_, Some(data_file))) = &self.current else {
            return Ok(Place::Slow);
        };
        let file = match self.numbers.get(&(fragment, blob_id)) {
            Some(file) => *file,
            None => {
                let path = self.path(data_file, blob_id)?;
                let file = files.add(path);
                self.numbers.insert((fragment, blob_id), file);
                file
            }
        };
        Ok(Place::At {
            offset,
            length,
            file,
        })
    }

    /// The fragment's data file for this column, where its payloads can be read by place.
    fn data_file(&self, fragment: u32) -> Option<DataFile> {
        let fragment: &Fragment = &self.dataset.fragments()[*self.fragments.get(&fragment)?];
        // An overlay replaces single values by ones that lie elsewhere.
        if !fragment.overlays.is_empty() {
            return None;
        }
        let file = fragment
            .files
            .iter()
            .find(|file| file.fields.contains(&self.field_id))?;
        let readable = match file.base_id {
            None => true,
            // Lance reads blob v1 from the dataset's own folder, whatever the base.
            Some(_) if self.layout == BytesLayout::BlobV1 => false,
            Some(base) => self
                .dataset
                .manifest()
                .base_paths
                .get(&base)
                .is_some_and(|base| base.path.starts_with("file://") || !base.path.contains("://")),
        };
        readable.then(|| file.clone())
    }

    fn path(&self, file: &DataFile, blob_id: Option<u32>) -> Result<String, SnapshotError> {
        let folder = match file.base_id {
            None => self.dataset.data_dir(),
            Some(id) => {
                let base = &self.dataset.manifest().base_paths[&id];
                let path = base
                    .extract_path(self.dataset.session().store_registry())
                    .map_err(|error| {
                        SnapshotError::lance(format!("resolve the base path {}", base.path), error)
                    })?;
                if base.is_dataset_root {
                    path.join("data")
                } else {
                    path
                }
            }
        };
        let path = match blob_id {
            None => folder.join(file.path.as_str()),
            Some(blob_id) => {
                let name = file.path.rsplit('/').next().unwrap_or(&file.path);
                let stem = name.strip_suffix(".lance").unwrap_or(name);
                blob_path(&folder, stem, blob_id)
            }
        };
        let path = to_local_path(&path);
        Ok(match path.strip_prefix(&self.root) {
            Some(inside) if inside.starts_with('/') => inside[1..].to_owned(),
            _ => path,
        })
    }
}
