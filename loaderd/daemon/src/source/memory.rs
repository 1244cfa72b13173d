//! A source in memory: `memory:rows=10000,tensor=3x224x224:float32,images=DIR`.
//!
//! Enters: the part of the URI after `memory:`. Leaves: rows with the columns
//! - `image`: the files of the folder `images`, sorted by name, row i holding file
//!   i modulo their number;
//! - `tensor`: numbers of the given shape and type, 64 different rows in turn;
//! - `label`: the row's number, int64.
//!
//! It never touches a disk once open.

use std::path::PathBuf;
use std::sync::Arc;

use loaderd_read::FileSet;
use loaderd_wire::layout::DType;
use loaderd_wire::message::Version;

use super::{Field, Kind, Payload, Source, SourceError, SourceRequest};

/// Different rows in the column `tensor`.
const TENSOR_ROWS: u64 = 64;

/// A parsed `memory:` URI.
#[derive(Debug)]
pub(super) struct Memory {
    text: String,
    rows: u64,
    images: Option<PathBuf>,
    tensor: Option<(DType, Vec<u64>)>,
}

fn bad(text: &str, what: &str) -> SourceError {
    SourceError::Dataset(format!(
        "memory:{text}: {what}; the form is memory:rows=N[,images=DIR][,tensor=3x224x224:float32]"
    ))
}

impl Memory {
    pub(super) fn parse(text: &str) -> Result<Memory, SourceError> {
        let mut memory = Memory {
            text: text.into(),
            rows: 0,
            images: None,
            tensor: None,
        };
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("rows", n)) => {
                    memory.rows = n.parse().map_err(|_| bad(text, "rows is not a number"))?;
                }
                Some(("images", dir)) => memory.images = Some(dir.into()),
                Some(("tensor", spec)) => memory.tensor = Some(parse_tensor(text, spec)?),
                _ => return Err(bad(text, &format!("`{part}` is not understood"))),
            }
        }
        if memory.rows == 0 {
            return Err(bad(text, "rows is missing or 0"));
        }
        Ok(memory)
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        if self.images.is_some() {
            fields.push(Field {
                name: "image".into(),
                kind: Kind::Bytes,
            });
        }
        if let Some((dtype, shape)) = &self.tensor {
            fields.push(Field {
                name: "tensor".into(),
                kind: Kind::Fixed(*dtype, shape.clone()),
            });
        }
        fields.push(Field {
            name: "label".into(),
            kind: Kind::Fixed(DType::Int64, vec![]),
        });
        fields
    }

    pub(super) fn open(self, request: &SourceRequest) -> Result<Opened, SourceError> {
        if let Some(filter) = &request.filter {
            return Err(bad(
                &self.text,
                &format!("a memory source has no filter ({filter})"),
            ));
        }
        if let Some(Version::Tag(tag)) = &request.version {
            return Err(bad(
                &self.text,
                &format!("a memory source has no tag {tag:?}"),
            ));
        }
        let images = match (&self.images, request.bytes_columns.is_empty()) {
            (Some(dir), false) => load(dir).map_err(|error| {
                bad(
                    &self.text,
                    &format!("reading folder {}: {error}", dir.display()),
                )
            })?,
            _ => Vec::new(),
        };
        if images.is_empty() && !request.bytes_columns.is_empty() {
            return Err(bad(&self.text, "the folder `images` holds no file"));
        }
        let fixed = request
            .fixed_columns
            .iter()
            .map(|name| match (name.as_str(), &self.tensor) {
                ("tensor", Some((dtype, shape))) => FixedColumn::Cycle(pattern(*dtype, shape)),
                _ => FixedColumn::Numbers((0..self.rows as i64).collect()),
            })
            .collect();
        Ok(Opened {
            uri: format!("memory:{}", self.text),
            identity: format!("memory-{}", self.text),
            rows: self.rows,
            images,
            fixed,
        })
    }
}

fn parse_tensor(text: &str, spec: &str) -> Result<(DType, Vec<u64>), SourceError> {
    let (shape, dtype) = spec.split_once(':').unwrap_or((spec, "float32"));
    let shape: Vec<u64> = shape
        .split('x')
        .map(|side| side.parse().ok().filter(|side| *side > 0))
        .collect::<Option<_>>()
        .ok_or_else(|| bad(text, &format!("`{shape}` is not a shape")))?;
    let bytes = shape.iter().try_fold(8u64, |all, &s| all.checked_mul(s));
    if bytes.is_none_or(|bytes| bytes > 1 << 28) {
        return Err(bad(text, "tensor is larger than 256 MiB a row"));
    }
    let dtype = serde_json::from_value(dtype.into())
        .map_err(|_| bad(text, &format!("`{dtype}` is not a dtype")))?;
    Ok((dtype, shape))
}

/// Rows of small numbers that are valid in every dtype and differ from row to row.
fn pattern(dtype: DType, shape: &[u64]) -> (usize, Vec<u8>) {
    let elements: u64 = shape.iter().product();
    let row_bytes = (elements * dtype.itemsize()) as usize;
    let mut bytes = Vec::with_capacity(row_bytes * TENSOR_ROWS as usize);
    for row in 0..TENSOR_ROWS {
        for element in 0..elements {
            let value = ((row + element) % 64) as u8;
            match dtype {
                DType::Bool => bytes.push(value & 1),
                DType::Uint8 | DType::Int8 => bytes.push(value),
                DType::Uint16 | DType::Int16 => {
                    bytes.extend(u16::from(value).to_ne_bytes());
                }
                DType::Uint32 | DType::Int32 => bytes.extend(u32::from(value).to_ne_bytes()),
                DType::Uint64 | DType::Int64 => bytes.extend(u64::from(value).to_ne_bytes()),
                // 1.0 = 0x3c00 and 2.0 = 0x4000 in IEEE 754 binary16.
                // So few numbers are exact in the upper half of a float32.
                DType::Bfloat16 => {
                    let upper = (f32::from(value).to_bits() >> 16) as u16;
                    bytes.extend(upper.to_ne_bytes());
                }
                DType::Float16 => {
                    bytes.extend(if value & 1 == 0 { 0x3c00u16 } else { 0x4000 }.to_ne_bytes());
                }
                DType::Float32 => bytes.extend(f32::from(value).to_ne_bytes()),
                DType::Float64 => bytes.extend(f64::from(value).to_ne_bytes()),
            }
        }
    }
    (row_bytes, bytes)
}

fn load(dir: &PathBuf) -> std::io::Result<Vec<Arc<[u8]>>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).map(Arc::from))
        .collect()
}

enum FixedColumn {
    Cycle((usize, Vec<u8>)),
    Numbers(Vec<i64>),
}

/// An open memory source.
pub(super) struct Opened {
    uri: String,
    identity: String,
    rows: u64,
    images: Vec<Arc<[u8]>>,
    fixed: Vec<FixedColumn>,
}

impl Source for Opened {
    fn uri(&self) -> &str {
        &self.uri
    }
    fn version(&self) -> u64 {
        1
    }
    fn tag(&self) -> Option<&str> {
        None
    }
    fn identity(&self) -> &str {
        &self.identity
    }
    fn rows(&self) -> u64 {
        self.rows
    }
    fn selection_hash(&self) -> &str {
        "all"
    }
    fn row_address(&self, index: u64) -> u64 {
        index
    }
    fn row_id(&self, index: u64) -> u64 {
        index
    }
    fn files(&self) -> Option<&Arc<FileSet>> {
        None
    }
    fn payload(&self, _column: usize, index: u64) -> Payload {
        Payload::Shared(self.images[(index % self.images.len() as u64) as usize].clone())
    }
    fn typical_length(&self) -> u32 {
        0
    }
    fn fixed(&self, column: usize, index: u64) -> Option<&[u8]> {
        match &self.fixed[column] {
            FixedColumn::Cycle((row_bytes, bytes)) => {
                let start = (index % TENSOR_ROWS) as usize * row_bytes;
                Some(&bytes[start..start + row_bytes])
            }
            FixedColumn::Numbers(numbers) => {
                let number = &numbers[index as usize..=index as usize];
                // SAFETY: an i64 is eight initialised bytes, and the slice lives as long
                // as the vector that `self` owns.
                Some(unsafe { std::slice::from_raw_parts(number.as_ptr().cast(), 8) })
            }
        }
    }
    fn read_slow(&self, _: usize, _: &[u64]) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        unreachable!("a memory source says `Shared` for every payload")
    }
    fn read_fixed_slow(&self, _: usize, _: &[u64], _: &mut [u8]) -> Result<(), SourceError> {
        unreachable!("a memory source holds every fixed value")
    }
    fn classes(&self, _column: &str) -> Option<Vec<String>> {
        None
    }
    fn check(&self) -> Result<(), SourceError> {
        Ok(())
    }
    fn notices(&self) -> Vec<String> {
        Vec::new()
    }
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let memory = Memory::parse("rows=5,tensor=2x3:uint8").unwrap();
        assert_eq!(memory.rows, 5);
        assert_eq!(memory.tensor, Some((DType::Uint8, vec![2, 3])));
        for wrong in [
            "",
            "rows=0",
            "rows=x",
            "rows=1,tensor=0x2",
            "rows=1,what=2",
            "rows=1,tensor=2:text",
            "rows=1,tensor=999999999x99999999",
        ] {
            let text = Memory::parse(wrong).unwrap_err().to_string();
            assert!(text.contains("the form is memory:rows=N"), "{text}");
        }
    }
}
