//! Targets: the machines, live or stored, that this program can inspect.
//!
//! Owns the queries that every target answers, and the optional powers that a target may have. Refuses to
//! own the content of its memory (`kernel`) and the use of a target (`capture`, `session`, the callers).
//! Every target has vCPUs and guest-physical memory; all else is a power that the caller requests. A target
//! without the power returns a [`MissingPower`], which is a sentence for the report.
//!
//! | file | target |
//! |---|---|
//! | `own_vm` | a VM of this process, with the feature `kvm` |
//! | `attached` | a VM in another program's QEMU, during a visit |
//! | `dump` | a file: a core that this program wrote, or another program's dump |
//!
//! `read_recorder` wraps the memory of any target and records which pages are read; `reasons` has the
//! reasons why a target does not answer.

mod attached;
mod dump;
#[cfg(feature = "kvm")]
mod own_vm;
mod read_recorder;
mod reasons;

use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes, NmiRun, PhysicalAddress, PhysicalMemory, VcpuState};

use crate::elf_core::Extents;

pub use attached::{Attached, FinishedVisit, extents};
pub use dump::{Dump, DumpError};
pub use read_recorder::{PageSet, ReadRecorder};
pub use reasons::{MissingPower, NoAnswer};

/// States of several vCPUs, each replaced by a reason if the vCPU did not answer.
pub type States = Vec<Result<VcpuState, NoAnswer>>;

/// A machine with vCPUs and guest-physical memory, live or stored.
pub trait Target: PhysicalMemory {
    /// Number of vCPUs, which are numbered from 0.
    fn vcpus(&self) -> u32;

    /// Reads the states of `cpus`, in their order, each within the deadline. In a running machine, each
    /// vCPU stops while its state is read.
    fn states(&self, cpus: &[u32], deadline: Duration) -> States;

    /// Ranges of guest-physical memory that exist in the target.
    fn extents(&self) -> Extents;

    /// Time-stamp counter of a vCPU, in cycles; `None` if it is unknown.
    fn tsc(&self, _cpu: u32) -> Option<u64> {
        None
    }

    /// Number of bytes that the guest has written to its console; `None` if they are not counted.
    fn console_bytes(&self) -> Option<u64> {
        None
    }

    /// The power to stop and resume the machine.
    ///
    /// # Errors
    /// The target is already stopped, or only its owner may stop it.
    fn pausing(&mut self) -> Result<&mut dyn Pausing, MissingPower> {
        Err(MissingPower::Pausing)
    }

    /// The power to write memory words that guest and hypervisor share.
    ///
    /// # Errors
    /// The target's memory can only be read.
    fn words(&self) -> Result<&dyn Words, MissingPower> {
        Err(MissingPower::Words)
    }

    /// The power to run NMI handlers.
    ///
    /// # Errors
    /// The target does not run, or NMIs may not be sent to it.
    fn nmis(&mut self) -> Result<&mut dyn Nmis, MissingPower> {
        Err(MissingPower::Nmis)
    }

    /// The power to query the host's counters of the vCPU threads.
    ///
    /// # Errors
    /// The target has no vCPU threads on this host that can be inspected.
    fn host(&self) -> Result<&dyn Host, MissingPower> {
        Err(MissingPower::Host)
    }
}

/// The power to stop and resume a machine.
pub trait Pausing {
    /// Stops every vCPU at an instruction boundary and reads its state there. A vCPU that has not stopped
    /// within the deadline has a reason instead of a state, and still stops later.
    fn pause(&mut self, deadline: Duration) -> States;

    /// Resumes every vCPU whose thread has not ended.
    fn resume(&mut self);
}

/// The power to write aligned 32-bit words of guest-physical memory atomically; no other write exists.
pub trait Words {
    /// Stores a word with release ordering.
    ///
    /// # Errors
    /// [`NoSuchWord`] if the address is unaligned or has no memory.
    fn store(&self, address: PhysicalAddress, value: u32) -> Result<(), NoSuchWord>;

    /// Replaces `current` by `new`, with acquire and release ordering. The inner error is the word's actual
    /// value, which was left unchanged.
    ///
    /// # Errors
    /// [`NoSuchWord`] if the address is unaligned or has no memory.
    fn compare_exchange(
        &self,
        address: PhysicalAddress,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, NoSuchWord>;
}

/// Error of an address without memory that an aligned atomic access can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no aligned memory at guest-physical {0}")]
pub struct NoSuchWord(PhysicalAddress);

/// The power to run NMI handlers on a stopped machine.
pub trait Nmis {
    /// Sends an NMI to each of `cpus` and runs only its handler, for at most `bound` of the vCPU's own run
    /// time. Results are in the order of `cpus`; a vCPU that could not take the NMI has a reason instead.
    fn run(&mut self, cpus: &[u32], bound: Duration) -> Vec<Result<NmiRun, NoAnswer>>;
}

/// The power to read the host's times and counters of vCPUs without stopping them.
pub trait Host {
    /// CPU time that a vCPU's thread has used; zero if the vCPU does not exist.
    fn run_time(&self, cpu: u32) -> Duration;

    /// Scheduling times of a vCPU's thread; `None` if the host does not report them.
    fn times(&self, cpu: u32) -> Option<HostTimes>;

    /// Event counts that the host keeps for a vCPU.
    fn counts(&self, cpu: u32) -> HostCounts;
}
