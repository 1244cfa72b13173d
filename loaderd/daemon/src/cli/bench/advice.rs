//! What a bench's figures mean, in words.
//!
//! Enters: a report. Leaves: a verdict on which stage limits, and advice on threads,
//! slots and the cache. It says nothing that the figures don't.

use super::report::{Report, Trial, duration};
use crate::cli::size;

/// Rates that differ by less than this part are the same: two runs do as much.
const SAME: f64 = 0.03;
/// A consumer that waits for less than this part of the time is served.
const SERVED: f64 = 0.02;
/// Where decoding gets less than this part of its cores, they are not idle otherwise.
const IDLE: f64 = 0.85;
/// Within this factor of what reading gives alone, it is reading that limits.
const ALMOST: f64 = 1.1;
/// Slots that any job needs: one with the consumer, one in the making, one ready.
const SLOTS_MIN: u32 = 3;

/// Which stage limits.
pub(super) fn verdict(report: &Report) -> String {
    let waited = report.consumer_waited;
    let waited_text = format!("the consumer waited {:.0} % of the time", waited * 100.0);
    if waited < 0.1 {
        return format!("consumer-bound: {waited_text}; loading keeps up");
    }
    let rates = (
        report.rate("read"),
        report.rate("decode"),
        report.rate("end to end"),
    );
    match rates {
        (Some(read), _, Some(all)) if report.spread("gpu").is_some() => format!(
            "{}: {waited_text}; with the GPU {all:.0} images/s, reading alone {read:.0}",
            match all * ALMOST > read {
                true => "read-bound",
                false => "decode-bound",
            }
        ),
        (Some(read), Some(decode), Some(all)) if read < decode => format!(
            "read-bound: {waited_text}; reading alone gives {read:.0} rows/s, decoding alone {decode:.0}, together {all:.0}"
        ),
        (Some(read), Some(decode), Some(all)) => format!(
            "decode-bound: {waited_text}; decoding alone gives {decode:.0} images/s, reading alone {read:.0}, together {all:.0}"
        ),
        (Some(read), None, Some(all)) => format!(
            "read- or copy-bound: {waited_text}; reading alone gives {read:.0} rows/s, together with copying {all:.0}"
        ),
        _ if report.spread("decode").is_some() => format!(
            "load-bound: {waited_text}; files that text names are read and decoded on the decode threads"
        ),
        _ => format!("copy-bound: {waited_text}; nothing is decoded, rows are copied into slots"),
    }
}

/// What to try, most telling first.
pub(super) fn advice(report: &Report) -> Vec<String> {
    let slots = match &report.sweep {
        Some(sweep) => slots_swept(&sweep.slots),
        None => slots_from_gaps(report),
    };
    let slots = slots.map(|text| {
        format!(
            "{text}; a slot is a batch of prefetch, and takes {}",
            size::show(report.slot_bytes)
        )
    });
    let threads = report
        .sweep
        .as_ref()
        .and_then(|sweep| threads_swept(&sweep.threads));
    [busy(report), threads, slots, cold(report), reading(report)]
        .into_iter()
        .flatten()
        .collect()
}

/// How far threads carried.
fn threads_swept(trials: &[Trial]) -> Option<String> {
    let (first, last) = (trials.first()?, trials.last()?);
    let enough = fewest(trials)?;
    let gain = last.rows_per_s / first.rows_per_s;
    Some(if enough.threads < last.threads {
        format!(
            "threads: {} will do: {:.0} rows/s, and {:.0} with {}",
            enough.threads, enough.rows_per_s, last.rows_per_s, last.threads
        )
    } else if last.threads > first.threads {
        format!(
            "threads: {} give {gain:.1} times what {} gives, and each of them counts: more cores would help",
            last.threads, first.threads
        )
    } else {
        format!(
            "threads: {} is all there is: more cores would help",
            last.threads
        )
    })
}

/// How few slots give the same rate as the best.
fn slots_swept(trials: &[Trial]) -> Option<String> {
    let enough = fewest(trials)?;
    let best = trials
        .iter()
        .map(|trial| trial.rows_per_s)
        .fold(0.0, f64::max);
    Some(format!(
        "slots: {} will do: {:.0} rows/s, at best {best:.0}, the consumer waited {:.0} % of the time",
        enough.slots,
        enough.rows_per_s,
        enough.consumer_waited * 100.0
    ))
}

/// The first trial whose rate is as good as the best.
fn fewest(trials: &[Trial]) -> Option<&Trial> {
    let best = trials
        .iter()
        .map(|trial| trial.rows_per_s)
        .fold(0.0, f64::max);
    trials
        .iter()
        .find(|trial| trial.rows_per_s >= best * (1.0 - SAME))
}

/// How many slots ride out the slowest batches, from one run.
fn slots_from_gaps(report: &Report) -> Option<String> {
    let gaps = report.spread("gap")?;
    let (slowest_us, which) = gaps.slowest();
    let mean_us = gaps.mean_us;
    let held_us = report.consume_ms * 1e3;
    let seen = format!(
        "batches came {} apart, {which} {}",
        duration(mean_us),
        duration(slowest_us)
    );
    if held_us == 0.0 {
        // A consumer that takes what comes: the gaps are the loading's own.
        return Some(format!(
            "slots: {seen}: a training step that takes longer than {} seldom waits with {}",
            duration(mean_us),
            slots_for(slowest_us, mean_us)
        ));
    }
    if report.consumer_waited < SERVED {
        return Some(format!(
            "slots: {} will do for a step of {}: {seen}",
            report.slots,
            duration(held_us)
        ));
    }
    if mean_us > held_us * (1.0 + SAME) && report.consumer_waited > 0.1 {
        return Some(format!(
            "slots: more of them would not help: {seen}, and a step takes {}",
            duration(held_us)
        ));
    }
    Some(format!(
        "slots: try {} for a step of {}: {seen}",
        slots_for(slowest_us, held_us).max(report.slots + 1),
        duration(held_us)
    ))
}

/// Batches that must lie ready so that a consumer of one a `step_us` gets over a gap of
/// `gap_us`, and the two that can't: the one it holds and the one in the making.
fn slots_for(gap_us: f64, step_us: f64) -> u32 {
    let ready = ((gap_us / step_us.max(1.0)).ceil() - 1.0).clamp(1.0, 1e6);
    (2 + ready as u32).max(SLOTS_MIN)
}

/// Decoding from memory waits for nothing: what it does not get, others have.
fn busy(report: &Report) -> Option<String> {
    let decode = report.stages.iter().find(|stage| stage.name == "decode")?;
    let wanted = report.threads.min(report.cores) as f64;
    let got = decode.cpu_us_per_row * decode.rows_per_s / 1e6;
    (got < wanted * IDLE).then(|| {
        format!(
            "busy: decoding alone got the time of {got:.1} cores of {wanted}: other work on this machine makes every \
             figure worse"
        )
    })
}

fn cold(report: &Report) -> Option<String> {
    let part = |cold: &str, warm: &str| Some(report.rate(cold)? / report.rate(warm)?);
    let all = part("end to end, cold", "end to end")?;
    let read = part("read, cold", "read")?;
    Some(format!(
        "cold: an epoch from the disk runs at {:.0} % of a warm one, reading alone at {:.0} %",
        all * 100.0,
        read * 100.0
    ))
}

fn reading(report: &Report) -> Option<String> {
    let how = report.reading.as_ref()?;
    let lesser = how.contains("refused") || how.contains("not registered");
    lesser.then(|| {
        "reading: the machine refuses its fastest way: `loaderd doctor` says how to mend that"
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::super::consumer::CpuParts;
    use super::super::report::{Spread, Stage, Sweep};
    use super::*;

    fn trial(threads: usize, slots: u32, rows_per_s: f64) -> Trial {
        Trial {
            threads,
            slots,
            decode_rows_per_s: None,
            rows_per_s,
            consumer_waited: 0.5,
            gap_us_p50: None,
            gap_us_p99: None,
            gap_us_max: 0.0,
        }
    }

    /// 128 rows a batch, so `gaps_ms` decides the rate.
    fn report(consume_ms: f64, waited: f64, gaps_ms: &[u64]) -> Report {
        let gaps = crate::histogram::Histogram::default();
        gaps_ms.iter().for_each(|ms| gaps.record(ms * 1_000_000));
        let stage = |name, rows_per_s| Stage {
            rows_per_s,
            cpu_us_per_row: 2e6 / rows_per_s,
            ..Stage::of(name, 1, 1, std::time::Duration::from_secs(1), 1)
        };
        Report {
            uri: "memory:".into(),
            column: "image".into(),
            version: 1,
            rows: 1,
            threads: 2,
            cores: 2,
            batch_size: 128,
            slots: 4,
            slot_bytes: 1 << 20,
            consume_ms,
            reading: None,
            decoder: "libjpeg-turbo".into(),
            notes: vec![],
            stages: vec![
                stage("read", 9000.0),
                stage("decode", 1000.0),
                stage("end to end", 900.0),
            ],
            end_to_end_cpu_us: CpuParts {
                read_and_plan: 0.0,
                decode: 0.0,
                log_and_publish: 0.0,
            },
            consumer_waited: waited,
            handover_us_p50: 1.0,
            handover_us_p99: 1.0,
            spreads: vec![Spread::of("gap", &gaps)],
            sweep: None,
            verdict: String::new(),
            advice: vec![],
        }
    }

    #[test]
    fn verdicts_name_the_slowest() {
        let mut found = report(0.0, 0.9, &[100; 10]);
        assert!(verdict(&found).starts_with("decode-bound: the consumer waited 90 %"));
        found.stages[0].rows_per_s = 500.0;
        assert!(verdict(&found).starts_with("read-bound"));
        found.consumer_waited = 0.01;
        assert!(verdict(&found).starts_with("consumer-bound"));
        found.consumer_waited = 0.9;
        found.spreads[0].name = "gpu";
        assert!(verdict(&found).starts_with("read-bound"));
        found.stages[0].rows_per_s = 9000.0;
        assert!(verdict(&found).ends_with("with the GPU 900 images/s, reading alone 9000"));
        found.spreads[0].name = "gap";
        found.stages.remove(1);
        assert!(verdict(&found).starts_with("read- or copy-bound"));
        found.stages.truncate(0);
        assert!(verdict(&found).starts_with("copy-bound"));
        found.spreads[0].name = "decode";
        assert!(verdict(&found).starts_with("load-bound"));
    }

    #[test]
    fn gaps_say_how_many_slots() {
        let check = |report: Report, expected: &str| {
            let text = advice(&report).remove(0);
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("takes 1.00 MiB"), "{text}");
        };
        let steady = [100; 10];
        let bursts = [100, 100, 100, 100, 100, 100, 100, 100, 100, 500];
        check(
            report(0.0, 1.0, &steady),
            "longer than 100 ms seldom waits with 3",
        );
        check(
            report(0.0, 1.0, &bursts),
            "longer than 140 ms seldom waits with 5",
        );
        check(
            report(200.0, 0.0, &[200; 10]),
            "4 will do for a step of 200 ms",
        );
        check(report(50.0, 0.5, &steady), "more of them would not help");
        check(report(135.0, 0.05, &bursts), "try 5 for a step of 135 ms");
    }

    #[test]
    fn a_busy_machine_is_named() {
        // 1,000 rows a second on two cores.
        let mut found = report(0.0, 1.0, &[100; 10]);
        found.stages[1].cpu_us_per_row = 1900.0;
        assert_eq!(busy(&found), None);
        found.stages[1].cpu_us_per_row = 900.0;
        let text = busy(&found).unwrap();
        assert!(
            text.starts_with("busy: decoding alone got the time of 0.9 cores of 2"),
            "{text}"
        );
        found.cores = 1;
        assert_eq!(busy(&found), None);
    }

    #[test]
    fn sweeps_take_the_fewest_that_do() {
        let mut found = report(0.0, 1.0, &[100; 10]);
        found.sweep = Some(Sweep {
            threads: vec![trial(1, 4, 500.0), trial(2, 4, 990.0), trial(4, 4, 1000.0)],
            slots: vec![trial(4, 2, 700.0), trial(4, 3, 985.0), trial(4, 4, 1000.0)],
        });
        let advice = advice(&found);
        assert!(advice[0].starts_with("threads: 2 will do"), "{advice:?}");
        assert!(advice[1].starts_with("slots: 3 will do"), "{advice:?}");
        let growing = [trial(1, 4, 500.0), trial(2, 4, 990.0)];
        let text = threads_swept(&growing).unwrap();
        assert!(text.contains("2 give 2.0 times what 1 gives"), "{text}");
    }
}
