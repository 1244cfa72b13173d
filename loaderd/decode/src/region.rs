//! Placement → the decoder's scale, the pixels to decode at it, and the box to resize.
//!
//! Enters: one image's [`Placement`](crate::geometry::Placement). Leaves: eighths of
//! full size, and per axis a [`Need`] in pixels of the scaled image. Never: a pixel more
//! than the resize's filter touches, save one against rounding.

use crate::geometry::{Axis, Placement};
use crate::header::Header;
use crate::opened::Region;
use crate::pipeline::Pipeline;
use crate::transforms::Interpolation;

/// What an image's draws take of it as it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The placement in the stored image's own axes.
    pub(crate) place: Placement,
    /// Scale of the DCT.
    pub(crate) eighths: u32,
    pub(crate) x: Need,
    pub(crate) y: Need,
}

impl Wanted {
    /// What `upright`, drawn on the image as it stands upright, takes of one with this header,
    /// which the decoder can shrink or not.
    pub(crate) fn of(
        pipeline: &Pipeline,
        header: &Header,
        upright: &Placement,
        shrinks: bool,
    ) -> Wanted {
        let orientation = pipeline.options().orientation_of(header);
        let place = orientation.stored(upright, header.width, header.height);
        let eighths = if shrinks {
            eighths_for(&place, pipeline.options().fast_dct)
        } else {
            8
        };
        Wanted {
            place,
            eighths,
            x: Need::of(&place.x, place.filter, eighths),
            y: Need::of(&place.y, place.filter, eighths),
        }
    }

    /// The pixels to decode, at the scale; empty where nothing of the picture is in sight.
    pub(crate) fn region(&self) -> Region {
        Region {
            left: self.x.decode.0,
            right: self.x.decode.1,
            top: self.y.decode.0,
            bottom: self.y.decode.1,
        }
    }

    /// Whether nothing of the picture is in sight.
    pub(crate) fn blank(&self) -> bool {
        self.x.blank() || self.y.blank()
    }
}

/// How far the DCT may shrink the image, in eighths: as long as the source box keeps
/// 1.5 times the target's pixels in both dimensions (once, with `fast_dct`), since its
/// box-like filter differs from the resize's near the limit. Scales besides these four
/// have no SIMD code in libjpeg-turbo.
pub(crate) fn eighths_for(place: &Placement, fast_dct: bool) -> u32 {
    let reserve = if fast_dct { 1.0 } else { 1.5 };
    let enough = |axis: &Axis, eighths: u32| {
        axis.resized.is_some_and(|(grid, _)| {
            axis.source.full()
                && f64::from(axis.source.len) * f64::from(eighths) / 8.0
                    >= reserve * f64::from(grid)
        })
    };
    [1, 2, 4]
        .into_iter()
        .find(|&eighths| enough(&place.x, eighths) && enough(&place.y, eighths))
        .unwrap_or(8)
}

/// What one axis needs, in pixels of the scaled image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// `[from, to)` to be decoded.
    pub(crate) decode: (u32, u32),
    /// `[from, to)` that the resize may look at: `decode`, plus black borders.
    pub(crate) canvas: (i64, i64),
    /// Whether there are such borders.
    pub(crate) padded: bool,
    /// Start of the box that is resized, from the canvas's start.
    pub(crate) box_start: f64,
    /// Length of that box.
    pub(crate) box_len: f64,
    /// `[from, to)` of the output that gets pixels; the rest is black.
    pub(crate) filled: (usize, usize),
}

impl Need {
    pub(crate) fn of(axis: &Axis, filter: Option<Interpolation>, eighths: u32) -> Need {
        let filled = axis.filled();
        let source = axis.source;
        let (Some((grid, window)), Some(filter)) = (axis.resized, filter) else {
            // Without a resize, the picture's part of the source box is the output.
            return Need {
                decode: (source.seen.0 as u32, source.seen.1 as u32),
                canvas: source.seen,
                padded: false,
                box_start: 0.0,
                box_len: (source.seen.1 - source.seen.0) as f64,
                filled,
            };
        };
        if source.blank() || window.blank() {
            return Need {
                decode: (0, 0),
                canvas: (0, 0),
                padded: false,
                box_start: 0.0,
                box_len: 0.0,
                filled,
            };
        }
        // Eighths of integers: exact.
        let scale = f64::from(eighths) / 8.0;
        let (start, end) = (source.start as f64 * scale, source.end() as f64 * scale);
        let step = (end - start) / f64::from(grid);
        let from = start + window.seen.0 as f64 * step;
        let to = start + window.seen.1 as f64 * step;
        let reach = filter.radius() * step.max(1.0) - step / 2.0;
        // A pixel more against rounding; the box's own ends are never crossed, except to
        // complete a pixel that a scaled box ends in.
        let canvas = (
            ((from - reach).floor() as i64 - 1).max(start.floor() as i64),
            ((to + reach).ceil() as i64 + 1).min(end.ceil() as i64),
        );
        let seen = (
            (source.seen.0 as f64 * scale).floor() as i64,
            (source.seen.1 as f64 * scale).ceil() as i64,
        );
        let from_seen = seen.0.clamp(canvas.0, canvas.1);
        let decode = (from_seen, seen.1.clamp(from_seen, canvas.1));
        Need {
            decode: (decode.0.max(0) as u32, decode.1.max(0) as u32),
            canvas,
            padded: canvas != decode,
            box_start: from - canvas.0 as f64,
            box_len: to - from,
            filled,
        }
    }

    /// Whether nothing of the picture is in sight.
    pub(crate) fn blank(&self) -> bool {
        self.decode.0 >= self.decode.1 || self.filled.0 >= self.filled.1
    }

    pub(crate) fn canvas_len(&self) -> u64 {
        (self.canvas.1 - self.canvas.0) as u64
    }

    pub(crate) fn filled_len(&self) -> u32 {
        (self.filled.1 - self.filled.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::{ResizeTo, Transform};

    fn place(list: &[Transform], width: u32, height: u32) -> Placement {
        Placement::draw(list, width, height, &mut std::iter::repeat(0)).unwrap()
    }

    fn resize(size: ResizeTo) -> Transform {
        Transform::Resize {
            size,
            max_size: None,
            interpolation: Interpolation::Bilinear,
        }
    }

    /// Crops behind the resize that lie beside the picture, as far away as they like.
    #[test]
    fn out_of_sight_is_blank() {
        for (columns, padding) in [(1, 3), (4, 400)] {
            let pad = Transform::Pad {
                padding: [0, 0, padding, 0],
                fill: [0; 3],
                padding_mode: Default::default(),
            };
            let flip = Transform::RandomHorizontalFlip { p: 1.0 };
            let crop = Transform::RandomCrop {
                size: [1, 1],
                padding: [padding; 4],
                pad_if_needed: false,
                fill: [0; 3],
                padding_mode: Default::default(),
            };
            for list in [
                vec![resize(ResizeTo::Exact([1, columns])), crop.clone()],
                vec![resize(ResizeTo::Exact([1, columns])), pad, flip, crop],
            ] {
                let place = place(&list, 64, 48);
                assert!(Need::of(&place.x, place.filter, 8).blank(), "{place:?}");
            }
        }
    }

    #[test]
    fn the_dct_shrinks_while_enough_is_left() {
        let exact = |width, height, fast| {
            let list = [resize(ResizeTo::Exact([100, 200]))];
            eighths_for(&place(&list, width, height), fast)
        };
        for (width, height, careful, fast) in [
            (599, 1000, 8, 4),
            (600, 300, 4, 4),
            (600, 299, 8, 4),
            (399, 400, 8, 8),
            (1199, 600, 4, 2),
            (1200, 600, 2, 2),
            (2400, 1200, 1, 1),
            (10, 10, 8, 8),
        ] {
            assert_eq!(exact(width, height, false), careful, "{width}x{height}");
            assert_eq!(exact(width, height, true), fast, "{width}x{height} fast");
        }
        // Nothing to resize, or a border to resize with the picture: full size.
        let crop = Transform::CenterCrop { size: [9000, 9000] };
        let list = [crop, resize(ResizeTo::Exact([10, 10]))];
        assert_eq!(eighths_for(&place(&list[..1], 4000, 4000), true), 8);
        assert_eq!(eighths_for(&place(&list, 4000, 4000), true), 8);
    }

    #[test]
    fn a_window_of_a_resize_needs_its_part_of_the_source() {
        let list = [
            resize(ResizeTo::Shorter(100)),
            Transform::CenterCrop { size: [50, 50] },
        ];
        let place = place(&list, 300, 200);
        let x = Need::of(&place.x, place.filter, 8);
        // Window [50, 100) of 150, at step 2: box [100, 200), the triangle reaches 1
        // pixel beyond, plus 1 against rounding.
        assert_eq!((x.decode, x.box_start, x.box_len), ((98, 202), 2.0, 100.0));
        assert_eq!((x.filled, x.padded, x.blank()), ((0, 50), false, false));
        let halved = Need::of(&place.x, place.filter, 4);
        assert_eq!(halved.decode, (48, 102));
        assert_eq!((halved.box_start, halved.box_len), (2.0, 50.0));
    }
}
