//! What came of it, in words and as JSON.
//!
//! Enters: a set with its measurements. Leaves: tables, ratios to reading whole files round by
//! round, and whether a way pays. Never: measures.
//!
//! The rule was there before the figures: a way pays where it reads at least 1.10 times as many
//! images a second past the page cache, read and decode from the page cache take at most 1.02
//! times the CPU time, and its index takes at most 0.5 % of the data.

use loaderd_measure::meter::{Sample, median};
use loaderd_measure::report::{Spread, say_table, table};
use loaderd_measure::say;
use serde_json::{Value, json};

use crate::pictures::Picture;
use crate::rows::Row;
use crate::ways::Way;
use crate::{Contestant, Measure, Measured, Set};

const READ_GAIN_MIN: f64 = 1.10;
const CPU_COST_MAX: f64 = 1.02;
const INDEX_SHARE_MAX: f64 = 0.005;
/// Fewer rows than this take too little time to judge by.
const JUDGED_ROWS_MIN: usize = 1000;
/// Images of ImageNet, for the index's size.
const IMAGES: f64 = 1.28e6;
/// Devices by their stated limits: name, bytes and requests a second.
const DEVICES: [(&str, f64, f64); 4] = [
    ("network, 0.25 GB/s", 0.25e9, 16e3),
    ("network, 1 GB/s", 1e9, 16e3),
    ("NVMe, 3 GB/s", 3e9, 500e3),
    ("NVMe, 7 GB/s", 7e9, 1e6),
];
/// Bands of an index: one a row of segments, and at most as many.
const BANDS: [u32; 4] = [u32::MAX, 16, 8, 4];

impl Contestant {
    fn of(&self, measure: Measure, value: fn(&Measured) -> f64) -> f64 {
        median(self.measured[measure as usize].iter().map(value))
    }

    /// Its value over `other`'s, round by round.
    fn over(&self, other: &Contestant, measure: Measure, value: fn(&Sample) -> f64) -> Spread {
        Spread::of_ratios(self.samples(measure), other.samples(measure), value)
    }

    fn samples(&self, measure: Measure) -> impl Iterator<Item = &Sample> {
        self.measured[measure as usize].iter().map(|it| &it.sample)
    }
}

impl Measured {
    fn images_per_s(&self) -> f64 {
        self.sample.rows_per_s()
    }

    fn cpu_us(&self) -> f64 {
        self.sample.cpu_us_per_row()
    }

    fn kb_read(&self) -> f64 {
        self.bytes_read as f64 / self.sample.rows as f64 / 1e3
    }

    fn requests(&self) -> f64 {
        self.requests as f64 / self.sample.rows as f64
    }
}

/// Prints all of it, and returns it as JSON.
pub(crate) fn show(set: &Set, brief: bool) -> Value {
    let rows = set.rows.all.len();
    let data_kb = set.rows.bytes as f64 / rows as f64 / 1e3;
    let rounds = set.contestants[0].measured[0].len();
    say(format_args!(
        "\n{}: {rows} rows of {} pictures, tiled, {data_kb:.1} KB each; all crops have the whole \
         JPEGs' pixels; medians of {rounds} rounds, one thread: images/s, CPU µs an image (user + system)",
        set.name,
        set.pictures.all.len(),
    ));
    for (name, reason) in &set.pictures.left_out {
        say(format_args!("left out: {name}: {reason}"));
    }
    show_ways(set);
    for engine in &set.engines {
        say(engine);
    }
    show_devices(set);
    let indexes = show_indexes(set);
    let share = |at: usize| {
        indexes[at]["share_of_data"]
            .as_f64()
            .unwrap_or(f64::INFINITY)
    };
    let (rows_share, header_share) = (share(0), share(BANDS.len()));
    let whole = &set.contestants[0];
    let mut verdicts = Vec::new();
    for it in set.contestants.iter().filter(|it| it.way != Way::Whole) {
        let gain = it.over(whole, Measure::ReadDirect, Sample::rows_per_s);
        let cost = it.over(whole, Measure::DecodeCached, Sample::cpu_us_per_row);
        let index_share = match it.way {
            Way::Segments => rows_share + header_share,
            _ => rows_share,
        };
        let pays = gain.median >= READ_GAIN_MIN
            && cost.median <= CPU_COST_MAX
            && index_share <= INDEX_SHARE_MAX;
        let words = match pays {
            _ if brief || rows < JUDGED_ROWS_MIN => "too few rows to judge by",
            true => "pays",
            false => "does not pay",
        };
        say(format_args!(
            "{}: images/s past the page cache {gain:.3} × (at least {READ_GAIN_MIN}), CPU time \
             with decoding {cost:.3} × (at most {CPU_COST_MAX}), index {:.2} % (at most {} %): \
             {words}",
            it.way.name(),
            index_share * 100.0,
            INDEX_SHARE_MAX * 100.0,
        ));
        verdicts.push(json!({
            "way": it.way.name(), "images_per_s_ratio": [gain.median, gain.least, gain.most],
            "cpu_ratio": [cost.median, cost.least, cost.most],
            "index_share": index_share, "verdict": words,
        }));
    }
    json!({
        "name": set.name,
        "rows": rows,
        "pictures": set.pictures.all.len(),
        "left_out": set.pictures.left_out.len(),
        "row_kb": data_kb,
        "engines": set.engines,
        "ways": set.contestants.iter().map(to_json).collect::<Vec<_>>(),
        "indexes": indexes,
        "verdicts": verdicts,
    })
}

const MEASURES: [(&str, Measure); 4] = [
    ("O_DIRECT", Measure::ReadDirect),
    ("and decode", Measure::DecodeDirect),
    ("cached", Measure::ReadCached),
    ("and decode", Measure::DecodeCached),
];

fn show_ways(set: &Set) {
    let header = ["KB read", "requests"].into_iter();
    let mut table = table(header.chain(MEASURES.map(|(name, _)| name)));
    for it in &set.contestants {
        let mut cells = vec![
            it.way.name().to_owned(),
            format!("{:.1}", it.of(Measure::ReadDirect, Measured::kb_read)),
            format!("{:.2}", it.of(Measure::ReadDirect, Measured::requests)),
        ];
        cells.extend(MEASURES.map(|(_, measure)| {
            let rate = it.of(measure, Measured::images_per_s);
            let cpu = it.of(measure, Measured::cpu_us);
            format!("{rate:.0}, {cpu:.1}")
        }));
        table.add_row(cells);
    }
    say_table(table);
}

/// What devices could deliver, and how many cores would take that in.
fn show_devices(set: &Set) {
    let mut table = table(DEVICES.map(|(name, ..)| name));
    for it in &set.contestants {
        let bytes = it.of(Measure::ReadDirect, Measured::kb_read) * 1e3;
        let requests = it.of(Measure::ReadDirect, Measured::requests);
        let cpu_s = it.of(Measure::DecodeDirect, Measured::cpu_us) / 1e6;
        let mut cells = vec![it.way.name().to_owned()];
        cells.extend(DEVICES.map(|(_, bytes_per_s, requests_per_s)| {
            let rate = (bytes_per_s / bytes).min(requests_per_s / requests);
            format!("{rate:.0}, {:.1}", rate * cpu_s)
        }));
        table.add_row(cells);
    }
    say(
        "by arithmetic, from KB and requests an image: images/s of a device, and cores that decode \
         as many (network: 16,000 requests/s)",
    );
    say_table(table);
}

/// What an index takes, and what is asked for with it; headers come last.
fn show_indexes(set: &Set) -> Vec<Value> {
    let pictures = &set.pictures.all;
    let rows = &set.rows.all;
    let count = rows.len() as f64;
    let picture = |row: &Row| -> &Picture { &pictures[row.picture] };
    let mean = |value: &dyn Fn(&Row) -> u64| rows.iter().map(value).sum::<u64>() as f64 / count;
    let tables = mean(&|row| picture(row).index.table_bytes() as u64);
    let mut answers = Vec::new();
    for bands in BANDS {
        let stored = mean(&|row| picture(row).index.stored_bytes(bands) as u64);
        let asked = mean(&|row| {
            let index = &picture(row).index;
            index.bytes(&index.banded(&row.wanted, bands)).len() as u64
        });
        let share = stored * count / set.rows.bytes as f64;
        let words = match bands {
            u32::MAX => "a number for each row of segments".into(),
            _ => format!("at most {bands} bands"),
        };
        say(format_args!(
            "index, {words}: {stored:.0} bytes an image, {:.0} MB for ImageNet's, {:.3} % of the \
             data; segments asked for: {:.1} KB",
            stored * IMAGES / 1e6,
            share * 100.0,
            asked / 1e3,
        ));
        answers.push(json!({
            "what": words, "bytes": stored, "share_of_data": share, "segment_bytes_asked": asked,
        }));
    }
    let share = tables * count / set.rows.bytes as f64;
    say(format_args!(
        "header, without metadata: {tables:.0} bytes an image, {:.0} MB for ImageNet's, {:.3} %, \
         besides where the index has it",
        tables * IMAGES / 1e6,
        share * 100.0,
    ));
    answers.push(json!({"what": "header", "bytes": tables, "share_of_data": share}));
    answers
}

fn to_json(it: &Contestant) -> Value {
    let names = [
        "read_direct",
        "decode_direct",
        "read_cached",
        "decode_cached",
    ];
    let measures = names.into_iter().zip(&it.measured);
    let measured = measures.map(|(name, rounds)| {
        let of = |value: fn(&Measured) -> f64| median(rounds.iter().map(value));
        json!({
            "what": name,
            "images_per_s": of(Measured::images_per_s),
            "cpu_us_per_image": of(Measured::cpu_us),
            "kb_read_per_image": of(Measured::kb_read),
            "requests_per_image": of(Measured::requests),
            "rounds": rounds.iter().map(|it| it.sample).collect::<Vec<_>>(),
        })
    });
    json!({"name": it.way.name(), "measured": measured.collect::<Vec<_>>()})
}
