//! The picture while it is painted: light, whose pixel it is, and what can be driven on.
//!
//! Enters: upright walls in road coordinates, with a shader each, far ones first. Leaves: linear
//! RGB, and for every pixel the thing that covers it. Never: knows what a wall shows.
//!
//! Road coordinates are metres: X to the right from the middle of our lane, Y up from the ground,
//! Z ahead. The road bends; X follows it.

use super::texture::fade;

/// Pixels of a row.
pub const WIDTH: usize = 1280;
/// Rows.
pub const HEIGHT: usize = 720;
/// Nothing nearer is painted, in metres.
const NEAREST: f32 = 1.6;

/// Linear light; 1 is white paper in daylight.
pub(super) type Rgb = [f32; 3];

/// Where the camera is, and how the road runs.
pub(super) struct Camera {
    /// Focal length in pixels.
    pub(super) focal: f32,
    /// Row of the horizon.
    pub(super) horizon: f32,
    /// Column of the vanishing point.
    pub(super) centre: f32,
    /// Height over the ground.
    pub(super) height: f32,
    /// Where in its lane the camera is, to the right.
    pub(super) offset: f32,
    /// Half the curvature of the road, 1/m.
    pub(super) bend: f32,
}

impl Camera {
    /// What is added to X at distance `z`.
    pub(super) fn shift(&self, z: f32) -> f32 {
        self.bend * z * z - self.offset
    }

    pub(super) fn column(&self, x: f32, z: f32) -> f32 {
        self.centre + self.focal * (x + self.shift(z)) / z
    }

    pub(super) fn row(&self, y: f32, z: f32) -> f32 {
        self.horizon + self.focal * (self.height - y) / z
    }
}

/// What lies between camera and things.
pub(super) struct Air {
    pub(super) colour: Rgb,
    /// Distance after which little is left of a thing's own light, in metres.
    pub(super) reach: f32,
}

impl Air {
    /// The share of a thing's own light that arrives.
    pub(super) fn share(&self, z: f32) -> f32 {
        fade(z / self.reach)
    }
}

/// The picture.
pub(super) struct Canvas {
    /// `[HEIGHT, WIDTH]`.
    pub(super) light: Vec<Rgb>,
    /// Number of the thing that covers a pixel, 0 for none.
    pub(super) things: Vec<u8>,
    /// What the ground there is for, 0 where something stands on it.
    pub(super) surface: Vec<u8>,
    /// How far away, in units of a metre up to 255.
    pub(super) depth: Vec<u8>,
    pub(super) camera: Camera,
    pub(super) air: Air,
    /// Pixels that each thing got when it was painted.
    pub(super) painted: [u32; 256],
    /// Left, top, right and bottom of each thing's walls, also beyond the picture.
    pub(super) reach: [[f32; 4]; 256],
    columns: Vec<Column>,
}

/// The reach of a thing without a wall.
const NO_REACH: [f32; 4] = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];

/// A wall as one column of the picture sees it.
#[derive(Clone, Copy)]
struct Column {
    along: f32,
    z: f32,
    top: f32,
    bottom: f32,
    cover: f32,
    share: f32,
}

/// An upright rectangle.
#[derive(Clone, Copy)]
pub(super) struct Wall {
    /// X and Z of one lower corner, where `along` is 0.
    pub(super) from: [f32; 2],
    /// X and Z of the other.
    pub(super) to: [f32; 2],
    pub(super) bottom: f32,
    pub(super) top: f32,
    /// Whose pixels these are, 0 for nobody's.
    pub(super) thing: u8,
}

impl Wall {
    /// One that faces us: `width` metres about `x`, at distance `z`.
    pub(super) fn facing(x: f32, z: f32, width: f32, bottom: f32, top: f32, thing: u8) -> Wall {
        Wall {
            from: [x - width / 2.0, z],
            to: [x + width / 2.0, z],
            bottom,
            top,
            thing,
        }
    }
}

impl Canvas {
    pub(super) fn new(camera: Camera, air: Air) -> Canvas {
        let pixels = WIDTH * HEIGHT;
        Canvas {
            light: vec![[0.0; 3]; pixels],
            things: vec![0; pixels],
            surface: vec![0; pixels],
            depth: vec![255; pixels],
            camera,
            air,
            painted: [0; 256],
            reach: [NO_REACH; 256],
            columns: Vec::new(),
        }
    }

    /// Paints a wall. `shader(along, y, z)` gives its light at `along` metres from its first
    /// corner and `y` metres above the ground, and how much it covers, 0 to 1.
    pub(super) fn wall(&mut self, wall: Wall, mut shader: impl FnMut(f32, f32, f32) -> (Rgb, f32)) {
        let (mut a, mut b) = (wall.from, wall.to);
        let length = ((b[0] - a[0]) * (b[0] - a[0]) + (b[1] - a[1]) * (b[1] - a[1])).sqrt();
        if a[1].max(b[1]) < NEAREST || length <= 0.0 {
            return;
        }
        let (mut along_a, mut along_b) = (0.0, length);
        let clip = |near: &mut [f32; 2], along: &mut f32, far: [f32; 2], along_far: f32| {
            if near[1] < NEAREST {
                let t = (NEAREST - near[1]) / (far[1] - near[1]);
                near[0] += (far[0] - near[0]) * t;
                *along += (along_far - *along) * t;
                near[1] = NEAREST;
            }
        };
        clip(&mut a, &mut along_a, b, along_b);
        clip(&mut b, &mut along_b, a, along_a);
        let (mut xa, mut xb) = (
            self.camera.column(a[0], a[1]),
            self.camera.column(b[0], b[1]),
        );
        if xa > xb {
            (xa, xb) = (xb, xa);
            (a, b) = (b, a);
            (along_a, along_b) = (along_b, along_a);
        }
        let thing = usize::from(wall.thing);
        let reach = &mut self.reach[thing];
        for (x, z) in [(xa, a[1]), (xb, b[1])] {
            reach[0] = reach[0].min(x);
            reach[1] = reach[1].min(self.camera.row(wall.top, z));
            reach[2] = reach[2].max(x);
            reach[3] = reach[3].max(self.camera.row(wall.bottom, z));
        }
        let first = xa.floor().max(0.0) as usize;
        let last = (xb.ceil().min(WIDTH as f32)).max(0.0) as usize;
        if first >= last || xb - xa < 0.05 {
            return;
        }
        let (inverse_a, inverse_b) = (1.0 / a[1], 1.0 / b[1]);
        let camera = &self.camera;
        let mut columns = std::mem::take(&mut self.columns);
        columns.clear();
        let (mut row_first, mut row_last) = (HEIGHT as f32, 0.0_f32);
        for x in first..last {
            let x = x as f32;
            let t = ((x + 0.5 - xa) / (xb - xa)).clamp(0.0, 1.0);
            let inverse = inverse_a + (inverse_b - inverse_a) * t;
            let z = 1.0 / inverse;
            let along = (along_a * inverse_a + (along_b * inverse_b - along_a * inverse_a) * t) * z;
            let (top, bottom) = (camera.row(wall.top, z), camera.row(wall.bottom, z));
            row_first = row_first.min(top);
            row_last = row_last.max(bottom);
            columns.push(Column {
                along,
                z,
                top,
                bottom,
                cover: (x + 1.0).min(xb) - x.max(xa),
                share: self.air.share(z),
            });
        }
        let row_first = row_first.floor().max(0.0) as usize;
        let row_last = row_last.ceil().min(HEIGHT as f32).max(0.0) as usize;
        let haze = self.air.colour;
        for row in row_first..row_last {
            let y = row as f32;
            for (x, column) in (first..).zip(&columns) {
                let cover = (y + 1.0).min(column.bottom) - y.max(column.top);
                if cover <= 0.0 {
                    continue;
                }
                let height = self.camera.height
                    - (y + 0.5 - self.camera.horizon) * column.z / self.camera.focal;
                let height = height.clamp(wall.bottom, wall.top);
                let (light, alpha) = shader(column.along, height, column.z);
                let cover = cover * column.cover * alpha;
                if cover <= 0.0 {
                    continue;
                }
                let place = row * WIDTH + x;
                let pixel = &mut self.light[place];
                for (channel, light) in light.iter().enumerate() {
                    let hazed = haze[channel] + (light - haze[channel]) * column.share;
                    pixel[channel] += (hazed - pixel[channel]) * cover;
                }
                if cover > 0.5 {
                    self.painted[thing] += u32::from(self.things[place] != wall.thing);
                    self.things[place] = wall.thing;
                    self.surface[place] = 0;
                    self.depth[place] = column.z.min(255.0) as u8;
                }
            }
        }
        self.columns = columns;
    }

    /// Darkens the ground between two distances, as a thing above it does.
    pub(super) fn shadow(&mut self, x: f32, z: [f32; 2], width: f32, depth: f32) {
        let camera = &self.camera;
        let z_near = z[0].max(NEAREST);
        let (top, bottom) = (camera.row(0.0, z[1]), camera.row(0.0, z_near));
        if z[1] <= z_near {
            return;
        }
        let rows = top.floor().max(0.0) as usize..bottom.ceil().clamp(0.0, HEIGHT as f32) as usize;
        for row in rows {
            let away = camera.focal * camera.height / (row as f32 + 0.5 - camera.horizon).max(0.5);
            let (left, right) = (
                camera.column(x - width / 2.0, away),
                camera.column(x + width / 2.0, away),
            );
            let (left, right) = (
                left.max(0.0) as usize,
                right.clamp(0.0, WIDTH as f32) as usize,
            );
            let ends = ((away - z[0]).min(z[1] - away) / 0.4 + 0.6).clamp(0.0, 1.0);
            for column in left..right {
                let metres = camera.focal / away;
                let edge = (column - left).min(right - column) as f32 / metres;
                let dark = 1.0 - depth * ends * (edge / 0.25).min(1.0);
                let pixel = &mut self.light[row * WIDTH + column];
                *pixel = pixel.map(|light| light * dark);
            }
        }
    }

    /// Adds a light's glow about a point of the picture; `radius` in pixels.
    pub(super) fn glow(&mut self, at: [f32; 2], radius: f32, light: Rgb, stretch: f32) {
        let reach = radius * 4.0;
        let clamped = |value: f32, limit: usize| value.clamp(0.0, limit as f32) as usize;
        let columns = clamped(at[0] - reach, WIDTH)..clamped(at[0] + reach, WIDTH);
        for row in
            clamped(at[1] - reach * stretch, HEIGHT)..clamped(at[1] + reach * stretch, HEIGHT)
        {
            for column in columns.clone() {
                let dx = (column as f32 + 0.5 - at[0]) / radius;
                let dy = (row as f32 + 0.5 - at[1]) / (radius * stretch);
                let far = dx * dx + dy * dy;
                let edge = (1.0 - far / 16.0).max(0.0);
                let gain = edge * edge / (1.0 + 2.0 * far * (1.0 + far));
                let pixel = &mut self.light[row * WIDTH + column];
                for (light, pixel) in light.iter().zip(pixel) {
                    *pixel += light * gain;
                }
            }
        }
    }
}

pub(super) fn mix(from: Rgb, to: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|c| from[c] + (to[c] - from[c]) * t)
}

pub(super) fn times(colour: Rgb, gain: f32) -> Rgb {
    colour.map(|light| light * gain)
}

pub(super) fn lit(colour: Rgb, light: Rgb) -> Rgb {
    std::array::from_fn(|c| colour[c] * light[c])
}
