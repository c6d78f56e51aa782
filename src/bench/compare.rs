//! Two runs, figure by figure: what became worse by more than is allowed.
//!
//! Medians are compared. Where each run's median lies among the other's repeats, a change is no more than what the repeats of one run differ
//! by anyway, and there is no verdict: neither for the worse nor for the better. More repeats, or a quieter machine, give one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::document::{Document, Point};
use super::figure::{Better, Figure, readable};

/// How much worse a median may be, as a share: 0.05 is 5 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance(pub f64);

impl Tolerance {
    /// 5 %.
    pub const STANDARD: Tolerance = Tolerance(0.05);
}

impl FromStr for Tolerance {
    type Err = String;

    /// `5%` or `5`: percent, from 0 to 1000.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || format!("`{text}` is no tolerance: give percent from 0 to 1000, such as 5%");
        let percent: f64 = text.strip_suffix('%').unwrap_or(text).trim().parse().map_err(|_| refused())?;
        if (0.0..=1_000.0).contains(&percent) { Ok(Tolerance(percent / 100.0)) } else { Err(refused()) }
    }
}

/// What a comparison says of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better by more than the tolerance.
    Better,
    /// Within the tolerance.
    Same,
    /// Changed by more than the tolerance, but each median lies among the repeats of the other run: noise can't be told from change.
    Unsure,
    /// Worse by more than the tolerance.
    Worse,
    /// The second run lacks it.
    Gone,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Same => "same",
            Verdict::Unsure => "unsure",
            Verdict::Worse => "WORSE",
            Verdict::Gone => "GONE",
        }
    }
}

/// A median, and how far the repeats around it lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    median: f64,
    /// From least to most, as a share of the median; 0 of one repeat.
    spread: f64,
}

impl Measured {
    fn of(figure: &Figure) -> Self {
        let median = figure.median();
        Self { median, spread: (figure.most() - figure.least()) / median.abs().max(f64::MIN_POSITIVE) }
    }

    /// `6.10 M events/s ± 3 %`: half the spread to each side.
    fn text(self, unit: &str) -> (String, String) {
        let half = (self.spread * 50.0).min(999.0);
        (readable(self.median, unit), if half < 0.05 { String::new() } else { format!("±{half:.0}%") })
    }
}

/// A figure of both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Scenario and point.
    pub place: String,
    /// The figure.
    pub name: String,
    unit: String,
    before: Measured,
    after: Option<Measured>,
    /// The change of the median as a share, above 0 where it became better; 0 where it is gone.
    pub gain: f64,
    /// What that means.
    pub verdict: Verdict,
}

/// All figures of the first run that have a better and a worse, beside those of the second.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// In the order of the first run.
    pub rows: Vec<Row>,
    /// What the runs differ in beside their figures, and what a reader should know of their noise: a line each.
    pub remarks: Vec<String>,
    /// Losses of the second run, a line each.
    pub losses: Vec<String>,
}

impl Comparison {
    /// Compares medians of what both have by the same scenario, point and name.
    pub fn of(before: &[Document], after: &[Document], tolerance: Tolerance) -> Self {
        let mut rows = Vec::new();
        for document in before {
            let other = after.iter().find(|other| other.scenario == document.scenario);
            for point in &document.points {
                let other = other.and_then(|other| other.points.iter().find(|other| other.name == point.name));
                let compared = point.figures.0.iter().filter(|figure| figure.better != Better::Neither);
                rows.extend(compared.map(|figure| row(document, point, figure, other, tolerance)));
            }
        }
        let lost = |document: &Document| -> Vec<String> {
            let lines = document.points.iter().flat_map(|point| point.losses.iter().map(move |loss| (point, loss)));
            lines.map(|(point, loss)| format!("{}, {}: {loss}", document.scenario, point.name)).collect()
        };
        Self { rows, remarks: remarks(before, after), losses: after.iter().flat_map(lost).collect() }
    }

    /// Whether nothing is worse, gone or lost.
    pub fn is_good(&self) -> bool {
        self.losses.is_empty() && !self.rows.iter().any(|row| matches!(row.verdict, Verdict::Worse | Verdict::Gone))
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }
}

/// Differences of host and settings, each said once, however many scenarios have it; runs on a loud machine.
fn remarks(before: &[Document], after: &[Document]) -> Vec<String> {
    let mut remarks: Vec<String> = Vec::new();
    let mut say = |remark: String| {
        if !remarks.contains(&remark) {
            remarks.push(remark);
        }
    };
    for document in before {
        let Some(other) = after.iter().find(|other| other.scenario == document.scenario) else { continue };
        for (name, here, there) in document.host.differences(&other.host) {
            say(format!("{name}: {here} → {there}"));
        }
        let names: BTreeSet<&String> = document.settings.keys().chain(other.settings.keys()).collect();
        for name in names {
            let [here, there] = [document, other].map(|document| document.settings.get(name).map_or("unset", String::as_str));
            if here != there {
                say(format!("{}, {name}: {here} → {there}", document.scenario));
            }
        }
        for (which, document) in [("before", document), ("after", other)] {
            if document.noise.is_loud() {
                say(format!("{}, {which}, on a loud machine: {}", document.scenario, document.noise));
            }
        }
    }
    remarks
}

fn row(document: &Document, point: &Point, before: &Figure, other: Option<&Point>, tolerance: Tolerance) -> Row {
    let row = Row {
        place: format!("{}, {}", document.scenario, point.name),
        name: before.name.clone(),
        unit: before.unit.clone(),
        before: Measured::of(before),
        after: None,
        gain: 0.0,
        verdict: Verdict::Gone,
    };
    let Some(after) = other.and_then(|other| other.figures.get(&before.name)) else { return row };
    // Two noughts are the same, whatever a nought is a share of.
    let gain = if after.median() == before.median() { 0.0 } else { after.share_of(before.median()) - 1.0 };
    let verdict = match gain {
        gain if gain.abs() <= tolerance.0 => Verdict::Same,
        _ if overlap(before, after) => Verdict::Unsure,
        gain if gain < 0.0 => Verdict::Worse,
        _ => Verdict::Better,
    };
    Row { after: Some(Measured::of(after)), gain, verdict, ..row }
}

/// Whether each median lies among the repeats of the other run, of which both have three or more: of fewer nothing is known, and the medians
/// decide.
fn overlap(before: &Figure, after: &Figure) -> bool {
    let among = |one: &Figure, other: &Figure| (other.least()..=other.most()).contains(&one.median());
    before.runs.len().min(after.runs.len()) >= 3 && among(before, after) && among(after, before)
}

impl fmt::Display for Comparison {
    /// A heading for each point, a line for each figure: medians, half the spread of their repeats, the change.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.remarks.iter().try_for_each(|remark| writeln!(f, "differs: {remark}"))?;
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(20);
        let mut place = "";
        for Row { place: own, name, unit, before, after, gain, verdict } in &self.rows {
            if place != own {
                place = own;
                let (before, after) = ("before", "after");
                writeln!(f, "\n── {own}\n  {:<width$}  {before:>16}{:6}{after:>16}{:6}{:>10}", "", "", "", "change")?;
            }
            let (was, was_spread) = before.text(unit);
            let (is, is_spread) = after.map_or(("-".to_owned(), String::new()), |after| after.text(unit));
            let change = format!("{:+.1} %", gain * 100.0);
            let verdict = verdict.name();
            writeln!(f, "  {name:<width$}  {was:>16}{was_spread:>6}{is:>16}{is_spread:>6}{change:>10}  {verdict}")?;
        }
        self.losses.iter().try_for_each(|loss| writeln!(f, "LOSS: {loss}"))?;
        let counts = [Verdict::Better, Verdict::Same, Verdict::Unsure, Verdict::Worse, Verdict::Gone]
            .map(|verdict| format!("{} {}", self.count(verdict), verdict.name()));
        writeln!(f, "\n{} figures: {}; {} losses", self.rows.len(), counts.join(", "), self.losses.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::document;

    fn verdict(before: &[f64], after: &[f64]) -> (Verdict, bool) {
        let comparison = Comparison::of(&[document(before)], &[document(after)], Tolerance::STANDARD);
        (comparison.rows[0].verdict, comparison.is_good())
    }

    #[test]
    fn a_change_within_the_tolerance_is_the_same() {
        assert_eq!(verdict(&[100.0], &[95.1]), (Verdict::Same, true));
        assert_eq!(verdict(&[100.0], &[104.9]), (Verdict::Same, true));
    }

    #[test]
    fn a_loss_beyond_it_fails_and_a_gain_does_not() {
        assert_eq!(verdict(&[100.0], &[94.9]), (Verdict::Worse, false));
        assert_eq!(verdict(&[100.0], &[106.0]), (Verdict::Better, true));
        assert_eq!(verdict(&[99.0, 100.0, 101.0], &[89.0, 90.0, 91.0]), (Verdict::Worse, false));
    }

    #[test]
    fn repeats_that_overlap_are_no_verdict() {
        assert_eq!(verdict(&[80.0, 100.0, 120.0], &[70.0, 90.0, 110.0]), (Verdict::Unsure, true));
        assert_eq!(verdict(&[70.0, 90.0, 110.0], &[80.0, 100.0, 120.0]), (Verdict::Unsure, true), "neither is a gain");
    }

    #[test]
    fn of_times_less_is_better() {
        let mut slower = document(&[100.0]);
        slower.points[0].figures.0[1].runs = vec![3_000.0];
        let comparison = Comparison::of(&[document(&[100.0])], &[slower], Tolerance::STANDARD);
        assert_eq!(comparison.rows[1].verdict, Verdict::Worse);
        assert!(comparison.to_string().contains("-33.3 %  WORSE"), "{comparison}");
        assert!(
            comparison.to_string().ends_with("2 figures: 0 better, 1 same, 0 unsure, 1 WORSE, 0 GONE; 0 losses\n"),
            "{comparison}"
        );
    }

    #[test]
    fn noughts_are_the_same() {
        assert_eq!(verdict(&[0.0], &[0.0]), (Verdict::Same, true));
    }

    #[test]
    fn spreads_stand_beside_medians() {
        let comparison = Comparison::of(&[document(&[90.0, 100.0, 110.0])], &[document(&[100.0])], Tolerance::STANDARD);
        let text = comparison.to_string();
        let row = text.lines().find(|line| line.contains("stored, all")).expect("a row");
        assert!(row.contains("100 events/s  ±10%") && row.trim_end().ends_with("+0.0 %  same"), "{row}");
    }

    #[test]
    fn what_else_differs_is_said_once() {
        let other = |scenario: &str, kernel: &str| {
            let mut document = Document { scenario: scenario.into(), ..document(&[100.0]) };
            document.host.kernel = kernel.into();
            document.settings.insert("repeats".into(), kernel.len().to_string());
            document.noise.stolen_percent = if scenario == "a" && kernel == "6.18" { 9.0 } else { 0.0 };
            document
        };
        let [before, after] = ["6.1", "6.18"].map(|kernel| [other("a", kernel), other("b", kernel)]);
        let remarks = Comparison::of(&before, &after, Tolerance::STANDARD).remarks;
        assert_eq!(remarks.len(), 4, "{remarks:?}");
        assert_eq!(remarks[..2], ["kernel: 6.1 → 6.18", "a, repeats: 3 → 4"]);
        assert!(remarks[2].starts_with("a, after, on a loud machine: 9.00 %"), "{remarks:?}");
    }

    #[test]
    fn a_figure_that_is_gone_and_a_loss_fail() {
        let mut less = document(&[100.0]);
        less.points[0].figures.0.pop();
        let comparison = Comparison::of(&[document(&[100.0])], &[less], Tolerance::STANDARD);
        assert_eq!((comparison.rows[1].verdict, comparison.is_good()), (Verdict::Gone, false));
        let mut lossy = document(&[100.0]);
        lossy.points[0].losses.push("repeat 1: one".into());
        assert!(!Comparison::of(&[document(&[100.0])], &[lossy], Tolerance::STANDARD).is_good());
    }

    #[test]
    fn a_tolerance_is_percent() {
        assert_eq!("5%".parse(), Ok(Tolerance(0.05)));
        assert_eq!("12.5".parse(), Ok(Tolerance(0.125)));
        for wrong in ["", "-1%", "x", "5%%", "NaN"] {
            assert!(wrong.parse::<Tolerance>().is_err(), "{wrong}");
        }
    }
}
