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
//!
//! Any source of bytes becomes guest memory by [`PhysicalMemory::read`]. A read through the page tables
//! that a vCPU's registers select:
//!
//! ```
//! use nmiscope_machine::{
//!     GuestVirtual, PhysicalAddress, PhysicalMemory, ReadError, Registers, VirtualAddress, VirtualMemory,
//! };
//!
//! /// Guest-physical memory from address 0 on.
//! struct Slice<'a>(&'a [u8]);
//!
//! impl PhysicalMemory for Slice<'_> {
//!     fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
//!         let length = buffer.len();
//!         let start = usize::try_from(address.0).ok();
//!         let bytes = start.and_then(|start| self.0.get(start..)?.get(..length));
//!         buffer.copy_from_slice(bytes.ok_or(ReadError::Unbacked { address, length })?);
//!         Ok(())
//!     }
//! }
//!
//! // A PML4, PDPT, PD and PT whose first entries map guest-virtual page 0 to the page at 0x4000.
//! let mut memory = vec![0; 0x5000];
//! for (table, next) in [(0, 0x1000_u64), (0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000)] {
//!     memory[table..table + 8].copy_from_slice(&(next | 1).to_le_bytes());
//! }
//! memory[0x4010..0x4015].copy_from_slice(b"hello");
//! let memory = Slice(&memory);
//!
//! // Long mode with paging: CR0.PG and PE, CR4.PAE, EFER.LMA, and CR3 at the PML4.
//! let registers =
//!     Registers { cr0: 0x8000_0001, cr3: 0, cr4: 0x20, efer: 0x400, ..Registers::default() };
//! let guest = GuestVirtual::new(&memory, registers.page_tables()?);
//! let mut text = [0; 5];
//! guest.read(VirtualAddress(0x10), &mut text)?;
//! assert_eq!(&text, b"hello");
//! assert_eq!(guest.physical(VirtualAddress(0x10))?, PhysicalAddress(0x4010));
//!
//! // An address without a translation is an error that names the level.
//! let error = guest.physical(VirtualAddress(0x1000)).unwrap_err();
//! assert_eq!(error.to_string(), "translate 0000000000001000: PT entry 0x0 is not present");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
