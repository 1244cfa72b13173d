//! Filters, versions, tags, identity.

use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use loaderd_snapshot::{Snapshot, SnapshotError, SnapshotRequest, VersionRef};

use crate::common::*;

/// `id`, `image` and a string column `split`; every fourth row is for validation.
fn with_split(place: &Place) -> Vec<Value> {
    let values = values(0, 200, 2_000);
    let batch = blob_batch(0, &values, packed());
    let split: StringArray = (0..200)
        .map(|id| Some(if id % 4 == 0 { "val" } else { "train" }))
        .collect();
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("split", DataType::Utf8, true)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(split));
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    place.write(&batch, |params| params.max_rows_per_file = 64);
    values
}

fn check(place: &Place, values: &[Value], filter: &str, keep: impl Fn(i64) -> bool) {
    let snapshot = place.open_where(filter).unwrap();
    let expected: Vec<i64> = (0..200).filter(|&id| keep(id)).collect();
    assert_eq!(ids(&snapshot), expected, "{filter}");
    let values: Vec<Value> = expected
        .iter()
        .map(|&id| values[id as usize].clone())
        .collect();
    conform(&snapshot, 0, &values);
    assert_eq!(snapshot.rows_in_version(), 200);
}

#[test]
fn filters_over_any_columns() {
    let place = Place::new();
    let values = with_split(&place);
    check(&place, &values, "split = 'val'", |id| id % 4 == 0);
    check(&place, &values, "split = 'train' AND id < 100", |id| {
        id % 4 != 0 && id < 100
    });
    check(&place, &values, "id IN (3, 150, 64)", |id| {
        [3, 64, 150].contains(&id)
    });
    check(&place, &values, "split IS NOT NULL", |_| true);
    check(&place, &values, "  ", |_| true);
}

#[test]
fn an_index_changes_nothing() {
    let place = Place::new();
    let values = with_split(&place);
    let plain = place.open_where("id >= 40 AND id < 90").unwrap();
    let mut dataset = place.dataset();
    let parameters = ScalarIndexParams::default();
    block_on(dataset.create_index(&["id"], IndexType::BTree, None, &parameters, true)).unwrap();
    check(&place, &values, "id >= 40 AND id < 90", |id| {
        (40..90).contains(&id)
    });
    let indexed = place.open_where("id >= 40 AND id < 90").unwrap();
    assert_ne!(indexed.version(), plain.version());
    assert_eq!(indexed.selection_hash(), plain.selection_hash());
}

#[test]
fn filters_that_cannot_be() {
    let place = Place::new();
    with_split(&place);
    let error = place.open_where("split = 'tset'").unwrap_err();
    let SnapshotError::EmptySelection { filter, rows, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((filter.as_str(), *rows), ("split = 'tset'", 200));
    for filter in [
        "split = = 'val'",
        "nosuch = 3",
        "split +",
        "id = 'abc' AND nosuch(id)",
    ] {
        let error = place.open_where(filter).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, SnapshotError::BadFilter { .. }),
            "{filter}: {text}"
        );
        assert!(text.contains(filter) && !text.contains(".rs:"), "{text}");
    }
    // Nothing is left of a map that was begun.
    let left = std::fs::read_dir(place.request().cache_dir)
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn selections_are_told_apart() {
    let place = Place::new();
    with_split(&place);
    let hash = |filter: &str| {
        place
            .open_where(filter)
            .unwrap()
            .selection_hash()
            .to_owned()
    };
    assert_eq!(hash("id < 50"), hash("id <= 49"));
    assert_ne!(hash("id < 50"), hash("id < 51"));
}

#[test]
fn versions_and_tags() {
    let place = Place::new();
    let values = values(0, 60, 1_000);
    let dataset = place.write(&blob_batch(0, &values[..20], packed()), |_| {});
    block_on(dataset.tags().create("first", 1)).unwrap();
    place.write(&blob_batch(20, &values[20..40], packed()), |_| {});
    place.write(&blob_batch(40, &values[40..], packed()), |_| {});
    let open = |version| {
        Snapshot::open(SnapshotRequest {
            version,
            ..place.request()
        })
    };
    for (version, rows, number) in [
        (VersionRef::Latest, 60, 3),
        (VersionRef::Number(2), 40, 2),
        (VersionRef::Tag("first".into()), 20, 1),
    ] {
        let tag = match &version {
            VersionRef::Tag(tag) => Some(tag.clone()),
            _ => None,
        };
        let snapshot = open(version).unwrap();
        conform(&snapshot, 0, &values[..rows]);
        assert_eq!(snapshot.version(), number);
        assert_eq!(snapshot.tag(), tag.as_deref());
    }
    let error = open(VersionRef::Number(9)).unwrap_err();
    assert!(matches!(error, SnapshotError::NoVersion { .. }), "{error}");
    assert!(error.to_string().contains("versions 1–3"), "{error}");
    let error = open(VersionRef::Tag("frist".into())).unwrap_err();
    assert!(matches!(error, SnapshotError::NoTag { .. }), "{error}");
    assert!(error.to_string().contains("it has first"), "{error}");
}

#[test]
fn identity_follows_the_dataset() {
    let place = Place::new();
    let values = values(0, 50, 1_000);
    let batch = blob_batch(0, &values, packed());
    place.write(&batch, |_| {});
    let first = place.open().identity().to_owned();
    assert_eq!(place.open().identity(), first);

    // Moved: the same dataset, read from the new place with the old map.
    let moved = place.folder.path().join("moved.lance");
    std::fs::rename(&place.uri, &moved).unwrap();
    let request = SnapshotRequest {
        uri: format!("file://{}", moved.display()),
        ..place.request()
    };
    let snapshot = Snapshot::open(request).unwrap();
    assert_eq!(snapshot.identity(), first);
    assert_eq!(snapshot.uri(), moved.to_str().unwrap());
    conform(&snapshot, 0, &values);
    assert_eq!(
        std::fs::read_dir(place.request().cache_dir)
            .unwrap()
            .count(),
        1
    );

    // Another one where the first one was.
    place.write(&batch, |_| {});
    assert_ne!(place.open().identity(), first);
    conform(&place.open(), 0, &values);
}

#[test]
fn a_dataset_without_rows() {
    let place = Place::new();
    place.write(&blob_batch(0, &values(0, 5, 10), packed()), |_| {});
    block_on(place.dataset().delete("true")).unwrap();
    let error = Snapshot::open(place.request()).unwrap_err();
    assert!(
        matches!(error, SnapshotError::EmptyDataset { version: 2, .. }),
        "{error}"
    );
}

#[test]
fn only_row_addresses() {
    let place = Place::new();
    let ids = Int64Array::from_iter_values(0..10);
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids)]).unwrap();
    place.write(&batch, |_| {});
    let snapshot = Snapshot::open(SnapshotRequest {
        bytes_columns: Vec::new(),
        fixed_columns: Vec::new(),
        filter: Some("id >= 4".into()),
        ..place.request()
    });
    let snapshot = snapshot.unwrap();
    assert_eq!((snapshot.rows(), snapshot.row_address(0)), (6, 4));
    assert_eq!(snapshot.length_quantile(0.5), 0);
}
