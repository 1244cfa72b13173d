//! A slot that belongs to this process until its last tensor dies.
//!
//! Enters: a `Ready` message. Leaves: tensors, and a `Release` message when all of them
//! are gone. Letting go never blocks, needs no interpreter, and does nothing in a forked
//! child, whose copy of a lease is not a lease.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use loaderd_wire::message::Ready;
use loaderd_wire::{Channel, Layout, Segment, ToDaemon};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

use crate::dlpack::SlotTensor;

/// The connection, as sessions and leases share it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// The process that connected; a forked child is another one.
    pub(crate) pid: u32,
    /// Leases that live in this process. A mere count that orders nothing: relaxed.
    pub(crate) held: AtomicU32,
}

impl Connection {
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == process::id()
    }
}

/// What a session shares with its leases once the daemon has opened the job.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) segment: Segment,
    pub(crate) layout: Layout,
}

/// One slot's ownership. Every tensor and every capsule of the slot has an `Arc` of it.
#[derive(Debug)]
pub(crate) struct Held {
    connection: Arc<Connection>,
    /// Keeps the memory mapped for tensors that outlive session and daemon.
    pub(crate) slots: Arc<Slots>,
    pub(crate) slot: u32,
    pub(crate) rows: u32,
    lease: u64,
}

impl Held {
    /// Takes over the slot that `ready` names. The caller has checked slot and rows.
    pub(crate) fn new(connection: Arc<Connection>, slots: Arc<Slots>, ready: &Ready) -> Held {
        connection.held.fetch_add(1, Ordering::Relaxed);
        Held {
            connection,
            slots,
            slot: ready.slot,
            rows: ready.rows,
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
        // The queue behind `post` is bounded by the number of slots. Where the daemon is
        // gone there is nobody to give the slot back to.
        let _ = self
            .connection
            .channel
            .post(&ToDaemon::Release { lease: self.lease });
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

    /// Names of the tensors, in the order of the columns asked for.
    #[getter]
    fn names(&self) -> Vec<String> {
        let tensors = &self.held.slots.layout.tensors;
        tensors.iter().map(|tensor| tensor.name.clone()).collect()
    }

    /// One tensor: for `torch.from_dlpack`, `numpy.from_dlpack` and their like.
    fn tensor(&self, name: &str) -> PyResult<SlotTensor> {
        let tensors = &self.held.slots.layout.tensors;
        match tensors.iter().position(|tensor| tensor.name == name) {
            Some(index) => Ok(SlotTensor::new(Arc::clone(&self.held), index)),
            None => Err(PyKeyError::new_err(name.to_owned())),
        }
    }
}
