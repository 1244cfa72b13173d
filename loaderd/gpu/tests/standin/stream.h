/* Streams of the stand-in for libcuda: queues that a thread of their own works off, in order, as a
   device does: who does not wait for it finds the bytes of before.

   SLOW=N   microseconds before each piece of work begins */

#ifndef SLOW
#define SLOW 0
#endif

#include <pthread.h>

struct work {
    void (*run)(struct work *);
    struct work *next;
    unsigned long long a, b, c;
    unsigned count, tiles;
    void (*call)(void *);
    void *data;
    Batch batch;
};

struct stream {
    const char *kind;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct work *first, **last;
    unsigned long long queued, done;
    int ends;
};

struct event {
    const char *kind;
    struct stream *stream;
    unsigned long long at;
};

static const char STREAM[] = "stream", EVENT[] = "event";

/* Whether work is kept waiting, until the test lets it go. */
static _Atomic int hung;

/* What every call answers once the device is broken. */
static _Atomic int broken;

static void *work_off(void *of) {
    struct stream *stream = of;
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        while (!stream->first && !stream->ends)
            pthread_cond_wait(&stream->changed, &stream->lock);
        struct work *work = stream->first;
        if (!work)
            break;
        stream->first = work->next;
        if (!stream->first)
            stream->last = &stream->first;
        pthread_mutex_unlock(&stream->lock);
        while (hung)
            usleep(1000);
        if (SLOW)
            usleep(SLOW);
        if (!broken || work->call)
            work->run(work);
        free(work);
        pthread_mutex_lock(&stream->lock);
        stream->done++;
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

static struct stream *stream_of(void *pointer) {
    struct stream *stream = pointer;
    must(stream && stream->kind == STREAM, "this is no stream");
    return stream;
}

static int queue(void *on, struct work work) {
    struct stream *stream = stream_of(on);
    if (broken)
        return broken;
    struct work *copy = malloc(sizeof work);
    *copy = work;
    copy->next = NULL;
    pthread_mutex_lock(&stream->lock);
    *stream->last = copy;
    stream->last = &copy->next;
    stream->queued++;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return 0;
}

static void wait_until(struct stream *stream, unsigned long long at) {
    pthread_mutex_lock(&stream->lock);
    while (stream->done < at)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
}

static unsigned long long queued_on(struct stream *stream) {
    pthread_mutex_lock(&stream->lock);
    unsigned long long queued = stream->queued;
    pthread_mutex_unlock(&stream->lock);
    return queued;
}

int cuStreamCreate(void **out, unsigned flags) {
    must(current > 0, "no context is current");
    must(flags == 1, "streams must not wait for the default one");
    struct stream *stream = calloc(1, sizeof *stream);
    stream->kind = STREAM;
    stream->last = &stream->first;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    must(pthread_create(&stream->thread, NULL, work_off, stream) == 0, "no thread");
    streams++;
    *out = stream;
    return 0;
}

int cuStreamSynchronize(void *on) {
    must(current > 0, "no context is current");
    struct stream *stream = stream_of(on);
    wait_until(stream, queued_on(stream));
    return broken;
}

int cuStreamDestroy_v2(void *on) {
    struct stream *stream = stream_of(on);
    must(current > 0 && streams > 0, "no context is current");
    pthread_mutex_lock(&stream->lock);
    stream->ends = 1;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->thread, NULL);
    streams--;
    stream->kind = NULL;
    free(stream);
    return 0;
}

int cuEventCreate(struct event **out, unsigned flags) {
    must(current > 0, "no context is current");
    must(flags == 3, "events must let their waiters sleep, and take no time");
    events++;
    *out = calloc(1, sizeof **out);
    (*out)->kind = EVENT;
    return 0;
}

int cuEventRecord(struct event *event, void *on) {
    must(current > 0 && event->kind == EVENT, "this is no event");
    if (broken)
        return broken;
    event->stream = stream_of(on);
    event->at = queued_on(event->stream);
    return 0;
}

int cuEventSynchronize(struct event *event) {
    must(current > 0 && event->kind == EVENT && event->stream, "this event was not recorded");
    wait_until(event->stream, event->at);
    return broken;
}

int cuEventDestroy_v2(struct event *event) {
    must(current > 0 && event->kind == EVENT && events > 0, "this is no event");
    events--;
    event->kind = NULL;
    free(event);
    return 0;
}

static void run_call(struct work *work) { work->call(work->data); }

/* Work of the stand-in for nvJPEG. */
int cuLaunchHostFunc(void *on, void (*call)(void *), void *data) {
    return queue(on, (struct work){.run = run_call, .call = call, .data = data});
}
