//! What this machine lets a process have: memory and CPU time, with the limits of its
//! control groups, which are what counts in a container.
//!
//! Enters: `/proc` and the control group file systems, v1 and v2. Leaves: numbers. It
//! never sets a limit, and where something can't be read there is no limit for it.

use std::fs;
use std::path::{Path, PathBuf};

/// A v1 group without a limit says a number of about 2^63.
const UNLIMITED: u64 = 1 << 60;

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine.
    pub total: u64,
    /// What the machine has to give without swapping.
    pub available: u64,
    /// The tightest limit of our control groups.
    pub limit: Option<u64>,
    /// What can be taken before one of these limits is met.
    pub headroom: Option<u64>,
}

impl Memory {
    /// Reads it; `None` where `/proc/meminfo` does not say.
    pub fn read() -> Option<Memory> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let groups = Groups::of_process(Path::new("/"));
        let (limit, headroom) = groups.memory();
        Some(Memory {
            total: meminfo(&text, "MemTotal:")?,
            available: meminfo(&text, "MemAvailable:")?,
            limit,
            headroom,
        })
    }

    /// What this process could ever have.
    pub fn most(&self) -> u64 {
        self.limit.map_or(self.total, |limit| limit.min(self.total))
    }

    /// What this process can take.
    pub fn free(&self) -> u64 {
        self.headroom
            .map_or(self.available, |headroom| headroom.min(self.available))
    }
}

/// Cores' worth of CPU time that our control groups allow, where they set a quota.
pub fn cpu_quota() -> Option<f64> {
    Groups::of_process(Path::new("/")).cpu_quota()
}

fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// The folders of a process's control groups, innermost first: limits hold for all below.
#[derive(Debug, Default)]
struct Groups {
    v2: Vec<PathBuf>,
    v1_memory: Vec<PathBuf>,
    v1_cpu: Vec<PathBuf>,
}

impl Groups {
    /// `root` is `/`, or what stands for it in tests.
    fn of_process(root: &Path) -> Groups {
        let read = |name: &str| fs::read_to_string(root.join("proc/self").join(name));
        let (Ok(groups), Ok(mounts)) = (read("cgroup"), read("mountinfo")) else {
            return Groups::default();
        };
        let mut found = Groups::default();
        // `4:memory:/a/b`, and `0::/a/b` for v2 (cgroups(7)).
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let has = |name| controllers.split(',').any(|controller| controller == name);
            if controllers.is_empty() {
                found.v2 = folders(root, &mounts, "cgroup2", None, path);
            }
            if has("memory") {
                found.v1_memory = folders(root, &mounts, "cgroup", Some("memory"), path);
            }
            if has("cpu") {
                found.v1_cpu = folders(root, &mounts, "cgroup", Some("cpu"), path);
            }
        }
        found
    }

    /// The tightest limit, and the least that is left below any.
    fn memory(&self) -> (Option<u64>, Option<u64>) {
        let names = [
            (
                &self.v2,
                ["memory.max", "memory.current"],
                ["active_file", "inactive_file"],
            ),
            (
                &self.v1_memory,
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
                ["total_active_file", "total_inactive_file"],
            ),
        ];
        let (mut tightest, mut headroom): (Option<u64>, Option<u64>) = (None, None);
        let least = |so_far: Option<u64>, new: u64| Some(so_far.map_or(new, |old| old.min(new)));
        for (folders, [max, current], cache) in names {
            for folder in folders {
                let number = |name: &str| -> Option<u64> {
                    fs::read_to_string(folder.join(name))
                        .ok()?
                        .trim()
                        .parse()
                        .ok()
                };
                let Some(limit) = number(max).filter(|&limit| limit < UNLIMITED) else {
                    continue;
                };
                tightest = least(tightest, limit);
                // Page cache counts as used, and goes first when memory is short, which is how
                // `MemAvailable` sees it, too.
                let text = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
                let cached: u64 = text
                    .lines()
                    .filter_map(|line| line.split_once(' '))
                    .filter(|(name, _)| cache.contains(name))
                    .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
                    .sum();
                let used = number(current).unwrap_or(0).saturating_sub(cached);
                headroom = least(headroom, limit.saturating_sub(used));
            }
        }
        (tightest, headroom)
    }

    fn cpu_quota(&self) -> Option<f64> {
        let v2 = self.v2.iter().filter_map(|folder| {
            let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
        });
        let v1 = self.v1_cpu.iter().filter_map(|folder| {
            let number = |name: &str| -> Option<f64> {
                fs::read_to_string(folder.join(name))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            };
            // -1 where there is none.
            let quota = number("cpu.cfs_quota_us").filter(|&quota| quota > 0.0)?;
            Some(quota / number("cpu.cfs_period_us")?)
        });
        v2.chain(v1).min_by(f64::total_cmp)
    }
}

/// The group's folder and those above it, up to the mount.
fn folders(
    root: &Path,
    mounts: &str,
    file_system: &str,
    controller: Option<&str>,
    path: &str,
) -> Vec<PathBuf> {
    // `31 23 0:26 <root> <mount point> rw … - cgroup cgroup rw,memory` (proc(5)).
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let fits = after.next() == Some(file_system)
            && controller.is_none_or(|name| {
                after
                    .nth(1)
                    .is_some_and(|options| options.split(',').any(|option| option == name))
            });
        let mut before = before.split(' ').skip(3);
        fits.then(|| Some((before.next()?, before.next()?)))?
    });
    let Some((mount_root, mount_point)) = mount else {
        return Vec::new();
    };
    let mount_point = root.join(mount_point.trim_start_matches('/'));
    // In a container the mount may begin at our group, under a path that names it whole.
    let below = Path::new(path)
        .strip_prefix(mount_root)
        .unwrap_or(Path::new(path.trim_start_matches('/')));
    below
        .ancestors()
        .map(|part| mount_point.join(part))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Made(tempfile::TempDir);

    impl Made {
        fn new(groups: &str, mounts: &str) -> Made {
            let made = Made(tempfile::tempdir().unwrap());
            made.file("proc/self/cgroup", groups);
            made.file("proc/self/mountinfo", mounts);
            made
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn groups(&self) -> Groups {
            Groups::of_process(self.0.path())
        }
    }

    #[test]
    fn version_2_takes_the_tightest_of_all_groups_above() {
        let made = Made::new(
            "0::/user/job\n",
            "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        made.file("sys/fs/cgroup/user/job/memory.max", "max\n");
        made.file("sys/fs/cgroup/user/job/cpu.max", "250000 100000\n");
        made.file("sys/fs/cgroup/user/memory.max", "1000000\n");
        made.file("sys/fs/cgroup/user/memory.current", "700000\n");
        made.file(
            "sys/fs/cgroup/user/memory.stat",
            "anon 1\ninactive_file 200000\nactive_file 3\n",
        );
        made.file("sys/fs/cgroup/user/cpu.max", "max 100000\n");
        let groups = made.groups();
        assert_eq!(groups.memory(), (Some(1_000_000), Some(500_003)));
        assert_eq!(groups.cpu_quota(), Some(2.5));
    }

    #[test]
    fn version_1_finds_its_controllers_and_a_container_s_mount() {
        let made = Made::new(
            "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n0::/\n",
            "1 0 0:1 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
             2 0 0:2 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n",
        );
        made.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n");
        made.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n");
        made.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
        made.file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        let groups = made.groups();
        assert_eq!(groups.memory(), (Some(4096), Some(0)));
        assert_eq!(groups.cpu_quota(), Some(0.5));
    }

    #[test]
    fn no_limit_is_none() {
        let made = Made::new(
            "4:memory:/\n3:cpu:/\n",
            "1 0 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n\
             2 0 0:2 / /cg/cpu rw - cgroup cgroup rw,cpu\n",
        );
        made.file("cg/memory/memory.limit_in_bytes", "9223372036854771712\n");
        made.file("cg/cpu/cpu.cfs_quota_us", "-1\n");
        made.file("cg/cpu/cpu.cfs_period_us", "100000\n");
        assert_eq!(made.groups().memory(), (None, None));
        assert_eq!(made.groups().cpu_quota(), None);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Groups::of_process(empty.path()).memory(), (None, None));
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = Memory::read().unwrap();
        assert!(memory.total >= memory.available && memory.available > 1 << 20);
        assert!(memory.free() <= memory.available);
    }
}
