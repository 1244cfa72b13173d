//! Copying large values into slots without driving everything else out of the cache.
//!
//! Enters: bytes of a page map or of memory. Leaves: the same bytes in a slot. A large batch
//! is read next by another process, or by a DMA engine, and is larger than the cache anyway;
//! written through the cache it would evict the code and data of all who wait for it.

/// Copies `from` to `to` with stores that go round the cache, where the machine has them.
///
/// Both must have the same length. When it returns, the bytes are visible to whoever learns
/// of it through an ordinary release and acquire.
pub(super) fn past_cache(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len());
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        const LANE: usize = size_of::<__m128i>();
        let head = to.as_ptr().align_offset(LANE).min(to.len());
        let (to_head, to_rest) = to.split_at_mut(head);
        let (from_head, from_rest) = from.split_at(head);
        to_head.copy_from_slice(from_head);
        let mut lanes = to_rest.chunks_exact_mut(LANE);
        for (to, from) in lanes.by_ref().zip(from_rest.chunks_exact(LANE)) {
            // SAFETY: SSE2 belongs to every x86-64. Both chunks are LANE bytes long, and
            // `to` is aligned to LANE: the first one by `head`, the others by following it.
            unsafe {
                _mm_stream_si128(
                    to.as_mut_ptr().cast(),
                    _mm_loadu_si128(from.as_ptr().cast()),
                )
            }
        }
        let tail = lanes.into_remainder();
        tail.copy_from_slice(&from_rest[from_rest.len() - tail.len()..]);
        // Such stores are not ordered with others by themselves (Intel SDM, volume 1, 11.6.13):
        // the counter that says "this part is done" must come after them.
        // SAFETY: SSE belongs to every x86-64.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_every_alignment() {
        let from: Vec<u8> = (0..200).map(|n| n as u8).collect();
        for start in 0..20 {
            for length in 0..100 {
                for skip in [0, 1, 7, 16] {
                    let mut to = [255_u8; 160];
                    past_cache(&mut to[start..start + length], &from[skip..skip + length]);
                    assert!(to[..start].iter().all(|byte| *byte == 255));
                    assert_eq!(to[start..start + length], from[skip..skip + length]);
                    assert!(to[start + length..].iter().all(|byte| *byte == 255));
                }
            }
        }
    }
}
