//! A JPEG's Huffman code → a table that tells in one look what follows.
//!
//! Enters: how many codes have each length, and their symbols (ITU-T T.81, C.2), which libjpeg
//! has checked. Leaves: for every beginning of [`LOOK`] bits, the code's length and the run and
//! size of its symbol; nothing where the code is longer, which is then searched by its length.
//! Of AC codes, two symbols at once where the second, with its value, lies in those bits as well:
//! what a step costs is the wait for the table, not what is done with its entry.
//! Never: a panic for any counts and symbols.

/// Bits that one look at an AC table sees.
const LOOK: u32 = LOOKS.ilog2();

/// Entries of an AC table.
const LOOKS: usize = 1 << 10;

/// Entries of a DC table, which has few symbols and no pairs.
const DC_LOOKS: usize = 1 << 8;

/// Run of an end of block: from any place, beyond the block's last value.
const END_RUN: u32 = 64;

/// Longest code.
const LONGEST: u32 = 16;

/// One table of symbols, which sees `LOOKS` beginnings, a power of two.
#[derive(Debug, Clone)]
pub(super) struct Codes<const LOOKS: usize> {
    entries: [Symbol; LOOKS],
    /// By length: the first 16 bits that are too large for a code of it.
    limits: [u32; LONGEST as usize + 1],
    /// By length: what to add to a code to come to its symbol.
    offsets: [u32; LONGEST as usize + 1],
    symbols: [u8; 256],
}

/// A symbol, packed: bits 0 to 5 are the length of code and value, at most 31; 8 to 13 that of the
/// code; 16 to 21 are 63 less that of the value; 24 to 31 the run. 0 is none.
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
        Symbol(run << 24 | (63 - size) << 16 | code_bits << 8 | (code_bits + size))
    }

    /// Length of code and value.
    #[inline(always)]
    pub(super) fn bits(self) -> Length {
        Length(self.0)
    }

    #[inline(always)]
    fn run(self) -> u32 {
        self.0 >> 24
    }

    /// The value behind the code that is at the top of `bits` (EXTEND of F.2.2.1): with a leading
    /// zero, a negative one.
    #[inline(always)]
    pub(super) fn value(self, bits: u64) -> i32 {
        let packed = u64::from(self.0);
        let rest = bits << (packed >> 8 & 63);
        // All ones for a negative number, whose bits are as many ones too large.
        let sign = (!rest as i64) >> 63;
        let places = packed >> 16 & 63;
        ((rest >> 1 >> places) as i32).wrapping_sub((sign as u64 >> 1 >> places) as i32)
    }
}

/// A number of bits below 64, in the lowest six of it. What stands above is of no account, so that
/// a packed entry needs no unpacking before it shifts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length(pub(super) u32);

/// One step through a block: a symbol, and the one behind it where the look has seen all of it.
/// Packed: bits 0 to 31 as a [`Symbol`]'s, but that 0 to 5 are the length of both; 32 to 47 the
/// second value; 56 to 63 the places from the first value to the one behind the second, or behind
/// the first where there is no second. 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Step(u64);

/// What a symbol adds to a step whose first it is not. 0 where the look has not seen all of it.
#[derive(Debug, Clone, Copy, Default)]
struct Second(u64);

impl Second {
    /// `look` has the symbol's code and value at the top.
    #[inline(always)]
    fn of(symbol: Symbol, look: u64) -> Second {
        let bits = symbol.0 & 63;
        let value = symbol.value(look) as u16;
        let places = u64::from(symbol.run() + 1);
        let all = places << 56 | u64::from(value) << 32 | u64::from(bits);
        Second(if bits.wrapping_sub(1) < LOOK { all } else { 0 })
    }
}

impl Step {
    /// A symbol, and what the look holds behind it.
    #[inline(always)]
    fn of(first: Symbol, second: Second) -> Step {
        if first == Symbol::default() {
            return Step(0);
        }
        let bits = (first.0 & 63) + (second.0 as u32 & 63);
        let fits = first.run() < END_RUN && bits <= LOOK;
        // Nothing carries over: each part has room for the sum.
        let one = 1 << 56 | u64::from(first.0);
        Step(one + if fits { second.0 } else { 0 })
    }

    /// The first symbol. Its length of code and value is not to be had from it.
    #[inline(always)]
    pub(super) fn first(self) -> Symbol {
        Symbol(self.0 as u32)
    }

    /// Length of the first symbol's code and value.
    #[inline(always)]
    pub(super) fn first_bits(self) -> Length {
        Length((self.0 as u32 >> 8 & 63) + 63 - (self.0 as u32 >> 16 & 63))
    }

    /// Length of all.
    #[inline(always)]
    pub(super) fn bits(self) -> Length {
        Length(self.0 as u32)
    }

    /// Zeros before the first value.
    #[inline(always)]
    pub(super) fn run(self) -> usize {
        (self.0 as u32 >> 24) as usize
    }

    /// Places from the first value to the one behind all.
    #[inline(always)]
    pub(super) fn places(self) -> usize {
        (self.0 >> 56) as usize
    }

    /// The second value.
    #[inline(always)]
    pub(super) fn second(self) -> i16 {
        (self.0 >> 32) as i16
    }
}

/// A table of AC codes.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    entries: [Step; LOOKS],
    codes: Codes<LOOKS>,
    /// Only for the making of it.
    seconds: [Second; LOOKS],
}

impl Default for Steps {
    fn default() -> Steps {
        Steps {
            entries: [Step::default(); LOOKS],
            codes: Codes::default(),
            seconds: [Second::default(); LOOKS],
        }
    }
}

impl Steps {
    /// Makes the table anew, as [`Codes::set`].
    pub(super) fn set(&mut self, counts: &[u8; 16], symbols: &[u8; 256]) {
        self.codes.set(counts, symbols);
        let singles = &self.codes.entries;
        let seconds = &mut self.seconds;
        for (look, (second, &symbol)) in seconds.iter_mut().zip(singles).enumerate() {
            *second = Second::of(symbol, (look as u64) << (64 - LOOK));
        }
        for (look, (entry, &first)) in self.entries.iter_mut().zip(singles).enumerate() {
            *entry = Step::of(first, seconds[look << (first.0 & 63) & (LOOKS - 1)]);
        }
    }

    /// What to do where `bits` are at the top; `None` where no code begins so.
    #[inline(always)]
    pub(super) fn look(&self, bits: u64) -> Option<Step> {
        match self.entries[(bits >> (64 - LOOK)) as usize] {
            Step(0) => self
                .codes
                .search(bits)
                .map(|symbol| Step::of(symbol, Second(0))),
            step => Some(step),
        }
    }
}

/// A table of DC codes.
pub(super) type DcCodes = Codes<DC_LOOKS>;

impl<const LOOKS: usize> Default for Codes<LOOKS> {
    fn default() -> Codes<LOOKS> {
        Codes {
            entries: [Symbol::default(); LOOKS],
            limits: [0; LONGEST as usize + 1],
            offsets: [0; LONGEST as usize + 1],
            symbols: [0; 256],
        }
    }
}

impl<const LOOKS: usize> Codes<LOOKS> {
    const LOOK: u32 = LOOKS.ilog2();

    /// Makes the table anew. `counts` are those of lengths 1 to 16.
    pub(super) fn set(&mut self, counts: &[u8; 16], symbols: &[u8; 256]) {
        self.symbols = *symbols;
        let (mut code, mut index, mut filled) = (0u32, 0u32, 0);
        for (length, &count) in (1..=LONGEST).zip(counts) {
            self.offsets[length as usize] = index.wrapping_sub(code);
            for _ in 0..count {
                // Shorter codes come first, so entries are filled in order.
                if length <= Self::LOOK && filled < self.entries.len() {
                    let end = filled + (1 << (Self::LOOK - length));
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
        match self.entries[(bits >> (64 - Self::LOOK)) as usize] {
            Symbol(0) => self.search(bits),
            symbol => Some(symbol),
        }
    }

    #[inline(never)]
    fn search(&self, bits: u64) -> Option<Symbol> {
        let code = (bits >> (64 - LONGEST)) as u32;
        let length =
            (Self::LOOK + 1..=LONGEST).find(|&length| code < self.limits[length as usize])?;
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
                assert_eq!(symbol.bits().0 & 63, code_bits + size);
            }
        }
    }

    /// A code of each length: 0, 10, 110, …
    #[test]
    fn codes_are_found() {
        let symbols: [u8; 256] = std::array::from_fn(|index| (index % 16) as u8 | 0x20);
        let mut codes = DcCodes::default();
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

    /// Values that are read step by step are those that are read symbol by symbol, and so are the
    /// places and bits where a block ends.
    #[test]
    fn steps_are_symbols() {
        // Short codes for short values, as optimised tables have them, and all that is odd.
        let mut symbols = [0; 256];
        symbols[..14].copy_from_slice(&[
            0x01, 0x00, 0x11, 0x02, 0x21, 0xf0, 0x03, 0x52, 0xe1, 0x15, 0xf1, 0x30, 0x08, 0x0f,
        ]);
        let mut counts = [1u8; 16];
        counts[13..].fill(0);
        counts[12] = 2;
        let (mut steps, mut codes) = (Steps::default(), Codes::<LOOKS>::default());
        steps.set(&counts, &symbols);
        codes.set(&counts, &symbols);
        let mut state = 1u64;
        let mut pairs = 0;
        for _ in 0..20_000 {
            let bits = std::array::from_fn::<u64, 8, _>(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                state ^ state >> 29
            });
            let look =
                |at: usize| bits[at / 64] << (at % 64) | bits[at / 64 + 1] >> 1 >> (63 - at % 64);
            let mut expected = vec![];
            let (mut at, mut used) = (1, 0);
            while at < 64 && used < 400 {
                let Some(symbol) = codes.look(look(used)) else {
                    break;
                };
                at += symbol.run() as usize;
                expected.push((at, symbol.value(look(used)) as i16));
                at += 1;
                used += symbol.bits().0 as usize & 63;
            }
            let mut found = vec![];
            let (mut place, mut read) = (1, 0);
            while place < 64 && read < 400 {
                let Some(step) = steps.look(look(read)) else {
                    break;
                };
                place += step.run();
                found.push((place, step.first().value(look(read)) as i16));
                if place >= 63 {
                    read += step.first_bits().0 as usize;
                    place += 1;
                    break;
                }
                if step.places() > 1 {
                    found.push((place + step.places() - 1, step.second()));
                    pairs += 1;
                }
                place += step.places();
                read += step.bits().0 as usize & 63;
            }
            // Either may stop first where the bits end.
            let count = match used.max(read) < 400 {
                true => {
                    assert_eq!((place, read), (at, used));
                    found.len()
                }
                false => found.len().min(expected.len()),
            };
            assert_eq!(found[..count], expected[..count]);
        }
        assert!(pairs > 20_000);
    }

    /// Counts that no file gets past libjpeg with.
    #[test]
    fn nonsense_does_no_harm() {
        let mut codes = DcCodes::default();
        codes.set(&[255; 16], &[0xff; 256]);
        let mut steps = Steps::default();
        steps.set(&[255; 16], &[0xff; 256]);
        for bits in [0, u64::MAX, 0x1234_5678_9abc_def0] {
            codes.look(bits);
            steps.look(bits);
        }
    }
}
