//! A job: everything about a training run's data that is decided once, at `Open`.
//!
//! Enters: an [`OpenRequest`]. Leaves: a [`Job`] that all ranks of the run share:
//! snapshot, plan, pipelines, slot layout, fingerprint. It has no thread and no queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use loaderd_names::{listed, nearest};
use loaderd_plan::{Cursor, Fingerprint, Steps, StepsConfig};
use loaderd_wire::layout::Layout;
use loaderd_wire::message::{Failure, FailureKind, OnLogError, OpenRequest, Opened, Version};

use crate::cuts::Cuts;
use crate::gpu::{Decoder, Gpu};
use crate::source::{self, Source, SourceError, SourceRequest};
use crate::steplog::{JobKey, JobRecord, StepLog, StepLogError, TiledRead};

mod columns;
mod follow;
mod origin;

pub use follow::{BoxFormat, Boxes, Follower};
pub use origin::{Input, Origin};

/// How long a rank that is taken may need to come free.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_secs(2);
/// The same while a session whose client has gone is still ending: it may have the rank, and wait
/// for a full disk, which is longest.
const LEAVING_WAIT: Duration = Duration::from_secs(40);
/// How often a dataset is opened of which every time another version with other columns is the
/// one that its tag names.
const OPENINGS_MAX: u32 = 10;

/// See the module.
pub struct Job {
    /// Run id, given or made.
    pub run: String,
    /// The request of the rank that came first.
    pub request: OpenRequest,
    /// The rows.
    pub source: Box<dyn Source>,
    /// Image columns that are read from their tiled form.
    pub tiled: BTreeMap<String, TiledRead>,
    /// By number of the source's columns of bytes: what is known of their images' segments, where
    /// crops may be read by themselves.
    pub(crate) cuts: Vec<Option<Cuts>>,
    /// Steps and shares.
    pub steps: Steps,
    /// One per tensor of `layout`, in its order.
    pub origins: Vec<Origin>,
    /// What decodes its images.
    pub decoder: Decoder,
    /// What lies where in a slot.
    pub layout: Layout,
    /// What a cursor must match.
    pub fingerprint: Fingerprint,
    /// The job in the step log.
    pub key: JobKey,
    /// Why it could not be recorded when it was opened, if so.
    unrecorded: Option<StepLogError>,
    /// Epoch and step within it to begin with.
    pub resume_at: (u64, u64),
    /// Ranks that are connected.
    ranks: Mutex<BTreeSet<u32>>,
}

/// Shorthand for a failure.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
        stream: None,
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Failure {
        match error {
            SourceError::Dataset(text) => failure(FailureKind::Dataset, text),
            SourceError::Io(text) => failure(FailureKind::Io, text),
        }
    }
}

impl From<StepLogError> for Failure {
    fn from(error: StepLogError) -> Failure {
        failure(FailureKind::StepLog, error.to_string())
    }
}

impl Job {
    /// Opens the dataset and plans; blocks, for seconds where a page map has to be built, or
    /// `gpu` started.
    pub fn open(
        request: &OpenRequest,
        run: &str,
        log: &StepLog,
        gpu: &Gpu,
    ) -> Result<Job, Failure> {
        check(request)?;
        let (chosen, source) = choose_and_open(request, run)?;
        let steps = Steps::new(StepsConfig {
            rows: source.rows(),
            batch_size: request.batch_size,
            world_size: request.world_size,
            drop_last: request.drop_last,
        })
        .map_err(|error| failure(FailureKind::Request, error.to_string()))?;
        chosen.check_nulls(request, source.as_ref())?;
        let layout = chosen.layout(request, source.as_ref())?;
        let transform = chosen.canonical_transforms(&request.columns);
        let fingerprint = fingerprint(request, source.as_ref(), transform.clone());
        let resume_at = match &request.resume {
            None => (0, 0),
            Some(state) => resume(state, request, &fingerprint, &steps)?,
        };
        let mut decoder = gpu.decoder(request.decode, chosen.has_work_for_gpu())?;
        let tiled = tiled(source.as_ref(), &chosen.bytes);
        let record = JobRecord {
            run: run.into(),
            plan_hash: plan_hash(&fingerprint, request),
            uri: source.uri().into(),
            version: source.version(),
            tag: source.tag().map(Into::into),
            identity: source.identity().into(),
            filter: request.filter.clone(),
            selection: source.selection_hash().into(),
            rows: source.rows(),
            columns: request.columns.clone(),
            tiled: tiled.clone(),
            transform,
            decoder: decoder.name.clone(),
            seed: request.seed,
            shuffle: request.shuffle,
            drop_last: request.drop_last,
            batch_size: request.batch_size,
            world_size: request.world_size,
            steps_per_epoch: steps.count(),
        };
        let (key, before, unrecorded) = enter(log, record, request)?;
        if let Some(before) = before.filter(|before| *before != decoder.name) {
            let goes_on = format!(
                "the run goes on with another decoder, which may round differently: it was {before}, and is {}",
                decoder.name
            );
            decoder.warnings.push(goes_on);
        }
        Ok(Job {
            run: run.into(),
            request: request.clone(),
            cuts: cuts(source.as_ref(), &chosen.bytes, &chosen.origins),
            source,
            tiled,
            steps,
            origins: chosen.origins,
            decoder,
            layout,
            fingerprint,
            key,
            unrecorded,
            resume_at,
            ranks: Mutex::default(),
        })
    }

    /// What is known of the images that a tensor is made of, where crops of them may be read.
    pub(crate) fn cuts(&self, tensor: usize) -> Option<&Cuts> {
        match &self.origins[tensor] {
            Origin::Image {
                input: Input::Bytes(column),
                ..
            } => self.cuts[*column].as_ref(),
            _ => None,
        }
    }

    /// Takes a rank for a session; each may be taken once at a time. Waits for up to
    /// `CLAIM_WAIT`, because the session of a process that was just killed needs a
    /// moment to end; and as long as `may_come_free` says that one is ending, for up to
    /// `LEAVING_WAIT`.
    pub fn claim(&self, rank: u32, may_come_free: &dyn Fn() -> bool) -> Result<(), Failure> {
        let since = Instant::now();
        loop {
            // Asked first: what ends in between has given it back.
            let may_wait =
                since.elapsed() < CLAIM_WAIT || (since.elapsed() < LEAVING_WAIT && may_come_free());
            if self.ranks.lock().expect("no panic while held").insert(rank) {
                return Ok(());
            }
            if !may_wait {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(failure(
            FailureKind::Rank,
            format!(
                "rank {rank} of run {:?} is connected already: each rank opens the dataset once; \
                 for a second reader of the same data give another run=, and for several processes \
                 different ranks (rank=, or RANK in the environment)",
                self.run
            ),
        ))
    }

    /// Gives a rank back.
    pub fn leave(&self, rank: u32) {
        self.ranks
            .lock()
            .expect("no panic while held")
            .remove(&rank);
    }

    /// True while a session has this rank.
    pub fn has(&self, rank: u32) -> bool {
        self.ranks
            .lock()
            .expect("no panic while held")
            .contains(&rank)
    }

    /// Which image columns are read from their tiled form, in words.
    pub fn tiled_notices(&self) -> Vec<String> {
        let notice = |(name, TiledRead { column, rows }): (&String, &TiledRead)| {
            format!(
                "column {name:?}: {rows} of {} rows are read tiled, from {column:?} (use_tiled=False reads the originals)",
                self.source.rows()
            )
        };
        self.tiled.iter().map(notice).collect()
    }

    /// What the user must know of the job beside what its source says.
    pub fn warnings(&self) -> Vec<String> {
        self.unrecorded.iter().map(StepLogError::gone_on).collect()
    }

    /// The answer to the client, less what only the session knows.
    pub fn describe(&self, slot_count: u32, notices: Vec<String>, warnings: Vec<String>) -> Opened {
        let classes: BTreeMap<_, _> = self
            .request
            .columns
            .iter()
            .filter_map(|name| Some((name.clone(), self.source.classes(name)?)))
            .collect();
        Opened {
            run: self.run.clone(),
            attempt: self.key.attempt,
            decoder: self.decoder.name.clone(),
            uri: self.source.uri().into(),
            version: self.source.version(),
            rows: self.source.rows(),
            steps_per_epoch: self.steps.count(),
            global_batch_size: self.steps.global_batch_size(),
            seed: self.request.seed,
            fingerprint: serde_json::to_value(&self.fingerprint)
                .expect("a fingerprint is plain data"),
            layout: self.layout.clone(),
            slot_count,
            resume_at: self.resume_at,
            classes,
            notices,
            warnings,
            daemon_log: None,
        }
    }
}

/// The columns and the rows of one version. Which one the latest is, or a tag's, may change between
/// the look at its columns and its opening; then they are looked at again. The latest is the one
/// that was opened first.
fn choose_and_open(
    request: &OpenRequest,
    run: &str,
) -> Result<(columns::Chosen, Box<dyn Source>), Failure> {
    let mut fields = source::fields(&request.uri, request.version.as_ref())?;
    let mut version = request.version.clone();
    for _ in 0..OPENINGS_MAX {
        let chosen = columns::choose(request, &fields)?;
        let source = source::open(SourceRequest {
            uri: request.uri.clone(),
            version: version.clone(),
            filter: request.filter.clone(),
            bytes_columns: chosen.bytes.clone(),
            tiled_columns: chosen.tiled.clone(),
            fixed_columns: chosen.fixed.clone(),
            variable_columns: chosen.variable.clone(),
            protect: request.protect,
            run: run.into(),
        })?;
        match source.fields() {
            Some(found) if found != fields => {
                fields = found;
                version.get_or_insert(Version::Number(source.version()));
            }
            _ => return Ok((chosen, source)),
        }
    }
    Err(failure(
        FailureKind::Dataset,
        format!(
            "the columns of {} changed {OPENINGS_MAX} times while it was opened: pin it with version=<number>",
            request.uri
        ),
    ))
}

/// Which of the source's bytes columns are read from their tiled form, and in how many rows.
fn tiled(source: &dyn Source, columns: &[String]) -> BTreeMap<String, TiledRead> {
    let columns = columns.iter().enumerate();
    columns
        .filter_map(|(number, name)| {
            let (column, rows) = source.tiled(number)?;
            let column = column.to_owned();
            Some((name.clone(), TiledRead { column, rows }))
        })
        .collect()
}

/// Of the source's columns of bytes, those that lie in files and of which images are made.
fn cuts(source: &dyn Source, columns: &[String], origins: &[Origin]) -> Vec<Option<Cuts>> {
    let is_image = |number: usize| {
        let input = Input::Bytes(number);
        let images =
            |origin: &Origin| matches!(origin, Origin::Image { input: of, .. } if *of == input);
        origins.iter().any(images)
    };
    let folder = loaderd_wire::paths::cache_dir().ok();
    let columns = columns.iter().enumerate();
    columns
        .map(|(number, name)| {
            source.files().filter(|_| is_image(number))?;
            let tiled = source.tiled(number).map_or("", |(tiled, _)| tiled);
            let key = [source.identity(), source.selection_hash(), name, tiled];
            Cuts::of(folder.as_deref()?, &key, source.rows())
        })
        .collect()
}

/// Bounds of a request's numbers.
fn check(request: &OpenRequest) -> Result<(), Failure> {
    let wrong = |message: String| Err(failure(FailureKind::Request, message));
    if request.batch_size == 0 {
        return wrong("batch_size is 0: give at least 1".into());
    }
    if request.world_size == 0 || request.rank >= request.world_size {
        return wrong(format!(
            "rank {} is outside world_size {}: ranks count from 0",
            request.rank, request.world_size
        ));
    }
    if request.columns.is_empty() {
        return wrong("columns is empty: name at least one".into());
    }
    let mut seen = BTreeSet::new();
    for column in &request.columns {
        if !seen.insert(column) {
            return wrong(format!("column {column:?} is named twice"));
        }
    }
    for column in request.transform.keys() {
        if !seen.contains(column) {
            let near = nearest(column, &request.columns);
            let hint = near.map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"));
            return wrong(format!(
                "transform names column {column:?}{hint}, which is not among columns {}",
                listed(&request.columns)
            ));
        }
    }
    let several_nodes = request
        .local_world_size
        .is_some_and(|local| local < request.world_size);
    if several_nodes && request.version.is_none() {
        return wrong(format!(
            "world_size {} spans several nodes (LOCAL_WORLD_SIZE {}), and nodes may resolve the latest version \
             differently: pin the dataset with version=<number> or version=\"<tag>\"",
            request.world_size,
            request.local_world_size.unwrap_or_default()
        ));
    }
    Ok(())
}

/// What a cursor must match.
fn fingerprint(request: &OpenRequest, source: &dyn Source, transform: String) -> Fingerprint {
    Fingerprint {
        dataset: source.identity().into(),
        uri: source.uri().into(),
        version: source.version(),
        rows: source.rows(),
        selection: source.selection_hash().into(),
        filter: request.filter.clone(),
        columns: request.columns.clone(),
        transform,
        shuffle: request.shuffle,
        drop_last: request.drop_last,
    }
}

/// The job in the step log, the decoder of the run's latest attempt before, and why the job can't be
/// recorded now, where it goes on without.
fn enter(
    log: &StepLog,
    record: JobRecord,
    request: &OpenRequest,
) -> Result<(JobKey, Option<String>, Option<StepLogError>), StepLogError> {
    let resumed = request.resume.is_some();
    match log.open_job(record.clone(), resumed) {
        Err(error) if request.on_log_error == OnLogError::Continue => {
            let (key, before) = log.open_later(record, resumed, error.clone())?;
            Ok((key, before, Some(error)))
        }
        opened => opened.map(|(key, before)| (key, before, None)),
    }
}

/// Hash of all that decides order and content of the run's batches.
fn plan_hash(fingerprint: &Fingerprint, request: &OpenRequest) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fingerprint.hash().as_bytes());
    hasher.update(&request.seed.to_le_bytes());
    hasher.update(&request.batch_size.to_le_bytes());
    hasher.update(&request.world_size.to_le_bytes());
    hasher.update(format!("{:?}", request.on_bad_sample).as_bytes());
    hasher.finalize().to_hex()[..32].into()
}

fn resume(
    state: &serde_json::Value,
    request: &OpenRequest,
    fingerprint: &Fingerprint,
    steps: &Steps,
) -> Result<(u64, u64), Failure> {
    let refused = |text: String| failure(FailureKind::Resume, text);
    let cursor: Cursor = serde_json::from_value(state.clone())
        .map_err(|error| refused(format!("this is not a state_dict of loaderd: {error}")))?;
    let step = cursor
        .resume(fingerprint, request.seed, steps, request.allow_changed)
        .map_err(|error| refused(error.to_string()))?;
    if step == steps.count() {
        return Ok((cursor.epoch + 1, 0));
    }
    Ok((cursor.epoch, step))
}
