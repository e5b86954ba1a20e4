//! The detector: keeps the ages, and asks for a verdict when one may be due.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ages::Ages;
use super::bounds::{Bounds, Class};
use super::observation::Observation;
use super::verdict::{Evidence, Hang, Verdict};

/// What comes of looking at a guest that runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// It is worth to stop it for a closer look.
    pub suspicious: bool,
    /// Hangs that are over, each by how many had been told of before it.
    pub over: Vec<usize>,
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
    /// The hangs that have been told of and go on, by how many were told of before them.
    told: BTreeMap<usize, Hang>,
    told_so_far: usize,
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
            told: BTreeMap::new(),
            told_so_far: 0,
        }
    }

    /// The guest has become ready, or is one that need not say so: from now on its CPUs have to get
    /// on.
    pub fn set_ready(&mut self) {
        self.ready = true;
        self.last = None;
        self.ages = Ages { watched: self.ages.watched, ..Ages::default() };
    }

    /// After the guest has been stopped on purpose: that time does not count.
    pub fn skip(&mut self) {
        self.last = None;
    }

    /// Takes an observation of a guest that runs.
    pub fn observe(&mut self, now: Observation) -> Noticed {
        self.advance(now);
        let Some(evidence) = self.evidence() else { return Noticed::default() };
        let over = self.told.iter().filter(|(_, hang)| !evidence.lasts(hang));
        let over: Vec<usize> = over.map(|(&number, _)| number).collect();
        let suspicious = evidence.verdict().is_some();
        for number in &over {
            self.told.remove(number);
        }
        Noticed { suspicious, over }
    }

    /// Takes an observation of a stopped guest, with the states of its vCPUs, and says what is wrong
    /// with it that it has not said before, if anything still is.
    pub fn judge(&mut self, now: Observation) -> Option<Verdict> {
        self.advance(now);
        let verdict = self.evidence()?.verdict()?;
        if let Verdict::Hangs(found) = &verdict {
            let numbers = self.told_so_far..;
            self.told.extend(numbers.zip(found.hangs.iter().cloned()));
            self.told_so_far += found.hangs.len();
        }
        Some(verdict)
    }

    /// In how much of its own time something that stands still now is due.
    pub fn due_in(&self) -> Option<Duration> {
        let cpus = self.ages.cpus.iter().flat_map(|cpu| {
            [
                (Class::HardLockup, cpu.nothing.own),
                (Class::DeadHalt, cpu.nothing.own),
                (Class::SoftLockup, cpu.main_loop.own()),
                (Class::Deadlock, cpu.wait.own()),
            ]
        });
        let remaining = |(class, age): (Class, Duration)| {
            let bound = self.bounds.of(class).filter(|_| !age.is_zero())?;
            bound.checked_sub(age).filter(|remaining| !remaining.is_zero())
        };
        cpus.filter_map(remaining).min()
    }

    fn advance(&mut self, now: Observation) {
        // The first one is compared with itself: from then on things are known to stand still.
        self.ages.advance(self.last.as_ref().unwrap_or(&now), &now, self.longest_interval);
        self.last = Some(now);
    }

    fn evidence(&self) -> Option<Evidence<'_>> {
        let Self { bounds, ages, ready, told, .. } = self;
        Some(Evidence { bounds, ages, now: self.last.as_ref()?, ready: *ready, told })
    }
}
