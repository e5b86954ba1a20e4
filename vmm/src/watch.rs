//! What can be known of a running guest without stopping it: no kick, no exit, no lock of the
//! guest's.
//!
//! Owns the questions; refuses to own the answers' formats (`vcpu`, `devices`) and all that needs a
//! vCPU to take notice (`world`). Called by the controlling thread, through [`Vm`].

use std::time::Duration;

use crate::vcpu::{StatisticsLayout, ThreadTimes, VcpuError, VcpuHandle, VcpuStatistics};
use crate::vm::Vm;

impl Vm {
    /// CPU time that a vCPU's thread has used so far, in the guest and for it; zero for a vCPU that
    /// does not exist. A vCPU whose time stands still does not run. See [`Vm::host_times`].
    pub fn run_time(&self, cpu: u32) -> Duration {
        self.vcpus.get(cpu as usize).map_or(Duration::ZERO, VcpuHandle::run_time)
    }

    /// How the host treats a vCPU's thread: its [`Vm::run_time`], how long it has waited for a CPU,
    /// and what it is doing.
    ///
    /// # Errors
    ///
    /// [`VcpuError::NoThreadYet`] for a moment after [`Vm::new`], [`VcpuError::Thread`] where there
    /// is no /proc.
    pub fn host_times(&self, cpu: u32) -> Result<ThreadTimes, VcpuError> {
        let vcpu = self.vcpus.get(cpu as usize).ok_or(VcpuError::NoSuchVcpu(cpu))?;
        vcpu.host_times(cpu)
    }

    /// What KVM has counted of a vCPU; `None` if KVM keeps no statistics (before Linux 5.14), if this
    /// process may not have enough files open for them, or if there is no such vCPU.
    pub fn statistics(&self, cpu: u32) -> Option<VcpuStatistics> {
        let file = self.vcpus.get(cpu as usize)?.statistics()?;
        let layout = self.statistics.get_or_init(|| StatisticsLayout::read(file).ok()).as_ref()?;
        layout.counters(file).ok()
    }

    /// How many bytes the guest has written to its serial port so far, those included that the
    /// writer refused. Does not wait for a writer that blocks.
    pub fn console_bytes(&self) -> u64 {
        self.shared.devices.serial_bytes()
    }
}
