//! Sky and ground: what fills the picture before anything stands in it.
//!
//! Enters: a scene. Leaves: every pixel's light, and on the ground what it is for. Never: things.

use super::canvas::{Canvas, HEIGHT, Rgb, WIDTH, lit, mix, times};
use super::scene::{Hour, Place, Scene, Weather};
use super::texture::{CLOUDS, Dice, GRAVEL, floor, hash, lerp, part, step};

/// Ground that is further away is painted as if it were here.
const FURTHEST: f32 = 900.0;
/// Our lane, and the others of our direction.
pub(super) const OWN_LANE: u8 = 1;
pub(super) const OTHER_LANE: u8 = 2;

const PAINT: Rgb = [0.62, 0.62, 0.60];
const YELLOW: Rgb = [0.62, 0.40, 0.06];
const SNOW: Rgb = [0.80, 0.83, 0.88];

/// Paints everything above the horizon but the roof of a tunnel.
pub(super) fn sky(canvas: &mut Canvas, scene: &Scene, dice: &mut Dice) {
    let light = &scene.light;
    let horizon = canvas.camera.horizon;
    let (drift_u, drift_v) = (dice.between(0.0, 512.0), dice.between(0.0, 512.0));
    let sun = [
        640.0 - light.sun_side * dice.between(-250.0, 700.0),
        horizon - dice.between(10.0, 60.0),
    ];
    let stars = dice.word();
    let covered = light.clouds;
    for row in 0..(horizon.ceil() as usize + 1).min(HEIGHT) {
        let y = row as f32;
        let up = ((horizon - y) / horizon).max(0.0);
        let base = mix(light.sky_low, light.sky_top, step(-0.25, 1.1, up));
        // A layer of clouds seen from below: smaller and flatter towards the horizon.
        let away = 1.0 / (up + 0.09);
        for column in 0..WIDTH {
            let x = column as f32 - 640.0;
            let (u, v) = (drift_u + x * away * 0.045, drift_v + away * 26.0);
            let form = CLOUDS.at(u, v) * 0.75 + CLOUDS.near(u * 3.1, v * 3.1) * 0.25;
            let thick = step(1.0 - covered, 1.35 - covered, form);
            let shade = 0.62 + 0.55 * form;
            let mut colour = mix(
                base,
                times(light.cloud, shade),
                thick * (0.35 + 0.65 * up.min(1.0)),
            );
            if scene.hour == Hour::Dusk && light.sun[0] > 0.0 {
                let (dx, dy) = ((column as f32 - sun[0]) / 420.0, (y - sun[1]) / 110.0);
                let near = 1.0 / (1.0 + dx * dx + dy * dy);
                colour = mix(colour, [1.5, 0.72, 0.30], near * near * 0.85);
            }
            if scene.is_night() && covered < 0.5 {
                let star = hash(stars, column as i32, row as i32);
                if star > 0.9994 {
                    colour = times([1.0, 1.0, 1.1], 0.02 + (star - 0.9994) * 160.0);
                }
            }
            canvas.light[row * WIDTH + column] = colour;
        }
    }
}

/// Hills, woods or a town where sky and ground meet.
pub(super) fn skyline(canvas: &mut Canvas, scene: &Scene, dice: &mut Dice) {
    let town = matches!(
        scene.place,
        Place::City | Place::GasStation | Place::Parking
    );
    let (start, size) = (dice.between(0.0, 512.0), dice.between(14.0, 55.0));
    let horizon = canvas.camera.horizon;
    let air = canvas.air.share(380.0) * 0.8;
    let haze = canvas.air.colour;
    let light = scene.upright(0.0, 2.0, 380.0);
    let green: Rgb = if scene.light.snow > 0.0 {
        [0.30, 0.32, 0.34]
    } else {
        [0.05, 0.075, 0.04]
    };
    let own = if town { [0.20, 0.19, 0.18] } else { green };
    for column in 0..WIDTH {
        let x = start + column as f32 * 0.16;
        let hills = CLOUDS.at(x, 77.0) * size + CLOUDS.at(x * 9.0, 7.0) * size * 0.25;
        let block = (column as i32 + (start as i32)) / 23;
        let blocks = hash(scene.seed, block, 1) * hash(scene.seed, block, 2) * size * 1.9 + 6.0;
        let height = if town { blocks } else { hills };
        let top = (horizon - height).max(0.0) as usize;
        for row in top..(horizon as usize + 2).min(HEIGHT) {
            let grain = GRAVEL.near(column as f32 * 1.7, row as f32 * 1.7);
            let mut colour = times(lit(own, light), 0.45 + grain);
            if town
                && scene.is_night()
                && hash(scene.seed, column as i32 / 3, row as i32 / 4) > 0.90
            {
                colour = [0.20, 0.15, 0.07];
            }
            let place = row * WIDTH + column;
            canvas.light[place] = mix(haze, colour, air);
        }
    }
}

/// What the ground is at a place, before snow and water.
struct Ground {
    colour: Rgb,
    rough: f32,
    surface: u8,
    /// Whether wheels keep it free of snow.
    driven: bool,
}

/// Paints everything below the horizon.
pub(super) fn ground(canvas: &mut Canvas, scene: &Scene, dice: &mut Dice) {
    let light = &scene.light;
    let road = &scene.road;
    let shade = Shade::draw(scene, dice);
    let worn = dice.between(0.35, 1.0);
    let start = dice.between(0.0, 9.0);
    let first = (canvas.camera.horizon + 0.5).ceil().max(0.0) as usize;
    for row in first..HEIGHT {
        let below = row as f32 + 0.5 - canvas.camera.horizon;
        let z = (canvas.camera.focal * canvas.camera.height / below).min(FURTHEST);
        let share = canvas.air.share(z);
        let metre = z / canvas.camera.focal;
        let shift = canvas.camera.shift(z);
        // Detail as fine as the picture can show, and no finer than 4 mm.
        let fine = 0.55 / metre.max(0.004);
        let squeezed = fine / (1.0 + z / 7.0);
        let mirrored = light.wet * step(1.0, 40.0, z) * 0.55;
        let sky = mix(light.sky_low, light.sky_top, 0.25);
        for column in 0..WIDTH {
            let x = (column as f32 + 0.5 - canvas.camera.centre) * metre - shift;
            let along = z + start;
            let found = lay(scene, x, along, metre, worn);
            let large = CLOUDS.at(x * 19.0, along * 9.0);
            let grain = GRAVEL.near(x * fine, along * squeezed) - 0.5;
            let small = if z < 25.0 {
                GRAVEL.at(x * 60.0, along * 34.0) - 0.5
            } else {
                0.0
            };
            let level =
                0.84 + 0.32 * large + found.rough * (1.5 * grain + 0.9 * small / (1.0 + z / 20.0));
            let mut colour = times(found.colour, level.max(0.1));
            if light.snow > 0.0 {
                let tracks = if found.driven {
                    track(x, road.lane)
                } else {
                    0.0
                };
                let lies = step(
                    0.25,
                    0.75,
                    light.snow * 1.25 - 0.95 * tracks + 0.7 * (large - 0.5) + 0.35 * small,
                );
                colour = mix(
                    colour,
                    times(SNOW, 0.78 + 0.25 * large + 0.22 * grain),
                    lies,
                );
            }
            let mut here = scene.ground(x, z);
            if light.sun[0] > 0.0 {
                let sun = shade.sun(x, along);
                here = std::array::from_fn(|c| here[c] + light.sun[c] * sun);
            }
            if light.wet > 0.0 {
                colour = times(colour, 1.0 - 0.45 * light.wet);
            }
            let mut seen = lit(colour, here);
            if light.wet > 0.0 {
                let puddle = step(0.42, 0.62, CLOUDS.at(x * 31.0, along * 5.0));
                let gain =
                    (mirrored + 0.10 * light.wet * puddle).min(0.8) * lerp(0.75, 1.1, puddle);
                seen = mix(seen, sky, gain);
            }
            let place = row * WIDTH + column;
            canvas.light[place] = mix(canvas.air.colour, seen, share);
            canvas.surface[place] = found.surface;
            canvas.depth[place] = z.min(255.0) as u8;
        }
    }
}

/// Where the wheels run, 0 to 1.
fn track(x: f32, lane: f32) -> f32 {
    let inside = x / lane + 0.5;
    let inside = (part(inside) - 0.5) * lane;
    let off = (inside.abs() - 0.78) / 0.42;
    1.0 / (1.0 + off * off * off * off)
}

/// The share of a line of this width about `at` in a pixel at `x`.
fn line(x: f32, at: f32, width: f32, metre: f32) -> f32 {
    let off = (x - at).abs();
    if off >= (width + metre) / 2.0 {
        return 0.0;
    }
    (((width - metre) / 2.0 - off) / metre + 1.0).clamp(0.0, (width / metre).min(1.0))
}

fn lay(scene: &Scene, x: f32, along: f32, metre: f32, worn: f32) -> Ground {
    let road = &scene.road;
    if x < road.left || x > road.right {
        let out = if x < road.left {
            road.left - x
        } else {
            x - road.right
        };
        if out < road.pavement {
            let kerb = out < 0.18;
            // Slabs with joints.
            let joint = line(part(along / 1.5) * 1.5, 0.75, 0.04, metre).max(line(
                part((x + 100.0) / 1.5) * 1.5,
                0.75,
                0.04,
                metre,
            ));
            let grey = if kerb { 0.42 } else { 0.31 - 0.16 * joint };
            return Ground {
                colour: [grey, grey * 0.98, grey * 0.93],
                rough: 0.32,
                surface: 0,
                driven: false,
            };
        }
        let natural = road.beside[1] > road.beside[2] * 1.3;
        return Ground {
            colour: road.beside,
            rough: if natural { 1.3 } else { 0.5 },
            surface: 0,
            driven: false,
        };
    }
    let mut ground = Ground {
        colour: road.asphalt,
        rough: 0.55,
        surface: 0,
        driven: true,
    };
    if matches!(scene.place, Place::Parking | Place::GasStation) {
        ground.surface = if x.abs() < road.lane / 2.0 {
            OWN_LANE
        } else {
            0
        };
        ground.driven = x.abs() < road.lane / 2.0;
        if scene.place == Place::Parking {
            let row = (x.abs() - road.lane / 2.0) / 5.2;
            if row > 0.0 && row < 3.6 {
                let stall = line(part(along / 2.6) * 2.6, 1.3, 0.11, metre / 0.6);
                let end = line(part(row) * 5.2, 5.1, 0.11, metre);
                let aisle = (row as u32) == 2;
                let paint = if aisle { 0.0 } else { stall.max(end) };
                ground.colour = mix(ground.colour, PAINT, paint * worn);
            }
        }
        return ground;
    }
    // A darker strip where oil drips, lighter ones where tyres polish.
    let oil = part(x / road.lane + 0.5) - 0.5;
    let polish = track(x, road.lane);
    ground.colour = times(
        ground.colour,
        1.0 + 0.16 * polish - 0.18 / (1.0 + oil * oil * 90.0),
    );
    let ours_left = -(0.5 + road.lanes_left as f32) * road.lane;
    let ours_right = (0.5 + road.lanes_right as f32) * road.lane;
    if x.abs() < road.lane / 2.0 {
        ground.surface = OWN_LANE;
    } else if x > ours_left && x < ours_right {
        ground.surface = OTHER_LANE;
    }
    let strip = ours_left - road.median;
    if x < ours_left && x > strip && road.median > 1.0 {
        return Ground {
            colour: [0.13, 0.15, 0.08],
            rough: 1.1,
            surface: 0,
            driven: false,
        };
    }
    let mut paint = 0.0_f32;
    let dash = part(along / 12.0) < 0.34;
    let lanes = road.lanes_left + road.lanes_right;
    if dash {
        for n in 0..lanes {
            let at = ours_left + (n + 1) as f32 * road.lane;
            paint = paint.max(line(x, at, 0.14, metre));
        }
        for n in 1..road.oncoming {
            paint = paint.max(line(x, strip - n as f32 * road.lane, 0.14, metre));
        }
    }
    if scene.place != Place::Residential {
        paint = paint.max(line(x, ours_right, 0.15, metre));
        paint = paint.max(line(
            x,
            strip - road.oncoming as f32 * road.lane,
            0.15,
            metre,
        ));
    }
    let chipped = (worn + 0.5 * (CLOUDS.near(x * 160.0, along * 90.0) - 0.3)).clamp(0.0, 1.0);
    ground.colour = mix(ground.colour, PAINT, paint * chipped);
    if road.oncoming > 0 {
        let middle = if road.median < 1.0 {
            line(x, ours_left - 0.02, 0.12, metre).max(line(x, ours_left - 0.3, 0.12, metre))
        } else {
            line(x, ours_left, 0.15, metre)
        };
        ground.colour = mix(ground.colour, YELLOW, middle * chipped);
    } else if lanes > 0 {
        ground.colour = mix(
            ground.colour,
            PAINT,
            line(x, ours_left, 0.15, metre) * chipped,
        );
    }
    ground
}

/// Where houses and trees keep the sun from the ground.
struct Shade {
    side: f32,
    edge: f32,
    seed: u32,
    houses: bool,
}

impl Shade {
    fn draw(scene: &Scene, dice: &mut Dice) -> Shade {
        let reach = dice.between(-3.0, 5.0);
        let beside = if scene.light.sun_side > 0.0 {
            scene.road.right
        } else {
            -scene.road.left
        };
        Shade {
            side: scene.light.sun_side,
            edge: beside - reach,
            seed: dice.word(),
            houses: matches!(scene.place, Place::City)
                || (scene.place == Place::Residential && dice.chance(0.6))
                    && scene.weather != Weather::Snowy,
        }
    }

    /// The share of sunlight that reaches the ground.
    fn sun(&self, x: f32, along: f32) -> f32 {
        if !self.houses {
            return 1.0;
        }
        let block = floor(along / 17.0);
        let reach = 5.0 * hash(self.seed, block, 0);
        let ragged = (GRAVEL.at(x * 11.0, along * 11.0) - 0.5) * 1.2;
        let inside = x * self.side - (self.edge - reach) + ragged;
        1.0 - 0.88 * step(-0.25, 0.25, inside)
    }
}
