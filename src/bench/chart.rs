//! Line charts as SVG text: axes with ticks a person would choose, a legend, bands from least to most.
//!
//! Own code rather than a plotting library: percentile axes would be own code there too, and what else is needed fits this file.

use std::fmt::Write as _;

use super::figure::{readable, short};

const WIDTH: f64 = 760.0;
const PLOT_HEIGHT: f64 = 260.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 28.0;
const BOTTOM: f64 = 50.0;
const TITLE_HEIGHT: f64 = 26.0;
const LEGEND_ROW_HEIGHT: f64 = 18.0;
/// What a character of a legend takes: SVG has no font to ask.
const CHARACTER_WIDTH: f64 = 6.6;
/// Told apart by colour-blind eyes too (Okabe and Ito, 2008), and by dashes from the eighth on.
const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"];

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0.
    Linear,
    /// By powers of ten.
    Log,
    /// Quantiles, by nines: 0, 90 %, 99 %, ….
    Percentile,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10(),
            Scale::Percentile => -(1.0 - value).max(1e-12).log10(),
        }
    }
}

/// An axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) label: String,
    /// Of the values, for the ticks.
    pub(super) unit: &'static str,
    pub(super) scale: Scale,
    /// Where ticks are, instead of where they would be by themselves.
    pub(super) ticks: Vec<f64>,
}

/// A line, in rising order of x.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Least and most, at the same x as the points; empty: not known.
    pub(super) band: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// Places on an axis and the pixels they become.
struct Span {
    scale: Scale,
    from: f64,
    to: f64,
    start: f64,
    length: f64,
}

impl Span {
    fn at(&self, value: f64) -> f64 {
        let share = (self.scale.place(value) - self.from) / (self.to - self.from).max(1e-12);
        self.start + share.clamp(0.0, 1.0) * self.length
    }
}

impl Axis {
    /// From the least to the most, a little beyond, and never empty.
    fn range(&self, values: &[f64]) -> (f64, f64) {
        let places = || values.iter().map(|value| self.scale.place(*value)).filter(|place| place.is_finite());
        let (least, most) = (places().fold(f64::INFINITY, f64::min), places().fold(f64::NEG_INFINITY, f64::max));
        if least > most {
            return (0.0, 1.0);
        }
        match self.scale {
            Scale::Linear => (0.0_f64.min(least), if most > 0.0 { most * 1.06 } else { 1.0 }),
            Scale::Percentile => (0.0, most.max(1.0)),
            // A tenth of a decade of air.
            Scale::Log => (least - 0.1, most + 0.1),
        }
    }

    fn ticks(&self, from: f64, to: f64) -> Vec<f64> {
        if !self.ticks.is_empty() {
            return self.ticks.clone();
        }
        match self.scale {
            Scale::Linear => linear_ticks(to),
            Scale::Log => log_ticks(from, to),
            Scale::Percentile => (0..=to as i32).map(|nines| 1.0 - 10f64.powi(-nines)).collect(),
        }
    }

    fn tick_label(&self, value: f64) -> String {
        match (self.scale, self.unit) {
            (Scale::Percentile, _) => format!("{} %", (value * 100.0 * 1e8).round() / 1e8),
            (_, "ns") => tidy(&readable(value, "ns")),
            (_, "bytes" | "repeat" | "connections") => format!("{value}"),
            (_, _) => tidy(&short(value)),
        }
    }
}

/// Without zeros behind a point.
fn tidy(text: &str) -> String {
    let (number, unit) = text.split_once(' ').map_or((text, ""), |(number, unit)| (number, unit));
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number} {unit}").trim_end().to_owned()
}

/// Some five, a power of ten times 1, 2 or 5 apart.
fn linear_ticks(to: f64) -> Vec<f64> {
    let rough = to / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= rough).unwrap_or(power);
    (0..).map(|tick| f64::from(tick) * step).take_while(|tick| *tick <= to).collect()
}

/// Powers of ten; where there are few, twice and five times them as well. Exponents are given.
fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    let times: &[f64] = if to - from < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let powers = from.floor() as i32..=to.ceil() as i32;
    let ticks = powers.flat_map(|power| times.iter().map(move |times| times * 10f64.powi(power)));
    ticks.filter(|tick| (from..=to).contains(&tick.log10())).collect()
}

/// Text for HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Chart {
    /// The chart as an SVG element, to stand in a page by itself.
    pub(super) fn svg(&self) -> String {
        let rows = self.legend();
        let top = TITLE_HEIGHT + rows.len() as f64 * LEGEND_ROW_HEIGHT + 12.0;
        let height = top + PLOT_HEIGHT + BOTTOM;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\" role=\"img\"><title>{title}</title>\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\
             <text x=\"{LEFT}\" y=\"18\" font-size=\"14\" font-weight=\"bold\" fill=\"#222222\">{title}</text>",
            title = escape(&self.title)
        );
        self.draw_legend(&mut text, &rows);
        let (x, y) = self.spans(top);
        self.draw_axes(&mut text, &x, &y, top);
        for (index, line) in self.lines.iter().enumerate() {
            draw_line(&mut text, line, index, &x, &y);
        }
        text.push_str("</svg>\n");
        text
    }

    fn spans(&self, top: f64) -> (Span, Span) {
        let xs: Vec<f64> = self.lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).collect();
        let values = self.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
        let bands = self.lines.iter().flat_map(|line| &line.band).flat_map(|(least, most)| [*least, *most]);
        let ys: Vec<f64> = values.chain(bands).collect();
        let ((x_from, x_to), (y_from, y_to)) = (self.x.range(&xs), self.y.range(&ys));
        let x = Span { scale: self.x.scale, from: x_from, to: x_to, start: LEFT, length: WIDTH - LEFT - RIGHT };
        (x, Span { scale: self.y.scale, from: y_from, to: y_to, start: top + PLOT_HEIGHT, length: -PLOT_HEIGHT })
    }

    /// Lines by rows of the legend, as many in each as fit.
    fn legend(&self) -> Vec<Vec<usize>> {
        let mut rows: Vec<Vec<usize>> = Vec::new();
        let mut left = 0.0;
        for (index, line) in self.lines.iter().enumerate() {
            let width = entry_width(line);
            match rows.last_mut() {
                Some(row) if left >= width => row.push(index),
                _ => {
                    rows.push(vec![index]);
                    left = WIDTH - LEFT - RIGHT;
                }
            }
            left -= width;
        }
        rows
    }

    fn draw_legend(&self, text: &mut String, rows: &[Vec<usize>]) {
        for (row, entries) in rows.iter().enumerate() {
            let y = TITLE_HEIGHT + row as f64 * LEGEND_ROW_HEIGHT + 8.0;
            let mut x = LEFT;
            for index in entries {
                let (color, dash, name) = (color(*index), dash(*index), escape(&self.lines[*index].name));
                // Writing to a string can't fail.
                let _ = write!(
                    text,
                    "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{color}\" stroke-width=\"2.5\"{dash}/>\
                     <text x=\"{}\" y=\"{}\" fill=\"#333333\">{name}</text>",
                    x + 20.0,
                    x + 26.0,
                    y + 4.0
                );
                x += entry_width(&self.lines[*index]);
            }
        }
    }

    fn draw_axes(&self, text: &mut String, x: &Span, y: &Span, top: f64) {
        let (right, bottom) = (WIDTH - RIGHT, top + PLOT_HEIGHT);
        for tick in self.y.ticks(y.from, y.to) {
            let (at, label) = (y.at(tick), escape(&self.y.tick_label(tick)));
            let _ = write!(
                text,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555555\">{label}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        for tick in self.x.ticks(x.from, x.to) {
            let (at, label) = (x.at(tick), escape(&self.x.tick_label(tick)));
            let _ = write!(
                text,
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#eeeeee\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555555\">{label}</text>",
                bottom + 18.0
            );
        }
        let middle = (LEFT + right) / 2.0;
        let (x_label, y_label, y_middle) = (escape(&self.x.label), escape(&self.y.label), (top + bottom) / 2.0);
        let _ = write!(
            text,
            "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#555555\"/>\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"#333333\">{x_label}</text>\
             <text transform=\"translate(16 {y_middle}) rotate(-90)\" text-anchor=\"middle\" fill=\"#333333\">{y_label}</text>",
            bottom + 40.0
        );
    }
}

fn entry_width(line: &Line) -> f64 {
    44.0 + line.name.chars().count() as f64 * CHARACTER_WIDTH
}

fn color(index: usize) -> &'static str {
    COLORS[index % COLORS.len()]
}

fn dash(index: usize) -> &'static str {
    if index < COLORS.len() { "" } else { " stroke-dasharray=\"6 4\"" }
}

fn draw_line(text: &mut String, line: &Line, index: usize, x: &Span, y: &Span) {
    let (color, dash) = (color(index), dash(index));
    let place = |(at, value): (f64, f64)| format!("{:.1} {:.1}", x.at(at), y.at(value));
    if line.band.len() == line.points.len() && line.points.len() > 1 {
        let there = line.points.iter().zip(&line.band).map(|((at, _), (_, most))| place((*at, *most)));
        let back = line.points.iter().zip(&line.band).rev().map(|((at, _), (least, _))| place((*at, *least)));
        let edge: Vec<String> = there.chain(back).collect();
        let _ = write!(text, "<path d=\"M{}Z\" fill=\"{color}\" fill-opacity=\"0.13\"/>", edge.join("L"));
    }
    let path: Vec<String> = line.points.iter().copied().map(place).collect();
    let _ = write!(text, "<path d=\"M{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dash}/>", path.join("L"));
    // Few points are measurements, many a curve.
    if line.points.len() <= 16 {
        for (at, value) in &line.points {
            let _ = write!(text, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>", x.at(*at), y.at(*value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, unit: &'static str) -> Axis {
        Axis { label: "a < b".into(), unit, scale, ticks: Vec::new() }
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        assert_eq!(linear_ticks(12.4), [0.0, 5.0, 10.0]);
        assert_eq!(linear_ticks(1_000_000.0).len(), 6);
        assert_eq!(log_ticks(2.9, 6.1), [1e3, 1e4, 1e5, 1e6]);
        assert_eq!(log_ticks(2.9, 4.0), [1e3, 2e3, 5e3, 1e4]);
        let labels: Vec<String> = axis(Scale::Percentile, "")
            .ticks(0.0, 4.3)
            .iter()
            .map(|tick| axis(Scale::Percentile, "").tick_label(*tick))
            .collect();
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(axis(Scale::Log, "ns").tick_label(20_000.0), "20 µs");
    }

    #[test]
    fn a_chart_is_well_formed_and_inside_its_frame() {
        let line = |name: &str| Line {
            name: name.into(),
            points: vec![(1.0, 5.0), (10.0, 50.0), (100.0, 0.0)],
            band: vec![(4.0, 6.0); 3],
        };
        let lines = (0..9).map(|index| line(&format!("a rather long name & number {index}"))).collect();
        let chart =
            Chart { title: "x & y".into(), x: axis(Scale::Log, "connections"), y: axis(Scale::Linear, "events/s"), lines };
        let svg = chart.svg();
        assert!(svg.contains("x &amp; y") && svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 1 + 2 * 9);
        assert!(chart.legend().len() > 1, "long names take more than one row");
    }

    #[test]
    fn a_chart_without_values_is_a_frame() {
        let chart = Chart { title: "none".into(), x: axis(Scale::Linear, ""), y: axis(Scale::Log, "ns"), lines: Vec::new() };
        assert!(!chart.svg().contains("NaN"));
    }
}
