//! The plot: panels over one time axis, the level behind each of them.

use std::error::Error;
use std::time::Duration;

use eventstream::control::Level;
use eventstream::metrics::ledger::DropReason;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::observe::{Sample, seconds};

const WIDTH: u32 = 1120;
const PANEL_HEIGHT: u32 = 220;
const PANELS: u32 = 5;
/// Title and legend above a panel.
const STRIP_HEIGHT: i32 = 30;
/// What the text of a legend takes for each character; SVG has no font to ask.
const CHARACTER_WIDTH: i32 = 7;

const TEXT: (&str, u32) = ("sans-serif", 13);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// A tint for each level, behind everything.
const TINTS: [RGBColor; Level::COUNT] =
    [RGBColor(242, 249, 242), RGBColor(255, 250, 220), RGBColor(255, 232, 200), RGBColor(255, 213, 200), RGBColor(244, 190, 200)];

const BLUE: RGBColor = RGBColor(0, 90, 180);
const ORANGE: RGBColor = RGBColor(210, 100, 0);
const GREEN: RGBColor = RGBColor(0, 130, 90);
const PURPLE: RGBColor = RGBColor(140, 60, 160);
const GREY: RGBColor = RGBColor(110, 110, 110);
const BLACK: RGBColor = RGBColor(30, 30, 30);

struct Line {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    /// By powers of ten, from 1; what is below 1 lies on the axis.
    Log,
}

struct Panel<'a> {
    title: &'a str,
    scale: Scale,
    /// At least so far up.
    top_min: f64,
    /// Dashed, with a name.
    marks: Vec<(f64, String)>,
    lines: Vec<Line>,
}

/// The plot as SVG text.
///
/// # Errors
/// Whatever the plotting library says.
pub fn svg(samples: &[Sample], p99_bar: Duration) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, PANELS * PANEL_HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let panels = [levels(samples), depths(samples), throughput(samples), losses(samples), probe(samples, p99_bar)];
        for (area, panel) in root.split_evenly((PANELS as usize, 1)).iter().zip(&panels) {
            draw(area, panel, samples)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn line(name: impl Into<String>, color: RGBColor, samples: &[Sample], value: impl Fn(&Sample) -> f64) -> Line {
    let points = samples.iter().map(|sample| (seconds(sample.at), value(sample))).collect();
    Line { name: name.into(), color, points }
}

/// Events per second of a count, over a second: the engine asks the kernel no more often what it dropped.
fn rate(name: impl Into<String>, color: RGBColor, samples: &[Sample], count: impl Fn(&Sample) -> u64) -> Line {
    const LOOKS: usize = 10;
    let points = samples.iter().enumerate().skip(LOOKS).map(|(place, now)| {
        let before = &samples[place - LOOKS];
        let per_second = (count(now) - count(before)) as f64 / (seconds(now.at) - seconds(before.at)).max(1e-9);
        (seconds(now.at), per_second)
    });
    Line { name: name.into(), color, points: points.collect() }
}

fn levels(samples: &[Sample]) -> Panel<'static> {
    // Steps, not slopes: a level holds until the next look.
    let mut points = Vec::new();
    for sample in samples {
        let (at, level) = (seconds(sample.at), sample.level.index() as f64);
        points.extend(points.last().map(|(_, before): &(f64, f64)| (at, *before)));
        points.push((at, level));
    }
    let lines = vec![Line { name: String::new(), color: BLACK, points }];
    Panel { title: "Level", scale: Scale::Linear, top_min: 4.5, marks: Vec::new(), lines }
}

fn depths(samples: &[Sample]) -> Panel<'static> {
    let names = [("REALTIME", BLUE), ("TRANSACTIONAL", ORANGE), ("BATCH", GREEN)];
    let lines = names.into_iter().enumerate();
    let lines = lines.map(|(tier, (name, color))| line(name, color, samples, move |sample| sample.depth[tier] as f64)).collect();
    let marks = [(2_500.0, "50 %"), (3_750.0, "75 %"), (5_000.0, "100 %"), (7_500.0, "150 %")];
    let marks = marks.map(|(at, name)| (at, name.to_owned())).to_vec();
    Panel { title: "Events waiting, by tier", scale: Scale::Linear, top_min: 8_500.0, marks, lines }
}

fn throughput(samples: &[Sample]) -> Panel<'static> {
    let lines = vec![
        rate("offered", GREY, samples, |sample| sample.offered),
        rate("received", BLUE, samples, |sample| sample.received),
        rate("stored", GREEN, samples, |sample| sample.stored),
    ];
    Panel { title: "Events per second", scale: Scale::Log, top_min: 1e6, marks: Vec::new(), lines }
}

fn losses(samples: &[Sample]) -> Panel<'static> {
    let colors = [ORANGE, GREY, BLACK, GREY, BLUE, PURPLE, GREEN, GREY];
    let end = samples.last().cloned().unwrap_or_default();
    let mut lines: Vec<Line> = DropReason::ALL
        .into_iter()
        .filter(|reason| end.lost[*reason as usize] > 0)
        .map(|reason| rate(reason.name(), colors[reason as usize], samples, move |sample| sample.lost[reason as usize]))
        .collect();
    lines.push(rate("dropped by the kernel", RGBColor(190, 30, 45), samples, |sample| sample.kernel_drops));
    Panel { title: "Losses per second, by reason", scale: Scale::Log, top_min: 1e5, marks: Vec::new(), lines }
}

fn probe(samples: &[Sample], bar: Duration) -> Panel<'static> {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let lines = vec![line("of the last second", BLUE, samples, |sample| micros(sample.probe_p99.0))];
    let bar = micros(bar.as_nanos() as u64);
    let name = if bar < 10_000.0 { format!("bar {bar:.0} µs") } else { format!("bar {:.0} ms", bar / 1e3) };
    let marks = vec![(bar, name)];
    Panel { title: "REALTIME p99, send to handled, µs", scale: Scale::Log, top_min: 1e3, marks, lines }
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        if self == Scale::Log { value.max(1.0).log10() } else { value }
    }
}

/// 20000 as `20 k`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e3 => format!("{} k", v / 1e3),
        v => format!("{}", v.round()),
    }
}

fn draw(area: &Area<'_>, panel: &Panel<'_>, samples: &[Sample]) -> Drawn {
    let (strip, body) = area.split_vertically(STRIP_HEIGHT);
    legend(&strip, panel)?;
    let end = samples.last().map_or(1.0, |sample| seconds(sample.at));
    let highest = panel.lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).fold(panel.top_min, f64::max);
    let top = match panel.scale {
        Scale::Linear => highest * 1.05,
        Scale::Log => highest.log10().ceil(),
    };
    let mut chart = ChartBuilder::on(&body)
        .margin_right(56)
        .set_label_area_size(LabelAreaPosition::Left, 96)
        .set_label_area_size(LabelAreaPosition::Bottom, 26)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart.draw_series(bands(samples, top))?;
    let is_levels = panel.title == "Level";
    let label = |value: &f64| match panel.scale {
        Scale::Linear if is_levels => {
            Level::ALL.get(value.round() as usize).map_or(String::new(), |level| level.name().to_owned())
        }
        Scale::Linear => short(*value),
        Scale::Log => short(10f64.powf(*value)),
    };
    chart
        .configure_mesh()
        .x_labels(14)
        .y_labels(if panel.scale == Scale::Log { top as usize + 1 } else { 6 })
        .x_label_formatter(&|at| format!("{at:.0} s"))
        .y_label_formatter(&label)
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(215, 215, 215))
        .label_style(TEXT)
        .draw()?;
    for (value, name) in &panel.marks {
        let at = panel.scale.place(*value);
        chart.draw_series(DashedLineSeries::new([(0.0, at), (end, at)], 5, 4, GREY.stroke_width(1)))?;
        let (x, y) = chart.backend_coord(&(end, at));
        let (left, above) = body.get_base_pixel();
        body.draw(&Text::new(name.clone(), (x - left + 4, y - above - 7), ("sans-serif", 11).into_font().color(&GREY)))?;
    }
    for line in &panel.lines {
        let points = line.points.iter().map(|(at, value)| (*at, panel.scale.place(*value)));
        chart.draw_series(LineSeries::new(points, line.color.stroke_width(2)))?;
    }
    Ok(())
}

/// One rectangle for each stretch of one level.
fn bands(samples: &[Sample], top: f64) -> Vec<Rectangle<(f64, f64)>> {
    let mut bands: Vec<(f64, f64, Level)> = Vec::new();
    for sample in samples {
        let at = seconds(sample.at);
        match bands.last_mut() {
            Some((_, end, level)) if *level == sample.level => *end = at,
            last => {
                if let Some((_, end, _)) = last {
                    *end = at;
                }
                bands.push((at, at, sample.level));
            }
        }
    }
    let rectangle =
        |(from, to, level): (f64, f64, Level)| Rectangle::new([(from, 0.0), (to, top)], TINTS[level.index()].filled());
    bands.into_iter().map(rectangle).collect()
}

fn legend(strip: &Area<'_>, panel: &Panel<'_>) -> Drawn {
    let bold = ("sans-serif", 14).into_font().style(FontStyle::Bold).color(&BLACK);
    strip.draw(&Text::new(panel.title.to_owned(), (96, 9), bold))?;
    let named = || panel.lines.iter().filter(|line| !line.name.is_empty());
    let width = |line: &Line| 34 + line.name.chars().count() as i32 * CHARACTER_WIDTH;
    let mut left = WIDTH as i32 - 56 - named().map(width).sum::<i32>();
    for line in named() {
        strip.draw(&PathElement::new([(left, 16), (left + 18, 16)], line.color.stroke_width(3)))?;
        strip.draw(&Text::new(line.name.clone(), (left + 23, 9), TEXT.into_font().color(&BLACK)))?;
        left += width(line);
    }
    Ok(())
}
