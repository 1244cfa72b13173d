//! Which kernel runs in how many blocks.
//!
//! Enters: how many images, and the batch. Leaves: an entry point's name with its grid and block.
//! Arguments are said here, in order. Never: a call into CUDA.
//!
//! A batch is two launches on one stream: [`weigh`], then [`finish`]. Weights come from a launch of
//! their own because they are f64 (twice the registers of the rest) and because their number of
//! bits depends on the largest weight of a whole axis: each of the 98 tiles of a 224 x 224 image
//! would otherwise work out both axes anew.

use crate::descriptor::{Batch, Picture};

/// A tile of the output, one block's work, in columns and rows.
pub const TILE: [u32; 2] = [32, 16];

/// Most images of a launch: a grid's second side.
pub const IMAGES_MAX: u32 = 65_535;

/// A kernel and its grid. No kernel takes dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Its name in every [`Embedded`](crate::Embedded) image.
    pub entry: &'static str,
    /// Blocks: x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block: x, y, z.
    pub block: [u32; 3],
}

fn launch(entry: &'static str, blocks: u32, images: u32, threads: u32) -> Launch {
    assert!(
        (1..=IMAGES_MAX).contains(&images),
        "a launch takes 1 to {IMAGES_MAX} images, found {images}"
    );
    Launch {
        entry,
        grid: [blocks, images, 1],
        block: [threads, 1, 1],
    }
}

/// Makes all weights. Arguments: address of the [`Image`](crate::Image)s, address of the tables.
///
/// Panics, as all of these do, where `images` is not 1 to [`IMAGES_MAX`].
pub fn weigh(images: u32) -> Launch {
    launch("loaderd_weigh", 2, images, 128)
}

/// Makes finished images of decoded ones. Arguments: address of the [`Image`](crate::Image)s,
/// address of the tables, the [`Batch`] itself.
pub fn finish(images: u32, batch: &Batch) -> Launch {
    launch("loaderd_finish", tiles(batch), images, 256)
}

/// Fills pictures with a pattern. Argument: address of the [`Picture`]s.
pub fn poison(images: u32) -> Launch {
    launch("loaderd_poison", 16, images, 256)
}

/// Counts the pattern's words that are left. Arguments: address of the
/// [`Picture`]s, address of a u32 for each, which must be 0 before.
///
/// A decoder that skipped a picture leaves all of them; one that wrote it leaves each by chance, one
/// word in 2^32, or in 2^24 where the picture is one column wide: see [`survivors_max`].
pub fn verify(images: u32) -> Launch {
    launch("loaderd_verify", 16, images, 256)
}

/// Words that [`verify`] may count in a picture that was written: three, though never all that it
/// looks at. One is left in 3 of 100,000 pictures of 500 x 375 pixels, four in none of 10^19.
pub fn survivors_max(picture: &Picture) -> u32 {
    // As `words_filled` has it (`cuda/poison.h`).
    let words = u64::from((3 * picture.width / 4).max(1)) * u64::from(picture.height);
    words.saturating_sub(1).min(3) as u32
}

/// Tiles of an output.
pub(crate) fn tiles(batch: &Batch) -> u32 {
    batch.width.div_ceil(TILE[0]) * batch.height.div_ceil(TILE[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Element, Order};

    #[test]
    fn grids_cover_batches() {
        let batch = |width, height| Batch {
            width,
            height,
            element: Element::Uint8,
            order: Order::Nchw,
            gain: [1.0; 3],
            bias: [0.0; 3],
        };
        let check = |width, height, blocks| {
            let launch = finish(256, &batch(width, height));
            assert_eq!((launch.grid, launch.block), ([blocks, 256, 1], [256, 1, 1]));
        };
        check(224, 224, 7 * 14);
        check(1, 1, 1);
        check(33, 17, 4);
        assert_eq!(weigh(7).grid, [2, 7, 1]);
    }

    #[test]
    fn chance_is_told_from_a_picture_that_was_left_out() {
        let check = |width, height, expected| {
            let picture = Picture {
                pixels: 0,
                pitch: 64,
                width,
                height,
                seed: 0,
            };
            assert_eq!(survivors_max(&picture), expected, "{width} x {height}");
        };
        check(500, 375, 3);
        check(65_535, 65_535, 3);
        check(1, 5, 3);
        check(1, 4, 3);
        check(4, 1, 2);
        check(2, 2, 1);
        // Its only word decides.
        check(1, 1, 0);
    }

    #[test]
    #[should_panic(expected = "a launch takes 1 to 65535 images, found 0")]
    fn an_empty_launch_is_the_callers_fault() {
        poison(0);
    }

    /// The numbers that the CUDA sources have as well.
    #[test]
    fn blocks_are_as_the_sources_say() {
        let sources = [
            include_str!("cuda/weights.h"),
            include_str!("cuda/finish.h"),
            include_str!("cuda/poison.h"),
        ];
        let number = |name: &str| -> u32 {
            let line = format!("#define {name} ");
            let rest = (sources.iter()).find_map(|source| source.split(&line).nth(1));
            let text = rest.unwrap_or_else(|| panic!("no {name}"));
            text.lines().next().unwrap().parse().unwrap()
        };
        assert_eq!(weigh(1).block[0], number("WEIGH_THREADS"));
        assert_eq!(poison(1).block[0], number("POISON_THREADS"));
        assert_eq!(verify(1).block[0], number("POISON_THREADS"));
        assert_eq!(poison(1).grid[0], number("POISON_BLOCKS"));
        assert_eq!(TILE, [number("TILE_COLUMNS"), number("TILE_ROWS")]);
        let batch = Batch {
            width: 1,
            height: 1,
            element: Element::Uint8,
            order: Order::Nchw,
            gain: [1.0; 3],
            bias: [0.0; 3],
        };
        assert_eq!(finish(1, &batch).block[0], number("FINISH_THREADS"));
    }
}
