//! Observations for the hang detector: the state of any target at one moment, as plain numbers.
//!
//! Owns the conversion of a target's answers into the input of `hang`. Called by `watch`, which observes
//! a guest repeatedly, and by `visit`, which does so once.

use std::time::Duration;

use nmiscope_machine::{Execution, HostCounts, MpState, VcpuState};

use crate::capture::StoppedGuest;
use crate::hang::{self, Bounds, Detection, Observation, ObservedVcpu, VcpuSample};
#[cfg(feature = "kvm")]
use crate::kernel::Reading;
use crate::targets::Target;

/// Finds the hangs of a guest that was not watched, by the times that its kernel recorded.
///
/// The bounds are those of a run, for sleepers too: their wait is as long by the kernel's clock as by the
/// detector's, and one look has no more right to blame a sleeper. A kernel's own patience goes before.
pub fn find_recorded_hangs(target: &dyn Target, stopped: &StoppedGuest, at: Duration) -> Detection {
    hang::judge_snapshot(&observation(target, stopped, at), &Bounds::default())
}

/// Finds the hangs that one moment shows of a guest whose hang detection is disabled: neither the
/// detector's clock nor the guest's own is used.
#[cfg(feature = "kvm")]
pub fn find_hangs_without_clocks(
    target: &dyn Target,
    stopped: &StoppedGuest,
    at: Duration,
) -> Detection {
    let mut now = observation(target, stopped, at);
    if let Reading::Known(kernel) = &mut now.kernel {
        kernel.now_ns = None;
    }
    hang::judge_snapshot(&now, &Bounds::default())
}

/// Returns the observation of a stopped guest.
pub fn observation(target: &dyn Target, stopped: &StoppedGuest, at: Duration) -> Observation {
    let samples: Vec<_> =
        stopped.states.iter().map(|state| state.as_ref().ok().map(sample)).collect();
    Observation {
        at,
        vcpus: vcpus(target, &samples),
        console_bytes: target.console_bytes().unwrap_or_default(),
        kernel: stopped.kernel.clone(),
    }
}

/// Returns the host's view of each vCPU, with its sample if there is one.
pub fn vcpus(target: &dyn Target, samples: &[Option<VcpuSample>]) -> Vec<ObservedVcpu> {
    let host = target.host().ok();
    let vcpu = |cpu: u32| ObservedVcpu {
        times: host.and_then(|host| host.times(cpu)),
        sample: samples.get(cpu as usize).copied().flatten(),
        counts: host.map_or_else(HostCounts::default, |host| host.counts(cpu)),
    };
    (0..target.vcpus()).map(vcpu).collect()
}

/// Returns the part of a vCPU's state that the hang detector uses.
pub fn sample(state: &VcpuState) -> VcpuSample {
    VcpuSample {
        halted: state.execution() == Execution::Halted,
        interrupts_on: state.registers.interrupts_enabled(),
        started: state.execution().has_position(),
        halt_is_derived: state.mp_state == MpState::BehindHlt,
        timer_armed: state.timer_armed,
    }
}
