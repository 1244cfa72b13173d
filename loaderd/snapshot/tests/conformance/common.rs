//! Datasets written with Lance, and the comparison that all tests share.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchIterator};
use arrow_schema::{DataType, Field, Schema};
use lance::dataset::cleanup::CleanupPolicyBuilder;
use lance::dataset::{WriteMode, WriteParams};
use lance::{BlobArrayBuilder, BlobFieldOptions, Dataset, blob_field_with_options};
use lance_file::version::LanceFileVersion;
use loaderd_read::{Buffer, Config, Extent, Mode, ReadError, Reader};
use loaderd_snapshot::{Payload, Protect, Snapshot, SnapshotError, SnapshotRequest, VersionRef};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) type Value = Option<Vec<u8>>;

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| Runtime::new().unwrap())
        .block_on(future)
}

/// A folder with room for a dataset and a cache.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) uri: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder
            .path()
            .join("data.lance")
            .to_str()
            .unwrap()
            .to_owned();
        Self { folder, uri }
    }

    pub(crate) fn request(&self) -> SnapshotRequest {
        SnapshotRequest {
            uri: self.uri.clone(),
            version: VersionRef::Latest,
            filter: None,
            bytes_columns: vec!["image".into()],
            tiled_columns: Vec::new(),
            fixed_columns: vec!["id".into()],
            variable_columns: Vec::new(),
            protect: Protect::None,
            run: "test".into(),
            cache_dir: self.folder.path().join("cache"),
            cache_bytes_max: 1 << 30,
        }
    }

    pub(crate) fn open(&self) -> Snapshot {
        Snapshot::open(self.request()).unwrap()
    }

    pub(crate) fn open_where(&self, filter: &str) -> Result<Snapshot, SnapshotError> {
        Snapshot::open(SnapshotRequest {
            filter: Some(filter.into()),
            ..self.request()
        })
    }

    pub(crate) fn dataset(&self) -> Dataset {
        block_on(Dataset::open(&self.uri)).unwrap()
    }

    /// Writes `batch`: a new dataset, or one more version.
    pub(crate) fn write(
        &self,
        batch: &RecordBatch,
        change: impl FnOnce(&mut WriteParams),
    ) -> Dataset {
        self.try_write(batch, change).unwrap()
    }

    /// A dataset of these columns, in fragments of 150 rows.
    pub(crate) fn write_columns(&self, columns: Vec<(&str, ArrayRef)>) {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
            .collect();
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        self.write(&batch, |params| params.max_rows_per_file = 150);
    }

    /// Lance's own clean-up, which spares tagged versions.
    pub(crate) fn clean_up(&self) {
        let policy = CleanupPolicyBuilder::default()
            .before_timestamp(SystemTime::now().into())
            .error_if_tagged_old_versions(false)
            .build();
        block_on(self.dataset().cleanup_with_policy(policy)).unwrap();
    }

    /// As `write`, where Lance may refuse it.
    pub(crate) fn try_write(
        &self,
        batch: &RecordBatch,
        change: impl FnOnce(&mut WriteParams),
    ) -> lance::Result<Dataset> {
        let mut params = WriteParams {
            mode: if std::path::Path::new(&self.uri).exists() {
                WriteMode::Append
            } else {
                WriteMode::Create
            },
            enable_stable_row_ids: true,
            ..WriteParams::default()
        };
        change(&mut params);
        let reader = RecordBatchIterator::new([Ok(batch.clone())], batch.schema());
        block_on(Dataset::write(reader, &self.uri, Some(params)))
    }
}

/// Bytes that differ for every row, with lengths from 0 to `longest`.
pub(crate) fn payload(id: i64, longest: usize) -> Vec<u8> {
    let mut state = id as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    };
    let length = if id % 11 == 0 {
        0
    } else {
        next() as usize % (longest + 1)
    };
    (0..length).map(|_| next() as u8).collect()
}

/// `count` values from `first` on, every seventh of them null.
pub(crate) fn values(first: i64, count: i64, longest: usize) -> Vec<Value> {
    (first..first + count)
        .map(|id| (id % 7 != 3).then(|| payload(id, longest)))
        .collect()
}

/// Everything in packed sidecars, as ingest writes.
pub(crate) fn packed() -> BlobFieldOptions {
    BlobFieldOptions::default().with_inline_size_threshold(0)
}

/// Columns `id`, counting from `first`, and `image`, a blob v2.
pub(crate) fn blob_batch(first: i64, values: &[Value], options: BlobFieldOptions) -> RecordBatch {
    let mut builder = BlobArrayBuilder::new(values.len());
    for value in values {
        match value {
            Some(bytes) => builder.push_bytes(bytes).unwrap(),
            None => builder.push_null().unwrap(),
        }
    }
    let image = blob_field_with_options("image", true, options);
    batch(first, image, builder.finish().unwrap())
}

pub(crate) fn batch(first: i64, image: Field, images: ArrayRef) -> RecordBatch {
    let ids = Int64Array::from_iter_values(first..first + images.len() as i64);
    let schema = Schema::new_with_metadata(
        vec![Field::new("id", DataType::Int64, false), image],
        HashMap::new(),
    );
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), images]).unwrap()
}

pub(crate) fn format(version: LanceFileVersion) -> impl FnOnce(&mut WriteParams) {
    move |params| params.data_storage_version = Some(version)
}

/// The daemon's reader, one extent at a time, over the files that a snapshot holds open.
pub(crate) struct ExtentReader(Reader);

impl ExtentReader {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let config = Config {
            mode: Mode::Buffered,
            ..Config::for_lengths(4_096, 1 << 17)
        };
        Self(Reader::new(snapshot.files().clone(), config).unwrap())
    }

    pub(crate) fn read(&mut self, extent: Extent) -> Result<Vec<u8>, ReadError> {
        assert!(self.0.submit(0, extent));
        let mut found = None;
        while found.is_none() {
            let mut done = |_, result: Result<Buffer, ReadError>| {
                found = Some(result.map(|bytes| bytes.to_vec()));
            };
            self.0.complete(Duration::from_secs(1), &mut done).unwrap();
        }
        found.unwrap()
    }
}

/// How the rows of a snapshot are stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    pub(crate) extent: usize,
    pub(crate) null: usize,
    pub(crate) slow: usize,
}

/// Reads every row both ways, compares each with `expected`, and says which ways there were.
pub(crate) fn conform(snapshot: &Snapshot, column: usize, expected: &[Value]) -> Ways {
    assert_eq!(snapshot.rows(), expected.len() as u64);
    let mut ways = Ways::default();
    let mut reader = ExtentReader::new(snapshot);
    // Backwards and the first one twice: any order, duplicates allowed.
    let mut order: Vec<u64> = (0..snapshot.rows()).rev().collect();
    order.push(0);
    let slow = snapshot.read_slow(column, &order).unwrap();
    assert_eq!(slow.len(), order.len());
    for (index, value) in order.iter().zip(&slow) {
        let expected = &expected[*index as usize];
        assert_eq!(value, expected, "row {index}, slow");
        match snapshot.payload(column, *index) {
            Payload::Extent(extent) => {
                let fast = reader.read(extent).unwrap();
                assert_eq!(Some(fast), *expected, "row {index}, fast");
                ways.extent += 1;
            }
            Payload::Null => {
                assert_eq!(*expected, None, "row {index}, null");
                ways.null += 1;
            }
            Payload::Slow => ways.slow += 1,
        }
    }
    ways
}

/// The `id` column, which tells rows apart, from the map.
pub(crate) fn ids(snapshot: &Snapshot) -> Vec<i64> {
    (0..snapshot.rows())
        .map(|index| i64::from_le_bytes(snapshot.fixed(0, index).unwrap().try_into().unwrap()))
        .collect()
}
