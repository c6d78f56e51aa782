//! What a run leaves behind: `<scenario>.json`, and beside it the same as CSV and its latencies as `.hgrm`.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::curve::Curve;
use super::figure::{Figures, readable};
use super::host::Host;
use super::noise::Noise;
use super::stages::Stages;
use super::threads::Threads;
use super::timeline::{Expectation, Timeline};

/// The version of the JSON form; a file of another one is refused.
pub const FORMAT: u32 = 1;

/// One setting of a scenario, and what it gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What sets it apart: `8 connections`; unique within its scenario.
    pub name: String,
    /// Its place on the scenario's axis, where that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    /// What was measured.
    pub figures: Figures,
    /// All repeats together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
    /// What was seen while it ran, of the last repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// Where an event's time goes.
    #[serde(default, skip_serializing_if = "Stages::is_empty")]
    pub stages: Stages,
    /// What the engine's threads took of their cores.
    #[serde(default, skip_serializing_if = "Threads::is_empty")]
    pub threads: Threads,
    /// What was expected of it, and whether it was so: shown, and no reason to fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<Expectation>,
    /// What was lost, or did not balance: a line each, with the repeat. Empty in a good run (H4).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<String>,
}

/// A run of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`FORMAT`].
    pub format: u32,
    /// Its name.
    pub scenario: String,
    /// What it does, in a sentence.
    pub about: String,
    /// What `x` of its points is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis: Option<String>,
    /// Where and of what.
    pub host: Host,
    /// What the machine took away meanwhile.
    pub noise: Noise,
    /// The machine's own limits, measured between the repeats of this run; empty where the scenario is the ceiling itself.
    #[serde(default, skip_serializing_if = "Figures::is_empty")]
    pub limits: Figures,
    /// What it was told: repeats, layout, load, flags of the engine.
    pub settings: BTreeMap<String, String>,
    /// What a reader should know before the figures.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// One or more.
    pub points: Vec<Point>,
}

/// A file that should be a document and can't be had as one.
#[derive(Debug)]
pub enum DocumentError {
    /// It can't be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else, or of another version.
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is none.
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DocumentError::Io { path, source } => {
                write!(f, "error: {}: no access\ncause: {source}\nfix:   a folder that may be read and written", path.display())
            }
            DocumentError::NotOurs { path, why } => {
                write!(
                    f,
                    "error: {} is no result of a benchmark\ncause: {why}\nfix:   a folder that `eventstream bench run … --out` wrote",
                    path.display()
                )
            }
            DocumentError::Empty { path } => write!(
                f,
                "error: no results in {}\ncause: it holds no JSON file\nfix:   eventstream bench run ingest-tcp --out {}",
                path.display(),
                path.display()
            ),
        }
    }
}

impl std::error::Error for DocumentError {}

impl Document {
    /// Whether nothing was lost and every account balanced (H4).
    pub fn is_lossless(&self) -> bool {
        self.points.iter().all(|point| point.losses.is_empty())
    }

    /// Writes JSON, CSV and `.hgrm` into a folder, which is made where it is missing.
    ///
    /// # Errors
    /// A folder that can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), DocumentError> {
        let write = |name: String, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| DocumentError::Io { path, source })
        };
        fs::create_dir_all(folder).map_err(|source| DocumentError::Io { path: folder.to_owned(), source })?;
        let json = serde_json::to_string_pretty(self).expect("maps with text keys and finite numbers");
        write(format!("{}.json", self.scenario), json + "\n")?;
        write(format!("{}.csv", self.scenario), self.csv())?;
        for point in &self.points {
            for curve in &point.curves {
                write(format!("{}.{}.{}.hgrm", self.scenario, plain(&point.name), plain(&curve.name)), curve.hgrm())?;
            }
            if let Some(timeline) = &point.timeline {
                write(format!("{}.{}.timeline.csv", self.scenario, plain(&point.name)), timeline.csv())?;
            }
        }
        Ok(())
    }

    /// The documents of a folder, by name of their file.
    ///
    /// # Errors
    /// No folder, no document in it, or one that is none.
    pub fn read_all(folder: &Path) -> Result<Vec<Document>, DocumentError> {
        let failed = |source| DocumentError::Io { path: folder.to_owned(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(DocumentError::Empty { path: folder.to_owned() });
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Result<Document, DocumentError> {
        let path = path.to_owned();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(DocumentError::Io { path, source }),
        };
        match serde_json::from_str::<Document>(&text) {
            Ok(document) if document.format == FORMAT => Ok(document),
            Ok(document) => Err(DocumentError::NotOurs { path, why: format!("format {}, not {FORMAT}", document.format) }),
            Err(error) => Err(DocumentError::NotOurs { path, why: error.to_string() }),
        }
    }

    /// One row for each figure of each point.
    pub fn csv(&self) -> String {
        let mut text = String::from("scenario,point,x,figure,unit,median,least,most,runs,share_of_reference\n");
        for point in &self.points {
            let x = point.x.map(|x| x.to_string()).unwrap_or_default();
            for figure in &point.figures.0 {
                let share = figure.share_of_reference().map(|share| format!("{share:.3}")).unwrap_or_default();
                let names = [&self.scenario, &point.name, &x, &figure.name, &figure.unit].map(|name| quoted(name));
                let (median, least, most) = (figure.median(), figure.least(), figure.most());
                // Writing to a string can't fail.
                let _ = writeln!(text, "{},{median},{least},{most},{},{share}", names.join(","), figure.runs.len());
            }
        }
        text
    }
}

/// A field of CSV: in quotes where it holds what would end it.
pub(super) fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

/// A part of a file's name.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "── {}: {}", self.scenario, self.about)?;
        for (name, value) in self.host.rows().iter().take(3) {
            writeln!(f, "{name} {value}")?;
        }
        writeln!(f, "noise: {}", self.noise)?;
        for point in &self.points {
            if self.points.len() > 1 || self.axis.is_some() {
                writeln!(f, "{}", point.name)?;
            }
            let is_known = point.figures.0.iter().any(|figure| figure.reference.is_some());
            let known = if is_known { "of known" } else { "" };
            writeln!(f, "{:<42}{:>18}{:>18}{:>18}{known:>10}", "", "median", "least", "most")?;
            for figure in &point.figures.0 {
                let [median, least, most] =
                    [figure.median(), figure.least(), figure.most()].map(|value| readable(value, &figure.unit));
                let share = figure.share_of_reference().map(|share| format!("{share:.2}")).unwrap_or_default();
                writeln!(f, "  {:<40}{median:>18}{least:>18}{most:>18}{share:>10}", figure.name)?;
            }
            point.expectations.iter().try_for_each(|expectation| writeln!(f, "  {expectation}"))?;
            for loss in &point.losses {
                writeln!(f, "  LOSS: {loss}")?;
            }
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::curve::histogram;
    use crate::bench::figure::Better;

    /// A run with one figure of these values, `stored`, and one latency.
    pub(in crate::bench) fn document(stored: &[f64]) -> Document {
        let mut figures = Figures::default();
        stored.iter().for_each(|value| figures.note("stored, all", "events/s", Better::Higher, *value));
        figures.note("p99", "ns", Better::Lower, 2_000.0);
        let mut values = histogram();
        values.record(2_000).expect("within the bounds");
        let curves = vec![Curve::of("due to handled", &values)];
        let point = Point { name: "8 connections".into(), x: Some(8.0), figures, curves, ..Point::default() };
        Document {
            format: FORMAT,
            scenario: "test".into(),
            axis: Some("connections".into()),
            points: vec![point],
            ..Document::default()
        }
    }

    #[test]
    fn a_document_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = document(&[1e6, 2e6, 1.5e6]);
        written.write(folder.path()).expect("a folder");
        assert_eq!(Document::read_all(folder.path()).expect("a document"), [written]);
        assert!(folder.path().join("test.8-connections.due-to-handled.hgrm").is_file());
    }

    #[test]
    fn csv_has_a_row_for_each_figure_and_quotes_commas() {
        let csv = document(&[1e6, 2e6, 1.5e6]).csv();
        let rows: Vec<&str> = csv.lines().skip(1).collect();
        assert_eq!(rows[0], "test,8 connections,8,\"stored, all\",events/s,1500000,1000000,2000000,3,");
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn what_is_no_result_is_refused_in_three_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = |folder: &Path| Document::read_all(folder).expect_err("no result").to_string();
        assert!(refused(folder.path()).starts_with("error: no results in "));
        fs::write(folder.path().join("x.json"), "{}").expect("a folder");
        assert_eq!(refused(folder.path()).lines().count(), 3);
        let other = Document { format: 2, ..document(&[1.0]) };
        fs::write(folder.path().join("x.json"), serde_json::to_string(&other).expect("JSON")).expect("a folder");
        assert!(refused(folder.path()).contains("format 2, not 1"));
    }

    #[test]
    fn a_loss_is_said_and_counts() {
        let mut document = document(&[1e6]);
        assert!(document.is_lossless());
        document.points[0].losses.push("repeat 1: 3 events are not stored".into());
        assert!(!document.is_lossless() && document.to_string().contains("LOSS: repeat 1: 3 events"));
    }
}
