//! libjpeg-turbo's way: `jpeg_read_coefficients`.
//!
//! Enters: a whole JPEG. Leaves: its coefficients, or nothing but the time that they took. Never:
//! a crash of C code's; what libjpeg warns of is an error.

// Links the library whose headers `reference.c` was compiled with.
use turbojpeg_sys as _;

unsafe extern "C" {
    fn loaderd_entropy_reference(
        data: *const u8,
        size: usize,
        out: *mut i16,
        out_blocks: usize,
    ) -> libc::c_int;
}

/// Reads the coefficients and lets go of them. `false`: damaged.
pub(crate) fn read(jpeg: &[u8]) -> bool {
    // SAFETY: pointer and length are those of a live slice, which libjpeg only reads; a null
    // `out` is never written to.
    unsafe { loaderd_entropy_reference(jpeg.as_ptr(), jpeg.len(), std::ptr::null_mut(), 0) == 0 }
}

/// The coefficients of a file that has `count` blocks: component by component, row by row,
/// without the blocks that pad the last MCUs, each in natural order. `None`: damaged, or of
/// another number of blocks.
pub(crate) fn blocks(jpeg: &[u8], count: usize) -> Option<Vec<[i16; 64]>> {
    let mut out = vec![[0; 64]; count];
    // SAFETY: as above; `out` holds `count` blocks of 64 values, and the C side writes either
    // exactly so many or none.
    let status = unsafe {
        loaderd_entropy_reference(jpeg.as_ptr(), jpeg.len(), out.as_mut_ptr().cast(), count)
    };
    (status == 0).then_some(out)
}
