//! How people, and what they ride, look.
//!
//! Enters: a thing and its number. Leaves: one wall, cut to its outline. Never: anything under
//! another number.

use super::{HEAD, RUBBER, TAIL, Thing};
use crate::synthetic::canvas::{Canvas, Rgb, Wall, lit, times};
use crate::synthetic::scene::{Category, Scene};
use crate::synthetic::texture::{GRAVEL, hash, step};

/// The distance of a point from a line between two others, less `radius`.
fn limb(at: [f32; 2], from: [f32; 2], to: [f32; 2], radius: f32) -> f32 {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let t = ((at[0] - from[0]) * dx + (at[1] - from[1]) * dy) / (dx * dx + dy * dy).max(1e-6);
    let t = t.clamp(0.0, 1.0);
    let (px, py) = (at[0] - from[0] - t * dx, at[1] - from[1] - t * dy);
    (px * px + py * py).sqrt() - radius
}

pub(super) fn human(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
    const SKIN: [Rgb; 4] = [
        [0.50, 0.30, 0.20],
        [0.36, 0.19, 0.11],
        [0.16, 0.08, 0.05],
        [0.56, 0.36, 0.27],
    ];
    let rider = thing.category == Category::Rider;
    let light = scene.upright(thing.x, 1.0, thing.z);
    let skin = SKIN[(thing.seed % 4) as usize];
    let trousers = times([0.05, 0.06, 0.10], 0.4 + 1.4 * hash(thing.seed, 5, 0));
    if !rider {
        canvas.shadow(thing.x, [thing.z - 0.2, thing.z + 0.35], 0.6, 0.55);
    }
    let low = thing.y;
    let scale = (thing.height - low) / 1.75;
    let stride = 0.06 + 0.22 * hash(thing.seed, 6, 0);
    let helmet = rider;
    let middle = thing.width / 2.0;
    let wall = Wall::facing(thing.x, thing.z, thing.width, low, thing.height, number);
    canvas.wall(wall, |s, y, z| {
        let at = [(s - middle) / scale, (y - low) / scale];
        let soft = (z / 1000.0).max(0.008) / scale;
        let lean = if rider { 0.05 } else { 0.0 };
        let parts = [
            (limb(at, [-stride, 0.05], [-0.09, 0.85], 0.075), trousers),
            (
                limb(at, [stride, 0.05], [0.09, 0.85], 0.075),
                times(trousers, 0.8),
            ),
            (
                limb(at, [-0.26 - lean, 0.78], [-0.20, 1.36], 0.058),
                times(thing.colour, 0.75),
            ),
            (
                limb(at, [0.26 + lean, 0.82], [0.20, 1.36], 0.058),
                times(thing.colour, 0.8),
            ),
            (limb(at, [0.0, 0.92], [0.0, 1.30], 0.185), thing.colour),
            (
                limb(at, [0.0, 1.58], [0.0, 1.60], 0.115),
                if helmet { [0.25, 0.25, 0.27] } else { skin },
            ),
            (
                limb(at, [0.0, 1.655], [0.0, 1.66], 0.085),
                if helmet {
                    [0.3, 0.3, 0.33]
                } else {
                    [0.04, 0.03, 0.02]
                },
            ),
        ];
        let mut colour = [0.0; 3];
        let mut cover = 0.0_f32;
        for (distance, own) in parts {
            let here = step(-soft, soft, -distance);
            if here > 0.3 {
                colour = own;
            }
            cover = cover.max(here);
        }
        let fold = 0.65 + 0.4 * GRAVEL.at(s * 60.0, y * 30.0) + 0.25 * at[0];
        (times(lit(colour, light), fold), cover)
    });
}

pub(super) fn two_wheels(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
    let motor = thing.category == Category::Motor;
    let light = scene.upright(thing.x, 0.6, thing.z);
    canvas.shadow(thing.x, [thing.z - 0.1, thing.z + 0.6], thing.width, 0.5);
    let radius = if motor { 0.31 } else { 0.34 };
    let middle = thing.width / 2.0;
    let wall = Wall::facing(thing.x, thing.z, thing.width, 0.0, thing.height, number);
    canvas.wall(wall, |s, y, z| {
        let at = [s - middle, y];
        let soft = (z / 1000.0).max(0.008);
        let (dark, paint): (f32, f32);
        if thing.across {
            let half = thing.width / 2.0 - radius;
            let ring = |x: f32| {
                ((limb(at, [x, radius], [x, radius + 0.001], 0.0) - radius + 0.03).abs()) - 0.03
            };
            dark = ring(-half).min(ring(half));
            paint = limb(at, [-half, radius], [-0.15, 0.8], 0.028)
                .min(limb(at, [-0.15, 0.8], [0.35, 0.78], 0.028))
                .min(limb(at, [-0.05, 0.32], [0.35, 0.78], 0.028))
                .min(limb(at, [half, radius], [0.35, 0.98], 0.028));
        } else {
            let tyre = if motor { 0.085 } else { 0.03 };
            dark = limb(at, [0.0, 0.06], [0.0, radius * 1.9], tyre).min(limb(
                at,
                [-middle + 0.04, thing.height - 0.06],
                [middle - 0.04, thing.height - 0.06],
                0.025,
            ));
            let body = if motor { 0.19 } else { 0.045 };
            paint = limb(at, [0.0, 0.55], [0.0, thing.height - 0.25], body);
        }
        let lamp = motor && limb(at, [0.0, 0.72], [0.0, 0.73], 0.07) < 0.0;
        let colour = if lamp {
            if thing.oncoming { HEAD } else { TAIL }
        } else if paint < dark {
            lit(thing.colour, light)
        } else {
            lit(RUBBER, light)
        };
        (colour, step(-soft, soft, -dark.min(paint)))
    });
}
