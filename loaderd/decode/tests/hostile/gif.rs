//! GIFs.

use loaderd_decode::{DecodeError, Decoder, Limits};

use crate::files::{self, GifImage};
use crate::{check_refused as check, decode};

#[test]
fn headers_cannot_ask_for_memory() {
    let gif = |width, height, side: u16| {
        let mut file = files::gif(
            width,
            height,
            &[],
            &[GifImage {
                place: [0, 0, 1, 1],
                interlaced: false,
                palette: Vec::new(),
                transparent: None,
                indices: vec![0],
            }],
        );
        let at = file.iter().position(|&byte| byte == b',').unwrap();
        file[at + 5..at + 7].copy_from_slice(&side.to_le_bytes());
        file[at + 7..at + 9].copy_from_slice(&side.to_le_bytes());
        file
    };
    check(&gif(65_535, 65_535, 1), "more than the limit");
    check(&gif(1, 1, 65_535), "more than the limit");
    check(&gif(1, 1, 3000), "end early");
    let mut small = Decoder::new(Limits {
        scratch_bytes_max: 1 << 20,
        ..Limits::default()
    });
    let error = decode(&mut small, &gif(1, 1, 3000), 0).unwrap_err();
    assert!(
        matches!(error, DecodeError::ScratchTooLarge { .. }),
        "{error}"
    );
}
