//! A core that this program wrote: vCPUs and memory as they were, and no powers.
//!
//! Owns the two together; refuses to own the file (`elf_core`) and the note in it (`capture`).

use std::time::Duration;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

use super::{NoAnswer, States, Target};
use crate::elf_core::{Core, Extents};

/// A core as a target.
#[derive(Debug, Clone)]
pub struct Dump<'data> {
    core: Core<'data>,
    states: States,
}

impl<'data> Dump<'data> {
    /// A core with the states of its vCPUs, by number.
    pub fn new(core: Core<'data>, states: States) -> Self {
        Self { core, states }
    }
}

impl PhysicalMemory for Dump<'_> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.core.read(address, buffer)
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
        self.core.extents()
    }
}
