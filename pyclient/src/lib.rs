//! The compiled half of the Python package `loaderd`.
//!
//! In the order of data: `session` talks to the daemon, `objects` makes Python's own objects of
//! what it says, `pinning` makes slots pinned memory where `cuda` is in use, `lease` owns a slot
//! until its last tensor dies, `dlpack` hands the slot's bytes to any framework, `reaper` keeps a
//! slot until the GPU has read it. It knows no framework, parses no arguments beyond their types
//! and chooses no exception class for the user: that is done in `loaderd/session.py` and
//! `loaderd/torch.py`.

mod session;

mod objects;

mod pinning;

mod lease;

mod dlpack;

mod reaper;

mod cuda;

mod errors;

use std::path::PathBuf;

use pyo3::prelude::*;

/// Makes the module; `_native.pyi` says what is in it.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PROTOCOL", loaderd_wire::PROTOCOL)?;
    module.add(
        "ProtocolError",
        module.py().get_type::<errors::ProtocolError>(),
    )?;
    module.add_class::<session::Session>()?;
    module.add_class::<lease::Lease>()?;
    module.add_class::<dlpack::SlotTensor>()?;
    module.add_function(wrap_pyfunction!(socket_path, module)?)?;
    module.add_function(wrap_pyfunction!(state_dir, module)?)?;
    module.add_function(wrap_pyfunction!(clear_stale_socket, module)?)?;
    module.add_function(wrap_pyfunction!(unfenced, module)?)?;
    module.add_function(wrap_pyfunction!(fence, module)?)
}

/// Where the node's daemon listens; see `loaderd_wire::paths`.
#[pyfunction]
fn socket_path() -> PyResult<PathBuf> {
    loaderd_wire::paths::socket_path().map_err(errors::to_python)
}

/// The folder of the step log and the daemon's log.
#[pyfunction]
fn state_dir() -> PyResult<PathBuf> {
    loaderd_wire::paths::state_dir().map_err(errors::to_python)
}

/// Removes the socket file of a daemon that was killed; `True` when the path is free.
#[pyfunction]
fn clear_stale_socket(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    py.detach(|| loaderd_wire::socket::clear_stale(&path))
        .map_err(errors::to_python)
}

/// How many slots without tensors wait for `fence`, over all sessions.
#[pyfunction]
fn unfenced() -> usize {
    reaper::Reaper::known().map_or(0, reaper::Reaper::unfenced)
}

/// Has the GPU say when it is done with what it was given by now, for slots without tensors;
/// nothing while one of `streams` is being captured. Returns what the user should know, once.
///
/// Keeps the interpreter, so that no other thread of Python's begins a capture meanwhile.
#[pyfunction]
fn fence(streams: Vec<u64>) -> Option<String> {
    reaper::Reaper::known()?.fence(&streams)
}
