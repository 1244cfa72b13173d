//! Opening one version of a Lance dataset, and telling one dataset from another.
//!
//! Enters: a location and a version. Leaves: Lance's dataset, or an error that says what there is
//! instead. It reads manifests and never data.

use std::path::PathBuf;
use std::sync::Arc;

use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::session::Session;
use lance_io::local::to_local_path;
use loaderd_names::listed;

use crate::column::{Column, columns};
use crate::location::Location;
use crate::request::VersionRef;
use crate::{SnapshotError, absent};

/// Lance's caches, per open snapshot. Its defaults are 6 GiB and 1 GiB for a process; what we
/// read through Lance is read once, so these hold only what one scan or take needs again.
const INDEX_CACHE_BYTES: usize = 64 << 20;
const METADATA_CACHE_BYTES: usize = 128 << 20;

/// A session of its own: nothing cached for another dataset that lay at the same place before.
pub(crate) fn session() -> Arc<Session> {
    Arc::new(Session::new(
        INDEX_CACHE_BYTES,
        METADATA_CACHE_BYTES,
        Arc::default(),
    ))
}

pub(crate) fn builder(location: &Location) -> DatasetBuilder {
    DatasetBuilder::from_uri(location.uri()).with_session(session())
}

/// Opens `version`. What is missing is named together with what there is.
pub(crate) async fn open(
    location: &Location,
    version: &VersionRef,
) -> Result<Dataset, SnapshotError> {
    if let Some(reason) = absent::reason(location.path()) {
        return Err(no_dataset(location, reason));
    }
    let wanted = match version {
        VersionRef::Latest => builder(location),
        VersionRef::Number(number) => builder(location).with_version(*number),
        VersionRef::Tag(tag) => builder(location).with_tag(tag),
    };
    match wanted.load().await {
        Ok(dataset) => Ok(dataset),
        Err(error) => Err(explain(location, version, error).await),
    }
}

fn no_dataset(location: &Location, reason: impl Into<String>) -> SnapshotError {
    SnapshotError::NoDataset {
        uri: location.uri().to_owned(),
        reason: reason.into(),
    }
}

/// Why opening `version` failed, found by opening the latest one.
async fn explain(location: &Location, version: &VersionRef, error: lance::Error) -> SnapshotError {
    let latest = match builder(location).load().await {
        Ok(latest) => latest,
        Err(lance::Error::DatasetNotFound { .. } | lance::Error::NotFound { .. }) => {
            return no_dataset(location, "the folder has no _versions with a manifest");
        }
        Err(error) => return SnapshotError::lance(format!("open {}", location.uri()), error),
    };
    let uri = location.uri().to_owned();
    match version {
        VersionRef::Number(number) => match latest.version_refs().await {
            Ok(refs) => {
                let mut have: Vec<u64> = refs.iter().map(|r| r.version).collect();
                have.sort_unstable();
                if !have.contains(number) {
                    return SnapshotError::NoVersion {
                        uri,
                        version: *number,
                        have: ranges(&have),
                    };
                }
            }
            Err(error) => return SnapshotError::lance(format!("list versions of {uri}"), error),
        },
        VersionRef::Tag(tag) => match latest.tags().list().await {
            Ok(tags) => {
                if !tags.contains_key(tag) {
                    let mut have: Vec<String> = tags.into_keys().collect();
                    have.sort_unstable();
                    let mut have = listed(&have);
                    if tag.parse::<u64>().is_ok() {
                        have += &format!("; a version is asked for by its number, version={tag}");
                    }
                    return SnapshotError::NoTag {
                        uri,
                        tag: tag.clone(),
                        have,
                    };
                }
            }
            Err(error) => return SnapshotError::lance(format!("list tags of {uri}"), error),
        },
        VersionRef::Latest => {}
    }
    SnapshotError::lance(format!("open {uri} at {version}"), error)
}

/// Sorted version numbers in words: `versions 1–4, 7`.
fn ranges(versions: &[u64]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for run in versions.chunk_by(|a, b| a + 1 == *b) {
        parts.push(match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}–{last}"),
            [] => continue,
        });
    }
    match versions.len() {
        0 => "none".into(),
        1 => format!("version {}", parts[0]),
        _ => format!("versions {}", listed(&parts)),
    }
}

/// Hex BLAKE3 of the version's manifest file: the same for a dataset that was moved or copied,
/// another for one that was written anew at the same place.
pub(crate) fn identity(dataset: &Dataset) -> Result<String, SnapshotError> {
    let path = PathBuf::from(to_local_path(&dataset.manifest_location().path));
    let bytes = std::fs::read(&path).map_err(|source| SnapshotError::Manifest { path, source })?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// The column `name` of `dataset`, or an error that lists the columns there are.
pub(crate) fn column(
    location: &Location,
    dataset: &Dataset,
    name: &str,
) -> Result<Column, SnapshotError> {
    let mut all = columns(dataset.schema());
    if let Some(at) = all.iter().position(|column| column.name == name) {
        return Ok(all.swap_remove(at));
    }
    Err(SnapshotError::NoColumn {
        uri: location.uri().to_owned(),
        column: name.to_owned(),
        columns: all.into_iter().map(|column| column.name).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_ranges() {
        let check = |versions: &[u64], expected: &str| assert_eq!(ranges(versions), expected);
        check(&[], "none");
        check(&[3], "version 3");
        check(&[1, 2, 3, 4], "versions 1–4");
        check(&[1, 2, 5, 8, 9], "versions 1–2, 5, 8–9");
    }
}
