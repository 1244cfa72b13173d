//! RandAugment's operations: from a name and a magnitude to a step.
//!
//! Enters: which of the fourteen, the magnitude, the sign, the picture's size. Leaves: a
//! [`Step`], as torchvision's `RandAugment` would call its functions. Never: a draw.

use super::Step;
use super::affine::Affine;
use crate::transforms::Sampling;

/// In torchvision's order, which the draw of an operation counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Colour,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

pub(super) const OPERATIONS: [Operation; 14] = [
    Operation::Identity,
    Operation::ShearX,
    Operation::ShearY,
    Operation::TranslateX,
    Operation::TranslateY,
    Operation::Rotate,
    Operation::Brightness,
    Operation::Colour,
    Operation::Contrast,
    Operation::Sharpness,
    Operation::Posterize,
    Operation::Solarize,
    Operation::AutoContrast,
    Operation::Equalize,
];

/// How strong an operation is and which way it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strength {
    /// Of `bins` steps from 0.
    pub(super) magnitude: u32,
    pub(super) bins: u32,
    /// For operations that have two ways.
    pub(super) negative: bool,
}

impl Operation {
    /// The operation on a picture of `[h, w]`; `None` where it changes nothing.
    pub(super) fn step(
        self,
        strength: Strength,
        [height, width]: [u32; 2],
        sampling: Sampling,
        fill: Option<[u8; 3]>,
    ) -> Option<Step> {
        let (height, width) = (f64::from(height), f64::from(width));
        let signed = |most: f64| {
            let value = strength.linear(0.0, most);
            if strength.negative { -value } else { value }
        };
        let factor = || (1.0 + signed(0.9)) as f32;
        let affine = |x, y| {
            Step::Affine(Affine {
                x,
                y,
                sampling,
                fill,
            })
        };
        Some(match self {
            Operation::Identity => return None,
            // Shears leave the picture's first row or column where it is.
            Operation::ShearX => {
                let shear = signed(0.3);
                affine([1.0, shear, shear * height / 2.0], [0.0, 1.0, 0.0])
            }
            Operation::ShearY => {
                let shear = signed(0.3);
                affine([1.0, 0.0, 0.0], [shear, 1.0, shear * width / 2.0])
            }
            Operation::TranslateX => {
                let shift = signed(150.0 / 331.0 * width).trunc();
                affine([1.0, 0.0, -shift], [0.0, 1.0, 0.0])
            }
            Operation::TranslateY => {
                let shift = signed(150.0 / 331.0 * height).trunc();
                affine([1.0, 0.0, 0.0], [0.0, 1.0, -shift])
            }
            // Against the clock, in degrees, about the middle.
            Operation::Rotate => {
                let (sin, cos) = signed(30.0).to_radians().sin_cos();
                affine([cos, -sin, 0.0], [sin, cos, 0.0])
            }
            Operation::Brightness => Step::Brightness(factor()),
            Operation::Colour => Step::Saturation(factor()),
            Operation::Contrast => Step::Contrast(factor()),
            Operation::Sharpness => Step::Sharpness(factor()),
            Operation::Posterize => {
                let lost = strength.magnitude as f32 / ((strength.bins - 1) as f32 / 4.0);
                Step::Posterize((8.0 - lost).round_ties_even() as u8)
            }
            Operation::Solarize => Step::Solarize((255.0 * strength.linear(1.0, 0.0)) as f32),
            Operation::AutoContrast => Step::AutoContrast,
            Operation::Equalize => Step::Equalize,
        })
    }
}

impl Strength {
    /// `torch.linspace(start, end, bins)[magnitude]`, which is float32: the step is rounded
    /// to it, and the value, counted from the nearer end, once.
    fn linear(&self, start: f64, end: f64) -> f64 {
        let (start, end) = (start as f32, end as f32);
        let step = f64::from((end - start) / (self.bins - 1) as f32);
        let value = if self.magnitude < self.bins / 2 {
            f64::from(start) + step * f64::from(self.magnitude)
        } else {
            f64::from(end) - step * f64::from(self.bins - 1 - self.magnitude)
        };
        f64::from(value as f32)
    }
}
