//! A picture of throughput against concurrency.

use std::fmt::Write as _;

use super::report::{Report, RunReport};
use crate::table::number;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 66.0;
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:17px;font-weight:600}\
    .small{font-size:11px;fill:#777}.grid{stroke:#e4e4e4}.axis{stroke:#888}\
    .line{fill:none;stroke:#1f6feb;stroke-width:2.5}.dot{fill:#1f6feb}\
    .value{font-weight:600}.halo{stroke:#fff;stroke-width:5px;stroke-linejoin:round}";

/// The whole file.
pub fn picture(report: &Report) -> String {
    draw(&report.title(), &report.machine(), &report.runs)
}

fn draw(title: &str, below: &str, runs: &[RunReport]) -> String {
    let mut points: Vec<(f64, f64)> =
        runs.iter().map(|run| (run.concurrency as f64, run.operations_per_second)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let top = ceiling(points.iter().map(|point| point.1).fold(0.0, f64::max));
    let first = points.first().map_or(1.0, |point| point.0);
    let last = points.last().map_or(1.0, |point| point.0);
    // Concurrency grows by factors, so its axis is logarithmic.
    let x = |value: f64| {
        let share = if last > first { (value / first).ln() / (last / first).ln() } else { 0.5 };
        LEFT + 20.0 + share * (WIDTH - LEFT - RIGHT - 50.0)
    };
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = frame(title, below);
    for step in 0..=5 {
        let value = top * f64::from(step) / 5.0;
        let (line, end) = (y(value), WIDTH - RIGHT);
        put(
            &mut svg,
            format_args!(r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{line:.1}" y2="{line:.1}"/>"#),
        );
        text(&mut svg, (LEFT - 8.0, line + 4.5), "end", &thousands(value));
    }
    let (base, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    put(&mut svg, format_args!(r#"<line class="axis" x1="{LEFT}" x2="{end}" y1="{base}" y2="{base}"/>"#));
    let path: Vec<String> =
        points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
    put(&mut svg, format_args!(r#"<polyline class="line" points="{}"/>"#, path.join(" ")));
    for &(concurrency, rate) in &points {
        let (cx, cy) = (x(concurrency), y(rate));
        put(&mut svg, format_args!(r#"<circle class="dot" cx="{cx:.1}" cy="{cy:.1}" r="4"/>"#));
        let rate = thousands(rate);
        // Below the words, the same in white and thicker, so that no line runs through them.
        for class in ["value halo", "value"] {
            let place = format_args!(r#"x="{cx:.1}" y="{:.1}" text-anchor="middle""#, cy - 10.0);
            put(&mut svg, format_args!(r#"<text class="{class}" {place}>{rate}</text>"#));
        }
        text(&mut svg, (cx, base + 20.0), "middle", &format!("{concurrency}"));
    }
    svg.push_str("</svg>\n");
    svg
}

fn frame(title: &str, below: &str) -> String {
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">"#
        ),
    );
    put(&mut svg, format_args!("<style>{STYLE}</style>"));
    put(&mut svg, format_args!(r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##));
    put(&mut svg, format_args!(r#"<text class="title" x="{LEFT}" y="30">{}</text>"#, escape(title)));
    text(&mut svg, (LEFT, 52.0), "start", "operations per second");
    text(&mut svg, (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 26.0), "middle", "concurrent requests");
    put(
        &mut svg,
        format_args!(r#"<text class="small" x="{LEFT}" y="{}">{}</text>"#, HEIGHT - 8.0, escape(below)),
    );
    svg
}

fn put(svg: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(svg, "{line}");
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, words: &str) {
    let (x, y, words) = (at.0, at.1, escape(words));
    put(svg, format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#));
}

/// A round number at or above this one, divisible by five in round steps.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let room = value * 1.08;
    let power = 10f64.powf(room.log10().floor());
    [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|&top| top >= room)
        .unwrap_or(room)
}

fn thousands(value: f64) -> String {
    let (text, unit) = match value {
        v if v >= 10_000.0 => (number(v / 1000.0), " k"),
        v => (number(v), ""),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(concurrency: usize, rate: f64) -> RunReport {
        RunReport {
            concurrency,
            seconds: 1.0,
            operations_per_second: rate,
            mib_per_second: 0.0,
            operations: 1,
            errors: 0,
            corrupt: 0,
            stale: 0,
            server_cpu_us_per_operation: None,
            server_cpus: None,
            other_cpus: None,
            client_cpu_us_per_operation: 0.0,
            by_operation: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    #[test]
    fn points_lie_inside_and_in_order() {
        let svg = draw("S3 put <4 KiB>", "a & b", &[run(64, 30_000.0), run(1, 900.0), run(8, 20_000.0)]);
        assert!(svg.contains("S3 put &lt;4 KiB&gt;") && svg.contains("a &amp; b"));
        let path = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let points: Vec<(f64, f64)> = path
            .split(' ')
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 3);
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1), "{points:?}");
        assert!(
            points
                .iter()
                .all(|&(x, y)| (LEFT..WIDTH - RIGHT).contains(&x) && (TOP..HEIGHT - BOTTOM).contains(&y))
        );
    }

    #[test]
    fn one_point_and_none_are_pictures_too() {
        assert!(!draw("t", "b", &[run(1, 5.0)]).contains("NaN"));
        assert!(!draw("t", "b", &[run(1, 0.0)]).contains("NaN"));
        assert!(draw("t", "b", &[]).ends_with("</svg>\n"));
        assert_eq!(ceiling(30_000.0), 40_000.0);
        assert_eq!([0.0, 5000.0, 25_000.0, 21_359.0].map(thousands), ["0", "5000", "25 k", "21.4 k"]);
    }
}
