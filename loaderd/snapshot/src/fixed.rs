//! Dense columns: Arrow arrays to rows of little-endian elements.
//!
//! Enters: an Arrow array of a [`FixedKind`]'s type. Leaves: its rows' bytes, appended to a buffer,
//! and which of them have nulls. A null at any depth becomes NaN where the elements are floats, and
//! 0 where they are not.

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, FixedSizeListArray};

use crate::field::{DType, FixedKind};

/// Appends every row of `array` to `out`. Says for each row whether it holds a null at any depth;
/// none where no row does.
///
/// # Panics
/// If `array` is not of `kind`'s type; the caller took the kind from the same schema.
pub(crate) fn append(array: &dyn Array, kind: &FixedKind, out: &mut Vec<u8>) -> Option<Vec<bool>> {
    append_level(array, &kind.shape, kind.dtype, out)
}

/// The bytes of one element that stands for a null.
pub(crate) fn null_element(dtype: DType) -> &'static [u8] {
    // The quiet NaN without a sign: IEEE 754 binary16, binary32, binary64.
    match dtype {
        DType::Float16 => &[0x00, 0x7e],
        DType::Float32 => &[0x00, 0x00, 0xc0, 0x7f],
        DType::Float64 => &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xf8, 0x7f],
        dtype => &[0; 8][..dtype.itemsize()],
    }
}

fn append_level(
    array: &dyn Array,
    shape: &[usize],
    dtype: DType,
    out: &mut Vec<u8>,
) -> Option<Vec<bool>> {
    let start = out.len();
    let inside = match shape.split_first() {
        Some((&n, inner)) => {
            let list: &FixedSizeListArray = array.as_fixed_size_list();
            let first = usize::try_from(list.value_offset(0)).expect("offsets are not negative");
            let values = list.values().slice(first, list.len() * n);
            let inside = append_level(&values, inner, dtype, out);
            inside.map(|nulls| nulls.chunks(n).map(|row| row.contains(&true)).collect())
        }
        None => {
            append_elements(array, dtype, out);
            None
        }
    };
    let Some(own) = array.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return inside;
    };
    // What lies under a null is anything.
    let row_bytes = shape.iter().product::<usize>() * dtype.itemsize();
    let mut nulls = inside.unwrap_or_else(|| vec![false; array.len()]);
    for row in (0..array.len()).filter(|&row| own.is_null(row)) {
        nulls[row] = true;
        let bytes = &mut out[start + row * row_bytes..start + (row + 1) * row_bytes];
        for element in bytes.chunks_exact_mut(dtype.itemsize()) {
            element.copy_from_slice(null_element(dtype));
        }
    }
    Some(nulls)
}

fn append_elements(array: &dyn Array, dtype: DType, out: &mut Vec<u8>) {
    if dtype == DType::Bool {
        let bits: &BooleanArray = array.as_boolean();
        out.extend(bits.values().iter().map(u8::from));
        return;
    }
    let data = array.to_data();
    let size = dtype.itemsize();
    let bytes = data.buffers()[0].as_slice();
    let start = data.offset() * size;
    out.extend_from_slice(&bytes[start..start + data.len() * size]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::{Float32Type, Int32Type};
    use arrow_array::{ArrayRef, Float64Array, Int64Array};

    use super::*;

    fn check(array: &dyn Array, expected: Vec<u8>, nulls: Option<&[bool]>) {
        let kind = FixedKind::from_arrow(array.data_type()).unwrap();
        let mut out = vec![9];
        let found = append(array, &kind, &mut out);
        assert_eq!(out[1..], expected);
        assert_eq!(found.as_deref(), nulls);
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn integers(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn scalars_and_slices() {
        let numbers = Int64Array::from(vec![1, -2, 3]);
        check(&numbers.slice(1, 2), integers(&[-2, 3]), None);
        let bits = BooleanArray::from(vec![true, false, true, true]);
        check(&bits.slice(1, 3), vec![0, 1, 1], None);
        check(&numbers.slice(1, 0), Vec::new(), None);
    }

    #[test]
    fn nulls_are_nan_or_zero() {
        let numbers = Int64Array::from(vec![Some(1), None, Some(3), None]);
        let sliced = numbers.slice(1, 2);
        check(&sliced, integers(&[0, 3]), Some(&[true, false]));
        check(&numbers.slice(2, 1), integers(&[3]), None);
        let bits = BooleanArray::from(vec![Some(true), None]);
        check(&bits, vec![1, 0], Some(&[false, true]));
        let doubles = Float64Array::from(vec![None, Some(1.5)]);
        let expected = [f64::NAN, 1.5].iter().flat_map(|v| v.to_le_bytes());
        check(&doubles, expected.collect(), Some(&[true, false]));
        assert!(f32::from_le_bytes(null_element(DType::Float32).try_into().unwrap()).is_nan());
        let half = null_element(DType::Float16).try_into().unwrap();
        assert!(half::f16::from_le_bytes(half).is_nan());
    }

    #[test]
    fn lists_and_their_nulls() {
        let rows = vec![
            Some(vec![Some(1.0), Some(2.0)]),
            Some(vec![Some(3.0), None]),
            None,
            Some(vec![Some(4.0), Some(5.0)]),
        ];
        let list = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(rows, 2);
        check(&list.slice(3, 1), floats(&[4.0, 5.0]), None);
        let nan = f32::NAN;
        check(
            &list,
            floats(&[1.0, 2.0, 3.0, nan, nan, nan, 4.0, 5.0]),
            Some(&[false, true, true, false]),
        );
        let item = arrow_schema::Field::new("item", list.data_type().clone(), true);
        let inner = Arc::new(list) as ArrayRef;
        let outer = FixedSizeListArray::new(Arc::new(item), 2, inner, None);
        check(
            &outer.slice(1, 1),
            floats(&[nan, nan, 4.0, 5.0]),
            Some(&[true]),
        );
        let rows = vec![Some(vec![Some(1), None]), None];
        let list = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(rows, 2);
        let expected = [1_i32, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes());
        check(&list, expected.collect(), Some(&[true, true]));
    }
}
