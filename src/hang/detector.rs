//! The detector: keeps the ages, and asks for a verdict when one may be due.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ages::Ages;
use super::bounds::Bounds;
use super::judge::Judge;
use super::observation::Observation;
use super::verdict::{DetectedHang, Detection, Verdict};
use crate::kernel::Reading;

/// What comes of looking at a guest that runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PollResult {
    /// It is worth to stop it for a closer look.
    pub suspicious: bool,
    /// Hangs that are over, each by how many had been reported before it.
    pub ended: Vec<usize>,
}

/// Watches one guest.
#[derive(Debug)]
pub struct Detector {
    bounds: Bounds,
    /// The most that one interval between observations counts for.
    longest_interval: Duration,
    last: Option<Observation>,
    ages: Ages,
    ready: bool,
    /// The hangs that have been reported and go on, by how many were reported before them.
    reported: BTreeMap<usize, DetectedHang>,
    reported_so_far: usize,
}

impl Detector {
    /// A detector that is going to be shown something every `interval`.
    pub fn new(bounds: Bounds, interval: Duration) -> Self {
        Self {
            bounds,
            longest_interval: interval * 2,
            last: None,
            ages: Ages::default(),
            ready: false,
            reported: BTreeMap::new(),
            reported_so_far: 0,
        }
    }

    /// The guest has become ready, or is one that need not say so: from now on its CPUs have to get
    /// on.
    pub fn set_ready(&mut self) {
        self.ready = true;
        self.last = None;
        self.ages = Ages::default();
    }

    /// The guest goes on after it was stopped, at that time by the clock of the observations: how long
    /// it was stopped does not count.
    pub fn resumed(&mut self, at: Duration) {
        if let Some(last) = &mut self.last {
            last.at = at;
        }
    }

    /// Takes an observation of a guest that runs.
    pub fn observe(&mut self, now: Observation) -> PollResult {
        if self.is_unreadable(&now) {
            return PollResult::default();
        }
        self.advance(now);
        let Some(judge) = self.judge_last() else { return PollResult::default() };
        let ended = self.reported.iter().filter(|(_, hang)| !judge.holds(hang));
        let ended: Vec<usize> = ended.map(|(&number, _)| number).collect();
        let suspicious = judge.verdict().is_some();
        for number in &ended {
            self.reported.remove(number);
        }
        PollResult { suspicious, ended }
    }

    /// Takes an observation of a stopped guest, with the states of its vCPUs, and says what is wrong
    /// with it that it has not said before, if anything still is.
    pub fn judge(&mut self, now: Observation) -> Option<Verdict> {
        if self.is_unreadable(&now) {
            // A host that does not run the guest may be why.
            return self.judge_last()?.starved().map(Verdict::Starved);
        }
        self.advance(now);
        let verdict = self.judge_last()?.verdict()?;
        if let Verdict::Hangs(found) = &verdict {
            let numbers = self.reported_so_far..;
            self.reported.extend(numbers.zip(found.hangs.iter().cloned()));
            self.reported_so_far += found.hangs.len();
        }
        Some(verdict)
    }

    /// Takes an observation of a stopped guest: its hangs, due or not, that have not been reported. The
    /// detector goes on to look for them.
    pub fn hangs_now(&mut self, now: Observation) -> Option<Detection> {
        if self.is_unreadable(&now) {
            return None;
        }
        self.advance(now);
        Some(self.judge_last()?.hangs_now())
    }

    /// Takes an observation of a stopped guest: the reported hangs that still go on.
    pub fn ongoing(&mut self, now: Observation) -> Vec<DetectedHang> {
        if self.is_unreadable(&now) {
            return Vec::new();
        }
        self.advance(now);
        let Some(judge) = self.judge_last() else { return Vec::new() };
        self.reported.values().filter(|hang| judge.holds(hang)).cloned().collect()
    }

    /// True for an observation that says nothing of a kernel that has been read since it was ready. It
    /// is left out, so that what is older keeps its age. Of a kernel that has never been read there is
    /// nothing older, and the time that its vCPUs had counts.
    fn is_unreadable(&self, now: &Observation) -> bool {
        let has_been_read = self.last.as_ref().is_some_and(|last| last.kernel.known().is_some());
        self.ready && has_been_read && matches!(now.kernel, Reading::Unreadable { .. })
    }

    /// In how much of its own time the first of all that stands still now is due, if it is going to be.
    /// What is over its bound has been judged, and is not looked at more often for it.
    pub fn due_in(&self) -> Option<Duration> {
        self.judge_last()?.remaining()
    }

    fn advance(&mut self, now: Observation) {
        // The first one is compared with itself: from then on things are known to stand still.
        self.ages.advance(self.last.as_ref().unwrap_or(&now), &now, self.longest_interval);
        self.last = Some(now);
    }

    fn judge_last(&self) -> Option<Judge<'_>> {
        let Self { bounds, ages, ready, reported, .. } = self;
        Some(Judge { bounds, ages, now: self.last.as_ref()?, ready: *ready, reported })
    }
}
