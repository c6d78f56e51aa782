//! `log info` and `log verify`: every byte of each log is read, and what it holds is said.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::{LogCommandError, LogOutcome, log_path, logs_of, print_json};
use crate::storage::log_file::DiskFolder;
use crate::storage::node_reader::{VerifyReport, verify};
use crate::storage::rfc3339::Rfc3339;
use crate::wire::Priority;

/// Verifies each log and prints what `print` says of it.
pub(super) fn look(
    folder: &Path,
    json: bool,
    out: &mut dyn Write,
    print: fn(&mut dyn Write, &Path, &VerifyReport) -> io::Result<()>,
) -> Result<LogOutcome, LogCommandError> {
    let mut outcome = LogOutcome::Whole;
    for node in logs_of(folder)? {
        let path = log_path(folder, node);
        let report =
            verify(DiskFolder::to_read(folder), node).map_err(|error| LogCommandError::Read { path: path.clone(), error })?;
        if !report.is_whole() {
            outcome = LogOutcome::Damaged;
        }
        if json { print_json(out, &ReportJson::new(&path, &report)) } else { print(out, &path, &report) }
            .map_err(LogCommandError::Output)?;
    }
    Ok(outcome)
}

pub(super) fn print_info(out: &mut dyn Write, path: &Path, report: &VerifyReport) -> io::Result<()> {
    let line = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "  {name:<18} {value}");
    writeln!(out, "{}", path.display())?;
    line(out, "node", report.segment.node.to_string())?;
    line(out, "created", Rfc3339(report.segment.created_at).to_string())?;
    line(
        out,
        "opened",
        format!("{} times, {}", report.openings, if report.closed { "closed in good order" } else { "not closed" }),
    )?;
    line(
        out,
        "records",
        format!("{} in {} batches, {} bytes of topics and bodies", report.records, report.batches, report.payload_bytes),
    )?;
    line(
        out,
        "sequences",
        format!("{}..{}, durable below {}", report.segment.first_sequence, report.end_sequence, report.durable_sequence),
    )?;
    line(out, "bytes", format!("{} used of {} in {} segments", report.valid_bytes, report.file_bytes, report.segments))?;
    if let Some((first, last)) = report.sealed_between {
        line(out, "written between", format!("{} and {}", Rfc3339(first), Rfc3339(last)))?;
    }
    for priority in Priority::ALL.into_iter().rev() {
        line(out, priority.name(), report.by_priority[priority as usize].to_string())?;
    }
    print_faults(out, report)
}

pub(super) fn print_verify(out: &mut dyn Write, path: &Path, report: &VerifyReport) -> io::Result<()> {
    let state = if report.is_whole() { "whole" } else { "DAMAGED" };
    writeln!(
        out,
        "{}: {state}: {} records in {} batches, {} segments, {} bytes, sequences {}..{}",
        path.display(),
        report.records,
        report.batches,
        report.segments,
        report.valid_bytes,
        report.segment.first_sequence,
        report.end_sequence
    )?;
    print_faults(out, report)
}

fn print_faults(out: &mut dyn Write, report: &VerifyReport) -> io::Result<()> {
    for (name, damage) in &report.damages {
        writeln!(out, "  {name}: {damage}")?;
    }
    if report.damage_count > report.damages.len() as u64 {
        writeln!(out, "  and {} more damages", report.damage_count - report.damages.len() as u64)?;
    }
    if report.accepted_losses > 0 {
        writeln!(out, "  {} records are not there; their loss was accepted", report.accepted_losses)?;
    }
    if let Some((fault, bytes)) = report.torn {
        writeln!(out, "  torn tail of {bytes} bytes behind the last record ({fault}): being written, or cut at the next start")?;
    }
    Ok(())
}

#[derive(Serialize)]
struct ReportJson {
    path: String,
    node: u32,
    created: String,
    segments: u64,
    openings: u64,
    closed: bool,
    records: u64,
    batches: u64,
    payload_bytes: u64,
    valid_bytes: u64,
    file_bytes: u64,
    first_sequence: u64,
    end_sequence: u64,
    durable_sequence: u64,
    highest_event_id: u64,
    first_sealed: Option<String>,
    last_sealed: Option<String>,
    by_priority: serde_json::Map<String, serde_json::Value>,
    torn_bytes: u64,
    whole: bool,
    accepted_losses: u64,
    damage_count: u64,
    damages: Vec<DamageJson>,
}

#[derive(Serialize)]
struct DamageJson {
    segment: String,
    offset: u64,
    fault: String,
    first_lost_sequence: u64,
    end_lost_sequence: Option<u64>,
}

impl ReportJson {
    fn new(path: &Path, report: &VerifyReport) -> Self {
        let by_priority = Priority::ALL.map(|p| (p.name().to_owned(), report.by_priority[p as usize].into()));
        Self {
            path: path.display().to_string(),
            node: report.segment.node,
            created: Rfc3339(report.segment.created_at).to_string(),
            segments: report.segments,
            openings: report.openings,
            closed: report.closed,
            records: report.records,
            batches: report.batches,
            payload_bytes: report.payload_bytes,
            valid_bytes: report.valid_bytes,
            file_bytes: report.file_bytes,
            first_sequence: report.segment.first_sequence,
            end_sequence: report.end_sequence,
            durable_sequence: report.durable_sequence,
            highest_event_id: report.highest_event_id,
            first_sealed: report.sealed_between.map(|(first, _)| Rfc3339(first).to_string()),
            last_sealed: report.sealed_between.map(|(_, last)| Rfc3339(last).to_string()),
            by_priority: by_priority.into_iter().collect(),
            torn_bytes: report.torn.map_or(0, |(_, bytes)| bytes),
            whole: report.is_whole(),
            accepted_losses: report.accepted_losses,
            damage_count: report.damage_count,
            damages: report
                .damages
                .iter()
                .map(|(name, damage)| DamageJson {
                    segment: name.clone(),
                    offset: damage.offset,
                    fault: damage.fault.to_string(),
                    first_lost_sequence: damage.first_lost,
                    end_lost_sequence: damage.resume.map(|(_, sequence)| sequence),
                })
                .collect(),
        }
    }
}
