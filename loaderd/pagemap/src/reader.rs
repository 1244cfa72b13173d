//! Reading a page map: lookups in mapped memory, each chunk checked when it is first touched.
//!
//! Enters: a map file. Leaves: rows' places, values and addresses. Opening reads the header, the
//! description, the checksums and the runs, never the rows, so it takes as long for a hundred
//! million rows as for ten. Damage found later is reported, never guessed around.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use super::format::{
    CHUNK_BYTES, Description, ENTRY_BYTES, Entry, HEADER_BYTES, Header, Numbers, PLACE_BYTES,
    Place, RUN_BYTES, Section, Variable, u64_at,
};
use super::lengths;
use crate::MapError;

/// A page map, shared by all threads.
///
/// Look-ups by a row or column that the map does not have panic; what the file says never does.
pub struct PageMap {
    memory: Mmap,
    path: PathBuf,
    description: Description,
    /// Where the checksums begin in `memory`.
    hashes_offset: usize,
    /// A bit per chunk that was found good. The file never changes, so a bit says the same to
    /// every thread at any time and publishes nothing else: relaxed order is enough.
    verified: Box<[AtomicU64]>,
    damage: OnceLock<String>,
}

impl PageMap {
    /// Maps `file`, whose name is `path`. None where it is not a whole map of this format.
    ///
    /// # Errors
    /// Where the file cannot be mapped.
    pub fn open(file: &File, path: &Path) -> io::Result<Option<Self>> {
        if file.metadata()?.len() < HEADER_BYTES as u64 {
            return Ok(None);
        }
        // SAFETY: a published map is only ever renamed over or unlinked, never written to or
        // truncated, by this crate; the folder belongs to the user that runs us.
        let memory = unsafe { Mmap::map(file)? };
        let Some((description, hashes_offset, chunks)) = checked(&memory) else {
            return Ok(None);
        };
        let map = Self {
            memory,
            path: path.to_owned(),
            description,
            hashes_offset,
            verified: (0..chunks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            damage: OnceLock::new(),
        };
        // Looking up a run may touch all of them.
        for numbers in [&map.description.addresses, &map.description.ids] {
            if let Numbers::Runs(section) = numbers
                && map.bytes(section, 0, section.bytes).is_none()
            {
                return Ok(None);
            }
        }
        Ok(Some(map))
    }

    /// Everything that is not per row.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Fails if any chunk touched so far was damaged.
    ///
    /// # Errors
    /// [`MapError::Damaged`], with the file's name.
    pub fn check(&self) -> Result<(), MapError> {
        match self.damage.get() {
            None => Ok(()),
            Some(detail) => Err(MapError::Damaged {
                path: self.path.clone(),
                detail: detail.clone(),
            }),
        }
    }

    /// Where row `index` of bytes column `column` lies.
    pub fn place(&self, column: usize, index: u64) -> Place {
        self.in_range(index);
        let place = self.description.extents[column]
            .as_ref()
            .and_then(|section| self.item(section, index, PLACE_BYTES))
            .map_or(Place::Slow, Place::from_bytes);
        match place {
            Place::At { file, .. } if file as usize >= self.description.files.len() => {
                self.damaged(format!("it has no file {file}"));
                Place::Slow
            }
            place => place,
        }
    }

    /// Row `index` of fixed column `column`, where the map holds it.
    pub fn fixed(&self, column: usize, index: u64, row_bytes: usize) -> Option<&[u8]> {
        self.in_range(index);
        self.item(self.description.fixed[column].as_ref()?, index, row_bytes)
    }

    /// Whether row `index` of fixed column `column` is known to hold a null.
    pub fn is_null(&self, column: usize, index: u64) -> bool {
        self.in_range(index);
        let nulls = self.description.nulls[column].as_ref();
        let Some(section) = nulls.and_then(|nulls| nulls.bits.as_ref()) else {
            return false;
        };
        index / 8 < section.bytes
            && self
                .item(section, index / 8, 1)
                .is_some_and(|byte| byte[0] & 1 << (index % 8) != 0)
    }

    /// Row `index` of variable column `column`.
    pub fn variable(&self, column: usize, index: u64) -> Variable<'_> {
        self.in_range(index);
        let Some(values) = &self.description.values[column] else {
            return Variable::Slow;
        };
        // The row's entry and the next one, which ends it.
        let start = index.saturating_mul(ENTRY_BYTES as u64);
        let Some(entries) = self.bytes(&values.entries, start, 2 * ENTRY_BYTES as u64) else {
            return Variable::Slow;
        };
        let end = Entry::from_number(u64_at(entries, ENTRY_BYTES)).start();
        match Entry::from_number(u64_at(entries, 0)) {
            Entry::Null(_) => Variable::Null,
            Entry::Slow(_) => Variable::Slow,
            Entry::Value(start) => {
                let Some(length) = end.checked_sub(start) else {
                    self.damaged(format!("value {index} ends before it begins"));
                    return Variable::Slow;
                };
                self.bytes(&values.bytes, start, length)
                    .map_or(Variable::Slow, Variable::Value)
            }
        }
    }

    /// Row `index`'s address; none where the map is damaged.
    pub fn address(&self, index: u64) -> Option<u64> {
        self.number(&self.description.addresses, index)
    }

    /// Row `index`'s id; none where the map is damaged.
    pub fn id(&self, index: u64) -> Option<u64> {
        self.number(&self.description.ids, index)
    }

    /// The length in bytes that the share `q` of all payloads does not exceed.
    pub fn length_quantile(&self, q: f64) -> u32 {
        lengths::quantile(&self.description.lengths, q)
    }

    /// The same for the values of variable column `column`.
    pub fn variable_quantile(&self, column: usize, q: f64) -> u32 {
        lengths::quantile(&self.description.value_lengths[column], q)
    }

    #[cfg(test)]
    pub(crate) fn chunks_verified(&self) -> u32 {
        let words = self.verified.iter();
        words
            .map(|word| word.load(Ordering::Relaxed).count_ones())
            .sum()
    }

    fn in_range(&self, index: u64) {
        let rows = self.description.rows;
        assert!(index < rows, "row index {index} of {rows} rows");
    }

    fn number(&self, numbers: &Numbers, index: u64) -> Option<u64> {
        self.in_range(index);
        match numbers {
            Numbers::Raw(section) => Some(u64_at(self.item(section, index, 8)?, 0)),
            Numbers::Runs(section) => {
                let runs = self.bytes(section, 0, section.bytes)?;
                let (mut low, mut high) = (0, runs.len() / RUN_BYTES);
                while high - low > 1 {
                    let middle = usize::midpoint(low, high);
                    if u64_at(runs, middle * RUN_BYTES) <= index {
                        low = middle;
                    } else {
                        high = middle;
                    }
                }
                let first = u64_at(runs, low * RUN_BYTES);
                let value = u64_at(runs, low * RUN_BYTES + 8);
                Some(value.wrapping_add(index.wrapping_sub(first)))
            }
        }
    }

    /// Item `index` of a section of items that are `width` bytes long.
    fn item(&self, section: &Section, index: u64, width: usize) -> Option<&[u8]> {
        let width = width as u64;
        self.bytes(section, index.saturating_mul(width), width)
    }

    /// Bytes of a section, once the chunks they lie in are known to be good.
    fn bytes(&self, section: &Section, start: u64, length: u64) -> Option<&[u8]> {
        let end = start.saturating_add(length);
        if end > section.bytes {
            self.damaged(format!("it ends before byte {end} of a section"));
            return None;
        }
        if length > 0 {
            let first = (start / CHUNK_BYTES as u64) as usize;
            let last = ((end - 1) / CHUNK_BYTES as u64) as usize;
            if !(first..=last).all(|chunk| self.is_good(section, chunk)) {
                return None;
            }
        }
        let from = (section.offset + start) as usize;
        Some(&self.memory[from..from + length as usize])
    }

    fn is_good(&self, section: &Section, chunk: usize) -> bool {
        let number = section.first_chunk + chunk;
        let (word, bit) = (&self.verified[number / 64], 1_u64 << (number % 64));
        if word.load(Ordering::Relaxed) & bit != 0 {
            return true;
        }
        let start = chunk * CHUNK_BYTES;
        let length = CHUNK_BYTES.min(section.bytes as usize - start);
        let from = section.offset as usize + start;
        let found = xxh3_64(&self.memory[from..from + length]);
        if found == u64_at(&self.memory, self.hashes_offset + number * 8) {
            word.fetch_or(bit, Ordering::Relaxed);
            return true;
        }
        self.damaged(format!(
            "the checksum of bytes {from} to {} differs",
            from + length
        ));
        false
    }

    /// Notes the damage, and removes the file so that the next open builds another.
    fn damaged(&self, detail: String) {
        if self.damage.set(detail).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The description, the place of the checksums and their number, if all of it is as it was written.
fn checked(memory: &[u8]) -> Option<(Description, usize, usize)> {
    let header = Header::from_bytes(memory)?;
    let hashes_offset = usize::try_from(header.tail_offset).ok()?;
    let chunks = usize::try_from(header.chunks).ok()?;
    let hashes_bytes = chunks.checked_mul(8)?;
    let json_bytes = usize::try_from(header.json_bytes).ok()?;
    let tail_bytes = hashes_bytes.checked_add(json_bytes)?;
    let tail = memory.get(hashes_offset..hashes_offset.checked_add(tail_bytes)?)?;
    if header.hash_with(tail) != header.hash {
        return None;
    }
    let description: Description = serde_json::from_slice(&tail[hashes_bytes..]).ok()?;
    let inside = description.sections().all(|section| {
        section
            .offset
            .checked_add(section.bytes)
            .is_some_and(|end| end <= header.tail_offset)
            && section
                .first_chunk
                .checked_add(section.chunks())
                .is_some_and(|end| end <= chunks)
    });
    (inside && description.is_whole()).then_some((description, hashes_offset, chunks))
}
