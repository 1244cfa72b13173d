//! Arrow batches into a Lance dataset: images beside columns of any kind.
//!
//! Enters: record batches, one by one, whose image columns are `binary`. Leaves: one new version of
//! a dataset, created where there was none; image columns become blob v2 values in packed sidecar
//! files, the others are written as they are. It never changes a column of a dataset that is there:
//! one that does not have these columns, or whose classes mean something else, is refused.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use lance::{BlobArrayBuilder, Dataset};

use super::{append, create, image_field, open_existing, write};
use crate::SnapshotError;
use crate::column::fields;
use crate::field::{BytesLayout, FieldKind};
use crate::location::Location;
use crate::runtime::wait;
use crate::tiled::TILED_OF_KEY;

/// How to ingest a table.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// Columns of encoded images: `binary` in the batches, blobs in the dataset.
    pub image_columns: Vec<String>,
    /// Rows after which a new fragment is begun.
    pub rows_per_fragment: usize,
}

/// What the ingest of a table did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableReport {
    /// The new version.
    pub version: u64,
    /// Rows written.
    pub rows: u64,
    /// Rows in the new version.
    pub rows_total: u64,
    /// Whether the dataset is new.
    pub created: bool,
}

/// Rows of the dataset at `uri`, `None` where there is none.
///
/// # Errors
/// A location that can't be read, or a dataset that can't be opened.
pub fn dataset_rows(uri: &str) -> Result<Option<u64>, SnapshotError> {
    let location = Location::parse(uri)?;
    let existing = open_existing(&location)?;
    existing.map(|existing| count_rows(&existing)).transpose()
}

/// Creates the dataset at `uri` with the columns and the metadata of `schema`, or appends to it;
/// one new version either way. Blocks until all is written; the memory is a few of the batches.
///
/// # Errors
/// The first error of `batches`, no batch at all, a dataset with other columns or other metadata,
/// or whatever Lance could not write. No version is made then.
pub fn ingest_table(
    uri: &str,
    schema: &Schema,
    batches: &mut dyn Iterator<Item = Result<RecordBatch, SnapshotError>>,
    options: &TableOptions,
) -> Result<TableReport, SnapshotError> {
    let location = Location::parse(uri)?;
    let existing = open_existing(&location)?;
    let schema = match &existing {
        Some(existing) => existing_schema(&location, existing, schema, options)?,
        None => new_schema(schema, options),
    };
    let mut rows = 0;
    let mut next_batch = || {
        let batch = batches.next().transpose()?;
        rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        batch
            .map(|batch| stored(&batch, &schema, options))
            .transpose()
    };
    // Asked for before anything is written: no rows, no version.
    let first = next_batch()?.ok_or(SnapshotError::NoRows)?;
    let per_fragment = options.rows_per_fragment;
    let written = write(
        &location,
        existing.as_ref(),
        schema.clone(),
        first,
        &mut next_batch,
        per_fragment,
    )?;
    let created = existing.is_none();
    let committed = wait(async {
        match existing {
            None => create(&location, written).await,
            existing => append(&location, existing, written).await,
        }
    })?;
    Ok(TableReport {
        version: committed.version_id(),
        rows,
        rows_total: count_rows(&committed)?,
        created,
    })
}

fn count_rows(dataset: &Dataset) -> Result<u64, SnapshotError> {
    wait(async {
        let counted = dataset.count_rows(None).await;
        counted
            .map(|rows| rows as u64)
            .map_err(|error| SnapshotError::lance("count the rows", error))
    })
}

fn new_schema(schema: &Schema, options: &TableOptions) -> SchemaRef {
    let stored = |field: &Arc<Field>| match options.image_columns.contains(field.name()) {
        true => Arc::new(image_field(field.name())),
        false => field.clone(),
    };
    let fields: Vec<Arc<Field>> = schema.fields().iter().map(stored).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The fields of a dataset that has these columns, or why it cannot be appended to. Fields are
/// taken over with their metadata, thresholds included.
fn existing_schema(
    location: &Location,
    existing: &Dataset,
    schema: &Schema,
    options: &TableOptions,
) -> Result<SchemaRef, SnapshotError> {
    let refused = |reason: String| SnapshotError::IngestTarget {
        uri: location.uri().to_owned(),
        reason,
    };
    let kinds = fields(existing.schema());
    let found = Schema::from(existing.schema());
    for field in found.fields() {
        // New rows have no tiled form yet: `tile_column` makes it.
        let is_tiled_form = field.metadata().contains_key(TILED_OF_KEY);
        if schema.field_with_name(field.name()).is_err() && !is_tiled_form {
            let name = field.name();
            return Err(refused(format!("its column {name:?} is not written here")));
        }
    }
    let mut taken = Vec::new();
    for wanted in schema.fields() {
        let name = wanted.name();
        let Ok(field) = found.field_with_name(name) else {
            return Err(refused(format!("it has no column {name:?}")));
        };
        let same = if options.image_columns.contains(name) {
            let blob = FieldKind::Bytes(BytesLayout::BlobV2);
            kinds.iter().any(|it| it.name == *name && it.kind == blob)
        } else {
            field.data_type().equals_datatype(wanted.data_type())
        };
        if !same {
            let is = field.data_type();
            return Err(refused(format!(
                "its column {name:?} is {is}, another kind than is written"
            )));
        }
        taken.push(field.clone());
    }
    let metadata: HashMap<_, _> = found.metadata().clone();
    for (key, value) in schema.metadata() {
        if metadata.get(key) != Some(value) {
            return Err(refused(format!(
                "its schema metadata says something else under {key:?}, so new rows could mean something else there"
            )));
        }
    }
    Ok(Arc::new(Schema::new_with_metadata(taken, metadata)))
}

/// The batch as it is stored: images become blobs.
fn stored(
    batch: &RecordBatch,
    schema: &SchemaRef,
    options: &TableOptions,
) -> Result<RecordBatch, SnapshotError> {
    let failed = |error: arrow_schema::ArrowError| {
        SnapshotError::lance("gather a batch of rows", error.into())
    };
    let column = |field: &Arc<Field>| -> Result<ArrayRef, SnapshotError> {
        let index = batch.schema_ref().index_of(field.name()).map_err(failed)?;
        let column = batch.column(index);
        if options.image_columns.contains(field.name()) {
            return blobs(column);
        }
        Ok(column.clone())
    };
    let columns = schema.fields().iter().map(column);
    let columns = columns.collect::<Result<Vec<ArrayRef>, _>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(failed)
}

fn blobs(column: &ArrayRef) -> Result<ArrayRef, SnapshotError> {
    let failed = |error| SnapshotError::lance("gather a batch of images", error);
    assert_eq!(column.data_type(), &DataType::Binary, "images are binary");
    let mut blobs = BlobArrayBuilder::new(column.len());
    for image in column.as_binary::<i32>() {
        match image {
            Some(image) => blobs.push_bytes(image).map_err(failed)?,
            None => blobs.push_null().map_err(failed)?,
        }
    }
    blobs.finish().map_err(failed)
}
