//! A JPEG's Huffman code → a table that tells in one look what follows.
//!
//! Enters: how many codes have each length, and their symbols (ITU-T T.81, C.2), which libjpeg
//! has checked. Leaves: for every beginning of [`LOOK`] bits, the code's length and the run and
//! size of its symbol; nothing where the code is longer, which is then searched by its length.
//! Never: a panic for any counts and symbols.

/// Bits that one look sees.
const LOOK: u32 = 10;

/// Run of an end of block: from any place, beyond the block's last value.
const END_RUN: u32 = 64;

/// Longest code.
const LONGEST: u32 = 16;

/// One table.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    entries: [Symbol; 1 << LOOK],
    /// By length: the first 16 bits that are too large for a code of it.
    limits: [u32; LONGEST as usize + 1],
    /// By length: what to add to a code to come to its symbol.
    offsets: [u32; LONGEST as usize + 1],
    symbols: [u8; 256],
}

/// A symbol, packed: bits 0 to 7 are the length of code and value, at most 31; 8 to 15 that of the
/// code; 16 to 23 that of the value; 24 to 31 the run. 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Symbol(u32);

impl Symbol {
    /// Zeros before the value, with 15 of them and no value one more; any other symbol without a
    /// value ends the block. Differences of DC values are the symbols without a run.
    fn new(symbol: u8, code_bits: u32) -> Symbol {
        let (run, size) = match (u32::from(symbol >> 4), u32::from(symbol & 15)) {
            (0..15, 0) => (END_RUN, 0),
            both => both,
        };
        Symbol(run << 24 | size << 16 | code_bits << 8 | (code_bits + size))
    }

    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 & 0xff
    }

    #[inline(always)]
    pub(super) fn run(self) -> usize {
        (self.0 >> 24) as usize
    }

    /// The value behind the code that is at the top of `bits` (EXTEND of F.2.2.1): with a leading
    /// zero, a negative one.
    #[inline(always)]
    pub(super) fn value(self, bits: u64) -> i32 {
        let size = self.0 >> 16 & 15;
        let rest = bits << (self.0 >> 8 & 31);
        // All ones for a negative number, whose bits are those of the positive one, inverted.
        let sign = !((rest as i64) >> 63);
        let size_bits = (rest ^ sign as u64) >> 1 >> (63 - size);
        ((size_bits as i64 ^ sign) - sign) as i32
    }
}

impl Default for Codes {
    fn default() -> Codes {
        Codes {
            entries: [Symbol::default(); 1 << LOOK],
            limits: [0; LONGEST as usize + 1],
            offsets: [0; LONGEST as usize + 1],
            symbols: [0; 256],
        }
    }
}

impl Codes {
    /// Makes the table anew. `counts` are those of lengths 1 to 16.
    pub(super) fn set(&mut self, counts: &[u8; 16], symbols: &[u8; 256]) {
        self.symbols = *symbols;
        let (mut code, mut index, mut filled) = (0u32, 0u32, 0);
        for (length, &count) in (1..=LONGEST).zip(counts) {
            self.offsets[length as usize] = index.wrapping_sub(code);
            for _ in 0..count {
                // Shorter codes come first, so entries are filled in order.
                if length <= LOOK && filled < self.entries.len() {
                    let end = filled + (1 << (LOOK - length));
                    let end = end.min(self.entries.len());
                    let symbol = Symbol::new(symbols[index as usize & 255], length);
                    self.entries[filled..end].fill(symbol);
                    filled = end;
                }
                code += 1;
                index += 1;
            }
            self.limits[length as usize] = code << (LONGEST - length);
            code <<= 1;
        }
        self.entries[filled..].fill(Symbol::default());
    }

    /// The symbol whose code is at the top of `bits`; `None` where no code begins so.
    #[inline(always)]
    pub(super) fn look(&self, bits: u64) -> Option<Symbol> {
        match self.entries[(bits >> (64 - LOOK)) as usize] {
            Symbol(0) => self.search(bits),
            symbol => Some(symbol),
        }
    }

    #[inline(never)]
    fn search(&self, bits: u64) -> Option<Symbol> {
        let code = (bits >> (64 - LONGEST)) as u32;
        let length = (LOOK + 1..=LONGEST).find(|&length| code < self.limits[length as usize])?;
        let index = self.offsets[length as usize].wrapping_add(code >> (LONGEST - length));
        Some(Symbol::new(self.symbols[index as usize & 255], length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_extended_as_in_the_standard() {
        for (bits, size, value) in [
            (0, 0, 0),
            (0, 1, -1),
            (1, 1, 1),
            (0, 3, -7),
            (3, 3, -4),
            (4, 3, 4),
            (7, 3, 7),
            (0, 15, -32_767),
            (0x7fff, 15, 32_767),
        ] {
            for code_bits in 1..=16 {
                let symbol = Symbol::new(size as u8, code_bits);
                let bits = bits << 1 << (63 - size) >> code_bits | 1;
                assert_eq!(symbol.value(bits), value, "{bits:b} of {size}");
                assert_eq!(symbol.bits(), code_bits + size);
            }
        }
    }

    /// A code of each length: 0, 10, 110, …
    #[test]
    fn codes_are_found() {
        let symbols: [u8; 256] = std::array::from_fn(|index| (index % 16) as u8 | 0x20);
        let mut codes = Codes::default();
        // What was there before leaves no trace.
        codes.set(
            &[0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x11; 256],
        );
        codes.set(&[1; 16], &symbols);
        for length in 1..=LONGEST {
            let code = !(u64::MAX >> (length - 1));
            let expected = Some(Symbol::new(symbols[length as usize - 1], length));
            for rest in [0, u64::MAX >> length] {
                assert_eq!(codes.look(code | rest), expected, "{length} bits");
            }
        }
        assert_eq!(codes.look(u64::MAX), None);
    }

    #[test]
    fn runs_and_ends() {
        for (symbol, run) in [(0x00, 64), (0x10, 64), (0xe0, 64), (0xf0, 15), (0x35, 3)] {
            assert_eq!(Symbol::new(symbol, 4).run(), run, "{symbol:02x}");
        }
    }

    /// Counts that no file gets past libjpeg with.
    #[test]
    fn nonsense_does_no_harm() {
        let mut codes = Codes::default();
        codes.set(&[255; 16], &[0xff; 256]);
        for bits in [0, u64::MAX, 0x1234_5678_9abc_def0] {
            codes.look(bits);
        }
    }
}
