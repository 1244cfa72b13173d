//! One picture as a JPEG of every kind that there is, as far as libjpeg writes it.
//!
//! Enters: pixels. Leaves: files with names, all of which a CPU decodes. Never: a GPU.

use anyhow::{Result, ensure};
use loaderd_decode::encode::{Colours, Encoder, Scans, Subsampling};
use loaderd_decode::tile::tile;
use loaderd_decode::{Image, Limits};

/// The kind that cameras write most: 4:2:0, baseline.
pub(crate) const PLAIN: &str = "420";
/// Sides of the base picture, above which the CPU's decoder would shrink on the way.
pub(crate) const SIDES: [u32; 2] = [500, 375];

/// JPEGs of every kind, by name.
///
/// # Errors
/// Where the base is not [`SIDES`] large, or libjpeg refuses.
pub(crate) fn all(base: &Image) -> Result<Vec<(String, Vec<u8>)>> {
    let [width, height] = SIDES;
    ensure!(
        (base.width, base.height) == (width, height),
        "the base picture is {} x {}, and must be {width} x {height}",
        base.width,
        base.height
    );
    let mut all = Vec::new();
    let mut add = |name: &str, encoder: Encoder, (wide, high): (u32, u32)| -> Result<()> {
        let pixels = pixels(base, &encoder, wide, high);
        all.push((name.to_owned(), encoder.encode(&pixels, wide, high)?));
        Ok(())
    };
    let usual = Encoder {
        quality: 92,
        ..Encoder::default()
    };
    let whole = (width, height);
    for subsampling in Subsampling::ALL {
        let name = format!("{subsampling:?}")
            .trim_start_matches('S')
            .to_lowercase();
        let sampled = Encoder {
            subsampling,
            ..usual
        };
        add(&name, sampled, whole)?;
        for (kind, scans) in [
            ("scans", Scans::Separate),
            ("progressive", Scans::Progressive),
        ] {
            if matches!(
                subsampling,
                Subsampling::S444 | Subsampling::S420 | Subsampling::Grey
            ) {
                add(
                    &format!("{name}-{kind}"),
                    Encoder { scans, ..sampled },
                    whole,
                )?;
            }
        }
    }
    for (name, encoder) in [
        (
            "arithmetic",
            Encoder {
                scans: Scans::Arithmetic,
                ..usual
            },
        ),
        (
            "rgb",
            Encoder {
                colours: Colours::Rgb,
                subsampling: Subsampling::S444,
                ..usual
            },
        ),
        (
            "cmyk",
            Encoder {
                colours: Colours::Cmyk,
                subsampling: Subsampling::S444,
                ..usual
            },
        ),
        (
            "ycck",
            Encoder {
                colours: Colours::Ycck,
                ..usual
            },
        ),
        ("12-bits", Encoder { bits: 12, ..usual }),
        (
            "optimised",
            Encoder {
                optimise: true,
                ..usual
            },
        ),
        (
            "restart-rows",
            Encoder {
                restart_rows: 1,
                ..usual
            },
        ),
        (
            "restart-mcus",
            Encoder {
                restart_mcus: 5,
                ..usual
            },
        ),
        (
            "quality-100",
            Encoder {
                quality: 100,
                ..usual
            },
        ),
        (
            "quality-20",
            Encoder {
                quality: 20,
                ..usual
            },
        ),
    ] {
        add(name, encoder, whole)?;
    }
    for size in [(1, 1), (17, 9), (63, 64), (64, 64), (333, 251)] {
        add(&format!("size-{}x{}", size.0, size.1), usual, size)?;
    }
    let plain = usual.encode(&base.rgb, width, height)?;
    for orientation in 1..=8 {
        all.push((format!("turned-{orientation}"), turned(&plain, orientation)));
    }
    all.push(("tiled".into(), tile(&plain, &Limits::default())?.jpeg));
    all.sort();
    Ok(all)
}

/// The base's upper left corner, in the colours that `encoder` takes.
fn pixels(base: &Image, encoder: &Encoder, wide: u32, high: u32) -> Vec<u8> {
    let stride = base.width as usize * 3;
    let rows = base.rgb.chunks_exact(stride).take(high as usize);
    let corner = rows.flat_map(|row| row[..wide as usize * 3].chunks_exact(3));
    match encoder.channels() {
        // The weights of JFIF, in 256ths.
        1 => corner
            .map(|p| {
                ((77 * u32::from(p[0]) + 150 * u32::from(p[1]) + 29 * u32::from(p[2])) >> 8) as u8
            })
            .collect(),
        // No black: the other inks are what is missing of the colours.
        4 => corner.flat_map(|p| [p[0], p[1], p[2], 255]).collect(),
        _ => corner.flatten().copied().collect(),
    }
}

/// The file with an EXIF block that asks for it to be turned (Exif 2.32, orientation).
fn turned(plain: &[u8], orientation: u8) -> Vec<u8> {
    let mut block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    // The value, padding, and no further directory.
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let length = (block.len() + 2) as u16;
    let mut file = plain[..2].to_vec();
    file.extend([0xff, 0xe1]);
    file.extend(length.to_be_bytes());
    file.extend(block);
    file.extend(&plain[2..]);
    file
}

/// A picture to make kinds of where no photo will do: slopes, edges and grain.
pub(crate) fn drawn() -> Image {
    let [width, height] = SIDES;
    let mut state = 1u64;
    let mut rgb = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let grain = (state >> 61) as u32;
            let on_edge = (x / 40 + y / 30).is_multiple_of(3);
            for slope in [x / 5, y / 4, (x + y) / 9] {
                rgb.push((slope + 90 * u32::from(on_edge) + grain).min(255) as u8);
            }
        }
    }
    Image {
        width,
        height,
        rgb,
        frames_ignored: false,
    }
}

#[cfg(test)]
mod tests {
    use loaderd_decode::{Decoder, Options, probe};
    use loaderd_gpu::routing::{Abilities, Route, route};

    use super::*;

    #[test]
    fn every_kind_decodes_and_goes_where_it_should() {
        let abilities = Abilities {
            engines: true,
            cuda: true,
            progressive: true,
        };
        let all = all(&drawn()).unwrap();
        let mut decoder = Decoder::new(Limits::default());
        let mut routes = [0; 3];
        for (name, file) in &all {
            let image = decoder.decode_full(file, Options::default());
            assert!(image.is_ok(), "{name}: {:?}", image.err());
            routes[route(file, &abilities).route as usize] += 1;
        }
        let of = |name: &str| &all.iter().find(|(found, _)| found == name).unwrap().1;
        let route_of = |name: &str| route(of(name), &abilities).route;
        assert_eq!(route_of(PLAIN), Route::Engine);
        assert_eq!(route_of("tiled"), Route::Engine);
        assert_eq!(route_of("420-progressive"), Route::Cuda);
        assert_eq!(route_of("cmyk"), Route::Cpu);
        assert!(routes.iter().all(|&count| count > 2), "{routes:?}");
        let (upright, turned) = (probe(of("turned-1")), probe(of("turned-6")));
        assert_ne!(upright.unwrap().orientation, turned.unwrap().orientation);
    }
}
