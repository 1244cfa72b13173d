//! What happens to a dataset after it was written: every version reads as Lance reads it.

use lance::dataset::NewColumnTransform;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use loaderd_snapshot::{Snapshot, SnapshotRequest, VersionRef};

use crate::common::*;

/// Two fragments of 100 rows, then another written by an append.
fn three_fragments(place: &Place) -> Vec<Value> {
    let values = values(0, 300, 4_000);
    place.write(&blob_batch(0, &values[..200], packed()), |params| {
        params.max_rows_per_file = 100;
    });
    place.write(&blob_batch(200, &values[200..], packed()), |_| {});
    values
}

#[test]
fn appended_fragments() {
    let place = Place::new();
    let values = three_fragments(&place);
    let snapshot = place.open();
    conform(&snapshot, 0, &values);
    assert_eq!(ids(&snapshot), (0..300).collect::<Vec<_>>());
    assert_eq!(snapshot.row_address(0), 0);
    assert_eq!(snapshot.row_address(150), 1 << 32 | 50);
    assert_eq!(snapshot.row_address(299), 2 << 32 | 99);
    assert_eq!(snapshot.row_id(299), 299);
    // A pack for each fragment, and the data file, where Lance keeps empty values.
    assert_eq!(snapshot.files().len(), 6);
}

#[test]
fn deletions_then_compaction() {
    let place = Place::new();
    let values = three_fragments(&place);
    let mut dataset = place.dataset();
    block_on(dataset.delete("id % 5 = 2 OR id BETWEEN 90 AND 120")).unwrap();
    let left: Vec<i64> = (0..300)
        .filter(|id| id % 5 != 2 && !(90..=120).contains(id))
        .collect();
    let expected: Vec<Value> = left.iter().map(|&id| values[id as usize].clone()).collect();

    let deleted = place.open();
    conform(&deleted, 0, &expected);
    assert_eq!(ids(&deleted), left);
    assert_eq!(deleted.rows_in_version(), left.len() as u64);

    block_on(compact_files(
        &mut dataset,
        CompactionOptions::default(),
        None,
    ))
    .unwrap();
    let compacted = place.open();
    assert!(compacted.version() > deleted.version());
    let ways = conform(&compacted, 0, &expected);
    assert!(ways.extent > 100, "{ways:?}");
    assert_eq!(ids(&compacted), left);
    let stable = |snapshot: &Snapshot| -> Vec<u64> {
        (0..snapshot.rows())
            .map(|index| snapshot.row_id(index))
            .collect()
    };
    assert_eq!(stable(&compacted), stable(&deleted));
    assert_ne!(compacted.selection_hash(), deleted.selection_hash());

    // The version before the compaction still reads from its own files.
    let before = Snapshot::open(SnapshotRequest {
        version: VersionRef::Number(deleted.version()),
        ..place.request()
    });
    conform(&before.unwrap(), 0, &expected);
}

#[test]
fn added_columns() {
    let place = Place::new();
    let values = three_fragments(&place);
    let mut dataset = place.dataset();
    let twice = NewColumnTransform::SqlExpressions(vec![("twice".into(), "id * 2".into())]);
    block_on(dataset.add_columns(twice, None, None)).unwrap();
    let snapshot = Snapshot::open(SnapshotRequest {
        fixed_columns: vec!["twice".into()],
        ..place.request()
    });
    let snapshot = snapshot.unwrap();
    conform(&snapshot, 0, &values);
    assert_eq!(
        ids(&snapshot),
        (0..300).map(|id| id * 2).collect::<Vec<_>>()
    );
}

#[test]
fn updated_rows() {
    let place = Place::new();
    let values = three_fragments(&place);
    let dataset = std::sync::Arc::new(place.dataset());
    let update = lance::dataset::UpdateBuilder::new(dataset)
        .update_where("id = 17")
        .unwrap()
        .set("id", "1000")
        .unwrap()
        .build()
        .unwrap();
    block_on(update.execute()).unwrap();
    let snapshot = place.open();
    let found = ids(&snapshot);
    let expected: Vec<Value> = found
        .iter()
        .map(|&id| values[if id == 1000 { 17 } else { id as usize }].clone())
        .collect();
    assert!(found.contains(&1000) && !found.contains(&17));
    conform(&snapshot, 0, &expected);
}
