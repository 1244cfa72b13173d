//! The layout of a slot: which columns lie in it, where, and of which type.
//!
//! Enters: column names, types and shapes. Leaves: offsets, and the bytes a slot needs.
//! Dense tensors lie at the same place in every slot; behind them is room for the arrays
//! of ragged columns, whose places each batch says anew ([`crate::ragged`]). Daemon and
//! client compute nothing here on their own: the daemon sends the finished [`Layout`]
//! when a job opens.

use serde::{Deserialize, Serialize};

/// Alignment of every tensor in a slot, in bytes: a cache line, what DLPack and
/// XLA's CPU client ask for zero-copy.
pub const TENSOR_ALIGN: u64 = 64;

/// Slots start on page boundaries, in bytes.
pub const SLOT_ALIGN: u64 = 4096;

/// Element types, under NumPy's names (bfloat16: ml_dtypes').
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
    Bfloat16,
    Float16,
    Float32,
    Float64,
}

impl DType {
    /// Bytes of one element.
    pub fn itemsize(self) -> u64 {
        match self {
            DType::Bool | DType::Uint8 | DType::Int8 => 1,
            DType::Uint16 | DType::Int16 | DType::Bfloat16 | DType::Float16 => 2,
            DType::Uint32 | DType::Int32 | DType::Float32 => 4,
            DType::Uint64 | DType::Int64 | DType::Float64 => 8,
        }
    }
}

/// What a column is whose rows differ in length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ragged {
    /// 1: each row is a list of elements. 2: each row is a list of such lists.
    pub levels: u8,
    /// The elements are the bytes of UTF-8 text.
    #[serde(default)]
    pub text: bool,
    /// The elements are pixels, and each row has a shape: height, width, channels.
    #[serde(default)]
    pub images: bool,
}

/// One column of a batch. Dense: `[N, ...shape]`, C-contiguous, where N is the batch's
/// row count. Ragged: values `[total, ...shape]` and offsets, see [`crate::ragged`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// Column name, as the user asked for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape of one row: `[]` for a scalar, `[C, H, W]` or `[H, W, C]` for an image.
    /// Of one value, where the column is ragged: `[4]` for lists of boxes.
    pub shape: Vec<u64>,
    /// Where row 0 starts, in bytes from the slot's start; a multiple of [`TENSOR_ALIGN`].
    /// 0 where the column is ragged.
    pub offset: u64,
    /// Present where rows differ in length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ragged: Option<Ragged>,
}

impl Tensor {
    /// A dense column, to be placed by [`Layout::new`].
    pub fn dense(name: impl Into<String>, dtype: DType, shape: Vec<u64>) -> Tensor {
        Tensor {
            name: name.into(),
            dtype,
            shape,
            offset: 0,
            ragged: None,
        }
    }

    /// A ragged column of values of this shape.
    pub fn ragged(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<u64>,
        ragged: Ragged,
    ) -> Tensor {
        Tensor {
            ragged: Some(ragged),
            ..Tensor::dense(name, dtype, shape)
        }
    }

    fn check_ragged(&self, ragged: Ragged) -> Result<(), String> {
        let elements = self
            .shape
            .iter()
            .try_fold(1u64, |all, &side| all.checked_mul(side));
        let value_bytes = elements.and_then(|count| count.checked_mul(self.dtype.itemsize()));
        let bytes = self.dtype == DType::Uint8 && self.shape.is_empty();
        let is_possible = matches!(ragged.levels, 1 | 2)
            && value_bytes.is_some_and(|bytes| bytes > 0)
            && (bytes || !ragged.text && !ragged.images)
            && (ragged.levels == 1 || !ragged.images);
        if !is_possible {
            return Err(format!(
                "ragged column \"{}\" of {:?} {:?} as {ragged:?} is impossible",
                self.name, self.dtype, self.shape
            ));
        }
        Ok(())
    }

    /// Bytes of one row; of one value, where the column is ragged.
    pub fn row_bytes(&self) -> u64 {
        self.dtype.itemsize() * self.shape.iter().product::<u64>()
    }
}

/// All columns of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// In the order of the columns asked for.
    pub tensors: Vec<Tensor>,
    /// Rows a slot has room for.
    pub batch_size: u32,
    /// Bytes of the dense tensors, a multiple of [`TENSOR_ALIGN`]. The rest of the slot is
    /// for ragged columns.
    pub dense_bytes: u64,
    /// Bytes of a slot, a multiple of [`SLOT_ALIGN`].
    pub slot_bytes: u64,
}

impl Layout {
    /// Places the dense ones among `tensors` one after the other, and leaves at least
    /// `variable_bytes` behind them. Offsets that are given don't matter.
    ///
    /// Returns `None` where the sizes overflow 64 bits.
    pub fn new(mut tensors: Vec<Tensor>, batch_size: u32, variable_bytes: u64) -> Option<Layout> {
        let mut dense_bytes = 0u64;
        for tensor in &mut tensors {
            let elements = tensor
                .shape
                .iter()
                .try_fold(1u64, |all, &side| all.checked_mul(side))?;
            let row_bytes = elements.checked_mul(tensor.dtype.itemsize())?;
            if tensor.ragged.is_some() {
                tensor.offset = 0;
                continue;
            }
            tensor.offset = dense_bytes;
            dense_bytes = dense_bytes
                .checked_add(row_bytes.checked_mul(u64::from(batch_size))?)?
                .checked_next_multiple_of(TENSOR_ALIGN)?;
        }
        let slot_bytes = dense_bytes
            .checked_add(variable_bytes)?
            .max(1)
            .checked_next_multiple_of(SLOT_ALIGN)?;
        Some(Layout {
            tensors,
            batch_size,
            dense_bytes,
            slot_bytes,
        })
    }

    /// Bytes of a slot that ragged columns may take.
    pub fn variable_bytes(&self) -> u64 {
        self.slot_bytes - self.dense_bytes
    }

    /// Checks that every dense tensor lies within the slot, as a reader must who does not
    /// trust the writer (it would read beyond the mapping), and that ragged columns are of
    /// a kind there is. The error names the tensor.
    pub fn check(&self) -> Result<(), String> {
        if self.dense_bytes > self.slot_bytes || !self.dense_bytes.is_multiple_of(TENSOR_ALIGN) {
            return Err(format!(
                "{} bytes of dense tensors do not fit into a slot of {} bytes, or don't end on a multiple of \
                 {TENSOR_ALIGN}",
                self.dense_bytes, self.slot_bytes
            ));
        }
        self.tensors
            .iter()
            .try_for_each(|tensor| match tensor.ragged {
                Some(ragged) => tensor.check_ragged(ragged),
                None => self.check_dense(tensor),
            })
    }

    fn check_dense(&self, tensor: &Tensor) -> Result<(), String> {
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
        if end.is_none_or(|end| end > self.dense_bytes) {
            return Err(format!(
                "tensor \"{}\" does not fit into a slot of {} bytes",
                tensor.name, self.slot_bytes
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_disjoint() {
        let list = Ragged {
            levels: 1,
            ..Ragged::default()
        };
        let layout = Layout::new(
            vec![
                Tensor::dense("image", DType::Float16, vec![3, 5, 7]),
                Tensor::ragged("boxes", DType::Float32, vec![4], list),
                Tensor::dense("label", DType::Int64, vec![]),
                Tensor::dense("flag", DType::Bool, vec![]),
            ],
            3,
            10_000,
        )
        .unwrap();
        let mut end = 0;
        for tensor in layout.tensors.iter().filter(|t| t.ragged.is_none()) {
            assert_eq!(tensor.offset % TENSOR_ALIGN, 0);
            assert!(tensor.offset >= end);
            end = tensor.offset + tensor.row_bytes() * 3;
        }
        assert!(layout.dense_bytes >= end);
        assert_eq!(layout.dense_bytes % TENSOR_ALIGN, 0);
        assert!(layout.variable_bytes() >= 10_000);
        assert_eq!(layout.slot_bytes % SLOT_ALIGN, 0);
    }

    #[test]
    fn tensors_outside_the_slot_are_refused() {
        let check = |shape: &[u64], offset, fits: bool| {
            let layout = Layout {
                tensors: vec![Tensor {
                    offset,
                    ..Tensor::dense("x", DType::Int64, shape.into())
                }],
                batch_size: 4,
                dense_bytes: 4096,
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
        check(&[0, 1 << 32, 1 << 32], 0, false);
        check(&[0], 0, true);
        for (dense_bytes, slot_bytes, fits) in [(64, 64, true), (128, 64, false), (65, 128, false)]
        {
            let layout = Layout {
                tensors: vec![],
                batch_size: 4,
                dense_bytes,
                slot_bytes,
            };
            assert_eq!(layout.check().is_ok(), fits, "{layout:?}");
        }
    }

    #[test]
    fn overflow_is_refused() {
        let huge = || vec![Tensor::dense("image", DType::Float64, vec![u64::MAX / 2])];
        assert_eq!(Layout::new(huge(), 2, 0), None);
        assert_eq!(Layout::new(vec![], 2, u64::MAX - 5), None);
    }
}
