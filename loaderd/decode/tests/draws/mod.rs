//! What tests draw with: numbers from a seed.

/// The same numbers for the same seed.
pub(crate) fn noise(seed: u32) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state ^ state >> 15)
    })
}
