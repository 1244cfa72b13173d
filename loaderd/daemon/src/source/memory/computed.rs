//! The variable columns of a memory source: values that follow from the row's number, with
//! rows that are empty, null, or not ASCII among them.
//!
//! Enters: a column's name and a row. Leaves: the encoded value. It holds nothing itself.

use std::path::PathBuf;

use loaderd_wire::layout::DType;

use super::super::RaggedKind;

/// A variable column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Strings; null in rows 3, 10, 17, …, empty in every fifth.
    Text,
    /// Lists of float32 `[4]`; null in rows 8, 17, 26, ….
    Boxes,
    /// Lists of int64, as long as the boxes.
    Categories,
    /// Lists of strings; null in rows 5, 13, 21, ….
    Tags,
    /// Of the row's image: absolute, relative and as a URI by turns.
    Path,
}

pub(super) const COLUMNS: [(&str, Column); 5] = [
    ("text", Column::Text),
    ("boxes", Column::Boxes),
    ("categories", Column::Categories),
    ("tags", Column::Tags),
    ("path", Column::Path),
];

impl Column {
    pub(super) fn kind(self) -> RaggedKind {
        let (dtype, shape, levels, text) = match self {
            Column::Text | Column::Path => (DType::Uint8, vec![], 1, true),
            Column::Boxes => (DType::Float32, vec![4], 1, false),
            Column::Categories => (DType::Int64, vec![], 1, false),
            Column::Tags => (DType::Uint8, vec![], 2, true),
        };
        RaggedKind {
            dtype,
            shape,
            levels,
            text,
        }
    }

    /// The encoded value of a row; `None` where it is null.
    pub(super) fn value(self, row: u64, images: &[PathBuf]) -> Option<Vec<u8>> {
        match self {
            Column::Text if row % 7 == 3 => None,
            Column::Text if row.is_multiple_of(5) => Some(vec![]),
            Column::Text => {
                Some(format!("row {row}{}", " – ü".repeat(row as usize % 11)).into_bytes())
            }
            Column::Boxes | Column::Categories if row % 9 == 8 => None,
            Column::Boxes => {
                let sides = |k: u64| [row as f32, k as f32, row as f32 + 10.0, k as f32 + 10.5];
                let bytes = (0..row % 4).flat_map(sides).flat_map(f32::to_le_bytes);
                Some(bytes.collect())
            }
            Column::Categories => {
                let numbers = (0..row % 4).map(|k| (row * 10 + k) as i64);
                Some(numbers.flat_map(i64::to_le_bytes).collect())
            }
            Column::Tags if row % 8 == 5 => None,
            Column::Tags => {
                let tags = (0..row % 3).map(|k| {
                    if (row + k).is_multiple_of(4) {
                        String::new()
                    } else {
                        format!("tag {row}.{k}")
                    }
                });
                let tags: Vec<String> = tags.collect();
                let mut bytes = (tags.len() as u32).to_le_bytes().to_vec();
                bytes.extend(tags.iter().flat_map(|tag| (tag.len() as u32).to_le_bytes()));
                bytes.extend(tags.concat().as_bytes());
                Some(bytes)
            }
            Column::Path => {
                let path = &images[row as usize % images.len()];
                let text = match row % 3 {
                    0 => path.display().to_string(),
                    1 => format!("file://{}", path.display().to_string().replace(' ', "%20")),
                    _ => path.file_name()?.display().to_string(),
                };
                Some(text.into_bytes())
            }
        }
    }
}

/// Every value of one column, end to end.
pub(super) struct Values {
    bytes: Vec<u8>,
    /// Where each row ends.
    ends: Vec<u64>,
    null: Vec<bool>,
}

impl Values {
    pub(super) fn of(column: Column, rows: u64, images: &[PathBuf]) -> Values {
        let mut values = Values {
            bytes: Vec::new(),
            ends: Vec::with_capacity(rows as usize),
            null: Vec::with_capacity(rows as usize),
        };
        for row in 0..rows {
            let value = column.value(row, images);
            values.null.push(value.is_none());
            values.bytes.extend(value.unwrap_or_default());
            values.ends.push(values.bytes.len() as u64);
        }
        values
    }

    pub(super) fn get(&self, row: u64) -> Option<&[u8]> {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        (!self.null[row]).then(|| &self.bytes[start as usize..self.ends[row] as usize])
    }

    pub(super) fn typical(&self) -> u32 {
        let rows = 0..self.ends.len() as u64;
        super::typical(rows.map(|row| self.get(row).map_or(0, <[u8]>::len)))
    }
}
