//! Sizes, durations, times and counts in the notation that people write and read.
//!
//! Owns the notation; refuses to own the limits of any option. Called by the command line, suites and texts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The reason why a text is not a size or a duration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum UnitError {
    /// The text is not a number of bytes, or the number exceeds 64 bits.
    #[error("expected a number of bytes, as in 64M or 1G")]
    NoSize,
    /// The text is not a duration.
    #[error("{0}, as in 2s or 500ms")]
    NoDuration(humantime::DurationError),
    /// The duration is longer than a year.
    #[error("longer than a year")]
    TooLong,
}

/// Parses a number of bytes, with K, M or G behind it or without: `64M`, `64MiB`, `4096`.
///
/// # Errors
/// [`UnitError::NoSize`] for anything else, and for a number that exceeds 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, shift) = match number.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if number.ends_with('K') => (digits, 10),
        Some(digits) if number.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (number, 0),
    };
    let count: u64 = digits.trim().parse().map_err(|_| UnitError::NoSize)?;
    count.checked_mul(1 << shift).ok_or(UnitError::NoSize)
}

/// Parses a duration with its unit, `2s` or `500ms`, of a year at most; or `0`.
///
/// # Errors
/// [`UnitError::NoDuration`] for anything else, [`UnitError::TooLong`] for more than a year.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let duration = humantime::parse_duration(text).map_err(UnitError::NoDuration)?;
    if duration > LONGEST { Err(UnitError::TooLong) } else { Ok(duration) }
}

/// Returns the time of milliseconds since the Unix epoch. A time after the year 9999, which RFC 3339 cannot
/// express, becomes the last one that it can.
pub fn unix_time(at_ms: u64) -> SystemTime {
    // The end of the year 9999, which is as far as that form goes.
    const LAST: u64 = 253_402_300_799_000;
    UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST))
}

/// Returns a time as RFC 3339 has it, in UTC with milliseconds: `2026-03-01T12:00:00.000Z`. A time that has
/// no form there is moved to the nearest one that has.
pub fn rfc3339(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    humantime::format_rfc3339_millis(unix_time(at_ms)).to_string()
}

/// Returns the names of CPUs, in ascending order: three or more in a row are a range, `cpu2-cpu4`.
pub fn ranges(cpus: &[u32]) -> Vec<String> {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(cpu) => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let names = |(first, last): (u32, u32)| match last - first {
        0 => vec![format!("cpu{first}")],
        1 => vec![format!("cpu{first}"), format!("cpu{last}")],
        _ => vec![format!("cpu{first}-cpu{last}")],
    };
    parts.into_iter().flat_map(names).collect()
}

/// Returns a duration in seconds, with one decimal: `0.5 s`.
pub(crate) fn seconds(milliseconds: f64) -> String {
    format!("{:.1} s", milliseconds / 1000.0)
}

/// Returns a count with its noun, in the plural for all counts but one: `2 vCPUs`.
pub fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert!(parse_size("M").is_err());
        assert!(parse_size("-1").is_err());
        assert!(parse_size("99999999999G").is_err());
    }

    #[test]
    fn times_have_the_form_of_rfc_3339_whatever_the_clock_says() {
        let at = |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
        // `date -u -d @1772366400.123`.
        assert_eq!(at(1_772_366_400_123), "2026-03-01T12:00:00.123Z");
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), at(0));
        assert_eq!(at(300_000_000_000_000), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn three_cpus_in_a_row_are_a_range() {
        assert_eq!(ranges(&[0, 1]), ["cpu0", "cpu1"]);
        assert_eq!(ranges(&[0, 2, 3, 4, 9]), ["cpu0", "cpu2-cpu4", "cpu9"]);
    }

    #[test]
    fn durations_have_units_too_and_only_zero_does_without() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "-1s", "2 parsecs", "3years"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
