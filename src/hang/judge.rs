//! From an observation and the ages of what has not changed to a verdict.
//!
//! Owns which kind of guest is judged, by what is known of it, and that nothing is reported twice;
//! refuses to own how each kind hangs (`known`, `unknown`, `class`). Called by the detector.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ages::Ages;
use super::bounds::Bounds;
use super::class::{self, boot_stall, panicking};
use super::guest::{BootingGuest, KnownGuest, UnknownGuest};
use super::observation::Observation;
use super::starved::starved;
use super::verdict::{DetectedHang, Detection, Starved, Verdict};
use super::wait_graph::Node;
use super::{known, moment, unknown};
use crate::kernel::{KernelState, Reading};

/// All that a verdict rests on.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub now: &'a Observation,
    pub ready: bool,
    /// Hangs that have been reported and go on.
    pub reported: &'a BTreeMap<usize, DetectedHang>,
}

/// A guest, by what is known of it.
enum Guest<'a> {
    Booting(BootingGuest<'a>),
    Known(KnownGuest<'a>),
    Unknown(UnknownGuest<'a>),
    /// It is judged when it can be read.
    Unreadable,
}

impl<'a> Judge<'a> {
    fn guest(&self) -> Guest<'a> {
        let Self { bounds, ages, now, .. } = *self;
        match &now.kernel {
            _ if !self.ready => {
                let known = now.kernel.known().map(|kernel| self.known(kernel));
                Guest::Booting(BootingGuest { bounds, ages, known })
            }
            Reading::Known(kernel) => Guest::Known(self.known(kernel)),
            Reading::Unknown => Guest::Unknown(UnknownGuest { bounds, ages, vcpus: &now.vcpus }),
            Reading::Unreadable { .. } => Guest::Unreadable,
        }
    }

    fn known(&self, kernel: &'a KernelState) -> KnownGuest<'a> {
        let Self { bounds, ages, now, .. } = *self;
        KnownGuest {
            bounds,
            ages,
            kernel,
            vcpus: now.vcpus.len(),
            min_wait_age: class::min_wait_age(bounds),
        }
    }

    fn panicking(&self) -> Option<u32> {
        self.now.kernel.known()?.panicking
    }

    /// The verdict, if something is wrong that has not been reported.
    pub fn verdict(&self) -> Option<Verdict> {
        let exists = |cpu: &u32| (*cpu as usize) < self.now.vcpus.len();
        if let Some(cpu) = self.panicking().filter(exists) {
            // It has a while to say why, and to leave.
            let over = panicking::is_over(self.bounds, self.ages);
            return over.then_some(Verdict::Panicked(cpu));
        }
        let mut hangs = match self.guest() {
            Guest::Booting(guest) => {
                boot_stall::found(&guest, known::largest_group).into_iter().collect()
            }
            Guest::Known(guest) => known::hangs(&guest, |hang| self.is_reported(hang)),
            Guest::Unknown(guest) => unknown::hang(&guest).into_iter().collect(),
            Guest::Unreadable => Vec::new(),
        };
        hangs.retain(|hang| !self.is_reported(hang));
        for hang in &mut hangs {
            hang.certainty = moment::certainty_of_due(self.now, hang, self.bounds);
        }
        if !hangs.is_empty() {
            let found = Detection { hangs, ages: self.ages.clone(), samples: Vec::new() };
            return Some(Verdict::Hangs(Box::new(found)));
        }
        self.starved().map(Verdict::Starved)
    }

    /// The hangs of a stopped guest, due or not, that have not been reported.
    pub fn hangs_now(&self) -> Detection {
        let mut hangs = moment::hangs(self.now, self.ages, self.bounds, self.ready);
        hangs.retain(|hang| !self.is_reported(hang));
        Detection { hangs, ages: self.ages.clone(), samples: Vec::new() }
    }

    /// True where all that a hang blames are parties to hangs that have been reported.
    fn is_reported(&self, hang: &DetectedHang) -> bool {
        let is_party = |node: &Node| {
            let mut reported = self.reported.values();
            reported.any(|hang| hang.blamed.contains(node) || hang.victims.contains(node))
        };
        hang.blamed.iter().all(is_party)
    }

    /// True while a hang that was reported goes on: one of its parties has not moved since.
    pub fn holds(&self, hang: &DetectedHang) -> bool {
        match self.guest() {
            // Nothing but that it is not ready has been reported.
            Guest::Booting(_) => true,
            Guest::Known(guest) => known::holds(&guest, hang),
            Guest::Unknown(guest) => unknown::holds(&guest, hang),
            Guest::Unreadable => false,
        }
    }

    /// The vCPUs that the host does not run.
    pub fn starved(&self) -> Option<Starved> {
        starved(self.bounds, self.ages, self.ready, &self.now.kernel)
    }

    /// The time until the first verdict of those that may be on their way, in the own time of whoever
    /// stands still.
    pub fn remaining(&self) -> Option<Duration> {
        if self.panicking().is_some() {
            return panicking::remaining(self.bounds, self.ages);
        }
        match self.guest() {
            Guest::Booting(guest) => boot_stall::remaining(&guest),
            Guest::Known(guest) => known::remaining(&guest),
            Guest::Unknown(guest) => unknown::remaining(&guest),
            Guest::Unreadable => None,
        }
    }
}
