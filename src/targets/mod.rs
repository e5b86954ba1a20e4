//! Where a stopped machine comes from.
//!
//! Owns what every machine can be asked, and which further powers it may have; refuses to own what
//! lies in its memory (`kernel`) and what to do with it (`capture`, `session`). A target has vCPUs and
//! guest-physical memory. Everything else is optional: whoever needs a power asks for it, and gets a
//! [`MissingPower`], which is a sentence for the report, where the target does not have it.
//!
//! | file | target |
//! |---|---|
//! | `own_vm` | a VM of this process, with the feature `kvm` |
//! | `attached` | a VM that somebody else's QEMU runs, while it is visited |
//! | `dump` | a file: a core that this program wrote, or a dump of another one |
//!
//! `read_recorder` is memory of any target that remembers what was read of it; `reasons` are those why a
//! target does not answer.

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

/// The states of several vCPUs, each with the reason where there is none.
pub type States = Vec<Result<VcpuState, NoAnswer>>;

/// A machine with vCPUs and guest-physical memory, live or stored.
pub trait Target: PhysicalMemory {
    /// The number of vCPUs, which are numbered from 0 on.
    fn vcpus(&self) -> u32;

    /// The states of `cpus`, in their order, each had within the deadline. A vCPU of a running
    /// machine stops for as long as it takes.
    fn states(&self, cpus: &[u32], deadline: Duration) -> States;

    /// The guest-physical memory that there is.
    fn extents(&self) -> Extents;

    /// A vCPU's time-stamp counter, in cycles; `None` where it is not known.
    fn tsc(&self, _cpu: u32) -> Option<u64> {
        None
    }

    /// The bytes that the guest has written to its console so far; `None` where nobody counts them.
    fn console_bytes(&self) -> Option<u64> {
        None
    }

    /// The power to stop the machine and let it go on.
    ///
    /// # Errors
    /// The target is one that stands still already, or that only its owner may stop.
    fn pausing(&mut self) -> Result<&mut dyn Pausing, MissingPower> {
        Err(MissingPower::Pausing)
    }

    /// The power to write words that guest and hypervisor share.
    ///
    /// # Errors
    /// The target's memory can only be read.
    fn words(&self) -> Result<&dyn Words, MissingPower> {
        Err(MissingPower::Words)
    }

    /// The power to run NMI handlers.
    ///
    /// # Errors
    /// Nothing runs there, or nobody may send an NMI.
    fn nmis(&mut self) -> Result<&mut dyn Nmis, MissingPower> {
        Err(MissingPower::Nmis)
    }

    /// The power to ask the host about the vCPUs.
    ///
    /// # Errors
    /// There are no threads to look at.
    fn host(&self) -> Result<&dyn Host, MissingPower> {
        Err(MissingPower::Host)
    }
}

/// Stops a machine and lets it go on.
pub trait Pausing {
    /// Stops every vCPU at an instruction boundary and reads its state there. One that has not
    /// stopped within the deadline has a reason instead, and stops later.
    fn pause(&mut self, deadline: Duration) -> States;

    /// Lets every vCPU run that has not ended.
    fn resume(&mut self);
}

/// Writes aligned 32-bit words of guest-physical memory atomically; no other write exists.
pub trait Words {
    /// Stores a word; what was written before is seen by whoever sees it (release).
    ///
    /// # Errors
    /// There is no such word.
    fn store(&self, address: PhysicalAddress, value: u32) -> Result<(), NoSuchWord>;

    /// Replaces `current` by `new`, or returns what is there instead (acquire and release).
    ///
    /// # Errors
    /// Outer: there is no such word.
    fn compare_exchange(
        &self,
        address: PhysicalAddress,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, NoSuchWord>;
}

/// An address at which there is no memory, or none that an atomic access can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no aligned memory at guest-physical {0}")]
pub struct NoSuchWord(PhysicalAddress);

/// Runs NMI handlers on a stopped machine.
pub trait Nmis {
    /// Sends an NMI to each of `cpus` and lets it run its handler and no more, for at most `bound` of
    /// its own time. Answers are in their order, with the reason where a vCPU could not be asked.
    fn run(&mut self, cpus: &[u32], bound: Duration) -> Vec<Result<NmiRun, NoAnswer>>;
}

/// Times and counts that the host has of vCPUs without stopping them.
pub trait Host {
    /// The CPU time that a vCPU's thread has used; zero for one that does not exist.
    fn run_time(&self, cpu: u32) -> Duration;

    /// How the host has treated a vCPU's thread; `None` where it does not tell.
    fn times(&self, cpu: u32) -> Option<HostTimes>;

    /// The events that the host has counted for a vCPU.
    fn counts(&self, cpu: u32) -> HostCounts;
}
