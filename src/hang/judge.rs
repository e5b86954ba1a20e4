//! Judge: from an observation and the ages of its values to a verdict.
//!
//! Owns the choice by what is known of the guest, and that nothing is reported twice; refuses to own how
//! each kind of guest hangs (`known`, `unknown`, `class`). Called by the detector.

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

/// Judge of one observation, with everything that a verdict rests on.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub now: &'a Observation,
    pub ready: bool,
    /// The reported hangs that still hold.
    pub reported: &'a BTreeMap<usize, DetectedHang>,
}

/// State of the guest that a judgement starts from, by how much of the kernel is known.
enum Guest<'a> {
    Booting(BootingGuest<'a>),
    Known(KnownGuest<'a>),
    Unknown(UnknownGuest<'a>),
    /// A known kernel whose debugger has stopped it: it makes no progress, and does not hang.
    InDebugger,
    /// A known kernel whose state cannot be read at this observation; a later one is judged again.
    Unreadable,
}

impl<'a> Judge<'a> {
    fn guest(&self) -> Guest<'a> {
        let Self { bounds, ages, now, .. } = *self;
        match &now.kernel {
            Reading::Known(kernel) if kernel.is_in_debugger() => Guest::InDebugger,
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

    /// Returns the verdict, if there is one that has not been reported.
    pub fn verdict(&self) -> Option<Verdict> {
        let exists = |cpu: &u32| (*cpu as usize) < self.now.vcpus.len();
        if let Some(cpu) = self.panicking().filter(exists) {
            // The kernel gets time to print the reason and to exit.
            let over = panicking::is_over(self.bounds, self.ages);
            return over.then_some(Verdict::Panicked(cpu));
        }
        let mut hangs = match self.guest() {
            Guest::Booting(guest) => {
                boot_stall::found(&guest, known::largest_group).into_iter().collect()
            }
            Guest::Known(guest) => known::hangs(&guest, |hang| self.is_reported(hang)),
            Guest::Unknown(guest) => unknown::hang(&guest).into_iter().collect(),
            Guest::InDebugger | Guest::Unreadable => Vec::new(),
        };
        hangs.retain(|hang| !self.is_reported(hang));
        for hang in &mut hangs {
            hang.certainty = moment::certainty_of_due(self.now, hang);
        }
        if !hangs.is_empty() {
            let found = Detection { hangs, ages: self.ages.clone(), samples: Vec::new() };
            return Some(Verdict::Hangs(Box::new(found)));
        }
        self.starved().map(Verdict::Starved)
    }

    /// Returns the hangs of a stopped guest, due or not, that have not been reported.
    pub fn hangs_now(&self) -> Detection {
        let mut hangs = self.suspects();
        hangs.retain(|hang| !self.is_reported(hang));
        Detection { hangs, ages: self.ages.clone(), samples: Vec::new() }
    }

    /// Returns all hangs of the moment, due or not, reported or not.
    pub fn suspects(&self) -> Vec<DetectedHang> {
        moment::hangs(self.now, self.ages, self.bounds, self.ready)
    }

    /// Returns true if all blamed parties of a hang are parties of reported hangs.
    fn is_reported(&self, hang: &DetectedHang) -> bool {
        let is_party = |node: &Node| {
            let mut reported = self.reported.values();
            reported.any(|hang| hang.blamed.contains(node) || hang.victims.contains(node))
        };
        hang.blamed.iter().all(is_party)
    }

    /// Returns true while a reported hang lasts: at least one of its parties has made no progress since.
    pub fn holds(&self, hang: &DetectedHang) -> bool {
        match self.guest() {
            // Only that it is not ready can have been reported. A debugger stops a hang's clock.
            Guest::Booting(_) | Guest::InDebugger => true,
            Guest::Known(guest) => known::holds(&guest, hang),
            Guest::Unknown(guest) => unknown::holds(&guest, hang),
            Guest::Unreadable => false,
        }
    }

    /// Returns the vCPUs that the host does not run.
    pub fn starved(&self) -> Option<Starved> {
        starved(self.bounds, self.ages, self.ready, &self.now.kernel)
    }

    /// Returns the time until the first verdict that may become due, in the own time of its party.
    pub fn remaining(&self) -> Option<Duration> {
        if self.panicking().is_some() {
            return panicking::remaining(self.bounds, self.ages);
        }
        match self.guest() {
            Guest::Booting(guest) => boot_stall::remaining(&guest),
            Guest::Known(guest) => known::remaining(&guest),
            Guest::Unknown(guest) => unknown::remaining(&guest),
            Guest::InDebugger | Guest::Unreadable => None,
        }
    }
}
