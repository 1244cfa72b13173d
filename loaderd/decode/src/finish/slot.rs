//! Rows of a resized picture → their places in the output, one after the other.
//!
//! Enters: where the picture lies in the output, and its rows, laid out and mirrored like the
//! output. Leaves: the output filled, as [`write`](super::write) would. Never: a row twice.

use super::{Frame, GROUP, Levels, pixels};
use crate::transforms::{DType, Layout};

/// One image's place in a batch, while its rows come in.
pub(crate) struct Slot<'a> {
    /// Of the picture, though its pixels are not there yet.
    frame: Frame<'a>,
    levels: &'a Levels,
    out: &'a mut [u8],
}

impl<'a> Slot<'a> {
    /// Blackens the borders that the frame leaves in `out`, whose length must be the output's
    /// bytes.
    pub(crate) fn new(frame: &Frame<'_>, levels: &'a Levels, out: &'a mut [u8]) -> Slot<'a> {
        let frame = Frame {
            pixels: &[],
            ..*frame
        };
        if frame.bordered() {
            let nothing = Frame {
                columns: (0, 0),
                rows: (0, 0),
                ..frame
            };
            super::write(&nothing, levels, out);
        }
        let samples = 3 * frame.width * frame.height;
        assert_eq!(out.len(), samples * levels.dtype.itemsize() as usize);
        Slot { frame, levels, out }
    }

    /// Writes row `row` of the picture: all its samples of one channel after those of another
    /// under [`Layout::Nchw`], else pixel by pixel; mirrored already.
    pub(crate) fn put(&mut self, row: usize, samples: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
            // SAFETY: the CPU has both features.
            unsafe { super::x86::put(self, row, samples) };
            return;
        }
        self.put_with(row, samples, super::float16_row, super::float16_store);
    }

    /// The last two are the steps that the compiler does not vectorise on its own.
    #[inline(always)]
    pub(super) fn put_with(
        &mut self,
        row: usize,
        samples: &[u8],
        float16_row: impl Fn(&[u8], f32, f32, &mut [u8]),
        float16_store: impl Fn(&[f32; GROUP], &mut [u8]),
    ) {
        let Levels { dtype, gain, bias } = *self.levels;
        match (self.frame.layout, dtype) {
            (_, DType::Uint8) => self.each(row, samples, |_, bytes, to| to.copy_from_slice(bytes)),
            (Layout::Nchw, DType::Bfloat16) => self.each(row, samples, |channel, bytes, to| {
                super::bfloat16_row(bytes, gain[channel], bias[channel], to);
            }),
            (Layout::Nchw, DType::Float16) => self.each(row, samples, |channel, bytes, to| {
                float16_row(bytes, gain[channel], bias[channel], to);
            }),
            (Layout::Nchw, DType::Float32) => self.each(row, samples, |channel, bytes, to| {
                super::float32_row(bytes, gain[channel], bias[channel], to);
            }),
            (Layout::Nhwc, _) => {
                let (gain, bias) = (pixels::pattern(gain), pixels::pattern(bias));
                self.each(row, samples, |_, bytes, to| match dtype {
                    DType::Uint8 => unreachable!("copied above"),
                    DType::Bfloat16 => {
                        pixels::floats::<2>(bytes, &gain, &bias, to, super::bfloat16_store);
                    }
                    DType::Float16 => pixels::floats::<2>(bytes, &gain, &bias, to, &float16_store),
                    DType::Float32 => {
                        pixels::floats::<4>(bytes, &gain, &bias, to, super::float32_store);
                    }
                });
            }
        }
    }

    /// Calls `convert` with the channel, the bytes and the place of each run of a row's samples
    /// that lie together in the output.
    #[inline(always)]
    fn each(&mut self, row: usize, samples: &[u8], convert: impl Fn(usize, &[u8], &mut [u8])) {
        let Frame { width, height, .. } = self.frame;
        let size = self.levels.dtype.itemsize() as usize;
        let (from, to) = self.frame.columns;
        assert_eq!(samples.len(), 3 * (to - from), "a whole row");
        let row = self.frame.output_row(self.frame.rows.0 + row);
        let column = if self.frame.flipped { width - to } else { from };
        let at = row * width + column;
        match self.frame.layout {
            Layout::Nchw => {
                for (channel, bytes) in samples.chunks_exact(to - from).enumerate() {
                    let at = (channel * width * height + at) * size;
                    convert(channel, bytes, &mut self.out[at..at + bytes.len() * size]);
                }
            }
            Layout::Nhwc => {
                let at = 3 * at * size;
                convert(0, samples, &mut self.out[at..at + samples.len() * size]);
            }
        }
    }
}
