//! The columns of a schema, flattened, and the way to each in a batch.
//!
//! Enters: a dataset's schema. Leaves: [`FieldInfo`]s for the user, [`Column`]s for this crate.
//! Fields of structs are columns of their own, named `outer.inner`; a list of structs becomes a
//! list column for each of their fields. It never reads data; it finds arrays in what was read.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, GenericListArray, OffsetSizeTrait, RecordBatch, make_array};
use arrow_buffer::NullBuffer;
use arrow_schema::DataType;
use lance_core::datatypes::{Field, Schema};

use crate::field::{BytesLayout, FieldKind, FixedKind, RaggedKind};

/// One column of a dataset's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldInfo {
    /// Its name; names of nested fields are joined by dots.
    pub name: String,
    /// What it holds.
    pub kind: FieldKind,
}

/// A column with its place in the schema.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: FieldKind,
    /// Lance's number of the field that holds the values.
    pub(crate) field_id: i32,
    /// Names from the top level down to that field.
    path: Vec<String>,
}

impl Column {
    /// Its array in a batch of a projection to it. A value inside a null struct is null.
    ///
    /// # Panics
    /// If the batch has no such column: projections are made from the columns' field numbers.
    pub(crate) fn array(&self, batch: &RecordBatch) -> ArrayRef {
        descend(&batch[self.path[0].as_str()], &self.path[1..])
    }
}

/// The part of `schema` that holds `columns`, each field once.
pub(crate) fn projection<'a>(schema: &Schema, columns: impl Iterator<Item = &'a Column>) -> Schema {
    let ids: Vec<i32> = columns.map(|column| column.field_id).collect();
    schema.project_by_ids(&ids, true)
}

/// The columns of `schema` as the user sees them, in its order.
pub(crate) fn fields(schema: &Schema) -> Vec<FieldInfo> {
    let columns = columns(schema).into_iter();
    columns
        .map(|Column { name, kind, .. }| FieldInfo { name, kind })
        .collect()
}

/// The columns of `schema`, in its order.
pub(crate) fn columns(schema: &Schema) -> Vec<Column> {
    let mut columns = Vec::new();
    for field in &schema.fields {
        flatten(field, &mut vec![field.name.clone()], 0, &mut columns);
    }
    columns
}

/// Appends what `field`, inside of `levels` lists, is made of.
fn flatten(field: &Field, path: &mut Vec<String>, levels: u8, columns: &mut Vec<Column>) {
    let mut push = |kind| {
        columns.push(Column {
            name: path.join("."),
            kind,
            field_id: field.id,
            path: path.clone(),
        });
    };
    if let Some(layout) = bytes_layout(field) {
        return push(match levels {
            0 => FieldKind::Bytes(layout),
            _ => other(&field.data_type()),
        });
    }
    // The number of a list field stands for its items; those of structs are told apart further in.
    let (mut item, mut levels) = (field, levels);
    while let (DataType::List(_) | DataType::LargeList(_), [child]) =
        (item.data_type(), item.children.as_slice())
    {
        item = child;
        levels = levels.saturating_add(1);
    }
    let data_type = item.data_type();
    match data_type {
        DataType::Struct(_) if !item.is_blob() && !item.children.is_empty() => {
            for child in &item.children {
                path.push(child.name.clone());
                flatten(child, path, levels, columns);
                path.pop();
            }
        }
        _ => {
            let fixed = FixedKind::from_arrow(&data_type).filter(|_| levels == 0);
            let ragged = || RaggedKind::from_arrow(levels, &data_type).map(FieldKind::Ragged);
            push(
                fixed
                    .map(FieldKind::Fixed)
                    .or_else(ragged)
                    .unwrap_or_else(|| other(&field.data_type())),
            );
        }
    }
}

fn other(data_type: &DataType) -> FieldKind {
    FieldKind::Other {
        arrow_type: data_type.to_string(),
    }
}

fn bytes_layout(field: &Field) -> Option<BytesLayout> {
    if field.is_blob() {
        return Some(if field.is_blob_v2() {
            BytesLayout::BlobV2
        } else {
            BytesLayout::BlobV1
        });
    }
    match field.data_type() {
        DataType::Binary => Some(BytesLayout::Binary),
        DataType::LargeBinary => Some(BytesLayout::LargeBinary),
        _ => None,
    }
}

/// The array at the end of `path`: through structs, and through lists of structs, which become
/// lists of the field.
fn descend(array: &ArrayRef, path: &[String]) -> ArrayRef {
    let Some((name, rest)) = path.split_first() else {
        return array.clone();
    };
    match array.data_type() {
        DataType::List(_) => list_of(array.as_list::<i32>(), path),
        DataType::LargeList(_) => list_of(array.as_list::<i64>(), path),
        _ => {
            let parent = array.as_struct();
            let child = parent
                .column_by_name(name)
                .expect("a field that was projected");
            descend(&masked(child, parent.nulls()), rest)
        }
    }
}

fn list_of<O: OffsetSizeTrait>(list: &GenericListArray<O>, path: &[String]) -> ArrayRef {
    let items = descend(list.values(), path);
    let item = arrow_schema::Field::new_list_field(items.data_type().clone(), true);
    Arc::new(GenericListArray::new(
        Arc::new(item),
        list.offsets().clone(),
        items,
        list.nulls().cloned(),
    ))
}

/// `child`, and null wherever its parent is.
fn masked(child: &ArrayRef, parent: Option<&NullBuffer>) -> ArrayRef {
    let Some(parent) = parent.filter(|nulls| nulls.null_count() > 0) else {
        return child.clone();
    };
    let nulls = NullBuffer::union(child.nulls(), Some(parent));
    let data = child.to_data().into_builder().nulls(nulls);
    make_array(data.build().expect("as many nulls as values"))
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{Int64Builder, ListBuilder};
    use arrow_array::{Int64Array, ListArray, StructArray};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::{Field as ArrowField, Fields, Schema as ArrowSchema};

    use super::*;

    fn schema(fields: Vec<ArrowField>) -> Schema {
        Schema::try_from(&ArrowSchema::new(fields)).unwrap()
    }

    fn list(item: DataType) -> DataType {
        DataType::new_list(item, true)
    }

    fn structure(fields: Vec<(&str, DataType)>) -> DataType {
        let fields = fields
            .into_iter()
            .map(|(name, data_type)| ArrowField::new(name, data_type, true));
        DataType::Struct(fields.collect())
    }

    #[test]
    fn nested_fields_are_columns_of_their_own() {
        let object = structure(vec![
            (
                "box",
                DataType::new_fixed_size_list(DataType::Float32, 4, true),
            ),
            ("name", DataType::Utf8),
            ("parts", list(structure(vec![("id", DataType::Int64)]))),
        ]);
        let schema = schema(vec![
            ArrowField::new("id", DataType::Int64, false),
            ArrowField::new(
                "meta",
                structure(vec![
                    ("place", structure(vec![("x", DataType::Float64)])),
                    ("image", DataType::Binary),
                ]),
                true,
            ),
            ArrowField::new("objects", list(object), true),
            ArrowField::new("blobs", list(DataType::Binary), true),
            ArrowField::new("deep", list(list(list(DataType::Int8))), true),
        ]);
        let found: Vec<(String, String)> = fields(&schema)
            .into_iter()
            .map(|info| (info.name, info.kind.to_string()))
            .collect();
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, kind)| (name.as_str(), kind.as_str()))
            .collect();
        assert_eq!(
            found[..6],
            [
                ("id", "int64"),
                ("meta.place.x", "float64"),
                ("meta.image", "bytes (binary)"),
                ("objects.box", "list of float32[4]"),
                ("objects.name", "list of text"),
                ("objects.parts.id", "list of lists of int64"),
            ]
        );
        let last = &fields(&schema)[6..];
        assert_eq!(last.len(), 2);
        for info in last {
            assert!(matches!(info.kind, FieldKind::Other { .. }), "{info:?}");
        }
    }

    #[test]
    fn arrays_are_found_and_take_over_their_parents_nulls() {
        let x: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
        let fields = Fields::from(vec![ArrowField::new("x", DataType::Int64, true)]);
        let nulls = NullBuffer::from(vec![true, true, false, true]);
        let inner = StructArray::new(fields, vec![x], Some(nulls));
        let expected = [Some(1), None, None, Some(4)];
        let path = ["x".to_owned()];
        let plain = descend(&(Arc::new(inner.clone()) as ArrayRef), &path);
        assert_eq!(
            plain.as_ref(),
            &Int64Array::from(expected.to_vec()) as &dyn Array
        );

        let item = ArrowField::new_list_field(inner.data_type().clone(), true);
        let offsets = OffsetBuffer::from_lengths([1, 0, 3]);
        let list = ListArray::new(Arc::new(item), offsets, Arc::new(inner), None);
        let found = descend(&(Arc::new(list) as ArrayRef), &path);
        let mut builder = ListBuilder::new(Int64Builder::new());
        builder.append_value([expected[0]]);
        builder.append_value([]);
        builder.append_value(expected[1..].to_vec());
        assert_eq!(found.as_ref(), &builder.finish() as &dyn Array);
    }
}
