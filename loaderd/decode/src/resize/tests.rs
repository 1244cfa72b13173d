use super::*;
use proptest::prelude::*;

const WIDTH: u32 = 9;
const HEIGHT: u32 = 7;

fn picture() -> Vec<u8> {
    let byte = |x: u32, y: u32, c: u32| ((x * 37 + y * 59 + c * 83 + x * y * 11) % 256) as u8;
    (0..HEIGHT)
        .flat_map(|y| (0..WIDTH).flat_map(move |x| (0..3).map(move |c| byte(x, y, c))))
        .collect()
}

fn view(pixels: &[u8]) -> View<'_> {
    View {
        pixels,
        stride: WIDTH,
        left: 0,
        width: WIDTH,
        height: HEIGHT,
    }
}

const WHOLE: FractionalBox = FractionalBox {
    left: 0.0,
    top: 0.0,
    width: WIDTH as f64,
    height: HEIGHT as f64,
};

fn target(width: u32, height: u32) -> Target {
    Target {
        width,
        height,
        planar: false,
        mirrored: false,
    }
}

fn resize(
    kernels: Kernels,
    view: View<'_>,
    area: FractionalBox,
    filter: Interpolation,
    target: Target,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut resampler = Resampler::default();
    resampler.run_with(kernels, view, area, filter, target, |row, samples| {
        assert_eq!(out.len(), row * samples.len());
        out.extend_from_slice(samples);
    });
    out
}

fn check(area: FractionalBox, filter: Interpolation, width: u32, height: u32, pillow: &[u8]) {
    let pixels = picture();
    let (view, target) = (view(&pixels), target(width, height));
    let out = resize(Kernels::of_this_cpu(), view, area, filter, target);
    assert_eq!(out.len(), pillow.len());
    let differences: Vec<u8> = out
        .iter()
        .zip(pillow)
        .map(|(ours, theirs)| ours.abs_diff(*theirs))
        .collect();
    assert!(
        differences.iter().all(|&difference| difference <= 1),
        "{filter:?} {width}x{height}: {out:?} {pillow:?}"
    );
}

/// Computed with Pillow 13.0: `Image.resize((w, h), BILINEAR or BICUBIC, box=…)`.
#[test]
fn results_are_pillows() {
    let cases: [(Interpolation, u32, u32, &[u8]); 6] = [
        (
            Interpolation::Bilinear,
            4,
            3,
            &[
                89, 138, 131, 145, 136, 111, 141, 120, 109, 102, 115, 129, 161, 96, 129, 137, 129,
                127, 117, 133, 134, 125, 139, 139, 127, 128, 119, 142, 143, 138, 157, 134, 122,
                104, 158, 139,
            ],
        ),
        (
            Interpolation::Bilinear,
            5,
            9,
            &[
                21, 104, 187, 79, 162, 165, 148, 171, 58, 169, 44, 127, 37, 102, 185, 64, 147, 145,
                134, 163, 102, 177, 109, 127, 113, 127, 92, 119, 111, 108, 115, 141, 96, 162, 122,
                107, 150, 124, 120, 119, 145, 95, 117, 120, 132, 162, 93, 76, 153, 88, 154, 108,
                160, 78, 142, 126, 136, 90, 130, 188, 199, 44, 127, 118, 153, 156, 141, 88, 111,
                76, 159, 194, 185, 140, 113, 164, 95, 164, 144, 155, 120, 115, 121, 144, 135, 119,
                129, 110, 150, 109, 120, 135, 150, 154, 130, 129, 132, 155, 136, 150, 131, 152, 85,
                160, 125, 108, 141, 109, 140, 121, 146, 165, 163, 115, 146, 133, 158, 92, 169, 137,
                139, 112, 67, 109, 144, 147, 194, 141, 104, 143, 98, 101, 113, 178, 133,
            ],
        ),
        (
            Interpolation::Bilinear,
            12,
            3,
            &[
                51, 134, 162, 80, 128, 122, 114, 143, 116, 142, 164, 139, 136, 116, 106, 164, 137,
                94, 157, 138, 109, 124, 109, 130, 159, 102, 83, 103, 130, 104, 82, 124, 138, 111,
                84, 167, 162, 79, 102, 168, 85, 127, 159, 110, 146, 135, 143, 148, 132, 140, 121,
                137, 117, 113, 122, 124, 115, 97, 152, 128, 138, 114, 169, 114, 152, 144, 116, 153,
                129, 150, 112, 135, 102, 130, 122, 126, 132, 112, 142, 127, 121, 141, 121, 145,
                129, 150, 147, 151, 156, 137, 167, 151, 111, 166, 134, 90, 154, 95, 159, 119, 147,
                161, 93, 176, 136, 83, 166, 103,
            ],
        ),
        (
            Interpolation::Bicubic,
            4,
            3,
            &[
                81, 137, 134, 148, 141, 110, 146, 118, 104, 98, 112, 132, 169, 93, 128, 135, 128,
                127, 114, 136, 134, 125, 140, 141, 124, 128, 119, 144, 147, 139, 162, 130, 123,
                101, 160, 137,
            ],
        ),
        (
            Interpolation::Bicubic,
            5,
            9,
            &[
                13, 95, 195, 76, 170, 169, 151, 179, 41, 184, 29, 128, 18, 107, 196, 54, 154, 152,
                142, 172, 88, 188, 92, 139, 102, 135, 90, 129, 110, 95, 113, 154, 86, 176, 114,
                100, 150, 119, 132, 115, 157, 82, 120, 118, 129, 169, 88, 61, 154, 73, 169, 94,
                181, 64, 157, 120, 129, 73, 129, 209, 206, 34, 128, 117, 162, 156, 139, 85, 105,
                67, 159, 203, 195, 142, 106, 166, 91, 176, 145, 161, 115, 113, 118, 147, 136, 114,
                123, 105, 150, 106, 109, 146, 156, 159, 126, 126, 129, 158, 140, 161, 133, 154, 71,
                162, 125, 101, 146, 101, 140, 117, 151, 169, 168, 112, 153, 134, 164, 88, 175, 138,
                143, 103, 60, 107, 147, 155, 199, 149, 94, 142, 87, 96, 113, 183, 139,
            ],
        ),
        (
            Interpolation::Bicubic,
            12,
            3,
            &[
                40, 136, 166, 74, 126, 117, 117, 143, 112, 142, 168, 147, 131, 114, 101, 172, 142,
                85, 164, 141, 109, 119, 101, 138, 164, 101, 77, 97, 137, 96, 74, 125, 142, 112, 78,
                175, 173, 78, 97, 175, 79, 128, 163, 107, 149, 141, 146, 143, 132, 135, 125, 133,
                107, 114, 113, 126, 110, 92, 166, 124, 145, 107, 174, 110, 152, 147, 110, 158, 127,
                154, 112, 135, 99, 129, 124, 126, 134, 109, 144, 127, 119, 138, 120, 149, 128, 155,
                145, 156, 160, 142, 173, 152, 109, 167, 132, 82, 154, 88, 165, 118, 150, 170, 91,
                185, 133, 83, 167, 95,
            ],
        ),
    ];
    for (filter, width, height, pillow) in cases {
        check(WHOLE, filter, width, height, pillow);
    }
    let area = FractionalBox {
        left: 1.5,
        top: 0.25,
        width: 6.5,
        height: 6.25,
    };
    check(
        area,
        Interpolation::Bilinear,
        4,
        3,
        &[
            131, 149, 118, 158, 128, 103, 139, 119, 115, 108, 127, 105, 146, 123, 147, 133, 124,
            113, 110, 136, 131, 120, 141, 147, 144, 131, 130, 140, 150, 141, 161, 132, 120, 116,
            151, 153,
        ],
    );
}

fn noise(count: u32) -> Vec<u8> {
    (0..count)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// Each sum by itself, in 64 bits, from a picture in floats that is rounded between the
/// passes.
fn plainly(view: View<'_>, area: FractionalBox, filter: Interpolation, target: Target) -> Vec<u8> {
    let weights = |source: u32, start: f64, len: f64, target: u32| {
        let mut taps = Taps::default();
        taps.find(source, start, len, target, filter);
        let places = taps.places();
        let list = |tap: taps::Tap<'_>| {
            let weights = tap.pairs.as_flattened().iter().copied().map(i64::from);
            (tap.start..)
                .zip(weights)
                .filter(|pair| pair.1 != 0)
                .collect::<Vec<_>>()
        };
        (taps.each().map(list).collect::<Vec<_>>(), places)
    };
    let sum = |terms: &mut dyn Iterator<Item = (i64, u8)>, places: u32| {
        let sum: i64 = terms.map(|(weight, byte)| weight * i64::from(byte)).sum();
        ((sum + (1 << (places - 1))) >> places).clamp(0, 255) as u8
    };
    let (x, x_places) = weights(view.width, area.left, area.width, target.width);
    let (y, y_places) = weights(view.height, area.top, area.height, target.height);
    let at = |row: usize, column: usize, channel: usize| {
        view.pixels[(row * view.stride as usize + view.left as usize + column) * 3 + channel]
    };
    let mut out = Vec::new();
    for down in &y {
        for across in &x {
            for channel in 0..3 {
                let vertical = |column| {
                    sum(
                        &mut down.iter().map(|&(row, w)| (w, at(row, column, channel))),
                        y_places,
                    )
                };
                let horizontal = |row| {
                    sum(
                        &mut across
                            .iter()
                            .map(|&(column, w)| (w, at(row, column, channel))),
                        x_places,
                    )
                };
                out.push(if target.height <= view.height {
                    sum(
                        &mut across.iter().map(|&(column, w)| (w, vertical(column))),
                        x_places,
                    )
                } else {
                    sum(
                        &mut down.iter().map(|&(row, w)| (w, horizontal(row))),
                        y_places,
                    )
                });
            }
        }
    }
    out
}

/// An interval of `[0, side)`, from hair-thin to whole, on whole pixels and between them.
fn interval(side: u32) -> impl Strategy<Value = (f64, f64)> {
    let side = f64::from(side);
    let between = (0.0..1.0f64, 0.001..=1.0f64)
        .prop_map(move |(start, len)| (start * side, len * side * (1.0 - start)));
    let whole = between
        .clone()
        .prop_map(move |(start, len)| (start.floor(), len.ceil().min(side - start.floor())));
    prop_oneof![between, whole]
}

/// A picture's sides, columns beside the view, and the result's sides.
type Sides = (u32, u32, u32, u32, u32);

/// They, and the box across and down.
fn case() -> impl Strategy<Value = (Sides, (f64, f64), (f64, f64))> {
    let side = || prop_oneof![1u32..40, 60u32..150];
    (side(), side(), 0u32..20, side(), side()).prop_flat_map(|sides| {
        let (width, height, ..) = sides;
        (Just(sides), interval(width), interval(height))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Vector code, portable code and plain arithmetic agree to the bit, in every layout.
    #[test]
    fn no_cpu_rounds_differently(
        ((width, height, beside, to_width, to_height), x, y) in case(),
        bicubic: bool,
        planar: bool,
        mirrored: bool,
    ) {
        let filter = [Interpolation::Bilinear, Interpolation::Bicubic][usize::from(bicubic)];
        let stride = width + beside;
        let pixels = noise(stride * height * 3);
        let view = View { pixels: &pixels, stride, left: beside / 2, width, height };
        let area = FractionalBox { left: x.0, top: y.0, width: x.1, height: y.1 };
        let target = target(to_width, to_height);
        let expected = plainly(view, area, filter, target);
        let (columns, rows) = (to_width as usize, to_height as usize);
        let target = Target { planar, mirrored, ..target };
        for kernels in [Kernels::Portable, Kernels::of_this_cpu()] {
            let found = resize(kernels, view, area, filter, target);
            prop_assert_eq!(found.len(), expected.len());
            for (index, sample) in found.iter().enumerate() {
                let (row, rest) = (index / (3 * columns), index % (3 * columns));
                prop_assert!(row < rows);
                let (column, channel) = match planar {
                    true => (rest % columns, rest / columns),
                    false => (rest / 3, rest % 3),
                };
                let column = if mirrored { columns - 1 - column } else { column };
                let place = (row * columns + column) * 3 + channel;
                prop_assert_eq!(*sample, expected[place]);
            }
        }
    }
}

/// Sizes that a header may claim and a transform may ask for.
#[test]
fn extreme_sizes_are_resized_in_bounds() {
    let mut resampler = Resampler::default();
    for (width, height, to_width, to_height) in [
        (65_500, 1, 1, 1),
        (1, 65_500, 1, 1),
        (65_500, 1, 2, 300),
        (1, 1, 16_384, 2),
        (1, 1, 2, 16_384),
        (3, 65_500, 40, 40),
        (65_500, 3, 40, 40),
    ] {
        let pixels = vec![200; width as usize * height as usize * 3];
        let view = View {
            pixels: &pixels,
            stride: width,
            left: 0,
            width,
            height,
        };
        let area = FractionalBox {
            left: 0.0,
            top: 0.0,
            width: f64::from(width),
            height: f64::from(height),
        };
        let wanted = target(to_width, to_height);
        let mut rows = 0;
        resampler.run(
            view,
            area,
            Interpolation::Bicubic,
            wanted,
            |row, samples| {
                assert_eq!((row, samples.len()), (rows, to_width as usize * 3));
                assert!(samples.iter().all(|sample| (198..=202).contains(sample)));
                rows += 1;
            },
        );
        assert_eq!(rows, to_height as usize);
        let sides = [width, height, to_width, to_height].map(u64::from);
        let [width, height, to_width, to_height] = sides;
        let held = scratch_bytes(width, height, to_width, to_height);
        let between = resampler.scratch_bytes() as u64;
        // The smallest vectors are a few elements larger than asked for.
        assert!(between <= held + 256, "{between} {held}");
        resampler.free_scratch();
    }
}

/// Columns outside the view have no say, whatever they hold.
#[test]
fn nothing_outside_the_view_is_seen() {
    let mut pixels = picture();
    let narrow = View {
        left: 2,
        width: 5,
        ..view(&[])
    };
    let run = |pixels: &[u8]| {
        let area = FractionalBox {
            width: 5.0,
            ..WHOLE
        };
        let view = View { pixels, ..narrow };
        resize(
            Kernels::of_this_cpu(),
            view,
            area,
            Interpolation::Bicubic,
            target(4, 3),
        )
    };
    let before = run(&pixels);
    for row in pixels.chunks_exact_mut(3 * WIDTH as usize) {
        row[..6].fill(255);
        row[21..].fill(0);
    }
    assert_eq!(run(&pixels), before);
}
