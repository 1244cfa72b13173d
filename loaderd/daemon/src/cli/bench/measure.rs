//! The stages on their own: reading, and decoding from memory.
//!
//! Enters: the bench's source. Leaves: a [`Stage`] each. Nothing is delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use loaderd_decode::{Decoder, Options, Pipeline};
use loaderd_plan::Draws;
use loaderd_read::{Config, FileSet, Reader};
use serde_json::Value;

use super::Bench;
use super::report::Stage;
use crate::cli::untiled::{Looks, SAMPLE};
use crate::clock;
use crate::histogram::Histogram;
use crate::source::Payload;

/// Encoded images that the decode measurement keeps in memory, in bytes.
const SAMPLE_BYTES_MAX: usize = 256 << 20;
/// Rows of one window of slow reads.
const SLOW_WINDOW: usize = 256;

/// Reading alone.
pub(super) struct Reading {
    pub(super) stage: Stage,
    /// The engine, in words.
    pub(super) how: Option<String>,
    /// From asking for an extent to having it; empty where the source reads.
    pub(super) waits: Histogram,
}

impl Bench<'_> {
    /// The source's files, opened anew: how they are read is settled once for each set.
    pub(super) fn fresh_files(&self) -> Result<Option<Arc<FileSet>>> {
        let Some(files) = self.source.files().filter(|files| !files.is_empty()) else {
            return Ok(None);
        };
        if !self.is_bytes || matches!(self.source.payload(0, 0), Payload::Slow | Payload::Null) {
            return Ok(None);
        }
        let paths = (0..files.len() as u32).map(|file| files.path(file).to_owned());
        Ok(Some(Arc::new(FileSet::open(paths.collect())?)))
    }

    /// Reading alone, on one thread, with everything dropped at once. Without `files` the
    /// source reads. With `one_epoch` no row is read twice.
    pub(super) fn read(&self, files: Option<Arc<FileSet>>, one_epoch: bool) -> Result<Reading> {
        let mut rows = 0u64;
        let mut bytes = 0u64;
        let mut how = None;
        let waits = Histogram::default();
        let (started, cpu) = (Instant::now(), clock::process_cpu_ns());
        let rows_max = match one_epoch {
            true => self.source.rows(),
            false => u64::MAX,
        };
        let mut indices = self
            .indices()
            .take(rows_max.min(usize::MAX as u64) as usize);
        if let Some(files) = files {
            let config = Config {
                mode: self.config.read_mode,
                ..Config::for_lengths(self.source.typical_length(), 32 << 20)
            };
            let mut reader = Reader::new(files, config)?;
            how = Some(reader.engine().to_string());
            let mut failed = None;
            let mut next = None;
            let mut more = true;
            while started.elapsed() < self.time() && failed.is_none() {
                while more {
                    let extent = match next.take() {
                        Some(extent) => extent,
                        None => match indices.next().map(|row| self.source.payload(0, row)) {
                            Some(Payload::Extent(extent)) => extent,
                            Some(_) => continue,
                            None => {
                                more = false;
                                break;
                            }
                        },
                    };
                    if !reader.submit(started.elapsed().as_nanos() as u64, extent) {
                        next = Some(extent);
                        break;
                    }
                }
                if !more && reader.in_flight() == 0 {
                    break;
                }
                reader.complete(
                    Duration::from_millis(100),
                    &mut |asked_ns, result| match result {
                        Ok(buffer) => {
                            let now_ns = started.elapsed().as_nanos() as u64;
                            waits.record(now_ns.saturating_sub(asked_ns));
                            rows += 1;
                            bytes += buffer.len() as u64;
                        }
                        Err(error) => failed = Some(error),
                    },
                )?;
            }
            if let Some(error) = failed {
                return Err(error.into());
            }
        } else {
            let slow = matches!(self.source.payload(0, 0), Payload::Slow | Payload::Null);
            how = how.or_else(|| slow.then(|| "reading with Lance's take".into()));
            while started.elapsed() < self.time() {
                let window: Vec<u64> = indices.by_ref().take(SLOW_WINDOW).collect();
                for image in self.bytes_of(&window)?.into_iter().flatten() {
                    rows += 1;
                    bytes += image.len() as u64;
                }
            }
        }
        let cpu_ns = clock::process_cpu_ns() - cpu;
        Ok(Reading {
            stage: Stage::of("read", rows, bytes, started.elapsed(), cpu_ns),
            how,
            waits,
        })
    }

    /// The encoded images of some rows.
    fn bytes_of(&self, indices: &[u64]) -> Result<Vec<Option<Arc<[u8]>>>> {
        let mut shared = Vec::with_capacity(indices.len());
        for &index in indices {
            match self.source.payload(0, index) {
                Payload::Shared(bytes) => shared.push(Some(bytes)),
                _ => {
                    let slow = self.source.read_slow(0, indices)?;
                    return Ok(slow.into_iter().map(|bytes| bytes.map(Arc::from)).collect());
                }
            }
        }
        Ok(shared)
    }

    /// What tiling would do for the crops, in words; none where there are none, or no need.
    pub(super) fn tiling(&self) -> Result<Option<String>> {
        let is_crop = |step: &Value| {
            let name = step["name"].as_str();
            name.is_some_and(|name| name.ends_with("Crop"))
        };
        let steps = self.transform.as_ref().and_then(Value::as_array);
        let crops = steps.is_some_and(|steps| steps.iter().any(is_crop));
        let (uri, column) = (self.source.uri(), &self.column);
        if !self.is_bytes || !crops || uri.starts_with("memory:") {
            return Ok(None);
        }
        let indices: Vec<u64> = self.indices().take(SAMPLE).collect();
        let images = self.bytes_of(&indices)?;
        let found = Looks::of(images.iter().flatten().map(|image| &**image)).worth_tiling(false);
        Ok(found.map(|found| {
            format!(
                "tiling: {found}: `loaderd tile {uri} --column {column}` has crops cut out before they are decoded"
            )
        }))
    }

    /// Decoding alone, on so many threads, from memory.
    pub(super) fn decode(&self, transform: &Value, threads: usize) -> Result<Stage> {
        let mut images: Vec<Arc<[u8]>> = Vec::new();
        let mut held = 0;
        let distinct = self.source.rows().min(2048) as usize;
        let mut indices = self.indices();
        while images.len() < distinct && held < SAMPLE_BYTES_MAX {
            let window: Vec<u64> = indices
                .by_ref()
                .take(64.min(distinct - images.len()))
                .collect();
            let found: Vec<_> = self.bytes_of(&window)?.into_iter().flatten().collect();
            if found.is_empty() {
                break;
            }
            held += found.iter().map(|image| image.len()).sum::<usize>();
            images.extend(found);
        }
        if images.is_empty() {
            bail!("column {:?} holds no image at all", self.column);
        }
        let options = Options::default();
        // [Decode()] keeps every image's own size, and has no pipeline.
        let whole = transform.as_array().is_some_and(|steps| steps.len() == 1)
            && transform[0]["name"] == "Decode";
        let pipeline = match whole {
            true => None,
            false => Some(Pipeline::parse(transform, options).context("--transform")?),
        };
        let (rows, bytes, cpu_ns) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let next = AtomicU64::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut decoder = Decoder::new(self.config.image_limits);
                    let out_bytes = pipeline.as_ref().map_or(0, |of| of.output().bytes());
                    let mut out = vec![0; out_bytes as usize];
                    while started.elapsed() < self.time() {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let image = &images[number as usize % images.len()];
                        let mut draws = Draws::new(0, 0, number, 0);
                        // Images that can't be decoded cost their time and count as rows.
                        match &pipeline {
                            Some(pipeline) => {
                                let _ = decoder.decode(pipeline, image, &mut draws, &mut out);
                            }
                            None => drop(decoder.decode_full(image, options)),
                        }
                        rows.fetch_add(1, Ordering::Relaxed);
                        bytes.fetch_add(image.len() as u64, Ordering::Relaxed);
                    }
                    cpu_ns.fetch_add(clock::thread_cpu_ns(), Ordering::Relaxed);
                });
            }
        });
        Ok(Stage::of(
            "decode",
            rows.into_inner(),
            bytes.into_inner(),
            started.elapsed(),
            cpu_ns.into_inner(),
        ))
    }
}
