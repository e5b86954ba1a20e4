//! Days in UTC with the runs and the failures on them: the trend over nights.
//!
//! Owns the counts by day; refuses to own what counts as a failure (`scan`, `groups`). Called by both.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::known::Date;
use crate::timestamp::Timestamp;

/// Maximum number of days in an output: the last ones, of about three years.
const MAX_DAYS: usize = 1000;

/// Number of failures on a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DayCount {
    /// Day of the failures, in UTC as in `2026-12-31`.
    pub day: Date,
    /// Number of failures on the day.
    pub count: u64,
}

/// Runs that ended on a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DayRuns {
    /// Day on which the runs ended, in UTC as in `2026-12-31`.
    pub day: Date,
    /// Number of runs that ended on the day, those without a verdict included.
    pub runs: u64,
    /// Number of these runs that failed.
    pub failed: u64,
}

/// Number of failures on each day that has one.
#[derive(Debug, Default)]
pub struct FailureDays(BTreeMap<u64, u64>);

impl FailureDays {
    /// Counts a failure on the day of its time.
    pub fn add(&mut self, time: Timestamp) {
        *self.0.entry(time.day()).or_default() += 1;
    }

    /// Returns the last days with a failure, in order.
    pub fn counts(&self) -> Vec<DayCount> {
        let skipped = self.0.len().saturating_sub(MAX_DAYS);
        let days = self.0.iter().skip(skipped);
        days.map(|(&day, &count)| DayCount { day: date(day), count }).collect()
    }
}

/// Runs by day, and how many of them failed.
#[derive(Debug, Default)]
pub struct RunDays(BTreeMap<u64, (u64, u64)>);

impl RunDays {
    /// Counts a run on the day of its end.
    pub fn add(&mut self, time: Timestamp, failed: bool) {
        let (runs, failures) = self.0.entry(time.day()).or_default();
        *runs += 1;
        *failures += u64::from(failed);
    }

    /// Returns the last days with a run, in order.
    pub fn runs(&self) -> Vec<DayRuns> {
        let skipped = self.0.len().saturating_sub(MAX_DAYS);
        let days = self.0.iter().skip(skipped);
        days.map(|(&day, &(runs, failed))| DayRuns { day: date(day), runs, failed }).collect()
    }
}

fn date(day: u64) -> Date {
    Timestamp::start_of_day(day).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected days: from `date --date=@SECONDS --utc`.
    #[test]
    fn times_count_on_their_days_in_utc() {
        let mut failures = FailureDays::default();
        let mut runs = RunDays::default();
        for (unix_ms, failed) in [
            (1_767_312_000_000, true),
            (1_767_311_999_999, true),
            (1_767_398_399_999, false),
            (u64::MAX, true),
            (0, true),
        ] {
            runs.add(Timestamp::from_unix_ms(unix_ms), failed);
            if failed {
                failures.add(Timestamp::from_unix_ms(unix_ms));
            }
        }
        let failures = failures.counts();
        let days: Vec<_> = failures.iter().map(|day| (day.day.to_string(), day.count)).collect();
        let names = ["1970-01-01", "2026-01-01", "2026-01-02", "9999-12-31"];
        assert_eq!(days, names.map(|name| (name.to_owned(), 1)));
        let second = &runs.runs()[2];
        assert_eq!((second.day.to_string().as_str(), second.runs, second.failed), (names[2], 2, 1));
    }

    #[test]
    fn last_days_are_kept_where_there_are_too_many() {
        let mut failures = FailureDays::default();
        (0..1500).for_each(|day| failures.add(Timestamp::start_of_day(day)));
        let counts = failures.counts();
        assert_eq!((counts.len(), counts[999].day.to_string()), (1000, "1974-02-08".into()));
    }
}
