//! The layout of a slot: which tensors lie in it, where, and of which type.
//!
//! Enters: tensor names, types and per-row shapes. Leaves: offsets, and the bytes a
//! slot needs. Daemon and client compute nothing here on their own: the daemon sends
//! the finished [`Layout`] when a job opens.

use serde::{Deserialize, Serialize};

/// Alignment of every tensor in a slot, in bytes: a cache line, what DLPack and
/// XLA's CPU client ask for zero-copy.
pub const TENSOR_ALIGN: u64 = 64;

/// Slots start on page boundaries, in bytes.
pub const SLOT_ALIGN: u64 = 4096;

/// Element types, under NumPy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are NumPy's")]
pub enum DType {
    Bool,
    Uint8,
    Int8,
    Uint16,
    Int16,
    Uint32,
    Int32,
    Uint64,
    Int64,
    Float16,
    Float32,
    Float64,
}

impl DType {
    /// Bytes of one element.
    pub fn itemsize(self) -> u64 {
        match self {
            DType::Bool | DType::Uint8 | DType::Int8 => 1,
            DType::Uint16 | DType::Int16 | DType::Float16 => 2,
            DType::Uint32 | DType::Int32 | DType::Float32 => 4,
            DType::Uint64 | DType::Int64 | DType::Float64 => 8,
        }
    }
}

/// One tensor of a batch: `[N, ...shape]`, C-contiguous, where N is the batch's row count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// Column name, as the user asked for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape of one row: `[]` for a scalar, `[C, H, W]` for an image.
    pub shape: Vec<u64>,
    /// Where row 0 starts, in bytes from the slot's start; a multiple of [`TENSOR_ALIGN`].
    pub offset: u64,
}

impl Tensor {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.dtype.itemsize() * self.shape.iter().product::<u64>()
    }
}

/// All tensors of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// In the order of the columns asked for.
    pub tensors: Vec<Tensor>,
    /// Rows a slot has room for.
    pub batch_size: u32,
    /// Bytes of a slot, a multiple of [`SLOT_ALIGN`].
    pub slot_bytes: u64,
}

impl Layout {
    /// Places tensors of `(name, dtype, row shape)` one after the other.
    ///
    /// Returns `None` where the sizes overflow 64 bits.
    pub fn new(tensors: Vec<(String, DType, Vec<u64>)>, batch_size: u32) -> Option<Layout> {
        let mut offset = 0u64;
        let mut placed = Vec::with_capacity(tensors.len());
        for (name, dtype, shape) in tensors {
            let elements = shape
                .iter()
                .try_fold(1u64, |all, &side| all.checked_mul(side))?;
            let row_bytes = elements.checked_mul(dtype.itemsize())?;
            placed.push(Tensor {
                name,
                dtype,
                shape,
                offset,
            });
            offset = offset
                .checked_add(row_bytes.checked_mul(u64::from(batch_size))?)?
                .checked_next_multiple_of(TENSOR_ALIGN)?;
        }
        let slot_bytes = offset.max(1).checked_next_multiple_of(SLOT_ALIGN)?;
        Some(Layout {
            tensors: placed,
            batch_size,
            slot_bytes,
        })
    }

    /// Checks that every tensor lies within the slot, as a reader must who does not trust
    /// the writer: it would read beyond the mapping. The error names the tensor.
    pub fn check(&self) -> Result<(), String> {
        for tensor in &self.tensors {
            // A size of 0 hides nothing: the product of the others must fit as well, since
            // whoever takes the tensor multiplies them in an order of his own.
            let elements = tensor
                .shape
                .iter()
                .chain([&u64::from(self.batch_size)])
                .try_fold(1u64, |all, &side| all.checked_mul(side.max(1)));
            let end = elements
                .and_then(|elements| elements.checked_mul(tensor.dtype.itemsize()))
                .and_then(|bytes| bytes.checked_add(tensor.offset));
            if end.is_none_or(|end| end > self.slot_bytes) {
                return Err(format!(
                    "tensor \"{}\" does not fit into a slot of {} bytes",
                    tensor.name, self.slot_bytes
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_disjoint() {
        let layout = Layout::new(
            vec![
                ("image".into(), DType::Float16, vec![3, 5, 7]),
                ("label".into(), DType::Int64, vec![]),
                ("flag".into(), DType::Bool, vec![]),
            ],
            3,
        )
        .unwrap();
        let mut end = 0;
        for tensor in &layout.tensors {
            assert_eq!(tensor.offset % TENSOR_ALIGN, 0);
            assert!(tensor.offset >= end);
            end = tensor.offset + tensor.row_bytes() * 3;
        }
        assert!(layout.slot_bytes >= end);
        assert_eq!(layout.slot_bytes % SLOT_ALIGN, 0);
    }

    #[test]
    fn tensors_outside_the_slot_are_refused() {
        let check = |shape: &[u64], offset, fits: bool| {
            let layout = Layout {
                tensors: vec![Tensor {
                    name: "x".into(),
                    dtype: DType::Int64,
                    shape: shape.into(),
                    offset,
                }],
                batch_size: 4,
                slot_bytes: 4096,
            };
            assert_eq!(layout.check().is_ok(), fits, "{shape:?} at {offset}");
        };
        check(&[128], 0, true);
        check(&[128], 8, false);
        check(&[129], 0, false);
        check(&[], 4064, true);
        check(&[], u64::MAX, false);
        check(&[1 << 62], 0, false);
        // 2^64 elements, were it not for the 0.
        check(&[1 << 32, 1 << 32, 0], 0, false);
        check(&[0], 0, true);
    }

    #[test]
    fn overflow_is_refused() {
        let huge = vec![("image".into(), DType::Float64, vec![u64::MAX / 2])];
        assert_eq!(Layout::new(huge, 2), None);
    }
}
