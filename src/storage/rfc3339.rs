//! Wall-clock times as people read them: RFC 3339, in UTC.
//!
//! The calendar arithmetic is Howard Hinnant's (`days_from_civil` and `civil_from_days` in "chrono-Compatible Low-Level Date Algorithms"),
//! exact for every day that 64-bit nanoseconds reach.

use std::fmt;

use crate::sys::clock::WallNanos;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: u64 = 86_400;

/// Displays a time as `2026-01-31T23:59:59.123456789Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rfc3339(pub WallNanos);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.0 / NANOS_PER_SECOND, self.0.0 % NANOS_PER_SECOND);
        let (year, month, day) = civil_from_days((seconds / SECONDS_PER_DAY) as i64);
        let of_day = seconds % SECONDS_PER_DAY;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }
}

/// Parses `2026-01-31T23:59:59[.fraction](Z|±hh:mm)`; also a bare date (midnight UTC) and a blank for the `T`. `None`: it is none, or
/// before 1970, or beyond 2554.
pub fn parse_rfc3339(text: &str) -> Option<WallNanos> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = number(rest.strip_prefix('-')?, 2)?;
    if !(1..=12).contains(&month) || !(1..=days_of_month(year, month)).contains(&day) {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * SECONDS_PER_DAY as i64;
    if rest.is_empty() {
        return nanos(midnight, 0);
    }
    let (hour, rest) = number(rest.strip_prefix(['T', 't', ' '])?, 2)?;
    let (minute, rest) = number(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = number(rest.strip_prefix(':')?, 2)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, rest) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(digits) => {
            let len = digits.bytes().take_while(u8::is_ascii_digit).count();
            let kept = &digits[..len.min(9)];
            let value: u64 = kept.parse().ok()?; // None for no digits.
            (value * 10u64.pow(9 - kept.len() as u32), &digits[len..])
        }
    };
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = if rest.starts_with('-') { -1 } else { 1 };
            let (hours, rest) = number(rest.strip_prefix(['+', '-'])?, 2)?;
            let (minutes, rest) = number(rest.strip_prefix(':')?, 2)?;
            if !rest.is_empty() || hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 3600 + minutes * 60)
        }
    };
    nanos(midnight + hour * 3600 + minute * 60 + second - offset, fraction)
}

fn nanos(seconds: i64, fraction: u64) -> Option<WallNanos> {
    u64::try_from(seconds).ok()?.checked_mul(NANOS_PER_SECOND)?.checked_add(fraction).map(WallNanos)
}

/// Exactly `digits` decimal digits at the start.
fn number(text: &str, digits: usize) -> Option<(i64, &str)> {
    let head = text.get(..digits)?;
    if !head.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((head.parse().ok()?, &text[digits..]))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments_read_as_they_should() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199_999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (4_102_444_800_000_000_000, "2100-01-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(Rfc3339(WallNanos(nanos)).to_string(), text);
            assert_eq!(parse_rfc3339(text), Some(WallNanos(nanos)));
        }
    }

    #[test]
    fn offsets_fractions_and_bare_dates_are_understood() {
        let noon = parse_rfc3339("2026-03-01T12:00:00Z").unwrap();
        for same in
            ["2026-03-01T14:00:00+02:00", "2026-03-01T06:30:00-05:30", "2026-03-01 12:00:00.000Z", "2026-03-01t12:00:00.0z"]
        {
            assert_eq!(parse_rfc3339(same), Some(noon), "{same}");
        }
        assert_eq!(parse_rfc3339("2026-03-01"), parse_rfc3339("2026-03-01T00:00:00Z"));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.1234567891Z"), Some(WallNanos(123_456_789)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:00:00",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00+2:00",
            "1969-12-31T23:59:59Z",
            "2600-01-01",
            "+026-03-01",
            "2026-03-01T12:00:00Zx",
            "é026-03-01",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_comes_back_as_it_went(nanos in any::<u64>()) {
            prop_assert_eq!(parse_rfc3339(&Rfc3339(WallNanos(nanos)).to_string()), Some(WallNanos(nanos)));
        }
    }
}
