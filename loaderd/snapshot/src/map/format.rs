//! The page map's encodings: header, description, one row's place.
//!
//! In and out: bytes and values. It does no I/O.

use serde::{Deserialize, Serialize};

use crate::locate::FileRef;

/// Another number for every change of what is written.
pub(crate) const FORMAT: u32 = 1;
/// Bytes under one checksum.
pub(crate) const CHUNK_BYTES: usize = 4 << 20;
/// Sections begin at multiples of this.
pub(crate) const PAGE_BYTES: u64 = 4096;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const PLACE_BYTES: usize = 16;
pub(crate) const RUN_BYTES: usize = 16;

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

/// What a map is made of: the same key, the same map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapKey {
    format: u32,
    lance: String,
    pub(crate) identity: String,
    pub(crate) version: u64,
    pub(crate) filter: Option<String>,
    pub(crate) bytes_columns: Vec<String>,
    pub(crate) fixed_columns: Vec<String>,
}

impl MapKey {
    pub(crate) fn new(
        identity: String,
        version: u64,
        filter: Option<String>,
        bytes_columns: Vec<String>,
        fixed_columns: Vec<String>,
    ) -> Self {
        Self {
            format: FORMAT,
            lance: LANCE.to_owned(),
            identity,
            version,
            filter,
            bytes_columns,
            fixed_columns,
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
    /// Per fixed column; none where it is over the budget.
    pub(crate) fixed: Vec<Option<Section>>,
    pub(crate) addresses: Numbers,
    pub(crate) ids: Numbers,
}

impl Description {
    pub(crate) fn sections(&self) -> impl Iterator<Item = &Section> {
        let numbers = [&self.addresses, &self.ids].map(|numbers| match numbers {
            Numbers::Runs(section) | Numbers::Raw(section) => section,
        });
        self.extents
            .iter()
            .chain(&self.fixed)
            .flatten()
            .chain(numbers)
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
                vec!["label".into()],
            )
        };
        let mut stems = vec![key().stem()];
        let changes: [fn(&mut MapKey); 6] = [
            |k| k.identity = "other".into(),
            |k| k.version = 2,
            |k| k.filter = Some(String::new()),
            |k| k.bytes_columns.clear(),
            |k| k.fixed_columns.push("x".into()),
            |k| k.lance = "15".into(),
        ];
        for change in changes {
            let mut changed = key();
            change(&mut changed);
            stems.push(changed.stem());
        }
        stems.sort_unstable();
        stems.dedup();
        assert_eq!(stems.len(), 7);
    }
}
