//! One value of a variable column as bytes.
//!
//! Enters: the leaves of its lists. Leaves: one run of bytes, and the lists again. What a leaf
//! means is its [`RaggedKind`]'s matter; nothing here looks into one. [`decode_value`] describes
//! the bytes.

use crate::field::RaggedKind;

const COUNT_BYTES: usize = 4;

/// Appends the value that consists of these lists: one for one level, any number for two. Each
/// holds whole leaves. False, with `out` as it was, where a count does not fit in a u32.
pub(crate) fn encode(kind: &RaggedKind, lists: &[&[u8]], out: &mut Vec<u8>) -> bool {
    if kind.levels == 2 {
        let start = out.len();
        let lengths = lists.iter().map(|list| list.len() / kind.leaf_bytes());
        for count in std::iter::once(lists.len()).chain(lengths) {
            let Ok(count) = u32::try_from(count) else {
                out.truncate(start);
                return false;
            };
            out.extend_from_slice(&count.to_le_bytes());
        }
    }
    for list in lists {
        out.extend_from_slice(list);
    }
    true
}

/// The bytes of each list of a value: one list for one level, any number for two. None where
/// `bytes` are not a value of this kind.
///
/// ```text
/// levels 1   the leaves, one after the other, without gaps
/// levels 2   n u32 | n lengths u32, in leaves | the leaves of all n lists, without gaps
/// ```
///
/// Numbers are little-endian, a bool is a byte of 0 or 1, and the leaves of text are its bytes in
/// UTF-8. Nothing is aligned and nothing is terminated; an empty list of one level is no bytes.
pub fn decode_value<'a>(kind: &RaggedKind, bytes: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let leaf_bytes = kind.leaf_bytes();
    if kind.levels != 2 {
        return bytes.len().is_multiple_of(leaf_bytes).then(|| vec![bytes]);
    }
    let (count, rest) = bytes.split_first_chunk::<COUNT_BYTES>()?;
    let count = u32::from_le_bytes(*count) as usize;
    let (lengths, mut rest) = rest.split_at_checked(count.checked_mul(COUNT_BYTES)?)?;
    let mut lists = Vec::with_capacity(count);
    for length in lengths.chunks_exact(COUNT_BYTES) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let list;
        (list, rest) = rest.split_at_checked(length.checked_mul(leaf_bytes)?)?;
        lists.push(list);
    }
    rest.is_empty().then_some(lists)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::field::DType;

    fn kind(levels: u8, dtype: DType, shape: &[usize]) -> RaggedKind {
        RaggedKind {
            dtype,
            shape: shape.to_vec(),
            levels,
            text: false,
        }
    }

    #[test]
    fn values_byte_by_byte() {
        let mut out = Vec::new();
        assert!(encode(
            &kind(1, DType::Int16, &[]),
            &[&[1, 0, 2, 0]],
            &mut out
        ));
        assert_eq!(out, [1, 0, 2, 0]);
        out.clear();
        let text = kind(2, DType::Uint8, &[]);
        assert!(encode(&text, &[b"ab", b"", b"c"], &mut out));
        assert_eq!(out, b"\x03\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0abc");
        out.clear();
        assert!(encode(&text, &[], &mut out));
        assert_eq!(out, [0; 4]);
        // Two leaves of two int16 each: lengths count leaves, not numbers.
        out.clear();
        assert!(encode(&kind(2, DType::Int16, &[2]), &[&[7; 8]], &mut out));
        assert_eq!(out, [1, 0, 0, 0, 2, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn what_is_no_value() {
        let check = |levels, dtype, bytes: &[u8]| {
            assert_eq!(
                decode_value(&kind(levels, dtype, &[]), bytes),
                None,
                "{bytes:?}"
            );
        };
        check(1, DType::Int32, &[0; 5]);
        check(2, DType::Uint8, &[]);
        check(2, DType::Uint8, &[1, 0, 0]);
        check(2, DType::Uint8, &[1, 0, 0, 0]);
        check(2, DType::Uint8, &[255; 16]);
        check(2, DType::Uint8, &[1, 0, 0, 0, 2, 0, 0, 0, 9]);
        check(2, DType::Uint8, &[1, 0, 0, 0, 1, 0, 0, 0, 9, 9]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            lists in vec(vec(any::<u8>(), 0..20), 0..20),
            dtype in prop_oneof![Just(DType::Uint8), Just(DType::Float16), Just(DType::Int64)],
            side in 1_usize..4,
            is_nested in any::<bool>(),
        ) {
            let kind = kind(if is_nested { 2 } else { 1 }, dtype, &[side]);
            let wanted = if is_nested { lists.len() } else { 1 };
            let lists: Vec<Vec<u8>> = lists
                .into_iter()
                .chain([Vec::new()])
                .take(wanted)
                .map(|list| list.repeat(kind.leaf_bytes()))
                .collect();
            let lists: Vec<&[u8]> = lists.iter().map(Vec::as_slice).collect();
            let mut bytes = Vec::new();
            prop_assert!(encode(&kind, &lists, &mut bytes));
            prop_assert_eq!(decode_value(&kind, &bytes), Some(lists));
        }

        #[test]
        fn any_bytes_are_a_value_or_none(bytes in vec(0_u8..4, 0..64), side in 1_usize..3) {
            let kind = kind(2, DType::Int16, &[side]);
            if let Some(lists) = decode_value(&kind, &bytes) {
                let mut again = Vec::new();
                prop_assert!(encode(&kind, &lists, &mut again));
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
