//! Every layout of bytes that Lance writes.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BinaryArray, LargeBinaryArray, StructArray};
use arrow_schema::{DataType, Field};
use lance::{BlobArrayBuilder, BlobFieldOptions, blob_field_with_options};
use lance_file::version::LanceFileVersion;
use loaderd_snapshot::{BytesLayout, FieldKind, Snapshot, SnapshotRequest};

use crate::common::*;

#[test]
fn packed_blobs_have_extents() {
    let place = Place::new();
    let values = values(0, 300, 5_000);
    place.write(&blob_batch(0, &values, packed()), |_| {});
    let snapshot = place.open();
    let ways = conform(&snapshot, 0, &values);
    let nulls = values.iter().filter(|v| v.is_none()).count();
    assert_eq!((ways.null, ways.slow), (nulls, 0));
    // Lance keeps empty values inline, in the data file.
    assert_eq!(snapshot.files().len(), 2);
    let longest = values.iter().flatten().map(Vec::len).max().unwrap();
    assert_eq!(snapshot.length_quantile(1.0) as usize, longest);
    assert!(snapshot.length_quantile(0.5) < snapshot.length_quantile(1.0));
}

#[test]
fn packs_roll_over_into_several_files() {
    let place = Place::new();
    let values = values(1, 200, 5_000);
    place.write(&blob_batch(1, &values, packed()), |params| {
        params.blob_pack_file_size_threshold = Some(64 << 10);
        params.max_rows_per_file = 60;
    });
    let snapshot = place.open();
    conform(&snapshot, 0, &values);
    assert!(snapshot.files().len() > 6, "{}", snapshot.files().len());
}

#[test]
fn dedicated_blobs_have_extents() {
    let place = Place::new();
    let values = values(1, 100, 5_000);
    let options = packed().with_dedicated_size_threshold(2_000.try_into().unwrap());
    place.write(&blob_batch(1, &values, options), |_| {});
    let snapshot = place.open();
    let ways = conform(&snapshot, 0, &values);
    let large = values.iter().flatten().filter(|v| v.len() > 2_000).count();
    assert!(large > 20);
    assert_eq!(
        snapshot.files().len(),
        large + 2,
        "one pack, the data file with empty values, and a file for each large one"
    );
    assert!(ways.extent > large);
}

#[test]
fn many_dedicated_blobs_are_not_all_kept_open() {
    let place = Place::new();
    let values: Vec<Value> = (0..600).map(|id| Some(vec![id as u8; 20])).collect();
    let options = packed().with_dedicated_size_threshold(10.try_into().unwrap());
    place.write(&blob_batch(0, &values, options), |_| {});
    let snapshot = place.open();
    let ways = conform(&snapshot, 0, &values);
    assert_eq!((snapshot.files().len(), ways.extent), (512, 513));
    assert_eq!(ways.slow, 88);
}

#[test]
fn inline_blobs_have_extents_in_the_data_file() {
    let place = Place::new();
    let values = values(0, 100, 3_000);
    place.write(&blob_batch(0, &values, BlobFieldOptions::default()), |_| {});
    let snapshot = place.open();
    let ways = conform(&snapshot, 0, &values);
    assert_eq!(ways.slow, 0);
    assert!(ways.extent > 80 && ways.null > 10, "{ways:?}");
    assert_eq!(snapshot.files().len(), 1);
    let path = snapshot.files().path(0);
    assert!(
        path.extension().is_some_and(|end| end == "lance"),
        "{path:?}"
    );
}

#[test]
fn blobs_inside_of_structs_have_extents() {
    let place = Place::new();
    let values = values(1, 60, 3_000);
    let batch = blob_batch(1, &values, packed());
    let image = batch.schema().field(1).clone();
    let frame = StructArray::new(vec![image].into(), vec![batch.column(1).clone()], None);
    let field = Field::new("frame", frame.data_type().clone(), false);
    place.write(&crate::common::batch(1, field, Arc::new(frame)), |_| {});
    let snapshot = Snapshot::open(SnapshotRequest {
        bytes_columns: vec!["frame.image".into()],
        ..place.request()
    });
    let ways = conform(&snapshot.unwrap(), 0, &values);
    assert_eq!(ways.slow, 0);
}

#[test]
fn external_blobs_are_left_to_lance() {
    let place = Place::new();
    let outside = place.folder.path().join("pictures");
    std::fs::create_dir(&outside).unwrap();
    let mut builder = BlobArrayBuilder::new(20);
    let mut expected = Vec::new();
    for id in 0..20 {
        if id % 4 == 0 {
            builder.push_null().unwrap();
            expected.push(None);
            continue;
        }
        let bytes = payload(id, 4_000);
        let path = outside.join(id.to_string());
        std::fs::write(&path, &bytes).unwrap();
        builder
            .push_uri(format!("file://{}", path.display()))
            .unwrap();
        expected.push(Some(bytes));
    }
    let field = blob_field_with_options("image", true, BlobFieldOptions::default());
    let written = batch(0, field, builder.finish().unwrap());
    place.write(&written, |params| {
        params.allow_external_blob_outside_bases = true
    });
    let ways = conform(&place.open(), 0, &expected);
    // Five rows are null, and the first of them is read twice.
    assert_eq!(
        ways,
        Ways {
            extent: 0,
            null: 6,
            slow: 15
        }
    );
}

#[test]
fn the_first_blob_encoding_has_extents() {
    let place = Place::new();
    let values = values(0, 200, 5_000);
    let field = Field::new("image", DataType::LargeBinary, true)
        .with_metadata([("lance-encoding:blob".to_owned(), "true".to_owned())].into());
    let images: ArrayRef = Arc::new(LargeBinaryArray::from_iter(values.clone()));
    place.write(&batch(0, field, images), format(LanceFileVersion::V2_1));
    let snapshot = place.open();
    let ways = conform(&snapshot, 0, &values);
    let nulls = values.iter().filter(|v| v.is_none()).count();
    assert_eq!((ways.null, ways.slow), (nulls, 0));
    assert_eq!(layout(&place), BytesLayout::BlobV1);
}

#[test]
fn plain_binary_is_left_to_lance() {
    let values = values(0, 200, 50_000);
    let check = |data_type: DataType, images: ArrayRef, expected: BytesLayout| {
        let place = Place::new();
        place.write(
            &batch(0, Field::new("image", data_type, true), images),
            |_| {},
        );
        let ways = conform(&place.open(), 0, &values);
        assert_eq!(
            ways,
            Ways {
                slow: 201,
                ..Ways::default()
            }
        );
        assert_eq!(layout(&place), expected);
    };
    let images: BinaryArray = values.iter().map(Option::as_deref).collect();
    check(DataType::Binary, Arc::new(images), BytesLayout::Binary);
    let images: LargeBinaryArray = values.iter().map(Option::as_deref).collect();
    check(
        DataType::LargeBinary,
        Arc::new(images),
        BytesLayout::LargeBinary,
    );
}

fn layout(place: &Place) -> BytesLayout {
    let fields = Snapshot::schema(&place.uri, &place.request().version).unwrap();
    let image = fields.into_iter().find(|info| info.name == "image");
    match image.unwrap().kind {
        FieldKind::Bytes(layout) => layout,
        kind => panic!("{kind}"),
    }
}
