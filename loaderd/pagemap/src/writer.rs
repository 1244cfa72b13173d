//! Writing a page map while the rows stream by.
//!
//! Enters: sections' bytes in any interleaving. Leaves: a whole file under its final name, or
//! nothing. Its memory does not grow with the rows: a buffer a section, and a bounded list of runs.
//!
//! Every section gets a region as long as it can become; the file is sparse, so what is not
//! written costs nothing, and nothing is copied when the true lengths are known.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::Xxh3;

use super::cache::Target;
use super::format::{
    CHUNK_BYTES, Description, HEADER_BYTES, Header, Numbers, PAGE_BYTES, RUN_BYTES, Section,
};
use crate::MapError;

/// Bytes that a section gathers before it writes.
const BUFFER_BYTES: usize = 256 << 10;
/// Runs kept in memory (16 MiB) before a column of numbers is written out one by one.
const RUNS_MAX: usize = 1 << 20;

/// A map in the making. Dropped unfinished, it leaves nothing.
pub struct MapWriter {
    target: Target,
    /// Where the next region begins.
    end: u64,
    hashes: Vec<u64>,
}

impl MapWriter {
    /// Writes to `target`.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            end: PAGE_BYTES,
            hashes: Vec::new(),
        }
    }

    /// A section of at most `bytes_max`.
    pub fn section(&mut self, bytes_max: u64) -> SectionWriter {
        let offset = self.end;
        self.end += bytes_max.next_multiple_of(PAGE_BYTES);
        SectionWriter {
            offset,
            bytes: 0,
            bytes_max,
            buffer: Vec::new(),
            hasher: Xxh3::new(),
            hashes: Vec::new(),
        }
    }

    /// A column of at most `rows_max` numbers.
    pub fn numbers(&mut self, rows_max: u64) -> NumbersWriter {
        NumbersWriter {
            runs: Vec::new(),
            count: 0,
            last: 0,
            raw: self.section(rows_max * 8),
            is_raw: false,
        }
    }

    /// Appends bytes to a section.
    ///
    /// # Errors
    /// Where the file cannot be written.
    ///
    /// # Panics
    /// If the section outgrows what was reserved for it.
    pub fn append(&self, section: &mut SectionWriter, bytes: &[u8]) -> Result<(), MapError> {
        section
            .append(self.target.file(), bytes)
            .map_err(|e| self.target.failed(e, self.end))
    }

    /// Appends numbers to a column of them.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn append_numbers(
        &self,
        numbers: &mut NumbersWriter,
        values: &[u64],
    ) -> Result<(), MapError> {
        numbers
            .append(self.target.file(), values)
            .map_err(|e| self.target.failed(e, self.end))
    }

    /// Closes a section and says where it lies.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn close(&mut self, section: SectionWriter) -> Result<Section, MapError> {
        let (mut closed, hashes) = section
            .finish(self.target.file())
            .map_err(|e| self.target.failed(e, self.end))?;
        closed.first_chunk = self.hashes.len();
        self.hashes.extend(hashes);
        Ok(closed)
    }

    /// Closes a column of numbers and says where it lies, in the shorter encoding.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn close_numbers(&mut self, mut numbers: NumbersWriter) -> Result<Numbers, MapError> {
        let runs_bytes = numbers.runs.len() * RUN_BYTES;
        if !numbers.is_raw && runs_bytes as u64 > numbers.count * 8 + PAGE_BYTES {
            numbers
                .write_out(self.target.file())
                .map_err(|e| self.target.failed(e, self.end))?;
        }
        if numbers.is_raw {
            return Ok(Numbers::Raw(self.close(numbers.raw)?));
        }
        let mut section = self.section(runs_bytes as u64);
        for (index, value) in numbers.runs {
            self.append(&mut section, &index.to_le_bytes())?;
            self.append(&mut section, &value.to_le_bytes())?;
        }
        Ok(Numbers::Runs(self.close(section)?))
    }

    /// Writes checksums, description and header, and gives the file its name.
    ///
    /// # Errors
    /// Where the file cannot be written or named.
    pub fn finish(self, description: &Description) -> Result<(), MapError> {
        let json = serde_json::to_vec(description).expect("strings and numbers become JSON");
        let mut tail: Vec<u8> = self.hashes.iter().flat_map(|h| h.to_le_bytes()).collect();
        tail.extend_from_slice(&json);
        let mut header = Header {
            tail_offset: self.end,
            chunks: self.hashes.len() as u64,
            json_bytes: json.len() as u64,
            hash: 0,
        };
        header.hash = header.hash_with(&tail);
        let file = self.target.file();
        let head: [u8; HEADER_BYTES] = header.to_bytes();
        file.write_all_at(&tail, self.end)
            .and_then(|()| file.write_all_at(&head, 0))
            .and_then(|()| file.sync_data())
            .map_err(|e| self.target.failed(e, self.end))?;
        self.target.publish()
    }
}

/// One section's bytes on their way to the file.
pub struct SectionWriter {
    offset: u64,
    bytes: u64,
    bytes_max: u64,
    buffer: Vec<u8>,
    /// Over the chunk begun.
    hasher: Xxh3,
    /// Of the chunks that are whole.
    hashes: Vec<u64>,
}

impl SectionWriter {
    fn append(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush(file)?;
        }
        Ok(())
    }

    fn flush(&mut self, file: &File) -> io::Result<()> {
        let fits = self.bytes + self.buffer.len() as u64 <= self.bytes_max;
        assert!(fits, "a section outgrew its region");
        file.write_all_at(&self.buffer, self.offset + self.bytes)?;
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let room = CHUNK_BYTES - (self.bytes % CHUNK_BYTES as u64) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.hasher.update(now);
            self.bytes += now.len() as u64;
            if now.len() == room {
                self.hashes.push(self.hasher.digest());
                self.hasher.reset();
            }
            rest = later;
        }
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, file: &File) -> io::Result<(Section, Vec<u64>)> {
        self.flush(file)?;
        if !self.bytes.is_multiple_of(CHUNK_BYTES as u64) {
            self.hashes.push(self.hasher.digest());
        }
        let section = Section {
            offset: self.offset,
            bytes: self.bytes,
            first_chunk: 0,
        };
        Ok((section, self.hashes))
    }
}

/// A column of numbers that mostly count up: runs while they are few, else one by one.
pub struct NumbersWriter {
    runs: Vec<(u64, u64)>,
    count: u64,
    last: u64,
    raw: SectionWriter,
    is_raw: bool,
}

impl NumbersWriter {
    fn append(&mut self, file: &File, values: &[u64]) -> io::Result<()> {
        if !self.is_raw {
            for &value in values {
                if self.count == 0 || value != self.last.wrapping_add(1) {
                    self.runs.push((self.count, value));
                }
                self.count += 1;
                self.last = value;
            }
            if self.runs.len() > RUNS_MAX {
                self.write_out(file)?;
            }
            return Ok(());
        }
        self.count += values.len() as u64;
        for value in values {
            self.raw.append(file, &value.to_le_bytes())?;
        }
        Ok(())
    }

    /// From runs to numbers one by one.
    fn write_out(&mut self, file: &File) -> io::Result<()> {
        let runs = std::mem::take(&mut self.runs);
        for (at, (index, value)) in runs.iter().enumerate() {
            let end = runs.get(at + 1).map_or(self.count, |(next, _)| *next);
            for step in 0..end - index {
                self.raw
                    .append(file, &value.wrapping_add(step).to_le_bytes())?;
            }
        }
        self.is_raw = true;
        Ok(())
    }
}
