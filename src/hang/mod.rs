//! Detection of hangs: whether the guest hangs, how, and whose fault it is. A pure state machine:
//! observations in, a verdict out, so that every rule is a row of a table in a test.
//!
//! Knows no clock, no KVM and no guest memory. `session` observes, with the times it saw things at;
//! `kernel` has the model of a kernel's state, and adapters that read it; `diagnosis` gives what is
//! found here its names, its stacks and its signature.
//!
//! Two steps, because looking closely costs the guest something:
//!
//! 1. [`Detector::observe`], ten times a second, from counters that are read while the guest runs.
//!    It only says that something may be wrong.
//! 2. [`Detector::judge`], with all vCPUs stopped and their states known, says what: it follows who
//!    waits for whom ([`wait_graph`]) to the one that everybody else waits for.
//!
//! Both end in `judge`, which hands a guest to `known` or `unknown`, by what is known of its kernel.
//! These ask the classes: each has a file in `class/`, and no other code here names one. A class's name
//! and its order are the report's.
//!
//! What keeps it from false alarms is that nothing counts but a vCPU's *own time*: time in which its
//! thread ran, or slept because the vCPU had nothing to do. A vCPU that the host did not run has not
//! hung, and neither has one that waits for it.

mod ages;
mod bounds;
mod class;
mod detector;
mod group;
mod guest;
mod judge;
mod known;
mod moment;
mod observation;
mod records;
mod sample;
mod sampling;
mod starved;
mod unknown;
mod verdict;
pub mod wait_graph;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use ages::{Age, Ages, CpuAges, Unchanged};
pub use bounds::Bounds;
pub use class::{Behaviour, behaviour};
pub use detector::{Detector, PollResult};
pub use moment::{all_waits, judge_snapshot};
pub use observation::{Observation, ObservedVcpu, VcpuSample};
pub use sample::{CpuSamples, SampledFrame, keep_last_of_each};
pub use verdict::{DetectedHang, Detection, Doubt, HangCertainty, Starved, Verdict};
pub use wait_graph::{Edge, EdgeKind, Node};

pub use nmiscope_report::Class;
