//! Stacked bars as SVG text: a row for each thing, a segment for each part of it, the sum at its end.

use std::fmt::Write as _;

use super::chart::{
    CHARACTER_WIDTH, LEGEND_ROW_HEIGHT, RIGHT, TITLE_HEIGHT, WIDTH, color, entry_width, escape, legend_rows, linear_ticks, ticked,
};
use super::figure::readable;
use super::palette::{GRID, INK, LABEL};

const ROW_HEIGHT: f64 = 26.0;
const BAR_HEIGHT: f64 = 16.0;
/// Under the rows: labels of ticks, and of the axis.
const BOTTOM: f64 = 44.0;

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) name: String,
    /// One for each part, none below 0.
    pub(super) values: Vec<f64>,
}

/// The picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bars {
    pub(super) title: String,
    /// Of the values: `ns`, `%`.
    pub(super) unit: &'static str,
    /// Under the axis.
    pub(super) label: String,
    /// Names of the parts; a single one is what the title says. Those that are 0 in every row have no place in the legend.
    pub(super) parts: Vec<&'static str>,
    pub(super) rows: Vec<Bar>,
}

impl Bars {
    /// As an SVG element, to stand in a page by itself.
    pub(super) fn svg(&self) -> String {
        let shown = (0..self.parts.len())
            .filter(|part| self.rows.iter().any(|row| row.values.get(*part).is_some_and(|value| *value > 0.0)));
        let legend = match self.parts.len() {
            0 | 1 => Vec::new(),
            _ => legend_rows(shown.map(|part| (part, entry_width(self.parts[part])))),
        };
        let top = TITLE_HEIGHT + legend.len() as f64 * LEGEND_ROW_HEIGHT + 8.0;
        let (left, bottom) = (self.left(), top + self.rows.len() as f64 * ROW_HEIGHT);
        let mut text = super::chart::open_svg(&self.title, bottom + BOTTOM);
        self.draw_legend(&mut text, &legend);
        let most = self.rows.iter().map(Bar::sum).fold(0.0, f64::max);
        let scale = (WIDTH - left - RIGHT - self.sums_width()) / if most > 0.0 { most } else { 1.0 };
        for tick in linear_ticks(if most > 0.0 { most } else { 1.0 }) {
            let at = left + tick * scale;
            // Writing to a string can't fail.
            let _ = write!(
                text,
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" {}/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" {}>{}</text>",
                GRID.stroke(),
                bottom + 16.0,
                LABEL.fill(),
                escape(&ticked(tick, self.unit))
            );
        }
        for (place, row) in self.rows.iter().enumerate() {
            self.draw_row(&mut text, row, (left, top + place as f64 * ROW_HEIGHT), scale);
        }
        let (middle, label) = ((left + WIDTH - RIGHT) / 2.0, escape(&self.label));
        let _ = write!(text, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" {}>{label}</text>", bottom + 36.0, INK.fill());
        text.push_str("</svg>\n");
        text
    }

    /// Where bars begin: behind the longest name.
    fn left(&self) -> f64 {
        let longest = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        (longest as f64 * CHARACTER_WIDTH + 24.0).clamp(60.0, WIDTH / 2.0)
    }

    /// What the longest sum takes behind its bar.
    fn sums_width(&self) -> f64 {
        let longest = self.rows.iter().map(|row| readable(row.sum(), self.unit).chars().count()).max().unwrap_or(0);
        longest as f64 * CHARACTER_WIDTH + 8.0
    }

    fn draw_legend(&self, text: &mut String, legend: &[Vec<usize>]) {
        for (row, entries) in legend.iter().enumerate() {
            let y = TITLE_HEIGHT + row as f64 * LEGEND_ROW_HEIGHT + 8.0;
            let mut x = 14.0;
            for part in entries {
                let (name, fill) = (escape(self.parts[*part]), color(*part).fill());
                let _ = write!(
                    text,
                    "<rect x=\"{x}\" y=\"{}\" width=\"20\" height=\"10\" {fill}/><text x=\"{}\" y=\"{}\" {}>{name}</text>",
                    y - 5.0,
                    x + 26.0,
                    y + 4.0,
                    INK.fill()
                );
                x += entry_width(self.parts[*part]);
            }
        }
    }

    fn draw_row(&self, text: &mut String, row: &Bar, (left, y): (f64, f64), scale: f64) {
        let (middle, name) = (y + ROW_HEIGHT / 2.0 + 4.0, escape(&row.name));
        let _ = write!(text, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\" {}>{name}</text>", left - 8.0, INK.fill());
        let mut at = left;
        for (part, value) in row.values.iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let _ = write!(
                text,
                "<rect x=\"{at:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" {}><title>{}: {}</title></rect>",
                y + (ROW_HEIGHT - BAR_HEIGHT) / 2.0,
                value * scale,
                color(part).fill(),
                escape(self.parts.get(part).copied().unwrap_or_default()),
                escape(&readable(*value, self.unit))
            );
            at += value * scale;
        }
        let sum = escape(&readable(row.sum(), self.unit));
        let _ = write!(text, "<text x=\"{:.1}\" y=\"{middle}\" {}>{sum}</text>", at + 6.0, LABEL.fill());
    }
}

impl Bar {
    fn sum(&self) -> f64 {
        self.values.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(rows: &[(&str, &[f64])]) -> String {
        let rows = rows.iter().map(|(name, values)| Bar { name: (*name).to_owned(), values: values.to_vec() }).collect();
        let parts = vec!["queue", "process", "write"];
        Bars { title: "a & b".into(), unit: "ns", label: "since receipt".into(), parts, rows }.svg()
    }

    #[test]
    fn parts_lie_end_to_end_and_the_sum_behind_them() {
        let svg = bars(&[("realtime", &[100.0, 300.0, 0.0]), ("batch", &[800.0, 0.0, 0.0])]);
        assert!(svg.contains(">400.0 ns</text>") && svg.contains(">800.0 ns</text>") && svg.contains("a &amp; b"), "{svg}");
        // Paper, two entries of the legend, three segments: what is 0 everywhere is not there.
        assert_eq!(svg.matches("<rect").count(), 1 + 2 + 3, "{svg}");
        assert!(!svg.contains("write"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_a_frame() {
        let svg = bars(&[("realtime", &[0.0])]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
