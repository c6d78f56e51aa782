//! What was found, as a table, and the bars beside it.

use std::fmt;

use crate::dedup;
use crate::rig::Row;

/// Of one row, a value a round.
#[derive(Default)]
pub struct Figures {
    ns: Vec<f64>,
    /// Shares of what a cache line took in the same round.
    ping_pongs: Vec<f64>,
}

impl Figures {
    pub fn note(&mut self, ns: f64, ping_pong_ns: Option<f64>) {
        self.ns.push(ns);
        self.ping_pongs.extend(ping_pong_ns.map(|ping_pong| ns / ping_pong));
    }

    fn median_ns(&self) -> f64 {
        median(&self.ns).unwrap_or_default()
    }

    fn least_ns(&self) -> f64 {
        self.ns.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Rows and what was found of each.
pub struct Table {
    pub rows: Vec<Row>,
    /// `None`: there are too few cores.
    pub figures: Vec<Option<Figures>>,
    /// An item; `None`: not counted.
    pub instructions: Vec<Option<f64>>,
}

impl Table {
    fn median_of(&self, name: &str) -> Option<f64> {
        let found = self.rows.iter().zip(&self.figures).find(|(row, _)| row.name == name);
        found.and_then(|(_, figures)| figures.as_ref()).map(Figures::median_ns)
    }

    fn write_bar(f: &mut fmt::Formatter<'_>, name: &str, value: f64, bar: f64, unit: &str) -> fmt::Result {
        let verdict = if value < bar { "met" } else { "NOT MET" };
        writeln!(f, "{name:<58} {value:8.2}{unit} of {bar:4}{unit}  {verdict}")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<58} {:>8} {:>8} {:>11} {:>13}", "an item of", "ns", "least", "cache lines", "instructions")?;
        for ((row, figures), instructions) in self.rows.iter().zip(&self.figures).zip(&self.instructions) {
            let Some(figures) = figures else {
                writeln!(f, "{:<58} left out: it needs {} cores", row.name, row.cores)?;
                continue;
            };
            let cell = |value: Option<f64>, digits| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
            let (lines, instructions) = (cell(median(&figures.ping_pongs), 3), cell(*instructions, 1));
            let (ns, least) = (figures.median_ns(), figures.least_ns());
            writeln!(f, "{:<58} {ns:8.2} {least:8.2} {lines:>11} {instructions:>13}", row.name)?;
        }
        writeln!(f, "\nmedians; least: of all rounds; cache lines: as a share of one's way to the other core and back")?;
        for (row, figures) in self.rows.iter().zip(&self.figures) {
            if let (Some(bar), Some(figures)) = (row.bar_ns, figures) {
                Self::write_bar(f, row.name, figures.median_ns(), bar, " ns")?;
            }
        }
        if let Some((small, large)) = self.median_of(dedup::SMALL).zip(self.median_of(dedup::LARGE)) {
            Self::write_bar(f, "dedup, insert, 1,000,000 keys to 1,000", large / small, dedup::GROWTH_BAR, "")?;
        }
        Ok(())
    }
}
