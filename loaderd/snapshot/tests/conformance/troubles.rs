//! What happens to files under a snapshot that is open, or about to be: bytes that are right, or an
//! error that names the thing.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::LargeBinaryArray;
use arrow_schema::{DataType, Field};
use lance::BlobFieldOptions;
use loaderd_snapshot::{
    Payload, Protect, Protection, Snapshot, SnapshotError, SnapshotRequest, VersionRef,
};

use crate::common::*;

/// Values that are neither null nor empty, in one pack.
fn written() -> (Place, Vec<Value>) {
    let place = Place::new();
    let values: Vec<Value> = (0..60).map(|id| Some(payload(id * 11 + 1, 900))).collect();
    let values = values
        .into_iter()
        .map(|value| value.map(|bytes| [&[1], bytes.as_slice()].concat()))
        .collect::<Vec<_>>();
    place.write(&blob_batch(0, &values, packed()), |_| {});
    (place, values)
}

/// Every payload, by place.
fn fast(snapshot: &Snapshot) -> Vec<Value> {
    let mut reader = ExtentReader::new(snapshot);
    let row = |index| match snapshot.payload(0, index) {
        Payload::Extent(extent) => Some(reader.read(extent).unwrap()),
        other => panic!("{other:?}"),
    };
    (0..snapshot.rows()).map(row).collect()
}

/// The data files of a dataset, those of blobs among them.
fn data_files(place: &Place) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(&place.uri).join("data")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

/// Deletes every row and version but the last, and the files of all others.
fn rewrite_and_clean_up(place: &Place) {
    block_on(place.dataset().delete("true")).unwrap();
    place.write(&blob_batch(900, &[Some(vec![7; 50])], packed()), |_| {});
    place.clean_up();
}

#[test]
fn a_version_cleaned_up_while_it_is_read() {
    let (place, values) = written();
    let snapshot = place.open();
    let known = data_files(&place);
    rewrite_and_clean_up(&place);
    assert!(known.iter().all(|path| !path.exists()), "{known:?}");
    // Its files are held open, and its page map is its own.
    assert_eq!(fast(&snapshot), values);
    assert_eq!(ids(&snapshot), (0..60).collect::<Vec<_>>());
    // What goes through Lance is gone.
    let error = snapshot.read_slow(0, &[3]).unwrap_err();
    assert!(matches!(error, SnapshotError::Lance { .. }), "{error}");
    assert!(error.to_string().contains("ot found"), "{error}");
    let again = Snapshot::open(SnapshotRequest {
        version: VersionRef::Number(1),
        ..place.request()
    });
    let error = again.unwrap_err();
    assert!(matches!(error, SnapshotError::NoVersion { .. }), "{error}");
}

#[test]
fn a_protected_version_survives_the_clean_up() {
    let (place, values) = written();
    let snapshot = Snapshot::open(SnapshotRequest {
        protect: Protect::Run,
        ..place.request()
    });
    let snapshot = snapshot.unwrap();
    rewrite_and_clean_up(&place);
    conform(&snapshot, 0, &values);
    assert_eq!(fast(&snapshot), values);
}

#[test]
fn a_dataset_that_cannot_be_written_to() {
    let (place, values) = written();
    let set = |mode: u32| {
        for folder in ["", "data", "_versions", "_transactions"] {
            let path = Path::new(&place.uri).join(folder);
            if path.exists() {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    };
    set(0o555);
    let snapshot = Snapshot::open(SnapshotRequest {
        protect: Protect::Run,
        ..place.request()
    });
    let snapshot = snapshot.unwrap();
    conform(&snapshot, 0, &values);
    // Permissions don't bind root, who gets a tag.
    let is_root = rustix::process::geteuid().is_root();
    match snapshot.protection() {
        Protection::Refused(reason) => assert!(!is_root && !reason.is_empty()),
        Protection::Tag(_) => assert!(is_root),
        Protection::Off => panic!("it was asked for"),
    }
    drop(snapshot);
    set(0o755);
}

#[test]
fn files_that_vanish() {
    let (place, values) = written();
    let open = place.open();
    for path in data_files(&place) {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(fast(&open), values);
    let error = open.read_slow(0, &[3]).unwrap_err();
    assert!(matches!(error, SnapshotError::Lance { .. }), "{error}");
    // Its page map is still there, so the next one fails at the files themselves.
    let pack = open.files().path(0).to_owned();
    let error = Snapshot::open(place.request()).unwrap_err();
    assert!(matches!(error, SnapshotError::DataFiles { .. }), "{error}");
    assert!(
        error.to_string().contains(pack.to_str().unwrap()),
        "{error}"
    );
    // And without it, when Lance scans.
    fs::remove_dir_all(place.request().cache_dir).unwrap();
    let error = Snapshot::open(place.request()).unwrap_err();
    assert!(matches!(error, SnapshotError::Lance { .. }), "{error}");
    assert!(error.to_string().contains(".lance"), "{error}");
}

#[test]
fn a_folder_in_place_of_a_file() {
    let (place, _) = written();
    let pack = place.open().files().path(0).to_owned();
    fs::remove_file(&pack).unwrap();
    fs::create_dir(&pack).unwrap();
    let error = Snapshot::open(place.request()).unwrap_err();
    assert!(matches!(error, SnapshotError::DataFiles { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("not a regular file"), "{text}");
    assert!(text.contains(pack.to_str().unwrap()), "{text}");
}

#[test]
fn a_file_that_shrinks_under_an_open_snapshot() {
    let values: Vec<Value> = (0..60).map(|id| Some(vec![id as u8; 2_000])).collect();
    let plain = Arc::new(LargeBinaryArray::from_iter(values.clone()));
    let plain = batch(0, Field::new("image", DataType::LargeBinary, true), plain);
    let inline = blob_batch(0, &values, BlobFieldOptions::default());
    let packed = blob_batch(0, &values, packed());
    for (name, batch) in [("plain", plain), ("inline", inline), ("packed", packed)] {
        let place = Place::new();
        place.write(&batch, |_| {});
        let snapshot = place.open();
        conform(&snapshot, 0, &values);
        let largest = data_files(&place)
            .into_iter()
            .max_by_key(|path| fs::metadata(path).unwrap().len())
            .unwrap();
        let file = OpenOptions::new().write(true).open(&largest).unwrap();
        file.set_len(500).unwrap();
        let rows = [30, 59];
        let error = snapshot.read_slow(0, &rows).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Lance { .. }),
            "{name}: {error}"
        );
        // An extent fails, too, and names the file.
        if let Payload::Extent(extent) = snapshot.payload(0, 59) {
            let error = ExtentReader::new(&snapshot).read(extent).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(largest.to_str().unwrap()), "{name}: {text}");
        }
        // The next one notices.
        drop(snapshot);
        let error = match Snapshot::open(place.request()) {
            Err(error) => error,
            // Without extents, the page map says nothing about the file.
            Ok(snapshot) => snapshot.read_slow(0, &rows).unwrap_err(),
        };
        let is_named = match &error {
            SnapshotError::DataFileShort { path, found, .. } => *path == largest && *found == 500,
            SnapshotError::Lance { .. } => name == "plain",
            _ => false,
        };
        assert!(is_named, "{name}: {error}");
    }
}
