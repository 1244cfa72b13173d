/* A stand-in for libcuda in a training process: two devices whose primary contexts a test
   activates, and whose work it queues and finishes. Events come when the work is finished that
   their context was given before they were recorded. What the driver forbids ends the process,
   or breaks the capture, as the manual says.

   REGISTER=N   what cuMemHostRegister answers
   COHERENT     the devices read all memory of the host, as Grace Hopper does
   OLD          cuCtxRecordEvent is missing, as before CUDA 12.5 */

#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef REGISTER
#define REGISTER 0
#endif

#define DEVICES 2
enum {
    RELAXED = 2,         /* `CU_STREAM_CAPTURE_MODE_RELAXED` */
    NOT_INITIALIZED = 3, /* `CUDA_ERROR_NOT_INITIALIZED` */
    NOT_READY = 600,     /* `CUDA_ERROR_NOT_READY` */
    UNSUPPORTED = 900,   /* `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED` */
    IMPLICIT = 906,      /* `CUDA_ERROR_STREAM_CAPTURE_IMPLICIT` */
};
#define STREAM_LEGACY ((void *)1)
#define STREAM_CAPTURED ((void *)0x77)

struct context {
    int active, retained;
    unsigned queued, finished;
};
struct event {
    struct context *context;
    unsigned after;
};

static struct context contexts[DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t change = PTHREAD_COND_INITIALIZER;
static int capturing, capture_is_blocking, capture_broken, error, refusal, gate_is_shut;
static int events, records;
static char *pinned;
static size_t pinned_bytes;
static pid_t owner;
static _Thread_local int depth, mode;
static _Thread_local struct context *stack[8];

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "stand-in libcuda: %s\n", what);
        abort();
    }
}

__attribute__((constructor)) static void loaded(void) {
    owner = getpid();
}

static struct context *current(void) {
    must(getpid() == owner, "called in a forked child");
    must(depth > 0, "no context is current");
    return stack[depth - 1];
}

/* A call that is "potentially unsafe" beside a capture in mode GLOBAL. */
static int unsafe_call(void) {
    if (!capturing || mode == RELAXED)
        return 0;
    capture_broken = 1;
    return UNSUPPORTED;
}

/* What a test does. */

void standin_activate(int device) {
    contexts[device].active = 1;
}

void standin_queue(int device) {
    pthread_mutex_lock(&lock);
    contexts[device].queued++;
    pthread_mutex_unlock(&lock);
}

void standin_finish(int device) {
    pthread_mutex_lock(&lock);
    contexts[device].finished = contexts[device].queued;
    pthread_cond_broadcast(&change);
    pthread_mutex_unlock(&lock);
}

void standin_break(int code) {
    pthread_mutex_lock(&lock);
    error = code;
    pthread_cond_broadcast(&change);
    pthread_mutex_unlock(&lock);
}

/* What cuCtxRecordEvent answers from now on, of a context that goes on. */
void standin_refuse(int code) {
    pthread_mutex_lock(&lock);
    refusal = code;
    pthread_mutex_unlock(&lock);
}

/* While it is shut, cuMemHostRegister does not come back. */
void standin_gate(int shut) {
    pthread_mutex_lock(&lock);
    gate_is_shut = shut;
    pthread_cond_broadcast(&change);
    pthread_mutex_unlock(&lock);
}

void standin_capture(int on, int blocking) {
    pthread_mutex_lock(&lock);
    capturing = on;
    capture_is_blocking = blocking;
    pthread_mutex_unlock(&lock);
}

int standin_capture_is_broken(void) {
    return capture_broken;
}

int standin_retained(void) {
    return contexts[0].retained + contexts[1].retained;
}

int standin_records(void) {
    return records;
}

int standin_events(void) {
    pthread_mutex_lock(&lock);
    int count = events;
    pthread_mutex_unlock(&lock);
    return count;
}

size_t standin_pinned_bytes(void) {
    pthread_mutex_lock(&lock);
    size_t bytes = pinned_bytes;
    pthread_mutex_unlock(&lock);
    return bytes;
}

int standin_is_pinned(size_t address) {
    return (char *)address >= pinned && (char *)address < pinned + pinned_bytes;
}

/* The driver. */

int cuGetErrorName(int code, const char **name) {
    switch (code) {
    case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return 0;
    case 201: *name = "CUDA_ERROR_INVALID_CONTEXT"; return 0;
    case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return 0;
    case 900: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; return 0;
    default: return 1;
    }
}

int cuDeviceGetCount(int *count) {
    *count = DEVICES;
    return getpid() == owner ? 0 : NOT_INITIALIZED;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal + 40;
    return 0;
}

int cuDeviceGetAttribute(int *value, int which, int device) {
    must(which == 100 && device >= 40, "not the attribute of coherent memory");
#ifdef COHERENT
    *value = 1;
#else
    *value = 0;
#endif
    return 0;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    must(device >= 40, "an ordinal was taken for a device");
    *flags = 0;
    *active = contexts[device - 40].active;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    must(getpid() == owner, "called in a forked child");
    must(contexts[device - 40].active, "a context was made");
    contexts[device - 40].retained++;
    *context = &contexts[device - 40];
    return 0;
}

int cuCtxPushCurrent_v2(void *context) {
    must(getpid() == owner, "called in a forked child");
    must(depth < 8, "too many contexts are current");
    stack[depth++] = context;
    return 0;
}

int cuCtxPopCurrent_v2(void **context) {
    *context = current();
    depth--;
    return 0;
}

int cuThreadExchangeStreamCaptureMode(int *wanted) {
    int before = mode;
    mode = *wanted;
    *wanted = before;
    return 0;
}

int cuStreamIsCapturing(void *stream, int *status) {
    current();
    must(stream == STREAM_LEGACY || stream == STREAM_CAPTURED, "this is no stream");
    *status = stream == STREAM_CAPTURED && capturing;
    return stream == STREAM_LEGACY && capturing && capture_is_blocking ? IMPLICIT : 0;
}

int cuMemHostRegister_v2(void *start, size_t bytes, unsigned flags) {
    current();
    must(flags == 1, "pinned for one context only");
    if (unsafe_call())
        return UNSUPPORTED;
    if (REGISTER)
        return REGISTER;
    /* The driver touches each page; a range that isn't mapped would end the test here. */
    for (size_t at = 0; at < bytes; at += 4096)
        (void)((volatile char *)start)[at];
    pthread_mutex_lock(&lock);
    must(pinned == NULL, "pinned twice");
    pinned = start;
    pinned_bytes = bytes;
    while (gate_is_shut)
        pthread_cond_wait(&change, &lock);
    pthread_mutex_unlock(&lock);
    return 0;
}

int cuMemHostUnregister(void *start) {
    current();
    if (unsafe_call())
        return UNSUPPORTED;
    must(start == pinned, "not the start of what was pinned");
    /* Still mapped. */
    for (size_t at = 0; at < pinned_bytes; at += 4096)
        (void)((volatile char *)start)[at];
    pthread_mutex_lock(&lock);
    pinned = NULL;
    pinned_bytes = 0;
    pthread_mutex_unlock(&lock);
    return 0;
}

int cuEventCreate(void **event, unsigned flags) {
    struct context *context = current();
    must(flags == 3, "who waits for an event must sleep");
    if (unsafe_call())
        return UNSUPPORTED;
    struct event *made = malloc(sizeof *made);
    *made = (struct event){context, 0};
    pthread_mutex_lock(&lock);
    events++;
    pthread_mutex_unlock(&lock);
    *event = made;
    return 0;
}

#ifndef OLD
int cuCtxRecordEvent(void *context, void *event) {
    struct event *recorded = event;
    must(recorded->context == context && current() == context, "an event of another context");
    pthread_mutex_lock(&lock);
    int code = error ? error : refusal;
    if (capturing) {
        capture_broken = 1;
        code = UNSUPPORTED;
    }
    recorded->after = recorded->context->queued;
    records++;
    pthread_mutex_unlock(&lock);
    return code;
}
#endif

int cuEventQuery(void *event) {
    struct event *asked = event;
    must(current() == asked->context, "an event of another context");
    pthread_mutex_lock(&lock);
    int code = error ? error : asked->context->finished < asked->after ? NOT_READY : 0;
    pthread_mutex_unlock(&lock);
    return code;
}

int cuCtxSynchronize(void) {
    struct context *context = current();
    pthread_mutex_lock(&lock);
    unsigned after = context->queued;
    if (capturing) {
        capture_broken = 1;
        pthread_mutex_unlock(&lock);
        return UNSUPPORTED;
    }
    while (context->finished < after && !error)
        pthread_cond_wait(&change, &lock);
    int code = error;
    pthread_mutex_unlock(&lock);
    return code;
}

int cuEventSynchronize(void *event) {
    struct event *awaited = event;
    must(current() == awaited->context, "an event of another context");
    if (unsafe_call())
        return UNSUPPORTED;
    pthread_mutex_lock(&lock);
    while (awaited->context->finished < awaited->after && !error)
        pthread_cond_wait(&change, &lock);
    int code = error;
    pthread_mutex_unlock(&lock);
    return code;
}

int cuEventDestroy_v2(void *event) {
    current();
    free(event);
    pthread_mutex_lock(&lock);
    events--;
    pthread_mutex_unlock(&lock);
    return 0;
}
