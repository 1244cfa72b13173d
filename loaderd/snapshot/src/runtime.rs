//! The threads that Lance runs on, behind blocking calls.
//!
//! In: a future. Out: its value, on the calling thread. One runtime serves the whole process: its
//! size does not grow with the number of open snapshots.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use crate::SnapshotError;

/// Tasks of Lance's that run at once; its CPU work has a pool of its own.
const WORKERS: usize = 2;
/// Lance reads local files on blocking threads, and ingest feeds it from one.
const BLOCKING_THREADS_MAX: usize = 16;

/// The process's runtime, started by the first call.
pub(crate) fn runtime() -> Result<&'static Runtime, SnapshotError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let started = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("loaderd-lance")
        .enable_all()
        .build()
        .map_err(|source| SnapshotError::Runtime { source })?;
    // Where two threads came here at once, the loser's runtime is dropped unused.
    Ok(RUNTIME.get_or_init(|| started))
}

/// Runs `future` to its end. Panics inside an async task, as tokio's `block_on` does.
pub(crate) fn wait<T>(
    future: impl Future<Output = Result<T, SnapshotError>>,
) -> Result<T, SnapshotError> {
    runtime()?.block_on(future)
}
