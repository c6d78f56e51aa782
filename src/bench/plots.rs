//! Which pictures there are of a document: one for each thing that it has something to say about.

use super::bars::{Bar, Bars};
use super::chart::{Axis, Chart, Line, Mark, Scale};
use super::curve::Curve;
use super::document::{Document, Point};
use super::figure::{Figure, readable};
use super::stages::{Quantile, Stage};
use super::timeline::{Series, Timeline, panels};
use crate::wire::Tier;

/// More lines than this in a chart of curves tell nothing apart.
const CURVES_MAX: usize = 12;
/// So many points have pictures of their own; of more there is one with a row, or a line, for each.
const POINTS_APART_MAX: usize = 3;
/// The engine falls behind where it takes less than this share of what is due, or half of it waits for longer than [`BEHIND_NS`].
const BEHIND_SHARE: f64 = 0.95;
const BEHIND_NS: f64 = 1e6;

/// All of them, as SVG.
pub(super) fn of_document(document: &Document) -> Vec<String> {
    let mut charts = match &document.axis {
        Some(axis) => sweeps(document, axis),
        None => repeats(document).into_iter().collect(),
    };
    charts.extend(percentiles(document));
    charts.extend(document.points.iter().flat_map(over_time));
    charts.extend(cores_over_axis(document));
    let rates = if document.axis.is_none() { rates_by_point(document) } else { Vec::new() };
    let bars = stages(document).into_iter().chain(cores(document));
    rates.iter().map(Bars::svg).chain(charts.iter().map(Chart::svg)).chain(bars.map(|bars| bars.svg())).collect()
}

fn chart(title: impl Into<String>, x: Axis, y: Axis, lines: Vec<Line>) -> Chart {
    Chart { title: title.into(), x, y, lines, levels: Vec::new(), marks: Vec::new() }
}

// -- over the scenario's axis --

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

/// By powers of ten, unless there is a nought.
fn axis_of(document: &Document, axis: &str) -> Axis {
    let ticks: Vec<f64> = document.points.iter().filter_map(|point| point.x).collect();
    let unit = if axis.contains("bytes") { "bytes" } else { "" };
    let scale = if ticks.iter().all(|x| *x > 0.0) { Scale::Log } else { Scale::Linear };
    Axis { label: axis.to_owned(), unit, scale, ticks }
}

/// What a unit is called at an axis.
fn label_of(unit: &str) -> &str {
    match unit {
        "events/s" => "events a second",
        "ns" => "time",
        "%" => "percent of a core",
        other => other,
    }
}

/// Rates, then times grouped by what is before the last comma of their names (`due to handled, p50` and `, p99` are one chart), then bytes and shares.
fn sweeps(document: &Document, axis: &str) -> Vec<Chart> {
    let x = axis_of(document, axis);
    let knee = knee(document);
    let mut charts = Vec::new();
    let rates = names_of(document, "events/s");
    if !rates.is_empty() {
        let lines = rates.into_iter().map(|name| swept(document, name, name)).collect();
        let scale = if x.unit == "bytes" && x.scale == Scale::Log { Scale::Log } else { Scale::Linear };
        let y = Axis { label: label_of("events/s").to_owned(), unit: "events/s", scale, ticks: Vec::new() };
        charts.push(chart("Throughput", x.clone(), y, lines));
    }
    for unit in ["ns", "bytes", "share"] {
        let mut groups: Vec<(&str, Vec<Line>)> = Vec::new();
        for name in names_of(document, unit) {
            let (group, label) = name.rsplit_once(", ").unwrap_or((name, ""));
            let line = swept(document, name, label);
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, lines)) => lines.push(line),
                None => groups.push((group, vec![line])),
            }
        }
        charts.extend(groups.into_iter().map(|(group, lines)| {
            let is_log = lines.len() > 1 && lines.iter().flat_map(|line| &line.points).all(|(_, value)| *value > 0.0);
            let scale = if is_log { Scale::Log } else { Scale::Linear };
            let y = Axis { label: label_of(unit).to_owned(), unit, scale, ticks: Vec::new() };
            chart(capital(group), x.clone(), y, lines)
        }));
    }
    charts.iter_mut().for_each(|chart| chart.marks.extend(knee.clone()));
    charts
}

/// The first of rising rates that the engine does not keep up with.
fn knee(document: &Document) -> Option<Mark> {
    let is_behind = |point: &Point| -> Option<bool> {
        let (due, sent) = (point.x?, point.figures.get("sent")?.median());
        let waits = point.figures.get("due to handled, p50").is_some_and(|figure| figure.median() > BEHIND_NS);
        Some(sent < BEHIND_SHARE * due || waits)
    };
    let at = document.points.iter().find(|point| is_behind(point) == Some(true))?.x?;
    Some(Mark { at, name: format!("falls behind at {}", readable(at, "events/s")) })
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
    let y = Axis { label: label_of("events/s").to_owned(), unit: "events/s", scale: Scale::Linear, ticks: Vec::new() };
    (lines.len() <= CURVES_MAX).then(|| chart("Throughput by repeat", x, y, lines))
}

// -- over percentiles --

/// Curves over percentiles: of few points a chart for each, of many a chart for each kind of latency.
fn percentiles(document: &Document) -> Vec<Chart> {
    let by_percentile = |title: &str, lines: Vec<Line>| {
        let x = Axis { label: "percentile".to_owned(), unit: "", scale: Scale::Percentile, ticks: Vec::new() };
        let y = Axis { label: "latency".to_owned(), unit: "ns", scale: Scale::Log, ticks: Vec::new() };
        chart(capital(title), x, y, lines)
    };
    let points: Vec<&Point> = document.points.iter().filter(|point| !point.curves.is_empty()).take(CURVES_MAX).collect();
    if points.len() <= POINTS_APART_MAX {
        let lines = |point: &Point| point.curves.iter().map(|curve| drawn(&curve.name, curve)).collect();
        let title = |point: &Point| format!("Latency by percentile, {}", point.name);
        return points.into_iter().map(|point| by_percentile(&title(point), lines(point))).collect();
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
    kinds.into_iter().map(|kind| by_percentile(&format!("{kind}, by percentile"), of_kind(kind))).collect()
}

/// A curve up to its greatest value, which stands where one in `count` is.
fn drawn(name: &str, curve: &Curve) -> Line {
    let last = 1.0 - 1.0 / (curve.count.max(2) as f64);
    let points = curve.points.iter().map(|point| (point.quantile.min(last), (point.ns as f64).max(1.0)));
    Line { name: name.to_owned(), points: points.collect(), band: Vec::new() }
}

// -- over time --

/// A chart for each panel of a point's timeline, levels behind it and phases marked.
fn over_time(point: &Point) -> Vec<Chart> {
    let Some(timeline) = &point.timeline else { return Vec::new() };
    let mut names: Vec<&str> = Vec::new();
    for series in &timeline.series {
        if !names.contains(&series.panel.as_str()) {
            names.push(&series.panel);
        }
    }
    let panel = |name: &str| {
        let series: Vec<&Series> = timeline.series.iter().filter(|series| series.panel == name).collect();
        panel(point, timeline, name, &series)
    };
    names.into_iter().map(panel).collect()
}

fn panel(point: &Point, timeline: &Timeline, name: &str, series: &[&Series]) -> Chart {
    let unit = match series.first().map_or("", |series| series.unit.as_str()) {
        "ns" => "ns",
        "bytes" => "bytes",
        _ => "events/s",
    };
    // A latency that was not measured yet has no place among powers of ten.
    let is_log = name == panels::LATENCY;
    let line = |series: &&Series| {
        let values = timeline.seconds.iter().copied().zip(series.values.iter().copied());
        Line {
            name: series.name.clone(),
            points: values.filter(|(_, value)| !is_log || *value > 0.0).collect(),
            band: Vec::new(),
        }
    };
    let label = if name == panels::DEPTH { "events" } else { label_of(unit) };
    let x = Axis { label: "seconds".to_owned(), unit: "", scale: Scale::Linear, ticks: Vec::new() };
    let y = Axis { label: label.to_owned(), unit, scale: if is_log { Scale::Log } else { Scale::Linear }, ticks: Vec::new() };
    let marks = timeline.phases.iter().map(|phase| Mark { at: phase.from_seconds, name: phase.name.clone() });
    let title = format!("{} over time, {}", capital(name), point.name);
    Chart { levels: timeline.level_spans(), marks: marks.collect(), ..chart(title, x, y, series.iter().map(line).collect()) }
}

// -- bars --

/// Points without an axis, side by side: a picture for each rate that several of them have.
fn rates_by_point(document: &Document) -> Vec<Bars> {
    let of_rate = |name: &str| {
        let found = document.points.iter().filter_map(|point| Some((point, point.figures.get(name)?)));
        let rows: Vec<Bar> =
            found.map(|(point, figure)| Bar { name: point.name.clone(), values: vec![figure.median()] }).collect();
        (rows.len() > 1).then(|| Bars {
            title: capital(name),
            unit: "events/s",
            label: label_of("events/s").to_owned(),
            parts: vec!["median"],
            rows,
        })
    };
    names_of(document, "events/s").into_iter().filter_map(of_rate).collect()
}

/// What happens to an event until it is handled, and the rest of its way.
const TO_HANDLED: [Stage; 4] = [Stage::Received, Stage::Parsed, Stage::Taken, Stage::Handled];
const TO_DURABLE: [Stage; 4] = [Stage::Handled, Stage::Staged, Stage::Written, Stage::Durable];

/// Where an event's time goes: until it is handled, and, on another scale, until it is durable.
fn stages(document: &Document) -> Vec<Bars> {
    let points: Vec<&Point> = document.points.iter().filter(|point| !point.stages.is_empty()).collect();
    let halves = [("handled", TO_HANDLED), ("durable", TO_DURABLE)];
    let picture = |half: (&str, [Stage; 4]), rows: Vec<Bar>| {
        let parts =
            half.1.map(|stage| if half.1 == TO_DURABLE && stage == Stage::Handled { "until handled" } else { stage.work() });
        Bars {
            title: format!("Where an event's time goes until it is {}", half.0),
            unit: "ns",
            label: "time since it was received, or written where that is known".to_owned(),
            parts: parts.to_vec(),
            rows: rows.into_iter().filter(|row| row.values.iter().sum::<f64>() > 0.0).collect(),
        }
    };
    let row = |name: String, point: &Point, tier: Tier, half: &[Stage; 4], quantile| Bar {
        name,
        values: point.stages.spans(tier.name(), half, quantile),
    };
    let rows_apart = |half: &[Stage; 4]| -> Vec<Bar> {
        let mut rows = Vec::new();
        for point in &points {
            let of = if points.len() > 1 { format!("{}: ", point.name) } else { String::new() };
            for tier in Tier::ALL {
                rows.push(row(format!("{of}{tier} p50", tier = tier.name()), point, tier, half, Quantile::P50));
                rows.push(row(format!("{of}{tier} p99", tier = tier.name()), point, tier, half, Quantile::P99));
            }
        }
        rows
    };
    let rows_of_many = |half: &[Stage; 4], tier: Tier| -> Vec<Bar> {
        points.iter().map(|point| row(format!("{} p50", point.name), point, tier, half, Quantile::P50)).collect()
    };
    let pictures: Vec<Bars> = if points.len() <= POINTS_APART_MAX {
        halves.iter().map(|half| picture(*half, rows_apart(&half.1))).collect()
    } else {
        let all = halves.iter().flat_map(|half| Tier::ALL.map(|tier| (half, tier)));
        let named = all.map(|(half, tier)| {
            let bars = picture(*half, rows_of_many(&half.1, tier));
            Bars { title: format!("{}, {}", bars.title, tier.name()), ..bars }
        });
        named.collect()
    };
    pictures.into_iter().filter(|bars| !bars.rows.is_empty()).collect()
}

/// What the threads of few points took.
fn cores(document: &Document) -> Option<Bars> {
    let points: Vec<&Point> = document.points.iter().filter(|point| !point.threads.is_empty()).collect();
    if points.is_empty() || points.len() > POINTS_APART_MAX {
        return None;
    }
    let of_point = |point: &&Point| -> Vec<Bar> {
        let of = if points.len() > 1 { format!("{}: ", point.name) } else { String::new() };
        let named = point.threads.rows().into_iter();
        named.map(|(name, values)| Bar { name: format!("{of}{name}"), values: values.to_vec() }).collect()
    };
    let rows: Vec<Bar> = points.iter().flat_map(of_point).collect();
    (!rows.is_empty()).then(|| Bars {
        title: "What the engine's threads took of a core".to_owned(),
        unit: "%",
        label: "percent of a core".to_owned(),
        parts: vec!["user space", "kernel", "waiting while others ran"],
        rows,
    })
}

/// What the threads of many points took together, over the scenario's axis.
fn cores_over_axis(document: &Document) -> Option<Chart> {
    let with_threads = document.points.iter().filter(|point| !point.threads.is_empty() && point.x.is_some());
    let points: Vec<&Point> = with_threads.collect();
    let x = axis_of(document, document.axis.as_deref()?);
    if points.len() <= POINTS_APART_MAX {
        return None;
    }
    let sum = |point: &Point, part: usize| point.threads.rows().iter().map(|(_, values)| values[part]).sum::<f64>();
    let line = |(part, name): (usize, &str)| Line {
        name: name.to_owned(),
        points: points.iter().filter_map(|point| Some((point.x?, sum(point, part)))).collect(),
        band: Vec::new(),
    };
    let lines = ["user space", "kernel", "waiting while others ran"].into_iter().enumerate().map(line).collect();
    let y = Axis { label: label_of("%").to_owned(), unit: "%", scale: Scale::Linear, ticks: Vec::new() };
    Some(chart("What the engine's threads took of a core", x, y, lines))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::document;
    use crate::bench::figure::Better;
    use crate::bench::{looks, stages, threads};

    fn titles(charts: &[Chart]) -> Vec<&str> {
        charts.iter().map(|chart| &*chart.title).collect()
    }

    /// Rates of 1000 and on, each ten times the last; the last is not kept up with.
    fn sweep(points: u32) -> Document {
        let mut sweep = document(&[1e6]);
        sweep.axis = Some("events a second that were due".to_owned());
        let point = sweep.points.remove(0);
        sweep.points = (0..points)
            .map(|place| {
                let due = 1e3 * 10f64.powi(place as i32);
                let sent = if place + 1 == points { due / 2.0 } else { due };
                let mut point = Point { name: format!("{due} events/s"), x: Some(due), ..point.clone() };
                point.figures.note("sent", "events/s", Better::Neither, sent);
                point.stages = stages::tests::stages();
                point.threads = threads::tests::threads();
                point
            })
            .collect();
        sweep
    }

    #[test]
    fn figures_that_differ_in_their_percentile_share_a_chart() {
        let mut document = document(&[1e6]);
        for name in ["due to handled, p50", "due to handled, p99", "sender late, p50"] {
            document.points[0].figures.note(name, "ns", Better::Lower, 1_000.0);
        }
        let charts = sweeps(&document, "connections");
        assert_eq!(titles(&charts), ["Throughput", "P99", "Due to handled", "Sender late"]);
        assert!(charts.iter().all(|chart| chart.marks.is_empty()), "no rates, no knee");
    }

    #[test]
    fn the_first_rate_that_is_not_kept_up_with_is_marked() {
        let charts = sweeps(&sweep(4), "events a second that were due");
        let expected = [Mark { at: 1e6, name: "falls behind at 1 M events/s".to_owned() }];
        assert!(charts.iter().all(|chart| chart.marks == expected), "{:?}", charts[0].marks);
    }

    #[test]
    fn a_point_at_nought_makes_the_axis_linear() {
        let mut sweep = sweep(2);
        sweep.points[0].x = Some(0.0);
        assert_eq!(axis_of(&sweep, "silent connections").scale, Scale::Linear);
        assert!(of_document(&sweep).iter().all(|svg| !svg.contains("NaN") && !svg.contains("inf\"")));
    }

    #[test]
    fn points_without_an_axis_stand_side_by_side() {
        let mut document = Document { axis: None, ..sweep(3) };
        let bars = rates_by_point(&document);
        assert_eq!(bars.len(), 1, "`sent` is what was asked for");
        assert_eq!((&*bars[0].title, bars[0].rows.len()), ("Stored, all", 3));
        document.points.truncate(1);
        assert!(rates_by_point(&document).is_empty());
    }

    #[test]
    fn a_timeline_has_a_chart_for_each_panel_with_levels_behind() {
        let mut document = document(&[1e6]);
        document.points[0].timeline = Some(looks::tests::timeline());
        let charts = over_time(&document.points[0]);
        let expected = ["Throughput", "Events waiting", "Losses"].map(|panel| format!("{panel} over time, 8 connections"));
        assert_eq!(titles(&charts), expected);
        assert!(charts.iter().all(|chart| chart.levels.len() == 2), "HEALTHY, then DEGRADED");
    }

    #[test]
    fn few_points_have_rows_for_each_tier_and_percentile_and_many_one_each() {
        let few = stages(&sweep(2));
        assert_eq!(few.len(), 2, "until handled, until durable");
        assert_eq!(
            few[0].rows.iter().map(|row| &*row.name).collect::<Vec<_>>()[..2],
            ["1000 events/s: realtime p50", "1000 events/s: realtime p99"]
        );
        let many = stages(&sweep(5));
        assert_eq!((many.len(), many[0].rows.len()), (2, 5), "tiers without events have no picture");
        assert!(cores(&sweep(2)).is_some() && cores_over_axis(&sweep(2)).is_none());
        assert!(cores(&sweep(5)).is_none() && cores_over_axis(&sweep(5)).is_some());
    }
}
