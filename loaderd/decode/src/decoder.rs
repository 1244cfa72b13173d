//! One image at a time: header, placement, decode, resize, augment, finish.
//!
//! Enters: a pipeline, encoded bytes, draws, a slice of a slot. Leaves: the slice filled.
//! Crops are drawn on the upright image and decoded where they lie in the stored one.
//! Scratch memory grows to what the largest recent image needed and is reused. Never:
//! more memory than [`Limits`] say, whatever a header claims.

use std::time::Instant;

use crate::augment::Augmenter;
use crate::cut::{Cuttable, Pieces, Window};
use crate::error::DecodeError;
use crate::finish::{self, Frame, Slot};
use crate::follow::Geometry;
use crate::geometry::Placement;
use crate::header::{Header, Parsed};
use crate::jpeg::Jpeg;
use crate::limits::Limits;
use crate::magic::Format;
use crate::opened::{Opened, Region, Rows, room};
use crate::orientation::Orientation;
use crate::pipeline::{Options, Pipeline};
use crate::region::{Need, Wanted};
use crate::resize::{self, FractionalBox, Resampler, Target, View};
use crate::transforms::Layout;

/// Scratch beyond this is given back after the image that needed it, so that one huge
/// photo does not weigh on a decode thread for good.
const SCRATCH_KEPT_BYTES: usize = 16 << 20;

/// Time spent on one image, by stage, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageNs {
    /// Header, limits, placement.
    pub header_ns: u64,
    /// Cutting, entropy decoding, inverse DCT, colour conversion.
    pub decode_ns: u64,
    /// Resizing, and `finish_ns`'s work row by row where nothing comes between; 0 where there
    /// was no resize.
    pub resize_ns: u64,
    /// Augmenting at the finished size; 0 where there was nothing to do.
    pub augment_ns: u64,
    /// Normalising, casting, laying out: the writes to the slot; and erasing. 0 where the resize
    /// did it all.
    pub finish_ns: u64,
}

/// What decoding one image took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoded {
    /// Columns of the image as the transforms saw it: upright, unless
    /// [`Options::exif_orientation`](crate::Options::exif_orientation) is off.
    pub width: u32,
    /// Rows of it.
    pub height: u32,
    /// Where its pixels went; `None` where they moved otherwise than in whole rows and
    /// columns, which [`Pipeline::check_followers`] tells beforehand.
    pub geometry: Option<Geometry>,
    /// Whether the file has more frames than the first, which alone is decoded.
    pub frames_ignored: bool,
    /// Pixels that were turned into RGB, after scaling in the DCT.
    pub decoded_pixels: u64,
    /// The scale of that, in eighths: 8, 4, 2 or 1.
    pub dct_scale: u32,
    /// Where the time went.
    pub stages: StageNs,
}

/// A whole decoded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]`, u8, without gaps.
    pub rgb: Vec<u8>,
    /// The file is animated, and this is its first frame.
    pub frames_ignored: bool,
}

impl Image {
    /// A region's pixels, row by row.
    ///
    /// # Panics
    /// Where the region is not inside of the image.
    pub fn rows_of(&self, region: &Region) -> impl Iterator<Item = &[u8]> {
        let stride = self.width as usize * 3;
        let columns = region.left as usize * 3..region.right as usize * 3;
        self.rgb[region.top as usize * stride..region.bottom as usize * stride]
            .chunks_exact(stride)
            .map(move |row| &row[columns.clone()])
    }
}

/// Decodes images, one after the other, on one thread. Blocks only on the CPU.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) limits: Limits,
    jpeg: Jpeg,
    /// A crop of a JPEG, still encoded.
    cut: Vec<u8>,
    resampler: Resampler,
    /// A whole frame, of formats that can't be decoded in part; a PNG's data; or a mask.
    pub(crate) frame: Vec<u8>,
    pub(crate) augmenter: Augmenter,
    pub(crate) pixels: Vec<u8>,
    canvas: Vec<u8>,
    resized: Vec<u8>,
    upright: Vec<u8>,
}

impl Decoder {
    /// A decoder that holds no scratch memory yet.
    pub fn new(limits: Limits) -> Decoder {
        Decoder {
            limits,
            jpeg: Jpeg::new(),
            cut: Vec::new(),
            resampler: Resampler::default(),
            frame: Vec::new(),
            augmenter: Augmenter::default(),
            pixels: Vec::new(),
            canvas: Vec::new(),
            resized: Vec::new(),
            upright: Vec::new(),
        }
    }

    /// Decodes what the pipeline needs of `encoded`, and writes one finished image, of
    /// [`Output::shape`](crate::Output::shape) in native byte order, to `out`.
    ///
    /// `out` must be exactly [`Output::bytes`](crate::Output::bytes) long (else this
    /// panics), at any alignment; its old contents don't matter, and after an error they
    /// are unspecified. `draws` must yield at least
    /// [`Pipeline::draws`] numbers (else this panics); exactly so many are taken from it
    /// once the header is read, none before. Equal bytes and draws give equal pixels,
    /// whatever was decoded before and on whichever CPU.
    pub fn decode(
        &mut self,
        pipeline: &Pipeline,
        encoded: &[u8],
        draws: &mut dyn Iterator<Item = u32>,
        out: &mut [u8],
    ) -> Result<Decoded, DecodeError> {
        let clock = Instant::now();
        let parsed = Parsed::of(encoded)?;
        let whole = Input::Whole(encoded, parsed);
        let decoded = self.decode_untrimmed(pipeline, whole, clock, draws, out);
        self.trim();
        decoded
    }

    /// The same of an image of which only these pieces, header and body, were read: those that
    /// [`Index::pieces`](crate::cut::Index::pieces) has named for the same pipeline and draws.
    ///
    /// None where that can't be, for whatever reason; the whole image then shows what is wrong, if
    /// anything is.
    pub fn decode_pieces(
        &mut self,
        pipeline: &Pipeline,
        pieces: &Pieces,
        parts: (&[u8], &[u8]),
        draws: &mut dyn Iterator<Item = u32>,
        out: &mut [u8],
    ) -> Option<Decoded> {
        let input = Input::Pieces(pieces, parts);
        let decoded = self.decode_untrimmed(pipeline, input, Instant::now(), draws, out);
        self.trim();
        decoded.ok()
    }

    fn decode_untrimmed(
        &mut self,
        pipeline: &Pipeline,
        input: Input<'_>,
        clock: Instant,
        draws: &mut dyn Iterator<Item = u32>,
        out: &mut [u8],
    ) -> Result<Decoded, DecodeError> {
        let output = pipeline.output();
        assert_eq!(out.len() as u64, output.bytes(), "out must hold one image");
        let (header, shrinks) = match &input {
            Input::Whole(_, parsed) => (parsed.header(), parsed.shrinks()),
            Input::Pieces(pieces, _) => (pieces.header(), true),
        };
        self.limits.check_pixels(&header)?;
        let orientation = pipeline.options().orientation_of(&header);
        let (width, height) = orientation.upright(header.width, header.height);
        let upright = Placement::draw(pipeline.geometry(), width, height, draws)?;
        self.augmenter.draw(pipeline, draws);
        let geometry = self.augmenter.follow(Geometry::of(&upright, width, height));
        let augmented = pipeline.augment_bytes();
        self.limits.check_scratch(&header, augmented)?;
        let wanted = Wanted::of(pipeline, &header, &upright, shrinks);
        let region = wanted.region();
        let Wanted {
            place,
            eighths,
            x,
            y,
        } = wanted;
        let mut stages = StageNs {
            header_ns: ns_since(clock),
            ..StageNs::default()
        };

        let clock = Instant::now();
        let mut frame = Frame {
            pixels: &[],
            stride_bytes: 0,
            columns: upright.x.filled(),
            rows: upright.y.filled(),
            width: pipeline.placed()[1] as usize,
            height: pipeline.placed()[0] as usize,
            flipped: place.flipped,
            upside_down: place.upside_down,
            layout: pipeline.layout(),
        };
        let mut decoded_pixels = 0;
        let mut is_finished = false;
        if wanted.blank() {
            // Crops have moved the picture out of sight; borders are all there is.
            match input {
                Input::Whole(encoded, parsed) => {
                    Opened::open(&mut self.jpeg, encoded, parsed, &self.limits)?;
                }
                Input::Pieces(..) => return Err(not_among()),
            }
            frame.columns = (0, 0);
            frame.rows = (0, 0);
        } else {
            let canvas = if x.padded || y.padded {
                x.canvas_len() * y.canvas_len() * 3
            } else {
                0
            };
            let later = canvas + between_passes(&x, &y) + augmented;
            let rows = self.read(input, eighths, &region, later)?;
            let stride = rows.stride;
            decoded_pixels = u64::from(stride) * u64::from(region.rows());
            stages.decode_ns = ns_since(clock);

            let clock = Instant::now();
            let mut view = View {
                pixels: &self.pixels,
                stride,
                left: rows.skipped,
                width: region.columns(),
                height: region.rows(),
            };
            if let Some(filter) = place.filter {
                if x.padded || y.padded {
                    view = paint(&mut self.canvas, view, &x, &y);
                }
                let area = FractionalBox {
                    left: x.box_start,
                    top: y.box_start,
                    width: x.box_len,
                    height: y.box_len,
                };
                let straight = orientation == Orientation::UPRIGHT && self.augmenter.is_idle();
                let target = Target {
                    width: x.filled_len(),
                    height: y.filled_len(),
                    planar: straight && frame.layout == Layout::Nchw,
                    mirrored: straight && frame.flipped,
                };
                if straight {
                    let mut slot = Slot::new(&frame, pipeline.levels(), out);
                    self.resampler
                        .run(view, area, filter, target, |row, samples| {
                            slot.put(row, samples);
                        });
                    is_finished = true;
                } else {
                    let row_bytes = target.width as usize * 3;
                    let resized = room(&mut self.resized, row_bytes * target.height as usize);
                    self.resampler
                        .run(view, area, filter, target, |row, samples| {
                            resized[row * row_bytes..][..row_bytes].copy_from_slice(samples);
                        });
                    frame.pixels = resized;
                    frame.stride_bytes = row_bytes;
                }
                stages.resize_ns = ns_since(clock);
            } else {
                frame.pixels = &view.pixels[view.left as usize * 3..];
                frame.stride_bytes = stride as usize * 3;
            }
            if orientation != Orientation::UPRIGHT {
                let (width, height) = (x.filled_len() as usize, y.filled_len() as usize);
                let turned = room(&mut self.upright, width * height * 3);
                orientation.turn(frame.pixels, frame.stride_bytes, width, height, turned);
                frame.pixels = turned;
                frame.stride_bytes = (frame.columns.1 - frame.columns.0) * 3;
            }
        }

        if !is_finished && !pipeline.augmentations().is_empty() {
            let clock = Instant::now();
            frame = self.augmenter.run(frame);
            stages.augment_ns = ns_since(clock);
        }
        let clock = Instant::now();
        if !is_finished {
            finish::write(&frame, pipeline.levels(), out);
            stages.finish_ns = ns_since(clock);
        }
        if self.augmenter.erase(pipeline, out) {
            stages.finish_ns = ns_since(clock);
        }
        Ok(Decoded {
            width,
            height,
            geometry,
            frames_ignored: header.frames_ignored,
            decoded_pixels,
            dct_scale: eighths,
            stages,
        })
    }

    /// Reads a region of the stored image, at `eighths`/8 of full size, into `self.pixels`. A
    /// JPEG that can be cut is cut first where that pays. `later_bytes` of scratch memory
    /// will be needed besides.
    fn read(
        &mut self,
        input: Input<'_>,
        eighths: u32,
        region: &Region,
        later_bytes: u64,
    ) -> Result<Rows, DecodeError> {
        let Decoder {
            limits,
            jpeg,
            cut,
            frame,
            pixels,
            ..
        } = self;
        let mut read = |encoded: &[u8], parsed: Parsed<'_>, region: &Region, bytes: u64| {
            let header = parsed.header();
            let open = Opened::open(jpeg, encoded, parsed, limits)?;
            limits.check_scratch(&header, open.scratch_bytes(region) + bytes)?;
            open.read(eighths, region, frame, pixels)
        };
        let (encoded, parsed) = match input {
            Input::Whole(encoded, parsed) => (encoded, parsed),
            Input::Pieces(pieces, parts) => {
                let window = pieces.cut(region, eighths, parts, cut);
                let window = window.ok_or_else(not_among)?;
                let small = Parsed::Jpeg(Header {
                    width: window.width,
                    height: window.height,
                    ..pieces.header()
                });
                let bytes = later_bytes + cut.len() as u64;
                return read(cut, small, &window.region, bytes);
            }
        };
        if let Parsed::Jpeg(header) = &parsed
            && let Some(window) = cut_first(encoded, header, region, eighths, cut)
        {
            let small = Parsed::Jpeg(Header {
                width: window.width,
                height: window.height,
                ..*header
            });
            let bytes = later_bytes + cut.len() as u64;
            if let Ok(rows) = read(cut, small, &window.region, bytes) {
                return Ok(rows);
            }
            // What is wrong is said of the whole file, as if there were no cuts.
        }
        read(encoded, parsed, region, later_bytes)
    }

    /// Decodes a whole image to RGB, upright by its EXIF block or XMP packet if `options` say so.
    /// Allocates the result, which counts as scratch memory against the limit.
    pub fn decode_full(&mut self, encoded: &[u8], options: Options) -> Result<Image, DecodeError> {
        let image = self.decode_full_untrimmed(encoded, options);
        self.trim();
        image
    }

    fn decode_full_untrimmed(
        &mut self,
        encoded: &[u8],
        options: Options,
    ) -> Result<Image, DecodeError> {
        let parsed = Parsed::of(encoded)?;
        let header = parsed.header();
        self.limits.check_pixels(&header)?;
        let open = Opened::open(&mut self.jpeg, encoded, parsed, &self.limits)?;
        let region = Region {
            left: 0,
            right: header.width,
            top: 0,
            bottom: header.height,
        };
        let orientation = options.orientation_of(&header);
        let turned_bytes = match orientation {
            Orientation::UPRIGHT => 0,
            _ => header.pixels() * 3,
        };
        self.limits
            .check_scratch(&header, open.scratch_bytes(&region) + turned_bytes)?;
        let mut rgb = Vec::new();
        let rows = open.read(8, &region, &mut self.frame, &mut rgb)?;
        assert_eq!(
            (rows.stride, rows.skipped),
            (header.width, 0),
            "all columns"
        );
        if orientation != Orientation::UPRIGHT {
            let mut turned = vec![0; rgb.len()];
            let (width, height) = (header.width as usize, header.height as usize);
            orientation.turn(&rgb, width * 3, width, height, &mut turned);
            rgb = turned;
        }
        let (width, height) = orientation.upright(header.width, header.height);
        Ok(Image {
            width,
            height,
            rgb,
            frames_ignored: header.frames_ignored,
        })
    }

    /// Bytes of scratch memory held between images, at most 16 MiB in each of seven
    /// buffers.
    pub fn scratch_bytes(&self) -> usize {
        self.cut.capacity()
            + self.frame.capacity()
            + self.pixels.capacity()
            + self.canvas.capacity()
            + self.resized.capacity()
            + self.upright.capacity()
            + self.resampler.scratch_bytes()
            + self.augmenter.scratch_bytes()
    }

    pub(crate) fn trim(&mut self) {
        for buffer in [
            &mut self.cut,
            &mut self.frame,
            &mut self.pixels,
            &mut self.canvas,
            &mut self.resized,
            &mut self.upright,
        ] {
            if buffer.capacity() > SCRATCH_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        if self.resampler.scratch_bytes() > SCRATCH_KEPT_BYTES {
            self.resampler.free_scratch();
        }
        self.augmenter.trim(SCRATCH_KEPT_BYTES);
    }
}

/// What there is of an image.
enum Input<'a> {
    Whole(&'a [u8], Parsed<'a>),
    /// Header and body of the pieces.
    Pieces(&'a Pieces, (&'a [u8], &'a [u8])),
}

/// What is needed is not among an image's pieces.
fn not_among() -> DecodeError {
    DecodeError::Corrupt {
        format: Format::Jpeg,
        message: "not the pieces that were asked for".to_string(),
    }
}

/// Cuts the region out of a JPEG, into `out`. None where it can't be cut, or where too
/// little would be left out.
fn cut_first(
    encoded: &[u8],
    header: &Header,
    region: &Region,
    eighths: u32,
    out: &mut Vec<u8>,
) -> Option<Window> {
    let cuttable = Cuttable::of(encoded)?;
    // The region was drawn on our other reading of the header.
    if cuttable.size() != (header.width, header.height) {
        return None;
    }
    let window = cuttable.window(region, eighths);
    if !window.pays() {
        return None;
    }
    cuttable.cut(&window, out)?;
    Some(window)
}

fn ns_since(clock: Instant) -> u64 {
    clock.elapsed().as_nanos() as u64
}

/// Bytes that the resize holds between its passes.
fn between_passes(x: &Need, y: &Need) -> u64 {
    resize::scratch_bytes(
        x.canvas_len(),
        y.canvas_len(),
        u64::from(x.filled_len()),
        u64::from(y.filled_len()),
    )
}

/// Copies the view onto a black canvas: CenterCrop has added borders before a resize.
fn paint<'a>(canvas: &'a mut Vec<u8>, view: View<'_>, x: &Need, y: &Need) -> View<'a> {
    let (width, height) = (x.canvas_len() as usize, y.canvas_len() as usize);
    let target = room(canvas, width * height * 3);
    target.fill(0);
    let left = (i64::from(x.decode.0) - x.canvas.0) as usize;
    let top = (i64::from(y.decode.0) - y.canvas.0) as usize;
    let bytes = view.width as usize * 3;
    for row in 0..view.height as usize {
        let from = (row * view.stride as usize + view.left as usize) * 3;
        let to = ((top + row) * width + left) * 3;
        target[to..to + bytes].copy_from_slice(&view.pixels[from..from + bytes]);
    }
    View {
        pixels: target,
        stride: width as u32,
        left: 0,
        width: width as u32,
        height: height as u32,
    }
}
