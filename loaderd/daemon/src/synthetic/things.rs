//! The things that are labelled: where they are put, and how they look.
//!
//! Enters: a scene. Leaves: things at places where such things are, and their walls on the canvas
//! under the thing's number. Never: a label; those are read off the finished canvas.

mod people;
mod posts;
mod vehicles;

use super::canvas::{Canvas, Rgb, times};
use super::scene::{Category, Place, Scene};
use super::texture::Dice;

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
        Category::Car | Category::Truck | Category::Bus => {
            vehicles::wheeled(canvas, scene, thing, number)
        }
        Category::Person | Category::Rider => people::human(canvas, scene, thing, number),
        Category::Bike | Category::Motor => people::two_wheels(canvas, scene, thing, number),
        Category::TrafficLight => posts::traffic_light(canvas, scene, thing, number),
        Category::TrafficSign => posts::sign(canvas, scene, thing, number),
        Category::Train => vehicles::train(canvas, scene, thing, number),
    }
}
