//! What is seen of a guest at one moment, as plain numbers. Addresses are guest-virtual and mean
//! nothing here but that equal ones are the same thing.

use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes};
use serde::{Deserialize, Serialize};

use crate::kernel::Reading;

/// What is seen at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// When, since any fixed moment.
    pub at: Duration,
    /// By vCPU number.
    pub vcpus: Vec<ObservedVcpu>,
    /// How many bytes the guest has printed so far.
    pub console_bytes: u64,
    /// What the kernel says of itself.
    pub kernel: Reading,
}

/// A vCPU, from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObservedVcpu {
    /// What its thread has had of the host's CPUs; `None` where that cannot be told.
    pub times: Option<HostTimes>,
    /// Its state; `None` where nobody has asked, since that stops it for a moment.
    pub sample: Option<VcpuSample>,
    /// What the host has counted of it so far.
    pub counts: HostCounts,
}

impl ObservedVcpu {
    /// Its state as far as it follows from an earlier observation and from what the host has counted
    /// since, so that it need not be stopped for it; `None` if it does not.
    pub fn derived_sample(&self, before: &Self) -> Option<VcpuSample> {
        let asleep = self.times?.asleep;
        let same = |before: Option<u64>, now: Option<u64>| Some(before? == now?);
        if same(before.counts.interrupts, self.counts.interrupts) == Some(false) {
            return Some(VcpuSample {
                halted: asleep,
                interrupts_on: true,
                started: true,
                halt_is_derived: false,
            });
        }
        // In the same HLT as then: what ends one is an interrupt, and then it runs, or halts anew.
        // One that had not been started has not been since, for the same reason.
        let slept = before.sample.filter(|sample| asleep && (sample.halted || !sample.started));
        slept.filter(|_| same(before.counts.halts, self.counts.halts) == Some(true))
    }
}

/// A vCPU's state, as far as it matters here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuSample {
    /// In HLT.
    pub halted: bool,
    /// RFLAGS.IF.
    pub interrupts_on: bool,
    /// It runs, or could: it has been started, and not been reset.
    pub started: bool,
    /// The halt is derived from the code before its position, and not recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub halt_is_derived: bool,
}
