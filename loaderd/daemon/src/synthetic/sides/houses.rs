//! Houses along the road.
//!
//! Enters: a scene. Leaves: their walls and roofs on the canvas, far ones first. Never: a thing with
//! a label.

use super::SNOW;
use crate::synthetic::canvas::{Canvas, Rgb, Wall, lit, mix, times};
use crate::synthetic::scene::{Place, Scene};
use crate::synthetic::texture::{CLOUDS, Dice, GRAVEL, floor, hash, part, step};

/// A house along the road.
struct House {
    side: f32,
    /// X of the wall along the road, Z of its ends.
    x: f32,
    z: [f32; 2],
    height: f32,
    colour: Rgb,
    floor: f32,
    bay: f32,
    shop: bool,
    roof: bool,
    seed: u32,
}

/// Houses on both sides, far ones first.
pub(in crate::synthetic) fn houses(canvas: &mut Canvas, scene: &Scene, dice: &mut Dice) {
    let road = &scene.road;
    let (low, high, gap, setback) = match scene.place {
        Place::City => (7.0, 42.0, 2.5, 1.0),
        Place::Residential => (3.6, 7.5, 13.0, 8.0),
        Place::Parking => (5.0, 12.0, 30.0, 6.0),
        Place::GasStation => (3.5, 9.0, 25.0, 10.0),
        Place::Highway | Place::Tunnel => return,
    };
    let mut houses = Vec::new();
    for side in [-1.0, 1.0] {
        let edge = if side > 0.0 { road.right } else { -road.left };
        let mut z = dice.between(-12.0, 14.0);
        while z < 230.0 {
            let long = dice.between(9.0, 30.0);
            let tone = dice.between(0.10, 0.5);
            let warm = dice.between(0.0, 0.3);
            houses.push(House {
                side,
                x: side * (edge + road.pavement + dice.between(0.0, setback) + 0.2),
                z: [z, z + long],
                height: low + (high - low) * dice.unit() * dice.unit(),
                colour: [tone, tone * (1.0 - 0.5 * warm), tone * (1.0 - warm)],
                floor: dice.between(3.0, 3.7),
                bay: dice.between(1.9, 4.0),
                shop: scene.place == Place::City && dice.chance(0.75),
                roof: scene.place == Place::Residential,
                seed: dice.word(),
            });
            z += long + dice.unit() * dice.unit() * gap;
            if dice.chance(0.12) {
                z += gap + 7.0;
            }
        }
    }
    houses.sort_by(|a, b| b.z[0].total_cmp(&a.z[0]));
    for house in &houses {
        let deep = house.x + house.side * 14.0;
        let wall = |from, to| Wall {
            from,
            to,
            bottom: 0.0,
            top: house.height,
            thing: 0,
        };
        if house.roof {
            roof(canvas, scene, house, deep);
        }
        if house.z[0] > 2.0 {
            let front = wall([house.x, house.z[0]], [deep, house.z[0]]);
            canvas.wall(front, |s, y, z| {
                (facade(scene, house, s + 100.0, y, z, house.x * 1.4), 1.0)
            });
        }
        let side = wall([house.x, house.z[0]], [house.x, house.z[1]]);
        canvas.wall(side, |s, y, z| {
            (facade(scene, house, s, y, z, house.x), 1.0)
        });
    }
}

/// A gable roof over a low house, as its end shows it.
fn roof(canvas: &mut Canvas, scene: &Scene, house: &House, deep: f32) {
    let rise = 3.2;
    let width = (deep - house.x).abs();
    let z = house.z[0].max(2.0);
    let tile: Rgb = if scene.light.snow > 0.3 {
        SNOW
    } else {
        times([0.22, 0.11, 0.08], 0.5 + hash(house.seed, 3, 3))
    };
    // The slope in strips, the ridge first.
    const STRIPS: u32 = 8;
    let strip = rise / STRIPS as f32;
    for up in (0..STRIPS).rev() {
        let x = house.x + house.side * (up as f32 * strip * 2.0 - 0.5);
        let bottom = house.height + up as f32 * strip;
        let along = Wall {
            from: [x, z],
            to: [x, house.z[1]],
            bottom,
            top: bottom + strip,
            thing: 0,
        };
        canvas.wall(along, |s, y, z| {
            let row = part((y - house.height) * 5.0);
            let light = scene.upright(house.x, 1.0, z);
            let grain = GRAVEL.at(s * 40.0, y * 90.0);
            (
                times(lit(tile, light), (0.8 + 0.5 * grain) * (1.3 - 0.3 * row)),
                1.0,
            )
        });
    }
    let end = Wall {
        from: [house.x, z],
        to: [deep, z],
        bottom: house.height,
        top: house.height + rise,
        thing: 0,
    };
    canvas.wall(end, |s, y, z| {
        let half = width / 2.0 * (1.0 - (y - house.height) / rise);
        let inside = step(-0.05, 0.05, half - (s - width / 2.0).abs());
        (facade_plain(scene, house, s, y, z), inside)
    });
}

fn facade_plain(scene: &Scene, house: &House, s: f32, y: f32, z: f32) -> Rgb {
    let dirt = 0.62 + 0.3 * CLOUDS.at(s * 22.0, y * 22.0) + 0.28 * GRAVEL.near(s * 90.0, y * 90.0);
    let course = if part(y * 4.0) < 0.14 { 0.88 } else { 1.0 };
    times(
        lit(house.colour, scene.upright(house.x, y, z)),
        dirt * course,
    )
}

fn facade(scene: &Scene, house: &House, s: f32, y: f32, z: f32, x: f32) -> Rgb {
    let plain = || facade_plain(scene, house, s, y, z);
    let light = scene.upright(x, y, z);
    let storey = floor(y / house.floor) as f32;
    let up = y / house.floor - storey;
    let bay = floor(s / house.bay) as f32;
    let across = s / house.bay - bay;
    let chance = hash(house.seed, bay as i32, storey as i32);
    if house.height - y < 0.45 {
        let cornice = if scene.light.snow > 0.3 {
            SNOW
        } else {
            times(house.colour, 1.35)
        };
        return lit(cornice, light);
    }
    let ground_floor = storey == 0.0;
    if house.shop && ground_floor {
        if up > 0.78 {
            let awning = [
                hash(house.seed, 1, 0),
                hash(house.seed, 2, 0),
                hash(house.seed, 3, 0),
            ];
            let stripe = if part(s * 1.6) < 0.5 { 1.0 } else { 0.55 };
            let glow = if scene.is_night() { 0.5 } else { 0.0 };
            let sign = times(awning.map(|c| 0.05 + 0.55 * c * c), stripe);
            return std::array::from_fn(|c| sign[c] * (light[c] + glow));
        }
        if (0.08..0.92).contains(&across) && up > 0.12 {
            // Shelves and goods behind the glass.
            let shelf = if part(y * 2.3) < 0.12 { 0.35 } else { 1.0 };
            let good = |n: i32| hash(house.seed, (s * 3.3) as i32, (y * 2.3) as i32 * 7 + n);
            let inside = shelf * (0.25 + 0.75 * CLOUDS.at(s * 70.0, y * 50.0));
            let lamp = if scene.is_night() && chance < 0.7 {
                0.62
            } else {
                0.10
            };
            let goods: Rgb = [
                inside * (0.4 + 0.6 * good(1)),
                inside * (0.3 + 0.6 * good(2)),
                inside * (0.2 + 0.6 * good(3)),
            ];
            let glass = times(scene.light.sky_low, 0.12);
            return std::array::from_fn(|c| goods[c] * lamp * [1.0, 0.85, 0.6][c] + glass[c]);
        }
        return times(plain(), 0.6);
    }
    let window = (0.24..0.76).contains(&across) && (0.26..0.80).contains(&up);
    let door = ground_floor && chance < 0.3 && (0.3..0.6).contains(&across) && up < 0.68;
    if door {
        return times(
            lit([0.20, 0.09, 0.05], light),
            0.5 + GRAVEL.at(s * 80.0, y * 30.0),
        );
    }
    if !window {
        return plain();
    }
    let frame = !(0.28..=0.72).contains(&across) || (0.49..0.51).contains(&across) || up > 0.77;
    if frame {
        return lit([0.45, 0.44, 0.42], light);
    }
    if scene.is_night() {
        let on = chance < 0.27;
        let tint: Rgb = if chance < 0.06 {
            [0.35, 0.45, 0.6]
        } else {
            [0.75, 0.48, 0.2]
        };
        let curtain = 0.35 + 0.65 * CLOUDS.at(s * 40.0, y * 20.0);
        return if on {
            times(tint, curtain)
        } else {
            times(light, 0.05)
        };
    }
    let mirrored = mix(scene.light.sky_low, scene.light.sky_top, up);
    let curtain = if chance > 0.6 { 0.22 } else { 0.05 };
    let gain = 0.16
        + 0.5 * hash(house.seed, bay as i32, storey as i32 + 99) * CLOUDS.at(s * 15.0, y * 15.0);
    std::array::from_fn(|c| mirrored[c] * gain + curtain * light[c])
}
