//! Drawn street frames, as a dash camera sees them, with the labels of BDD100K.
//!
//! Enters: a seed and a frame's number. Leaves: a [`Frame`]: 1280×720 RGB with about the detail
//! and the noise of a camera's picture, what it shows, where every labelled thing is, and what can
//! be driven on. The same on every machine and thread. Never: a file, a photo, or a label that
//! does not follow from what was painted: boxes are read off the pixels that a thing covers.
//!
//! ```text
//! scene (drawn facts) → ground, sides, things (walls on a canvas, far ones first) → sensor
//! ```

mod scene;

mod canvas;
mod texture;

mod ground;
mod sides;
mod things;

mod sensor;

mod png;

pub use canvas::{HEIGHT, WIDTH};
pub use scene::{Category, Hour, Place, Weather};

use loaderd_decode::EncodeError;
use loaderd_decode::encode::Encoder;

use canvas::Canvas;
use scene::Scene;
use texture::Dice;

/// Fewer visible pixels than this get no label.
const PIXELS_MIN: u32 = 70;
/// Nor do boxes that are narrower or lower than this.
const SIDE_MIN: f32 = 5.0;
/// A thing of which less than this is visible gets no label.
const VISIBLE_MIN: f32 = 0.12;
/// A thing of which less than this is visible is called occluded.
const OCCLUDED_BELOW: f32 = 0.85;
/// A thing that reaches further beyond the picture than this, in pixels, is called truncated.
const BEYOND_MIN: f32 = 2.0;

/// One labelled thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// What it is.
    pub category: Category,
    /// Left, top, right and bottom of its visible pixels, right and bottom exclusive.
    pub bounds: [f32; 4],
    /// Whether something nearer hides a part of it.
    pub occluded: bool,
    /// Whether a part of it lies beyond the picture.
    pub truncated: bool,
}

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// `[HEIGHT, WIDTH, 3]`, RGB.
    pub pixels: Vec<u8>,
    /// The weather that it shows.
    pub weather: Weather,
    /// The time of day.
    pub hour: Hour,
    /// The place.
    pub place: Place,
    /// Its labelled things, far ones first.
    pub labels: Vec<Label>,
    /// What the ground is for: 0 not to be driven on, or covered; 1 our lane; 2 another lane of our
    /// direction. `[HEIGHT, WIDTH]`.
    pub drivable: Vec<u8>,
}

impl Frame {
    /// Draws frame `number` of `seed`.
    pub fn draw(seed: u64, number: u64) -> Frame {
        let mut facts = Dice::new(seed, number, 0);
        let scene = Scene::draw(&mut facts);
        Frame::of(&scene, Dice::new(seed, number, 1))
    }

    fn of(scene: &Scene, mut dice: Dice) -> Frame {
        let dice = &mut dice;
        let (camera, air) = (scene.camera(dice), scene.air(dice));
        let mut canvas = Canvas::new(camera, air);
        if !scene.is_covered() {
            ground::sky(&mut canvas, scene, dice);
            ground::skyline(&mut canvas, scene, dice);
        }
        ground::ground(&mut canvas, scene, dice);
        if scene.is_covered() {
            sides::tunnel(&mut canvas, scene);
        }
        sides::houses(&mut canvas, scene, dice);
        let things = things::place(scene, dice);
        let props = sides::props(scene, dice);
        stand(&mut canvas, scene, &things, &props);
        let pixels = sensor::expose(&mut canvas, scene, dice);
        Frame {
            pixels,
            weather: scene.weather,
            hour: scene.hour,
            place: scene.place,
            labels: labels(&canvas, &things),
            drivable: canvas.surface,
        }
    }

    /// The picture as a JPEG.
    ///
    /// # Errors
    /// Where the encoder fails.
    pub fn jpeg(&self, encoder: &Encoder) -> Result<Vec<u8>, EncodeError> {
        encoder.encode(&self.pixels, WIDTH as u32, HEIGHT as u32)
    }

    /// The drivable ground as a grey PNG.
    pub fn drivable_png(&self) -> Vec<u8> {
        png::encode(&self.drivable, WIDTH, HEIGHT)
    }
}

/// What a frame is for: `train` for 80 %, `val` for 10 %, `test` for 10 %.
pub fn split(seed: u64, number: u64) -> &'static str {
    match Dice::new(seed, number, 2).unit() {
        share if share < 0.8 => "train",
        share if share < 0.9 => "val",
        _ => "test",
    }
}

/// Paints what stands on the ground, far ones first.
fn stand(canvas: &mut Canvas, scene: &Scene, things: &[things::Thing], props: &[sides::Prop]) {
    let far_things = (0..)
        .zip(things)
        .map(|(place, thing)| (thing.z, Some(place)));
    let mut order: Vec<(f32, Option<usize>, usize)> =
        far_things.map(|(z, thing)| (z, thing, 0)).collect();
    order.extend(
        (0..)
            .zip(props)
            .map(|(place, prop)| (prop.distance(), None, place)),
    );
    // A stable sort: what is equally far keeps its order on every machine.
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, thing, prop) in order {
        match thing {
            Some(place) => things::paint(canvas, scene, &things[place], place as u8 + 1),
            None => sides::paint(canvas, scene, &props[prop]),
        }
    }
}

/// What is left to be seen of each thing.
fn labels(canvas: &Canvas, things: &[things::Thing]) -> Vec<Label> {
    let mut seen = [0_u32; 256];
    let mut bounds = [[WIDTH, HEIGHT, 0, 0]; 256];
    for (row, line) in canvas.things.chunks_exact(WIDTH).enumerate() {
        for (column, &number) in line.iter().enumerate() {
            if number > 0 {
                let number = usize::from(number);
                seen[number] += 1;
                let [left, top, right, bottom] = bounds[number];
                bounds[number] = [
                    left.min(column),
                    top.min(row),
                    right.max(column + 1),
                    bottom.max(row + 1),
                ];
            }
        }
    }
    let mut found: Vec<(f32, Label)> = Vec::new();
    for (number, thing) in (1..).zip(things) {
        let share = seen[number] as f32 / canvas.painted[number].max(1) as f32;
        let bounds = bounds[number].map(|side| side as f32);
        let [left, top, right, bottom] = bounds;
        let small = right - left < SIDE_MIN || bottom - top < SIDE_MIN;
        if seen[number] < PIXELS_MIN || small || share < VISIBLE_MIN {
            continue;
        }
        let reach = canvas.reach[number];
        let beyond = [
            -reach[0],
            -reach[1],
            reach[2] - WIDTH as f32,
            reach[3] - HEIGHT as f32,
        ];
        let label = Label {
            category: thing.category,
            bounds,
            occluded: share < OCCLUDED_BELOW,
            truncated: beyond.iter().any(|&beyond| beyond > BEYOND_MIN),
        };
        found.push((thing.z, label));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, label)| label).collect()
}

#[cfg(test)]
mod tests;
