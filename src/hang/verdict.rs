//! Verdicts: hangs, starvation, a panic.
//!
//! Owns the data and nothing that finds it. Made by `judge`; given names, stacks and a signature by
//! `diagnosis`. Hangs are stored in cores.

use std::time::Duration;

use nmiscope_report::Class;
use serde::{Deserialize, Serialize};

use super::ages::Ages;
use super::sample::CpuSamples;
use super::wait_graph::{Edge, Node};

/// A verdict: something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The guest hangs.
    Hangs(Box<Detection>),
    /// The host does not run the guest.
    Starved(Starved),
    /// The kernel has panicked on this CPU, and did not get as far as to leave.
    Panicked(u32),
}

/// A hang: all parties that hang in one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectedHang {
    /// The class.
    pub class: Class,
    /// The time that it has lasted, in the own time of the party that has hung for longest.
    pub age: Duration,
    /// The CPUs and tasks to blame.
    pub blamed: Vec<Node>,
    /// The locks involved, by address.
    pub locks: Vec<u64>,
    /// The CPUs and tasks that wait for those to blame.
    pub victims: Vec<Node>,
    /// The waits that lead from the victims to those to blame.
    pub edges: Vec<Edge>,
    /// The certainty with which it is one. Cores of version 3 have verdicts alone.
    #[serde(default)]
    pub certainty: HangCertainty,
}

/// The certainty of a hang.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HangCertainty {
    /// Nothing that is known to the kernel can end it.
    Certain,
    /// The hang has lasted for its bound, or is something that a kernel does not come back from.
    #[default]
    Likely,
    /// The hang may yet end by itself: it has not lasted for its bound.
    Suspected {
        /// The time that it has lasted.
        lasted: Duration,
        /// The bound of its class.
        bound: Duration,
    },
    /// Nobody can tell, for this reason.
    Unknown {
        /// The reason.
        why: Doubt,
    },
}

/// The reason why it cannot be told whether something is a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Doubt {
    /// The guest was seen once, and its kernel does not record since when this is so.
    #[error("the guest was seen once, and its kernel does not record since when this is so")]
    NoPast,
}

impl HangCertainty {
    /// True for what is reported as a hang, and not as something that may become one.
    pub fn is_verdict(&self) -> bool {
        matches!(self, Self::Certain | Self::Likely)
    }
}

/// Hangs that were found at one moment, to be reported later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detection {
    /// One hang of each class, and one deadlock of each cycle.
    pub hangs: Vec<DetectedHang>,
    /// The ages of everything that had stood still.
    pub ages: Ages,
    /// The stacks of those to blame who run on, shortly afterwards: empty until somebody looks.
    #[serde(default)]
    pub samples: Vec<CpuSamples>,
}

/// vCPUs that the host does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starved {
    /// The numbers of the vCPUs.
    pub cpus: Vec<u32>,
    /// The time without progress, by the wall clock.
    pub wall: Duration,
    /// The part of it in which the one ran that ran most.
    pub ran: Duration,
}

impl DetectedHang {
    /// Makes both one hang, which has lasted for as long as the older.
    pub(super) fn absorb(&mut self, other: Self) {
        fn add<T: Ord + Copy>(to: &mut Vec<T>, from: Vec<T>) {
            to.extend(from);
            to.sort_unstable();
            to.dedup();
        }
        self.age = self.age.max(other.age);
        add(&mut self.blamed, other.blamed);
        add(&mut self.locks, other.locks);
        add(&mut self.victims, other.victims);
        add(&mut self.edges, other.edges);
        let blamed = &self.blamed;
        self.victims.retain(|node| !blamed.contains(node));
    }
}
