//! An image's mask: a PNG of class numbers, placed as the image is.
//!
//! Enters: the image's pipeline and draws, the bytes of a PNG. Leaves: `[H, W]` u8, each the
//! value of one pixel of the file; where that has runs beside its image data ([`tile`](crate::tile)),
//! they are read, and nothing is inflated. Never: a mixture of values, a colour, a look at the image.

mod columns;
mod lines;
mod spans;

use crate::decoder::Decoder;
use crate::error::DecodeError;
use crate::follow::Geometry;
use crate::geometry::Placement;
use crate::header::Parsed;
use crate::opened::{Region, room};
use crate::pipeline::Pipeline;
use columns::Columns;
use lines::Lines;
use spans::Spans;

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

        let (columns, rows) = (geometry.x.shown(), geometry.y.shown());
        let (Some((left, right)), Some((top, bottom))) = (columns.reach(), rows.reach()) else {
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
        // A table has a place for each column, whatever the runs say of them.
        let table_bytes = match is_direct && runs.is_some() {
            true => spans::scratch_bytes(region.columns()),
            false => 0,
        };
        self.limits
            .check_scratch(&header, bytes + table_bytes + layout.scratch_bytes())?;

        let [height, width] = pipeline.size().map(|size| size as usize);
        let mut lines = Lines::new(out, width, columns.first, columns.pixels.len(), fill);
        let behind = rows.first + rows.pixels.len();
        for index in (0..rows.first).chain(behind..height) {
            lines.blank(index);
        }
        let down = rows.pixels.iter().map(|row| row - top);
        let mut down: Vec<(usize, u32)> = (rows.first..).zip(down).collect();
        if is_direct {
            if orientation.mirrors().1 {
                for (_, row) in &mut down {
                    *row = region.rows() - 1 - *row;
                }
            }
            if down.first().map(|(_, row)| row) > down.last().map(|(_, row)| row) {
                down.reverse();
            }
        }
        let steps = orientation.steps(region.columns() as usize, held as usize);
        let across = columns.pixels.iter();
        let across = across.map(|column| steps.x * (column - left) as isize);
        if let (Some(runs), true) = (&mut runs, is_direct) {
            let across = across.map(|at| (steps.start + at) as usize);
            let mut spans = Spans::new(across, region.columns() as usize, &mut self.frame);
            let mut last = None;
            for (index, row) in down {
                let row = runs.row(region.top + row);
                if last == Some(row.end) {
                    lines.repeat(index);
                    continue;
                }
                spans.begin();
                runs.each(row, &region, |end, value| spans.put(end, value))?;
                lines.next(index).copy_from_slice(spans.line());
                last = Some(row.end);
            }
            return Ok(geometry);
        }
        // Mirrored columns count down from the first.
        let first = across.clone().min().expect("columns are shown");
        let across = Columns::new(across.map(|at| (at - first) as usize).collect());
        let first = steps.start + first;
        if is_direct {
            let mut down = down.into_iter().peekable();
            layout.show_values(&region, &mut self.pixels, |y, values| {
                let is_this = |(_, row): &(usize, u32)| region.top + row == y;
                if let Some((index, _)) = down.next_if(is_this) {
                    across.pick(&values[first as usize..], lines.next(index));
                }
                while let Some((index, _)) = down.next_if(is_this) {
                    lines.repeat(index);
                }
            })?;
            return Ok(geometry);
        }
        let stride = region.columns() as usize;
        let values = room(&mut self.frame, bytes as usize);
        match &mut runs {
            Some(runs) => {
                for (y, line) in (region.top..).zip(values.chunks_exact_mut(stride)) {
                    let row = runs.row(y);
                    runs.fill(row, &region, line)?;
                }
            }
            None => layout.read_values(&region, &mut self.pixels, values)?,
        }
        let mut last = None;
        for (index, row) in down {
            if last == Some(row) {
                lines.repeat(index);
            } else {
                let at = first + steps.y * row as isize;
                across.pick(&values[at as usize..], lines.next(index));
            }
            last = Some(row);
        }
        Ok(geometry)
    }
}
