//! Dense columns: from the map where they are small, through Lance where they are wide.

use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, DurationNanosecondArray,
    FixedSizeListArray, Float16Array, Int64Array, Time32SecondArray, TimestampMicrosecondArray,
};
use arrow_schema::Field;
use half::f16;
use loaderd_snapshot::{
    ColumnRef, DType, FieldKind, FixedKind, Snapshot, SnapshotError, SnapshotRequest,
};

use crate::common::*;

const ROWS: usize = 500;

fn vectors(n: i32, null_at: Option<usize>) -> FixedSizeListArray {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), n);
    for row in 0..ROWS {
        for i in 0..n {
            builder
                .values()
                .append_value(row as f32 + i as f32 / 1000.0);
        }
        builder.append(Some(row) != null_at);
    }
    builder.finish()
}

fn open(place: &Place, columns: &[&str], filter: Option<&str>) -> Result<Snapshot, SnapshotError> {
    Snapshot::open(SnapshotRequest {
        bytes_columns: Vec::new(),
        fixed_columns: columns.iter().map(|&name| name.into()).collect(),
        filter: filter.map(Into::into),
        ..place.request()
    })
}

fn le<const N: usize>(values: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    values.flatten().collect()
}

#[test]
fn small_columns_are_in_the_map_and_wide_ones_are_read() {
    let place = Place::new();
    let halves = Float16Array::from_iter_values((0..ROWS).map(|i| f16::from_f32(i as f32)));
    let bits: BooleanArray = (0..ROWS).map(|i| Some(i % 3 == 0)).collect();
    let pairs = vectors(2, None);
    let item = Field::new("item", pairs.data_type().clone(), true);
    let nested = FixedSizeListArray::new(Arc::new(item), 1, Arc::new(pairs.clone()), None);
    place.write_columns(vec![
        ("half", Arc::new(halves)),
        ("bit", Arc::new(bits)),
        ("nested", Arc::new(nested)),
        ("wide", Arc::new(vectors(300, None))),
    ]);
    let columns = ["half", "bit", "nested", "wide"];
    let snapshot = open(&place, &columns, Some("half >= 100")).unwrap();
    let kind = |dtype, shape: &[usize]| FixedKind {
        dtype,
        shape: shape.to_vec(),
    };
    let kinds = [
        kind(DType::Float16, &[]),
        kind(DType::Bool, &[]),
        kind(DType::Float32, &[1, 2]),
        kind(DType::Float32, &[300]),
    ];
    let fields = Snapshot::schema(&place.uri, &place.request().version).unwrap();
    for (column, kind) in kinds.iter().enumerate() {
        assert_eq!(snapshot.fixed_kind(column), kind);
        assert_eq!(fields[column].kind, FieldKind::Fixed(kind.clone()));
    }
    let number = |i: u64, j: u64| (i as f32 + j as f32 / 1000.0).to_le_bytes();
    let row = |column: usize, i: u64| match column {
        0 => f16::from_f32(i as f32).to_le_bytes().to_vec(),
        1 => vec![u8::from(i.is_multiple_of(3))],
        2 => le((0..2).map(|j| number(i, j))),
        _ => le((0..300).map(|j| number(i, j))),
    };
    for column in 0..4 {
        let indices = [399_u64, 0, 17, 17, 250];
        for index in indices {
            let expected = (column < 3).then(|| row(column, index + 100));
            assert_eq!(snapshot.fixed(column, index).map(<[u8]>::to_vec), expected);
        }
        let mut out = vec![0; indices.len() * kinds[column].row_bytes()];
        snapshot
            .read_fixed_slow(column, &indices, &mut out)
            .unwrap();
        let expected: Vec<u8> = indices.iter().flat_map(|i| row(column, i + 100)).collect();
        assert_eq!(out, expected, "{}", columns[column]);
    }
}

#[test]
fn nulls_are_told_from_zeros() {
    let place = Place::new();
    let numbers: Int64Array = (0..ROWS as i64)
        .map(|i| (i % 100 != 7).then_some(i))
        .collect();
    let bits: BooleanArray = (0..ROWS).map(|i| (i != 499).then_some(true)).collect();
    place.write_columns(vec![
        ("number", Arc::new(numbers)),
        ("bit", Arc::new(bits)),
        ("vector", Arc::new(vectors(4, Some(33)))),
        ("wide", Arc::new(vectors(300, Some(444)))),
        ("id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
    ]);
    let nan: Vec<u8> = le((0..300).map(|_| f32::NAN.to_le_bytes()));
    let cases: [(&str, &[u64], &[u8]); 5] = [
        ("number", &[7, 107, 207, 307, 407], &[0; 8]),
        ("bit", &[499], &[0]),
        ("vector", &[33], &nan[..16]),
        ("wide", &[444], &nan),
        ("id", &[], &[]),
    ];
    for (name, nulls, null) in cases {
        let snapshot = open(&place, &[name], None).unwrap();
        assert_eq!(snapshot.fixed_nulls(0), nulls.len() as u64, "{name}");
        for row in 0..ROWS as u64 {
            let is_valid = snapshot.is_valid(ColumnRef::Fixed(0), row);
            assert_eq!(is_valid, !nulls.contains(&row), "{name} of {row}");
            let mut slow = vec![0; snapshot.fixed_kind(0).row_bytes()];
            snapshot.read_fixed_slow(0, &[row], &mut slow).unwrap();
            if let Some(fast) = snapshot.fixed(0, row) {
                assert_eq!(slow, fast, "{name} of {row}");
            }
            if !is_valid {
                assert_eq!(slow, null, "{name} of {row}");
            }
        }
        if !nulls.is_empty() {
            let filter = format!("{name} IS NOT NULL");
            let snapshot = open(&place, &[name], Some(&filter)).unwrap();
            assert_eq!(snapshot.rows(), (ROWS - nulls.len()) as u64);
            assert_eq!(snapshot.fixed_nulls(0), 0);
        }
    }
}

#[test]
fn times_are_counts_of_their_unit() {
    let place = Place::new();
    let each = || 0..ROWS as i64;
    let zoned = TimestampMicrosecondArray::from_iter_values(each()).with_timezone("+02:00");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("stamp", Arc::new(zoned)),
        (
            "date",
            Arc::new(Date32Array::from_iter_values(0..ROWS as i32)),
        ),
        (
            "time",
            Arc::new(Time32SecondArray::from_iter_values(0..ROWS as i32)),
        ),
        (
            "span",
            Arc::new(DurationNanosecondArray::from_iter_values(each())),
        ),
    ];
    place.write_columns(columns);
    let snapshot = open(&place, &["stamp", "date", "time", "span"], None).unwrap();
    let number = 123_u8;
    for (column, dtype) in [DType::Int64, DType::Int32, DType::Int32, DType::Int64]
        .into_iter()
        .enumerate()
    {
        assert_eq!(snapshot.fixed_kind(column).dtype, dtype);
        let mut expected = vec![0; dtype.itemsize()];
        expected[0] = number;
        let found = snapshot.fixed(column, u64::from(number));
        assert_eq!(found, Some(expected.as_slice()), "{column}");
    }
}

#[test]
fn a_column_named_twice() {
    let place = Place::new();
    place.write_columns(vec![(
        "id",
        Arc::new(Int64Array::from_iter_values(0..ROWS as i64)),
    )]);
    let snapshot = open(&place, &["id", "id"], None).unwrap();
    assert_eq!(snapshot.fixed(0, 7), snapshot.fixed(1, 7));
}

#[test]
fn other_columns_are_refused_with_their_type() {
    let place = Place::new();
    let names = arrow_array::StringArray::from_iter_values((0..ROWS).map(|i| i.to_string()));
    let prices = Decimal128Array::from_iter_values(0..ROWS as i128);
    let arrow_type = prices.data_type().to_string();
    place.write_columns(vec![("name", Arc::new(names)), ("price", Arc::new(prices))]);
    for (name, kind) in [("name", "text"), ("price", arrow_type.as_str())] {
        let error = open(&place, &[name], None).unwrap_err();
        let SnapshotError::WrongType { column, found, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((column.as_str(), found.as_str()), (name, kind));
    }
    let fields = Snapshot::schema(&place.uri, &place.request().version).unwrap();
    assert_eq!(fields[1].kind, FieldKind::Other { arrow_type });
}
