//! The finish with AVX2 and F16C.
//!
//! Enters and leaves: what the portable code takes and gives, to the bit. Never: a look
//! at the CPU; the caller has looked.

use std::arch::x86_64::{
    _MM_FROUND_TO_NEAREST_INT, _mm_loadl_epi64, _mm_storeu_si128, _mm256_add_ps,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtps_ph, _mm256_loadu_ps, _mm256_mul_ps,
    _mm256_set1_ps,
};

use super::{GROUP, Levels, Runs};
use crate::transforms::Layout;

/// The same code, compiled for wider registers.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn convert(layout: Layout, levels: &Levels, runs: impl Runs) {
    super::convert_with(
        layout,
        levels,
        runs,
        |bytes, gain, bias, to| float16_row(bytes, gain, bias, to),
        |values, to| float16_store(values, to),
    );
}

#[target_feature(enable = "avx2,f16c")]
fn float16_store(values: &[f32; GROUP], to: &mut [u8]) {
    let mut halves = [0u8; 2 * GROUP];
    for (values, to) in values.chunks_exact(8).zip(halves.chunks_exact_mut(16)) {
        // SAFETY: reads the 8 floats of the chunk, unaligned.
        let eight = unsafe { _mm256_loadu_ps(values.as_ptr()) };
        let eight = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(eight);
        // SAFETY: writes the 16 bytes of the chunk, unaligned.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), eight) };
    }
    to.copy_from_slice(&halves[..to.len()]);
}

#[target_feature(enable = "avx2,f16c")]
fn float16_row(bytes: &[u8], gain: f32, bias: f32, to: &mut [u8]) {
    let whole = bytes.len() / 8 * 8;
    let (gains, biases) = (_mm256_set1_ps(gain), _mm256_set1_ps(bias));
    for (bytes, to) in bytes.chunks_exact(8).zip(to.chunks_exact_mut(16)) {
        // SAFETY: reads the 8 bytes of the chunk, unaligned.
        let eight = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
        let values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
        let values = _mm256_add_ps(_mm256_mul_ps(gains, values), biases);
        let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
        // SAFETY: writes the 16 bytes of the chunk, unaligned.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), halves) };
    }
    super::float16_row(&bytes[whole..], gain, bias, &mut to[2 * whole..]);
}
