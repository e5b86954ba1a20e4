//! CPU times and event counts of a vCPU, as its host keeps them: no exit of the vCPU is needed.
//!
//! Owns the numbers; refuses to own how a host gets them (/proc, KVM's statistics) and what an unchanged
//! count means. Made by targets, judged by the hang detector.

use std::time::Duration;

/// CPU time of a vCPU's host thread, from the thread's start until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostTimes {
    /// Time for which the thread has run.
    pub run: Duration,
    /// Time for which the runnable thread has waited for a CPU; `None` where the host does not count it.
    pub delay: Option<Duration>,
    /// True when the thread sleeps: the vCPU is halted and no interrupt is there to wake it.
    pub asleep: bool,
}

/// Counts of a vCPU's events, from its start until now; `None` where the host does not count them. An
/// unchanged count proves nothing: some hosts deliver interrupts without counting them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// Interrupts delivered to the vCPU.
    pub interrupts: Option<u64>,
    /// HLT instructions executed by the vCPU.
    pub halts: Option<u64>,
}
