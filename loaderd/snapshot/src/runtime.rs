//! The threads that Lance runs on, behind blocking calls.
//!
//! Enters: a future. Leaves: its value, on the calling thread. One runtime serves the whole
//! process: its size does not grow with the number of open snapshots. A panic of Lance's, which
//! damaged files bring about, is an error of all who wait for it at that moment: nobody waits for
//! ever, or takes what is left for the whole.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::sync::{Mutex, OnceLock, PoisonError};

use futures::channel::oneshot;
use futures::future::{Either, select};
use tokio::runtime::{Builder, Runtime};

use crate::SnapshotError;

/// Tasks of Lance's that run at once; its CPU work has a pool of its own.
const WORKERS: usize = 2;
/// Lance reads local files on blocking threads, and ingest feeds it from one.
const BLOCKING_THREADS_MAX: usize = 16;
/// The name of these threads.
const THREADS: &str = "loaderd-lance";
/// The name that Lance gives to those for its CPU work.
const CPU_THREADS: &str = "lance-cpu";

/// Those who wait, to be told of a panic in words.
static WAITING: Mutex<Vec<oneshot::Sender<String>>> = Mutex::new(Vec::new());

thread_local! {
    /// Whether this thread runs a future for [`wait`], which catches its panics.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// For a panic hook that would end the process: whether this panic, of the current thread, is
/// Lance's and becomes an error of those who wait for Lance.
pub fn is_lances_panic(panic: &PanicHookInfo<'_>) -> bool {
    if WAITS.get() {
        return true;
    }
    let thread = std::thread::current();
    let is_lances = matches!(thread.name(), Some(THREADS | CPU_THREADS));
    if is_lances {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        for waiter in waiting.drain(..) {
            // Who has stopped waiting needs no word.
            let _ = waiter.send(words(panic.payload()));
        }
    }
    is_lances
}

/// What a panic says.
fn words(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason given").to_owned()
}

/// The process's runtime, started by the first call.
pub(crate) fn runtime() -> Result<&'static Runtime, SnapshotError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let started = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name(THREADS)
        .enable_all()
        .build()
        .map_err(|source| SnapshotError::Runtime { source })?;
    // Where two threads came here at once, the loser's runtime is dropped unused.
    Ok(RUNTIME.get_or_init(|| started))
}

/// Runs `future` to its end, or until Lance panics. Within an async task, where it has no business,
/// it fails at once.
pub(crate) fn wait<T>(
    future: impl Future<Output = Result<T, SnapshotError>>,
) -> Result<T, SnapshotError> {
    let runtime = runtime()?;
    let (tell, told) = oneshot::channel();
    {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|waiter| !waiter.is_canceled());
        waiting.push(tell);
    }
    // The word of a panic is looked for last: its thread sends it before anything that it held is
    // let go of, and so before the future can see an end that is none.
    let first = async {
        let (word, value) = match select(told, pin!(future)).await {
            Either::Left((word, _)) => (word.ok(), None),
            Either::Right((value, mut told)) => (told.try_recv().ok().flatten(), Some(value)),
        };
        match (word, value) {
            (None, Some(value)) => value,
            (word, _) => Err(SnapshotError::Panic {
                reason: word.unwrap_or_default(),
            }),
        }
    };
    let outer = WAITS.replace(true);
    // What the future held is dropped with it, and nobody sees it half done.
    let value = catch_unwind(AssertUnwindSafe(|| runtime.block_on(first)));
    WAITS.set(outer);
    value.unwrap_or_else(|panic| {
        Err(SnapshotError::Panic {
            reason: words(panic.as_ref()),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set where this program runs as the process in which Lance panics: all who wait hear of it,
    /// other tests too.
    const PANICKING: &str = "LOADERD_TEST_LANCE_PANICS";

    #[test]
    fn a_panic_is_an_error_of_who_waits() {
        if std::env::var_os(PANICKING).is_none() {
            let status = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "runtime::tests::a_panic_is_an_error_of_who_waits",
                ])
                .env(PANICKING, "1")
                .status();
            assert!(status.unwrap().success());
            return;
        }
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !is_lances_panic(panic) {
                tell(panic);
            }
        }));
        let check = |value: Result<(), SnapshotError>| {
            let error = value.unwrap_err();
            assert!(matches!(error, SnapshotError::Panic { .. }), "{error}");
            assert!(error.to_string().contains("torn page 7"), "{error}");
        };
        check(wait(async { panic!("torn page {}", 7) }));
        // The task's end alone would look like that of its values, or never come; also where both
        // come between a look for the word and one at the future.
        check(wait(async {
            let task = runtime()?.spawn(async { panic!("torn page 7") });
            while !task.is_finished() {
                std::thread::yield_now();
            }
            Ok(())
        }));
        check(wait(async {
            runtime()?.spawn_blocking(|| panic!("torn page {}", 7));
            std::future::pending().await
        }));
        wait(async { Ok(()) }).unwrap();
        assert!(std::panic::catch_unwind(|| panic!("our own")).is_err());
        let _ = std::panic::take_hook();
    }
}
