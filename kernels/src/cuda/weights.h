/* An axis of a resize -> fixed-point weights of every pixel that comes out.
 *
 * Enters: a box, the pixels it becomes, the filter. Leaves: a table: how many bits the weights
 * have, each pixel's run of taps, and the weights, tap by tap. Everything up to the last rounding
 * is f64, unfused, in the order in which the CPU's resizer computes it: the weights are the same
 * numbers. Never: a tap outside the view.
 *
 * Table: precision u32, unused u32, Run[count], i16[window * count], where the weight of tap t of
 * pixel i is at t * count + i, so that neighbouring threads read neighbouring weights.
 */
#ifndef LOADERD_WEIGHTS_H
#define LOADERD_WEIGHTS_H

#include "types.h"

/* Threads of a block, which makes one axis's table. */
#define WEIGH_THREADS 128

/* Most bits of a weight: 8 of a pixel's and 2 for overshoot are left of 32. */
#define PRECISION_MAX 21

/* The view's pixels [start, start + size) weigh something. */
typedef struct {
    u32 start;
    u32 size;
} Run;

/* One output pixel's filter. */
typedef struct {
    f64 centre;
    f64 shrink;
    f64 sum;
    Run run;
} Filter;

/* A table that can be read. */
typedef struct {
    u32 precision;
    const Run *runs;
    const i16 *weights;
} Table;

BOTH Table table_of(const Axis *axis, const u8 *tables)
{
    const u8 *at = tables + axis->table;
    Table table;
    table.precision = *(const u32 *)at;
    table.runs = (const Run *)(at + 8);
    table.weights = (const i16 *)(at + 8 + 8 * (u64)axis->count);
    return table;
}

/* The triangle, and Catmull-Rom's cubic (a = -0.5). */
BOTH f64 curve(u32 filter, f64 x)
{
    x = fabs(x);
    if (filter == BICUBIC) {
        if (x < 1.0)
            return (1.5 * x - 2.5) * x * x + 1.0;
        if (x < 2.0)
            return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
        return 0.0;
    }
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* How far a pixel lies from the middle of the filter, in units of the curve. */
BOTH f64 distance(const Filter *of, u32 pixel)
{
    return ((f64)pixel - of->centre) * of->shrink;
}

BOTH f64 weight_at(u32 filter, const Filter *of, u32 tap)
{
    return curve(filter, distance(of, of->run.start + tap)) / of->sum;
}

BOTH Filter filter_of(const Axis *axis, u32 filter, u32 index)
{
    f64 scale = (axis->start + axis->len - axis->start) / (f64)axis->count;
    f64 stretch = scale > 1.0 ? scale : 1.0;
    f64 reach = filter == BICUBIC ? 2.0 : 1.0;
    f64 radius = reach * stretch;
    f64 middle = axis->start + ((f64)index + 0.5) * scale;
    f64 low = floor(middle - radius);
    f64 high = ceil(middle + radius);
    u32 from = low > 0.0 ? (u32)low : 0;
    u32 to = high < (f64)axis->view ? (u32)high : axis->view;
    Filter of;
    of.centre = middle - 0.5;
    of.shrink = 1.0 / stretch;
    of.sum = 0.0;
    /* Taps beyond the curve's ends are left out. A zero within them stays, so that neither end of
     * a run ever lies before that of the pixel before it. */
    while (from < to && distance(&of, from) <= -reach)
        from++;
    while (from < to && distance(&of, to - 1) >= reach)
        to--;
    ROLLED
    for (u32 pixel = from; pixel < to; pixel++)
        of.sum += curve(filter, distance(&of, pixel));
    of.run.start = from;
    /* The window always suffices; descriptors that lie must not overrun it. */
    of.run.size = least(to - from, axis->window);
    return of;
}

/* The largest weight of the pixels that this thread has. */
BOTH f64 weigh_largest(const Axis *axis, u32 filter, u32 thread)
{
    f64 largest = 0.0;
    ROLLED
    for (u32 index = thread; index < axis->count; index += WEIGH_THREADS) {
        Filter of = filter_of(axis, filter, index);
        ROLLED
        for (u32 t = 0; t < of.run.size; t++) {
            f64 weight = weight_at(filter, &of, t);
            if (weight > largest)
                largest = weight;
        }
    }
    return largest;
}

/* As many bits as the largest weight leaves room for in an i16. */
BOTH u32 precision_for(f64 largest)
{
    u32 precision = 0;
    ROLLED
    while (precision < PRECISION_MAX && round(largest * (f64)(2u << precision)) < 32768.0)
        precision++;
    return precision;
}

/* Writes the table's part of this thread; `largest` has one entry a thread. */
BOTH void weigh_write(const Axis *axis, u32 filter, const f64 *largest, u8 *tables, u32 thread)
{
    u8 *at = tables + axis->table;
    Run *runs = (Run *)(at + 8);
    i16 *weights = (i16 *)(at + 8 + 8 * (u64)axis->count);
    f64 most = 0.0;
    u32 precision;
    ROLLED
    for (u32 other = 0; other < WEIGH_THREADS; other++)
        if (largest[other] > most)
            most = largest[other];
    precision = precision_for(most);
    if (thread == 0)
        *(u32 *)at = precision;
    ROLLED
    for (u32 index = thread; index < axis->count; index += WEIGH_THREADS) {
        Filter of = filter_of(axis, filter, index);
        runs[index] = of.run;
        ROLLED
        for (u32 t = 0; t < of.run.size; t++) {
            f64 weight = weight_at(filter, &of, t);
            weights[(u64)t * axis->count + index] = (i16)round(weight * (f64)(1u << precision));
        }
    }
}

#endif
