//! Batches of a scan to the sections of a page map.
//!
//! Enters: columns, what is known of their sizes, batches. Leaves: a published map. It decides
//! which columns the map has room for, and no list in it grows with the rows.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{RecordBatch, StructArray};
use lance::Dataset;
use lance_core::{ROW_ADDR, ROW_ID};
use loaderd_pagemap::{
    Description, Lengths, MapKey, MapWriter, NullsWriter, NumbersWriter, Place, SectionWriter,
    Target, ValuesWriter, Variable,
};

use crate::SnapshotError;
use crate::column::Column;
use crate::field::{BytesLayout, FixedKind, RaggedKind};
use crate::fixed;
use crate::gather::{Gathered, gather};
use crate::locate::{Files, Locator};
use crate::tiled::TiledForm;

/// What all mapped fixed columns may take per row.
const FIXED_ROW_BYTES_MAX: usize = 64;
/// What all mapped fixed columns may take together.
const FIXED_BYTES_MAX: u64 = 1 << 30;
/// What all mapped variable columns may take per row, on average over the rows sampled.
const VARIABLE_ROW_BYTES_MAX: u64 = 4096;
/// What all mapped variable columns may take together. Values beyond it, where there are more than
/// the sample let expect, are read through Lance.
const VARIABLE_BYTES_MAX: u64 = 1 << 30;
/// What one value of a variable column may take; longer ones are read through Lance.
const VALUE_BYTES_MAX: u64 = 64 << 10;
/// A fixed column beyond those budgets is still searched for nulls at open while it is this small;
/// a larger one is checked when it is read.
const NULL_CHECK_BYTES_MAX: u64 = 1 << 30;

/// What is scanned.
pub(crate) struct Columns<'a> {
    pub(crate) bytes: &'a [(Column, BytesLayout)],
    /// The tiled form of each of them, where there is one to be read instead.
    pub(crate) tiled: &'a [Option<TiledForm>],
    pub(crate) fixed: &'a [(Column, FixedKind)],
    pub(crate) variable: &'a [(Column, RaggedKind)],
}

struct BytesColumn {
    column: Column,
    /// None for a column that Lance reads as a whole.
    locator: Option<Locator>,
    /// Its tiled form, which goes first, and the fragments in which it does not.
    tiled: Option<(Column, Locator, HashSet<u32>)>,
    /// Rows that have a tiled form.
    tiled_rows: u64,
    /// None where there is no place to keep.
    section: Option<SectionWriter>,
}

struct FixedColumn {
    column: Column,
    kind: FixedKind,
    section: Option<SectionWriter>,
    /// None for a column that is not scanned.
    nulls: Option<NullsWriter>,
}

struct VariableColumn {
    column: Column,
    kind: RaggedKind,
    /// None for a column that is not scanned.
    values: Option<ValuesWriter>,
    lengths: Lengths,
    /// Nulls without a value so far. With the first one the map is lost; the scan goes on to count.
    holes: u64,
}

/// A map in the making.
pub(crate) struct Build {
    writer: MapWriter,
    bytes: Vec<BytesColumn>,
    fixed: Vec<FixedColumn>,
    variable: Vec<VariableColumn>,
    variable_bytes_left: u64,
    addresses: NumbersWriter,
    ids: NumbersWriter,
    files: Files,
    lengths: Lengths,
    hasher: blake3::Hasher,
    pub(crate) rows: u64,
    scratch: Vec<u8>,
}

impl Build {
    /// `samples` are lengths of the first values of each variable column.
    pub(crate) fn new(
        dataset: &Arc<Dataset>,
        columns: &Columns<'_>,
        samples: Vec<Vec<Option<usize>>>,
        rows_max: u64,
        target: Target,
    ) -> Self {
        let mut writer = MapWriter::new(target);
        let locator = |column: &Column, layout: BytesLayout| {
            let locator = || Locator::new(dataset, column.field_id, layout);
            layout.is_blob().then(locator)
        };
        let bytes = columns.bytes.iter().zip(columns.tiled).map(|(own, tiled)| {
            let locator_of_own = locator(&own.0, own.1);
            let tiled = tiled.as_ref().and_then(|form| {
                let locator = locator(&form.column, form.layout)?;
                Some((form.column.clone(), locator, form.stale.clone()))
            });
            let is_mapped = locator_of_own.is_some() || tiled.is_some();
            BytesColumn {
                column: own.0.clone(),
                locator: locator_of_own,
                tiled,
                tiled_rows: 0,
                section: is_mapped.then(|| writer.section(rows_max * 16)),
            }
        });
        let bytes = bytes.collect();
        Self {
            bytes,
            fixed: fixed_columns(columns.fixed, rows_max, &mut writer),
            variable: variable_columns(columns.variable, samples, rows_max, &mut writer),
            variable_bytes_left: VARIABLE_BYTES_MAX,
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

    /// The columns to scan.
    pub(crate) fn scanned(&self) -> impl Iterator<Item = &Column> {
        let bytes = self.bytes.iter().filter(|c| c.locator.is_some());
        let tiled = self.bytes.iter().filter_map(|c| c.tiled.as_ref());
        let fixed = self.fixed.iter().filter(|c| c.nulls.is_some());
        let variable = self.variable.iter().filter(|c| c.values.is_some());
        bytes
            .map(|c| &c.column)
            .chain(tiled.map(|(column, ..)| column))
            .chain(fixed.map(|c| &c.column))
            .chain(variable.map(|c| &c.column))
    }

    /// Takes in a batch of the columns that are scanned.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<(), SnapshotError> {
        let addresses = batch[ROW_ADDR].as_primitive::<UInt64Type>().values();
        let ids = batch[ROW_ID].as_primitive::<UInt64Type>().values();
        for column in &mut self.bytes {
            if column.section.is_none() {
                continue;
            }
            self.scratch.clear();
            column.locate(
                batch,
                addresses,
                &mut self.files,
                &mut self.lengths,
                &mut self.scratch,
            )?;
            if let Some(section) = &mut column.section {
                self.writer.append(section, &self.scratch)?;
            }
        }
        for column in &mut self.fixed {
            let Some(nulls) = &mut column.nulls else {
                continue;
            };
            self.scratch.clear();
            let array = column.column.array(batch);
            let found = fixed::append(&array, &column.kind, &mut self.scratch);
            nulls.append(&self.writer, batch.num_rows(), found.as_deref())?;
            if let Some(section) = &mut column.section {
                self.writer.append(section, &self.scratch)?;
            }
        }
        for column in &mut self.variable {
            column.add(batch, &self.writer, &mut self.variable_bytes_left)?;
        }
        for address in addresses {
            self.hasher.update(&address.to_le_bytes());
        }
        self.writer.append_numbers(&mut self.addresses, addresses)?;
        self.writer.append_numbers(&mut self.ids, ids)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Publishes the map, unless what was scanned cannot be read.
    pub(crate) fn finish(mut self, key: MapKey, rows_in_version: u64) -> Result<(), SnapshotError> {
        if let Some(column) = self.variable.iter().find(|column| column.holes > 0) {
            let (name, kind) = (&column.column.name, &column.kind);
            return Err(SnapshotError::list_nulls(name, kind, column.holes));
        }
        let writer = &mut self.writer;
        let (mut extents, mut tiled_rows) = (Vec::new(), Vec::new());
        for column in self.bytes {
            let section = column.section.map(|section| writer.close(section));
            extents.push(section.transpose()?);
            tiled_rows.push(column.tiled_rows);
        }
        let (mut fixed, mut nulls) = (Vec::new(), Vec::new());
        for column in self.fixed {
            let section = column.section.map(|section| writer.close(section));
            fixed.push(section.transpose()?);
            nulls.push(column.nulls.map(|nulls| nulls.close(writer)).transpose()?);
        }
        let (mut values, mut value_lengths) = (Vec::new(), Vec::new());
        for column in self.variable {
            values.push(column.values.map(|part| part.close(writer)).transpose()?);
            value_lengths.push(column.lengths.finish());
        }
        let description = Description {
            key,
            rows: self.rows,
            rows_in_version,
            selection_hash: self.hasher.finalize().to_hex().to_string(),
            files: self.files.into_refs(),
            lengths: self.lengths.finish(),
            extents,
            tiled_rows,
            fixed,
            nulls,
            values,
            value_lengths,
            addresses: self.writer.close_numbers(self.addresses)?,
            ids: self.writer.close_numbers(self.ids)?,
        };
        Ok(self.writer.finish(&description)?)
    }
}

/// Gives the columns places in the map, as far as the budgets go.
fn fixed_columns(
    columns: &[(Column, FixedKind)],
    rows_max: u64,
    writer: &mut MapWriter,
) -> Vec<FixedColumn> {
    let (mut row_bytes_left, mut bytes_left) = (FIXED_ROW_BYTES_MAX, FIXED_BYTES_MAX);
    let fixed = columns.iter().map(|(column, kind)| {
        let row_bytes = kind.row_bytes();
        let all_bytes = rows_max.saturating_mul(row_bytes as u64);
        let is_mapped = row_bytes <= row_bytes_left && all_bytes <= bytes_left;
        if is_mapped {
            row_bytes_left -= row_bytes;
            bytes_left -= all_bytes;
        }
        let is_scanned = is_mapped || all_bytes <= NULL_CHECK_BYTES_MAX;
        FixedColumn {
            column: column.clone(),
            kind: kind.clone(),
            section: is_mapped.then(|| writer.section(all_bytes)),
            nulls: is_scanned.then(|| NullsWriter::new(writer, rows_max)),
        }
    });
    fixed.collect()
}

/// The same for variable columns, by what their samples let expect.
fn variable_columns(
    columns: &[(Column, RaggedKind)],
    samples: Vec<Vec<Option<usize>>>,
    rows_max: u64,
    writer: &mut MapWriter,
) -> Vec<VariableColumn> {
    let (mut row_bytes_left, mut bytes_left) = (VARIABLE_ROW_BYTES_MAX, VARIABLE_BYTES_MAX);
    let variable = columns.iter().zip(samples).map(|((column, kind), sample)| {
        let sum: u64 = sample.iter().flatten().map(|length| *length as u64).sum();
        let row_bytes = sum.div_ceil((sample.len() as u64).max(1));
        let all_bytes = rows_max.saturating_mul(row_bytes);
        let is_mapped = row_bytes <= row_bytes_left && all_bytes <= bytes_left;
        let mut lengths = Lengths::default();
        if is_mapped {
            row_bytes_left -= row_bytes;
            bytes_left -= all_bytes;
        } else {
            let sample = sample.into_iter().flatten();
            sample.for_each(|length| lengths.push(saturated(length)));
        }
        // More than expected, up to the whole budget; the file is sparse.
        let bytes_max = VARIABLE_BYTES_MAX.min(rows_max.saturating_mul(VALUE_BYTES_MAX));
        VariableColumn {
            column: column.clone(),
            kind: kind.clone(),
            values: is_mapped.then(|| ValuesWriter::new(writer, rows_max, bytes_max)),
            lengths,
            holes: 0,
        }
    });
    variable.collect()
}

impl BytesColumn {
    /// Appends one place per row of a batch to `out`: that of its tiled form, else its own.
    fn locate(
        &mut self,
        batch: &RecordBatch,
        addresses: &[u64],
        files: &mut Files,
        lengths: &mut Lengths,
        out: &mut Vec<u8>,
    ) -> Result<(), SnapshotError> {
        let mut own = self.locator.as_mut().map(|locator| {
            let descriptors: StructArray = self.column.array(batch).as_struct().clone();
            (locator, descriptors)
        });
        let mut tiled = self.tiled.as_mut().map(|(column, locator, stale)| {
            let descriptors: StructArray = column.array(batch).as_struct().clone();
            (locator, descriptors, stale)
        });
        for (row, &address) in addresses.iter().enumerate() {
            let mut place = Place::Null;
            if let Some((locator, descriptors, stale)) = &mut tiled
                && !stale.contains(&((address >> 32) as u32))
            {
                place = locator.locate(descriptors, row, address, files)?;
                self.tiled_rows += u64::from(place != Place::Null);
            }
            if place == Place::Null {
                place = match &mut own {
                    Some((locator, descriptors)) => {
                        locator.locate(descriptors, row, address, files)?
                    }
                    None => Place::Slow,
                };
            }
            if let Place::At {
                offset,
                length,
                file,
            } = place
            {
                files.reach(file, offset + u64::from(length));
                lengths.push(length);
            }
            out.extend_from_slice(&place.to_bytes());
        }
        Ok(())
    }
}

impl VariableColumn {
    fn add(
        &mut self,
        batch: &RecordBatch,
        writer: &MapWriter,
        bytes_left: &mut u64,
    ) -> Result<(), SnapshotError> {
        let Some(values) = &mut self.values else {
            return Ok(());
        };
        let found = gathered(&self.column, &self.kind, batch)?;
        self.holes += found.holes;
        for value in &found.values {
            let value = match value {
                None => Variable::Null,
                Some(value) => {
                    self.lengths.push(saturated(value.len()));
                    let bytes = value.len() as u64;
                    if bytes <= VALUE_BYTES_MAX && bytes <= *bytes_left {
                        *bytes_left -= bytes;
                        Variable::Value(value)
                    } else {
                        Variable::Slow
                    }
                }
            };
            values.append(writer, value)?;
        }
        Ok(())
    }
}

fn saturated(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The values of `column` in `batch`.
pub(crate) fn gathered(
    column: &Column,
    kind: &RaggedKind,
    batch: &RecordBatch,
) -> Result<Gathered, SnapshotError> {
    gather(&column.array(batch), kind).ok_or_else(|| SnapshotError::ValueTooLong {
        column: column.name.clone(),
    })
}
