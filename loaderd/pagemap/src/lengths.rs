//! How long payloads are: a sample that gives quantiles.
//!
//! Enters: lengths, one by one. Leaves: a few hundred of them in order. Bounded, and the same for
//! the same input.

/// Lengths kept while the rows stream by.
const SAMPLE_MAX: usize = 4096;
/// Steps between the shortest and the longest in what is stored.
const STEPS: usize = 256;

/// A reservoir of payload lengths (Vitter's algorithm R), with the exact extremes.
#[derive(Default)]
pub struct Lengths {
    sample: Vec<u32>,
    seen: u64,
    longest: u32,
    state: u64,
}

impl Lengths {
    /// One more.
    pub fn push(&mut self, length: u32) {
        self.seen += 1;
        self.longest = self.longest.max(length);
        if self.sample.len() < SAMPLE_MAX {
            self.sample.push(length);
            return;
        }
        let at = usize::try_from(self.next() % self.seen).unwrap_or(usize::MAX);
        if let Some(slot) = self.sample.get_mut(at) {
            *slot = length;
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014), from a fixed start.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `STEPS + 1` lengths in order, the last one the longest of all; none where none was seen.
    pub fn finish(mut self) -> Vec<u32> {
        if self.sample.is_empty() {
            return Vec::new();
        }
        self.sample.sort_unstable();
        let last = self.sample.len() - 1;
        let mut steps: Vec<u32> = (0..=STEPS).map(|i| self.sample[last * i / STEPS]).collect();
        steps[STEPS] = self.longest;
        steps
    }
}

/// The length that the share `q` of all payloads does not exceed; 0 where there are none.
pub(crate) fn quantile(steps: &[u32], q: f64) -> u32 {
    let Some(last) = steps.len().checked_sub(1) else {
        return 0;
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = (q.clamp(0.0, 1.0) * last as f64).ceil() as usize;
    steps[at.min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_many() {
        let mut lengths = Lengths::default();
        for i in 0..100_000_u32 {
            lengths.push(i.wrapping_mul(7919) % 100_000);
        }
        let steps = lengths.finish();
        assert_eq!(quantile(&steps, 1.0), 99_999);
        for (q, expected) in [(0.0, 0_u32), (0.5, 50_000), (0.9, 90_000)] {
            assert!(
                quantile(&steps, q).abs_diff(expected) < 3_000,
                "{q}: {}",
                quantile(&steps, q)
            );
        }
    }

    #[test]
    fn quantiles_of_few() {
        assert_eq!(quantile(&Lengths::default().finish(), 0.5), 0);
        let mut lengths = Lengths::default();
        for length in [30, 10, 20] {
            lengths.push(length);
        }
        let steps = lengths.finish();
        assert_eq!([0.0, 0.5, 1.0].map(|q| quantile(&steps, q)), [10, 20, 30]);
    }
}
