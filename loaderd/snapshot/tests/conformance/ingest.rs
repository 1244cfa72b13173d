//! Ingest: layout, classes, appending, and what must not leave a version.

use loaderd_snapshot::{
    BytesLayout, DType, FieldKind, FixedKind, IngestOptions, IngestReport, IngestRow, Payload,
    Snapshot, SnapshotError, SnapshotRequest, VersionRef, classes_key, ingest,
};

use crate::common::*;

fn options(classes: &[&str]) -> IngestOptions {
    IngestOptions {
        classes: classes.iter().map(|&class| class.into()).collect(),
        ..IngestOptions::default()
    }
}

/// Images 0 to `classes.len()`, of these classes.
fn put(
    place: &Place,
    first: i64,
    classes: &[&str],
    options: &IngestOptions,
) -> Result<IngestReport, SnapshotError> {
    let rows = classes.iter().zip(first..);
    let mut rows = rows.map(|(class, id)| {
        Ok(IngestRow {
            image: payload(id, 3_000),
            class: (*class).into(),
        })
    });
    ingest(&place.uri, &mut rows, options)
}

fn open(place: &Place) -> Snapshot {
    Snapshot::open(SnapshotRequest {
        fixed_columns: vec!["label".into()],
        ..place.request()
    })
    .unwrap()
}

#[test]
fn classes_are_numbered_once() {
    let place = Place::new();
    let report = put(&place, 1, &["dog", "cat", "dog"], &options(&["cat", "dog"])).unwrap();
    assert_eq!(
        report,
        IngestReport {
            version: 1,
            rows: 3,
            rows_total: 3,
            classes: vec!["cat".into(), "dog".into()],
            created: true,
        }
    );
    // A class that sorts before the others, and one that is there already.
    let report = put(
        &place,
        4,
        &["ant", "dog", "bee"],
        &options(&["ant", "bee", "dog"]),
    )
    .unwrap();
    let classes = ["cat", "dog", "ant", "bee"].map(String::from).to_vec();
    assert_eq!((report.version, report.rows, report.rows_total), (2, 3, 6));
    assert_eq!((&report.classes, report.created), (&classes, false));
    // Only classes that are there: also one version.
    let report = put(&place, 7, &["cat"], &options(&["cat"])).unwrap();
    assert_eq!(
        (report.version, report.rows_total, &report.classes),
        (3, 7, &classes)
    );

    let snapshot = open(&place);
    assert_eq!(snapshot.classes("label"), Some(classes));
    assert_eq!(snapshot.classes("image"), None);
    assert!(snapshot.metadata().contains_key(&classes_key("label")));
    assert_eq!(ids(&snapshot), [1, 0, 1, 2, 1, 3, 0]);
    let images: Vec<Value> = (1..8).map(|id| Some(payload(id, 3_000))).collect();
    let ways = conform(&snapshot, 0, &images);
    assert_eq!(
        ways,
        Ways {
            extent: 8,
            ..Ways::default()
        }
    );
    let rows: Vec<u64> = (0..7).map(|index| snapshot.row_id(index)).collect();
    assert_eq!(rows, [0, 1, 2, 3, 4, 5, 6]);
    assert!(place.dataset().manifest().uses_stable_row_ids());

    // The first version still has its own classes.
    let version = VersionRef::Number(1);
    let first = Snapshot::open(SnapshotRequest {
        version,
        ..place.request_for_labels()
    })
    .unwrap();
    assert_eq!(first.classes("label").unwrap().len(), 2);
}

impl Place {
    fn request_for_labels(&self) -> SnapshotRequest {
        SnapshotRequest {
            fixed_columns: vec!["label".into()],
            ..self.request()
        }
    }
}

#[test]
fn the_layout_is_the_one_that_reads_fastest() {
    let place = Place::new();
    let options = IngestOptions {
        rows_per_fragment: 1_000,
        ..options(&["a"])
    };
    // More than one batch and more than one fragment; one image is larger than Lance's limit for
    // dedicated files, one smaller than its limit for inline values.
    let sizes = (0..2_500).map(|i| if i == 7 { 5 << 20 } else { 100 + i });
    let mut rows = sizes.clone().map(|size| {
        Ok(IngestRow {
            image: vec![size as u8; size],
            class: "a".into(),
        })
    });
    let report = ingest(&place.uri, &mut rows, &options).unwrap();
    assert_eq!(report.rows, 2_500);
    let snapshot = open(&place);
    assert_eq!(snapshot.row_address(2_499) >> 32, 2);
    for (index, size) in sizes.enumerate() {
        let Payload::Extent(extent) = snapshot.payload(0, index as u64) else {
            panic!("row {index} has no extent")
        };
        assert_eq!(extent.length as usize, size);
    }
    let fields = Snapshot::schema(&place.uri, &VersionRef::Latest).unwrap();
    let label = FixedKind {
        dtype: DType::Int64,
        shape: Vec::new(),
    };
    assert_eq!(fields[0].kind, FieldKind::Bytes(BytesLayout::BlobV2));
    assert_eq!(fields[1].kind, FieldKind::Fixed(label));
}

#[test]
fn a_failed_ingest_makes_no_version() {
    let place = Place::new();
    let error = put(&place, 0, &["cat", "dgo"], &options(&["cat", "dog"])).unwrap_err();
    assert!(
        matches!(&error, SnapshotError::UnknownClass { class } if class == "dgo"),
        "{error}"
    );
    let error = put(&place, 0, &[], &options(&["cat"])).unwrap_err();
    assert!(matches!(error, SnapshotError::NoRows), "{error}");
    let failing = |after: usize| {
        let mut rows = (0..=after).map(|i| {
            if i < after {
                return Ok(IngestRow {
                    image: vec![0; 1_000],
                    class: "cat".into(),
                });
            }
            Err(SnapshotError::Source {
                source: "the disk is on fire".into(),
            })
        });
        ingest(&place.uri, &mut rows, &options(&["cat"])).unwrap_err()
    };
    // In the first batch, and after several were handed to the writer.
    for after in [3, 5_000] {
        let error = failing(after);
        assert!(matches!(error, SnapshotError::Source { .. }), "{error}");
        let error = Snapshot::schema(&place.uri, &VersionRef::Latest).unwrap_err();
        assert!(matches!(error, SnapshotError::NoDataset { .. }), "{error}");
    }
    put(&place, 0, &["cat"], &options(&["cat"])).unwrap();
    failing(5_000);
    assert_eq!(open(&place).version(), 1);
}

#[test]
fn other_datasets_are_not_appended_to() {
    let place = Place::new();
    place.write(&blob_batch(0, &values(0, 5, 10), packed()), |_| {});
    let error = put(&place, 0, &["cat"], &options(&["cat"])).unwrap_err();
    assert!(
        matches!(error, SnapshotError::IngestTarget { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("no column \"label\""), "{error}");
    let by_id = IngestOptions {
        label_column: "id".into(),
        ..options(&["cat"])
    };
    let error = put(&place, 0, &["cat"], &by_id).unwrap_err();
    assert!(error.to_string().contains("no list of classes"), "{error}");
    let swapped = IngestOptions {
        image_column: "id".into(),
        ..options(&["cat"])
    };
    let error = put(&place, 0, &["cat"], &swapped).unwrap_err();
    assert!(error.to_string().contains("\"id\" is int64"), "{error}");
}

#[test]
fn of_two_that_make_a_dataset_one_is_told() {
    let place = Place::new();
    let mut rows = std::iter::once_with(|| {
        put(&place, 9, &["cat"], &options(&["cat"])).unwrap();
        Ok(IngestRow {
            image: vec![1; 100],
            class: "cat".into(),
        })
    });
    let error = ingest(&place.uri, &mut rows, &options(&["cat"])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("made it just now): run the ingest again"),
        "{text}"
    );
    assert_eq!(ids(&open(&place)), [0]);
}

#[test]
fn appending_behind_somebody_elses_append() {
    let place = Place::new();
    put(&place, 0, &["cat"], &options(&["cat"])).unwrap();
    // While rows are read, another ingest commits: first rows only, then a class of its own.
    let during = |class: &'static str, other: &'static str| {
        let mut rows = std::iter::once_with(|| {
            put(&place, 9, &[other], &options(&[other])).unwrap();
            Ok(IngestRow {
                image: vec![1; 100],
                class: class.into(),
            })
        });
        ingest(&place.uri, &mut rows, &options(&[class]))
    };
    let report = during("dog", "cat").unwrap();
    assert_eq!((report.version, report.rows_total), (3, 3));
    assert_eq!(open(&place).classes("label").unwrap(), ["cat", "dog"]);
    let error = during("emu", "fox").unwrap_err();
    assert!(
        matches!(error, SnapshotError::IngestConflict { .. }),
        "{error}"
    );
    let snapshot = open(&place);
    assert_eq!(snapshot.classes("label").unwrap(), ["cat", "dog", "fox"]);
    assert_eq!(ids(&snapshot), [0, 0, 1, 2]);
}
