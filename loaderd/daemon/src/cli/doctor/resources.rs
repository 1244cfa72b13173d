//! What this process may take: descriptors, cores, memory.
//!
//! Enters: limits of the process, its control groups and the machine. Leaves: checks.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::cli::{serve, size};
use crate::machine::{self, Memory};

/// Descriptors of a daemon with one session, data files left out.
const DESCRIPTORS_OF_A_SESSION: u64 = 64;
/// What is needed where no dataset is named: a dataset of some tens of files.
const DESCRIPTORS_USUAL: u64 = 256;
/// Four slots of 128 images of 3 x 224 x 224 float32, in bytes.
const SLOTS_USUAL_BYTES: u64 = 4 * 128 * 3 * 224 * 224 * 4;
const CAP_IPC_LOCK: u32 = 14;

/// A limit of the process; `None` is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// Limits as they were before we took what the hard ones allow.
pub(super) struct Limits {
    pub(super) memlock: Limit,
    pub(super) descriptors: Limit,
    /// Locked memory is not counted for this process.
    pub(super) locks_freely: bool,
}

impl Limits {
    /// Reads the limits, then raises them as the daemon does.
    pub(super) fn take() -> Limits {
        let limit = |resource| {
            let found = getrlimit(resource);
            Limit {
                soft: found.current,
                hard: found.maximum,
            }
        };
        let limits = Limits {
            memlock: limit(Resource::Memlock),
            descriptors: limit(Resource::Nofile),
            locks_freely: has_capability(CAP_IPC_LOCK),
        };
        serve::raise_limits();
        limits
    }
}

fn has_capability(number: u32) -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|effective| effective >> number & 1 == 1)
}

/// A limit in words.
pub(super) fn amount(limit: Option<String>) -> String {
    limit.unwrap_or_else(|| "any amount".into())
}

/// `files`: data files of the dataset, 0 where there are none.
pub(super) fn checks(limits: &Limits, files: usize) -> Vec<Check> {
    let cores = Cores {
        affinity: rustix::thread::sched_getaffinity(None)
            .map_or(0, |set| set.count() as usize)
            .max(1),
        usable: std::thread::available_parallelism().map_or(1, usize::from),
        quota: machine::cpu_quota(),
    };
    vec![
        descriptors(limits.descriptors, files as u64),
        cores.check(fs::read_to_string("/sys/devices/system/cpu/online").ok()),
        memory(Memory::read(), serve::default_slot_memory()),
    ]
}

fn descriptors(limit: Limit, files: u64) -> Check {
    let in_words = |limit: Option<u64>| amount(limit.map(|limit| limit.to_string()));
    let mut found = format!("{} open files", in_words(limit.hard));
    if limit.soft != limit.hard {
        found += &format!(" ({} before the daemon raises it)", in_words(limit.soft));
    }
    let hard = limit.hard.unwrap_or(u64::MAX);
    let (needed, wished) = match files {
        0 => (DESCRIPTORS_OF_A_SESSION, DESCRIPTORS_USUAL),
        // O_DIRECT has descriptors of its own.
        _ => (
            DESCRIPTORS_OF_A_SESSION + files,
            DESCRIPTORS_OF_A_SESSION + 2 * files,
        ),
    };
    if files > 0 {
        found += &format!(", this dataset's {files} files take {wished} with a session");
    }
    let mend = format!(
        "raise it to {wished} or more: `ulimit -n`, LimitNOFILE= of systemd, --ulimit nofile= of docker{}",
        if files > 0 {
            "; or compact the dataset"
        } else {
            ""
        }
    );
    if hard < needed {
        Check::failed("descriptors", found, mend)
    } else if hard < wished {
        Check::slow("descriptors", found, mend)
    } else {
        Check::ok("descriptors", found)
    }
}

struct Cores {
    /// That the process may be put on.
    affinity: usize,
    /// That are left of these after quotas: the number of decode threads.
    usable: usize,
    quota: Option<f64>,
}

impl Cores {
    /// `online`: the kernel's list, such as `0-7,12`.
    fn check(&self, online: Option<String>) -> Check {
        let mut found = match online.as_deref().and_then(count_of) {
            Some(all) if all != self.affinity => {
                format!("{all} online, {} by affinity", self.affinity)
            }
            _ => format!("{} online", self.affinity),
        };
        if let Some(quota) = self.quota {
            found += &format!(", a quota of {quota:.1} by control groups");
        }
        found += &format!(": {} decode threads", self.usable);
        if self.usable < 2 {
            return Check::slow(
                "cores",
                found,
                "give the job two cores or more: decoding and training share this one",
            );
        }
        Check::ok("cores", found)
    }
}

/// How many numbers `0-7,12` names.
fn count_of(list: &str) -> Option<usize> {
    let mut count = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        count += last
            .parse::<usize>()
            .ok()?
            .checked_sub(first.parse().ok()?)?
            + 1;
    }
    Some(count)
}

fn memory(memory: Option<Memory>, slots: Option<u64>) -> Check {
    let (Some(memory), Some(slots)) = (memory, slots) else {
        return Check::failed(
            "memory",
            "/proc/meminfo does not say how much there is",
            "give `loaderd serve --slot-memory`",
        );
    };
    let mut found = format!(
        "{} of {} free",
        size::show(memory.available),
        size::show(memory.total)
    );
    if let (Some(limit), Some(headroom)) = (memory.limit, memory.headroom) {
        found += &format!(
            ", {} below the control groups' limit of {}",
            size::show(headroom),
            size::show(limit)
        );
    }
    found += &format!(": up to {} of slots", size::show(slots));
    if slots < SLOTS_USUAL_BYTES {
        return Check::slow(
            "memory",
            found,
            format!(
                "free some, or use smaller batches: four slots of 128 images of 224 x 224 as float32 take {}",
                size::show(SLOTS_USUAL_BYTES)
            ),
        );
    }
    Check::ok("memory", found)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn descriptors_are_judged_by_the_dataset() {
        for (hard, files, verdict) in [
            (Some(20), 0, Verdict::Failed),
            (Some(100), 0, Verdict::Slow),
            (Some(1024), 0, Verdict::Ok),
            (Some(1024), 400, Verdict::Ok),
            (Some(1024), 800, Verdict::Slow),
            (Some(1024), 1000, Verdict::Failed),
            (None, 1000, Verdict::Ok),
        ] {
            let check = descriptors(Limit { soft: hard, hard }, files);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert_eq!(check.mend.is_some(), verdict != Verdict::Ok);
        }
    }

    #[test]
    fn memory_is_judged_by_what_the_group_leaves() {
        const GIB: u64 = 1 << 30;
        let of = |headroom: Option<u64>| {
            let found = Memory {
                total: 64 * GIB,
                available: 32 * GIB,
                limit: headroom.map(|_| 8 * GIB),
                headroom,
            };
            memory(Some(found), Some(found.free() / 2))
        };
        assert_eq!(of(None).verdict, Verdict::Ok);
        assert!(of(None).found.ends_with("up to 16.00 GiB of slots"));
        assert!(of(Some(4 * GIB)).found.ends_with("up to 2.00 GiB of slots"));
        assert_eq!(of(Some(GIB / 8)).verdict, Verdict::Slow);
        assert_eq!(memory(None, None).verdict, Verdict::Failed);
    }

    #[test]
    fn cores_say_what_takes_them_away() {
        let cores = Cores {
            affinity: 4,
            usable: 2,
            quota: Some(2.5),
        };
        let check = cores.check(Some("0-7\n".into()));
        assert_eq!(
            check.found,
            "8 online, 4 by affinity, a quota of 2.5 by control groups: 2 decode threads"
        );
        let alone = Cores {
            usable: 1,
            quota: None,
            ..cores
        };
        assert_eq!(alone.check(None).verdict, Verdict::Slow);
        assert_eq!(count_of("0-3,8,10-11\n"), Some(7));
        assert_eq!(count_of("\n"), None);
    }
}
