//! Traits of an adapter for a guest kernel.
//!
//! Owns the traits alone. [`KernelAdapter`] is what is known before a guest is read, [`Located`] what is
//! known of one guest. Both work on physical memory and registers, so that an adapter reads a core
//! exactly as a VM. Implemented by a folder or file for each kernel; called by `capture` and `session`.

use std::fmt::Debug;

use nmiscope_machine::{
    PageTables, PagingError, PhysicalMemory, ReadError, Registers, VirtualAddress,
};
use nmiscope_symbolizer::TypeError;

use super::log::{Log, LogError};
use super::nmi_buffers::NmiBuffers;
use super::parts::KernelParts;
use super::state::KernelState;
use super::symbols::KernelSymbols;
use super::vocabulary::Vocabulary;
use crate::targets::NoAnswer;

/// Reason why a kernel's structures were not found in a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The kernel is unknown: there is nothing to locate.
    #[error("{0}")]
    UnknownKernel(String),
    /// The guest has no vCPU with registers.
    #[error("no vCPU has registers")]
    NoRegisters,
    /// The vCPU did not give its registers.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The registers select no page tables.
    #[error(transparent)]
    Paging(#[from] PagingError),
    /// The structures are not in the image, or not in memory.
    #[error(transparent)]
    Structures(#[from] TypeError),
    /// The guest's memory could not be read.
    #[error(transparent)]
    Memory(#[from] ReadError),
}

/// Adapter for a guest kernel.
pub trait KernelAdapter: Debug {
    /// Returns the reason why the kernel's structures are unknown; `None` for a known kernel.
    fn unknown_because(&self) -> Option<&str>;

    /// Returns the kernel's name and version for display; `None` for the bundled guest.
    fn name(&self) -> Option<String> {
        None
    }

    /// Returns sentences on doubts about the kernel that was recognised, for the report; empty if there are none.
    fn findings(&self) -> &[String] {
        &[]
    }

    /// Finds the structures in a guest's memory, in the address space of the first vCPU in which they are
    /// mapped. `registers` are those of the vCPUs in their order, or the reasons why there are none.
    ///
    /// # Errors
    /// They cannot be found through any vCPU. The error is that of the last.
    fn locate(
        &self,
        memory: &dyn PhysicalMemory,
        registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError>;

    /// Returns the vocabulary of the kernel.
    fn vocabulary(&self) -> &dyn Vocabulary;

    /// Returns the parts of the kernel that have files of their own, as they lie in a guest's memory; `None` for a
    /// kernel that does not move from its image's addresses.
    fn parts(&self, _memory: &dyn PhysicalMemory) -> Option<KernelParts> {
        None
    }

    /// Returns sentences on what is not known of the kernel and why, for the report's warnings.
    fn missing_parts(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the symbols to look up addresses in: those of the kernel's image, if there is one, unless
    /// the kernel has its own.
    fn symbols<'a>(
        &'a self,
        image: Option<&'a dyn KernelSymbols>,
    ) -> Option<&'a dyn KernelSymbols> {
        image
    }
}

/// Depth to which a kernel's state is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Numbers alone, from a guest that may be running.
    Counters,
    /// Names, source lines and waits too, and registers of all tasks that may hang, from a stopped guest.
    Stuck,
    /// Registers of tasks that wait for work too.
    All,
}

/// Kernel whose structures have been found in one guest. Valid as long as the guest leaves its page
/// tables alone; one that changes them causes wrong numbers in its own report only.
pub trait Located: Debug {
    /// Reads the kernel's current state. `vcpus` are the registers of the machine's vCPUs by number, `None` for one that
    /// has none or runs on.
    ///
    /// # Errors
    /// Memory that the structures were in cannot be read.
    fn state(
        &self,
        memory: &dyn PhysicalMemory,
        vcpus: &[Option<Registers>],
        depth: Depth,
    ) -> Result<KernelState, ReadError>;

    /// Returns the page tables by which the kernel's memory is read.
    fn address_space(&self) -> PageTables;

    /// Returns the memory that a minimal core needs besides stacks and page tables: the guest-virtual
    /// start of each range, and its length in bytes.
    fn own_memory(&self) -> Vec<(VirtualAddress, u64)>;

    /// Returns the size in bytes of the aligned blocks that stacks lie in; `None` for a kernel whose stacks
    /// end at pages that are not mapped.
    fn stack_block(&self) -> Option<u64> {
        None
    }

    /// Reads the kernel's log; `None` for a kernel that keeps none in memory.
    fn log(&self, _memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        None
    }

    /// Returns the buffers that NMI handlers answer into; `None` for a kernel without any, which is then
    /// sent no NMIs.
    fn nmi_buffers(&self) -> Option<&dyn NmiBuffers> {
        None
    }
}
