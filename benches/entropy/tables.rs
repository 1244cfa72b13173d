//! A DHT segment's code → a table that gives run, value and length of most symbols at once.
//!
//! Enters: how many codes have each length, and their symbols. Leaves: a [`Table`] whose entries
//! hold, for every beginning of [`LOOKUP`] bits, the sign-extended value itself where code and
//! value fit into these bits; else run, length and size; else nothing, and the code is searched by
//! its length. Never: a table of a code that overlaps itself.

use crate::bits::Bits;
use crate::error::Error;

/// Bits that one look-up sees.
pub(crate) const LOOKUP: u32 = 10;
/// The run of an end of block: further than any run leads, from any place in a block.
pub(crate) const END_RUN: u32 = 80;

/// What is coded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Symbols are sizes of differences.
    Dc,
    /// Symbols are runs and sizes.
    Ac,
}

/// One table.
pub(crate) struct Table {
    /// Bits 0–7: length of code and value together, 0 where the value is not in the entry; 8–15:
    /// run; 16–31: the value. Without a value: 16–23 length of the code, 24–31 size; both 0 where
    /// the code is longer than the look-up.
    entries: [u32; 1 << LOOKUP],
    /// By length: the first 16 bits that are too large for a code of it, and what to add to a
    /// code's number to come to its symbol.
    limits: [u32; 17],
    offsets: [i32; 17],
    symbols: [u8; 256],
    class: Class,
}

/// A symbol with its value.
#[derive(Clone, Copy)]
pub(crate) struct Symbol {
    pub(crate) run: u32,
    pub(crate) value: i32,
}

impl Table {
    /// # Errors
    /// Where there are more codes than a length has room for, or a DC size is over 15.
    pub(crate) fn new(class: Class, counts: &[u8; 16], symbols: &[u8]) -> Result<Table, Error> {
        let mut table = Table {
            entries: [0; 1 << LOOKUP],
            limits: [0; 17],
            offsets: [0; 17],
            symbols: [0; 256],
            class,
        };
        let (mut code, mut index) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            table.offsets[length as usize] = index as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                let symbol = *symbols
                    .get(index)
                    .ok_or(Error::Damaged("a Huffman table"))?;
                if code >> length != 0 || (class == Class::Dc && symbol > 15) || index > 255 {
                    return Err(Error::Damaged("a Huffman table"));
                }
                table.symbols[index] = symbol;
                table.enter(code, length, symbol);
                code += 1;
                index += 1;
            }
            table.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// Fills all entries that begin with `code`.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        let Some(rest) = LOOKUP.checked_sub(length) else {
            return;
        };
        let (run, size) = run_and_size(self.class, symbol);
        for tail in 0..1 << rest {
            self.entries[(code << rest | tail) as usize] = if size <= rest {
                let mut bits = Bits::at(0);
                bits.refill(&(u64::from(tail) << (63 - rest) << 1).to_be_bytes());
                let value = bits.value(0, size) as u32;
                value << 16 | run << 8 | (length + size)
            } else {
                size << 24 | length << 16 | run << 8
            };
        }
    }

    /// Takes the next symbol and its value, 31 bits at most, which a refill has brought. `None`:
    /// no code begins so.
    #[inline(always)]
    pub(crate) fn take(&self, bits: &mut Bits) -> Option<Symbol> {
        let mut entry = self.entries[bits.peek(LOOKUP)];
        if entry & 0xFF != 0 {
            bits.skip(entry);
            return Some(Symbol {
                run: entry >> 8 & 0xFF,
                value: entry as i32 >> 16,
            });
        }
        if entry == 0 {
            // Numbers in and out: a reference would keep the reader out of registers.
            entry = self.search(bits.peek(16) as u32)?;
        }
        let (length, size) = (entry >> 16 & 0xFF, entry >> 24);
        let value = bits.value(length, size);
        bits.skip(length + size);
        Some(Symbol {
            run: entry >> 8 & 0xFF,
            value,
        })
    }

    /// The entry of a code that is longer than the look-up.
    #[cold]
    #[inline(never)]
    fn search(&self, next: u32) -> Option<u32> {
        let length = (LOOKUP + 1..=16).find(|&length| next < self.limits[length as usize])?;
        let index = (next >> (16 - length)) as i32 + self.offsets[length as usize];
        let symbol = *self.symbols.get(usize::try_from(index).ok()?)?;
        let (run, size) = run_and_size(self.class, symbol);
        Some(entry(length, run, size))
    }
}

fn entry(length: u32, run: u32, size: u32) -> u32 {
    size << 24 | length << 16 | run << 8
}

fn run_and_size(class: Class, symbol: u8) -> (u32, u32) {
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    match class {
        Class::Dc => (0, size),
        // Sixteen zeros are fifteen and one more, whose value is 0.
        Class::Ac if size != 0 || run == 15 => (run, size),
        // As in libjpeg, also with a run that only progressive files know.
        Class::Ac => (END_RUN, 0),
    }
}
