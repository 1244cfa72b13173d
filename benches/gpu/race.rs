//! The same step on some threads at once, for some time.
//!
//! Enters: how to get ready, a step, how to end. Leaves: what the steps cost, and how they were
//! spread in time. Getting ready and a warm-up don't count. Never: a thread that outlives an
//! error of another.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use loaderd_measure::meter::{Meter, Sample};
use serde_json::{Value, json};

/// What a race took.
pub(crate) struct Raced<R> {
    pub(crate) sample: Sample,
    /// Steps in the order in which they ended, in milliseconds: how long each took.
    pub(crate) step_ms: Vec<f64>,
    /// What each thread's end said.
    pub(crate) ends: Vec<R>,
}

/// Runs `step` on `threads` threads for `seconds`, after a fifth of that. A step says how many
/// images it did, and of how many bytes.
///
/// # Errors
/// The first of any thread's.
pub(crate) fn race<S, R: Send>(
    threads: usize,
    seconds: Duration,
    ready: impl Fn(usize) -> Result<S> + Sync,
    step: impl Fn(&mut S) -> Result<(u64, u64)> + Sync,
    end: impl Fn(S) -> Result<R> + Sync,
) -> Result<Raced<R>> {
    let (waiting, images, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (is_over, counts) = (AtomicBool::new(false), AtomicBool::new(false));
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let run = |number: usize| -> Result<(Vec<f64>, R)> {
        let mut state = ready(number)?;
        // Nothing is published by these: they are looked at, and the join orders the rest.
        waiting.fetch_add(1, Ordering::Relaxed);
        let mut step_ms = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let (done, of_bytes) = step(&mut state)?;
            if counts.load(Ordering::Relaxed) {
                images.fetch_add(done, Ordering::Relaxed);
                bytes.fetch_add(of_bytes, Ordering::Relaxed);
                step_ms.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        Ok((step_ms, end(state)?))
    };
    let guarded = |number| match run(number) {
        Ok(found) => Some(found),
        Err(error) => {
            is_over.store(true, Ordering::Relaxed);
            failure
                .lock()
                .expect("no thread panics")
                .get_or_insert(error);
            None
        }
    };
    let guarded = &guarded;
    let nap = |until: &dyn Fn() -> bool| {
        while !until() && !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let (sample, found) = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| scope.spawn(move || guarded(number)))
            .collect();
        nap(&|| waiting.load(Ordering::Relaxed) == threads);
        let warm = Instant::now();
        nap(&|| warm.elapsed() > seconds / 5);
        let meter = Meter::start();
        counts.store(true, Ordering::Relaxed);
        let began = Instant::now();
        nap(&|| began.elapsed() > seconds);
        counts.store(false, Ordering::Relaxed);
        let sample = meter.stop(
            images.load(Ordering::Relaxed),
            bytes.load(Ordering::Relaxed),
        );
        is_over.store(true, Ordering::Relaxed);
        let joined = running
            .into_iter()
            .map(|thread| thread.join().expect("a step panicked"));
        (sample, joined.collect::<Vec<_>>())
    });
    if let Some(error) = failure.into_inner().expect("no thread panics") {
        return Err(error);
    }
    let (steps, ends): (Vec<_>, Vec<_>) = found.into_iter().flatten().unzip();
    Ok(Raced {
        sample,
        step_ms: steps.concat(),
        ends,
    })
}

/// The rates of a race.
pub(crate) fn rates(sample: &Sample, step_ms: &[f64]) -> Value {
    let mut sorted = step_ms.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().max(1) - 1))
    };
    json!({
        "images": sample.rows,
        "images_per_s": sample.rows_per_s(),
        "mb_per_s": sample.mb_per_s(),
        "cpu_us_per_image": sample.cpu_us_per_row(),
        "step_ms_median": at(0.5),
        "step_ms_p99": at(0.99),
        "cores_elsewhere": sample.cores_elsewhere,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEF: Duration = Duration::from_millis(40);

    #[test]
    fn steps_are_counted_once_ready_and_warm() {
        let step = |state: &mut u64| {
            *state += 1;
            std::thread::sleep(Duration::from_millis(1));
            Ok((3, 100))
        };
        let raced = race(2, BRIEF, |_| Ok(0), step, Ok).unwrap();
        let counted = raced.step_ms.len() as u64;
        assert!(counted > 0 && raced.ends.iter().sum::<u64>() > counted);
        // One a thread may end between the last count and the meter's stop.
        assert!(raced.sample.rows.abs_diff(3 * counted) <= 6);
        let rates = rates(&raced.sample, &raced.step_ms);
        assert!(rates["step_ms_median"].as_f64().unwrap() >= 1.0);
    }

    #[test]
    fn an_error_ends_all_threads() {
        let ready = |number: usize| match number {
            1 => Err(anyhow::anyhow!("thread 1 has no memory")),
            _ => Ok(()),
        };
        let raced = race(2, Duration::from_secs(60), ready, |()| Ok((1, 1)), Ok);
        assert_eq!(raced.err().unwrap().to_string(), "thread 1 has no memory");
    }
}
