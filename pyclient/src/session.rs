//! One connection to the daemon, and one rank of one job.
//!
//! Enters: requests as JSON. Leaves: the daemon's messages as dicts, and a lease with
//! every batch. Waiting lets go of the interpreter and notices Ctrl-C. It never
//! connects anew, and never decides what a failure means.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use loaderd_wire::message::{OpenRequest, Opened, Ready};
use loaderd_wire::socket::Received;
use loaderd_wire::{Channel, PROTOCOL, Segment, ToClient, ToDaemon, WireError, receipt};
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::errors::{ProtocolError, to_python};
use crate::lease::{Connection, Held, Lease, Slots};
use crate::objects::{about, plain};
use crate::pinning::{self, Pinning};

/// How often a wait looks for signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// A connection to the daemon. Closing it, or letting go of it, ends the job's rank and
/// gives back all its slots; tensors that live on keep their memory.
#[pyclass(frozen, module = "loaderd._native")]
pub(crate) struct Session {
    connection: Arc<Connection>,
    slots: Mutex<State>,
    /// A message that arrived together with a signal, for the next call: a handler that raises
    /// must not lose it. Held for moments only.
    kept: Mutex<Option<Received<ToClient>>>,
}

/// Whether there are slots.
enum State {
    Unopened,
    Open(Arc<Slots>),
    /// They are gone, but for those with tensors.
    Closed,
}

#[pymethods]
impl Session {
    /// Connects and says hello. Returns the session and the daemon's answer as JSON:
    /// `welcome`, or `failed`. Blocks for at most about `timeout_s`.
    #[staticmethod]
    fn connect(
        py: Python<'_>,
        path: PathBuf,
        version: String,
        binary: String,
        timeout_s: f64,
    ) -> PyResult<(Session, String)> {
        let timeout = duration(timeout_s)?;
        let channel = py
            .detach(|| -> Result<Channel, WireError> {
                let channel = Channel::connect(&path)?;
                let hello = ToDaemon::Hello {
                    protocol: PROTOCOL,
                    version,
                    binary,
                };
                channel.send(&hello, &[])?;
                Ok(channel)
            })
            .map_err(to_python)?;
        let session = Session {
            connection: Arc::new(Connection {
                channel,
                pid: process::id(),
                held: AtomicU32::new(0),
                reaped: AtomicU32::new(0),
            }),
            slots: Mutex::new(State::Unopened),
            kept: Mutex::default(),
        };
        // As bare JSON: a daemon of another protocol may say hello in words unknown to us.
        match session.wait::<Value>(py, Some(timeout))? {
            Some(received) => Ok((session, received.message.to_string())),
            None => {
                // The process that listens, which is not known across PID namespaces.
                let pid = session.connection.channel.peer().map_or(0, |peer| peer.pid);
                let way_out = match pid {
                    0 => String::new(),
                    pid => format!(
                        ": if process {pid} was stopped, `kill -CONT {pid}` lets it go on; `kill -9 {pid}` ends it"
                    ),
                };
                Err(PyTimeoutError::new_err(format!(
                    "{} accepted the connection but did not answer within {timeout_s} s{way_out}",
                    path.display()
                )))
            }
        }
    }

    /// Asks for a job; the answer comes through `next`: `opened` or `failed`.
    fn open(&self, py: Python<'_>, request_json: &str) -> PyResult<()> {
        let request: OpenRequest = serde_json::from_str(request_json)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.send(py, &ToDaemon::Open(Box::new(request)))
    }

    /// Begins a stream of batches, and ends the one before.
    fn start(&self, py: Python<'_>, stream: u64, epoch: u64, step: u64) -> PyResult<()> {
        self.send(
            py,
            &ToDaemon::Start {
                stream,
                epoch,
                step,
            },
        )
    }

    /// Tells the daemon that the user has the batch.
    ///
    /// Never blocks: with many slots, a daemon that reads nothing could otherwise hold us
    /// in a call that notices no signal. The number of slots bounds what is queued.
    fn delivered(&self, lease: u64) -> PyResult<()> {
        self.check_process()?;
        let message = ToDaemon::Delivered { lease };
        self.connection.channel.post(&message).map_err(to_python)
    }

    /// The daemon's next message as a dict, with a lease where it is `ready`; `None` when
    /// none comes within `timeout_s` (`None`: waits for ever), or as soon as a slot is to be
    /// fenced, which the daemon may need for it.
    ///
    /// Raises `ConnectionResetError` when the daemon is gone.
    #[pyo3(signature = (timeout_s=None))]
    fn next<'py>(
        &self,
        py: Python<'py>,
        timeout_s: Option<f64>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, Option<Lease>)>> {
        let timeout = timeout_s.map(duration).transpose()?;
        let Some(Received { message, fds }) = self.receive(py, timeout)? else {
            return Ok(None);
        };
        // A batch goes the short way: its user waits, perhaps on a machine whose caches are
        // full of the next one.
        if let ToClient::Ready(ready) = &message {
            let lease = self.lease(ready, fds)?;
            return Ok(Some((about(py, ready)?, Some(lease))));
        }
        if let ToClient::Opened(opened) = &message {
            self.map(py, opened, fds)?;
        }
        let json = serde_json::to_value(&message)
            .map_err(|error| ProtocolError::new_err(error.to_string()))?;
        Ok(Some((plain(py, &json)?, None)))
    }

    /// Decides about pinned memory, once a CUDA context is active in this process and none of
    /// the streams that `streams` gives is being captured: pins the slots where `wanted`.
    /// Returns why they stay unpinned. Blocks as long as pinning takes.
    fn pin(
        &self,
        py: Python<'_>,
        wanted: bool,
        streams: &Bound<'_, PyAny>,
    ) -> PyResult<Option<String>> {
        let Some(slots) = self.slots().filter(|_| self.connection.is_ours()) else {
            return Ok(None);
        };
        if slots.pinning.is_decided() {
            return Ok(slots.pinning.refused());
        }
        let Some(place) = pinning::place(wanted) else {
            return Ok(None);
        };
        // Asked last, because it may set up a device.
        let streams: Vec<u64> = streams.call0()?.extract()?;
        Ok(py.detach(|| pinning::pin(&slots, &place, wanted, &streams)))
    }

    /// Whether the slots are pinned memory.
    #[getter]
    fn is_pinned(&self) -> bool {
        self.slots().is_some_and(|slots| slots.pinning.is_pinned())
    }

    /// Leases without tensors, whose slots wait for the GPU.
    #[getter]
    fn reaped(&self) -> u32 {
        self.connection.reaped.load(Ordering::Relaxed)
    }

    /// Leases that live in this process.
    #[getter]
    fn held(&self) -> u32 {
        self.connection.held.load(Ordering::Relaxed)
    }

    /// Slots of the job; 0 until it is open, and once it is closed.
    #[getter]
    fn slot_count(&self) -> u32 {
        self.slots().map_or(0, |slots| slots.segment.slot_count())
    }

    /// The process that connected.
    #[getter]
    fn pid(&self) -> u32 {
        self.connection.pid
    }

    /// Ends the connection, and lets go of the slots' memory, which the next session may need.
    /// Does nothing in a forked child.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.end());
    }
}

impl Session {
    fn end(&self) {
        if !self.connection.is_ours() {
            return;
        }
        let slots = std::mem::replace(&mut *self.state(), State::Closed);
        // Before the daemon hears of it: the memory is free once neither of us maps it, and who
        // waits for it waits for the daemon's session to end.
        drop(slots);
        self.connection.channel.shutdown();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only ever replaced whole, so a poisoned lock is a lock.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> Option<Arc<Slots>> {
        match &*self.state() {
            State::Open(slots) => Some(Arc::clone(slots)),
            State::Unopened | State::Closed => None,
        }
    }

    fn send(&self, py: Python<'_>, message: &ToDaemon) -> PyResult<()> {
        self.check_process()?;
        py.detach(|| self.connection.channel.send(message, &[]))
            .map_err(to_python)
    }

    /// As `wait`; a message that a signal's handler interrupts stays for the next call.
    fn receive(
        &self,
        py: Python<'_>,
        timeout: Option<Duration>,
    ) -> PyResult<Option<Received<ToClient>>> {
        self.check_process()?;
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(received) = kept().take() {
                return Ok(Some(received));
            }
            let Some(received) = self.wait(py, timeout)? else {
                return Ok(None);
            };
            *kept() = Some(received);
            // Python runs handlers on the way out of this call, which then has no result.
            py.check_signals()?;
        }
    }

    /// The next message, or `None` after `timeout`, or once the reaper rings.
    fn wait<M: DeserializeOwned + Send>(
        &self,
        py: Python<'_>,
        timeout: Option<Duration>,
    ) -> PyResult<Option<Received<M>>> {
        self.check_process()?;
        let channel = &self.connection.channel;
        let reaper = self.slots().and_then(|slots| slots.pinning.reaper());
        let started = Instant::now();
        loop {
            let mut has_rung = false;
            let slice = match timeout {
                Some(timeout) => timeout
                    .saturating_sub(started.elapsed())
                    .min(SIGNAL_INTERVAL),
                None => SIGNAL_INTERVAL,
            };
            let result = py.detach(|| {
                // Releases that found the socket full would wait for ever otherwise. If
                // the daemon is gone, what it said last is still to be received.
                let _ = channel.flush();
                let Some(reaper) = reaper else {
                    return channel.receive(Some(slice));
                };
                match channel.receive(Some(Duration::ZERO)) {
                    Err(WireError::Timeout { .. }) => {
                        has_rung = reaper.wait_beside(channel.as_fd(), slice);
                        channel.receive(Some(Duration::ZERO))
                    }
                    received => received,
                }
            });
            match result {
                Ok(received) => return Ok(Some(received)),
                Err(WireError::Timeout { .. }) => {
                    py.check_signals()?;
                    if has_rung || timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(to_python(error)),
            }
        }
    }

    fn map(&self, py: Python<'_>, opened: &Opened, fds: Vec<OwnedFd>) -> PyResult<()> {
        let layout = opened.layout.clone();
        layout.check().map_err(ProtocolError::new_err)?;
        let mut fds = fds.into_iter();
        let (Some(fd), None) = (fds.next(), fds.next()) else {
            return Err(ProtocolError::new_err(
                "the daemon opened the job without exactly one segment",
            ));
        };
        let (slot_bytes, slot_count) = (layout.slot_bytes, opened.slot_count);
        let segment = py
            .detach(|| {
                // Seconds for many GiB, in which Ctrl-C is to be heard.
                Segment::from_fd_watched(fd, slot_bytes, slot_count, || {
                    Python::attach(|py| py.check_signals()).map_err(Unmapped)
                })
            })
            .map_err(|Unmapped(error)| error)?;
        let mut state = self.state();
        match *state {
            State::Unopened => {}
            State::Open(_) => {
                return Err(ProtocolError::new_err("the daemon opened the job twice"));
            }
            // By another thread.
            State::Closed => return Err(to_python(WireError::Closed)),
        }
        *state = State::Open(Arc::new(Slots {
            pinning: Pinning::default(),
            segment,
            layout,
        }));
        Ok(())
    }

    fn lease(&self, ready: &Ready, fds: Vec<OwnedFd>) -> PyResult<Lease> {
        let slots = match &*self.state() {
            State::Open(slots) => Arc::clone(slots),
            State::Unopened => {
                return Err(ProtocolError::new_err(
                    "the daemon sent a batch before it opened the job",
                ));
            }
            // It was under way.
            State::Closed => return Err(to_python(WireError::Closed)),
        };
        let oversize =
            receipt::receive(&slots.layout, &slots.segment, ready, fds).map_err(to_python)?;
        let connection = Arc::clone(&self.connection);
        let held = Held::new(connection, slots, oversize, ready);
        Ok(Lease::new(held))
    }

    fn check_process(&self) -> PyResult<()> {
        if self.connection.is_ours() {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(format!(
            "the session belongs to process {}, of which this is a fork",
            self.connection.pid
        )))
    }
}

/// Why there is no mapping.
struct Unmapped(PyErr);

impl From<WireError> for Unmapped {
    fn from(error: WireError) -> Unmapped {
        Unmapped(to_python(error))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Leases may keep the descriptor open for long; the job ends now.
        self.end();
    }
}

fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("{seconds} s: {error}")))
}
