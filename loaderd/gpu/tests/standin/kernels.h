/* Kernels of the stand-in for libcuda: the twin's functions by the kernels' names. Registered host
   memory has addresses of its own for the device: who takes the host's for them is found out. */

/* Added to a host address for the device. */
#define FOR_DEVICE (1ull << 60)

static const char *const NAMES[] = {"loaderd_weigh", "loaderd_finish", "loaderd_poison",
                                    "loaderd_verify"};

int cuModuleLoadData(void **module, const void *image) {
    must(current > 0, "no context is current");
    must(!memcmp(image, "\177ELF", 4) || strstr(image, ".version"), "neither cubin nor PTX");
    modules++;
    *module = &modules;
    return 0;
}

int cuModuleUnload(void *module) {
    must(current > 0 && module == &modules && modules > 0, "this is no module");
    modules--;
    return 0;
}

int cuModuleGetFunction(const char *const **function, void *module, const char *name) {
    must(module == &modules && modules > 0, "this is no module");
    for (int i = 0; i < 4; i++)
        if (!strcmp(NAMES[i], name)) {
            *function = &NAMES[i];
            return 0;
        }
    return 500;
}

static void run_weigh(struct work *work) {
    loaderd_twin_weigh((Image *)work->a, work->count, (u8 *)work->b);
}

static void run_finish(struct work *work) {
    Image *images = malloc(work->count * sizeof *images);
    memcpy(images, (Image *)work->a, work->count * sizeof *images);
    for (unsigned i = 0; i < work->count; i++) {
        must((images[i].out & FOR_DEVICE) != 0, "an image goes to the host's own address");
        images[i].out &= ~FOR_DEVICE;
    }
    loaderd_twin_finish(images, work->count, (u8 *)work->b, &work->batch, work->tiles);
    free(images);
}

static void run_poison(struct work *work) {
    loaderd_twin_poison((Picture *)work->a, work->count);
}

static void run_verify(struct work *work) {
    loaderd_twin_verify((Picture *)work->a, work->count, (u32 *)work->b);
}

int cuLaunchKernel(const char *const *function, unsigned x, unsigned y, unsigned z, unsigned threads,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void *stream,
                   void **arguments, void **extra) {
    static void (*const RUN[])(struct work *) = {run_weigh, run_finish, run_poison, run_verify};
    static const unsigned THREADS[] = {WEIGH_THREADS, FINISH_THREADS, POISON_THREADS,
                                       POISON_THREADS};
    long which = function - NAMES;
    must(current > 0 && which >= 0 && which < 4, "this is no function");
    must(x > 0 && y > 0 && z == 1 && threads_y == 1 && threads_z == 1, "another grid");
    must(threads == THREADS[which] && shared == 0 && !extra, "other blocks");
    must(which != 0 || x == 2, "two axes are weighed");
    must(which < 2 || x == POISON_BLOCKS, "other blocks for the poison");
    struct work work = {.run = RUN[which], .count = y, .tiles = x};
    work.a = *(unsigned long long *)arguments[0];
    if (which != 2)
        work.b = *(unsigned long long *)arguments[1];
    if (which == 1)
        work.batch = *(Batch *)arguments[2];
    return queue(stream, work);
}

int cuMemHostGetDevicePointer_v2(unsigned long long *address, void *start, unsigned flags) {
    must(current > 0 && registered > 0 && flags == 0, "nothing is registered");
    *address = (unsigned long long)(size_t)start + FOR_DEVICE;
    return 0;
}
