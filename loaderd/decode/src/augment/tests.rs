//! Steps against torchvision, and lists against their draws.

mod torchvision;

use super::rand_augment::{OPERATIONS, Operation, Strength};
use super::*;
use crate::pipeline::Options;
use crate::transforms::{Layout, PaddingMode, Sampling};
use serde_json::json;

const WIDTH: u32 = 6;
const HEIGHT: u32 = 5;

/// Rows of RGB.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let byte = |x: u32, y: u32, c: u32| ((x * 37 + y * 59 + c * 83 + x * y * 11) % 256) as u8;
    (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| byte(x, y, c))))
        .collect()
}

fn frame(pixels: &[u8], width: u32) -> Frame<'_> {
    let (width, height) = (width as usize, pixels.len() / 3 / width as usize);
    Frame {
        pixels,
        stride_bytes: 3 * width,
        columns: (0, width),
        rows: (0, height),
        width,
        height,
        flipped: false,
        upside_down: false,
        layout: Layout::Nhwc,
    }
}

/// Runs steps over the picture, and settles.
fn run(steps: &[Step]) -> (usize, usize, Vec<u8>) {
    let pixels = picture(WIDTH, HEIGHT);
    let mut canvas = Canvas::default();
    canvas.load(&frame(&pixels, WIDTH));
    apply(&mut canvas, steps);
    canvas.settle();
    (canvas.width, canvas.height, canvas.pixels().to_vec())
}

/// A RandAugment operation at one of 31 magnitudes, counted against its way where negative.
fn augment(
    operation: Operation,
    magnitude: i32,
    sampling: Sampling,
    fill: Option<[u8; 3]>,
) -> Step {
    let strength = Strength {
        magnitude: magnitude.unsigned_abs(),
        bins: 31,
        negative: magnitude < 0,
    };
    operation
        .step(strength, [HEIGHT, WIDTH], sampling, fill)
        .unwrap()
}

fn window(left: i64, top: i64, width: u32, height: u32, mode: PaddingMode) -> Step {
    Step::Window(Window {
        left,
        top,
        width,
        height,
        mode,
        fill: [1, 2, 3],
    })
}

#[test]
fn equalizing_spreads_values() {
    let mut pixels = [[10, 10, 77], [200, 10, 77]].concat().repeat(255);
    tone::equalize(&mut pixels);
    assert_eq!(pixels[..6], [0, 10, 77, 255, 10, 77]);
}

/// The code for wider registers gives the same bytes, over pictures longer than a piece.
#[test]
fn no_cpu_rounds_differently() {
    let (width, height) = (301, 57);
    // Not from 0 to 255, so that AutoContrast has something to do.
    let pixels: Vec<u8> = picture(width, height)
        .iter()
        .map(|byte| byte / 2 + 40)
        .collect();
    let mut all = vec![
        Step::Brightness(1.21),
        Step::Contrast(0.7),
        Step::Saturation(1.4),
        Step::Hue(0.13),
        Step::Erase(
            Area {
                top: 1,
                left: 2,
                height: 3,
                width: 4,
            },
            [1, 2, 3],
        ),
        window(-3, -4, 310, 60, PaddingMode::Reflect),
        Step::Flip,
        Step::Grey,
    ];
    for sampling in [Sampling::Nearest, Sampling::Bilinear] {
        for operation in OPERATIONS {
            let strength = Strength {
                magnitude: 13,
                bins: 31,
                negative: true,
            };
            all.extend(operation.step(strength, [height, width], sampling, Some([200, 100, 50])));
        }
    }
    let mut plain = Canvas::default();
    let mut best = Augmenter::default();
    for step in all {
        best.canvas.load(&frame(&pixels, width));
        plain.load(&frame(&pixels, width));
        let before = plain.pixels().to_vec();
        apply(&mut plain, std::slice::from_ref(&step));
        best.steps.picture = vec![step.clone()];
        best.apply();
        plain.settle();
        best.canvas.settle();
        assert!(plain.pixels() == best.canvas.pixels(), "{step:?}");
        assert!(plain.pixels() != before, "{step:?}");
    }
}

/// Turns are kept for later where a step doesn't mind, and made where it does.
#[test]
fn steps_see_the_picture_as_it_is_turned() {
    let shift = augment(Operation::TranslateX, 30, Sampling::Nearest, None);
    let hue = Step::Hue(0.1);
    let (.., first) = run(&[Step::Flip, Step::Overturn, hue.clone(), shift.clone()]);
    let (.., second) = run(&[hue, Step::Overturn, Step::Flip, shift.clone()]);
    assert_eq!(first, second);
    let (.., unturned) = run(&[shift, Step::Flip]);
    assert_ne!(
        run(&[
            Step::Flip,
            augment(Operation::TranslateX, 30, Sampling::Nearest, None)
        ])
        .2,
        unturned
    );
    let cut = window(1, 0, 2, 5, PaddingMode::Constant);
    let mirrored = window(3, 0, 2, 5, PaddingMode::Constant);
    assert_eq!(run(&[Step::Flip, cut]), run(&[mirrored, Step::Flip]));
}

fn pipeline(list: serde_json::Value) -> Pipeline {
    Pipeline::parse(&list, Options::default()).unwrap()
}

/// The steps that a list's second part becomes, with every draw the same.
fn drawn(list: serde_json::Value, draw: u32) -> Steps {
    let pipeline = pipeline(list);
    let mut augmenter = Augmenter::default();
    let mut taken = 0;
    let mut draws = std::iter::repeat(draw).inspect(|_| taken += 1);
    augmenter.draw(&pipeline, &mut draws);
    let wanted: usize = pipeline.augmentations().iter().map(draws_of).sum();
    assert_eq!(taken, wanted);
    augmenter.steps
}

#[test]
fn jitter_draws_its_order_and_its_factors() {
    let jitter = json!([
        {"name": "CenterCrop", "size": [4, 4]},
        {"name": "ColorJitter", "brightness": [0.5, 1.5], "contrast": [1.0, 2.0], "saturation": [0.0, 1.0], "hue": [-0.5, 0.5]},
    ]);
    let [brightness, contrast, saturation, hue] = [
        Step::Brightness(1.0),
        Step::Contrast(1.5),
        Step::Saturation(0.5),
        Step::Hue(0.0),
    ];
    let steps = drawn(jitter.clone(), 1 << 31).picture;
    assert_eq!(steps.len(), 4);
    for step in [&brightness, &contrast, &saturation, &hue] {
        assert!(steps.contains(step), "{steps:?}");
    }
    assert_eq!(
        drawn(jitter.clone(), 0).picture,
        [
            Step::Brightness(0.5),
            Step::Contrast(1.0),
            Step::Saturation(0.0),
            Step::Hue(-0.5)
        ]
    );
    // Every order comes of one draw.
    let orders: std::collections::HashSet<String> = (0..24u32)
        .map(|order| {
            let pipeline = pipeline(jitter.clone());
            let mut augmenter = Augmenter::default();
            let draw = (order << 27) / 3 * 4 + 9;
            let mut draws = std::iter::once(draw).chain(std::iter::repeat(1 << 31));
            augmenter.draw(&pipeline, &mut draws);
            format!("{:?}", augmenter.steps.picture)
        })
        .collect();
    assert_eq!(orders.len(), 24);
    let some = json!([{"name": "CenterCrop", "size": [4, 4]}, {"name": "ColorJitter", "contrast": [1.5, 1.5]}]);
    assert_eq!(drawn(some, 7).picture, [contrast]);
}

#[test]
fn erasing_keeps_its_place_in_the_list() {
    let crop = json!({"name": "CenterCrop", "size": [40, 20]});
    let erase = json!({"name": "RandomErasing", "p": 1.0, "scale": [0.25, 0.25], "ratio": [2.0, 2.0], "value": [1.0, 2.0, 3.5]});
    let flip = json!({"name": "RandomHorizontalFlip", "p": 1.0});
    let turn = json!({"name": "RandomVerticalFlip", "p": 1.0});
    let float = json!({"name": "ToDtype", "dtype": "float32"});
    // A quarter of 800 pixels, twice as high as wide.
    let area = Area {
        top: 0,
        left: 0,
        height: 20,
        width: 10,
    };
    let steps = drawn(json!([crop, erase, flip, float]), 0);
    assert_eq!(steps.picture, [Step::Erase(area, [1, 2, 3]), Step::Flip]);
    assert!(steps.output.is_empty());

    let filling = erase::Filling::Values([1.0, 2.0, 3.5]);
    let steps = drawn(json!([crop, flip, float, erase]), 0);
    assert_eq!(steps.output, [Erasure { area, filling }]);
    assert!(steps.picture.is_empty());
    let steps = drawn(json!([crop, float, erase, flip, turn]), 0);
    let area = Area {
        top: 20,
        left: 10,
        ..area
    };
    assert_eq!(steps.output, [Erasure { area, filling }]);
    assert_eq!(steps.picture, [Step::Flip, Step::Overturn]);

    let never = json!({"name": "RandomErasing", "p": 0.0});
    assert!(drawn(json!([crop, float, never]), 0).output.is_empty());
    // A rectangle that never fits.
    let whole =
        json!({"name": "RandomErasing", "p": 1.0, "scale": [1.0, 1.0], "ratio": [2.0, 2.0]});
    assert!(drawn(json!([crop, float, whole]), 0).output.is_empty());
}

#[test]
fn every_operation_can_be_drawn() {
    let list =
        json!([{"name": "CenterCrop", "size": [8, 8]}, {"name": "RandAugment", "num_ops": 1}]);
    let steps: std::collections::HashSet<String> = (0..14 * 64u32)
        .map(|i| format!("{:?}", drawn(list.clone(), i * 4_793_490).picture))
        .collect();
    // Nothing, four of one way, and nine that go two ways, each of which equal draws
    // reach once.
    assert_eq!(steps.len(), 14);
}
