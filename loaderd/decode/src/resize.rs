//! Antialiased resize of a fractional box of RGB pixels.
//!
//! Enters: rows of RGB u8, the view of them that may be looked at, and the box within
//! the view that becomes the result. Leaves: RGB u8. Fixed-point integers throughout, so
//! the result is the same on every CPU. Never: a look beyond the view.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::transforms::Interpolation;

/// Rows of RGB pixels without gaps, and the columns of them that count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) pixels: &'a [u8],
    /// Pixels of a row.
    pub(crate) stride: u32,
    /// First column that counts.
    pub(crate) left: u32,
    /// Columns that count.
    pub(crate) width: u32,
    /// Rows, all of which count.
    pub(crate) height: u32,
}

/// A box in the pixels of a view; pixel i covers `[i, i + 1)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FractionalBox {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Interpolation {
    /// Half the filter's width, in pixels of the coarser of source and target.
    pub(crate) fn radius(self) -> f64 {
        match self {
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
        }
    }

    fn filter(self) -> FilterType {
        match self {
            Interpolation::Bilinear => FilterType::Bilinear,
            Interpolation::Bicubic => FilterType::CatmullRom,
        }
    }
}

/// A resizer with its buffers between the two passes.
#[derive(Debug, Default)]
pub(crate) struct Resampler {
    inner: Resizer,
    /// Between the passes: the vertical one comes first, unless rows become more.
    between: Vec<u8>,
}

impl Resampler {
    /// Bytes of the buffers between the passes.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.inner.size_of_internal_buffers() + self.between.capacity()
    }

    pub(crate) fn free_scratch(&mut self) {
        self.inner.reset_internal_buffers();
        self.between = Vec::new();
    }

    /// Resizes `area` of `view` to `width` x `height` RGB pixels in `out`.
    pub(crate) fn run(
        &mut self,
        view: View<'_>,
        area: FractionalBox,
        filter: Interpolation,
        width: u32,
        height: u32,
        out: &mut [u8],
    ) {
        let rows = &view.pixels[..view.stride as usize * view.height as usize * 3];
        let whole = TypedImageRef::<U8x3>::from_buffer(view.stride, view.height, rows)
            .expect("the rows hold stride * height pixels");
        let seen = TypedCroppedImage::from_ref(&whole, view.left, 0, view.width, view.height)
            .expect("the view lies within its rows");
        let mut target = TypedImage::<U8x3>::from_buffer(width, height, out)
            .expect("the target holds width * height pixels");
        // Rounding may push the right end a hair beyond the view, which is refused.
        let area_width = area.width.min(f64::from(view.width) - area.left);
        let area_height = area.height.min(f64::from(view.height) - area.top);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(filter.filter()))
            .use_alpha(false);
        // The library would do both passes in one call, but takes the first output pixel's first
        // tap for the leftmost one of all. Where a bicubic filter has a zero weight at the view's
        // edge that is another pixel's, and it reads beyond its rows. So each pass alone.
        let rows_first = height <= view.height;
        let (between_width, between_height) = if rows_first {
            (view.width, height)
        } else {
            (width, view.height)
        };
        let bytes = between_width as usize * between_height as usize * 3;
        if self.between.len() < bytes {
            self.between.clear();
            self.between.resize(bytes, 0);
        }
        let between = &mut self.between[..bytes];
        let mut between = TypedImage::<U8x3>::from_buffer(between_width, between_height, between)
            .expect("the buffer was made for it");
        let whole_height = f64::from(between_height);
        let across = options.crop(area.left, 0.0, area_width, whole_height);
        let down = options.crop(0.0, area.top, f64::from(between_width), area_height);
        let (first, second) = if rows_first {
            (down, across)
        } else {
            (across, down)
        };
        self.inner
            .resize_typed(&seen, &mut between, &first)
            .expect("the box lies within the view");
        self.inner
            .resize_typed(&between, &mut target, &second)
            .expect("the box lies within the view");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fast_image_resize::CpuExtensions;

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

    fn check(area: FractionalBox, filter: Interpolation, width: u32, height: u32, pillow: &[u8]) {
        let pixels = picture();
        let mut out = vec![0; pillow.len()];
        Resampler::default().run(view(&pixels), area, filter, width, height, &mut out);
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
                    89, 138, 131, 145, 136, 111, 141, 120, 109, 102, 115, 129, 161, 96, 129, 137,
                    129, 127, 117, 133, 134, 125, 139, 139, 127, 128, 119, 142, 143, 138, 157, 134,
                    122, 104, 158, 139,
                ],
            ),
            (
                Interpolation::Bilinear,
                5,
                9,
                &[
                    21, 104, 187, 79, 162, 165, 148, 171, 58, 169, 44, 127, 37, 102, 185, 64, 147,
                    145, 134, 163, 102, 177, 109, 127, 113, 127, 92, 119, 111, 108, 115, 141, 96,
                    162, 122, 107, 150, 124, 120, 119, 145, 95, 117, 120, 132, 162, 93, 76, 153,
                    88, 154, 108, 160, 78, 142, 126, 136, 90, 130, 188, 199, 44, 127, 118, 153,
                    156, 141, 88, 111, 76, 159, 194, 185, 140, 113, 164, 95, 164, 144, 155, 120,
                    115, 121, 144, 135, 119, 129, 110, 150, 109, 120, 135, 150, 154, 130, 129, 132,
                    155, 136, 150, 131, 152, 85, 160, 125, 108, 141, 109, 140, 121, 146, 165, 163,
                    115, 146, 133, 158, 92, 169, 137, 139, 112, 67, 109, 144, 147, 194, 141, 104,
                    143, 98, 101, 113, 178, 133,
                ],
            ),
            (
                Interpolation::Bilinear,
                12,
                3,
                &[
                    51, 134, 162, 80, 128, 122, 114, 143, 116, 142, 164, 139, 136, 116, 106, 164,
                    137, 94, 157, 138, 109, 124, 109, 130, 159, 102, 83, 103, 130, 104, 82, 124,
                    138, 111, 84, 167, 162, 79, 102, 168, 85, 127, 159, 110, 146, 135, 143, 148,
                    132, 140, 121, 137, 117, 113, 122, 124, 115, 97, 152, 128, 138, 114, 169, 114,
                    152, 144, 116, 153, 129, 150, 112, 135, 102, 130, 122, 126, 132, 112, 142, 127,
                    121, 141, 121, 145, 129, 150, 147, 151, 156, 137, 167, 151, 111, 166, 134, 90,
                    154, 95, 159, 119, 147, 161, 93, 176, 136, 83, 166, 103,
                ],
            ),
            (
                Interpolation::Bicubic,
                4,
                3,
                &[
                    81, 137, 134, 148, 141, 110, 146, 118, 104, 98, 112, 132, 169, 93, 128, 135,
                    128, 127, 114, 136, 134, 125, 140, 141, 124, 128, 119, 144, 147, 139, 162, 130,
                    123, 101, 160, 137,
                ],
            ),
            (
                Interpolation::Bicubic,
                5,
                9,
                &[
                    13, 95, 195, 76, 170, 169, 151, 179, 41, 184, 29, 128, 18, 107, 196, 54, 154,
                    152, 142, 172, 88, 188, 92, 139, 102, 135, 90, 129, 110, 95, 113, 154, 86, 176,
                    114, 100, 150, 119, 132, 115, 157, 82, 120, 118, 129, 169, 88, 61, 154, 73,
                    169, 94, 181, 64, 157, 120, 129, 73, 129, 209, 206, 34, 128, 117, 162, 156,
                    139, 85, 105, 67, 159, 203, 195, 142, 106, 166, 91, 176, 145, 161, 115, 113,
                    118, 147, 136, 114, 123, 105, 150, 106, 109, 146, 156, 159, 126, 126, 129, 158,
                    140, 161, 133, 154, 71, 162, 125, 101, 146, 101, 140, 117, 151, 169, 168, 112,
                    153, 134, 164, 88, 175, 138, 143, 103, 60, 107, 147, 155, 199, 149, 94, 142,
                    87, 96, 113, 183, 139,
                ],
            ),
            (
                Interpolation::Bicubic,
                12,
                3,
                &[
                    40, 136, 166, 74, 126, 117, 117, 143, 112, 142, 168, 147, 131, 114, 101, 172,
                    142, 85, 164, 141, 109, 119, 101, 138, 164, 101, 77, 97, 137, 96, 74, 125, 142,
                    112, 78, 175, 173, 78, 97, 175, 79, 128, 163, 107, 149, 141, 146, 143, 132,
                    135, 125, 133, 107, 114, 113, 126, 110, 92, 166, 124, 145, 107, 174, 110, 152,
                    147, 110, 158, 127, 154, 112, 135, 99, 129, 124, 126, 134, 109, 144, 127, 119,
                    138, 120, 149, 128, 155, 145, 156, 160, 142, 173, 152, 109, 167, 132, 82, 154,
                    88, 165, 118, 150, 170, 91, 185, 133, 83, 167, 95,
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
                131, 149, 118, 158, 128, 103, 139, 119, 115, 108, 127, 105, 146, 123, 147, 133,
                124, 113, 110, 136, 131, 120, 141, 147, 144, 131, 130, 140, 150, 141, 161, 132,
                120, 116, 151, 153,
            ],
        );
    }

    /// The resizer's portable code and its best vector code give equal bytes.
    #[test]
    fn no_cpu_rounds_differently() {
        let pixels: Vec<u8> = (0u32..3 * 211 * 173)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let view = View {
            pixels: &pixels,
            stride: 211,
            left: 3,
            width: 204,
            height: 173,
        };
        for filter in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (width, height) in [(64, 48), (224, 224), (300, 40), (31, 333), (204, 90)] {
                let area = FractionalBox {
                    left: 0.5,
                    top: 1.25,
                    width: 201.5,
                    height: 170.0,
                };
                let run = |extensions| {
                    let mut resampler = Resampler::default();
                    // SAFETY: None needs nothing; the default was detected on this CPU.
                    unsafe { resampler.inner.set_cpu_extensions(extensions) };
                    let mut out = vec![0; 3 * width as usize * height as usize];
                    resampler.run(view, area, filter, width, height, &mut out);
                    out
                };
                let portable = run(CpuExtensions::None);
                assert!(portable.iter().any(|&byte| byte != portable[0]));
                assert!(
                    portable == run(CpuExtensions::default()),
                    "{filter:?} {width}x{height}"
                );
            }
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
            let mut out = vec![0; 3 * 4 * 3];
            let area = FractionalBox {
                width: 5.0,
                ..WHOLE
            };
            let view = View { pixels, ..narrow };
            Resampler::default().run(view, area, Interpolation::Bicubic, 4, 3, &mut out);
            out
        };
        let before = run(&pixels);
        for row in pixels.chunks_exact_mut(3 * WIDTH as usize) {
            row[..6].fill(255);
            row[21..].fill(0);
        }
        assert_eq!(run(&pixels), before);
    }
}
