//! Transforms + random draws → steps with parameters.
//!
//! Enters: the list's second part, the picture's size there, draws. Leaves: [`Step`]s in
//! the list's order, and [`Erasure`]s of the finished output. Never: a pixel.
//!
//! As in geometry, every transform takes a fixed number of draws, whether it needs them
//! or not: ColorJitter five (the order, then a factor each), RandAugment two an
//! operation (which one, and the sign), RandomErasing 25 (whether, ten tries of area and
//! aspect, top, left, and two that noise is made of), RandomGrayscale one, and those
//! that geometry knows as many as there.

use super::erase::{Area, Erasure, Filling};
use super::rand_augment::{OPERATIONS, Strength};
use super::window::Window;
use super::{Step, Steps};
use crate::geometry::{self, centre, choice, crop_start, unit};
use crate::pipeline::{Pipeline, crop_padding};
use crate::transforms::{DType, EraseValue, PaddingMode, Transform};

/// Tries of RandomErasing before it erases nothing, as in torchvision.
const TRIES: usize = 10;

/// What RandomErasing draws: whether, the tries, top, left, noise.
const ERASING: usize = 1 + 2 * TRIES + 2 + 2;

/// Random `u32`s that a transform of the second part takes for each image.
pub(crate) fn draws_of(transform: &Transform) -> usize {
    match transform {
        Transform::ColorJitter { .. } => 5,
        Transform::RandomGrayscale { .. } => 1,
        Transform::RandAugment { num_ops, .. } => 2 * *num_ops as usize,
        Transform::RandomErasing { .. } => ERASING,
        other => geometry::draws_of(other),
    }
}

/// Replaces what `steps` held by what the draws mean.
pub(super) fn fill(steps: &mut Steps, pipeline: &Pipeline, draw: &mut dyn FnMut() -> u32) {
    steps.picture.clear();
    steps.output.clear();
    let mut size = pipeline.placed();
    let mut casts = pipeline.geometry().iter().rev();
    let mut dtype = casts.find_map(Transform::casts_to).unwrap_or(DType::Uint8);
    for transform in pipeline.augmentations() {
        dtype = transform.casts_to().unwrap_or(dtype);
        match transform {
            Transform::RandomHorizontalFlip { p } => {
                if unit(draw()) < *p {
                    steps.picture.push(Step::Flip);
                    // What was erased before is turned with the picture.
                    for Erasure { area, .. } in &mut steps.output {
                        area.left = size[1] - area.left - area.width;
                    }
                }
            }
            Transform::RandomVerticalFlip { p } => {
                if unit(draw()) < *p {
                    steps.picture.push(Step::Overturn);
                    for Erasure { area, .. } in &mut steps.output {
                        area.top = size[0] - area.top - area.height;
                    }
                }
            }
            Transform::CenterCrop { size: to } => {
                let start = (centre(size[0], to[0]), centre(size[1], to[1]));
                steps.window(&mut size, *to, start, PaddingMode::Constant, [0; 3]);
            }
            Transform::Pad {
                padding: [left, top, right, bottom],
                fill,
                padding_mode,
            } => {
                let start = (-i64::from(*top), -i64::from(*left));
                let to = [size[0] + top + bottom, size[1] + left + right];
                steps.window(&mut size, to, start, *padding_mode, *fill);
            }
            Transform::RandomCrop {
                size: to,
                padding,
                pad_if_needed,
                fill,
                padding_mode,
            } => {
                let borders = crop_padding(size, *to, *padding, *pad_if_needed);
                let start = crop_start(size, *to, borders, [draw(), draw()])
                    .expect("the list was checked for this size");
                steps.window(&mut size, *to, start, *padding_mode, *fill);
            }
            Transform::ColorJitter {
                brightness,
                contrast,
                saturation,
                hue,
            } => {
                let drawn: [u32; 5] = std::array::from_fn(|_| draw());
                steps.jitter([brightness, contrast, saturation, hue], drawn);
            }
            Transform::RandomGrayscale { p } => {
                if unit(draw()) < *p {
                    steps.picture.push(Step::Grey);
                }
            }
            Transform::RandAugment {
                num_ops,
                magnitude,
                num_magnitude_bins,
                interpolation,
                fill,
            } => {
                for _ in 0..*num_ops {
                    let operation = OPERATIONS[choice(draw(), OPERATIONS.len() as u32) as usize];
                    let strength = Strength {
                        magnitude: *magnitude,
                        bins: *num_magnitude_bins,
                        negative: unit(draw()) < 0.5,
                    };
                    let step = operation.step(strength, size, *interpolation, *fill);
                    steps.picture.extend(step);
                }
            }
            Transform::RandomErasing {
                p,
                scale,
                ratio,
                value,
            } => {
                let drawn: [u32; ERASING] = std::array::from_fn(|_| draw());
                if let Some(area) = erased(size, *p, *scale, *ratio, &drawn) {
                    steps.erase(area, value, dtype, &drawn);
                }
            }
            Transform::Normalize { .. }
            | Transform::ToDtype { .. }
            | Transform::ToLayout { .. } => {}
            Transform::RandomResizedCrop { .. } | Transform::Resize { .. } => {
                unreachable!("the list's second part has no resize")
            }
        }
    }
}

impl Steps {
    fn window(
        &mut self,
        size: &mut [u32; 2],
        to: [u32; 2],
        (top, left): (i64, i64),
        mode: PaddingMode,
        fill: [u8; 3],
    ) {
        if (top, left) != (0, 0) || *size != to {
            self.picture.push(Step::Window(Window {
                left,
                top,
                width: to[1],
                height: to[0],
                mode,
                fill,
            }));
        }
        *size = to;
    }

    /// `ranges` of brightness, contrast, saturation and hue; `drawn` is one of 24 orders,
    /// then a place in each range.
    fn jitter(&mut self, ranges: [&Option<[f64; 2]>; 4], drawn: [u32; 5]) {
        let mut order = choice(drawn[0], 24);
        let mut rest = [0, 1, 2, 3];
        for done in 0..4 {
            let left = 4 - done as u32;
            rest.swap(done, done + (order % left) as usize);
            order /= left;
            let which = rest[done];
            let Some([low, high]) = ranges[which] else {
                continue;
            };
            let factor = (low + unit(drawn[1 + which]) * (high - low)) as f32;
            self.picture.push(match which {
                0 => Step::Brightness(factor),
                1 => Step::Contrast(factor),
                2 => Step::Saturation(factor),
                _ => Step::Hue(factor),
            });
        }
    }

    fn erase(&mut self, area: Area, value: &EraseValue, dtype: DType, drawn: &[u32; ERASING]) {
        let filling = match (dtype, value) {
            (DType::Uint8, EraseValue::Values(values)) => {
                let colour = values.map(|value| value as u8);
                self.picture.push(Step::Erase(area, colour));
                return;
            }
            (_, EraseValue::Values(values)) => Filling::Values(values.map(|value| value as f32)),
            (_, EraseValue::Noise(_)) => {
                let [.., low, high] = *drawn;
                Filling::Noise(u64::from(low) | u64::from(high) << 32)
            }
        };
        self.output.push(Erasure { area, filling });
    }
}

/// torchvision's `RandomErasing.make_params`; `None` where nothing is erased.
fn erased(
    [height, width]: [u32; 2],
    p: f64,
    scale: [f64; 2],
    ratio: [f64; 2],
    drawn: &[u32; ERASING],
) -> Option<Area> {
    let [whether, tries @ .., top, left, _, _] = drawn;
    if unit(*whether) >= p {
        return None;
    }
    let whole = f64::from(height) * f64::from(width);
    let log_ratio = [ratio[0].ln(), ratio[1].ln()];
    for tried in tries.chunks_exact(2) {
        let area = whole * (scale[0] + unit(tried[0]) * (scale[1] - scale[0]));
        let aspect = (log_ratio[0] + unit(tried[1]) * (log_ratio[1] - log_ratio[0])).exp();
        let h = (area * aspect).sqrt().round_ties_even();
        let w = (area / aspect).sqrt().round_ties_even();
        if h < f64::from(height) && w < f64::from(width) {
            let (h, w) = (h as u32, w as u32);
            return Some(Area {
                top: choice(*top, height - h + 1),
                left: choice(*left, width - w + 1),
                height: h,
                width: w,
            });
        }
    }
    None
}
