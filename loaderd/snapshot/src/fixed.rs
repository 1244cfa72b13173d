//! Dense columns: Arrow arrays to rows of little-endian elements.
//!
//! In: an Arrow array of a [`FixedKind`]'s type. Out: its rows' bytes, appended to a buffer. A
//! null at any depth is counted, never written as a value.

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, FixedSizeListArray};

use crate::field::{DType, FixedKind};

/// Appends every row of `array` to `out`, or says how many nulls there are.
///
/// # Panics
/// If `array` is not of `kind`'s type; the caller took the kind from the same schema.
pub(crate) fn append(array: &dyn Array, kind: &FixedKind, out: &mut Vec<u8>) -> Result<(), u64> {
    append_level(array, &kind.shape, kind.dtype, out)
}

fn append_level(
    array: &dyn Array,
    shape: &[usize],
    dtype: DType,
    out: &mut Vec<u8>,
) -> Result<(), u64> {
    let nulls = array.null_count() as u64;
    if nulls > 0 {
        return Err(nulls);
    }
    match shape.split_first() {
        Some((&n, inner)) => {
            let list: &FixedSizeListArray = array.as_fixed_size_list();
            let start = usize::try_from(list.value_offset(0)).expect("offsets are not negative");
            let values = list.values().slice(start, list.len() * n);
            append_level(&values, inner, dtype, out)
        }
        None if dtype == DType::Bool => {
            let bits: &BooleanArray = array.as_boolean();
            out.extend(bits.values().iter().map(u8::from));
            Ok(())
        }
        None => {
            let data = array.to_data();
            let size = dtype.itemsize();
            let bytes = data.buffers()[0].as_slice();
            let start = data.offset() * size;
            out.extend_from_slice(&bytes[start..start + data.len() * size]);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::Float32Type;
    use arrow_array::{ArrayRef, Int64Array};

    use super::*;

    fn check(array: &dyn Array, expected: Result<Vec<u8>, u64>) {
        let kind = FixedKind::from_arrow(array.data_type()).unwrap();
        let mut out = Vec::new();
        let result = append(array, &kind, &mut out).map(|()| out);
        assert_eq!(result, expected);
    }

    #[test]
    fn scalars_and_slices() {
        let numbers = Int64Array::from(vec![1, -2, 3]);
        let expected: Vec<u8> = [-2_i64, 3].iter().flat_map(|v| v.to_le_bytes()).collect();
        check(&numbers.slice(1, 2), Ok(expected));
        let bits = BooleanArray::from(vec![true, false, true, true]);
        check(&bits.slice(1, 3), Ok(vec![0, 1, 1]));
        check(&Int64Array::from(vec![Some(1), None, None]), Err(2));
    }

    #[test]
    fn lists_and_their_nulls() {
        let rows = vec![
            Some(vec![Some(1.0), Some(2.0)]),
            Some(vec![Some(3.0), Some(4.0)]),
        ];
        let list = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(rows, 2);
        let expected: Vec<u8> = [3.0_f32, 4.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        check(&list.slice(1, 1), Ok(expected));

        let outer = FixedSizeListArray::new(
            Arc::new(arrow_schema::Field::new(
                "item",
                list.data_type().clone(),
                true,
            )),
            2,
            Arc::new(list) as ArrayRef,
            None,
        );
        let expected: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        check(&outer, Ok(expected));

        let holes = vec![Some(vec![Some(1.0), None]), Some(vec![None, Some(4.0)])];
        check(
            &FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(holes, 2),
            Err(2),
        );
        check(
            &FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
                vec![Some(vec![Some(1.0), Some(2.0)]), None],
                2,
            ),
            Err(1),
        );
    }
}
