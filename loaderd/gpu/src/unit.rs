//! Pictures to decode on a GPU → finished images in registered host memory.
//!
//! Enters: JPEGs whose way is known ([`routing`](crate::routing)), where their pixels go
//! ([`Placed`]), an address in memory that was registered. Leaves: the finished image there, or a
//! word that it is not, through the picture's own `done`: called once for each picture taken,
//! whatever happens. Never: a picture that fails another one, a picture lost, a word about
//! whether a sample is good, which is the CPU decoder's to say.
//!
//! **Lanes.** There is one for the GPU's JPEG engines and one for CUDA cores, each with a bounded
//! queue and a few threads. A thread has memory of its own on the device, takes a batch from the
//! queue, and goes through it alone: poison, wait, decode, count the poison and finish, wait,
//! `done`. Two or more of them keep the engines busy while others prepare and finish.
//!
//! **Share.** A full queue gives pictures back, and so the load is shared by rate. What a lane takes
//! is late by as much as it has to do: where somebody else can finish a picture sooner, ask
//! [`Unit::is_prompt`] first.
//!
//! **Order.** The engines of an H100 begin before work that was queued earlier on their stream is
//! done. So the host waits until the poison lies in scratch memory before it lets them decode,
//! and until all that reads a batch's memory is done before that memory takes the next.
//!
//! **Memory.** All is allocated at the start, [`Settings::memory`] bytes of the device's at most.
//! The driver's context and nvJPEG's own buffers come on top of that.
//!
//! **Death.** An error of the driver's is taken for the device's end: all pictures are given back,
//! those that come later too, and [`Unit::failure`] says why. So it is where a batch has no end
//! within [`Settings::silence`]; but the pictures of that batch stay where they are, because the
//! device may yet write to their places, and are told when it answers, if ever. Nobody is told
//! unasked: whoever waits for pictures asks now and then ([`Unit::stuck`]).

mod batch;
mod counts;
mod engine;
mod hybrid;
mod kernels;
mod lane;
mod pace;
mod queue;
mod ranges;
mod scratch;
mod start;

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use loaderd_decode::Placed;

use crate::error::GpuError;
use crate::nvjpeg::Engines;
use crate::routing::{Abilities, Route};
use crate::{Places, Version, cuda};

pub use counts::{Counts, LaneCounts};
pub use loaderd_kernels::{Batch, Element, Order};
pub use ranges::Registered;

/// How a unit is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which device, as `CUDA_VISIBLE_DEVICES` numbers them.
    pub device: u32,
    /// Most bytes of the device's memory for pictures and what belongs to them.
    pub memory: u64,
    /// Most pictures of a batch for the engines; `None`: four for each of their cores.
    pub engine_batch: Option<u32>,
    /// Batches that the engines' lane works on at a time: its threads.
    pub engine_batches: u32,
    /// Most pictures of a batch for CUDA cores.
    pub cuda_batch: u32,
    /// Batches that the CUDA lane works on at a time: its threads.
    pub cuda_batches: u32,
    /// Batches that may wait in each lane's queue. What is queued waits for those before it, so a
    /// larger number makes the slowest batch slower.
    pub queued_batches: u32,
    /// How long a picture may wait for others to share its batch with.
    pub linger: Duration,
    /// Whether progressive files go to CUDA cores.
    pub progressive: bool,
    /// How long a batch may take until the device is taken for one that never answers, which it is
    /// at the second look. A batch takes milliseconds; what is waited for is a driver that recovers
    /// from an error, or a machine that is moved to another host, which takes many seconds.
    pub silence: Duration,
}

impl Default for Settings {
    /// Careful ones, which no GPU has been asked about yet.
    fn default() -> Settings {
        Settings {
            device: 0,
            memory: 1 << 30,
            engine_batch: None,
            engine_batches: 4,
            cuda_batch: 8,
            cuda_batches: 2,
            queued_batches: 2,
            linger: Duration::from_micros(500),
            progressive: false,
            silence: Duration::from_secs(60),
        }
    }
}

/// A picture to decode and finish. Owned by the unit from [`Unit::offer`] until `done` is called.
pub struct Picture {
    /// The JPEG, maybe [cut](loaderd_decode::cut). Dropped before `done` is called.
    pub encoded: Box<dyn AsRef<[u8]> + Send>,
    /// [`Route::Engine`] or [`Route::Cuda`], as [`route`](crate::routing::route) has it for
    /// `encoded` (a cut picture may be too small for the engines) and [`Unit::abilities`].
    pub route: Route,
    /// Columns and rows of what `encoded` has.
    pub size: (u32, u32),
    /// Where its pixels go.
    pub placed: Placed,
    /// The stored image's column and row at the first pixel of `encoded`: (0, 0) unless it was
    /// cut. See [`Placed::image`].
    pub origin: (u32, u32),
    /// What its batch shares ([`Pipeline::device_batch`](loaderd_decode::Pipeline::device_batch)).
    pub batch: Batch,
    /// Where the finished image begins, in memory that is [`Registered`], at a multiple of its
    /// elements' size. Nobody else may touch its
    /// bytes until `done` is called.
    pub out: NonNull<u8>,
    /// Called once, on one of the unit's threads or by whoever drops the unit. It must not block.
    pub done: Box<dyn FnOnce(Outcome) + Send>,
}

// SAFETY: `out` is an address that only the device follows; what it points to is nobody else's
// until `done` is called. The rest is `Send`.
unsafe impl Send for Picture {}

/// What became of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The finished image lies at `out`, for every reader of that memory.
    Finished,
    /// It does not: what lies at `out` is of no use. The GPU will not touch it any more.
    Refused(Refusal),
}

/// Why a picture was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// nvJPEG did not take it, or failed at it.
    Decoder,
    /// nvJPEG reported a success, and left some of it out.
    Skipped,
    /// The device is dead; see [`Unit::failure`].
    Device,
    /// The unit was dropped before its turn came.
    Closed,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 4] = [
        Refusal::Decoder,
        Refusal::Skipped,
        Refusal::Device,
        Refusal::Closed,
    ];

    /// A few words for people.
    pub fn words(self) -> &'static str {
        match self {
            Refusal::Decoder => "refused by nvJPEG",
            Refusal::Skipped => "left out by nvJPEG",
            Refusal::Device => "device failed",
            Refusal::Closed => "unit closed",
        }
    }
}

/// A picture that was not taken, and why. Its `done` was not called.
pub struct Returned {
    /// As it was offered.
    pub picture: Picture,
    /// Why.
    pub reason: NotTaken,
}

/// Why a picture is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// Its lane's queue is full. Later there may be [room](Unit::room).
    Full,
    /// It takes more memory than a batch has, and always will.
    TooLarge,
    /// Its lane is not there: the route is none of this unit's, or it was given up
    /// ([`Unit::lost`]).
    NoLane,
    /// The device is dead.
    Dead,
    /// It contradicts itself: `size` is not the header's, the crop does not lie in it, `out` is not
    /// in registered memory.
    Malformed,
}

/// Pictures that a device has which does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// How many. The device may yet write to their places.
    pub pictures: usize,
    /// [`GpuError::Silent`]: whose they are, and for how long.
    pub why: GpuError,
}

/// What a unit was started with, for people and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The device.
    pub device: cuda::Device,
    /// What its driver offers.
    pub driver: Version,
    /// nvJPEG's file, or the name that the loader found it by.
    pub nvjpeg: String,
    /// nvJPEG's version: major, minor, patch.
    pub nvjpeg_version: [u32; 3],
    /// Whether nvJPEG interpolates subsampled chroma, as libjpeg does.
    pub interpolates: bool,
    /// The architecture that the kernels were compiled for.
    pub kernels: &'static str,
    /// The JPEG engines; `None`: why they are not used is in `notes`.
    pub engines: Option<Engines>,
    /// Whether there is a lane for CUDA cores.
    pub cuda: bool,
    /// Bytes of the device's memory that the unit has allocated.
    pub memory_bytes: u64,
    /// Most bytes of a decoded picture, with its weights.
    pub picture_bytes: u64,
    /// What is not as good as it might be, in words.
    pub notes: Vec<String>,
}

/// A GPU that decodes: its threads live as long as this.
///
/// Dropped, it finishes what was begun, gives back what is queued, and waits for its threads, but
/// for no thread longer than [`Settings::silence`]: one that the device does not answer is left to
/// it, with its pictures and their `done`.
pub struct Unit {
    shared: Arc<lane::Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
    report: Report,
    abilities: Abilities,
    context: cuda::Context,
}

impl Unit {
    /// Opens the driver and nvJPEG, loads the kernels, allocates all memory and starts the
    /// threads. Blocks, up to some seconds.
    ///
    /// Fails where there is no usable device, where neither of nvJPEG's decoders can be used, and
    /// where `settings` leave too little memory.
    pub fn start(places: &Places, settings: &Settings) -> Result<Unit, GpuError> {
        start::start(places, settings)
    }

    /// What was found and chosen.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What [`route`](crate::routing::route) has to know to choose for this unit.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Registers host memory that pictures are finished in: pages are pinned, which takes time by
    /// their number.
    ///
    /// # Safety
    ///
    /// `[start, start + bytes)` is mapped, readable and writable, and stays so until the answer
    /// has been dropped, and as long as the `done` of any picture that goes there is neither called
    /// nor dropped: it is kept for ever where the device never answers, and had best own the memory.
    pub unsafe fn register(
        &self,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<Registered, GpuError> {
        // SAFETY: the caller says that the range is mapped, and stays so.
        let pinned = unsafe { self.context.register(start, bytes) }?;
        Registered::new(&self.shared, pinned, start, bytes)
    }

    /// Hands a picture over, or gives it back. Never blocks, save for a short lock.
    #[expect(clippy::result_large_err, reason = "a picture is moved, not kept")]
    pub fn offer(&self, picture: Picture) -> Result<(), Returned> {
        self.shared.offer(picture)
    }

    /// Waits until the lane of `route` has room for a picture, at most `timeout`. Says whether it
    /// has: another thread may be faster. A dead unit has none, and says so at once.
    pub fn room(&self, route: Route, timeout: Duration) -> bool {
        self.shared.room(route, timeout)
    }

    /// Whether a picture that the lane of `route` is given now is expected to be finished `within`
    /// that time, by how long its batches took of late and what it has to do. True where nothing is
    /// known of it, and now and then where a lane has nothing to do that was too slow: somebody has
    /// to see whether it still is. False where there is no such lane.
    pub fn is_prompt(&self, route: Route, within: Duration) -> bool {
        self.shared.is_prompt(route, within)
    }

    /// Pictures bound for the memory that was registered from `start` on, and that a device has
    /// which has not answered for [`Settings::silence`]: whoever waits for them may wait for ever.
    /// `None` where there are none, or it has answered by now. To be asked again and again: the
    /// first look that finds a batch too old only marks it.
    pub fn stuck(&self, start: NonNull<u8>) -> Option<Stuck> {
        self.shared.stuck(start.as_ptr() as usize)
    }

    /// Why the device is dead; `None` while it lives.
    pub fn failure(&self) -> Option<GpuError> {
        self.shared.failure()
    }

    /// Why lanes were given up, one after the other: their decoder has refused all that it was
    /// given for a long time. The last one is also the unit's [`failure`](Self::failure).
    pub fn lost(&self) -> Vec<GpuError> {
        self.shared.lost()
    }

    /// What was done since the start.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.shared.close();
        let own = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last owner may be a picture's `done`: that thread ends by itself.
            if thread.thread().id() != own && self.shared.wait_for(|| thread.is_finished()) {
                // A thread that panicked has given its pictures back; its words are on stderr.
                let _ = thread.join();
            }
        }
    }
}
