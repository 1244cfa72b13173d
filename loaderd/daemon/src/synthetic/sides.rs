//! What stands beside the road and has no label: houses, trees, lamps, barriers, a tunnel's walls.
//!
//! Enters: a scene. Leaves: walls on the canvas, far ones first. Never: a thing with a label.

mod houses;

pub(super) use houses::houses;

use super::canvas::{Canvas, HEIGHT, Rgb, WIDTH, Wall, lit, mix, times};
use super::scene::{Place, Scene};
use super::texture::{CLOUDS, Dice, GRAVEL, fade, hash, part, step};

const SNOW: Rgb = [0.78, 0.80, 0.85];
const LAMP: Rgb = [2.6, 2.0, 1.2];

/// Walls and roof of a tunnel, with its lamps.
pub(super) fn tunnel(canvas: &mut Canvas, scene: &Scene) {
    let road = &scene.road;
    let top = 5.4;
    let (left, right) = (road.left - road.pavement, road.right + road.pavement);
    let concrete = |x: f32, y: f32, z: f32| -> Rgb {
        let dirt =
            0.6 + 0.35 * CLOUDS.at(z * 9.0, y * 25.0) + 0.3 * (GRAVEL.at(z * 40.0, y * 60.0) - 0.5);
        let joint = if part(z / 6.0) < 0.012 { 0.6 } else { 1.0 };
        let tiles: Rgb = if y < 2.6 {
            [0.55, 0.54, 0.48]
        } else {
            [0.26, 0.25, 0.23]
        };
        times(lit(tiles, scene.upright(x, y, z)), dirt * joint)
    };
    // The roof, row by row as the ground is.
    let camera = &canvas.camera;
    let rows = (camera.horizon.max(0.0) as usize).min(HEIGHT);
    for row in 0..rows {
        let above = camera.horizon - row as f32 - 0.5;
        let z = (camera.focal * (top - camera.height) / above.max(0.5)).min(900.0);
        let share = canvas.air.share(z);
        for column in 0..WIDTH {
            let x = (column as f32 + 0.5 - camera.centre) * z / camera.focal - camera.shift(z);
            let mut colour = times(concrete(x, 4.0, z), 0.8);
            let along = part(z / road.lamp_every) * road.lamp_every;
            let lamp = [-1.8, 1.8].iter().any(|at| (x - at).abs() < 0.16);
            if lamp && along < 2.0 {
                colour = LAMP;
            }
            canvas.light[row * WIDTH + column] = mix(canvas.air.colour, colour, share);
            canvas.depth[row * WIDTH + column] = z.min(255.0) as u8;
        }
    }
    for x in [left, right] {
        // In pieces, since the road bends.
        let mut z = 420.0_f32;
        while z > 1.0 {
            let near = if z < 40.0 { z - 8.0 } else { z * 0.8 }.max(0.5);
            let wall = Wall {
                from: [x, near],
                to: [x, z],
                bottom: 0.0,
                top,
                thing: 0,
            };
            canvas.wall(wall, |_, y, z| (concrete(x, y, z), 1.0));
            z = if near <= 0.5 { 0.0 } else { near };
        }
    }
}

/// Something without a label that stands upright at a distance.
#[derive(Clone, Copy)]
pub(super) enum Prop {
    Tree {
        x: f32,
        z: f32,
        height: f32,
        seed: u32,
    },
    Lamp {
        x: f32,
        z: f32,
        side: f32,
    },
    Rail {
        x: f32,
        z: [f32; 2],
    },
    Canopy {
        x: f32,
        z: f32,
    },
    Board {
        x: f32,
        z: f32,
        seed: u32,
    },
}

impl Prop {
    pub(super) fn distance(&self) -> f32 {
        match *self {
            Prop::Tree { z, .. } | Prop::Lamp { z, .. } | Prop::Board { z, .. } => z,
            Prop::Rail { z, .. } => z[0],
            Prop::Canopy { z, .. } => z,
        }
    }
}

/// What stands beside the road of a scene.
pub(super) fn props(scene: &Scene, dice: &mut Dice) -> Vec<Prop> {
    let road = &scene.road;
    let mut props = Vec::new();
    if scene.place == Place::Tunnel {
        return props;
    }
    let mut z = road.lamp_every / 2.0;
    while z < 260.0 && scene.place != Place::Parking {
        let (x, side) = (road.right + 0.6, -1.0);
        props.push(Prop::Lamp { x, z, side });
        if scene.place == Place::City {
            props.push(Prop::Lamp {
                x: road.left - 0.6,
                z: z + 6.0,
                side: 1.0,
            });
        }
        z += road.lamp_every;
    }
    let (every, off) = match scene.place {
        Place::Highway => (9.0, 6.0),
        Place::Residential => (14.0, 1.6),
        Place::City => (26.0, 1.1),
        _ => (22.0, 4.0),
    };
    for side in [-1.0, 1.0] {
        let edge = if side > 0.0 { road.right } else { -road.left };
        let mut z = dice.between(8.0, 20.0);
        while z < 240.0 {
            let spread = if scene.place == Place::Highway {
                30.0
            } else {
                1.2
            };
            let x = side * (edge + off + dice.unit() * spread);
            if dice.chance(0.8) {
                let height = dice.between(4.5, 11.0);
                props.push(Prop::Tree {
                    x,
                    z,
                    height,
                    seed: dice.word(),
                });
            }
            z += every * dice.between(0.5, 1.5);
        }
    }
    if scene.place == Place::Highway {
        let strip = -(0.5 + road.lanes_left as f32) * road.lane - road.median / 2.0;
        for x in [road.right + 0.3, strip] {
            let mut z = 3.0_f32;
            while z < 300.0 {
                let far = (z + 6.0).max(z * 1.15);
                props.push(Prop::Rail { x, z: [z, far] });
                z = far;
            }
        }
        if dice.chance(0.35) {
            let (z, seed) = (dice.between(40.0, 130.0), dice.word());
            props.push(Prop::Board {
                x: road.right + 9.0,
                z,
                seed,
            });
        }
    }
    if scene.place == Place::GasStation {
        let (x, z) = (dice.between(7.0, 10.0), dice.between(13.0, 24.0));
        props.push(Prop::Canopy { x, z });
    }
    props
}

pub(super) fn paint(canvas: &mut Canvas, scene: &Scene, prop: &Prop) {
    match *prop {
        Prop::Tree { x, z, height, seed } => tree(canvas, scene, x, z, height, seed),
        Prop::Lamp { x, z, side } => lamp(canvas, scene, x, z, side),
        Prop::Rail { x, z } => rail(canvas, scene, x, z),
        Prop::Canopy { x, z } => canopy(canvas, scene, x, z),
        Prop::Board { x, z, seed } => board(canvas, scene, x, z, seed),
    }
}

fn tree(canvas: &mut Canvas, scene: &Scene, x: f32, z: f32, height: f32, seed: u32) {
    let light = scene.upright(x, 2.0, z);
    let trunk = Wall::facing(x, z, 0.16 + height * 0.022, 0.0, height * 0.55, 0);
    canvas.wall(trunk, |s, y, _| {
        (
            times(
                lit([0.13, 0.10, 0.075], light),
                0.5 + GRAVEL.at(s * 220.0, y * 40.0),
            ),
            1.0,
        )
    });
    let bare = scene.light.snow > 0.0;
    let (u0, v0) = (hash(seed, 0, 0) * 512.0, hash(seed, 1, 0) * 512.0);
    let wide = height * (0.6 + 0.25 * hash(seed, 2, 0));
    let green = times([0.085, 0.13, 0.035], 0.6 + 0.7 * hash(seed, 3, 0));
    let own = if bare { [0.24, 0.23, 0.22] } else { green };
    let low = height * 0.28;
    let crown = Wall::facing(x, z, wide, low, height, 0);
    canvas.wall(crown, |s, y, _| {
        let (u, v) = (2.0 * s / wide - 1.0, 2.0 * (y - low) / (height - low) - 1.0);
        let form = CLOUDS.at(u0 + s * 26.0, v0 + y * 26.0);
        let leaf = GRAVEL.at(u0 + s * 95.0, v0 + y * 95.0);
        let inside = 1.0 - 1.45 * (u * u + v * v) + 1.0 * (form - 0.5) + 0.45 * (leaf - 0.5);
        let holes = if bare {
            step(0.50, 0.60, leaf) * 0.7
        } else {
            step(0.20, 0.32, form * 0.6 + leaf * 0.4)
        };
        let alpha = step(0.04, 0.14, inside) * holes;
        let depth = (0.35 + 0.55 * form + 0.55 * leaf) * (0.72 + 0.38 * v);
        let mut colour = times(lit(own, light), depth.max(0.12) * 1.3);
        if bare {
            let lies = step(0.45, 0.6, form) * 0.8;
            colour = mix(colour, lit(SNOW, light), lies);
        }
        (colour, alpha)
    });
}

fn lamp(canvas: &mut Canvas, scene: &Scene, x: f32, z: f32, side: f32) {
    let light = scene.upright(x, 3.0, z);
    let steel = lit([0.20, 0.20, 0.21], light);
    let height = 8.2;
    canvas.wall(Wall::facing(x, z, 0.15, 0.0, height, 0), |s, _, _| {
        (times(steel, 0.6 + 5.0 * s), 1.0)
    });
    let arm = Wall::facing(x + side * 1.0, z, 2.0, height - 0.1, height + 0.02, 0);
    canvas.wall(arm, |_, _, _| (steel, 1.0));
    let head = Wall::facing(x + side * 2.0, z, 0.7, height - 0.16, height + 0.04, 0);
    let lit_up = scene.light.lamps > 0.0;
    canvas.wall(head, |_, _, _| (if lit_up { LAMP } else { steel }, 1.0));
    if lit_up && scene.is_night() {
        let at = [
            canvas.camera.column(x + side * 2.0, z),
            canvas.camera.row(height, z),
        ];
        let radius = (canvas.camera.focal * 0.5 / z).clamp(1.5, 26.0);
        let gain = scene.light.lamps * 1.3 * canvas.air.share(z) + 0.05;
        canvas.glow(at, radius, times([1.0, 0.74, 0.42], gain), 1.0);
        reflect(canvas, scene, at[0], z, radius, [0.30, 0.21, 0.11]);
    }
}

/// The streak of a light on wet ground below a column of the picture.
pub(super) fn reflect(
    canvas: &mut Canvas,
    scene: &Scene,
    column: f32,
    z: f32,
    radius: f32,
    light: Rgb,
) {
    if scene.light.wet > 0.0 {
        let row = canvas.camera.row(-1.2, z);
        let gain = scene.light.wet * canvas.air.share(z);
        canvas.glow(
            [column, row],
            (radius * 0.8).clamp(1.0, 14.0),
            times(light, gain),
            5.0,
        );
    }
}

fn rail(canvas: &mut Canvas, scene: &Scene, x: f32, z: [f32; 2]) {
    let wall = Wall {
        from: [x, z[0]],
        to: [x, z[1]],
        bottom: 0.0,
        top: 0.82,
        thing: 0,
    };
    canvas.wall(wall, |_, y, z| {
        let post = part(z / 3.0) < 0.05;
        let band = y > 0.46;
        let bulge = 0.55 + 0.5 * (1.0 - ((y - 0.64) / 0.18).abs()).abs();
        let steel = times(
            lit([0.42, 0.43, 0.44], scene.upright(x, y, z)),
            if band { bulge } else { 0.6 },
        );
        (
            times(steel, 0.8 + 0.35 * GRAVEL.at(z * 14.0, y * 70.0)),
            f32::from(band || post),
        )
    });
}

fn canopy(canvas: &mut Canvas, scene: &Scene, x: f32, z: f32) {
    let night = scene.is_night() || scene.light.ambient[0] < 0.15;
    let glow = if night { 1.5 } else { 0.25 };
    let edge = |s: f32, y: f32, light: Rgb| -> Rgb {
        let stripe: Rgb = if y < 5.15 {
            [0.85, 0.85, 0.83]
        } else {
            [0.62, 0.05, 0.04]
        };
        let dirt = 0.85 + 0.2 * CLOUDS.at(s * 30.0, y * 30.0);
        std::array::from_fn(|c| stripe[c] * (light[c] + glow * 0.5) * dirt)
    };
    let (near, far) = (z, z + 14.0);
    for pillar in [
        [x - 3.5, far - 2.0],
        [x + 3.5, far - 2.0],
        [x - 3.5, near + 2.0],
        [x + 3.5, near + 2.0],
    ] {
        let light = scene.upright(pillar[0], 2.0, pillar[1]);
        let pump = Wall::facing(pillar[0] + 1.0, pillar[1], 0.8, 0.0, 1.9, 0);
        canvas.wall(pump, |s, y, _| {
            let screen = (1.2..1.6).contains(&y) && (0.15..0.65).contains(&s);
            let own: Rgb = if y > 1.65 {
                [0.6, 0.05, 0.04]
            } else {
                [0.62, 0.62, 0.6]
            };
            let colour = std::array::from_fn(|c| own[c] * (light[c] + glow * 0.3));
            (if screen { [0.06, 0.09, 0.10] } else { colour }, 1.0)
        });
        canvas.wall(
            Wall::facing(pillar[0], pillar[1], 0.5, 0.0, 4.8, 0),
            |s, y, _| {
                let tone = 0.5 + 0.5 * s + 0.15 * GRAVEL.at(s * 60.0, y * 60.0);
                (
                    std::array::from_fn(|c| 0.5 * tone * (light[c] + glow * 0.25)),
                    1.0,
                )
            },
        );
    }
    let left = Wall {
        from: [x - 5.5, near],
        to: [x - 5.5, far],
        bottom: 4.8,
        top: 5.8,
        thing: 0,
    };
    canvas.wall(left, |s, y, z| (edge(s, y, scene.upright(x, 2.0, z)), 1.0));
    canvas.wall(Wall::facing(x, near, 11.0, 4.8, 5.8, 0), |s, y, z| {
        (edge(s, y, scene.upright(x, 2.0, z)), 1.0)
    });
    if night {
        for at in [-3.0, 0.0, 3.0] {
            let place = [
                canvas.camera.column(x + at, near + 4.0),
                canvas.camera.row(4.7, near + 4.0),
            ];
            canvas.glow(place, 14.0, [0.55, 0.55, 0.5], 0.6);
        }
    }
}

fn board(canvas: &mut Canvas, scene: &Scene, x: f32, z: f32, seed: u32) {
    let light = scene.upright(x, 4.0, z);
    canvas.wall(Wall::facing(x, z, 0.5, 0.0, 9.0, 0), |_, _, _| {
        (lit([0.2; 3], light), 1.0)
    });
    canvas.wall(Wall::facing(x, z - 0.3, 11.0, 8.0, 12.5, 0), |s, y, _| {
        let words = hash(seed, (s * 1.4) as i32, ((y - 8.0) * 0.8) as i32) > 0.45;
        let tint = [hash(seed, 7, 1), hash(seed, 7, 2), hash(seed, 7, 3)];
        let own = if words { tint } else { [0.75, 0.73, 0.68] };
        let glow = if scene.is_night() { 0.4 } else { 0.0 };
        (
            std::array::from_fn(|c| own[c] * (light[c] + glow) * (0.85 + 0.3 * fade(y))),
            1.0,
        )
    });
}
