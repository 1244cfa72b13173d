//! Where an image's pixels went, for what goes with them: boxes and masks.
//!
//! Enters: a placement drawn on the upright image, then flips and windows of the finished
//! picture. Leaves: a [`Geometry`], which maps boxes, and says which source pixel a mask
//! shows where. Never: a pixel's value, or a move that is not one of whole rows and columns.

use crate::geometry::{Axis, Placement, Span};

/// What became of an image's rows and columns, from the upright source to the output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    pub(crate) x: Line,
    pub(crate) y: Line,
}

impl Geometry {
    /// Of an upright image of `width` x `height`.
    pub(crate) fn of(place: &Placement, width: u32, height: u32) -> Geometry {
        Geometry {
            x: Line::of(&place.x, place.turned.0, place.flipped, width),
            y: Line::of(&place.y, place.turned.1, place.upside_down, height),
        }
    }

    /// `[height, width]` of the upright source, in pixels.
    pub fn source(&self) -> [u32; 2] {
        [self.y.size, self.x.size]
    }

    /// `[height, width]` of the output, in pixels.
    pub fn output(&self) -> [u32; 2] {
        [self.y.len, self.x.len]
    }

    /// `[x1, y1, x2, y2]` in pixels of the upright source, where those of the output are;
    /// 0 is the first pixel's outer edge. Every crop and every border on the way cuts off what
    /// reaches beyond it, and so does the output: a box out of sight has no width or no height.
    /// What reaches beyond the picture itself may lie in a border then, as in torchvision.
    /// Infinite edges are cut off like others, edges in the wrong order stay so, and NaN stays
    /// NaN.
    pub fn map_box(&self, [x1, y1, x2, y2]: [f32; 4]) -> [f32; 4] {
        let ([x1, x2], [y1, y2]) = (self.x.map([x1, x2]), self.y.map([y1, y2]));
        [x1, y1, x2, y2]
    }
}

/// One axis of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Line {
    /// Pixels of the upright source.
    size: u32,
    /// The source box.
    source: Span,
    /// Pixels that the box is resized to.
    grid: u32,
    /// Whether the resize saw the box from its other end: nearest sampling is lopsided.
    mirrored: bool,
    /// The grid's pixel under the output's first one.
    first: i64,
    /// Whether grid and output run against each other.
    backward: bool,
    /// The output's pixels that lie on the grid.
    seen: (i64, i64),
    /// The output's part that boxes may reach.
    kept: (i64, i64),
    /// Pixels of the output.
    len: u32,
}

impl Line {
    fn of(axis: &Axis, mirrored: bool, flipped: bool, size: u32) -> Line {
        let source = axis.source;
        let (grid, window) = axis
            .resized
            .unwrap_or((source.len, Span::whole(source.len)));
        let mut line = Line {
            size,
            source,
            grid,
            mirrored,
            first: window.start,
            backward: false,
            seen: (window.seen.0 - window.start, window.seen.1 - window.start),
            kept: (window.kept.0 - window.start, window.kept.1 - window.start),
            len: window.len,
        };
        if flipped {
            line.flip();
        }
        line
    }

    /// Turns the output round.
    pub(crate) fn flip(&mut self) {
        let len = i64::from(self.len);
        self.first = self.grid_pixel(len - 1);
        self.backward = !self.backward;
        self.seen = (len - self.seen.1, len - self.seen.0);
        self.kept = (len - self.kept.1, len - self.kept.0);
    }

    /// Keeps pixels `[start, start + len)` of the output; negative ones are a border.
    pub(crate) fn window(&mut self, start: i64, len: u32) {
        self.first = self.grid_pixel(start);
        let clamp = |at: i64| (at - start).clamp(0, i64::from(len));
        self.seen = (clamp(self.seen.0), clamp(self.seen.1));
        self.kept = (clamp(self.kept.0), clamp(self.kept.1));
        self.len = len;
    }

    /// Whether a window shows nothing but the output.
    pub(crate) fn holds(&self, start: i64, len: u32) -> bool {
        start >= 0 && start + i64::from(len) <= i64::from(self.len)
    }

    fn grid_pixel(&self, output: i64) -> i64 {
        if self.backward {
            self.first - output
        } else {
            self.first + output
        }
    }

    /// What nearest sampling shows.
    pub(crate) fn shown(&self) -> Shown {
        let seen = self.seen.0.max(0)..self.seen.1.min(self.len.into());
        let pixel = |output| self.source_pixel(output as u32);
        let first = seen.clone().find(|&output| pixel(output).is_some());
        let first = first.unwrap_or(seen.end);
        Shown {
            first: first as usize,
            pixels: (first..seen.end).map_while(pixel).collect(),
        }
    }

    /// The source's pixel that nearest sampling shows at `output`; `None` in a border.
    ///
    /// As in `torch.nn.functional.interpolate(mode="nearest")`, which torchvision's masks
    /// go through: `floor(index * (source / grid))`, in f32.
    pub(crate) fn source_pixel(&self, output: u32) -> Option<u32> {
        let output = i64::from(output);
        if !(self.seen.0..self.seen.1).contains(&output) {
            return None;
        }
        let turn = |at: i64, len: u32| {
            if self.mirrored {
                i64::from(len) - 1 - at
            } else {
                at
            }
        };
        let at = turn(self.grid_pixel(output), self.grid);
        let scale = self.source.len as f32 / self.grid as f32;
        // Neither is negative, so that the cast is `floor`.
        let nearest = ((at as f32 * scale) as i64).min(i64::from(self.source.len) - 1);
        let pixel = self.source.start + turn(nearest, self.source.len);
        (self.source.seen.0..self.source.seen.1)
            .contains(&pixel)
            .then_some(pixel as u32)
    }

    /// Maps an interval's ends, the lower one first where it was.
    fn map(&self, ends: [f32; 2]) -> [f32; 2] {
        let scale = f64::from(self.grid) / f64::from(self.source.len);
        let first = self.first as f64;
        let clamp = |end: f64, (low, high): (i64, i64)| end.clamp(low as f64, high as f64);
        let [from, to] = ends.map(|end| {
            let grid = (clamp(end.into(), self.source.kept) - self.source.start as f64) * scale;
            let output = if self.backward {
                first + 1.0 - grid
            } else {
                grid - first
            };
            clamp(clamp(output, self.kept), (0, self.len.into())) as f32
        });
        if self.backward {
            [to, from]
        } else {
            [from, to]
        }
    }
}

/// The output's pixels that show the picture; they lie side by side, with borders around them.
pub(crate) struct Shown {
    /// The first of them.
    pub(crate) first: usize,
    /// The source's pixel under each, never falling or never rising.
    pub(crate) pixels: Vec<u32>,
}

impl Shown {
    /// From the first pixel shown to behind the last one; `None` where there are none.
    pub(crate) fn reach(&self) -> Option<(u32, u32)> {
        let (&one, &other) = (self.pixels.first()?, self.pixels.last()?);
        Some((one.min(other), one.max(other) + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transforms::{ResizeTo, Transform};

    /// Crops, borders and flips around one resize.
    fn lists() -> impl Strategy<Value = Vec<Transform>> {
        let move_ = prop_oneof![
            (1..40u32, 1..40u32).prop_map(|(h, w)| Transform::CenterCrop { size: [h, w] }),
            any::<bool>().prop_map(|p| Transform::RandomHorizontalFlip { p: p.into() }),
            any::<bool>().prop_map(|p| Transform::RandomVerticalFlip { p: p.into() }),
            [0..9u32, 0..9, 0..9, 0..9].prop_map(|padding| Transform::Pad {
                padding,
                fill: [0; 3],
                padding_mode: Default::default(),
            }),
        ];
        let resize = (1..60u32, 1..60u32).prop_map(|(h, w)| Transform::Resize {
            size: ResizeTo::Exact([h, w]),
            max_size: None,
            interpolation: Default::default(),
        });
        let moves = prop::collection::vec(move_, 0..4);
        (moves.clone(), prop::option::of(resize), moves).prop_map(|(mut list, resize, rest)| {
            list.extend(resize);
            list.extend(rest);
            list
        })
    }

    proptest! {
        /// A box covers the pixels that show what it covers in the source.
        #[test]
        fn boxes_go_where_their_pixels_go(
            list in lists(), size in (1..50u32, 1..50u32), ends in (0.0..1.0f32, 0.0..1.0f32),
            late in (any::<bool>(), -9..9i64, 1..40u32),
        ) {
            let place = Placement::draw(&list, size.0, size.1, &mut std::iter::repeat(7)).unwrap();
            let mut geometry = Geometry::of(&place, size.0, size.1);
            prop_assert_eq!(geometry.source(), [size.1, size.0]);
            if late.0 {
                geometry.x.window(late.1, late.2);
                geometry.x.flip();
            }
            let line = geometry.x;
            let end = |share: f32| (share * size.0 as f32).floor();
            let (from, to) = (end(ends.0.min(ends.1)), end(ends.0.max(ends.1)));
            let [low, _, high, _] = geometry.map_box([from, 0.0, to, 1.0]);
            prop_assert!(0.0 <= low && low <= high && high <= line.len as f32);
            let (mut shown, mut inside) = (0, 0);
            for output in 0..line.len {
                let Some(pixel) = line.source_pixel(output) else { continue };
                prop_assert!(pixel < size.0);
                let middle = output as f32 + 0.5;
                if (from..to).contains(&(pixel as f32)) {
                    shown += 1;
                    // Nearest sampling is off by up to one pixel of either grid.
                    let slack = 1.0 + (line.grid as f32 / line.source.len as f32);
                    prop_assert!(low - slack <= middle && middle <= high + slack);
                }
                inside += u32::from(low <= middle && middle < high);
            }
            let slack = 2 + 2 * line.grid.div_ceil(line.source.len);
            prop_assert!(shown <= inside + slack && inside <= shown + slack, "{} {}", shown, inside);
            // Without a resize they agree exactly.
            if line.grid == line.source.len {
                prop_assert_eq!(shown, inside);
                prop_assert_eq!(shown as f32, high - low);
            }
        }
    }

    #[test]
    fn boxes_are_cut_off_and_turned() {
        let flip = Transform::RandomHorizontalFlip { p: 1.0 };
        let crop = Transform::CenterCrop { size: [4, 6] };
        let place = Placement::draw(&[flip, crop], 10, 8, &mut std::iter::repeat(0)).unwrap();
        let geometry = Geometry::of(&place, 10, 8);
        let check = |from, to| assert_eq!(geometry.map_box(from), to);
        // The crop shows columns 2 to 8 and rows 2 to 6.
        check([0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 6.0, 4.0]);
        check([2.5, 3.0, 4.0, 3.5], [4.0, 1.0, 5.5, 1.5]);
        check([-9.0, 7.0, 1.0, 99.0], [6.0, 4.0, 6.0, 4.0]);
        check([0.0, 7.0, 99.0, 0.0], [0.0, 4.0, 6.0, 0.0]);
        let far = f32::INFINITY;
        check([-far, 3.0, far, far], [0.0, 1.0, 6.0, 4.0]);
        let nowhere = geometry.map_box([f32::NAN; 4]);
        assert!(nowhere.iter().all(|end| end.is_nan()));
    }

    #[test]
    fn boxes_reach_into_borders() {
        let crop = |h, w| Transform::CenterCrop { size: [h, w] };
        let place = |list: &[_]| Placement::draw(list, 10, 8, &mut std::iter::repeat(0)).unwrap();
        // Borders of 5 columns and 2 rows.
        let geometry = Geometry::of(&place(&[crop(12, 20)]), 10, 8);
        assert_eq!(
            geometry.map_box([-3.0, 0.0, 99.0, 9.0]),
            [2.0, 2.0, 20.0, 11.0]
        );
        // What the first crop cut off stays away.
        let geometry = Geometry::of(&place(&[crop(4, 6), crop(12, 20)]), 10, 8);
        assert_eq!(
            geometry.map_box([-3.0, 0.0, 99.0, 9.0]),
            [7.0, 4.0, 13.0, 8.0]
        );
    }
}
