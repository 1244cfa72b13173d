//! What the feeder fills in by itself: all columns that are neither read by its ring nor
//! decoded.
//!
//! Enters: batches whose rows are chosen. Leaves: fixed values, `._valid`, row numbers in their
//! slots, and values of ragged columns kept for packing. What lies in the source's memory is
//! copied; the rest comes by the source's slow path, many rows at a time.

use std::sync::Arc;

use loaderd_wire::message::Failure;

use super::Feeder;
use crate::batch::{Batch, Place, Value};
use crate::engine::Work;
use crate::job::Origin;
use crate::source::{ColumnRef, SourceError, Variable};

/// Fixed columns up to this many bytes per batch are copied by the feeder, larger ones by
/// the workers in chunks of about this size.
const COPY_CHUNK_BYTES: u64 = 1 << 20;

impl Feeder {
    /// Fills what is fetched in windows of many rows: ragged columns, and which rows are null.
    pub(super) fn fill_windows(&self, batches: &[Arc<Batch>]) {
        for (tensor, origin) in self.session.job.origins.iter().enumerate() {
            if origin.variable().is_some() || matches!(origin, Origin::IsValid { .. }) {
                let mut places = Vec::new();
                for batch in batches {
                    places.extend((0..batch.rows.len()).map(|row| Place {
                        batch: batch.clone(),
                        row,
                        tensor,
                    }));
                }
                self.fill_rows(origin, &places);
            }
        }
    }

    pub(super) fn fill_rows(&self, origin: &Origin, places: &[Place]) {
        let filled = match origin {
            Origin::Ragged { column } | Origin::Boxes { column, .. } => {
                self.fill_values(*column, places)
            }
            Origin::IsValid { of } => self.fill_validity(*of, places),
            _ => Ok(()),
        };
        if let Err(error) = filled {
            let failure: Failure = error.into();
            for place in places {
                place.batch.fail(failure.clone());
            }
        }
    }

    /// Says for each row whether another column has a value there. Where only the slow path
    /// tells, and the column itself is delivered too, it is told when its values come.
    fn fill_validity(&self, of: ColumnRef, places: &[Place]) -> Result<(), SourceError> {
        let source = &self.session.job.source;
        let mut origins = self.session.job.origins.iter();
        let comes = origins.any(|origin| origin.column() == Some(of));
        let write = |place: &Place, valid: bool| {
            // SAFETY: as in `fill_row`.
            let is_valid = unsafe { place.bytes() };
            is_valid[0] = u8::from(valid);
        };
        let mut slow = Vec::new();
        for place in places {
            let index = place.index();
            match source.is_valid(of, index) {
                Some(valid) => write(place, valid),
                None if comes => {}
                None => slow.push((place, index)),
            }
        }
        if slow.is_empty() {
            return Ok(());
        }
        let indices: Vec<u64> = slow.iter().map(|(_, index)| *index).collect();
        let values = match of {
            ColumnRef::Variable(column) => source.read_variable_slow(column, &indices)?,
            ColumnRef::Bytes(column) => source.read_slow(column, &indices)?,
            ColumnRef::Fixed(_) => unreachable!("a fixed column is searched when it is opened"),
        };
        for ((place, _), value) in slow.into_iter().zip(values) {
            write(place, value.is_some());
        }
        Ok(())
    }

    /// Says in a row, where it is asked for, whether the slow path found a value of a column.
    pub(super) fn tell_validity(&self, place: &Place, of: ColumnRef, valid: bool) {
        for (tensor, origin) in self.session.job.origins.iter().enumerate() {
            if matches!(origin, Origin::IsValid { of: column } if *column == of) {
                // SAFETY: as in `fill_row`.
                let is_valid = unsafe { place.batch.part(place.row, tensor) };
                is_valid[0] = u8::from(valid);
            }
        }
    }

    /// Fetches the values of a ragged column that don't lie in the source's memory; the
    /// others are copied when their batch is packed.
    fn fill_values(&self, column: usize, places: &[Place]) -> Result<(), SourceError> {
        let source = &self.session.job.source;
        let is_slow = |place: &&Place| source.variable(column, place.index()) == Variable::Slow;
        let (slow, at_hand): (Vec<_>, Vec<_>) = places.iter().partition(is_slow);
        // Of a row that was replaced, an older value may be kept.
        at_hand.into_iter().for_each(Place::keep_nothing);
        if slow.is_empty() {
            return Ok(());
        }
        let indices: Vec<u64> = slow.iter().map(|place| place.index()).collect();
        let values = source.read_variable_slow(column, &indices)?;
        for (place, value) in slow.into_iter().zip(values) {
            self.tell_validity(place, ColumnRef::Variable(column), value.is_some());
            let value = value.map_or(Value::Empty, Value::Bytes);
            place.keep(&self.session.memory, value);
        }
        Ok(())
    }

    /// Fills everything of a batch that is not decoded.
    pub(super) fn fill_fixed(&self, batch: &Arc<Batch>) {
        let job = &self.session.job;
        let has_images = batch.image_tensors().next().is_some();
        for (tensor, origin) in job.origins.iter().enumerate() {
            let bytes = job.layout.tensors[tensor].row_bytes();
            match origin {
                Origin::Fixed { column } if job.source.fixed(*column, 0).is_none() => {
                    self.fill_fixed_slow(batch, tensor, *column);
                }
                Origin::Fixed { column }
                    if !has_images && bytes * batch.rows.len() as u64 > COPY_CHUNK_BYTES =>
                {
                    self.copy_in_chunks(batch, tensor, *column, bytes);
                }
                _ => {
                    for row in 0..batch.rows.len() {
                        self.fill_row(batch, row, tensor, origin);
                    }
                }
            }
        }
    }

    /// Fills one value that is not decoded.
    pub(super) fn fill_row(&self, batch: &Arc<Batch>, row: usize, tensor: usize, origin: &Origin) {
        let source = &self.session.job.source;
        let index = batch.index(row);
        let elsewhere = origin.variable().is_some() || matches!(origin, Origin::IsValid { .. });
        if elsewhere || origin.input().is_some() {
            return;
        }
        // SAFETY: the slot is FILLING, and values that are not images are written by this
        // thread alone, but for `Copy` tasks, which are given tensors that no other code
        // writes until they are done.
        let place = unsafe { batch.part(row, tensor) };
        match origin {
            Origin::Image { .. }
            | Origin::PixelMask { .. }
            | Origin::Boxes { .. }
            | Origin::Decoded { .. }
            | Origin::Raw { .. }
            | Origin::Ragged { .. }
            | Origin::IsValid { .. } => unreachable!("returned above"),
            Origin::Fixed { column } => match source.fixed(*column, index) {
                Some(value) => place.copy_from_slice(value),
                None => {
                    if let Err(error) = source.read_fixed_slow(*column, &[index], place) {
                        batch.fail(error.into());
                    }
                }
            },
            Origin::RowId => place.copy_from_slice(&source.row_id(index).to_ne_bytes()),
            Origin::RowAddress => place.copy_from_slice(&source.row_address(index).to_ne_bytes()),
            Origin::Valid => place[0] = u8::from(batch.valid),
        }
    }

    fn fill_fixed_slow(&self, batch: &Arc<Batch>, tensor: usize, column: usize) {
        let job = &self.session.job;
        let indices: Vec<u64> = (0..batch.rows.len()).map(|row| batch.index(row)).collect();
        let mut values = vec![0; indices.len() * job.layout.tensors[tensor].row_bytes() as usize];
        match job.source.read_fixed_slow(column, &indices, &mut values) {
            Err(error) => batch.fail(error.into()),
            Ok(()) => {
                let bytes = job.layout.tensors[tensor].row_bytes() as usize;
                for (row, value) in values.chunks_exact(bytes).enumerate() {
                    // SAFETY: as in `fill_row`.
                    unsafe { batch.part(row, tensor) }.copy_from_slice(value);
                }
            }
        }
    }

    /// Has the workers copy a large fixed column. Only in batches without images, whose
    /// rows are never redone: a redone row's values are rewritten by this thread.
    fn copy_in_chunks(&self, batch: &Arc<Batch>, tensor: usize, column: usize, row_bytes: u64) {
        let rows = batch.rows.len();
        let rows_each = (COPY_CHUNK_BYTES / row_bytes.max(1)).max(1) as usize;
        for first in (0..rows).step_by(rows_each) {
            batch.expect_part();
            self.send(Work::Copy {
                batch: batch.clone(),
                tensor,
                column,
                rows: first..(first + rows_each).min(rows),
            });
        }
    }
}
