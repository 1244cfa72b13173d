//! The things that are labelled: where they are put, and how they look.
//!
//! Enters: a scene. Leaves: things at places where such things are, and their walls on the canvas
//! under the thing's number. Never: a label; those are read off the finished canvas.

use super::canvas::{Canvas, Rgb, Wall, lit, times};
use super::scene::{Category, Place, Scene};
use super::sides::reflect;
use super::texture::{Dice, GRAVEL, hash, part, step};

const TAIL: Rgb = [0.95, 0.035, 0.02];
const HEAD: Rgb = [3.6, 3.4, 3.0];
const RUBBER: Rgb = [0.018, 0.018, 0.019];
const GLASS: Rgb = [0.03, 0.035, 0.04];

/// A labelled thing.
#[derive(Clone, Copy)]
pub(super) struct Thing {
    pub(super) category: Category,
    /// X of its middle, Z of its near end, and its height over the ground.
    pub(super) x: f32,
    pub(super) z: f32,
    pub(super) y: f32,
    width: f32,
    length: f32,
    height: f32,
    /// Whether its front faces us, and whether it stands across the road.
    oncoming: bool,
    across: bool,
    /// Whether its lamps are on.
    lamps: bool,
    colour: Rgb,
    seed: u32,
}

/// Things of a frame, at most [`u8::MAX`].
pub(super) fn place(scene: &Scene, dice: &mut Dice) -> Vec<Thing> {
    let mut things = Vec::new();
    let road = &scene.road;
    let (left, right) = (road.lanes_left as i32, road.lanes_right as i32);
    let traffic = match scene.place {
        Place::Parking | Place::GasStation => 0.0,
        Place::Residential => 0.25,
        _ => dice.between(0.35, 1.0),
    };
    for lane in -left..=right {
        let mut z = dice.between(7.0, 45.0);
        while z < 190.0 && traffic > 0.0 {
            if dice.chance(traffic) {
                let x = lane as f32 * road.lane + dice.between(-0.25, 0.25);
                things.push(vehicle(scene, dice, x, z, false));
            }
            z += dice.between(9.0, 26.0) * (1.0 + z / 120.0);
        }
    }
    for lane in 0..road.oncoming {
        let middle = -(1.0 + left as f32 + lane as f32) * road.lane - road.median;
        let mut z = dice.between(5.0, 40.0);
        while z < 190.0 && traffic > 0.0 {
            if dice.chance(traffic * 0.8) {
                let x = middle + dice.between(-0.2, 0.2);
                things.push(vehicle(scene, dice, x, z, true));
            }
            z += dice.between(10.0, 34.0) * (1.0 + z / 120.0);
        }
    }
    parked(scene, dice, &mut things);
    people(scene, dice, &mut things);
    posts(scene, dice, &mut things);
    if scene.place == Place::City && dice.chance(0.02) {
        let z = dice.between(45.0, 90.0);
        things.push(Thing {
            width: 3.0,
            length: 90.0,
            height: 4.2,
            across: true,
            ..thing(Category::Train, 0.0, z, dice)
        });
    }
    things.truncate(usize::from(u8::MAX));
    things
}

fn thing(category: Category, x: f32, z: f32, dice: &mut Dice) -> Thing {
    Thing {
        category,
        x,
        z,
        y: 0.0,
        width: 0.6,
        length: 0.4,
        height: 1.7,
        oncoming: false,
        across: false,
        lamps: false,
        colour: paintwork(dice),
        seed: dice.word(),
    }
}

fn paintwork(dice: &mut Dice) -> Rgb {
    const COLOURS: [Rgb; 10] = [
        [0.60, 0.60, 0.59],
        [0.32, 0.33, 0.34],
        [0.11, 0.115, 0.12],
        [0.02, 0.02, 0.022],
        [0.03, 0.06, 0.18],
        [0.32, 0.02, 0.02],
        [0.03, 0.10, 0.06],
        [0.30, 0.24, 0.15],
        [0.08, 0.19, 0.33],
        [0.50, 0.36, 0.03],
    ];
    let colour = COLOURS[dice.weighted(&[4.0, 3.5, 3.0, 3.0, 1.3, 1.2, 0.4, 0.6, 0.7, 0.4])];
    times(colour, dice.between(0.8, 1.2))
}

fn vehicle(scene: &Scene, dice: &mut Dice, x: f32, z: f32, oncoming: bool) -> Thing {
    let kinds: [f32; 4] = match scene.place {
        Place::Highway => [0.80, 0.17, 0.02, 0.01],
        Place::City => [0.86, 0.06, 0.06, 0.02],
        _ => [0.93, 0.04, 0.01, 0.02],
    };
    let category = [
        Category::Car,
        Category::Truck,
        Category::Bus,
        Category::Motor,
    ][dice.weighted(&kinds)];
    let (width, length, height) = match category {
        Category::Truck => (2.5, dice.between(7.0, 13.0), dice.between(3.0, 3.9)),
        Category::Bus => (2.55, dice.between(10.0, 12.5), dice.between(2.9, 3.2)),
        Category::Motor => (0.75, 2.0, 1.15),
        _ => (
            dice.between(1.72, 1.95),
            dice.between(3.9, 4.9),
            dice.between(1.42, 1.82),
        ),
    };
    Thing {
        width,
        length,
        height,
        oncoming,
        lamps: scene.light.headlamps > 0.0 || scene.light.wet > 0.0 || dice.chance(0.12),
        ..thing(category, x, z, dice)
    }
}

fn parked(scene: &Scene, dice: &mut Dice, things: &mut Vec<Thing>) {
    let road = &scene.road;
    match scene.place {
        Place::City | Place::Residential => {
            let full = dice.between(0.1, 0.8);
            for (x, oncoming) in [(road.right - 1.1, false), (road.left + 1.1, true)] {
                let mut z = dice.between(3.0, 9.0);
                while z < 130.0 {
                    if dice.chance(full) {
                        let mut car = vehicle(scene, dice, x, z, oncoming);
                        car.lamps = false;
                        if matches!(car.category, Category::Car | Category::Truck) {
                            things.push(car);
                        }
                    }
                    z += dice.between(5.6, 7.5);
                }
            }
        }
        Place::Parking => {
            let full = dice.between(0.35, 0.85);
            for side in [-1.0, 1.0] {
                for row in 0..2 {
                    let x = side * (road.lane / 2.0 + 2.6 + 5.2 * row as f32);
                    for stall in 2..30 {
                        if dice.chance(full * if stall > 16 { 0.5 } else { 1.0 }) {
                            let mut car =
                                vehicle(scene, dice, x, stall as f32 * 2.6 + 0.4, side > 0.0);
                            if car.category == Category::Car {
                                (car.across, car.lamps) = (true, false);
                                things.push(car);
                            }
                        }
                    }
                }
            }
        }
        Place::GasStation => {
            for _ in 0..dice.count(1, 5) {
                let x = *dice.pick(&[-9.0, 5.2, 12.0]);
                let z = dice.between(9.0, 36.0);
                let oncoming = dice.chance(0.5);
                things.push(vehicle(scene, dice, x, z, oncoming));
            }
        }
        Place::Highway | Place::Tunnel => {}
    }
}

fn people(scene: &Scene, dice: &mut Dice, things: &mut Vec<Thing>) {
    let road = &scene.road;
    let most = match scene.place {
        Place::City => 11,
        Place::Residential => 3,
        Place::Parking | Place::GasStation => 4,
        Place::Highway | Place::Tunnel => return,
    };
    for _ in 0..dice.count(0, most) {
        let edge = if dice.chance(0.6) {
            road.right
        } else {
            road.left
        };
        let walk = road.pavement.max(1.2);
        let x = match scene.place {
            Place::Parking | Place::GasStation => dice.between(-7.0, 9.0),
            _ => edge + edge.signum() * dice.between(0.3, walk),
        };
        let z = 5.0 + 65.0 * dice.unit() * dice.unit();
        let height = dice.between(1.5, 1.9);
        things.push(Thing {
            height,
            width: 0.75,
            ..thing(Category::Person, x, z, dice)
        });
    }
    if dice.chance(0.10) {
        let (x, z) = (dice.between(-3.0, 3.0), dice.between(9.0, 28.0));
        let height = dice.between(1.6, 1.85);
        things.push(Thing {
            height,
            width: 0.75,
            across: true,
            ..thing(Category::Person, x, z, dice)
        });
    }
    if dice.chance(0.22) {
        let (x, z) = (road.right - dice.between(2.5, 2.9), dice.between(8.0, 40.0));
        let across = dice.chance(0.3);
        let (width, length) = if across { (1.75, 0.6) } else { (0.6, 1.75) };
        let bike = thing(Category::Bike, x, z, dice);
        things.push(Thing {
            height: 1.05,
            width,
            length,
            across,
            ..bike
        });
        things.push(Thing {
            height: 1.72,
            width: 0.8,
            y: 0.35,
            across,
            ..thing(Category::Rider, x, z - 0.02, dice)
        });
    }
    // Whoever drives a motorcycle sits on it.
    let motors: Vec<Thing> = (things.iter())
        .filter(|it| it.category == Category::Motor)
        .copied()
        .collect();
    for motor in motors {
        let rider = thing(Category::Rider, motor.x, motor.z - 0.02, dice);
        things.push(Thing {
            height: 1.62,
            width: 0.8,
            y: 0.45,
            ..rider
        });
    }
}

fn posts(scene: &Scene, dice: &mut Dice, things: &mut Vec<Thing>) {
    let road = &scene.road;
    if scene.place == Place::City && dice.chance(0.75) {
        let z = dice.between(16.0, 85.0);
        let state = dice.word();
        for (x, y) in [
            (road.right + 0.5, 3.1),
            (0.0, 5.3),
            (road.left - 0.5, 3.1),
            (road.lane, 5.3),
        ] {
            if dice.chance(0.75) {
                let light = thing(Category::TrafficLight, x, z, dice);
                things.push(Thing {
                    y,
                    width: 0.38,
                    height: 1.05,
                    seed: state,
                    ..light
                });
            }
        }
    }
    let signs = match scene.place {
        Place::Tunnel => dice.count(0, 1),
        Place::Highway => dice.count(0, 2),
        _ => dice.count(0, 3),
    };
    for _ in 0..signs {
        let (x, z) = (
            road.right + dice.between(0.35, 1.2),
            dice.between(10.0, 80.0),
        );
        let size = dice.between(0.62, 0.9);
        let sign = thing(Category::TrafficSign, x, z, dice);
        things.push(Thing {
            y: dice.between(2.0, 2.5),
            width: size,
            height: size,
            ..sign
        });
    }
    if scene.place == Place::Highway && dice.chance(0.45) {
        let z = dice.between(35.0, 140.0);
        for x in [0.3, 5.2] {
            let panel = thing(Category::TrafficSign, x, z, dice);
            things.push(Thing {
                y: 5.8,
                width: 4.2,
                height: 2.5,
                ..panel
            });
        }
    }
}

/// Paints a thing under `number`.
pub(super) fn paint(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
    match thing.category {
        Category::Car | Category::Truck | Category::Bus => wheeled(canvas, scene, thing, number),
        Category::Person | Category::Rider => human(canvas, scene, thing, number),
        Category::Bike | Category::Motor => two_wheels(canvas, scene, thing, number),
        Category::TrafficLight => traffic_light(canvas, scene, thing, number),
        Category::TrafficSign => sign(canvas, scene, thing, number),
        Category::Train => train(canvas, scene, thing, number),
    }
}

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

fn wheeled(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
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

/// The distance of a point from a line between two others, less `radius`.
fn limb(at: [f32; 2], from: [f32; 2], to: [f32; 2], radius: f32) -> f32 {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let t = ((at[0] - from[0]) * dx + (at[1] - from[1]) * dy) / (dx * dx + dy * dy).max(1e-6);
    let t = t.clamp(0.0, 1.0);
    let (px, py) = (at[0] - from[0] - t * dx, at[1] - from[1] - t * dy);
    (px * px + py * py).sqrt() - radius
}

fn human(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
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

fn two_wheels(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
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

fn traffic_light(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
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

fn sign(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
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
                    let octagon = rim.max((u.abs() + v.abs()) * 0.7071);
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

fn train(canvas: &mut Canvas, scene: &Scene, thing: &Thing, number: u8) {
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
