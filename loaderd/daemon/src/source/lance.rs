//! A Lance dataset as a [`Source`]: a thin adapter over `loaderd-snapshot`.
//!
//! Enters: a [`SourceRequest`]. Leaves: a snapshot in the daemon's words.

use std::path::PathBuf;
use std::sync::Arc;

use loaderd_read::FileSet;
use loaderd_snapshot as snapshot;
use loaderd_snapshot::{
    FieldInfo, FieldKind, Snapshot, SnapshotError, SnapshotRequest, VersionRef,
};
use loaderd_wire::layout::DType;
use loaderd_wire::message::{Protect, Version};

use super::{
    ColumnRef, Field, Kind, Payload, RaggedKind, Source, SourceError, SourceRequest, Variable,
};

/// Page maps together take at most this much of the cache folder, in bytes; the oldest go first.
const CACHE_BYTES_MAX: u64 = 16 << 30;

fn version_ref(version: Option<&Version>) -> VersionRef {
    match version {
        None => VersionRef::Latest,
        Some(Version::Number(number)) => VersionRef::Number(*number),
        Some(Version::Tag(tag)) => VersionRef::Tag(tag.clone()),
    }
}

fn dataset(error: SnapshotError) -> SourceError {
    SourceError::Dataset(error.to_string())
}

fn io(error: SnapshotError) -> SourceError {
    SourceError::Io(error.to_string())
}

fn dtype(dtype: snapshot::DType) -> DType {
    use snapshot::DType as Theirs;
    match dtype {
        Theirs::Bool => DType::Bool,
        Theirs::Uint8 => DType::Uint8,
        Theirs::Int8 => DType::Int8,
        Theirs::Uint16 => DType::Uint16,
        Theirs::Int16 => DType::Int16,
        Theirs::Uint32 => DType::Uint32,
        Theirs::Int32 => DType::Int32,
        Theirs::Uint64 => DType::Uint64,
        Theirs::Int64 => DType::Int64,
        Theirs::Float16 => DType::Float16,
        Theirs::Float32 => DType::Float32,
        Theirs::Float64 => DType::Float64,
    }
}

pub(super) fn fields(uri: &str, version: Option<&Version>) -> Result<Vec<Field>, SourceError> {
    let fields = Snapshot::schema(uri, &version_ref(version)).map_err(dataset)?;
    Ok(fields.into_iter().map(field).collect())
}

fn field(field: FieldInfo) -> Field {
    Field {
        name: field.name,
        kind: match field.kind {
            FieldKind::Bytes { .. } => Kind::Bytes,
            FieldKind::Fixed(fixed) => Kind::Fixed(
                dtype(fixed.dtype),
                fixed.shape.iter().map(|&side| side as u64).collect(),
            ),
            FieldKind::Ragged(ragged) => Kind::Ragged(RaggedKind {
                dtype: dtype(ragged.dtype),
                shape: ragged.shape.iter().map(|&side| side as u64).collect(),
                levels: ragged.levels,
                text: ragged.text,
            }),
            FieldKind::Other { arrow_type } => Kind::Other(arrow_type),
        },
    }
}

pub(super) fn open(request: SourceRequest) -> Result<Box<dyn Source>, SourceError> {
    let cache_dir = loaderd_wire::paths::cache_dir()
        .map_err(|error| SourceError::Dataset(error.to_string()))?;
    let snapshot = Snapshot::open(SnapshotRequest {
        uri: request.uri,
        version: version_ref(request.version.as_ref()),
        filter: request.filter,
        bytes_columns: request.bytes_columns,
        tiled_columns: request.tiled_columns,
        fixed_columns: request.fixed_columns,
        variable_columns: request.variable_columns,
        protect: match request.protect {
            Protect::Run => snapshot::Protect::Run,
            Protect::Keep => snapshot::Protect::Keep,
            Protect::None => snapshot::Protect::None,
        },
        run: request.run,
        cache_dir,
        cache_bytes_max: CACHE_BYTES_MAX,
    })
    .map_err(dataset)?;
    Ok(Box::new(Lance(snapshot)))
}

struct Lance(Snapshot);

impl Source for Lance {
    fn uri(&self) -> &str {
        self.0.uri()
    }
    fn version(&self) -> u64 {
        self.0.version()
    }
    fn fields(&self) -> Option<Vec<Field>> {
        Some(self.0.fields().into_iter().map(field).collect())
    }
    fn tag(&self) -> Option<&str> {
        self.0.tag()
    }
    fn identity(&self) -> &str {
        self.0.identity()
    }
    fn rows(&self) -> u64 {
        self.0.rows()
    }
    fn selection_hash(&self) -> &str {
        self.0.selection_hash()
    }
    fn row_address(&self, index: u64) -> u64 {
        self.0.row_address(index)
    }
    fn row_id(&self, index: u64) -> u64 {
        self.0.row_id(index)
    }
    fn folder(&self) -> Option<PathBuf> {
        let uri = self.0.uri();
        let path = uri.strip_prefix("file://").unwrap_or(uri);
        path.starts_with('/').then(|| path.into())
    }
    fn files(&self) -> Option<&Arc<FileSet>> {
        Some(self.0.files())
    }
    fn payload(&self, column: usize, index: u64) -> Payload {
        match self.0.payload(column, index) {
            snapshot::Payload::Extent(extent) => Payload::Extent(extent),
            snapshot::Payload::Null => Payload::Null,
            snapshot::Payload::Slow => Payload::Slow,
        }
    }
    fn tiled(&self, column: usize) -> Option<(&str, u64)> {
        self.0.tiled(column)
    }
    fn typical_length(&self) -> u32 {
        self.0.length_quantile(0.99)
    }
    fn variable(&self, column: usize, index: u64) -> Variable<'_> {
        match self.0.variable(column, index) {
            snapshot::Variable::Value(bytes) => Variable::Value(bytes),
            snapshot::Variable::Null => Variable::Null,
            snapshot::Variable::Slow => Variable::Slow,
        }
    }
    fn variable_typical(&self, column: usize) -> u32 {
        self.0.variable_quantile(column, 0.99)
    }
    fn fixed_nulls(&self, column: usize) -> u64 {
        self.0.fixed_nulls(column)
    }
    fn is_valid(&self, column: ColumnRef, index: u64) -> Option<bool> {
        match column {
            ColumnRef::Bytes(column) => match self.0.payload(column, index) {
                snapshot::Payload::Slow => None,
                payload => Some(payload != snapshot::Payload::Null),
            },
            ColumnRef::Fixed(column) => {
                Some(self.0.is_valid(snapshot::ColumnRef::Fixed(column), index))
            }
            ColumnRef::Variable(column) => match self.0.variable(column, index) {
                snapshot::Variable::Slow => None,
                value => Some(value != snapshot::Variable::Null),
            },
        }
    }
    fn fixed(&self, column: usize, index: u64) -> Option<&[u8]> {
        self.0.fixed(column, index)
    }
    fn read_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        self.0.read_slow(column, indices).map_err(io)
    }
    fn read_variable_slow(
        &self,
        column: usize,
        indices: &[u64],
    ) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        self.0.read_variable_slow(column, indices).map_err(io)
    }
    fn read_fixed_slow(
        &self,
        column: usize,
        indices: &[u64],
        out: &mut [u8],
    ) -> Result<(), SourceError> {
        self.0.read_fixed_slow(column, indices, out).map_err(io)
    }
    fn classes(&self, column: &str) -> Option<Vec<String>> {
        self.0.classes(column)
    }
    fn check(&self) -> Result<(), SourceError> {
        self.0.check().map_err(io)
    }
    fn notices(&self) -> Vec<String> {
        let stale = (0..self.0.bytes_columns()).filter_map(|column| {
            let (stale, all) = self.0.tiled_stale(column)?;
            let (name, uri) = (self.0.bytes_name(column), self.0.uri());
            Some(format!(
                "column {name:?}: the tiled images of {stale} of {all} fragments are left alone, because rows or \
                 images were written anew since: `loaderd tile {uri} --column {name}` makes new ones"
            ))
        });
        let protection = self.0.protection().to_string();
        std::iter::once(protection).chain(stale).collect()
    }
    fn warnings(&self) -> Vec<String> {
        match self.0.protection() {
            refused @ snapshot::Protection::Refused(_) => vec![refused.to_string()],
            _ => vec![],
        }
    }
}
