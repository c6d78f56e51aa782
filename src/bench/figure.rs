//! A figure: one quantity, measured several times, and what the median of that says.

use serde::{Deserialize, Serialize};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Rates, shares of a limit.
    Higher,
    /// Times, costs.
    Lower,
    /// Neither: a fact about the run, never compared.
    Neither,
}

/// What a machine of a known kind reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// In the figure's unit.
    pub value: f64,
    /// How it was got.
    pub source: String,
}

/// One quantity over the repeats of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is, unique within its point: `stored`, `pipeline, direct`.
    pub name: String,
    /// `events/s`, `ns`, `GB/s`, `%`, ….
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// One value for each repeat, in order; at least one.
    pub runs: Vec<f64>,
    /// What to hold it against, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
}

impl Figure {
    /// A figure without a value yet; see [`Figures::note`].
    pub fn new(name: impl Into<String>, unit: impl Into<String>, better: Better) -> Self {
        Self { name: name.into(), unit: unit.into(), better, runs: Vec::new(), reference: None }
    }

    /// The middle one; of an even number the lower of the two in the middle, so that it is one that was measured. 0 without runs.
    pub fn median(&self) -> f64 {
        median(&self.runs)
    }

    /// The least; 0 without runs.
    pub fn least(&self) -> f64 {
        self.runs.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// The most; 0 without runs.
    pub fn most(&self) -> f64 {
        self.runs.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// How good it is beside another value of the same quantity: 1 is the same, 0.5 half as good.
    pub fn share_of(&self, other: f64) -> f64 {
        let mine = self.median();
        match self.better {
            Better::Lower => other / mine.max(f64::MIN_POSITIVE),
            Better::Higher | Better::Neither => mine / other.max(f64::MIN_POSITIVE),
        }
    }

    /// [`Figure::share_of`] its reference, where it has one.
    pub fn share_of_reference(&self) -> Option<f64> {
        self.reference.as_ref().map(|reference| self.share_of(reference.value))
    }
}

/// The middle one of these, of an even number the lower of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Figures as they come in, repeat by repeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(pub Vec<Figure>);

impl Figures {
    /// Adds a repeat's value to the figure of this name, which begins with its first value.
    pub fn note(&mut self, name: &str, unit: &str, better: Better, value: f64) {
        let place = self.0.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            self.0.push(Figure::new(name, unit, better));
            self.0.len() - 1
        });
        self.0[place].runs.push(value);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By name.
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.0.iter().find(|figure| figure.name == name)
    }
}

/// A value as people read it: three digits and `k`, `M`, `G` where it is a rate; times by their size.
pub fn readable(value: f64, unit: &str) -> String {
    match unit {
        "ns" if value >= 1e9 => format!("{:.2} s", value / 1e9),
        "ns" if value >= 1e6 => format!("{:.2} ms", value / 1e6),
        "ns" if value >= 1e4 => format!("{:.1} µs", value / 1e3),
        "ns" if value >= 1e3 => format!("{:.2} µs", value / 1e3),
        "ns" => format!("{value:.1} ns"),
        "share" => format!("{value:.3}"),
        "events/s" | "1/s" | "bytes" | "datagrams" | "times" => format!("{} {unit}", short(value)),
        _ => format!("{value:.2} {unit}"),
    }
}

/// Three digits and a power of a thousand.
pub fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 || scaled.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, runs: &[f64]) -> Figure {
        Figure { runs: runs.to_vec(), ..Figure::new("x", "ns", better) }
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(figure(Better::Lower, &[5.0, 1.0, 9.0]).median(), 5.0);
        assert_eq!(figure(Better::Lower, &[4.0, 1.0, 9.0, 5.0]).median(), 4.0);
        assert_eq!(figure(Better::Lower, &[]).median(), 0.0);
    }

    #[test]
    fn a_share_is_below_one_when_the_figure_is_worse_whichever_way_is_better() {
        assert_eq!(figure(Better::Higher, &[5.0]).share_of(10.0), 0.5);
        assert_eq!(figure(Better::Lower, &[20.0]).share_of(10.0), 0.5);
    }

    #[test]
    fn repeats_gather_under_one_name_in_their_order() {
        let mut figures = Figures::default();
        for value in [3.0, 1.0] {
            figures.note("a", "ns", Better::Lower, value);
            figures.note("b", "ns", Better::Lower, value + 10.0);
        }
        assert_eq!(figures.get("a").map(|figure| &figure.runs[..]), Some(&[3.0, 1.0][..]));
        assert_eq!(figures.0.len(), 2);
    }

    #[test]
    fn values_are_short() {
        let short: Vec<String> = [7.0, 12_345_678.0, 999.4, 1_500.0].map(short).to_vec();
        assert_eq!(short, ["7", "12.3 M", "999", "1.50 k"]);
        assert_eq!(readable(12_340.0, "ns"), "12.3 µs");
        assert_eq!(readable(0.5, "%"), "0.50 %");
    }
}
