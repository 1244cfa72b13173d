//! loaderd's decode unit by itself: photos in memory → finished float16 images in shared memory.
//!
//! Enters: photos, untiled or tiled. Leaves: images/s, host CPU time an image (headers, draws and
//! cuts included, reading not), gaps between batches, and what each lane did. Never: the daemon,
//! a CPU decoder.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use loaderd_decode::Pipeline;
use loaderd_gpu::Places;
use loaderd_gpu::unit::{LaneCounts, NotTaken, Outcome, Refusal, Returned, Settings};
use serde_json::{Value, json};

use crate::feed::{Ground, Planned, pipeline};
use crate::photos::Photos;
use crate::race::{race, rates};

/// Images of what gaps are measured between.
const BATCH: u64 = 256;
/// How long to wait for room before the unit counts as stuck.
const ROOM_WAIT: Duration = Duration::from_secs(20);

/// How it is fed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feeding {
    /// Threads that read headers, draw and cut.
    pub(crate) feeders: usize,
    /// Finished images that there is room for.
    pub(crate) in_flight: u32,
}

/// Measures the unit.
///
/// # Errors
/// Where there is no GPU for it, it is stuck, or its device dies.
pub(crate) fn measure(
    libraries: &Places,
    photos: &Photos,
    settings: &Settings,
    feeding: Feeding,
    seconds: Duration,
) -> Result<Value> {
    let Feeding { feeders, in_flight } = feeding;
    let each = in_flight / feeders as u32;
    ensure!(each > 0, "each feeder needs room for an image");
    let pipeline = pipeline(true)?;
    let places = Ground::new(libraries, settings, pipeline.output().bytes(), in_flight)?;
    let jpegs: Vec<Arc<[u8]>> = (photos.files.iter())
        .map(|it| it.jpeg.as_slice().into())
        .collect();
    let clock = Arc::new(Clock::default());
    let raced = race(
        feeders,
        seconds,
        |number| Ok(Feeder::new(number as u32, each, &clock)),
        |feeder| feeder.step(&places, &pipeline, &jpegs),
        Feeder::wait,
    )?;
    let counts = places.unit.counts();
    let mut answer = rates(&raced.sample, &[]);
    let gaps = clock.gaps_ms();
    let at = |share: f64| gaps.get((gaps.len() as f64 * share) as usize);
    answer["gap_ms_median"] = json!(at(0.5));
    answer["gap_ms_p99"] = json!(at(0.99));
    answer["feeders"] = json!(feeders);
    answer["refused"] = json!(raced.ends.iter().sum::<u64>());
    answer["for_cpu"] = json!(clock.for_cpu.load(Ordering::Relaxed));
    answer["lanes"] = json!({"engine": lane(&counts.engine), "cuda": lane(&counts.cuda)});
    answer["report"] = json!(report(&places));
    Ok(answer)
}

/// What a unit was started with.
pub(crate) fn report(places: &Ground) -> Value {
    let report = places.unit.report();
    json!({
        "device": report.device.name,
        "kernels": report.kernels,
        "interpolates": report.interpolates,
        "engines": report.engines.map(|engines| (engines.count, engines.cores_each)),
        "cuda": report.cuda,
        "memory_bytes": report.memory_bytes,
        "picture_bytes": report.picture_bytes,
        "notes": report.notes,
    })
}

/// A lane's counts; times are of a batch.
pub(crate) fn lane(counts: &LaneCounts) -> Value {
    let each = |sum_ns: u64| sum_ns as f64 / 1e6 / counts.batches.max(1) as f64;
    let refused: Vec<(&str, u64)> = (Refusal::ALL.iter().map(|why| why.words()))
        .zip(counts.refused)
        .filter(|(_, count)| *count > 0)
        .collect();
    json!({
        "finished": counts.finished,
        "refused": refused,
        "batches": counts.batches,
        "given_back_full": counts.full,
        "decode_ms": each(counts.decode_ns),
        "finish_ms": each(counts.finish_ns),
    })
}

/// When images were finished.
#[derive(Default)]
struct Clock {
    finished: AtomicU64,
    for_cpu: AtomicU64,
    batches: Mutex<Vec<Instant>>,
}

impl Clock {
    fn tick(&self) {
        // A number alone: which thread has the last of a batch does not matter.
        if (self.finished.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(BATCH) {
            self.batches
                .lock()
                .expect("nobody panics here")
                .push(Instant::now());
        }
    }

    /// Between batches, the shortest first, without the first fifth.
    fn gaps_ms(&self) -> Vec<f64> {
        let batches = self.batches.lock().expect("nobody panics here");
        let ends = &batches[batches.len() / 5..];
        let mut gaps: Vec<f64> = (ends.windows(2))
            .map(|pair| pair[1].duration_since(pair[0]).as_secs_f64() * 1e3)
            .collect();
        gaps.sort_unstable_by(f64::total_cmp);
        gaps
    }
}

/// A thread that hands pictures to the unit, with places of its own.
struct Feeder {
    clock: Arc<Clock>,
    /// Places that are free, with what became of the picture there.
    free: Receiver<(u32, Option<Outcome>)>,
    back: Sender<(u32, Option<Outcome>)>,
    on_their_way: u32,
    refused: u64,
    position: u64,
}

impl Feeder {
    fn new(number: u32, places: u32, clock: &Arc<Clock>) -> Feeder {
        let (back, free) = channel();
        for place in number * places..(number + 1) * places {
            back.send((place, None)).expect("the receiver is here");
        }
        Feeder {
            clock: clock.clone(),
            free,
            back,
            on_their_way: 0,
            refused: 0,
            position: u64::from(number) << 32,
        }
    }

    /// Takes a place back and sends the next picture there.
    fn step(
        &mut self,
        places: &Ground,
        pipeline: &Pipeline,
        jpegs: &[Arc<[u8]>],
    ) -> Result<(u64, u64)> {
        let (place, finished) = self.take()?;
        let jpeg = &jpegs[(self.position % jpegs.len() as u64) as usize];
        let planned = Planned::of(jpeg, pipeline, places.unit.abilities(), self.position)?;
        self.position += 1;
        let Some(planned) = planned else {
            self.clock.for_cpu.fetch_add(1, Ordering::Relaxed);
            self.back.send((place, None)).expect("the receiver is here");
            return Ok((finished, 0));
        };
        let route = planned.route;
        let (back, clock) = (self.back.clone(), self.clock.clone());
        let done = Box::new(move |outcome| {
            clock.tick();
            // The feeder may have left.
            let _ = back.send((place, Some(outcome)));
        });
        let mut picture = planned.at(pipeline, places.out(place), done)?;
        let since = Instant::now();
        while let Err(Returned {
            picture: again,
            reason,
        }) = places.unit.offer(picture)
        {
            if reason != NotTaken::Full {
                let why = places
                    .unit
                    .failure()
                    .map_or(String::new(), |why| format!(": {why}"));
                return Err(anyhow!("a photo is not taken: {reason:?}{why}"));
            }
            ensure!(
                since.elapsed() < ROOM_WAIT,
                "no room for {ROOM_WAIT:?}: the unit is stuck"
            );
            places.unit.room(route, Duration::from_millis(50));
            picture = again;
        }
        self.on_their_way += 1;
        Ok((finished, finished * jpeg.len() as u64))
    }

    /// A free place, and 1 where the picture before it was finished.
    fn take(&mut self) -> Result<(u32, u64)> {
        let (place, outcome) = (self.free.recv_timeout(ROOM_WAIT)).with_context(|| {
            format!("no picture came back for {ROOM_WAIT:?}: the unit is stuck")
        })?;
        self.on_their_way -= u32::from(outcome.is_some());
        self.refused += u64::from(matches!(outcome, Some(Outcome::Refused(_))));
        Ok((place, u64::from(outcome == Some(Outcome::Finished))))
    }

    /// Waits for what is on its way; says how many pictures were refused.
    fn wait(mut self) -> Result<u64> {
        while self.on_their_way > 0 {
            self.take()?;
        }
        Ok(self.refused)
    }
}
