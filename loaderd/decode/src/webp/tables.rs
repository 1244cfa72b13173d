//! How much memory the code tables of a lossless WebP take (RFC 9649, section 3).
//!
//! Enters: the body of a VP8L chunk. Leaves: the bytes that `image-webp` allocates for its
//! Huffman tables. Never: an allocation that the file could size, or a pixel.
//!
//! A file may have 65,536 groups of five codes, whatever its size in pixels, and a code
//! that takes eight bytes there can take 70 KiB in memory. How many groups there are stands
//! in an image of its own, behind those of the transforms, so that their symbols have to
//! be read; what they mean does not matter.

/// Alphabets of a group's codes: green with lengths, red, blue, alpha, distances. A colour
/// cache adds to the first.
const ALPHABETS: [usize; 5] = [256 + 24, 256, 256, 256, 40];
/// Signature, sides, alpha, version.
const HEADER_BITS: usize = 40;
const LENGTH_MAX: usize = 15;
/// The order in which the lengths of the codes of lengths come (section 3.7.2.1.2).
const LENGTH_ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// Codes of up to this many bits are looked up in one table, longer ones in a tree.
const TABLE_BITS: usize = 10;
const TABLE_ENTRY_BYTES: u64 = 4;
const TREE_NODE_BYTES: u64 = 16;
/// Five codes of 56 bytes in a list, of which there are three lengths while it doubles.
const GROUP_BYTES: u64 = 3 * 5 * 56;

/// Bytes that the tables of a picture of `width` x `height` take together, or some number
/// above `bytes_max`. None where the file makes no sense.
pub(super) fn table_bytes(body: &[u8], width: u32, height: u32, bytes_max: u64) -> Option<u64> {
    let mut bits = Bits {
        data: body,
        at: HEADER_BITS,
    };
    let mut columns = width;
    let mut seen = [false; 4];
    while bits.read(1)? == 1 {
        let transform = bits.read(2)? as usize;
        if std::mem::replace(&mut seen[transform], true) {
            return None;
        }
        match transform {
            // Predictors, colours.
            0 | 1 => {
                let shift = bits.read(3)? + 2;
                image(&mut bits, blocks(columns, shift), blocks(height, shift))?;
            }
            // A palette, whose indices are packed where there are few.
            3 => {
                let colours = bits.read(8)? + 1;
                image(&mut bits, colours, 1)?;
                columns = match colours {
                    0..=2 => blocks(columns, 3),
                    3..=4 => blocks(columns, 2),
                    5..=16 => blocks(columns, 1),
                    _ => columns,
                };
            }
            // Green is subtracted.
            _ => {}
        }
    }
    let cached = cached_colours(&mut bits)?;
    let mut groups = 1;
    if bits.read(1)? == 1 {
        let shift = bits.read(3)? + 2;
        groups = 1 + image(&mut bits, blocks(columns, shift), blocks(height, shift))?;
    }
    let mut total = 0;
    for _ in 0..groups {
        total += GROUP_BYTES;
        for alphabet in alphabets(cached) {
            total += Lengths::read(&mut bits, alphabet)?.bytes();
        }
        if total > bytes_max {
            break;
        }
    }
    Some(total)
}

fn blocks(side: u32, shift: u32) -> u32 {
    side.div_ceil(1 << shift)
}

fn alphabets(cached: usize) -> [usize; 5] {
    let mut alphabets = ALPHABETS;
    alphabets[0] += cached;
    alphabets
}

/// Entries of the colour cache.
fn cached_colours(bits: &mut Bits<'_>) -> Option<usize> {
    if bits.read(1)? == 0 {
        return Some(0);
    }
    let size = bits.read(4)?;
    (1..=11).contains(&size).then(|| 1 << size)
}

/// Reads past an image of one group. Returns the highest number in red and green of its
/// pixels; all others repeat the literal ones.
fn image(bits: &mut Bits<'_>, columns: u32, rows: u32) -> Option<u32> {
    let mut codes = Vec::with_capacity(ALPHABETS.len());
    for alphabet in alphabets(cached_colours(bits)?) {
        codes.push(Lengths::read(bits, alphabet)?.code());
    }
    let [green, red, blue, alpha, distance] = &codes[..] else {
        unreachable!("one for each alphabet");
    };
    let (mut done, mut highest) = (0, 0);
    while done < u64::from(columns) * u64::from(rows) {
        let symbol = green.symbol(bits)?;
        match symbol {
            0..256 => {
                highest = highest.max(red.symbol(bits)? << 8 | symbol);
                blue.symbol(bits)?;
                alpha.symbol(bits)?;
                done += 1;
            }
            256..280 => {
                done += u64::from(prefixed(bits, symbol - 256)?);
                let prefix = distance.symbol(bits)?;
                prefixed(bits, prefix)?;
            }
            // From the colour cache.
            _ => done += 1,
        }
    }
    Some(highest)
}

/// A length or distance (section 3.6.2.2).
fn prefixed(bits: &mut Bits<'_>, prefix: u32) -> Option<u32> {
    if prefix < 4 {
        return Some(prefix + 1);
    }
    let extra = (prefix - 2) >> 1;
    Some(((2 + (prefix & 1)) << extra) + bits.read(extra)? + 1)
}

/// Bits from the lowest of the first byte on.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for bit in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value |= u32::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Some(value)
    }
}

/// One code as the file says it.
enum Lengths {
    One(u32),
    Two([u32; 2]),
    /// Bits of each symbol's code; 0 for a symbol that has none.
    Many(Vec<u8>),
}

impl Lengths {
    fn read(bits: &mut Bits<'_>, alphabet: usize) -> Option<Lengths> {
        if bits.read(1)? == 1 {
            let is_pair = bits.read(1)? == 1;
            let width = 1 + 7 * bits.read(1)?;
            let first = bits.read(width)?;
            let second = if is_pair { bits.read(8)? } else { first };
            if first.max(second) as usize >= alphabet {
                return None;
            }
            return Some(match is_pair {
                false => Lengths::One(first),
                true => Lengths::Two([first, second]),
            });
        }
        let mut of_lengths = vec![0; LENGTH_ORDER.len()];
        let count = 4 + bits.read(4)? as usize;
        for &place in LENGTH_ORDER.iter().take(count) {
            of_lengths[place] = bits.read(3)? as u8;
        }
        let code = Lengths::of(of_lengths)?.code();
        let mut left = alphabet;
        if bits.read(1)? == 1 {
            let width = 2 + 2 * bits.read(3)?;
            left = 2 + bits.read(width)? as usize;
        }
        let mut lengths = Vec::with_capacity(alphabet);
        let mut last = 8;
        while lengths.len() < alphabet && left > 0 {
            left -= 1;
            let (value, count) = match code.symbol(bits)? {
                16 => (last, 3 + bits.read(2)?),
                17 => (0, 3 + bits.read(3)?),
                18 => (0, 11 + bits.read(7)?),
                length => (length as u8, 1),
            };
            if value > 0 {
                last = value;
            }
            lengths.resize(lengths.len() + count as usize, value);
        }
        (lengths.len() <= alphabet).then_some(())?;
        Lengths::of(lengths)
    }

    /// One or many, if every run of bits begins with just one of the codes.
    fn of(lengths: Vec<u8>) -> Option<Lengths> {
        let mut used = (0..).zip(&lengths).filter(|&(_, &length)| length > 0);
        let (symbol, _) = used.next()?;
        if used.next().is_none() {
            return Some(Lengths::One(symbol));
        }
        let shares = lengths.iter().filter(|&&length| length > 0);
        let whole: u32 = shares
            .map(|&length| 1 << (LENGTH_MAX - length as usize))
            .sum();
        (whole == 1 << LENGTH_MAX).then_some(Lengths::Many(lengths))
    }

    /// What `image-webp` allocates for it.
    fn bytes(&self) -> u64 {
        match self {
            Lengths::One(_) => 0,
            Lengths::Two(_) => 2 * TABLE_ENTRY_BYTES + 3 * TREE_NODE_BYTES,
            Lengths::Many(lengths) => {
                let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
                let in_tree = lengths
                    .iter()
                    .filter(|&&length| length as usize > TABLE_BITS);
                (TABLE_ENTRY_BYTES << longest.min(TABLE_BITS))
                    + 2 * TREE_NODE_BYTES * in_tree.count() as u64
            }
        }
    }

    /// Ready to read with.
    fn code(self) -> Code {
        let lengths = match self {
            Lengths::One(symbol) => return Code::One(symbol),
            Lengths::Two(symbols) => return Code::Two(symbols),
            Lengths::Many(lengths) => lengths,
        };
        let mut counts = [0; LENGTH_MAX + 1];
        let mut symbols: Vec<(u8, u32)> = lengths.into_iter().zip(0..).collect();
        symbols.retain(|&(length, _)| length > 0);
        symbols.sort_unstable();
        for &(length, _) in &symbols {
            counts[length as usize] += 1;
        }
        let symbols = symbols.into_iter().map(|(_, symbol)| symbol).collect();
        Code::Many { counts, symbols }
    }
}

/// A code that can be read with.
enum Code {
    /// It takes no bits.
    One(u32),
    /// One bit each, in this order.
    Two([u32; 2]),
    /// Canonical: how many codes each length has, and their symbols in order.
    Many {
        counts: [u32; LENGTH_MAX + 1],
        symbols: Vec<u32>,
    },
}

impl Code {
    fn symbol(&self, bits: &mut Bits<'_>) -> Option<u32> {
        match self {
            Code::One(symbol) => Some(*symbol),
            Code::Two(symbols) => Some(symbols[bits.read(1)? as usize]),
            Code::Many { counts, symbols } => {
                let (mut code, mut first, mut before) = (0, 0, 0);
                for count in &counts[1..] {
                    code = code << 1 | bits.read(1)?;
                    first <<= 1;
                    if code < first + count {
                        return symbols.get((before + code - first) as usize).copied();
                    }
                    before += count;
                    first += count;
                }
                None
            }
        }
    }
}
