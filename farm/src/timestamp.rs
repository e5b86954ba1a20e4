//! Wall-clock times, as events and triage have them: to the millisecond, in UTC, RFC 3339 in JSON.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use nmiscope_report::units::unix_time;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of a day in milliseconds: time in UTC has no leap seconds here, as Unix time has none.
const MS_PER_DAY: u64 = 24 * 3600 * 1000;

/// A time of the wall clock: milliseconds since the Unix epoch, which is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Returns the current time of this host.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Converts milliseconds since the Unix epoch.
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms)
    }

    /// Converts to the standard library's type. Times after the year 9999 become its last second, since
    /// RFC 3339 has no form for them.
    pub fn system_time(self) -> SystemTime {
        unix_time(self.0)
    }

    /// Returns the number of days from the Unix epoch to the day of this time, in UTC. Times after the year
    /// 9999 are of its last day, as in [`Timestamp::system_time`].
    pub fn day(self) -> u64 {
        Self::from(self.system_time()).0 / MS_PER_DAY
    }

    /// Returns the first moment of a day, by its number as [`Timestamp::day`] returns it.
    pub fn start_of_day(day: u64) -> Self {
        Self(day.saturating_mul(MS_PER_DAY))
    }

    /// Returns the milliseconds from `earlier` to this time; 0 if `earlier` is the later one.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time that many milliseconds before this one; the Unix epoch if there is none.
    pub fn minus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_sub(milliseconds))
    }
}

/// Drops fractions of a millisecond; a time before the Unix epoch becomes the epoch.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Accepts RFC 3339 in UTC.
impl FromStr for Timestamp {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339(text).map(Into::into)
    }
}

/// Writes RFC 3339 in UTC, always with milliseconds: `2026-01-02T03:04:05.678Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.system_time()).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Accepts RFC 3339, and a number of milliseconds since the Unix epoch, as events of version 1 have it.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimestampVisitor;

        impl Visitor<'_> for TimestampVisitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time of RFC 3339 in UTC")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, unix_ms: u64) -> Result<Timestamp, E> {
                Ok(Timestamp(unix_ms))
            }
        }

        deserializer.deserialize_any(TimestampVisitor)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: from `date --date=@SECONDS --utc`.
    #[test]
    fn json_timestamps_are_rfc_3339_and_survive_a_round_trip() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59.000Z"),
        ];
        for (unix_ms, text) in rows {
            let time = Timestamp::from_unix_ms(unix_ms);
            let json = serde_json::to_string(&time).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
            assert_eq!(serde_json::from_str::<Timestamp>(&unix_ms.to_string()).unwrap(), time);
        }
        assert_eq!(Timestamp::from_unix_ms(u64::MAX).to_string(), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn texts_that_are_not_rfc_3339_in_utc_are_refused() {
        for json in ["\"\"", "\"2026-01-02\"", "\"2026-01-02T03:04:05+01:00\"", "-1", "1.5", "null"]
        {
            assert!(serde_json::from_str::<Timestamp>(json).is_err(), "{json}");
        }
    }
}
