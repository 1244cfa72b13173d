//! One scan of descriptors and small columns, built into a page map as it streams by.
//!
//! Enters: an open version, a filter, columns. Leaves: a published map. No payload is read. Of
//! variable columns, the first rows are read beforehand, to judge which ones the map has room for.

use std::sync::Arc;

use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::{DatasetRecordBatchStream, Scanner};
use lance_core::datatypes::{BlobHandling, Schema};
use lance_file::version::ConcreteFileVersion;
use loaderd_pagemap::{MapKey, Target};

use crate::SnapshotError;
use crate::build::{Build, Columns, gathered};
use crate::column::{Column, fields, projection};
use crate::error::{missing_field, words};
use crate::field::RaggedKind;

/// Rows per batch of the scan.
const BATCH_ROWS: usize = 8192;
/// Bytes that Lance reads ahead; its default is 2 GiB.
const READ_AHEAD_BYTES: u64 = 64 << 20;
/// The first rows of the version, by which a variable column is judged.
const SAMPLE_ROWS: usize = 256;

/// Scans and writes the map for `key` to `target`.
pub(crate) async fn build(
    uri: &str,
    dataset: &Arc<Dataset>,
    columns: Columns<'_>,
    key: MapKey,
    target: Target,
) -> Result<(), SnapshotError> {
    let rows_in_version = dataset
        .count_rows(None)
        .await
        .map_err(|error| SnapshotError::lance(format!("count the rows of {uri}"), error))?
        as u64;
    if rows_in_version == 0 {
        return Err(SnapshotError::EmptyDataset {
            uri: uri.to_owned(),
            version: key.version,
        });
    }
    let samples = sample(uri, dataset, columns.variable).await?;
    let mut build = Build::new(dataset, &columns, samples, rows_in_version, target);
    let projection = projection(dataset.schema(), build.scanned());
    let mut batches = stream(uri, dataset, &projection, key.filter.as_deref()).await?;
    while let Some(batch) = batches
        .try_next()
        .await
        .map_err(|error| SnapshotError::lance(format!("scan {uri}"), error))?
    {
        build.add(&batch)?;
    }
    if build.rows == 0 {
        return Err(SnapshotError::EmptySelection {
            filter: key.filter.unwrap_or_default(),
            rows: rows_in_version,
            version: key.version,
        });
    }
    build.finish(key, rows_in_version)
}

/// The lengths of the first values of each column.
async fn sample(
    uri: &str,
    dataset: &Dataset,
    columns: &[(Column, RaggedKind)],
) -> Result<Vec<Vec<Option<usize>>>, SnapshotError> {
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error| SnapshotError::lance(format!("read the first rows of {uri}"), error);
    let schema = projection(dataset.schema(), columns.iter().map(|(column, _)| column));
    let mut scanner = dataset.scan();
    let scanner = scanner.project_with_schema(&schema).map_err(failed)?;
    scanner.batch_size(SAMPLE_ROWS);
    let scanner = scanner
        .limit(Some(SAMPLE_ROWS as i64), None)
        .map_err(failed)?;
    let rows = scanner.try_into_batch().await.map_err(failed)?;
    let lengths = columns.iter().map(|(column, kind)| {
        let values = gathered(column, kind, &rows)?.values.into_iter();
        Ok(values.map(|value| Some(value?.len())).collect())
    });
    lengths.collect()
}

/// The scan in dataset order, with row ids and addresses. A filter that Lance refuses is told from
/// a scan that fails.
async fn stream(
    uri: &str,
    dataset: &Dataset,
    projection: &Schema,
    filter: Option<&str>,
) -> Result<DatasetRecordBatchStream, SnapshotError> {
    let failed = |error| SnapshotError::lance(format!("plan a scan of {uri}"), error);
    let mut scanner: Scanner = dataset.scan();
    scanner.project_with_schema(projection).map_err(failed)?;
    scanner
        .blob_handling(BlobHandling::BlobsDescriptions)
        .with_row_id()
        .with_row_address()
        .scan_in_order(true)
        .batch_size(BATCH_ROWS)
        .io_buffer_size(READ_AHEAD_BYTES);
    let format = dataset.manifest().data_storage_format.lance_file_format();
    if format == ConcreteFileVersion::V1 {
        // Lance panics when an index is to find both row ids and addresses there.
        scanner.use_scalar_index(false);
    }
    let Some(filter) = filter else {
        return scanner.try_into_stream().await.map_err(failed);
    };
    let refused = |error: lance::Error| {
        let mut reason = words(&error);
        if let Some(missing) = missing_field(&reason) {
            let columns = fields(dataset.schema());
            let names: Vec<&str> = columns.iter().map(|it| it.name.as_str()).collect();
            reason = loaderd_names::no_column(uri, missing, &names, &[]);
        }
        SnapshotError::BadFilter {
            filter: filter.to_owned(),
            reason,
        }
    };
    scanner.filter(filter).map_err(refused)?;
    scanner.get_expr_filter().map_err(refused)?;
    scanner
        .try_into_stream()
        .await
        .map_err(|error| match error {
            lance::Error::InvalidInput { .. }
            | lance::Error::NotSupported { .. }
            | lance::Error::Schema { .. }
            | lance::Error::Arrow { .. } => refused(error),
            error => failed(error),
        })
}
