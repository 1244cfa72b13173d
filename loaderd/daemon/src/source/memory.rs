//! A source in memory: `memory:rows=10000,tensor=3x224x224:float32,images=DIR,masks=DIR,tiled=mask,slow`.
//!
//! Enters: the part of the URI after `memory:`. Leaves: rows with the columns
//! - `image`: the files of the folder `images`, sorted by name, row i holding file
//!   i modulo their number (null where the file's name ends in `.null`);
//! - `mask`: the files of the folder `masks`, likewise;
//! - `path`: text that names the row's file of that folder;
//! - `tensor`: numbers of the given shape and type, 64 different rows in turn;
//! - `label`: the row's number, int64;
//! - `score`: half of it, float32, null in every sixth row; `count`: twice it, int64, null
//!   in rows 9, 19, 29, …;
//! - `text` (strings), `boxes` (lists of float32 `[4]`), `categories` (lists of int64) and
//!   `tags` (lists of strings), some rows empty and some null.
//!
//! With `tiled=image` or `tiled=mask`, or both, those files are held in their tiled form, as
//! `loaderd tile` makes it.
//! With `slow`, no value is at hand: fixed values, images and three in four variable ones
//! have to be fetched by the slow path. It never touches a disk once open.

use std::path::PathBuf;
use std::sync::Arc;

use loaderd_decode::{Limits, tile};
use loaderd_read::FileSet;
use loaderd_wire::layout::DType;
use loaderd_wire::message::Version;

use self::computed::{COLUMNS, Column, Values};
use self::fixed::FixedColumn;
use super::{ColumnRef, Field, Kind, Payload, Source, SourceError, SourceRequest, Variable};

mod computed;
mod fixed;

/// A parsed `memory:` URI.
#[derive(Debug)]
pub(super) struct Memory {
    text: String,
    rows: u64,
    images: Option<PathBuf>,
    masks: Option<PathBuf>,
    tensor: Option<(DType, Vec<u64>)>,
    /// Columns that are held in their tiled form.
    tiled: Vec<String>,
    slow: bool,
}

fn bad(text: &str, what: &str) -> SourceError {
    SourceError::Dataset(format!(
        "memory:{text}: {what}; the form is memory:rows=N[,images=DIR][,masks=DIR][,tensor=3x224x224:float32][,tiled=image][,tiled=mask][,slow]"
    ))
}

impl Memory {
    pub(super) fn parse(text: &str) -> Result<Memory, SourceError> {
        let mut memory = Memory {
            text: text.into(),
            rows: 0,
            images: None,
            masks: None,
            tensor: None,
            tiled: Vec::new(),
            slow: false,
        };
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("rows", n)) => {
                    memory.rows = n.parse().map_err(|_| bad(text, "rows is not a number"))?;
                }
                Some(("images", dir)) => memory.images = Some(dir.into()),
                Some(("masks", dir)) => memory.masks = Some(dir.into()),
                Some(("tiled", name @ ("image" | "mask"))) => memory.tiled.push(name.into()),
                Some(("tensor", spec)) => memory.tensor = Some(parse_tensor(text, spec)?),
                None if part == "slow" => memory.slow = true,
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
        for (name, folder) in [("image", &self.images), ("mask", &self.masks)] {
            if folder.is_some() {
                fields.push(Field {
                    name: name.into(),
                    kind: Kind::Bytes,
                });
            }
        }
        if let Some((dtype, shape)) = &self.tensor {
            fields.push(Field {
                name: "tensor".into(),
                kind: Kind::Fixed(*dtype, shape.clone()),
            });
        }
        for (name, dtype) in [
            ("label", DType::Int64),
            ("score", DType::Float32),
            ("count", DType::Int64),
        ] {
            fields.push(Field {
                name: name.into(),
                kind: Kind::Fixed(dtype, vec![]),
            });
        }
        for (name, column) in COLUMNS {
            if column != Column::Path || self.images.is_some() {
                fields.push(Field {
                    name: name.into(),
                    kind: Kind::Ragged(column.kind()),
                });
            }
        }
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
        let images = request
            .bytes_columns
            .iter()
            .map(|name| match name.as_str() {
                "mask" => self.read(name, &self.masks),
                _ => self.read(name, &self.images),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let paths = match &self.images {
            Some(dir) if request.variable_columns.iter().any(|name| name == "path") => {
                self.list(dir)?
            }
            _ => Vec::new(),
        };
        let fixed = request
            .fixed_columns
            .iter()
            .map(|name| FixedColumn::of(name, self.rows, self.tensor.as_ref()))
            .collect();
        let variable = request
            .variable_columns
            .iter()
            .filter_map(|name| COLUMNS.into_iter().find(|(column, _)| column == name))
            .map(|(_, column)| Values::of(column, self.rows, &paths))
            .collect();
        Ok(Opened {
            uri: format!("memory:{}", self.text),
            identity: format!("memory-{}", self.text),
            rows: self.rows,
            images,
            fixed,
            variable,
            folder: self.images,
            slow: self.slow,
        })
    }

    /// The files of a folder.
    fn list(&self, dir: &PathBuf) -> Result<Vec<PathBuf>, SourceError> {
        let paths = list(dir).map_err(|error| self.unreadable(dir, &error))?;
        if paths.is_empty() {
            let folder = format!("the folder {} holds no file", dir.display());
            return Err(bad(&self.text, &folder));
        }
        Ok(paths)
    }

    /// What is in the files of a column's folder; `None` where one's name ends in `.null`.
    fn read(&self, name: &String, dir: &Option<PathBuf>) -> Result<Payloads, SourceError> {
        let dir = dir
            .as_ref()
            .expect("only columns that `fields` has are opened");
        let is_tiled = self.tiled.contains(name);
        let form = |image: Vec<u8>| {
            let tiled = is_tiled.then(|| tile::tiled_form(&image, &Limits::default()));
            tiled.and_then(Result::ok).unwrap_or(image)
        };
        let read = |path: &PathBuf| match path.extension() {
            Some(end) if end == "null" => Ok(None),
            _ => std::fs::read(path).map(|bytes| Some(form(bytes).into())),
        };
        let paths = self.list(dir)?;
        let payloads = paths.iter().map(read).collect::<std::io::Result<_>>();
        payloads.map_err(|error| self.unreadable(dir, &error))
    }

    fn unreadable(&self, dir: &std::path::Path, error: &std::io::Error) -> SourceError {
        bad(
            &self.text,
            &format!("reading folder {}: {error}", dir.display()),
        )
    }
}

/// A length that 99 of 100 don't exceed.
fn typical(lengths: impl Iterator<Item = usize>) -> u32 {
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.sort_unstable();
    let at = (lengths.len() * 99).div_ceil(100).saturating_sub(1);
    lengths.get(at).map_or(0, |&length| length as u32)
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

/// The files of a folder, sorted by name.
fn list(dir: &PathBuf) -> std::io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}

/// What one column's files hold.
type Payloads = Vec<Option<Arc<[u8]>>>;

/// An open memory source.
pub(super) struct Opened {
    uri: String,
    identity: String,
    rows: u64,
    /// By bytes column.
    images: Vec<Payloads>,
    fixed: Vec<FixedColumn>,
    variable: Vec<Values>,
    folder: Option<PathBuf>,
    slow: bool,
}

impl Opened {
    fn image(&self, column: usize, index: u64) -> &Option<Arc<[u8]>> {
        let images = &self.images[column];
        &images[(index % images.len() as u64) as usize]
    }
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
    fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }
    fn files(&self) -> Option<&Arc<FileSet>> {
        None
    }
    fn payload(&self, column: usize, index: u64) -> Payload {
        if self.slow {
            return Payload::Slow;
        }
        match self.image(column, index) {
            Some(bytes) => Payload::Shared(bytes.clone()),
            None => Payload::Null,
        }
    }
    fn typical_length(&self) -> u32 {
        typical(
            self.images
                .iter()
                .flatten()
                .flatten()
                .map(|image| image.len()),
        )
    }
    fn variable(&self, column: usize, index: u64) -> Variable<'_> {
        if self.slow && !index.is_multiple_of(4) {
            return Variable::Slow;
        }
        match self.variable[column].get(index) {
            Some(bytes) => Variable::Value(bytes),
            None => Variable::Null,
        }
    }
    fn variable_typical(&self, column: usize) -> u32 {
        self.variable[column].typical()
    }
    fn fixed_nulls(&self, column: usize) -> u64 {
        let is_null = |row: &u64| self.fixed[column].is_null(*row);
        (0..self.rows).filter(is_null).count() as u64
    }
    fn is_valid(&self, column: ColumnRef, index: u64) -> Option<bool> {
        match column {
            ColumnRef::Bytes(column) => match self.payload(column, index) {
                Payload::Slow => None,
                Payload::Null => Some(false),
                _ => Some(true),
            },
            ColumnRef::Fixed(column) => Some(!self.fixed[column].is_null(index)),
            ColumnRef::Variable(column) => match self.variable(column, index) {
                Variable::Slow => None,
                Variable::Null => Some(false),
                Variable::Value(_) => Some(true),
            },
        }
    }
    fn fixed(&self, column: usize, index: u64) -> Option<&[u8]> {
        (!self.slow).then(|| self.fixed[column].value(index))
    }
    fn read_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        let images = indices.iter().map(|&index| self.image(column, index));
        Ok(images
            .map(|image| image.as_ref().map(|bytes| bytes.to_vec()))
            .collect())
    }
    fn read_variable_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        let values = indices
            .iter()
            .map(|&index| self.variable[column].get(index));
        Ok(values.map(|value| value.map(<[u8]>::to_vec)).collect())
    }
    fn read_fixed_slow(
        &self,
        column: usize,
        indices: &[u64],
        out: &mut [u8],
    ) -> Result<(), SourceError> {
        let mut rest = out;
        for &index in indices {
            let value = self.fixed[column].value(index);
            let (place, after) = rest.split_at_mut(value.len());
            place.copy_from_slice(value);
            rest = after;
        }
        Ok(())
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
        assert!(!memory.slow && Memory::parse("rows=5,slow").unwrap().slow);
        let tiled = Memory::parse("rows=5,tiled=mask").unwrap().tiled;
        assert!(memory.tiled.is_empty() && tiled == ["mask"]);
        for wrong in [
            "",
            "rows=0",
            "rows=x",
            "rows=1,tensor=0x2",
            "rows=1,what=2",
            "rows=1,slow=2",
            "rows=1,tiled",
            "rows=1,tiled=label",
            "rows=1,tensor=2:text",
            "rows=1,tensor=999999999x99999999",
        ] {
            let text = Memory::parse(wrong).unwrap_err().to_string();
            assert!(text.contains("the form is memory:rows=N"), "{text}");
        }
    }
}
