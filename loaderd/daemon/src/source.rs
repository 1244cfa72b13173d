//! Where rows come from: what the rest of the daemon needs of a dataset at one version.
//!
//! Two real sources stand behind the [`Source`] trait: a Lance dataset
//! (feature `lance`, through `loaderd-snapshot`) and one in memory, which drives the
//! loop in tests and benches without building Lance.
//!
//! Enters: a URI, a version, a filter, columns. Leaves: a [`Source`] that looks rows up by index.
//! It never says in which order rows are visited, and decodes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use loaderd_read::{Extent, FileSet};
use loaderd_wire::layout::DType;
use loaderd_wire::message::{Protect, Version};

#[cfg(feature = "lance")]
mod lance;
mod memory;

/// Why a dataset can't be read. The text names the thing and the way out.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The dataset, version, column or filter that was asked for.
    #[error("{0}")]
    Dataset(String),
    /// Reading rows failed after it was opened.
    #[error("{0}")]
    Io(String),
}

/// How the bytes of one row are reached.
#[derive(Clone, Debug)]
pub enum Payload {
    /// In a file of [`Source::files`]: the io_uring engine reads it.
    Extent(Extent),
    /// In memory already.
    Shared(Arc<[u8]>),
    /// The row has none.
    Null,
    /// Only [`Source::read_slow`] can get it.
    Slow,
}

/// One value of a variable column, encoded as [`loaderd_wire::ragged`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable<'a> {
    /// In memory.
    Value(&'a [u8]),
    /// The row has none.
    Null,
    /// Only [`Source::read_variable_slow`] can get it.
    Slow,
}

/// What the lists of a column are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaggedKind {
    /// Of the leaf elements.
    pub dtype: DType,
    /// Of one leaf: `[]` for a number, `[4]` for a box.
    pub shape: Vec<u64>,
    /// 1: lists. 2: lists of lists.
    pub levels: u8,
    /// The innermost lists are UTF-8 text.
    pub text: bool,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of any length: encoded images, sound, anything.
    Bytes,
    /// The same number of elements in every row.
    Fixed(DType, Vec<u64>),
    /// Lists or text.
    Ragged(RaggedKind),
    /// Something that can't be delivered yet; its type in words.
    Other(String),
}

/// A column that was opened, by its number in the [`SourceRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnRef {
    /// Among `bytes_columns`.
    Bytes(usize),
    /// Among `fixed_columns`.
    Fixed(usize),
    /// Among `variable_columns`.
    Variable(usize),
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

/// What to open.
#[derive(Clone, Debug)]
pub struct SourceRequest {
    /// Dataset.
    pub uri: String,
    /// None: latest.
    pub version: Option<Version>,
    /// SQL.
    pub filter: Option<String>,
    /// Columns of [`Kind::Bytes`]; numbered in this order from now on.
    pub bytes_columns: Vec<String>,
    /// Those of them whose tiled form may be read instead: the same pixels in other bytes.
    pub tiled_columns: Vec<String>,
    /// Columns of [`Kind::Fixed`]; numbered in this order from now on.
    pub fixed_columns: Vec<String>,
    /// Columns of [`Kind::Ragged`]; numbered in this order from now on.
    pub variable_columns: Vec<String>,
    /// Hold the version against clean-up.
    pub protect: Protect,
    /// Run id, for the name of the protecting tag.
    pub run: String,
}

/// One version of a dataset and the rows selected from it. Rows are numbered
/// `0..rows()` in dataset order.
pub trait Source: Send + Sync {
    /// The dataset's URI as resolved.
    fn uri(&self) -> &str;
    /// The version that is read.
    fn version(&self) -> u64;
    /// The columns of that version; None where [`fields`] can't have told of another one's.
    fn fields(&self) -> Option<Vec<Field>> {
        None
    }
    /// The tag that was asked for.
    fn tag(&self) -> Option<&str>;
    /// Identity of this version's content, hex.
    fn identity(&self) -> &str;
    /// Selected rows.
    fn rows(&self) -> u64;
    /// Hash of the selection, hex.
    fn selection_hash(&self) -> &str;
    /// Lance's row address (fragment << 32 | offset).
    fn row_address(&self, index: u64) -> u64;
    /// Stable row id.
    fn row_id(&self, index: u64) -> u64;
    /// Where relative paths in text columns begin: the dataset's own folder.
    fn folder(&self) -> Option<PathBuf>;
    /// The files that extents point into.
    fn files(&self) -> Option<&Arc<FileSet>>;
    /// How to reach the bytes of a row.
    fn payload(&self, column: usize, index: u64) -> Payload;
    /// The column that holds a bytes column's tiled form, and in how many rows it is read.
    fn tiled(&self, _column: usize) -> Option<(&str, u64)> {
        None
    }
    /// A length that most payloads don't exceed, in bytes.
    fn typical_length(&self) -> u32;
    /// A value of a variable column, where it lies in memory.
    fn variable(&self, column: usize, index: u64) -> Variable<'_>;
    /// A length that most values of a variable column don't exceed, in bytes.
    fn variable_typical(&self, column: usize) -> u32;
    /// Rows in which a fixed column is null. There floats are NaN, all else is 0.
    fn fixed_nulls(&self, column: usize) -> u64;
    /// Whether a row has a value in a column; `None` where only reading it by the slow path
    /// tells.
    fn is_valid(&self, column: ColumnRef, index: u64) -> Option<bool>;
    /// A fixed value, where it lies in memory.
    fn fixed(&self, column: usize, index: u64) -> Option<&[u8]>;
    /// Bytes of many rows the slow way; blocks. Any order, duplicates allowed.
    fn read_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError>;
    /// Values of a variable column in many rows the slow way; blocks. `None`: null. Any
    /// order, duplicates allowed.
    fn read_variable_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError>;
    /// Fixed values of many rows the slow way, into `out`, row after row; blocks.
    fn read_fixed_slow(
        &self,
        column: usize,
        indices: &[u64],
        out: &mut [u8],
    ) -> Result<(), SourceError>;
    /// Class names by number of a label column.
    fn classes(&self, column: &str) -> Option<Vec<String>>;
    /// Whether every look-up so far could be trusted; cheap, and never blocks.
    fn check(&self) -> Result<(), SourceError>;
    /// How this dataset is held, for those who ask.
    fn notices(&self) -> Vec<String>;
    /// What the user should see without asking.
    fn warnings(&self) -> Vec<String>;
}

/// The columns of a dataset.
pub fn fields(uri: &str, version: Option<&Version>) -> Result<Vec<Field>, SourceError> {
    if let Some(rest) = uri.strip_prefix("memory:") {
        return Ok(memory::Memory::parse(rest)?.fields());
    }
    #[cfg(feature = "lance")]
    return lance::fields(uri, version);
    #[cfg(not(feature = "lance"))]
    Err(without_lance(uri, version))
}

/// Opens a dataset; blocks for seconds where its page map has to be built.
pub fn open(request: SourceRequest) -> Result<Box<dyn Source>, SourceError> {
    if let Some(rest) = request.uri.strip_prefix("memory:") {
        return Ok(Box::new(memory::Memory::parse(rest)?.open(&request)?));
    }
    #[cfg(feature = "lance")]
    return lance::open(request);
    #[cfg(not(feature = "lance"))]
    Err(without_lance(&request.uri, request.version.as_ref()))
}

#[cfg(not(feature = "lance"))]
fn without_lance(uri: &str, _version: Option<&Version>) -> SourceError {
    SourceError::Dataset(format!(
        "{uri}: this loaderd was built without the feature `lance` and reads only `memory:` sources"
    ))
}
