//! Which column holds the tiled form of another, and in which fragments it can be read.
//!
//! Enters: a dataset's version. Leaves: for a column of images, the column of the same images
//! rewritten as tiled ones, by metadata of its field, and the fragments in which those may be of
//! other images. It reads no data for that: which rows have a tiled form, the map says. Only a
//! sample of images that have none is read, for those who ask.

pub(crate) mod fresh;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use lance::Dataset;
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lance_table::format::Fragment;

use crate::column::{Column, columns};
use crate::field::{BytesLayout, FieldKind};
use crate::location::Location;
use crate::request::VersionRef;
use crate::runtime::wait;
use crate::tile::{TAKES_NAME_KEY, live};
use crate::{SnapshotError, dataset, slow};

use fresh::{files_of, ids, judge, leave_marks};

/// The key of the field metadata that names the column whose tiled form a column is.
pub const TILED_OF_KEY: &str = "loaderd:tiled-of";

/// A column of tiled images, to be read in the place of another.
pub(crate) struct TiledForm {
    pub(crate) column: Column,
    pub(crate) layout: BytesLayout,
    /// Fragments in which it is not to be read.
    pub(crate) stale: HashSet<u32>,
}

impl TiledForm {
    /// Whether the tile of the row at `address`, if there is one, may be of another image.
    pub(crate) fn is_stale(&self, address: u64) -> bool {
        self.stale.contains(&((address >> 32) as u32))
    }
}

/// The tiled forms of some columns.
pub(crate) struct TiledForms {
    /// For each, the form to read, if there is one.
    pub(crate) forms: Vec<Option<TiledForm>>,
    /// For each, in how many fragments of how many its form is left alone.
    pub(crate) stale: Vec<Option<(usize, usize)>>,
}

/// The blob column of `schema` that holds the tiled form of column `name`.
pub(crate) fn tiled_form(schema: &Schema, name: &str) -> Option<(Column, BytesLayout)> {
    let of = |field: &&lance_core::datatypes::Field| {
        field.metadata.get(TILED_OF_KEY).map(String::as_str) == Some(name)
    };
    let id = schema.fields.iter().find(of)?.id;
    let column = columns(schema).into_iter().find(|it| it.field_id == id)?;
    match column.kind {
        FieldKind::Bytes(layout) if layout.is_blob() => Some((column, layout)),
        _ => None,
    }
}

/// For each of `names`, its tiled form, if it is among `wanted` and has one that can be read.
pub(crate) async fn tiled_forms(
    location: &Location,
    version: &Dataset,
    names: &[String],
    wanted: &[String],
) -> Result<TiledForms, SnapshotError> {
    let mut found = TiledForms {
        forms: Vec::new(),
        stale: Vec::new(),
    };
    for name in names {
        let is_wanted = wanted.contains(name);
        let form = is_wanted.then(|| tiled_form(version.schema(), name));
        let Some((form, layout)) = form.flatten() else {
            found.forms.push(None);
            found.stale.push(None);
            continue;
        };
        let source = dataset::column(location, version, name)?;
        let judged = judge(version, source.field_id, form.field_id).await;
        let (stale, all) = (judged.stale.len(), judged.fragments);
        found.stale.push((stale > 0).then_some((stale, all)));
        found.forms.push((stale < all).then_some(TiledForm {
            column: form,
            layout,
            stale: judged.stale,
        }));
    }
    Ok(found)
}

/// Leaves marks anew in `schema` for `fragments`, whose columns were copied to other files: for the
/// tiled forms that are no more stale in `version`, which holds the same rows.
pub(crate) async fn carry_marks(version: &Dataset, schema: &mut Schema, fragments: &[Fragment]) {
    for source in columns(version.schema()) {
        let Some((form, _)) = tiled_form(schema, &source.name) else {
            continue;
        };
        let (images, tiles) = (source.field_id, form.field_id);
        let stale = judge(version, images, tiles).await.stale;
        let is_fresh = |fragment: &Fragment| !stale.contains(&(fragment.id as u32));
        leave_marks(schema, images, tiles, fragments, is_fresh);
    }
}

/// What a map's key says of a tiled form: its name, and a digest of where it is not to be read, which
/// for one version changes when clean-up takes transactions.
pub(crate) fn tiled_key(form: &Option<TiledForm>) -> Option<String> {
    let form = form.as_ref()?;
    let stale: BTreeSet<u32> = form.stale.iter().copied().collect();
    let digest = blake3::hash(format!("{stale:?}").as_bytes()).to_hex();
    Some(format!("{} {}", form.column.name, &digest[..16]))
}

/// Images of a column that are read as they came.
pub struct UntiledSample {
    /// The column.
    pub column: String,
    /// Some of its images from a fragment without tiled ones, or with stale ones; none where there is
    /// no such fragment.
    pub images: Vec<Vec<u8>>,
}

/// For each column of bytes in the latest version that is not the tiled form of another, up to
/// `count` images that have no tiled form. Blocks for reading those.
///
/// # Errors
/// Where the dataset cannot be opened, or Lance fails to read it.
pub fn sample_untiled(uri: &str, count: usize) -> Result<Vec<UntiledSample>, SnapshotError> {
    let location = Location::parse(uri)?;
    wait(async {
        let dataset = Arc::new(dataset::open(&location, &VersionRef::Latest).await?);
        let schema = dataset.schema();
        let format = dataset.manifest().data_storage_format.lance_file_format();
        let is_legacy = format == ConcreteFileVersion::V1;
        let mut samples = Vec::new();
        for column in columns(schema) {
            let FieldKind::Bytes(layout) = column.kind else {
                continue;
            };
            // Lance panics when it looks for blobs there.
            if layout.is_blob() && is_legacy {
                continue;
            }
            let field = schema.field_by_id(column.field_id);
            if field.is_none_or(|field| field.metadata.contains_key(TILED_OF_KEY)) {
                continue;
            }
            let form = tiled_form(schema, &column.name).map(|(form, _)| form.field_id);
            let (stale, form) = match form {
                Some(id) => (
                    judge(&dataset, column.field_id, id).await.stale,
                    schema.field_by_id(id).map(ids).unwrap_or_default(),
                ),
                None => Default::default(),
            };
            let untiled = dataset.get_fragments().into_iter().find(|fragment| {
                let is_tiled = files_of(fragment.metadata(), &form).is_some();
                !is_tiled || stale.contains(&(fragment.id() as u32))
            });
            let mut images = Vec::new();
            if let Some(fragment) = untiled {
                let rows = live(&fragment).await?.into_iter().take(count);
                let rows = rows.map(|row| (fragment.id() as u64) << 32 | u64::from(row));
                let rows: Vec<u64> = rows.collect();
                let values = slow::bytes(&dataset, &column, layout, &rows).await?;
                images = values.into_iter().flatten().collect();
            }
            samples.push(UntiledSample {
                column: column.name,
                images,
            });
        }
        Ok(samples)
    })
}

/// Up to `count` images of a column in the latest version, tiled or not, from all over it; of its
/// tiled form, where that is about to take its name. Blocks for reading those.
///
/// # Errors
/// Where dataset or column are not there, the column holds no bytes, or Lance fails to read it.
pub fn sample_column(uri: &str, name: &str, count: usize) -> Result<Vec<Vec<u8>>, SnapshotError> {
    let location = Location::parse(uri)?;
    wait(async {
        let dataset = Arc::new(dataset::open(&location, &VersionRef::Latest).await?);
        let takes_name = |field: &&lance_core::datatypes::Field| {
            field.metadata.get(TAKES_NAME_KEY).map(String::as_str) == Some(name)
        };
        let heir = dataset.schema().fields.iter().find(takes_name);
        let heir = heir.map(|field| dataset::column(&location, &dataset, &field.name));
        let column = match (dataset::column(&location, &dataset, name), heir) {
            (Err(_), Some(heir)) => heir?,
            (column, _) => column?,
        };
        let FieldKind::Bytes(layout) = column.kind else {
            return Err(crate::tile::no_images(column));
        };
        // Lance panics when it looks for blobs there.
        let format = dataset.manifest().data_storage_format.lance_file_format();
        if layout.is_blob() && format == ConcreteFileVersion::V1 {
            return Ok(Vec::new());
        }
        let fragments = dataset.get_fragments();
        let mut rows = Vec::new();
        for fragment in spread(&fragments, count) {
            let live = live(fragment).await?;
            let share = count.div_ceil(fragments.len());
            let address = |row: &u32| (fragment.id() as u64) << 32 | u64::from(*row);
            rows.extend(spread(&live, share).map(address));
        }
        let values = slow::bytes(&dataset, &column, layout, &rows).await?;
        Ok(values.into_iter().flatten().collect())
    })
}

/// `count` of these, or all where there are fewer, as far apart as they can be.
fn spread<T>(all: &[T], count: usize) -> impl Iterator<Item = &T> {
    let count = count.min(all.len());
    (0..count).map(move |at| &all[at * all.len() / count])
}
