//! Is a shuffled order uniform? An exact answer for tiny sizes, statistical ones for
//! the keyed shuffle as it is, and proof that each test can say no.
//!
//! Enters: a number of rounds. Leaves: a distance, or z as in `statistics`. Compiled
//! for tests only.

use std::collections::HashMap;

use super::{Order, ROUNDS};
use crate::statistics::{chi_square_z, poisson_z};

/// An order that stops after the first rounds.
struct Shortened {
    order: Order,
    rounds: usize,
}

impl Shortened {
    fn new(rows: u64, seed: u64, epoch: u64, rounds: usize) -> Shortened {
        let order = Order::shuffled(rows, seed, epoch);
        Shortened { order, rounds }
    }

    fn row_at(&self, position: u64) -> u64 {
        let rounds = &self.order.rounds()[..self.rounds];
        rounds
            .iter()
            .fold(position, |x, round| round.apply(self.order.rows, x))
    }
}

/// Each test with a number of rounds that it rejects for sure: z is above 10 there,
/// and below 4 for the order as it is, and for one of half the rounds.
#[test]
fn statistical_tests_accept_the_order_and_reject_fewer_rounds() {
    type Test = fn(usize) -> f64;
    let tests: [(&str, usize, Test); 10] = [
        ("all permutations of 3 rows", 4, |r| permutations(3, r)),
        ("all permutations of 4 rows", 6, |r| permutations(4, r)),
        ("all permutations of 5 rows", 6, |r| permutations(5, r)),
        ("places over epochs", 6, |r| places(|i| (0, i), r)),
        ("places over seeds", 6, |r| places(|i| (i, 0), r)),
        ("displacement", 16, displacement),
        ("neighbours", 8, neighbours),
        ("kept neighbours", 12, kept_neighbours),
        ("classes in batches", 8, classes_in_batches),
        ("serial correlation", 6, serial_correlation),
    ];
    for (name, too_few, test) in tests {
        for enough in [ROUNDS / 2, ROUNDS] {
            let z = test(enough);
            assert!(z.abs() < 4.0, "{name}: z = {z} after {enough} rounds");
        }
        let z = test(too_few);
        assert!(z.abs() > 10.0, "{name}: z = {z} after {too_few} rounds");
    }
}

/// Orders of other epochs and seeds must look unrelated. Too few rounds cannot show
/// that these tests can fail, so an order compared with itself does.
#[test]
fn epochs_and_seeds_are_independent() {
    let pairs: [(&str, [(u64, u64); 2]); 4] = [
        ("next epoch", [(1, 0), (1, 1)]),
        ("next seed", [(1, 0), (2, 0)]),
        ("next epoch against next seed", [(1, 1), (2, 0)]),
        ("seed and epoch exchanged", [(3, 8), (8, 3)]),
    ];
    for (name, [(seed_a, epoch_a), (seed_b, epoch_b)]) in pairs {
        let rows = 500_009;
        let (a, b) = (
            Order::shuffled(rows, seed_a, epoch_a),
            Order::shuffled(rows, seed_b, epoch_b),
        );
        let z = joint(rows, |i| a.row_at(i), |i| b.row_at(i));
        assert!(z.abs() < 4.0, "{name}: z = {z}");
    }
    let order = Order::shuffled(500_009, 1, 0);
    assert!(joint(500_009, |i| order.row_at(i), |i| order.row_at(i)) > 10.0);

    let coincidences = |step: u64| -> f64 {
        let (rows, epochs) = (500, 2000);
        let count = (0..epochs).map(|epoch| {
            let (a, b) = (
                Order::shuffled(rows, 6, epoch),
                Order::shuffled(rows, 6, epoch + step),
            );
            (0..rows).filter(|&i| a.row_at(i) == b.row_at(i)).count() as u64
        });
        // One coincidence is expected per pair of permutations.
        poisson_z(count.sum(), epochs as f64)
    };
    assert!(coincidences(1).abs() < 4.0);
    assert!(coincidences(0) > 10.0);
}

/// The distribution over all permutations after r rounds with ideal keys, computed
/// rather than sampled: its distance from uniform is what no test can improve on.
#[test]
fn tiny_orders_are_uniform_to_ten_to_the_minus_nine() {
    for rows in 2..=6 {
        let distance = exact_distances(rows, ROUNDS);
        assert!(
            distance[8] > 1e-3,
            "{rows} rows: 8 rounds suffice, they should not"
        );
        assert!(distance[ROUNDS] < 1e-9, "{rows} rows: {}", distance[ROUNDS]);
    }
}

/// Total variation distance from uniform over all permutations of `rows`, after each
/// number of rounds from 0 to `rounds`.
fn exact_distances(rows: usize, rounds: usize) -> Vec<f64> {
    let all = all_permutations(rows);
    let index: HashMap<&[usize], usize> = all
        .iter()
        .enumerate()
        .map(|(i, p)| (p.as_slice(), i))
        .collect();
    // Every way a round can turn out, with its probability, as a map of permutations.
    let mut outcomes: Vec<(f64, Vec<usize>)> = Vec::new();
    for sum in 0..rows {
        let partner = |x: usize| (sum + rows - x) % rows;
        let pairs: Vec<usize> = (0..rows).filter(|&x| x < partner(x)).collect();
        for coins in 0..1usize << pairs.len() {
            let mut round: Vec<usize> = (0..rows).collect();
            for (bit, &x) in pairs.iter().enumerate() {
                if coins >> bit & 1 == 1 {
                    round.swap(x, partner(x));
                }
            }
            let after = |p: &Vec<usize>| {
                index[p
                    .iter()
                    .map(|&x| round[x])
                    .collect::<Vec<usize>>()
                    .as_slice()]
            };
            let probability = 1.0 / (rows << pairs.len()) as f64;
            outcomes.push((probability, all.iter().map(after).collect()));
        }
    }
    let uniform = 1.0 / all.len() as f64;
    let mut chances = vec![0.0; all.len()];
    chances[0] = 1.0;
    let mut distances = Vec::new();
    for _ in 0..=rounds {
        distances.push(
            chances
                .iter()
                .map(|c: &f64| (c - uniform).abs())
                .sum::<f64>()
                / 2.0,
        );
        let mut next = vec![0.0; all.len()];
        for (probability, after) in &outcomes {
            for (from, &to) in after.iter().enumerate() {
                next[to] += probability * chances[from];
            }
        }
        chances = next;
    }
    distances
}

/// All permutations of `0..rows`, the identity first.
fn all_permutations(rows: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = vec![vec![]];
    for _ in 0..rows {
        let mut longer = Vec::new();
        for start in &all {
            let rest = (0..rows).filter(|x| !start.contains(x));
            longer.extend(rest.map(|x| [start.as_slice(), &[x]].concat()));
        }
        all = longer;
    }
    all
}

/// How often each permutation of `rows` comes up over many epochs.
fn permutations(rows: u64, rounds: usize) -> f64 {
    let all = all_permutations(rows as usize);
    let index: HashMap<u64, usize> = all
        .iter()
        .enumerate()
        .map(|(i, p)| (p.iter().fold(0, |code, &x| code * 8 + x as u64), i))
        .collect();
    let mut counts = vec![0u64; all.len()];
    for epoch in 0..100_000 {
        let order = Shortened::new(rows, 2, epoch, rounds);
        let code = (0..rows).fold(0, |code, position| code * 8 + order.row_at(position));
        counts[index[&code]] += 1;
    }
    chi_square_z(&counts, all.len() as f64 - 1.0, 1.0)
}

/// How often each row stands at each position, over orders named by
/// `(seed, epoch) = name(i)`: the worst z of some sizes, among them primes, powers of
/// two, and their neighbours.
fn places(name: fn(u64) -> (u64, u64), rounds: usize) -> f64 {
    let z = [2u64, 5, 8, 13, 16, 17, 31, 50].map(|rows| {
        let mut counts = vec![0u64; (rows * rows) as usize];
        for i in 0..5_000 {
            let (seed, epoch) = name(i);
            let order = Shortened::new(rows, seed, epoch, rounds);
            for position in 0..rows {
                counts[(position * rows + order.row_at(position)) as usize] += 1;
            }
        }
        // All margins are fixed, so (n − 1)² cells are free, and the sum of squares
        // comes out too large by n / (n − 1).
        let free = (rows - 1) as f64;
        chi_square_z(&counts, free * free, free / rows as f64)
    });
    z.into_iter().fold(
        0.0,
        |worst: f64, z| if z.abs() > worst.abs() { z } else { worst },
    )
}

/// How far rows move, around the end: in 256 classes of distance.
fn displacement(rounds: usize) -> f64 {
    let rows = 500_009;
    let order = Shortened::new(rows, 3, 0, rounds);
    let mut counts = vec![0u64; 256];
    for position in 0..rows {
        let moved = (order.row_at(position) + rows - position) % rows;
        counts[(moved * 256 / rows) as usize] += 1;
    }
    chi_square_z(&counts, 255.0, 1.0)
}

/// Where a row and the row after it stand, as a table.
fn neighbours(rounds: usize) -> f64 {
    let rows = 500_009;
    let order = Shortened::new(rows, 4, 0, rounds);
    joint(rows, |i| order.row_at(i), |i| order.row_at((i + 1) % rows))
}

/// How many rows keep a neighbour: the pattern that swap-or-not forgets last in large
/// orders, since two neighbours swap together or stay together.
fn kept_neighbours(rounds: usize) -> f64 {
    let (rows, epochs) = (50_000, 20);
    let count = (0..epochs).map(|epoch| {
        let order = Shortened::new(rows, 5, epoch, rounds);
        let apart = |i: u64| (order.row_at((i + 1) % rows) + rows - order.row_at(i)) % rows;
        (0..rows)
            .filter(|&i| apart(i) == 1 || apart(i) == rows - 1)
            .count() as u64
    });
    // Two of the n − 1 rows that may follow are neighbours.
    poisson_z(
        count.sum(),
        epochs as f64 * 2.0 * rows as f64 / (rows - 1) as f64,
    )
}

/// How many rows of each class stand in each batch when classes lie one after the
/// other, as a folder of pictures is ingested.
fn classes_in_batches(rounds: usize) -> f64 {
    let (batch_size, batches, classes) = (250, 400, 20);
    let rows = batch_size * batches;
    let order = Shortened::new(rows, 7, 0, rounds);
    let mut counts = vec![0u64; (batches * classes) as usize];
    for position in 0..rows {
        let class = order.row_at(position) * classes / rows;
        counts[(position / batch_size * classes + class) as usize] += 1;
    }
    let free = ((batches - 1) * (classes - 1)) as f64;
    chi_square_z(&counts, free, (rows - 1) as f64 / rows as f64)
}

/// The correlation of rows that stand a few positions apart: the worst of some lags.
fn serial_correlation(rounds: usize) -> f64 {
    let rows = 200_003;
    let order = Shortened::new(rows, 8, 0, rounds);
    let middle = (rows - 1) as f64 / 2.0;
    let values: Vec<f64> = (0..rows).map(|i| order.row_at(i) as f64 - middle).collect();
    let variance: f64 = values.iter().map(|v| v * v).sum();
    let z = [1, 2, 3, 64, 256].map(|lag| {
        let shifted = values.iter().cycle().skip(lag);
        let covariance: f64 = values.iter().zip(shifted).map(|(a, b)| a * b).sum();
        covariance / variance * (rows as f64).sqrt()
    });
    z.into_iter().fold(
        0.0,
        |worst: f64, z| if z.abs() > worst.abs() { z } else { worst },
    )
}

/// z of the table of 32 × 32 cells in which `a(i)` and `b(i)`, two bijections of
/// `[0, rows)`, fall.
fn joint(rows: u64, a: impl Fn(u64) -> u64, b: impl Fn(u64) -> u64) -> f64 {
    let mut counts = vec![0u64; 32 * 32];
    for i in 0..rows {
        counts[(a(i) * 32 / rows * 32 + b(i) * 32 / rows) as usize] += 1;
    }
    // Each value falls into each row and column of the table equally often.
    chi_square_z(&counts, 31.0 * 31.0, 1.0)
}
