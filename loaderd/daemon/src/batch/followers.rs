//! What follows the images of a batch: where each went, and boxes moved along.
//!
//! Enters: geometries of images and masks as they are placed, in any order; when the batch is
//! whole, its boxes as the dataset has them. Leaves: the word that a mask is not its image's
//! size, blank masks of rows that are zeroed, and boxes in pixels of the finished images. It
//! decodes nothing, and never holds a geometry of a row that was replaced.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use loaderd_decode::Geometry;
use loaderd_wire::layout::{DType, Tensor};
use loaderd_wire::message::{Failure, FailureKind};
use loaderd_wire::ragged::Value;

use super::{Batch, Place};
use crate::job::{BoxFormat, Boxes, Origin, failure};

/// By row and tensor, of images that are followed and of masks.
pub(super) type Placed = Mutex<BTreeMap<(usize, usize), Geometry>>;

/// Values that take the place of the dataset's, by tensor and row.
pub(super) type Moved = BTreeMap<(usize, usize), Vec<u8>>;

impl Place {
    /// Where an image's pixels went, or those of a mask. Returns the mask that turns out to
    /// have another size than its image, and what to say of it.
    pub(crate) fn placed(&self, geometry: Geometry) -> Option<(usize, String)> {
        let (job, row, tensor) = (&self.batch.job, self.row, self.tensor);
        let origins = &job.origins;
        if !origins.iter().any(|other| other.follows() == Some(tensor))
            && origins[tensor].follows().is_none()
        {
            return None;
        }
        let mut placed = self.batch.geometries();
        placed.insert((row, tensor), geometry);
        // Whichever of the two comes second sees both.
        (0..origins.len()).find_map(|mask| {
            let Origin::PixelMask { image, .. } = origins[mask] else {
                return None;
            };
            if tensor != mask && tensor != image {
                return None;
            }
            let [own, its] =
                [placed.get(&(row, mask))?, placed.get(&(row, image))?].map(Geometry::source);
            (own != its).then(|| {
                let cause = format!(
                    "the mask is {}x{}, and its image in column {:?} is {}x{}",
                    own[1], own[0], job.layout.tensors[image].name, its[1], its[0]
                );
                (mask, cause)
            })
        })
    }
}

impl Batch {
    /// Nothing of a row counts any more.
    pub(super) fn forget_placed(&self, row: usize) {
        self.geometries().retain(|(of, _), _| *of != row);
    }

    /// Empties the masks of a row that is zeroed, but for those that fit their image. Every
    /// part of the row must be done with, and the batch not complete.
    pub(crate) fn blank_masks(&self, row: usize) {
        for (mask, origin) in self.job.origins.iter().enumerate() {
            let Origin::PixelMask { image, fill, .. } = origin else {
                continue;
            };
            let fits = {
                let placed = self.geometries();
                let source = |tensor| placed.get(&(row, tensor)).map(Geometry::source);
                source(mask).is_some() && source(mask) == source(*image)
            };
            if !fits {
                // SAFETY: the slot is FILLING, and the row's last part was done by the
                // caller, so nobody else writes to it.
                unsafe { self.part(row, mask) }.fill(*fill);
            }
        }
    }

    /// Moves every box along with its image, and drops what is to be dropped. `value` gives
    /// what the dataset has, by tensor and row.
    pub(super) fn move_boxes<'a>(
        &self,
        value: impl Fn(usize, usize) -> Value<'a>,
    ) -> Result<Moved, Failure> {
        let mut moved = Moved::new();
        let tensors = &self.job.layout.tensors;
        for (tensor, origin) in self.job.origins.iter().enumerate() {
            let Origin::Boxes {
                dtype,
                image,
                rule,
                with,
                ..
            } = origin
            else {
                continue;
            };
            for row in 0..self.rows.len() {
                let boxes = numbers(bytes_of(value(tensor, row)), *dtype);
                for &other in with {
                    let entries = entries_in(bytes_of(value(other, row)), &tensors[other]);
                    if entries != boxes.len() {
                        return Err(failure(
                            FailureKind::BadSample,
                            format!(
                                "row address {}: {} boxes in column {:?}, and {entries} entries in column {:?}: \
                                 with_columns takes columns of one entry a box; leave it out there, or leave \
                                 the row out with filter=",
                                self.job.source.row_address(self.index(row)),
                                boxes.len(),
                                tensors[tensor].name,
                                tensors[other].name,
                            ),
                        ));
                    }
                }
                // An image that is zeroed has no geometry, and its boxes are lost.
                let geometry = self.geometries().get(&(row, *image)).copied();
                let mapped: Vec<Option<[f32; 4]>> = boxes
                    .iter()
                    .map(|found| rule.follow(*found, &geometry?))
                    .collect();
                if mapped.iter().any(Option::is_none) {
                    for &other in with {
                        let kept = select(bytes_of(value(other, row)), &tensors[other], &mapped);
                        moved.insert((other, row), kept);
                    }
                }
                let kept = mapped.into_iter().flatten();
                let kept = kept.flat_map(|edges| in_format(edges, rule.format_out));
                moved.insert((tensor, row), kept.flat_map(f32::to_le_bytes).collect());
            }
        }
        Ok(moved)
    }

    fn geometries(&self) -> MutexGuard<'_, BTreeMap<(usize, usize), Geometry>> {
        self.placed.lock().expect("no panic while held")
    }
}

impl Boxes {
    /// A box's edges in the finished image; `None` where it is dropped.
    fn follow(&self, found: [f64; 4], geometry: &Geometry) -> Option<[f32; 4]> {
        let edges = edges_of(found, self.format).map(|edge| edge as f32);
        let edges = geometry.map_box(edges);
        let [width, height] = [edges[2] - edges[0], edges[3] - edges[1]];
        // NaN is not at least anything.
        let is_kept = !self.drop_degenerate
            || (width >= self.min_size
                && height >= self.min_size
                && width * height >= self.min_area);
        is_kept.then_some(edges)
    }
}

fn bytes_of(value: Value<'_>) -> &[u8] {
    match value {
        Value::Bytes(bytes) => bytes,
        Value::Empty | Value::Image { .. } => &[],
    }
}

/// Boxes as they lie in the dataset; a rest that is no whole box is left out.
fn numbers(bytes: &[u8], dtype: DType) -> Vec<[f64; 4]> {
    let size = dtype.itemsize() as usize;
    let number = |at: &[u8]| match dtype {
        DType::Float32 => f64::from(f32::from_le_bytes(at.try_into().expect("four bytes"))),
        DType::Int32 => f64::from(i32::from_le_bytes(at.try_into().expect("four bytes"))),
        DType::Int64 => i64::from_le_bytes(at.try_into().expect("eight bytes")) as f64,
        _ => f64::from_le_bytes(at.try_into().expect("eight bytes")),
    };
    bytes
        .chunks_exact(4 * size)
        .map(|found| std::array::from_fn(|side| number(&found[side * size..][..size])))
        .collect()
}

fn edges_of([a, b, c, d]: [f64; 4], format: BoxFormat) -> [f64; 4] {
    match format {
        BoxFormat::Xyxy => [a, b, c, d],
        BoxFormat::Xywh => [a, b, a + c, b + d],
        BoxFormat::Cxcywh => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
    }
}

fn in_format([x1, y1, x2, y2]: [f32; 4], format: BoxFormat) -> [f32; 4] {
    let (width, height) = (x2 - x1, y2 - y1);
    match format {
        BoxFormat::Xyxy => [x1, y1, x2, y2],
        BoxFormat::Xywh => [x1, y1, width, height],
        BoxFormat::Cxcywh => [x1 + width / 2.0, y1 + height / 2.0, width, height],
    }
}

/// Entries of a list, encoded as [`loaderd_wire::ragged`] says.
fn entries_in(bytes: &[u8], tensor: &Tensor) -> usize {
    match lengths_of(bytes, tensor) {
        Some((lengths, _)) => lengths.len() / 4,
        None => bytes.len() / tensor.row_bytes() as usize,
    }
}

/// The list without the entries that have no box.
fn select(bytes: &[u8], tensor: &Tensor, boxes: &[Option<[f32; 4]>]) -> Vec<u8> {
    let size = tensor.row_bytes() as usize;
    let kept = |entry: &usize| boxes[*entry].is_some();
    let Some((lengths, mut leaves)) = lengths_of(bytes, tensor) else {
        let entries = (0..boxes.len()).filter(kept);
        return entries
            .flat_map(|entry| &bytes[entry * size..][..size])
            .copied()
            .collect();
    };
    let count = (0..boxes.len()).filter(kept).count() as u32;
    let mut head = count.to_le_bytes().to_vec();
    let mut body: Vec<u8> = Vec::new();
    for (entry, length) in lengths.chunks_exact(4).enumerate() {
        let elements = u32::from_le_bytes(length.try_into().expect("four bytes"));
        let (own, rest) = leaves.split_at((elements as usize * size).min(leaves.len()));
        leaves = rest;
        if kept(&entry) {
            head.extend(length);
            body.extend(own);
        }
    }
    head.extend(body);
    head
}

/// Lengths of the inner lists, and what is in them, where a column has inner lists.
fn lengths_of<'a>(bytes: &'a [u8], tensor: &Tensor) -> Option<(&'a [u8], &'a [u8])> {
    if tensor.ragged.is_none_or(|ragged| ragged.levels < 2) {
        return None;
    }
    let (count, rest) = bytes.split_first_chunk().unwrap_or((&[0; 4], &[]));
    let count = u32::from_le_bytes(*count) as usize;
    // A value that is cut short is told when it is packed.
    Some(rest.split_at((4 * count).min(rest.len() / 4 * 4)))
}

#[cfg(test)]
mod tests {
    use loaderd_wire::layout::Ragged;

    use super::*;

    #[test]
    fn entries_are_dropped_with_their_boxes() {
        let ragged = |levels| Ragged {
            levels,
            ..Ragged::default()
        };
        let boxes = [None, Some([0.0; 4]), None, Some([0.0; 4])];
        let numbers = Tensor::ragged("n", DType::Uint16, vec![], ragged(1));
        let bytes = [1, 0, 2, 0, 3, 0, 4, 0];
        assert_eq!(entries_in(&bytes, &numbers), 4);
        assert_eq!(select(&bytes, &numbers, &boxes), [2, 0, 4, 0]);
        let text = Tensor::ragged("t", DType::Uint8, vec![], ragged(2));
        let lists = |words: &[&str]| {
            let mut bytes = (words.len() as u32).to_le_bytes().to_vec();
            bytes.extend(
                words
                    .iter()
                    .flat_map(|word| (word.len() as u32).to_le_bytes()),
            );
            bytes.extend(words.concat().as_bytes());
            bytes
        };
        let bytes = lists(&["car", "", "person", "bus"]);
        assert_eq!(entries_in(&bytes, &text), 4);
        assert_eq!(select(&bytes, &text, &boxes), lists(&["", "bus"]));
        assert_eq!(entries_in(&[], &text), 0);
        assert_eq!(select(&[], &text, &[]), lists(&[]));
        // Damaged values neither panic nor grow.
        for end in 0..bytes.len() {
            entries_in(&bytes[..end], &text);
            assert!(select(&bytes[..end], &text, &boxes).len() <= bytes.len());
        }
    }

    #[test]
    fn hostile_boxes() {
        let pipeline = loaderd_decode::Pipeline::parse(
            &serde_json::json!([{"name": "CenterCrop", "size": [8, 8]}]),
            loaderd_decode::Options::default(),
        )
        .unwrap();
        let picture = loaderd_decode::encode::Encoder::default()
            .encode(&[9; 3 * 16 * 12], 16, 12)
            .unwrap();
        // It shows columns 4 to 12 and rows 2 to 10.
        let geometry = loaderd_decode::Decoder::new(loaderd_decode::Limits::default())
            .decode(&pipeline, &picture, &mut std::iter::empty(), &mut [0; 192])
            .unwrap()
            .geometry
            .unwrap();
        let rule = |format, drop_degenerate| Boxes {
            follows: "image".into(),
            format,
            format_out: BoxFormat::Xyxy,
            min_size: 1.0,
            min_area: 1.0,
            drop_degenerate,
            with_columns: Vec::new(),
        };
        let (nan, far) = (f64::NAN, f64::INFINITY);
        let check = |format, found, kept: Option<[f32; 4]>, every: [f32; 4]| {
            assert_eq!(
                rule(format, true).follow(found, &geometry),
                kept,
                "{found:?}"
            );
            let found = rule(format, false).follow(found, &geometry).unwrap();
            for (found, expected) in found.into_iter().zip(every) {
                assert!(found == expected || (found.is_nan() && expected.is_nan()));
            }
        };
        let all = |format, found, kept| check(format, found, Some(kept), kept);
        use BoxFormat::{Cxcywh, Xywh, Xyxy};
        all(Xyxy, [-far, 3.0, far, 5.0], [0.0, 1.0, 8.0, 3.0]);
        all(Xyxy, [-1e300, 3.0, 1e300, 5.0], [0.0, 1.0, 8.0, 3.0]);
        all(Xywh, [5.0, 3.0, far, 2.0], [1.0, 1.0, 8.0, 3.0]);
        all(Cxcywh, [5.0, 3.0, far, 2.0], [0.0, 0.0, 8.0, 2.0]);
        let none = f32::NAN;
        check(Xyxy, [nan, 3.0, 9.0, 5.0], None, [none, 1.0, 5.0, 3.0]);
        check(Xywh, [-far, 3.0, far, 2.0], None, [0.0, 1.0, none, 3.0]);
        // Corners in the wrong order, and a box out of sight.
        check(Xyxy, [9.0, 5.0, 6.0, 3.0], None, [5.0, 3.0, 2.0, 1.0]);
        check(Xywh, [9.0, 5.0, -3.0, -2.0], None, [5.0, 3.0, 2.0, 1.0]);
        check(Xyxy, [99.0, 3.0, 100.0, 5.0], None, [8.0, 1.0, 8.0, 3.0]);
    }

    #[test]
    fn formats() {
        for (format, given) in [
            (BoxFormat::Xyxy, [1.0, 2.0, 5.0, 10.0]),
            (BoxFormat::Xywh, [1.0, 2.0, 4.0, 8.0]),
            (BoxFormat::Cxcywh, [3.0, 6.0, 4.0, 8.0]),
        ] {
            assert_eq!(edges_of(given, format), [1.0, 2.0, 5.0, 10.0]);
            let edges = [1.0, 2.0, 5.0, 10.0];
            assert_eq!(in_format(edges, format).map(f64::from), given);
        }
    }
}
