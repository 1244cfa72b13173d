//! Writing the parts of a map that take more than one run of bytes: nulls, values.
//!
//! Enters: rows, one by one. Leaves: sections. Their memory does not grow with the rows.

use super::Variable;
use super::format::{ENTRY_BYTES, Entry, Nulls, Values};
use super::writer::{MapWriter, SectionWriter};
use crate::MapError;

/// Zero bytes are written in pieces of this.
const ZEROS: [u8; 4096] = [0; 4096];

/// Which rows of a fixed column are null. Nothing is written before the first one.
pub struct NullsWriter {
    section: SectionWriter,
    /// Whole bytes written.
    bytes: u64,
    /// The byte begun.
    bits: u8,
    rows: u64,
    nulls: u64,
}

impl NullsWriter {
    /// For at most `rows_max` rows.
    pub fn new(writer: &mut MapWriter, rows_max: u64) -> Self {
        Self {
            section: writer.section(rows_max.div_ceil(8)),
            bytes: 0,
            bits: 0,
            rows: 0,
            nulls: 0,
        }
    }

    /// `count` rows, of which those with a flag are null.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn append(
        &mut self,
        writer: &MapWriter,
        count: usize,
        nulls: Option<&[bool]>,
    ) -> Result<(), MapError> {
        let nulls = nulls.unwrap_or_default().iter().enumerate();
        for row in nulls.filter_map(|(row, is_null)| is_null.then_some(row as u64)) {
            let at = self.rows + row;
            self.reach(writer, at / 8)?;
            self.bits |= 1 << (at % 8);
            self.nulls += 1;
        }
        self.rows += count as u64;
        Ok(())
    }

    /// Writes bytes out until `byte` is the one begun.
    fn reach(&mut self, writer: &MapWriter, byte: u64) -> Result<(), MapError> {
        if self.bytes < byte {
            writer.append(&mut self.section, &[self.bits])?;
            self.bits = 0;
            self.bytes += 1;
        }
        while self.bytes < byte {
            let count = (byte - self.bytes).min(ZEROS.len() as u64);
            writer.append(&mut self.section, &ZEROS[..count as usize])?;
            self.bytes += count;
        }
        Ok(())
    }

    /// Writes what is left and says where it lies.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn close(mut self, writer: &mut MapWriter) -> Result<Nulls, MapError> {
        let bits = match self.nulls {
            0 => None,
            _ => {
                writer.append(&mut self.section, &[self.bits])?;
                Some(writer.close(self.section)?)
            }
        };
        Ok(Nulls {
            rows: self.nulls,
            bits,
        })
    }
}

/// The values of a variable column.
pub struct ValuesWriter {
    entries: SectionWriter,
    bytes: SectionWriter,
    end: u64,
}

impl ValuesWriter {
    /// For at most `rows_max` rows with at most `bytes_max` together.
    pub fn new(writer: &mut MapWriter, rows_max: u64, bytes_max: u64) -> Self {
        Self {
            entries: writer.section((rows_max + 1) * ENTRY_BYTES as u64),
            bytes: writer.section(bytes_max),
            end: 0,
        }
    }

    /// The next row.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn append(&mut self, writer: &MapWriter, value: Variable<'_>) -> Result<(), MapError> {
        let entry = match value {
            Variable::Value(_) => Entry::Value(self.end),
            Variable::Null => Entry::Null(self.end),
            Variable::Slow => Entry::Slow(self.end),
        };
        writer.append(&mut self.entries, &entry.to_bytes())?;
        if let Variable::Value(bytes) = value {
            writer.append(&mut self.bytes, bytes)?;
            self.end += bytes.len() as u64;
        }
        Ok(())
    }

    /// Writes what is left and says where it lies.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn close(mut self, writer: &mut MapWriter) -> Result<Values, MapError> {
        let end = Entry::Value(self.end);
        writer.append(&mut self.entries, &end.to_bytes())?;
        Ok(Values {
            entries: writer.close(self.entries)?,
            bytes: writer.close(self.bytes)?,
        })
    }
}
