//! The driver's functions and structs that we use, as cuda.h of CUDA 12 and 13 declares them.
//!
//! Names with `_v2` are those that the header's macros put in for the plain ones. `headers.py`
//! compares all of it with the header: a quoted name is the header's for what follows it.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};

use crate::library::functions;

/// What only the driver follows.
pub(crate) type Opaque = *mut c_void;
/// `CUcontext`
pub(crate) type Context = Opaque;
/// `CUstream`
pub(crate) type Stream = Opaque;
/// `CUevent`
pub(crate) type Event = Opaque;
/// `CUmodule`
pub(crate) type Module = Opaque;
/// `CUfunction`
pub(crate) type Function = Opaque;

functions! {
    /// What can be asked before cuInit, of any driver.
    struct Early {
        driver_get_version = "cuDriverGetVersion": fn(*mut c_int);
    }
}

functions! {
    /// cuda.h: each type below is the one declared there, with ints for its enums.
    struct Api {
        init = "cuInit": fn(c_uint);
        get_error_name = "cuGetErrorName": fn(c_int, *mut *const c_char);
        device_get_count = "cuDeviceGetCount": fn(*mut c_int);
        device_get = "cuDeviceGet": fn(*mut c_int, c_int);
        device_get_name = "cuDeviceGetName": fn(*mut c_char, c_int, c_int);
        device_total_mem = "cuDeviceTotalMem_v2": fn(*mut usize, c_int);
        device_get_attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
        primary_ctx_retain = "cuDevicePrimaryCtxRetain": fn(*mut Context, c_int);
        primary_ctx_release = "cuDevicePrimaryCtxRelease_v2": fn(c_int);
        ctx_push_current = "cuCtxPushCurrent_v2": fn(Context);
        ctx_pop_current = "cuCtxPopCurrent_v2": fn(*mut Context);
        stream_create = "cuStreamCreate": fn(*mut Stream, c_uint);
        stream_synchronize = "cuStreamSynchronize": fn(Stream);
        stream_destroy = "cuStreamDestroy_v2": fn(Stream);
        event_create = "cuEventCreate": fn(*mut Event, c_uint);
        event_record = "cuEventRecord": fn(Event, Stream);
        event_synchronize = "cuEventSynchronize": fn(Event);
        event_destroy = "cuEventDestroy_v2": fn(Event);
        module_load_data = "cuModuleLoadData": fn(*mut Module, *const c_void);
        module_unload = "cuModuleUnload": fn(Module);
        module_get_function = "cuModuleGetFunction": fn(*mut Function, Module, *const c_char);
        launch_kernel = "cuLaunchKernel":
            fn(
                Function, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Stream,
                *mut *mut c_void, *mut *mut c_void,
            );
        mem_host_register = "cuMemHostRegister_v2": fn(*mut c_void, usize, c_uint);
        mem_host_unregister = "cuMemHostUnregister": fn(*mut c_void);
        mem_host_get_device_pointer = "cuMemHostGetDevicePointer_v2":
            fn(*mut c_ulonglong, *mut c_void, c_uint);
        mem_alloc = "cuMemAlloc_v2": fn(*mut c_ulonglong, usize);
        mem_free = "cuMemFree_v2": fn(c_ulonglong);
        memset_d8_async = "cuMemsetD8Async": fn(c_ulonglong, c_uchar, usize, Stream);
        memcpy_htod_async = "cuMemcpyHtoDAsync_v2": fn(c_ulonglong, *const c_void, usize, Stream);
        memcpy_dtoh_async = "cuMemcpyDtoHAsync_v2": fn(*mut c_void, c_ulonglong, usize, Stream);
        mem_get_allocation_granularity = "cuMemGetAllocationGranularity":
            fn(*mut usize, *const AllocationProperties, c_int);
        mem_create = "cuMemCreate":
            fn(*mut c_ulonglong, usize, *const AllocationProperties, c_ulonglong);
        mem_release = "cuMemRelease": fn(c_ulonglong);
        mem_export_to_shareable_handle = "cuMemExportToShareableHandle":
            fn(*mut c_void, c_ulonglong, c_int, c_ulonglong);
    }
}

/// What can be asked of a device.
pub(crate) mod attribute {
    use super::c_int;

    /// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`
    pub(crate) const MULTIPROCESSOR_COUNT: c_int = 16;
    /// `CU_DEVICE_ATTRIBUTE_COMPUTE_MODE`
    pub(crate) const COMPUTE_MODE: c_int = 20;
    /// `CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT`
    pub(crate) const ASYNC_ENGINE_COUNT: c_int = 40;
    /// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`
    pub(crate) const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
    /// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`
    pub(crate) const COMPUTE_CAPABILITY_MINOR: c_int = 76;
    /// `CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED`
    pub(crate) const HOST_REGISTER_SUPPORTED: c_int = 99;
    /// `CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED`
    pub(crate) const VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: c_int = 102;
    /// `CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED`
    pub(crate) const HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED: c_int = 103;
}

/// Who may use a device.
pub(crate) mod compute_mode {
    use super::c_int;

    /// `CU_COMPUTEMODE_DEFAULT`
    pub(crate) const DEFAULT: c_int = 0;
    /// `CU_COMPUTEMODE_PROHIBITED`
    pub(crate) const PROHIBITED: c_int = 2;
    /// `CU_COMPUTEMODE_EXCLUSIVE_PROCESS`
    pub(crate) const EXCLUSIVE_PROCESS: c_int = 3;
}

/// Errors that have a mend of their own.
pub(crate) mod result {
    use super::c_int;

    /// `CUDA_ERROR_INVALID_VALUE`
    pub(crate) const INVALID_VALUE: c_int = 1;
    /// `CUDA_ERROR_OUT_OF_MEMORY`
    pub(crate) const OUT_OF_MEMORY: c_int = 2;
    /// `CUDA_ERROR_STUB_LIBRARY`
    pub(crate) const STUB_LIBRARY: c_int = 34;
    /// `CUDA_ERROR_DEVICE_UNAVAILABLE`
    pub(crate) const DEVICE_UNAVAILABLE: c_int = 46;
    /// `CUDA_ERROR_NO_DEVICE`
    pub(crate) const NO_DEVICE: c_int = 100;
    /// `CUDA_ERROR_NOT_PERMITTED`
    pub(crate) const NOT_PERMITTED: c_int = 800;
    /// `CUDA_ERROR_NOT_SUPPORTED`
    pub(crate) const NOT_SUPPORTED: c_int = 801;
    /// `CUDA_ERROR_SYSTEM_NOT_READY`
    pub(crate) const SYSTEM_NOT_READY: c_int = 802;
    /// `CUDA_ERROR_SYSTEM_DRIVER_MISMATCH`
    pub(crate) const SYSTEM_DRIVER_MISMATCH: c_int = 803;
    /// `CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE`
    pub(crate) const COMPAT_NOT_SUPPORTED_ON_DEVICE: c_int = 804;
    /// `CUDA_ERROR_MPS_CONNECTION_FAILED`, the first of six that MPS gives.
    pub(crate) const MPS_CONNECTION_FAILED: c_int = 805;
    /// `CUDA_ERROR_MPS_CLIENT_TERMINATED`, the last of them.
    pub(crate) const MPS_CLIENT_TERMINATED: c_int = 810;
    /// `CUDA_ERROR_UNKNOWN`
    pub(crate) const UNKNOWN: c_int = 999;
}

/// `CU_STREAM_NON_BLOCKING`: no waiting for the default stream.
pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_BLOCKING_SYNC`: whoever waits for it sleeps.
pub(crate) const EVENT_BLOCKING_SYNC: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`: it takes no time stamp.
pub(crate) const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CU_MEMHOSTREGISTER_DEVICEMAP`: with an address for the device.
pub(crate) const MEMHOSTREGISTER_DEVICEMAP: c_uint = 2;
/// `CU_MEMHOSTREGISTER_PORTABLE`: pinned for all contexts.
pub(crate) const MEMHOSTREGISTER_PORTABLE: c_uint = 1;
/// `CU_MEM_ALLOC_GRANULARITY_MINIMUM`
pub(crate) const GRANULARITY_MINIMUM: c_int = 0;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`
pub(crate) const HANDLE_TYPE_POSIX_FILE_DESCRIPTOR: c_int = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`: what all device memory is.
const ALLOCATION_TYPE_PINNED: c_int = 1;
/// `CU_MEM_LOCATION_TYPE_DEVICE`
const LOCATION_TYPE_DEVICE: c_int = 1;

/// `CUmemAllocationProp`; its members' names beside ours.
#[repr(C)]
pub(crate) struct AllocationProperties {
    kind: c_int,                   // `type`
    requested_handle_types: c_int, // `requestedHandleTypes`
    location_kind: c_int,          // `location.type`
    location_id: c_int,            // `location.id`
    win32: *mut c_void,            // `win32HandleMetaData`
    compression: c_uchar,          // `allocFlags.compressionType`
    gpu_direct_rdma: c_uchar,      // `allocFlags.gpuDirectRDMACapable`
    usage: u16,                    // `allocFlags.usage`
    reserved: [c_uchar; 4],        // `allocFlags.reserved`
}

impl AllocationProperties {
    /// Memory of a device, of a kind that can be exported as a file descriptor.
    pub(crate) fn exportable(device: c_int) -> AllocationProperties {
        AllocationProperties {
            kind: ALLOCATION_TYPE_PINNED,
            requested_handle_types: HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
            location_kind: LOCATION_TYPE_DEVICE,
            location_id: device,
            win32: std::ptr::null_mut(),
            compression: 0,
            gpu_direct_rdma: 0,
            usage: 0,
            reserved: [0; 4],
        }
    }
}
