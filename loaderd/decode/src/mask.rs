//! An image's mask: a PNG of class numbers, placed as the image is.
//!
//! Enters: the image's pipeline and draws, the bytes of a PNG. Leaves: `[H, W]` u8, each the
//! value of one pixel of the file. Never: a mixture of values, a colour, a look at the image.

mod columns;

use crate::decoder::Decoder;
use crate::error::DecodeError;
use crate::follow::{Geometry, Line};
use crate::geometry::Placement;
use crate::header::Parsed;
use crate::opened::{Region, room};
use crate::pipeline::Pipeline;
use columns::Columns;

/// Room behind a mask's values, so that all are picked in whole vectors.
const PICKED_BEHIND: usize = 15;

impl Decoder {
    /// Samples the mask of an image, by nearest neighbour, where the image's pixels go.
    ///
    /// `pipeline` and `draws` are the image's: equal ones give the image's crop, resize and
    /// flips, as long as image and mask have one size, which is the caller's to compare. `out`
    /// is `[H, W]` as [`Pipeline::size`] says (else this panics). Values of 8-bit, 4-bit,
    /// 2-bit and 1-bit grey and of palettes come as they are stored; what lies outside the
    /// picture gets `fill`. An EXIF block in the mask turns it where one turns images.
    ///
    /// Panics where the pipeline moves pixels otherwise than in whole rows and columns:
    /// [`Pipeline::check_followers`] refuses it.
    pub fn decode_mask(
        &mut self,
        pipeline: &Pipeline,
        encoded: &[u8],
        draws: &mut dyn Iterator<Item = u32>,
        fill: u8,
        out: &mut [u8],
    ) -> Result<Geometry, DecodeError> {
        let [height, width] = pipeline.size();
        assert_eq!(
            out.len() as u64,
            u64::from(height) * u64::from(width),
            "out must hold one mask"
        );
        let sampled = self.decode_mask_untrimmed(pipeline, encoded, draws, fill, out);
        self.trim();
        sampled
    }

    fn decode_mask_untrimmed(
        &mut self,
        pipeline: &Pipeline,
        encoded: &[u8],
        draws: &mut dyn Iterator<Item = u32>,
        fill: u8,
        out: &mut [u8],
    ) -> Result<Geometry, DecodeError> {
        let parsed = Parsed::of(encoded)?;
        let header = parsed.header();
        let Parsed::Png(layout) = parsed else {
            return Err(DecodeError::NotAMask {
                found: format!("a {}", header.format.name()),
            });
        };
        layout.check_values()?;
        self.limits.check_pixels(&header)?;
        let orientation = pipeline.options().orientation_of(&header);
        let (width, height) = orientation.upright(header.width, header.height);
        let place = Placement::draw(pipeline.geometry(), width, height, draws)?;
        self.augmenter.draw(pipeline, draws);
        let geometry = self
            .augmenter
            .follow(Geometry::of(&place, width, height))
            .expect("checked by check_followers");
        layout.check_data()?;

        let columns = shown(&geometry.x, pipeline.size()[1]);
        let rows = shown(&geometry.y, pipeline.size()[0]);
        // The output's columns that show the picture lie side by side.
        let border = columns.iter().take_while(|column| column.is_none()).count();
        let (Some((left, right)), Some((top, bottom))) = (reach(&columns), reach(&rows)) else {
            out.fill(fill);
            return Ok(geometry);
        };
        let (x, y) =
            orientation.stored_ends((left, right), (top, bottom), header.width, header.height);
        let region = Region {
            left: x.0,
            right: x.1,
            top: y.0,
            bottom: y.1,
        };
        let bytes = u64::from(region.columns()) * u64::from(region.rows());
        self.limits
            .check_scratch(&header, bytes + layout.scratch_bytes())?;
        let values = room(&mut self.frame, bytes as usize + PICKED_BEHIND);
        layout.read_values(&region, &mut self.pixels, &mut values[..bytes as usize])?;

        let steps = orientation.steps(region.columns() as usize, region.rows() as usize);
        let across = columns.iter().flatten();
        let across = across.map(|column| steps.x * (column - left) as isize);
        // Mirrored columns count down from the first.
        let first = across.clone().min().expect("columns are shown");
        let across = Columns::new(across.map(|at| (at - first) as usize).collect());
        for (index, row) in rows.iter().enumerate() {
            let (done, line) = out.split_at_mut(index * columns.len());
            let line = &mut line[..columns.len()];
            let Some(row) = row else {
                line.fill(fill);
                continue;
            };
            if index > 0 && rows[index - 1] == Some(*row) {
                line.copy_from_slice(&done[done.len() - columns.len()..]);
                continue;
            }
            let at = steps.start + first + steps.y * (row - top) as isize;
            let (before, line) = line.split_at_mut(border);
            let (line, behind) = line.split_at_mut(across.len());
            before.fill(fill);
            behind.fill(fill);
            across.pick(&values[at as usize..], line);
        }
        Ok(geometry)
    }
}

/// The source's pixel under each of the output's.
fn shown(line: &Line, len: u32) -> Vec<Option<u32>> {
    (0..len).map(|output| line.source_pixel(output)).collect()
}

/// From the first pixel shown to behind the last one; `None` where there are none.
fn reach(pixels: &[Option<u32>]) -> Option<(u32, u32)> {
    let shown = pixels.iter().flatten();
    Some((*shown.clone().min()?, shown.max()? + 1))
}
