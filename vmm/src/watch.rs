//! Observation of a running guest without stopping it: no kick, no exit, no lock of the guest.
//!
//! Owns these reads; refuses to own the formats of what they return (`vcpu`, `devices`) and every
//! operation that a vCPU takes part in (`world`). Called by the controlling thread, through [`Vm`].

use std::time::Duration;

use crate::vcpu::{StatisticsLayout, ThreadTimes, VcpuError, VcpuHandle, VcpuStatistics};
use crate::vm::Vm;

impl Vm {
    /// Returns the CPU time that a vCPU's thread has used so far, in the guest and for it; zero for a vCPU
    /// that does not exist. A vCPU whose time does not grow is not running. See [`Vm::host_times`].
    pub fn run_time(&self, cpu: u32) -> Duration {
        self.vcpus.get(cpu as usize).map_or(Duration::ZERO, VcpuHandle::run_time)
    }

    /// Returns the times and the state of a vCPU's thread in the host's scheduler: its [`Vm::run_time`],
    /// its wait for a CPU, and whether it runs or sleeps.
    ///
    /// # Errors
    ///
    /// [`VcpuError::NoThreadYet`] for a moment after [`Vm::new`], [`VcpuError::Thread`] where /proc cannot
    /// be read, [`VcpuError::NoSuchVcpu`].
    pub fn host_times(&self, cpu: u32) -> Result<ThreadTimes, VcpuError> {
        let vcpu = self.vcpus.get(cpu as usize).ok_or(VcpuError::NoSuchVcpu(cpu))?;
        vcpu.host_times(cpu)
    }

    /// Returns KVM's counters of a vCPU; `None` if KVM keeps no statistics (before Linux 5.14), if this
    /// process's limit on open files is too low for them, or if the vCPU does not exist.
    pub fn statistics(&self, cpu: u32) -> Option<VcpuStatistics> {
        let file = self.vcpus.get(cpu as usize)?.statistics()?;
        let layout = self.statistics.get_or_init(|| StatisticsLayout::read(file).ok()).as_ref()?;
        layout.counters(file).ok()
    }

    /// Returns the number of bytes that the guest has written to its serial port so far, including those
    /// that the writer refused. Does not wait for a writer that blocks.
    pub fn console_bytes(&self) -> u64 {
        self.shared.devices.serial_bytes()
    }
}
