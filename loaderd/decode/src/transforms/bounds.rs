//! The bounds of every transform's fields.
//!
//! Enters: a parsed transform. Leaves: nothing, or an error that states the field, the
//! bound and the value found. Never: a look at the transform's neighbours in the list.

use super::{DType, EraseValue, ResizeTo, SIDE_MAX, Transform};
use crate::error::TransformError;

/// Strongest brightness, contrast or saturation: beyond it, all is black or bright.
const FACTOR_MAX: f64 = 1e6;

/// Most operations of RandAugment on one image.
const OPS_MAX: u32 = 32;

/// Most steps of RandAugment's magnitude.
const BINS_MAX: u32 = 1 << 16;

impl Transform {
    pub(super) fn check(&self, index: usize) -> Result<(), TransformError> {
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
        let probability = |p: f64| {
            if (0.0..=1.0).contains(&p) {
                return Ok(());
            }
            out_of_bounds("p", "0 to 1", p.to_string())
        };
        let interval = |field, value: &Option<[f64; 2]>, [least, most]: [f64; 2]| match *value {
            Some([low, high]) if !(least <= low && low <= high && high <= most) => {
                let bound = format!("[low, high] with {least} <= low <= high <= {most}");
                out_of_bounds(field, &bound, format!("[{low}, {high}]"))
            }
            _ => Ok(()),
        };
        let borders = |padding: &[u32; 4]| match padding.iter().find(|side| **side > SIDE_MAX) {
            Some(side) => {
                let bound = format!("0 to {SIDE_MAX} pixels a side");
                out_of_bounds("padding", &bound, side.to_string())
            }
            None => Ok(()),
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
            Transform::RandomHorizontalFlip { p }
            | Transform::RandomVerticalFlip { p }
            | Transform::RandomGrayscale { p } => probability(*p),
            Transform::Pad { padding, .. } => borders(padding),
            Transform::RandomCrop { size, padding, .. } => {
                sides("size", size)?;
                borders(padding)
            }
            Transform::ColorJitter {
                brightness,
                contrast,
                saturation,
                hue,
            } => {
                interval("brightness", brightness, [0.0, FACTOR_MAX])?;
                interval("contrast", contrast, [0.0, FACTOR_MAX])?;
                interval("saturation", saturation, [0.0, FACTOR_MAX])?;
                interval("hue", hue, [-0.5, 0.5])
            }
            Transform::RandAugment {
                num_ops,
                magnitude,
                num_magnitude_bins,
                ..
            } => {
                if *num_ops > OPS_MAX {
                    let bound = format!("0 to {OPS_MAX}");
                    return out_of_bounds("num_ops", &bound, num_ops.to_string());
                }
                if !(2..=BINS_MAX).contains(num_magnitude_bins) {
                    let bound = format!("2 to {BINS_MAX}");
                    let found = num_magnitude_bins.to_string();
                    return out_of_bounds("num_magnitude_bins", &bound, found);
                }
                if magnitude >= num_magnitude_bins {
                    let bound = format!("less than num_magnitude_bins ({num_magnitude_bins})");
                    return out_of_bounds("magnitude", &bound, magnitude.to_string());
                }
                Ok(())
            }
            Transform::RandomErasing {
                p,
                scale,
                ratio,
                value,
            } => {
                probability(*p)?;
                interval("scale", &Some(*scale), [0.0, 1.0])?;
                range("ratio", *ratio)?;
                match value {
                    // Judged as the float32 that is written.
                    EraseValue::Values(values) => {
                        match values.iter().find(|value| !(**value as f32).is_finite()) {
                            Some(value) => out_of_bounds("value", "finite", value.to_string()),
                            None => Ok(()),
                        }
                    }
                    EraseValue::Noise(_) => Ok(()),
                }
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
                    return out_of_bounds(
                        "dtype",
                        "bfloat16, float16 or float32",
                        dtype.name().to_string(),
                    );
                }
                Ok(())
            }
            Transform::ToDtype { .. } | Transform::ToLayout { .. } => Ok(()),
        }
    }
}
