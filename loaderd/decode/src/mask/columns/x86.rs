//! Picking with SSSE3.
//!
//! Enters and leaves: what picking byte by byte takes and gives. Never: a look at the CPU; the
//! caller has looked.

use std::arch::x86_64::{
    _mm_loadu_si128, _mm_or_si128, _mm_setzero_si128, _mm_shuffle_epi8, _mm_storeu_si128,
};

use super::{GROUP, Groups, Piece};

/// `source` has the bytes that the groups ask for, and `line` their pixels (else this panics).
#[target_feature(enable = "ssse3")]
pub(super) fn pick(groups: &Groups, source: &[u8], line: &mut [u8]) {
    // With their number known, the pieces of a group need no loop.
    match groups.pieces_a_group {
        1 => pick_by::<1>(groups, source, line),
        2 => pick_by::<2>(groups, source, line),
        3 => pick_by::<3>(groups, source, line),
        4 => pick_by::<4>(groups, source, line),
        _ => {
            let groups_of_pieces = groups.pieces.chunks_exact(groups.pieces_a_group);
            pick_each(groups_of_pieces, source, line);
        }
    }
}

#[target_feature(enable = "ssse3")]
fn pick_by<const PIECES: usize>(groups: &Groups, source: &[u8], line: &mut [u8]) {
    let (pieces, _) = groups.pieces.as_chunks::<PIECES>();
    pick_each(pieces.iter(), source, line);
}

#[inline]
#[target_feature(enable = "ssse3")]
fn pick_each<P: AsRef<[Piece]>>(groups: impl Iterator<Item = P>, source: &[u8], line: &mut [u8]) {
    let last = line.len() - GROUP;
    for (index, pieces) in groups.enumerate() {
        let mut picked = _mm_setzero_si128();
        for piece in pieces.as_ref() {
            let from = &source[piece.start..][..GROUP];
            // SAFETY: reads the 16 bytes of each, unaligned.
            let (from, bytes) = unsafe {
                (
                    _mm_loadu_si128(from.as_ptr().cast()),
                    _mm_loadu_si128(piece.bytes.as_ptr().cast()),
                )
            };
            // A number with its highest bit set gives a zero.
            picked = _mm_or_si128(picked, _mm_shuffle_epi8(from, bytes));
        }
        let to = &mut line[(index * GROUP).min(last)..][..GROUP];
        // SAFETY: writes the 16 bytes, unaligned.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), picked) };
    }
}
