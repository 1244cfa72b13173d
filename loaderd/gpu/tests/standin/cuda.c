/* A stand-in for libcuda: one device that is host memory, for tests of everything that can go
   wrong around the driver. Streams are worked off by threads of their own, kernels are run by
   their twin, compiled in. It keeps count, and ends the process where something was left
   behind when the last context goes: nothing of a test is measured with it.

   VERSION=N      what cuDriverGetVersion says
   INIT=N         what cuInit answers
   WEDGED         cuInit never answers, and the process can't leave by way of the library
   REGISTER=N     what cuMemHostRegister answers
   EXPORT=N       what cuMemExportToShareableHandle answers
   RETAIN=N       what cuDevicePrimaryCtxRetain answers
   DEVICES=N      how many devices there are
   MODE=N         their compute mode
   CAPABILITY=N   their compute capability, major version
   SLOW=N         see stream.h
   NAMELESS       errors have no names
   LACKS_EXPORT   cuMemExportToShareableHandle is missing */

#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "twin.c"

#ifndef VERSION
#define VERSION 13000
#endif
#ifndef INIT
#define INIT 0
#endif
#ifndef REGISTER
#define REGISTER 0
#endif
#ifndef EXPORT
#define EXPORT 0
#endif
#ifndef RETAIN
#define RETAIN 0
#endif
#ifndef DEVICES
#define DEVICES 1
#endif
#ifndef CAPABILITY
#define CAPABILITY 9
#endif
#ifndef MODE
#define MODE 0
#endif

static _Atomic int retained, registered, allocated, streams, events, modules;
/* Bytes of device memory, and the most that there ever were. */
static _Atomic size_t bytes_now, bytes_most;
static _Thread_local int current;

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "stand-in libcuda: %s\n", what);
        abort();
    }
}

int cuDriverGetVersion(int *version) {
    *version = VERSION;
    return 0;
}

#ifdef WEDGED
__attribute__((destructor)) static void leave(void) {
    for (;;)
        pause();
}
#endif

int cuInit(unsigned flags) {
#ifdef WEDGED
    for (;;)
        pause();
#endif
    return flags ? 1 : INIT;
}

int cuGetErrorName(int code, const char **name) {
#ifdef NAMELESS
    (void)code, (void)name;
    return 1;
#else
    switch (code) {
    case 1: *name = "CUDA_ERROR_INVALID_VALUE"; return 0;
    case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return 0;
    case 46: *name = "CUDA_ERROR_DEVICE_UNAVAILABLE"; return 0;
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; return 0;
    case 801: *name = "CUDA_ERROR_NOT_SUPPORTED"; return 0;
    case 803: *name = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0;
    case 805: *name = "CUDA_ERROR_MPS_CONNECTION_FAILED"; return 0;
    default: *name = NULL; return 1;
    }
#endif
}

int cuDeviceGetCount(int *count) {
    *count = DEVICES;
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal + 40;
    return ordinal < DEVICES ? 0 : 101;
}

int cuDeviceGetName(char *name, int room, int device) {
    snprintf(name, room, "Stand-in %d", device - 40);
    return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = (size_t)(device - 39) << 30;
    return 0;
}

int cuDeviceGetAttribute(int *value, int which, int device) {
    must(device >= 40, "an ordinal was taken for a device");
    switch (which) {
    case 16: *value = 132; return 0;
    case 20: *value = MODE; return 0;
    case 40: *value = 3; return 0;
    case 75: *value = CAPABILITY; return 0;
    case 76: *value = 0; return 0;
    case 99: *value = REGISTER == 0; return 0;
    case 102: *value = 1; return 0;
    case 103: *value = EXPORT == 0; return 0;
    default: return 1;
    }
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    must(device >= 40, "an ordinal was taken for a device");
    if (RETAIN)
        return RETAIN;
    retained++;
    *context = &retained;
    return 0;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    must(retained > 0, "a context was released twice");
    if (--retained == 0) {
        must(current == 0, "a context is current and gone");
        must(registered == 0, "memory is registered and its context gone");
        must(allocated == 0, "memory is allocated and its context gone");
        must(streams == 0, "a stream is left and its context gone");
        must(events == 0, "an event is left and its context gone");
        must(modules == 0, "a module is loaded and its context gone");
    }
    return 0;
}

int cuCtxPushCurrent_v2(void *context) {
    must(context == &retained && retained > 0, "this is no context");
    current++;
    return 0;
}

int cuCtxPopCurrent_v2(void **context) {
    must(current > 0, "no context is current");
    current--;
    *context = &retained;
    return 0;
}

#include "stream.h"
#include "kernels.h"

int cuMemHostRegister_v2(void *start, size_t bytes, unsigned flags) {
    must(current > 0 && flags == 3, "registered without a context, for one only, or not mapped");
    if (REGISTER)
        return REGISTER;
    /* The driver touches each page; a range that isn't mapped would end the test here. */
    for (size_t at = 0; at < bytes; at += 4096)
        ((volatile char *)start)[at] = 1;
    registered++;
    return 0;
}

int cuMemHostUnregister(void *start) {
    must(current > 0 && registered > 0, "nothing is registered");
    ((volatile char *)start)[0] = 0;
    registered--;
    return 0;
}

struct allocation {
    size_t bytes;
    char before[248];
};

int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    must(current > 0, "no context is current");
    if (bytes == 0)
        return 1;
    if (broken)
        return broken;
    size_t room = (bytes + 255) / 256 * 256;
    struct allocation *made = aligned_alloc(256, sizeof *made + room);
    made->bytes = bytes;
    allocated++;
    bytes_now += bytes;
    if (bytes_now > bytes_most)
        bytes_most = bytes_now;
    *address = (unsigned long long)(size_t)(made + 1);
    return 0;
}

int cuMemFree_v2(unsigned long long address) {
    must(current > 0 && allocated > 0, "nothing is allocated");
    struct allocation *made = (struct allocation *)(size_t)address - 1;
    allocated--;
    bytes_now -= made->bytes;
    free(made);
    return 0;
}

static void run_set(struct work *work) {
    memset((void *)(size_t)work->a, (int)work->b, work->c);
}

static void run_copy(struct work *work) {
    memcpy((void *)(size_t)work->a, (void *)(size_t)work->b, work->c);
}

int cuMemsetD8Async(unsigned long long address, unsigned char value, size_t bytes,
                    void *stream) {
    must(current > 0, "no context is current");
    return queue(stream, (struct work){.run = run_set, .a = address, .b = value, .c = bytes});
}

int cuMemcpyDtoHAsync_v2(void *out, unsigned long long address, size_t bytes, void *stream) {
    must(current > 0, "no context is current");
    return queue(stream,
                 (struct work){.run = run_copy, .a = (size_t)out, .b = address, .c = bytes});
}

int cuMemcpyHtoDAsync_v2(unsigned long long address, const void *in, size_t bytes, void *stream) {
    must(current > 0, "no context is current");
    return queue(stream,
                 (struct work){.run = run_copy, .a = address, .b = (size_t)in, .c = bytes});
}

/* For the stand-in for nvJPEG: whether this thread has a context. */
int standin_is_current(void) {
    return current > 0;
}

/* For tests: from now on, every call that makes use of the device fails with this code. */
void standin_break(int code) {
    broken = code;
}

/* For tests: whether work that is queued is done. */
void standin_hang(int does) {
    hung = does;
}

/* For tests: how many ranges of host memory are registered. */
size_t standin_registered(void) {
    return registered;
}

/* For tests: the most bytes of device memory that were ever allocated at a time. */
size_t standin_bytes_most(void) {
    return bytes_most;
}

struct properties {
    int kind, handles, location_kind, location;
    void *win32;
    unsigned char flags[8];
};

static int is_exportable(const struct properties *wanted) {
    unsigned char none[8] = {0};
    return wanted->kind == 1 && wanted->handles == 1 && wanted->location_kind == 1 &&
           wanted->location >= 40 && !wanted->win32 && !memcmp(wanted->flags, none, 8);
}

int cuMemGetAllocationGranularity(size_t *bytes, const struct properties *wanted, int option) {
    must(is_exportable(wanted) && option == 0, "not the properties of exportable memory");
    *bytes = 2 << 20;
    return 0;
}

int cuMemCreate(unsigned long long *handle, size_t bytes, const struct properties *wanted,
                unsigned long long flags) {
    must(is_exportable(wanted) && bytes == 2 << 20 && flags == 0, "not exportable memory");
    allocated++;
    *handle = 77;
    return 0;
}

int cuMemRelease(unsigned long long handle) {
    must(handle == 77 && allocated > 0, "nothing is allocated");
    allocated--;
    return 0;
}

#ifndef LACKS_EXPORT
int cuMemExportToShareableHandle(void *out, unsigned long long handle, int kind,
                                 unsigned long long flags) {
    must(handle == 77 && kind == 1 && flags == 0, "exported in another way");
    if (EXPORT)
        return EXPORT;
    *(int *)out = memfd_create("stand-in", MFD_CLOEXEC);
    return 0;
}
#endif
