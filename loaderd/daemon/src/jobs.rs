//! The jobs that are open, and which sessions share one.
//!
//! Enters: open requests. Leaves: shared [`Job`]s. Ranks that bring the same run id and
//! the same request share a job; the first of them resolves the dataset version. A job
//! lives as long as one of its ranks is connected.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, Weak};

use loaderd_wire::message::{Failure, OpenRequest};

use crate::job::Job;
use crate::steplog::StepLog;

/// One place in the registry; its lock is held while the job opens, so that other ranks
/// of the same run wait for it instead of opening it again.
type Place = Arc<Mutex<Weak<Job>>>;

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
    /// Joins the job of this request, opening it where there is none; blocks.
    pub fn join(&self, request: &OpenRequest, log: &StepLog) -> Result<Rank, Failure> {
        let run = match &request.run {
            Some(run) => run.clone(),
            None => fresh_run(),
        };
        let place = {
            let mut places = self.places.lock().expect("no panic while held");
            // Jobs that are gone leave their place here; nobody else can hold it, since
            // places are cloned only under this lock.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.lock().is_ok_and(|job| job.strong_count() > 0)
            });
            places.entry(place_name(request, &run)).or_default().clone()
        };
        let mut held = place
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let job = match held.upgrade() {
            Some(job) => job,
            None => {
                let job = Arc::new(Job::open(request, &run, log)?);
                *held = Arc::downgrade(&job);
                job
            }
        };
        job.claim(request.rank)?;
        Ok(Rank {
            job,
            rank: request.rank,
        })
    }
}

/// Two requests share a job when they differ only in the rank.
fn place_name(request: &OpenRequest, run: &str) -> String {
    let same_for_all = OpenRequest {
        rank: 0,
        slots: None,
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
    use super::*;

    #[test]
    fn runs_are_told_apart() {
        assert_ne!(fresh_run(), fresh_run());
    }
}
