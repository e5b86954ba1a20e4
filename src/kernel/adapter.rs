//! The traits of an adapter for a guest kernel.
//!
//! Owns the traits alone. [`KernelAdapter`] is what is known before a guest is looked at, [`Located`] what is
//! known of one guest: both by physical memory and registers, so that an adapter works on a core
//! exactly as on a VM. Implemented by a folder or file a kernel; called by `capture` and `session`.

use std::fmt::Debug;

use nmiscope_machine::{PagingError, PhysicalMemory, ReadError, Registers, VirtualAddress};
use nmiscope_symbolizer::TypeError;

use super::log::{Log, LogError};
use super::nmi_buffers::NmiBuffers;
use super::state::KernelState;
use super::symbols::KernelSymbols;
use super::vocabulary::Vocabulary;
use crate::targets::NoAnswer;

/// The reason why a kernel's structures were not found in a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The kernel is unknown, for this reason: there is nothing to look for.
    #[error("{0}")]
    UnknownKernel(String),
    /// The guest has no vCPU that could be asked for its registers.
    #[error("no vCPU has registers")]
    NoRegisters,
    /// The vCPU has no registers.
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

/// A guest kernel, as far as it is understood.
pub trait KernelAdapter: Debug {
    /// Why the kernel's structures are not known; `None` where they are.
    fn unknown_because(&self) -> Option<&str>;

    /// The kernel's name and version, for people; `None` for the bundled guest.
    fn name(&self) -> Option<String> {
        None
    }

    /// Finds the structures in a guest's memory, in the address space of the first vCPU in which they
    /// are mapped. `registers` are those of its vCPUs in their order, or why there are none.
    ///
    /// # Errors
    /// Why they cannot be found in any of them: what is wrong in the last.
    fn locate(
        &self,
        memory: &dyn PhysicalMemory,
        registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError>;

    /// The meaning of the kernel's own words.
    fn vocabulary(&self) -> &dyn Vocabulary;

    /// The symbols to look addresses up in: those of the kernel's image, where there is one, unless
    /// the kernel brings its own.
    fn symbols<'a>(
        &'a self,
        image: Option<&'a dyn KernelSymbols>,
    ) -> Option<&'a dyn KernelSymbols> {
        image
    }
}

/// How much is read of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Numbers alone, of a guest that may run.
    Counters,
    /// Names, source lines and registers of sleeping tasks too, of a guest that stands still.
    All,
}

/// A kernel whose structures have been found in one guest. Good for as long as the guest leaves its
/// page tables alone; one that does not gets wrong numbers, of itself only.
pub trait Located: Debug {
    /// The state of the kernel at this moment.
    ///
    /// # Errors
    /// There is no memory where its structures were.
    fn state(&self, memory: &dyn PhysicalMemory, depth: Depth) -> Result<KernelState, ReadError>;

    /// The memory that a small core needs besides stacks and page tables: where each range begins,
    /// guest-virtual, and its length in bytes.
    fn own_memory(&self) -> Vec<(VirtualAddress, u64)>;

    /// The kernel's log at this moment; `None` for a kernel that keeps none in memory.
    fn log(&self, _memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        None
    }

    /// The buffers that NMI handlers answer into; `None` for a kernel that has none, which is then
    /// sent no NMIs.
    fn nmi_buffers(&self) -> Option<&dyn NmiBuffers> {
        None
    }
}
