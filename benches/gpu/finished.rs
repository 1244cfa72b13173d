//! The decode unit's finished images beside the CPU decoder's, kind by kind.
//!
//! Enters: a folder of JPEGs of any kind, damaged ones too. Leaves: of each, which lane took it,
//! what became of it, and its difference in grey levels from the CPU's image of the same crop.
//! Never: the daemon.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result};
use loaderd_decode::{Decoder, Limits};
use loaderd_gpu::Places;
use loaderd_gpu::unit::{NotTaken, Outcome, Settings};
use serde_json::{Value, json};

use crate::feed::{Ground, Planned, draws, pipeline};
use crate::photos::{files_of, read, stem};
use crate::unit::{lane, report};

/// How long a picture may take.
const WAIT: Duration = Duration::from_secs(20);
/// What a place holds before.
const POISON: u8 = 0xab;

/// Has the unit finish each JPEG by itself, and then all of them at once.
///
/// # Errors
/// Where there is no GPU for it, or a picture does not come back.
pub(crate) fn compare(libraries: &Places, folder: &Path, settings: &Settings) -> Result<Value> {
    let paths = files_of(folder)?;
    let pipeline = pipeline(false)?;
    let bytes = pipeline.output().bytes() as usize;
    let places = Ground::new(libraries, settings, bytes as u64, paths.len() as u32)?;
    let mut decoder = Decoder::new(Limits::default());
    let mut jpegs = Vec::new();
    for path in &paths {
        jpegs.push((stem(path), Arc::<[u8]>::from(read(path)?)));
    }
    let mut each: Vec<Value> = Vec::new();
    for (number, (name, jpeg)) in jpegs.iter().enumerate() {
        let mut cpu = vec![0; bytes];
        let cpu_says = decoder.decode(&pipeline, jpeg, &mut draws(number as u64), &mut cpu);
        let mut said = json!({"name": name, "cpu": cpu_says.err().map(|error| error.to_string())});
        for pass in ["alone", "together"] {
            said[pass] = Value::Null;
        }
        each.push(said);
        let found = one(&places, &pipeline, &jpegs[number..=number], number)?;
        each[number]["alone"] = describe(&found[0], &cpu);
    }
    let together = one(&places, &pipeline, &jpegs, 0)?;
    for (number, found) in together.iter().enumerate() {
        let mut cpu = vec![0; bytes];
        // Its error was noted above.
        let _ = decoder.decode(
            &pipeline,
            &jpegs[number].1,
            &mut draws(number as u64),
            &mut cpu,
        );
        each[number]["together"] = describe(found, &cpu);
    }
    let counts = places.unit.counts();
    Ok(json!({
        "kinds": each,
        "lanes": {"engine": lane(&counts.engine), "cuda": lane(&counts.cuda)},
        "report": report(&places),
        "failure": places.unit.failure().map(|error| error.to_string()),
    }))
}

/// What became of a picture: its words, and its bytes where it was finished.
struct Found {
    route: &'static str,
    outcome: String,
    finished: Option<Vec<u8>>,
}

/// Offers some at once, whose first has row `first`, and waits for all.
fn one(
    places: &Ground,
    pipeline: &loaderd_decode::Pipeline,
    jpegs: &[(String, Arc<[u8]>)],
    first: usize,
) -> Result<Vec<Found>> {
    let bytes = pipeline.output().bytes() as usize;
    let (sender, outcomes) = channel();
    let mut found = Vec::new();
    let mut waiting = 0;
    for (at, (_, jpeg)) in jpegs.iter().enumerate() {
        let position = (first + at) as u64;
        let out = places.out(at as u32);
        // SAFETY: nobody has this place: what was offered before has come back.
        unsafe { out.as_ptr().write_bytes(POISON, bytes) };
        let planned = Planned::of(jpeg, pipeline, places.unit.abilities(), position);
        let Ok(Some(planned)) = planned else {
            found.push(Found {
                route: "CPU",
                outcome: "for the CPU".into(),
                finished: None,
            });
            continue;
        };
        let route = planned.route;
        let sender = sender.clone();
        let done = Box::new(move |outcome| {
            let _ = sender.send((at, outcome));
        });
        let mut picture = planned.at(pipeline, out, done)?;
        let mut outcome = String::from("on its way");
        loop {
            match places.unit.offer(picture) {
                Ok(()) => waiting += 1,
                // Whatever else it is for, it would be for again.
                Err(back) if back.reason == NotTaken::Full && places.unit.room(route, WAIT) => {
                    picture = back.picture;
                    continue;
                }
                Err(back) => outcome = format!("not taken: {:?}", back.reason),
            }
            break;
        }
        found.push(Found {
            route: route.word(),
            outcome,
            finished: None,
        });
    }
    for _ in 0..waiting {
        let (at, outcome): (usize, Outcome) = (outcomes.recv_timeout(WAIT))
            .with_context(|| format!("no picture came back for {WAIT:?}"))?;
        found[at].outcome = match outcome {
            Outcome::Refused(why) => why.words().into(),
            Outcome::Finished => {
                // SAFETY: the unit is done with this place, which holds so many bytes.
                let bytes =
                    unsafe { std::slice::from_raw_parts(places.out(at as u32).as_ptr(), bytes) };
                found[at].finished = Some(bytes.to_vec());
                "finished".into()
            }
        };
    }
    Ok(found)
}

fn describe(found: &Found, cpu: &[u8]) -> Value {
    let mut said = json!({"route": found.route, "outcome": found.outcome});
    if let Some(bytes) = &found.finished {
        let differences = bytes.iter().zip(cpu).map(|(a, b)| a.abs_diff(*b));
        let (mut sum, mut most) = (0u64, 0u8);
        for difference in differences {
            sum += u64::from(difference);
            most = most.max(difference);
        }
        said["mean"] = json!(sum as f64 / cpu.len() as f64);
        said["most"] = json!(most);
    }
    said
}
