//! A core that this program wrote, as a target.
//!
//! Owns the combination of the file's memory with the vCPU states that `capture` has read from the note.
//! Refuses to own the file's format (`elf_core`) and the note (`capture`).

use super::{Dump, StoredMemory};
use crate::elf_core::{Core, Extents};
use crate::targets::States;

impl<'data> Dump<'data> {
    /// Combines a core with the states of its vCPUs, indexed by vCPU number.
    pub fn new(core: Core<'data>, states: States) -> Self {
        let findings = core.findings().iter().map(ToString::to_string).collect();
        Self { memory: Box::new(core), states, findings }
    }
}

impl StoredMemory for Core<'_> {
    fn extents(&self) -> Extents {
        Core::extents(self)
    }
}
