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

/// Defaults are written out, and what a user may write in two ways is one string.
#[test]
fn canonical_forms_write_defaults_out() {
    let short = pipeline(json!([
        {"name": "RandomCrop", "size": [8, 8]},
        {"name": "Pad", "padding": [1, 1, 1, 1]},
        {"name": "ColorJitter", "hue": [0.0, 0.25]},
        {"name": "RandAugment"},
        {"name": "RandomErasing"},
        {"name": "ToLayout", "layout": "NHWC"},
    ]));
    let expected = concat!(
        r#"{"transforms":[{"name":"RandomCrop","size":[8,8],"padding":[0,0,0,0],"pad_if_needed":false,"#,
        r#""fill":[0,0,0],"padding_mode":"constant"},"#,
        r#"{"name":"Pad","padding":[1,1,1,1],"fill":[0,0,0],"padding_mode":"constant"},"#,
        r#"{"name":"ColorJitter","brightness":null,"contrast":null,"saturation":null,"hue":[0.0,0.25]},"#,
        r#"{"name":"RandAugment","num_ops":2,"magnitude":9,"num_magnitude_bins":31,"interpolation":"nearest","fill":null},"#,
        r#"{"name":"RandomErasing","p":0.5,"scale":[0.02,0.33],"ratio":[0.3,3.3],"value":[0.0,0.0,0.0]},"#,
        r#"{"name":"ToLayout","layout":"NHWC"}],"#,
    );
    // The options follow.
    assert!(
        short.canonical().starts_with(expected),
        "{}",
        short.canonical()
    );
    let noise = json!([{"name": "CenterCrop", "size": [8, 8]}, {"name": "ToDtype", "dtype": "bfloat16"}, {"name": "RandomErasing", "value": "random"}]);
    let noise = pipeline(noise).canonical();
    assert!(
        noise.contains(r#""dtype":"bfloat16""#) && noise.contains(r#""value":"random""#),
        "{noise}"
    );
}

#[test]
fn fields_out_of_bounds_are_refused() {
    let check = |transform: serde_json::Value, expected: &str| {
        let list = json!([{"name": "CenterCrop", "size": [8, 8]}, transform]);
        let error = Pipeline::parse(&list, Options::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        json!({"name": "Pad", "padding": [0, 20000, 0, 0]}),
        "padding must be 0 to 16384 pixels a side, found 20000",
    );
    check(
        json!({"name": "Pad", "padding": [0, 0, 0, 0], "fill": [0, 0, 256]}),
        "expected u8",
    );
    check(
        json!({"name": "RandomGrayscale", "p": -0.5}),
        "p must be 0 to 1, found -0.5",
    );
    check(
        json!({"name": "ColorJitter", "hue": [-0.6, 0.1]}),
        "hue must be [low, high] with -0.5 <= low <= high <= 0.5, found [-0.6, 0.1]",
    );
    check(
        json!({"name": "RandAugment", "magnitude": 31}),
        "magnitude must be less than num_magnitude_bins (31), found 31",
    );
    check(
        json!({"name": "RandAugment", "num_ops": 33}),
        "num_ops must be 0 to 32, found 33",
    );
    check(
        json!({"name": "RandAugment", "num_magnitude_bins": 1}),
        "num_magnitude_bins must be 2 to 65536, found 1",
    );
    check(
        json!({"name": "RandomErasing", "value": "noise"}),
        "value must be 3 numbers or \"random\", found \"noise\"",
    );
    check(
        json!({"name": "RandomErasing", "value": [1e39, 0.0, 0.0]}),
        "value must be finite",
    );
    let long = vec![json!({"name": "RandomHorizontalFlip"}); 65];
    let error = Pipeline::parse(&long.into(), Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "a list may hold 64 transforms, found 65");
}
