//! One image at a time: header, placement, decode, resize, augment, finish.
//!
//! Enters: a pipeline, encoded bytes, draws, a slice of a slot. Leaves: the slice filled.
//! Scratch memory grows to what the largest recent image needed and is reused. Never:
//! more memory than [`Limits`] say, whatever a header claims.

use std::time::Instant;

use crate::augment::Augmenter;
use crate::error::DecodeError;
use crate::finish::{self, Frame};
use crate::geometry::Placement;
use crate::header::{Header, probe};
use crate::jpeg::{Jpeg, OpenJpeg, StartedJpeg, scaled};
use crate::pipeline::Pipeline;
use crate::region::{Need, eighths_for};
use crate::resize::{FractionalBox, Resampler, View};

/// Scratch beyond this is given back after the image that needed it, so that one huge
/// photo does not weigh on a decode thread for good.
const SCRATCH_KEPT_BYTES: usize = 16 << 20;

/// What no image may make a decoder exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Columns times rows, as the header says. Default 178,956,970: where Pillow, too,
    /// refuses an image as a decompression bomb.
    pub pixels_max: u64,
    /// Scans of a progressive file. Default 100; encoders write 10, and the finest
    /// script that makes sense about 60.
    pub scans_max: u32,
    /// Bytes of scratch memory for one image, coefficients of a progressive file
    /// included. Default 256 MiB. libjpeg's own strips come on top: some 40 rows of the
    /// image, so 10 MB for the widest there can be.
    pub scratch_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            pixels_max: 178_956_970,
            scans_max: 100,
            scratch_bytes_max: 256 << 20,
        }
    }
}

/// Time spent on one image, by stage, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageNs {
    /// Header, limits, placement.
    pub header_ns: u64,
    /// Entropy decoding, inverse DCT, colour conversion.
    pub decode_ns: u64,
    /// Resizing; 0 where there was none.
    pub resize_ns: u64,
    /// Augmenting at the finished size; 0 where there was nothing to do.
    pub augment_ns: u64,
    /// Normalising, casting, laying out: the writes to the slot.
    pub finish_ns: u64,
}

/// What decoding one image took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Columns of the encoded image.
    pub width: u32,
    /// Rows of the encoded image.
    pub height: u32,
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
}

/// Decodes images, one after the other, on one thread. Blocks only on the CPU.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    jpeg: Jpeg,
    resampler: Resampler,
    augmenter: Augmenter,
    pixels: Vec<u8>,
    canvas: Vec<u8>,
    resized: Vec<u8>,
}

impl Decoder {
    /// A decoder that holds no scratch memory yet.
    pub fn new(limits: Limits) -> Decoder {
        Decoder {
            limits,
            jpeg: Jpeg::new(),
            resampler: Resampler::default(),
            augmenter: Augmenter::default(),
            pixels: Vec::new(),
            canvas: Vec::new(),
            resized: Vec::new(),
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
        let output = pipeline.output();
        assert_eq!(out.len() as u64, output.bytes(), "out must hold one image");
        let decoded = self.decode_untrimmed(pipeline, encoded, draws, out);
        self.trim();
        decoded
    }

    fn decode_untrimmed(
        &mut self,
        pipeline: &Pipeline,
        encoded: &[u8],
        draws: &mut dyn Iterator<Item = u32>,
        out: &mut [u8],
    ) -> Result<Decoded, DecodeError> {
        let clock = Instant::now();
        let header = self.check(encoded)?;
        let place = Placement::draw(pipeline.geometry(), header.width, header.height, draws)?;
        self.augmenter.draw(pipeline, draws);
        let augmented = pipeline.augment_bytes();
        self.limits.check_scratch(&header, augmented)?;
        let eighths = eighths_for(&place, pipeline.options().fast_dct);
        let x = Need::of(&place.x, place.filter, eighths);
        let y = Need::of(&place.y, place.filter, eighths);
        let open = open(&mut self.jpeg, encoded, &header, &self.limits)?;
        let mut stages = StageNs {
            header_ns: ns_since(clock),
            ..StageNs::default()
        };

        let clock = Instant::now();
        let mut frame = Frame {
            pixels: &[],
            stride_bytes: 0,
            columns: x.filled,
            rows: y.filled,
            width: pipeline.placed()[1] as usize,
            height: pipeline.placed()[0] as usize,
            flipped: place.flipped,
            upside_down: place.upside_down,
            layout: pipeline.layout(),
        };
        let mut decoded_pixels = 0;
        if x.blank() || y.blank() {
            // Crops have moved the picture out of sight; borders are all there is.
            frame.columns = (0, 0);
            frame.rows = (0, 0);
        } else {
            // Upsampled chroma at a crop's edge depends on the next chroma sample.
            let margin = match open.chroma_columns() {
                1 => 0,
                columns => columns,
            };
            let left = x.decode.0.saturating_sub(margin);
            let right = (x.decode.1 + margin).min(scaled(header.width, eighths));
            let rows = y.decode.1 - y.decode.0;
            let (between, coefficients) = (between_passes(&x, &y), open.coefficient_bytes());
            // Rows may start up to one MCU, 32 columns, further left than asked for.
            let decoded = u64::from(right - left + 32) * u64::from(rows) * 3;
            let canvas = if x.padded || y.padded {
                x.canvas_len() * y.canvas_len() * 3
            } else {
                0
            };
            self.limits.check_scratch(
                &header,
                decoded + canvas + between + coefficients + augmented,
            )?;
            let started = open.start(eighths, left, right - left)?;
            let stride = started.width;
            let skipped = x.decode.0 - started.left;
            decoded_pixels = u64::from(stride) * u64::from(rows);
            read_rows(started, y.decode.0, rows, &mut self.pixels)?;
            stages.decode_ns = ns_since(clock);

            let clock = Instant::now();
            let mut view = View {
                pixels: &self.pixels,
                stride,
                left: skipped,
                width: x.decode.1 - x.decode.0,
                height: rows,
            };
            if let Some(filter) = place.filter {
                if x.padded || y.padded {
                    view = paint(&mut self.canvas, view, &x, &y);
                }
                let (width, height) = (x.filled_len(), y.filled_len());
                let resized = room(&mut self.resized, width as usize * height as usize * 3);
                let area = FractionalBox {
                    left: x.box_start,
                    top: y.box_start,
                    width: x.box_len,
                    height: y.box_len,
                };
                self.resampler
                    .run(view, area, filter, width, height, resized);
                stages.resize_ns = ns_since(clock);
                frame.pixels = resized;
                frame.stride_bytes = width as usize * 3;
            } else {
                frame.pixels = &view.pixels[view.left as usize * 3..];
                frame.stride_bytes = stride as usize * 3;
            }
        }

        if !pipeline.augmentations().is_empty() {
            let clock = Instant::now();
            frame = self.augmenter.run(frame);
            stages.augment_ns = ns_since(clock);
        }
        let clock = Instant::now();
        finish::write(&frame, pipeline.levels(), out);
        self.augmenter.erase(pipeline, out);
        stages.finish_ns = ns_since(clock);
        Ok(Decoded {
            width: header.width,
            height: header.height,
            decoded_pixels,
            dct_scale: eighths,
            stages,
        })
    }

    /// Decodes a whole image to RGB. Allocates the result, which counts as scratch
    /// memory against the limit.
    pub fn decode_full(&mut self, encoded: &[u8]) -> Result<Image, DecodeError> {
        let header = self.check(encoded)?;
        let open = open(&mut self.jpeg, encoded, &header, &self.limits)?;
        let bytes = header.pixels() * 3;
        self.limits
            .check_scratch(&header, bytes + open.coefficient_bytes())?;
        let mut rgb = vec![0; bytes as usize];
        open.start(8, 0, header.width)?
            .read(0, header.height, &mut rgb)?;
        Ok(Image {
            width: header.width,
            height: header.height,
            rgb,
        })
    }

    /// Bytes of scratch memory held between images, at most 16 MiB in each of six
    /// buffers.
    pub fn scratch_bytes(&self) -> usize {
        self.pixels.capacity()
            + self.canvas.capacity()
            + self.resized.capacity()
            + self.resampler.scratch_bytes()
            + self.augmenter.scratch_bytes()
    }

    fn check(&self, encoded: &[u8]) -> Result<Header, DecodeError> {
        let header = probe(encoded)?;
        header.supported()?;
        if header.pixels() > self.limits.pixels_max {
            return Err(DecodeError::TooLarge {
                width: header.width,
                height: header.height,
                pixels_max: self.limits.pixels_max,
            });
        }
        Ok(header)
    }

    fn trim(&mut self) {
        for buffer in [&mut self.pixels, &mut self.canvas, &mut self.resized] {
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

impl Limits {
    fn check_scratch(&self, header: &Header, needed_bytes: u64) -> Result<(), DecodeError> {
        if needed_bytes <= self.scratch_bytes_max {
            return Ok(());
        }
        Err(DecodeError::ScratchTooLarge {
            width: header.width,
            height: header.height,
            needed_bytes,
            scratch_bytes_max: self.scratch_bytes_max,
        })
    }
}

/// Opens a JPEG whose header has been checked, and checks what only libjpeg can say.
fn open<'a>(
    jpeg: &'a mut Jpeg,
    encoded: &'a [u8],
    header: &Header,
    limits: &Limits,
) -> Result<OpenJpeg<'a>, DecodeError> {
    let open = jpeg.open(encoded, limits.scans_max, limits.scratch_bytes_max)?;
    // The limits were checked against our reading of the header: it must be libjpeg's.
    if open.size() != (header.width, header.height) {
        return Err(DecodeError::Corrupt {
            message: "two frame headers that differ in size".to_string(),
        });
    }
    open.check_colour()?;
    open.check_end()?;
    Ok(open)
}

fn read_rows(
    started: StartedJpeg<'_>,
    top: u32,
    rows: u32,
    pixels: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let bytes = started.row_bytes() * rows as usize;
    started.read(top, rows, room(pixels, bytes))
}

/// The first `bytes` of a scratch buffer, grown if need be; contents are leftovers.
fn room(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes {
        // Nothing in it is worth copying to the new place.
        buffer.clear();
        buffer.resize(bytes, 0);
    }
    &mut buffer[..bytes]
}

fn ns_since(clock: Instant) -> u64 {
    clock.elapsed().as_nanos() as u64
}

/// Bytes that the resize holds between its passes.
fn between_passes(x: &Need, y: &Need) -> u64 {
    let (wide, rows) = (x.canvas_len(), y.canvas_len());
    let (width, height) = (u64::from(x.filled_len()), u64::from(y.filled_len()));
    if height <= rows {
        wide * height * 3
    } else {
        width * rows * 3
    }
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
