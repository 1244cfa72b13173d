//! The daemon's messages as Python's own objects.
//!
//! Enters: messages. Leaves: dicts, as `json.loads` would make them. It never judges what they say.

use loaderd_wire::message::Ready;
use pyo3::IntoPyObjectExt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use serde_json::Value;

/// What is told of a batch, beside its lease.
pub(crate) fn about<'py>(py: Python<'py>, ready: &Ready) -> PyResult<Bound<'py, PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item(intern!(py, "type"), intern!(py, "ready"))?;
    dict.set_item(intern!(py, "stream"), ready.stream)?;
    dict.set_item(intern!(py, "rows"), ready.rows)?;
    dict.set_item(intern!(py, "epoch"), ready.epoch)?;
    dict.set_item(intern!(py, "epoch_step"), ready.epoch_step)?;
    dict.set_item(intern!(py, "step"), ready.step)?;
    dict.set_item(intern!(py, "position"), ready.position)?;
    dict.set_item(intern!(py, "bad_rows"), ready.bad_rows)?;
    dict.set_item(intern!(py, "oversize"), ready.oversize)?;
    dict.set_item(intern!(py, "published_ns"), ready.published_ns)?;
    Ok(dict.into_any())
}

/// JSON as Python's own objects, as `json.loads` makes them.
pub(crate) fn plain<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(truth) => truth.into_bound_py_any(py)?,
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into_bound_py_any(py)?,
            (None, Some(number)) => number.into_bound_py_any(py)?,
            (None, None) => number.as_f64().into_bound_py_any(py)?,
        },
        Value::String(text) => text.into_bound_py_any(py)?,
        Value::Array(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(plain(py, value)?)?;
            }
            list.into_any()
        }
        Value::Object(fields) => {
            let dict = PyDict::new(py);
            for (name, value) in fields {
                dict.set_item(name, plain(py, value)?)?;
            }
            dict.into_any()
        }
    })
}
