//! The detector: keeps the ages, and asks for a verdict when one may be due.

use std::time::Duration;

use super::ages::Ages;
use super::bounds::{Bounds, Class};
use super::observation::Observation;
use super::verdict::{Evidence, Verdict};

/// Watches one guest.
#[derive(Debug)]
pub struct Detector {
    bounds: Bounds,
    /// The most that one interval between observations counts for.
    longest_interval: Duration,
    last: Option<Observation>,
    ages: Ages,
    ready: bool,
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

    /// Takes an observation of a guest that runs. Whether it is worth to stop it for a closer look.
    pub fn observe(&mut self, now: Observation) -> bool {
        self.advance(now);
        self.verdict().is_some()
    }

    /// Takes an observation of a stopped guest, with the states of its vCPUs, and says what is wrong
    /// with it, if it still is.
    pub fn judge(&mut self, now: Observation) -> Option<Verdict> {
        self.advance(now);
        self.verdict()
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

    fn verdict(&self) -> Option<Verdict> {
        let now = self.last.as_ref()?;
        Evidence { bounds: &self.bounds, ages: &self.ages, now, ready: self.ready }.verdict()
    }
}
