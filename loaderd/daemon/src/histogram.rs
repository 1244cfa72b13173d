//! Counts of durations in buckets that widen with them: 32 to every doubling.
//!
//! Enters: durations in ns, from any thread, without a lock. Leaves: quantiles that are
//! off by at most a 32nd, and bins to draw. It never allocates after it is made, and
//! keeps no order.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets in each doubling, as a power of two. Values below this many are exact.
const FINE_BITS: u32 = 5;
const FINE: u64 = 1 << FINE_BITS;
/// Enough for every `u64`.
const BUCKETS: usize = (64 - FINE_BITS as usize + 1) * FINE as usize;
/// Bins in each doubling, where buckets are put together for a picture.
const BINS: usize = 8;

/// Durations in ns. 15 KiB.
#[derive(Debug)]
pub struct Histogram {
    // Counters on their own: nothing is published through them, so Relaxed does. Whoever
    // reads while others record sees a moment that never was, off by what is under way.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

/// A part of the range, and how many durations fell into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bin {
    /// First duration of it, in ns.
    pub from_ns: u64,
    /// First duration beyond it, in ns.
    pub to_ns: u64,
    /// Durations in it.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, ns: u64) {
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(ns, Ordering::Relaxed);
        self.max.fetch_max(ns, Ordering::Relaxed);
    }

    /// Durations counted.
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }

    /// Mean in ns, exact; 0 where there is none.
    pub fn mean(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / self.count().max(1) as f64
    }

    /// The longest, exact.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// The duration that the part `q` (0 to 1) of all does not exceed, by nearest rank.
    /// `None` where so few were counted that the answer would be the longest alone.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 || (count as f64) * (1.0 - q) < 1.0 {
            return None;
        }
        let rank = ((count as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts().enumerate() {
            seen += count;
            if seen >= rank {
                let (from, to) = range_of(bucket);
                return Some((from + (to - from) / 2).min(self.max()));
            }
        }
        Some(self.max())
    }

    /// The counts, 8 bins to a doubling, from the first to the last that is not empty.
    pub fn bins(&self) -> Vec<Bin> {
        let counts: Vec<u64> = self.counts().collect();
        let together = FINE as usize / BINS;
        let mut bins: Vec<Bin> = counts
            .chunks(together)
            .enumerate()
            .map(|(number, counts)| Bin {
                from_ns: range_of(number * together).0,
                to_ns: range_of(number * together + together - 1).1,
                count: counts.iter().sum(),
            })
            .skip_while(|bin| bin.count == 0)
            .collect();
        bins.truncate(
            bins.iter()
                .rposition(|bin| bin.count > 0)
                .map_or(0, |at| at + 1),
        );
        bins
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < FINE {
        return ns as usize;
    }
    let shift = ns.ilog2() - FINE_BITS;
    ((u64::from(shift) + 1) * FINE + (ns >> shift) - FINE) as usize
}

/// First value of a bucket, and the first beyond it.
fn range_of(bucket: usize) -> (u64, u64) {
    let bucket = bucket as u64;
    if bucket < FINE {
        return (bucket, bucket + 1);
    }
    let shift = bucket / FINE - 1;
    let from = (FINE + bucket % FINE) << shift;
    (from, from.saturating_add(1 << shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random and are the same everywhere (Numerical Recipes' LCG).
    fn numbers(count: usize) -> Vec<u64> {
        let mut state = 1u64;
        (0..count)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state >> 11
            })
            .collect()
    }

    #[test]
    fn every_value_is_in_its_bucket() {
        let mut values: Vec<u64> = (0..3000).chain(numbers(3000)).collect();
        values.extend((0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        values.push(u64::MAX);
        for value in values {
            let (from, to) = range_of(bucket_of(value));
            assert!(from <= value && (value < to || to == u64::MAX), "{value}");
            assert!(
                (to - from) * FINE <= from.max(FINE),
                "{value}: {from}..{to}"
            );
        }
        for bucket in 1..BUCKETS {
            assert_eq!(range_of(bucket - 1).1, range_of(bucket).0);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let check = |values: Vec<u64>| {
            let histogram = Histogram::default();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            values.into_iter().for_each(|value| histogram.record(value));
            for q in [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999] {
                let rank = ((sorted.len() as f64 * q).ceil() as usize).max(1);
                let exact = sorted[rank - 1];
                let found = histogram.quantile(q).unwrap();
                assert!(
                    found.abs_diff(exact) * FINE <= exact.max(FINE),
                    "{q}: {found} {exact}"
                );
            }
            let mean = sorted.iter().sum::<u64>() as f64 / sorted.len() as f64;
            assert!((histogram.mean() - mean).abs() <= mean * 1e-9);
            assert_eq!(histogram.max(), *sorted.last().unwrap());
            assert_eq!(histogram.count(), sorted.len() as u64);
        };
        check((0..5000).collect());
        check(vec![7; 2000]);
        check(numbers(5000).into_iter().map(|n| n % 1_000_000).collect());
        // Over many doublings, as latencies are.
        check(numbers(5000).into_iter().map(|n| 1 << (n % 40)).collect());
    }

    #[test]
    fn a_quantile_needs_values_beyond_it() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        assert!(histogram.bins().is_empty());
        (1..=99).for_each(|ns| histogram.record(ns));
        assert_eq!(histogram.quantile(0.99), None);
        histogram.record(100);
        histogram.record(100);
        assert!(histogram.quantile(0.99).is_some());
        assert_eq!(histogram.quantile(0.999), None);
    }

    #[test]
    fn bins_hold_all_and_follow_each_other() {
        let histogram = Histogram::default();
        numbers(1000)
            .iter()
            .for_each(|&n| histogram.record(n % 100_000 + 50));
        let bins = histogram.bins();
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), 1000);
        assert!(bins.windows(2).all(|pair| pair[0].to_ns == pair[1].from_ns));
        assert!(bins[0].count > 0 && bins.last().unwrap().count > 0);
    }

    #[test]
    fn threads_lose_no_count() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let histogram = &histogram;
                scope.spawn(move || (0..10_000).for_each(|n| histogram.record(n * 7 + thread)));
            }
        });
        assert_eq!(histogram.count(), 40_000);
    }
}
