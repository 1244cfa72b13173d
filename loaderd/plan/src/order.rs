//! Order: which row stands at which position of an epoch, and the way back.
//!
//! Enters: a number of rows, a seed and an epoch. Leaves: a bijection of `[0, rows)`
//! onto itself. It never holds a list of rows: an order is 768 bytes of keys,
//! whatever its size, made in about two microseconds.
//!
//! The shuffle is swap-or-not (Hoang, Morris, Rogaway: "An enciphering scheme based
//! on a card shuffle", CRYPTO 2012): each round pairs `x` with `key − x mod rows` and
//! swaps the pair or leaves it, by one keyed bit of the larger of the two. Its domain
//! is exact, so no position is tried twice, and each round is its own inverse.

use std::hint::select_unpredictable;

use crate::draws::{Draws, Purpose};

/// Rounds of the shuffle.
///
/// A row has moved after r rounds but for a chance of 2⁻ʳ, and two neighbours have
/// parted but for as much; up to 6 rows, where the distribution over all permutations
/// can be computed, its distance from uniform shrinks by at least 5/8 a round (4 rows
/// are the slowest). The statistical tests in `order/uniformity.rs` are content
/// with 24 rounds. 48 leave a distance of 10⁻¹⁰ for tiny sizes, and a chance of 10⁻⁶
/// that any one of 10⁸ rows has kept a neighbour for lack of rounds.
const ROUNDS: usize = 48;

/// The order of one epoch: position ↔ row, both in `[0, rows)`. Cheap to make and to
/// copy about, of constant size, and safe to share between threads: it never changes.
#[derive(Debug, Clone)]
pub struct Order {
    rows: u64,
    /// `None` leaves every row in its place.
    rounds: Option<[Round; ROUNDS]>,
}

/// The keys of one round.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// The sum, modulo the number of rows, of the two rows of a pair.
    sum: u64,
    /// Decides, with the larger row of a pair, whether the pair swaps.
    mask: u64,
}

impl Order {
    /// Row i at position i.
    pub fn sequential(rows: u64) -> Order {
        Order { rows, rounds: None }
    }

    /// A shuffled order, equal for equal arguments, otherwise independent.
    pub fn shuffled(rows: u64, seed: u64, epoch: u64) -> Order {
        if rows < 2 {
            return Order::sequential(rows);
        }
        let mut draws = Draws::with_purpose(Purpose::Order, seed, epoch, rows, 0);
        let rounds = std::array::from_fn(|_| Round {
            sum: draws.below(rows),
            mask: draws.double_word(),
        });
        Order {
            rows,
            rounds: Some(rounds),
        }
    }

    /// The number of rows, and of positions.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The row at `position`. Asserts `position < rows`. About 0.4 µs at
    /// 2 GHz for any number of rows, without allocation.
    pub fn row_at(&self, position: u64) -> u64 {
        assert!(
            position < self.rows,
            "position {position} of {} rows",
            self.rows
        );
        self.rounds()
            .iter()
            .fold(position, |x, round| round.apply(self.rows, x))
    }

    /// The position of `row`, so that `row_at(position_of(row)) == row`. Asserts
    /// `row < rows`.
    pub fn position_of(&self, row: u64) -> u64 {
        assert!(row < self.rows, "row {row} of {} rows", self.rows);
        self.rounds()
            .iter()
            .rev()
            .fold(row, |x, round| round.apply(self.rows, x))
    }

    fn rounds(&self) -> &[Round] {
        self.rounds.as_ref().map_or(&[], |rounds| rounds.as_slice())
    }
}

impl Round {
    /// Where `x` goes in this round, and what comes to `x`. Nothing here may become a
    /// branch: no processor could predict it, and a row would take twice as long.
    #[inline]
    fn apply(&self, rows: u64, x: u64) -> u64 {
        // sum − x, and a borrow of `rows` where that is negative: never overflows.
        let (difference, negative) = self.sum.overflowing_sub(x);
        let partner = select_unpredictable(negative, difference.wrapping_add(rows), difference);
        let larger = select_unpredictable(partner > x, partner, x);
        select_unpredictable(coin(self.mask, larger), partner, x)
    }
}

/// One keyed bit: the highest of the SplitMix64 finaliser ("Mix13" of Stafford's
/// variants; Steele, Lea, Flood, OOPSLA 2014), whose last step would not touch it.
#[inline]
fn coin(mask: u64, x: u64) -> bool {
    let mut bits = x ^ mask;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits >> 63 == 1
}

#[cfg(test)]
mod uniformity;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every position has its own row, every row its own position.
    fn check_bijection(order: &Order) {
        let mut seen = vec![false; order.rows() as usize];
        for position in 0..order.rows() {
            let row = order.row_at(position);
            assert!(
                !std::mem::replace(&mut seen[row as usize], true),
                "row {row} twice"
            );
            assert_eq!(order.position_of(row), position);
        }
    }

    #[test]
    fn every_small_order_is_a_bijection() {
        for rows in 0..300 {
            check_bijection(&Order::sequential(rows));
            for epoch in 0..3 {
                check_bijection(&Order::shuffled(rows, 9, epoch));
            }
        }
        check_bijection(&Order::shuffled(100_003, 9, 0));
    }

    #[test]
    fn sequential_keeps_every_row_in_place() {
        let order = Order::sequential(u64::MAX);
        for position in [0, 1, 1 << 40, u64::MAX - 1] {
            assert_eq!(order.row_at(position), position);
            assert_eq!(order.position_of(position), position);
        }
    }

    #[test]
    #[should_panic(expected = "position 5 of 5 rows")]
    fn a_position_beyond_the_rows_is_our_bug() {
        Order::shuffled(5, 0, 0).row_at(5);
    }

    #[test]
    #[should_panic(expected = "row 0 of 0 rows")]
    fn a_row_of_an_empty_order_is_our_bug() {
        Order::shuffled(0, 0, 0).position_of(0);
    }

    #[test]
    fn an_order_can_be_shared_between_threads() {
        let order = Order::shuffled(1000, 1, 2);
        let alone: Vec<u64> = (0..1000).map(|position| order.row_at(position)).collect();
        let shared: Vec<u64> = std::thread::scope(|scope| {
            let halves = [0..500, 500..1000].map(|half| {
                let order = &order;
                scope.spawn(move || {
                    half.map(|position| order.row_at(position))
                        .collect::<Vec<u64>>()
                })
            });
            halves
                .into_iter()
                .flat_map(|half| half.join().unwrap())
                .collect()
        });
        assert_eq!(alone, shared);
    }

    /// Checkpoints in the field rest on these numbers, which a second implementation
    /// has confirmed. If this test fails, the change that made it fail is wrong.
    #[test]
    fn orders_never_change() {
        let check = |rows, seed, epoch, positions: &[u64], expected: &[u64]| {
            let order = Order::shuffled(rows, seed, epoch);
            let found: Vec<u64> = positions
                .iter()
                .map(|&position| order.row_at(position))
                .collect();
            assert_eq!(
                found, expected,
                "rows = {rows}, seed = {seed}, epoch = {epoch}"
            );
        };
        check(
            10,
            0,
            0,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[9, 4, 0, 5, 1, 8, 2, 6, 7, 3],
        );
        check(
            10,
            0,
            1,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[4, 1, 2, 0, 9, 6, 7, 3, 5, 8],
        );
        check(
            1_281_167,
            42,
            3,
            &[0, 1, 2, 1_281_166],
            &[1_162_539, 483_791, 1_166_080, 594_860],
        );
        check(
            100_000_000,
            u64::MAX,
            1 << 33,
            &[0, 1, 99_999_999],
            &[60_150_466, 30_715_870, 92_589_418],
        );
        check(
            u64::MAX,
            7,
            7,
            &[0, 1, u64::MAX - 1],
            &[
                1_403_824_733_784_656_841,
                14_182_679_306_118_577_836,
                5_550_076_306_567_100_206,
            ],
        );
    }

    proptest! {
        #[test]
        fn there_and_back(rows in 1u64.., seed: u64, epoch: u64, at: u64) {
            let order = Order::shuffled(rows, seed, epoch);
            let position = at % rows;
            let row = order.row_at(position);
            prop_assert!(row < rows);
            prop_assert_eq!(order.position_of(row), position);
            prop_assert_eq!(order.row_at(order.position_of(position)), position);
        }
    }
}
