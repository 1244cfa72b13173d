//! Transforms + an image's size + random draws → which source pixels end up where.
//!
//! Enters: the list's first part, width and height, the draws. Leaves: a [`Placement`]: per
//! axis the source box, the grid it is resized to, and the window of that grid which is
//! the output; and whether the result is mirrored or upside down. Never: a pixel.
//!
//! Draws are mapped as follows, so that a position's picture depends on nothing else:
//! a draw `u` is the real number `u / 2^32` in [0, 1); a choice of n is `(u * n) >> 32`.
//! RandomResizedCrop always takes 22 draws (ten tries of area and aspect, then top and
//! left), RandomCrop two (top and left), a flip one; other transforms take none.

use crate::error::DecodeError;
use crate::pipeline::crop_padding;
use crate::transforms::{Interpolation, ResizeTo, Transform};

/// Tries of RandomResizedCrop before it falls back to the middle, as in torchvision.
const TRIES: usize = 10;

/// Longest side that a resize gives a picture of which only a window is wanted: a row of half a million
/// pixels, made 16,384 rows high, would be longer. Borders come on top, in 32 bits.
const RESIZED_MAX: u32 = 1 << 31;

/// Further to both sides than a picture can be wide, in whole numbers of f64.
const EVERYWHERE: (i64, i64) = (-(1 << 52), 1 << 52);

/// A run of pixels on one axis of some grid, parts of which may lie off the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// First pixel; negative where a border was added.
    pub(crate) start: i64,
    /// Pixels.
    pub(crate) len: u32,
    /// The part `[seen.0, seen.1)` that shows the picture; the rest is black.
    pub(crate) seen: (i64, i64),
    /// What every window so far had, borders and all: boxes are cut there.
    pub(crate) kept: (i64, i64),
}

impl Span {
    pub(crate) fn whole(len: u32) -> Span {
        Span {
            start: 0,
            len,
            seen: (0, i64::from(len)),
            kept: EVERYWHERE,
        }
    }

    pub(crate) fn end(&self) -> i64 {
        self.start + i64::from(self.len)
    }

    /// Keeps pixels `[offset, offset + len)` of this span, counted from its start;
    /// what the picture had outside is gone, and pixels outside the span are black.
    fn window(&self, offset: i64, len: u32) -> Span {
        let start = self.start + offset;
        let end = start + i64::from(len);
        let clamp = |(from, to): (i64, i64)| {
            let from = from.clamp(start, end);
            (from, to.clamp(from, end))
        };
        Span {
            start,
            len,
            seen: clamp(self.seen),
            kept: clamp(self.kept),
        }
    }

    /// Whether all of it shows the picture.
    pub(crate) fn full(&self) -> bool {
        self.seen == (self.start, self.end())
    }

    /// Whether none of it does.
    pub(crate) fn blank(&self) -> bool {
        self.seen.0 >= self.seen.1
    }
}

/// One axis of a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    /// The source box, in pixels of the image.
    pub(crate) source: Span,
    /// What the box is resized to, and which part of that is the output; `None` where
    /// no transform resizes, and the source box is the output.
    pub(crate) resized: Option<(u32, Span)>,
}

impl Axis {
    fn whole(len: u32) -> Axis {
        Axis {
            source: Span::whole(len),
            resized: None,
        }
    }

    fn current(&self) -> Span {
        self.resized.map_or(self.source, |(_, window)| window)
    }

    fn window(&mut self, offset: i64, len: u32) {
        let next = self.current().window(offset, len);
        match &mut self.resized {
            Some((_, window)) => *window = next,
            None => self.source = next,
        }
    }

    /// The output's span: pixels of the resized grid, or of the image.
    pub(crate) fn output(&self) -> Span {
        self.current()
    }

    /// `[from, to)` of the output that gets pixels; the rest is black.
    pub(crate) fn filled(&self) -> (usize, usize) {
        let Span { start, seen, .. } = self.output();
        ((seen.0 - start) as usize, (seen.1 - start) as usize)
    }
}

/// Where an image's pixels go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// The resize's filter, where there is a resize.
    pub(crate) filter: Option<Interpolation>,
    /// Whether columns are written from right to left.
    pub(crate) flipped: bool,
    /// Whether rows are written from the last to the first.
    pub(crate) upside_down: bool,
    /// Which of the two, columns and rows, were so before the resize.
    pub(crate) turned: (bool, bool),
}

/// Random `u32`s that a transform takes from the stream for each image.
pub(crate) fn draws_of(transform: &Transform) -> usize {
    match transform {
        Transform::RandomResizedCrop { .. } => 2 * TRIES + 2,
        Transform::RandomCrop { .. } => 2,
        Transform::RandomHorizontalFlip { .. } | Transform::RandomVerticalFlip { .. } => 1,
        _ => 0,
    }
}

impl Placement {
    /// Runs the geometric transforms over an image of `width` x `height`. Fails where a
    /// RandomCrop wants more than there is.
    ///
    /// Panics where `draws` ends before [`draws_of`] all transforms are taken.
    pub(crate) fn draw(
        transforms: &[Transform],
        width: u32,
        height: u32,
        draws: &mut dyn Iterator<Item = u32>,
    ) -> Result<Placement, DecodeError> {
        let mut draw = || draws.next().expect("random draws must not end");
        let mut place = Placement {
            x: Axis::whole(width),
            y: Axis::whole(height),
            filter: None,
            flipped: false,
            upside_down: false,
            turned: (false, false),
        };
        for transform in transforms {
            let (w, h) = (place.x.current().len, place.y.current().len);
            match transform {
                Transform::RandomResizedCrop {
                    size,
                    scale,
                    ratio,
                    interpolation,
                } => {
                    let drawn: [u32; 2 * TRIES + 2] = std::array::from_fn(|_| draw());
                    let [top, left, rows, columns] = random_crop(w, h, *scale, *ratio, &drawn);
                    place.crop(top.into(), left.into(), rows, columns);
                    place.resize(*size, *interpolation);
                }
                Transform::Resize {
                    size,
                    max_size,
                    interpolation,
                } => {
                    let size = match size {
                        ResizeTo::Exact(size) => *size,
                        ResizeTo::Shorter(side) => shorter_to(w, h, *side, *max_size),
                    };
                    place.resize(size, *interpolation);
                }
                Transform::CenterCrop {
                    size: [rows, columns],
                } => {
                    let (top, left) = (centre(h, *rows), centre(w, *columns));
                    place.crop(top, left, *rows, *columns);
                }
                Transform::RandomHorizontalFlip { p } => {
                    if unit(draw()) < *p {
                        place.flipped = !place.flipped;
                    }
                }
                Transform::RandomVerticalFlip { p } => {
                    if unit(draw()) < *p {
                        place.upside_down = !place.upside_down;
                    }
                }
                // Borders are black here: others need the pixels.
                Transform::Pad {
                    padding: [left, top, right, bottom],
                    ..
                } => {
                    let (rows, columns) = (h + top + bottom, w + left + right);
                    place.crop(-i64::from(*top), -i64::from(*left), rows, columns);
                }
                Transform::RandomCrop {
                    size: size @ [rows, columns],
                    padding,
                    pad_if_needed,
                    ..
                } => {
                    let borders = crop_padding([h, w], *size, *padding, *pad_if_needed);
                    let (top, left) = crop_start([h, w], *size, borders, [draw(), draw()])?;
                    place.crop(top, left, *rows, *columns);
                }
                Transform::Normalize { .. }
                | Transform::ToDtype { .. }
                | Transform::ToLayout { .. } => {}
                Transform::ColorJitter { .. }
                | Transform::RandomGrayscale { .. }
                | Transform::RandAugment { .. }
                | Transform::RandomErasing { .. } => {
                    unreachable!("the list's second part begins with what needs pixels")
                }
            }
        }
        Ok(place)
    }

    /// Crops in the coordinates that the user sees: mirrored after a flip.
    fn crop(&mut self, top: i64, left: i64, rows: u32, columns: u32) {
        let (width, height) = (self.x.current().len, self.y.current().len);
        let (width, height) = (i64::from(width), i64::from(height));
        let top = if self.upside_down {
            height - top - i64::from(rows)
        } else {
            top
        };
        let left = if self.flipped {
            width - left - i64::from(columns)
        } else {
            left
        };
        self.y.window(top, rows);
        self.x.window(left, columns);
    }

    fn resize(&mut self, [rows, columns]: [u32; 2], filter: Interpolation) {
        let (x, y) = (self.x.current(), self.y.current());
        debug_assert!(self.filter.is_none(), "the pipeline allows one resize");
        if x.len == columns && y.len == rows {
            return;
        }
        self.filter = Some(filter);
        self.turned = (self.flipped, self.upside_down);
        self.x.resized = Some((columns, Span::whole(columns)));
        self.y.resized = Some((rows, Span::whole(rows)));
    }
}

/// Where RandomCrop starts, `(top, left)`, in a picture of `[h, w]` with borders of
/// `[left, top, right, bottom]`; negative within the borders.
pub(crate) fn crop_start(
    [height, width]: [u32; 2],
    [rows, columns]: [u32; 2],
    [left, top, right, bottom]: [u32; 4],
    draws: [u32; 2],
) -> Result<(i64, i64), DecodeError> {
    let (height, width) = (height + top + bottom, width + left + right);
    if height < rows || width < columns {
        return Err(DecodeError::TooSmall {
            width,
            height,
            columns,
            rows,
        });
    }
    Ok((
        i64::from(choice(draws[0], height - rows + 1)) - i64::from(top),
        i64::from(choice(draws[1], width - columns + 1)) - i64::from(left),
    ))
}

/// A draw as a real number in [0, 1).
pub(crate) fn unit(draw: u32) -> f64 {
    f64::from(draw) / 4_294_967_296.0
}

/// A draw as a number below `count`.
pub(crate) fn choice(draw: u32, count: u32) -> u32 {
    ((u64::from(draw) * u64::from(count)) >> 32) as u32
}

/// torchvision's `RandomResizedCrop.get_params`: `[top, left, height, width]`.
fn random_crop(
    width: u32,
    height: u32,
    scale: [f64; 2],
    ratio: [f64; 2],
    drawn: &[u32; 2 * TRIES + 2],
) -> [u32; 4] {
    let area = f64::from(width) * f64::from(height);
    let log_ratio = [ratio[0].ln(), ratio[1].ln()];
    for tried in drawn[..2 * TRIES].chunks_exact(2) {
        let target = area * (scale[0] + unit(tried[0]) * (scale[1] - scale[0]));
        let aspect = (log_ratio[0] + unit(tried[1]) * (log_ratio[1] - log_ratio[0])).exp();
        let w = (target * aspect).sqrt().round_ties_even();
        let h = (target / aspect).sqrt().round_ties_even();
        if 0.0 < w && w <= f64::from(width) && 0.0 < h && h <= f64::from(height) {
            let (w, h) = (w as u32, h as u32);
            let top = choice(drawn[2 * TRIES], height - h + 1);
            let left = choice(drawn[2 * TRIES + 1], width - w + 1);
            return [top, left, h, w];
        }
    }
    let own = f64::from(width) / f64::from(height);
    let (w, h) = if own < ratio[0] {
        (
            width,
            (f64::from(width) / ratio[0]).round_ties_even() as u32,
        )
    } else if own > ratio[1] {
        (
            (f64::from(height) * ratio[1]).round_ties_even() as u32,
            height,
        )
    } else {
        (width, height)
    };
    // A one-pixel side can round to 0 (where torchvision fails).
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    [(height - h) / 2, (width - w) / 2, h, w]
}

/// torchvision's size rule for Resize with one number: `[h, w]`.
fn shorter_to(width: u32, height: u32, side: u32, max_size: Option<u32>) -> [u32; 2] {
    let (short, long) = (width.min(height), width.max(height));
    let follow = |side: u32, of: u32, by: u32| {
        let followed = f64::from(side) * f64::from(of) / f64::from(by);
        (followed as u32).min(RESIZED_MAX)
    };
    let (mut new_short, mut new_long) = (side, follow(side, long, short));
    if let Some(max_size) = max_size
        && new_long > max_size
    {
        (new_short, new_long) = (follow(max_size, new_short, new_long).max(1), max_size);
    }
    if width <= height {
        [new_long, new_short]
    } else {
        [new_short, new_long]
    }
}

/// Where torchvision's CenterCrop starts on one axis; negative where it pads. It rounds
/// half a pixel down when it pads and to even when it cuts.
pub(crate) fn centre(len: u32, wanted: u32) -> i64 {
    if wanted > len {
        -i64::from((wanted - len) / 2)
    } else {
        (f64::from(len - wanted) / 2.0).round_ties_even() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(draw: u32) -> impl Iterator<Item = u32> {
        std::iter::repeat(draw)
    }

    fn crop(size: [u32; 2]) -> Transform {
        Transform::CenterCrop { size }
    }

    #[test]
    fn centre_rounds_as_torchvision() {
        // (len, wanted, start): Python's round() goes to even.
        for (len, wanted, start) in [
            (10, 4, 3),
            (11, 4, 4), // 3.5
            (9, 4, 2),  // 2.5
            (7, 4, 2),  // 1.5
            (4, 4, 0),
            (3, 4, 0),
            (3, 6, -1),
        ] {
            assert_eq!(centre(len, wanted), start, "{len} {wanted}");
        }
    }

    #[test]
    fn shorter_side_rule_truncates() {
        for (width, height, side, max_size, expected) in [
            (500, 333, 256, None, [256, 384]),
            (333, 500, 256, None, [384, 256]),
            (500, 375, 256, None, [256, 341]),
            (100, 100, 7, None, [7, 7]),
            (1000, 100, 256, Some(300), [30, 300]),
            (65000, 1, 16, Some(100), [1, 100]),
            (400_000, 1, 16_384, None, [16_384, 1 << 31]),
        ] {
            assert_eq!(shorter_to(width, height, side, max_size), expected);
        }
    }

    #[test]
    fn random_crops_stay_inside_and_take_the_same_draws() {
        let mut state = 1u32;
        let mut source = std::iter::from_fn(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(state ^ (state >> 15))
        });
        let transform = Transform::RandomResizedCrop {
            size: [8, 8],
            scale: [0.08, 1.0],
            ratio: [0.75, 4.0 / 3.0],
            interpolation: Interpolation::Bilinear,
        };
        for (width, height) in [(500, 375), (1, 1), (1, 900), (900, 1), (2, 3), (4000, 13)] {
            let mut share = 0.0;
            for _ in 0..400 {
                let mut taken = 0;
                let mut counted = source.by_ref().inspect(|_| taken += 1);
                let place = Placement::draw(
                    std::slice::from_ref(&transform),
                    width,
                    height,
                    &mut counted,
                )
                .unwrap();
                assert_eq!(taken, draws_of(&transform));
                let (x, y) = (place.x.source, place.y.source);
                assert!(
                    x.start >= 0 && x.end() <= width.into() && x.len > 0,
                    "{x:?}"
                );
                assert!(
                    y.start >= 0 && y.end() <= height.into() && y.len > 0,
                    "{y:?}"
                );
                share += f64::from(x.len) * f64::from(y.len)
                    / (f64::from(width) * f64::from(height))
                    / 400.0;
            }
            // Uniform areas between 8 and 100 %, less what does not fit.
            if width == 500 {
                assert!((0.40..0.60).contains(&share), "{share}");
            }
        }
    }

    #[test]
    fn crops_fall_back_to_the_middle() {
        for (width, height, ratio, expected) in [
            (11, 100, [0.75, 1.0], [42, 0, 15, 11]), // 14.7 rows
            (2, 100, [0.8, 1.0], [49, 0, 2, 2]),     // 2.5
            (100, 2, [1.0, 1.25], [0, 49, 2, 2]),    // 2.5 columns
            (1, 100, [3.0, 4.0], [49, 0, 1, 1]),     // 0.3, and at least one
            (100, 1, [0.2, 0.25], [0, 49, 1, 1]),
        ] {
            let drawn = [0; 2 * TRIES + 2];
            let found = random_crop(width, height, [0.9, 1.0], ratio, &drawn);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn crops_compose_and_follow_a_flip() {
        let flip = Transform::RandomHorizontalFlip { p: 1.0 };
        let place = |list: &[Transform]| Placement::draw(list, 9, 9, &mut constant(0)).unwrap();
        let x_of = |list: &[Transform]| place(list).x.source;
        // 9 -> 4 starts at round(2.5) = 2; mirrored, that is 9 - 2 - 4 = 3.
        assert_eq!(x_of(&[crop([4, 4]), flip.clone()]).start, 2);
        assert_eq!(x_of(&[flip.clone(), crop([4, 4])]).start, 3);
        assert_eq!(x_of(&[flip.clone(), flip, crop([4, 4])]).start, 2);
        // Cut to 4, then padded to 8: the cut-off part does not come back.
        let span = x_of(&[crop([4, 4]), crop([8, 8])]);
        assert_eq!((span.start, span.len, span.seen), (0, 8, (2, 6)));
        assert!(!span.full());
        // The same from top to bottom.
        let turn = Transform::RandomVerticalFlip { p: 1.0 };
        assert_eq!(place(&[crop([4, 4]), turn.clone()]).y.source.start, 2);
        assert_eq!(place(&[turn.clone(), crop([4, 4])]).y.source.start, 3);
        assert_eq!(place(&[turn.clone(), crop([4, 4])]).x.source.start, 2);
        assert!(place(std::slice::from_ref(&turn)).upside_down);
        assert!(!place(&[turn.clone(), turn]).upside_down);
    }

    #[test]
    fn borders_and_random_crops() {
        let pad = |padding| Transform::Pad {
            padding,
            fill: [0; 3],
            padding_mode: Default::default(),
        };
        let crop = |size, padding, pad_if_needed| Transform::RandomCrop {
            size,
            padding,
            pad_if_needed,
            fill: [0; 3],
            padding_mode: Default::default(),
        };
        let check = |list: &[Transform], draw, x: (i64, u32), y: (i64, u32)| {
            let place = Placement::draw(list, 9, 7, &mut constant(draw)).unwrap();
            let of = |axis: Axis| (axis.source.start, axis.source.len);
            assert_eq!((of(place.x), of(place.y)), (x, y));
            assert_eq!(place.x.source.seen.1 - place.x.source.seen.0.max(0), {
                let Span { start, len, .. } = place.x.source;
                (start + i64::from(len)).min(9) - start.max(0)
            });
        };
        let flip = Transform::RandomHorizontalFlip { p: 1.0 };
        check(&[pad([1, 2, 3, 4])], 0, (-1, 13), (-2, 13));
        check(&[flip, pad([1, 2, 3, 4])], 0, (-3, 13), (-2, 13));
        // Starts 0 to 4 and 0 to 2 without borders, -1 to 6 and -2 to 5 with them.
        check(&[crop([5, 5], [0; 4], false)], 0, (0, 5), (0, 5));
        check(&[crop([5, 5], [0; 4], false)], u32::MAX, (4, 5), (2, 5));
        check(&[crop([5, 5], [1, 2, 2, 3], false)], 0, (-1, 5), (-2, 5));
        check(
            &[crop([5, 5], [1, 2, 2, 3], false)],
            u32::MAX,
            (6, 5),
            (5, 5),
        );
        // 3 rows too few: as many above and below.
        check(&[crop([10, 9], [0; 4], true)], 0, (0, 9), (-3, 10));
        check(&[crop([10, 9], [0; 4], true)], u32::MAX, (0, 9), (0, 10));
        // Nor do borders make a side of no more than 32 bits too long for them.
        let high = Transform::Resize {
            size: ResizeTo::Shorter(16_384),
            max_size: None,
            interpolation: Interpolation::Bilinear,
        };
        let list = [high, pad([1, 2, 3, 4]), crop([5, 5], [4; 4], false)];
        let place = Placement::draw(&list, 400_000, 1, &mut constant(1 << 31)).unwrap();
        assert_eq!(place.x.current().start, (1 << 30) - 1);
        let small = Placement::draw(&[crop([10, 9], [0; 4], false)], 9, 7, &mut constant(0));
        assert_eq!(
            small.unwrap_err().to_string(),
            "the image is 9x7 before RandomCrop((h=10, w=9)), with its padding: too small; \
             pad_if_needed=True adds borders, Resize before it enlarges"
        );
    }

    #[test]
    fn flips_follow_p() {
        let flip = [Transform::RandomHorizontalFlip { p: 0.25 }];
        for (draw, flipped) in [
            (0, true),
            ((1 << 30) - 1, true),
            (1 << 30, false),
            (u32::MAX, false),
        ] {
            assert_eq!(
                Placement::draw(&flip, 4, 4, &mut constant(draw))
                    .unwrap()
                    .flipped,
                flipped
            );
        }
        let never = [Transform::RandomHorizontalFlip { p: 0.0 }];
        let place = Placement::draw(&never, 4, 4, &mut constant(0)).unwrap();
        assert!(!place.flipped);
    }
}
