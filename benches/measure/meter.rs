//! What a stretch of work cost: wall time, this process's CPU time, and who else was busy.
//!
//! Enters: a start and an end. Leaves: a [`Sample`] of rates per row. Never: blames the work for
//! what other processes used; it says how much that was.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

/// A running measurement.
pub struct Meter {
    started: Instant,
    cpu: Cpu,
    busy: Option<Duration>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Rows handed over.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// CPU time of this process, all threads, kernel workers of its rings included; in seconds.
    pub cpu_user_s: f64,
    /// As above, in the kernel.
    pub cpu_system_s: f64,
    /// Cores that others, and interrupts booked on nobody, kept busy meanwhile. Coarse: the
    /// kernel counts in ticks of 10 ms.
    pub cores_elsewhere: f64,
}

#[derive(Clone, Copy)]
struct Cpu {
    user: Duration,
    system: Duration,
}

impl Meter {
    /// Starts now.
    pub fn start() -> Meter {
        Meter {
            busy: machine_busy(),
            cpu: process_cpu(),
            started: Instant::now(),
        }
    }

    /// Ends now, with `rows` rows of `bytes` bytes together.
    pub fn stop(self, rows: u64, bytes: u64) -> Sample {
        let wall = self.started.elapsed();
        let cpu = process_cpu();
        let (user, system) = (cpu.user - self.cpu.user, cpu.system - self.cpu.system);
        let elsewhere = match (self.busy, machine_busy()) {
            (Some(before), Some(after)) => {
                after.saturating_sub(before).saturating_sub(user + system)
            }
            _ => Duration::ZERO,
        };
        Sample {
            rows,
            bytes,
            seconds: wall.as_secs_f64(),
            cpu_user_s: user.as_secs_f64(),
            cpu_system_s: system.as_secs_f64(),
            cores_elsewhere: elsewhere.as_secs_f64() / wall.as_secs_f64().max(1e-9),
        }
    }
}

impl Sample {
    /// The sample itself, where `name` gave as many rows as it was asked for.
    ///
    /// # Errors
    /// Where it did not, saying how many came.
    pub fn of_all(self, name: &str, expected: u64) -> Result<Sample> {
        let found = self.rows;
        ensure!(found == expected, "{name} gave {found} of {expected} rows");
        Ok(self)
    }

    /// Rows a second.
    pub fn rows_per_s(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    /// Megabytes (10⁶) a second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    /// CPU time of a row, user and system, in µs.
    pub fn cpu_us_per_row(&self) -> f64 {
        (self.cpu_user_s + self.cpu_system_s) * 1e6 / self.rows as f64
    }
}

/// The middle of `values`, or the mean of the middle two. Panics where there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn process_cpu() -> Cpu {
    // SAFETY: all-zero bytes are a valid rusage, plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place for the answer.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert_eq!(status, 0, "getrusage");
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    Cpu {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
    }
}

/// CPU time that the calling thread has taken.
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "clock_gettime");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time that the whole machine has spent, idle and waiting for disks left out: the first line
/// of /proc/stat, proc_stat(5).
fn machine_busy() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let mut fields = stat.lines().next()?.split_ascii_whitespace().skip(1);
    let mut ticks = 0;
    for name in ["user", "nice", "system", "idle", "iowait", "irq", "softirq"] {
        let value: u64 = fields.next()?.parse().ok()?;
        if !matches!(name, "idle" | "iowait") {
            ticks += value;
        }
    }
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_time_are_counted() {
        let meter = Meter::start();
        let started = Instant::now();
        let mut sum = 0_u64;
        while started.elapsed() < Duration::from_millis(60) {
            sum = std::hint::black_box(sum + 1);
        }
        let sample = meter.stop(10, 1000);
        assert_eq!((sample.rows, sample.bytes), (10, 1000));
        // A busy machine may give us a small part of a core, but for no less time.
        assert!(
            sample.cpu_user_s + sample.cpu_system_s > 0.005,
            "{sample:?}"
        );
        assert!(sample.seconds >= 0.06, "{sample:?}");
    }

    #[test]
    fn rates_are_per_second_and_per_row() {
        let sample = Sample {
            rows: 200,
            bytes: 30_000_000,
            seconds: 2.0,
            cpu_user_s: 0.001,
            cpu_system_s: 0.003,
            cores_elsewhere: 0.0,
        };
        assert_eq!(sample.rows_per_s(), 100.0);
        assert_eq!(sample.mb_per_s(), 15.0);
        assert!((sample.cpu_us_per_row() - 20.0).abs() < 1e-9);
        assert!(sample.of_all("it", 200).is_ok());
        let error = sample.of_all("it", 201).unwrap_err();
        assert_eq!(error.to_string(), "it gave 200 of 201 rows");
    }

    #[test]
    fn medians() {
        let check = |values: &[f64], expected: f64| {
            assert_eq!(median(values.iter().copied()), expected);
        };
        check(&[3.0], 3.0);
        check(&[9.0, 1.0], 5.0);
        check(&[9.0, 1.0, 2.0], 2.0);
    }
}
