//! A column's transform list, checked as a whole.
//!
//! Enters: the client's JSON array and options. Leaves: a [`Pipeline`] that knows its
//! output's shape, how a decoded byte becomes a value of it, and how many random
//! draws an image takes. Never: an image.

mod places;

use serde::Serialize;
use serde_json::Value;

use crate::augment;
use crate::error::TransformError;
use crate::finish::Levels;
use crate::geometry;
use crate::header::Header;
use crate::orientation::Orientation;
use crate::transforms::{DType, Layout, PaddingMode, Transform};
use places::Places;
pub(crate) use places::crop_padding;

/// Most transforms of one list.
const TRANSFORMS_MAX: usize = 64;

/// What a user may trade besides the transforms themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Options {
    /// Lets the JPEG decoder shrink the image while the crop still has as many pixels
    /// as the target in both dimensions; without it, while it has 1.5 times as many.
    /// Faster on large photos, and up to 3 grey levels off the exact resize on average.
    pub fast_dct: bool,
    /// Turns images upright as their EXIF block says, or, where that says nothing, their XMP
    /// packet, before any transform sees them.
    /// Left out of the canonical form where it is off, because pipelines that were
    /// recorded before there was such an option did without.
    #[serde(skip_serializing_if = "is_false")]
    pub exif_orientation: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fast_dct: false,
            exif_orientation: true,
        }
    }
}

impl Options {
    /// How a stored image is turned before anything sees it.
    pub(crate) fn orientation_of(self, header: &Header) -> Orientation {
        if self.exif_orientation {
            header.orientation
        } else {
            Orientation::UPRIGHT
        }
    }
}

/// In the form that serde asks for.
fn is_false(value: &bool) -> bool {
    !value
}

/// One image of a pipeline's output: C-contiguous, native byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Element type.
    pub dtype: DType,
    /// `[C, H, W]`, or `[H, W, C]` under [`Layout::Nhwc`]; C is 3, a grey image has three
    /// equal channels.
    pub shape: [u64; 3],
}

impl Output {
    /// Bytes of one image.
    pub fn bytes(&self) -> u64 {
        self.dtype.itemsize() * self.shape.iter().product::<u64>()
    }
}

/// A validated, immutable transform list of one image column.
///
/// Crops and at most one resize come first, so that pixels are sampled once and no more of
/// the image is decoded than they want; then whatever changes pixels at their finished
/// size; then casts and normalisation; then erasing and the layout. Flips may stand
/// anywhere. Within this, the list's order is kept.
#[derive(Debug, Clone)]
pub struct Pipeline {
    transforms: Vec<Transform>,
    places: Places,
    options: Options,
    output: Output,
    levels: Levels,
    draws: usize,
}

impl Pipeline {
    /// Checks a JSON array of `{"name": …, …}` objects as [`Transform`] describes them.
    ///
    /// Defaults are torchvision's. Errors name the transform and its index, the bound
    /// and the value found.
    pub fn parse(transforms: &Value, options: Options) -> Result<Pipeline, TransformError> {
        let Value::Array(entries) = transforms else {
            return Err(TransformError::NotAList {
                found: transforms.to_string(),
            });
        };
        if entries.len() > TRANSFORMS_MAX {
            return Err(TransformError::TooMany {
                found: entries.len(),
                most: TRANSFORMS_MAX,
            });
        }
        let transforms = entries
            .iter()
            .enumerate()
            .map(|(index, value)| Transform::parse(index, value))
            .collect::<Result<Vec<_>, _>>()?;
        let places = Places::find(&transforms)?;
        let levels = levels_of(&transforms)?;
        let [height, width] = places.size.map(u64::from);
        let (geometry, pixels) = transforms.split_at(places.geometry);
        let draws = geometry.iter().map(geometry::draws_of).sum::<usize>()
            + pixels.iter().map(augment::draws_of).sum::<usize>();
        Ok(Pipeline {
            output: Output {
                dtype: levels.dtype,
                shape: match places.layout {
                    Layout::Nchw => [3, height, width],
                    Layout::Nhwc => [height, width, 3],
                },
            },
            draws,
            transforms,
            places,
            options,
            levels,
        })
    }

    /// Type and shape of one finished image.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Refuses a list that boxes and masks can't follow, because it does more with pixels
    /// than to move whole rows and columns.
    pub fn check_followers(&self) -> Result<(), TransformError> {
        for (index, transform) in self.transforms.iter().enumerate() {
            let reason = match transform {
                Transform::RandAugment { .. } => {
                    "boxes and masks can't follow its shears, shifts and rotations: leave it out"
                }
                Transform::Pad { padding_mode, .. }
                | Transform::RandomCrop { padding_mode, .. }
                    if *padding_mode != PaddingMode::Constant =>
                {
                    "boxes and masks can't follow borders that repeat the picture: use \
                     padding_mode \"constant\""
                }
                _ => continue,
            };
            return Err(TransformError::Misplaced {
                index,
                name: transform.name(),
                reason: reason.to_string(),
            });
        }
        Ok(())
    }

    /// How many random `u32`s each image takes, whatever its size.
    pub fn draws(&self) -> usize {
        self.draws
    }

    /// The list with every default written out, and the options, as JSON: equal strings
    /// mean equal pixels from equal bytes and draws.
    pub fn canonical(&self) -> String {
        // A struct, not a JSON map: a map's key order depends on features of serde_json.
        #[derive(Serialize)]
        struct Canonical<'a> {
            transforms: &'a [Transform],
            #[serde(flatten)]
            options: Options,
        }
        serde_json::to_string(&Canonical {
            transforms: &self.transforms,
            options: self.options,
        })
        .expect("finite numbers and plain names serialise")
    }

    /// What says which of the source's pixels are wanted.
    pub(crate) fn geometry(&self) -> &[Transform] {
        &self.transforms[..self.places.geometry]
    }

    /// What works on pixels, from the first such transform on; casts may be among it.
    pub(crate) fn augmentations(&self) -> &[Transform] {
        &self.transforms[self.places.geometry..]
    }

    /// `[h, w]` between the two.
    pub(crate) fn placed(&self) -> [u32; 2] {
        self.places.placed
    }

    /// Bytes of the two pictures that augmenting takes at most.
    pub(crate) fn augment_bytes(&self) -> u64 {
        2 * 3 * self.places.pixels_max
    }

    /// `[height, width]` of the output, in pixels.
    pub fn size(&self) -> [u32; 2] {
        self.places.size
    }

    pub(crate) fn layout(&self) -> Layout {
        self.places.layout
    }

    pub(crate) fn options(&self) -> Options {
        self.options
    }

    pub(crate) fn levels(&self) -> &Levels {
        &self.levels
    }
}

/// Folds casts and normalisation into one gain and one bias per channel.
///
/// They are computed in f64 and rounded once. Results differ from torchvision's, which
/// rounds after each of its three operations, in the last bits of the f32.
fn levels_of(transforms: &[Transform]) -> Result<Levels, TransformError> {
    let (mut gain, mut bias) = ([1.0f64; 3], [0.0f64; 3]);
    let mut dtype = DType::Uint8;
    let mut normalized = false;
    for (index, transform) in transforms.iter().enumerate() {
        let misplaced = |reason: &str| {
            Err(TransformError::Misplaced {
                index,
                name: transform.name(),
                reason: reason.to_string(),
            })
        };
        match transform {
            Transform::ToDtype { dtype: to, scale } => {
                if *to == DType::Uint8 && dtype != DType::Uint8 {
                    return misplaced(
                        "a cast from floats back to uint8 is not offered; leave out both casts",
                    );
                }
                if *scale && *to != DType::Uint8 && dtype == DType::Uint8 {
                    gain = gain.map(|gain| gain / 255.0);
                }
                dtype = *to;
            }
            Transform::Normalize {
                mean,
                std,
                dtype: to,
            } => {
                if normalized {
                    return misplaced("a list may normalise once");
                }
                normalized = true;
                let unit = if dtype == DType::Uint8 { 255.0 } else { 1.0 };
                for channel in 0..3 {
                    let mean = mean[channel % mean.len()];
                    let std = std[channel % std.len()];
                    gain[channel] /= unit * std;
                    bias[channel] = (bias[channel] - mean) / std;
                }
                dtype = *to;
            }
            _ => {}
        }
    }
    Ok(Levels {
        dtype,
        gain: gain.map(|gain| gain as f32),
        bias: bias.map(|bias| bias as f32),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<Pipeline, TransformError> {
        Pipeline::parse(&value, Options::default())
    }

    #[test]
    fn shapes_and_types_follow_the_list() {
        let check = |value: Value, dtype, shape: [u64; 3], draws| {
            let pipeline = parse(value).unwrap();
            assert_eq!(pipeline.output(), Output { dtype, shape });
            assert_eq!(pipeline.draws(), draws);
        };
        let crop = json!({"name": "CenterCrop", "size": [5, 7]});
        let random = json!({"name": "RandomResizedCrop", "size": [224, 200], "scale": [0.08, 1.0], "ratio": [0.75, 1.3333333333333333], "interpolation": "bilinear"});
        let flip = json!({"name": "RandomHorizontalFlip", "p": 0.5});
        let normalize = json!({"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "dtype": "float16"});
        check(json!([crop]), DType::Uint8, [3, 5, 7], 0);
        check(json!([random, flip]), DType::Uint8, [3, 224, 200], 23);
        check(
            json!([{"name": "Resize", "size": 256}, crop, flip, normalize]),
            DType::Float16,
            [3, 5, 7],
            1,
        );
        check(
            json!([random, {"name": "ToDtype", "dtype": "float32", "scale": true}, flip]),
            DType::Float32,
            [3, 224, 200],
            23,
        );
        check(
            json!([{"name": "Resize", "size": [8, 9]}, crop, {"name": "ToDtype", "dtype": "uint8"}]),
            DType::Uint8,
            [3, 5, 7],
            0,
        );
    }

    #[test]
    fn errors_name_index_bound_and_value() {
        let check = |value: Value, expected: &str| {
            let message = parse(value).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        let crop = json!({"name": "CenterCrop", "size": [5, 7]});
        check(json!({}), "must be a list, found {}");
        check(
            json!([]),
            "add RandomResizedCrop(size), Resize((h, w)), CenterCrop(size) or RandomCrop(size)",
        );
        check(
            json!([{"name": "Resize", "size": 256}]),
            "only the shorter side",
        );
        check(
            json!([crop, {"name": "Rotate"}]),
            "transform 1 (Rotate): unknown variant `Rotate`",
        );
        check(
            json!([{"size": 3}]),
            "transform 0 (?): missing field `name`",
        );
        check(
            json!([{"name": "CenterCrop", "size": [5, 7], "pad": 1}]),
            "unknown field `pad`",
        );
        check(
            json!([{"name": "CenterCrop", "size": [0, 7]}]),
            "size must be 1 to 16384 pixels, found 0",
        );
        check(
            json!([{"name": "Resize", "size": "big"}]),
            "whole number or [height, width], found \"big\"",
        );
        check(
            json!([{"name": "Resize", "size": 10, "max_size": 10}]),
            "max_size must be greater than size (10), found 10",
        );
        check(
            json!([{"name": "Resize", "size": [4, 4], "interpolation": "nearest"}]),
            "unknown variant `nearest`, expected `bilinear` or `bicubic`",
        );
        check(
            json!([{"name": "RandomHorizontalFlip", "p": 1.5}]),
            "p must be 0 to 1, found 1.5",
        );
        check(
            json!([{"name": "RandomResizedCrop", "size": [4, 4], "scale": [0.5, 0.1]}]),
            "scale must be [low, high] with 0 < low <= high, found [0.5, 0.1]",
        );
        check(
            json!([crop, {"name": "Normalize", "mean": [0.5, 0.5], "std": [1.0]}]),
            "mean must be 1 or 3 numbers, found 2",
        );
        check(
            json!([crop, {"name": "Normalize", "mean": [0.5], "std": [0.0]}]),
            "std must be other than 0, found 0",
        );
        check(
            json!([crop, {"name": "Normalize", "mean": [0.5], "std": [1.0], "dtype": "uint8"}]),
            "dtype must be bfloat16, float16 or float32, found uint8",
        );
        check(
            json!([{"name": "ToDtype", "dtype": "float32"}, crop]),
            "transform 1 (CenterCrop): it must come before transform 0 (ToDtype)",
        );
        check(
            json!([{"name": "Resize", "size": [8, 8]}, crop, {"name": "RandomResizedCrop", "size": [4, 4]}]),
            "transform 2 (RandomResizedCrop): transform 0 (Resize) resizes already",
        );
        check(
            json!([crop, {"name": "ToDtype", "dtype": "float32"}, {"name": "ToDtype", "dtype": "uint8"}]),
            "back to uint8",
        );
    }

    /// Against `torchvision.transforms.v2.functional.normalize` on uint8 inputs.
    #[test]
    fn levels_match_torchvision() {
        let crop = json!({"name": "CenterCrop", "size": [5, 7]});
        let normalize = json!({"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]});
        let scaled = json!({"name": "ToDtype", "dtype": "float32", "scale": true});
        let plain = json!({"name": "ToDtype", "dtype": "float32"});
        let check = |list: Value, expected: fn(f32, f32, f32) -> f32| {
            let levels = *parse(list).unwrap().levels();
            let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
            for channel in 0..3 {
                for byte in 0..=255u8 {
                    let value = levels.gain[channel] * f32::from(byte) + levels.bias[channel];
                    let expected = expected(f32::from(byte), mean[channel], std[channel]);
                    let error = (value - expected).abs();
                    assert!(
                        error <= 1e-6 * expected.abs().max(1.0),
                        "{value} {expected}"
                    );
                }
            }
        };
        check(json!([crop, normalize]), |x, mean, std| {
            (x / 255.0 - mean) / std
        });
        check(json!([crop, scaled, normalize]), |x, mean, std| {
            (x / 255.0 - mean) / std
        });
        check(json!([crop, plain, normalize]), |x, mean, std| {
            (x - mean) / std
        });
        check(json!([crop, scaled]), |x, _, _| x / 255.0);
        check(json!([crop, plain]), |x, _, _| x);
    }

    #[test]
    fn canonical_form_writes_defaults_out() {
        let short = parse(json!([{"name": "RandomResizedCrop", "size": [8, 8]}, {"name": "RandomHorizontalFlip"}])).unwrap();
        let long = parse(json!([
            {"interpolation": "bilinear", "ratio": [0.75, 4.0 / 3.0], "scale": [0.08, 1.0], "size": [8, 8], "name": "RandomResizedCrop"},
            {"p": 0.5, "name": "RandomHorizontalFlip"},
        ]))
        .unwrap();
        assert_eq!(short.canonical(), long.canonical());
        let fast = Pipeline::parse(
            &json!([{"name": "CenterCrop", "size": [8, 8]}]),
            Options {
                fast_dct: true,
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(
            fast.canonical(),
            r#"{"transforms":[{"name":"CenterCrop","size":[8,8]}],"fast_dct":true,"exif_orientation":true}"#
        );
        let as_stored = Pipeline::parse(
            &json!([{"name": "CenterCrop", "size": [8, 8]}]),
            Options {
                exif_orientation: false,
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(
            as_stored.canonical(),
            r#"{"transforms":[{"name":"CenterCrop","size":[8,8]}],"fast_dct":false}"#
        );
    }
}
