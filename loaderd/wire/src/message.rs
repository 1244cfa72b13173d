//! The messages of a session, as JSON.
//!
//! A session is one connection, and one rank of one job. The client says `Hello`, then
//! `Open`; the daemon answers `Welcome`, then `Opened` with the segment's descriptor, after
//! `Waiting` where that takes long.
//! `Start` begins a stream of batches; from then on the daemon pushes `Ready` for every
//! filled slot, and the client answers `Delivered` when the user gets the batch and
//! `Release` when the last tensor of it dies. When the connection ends, every slot of
//! the session is free again.
//!
//! Slot states live in the daemon only: `FREE → FILLING → READY → LEASED → FREE`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::layout::Layout;
use crate::ragged::RaggedPart;

/// Version of this contract. Both sides must have the same.
pub const PROTOCOL: u32 = 6;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToDaemon {
    /// First message of every connection.
    Hello {
        /// [`PROTOCOL`] of the client.
        protocol: u32,
        /// Version of the client's package.
        version: String,
        /// Where the client's code lies, for the message about a mismatch.
        binary: String,
    },
    /// Opens a job as one rank. Once per connection.
    Open(Box<OpenRequest>),
    /// Begins a stream of batches at a step of an epoch, and ends the stream before it:
    /// batches of an older stream may still arrive and are to be released unseen.
    Start {
        /// Chosen by the client, larger than any before in this session.
        stream: u64,
        /// Epoch, from 0.
        epoch: u64,
        /// First step within the epoch; the step count of an epoch means "at its end".
        step: u64,
    },
    /// `next()` has handed the batch to the user.
    Delivered {
        /// Of the `Ready` message.
        lease: u64,
    },
    /// The last tensor of the batch is gone; the slot may be filled again.
    Release {
        /// Of the `Ready` message.
        lease: u64,
    },
    /// Asks for [`DaemonStatus`].
    Status,
    /// Asks the daemon to end its sessions and leave.
    Stop,
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToClient {
    /// Answer to `Hello`.
    Welcome {
        /// [`PROTOCOL`] of the daemon.
        protocol: u32,
        /// Version of the daemon.
        version: String,
        /// The daemon's executable.
        binary: String,
        /// The daemon's process.
        pid: u32,
    },
    /// The answer to `Open` takes its time; any number of these may come before it.
    Waiting {
        /// What is being done, how far it is, and what would make it shorter.
        message: String,
    },
    /// Answer to `Open`; the segment's memfd rides along.
    Opened(Box<Opened>),
    /// A slot holds a finished batch, which now belongs to the client until it sends
    /// `Release` with this lease. Where its ragged columns don't fit into the slot, a
    /// memfd with all of them rides along.
    Ready(Ready),
    /// The stream has sent all steps of its epoch.
    EndOfEpoch {
        /// The stream that ends.
        stream: u64,
        /// Its epoch.
        epoch: u64,
    },
    /// Something failed. With `stream`, that stream has ended and the session lives on;
    /// without, the daemon closes the connection after this message.
    Failed(Failure),
    /// Answer to `Status`.
    Status(Box<DaemonStatus>),
}

/// Which version of the dataset to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Version {
    /// A version number.
    Number(u64),
    /// A tag's name.
    Tag(String),
}

/// Holds the version against clean-up. See ARCHITECTURE.md, "Protection".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protect {
    /// While the run lasts.
    #[default]
    Run,
    /// Until `loaderd tags prune`.
    Keep,
    /// Not at all.
    None,
}

/// What becomes of a row whose image can't be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadSample {
    /// The stream fails with row address, file, offset and cause.
    #[default]
    Raise,
    /// Another row takes its place: a pure function of seed, epoch, position and attempt.
    Replace,
    /// The image is zeros, or empty in its own size; `_valid` is false, and the row's other
    /// columns keep their values.
    Zero,
}

/// What becomes of a batch whose step record can't be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLogError {
    /// Publishing waits a bounded time, then the stream fails.
    #[default]
    Stop,
    /// Publishing goes on without a record; how many are missing is recorded later. A step that
    /// was recorded before with other rows fails its stream all the same.
    Continue,
}

/// Where images are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decode {
    /// On the daemon's GPU where it has one that can, and on CPU cores what is not for it or
    /// has no room there; else on CPU cores.
    #[default]
    Auto,
    /// On CPU cores.
    Cpu,
    /// On the GPU, but for what it does not take; refused where there is none.
    Gpu,
}

/// A job, as one rank of it asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// Dataset: a path, a `file://` URI, or `memory:` (see the daemon's `source` module).
    pub uri: String,
    /// None: the latest version.
    #[serde(default)]
    pub version: Option<Version>,
    /// SQL over any columns.
    #[serde(default)]
    pub filter: Option<String>,
    /// Columns to deliver, in order. `_rowid`, `_rowaddr` and `_valid` may be among them,
    /// and `name._valid`: false where `name` is null.
    pub columns: Vec<String>,
    /// Transforms by image column: arrays of objects with a `name`.
    #[serde(default)]
    pub transform: BTreeMap<String, Value>,
    /// Rows per rank and step.
    pub batch_size: u32,
    /// Shuffle each epoch anew; else dataset order.
    #[serde(default)]
    pub shuffle: bool,
    /// Seed of order and augmentation.
    #[serde(default)]
    pub seed: u64,
    /// Leave out the last, short global batch.
    #[serde(default)]
    pub drop_last: bool,
    /// This rank, below `world_size`.
    pub rank: u32,
    /// Ranks of the job, on all nodes.
    pub world_size: u32,
    /// Ranks on this node, where the launcher says so.
    #[serde(default)]
    pub local_world_size: Option<u32>,
    /// Run id; None: a fresh one.
    #[serde(default)]
    pub run: Option<String>,
    /// See [`Protect`].
    #[serde(default)]
    pub protect: Protect,
    /// See [`OnBadSample`].
    #[serde(default)]
    pub on_bad_sample: OnBadSample,
    /// See [`OnLogError`].
    #[serde(default)]
    pub on_log_error: OnLogError,
    /// Scaled inverse DCT down to 1 × the target size instead of 1.5 ×: faster, less exact.
    #[serde(default)]
    pub fast_dct: bool,
    /// Turn images upright as their EXIF block says, before any transform sees them.
    #[serde(default = "yes")]
    pub exif_orientation: bool,
    /// Read the tiled form of image columns, row by row, where the dataset has one.
    #[serde(default = "yes")]
    pub use_tiled: bool,
    /// See [`Decode`].
    #[serde(default)]
    pub decode: Decode,
    /// Slots of this rank; None: the daemon's default.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Room for ragged columns in each slot, in bytes; None: the daemon's estimate.
    #[serde(default)]
    pub variable_bytes: Option<u64>,
    /// A cursor from `state_dict`: the job goes on as a new attempt of its run.
    #[serde(default)]
    pub resume: Option<Value>,
    /// Accept a cursor of another dataset version, filter, columns or transform.
    #[serde(default)]
    pub allow_changed: bool,
}

/// A default, in the form that serde asks for.
fn yes() -> bool {
    true
}

/// The answer to [`OpenRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Run id, given or made.
    pub run: String,
    /// 0, and one more for each `load_state_dict` into the same run, and for each change of
    /// its decoder, of the dataset's place, or of the rows that are read tiled.
    pub attempt: u32,
    /// What decodes its images, with versions.
    pub decoder: String,
    /// Dataset URI as resolved.
    pub uri: String,
    /// Dataset version that is read.
    pub version: u64,
    /// Selected rows.
    pub rows: u64,
    /// Steps of an epoch, on every rank.
    pub steps_per_epoch: u64,
    /// Rows of a step over all ranks.
    pub global_batch_size: u64,
    /// Seed in force.
    pub seed: u64,
    /// Part of every cursor; opaque to the client.
    pub fingerprint: Value,
    /// What lies where in a slot.
    pub layout: Layout,
    /// Slots in the segment.
    pub slot_count: u32,
    /// Where to go on: epoch and step within it. `(0, 0)` without `resume`.
    pub resume_at: (u64, u64),
    /// Class names by number for columns that have them.
    pub classes: BTreeMap<String, Vec<String>>,
    /// How the job is served: read engine, protection. For those who ask.
    pub notices: Vec<String>,
    /// What the user should see without asking: a slower read engine, missing protection.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Where the daemon writes its log, for error messages.
    pub daemon_log: Option<String>,
}

/// A finished batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Stream it belongs to.
    pub stream: u64,
    /// Unique in the session; names the slot's lease.
    pub lease: u64,
    /// Slot in the segment.
    pub slot: u32,
    /// Rows in the batch; at most the layout's batch size.
    pub rows: u32,
    /// Epoch.
    pub epoch: u64,
    /// Step within the epoch.
    pub epoch_step: u64,
    /// Step of the run: `epoch × steps_per_epoch + epoch_step`.
    pub step: u64,
    /// Rows delivered to all ranks in this epoch once this batch is: the cursor's position.
    pub position: u64,
    /// Rows that were replaced or zeroed in this batch.
    pub bad_rows: u32,
    /// CLOCK_MONOTONIC when the batch was published, in ns.
    pub published_ns: u64,
    /// Where each ragged column lies, in the layout's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ragged: Vec<RaggedPart>,
    /// The ragged columns lie in the memfd that rides along, which has so many bytes, and
    /// not in the slot: they are too large for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oversize: Option<u64>,
}

/// Why something failed, for the choice of an exception class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Protocol versions differ.
    Protocol,
    /// The request is wrong in itself: a value out of its bound, a second `Open`.
    Request,
    /// Dataset, version, tag, column or filter.
    Dataset,
    /// A transform.
    Transform,
    /// A cursor that does not fit.
    Resume,
    /// Rank taken, or ranks disagree.
    Rank,
    /// A row that can't be decoded, under `on_bad_sample="raise"`.
    BadSample,
    /// Reading failed.
    Io,
    /// The step log can't be written.
    StepLog,
    /// A limit of the daemon: slot memory, sessions.
    Limit,
    /// The GPU does not answer, and has images of the session.
    Gpu,
    /// The daemon is leaving.
    Stopping,
}

/// See [`ToClient::Failed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// For the choice of an exception class.
    pub kind: FailureKind,
    /// What failed and what to do about it; may have several lines.
    pub message: String,
    /// The stream that ended, where the session lives on.
    #[serde(default)]
    pub stream: Option<u64>,
}

/// What `loaderd status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Decoder threads.
    pub decode_threads: u32,
    /// Slot memory in use and its limit, in bytes.
    pub slot_bytes: (u64, u64),
    /// The GPU, once a session has asked for one.
    #[serde(default)]
    pub gpu: Option<GpuStatus>,
    /// One per connected rank.
    pub sessions: Vec<SessionStatus>,
}

/// The GPU in [`DaemonStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuStatus {
    /// What it is, or why it decodes nothing.
    pub found: String,
    /// Images that it decoded.
    pub decoded: u64,
    /// Images that it gave back to the CPU.
    pub refused: u64,
}

/// One rank in [`DaemonStatus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Run id.
    pub run: String,
    /// Rank and world size.
    pub rank: (u32, u32),
    /// Process of the client.
    pub client_pid: u32,
    /// Dataset.
    pub uri: String,
    /// Version of it.
    pub version: u64,
    /// What decodes its images.
    pub decoder: String,
    /// Batches handed out.
    pub delivered: u64,
    /// Batches whose ragged columns were too large for a slot.
    #[serde(default)]
    pub oversize: u64,
    /// Bytes read from the dataset's files, row by row; what is read in large windows by Lance
    /// does not count.
    #[serde(default)]
    pub read_bytes: u64,
    /// Slots by state: free, filling, ready, leased.
    pub slots: [u32; 4],
}
