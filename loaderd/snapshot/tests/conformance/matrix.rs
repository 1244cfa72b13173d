//! The matrix: file format × storage of the image × what happened to the dataset since.
//!
//! Every cell is one body: write, change, open, and compare each row of every column, read both
//! ways, with what was written. A cell that Lance does not write is tried all the same, and must be
//! refused.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, LargeBinaryArray};
use arrow_schema::{DataType, Field};
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{NewColumnTransform, UpdateBuilder};
use lance::{BlobArrayBuilder, BlobFieldOptions, Dataset, blob_field_with_options};
use lance_file::version::LanceFileVersion;
use loaderd_snapshot::{BytesLayout, FieldKind, Snapshot, SnapshotError, VersionRef};

use crate::common::*;
use crate::model::{FIXED, conform_to_lance, conform_to_model, open, rows};

const ROWS: i64 = 48;
const LONGEST: usize = 3_000;

/// How the image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    Binary,
    LargeBinary,
    Uncompressed,
    /// From 2.2 on, Lance writes it as the second.
    BlobV1,
    Inline,
    Packed,
    Dedicated,
    /// All three kinds.
    Mixed,
    External,
}

const STORAGES: [Storage; 9] = [
    Storage::Binary,
    Storage::LargeBinary,
    Storage::Uncompressed,
    Storage::BlobV1,
    Storage::Inline,
    Storage::Packed,
    Storage::Dedicated,
    Storage::Mixed,
    Storage::External,
];

/// What happened after the first rows were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum History {
    Written,
    Appended,
    ManyFragments,
    Deleted,
    Updated,
    Compacted,
    ColumnAdded,
    ColumnDropped,
}

const HISTORIES: [History; 8] = [
    History::Written,
    History::Appended,
    History::ManyFragments,
    History::Deleted,
    History::Updated,
    History::Compacted,
    History::ColumnAdded,
    History::ColumnDropped,
];

impl Storage {
    fn is_v2(self) -> bool {
        use Storage::{Dedicated, External, Inline, Mixed, Packed};
        matches!(self, Inline | Packed | Dedicated | Mixed | External)
    }

    /// The image column for rows `ids`.
    fn images(self, place: &Place, ids: &[i64]) -> (Field, ArrayRef) {
        let values: Vec<Value> = ids.iter().map(|&id| value(id)).collect();
        let plain = |data_type, metadata: &[(&str, &str)]| {
            let metadata = metadata.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            Field::new("image", data_type, true).with_metadata(metadata.collect())
        };
        let large = || Arc::new(LargeBinaryArray::from_iter(values.clone())) as ArrayRef;
        let threshold = |bytes| NonZeroUsize::new(bytes).unwrap();
        let options = match self {
            Self::Binary => {
                let array: BinaryArray = values.iter().map(Option::as_deref).collect();
                return (plain(DataType::Binary, &[]), Arc::new(array));
            }
            Self::LargeBinary => return (plain(DataType::LargeBinary, &[]), large()),
            Self::Uncompressed => {
                let metadata = [("lance-encoding:compression", "none")];
                return (plain(DataType::LargeBinary, &metadata), large());
            }
            Self::BlobV1 => {
                let metadata = [("lance-encoding:blob", "true")];
                return (plain(DataType::LargeBinary, &metadata), large());
            }
            Self::Inline | Self::External => BlobFieldOptions::default(),
            Self::Packed => packed(),
            Self::Dedicated => packed().with_dedicated_size_threshold(threshold(1)),
            Self::Mixed => BlobFieldOptions::default()
                .with_inline_size_threshold(800)
                .with_dedicated_size_threshold(threshold(2_000)),
        };
        let mut builder = BlobArrayBuilder::new(values.len());
        for (id, value) in ids.iter().zip(values) {
            match value {
                None => builder.push_null().unwrap(),
                Some(bytes) if self == Self::External => {
                    let path = place.folder.path().join(format!("{id}.bin"));
                    std::fs::write(&path, bytes).unwrap();
                    let uri = format!("file://{}", path.display());
                    builder.push_uri(uri).unwrap();
                }
                Some(bytes) => builder.push_bytes(bytes).unwrap(),
            }
        }
        let field = blob_field_with_options("image", true, options);
        (field, builder.finish().unwrap())
    }

    /// Whether a value that is not null is read by place.
    fn has_extents(self) -> bool {
        self == Self::BlobV1 || self.is_v2() && self != Self::External
    }
}

/// The image of row `id`.
fn value(id: i64) -> Value {
    (id % 7 != 3).then(|| payload(id, LONGEST))
}

/// The layout that Lance gives to a column. None for a cell that it does not write.
fn layout(format: LanceFileVersion, storage: Storage) -> Option<BytesLayout> {
    let is_late = matches!(format, LanceFileVersion::V2_2 | LanceFileVersion::V2_3);
    match storage {
        Storage::Binary => Some(BytesLayout::Binary),
        Storage::LargeBinary | Storage::Uncompressed => Some(BytesLayout::LargeBinary),
        Storage::BlobV1 if !is_late => Some(BytesLayout::BlobV1),
        _ => is_late.then_some(BytesLayout::BlobV2),
    }
}

/// Writes a cell's dataset; the ids that are left, and the fixed columns.
fn write(
    place: &Place,
    format: LanceFileVersion,
    storage: Storage,
    history: History,
) -> lance::Result<(Vec<i64>, Vec<&'static str>)> {
    let fragment_rows = match history {
        History::ManyFragments => 2,
        _ => 20,
    };
    let put = |ids: &[i64]| {
        let (image, images) = storage.images(place, ids);
        place.try_write(&rows(ids, image, images), |params| {
            params.data_storage_version = Some(format);
            params.max_rows_per_file = fragment_rows;
            params.allow_external_blob_outside_bases = storage == Storage::External;
        })
    };
    let all: Vec<i64> = (0..ROWS).collect();
    let mut left = all.clone();
    let mut fixed = FIXED.to_vec();
    let mut dataset = match history {
        History::Appended => {
            put(&all[..13])?;
            put(&all[13..])?
        }
        _ => put(&all)?,
    };
    match history {
        History::Written | History::Appended | History::ManyFragments => {}
        History::Deleted => {
            delete(&mut dataset, &mut left)?;
        }
        History::Compacted => {
            delete(&mut dataset, &mut left)?;
            let options = CompactionOptions::default();
            block_on(compact_files(&mut dataset, options, None))?;
        }
        History::Updated => {
            // A row that is updated is written anew, at another place.
            let update = UpdateBuilder::new(Arc::new(dataset))
                .update_where("id IN (5, 12, 17, 40)")?
                .set("id", "id * 1")?
                .build()?;
            block_on(update.execute())?;
        }
        History::ColumnAdded => {
            let sql = NewColumnTransform::SqlExpressions(vec![("twice".into(), "id * 2".into())]);
            block_on(dataset.add_columns(sql, None, None))?;
            fixed.push("twice");
        }
        History::ColumnDropped => {
            block_on(dataset.drop_columns(&["count"]))?;
            fixed.retain(|name| *name != "count");
        }
    }
    Ok((left, fixed))
}

fn delete(dataset: &mut Dataset, left: &mut Vec<i64>) -> lance::Result<()> {
    block_on(dataset.delete("id % 5 = 2 OR id BETWEEN 20 AND 31"))?;
    left.retain(|id| id % 5 != 2 && !(20..=31).contains(id));
    Ok(())
}

/// One cell of the matrix.
fn cell(format: LanceFileVersion, storage: Storage, history: History) {
    let place = Place::new();
    let written = write(&place, format, storage, history);
    let Some(layout) = layout(format, storage) else {
        let words = written.unwrap_err().to_string();
        assert!(
            words.contains("Blob v2 requires file version >= 2.2"),
            "{words}"
        );
        return;
    };
    let (left, fixed) = written.unwrap();
    let is_legacy = format == LanceFileVersion::Legacy;
    let fields = Snapshot::schema(&place.uri, &VersionRef::Latest).unwrap();
    let image = fields.iter().find(|info| info.name == "image").unwrap();
    assert_eq!(image.kind, FieldKind::Bytes(layout));
    if is_legacy && layout == BytesLayout::BlobV1 {
        let error = Snapshot::open(place.request()).unwrap_err();
        assert!(matches!(error, SnapshotError::WrongType { .. }), "{error}");
        return;
    }
    let snapshot = open(&place, &fixed);
    let found = ids(&snapshot);
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, left);
    // Legacy files keep an empty value as a null, and of other nulls less than they were given.
    let expected = found.into_iter().map(value);
    let expected: Vec<Value> = expected
        .map(|value| value.filter(|bytes| !(is_legacy && bytes.is_empty())))
        .collect();
    let ways = conform(&snapshot, 0, &expected);
    if storage.has_extents() {
        assert_eq!(ways.slow, 0, "{ways:?}");
    } else {
        assert_eq!(ways.extent, 0, "{ways:?}");
    }
    conform_to_lance(&snapshot, &fixed);
    if !is_legacy {
        conform_to_model(&snapshot, &fixed);
    }
}

/// All cells of a format, so that those that fail are named together.
fn row_of_cells(format: LanceFileVersion) {
    let mut failed = Vec::new();
    for storage in STORAGES {
        for history in HISTORIES {
            let run = || cell(format, storage, history);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                let words = match panic.downcast_ref::<&str>() {
                    Some(words) => words,
                    None => panic.downcast_ref::<String>().map_or("?", String::as_str),
                };
                failed.push(format!("{format:?} × {storage:?} × {history:?}: {words}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn legacy_files() {
    row_of_cells(LanceFileVersion::Legacy);
}

#[test]
fn files_of_2_0() {
    row_of_cells(LanceFileVersion::V2_0);
}

#[test]
fn files_of_2_1() {
    row_of_cells(LanceFileVersion::V2_1);
}

#[test]
fn files_of_2_2() {
    row_of_cells(LanceFileVersion::V2_2);
}

#[test]
fn files_of_2_3() {
    row_of_cells(LanceFileVersion::V2_3);
}
