//! The transforms a user can name, with torchvision v2's names and meanings.
//!
//! Enters: JSON from a client. Leaves: [`Transform`] values whose fields lie within
//! their bounds. Never: an image.

mod bounds;

use serde::{Deserialize, Serialize};

use crate::error::TransformError;

/// Longest side that a transform may ask for, in pixels.
pub(crate) const SIDE_MAX: u32 = 16_384;

/// Element type of finished pixels, under NumPy's names (bfloat16: ml_dtypes').
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 0 to 255, as decoded.
    Uint8,
    /// The upper half of a binary32: 8 bits of exponent, 7 of fraction.
    Bfloat16,
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
            DType::Bfloat16 | DType::Float16 => 2,
            DType::Float32 => 4,
        }
    }

    /// Its NumPy name.
    pub fn name(self) -> &'static str {
        match self {
            DType::Uint8 => "uint8",
            DType::Bfloat16 => "bfloat16",
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

/// Where [`Transform::RandAugment`]'s shears, shifts and rotations find a pixel's value.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// At the pixel that covers the point.
    #[default]
    Nearest,
    /// Between the four pixels around the point.
    Bilinear,
}

/// What lies beyond an image's edge.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "lowercase")]
pub enum PaddingMode {
    /// One colour.
    #[default]
    Constant,
    /// The edge's pixel over and over.
    Edge,
    /// The image mirrored about its last pixel, which is not repeated.
    Reflect,
    /// The image mirrored about its edge, so that the last pixel comes twice.
    Symmetric,
}

/// What [`Transform::RandomErasing`] writes.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(untagged)]
pub enum EraseValue {
    /// One value per channel, as it shall stand in the output.
    Values([f64; 3]),
    /// `"random"`.
    Noise(Noise),
}

/// A value of its own for every pixel and channel.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Noise {
    /// Normally distributed, with mean 0 and deviation 1.
    Random,
}

/// How a finished image lies in memory, C-contiguous.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum Layout {
    /// `[C, H, W]`: plane after plane.
    #[default]
    Nchw,
    /// `[H, W, C]`: pixel after pixel.
    Nhwc,
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
    /// Turns upside down with probability `p`.
    RandomVerticalFlip {
        /// 0 to 1.
        #[serde(default = "p_default")]
        p: f64,
    },
    /// Adds borders.
    Pad {
        /// Pixels at `[left, top, right, bottom]`.
        padding: [u32; 4],
        /// RGB of a constant border.
        #[serde(default)]
        fill: [u8; 3],
        /// What the borders show.
        #[serde(default)]
        padding_mode: PaddingMode,
    },
    /// Cuts `size` out at a random place; `padding` is added first.
    RandomCrop {
        /// `[h, w]`.
        size: [u32; 2],
        /// Pixels at `[left, top, right, bottom]`.
        #[serde(default)]
        padding: [u32; 4],
        /// Whether an image that is still too small gets, on both sides, what it lacks.
        #[serde(default)]
        pad_if_needed: bool,
        /// RGB of a constant border.
        #[serde(default)]
        fill: [u8; 3],
        /// What the borders show.
        #[serde(default)]
        padding_mode: PaddingMode,
    },
    /// Changes brightness, contrast, saturation and hue, in a random order, each by a
    /// factor (hue: a part of the colour circle) drawn from its `[low, high]`.
    ColorJitter {
        /// From 0; 1 changes nothing, and 0 is black.
        #[serde(default)]
        brightness: Option<[f64; 2]>,
        /// From 0; 1 changes nothing, and 0 is the mean grey.
        #[serde(default)]
        contrast: Option<[f64; 2]>,
        /// From 0; 1 changes nothing, and 0 is grey.
        #[serde(default)]
        saturation: Option<[f64; 2]>,
        /// -0.5 to 0.5; 0 changes nothing.
        #[serde(default)]
        hue: Option<[f64; 2]>,
    },
    /// Takes the colour away with probability `p`.
    RandomGrayscale {
        /// 0 to 1.
        #[serde(default = "grayscale_p_default")]
        p: f64,
    },
    /// `num_ops` operations, each drawn from fourteen (Cubuk, Zoph, Shlens, Le:
    /// "RandAugment", 2019).
    RandAugment {
        /// How many.
        #[serde(default = "num_ops_default")]
        num_ops: u32,
        /// How strong, of `num_magnitude_bins` steps from 0.
        #[serde(default = "magnitude_default")]
        magnitude: u32,
        /// Steps from no effect to the strongest.
        #[serde(default = "num_magnitude_bins_default")]
        num_magnitude_bins: u32,
        /// Of shears, shifts and rotations.
        #[serde(default)]
        interpolation: Sampling,
        /// RGB of what they uncover; black where it is left out.
        #[serde(default)]
        fill: Option<[u8; 3]>,
    },
    /// Overwrites a random rectangle with probability `p`.
    RandomErasing {
        /// 0 to 1.
        #[serde(default = "p_default")]
        p: f64,
        /// Least and greatest share of the image's area.
        #[serde(default = "erase_scale_default")]
        scale: [f64; 2],
        /// Least and greatest height to width.
        #[serde(default = "erase_ratio_default")]
        ratio: [f64; 2],
        /// With what.
        #[serde(default = "erase_value_default")]
        value: EraseValue,
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
    /// Says how the finished image lies in memory.
    ToLayout {
        /// How.
        layout: Layout,
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

fn grayscale_p_default() -> f64 {
    0.1
}

fn num_ops_default() -> u32 {
    2
}

fn magnitude_default() -> u32 {
    9
}

fn num_magnitude_bins_default() -> u32 {
    31
}

fn erase_scale_default() -> [f64; 2] {
    [0.02, 0.33]
}

fn erase_ratio_default() -> [f64; 2] {
    [0.3, 3.3]
}

fn erase_value_default() -> EraseValue {
    EraseValue::Values([0.0; 3])
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
            Transform::RandomVerticalFlip { .. } => "RandomVerticalFlip",
            Transform::Pad { .. } => "Pad",
            Transform::RandomCrop { .. } => "RandomCrop",
            Transform::ColorJitter { .. } => "ColorJitter",
            Transform::RandomGrayscale { .. } => "RandomGrayscale",
            Transform::RandAugment { .. } => "RandAugment",
            Transform::RandomErasing { .. } => "RandomErasing",
            Transform::Normalize { .. } => "Normalize",
            Transform::ToDtype { .. } => "ToDtype",
            Transform::ToLayout { .. } => "ToLayout",
        }
    }

    /// The element type after it, where it casts.
    pub(crate) fn casts_to(&self) -> Option<DType> {
        match self {
            Transform::Normalize { dtype, .. } | Transform::ToDtype { dtype, .. } => Some(*dtype),
            _ => None,
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
                // serde cannot say more about an untagged value than that none fits.
                reason: match (value.get("size"), value.get("value")) {
                    (Some(size), _) if error.to_string().contains("untagged enum ResizeTo") => {
                        format!("size must be a whole number or [height, width], found {size}")
                    }
                    (_, Some(value)) if error.to_string().contains("untagged enum EraseValue") => {
                        format!("value must be 3 numbers or \"random\", found {value}")
                    }
                    _ => error.to_string(),
                },
            })?;
        transform.check(index)?;
        Ok(transform)
    }
}
