//! The page map's encodings: header, description, one row's place.
//!
//! In and out: bytes and values. It does no I/O.

use serde::{Deserialize, Serialize};

use crate::locate::FileRef;

/// Another number for every change of what is written.
pub(crate) const FORMAT: u32 = 3;
/// Bytes under one checksum.
pub(crate) const CHUNK_BYTES: usize = 4 << 20;
/// Sections begin at multiples of this.
pub(crate) const PAGE_BYTES: u64 = 4096;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const PLACE_BYTES: usize = 16;
pub(crate) const RUN_BYTES: usize = 16;
/// Of one entry in a column of values.
pub(crate) const ENTRY_BYTES: usize = 8;

const MAGIC: [u8; 8] = *b"LDPGMAP\0";
/// What a changed Lance could place differently invalidates every map.
const LANCE: &str = "14.0.2";

const FILE_NULL: u32 = u32::MAX;
const FILE_SLOW: u32 = u32::MAX - 1;

/// Where one row's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the open, in this file.
    At { offset: u64, length: u32, file: u32 },
    /// The row has no value.
    Null,
    /// Lance reads it.
    Slow,
}

impl Place {
    pub(crate) fn to_bytes(self) -> [u8; PLACE_BYTES] {
        let (offset, length, file) = match self {
            Self::At {
                offset,
                length,
                file,
            } => (offset, length, file),
            Self::Null => (0, 0, FILE_NULL),
            Self::Slow => (0, 0, FILE_SLOW),
        };
        let mut bytes = [0; PLACE_BYTES];
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..].copy_from_slice(&file.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match u32_at(bytes, 12) {
            FILE_NULL => Self::Null,
            FILE_SLOW => Self::Slow,
            file => Self::At {
                offset: u64_at(bytes, 0),
                length: u32_at(bytes, 8),
                file,
            },
        }
    }
}

/// One row of a variable column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable<'a> {
    /// Its value, in the encoding of [`decode_value`](crate::decode_value).
    Value(&'a [u8]),
    /// There is none: the row is null.
    Null,
    /// It is not in the page map; ask
    /// [`Snapshot::read_variable_slow`](crate::Snapshot::read_variable_slow).
    Slow,
}

/// Where a row's value begins, and whether it has one here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Value(u64),
    Null(u64),
    Slow(u64),
}

impl Entry {
    const NULL: u64 = 1 << 63;
    const SLOW: u64 = 1 << 62;

    pub(crate) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let number = match self {
            Self::Value(start) => start,
            Self::Null(start) => start | Self::NULL,
            Self::Slow(start) => start | Self::SLOW,
        };
        number.to_le_bytes()
    }

    pub(crate) fn from_number(number: u64) -> Self {
        let start = number & !(Self::NULL | Self::SLOW);
        match number {
            number if number & Self::NULL != 0 => Self::Null(start),
            number if number & Self::SLOW != 0 => Self::Slow(start),
            _ => Self::Value(start),
        }
    }

    /// Where it begins; where the one before it ends.
    pub(crate) fn start(self) -> u64 {
        match self {
            Self::Value(start) | Self::Null(start) | Self::Slow(start) => start,
        }
    }
}

/// What a map is made of: the same key, the same map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapKey {
    format: u32,
    lance: String,
    pub(crate) identity: String,
    pub(crate) version: u64,
    pub(crate) filter: Option<String>,
    pub(crate) bytes_columns: Vec<String>,
    /// Per bytes column, the one that holds its tiled form, where that is read first.
    pub(crate) tiled_columns: Vec<Option<String>>,
    pub(crate) fixed_columns: Vec<String>,
    pub(crate) variable_columns: Vec<String>,
}

impl MapKey {
    pub(crate) fn new(
        identity: String,
        version: u64,
        filter: Option<String>,
        bytes_columns: Vec<String>,
        tiled_columns: Vec<Option<String>>,
        fixed_columns: Vec<String>,
        variable_columns: Vec<String>,
    ) -> Self {
        Self {
            format: FORMAT,
            lance: LANCE.to_owned(),
            identity,
            version,
            filter,
            bytes_columns,
            tiled_columns,
            fixed_columns,
            variable_columns,
        }
    }

    /// The file's name without its ending.
    pub(crate) fn stem(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings and numbers become JSON");
        blake3::hash(&json).to_hex()[..32].to_owned()
    }
}

/// A part of the file with one kind of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// Place of its first checksum in the list of all.
    pub(crate) first_chunk: usize,
}

impl Section {
    pub(crate) fn chunks(&self) -> usize {
        usize::try_from(self.bytes.div_ceil(CHUNK_BYTES as u64)).expect("a file that fits memory")
    }
}

/// A column of u64, in the shorter of two encodings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Numbers {
    /// (first index, first value); values count up until the next run.
    Runs(Section),
    /// One after the other.
    Raw(Section),
}

/// Which rows of a fixed column hold a null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nulls {
    /// How many do.
    pub(crate) rows: u64,
    /// A bit a row from the lowest of the first byte on, set for a null; none where none is set.
    /// It ends with the last null's byte.
    pub(crate) bits: Option<Section>,
}

/// A variable column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Values {
    /// An [`Entry`] a row, and one more for the end.
    pub(crate) entries: Section,
    /// The values, one after the other.
    pub(crate) bytes: Section,
}

/// Everything about the map that is not per row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) key: MapKey,
    pub(crate) rows: u64,
    pub(crate) rows_in_version: u64,
    /// Hex BLAKE3 of the row addresses as little-endian u64s.
    pub(crate) selection_hash: String,
    pub(crate) files: Vec<FileRef>,
    /// Payload lengths in equal steps from the shortest to the longest.
    pub(crate) lengths: Vec<u32>,
    /// Per bytes column; none where Lance reads the whole column.
    pub(crate) extents: Vec<Option<Section>>,
    /// Per bytes column, the rows whose tiled form is read.
    pub(crate) tiled_rows: Vec<u64>,
    /// Per fixed column; none where it is over the budget.
    pub(crate) fixed: Vec<Option<Section>>,
    /// Per fixed column; none where it was not searched for nulls.
    pub(crate) nulls: Vec<Option<Nulls>>,
    /// Per variable column; none where it is over the budget.
    pub(crate) values: Vec<Option<Values>>,
    /// Per variable column, lengths like those of the payloads.
    pub(crate) value_lengths: Vec<Vec<u32>>,
    pub(crate) addresses: Numbers,
    pub(crate) ids: Numbers,
}

impl Description {
    pub(crate) fn sections(&self) -> impl Iterator<Item = &Section> {
        let numbers = [&self.addresses, &self.ids].map(|numbers| match numbers {
            Numbers::Runs(section) | Numbers::Raw(section) => section,
        });
        let nulls = self.nulls.iter().flatten().flat_map(|nulls| &nulls.bits);
        let values = self.values.iter().flatten();
        self.extents
            .iter()
            .chain(&self.fixed)
            .flatten()
            .chain(nulls)
            .chain(values.flat_map(|values| [&values.entries, &values.bytes]))
            .chain(numbers)
    }

    /// Whether there is a part for every column of the key, as long as the rows need, so that
    /// looking up a row finds it. A file with the right hash can still say otherwise.
    pub(crate) fn is_whole(&self) -> bool {
        let MapKey {
            bytes_columns,
            tiled_columns,
            fixed_columns,
            variable_columns,
            ..
        } = &self.key;
        let counts = [
            (bytes_columns, tiled_columns.len()),
            (bytes_columns, self.tiled_rows.len()),
            (bytes_columns, self.extents.len()),
            (fixed_columns, self.fixed.len()),
            (fixed_columns, self.nulls.len()),
            (variable_columns, self.values.len()),
            (variable_columns, self.value_lengths.len()),
        ];
        let is_long = |section: &Section, width: usize, count: Option<u64>| {
            count.and_then(|count| count.checked_mul(width as u64)) == Some(section.bytes)
        };
        let rows = Some(self.rows);
        let mut extents = self.extents.iter().flatten();
        let mut values = self.values.iter().flatten();
        counts.iter().all(|(names, count)| names.len() == *count)
            && extents.all(|section| is_long(section, PLACE_BYTES, rows))
            && values.all(|values| is_long(&values.entries, ENTRY_BYTES, self.rows.checked_add(1)))
            && [&self.addresses, &self.ids]
                .iter()
                .all(|numbers| match numbers {
                    Numbers::Raw(section) => is_long(section, 8, rows),
                    Numbers::Runs(section) => {
                        section.bytes > 0 && section.bytes.is_multiple_of(RUN_BYTES as u64)
                    }
                })
    }
}

/// The first bytes of the file. `hash` covers the rest of the header, the checksums and the
/// description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tail_offset: u64,
    pub(crate) chunks: u64,
    pub(crate) json_bytes: u64,
    pub(crate) hash: u64,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tail_offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.chunks.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.json_bytes.to_le_bytes());
        bytes[56..].copy_from_slice(&self.hash.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let known =
            bytes.len() >= HEADER_BYTES && bytes[..8] == MAGIC && u32_at(bytes, 8) == FORMAT;
        known.then(|| Self {
            tail_offset: u64_at(bytes, 16),
            chunks: u64_at(bytes, 24),
            json_bytes: u64_at(bytes, 32),
            hash: u64_at(bytes, 56),
        })
    }

    /// The hash that belongs to this header over `tail`.
    pub(crate) fn hash_with(self, tail: &[u8]) -> u64 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&Self { hash: 0, ..self }.to_bytes());
        hasher.update(tail);
        hasher.digest()
    }
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive() {
        for place in [
            Place::At {
                offset: 0,
                length: 0,
                file: 0,
            },
            Place::At {
                offset: u64::MAX,
                length: u32::MAX,
                file: FILE_SLOW - 1,
            },
            Place::Null,
            Place::Slow,
        ] {
            assert_eq!(Place::from_bytes(&place.to_bytes()), place);
        }
    }

    #[test]
    fn entries_survive() {
        for start in [0, 1, (1 << 62) - 1] {
            for entry in [Entry::Value(start), Entry::Null(start), Entry::Slow(start)] {
                let number = u64::from_le_bytes(entry.to_bytes());
                assert_eq!(Entry::from_number(number), entry);
                assert_eq!(entry.start(), start);
            }
        }
    }

    #[test]
    fn headers_survive_and_notice_a_change() {
        let header = Header {
            tail_offset: 4096,
            chunks: 7,
            json_bytes: 99,
            hash: 0,
        };
        let header = Header {
            hash: header.hash_with(b"tail"),
            ..header
        };
        let read = Header::from_bytes(&header.to_bytes()).unwrap();
        assert_eq!(read, header);
        assert_eq!(read.hash_with(b"tail"), read.hash);
        assert_ne!(read.hash_with(b"tale"), read.hash);
        assert_ne!(Header { chunks: 8, ..read }.hash_with(b"tail"), read.hash);
        assert_eq!(Header::from_bytes(b"something else"), None);
    }

    #[test]
    fn every_part_of_a_key_counts() {
        let key = || {
            MapKey::new(
                "id".into(),
                1,
                None,
                vec!["image".into()],
                vec![None],
                vec!["label".into()],
                vec!["text".into()],
            )
        };
        let mut stems = vec![key().stem()];
        let changes: [fn(&mut MapKey); 8] = [
            |k| k.identity = "other".into(),
            |k| k.version = 2,
            |k| k.filter = Some(String::new()),
            |k| k.bytes_columns.clear(),
            |k| k.tiled_columns[0] = Some("image_tiled".into()),
            |k| k.fixed_columns.push("x".into()),
            |k| k.variable_columns[0] = "tags".into(),
            |k| k.lance = "15".into(),
        ];
        for change in changes {
            let mut changed = key();
            change(&mut changed);
            stems.push(changed.stem());
        }
        stems.sort_unstable();
        stems.dedup();
        assert_eq!(stems.len(), 9);
    }
}
