//! `loaderd doctor`: what this machine gives loaderd, what is missing, and the mend.
//!
//! Enters: the machine, and a dataset where one is named. Leaves: a line per check, or
//! JSON, and an exit code. Where it can, a check does what a session does, with the
//! session's own code. It never changes a setting, and leaves nothing behind but the
//! folders that a session would make.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

use super::serve::GpuArguments;
use super::{Socket, say};

mod dataset;
mod folders;
mod gpu;
mod kernel;
mod programs;
mod resources;

/// Arguments of `loaderd doctor`.
#[derive(clap::Args)]
#[command(after_long_help = FORMAT)]
pub(super) struct Arguments {
    /// Dataset or folder to check [default: the current folder]
    #[arg(value_name = "URI|DIR")]
    place: Option<String>,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Seconds that the GPU's driver has to answer in
    #[arg(long, hide = true, default_value_t = 20)]
    gpu_wait: u64,
}

const FORMAT: &str = "\
Verdicts:
  ok       as it should be
  slow     sessions work, but more slowly
  missing  something optional is not there
  failed   something that sessions need does not work
The exit code is 1 if a check failed, else 0.

--json prints one object, whose names are stable:
  verdict   the worst of all checks
  checks    [{name, verdict, found, mend}]; mend is the fix, or null if none is needed
  versions  {loaderd, protocol, step_log_schema, libjpeg_turbo, lance, page_map_format};
            the last two are null in a build without Lance
Checks, in this order: kernel, io_uring, memlock, memfd, huge_pages, descriptors, cores,
memory, dataset, direct_io, page_cache, tiles, state, cache, temporary, runtime, daemon,
jpeg, lance, python, gpu_driver, gpu_devices, nvjpeg, gpu_pinned, gpu_export, mps,
gpu_decode. direct_io and page_cache are left out if there are no files to read, tiles if
no Lance dataset with images is given, and all after gpu_driver if no GPU can be used. If
the driver does not answer for 20 s, that check is reported as missing and those after it
are left out.

Set LOADERD_LIBCUDA and LOADERD_NVJPEG to the paths of these libraries if they are not
found, or to use others.";

/// How a check came out; the worst is the largest.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Missing,
    Slow,
    Failed,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Missing => "missing",
            Verdict::Slow => "slow",
            Verdict::Failed => "failed",
        }
    }
}

/// One line of the report.
#[derive(Serialize, Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            mend: None,
        }
    }

    fn slow(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Slow,
            mend: Some(mend.into()),
            ..Check::ok(name, found)
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Missing,
            ..Check::slow(name, found, mend)
        }
    }

    fn failed(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Failed,
            ..Check::slow(name, found, mend)
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    // Before anything else: what the daemon takes decides, and it takes what it may.
    let limits = resources::Limits::take();
    let (place, files) = dataset::find(arguments.place.as_deref());
    let mut checks: Vec<Check> = kernel::checks(&limits)
        .into_iter()
        .chain(resources::checks(&limits, files.len()))
        .chain(dataset::checks(&place, &files))
        .chain(folders::checks(&arguments.socket))
        .chain(programs::checks(&arguments.socket))
        .collect();
    let wait = Duration::from_secs(arguments.gpu_wait);
    // As of a daemon that is started without arguments.
    let (gpu, has_answered) = gpu::checks(GpuArguments::default().options()?, wait);
    checks.extend(gpu);
    if arguments.json {
        let worst = checks.iter().map(|check| check.verdict).max();
        let report = json!({
            "verdict": worst,
            "checks": checks,
            "versions": programs::versions(),
        });
        say(serde_json::to_string_pretty(&report)?);
    } else {
        show(&checks);
    }
    let outcome = outcome(&checks);
    if !has_answered {
        leave(&outcome);
    }
    outcome
}

fn outcome(checks: &[Check]) -> Result<()> {
    let failed: Vec<&str> = of(checks, Verdict::Failed).collect();
    if !failed.is_empty() {
        bail!("sessions can't work here: {} failed", failed.join(", "));
    }
    Ok(())
}

/// Ends the process without asking the GPU's library, whose driver may never answer.
fn leave(outcome: &Result<()>) -> ! {
    if let Err(error) = outcome {
        crate::note(format_args!("loaderd: {error}"));
    }
    let _ = std::io::stdout().flush();
    // SAFETY: nothing of ours is left to be done at exit.
    unsafe { libc::_exit(i32::from(outcome.is_err())) }
}

fn of(checks: &[Check], verdict: Verdict) -> impl Iterator<Item = &'static str> {
    checks
        .iter()
        .filter(move |check| check.verdict == verdict)
        .map(|check| check.name)
}

fn show(checks: &[Check]) {
    for check in checks {
        let mend = check
            .mend
            .as_ref()
            .map_or(String::new(), |mend| format!("; mend: {mend}"));
        let (name, verdict) = (check.name, check.verdict.word());
        say(format_args!(
            "{name:<12} {verdict:<8} {}{mend}",
            check.found
        ));
    }
    let slow: Vec<&str> = of(checks, Verdict::Slow).collect();
    if !slow.is_empty() {
        say(format_args!(
            "slow: {}: sessions work, at a higher cost",
            slow.join(", ")
        ));
    } else if of(checks, Verdict::Failed).next().is_none() {
        say("sessions have all they need");
    }
}
