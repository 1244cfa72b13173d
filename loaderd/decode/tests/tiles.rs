//! Tiling keeps every pixel and all metadata, or says why a file stays as it is.

mod files;

use files::{encode, with_exif};
use loaderd_decode::cut::Cuttable;
use loaderd_decode::encode::{Colours, Encoder, Scans, Subsampling};
use loaderd_decode::tile::{Differs, NotTiled, is_tiled, tile, verify};
use loaderd_decode::{DecodeError, Decoder, Image, Limits, Options, probe};
use proptest::prelude::*;

fn whole(encoded: &[u8]) -> Image {
    Decoder::new(Limits::default())
        .decode_full(encoded, Options::default())
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Tiling keeps the pixels of every kind of file that it takes, and its result is tiled.
    #[test]
    fn tiling_keeps_every_pixel(
        (width, height) in (1u32..300, 1u32..200),
        subsampling in prop::sample::select(Subsampling::ALL.to_vec()),
        colours in prop::sample::select(vec![Colours::YCbCr, Colours::Rgb, Colours::Cmyk, Colours::Ycck]),
        scans in prop::sample::select(vec![Scans::Sequential, Scans::Separate, Scans::Progressive]),
        restart_mcus in 0u16..40,
        (quality, orientation) in (5u8..100, 1u8..9),
        seed in any::<u32>(),
    ) {
        // 4:1:0 has more blocks than an MCU may have where there are four inks.
        let four = matches!(colours, Colours::Cmyk | Colours::Ycck);
        prop_assume!(!(four && subsampling == Subsampling::S410));
        let encoder = Encoder { subsampling, colours, scans, restart_mcus, quality, ..Encoder::default() };
        let original = with_exif(&encode(encoder, width, height, seed), orientation);
        let limits = Limits::default();
        match tile(&original, &limits) {
            Ok(tiled) => {
                prop_assert_eq!(verify(&original, &tiled.jpeg, &limits), Ok(()));
                prop_assert_eq!(whole(&tiled.jpeg), whole(&original));
                prop_assert_eq!(probe(&tiled.jpeg).unwrap().orientation.value(), orientation);
                let cuttable = Cuttable::of(&tiled.jpeg).unwrap();
                prop_assert_eq!(cuttable.interval(), tiled.segment_mcus);
                prop_assert_eq!(cuttable.segments().0, tiled.row_segments);
            }
            Err(NotTiled::Already) => prop_assert!(is_tiled(&original)),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// What the decoder refuses is not tiled, and what is tiled of damaged files has their pixels,
    /// whether or not somebody compares them. The pictures are so large that libjpeg would read
    /// them in its fast way, the ones long enough to be no code.
    #[test]
    fn damaged_files_are_tiled_only_where_they_decode(
        scans in prop::sample::select(vec![Scans::Sequential, Scans::Separate, Scans::Progressive]),
        restart_mcus in prop::sample::select(vec![0u16, 2, 5]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12), 1..4),
        seed in 0u32..4,
    ) {
        let encoder = Encoder { scans, restart_mcus, ..Encoder::default() };
        let mut damaged = encode(encoder, 330, 200, seed);
        let scan = damaged.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        for (place, kind) in damage {
            let at = scan + place.index(damaged.len() - scan - 8);
            match kind {
                0..8 => damaged[at] ^= 1 << kind,
                _ => damaged[at..at + 8].copy_from_slice(&[0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0]),
            }
        }
        let limits = Limits::default();
        if let Ok(tiled) = tile(&damaged, &limits) {
            prop_assert_eq!(verify(&damaged, &tiled.jpeg, &limits), Ok(()));
        }
    }
}

/// libjpeg itself passes over a code that does not exist.
#[test]
fn damage_that_only_libjpeg_passes_over_is_not_tiled() {
    let limits = Limits::default();
    let whole = encode(Encoder::default(), 330, 200, 3);
    let decoded = |damaged: &[u8]| Decoder::new(limits).decode_full(damaged, Options::default());
    // Sixteen ones are no code; far enough from the end for libjpeg to read on in its fast way.
    let mut damaged = whole.clone();
    let middle = whole.len() / 2;
    for pair in damaged[middle..middle + 8].chunks_exact_mut(2) {
        pair.copy_from_slice(&[0xff, 0x00]);
    }
    let error = NotTiled::Undecodable(decoded(&damaged).unwrap_err());
    assert_eq!(tile(&damaged, &limits).map(drop), Err(error));

    // Bytes that nothing is coded in harm no pixel, but would be lost.
    let end = whole.len() - 2;
    let longer = [&whole[..end], &[0; 9], &whole[end..]].concat();
    assert!(decoded(&longer) == decoded(&whole));
    assert_eq!(tile(&longer, &limits).unwrap_err().reason(), "damaged");
}

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff, marker];
    bytes.extend((body.len() as u16 + 2).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn progressive() -> Vec<u8> {
    let scans = Scans::Progressive;
    encode(
        Encoder {
            scans,
            ..Encoder::default()
        },
        330,
        200,
        3,
    )
}

#[test]
fn metadata_are_kept_in_their_order() {
    let plain = progressive();
    let added = [
        segment(0xfe, b"one"),
        segment(0xe2, b"ICC_PROFILE\0\x01\x01 profile"),
        segment(0xed, &[0xff; 700]),
        segment(0xfe, b""),
    ]
    .concat();
    let original = with_exif(&[&plain[..2], &added, &plain[2..]].concat(), 6);
    let limits = Limits::default();
    let tiled = tile(&original, &limits).unwrap().jpeg;
    assert_eq!(verify(&original, &tiled, &limits), Ok(()));
    let head = original.len() - plain.len() + 20;
    assert_eq!(
        tiled[..head],
        original[..head],
        "JFIF's segment is the last"
    );
    assert_eq!(probe(&tiled).unwrap().orientation.value(), 6);

    // What `verify` is for.
    let differs = |other: &[u8]| match verify(&original, other, &limits) {
        Err(Differs::Content { what }) => what,
        other => panic!("{other:?}"),
    };
    let again = |jpeg: &[u8]| tile(jpeg, &limits).unwrap().jpeg;
    assert_eq!(differs(&again(&with_exif(&plain, 6))), "metadata");
    assert_eq!(differs(&again(&with_exif(&plain, 5))), "orientations");
    let other = encode(Encoder::default(), 330, 200, 4);
    assert_eq!(differs(&again(&with_exif(&other, 6))), "pixels");
    let other = encode(Encoder::default(), 330, 201, 4);
    assert_eq!(differs(&again(&other)), "sizes");
    assert_eq!(
        verify(&original, &original, &limits),
        Err(Differs::NotCuttable)
    );
    let half = verify(&original, &tiled[..tiled.len() / 2], &limits);
    assert!(matches!(
        half,
        Err(Differs::Undecodable {
            which: "tiled file",
            ..
        })
    ));
}

#[test]
fn what_lies_behind_the_end_is_kept() {
    let plain = Encoder::default()
        .encode(&vec![90; 3 * 64 * 48], 64, 48)
        .unwrap();
    let film = [&plain[..], b"ftypmp42 and a film"].concat();
    let tiled = tile(&film, &Limits::default()).unwrap().jpeg;
    assert!(tiled.ends_with(b"\xff\xd9ftypmp42 and a film"));
    verify(&film, &tiled, &Limits::default()).unwrap();
    let lost = &tiled[..tiled.len() - 4];
    assert!(verify(&film, lost, &Limits::default()).is_err());
}

#[test]
fn what_is_not_tiled_says_why() {
    let limits = Limits::default();
    let check = |encoded: &[u8], reason: &str| {
        let error = tile(encoded, &limits).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(!error.to_string().is_empty());
    };
    let plain = encode(Encoder::default(), 330, 200, 3);
    let tiled = tile(&plain, &limits).unwrap();
    assert!(tiled.jpeg.len() < plain.len(), "its tables are made for it");
    check(&tiled.jpeg, "tiled already");
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    check(&png, "not a JPEG");
    png[1] = 0;
    check(&png, "not decodable");
    check(&[], "not decodable");
    let kind = |scans, bits| {
        encode(
            Encoder {
                scans,
                bits,
                ..Encoder::default()
            },
            80,
            60,
            1,
        )
    };
    check(&kind(Scans::Arithmetic, 8), "an arithmetic-coded JPEG");
    check(&kind(Scans::Sequential, 12), "a JPEG with 12 bits a sample");
    check(&plain[..plain.len() - 2], "cut short");
    check(
        &[&plain[..2000], &[0xff, 0xd5], &plain[2000..]].concat(),
        "damaged",
    );
    check(
        &[&plain[..20], &[7, 7], &plain[20..]].concat(),
        "a JPEG with bytes that belong to no segment",
    );
    let progressive = progressive();
    let second = progressive
        .windows(2)
        .rposition(|pair| pair == [0xff, 0xda])
        .unwrap();
    let late = [
        &progressive[..second],
        &segment(0xfe, b"late"),
        &progressive[second..],
    ]
    .concat();
    check(&late, "a JPEG with metadata behind its first scan");
    // Lossless: libjpeg could, but nothing here decodes it.
    let mut lossless = plain.clone();
    let frame = lossless
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    lossless[frame + 1] = 0xc3;
    check(&lossless, "not decodable");

    let small = Limits {
        scratch_bytes_max: 330 * 200 * 2,
        ..limits
    };
    let error = tile(&plain, &small).unwrap_err();
    assert!(matches!(
        error,
        NotTiled::Undecodable(DecodeError::ScratchTooLarge { .. })
    ));
    assert_eq!(error.reason(), "over a limit");
}
