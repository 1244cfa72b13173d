//! From light to bytes, as a dash camera does it: lens, windscreen, sensor.
//!
//! Enters: a painted canvas. Leaves: RGB bytes. Never: moves anything, so that what is painted
//! stays where its label says.

use std::sync::LazyLock;

use super::canvas::{Canvas, HEIGHT, Rgb, WIDTH};
use super::scene::{Scene, Weather};
use super::texture::{Dice, GRAIN, lerp};

/// Entries of the table of tones.
const TONES: usize = 4096;
/// Light that the table reaches to.
const LIGHT_MAX: f32 = 4.0;

/// From light to grey levels: highlights are compressed, then the sRGB curve (by square roots,
/// which are the same on every machine).
static CURVE: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let level = |entry: usize| {
        // Entries stand for the light's root, so that darkness has enough of them.
        let root = entry as f32 / TONES as f32;
        let light = root * root * LIGHT_MAX;
        let light = light * (1.0 + light / 6.25) / (1.0 + light) * 1.52;
        let half = light.sqrt();
        let quarter = half.sqrt();
        let eighth = quarter.sqrt();
        let level = 0.585_122 * half + 0.783_14 * quarter - 0.368_263 * eighth;
        (level * 255.0).clamp(0.0, 255.0)
    };
    (0..=TONES).map(level).collect()
});

/// The picture as bytes, `[HEIGHT, WIDTH, 3]`.
pub(super) fn expose(canvas: &mut Canvas, scene: &Scene, dice: &mut Dice) -> Vec<u8> {
    blur(canvas, scene);
    windscreen(canvas, scene, dice);
    bonnet(canvas, scene, dice);
    let gain = scene.light.exposure;
    let grain = &*GRAIN;
    let mask = grain.len() - 1;
    // Shot noise after the tone curve: strongest below the middle, none in the whites.
    let noise = |level: f32| 0.55 + level * (255.0 - level) * (1.0 / 24_000.0);
    let tones: Vec<(f32, f32)> = CURVE
        .iter()
        .map(|&level| (level + 0.5, scene.light.noise * noise(level)))
        .collect();
    let mut bytes = vec![0_u8; WIDTH * HEIGHT * 3];
    for (row, line) in bytes.chunks_exact_mut(WIDTH * 3).enumerate() {
        let dy = (row as f32 - HEIGHT as f32 / 2.0) / 640.0;
        let (luma_from, chroma_from) = (dice.word() as usize, dice.word() as usize);
        let lights = &canvas.light[row * WIDTH..][..WIDTH];
        for (column, (pixel, light)) in line.chunks_exact_mut(3).zip(lights).enumerate() {
            let dx = (column as f32 - WIDTH as f32 / 2.0) / 640.0;
            let vignette = gain * (1.0 - 0.22 * (dx * dx + dy * dy));
            let luma = grain[(luma_from + column) & mask];
            for (channel, (byte, light)) in pixel.iter_mut().zip(light).enumerate() {
                let root = (light * vignette * (1.0 / LIGHT_MAX))
                    .clamp(0.0, 1.0)
                    .sqrt();
                let (level, noise) = tones[(root * TONES as f32) as usize];
                let own = grain[(chroma_from + column * 3 + channel) & mask];
                *byte = (level + noise * (0.8 * luma + 0.6 * own)) as u8;
            }
        }
    }
    bytes
}

/// A little everywhere, more in the distance: lens and air.
fn blur(canvas: &mut Canvas, scene: &Scene) {
    let thick = match scene.weather {
        Weather::Foggy | Weather::Rainy | Weather::Snowy => 1.0,
        _ => 0.7,
    };
    let share: Vec<f32> = (0..=255)
        .map(|z| 0.45 + 0.5 * thick * (z as f32 / 200.0).min(1.0))
        .collect();
    let mut above: Vec<Rgb> = canvas.light[..WIDTH].to_vec();
    let mut sums: Vec<Rgb> = vec![[0.0; 3]; WIDTH];
    for row in 0..HEIGHT {
        let start = row * WIDTH;
        let below = if row + 1 < HEIGHT {
            start + WIDTH
        } else {
            start
        };
        for column in 0..WIDTH {
            let (own, next) = (canvas.light[start + column], canvas.light[below + column]);
            sums[column] = std::array::from_fn(|c| above[column][c] + 2.0 * own[c] + next[c]);
        }
        above.copy_from_slice(&canvas.light[start..start + WIDTH]);
        for column in 0..WIDTH {
            let (left, right) = (
                sums[column.saturating_sub(1)],
                sums[(column + 1).min(WIDTH - 1)],
            );
            let share = share[canvas.depth[start + column] as usize];
            let pixel = &mut canvas.light[start + column];
            for (channel, light) in pixel.iter_mut().enumerate() {
                let soft =
                    (left[channel] + 2.0 * sums[column][channel] + right[channel]) * (1.0 / 16.0);
                *light = lerp(*light, soft, share);
            }
        }
    }
}

/// What falls from the sky, before the lens and on the glass.
fn windscreen(canvas: &mut Canvas, scene: &Scene, dice: &mut Dice) {
    if scene.is_covered() {
        return;
    }
    let bright = scene.light.ambient[1] + scene.light.headlamps * 0.12;
    match scene.weather {
        Weather::Snowy => {
            for _ in 0..dice.count(500, 1400) {
                let at = [
                    dice.between(0.0, WIDTH as f32),
                    dice.between(0.0, HEIGHT as f32),
                ];
                let near = dice.unit() * dice.unit() * dice.unit();
                let level = bright * dice.between(0.25, 0.75) * (1.0 - 0.6 * near);
                canvas.glow(at, 0.7 + 4.5 * near, [level; 3], 1.0 + dice.unit());
            }
        }
        Weather::Rainy => {
            for _ in 0..dice.count(150, 420) {
                let at = [
                    dice.between(0.0, WIDTH as f32),
                    dice.between(0.0, HEIGHT as f32),
                ];
                let level = bright * dice.between(0.03, 0.12);
                canvas.glow(
                    at,
                    dice.between(0.5, 0.9),
                    [level; 3],
                    dice.between(8.0, 22.0),
                );
            }
            for _ in 0..dice.count(20, 110) {
                let at = [
                    dice.between(0.0, WIDTH as f32),
                    dice.between(0.0, HEIGHT as f32),
                ];
                drop(canvas, at, dice.between(2.0, 9.0), dice.between(1.0, 1.5));
            }
        }
        _ => {}
    }
}

/// A drop on the glass: a small lens that shows the scene upside down.
fn drop(canvas: &mut Canvas, at: [f32; 2], radius: f32, tall: f32) {
    let rows =
        (at[1] - radius * tall).max(0.0) as usize..((at[1] + radius * tall) as usize).min(HEIGHT);
    let columns = (at[0] - radius).max(0.0) as usize..((at[0] + radius) as usize).min(WIDTH);
    for row in rows {
        for column in columns.clone() {
            let (dx, dy) = (
                (column as f32 - at[0]) / radius,
                (row as f32 - at[1]) / (radius * tall),
            );
            let far = dx * dx + dy * dy;
            if far < 1.0 {
                let from = [at[0] - dx * radius * 9.0, at[1] - dy * radius * 11.0];
                let clamped =
                    |value: f32, limit: usize| value.clamp(0.0, limit as f32 - 1.0) as usize;
                let seen = canvas.light[clamped(from[1], HEIGHT) * WIDTH + clamped(from[0], WIDTH)];
                let alpha = (1.0 - far * far) * 0.75;
                let rim = 1.08 - 0.55 * far * far + 0.25 * dy * far;
                let pixel = &mut canvas.light[row * WIDTH + column];
                *pixel = std::array::from_fn(|c| lerp(pixel[c], seen[c] * rim, alpha));
            }
        }
    }
}

/// The upper edge of our own bonnet, if the camera sees it.
fn bonnet(canvas: &mut Canvas, scene: &Scene, dice: &mut Dice) {
    if dice.chance(0.45) {
        return;
    }
    let height = dice.between(18.0, 62.0);
    let tone = dice.between(0.01, 0.22);
    let sky = if scene.is_covered() {
        scene.light.ambient
    } else {
        scene.light.sky_low
    };
    for column in 0..WIDTH {
        let dx = (column as f32 - 640.0) / 640.0;
        let top = HEIGHT as f32 - height * (1.0 - 0.55 * dx * dx);
        for row in top as usize..HEIGHT {
            let deep = ((row as f32 - top) / height).clamp(0.0, 1.0);
            let mirrored = 0.28 * (1.0 - deep) + 0.02;
            let place = row * WIDTH + column;
            canvas.light[place] =
                std::array::from_fn(|c| tone * scene.light.ambient[c] + mirrored * sky[c]);
            canvas.things[place] = 0;
            canvas.surface[place] = 0;
        }
    }
}
