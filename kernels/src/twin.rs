//! The kernels' functions on the CPU, built by the host's compiler from the same headers.
//!
//! Enters: descriptors whose addresses are of host memory. Leaves: the bytes that a GPU would
//! write, block by block and thread by thread. For tests: it is far slower than
//! `loaderd-decode`. Never: a look at memory that the descriptors do not name.

use crate::descriptor::{Batch, DescriptorError, Image, Picture, lay_out};
use crate::launch;

unsafe extern "C" {
    fn loaderd_twin_weigh(images: *const Image, count: u32, tables: *mut u64);
    fn loaderd_twin_finish(
        images: *const Image,
        count: u32,
        tables: *const u64,
        batch: *const Batch,
        tiles: u32,
    );
    fn loaderd_twin_poison(pictures: *const Picture, count: u32);
    fn loaderd_twin_verify(pictures: *const Picture, count: u32, survivors: *mut u32);
    fn loaderd_twin_float16(value: f32) -> u16;
}

fn count(len: usize) -> u32 {
    u32::try_from(len)
        .ok()
        .filter(|&len| len <= launch::IMAGES_MAX)
        .expect("a batch has at most 65535 images")
}

/// What [`launch::weigh`] and [`launch::finish`] do, after [`lay_out`].
///
/// # Safety
///
/// Every picture must lie in memory that may be read, `pitch * height` bytes from `pixels` on, and
/// every output in memory that may be written and that nobody else looks at meanwhile: three
/// elements for each pixel of the batch's size.
pub unsafe fn finish(images: &mut [Image], batch: &Batch) -> Result<(), DescriptorError> {
    let bytes = lay_out(images, batch)?;
    let mut tables = vec![0u64; (bytes / 8) as usize];
    let count = count(images.len());
    // SAFETY: tables have the room that the layout asked for; the caller vouches for the rest,
    // and descriptors that were laid out stay within what they name.
    unsafe {
        loaderd_twin_weigh(images.as_ptr(), count, tables.as_mut_ptr());
        loaderd_twin_finish(
            images.as_ptr(),
            count,
            tables.as_ptr(),
            batch,
            launch::tiles(batch),
        );
    }
    Ok(())
}

/// What [`launch::poison`] does.
///
/// # Safety
///
/// Every picture must lie in memory that may be written, `pitch * height` bytes from `pixels` on,
/// with pixels and pitch multiples of 4.
pub unsafe fn poison(pictures: &[Picture]) {
    // SAFETY: the caller vouches for the pictures.
    unsafe { loaderd_twin_poison(pictures.as_ptr(), count(pictures.len())) }
}

/// What [`launch::verify`] does: how many words of each picture are as [`poison`] left them.
///
/// # Safety
///
/// As for [`poison`], but it only reads.
pub unsafe fn verify(pictures: &[Picture]) -> Vec<u32> {
    let mut survivors = vec![0; pictures.len()];
    // SAFETY: there is a count for each picture; the caller vouches for the pictures.
    unsafe {
        loaderd_twin_verify(
            pictures.as_ptr(),
            count(pictures.len()),
            survivors.as_mut_ptr(),
        );
    }
    survivors
}

/// The bits of the nearest binary16.
pub fn float16(value: f32) -> u16 {
    // SAFETY: it takes and returns a number.
    unsafe { loaderd_twin_float16(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float16_is_the_nearest() {
        for i in 0..1u32 << 22 {
            let value = f32::from_bits(i << 10 | i >> 12);
            if !value.is_nan() {
                let expected = half::f16::from_f32(value).to_bits();
                assert_eq!(float16(value), expected, "{value:e}");
            }
        }
        assert!(half::f16::from_bits(float16(f32::NAN)).is_nan());
    }

    #[test]
    fn poison_is_found_where_nothing_was_written() {
        for (width, height) in [(1, 1), (1, 9), (2, 3), (5, 4), (61, 37), (640, 480)] {
            let pitch = (3 * width + 5) / 4 * 4 + 8;
            let mut memory = vec![0u32; (pitch * height / 4) as usize];
            let picture = Picture {
                pixels: memory.as_mut_ptr() as u64,
                pitch,
                width,
                height,
                seed: 7 * width,
            };
            let words = (3 * width / 4).max(1) * height;
            // SAFETY: the memory is the picture's, and no reference to it is alive.
            let survivors = unsafe {
                poison(&[picture]);
                verify(&[picture])
            };
            assert_eq!(survivors, [words], "{width}x{height}");
            let of_another_seed = Picture { seed: 1, ..picture };
            // SAFETY: as above.
            assert_eq!(unsafe { verify(&[of_another_seed]) }, [0]);

            // A decoder that writes every pixel, any value, and nothing beside.
            let write = |memory: &mut [u32], from: u32, to: u32| {
                for row in from..to {
                    for at in 0..3 * width {
                        let index = (row * pitch + at) as usize;
                        let word = memory[index / 4].to_ne_bytes();
                        let mut word = word;
                        word[index % 4] = (at * 3 + row) as u8;
                        memory[index / 4] = u32::from_ne_bytes(word);
                    }
                }
            };
            write(&mut memory, 0, height);
            // SAFETY: as above.
            assert_eq!(unsafe { verify(&[picture]) }, [0], "{width}x{height}");

            // One that stops a row early.
            // SAFETY: as above.
            unsafe { poison(&[picture]) };
            write(&mut memory, 0, height - 1);
            // SAFETY: as above.
            assert_eq!(unsafe { verify(&[picture]) }, [words / height]);
        }
    }

    #[test]
    fn poison_keeps_to_the_picture() {
        let mut memory = vec![u32::MAX; 64];
        let picture = Picture {
            pixels: memory[8..].as_mut_ptr() as u64,
            pitch: 32,
            width: 3,
            height: 4,
            seed: 0,
        };
        // SAFETY: words 8 to 40 are the picture's.
        unsafe { poison(&[picture]) };
        for (index, &word) in memory.iter().enumerate() {
            let inside = (8..40).contains(&index) && index % 8 < 3;
            assert_eq!(word != u32::MAX, inside, "{index}");
        }
    }
}
