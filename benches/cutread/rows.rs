//! The rows that are read: pictures laid end to end in a file, a crop for each, and its pixels.
//!
//! Enters: pictures, a number of rows. Leaves: a file as Lance's blob files are, in which pictures
//! come again and again; for each row, the rows of segments that its crop takes. Never: a row
//! whose pixels, decoded from these segments alone, differ from the whole JPEG's.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use loaderd_decode::cut::Region;
use loaderd_decode::{Decoded, Decoder, Limits, Options, Pipeline};
use loaderd_measure::reader::shuffled;
use loaderd_plan::Draws;

use crate::pictures::Picture;

/// The file ends on a multiple of this, so that reads with O_DIRECT can be rounded out.
const BLOCK: u64 = 4096;
/// Finished images that are kept, as a slot would keep a batch.
pub(crate) const BATCH: usize = 128;

/// One row.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) picture: usize,
    /// Where its JPEG begins in the file.
    pub(crate) offset: u64,
    /// The rows of segments that its crop takes.
    pub(crate) wanted: Range<u32>,
}

/// Rows of a file, which is removed with them.
pub(crate) struct Rows {
    pub(crate) path: PathBuf,
    pub(crate) all: Vec<Row>,
    pub(crate) bytes: u64,
}

impl Rows {
    /// Writes `count` rows to `path`, and draws and checks their crops.
    ///
    /// # Errors
    /// Where the file can't be written, or where a crop has other pixels when it is decoded from
    /// its own segments alone.
    pub(crate) fn new(path: PathBuf, pictures: &[Picture], count: u64) -> Result<Rows> {
        ensure!(!pictures.is_empty(), "no picture is left to read");
        let mut rows = Rows {
            path,
            all: Vec::new(),
            bytes: 0,
        };
        let picture_of = |number: u64| number as usize % pictures.len();
        rows.bytes = write(
            &rows.path,
            (0..count).map(|number| &pictures[picture_of(number)].jpeg),
        )
        .with_context(|| format!("writing {}", rows.path.display()))?;
        let (mut crops, mut others, mut rebuilt) = (Crops::new()?, Crops::new()?, Vec::new());
        let mut offset = 0;
        for number in 0..count {
            let picture = picture_of(number);
            let Picture { jpeg, index } = &pictures[picture];
            let decoded = crops.decode(number, jpeg)?;
            let wanted = index
                .wanted(jpeg, &region(&decoded)?, decoded.dct_scale)
                .context("a picture can't be cut any more")?;
            let bytes = |range: Range<u32>| &jpeg[range.start as usize..range.end as usize];
            for rows in [wanted.clone(), 0..wanted.end] {
                let data = bytes(index.bytes(&rows));
                index.rebuild(bytes(index.head()), data, &rows, &mut rebuilt);
                others.decode(number, &rebuilt)?;
                ensure!(
                    crops.pixels(number) == others.pixels(number),
                    "row {number} has other pixels when only its rows {rows:?} of segments are read"
                );
            }
            rows.all.push(Row {
                number,
                picture,
                offset,
                wanted,
            });
            offset += jpeg.len() as u64;
        }
        Ok(rows)
    }

    /// All rows in the order of `epoch`, cut into windows, each in the order of the file.
    pub(crate) fn order(&self, epoch: u64, window: u64) -> Vec<Row> {
        let numbers = shuffled(self.all.len() as u64, epoch, window);
        let row = |number: u64| self.all[number as usize].clone();
        numbers.into_iter().map(row).collect()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // It is scratch; one that stays behind is written over by the next bench.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes training images of JPEGs, the same of a row whenever it comes.
pub(crate) struct Crops {
    pipeline: Pipeline,
    decoder: Decoder,
    slot: Vec<u8>,
}

impl Crops {
    /// # Errors
    /// None that is known.
    pub(crate) fn new() -> Result<Crops> {
        let list = serde_json::json!([
            {"name": "RandomResizedCrop", "size": [224, 224]},
            {"name": "RandomHorizontalFlip"},
            {"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        ]);
        let pipeline = Pipeline::parse(&list, Options::default())?;
        Ok(Crops {
            slot: vec![0; BATCH * pipeline.output().bytes() as usize],
            pipeline,
            decoder: Decoder::new(Limits::default()),
        })
    }

    /// # Errors
    /// Where the row's JPEG does not decode.
    pub(crate) fn decode(&mut self, row: u64, jpeg: &[u8]) -> Result<Decoded> {
        let place = self.place(row);
        let mut draws = Draws::new(0, 0, row, 0);
        let out = &mut self.slot[place];
        let decoded = (self.decoder).decode(&self.pipeline, jpeg, &mut draws, out);
        decoded.with_context(|| format!("decoding row {row}"))
    }

    fn pixels(&self, row: u64) -> &[u8] {
        &self.slot[self.place(row)]
    }

    fn place(&self, row: u64) -> Range<usize> {
        let bytes = self.pipeline.output().bytes() as usize;
        let start = row as usize % BATCH * bytes;
        start..start + bytes
    }
}

/// What was decoded, at the scale it was decoded at. Crops are whole pixels, and are not padded.
fn region(decoded: &Decoded) -> Result<Region> {
    let geometry = decoded.geometry.context("a crop moves whole rows")?;
    let [height, width] = geometry.source();
    let x = seen(width, |at| geometry.map_box([at, 0.0, at, 0.0])[0]);
    let y = seen(height, |at| geometry.map_box([0.0, at, 0.0, at])[1]);
    let scaled = |(from, to): (u32, u32)| {
        let eighths = decoded.dct_scale;
        (from * eighths / 8, (to * eighths).div_ceil(8))
    };
    let ((left, right), (top, bottom)) = (scaled(x), scaled(y));
    Ok(Region {
        left,
        right,
        top,
        bottom,
    })
}

/// The pixels of a side that are not cut off: what lies beyond ends up on the output's edge.
fn seen(side: u32, map: impl Fn(f32) -> f32) -> (u32, u32) {
    let edge = |at: u32| map(at as f32);
    let from = (0..side).rev().find(|&at| edge(at) == edge(0));
    let to = (1..=side).find(|&at| edge(at) == edge(side));
    (from.unwrap_or(0), to.unwrap_or(side))
}

fn write<'a>(path: &Path, jpegs: impl Iterator<Item = &'a Vec<u8>>) -> std::io::Result<u64> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut bytes = 0;
    for jpeg in jpegs {
        file.write_all(jpeg)?;
        bytes += jpeg.len() as u64;
    }
    let rest = bytes.next_multiple_of(BLOCK) - bytes;
    file.write_all(&vec![0; rest as usize])?;
    file.into_inner()?.sync_all()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::pictures::Pictures;

    #[test]
    fn rows_lie_end_to_end_and_need_less_than_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let pictures = Pictures::drawn(3).unwrap().all;
        let rows = Rows::new(path.clone(), &pictures, 40).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert!(file.len().is_multiple_of(BLOCK as usize));
        for row in &rows.all {
            let jpeg = &pictures[row.picture].jpeg;
            assert_eq!(&file[row.offset as usize..][..jpeg.len()], jpeg);
        }
        let whole = |row: &&Row| row.wanted == (0..pictures[row.picture].index.rows());
        let count = rows.all.iter().filter(whole).count();
        assert!(count < 30, "{count} of 40 crops take all rows");
        let numbers: HashSet<u64> = rows.order(1, 8).iter().map(|row| row.number).collect();
        assert_eq!(numbers.len(), 40);
        drop(rows);
        assert!(!path.exists());
    }

    #[test]
    fn edges_of_a_crop_are_found() {
        // Columns 10 to 30 of 100 become 40, then the same from right to left.
        let ahead = |at: f32| ((at - 10.0) * 2.0).clamp(0.0, 40.0);
        assert_eq!(seen(100, ahead), (10, 30));
        assert_eq!(seen(100, |at| 40.0 - ahead(at)), (10, 30));
        assert_eq!(seen(100, |at| at * 0.5), (0, 100));
    }
}
