//! The same rows in Lance datasets of different layouts, made once and found again.
//!
//! Enters: a folder, [`Images`], a number of rows. Leaves: a dataset with a plain `LargeBinary`
//! column, as one writes it without a thought, another that has compression of that column turned
//! off, and one that `loaderd ingest` would make: blob v2 in packed sidecars. Never: rewrites a
//! dataset that is whole and holds what was asked for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow_array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, RecordBatchIterator};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use lance::Dataset;
use loaderd_snapshot::{IngestOptions, IngestRow, ingest};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::images::{Images, files_under};

/// The column of encoded images in all datasets.
pub const IMAGE: &str = "image";
/// The column of class numbers in all datasets.
pub const LABEL: &str = "label";

/// Classes that rows are dealt out to in turn.
const CLASSES: u64 = 10;
/// Rows handed to Lance's writer at once.
const BATCH_ROWS: u64 = 64;
/// Written last: a folder without it, or with other facts in it, is made anew.
const FACTS: &str = "facts.json";
/// To be raised when rows or layouts change.
const FORMAT: u64 = 1;

/// How a dataset keeps its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `LargeBinary`, all settings left alone.
    Plain,
    /// `LargeBinary` with `lance-encoding:compression=none`.
    PlainUncompressed,
    /// Blob v2, packed: what `loaderd ingest` writes.
    Packed,
}

impl Layout {
    /// All of them.
    pub const ALL: [Layout; 3] = [Layout::Plain, Layout::PlainUncompressed, Layout::Packed];

    fn folder_name(self) -> &'static str {
        match self {
            Layout::Plain => "plain.lance",
            Layout::PlainUncompressed => "plain-uncompressed.lance",
            Layout::Packed => "packed.lance",
        }
    }
}

/// Datasets on disk, one for each [`Layout`], with equal rows in equal order.
pub struct Datasets {
    folder: PathBuf,
    rows: u64,
    bytes: u64,
}

impl Datasets {
    /// Finds the datasets below `folder`, or makes them.
    ///
    /// # Errors
    /// Where they can't be written.
    pub fn ensure(
        runtime: &Runtime,
        folder: &Path,
        images: &Arc<Images>,
        rows: u64,
    ) -> Result<Datasets> {
        let folder = folder.join(format!("read-{rows}"));
        let facts = json!({"format": FORMAT, "rows": rows, "images": images.description()});
        let bytes = match stored(&folder, &facts) {
            Some(bytes) => bytes,
            None => {
                eprintln!(
                    "making {} times {rows} rows in {}",
                    Layout::ALL.len(),
                    folder.display()
                );
                make(runtime, &folder, images, rows, facts)?
            }
        };
        Ok(Datasets {
            folder,
            rows,
            bytes,
        })
    }

    /// Rows of each dataset.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of all images, once.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The folder of a dataset: absolute, if the one given to [`Datasets::ensure`] was.
    pub fn path(&self, layout: Layout) -> PathBuf {
        self.folder.join(layout.folder_name())
    }

    /// All files of a dataset.
    ///
    /// # Errors
    /// Where its folder can't be read.
    pub fn files(&self, layout: Layout) -> Result<Vec<PathBuf>> {
        files_under(&self.path(layout))
    }

    /// Bytes that a dataset takes on disk.
    ///
    /// # Errors
    /// Where its folder can't be read.
    pub fn disk_bytes(&self, layout: Layout) -> Result<u64> {
        let files = self.files(layout)?;
        files.iter().map(|path| Ok(path.metadata()?.len())).sum()
    }
}

/// The bytes of all images, where the folder holds whole datasets of these facts.
fn stored(folder: &Path, facts: &Value) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join(FACTS)).ok()?;
    let mut found: Value = serde_json::from_str(&text).ok()?;
    let bytes = found.as_object_mut()?.remove("bytes")?.as_u64()?;
    (found == *facts).then_some(bytes)
}

fn make(
    runtime: &Runtime,
    folder: &Path,
    images: &Arc<Images>,
    rows: u64,
    mut facts: Value,
) -> Result<u64> {
    ensure!(
        rows > 0,
        "no rows, nothing to measure: --rows must be at least 1"
    );
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for layout in Layout::ALL {
        let path = folder.join(layout.folder_name());
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("removing the unfinished {}", path.display()))?;
        }
        eprintln!("writing {}", path.display());
        match layout {
            Layout::Packed => packed(&path, images, rows)?,
            _ => plain(runtime, &path, images, rows, layout)?,
        }
    }
    let bytes: u64 = (0..rows)
        .map(|number| images.row(number).len() as u64)
        .sum();
    facts["bytes"] = json!(bytes);
    crate::write_json(&folder.join(FACTS), &facts)?;
    Ok(bytes)
}

fn plain(
    runtime: &Runtime,
    path: &Path,
    images: &Arc<Images>,
    rows: u64,
    layout: Layout,
) -> Result<()> {
    let mut image = Field::new(IMAGE, DataType::LargeBinary, true);
    if layout == Layout::PlainUncompressed {
        let none = ("lance-encoding:compression".to_owned(), "none".to_owned());
        image = image.with_metadata(HashMap::from([none]));
    }
    let label = Field::new(LABEL, DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![image, label]));
    let (images, its_schema) = (images.clone(), schema.clone());
    let batches = (0..rows)
        .step_by(BATCH_ROWS as usize)
        .map(move |first| batch(&images, &its_schema, first, rows.min(first + BATCH_ROWS)));
    let uri = path
        .to_str()
        .context("the data folder's path is not UTF-8")?;
    let batches = RecordBatchIterator::new(batches, schema);
    runtime
        .block_on(Dataset::write(batches, uri, None))
        .with_context(|| format!("writing {uri}"))?;
    Ok(())
}

fn batch(
    images: &Images,
    schema: &SchemaRef,
    first: u64,
    end: u64,
) -> Result<RecordBatch, ArrowError> {
    let column = LargeBinaryArray::from_iter_values((first..end).map(|number| images.row(number)));
    let labels = Int64Array::from_iter_values((first..end).map(|number| (number % CLASSES) as i64));
    let columns: Vec<ArrayRef> = vec![Arc::new(column), Arc::new(labels)];
    RecordBatch::try_new(schema.clone(), columns)
}

fn packed(path: &Path, images: &Images, rows: u64) -> Result<()> {
    let class = |number: u64| format!("class {number}");
    let options = IngestOptions {
        classes: (0..CLASSES).map(class).collect(),
        image_column: IMAGE.into(),
        label_column: LABEL.into(),
        ..IngestOptions::default()
    };
    let mut source = (0..rows).map(|number| {
        Ok(IngestRow {
            image: images.row(number),
            class: class(number % CLASSES),
        })
    });
    let uri = path
        .to_str()
        .context("the data folder's path is not UTF-8")?;
    ingest(uri, &mut source, &options)?;
    Ok(())
}
