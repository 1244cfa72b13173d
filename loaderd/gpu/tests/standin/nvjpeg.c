/* A stand-in for libnvjpeg. By itself it reads nothing and decodes nothing: where a test asks for
   a decode, it writes WRITTEN to the destination's first three bytes, which are host memory.
   Connected to a decoder of the test's (standin_connect), it decodes whole pictures on the stream
   that it is given. It ends the process where a handle goes before what was made with it, and
   where a state is used while it decodes.

   MAJOR=N        its own major version
   BUILT_FOR=N    the CUDA version that it says it was built for
   CREATE=N       what nvjpegCreateEx answers
   HARDWARE=N     what nvjpegCreateEx answers for the engines
   DECODE=N       what a batch answers that was not begun anew after an error, and the first
   SKIPS          the second image of a batch is reported as a success, and left out
   UNSUPPORTED    no JPEG is supported
   ATTACH=N       what attaching a device buffer answers
   PHASE=N        what the second phase of a decode in phases answers
   OLD            it knows no flags
   LACKS_BATCHES  nvjpegDecodeBatchedEx is missing
   LIBCUDA=S      the file of the stand-in for libcuda: where it is loaded, its context must be
                  current in every call */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef MAJOR
#define MAJOR 13
#endif
#ifndef BUILT_FOR
#define BUILT_FOR 13
#endif
#ifndef CREATE
#define CREATE 0
#endif
#ifndef HARDWARE
#define HARDWARE 0
#endif
#ifndef DECODE
#define DECODE 0
#endif
#ifndef ATTACH
#define ATTACH 0
#endif
#ifndef PHASE
#define PHASE 0
#endif
#define WRITTEN 0x5a
/* In a picture's first comment: nvJPEG takes it for wider than it is. */
#define LAX "stand-in: not by the letter"
#define MISREAD "stand-in: misread me"

typedef struct {
    unsigned char *channel[4];
    size_t pitch[4];
} image;

struct thing {
    const char *kind;
    int batch, failed, phase;
    const unsigned char *data;
    size_t length;
    /* Pictures that are queued and not yet decoded. */
    _Atomic int busy;
    /* Of a state: the buffers that it has; of a buffer: whether a state has it. */
    struct thing *buffers[2];
    int is_attached;
};

static _Atomic int handles, things;
/* Of the latest handle: pictures with the comment LAX are refused. */
static _Atomic int is_strict;

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "stand-in libnvjpeg: %s\n", what);
        abort();
    }
}

static int make(void *handle, const char *kind, struct thing **out) {
    must(handle == &handles && handles > 0, "this is no handle");
    things++;
    *out = calloc(1, sizeof(struct thing));
    (*out)->kind = kind;
    return 0;
}

static int end(struct thing *thing, const char *kind) {
    must(thing && thing->kind == kind, "destroyed as something else");
    must(!thing->busy, "a state went while it decodes");
    must(!thing->is_attached, "a buffer went before the state that has it");
    for (int i = 0; i < 2; i++)
        if (thing->buffers[i])
            thing->buffers[i]->is_attached = 0;
    things--;
    free(thing);
    return 0;
}

/* The test's decoder: 0 is a success. Without a place for pixels it only looks at the file, and
   says SKIPPED where it will leave the picture out, or another number, which nvJPEG answers. */
typedef int decode_function(const unsigned char *data, size_t length, unsigned char *rgb,
                            size_t pitch);
typedef int host_function(void *stream, void (*call)(void *), void *data);

#define SKIPPED (-1)

static decode_function *decode;
static host_function *on_stream;
/* Whether pictures are decoded at once, whatever is queued before, as an H100's engines do it. */
static _Atomic int overtakes;

void standin_connect(decode_function *with, host_function *by) {
    decode = with;
    on_stream = by;
}

void standin_overtake(int does) {
    overtakes = does;
}

struct picture {
    struct thing *state;
    const unsigned char *data;
    size_t length, pitch;
    unsigned char *rgb;
};

static void decode_now(void *of) {
    struct picture *picture = of;
    must(decode(picture->data, picture->length, picture->rgb, picture->pitch) == 0,
         "a picture that looked well is none");
    picture->state->busy--;
    free(picture);
}

/* Queues a picture; answers what nvJPEG would. */
static int decode_later(struct thing *state, const unsigned char *data, size_t length,
                        const image *to, int is_by_engine, void *stream) {
    if (is_strict && length > 6 + sizeof LAX && !memcmp(data + 6, LAX, sizeof LAX - 1))
        return 3;
    int verdict = decode(data, length, NULL, 0);
    if (verdict)
        return verdict == SKIPPED ? 0 : verdict;
    struct picture *picture = malloc(sizeof *picture);
    *picture = (struct picture){state, data, length, to->pitch[0], to->channel[0]};
    state->busy++;
    if (is_by_engine && overtakes) {
        decode_now(picture);
    } else if (on_stream(stream, decode_now, picture)) {
        state->busy--;
        free(picture);
        return 6;
    }
    return 0;
}

/* Whoever calls has the driver's context current: of the driver's stand-in, where it is loaded. */
static void in_context(void) {
#ifdef LIBCUDA
    void *driver = dlopen(LIBCUDA, RTLD_NOW | RTLD_NOLOAD);
    if (!driver)
        return;
    int (*is_current)(void) = dlsym(driver, "standin_is_current");
    must(is_current && is_current(), "no context is current");
    dlclose(driver);
#endif
}

static const char STATE[] = "state", STREAM[] = "stream", PARAMS[] = "params",
                  DECODER[] = "decoder", PINNED[] = "pinned", DEVICE[] = "device";

int nvjpegGetProperty(int which, int *value) {
    *value = which == 0 ? MAJOR : which;
    return 0;
}

int nvjpegGetCudartProperty(int which, int *value) {
    *value = which == 0 ? BUILT_FOR : 0;
    return 0;
}

int nvjpegCreateEx(int backend, void *device, void *pinned, unsigned flags, void **handle) {
    in_context();
    must(!device && !pinned && (flags & ~36u) == 0, "unexpected allocators or flags");
    is_strict = (flags & 4) != 0;
#ifdef OLD
    if (flags)
        return 2;
#endif
    if (CREATE)
        return CREATE;
    if (backend == 3 && HARDWARE)
        return HARDWARE;
    handles++;
    *handle = &handles;
    return 0;
}

int nvjpegDestroy(void *handle) {
    in_context();
    must(handle == &handles && handles > 0, "a handle was destroyed twice");
    if (--handles == 0)
        must(things == 0, "a handle went before what was made with it");
    return 0;
}

int nvjpegGetHardwareDecoderInfo(void *handle, unsigned *engines, unsigned *cores) {
    in_context();
    (void)handle;
    *engines = 7;
    *cores = 1;
    return 0;
}

int nvjpegJpegStateCreate(void *handle, struct thing **state) {
    in_context();
    return make(handle, STATE, state);
}

int nvjpegJpegStateDestroy(struct thing *state) {
    in_context();
    return end(state, STATE);
}

int nvjpegDecodeBatchedInitialize(void *handle, struct thing *state, int batch, int threads,
                                  int format) {
    in_context();
    must(handle == &handles && state->kind == STATE, "no state");
    must(threads == 1 && format == 5, "threads of its own, or another format");
    must(!state->busy, "a state is set up while it decodes");
    state->batch = batch;
    state->failed = 0;
    return batch > 0 ? 0 : 2;
}

int nvjpegDecodeBatchedPreAllocate(void *handle, struct thing *state, int batch, int width,
                                   int height, int subsampling, int format) {
    in_context();
    must(handle == &handles && state->batch == batch && format == 5, "not set up for that");
    must(!decode || subsampling == 0, "too little for pictures of every subsampling");
    return width > 0 && height > 0 && subsampling >= 0 ? 0 : 2;
}

/* Batches that were asked for. */
static _Atomic size_t batches;

size_t standin_batches(void) {
    return batches;
}

static int batch(struct thing *state, const unsigned char *const *data, const size_t *lengths,
                 image *images, void *stream) {
    static int decodes;
    batches++;
    must(stream != NULL, "no stream");
    must(!state->busy, "a batch before the last one is done");
    must(!state->failed, "a batch after a failed one was not begun anew");
    if (DECODE && decodes++ == 0) {
        state->failed = 1;
        return DECODE;
    }
    for (int i = 0; i < state->batch; i++) {
        must(lengths[i] > 1 && data[i][0] == 0xff, "no JPEG");
        if (decode) {
            int status = decode_later(state, data[i], lengths[i], &images[i], 1, stream);
            state->failed = status;
            if (status)
                return status;
            continue;
        }
#ifdef SKIPS
        if (i == 1)
            continue;
#endif
        for (int channel = 0; channel < 3; channel++)
            images[i].channel[0][channel] = WRITTEN;
    }
    return 0;
}

int nvjpegDecodeBatched(void *handle, struct thing *state, const unsigned char *const *data,
                        const size_t *lengths, image *images, void *stream) {
    in_context();
    must(handle == &handles, "no handle");
    return batch(state, data, lengths, images, stream);
}

#ifndef LACKS_BATCHES
int nvjpegDecodeBatchedEx(void *handle, struct thing *state, const unsigned char *const *data,
                          const size_t *lengths, image *images, struct thing **params,
                          void *stream) {
    in_context();
    must(handle == &handles, "no handle");
    for (int i = 0; i < state->batch; i++)
        must(params[i]->kind == PARAMS, "no parameters");
    return batch(state, data, lengths, images, stream);
}
#endif

/* Of the test's decoder: nvJPEG's NVJPEG_STATUS_JPEG_NOT_SUPPORTED. */
#define NOT_SUPPORTED 4

static int answer(int *is_supported) {
#ifdef UNSUPPORTED
    *is_supported = 1;
#else
    *is_supported = 0;
#endif
    return 0;
}

int nvjpegDecodeBatchedSupported(void *handle, struct thing *stream, int *is_supported) {
    in_context();
    must(handle == &handles && stream->data, "nothing was parsed");
    answer(is_supported);
    if (decode && decode(stream->data, stream->length, NULL, 0) == NOT_SUPPORTED)
        *is_supported = 1;
    return 0;
}

int nvjpegDecodeBatchedSupportedEx(void *handle, struct thing *stream, struct thing *params,
                                   int *is_supported) {
    in_context();
    must(handle == &handles && stream->data && params->kind == PARAMS, "nothing was parsed");
    return answer(is_supported);
}

int nvjpegJpegStreamCreate(void *handle, struct thing **stream) {
    in_context();
    return make(handle, STREAM, stream);
}

int nvjpegJpegStreamDestroy(struct thing *stream) {
    in_context();
    return end(stream, STREAM);
}

int nvjpegJpegStreamParseHeader(void *handle, const unsigned char *data, size_t length,
                                struct thing *stream) {
    in_context();
    must(handle == &handles && stream->kind == STREAM, "no stream");
    if (length < 2 || data[0] != 0xff)
        return 3;
    stream->data = data;
    stream->length = length;
    return 0;
}

int nvjpegJpegStreamParse(void *handle, const unsigned char *data, size_t length, int metadata,
                          int copy, struct thing *stream) {
    in_context();
    must(metadata == 0 && copy == 0, "copies were asked for");
    return nvjpegJpegStreamParseHeader(handle, data, length, stream);
}

int nvjpegJpegStreamGetJpegEncoding(struct thing *stream, int *encoding) {
    in_context();
    must(stream->data != NULL, "nothing was parsed");
    *encoding = 0xc0;
    return 0;
}

int nvjpegJpegStreamGetFrameDimensions(struct thing *stream, unsigned *width,
                                       unsigned *height) {
    in_context();
    must(stream->data != NULL, "nothing was parsed");
    *width = 120;
    *height = 90;
    /* What the frame header says, where there is one. */
    for (size_t at = 2; at + 9 < stream->length && stream->data[at] == 0xff;) {
        const unsigned char *segment = stream->data + at;
        if (segment[1] >= 0xc0 && segment[1] <= 0xc2) {
            *height = segment[5] << 8 | segment[6];
            *width = segment[7] << 8 | segment[8];
            break;
        }
        at += 2 + (segment[2] << 8 | segment[3]);
    }
    if (stream->length > 6 + sizeof MISREAD && !memcmp(stream->data + 6, MISREAD, sizeof MISREAD - 1))
        ++*width;
    return 0;
}

int nvjpegJpegStreamGetComponentsNum(struct thing *stream, unsigned *components) {
    in_context();
    must(stream->data != NULL, "nothing was parsed");
    *components = 3;
    return 0;
}

int nvjpegJpegStreamGetChromaSubsampling(struct thing *stream, int *subsampling) {
    in_context();
    must(stream->data != NULL, "nothing was parsed");
    *subsampling = 2;
    return 0;
}

int nvjpegDecodeParamsCreate(void *handle, struct thing **params) {
    in_context();
    return make(handle, PARAMS, params);
}

int nvjpegDecodeParamsDestroy(struct thing *params) {
    in_context();
    return end(params, PARAMS);
}

int nvjpegDecodeParamsSetOutputFormat(struct thing *params, int format) {
    in_context();
    must(params->kind == PARAMS && format == 5, "another format");
    return 0;
}

int nvjpegDecodeParamsSetScaleFactor(struct thing *params, int scale) {
    in_context();
    must(params->kind == PARAMS, "no parameters");
    return scale >= 0 && scale <= 3 ? 0 : 2;
}

int nvjpegDecoderCreate(void *handle, int backend, struct thing **decoder) {
    in_context();
    must(backend == 2, "another backend");
    return make(handle, DECODER, decoder);
}

int nvjpegDecoderDestroy(struct thing *decoder) {
    in_context();
    return end(decoder, DECODER);
}

int nvjpegDecoderJpegSupported(struct thing *decoder, struct thing *stream,
                               struct thing *params, int *is_supported) {
    in_context();
    must(decoder->kind == DECODER && stream->data && params->kind == PARAMS, "not parsed");
    return answer(is_supported);
}

int nvjpegDecoderStateCreate(void *handle, struct thing *decoder, struct thing **state) {
    in_context();
    must(decoder->kind == DECODER, "no decoder");
    return make(handle, STATE, state);
}

int nvjpegBufferPinnedCreate(void *handle, void *allocator, struct thing **buffer) {
    in_context();
    must(!allocator, "an allocator");
    return make(handle, PINNED, buffer);
}

int nvjpegBufferPinnedDestroy(struct thing *buffer) {
    in_context();
    return end(buffer, PINNED);
}

int nvjpegBufferDeviceCreate(void *handle, void *allocator, struct thing **buffer) {
    in_context();
    must(!allocator, "an allocator");
    return make(handle, DEVICE, buffer);
}

int nvjpegBufferDeviceDestroy(struct thing *buffer) {
    in_context();
    return end(buffer, DEVICE);
}

int nvjpegStateAttachPinnedBuffer(struct thing *state, struct thing *buffer) {
    in_context();
    must(state->kind == STATE && buffer->kind == PINNED, "attached to something else");
    state->buffers[0] = buffer;
    buffer->is_attached = 1;
    return 0;
}

int nvjpegStateAttachDeviceBuffer(struct thing *state, struct thing *buffer) {
    in_context();
    must(state->kind == STATE && buffer->kind == DEVICE, "attached to something else");
    if (ATTACH)
        return ATTACH;
    state->buffers[1] = buffer;
    buffer->is_attached = 1;
    return 0;
}

int nvjpegDecodeJpegHost(void *handle, struct thing *decoder, struct thing *state,
                         struct thing *params, struct thing *stream) {
    in_context();
    must(handle == &handles && decoder->kind == DECODER, "no decoder");
    must(params->kind == PARAMS && stream->data, "nothing was parsed");
    must(!state->busy, "a picture before the last one is done");
    state->phase = 1;
    state->data = stream->data;
    state->length = stream->length;
    return 0;
}

int nvjpegDecodeJpegTransferToDevice(void *handle, struct thing *decoder, struct thing *state,
                                     struct thing *parsed, void *stream) {
    in_context();
    must(handle == &handles && decoder->kind == DECODER && parsed->data, "no decoder");
    must(state->phase == 1 && stream, "phases out of order");
    state->phase = 2;
    return PHASE;
}

int nvjpegDecodeJpegDevice(void *handle, struct thing *decoder, struct thing *state,
                           image *destination, void *stream) {
    in_context();
    must(handle == &handles && decoder->kind == DECODER, "no decoder");
    must(state->phase == 2 && stream, "phases out of order");
    if (decode)
        return decode_later(state, state->data, state->length, destination, 0, stream);
    for (int channel = 0; channel < 3; channel++)
        destination->channel[0][channel] = WRITTEN;
    return 0;
}
