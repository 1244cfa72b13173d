//! Images and their classes into a Lance dataset, in the layout that reads fastest.
//!
//! Enters: rows, one by one. Leaves: one new version of a dataset, created where there was none.
//! Images become blob v2 values in packed sidecar files, whatever their size; classes become
//! numbers, with their names in the schema's metadata. It never renumbers a class and never
//! rewrites a row.
//!
//! Rows stream through a bounded queue. Nothing is visible until the last row is written; what a
//! failed ingest wrote is not part of any version. In a dataset, Lance's clean-up takes it away;
//! where none came to be, a later ingest works in the same folder.

mod table;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchIterator};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use lance::dataset::transaction::{Operation, Transaction, TransactionBuilder};
use lance::dataset::{CommitBuilder, InsertBuilder, WriteDestination, WriteMode, WriteParams};
use lance::{BlobArrayBuilder, BlobFieldOptions, Dataset, blob_field_with_options};
use lance_file::version::LanceFileVersion;

use crate::column::fields;
use crate::field::{BytesLayout, DType, FieldKind, FixedKind};
use crate::location::Location;
use crate::request::VersionRef;
use crate::runtime::{runtime, wait};
use crate::{SnapshotError, dataset};

pub use table::{TableOptions, TableReport, dataset_rows, ingest_table};

/// A batch goes to the writer when it has this many bytes of images …
const BATCH_BYTES: usize = 8 << 20;
/// … or this many rows.
const BATCH_ROWS: usize = 1024;
/// Batches between the reader and the writer.
const BATCHES_QUEUED: usize = 2;
/// Times that a commit with new classes is tried again behind somebody else's.
const COMMIT_TRIES_MAX: usize = 10;
/// The file format: the first with blob v2.
const FILE_VERSION: LanceFileVersion = LanceFileVersion::V2_2;

/// How to ingest.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// The classes of the rows to come, in the order in which new ones are numbered.
    pub classes: Vec<String>,
    /// Name of the column of encoded images.
    pub image_column: String,
    /// Name of the int64 column of class numbers.
    pub label_column: String,
    /// Rows after which a new fragment is begun.
    pub rows_per_fragment: usize,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            classes: Vec::new(),
            image_column: "image".to_owned(),
            label_column: "label".to_owned(),
            rows_per_fragment: 1 << 17,
        }
    }
}

/// One row to write.
#[derive(Clone, Debug)]
pub struct IngestRow {
    /// The encoded image, as it is.
    pub image: Vec<u8>,
    /// The class's name; one of [`IngestOptions::classes`] or of the dataset's.
    pub class: String,
}

/// What an ingest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestReport {
    /// The new version.
    pub version: u64,
    /// Rows written.
    pub rows: u64,
    /// Rows in the new version.
    pub rows_total: u64,
    /// All class names of the dataset; a name's place is its number.
    pub classes: Vec<String>,
    /// Whether the dataset is new.
    pub created: bool,
}

/// The key of the schema metadata that holds the class names of `column`, as a JSON list.
pub fn classes_key(column: &str) -> String {
    format!("loaderd.classes.{column}")
}

/// The class names of `column` in `metadata`.
pub(crate) fn classes_of(metadata: &BTreeMap<String, String>, column: &str) -> Option<Vec<String>> {
    serde_json::from_str(metadata.get(&classes_key(column))?).ok()
}

/// Creates the dataset at `uri`, or appends to it; one new version either way. Blocks until all is
/// written; the memory is a few batches of 8 MiB, however many rows come.
///
/// # Errors
/// The first error of `rows`, a class that was not announced, a dataset of another layout, or
/// whatever Lance could not write. No version is made then.
pub fn ingest(
    uri: &str,
    rows: &mut dyn Iterator<Item = Result<IngestRow, SnapshotError>>,
    options: &IngestOptions,
) -> Result<IngestReport, SnapshotError> {
    let location = Location::parse(uri)?;
    let existing = open_existing(&location)?;
    let before = match &existing {
        Some(existing) => existing_classes(&location, existing, options)?,
        None => Vec::new(),
    };
    let mut classes = before.clone();
    for class in &options.classes {
        if !classes.contains(class) {
            classes.push(class.clone());
        }
    }
    let schema = schema(existing.as_deref(), &classes, options);
    let mut batches = Batches::new(schema.clone(), &classes, rows);
    // Asked for before anything is written: no rows, no version.
    let first = batches.next_batch()?.ok_or(SnapshotError::NoRows)?;
    let transaction = write(
        &location,
        existing.as_ref(),
        schema,
        first,
        &mut || batches.next_batch(),
        options.rows_per_fragment,
    )?;
    let created = existing.is_none();
    let committed = wait(async {
        if created {
            create(&location, transaction).await
        } else if classes == before {
            append(&location, existing, transaction).await
        } else {
            append_with_classes(&location, transaction, &before, &classes, options).await
        }
    })?;
    let rows_total = wait(async {
        committed
            .count_rows(None)
            .await
            .map_err(|e| SnapshotError::lance("count the rows written", e))
    })?;
    Ok(IngestReport {
        version: committed.version_id(),
        rows: batches.rows_read,
        rows_total: rows_total as u64,
        classes,
        created,
    })
}

/// The latest version, `None` where there is no dataset.
fn open_existing(location: &Location) -> Result<Option<Arc<Dataset>>, SnapshotError> {
    match wait(dataset::open(location, &VersionRef::Latest)) {
        Ok(existing) => Ok(Some(Arc::new(existing))),
        Err(SnapshotError::NoDataset { .. }) if !location.path().is_file() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The classes of a dataset that this ingest made, or why it cannot be appended to.
fn existing_classes(
    location: &Location,
    existing: &Dataset,
    options: &IngestOptions,
) -> Result<Vec<String>, SnapshotError> {
    let refused = |reason: String| SnapshotError::IngestTarget {
        uri: location.uri().to_owned(),
        reason,
    };
    let label = FieldKind::Fixed(FixedKind {
        dtype: DType::Int64,
        shape: Vec::new(),
    });
    let image = FieldKind::Bytes(BytesLayout::BlobV2);
    let found = fields(existing.schema());
    for (name, wanted) in [
        (&options.image_column, image),
        (&options.label_column, label),
    ] {
        match found.iter().find(|info| info.name == *name) {
            Some(info) if info.kind == wanted => {}
            Some(info) => {
                return Err(refused(format!(
                    "its column {name:?} is {} where {wanted} is written",
                    info.kind
                )));
            }
            None => return Err(refused(format!("it has no column {name:?}"))),
        }
    }
    let metadata = existing.schema().metadata.clone().into_iter().collect();
    classes_of(&metadata, &options.label_column).ok_or_else(|| {
        refused(format!(
            "its schema metadata has no list of classes under {:?}, so new labels could get numbers that mean something else there",
            classes_key(&options.label_column)
        ))
    })
}

fn schema(existing: Option<&Dataset>, classes: &[String], options: &IngestOptions) -> SchemaRef {
    // Fields of an existing dataset are taken over with their metadata, thresholds included.
    let existing = existing.map(|existing| Schema::from(existing.schema()));
    let field = |name: &str, new: Field| match &existing {
        Some(schema) => schema.field_with_name(name).cloned().unwrap_or(new),
        None => new,
    };
    let image = &options.image_column;
    let label = &options.label_column;
    Arc::new(Schema::new_with_metadata(
        vec![
            field(image, image_field(image)),
            field(label, Field::new(label, DataType::Int64, true)),
        ],
        HashMap::from([classes_entry(classes, options)]),
    ))
}

/// A column of blobs that all go to packed sidecar files, whatever their size.
fn image_field(name: &str) -> Field {
    let packed = BlobFieldOptions::default().with_inline_size_threshold(0);
    blob_field_with_options(name, true, packed)
}

fn classes_entry(classes: &[String], options: &IngestOptions) -> (String, String) {
    let names = serde_json::to_string(classes).expect("strings become JSON");
    (classes_key(&options.label_column), names)
}

/// Rows gathered into batches.
struct Batches<'a> {
    schema: SchemaRef,
    numbers: HashMap<String, i64>,
    rows: &'a mut dyn Iterator<Item = Result<IngestRow, SnapshotError>>,
    rows_read: u64,
}

impl<'a> Batches<'a> {
    fn new(
        schema: SchemaRef,
        classes: &[String],
        rows: &'a mut dyn Iterator<Item = Result<IngestRow, SnapshotError>>,
    ) -> Self {
        Self {
            schema,
            numbers: classes.iter().cloned().zip(0..).collect(),
            rows,
            rows_read: 0,
        }
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, SnapshotError> {
        let mut images = Vec::new();
        let mut labels = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && images.len() < BATCH_ROWS {
            let Some(row) = self.rows.next().transpose()? else {
                break;
            };
            let label = self.numbers.get(&row.class).copied();
            labels.push(label.ok_or(SnapshotError::UnknownClass { class: row.class })?);
            bytes += row.image.len();
            images.push(row.image);
        }
        if images.is_empty() {
            return Ok(None);
        }
        self.rows_read += images.len() as u64;
        let failed = |error| SnapshotError::lance("gather a batch of images", error);
        let mut blobs = BlobArrayBuilder::new(images.len());
        for image in images {
            blobs.push_bytes(image).map_err(failed)?;
        }
        let columns: Vec<ArrayRef> = vec![
            blobs.finish().map_err(failed)?,
            Arc::new(Int64Array::from(labels)),
        ];
        RecordBatch::try_new(self.schema.clone(), columns)
            .map(Some)
            .map_err(|error| failed(error.into()))
    }
}

/// Writes data files, without making a version yet.
fn write(
    location: &Location,
    existing: Option<&Arc<Dataset>>,
    schema: SchemaRef,
    first: RecordBatch,
    next_batch: &mut dyn FnMut() -> Result<Option<RecordBatch>, SnapshotError>,
    rows_per_fragment: usize,
) -> Result<Transaction, SnapshotError> {
    let (sender, receiver) = sync_channel::<Result<RecordBatch, ArrowError>>(BATCHES_QUEUED);
    let source = RecordBatchIterator::new(receiver, schema);
    let params = WriteParams {
        mode: match existing {
            Some(_) => WriteMode::Append,
            None => WriteMode::Create,
        },
        max_rows_per_file: rows_per_fragment.max(1),
        data_storage_version: existing.is_none().then_some(FILE_VERSION),
        enable_stable_row_ids: true,
        session: Some(dataset::session()),
        ..WriteParams::default()
    };
    let (uri, existing) = (location.uri().to_owned(), existing.cloned());
    let writer = runtime()?.spawn(async move {
        let destination = match existing {
            Some(existing) => WriteDestination::Dataset(existing),
            None => WriteDestination::Uri(&uri),
        };
        InsertBuilder::new(destination)
            .with_params(&params)
            .execute_uncommitted_stream(source)
            .await
    });
    let mut next = Some(first);
    let mut failure = None;
    while let Some(batch) = next {
        // The writer hangs up when it failed; its error is read below.
        if sender.send(Ok(batch)).is_err() {
            break;
        }
        next = next_batch().unwrap_or_else(|error| {
            failure = Some(error);
            None
        });
    }
    drop(sender);
    let written = runtime()?.block_on(writer);
    if let Some(error) = failure {
        return Err(error);
    }
    written
        .map_err(|error| SnapshotError::Runtime {
            source: std::io::Error::other(error),
        })?
        .map_err(|error| not_written(location, "write rows to", error))
}

async fn create(location: &Location, written: Transaction) -> Result<Dataset, SnapshotError> {
    CommitBuilder::new(location.uri())
        .use_stable_row_ids(true)
        .with_storage_format(FILE_VERSION)
        .with_session(dataset::session())
        .execute(written)
        .await
        .map_err(|error| not_written(location, "create", error))
}

/// Why rows could not be written, or the dataset not be created that was not there before.
fn not_written(location: &Location, action: &str, error: lance::Error) -> SnapshotError {
    match error {
        lance::Error::DatasetAlreadyExists { .. }
        | lance::Error::CommitConflict { .. }
        | lance::Error::RetryableCommitConflict { .. } => SnapshotError::IngestConflict {
            uri: location.uri().to_owned(),
            reason: "somebody else made it just now".to_owned(),
        },
        error => SnapshotError::lance(format!("{action} {}", location.uri()), error),
    }
}

async fn append(
    location: &Location,
    existing: Option<Arc<Dataset>>,
    written: Transaction,
) -> Result<Dataset, SnapshotError> {
    let destination = match existing {
        Some(existing) => WriteDestination::Dataset(existing),
        None => WriteDestination::Uri(location.uri()),
    };
    CommitBuilder::new(destination)
        .execute(written)
        .await
        .map_err(|error| SnapshotError::lance(format!("append to {}", location.uri()), error))
}

/// Rows and new class names in one version. Lance's append leaves the schema's metadata as it is;
/// its merge takes both, and conflicts with whatever was committed in between. Then the latest
/// version is tried, as long as its classes are still the ones that the labels were made for.
async fn append_with_classes(
    location: &Location,
    written: Transaction,
    before: &[String],
    classes: &[String],
    options: &IngestOptions,
) -> Result<Dataset, SnapshotError> {
    let Operation::Append { fragments: new } = written.operation else {
        unreachable!("an append was asked for");
    };
    let mut reason = String::new();
    for _ in 0..COMMIT_TRIES_MAX {
        let latest = dataset::open(location, &VersionRef::Latest).await?;
        if existing_classes(location, &latest, options)? != before {
            reason = "its list of classes is another now".to_owned();
            break;
        }
        let mut schema = latest.schema().clone();
        schema.metadata.extend([classes_entry(classes, options)]);
        let mut fragments = latest.fragments().to_vec();
        // Zero means: to be numbered by the commit.
        fragments.extend(new.iter().cloned().map(|mut fragment| {
            fragment.id = 0;
            fragment
        }));
        let merge = Operation::Merge {
            fragments,
            schema,
            preserves_nullability: true,
        };
        let transaction = TransactionBuilder::new(latest.version_id(), merge).build();
        match CommitBuilder::new(Arc::new(latest))
            .execute(transaction)
            .await
        {
            Ok(committed) => return Ok(committed),
            Err(
                error @ (lance::Error::CommitConflict { .. }
                | lance::Error::RetryableCommitConflict { .. }),
            ) => reason = crate::error::words(&error),
            Err(error) => {
                let action = format!("append to {}", location.uri());
                return Err(SnapshotError::lance(action, error));
            }
        }
    }
    Err(SnapshotError::IngestConflict {
        uri: location.uri().to_owned(),
        reason,
    })
}
