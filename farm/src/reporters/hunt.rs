//! The hunt for a rare hang by `--repeat` with `--until-hang`: its rate so far, and the time that is left.
//!
//! Owns the estimates and their wording; refuses to own where they are shown. Called by `progress` and
//! `terminal`, with each event.

use std::time::Duration;

use nmiscope_report::units::plural;

use super::phrases::format_duration;
use crate::event::{EventKind, FarmEvent, Status};
use crate::timestamp::Timestamp;

/// Interval between lines about a hunt that has no bar.
const INTERVAL: Duration = Duration::from_secs(30);

/// Counts of a hunt so far.
#[derive(Debug, Clone, Default)]
pub struct Hunt {
    started: Option<Timestamp>,
    last_line: Option<Timestamp>,
    /// Number of runs that this farm has still to make when it starts.
    planned: u64,
    runs: u64,
    hangs: u64,
}

impl Hunt {
    /// Counts an event of the farm.
    pub fn record(&mut self, event: &FarmEvent) {
        match &event.kind {
            EventKind::FarmStarted(started) => {
                let planned = started.planned.saturating_sub(started.done);
                let time = Some(event.time);
                *self = Self { started: time, last_line: time, planned, ..Self::default() };
            }
            EventKind::VmFinished(end) if !end.again && end.status.is_verdict() => {
                self.runs += 1;
                self.hangs += u64::from(end.status == Status::Hang && end.known.is_none());
            }
            _ => {}
        }
    }

    /// Returns the rate of hangs so far. Without a hang it is the bound that the rate is below with a
    /// confidence of 95 %: the largest one at which so many runs without a hang are as likely as 1 in 20.
    pub fn rate(&self) -> String {
        let runs = plural(self.runs, "run");
        match self.hangs {
            0 if self.runs == 0 => "no run yet".into(),
            0 => format!("no hang in {runs} (rate below {})", percent(self.bound())),
            hangs => {
                format!("{} in {runs} (rate {})", plural(hangs, "hang"), percent(self.share()))
            }
        }
    }

    /// Returns the rate and the time that is left, as [`Hunt::line_if_due`] has them, in few enough words to
    /// stand behind a bar that shows the number of runs.
    pub fn beside_bar(&self, now: Timestamp) -> String {
        let left = self.time_left(now);
        match self.hangs {
            _ if self.runs == 0 => "no run yet".into(),
            0 => format!("no hang (rate < {}), {left} left", percent(self.bound())),
            hangs => {
                format!("{} (rate {}), {left} left", plural(hangs, "hang"), percent(self.share()))
            }
        }
    }

    /// Returns the rate that so many runs without a hang are below with a confidence of 95 %.
    fn bound(&self) -> f64 {
        1.0 - 0.05_f64.powf(1.0 / self.runs as f64)
    }

    fn share(&self) -> f64 {
        self.hangs as f64 / self.runs as f64
    }

    /// Returns the time until all planned runs are done, at the speed so far.
    fn time_left(&self, now: Timestamp) -> String {
        let elapsed = self.started.map_or(0, |started| now.ms_since(started)) as f64;
        let left = self.planned.saturating_sub(self.runs) as f64;
        format_duration(left * elapsed / self.runs.max(1) as f64)
    }

    /// Returns the progress as a line, at most every half minute.
    pub fn line_if_due(&mut self, now: Timestamp) -> Option<String> {
        let due = |last: Timestamp| u128::from(now.ms_since(last)) >= INTERVAL.as_millis();
        if !self.last_line.is_some_and(due) {
            return None;
        }
        self.last_line = Some(now);
        Some(format!(" {}, {} left\n", self.rate(), self.time_left(now)))
    }
}

/// Formats a share with two significant digits.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        10.0.. => 0,
        1.0..10.0 => 1,
        0.1..1.0 => 2,
        _ => 3,
    };
    format!("{percent:.digits$} %")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ScriptedFarm, hang};
    use super::*;

    fn hunt(events: &[FarmEvent]) -> Hunt {
        let mut hunt = Hunt::default();
        events.iter().for_each(|event| hunt.record(event));
        hunt
    }

    #[test]
    fn rate_without_a_hang_is_the_bound_of_95_percent() {
        // By hand: (1 - p)^n = 0.05 has the root p = 0.451 for 5 runs, and 0.0295 for 100.
        for (runs, wanted) in [(0, "no run yet"), (5, "below 45 %"), (100, "below 3.0 %")] {
            let mut farm = ScriptedFarm::new(200);
            (0..runs).for_each(|_| farm.end("vm", Status::Pass));
            let rate = hunt(&farm.events).rate();
            assert!(rate.contains(wanted), "{rate}");
        }
    }

    #[test]
    fn known_hangs_and_retried_tries_do_not_count_as_found() {
        let mut farm = ScriptedFarm::new(10);
        farm.end("vm", Status::Pass);
        farm.end_with("vm", Status::Hang, |end| end.again = true);
        farm.end_with("vm", Status::Hang, |end| end.known = Some("url".into()));
        farm.end("vm", Status::Broken);
        assert_eq!(hunt(&farm.events).rate(), "no hang in 2 runs (rate below 78 %)");
        farm.end_with("vm", Status::Hang, |end| end.hang = Some(hang("7f", &[], None)));
        assert_eq!(hunt(&farm.events).rate(), "1 hang in 3 runs (rate 33 %)");
    }

    #[test]
    fn time_left_follows_from_the_speed_so_far() {
        let mut farm = ScriptedFarm::new(11);
        farm.end("vm", Status::Pass);
        // The script has an event every 100 ms: one run in 0.1 s, and ten are left.
        let now = farm.events[1].time;
        let mut hunt = hunt(&farm.events);
        assert_eq!(hunt.beside_bar(now), "no hang (rate < 95 %), 1.0 s left");
        assert_eq!(hunt.line_if_due(now), None, "half a minute has not passed");
        hunt.last_line = Some(now.minus_ms(30_000));
        let line = hunt.line_if_due(now);
        assert_eq!(line.as_deref(), Some(" no hang in 1 run (rate below 95 %), 1.0 s left\n"));
    }
}
