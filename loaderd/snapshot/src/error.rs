//! What can go wrong between a URI and a snapshot, each with the facts and the way out.
//!
//! Enters: Lance's, the disk's and the user's failures. Leaves: one enum. It never hides Lance's
//! own words; it only drops the source line that Lance appends to them.

use std::path::PathBuf;

use loaderd_pagemap::MapError;

use crate::field::{FieldKind, RaggedKind};

/// Everything that this crate can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The URI names a store that this version does not read.
    #[error(
        "object stores are not supported yet: {uri} has the scheme {scheme}; use a local copy, as a plain path or file:// URI"
    )]
    UnsupportedScheme {
        /// The URI as given.
        uri: String,
        /// Its scheme, without `://`.
        scheme: String,
    },
    /// The URI is not a path that can be opened.
    #[error("{uri:?} is not a dataset URI: {reason}; give a plain path or file:///absolute/path")]
    BadUri {
        /// The URI as given.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no dataset at this place.
    #[error("no lance dataset at {uri}: {reason}")]
    NoDataset {
        /// The resolved URI.
        uri: String,
        /// What is there instead.
        reason: String,
    },
    /// The dataset does not have this version (any more).
    #[error("{uri} has no version {version}: it has {have}")]
    NoVersion {
        /// The resolved URI.
        uri: String,
        /// The version asked for.
        version: u64,
        /// The versions there are, in words.
        have: String,
    },
    /// The dataset does not have this tag.
    #[error("{uri} has no tag {tag:?}: it has {have}")]
    NoTag {
        /// The resolved URI.
        uri: String,
        /// The tag asked for.
        tag: String,
        /// The tags there are, in words.
        have: String,
    },
    /// The dataset does not have this column.
    #[error("{}", loaderd_names::no_column(uri, column, columns, &[]))]
    NoColumn {
        /// The resolved URI.
        uri: String,
        /// The column asked for.
        column: String,
        /// The columns there are.
        columns: Vec<String>,
    },
    /// The column is there, and of a type that cannot be used like this.
    #[error("column {column:?} is {found}: {wanted}")]
    WrongType {
        /// The column asked for.
        column: String,
        /// Its type, in words.
        found: String,
        /// What can be used here.
        wanted: String,
    },
    /// A column of integers or bools has nulls among the selected rows.
    #[error(
        "column {column:?} holds nulls in {count} of the selected rows, for which its type has no value: ask for the column {column}._valid too and take them as 0, leave them out with the filter {column} IS NOT NULL, or leave out the column"
    )]
    Nulls {
        /// The column.
        column: String,
        /// Selected rows with a null; of the rows asked for, where a wide column is read.
        count: u64,
    },
    /// Lists of integers or bools have nulls in them.
    #[error(
        "column {column:?} ({kind}) holds {count} nulls inside of its lists in the selected rows, for which its type has no value: leave those rows out with a filter, or write the lists without nulls, or as floats, where a null becomes NaN"
    )]
    ListNulls {
        /// The column.
        column: String,
        /// What it holds, in words.
        kind: String,
        /// Nulls in lists of the selected rows; of the rows asked for, where they are read.
        count: u64,
    },
    /// A value of a variable column has too many parts.
    #[error(
        "column {column:?} has a value of more than {} lists, or leaves in a list: leave that row out with a filter",
        u32::MAX
    )]
    ValueTooLong {
        /// The column.
        column: String,
    },
    /// Lance does not understand the filter.
    #[error("the filter {filter:?} is not valid here: {reason}")]
    BadFilter {
        /// The SQL expression as given.
        filter: String,
        /// Lance's words.
        reason: String,
    },
    /// The filter is understood and selects nothing.
    #[error("the filter {filter:?} selects none of the {rows} rows in version {version}")]
    EmptySelection {
        /// The SQL expression as given.
        filter: String,
        /// Rows in that version.
        rows: u64,
        /// The version.
        version: u64,
    },
    /// The version has no rows.
    #[error("version {version} of {uri} has no rows")]
    EmptyDataset {
        /// The resolved URI.
        uri: String,
        /// The version.
        version: u64,
    },
    /// Lance failed at something that it should be able to do.
    #[error("lance failed to {action}: {reason}")]
    Lance {
        /// What was being done.
        action: String,
        /// Lance's words.
        reason: String,
        /// Lance's error. No source in the sense of `Error::source`: `reason` quotes it, without
        /// the line of Lance's own code that it ends with.
        error: Box<lance::Error>,
    },
    /// Lance answered with another number of rows than was asked for.
    #[error("lance returned {found} of {expected} rows of column {column:?} at version {version}")]
    RowsMissing {
        /// The column read.
        column: String,
        /// Rows asked for.
        expected: usize,
        /// Rows returned.
        found: usize,
        /// The version.
        version: u64,
    },
    /// The page map, or the folder of page maps.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A version's manifest cannot be read.
    #[error("cannot read the manifest {}: {source}", .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A data file is shorter than the dataset says: an incomplete copy, mostly.
    #[error("{} has {found} bytes where the dataset needs at least {expected}: the copy is incomplete", .path.display())]
    DataFileShort {
        /// The file.
        path: PathBuf,
        /// Bytes that its rows reach to.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A data file of this version cannot be opened.
    #[error("cannot open the data files of {uri} at version {version}: {source}")]
    DataFiles {
        /// The resolved URI.
        uri: String,
        /// The version.
        version: u64,
        /// What the reader says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row to ingest has a class that was not announced.
    #[error("the class {class:?} is not in the list of classes given for this ingest")]
    UnknownClass {
        /// The class of the row.
        class: String,
    },
    /// The existing dataset is not one that this ingest can append to.
    #[error("cannot append to {uri}: {reason}")]
    IngestTarget {
        /// The resolved URI.
        uri: String,
        /// What is in the way.
        reason: String,
    },
    /// Somebody else changed the dataset in a way that this ingest cannot be placed behind.
    #[error("{uri} was changed while rows were appended ({reason}): run the ingest again")]
    IngestConflict {
        /// The resolved URI.
        uri: String,
        /// What changed.
        reason: String,
    },
    /// A column cannot be tiled.
    #[error("cannot tile {column:?} of {uri}: {reason}")]
    Tile {
        /// The resolved URI.
        uri: String,
        /// The column.
        column: String,
        /// What is in the way.
        reason: String,
    },
    /// Somebody else changed the dataset in a way that tiled images cannot be placed behind.
    #[error("{uri} was changed while images were tiled ({reason}): run it again")]
    TileConflict {
        /// The resolved URI.
        uri: String,
        /// What changed.
        reason: String,
    },
    /// The record of what was tiled so far cannot be kept.
    #[error("cannot {action} {}: {source}", .path.display())]
    Record {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// There was nothing to ingest.
    #[error("nothing to ingest: the source gave no rows")]
    NoRows,
    /// The iterator that gives the rows to ingest failed.
    #[error("reading the rows to ingest failed: {source}")]
    Source {
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Lance panicked while it was waited for.
    #[error(
        "lance panicked ({reason}): a file of the dataset may be damaged; compare it with another copy, and report \
         it to lance if it is whole"
    )]
    Panic {
        /// Its words.
        reason: String,
    },
    /// The threads that Lance runs on could not be started.
    #[error("cannot start the threads that lance runs on: {source}")]
    Runtime {
        /// The system's error.
        source: std::io::Error,
    },
}

impl SnapshotError {
    /// An error of Lance's, under the name of what was being done.
    pub(crate) fn lance(action: impl Into<String>, source: lance::Error) -> Self {
        Self::Lance {
            action: action.into(),
            reason: words(&source),
            error: Box::new(source),
        }
    }

    pub(crate) fn record(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        Self::Record {
            action,
            path: path.into(),
            source,
        }
    }

    /// Nulls inside of the lists of a variable column.
    pub(crate) fn list_nulls(column: &str, kind: &RaggedKind, count: u64) -> Self {
        Self::ListNulls {
            column: column.to_owned(),
            kind: FieldKind::Ragged(kind.clone()).to_string(),
            count,
        }
    }
}

/// The column that is not there, where that is what a filter was refused for: DataFusion's words, in
/// front of a suggestion or a list of its own.
pub(crate) fn missing_field(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once("No field named ")?;
    let ends = [". Did you mean ", ". Valid fields are "];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    let name = end.map_or(rest.trim_end_matches('.'), |end| &rest[..end]);
    Some(name.trim_matches('"'))
}

/// Lance's message without the source line (`, path/file.rs:12:34`) at its end.
pub(crate) fn words(error: &lance::Error) -> String {
    let mut text = error.to_string();
    // An error that quotes another ends with the places of both.
    while let Some(length) = length_without_place(&text) {
        text.truncate(length);
    }
    text
}

/// Bytes before the `, FILE.rs:LINE:COLUMN` that a text ends with.
fn length_without_place(text: &str) -> Option<usize> {
    let (before, numbers) = text.rsplit_once(".rs:")?;
    let is_place = numbers.chars().all(|c| c.is_ascii_digit() || c == ':');
    is_place.then(|| before.rfind(", ")).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lance_words_lose_their_source_line() {
        let error = lance::Error::invalid_input("no such field".to_owned());
        assert!(error.to_string().contains(".rs:"), "{error}");
        assert_eq!(words(&error), "Invalid user input: no such field");
    }

    #[test]
    fn places_in_lances_source_are_left_out() {
        for (text, length) in [
            ("no such file, /src/io.rs:23:8", Some(12)),
            ("no such file, /src/io.rs:23:8, /src/open.rs:7:1", Some(29)),
            ("no such file", None),
            ("cannot parse main.rs:23, nor this", None),
            ("main.rs:23", None),
        ] {
            assert_eq!(length_without_place(text), length, "{text}");
        }
    }

    #[test]
    fn the_missing_field_is_found_in_datafusions_words() {
        for (text, expected) in [
            (
                "Schema error: No field named a. Did you mean 'b'?.",
                Some("a"),
            ),
            (
                "No field named \"a b\". Valid fields are c, d.e.",
                Some("a b"),
            ),
            ("No field named a.", Some("a")),
            ("type Int64 is not Struct", None),
        ] {
            assert_eq!(missing_field(text), expected, "{text}");
        }
    }
}
