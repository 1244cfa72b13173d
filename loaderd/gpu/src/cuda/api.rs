//! The driver's functions and structs that we use, as cuda.h of CUDA 12 and 13 declares them.
//!
//! Names with `_v2` are those that the header's macros put in for the plain ones.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};

use crate::library::functions;

/// `CUcontext`, `CUstream`, `CUevent`, `CUmodule`, `CUfunction`: pointers that only the driver follows.
pub(crate) type Opaque = *mut c_void;

functions! {
    /// What can be asked before cuInit, of any driver.
    struct Early {
        driver_get_version = "cuDriverGetVersion": fn(*mut c_int);
    }
}

functions! {
    /// cuda.h: each type below is the one declared there; `CUresult` is an int to us.
    struct Api {
        init = "cuInit": fn(c_uint);
        get_error_name = "cuGetErrorName": fn(c_int, *mut *const c_char);
        device_get_count = "cuDeviceGetCount": fn(*mut c_int);
        device_get = "cuDeviceGet": fn(*mut c_int, c_int);
        device_get_name = "cuDeviceGetName": fn(*mut c_char, c_int, c_int);
        device_total_mem = "cuDeviceTotalMem_v2": fn(*mut usize, c_int);
        device_get_attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
        primary_ctx_retain = "cuDevicePrimaryCtxRetain": fn(*mut Opaque, c_int);
        primary_ctx_release = "cuDevicePrimaryCtxRelease_v2": fn(c_int);
        ctx_push_current = "cuCtxPushCurrent_v2": fn(Opaque);
        ctx_pop_current = "cuCtxPopCurrent_v2": fn(*mut Opaque);
        stream_create = "cuStreamCreate": fn(*mut Opaque, c_uint);
        stream_synchronize = "cuStreamSynchronize": fn(Opaque);
        stream_destroy = "cuStreamDestroy_v2": fn(Opaque);
        event_create = "cuEventCreate": fn(*mut Opaque, c_uint);
        event_record = "cuEventRecord": fn(Opaque, Opaque);
        event_synchronize = "cuEventSynchronize": fn(Opaque);
        event_destroy = "cuEventDestroy_v2": fn(Opaque);
        module_load_data = "cuModuleLoadData": fn(*mut Opaque, *const c_void);
        module_unload = "cuModuleUnload": fn(Opaque);
        module_get_function = "cuModuleGetFunction": fn(*mut Opaque, Opaque, *const c_char);
        launch_kernel = "cuLaunchKernel":
            fn(
                Opaque, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Opaque,
                *mut *mut c_void, *mut *mut c_void,
            );
        mem_host_register = "cuMemHostRegister_v2": fn(*mut c_void, usize, c_uint);
        mem_host_unregister = "cuMemHostUnregister": fn(*mut c_void);
        mem_host_get_device_pointer = "cuMemHostGetDevicePointer_v2":
            fn(*mut c_ulonglong, *mut c_void, c_uint);
        mem_alloc = "cuMemAlloc_v2": fn(*mut c_ulonglong, usize);
        mem_free = "cuMemFree_v2": fn(c_ulonglong);
        memset_d8_async = "cuMemsetD8Async": fn(c_ulonglong, c_uchar, usize, Opaque);
        memcpy_htod_async = "cuMemcpyHtoDAsync_v2": fn(c_ulonglong, *const c_void, usize, Opaque);
        memcpy_dtoh_async = "cuMemcpyDtoHAsync_v2": fn(*mut c_void, c_ulonglong, usize, Opaque);
        mem_get_allocation_granularity = "cuMemGetAllocationGranularity":
            fn(*mut usize, *const AllocationProperties, c_int);
        mem_create = "cuMemCreate":
            fn(*mut c_ulonglong, usize, *const AllocationProperties, c_ulonglong);
        mem_release = "cuMemRelease": fn(c_ulonglong);
        mem_export_to_shareable_handle = "cuMemExportToShareableHandle":
            fn(*mut c_void, c_ulonglong, c_int, c_ulonglong);
    }
}

/// `CUdevice_attribute`.
pub(crate) mod attribute {
    use super::c_int;

    pub(crate) const MULTIPROCESSOR_COUNT: c_int = 16;
    pub(crate) const COMPUTE_MODE: c_int = 20;
    pub(crate) const ASYNC_ENGINE_COUNT: c_int = 40;
    pub(crate) const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
    pub(crate) const COMPUTE_CAPABILITY_MINOR: c_int = 76;
    pub(crate) const HOST_REGISTER_SUPPORTED: c_int = 99;
    pub(crate) const VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: c_int = 102;
    pub(crate) const HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED: c_int = 103;
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
/// `CU_MEM_ALLOC_GRANULARITY_MINIMUM`.
pub(crate) const GRANULARITY_MINIMUM: c_int = 0;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
pub(crate) const HANDLE_TYPE_POSIX_FILE_DESCRIPTOR: c_int = 1;

/// `CUmemAllocationProp`.
#[repr(C)]
pub(crate) struct AllocationProperties {
    kind: c_int,
    requested_handle_types: c_int,
    location_kind: c_int,
    location_id: c_int,
    win32: *mut c_void,
    compression: u8,
    gpu_direct_rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

impl AllocationProperties {
    /// Memory of a device, of a kind that can be exported as a file descriptor.
    pub(crate) fn exportable(device: c_int) -> AllocationProperties {
        AllocationProperties {
            // CU_MEM_ALLOCATION_TYPE_PINNED, the only kind of device memory there is.
            kind: 1,
            requested_handle_types: HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
            // CU_MEM_LOCATION_TYPE_DEVICE.
            location_kind: 1,
            location_id: device,
            win32: std::ptr::null_mut(),
            compression: 0,
            gpu_direct_rdma: 0,
            usage: 0,
            reserved: [0; 4],
        }
    }
}
