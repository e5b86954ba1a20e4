//! Sizes, durations, times and counts as people write them, and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The reason why a text is no size or no duration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum UnitError {
    /// The text is no number of bytes, or more than there are addresses.
    #[error("a number of bytes is wanted, as in 64M or 1G")]
    NoSize,
    /// The text is no duration.
    #[error("{0}, as in 2s or 500ms")]
    NoDuration(humantime::DurationError),
    /// The duration is longer than any that makes sense here.
    #[error("longer than a year")]
    TooLong,
}

/// A number of bytes, or one with K, M or G behind: `64M`, `64MiB`, `4096`.
///
/// # Errors
/// It is none, or more than there are addresses.
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

/// A duration with its unit, `2s` or `500ms`, of a year at most; or `0`.
///
/// # Errors
/// It is none, or longer.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let duration = humantime::parse_duration(text).map_err(UnitError::NoDuration)?;
    if duration > LONGEST { Err(UnitError::TooLong) } else { Ok(duration) }
}

/// A time that has a form in RFC 3339, of milliseconds since the Unix epoch: the last one for all that
/// come later.
pub fn unix_time(at_ms: u64) -> SystemTime {
    // The end of the year 9999, which is as far as that form goes.
    const LAST: u64 = 253_402_300_799_000;
    UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST))
}

/// So many of something.
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
    fn durations_have_units_too_and_only_zero_does_without() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "-1s", "2 parsecs", "3years"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
