//! `loaderd ingest --synthetic N`: drawn street frames with labels into a Lance dataset.
//!
//! Enters: a number of frames, a seed. Leaves: one new version of a dataset, with the columns that
//! [`SCHEMA`] lists. Frames are drawn on all cores and written in order; a few dozen are in memory
//! at a time. Appending goes on behind as many frames as there are rows, which repeats none as long as
//! no row was deleted and no other ingest appends at the same time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::Result;
use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, FixedSizeListBuilder, Float32Builder, Int64Builder, ListBuilder,
    StringBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Field, Schema};
use indicatif::ProgressBar;
use loaderd_decode::EncodeError;
use loaderd_decode::encode::Encoder;
use loaderd_snapshot::{
    SnapshotError, TableOptions, Tile, classes_key, dataset_rows, ingest_table,
};

use super::Arguments;
use crate::cli::tile::tile_image;
use crate::cli::{bar, say};
use crate::synthetic::{Category, Frame, Weather, split};

/// What `--help` says about the columns.
pub(super) const SCHEMA: &str = "\
Columns that --synthetic writes; the lists of a row are parallel, one entry per labelled object:
  image           blob                         JPEG, 1280x720, quality 90, tiled
  name            string                       synthetic-SEED-FRAME
  weather         string                       clear, overcast, rainy, snowy, foggy, partly cloudy
  timeofday       string                       daytime, night, dawn/dusk
  scene           string                       city street, highway, residential, tunnel,
                                               parking lot, gas stations
  label           int64                        number of the weather; names in the schema metadata
  split           string                       train (80 %), val (10 %), test (10 %)
  categories      list<int64>                  names in the schema metadata, as BDD100K has them
  category_names  list<string>                 car, truck, bus, person, rider, bike, motor,
                                               traffic light, traffic sign, train
  boxes           list<fixed_size_list<float32, 4>>
                                               left, top, right, bottom in pixels, of what is
                                               visible; right and bottom are exclusive
  occluded        list<bool>                   something nearer hides a part of it
  truncated       list<bool>                   a part of it is beyond the picture
  mask            blob, with --mask            PNG, grey, 1280x720, tiled: 0 not to be driven on,
                                               1 our lane, 2 other lanes of our direction";

/// Rows of a batch.
const BATCH_ROWS: u64 = 32;
/// Drawn frames that may wait, for each thread that draws.
const FRAMES_WAITING: usize = 4;

/// A frame as it is written.
struct Drawn {
    number: u64,
    frame: Frame,
    jpeg: Vec<u8>,
    mask: Option<Vec<u8>>,
}

/// What is drawn.
#[derive(Clone, Copy)]
struct Series {
    seed: u64,
    count: u64,
    mask: bool,
    tiles: bool,
}

pub(super) fn run(arguments: &Arguments, count: u64, uri: &str) -> Result<()> {
    let first = match arguments.first_frame {
        Some(first) => first,
        // Behind the frames that are there.
        None => dataset_rows(uri)?.unwrap_or(0),
    };
    let series = Series {
        seed: arguments.seed,
        count,
        mask: arguments.mask,
        tiles: !arguments.no_tile,
    };
    let images = ["image", "mask"]
        .into_iter()
        .take(1 + usize::from(series.mask));
    let options = TableOptions {
        image_columns: images.map(String::from).collect(),
        rows_per_fragment: arguments.rows_per_fragment,
    };
    let schema = table(&[], series).map_err(gathering)?.schema();
    let bar = bar(count, "frames");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let report = std::thread::scope(|scope| {
        // Each thread draws every n-th frame, so that taking turns gives them in order.
        let drawing: Vec<_> = (0..threads)
            .map(|turn| {
                let (sender, receiver) = sync_channel(FRAMES_WAITING);
                scope.spawn(move || {
                    let numbers = (first..first + count).skip(turn).step_by(threads);
                    for number in numbers {
                        // Nobody takes frames any more where writing has failed.
                        if sender.send(draw(series, number)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        let mut batches = Batches {
            series,
            drawing,
            taken: 0,
            bar: &bar,
        };
        ingest_table(uri, &schema, &mut batches, &options)
    })?;
    bar.finish_and_clear();
    if arguments.json {
        say(serde_json::json!({
            "uri": uri, "version": report.version, "rows": report.rows,
            "rows_total": report.rows_total, "created": report.created,
            "seed": series.seed, "first_frame": first,
        }));
    } else {
        say(format_args!(
            "{} {uri}: {} drawn frames from number {first} of seed {}; version {}, {} rows in all",
            if report.created {
                "made"
            } else {
                "appended to"
            },
            report.rows,
            series.seed,
            report.version,
            report.rows_total,
        ));
    }
    Ok(())
}

fn draw(series: Series, number: u64) -> Result<Drawn, EncodeError> {
    let frame = Frame::draw(series.seed, number);
    let encoder = Encoder {
        quality: 90,
        ..Encoder::default()
    };
    let stored = |image: Vec<u8>| match series.tiles.then(|| tile_image(&image, true)) {
        Some(Tile::Tiled(tiled)) => tiled,
        _ => image,
    };
    Ok(Drawn {
        number,
        jpeg: stored(frame.jpeg(&encoder)?),
        mask: series.mask.then(|| stored(frame.drivable_png())),
        frame,
    })
}

/// Frames in the order of their numbers, as batches.
struct Batches<'a> {
    series: Series,
    drawing: Vec<Receiver<Result<Drawn, EncodeError>>>,
    taken: u64,
    bar: &'a ProgressBar,
}

impl Iterator for Batches<'_> {
    type Item = Result<RecordBatch, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = BATCH_ROWS.min(self.series.count - self.taken);
        if rows == 0 {
            return None;
        }
        let mut frames = Vec::new();
        for number in self.taken..self.taken + rows {
            let turn = (number % self.drawing.len() as u64) as usize;
            match self.drawing[turn].recv().expect("drawing does not panic") {
                Ok(mut drawn) => {
                    // Written already as JPEG and PNG.
                    drawn.frame.pixels = Vec::new();
                    drawn.frame.drivable = Vec::new();
                    frames.push(drawn);
                }
                Err(error) => return Some(Err(gathering(error))),
            }
            self.bar.inc(1);
        }
        self.taken += rows;
        Some(table(&frames, self.series).map_err(gathering))
    }
}

fn gathering(error: impl std::error::Error + Send + Sync + 'static) -> SnapshotError {
    SnapshotError::Source {
        source: Box::new(error),
    }
}

/// The columns of some frames; of none, the schema.
fn table(frames: &[Drawn], series: Series) -> Result<RecordBatch, ArrowError> {
    let mut images = BinaryBuilder::new();
    let mut masks = BinaryBuilder::new();
    let mut texts: [StringBuilder; 5] = std::array::from_fn(|_| StringBuilder::new());
    let mut labels = Int64Builder::new();
    let mut categories = ListBuilder::new(Int64Builder::new());
    let mut names = ListBuilder::new(StringBuilder::new());
    let mut boxes = ListBuilder::new(FixedSizeListBuilder::new(Float32Builder::new(), 4));
    let mut occluded = ListBuilder::new(BooleanBuilder::new());
    let mut truncated = ListBuilder::new(BooleanBuilder::new());
    for drawn in frames {
        let frame = &drawn.frame;
        images.append_value(&drawn.jpeg);
        masks.append_option(drawn.mask.as_ref());
        let name = format!("synthetic-{}-{:08}", series.seed, drawn.number);
        let values = [
            name.as_str(),
            frame.weather.name(),
            frame.hour.name(),
            frame.place.name(),
            split(series.seed, drawn.number),
        ];
        for (text, value) in texts.iter_mut().zip(values) {
            text.append_value(value);
        }
        labels.append_value(frame.weather as i64);
        for label in &frame.labels {
            categories.values().append_value(label.category as i64);
            names.values().append_value(label.category.name());
            boxes.values().values().append_slice(&label.bounds);
            boxes.values().append(true);
            occluded.values().append_value(label.occluded);
            truncated.values().append_value(label.truncated);
        }
        categories.append(true);
        names.append(true);
        boxes.append(true);
        occluded.append(true);
        truncated.append(true);
    }
    let [mut name, mut weather, mut timeofday, mut scene, mut split] = texts;
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("image", Arc::new(images.finish())),
        ("name", Arc::new(name.finish())),
        ("weather", Arc::new(weather.finish())),
        ("timeofday", Arc::new(timeofday.finish())),
        ("scene", Arc::new(scene.finish())),
        ("label", Arc::new(labels.finish())),
        ("split", Arc::new(split.finish())),
        ("categories", Arc::new(categories.finish())),
        ("category_names", Arc::new(names.finish())),
        ("boxes", Arc::new(boxes.finish())),
        ("occluded", Arc::new(occluded.finish())),
        ("truncated", Arc::new(truncated.finish())),
    ];
    if series.mask {
        columns.push(("mask", Arc::new(masks.finish())));
    }
    let field =
        |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let fields: Vec<Field> = columns.iter().map(field).collect();
    let list = |names: Vec<&str>| serde_json::json!(names).to_string();
    let weathers = Weather::ALL.iter().map(|weather| weather.name()).collect();
    let things = Category::ALL
        .iter()
        .map(|category| category.name())
        .collect();
    let metadata = [
        (classes_key("label"), list(weathers)),
        (classes_key("categories"), list(things)),
    ];
    let schema = Schema::new_with_metadata(fields, metadata.into());
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(schema), columns)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;

    use super::*;
    use crate::synthetic::{Hour, Place};

    const SERIES: Series = Series {
        seed: 3,
        count: 40,
        mask: true,
        tiles: true,
    };

    #[test]
    fn lists_are_parallel_and_names_match_numbers() {
        let frames: Vec<Drawn> = (10..14)
            .map(|number| draw(SERIES, number).unwrap())
            .collect();
        let batch = table(&frames, SERIES).unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        let numbers = column("categories");
        let numbers = numbers.as_list::<i32>();
        for other in ["category_names", "boxes", "occluded", "truncated"] {
            assert_eq!(
                column(other).as_list::<i32>().offsets(),
                numbers.offsets(),
                "{other}"
            );
        }
        let names = column("category_names");
        let names = names.as_list::<i32>().values().as_string::<i32>().clone();
        let values = numbers.values().as_primitive::<Int64Type>();
        assert!(!values.is_empty());
        for (number, name) in values.values().iter().zip(names.iter().flatten()) {
            assert_eq!(Category::ALL[*number as usize].name(), name);
        }
        let weather = column("weather");
        let labels = column("label");
        let known = |at: usize| labels.as_primitive::<Int64Type>().value(at) as usize;
        for (at, name) in weather.as_string::<i32>().iter().flatten().enumerate() {
            assert_eq!(Weather::ALL[known(at)].name(), name);
        }
        let schema = batch.schema();
        let listed = |column: &str| -> Vec<String> {
            serde_json::from_str(&schema.metadata()[&classes_key(column)]).unwrap()
        };
        assert_eq!(listed("label").len(), Weather::ALL.len());
        assert_eq!(listed("categories")[8], "traffic sign");
        assert_eq!(
            column("name").as_string::<i32>().value(0),
            "synthetic-3-00000010"
        );
        assert_eq!(
            loaderd_decode::probe(column("image").as_binary::<i32>().value(0))
                .unwrap()
                .width,
            1280
        );
        assert!(
            column("mask")
                .as_binary::<i32>()
                .value(0)
                .starts_with(b"\x89PNG")
        );
    }

    #[test]
    fn help_names_every_column_and_class() {
        let batch = table(&[], SERIES).unwrap();
        for field in batch.schema().fields() {
            assert!(
                SCHEMA.contains(&format!("\n  {} ", field.name())),
                "{field}"
            );
        }
        let names = Weather::ALL.iter().map(|it| it.name());
        let names = names.chain(Hour::ALL.iter().map(|it| it.name()));
        let names = names.chain(Place::ALL.iter().map(|it| it.name()));
        for name in names.chain(Category::ALL.iter().map(|it| it.name())) {
            assert!(SCHEMA.contains(name), "{name}");
        }
    }
}
