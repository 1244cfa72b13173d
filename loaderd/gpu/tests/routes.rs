//! Every kind of JPEG, written by libjpeg-turbo, and where it goes.

use loaderd_decode::Limits;
use loaderd_decode::cut::{Cuttable, Region};
use loaderd_decode::encode::{Colours, Encoder, Scans, Subsampling};
use loaderd_decode::tile::tile;
use loaderd_gpu::routing::{Abilities, Decision, ENGINE_SIDE_MAX, Reason, Route, Tally, route};

const ALL: Abilities = Abilities {
    engines: true,
    cuda: true,
    progressive: true,
};
const CUDA: Abilities = Abilities {
    engines: false,
    progressive: false,
    ..ALL
};
const NOTHING: Abilities = Abilities {
    engines: false,
    cuda: false,
    progressive: false,
};

fn sized(encoder: &Encoder, width: u32, height: u32) -> Vec<u8> {
    let bytes = width as usize * height as usize * encoder.channels();
    let pixels: Vec<u8> = (0..bytes).map(|n| (n / 5 + n / 700) as u8).collect();
    encoder.encode(&pixels, width, height).unwrap()
}

fn file(encoder: &Encoder) -> Vec<u8> {
    sized(encoder, 120, 90)
}

/// Where `encoded` goes on a machine with everything, with CUDA alone, and with no GPU.
fn check(name: &str, encoded: &[u8], expected: (Route, Route), reason: Reason) {
    let decided = route(encoded, &ALL);
    assert_eq!(
        decided,
        Decision {
            route: expected.0,
            reason
        },
        "{name}"
    );
    let without = if reason == Reason::Baseline {
        Reason::NoEngine
    } else {
        reason
    };
    let cuda = route(encoded, &CUDA);
    assert_eq!(
        cuda,
        Decision {
            route: expected.1,
            reason: without
        },
        "{name}"
    );
    assert_eq!(route(encoded, &NOTHING).route, Route::Cpu, "{name}");
}

/// The first segment with this marker: where it is.
fn segment(encoded: &[u8], marker: u8) -> std::ops::Range<usize> {
    let mut at = 2;
    loop {
        assert_eq!(encoded[at], 0xff);
        let length = usize::from(u16::from_be_bytes([encoded[at + 2], encoded[at + 3]]));
        if encoded[at + 1] == marker {
            return at..at + 2 + length;
        }
        at += 2 + length;
    }
}

/// `encoded` with the first segment of this marker changed.
fn with(encoded: &[u8], marker: u8, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut changed = encoded.to_vec();
    let place = segment(encoded, marker);
    change(&mut changed[place]);
    changed
}

fn without(encoded: &[u8], marker: u8) -> Vec<u8> {
    let place = segment(encoded, marker);
    [&encoded[..place.start], &encoded[place.end..]].concat()
}

const ENGINE: (Route, Route) = (Route::Engine, Route::Cuda);
const BY_CUDA: (Route, Route) = (Route::Cuda, Route::Cuda);
const BY_CPU: (Route, Route) = (Route::Cpu, Route::Cpu);

#[test]
fn usual_files_go_to_the_engines() {
    let usual = Encoder::default();
    for subsampling in Subsampling::ALL {
        let encoder = Encoder {
            subsampling,
            ..usual
        };
        let name = format!("{subsampling:?}");
        match subsampling {
            Subsampling::S411 | Subsampling::S410 => {
                check(&name, &file(&encoder), BY_CUDA, Reason::CoarseChroma);
            }
            _ => check(&name, &file(&encoder), ENGINE, Reason::Baseline),
        }
    }
    let optimised = Encoder {
        optimise: true,
        ..usual
    };
    check("own tables", &file(&optimised), ENGINE, Reason::Baseline);
    for (restart_rows, restart_mcus) in [(1, 0), (3, 0), (0, 1), (0, 4), (0, 7)] {
        let marked = Encoder {
            restart_rows,
            restart_mcus,
            ..usual
        };
        check("restart markers", &file(&marked), ENGINE, Reason::Baseline);
    }
}

#[test]
fn tiled_files_and_what_is_cut_from_them_go_to_the_engines() {
    let plain = sized(&Encoder::default(), 640, 480);
    let tiled = tile(&plain, &Limits::default()).unwrap().jpeg;
    check("tiled", &tiled, ENGINE, Reason::Baseline);
    let cuttable = Cuttable::of(&tiled).unwrap();
    let region = Region {
        left: 200,
        right: 450,
        top: 100,
        bottom: 350,
    };
    let mut cut = Vec::new();
    cuttable
        .cut(&cuttable.window(&region, 8), &mut cut)
        .unwrap();
    assert!(cut.len() < tiled.len());
    check("cut", &cut, ENGINE, Reason::Baseline);
}

#[test]
fn what_the_engines_leave_goes_to_cuda() {
    let usual = Encoder::default();
    let separate = Encoder {
        scans: Scans::Separate,
        ..usual
    };
    check("separate", &file(&separate), BY_CUDA, Reason::Scans);
    let progressive = Encoder {
        scans: Scans::Progressive,
        ..usual
    };
    let expected = (Route::Cuda, Route::Cpu);
    check(
        "progressive",
        &file(&progressive),
        expected,
        Reason::Progressive,
    );
    let extended = with(&file(&usual), 0xc0, |segment| segment[1] = 0xc1);
    check("extended", &extended, BY_CUDA, Reason::Extended);
    for (width, height) in [(63, 90), (90, 63), (1, 1), (ENGINE_SIDE_MAX + 1, 64)] {
        let odd = sized(&usual, width, height);
        check("odd size", &odd, BY_CUDA, Reason::Size);
    }
    for (width, height) in [(64, 64), (ENGINE_SIDE_MAX, 64), (64, ENGINE_SIDE_MAX)] {
        check(
            "edge",
            &sized(&usual, width, height),
            ENGINE,
            Reason::Baseline,
        );
    }
}

#[test]
fn all_else_stays_on_the_cpu() {
    let usual = Encoder::default();
    let by_cpu = |name, encoder, reason| check(name, &file(&encoder), BY_CPU, reason);
    by_cpu(
        "cmyk",
        Encoder {
            colours: Colours::Cmyk,
            ..usual
        },
        Reason::Inks,
    );
    by_cpu(
        "ycck",
        Encoder {
            colours: Colours::Ycck,
            ..usual
        },
        Reason::Inks,
    );
    by_cpu(
        "rgb",
        Encoder {
            colours: Colours::Rgb,
            ..usual
        },
        Reason::Rgb,
    );
    by_cpu("12 bits", Encoder { bits: 12, ..usual }, Reason::Precision);
    let arithmetic = Encoder {
        scans: Scans::Arithmetic,
        ..usual
    };
    by_cpu("arithmetic", arithmetic, Reason::Arithmetic);
    let plain = file(&usual);
    for marker in [0xc3, 0xc5, 0xc7, 0xcb] {
        let exotic = with(&plain, 0xc0, |segment| segment[1] = marker);
        check("exotic", &exotic, BY_CPU, Reason::Exotic);
    }
    let odd_factors = with(&plain, 0xc0, |segment| segment[14] = 0x21);
    check("2x1 chroma", &odd_factors, BY_CPU, Reason::Sampling);
    let grey = file(&Encoder {
        subsampling: Subsampling::Grey,
        ..usual
    });
    let grey = with(&grey, 0xc0, |segment| segment[11] = 0x22);
    check("2x2 grey", &grey, BY_CPU, Reason::Sampling);
    let numbers = without(&with(&plain, 0xc0, |segment| segment[10] = 9), 0xe0);
    // The scan names the component by its number, which nobody compares before decoding.
    check("odd numbers", &numbers, BY_CPU, Reason::Colours);
    for marker in [0xdb, 0xc4] {
        check("no table", &without(&plain, marker), BY_CPU, Reason::Tables);
    }
    check("no JFIF", &without(&plain, 0xe0), ENGINE, Reason::Baseline);
}

#[test]
fn tables_may_be_shared() {
    let plain = file(&Encoder::default());
    // All components by the luma's quantisation and codes: another picture, as legal a file.
    let shared = with(&plain, 0xc0, |segment| {
        segment[15] = 0;
        segment[18] = 0;
    });
    let shared = with(&shared, 0xda, |segment| {
        segment[8] = 0;
        segment[10] = 0;
    });
    check("shared tables", &shared, ENGINE, Reason::Baseline);
    let absent = with(&plain, 0xda, |segment| segment[10] = 0x33);
    check("table 3", &absent, BY_CPU, Reason::Tables);
}

#[test]
fn cut_and_broken_files_are_the_cpus_to_judge() {
    let plain = file(&Encoder::default());
    let scan = segment(&plain, 0xda);
    for length in 0..scan.end {
        check("cut header", &plain[..length], BY_CPU, Reason::Header);
    }
    for length in scan.end..plain.len() {
        check("cut scan", &plain[..length], BY_CPU, Reason::End);
    }
    check(
        "padded",
        &[&plain[..], &[0, 0]].concat(),
        BY_CPU,
        Reason::End,
    );
    check("png", b"\x89PNG\r\n\x1a\n", BY_CPU, Reason::Header);
    let junk = [&plain[..2], &[7], &plain[2..]].concat();
    check("junk", &junk, BY_CPU, Reason::Header);
    let filled = [&plain[..2], &[0xff, 0xff], &plain[2..]].concat();
    check("fill bytes", &filled, ENGINE, Reason::Baseline);
}

#[test]
fn decisions_are_counted_and_told() {
    let mut tally = Tally::default();
    assert_eq!(tally.to_string(), "none");
    let usual = Encoder::default();
    for _ in 0..3 {
        tally.add(route(&file(&usual), &ALL));
    }
    let progressive = file(&Encoder {
        scans: Scans::Progressive,
        ..usual
    });
    tally.add(route(&progressive, &ALL));
    assert_eq!(tally.to_string(), "engine 3; CUDA 1 (progressive)");
    tally.add(route(&progressive, &NOTHING));
    tally.add(route(b"", &ALL));
    assert_eq!(
        tally.to_string(),
        "engine 3; CUDA 1 (progressive); CPU 2 (1 progressive, 1 unusual or broken header)"
    );
    assert_eq!(tally.iter().map(|(_, count)| count).sum::<u64>(), 6);
    for (place, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, place);
    }
}
