//! A stored machine as a target: the vCPUs and memory in a file, without powers.
//!
//! Owns the common part of all formats. Refuses to own the layout of a format and the content of memory.
//! Called by `session`. Each format has a reader in one file here, which turns the file's bytes into a
//! [`Dump`]: the states of the vCPUs, the memory, and the damage that was found.
//!
//! | file | format |
//! |---|---|
//! | `own` | a core that this program wrote |
//! | `qemu_elf` | an ELF core of QEMU's `dump-guest-memory`, `virsh dump --memory-only` or cloud-hypervisor, or one with only NT_PRSTATUS notes |

mod own;
mod qemu_elf;

use std::fmt;
use std::time::Duration;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

use super::{NoAnswer, States, Target};
use crate::elf_core::{CoreError, ElfCore, Extents, FileKind};

/// Guest-physical memory stored in a file.
trait StoredMemory: PhysicalMemory + fmt::Debug {
    /// Ranges of guest-physical memory that the file contains.
    fn extents(&self) -> Extents;
}

/// A stored machine as a target.
#[derive(Debug)]
pub struct Dump<'data> {
    memory: Box<dyn StoredMemory + 'data>,
    states: States,
    findings: Vec<String>,
}

/// Error of a file that cannot be used as a dump of a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// The file cannot be read as a core.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The file is the core of a process instead of a machine.
    #[error("not a dump of a guest: {0}; dump the guest, not the process that runs it")]
    Process(FileKind),
    /// The file contains neither registers nor memory.
    #[error("not a dump of a guest: it has neither registers nor memory")]
    Empty,
}

impl<'data> Dump<'data> {
    /// Reads a dump that another program wrote.
    ///
    /// # Errors
    /// [`DumpError`] if the file is not a dump of a guest, or too much of it is missing.
    pub fn from_elf(core: ElfCore<'data>) -> Result<Self, DumpError> {
        qemu_elf::read(core)
    }

    /// Damage found in the file, each kind once, as sentences for the report.
    pub fn findings(&self) -> &[String] {
        &self.findings
    }
}

impl PhysicalMemory for Dump<'_> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(address, buffer)
    }
}

impl Target for Dump<'_> {
    fn vcpus(&self) -> u32 {
        self.states.len() as u32
    }

    fn states(&self, cpus: &[u32], _deadline: Duration) -> States {
        let state = |&cpu: &u32| match self.states.get(cpu as usize) {
            Some(state) => state.clone(),
            None => Err(NoAnswer::NoSuchVcpu(cpu)),
        };
        cpus.iter().map(state).collect()
    }

    fn extents(&self) -> Extents {
        self.memory.extents()
    }
}
