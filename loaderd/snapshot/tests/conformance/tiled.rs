//! Tiled columns: written beside the original, filled later, read row by row, put in its place.
//!
//! What is written as tiled forms is no JPEG here: this crate knows none.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BinaryArray, LargeBinaryArray, RecordBatch, StructArray};
use arrow_schema::{DataType, Field};
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance_file::version::LanceFileVersion;
use loaderd_snapshot::{
    BytesLayout, Snapshot, SnapshotError, SnapshotRequest, Tile, TileOptions, TileReport,
    tile_column,
};

use crate::common::*;

const TILED: &[u8] = b"tiled";

/// Even bytes are tiled; what begins as a tiled form is one.
fn tile_of(image: &[u8]) -> Tile {
    match image.first() {
        None => Tile::Kept("empty".into()),
        Some(_) if image.starts_with(TILED) => Tile::Already,
        Some(byte) if byte % 4 != 0 => Tile::Tiled([TILED, image].concat()),
        Some(_) => Tile::Kept("odd".into()),
    }
}

fn same(original: &[u8], tiled: &[u8]) -> Result<(), String> {
    match tiled == [TILED, original].concat() {
        true => Ok(()),
        false => Err("it is another".into()),
    }
}

/// What is read where tiled forms are.
fn read_tiled(value: &Value) -> Value {
    let image = value.as_ref()?;
    match tile_of(image) {
        Tile::Tiled(tiled) => Some(tiled),
        _ => Some(image.clone()),
    }
}

fn tiled_rows(values: &[Value]) -> u64 {
    let is_tiled = |image: &&Vec<u8>| matches!(tile_of(image), Tile::Tiled(_));
    values.iter().flatten().filter(is_tiled).count() as u64
}

fn options(place: &Place) -> TileOptions {
    TileOptions {
        column: "image".into(),
        into: None,
        drop_original: None,
        settings: String::new(),
        state_dir: place.folder.path().join("state"),
    }
}

/// Tiles until `images_max` were seen; then fails. Also says how many were.
fn tile_up_to(
    place: &Place,
    options: &TileOptions,
    images_max: usize,
) -> (usize, Result<TileReport, SnapshotError>) {
    let mut seen = 0;
    let report = tile_column(&place.uri, options, &mut |_| {}, &mut |images| {
        if seen >= images_max {
            let source = "the tiler broke".into();
            return Err(SnapshotError::Source { source });
        }
        seen += images.len();
        Ok(images.iter().map(|image| tile_of(image)).collect())
    });
    (seen, report)
}

fn tile(place: &Place, options: &TileOptions) -> TileReport {
    tile_up_to(place, options, usize::MAX).1.unwrap()
}

fn open_tiled(place: &Place) -> Snapshot {
    Snapshot::open(SnapshotRequest {
        tiled_columns: vec!["image".into()],
        ..place.request()
    })
    .unwrap()
}

/// Checks that `values` are read from the column and from its tiled form.
fn check(place: &Place, values: &[Value]) {
    conform(&place.open(), 0, values);
    let snapshot = open_tiled(place);
    let expected: Vec<Value> = values.iter().map(read_tiled).collect();
    conform(&snapshot, 0, &expected);
    assert_eq!(snapshot.tiled(0), Some(("image_tiled", tiled_rows(values))));
    assert_eq!(place.open().tiled(0), None);
}

fn binary_batch(first: i64, values: &[Value], layout: BytesLayout) -> RecordBatch {
    let rows = values.iter().map(Option::as_deref);
    let large = || Arc::new(LargeBinaryArray::from_iter(rows.clone())) as ArrayRef;
    let field = |kind| Field::new("image", kind, true);
    let blob = [("lance-encoding:blob".into(), "true".into())];
    match layout {
        BytesLayout::BlobV2 => blob_batch(first, values, packed()),
        BytesLayout::BlobV1 => {
            let field = field(DataType::LargeBinary).with_metadata(blob.into());
            batch(first, field, large())
        }
        BytesLayout::LargeBinary => batch(first, field(DataType::LargeBinary), large()),
        BytesLayout::Binary => {
            let values = Arc::new(BinaryArray::from_iter(rows));
            batch(first, field(DataType::Binary), values)
        }
    }
}

#[test]
fn every_layout_is_tiled_and_filled() {
    for (version, layout, into) in [
        (
            LanceFileVersion::V2_0,
            BytesLayout::Binary,
            BytesLayout::BlobV1,
        ),
        (
            LanceFileVersion::V2_1,
            BytesLayout::LargeBinary,
            BytesLayout::BlobV1,
        ),
        (
            LanceFileVersion::V2_1,
            BytesLayout::BlobV1,
            BytesLayout::BlobV1,
        ),
        (
            LanceFileVersion::V2_2,
            BytesLayout::LargeBinary,
            BytesLayout::BlobV2,
        ),
        (
            LanceFileVersion::V2_2,
            BytesLayout::BlobV2,
            BytesLayout::BlobV2,
        ),
    ] {
        let place = Place::new();
        let all = values(0, 400, 3_000);
        let put = |rows: std::ops::Range<usize>| {
            let batch = binary_batch(rows.start as i64, &all[rows], layout);
            place.write(&batch, |params| {
                params.max_rows_per_file = 70;
                params.data_storage_version = Some(version);
            })
        };
        block_on(put(0..200).delete("id % 9 = 4 OR id < 20")).unwrap();
        let live = |end: i64| -> Vec<Value> {
            let live = (0..end).filter(|id| *id >= 200 || (id % 9 != 4 && *id >= 20));
            live.map(|id| all[id as usize].clone()).collect()
        };
        let report = tile(&place, &options(&place));
        assert_eq!(report.layout, into);
        assert_eq!(report.version, Some(3), "{version:?} {layout:?}");
        assert_eq!(report.counts.tiled, tiled_rows(&live(200)));
        check(&place, &live(200));

        // Rows that came later are read from the original, and filled by another run.
        put(200..300);
        let snapshot = open_tiled(&place);
        assert_eq!(snapshot.tiled(0).unwrap().1, tiled_rows(&live(200)));
        let report = tile(&place, &options(&place));
        assert_eq!(report.counts.tiled, tiled_rows(&all[200..300]));
        check(&place, &live(300));

        // Rows with and without a tiled form in one fragment.
        put(300..400);
        let mut dataset = place.dataset();
        block_on(compact_files(
            &mut dataset,
            CompactionOptions::default(),
            None,
        ))
        .unwrap();
        conform(&place.open(), 0, &live(400));
        let report = tile(&place, &options(&place));
        assert_eq!(report.counts.tiled, tiled_rows(&all[300..400]));
        check(&place, &live(400));
        assert_eq!(tile(&place, &options(&place)).version, None);
    }
}

#[test]
fn images_inside_of_structs() {
    let place = Place::new();
    let all = values(1, 60, 2_000);
    let inner = blob_batch(1, &all, packed());
    let image = inner.schema().field(1).clone();
    let frame = StructArray::new(vec![image].into(), vec![inner.column(1).clone()], None);
    let field = Field::new("frame", frame.data_type().clone(), false);
    place.write(&batch(1, field, Arc::new(frame)), |_| {});
    let nested = TileOptions {
        column: "frame.image".into(),
        ..options(&place)
    };
    assert_eq!(tile(&place, &nested).into, "frame_image_tiled");
    let snapshot = Snapshot::open(SnapshotRequest {
        bytes_columns: vec!["frame.image".into()],
        tiled_columns: vec!["frame.image".into()],
        ..place.request()
    })
    .unwrap();
    let expected: Vec<Value> = all.iter().map(read_tiled).collect();
    conform(&snapshot, 0, &expected);
    let dropped = TileOptions {
        drop_original: Some(same),
        ..nested
    };
    let error = tile_up_to(&place, &dropped, usize::MAX).1.unwrap_err();
    assert!(error.to_string().contains("field of a struct"), "{error}");
}

#[test]
fn a_run_that_broke_off_is_gone_on_with() {
    let place = Place::new();
    let all = values(0, 300, 2_000);
    let images = |values: &[Value]| values.iter().flatten().count();
    place.write(&blob_batch(0, &all, packed()), |params| {
        params.max_rows_per_file = 50
    });
    let (_, broken) = tile_up_to(&place, &options(&place), images(&all[..150]));
    assert!(broken.unwrap_err().to_string().contains("the tiler broke"));
    assert_eq!(place.open().version(), 1);
    let (seen, report) = tile_up_to(&place, &options(&place), usize::MAX);
    let report = report.unwrap();
    assert_eq!((report.fragments_resumed, report.fragments_written), (3, 6));
    assert_eq!(seen, images(&all[150..]));
    assert_eq!(report.counts.tiled, tiled_rows(&all));
    check(&place, &all);
    let left = std::fs::read_dir(options(&place).state_dir)
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn what_can_not_be_tiled_makes_no_version() {
    let place = Place::new();
    let all: Vec<Value> = (0..40).map(|_| Some(vec![4; 30])).collect();
    place.write(&blob_batch(0, &all, packed()), |_| {});
    let files = || {
        std::fs::read_dir(Path::new(&place.uri).join("data"))
            .unwrap()
            .count()
    };
    let before = files();
    let report = tile(&place, &options(&place));
    assert_eq!((report.version, report.counts.kept_rows()), (None, 40));
    assert_eq!((place.open().version(), files()), (1, before));
    conform(&open_tiled(&place), 0, &all);
}

#[test]
fn the_tiled_column_takes_the_originals_place() {
    let place = Place::new();
    // Every image is tiled, or was before.
    let image = |id: u8| match id % 5 {
        0 => Some([TILED, &[id]].concat()),
        1 => None,
        _ => Some(vec![id | 1; 500]),
    };
    let all: Vec<Value> = (0..90).map(image).collect();
    place.write(&blob_batch(0, &all, packed()), |params| {
        params.max_rows_per_file = 40
    });
    block_on(place.dataset().delete("id = 8")).unwrap();
    let dropping = TileOptions {
        drop_original: Some(same),
        ..options(&place)
    };
    let mut expected: Vec<Value> = all.iter().map(read_tiled).collect();
    expected.remove(8);
    let report = tile(&place, &dropping);
    assert_eq!((report.version, report.dropped), (Some(4), Some(6)));
    conform(&place.open(), 0, &expected);
    assert_eq!(open_tiled(&place).tiled(0), None);
    // Nothing is left to do, and nothing to drop.
    let again = tile(&place, &dropping);
    assert_eq!((again.version, again.dropped), (None, None));
    assert_eq!(place.open().version(), 6);
}

#[test]
fn what_was_changed_since_is_not_dropped() {
    let place = Place::new();
    let all: Vec<Value> = (0..40).map(|id| Some(vec![id | 1; 500])).collect();
    place.write(&blob_batch(0, &all, packed()), |_| {});
    tile(&place, &options(&place));
    fn never(_: &[u8], _: &[u8]) -> Result<(), String> {
        Err("its pixels differ".into())
    }
    let dropping = TileOptions {
        drop_original: Some(never),
        ..options(&place)
    };
    let before = place.open().version();
    let error = tile_up_to(&place, &dropping, usize::MAX).1.unwrap_err();
    let error = error.to_string();
    for part in [
        "row address 0 ",
        "its pixels differ",
        "drop the column \"image_tiled\"",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(place.open().version(), before);
    check(&place, &all);
}

#[test]
fn a_column_that_somebody_else_dropped_gets_no_heir() {
    let place = Place::new();
    let all: Vec<Value> = (0..40).map(|id| Some(vec![id | 1; 500])).collect();
    place.write(&blob_batch(0, &all, packed()), |_| {});
    tile(&place, &options(&place));
    let mut dataset = place.dataset();
    block_on(dataset.drop_columns(&["image"])).unwrap();
    let error = tile_up_to(&place, &options(&place), usize::MAX)
        .1
        .unwrap_err();
    assert!(error.to_string().contains("image"), "{error}");
    assert!(place.dataset().schema().field("image_tiled").is_some());
}

#[test]
fn what_was_written_under_other_settings_is_written_again() {
    let place = Place::new();
    let all: Vec<Value> = (0..100).map(|id| Some(vec![id | 1; 500])).collect();
    place.write(&blob_batch(0, &all, packed()), |params| {
        params.max_rows_per_file = 50
    });
    tile_up_to(&place, &options(&place), 50).1.unwrap_err();
    let other = TileOptions {
        settings: "other".into(),
        ..options(&place)
    };
    let (seen, report) = tile_up_to(&place, &other, usize::MAX);
    assert_eq!((seen, report.unwrap().fragments_resumed), (100, 0));
    check(&place, &all);
}

/// A dataset of two columns of images, and what `image` and `mask` hold.
fn two_columns(place: &Place) -> [Vec<Value>; 2] {
    let all = [values(1, 60, 2_000), values(2, 60, 900)];
    let one = binary_batch(1, &all[0], BytesLayout::LargeBinary);
    let rows = all[1].iter().map(Option::as_deref);
    let mask: ArrayRef = Arc::new(LargeBinaryArray::from_iter(rows));
    let mut fields = one.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("mask", DataType::LargeBinary, true)));
    let mut columns = one.columns().to_vec();
    columns.push(mask);
    let schema = Arc::new(arrow_schema::Schema::new(fields));
    place.write(&RecordBatch::try_new(schema, columns).unwrap(), |_| {});
    all
}

/// Tiles `image`, and calls `meanwhile` once it has begun.
fn tile_while(
    place: &Place,
    options: &TileOptions,
    meanwhile: impl Fn() + Sync,
) -> Result<TileReport, SnapshotError> {
    let mut is_first = true;
    tile_column(&place.uri, options, &mut |_| {}, &mut |images| {
        if std::mem::take(&mut is_first) {
            std::thread::scope(|scope| scope.spawn(&meanwhile).join().unwrap());
        }
        Ok(images.iter().map(|image| tile_of(image)).collect())
    })
}

#[test]
fn columns_are_tiled_side_by_side() {
    let place = Place::new();
    let all = two_columns(&place);
    let images = options(&place);
    let masks = TileOptions {
        column: "mask".into(),
        ..options(&place)
    };
    let report = tile_while(&place, &images, || {
        assert_eq!(tile(&place, &masks).fragments_lost, 0);
    });
    let report = report.unwrap();
    assert_eq!((report.fragments_written, report.fragments_lost), (1, 0));
    let open = |tiled: bool| {
        let columns = vec!["image".to_owned(), "mask".to_owned()];
        Snapshot::open(SnapshotRequest {
            tiled_columns: if tiled { columns.clone() } else { vec![] },
            bytes_columns: columns,
            ..place.request()
        })
        .unwrap()
    };
    let snapshot = open(true);
    for (column, values) in all.iter().enumerate() {
        conform(&open(false), column, values);
        let expected: Vec<Value> = values.iter().map(read_tiled).collect();
        conform(&snapshot, column, &expected);
    }
    assert_eq!(
        snapshot.tiled(0),
        Some(("image_tiled", tiled_rows(&all[0])))
    );
    assert_eq!(snapshot.tiled(1), Some(("mask_tiled", tiled_rows(&all[1]))));
    for options in [&images, &masks] {
        assert_eq!(tile(&place, options).version, None);
    }
    // Nothing is left of the runs but what they wrote.
    let left = std::fs::read_dir(&images.state_dir).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn what_runs_can_not_share_is_refused_at_once() {
    let place = Place::new();
    two_columns(&place);
    let [images, masks] = ["image", "mask"].map(|column| TileOptions {
        column: column.into(),
        ..options(&place)
    });
    let refused = |options: &TileOptions, expected: &str| {
        let (seen, report) = tile_up_to(&place, options, usize::MAX);
        let error = report.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(seen, 0);
    };
    let dropping = |options: &TileOptions| TileOptions {
        drop_original: Some(same),
        ..options.clone()
    };
    let other_settings = TileOptions {
        settings: "others".into(),
        ..images.clone()
    };
    tile_while(&place, &images, || {
        refused(&images, "another loaderd is at it");
        refused(&other_settings, "another loaderd is at it");
        refused(&dropping(&masks), "while another loaderd tiles a column");
    })
    .unwrap();
    let report = tile_while(&place, &dropping(&masks), || {
        refused(&images, "about to drop the originals of a column");
    });
    // Some images have no tiled form here, which is found out after all were tiled.
    assert!(report.unwrap_err().to_string().contains("can't be dropped"));
    assert_eq!(tile(&place, &images).version, None);
}
