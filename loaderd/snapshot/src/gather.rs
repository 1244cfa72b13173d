//! Variable columns: Arrow arrays to values.
//!
//! Enters: an Arrow array of a [`RaggedKind`]'s type. Leaves: a value per row, encoded as
//! [`decode_value`](crate::decode_value) says, or none where the row is null. Inside of a row, a
//! null text or list becomes an empty one and a null float NaN; other nulls are counted, for the
//! caller to refuse.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, GenericListArray, OffsetSizeTrait};
use arrow_buffer::NullBuffer;
use arrow_schema::DataType;

use crate::field::RaggedKind;
use crate::fixed;
use crate::value::encode;

/// The values of an array.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Gathered {
    /// Row by row; none for a row that is null.
    pub(crate) values: Vec<Option<Vec<u8>>>,
    /// Leaves that are null, and for which their type has no value; zeros stand in their places.
    pub(crate) holes: u64,
}

/// The values of `array`. None where one has more lists, or a list more leaves, than a u32 counts.
///
/// # Panics
/// If `array` is not of `kind`'s type; the caller took the kind from the same schema.
pub(crate) fn gather(array: &dyn Array, kind: &RaggedKind) -> Option<Gathered> {
    let outer = (kind.levels == 2).then(|| Rows::new(array));
    let lists = match &outer {
        Some(rows) => Lists::new(&rows.items, kind),
        None => Lists::new(array, kind),
    };
    let mut gathered = Gathered::default();
    let mut inner: Vec<&[u8]> = Vec::new();
    for row in 0..array.len() {
        // Without an outer level, a row is one list.
        let range = match &outer {
            Some(rows) => rows.range(row),
            None => lists.get(row).map(|_| row..row + 1),
        };
        let value = match range {
            None => None,
            Some(range) => {
                gathered.holes += range.clone().map(|at| lists.holes(at)).sum::<u64>();
                inner.clear();
                inner.extend(range.map(|at| lists.get(at).unwrap_or_default()));
                let mut value = Vec::new();
                if !encode(kind, &inner, &mut value) {
                    return None;
                }
                Some(value)
            }
        };
        gathered.values.push(value);
    }
    Some(gathered)
}

/// The items of a list array, and which of them are a row's.
struct Rows {
    offsets: Vec<usize>,
    nulls: Option<NullBuffer>,
    items: ArrayRef,
}

impl Rows {
    fn new(array: &dyn Array) -> Self {
        match array.data_type() {
            DataType::LargeList(_) => Self::of(array.as_list::<i64>()),
            _ => Self::of(array.as_list::<i32>()),
        }
    }

    fn of<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> Self {
        let first = list.value_offsets()[0].as_usize();
        let offsets = list.value_offsets().iter();
        let offsets: Vec<usize> = offsets.map(|offset| offset.as_usize() - first).collect();
        Self {
            nulls: list.nulls().cloned(),
            items: list.values().slice(first, offsets[list.len()]),
            offsets,
        }
    }

    fn range(&self, row: usize) -> Option<Range<usize>> {
        let is_null = self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        (!is_null).then(|| self.offsets[row]..self.offsets[row + 1])
    }
}

/// The innermost lists, with the bytes of their leaves.
struct Lists {
    bytes: Vec<u8>,
    /// Of `bytes`; none for a null.
    ranges: Vec<Option<Range<usize>>>,
    /// A flag per leaf that is a hole; none where there are none.
    holes: Option<Vec<bool>>,
    leaf_bytes: usize,
}

impl Lists {
    fn new(array: &dyn Array, kind: &RaggedKind) -> Self {
        if kind.text {
            return Self::of_text(array);
        }
        let rows = Rows::new(array);
        let mut bytes = Vec::new();
        let nulls = fixed::append(&rows.items, &kind.leaf(), &mut bytes);
        let leaf_bytes = kind.leaf_bytes();
        let range = |row| {
            let leaves = rows.range(row)?;
            Some(leaves.start * leaf_bytes..leaves.end * leaf_bytes)
        };
        Self {
            bytes,
            ranges: (0..array.len()).map(range).collect(),
            holes: nulls.filter(|_| !kind.dtype.is_float()),
            leaf_bytes,
        }
    }

    fn of_text(array: &dyn Array) -> Self {
        match array.data_type() {
            DataType::LargeUtf8 => Self::of_texts(array.as_string::<i64>().iter()),
            DataType::Utf8View => Self::of_texts(array.as_string_view().iter()),
            DataType::Dictionary(..) if array.null_count() == array.len() => {
                Self::of_texts((0..array.len()).map(|_| None))
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let words = Self::of_text(dictionary.values());
                let keys = dictionary.normalized_keys().into_iter().enumerate();
                let ranges = keys.map(|(row, key)| {
                    let range = words.ranges[key].clone();
                    range.filter(|_| array.is_valid(row))
                });
                Self {
                    ranges: ranges.collect(),
                    ..words
                }
            }
            _ => Self::of_texts(array.as_string::<i32>().iter()),
        }
    }

    fn of_texts<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Self {
        let mut bytes = Vec::new();
        let ranges = texts.map(|text| {
            let start = bytes.len();
            bytes.extend_from_slice(text?.as_bytes());
            Some(start..bytes.len())
        });
        Self {
            ranges: ranges.collect(),
            bytes,
            holes: None,
            leaf_bytes: 1,
        }
    }

    fn get(&self, list: usize) -> Option<&[u8]> {
        Some(&self.bytes[self.ranges[list].clone()?])
    }

    fn holes(&self, list: usize) -> u64 {
        let (Some(holes), Some(range)) = (&self.holes, self.ranges[list].clone()) else {
            return 0;
        };
        let leaves = &holes[range.start / self.leaf_bytes..range.end / self.leaf_bytes];
        leaves.iter().filter(|hole| **hole).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{
        BooleanBuilder, FixedSizeListBuilder, Float32Builder, Int16Builder, Int64Builder,
        LargeListBuilder, ListBuilder, StringBuilder,
    };
    use arrow_array::types::Int8Type;
    use arrow_array::{DictionaryArray, LargeStringArray, StringArray, StringViewArray};

    use super::*;
    use crate::value::decode_value;

    /// The lists of every row.
    type Found = Vec<Option<Vec<Vec<u8>>>>;

    fn found(array: &dyn Array, levels: u8) -> (Found, u64) {
        let mut item = array.data_type().clone();
        let mut around = 0;
        while let DataType::List(field) | DataType::LargeList(field) = item {
            item = field.data_type().clone();
            around += 1;
        }
        let kind = RaggedKind::from_arrow(around, &item).unwrap();
        assert_eq!(kind.levels, levels);
        let Gathered { values, holes } = gather(array, &kind).unwrap();
        let lists = values.iter().map(|value| {
            let lists = decode_value(&kind, value.as_deref()?).expect("a value");
            Some(lists.into_iter().map(<[u8]>::to_vec).collect())
        });
        (lists.collect(), holes)
    }

    fn text(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    #[test]
    fn text_in_every_array() {
        let words = [Some("ab"), None, Some(""), Some("ü"), Some("ab")];
        let expected = || {
            let lists = words.iter().map(|word| Some(vec![text((*word)?)]));
            (lists.collect::<Found>(), 0)
        };
        let small: StringArray = words.iter().copied().collect();
        let large: LargeStringArray = words.iter().copied().collect();
        let view: StringViewArray = words.iter().copied().collect();
        let keyed: DictionaryArray<Int8Type> = words.iter().copied().collect();
        let arrays: [&dyn Array; 4] = [&small, &large, &view, &keyed];
        for array in arrays {
            assert_eq!(found(array, 1), expected(), "{}", array.data_type());
            let (sliced, _) = found(&array.slice(2, 2), 1);
            assert_eq!(sliced, expected().0[2..4]);
        }
        let nothing: DictionaryArray<Int8Type> = [None::<&str>; 2].into_iter().collect();
        assert_eq!(found(&nothing, 1), (vec![None, None], 0));
    }

    #[test]
    fn lists_of_numbers() {
        let mut builder = LargeListBuilder::new(Int16Builder::new());
        builder.append_value([Some(1), Some(2)]);
        builder.append_null();
        builder.append_value([]);
        builder.append_value([Some(3)]);
        let array = builder.finish();
        let le = |numbers: &[i16]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let expected = vec![
            Some(vec![le(&[1, 2])]),
            None,
            Some(vec![vec![]]),
            Some(vec![le(&[3])]),
        ];
        assert_eq!(found(&array.slice(1, 3), 1), (expected[1..].to_vec(), 0));
        assert_eq!(found(&array, 1), (expected, 0));
    }

    #[test]
    fn nulls_inside() {
        let mut builder = ListBuilder::new(BooleanBuilder::new());
        builder.append_value([Some(true), None, None]);
        builder.append_value([None]);
        let (rows, holes) = found(&builder.finish(), 1);
        let expected = vec![Some(vec![vec![1, 0, 0]]), Some(vec![vec![0]])];
        assert_eq!((rows, holes), (expected, 3));

        let mut builder = ListBuilder::new(FixedSizeListBuilder::new(Float32Builder::new(), 2));
        builder
            .values()
            .values()
            .append_slice(&[1.0, 2.0, 3.0, 4.0]);
        builder.values().append(true);
        builder.values().append(false);
        builder.append(true);
        let nan = f32::NAN;
        let expected = [1.0, 2.0, nan, nan].into_iter().flat_map(f32::to_le_bytes);
        let expected = vec![Some(vec![expected.collect()])];
        assert_eq!(found(&builder.finish(), 1), (expected, 0));

        let mut builder = ListBuilder::new(StringBuilder::new());
        builder.append_value([Some("a"), None, Some("bc")]);
        builder.append_null();
        builder.append(true);
        let expected = vec![
            Some(vec![text("a"), text(""), text("bc")]),
            None,
            Some(vec![]),
        ];
        assert_eq!(found(&builder.finish(), 2), (expected, 0));
    }

    #[test]
    fn lists_of_lists() {
        let mut builder = ListBuilder::new(ListBuilder::new(Int64Builder::new()));
        builder.values().append_value([Some(1), Some(2)]);
        builder.values().append_null();
        builder.append(true);
        builder.values().append_value([Some(3), None]);
        // Under a null there may be anything; it counts for nothing.
        builder.append(false);
        builder.append(true);
        let le = |numbers: &[i64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let array = builder.finish();
        let expected = vec![Some(vec![le(&[1, 2]), le(&[])]), None, Some(vec![])];
        assert_eq!(found(&array, 2), (expected, 0));
    }
}
