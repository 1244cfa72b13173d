//! The page map's encodings: header, description, one row's place.
//!
//! Enters and leaves: bytes and values. It does no I/O.

use serde::{Deserialize, Serialize};

/// The format that is written and read: another number for every change of what is written.
pub const FORMAT: u32 = 4;
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

const FILE_NULL: u32 = u32::MAX;
const FILE_SLOW: u32 = u32::MAX - 1;

/// Where one row's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the open, in a file.
    At {
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        length: u32,
        /// Place of the file in [`Description::files`].
        file: u32,
    },
    /// The row has no value.
    Null,
    /// Lance reads it.
    Slow,
}

impl Place {
    /// As it stands in a section of extents.
    pub fn to_bytes(self) -> [u8; PLACE_BYTES] {
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
    /// Its value; what the bytes mean is the matter of whoever wrote them.
    Value(&'a [u8]),
    /// There is none: the row is null.
    Null,
    /// It is not in the page map, and has to be read from the dataset.
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
pub struct MapKey {
    format: u32,
    lance: String,
    identity: String,
    /// The dataset's version.
    pub version: u64,
    /// The SQL expression that selects rows.
    pub filter: Option<String>,
    columns: KeyColumns,
}

/// The columns of a map, by name, in the order of its sections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumns {
    /// Whose payloads are placed.
    pub bytes: Vec<String>,
    /// Per bytes column, the one that holds its tiled form, where that is read first, and in words of
    /// the caller what else decides on that.
    pub tiled: Vec<Option<String>>,
    /// Small dense ones.
    pub fixed: Vec<String>,
    /// Text and lists.
    pub variable: Vec<String>,
}

impl MapKey {
    /// `lance` is the version of the library that placed the payloads, `identity` tells this
    /// dataset from every other.
    pub fn new(
        lance: &str,
        identity: String,
        version: u64,
        filter: Option<String>,
        columns: KeyColumns,
    ) -> Self {
        Self {
            format: FORMAT,
            lance: lance.to_owned(),
            identity,
            version,
            filter,
            columns,
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
pub struct Section {
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
pub enum Numbers {
    /// (first index, first value); values count up until the next run.
    Runs(Section),
    /// One after the other.
    Raw(Section),
}

/// Which rows of a fixed column hold a null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nulls {
    /// How many do.
    pub rows: u64,
    /// A bit a row from the lowest of the first byte on, set for a null; none where none is set.
    /// It ends with the last null's byte.
    pub(crate) bits: Option<Section>,
}

/// A variable column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// An [`Entry`] a row, and one more for the end.
    pub(crate) entries: Section,
    /// The values, one after the other.
    pub(crate) bytes: Section,
}

/// One data file that places point into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Relative to the dataset's folder, or absolute where the file lies outside it.
    pub path: String,
    /// The last byte that any row reaches to, plus one.
    pub bytes_min: u64,
}

/// Everything about the map that is not per row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What it was made of.
    pub key: MapKey,
    /// Rows selected.
    pub rows: u64,
    /// Rows of the version, before the filter.
    pub rows_in_version: u64,
    /// Hex BLAKE3 of the row addresses as little-endian u64s.
    pub selection_hash: String,
    /// The files that places point into.
    pub files: Vec<FileRef>,
    /// Payload lengths in equal steps from the shortest to the longest.
    pub lengths: Vec<u32>,
    /// Per bytes column; none where Lance reads the whole column.
    pub extents: Vec<Option<Section>>,
    /// Per bytes column, the rows whose tiled form is read.
    pub tiled_rows: Vec<u64>,
    /// Per fixed column; none where it is over the budget.
    pub fixed: Vec<Option<Section>>,
    /// Per fixed column; none where it was not searched for nulls.
    pub nulls: Vec<Option<Nulls>>,
    /// Per variable column; none where it is over the budget.
    pub values: Vec<Option<Values>>,
    /// Per variable column, lengths like those of the payloads.
    pub value_lengths: Vec<Vec<u32>>,
    /// The rows' addresses.
    pub addresses: Numbers,
    /// The rows' stable ids; their addresses where the dataset has none.
    pub ids: Numbers,
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
        let KeyColumns {
            bytes,
            tiled,
            fixed,
            variable,
        } = &self.key.columns;
        let counts = [
            (bytes.len(), tiled.len()),
            (bytes.len(), self.tiled_rows.len()),
            (bytes.len(), self.extents.len()),
            (fixed.len(), self.fixed.len()),
            (fixed.len(), self.nulls.len()),
            (variable.len(), self.values.len()),
            (variable.len(), self.value_lengths.len()),
        ];
        let is_long = |section: &Section, width: usize, count: Option<u64>| {
            count.and_then(|count| count.checked_mul(width as u64)) == Some(section.bytes)
        };
        let rows = Some(self.rows);
        let mut extents = self.extents.iter().flatten();
        let mut values = self.values.iter().flatten();
        counts.iter().all(|(names, count)| names == count)
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
                "14",
                "id".into(),
                1,
                None,
                KeyColumns {
                    bytes: vec!["image".into()],
                    tiled: vec![None],
                    fixed: vec!["label".into()],
                    variable: vec!["text".into()],
                },
            )
        };
        let mut stems = vec![key().stem()];
        let changes: [fn(&mut MapKey); 8] = [
            |k| k.identity = "other".into(),
            |k| k.version = 2,
            |k| k.filter = Some(String::new()),
            |k| k.columns.bytes.clear(),
            |k| k.columns.tiled[0] = Some("image_tiled".into()),
            |k| k.columns.fixed.push("x".into()),
            |k| k.columns.variable[0] = "tags".into(),
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
