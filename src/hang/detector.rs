//! Detector: keeps the ages of a guest's values, and the hangs that have been reported.
//!
//! Owns when a stop is worthwhile and which hangs are over; refuses to own verdicts (`judge`). Called by
//! `session`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ages::Ages;
use super::bounds::Bounds;
use super::history::{PastMinute, Recorder};
use super::judge::Judge;
use super::observation::Observation;
use super::outlook::Outlook;
use super::verdict::{DetectedHang, Detection, Verdict};
use crate::kernel::Reading;

/// Result of one observation of a running guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PollResult {
    /// True if a hang may be due: the guest should be stopped and judged.
    pub suspicious: bool,
    /// Hangs that have ended, each by the number of hangs reported before it.
    pub ended: Vec<usize>,
}

/// Hang detector of one guest.
#[derive(Debug)]
pub struct Detector {
    bounds: Bounds,
    /// The most that one interval between observations adds to an age.
    longest_interval: Duration,
    last: Option<Observation>,
    ages: Ages,
    ready: bool,
    /// The reported hangs that still hold, by the number of hangs reported before each.
    reported: BTreeMap<usize, DetectedHang>,
    reported_so_far: usize,
    recorder: Recorder,
}

impl Detector {
    /// Makes a detector that gets an observation every `interval`.
    pub fn new(bounds: Bounds, interval: Duration) -> Self {
        Self {
            bounds,
            longest_interval: interval * 2,
            last: None,
            ages: Ages::default(),
            ready: false,
            reported: BTreeMap::new(),
            reported_so_far: 0,
            recorder: Recorder::default(),
        }
    }

    /// Starts to judge the guest's CPUs by their progress: the guest has become ready, or does not report
    /// that.
    pub fn set_ready(&mut self) {
        self.ready = true;
        self.last = None;
        self.ages = Ages::default();
    }

    /// Excludes the time until `at`, by the clock of the observations: the guest was stopped until then.
    pub fn resumed(&mut self, at: Duration) {
        if let Some(last) = &mut self.last {
            last.at = at;
        }
        self.recorder.resumed(at);
    }

    /// Takes an observation of a running guest.
    pub fn observe(&mut self, now: Observation) -> PollResult {
        let is_new_slot = self.recorder.observe(&now, self.longest_interval);
        if self.is_unreadable(&now) {
            return PollResult::default();
        }
        self.advance(now);
        if is_new_slot {
            self.note_suspects();
        }
        let Some(judge) = self.judge_last() else { return PollResult::default() };
        let ended = self.reported.iter().filter(|(_, hang)| !judge.holds(hang));
        let ended: Vec<usize> = ended.map(|(&number, _)| number).collect();
        let suspicious = judge.verdict().is_some();
        for number in &ended {
            self.reported.remove(number);
        }
        PollResult { suspicious, ended }
    }

    /// Takes an observation of a stopped guest, with the states of its vCPUs. Returns the verdict, if
    /// there is one that has not been reported before.
    pub fn judge(&mut self, now: Observation) -> Option<Verdict> {
        self.recorder.observe(&now, self.longest_interval);
        if self.is_unreadable(&now) {
            // The reason may be a host that does not run the guest.
            return self.judge_last()?.starved().map(Verdict::Starved);
        }
        self.advance(now);
        let verdict = self.judge_last()?.verdict()?;
        if let Verdict::Hangs(found) = &verdict {
            // A suspicion beside them may become due later, and is reported then.
            let verdicts = found.hangs.iter().filter(|hang| hang.certainty.is_verdict());
            let numbers = self.reported_so_far..;
            self.reported.extend(numbers.zip(verdicts.clone().cloned()));
            self.reported_so_far += verdicts.count();
        }
        Some(verdict)
    }

    /// Takes an observation of a stopped guest. Returns its hangs, due or not, that have not been
    /// reported; they do not count as reported afterwards. `None` if a kernel that has been read before
    /// cannot be read now.
    pub fn hangs_now(&mut self, now: Observation) -> Option<Detection> {
        if self.is_unreadable(&now) {
            return None;
        }
        self.advance(now);
        Some(self.judge_last()?.hangs_now())
    }

    /// Takes an observation of a stopped guest. Returns the reported hangs that still hold.
    pub fn ongoing(&mut self, now: Observation) -> Vec<DetectedHang> {
        if self.is_unreadable(&now) {
            return Vec::new();
        }
        self.advance(now);
        let Some(judge) = self.judge_last() else { return Vec::new() };
        self.reported.values().filter(|hang| judge.holds(hang)).cloned().collect()
    }

    /// Returns true for an observation that cannot read a kernel which has been read since the guest
    /// became ready. It is left out, so that ages are kept. For a kernel that has never been read there
    /// is nothing to keep, and the time that its vCPUs had counts.
    fn is_unreadable(&self, now: &Observation) -> bool {
        let has_been_read = self.last.as_ref().is_some_and(|last| last.kernel.known().is_some());
        self.ready && has_been_read && matches!(now.kernel, Reading::Unreadable { .. })
    }

    /// Returns the time, in own time, until the first value that has stopped is due; `None` if none can
    /// become due. A value over its bound has been judged and shortens nothing.
    pub fn due_in(&self) -> Option<Duration> {
        self.judge_last()?.remaining()
    }

    /// Returns the view of the guest at its last observation; `None` before the first.
    pub fn outlook(&self) -> Option<Outlook> {
        Some(self.judge_last()?.outlook())
    }

    /// Takes an observation of a stopped guest. Returns its last minute; `None` if there was no earlier
    /// observation.
    pub fn past_minute(&mut self, now: Observation) -> Option<PastMinute> {
        self.recorder.observe(&now, self.longest_interval);
        // A verdict has taken this observation already.
        let is_later = self.last.as_ref().is_none_or(|last| last.at < now.at);
        if is_later && !self.is_unreadable(&now) {
            self.advance(now);
        }
        self.note_suspects();
        self.recorder.past_minute()
    }

    /// Adds the NMIs that were sent for a backtrace `at` that time.
    pub fn nmis_sent(&mut self, at: Duration, cpus: Vec<u32>) {
        self.recorder.nmis_sent(at, cpus);
    }

    fn note_suspects(&mut self) {
        let Some(judge) = self.judge_last() else { return };
        let hangs = judge.suspects();
        if let Some(now) = &self.last {
            self.recorder.suspect(now, &hangs);
        }
    }

    fn advance(&mut self, now: Observation) {
        // The first observation is compared with itself: ages start there.
        self.ages.advance(self.last.as_ref().unwrap_or(&now), &now, self.longest_interval);
        self.last = Some(now);
    }

    fn judge_last(&self) -> Option<Judge<'_>> {
        let Self { bounds, ages, ready, reported, .. } = self;
        Some(Judge { bounds, ages, now: self.last.as_ref()?, ready: *ready, reported })
    }
}
