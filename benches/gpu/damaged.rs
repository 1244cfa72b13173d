//! JPEGs that are damaged, each in a way of its own.
//!
//! Enters: whole JPEGs. Leaves: files with names, which decoders refuse, or make something of.
//! Never: two ways in one file; a random choice.

/// Damaged forms (two of which every CPU decodes: without an end, and without the tables that are
/// libjpeg's own) of `plain`, of its `tiled` form, and of a `progressive` one, by name.
pub(crate) fn all(plain: &[u8], tiled: &[u8], progressive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let scan = scan_of(plain);
    let middle = (scan + plain.len()) / 2;
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = plain.to_vec();
        change(&mut file);
        file
    };
    let stretched = |at: usize| {
        changed(&|file| {
            // Height, then width, two bytes each, behind the frame's length and precision.
            if let Some(frame) = find(file, 0xc0) {
                let side = u16::from_be_bytes([file[frame + at], file[frame + at + 1]]);
                file[frame + at..frame + at + 2].copy_from_slice(&(side * 2).to_be_bytes());
            }
        })
    };
    let restarts: Vec<usize> = (scan_of(tiled)..tiled.len() - 1)
        .filter(|&at| tiled[at] == 0xff && (0xd0..=0xd7).contains(&tiled[at + 1]))
        .collect();
    let mut lost = tiled.to_vec();
    let mut swapped = tiled.to_vec();
    if let [.., before, after, _] = restarts[..] {
        lost.drain(before..after);
        swapped.swap(before + 1, after + 1);
    }
    let garbage = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
    [
        ("cut-half", plain[..middle].to_vec()),
        ("cut-header", plain[..scan / 2].to_vec()),
        ("cut-scan", plain[..scan].to_vec()),
        ("no-end", plain[..plain.len() - 2].to_vec()),
        ("tiled-cut", tiled[..tiled.len() * 2 / 3].to_vec()),
        (
            "progressive-cut",
            progressive[..progressive.len() / 2].to_vec(),
        ),
        ("flipped", changed(&|file| file[middle] ^= 0xff)),
        ("zeros", changed(&|file| file[middle..middle + 200].fill(0))),
        (
            "ones",
            changed(&|file| file[middle..middle + 200].fill(0xff)),
        ),
        ("taller", stretched(3)),
        ("wider", stretched(5)),
        ("no-tables", without(plain, 0xc4)),
        ("no-quantisers", without(plain, 0xdb)),
        ("restart-lost", lost),
        ("restart-swapped", swapped),
        ("garbage", [0xff, 0xd8].into_iter().chain(garbage).collect()),
        ("empty", Vec::new()),
        ("text", b"this is no picture\n".to_vec()),
    ]
    .map(|(name, file)| (name.to_owned(), file))
    .into()
}

/// Segments of a file's header: marker, where its length begins, where the next one begins.
fn segments(file: &[u8]) -> impl Iterator<Item = (u8, usize, usize)> + '_ {
    let mut at = 2;
    std::iter::from_fn(move || {
        let head = file.get(at..at + 4)?;
        let (marker, start) = (head[1], at + 2);
        at = start + usize::from(u16::from_be_bytes([head[2], head[3]]));
        Some((marker, start, at))
    })
}

fn find(file: &[u8], marker: u8) -> Option<usize> {
    segments(file)
        .find(|(found, ..)| *found == marker)
        .map(|(_, start, _)| start)
}

/// Where the first scan's data begin.
fn scan_of(file: &[u8]) -> usize {
    segments(file)
        .find(|(marker, ..)| *marker == 0xda)
        .map_or(file.len(), |(_, _, end)| end)
}

/// The file without its segments of this marker.
fn without(file: &[u8], marker: u8) -> Vec<u8> {
    let scan = scan_of(file);
    let mut kept = file[..2].to_vec();
    for (found, start, end) in segments(file).take_while(|(_, _, end)| *end <= scan) {
        if found != marker {
            kept.extend(&file[start - 2..end]);
        }
    }
    kept.extend(&file[scan..]);
    kept
}

#[cfg(test)]
mod tests {
    use loaderd_decode::encode::{Encoder, Scans};
    use loaderd_decode::tile::tile;
    use loaderd_decode::{Decoder, Limits, Options};

    use super::*;
    use crate::kinds;

    #[test]
    fn each_is_another_file_and_most_do_not_decode() {
        let base = kinds::drawn();
        let encode = |encoder: Encoder| encoder.encode(&base.rgb, base.width, base.height).unwrap();
        let plain = encode(Encoder::default());
        let tiled = tile(&plain, &Limits::default()).unwrap().jpeg;
        let progressive = encode(Encoder {
            scans: Scans::Progressive,
            ..Encoder::default()
        });
        let all = all(&plain, &tiled, &progressive);
        let mut decoder = Decoder::new(Limits::default());
        let whole = decoder.decode_full(&plain, Options::default()).unwrap();
        let mut refused = Vec::new();
        for (name, file) in &all {
            assert_ne!(*file, plain, "{name}");
            assert_ne!(*file, tiled, "{name}");
            match decoder.decode_full(file, Options::default()) {
                Err(_) => refused.push(name.as_str()),
                Ok(image) => assert!(
                    ["no-end", "no-tables"].contains(&name.as_str()) || image != whole,
                    "{name} is no damage"
                ),
            }
        }
        for name in ["cut-half", "taller", "empty", "text", "garbage"] {
            assert!(refused.contains(&name), "{name} decodes");
        }
    }
}
