//! The ragged columns of a batch: kept row by row, then packed when the batch is whole.
//!
//! Enters: values in any order, from the feeder and the decode workers. Leaves: arrays in
//! row order behind the slot's dense tensors, or in a memfd of their own where they don't fit
//! there. What is kept counts against the daemon's slot memory. Values that lie in the
//! source's memory are not kept: they are copied once, when the batch is packed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use loaderd_decode::Image;
use loaderd_wire::WireError;
use loaderd_wire::layout::SLOT_ALIGN;
use loaderd_wire::message::FailureKind;
use loaderd_wire::ragged::{self, Packing, RaggedPart};
use loaderd_wire::segment::Segment;

use super::{Batch, Place};
use crate::job::failure;
use crate::memory::{Lack, Reserved, SlotMemory};
use crate::source::Variable;

/// One row of a ragged column.
pub(crate) enum Value {
    /// Nothing: null, or a bad sample that is zeroed.
    Empty,
    /// Of the source, which keeps it.
    Shared(Arc<[u8]>),
    /// Fetched for this batch.
    Bytes(Vec<u8>),
    /// Decoded.
    Image(Image),
}

impl Value {
    /// Bytes that live as long as the value only.
    fn own_bytes(&self) -> u64 {
        match self {
            Value::Empty | Value::Shared(_) => 0,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::Image(image) => image.rgb.len() as u64,
        }
    }

    fn packed(&self) -> ragged::Value<'_> {
        match self {
            Value::Empty => ragged::Value::Empty,
            Value::Shared(bytes) => ragged::Value::Bytes(bytes),
            Value::Bytes(bytes) => ragged::Value::Bytes(bytes),
            Value::Image(image) => ragged::Value::Image {
                height: image.height,
                width: image.width,
                rgb: &image.rgb,
            },
        }
    }
}

/// A memfd for the ragged columns of one batch, and the leave to have it.
pub(crate) struct Oversize {
    pub(crate) segment: Segment,
    pub(crate) reserved: Reserved,
}

/// See the module.
#[derive(Default)]
pub(super) struct Gathered {
    /// By column and row; rows whose value lies in the source's memory are not here.
    kept: Mutex<BTreeMap<(usize, usize), (Value, Reserved)>>,
    /// Once the batch is packed.
    parts: OnceLock<Vec<RaggedPart>>,
    oversize: Mutex<Option<Oversize>>,
}

impl Gathered {
    /// Where each ragged column lies; nothing before the batch is packed.
    pub(super) fn parts(&self) -> Vec<RaggedPart> {
        self.parts.get().cloned().unwrap_or_default()
    }
}

impl Place {
    /// Keeps a row of a ragged column, in place of what was kept for it before. Where the
    /// memory for it is not to be had, the batch fails.
    pub(crate) fn keep(&self, memory: &Arc<SlotMemory>, value: Value) {
        let batch = &self.batch;
        match memory.reserve(value.own_bytes()) {
            Ok(reserved) => {
                (batch.kept()).insert((self.tensor, self.row), (value, reserved));
            }
            Err(lack) => batch.lacks_memory("values", &lack),
        }
    }

    /// The value lies in the source's memory.
    pub(crate) fn keep_nothing(&self) {
        self.batch.kept().remove(&(self.tensor, self.row));
    }
}

impl Batch {
    /// Writes the ragged columns, once every row is there. Nobody else uses the batch. Where
    /// it `is_wanted` no longer, it may be left as it is.
    pub(crate) fn pack(&self, memory: &Arc<SlotMemory>, is_wanted: impl Fn() -> bool) {
        let layout = &self.job.layout;
        if self.failure().is_some() || layout.tensors.iter().all(|t| t.ragged.is_none()) {
            return;
        }
        let kept = std::mem::take(&mut *self.kept());
        let ragged: Vec<usize> = (0..layout.tensors.len())
            .filter(|&tensor| layout.tensors[tensor].ragged.is_some())
            .collect();
        let found = |tensor, row| match kept.get(&(tensor, row)) {
            Some((value, _)) => value.packed(),
            None => self.at_hand(row, tensor),
        };
        let moved = match self.move_boxes(found) {
            Ok(moved) => moved,
            Err(failure) => return self.fail(failure),
        };
        let columns = ragged.iter().map(|&tensor| {
            let value = |row| match moved.get(&(tensor, row)) {
                Some(bytes) => ragged::Value::Bytes(bytes),
                None => found(tensor, row),
            };
            let values = (0..self.rows.len()).map(value).collect();
            (&layout.tensors[tensor], values)
        });
        let packing = match Packing::measure(columns.collect()) {
            Ok(packing) => packing,
            Err(malformed) => {
                let address = self.job.source.row_address(self.index(malformed.row));
                let name = &layout.tensors[ragged[malformed.column]].name;
                return self.fail(failure(
                    FailureKind::Io,
                    format!("column {name:?}, row address {address}: {malformed}"),
                ));
            }
        };
        if packing.bytes() <= layout.variable_bytes() {
            // SAFETY: the slot is FILLING, every part of it is done, and the caller is the
            // only one to complete the batch; the range lies within the mapped slot.
            let room = unsafe {
                std::slice::from_raw_parts_mut(
                    self.segment
                        .slot_ptr(self.slot)
                        .add(layout.dense_bytes as usize),
                    layout.variable_bytes() as usize,
                )
            };
            let _ = self
                .gathered
                .parts
                .set(packing.write(room, layout.dense_bytes));
            return;
        }
        let bytes = packing.bytes().next_multiple_of(SLOT_ALIGN);
        let reserved = match memory.reserve(bytes) {
            Ok(reserved) => reserved,
            Err(lack) => return self.lacks_memory("ragged columns", &lack),
        };
        let watch = |_| is_wanted().then_some(()).ok_or(None);
        let segment: Result<_, Option<WireError>> = Segment::create_watched(bytes, 1, watch);
        let segment = match segment {
            Ok(segment) => segment,
            Err(None) => return,
            Err(Some(error)) => return self.fail(failure(FailureKind::Limit, error.to_string())),
        };
        // SAFETY: the segment was just made, and nobody else has it; its one slot is
        // `bytes` long.
        let room = unsafe { std::slice::from_raw_parts_mut(segment.slot_ptr(0), bytes as usize) };
        let _ = self.gathered.parts.set(packing.write(room, 0));
        *self.oversize() = Some(Oversize { segment, reserved });
    }

    /// The memfd of a packed batch that did not fit into its slot; once.
    pub(crate) fn take_oversize(&self) -> Option<Oversize> {
        self.oversize().take()
    }

    /// A value in the source's memory.
    fn at_hand(&self, row: usize, tensor: usize) -> ragged::Value<'_> {
        let column = self.job.origins[tensor]
            .variable()
            .expect("rows that are fetched or decoded are kept, also where they are empty");
        match self.job.source.variable(column, self.index(row)) {
            Variable::Value(bytes) => ragged::Value::Bytes(bytes),
            Variable::Null => ragged::Value::Empty,
            // It was at hand when the batch was planned, or else it would be kept.
            Variable::Slow => {
                self.fail(failure(
                    FailureKind::Io,
                    format!(
                        "column {:?}, row address {}: a value that was in memory is not there any more: the page \
                         map is damaged",
                        self.job.layout.tensors[tensor].name,
                        self.job.source.row_address(self.index(row))
                    ),
                ));
                ragged::Value::Empty
            }
        }
    }

    fn lacks_memory(&self, what: &str, lack: &Lack) {
        let text = format!("{what} of step {} {lack}", self.step());
        self.fail(failure(FailureKind::Limit, text));
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<(usize, usize), (Value, Reserved)>> {
        self.gathered.kept.lock().expect("no panic while held")
    }

    fn oversize(&self) -> std::sync::MutexGuard<'_, Option<Oversize>> {
        self.gathered.oversize.lock().expect("no panic while held")
    }
}
