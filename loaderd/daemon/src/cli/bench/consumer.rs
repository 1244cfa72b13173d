//! The consumer of `loaderd bench`: a client of the daemon's real socket.
//!
//! Enters: a request. Leaves: how many rows came, how long each took, and where the
//! daemon's CPU time went. It holds one batch at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use loaderd_wire::WireError;
use loaderd_wire::layout::Layout;
use loaderd_wire::message::{OpenRequest, Opened, Ready, ToClient, ToDaemon};
use loaderd_wire::receipt;
use loaderd_wire::segment::Segment;
use loaderd_wire::socket::Channel;
use serde::Serialize;

use crate::cli::greet;
use crate::clock;
use crate::histogram::Histogram;

const ANSWER_WAIT: Duration = Duration::from_secs(600);

/// How to consume.
pub(super) struct Settings {
    /// For how long, after the warm-up.
    pub(super) time: Duration,
    /// How long each batch is held.
    pub(super) hold: Duration,
    /// Batches that don't count: they find empty slots and cold code. 0: what comes first is
    /// to count as well, waiting for it included.
    pub(super) warm_up: u32,
    /// Ends with the epoch, so that no row is read twice.
    pub(super) one_epoch: bool,
}

/// An open job.
pub(super) struct Consumer {
    settings: Settings,
    channel: Channel,
    segment: Segment,
    layout: Layout,
    decoder: String,
}

/// What the consumer saw.
pub(super) struct Consumed {
    pub(super) rows: u64,
    /// Of them, those with an image that could not be decoded.
    pub(super) bad_rows: u64,
    pub(super) bytes: u64,
    pub(super) time: Duration,
    pub(super) waited: Duration,
    pub(super) cpu_ns: u64,
    pub(super) parts: CpuParts,
    /// From publishing a batch to having it.
    pub(super) handover: Histogram,
    /// From having a batch to having the next.
    pub(super) gaps: Histogram,
    pub(super) slot_bytes: u64,
    pub(super) decoder: String,
}

impl Consumed {
    /// The part of the time in which there was no batch to be had.
    pub(super) fn waited_part(&self) -> f64 {
        self.waited.as_secs_f64() / self.time.as_secs_f64()
    }
}

/// CPU time by part of the daemon, in µs per row.
#[derive(Serialize)]
pub(super) struct CpuParts {
    pub(super) read_and_plan: f64,
    pub(super) decode: f64,
    pub(super) log_and_publish: f64,
}

impl Consumer {
    /// Connects and opens the job; blocks until the daemon has planned it.
    pub(super) fn open(
        socket: &Path,
        request: OpenRequest,
        settings: Settings,
    ) -> Result<Consumer> {
        let channel = Channel::connect(socket)?;
        match greet(&channel, ANSWER_WAIT)? {
            ToClient::Welcome { .. } => {}
            ToClient::Failed(failure) => bail!(failure.message),
            other => bail!("the daemon answered {other:?}"),
        }
        channel.send(&ToDaemon::Open(Box::new(request)), &[])?;
        let (opened, fds): (Box<Opened>, _) = loop {
            let received = channel.receive(Some(ANSWER_WAIT))?;
            match received.message {
                ToClient::Opened(opened) => break (opened, received.fds),
                // The daemon's log, which is our output, says the same.
                ToClient::Waiting { .. } => {}
                ToClient::Failed(failure) => bail!(failure.message),
                other => bail!("the daemon answered {other:?}"),
            }
        };
        let fd = fds.into_iter().next().context("no segment came along")?;
        let segment = Segment::from_fd(fd, opened.layout.slot_bytes, opened.slot_count)?;
        Ok(Consumer {
            settings,
            channel,
            segment,
            layout: opened.layout,
            decoder: opened.decoder,
        })
    }

    /// Consumes batches, epoch after epoch, until the time is up.
    pub(super) fn run(&self) -> Result<Consumed> {
        let mut stream = 0;
        let hold = self.settings.hold;
        let start = |stream: u64| {
            self.channel.send(
                &ToDaemon::Start {
                    stream,
                    epoch: stream,
                    step: 0,
                },
                &[],
            )
        };
        let mut warm_up = self.settings.warm_up;
        let now = || (Instant::now(), clock::process_cpu_ns());
        let mut measured = (warm_up == 0).then(now);
        let mut consumed = Consumed {
            rows: 0,
            bad_rows: 0,
            bytes: 0,
            time: Duration::ZERO,
            waited: Duration::ZERO,
            cpu_ns: 0,
            parts: CpuParts {
                read_and_plan: 0.0,
                decode: 0.0,
                log_and_publish: 0.0,
            },
            handover: Histogram::default(),
            gaps: Histogram::default(),
            slot_bytes: self.layout.slot_bytes,
            decoder: self.decoder.clone(),
        };
        let mut last: Option<u64> = None;
        let mut parts = [ThreadCpu::now(), ThreadCpu::default()];
        stream += 1;
        start(stream)?;
        let mut ended = false;
        loop {
            let waiting = Instant::now();
            let (message, fds) = match self.channel.receive(Some(ANSWER_WAIT)) {
                Ok(received) => (received.message, received.fds),
                Err(WireError::Timeout { .. }) => bail!("no batch in {ANSWER_WAIT:?}"),
                Err(error) => return Err(error.into()),
            };
            let now_ns = clock::monotonic_ns();
            let waited = waiting.elapsed();
            match message {
                ToClient::Ready(ready) => {
                    // What any client does first; it reads every offset of ragged columns.
                    let oversize = receipt::receive(&self.layout, &self.segment, &ready, fds)?;
                    let before = last.replace(now_ns);
                    if warm_up > 0 {
                        warm_up -= 1;
                        if warm_up == 0 {
                            measured = Some(now());
                            parts[0] = ThreadCpu::now();
                        }
                    } else {
                        consumed.waited += waited;
                        consumed.rows += u64::from(ready.rows);
                        consumed.bad_rows += u64::from(ready.bad_rows);
                        consumed.bytes += self.bytes(&ready);
                        consumed
                            .handover
                            .record(now_ns.saturating_sub(ready.published_ns));
                        if let Some(before) = before {
                            consumed.gaps.record(now_ns.saturating_sub(before));
                        }
                    }
                    self.take(&ready, oversize.as_ref(), hold)?;
                }
                ToClient::EndOfEpoch { .. } => {
                    ended = self.settings.one_epoch;
                    if !ended || consumed.rows == 0 {
                        stream += 1;
                        start(stream)?;
                    }
                }
                ToClient::Failed(failure) => bail!(failure.message),
                other => bail!("the daemon sent {other:?}"),
            }
            if let Some((since, cpu)) = measured
                && (ended || since.elapsed() >= self.settings.time)
                && consumed.rows > 0
            {
                consumed.time = since.elapsed();
                consumed.cpu_ns = clock::process_cpu_ns() - cpu;
                parts[1] = ThreadCpu::now();
                consumed.parts = parts[1].since(&parts[0], consumed.rows);
                return Ok(consumed);
            }
        }
    }

    /// Bytes of a batch: its dense tensors, and its ragged columns with their offsets.
    fn bytes(&self, ready: &Ready) -> u64 {
        let mut parts = ready.ragged.iter();
        let tensors = self.layout.tensors.iter();
        tensors
            .map(|tensor| match tensor.ragged {
                Some(_) => parts.next().map_or(0, |part| part.bytes(tensor)),
                None => u64::from(ready.rows) * tensor.row_bytes(),
            })
            .sum()
    }

    /// Holds a batch as a training step would, and touches it, so that it is really there.
    fn take(&self, ready: &Ready, oversize: Option<&Segment>, hold: Duration) -> Result<()> {
        self.channel
            .send(&ToDaemon::Delivered { lease: ready.lease }, &[])?;
        let start = match oversize {
            Some(segment) => segment.slot_ptr(0),
            None => self.segment.slot_ptr(ready.slot),
        };
        // SAFETY: the slot is ours until `Release`, and mapped as long as its segment.
        std::hint::black_box(unsafe { start.read_volatile() });
        if !hold.is_zero() {
            std::thread::sleep(hold);
        }
        self.channel
            .send(&ToDaemon::Release { lease: ready.lease }, &[])?;
        Ok(())
    }
}

/// CPU time by kind of thread, read from the kernel's per-thread statistics, in ns.
#[derive(Default)]
struct ThreadCpu {
    feed: u64,
    decode: u64,
    publish: u64,
}

impl ThreadCpu {
    fn now() -> ThreadCpu {
        let mut sum = ThreadCpu::default();
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
            return sum;
        };
        for task in tasks.flatten() {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name));
            let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else {
                continue;
            };
            // The first number is the time spent on a CPU, in ns (kernel: sched-stats.rst).
            let ns = stat
                .split_whitespace()
                .next()
                .and_then(|ns| ns.parse::<u64>().ok())
                .unwrap_or(0);
            match name.trim() {
                "feeder" => sum.feed += ns,
                "publisher" | "step-log" => sum.publish += ns,
                // The GPU's unit names its threads `gpu-`.
                name if name.starts_with("decode-") || name.starts_with("gpu-") => {
                    sum.decode += ns;
                }
                _ => {}
            }
        }
        sum
    }

    fn since(&self, then: &ThreadCpu, rows: u64) -> CpuParts {
        let per_row = |now: u64, then: u64| (now.saturating_sub(then)) as f64 / rows as f64 / 1e3;
        CpuParts {
            read_and_plan: per_row(self.feed, then.feed),
            decode: per_row(self.decode, then.decode),
            log_and_publish: per_row(self.publish, then.publish),
        }
    }
}
