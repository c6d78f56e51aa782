//! Two runs, figure by figure: what became worse by more than is allowed.

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
    /// Worse by more than the tolerance, but each median lies among the repeats of the other run: noise can't be told from change.
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

/// A figure of both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Scenario, point and figure.
    pub name: String,
    unit: String,
    before: f64,
    after: Option<f64>,
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
        Self { rows, losses: after.iter().flat_map(lost).collect() }
    }

    /// Whether nothing is worse, gone or lost.
    pub fn is_good(&self) -> bool {
        self.losses.is_empty() && !self.rows.iter().any(|row| matches!(row.verdict, Verdict::Worse | Verdict::Gone))
    }
}

fn row(document: &Document, point: &Point, before: &Figure, other: Option<&Point>, tolerance: Tolerance) -> Row {
    let name = format!("{}, {}: {}", document.scenario, point.name, before.name);
    let row = Row { name, unit: before.unit.clone(), before: before.median(), after: None, gain: 0.0, verdict: Verdict::Gone };
    let Some(after) = other.and_then(|other| other.figures.get(&before.name)) else { return row };
    let gain = after.share_of(before.median()) - 1.0;
    let verdict = match gain {
        gain if gain < -tolerance.0 && overlap(before, after) => Verdict::Unsure,
        gain if gain < -tolerance.0 => Verdict::Worse,
        gain if gain > tolerance.0 => Verdict::Better,
        _ => Verdict::Same,
    };
    Row { after: Some(after.median()), gain, verdict, ..row }
}

/// Whether each median lies among the repeats of the other run, of which both have three or more: of fewer nothing is known, and the medians
/// decide.
fn overlap(before: &Figure, after: &Figure) -> bool {
    let among = |one: &Figure, other: &Figure| (other.least()..=other.most()).contains(&one.median());
    before.runs.len().min(after.runs.len()) >= 3 && among(before, after) && among(after, before)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<72}{:>16}{:>16}{:>9}  verdict", "", "before", "after", "gain")?;
        for Row { name, unit, before, after, gain, verdict } in &self.rows {
            let after = after.map_or("-".to_owned(), |after| readable(after, unit));
            let before = readable(*before, unit);
            writeln!(f, "{name:<72}{before:>16}{after:>16}{:>+8.1}%  {}", gain * 100.0, verdict.name())?;
        }
        self.losses.iter().try_for_each(|loss| writeln!(f, "LOSS: {loss}"))
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
    }

    #[test]
    fn of_times_less_is_better() {
        let mut slower = document(&[100.0]);
        slower.points[0].figures.0[1].runs = vec![3_000.0];
        let comparison = Comparison::of(&[document(&[100.0])], &[slower], Tolerance::STANDARD);
        assert_eq!(comparison.rows[1].verdict, Verdict::Worse);
        assert!(comparison.to_string().contains("-33.3%  WORSE"), "{comparison}");
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
