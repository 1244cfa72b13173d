//! The folder of page maps: reuse, damage, eviction.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use loaderd_snapshot::{MapError, Payload, Snapshot, SnapshotError, SnapshotRequest};

use crate::common::*;

fn written() -> (Place, Vec<Value>) {
    let place = Place::new();
    let values = values(1, 100, 1_000);
    place.write(&blob_batch(1, &values, packed()), |_| {});
    (place, values)
}

fn maps(place: &Place) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(place.request().cache_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn only_map(place: &Place) -> (PathBuf, u64) {
    let paths = maps(place);
    assert_eq!(paths.len(), 1, "{paths:?}");
    let inode = fs::metadata(&paths[0]).unwrap().ino();
    (paths[0].clone(), inode)
}

fn overwrite(path: &PathBuf, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
}

#[test]
fn the_second_open_takes_the_map_of_the_first() {
    let (place, values) = written();
    let first = place.open();
    let map = only_map(&place);
    let second = place.open();
    assert_eq!(only_map(&place), map);
    assert_eq!(second.selection_hash(), first.selection_hash());
    conform(&second, 0, &values);
}

#[test]
fn other_rows_or_columns_get_another_map() {
    let (place, _) = written();
    let opened = |change: &dyn Fn(&mut SnapshotRequest)| {
        let mut request = place.request();
        change(&mut request);
        Snapshot::open(request).unwrap();
        maps(&place).len()
    };
    assert_eq!(opened(&|_| {}), 1);
    assert_eq!(
        opened(&|request| request.filter = Some("id < 50".into())),
        2
    );
    assert_eq!(opened(&|request| request.fixed_columns.clear()), 3);
    assert_eq!(opened(&|request| request.run = "another".into()), 3);
    place.write(&blob_batch(101, &[Some(vec![1])], packed()), |_| {});
    assert_eq!(opened(&|_| {}), 4);
}

#[test]
fn a_damaged_head_or_tail_is_rebuilt() {
    let (place, values) = written();
    place.open();
    let (path, _) = only_map(&place);
    let bytes = fs::metadata(&path).unwrap().len();
    for at in [0, 9, 20, bytes - 1, bytes - 40] {
        overwrite(&path, at);
        conform(&place.open(), 0, &values);
    }
    let cut = OpenOptions::new().write(true).open(&path).unwrap();
    cut.set_len(bytes / 2).unwrap();
    conform(&place.open(), 0, &values);
    fs::write(&path, "short").unwrap();
    conform(&place.open(), 0, &values);
}

#[test]
fn damaged_rows_are_told() {
    let (place, values) = written();
    place.open();
    let (path, inode) = only_map(&place);
    // The first section begins with the second page.
    overwrite(&path, 4096);
    let snapshot = place.open();
    assert_eq!(only_map(&place).1, inode, "rows are not read at open");
    snapshot.check().unwrap();
    assert_eq!(snapshot.payload(0, 5), Payload::Slow);
    let error = snapshot.check().unwrap_err();
    let SnapshotError::Map(MapError::Damaged { path: named, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(*named, path);
    let error = snapshot.read_slow(0, &[5]).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Map(MapError::Damaged { .. })),
        "{error}"
    );
    // The damaged file is gone, so the next open builds another.
    conform(&place.open(), 0, &values);
}

#[test]
fn maps_not_used_for_longest_go_first() {
    let (place, values) = written();
    let filters = ["id < 10", "id < 20", "id < 30"];
    for (age, filter) in [30_u64, 20, 10].into_iter().zip(filters) {
        let known = if place.request().cache_dir.exists() {
            maps(&place)
        } else {
            Vec::new()
        };
        place.open_where(filter).unwrap();
        let new = maps(&place)
            .into_iter()
            .find(|path| !known.contains(path))
            .unwrap();
        let then = SystemTime::now() - Duration::from_secs(age * 3600);
        File::open(&new).unwrap().set_modified(then).unwrap();
    }
    // Using the oldest makes it the newest.
    let kept = place.open_where(filters[0]).unwrap();
    let one = fs::metadata(&maps(&place)[0]).unwrap().blocks() * 512;
    let request = SnapshotRequest {
        cache_bytes_max: 2 * one,
        ..place.request()
    };
    let snapshot = Snapshot::open(request).unwrap();
    conform(&snapshot, 0, &values);
    assert_eq!(maps(&place).len(), 2);
    let before = maps(&place);
    drop(place.open_where(filters[0]).unwrap());
    assert_eq!(maps(&place), before, "the map used last was kept");
    // A map that was evicted stays readable where it is open.
    let nothing_left = SnapshotRequest {
        cache_bytes_max: 0,
        ..place.request()
    };
    Snapshot::open(nothing_left).unwrap();
    assert_eq!(maps(&place).len(), 1);
    assert_eq!(ids(&kept), (1..10).collect::<Vec<_>>());
}

#[test]
fn what_a_killed_writer_left_is_swept() {
    let (place, _) = written();
    let folder = place.request().cache_dir;
    fs::create_dir(&folder).unwrap();
    let make = |name: &str, age: u64| {
        let file = File::create(folder.join(name)).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age);
        file.set_modified(then).unwrap();
        file
    };
    make("dead.tmp", 3600);
    make("young.tmp", 0);
    let alive = make("alive.tmp", 3600);
    rustix::fs::flock(&alive, rustix::fs::FlockOperation::LockExclusive).unwrap();
    place.open();
    let exists = |name: &str| folder.join(name).exists();
    assert_eq!(
        ["dead.tmp", "young.tmp", "alive.tmp"].map(exists),
        [false, true, true]
    );
}

#[test]
fn builders_at_once_do_not_disturb_each_other() {
    let (place, values) = written();
    let place = &place;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| conform(&place.open(), 0, &values));
        }
    });
    only_map(place);
}

#[test]
fn a_folder_that_cannot_be_made() {
    let (place, _) = written();
    let file = place.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let request = SnapshotRequest {
        cache_dir: file.join("cache"),
        ..place.request()
    };
    let error = Snapshot::open(request).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Map(MapError::Cache { .. })),
        "{error}"
    );
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
}
