//! Written fragments into one new version.
//!
//! Enters: data files that no version has. Leaves: a version that has them. Whatever was committed
//! since they were written stays: the files are put into the latest version's fragments, as far as
//! those still hold the rows that were tiled.

use std::sync::Arc;

use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance_core::datatypes::{Field, Schema};
use lance_table::format::Fragment;

use super::Target;
use super::checkpoint::Entry;
use crate::error::words;
use crate::location::Location;
use crate::request::VersionRef;
use crate::tiled::fresh::{judge, leave_marks};
use crate::tiled::tiled_form;
use crate::{SnapshotError, dataset};

/// Times that a commit is tried again behind somebody else's.
const TRIES_MAX: usize = 20;
/// The number of a field that was taken out of a data file; Lance's own.
const TOMBSTONE: i32 = -2;

/// What a commit made.
pub(super) struct Committed {
    pub(super) version: u64,
    /// Fragments that have the tiles that were written for them.
    pub(super) written: u64,
    /// Fragments that are not there any more.
    pub(super) lost: u64,
}

/// Adds the files to the dataset, and marks which fragments have their own images' tiles now.
pub(super) async fn add(
    location: &Location,
    target: &Target,
    entries: &[Entry],
) -> Result<Committed, SnapshotError> {
    let (mut written, mut lost) = (0, 0);
    let images = target.source.field_id;
    let committed = retrying(location, async |latest| {
        let field = numbered(target, latest);
        let (tiles, shift) = (field.id, field.id - target.field.id);
        let mut schema = schema(location, target, &field, latest)?;
        let mut fragments = latest.fragments().to_vec();
        let mut stale = judge(latest, images, tiles).await.stale;
        (written, lost) = (0, 0);
        for entry in entries {
            match fragments.iter_mut().find(|it| entry.fits(it, target)) {
                Some(fragment) => {
                    put(fragment, target, entry, shift);
                    stale.remove(&(fragment.id as u32));
                    written += u64::from(entry.file.is_some());
                }
                None => lost += 1,
            }
        }
        let is_fresh = |fragment: &Fragment| !stale.contains(&(fragment.id as u32));
        leave_marks(&mut schema, images, tiles, &fragments, is_fresh);
        Ok((fragments, schema))
    })
    .await?;
    Ok(Committed {
        version: committed.version_id(),
        written,
        lost,
    })
}

/// Commits what `change` makes of the latest version, again where somebody was faster.
pub(super) async fn retrying(
    location: &Location,
    mut change: impl AsyncFnMut(&Dataset) -> Result<(Vec<Fragment>, Schema), SnapshotError>,
) -> Result<Dataset, SnapshotError> {
    let mut reason = String::new();
    for _ in 0..TRIES_MAX {
        let latest = dataset::open(location, &VersionRef::Latest).await?;
        let (fragments, schema) = change(&latest).await?;
        let merge = Operation::Merge {
            fragments,
            schema,
            preserves_nullability: true,
        };
        let transaction = TransactionBuilder::new(latest.version_id(), merge).build();
        let committed = CommitBuilder::new(Arc::new(latest))
            .execute(transaction)
            .await;
        match committed {
            Ok(committed) => return Ok(committed),
            Err(
                error @ (lance::Error::CommitConflict { .. }
                | lance::Error::RetryableCommitConflict { .. }),
            ) => reason = words(&error),
            Err(error) => {
                let action = format!("commit the tiled images of {}", location.uri());
                return Err(SnapshotError::lance(action, error));
            }
        }
    }
    Err(conflict(location, reason))
}

pub(super) fn conflict(location: &Location, reason: impl Into<String>) -> SnapshotError {
    SnapshotError::TileConflict {
        uri: location.uri().to_owned(),
        reason: reason.into(),
    }
}

/// The tiled column with numbers that are its own in `latest`: another column may have been added
/// since its files were written, another tiled one for example. Which number a file's column has, its
/// fragment says, not the file.
fn numbered(target: &Target, latest: &Dataset) -> Field {
    let mut field = target.field.clone();
    let taken = latest.manifest().max_field_id();
    if target.existing.is_none() && taken >= field.id {
        shift_ids(&mut field, taken + 1 - target.field.id);
    }
    field
}

fn shift_ids(field: &mut Field, by: i32) {
    field.id += by;
    for child in &mut field.children {
        child.parent_id += by;
        shift_ids(child, by);
    }
}

/// The latest version's schema with the tiled column, which is `field` there.
fn schema(
    location: &Location,
    target: &Target,
    field: &Field,
    latest: &Dataset,
) -> Result<Schema, SnapshotError> {
    let mut schema = latest.schema().clone();
    let existing = tiled_form(&schema, &target.source.name).map(|(form, _)| form.field_id);
    let has_source = schema.field_by_id(target.source.field_id).is_some();
    let same = match target.existing {
        Some(_) => existing == Some(target.field.id),
        None => existing.is_none() && schema.fields.iter().all(|it| it.name != field.name),
    };
    if !same || !has_source {
        return Err(conflict(location, "its columns are others now"));
    }
    if target.existing.is_none() {
        schema.fields.push(field.clone());
    }
    Ok(schema)
}

/// Puts a fragment's new file in the place of the one before, if there was one, or nothing where no
/// image got a tiled form. `shift`: from the numbers of its columns to those in the dataset.
fn put(fragment: &mut Fragment, target: &Target, entry: &Entry, shift: i32) {
    let written = target.ids();
    let ids: Vec<i32> = written.iter().map(|id| id + shift).collect();
    take_out(fragment, &ids);
    fragment.files.extend(entry.file.clone().map(|mut file| {
        let fields = file.fields.iter();
        let fields = fields.map(|id| {
            if written.contains(id) {
                id + shift
            } else {
                *id
            }
        });
        file.fields = fields.collect();
        file
    }));
}

/// Takes fields out of a fragment's files, and files that hold no other out of the fragment.
pub(super) fn take_out(fragment: &mut Fragment, ids: &[i32]) {
    for file in &mut fragment.files {
        let fields = file.fields.iter();
        let fields = fields.map(|id| match ids.contains(id) {
            true => TOMBSTONE,
            false => *id,
        });
        file.fields = fields.collect();
    }
    fragment
        .files
        .retain(|file| file.fields.iter().any(|id| *id != TOMBSTONE));
}
