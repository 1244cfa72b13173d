//! Which of a list's transforms runs where, and how large the image is there.
//!
//! Enters: transforms whose fields lie within their bounds. Leaves: [`Places`], or the
//! first transform that may not stand where it does, why, and what to do. Never: a
//! random draw.
//!
//! A list falls into two parts. The first only says which pixels of the source are
//! wanted: it is worked out before decoding. The second begins with the first transform
//! that needs the pixels themselves; it works on the picture at its finished size.

use crate::error::TransformError;
use crate::transforms::{DType, EraseValue, Layout, PaddingMode, ResizeTo, SIDE_MAX, Transform};

/// Where a list's parts begin and what size the image has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    /// How many transforms, from the list's start, only say which pixels are wanted.
    pub(super) geometry: usize,
    /// `[h, w]` after those.
    pub(super) placed: [u32; 2],
    /// `[h, w]` at the end.
    pub(super) size: [u32; 2],
    /// Pixels of the largest picture in the second part; 0 where there is none.
    pub(super) pixels_max: u64,
    /// How the finished image lies in memory.
    pub(super) layout: Layout,
}

/// What the walk over the list has seen so far.
struct Walk<'a> {
    transforms: &'a [Transform],
    index: usize,
    /// `[h, w]`, where it is the same for every image.
    size: Option<[u32; 2]>,
    resized_by: Option<usize>,
    /// The first cast to floats.
    cast_by: Option<usize>,
    /// The first transform of the second part, and the size before it.
    pixels: Option<(usize, [u32; 2])>,
    pixels_max: u64,
    /// What erases floats.
    erased_by: Option<usize>,
    layout: Layout,
    hint: &'static str,
}

impl Places {
    pub(super) fn find(transforms: &[Transform]) -> Result<Places, TransformError> {
        let mut walk = Walk {
            transforms,
            index: 0,
            size: None,
            resized_by: None,
            cast_by: None,
            pixels: None,
            pixels_max: 0,
            erased_by: None,
            layout: Layout::default(),
            hint: "",
        };
        for (index, transform) in transforms.iter().enumerate() {
            walk.index = index;
            walk.step(transform)?;
            if let (Some((_, placed)), Some(size)) = (walk.pixels, walk.size) {
                let area = |[height, width]: [u32; 2]| u64::from(height) * u64::from(width);
                walk.pixels_max = walk.pixels_max.max(area(placed)).max(area(size));
            }
        }
        let size = walk
            .size
            .ok_or(TransformError::NoSize { hint: walk.hint })?;
        let (geometry, placed) = walk.pixels.unwrap_or((transforms.len(), size));
        Ok(Places {
            geometry,
            placed,
            size,
            pixels_max: walk.pixels_max,
            layout: walk.layout,
        })
    }
}

impl Walk<'_> {
    fn step(&mut self, transform: &Transform) -> Result<(), TransformError> {
        match transform {
            Transform::RandomHorizontalFlip { .. } | Transform::RandomVerticalFlip { .. } => Ok(()),
            Transform::Normalize { .. } => self.cast(),
            Transform::ToDtype { dtype, .. } => match dtype {
                DType::Uint8 => Ok(()),
                _ => self.cast(),
            },
            Transform::RandomResizedCrop { size, .. } => {
                self.resize()?;
                self.size = Some(*size);
                Ok(())
            }
            Transform::Resize { size, .. } => {
                self.resize()?;
                self.size = match size {
                    ResizeTo::Exact(fixed) => Some(*fixed),
                    ResizeTo::Shorter(_) => {
                        self.hint = " (Resize with one number fixes only the shorter side)";
                        None
                    }
                };
                Ok(())
            }
            Transform::CenterCrop { size } => {
                self.before_casts()?;
                self.size = Some(*size);
                Ok(())
            }
            Transform::Pad {
                padding,
                fill,
                padding_mode,
            } => self.pad(*padding, *fill, *padding_mode),
            Transform::RandomCrop {
                size,
                padding,
                pad_if_needed,
                fill,
                padding_mode,
            } => self.random_crop(*size, *padding, *pad_if_needed, *fill, *padding_mode),
            Transform::ColorJitter { .. }
            | Transform::RandomGrayscale { .. }
            | Transform::RandAugment { .. } => {
                self.before_casts()?;
                self.begin_pixels()
            }
            Transform::RandomErasing { value, .. } => self.erase(value),
            Transform::ToLayout { layout } => {
                if self.index + 1 < self.transforms.len() {
                    return self.misplaced("it must come last".to_string());
                }
                self.layout = *layout;
                Ok(())
            }
        }
    }

    fn misplaced<T>(&self, reason: String) -> Result<T, TransformError> {
        Err(TransformError::Misplaced {
            index: self.index,
            name: self.transforms[self.index].name(),
            reason,
        })
    }

    fn out_of_bounds(
        &self,
        field: &'static str,
        bound: String,
        found: String,
    ) -> Result<(), TransformError> {
        Err(TransformError::OutOfBounds {
            index: self.index,
            name: self.transforms[self.index].name(),
            field,
            bound,
            found,
        })
    }

    fn name(&self, index: usize) -> &'static str {
        self.transforms[index].name()
    }

    fn cast(&mut self) -> Result<(), TransformError> {
        if let Some(erased) = self.erased_by {
            let name = self.name(erased);
            return self.misplaced(format!(
                "it must come before transform {erased} ({name}), which writes finished values"
            ));
        }
        self.cast_by = self.cast_by.or(Some(self.index));
        Ok(())
    }

    fn before_casts(&self) -> Result<(), TransformError> {
        match self.cast_by {
            Some(cast) => self.misplaced(format!(
                "it must come before transform {cast} ({}), because pixels are moved, resized and recoloured as uint8",
                self.name(cast)
            )),
            None => Ok(()),
        }
    }

    fn resize(&mut self) -> Result<(), TransformError> {
        self.before_casts()?;
        if let Some(first) = self.resized_by {
            return self.misplaced(format!(
                "transform {first} ({}) resizes already, and a list may resize once; drop one of the two",
                self.name(first)
            ));
        }
        if let Some((first, _)) = self.pixels {
            return self.misplaced(format!(
                "it must come before transform {first} ({}), which works on the picture at its finished size",
                self.name(first)
            ));
        }
        self.resized_by = Some(self.index);
        Ok(())
    }

    /// From here on, transforms need the pixels.
    fn begin_pixels(&mut self) -> Result<(), TransformError> {
        let Some(size) = self.size else {
            return self.misplaced(
                "it works on pictures of one size: put it after RandomResizedCrop(size), \
                 Resize((h, w)), CenterCrop(size) or RandomCrop(size)"
                    .to_string(),
            );
        };
        self.pixels = self.pixels.or(Some((self.index, size)));
        Ok(())
    }

    /// Black borders are known before decoding; others are made of pixels.
    fn begin_borders(&mut self, fill: [u8; 3], mode: PaddingMode) -> Result<(), TransformError> {
        if self.pixels.is_some() || (fill == [0; 3] && mode == PaddingMode::Constant) {
            return Ok(());
        }
        if self.size.is_none() {
            return self.misplaced(
                "borders other than black are made on pictures of one size: put it after \
                 RandomResizedCrop(size), Resize((h, w)) or CenterCrop(size)"
                    .to_string(),
            );
        }
        self.begin_pixels()
    }

    /// Checks borders of `[left, top, right, bottom]` around a picture of `size`; returns
    /// the size with them.
    fn padded(
        &self,
        [height, width]: [u32; 2],
        [left, top, right, bottom]: [u32; 4],
        mode: PaddingMode,
    ) -> Result<[u32; 2], TransformError> {
        // A mirror shows each pixel once: the edge's pixel is not among them in `reflect`.
        let most = |side: u32| match mode {
            PaddingMode::Reflect => side - 1,
            PaddingMode::Symmetric => side,
            PaddingMode::Constant | PaddingMode::Edge => SIDE_MAX,
        };
        for (border, side) in [
            (left, width),
            (top, height),
            (right, width),
            (bottom, height),
        ] {
            if border > most(side) {
                let bound = format!("at most {} on a side of {side} pixels", most(side));
                self.out_of_bounds("padding", bound, border.to_string())?;
            }
        }
        let size = [height + top + bottom, width + left + right];
        if let Some(side) = size.iter().find(|side| **side > SIDE_MAX) {
            let bound = format!("such that no side is longer than {SIDE_MAX} pixels");
            self.out_of_bounds("padding", bound, format!("a side of {side}"))?;
        }
        Ok(size)
    }

    fn pad(
        &mut self,
        padding: [u32; 4],
        fill: [u8; 3],
        mode: PaddingMode,
    ) -> Result<(), TransformError> {
        self.before_casts()?;
        self.begin_borders(fill, mode)?;
        if let Some(size) = self.size {
            self.size = Some(self.padded(size, padding, mode)?);
        }
        Ok(())
    }

    fn random_crop(
        &mut self,
        size: [u32; 2],
        padding: [u32; 4],
        pad_if_needed: bool,
        fill: [u8; 3],
        mode: PaddingMode,
    ) -> Result<(), TransformError> {
        self.before_casts()?;
        if pad_if_needed || padding != [0; 4] {
            self.begin_borders(fill, mode)?;
        }
        if let Some(own) = self.size {
            let padding = crop_padding(own, size, padding, pad_if_needed);
            let padded = self.padded(own, padding, mode)?;
            if padded[0] < size[0] || padded[1] < size[1] {
                let bound = format!(
                    "at most [{}, {}], the picture's own size there (or pad_if_needed true)",
                    padded[0], padded[1]
                );
                self.out_of_bounds("size", bound, format!("[{}, {}]", size[0], size[1]))?;
            }
        }
        self.size = Some(size);
        Ok(())
    }

    fn erase(&mut self, value: &EraseValue) -> Result<(), TransformError> {
        self.begin_pixels()?;
        if self.cast_by.is_some() {
            self.erased_by = Some(self.index);
            return Ok(());
        }
        match value {
            EraseValue::Noise(_) => self.misplaced(
                "random values are floats: put it after Normalize, or after ToDtype with a float type"
                    .to_string(),
            ),
            EraseValue::Values(values) => {
                match values.iter().find(|value| !(0.0..=255.0).contains(*value)) {
                    Some(value) => self.out_of_bounds(
                        "value",
                        "0 to 255 among uint8 pixels, or erase after Normalize".to_string(),
                        value.to_string(),
                    ),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The borders `[left, top, right, bottom]` that RandomCrop adds to a picture of `[h, w]`:
/// where it is too small even so, both sides get all that it lacks, as in torchvision.
pub(crate) fn crop_padding(
    [height, width]: [u32; 2],
    size: [u32; 2],
    [left, top, right, bottom]: [u32; 4],
    pad_if_needed: bool,
) -> [u32; 4] {
    if !pad_if_needed {
        return [left, top, right, bottom];
    }
    let rows = size[0].saturating_sub(height + top + bottom);
    let columns = size[1].saturating_sub(width + left + right);
    [left + columns, top + rows, right + columns, bottom + rows]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(list: serde_json::Value) -> Result<Places, TransformError> {
        let list: Vec<Transform> = list
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(index, value)| Transform::parse(index, value))
            .collect::<Result<_, _>>()?;
        Places::find(&list)
    }

    #[test]
    fn lists_are_cut_where_pixels_are_needed() {
        let check = |list, geometry, placed, size| {
            let places = find(list).unwrap();
            assert_eq!(
                (places.geometry, places.placed, places.size),
                (geometry, placed, size)
            );
            places.pixels_max
        };
        let crop = json!({"name": "CenterCrop", "size": [8, 9]});
        let flip = json!({"name": "RandomVerticalFlip"});
        let black = json!({"name": "Pad", "padding": [1, 2, 3, 4]});
        let edge = json!({"name": "Pad", "padding": [1, 2, 3, 4], "padding_mode": "edge"});
        let jitter = json!({"name": "ColorJitter", "hue": [0.1, 0.2]});
        let random = json!({"name": "RandomCrop", "size": [5, 6]});
        let grow = json!({"name": "RandomCrop", "size": [50, 6], "pad_if_needed": true});
        let erase = json!({"name": "RandomErasing"});
        let float = json!({"name": "ToDtype", "dtype": "bfloat16"});
        assert_eq!(check(json!([crop, flip]), 2, [8, 9], [8, 9]), 0);
        check(json!([black, crop, black]), 3, [14, 13], [14, 13]);
        assert_eq!(
            check(json!([crop, edge, flip]), 1, [8, 9], [14, 13]),
            14 * 13
        );
        assert_eq!(
            check(json!([crop, flip, jitter, random]), 2, [8, 9], [5, 6]),
            72
        );
        check(json!([crop, jitter, crop, black]), 1, [8, 9], [14, 13]);
        check(json!([random, grow]), 2, [50, 6], [50, 6]);
        check(json!([crop, float, flip, erase]), 3, [8, 9], [8, 9]);
        check(
            json!([{"name": "ToDtype", "dtype": "uint8"}, crop]),
            2,
            [8, 9],
            [8, 9],
        );
    }

    #[test]
    fn refusals_say_where_it_belongs() {
        let check = |list, expected: &str| {
            let message = find(list).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        let crop = json!({"name": "CenterCrop", "size": [8, 9]});
        let resize = json!({"name": "Resize", "size": [8, 8]});
        let grey = json!({"name": "RandomGrayscale"});
        let float = json!({"name": "ToDtype", "dtype": "float16"});
        let erase = json!({"name": "RandomErasing"});
        let pad = |padding: [u32; 4], mode: &str| json!({"name": "Pad", "padding": padding, "padding_mode": mode});
        check(
            json!([grey, crop]),
            "transform 0 (RandomGrayscale): it works on pictures of one size: put it after",
        );
        check(
            json!([crop, grey, resize]),
            "transform 2 (Resize): it must come before transform 1 (RandomGrayscale)",
        );
        check(
            json!([crop, float, grey]),
            "it must come before transform 1 (ToDtype), because pixels are moved, resized and recoloured as uint8",
        );
        check(
            json!([crop, {"name": "ToLayout", "layout": "NHWC"}, float]),
            "transform 1 (ToLayout): it must come last",
        );
        check(
            json!([pad([1; 4], "edge"), crop]),
            "borders other than black",
        );
        check(
            json!([crop, pad([9, 0, 0, 0], "reflect")]),
            "padding must be at most 8 on a side of 9 pixels, found 9",
        );
        check(
            json!([crop, pad([0, 9, 0, 0], "symmetric")]),
            "padding must be at most 8 on a side of 8 pixels, found 9",
        );
        check(
            json!([crop, pad([0, 16384, 0, 0], "constant")]),
            "no side is longer than 16384 pixels, found a side of 16392",
        );
        check(
            json!([crop, {"name": "RandomCrop", "size": [20, 9], "padding": [0, 1, 0, 2]}]),
            "size must be at most [11, 9], the picture's own size there (or pad_if_needed true), found [20, 9]",
        );
        check(
            json!([crop, {"name": "RandomErasing", "value": "random"}]),
            "random values are floats: put it after Normalize",
        );
        check(
            json!([crop, {"name": "RandomErasing", "value": [0.0, -1.0, 0.0]}]),
            "value must be 0 to 255 among uint8 pixels, or erase after Normalize, found -1",
        );
        check(
            json!([crop, float, erase, {"name": "Normalize", "mean": [0.5], "std": [0.5]}]),
            "transform 3 (Normalize): it must come before transform 2 (RandomErasing), which writes finished values",
        );
    }
}
