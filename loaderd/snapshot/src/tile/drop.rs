//! The original column out of the dataset, and its name to the tiled one.
//!
//! In: a version in which every image has a tiled form. Out: a version without the originals, whose
//! data files hold them no more, so that Lance's clean-up frees their space; and a version in which
//! the tiled column has their name. It never drops an image that is nowhere else.

use std::sync::Arc;

use futures::StreamExt;
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance_core::datatypes::{Field, Schema};
use lance_table::format::DataFile;

use super::checkpoint::source_file;
use super::commit::{conflict, retrying, take_out};
use super::fragment::without_tile;
use super::{TileCounts, refused};
use crate::column::Column;
use crate::field::{BytesLayout, FieldKind};
use crate::location::Location;
use crate::request::VersionRef;
use crate::tiled::{TILED_OF_KEY, tiled_form};
use crate::{SnapshotError, dataset, slow};

/// Rows of other columns that are copied together.
const COPY_ROWS: u32 = 1024;
/// Originals that are looked at together.
const LOOK_ROWS: usize = 64;

/// Drops column `name` and renames its tiled form. `counts` says why images have none.
pub(super) async fn drop_original(
    location: &Location,
    name: &str,
    counts: &TileCounts,
) -> Result<u64, SnapshotError> {
    let dataset = Arc::new(dataset::open(location, &VersionRef::Latest).await?);
    let source = dataset::column(location, &dataset, name)?;
    let FieldKind::Bytes(layout) = source.kind else {
        return Err(conflict(location, "its columns are others now"));
    };
    let Some((form, form_layout)) = tiled_form(dataset.schema(), name) else {
        return Err(conflict(location, "its columns are others now"));
    };
    let is_field = |field: &Field| field.id == source.field_id;
    if !dataset.schema().fields.iter().any(is_field) {
        return Err(refused(
            location,
            name,
            "it is a field of a struct, which can't be dropped alone",
        ));
    }
    let left = untiled(&dataset, &source, layout, &form, form_layout).await?;
    if left > 0 {
        let reasons = counts.kept.iter();
        let reasons: Vec<String> = reasons.map(|(why, n)| format!("{n} {why}")).collect();
        let reasons = match reasons.is_empty() {
            true => "they came while it ran: run it again".to_owned(),
            false => reasons.join(", "),
        };
        return Err(refused(
            location,
            name,
            format!(
                "it can't be dropped, because {left} of its images have no tiled form ({reasons})"
            ),
        ));
    }
    let ids = field_ids(&dataset, source.field_id);
    let mut rewritten = Vec::new();
    for fragment in dataset.get_fragments() {
        rewritten.push(without_originals(location, &fragment, name, &ids).await?);
    }
    let read = dataset.fragments().clone();
    let dropped = retrying(location, |latest| {
        // What is not in this version was not looked at.
        if *latest.fragments() != read {
            return Err(conflict(location, "it has other rows now"));
        }
        let mut fragments = latest.fragments().to_vec();
        for (fragment, file) in fragments.iter_mut().zip(&rewritten) {
            if let Some(file) = file {
                take_out(fragment, &ids);
                take_out(fragment, &file.fields);
                fragment.files.push(file.clone());
            } else {
                take_out(fragment, &ids);
            }
        }
        let mut schema = latest.schema().clone();
        schema.fields.retain(|field| field.id != source.field_id);
        Ok((fragments, schema))
    })
    .await?;
    match finish_rename(location, &Arc::new(dropped), name).await? {
        Some(renamed) => Ok(renamed.version_id()),
        None => Err(conflict(location, "its columns are others now")),
    }
}

/// Gives the tiled form of `name` that name, where there is no such column any more: the second half
/// of dropping one, which a killed run may have left. None where there is nothing to rename.
pub(super) async fn finish_rename(
    location: &Location,
    dataset: &Arc<Dataset>,
    name: &str,
) -> Result<Option<Dataset>, SnapshotError> {
    let mut schema = dataset.schema().clone();
    let Some((form, _)) = tiled_form(&schema, name) else {
        return Ok(None);
    };
    if name.contains('.') || schema.fields.iter().any(|field| field.name == name) {
        return Ok(None);
    }
    let field = schema
        .field_by_id_mut(form.field_id)
        .expect("a field of this schema");
    field.name = name.to_owned();
    field.metadata.remove(TILED_OF_KEY);
    let rename = Operation::Project {
        schema,
        preserves_nullability: true,
    };
    let transaction = TransactionBuilder::new(dataset.version_id(), rename).build();
    let committed = CommitBuilder::new(dataset.clone())
        .execute(transaction)
        .await;
    committed.map(Some).map_err(|error| {
        SnapshotError::lance(
            format!("rename {} to {name} in {}", form.name, location.uri()),
            error,
        )
    })
}

/// How many images have no tiled form.
async fn untiled(
    dataset: &Arc<Dataset>,
    source: &Column,
    layout: BytesLayout,
    form: &Column,
    form_layout: BytesLayout,
) -> Result<u64, SnapshotError> {
    let mut count = 0;
    for fragment in dataset.get_fragments() {
        let rows = without_tile(&fragment, form.field_id, form_layout).await?;
        for rows in rows.chunks(LOOK_ROWS) {
            let addresses = rows
                .iter()
                .map(|&row| (fragment.id() as u64) << 32 | u64::from(row));
            let addresses: Vec<u64> = addresses.collect();
            let images = slow::bytes(dataset, source, layout, &addresses).await?;
            count += images.iter().flatten().count() as u64;
        }
    }
    Ok(count)
}

fn field_ids(dataset: &Dataset, id: i32) -> Vec<i32> {
    let schema = dataset.schema().project_by_ids(&[id], true);
    schema.fields_pre_order().map(|field| field.id).collect()
}

/// The other columns of the data file that holds the originals, in a file of their own. None where
/// it holds no others.
async fn without_originals(
    location: &Location,
    fragment: &FileFragment,
    name: &str,
    ids: &[i32],
) -> Result<Option<DataFile>, SnapshotError> {
    let files = &fragment.metadata().files;
    let Some(path) = source_file(fragment.metadata(), ids[0]) else {
        return Ok(None);
    };
    let file = files
        .iter()
        .find(|file| file.path == *path)
        .expect("it has this file");
    let one = |field: &Field| Schema {
        fields: vec![field.clone()],
        metadata: Default::default(),
    };
    // Of a struct, files may name the fields inside of it only.
    let is_there = |field: &&Field| {
        let inner = one(field);
        let mut inner = inner.fields_pre_order();
        field.id != ids[0] && inner.any(|field| file.fields.contains(&field.id))
    };
    let others = fragment.schema().fields.iter().filter(is_there);
    let others = Schema {
        fields: others.cloned().collect(),
        metadata: Default::default(),
    };
    if others.fields.is_empty() {
        return Ok(None);
    }
    if let Some(blob) = others
        .fields_pre_order()
        .find(|field| field.is_blob() && !field.is_blob_v2())
    {
        return Err(refused(
            location,
            name,
            format!(
                "it can't be dropped, because its files hold the blobs of {:?} as well",
                blob.name
            ),
        ));
    }
    let failed = |error| SnapshotError::lance("copy the columns beside the originals", error);
    let rows = fragment.physical_rows().await.map_err(failed)? as u64;
    let batches = fragment
        .read_physical_slice(0..rows, &others, COPY_ROWS)
        .await
        .map_err(failed)?;
    // One after the other: each is decoded when the one before is written.
    let batches = batches.then(|batch| batch);
    let written = fragment
        .write_columns(batches, &others)
        .await
        .map_err(failed)?;
    Ok(Some(written.1))
}
