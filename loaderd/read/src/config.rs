//! What the caller may choose: mode, depth, and slab memory.
//!
//! Enters: numbers from the daemon's configuration. Leaves: a [`Config`] that
//! [`Reader::new`](crate::Reader::new) has validated once. Never: looks at the machine.

use serde::{Deserialize, Serialize};

use crate::ReadError;

/// Slabs start on this boundary and are a multiple of it, in bytes: what O_DIRECT asks
/// of memory on every file system we know, and a page.
pub const SLAB_ALIGN: u32 = 4096;

/// One reader's slabs are registered as one buffer, and the kernel takes at most 1 GiB.
pub(crate) const ARENA_BYTES_MAX: u64 = 1 << 30;

/// A ring of 4096 entries is far beyond what a disk can use.
pub(crate) const QUEUE_DEPTH_MAX: u32 = 4096;

/// How to read.
///
/// `Auto` reads with O_DIRECT where the file system has it and the page cache holds
/// little of the data or could not hold it all, else through the page cache. `Direct`
/// and `Buffered` insist. All three climb down from io_uring to `pread` where the kernel
/// refuses; `Pread` starts there, and picks O_DIRECT as `Auto` does.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The best that this machine and these files allow.
    #[default]
    Auto,
    /// O_DIRECT, or an error that says why not.
    Direct,
    /// Through the page cache.
    Buffered,
    /// No io_uring: threads with `pread`.
    Pread,
}

/// One reader's limits. All memory is taken once, in [`Reader::new`](crate::Reader::new).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How to read.
    pub mode: Mode,
    /// Reads in flight at most, 1 to 4096.
    pub queue_depth: u32,
    /// Bytes of a slab: a multiple of 4096. Longer extents are read into memory of
    /// their own, which costs an allocation each.
    pub slab_bytes: u32,
    /// Slabs, at least 1: the buffers that can be alive or under way at any time. A longer
    /// extent counts as one of them for each two slabs' bytes that it has, and as all of them
    /// where it is longer still. `slab_bytes * slab_count` is 1 GiB at most.
    pub slab_count: u32,
}

impl Config {
    /// A configuration for extents of about `typical` bytes (say the 99th percentile),
    /// whose slabs take at most `memory_max` bytes (but 8192 at least).
    ///
    /// A slab has room for `typical` bytes at any offset after rounding out to 4096. No
    /// more than 256 slabs are taken, half of them in flight at most, so that the other
    /// half can be with the decoder.
    pub fn for_lengths(typical: u32, memory_max: u64) -> Config {
        let unit = u64::from(SLAB_ALIGN);
        let memory_max = memory_max.clamp(2 * unit, ARENA_BYTES_MAX);
        let wanted = (u64::from(typical).next_multiple_of(unit) + unit).max(4 * unit);
        let slab_bytes = wanted.min(memory_max / 2 / unit * unit);
        let slab_count = (memory_max / slab_bytes).min(256) as u32;
        Config {
            mode: Mode::Auto,
            queue_depth: (slab_count / 2).min(64),
            slab_bytes: slab_bytes as u32,
            slab_count,
        }
    }

    /// Bytes of all slabs.
    pub(crate) fn arena_bytes(&self) -> u64 {
        u64::from(self.slab_bytes) * u64::from(self.slab_count)
    }

    pub(crate) fn validate(&self) -> Result<(), ReadError> {
        let check = |holds: bool, name: &'static str, found: u64, bound: &'static str| {
            if holds {
                return Ok(());
            }
            Err(ReadError::Config { name, found, bound })
        };
        let depth = self.queue_depth;
        let depth_fits = (1..=QUEUE_DEPTH_MAX).contains(&depth);
        check(depth_fits, "queue_depth", depth.into(), "1 to 4096")?;
        let slab = self.slab_bytes;
        let slab_fits = slab > 0 && slab.is_multiple_of(SLAB_ALIGN);
        check(slab_fits, "slab_bytes", slab.into(), "a multiple of 4096")?;
        let count = self.slab_count;
        check(count > 0, "slab_count", count.into(), "at least 1")?;
        let arena = self.arena_bytes();
        let arena_fits = arena <= ARENA_BYTES_MAX;
        check(
            arena_fits,
            "slab_bytes * slab_count",
            arena,
            "1 GiB at most",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_give_valid_configurations_within_memory() {
        for typical in [0, 1, 4096, 110_000, 1 << 20, u32::MAX] {
            for memory_max in [0, 8192, 1 << 20, 8 << 20, 1 << 40] {
                let config = Config::for_lengths(typical, memory_max);
                config.validate().unwrap();
                assert!(config.arena_bytes() <= memory_max.max(8192), "{config:?}");
                assert!(config.queue_depth <= config.slab_count);
            }
        }
        let config = Config::for_lengths(110_000, 32 << 20);
        // 110,000 bytes that start one byte before a boundary touch 28 units of 4096.
        assert!(config.slab_bytes >= 28 * 4096);
        assert_eq!(config.queue_depth, 64);
    }

    #[test]
    fn bounds_are_named() {
        let good = Config::for_lengths(1000, 1 << 20);
        let check = |config: Config, expected: &str| {
            assert_eq!(config.validate().unwrap_err().to_string(), expected);
        };
        check(
            Config {
                queue_depth: 0,
                ..good
            },
            "queue_depth is 0, must be 1 to 4096",
        );
        check(
            Config {
                slab_bytes: 5000,
                ..good
            },
            "slab_bytes is 5000, must be a multiple of 4096",
        );
        check(
            Config {
                slab_count: 0,
                ..good
            },
            "slab_count is 0, must be at least 1",
        );
        check(
            Config {
                slab_bytes: 1 << 20,
                slab_count: 1025,
                ..good
            },
            "slab_bytes * slab_count is 1074790400, must be 1 GiB at most",
        );
    }
}
