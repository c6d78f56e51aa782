//! `eventstream doctor`: what the engine wants of the host, what is there, and how to change it.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use argh::FromArgs;

use super::{CommandError, ExitStatus, print};
use crate::config::{Config, Flags, Layers};
use crate::sys::findings::{Finding, Severity};

/// looks at the host: what is required, what is there, and the fix
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "doctor")]
pub struct DoctorCommand {
    /// the configuration file to look at the host for (default EVENTSTREAM_CONFIG, else none)
    #[argh(option)]
    config: Option<PathBuf>,
    /// prints the table as JSON
    #[argh(switch)]
    json: bool,
}

impl DoctorCommand {
    /// Probes and prints; exit code 4 when the engine could not start.
    ///
    /// # Errors
    /// A configuration that is refused; whatever the probe says.
    pub fn run(
        self,
        probe: fn(&Config) -> Result<Vec<Finding>, CommandError>,
        out: &mut dyn Write,
    ) -> Result<ExitStatus, CommandError> {
        let flags = Flags::with_config(self.config);
        let config = Config::load(&Layers::of_process(flags))?.config;
        let findings = probe(&config)?;
        print(out, &if self.json { json(&findings) } else { table(&findings) })?;
        let worst = findings.iter().map(|finding| finding.severity).max();
        Ok(if worst == Some(Severity::Error) { ExitStatus::Environment } else { ExitStatus::Ok })
    }
}

fn json(findings: &[Finding]) -> String {
    let mut text = serde_json::to_string_pretty(findings).expect("findings are plain text");
    text.push('\n');
    text
}

/// An aligned table; a row that needs a fix has it on a line of its own.
fn table(findings: &[Finding]) -> String {
    let heads = ["severity", "what", "required", "found"];
    let cells = |finding: &Finding| {
        [finding.severity.name().to_owned(), finding.what.to_owned(), finding.required.clone(), finding.found.clone()]
    };
    let rows: Vec<[String; 4]> = std::iter::once(heads.map(str::to_owned)).chain(findings.iter().map(cells)).collect();
    let widths: [usize; 4] = std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
        let fix = index.checked_sub(1).map_or("", |finding| findings[finding].fix.as_str());
        if !fix.is_empty() {
            let _ = writeln!(text, "{:10}fix: {fix}", "");
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = writeln!(text, "{} errors, {} warnings", count(Severity::Error), count(Severity::Warning));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, fix: &str) -> Finding {
        Finding { what: "open files", required: "10064".to_owned(), found: "1024".to_owned(), severity, fix: fix.to_owned() }
    }

    fn run(json: bool, probe: fn(&Config) -> Result<Vec<Finding>, CommandError>) -> (Result<ExitStatus, CommandError>, String) {
        let mut out = Vec::new();
        let outcome = DoctorCommand { config: None, json }.run(probe, &mut out);
        (outcome, String::from_utf8(out).expect("a table is text"))
    }

    #[test]
    fn an_error_row_ends_with_exit_code_four_and_its_fix() {
        let (outcome, text) = run(false, |_| Ok(vec![finding(Severity::Ok, ""), finding(Severity::Error, "ulimit -n 10064")]));
        assert_eq!(outcome, Ok(ExitStatus::Environment));
        let expected = "\
severity  what        required  found
ok        open files  10064     1024
error     open files  10064     1024
          fix: ulimit -n 10064
1 errors, 0 warnings
";
        assert_eq!(text, expected);
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let (outcome, _) = run(false, |_| Ok(vec![finding(Severity::Warning, "ulimit -n 10064")]));
        assert_eq!(outcome, Ok(ExitStatus::Ok));
    }

    #[test]
    fn json_has_the_columns_as_fields() {
        let (_, text) = run(true, |_| Ok(vec![finding(Severity::Warning, "ulimit -n 10064")]));
        let rows: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(rows[0]["severity"], "warning");
        assert_eq!(rows[0]["what"], "open files");
        assert_eq!(rows[0]["fix"], "ulimit -n 10064");
    }
}
