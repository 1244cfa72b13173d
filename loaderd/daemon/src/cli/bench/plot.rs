//! A bench's report as a picture: rates, how times are spread, and the sweep.
//!
//! Enters: a report. Leaves: SVG text that stands on its own. It reads no font, and
//! draws nothing that is not in the report.

use std::fmt::Write;

use super::report::{Report, Spread, Trial, duration};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 930.0;
const ROW: f64 = 26.0;
const RIDGE: f64 = 58.0;
const PANEL: f64 = 200.0;
/// Of small print, in the page's width.
const LINE_CHARACTERS: usize = 140;

const BLUE: &str = "#3b6ea8";
const ORANGE: &str = "#d9822b";
const GREY: &str = "#777";

/// Draws it.
pub(super) fn draw(report: &Report) -> String {
    let mut page = Page {
        body: String::new(),
        y: 34.0,
    };
    page.text(20.0, page.y, "start", 17.0, "#111", "loaderd bench");
    page.y += 20.0;
    page.words(&report.title(), GREY);
    page.y += 9.0;
    rates(&mut page, report);
    if !report.spreads.is_empty() {
        spreads(&mut page, &report.spreads);
    }
    if let Some(sweep) = &report.sweep {
        let top = page.y;
        let threads: Vec<_> = points(&sweep.threads, |trial| trial.threads as f64);
        let slots: Vec<_> = points(&sweep.slots, |trial| f64::from(trial.slots));
        lines(
            &mut page,
            (LEFT - 60.0, 470.0),
            top,
            "decode threads",
            &threads,
        );
        lines(&mut page, (580.0, RIGHT), top, "slots", &slots);
        page.y = top + PANEL + 98.0;
    }
    let mut words = vec![&report.verdict];
    words.extend(&report.advice);
    for line in words {
        page.words(line, "#111");
    }
    let height = page.y + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        page.body
    )
}

struct Page {
    body: String,
    /// Where the next part begins.
    y: f64,
}

impl Page {
    fn text(&mut self, x: f64, y: f64, anchor: &str, size: f64, fill: &str, text: &str) {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{fill}\">{text}</text>"
        )
        .expect("writing to a string");
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, more: &str) {
        writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\" {more}/>",
            from.0, from.1, to.0, to.1
        )
        .expect("writing to a string");
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        )
        .expect("writing to a string");
    }

    /// Text of any length, in small print.
    fn words(&mut self, text: &str, fill: &str) {
        for line in wrapped(text, LINE_CHARACTERS) {
            self.text(20.0, self.y, "start", 11.0, fill, &line);
            self.y += 17.0;
        }
    }

    fn heading(&mut self, text: &str) {
        self.text(20.0, self.y, "start", 13.0, "#111", text);
        self.y += 12.0;
    }
}

/// A bar a stage, on one scale.
fn rates(page: &mut Page, report: &Report) {
    page.heading("Rows a second, each stage alone and all together");
    let most = report
        .stages
        .iter()
        .map(|stage| stage.rows_per_s)
        .fold(1.0, f64::max);
    for stage in &report.stages {
        let width = (RIGHT - LEFT - 80.0) * stage.rows_per_s / most;
        let fill = match stage.name.starts_with("end to end") {
            true => ORANGE,
            false => BLUE,
        };
        page.text(LEFT - 8.0, page.y + 15.0, "end", 12.0, "#111", stage.name);
        page.bar(LEFT, page.y + 3.0, width.max(1.0), ROW - 9.0, fill);
        let rate = format!("{:.0}", stage.rows_per_s);
        page.text(
            LEFT + width + 6.0,
            page.y + 15.0,
            "start",
            12.0,
            "#111",
            &rate,
        );
        page.y += ROW;
    }
    page.y += 24.0;
}

/// A histogram a part, one below the other, on one logarithmic scale.
fn spreads(page: &mut Page, spreads: &[Spread]) {
    page.heading("How long each part takes: median, p99 (dashed), p99.9 (dotted)");
    let shortest = spreads
        .iter()
        .filter_map(|spread| spread.bins_from_us.first().copied())
        .fold(f64::MAX, f64::min)
        .max(0.01);
    let longest = spreads
        .iter()
        .map(|spread| spread.max_us)
        .fold(1.0, f64::max);
    let (low, high) = (shortest.log10().floor(), longest.log10().ceil());
    let place = |us: f64| {
        let part = (us.max(1e-3).log10() - low) / (high - low).max(1.0);
        LEFT + (RIGHT - LEFT) * part.max(0.0)
    };
    let (top, bottom) = (page.y, page.y + RIDGE * spreads.len() as f64);
    for decade in low as i32..=high as i32 {
        let us = 10f64.powi(decade);
        page.line((place(us), top), (place(us), bottom), "#ddd", "");
        let label = match us {
            us if us < 1.0 => format!("{:.0} ns", us * 1e3),
            us if us < 1e3 => format!("{us:.0} µs"),
            us if us < 1e6 => format!("{:.0} ms", us / 1e3),
            us => format!("{:.0} s", us / 1e6),
        };
        page.text(place(us), bottom + 14.0, "middle", 11.0, GREY, &label);
    }
    for (number, spread) in spreads.iter().enumerate() {
        let base = top + RIDGE * (number + 1) as f64;
        page.text(LEFT - 8.0, base - 6.0, "end", 12.0, "#111", spread.name);
        let count = format!("{} times", spread.count);
        page.text(LEFT - 8.0, base - 20.0, "end", 10.0, GREY, &count);
        ridge(page, spread, base, &place);
        page.line((LEFT, base), (RIGHT, base), "#bbb", "");
        let marks = [
            (spread.p50_us, ""),
            (spread.p99_us, "stroke-dasharray=\"4 3\""),
            (spread.p999_us, "stroke-dasharray=\"1 3\""),
        ];
        for (us, dashes) in marks {
            if let Some(us) = us {
                let x = place(us);
                page.line((x, base - RIDGE + 18.0), (x, base), ORANGE, dashes);
            }
        }
        if let Some(us) = spread.p50_us {
            let x = place(us);
            page.text(
                x,
                base - RIDGE + 14.0,
                "middle",
                10.0,
                "#111",
                &duration(us),
            );
        }
    }
    page.y = bottom + 46.0;
}

/// The outline of one histogram: the bins' counts against the largest.
fn ridge(page: &mut Page, spread: &Spread, base: f64, place: &dyn Fn(f64) -> f64) {
    let most = spread.bins_count.iter().copied().max().unwrap_or(1).max(1) as f64;
    let mut path = String::new();
    for (at, (&from, &count)) in spread
        .bins_from_us
        .iter()
        .zip(&spread.bins_count)
        .enumerate()
    {
        let to = spread.bins_from_us.get(at + 1).copied();
        let to = to.unwrap_or(from * 1.09).max(from);
        let y = base - (RIDGE - 22.0) * count as f64 / most;
        let (left, right) = (place(from), place(to));
        write!(path, "L{left:.1} {y:.1}L{right:.1} {y:.1}").expect("writing to a string");
    }
    let (Some(&first), Some(&last)) = (spread.bins_from_us.first(), spread.bins_from_us.last())
    else {
        return;
    };
    writeln!(
        page.body,
        "<path d=\"M{:.1} {base:.1}{path}L{:.1} {base:.1}Z\" fill=\"{BLUE}\" fill-opacity=\"0.55\" stroke=\"{BLUE}\"/>",
        place(first),
        place(last * 1.09)
    )
    .expect("writing to a string");
}

/// Where a trial stands: the number that was swept, the rate, and decoding alone.
type Point = (f64, f64, Option<f64>);

fn points(trials: &[Trial], at: impl Fn(&Trial) -> f64) -> Vec<Point> {
    trials
        .iter()
        .map(|trial| (at(trial), trial.rows_per_s, trial.decode_rows_per_s))
        .collect()
}

/// Rates over the number that was swept, from zero.
fn lines(page: &mut Page, (left, right): (f64, f64), top: f64, what: &str, points: &[Point]) {
    let title = format!("Rows a second by {what}");
    page.text(left - 40.0, top, "start", 13.0, "#111", &title);
    let (top, bottom) = (top + 16.0, top + 16.0 + PANEL);
    let most = points
        .iter()
        .flat_map(|&(_, rate, decode)| [Some(rate), decode])
        .flatten()
        .fold(1.0, f64::max);
    let widest = points.iter().map(|point| point.0).fold(1.0, f64::max);
    let x = |number: f64| left + (right - left - 16.0) * number / widest;
    let y = |rate: f64| bottom - (PANEL - 14.0) * rate / most;
    let step = round_step(most / 4.0);
    for number in 0..=(most / step) as u32 {
        let rate = step * f64::from(number);
        page.line((left, y(rate)), (right, y(rate)), "#ddd", "");
        let label = format!("{rate:.0}");
        page.text(left - 6.0, y(rate) + 4.0, "end", 10.0, GREY, &label);
    }
    page.line((left, top), (left, bottom), "#bbb", "");
    for &(number, ..) in points {
        page.text(
            x(number),
            bottom + 14.0,
            "middle",
            11.0,
            GREY,
            &number.to_string(),
        );
    }
    page.text(
        (left + right) / 2.0,
        bottom + 30.0,
        "middle",
        11.0,
        GREY,
        what,
    );
    let decode: Vec<_> = points
        .iter()
        .filter_map(|&(number, _, decode)| Some((x(number), y(decode?))))
        .collect();
    let all: Vec<_> = points
        .iter()
        .map(|point| (x(point.0), y(point.1)))
        .collect();
    let mut legend = left;
    for (series, stroke, name) in [(decode, BLUE, "decode alone"), (all, ORANGE, "end to end")] {
        for pair in series.windows(2) {
            page.line(pair[0], pair[1], stroke, "stroke-width=\"2\"");
        }
        for &(x, y) in &series {
            page.bar(x - 3.0, y - 3.0, 6.0, 6.0, stroke);
        }
        if !series.is_empty() {
            page.bar(legend, bottom + 40.0, 10.0, 10.0, stroke);
            page.text(legend + 15.0, bottom + 49.0, "start", 11.0, "#111", name);
            legend += 110.0;
        }
    }
}

/// The next of 1, 2, 5, 10, 20, … that is not smaller.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(1.0).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= step);
    factor.unwrap_or(10.0) * power
}

/// Lines of at most so many characters, broken at blanks.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("one at least");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= most {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    #[test]
    fn steps_are_round() {
        for (step, round) in [(0.3, 1.0), (1.5, 2.0), (128.0, 200.0), (501.0, 1000.0)] {
            assert_eq!(super::round_step(step), round);
        }
    }

    #[test]
    fn long_lines_are_broken_at_blanks() {
        assert_eq!(super::wrapped("äö ü ß abcdef", 4), ["äö ü", "ß", "abcdef"]);
        assert_eq!(super::wrapped("", 4), [""]);
    }
}
