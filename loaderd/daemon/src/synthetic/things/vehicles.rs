//! How cars, trucks, buses and trains look.
//!
//! Enters: a thing and its number. Leaves: the wall that faces us and the one that recedes, its
//! shadow, and the glow of its lamps. Never: anything under another number.

use super::{GLASS, HEAD, RUBBER, TAIL, Thing};
use crate::synthetic::canvas::{Canvas, Rgb, Wall, lit, times};
use crate::synthetic::scene::{Category, Scene};
use crate::synthetic::sides::reflect;
use crate::synthetic::texture::{GRAVEL, hash, part, step};

/// The walls that we see of a box: the one that faces us, and one that recedes.
fn walls(canvas: &Canvas, thing: &Thing, bottom: f32, number: u8) -> (Wall, Option<Wall>) {
    let (wide, deep) = match thing.across {
        true => (thing.length, thing.width),
        false => (thing.width, thing.length),
    };
    let facing = Wall::facing(thing.x, thing.z, wide, bottom, thing.height, number);
    let seen = thing.x - canvas.camera.offset;
    let x = if seen > wide / 2.0 {
        thing.x - wide / 2.0
    } else if seen < -wide / 2.0 {
        thing.x + wide / 2.0
    } else {
        return (facing, None);
    };
    let receding = Wall {
        from: [x, thing.z],
        to: [x, thing.z + deep],
        ..facing
    };
    (facing, Some(receding))
}

pub(super) fn wheeled(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
    let deep = if thing.across {
        thing.width
    } else {
        thing.length
    };
    let wide = if thing.across {
        thing.length
    } else {
        thing.width
    };
    canvas.shadow(
        thing.x,
        [thing.z - 0.25, thing.z + deep + 0.3],
        wide + 0.25,
        0.8,
    );
    let (facing, receding) = walls(canvas, thing, 0.0, number);
    let (end, flank) = (
        Look::new(scene, thing, true),
        Look::new(scene, thing, false),
    );
    let (near, side) = if thing.across {
        (&flank, &end)
    } else {
        (&end, &flank)
    };
    if let Some(receding) = receding {
        canvas.wall(receding, |s, y, z| side.at(s, y, z));
    }
    canvas.wall(facing, |s, y, z| near.at(s, y, z));
    if thing.lamps && !thing.across {
        let colour = if thing.oncoming {
            [0.55, 0.53, 0.48]
        } else {
            [0.20, 0.012, 0.008]
        };
        let dark = if scene.light.headlamps > 0.3 {
            1.0
        } else {
            0.16
        };
        let half = thing.width / 2.0 - 0.25;
        let radius = canvas.camera.focal * if thing.oncoming { 0.17 } else { 0.12 } / thing.z;
        for x in [thing.x - half, thing.x + half] {
            let at = [
                canvas.camera.column(x, thing.z),
                canvas.camera.row(0.75, thing.z),
            ];
            let gain = dark * canvas.air.share(thing.z).max(0.2);
            canvas.glow(at, radius.clamp(1.0, 34.0), times(colour, gain), 0.9);
            reflect(canvas, scene, at[0], thing.z, radius, times(colour, 0.7));
        }
    }
}

/// How a side of a vehicle looks.
struct Look<'a> {
    scene: &'a Scene,
    thing: &'a Thing,
    end: bool,
    size: f32,
}

impl<'a> Look<'a> {
    fn new(scene: &'a Scene, thing: &'a Thing, end: bool) -> Look<'a> {
        let size = if end { thing.width } else { thing.length };
        Look {
            scene,
            thing,
            end,
            size,
        }
    }

    /// Light and cover at `s` metres along the side, `y` above the ground.
    fn at(&self, s: f32, y: f32, z: f32) -> (Rgb, f32) {
        let Look {
            scene, thing, size, ..
        } = *self;
        let light = scene.upright(thing.x, y, z);
        let soft = (z / 1000.0).max(0.012);
        let inside = |distance: f32| step(-soft, soft, distance);
        let from_edge = s.min(size - s);
        let large = thing.category != Category::Car;
        let clearance = if large { 0.42 } else { 0.24 };
        // Wheels first: they reach below the body.
        let radius = if large { 0.48 } else { 0.33 };
        if self.end {
            let wheel = from_edge > 0.08 && from_edge < 0.34 && y < clearance + 0.2;
            if y < clearance {
                return (lit(RUBBER, light), f32::from(wheel));
            }
        } else {
            let axle = radius + 0.42 + 0.1 * hash(thing.seed, 1, 0);
            let (dx, dy) = (from_edge - axle, y - radius);
            let far = (dx * dx + dy * dy).sqrt();
            if far < radius + 0.05 {
                let rim = far < radius * 0.62;
                let tone = if rim {
                    0.16 + 0.2 * hash(thing.seed, (dx * 14.0) as i32, (dy * 14.0) as i32)
                } else {
                    0.02
                };
                return (
                    lit([tone; 3], light),
                    inside(radius - far).max(f32::from(y > clearance + 0.08)),
                );
            }
            if y < clearance {
                return (RUBBER, 0.0);
            }
        }
        if large {
            self.large(s, y, from_edge, light, &inside)
        } else {
            self.car(s, y, from_edge, light, &inside)
        }
    }

    fn car(
        &self,
        s: f32,
        y: f32,
        from_edge: f32,
        light: Rgb,
        inside: &dyn Fn(f32) -> f32,
    ) -> (Rgb, f32) {
        let Look {
            scene, thing, size, ..
        } = *self;
        let belt = thing.height * 0.60;
        let sky = scene.light.sky_low;
        let metal = |gain: f32| -> Rgb {
            let gloss = 0.10 * step(0.5, 1.0, y) + 0.02;
            std::array::from_fn(|c| thing.colour[c] * light[c] * gain + gloss * sky[c])
        };
        if y > belt {
            let up = (y - belt) / (thing.height - belt);
            let slope = if self.end {
                0.16 + 0.20 * up * up
            } else {
                0.42 + 0.85 * up
            };
            let cover = inside(from_edge - slope) * inside(0.985 - up * (1.0 + 0.05 * up));
            let pillar = if self.end { 0.12 } else { 0.11 };
            let post = !self.end && ((s / size - 0.48).abs() < 0.018);
            if from_edge - slope > pillar && up < 0.86 && up > 0.05 && !post {
                let mirrored = 0.05 + 0.20 * up;
                let streak = 0.6 + 0.8 * GRAVEL.at(s * 13.0, y * 22.0);
                let glass =
                    std::array::from_fn(|c| GLASS[c] * light[c] + mirrored * sky[c] * streak * 0.6);
                return (glass, cover);
            }
            return (metal(0.95), cover);
        }
        let round = if y < 0.4 { (0.4 - y) * 0.5 } else { 0.0 };
        let cover = inside(from_edge - round);
        if self.end {
            let middle = (s - size / 2.0).abs();
            let lamp_low = thing.height * 0.43;
            let lamp = middle > size * 0.30 && (lamp_low..lamp_low + 0.17).contains(&y);
            if lamp {
                let on = thing.lamps;
                let colour = match (thing.oncoming, on) {
                    (true, true) => HEAD,
                    (true, false) => lit([0.6, 0.6, 0.62], light),
                    (false, true) => TAIL,
                    (false, false) => lit([0.30, 0.02, 0.015], light),
                };
                return (colour, cover);
            }
            let plate = middle < 0.25 && (0.52..0.65).contains(&y);
            if plate {
                let letters =
                    hash(thing.seed, (s * 26.0) as i32, 4) > 0.55 && (0.545..0.625).contains(&y);
                let tone = if letters { 0.1 } else { 0.55 };
                return (lit([tone; 3], light), cover);
            }
            if thing.oncoming && middle < size * 0.27 && (0.42..0.68).contains(&y) {
                let bars = if part(y * 24.0) < 0.5 { 0.03 } else { 0.09 };
                return (lit([bars; 3], light), cover);
            }
            if y < 0.42 {
                return (metal(0.45), cover);
            }
            let seam = (y - thing.height * 0.4).abs() < 0.012;
            return (metal(if seam { 0.5 } else { 0.72 + 0.3 * y }), cover);
        }
        let door = [0.30, 0.48, 0.67]
            .iter()
            .any(|at| (s / size - at).abs() < 0.004);
        let handle = [0.36, 0.54].iter().any(|at| (s / size - at).abs() < 0.02)
            && (y - belt + 0.12).abs() < 0.02;
        let lamp_here =
            from_edge < 0.22 && (thing.height * 0.43..thing.height * 0.43 + 0.16).contains(&y);
        if lamp_here {
            let rear = (s < size / 2.0) != thing.oncoming;
            let colour: Rgb = if rear {
                [0.35, 0.02, 0.015]
            } else {
                [0.55, 0.55, 0.57]
            };
            return (lit(colour, light), cover);
        }
        let crease = if (y - 0.62).abs() < 0.018 { 1.25 } else { 1.0 };
        let gain = if door || handle {
            0.35
        } else {
            (0.55 + 0.42 * y) * crease
        };
        (metal(if y < 0.36 { 0.3 } else { gain }), cover)
    }

    fn large(
        &self,
        s: f32,
        y: f32,
        from_edge: f32,
        light: Rgb,
        inside: &dyn Fn(f32) -> f32,
    ) -> (Rgb, f32) {
        let Look {
            scene, thing, size, ..
        } = *self;
        let bus = thing.category == Category::Bus;
        let cover = inside(from_edge) * inside(thing.height - y);
        let dirt = 0.75 + 0.3 * GRAVEL.at(s * 22.0, y * 22.0);
        let shell = if bus {
            thing.colour
        } else {
            times([0.50, 0.50, 0.49], 0.55 + 0.7 * hash(thing.seed, 9, 9))
        };
        let glass: Rgb =
            std::array::from_fn(|c| GLASS[c] * light[c] + 0.10 * scene.light.sky_low[c]);
        let top = thing.height;
        if self.end {
            let middle = (s - size / 2.0).abs();
            if middle > size * 0.38 && (0.75..1.05).contains(&y) {
                let colour = match (thing.oncoming, thing.lamps) {
                    (true, true) => HEAD,
                    (true, false) => [0.5, 0.5, 0.5],
                    (false, true) => TAIL,
                    (false, false) => lit([0.3, 0.02, 0.02], light),
                };
                return (colour, cover);
            }
            if y < 0.7 {
                return (lit([0.05; 3], light), cover);
            }
            let window = match (bus, thing.oncoming) {
                (_, true) => (1.35..2.45).contains(&y) && middle < size * 0.45,
                (true, false) => (1.7..2.5).contains(&y) && middle < size * 0.38,
                (false, false) => false,
            };
            if window {
                return (glass, cover);
            }
            if bus && (top - 0.38..top - 0.1).contains(&y) && middle < size * 0.33 {
                let on = hash(thing.seed, (s * 12.0) as i32, (y * 14.0) as i32) > 0.5;
                return (if on { [1.1, 0.55, 0.06] } else { [0.02; 3] }, cover);
            }
            let doors =
                !bus && !thing.oncoming && (middle < 0.025 || (middle - size * 0.47).abs() < 0.02);
            let hinge = !bus && !thing.oncoming && part(y / 0.8) < 0.06 && middle > size * 0.4;
            let gain = if doors || hinge { 0.4 } else { 0.95 };
            return (times(lit(shell, light), gain * dirt), cover);
        }
        if bus {
            let window = (1.35..2.45).contains(&y) && part(s / 1.45) > 0.07 && from_edge > 0.3;
            if window {
                let inside_lit = if scene.is_night() { 0.30 } else { 0.0 };
                return (
                    glass.map(|c| c + inside_lit * (0.5 + GRAVEL.at(s * 9.0, y * 9.0))),
                    cover,
                );
            }
            let stripe = (0.95..1.15).contains(&y);
            let own = if stripe { [0.6, 0.6, 0.6] } else { shell };
            return (times(lit(own, light), dirt), cover);
        }
        if y < 0.95 {
            return (lit([0.04; 3], light), cover * 0.9);
        }
        // The cab is at the front, the box takes the rest.
        let from_front = if thing.oncoming { s } else { size - s };
        if from_front < 2.1 {
            if y > 2.6 {
                return (RUBBER, 0.0);
            }
            let window = (1.6..2.3).contains(&y) && (0.3..1.4).contains(&from_front);
            let cab = lit(thing.colour, light);
            return (if window { glass } else { times(cab, 0.9) }, cover);
        }
        let writing = (1.9..2.7).contains(&y)
            && (3.0..size - 1.0).contains(&from_front)
            && hash(thing.seed, (s * 2.2) as i32, (y * 2.5) as i32) > 0.35;
        let own = if writing { thing.colour } else { shell };
        let rib = if part(s * 2.5) < 0.06 { 0.8 } else { 1.0 };
        (times(lit(own, light), dirt * rib), cover)
    }
}

pub(super) fn train(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
    let light = scene.upright(20.0, 1.5, thing.z);
    let wall = Wall::facing(thing.x, thing.z, thing.length, 0.5, thing.height, number);
    canvas.wall(wall, |s, y, _| {
        let gap = part(s / 18.0) < 0.02;
        let window = (1.9..2.9).contains(&y) && part(s / 1.9) > 0.2;
        let door = part(s / 6.0) < 0.16 && y < 3.2;
        let own: Rgb = if y < 1.0 || gap {
            [0.03; 3]
        } else if window {
            [0.06, 0.07, 0.08]
        } else if door {
            [0.45, 0.05, 0.04]
        } else if (1.2..1.6).contains(&y) {
            thing.colour
        } else {
            [0.45, 0.46, 0.47]
        };
        let glow = if window && scene.is_night() { 0.4 } else { 0.0 };
        let grain = 0.8 + 0.3 * GRAVEL.at(s * 9.0, y * 20.0);
        (
            std::array::from_fn(|c| own[c] * light[c] * grain + glow * [1.0, 0.9, 0.7][c]),
            1.0,
        )
    });
}
