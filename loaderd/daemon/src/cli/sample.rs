//! `loaderd sample`: a folder of drawn, photo-like JPEGs, so that everything can be tried
//! without a dataset at hand.
//!
//! The scenes have what makes photos costly to decode: fractal detail, noise, edges. The
//! same seed draws the same pictures on every machine.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use loaderd_decode::encode::Encoder;

use super::say;

/// Arguments of `loaderd sample`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Folder to create; each class gets a sub-folder
    dir: PathBuf,
    /// Number of images
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Width of most images, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(16..=8192))]
    width: u32,
    /// Height of most images, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 375, value_parser = clap::value_parser!(u32).range(16..=8192))]
    height: u32,
    /// Seed of the generator
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Classes, with what tells their scenes apart: two colours of the sky, two of the
/// ground, the horizon's height, its roughness, and the number of round things.
const SCENES: [Scene; 6] = [
    Scene {
        name: "desert",
        sky: [[110, 160, 220], [235, 215, 180]],
        ground: [[214, 170, 110], [150, 100, 60]],
        horizon: 0.55,
        rough: 0.10,
        things: 1,
    },
    Scene {
        name: "forest",
        sky: [[150, 180, 210], [220, 230, 235]],
        ground: [[40, 90, 40], [15, 40, 20]],
        horizon: 0.25,
        rough: 0.35,
        things: 0,
    },
    Scene {
        name: "meadow",
        sky: [[90, 150, 230], [200, 225, 245]],
        ground: [[110, 170, 60], [60, 110, 30]],
        horizon: 0.50,
        rough: 0.12,
        things: 14,
    },
    Scene {
        name: "night",
        sky: [[8, 10, 30], [40, 30, 70]],
        ground: [[20, 20, 30], [5, 5, 10]],
        horizon: 0.65,
        rough: 0.25,
        things: 9,
    },
    Scene {
        name: "sea",
        sky: [[120, 170, 225], [225, 235, 240]],
        ground: [[30, 90, 140], [10, 45, 80]],
        horizon: 0.48,
        rough: 0.01,
        things: 2,
    },
    Scene {
        name: "snow",
        sky: [[140, 170, 210], [230, 235, 245]],
        ground: [[245, 248, 252], [190, 205, 225]],
        horizon: 0.40,
        rough: 0.30,
        things: 3,
    },
];

struct Scene {
    name: &'static str,
    sky: [[u8; 3]; 2],
    ground: [[u8; 3]; 2],
    horizon: f32,
    rough: f32,
    things: u32,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    for scene in &SCENES {
        let dir = arguments.dir.join(scene.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let bar = ProgressBar::new(u64::from(arguments.count));
    let next = AtomicU32::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let drawing: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= arguments.count {
                            return Ok(());
                        }
                        write(arguments, number)?;
                        bar.inc(1);
                    }
                })
            })
            .collect();
        drawing
            .into_iter()
            .try_for_each(|thread| thread.join().expect("drawing does not panic"))
    })?;
    bar.finish_and_clear();
    say(format_args!(
        "drew {} pictures of {} classes in {}",
        arguments.count,
        SCENES.len(),
        arguments.dir.display()
    ));
    Ok(())
}

fn write(arguments: &Arguments, number: u32) -> Result<()> {
    let scene = &SCENES[number as usize % SCENES.len()];
    let seed = mix(arguments.seed ^ (u64::from(number) << 20));
    // One in eight stands upright, and sizes vary a little, as in photo collections.
    let (mut width, mut height) = (arguments.width, arguments.height);
    if seed.is_multiple_of(8) {
        (width, height) = (height, width);
    }
    height -= (seed >> 8) as u32 % (height / 16 + 1);
    let pixels = draw(scene, seed, width, height);
    let encoder = Encoder {
        quality: 92,
        ..Encoder::default()
    };
    let jpeg = encoder.encode(&pixels, width, height)?;
    let path = picture_path(&arguments.dir, scene.name, number);
    std::fs::write(&path, jpeg).with_context(|| format!("writing {}", path.display()))
}

fn picture_path(dir: &Path, class: &str, number: u32) -> PathBuf {
    dir.join(class).join(format!("{class}_{number:06}.jpg"))
}

/// splitmix64's finaliser: a well-mixed function of 64 bits.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number in [0, 1) that belongs to a lattice point.
fn lattice(seed: u64, x: i32, y: i32) -> f32 {
    let point = ((x as u32 as u64) << 32) | y as u32 as u64;
    (mix(seed ^ mix(point)) >> 40) as f32 / (1u64 << 24) as f32
}

/// Smooth noise in [0, 1): the lattice, interpolated.
fn noise(seed: u64, x: f32, y: f32) -> f32 {
    let (x0, y0) = (x.floor(), y.floor());
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (smooth(x - x0), smooth(y - y0));
    let (x0, y0) = (x0 as i32, y0 as i32);
    let row = |y: i32| {
        let (a, b) = (lattice(seed, x0, y), lattice(seed, x0 + 1, y));
        a + (b - a) * tx
    };
    let (top, bottom) = (row(y0), row(y0 + 1));
    top + (bottom - top) * ty
}

/// Noise of several scales, in [0, 1).
fn fractal(seed: u64, x: f32, y: f32, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut all, mut scale) = (0.0, 0.5, 0.0, 1.0);
    for octave in 0..octaves {
        sum += weight * noise(seed.wrapping_add(u64::from(octave)), x * scale, y * scale);
        all += weight;
        weight *= 0.6;
        scale *= 2.1;
    }
    sum / all
}

fn blend(from: [f32; 3], to: [f32; 3], t: f32) -> [f32; 3] {
    std::array::from_fn(|c| from[c] + (to[c] - from[c]) * t.clamp(0.0, 1.0))
}

/// Draws a scene as RGB, [height, width, 3].
fn draw(scene: &Scene, seed: u64, width: u32, height: u32) -> Vec<u8> {
    let colour = |c: [u8; 3]| c.map(f32::from);
    let unit = |n: u64| (mix(seed ^ n) >> 40) as f32 / (1u64 << 24) as f32;
    let (w, h) = (width as f32, height as f32);
    let things: Vec<([f32; 2], f32, [f32; 3])> = (0..scene.things)
        .map(|n| {
            let n = u64::from(n) * 8 + 100;
            let radius = 0.015 + 0.09 * unit(n) * unit(n + 1);
            let tint = [unit(n + 4), unit(n + 5), unit(n + 6)].map(|t| 60.0 + 195.0 * t);
            ([unit(n + 2), unit(n + 3)], radius, tint)
        })
        .collect();
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    let horizon: Vec<f32> = (0..width)
        .map(|x| {
            let hills = fractal(seed ^ 1, x as f32 / w * 5.0, 0.0, 6);
            scene.horizon + (hills - 0.5) * 2.0 * scene.rough + (unit(2) - 0.5) * 0.15
        })
        .collect();
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (x as f32 / w, y as f32 / h);
            let mut pixel = if v < horizon[x as usize] {
                let clouds = fractal(seed ^ 3, u * 4.0, v * 9.0, 5);
                let sky = blend(
                    colour(scene.sky[0]),
                    colour(scene.sky[1]),
                    v / scene.horizon,
                );
                blend(sky, [250.0; 3], (clouds - 0.5) * 2.2)
            } else {
                // Detail grows finer towards the horizon, as perspective has it.
                let near = 0.15 + (v - horizon[x as usize]);
                let detail = fractal(seed ^ 4, u * 14.0 / near, v * 30.0 / near, 6);
                blend(
                    colour(scene.ground[0]),
                    colour(scene.ground[1]),
                    detail * 1.6 - 0.3,
                )
            };
            for (centre, radius, tint) in &things {
                let (dx, dy) = ((u - centre[0]) * w / h, v - centre[1]);
                let distance = (dx * dx + dy * dy).sqrt() / radius;
                if distance < 1.0 {
                    let shade = 1.0 - 0.6 * (distance + dx / radius * 0.4);
                    pixel = blend(pixel, tint.map(|t| t * shade.clamp(0.2, 1.1)), 0.95);
                }
            }
            // A sensor's noise.
            let grain = (lattice(seed ^ 5, x as i32, y as i32) - 0.5) * 14.0;
            pixels.extend(pixel.map(|c| (c + grain).clamp(0.0, 255.0) as u8));
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_the_same_everywhere_and_differ_from_each_other() {
        let one = draw(&SCENES[2], 7, 64, 48);
        assert_eq!(one.len(), 64 * 48 * 3);
        assert_eq!(one, draw(&SCENES[2], 7, 64, 48));
        assert_ne!(one, draw(&SCENES[2], 8, 64, 48));
        let distinct: std::collections::BTreeSet<_> = one.iter().collect();
        assert!(distinct.len() > 50, "a picture has many shades");
    }
}
