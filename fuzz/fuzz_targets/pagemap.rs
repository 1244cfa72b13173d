//! Page maps, as anybody who can write to the cache folder could forge them.
//!
//! Enters: a byte that is 0 for a file taken as it is; else the number of checksums, a u16 with
//! the length of the sections, the sections, and the description as JSON. Header and checksums
//! are made to fit those, so that what lies behind them is reached. Every look-up of every row
//! (of the first and last ones, where there are many) must give bytes, nothing, or a map that
//! calls itself damaged.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use loaderd_pagemap::{FORMAT, PageMap, Place, Variable};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of the header, and where its hash lies.
const HEADER: usize = 64;
const HASH: usize = 56;
/// Rows looked up from either end.
const ROWS: u64 = 64;

/// Written over again and again; it has no name, so nothing of ours is removed with it.
static FILE: LazyLock<File> = LazyLock::new(|| tempfile::tempfile().expect("a temporary file"));

fuzz_target!(|data: &[u8]| {
    let Some((&chunks, rest)) = data.split_first() else {
        return;
    };
    let forged;
    let bytes = if chunks == 0 {
        rest
    } else {
        let Some((&length, rest)) = rest.split_first_chunk() else {
            return;
        };
        let Some((sections, json)) = rest.split_at_checked(usize::from(u16::from_le_bytes(length)))
        else {
            return;
        };
        forged = forge(sections, json, usize::from(chunks));
        &forged
    };
    FILE.set_len(0).expect("it can be emptied");
    FILE.write_all_at(bytes, 0).expect("room for it");
    let map = PageMap::open(&FILE, Path::new("no-such-folder/fuzzed.map"));
    if let Some(map) = map.expect("it can be mapped") {
        look_up(&map);
    }
});

/// A file whose header fits its tail, and whose checksums fit the sections that the description
/// names, as far as the two make sense.
fn forge(sections: &[u8], json: &[u8], chunks: usize) -> Vec<u8> {
    let mut file = vec![0; HEADER];
    file[..8].copy_from_slice(b"LDPGMAP\0");
    file[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    file.extend(sections);
    let tail = file.len();
    for (at, value) in [(16, tail), (24, chunks), (32, json.len())] {
        file[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
    }
    let mut hashes = vec![0; chunks];
    if let Ok(description) = serde_json::from_slice(json) {
        hash_sections(&description, &file, &mut hashes);
    }
    file.extend(hashes.iter().flat_map(|hash: &u64| hash.to_le_bytes()));
    file.extend(json);
    let hash = xxh3_64(&[&file[..HEADER], &file[tail..]].concat());
    file[HASH..HEADER].copy_from_slice(&hash.to_le_bytes());
    file
}

/// Sections are the objects with a first chunk, wherever they stand; none here is longer than one
/// chunk.
fn hash_sections(value: &Value, file: &[u8], hashes: &mut [u64]) {
    let number = |name: &str| usize::try_from(value.get(name)?.as_u64()?).ok();
    if let (Some(offset), Some(bytes), Some(chunk)) =
        (number("offset"), number("bytes"), number("first_chunk"))
    {
        let content = file.get(offset..).and_then(|rest| rest.get(..bytes));
        if let (Some(content), Some(hash)) = (content, hashes.get_mut(chunk)) {
            *hash = xxh3_64(content);
        }
        return;
    }
    match value {
        Value::Array(values) => values.iter().for_each(|v| hash_sections(v, file, hashes)),
        Value::Object(values) => values.values().for_each(|v| hash_sections(v, file, hashes)),
        _ => {}
    }
}

fn look_up(map: &PageMap) {
    let description = map.description();
    let rows = description.rows;
    let last = rows.saturating_sub(ROWS).max(ROWS.min(rows))..rows;
    for index in (0..ROWS.min(rows)).chain(last) {
        for column in 0..description.extents.len() {
            if let Place::At { file, .. } = map.place(column, index) {
                assert!((file as usize) < description.files.len());
            }
        }
        for column in 0..description.fixed.len() {
            for row_bytes in [1, 4, 24] {
                let found = map.fixed(column, index, row_bytes);
                assert!(found.is_none_or(|row| row.len() == row_bytes));
                found.map(touch);
            }
            map.is_null(column, index);
        }
        for column in 0..description.values.len() {
            if let Variable::Value(value) = map.variable(column, index) {
                touch(value);
            }
            map.variable_quantile(column, 0.5);
        }
        for number in [map.address(index), map.id(index)] {
            assert!(number.is_some() || map.check().is_err());
        }
    }
    for q in [-1.0, 0.0, 0.5, 1.0, f64::NAN] {
        map.length_quantile(q);
    }
}

/// Reads every byte.
fn touch(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().fold(0_u8, |sum, byte| sum ^ byte));
}
