//! Ingest of tables: images beside columns of any kind, appending, and what is refused.

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use loaderd_snapshot::{
    SnapshotError, TableOptions, TableReport, classes_key, dataset_rows, ingest_table,
};

use crate::common::*;

const CLASSES: &str = r#"["cat","dog"]"#;

/// Rows `first` to `first + count`: an image, a mask that may be null, an id, a name, a list.
fn batch(first: i64, count: i64, classes: &str) -> RecordBatch {
    let ids = first..first + count;
    let image = |id: i64| Some(payload(id % 10 + 1, 3_000));
    let mask = |id: i64| (id % 3 != 0).then(|| payload(id, 50));
    let images: BinaryArray = ids.clone().map(image).collect();
    let masks: BinaryArray = ids.clone().map(mask).collect();
    let names: StringArray = ids.clone().map(|id| Some(format!("row {id}"))).collect();
    let mut lists = ListBuilder::new(Float32Builder::new());
    for id in ids.clone() {
        lists.append_value((0..id % 4).map(|n| Some(n as f32)));
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", Arc::new(images)),
        ("mask", Arc::new(masks)),
        ("id", Arc::new(Int64Array::from_iter_values(ids))),
        ("name", Arc::new(names)),
        ("list", Arc::new(lists.finish())),
    ];
    let field = |(name, it): &(&str, ArrayRef)| Field::new(*name, it.data_type().clone(), true);
    let fields: Vec<Field> = columns.iter().map(field).collect();
    let metadata = [(classes_key("label"), classes.to_owned())];
    let schema = Schema::new_with_metadata(fields, metadata.into());
    let columns = columns.into_iter().map(|(_, it)| it).collect();
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn put(place: &Place, batches: Vec<RecordBatch>) -> Result<TableReport, SnapshotError> {
    let options = TableOptions {
        image_columns: vec!["image".into(), "mask".into()],
        rows_per_fragment: 6,
    };
    let schema = batches[0].schema();
    ingest_table(
        &place.uri,
        &schema,
        &mut batches.into_iter().map(Ok),
        &options,
    )
}

#[test]
fn columns_come_back_and_images_have_extents() {
    let place = Place::new();
    assert_eq!(dataset_rows(&place.uri).unwrap(), None);
    let report = put(&place, vec![batch(0, 5, CLASSES), batch(5, 4, CLASSES)]).unwrap();
    let expected = TableReport {
        version: 1,
        rows: 9,
        rows_total: 9,
        created: true,
    };
    assert_eq!(report, expected);
    let report = put(&place, vec![batch(9, 3, CLASSES)]).unwrap();
    assert_eq!(
        (report.version, report.rows_total, report.created),
        (2, 12, false)
    );
    assert_eq!(dataset_rows(&place.uri).unwrap(), Some(12));

    let snapshot = loaderd_snapshot::Snapshot::open(loaderd_snapshot::SnapshotRequest {
        bytes_columns: vec!["image".into(), "mask".into()],
        ..place.request()
    })
    .unwrap();
    assert_eq!(snapshot.row_address(11) >> 32, 2);
    assert_eq!(snapshot.classes("label").unwrap(), ["cat", "dog"]);
    let images: Vec<Value> = (0..12)
        .map(|id| Some(payload(id % 10 + 1, 3_000)))
        .collect();
    let ways = conform(&snapshot, 0, &images);
    assert_eq!((ways.extent, ways.slow), (13, 0));
    let masks: Vec<Value> = (0..12)
        .map(|id| (id % 3 != 0).then(|| payload(id, 50)))
        .collect();
    conform(&snapshot, 1, &masks);
    let found = Schema::from(place.dataset().schema());
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true)));
    assert_eq!(found.field_with_name("list").unwrap().data_type(), &list);
    assert_eq!(
        found.field_with_name("name").unwrap().data_type(),
        &DataType::Utf8
    );
}

#[test]
fn other_datasets_are_refused() {
    let place = Place::new();
    put(&place, vec![batch(0, 3, CLASSES)]).unwrap();
    let check = |batch: RecordBatch, expected: &str| {
        let error = put(&place, vec![batch]).unwrap_err();
        assert!(
            matches!(error, SnapshotError::IngestTarget { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(batch(3, 3, r#"["dog","cat"]"#), "loaderd.classes.label");
    let whole = batch(3, 3, CLASSES);
    check(
        whole.project(&[0, 1, 2, 3]).unwrap(),
        "its column \"list\" is not written here",
    );
    let narrow = whole.schema();
    let fields = narrow.fields().iter().cloned();
    let more = fields.chain([Arc::new(Field::new("more", DataType::Int64, true))]);
    let schema =
        Schema::new_with_metadata(more.collect::<Vec<_>>(), whole.schema().metadata().clone());
    let mut columns = whole.columns().to_vec();
    columns.push(columns[2].clone());
    let wider = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    check(wider, "it has no column \"more\"");
    let options = TableOptions {
        image_columns: vec!["image".into(), "mask".into()],
        rows_per_fragment: 6,
    };
    let none = &mut std::iter::empty();
    let error = ingest_table(&place.uri, &whole.schema(), none, &options).unwrap_err();
    assert!(matches!(error, SnapshotError::NoRows), "{error}");
}

#[test]
fn a_failed_ingest_makes_no_version() {
    let place = Place::new();
    let options = TableOptions {
        image_columns: vec!["image".into(), "mask".into()],
        rows_per_fragment: 100,
    };
    let first = batch(0, 50, CLASSES);
    let schema = first.schema();
    let failed = SnapshotError::Source {
        source: "the disk is on fire".into(),
    };
    let mut batches = [Ok(first), Err(failed)].into_iter();
    let error = ingest_table(&place.uri, &schema, &mut batches, &options).unwrap_err();
    assert!(error.to_string().contains("on fire"), "{error}");
    assert_eq!(dataset_rows(&place.uri).unwrap(), None);
}
