//! Maps written and read back: chunk borders, numbers, damage, a full disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::format::{CHUNK_BYTES, Numbers, PAGE_BYTES};
use super::*;
use crate::SnapshotError;

fn key() -> MapKey {
    MapKey::new("identity".into(), 1, None, Vec::new(), Vec::new())
}

/// A map with one fixed column of `row_bytes` and these numbers as addresses and ids.
fn write(cache: &Cache, row_bytes: usize, addresses: &[u64], ids: &[u64]) -> PageMap {
    let rows = addresses.len() as u64;
    let mut writer = MapWriter::new(cache.target(&key()).unwrap());
    let mut section = writer.section(rows * row_bytes as u64);
    let mut first = writer.numbers(rows);
    let mut second = writer.numbers(rows);
    for start in (0..addresses.len()).step_by(8192) {
        let end = addresses.len().min(start + 8192);
        let bytes: Vec<u8> = (start..end)
            .flat_map(|i| row(i as u64, row_bytes))
            .collect();
        writer.append(&mut section, &bytes).unwrap();
        writer
            .append_numbers(&mut first, &addresses[start..end])
            .unwrap();
        writer
            .append_numbers(&mut second, &ids[start..end])
            .unwrap();
    }
    let description = Description {
        key: key(),
        rows,
        rows_in_version: rows,
        selection_hash: String::new(),
        files: Vec::new(),
        lengths: Vec::new(),
        extents: Vec::new(),
        fixed: vec![Some(writer.close(section).unwrap())],
        addresses: writer.close_numbers(first).unwrap(),
        ids: writer.close_numbers(second).unwrap(),
    };
    writer.finish(&description).unwrap();
    let map = cache.find(&key()).unwrap().unwrap();
    assert_eq!(*map.description(), description);
    map
}

fn row(index: u64, row_bytes: usize) -> impl Iterator<Item = u8> {
    let value = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..row_bytes).map(move |i| value[i % 8] ^ i as u8)
}

fn cache() -> (TempDir, Cache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    (folder, cache)
}

#[test]
fn rows_across_chunks_and_the_damage_of_one() {
    let (folder, cache) = cache();
    // 24 bytes do not divide a chunk: some rows lie in two.
    let (rows, row_bytes) = (500_000_u64, 24);
    let numbers: Vec<u64> = (0..rows).collect();
    let map = write(&cache, row_bytes, &numbers, &numbers);
    assert_eq!(
        map.chunks_verified(),
        2,
        "opening reads the runs, not the rows"
    );
    for index in 0..rows {
        let expected: Vec<u8> = row(index, row_bytes).collect();
        assert_eq!(map.fixed(0, index, row_bytes), Some(expected.as_slice()));
    }
    assert_eq!(map.chunks_verified(), 5);

    let path = folder.path().join(format!("{}.map", key().stem()));
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let second_chunk = PAGE_BYTES + CHUNK_BYTES as u64;
    file.write_all_at(b"\xff\xff", second_chunk + 100).unwrap();
    let map = cache.find(&key()).unwrap().unwrap();
    let per_chunk = CHUNK_BYTES as u64 / row_bytes as u64;
    assert!(map.fixed(0, 0, row_bytes).is_some());
    assert!(map.fixed(0, rows - 1, row_bytes).is_some());
    map.check().unwrap();
    // The row that begins in the first chunk and ends in the second.
    assert_eq!(map.fixed(0, per_chunk, row_bytes), None);
    assert_eq!(map.fixed(0, per_chunk + 1000, row_bytes), None);
    let error = map.check().unwrap_err();
    assert!(matches!(error, SnapshotError::MapDamaged { .. }), "{error}");
    assert!(!path.exists());
}

#[test]
fn numbers_in_the_shorter_encoding() {
    let check = |numbers: Vec<u64>, is_runs: bool| {
        let (_folder, cache) = cache();
        let map = write(&cache, 1, &numbers, &numbers);
        let found = matches!(map.description().addresses, Numbers::Runs(_));
        assert_eq!(found, is_runs);
        for (index, number) in (0_u64..).zip(&numbers) {
            assert_eq!(map.address(index), Some(*number), "row {index}");
            assert_eq!(map.id(index), Some(*number), "row {index}");
        }
    };
    check(vec![7], true);
    check(vec![9, 3, 4, 5, u64::MAX - 1, u64::MAX], true);
    // Fragments with a gap in each.
    let fragments = (0..100_u64).flat_map(|f| {
        (0..1000)
            .filter(|i| i % 500 != 250)
            .map(move |i| f << 32 | i)
    });
    check(fragments.collect(), true);
    // Every other row: a run each.
    check((0..10_000).map(|i| i * 2).collect(), false);
    // More runs than are kept in memory, after a start that is one run.
    let late = (0..50_000).chain((0..1_100_000).map(|i| 100_000 + i * 2));
    check(late.collect(), false);
}

#[test]
fn a_full_disk() {
    let (folder, cache) = cache();
    let target = cache.target(&key()).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = target.failed(io::ErrorKind::StorageFull.into(), 12_345);
    assert!(matches!(error, SnapshotError::CacheFull { .. }), "{error}");
    assert!(error.to_string().contains("12345 bytes"), "{error}");
    drop(target);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
