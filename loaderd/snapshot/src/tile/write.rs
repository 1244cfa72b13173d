//! One fragment's tiled column as a data file that no version has yet.
//!
//! Enters: values, row by row in the fragment's order. Leaves: the data file. It never reads, and
//! commits nothing. Lance removes what it wrote where a fragment fails; what a killed process wrote
//! stays for Lance's clean-up.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, LargeBinaryArray, RecordBatch, RecordBatchIterator};
use arrow_schema::{ArrowError, Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use futures::channel::mpsc::{Receiver, Sender, channel};
use futures::{SinkExt, StreamExt};
use lance::BlobArrayBuilder;
use lance::dataset::NewColumnTransform;
use lance::dataset::fragment::FileFragment;
use lance_core::datatypes::Schema;
use lance_table::format::DataFile;
use tokio::task::JoinHandle;

use super::Target;
use super::fragment::FILE_ROWS;
use crate::SnapshotError;
use crate::field::BytesLayout;
use crate::runtime::{runtime, wait};

/// A data file in the making.
pub(super) struct Writer {
    sender: Sender<RecordBatch>,
    schema: SchemaRef,
    layout: BytesLayout,
    task: JoinHandle<lance::Result<DataFile>>,
}

impl Writer {
    /// Begins the file of a fragment. A column that the version has takes a value for every physical
    /// row, deleted ones included; a new one takes those of live rows.
    pub(super) fn start(fragment: FileFragment, target: &Target) -> Result<Self, SnapshotError> {
        let field = ArrowField::from(&target.field);
        let schema = Arc::new(ArrowSchema::new(vec![field]));
        // One batch waits while one is written.
        let (sender, receiver) = channel(1);
        let task = if target.existing.is_some() {
            let fields = Schema {
                fields: vec![target.field.clone()],
                metadata: Default::default(),
            };
            runtime()?.spawn(replace(fragment, receiver, fields))
        } else {
            runtime()?.spawn(add(fragment, receiver, schema.clone()))
        };
        Ok(Self {
            sender,
            schema,
            layout: target.layout,
            task,
        })
    }

    /// Gives the next rows. A writer that failed takes them in silence; [`Writer::finish`] says why.
    pub(super) fn put(&mut self, values: Vec<Option<Vec<u8>>>) -> Result<(), SnapshotError> {
        let failed = |error| SnapshotError::lance("gather a batch of tiled images", error);
        let values: ArrayRef = match self.layout {
            BytesLayout::BlobV2 => {
                let mut blobs = BlobArrayBuilder::new(values.len());
                for value in values {
                    match value {
                        Some(value) => blobs.push_bytes(value).map_err(failed)?,
                        None => blobs.push_null().map_err(failed)?,
                    }
                }
                blobs.finish().map_err(failed)?
            }
            _ => Arc::new(LargeBinaryArray::from_iter(values)) as Arc<dyn Array>,
        };
        let batch = RecordBatch::try_new(self.schema.clone(), vec![values]);
        let batch = batch.map_err(|error| failed(error.into()))?;
        wait(async {
            let _ = self.sender.send(batch).await;
            Ok(())
        })
    }

    /// Closes the file. Blocks until it is written.
    pub(super) fn finish(self) -> Result<DataFile, SnapshotError> {
        let Self { sender, task, .. } = self;
        drop(sender);
        let written = runtime()?.block_on(task);
        written
            .map_err(|error| SnapshotError::Runtime {
                source: std::io::Error::other(error),
            })?
            .map_err(|error| SnapshotError::lance("write a fragment's tiled images", error))
    }
}

async fn add(
    fragment: FileFragment,
    batches: Receiver<RecordBatch>,
    schema: SchemaRef,
) -> lance::Result<DataFile> {
    // Lance takes these from a blocking thread of its own.
    let batches = futures::executor::block_on_stream(batches).map(Ok::<_, ArrowError>);
    let reader = RecordBatchIterator::new(batches, schema);
    let column = NewColumnTransform::Reader(Box::new(reader));
    let (mut written, _) = fragment
        .add_columns(column, None, Some(FILE_ROWS as u32))
        .await?;
    Ok(written.files.pop().expect("the file that was added"))
}

async fn replace(
    fragment: FileFragment,
    batches: Receiver<RecordBatch>,
    fields: Schema,
) -> lance::Result<DataFile> {
    let written = fragment.write_columns(batches.map(Ok), &fields).await?;
    Ok(written.1)
}
