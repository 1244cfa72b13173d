//! The jobs that are open, and which sessions share one.
//!
//! Enters: open requests. Leaves: shared [`Job`]s. Ranks that bring the same run id and
//! the same request share a job; the first of them resolves the dataset version for all, also
//! for a rank that comes back and names that version. A job lives as long as one of its ranks
//! is connected.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, Weak};

use loaderd_wire::message::{Failure, OpenRequest, Version};

use crate::gpu::Gpu;
use crate::job::Job;
use crate::steplog::StepLog;

/// One place in the registry: the jobs of a run that differ in nothing but the dataset
/// version. Its lock is held while a job opens, so that other ranks of the same run wait for
/// it instead of opening it again.
type Place = Arc<Mutex<Vec<Weak<Job>>>>;

/// See the module.
#[derive(Default)]
pub struct Jobs {
    places: Mutex<BTreeMap<String, Place>>,
}

/// A rank's hold on a job; gives the rank back when dropped.
pub struct Rank {
    /// The job.
    pub job: Arc<Job>,
    /// The rank.
    pub rank: u32,
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.job.leave(self.rank);
    }
}

impl Jobs {
    /// Joins the job of this request, opening it where there is none; blocks. `may_come_free`
    /// says whether a rank that is taken is worth waiting for: see [`Job::claim`].
    pub fn join(
        &self,
        request: &OpenRequest,
        log: &StepLog,
        gpu: &Gpu,
        may_come_free: &dyn Fn() -> bool,
    ) -> Result<Rank, Failure> {
        let run = match &request.run {
            Some(run) => run.clone(),
            None => fresh_run(),
        };
        let place = {
            let mut places = self.places.lock().expect("no panic while held");
            // Jobs that are gone leave their place here; nobody else can hold it, since
            // places are cloned only under this lock.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1
                    || place
                        .lock()
                        .is_ok_and(|jobs| jobs.iter().any(|job| job.strong_count() > 0))
            });
            places.entry(place_name(request, &run)).or_default().clone()
        };
        let mut held = place
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        held.retain(|job| job.strong_count() > 0);
        let open: Vec<Arc<Job>> = held.iter().filter_map(Weak::upgrade).collect();
        let job = match shared(&open, request) {
            Some(job) => job.clone(),
            None => {
                let job = Arc::new(Job::open(request, &run, log, gpu)?);
                held.push(Arc::downgrade(&job));
                job
            }
        };
        // Other ranks need not wait for this one.
        drop(held);
        job.claim(request.rank, may_come_free)?;
        Ok(Rank {
            job,
            rank: request.rank,
        })
    }
}

/// The job among those of a place that a request shares: one that was asked for in the same
/// words, else one of a fitting version in which the request's rank is missing. Ranks that say
/// "latest" at different times must not read different versions.
fn shared<'a>(open: &'a [Arc<Job>], request: &OpenRequest) -> Option<&'a Arc<Job>> {
    open.iter()
        .find(|job| job.request.version == request.version)
        .or_else(|| {
            open.iter().find(|job| {
                let fits = match &request.version {
                    None => true,
                    Some(Version::Number(number)) => job.source.version() == *number,
                    Some(Version::Tag(tag)) => job.source.tag() == Some(tag),
                };
                fits && !job.has(request.rank)
            })
        })
}

/// Two requests may share a job when they differ only in the rank, the number of its slots, and
/// how they name the version.
fn place_name(request: &OpenRequest, run: &str) -> String {
    let same_for_all = OpenRequest {
        rank: 0,
        slots: None,
        version: None,
        run: Some(run.into()),
        ..request.clone()
    };
    serde_json::to_string(&same_for_all).expect("a request is plain data")
}

/// A run id nobody else has: time and randomness.
fn fresh_run() -> String {
    // The standard library seeds its hash maps from the kernel's random pool.
    let random = RandomState::new().build_hasher().finish();
    format!(
        "{}-{:08x}",
        jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"),
        random as u32
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use loaderd_wire::message::{Decode, FailureKind};
    use serde_json::json;

    use super::*;
    use crate::gpu::Options;
    use crate::job::CLAIM_WAIT;
    use crate::steplog::file_in;

    #[test]
    fn runs_are_told_apart() {
        assert_ne!(fresh_run(), fresh_run());
    }

    /// The jobs of a daemon, and how a rank of two joins the only one.
    struct Daemon {
        jobs: Jobs,
        log: StepLog,
        gpu: Arc<Gpu>,
        _folder: tempfile::TempDir,
    }

    impl Daemon {
        fn new() -> Daemon {
            let folder = tempfile::tempdir().unwrap();
            Daemon {
                jobs: Jobs::default(),
                log: StepLog::open(&file_in(folder.path()), None).unwrap(),
                gpu: Gpu::new(Options {
                    decode: Decode::Cpu,
                    ..Options::default()
                }),
                _folder: folder,
            }
        }

        fn join(&self, rank: u32, is_any_leaving: bool) -> Result<Rank, Failure> {
            let request = serde_json::from_value(json!({
                "uri": "memory:rows=4", "columns": ["label"], "batch_size": 1, "rank": rank,
                "world_size": 2, "run": "a",
            }));
            let request = request.unwrap();
            self.jobs
                .join(&request, &self.log, &self.gpu, &|| is_any_leaving)
        }
    }

    #[test]
    fn a_rank_is_waited_for_as_long_as_a_session_ends() {
        let daemon = Daemon::new();
        let first = daemon.join(0, false).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(CLAIM_WAIT + Duration::from_millis(500));
                drop(first);
            });
            assert!(daemon.join(0, true).is_ok());
        });
    }

    #[test]
    fn ranks_that_are_taken_are_waited_for_side_by_side() {
        let daemon = Daemon::new();
        let _held = [0, 1].map(|rank| daemon.join(rank, false).unwrap());
        let since = Instant::now();
        std::thread::scope(|scope| {
            for rank in [0, 1] {
                let daemon = &daemon;
                scope.spawn(move || {
                    let refused = daemon.join(rank, false).err().unwrap();
                    assert_eq!(refused.kind, FailureKind::Rank, "{refused:?}");
                });
            }
        });
        assert!(since.elapsed() < CLAIM_WAIT * 3 / 2, "one after the other");
    }
}
