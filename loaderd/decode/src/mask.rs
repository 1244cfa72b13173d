//! An image's mask: a PNG of class numbers, placed as the image is.
//!
//! Enters: the image's pipeline and draws, the bytes of a PNG. Leaves: `[H, W]` u8, each the
//! value of one pixel of the file; where that has runs beside its image data ([`tile`](crate::tile)),
//! they are read, and nothing is inflated. Never: a mixture of values, a colour, a look at the image.

mod columns;
mod lines;

use crate::decoder::Decoder;
use crate::error::DecodeError;
use crate::follow::{Geometry, Line};
use crate::geometry::Placement;
use crate::header::Parsed;
use crate::opened::{Region, room};
use crate::pipeline::Pipeline;
use crate::png::runs::ROOM_BEHIND;
use columns::Columns;
use lines::Lines;

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
        let mut runs = layout.runs()?;

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
        // Rows that lie in the file as they are shown need no room of their own.
        let is_direct = (runs.is_some() || layout.is_in_order()) && !orientation.swaps();
        let held = if is_direct { 1 } else { region.rows() };
        let bytes = u64::from(region.columns()) * u64::from(held);
        self.limits
            .check_scratch(&header, bytes + ROOM_BEHIND as u64 + layout.scratch_bytes())?;

        let steps = orientation.steps(region.columns() as usize, held as usize);
        let across = columns.iter().flatten();
        let across = across.map(|column| steps.x * (column - left) as isize);
        // Mirrored columns count down from the first.
        let first = across.clone().min().expect("columns are shown");
        let across = Columns::new(across.map(|at| (at - first) as usize).collect());
        let first = steps.start + first;
        let mut lines = Lines::new(out, columns.len(), border, across, fill);
        for (index, _) in rows.iter().enumerate().filter(|(_, row)| row.is_none()) {
            lines.blank(index);
        }
        let mut shown: Vec<(usize, u32)> = rows
            .iter()
            .enumerate()
            .filter_map(|(index, row)| Some((index, (*row)? - top)))
            .collect();
        if is_direct {
            if orientation.mirrors().1 {
                for (_, row) in &mut shown {
                    *row = region.rows() - 1 - *row;
                }
            }
            if shown.first().map(|(_, row)| row) > shown.last().map(|(_, row)| row) {
                shown.reverse();
            }
            if let Some(runs) = &mut runs {
                let line = room(&mut self.frame, region.columns() as usize + ROOM_BEHIND);
                let mut last = None;
                for (index, row) in shown {
                    let row = runs.row(region.top + row);
                    if last == Some(row.end) {
                        lines.repeat(index);
                        continue;
                    }
                    runs.fill(row, &region, line)?;
                    lines.show(index, &line[first as usize..]);
                    last = Some(row.end);
                }
                return Ok(geometry);
            }
            let mut shown = shown.into_iter().peekable();
            layout.show_values(&region, &mut self.pixels, |y, values| {
                let is_this = |(_, row): &(usize, u32)| region.top + row == y;
                if let Some((index, _)) = shown.next_if(is_this) {
                    lines.show(index, &values[first as usize..]);
                }
                while let Some((index, _)) = shown.next_if(is_this) {
                    lines.repeat(index);
                }
            })?;
            return Ok(geometry);
        }
        let values = room(&mut self.frame, bytes as usize + ROOM_BEHIND);
        match &mut runs {
            Some(runs) => {
                for y in region.top..region.bottom {
                    let start = (y - region.top) as usize * region.columns() as usize;
                    let row = runs.row(y);
                    runs.fill(row, &region, &mut values[start..])?;
                }
            }
            None => layout.read_values(&region, &mut self.pixels, &mut values[..bytes as usize])?,
        }
        let mut last = None;
        for (index, row) in shown {
            if last == Some(row) {
                lines.repeat(index);
            } else {
                let at = first + steps.y * row as isize;
                lines.show(index, &values[at as usize..]);
            }
            last = Some(row);
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
