//! The rows of the matrix: what each column holds in the row of an `id`, as Lance is given it and
//! as a snapshot must return it.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Float32Builder, Int16Builder, ListBuilder, StringBuilder, StructBuilder,
};
use arrow_array::{
    ArrayRef, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{DataType, Field, Fields, Schema};
use loaderd_snapshot::{ColumnRef, Snapshot, SnapshotRequest, Variable, decode_value};

use crate::common::*;

/// Columns beside the image.
pub(crate) const FIXED: [&str; 4] = ["id", "score", "count", "meta.rank"];
pub(crate) const VARIABLE: [&str; 6] = [
    "text",
    "tags",
    "boxes",
    "meta.place",
    "objects.name",
    "objects.parts",
];

/// The lists of a value; none where it is null.
type Lists = Option<Vec<Vec<u8>>>;

fn text(id: i64) -> Option<String> {
    match id {
        _ if id % 5 == 1 => None,
        _ if id % 9 == 0 => Some(String::new()),
        _ => Some(format!("rów {id}")),
    }
}

fn tags(id: i64) -> Option<Vec<Option<String>>> {
    let tag = |i| ((id + i) % 7 != 3).then(|| format!("t{i}"));
    (id % 6 != 2).then(|| (0..id % 4).map(tag).collect())
}

fn boxes(id: i64) -> Option<Vec<[f32; 4]>> {
    let one = |i: i64| [i as f32, id as f32 / 3.0, -1.0, 0.25];
    (id % 8 != 3).then(|| (0..id % 3).map(one).collect())
}

fn score(id: i64) -> Option<f32> {
    (id % 4 != 1).then_some(id as f32 / 7.0)
}

fn count(id: i64) -> Option<i32> {
    (id % 10 != 7).then_some(-(id as i32))
}

/// Name and parts of each object.
fn objects(id: i64) -> Vec<(String, Vec<i16>)> {
    let parts = |i: i64| (0..=i).map(|part| (part * id) as i16).collect();
    (0..id % 3)
        .map(|i| (format!("o{id}.{i}"), parts(i)))
        .collect()
}

fn le<const N: usize>(numbers: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    numbers.flatten().collect()
}

/// What variable column `column` holds in row `id`.
fn lists(column: &str, id: i64) -> Lists {
    match column {
        "text" => Some(vec![text(id)?.into_bytes()]),
        "tags" => {
            let tags = tags(id)?.into_iter();
            Some(tags.map(|tag| tag.unwrap_or_default().into()).collect())
        }
        "boxes" => {
            let numbers = boxes(id)?.into_iter().flatten();
            Some(vec![le(numbers.map(f32::to_le_bytes))])
        }
        "meta.place" => Some(vec![format!("place {id}").into_bytes()]),
        // Text in a list, and so two levels.
        "objects.name" => {
            let objects = objects(id).into_iter();
            Some(objects.map(|(name, _)| name.into_bytes()).collect())
        }
        "objects.parts" => {
            let objects = objects(id).into_iter();
            let parts = objects.map(|(_, parts)| le(parts.into_iter().map(i16::to_le_bytes)));
            Some(parts.collect())
        }
        _ => panic!("{column}"),
    }
}

/// What fixed column `column` holds in row `id`, and whether it is valid.
fn number(column: &str, id: i64) -> (Vec<u8>, bool) {
    match column {
        "id" => (id.to_le_bytes().into(), true),
        "score" => {
            let score = score(id);
            let bytes = score.unwrap_or(f32::NAN).to_le_bytes();
            (bytes.into(), score.is_some())
        }
        "count" => {
            let count = count(id);
            (count.unwrap_or(0).to_le_bytes().into(), count.is_some())
        }
        "twice" => ((id * 2).to_le_bytes().into(), true),
        "meta.rank" => ((id * 3).to_le_bytes().into(), true),
        _ => panic!("{column}"),
    }
}

/// Rows `ids` with an image column.
pub(crate) fn rows(ids: &[i64], image: Field, images: ArrayRef) -> RecordBatch {
    let mut tag_lists = ListBuilder::new(StringBuilder::new());
    let mut box_lists = ListBuilder::new(FixedSizeListBuilder::new(Float32Builder::new(), 4));
    let part_lists = ListBuilder::new(Int16Builder::new());
    let object = Fields::from(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("parts", DataType::new_list(DataType::Int16, true), true),
    ]);
    let builders: Vec<Box<dyn arrow_array::builder::ArrayBuilder>> =
        vec![Box::new(StringBuilder::new()), Box::new(part_lists)];
    let mut object_lists = ListBuilder::new(StructBuilder::new(object, builders));
    for &id in ids {
        match tags(id) {
            Some(tags) => tag_lists.append_value(tags),
            None => tag_lists.append_null(),
        }
        let boxes = boxes(id);
        for one in boxes.iter().flatten() {
            box_lists.values().values().append_slice(one);
            box_lists.values().append(true);
        }
        box_lists.append(boxes.is_some());
        for (name, parts) in objects(id) {
            let object = object_lists.values();
            let names = object.field_builder::<StringBuilder>(0).unwrap();
            names.append_value(name);
            let lists = object.field_builder::<ListBuilder<Int16Builder>>(1);
            lists.unwrap().append_value(parts.into_iter().map(Some));
            object.append(true);
        }
        object_lists.append(true);
    }
    let each = || ids.iter().copied();
    let places: ArrayRef = Arc::new(StringArray::from_iter_values(
        each().map(|id| format!("place {id}")),
    ));
    let ranks: ArrayRef = Arc::new(Int64Array::from_iter_values(each().map(|id| id * 3)));
    let meta = StructArray::from(vec![
        (Arc::new(Field::new("place", DataType::Utf8, true)), places),
        (Arc::new(Field::new("rank", DataType::Int64, true)), ranks),
    ]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(each()))),
        (
            "score",
            Arc::new(each().map(score).collect::<Float32Array>()),
        ),
        ("count", Arc::new(each().map(count).collect::<Int32Array>())),
        ("text", Arc::new(each().map(text).collect::<StringArray>())),
        ("tags", Arc::new(tag_lists.finish())),
        ("boxes", Arc::new(box_lists.finish())),
        ("meta", Arc::new(meta)),
        ("objects", Arc::new(object_lists.finish())),
    ];
    let mut fields = vec![image];
    let mut arrays = vec![images];
    for (name, array) in columns {
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// Opens all columns.
pub(crate) fn open(place: &Place, fixed: &[&str]) -> Snapshot {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Snapshot::open(SnapshotRequest {
        fixed_columns: names(fixed),
        variable_columns: names(&VARIABLE),
        ..place.request()
    })
    .unwrap()
}

/// Compares every row of all columns in the map with Lance's answer.
pub(crate) fn conform_to_lance(snapshot: &Snapshot, fixed: &[&str]) {
    let rows: Vec<u64> = (0..snapshot.rows()).collect();
    for (column, name) in fixed.iter().enumerate() {
        let width = snapshot.fixed_kind(column).row_bytes();
        let mut slow = vec![0; rows.len() * width];
        snapshot.read_fixed_slow(column, &rows, &mut slow).unwrap();
        for (row, slow) in rows.iter().zip(slow.chunks(width)) {
            assert_eq!(
                snapshot.fixed(column, *row),
                Some(slow),
                "{name}, row {row}"
            );
        }
    }
    for (column, name) in VARIABLE.iter().enumerate() {
        let slow = snapshot.read_variable_slow(column, &rows).unwrap();
        let mut longest = 0;
        for (row, slow) in rows.iter().zip(slow) {
            let slow = slow.as_deref();
            let expected = slow.map_or(Variable::Null, Variable::Value);
            assert_eq!(
                snapshot.variable(column, *row),
                expected,
                "{name}, row {row}"
            );
            longest = longest.max(slow.map_or(0, <[u8]>::len));
        }
        assert_eq!(snapshot.variable_quantile(column, 1.0) as usize, longest);
    }
    snapshot.check().unwrap();
}

/// Compares every row of all columns in the map with the model.
pub(crate) fn conform_to_model(snapshot: &Snapshot, fixed: &[&str]) {
    let ids = ids(snapshot);
    for (column, name) in fixed.iter().enumerate() {
        let mut nulls = 0;
        for (row, id) in (0..).zip(&ids) {
            let (expected, is_valid) = number(name, *id);
            let found = snapshot.fixed(column, row);
            assert_eq!(found, Some(expected.as_slice()), "{name} of {id}");
            let found = snapshot.is_valid(ColumnRef::Fixed(column), row);
            assert_eq!(found, is_valid, "{name} of {id}");
            nulls += u64::from(!is_valid);
        }
        assert_eq!(snapshot.fixed_nulls(column), nulls, "{name}");
    }
    for (column, name) in VARIABLE.iter().enumerate() {
        let kind = snapshot.variable_kind(column);
        for (row, id) in (0..).zip(&ids) {
            let found = match snapshot.variable(column, row) {
                Variable::Value(value) => decode_value(kind, value),
                Variable::Null => None,
                Variable::Slow => panic!("{name} of {id} is not in the map"),
            };
            let found = found.map(|lists| lists.into_iter().map(<[u8]>::to_vec).collect());
            assert_eq!(found, lists(name, *id), "{name} of {id}");
            let is_valid = snapshot.is_valid(ColumnRef::Variable(column), row);
            assert_eq!(is_valid, found.is_some(), "{name} of {id}");
        }
    }
}
