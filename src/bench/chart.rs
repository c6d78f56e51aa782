//! Line charts as SVG text: axes with ticks a person would choose, a legend, bands from least to most, levels behind them, marks.
//!
//! Own code rather than a plotting library: percentile axes would be own code there too, and what else is needed fits this file.

use std::fmt::Write as _;

use super::figure::{readable, short};
use super::palette::{AXIS, Color, GRID, INK, LABEL, LINES, PAPER, TINTS};
use crate::control::Level;

pub(super) const WIDTH: f64 = 760.0;
const PLOT_HEIGHT: f64 = 260.0;
const LEFT: f64 = 92.0;
pub(super) const RIGHT: f64 = 28.0;
const BOTTOM: f64 = 50.0;
pub(super) const TITLE_HEIGHT: f64 = 26.0;
pub(super) const LEGEND_ROW_HEIGHT: f64 = 18.0;
/// What a character of a legend takes: SVG has no font to ask.
pub(super) const CHARACTER_WIDTH: f64 = 6.6;
/// The same of a label, which is smaller.
const LABEL_CHARACTER_WIDTH: f64 = 5.8;

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

/// A place on the x axis with a name: the beginning of a phase, a knee.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) name: String,
}

/// A chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// Behind everything: from where to where on the x axis the level was which.
    pub(super) levels: Vec<(f64, f64, Level)>,
    pub(super) marks: Vec<Mark>,
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
        match self.scale {
            Scale::Percentile => format!("{} %", (value * 100.0 * 1e8).round() / 1e8),
            Scale::Linear | Scale::Log => ticked(value, self.unit),
        }
    }
}

/// The label of a tick.
pub(super) fn ticked(value: f64, unit: &str) -> String {
    const MIB: f64 = (1 << 20) as f64;
    match unit {
        "ns" => tidy(&readable(value, "ns")),
        "%" => format!("{} %", tidy(&short(value))),
        // Sizes are powers of two: those of bodies are read whole, those of logs are not.
        "bytes" if value >= 1024.0 * MIB => tidy(&format!("{:.1} GiB", value / 1024.0 / MIB)),
        "bytes" if value >= MIB => tidy(&format!("{:.1} MiB", value / MIB)),
        "bytes" | "repeat" => format!("{value}"),
        _ => tidy(&short(value)),
    }
}

/// Without zeros behind a point.
fn tidy(text: &str) -> String {
    let (number, unit) = text.split_once(' ').map_or((text, ""), |(number, unit)| (number, unit));
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number} {unit}").trim_end().to_owned()
}

/// Some five, a power of ten times 1, 2 or 5 apart.
pub(super) fn linear_ticks(to: f64) -> Vec<f64> {
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

/// The beginning of a picture: its title, and the paper under it.
pub(super) fn open_svg(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\"><title>{title}</title>\
         <rect width=\"{WIDTH}\" height=\"{height}\" {}/>\
         <text x=\"14\" y=\"18\" font-size=\"14\" font-weight=\"bold\" {}>{title}</text>",
        PAPER.fill(),
        INK.fill(),
        title = escape(title)
    )
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
        let mut text = open_svg(&self.title, height);
        self.draw_legend(&mut text, &rows);
        let (x, y) = self.spans(top);
        self.draw_levels(&mut text, &x, top);
        self.draw_axes(&mut text, &x, &y, top);
        self.draw_marks(&mut text, &x, top);
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
        // A line alone is what the title says.
        let named = self.lines.iter().enumerate().filter(|(_, line)| !line.name.is_empty());
        legend_rows(named.map(|(index, line)| (index, entry_width(&line.name))))
    }

    fn draw_legend(&self, text: &mut String, rows: &[Vec<usize>]) {
        for (row, entries) in rows.iter().enumerate() {
            let y = TITLE_HEIGHT + row as f64 * LEGEND_ROW_HEIGHT + 8.0;
            let mut x = LEFT;
            for index in entries {
                let name = &self.lines[*index].name;
                // Writing to a string can't fail.
                let _ = write!(
                    text,
                    "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" {} stroke-width=\"2.5\"{}/>\
                     <text x=\"{}\" y=\"{}\" {}>{}</text>",
                    x + 20.0,
                    color(*index).stroke(),
                    dash(*index),
                    x + 26.0,
                    y + 4.0,
                    INK.fill(),
                    escape(name)
                );
                x += entry_width(name);
            }
        }
    }

    /// A tint for each stretch of a level, and its name where there is room for it and it is no calm one.
    fn draw_levels(&self, text: &mut String, x: &Span, top: f64) {
        for (from, to, level) in &self.levels {
            let (left, right) = (x.at(*from), x.at(*to));
            let tint = TINTS[level.index()];
            let _ = write!(
                text,
                "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PLOT_HEIGHT}\" {}><title>{}</title></rect>",
                right - left,
                tint.fill(),
                level.name()
            );
            let is_wide = right - left > level.name().len() as f64 * LABEL_CHARACTER_WIDTH * 1.3 + 6.0;
            if is_wide && *level != Level::Healthy {
                let (at, y, label) = (left + 4.0, top + PLOT_HEIGHT - 6.0, LABEL.fill());
                let _ = write!(text, "<text x=\"{at:.1}\" y=\"{y:.1}\" font-size=\"10\" {label}>{}</text>", level.name());
            }
        }
    }

    /// Dashed lines from top to bottom, their names beside them in as many rows as it takes to keep them apart.
    fn draw_marks(&self, text: &mut String, x: &Span, top: f64) {
        let mut ends: Vec<f64> = Vec::new();
        for Mark { at, name } in &self.marks {
            let at = x.at(*at);
            let width = name.chars().count() as f64 * LABEL_CHARACTER_WIDTH;
            // Near the right border the name goes to the left of its line.
            let (start, anchor) = if at + width + 6.0 > WIDTH - RIGHT { (at - 4.0 - width, "end") } else { (at + 4.0, "start") };
            let row = ends.iter().position(|end| *end < start).unwrap_or(ends.len());
            ends.resize(ends.len().max(row + 1), 0.0);
            ends[row] = start + width + 8.0;
            let text_at = if anchor == "end" { at - 4.0 } else { at + 4.0 };
            let _ = write!(
                text,
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{}\" {} stroke-dasharray=\"3 3\"/>\
                 <text x=\"{text_at:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"{anchor}\" {}>{}</text>",
                top + PLOT_HEIGHT,
                AXIS.stroke(),
                top + 11.0 + row as f64 * 12.0,
                LABEL.fill(),
                escape(name)
            );
        }
    }

    fn draw_axes(&self, text: &mut String, x: &Span, y: &Span, top: f64) {
        let (right, bottom) = (WIDTH - RIGHT, top + PLOT_HEIGHT);
        let (grid, label, ink) = (GRID.stroke(), LABEL.fill(), INK.fill());
        for tick in self.y.ticks(y.from, y.to) {
            let (at, name) = (y.at(tick), escape(&self.y.tick_label(tick)));
            let _ = write!(
                text,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" {grid}/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" {label}>{name}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        let mut labelled_to = f64::NEG_INFINITY;
        for tick in self.x.ticks(x.from, x.to) {
            let (at, name) = (x.at(tick), self.x.tick_label(tick));
            let _ = write!(text, "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" {grid}/>");
            // Ticks that were asked for may stand closer than their labels.
            let half = name.chars().count() as f64 * CHARACTER_WIDTH / 2.0;
            if at - half > labelled_to {
                labelled_to = at + half + 4.0;
                let (below, name) = (bottom + 18.0, escape(&name));
                let _ = write!(text, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\" {label}>{name}</text>");
            }
        }
        let middle = (LEFT + right) / 2.0;
        let (x_label, y_label, y_middle) = (escape(&self.x.label), escape(&self.y.label), (top + bottom) / 2.0);
        let _ = write!(
            text,
            "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" {}/>\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" {ink}>{x_label}</text>\
             <text transform=\"translate(16 {y_middle}) rotate(-90)\" text-anchor=\"middle\" {ink}>{y_label}</text>",
            AXIS.stroke(),
            bottom + 40.0
        );
    }
}

/// What an entry of a legend takes.
pub(super) fn entry_width(name: &str) -> f64 {
    44.0 + name.chars().count() as f64 * CHARACTER_WIDTH
}

/// Entries of these widths by rows, as many in each as fit.
pub(super) fn legend_rows(entries: impl Iterator<Item = (usize, f64)>) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut left = 0.0;
    for (index, width) in entries {
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

pub(super) fn color(index: usize) -> Color {
    LINES[index % LINES.len()]
}

/// Dashes from the eighth line on, where colours come again.
fn dash(index: usize) -> &'static str {
    if index < LINES.len() { "" } else { " stroke-dasharray=\"6 4\"" }
}

fn draw_line(text: &mut String, line: &Line, index: usize, x: &Span, y: &Span) {
    let (color, dash) = (color(index), dash(index));
    let place = |(at, value): (f64, f64)| format!("{:.1} {:.1}", x.at(at), y.at(value));
    if line.band.len() == line.points.len() && line.points.len() > 1 {
        let there = line.points.iter().zip(&line.band).map(|((at, _), (_, most))| place((*at, *most)));
        let back = line.points.iter().zip(&line.band).rev().map(|((at, _), (least, _))| place((*at, *least)));
        let edge: Vec<String> = there.chain(back).collect();
        let _ = write!(text, "<path d=\"M{}Z\" {} fill-opacity=\"0.13\"/>", edge.join("L"), color.fill());
    }
    let path: Vec<String> = line.points.iter().copied().map(place).collect();
    if !path.is_empty() {
        let _ = write!(text, "<path d=\"M{}\" fill=\"none\" {} stroke-width=\"2\"{dash}/>", path.join("L"), color.stroke());
    }
    // Few points are measurements, many a curve.
    if line.points.len() <= 16 {
        for (at, value) in &line.points {
            let _ = write!(text, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" {}/>", x.at(*at), y.at(*value), color.fill());
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
        let (x, y) = (axis(Scale::Log, "connections"), axis(Scale::Linear, "events/s"));
        let levels = vec![(1.0, 20.0, Level::Healthy), (20.0, 100.0, Level::Critical)];
        let marks = [90.0, 95.0, 99.0].map(|at| Mark { at, name: "a > mark".into() }).to_vec();
        let chart = Chart { title: "x & y".into(), x, y, lines, levels, marks };
        let svg = chart.svg();
        assert!(svg.contains("x &amp; y") && svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 1 + 2 * 9);
        assert_eq!(svg.matches(">a &gt; mark</text>").count(), 3);
        assert!(svg.contains(">CRITICAL</text>") && !svg.contains(">HEALTHY</text>"), "calm is not worth a word");
        assert!(chart.legend().len() > 1, "long names take more than one row");
    }

    #[test]
    fn a_chart_without_values_is_a_frame() {
        let (x, y) = (axis(Scale::Linear, ""), axis(Scale::Log, "ns"));
        let chart = Chart { title: "none".into(), x, y, lines: Vec::new(), levels: Vec::new(), marks: Vec::new() };
        assert!(!chart.svg().contains("NaN"));
    }
}
