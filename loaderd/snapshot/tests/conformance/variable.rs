//! Text and lists where the matrix does not go: other Arrow types, nulls inside, what is too large.

use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, Int64Builder, ListBuilder};
use arrow_array::types::Int16Type;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Float64Array, Int64Array, LargeStringArray, ListArray,
    StringArray, StringViewArray, StructArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field};
use loaderd_snapshot::{
    ColumnRef, Snapshot, SnapshotError, SnapshotRequest, Variable, decode_value,
};

use crate::common::*;

fn open(place: &Place, columns: &[&str], filter: Option<&str>) -> Result<Snapshot, SnapshotError> {
    Snapshot::open(SnapshotRequest {
        bytes_columns: Vec::new(),
        fixed_columns: Vec::new(),
        variable_columns: columns.iter().map(|&name| name.into()).collect(),
        filter: filter.map(Into::into),
        ..place.request()
    })
}

/// Each row of a column, as read through Lance; those in the map are compared with it.
fn read(snapshot: &Snapshot, column: usize) -> Vec<Value> {
    // Backwards, and the last row twice.
    let mut order: Vec<u64> = (0..snapshot.rows()).rev().collect();
    order.insert(0, snapshot.rows() - 1);
    let mut slow = snapshot.read_variable_slow(column, &order).unwrap();
    slow.remove(0);
    slow.reverse();
    for (row, value) in (0..).zip(&slow) {
        match snapshot.variable(column, row) {
            Variable::Value(fast) => assert_eq!(Some(fast), value.as_deref(), "row {row}"),
            Variable::Null => assert_eq!(None, *value, "row {row}"),
            Variable::Slow => {}
        }
    }
    slow
}

#[test]
fn text_of_every_arrow_type() {
    let words: Vec<Option<String>> = (0..300)
        .map(|i| (i % 7 != 2).then(|| format!("wörd {}", i % 50)))
        .collect();
    let each = || words.iter().map(Option::as_deref);
    let keyed: DictionaryArray<Int16Type> = each().collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("small", Arc::new(each().collect::<StringArray>())),
        ("large", Arc::new(each().collect::<LargeStringArray>())),
        ("view", Arc::new(each().collect::<StringViewArray>())),
        ("keyed", Arc::new(keyed)),
    ];
    let names = ["small", "large", "view", "keyed"];
    let place = Place::new();
    place.write_columns(columns);
    let snapshot = open(&place, &names, None).unwrap();
    let expected: Vec<Value> = each().map(|word| Some(word?.into())).collect();
    for (column, name) in names.into_iter().enumerate() {
        assert!(snapshot.variable_kind(column).text, "{name}");
        assert_eq!(read(&snapshot, column), expected, "{name}");
        assert_ne!(snapshot.variable(column, 0), Variable::Slow, "{name}");
    }
}

#[test]
fn null_structs_are_null_in_each_of_their_fields() {
    let number: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0]));
    let name: ArrayRef = Arc::new(StringArray::from(vec![
        Some("a"),
        Some("b"),
        None,
        Some("d"),
    ]));
    let fields = || {
        vec![
            Field::new("number", DataType::Float64, true),
            Field::new("name", DataType::Utf8, true),
        ]
    };
    let nulls = NullBuffer::from(vec![true, false, true, true]);
    let columns = || vec![number.clone(), name.clone()];
    let one = StructArray::new(fields().into(), columns(), Some(nulls.clone()));
    let items = StructArray::new(fields().into(), columns(), Some(nulls));
    let item = Field::new_list_field(items.data_type().clone(), true);
    let many = ListArray::new(
        Arc::new(item),
        OffsetBuffer::from_lengths([3, 0, 0, 1]),
        Arc::new(items),
        Some(NullBuffer::from(vec![true, false, true, true])),
    );
    let place = Place::new();
    let columns: Vec<(&str, ArrayRef)> = vec![("one", Arc::new(one)), ("many", Arc::new(many))];
    place.write_columns(columns);

    let snapshot = Snapshot::open(SnapshotRequest {
        bytes_columns: Vec::new(),
        fixed_columns: vec!["one.number".into()],
        variable_columns: vec!["one.name".into(), "many.number".into(), "many.name".into()],
        ..place.request()
    });
    let snapshot = snapshot.unwrap();
    let valid = |row| snapshot.is_valid(ColumnRef::Fixed(0), row);
    assert_eq!([0, 1, 2, 3].map(valid), [true, false, true, true]);
    assert_eq!(snapshot.fixed(0, 1).unwrap(), f64::NAN.to_le_bytes());
    let text = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(read(&snapshot, 0), [text("a"), None, None, text("d")]);
    let le = |numbers: &[f64]| Some(numbers.iter().flat_map(|n| n.to_le_bytes()).collect());
    assert_eq!(
        read(&snapshot, 1),
        [le(&[1.0, f64::NAN, 3.0]), None, le(&[]), le(&[4.0])]
    );
    let names: Vec<Option<Vec<Vec<u8>>>> = read(&snapshot, 2)
        .iter()
        .map(|value| {
            let lists = decode_value(snapshot.variable_kind(2), value.as_deref()?).unwrap();
            Some(lists.into_iter().map(<[u8]>::to_vec).collect())
        })
        .collect();
    let expected = [
        Some(vec![b"a".to_vec(), vec![], vec![]]),
        None,
        Some(vec![]),
        Some(vec![b"d".to_vec()]),
    ];
    assert_eq!(names, expected);
}

#[test]
fn nulls_in_lists_are_nan_or_refused() {
    let mut integers = ListBuilder::new(Int64Builder::new());
    let mut boxes = ListBuilder::new(FixedSizeListBuilder::new(Float32Builder::new(), 2));
    for i in 0..200 {
        integers.append_value([Some(i), (i % 50 != 7).then_some(i)]);
        boxes.values().values().append_value(1.0);
        boxes
            .values()
            .values()
            .append_option((i != 3).then_some(2.0));
        boxes.values().append(true);
        boxes.append(true);
    }
    let place = Place::new();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..200))),
        ("integers", Arc::new(integers.finish())),
        ("boxes", Arc::new(boxes.finish())),
    ];
    place.write_columns(columns);
    let error = open(&place, &["boxes", "integers"], None).unwrap_err();
    let SnapshotError::ListNulls { column, count, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((column.as_str(), *count), ("integers", 4));
    let text = error.to_string();
    assert!(
        text.contains("list of int64") && text.contains("filter"),
        "{text}"
    );
    let snapshot = open(&place, &["integers"], Some("id % 50 != 7")).unwrap();
    assert_eq!(read(&snapshot, 0).len(), 196);
    let snapshot = open(&place, &["boxes"], None).unwrap();
    let value = read(&snapshot, 0)[3].clone().unwrap();
    let expected = [1.0_f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat();
    assert_eq!(value, expected);
}

#[test]
fn what_is_too_large_is_read_through_lance() {
    // One long value among short ones, and a column that is long throughout.
    let each = || 0..300_usize;
    let one = each().map(|i| (i != 290).then(|| "x".repeat(if i == 280 { 70_000 } else { i })));
    let all = each().map(|i| (i % 3 != 1).then(|| "y".repeat(8_000 + i)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("one", Arc::new(one.collect::<StringArray>())),
        ("all", Arc::new(all.collect::<StringArray>())),
    ];
    let place = Place::new();
    place.write_columns(columns);
    let snapshot = open(&place, &["one", "all"], None).unwrap();
    let one = read(&snapshot, 0);
    assert_eq!(one[280].as_ref().unwrap().len(), 70_000);
    for row in each() {
        let found = snapshot.variable(0, row as u64);
        assert_eq!(found == Variable::Slow, row == 280, "row {row}");
        assert_eq!(found == Variable::Null, row == 290, "row {row}");
        assert_eq!(snapshot.variable(1, row as u64), Variable::Slow);
    }
    assert_eq!(snapshot.variable_quantile(0, 1.0), 70_000);
    let all = read(&snapshot, 1);
    assert_eq!(all.iter().filter(|value| value.is_none()).count(), 100);
    // By the first 256 rows.
    assert_eq!(snapshot.variable_quantile(1, 1.0), 8_255);
    assert!(
        snapshot.is_valid(ColumnRef::Variable(1), 1),
        "nobody looked"
    );
}

#[test]
fn columns_that_are_no_lists_are_refused() {
    let place = Place::new();
    place.write_columns(vec![("id", Arc::new(Int64Array::from(vec![1, 2])))]);
    let error = open(&place, &["id"], None).unwrap_err();
    let SnapshotError::WrongType { found, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(found, "int64");
    let error = open(&place, &["id.x"], None).unwrap_err();
    assert!(matches!(error, SnapshotError::NoColumn { .. }), "{error}");
}
