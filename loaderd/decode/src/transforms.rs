//! The transforms a user can name, with torchvision v2's names and meanings.
//!
//! Enters: JSON from a client. Leaves: [`Transform`] values whose fields lie within
//! their bounds. Never: an image.

use serde::{Deserialize, Serialize};

use crate::error::TransformError;

/// Longest side that a transform may ask for, in pixels.
pub(crate) const SIDE_MAX: u32 = 16_384;

/// Element type of finished pixels, under NumPy's names.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 0 to 255, as decoded.
    Uint8,
    /// IEEE 754 binary16.
    Float16,
    /// IEEE 754 binary32.
    Float32,
}

impl DType {
    /// Bytes of one element.
    pub fn itemsize(self) -> u64 {
        match self {
            DType::Uint8 => 1,
            DType::Float16 => 2,
            DType::Float32 => 4,
        }
    }

    /// Its NumPy name.
    pub fn name(self) -> &'static str {
        match self {
            DType::Uint8 => "uint8",
            DType::Float16 => "float16",
            DType::Float32 => "float32",
        }
    }
}

/// Filter of a resize. Both widen with the scale (antialiasing), as in Pillow.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The triangle filter.
    #[default]
    Bilinear,
    /// The Catmull-Rom cubic (a = -0.5).
    Bicubic,
}

/// What [`Transform::Resize`] makes of an image.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(untagged)]
pub enum ResizeTo {
    /// The shorter side gets this many pixels, the longer one follows (rounded down).
    Shorter(u32),
    /// Exactly `[h, w]`.
    Exact([u32; 2]),
}

/// One step of a column's transform list. Field order is the canonical order.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "name", deny_unknown_fields)]
pub enum Transform {
    /// A random area (`scale`, as a share of the image) of a random aspect (`ratio`,
    /// width to height, log-uniform), resized to `size`.
    RandomResizedCrop {
        /// `[h, w]`.
        size: [u32; 2],
        /// Least and greatest share of the image's area.
        #[serde(default = "scale_default")]
        scale: [f64; 2],
        /// Least and greatest width to height.
        #[serde(default = "ratio_default")]
        ratio: [f64; 2],
        /// The resize's filter.
        #[serde(default)]
        interpolation: Interpolation,
    },
    /// Resizes the image.
    Resize {
        /// To what.
        size: ResizeTo,
        /// Where `size` is one number: the longer side's bound.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_size: Option<u32>,
        /// The resize's filter.
        #[serde(default)]
        interpolation: Interpolation,
    },
    /// Cuts `size` out of the middle; an image that is smaller gets black borders first.
    CenterCrop {
        /// `[h, w]`.
        size: [u32; 2],
    },
    /// Mirrors left and right with probability `p`.
    RandomHorizontalFlip {
        /// 0 to 1.
        #[serde(default = "p_default")]
        p: f64,
    },
    /// `(x - mean) / std` per channel, where x runs from 0 to 1.
    Normalize {
        /// Three numbers, or one for all channels.
        mean: Vec<f64>,
        /// Three numbers, or one for all channels; none of them 0.
        std: Vec<f64>,
        /// Type of the result.
        #[serde(default = "dtype_default")]
        dtype: DType,
    },
    /// Casts; with `scale`, 0 to 255 becomes 0 to 1.
    ToDtype {
        /// Type of the result.
        dtype: DType,
        /// Whether to divide by 255 on the way from integers to floats.
        #[serde(default)]
        scale: bool,
    },
}

fn scale_default() -> [f64; 2] {
    [0.08, 1.0]
}

fn ratio_default() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

fn p_default() -> f64 {
    0.5
}

fn dtype_default() -> DType {
    DType::Float32
}

impl Transform {
    /// Its name, as the client writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Transform::RandomResizedCrop { .. } => "RandomResizedCrop",
            Transform::Resize { .. } => "Resize",
            Transform::CenterCrop { .. } => "CenterCrop",
            Transform::RandomHorizontalFlip { .. } => "RandomHorizontalFlip",
            Transform::Normalize { .. } => "Normalize",
            Transform::ToDtype { .. } => "ToDtype",
        }
    }

    /// Parses entry `index` of a list and checks the bounds of its fields.
    pub(crate) fn parse(
        index: usize,
        value: &serde_json::Value,
    ) -> Result<Transform, TransformError> {
        let transform: Transform =
            serde_json::from_value(value.clone()).map_err(|error| TransformError::Malformed {
                index,
                name: value
                    .get("name")
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or("?")
                    .to_string(),
                reason: match value.get("size") {
                    // serde cannot say more about an untagged value than that none fits.
                    Some(size) if error.to_string().contains("untagged") => {
                        format!("size must be a whole number or [height, width], found {size}")
                    }
                    _ => error.to_string(),
                },
            })?;
        transform.check(index)?;
        Ok(transform)
    }

    fn check(&self, index: usize) -> Result<(), TransformError> {
        let name = self.name();
        let out_of_bounds = |field, bound: &str, found: String| {
            Err(TransformError::OutOfBounds {
                index,
                name,
                field,
                bound: bound.to_string(),
                found,
            })
        };
        let sides = |field, sides: &[u32]| match sides
            .iter()
            .find(|side| !(1..=SIDE_MAX).contains(*side))
        {
            Some(side) => {
                out_of_bounds(field, &format!("1 to {SIDE_MAX} pixels"), side.to_string())
            }
            None => Ok(()),
        };
        let range = |field, [low, high]: [f64; 2]| {
            if low.is_finite() && high.is_finite() && 0.0 < low && low <= high {
                return Ok(());
            }
            let bound = "[low, high] with 0 < low <= high";
            out_of_bounds(field, bound, format!("[{low}, {high}]"))
        };
        match self {
            Transform::RandomResizedCrop {
                size, scale, ratio, ..
            } => {
                sides("size", size)?;
                range("scale", *scale)?;
                range("ratio", *ratio)
            }
            Transform::Resize { size, max_size, .. } => match (size, max_size) {
                (ResizeTo::Exact(_), Some(found)) => out_of_bounds(
                    "max_size",
                    "left out where size is [h, w]",
                    found.to_string(),
                ),
                (ResizeTo::Exact(size), None) => sides("size", size),
                (ResizeTo::Shorter(size), None) => sides("size", &[*size]),
                (ResizeTo::Shorter(size), Some(max_size)) => {
                    sides("size", &[*size])?;
                    sides("max_size", &[*max_size])?;
                    if max_size <= size {
                        let bound = format!("greater than size ({size})");
                        return out_of_bounds("max_size", &bound, max_size.to_string());
                    }
                    Ok(())
                }
            },
            Transform::CenterCrop { size } => sides("size", size),
            Transform::RandomHorizontalFlip { p } => {
                if (0.0..=1.0).contains(p) {
                    return Ok(());
                }
                out_of_bounds("p", "0 to 1", p.to_string())
            }
            Transform::Normalize { mean, std, dtype } => {
                for (field, values) in [("mean", mean), ("std", std)] {
                    if values.len() != 3 && values.len() != 1 {
                        return out_of_bounds(field, "1 or 3 numbers", format!("{}", values.len()));
                    }
                    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                        return out_of_bounds(field, "finite", value.to_string());
                    }
                }
                // Judged as the float32 that divides: a tiny value would be 0 there.
                if let Some(value) = std.iter().find(|value| **value as f32 == 0.0) {
                    return out_of_bounds("std", "other than 0", value.to_string());
                }
                if *dtype == DType::Uint8 {
                    return out_of_bounds("dtype", "float16 or float32", dtype.name().to_string());
                }
                Ok(())
            }
            Transform::ToDtype { .. } => Ok(()),
        }
    }
}
