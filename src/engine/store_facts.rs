//! What is said of the store before it is used: how its writes are made durable.

use std::io;
use std::path::Path;

use crate::config::{Config, OnOff};
use crate::storage::appender::Durability;
use crate::storage::{SyncChoice, SyncMethod, SyncProbe};
use crate::sys::clock::HostClock;
use crate::sys::findings::{Finding, Severity};

/// The method for a data folder, probed where that matters; and what the probe found, in a line.
pub(super) fn sync_method(config: &Config, folder: &Path) -> (SyncMethod, Option<String>) {
    match config.sync_method {
        SyncChoice::Dsync => (SyncMethod::Dsync, None),
        SyncChoice::Fdatasync => (SyncMethod::Fdatasync, None),
        SyncChoice::Auto if config.durability != Durability::Always => (SyncMethod::Dsync, None),
        SyncChoice::Auto => match SyncProbe::run(folder, true, &HostClock) {
            Ok(probe) => (probe.method(), Some(format!("durable writes by {}: {probe}", probe.method().name()))),
            // No space, above all: nothing is lost by the one that is as good nearly everywhere.
            Err(error) => (SyncMethod::Dsync, Some(format!("durable writes by dsync: not probed, {error}"))),
        },
    }
}

/// How what is written is made durable, in a few words.
pub(super) fn sync_name(durability: Durability, method: SyncMethod) -> &'static str {
    match (durability, method) {
        (Durability::None, _) => "synced at the end",
        (Durability::Group, SyncMethod::Dsync) => "fdatasync by group, dsync with bulk writes",
        (Durability::Group, SyncMethod::Fdatasync) => "fdatasync by group",
        (Durability::Always, SyncMethod::Dsync) => "dsync with each write",
        (Durability::Always, SyncMethod::Fdatasync) => "fdatasync behind each write",
    }
}

/// What `doctor` says of it; `None` where nothing is stored.
pub(super) fn sync_finding(config: &Config) -> Option<Finding> {
    if config.storage == OnOff::Off {
        return None;
    }
    let (what, required) = ("durable writes", "measured in the data folder");
    Some(match SyncProbe::run(&config.data_dir, true, &HostClock) {
        Ok(probe) => Finding::ok(what, required, format!("{probe}; --durability always takes {}", probe.method().name())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::ok(what, required, "no data folder yet: measured at the first start with --durability always")
        }
        Err(error) => Finding::problem(
            Severity::Warning,
            what,
            required,
            format!("{}: {error}", config.data_dir.display()),
            "make the data folder writable, with some space free",
        ),
    })
}
