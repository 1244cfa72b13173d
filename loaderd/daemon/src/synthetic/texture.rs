//! Detail that nature would have: noise tiles, made once, and draws of a frame's own.
//!
//! Enters: a seed and a frame's number. Leaves: numbers and noise, the same on every machine:
//! nothing here uses more of floating point than IEEE 754 lays down. Never: depends on a thread.

use std::sync::LazyLock;

use loaderd_plan::Draws;

/// Texels of a tile's side; a power of two.
const SIDE: usize = 512;
/// Values of the table of grain; a power of two.
const GRAINS: usize = 1 << 16;

/// A frame's draws.
pub(super) struct Dice(Draws);

impl Dice {
    /// The draws of frame `number`; `stream` separates uses.
    pub(super) fn new(seed: u64, number: u64, stream: u32) -> Dice {
        Dice(Draws::new(seed, 0, number, stream))
    }

    pub(super) fn word(&mut self) -> u32 {
        self.0.next().expect("draws are endless")
    }

    /// In [0, 1).
    pub(super) fn unit(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 24) as f32
    }

    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// In `[low, high]`.
    pub(super) fn count(&mut self, low: u32, high: u32) -> u32 {
        low + self.word() % (high - low + 1)
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.word() as usize % of.len()]
    }

    /// A place among `weights`, by weight.
    pub(super) fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut rest = self.unit() * weights.iter().sum::<f32>();
        for (place, weight) in weights.iter().enumerate() {
            rest -= weight;
            if rest < 0.0 {
                return place;
            }
        }
        weights.len() - 1
    }
}

/// A number in [0, 1) that belongs to a place, for what repeats along a wall or a road.
pub(super) fn hash(seed: u32, x: i32, y: i32) -> f32 {
    let mut h = seed ^ (x as u32).wrapping_mul(0x9E37_79B9) ^ (y as u32).wrapping_mul(0x85EB_CA6B);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    ((h ^ (h >> 16)) >> 8) as f32 / (1 << 24) as f32
}

/// Noise in [0, 1] that repeats after [`SIDE`] texels in both directions. In bytes, so that a tile
/// stays in a core's own cache.
pub(super) struct Tile(Vec<u8>);

/// Large forms and small: clouds, patches, foliage.
pub(super) static CLOUDS: LazyLock<Tile> = LazyLock::new(|| Tile::new(1, 4, 0.55));
/// Mostly small ones: asphalt, walls, grass.
pub(super) static GRAVEL: LazyLock<Tile> = LazyLock::new(|| Tile::new(2, 32, 0.95));

impl Tile {
    /// Octaves from `cells` to [`SIDE`] cells a side, each `gain` times the one before.
    fn new(seed: u32, cells: usize, gain: f32) -> Tile {
        let mut sums = vec![0.0; SIDE * SIDE];
        let (mut cells, mut weight, mut all) = (cells, 1.0, 0.0);
        while cells <= SIDE {
            let step = cells as f32 / SIDE as f32;
            let at = |x: usize, y: usize| {
                hash(
                    seed.wrapping_add(cells as u32),
                    (x % cells) as i32,
                    (y % cells) as i32,
                )
            };
            for y in 0..SIDE {
                let v = y as f32 * step;
                let (row, ty) = (v as usize, smooth(v - (v as usize) as f32));
                for x in 0..SIDE {
                    let u = x as f32 * step;
                    let (column, tx) = (u as usize, smooth(u - (u as usize) as f32));
                    let top = lerp(at(column, row), at(column + 1, row), tx);
                    let bottom = lerp(at(column, row + 1), at(column + 1, row + 1), tx);
                    sums[y * SIDE + x] += weight * lerp(top, bottom, ty);
                }
            }
            all += weight;
            weight *= gain;
            cells *= 2;
        }
        // Spread to about the whole range.
        let spread = |sum: f32| (((sum / all - 0.5) * 1.7 + 0.5) * 255.0).clamp(0.0, 255.0) as u8;
        Tile(sums.into_iter().map(spread).collect())
    }

    /// The value at a texel position, interpolated.
    #[inline]
    pub(super) fn at(&self, u: f32, v: f32) -> f32 {
        let (x0, y0) = (floor(u), floor(v));
        let (tx, ty) = (u - x0 as f32, v - y0 as f32);
        let mask = SIDE - 1;
        let (x0, y0) = (x0 as usize & mask, y0 as usize & mask);
        let (x1, y1) = ((x0 + 1) & mask, (y0 + 1) & mask);
        let texel = |x: usize, y: usize| f32::from(self.0[y * SIDE + x]);
        let top = lerp(texel(x0, y0), texel(x1, y0), tx);
        let bottom = lerp(texel(x0, y1), texel(x1, y1), tx);
        lerp(top, bottom, ty) * (1.0 / 255.0)
    }

    /// The nearest value.
    pub(super) fn near(&self, u: f32, v: f32) -> f32 {
        let mask = SIDE - 1;
        let place = (floor(v) as usize & mask) * SIDE + (floor(u) as usize & mask);
        f32::from(self.0[place]) * (1.0 / 255.0)
    }
}

/// Independent values of about a normal distribution with deviation 1.
pub(super) static GRAIN: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let value = |n: usize| {
        let sum: f32 = (0..6).map(|k| hash(99, n as i32, k)).sum();
        // Six uniform values have a variance of a half.
        (sum - 3.0) * std::f32::consts::SQRT_2
    };
    (0..GRAINS).map(value).collect()
});

/// The whole number below, by a cast: `f32::floor` is a call where SSE 4.1 is not taken for granted.
pub(super) fn floor(value: f32) -> i32 {
    let cut = value as i32;
    cut - i32::from(value < cut as f32)
}

/// What is above the whole number below, in [0, 1).
pub(super) fn part(value: f32) -> f32 {
    value - floor(value) as f32
}

pub(super) fn lerp(from: f32, to: f32, t: f32) -> f32 {
    from + (to - from) * t
}

fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// 0 below `low`, 1 above `high`, smooth in between.
pub(super) fn step(low: f32, high: f32, value: f32) -> f32 {
    smooth(((value - low) / (high - low)).clamp(0.0, 1.0))
}

/// Falls from 1 at 0 towards 0, much as exp(−x) does.
pub(super) fn fade(x: f32) -> f32 {
    1.0 / (1.0 + x * (1.0 + x * (0.5 + x * 0.1667)))
}
