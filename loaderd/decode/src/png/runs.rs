//! A private chunk `ldRN`: the pixels of a mask once more, as runs of one value.
//!
//! Enters: rows of values; later the chunk's body, and which row. Leaves: the body; the row's
//! values, without inflating anything. Never: a value that the picture's depth can't hold, or
//! work and memory beyond the row that is asked for.
//!
//! The name says (third edition, section 5.4) that others may pass over the chunk, that it is
//! ours, and that who changes the picture must drop it. The body, numbers in network order:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | 1, the format's number |
//! | 4 | which picture it is of: a CRC over the sums of IHDR and all IDAT chunks |
//! | 2 a row | how many runs the row has; 0: the same as the row above |
//! | 2 a run | its value, and how many pixels it has besides the first |

use super::corrupt;
use crate::error::DecodeError;
use crate::opened::Region;

/// The chunk's name.
pub(crate) const NAME: [u8; 4] = *b"ldRN";

const FORMAT: u8 = 1;

const HEAD_BYTES: usize = 5;

/// Pixels of the longest run.
const RUN_MAX: usize = 256;

/// A chunk's body, read row by row from the top.
pub(crate) struct Runs<'a> {
    width: usize,
    value_max: u8,
    /// Runs of each row.
    counts: &'a [u8],
    /// All runs.
    runs: &'a [u8],
    /// Rows that were passed.
    passed: usize,
    /// Where the runs of the last of them begin and end.
    row: (usize, usize),
}

/// The runs of one row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// Where they end among all runs: rows that share them are equal.
    pub(crate) end: usize,
    runs: &'a [u8],
}

impl<'a> Runs<'a> {
    /// None of another format, or another picture.
    pub(super) fn of(
        body: &'a [u8],
        picture: u32,
        (width, height): (u32, u32),
        value_max: u8,
    ) -> Result<Option<Runs<'a>>, DecodeError> {
        if body.first() != Some(&FORMAT) {
            return Ok(None);
        }
        let Some((head, rest)) = body.split_at_checked(HEAD_BYTES) else {
            return Err(bad("is too short"));
        };
        if head[1..] != picture.to_be_bytes() {
            return Ok(None);
        }
        let Some((counts, runs)) = rest.split_at_checked(height as usize * 2) else {
            return Err(bad("has too few rows"));
        };
        let all: u64 = counts
            .chunks_exact(2)
            .map(|pair| u64::from(count(pair)))
            .sum();
        if counts[..2] == [0; 2] || all * 2 != runs.len() as u64 {
            return Err(bad("does not have the runs that its rows need"));
        }
        Ok(Some(Runs {
            width: width as usize,
            value_max,
            counts,
            runs,
            passed: 0,
            row: (0, 0),
        }))
    }

    /// The runs of row `y` of the picture, which lies no higher than the one asked for before.
    pub(crate) fn row(&mut self, y: u32) -> Row<'a> {
        let rows = &self.counts[self.passed * 2..(y as usize + 1) * 2];
        let (mut start, mut end) = self.row;
        for pair in rows.chunks_exact(2) {
            let bytes = usize::from(count(pair)) * 2;
            start = if bytes > 0 { end } else { start };
            end += bytes;
        }
        self.passed += rows.len() / 2;
        self.row = (start, end);
        Row {
            end,
            runs: &self.runs[start..end],
        }
    }

    /// Writes the row's values in the region's columns to the start of `line`.
    pub(crate) fn fill(
        &self,
        row: Row<'_>,
        region: &Region,
        line: &mut [u8],
    ) -> Result<(), DecodeError> {
        let mut at = 0;
        self.each(row, region, |end, value| {
            line[at..end].fill(value);
            at = end;
        })
    }

    /// Tells the row's runs in the region's columns, from the left: where each ends, counted
    /// from the region's first column, and its value. Whether they are the picture's shows
    /// only at the end; where all is well, the last one ends with the region.
    pub(crate) fn each(
        &self,
        row: Row<'_>,
        region: &Region,
        mut tell: impl FnMut(usize, u8),
    ) -> Result<(), DecodeError> {
        let (left, right) = (region.left as usize, region.right as usize);
        let (mut end, mut bits) = (0, 0);
        for run in row.runs.chunks_exact(2) {
            let value = run[0];
            end += usize::from(run[1]) + 1;
            if end <= left {
                continue;
            }
            bits |= value;
            tell(end.min(right) - left, value);
            if end >= right {
                break;
            }
        }
        // The values that there can be are all numbers of so many bits.
        if end < right || end > self.width || bits > self.value_max {
            return Err(bad("has a row that is not the picture's"));
        }
        Ok(())
    }
}

/// A body in the making.
pub(crate) struct Writer {
    counts: Vec<u8>,
    runs: Vec<u8>,
    /// Where the runs of the row above begin.
    above: usize,
    runs_bytes_max: usize,
}

impl Writer {
    /// Of a picture of so many rows, with so many bytes of runs at most.
    pub(crate) fn new(rows: u32, runs_bytes_max: usize) -> Writer {
        Writer {
            counts: Vec::with_capacity(rows as usize * 2),
            runs: Vec::new(),
            above: 0,
            runs_bytes_max,
        }
    }

    /// Takes the next row's values. Those of a picture that has too many runs are passed over.
    pub(crate) fn push(&mut self, values: &[u8]) {
        if self.is_too_long() {
            return;
        }
        let start = self.runs.len();
        // A row of more is not like the one above, and too long.
        let end_max = self.runs_bytes_max.max(2 * start - self.above);
        for alike in values.chunk_by(|a, b| a == b) {
            for run in alike.chunks(RUN_MAX) {
                if self.runs.len() > end_max {
                    return;
                }
                self.runs.extend([run[0], (run.len() - 1) as u8]);
            }
        }
        let (before, row) = self.runs.split_at(start);
        let mut count = row.len() / 2;
        if before[self.above..] == *row && start > 0 {
            self.runs.truncate(start);
            count = 0;
        } else {
            self.above = start;
        }
        match u16::try_from(count) {
            Ok(count) => self.counts.extend(count.to_be_bytes()),
            Err(_) => self.runs_bytes_max = 0,
        }
    }

    fn is_too_long(&self) -> bool {
        self.runs.len() > self.runs_bytes_max
    }

    /// The body, once all rows were taken; none where there are too many runs.
    pub(crate) fn finish(self, picture: u32) -> Option<Vec<u8>> {
        if self.is_too_long() {
            return None;
        }
        Some(
            [
                &[FORMAT],
                &picture.to_be_bytes()[..],
                &self.counts,
                &self.runs,
            ]
            .concat(),
        )
    }
}

fn count(pair: &[u8]) -> u16 {
    u16::from_be_bytes([pair[0], pair[1]])
}

fn bad(what: &str) -> DecodeError {
    corrupt(format!("the chunk {} {what}", NAME.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are read from any columns, skipped, and asked for twice.
    #[test]
    fn rows_come_back() {
        let width = 700;
        let row = |values: &[(u8, usize)]| -> Vec<u8> {
            let alike = values.iter();
            alike
                .flat_map(|&(value, count)| vec![value; count])
                .collect()
        };
        let rows = [
            row(&[(1, 700)]),
            row(&[(1, 1), (0, 255), (3, 256), (2, 188)]),
            row(&[(1, 1), (0, 255), (3, 256), (2, 188)]),
            row(&[(0, 257), (1, 1), (0, 442)]),
            row(&[(1, 700)]),
        ];
        let mut writer = Writer::new(5, 1000);
        rows.iter().for_each(|row| writer.push(row));
        let body = writer.finish(77).unwrap();
        assert_eq!(body.len(), HEAD_BYTES + 2 * 5 + 2 * (3 + 4 + 5 + 3));
        let read = |picture| Runs::of(&body, picture, (width, 5), 3).unwrap();
        assert!(read(78).is_none());
        for (left, right) in [(0, 700), (1, 2), (255, 257), (300, 699), (699, 700)] {
            for wanted in [&[0, 1, 2, 3, 4][..], &[0, 2, 2, 4], &[3, 3], &[4]] {
                let mut runs = read(77).unwrap();
                for &y in wanted {
                    let region = Region {
                        left,
                        right,
                        top: 0,
                        bottom: 5,
                    };
                    let columns = left as usize..right as usize;
                    let mut line = vec![9; columns.len()];
                    let row = runs.row(y);
                    runs.fill(row, &region, &mut line).unwrap();
                    assert_eq!(line, rows[y as usize][columns]);
                }
            }
        }
        // Rows alike share their runs.
        let mut runs = read(77).unwrap();
        assert_eq!(runs.row(1).end, runs.row(2).end);
    }

    #[test]
    fn too_many_runs_are_none() {
        for (runs_bytes_max, fits) in [(12, true), (11, false)] {
            let mut writer = Writer::new(2, runs_bytes_max);
            writer.push(&[1, 2, 3]);
            writer.push(&[3, 2, 1]);
            assert_eq!(writer.finish(0).is_some(), fits);
        }
        // A row ends where they are too many.
        let mut writer = Writer::new(1, 100);
        let values: Vec<u8> = (0..100_000).map(|at| (at % 2) as u8).collect();
        writer.push(&values);
        assert!(writer.runs.len() <= 102);
        assert!(writer.finish(0).is_none());
    }
}
