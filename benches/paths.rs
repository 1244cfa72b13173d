//! The ways from row numbers to bytes that are compared.
//!
//! Enters: an open dataset and windows of row numbers. Leaves: bytes, counted and dropped as they
//! come, as by a consumer that is never behind; or kept, to compare ways with each other. Never:
//! measures, or touches the bytes.
//!
//! Every way gets the same windows and answers them in the order that suits it. Lance is given
//! each window sorted, and several windows at a time; our reader sorts a window by place in the
//! files and keeps its queue full across windows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::ProjectionRequest;
use loaderd_read::{Buffer, Config, Extent, Mode, Reader};
use loaderd_snapshot::{Payload, Snapshot};
use tokio::runtime::Runtime;

use crate::datasets::IMAGE;

/// Bytes of slabs of one reader: what the daemon gives its own.
const SLAB_MEMORY_MAX: u64 = 16 << 20;
/// Blobs of a window that are read at once through their handles.
const HANDLES_AT_ONCE: usize = 16;
const WAIT: Duration = Duration::from_secs(60);

/// Rows and bytes handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes as u64;
    }
}

/// Which of Lance's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanceCall {
    /// `Dataset::take`, for plain columns.
    Take,
    /// `Dataset::read_blobs`, for blob columns: planned, merged reads.
    ReadBlobs,
    /// `Dataset::take_blobs_by_indices` and `BlobFile::read`, for blob columns: a handle a row.
    TakeBlobs,
}

/// Reads through Lance.
pub struct LancePath {
    dataset: Arc<Dataset>,
    call: LanceCall,
    windows_at_once: usize,
}

impl LancePath {
    /// Opens the dataset at `folder` through `scheme` (`file` or `file+uring`), with Lance's own
    /// defaults. `windows_at_once` windows are read together.
    ///
    /// # Errors
    /// Where Lance can't open it, for instance because io_uring is refused.
    pub fn open(
        runtime: &Runtime,
        folder: &Path,
        scheme: &str,
        call: LanceCall,
        windows_at_once: usize,
    ) -> Result<LancePath> {
        let uri = format!("{scheme}://{}", folder.display());
        let dataset = runtime
            .block_on(Dataset::open(&uri))
            .with_context(|| format!("opening {uri}"))?;
        Ok(LancePath {
            dataset: Arc::new(dataset),
            call,
            windows_at_once,
        })
    }

    /// Reads all rows of all windows.
    ///
    /// # Errors
    /// Where Lance fails or leaves out a row.
    pub fn run(&self, runtime: &Runtime, windows: &[Vec<u64>]) -> Result<Tally> {
        let windows = windows.to_vec();
        runtime.block_on(async {
            futures::stream::iter(windows)
                .map(|window| {
                    let (dataset, call) = (self.dataset.clone(), self.call);
                    // A task of its own, so that all cores can decode.
                    async move { tokio::spawn(read(dataset, call, window, false)).await? }
                })
                .buffer_unordered(self.windows_at_once)
                .try_fold(Tally::default(), |mut sum, (tally, _)| async move {
                    sum.rows += tally.rows;
                    sum.bytes += tally.bytes;
                    Ok(sum)
                })
                .await
        })
    }

    /// The bytes of the rows of `window`, in its order.
    ///
    /// # Errors
    /// As [`LancePath::run`].
    pub fn fetch(&self, runtime: &Runtime, window: &[u64]) -> Result<Vec<Vec<u8>>> {
        let reading = read(self.dataset.clone(), self.call, window.to_vec(), true);
        Ok(runtime.block_on(reading)?.1)
    }
}

/// Reads one window; keeps copies of the bytes where `keep` says so.
async fn read(
    dataset: Arc<Dataset>,
    call: LanceCall,
    window: Vec<u64>,
    keep: bool,
) -> Result<(Tally, Vec<Vec<u8>>)> {
    let mut tally = Tally::default();
    let mut kept = Vec::new();
    let mut take_in = |bytes: &[u8]| {
        tally.add(bytes.len());
        if keep {
            kept.push(bytes.to_vec());
        }
    };
    match call {
        LanceCall::Take => {
            let columns = ProjectionRequest::from_columns([IMAGE], dataset.schema());
            let batch = dataset.take(&window, columns).await?;
            let values = batch[IMAGE].as_binary::<i64>();
            (0..values.len()).for_each(|row| take_in(values.value(row)));
        }
        LanceCall::ReadBlobs => {
            let blobs = dataset.read_blobs(IMAGE)?.with_row_indices(&*window);
            let mut stream = blobs.try_into_stream().await?;
            while let Some(blob) = stream.try_next().await? {
                take_in(&blob.data.context("a blob is null")?);
            }
        }
        LanceCall::TakeBlobs => {
            let handles = dataset.take_blobs_by_indices(&window, IMAGE).await?;
            let mut reads = futures::stream::iter(handles)
                .map(|handle| async move {
                    let handle = handle.context("a blob is null")?;
                    anyhow::Ok(handle.read().await?)
                })
                .buffered(HANDLES_AT_ONCE);
            while let Some(bytes) = reads.try_next().await? {
                take_in(&bytes);
            }
        }
    }
    let (found, expected) = (tally.rows, window.len());
    ensure!(
        found == expected as u64,
        "lance answered {found} of {expected} rows"
    );
    Ok((tally, kept))
}

/// Reads with our own engine, by the snapshot's page map.
pub struct OwnPath {
    snapshot: Arc<Snapshot>,
    reader: Reader,
}

impl OwnPath {
    /// Makes a reader for `snapshot`, whose only bytes column is the images, as the daemon does.
    ///
    /// # Errors
    /// Where `mode` is refused.
    pub fn open(snapshot: Arc<Snapshot>, mode: Mode) -> Result<OwnPath> {
        let config = Config {
            mode,
            ..Config::for_lengths(snapshot.length_quantile(0.99), SLAB_MEMORY_MAX)
        };
        let reader = Reader::new(snapshot.files().clone(), config)?;
        Ok(OwnPath { snapshot, reader })
    }

    /// What the reader stands on, and why.
    pub fn engine(&self) -> String {
        self.reader.engine().to_string()
    }

    /// Reads all rows of all windows.
    ///
    /// # Errors
    /// The first read that fails, or a row without an extent.
    pub fn run(&mut self, windows: &[Vec<u64>]) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut take_in = |_, buffer: Buffer| tally.add(buffer.len());
        for window in windows {
            self.submit(window, &mut take_in)?;
        }
        self.drain(&mut take_in)?;
        Ok(tally)
    }

    /// The bytes of the rows of `window`, in its order.
    ///
    /// # Errors
    /// As [`OwnPath::run`].
    pub fn fetch(&mut self, window: &[u64]) -> Result<Vec<Vec<u8>>> {
        let mut kept = vec![Vec::new(); window.len()];
        let mut take_in = |tag: u64, buffer: Buffer| kept[tag as usize] = buffer.to_vec();
        self.submit(window, &mut take_in)?;
        self.drain(&mut take_in)?;
        Ok(kept)
    }

    /// Submits a window in the order of the files; tags are places in the window.
    fn submit(&mut self, window: &[u64], take_in: &mut dyn FnMut(u64, Buffer)) -> Result<()> {
        let mut extents: Vec<(u64, Extent)> = Vec::with_capacity(window.len());
        for (tag, &index) in (0..).zip(window) {
            match self.snapshot.payload(0, index) {
                Payload::Extent(extent) => extents.push((tag, extent)),
                other => bail!("row {index} has no extent but {other:?}"),
            }
        }
        self.snapshot.check()?;
        extents.sort_unstable_by_key(|(_, extent)| (extent.file, extent.offset));
        for (tag, extent) in extents {
            while !self.reader.submit(tag, extent) {
                self.complete(take_in)?;
            }
        }
        Ok(())
    }

    fn drain(&mut self, take_in: &mut dyn FnMut(u64, Buffer)) -> Result<()> {
        while self.reader.in_flight() > 0 {
            self.complete(take_in)?;
        }
        Ok(())
    }

    fn complete(&mut self, take_in: &mut dyn FnMut(u64, Buffer)) -> Result<()> {
        let mut failed = None;
        self.reader
            .complete(WAIT, &mut |tag, result| match result {
                Ok(buffer) => take_in(tag, buffer),
                Err(error) => failed = Some(error),
            })?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}
