//! Whether images are worth tiling.
//!
//! Enters: a sample of encoded images. Leaves: how many of them could be tiled. Nothing is written.

use loaderd_decode::tile::tiled_form;
use loaderd_decode::{Format, Limits, probe};

/// Images that are looked at.
pub(super) const SAMPLE: usize = 16;

/// How many of these could be tiled and are not, in words; none where it is the lesser part, so that
/// a dataset with a few odd images left is not spoken of. Masks count where these are to `be_masks`:
/// by the looks of it, an image may be one.
pub(super) fn worth_tiling<'a>(
    images: impl IntoIterator<Item = &'a [u8]>,
    be_masks: bool,
) -> Option<String> {
    let limits = Limits::default();
    let (mut all, mut jpegs, mut masks) = (0, 0, 0);
    for image in images {
        all += 1;
        match probe(image).map(|header| header.format) {
            Ok(Format::Jpeg) => jpegs += usize::from(tiled_form(image, &limits).is_ok()),
            Ok(Format::Png) if be_masks => masks += usize::from(tiled_form(image, &limits).is_ok()),
            _ => {}
        }
    }
    let words = |count: usize, what| {
        (count * 2 > all).then(|| format!("{count} of {all} images looked at are {what}"))
    };
    words(jpegs, "JPEGs without tiles")
        .or_else(|| words(masks, "PNGs that could be tiled if they are masks"))
}

#[cfg(test)]
mod tests {
    use loaderd_decode::encode::Encoder;
    use loaderd_decode::tile::tile;

    use super::*;

    #[test]
    fn masks_count_where_they_may() {
        let png = crate::synthetic::Frame::draw(1, 2).drivable_png();
        let found = worth_tiling([&png[..], &png], true);
        assert_eq!(
            found.unwrap(),
            "2 of 2 images looked at are PNGs that could be tiled if they are masks"
        );
        assert_eq!(worth_tiling([&png[..], &png], false), None);
        let tiled = tiled_form(&png, &Limits::default()).unwrap();
        assert_eq!(worth_tiling([&tiled[..]], true), None);
    }

    #[test]
    fn only_what_could_be_tiled_counts() {
        let pixels: Vec<u8> = (0..128 * 128 * 3_u32)
            .map(|at| (at.wrapping_mul(at) >> 5) as u8)
            .collect();
        let jpeg = Encoder::default().encode(&pixels, 128, 128).unwrap();
        let tiled = tile(&jpeg, &Limits::default()).unwrap().jpeg;
        let found = worth_tiling([&jpeg[..], &jpeg, &tiled], false);
        assert_eq!(
            found.unwrap(),
            "2 of 3 images looked at are JPEGs without tiles"
        );
        assert_eq!(worth_tiling([&jpeg[..], &tiled], true), None);
        assert_eq!(worth_tiling([b"no image".as_slice()], true), None);
        assert_eq!(worth_tiling([], true), None);
    }
}
