//! Maps written and read back: chunk borders, numbers, damage, a full disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::format::{CHUNK_BYTES, HEADER_BYTES, Header, Numbers, PAGE_BYTES};
use super::*;
use crate::MapError;

fn key() -> MapKey {
    MapKey::new(
        "14",
        "identity".into(),
        1,
        None,
        KeyColumns {
            fixed: vec!["number".into()],
            variable: vec!["text".into()],
            ..KeyColumns::default()
        },
    )
}

/// Row `index` of the variable column: a null, a value elsewhere, or up to 19 bytes.
fn value(index: u64, bytes: &mut Vec<u8>) -> Variable<'_> {
    bytes.clear();
    match index {
        _ if index % 5 == 3 => Variable::Null,
        _ if index % 7 == 4 => Variable::Slow,
        _ => {
            bytes.extend(row(index, (index % 20) as usize));
            Variable::Value(bytes)
        }
    }
}

/// Whether row `index` of the fixed column is null.
fn is_null(index: u64) -> bool {
    index % 100_000 > 99_990
}

#[test]
fn writers_of_another_process_with_the_same_number_are_left_alone() {
    let folder = TempDir::new().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let name = |n: u64| format!("{}.{}.{n}.tmp", key().stem(), std::process::id());
    let theirs: Vec<_> = (0..1000).map(|n| folder.path().join(name(n))).collect();
    for path in &theirs {
        fs::write(path, "half a map").unwrap();
    }
    write(&cache, 8, &[1, 2, 3], &[1, 2, 3]);
    for path in &theirs {
        assert_eq!(fs::read(path).unwrap(), b"half a map", "{path:?}");
    }
}

/// A map with one fixed column of `row_bytes` and these numbers as addresses and ids.
fn write(cache: &Cache, row_bytes: usize, addresses: &[u64], ids: &[u64]) -> PageMap {
    let rows = addresses.len() as u64;
    let mut writer = MapWriter::new(cache.target(&key()).unwrap());
    let mut section = writer.section(rows * row_bytes as u64);
    let mut nulls = NullsWriter::new(&mut writer, rows);
    let mut values = ValuesWriter::new(&mut writer, rows, rows * 19);
    let mut scratch = Vec::new();
    let mut first = writer.numbers(rows);
    let mut second = writer.numbers(rows);
    for start in (0..addresses.len()).step_by(8192) {
        let end = addresses.len().min(start + 8192);
        let bytes: Vec<u8> = (start..end)
            .flat_map(|i| row(i as u64, row_bytes))
            .collect();
        writer.append(&mut section, &bytes).unwrap();
        let flags: Vec<bool> = (start..end).map(|i| is_null(i as u64)).collect();
        let flags = flags.contains(&true).then_some(flags.as_slice());
        nulls.append(&writer, end - start, flags).unwrap();
        for i in start..end {
            let value = value(i as u64, &mut scratch);
            values.append(&writer, value).unwrap();
        }
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
        tiled_rows: Vec::new(),
        fixed: vec![Some(writer.close(section).unwrap())],
        nulls: vec![Some(nulls.close(&mut writer).unwrap())],
        values: vec![Some(values.close(&mut writer).unwrap())],
        value_lengths: vec![Vec::new()],
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

    let mut scratch = Vec::new();
    for index in 0..rows {
        assert_eq!(map.variable(0, index), value(index, &mut scratch));
        assert_eq!(map.is_null(0, index), is_null(index), "row {index}");
    }
    let expected = (0..rows).filter(|index| is_null(*index)).count() as u64;
    assert_eq!(map.description().nulls[0].as_ref().unwrap().rows, expected);
    map.check().unwrap();

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
    assert!(matches!(error, MapError::Damaged { .. }), "{error}");
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
    for (kind, cause) in [
        (io::ErrorKind::StorageFull, "no space left"),
        (io::ErrorKind::FileTooLarge, "ulimit -f"),
    ] {
        let error = target.failed(kind.into(), 12_345).to_string();
        assert!(error.contains(cause), "{error}");
        assert!(error.contains("12345 bytes"), "{error}");
    }
    drop(target);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A map of 1,000 rows whose description was changed and whose hash was made to fit.
fn forged(cache: &Cache, change: impl FnOnce(&mut Description)) -> Option<PageMap> {
    // Counting down, they are stored one by one.
    let numbers: Vec<u64> = (0..1000).rev().collect();
    let mut description = write(cache, 8, &numbers, &numbers).description().clone();
    change(&mut description);
    let path = cache.path(&key());
    let mut bytes = fs::read(&path).unwrap();
    let header = Header::from_bytes(&bytes).unwrap();
    let json_at = header.tail_offset as usize + header.chunks as usize * 8;
    bytes.truncate(json_at);
    bytes.extend_from_slice(&serde_json::to_vec(&description).unwrap());
    let mut header = Header {
        json_bytes: (bytes.len() - json_at) as u64,
        hash: 0,
        ..header
    };
    header.hash = header.hash_with(&bytes[header.tail_offset as usize..]);
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    fs::write(&path, bytes).unwrap();
    cache.find(&key()).unwrap()
}

#[test]
fn descriptions_that_do_not_fit_their_map() {
    let (_folder, cache) = cache();
    assert!(forged(&cache, |_| {}).is_some());
    let changes: [fn(&mut Description); 9] = [
        |d| d.rows += 1,
        |d| d.rows = u64::MAX,
        |d| d.fixed.clear(),
        |d| d.nulls.clear(),
        |d| d.values.push(None),
        |d| d.value_lengths.clear(),
        |d| d.values[0].as_mut().unwrap().entries.bytes -= 1,
        |d| d.values[0].as_mut().unwrap().bytes.offset = u64::MAX,
        |d| d.fixed[0].as_mut().unwrap().first_chunk = usize::MAX,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert!(forged(&cache, change).is_none(), "change {at}");
    }
}

#[test]
fn rows_that_point_nowhere() {
    let (_folder, cache) = cache();
    let map = forged(&cache, |d| d.values[0].as_mut().unwrap().bytes.bytes = 0);
    let map = map.unwrap();
    assert_eq!(map.variable(0, 3), Variable::Null);
    map.check().unwrap();
    assert_eq!(map.variable(0, 1), Variable::Slow);
    assert!(map.check().unwrap_err().to_string().contains("ends before"));

    // The addresses, which count down, as the places where values begin.
    let map = forged(&cache, |d| {
        let Numbers::Raw(raw) = d.addresses.clone() else {
            panic!("{:?}", d.addresses)
        };
        d.rows -= 1;
        d.values[0].as_mut().unwrap().entries = raw.clone();
        d.addresses = Numbers::Runs(raw.clone());
        d.ids = Numbers::Runs(raw);
    });
    let map = map.unwrap();
    assert_eq!(map.variable(0, 998), Variable::Slow);
    let error = map.check().unwrap_err().to_string();
    assert!(error.contains("value 998 ends before it begins"), "{error}");
    // Runs that begin behind the row that is looked for.
    assert!(map.address(0).is_some());
}
