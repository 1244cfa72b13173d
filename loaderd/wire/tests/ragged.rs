//! Ragged columns against a plain model, and against parts that lie.

use loaderd_wire::ragged::{Malformed, Packing, RaggedPart, Span, Value, check};
use loaderd_wire::{DType, Ragged, Tensor};
use proptest::prelude::*;

/// Where the arrays begin: behind a dense part.
const START: u64 = 128;

fn column(dtype: DType, shape: Vec<u64>, levels: u8, images: bool) -> Tensor {
    let ragged = Ragged {
        levels,
        text: false,
        images,
    };
    Tensor::ragged("column", dtype, shape, ragged)
}

/// Packs one column behind [`START`], and checks it as a client would.
fn pack(column: &Tensor, values: &[Value<'_>]) -> (Vec<u8>, RaggedPart) {
    let packing = Packing::measure(vec![(column, values.to_vec())]).unwrap();
    let mut memory = vec![0xee; (START + packing.bytes()) as usize];
    let area = START..memory.len() as u64;
    let mut parts = packing.write(&mut memory[START as usize..], START);
    let part = parts.remove(0);
    check(column, &part, values.len() as u32, &memory, area).unwrap();
    (memory, part)
}

fn integers(memory: &[u8], span: Span) -> Vec<i64> {
    let bytes = &memory[span.at as usize..][..span.count as usize * 8];
    let read = |bytes: &[u8]| i64::from_ne_bytes(bytes.try_into().unwrap());
    bytes.chunks_exact(8).map(read).collect()
}

fn encode_lists(lists: &[Vec<u16>]) -> Vec<u8> {
    let mut bytes = (lists.len() as u32).to_le_bytes().to_vec();
    for list in lists {
        bytes.extend((list.len() as u32).to_le_bytes());
    }
    bytes.extend(lists.iter().flatten().flat_map(|leaf| leaf.to_le_bytes()));
    bytes
}

proptest! {
    #[test]
    fn one_level(rows in prop::collection::vec(prop::option::of(prop::collection::vec(any::<[u8; 6]>(), 0..6)), 0..12)) {
        // Elements of three u16.
        let column = column(DType::Uint16, vec![3], 1, false);
        let encoded: Vec<Option<Vec<u8>>> = rows
            .iter()
            .map(|row| row.as_ref().map(|elements| elements.concat()))
            .collect();
        let values: Vec<Value> = encoded
            .iter()
            .map(|row| row.as_ref().map_or(Value::Empty, |bytes| Value::Bytes(bytes)))
            .collect();
        let (memory, part) = pack(&column, &values);
        let offsets = integers(&memory, part.offsets[0]);
        for (row, expected) in encoded.iter().enumerate() {
            let start = part.values.at as usize;
            let found = &memory[start + offsets[row] as usize * 6..start + offsets[row + 1] as usize * 6];
            prop_assert_eq!(found, expected.as_deref().unwrap_or_default());
        }
    }

    #[test]
    fn two_levels(rows in prop::collection::vec(prop::option::of(prop::collection::vec(prop::collection::vec(any::<u16>(), 0..5), 0..4)), 0..10)) {
        let column = column(DType::Uint16, vec![], 2, false);
        let encoded: Vec<Option<Vec<u8>>> =
            rows.iter().map(|row| row.as_deref().map(encode_lists)).collect();
        let values: Vec<Value> = encoded
            .iter()
            .map(|row| row.as_ref().map_or(Value::Empty, |bytes| Value::Bytes(bytes)))
            .collect();
        let (memory, part) = pack(&column, &values);
        let outer = integers(&memory, part.offsets[0]);
        let inner = integers(&memory, part.offsets[1]);
        for (row, expected) in rows.iter().enumerate() {
            let found: Vec<Vec<u16>> = (outer[row]..outer[row + 1])
                .map(|list| {
                    let (from, to) = (inner[list as usize], inner[list as usize + 1]);
                    (from..to)
                        .map(|at| {
                            let at = part.values.at as usize + at as usize * 2;
                            u16::from_ne_bytes(memory[at..at + 2].try_into().unwrap())
                        })
                        .collect()
                })
                .collect();
            prop_assert_eq!(found, expected.clone().unwrap_or_default());
        }
    }

    /// Whatever bytes are called a value: refused, or packed as something that fits together.
    #[test]
    fn no_value_breaks_out(bytes in prop::collection::vec(0u8..4, 0..40), levels in 1u8..=2) {
        let column = column(DType::Uint16, vec![], levels, false);
        let values = [Value::Bytes(&bytes), Value::Empty, Value::Bytes(&bytes)];
        if Packing::measure(vec![(&column, values.to_vec())]).is_ok() {
            pack(&column, &values);
        }
    }

    /// Whatever a part says: refused, or every array lies within the area.
    #[test]
    fn no_part_points_elsewhere(
        spans in prop::collection::vec((prop_oneof![0u64..40, Just(u64::MAX / 64), Just(1 << 57)], prop_oneof![0u64..6, any::<u64>()]), 4),
        fill in prop_oneof![Just(0u8), any::<u8>()],
        images in any::<bool>(),
        rows in 0u32..5,
    ) {
        let column = column(if images { DType::Uint8 } else { DType::Float32 }, vec![], 1, images);
        let span = |n: usize| Span { at: spans[n].0 * 64, count: spans[n].1 };
        let part = RaggedPart {
            offsets: vec![span(0)],
            values: span(1),
            shapes: images.then(|| span(2)),
        };
        let memory = vec![fill; 1024];
        if check(&column, &part, rows, &memory, 128..960).is_ok() {
            for (span, bytes) in [(part.offsets[0], 8), (part.values, column.row_bytes())] {
                prop_assert!(span.at >= 128 && span.at + span.count * bytes <= 960);
            }
            prop_assert_eq!(part.offsets[0].count, u64::from(rows) + 1);
        }
    }
}

#[test]
fn images_have_shapes() {
    let column = column(DType::Uint8, vec![], 1, true);
    let rgb: Vec<u8> = (0..30).collect();
    let image = Value::Image {
        height: 5,
        width: 2,
        rgb: &rgb,
    };
    let (memory, part) = pack(&column, &[image, Value::Empty, image]);
    assert_eq!(integers(&memory, part.offsets[0]), [0, 30, 30, 60]);
    let shapes = part.shapes.unwrap();
    let sides: Vec<i32> = memory[shapes.at as usize..][..36]
        .chunks_exact(4)
        .map(|side| i32::from_ne_bytes(side.try_into().unwrap()))
        .collect();
    assert_eq!(sides, [5, 2, 3, 0, 0, 3, 5, 2, 3]);
    assert_eq!(memory[part.values.at as usize..][30..60], rgb);
}

#[test]
fn equal_values_give_equal_arrays() {
    let column = column(DType::Uint8, vec![], 1, false);
    let values = [Value::Bytes(b"one"), Value::Empty, Value::Bytes(b"three")];
    assert_eq!(pack(&column, &values), pack(&column, &values));
}

#[test]
fn damaged_values_are_refused() {
    let check = |levels, shape: &[u64], bytes: &[u8]| {
        let column = column(DType::Uint16, shape.to_vec(), levels, false);
        let values = vec![Value::Empty, Value::Bytes(bytes)];
        let error = Packing::measure(vec![(&column, values)]).unwrap_err();
        let bytes = bytes.len();
        assert_eq!(
            error,
            Malformed {
                column: 0,
                row: 1,
                bytes
            }
        );
    };
    check(1, &[], &[1]);
    check(1, &[4], &[0; 12]);
    check(2, &[], &[1, 0, 0]);
    check(2, &[], &[255; 4]);
    check(2, &[], &encode_lists(&[vec![1, 2]])[..10]);
    check(2, &[], &[encode_lists(&[vec![1, 2]]), vec![0, 0]].concat());
}

#[test]
fn parts_that_lie_are_refused_in_words() {
    let lists = column(DType::Uint16, vec![], 1, false);
    let values = [Value::Bytes(&[1, 0, 2, 0]), Value::Empty];
    let (memory, part) = pack(&lists, &values);
    let area = START..memory.len() as u64;
    let refused = |change: fn(&mut RaggedPart), expected: &str| {
        let mut part = part.clone();
        change(&mut part);
        let error = check(&lists, &part, 2, &memory, area.clone()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    refused(|part| part.values.at = 64, "do not lie within");
    refused(|part| part.values.at += 2, "on a multiple of 64");
    refused(|part| part.values.at = u64::MAX - 63, "do not lie within");
    refused(|part| part.values.count = 1 << 62, "do not lie within");
    refused(|part| part.values.count = 1, "number of values");
    refused(|part| part.offsets[0].count = 2, "rows and one");
    refused(|part| part.offsets.clear(), "levels");
    refused(
        |part| part.offsets[0].at = part.values.at,
        "do not begin at 0",
    );
    refused(
        |part| part.shapes = Some(part.values),
        "shapes come with images",
    );
    let mut falling = memory.clone();
    falling[part.offsets[0].at as usize + 8] = 9;
    let error = check(&lists, &part, 2, &falling, area.clone()).unwrap_err();
    assert!(error.contains("the offsets fall"), "{error}");
    let error = check(&lists, &part, 2, &memory, START..area.end - 64).unwrap_err();
    assert!(error.contains("do not lie within"), "{error}");
}

#[test]
fn shapes_that_lie_are_refused_in_words() {
    let images = column(DType::Uint8, vec![], 1, true);
    let image = Value::Image {
        height: 5,
        width: 2,
        rgb: &[7; 30],
    };
    let (memory, part) = pack(&images, &[image, Value::Empty]);
    let area = START..memory.len() as u64;
    let refused = |sides: [i32; 3], count: u64, expected: &str| {
        let (mut memory, mut part) = (memory.clone(), part.clone());
        let shapes = part.shapes.as_mut().unwrap();
        shapes.count = count;
        for (side, bytes) in sides.iter().zip(memory[shapes.at as usize..].chunks_mut(4)) {
            bytes.copy_from_slice(&side.to_ne_bytes());
        }
        let error = check(&images, &part, 2, &memory, area.clone()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    let not_its = "not that of its row's pixels";
    refused([5, 3, 3], 2, not_its);
    refused([-5, -2, 3], 2, not_its);
    refused([i32::MAX; 3], 2, not_its);
    refused([5, 2, 3], 1, "one for each row");
    refused([5, 2, 3], 3, "one for each row");
}
