//! Detection of hangs: decides if a guest hangs, in which class, and which parties are to blame. A pure
//! state machine: observations in, a verdict out, so that every rule is a row of a table in a test.
//!
//! Knows no clock, no KVM and no guest memory. `session` makes the observations and dates them; `kernel`
//! has the model of a kernel's state, and the adapters that read it; `diagnosis` adds names, stacks and
//! signatures.
//!
//! Two steps, because stopping the guest costs it something:
//!
//! 1. [`Detector::observe`], ten times a second, from counters that are read while the guest runs. The
//!    result says only that a hang may be due.
//! 2. [`Detector::judge`], with all vCPUs stopped and their states known, returns the verdict: it follows
//!    the waits ([`wait_graph`]) to the party that all others wait for.
//!
//! Both end in `judge`, which hands the guest to `known` or `unknown`, by what is known of its kernel.
//! These ask the classes: each has a file in `class/`, and no other code here names one. A class's name
//! and order are the report's.
//!
//! False alarms are avoided by counting only a vCPU's *own time*: time in which its thread ran, or slept
//! because the vCPU had nothing to do. A vCPU that the host did not run has not hung, and neither has one
//! that waits for it.

mod ages;
mod bounds;
mod class;
mod detector;
mod group;
mod guest;
mod history;
mod judge;
mod known;
mod moment;
mod observation;
mod outlook;
mod records;
mod sample;
mod sampling;
mod starved;
mod suspects;
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
pub use history::PastMinute;
pub use moment::{all_waits, judge_snapshot};
pub use observation::{Observation, ObservedVcpu, VcpuSample};
pub use outlook::{Outlook, Suspicion};
pub use sample::{CpuSamples, SampledFrame, keep_last_of_each};
pub use suspects::Suspect;
pub use verdict::{DetectedHang, Detection, Doubt, HangCertainty, Starved, Verdict};
pub use wait_graph::{Edge, EdgeKind, Node};

pub use nmiscope_report::Class;
