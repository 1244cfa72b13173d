//! Which column holds the tiled form of another.
//!
//! In: a dataset's schema. Out: for a column of images, the column of the same images rewritten as
//! tiled JPEGs, by metadata of its field. It reads no data: which rows have one, the map says.

use lance::Dataset;
use lance_core::datatypes::Schema;

use crate::column::{Column, columns};
use crate::field::{BytesLayout, FieldKind};

/// The key of the field metadata that names the column whose tiled form a column is.
pub const TILED_OF_KEY: &str = "loaderd:tiled-of";

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

/// For each of `names`, its tiled form, if it is among `wanted` and has one.
pub(crate) fn tiled_forms(
    dataset: &Dataset,
    names: &[String],
    wanted: &[String],
) -> Vec<Option<(Column, BytesLayout)>> {
    let form = |name: &String| {
        let wanted = wanted.contains(name);
        wanted.then(|| tiled_form(dataset.schema(), name)).flatten()
    };
    names.iter().map(form).collect()
}

/// The name of a tiled form.
pub(crate) fn tiled_name(form: &Option<(Column, BytesLayout)>) -> Option<String> {
    form.as_ref().map(|(column, _)| column.name.clone())
}
