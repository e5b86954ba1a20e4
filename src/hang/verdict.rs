//! Verdicts: hangs, starvation, a panic.
//!
//! Owns the data alone; refuses to own its detection. Made by `judge`; `diagnosis` adds names, stacks and
//! signatures. Hangs are stored in cores.

use std::time::Duration;

use nmiscope_report::Class;
use serde::{Deserialize, Serialize};

use super::ages::Ages;
use super::bounds::Bounds;
use super::sample::CpuSamples;
use super::wait_graph::{Edge, Node};

/// Verdict: a problem to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The guest hangs, in these ways.
    Hangs(Box<Detection>),
    /// The host hardly runs these vCPUs.
    Starved(Starved),
    /// The kernel has panicked on the CPU of this number, and has not exited.
    Panicked(u32),
}

/// Hang by numbers: all parties that hang in one class. `nmiscope_report::Hang` is its form in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectedHang {
    /// The class of the hang.
    pub class: Class,
    /// The time that it has lasted, in the own time of the party that has hung for longest.
    pub age: Duration,
    /// The CPUs and tasks to blame.
    pub blamed: Vec<Node>,
    /// The guest-virtual addresses of the locks involved.
    pub locks: Vec<u64>,
    /// The CPUs and tasks that wait for the blamed ones.
    pub victims: Vec<Node>,
    /// The waits that lead from the victims to the blamed parties.
    pub edges: Vec<Edge>,
    /// The certainty of the hang. Cores of version 3 have verdicts alone.
    #[serde(default)]
    pub certainty: HangCertainty,
    /// True if all parties that wait in it are asleep, which have a longer bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asleep: bool,
}

/// Certainty with which a detected hang is one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HangCertainty {
    /// Certain: nothing inside the kernel can end it.
    Certain,
    /// Likely: the hang has lasted for its bound, or is a state that a kernel does not leave by itself.
    #[default]
    Likely,
    /// Suspected: the hang may still end by itself, since it has not lasted for its bound.
    Suspected {
        /// The time that it has lasted so far.
        lasted: Duration,
        /// The bound of the hang's class.
        bound: Duration,
    },
    /// Unknown: the hang's age cannot be determined.
    Unknown {
        /// The reason for the doubt.
        why: Doubt,
    },
}

/// Reason why the certainty of a hang is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Doubt {
    /// The guest was seen once, and its kernel does not record the start of the wait.
    #[error("the guest was seen once, and its kernel does not record since when this is so")]
    NoPast,
}

impl HangCertainty {
    /// Returns true if the hang is reported as one, and not as a suspicion.
    pub fn is_verdict(&self) -> bool {
        matches!(self, Self::Certain | Self::Likely)
    }
}

/// Hangs that were detected at one moment, with what their report needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detection {
    /// The hangs: one of each class, and one deadlock of each cycle.
    pub hangs: Vec<DetectedHang>,
    /// The ages of all observed values at that moment.
    pub ages: Ages,
    /// The samples of blamed CPUs that kept executing, taken shortly afterwards; empty until they are
    /// taken.
    #[serde(default)]
    pub samples: Vec<CpuSamples>,
}

/// Starvation: vCPUs that the host does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starved {
    /// The numbers of the vCPUs.
    pub cpus: Vec<u32>,
    /// The time without progress, by the wall clock.
    pub wall: Duration,
    /// The longest time for which the host ran one of these vCPUs meanwhile.
    pub ran: Duration,
}

impl DetectedHang {
    /// Returns the bound from which the hang is due; `None` if its class is disabled.
    pub(super) fn bound(&self, bounds: &Bounds) -> Option<Duration> {
        bounds.get_for(self.class, self.asleep)
    }

    /// Returns true if the hang has lasted for its bound.
    pub(super) fn is_due(&self, bounds: &Bounds) -> bool {
        self.bound(bounds).is_some_and(|bound| self.age >= bound)
    }

    /// Merges another hang into this one. The age is that of the older.
    pub(super) fn absorb(&mut self, other: Self) {
        fn add<T: Ord + Copy>(to: &mut Vec<T>, from: Vec<T>) {
            to.extend(from);
            to.sort_unstable();
            to.dedup();
        }
        self.age = self.age.max(other.age);
        self.asleep &= other.asleep;
        add(&mut self.blamed, other.blamed);
        add(&mut self.locks, other.locks);
        add(&mut self.victims, other.victims);
        add(&mut self.edges, other.edges);
        let blamed = &self.blamed;
        self.victims.retain(|node| !blamed.contains(node));
    }
}
