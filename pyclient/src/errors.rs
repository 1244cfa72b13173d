//! Rust errors as Python exceptions.
//!
//! Enters: errors of the wire. Leaves: built-in exceptions that say what happened, for
//! `loaderd/session.py` to turn into what the user can act on.

use std::io;

use loaderd_wire::WireError;
use pyo3::create_exception;
use pyo3::exceptions::{
    PyConnectionResetError, PyOSError, PyRuntimeError, PyTimeoutError, PyValueError,
};
use pyo3::prelude::*;

create_exception!(
    _native,
    ProtocolError,
    PyRuntimeError,
    "What answered does not keep to loaderd's contract."
);

/// The built-in class that fits: `FileNotFoundError` and `ConnectionRefusedError` where
/// nobody listens, `ConnectionResetError` where the daemon is gone.
pub(crate) fn to_python(error: WireError) -> PyErr {
    let text = error.to_string();
    match error {
        WireError::Connect { source, .. } | WireError::Bind { source, .. } => {
            io::Error::new(source.kind(), text).into()
        }
        WireError::Closed => PyConnectionResetError::new_err(text),
        WireError::Timeout { .. } => PyTimeoutError::new_err(text),
        WireError::Garbage { .. } | WireError::SegmentForeign { .. } => {
            ProtocolError::new_err(text)
        }
        WireError::TooLarge { .. } | WireError::Encode(_) => PyValueError::new_err(text),
        _ => PyOSError::new_err(text),
    }
}
