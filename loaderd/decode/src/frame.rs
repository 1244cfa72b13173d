//! A frame's place on its canvas.
//!
//! Enters: where a frame lies, a region of the canvas. Leaves: the region's pixels, the
//! frame's where it covers them. Never: blending; only first frames come here, and
//! there is nothing below them.

use crate::opened::Region;

/// Where a frame lies on its canvas, inside of which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Frame {
    pub(crate) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Fills `out`, the region's pixels in RGB without gaps, with `background`, and then
    /// calls `copy(row, column, pixels)` for each run of them that the frame covers, in
    /// the frame's own coordinates.
    pub(crate) fn paint(
        &self,
        region: &Region,
        background: [u8; 3],
        out: &mut [u8],
        mut copy: impl FnMut(u32, u32, &mut [u8]),
    ) {
        let left = self.left.clamp(region.left, region.right);
        let right = (self.left + self.width).clamp(left, region.right);
        let stride = region.columns() as usize * 3;
        for (y, line) in (region.top..).zip(out.chunks_exact_mut(stride)) {
            let covered = y >= self.top && y - self.top < self.height && left < right;
            let run = if covered {
                (left - region.left) as usize * 3..(right - region.left) as usize * 3
            } else {
                0..0
            };
            for pixel in line[..run.start].chunks_exact_mut(3) {
                pixel.copy_from_slice(&background);
            }
            for pixel in line[run.end..].chunks_exact_mut(3) {
                pixel.copy_from_slice(&background);
            }
            if covered {
                copy(y - self.top, left - self.left, &mut line[run]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cover_their_part() {
        let check = |[left, top, width, height]: [u32; 4], expected: &str| {
            let frame = Frame {
                left,
                top,
                width,
                height,
            };
            let region = Region {
                left: 2,
                right: 5,
                top: 1,
                bottom: 3,
            };
            let mut out = [0; 18];
            frame.paint(&region, *b"...", &mut out, |row, column, pixels| {
                for (x, pixel) in (column..).zip(pixels.chunks_exact_mut(3)) {
                    assert!(x < width && row < height);
                    pixel.fill(b'a' + (row * 5 + x) as u8);
                }
            });
            let found: String = out.chunks_exact(3).map(|pixel| pixel[0] as char).collect();
            assert_eq!(found, expected);
        };
        check([0, 0, 5, 3], "hijmno");
        check([3, 2, 1, 1], "....a.");
        check([0, 0, 3, 2], "h.....");
        check([4, 0, 9, 9], "..f..k");
        check([0, 0, 2, 9], "......");
        check([5, 0, 2, 9], "......");
        check([0, 3, 9, 1], "......");
    }
}
