//! Images on their way to the GPU, and back.
//!
//! Enters: encoded images of sessions that decode there. Leaves: pictures with the unit, cut to
//! what their crops need; or the image itself, where it is one for the CPU. What the unit can't
//! decode comes back as a task for the CPU, which alone says whether an image is bad. It never
//! waits, but for room where a job asks for the GPU in so many words.

use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use loaderd_decode as decode;
use loaderd_decode::coding::Coding;
use loaderd_decode::cut::{Cuttable, Region};
use loaderd_gpu::routing::{self, Route};
use loaderd_gpu::unit::{NotTaken, Outcome, Picture, Registered, Returned, Unit};
use loaderd_plan::Draws;
use loaderd_wire::message::{Failure, FailureKind};
use loaderd_wire::segment::Segment;

use super::worker::learn;
use super::{Encoded, NAP, Pieced, Rest, Session, Task, Work};
use crate::batch::{Place, Progress};
use crate::gpu::{self, Gpu};
use crate::job::{Job, Origin, failure};

/// How long an image waits for room, where it waits; then a CPU core decodes it. A unit that
/// works makes room all the time.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// How late an image may come from the GPU where CPU cores may decode it instead: as late as the
/// last of so many that one core decodes, one after the other. Batches are delivered in order, so a
/// slow lane that is always given what it has room for holds up all of them, and slots run out: then
/// all of it is slower than CPU cores alone. In a simulation of both lanes and up to eight cores, 32
/// gave as many images/s as the best of 16 to 64 or nearly so, and always more than no bound.
const IMAGES_LATE: u32 = 32;

/// A session's part in the GPU.
pub(super) struct OnGpu {
    gpu: Arc<Gpu>,
    /// Not ours to keep: the unit ends with the engine, and never on a thread of its own.
    unit: Weak<Unit>,
    /// Images wait for room, rather than be decoded on CPU cores.
    waits: bool,
    /// To the workers.
    back: Sender<Task>,
}

impl OnGpu {
    /// Pins a session's slots, where its job is decoded on the GPU; takes time by their size.
    /// The registration is to be dropped before they are unmapped, on none of the unit's threads:
    /// it waits until these are done with them.
    pub(super) fn of(
        job: &Job,
        segment: &Segment,
        gpu: &Arc<Gpu>,
        back: &Sender<Task>,
    ) -> Result<Option<(OnGpu, Registered)>, Failure> {
        let Some((unit, waits)) = job.decoder.unit.clone() else {
            return Ok(None);
        };
        let Some(running) = unit.upgrade() else {
            return Ok(None);
        };
        let start = NonNull::new(segment.slot_ptr(0)).expect("a segment is mapped");
        let bytes = segment.slot_bytes() as usize * segment.slot_count() as usize;
        let pinned = match running.failure() {
            // Other ranks may have the job still. A device that is silent may never answer again.
            Some(error) => Err(error),
            // SAFETY: the segment maps its slots one behind the other from the first;
            // `SessionHandle` has both, and drops the registration first.
            None => unsafe { running.register(start, bytes) },
        };
        match pinned {
            Ok(pinned) => Ok(Some((
                OnGpu {
                    gpu: gpu.clone(),
                    unit,
                    waits,
                    back: back.clone(),
                },
                pinned,
            ))),
            Err(error) if waits => Err(gpu::refusal(&gpu::in_words(&error))),
            Err(error) => {
                crate::note(format_args!(
                    "loaderd: a session decodes on CPU cores: its slots can't be pinned for the GPU: {}",
                    gpu::in_words(&error)
                ));
                Ok(None)
            }
        }
    }

    /// Whether the GPU would have an image soon enough, by what CPU cores take for one.
    fn is_prompt(&self, unit: &Unit, route: Route) -> bool {
        let on_cpu = self.gpu.on_cpu();
        on_cpu.is_none_or(|each| unit.is_prompt(route, each * IMAGES_LATE))
    }

    /// A CPU core has decoded an image of this session in that time.
    pub(super) fn decoded_on_cpu(&self, took: Duration) {
        self.gpu.decoded_on_cpu(took);
    }

    /// Why the session can't go on, where the GPU has had images of it for too long.
    pub(super) fn stuck(&self, segment: &Segment) -> Option<Failure> {
        let unit = self.unit.upgrade()?;
        let start = NonNull::new(segment.slot_ptr(0)).expect("a segment is mapped");
        let stuck = unit.stuck(start)?;
        self.gpu.look_after(&unit);
        Some(failure(
            FailureKind::Gpu,
            format!(
                "the GPU has {} of this session's images, and nothing else may use their slots: {}; load the last \
                 checkpoint's state and iterate again, which decodes on CPU cores (decode=\"auto\" or \"cpu\"); for the \
                 GPU, {}, then start the daemon anew (`loaderd stop`)",
                stuck.pictures,
                stuck.why,
                stuck.why.mend()
            ),
        ))
    }
}

/// What the unit reads, and the CPU decoder once more where the unit fails.
struct Held(Arc<Encoded>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Hands an image to the GPU, where it is one for it and there is room; else gives it back.
pub(super) fn offer(
    limits: &decode::Limits,
    session: &Arc<Session>,
    place: &Place,
    encoded: Encoded,
) -> Option<Encoded> {
    let (Some(on_gpu), Origin::Image { input, pipeline }) = (&session.on_gpu, place.origin())
    else {
        return Some(encoded);
    };
    let (Some(unit), Some(output)) = (on_gpu.unit.upgrade(), pipeline.device_batch()) else {
        return Some(encoded);
    };
    if matches!(encoded, Encoded::Kept(_)) {
        // Back from there, maybe because it has failed.
        on_gpu.gpu.look_after(&unit);
        return Some(encoded);
    }
    let route = match encoded.pieced() {
        // The best it can be: its cut shows what it is.
        Some(_) if unit.abilities().engines => Route::Engine,
        Some(_) => Route::Cuda,
        None => routing::route(encoded.bytes(), unit.abilities()).route,
    };
    if route == Route::Cpu {
        return Some(encoded);
    }
    // Before anything is done for a place that is not there, or comes too late.
    let takes = || unit.room(route, Duration::ZERO) && on_gpu.is_prompt(&unit, route);
    if !on_gpu.waits && !takes() {
        on_gpu.gpu.look_after(&unit);
        return Some(encoded);
    }
    let mut draws = place.draws(*input);
    let planned = match encoded.pieced() {
        Some(pieced) => plan_pieces(&unit, limits, pipeline, &mut draws, pieced),
        None => plan(&unit, route, limits, pipeline, &mut draws, encoded.bytes()),
    };
    let Some(planned) = planned else {
        return Some(encoded);
    };
    learn(session, place, &encoded);
    // SAFETY: the slot is FILLING, and this place was given to this task alone, which leaves
    // it to the unit until `done`.
    let out = NonNull::from(unsafe { place.bytes() }).cast();
    let kept = Arc::new(encoded);
    let geometry = planned.placed.geometry();
    let done = {
        let (session, place, kept) = (session.clone(), place.clone(), kept.clone());
        let since = session.timings.as_ref().map(|_| Instant::now());
        move |outcome| match outcome {
            Outcome::Finished => {
                drop(kept);
                if let (Some(timings), Some(since)) = (&session.timings, since) {
                    timings.gpu.record(since.elapsed().as_nanos() as u64);
                }
                finished(session, place, geometry);
            }
            Outcome::Refused(_) => {
                let image = (place, Encoded::Kept(kept));
                back(session, Work::Decode(vec![image]));
            }
        }
    };
    let mut picture = Picture {
        encoded: match planned.cut {
            Some(cut) => Box::new(cut),
            None => Box::new(Held(kept.clone())),
        },
        route: planned.route,
        size: planned.size,
        placed: planned.placed,
        origin: planned.origin,
        batch: output,
        out,
        done: Box::new(done),
    };
    let since = Instant::now();
    while let Err(Returned {
        picture: again,
        reason,
    }) = unit.offer(picture)
    {
        let waits = on_gpu.waits && reason == NotTaken::Full && session.is_current(&place.batch);
        if !waits || since.elapsed() > ROOM_WAIT {
            drop(again);
            on_gpu.gpu.look_after(&unit);
            return Some(Arc::try_unwrap(kept).unwrap_or_else(Encoded::Kept));
        }
        unit.room(again.route, NAP);
        picture = again;
    }
    None
}

/// What the unit is to be told of an image.
struct Planned {
    /// The part of a tiled JPEG that the crop needs, where that is less than all of it.
    cut: Option<Vec<u8>>,
    route: Route,
    /// Of what is handed over.
    size: (u32, u32),
    /// Where in the image it begins.
    origin: (u32, u32),
    placed: decode::Placed,
}

/// None where the CPU's decoder is the one for it, be it only to say what is wrong.
fn plan(
    unit: &Unit,
    route: Route,
    limits: &decode::Limits,
    pipeline: &decode::Pipeline,
    draws: &mut Draws,
    encoded: &[u8],
) -> Option<Planned> {
    let header = decode::probe(encoded).ok()?;
    let placed = decode::Placed::draw(pipeline, &header, limits, draws).ok()?;
    let region = placed.region()?;
    let size = (header.width, header.height);
    // Two readings of one header: where they differ, nothing about it is sure.
    let coding = Coding::of(encoded)?;
    if (coding.width, coding.height) != size {
        return None;
    }
    let whole = Planned {
        cut: None,
        route,
        size,
        origin: (0, 0),
        placed,
    };
    Some(cut_out(unit, &whole, encoded, &region).unwrap_or(whole))
}

/// The same of a tiled JPEG of which only the crop's parts were read.
fn plan_pieces(
    unit: &Unit,
    limits: &decode::Limits,
    pipeline: &decode::Pipeline,
    draws: &mut Draws,
    pieced: &Pieced,
) -> Option<Planned> {
    let header = pieced.pieces.header();
    let placed = decode::Placed::draw(pipeline, &header, limits, draws).ok()?;
    let region = placed.region()?;
    let mut cut = Vec::with_capacity(pieced.body.len());
    let window = pieced.pieces.cut(&region, 8, pieced.parts(), &mut cut)?;
    let route = routing::route(&cut, unit.abilities()).route;
    (route != Route::Cpu).then(|| Planned {
        cut: Some(cut),
        route,
        size: (window.width, window.height),
        origin: (
            region.left - window.region.left,
            region.top - window.region.top,
        ),
        placed,
    })
}

/// The same of the part of a tiled JPEG that shows the region. None where it can't be cut, or a
/// tenth of its pixels would not be saved.
fn cut_out(unit: &Unit, whole: &Planned, encoded: &[u8], region: &Region) -> Option<Planned> {
    let cuttable = Cuttable::of(encoded).filter(|cuttable| cuttable.size() == whole.size)?;
    let window = cuttable.window(region, 8);
    let size = (window.width, window.height);
    let pixels = |(width, height)| u64::from(width) * u64::from(height);
    if pixels(size) * 10 > pixels(whole.size) * 9 {
        return None;
    }
    let mut cut = Vec::with_capacity(encoded.len());
    cuttable.cut(&window, &mut cut)?;
    // It may be too small for the engines.
    let route = routing::route(&cut, unit.abilities()).route;
    (route != Route::Cpu).then(|| Planned {
        cut: Some(cut),
        route,
        size,
        origin: (
            region.left - window.region.left,
            region.top - window.region.top,
        ),
        placed: whole.placed,
    })
}

/// Follows up on an image whose pixels are in its slot. On a thread of the unit's, which must
/// not wait: what may take time is left to the workers.
fn finished(session: Arc<Session>, place: Place, geometry: decode::Geometry) {
    let rest = match place.placed(geometry) {
        Some((mask, cause)) => Rest::Misfit(mask, cause),
        None => match place.batch.image_done(place.row, false) {
            Progress::Open => return,
            progress => Rest::Progress(progress),
        },
    };
    back(session, Work::Finish(place, rest));
}

/// Leaves work of a session on the GPU to the workers, ahead of all other.
fn back(session: Arc<Session>, work: Work) {
    let on_gpu = session.on_gpu.as_ref().expect("it was on the GPU");
    let workers = on_gpu.back.clone();
    // They outlive the unit, and take all that comes back.
    let _ = workers.send(Task { session, work });
}
