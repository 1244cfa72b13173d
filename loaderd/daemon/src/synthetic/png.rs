//! A grey picture of few levels as a PNG.
//!
//! Enters: bytes, one a pixel. Leaves: a PNG (W3C Portable Network Graphics, third edition; its
//! stream is zlib, RFC 1950, with one block of fixed codes, RFC 1951 section 3.2.6). Each row is
//! stored as its difference from the row above, which is mostly zeros, and runs are stored as
//! copies of the byte before. Never: fit for photos.

/// The longest copy.
const COPY_MAX: usize = 258;
/// Adler-32's modulus.
const ADLER: u32 = 65_521;
/// Bytes after which its sums can't have overflowed yet.
const ADLER_BYTES: usize = 5552;

/// Encodes `pixels`, `[height, width]`.
pub(super) fn encode(pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
    assert_eq!(pixels.len(), width * height, "one byte a pixel");
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend((width as u32).to_be_bytes());
    header.extend((height as u32).to_be_bytes());
    // 8 bits, grey, and the only methods there are.
    header.extend([8, 0, 0, 0, 0]);
    chunk(&mut png, b"IHDR", &header);
    let mut rows = Vec::with_capacity((width + 1) * height);
    for (row, line) in pixels.chunks_exact(width).enumerate() {
        // Filter 2: up.
        rows.push(2);
        match row.checked_sub(1) {
            None => rows.extend(line),
            Some(above) => {
                let above = &pixels[above * width..][..width];
                rows.extend(line.iter().zip(above).map(|(a, b)| a.wrapping_sub(*b)));
            }
        }
    }
    chunk(&mut png, b"IDAT", &zlib(&rows));
    chunk(&mut png, b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    png.extend((data.len() as u32).to_be_bytes());
    let start = png.len();
    png.extend(kind);
    png.extend(data);
    let sum = crc(&png[start..]);
    png.extend(sum.to_be_bytes());
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Bits, the lowest first.
struct Bits {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.held |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// A Huffman code, whose highest bit comes first.
    fn code(&mut self, code: u32, count: u32) {
        self.put(code.reverse_bits() >> (32 - count), count);
    }

    /// A symbol of the fixed code for bytes and lengths.
    fn symbol(&mut self, symbol: u32) {
        match symbol {
            0..=143 => self.code(0x30 + symbol, 8),
            144..=255 => self.code(0x190 + symbol - 144, 9),
            256..=279 => self.code(symbol - 256, 7),
            _ => self.code(0xC0 + symbol - 280, 8),
        }
    }
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut bits = Bits {
        bytes: vec![0x78, 0x01],
        held: 0,
        count: 0,
    };
    // The last block, with fixed codes.
    bits.put(1, 1);
    bits.put(1, 2);
    let mut at = 0;
    while at < bytes.len() {
        let run = match at {
            0 => 0,
            _ => {
                let before = bytes[at - 1];
                let same = bytes[at..].iter().take(COPY_MAX);
                same.take_while(|&&byte| byte == before).count()
            }
        };
        if run < 3 {
            bits.symbol(bytes[at].into());
            at += 1;
            continue;
        }
        copy(&mut bits, run as u32);
        // Distance 1.
        bits.code(0, 5);
        at += run;
    }
    bits.symbol(256);
    bits.put(0, 7);
    let mut out = bits.bytes;
    let (mut a, mut b) = (1_u32, 0_u32);
    for some in bytes.chunks(ADLER_BYTES) {
        for &byte in some {
            a += u32::from(byte);
            b += a;
        }
        a %= ADLER;
        b %= ADLER;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

/// The length of a copy: RFC 1951, section 3.2.5.
fn copy(bits: &mut Bits, length: u32) {
    if length == 258 {
        return bits.symbol(285);
    }
    let over = length - 3;
    if over < 8 {
        return bits.symbol(257 + over);
    }
    let extra = over.ilog2() - 2;
    bits.symbol(257 + 4 * extra + (over >> extra));
    bits.put(over & ((1 << extra) - 1), extra);
}
