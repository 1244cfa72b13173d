//! The fixed columns of a memory source.
//!
//! Enters: a column's name and the number of rows. Leaves: the bytes of each row.

use loaderd_wire::layout::DType;

/// Different rows in the column `tensor`.
const TENSOR_ROWS: u64 = 64;

/// A fixed column.
pub(super) enum FixedColumn {
    Cycle((usize, Vec<u8>)),
    Numbers(Vec<i64>),
    Scores(Vec<f32>),
    Counts(Vec<i64>),
}

impl FixedColumn {
    /// The column of this name; `tensor` is that column's type and shape.
    pub(super) fn of(name: &str, rows: u64, tensor: Option<&(DType, Vec<u64>)>) -> FixedColumn {
        let rows = 0..rows;
        match (name, tensor) {
            ("tensor", Some((dtype, shape))) => FixedColumn::Cycle(pattern(*dtype, shape)),
            ("score", _) => FixedColumn::Scores(
                rows.map(|row| {
                    if is_null(name, row) {
                        f32::NAN
                    } else {
                        row as f32 / 2.0
                    }
                })
                .collect(),
            ),
            ("count", _) => FixedColumn::Counts(
                rows.map(|row| {
                    if is_null(name, row) {
                        0
                    } else {
                        row as i64 * 2
                    }
                })
                .collect(),
            ),
            _ => FixedColumn::Numbers(rows.map(|row| row as i64).collect()),
        }
    }

    /// The bytes of one row.
    pub(super) fn value(&self, index: u64) -> &[u8] {
        let at = index as usize;
        match self {
            FixedColumn::Cycle((row_bytes, bytes)) => {
                let start = (index % TENSOR_ROWS) as usize * row_bytes;
                &bytes[start..start + row_bytes]
            }
            FixedColumn::Numbers(numbers) | FixedColumn::Counts(numbers) => bytes_of(&numbers[at]),
            FixedColumn::Scores(numbers) => bytes_of(&numbers[at]),
        }
    }

    /// Whether the row has no value; what stands there is NaN or 0.
    pub(super) fn is_null(&self, index: u64) -> bool {
        match self {
            FixedColumn::Scores(_) => is_null("score", index),
            FixedColumn::Counts(_) => is_null("count", index),
            _ => false,
        }
    }
}

/// The bytes of a number.
trait Number {}
impl Number for i64 {}
impl Number for f32 {}

fn bytes_of<T: Number>(number: &T) -> &[u8] {
    // SAFETY: a number is initialised bytes without padding, and the slice borrows it.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(number).cast(), size_of::<T>()) }
}

/// Whether a fixed column is null in a row.
fn is_null(column: &str, row: u64) -> bool {
    match column {
        "score" => row % 6 == 5,
        "count" => row % 10 == 9,
        _ => false,
    }
}

/// Rows of small numbers that are valid in every dtype and differ from row to row.
fn pattern(dtype: DType, shape: &[u64]) -> (usize, Vec<u8>) {
    let elements: u64 = shape.iter().product();
    let row_bytes = (elements * dtype.itemsize()) as usize;
    let mut bytes = Vec::with_capacity(row_bytes * TENSOR_ROWS as usize);
    for row in 0..TENSOR_ROWS {
        for element in 0..elements {
            let value = ((row + element) % 64) as u8;
            match dtype {
                DType::Bool => bytes.push(value & 1),
                DType::Uint8 | DType::Int8 => bytes.push(value),
                DType::Uint16 | DType::Int16 => {
                    bytes.extend(u16::from(value).to_ne_bytes());
                }
                DType::Uint32 | DType::Int32 => bytes.extend(u32::from(value).to_ne_bytes()),
                DType::Uint64 | DType::Int64 => bytes.extend(u64::from(value).to_ne_bytes()),
                // So few numbers are exact in the upper half of a float32.
                DType::Bfloat16 => {
                    let upper = (f32::from(value).to_bits() >> 16) as u16;
                    bytes.extend(upper.to_ne_bytes());
                }
                // 1.0 = 0x3c00 and 2.0 = 0x4000 in IEEE 754 binary16.
                DType::Float16 => {
                    bytes.extend(if value & 1 == 0 { 0x3c00u16 } else { 0x4000 }.to_ne_bytes());
                }
                DType::Float32 => bytes.extend(f32::from(value).to_ne_bytes()),
                DType::Float64 => bytes.extend(f64::from(value).to_ne_bytes()),
            }
        }
    }
    (row_bytes, bytes)
}
