//! A stopped machine as plain data.
//!
//! This crate owns what a hypervisor, a core file and an unwinder have to agree on: a vCPU's registers and
//! execution state ([`VcpuState`], [`Execution`]), the result of an NMI ([`NmiRun`]), the address spaces as
//! types ([`PhysicalAddress`], [`VirtualAddress`]), how memory is read ([`PhysicalMemory`],
//! [`VirtualMemory`]) and how page tables translate from one to the other ([`PageTables`],
//! [`GuestVirtual`]).
//!
//! The crate refuses to own where any of that comes from, and what it means: it has no I/O, no KVM, no ELF
//! and no symbols. Types that are stored in cores implement serde's traits.
//!
//! Registers and memory are the guest's, and hostile: no input makes this crate panic, every walk is
//! bounded by the number of levels or by [`MappingLimits`], and a read that fails is an error with the
//! address in it ([`ReadError`], [`WalkError`]).
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `address` | the address spaces as types |
//! | `arch::x86_64::level` | the names of the paging levels |
//! | `fault`, `memory` | how a read can fail; the two memory traits |
//! | `arch::x86_64` | registers, execution states, page tables |
//! | `guest_virtual` | guest-virtual memory through page tables |
//! | `host` | CPU times and event counts of a vCPU, as its host keeps them |
//! | `outcome`, `nmi` | the reason for which a VM ended; the state and result of NMIs |
//! | `vcpu` | a single vCPU |

#![forbid(unsafe_code)]

mod address;
mod arch;
mod fault;
mod guest_virtual;
mod host;
mod memory;
mod nmi;
mod outcome;
mod vcpu;

pub use address::{PhysicalAddress, VirtualAddress};
pub use arch::x86_64::{
    Execution, Level, Mapping, MappingLimits, Mappings, MpState, Overrun, PageSize, PageTables,
    PagingError, Register, Registers, Segment, TaskRegisters, Translation, UnwindRegisters,
    UserRegisters,
};
pub use fault::{ReadError, WalkError};
pub use guest_virtual::GuestVirtual;
pub use host::{HostCounts, HostTimes};
pub use memory::{PhysicalMemory, VirtualMemory};
pub use nmi::{NmiResult, NmiRun, NmiState};
pub use outcome::Outcome;
pub use vcpu::VcpuState;
