//! The picture that augmentations work on.
//!
//! Enters: a frame. Leaves: the same picture as one that fills its output. How it is
//! turned is kept beside the pixels until a step needs to know. Never: a third copy.

use crate::finish::Frame;
use crate::transforms::Layout;

/// `[height, width, 3]` u8 without gaps, and which way it is to be turned.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    front: Vec<u8>,
    back: Vec<u8>,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) flipped: bool,
    pub(super) upside_down: bool,
}

/// `[height, width, 3]` u8 without gaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picture<'a> {
    pub(super) pixels: &'a [u8],
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Canvas {
    /// Takes the picture, with black where it leaves a border.
    pub(super) fn load(&mut self, frame: &Frame<'_>) {
        (self.width, self.height) = (frame.width, frame.height);
        (self.flipped, self.upside_down) = (frame.flipped, frame.upside_down);
        let stride = 3 * frame.width;
        let bytes = stride * frame.height;
        grow(&mut self.front, bytes);
        if frame.bordered() {
            self.front[..bytes].fill(0);
        }
        let from = 3 * frame.columns.0;
        let len = 3 * (frame.columns.1 - frame.columns.0);
        for (index, row) in (frame.rows.0..frame.rows.1).enumerate() {
            let line = &frame.pixels[index * frame.stride_bytes..][..len];
            self.front[row * stride + from..][..len].copy_from_slice(line);
        }
    }

    /// The picture as a frame without borders.
    pub(super) fn frame(&self, layout: Layout) -> Frame<'_> {
        Frame {
            pixels: &self.front[..3 * self.width * self.height],
            stride_bytes: 3 * self.width,
            columns: (0, self.width),
            rows: (0, self.height),
            width: self.width,
            height: self.height,
            flipped: self.flipped,
            upside_down: self.upside_down,
            layout,
        }
    }

    pub(super) fn pixels(&mut self) -> &mut [u8] {
        &mut self.front[..3 * self.width * self.height]
    }

    /// Turns the pixels themselves.
    pub(super) fn settle(&mut self) {
        let stride = 3 * self.width;
        if std::mem::take(&mut self.flipped) {
            for row in self.pixels().chunks_exact_mut(stride) {
                // All bytes reversed puts the pixels in order, and each one's channels out
                // of it.
                row.reverse();
                for pixel in row.chunks_exact_mut(3) {
                    pixel.swap(0, 2);
                }
            }
        }
        if std::mem::take(&mut self.upside_down) {
            let (height, pixels) = (self.height, self.pixels());
            let (upper, lower) = pixels.split_at_mut(height.div_ceil(2) * stride);
            let pairs = upper
                .chunks_exact_mut(stride)
                .zip(lower.rchunks_exact_mut(stride));
            for (a, b) in pairs {
                a.swap_with_slice(b);
            }
        }
    }

    /// Makes a new picture of the same size: `draw(from, to)`.
    #[inline(always)]
    pub(super) fn redraw(&mut self, draw: impl FnOnce(Picture<'_>, &mut [u8])) {
        self.resize(self.width, self.height, draw);
    }

    /// Makes a new picture of another size: `draw(from, to)`.
    #[inline(always)]
    pub(super) fn resize(
        &mut self,
        width: usize,
        height: usize,
        draw: impl FnOnce(Picture<'_>, &mut [u8]),
    ) {
        let bytes = 3 * width * height;
        grow(&mut self.back, bytes);
        let picture = Picture {
            pixels: &self.front[..3 * self.width * self.height],
            width: self.width,
            height: self.height,
        };
        draw(picture, &mut self.back[..bytes]);
        std::mem::swap(&mut self.front, &mut self.back);
        (self.width, self.height) = (width, height);
    }

    pub(super) fn scratch_bytes(&self) -> usize {
        self.front.capacity() + self.back.capacity()
    }

    pub(super) fn trim(&mut self, kept_bytes: usize) {
        for buffer in [&mut self.front, &mut self.back] {
            if buffer.capacity() > kept_bytes {
                *buffer = Vec::new();
            }
        }
    }
}

/// Makes room; contents are leftovers.
fn grow(buffer: &mut Vec<u8>, bytes: usize) {
    if buffer.len() < bytes {
        buffer.clear();
        buffer.resize(bytes, 0);
    }
}
