//! Slot bytes as DLPack capsules, for any framework, without a copy.
//!
//! Enters: a lease and a tensor's place in the slot. Leaves: capsules whose owner is the
//! lease. The structures are those of dlpack.h (github.com/dmlc/dlpack, version 1.0);
//! the protocol is "Python Specification for DLPack" in the same place. Tensors are on
//! the CPU, C-contiguous and writable.

use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use loaderd_wire::DType;
use pyo3::exceptions::{PyBufferError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::lease::Held;

/// `kDLCPU`, and the only device of that type.
const CPU: (i32, i32) = (1, 0);

const LEGACY_NAME: &CStr = c"dltensor";
const VERSIONED_NAME: &CStr = c"dltensor_versioned";

#[repr(C)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DlDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`: what consumers before DLPack 1.0 take.
#[repr(C)]
struct Legacy {
    tensor: DlTensor,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Legacy)>,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Versioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// All that a consumer gets hold of, in one allocation that its deleter frees.
struct Owner<M> {
    managed: M,
    /// `shape` and `strides` of the tensor point into this.
    _dimensions: Vec<i64>,
    /// The lease: gone when the owner is.
    _held: Arc<Held>,
}

/// A tensor in a slot, or in the memory of a batch too large for one: C-contiguous, on
/// the CPU.
#[pyclass(frozen, module = "loaderd._native")]
pub(crate) struct SlotTensor {
    held: Arc<Held>,
    data: *mut u8,
    dtype: DType,
    shape: Vec<i64>,
}

// SAFETY: the pointer is an address that is handed on and never followed here.
unsafe impl Send for SlotTensor {}
// SAFETY: as above.
unsafe impl Sync for SlotTensor {}

impl SlotTensor {
    /// `data` lies in memory that `held` keeps mapped, with room for the shape.
    pub(crate) fn new(held: Arc<Held>, data: *mut u8, dtype: DType, shape: Vec<i64>) -> SlotTensor {
        SlotTensor {
            held,
            data,
            dtype,
            shape,
        }
    }

    /// The description, with pointers into `dimensions`: sides first, then strides.
    fn describe(&self, dimensions: &mut [i64]) -> DlTensor {
        let (shape, strides) = dimensions.split_at_mut(dimensions.len() / 2);
        DlTensor {
            data: self.data.cast(),
            device_type: CPU.0,
            device_id: CPU.1,
            ndim: shape.len() as i32,
            dtype: data_type(self.dtype),
            shape: shape.as_mut_ptr(),
            strides: strides.as_mut_ptr(),
            byte_offset: 0,
        }
    }

    /// Sides, then strides in elements.
    fn dimensions(&self) -> Vec<i64> {
        let sides = &self.shape;
        let mut strides = vec![1i64; sides.len()];
        for axis in (1..sides.len()).rev() {
            strides[axis - 1] = strides[axis] * sides[axis];
        }
        sides.iter().copied().chain(strides).collect()
    }

    /// A capsule around a new owner.
    fn capsule<'py, M: Managed>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let mut dimensions = self.dimensions();
        let tensor = self.describe(&mut dimensions);
        let owner = Box::into_raw(Box::new(Owner {
            managed: M::new(tensor),
            _dimensions: dimensions,
            _held: Arc::clone(&self.held),
        }));
        // SAFETY: `owner` was just made, is not null, and nobody else has it. The pointers
        // into the dimensions stay right: a vector's contents do not move with it.
        let managed = unsafe {
            (*owner).managed.set_manager(owner.cast());
            NonNull::new_unchecked(&raw mut (*owner).managed)
        };
        // SAFETY: the pointer lives until the deleter runs: called by the consumer, who
        // renames the capsule when it takes over, or else by `M::drop_capsule`.
        let capsule = unsafe {
            PyCapsule::new_with_pointer_and_destructor(
                py,
                managed.cast(),
                M::NAME,
                Some(M::drop_capsule),
            )
        };
        if capsule.is_err() {
            // SAFETY: without a capsule, nobody else has the owner.
            drop(unsafe { Box::from_raw(owner) });
        }
        capsule
    }
}

#[pymethods]
impl SlotTensor {
    /// The capsule: "dltensor_versioned" where the consumer takes DLPack 1, else "dltensor".
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        if stream.is_some() {
            return Err(PyRuntimeError::new_err(
                "a tensor on the CPU has no stream to wait for",
            ));
        }
        if let Some(device) = dl_device
            && device != CPU
        {
            return Err(PyBufferError::new_err(format!(
                "the tensor is on the CPU {CPU:?}, not on device {device:?}: import it, then move it"
            )));
        }
        if copy == Some(true) {
            return Err(PyBufferError::new_err(
                "a slot is handed out without a copy only: import it, then clone it",
            ));
        }
        if max_version.is_some_and(|(major, _)| major >= 1) {
            self.capsule::<Versioned>(py)
        } else {
            self.capsule::<Legacy>(py)
        }
    }

    /// `(kDLCPU, 0)`.
    fn __dlpack_device__(&self) -> (i32, i32) {
        CPU
    }
}

/// The two structures a consumer may ask for.
trait Managed: Sized {
    const NAME: &'static CStr;
    fn new(tensor: DlTensor) -> Self;
    fn set_manager(&mut self, manager: *mut c_void);
    /// The capsule's destructor.
    unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject);
}

impl Managed for Legacy {
    const NAME: &'static CStr = LEGACY_NAME;

    fn new(tensor: DlTensor) -> Legacy {
        Legacy {
            tensor,
            manager: ptr::null_mut(),
            deleter: Some(delete_legacy),
        }
    }

    fn set_manager(&mut self, manager: *mut c_void) {
        self.manager = manager;
    }

    unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
        // SAFETY: the interpreter calls this with our capsule, whose pointer is what
        // `SlotTensor::capsule` put there.
        unsafe {
            if let Some(managed) = unconsumed(capsule, LEGACY_NAME) {
                delete_legacy(managed.cast().as_ptr());
            }
        }
    }
}

impl Managed for Versioned {
    const NAME: &'static CStr = VERSIONED_NAME;

    fn new(tensor: DlTensor) -> Versioned {
        Versioned {
            major: 1,
            minor: 0,
            manager: ptr::null_mut(),
            deleter: Some(delete_versioned),
            // Neither read-only nor a copy.
            flags: 0,
            tensor,
        }
    }

    fn set_manager(&mut self, manager: *mut c_void) {
        self.manager = manager;
    }

    unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
        // SAFETY: as for `Legacy`.
        unsafe {
            if let Some(managed) = unconsumed(capsule, VERSIONED_NAME) {
                delete_versioned(managed.cast().as_ptr());
            }
        }
    }
}

/// Called once, by the consumer, on any thread, with or without the interpreter.
unsafe extern "C" fn delete_legacy(managed: *mut Legacy) {
    // SAFETY: `manager` is the box that `SlotTensor::capsule` leaked, and the protocol
    // has the deleter called once.
    drop(unsafe { Box::from_raw((*managed).manager.cast::<Owner<Legacy>>()) });
}

/// As `delete_legacy`.
unsafe extern "C" fn delete_versioned(managed: *mut Versioned) {
    // SAFETY: as above.
    drop(unsafe { Box::from_raw((*managed).manager.cast::<Owner<Versioned>>()) });
}

/// The pointer of a capsule that no consumer has renamed, hence taken over.
///
/// # Safety
/// `capsule` is a capsule, and the caller is attached to the interpreter.
unsafe fn unconsumed(capsule: *mut ffi::PyObject, name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the caller's promise; neither call raises for a capsule that is valid.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, name.as_ptr()) == 0 {
            return None;
        }
        NonNull::new(ffi::PyCapsule_GetPointer(capsule, name.as_ptr()))
    }
}

/// `DLDataTypeCode` and width.
fn data_type(dtype: DType) -> DlDataType {
    const INT: u8 = 0;
    const UINT: u8 = 1;
    const FLOAT: u8 = 2;
    const BFLOAT: u8 = 4;
    const BOOL: u8 = 6;
    let code = match dtype {
        DType::Bool => BOOL,
        DType::Int8 | DType::Int16 | DType::Int32 | DType::Int64 => INT,
        DType::Uint8 | DType::Uint16 | DType::Uint32 | DType::Uint64 => UINT,
        DType::Bfloat16 => BFLOAT,
        DType::Float16 | DType::Float32 | DType::Float64 => FLOAT,
    };
    DlDataType {
        code,
        bits: (dtype.itemsize() * 8) as u8,
        lanes: 1,
    }
}
