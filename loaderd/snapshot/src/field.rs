//! What a column is to the loader: encoded bytes, numbers of one shape, lists of varying length, or
//! something it cannot use.
//!
//! Enters: an Arrow type. Leaves: a [`FieldKind`]. It never reads data, and knows no column's place
//! in the schema.

use std::fmt;

use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

/// The element type of a dense column, named as NumPy names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The names are NumPy's.
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
    /// Bytes of one element. A bool takes one byte, 0 or 1, as in NumPy.
    pub const fn itemsize(self) -> usize {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Float16 => 2,
            Self::Uint32 | Self::Int32 | Self::Float32 => 4,
            Self::Uint64 | Self::Int64 | Self::Float64 => 8,
        }
    }

    /// NumPy's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Uint16 => "uint16",
            Self::Int16 => "int16",
            Self::Uint32 => "uint32",
            Self::Int32 => "int32",
            Self::Uint64 => "uint64",
            Self::Int64 => "int64",
            Self::Float16 => "float16",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
        }
    }

    /// Whether there is a value, NaN, that says that there is none.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Float16 | Self::Float32 | Self::Float64)
    }

    fn from_arrow(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Bool,
            DataType::UInt8 => Self::Uint8,
            DataType::Int8 => Self::Int8,
            DataType::UInt16 => Self::Uint16,
            DataType::Int16 => Self::Int16,
            DataType::UInt32 => Self::Uint32,
            DataType::Int32 | DataType::Date32 | DataType::Time32(_) => Self::Int32,
            DataType::UInt64 => Self::Uint64,
            // Times are counts of the unit that the schema states.
            DataType::Int64
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Duration(_) => Self::Int64,
            DataType::Float16 => Self::Float16,
            DataType::Float32 => Self::Float32,
            DataType::Float64 => Self::Float64,
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dense column: every row has the same number of elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedKind {
    /// Element type. Elements are little-endian.
    pub dtype: DType,
    /// Shape of one row: `[]` for a scalar, `[n]` for a fixed-size list, `[a, b]` for a nested one.
    pub shape: Vec<usize>,
}

impl FixedKind {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.itemsize()
    }

    pub(crate) fn from_arrow(data_type: &DataType) -> Option<Self> {
        let mut shape = Vec::new();
        let mut inner = data_type;
        while let DataType::FixedSizeList(child, n) = inner {
            shape.push(usize::try_from(*n).ok().filter(|n| *n > 0)?);
            inner = child.data_type();
        }
        let dtype = DType::from_arrow(inner)?;
        Some(Self { dtype, shape })
    }
}

impl fmt::Display for FixedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shape.as_slice() {
            [] => write!(f, "{}", self.dtype),
            shape => write!(f, "{}{shape:?}", self.dtype),
        }
    }
}

/// A column whose rows differ in length: text, lists, lists of lists. One value's bytes are
/// described at [`decode_value`](crate::decode_value).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaggedKind {
    /// Element type of a leaf. Elements are little-endian.
    pub dtype: DType,
    /// Shape of one leaf: `[]` for a number, `[4]` for a box.
    pub shape: Vec<usize>,
    /// 1: a row is a list of leaves. 2: a row is a list of such lists.
    pub levels: u8,
    /// Whether the innermost lists are UTF-8 text; the leaves are its bytes then.
    pub text: bool,
}

impl RaggedKind {
    /// Bytes of one leaf.
    pub fn leaf_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.itemsize()
    }

    /// `levels` lists around `data_type`, or text, which is itself a list.
    pub(crate) fn from_arrow(levels: u8, data_type: &DataType) -> Option<Self> {
        let kind = if is_text(data_type) {
            Self {
                dtype: DType::Uint8,
                shape: Vec::new(),
                levels: levels + 1,
                text: true,
            }
        } else {
            let FixedKind { dtype, shape } = FixedKind::from_arrow(data_type)?;
            Self {
                dtype,
                shape,
                levels,
                text: false,
            }
        };
        (1..=2).contains(&kind.levels).then_some(kind)
    }

    /// The leaf as a dense column of its own.
    pub(crate) fn leaf(&self) -> FixedKind {
        FixedKind {
            dtype: self.dtype,
            shape: self.shape.clone(),
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// How a column of byte strings is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BytesLayout {
    /// Lance's first blob encoding: payloads in the data file, found by position and size.
    BlobV1,
    /// Lance's blob v2: inline, packed, dedicated, managed or external payloads.
    BlobV2,
    /// Plain `Binary`; read through Lance.
    Binary,
    /// Plain `LargeBinary`; read through Lance.
    LargeBinary,
}

impl BytesLayout {
    /// Whether Lance says where its payloads lie.
    pub(crate) const fn is_blob(self) -> bool {
        matches!(self, Self::BlobV1 | Self::BlobV2)
    }

    /// The layout in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlobV1 => "blob",
            Self::BlobV2 => "blob v2",
            Self::Binary => "binary",
            Self::LargeBinary => "large binary",
        }
    }
}

/// What the loader can do with a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Byte strings: encoded images.
    Bytes(BytesLayout),
    /// Numbers, the same count in every row.
    Fixed(FixedKind),
    /// Text and lists, of any length in every row.
    Ragged(RaggedKind),
    /// Anything else.
    Other {
        /// Arrow's name for the type.
        arrow_type: String,
    },
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(layout) => write!(f, "bytes ({})", layout.name()),
            Self::Fixed(kind) => write!(f, "{kind}"),
            Self::Ragged(kind) => {
                let lists = usize::from(kind.levels) - usize::from(kind.text);
                f.write_str(["", "list of ", "list of lists of "][lists])?;
                match kind.text {
                    true => f.write_str("text"),
                    false => write!(f, "{}", kind.leaf()),
                }
            }
            Self::Other { arrow_type } => f.write_str(arrow_type),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn shapes_follow_the_nesting() {
        fn list(child: DataType, n: i32) -> DataType {
            DataType::FixedSizeList(Arc::new(arrow_schema::Field::new("item", child, true)), n)
        }
        let check = |data_type: DataType, expected: Option<(DType, &[usize])>| {
            let expected = expected.map(|(dtype, shape)| FixedKind {
                dtype,
                shape: shape.to_vec(),
            });
            assert_eq!(FixedKind::from_arrow(&data_type), expected, "{data_type}");
        };
        check(DataType::Int64, Some((DType::Int64, &[])));
        check(list(DataType::Float16, 3), Some((DType::Float16, &[3])));
        check(
            list(list(DataType::Boolean, 2), 5),
            Some((DType::Bool, &[5, 2])),
        );
        check(list(DataType::Utf8, 3), None);
        check(list(DataType::UInt8, 0), None);
        check(DataType::Utf8, None);
        check(
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Int64)),
            None,
        );
    }

    #[test]
    fn lists_and_text() {
        let check = |levels: u8, data_type: DataType, expected: Option<&str>| {
            let kind = RaggedKind::from_arrow(levels, &data_type).map(FieldKind::Ragged);
            assert_eq!(kind.map(|kind| kind.to_string()).as_deref(), expected);
        };
        let boxes = DataType::new_fixed_size_list(DataType::Float32, 4, true);
        let words = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        check(0, DataType::LargeUtf8, Some("text"));
        check(0, words, Some("text"));
        check(1, DataType::Utf8, Some("list of text"));
        check(2, DataType::Utf8, None);
        check(0, DataType::Int64, None);
        check(1, DataType::Date32, Some("list of int32"));
        check(2, boxes, Some("list of lists of float32[4]"));
        check(3, DataType::Int64, None);
        check(1, DataType::Binary, None);
    }

    #[test]
    fn dtypes_are_named_as_numpy_names_them() {
        for dtype in [
            DType::Bool,
            DType::Uint8,
            DType::Int16,
            DType::Float16,
            DType::Float64,
        ] {
            let json = serde_json::to_string(&dtype).unwrap();
            assert_eq!(json, format!("\"{}\"", dtype.name()));
        }
    }
}
