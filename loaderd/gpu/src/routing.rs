//! Which decoder a JPEG goes to, by its header.
//!
//! Enters: the bytes of a JPEG, and what the machine has. Leaves: a [`Route`], and why it is
//! no better one. Never: a look into a scan, a call of nvJPEG. It is a first sieve, in the
//! time of reading a header; the engines' own word, where one is asked for
//! ([`ParsedJpeg::is_supported`](crate::nvjpeg::ParsedJpeg::is_supported)), counts more.
//!
//! The CPU decoder is the reference, so whatever it might read in another way than nvJPEG goes
//! to it: files that are cut short or unusual, and colours that need a guess. What the engines
//! take is nvjpeg.h's word on `NVJPEG_BACKEND_HARDWARE` (baseline, a single scan, neither
//! 4:1:0 nor 4:1:1); the sizes are careful ones of ours.

use std::fmt;

use loaderd_decode::coding::{Coding, Colours, Process};

/// Shortest side that goes to an engine, in pixels. NVIDIA names no bound; below this one,
/// there is little for an engine to gain.
pub const ENGINE_SIDE_MIN: u32 = 64;
/// Longest side that goes to an engine, in pixels. NVIDIA names no bound here, either.
pub const ENGINE_SIDE_MAX: u32 = 16384;

/// A decoder, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// The GPU's JPEG engines.
    Engine,
    /// CUDA cores, with the host's help.
    Cuda,
    /// libjpeg-turbo on CPU cores.
    Cpu,
}

impl Route {
    /// All of them, best first.
    pub const ALL: [Route; 3] = [Route::Engine, Route::Cuda, Route::Cpu];

    /// A word for people.
    pub fn word(self) -> &'static str {
        match self {
            Route::Engine => "engine",
            Route::Cuda => "CUDA",
            Route::Cpu => "CPU",
        }
    }
}

/// Why a JPEG goes where it goes: the first thing that keeps it from the engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing does.
    Baseline,
    /// It would fit, but there are no engines.
    NoEngine,
    /// Its width or height is not one of theirs.
    Size,
    /// 4:1:1 or 4:1:0.
    CoarseChroma,
    /// Its components come in scans of their own.
    Scans,
    /// An extended sequential frame.
    Extended,
    /// A progressive one.
    Progressive,
    /// Sampling factors that have no name.
    Sampling,
    /// CMYK or YCCK.
    Inks,
    /// RGB as it is.
    Rgb,
    /// It is unclear which colours there are.
    Colours,
    /// Not 8 bits a sample.
    Precision,
    /// Arithmetic coding.
    Arithmetic,
    /// Lossless or hierarchical.
    Exotic,
    /// A table is missing, or has 16 bits a value.
    Tables,
    /// It does not end in an end-of-image marker.
    End,
    /// The header is cut short, broken, or unusual; or this is no JPEG.
    Header,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 17] = [
        Reason::Baseline,
        Reason::NoEngine,
        Reason::Size,
        Reason::CoarseChroma,
        Reason::Scans,
        Reason::Extended,
        Reason::Progressive,
        Reason::Sampling,
        Reason::Inks,
        Reason::Rgb,
        Reason::Colours,
        Reason::Precision,
        Reason::Arithmetic,
        Reason::Exotic,
        Reason::Tables,
        Reason::End,
        Reason::Header,
    ];

    /// A few words for people.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Baseline => "baseline",
            Reason::NoEngine => "no engines here",
            Reason::Size => "size beyond the engines'",
            Reason::CoarseChroma => "4:1:1 or 4:1:0",
            Reason::Scans => "a scan for each component",
            Reason::Extended => "extended sequential",
            Reason::Progressive => "progressive",
            Reason::Sampling => "unusual sampling",
            Reason::Inks => "CMYK or YCCK",
            Reason::Rgb => "RGB without conversion",
            Reason::Colours => "unclear colours",
            Reason::Precision => "not 8 bits a sample",
            Reason::Arithmetic => "arithmetic coding",
            Reason::Exotic => "lossless or hierarchical",
            Reason::Tables => "missing or wide tables",
            Reason::End => "no end-of-image marker at the end",
            Reason::Header => "unusual or broken header",
        }
    }

    /// Whether CUDA cores take what the engines don't.
    fn is_cuda(self, abilities: &Abilities) -> bool {
        match self {
            Reason::NoEngine
            | Reason::Size
            | Reason::CoarseChroma
            | Reason::Scans
            | Reason::Extended => abilities.cuda,
            Reason::Progressive => abilities.cuda && abilities.progressive,
            _ => false,
        }
    }
}

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// JPEG engines that nvJPEG can use.
    pub engines: bool,
    /// nvJPEG's decoder on CUDA cores.
    pub cuda: bool,
    /// Whether that one is to take progressive files.
    pub progressive: bool,
}

/// Where a JPEG goes, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Where.
    pub route: Route,
    /// Why there.
    pub reason: Reason,
}

/// Decides for one encoded image, which may be anything: what is no JPEG goes to the CPU,
/// whose decoder tells other formats. Takes less than a microsecond, allocates nothing.
pub fn route(encoded: &[u8], abilities: &Abilities) -> Decision {
    let reason = match Coding::of(encoded) {
        None => Reason::Header,
        Some(coding) => obstacle(&coding, abilities),
    };
    let route = match reason {
        Reason::Baseline => Route::Engine,
        reason if reason.is_cuda(abilities) => Route::Cuda,
        _ => Route::Cpu,
    };
    Decision { route, reason }
}

/// What keeps it from the engines; what keeps it from the GPU altogether comes first.
fn obstacle(coding: &Coding, abilities: &Abilities) -> Reason {
    match coding.process {
        Process::Other => return Reason::Exotic,
        Process::Arithmetic => return Reason::Arithmetic,
        _ => {}
    }
    if coding.precision_bits != 8 {
        return Reason::Precision;
    }
    match coding.colours {
        Colours::Inks => return Reason::Inks,
        Colours::Rgb => return Reason::Rgb,
        Colours::Unclear => return Reason::Colours,
        Colours::Grey | Colours::YCbCr => {}
    }
    if !coding.has_tables {
        return Reason::Tables;
    }
    if !coding.ends {
        return Reason::End;
    }
    let chroma_is_coarse = match (coding.components, coding.sampling) {
        (1, [(1, 1), ..]) => false,
        (3, [(1, 1) | (2, 1) | (2, 2) | (1, 2), (1, 1), (1, 1), _]) => false,
        (3, [(4, 1 | 2), (1, 1), (1, 1), _]) => true,
        _ => return Reason::Sampling,
    };
    let sides = [coding.width, coding.height];
    match coding.process {
        Process::Progressive => Reason::Progressive,
        Process::Extended => Reason::Extended,
        _ if !coding.is_one_scan => Reason::Scans,
        _ if chroma_is_coarse => Reason::CoarseChroma,
        _ if !sides
            .iter()
            .all(|side| (ENGINE_SIDE_MIN..=ENGINE_SIDE_MAX).contains(side)) =>
        {
            Reason::Size
        }
        _ if !abilities.engines => Reason::NoEngine,
        _ => Reason::Baseline,
    }
}

/// How many images went where, and why. Displayed, it is a line such as
/// `engine 812; CUDA 3 (progressive); CPU 2 (1 CMYK or YCCK, 1 arithmetic coding)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    counts: [[u64; Reason::ALL.len()]; Route::ALL.len()],
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, decision: Decision) {
        self.counts[decision.route as usize][decision.reason as usize] += 1;
    }

    /// Those that occurred, best routes first.
    pub fn iter(&self) -> impl Iterator<Item = (Decision, u64)> + '_ {
        let all = Route::ALL
            .into_iter()
            .flat_map(|route| Reason::ALL.map(|reason| Decision { route, reason }));
        all.map(|decision| {
            let count = self.counts[decision.route as usize][decision.reason as usize];
            (decision, count)
        })
        .filter(|(_, count)| *count > 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for route in Route::ALL {
            let here: Vec<(Reason, u64)> = self
                .iter()
                .filter(|(decision, _)| decision.route == route)
                .map(|(decision, count)| (decision.reason, count))
                .collect();
            let total: u64 = here.iter().map(|(_, count)| count).sum();
            if total == 0 {
                continue;
            }
            write!(f, "{between}{} {total}", route.word())?;
            between = "; ";
            match here.as_slice() {
                [(Reason::Baseline, _)] => {}
                [(reason, _)] => write!(f, " ({})", reason.words())?,
                several => {
                    let each: Vec<String> = several
                        .iter()
                        .map(|(reason, count)| format!("{count} {}", reason.words()))
                        .collect();
                    write!(f, " ({})", each.join(", "))?;
                }
            }
        }
        match between {
            "" => f.write_str("none"),
            _ => Ok(()),
        }
    }
}
