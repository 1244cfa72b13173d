//! What a unit's threads and its users share: lanes, registered memory, whether the device lives.
//!
//! Enters: pictures that are offered. Leaves: pictures that were measured and checked, in their
//! lane's queue. Never: a picture that no batch has room for, or whose descriptor a kernel must
//! not believe.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loaderd_decode::coding::Coding;
use loaderd_kernels as kernels;

use super::counts::{Counters, Counts};
use super::pace::{Load, Pace};
use super::queue::{Bounds, Held, Queue, lock};
use super::ranges::Ranges;
use super::{NotTaken, Outcome, Picture, Refusal, Returned, Stuck};
use crate::error::GpuError;
use crate::routing::Route;

/// Rows in scratch memory begin at multiples of this.
const PITCH: u32 = 64;
/// Pictures in scratch memory begin at multiples of this.
const ALIGNMENT: u64 = 256;

/// How often a device that ends is asked whether it has.
const NAP: Duration = Duration::from_millis(1);
/// Time from the first look that finds a batch too old until it counts, as a part of how old that
/// is: where all of this process stood still, its threads have had that much to catch up.
const SECOND_LOOK: u32 = 16;

pub(super) struct Lane {
    pub(super) queue: Queue,
    pub(super) counters: Arc<Counters>,
    /// What each thread waits for the device with; `None` while it does not.
    watches: Mutex<Vec<Option<Wait>>>,
    pub(super) pace: Mutex<Pace>,
}

/// A thread waits for the device.
struct Wait {
    since: Instant,
    /// By picture of its batch, where its registered memory starts.
    ranges: Vec<usize>,
    /// When it was first seen to take too long.
    suspected: Option<Instant>,
}

impl Wait {
    /// How long it has taken, where that is too long and no slip of this process's own.
    fn silence(&mut self, limit: Duration) -> Option<Duration> {
        let waited = self.since.elapsed();
        if waited <= limit {
            return None;
        }
        let suspected = self.suspected.get_or_insert_with(Instant::now);
        (suspected.elapsed() >= limit / SECOND_LOOK).then_some(waited)
    }
}

impl Lane {
    pub(super) fn new(bounds: Bounds) -> Lane {
        Lane {
            queue: Queue::new(bounds),
            counters: Arc::default(),
            watches: Mutex::default(),
            pace: Mutex::default(),
        }
    }

    /// A watch over one of its threads.
    pub(super) fn watch(&self) -> Watch<'_> {
        let mut watches = lock(&self.watches);
        watches.push(None);
        Watch {
            lane: self,
            index: watches.len() - 1,
        }
    }

    /// How long its slowest thread has waited for the device, where that is too long.
    fn silence(&self, limit: Duration) -> Option<Duration> {
        let mut watches = lock(&self.watches);
        let waits = watches.iter_mut().flatten();
        waits.filter_map(|wait| wait.silence(limit)).max()
    }

    /// How many pictures bound for the memory from `start` on are with threads that have waited
    /// too long, and how long the slowest of these has.
    fn stuck(&self, start: usize, limit: Duration) -> Option<(usize, Duration)> {
        let mut watches = lock(&self.watches);
        let stuck = watches.iter_mut().flatten().filter_map(|wait| {
            let count = wait.ranges.iter().filter(|&&range| range == start).count();
            Some((count, wait.silence(limit)?)).filter(|_| count > 0)
        });
        stuck.reduce(|(a, waited), (b, other)| (a + b, waited.max(other)))
    }

    /// Whether a picture that comes now is expected to be finished `within` that time.
    fn is_prompt(&self, within: Duration) -> bool {
        let (threads, busy) = {
            let watches = lock(&self.watches);
            (watches.len(), watches.iter().flatten().count())
        };
        let load = Load {
            waiting: self.queue.waiting(),
            batch: self.queue.bounds().batch,
            threads,
            busy,
        };
        lock(&self.pace).is_prompt(load, within, Instant::now())
    }

    /// Takes no more pictures, and gives back those that wait.
    fn close(&self, later: NotTaken, now: Refusal) {
        for held in self.queue.close(later) {
            held.done(Outcome::Refused(now));
        }
    }
}

/// Tells a lane for how long a thread has waited for the device; dropped, it waits no more.
pub(super) struct Watch<'a> {
    lane: &'a Lane,
    index: usize,
}

impl Watch<'_> {
    /// The thread waits with these.
    pub(super) fn begin(&self, held: &[Held]) {
        self.set(Some(Wait {
            since: Instant::now(),
            ranges: held.iter().filter_map(Held::range).collect(),
            suspected: None,
        }));
    }

    pub(super) fn end(&self) {
        self.set(None);
    }

    fn set(&self, wait: Option<Wait>) {
        lock(&self.lane.watches)[self.index] = wait;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// nvJPEG's decoder of a lane, for people.
pub(super) fn decoder_of(route: Route) -> &'static str {
    match route {
        Route::Engine => "JPEG engines",
        Route::Cuda => "CUDA cores",
        Route::Cpu => "CPU cores",
    }
}

fn silence(route: Route, waited: Duration) -> GpuError {
    GpuError::Silent {
        decoder: decoder_of(route),
        seconds: waited.as_secs(),
    }
}

#[derive(Default)]
pub(super) struct Shared {
    pub(super) engine: Option<Lane>,
    pub(super) cuda: Option<Lane>,
    pub(super) ranges: Arc<Ranges>,
    /// How long a batch may take.
    silence: Duration,
    failure: Mutex<Option<GpuError>>,
    /// Lanes that were given up.
    lost: Mutex<Vec<(Route, GpuError)>>,
}

impl Shared {
    pub(super) fn new(engine: Option<Lane>, cuda: Option<Lane>, silence: Duration) -> Shared {
        Shared {
            engine,
            cuda,
            silence,
            ..Shared::default()
        }
    }

    pub(super) fn lane(&self, route: Route) -> Option<&Lane> {
        match route {
            Route::Engine => self.engine.as_ref(),
            Route::Cuda => self.cuda.as_ref(),
            Route::Cpu => None,
        }
    }

    #[expect(clippy::result_large_err, reason = "a picture is moved, not kept")]
    pub(super) fn offer(&self, picture: Picture) -> Result<(), Returned> {
        self.is_silent();
        let Some(lane) = self.lane(picture.route) else {
            let reason = NotTaken::NoLane;
            return Err(Returned { picture, reason });
        };
        let held = self.hold(lane, picture)?;
        lane.queue.push(held).map_err(|(picture, reason)| {
            if reason == NotTaken::Full {
                lane.counters.full();
            }
            Returned { picture, reason }
        })
    }

    /// Measures and checks a picture.
    #[expect(clippy::result_large_err, reason = "a picture is moved, not kept")]
    fn hold(&self, lane: &Lane, picture: Picture) -> Result<Held, Returned> {
        let refuse = |picture, reason| Err(Returned { picture, reason });
        let (width, height) = picture.size;
        // nvJPEG writes as much as the header says: no less than that must be asked for.
        let coding = Coding::of((*picture.encoded).as_ref());
        let is_its_size = coding.is_some_and(|it| (it.width, it.height) == picture.size);
        if !is_its_size || width > kernels::SIDE_MAX || height > kernels::SIDE_MAX {
            return refuse(picture, NotTaken::Malformed);
        }
        let pitch = (3 * width).next_multiple_of(PITCH);
        let pixel_bytes = (u64::from(pitch) * u64::from(height)).next_multiple_of(ALIGNMENT);
        let batch = &picture.batch;
        let out_bytes =
            3 * u64::from(batch.width) * u64::from(batch.height) * batch.element.bytes();
        let Some(place) = self.ranges.take(picture.out, out_bytes) else {
            return refuse(picture, NotTaken::Malformed);
        };
        let decoded = kernels::Picture {
            pixels: 0,
            pitch,
            width,
            height,
            seed: 0,
        };
        let mut image = (picture.placed).image(decoded, picture.origin, place.device);
        let laid_out = kernels::lay_out(std::slice::from_mut(&mut image), batch);
        let reason = match laid_out {
            Err(_) => NotTaken::Malformed,
            Ok(table_bytes) if pixel_bytes + table_bytes > lane.queue.bounds().bytes => {
                NotTaken::TooLarge
            }
            Ok(table_bytes) => {
                let measures = (pitch, pixel_bytes, table_bytes);
                let whom = (&self.ranges, &lane.counters);
                return Ok(Held::new(picture, place, measures, whom));
            }
        };
        self.ranges.leave(place);
        refuse(picture, reason)
    }

    pub(super) fn room(&self, route: Route, timeout: Duration) -> bool {
        self.is_silent();
        (self.lane(route)).is_some_and(|lane| lane.queue.room(timeout))
    }

    pub(super) fn is_prompt(&self, route: Route, within: Duration) -> bool {
        (self.lane(route)).is_some_and(|lane| lane.is_prompt(within))
    }

    pub(super) fn failure(&self) -> Option<GpuError> {
        lock(&self.failure).clone()
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |lane: &Option<Lane>| {
            (lane.as_ref()).map_or_else(Default::default, |lane| lane.counters.read())
        };
        Counts {
            engine: read(&self.engine),
            cuda: read(&self.cuda),
        }
    }

    /// The device is taken for dead; the first reason counts.
    pub(super) fn die(&self, why: GpuError) {
        lock(&self.failure).get_or_insert(why);
        self.give_back(Refusal::Device);
    }

    /// No picture is taken any more, and threads end after what they have in hand.
    pub(super) fn close(&self) {
        self.give_back(Refusal::Closed);
    }

    /// Takes a device for dead that has not answered for too long. Says whether it is one.
    pub(super) fn is_silent(&self) -> bool {
        let silent = Route::ALL.into_iter().find_map(|route| {
            let waited = self.lane(route)?.silence(self.silence)?;
            Some(silence(route, waited))
        });
        let Some(silent) = silent else {
            return false;
        };
        self.die(silent);
        true
    }

    /// What a silent device has of the memory that was registered from `start` on.
    pub(super) fn stuck(&self, start: usize) -> Option<Stuck> {
        if !self.is_silent() {
            return None;
        }
        let lanes = Route::ALL.into_iter().filter_map(|route| {
            let (pictures, waited) = self.lane(route)?.stuck(start, self.silence)?;
            let why = silence(route, waited);
            Some(Stuck { pictures, why })
        });
        // The first lane's words do for both.
        lanes.reduce(|first, other| Stuck {
            pictures: first.pictures + other.pictures,
            ..first
        })
    }

    /// Waits until `is_done` says so; false where the device does not answer.
    pub(super) fn wait_for(&self, is_done: impl Fn() -> bool) -> bool {
        while !is_done() {
            if self.is_silent() {
                return false;
            }
            std::thread::sleep(NAP);
        }
        true
    }

    fn give_back(&self, why: Refusal) {
        for lane in self.lanes() {
            lane.close(NotTaken::Dead, why);
        }
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        [&self.engine, &self.cuda].into_iter().flatten()
    }

    /// A lane is of no use; without the last one, neither is the unit. The first reason counts.
    pub(super) fn give_up(&self, route: Route, why: GpuError) {
        let mut lost = lock(&self.lost);
        if lost.iter().any(|(known, _)| *known == route) {
            return;
        }
        lost.push((route, why.clone()));
        let is_last = lost.len() == self.lanes().count();
        drop(lost);
        if is_last {
            self.die(why);
        } else if let Some(lane) = self.lane(route) {
            lane.close(NotTaken::NoLane, Refusal::Decoder);
        }
    }

    pub(super) fn lost(&self) -> Vec<GpuError> {
        lock(&self.lost)
            .iter()
            .map(|(_, why)| why.clone())
            .collect()
    }
}
