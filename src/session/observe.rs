//! A guest at one moment, as the hang detector sees it: plain numbers of any target.
//!
//! Owns what a target's answers mean to `hang`. Called by `watch`, which looks again and again, and by
//! `visit`, which looks once.

use std::time::Duration;

use nmiscope_machine::{Execution, HostCounts, MpState, VcpuState};

use crate::capture::Stopped;
use crate::hang::{self, Bounds, Found, Observation, Vcpu, VcpuSample};
#[cfg(feature = "kvm")]
use crate::kernel::Reading;
use crate::targets::Target;

/// The hangs of a guest that nobody has watched, by what its kernel has recorded.
pub fn find_recorded_hangs(target: &dyn Target, stopped: &Stopped, at: Duration) -> Found {
    hang::of_dump(&observation(target, stopped, at), &Bounds::default())
}

/// The hangs that one moment shows of a guest for which nobody wanted to watch the time: neither the
/// detector's nor the guest's own clock is asked.
#[cfg(feature = "kvm")]
pub fn find_hangs_without_clocks(target: &dyn Target, stopped: &Stopped, at: Duration) -> Found {
    let mut now = observation(target, stopped, at);
    if let Reading::Known(kernel) = &mut now.kernel {
        kernel.now_ns = None;
    }
    hang::of_dump(&now, &Bounds::default())
}

/// An observation of a guest that stands still.
pub fn observation(target: &dyn Target, stopped: &Stopped, at: Duration) -> Observation {
    let samples: Vec<_> =
        stopped.states.iter().map(|state| state.as_ref().ok().map(sample)).collect();
    Observation {
        at,
        vcpus: vcpus(target, &samples),
        console_bytes: target.console_bytes().unwrap_or_default(),
        kernel: stopped.kernel.clone(),
    }
}

/// The vCPUs from outside, with the samples that there are of them.
pub fn vcpus(target: &dyn Target, samples: &[Option<VcpuSample>]) -> Vec<Vcpu> {
    let host = target.host().ok();
    let vcpu = |cpu: u32| Vcpu {
        times: host.and_then(|host| host.times(cpu)),
        sample: samples.get(cpu as usize).copied().flatten(),
        counts: host.map_or_else(HostCounts::default, |host| host.counts(cpu)),
    };
    (0..target.vcpus()).map(vcpu).collect()
}

/// A vCPU's state, as far as it matters to a hang.
pub fn sample(state: &VcpuState) -> VcpuSample {
    VcpuSample {
        halted: state.execution() == Execution::Halted,
        interrupts_on: state.registers.interrupts_enabled(),
        started: state.execution().has_position(),
        halt_is_derived: state.mp_state == MpState::BehindHlt,
    }
}
