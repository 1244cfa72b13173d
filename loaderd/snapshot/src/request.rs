//! What a job asks for: a version, rows, columns.
//!
//! Enters: names. Leaves: the columns behind them, or an error that says what there is and what can
//! be used how. It reads no data.

use std::fmt;
use std::path::PathBuf;

use lance::Dataset;
use lance_file::version::ConcreteFileVersion;
use serde::{Deserialize, Serialize};

use crate::SnapshotError;
use crate::column::Column;
use crate::dataset::column;
use crate::field::{BytesLayout, FieldKind, FixedKind, RaggedKind};
use crate::location::Location;
use crate::protect::Protect;

/// Which version of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionRef {
    /// The newest one, at the time of opening.
    Latest,
    /// This one.
    Number(u64),
    /// The one that this tag names.
    Tag(String),
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

/// What to open.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    /// A local path or a `file://` URI.
    pub uri: String,
    /// The version.
    pub version: VersionRef,
    /// An SQL expression over any columns of the dataset; all rows without one.
    pub filter: Option<String>,
    /// Columns of encoded images. `column` arguments of [`Snapshot::payload`](crate::Snapshot::payload) and
    /// [`Snapshot::read_slow`](crate::Snapshot::read_slow) are places in this list.
    pub bytes_columns: Vec<String>,
    /// Those of them whose tiled form may be read instead, row by row, where the dataset has one:
    /// the same pixels in other bytes.
    pub tiled_columns: Vec<String>,
    /// Columns of numbers. `column` arguments of [`Snapshot::fixed`](crate::Snapshot::fixed), [`Snapshot::fixed_kind`](crate::Snapshot::fixed_kind) and
    /// [`Snapshot::read_fixed_slow`](crate::Snapshot::read_fixed_slow) are places in this list.
    pub fixed_columns: Vec<String>,
    /// Columns of text and lists. `column` arguments of [`Snapshot::variable`](crate::Snapshot::variable),
    /// [`Snapshot::variable_kind`](crate::Snapshot::variable_kind), [`Snapshot::variable_quantile`](crate::Snapshot::variable_quantile) and
    /// [`Snapshot::read_variable_slow`](crate::Snapshot::read_variable_slow) are places in this list.
    pub variable_columns: Vec<String>,
    /// Whether to hold the version against clean-up.
    pub protect: Protect,
    /// The run's name, for the tag.
    pub run: String,
    /// Where page maps are kept. Created where it is missing.
    pub cache_dir: PathBuf,
    /// What all page maps in that folder may take on the disk; the ones not used for longest go.
    pub cache_bytes_max: u64,
}

/// A column of a [`SnapshotRequest`], by its place in one of the lists there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnRef {
    /// In `bytes_columns`.
    Bytes(usize),
    /// In `fixed_columns`.
    Fixed(usize),
    /// In `variable_columns`.
    Variable(usize),
}

/// The bytes columns of these names.
pub(crate) fn bytes_columns(
    location: &Location,
    dataset: &Dataset,
    names: &[String],
) -> Result<Vec<(Column, BytesLayout)>, SnapshotError> {
    let wanted = "encoded images are read from blob, binary or large binary columns";
    let format = dataset.manifest().data_storage_format.lance_file_format();
    let is_legacy = format == ConcreteFileVersion::V1;
    let columns = chosen(location, dataset, names, wanted, |kind| match kind {
        FieldKind::Bytes(layout) => Some(*layout),
        _ => None,
    })?;
    let mut blobs = columns.iter().filter(|(_, layout)| layout.is_blob());
    // Lance panics when it looks for descriptors there.
    match blobs.next().filter(|_| is_legacy) {
        None => Ok(columns),
        Some((column, _)) => Err(SnapshotError::WrongType {
            column: column.name.clone(),
            found: "a blob column in files of the legacy format".to_owned(),
            wanted: "write the dataset anew, as 2.0 or later".to_owned(),
        }),
    }
}

/// The fixed columns of these names.
pub(crate) fn fixed_columns(
    location: &Location,
    dataset: &Dataset,
    names: &[String],
) -> Result<Vec<(Column, FixedKind)>, SnapshotError> {
    let wanted = "dense tensors are made of numbers, bools, times and fixed-size lists of them";
    chosen(location, dataset, names, wanted, |kind| match kind {
        FieldKind::Fixed(kind) => Some(kind.clone()),
        _ => None,
    })
}

/// The variable columns of these names.
pub(crate) fn variable_columns(
    location: &Location,
    dataset: &Dataset,
    names: &[String],
) -> Result<Vec<(Column, RaggedKind)>, SnapshotError> {
    let wanted = "ragged tensors are made of text, and of lists of text, of numbers and of lists \
                  of numbers";
    chosen(location, dataset, names, wanted, |kind| match kind {
        FieldKind::Ragged(kind) => Some(kind.clone()),
        _ => None,
    })
}

/// The columns of these names, each with what `of_kind` takes from its kind.
fn chosen<K>(
    location: &Location,
    dataset: &Dataset,
    names: &[String],
    wanted: &str,
    of_kind: impl Fn(&FieldKind) -> Option<K>,
) -> Result<Vec<(Column, K)>, SnapshotError> {
    let one = |name: &String| {
        let column = column(location, dataset, name)?;
        match of_kind(&column.kind) {
            Some(kind) => Ok((column, kind)),
            None => Err(SnapshotError::WrongType {
                column: column.name,
                found: column.kind.to_string(),
                wanted: wanted.to_owned(),
            }),
        }
    };
    names.iter().map(one).collect()
}
