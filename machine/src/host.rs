//! Times and counts that a host has of a vCPU without asking it.
//!
//! Owns the numbers; refuses to own how a host gets them (/proc, KVM's statistics) and what follows
//! when they stand still. Made by targets, judged by the hang detector.

use std::time::Duration;

/// The CPU time that a vCPU's thread has had of the host so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostTimes {
    /// How long the thread has run.
    pub run: Duration,
    /// How long it has waited for a CPU; `None` where the host does not count that.
    pub delay: Option<Duration>,
    /// True when the thread sleeps: its vCPU is halted, and nothing is there to wake it.
    pub asleep: bool,
}

/// Events of a vCPU that the host has counted so far. `None` is what this host does not count. A
/// number that stands still proves nothing, since some hosts deliver interrupts without counting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// Interrupts that the vCPU was given.
    pub interrupts: Option<u64>,
    /// HLTs that it executed.
    pub halts: Option<u64>,
}
