//! One scan of descriptors and small columns, written to a page map as it streams by.
//!
//! In: an open version, a filter, columns. Out: a published map. No payload is read, and no list
//! grows with the rows.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch, StructArray};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::{DatasetRecordBatchStream, Scanner};
use lance_core::datatypes::BlobHandling;
use lance_core::{ROW_ADDR, ROW_ID};

use crate::SnapshotError;
use crate::error::words;
use crate::field::{BytesLayout, FixedKind};
use crate::fixed;
use crate::locate::{Files, Locator};
use crate::map::{Description, Lengths, MapKey, MapWriter, NumbersWriter, SectionWriter, Target};

/// Rows per batch of the scan.
const BATCH_ROWS: usize = 8192;
/// Bytes that Lance reads ahead; its default is 2 GiB.
const READ_AHEAD_BYTES: u64 = 64 << 20;
/// What all mapped columns may take per row.
const FIXED_ROW_BYTES_MAX: usize = 64;
/// What all mapped columns may take together.
const FIXED_BYTES_MAX: u64 = 1 << 30;
/// A column beyond those budgets is still searched for nulls at open while it is this small;
/// a larger one is checked when it is read.
const NULL_CHECK_BYTES_MAX: u64 = 1 << 30;

/// What is scanned.
pub(crate) struct Columns<'a> {
    pub(crate) bytes: &'a [(String, BytesLayout)],
    pub(crate) fixed: &'a [(String, FixedKind)],
}

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
    let mut build = Build::new(dataset, &columns, rows_in_version, target);
    let mut batches = stream(uri, dataset, &build.projection(), key.filter.as_deref()).await?;
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

/// The scan in dataset order, with row ids and addresses. A filter that Lance refuses is told from
/// a scan that fails.
async fn stream(
    uri: &str,
    dataset: &Dataset,
    projection: &[&str],
    filter: Option<&str>,
) -> Result<DatasetRecordBatchStream, SnapshotError> {
    let failed = |error| SnapshotError::lance(format!("plan a scan of {uri}"), error);
    let mut scanner: Scanner = dataset.scan();
    scanner.project(projection).map_err(failed)?;
    scanner
        .blob_handling(BlobHandling::BlobsDescriptions)
        .with_row_id()
        .with_row_address()
        .scan_in_order(true)
        .batch_size(BATCH_ROWS)
        .io_buffer_size(READ_AHEAD_BYTES);
    let Some(filter) = filter else {
        return scanner.try_into_stream().await.map_err(failed);
    };
    let refused = |error: lance::Error| SnapshotError::BadFilter {
        filter: filter.to_owned(),
        reason: words(&error),
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

struct BytesColumn {
    name: String,
    /// None for a column that Lance reads as a whole.
    located: Option<(Locator, SectionWriter)>,
}

struct FixedColumn {
    name: String,
    kind: FixedKind,
    section: Option<SectionWriter>,
    is_scanned: bool,
    /// Nulls so far. The first one ends the map, and the scan goes on only to count the others.
    nulls: u64,
}

struct Build {
    writer: MapWriter,
    bytes: Vec<BytesColumn>,
    fixed: Vec<FixedColumn>,
    addresses: NumbersWriter,
    ids: NumbersWriter,
    files: Files,
    lengths: Lengths,
    hasher: blake3::Hasher,
    rows: u64,
    scratch: Vec<u8>,
}

impl Build {
    fn new(dataset: &Arc<Dataset>, columns: &Columns<'_>, rows_max: u64, target: Target) -> Self {
        let mut writer = MapWriter::new(target);
        let bytes = columns.bytes.iter().map(|(name, layout)| {
            let is_blob = matches!(layout, BytesLayout::BlobV1 | BytesLayout::BlobV2);
            let field = dataset.schema().field(name).filter(|_| is_blob);
            BytesColumn {
                name: name.clone(),
                located: field.map(|field| {
                    let locator = Locator::new(dataset, field.id, *layout);
                    (locator, writer.section(rows_max * 16))
                }),
            }
        });
        let bytes = bytes.collect();
        let (mut row_bytes_left, mut bytes_left) = (FIXED_ROW_BYTES_MAX, FIXED_BYTES_MAX);
        let fixed = columns.fixed.iter().map(|(name, kind)| {
            let row_bytes = kind.row_bytes();
            let all_bytes = rows_max.saturating_mul(row_bytes as u64);
            let is_mapped = row_bytes <= row_bytes_left && all_bytes <= bytes_left;
            if is_mapped {
                row_bytes_left -= row_bytes;
                bytes_left -= all_bytes;
            }
            FixedColumn {
                name: name.clone(),
                kind: kind.clone(),
                section: is_mapped.then(|| writer.section(all_bytes)),
                is_scanned: is_mapped || all_bytes <= NULL_CHECK_BYTES_MAX,
                nulls: 0,
            }
        });
        let fixed = fixed.collect();
        Self {
            bytes,
            fixed,
            addresses: writer.numbers(rows_max),
            ids: writer.numbers(rows_max),
            writer,
            files: Files::default(),
            lengths: Lengths::default(),
            hasher: blake3::Hasher::new(),
            rows: 0,
            scratch: Vec::new(),
        }
    }

    /// The columns to scan, each once.
    fn projection(&self) -> Vec<&str> {
        let bytes = self.bytes.iter().filter(|column| column.located.is_some());
        let fixed = self.fixed.iter().filter(|column| column.is_scanned);
        let mut names: Vec<&str> = Vec::new();
        for name in bytes.map(|c| &c.name).chain(fixed.map(|c| &c.name)) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), SnapshotError> {
        let addresses = batch[ROW_ADDR].as_primitive::<UInt64Type>().values();
        let ids = batch[ROW_ID].as_primitive::<UInt64Type>().values();
        for column in &mut self.bytes {
            let Some((locator, section)) = &mut column.located else {
                continue;
            };
            self.scratch.clear();
            let descriptors: &StructArray = batch[column.name.as_str()].as_struct();
            locator.locate(
                descriptors,
                addresses,
                &mut self.files,
                &mut self.lengths,
                &mut self.scratch,
            )?;
            self.writer.append(section, &self.scratch)?;
        }
        for column in self.fixed.iter_mut().filter(|column| column.is_scanned) {
            self.scratch.clear();
            let array: &dyn Array = &batch[column.name.as_str()];
            if let Err(nulls) = fixed::append(array, &column.kind, &mut self.scratch) {
                column.nulls += nulls;
            } else if let Some(section) = &mut column.section {
                self.writer.append(section, &self.scratch)?;
            }
        }
        for address in addresses {
            self.hasher.update(&address.to_le_bytes());
        }
        self.writer.append_numbers(&mut self.addresses, addresses)?;
        self.writer.append_numbers(&mut self.ids, ids)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn finish(mut self, key: MapKey, rows_in_version: u64) -> Result<(), SnapshotError> {
        if let Some(column) = self.fixed.iter().find(|column| column.nulls > 0) {
            return Err(SnapshotError::Nulls {
                column: column.name.clone(),
                count: column.nulls,
            });
        }
        let mut extents = Vec::new();
        for column in self.bytes {
            let section = column
                .located
                .map(|(_, section)| self.writer.close(section));
            extents.push(section.transpose()?);
        }
        let mut fixed = Vec::new();
        for column in self.fixed {
            let section = column.section.map(|section| self.writer.close(section));
            fixed.push(section.transpose()?);
        }
        let description = Description {
            key,
            rows: self.rows,
            rows_in_version,
            selection_hash: self.hasher.finalize().to_hex().to_string(),
            files: self.files.into_refs(),
            lengths: self.lengths.finish(),
            extents,
            fixed,
            addresses: self.writer.close_numbers(self.addresses)?,
            ids: self.writer.close_numbers(self.ids)?,
        };
        self.writer.finish(&description)
    }
}
