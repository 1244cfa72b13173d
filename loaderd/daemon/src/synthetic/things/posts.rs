//! How traffic lights and signs look.
//!
//! Enters: a thing and its number. Leaves: its face under that number, and its post under none.
//! Never: a word that could be read.

use super::Thing;
use crate::synthetic::canvas::{Canvas, Rgb, Wall, lit, times};
use crate::synthetic::scene::Scene;
use crate::synthetic::sides::reflect;
use crate::synthetic::texture::{hash, part};

pub(super) fn traffic_light(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
    let light = scene.upright(thing.x, 3.0, thing.z);
    let steel = lit([0.10, 0.11, 0.10], light);
    let far = thing.z + 0.15;
    if thing.y < 4.0 {
        canvas.wall(
            Wall::facing(thing.x, far, 0.14, 0.0, thing.y + 0.2, 0),
            |_, _, _| (steel, 1.0),
        );
    } else {
        let right = scene.road.right + 0.6;
        let mast = Wall {
            from: [thing.x - 0.3, far],
            to: [right, far],
            bottom: 5.6,
            top: 5.78,
            thing: 0,
        };
        canvas.wall(mast, |_, _, _| (steel, 1.0));
        canvas.wall(Wall::facing(right, far, 0.22, 0.0, 5.8, 0), |_, _, _| {
            (steel, 1.0)
        });
    }
    const STATES: [(f32, Rgb); 3] = [
        (0.82, [1.6, 0.10, 0.05]),
        (0.50, [1.5, 0.75, 0.06]),
        (0.18, [0.08, 1.3, 0.62]),
    ];
    let state = [0, 2, 2, 0, 1][(thing.seed % 5) as usize];
    let (height, colour) = STATES[state];
    let wall = Wall::facing(
        thing.x,
        thing.z,
        thing.width,
        thing.y,
        thing.y + thing.height,
        number,
    );
    let housing: Rgb = if thing.seed & 64 == 0 {
        [0.015, 0.016, 0.015]
    } else {
        [0.42, 0.27, 0.02]
    };
    canvas.wall(wall, |s, y, _| {
        let (u, v) = (s - thing.width / 2.0, (y - thing.y) / thing.height);
        for (at, lamp) in STATES {
            let dy = (v - at) * thing.height;
            if u * u + dy * dy < 0.0196 {
                let on = at == height;
                return (if on { lamp } else { times(lamp, 0.02) }, 1.0);
            }
        }
        (lit(housing, light), 1.0)
    });
    let at = [
        canvas.camera.column(thing.x, thing.z),
        canvas.camera.row(thing.y + height * thing.height, thing.z),
    ];
    let radius = (canvas.camera.focal * 0.16 / thing.z).clamp(1.0, 20.0);
    let gain = if scene.is_night() { 0.5 } else { 0.12 };
    canvas.glow(at, radius, times(colour, gain), 1.0);
    reflect(canvas, scene, at[0], thing.z, radius, times(colour, 0.3));
}

pub(super) fn sign(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
    // Retroreflective: our own lamps come straight back.
    let mut light = scene.upright(thing.x, thing.y, thing.z);
    let back = scene.light.headlamps * 1.1 / (1.0 + (thing.z / 45.0) * (thing.z / 45.0));
    light = light.map(|c| c + back);
    let steel = lit([0.22, 0.22, 0.22], scene.upright(thing.x, 1.5, thing.z));
    let top = thing.y + thing.height;
    let far = thing.z + 0.06;
    let large = thing.width > 2.0;
    if large {
        let gantry = Wall {
            from: [-0.6 * scene.road.lane, far],
            to: [scene.road.right + 1.5, far],
            bottom: top - 1.6,
            top: top - 1.2,
            thing: 0,
        };
        canvas.wall(gantry, |s, _, _| {
            (times(steel, 0.5 + 0.5 * part(s * 1.3)), 1.0)
        });
        let pole = Wall::facing(scene.road.right + 1.3, far, 0.4, 0.0, top, 0);
        canvas.wall(pole, |_, _, _| (steel, 1.0));
    } else {
        canvas.wall(
            Wall::facing(thing.x, far, 0.08, 0.0, thing.y + 0.1, 0),
            |_, _, _| (steel, 1.0),
        );
    }
    let kind = thing.seed % 5;
    let wall = Wall::facing(thing.x, thing.z, thing.width, thing.y, top, number);
    canvas.wall(wall, |s, y, _| {
        let (u, v) = (
            2.0 * s / thing.width - 1.0,
            2.0 * (y - thing.y) / thing.height - 1.0,
        );
        const WHITE: Rgb = [0.75, 0.75, 0.74];
        const RED: Rgb = [0.50, 0.02, 0.025];
        const BLUE: Rgb = [0.02, 0.10, 0.36];
        const GREEN: Rgb = [0.01, 0.19, 0.09];
        const AMBER: Rgb = [0.75, 0.42, 0.02];
        let (far, rim) = ((u * u + v * v).sqrt(), u.abs().max(v.abs()));
        let letters =
            |fine: f32| hash(thing.seed, (u * fine) as i32, (v * fine * 0.55) as i32) > 0.5;
        let (colour, cover) = if large {
            let text = rim < 0.82 && letters(9.0) && part(v * 3.0) < 0.55;
            let edge = rim > 0.93;
            (if text || edge { WHITE } else { GREEN }, 1.0)
        } else {
            match kind {
                // Stop: an octagon.
                0 => {
                    let octagon = rim.max((u.abs() + v.abs()) * std::f32::consts::FRAC_1_SQRT_2);
                    let word = v.abs() < 0.22 && u.abs() < 0.7 && letters(7.0);
                    (
                        if octagon > 0.88 || word { WHITE } else { RED },
                        f32::from(octagon < 0.98),
                    )
                }
                // A limit: a red ring.
                1 => {
                    let digits = far < 0.6 && v.abs() < 0.38 && letters(4.0);
                    let colour = if far > 0.76 {
                        RED
                    } else if digits {
                        [0.02; 3]
                    } else {
                        WHITE
                    };
                    (colour, f32::from(far < 1.0))
                }
                // A warning: a diamond.
                2 => {
                    let diamond = u.abs() + v.abs();
                    let mark = diamond < 0.5 && letters(5.0);
                    let colour = if (0.86..0.94).contains(&diamond) || mark {
                        [0.02; 3]
                    } else {
                        AMBER
                    };
                    (colour, f32::from(diamond < 1.0))
                }
                // Directions and parking: plates.
                3 => (
                    if rim < 0.6 && letters(4.0) {
                        WHITE
                    } else {
                        BLUE
                    },
                    1.0,
                ),
                _ => (
                    if rim < 0.75 && letters(5.0) {
                        [0.03; 3]
                    } else {
                        WHITE
                    },
                    1.0,
                ),
            }
        };
        (lit(colour, light), cover)
    });
}
