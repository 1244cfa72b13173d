//! Which of the CPU's vector instructions libjpeg-turbo decodes with.
//!
//! Enters: nothing. Leaves: a word. It never changes what is used.

use std::ffi::c_int;

// The symbol comes from the static library of this crate's.
use turbojpeg_sys as _;

unsafe extern "C" {
    // jsimd.h of libjpeg-turbo: 1 where the inverse DCT has a SIMD version, that the CPU
    // can run it, and no JSIMD_ variable of the environment forbids it.
    fn jsimd_can_idct_islow() -> c_int;
}

/// What libjpeg-turbo decodes with: `AVX2`, `SSE2`, `SIMD` on other processors; `None`
/// where it was built without, or `JSIMD_FORCENONE=1` forbids it.
pub fn simd() -> Option<&'static str> {
    // SAFETY: it takes nothing, and writes only libjpeg-turbo's own variable of this thread.
    if unsafe { jsimd_can_idct_islow() } == 0 {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    {
        // Of the two that there are for this processor it takes the wider.
        let narrow = std::env::var_os("JSIMD_FORCESSE2").is_some_and(|value| value == "1");
        match std::arch::is_x86_feature_detected!("avx2") && !narrow {
            true => Some("AVX2"),
            false => Some("SSE2"),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Some("SIMD")
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn this_build_has_simd() {
        // `require-simd` of turbojpeg-sys: a build without would have failed.
        assert!(super::simd().is_some());
    }
}
