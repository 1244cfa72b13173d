//! Ragged columns of one batch: columns whose rows differ in length.
//!
//! Enters: the rows' values, one after the other. Leaves: arrays in one stretch of memory,
//! and a [`RaggedPart`] a column that says where they lie; on the other side, the proof
//! that they lie within that memory and fit together. It never allocates the memory, and
//! never reads a value's meaning.
//!
//! A column of one level has `offsets` (int64, `[rows + 1]`, from 0) and `values`
//! (`[total, ...shape]`): row i is `values[offsets[i]..offsets[i + 1]]`. With two levels,
//! `offsets` of the rows count inner lists, whose own offsets (`[inner + 1]`) count values.
//! Images are flat pixels of one level, and `shapes` (int32, `[rows, 3]`) gives height,
//! width and channels.
//!
//! A value on its way into a batch is encoded as its leaf elements, little-endian and
//! without gaps; with two levels, a u32 count n and n u32 lengths in leaf elements come
//! first.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::layout::{TENSOR_ALIGN, Tensor};

/// Bytes of one offset.
const OFFSET_BYTES: u64 = 8;
/// Bytes of one row of `shapes`.
const SHAPE_BYTES: u64 = 12;
/// Channels of an image.
const CHANNELS: u32 = 3;

/// An array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Where it starts, in bytes from the start of the slot or memfd; a multiple of
    /// [`TENSOR_ALIGN`].
    pub at: u64,
    /// How many entries it has: offsets, values, or rows of `shapes`.
    pub count: u64,
}

/// Where one ragged column of a batch lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaggedPart {
    /// int64, one array a level, outermost first.
    pub offsets: Vec<Span>,
    /// Of the column's type and shape.
    pub values: Span,
    /// int32 `[rows, 3]`, of columns of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shapes: Option<Span>,
}

impl RaggedPart {
    /// Bytes of the arrays of `column`, without the gaps between them. Only of a part that was
    /// checked: its arrays lie in memory, so their lengths have a sum.
    pub fn bytes(&self, column: &Tensor) -> u64 {
        let offsets: u64 = self.offsets.iter().map(|span| span.count).sum();
        let shapes = self.shapes.map_or(0, |span| span.count);
        offsets * OFFSET_BYTES + self.values.count * column.row_bytes() + shapes * SHAPE_BYTES
    }
}

/// One row's value.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Nothing: no element, no inner list, an image without pixels.
    Empty,
    /// Encoded as the module says.
    Bytes(&'a [u8]),
    /// `[height, width, 3]`, u8.
    Image {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// Without gaps.
        rgb: &'a [u8],
    },
}

/// A value that is not encoded as its column says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a value of {bytes} bytes does not fit the column's type: its bytes are damaged")]
pub struct Malformed {
    /// Column, as numbered in the call.
    pub column: usize,
    /// Row.
    pub row: usize,
    /// Its length.
    pub bytes: usize,
}

/// The rows of a batch's ragged columns, measured and ready to be written.
#[derive(Debug)]
pub struct Packing<'a> {
    columns: Vec<Column<'a>>,
    bytes: u64,
}

#[derive(Debug)]
struct Column<'a> {
    tensor: &'a Tensor,
    values: Vec<Value<'a>>,
    /// Places count from 0.
    part: RaggedPart,
}

impl<'a> Packing<'a> {
    /// Measures the values of ragged columns, one per row in each.
    pub fn measure(columns: Vec<(&'a Tensor, Vec<Value<'a>>)>) -> Result<Packing<'a>, Malformed> {
        let mut packing = Packing {
            columns: Vec::with_capacity(columns.len()),
            bytes: 0,
        };
        for (number, (tensor, values)) in columns.into_iter().enumerate() {
            let element_bytes = tensor.row_bytes() as usize;
            let ragged = tensor.ragged.expect("the column is ragged");
            let (mut inner, mut elements) = (0, 0);
            for (row, value) in values.iter().enumerate() {
                let split = split(*value, ragged.levels, element_bytes).ok_or(Malformed {
                    column: number,
                    row,
                    bytes: encoded_bytes(*value),
                })?;
                inner += (split.lengths.len() / 4) as u64;
                elements += (split.leaves.len() / element_bytes) as u64;
            }
            let rows = values.len() as u64;
            let mut offsets = vec![packing.place(rows + 1, OFFSET_BYTES)];
            if ragged.levels == 2 {
                offsets.push(packing.place(inner + 1, OFFSET_BYTES));
            }
            let part = RaggedPart {
                offsets,
                values: packing.place(elements, element_bytes as u64),
                shapes: ragged.images.then(|| packing.place(rows, SHAPE_BYTES)),
            };
            packing.columns.push(Column {
                tensor,
                values,
                part,
            });
        }
        Ok(packing)
    }

    fn place(&mut self, count: u64, entry_bytes: u64) -> Span {
        let at = self.bytes;
        // Sums of lengths of slices that exist, so far below 2^64.
        self.bytes = (at + count * entry_bytes).next_multiple_of(TENSOR_ALIGN);
        Span { at, count }
    }

    /// Bytes that the arrays take, a multiple of [`TENSOR_ALIGN`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the arrays to the start of `out`, which lies `start` bytes into the slot or
    /// memfd, and says where they lie there. Equal values give equal arrays.
    ///
    /// Panics unless `out` is at least [`Packing::bytes`] long, and `start` a multiple of
    /// [`TENSOR_ALIGN`].
    pub fn write(self, out: &mut [u8], start: u64) -> Vec<RaggedPart> {
        assert!(start.is_multiple_of(TENSOR_ALIGN), "arrays are aligned");
        self.columns
            .into_iter()
            .map(|column| {
                column.write(out);
                let moved = |span: Span| Span {
                    at: span.at + start,
                    ..span
                };
                RaggedPart {
                    offsets: column.part.offsets.iter().copied().map(moved).collect(),
                    values: moved(column.part.values),
                    shapes: column.part.shapes.map(moved),
                }
            })
            .collect()
    }
}

impl Column<'_> {
    fn write(&self, out: &mut [u8]) {
        let element_bytes = self.tensor.row_bytes() as usize;
        let levels = self.tensor.ragged.expect("the column is ragged").levels;
        let mut outer = Cursor::new(self.part.offsets[0]);
        let mut inner = self.part.offsets.get(1).map(|span| Cursor::new(*span));
        let mut values = Cursor::new(self.part.values);
        let mut shapes = self.part.shapes.map(Cursor::new);
        let (mut lists, mut elements) = (0i64, 0i64);
        outer.put(out, &0i64.to_ne_bytes());
        if let Some(inner) = &mut inner {
            inner.put(out, &0i64.to_ne_bytes());
        }
        for value in &self.values {
            let split = split(*value, levels, element_bytes).expect("measured before");
            let before = elements;
            if let Some(inner) = &mut inner {
                for length in split.lengths.chunks_exact(4) {
                    elements += i64::from(length_of(length));
                    inner.put(out, &elements.to_ne_bytes());
                    lists += 1;
                }
            } else {
                elements += (split.leaves.len() / element_bytes) as i64;
            }
            debug_assert_eq!(
                (elements - before) as usize * element_bytes,
                split.leaves.len()
            );
            values.put(out, split.leaves);
            let end = if inner.is_some() { lists } else { elements };
            outer.put(out, &end.to_ne_bytes());
            if let Some(shapes) = &mut shapes {
                let (height, width) = match value {
                    Value::Image { height, width, .. } => (*height, *width),
                    _ => (0, 0),
                };
                for side in [height, width, CHANNELS] {
                    shapes.put(out, &side.to_ne_bytes());
                }
            }
        }
    }
}

/// Where the next entry of an array goes.
struct Cursor(usize);

impl Cursor {
    fn new(span: Span) -> Cursor {
        Cursor(span.at as usize)
    }

    fn put(&mut self, out: &mut [u8], bytes: &[u8]) {
        out[self.0..self.0 + bytes.len()].copy_from_slice(bytes);
        self.0 += bytes.len();
    }
}

/// A value in its parts.
struct Split<'a> {
    /// u32 each, of the inner lists.
    lengths: &'a [u8],
    leaves: &'a [u8],
}

/// `None` where the value is not encoded as it should be.
fn split(value: Value<'_>, levels: u8, element_bytes: usize) -> Option<Split<'_>> {
    let (lengths, leaves): (&[u8], &[u8]) = match value {
        Value::Empty => (&[], &[]),
        Value::Image { height, width, rgb } => {
            let pixels = (height as usize).checked_mul(width as usize)?;
            let whole = pixels.checked_mul(CHANNELS as usize) == Some(rgb.len());
            (&[], whole.then_some(rgb)?)
        }
        Value::Bytes(bytes) if levels == 2 => {
            let (count, rest) = bytes.split_at_checked(4)?;
            let (lengths, leaves) =
                rest.split_at_checked((length_of(count) as usize).checked_mul(4)?)?;
            let elements: u64 = lengths
                .chunks_exact(4)
                .map(|l| u64::from(length_of(l)))
                .sum();
            let whole = elements.checked_mul(element_bytes as u64) == Some(leaves.len() as u64);
            (lengths, whole.then_some(leaves)?)
        }
        Value::Bytes(bytes) => (&[], bytes),
    };
    leaves
        .len()
        .is_multiple_of(element_bytes)
        .then_some(Split { lengths, leaves })
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn encoded_bytes(value: Value<'_>) -> usize {
    match value {
        Value::Empty => 0,
        Value::Bytes(bytes) | Value::Image { rgb: bytes, .. } => bytes.len(),
    }
}

/// Checks one column of a batch that came from elsewhere: every array lies within `area` of
/// `memory` (the slot or memfd), aligned, and the offsets rise from 0 to what they count.
/// `column` is ragged, with one or two levels. The error says what is wrong.
pub fn check(
    column: &Tensor,
    part: &RaggedPart,
    rows: u32,
    memory: &[u8],
    area: Range<u64>,
) -> Result<(), String> {
    let ragged = column.ragged.expect("the column is ragged");
    let wrong = |what: &str| Err(format!("ragged column {:?}: {what}", column.name));
    let array = |span: Span, entry_bytes: u64, what: &str| {
        let end = span
            .count
            .checked_mul(entry_bytes)
            .and_then(|bytes| bytes.checked_add(span.at));
        let inside = span.at >= area.start
            && end.is_some_and(|end| end <= area.end && end <= memory.len() as u64);
        if !inside || !span.at.is_multiple_of(TENSOR_ALIGN) {
            return Err(format!(
                "ragged column {:?}: {} {what} at byte {} do not lie within bytes {} to {}, on a multiple of {TENSOR_ALIGN}",
                column.name, span.count, span.at, area.start, area.end
            ));
        }
        // Both ends are within `memory`.
        Ok(&memory[span.at as usize..(span.at + span.count * entry_bytes) as usize])
    };
    if part.offsets.len() != usize::from(ragged.levels) {
        return wrong("the number of levels is not the layout's");
    }
    let mut count = u64::from(rows);
    for span in &part.offsets {
        let offsets = array(*span, OFFSET_BYTES, "offsets")?;
        if Some(span.count) != count.checked_add(1) {
            return wrong("the number of offsets is not that of the rows and one");
        }
        let mut offsets = offsets
            .chunks_exact(8)
            .map(|bytes| i64::from_ne_bytes(bytes.try_into().expect("eight bytes")));
        let mut last = 0;
        if offsets.next() != Some(0) {
            return wrong("the offsets do not begin at 0");
        }
        for offset in offsets {
            if offset < last {
                return wrong("the offsets fall");
            }
            last = offset;
        }
        count = last as u64;
    }
    array(part.values, column.row_bytes(), "values")?;
    if part.values.count != count {
        return wrong("the offsets do not end at the number of values");
    }
    match (ragged.images, part.shapes) {
        (false, None) => Ok(()),
        (true, Some(span)) if span.count == u64::from(rows) => {
            let shapes = array(span, SHAPE_BYTES, "shapes")?;
            let offsets = array(part.offsets[0], OFFSET_BYTES, "offsets")?;
            let fits = shapes.chunks_exact(12).enumerate().all(|(row, shape)| {
                let sides = shape
                    .chunks_exact(4)
                    .map(|side| i32::from_ne_bytes(side.try_into().expect("four bytes")));
                let pixels = sides.into_iter().try_fold(1i64, |all, side| {
                    all.checked_mul(i64::from(side)).filter(|_| side >= 0)
                });
                let at = |row: usize| {
                    let bytes = &offsets[row * 8..row * 8 + 8];
                    i64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
                };
                pixels == Some(at(row + 1) - at(row))
            });
            if fits {
                Ok(())
            } else {
                wrong("a shape is not that of its row's pixels")
            }
        }
        _ => wrong("shapes come with images, one for each row"),
    }
}
