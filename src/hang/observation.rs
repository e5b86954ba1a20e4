//! Observations: the visible state of a guest at one moment, as plain numbers. Addresses are
//! guest-virtual, and are only compared for equality.

use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes};
use serde::{Deserialize, Serialize};

use crate::kernel::Reading;

/// Observation of a guest at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// The time of the observation, since any fixed moment.
    pub at: Duration,
    /// The machine's vCPUs, by number.
    pub vcpus: Vec<ObservedVcpu>,
    /// The number of bytes that the guest has printed so far.
    pub console_bytes: u64,
    /// The kernel's state, as far as it can be read.
    pub kernel: Reading,
}

/// Observation of a vCPU from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObservedVcpu {
    /// The host CPU time of its thread; `None` where it cannot be read.
    pub times: Option<HostTimes>,
    /// The sampled state; `None` if it was not sampled, since that stops the vCPU for a moment.
    pub sample: Option<VcpuSample>,
    /// The host's counts for the vCPU so far.
    pub counts: HostCounts,
}

impl ObservedVcpu {
    /// Returns true if the vCPU has taken an interrupt since its start, or could have a moment ago.
    pub fn has_taken_interrupts(&self) -> bool {
        let has = |count: Option<u64>| count.is_some_and(|count| count > 0);
        let is = |state: fn(VcpuSample) -> bool| {
            self.sample.is_some_and(|sample| sample.started && state(sample))
        };
        // Only an interrupt ends a HLT, apart from an NMI or a reset.
        let was_woken = has(self.counts.halts) && is(|sample| !sample.halted);
        has(self.counts.interrupts) || was_woken || is(|sample| sample.interrupts_on)
    }

    /// Returns the state as far as it follows from an earlier observation and the host's counts since,
    /// without stopping the vCPU; `None` if it must be sampled.
    pub fn derived_sample(&self, before: &Self) -> Option<VcpuSample> {
        let asleep = self.times?.asleep;
        let same = |before: Option<u64>, now: Option<u64>| Some(before? == now?);
        if same(before.counts.interrupts, self.counts.interrupts) == Some(false) {
            return Some(VcpuSample {
                halted: asleep,
                interrupts_on: true,
                started: true,
                ..VcpuSample::default()
            });
        }
        // Still in the same HLT: an interrupt ends it, and then the vCPU runs, or halts anew. A vCPU that
        // had not been started has not been started since, for the same reason.
        let slept = before.sample.filter(|sample| asleep && (sample.halted || !sample.started));
        slept.filter(|_| same(before.counts.halts, self.counts.halts) == Some(true))
    }
}

/// Sample of a vCPU's state, as far as detection needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuSample {
    /// True while the vCPU is in HLT.
    pub halted: bool,
    /// True if interrupts are enabled (RFLAGS.IF).
    pub interrupts_on: bool,
    /// True if the vCPU has been started and not been reset since.
    pub started: bool,
    /// True if the halt is derived from the code before RIP, and not recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub halt_is_derived: bool,
    /// True if the vCPU's timer is armed and will interrupt it, false if it will not; `None` where that is
    /// not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer_armed: Option<bool>,
}

impl VcpuSample {
    /// Returns true for a vCPU in HLT with interrupts on, whose timer is armed to wake it.
    pub fn awaits_timer(&self) -> bool {
        self.halted && self.interrupts_on && self.timer_armed == Some(true)
    }
}
