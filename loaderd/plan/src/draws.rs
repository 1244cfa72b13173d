//! Random numbers that need no state: a counter-based generator.
//!
//! Enters: seed, epoch, global position, and a stream or an attempt. Leaves: 32-bit
//! draws, or the row that stands in for a bad sample. Equal inputs give equal draws
//! on every thread, rank, machine and restart; nothing here is fit for cryptography,
//! and nothing reads the clock or the system's generator.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011), checked against the known-answer vectors
//! that its authors publish with Random123. Its 64-bit key cannot hold both seed and
//! epoch, so one block keyed by the seed turns (epoch, purpose) into the key of the
//! stream: whatever is drawn for one purpose is unrelated to what another draws.

/// Multipliers of the Philox round.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key grows by between rounds: golden ratio, and √3 − 1.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const PHILOX_ROUNDS: usize = 10;

/// What draws are made for. The numbers are part of every plan ever made: they must
/// never change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Keys of the shuffled order.
    Order = 1,
    /// Augmentation of one sample.
    Augment = 2,
    /// Rows that stand in for bad samples.
    Replace = 3,
}

/// An endless sequence of uniform 32-bit draws that belongs to one sample: the same
/// for equal (seed, epoch, position, stream), unrelated for any other. `next` never
/// returns `None`. A sequence repeats after 2³⁴ draws.
#[derive(Debug, Clone)]
pub struct Draws {
    key: [u32; 2],
    /// Position (low, high), stream, block.
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Draws {
    /// The draws for the sample at global position `position` of an epoch. `stream`
    /// separates uses within one sample, one number per column or transform.
    pub fn new(seed: u64, epoch: u64, position: u64, stream: u32) -> Draws {
        Draws::with_purpose(Purpose::Augment, seed, epoch, position, stream)
    }

    pub(crate) fn with_purpose(
        purpose: Purpose,
        seed: u64,
        epoch: u64,
        position: u64,
        stream: u32,
    ) -> Draws {
        let [epoch_low, epoch_high] = words(epoch);
        let [key_low, key_high, ..] =
            philox([epoch_low, epoch_high, purpose as u32, 0], words(seed));
        let [position_low, position_high] = words(position);
        Draws {
            key: [key_low, key_high],
            counter: [position_low, position_high, stream, 0],
            block: [0; 4],
            used: 4,
        }
    }

    pub(crate) fn word(&mut self) -> u32 {
        if self.used == self.block.len() {
            self.block = philox(self.counter, self.key);
            self.counter[3] = self.counter[3].wrapping_add(1);
            self.used = 0;
        }
        let word = self.block[self.used];
        self.used += 1;
        word
    }

    /// Two words, the low one drawn first.
    pub(crate) fn double_word(&mut self) -> u64 {
        let low = u64::from(self.word());
        low | u64::from(self.word()) << 32
    }

    /// A number of `[0, bound)`, each equally likely (Lemire: "Fast random integer
    /// generation in an interval", 2019). Asserts `bound > 0`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a draw below 0 was asked for");
        loop {
            let product = u128::from(self.double_word()) * u128::from(bound);
            let low = product as u64;
            // The 2⁶⁴ mod `bound` lowest products would make some results likelier.
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

impl Iterator for Draws {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        Some(self.word())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}

/// The row, of `[0, rows)`, that stands in for the bad sample at global position
/// `position`. Uniform over all rows, so it may name the bad row again or another
/// bad one: the caller then asks with the next `attempt`, a bounded number of times.
///
/// Asserts `rows > 0`.
pub fn replacement(rows: u64, seed: u64, epoch: u64, position: u64, attempt: u32) -> u64 {
    Draws::with_purpose(Purpose::Replace, seed, epoch, position, attempt).below(rows)
}

fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// One block of Philox4x32-10.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..PHILOX_ROUNDS {
        if round > 0 {
            key = [
                key[0].wrapping_add(KEY_STEPS[0]),
                key[1].wrapping_add(KEY_STEPS[1]),
            ];
        }
        let [low_0, high_0] = words(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let [low_1, high_1] = words(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [
            high_1 ^ counter[1] ^ key[0],
            low_1,
            high_0 ^ counter[3] ^ key[1],
            low_0,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::chi_square_z;
    use proptest::prelude::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // Random123, `kat_vectors`, lines "philox4x32 10".
        let check = |counter, key, expected| assert_eq!(philox(counter, key), expected);
        check(
            [0; 4],
            [0; 2],
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
        );
        check(
            [u32::MAX; 4],
            [u32::MAX; 2],
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
        );
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    #[test]
    fn every_input_changes_the_draws() {
        let first = |seed, epoch, position, stream| {
            let mut draws = Draws::new(seed, epoch, position, stream);
            [draws.word(), draws.word(), draws.word(), draws.word()]
        };
        let high = 1 << 32;
        let all = [
            first(0, 0, 0, 0),
            first(1, 0, 0, 0),
            first(high, 0, 0, 0),
            first(0, 1, 0, 0),
            first(0, high, 0, 0),
            first(0, 0, 1, 0),
            first(0, 0, high, 0),
            first(0, 0, 0, 1),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn draws_of_a_sample_do_not_repeat_its_first_block() {
        let draws: Vec<u32> = Draws::new(3, 1, 4, 1).take(64).collect();
        for block in draws.chunks(4).skip(1) {
            assert_ne!(block, &draws[..4]);
        }
    }

    #[test]
    fn first_draws_of_neighbouring_samples_are_uniform() {
        let mut bytes = [0u64; 256];
        for position in 0..200_000 {
            bytes[(Draws::new(7, 2, position, 0).word() >> 24) as usize] += 1;
        }
        let z = chi_square_z(&bytes, 255.0, 1.0);
        assert!(z.abs() < 4.0, "z = {z}");
    }

    #[test]
    fn replacements_are_uniform() {
        // The last number of rows is the hardest one: unless a quarter of the draws is
        // made again, multiples of 3 come up twice as often as other rows.
        for (rows, cells) in [(2, 2), (3, 3), (1000, 250), (3 << 62, 3)] {
            let mut by_size = vec![0u64; cells as usize];
            let mut by_remainder = by_size.clone();
            for position in 0..100_000 {
                for attempt in 0..2 {
                    let row = replacement(rows, 11, 5, position, attempt);
                    by_size[(u128::from(row) * u128::from(cells) / u128::from(rows)) as usize] += 1;
                    by_remainder[(row % cells) as usize] += 1;
                }
            }
            for counts in [by_size, by_remainder] {
                let z = chi_square_z(&counts, cells as f64 - 1.0, 1.0);
                assert!(z.abs() < 4.0, "{rows} rows: z = {z}");
            }
        }
    }

    #[test]
    fn draws_never_change() {
        let draws: Vec<u32> = Draws::new(42, 3, 1_000_000, 2).take(6).collect();
        assert_eq!(
            draws,
            [
                2_073_890_390,
                1_734_355_415,
                873_413_004,
                861_194_707,
                4_181_331_295,
                2_221_932_185
            ]
        );
        let rows: Vec<u64> = (0..4)
            .map(|attempt| replacement(1_281_167, 42, 3, 99, attempt))
            .collect();
        assert_eq!(rows, [1_097_277, 574_215, 1_143_390, 191_071]);
    }

    proptest! {
        #[test]
        fn replacements_stay_in_bounds(rows in 1u64.., seed: u64, epoch: u64, position: u64, attempt: u32) {
            let row = replacement(rows, seed, epoch, position, attempt);
            prop_assert!(row < rows);
            prop_assert_eq!(row, replacement(rows, seed, epoch, position, attempt));
        }
    }
}
