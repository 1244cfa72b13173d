//! Sums from the left with SSE2, which every x86-64 CPU has.
//!
//! Enters: differences in groups of sixteen. Leaves: their sums in place. Never: a look at
//! what is above.

use std::arch::x86_64::{
    _mm_add_epi8, _mm_cvtsi128_si32, _mm_loadu_si128, _mm_setzero_si128, _mm_shuffle_epi32,
    _mm_shufflehi_epi16, _mm_slli_si128, _mm_storeu_si128, _mm_unpackhi_epi8,
};

/// Makes each value the sum of those up to it; returns the last one.
#[target_feature(enable = "sse2")]
pub(super) fn sum_up(groups: &mut [[u8; 16]]) -> u8 {
    let mut left = _mm_setzero_si128();
    for values in groups {
        // SAFETY: reads the 16 bytes, unaligned.
        let mut sums = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
        sums = _mm_add_epi8(sums, _mm_slli_si128::<1>(sums));
        sums = _mm_add_epi8(sums, _mm_slli_si128::<2>(sums));
        sums = _mm_add_epi8(sums, _mm_slli_si128::<4>(sums));
        sums = _mm_add_epi8(sums, _mm_slli_si128::<8>(sums));
        // SAFETY: writes the 16 bytes, unaligned.
        unsafe { _mm_storeu_si128(values.as_mut_ptr().cast(), _mm_add_epi8(sums, left)) };
        // The group's sum in all bytes, so that one addition is all that groups wait for.
        let twice = _mm_unpackhi_epi8(sums, sums);
        let all = _mm_shuffle_epi32::<0xff>(_mm_shufflehi_epi16::<0xff>(twice));
        left = _mm_add_epi8(left, all);
    }
    _mm_cvtsi128_si32(left) as u8
}
