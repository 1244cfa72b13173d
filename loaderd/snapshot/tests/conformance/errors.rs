//! What is missing is named, with what there is instead.

use std::fs::OpenOptions;

use loaderd_snapshot::{Snapshot, SnapshotError, SnapshotRequest, VersionRef};

use crate::common::*;

#[test]
fn no_dataset() {
    let place = Place::new();
    let refused = |uri: &str| {
        let error = Snapshot::schema(uri, &VersionRef::Latest).unwrap_err();
        assert!(matches!(error, SnapshotError::NoDataset { .. }), "{error}");
        let opened = Snapshot::open(SnapshotRequest {
            uri: uri.into(),
            ..place.request()
        });
        assert_eq!(opened.unwrap_err().to_string(), error.to_string());
        error.to_string()
    };
    let text = refused(&place.uri);
    assert!(text.contains("no such file"), "{text}");
    let text = refused(place.folder.path().to_str().unwrap());
    assert!(text.contains("no _versions"), "{text}");
    let file = place.folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let since = std::time::Instant::now();
    let text = refused(file.to_str().unwrap());
    assert!(text.contains("is a file"), "{text}");
    // Lance, asked for it, tries for two seconds and more.
    assert!(since.elapsed().as_millis() < 1000, "{:?}", since.elapsed());
    // Looking for a dataset makes none.
    assert!(!std::path::Path::new(&place.uri).exists());
}

#[test]
fn no_column() {
    let place = Place::new();
    place.write(&blob_batch(0, &values(0, 10, 100), packed()), |_| {});
    let open = |bytes: &str, fixed: &str| {
        Snapshot::open(SnapshotRequest {
            bytes_columns: vec![bytes.into()],
            fixed_columns: vec![fixed.into()],
            ..place.request()
        })
        .unwrap_err()
    };
    let error = open("imgae", "id");
    assert!(matches!(error, SnapshotError::NoColumn { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("did you mean \"image\"?"), "{text}");
    assert!(text.contains("its columns are id, image"), "{text}");
    let error = open("image", "caption");
    assert!(!error.to_string().contains("did you mean"), "{error}");
    for error in [open("id", "id"), open("image", "image")] {
        assert!(matches!(error, SnapshotError::WrongType { .. }), "{error}");
    }
}

#[test]
fn a_filter_without_its_column() {
    let place = Place::new();
    place.write(&blob_batch(0, &values(0, 10, 100), packed()), |_| {});
    for (filter, expected) in [
        (
            "imgae IS NULL",
            "no column \"imgae\" (did you mean \"image\"?): its columns are id, image",
        ),
        (
            "caption = 'x'",
            "no column \"caption\": its columns are id, image",
        ),
        ("`the id` = 3", "no column \"the id\""),
    ] {
        let error = Snapshot::open(SnapshotRequest {
            filter: Some(filter.into()),
            ..place.request()
        })
        .unwrap_err();
        assert!(matches!(error, SnapshotError::BadFilter { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn object_stores() {
    let place = Place::new();
    let request = SnapshotRequest {
        uri: "s3://bucket/data.lance".into(),
        ..place.request()
    };
    let error = Snapshot::open(request).unwrap_err();
    assert!(
        matches!(error, SnapshotError::UnsupportedScheme { .. }),
        "{error}"
    );
}

#[test]
fn an_incomplete_copy() {
    let place = Place::new();
    let values = values(1, 50, 2_000);
    place.write(&blob_batch(1, &values, packed()), |_| {});
    let path = place.open().files().path(0).to_owned();
    let size = std::fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(size - 1).unwrap();
    let error = Snapshot::open(place.request()).unwrap_err();
    let SnapshotError::DataFileShort {
        path: named,
        expected,
        found,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((named, *expected, *found), (&path, size, size - 1));
    std::fs::remove_file(&path).unwrap();
    let error = Snapshot::open(place.request()).unwrap_err();
    assert!(matches!(error, SnapshotError::DataFiles { .. }), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}
