//! The original column out of the dataset, and its name to the tiled one.
//!
//! Enters: a version in which every image has a tiled form. Leaves: a version without the
//! originals, whose data files hold them no more, so that Lance's clean-up frees their space; and a
//! version in which the tiled column has their name. It never drops an image that is nowhere else:
//! each is compared with its tiled form beforehand, because either may have been changed since.

use std::sync::Arc;

use arrow_schema::DataType;
use futures::StreamExt;
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance_core::datatypes::{Field, Schema};
use lance_table::format::DataFile;

use super::commit::{conflict, retrying, take_out};
use super::fragment::{live, without_tile};
use super::{SameFn, TileCounts, refused};
use crate::column::Column;
use crate::field::{BytesLayout, FieldKind};
use crate::location::Location;
use crate::request::VersionRef;
use crate::tiled::fresh::remove_marks;
use crate::tiled::{TILED_OF_KEY, carry_marks, tiled_form};
use crate::{SnapshotError, dataset, slow};

/// Rows of other columns that are copied together, where each is small.
const COPY_ROWS: u32 = 1024;
/// Rows that may hold images, or what is as large, that are held together.
const LARGE_ROWS: usize = 16;
/// The key of the field metadata that says which name a tiled column is about to take.
pub(crate) const TAKES_NAME_KEY: &str = "loaderd:takes-name";

/// Drops column `name` and renames its tiled form. `counts` says why images have none.
pub(super) async fn drop_original(
    location: &Location,
    name: &str,
    counts: &TileCounts,
    same: SameFn,
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
    let originals = (&source, layout);
    if let Some((address, why)) = changed(&dataset, originals, (&form, form_layout), same).await? {
        return Err(refused(
            location,
            name,
            format!(
                "it can't be dropped, because the image at row address {address} is not its tiled form ({why}); if \
                 it was replaced just now, run it again, else drop the column {:?} and tile anew",
                form.name
            ),
        ));
    }
    let ids = field_ids(&dataset, source.field_id);
    let mut rewritten = Vec::new();
    for fragment in dataset.get_fragments() {
        rewritten.push(without_originals(location, &fragment, name, &ids).await?);
    }
    let read = dataset.fragments().clone();
    let dropped = retrying(location, async |latest| {
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
        let form = schema.field_by_id_mut(form.field_id);
        let form = form.ok_or_else(|| conflict(location, "its columns are others now"))?;
        form.metadata
            .insert(TAKES_NAME_KEY.to_owned(), name.to_owned());
        // Another column's images may be among what was copied.
        carry_marks(latest, &mut schema, &fragments).await;
        Ok((fragments, schema))
    })
    .await?;
    match finish_rename(location, &Arc::new(dropped), name).await? {
        Some(renamed) => Ok(renamed.version_id()),
        None => Err(conflict(location, "its columns are others now")),
    }
}

/// Gives the tiled form of `name` that name, where the column was dropped for it: the second half of
/// dropping one, which a killed run may have left. None where there is nothing to rename.
pub(super) async fn finish_rename(
    location: &Location,
    dataset: &Arc<Dataset>,
    name: &str,
) -> Result<Option<Dataset>, SnapshotError> {
    let mut schema = dataset.schema().clone();
    let takes = |field: &Field| {
        field
            .metadata
            .get(TAKES_NAME_KEY)
            .is_some_and(|it| it == name)
    };
    let is_free = !schema.fields.iter().any(|field| field.name == name);
    let fields = schema.fields.iter_mut();
    let Some(field) = fields.into_iter().find(|field| is_free && takes(field)) else {
        return Ok(None);
    };
    let form = std::mem::replace(&mut field.name, name.to_owned());
    field.metadata.remove(TILED_OF_KEY);
    field.metadata.remove(TAKES_NAME_KEY);
    remove_marks(field);
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
            format!("rename {form} to {name} in {}", location.uri()),
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
        for rows in rows.chunks(LARGE_ROWS) {
            let addresses = addresses(&fragment, rows);
            let images = slow::bytes(dataset, source, layout, &addresses).await?;
            count += images.iter().flatten().count() as u64;
        }
    }
    Ok(count)
}

/// A row's address, its image, and the tiled form of that.
type Pair<'a> = (u64, &'a Option<Vec<u8>>, &'a Option<Vec<u8>>);

/// An image that is not the same as its tiled form: its row address, and what differs. All have one.
async fn changed(
    dataset: &Arc<Dataset>,
    source: (&Column, BytesLayout),
    form: (&Column, BytesLayout),
    same: SameFn,
) -> Result<Option<(u64, String)>, SnapshotError> {
    for fragment in dataset.get_fragments() {
        for rows in live(&fragment).await?.chunks(LARGE_ROWS) {
            let addresses = addresses(&fragment, rows);
            let originals = slow::bytes(dataset, source.0, source.1, &addresses).await?;
            let tiles = slow::bytes(dataset, form.0, form.1, &addresses).await?;
            let pairs = addresses.iter().zip(originals.iter().zip(&tiles));
            let pairs: Vec<Pair<'_>> = pairs.map(|(at, (a, b))| (*at, a, b)).collect();
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let differs = |&(address, original, tile): &Pair<'_>| {
                let answer = match (original, tile) {
                    (Some(original), Some(tile)) if original != tile => same(original, tile),
                    (Some(_), Some(_)) | (None, None) => Ok(()),
                    _ => Err("one of the two is null".to_owned()),
                };
                answer.err().map(|why| (address, why))
            };
            let found = std::thread::scope(|scope| {
                let share = pairs.len().div_ceil(threads).max(1);
                let parts = pairs.chunks(share);
                let threads: Vec<_> = parts
                    .map(|part| scope.spawn(move || part.iter().find_map(differs)))
                    .collect();
                let found = threads.into_iter().map(|thread| thread.join());
                let mut found = found.map(|found| found.expect("comparing does not panic"));
                found.find_map(|found| found)
            });
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

fn addresses(fragment: &FileFragment, rows: &[u32]) -> Vec<u64> {
    let fragment = (fragment.id() as u64) << 32;
    rows.iter().map(|&row| fragment | u64::from(row)).collect()
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
    let Some(file) = files.iter().find(|file| file.fields.contains(&ids[0])) else {
        return Ok(None);
    };
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
    let is_large = others.fields_pre_order().any(|field| {
        let kind = field.data_type();
        field.is_blob() || matches!(kind, DataType::Binary | DataType::LargeBinary)
    });
    let batch_rows = match is_large {
        true => LARGE_ROWS as u32,
        false => COPY_ROWS,
    };
    let batches = fragment
        .read_physical_slice(0..rows, &others, batch_rows)
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
