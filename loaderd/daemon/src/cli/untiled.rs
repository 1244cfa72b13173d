//! What a column of images looks like: whether they are worth tiling, and whether they are masks.
//!
//! Enters: a sample of encoded images. Leaves: how many of them could be tiled. Nothing is written. No
//! file says that it is a mask: the looks alone decide nothing that would change a pixel.

use loaderd_decode::tile::{NotTiled, tiled_form};
use loaderd_decode::{Format, Limits, probe};

/// Images that are looked at.
pub(super) const SAMPLE: usize = 16;

/// A sample of a column's images, by their looks.
#[derive(Default)]
pub(super) struct Looks {
    /// Looked at.
    all: usize,
    /// JPEGs that could be tiled and are not.
    jpegs: usize,
    /// PNGs that could be, if they are masks.
    masks: usize,
    /// PNGs that have a mask's runs.
    tiled_masks: usize,
    /// Other PNGs that may be masks: grey or with a palette, of any kind.
    grey: usize,
    /// What can be an image, and no mask.
    pictures: usize,
}

impl Looks {
    pub(super) fn of<'a>(images: impl IntoIterator<Item = &'a [u8]>) -> Looks {
        let mut looks = Looks::default();
        for image in images {
            looks.all += 1;
            let Ok(header) = probe(image) else {
                continue;
            };
            let form = tiled_form(image, &Limits::default());
            match (header.format, form) {
                (Format::Png, Ok(_)) => looks.masks += 1,
                (Format::Png, Err(NotTiled::Already)) => looks.tiled_masks += 1,
                (Format::Png, Err(NotTiled::NotMask)) => looks.pictures += 1,
                (Format::Png, Err(_)) => looks.grey += 1,
                (format, form) => {
                    looks.pictures += 1;
                    looks.jpegs += usize::from(format == Format::Jpeg && form.is_ok());
                }
            }
        }
        looks
    }

    /// Whether all can be masks: PNGs, grey or with a palette. Images can look like that, too.
    pub(super) fn can_be_masks(&self) -> bool {
        self.pictures == 0 && self.masks + self.tiled_masks + self.grey > 0
    }

    /// Whether there are images among them, or greys that change too often for masks.
    #[cfg(any(feature = "lance", test))]
    pub(super) fn are_images(&self) -> bool {
        self.pictures > 0 || self.grey > self.masks + self.tiled_masks
    }

    /// How many could be tiled and are not, in words; none where it is the lesser part, so that a
    /// dataset with a few odd images left is not spoken of. Masks count where these are to
    /// `be_masks`.
    pub(super) fn worth_tiling(&self, be_masks: bool) -> Option<String> {
        let words = |count: usize, what| {
            let all = self.all;
            (count * 2 > all).then(|| format!("{count} of {all} images looked at are {what}"))
        };
        let masks = || words(self.masks, "PNGs that could be tiled if they are masks");
        words(self.jpegs, "JPEGs without tiles")
            .or_else(|| (be_masks && self.can_be_masks()).then(masks).flatten())
    }
}

#[cfg(test)]
mod tests {
    use loaderd_decode::encode::Encoder;
    use loaderd_decode::tile::tile;

    use super::*;

    fn jpeg() -> Vec<u8> {
        let pixels: Vec<u8> = (0..128 * 128 * 3_u32)
            .map(|at| (at.wrapping_mul(at) >> 5) as u8)
            .collect();
        Encoder::default().encode(&pixels, 128, 128).unwrap()
    }

    #[test]
    fn masks_count_where_they_may() {
        let png = crate::synthetic::Frame::draw(1, 2).drivable_png();
        let found = Looks::of([&png[..], &png]);
        assert!(found.can_be_masks() && !found.are_images());
        assert_eq!(
            found.worth_tiling(true).unwrap(),
            "2 of 2 images looked at are PNGs that could be tiled if they are masks"
        );
        assert_eq!(found.worth_tiling(false), None);
        let tiled = tiled_form(&png, &Limits::default()).unwrap();
        let found = Looks::of([&tiled[..]]);
        assert_eq!(found.worth_tiling(true), None);
        assert!(found.can_be_masks() && !found.are_images());
        // Among JPEGs it is an image.
        let jpeg = jpeg();
        let found = Looks::of([&png[..], &png, &jpeg]);
        assert!(!found.can_be_masks() && found.are_images());
        assert_eq!(found.worth_tiling(true), None);
        let found = Looks::of([b"no image".as_slice()]);
        assert!(!found.can_be_masks() && !found.are_images());
    }

    #[test]
    fn only_what_could_be_tiled_counts() {
        let jpeg = jpeg();
        let tiled = tile(&jpeg, &Limits::default()).unwrap().jpeg;
        let worth = |images: &[&[u8]]| Looks::of(images.iter().copied()).worth_tiling(true);
        assert_eq!(
            worth(&[&jpeg, &jpeg, &tiled]).unwrap(),
            "2 of 3 images looked at are JPEGs without tiles"
        );
        assert_eq!(worth(&[&jpeg, &tiled]), None);
        assert_eq!(worth(&[b"no image"]), None);
        assert_eq!(worth(&[]), None);
    }
}
