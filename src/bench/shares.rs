//! The engine as a share of each limit of the machine that was measured beside it.
//!
//! A limit is a pace: of events, of bytes, or of one small thing. A share of 1 would be an engine that does nothing else but this:
//!
//! | limit in | the engine's pace beside it |
//! |---|---|
//! | events/s | events stored a second, where its frames are those of the limit |
//! | GB/s | bytes of log a second |
//! | ns | CPU of the engine for each event; the share is what the small thing, done once, is of it |

use super::document::{Document, Point};
use super::figure::{Figure, readable};

/// Names of the engine's figures.
pub mod names {
    /// Events stored a second.
    pub const STORED: &str = "stored";
    /// Bytes of log a second.
    pub const LOG: &str = "log";
    /// CPU of the engine for each event.
    pub const CPU: &str = "CPU of the engine for each event";
}

/// Bytes of a body in the frames that limits are measured with.
const BODY_BYTES: &str = "64";

/// A limit, and the engine beside it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Share<'a> {
    pub(super) limit: &'a Figure,
    /// The engine's pace as people read it, and its share of the limit's; `None` where nothing compares.
    pub(super) engine: Option<(String, f64)>,
}

/// The point that stored most, and what it is of each limit; `None` where no limit or no such point was measured.
pub(super) fn of_document(document: &Document) -> Option<(&Point, Vec<Share<'_>>)> {
    let stored = |point: &Point| point.figures.get(names::STORED).map_or(0.0, Figure::median);
    let point = document.points.iter().filter(|point| stored(point) > 0.0).max_by(|a, b| stored(a).total_cmp(&stored(b)))?;
    let is_alike = document.settings.get("bytes of a body").is_some_and(|bytes| bytes == BODY_BYTES);
    let shares = document.limits.0.iter().map(|limit| Share { limit, engine: engine(limit, point, is_alike) });
    (!document.limits.is_empty()).then(|| (point, shares.collect()))
}

fn engine(limit: &Figure, point: &Point, is_alike: bool) -> Option<(String, f64)> {
    let own = match limit.unit.as_str() {
        "events/s" if is_alike => names::STORED,
        "GB/s" => names::LOG,
        "ns" => names::CPU,
        _ => return None,
    };
    let own = point.figures.get(own)?;
    let (pace, limit_pace) = (own.median().max(f64::MIN_POSITIVE), limit.median().max(f64::MIN_POSITIVE));
    let share = if limit.unit == "ns" { limit_pace / pace } else { pace / limit_pace };
    let what = if limit.unit == "ns" { " for each event" } else { "" };
    Some((readable(own.median(), &own.unit) + what, share))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::ceiling::{add_references, names as limits};
    use crate::bench::document::tests::document;
    use crate::bench::figure::Better;

    /// An engine of 10 M events/s, 1 GB/s and 100 ns beside limits of 25 M, 5 GB/s and 25 ns.
    pub(in crate::bench) fn beside_limits() -> Document {
        let mut document = document(&[1e6]);
        document.settings.insert("bytes of a body".to_owned(), BODY_BYTES.to_owned());
        document.limits.note(limits::PIPELINE, "events/s", Better::Higher, 25e6);
        document.limits.note(limits::APPEND_NONE, "GB/s", Better::Higher, 5.0);
        document.limits.note(limits::CLOCK, "ns", Better::Lower, 25.0);
        add_references(&mut document.limits);
        for (place, stored) in [8e6, 10e6, 9e6].into_iter().enumerate() {
            let mut point = Point { name: format!("point {place}"), ..Point::default() };
            point.figures.note(names::STORED, "events/s", Better::Higher, stored);
            point.figures.note(names::LOG, "GB/s", Better::Higher, 1.0);
            point.figures.note(names::CPU, "ns", Better::Lower, 100.0);
            document.points.push(point);
        }
        document
    }

    #[test]
    fn the_best_point_is_put_beside_each_limit() {
        let document = beside_limits();
        let (point, shares) = of_document(&document).expect("limits and points");
        let found: Vec<f64> = shares.iter().map(|share| share.engine.as_ref().expect("all compare").1).collect();
        assert_eq!((&*point.name, &found[..]), ("point 1", &[0.4, 0.2, 0.25][..]));
        assert_eq!(shares[2].engine.as_ref().expect("it compares").0, "100.0 ns for each event");
    }

    #[test]
    fn frames_of_another_size_are_not_compared() {
        let mut document = beside_limits();
        document.settings.insert("bytes of a body".to_owned(), "512".to_owned());
        let (_, shares) = of_document(&document).expect("limits and points");
        assert_eq!(shares[0].engine, None);
        assert!(shares[1].engine.is_some());
    }
}
