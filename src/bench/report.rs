//! One page of HTML of all results in a folder: plots, tables, and what they depend on. It loads nothing from anywhere.

use std::fmt::Write as _;

use super::chart::{Axis, Chart, Line, Scale, escape};
use super::curve::Curve;
use super::document::{Document, Point};
use super::figure::{Better, Figure, readable};

/// More lines than this in a chart of curves tell nothing apart.
const CURVES_MAX: usize = 12;

/// The page.
pub fn page(documents: &[Document]) -> String {
    let mut page = String::from(HEAD);
    if documents.len() > 1 {
        page.push_str("<ul>");
        for document in documents {
            let (name, about) = (escape(&document.scenario), escape(&document.about));
            // Writing to a string can't fail.
            let _ = write!(page, "<li><a href=\"#{name}\">{name}</a>: {about}</li>");
        }
        page.push_str("</ul>\n");
    }
    documents.iter().for_each(|document| write_document(&mut page, document));
    page.push_str("</body></html>\n");
    page
}

fn write_document(page: &mut String, document: &Document) {
    let name = escape(&document.scenario);
    let _ = writeln!(page, "<h2 id=\"{name}\">{name}</h2><p>{}.</p>", escape(&document.about));
    for warning in &document.warnings {
        let _ = write!(page, "<p class=bad>Warning: {}.</p>", escape(warning));
    }
    let verdict = if document.is_lossless() { "<p class=good>" } else { "<p class=bad>" };
    let what = if document.is_lossless() {
        "Nothing was lost, every account balanced."
    } else {
        "Events were lost: this run does not count."
    };
    if document.scenario != "ceiling" {
        let _ = write!(page, "{verdict}{what}</p>");
    }
    for chart in charts(document) {
        page.push_str(&chart.svg());
    }
    write_figures(page, document);
    write_facts(page, document);
}

/// Every chart that a document has something for.
fn charts(document: &Document) -> Vec<Chart> {
    let mut charts = match &document.axis {
        Some(axis) => sweeps(document, axis),
        None => repeats(document).into_iter().collect(),
    };
    charts.extend(percentiles(document));
    charts
}

/// The names of the figures of a unit, in order, each once.
fn names_of<'a>(document: &'a Document, unit: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in document.points.iter().flat_map(|point| &point.figures.0) {
        // What was asked for is the axis.
        if figure.unit == unit && figure.name != "sent" && !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    names
}

/// A figure over the scenario's axis, with a band from least to most.
fn swept(document: &Document, name: &str, label: &str) -> Line {
    let found: Vec<(f64, &Figure)> =
        document.points.iter().filter_map(|point| Some((point.x?, point.figures.get(name)?))).collect();
    Line {
        name: label.to_owned(),
        points: found.iter().map(|(x, figure)| (*x, figure.median())).collect(),
        band: found.iter().map(|(_, figure)| (figure.least(), figure.most())).collect(),
    }
}

/// Rates, then times grouped by what is before the last comma of their names: `due to handled, p50` and `, p99` are one chart.
fn sweeps(document: &Document, axis: &str) -> Vec<Chart> {
    let xs: Vec<f64> = document.points.iter().filter_map(|point| point.x).collect();
    let unit = if axis.contains("bytes") { "bytes" } else { "" };
    let x = Axis { label: axis.to_owned(), unit, scale: Scale::Log, ticks: xs };
    let mut charts = Vec::new();
    let rates = names_of(document, "events/s");
    if !rates.is_empty() {
        let lines = rates.into_iter().map(|name| swept(document, name, name)).collect();
        let scale = if unit == "bytes" { Scale::Log } else { Scale::Linear };
        let y = Axis { label: "events a second".to_owned(), unit: "events/s", scale, ticks: Vec::new() };
        charts.push(Chart { title: "Throughput".to_owned(), x: x.clone(), y, lines });
    }
    let mut groups: Vec<(&str, Vec<Line>)> = Vec::new();
    for name in names_of(document, "ns") {
        let (group, label) = name.rsplit_once(", ").unwrap_or((name, name));
        let line = swept(document, name, label);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, lines)) => lines.push(line),
            None => groups.push((group, vec![line])),
        }
    }
    charts.extend(groups.into_iter().map(|(group, lines)| {
        let scale = if lines.len() > 1 { Scale::Log } else { Scale::Linear };
        let y = Axis { label: "time".to_owned(), unit: "ns", scale, ticks: Vec::new() };
        Chart { title: capital(group), x: x.clone(), y, lines }
    }));
    charts
}

/// Rates over repeats: how steady the machine was.
fn repeats(document: &Document) -> Option<Chart> {
    let of_point = |point: &Point| -> Vec<Line> {
        let rates =
            point.figures.0.iter().filter(|figure| figure.unit == "events/s" && figure.runs.len() > 1 && figure.name != "sent");
        let name = |figure: &Figure| match document.points.len() {
            1 => figure.name.clone(),
            _ => format!("{}, {}", figure.name, point.name),
        };
        let numbered = |figure: &Figure| figure.runs.iter().enumerate().map(|(run, value)| ((run + 1) as f64, *value)).collect();
        rates.map(|figure| Line { name: name(figure), points: numbered(figure), band: Vec::new() }).collect()
    };
    let lines: Vec<Line> = document.points.iter().flat_map(of_point).collect();
    let most = lines.iter().map(|line| line.points.len()).max()?;
    let ticks = (1..=most).map(|run| run as f64).collect();
    let x = Axis { label: "repeat".to_owned(), unit: "repeat", scale: Scale::Linear, ticks };
    let y = Axis { label: "events a second".to_owned(), unit: "events/s", scale: Scale::Linear, ticks: Vec::new() };
    Some(Chart { title: "Throughput by repeat".to_owned(), x, y, lines })
}

/// Curves over percentiles: of few points a chart for each, of many a chart for each kind of latency.
fn percentiles(document: &Document) -> Vec<Chart> {
    let chart = |title: &str, lines: Vec<Line>| Chart {
        title: capital(title),
        x: Axis { label: "percentile".to_owned(), unit: "", scale: Scale::Percentile, ticks: Vec::new() },
        y: Axis { label: "latency".to_owned(), unit: "ns", scale: Scale::Log, ticks: Vec::new() },
        lines,
    };
    let points: Vec<&Point> = document.points.iter().filter(|point| !point.curves.is_empty()).take(CURVES_MAX).collect();
    if points.len() <= 2 {
        let lines = |point: &Point| point.curves.iter().map(|curve| drawn(&curve.name, curve)).collect();
        return points.into_iter().map(|point| chart(&format!("Latency by percentile, {}", point.name), lines(point))).collect();
    }
    let mut kinds: Vec<&str> = Vec::new();
    for curve in points.iter().flat_map(|point| &point.curves) {
        if !kinds.contains(&curve.name.as_str()) {
            kinds.push(&curve.name);
        }
    }
    let of_kind = |kind: &str| -> Vec<Line> {
        let found = points.iter().filter_map(|point| Some((point, point.curves.iter().find(|curve| curve.name == kind)?)));
        found.map(|(point, curve)| drawn(&point.name, curve)).collect()
    };
    kinds.into_iter().map(|kind| chart(&format!("{kind}, by percentile"), of_kind(kind))).collect()
}

/// A curve up to its greatest value, which stands where one in `count` is.
fn drawn(name: &str, curve: &Curve) -> Line {
    let last = 1.0 - 1.0 / (curve.count.max(2) as f64);
    let points = curve.points.iter().map(|point| (point.quantile.min(last), (point.ns as f64).max(1.0)));
    Line { name: name.to_owned(), points: points.collect(), band: Vec::new() }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn write_figures(page: &mut String, document: &Document) {
    let is_known = document.points.iter().flat_map(|point| &point.figures.0).any(|figure| figure.reference.is_some());
    let known_head = if is_known { "<th>known</th><th>share of it</th><th>known how</th>" } else { "" };
    for point in &document.points {
        let _ = write!(
            page,
            "<h3>{}</h3><table><tr><th></th><th>median</th><th>least</th><th>most</th>{known_head}</tr>",
            escape(&point.name)
        );
        for figure in &point.figures.0 {
            let values = [figure.median(), figure.least(), figure.most()].map(|value| readable(value, &figure.unit));
            let cells: String = values.iter().map(|value| format!("<td class=n>{}</td>", escape(value))).collect();
            let class = if figure.better == Better::Neither { " class=fact" } else { "" };
            let _ = write!(page, "<tr{class}><td>{}</td>{cells}{}</tr>", escape(&figure.name), known(figure, is_known));
        }
        page.push_str("</table>\n");
        for loss in &point.losses {
            let _ = write!(page, "<p class=bad>Loss: {}.</p>", escape(loss));
        }
    }
}

fn known(figure: &Figure, is_known: bool) -> String {
    match (&figure.reference, figure.share_of_reference()) {
        (Some(reference), Some(share)) => format!(
            "<td class=n>{}</td><td class=n>{share:.2}</td><td>{}</td>",
            escape(&readable(reference.value, &figure.unit)),
            escape(&reference.source)
        ),
        _ if is_known => "<td></td><td></td><td></td>".to_owned(),
        _ => String::new(),
    }
}

/// Host, noise and settings.
fn write_facts(page: &mut String, document: &Document) {
    let jitter = document.noise.median_jitter();
    let mut rows = document.host.rows();
    rows.push(("stolen by the host", format!("{:.2} % of all cores' time", document.noise.stolen_percent)));
    rows.push((
        "jitter",
        format!(
            "a bare loop lost {:.2} % of its time, {:.1} gaps over 1 ms a second, the longest {}",
            jitter.lost_percent,
            jitter.long_gaps_per_second,
            readable(jitter.longest_gap_ns as f64, "ns")
        ),
    ));
    page.push_str("<details><summary>Host, noise, settings</summary><table>");
    let settings = document.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in rows.into_iter().chain(settings) {
        let _ = write!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(&value));
    }
    page.push_str("</table></details>\n");
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8><title>eventstream bench</title><style>
body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1em}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}
th{font-weight:600;color:#555}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.fact td{color:#777}
.good{color:#007a3d}.bad{color:#b00020;font-weight:bold}svg{max-width:100%;height:auto;display:block;margin:1em 0}
h2{border-top:2px solid #ccc;padding-top:1em;margin-top:2em}summary{cursor:pointer;color:#555}
</style></head><body><h1>eventstream bench</h1>
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::document;

    #[test]
    fn a_page_loads_nothing_and_shows_every_figure() {
        let page = page(&[document(&[1e6, 2e6]), Document { scenario: "other".into(), axis: None, ..document(&[1e6, 2e6]) }]);
        for part in ["stored, all", "8 connections", "p99", "Throughput by repeat", "Nothing was lost", "href=\"#other\""] {
            assert!(page.contains(part), "{part}");
        }
        let loads = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!loads.contains("http") && !loads.contains("src="), "nothing is fetched");
    }

    #[test]
    fn figures_that_differ_in_their_percentile_share_a_chart() {
        let mut document = document(&[1e6]);
        for name in ["due to handled, p50", "due to handled, p99", "sender late, p50"] {
            document.points[0].figures.note(name, "ns", Better::Lower, 1_000.0);
        }
        let titles: Vec<String> = sweeps(&document, "connections").into_iter().map(|chart| chart.title).collect();
        assert_eq!(titles, ["Throughput", "P99", "Due to handled", "Sender late"]);
    }

    #[test]
    fn a_lossy_run_says_that_it_does_not_count() {
        let mut document = document(&[1e6]);
        document.points[0].losses.push("repeat 1: <3 events>".into());
        let page = page(&[document]);
        assert!(page.contains("does not count") && page.contains("Loss: repeat 1: &lt;3 events&gt;."));
    }
}
