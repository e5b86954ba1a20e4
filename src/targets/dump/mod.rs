//! A stored machine: vCPUs and memory as they were, and no powers.
//!
//! Owns what all formats have in common, and which reader a file gets; refuses to own how a format lays
//! things out, and what lies in the memory. Called by `session`. A reader of a format is one file here: it
//! makes a [`Dump`] of the file's bytes, with the states of the vCPUs, the memory, and what is damaged.
//!
//! | file | format |
//! |---|---|
//! | `own` | a core that this program wrote |
//! | `qemu_elf` | the ELF core of QEMU's `dump-guest-memory`, `virsh dump --memory-only` and cloud-hypervisor; and those that have NT_PRSTATUS alone |

mod own;
mod qemu_elf;

use std::fmt;
use std::time::Duration;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

use super::{NoAnswer, States, Target};
use crate::elf_core::{CoreError, ElfCore, Extents, FileKind};

/// Guest-physical memory in a file.
trait StoredMemory: PhysicalMemory + fmt::Debug {
    /// The guest-physical memory that there is.
    fn extents(&self) -> Extents;
}

/// A stored machine as a target.
#[derive(Debug)]
pub struct Dump<'data> {
    memory: Box<dyn StoredMemory + 'data>,
    states: States,
    findings: Vec<String>,
}

/// The reason why a file is no dump that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// The file cannot be read as a core.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The file is the core of a process, not of a machine.
    #[error("no dump of a guest: {0}; dump the guest, not the process that runs it")]
    Process(FileKind),
    /// The file has no registers, and no memory either.
    #[error("no dump of a guest: it has neither registers nor memory")]
    Empty,
}

impl<'data> Dump<'data> {
    /// Reads a dump that another program wrote.
    ///
    /// # Errors
    /// [`DumpError`] when the file is none, or too little of it is left.
    pub fn from_elf(core: ElfCore<'data>) -> Result<Self, DumpError> {
        qemu_elf::read(core)
    }

    /// The damage to the file, each kind once, as sentences for the report.
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
