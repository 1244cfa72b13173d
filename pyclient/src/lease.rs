//! A slot that belongs to this process until its last tensor dies.
//!
//! Enters: a `Ready` message. Leaves: tensors, and a `Release` message when all of them
//! are gone; where the GPU may still read them, by way of the reaper. Letting go never
//! blocks, needs no interpreter, and does nothing in a forked child, whose copy of a lease is
//! not a lease.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use loaderd_wire::message::Ready;
use loaderd_wire::ragged::{RaggedPart, Span};
use loaderd_wire::{Channel, DType, Layout, Segment, ToDaemon};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

use crate::dlpack::SlotTensor;
use crate::pinning::Pinning;

/// The connection, as sessions and leases share it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// The process that connected; a forked child is another one.
    pub(crate) pid: u32,
    /// Leases that live in this process. A mere count that orders nothing: relaxed.
    pub(crate) held: AtomicU32,
    /// Leases without tensors that the GPU may still read. A mere count, too.
    pub(crate) reaped: AtomicU32,
}

impl Connection {
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == process::id()
    }
}

/// What a session shares with its leases once the daemon has opened the job.
pub(crate) struct Slots {
    /// Above the segment, because what is pinned must be taken back before it is unmapped, and
    /// fields are dropped in their order.
    pub(crate) pinning: Pinning,
    pub(crate) segment: Segment,
    pub(crate) layout: Layout,
}

/// One slot's ownership. Every tensor and every capsule of the slot has an `Arc` of it.
pub(crate) struct Held {
    connection: Arc<Connection>,
    /// Keeps the memory mapped for tensors that outlive session and daemon.
    slots: Arc<Slots>,
    /// Where the ragged columns lie that are too large for the slot.
    oversize: Option<Segment>,
    slot: u32,
    rows: u32,
    /// One per ragged column of the layout, in its order.
    ragged: Vec<RaggedPart>,
    lease: u64,
}

impl Held {
    /// Takes over the slot that `ready` names. The caller has checked slot, rows and parts.
    pub(crate) fn new(
        connection: Arc<Connection>,
        slots: Arc<Slots>,
        oversize: Option<Segment>,
        ready: &Ready,
    ) -> Held {
        connection.held.fetch_add(1, Ordering::Relaxed);
        Held {
            connection,
            slots,
            oversize,
            slot: ready.slot,
            rows: ready.rows,
            ragged: ready.ragged.clone(),
            lease: ready.lease,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.connection.is_ours() {
            return;
        }
        self.connection.held.fetch_sub(1, Ordering::Relaxed);
        let remains = Remains {
            connection: Arc::clone(&self.connection),
            _slots: Arc::clone(&self.slots),
            _oversize: self.oversize.take(),
            lease: self.lease,
        };
        match self.slots.pinning.reaper() {
            Some(reaper) => {
                self.connection.reaped.fetch_add(1, Ordering::Relaxed);
                reaper.take(remains);
            }
            None => remains.give_back(),
        }
    }
}

/// What is left of a batch without tensors: its slot is still ours, and all its memory mapped.
pub(crate) struct Remains {
    connection: Arc<Connection>,
    _slots: Arc<Slots>,
    _oversize: Option<Segment>,
    lease: u64,
}

impl Remains {
    /// Gives the slot back, unread from now on.
    pub(crate) fn give_back(self) {
        // The queue behind `post` is bounded by the number of slots. Where the daemon is
        // gone there is nobody to give the slot back to.
        let lease = self.lease;
        let _ = self.connection.channel.post(&ToDaemon::Release { lease });
    }

    /// As `give_back`, for what [`Held`] has left to the reaper.
    pub(crate) fn give_back_reaped(self) {
        self.connection.reaped.fetch_sub(1, Ordering::Relaxed);
        self.give_back();
    }
}

/// A batch that was received. Make its tensors, then let go of it: they keep the slot.
#[pyclass(frozen, module = "loaderd._native")]
pub(crate) struct Lease {
    held: Arc<Held>,
}

impl Lease {
    pub(crate) fn new(held: Held) -> Lease {
        Lease {
            held: Arc::new(held),
        }
    }
}

#[pymethods]
impl Lease {
    /// What the daemon calls it.
    #[getter]
    fn id(&self) -> u64 {
        self.held.lease
    }

    /// The slot that it owns.
    #[getter]
    fn slot(&self) -> u32 {
        self.held.slot
    }

    /// Rows in the batch.
    #[getter]
    fn rows(&self) -> u32 {
        self.held.rows
    }

    /// Names of the columns, in the order asked for.
    #[getter]
    fn names(&self) -> Vec<String> {
        let tensors = &self.held.slots.layout.tensors;
        tensors.iter().map(|tensor| tensor.name.clone()).collect()
    }

    /// A dense column: for `torch.from_dlpack`, `numpy.from_dlpack` and their like. `None`
    /// where it is ragged.
    fn tensor(&self, name: &str) -> PyResult<Option<SlotTensor>> {
        let held = &self.held;
        let (index, _) = self.find(name)?;
        let tensor = &held.slots.layout.tensors[index];
        if tensor.ragged.is_some() {
            return Ok(None);
        }
        // The session has checked that the tensor fits into its slot.
        let start = held.slots.segment.slot_ptr(held.slot);
        let data = start.wrapping_add(tensor.offset as usize);
        let shape = sides(u64::from(held.rows), &tensor.shape);
        let held = Arc::clone(held);
        Ok(Some(SlotTensor::new(held, data, tensor.dtype, shape)))
    }

    /// A ragged column in its arrays: values, offsets from the outermost level inwards,
    /// shapes where it has images, and whether it is text. `KeyError` where it is dense.
    fn ragged(
        &self,
        name: &str,
    ) -> PyResult<(SlotTensor, Vec<SlotTensor>, Option<SlotTensor>, bool)> {
        let (index, number) = self.find(name)?;
        let tensor = &self.held.slots.layout.tensors[index];
        let Some(ragged) = tensor.ragged else {
            return Err(PyKeyError::new_err(format!("{name} is dense")));
        };
        let part = &self.held.ragged[number];
        let offsets = part.offsets.iter();
        Ok((
            self.array(part.values, tensor.dtype, &tensor.shape),
            offsets
                .map(|span| self.array(*span, DType::Int64, &[]))
                .collect(),
            part.shapes.map(|span| self.array(span, DType::Int32, &[3])),
            ragged.text,
        ))
    }
}

impl Lease {
    /// The column's index, and how many ragged columns come before it.
    fn find(&self, name: &str) -> PyResult<(usize, usize)> {
        let tensors = &self.held.slots.layout.tensors;
        let index = tensors
            .iter()
            .position(|tensor| tensor.name == name)
            .ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
        let before = tensors[..index].iter();
        Ok((index, before.filter(|t| t.ragged.is_some()).count()))
    }

    fn array(&self, span: Span, dtype: DType, shape: &[u64]) -> SlotTensor {
        let held = &self.held;
        let start = match &held.oversize {
            Some(segment) => segment.slot_ptr(0),
            None => held.slots.segment.slot_ptr(held.slot),
        };
        // The session has checked that the array lies within this memory.
        let data = start.wrapping_add(span.at as usize);
        SlotTensor::new(Arc::clone(held), data, dtype, sides(span.count, shape))
    }
}

/// Sides are those of something that fits into memory, so they fit into i64.
fn sides(count: u64, shape: &[u64]) -> Vec<i64> {
    let rest = shape.iter().map(|&side| side as i64);
    std::iter::once(count as i64).chain(rest).collect()
}
